/* jaccard.h: how alike two choices of experts are. Pure functions on arrays. */
#ifndef VM_EVAL_JACCARD_H
#define VM_EVAL_JACCARD_H

#include <stdint.h>

/* |A n B| / |A u B| of two sets of k >= 1 experts each, no expert twice in one: 1 where they are the same. */
double vm_jaccard(const int32_t *a, const int32_t *b, int k);

/* J0: its expectation for two sets of k drawn at random from n >= k >= 1. Their intersection X is hypergeometric:
 * J0 = sum_x C(k, x) C(n - k, k - x) / C(n, k) * x / (2k - x); 1 where n == k. */
double vm_jaccard_chance(int n, int k);

/* (J - J0) / (1 - J0): 1 for the same choice, 0 for what chance gives; NAN where J0 is 1. */
double vm_jaccard_corrected(double jaccard, double chance);

/* The `count` smallest of jaccard[n], ties to the lower index, count <= n: their indices, ascending, in layers[count].
 */
void vm_least_stable(const double *jaccard, int n, int count, int32_t *layers);

#endif
