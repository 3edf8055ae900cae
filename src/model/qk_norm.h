/* qk_norm.h: RMSNorm of the queries and keys before they are rotated: of each head, with one weight for all heads (Qwen3), or of all heads together
 * (OLMoE). */
#ifndef VM_MODEL_QK_NORM_H
#define VM_MODEL_QK_NORM_H

#include "base/param.h"
#include "base/threads.h"

typedef struct vm_qk_norm {
    int n_heads, n_kv_heads, head_dim;
    bool whole;      /* all heads together */
    float eps;
    vm_param *q, *k; /* [1, head_dim] both; whole: [1, n_heads head_dim], [1, n_kv_heads head_dim] */
} vm_qk_norm;

int vm_qk_norm_count(const vm_qk_norm *n); /* norms a token: G */
/* qkv[T, (n_heads + 2 n_kv_heads) head_dim], in place; before[T, (n_heads + n_kv_heads) head_dim] and inv[T, G], 1 / rms, are left for backward. */
void vm_qk_norm_forward(const vm_qk_norm *n, vm_pool *pool, int n_tokens, float *qkv, float *before, float *inv);
/* dqkv, shaped as qkv, in place: the gradient after the norm becomes that before it; accumulates the gradients of the weights where they are trained. dy:
 * room, shaped as before. */
void vm_qk_norm_backward(const vm_qk_norm *n, vm_pool *pool, int n_tokens, const float *before, const float *inv, float *dqkv, float *dy);

#endif
