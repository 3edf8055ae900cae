/* reader.c: types and ranges of values, checked one by one. */
#include "report/reader.h"

#include "base/json.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

vmoer_status vm_reader_memory(const vm_reader *r) { return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", r->file); }

vmoer_status vm_reader_wrong(const vm_reader *r, const char *where, const char *key, const char *expected) {
    return vm_error(VMOER_ERROR_FORMAT, "%s: %.200s%s%s: %s expected", r->file, where, *where ? "." : "", key,
                    expected);
}

void *vm_reader_alloc(const vm_reader *r, size_t count, size_t size) {
    void *p = vm_arena_alloc(r->data->arena, count, size);
    if (p) memset(p, 0, count * size);
    return p;
}

vmoer_status vm_reader_append(const vm_reader *r, void **items, size_t *capacity, size_t *n, const void *item,
                              size_t size) {
    if (!vm_grow(items, capacity, *n + 1, size)) return vm_reader_memory(r);
    memcpy((char *)*items + *n * size, item, size);
    (*n)++;
    return VMOER_OK;
}

vmoer_status vm_reader_open(const vm_reader *r, const char *path, const json_t **root, const char **kept_path,
                            const char **kind) {
    json_t *document;
    VM_TRY(vm_json_load(r->file, &document));
    if (json_array_append_new(r->data->documents, document) != 0) return vm_reader_memory(r);
    *root = document;
    *kept_path = vm_arena_strndup(r->data->arena, path, strlen(path));
    if (!*kept_path) return vm_reader_memory(r);
    if (!json_is_object(document)) return vm_error(VMOER_ERROR_FORMAT, "%s: an object expected", r->file);
    return vm_need_string(r, document, "", "kind", kind);
}

vmoer_status vm_need_number(const vm_reader *r, const json_t *object, const char *where, const char *key, double *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) return vm_reader_wrong(r, where, key, "a number");
    *out = json_number_value(value);
    return VMOER_OK;
}

vmoer_status vm_need_count(const vm_reader *r, const json_t *object, const char *where, const char *key, size_t *out) {
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n > 1000000000) return vm_reader_wrong(r, where, key, "a count");
    *out = (size_t)n;
    return VMOER_OK;
}

vmoer_status vm_need_bool(const vm_reader *r, const json_t *object, const char *where, const char *key, bool *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_boolean(value)) return vm_reader_wrong(r, where, key, "true or false");
    *out = json_is_true(value);
    return VMOER_OK;
}

vmoer_status vm_need_string(const vm_reader *r, const json_t *object, const char *where, const char *key,
                            const char **out) {
    *out = json_string_value(json_object_get(object, key));
    return *out ? VMOER_OK : vm_reader_wrong(r, where, key, "a string");
}

vmoer_status vm_need_object(const vm_reader *r, const json_t *object, const char *where, const char *key,
                            const json_t **out) {
    *out = json_object_get(object, key);
    return json_is_object(*out) ? VMOER_OK : vm_reader_wrong(r, where, key, "an object");
}

vmoer_status vm_need_interval(const vm_reader *r, const json_t *object, const char *where, const char *key,
                              vm_interval *out) {
    const json_t *pair = json_object_get(object, key);
    const json_t *low = json_array_get(pair, 0), *high = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_number(low) || !json_is_number(high))
        return vm_reader_wrong(r, where, key, "[low, high]");
    *out = (vm_interval){json_number_value(low), json_number_value(high)};
    return VMOER_OK;
}

vmoer_status vm_need_bins(const vm_reader *r, const json_t *object, const char *where,
                          vm_reliability_bin bins[VM_ECE_BINS]) {
    const json_t *array = json_object_get(object, "reliability");
    if (json_array_size(array) != VM_ECE_BINS) return vm_reader_wrong(r, where, "reliability", "an array of 15 bins");
    for (size_t b = 0; b < VM_ECE_BINS; b++) {
        const json_t *bin = json_array_get(array, b);
        VM_TRY(vm_need_number(r, bin, where, "low", &bins[b].low));
        VM_TRY(vm_need_number(r, bin, where, "high", &bins[b].high));
        VM_TRY(vm_need_count(r, bin, where, "count", &bins[b].count));
        VM_TRY(vm_need_number(r, bin, where, "confidence", &bins[b].confidence));
        VM_TRY(vm_need_number(r, bin, where, "accuracy", &bins[b].accuracy));
    }
    return VMOER_OK;
}

vmoer_status vm_need_label(const vm_reader *r, const json_t *root, vm_report_label *out) {
    const char *label;
    VM_TRY(vm_need_string(r, root, "", "label", &label));
    const char *slash = strstr(label, " / ");
    out->name = slash ? slash + 3 : label;
    out->group = vm_arena_strndup(r->data->arena, label, slash ? (size_t)(slash - label) : 0);
    return out->group ? VMOER_OK : vm_reader_memory(r);
}

