/* compare.c: see compare.h. */
#include "eval/compare.h"
#include "eval/items.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"

#include <math.h>
#include <string.h>

vmoer_status vm_resamples_create(size_t n, size_t count, uint64_t seed, uint32_t stream, vm_resamples *out) {
    *out = (vm_resamples){.n = n, .count = count};
    size_t cells;
    if (n < 1 || n > UINT32_MAX || count < 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "bootstrap: %zu samples of %zu items, at least one of each", count, n);
    if (!vm_mul(n, count, &cells) || !(out->weight = vm_calloc(cells, sizeof *out->weight)))
        return vm_error(VMOER_ERROR_MEMORY, "bootstrap: %zu samples of %zu items", count, n);
    vm_rng rng = vm_rng_start(seed, VM_RNG_BOOTSTRAP, stream);
    for (size_t r = 0; r < count; r++)
        for (size_t i = 0; i < n; i++) out->weight[r * n + vm_rng_below(&rng, (uint32_t)n)]++;
    return VMOER_OK;
}

void vm_resamples_free(vm_resamples *s) {
    vm_free(s->weight);
    *s = (vm_resamples){0};
}

vmoer_status vm_metrics_resampled(const vm_predictions *d, const vm_resamples *items, vm_metrics *out, double *draws) {
    vm_items own;
    if (items->n != d->n)
        return vm_error(VMOER_ERROR_ARGUMENT, "bootstrap: samples of %zu items for %zu", items->n, d->n);
    vmoer_status status = vm_items_build(d, &own);
    if (status == VMOER_OK) {
        *out = vm_items_metrics(&own, NULL);
        for (size_t r = 0; r < items->count; r++) {
            vm_metrics m = vm_items_metrics(&own, items->weight + r * items->n);
            memcpy(draws + r * VM_METRICS, &m, sizeof m);
        }
    }
    vm_items_free(&own);
    return status;
}

void vm_over_seeds(const double *const *runs, const vm_resamples *seeds, size_t width, double *out) {
    for (size_t r = 0; r < seeds->count; r++)
        for (size_t k = 0; k < width; k++) {
            double sum = 0;
            for (size_t s = 0; s < seeds->n; s++) sum += seeds->weight[r * seeds->n + s] * runs[s][r * width + k];
            out[r * width + k] = sum / (double)seeds->n;
        }
}

vmoer_status vm_ece_floor_over_seeds(const vm_predictions *runs, size_t n_runs, int draws, uint64_t seed,
                                     vm_ece_floor *out) {
    if (n_runs < 1 || draws < 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "calibration floor: %d draws of %zu runs, at least one of each", draws,
                        n_runs);
    size_t count = (size_t)draws;
    double *mean = vm_calloc(count, sizeof *mean), sum = 0;
    vmoer_status status = mean ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "calibration floor: %d draws", draws);
    for (size_t s = 0; s < n_runs && status == VMOER_OK; s++) {
        vm_items items;
        status = vm_items_build(&runs[s], &items);
        for (size_t r = 0; r < count && status == VMOER_OK; r++)
            mean[r] += vm_items_calibrated_ece(&items, seed, (uint32_t)r) / (double)n_runs;
        vm_items_free(&items);
    }
    if (status == VMOER_OK) {
        for (size_t r = 0; r < count; r++) sum += mean[r];
        vm_sort_doubles(mean, count);
        *out = (vm_ece_floor){.mean = sum / (double)count, .p95 = vm_quantile(mean, count, .95)};
    }
    vm_free(mean);
    return status;
}
