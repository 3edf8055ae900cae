/* router_file.c: a router on disk (docs/FORMATS.md). A file is untrusted: every key of the metadata is checked against
 * the limits, then the tensors against the metadata, and only then is anything of their size allocated. Errors name the
 * key or the tensor. */
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "io/safetensors.h"
#include "router/router_internal.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const format_name = "vmoer-router", *const format_version = "1";

static bool is_fingerprint(const char *text) { return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64; }

/* ---- writing ---- */

/* JSON's number, by jansson: the same in every locale, and it reads back the same. */
static vmoer_status put_number(vm_st_writer *w, const char *key, double value) {
    json_t *array = json_pack("[f]", value);
    char *line = array ? vm_json_line(array) : NULL;
    json_decref(array);
    if (!line) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", key);
    line[strlen(line) - 1] = '\0';
    vmoer_status status = vm_st_writer_metadata(w, key, line + 1);
    free(line);
    return status;
}

static vmoer_status put_layers(vm_st_writer *w, const vm_router_config *c) {
    char text[8 * VM_ROUTER_MAX_LAYERS + 3];
    size_t used = (size_t)snprintf(text, sizeof text, "[");
    for (int i = 0; i < c->n_layers; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", i ? ", " : "", (int)c->layers[i]);
    snprintf(text + used, sizeof text - used, "]");
    return vm_st_writer_metadata(w, "layers", text);
}

static vmoer_status check_text(const char *key, const char *text, size_t size) {
    return memchr(text, '\0', size) ? VMOER_OK
                                    : vm_error(VMOER_ERROR_ARGUMENT, "%s: longer than %zu bytes", key, size - 1);
}

/* What both sides ask of the fields that are not the router's own. */
static vmoer_status check_info(const vm_router_file *info) {
    VM_TRY(check_text("base", info->base, sizeof info->base));
    VM_TRY(check_text("adapter", info->adapter, sizeof info->adapter));
    VM_TRY(check_text("base_name", info->base_name, sizeof info->base_name));
    VM_TRY(check_text("adapter_name", info->adapter_name, sizeof info->adapter_name));
    VM_TRY(check_text("training", info->training, sizeof info->training));
    if (!is_fingerprint(info->base)) return vm_error(VMOER_ERROR_FORMAT, "base: not a fingerprint (64 hex digits)");
    if (info->adapter[0] && !is_fingerprint(info->adapter))
        return vm_error(VMOER_ERROR_FORMAT, "adapter: not a fingerprint (64 hex digits)");
    if (!info->training[0]) return VMOER_OK;
    json_t *training;
    VM_TRY(vm_json_parse(info->training, strlen(info->training), "training", &training));
    bool object = json_is_object(training);
    json_decref(training);
    return object ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "training: not a JSON object");
}

static vmoer_status put_metadata(vm_st_writer *w, const vm_router_config *c, const vm_router_file *info) {
    VM_TRY(vm_st_writer_metadata(w, "format", format_name));
    VM_TRY(vm_st_writer_metadata(w, "version", format_version));
    VM_TRY(vm_st_writer_metadata(w, "kind", c->kind));
    VM_TRY(put_layers(w, c));
    VM_TRY(vm_st_writer_integer(w, "n_experts", (uint64_t)c->n_experts));
    VM_TRY(vm_st_writer_integer(w, "dim", (uint64_t)c->dim));
    VM_TRY(vm_st_writer_integer(w, "width", (uint64_t)c->width));
    VM_TRY(put_number(w, "prior_scale", c->prior_scale));
    VM_TRY(put_number(w, "initial_scale", c->initial_scale));
    VM_TRY(vm_st_writer_integer(w, "seed", c->seed));
    VM_TRY(put_number(w, "temperature", c->temperature));
    for (int i = 0; i < VM_ROUTER_NUMBERS; i++) {
        const vm_router_number_info *number = &vm_router_number_infos[i];
        double value = vm_router_get_number(c, (vm_router_number)i);
        if (value == 0) continue; /* none of this kind's */
        VM_TRY(number->whole ? vm_st_writer_integer(w, number->key, (uint64_t)value)
                             : put_number(w, number->key, value));
    }
    VM_TRY(vm_st_writer_metadata(w, "base", info->base));
    VM_TRY(vm_st_writer_metadata(w, "adapter", info->adapter));
    VM_TRY(vm_st_writer_metadata(w, "base_name", info->base_name));
    VM_TRY(vm_st_writer_metadata(w, "adapter_name", info->adapter_name));
    return vm_st_writer_metadata(w, "training", info->training);
}

static vmoer_status check_finite(const vm_param *p) {
    for (size_t i = 0; i < vm_param_size(p); i++) {
        if (!isfinite(p->value[i])) return vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu is not finite", p->name, i);
    }
    return VMOER_OK;
}

