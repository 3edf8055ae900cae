/* ood.c: AUROC, average precision and FPR95 of a score, their bootstrap, and the ROC curve.
 *
 * The scores of both sides are sorted once into groups of equal value. How many in- and out-of-distribution items each
 * group holds decides everything; a resample only changes those counts. */
#include "eval/compare.h"
#include "eval/items.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct groups {
    size_t n_id, n_ood, n;    /* n: distinct scores */
    uint32_t *of_id, *of_ood; /* [n_id], [n_ood]: the item's group, 0 for the highest score */
    uint32_t *id, *ood;       /* [n]: items in each group */
} groups;

typedef struct scored {
    double score;
    uint32_t item; /* id items first, then ood */
} scored;

static int falling(const void *a, const void *b) {
    double x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

static void groups_free(groups *g) {
    vm_free(g->of_id);
    vm_free(g->id);
    *g = (groups){0};
}

static vmoer_status check_scores(const char *side, const double *score, size_t n) {
    if (n == 0) return vm_error(VMOER_ERROR_ARGUMENT, "no %s scores", side);
    for (size_t i = 0; i < n; i++) {
        if (isnan(score[i])) return vm_error(VMOER_ERROR_NUMERIC, "%s score %zu is not a number", side, i);
    }
    return VMOER_OK;
}

/* *g is freed with groups_free in any case. */
static vmoer_status groups_build(const double *id, size_t n_id, const double *ood, size_t n_ood, groups *g) {
    *g = (groups){.n_id = n_id, .n_ood = n_ood};
    VM_TRY(check_scores("in-distribution", id, n_id));
    VM_TRY(check_scores("out-of-distribution", ood, n_ood));
    size_t total;
    if (!vm_add(n_id, n_ood, &total) || total > UINT32_MAX) {
        return vm_error(VMOER_ERROR_LIMIT, "%zu and %zu scores, together at most %u", n_id, n_ood, UINT32_MAX);
    }
    scored *all = vm_malloc(total, sizeof *all);
    g->of_id = vm_malloc(total, sizeof *g->of_id);
    g->id = vm_calloc(2 * total, sizeof *g->id);
    if (!all || !g->of_id || !g->id) {
        vm_free(all);
        return vm_error(VMOER_ERROR_MEMORY, "ranks of %zu scores", total);
    }
    g->of_ood = g->of_id + n_id;
    g->ood = g->id + total;
    for (size_t i = 0; i < total; i++) all[i] = (scored){i < n_id ? id[i] : ood[i - n_id], (uint32_t)i};
    qsort(all, total, sizeof *all, falling);
    for (size_t i = 0; i < total; i++) {
        if (i > 0 && all[i].score != all[i - 1].score) g->n++;
        g->of_id[all[i].item] = (uint32_t)g->n; /* of_ood follows of_id in memory */
        if (all[i].item < n_id)
            g->id[g->n]++;
        else
            g->ood[g->n]++;
    }
    g->n++;
    vm_free(all);
    return VMOER_OK;
}

/* id[n], ood[n]: items in each group, highest score first. The threshold goes down group by group. */
static vm_ood measure(const groups *g, const uint32_t *id, const uint32_t *ood) {
    double n_id = (double)g->n_id, n_ood = (double)g->n_ood;
    double above_id = 0, above_ood = 0, pairs = 0;
    vm_ood out = {.fpr95 = -1};
    for (size_t i = 0; i < g->n; i++) {
        /* Each OoD item of the group beats the ID items still below and ties with those beside it. Whole and half
         * counts: exact. */
        pairs += ood[i] * (n_id - above_id - id[i] * .5);
        above_id += id[i];
        above_ood += ood[i];
        if (ood[i] > 0) out.aupr += ood[i] / n_ood * (above_ood / (above_id + above_ood));
        if (out.fpr95 < 0 && above_ood / n_ood >= .95) out.fpr95 = above_id / n_id;
    }
    out.auroc = pairs / (n_id * n_ood);
    return out;
}

vmoer_status vm_ood_compute(const double *id, size_t n_id, const double *ood, size_t n_ood, vm_ood *out) {
    groups g;
    vmoer_status status = groups_build(id, n_id, ood, n_ood, &g);
    if (status == VMOER_OK) *out = measure(&g, g.id, g.ood);
    groups_free(&g);
    return status;
}

static void resample(vm_rng *rng, const uint32_t *group, size_t n, uint32_t *counts, size_t n_groups) {
    memset(counts, 0, n_groups * sizeof *counts);
    for (size_t i = 0; i < n; i++) counts[group[vm_rng_below(rng, (uint32_t)n)]]++;
}

vmoer_status vm_ood_bootstrap(const double *id, size_t n_id, const double *ood, size_t n_ood, int resamples,
                              uint64_t seed, vm_ood_ci *out) {
    if (resamples < 1) return vm_error(VMOER_ERROR_ARGUMENT, "bootstrap: %d resamples, at least 1", resamples);
    groups g;
    uint32_t *counts = NULL; /* [2, g.n] */
    double *table = NULL;    /* [3, resamples] */
    vmoer_status status = groups_build(id, n_id, ood, n_ood, &g);
    if (status != VMOER_OK) goto done;
    size_t count = (size_t)resamples;
    counts = vm_malloc(2 * g.n, sizeof *counts);
    table = vm_malloc(count, 3 * sizeof *table);
    if (!counts || !table) {
        status = vm_error(VMOER_ERROR_MEMORY, "bootstrap of %zu scores", n_id + n_ood);
        goto done;
    }
    for (size_t r = 0; r < count; r++) {
        vm_rng rng = vm_rng_start(seed, VM_RNG_BOOTSTRAP, (uint32_t)r);
        resample(&rng, g.of_id, n_id, counts, g.n);
        resample(&rng, g.of_ood, n_ood, counts + g.n, g.n);
        vm_ood m = measure(&g, counts, counts + g.n);
        table[r] = m.auroc;
        table[count + r] = m.aupr;
        table[2 * count + r] = m.fpr95;
    }
    *out = (vm_ood_ci){.auroc = vm_interval_of(table, count),
                       .aupr = vm_interval_of(table + count, count),
                       .fpr95 = vm_interval_of(table + 2 * count, count)};
done:
    vm_free(counts);
    vm_free(table);
    groups_free(&g);
    return status;
}

/* counts[n_groups] of n items that count weight[n] times each. */
static void weigh(const uint32_t *group, const uint32_t *weight, size_t n, uint32_t *counts, size_t n_groups) {
    memset(counts, 0, n_groups * sizeof *counts);
    for (size_t i = 0; i < n; i++) counts[group[i]] += weight[i];
}

vmoer_status vm_ood_resampled(const double *id, const vm_resamples *id_items, const double *ood,
                              const vm_resamples *ood_items, vm_ood *out, double *draws) {
    groups g;
    uint32_t *counts = NULL; /* [2, g.n] */
    vmoer_status status = groups_build(id, id_items->n, ood, ood_items->n, &g);
    if (status == VMOER_OK && id_items->count != ood_items->count)
        status = vm_error(VMOER_ERROR_ARGUMENT, "bootstrap: %zu samples of one side, %zu of the other", id_items->count,
                          ood_items->count);
    if (status == VMOER_OK && !(counts = vm_malloc(2 * g.n, sizeof *counts)))
        status = vm_error(VMOER_ERROR_MEMORY, "bootstrap of %zu scores", g.n_id + g.n_ood);
    if (status == VMOER_OK) {
        *out = measure(&g, g.id, g.ood);
        for (size_t r = 0; r < id_items->count; r++) {
            weigh(g.of_id, id_items->weight + r * g.n_id, g.n_id, counts, g.n);
            weigh(g.of_ood, ood_items->weight + r * g.n_ood, g.n_ood, counts + g.n, g.n);
            vm_ood m = measure(&g, counts, counts + g.n);
            memcpy(draws + r * VM_OODS, &m, sizeof m);
        }
    }
    vm_free(counts);
    groups_free(&g);
    return status;
}

/* A curve of more points than wanted is thinned evenly along fpr + tpr, which rises from 0 to 2. */
size_t vm_ood_roc(const double *id, size_t n_id, const double *ood, size_t n_ood, double *fpr, double *tpr,
                  size_t max) {
    groups g;
    size_t count = 0;
    if (max >= 2 && groups_build(id, n_id, ood, n_ood, &g) == VMOER_OK) {
        double step = g.n + 1 > max ? 2.0 / (double)(max - 1) : 0, next = step;
        size_t above_id = 0, above_ood = 0;
        fpr[0] = tpr[0] = 0;
        count = 1;
        for (size_t i = 0; i < g.n; i++) {
            above_id += g.id[i];
            above_ood += g.ood[i];
            double x = (double)above_id / (double)n_id, y = (double)above_ood / (double)n_ood;
            bool last = i + 1 == g.n;
            if (!last && (x + y < next || count + 1 == max)) continue;
            fpr[count] = x;
            tpr[count] = y;
            count++;
            next = step * (floor((x + y) / (step > 0 ? step : 1)) + 1);
        }
        groups_free(&g);
    }
    return count;
}
