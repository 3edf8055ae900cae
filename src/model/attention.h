/* attention.h: causal grouped-query attention over a ragged batch. A segment is a run of tokens; it sees its own earlier tokens and all of its
 * parent's: the choices of a question share the question's keys and values. Children follow their root directly. */
#ifndef VM_MODEL_ATTENTION_H
#define VM_MODEL_ATTENTION_H

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "vmoer/vmoer_errors.h"
#include <stdint.h>

typedef struct vm_segment {
    int start, length; /* tokens [start, start + length) of the batch */
    int parent;        /* index of the root segment this one continues, or -1: a root */
} vm_segment;

/* The tokens before a batch's, in one layer, as a cache holds them (kv_cache.h). */
typedef struct vm_past {
    int tokens;
    /* [n_kv_heads], f32; keys: k = head_dim, values: n = head_dim. The batch's own are there too, after the earlier ones. */
    const vm_panel *keys, *values;
} vm_past;

typedef struct vm_attention {
    int n_heads, n_kv_heads, head_dim;
    float scale;
    int n_segments;
    const vm_segment *segments;
    int window;         /* > 0: a token sees itself and the window - 1 tokens before it; 0: all */
    const float *sinks; /* [n_heads] logits that take part in the softmax and have no value (GPT-OSS): what they draw is nobody's; NULL: none */
    const vm_past *past; /* forward only, with one segment, which continues these tokens; NULL: none */
} vm_attention;

/* qkv[T, (n_heads + 2 n_kv_heads) head_dim], rotated; out[T, n_heads head_dim]. */
vmoer_status vm_attention_forward(const vm_attention *a, vm_pool *pool, vm_arena *scratch, const float *qkv, float *out);
/* dqkv (overwritten) from dout; the probabilities are computed again from qkv. dsinks[n_heads] += the gradient of the sinks; NULL: not wanted. */
vmoer_status vm_attention_backward(const vm_attention *a, vm_pool *pool, vm_arena *scratch, const float *qkv, const float *dout, float *dqkv, float *dsinks);

#endif
