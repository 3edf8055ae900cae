/* samples.c: samples.jsonl into predictions, item by item: what differences between runs and risk-coverage curves are
 * made of. */
#include "report/collect.h"

#include "base/json.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINES = 1000000 };

typedef struct sample {
    const char *task, *key;
    const double *p; /* [k] */
    int k, label;
} sample;

typedef struct samples {
    vm_report_data *data; /* whose arena the items' texts and numbers live in */
    sample *items;
    size_t n, capacity;
} samples;

static vmoer_status read_line(vm_report_data *data, const char *where, const json_t *json, sample *out) {
    const char *task = json_string_value(json_object_get(json, "task")),
               *id = json_string_value(json_object_get(json, "id"));
    const char *hash = json_string_value(json_object_get(json, "hash"));
    const json_t *label = json_object_get(json, "label"), *p = json_object_get(json, "probabilities");
    size_t k = json_array_size(p);
    if (!task || !id || !hash)
        return vm_error(VMOER_ERROR_FORMAT, "%s: task, id and hash expected, each a string", where);
    if (k < 1 || k > VMOER_MAX_CHOICES) {
        return vm_error(VMOER_ERROR_FORMAT, "%s: probabilities: an array of 1 to %d numbers expected", where,
                        VMOER_MAX_CHOICES);
    }
    json_int_t right = json_integer_value(label);
    if (!json_is_integer(label) || right < 0 || right >= (json_int_t)k) {
        return vm_error(VMOER_ERROR_FORMAT, "%s: label: a whole number from 0 to %zu expected", where, k - 1);
    }
    size_t key_bytes = strlen(id) + strlen(hash) + 2;
    char *key = vm_arena_alloc(data->arena, key_bytes, 1);
    const char *task_copy = vm_arena_strndup(data->arena, task, strlen(task));
    double *values = vm_arena_alloc(data->arena, k, sizeof *values);
    if (!key || !task_copy || !values) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", where);
    snprintf(key, key_bytes, "%s %s", id, hash);
    for (size_t c = 0; c < k; c++) {
        const json_t *value = json_array_get(p, c);
        if (!json_is_number(value)) return vm_error(VMOER_ERROR_FORMAT, "%s: probabilities: numbers expected", where);
        values[c] = json_number_value(value);
    }
    *out = (sample){.task = task_copy, .key = key, .p = values, .k = (int)k, .label = (int)right};
    return VMOER_OK;
}

static vmoer_status add_line(void *context, const char *where, json_t *line) {
    samples *all = context;
    if (all->n == MAX_LINES) return vm_error(VMOER_ERROR_LIMIT, "%s: more than %d lines", where, MAX_LINES);
    if (!vm_grow((void **)&all->items, &all->capacity, all->n + 1, sizeof *all->items))
        return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", where);
    VM_TRY(read_line(all->data, where, line, &all->items[all->n]));
    all->n++;
    return VMOER_OK;
}

static int by_key(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static vmoer_status refuse_duplicates(const char *file, const vm_report_task *task) {
    size_t n = task->samples.n;
    const char **sorted = vm_malloc(n, sizeof *sorted);
    if (!sorted) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", file);
    memcpy(sorted, task->keys, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_key);
    vmoer_status status = VMOER_OK;
    for (size_t i = 1; i < n && status == VMOER_OK; i++) {
        if (strcmp(sorted[i], sorted[i - 1]) == 0) {
            status = vm_error(VMOER_ERROR_FORMAT, "%s: %s: item %s occurs twice", file, task->name, sorted[i]);
        }
    }
    vm_free(sorted);
    return status;
}

static vmoer_status fill_task(vm_report_data *data, const char *file, const samples *all, vm_report_task *task) {
    size_t n = 0;
    for (size_t i = 0; i < all->n; i++) n += strcmp(all->items[i].task, task->name) == 0;
    if (n == 0) return VMOER_OK;
    double *p = vm_arena_alloc(data->arena, n, VMOER_MAX_CHOICES * sizeof *p);
    int *k = vm_arena_alloc(data->arena, n, sizeof *k), *label = vm_arena_alloc(data->arena, n, sizeof *label);
    const char **keys = vm_arena_alloc(data->arena, n, sizeof *keys);
    if (!p || !k || !label || !keys) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", file);
    size_t row = 0;
    for (size_t i = 0; i < all->n; i++) {
        const sample *s = &all->items[i];
        if (strcmp(s->task, task->name) != 0) continue;
        memcpy(p + row * VMOER_MAX_CHOICES, s->p, (size_t)s->k * sizeof *p);
        k[row] = s->k;
        label[row] = s->label;
        keys[row++] = s->key;
    }
    task->samples = (vm_predictions){.n = n, .stride = VMOER_MAX_CHOICES, .p = p, .k = k, .label = label};
    task->keys = keys;
    return refuse_duplicates(file, task);
}

/* results.json and samples.jsonl may be of different moments (a run being extended): then only the former is shown. */
static vmoer_status check_task(vm_report_data *data, const char *file, const char *path, vm_report_task *task) {
    vm_metrics m;
    if (task->samples.n == 0) return VMOER_OK;
    VM_TRY_IN(vm_metrics_compute(&task->samples, &m), "%s: %s", file, task->name);
    bool agree =
        task->samples.n == task->n && fabs(m.acc - task->metrics.acc) < 1e-6 && fabs(m.nll - task->metrics.nll) < 1e-6;
    if (agree) return VMOER_OK;
    task->samples.n = 0;
    return vm_report_note(
        data, "%s: samples.jsonl and results.json disagree about %s, so its items are not compared one by one.", path,
        task->name);
}

vmoer_status vm_report_read_samples(vm_report_data *data, const char *file) {
    vm_report_run *run = &data->runs[data->n_runs - 1];
    samples all = {.data = data};
    vmoer_status status;
    VM_GOTO(vm_json_lines(file, NULL, add_line, &all));
    for (size_t i = 0; i < run->n_tasks; i++) {
        VM_GOTO(fill_task(data, file, &all, &run->tasks[i]));
        VM_GOTO(check_task(data, file, run->path, &run->tasks[i]));
    }
done:
    vm_free(all.items);
    return status;
}
