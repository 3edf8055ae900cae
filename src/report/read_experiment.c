/* read_experiment.c: the results.json of `vmoer reproduce`, the tables of a whole experiment. */
#include "report/reader.h"

#include "base/status.h"
#include "report/names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static vmoer_status read_versus(const vm_reader *r, const json_t *entry, const char *where, vm_calibration *out) {
    static const char *const AGAINST[VM_VERSUS] = {"map", "temperature", "residual"}, *const KEYS[] = {"acc", "nll",
                                                                                                       "ece"};
    const json_t *versus = json_object_get(entry, "versus");
    if (versus && !json_is_object(versus) && !json_is_null(versus))
        return vm_reader_wrong(r, where, "versus", "an object");
    for (int v = 0; v < VM_VERSUS; v++) {
        const json_t *against = json_object_get(versus, AGAINST[v]);
        for (int k = 0; k <= VM_SCORE_ECE; k++) {
            const json_t *triple = json_object_get(against, KEYS[k]);
            double number[3] = {NAN, NAN, NAN};
            for (size_t i = 0; i < 3 && json_is_array(triple); i++) {
                const json_t *value = json_array_get(triple, i);
                number[i] = json_is_number(value) ? json_number_value(value) : NAN;
            }
            bool whole = !isnan(number[0]) && !isnan(number[1]) && !isnan(number[2]) && json_array_size(triple) == 3;
            if (triple && !json_is_null(triple) && !whole)
                return vm_reader_wrong(r, where, AGAINST[v], "[difference, low, high] for each measure");
            out->versus[v][k] = (vm_figure){number[0], {number[1], number[2]}};
        }
    }
    return VMOER_OK;
}

static vmoer_status read_calibration(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    static const char *const SCORES[VM_SCORES] = {"acc", "nll", "ece", "mce", "brier"};
    vm_calibration *out = item;
    const json_t *floor;
    VM_TRY(vm_need_string(r, entry, where, "task", &out->task));
    VM_TRY(vm_need_string(r, entry, where, "map", &out->map));
    VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    VM_TRY(vm_need_count(r, entry, where, "n", &out->n));
    VM_TRY(vm_need_count(r, entry, where, "seeds", &out->seeds));
    for (int s = 0; s < VM_SCORES; s++) VM_TRY(vm_may_figure(r, entry, where, SCORES[s], &out->score[s]));
    VM_TRY(vm_need_object(r, entry, where, "ece_floor", &floor));
    VM_TRY(vm_need_number(r, floor, where, "mean", &out->floor.mean));
    VM_TRY(vm_need_number(r, floor, where, "p95", &out->floor.p95));
    VM_TRY(vm_need_number(r, entry, where, "excess_ece", &out->excess));
    VM_TRY(vm_need_bool(r, entry, where, "at_floor", &out->at_floor));
    if (json_object_get(entry, "reliability")) {
        out->bins = vm_reader_alloc(r, VM_ECE_BINS, sizeof *out->bins);
        if (!out->bins) return vm_reader_memory(r);
        VM_TRY(vm_need_bins(r, entry, where, out->bins));
    }
    return read_versus(r, entry, where, out);
}

static vmoer_status read_auroc(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_auroc *out = item;
    VM_TRY(vm_need_string(r, entry, where, "map", &out->map));
    VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    VM_TRY(vm_need_string(r, entry, where, "set", &out->set));
    VM_TRY(vm_need_string(r, entry, where, "signal", &out->signal));
    VM_TRY(vm_need_count(r, entry, where, "n", &out->n));
    VM_TRY(vm_may_figure(r, entry, where, "auroc", &out->auroc));
    VM_TRY(vm_may_figure(r, entry, where, "aupr", &out->aupr));
    return vm_may_figure(r, entry, where, "fpr95", &out->fpr95);
}

static vmoer_status read_map(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_map_training *out = item;
    VM_TRY(vm_need_string(r, entry, where, "task", &out->task));
    VM_TRY(vm_need_string(r, entry, where, "kind", &out->kind));
    VM_TRY(vm_need_count(r, entry, where, "seed", &out->seed));
    return vm_may_history(r, entry, where, &out->history);
}