static vmoer_status put_tensors(vm_st_writer *w, const vm_router *r) {
    for (size_t i = 0; i < r->n_params; i++) {
        const vm_param *p = r->list[i];
        VM_TRY(check_finite(p));
        VM_TRY(vm_st_writer_f32(w, p->name, "F32", 2, (int64_t[2]){p->rows, p->cols}, p->value));
    }
    return VMOER_OK;
}

vmoer_status vm_router_save(const vm_router *r, const vm_router_file *info, const char *path) {
    const vm_router_kind *kind;
    if (!info) return vm_error(VMOER_ERROR_ARGUMENT, "%s: no info: a router file names its base model", path);
    VM_TRY_IN(vm_router_config_check(&r->config, &kind), "%s", path); /* the temperature may have been set since */
    VM_TRY_IN(check_info(info), "%s", path);
    vm_st_writer *w = vm_st_writer_create();
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status;
    VM_GOTO(put_metadata(w, &r->config, info));
    VM_GOTO(put_tensors(w, r));
    VM_GOTO(vm_st_writer_save(w, path));
done:
    vm_st_writer_free(w);
    return status;
}

/* ---- reading ---- */

static vmoer_status get_number(const vm_safetensors *st, const char *key, double *out) {
    char text[64], array[68];
    VM_TRY(vm_safetensors_text(st, key, text, sizeof text));
    int length = snprintf(array, sizeof array, "[%s]", text);
    json_t *json;
    VM_TRY(vm_json_parse(array, (size_t)length, key, &json));
    json_t *number = json_array_get(json, 0);
    bool ok = json_is_array(json) && json_array_size(json) == 1 && json_is_number(number);
    *out = ok ? json_number_value(number) : 0;
    json_decref(json);
    return ok ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "%s: \"%s\" is not a number", key, text);
}

/* A number that has a float's range; what lies outside becomes an infinity, which the limits refuse. */
static vmoer_status get_float(const vm_safetensors *st, const char *key, float *out) {
    double value;
    VM_TRY(get_number(st, key, &value));
    *out = value > 3e38 ? INFINITY : value < -3e38 ? -INFINITY : (float)value;
    return VMOER_OK;
}

static vmoer_status read_layers(const json_t *array, vm_router_config *c) {
    if (!json_is_array(array)) return vm_error(VMOER_ERROR_FORMAT, "layers: not a JSON array");
    size_t count = json_array_size(array);
    if (count > VM_ROUTER_MAX_LAYERS)
        return vm_error(VMOER_ERROR_LIMIT, "layers: %zu, at most %d", count, VM_ROUTER_MAX_LAYERS);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(array, i);
        json_int_t value = json_is_integer(item) ? json_integer_value(item) : -1;
        if (value < 0 || value >= VM_ROUTER_MAX_LAYERS) {
            return vm_error(VMOER_ERROR_FORMAT, "layers: element %zu is not a whole number below %d", i,
                            VM_ROUTER_MAX_LAYERS);
        }
        c->layers[i] = (int32_t)value;
    }
    c->n_layers = (int)count;
    return VMOER_OK;
}

static vmoer_status get_layers(const vm_safetensors *st, vm_router_config *c) {
    const char *text = vm_safetensors_metadata(st, "layers");
    if (!text) return vm_error(VMOER_ERROR_FORMAT, "layers: missing from the metadata");
    json_t *array;
    VM_TRY(vm_json_parse(text, strlen(text), "layers", &array));
    vmoer_status status = read_layers(array, c);
    json_decref(array);
    return status;
}

/* Those that the kind uses; an unknown kind is refused with the config. */
static vmoer_status get_numbers(const vm_safetensors *st, vm_router_config *c) {
    const vm_router_kind *kind = vm_router_kind_find(c->kind);
    for (int i = 0; kind && i < VM_ROUTER_NUMBERS; i++) {
        const vm_router_number_info *number = &vm_router_number_infos[i];
        void *at = (char *)c + number->offset;
        if (kind->numbers[i].high == 0) continue;
        VM_TRY(number->whole ? vm_safetensors_int(st, number->key, INT_MAX, at) : get_float(st, number->key, at));
    }
    return VMOER_OK;
}

