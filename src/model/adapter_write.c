/* adapter_write.c: LoRA adapters written in PEFT's layout, into a folder or among the tensors of another file. */
#include "model/adapter_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/halves.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool holds(const json_t *array, const char *text) {
    size_t i;
    json_t *value;
    json_array_foreach(array, i, value) {
        if (strcmp(json_string_value(value), text) == 0) return true;
    }
    return false;
}

static vmoer_status add_once(json_t *array, const char *text) {
    if (holds(array, text) || json_array_append_new(array, json_string(text)) == 0) return VMOER_OK;
    return vm_error(VMOER_ERROR_MEMORY, "out of memory");
}

static vmoer_status check_values(const char *name, const float *values, size_t n, float largest) {
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(values[i]) <= largest))
            return vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu (%g) cannot be stored", name, i, (double)values[i]);
    return VMOER_OK;
}

/* The tensors of a module. Experts are stacked as adapter_peft.c says; a plain module is a stack of one. */
static vmoer_status put_module(vm_st_writer *w, const char *stem, const char *dtype, const vm_adapter_module *m) {
    size_t n = m->n_experts ? (size_t)m->n_experts : 1, rank = (size_t)m->rank, in = (size_t)m->in,
           rows = (size_t)m->rows;
    float largest = strcmp(dtype, "F16") == 0 ? 65504.0f : 3.4028235e38f;
    char name_a[VM_PEFT_MAX_NAME + 16], name_b[VM_PEFT_MAX_NAME + 16];
    snprintf(name_a, sizeof name_a, "%s%s", stem, vm_peft_suffix_a);
    snprintf(name_b, sizeof name_b, "%s%s", stem, vm_peft_suffix_b);
    float *a = vm_malloc(n * rank * in, sizeof *a), *b = vm_malloc(rows * rank * n, sizeof *b);
    vmoer_status status;
    if (!a || !b) {
        status = vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", name_a);
        goto done;
    }
    for (size_t e = 0; e < n; e++) {
        memcpy(a + e * rank * in, m->a[e], rank * in * sizeof *a);
        for (size_t o = 0; o < rows; o++) {
            const float *row = m->b[e] + vm_to_halves(o, rows, m->heads) * rank;
            for (size_t j = 0; j < rank; j++) b[(o * rank + j) * n + e] = row[j];
        }
    }
    VM_GOTO(check_values(name_a, a, n * rank * in, largest));
    VM_GOTO(check_values(name_b, b, rows * rank * n, largest));
    VM_GOTO(vm_st_writer_f32(w, name_a, dtype, 2, (const int64_t[]){(int64_t)(n * rank), m->in}, a));
    VM_GOTO(vm_st_writer_f32(w, name_b, dtype, 2, (const int64_t[]){m->rows, (int64_t)(rank * n)}, b));
done:
    vm_free(a);
    vm_free(b);
    return status;
}

/* Targets are endings without the layer's number, as people write them. modules: names of modules; parameters: of bare
 * parameters. */
static vmoer_status collect_targets(const vm_adapter_info *info, const vm_adapter_module *modules, int n,
                                    json_t *targets, json_t *parameters, json_t *ranks) {
    for (int i = 0; i < n; i++) {
        vm_peft_name name;
        VM_TRY(vm_peft_name_module(modules[i].module, &name));
        if (modules[i].n_experts > 0 && !name.bare)
            return vm_error(VMOER_ERROR_ARGUMENT, "%s: not known as a stack of experts", modules[i].module);
        VM_TRY(add_once(name.bare ? parameters : targets, name.key + name.layer));
        if (modules[i].rank != info->rank && json_object_set_new(ranks, name.key, json_integer(modules[i].rank)) != 0)
            return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    }
    return VMOER_OK;
}

static vmoer_status put_modules(vm_st_writer *w, const vm_adapter_info *info, const vm_adapter_module *modules, int n,
                                const json_t *parameters) {
    for (int i = 0; i < n; i++) {
        vm_peft_name name;
        VM_TRY(vm_peft_name_module(modules[i].module, &name));
        /* PEFT nests by the targets, which hold for all layers. */
        if (*name.outer && holds(parameters, name.outer + name.layer)) vm_peft_name_nest(&name);
        VM_TRY(put_module(w, name.stem, info->dtype, &modules[i]));
    }
    return VMOER_OK;
}