static vmoer_status read_goal(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_goal *out = item;
    const json_t *holds = json_object_get(entry, "holds"), *ci = json_object_get(entry, "ci95");
    VM_TRY(vm_need_string(r, entry, where, "name", &out->name));
    VM_TRY(vm_need_string(r, entry, where, "goal", &out->goal));
    out->router = "";
    if (json_object_get(entry, "router")) VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    out->value.ci = (vm_interval){NAN, NAN};
    VM_TRY(vm_may_number(r, entry, where, "value", &out->value.value));
    if (ci && !json_is_null(ci)) VM_TRY(vm_need_interval(r, entry, where, "ci95", &out->value.ci));
    if (holds && !json_is_boolean(holds) && !json_is_null(holds))
        return vm_reader_wrong(r, where, "holds", "true, false or null");
    out->holds = json_is_boolean(holds) ? json_is_true(holds) : -1;
    return VMOER_OK;
}

static vmoer_status read_set_means(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    static const char *const PARTS[VM_SETS_PARTS] = {"halves", "shift"}, *const WAYS[VM_SETS_WAYS] = {"lac", "aps"};
    vm_set_means *out = item;
    VM_TRY(vm_need_string(r, entry, where, "map", &out->map));
    VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    VM_TRY(vm_need_number(r, entry, where, "alpha", &out->alpha));
    for (int part = 0; part < VM_SETS_PARTS; part++)
        for (int way = 0; way < VM_SETS_WAYS; way++) {
            const json_t *sets = json_object_get(json_object_get(entry, PARTS[part]), WAYS[way]);
            VM_TRY(vm_may_number(r, sets, where, "coverage", &out->coverage[part][way]));
            VM_TRY(vm_may_number(r, sets, where, "size", &out->size[part][way]));
        }
    return VMOER_OK;
}

/* ---- stability: an entry a router and sigma becomes one of a router ---- */

typedef struct steady_entry {
    const char *map, *router;
    vm_steady_sigma sigma;
} steady_entry;

static vmoer_status read_steady_layer(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_steady_layer *out = item;
    size_t layer;
    VM_TRY(vm_need_count(r, entry, where, "layer", &layer));
    *out = (vm_steady_layer){.layer = (int)layer, .fact = {NAN, NAN, NAN, NAN, NAN, NAN}};
    VM_TRY(vm_may_number(r, entry, where, "isolated", &out->fact[VM_STEADY_ISOLATED]));
    return vm_may_number(r, entry, where, "load_entropy", &out->fact[VM_STEADY_LOAD]);
}

static vmoer_status read_steady(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    static const char *const KEYS[VM_STEADY_FACTS] = {"isolated",   "chance_corrected", "isolated_shared",
                                                      "propagated", "load_entropy",     "between_tokens"};
    steady_entry *out = item;
    vm_steady_sigma *s = &out->sigma;
    const json_t *bayesian = json_object_get(entry, "bayesian");
    vm_figure of_router;
    VM_TRY(vm_need_string(r, entry, where, "map", &out->map));
    VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    VM_TRY(vm_need_number(r, entry, where, "sigma", &s->sigma));
    VM_TRY(vm_need_bool(r, entry, where, "relative", &s->relative));
    VM_TRY(vm_may_number(r, entry, where, "at_jaccard", &s->at_jaccard));
    for (int k = 0; k < VM_STEADY_FACTS; k++) {
        VM_TRY(vm_may_figure(r, entry, where, KEYS[k], &s->mean[k]));
        VM_TRY(vm_may_figure(r, bayesian, where, KEYS[k], &of_router));
        s->bayesian[k] = of_router.value;
    }
    return vm_may_list(r, entry, "layers", sizeof *s->layers, read_steady_layer, (void **)&s->layers, &s->n_layers);
}

typedef struct alive_entry {
    const char *map, *router;
    double fact[VM_ALIVE_FACTS];
} alive_entry;

static vmoer_status read_alive_entry(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    alive_entry *out = item;
    VM_TRY(vm_need_string(r, entry, where, "map", &out->map));
    VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    return vm_read_alive(r, entry, where, out->fact);
}

/* The one of this router on this MAP, made where it is new. */
static vm_report_steady *steady_of(vm_report_experiment *x, const char *map, const char *router) {
    for (size_t i = 0; i < x->n_steady; i++) {
        if (strcmp(x->steady[i].label.group, map) == 0 && strcmp(x->steady[i].router, router) == 0)
            return &x->steady[i];
    }
    x->steady[x->n_steady] = (vm_report_steady){.label = {map, router}, .router = router, .chance = NAN};
    return &x->steady[x->n_steady++];
}

