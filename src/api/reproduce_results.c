/* reproduce_results.c: results.json of an experiment: the MAPs, and calibration over the seeds with intervals and
 * paired differences. Everything is read from the stages' own files. */
#include "api/reproduce.h"

#include "base/file.h"
#include "base/status.h"

#include <string.h>

enum { FLOOR_DRAWS = 1000, SEEDS_STREAM = 0, ITEMS_STREAM = 1 };
static const struct {
    const char *name;
    size_t column; /* in vm_metrics */
} measures[] = {{"acc", offsetof(vm_metrics, acc) / sizeof(double)},
                {"nll", offsetof(vm_metrics, nll) / sizeof(double)},
                {"ece", offsetof(vm_metrics, ece) / sizeof(double)},
                {"mce", offsetof(vm_metrics, mce) / sizeof(double)},
                {"brier", offsetof(vm_metrics, brier) / sizeof(double)}};
enum { MEASURES = sizeof measures / sizeof *measures, VERSUS_MEASURES = 3 };

static vmoer_status interval(const double *a, const double *b, size_t count, size_t width, size_t column,
                             vm_interval *out) {
    double *values = vm_malloc(count, sizeof *values);
    if (!values) return vm_api_no_memory();
    for (size_t r = 0; r < count; r++) values[r] = a[r * width + column] - (b ? b[r * width + column] : 0);
    *out = vm_interval_of(values, count);
    vm_free(values);
    return VMOER_OK;
}

json_t *vm_figure_json(double value, const double *draws, size_t count, size_t width, size_t column) {
    vm_interval ci;
    if (interval(draws, NULL, count, width, column, &ci) != VMOER_OK) return NULL;
    return json_pack("{s:f, s:o}", "mean", value, "ci95", vm_api_interval(ci));
}

vmoer_status vm_stage_results(const vm_experiment *x, vm_stage_kind kind, vm_map_kind map, int seed, int router,
                              json_t **out) {
    char folder[4096], path[4096];
    VM_TRY(vm_stage_folder(x, kind, 0, map, seed, router, folder));
    VM_TRY(vm_path_join(path, sizeof path, folder, "results.json"));
    return vm_json_load(path, out);
}

/* ---- one contestant on one task ---- */

/* Its answers, all seeds one after the other: runs[s] are parts of `all`. */
typedef struct answers {
    vm_predictions all, *runs;
    size_t n; /* questions */
    double *p;
    int *k, *label;
} answers;

static void answers_clear(answers *a) {
    vm_free(a->runs);
    vm_free(a->p);
    vm_free(a->k);
    vm_free(a->label);
    *a = (answers){0};
}

/* The items of seed s; the first seed's number is everybody's. */
static vmoer_status take_items(const json_t *list, int seeds, int s, answers *a) {
    size_t n = json_array_size(list);
    if (s == 0) {
        size_t all = n * (size_t)seeds;
        *a = (answers){.n = n,
                       .runs = vm_calloc((size_t)seeds, sizeof *a->runs),
                       .p = vm_calloc(all, VM_MAX_CHOICES * sizeof *a->p),
                       .k = vm_calloc(all, sizeof *a->k),
                       .label = vm_calloc(all, sizeof *a->label)};
        if (!a->runs || !a->p || !a->k || !a->label) return vm_api_no_memory();
        a->all = (vm_predictions){.n = all, .stride = VM_MAX_CHOICES, .p = a->p, .k = a->k, .label = a->label};
    }
    if (n != a->n) return vm_error(VMOER_ERROR_MISMATCH, "seed %d: %zu items, others have %zu", s, n, a->n);
    size_t first = (size_t)s * n;
    a->runs[s] = (vm_predictions){.n = n,
                                  .stride = VM_MAX_CHOICES,
                                  .p = a->p + first * VM_MAX_CHOICES,
                                  .k = a->k + first,
                                  .label = a->label + first};
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i), *p = json_object_get(item, "probabilities");
        size_t k = json_array_size(p);
        if (k < 1 || k > VM_MAX_CHOICES) return vm_error(VMOER_ERROR_FORMAT, "item %zu: no probabilities", i);
        for (size_t c = 0; c < k; c++) a->p[(first + i) * VM_MAX_CHOICES + c] = json_number_value(json_array_get(p, c));
        a->k[first + i] = (int)k;
        a->label[first + i] = (int)json_integer_value(json_object_get(item, "label"));
    }
    return VMOER_OK;
}

static vmoer_status read_answers(const vm_experiment *x, int task, vm_map_kind map, int router, answers *a) {
    *a = (answers){0};
    for (int s = 0; s < x->seeds; s++) {
        char folder[4096], path[4096];
        json_t *tasks;
        VM_TRY(vm_stage_folder(x, VM_STAGE_ID, task, map, s, router, folder));
        VM_TRY(vm_path_join(path, sizeof path, folder, "samples.jsonl"));
        VM_TRY(vm_api_samples(path, NULL, &tasks));
        vmoer_status status = take_items(json_object_get(tasks, x->tasks[task].name), x->seeds, s, a);
        json_decref(tasks);
        if (status != VMOER_OK) return vm_error_in(status, "%s", path);
    }
    return VMOER_OK;
}

