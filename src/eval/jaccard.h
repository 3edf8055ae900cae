/* jaccard.h: how alike two choices of experts are. Pure functions on arrays. */
#ifndef VM_EVAL_JACCARD_H
#define VM_EVAL_JACCARD_H

#include <stdint.h>

/* |A n B| / |A u B| of two sets of k >= 1 experts each, no expert twice in one: 1 where they are the same. */
double vm_jaccard(const int32_t *a, const int32_t *b, int k);

/* The `count` smallest of jaccard[n], ties to the lower index, count <= n: their indices, ascending, in layers[count].
 */
void vm_least_stable(const double *jaccard, int n, int count, int32_t *layers);

#endif
