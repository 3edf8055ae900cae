/* compare.h: the figures of several routers on the same questions, over several seeds, with intervals and paired differences.
 *
 * A bootstrap sample says how often each question was drawn. The samples of a set of questions are made once and used for every figure that is taken on
 * it, those of the seeds once for everything: a difference, mean or ratio of figures taken sample by sample is then paired by construction, over
 * questions and seeds alike (Efron and Tibshirani 1993, sections 6 and 8: both ways of a crossed design are resampled). */
#ifndef VM_EVAL_COMPARE_H
#define VM_EVAL_COMPARE_H

#include "eval/ood.h"

typedef struct vm_resamples {
    size_t n, count;
    uint32_t *weight; /* [count, n] how often each of n was drawn; a row sums to n */
} vm_resamples;
/* count samples of n >= 1 things. Sets that must not share draws have another stream. Freed with vm_resamples_free in any case. */
vmoer_status vm_resamples_create(size_t n, size_t count, uint64_t seed, uint32_t stream, vm_resamples *out);
void vm_resamples_free(vm_resamples *s);

/* A row of a table of figures: the struct's members in their order. */
enum { VM_METRICS = sizeof(vm_metrics) / sizeof(double), VM_OODS = sizeof(vm_ood) / sizeof(double) };

/* The metrics of one run, and those of each bootstrap sample of its items (items->n == d->n): draws[count, VM_METRICS]. */
vmoer_status vm_metrics_resampled(const vm_predictions *d, const vm_resamples *items, vm_metrics *out, double *draws);
/* The same of a score (ood.h); both sides have samples of their own: draws[count, VM_OODS]. */
vmoer_status vm_ood_resampled(const double *id, const vm_resamples *id_items, const double *ood, const vm_resamples *ood_items, vm_ood *out, double *draws);

/* Runs [seeds->n] of one router, a seed each: the mean over the seeds, sample by sample over the seeds drawn in it. runs[s]: [count, width]; out likewise. */
void vm_over_seeds(const double *const *runs, const vm_resamples *seeds, size_t width, double *out);

/* The ECE floor (metrics.h) of the mean over n_runs runs on the same items. An item's right answer is one event for all runs: the runs share
 * the uniform number that decides it. */
vmoer_status vm_ece_floor_over_seeds(const vm_predictions *runs, size_t n_runs, int draws, uint64_t seed, vm_ece_floor *out);

#endif