static vmoer_status stand(const vm_outcome *o, const vm_resamples *items, const answers *a, vm_standing *out) {
    size_t count = items->count, S = o->seeds.n;
    double **tables = vm_calloc(S, sizeof *tables), mean[VM_METRICS] = {0};
    out->draws = vm_malloc(count * VM_METRICS, sizeof *out->draws);
    vmoer_status status = tables && out->draws ? VMOER_OK : vm_api_no_memory();
    for (size_t s = 0; s < S && status == VMOER_OK; s++) {
        vm_metrics m;
        double row[VM_METRICS];
        tables[s] = vm_malloc(count * VM_METRICS, sizeof **tables);
        status = tables[s] ? vm_metrics_resampled(&a->runs[s], items, &m, tables[s]) : vm_api_no_memory();
        if (status != VMOER_OK) break;
        memcpy(row, &m, sizeof row);
        for (size_t k = 0; k < VM_METRICS; k++) mean[k] += row[k] / (double)S;
    }
    if (status == VMOER_OK) {
        memcpy(&out->value, mean, sizeof mean);
        vm_over_seeds((const double *const *)tables, &o->seeds, VM_METRICS, out->draws);
        status = vm_ece_floor_over_seeds(a->runs, S, FLOOR_DRAWS, 0, &out->floor);
    }
    for (size_t s = 0; s < S && tables; s++) vm_free(tables[s]);
    vm_free(tables);
    return status;
}

/* ---- calibration ---- */

static double column_of(const vm_metrics *m, size_t column) {
    double row[VM_METRICS];
    memcpy(row, m, sizeof row);
    return row[column];
}

/* a - b by measure: [difference, low, high]. */
static vmoer_status differences_of(const vm_standing *a, const vm_standing *b, size_t count, json_t **out) {
    *out = json_object();
    for (int k = 0; k < VERSUS_MEASURES; k++) {
        size_t column = measures[k].column;
        vm_interval ci;
        VM_TRY(interval(a->draws, b->draws, count, VM_METRICS, column, &ci));
        double difference = column_of(&a->value, column) - column_of(&b->value, column);
        json_object_set_new(*out, measures[k].name, json_pack("[f, f, f]", difference, ci.low, ci.high));
    }
    return VMOER_OK;
}

static vmoer_status versus(const vm_experiment *x, const vm_standing *all, int router, size_t count, json_t *entry) {
    static const char *const against[] = {"map", "temperature", "residual"};
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof against / sizeof *against; i++)
        for (int r = 0; r < x->n_routers; r++) {
            if (strcmp(x->routers[r].name, against[i]) != 0 || r == router || !all[r].draws) continue;
            json_t *differences;
            VM_TRY(differences_of(&all[router], &all[r], count, &differences));
            json_object_set_new(object, against[i], differences);
        }
    return json_object_set_new(entry, "versus", object) == 0 ? VMOER_OK : vm_api_no_memory();
}

static vmoer_status calibration_entry(const vm_outcome *o, int task, vm_map_kind map, int router, const answers *a,
                                      const vm_standing *s, json_t **out) {
    const vm_experiment *x = o->x;
    json_t *entry =
        json_pack("{s:s, s:s, s:s, s:I, s:i, s:{s:f, s:f}, s:f, s:b, s:o}", "task", x->tasks[task].name, "map",
                  vm_map_kind_name(map), "router", x->routers[router].name, "n", (json_int_t)a->n, "seeds", x->seeds,
                  "ece_floor", "mean", s->floor.mean, "p95", s->floor.p95, "excess_ece", s->value.ece - s->floor.mean,
                  "at_floor", s->value.ece < s->floor.p95, "reliability", vm_api_reliability(&a->all));
    for (int k = 0; k < MEASURES; k++)
        json_object_set_new(entry, measures[k].name,
                            vm_figure_json(column_of(&s->value, measures[k].column), s->draws, o->seeds.count,
                                           VM_METRICS, measures[k].column));
    *out = entry;
    return entry ? VMOER_OK : vm_api_no_memory();
}

/* One task on one MAP: every router's figures first, then the differences between them. */
static vmoer_status calibrate_map(const vm_outcome *o, const vm_resamples *items, int task, vm_map_kind map,
                                  vm_standing *all, json_t *out) {
    const vm_experiment *x = o->x;
    size_t first = json_array_size(out);
    for (int r = 0; r < x->n_routers; r++) {
        answers a;
        json_t *entry;
        if (!x->runs[map][r]) continue;
        vmoer_status status = read_answers(x, task, map, r, &a);
        if (status == VMOER_OK) status = stand(o, items, &a, &all[r]);
        if (status == VMOER_OK) status = calibration_entry(o, task, map, r, &a, &all[r], &entry);
        answers_clear(&a);
        VM_TRY(status);
        if (json_array_append_new(out, entry) != 0) return vm_api_no_memory();
    }
    for (int r = 0; r < x->n_routers; r++)
        if (all[r].draws) VM_TRY(versus(x, all, r, items->count, json_array_get(out, first++)));
    return VMOER_OK;
}

