/* reproduce_means.c: what is a plain mean over the seeds: how answer sets cover; and what a router costs. */
#include "api/reproduce.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

static const char *const scores[] = {"lac", "aps"};

/* The number at results.TASK.part.score.key of a conformal result; NAN where there is none. */
static double number_at(const json_t *run, const char *task, const char *part, const char *score, const char *key) {
    const json_t *of = json_object_get(json_object_get(json_object_get(run, "results"), task), part),
                 *value = json_object_get(json_object_get(of, score), key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static json_t *part_of(json_t *const *runs, int n, const char *task, const char *part) {
    static const char *const keys[] = {"coverage", "size"};
    json_t *object = json_object();
    for (size_t s = 0; s < sizeof scores / sizeof *scores; s++) {
        json_t *own = json_object();
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            double sum = 0;
            for (int i = 0; i < n; i++) sum += number_at(runs[i], task, part, scores[s], keys[k]);
            if (isfinite(sum)) json_object_set_new(own, keys[k], json_real(sum / n));
        }
        json_object_set_new(object, scores[s], own);
    }
    return object;
}

static vmoer_status conformal_entry(const vm_experiment *x, int router, json_t **runs, json_t **out) {
    const char *task = x->tasks[0].name;
    for (int i = 0; i < x->seeds; i++)
        VM_TRY(vm_stage_results(x, VM_STAGE_CONFORMAL, VM_MAP_PUBLISHED, i, router, &runs[i]));
    *out = json_pack("{s:s, s:s, s:O, s:o}", "map", vm_map_kind_name(VM_MAP_PUBLISHED), "router",
                     x->routers[router].name, "alpha", json_object_get(json_object_get(runs[0], "config"), "alpha"),
                     "halves", part_of(runs, x->seeds, task, "halves"));
    if (x->p->split != VMOER_SPLIT_HELDOUT) json_object_set_new(*out, "shift", part_of(runs, x->seeds, task, "shift"));
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "conformal: no alpha in a stage's results");
}

/* One entry for the router's own layers and one for all. */
static vmoer_status cost_entries(const vm_experiment *x, int router, const json_t *run, json_t *out) {
    static const char *const ways[] = {"chosen", "all"};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        json_t *of = json_object_get(json_object_get(run, "results"), ways[i]);
        json_t *entry = json_pack("{s:s, s:s}", "router", x->routers[router].name, "layers", ways[i]);
        if (json_object_update(entry, of) != 0 || json_array_append_new(out, entry) != 0)
            return vm_error(VMOER_ERROR_FORMAT, "cost: a stage's results lack \"%s\"", ways[i]);
    }
    return VMOER_OK;
}

vmoer_status vm_experiment_cost(const vm_experiment *x, json_t **out) {
    *out = json_array();
    for (int r = 0; r < x->n_routers; r++) {
        json_t *run;
        if (!x->runs[VM_MAP_PUBLISHED][r] || x->routers[r].deterministic) continue;
        VM_TRY(vm_stage_results(x, VM_STAGE_COST, VM_MAP_PUBLISHED, 0, r, &run));
        vmoer_status status = cost_entries(x, r, run, *out);
        json_decref(run);
        VM_TRY(status);
    }
    return VMOER_OK;
}

vmoer_status vm_experiment_conformal(const vm_experiment *x, json_t **out) {
    *out = json_array();
    for (int r = 0; r < x->n_routers; r++) {
        json_t **runs, *entry;
        if (!x->runs[VM_MAP_PUBLISHED][r]) continue;
        runs = vm_calloc((size_t)x->seeds, sizeof *runs);
        vmoer_status status = runs ? conformal_entry(x, r, runs, &entry) : vm_api_no_memory();
        for (int i = 0; i < x->seeds && runs; i++) json_decref(runs[i]);
        vm_free(runs);
        VM_TRY(status);
        json_array_append_new(*out, entry);
    }
    return VMOER_OK;
}
