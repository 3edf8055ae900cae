/* compare.c: grouping by label, the baseline of each task, paired bootstrap over the questions two runs share. */
#include "report/compare.h"

#include "base/progress.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "report: out of memory"); }

vm_verdict vm_judge(vm_interval difference, bool higher_is_better) {
    if (difference.low > 0) return higher_is_better ? VM_BETTER : VM_WORSE;
    if (difference.high < 0) return higher_is_better ? VM_WORSE : VM_BETTER;
    return VM_UNCLEAR;
}

typedef struct keyed {
    const char *key;
    size_t row;
} keyed;

static int by_key(const void *a, const void *b) { return strcmp(((const keyed *)a)->key, ((const keyed *)b)->key); }

static keyed *sorted_keys(const vm_report_task *task) {
    keyed *keys = vm_malloc(task->samples.n, sizeof *keys);
    if (!keys) return NULL;
    for (size_t i = 0; i < task->samples.n; i++) keys[i] = (keyed){task->keys[i], i};
    qsort(keys, task->samples.n, sizeof *keys, by_key);
    return keys;
}

/* A table of its own for a subset of the items. */
typedef struct subset {
    vm_predictions d;
    double *p;
    int *k, *label;
} subset;

static bool subset_alloc(subset *s, size_t capacity, int stride) {
    s->p = vm_malloc(capacity, (size_t)stride * sizeof *s->p);
    s->k = vm_malloc(capacity, sizeof *s->k);
    s->label = vm_malloc(capacity, sizeof *s->label);
    s->d = (vm_predictions){.stride = stride, .p = s->p, .k = s->k, .label = s->label};
    return s->p && s->k && s->label;
}

static void subset_add(subset *s, const vm_predictions *from, size_t row) {
    size_t stride = (size_t)from->stride, to = s->d.n++;
    memcpy(s->p + to * stride, from->p + row * stride, stride * sizeof *s->p);
    s->k[to] = from->k[row];
    s->label[to] = from->label[row];
}

static void subset_free(subset *s) {
    vm_free(s->p);
    vm_free(s->k);
    vm_free(s->label);
}

/* Fills the difference of `row` to `base` over the questions both answered, in the order of their keys. */
static vmoer_status pair(const vm_row *base, vm_row *row) {
    const vm_report_task *a = base->task, *b = row->task;
    if (a->samples.n == 0 || b->samples.n == 0) return VMOER_OK;
    keyed *keys_a = sorted_keys(a), *keys_b = sorted_keys(b);
    subset items_a = {0}, items_b = {0};
    vmoer_status status = VMOER_OK;
    if (!keys_a || !keys_b || !subset_alloc(&items_a, a->samples.n, a->samples.stride) ||
        !subset_alloc(&items_b, b->samples.n, b->samples.stride)) {
        status = no_memory();
        goto done;
    }
    for (size_t i = 0, j = 0; i < a->samples.n && j < b->samples.n;) {
        int order = strcmp(keys_a[i].key, keys_b[j].key);
        if (order == 0) {
            subset_add(&items_a, &a->samples, keys_a[i].row);
            subset_add(&items_b, &b->samples, keys_b[j].row);
        }
        i += order <= 0;
        j += order >= 0;
    }
    if (items_a.d.n == 0) goto done;
    status = vm_metrics_paired(&items_a.d, &items_b.d, VM_REPORT_RESAMPLES, 0, &row->difference, &row->interval);
    if (status != VMOER_OK) status = vm_error_in(status, "%s against %s, %s", row->run->path, base->run->path, a->name);
    row->paired_n = items_a.d.n;
done:
    subset_free(&items_a);
    subset_free(&items_b);
    vm_free(keys_a);
    vm_free(keys_b);
    return status;
}

static vmoer_status risk_coverage(const vm_report_data *data, vm_row *row) {
    size_t n = row->task->samples.n;
    row->aurc = NAN;
    if (n == 0) return VMOER_OK;
    row->risk = vm_arena_alloc(data->arena, n, sizeof *row->risk);
    row->coverage = vm_arena_alloc(data->arena, n, sizeof *row->coverage);
    if (!row->risk || !row->coverage) return no_memory();
    for (size_t i = 0; i < n; i++) row->coverage[i] = (double)(i + 1) / (double)n;
    return vm_risk_coverage(&row->task->samples, row->risk, &row->aurc);
}

