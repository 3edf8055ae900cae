/* checkpoint.c: see checkpoint.h. Everything in the file is checked before the first value is taken. */
#include "train/checkpoint.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char metadata_key[] = "vmoer.checkpoint";

/* What is stored of a parameter. */
enum { VALUE, FIRST_MOMENT, SECOND_MOMENT, N_PARTS };
static const char *const part_names[N_PARTS] = {"value", "m", "v"};

static float *part_data(const vm_optimizer *o, size_t i, int part) {
    return part == VALUE ? o->params.items[i]->value : part == FIRST_MOMENT ? o->m[i] : o->v[i];
}

/* Parts of parameter i: without a gradient it has no moments. */
static int part_count(const vm_optimizer *o, size_t i) { return o->params.items[i]->grad ? N_PARTS : VALUE + 1; }

static void tensor_name(char out[160], const vm_param *p, int part) {
    snprintf(out, 160, "%s/%s", part_names[part], p->name);
}

/* ---- saving ---- */

static vmoer_status put_state(vm_st_writer *w, const vm_optimizer *o) {
    for (size_t i = 0; i < o->params.count; i++) {
        const vm_param *p = o->params.items[i];
        for (int part = 0; part < part_count(o, i); part++) {
            char name[160];
            tensor_name(name, p, part);
            VM_TRY(vm_st_writer_f32(w, name, "F32", 2, (const int64_t[]){p->rows, p->cols}, part_data(o, i, part)));
        }
    }
    return VMOER_OK;
}

static vmoer_status put_metadata(vm_st_writer *w, const vm_optimizer *o, const json_t *meta) {
    json_t *record = json_pack("{s:I, s:O}", "optimizer_step", (json_int_t)o->step, "meta", (json_t *)(uintptr_t)meta);
    char *line = record ? vm_json_line(record) : NULL;
    vmoer_status status = line ? vm_st_writer_metadata(w, metadata_key, line)
                               : vm_error(VMOER_ERROR_MEMORY, "no memory for a checkpoint");
    free(line);
    json_decref(record);
    return status;
}

vmoer_status vm_checkpoint_save(const char *path, const vm_optimizer *o, const json_t *meta) {
    vm_st_writer *w = vm_st_writer_create();
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status;
    VM_GOTO(put_metadata(w, o, meta));
    VM_GOTO(put_state(w, o));
    VM_GOTO(vm_st_writer_save(w, path));
done:
    vm_st_writer_free(w);
    return status;
}

/* ---- loading ---- */

static vmoer_status config_differs(const char *key, const json_t *now, const json_t *then) {
    char *a = now ? json_dumps(now, JSON_ENCODE_ANY | JSON_COMPACT) : NULL,
         *b = then ? json_dumps(then, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    vmoer_status status =
        vm_error(VMOER_ERROR_MISMATCH, "resume: --%s differs from the checkpoint's: %.80s now, %.80s then", key,
                 a ? a : "absent", b ? b : "absent");
    free(a);
    free(b);
    return status;
}

/* An error for the first setting that is not the same in both; objects in objects are gone through too. */
static vmoer_status compare_config(json_t *now, json_t *then) {
    json_t *all = json_object(), *other;
    const char *key;
    json_t *value;
    vmoer_status status = VMOER_OK;
    if (!all || json_object_update(all, now) != 0 || json_object_update_missing(all, then) != 0)
        status = vm_error(VMOER_ERROR_MEMORY, "resume: out of memory");
    json_object_foreach(all, key, value) {
        if (status != VMOER_OK) break;
        value = json_object_get(now, key);
        other = json_object_get(then, key);
        if (json_is_object(value) && json_is_object(other))
            status = compare_config(value, other);
        else if (!json_equal(value, other))
            status = config_differs(key, value, other);
    }
    json_decref(all);
    return status;
}

static vmoer_status read_metadata(const vm_safetensors *file, const json_t *config, uint64_t *step, json_t **meta) {
    const char *text = vm_safetensors_metadata(file, metadata_key);
    if (!text) return vm_error(VMOER_ERROR_FORMAT, "no metadata \"%s\": not a checkpoint", metadata_key);
    json_t *record;
    VM_TRY(vm_json_parse(text, strlen(text), metadata_key, &record));
    const json_t *count = json_object_get(record, "optimizer_step");
    json_t *inner = json_object_get(record, "meta"), *then = json_object_get(inner, "config");
    vmoer_status status = VMOER_OK;
    if (!json_is_integer(count) || json_integer_value(count) < 0)
        status = vm_error(VMOER_ERROR_FORMAT, "\"optimizer_step\" is not an integer from 0");
    else if (!json_is_object(then))
        status = vm_error(VMOER_ERROR_FORMAT, "\"meta\" has no object \"config\"");
    else
        status = compare_config((json_t *)(uintptr_t)config, then);
    if (status == VMOER_OK) {
        *step = (uint64_t)json_integer_value(count);
        *meta = json_incref(inner);
    }
    json_decref(record);
    return status;
}

static vmoer_status check_tensor(const vm_safetensors *file, const vm_param *p, int part) {
    char name[160];
    tensor_name(name, p, part);
    const vm_st_tensor *t = vm_safetensors_find(file, name);
    if (!t) return vm_error(VMOER_ERROR_MISMATCH, "resume: tensor \"%s\" is not in the checkpoint", name);
    if (strcmp(t->dtype, "F32") != 0 || t->n_dims != 2 || t->shape[0] != p->rows || t->shape[1] != p->cols)
        return vm_error(VMOER_ERROR_MISMATCH, "resume: tensor \"%s\" is not F32 [%d, %d] in the checkpoint", name,
                        p->rows, p->cols);
    for (size_t i = 0; i < vm_param_size(p); i++) {
        float x;
        memcpy(&x, t->data + i * sizeof x, sizeof x);
        if (!isfinite(x) || (part == SECOND_MOMENT && x < 0))
            return vm_error(VMOER_ERROR_NUMERIC, "resume: tensor \"%s\": element %zu is %g", name, i, (double)x);
    }
    return VMOER_OK;
}

static vmoer_status check_state(const vm_safetensors *file, const vm_optimizer *o) {
    size_t count = 0;
    for (size_t i = 0; i < o->params.count; i++)
        for (int part = 0; part < part_count(o, i); part++, count++)
            VM_TRY(check_tensor(file, o->params.items[i], part));
    if (vm_safetensors_count(file) != count)
        return vm_error(VMOER_ERROR_MISMATCH, "resume: the checkpoint has %zu tensors, this run trains %zu",
                        vm_safetensors_count(file), count);
    return VMOER_OK;
}

static void take_state(const vm_safetensors *file, vm_optimizer *o) {
    for (size_t i = 0; i < o->params.count; i++)
        for (int part = 0; part < part_count(o, i); part++) {
            char name[160];
            tensor_name(name, o->params.items[i], part);
            const vm_st_tensor *t = vm_safetensors_find(file, name);
            memcpy(part_data(o, i, part), t->data, t->size);
        }
}

vmoer_status vm_checkpoint_load(const char *path, vm_optimizer *o, const json_t *config, json_t **meta) {
    vm_safetensors *file;
    uint64_t step;
    *meta = NULL;
    VM_TRY(vm_safetensors_open(path, &file));
    vmoer_status status;
    VM_GOTO(read_metadata(file, config, &step, meta));
    VM_GOTO(check_state(file, o));
    take_state(file, o);
    o->step = step;
done:
    vm_safetensors_free(file);
    if (status == VMOER_OK) return VMOER_OK;
    json_decref(*meta);
    *meta = NULL;
    return vm_error_in(status, "%s", path);
}
