/* states.h: the residual stream at the entrance of one layer's feed-forward half, kept question by question. Where everything before it is frozen and draws
 * nothing, it is the same in every pass over a question (step, epoch, draw, look), to the bit, whatever else is in the batch: passes that share a vm_states
 * compute it once. A question is known by its tokens, so the sets it comes from may share one too. */
#ifndef VM_MODEL_STATES_H
#define VM_MODEL_STATES_H

#include "router/router.h"

typedef struct vm_states vm_states;

/* For layer `layer` of a model of width `dim`; holds at most `memory` bytes, 0: no bound. */
vmoer_status vm_states_create(int layer, int dim, size_t memory, vm_states **out);
void vm_states_free(vm_states *s); /* takes NULL */
int vm_states_layer(const vm_states *s);
size_t vm_states_bytes(const vm_states *s); /* held */

/* A question: ids[n] and keys[n] of its context and choices; its item number plays no part. -> [n, D], or NULL: not there. */
const float *vm_states_find(const vm_states *s, int n, const int32_t *ids, const vm_token_key *keys);
/* Keeps a copy of h[n, D] of a question that is not there yet. Past the bound, or out of memory, nothing is kept: it is computed again, that is all. */
void vm_states_put(vm_states *s, int n, const int32_t *ids, const vm_token_key *keys, const float *h);

#endif
