/* read_measures.c: the results.json of `vmoer stability` and `vmoer cost`. */
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
    vm_report_steady s = {.path = path, .at_jaccard = NAN, .at_sigma = NAN};
    const json_t *router, *at = json_object_get(results, "sigma_at"), *alive = json_object_get(results, "alive");
    VM_TRY(vm_need_label(r, root, &s.label));
    VM_TRY(vm_need_object(r, root, "", "router", &router));
    VM_TRY(vm_need_string(r, router, "router", "kind", &s.router));
    VM_TRY(vm_may_list(r, results, "sigmas", sizeof *s.sigmas, read_sigma, (void **)&s.sigmas, &s.n_sigmas));
    VM_TRY(vm_may_number(r, results, "results", "chance", &s.chance));
    VM_TRY(vm_may_number(r, at, "sigma_at", "jaccard", &s.at_jaccard));
    VM_TRY(vm_may_number(r, at, "sigma_at", "sigma", &s.at_sigma));
    s.has_alive = json_is_object(alive);
    if (alive && !json_is_null(alive) && !s.has_alive) return vm_reader_wrong(r, "results", "alive", "an object");
    VM_TRY(vm_read_alive(r, alive, "alive", s.alive));
    return vm_reader_append(r, (void **)&data->steady, &data->capacity[3], &data->n_steady, &s, sizeof s);
}

vmoer_status vm_read_cost_entry(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    static const char *const KEYS[VM_COST_FACTS] = {"parameters", "flops_token", "flops_share", "flops_counted_share",
                                                    "workspace_bytes"};
    vm_report_cost *out = item;
    VM_TRY(vm_need_string(r, entry, where, "router", &out->router));
    VM_TRY(vm_need_string(r, entry, where, "layers", &out->layers));
    VM_TRY(vm_need_count(r, entry, where, "n_layers", &out->n_layers));
    for (int k = 0; k < VM_COST_FACTS; k++) VM_TRY(vm_may_number(r, entry, where, KEYS[k], &out->fact[k]));
    return VMOER_OK;
}
