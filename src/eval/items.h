/* items.h: what every metric needs of an item, worked out once, so that a resample costs one short pass. Private to
 * eval/. */
#ifndef VM_EVAL_ITEMS_H
#define VM_EVAL_ITEMS_H

#include "eval/metrics.h"

typedef struct vm_item {
    double confidence; /* largest probability */
    double nll, brier;
    int bin;     /* equal-width bin of the confidence */
    int correct; /* 0 or 1 */
} vm_item;

typedef struct vm_items {
    size_t n;
    vm_item *item;   /* [n], in the order of the predictions */
    uint32_t *order; /* [n], item numbers by rising confidence, ties by rising number */
} vm_items;

/* Checks d (n >= 1, finite, probabilities that sum to 1 within 1e-6, labels in range) and fills *out, which is freed
 * with vm_items_free in any case. Errors name the item. */
vmoer_status vm_items_build(const vm_predictions *d, vm_items *out);
void vm_items_free(vm_items *items);

/* Item i counts weight[i] times; NULL: once. The weights sum to n, as those of a resample do. */
vm_metrics vm_items_metrics(const vm_items *items, const uint32_t *weight);

/* ECE of one draw of labels y ~ p: that of a perfectly calibrated model with these probabilities. */
double vm_items_calibrated_ece(const vm_items *items, uint64_t seed, uint32_t stream);

/* Equal-width bin of a confidence: (b / 15, (b + 1) / 15]; 0 falls into the first, what rounding put above 1 into the
 * last. */
int vm_confidence_bin(double confidence);

/* Sorts values[n], n >= 1. */
void vm_sort_doubles(double *values, size_t n);
/* Quantile q in [0, 1] of sorted[n], linear between neighbours (numpy's default). */
double vm_quantile(const double *sorted, size_t n, double q);

#endif
