/* cluster.h: which neurons of a dense FFN become which expert. Shared = the most often active; the others are clustered by when they are active, into
 * groups of equal size (balanced k-means on activation patterns; CMoE, arXiv 2502.04416, splits the same way). */
#ifndef VM_TRAIN_CLUSTER_H
#define VM_TRAIN_CLUSTER_H

#include "base/threads.h"
#include "vmoer/vmoer_errors.h"
#include <stdint.h>

/* active[T, F]: activation strength of each neuron at each token (>= 0). order[F]: shared neurons first (by falling frequency), then expert 0's, 1's ...
 * A neuron is active at a token when it is among the token's strongest tenth. shared + experts * expert_width == F. Deterministic in seed. */
vmoer_status vm_cluster_neurons(vm_pool *pool, const float *active, int n_tokens, int n_neurons, int shared, int experts, int expert_width, uint64_t seed,
                                int32_t *order);

#endif