static vmoer_status read_stability(const vm_reader *r, const json_t *root, vm_report_experiment *x) {
    steady_entry *entries;
    alive_entry *alive;
    size_t n, n_alive;
    VM_TRY(vm_may_list(r, root, "stability", sizeof *entries, read_steady, (void **)&entries, &n));
    VM_TRY(vm_may_list(r, root, "alive", sizeof *alive, read_alive_entry, (void **)&alive, &n_alive));
    x->steady = vm_reader_alloc(r, n + n_alive, sizeof *x->steady);
    if (!x->steady) return vm_reader_memory(r);
    for (size_t i = 0; i < n; i++) steady_of(x, entries[i].map, entries[i].router)->n_sigmas++;
    for (size_t s = 0; s < x->n_steady; s++) {
        x->steady[s].sigmas = vm_reader_alloc(r, x->steady[s].n_sigmas, sizeof *x->steady[s].sigmas);
        if (!x->steady[s].sigmas) return vm_reader_memory(r);
        x->steady[s].n_sigmas = 0;
    }
    for (size_t i = 0; i < n; i++) {
        vm_report_steady *s = steady_of(x, entries[i].map, entries[i].router);
        s->sigmas[s->n_sigmas++] = entries[i].sigma;
    }
    for (size_t i = 0; i < n_alive; i++) {
        vm_report_steady *s = steady_of(x, alive[i].map, alive[i].router);
        s->has_alive = true;
        memcpy(s->alive, alive[i].fact, sizeof s->alive);
    }
    return VMOER_OK;
}

/* ---- no figure twice ---- */

static int by_calibration(const void *a, const void *b) {
    const vm_calibration *x = a, *y = b;
    int order = strcmp(x->task, y->task);
    if (order == 0) order = strcmp(x->map, y->map);
    return order ? order : strcmp(x->router, y->router);
}

static int by_auroc(const void *a, const void *b) {
    const vm_auroc *x = a, *y = b;
    int order = strcmp(x->map, y->map);
    if (order == 0) order = strcmp(x->router, y->router);
    if (order == 0) order = strcmp(x->set, y->set);
    return order ? order : strcmp(x->signal, y->signal);
}

const vm_calibration *vm_calibration_find(const vm_report_experiment *x, const char *task, const char *map,
                                          const char *router) {
    vm_calibration wanted = {.task = task, .map = map, .router = router};
    return bsearch(&wanted, x->calibration, x->n_calibration, sizeof wanted, by_calibration);
}

const vm_auroc *vm_auroc_find(const vm_report_experiment *x, const char *map, const char *router, const char *set,
                              const char *signal) {
    vm_auroc wanted = {.map = map, .router = router, .set = set, .signal = signal};
    return bsearch(&wanted, x->aurocs, x->n_aurocs, sizeof wanted, by_auroc);
}

static vmoer_status sort_figures(const vm_reader *r, vm_report_experiment *x) {
    qsort(x->calibration, x->n_calibration, sizeof *x->calibration, by_calibration);
    for (size_t i = 1; i < x->n_calibration; i++) {
        const vm_calibration *c = &x->calibration[i];
        if (by_calibration(c - 1, c) == 0)
            return vm_error(VMOER_ERROR_FORMAT, "%s: calibration: two entries of %.60s, %.60s, %.60s", r->file, c->task,
                            c->map, c->router);
    }
    qsort(x->aurocs, x->n_aurocs, sizeof *x->aurocs, by_auroc);
    for (size_t i = 1; i < x->n_aurocs; i++) {
        const vm_auroc *a = &x->aurocs[i];
        if (by_auroc(a - 1, a) == 0)
            return vm_error(VMOER_ERROR_FORMAT, "%s: ood: two entries of %.60s, %.60s, %.60s, %.60s", r->file, a->map,
                            a->router, a->set, a->signal);
    }
    return VMOER_OK;
}

/* ---- the words ---- */

static int by_router(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int rank = vm_router_rank(x) - vm_router_rank(y);
    return rank ? rank : strcmp(x, y);
}

static int by_signal(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int rank = vm_signal_rank(x) - vm_signal_rank(y);
    return rank ? rank : strcmp(x, y);
}

/* In their order, the mean over them at the end. */
static void mean_last(vm_names *sets) {
    for (size_t i = 0; i + 1 < sets->n; i++) {
        if (strcmp(sets->items[i], "mean") != 0) continue;
        const char *mean = sets->items[i];
        memmove(sets->items + i, sets->items + i + 1, (sets->n - i - 1) * sizeof *sets->items);
        sets->items[sets->n - 1] = mean;
        return;
    }
}

static int by_map(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int rank = vm_map_rank(x) - vm_map_rank(y);
    return rank ? rank : strcmp(x, y);
}

