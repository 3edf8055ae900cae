/* experts.h: the routed experts of a layer, after the choice. Tokens are grouped by expert; each expert's products run as a chain that stays in one thread's
 * cache, and their outputs are added to the tokens' rows as they leave the product: no [T K, D] array is ever written.
 *
 *   y_t += sum_e g_te out_e( silu(gate_e u_t) * up_e u_t )      e rising over the token's experts: the same sum whatever the batch; the matrices may
 *                                                               have biases, the activation may be another (activation.h)
 *
 * Two stages, forward and backward alike. First tasks of (expert, some of its rows): u -> [2 w] -> SwiGLU -> [w], rounded for the next product. Then tasks
 * of some tokens (or columns) of y, each adding all experts' products in turn, so that no two tasks write the same element. */
#ifndef VM_MODEL_EXPERTS_H
#define VM_MODEL_EXPERTS_H

#include "model/ffn.h"

/* y[T, D] = the experts' outputs of a->u by a->chosen and a->gates, added to what a layer with a shared part has there; groups the rows.
 * keep: what backward reads stays in this arena; NULL: nothing does. */
vmoer_status vm_experts_forward(const vm_ffn *f, vm_pool *pool, vm_arena *keep, vm_arena *scratch, int n_tokens, vm_ffn_acts *a, float *y);
/* From dy[T, D]: dgate[T, K], the gradient by every gate; du[T, D] = or += (as y) the gradient of u, NULL: not wanted;
 * accumulates the gradients of what is trained. */
vmoer_status vm_experts_backward(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens, const vm_ffn_acts *a, const float *dy, float *dgate,
                                 float *du);

#endif