static void standings_free(vm_standing *all, int n) {
    for (int r = 0; r < n && all; r++) vm_free(all[r].draws);
    vm_free(all);
}

/* The standings on the first task are kept. */
static vmoer_status calibration(vm_outcome *o, json_t *out) {
    const vm_experiment *x = o->x;
    for (int task = 0; task < x->n_tasks; task++) {
        vm_resamples items;
        vmoer_status status = vm_resamples_create(x->tasks[task].n, (size_t)x->bootstrap, 0, ITEMS_STREAM, &items);
        for (int map = 0; map < VM_MAPS && status == VMOER_OK; map++) {
            vm_standing *all = vm_calloc((size_t)x->n_routers, sizeof *all);
            status = all ? calibrate_map(o, &items, task, (vm_map_kind)map, all, out) : vm_api_no_memory();
            if (task == 0)
                o->standings[map] = all;
            else
                standings_free(all, x->n_routers);
        }
        if (task == 0)
            o->items = items;
        else
            vm_resamples_free(&items);
        VM_TRY(status);
    }
    return VMOER_OK;
}

/* ---- the MAPs ---- */

static vmoer_status maps(const vm_experiment *x, json_t *out) {
    for (int task = 0; task < x->n_tasks; task++)
        for (int s = 0; s < x->seeds; s++)
            for (int map = 0; map < VM_MAPS; map++) {
                char folder[4096], path[4096], shown[512];
                json_t *record;
                VM_TRY(vm_stage_folder(x, VM_STAGE_MAP, task, VM_MAP_PUBLISHED, s, 0, folder));
                VM_TRY(vm_path_join(path, sizeof path, folder,
                                    map == VM_MAP_NLL ? "best/training.json" : "training.json"));
                VM_TRY(vm_json_load(path, &record));
                snprintf(shown, sizeof shown, "%s%s", folder + strlen(x->p->output_path) + 1,
                         map == VM_MAP_NLL ? "/best" : "");
                json_t *entry = json_pack("{s:s, s:i, s:s, s:s, s:O}", "task", x->tasks[task].name, "seed", s, "kind",
                                          vm_map_kind_name((vm_map_kind)map), "path", shown, "history",
                                          json_object_get(record, "history"));
                json_decref(record);
                if (!entry || json_array_append_new(out, entry) != 0) return vm_api_no_memory();
            }
    return VMOER_OK;
}

/* ---- all ---- */

/* Why stands in the plan: it names the data folder. */
static json_t *skipped_names(const vm_experiment *x) {
    json_t *names = json_array(), *why;
    const char *name;
    json_object_foreach(x->skipped, name, why) json_array_append_new(names, json_string(name));
    return names;
}

static vmoer_status gather(vm_outcome *o, json_t **results) {
    const vm_experiment *x = o->x;
    json_t *ood = NULL, *stability = NULL, *alive = NULL, *cost = NULL, *conformal = NULL, *goals = NULL,
           *map_list = json_array(), *calibrations = json_array();
    vmoer_status status = vm_resamples_create((size_t)x->seeds, (size_t)x->bootstrap, 0, SEEDS_STREAM, &o->seeds);
    if (status == VMOER_OK) status = maps(x, map_list);
    if (status == VMOER_OK) status = calibration(o, calibrations);
    if (status == VMOER_OK) status = vm_outcome_ood(o, &ood);
    if (status == VMOER_OK) status = vm_experiment_stability(x, &stability);
    if (status == VMOER_OK) status = vm_experiment_alive(x, &alive);
    if (status == VMOER_OK) status = vm_experiment_cost(x, &cost);
    if (status == VMOER_OK) status = vm_experiment_conformal(x, &conformal);
    if (status == VMOER_OK) status = vm_outcome_goals(o, cost, &goals);
    *results = json_pack("{s:s, s:s, s:{s:s, s:s}, s:o, s:o, s:o, s:o, s:o*, s:o*, s:o*, s:o*, s:o*, s:o*}", "vmoer",
                         vmoer_version(), "kind", "reproduce", "model", "name", x->model_name, "fingerprint",
                         x->fingerprint, "config", vm_experiment_config(x), "skipped", skipped_names(x), "maps",
                         map_list, "calibration", calibrations, "ood", ood, "stability", stability, "alive", alive,
                         "cost", cost, "conformal", conformal, "goals", goals);
    if (status == VMOER_OK && !*results) status = vm_api_no_memory();
    if (status != VMOER_OK) json_decref(*results);
    return status;
}

vmoer_status vm_experiment_results(const vm_experiment *x, json_t **results) {
    vm_outcome o = {.x = x};
    vmoer_status status = gather(&o, results);
    for (int map = 0; map < VM_MAPS; map++) standings_free(o.standings[map], x->n_routers);
    for (size_t i = 0; i < o.n_detections; i++) vm_free(o.detections[i].draws);
    vm_free(o.detections);
    vm_resamples_free(&o.seeds);
    vm_resamples_free(&o.items);
    return status;
}