static vmoer_status add_name(const vm_reader *r, vm_names *names, const char *name) {
    for (size_t i = 0; i < names->n; i++) {
        if (strcmp(names->items[i], name) == 0) return VMOER_OK;
    }
    if (!names->items) names->items = vm_reader_alloc(r, VM_REPORT_MAX_NAMES, sizeof *names->items);
    if (!names->items) return vm_reader_memory(r);
    if (names->n == VM_REPORT_MAX_NAMES)
        return vm_error(VMOER_ERROR_LIMIT, "%s: '%.100s' is one too many: more than %d names of its kind", r->file,
                        name, VM_REPORT_MAX_NAMES);
    names->items[names->n++] = name;
    return VMOER_OK;
}

static void sort_names(vm_names *names, int (*compare)(const void *, const void *)) {
    if (names->n > 0) qsort(names->items, names->n, sizeof *names->items, compare);
}

static vmoer_status list_names(const vm_reader *r, vm_report_experiment *x) {
    for (size_t i = 0; i < x->n_maps; i++) {
        VM_TRY(add_name(r, &x->tasks, x->maps[i].task));
        VM_TRY(add_name(r, &x->kinds, x->maps[i].kind));
    }
    for (size_t i = 0; i < x->n_calibration; i++) {
        VM_TRY(add_name(r, &x->tasks, x->calibration[i].task));
        VM_TRY(add_name(r, &x->kinds, x->calibration[i].map));
        VM_TRY(add_name(r, &x->routers, x->calibration[i].router));
    }
    for (size_t i = 0; i < x->n_aurocs; i++) {
        VM_TRY(add_name(r, &x->sets, x->aurocs[i].set));
        VM_TRY(add_name(r, &x->kinds, x->aurocs[i].map));
        VM_TRY(add_name(r, &x->routers, x->aurocs[i].router));
        VM_TRY(add_name(r, &x->signals, x->aurocs[i].signal));
    }
    for (size_t i = 0; i < x->n_steady; i++) {
        VM_TRY(add_name(r, &x->kinds, x->steady[i].label.group));
        VM_TRY(add_name(r, &x->routers, x->steady[i].router));
    }
    mean_last(&x->sets);
    sort_names(&x->kinds, by_map);
    sort_names(&x->routers, by_router);
    sort_names(&x->signals, by_signal);
    return VMOER_OK;
}

static vmoer_status read_skipped(const vm_reader *r, const json_t *root, vm_report_experiment *x) {
    const json_t *list = json_object_get(root, "skipped");
    if (list && !json_is_array(list)) return vm_reader_wrong(r, "", "skipped", "an array");
    x->skipped = vm_reader_alloc(r, json_array_size(list), sizeof *x->skipped);
    if (!x->skipped) return vm_reader_memory(r);
    for (size_t i = 0; i < json_array_size(list); i++) {
        x->skipped[i] = json_string_value(json_array_get(list, i));
        if (!x->skipped[i]) return vm_reader_wrong(r, "", "skipped", "an array of strings");
    }
    x->n_skipped = json_array_size(list);
    return VMOER_OK;
}

vmoer_status vm_read_experiment(const vm_reader *r, const json_t *root, const char *path) {
    vm_report_data *data = r->data;
    vm_report_experiment x = {.path = path, .model = ""};
    const json_t *model = json_object_get(root, "model");
    if (json_is_object(model)) {
        VM_TRY(vm_need_string(r, model, "model", "name", &x.model));
    } else if (model) {
        VM_TRY(vm_need_string(r, root, "", "model", &x.model));
    }
    VM_TRY(vm_may_list(r, root, "maps", sizeof *x.maps, read_map, (void **)&x.maps, &x.n_maps));
    VM_TRY(vm_may_list(r, root, "calibration", sizeof *x.calibration, read_calibration, (void **)&x.calibration,
                       &x.n_calibration));
    VM_TRY(vm_may_list(r, root, "ood", sizeof *x.aurocs, read_auroc, (void **)&x.aurocs, &x.n_aurocs));
    VM_TRY(read_stability(r, root, &x));
    VM_TRY(vm_may_list(r, root, "cost", sizeof *x.costs, vm_read_cost_entry, (void **)&x.costs, &x.n_costs));
    VM_TRY(
        vm_may_list(r, root, "conformal", sizeof *x.set_means, read_set_means, (void **)&x.set_means, &x.n_set_means));
    VM_TRY(vm_may_list(r, root, "goals", sizeof *x.goals, read_goal, (void **)&x.goals, &x.n_goals));
    VM_TRY(read_skipped(r, root, &x));
    VM_TRY(list_names(r, &x));
    VM_TRY(sort_figures(r, &x));
    return vm_reader_append(r, (void **)&data->experiments, &data->capacity[5], &data->n_experiments, &x, sizeof x);
}