vmoer_status vm_may_number(const vm_reader *r, const json_t *object, const char *where, const char *key, double *out) {
    const json_t *value = json_object_get(object, key);
    *out = NAN;
    return !value || json_is_null(value) ? VMOER_OK : vm_need_number(r, object, where, key, out);
}

vmoer_status vm_may_figure(const vm_reader *r, const json_t *object, const char *where, const char *key,
                           vm_figure *out) {
    const json_t *value = json_object_get(object, key);
    *out = (vm_figure){NAN, {NAN, NAN}};
    if (!value || json_is_null(value)) return VMOER_OK;
    if (json_is_number(value)) {
        out->value = json_number_value(value);
        return VMOER_OK;
    }
    char inner[256];
    if (!json_is_object(value)) return vm_reader_wrong(r, where, key, "a number or {\"mean\", \"ci95\"}");
    snprintf(inner, sizeof inner, "%.200s.%.50s", where, key);
    VM_TRY(vm_may_number(r, value, inner, "mean", &out->value));
    const json_t *ci = json_object_get(value, "ci95");
    return !ci || json_is_null(ci) ? VMOER_OK : vm_need_interval(r, value, inner, "ci95", &out->ci);
}

vmoer_status vm_may_points(const vm_reader *r, const json_t *object, const char *where, const char *key, double **x,
                           double **y, size_t *n) {
    const json_t *points = json_object_get(object, key);
    if (points && !json_is_array(points)) return vm_reader_wrong(r, where, key, "an array of [x, y]");
    *n = json_array_size(points);
    *x = vm_reader_alloc(r, *n, sizeof **x);
    *y = vm_reader_alloc(r, *n, sizeof **y);
    if (!*x || !*y) return vm_reader_memory(r);
    for (size_t i = 0; i < *n; i++) {
        const json_t *point = json_array_get(points, i);
        const json_t *first = json_array_get(point, 0), *second = json_array_get(point, 1);
        if (json_array_size(point) != 2 || !json_is_number(first) || !json_is_number(second))
            return vm_reader_wrong(r, where, key, "an array of [x, y]");
        (*x)[i] = json_number_value(first);
        (*y)[i] = json_number_value(second);
    }
    return VMOER_OK;
}

static vmoer_status read_record(const vm_reader *r, const json_t *record, const char *where, vm_history *history,
                                size_t i) {
    static const struct {
        bool heldout;
        const char *key;
    } CURVES[VM_CURVES] = {{false, "loss"}, {false, "ce"}, {false, "kl"},
                           {true, "nll"},   {true, "ece"}, {true, "divergence"}};
    const json_t *heldout = json_object_get(record, "heldout");
    VM_TRY(vm_need_number(r, record, where, "step", &history->step[i]));
    for (int c = 0; c < VM_CURVES; c++) {
        const json_t *from = CURVES[c].heldout ? heldout : record;
        VM_TRY(vm_may_number(r, from, where, CURVES[c].key, &history->curve[c][i]));
    }
    return VMOER_OK;
}

vmoer_status vm_may_history(const vm_reader *r, const json_t *object, const char *where, vm_history *out) {
    const json_t *records = json_object_get(object, "history");
    char inner[256];
    if (records && !json_is_array(records)) return vm_reader_wrong(r, where, "history", "an array");
    snprintf(inner, sizeof inner, "%.200s%shistory", where, *where ? "." : "");
    out->n = json_array_size(records);
    out->step = vm_reader_alloc(r, out->n, sizeof *out->step);
    if (!out->step) return vm_reader_memory(r);
    for (int c = 0; c < VM_CURVES; c++) {
        out->curve[c] = vm_reader_alloc(r, out->n, sizeof *out->curve[c]);
        if (!out->curve[c]) return vm_reader_memory(r);
    }
    for (size_t i = 0; i < out->n; i++) VM_TRY(read_record(r, json_array_get(records, i), inner, out, i));
    return VMOER_OK;
}

vmoer_status vm_may_list(const vm_reader *r, const json_t *object, const char *key, size_t size, vm_entry_reader *entry,
                         void **items, size_t *n) {
    const json_t *array = json_object_get(object, key);
    size_t count = json_array_size(array);
    if (array && !json_is_array(array)) return vm_reader_wrong(r, "", key, "an array");
    if (count > VM_REPORT_MAX_ENTRIES)
        return vm_error(VMOER_ERROR_LIMIT, "%s: %s: more than %d entries", r->file, key, VM_REPORT_MAX_ENTRIES);
    char *made = vm_reader_alloc(r, count, size);
    if (!made) return vm_reader_memory(r);
    for (size_t i = 0; i < count; i++) {
        char where[128];
        snprintf(where, sizeof where, "%.100s[%zu]", key, i);
        const json_t *value = json_array_get(array, i);
        if (!json_is_object(value)) return vm_reader_wrong(r, "", where, "an object");
        VM_TRY(entry(r, value, where, made + i * size));
    }
    *items = made;
    *n = count;
    return VMOER_OK;
}
