/* read_measures.c: the results.json of `vmoer stability`, `cost` and `conformal`. */
#include "report/reader.h"

#include "base/status.h"

#include <math.h>

static const char *const STEADY_KEYS[VM_STEADY_FACTS] = {
    "isolated", "isolated_chance_corrected", "isolated_shared", "propagated", "load_entropy", "between_tokens"};

static vmoer_status read_facts(const vm_reader *r, const json_t *object, const char *where,
                               double fact[VM_STEADY_FACTS]) {
    for (int k = 0; k < VM_STEADY_FACTS; k++) VM_TRY(vm_may_number(r, object, where, STEADY_KEYS[k], &fact[k]));
    return VMOER_OK;
}

static vmoer_status read_layer(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_steady_layer *out = item;
    size_t layer;
    VM_TRY(vm_need_count(r, entry, where, "layer", &layer));
    out->layer = (int)layer;
    return read_facts(r, entry, where, out->fact);
}

static vmoer_status read_sigma(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_steady_sigma *out = item;
    const json_t *mean, *bayesian = json_object_get(entry, "mean_bayesian");
    VM_TRY(vm_need_number(r, entry, where, "sigma", &out->sigma));
    VM_TRY(vm_need_bool(r, entry, where, "relative", &out->relative));
    VM_TRY(vm_need_object(r, entry, where, "mean", &mean));
    for (int k = 0; k < VM_STEADY_FACTS; k++) {
        VM_TRY(vm_may_figure(r, mean, where, STEADY_KEYS[k], &out->mean[k]));
        VM_TRY(vm_may_number(r, bayesian, where, STEADY_KEYS[k], &out->bayesian[k]));
    }
    return vm_may_list(r, entry, "layers", sizeof *out->layers, read_layer, (void **)&out->layers, &out->n_layers);
}

vmoer_status vm_read_alive(const vm_reader *r, const json_t *object, const char *where, double alive[VM_ALIVE_FACTS]) {
    static const char *const KEYS[VM_ALIVE_FACTS] = {"flipped_layers", "flip_rate", "scale_variation", "off_diagonal"};
    for (int k = 0; k < VM_ALIVE_FACTS; k++) VM_TRY(vm_may_number(r, object, where, KEYS[k], &alive[k]));
    return VMOER_OK;
}

vmoer_status vm_read_stability(const vm_reader *r, const json_t *root, const json_t *results, const char *path) {
    vm_report_data *data = r->data;
    vm_report_steady s = {.path = path};
    double at_jaccard, at_sigma;
    const json_t *router, *at = json_object_get(results, "sigma_at"), *alive = json_object_get(results, "alive");
    VM_TRY(vm_need_label(r, root, &s.label));
    VM_TRY(vm_need_object(r, root, "", "router", &router));
    VM_TRY(vm_need_string(r, router, "router", "kind", &s.router));
    VM_TRY(vm_may_list(r, results, "sigmas", sizeof *s.sigmas, read_sigma, (void **)&s.sigmas, &s.n_sigmas));
    VM_TRY(vm_may_number(r, results, "results", "chance", &s.chance));
    VM_TRY(vm_may_number(r, at, "sigma_at", "jaccard", &at_jaccard));
    VM_TRY(vm_may_number(r, at, "sigma_at", "sigma", &at_sigma));
    for (size_t i = 0; i < s.n_sigmas; i++)
        s.sigmas[i].at_jaccard = s.sigmas[i].relative && s.sigmas[i].sigma == at_sigma ? at_jaccard : NAN;
    s.has_alive = json_is_object(alive);
    if (alive && !json_is_null(alive) && !s.has_alive) return vm_reader_wrong(r, "results", "alive", "an object");
    VM_TRY(vm_read_alive(r, alive, "alive", s.alive));
    return vm_reader_append(r, (void **)&data->steady, &data->capacity[3], &data->n_steady, &s, sizeof s);
}

static vmoer_status read_cost(const vm_reader *r, const json_t *object, const char *where, vm_report_cost *out) {
    static const char *const KEYS[VM_COST_FACTS] = {"parameters", "flops_token", "flops_share", "flops_counted_share",
                                                    "workspace_bytes"};
    VM_TRY(vm_need_count(r, object, where, "n_layers", &out->n_layers));
    for (int k = 0; k < VM_COST_FACTS; k++) VM_TRY(vm_may_number(r, object, where, KEYS[k], &out->fact[k]));
    return VMOER_OK;
}

vmoer_status vm_read_cost_entry(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_report_cost *out = item;
    VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    VM_TRY(vm_need_string(r, entry, where, "layers", &out->layers));
    return read_cost(r, entry, where, out);
}

/* The router's own layers, and such a router in all of them. */
vmoer_status vm_read_cost(const vm_reader *r, const json_t *root, const json_t *results, const char *path) {
    static const char *const WAYS[] = {"chosen", "all"};
    vm_report_data *data = r->data;
    const json_t *router, *way;
    vm_report_cost c = {.path = path};
    VM_TRY(vm_need_object(r, root, "", "router", &router));
    VM_TRY(vm_need_string(r, router, "router", "kind", &c.router));
    for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++) {
        VM_TRY(vm_need_object(r, results, "results", WAYS[i], &way));
        c.layers = WAYS[i];
        VM_TRY(read_cost(r, way, WAYS[i], &c));
        VM_TRY(vm_reader_append(r, (void **)&data->costs, &data->capacity[4], &data->n_costs, &c, sizeof c));
    }
    return VMOER_OK;
}

