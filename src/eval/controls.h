/* controls.h: what else than strangeness a signal might tell: the length of a question, and whether it was answered wrongly. Pure functions on arrays. */
#ifndef VM_EVAL_CONTROLS_H
#define VM_EVAL_CONTROLS_H

#include "vmoer/vmoer_errors.h"
#include <stddef.h>
#include <stdint.h>

/* Spearman's rank correlation of x[n] and y[n], ties by midrank; NAN where one of them is constant. */
vmoer_status vm_spearman(const double *x, const double *y, size_t n, double *out);

typedef struct vm_line { double intercept, slope; } vm_line;
/* Least squares of y[n] on x[n], n >= 1; slope 0 where x is constant. */
vm_line vm_line_fit(const double *x, const double *y, size_t n);

/* One side of a matching. */
typedef struct vm_lengths {
    size_t n;
    const double *length; /* [n], > 0 */
    const uint64_t *hash; /* [n] of the items' text: it decides who comes first */
} vm_lengths;
/* Pairs of items of like length, each item in one pair at most. The items of b choose, by rising hash: each takes, of the items of a that are left, the
 * one whose length is nearest to its own, of two as near the shorter, of two as long the one with the smaller hash; none where the longer would be more
 * than a tenth longer. of_a[k], of_b[k] for each of the *pairs pairs; room for the smaller side. */
vmoer_status vm_match_lengths(const vm_lengths *a, const vm_lengths *b, size_t *of_a, size_t *of_b, size_t *pairs);

#endif
