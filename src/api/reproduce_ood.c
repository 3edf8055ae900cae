/* reproduce_ood.c: how well each signal of each contestant tells strange questions, over the seeds, and over the sets
 * together. */
#include "api/reproduce.h"

#include "base/file.h"
#include "base/status.h"

#include <stdio.h>
#include <string.h>

enum { SETS_STREAM = 100 }; /* of the bootstrap samples: the first set's, apart from those of seeds and ID items */

/* The samples of one contestant on one MAP, a seed each. */
typedef struct samples {
    json_t **id, **ood; /* [seeds] {task: [sample, ...]} */
    int seeds;
} samples;

static void samples_clear(samples *s) {
    for (int i = 0; i < s->seeds && s->id && s->ood; i++) json_decref(s->id[i]), json_decref(s->ood[i]);
    vm_free(s->id);
    vm_free(s->ood);
}

static vmoer_status read_folder(const vm_experiment *x, vm_stage_kind kind, vm_map_kind map, int seed, int router,
                                json_t **out) {
    char folder[4096], path[4096];
    VM_TRY(vm_stage_folder(x, kind, 0, map, seed, router, folder));
    VM_TRY(vm_path_join(path, sizeof path, folder, "samples.jsonl"));
    return vm_api_samples(path, NULL, out);
}

static vmoer_status read_samples(const vm_experiment *x, vm_map_kind map, int router, samples *s) {
    *s = (samples){.seeds = x->seeds,
                   .id = vm_calloc((size_t)x->seeds, sizeof *s->id),
                   .ood = vm_calloc((size_t)x->seeds, sizeof *s->ood)};
    if (!s->id || !s->ood) return vm_api_no_memory();
    for (int i = 0; i < x->seeds; i++) {
        VM_TRY(read_folder(x, VM_STAGE_ID, map, i, router, &s->id[i]));
        VM_TRY(read_folder(x, VM_STAGE_OOD_RUN, map, i, router, &s->ood[i]));
    }
    return VMOER_OK;
}

/* values[n] of one signal, NULL out of memory; *whole: every item has it. */
static double *values_of(const json_t *list, const char *signal, bool *whole) {
    size_t n = json_array_size(list);
    double *values = vm_calloc(n + 1, sizeof *values);
    for (size_t i = 0; values && i < n; i++) {
        const json_t *v = json_object_get(json_object_get(json_array_get(list, i), "signals"), signal);
        *whole = *whole && json_is_number(v);
        values[i] = json_number_value(v);
    }
    return values;
}

/* One set by one signal over the seeds: draws[bootstrap, VM_OODS]. *whole becomes false where some item has no such
 * signal. */
static vmoer_status detect(const vm_outcome *o, const samples *in, int set, const char *signal,
                           const vm_resamples *items, vm_ood *value, double *draws, bool *whole) {
    const vm_experiment *x = o->x;
    size_t S = (size_t)in->seeds, count = items->count;
    double **tables = vm_calloc(S, sizeof *tables);
    vmoer_status status = tables ? VMOER_OK : vm_api_no_memory();
    *value = (vm_ood){0};
    for (size_t s = 0; s < S && status == VMOER_OK && *whole; s++) {
        vm_ood one;
        double *id = values_of(json_object_get(in->id[s], x->tasks[0].name), signal, whole),
               *ood = values_of(json_object_get(in->ood[s], x->sets[set].name), signal, whole);
        tables[s] = vm_malloc(count * VM_OODS, sizeof **tables);
        status = id && ood && tables[s] ? VMOER_OK : vm_api_no_memory();
        if (status == VMOER_OK && *whole) {
            status = vm_ood_resampled(id, &o->items, ood, items, &one, tables[s]);
            value->auroc += one.auroc / (double)S, value->aupr += one.aupr / (double)S,
                value->fpr95 += one.fpr95 / (double)S;
        }
        vm_free(id);
        vm_free(ood);
    }
    if (status == VMOER_OK && *whole) vm_over_seeds((const double *const *)tables, &o->seeds, VM_OODS, draws);
    for (size_t s = 0; s < S && tables; s++) vm_free(tables[s]);
    vm_free(tables);
    return status;
}

