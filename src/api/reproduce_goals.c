/* reproduce_goals.c: stability over the seeds, and what was to be reached beside what was. */
#include "api/reproduce.h"

#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEVELS = 5 }; /* of a stability stage: .01 and .1, each relative and absolute, then the target's */
enum { LEVEL_ABSOLUTE = 1, LEVEL_TARGET = 4 };

/* ---- stability ---- */

/* The stability results of one contestant, a seed each. */
typedef struct seeds_of {
    json_t **run; /* [n] */
    int n;
} seeds_of;

static void seeds_clear(seeds_of *s) {
    for (int i = 0; i < s->n && s->run; i++) json_decref(s->run[i]);
    vm_free(s->run);
}

static vmoer_status seeds_read(const vm_experiment *x, vm_map_kind map, int router, seeds_of *s) {
    *s = (seeds_of){.n = x->seeds, .run = vm_calloc((size_t)x->seeds, sizeof *s->run)};
    if (!s->run) return vm_api_no_memory();
    for (int i = 0; i < x->seeds; i++) VM_TRY(vm_stage_results(x, VM_STAGE_STABILITY, map, i, router, &s->run[i]));
    return VMOER_OK;
}

static const json_t *level_of(const json_t *run, size_t level) {
    return json_array_get(json_object_get(json_object_get(run, "results"), "sigmas"), level);
}

/* Mean over the seeds of level.part.key, or of level.key with part NULL; NAN where a seed has no number there. */
static double over_seeds(const seeds_of *s, size_t level, const char *part, const char *key) {
    double sum = 0;
    for (int i = 0; i < s->n; i++) {
        const json_t *of = level_of(s->run[i], level), *v = json_object_get(part ? json_object_get(of, part) : of, key);
        sum += json_is_number(v) ? json_number_value(v) : NAN;
    }
    return sum / s->n;
}

static double layer_over_seeds(const seeds_of *s, size_t level, size_t layer, const char *key) {
    double sum = 0;
    for (int i = 0; i < s->n; i++)
        sum += json_number_value(
            json_object_get(json_array_get(json_object_get(level_of(s->run[i], level), "layers"), layer), key));
    return sum / s->n;
}

static json_t *means_of(const seeds_of *s, size_t level, const char *part) {
    static const char *const keys[][2] = {{"isolated", "isolated"},
                                          {"isolated_shared", "isolated_shared"},
                                          {"chance_corrected", "isolated_chance_corrected"},
                                          {"propagated", "propagated"},
                                          {"load_entropy", "load_entropy"},
                                          {"between_tokens", "between_tokens"}};
    json_t *object = json_object();
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        double mean = over_seeds(s, level, part, keys[k][1]);
        if (isfinite(mean)) json_object_set_new(object, keys[k][0], json_pack("{s:f}", "mean", mean));
    }
    return object;
}

static vmoer_status add_level(const vm_experiment *x, const seeds_of *s, vm_map_kind map, int router, size_t level,
                              json_t *out) {
    double sigma = over_seeds(s, level, NULL, "sigma");
    if (!isfinite(sigma)) return VMOER_OK; /* some seed's MAP never falls to the target */
    json_t *layers = json_array(), *bayesian = means_of(s, level, "mean_bayesian"), *entry = means_of(s, level, "mean");
    for (size_t l = 0; l < (size_t)x->n_layers; l++)
        json_array_append_new(layers, json_pack("{s:I, s:f, s:f}", "layer", (json_int_t)l + x->first_layer, "isolated",
                                                layer_over_seeds(s, level, l, "isolated"), "load_entropy",
                                                layer_over_seeds(s, level, l, "load_entropy")));
    json_t *own =
        json_pack("{s:s, s:s, s:f, s:b, s:o, s:o}", "map", vm_map_kind_name(map), "router", x->routers[router].name,
                  "sigma", sigma, "relative", json_is_true(json_object_get(level_of(s->run[0], level), "relative")),
                  "layers", layers, "bayesian", bayesian);
    if (level == LEVEL_TARGET)
        json_object_set(own, "at_jaccard",
                        json_object_get(json_object_get(json_object_get(s->run[0], "results"), "sigma_at"), "jaccard"));
    int failed = json_object_update(entry, own);
    json_decref(own);
    return !failed && json_array_append_new(out, entry) == 0 ? VMOER_OK : vm_api_no_memory();
}

vmoer_status vm_experiment_stability(const vm_experiment *x, json_t **out) {
    *out = json_array();
    for (int map = 0; map < VM_MAPS; map++)
        for (int r = 0; r < x->n_routers; r++) {
            seeds_of s;
            if (!x->runs[map][r]) continue;
            vmoer_status status = seeds_read(x, (vm_map_kind)map, r, &s);
            for (size_t level = 0; level < LEVELS && status == VMOER_OK; level++)
                status = add_level(x, &s, (vm_map_kind)map, r, level, *out);
            seeds_clear(&s);
            VM_TRY(status);
        }
    return *out ? VMOER_OK : vm_api_no_memory();
}

