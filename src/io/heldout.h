/* heldout.h: the held-out part of a training set. Items about the same fact would leak across a random split, so items are clustered by the
 * content words of stem + right answer and whole clusters are held out (about 15%), chosen by a hash of their text:
 * any source of the same questions gives the same split. */
#ifndef VM_IO_HELDOUT_H
#define VM_IO_HELDOUT_H

#include "io/dataset.h"

/* held_out[n]: true for the held-out items. */
vmoer_status vm_heldout_split(const vm_item *const *items, size_t n, bool *held_out);
/* For each of the n `queries`: similarity (Jaccard index of content-word sets) to its nearest neighbour among `pool`; out[n] in [0, 1]. */
vmoer_status vm_heldout_similarity(const vm_item *const *queries, size_t n, const vm_item *const *pool, size_t m, float *out);

#endif