static vmoer_status save_weights(const char *dir, const vm_adapter_info *info, const vm_adapter_module *modules, int n,
                                 const json_t *parameters) {
    char path[PATH_MAX];
    VM_TRY(vm_path_join(path, sizeof path, dir, vm_peft_weights_file));
    vm_st_writer *w = vm_st_writer_create();
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status;
    VM_GOTO(vm_st_writer_metadata(w, "format", "pt")); /* transformers wants it */
    VM_GOTO(vm_st_writer_metadata(w, vm_peft_base_key, info->base_fingerprint));
    VM_GOTO(put_modules(w, info, modules, n, parameters));
    VM_GOTO(vm_st_writer_save(w, path));
done:
    vm_st_writer_free(w);
    return status;
}

/* Takes no reference to its arguments. */
static vmoer_status make_config(const vm_adapter_info *info, json_t *targets, json_t *parameters, json_t *ranks,
                                json_t **out) {
    /* Integral for readers that take an integer only. */
    json_t *alpha = info->alpha == rint(info->alpha) && fabs(info->alpha) < 1e9 ? json_integer((json_int_t)info->alpha)
                                                                                : json_real(info->alpha);
    *out =
        json_pack("{s:s, s:s, s:s, s:s, s:i, s:o, s:f, s:b, s:b, s:b, s:b, s:b, s:O, s:O, s:O, s:{}, s:n}", "peft_type",
                  "LORA", "task_type", "CAUSAL_LM", "bias", "none", "base_model_name_or_path", info->base_name, "r",
                  info->rank, "lora_alpha", alpha, "lora_dropout", 0.0, "inference_mode", 1, "init_lora_weights", 1,
                  "fan_in_fan_out", 0, "use_rslora", 0, "use_dora", 0, "target_modules", targets, "target_parameters",
                  parameters, "rank_pattern", ranks, "alpha_pattern", "modules_to_save");
    return *out ? VMOER_OK
                : vm_error(VMOER_ERROR_ARGUMENT, "%s: no memory, or the base model's name is not UTF-8",
                           vm_peft_config_file);
}

/* The configuration and, borrowed from it, the list of bare parameters. */
static vmoer_status describe(const vm_adapter_info *info, const vm_adapter_module *modules, int n, json_t **config,
                             const json_t **parameters) {
    json_t *targets = json_array(), *bare_targets = json_array(), *ranks = json_object();
    vmoer_status status = targets && bare_targets && ranks
                              ? collect_targets(info, modules, n, targets, bare_targets, ranks)
                              : vm_error(VMOER_ERROR_MEMORY, "out of memory");
    if (status == VMOER_OK) status = make_config(info, targets, bare_targets, ranks, config);
    json_decref(targets);
    json_decref(bare_targets);
    json_decref(ranks);
    if (status == VMOER_OK) *parameters = json_object_get(*config, "target_parameters");
    return status;
}

vmoer_status vm_adapter_put(vm_st_writer *w, const vm_adapter_info *info, const vm_adapter_module *modules, int n) {
    json_t *config;
    const json_t *parameters;
    VM_TRY(describe(info, modules, n, &config, &parameters));
    char *text = vm_json_line(config);
    vmoer_status status = text ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "out of memory");
    if (status == VMOER_OK) status = vm_st_writer_metadata(w, vm_peft_config_key, text);
    if (status == VMOER_OK) status = put_modules(w, info, modules, n, parameters);
    free(text);
    json_decref(config);
    return status;
}

vmoer_status vm_adapter_save(const char *dir, const vm_adapter_info *info, const vm_adapter_module *modules, int n) {
    char path[PATH_MAX];
    json_t *config;
    const json_t *parameters;
    VM_TRY(vm_path_join(path, sizeof path, dir, vm_peft_config_file));
    VM_TRY_IN(describe(info, modules, n, &config, &parameters), "%s", dir);
    vmoer_status status = vm_make_dirs(dir);
    if (status == VMOER_OK) status = save_weights(dir, info, modules, n, parameters);
    if (status == VMOER_OK) status = vm_json_save(path, config);
    json_decref(config);
    return status;
}
