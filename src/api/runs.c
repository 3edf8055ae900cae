/* runs.c: finished eval runs read again. Anybody may have written their files: every type and range is checked. */
#include "api/internal.h"

#include "base/file.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

void vm_saved_run_close(vm_saved_run *run) {
    json_decref(run->results);
    json_decref(run->tasks);
    *run = (vm_saved_run){0};
}

static vmoer_status check_run(const vm_saved_run *run) {
    const json_t *results = json_object_get(run->results, "results");
    const char *kind = json_string_value(json_object_get(run->results, "kind")), *task;
    json_t *list;
    if (!kind || strcmp(kind, "eval") != 0 || !json_is_string(json_object_get(run->results, "label")) ||
        !json_is_object(results))
        return vm_error(VMOER_ERROR_FORMAT, "%s/results.json: not of an eval run: kind \"eval\", a label and results",
                        run->folder);
    if (json_object_size(run->tasks) == 0)
        return vm_error(VMOER_ERROR_DATA, "%s/samples.jsonl: no samples", run->folder);
    json_object_foreach(run->tasks, task, list) {
        json_int_t n = json_integer_value(json_object_get(json_object_get(results, task), "n"));
        if (n != (json_int_t)json_array_size(list))
            return vm_error(VMOER_ERROR_MISMATCH,
                            "%s: %zu samples of %s, results.json speaks of %lld: an unfinished run? Run eval again",
                            run->folder, json_array_size(list), task, (long long)n);
    }
    return VMOER_OK;
}

vmoer_status vm_saved_run_open(const char *folder, vm_saved_run *out) {
    char path[4096];
    *out = (vm_saved_run){.folder = folder};
    vmoer_status status = vm_path_join(path, sizeof path, folder, "results.json");
    if (status == VMOER_OK) status = vm_json_load(path, &out->results);
    if (status == VMOER_OK) status = vm_path_join(path, sizeof path, folder, "samples.jsonl");
    if (status == VMOER_OK) status = vm_api_samples(path, NULL, &out->tasks);
    if (status == VMOER_OK) status = check_run(out);
    if (status != VMOER_OK) vm_saved_run_close(out);
    return status;
}

vmoer_status vm_saved_runs_same(const vm_saved_run *one, const vm_saved_run *other) {
    static const char *const heads[] = {"model", "adapter", "router"}, *const settings[] = {"format",    "compute",
                                                                                            "inference", "samples",
                                                                                            "seed",      "routing"};
    const json_t *a = one->results, *b = other->results;
    const char *differs = NULL;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (!json_equal(json_object_get(a, heads[i]), json_object_get(b, heads[i]))) differs = heads[i];
    a = json_object_get(a, "config"), b = json_object_get(b, "config");
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const json_t *x = json_object_get(a, settings[i]), *y = json_object_get(b, settings[i]);
        if (x != y && !json_equal(x, y)) differs = settings[i];
    }
    return !differs ? VMOER_OK
                    : vm_error(VMOER_ERROR_MISMATCH, "%s and %s: made with another %s (results.json)", one->folder,
                               other->folder, differs);
}

static vmoer_status item_error(const vm_saved_run *run, const char *task, size_t i, const char *what) {
    const json_t *sample = json_array_get(json_object_get(run->tasks, task), i);
    const char *id = json_string_value(json_object_get(sample, "id"));
    return vm_error(VMOER_ERROR_FORMAT, "%s/samples.jsonl: %s, item %zu (%.60s): %s", run->folder, task, i + 1,
                    id ? id : "no id", what);
}

vmoer_status vm_saved_predictions(const vm_saved_run *run, const char *task, vm_arena *arena, vm_predictions *out) {
    const json_t *list = json_object_get(run->tasks, task);
    size_t n = json_array_size(list);
    double *p = vm_arena_alloc(arena, n, VM_MAX_CHOICES * sizeof *p);
    int *k = vm_arena_alloc(arena, n, sizeof *k), *label = vm_arena_alloc(arena, n, sizeof *label);
    if (!p || !k || !label) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu samples", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *sample = json_array_get(list, i), *given = json_object_get(sample, "probabilities"),
                     *right = json_object_get(sample, "label");
        size_t choices = json_array_size(given);
        double sum = 0;
        if (choices < 2 || choices > VM_MAX_CHOICES)
            return item_error(run, task, i, "probabilities: a list of 2 to 26 numbers expected");
        for (size_t c = 0; c < choices; c++) {
            const json_t *value = json_array_get(given, c);
            double x = json_number_value(value);
            if (!json_is_number(value) || !(x >= 0 && x <= 1))
                return item_error(run, task, i, "probabilities: numbers from 0 to 1 expected");
            sum += p[i * VM_MAX_CHOICES + c] = x;
        }
        if (!(sum > 1 - 1e-6 && sum < 1 + 1e-6)) return item_error(run, task, i, "probabilities: they do not sum to 1");
        if (!json_is_integer(right) || json_integer_value(right) < 0 ||
            json_integer_value(right) >= (json_int_t)choices)
            return item_error(run, task, i, "label: no index of a choice");
        k[i] = (int)choices;
        label[i] = (int)json_integer_value(right);
    }
    *out = (vm_predictions){.n = n, .stride = VM_MAX_CHOICES, .p = p, .k = k, .label = label};
    return VMOER_OK;
}

vmoer_status vm_saved_hashes(const vm_saved_run *run, const char *task, vm_arena *arena, const uint64_t **out) {
    const json_t *list = json_object_get(run->tasks, task);
    size_t n = json_array_size(list);
    uint64_t *hashes = vm_arena_alloc(arena, n, sizeof *hashes);
    if (!hashes) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu samples", n);
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_object_get(json_array_get(list, i), "hash"));
        if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
            return item_error(run, task, i, "hash: 16 hexadecimal digits expected");
        hashes[i] = strtoull(text, NULL, 16);
    }
    *out = hashes;
    return VMOER_OK;
}

vmoer_status vm_api_save_results(const char *folder, const json_t *results) {
    char path[4096];
    if (!folder) return VMOER_OK;
    VM_TRY(vm_make_dirs(folder));
    VM_TRY(vm_path_join(path, sizeof path, folder, "results.json"));
    return vm_json_save(path, results);
}
