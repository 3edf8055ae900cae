/* ffn.h: the feed-forward half of a layer: shared experts (always on, or behind a gate) and N routed experts of which K run a token. A dense layer is
 * the shared part alone. Experts are SwiGLU: out( silu(gate x) * up x ). Tokens are grouped by expert, so an expert's matrices are read once a batch, or
 * once a thread.
 *
 *   y = h shared(u) + sum_{k in top-K} g_k expert_k(u),   g_k = scale * p_k / (renormalise ? sum_top-K p : 1)
 *
 * h = 1, or sigmoid(<w, u>) with Qwen2-MoE's gate w. p = softmax(l_det), l_det = W_r u, or what a variational router puts in its place. Top-K is that of
 * p, or of the scores of a router that draws its experts itself (vm_router_chooses). Ties go to the lower index. The router, p, g and h are f32 always. */
#ifndef VM_MODEL_FFN_H
#define VM_MODEL_FFN_H

#include "model/activation.h"
#include "model/linear.h"
#include "model/noise.h"
#include "router/router.h"

typedef enum vm_routing_mode { VM_ROUTING_LEARNED, VM_ROUTING_RANDOM, VM_ROUTING_ORACLE } vm_routing_mode;

typedef struct vm_ffn {
    int dim;          /* D */
    int shared_width; /* neurons of the shared (or dense) part; 0: none */
    int n_experts;    /* N; 0: dense */
    int width;        /* neurons of one routed expert */
    int top_k;        /* K */
    bool renormalise;
    float scale;
    vm_activation activation; /* of the routed experts; that of the shared part is SWIGLU */
    vm_linear router;      /* [N, D], f32 */
    vm_linear shared_in;   /* [2 shared_width, D]: gate rows, then up rows */
    vm_linear shared_out;  /* [D, shared_width] */
    vm_linear shared_gate; /* w: [1, D], f32; out 0: none */
    vm_linear *expert_in;  /* [N] of [2 width, D] */
    vm_linear *expert_out; /* [N] of [D, width] */
} vm_ffn;

void vm_ffn_clear(vm_ffn *f);

/* How a call routes. */
typedef struct vm_ffn_route {
    vm_routing_mode routing;         /* RANDOM: K experts drawn at random a token; ORACLE: the K whose outputs have the largest norms. Inference only */
    vm_router *router;          /* NULL, or a variational router that has this layer */
    bool training;              /* one draw, what backward needs is kept; else `inference` */
    vm_inference inference;
    int samples;
    bool signals;               /* inference: the variational router's are wanted */
    vm_noise noise;             /* on what the routers see; inference only */
    int layer;
    const vm_token_key *tokens; /* [T] */
    uint64_t seed, step;
    float sign;                 /* training: 1, or -1 for the antithetic draw */
} vm_ffn_route;

/* What forward leaves behind, in `keep`. */
typedef struct vm_ffn_acts {
    const float *u;           /* [T, D], the caller's */
    float *logits, *p;        /* [T, N] */
    float *scores;            /* [T, N] what chooses the experts; NULL: p */
    int32_t *chosen;          /* [T, K], by falling score */
    float *gates;             /* [T, K] */
    int32_t *begin;           /* [N + 1]: rows of expert e are [begin[e], begin[e + 1]); this and the next five: training only */
    int32_t *row_token;       /* [T K]: token of a row, rising within an expert */
    int32_t *row_of;          /* [T, K]: row of a token's k-th choice */
    float *hidden;            /* [T K, 2 width]: gate and up */
    float *t_in, *t_out;      /* LoRA intermediates of the experts, by row */
    float *shared_hidden, *shared_active; /* [T, 2 shared_width], [T, shared_width] */
    float *shared_gate;       /* [T] h; NULL: 1 */
    float *t_shared_in, *t_shared_out, *t_shared_gate, *t_router;
    float *saved;             /* the variational router's */
    float *kl;                /* [T]; NULL without a variational router */
    float *trace, *trace_projected, *temperature; /* [T]; NULL unless they were wanted */
} vm_ffn_acts;

/* The choice alone, where N > 0: what it leaves behind is logits (of the model's own router), p, chosen, gates, and what the variational router leaves. */
vmoer_status vm_ffn_choose(const vm_ffn *f, vm_pool *pool, vm_arena *keep, vm_arena *scratch, int n_tokens, const float *u, const vm_ffn_route *route,
                           vm_ffn_acts *acts);
/* y[T, D] = the feed-forward output of u[T, D]. */
vmoer_status vm_ffn_forward(const vm_ffn *f, vm_pool *pool, vm_arena *keep, vm_arena *scratch, int n_tokens, const float *u,
                            const vm_ffn_route *route, vm_ffn_acts *acts, float *y);
/* du[T, D] = gradient of the input from dy[T, D] and kl_weight * sum of the KL, NULL: not wanted; accumulates the gradients of what is trained. */
vmoer_status vm_ffn_backward(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens, const vm_ffn_route *route, const vm_ffn_acts *acts,
                             const float *dy, float kl_weight, float *du);

/* The K largest of p[N], falling, ties to the lower index: chosen[K]. 1 <= K <= N <= VM_TOP_K_MAX. */
enum { VM_TOP_K_MAX = 4096 };
void vm_top_k(const float *p, int n, int k, int32_t *chosen);

#endif