static vmoer_status get_metadata(const vm_safetensors *st, vm_router_config *c, vm_router_file *info) {
    char text[32];
    VM_TRY(vm_safetensors_text(st, "format", text, sizeof text));
    if (strcmp(text, format_name) != 0)
        return vm_error(VMOER_ERROR_FORMAT, "format: \"%s\" is not \"%s\"", text, format_name);
    VM_TRY(vm_safetensors_text(st, "version", text, sizeof text));
    if (strcmp(text, format_version) != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "version: \"%s\", this build reads \"%s\"", text, format_version);
    VM_TRY(vm_safetensors_text(st, "kind", c->kind, sizeof c->kind));
    VM_TRY(get_layers(st, c));
    VM_TRY(vm_safetensors_int(st, "n_experts", VM_ROUTER_MAX_EXPERTS, &c->n_experts));
    VM_TRY(vm_safetensors_int(st, "dim", VM_ROUTER_MAX_DIM, &c->dim));
    VM_TRY(vm_safetensors_int(st, "width", VM_ROUTER_MAX_WIDTH, &c->width));
    VM_TRY(get_float(st, "prior_scale", &c->prior_scale));
    VM_TRY(get_float(st, "initial_scale", &c->initial_scale));
    VM_TRY(vm_safetensors_u64(st, "seed", UINT64_MAX, &c->seed));
    VM_TRY(get_number(st, "temperature", &c->temperature));
    VM_TRY(get_numbers(st, c));
    VM_TRY(vm_safetensors_text(st, "base", info->base, sizeof info->base));
    VM_TRY(vm_safetensors_text(st, "adapter", info->adapter, sizeof info->adapter));
    VM_TRY(vm_safetensors_text(st, "base_name", info->base_name, sizeof info->base_name));
    VM_TRY(vm_safetensors_text(st, "adapter_name", info->adapter_name, sizeof info->adapter_name));
    VM_TRY(vm_safetensors_text(st, "training", info->training, sizeof info->training));
    return check_info(info);
}

static vmoer_status check_signs(const vm_st_tensor *t, const char *name) {
    for (size_t i = 0; i < t->size / sizeof(float); i++) {
        float x;
        memcpy(&x, t->data + i * sizeof x, sizeof x);
        if (x < 0) return vm_error(VMOER_ERROR_FORMAT, "%s: element %zu is %g, below 0", name, i, (double)x);
    }
    return VMOER_OK;
}

/* Every tensor the config asks for is there, F32, of its shape; and no other. */
static vmoer_status check_tensors(const vm_safetensors *st, const vm_router_config *c, const vm_router_kind *kind) {
    size_t expected = 0;
    for (int i = 0; i < c->n_layers; i++) {
        for (int slot = 0; slot < kind->network->slots; slot++) {
            char name[128];
            vm_router_tensor want = kind->network->tensor(kind, c, slot);
            if (want.rows == 0) continue;
            expected++;
            vm_router_param_name(c, i, &want, name);
            const vm_st_tensor *t = vm_safetensors_find(st, name);
            if (!t) return vm_error(VMOER_ERROR_FORMAT, "%s: missing", name);
            if (strcmp(t->dtype, "F32") != 0)
                return vm_error(VMOER_ERROR_FORMAT, "%s: type %s, not F32", name, t->dtype);
            if (t->n_dims != 2 || t->shape[0] != want.rows || t->shape[1] != want.cols) {
                return vm_error(VMOER_ERROR_FORMAT, "%s: its shape is not [%d, %d]", name, want.rows, want.cols);
            }
            if (want.positive) VM_TRY(check_signs(t, name));
        }
    }
    if (vm_safetensors_count(st) != expected) {
        return vm_error(VMOER_ERROR_FORMAT, "%zu tensors, a router of this shape has %zu", vm_safetensors_count(st),
                        expected);
    }
    return VMOER_OK;
}

static vmoer_status read_tensors(const vm_safetensors *st, vm_router *r) {
    for (size_t i = 0; i < r->n_params; i++) {
        const vm_param *p = r->list[i];
        VM_TRY(vm_safetensors_read_f32(st, p->name, 2, (int64_t[2]){p->rows, p->cols}, p->value));
        VM_TRY(check_finite(p));
    }
    return VMOER_OK;
}

static vmoer_status load_router(const vm_safetensors *st, vm_router_file *info, vm_router **out) {
    vm_router_config config = {0};
    const vm_router_kind *kind;
    VM_TRY(get_metadata(st, &config, info));
    VM_TRY(vm_router_config_check(&config, &kind));
    VM_TRY(check_tensors(st, &config, kind));
    VM_TRY(vm_router_create(&config, out));
    vmoer_status status = read_tensors(st, *out);
    if (status == VMOER_OK) status = vm_router_pack(*out);
    if (status != VMOER_OK) {
        vm_router_free(*out);
        *out = NULL;
    }
    return status;
}

vmoer_status vm_router_load_memory(const void *data, size_t size, const char *where, vm_router_file *info,
                                   vm_router **out) {
    *out = NULL;
    vm_router_file unused;
    vm_safetensors *st;
    VM_TRY(vm_safetensors_open_memory(data, size, where, &st));
    vmoer_status status = load_router(st, info ? info : &unused, out);
    vm_safetensors_free(st);
    return status == VMOER_OK ? VMOER_OK : vm_error_in(status, "%s", where);
}

vmoer_status vm_router_load(const char *path, vm_router_file *info, vm_router **out) {
    *out = NULL;
    vm_map map;
    VM_TRY(vm_map_open(path, &map));
    vmoer_status status = vm_router_load_memory(map.data, map.size, path, info, out);
    vm_map_close(&map);
    return status;
}