static vmoer_status add_entry(const vm_outcome *o, vm_map_kind map, int router, const char *set, size_t n,
                              const char *signal, const vm_ood *value, const double *draws, json_t *out) {
    size_t B = o->seeds.count;
    json_t *entry = json_pack("{s:s, s:s, s:s, s:I, s:s, s:o, s:o, s:o}", "map", vm_map_kind_name(map), "router",
                              o->x->routers[router].name, "set", set, "n", (json_int_t)n, "signal", signal, "auroc",
                              vm_figure_json(value->auroc, draws, B, VM_OODS, 0), "aupr",
                              vm_figure_json(value->aupr, draws, B, VM_OODS, 1), "fpr95",
                              vm_figure_json(value->fpr95, draws, B, VM_OODS, 2));
    return entry && json_array_append_new(out, entry) == 0 ? VMOER_OK : vm_api_no_memory();
}

static vmoer_status keep_detection(vm_outcome *o, vm_map_kind map, int router, const char *signal, double value,
                                   const double *draws) {
    size_t B = o->seeds.count;
    vm_detection d = {.map = map, .router = router, .value = value, .draws = vm_malloc(B, sizeof *d.draws)};
    snprintf(d.signal, sizeof d.signal, "%s", signal);
    if (!d.draws || !vm_grow((void **)&o->detections, &o->capacity, o->n_detections + 1, sizeof d)) {
        vm_free(d.draws);
        return vm_api_no_memory();
    }
    for (size_t r = 0; r < B; r++) d.draws[r] = draws[r * VM_OODS];
    o->detections[o->n_detections++] = d;
    return VMOER_OK;
}

/* One signal on every set, and the mean over the sets. */
static vmoer_status detect_signal(vm_outcome *o, const samples *in, vm_map_kind map, int router, const char *signal,
                                  json_t *out) {
    const vm_experiment *x = o->x;
    size_t B = o->seeds.count, all = 0;
    double *draws = vm_malloc(B * VM_OODS, sizeof *draws), *mean = vm_calloc(B * VM_OODS, sizeof *mean);
    vm_ood value, over = {0};
    bool whole = true;
    vmoer_status status = draws && mean ? VMOER_OK : vm_api_no_memory();
    for (int set = 0; set < x->n_sets && status == VMOER_OK; set++) {
        vm_resamples items;
        size_t n = json_array_size(json_object_get(in->ood[0], x->sets[set].name));
        double share = 1.0 / x->n_sets;
        status = vm_resamples_create(n, B, 0, (uint32_t)(SETS_STREAM + set), &items);
        if (status == VMOER_OK) status = detect(o, in, set, signal, &items, &value, draws, &whole);
        vm_resamples_free(&items);
        if (!whole) break;
        if (status == VMOER_OK) status = add_entry(o, map, router, x->sets[set].name, n, signal, &value, draws, out);
        over.auroc += value.auroc * share, over.aupr += value.aupr * share, over.fpr95 += value.fpr95 * share;
        all += n;
        for (size_t i = 0; i < B * VM_OODS && status == VMOER_OK; i++) mean[i] += draws[i] * share;
    }
    if (status == VMOER_OK && whole) status = add_entry(o, map, router, "mean", all, signal, &over, mean, out);
    if (status == VMOER_OK && whole) status = keep_detection(o, map, router, signal, over.auroc, mean);
    vm_free(draws);
    vm_free(mean);
    return status;
}

vmoer_status vm_outcome_ood(vm_outcome *o, json_t **out) {
    const vm_experiment *x = o->x;
    *out = json_array();
    for (int map = 0; map < VM_MAPS && x->n_sets; map++)
        for (int r = 0; r < x->n_routers; r++) {
            samples in;
            const char *signal;
            json_t *unused;
            if (!x->runs[map][r]) continue;
            vmoer_status status = read_samples(x, (vm_map_kind)map, r, &in);
            const json_t *first =
                status == VMOER_OK ? json_array_get(json_object_get(in.id[0], x->tasks[0].name), 0) : NULL;
            json_object_foreach(json_object_get(first, "signals"), signal, unused) {
                if (status == VMOER_OK) status = detect_signal(o, &in, (vm_map_kind)map, r, signal, *out);
            }
            samples_clear(&in);
            VM_TRY(status);
        }
    return *out ? VMOER_OK : vm_api_no_memory();
}