/* Is the router alive? What a seed does not say (null) nobody says. */
static vmoer_status add_alive(const vm_experiment *x, const seeds_of *s, vm_map_kind map, int router, json_t *out) {
    static const char *const keys[] = {"flipped_layers", "flip_rate", "scale_variation", "off_diagonal"};
    json_t *entry = json_pack("{s:s, s:s}", "map", vm_map_kind_name(map), "router", x->routers[router].name);
    bool any = false;
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        double sum = 0;
        for (int i = 0; i < s->n; i++) {
            const json_t *alive = json_object_get(json_object_get(s->run[i], "results"), "alive"),
                         *value = json_object_get(alive, keys[k]);
            sum += json_is_number(value) ? json_number_value(value) : NAN;
        }
        any = any || isfinite(sum);
        json_object_set_new(entry, keys[k], vm_api_number(sum / s->n));
    }
    if (!any) { /* no router in any layer */
        json_decref(entry);
        return VMOER_OK;
    }
    return json_array_append_new(out, entry) == 0 ? VMOER_OK : vm_api_no_memory();
}

vmoer_status vm_experiment_alive(const vm_experiment *x, json_t **out) {
    *out = json_array();
    for (int map = 0; map < VM_MAPS; map++)
        for (int r = 0; r < x->n_routers; r++) {
            seeds_of s;
            if (!x->runs[map][r] || x->routers[r].deterministic) continue;
            vmoer_status status = seeds_read(x, (vm_map_kind)map, r, &s);
            if (status == VMOER_OK) status = add_alive(x, &s, (vm_map_kind)map, r, *out);
            seeds_clear(&s);
            VM_TRY(status);
        }
    return *out ? VMOER_OK : vm_api_no_memory();
}

/* ---- goals ---- */

static int router_index(const vm_experiment *x, const char *name) {
    for (int r = 0; r < x->n_routers; r++)
        if (strcmp(x->routers[r].name, name) == 0) return r;
    return -1;
}

/* values: by bootstrap sample, [bootstrap], sorted here; NULL: no interval. holds: -1: cannot be said. */
static vmoer_status add_goal(const vm_outcome *o, vm_map_kind map, int router, const char *what, const char *goal,
                             double value, double *values, int holds, json_t *out) {
    char name[256];
    snprintf(name, sizeof name, "%s / %s: %s", vm_map_kind_name(map), o->x->routers[router].name, what);
    if (!isfinite(value)) return VMOER_OK;
    json_t *entry = json_pack("{s:s, s:s, s:s, s:s, s:f, s:o, s:o}", "name", name, "goal", goal, "map",
                              vm_map_kind_name(map), "router", o->x->routers[router].name, "value", value, "ci95",
                              values ? vm_api_interval(vm_interval_of(values, o->seeds.count)) : json_null(), "holds",
                              holds < 0 ? json_null() : json_boolean(holds));
    return entry && json_array_append_new(out, entry) == 0 ? VMOER_OK : vm_api_no_memory();
}

/* Relative to the published MAP, sample by sample. */
static void relative(const double *a, const double *b, size_t count, size_t width, size_t column, double *values) {
    for (size_t r = 0; r < count; r++) {
        double base = b[r * width + column];
        values[r] = base > 0 ? a[r * width + column] / base - 1 : 0;
    }
}

static vmoer_status calibration_goals(const vm_outcome *o, vm_map_kind map, int router, int base, double *values,
                                      json_t *out) {
    const vm_standing *s = &o->standings[map][router], *b = &o->standings[VM_MAP_PUBLISHED][base];
    size_t B = o->seeds.count, ece = offsetof(vm_metrics, ece) / sizeof(double),
           acc = offsetof(vm_metrics, acc) / sizeof(double);
    if (b->value.ece > 0) {
        double change = s->value.ece / b->value.ece - 1;
        relative(s->draws, b->draws, B, VM_METRICS, ece, values);
        VM_TRY(add_goal(o, map, router, "ECE against the published MAP", "-94%, or at the floor", change, values,
                        change <= -.94 || s->value.ece < s->floor.p95, out));
    }
    for (size_t r = 0; r < B; r++) values[r] = s->draws[r * VM_METRICS + acc] - b->draws[r * VM_METRICS + acc];
    vm_interval ci = vm_interval_of(values, B);
    return add_goal(o, map, router, "accuracy against the published MAP, paired", "not lower beyond noise",
                    s->value.acc - b->value.acc, values, ci.high >= 0, out);
}

static const vm_detection *detection_of(const vm_outcome *o, vm_map_kind map, int router, const char *signal) {
    for (size_t i = 0; i < o->n_detections; i++) {
        const vm_detection *d = &o->detections[i];
        if (d->map == map && d->router == router && strcmp(d->signal, signal) == 0) return d;
    }
    return NULL;
}

