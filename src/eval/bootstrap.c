/* bootstrap.c: how far the numbers could be from those of another sample of questions.
 *
 * A resample is n draws with replacement, kept as how often each item was drawn; every metric is one pass over the
 * items with those weights. Resample r uses the random stream r of the seed, so two runs over the same items see the
 * same resamples, and a difference between them is paired by construction. */
#include "eval/compare.h"
#include "eval/items.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The metrics as rows of a table; both structs list the same six in the same order. */
_Static_assert(sizeof(vm_metrics_ci) == VM_METRICS * sizeof(vm_interval), "one interval a metric");

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void vm_sort_doubles(double *values, size_t n) { qsort(values, n, sizeof *values, rising); }

double vm_quantile(const double *sorted, size_t n, double q) {
    double position = q * (double)(n - 1);
    size_t below = (size_t)position;
    if (below + 1 >= n) return sorted[n - 1];
    double share = position - (double)below;
    return sorted[below] + share * (sorted[below + 1] - sorted[below]);
}

vm_interval vm_interval_of(double *values, size_t n) {
    vm_sort_doubles(values, n);
    return (vm_interval){vm_quantile(values, n, .025), vm_quantile(values, n, .975)};
}

static void resample(uint64_t seed, uint32_t stream, uint32_t *weight, size_t n) {
    vm_rng rng = vm_rng_start(seed, VM_RNG_BOOTSTRAP, stream);
    memset(weight, 0, n * sizeof *weight);
    for (size_t i = 0; i < n; i++) weight[vm_rng_below(&rng, (uint32_t)n)]++;
}

static vm_metrics subtract(vm_metrics b, vm_metrics a) {
    return (vm_metrics){.acc = b.acc - a.acc,
                        .nll = b.nll - a.nll,
                        .ece = b.ece - a.ece,
                        .mce = b.mce - a.mce,
                        .brier = b.brier - a.brier,
                        .ece_mass = b.ece_mass - a.ece_mass};
}

/* Intervals of metric(b) - metric(a), or of metric(b) where a is NULL. */
static vmoer_status bootstrap(const vm_items *a, const vm_items *b, int resamples, uint64_t seed, vm_metrics_ci *out) {
    if (resamples < 1) return vm_error(VMOER_ERROR_ARGUMENT, "bootstrap: %d resamples, at least 1", resamples);
    size_t count = (size_t)resamples, cells;
    double *table =
        vm_mul(count, VM_METRICS, &cells) ? vm_malloc(cells, sizeof *table) : NULL; /* [VM_METRICS, count] */
    uint32_t *weight = vm_malloc(b->n, sizeof *weight);
    if (!table || !weight) {
        vm_free(table);
        vm_free(weight);
        return vm_error(VMOER_ERROR_MEMORY, "bootstrap of %zu items", b->n);
    }
    for (size_t r = 0; r < count; r++) {
        resample(seed, (uint32_t)r, weight, b->n);
        vm_metrics m = vm_items_metrics(b, weight);
        if (a) m = subtract(m, vm_items_metrics(a, weight));
        double row[VM_METRICS];
        memcpy(row, &m, sizeof row);
        for (size_t k = 0; k < VM_METRICS; k++) table[k * count + r] = row[k];
    }
    vm_interval intervals[VM_METRICS];
    for (size_t k = 0; k < VM_METRICS; k++) intervals[k] = vm_interval_of(table + k * count, count);
    memcpy(out, intervals, sizeof intervals);
    vm_free(table);
    vm_free(weight);
    return VMOER_OK;
}

vmoer_status vm_metrics_bootstrap(const vm_predictions *d, int resamples, uint64_t seed, vm_metrics_ci *out) {
    vm_items items;
    vmoer_status status = vm_items_build(d, &items);
    if (status == VMOER_OK) status = bootstrap(NULL, &items, resamples, seed, out);
    vm_items_free(&items);
    return status;
}

vmoer_status vm_metrics_paired(const vm_predictions *a, const vm_predictions *b, int resamples, uint64_t seed,
                               vm_metrics *difference, vm_metrics_ci *out) {
    vm_items items_a = {0}, items_b = {0};
    vmoer_status status;
    if (a->n != b->n) return vm_error(VMOER_ERROR_ARGUMENT, "paired bootstrap: %zu items against %zu", a->n, b->n);
    VM_GOTO(vm_items_build(a, &items_a));
    VM_GOTO(vm_items_build(b, &items_b));
    for (size_t i = 0; i < a->n; i++) {
        if (a->label[i] != b->label[i] || a->k[i] != b->k[i]) {
            status = vm_error(VMOER_ERROR_ARGUMENT, "paired bootstrap: item %zu is not the same question in both", i);
            goto done;
        }
    }
    VM_GOTO(bootstrap(&items_a, &items_b, resamples, seed, out));
    *difference = subtract(vm_items_metrics(&items_b, NULL), vm_items_metrics(&items_a, NULL));
done:
    vm_items_free(&items_a);
    vm_items_free(&items_b);
    return status;
}

/* With y ~ p the predicted choice is right with probability `confidence`, whatever the other choices are. Draw i of the
 * stream decides item i. */
double vm_items_calibrated_ece(const vm_items *items, uint64_t seed, uint32_t stream) {
    vm_rng rng = vm_rng_start(seed, VM_RNG_FLOOR, stream);
    double gap[VM_ECE_BINS] = {0}, sum = 0;
    for (size_t i = 0; i < items->n; i++) {
        const vm_item *item = &items->item[i];
        gap[item->bin] += item->confidence - (vm_rng_uniform(&rng) < item->confidence);
    }
    for (int b = 0; b < VM_ECE_BINS; b++) sum += fabs(gap[b]);
    return sum / (double)items->n;
}

vmoer_status vm_ece_floor_compute(const vm_predictions *d, int draws, uint64_t seed, vm_ece_floor *out) {
    return vm_ece_floor_over_seeds(d, 1, draws, seed, out);
}