/* ---- conformal ---- */

static vmoer_status read_sets(const vm_reader *r, const json_t *test, const char *where, const char *way,
                              vm_answer_sets *out) {
    const json_t *sets, *ci, *inside;
    VM_TRY(vm_need_object(r, test, where, way, &sets));
    VM_TRY(vm_need_number(r, sets, way, "coverage", &out->coverage));
    VM_TRY(vm_need_number(r, sets, way, "size", &out->size));
    VM_TRY(vm_may_number(r, sets, way, "quantile", &out->quantile));
    out->ci = (vm_interval){NAN, NAN};
    ci = json_object_get(sets, "ci95");
    if (ci) VM_TRY(vm_need_interval(r, ci, way, "coverage", &out->ci));
    inside = json_object_get(sets, "inside");
    out->inside = json_is_true(inside) ? 1 : 0;
    if (!json_is_boolean(inside)) VM_TRY(vm_need_number(r, sets, way, "inside", &out->inside));
    const json_t *sizes = json_object_get(sets, "sizes");
    out->n_sizes = json_array_size(sizes);
    if (!json_is_array(sizes) || out->n_sizes > VMOER_MAX_CHOICES + 1)
        return vm_reader_wrong(r, way, "sizes", "an array of shares, one a number of choices,");
    out->sizes = vm_reader_alloc(r, out->n_sizes, sizeof *out->sizes);
    if (!out->sizes) return vm_reader_memory(r);
    for (size_t i = 0; i < out->n_sizes; i++) {
        const json_t *share = json_array_get(sizes, i);
        if (!json_is_number(share)) return vm_reader_wrong(r, way, "sizes", "numbers");
        out->sizes[i] = json_number_value(share);
    }
    return VMOER_OK;
}

static vmoer_status read_test(const vm_reader *r, const json_t *task, const char *key, vm_conformal_test *out) {
    static const char *const WAYS[VM_SETS_WAYS] = {"lac", "aps"};
    const json_t *test, *theory, *ci;
    VM_TRY(vm_need_object(r, task, "", key, &test));
    VM_TRY(vm_need_count(r, test, key, "n_calibration", &out->n_calibration));
    VM_TRY(vm_need_count(r, test, key, "n_test", &out->n_test));
    VM_TRY(vm_need_object(r, test, key, "theory", &theory));
    VM_TRY(vm_need_number(r, theory, "theory", "coverage", &out->theory));
    VM_TRY(vm_need_object(r, theory, "theory", "ci95", &ci));
    VM_TRY(vm_need_interval(r, ci, "theory.ci95", "coverage", &out->expect));
    for (int way = 0; way < VM_SETS_WAYS; way++) VM_TRY(read_sets(r, test, key, WAYS[way], &out->sets[way]));
    return VMOER_OK;
}

static vmoer_status read_abstaining(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    vm_abstaining *out = item;
    VM_TRY(vm_need_number(r, entry, where, "accuracy", &out->accuracy));
    VM_TRY(vm_may_number(r, entry, where, "confidence", &out->confidence));
    VM_TRY(vm_may_number(r, entry, where, "coverage", &out->coverage));
    return vm_may_number(r, entry, where, "selective_accuracy", &out->selective);
}

static vmoer_status read_conformal_task(const vm_reader *r, const char *name, const json_t *json,
                                        vm_conformal_task *out) {
    const json_t *shift = json_object_get(json, "shift");
    out->name = name;
    if (!json_is_object(json)) return vm_reader_wrong(r, "results", name, "an object");
    VM_TRY(vm_need_count(r, json, name, "n", &out->n));
    VM_TRY(read_test(r, json, "halves", &out->halves));
    VM_TRY(vm_may_list(r, json, "abstention", sizeof *out->abstaining, read_abstaining, (void **)&out->abstaining,
                       &out->n_abstaining));
    VM_TRY(vm_may_points(r, json, name, "risk_coverage", &out->coverage, &out->risk, &out->n_curve));
    if (!shift || json_is_null(shift)) return VMOER_OK;
    VM_TRY(read_test(r, json, "shift", &out->shift));
    VM_TRY(vm_need_string(r, shift, "shift", "run", &out->shift_run));
    VM_TRY(vm_need_string(r, shift, "shift", "split", &out->shift_split));
    return vm_may_list(r, shift, "abstention", sizeof *out->shifted, read_abstaining, (void **)&out->shifted,
                       &out->n_shifted);
}

vmoer_status vm_read_conformal(const vm_reader *r, const json_t *root, const json_t *results, const char *path) {
    vm_report_data *data = r->data;
    vm_report_conformal c = {.path = path, .n_tasks = json_object_size(results)};
    const json_t *config;
    VM_TRY(vm_need_label(r, root, &c.label));
    VM_TRY(vm_need_object(r, root, "", "config", &config));
    VM_TRY(vm_need_number(r, config, "config", "alpha", &c.alpha));
    if (c.n_tasks > VM_REPORT_MAX_NAMES)
        return vm_error(VMOER_ERROR_LIMIT, "%s: results: more than %d tasks", r->file, VM_REPORT_MAX_NAMES);
    c.tasks = vm_reader_alloc(r, c.n_tasks, sizeof *c.tasks);
    if (!c.tasks) return vm_reader_memory(r);
    const char *name;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)results, name, value) VM_TRY(read_conformal_task(r, name, value, &c.tasks[i++]));
    return vm_reader_append(r, (void **)&data->conformals, &data->capacity[6], &data->n_conformals, &c, sizeof c);
}