/* MAP where there is one, else the first run with the model's own router. */
static size_t find_baseline(const vm_comparison *c) {
    for (size_t i = 0; i < c->n_rows; i++) {
        if (strcmp(c->rows[i].run->label.name, "MAP") == 0) return i;
    }
    for (size_t i = 0; i < c->n_rows; i++) {
        if (strcmp(c->rows[i].run->router_kind, "deterministic") == 0) return i;
    }
    return c->n_rows;
}

static void baseline_first(vm_comparison *c) {
    size_t at = find_baseline(c);
    c->baseline = at < c->n_rows;
    if (!c->baseline) return;
    vm_row base = c->rows[at];
    memmove(c->rows + 1, c->rows, at * sizeof *c->rows);
    c->rows[0] = base;
}

/* "name", or "name (folder)" where `same` says that another one is called so too. */
static const char *shown_name(const vm_report_data *data, const char *name, const char *path, bool same) {
    if (!same) return name;
    size_t bytes = strlen(name) + strlen(path) + 4;
    char *text = vm_arena_alloc(data->arena, bytes, 1);
    if (text) snprintf(text, bytes, "%s (%s)", name, path);
    return text;
}

static bool same_label(const vm_report_label *a, const vm_report_label *b) {
    return strcmp(a->group, b->group) == 0 && strcmp(a->name, b->name) == 0;
}

static bool share_task(const vm_report_run *a, const vm_report_run *b) {
    for (size_t i = 0; i < a->n_tasks; i++) {
        for (size_t k = 0; k < b->n_tasks; k++) {
            if (strcmp(a->tasks[i].name, b->tasks[k].name) == 0) return true;
        }
    }
    return false;
}

/* One label over several folders is one run as long as each holds other tasks. */
static const char *run_name(const vm_report_data *data, const vm_report_run *run) {
    bool same = false;
    for (size_t i = 0; i < data->n_runs; i++) {
        const vm_report_run *other = &data->runs[i];
        same = same || (other != run && same_label(&other->label, &run->label) && share_task(other, run));
    }
    return shown_name(data, run->label.name, run->path, same);
}

static const char *ood_name(const vm_report_data *data, const vm_report_ood *ood) {
    bool same = false;
    for (size_t i = 0; i < data->n_oods; i++)
        same = same || (&data->oods[i] != ood && same_label(&data->oods[i].label, &ood->label));
    return shown_name(data, ood->label.name, ood->path, same);
}

/* A task is shifted where the group uses it as an out-of-distribution set and never as the home task of one. */
static bool is_shifted(const vm_group *group, const char *task) {
    bool set = false;
    for (size_t i = 0; i < group->n_oods; i++) {
        const vm_report_ood *ood = group->oods[i];
        if (strcmp(ood->id_task, task) == 0) return false;
        for (size_t s = 0; s < ood->n_sets; s++) set = set || strcmp(ood->sets[s].name, task) == 0;
    }
    return set;
}

static vmoer_status add_row(const vm_report_data *data, vm_group *group, const vm_report_run *run,
                            const vm_report_task *task) {
    vm_comparison *c = NULL;
    for (size_t i = 0; i < group->n_tasks; i++) {
        if (strcmp(group->tasks[i].task, task->name) == 0) c = &group->tasks[i];
    }
    if (!c) {
        c = &group->tasks[group->n_tasks++];
        *c = (vm_comparison){.task = task->name, .shifted = is_shifted(group, task->name)};
        c->rows = vm_arena_alloc(data->arena, data->n_runs, sizeof *c->rows);
    }
    const char *name = run_name(data, run);
    if (!c->rows || !name) return no_memory();
    c->rows[c->n_rows++] = (vm_row){.run = run, .task = task, .name = name};
    return VMOER_OK;
}

const vm_report_set *vm_set_find(const vm_report_ood *ood, const vm_strange_set *set) {
    if (strcmp(ood->id_task, set->id_task) != 0) return NULL;
    for (size_t i = 0; i < ood->n_sets; i++) {
        if (strcmp(ood->sets[i].name, set->name) == 0) return &ood->sets[i];
    }
    return NULL;
}

const vm_report_signal *vm_signal_find(const vm_report_set *set, const char *name) {
    for (size_t i = 0; i < set->n_signals; i++) {
        if (strcmp(set->signals[i].name, name) == 0) return &set->signals[i];
    }
    return NULL;
}