static vmoer_status ood_goals(const vm_outcome *o, vm_map_kind map, int router, int base, double *values, json_t *out) {
    static const char *const signals[] = {"choice_entropy", "logit_variance", "mutual_information",
                                          "routing_temperature"};
    const vm_detection *b = detection_of(o, VM_MAP_PUBLISHED, base, signals[0]);
    for (size_t i = 0; i < sizeof signals / sizeof *signals && b && b->value > 0; i++) {
        const vm_detection *d = detection_of(o, map, router, signals[i]);
        char what[128];
        if (!d) continue;
        double change = d->value / b->value - 1;
        snprintf(what, sizeof what, "mean OoD AUROC by %s against the published MAP's choice_entropy", signals[i]);
        relative(d->draws, b->draws, o->seeds.count, 1, 0, values);
        VM_TRY(add_goal(o, map, router, what, "+12%", change, values, change >= .12, out));
    }
    return VMOER_OK;
}

/* Isolated Jaccard index over the layers in which `layers` has a router, else over all; of `s`. Mean over the seeds. */
static double steadiness(const seeds_of *s, const seeds_of *layers, size_t level, bool chosen) {
    double sum = 0;
    for (int i = 0; i < s->n; i++) {
        const json_t *own = json_object_get(json_object_get(layers->run[i], "router"), "layers"),
                     *rows = json_object_get(level_of(s->run[i], level), "layers");
        size_t n = chosen ? json_array_size(own) : json_array_size(rows);
        double seed = 0;
        for (size_t k = 0; k < n; k++) {
            size_t l = chosen ? (size_t)json_integer_value(json_array_get(own, k)) : k;
            seed += json_number_value(json_object_get(json_array_get(rows, l), "isolated"));
        }
        sum += n ? seed / (double)n : NAN;
    }
    return sum / s->n;
}

static vmoer_status stability_goals(const vm_outcome *o, vm_map_kind map, int router, int base, json_t *out) {
    static const struct {
        size_t level;
        const char *at;
    } levels[] = {{LEVEL_ABSOLUTE, "sigma .01"}, {LEVEL_TARGET, "the sigma where MAP falls to .53"}};
    seeds_of s, b;
    vmoer_status status = seeds_read(o->x, map, router, &s);
    vmoer_status base_status = seeds_read(o->x, VM_MAP_PUBLISHED, base, &b);
    if (status == VMOER_OK) status = base_status;
    for (size_t i = 0; i < 2 * sizeof levels / sizeof *levels && status == VMOER_OK; i++) {
        size_t level = levels[i / 2].level;
        bool chosen = i % 2 == 0;
        char what[160];
        double change = steadiness(&s, &s, level, chosen) / steadiness(&b, &s, level, chosen) - 1;
        snprintf(what, sizeof what, "isolated Jaccard at %s, %s layers, against the published MAP", levels[i / 2].at,
                 chosen ? "its" : "all");
        status = add_goal(o, map, router, what, "+38%", change, NULL, change >= .38, out);
    }
    seeds_clear(&s);
    seeds_clear(&b);
    return status;
}

static vmoer_status cost_goal(const vm_outcome *o, vm_map_kind map, int router, const json_t *cost, json_t *out) {
    size_t i;
    const json_t *entry;
    json_array_foreach(cost, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "router")),
                   *layers = json_string_value(json_object_get(entry, "layers"));
        if (strcmp(name, o->x->routers[router].name) != 0 || strcmp(layers, "chosen") != 0) continue;
        double share = json_number_value(json_object_get(entry, "flops_share"));
        return add_goal(o, map, router, "operations it adds, its layers", "< 1%", share, NULL, share < .01, out);
    }
    return VMOER_OK;
}

/* Of the router that was named before, on both MAPs; beside it the NLL-stopped MAP itself and temperature scaling. */
vmoer_status vm_outcome_goals(const vm_outcome *o, const json_t *cost, json_t **out) {
    const vm_experiment *x = o->x;
    const struct {
        vm_map_kind map;
        const char *router;
    } rows[] = {{VM_MAP_PUBLISHED, x->headline},
                {VM_MAP_NLL, x->headline},
                {VM_MAP_PUBLISHED, "temperature"},
                {VM_MAP_NLL, "map"}};
    int base = router_index(x, "map");
    double *values = vm_malloc(o->seeds.count, sizeof *values);
    *out = json_array();
    vmoer_status status = values && *out ? VMOER_OK : vm_api_no_memory();
    for (size_t i = 0; i < sizeof rows / sizeof *rows && status == VMOER_OK; i++) {
        int r = router_index(x, rows[i].router);
        if (r < 0 || base < 0 || !x->runs[rows[i].map][r] || !x->runs[VM_MAP_PUBLISHED][base]) continue;
        status = calibration_goals(o, rows[i].map, r, base, values, *out);
        if (status == VMOER_OK) status = stability_goals(o, rows[i].map, r, base, *out);
        if (status == VMOER_OK) status = ood_goals(o, rows[i].map, r, base, values, *out);
        if (status == VMOER_OK) status = cost_goal(o, rows[i].map, r, cost, *out);
    }
    vm_free(values);
    return status;
}