/* What the others are held against stands first, as in the tables of the tasks. */
static void map_first(vm_group *group) {
    for (size_t i = 0; i < group->n_oods; i++) {
        if (strcmp(group->oods[i]->label.name, "MAP") != 0) continue;
        const vm_report_ood *map = group->oods[i];
        const char *name = group->ood_names[i];
        memmove(group->oods + 1, group->oods, i * sizeof *group->oods);
        memmove(group->ood_names + 1, group->ood_names, i * sizeof *group->ood_names);
        group->oods[0] = map;
        group->ood_names[0] = name;
        return;
    }
}

static vmoer_status list_sets(const vm_report_data *data, vm_group *group) {
    size_t most = 0;
    for (size_t i = 0; i < group->n_oods; i++) most += group->oods[i]->n_sets;
    group->sets = vm_arena_alloc(data->arena, most, sizeof *group->sets);
    if (!group->sets) return no_memory();
    for (size_t i = 0; i < group->n_oods; i++) {
        const vm_report_ood *ood = group->oods[i];
        for (size_t s = 0; s < ood->n_sets; s++) {
            vm_strange_set set = {ood->sets[s].name, ood->id_task, ood->sets[s].n, ood->id_n};
            bool known = false;
            for (size_t before = 0; before < i; before++) known = known || vm_set_find(group->oods[before], &set);
            if (!known) group->sets[group->n_sets++] = set;
        }
    }
    return VMOER_OK;
}

static int home_first(const void *a, const void *b) {
    const vm_comparison *x = a, *y = b;
    return x->shifted != y->shifted ? (int)x->shifted - (int)y->shifted : strcmp(x->task, y->task);
}

static vmoer_status fill_group(const vm_report_data *data, const vmoer_hooks *hooks, vm_group *group) {
    size_t tasks = 0, done = 0;
    for (size_t i = 0; i < data->n_runs; i++) tasks += data->runs[i].n_tasks;
    group->tasks = vm_arena_alloc(data->arena, tasks, sizeof *group->tasks);
    group->oods = vm_arena_alloc(data->arena, data->n_oods, sizeof *group->oods);
    group->ood_names = vm_arena_alloc(data->arena, data->n_oods, sizeof *group->ood_names);
    if (!group->tasks || !group->oods || !group->ood_names) return no_memory();
    for (size_t i = 0; i < data->n_oods; i++) {
        if (strcmp(data->oods[i].label.group, group->name) != 0) continue;
        group->ood_names[group->n_oods] = ood_name(data, &data->oods[i]);
        if (!group->ood_names[group->n_oods]) return no_memory();
        group->oods[group->n_oods++] = &data->oods[i];
    }
    map_first(group);
    VM_TRY(list_sets(data, group));
    for (size_t i = 0; i < data->n_runs; i++) {
        const vm_report_run *run = &data->runs[i];
        if (strcmp(run->label.group, group->name) != 0) continue;
        for (size_t t = 0; t < run->n_tasks; t++) VM_TRY(add_row(data, group, run, &run->tasks[t]));
    }
    if (group->n_tasks > 0) qsort(group->tasks, group->n_tasks, sizeof *group->tasks, home_first);
    for (size_t i = 0; i < group->n_tasks; i++) {
        vm_comparison *c = &group->tasks[i];
        baseline_first(c);
        for (size_t r = 0; r < c->n_rows; r++) {
            VM_TRY(risk_coverage(data, &c->rows[r]));
            if (c->baseline && r > 0) VM_TRY(pair(&c->rows[0], &c->rows[r]));
            VM_TRY(vm_progress(hooks, "compare", ++done, tasks, c->rows[r].name));
        }
    }
    return VMOER_OK;
}

static void add_group(vm_groups *groups, const char *name) {
    for (size_t i = 0; i < groups->n; i++) {
        if (strcmp(groups->items[i].name, name) == 0) return;
    }
    groups->items[groups->n++] = (vm_group){.name = name};
}

vmoer_status vm_report_compare(const vm_report_data *data, const vmoer_hooks *hooks, vm_groups *out) {
    *out = (vm_groups){.items = vm_arena_alloc(data->arena, data->n_runs + data->n_oods, sizeof *out->items)};
    if (!out->items) return no_memory();
    for (size_t i = 0; i < data->n_runs; i++) add_group(out, data->runs[i].label.group);
    for (size_t i = 0; i < data->n_oods; i++) add_group(out, data->oods[i].label.group);
    for (size_t i = 0; i < out->n; i++) VM_TRY(fill_group(data, hooks, &out->items[i]));
    return VMOER_OK;
}
