/* router.h: variational routers. A router sits between the model's deterministic router and the choice of experts: from the router input u
 * and the deterministic logits l_det it gives the probabilities p that take softmax(l_det)'s place in the gate. It never sees the model.
 * Symbols are those of docs/METHOD.md: T tokens, D = dim, N experts, H = width of the trunk. All arithmetic is f32.
 *
 *   h = silu(W1 u + b1)                    trunk, [H]
 *   dmu = Wm h + bm                        [N]; Wm, bm start at 0
 *   L: diagonal exp(raw), below it raw, raw = Wl h + bl; Wl starts at 0, bl at ln(initial_scale) on the diagonal, 0 below
 *   l = l_det + dmu + L eps,  p = softmax(l)
 *   KL(q||p) = 1/2 ( (|dmu|^2 + |L|_F^2)/s0^2 - N - 2 sum_i ln L_ii + 2 N ln s0 )
 *
 * Packed lower triangle: (i, j), j <= i, is element i(i+1)/2 + j. */
#ifndef VM_ROUTER_ROUTER_H
#define VM_ROUTER_ROUTER_H

#include "base/memory.h"
#include "base/param.h"
#include "base/threads.h"
#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stdint.h>

/* Who a token is, for the draws: independent of batch, thread and order. */
typedef struct vm_token_key {
    uint32_t item;     /* index of the question in its data set */
    uint16_t part;     /* 0: the question, 1 + c: choice c */
    uint16_t position; /* in the sequence */
} vm_token_key;

typedef enum vm_inference { VM_INFERENCE_MEAN, VM_INFERENCE_CLOSED, VM_INFERENCE_SAMPLE, VM_INFERENCE_TILTED } vm_inference;

typedef struct vm_router_config {
    char kind[16];       /* "vglr-fc", "vglr-mf", "residual", "temperature" */
    int n_layers;        /* Bayesian layers; 0 for "temperature" */
    int32_t layers[512]; /* their indices in the model, ascending */
    int n_experts, dim, width;
    float prior_scale;   /* s0 > 0 */
    float initial_scale; /* L_ii at the start */
    uint64_t seed;       /* of the initial values */
    double temperature;  /* divides the choice scores; 1: none */
} vm_router_config;

typedef struct vm_router vm_router;

/* One layer's tokens. */
typedef struct vm_route {
    int layer;                  /* the model's layer index; must be one of config.layers */
    int n_tokens;
    const float *u;             /* [T, D] router input */
    const float *logits;        /* [T, N] l_det */
    const vm_token_key *tokens; /* [T] */
    uint64_t seed, step;        /* of the draws */
    float sign;                 /* training: 1, or -1 for the antithetic draw */
} vm_route;

vmoer_status vm_router_create(const vm_router_config *config, vm_router **out);
void vm_router_free(vm_router *r);
const vm_router_config *vm_router_get_config(const vm_router *r);
void vm_router_set_temperature(vm_router *r, double temperature);
bool vm_router_has_layer(const vm_router *r, int layer);
bool vm_router_has_covariance(const vm_router *r);
/* Trainable tensors, in a fixed order, named "layers.<model layer>.trunk.weight" [H, D], ".trunk.bias" [1, H], ".mean.weight" [N, H], ".mean.bias",
 * ".scale.weight" [N or N(N+1)/2, H], ".scale.bias". Owned by the router; the array too. From this call on the values may change, so
 * vm_router_infer packs them in every call; a router whose params nobody asked for packs them once. */
vm_param_list vm_router_params(vm_router *r);
/* Packs every layer for inference with values that no longer change: what ends that. */
vmoer_status vm_router_pack(vm_router *r);

/* ---- training ---- */
/* Floats a token that forward keeps for backward. */
size_t vm_router_saved_floats(const vm_router *r);
/* p[T, N] = softmax of one draw; saved[T, saved_floats]; kl[T] = KL(q||p) of each token (0 for "residual"). */
vmoer_status vm_router_forward(vm_router *r, vm_pool *pool, const vm_route *in, float *p, float *saved, float *kl);
/* Gradients of  sum_t <dp_t, p_t> + kl_weight * sum_t kl_t: accumulates the params' grad, du[T, D] += where it is not NULL,
 * dlogits[T, N] = (overwritten). */
vmoer_status vm_router_backward(vm_router *r, vm_pool *pool, const vm_route *in, const float *p, const float *saved, const float *dp, float kl_weight,
                                float *du, float *dlogits);

/* ---- inference ---- */
/* p[T, N] by the chosen way; trace[T] = tr Sigma, trace_projected[T] = tr P Sigma P (either may be NULL; 0 without covariance).
 *   MEAN    softmax(l_det + dmu); with zero heads the same bits as softmax(l_det) of the kernel table
 *   CLOSED  p_k ~ 1 / sum_i exp(-(m_k - m_i) / sqrt(1 + pi/8 v_ki)), v_ki = S_kk + S_ii - 2 S_ki, normalised over k
 *   SAMPLE  mean of softmax over `samples` draws, antithetic pairs, from one fixed table of draws a layer (N x samples, from seed and
 *           layer: docs/METHOD.md says why)
 *   TILTED  the solution of p = softmax(m + 1/2 diag S - S p): E softmax(l) exact to second order in S, no sampling noise; far nearer
 *           to it than CLOSED (figures in docs/METHOD.md)
 * Without covariance all are MEAN. VMOER_ERROR_NUMERIC when a token's logits or signals are not finite. */
vmoer_status vm_router_infer(const vm_router *r, vm_pool *pool, const vm_route *in, vm_inference inference, int samples, float *p, float *trace,
                             float *trace_projected);

/* Floating-point operations that a token of a Bayesian layer adds, by its products alone, a multiply-add counting two: trunk 2 D H, mean 2 H N; where the
 * inference needs the covariance, the scale head's M rows 2 H M; SAMPLE: L eps for every antithetic pair, 2 M. */
double vm_router_flops(const vm_router *r, vm_inference inference, int samples);

/* ---- files: safetensors with metadata (docs/FORMATS.md) ---- */
typedef struct vm_router_file {
    char base[65], adapter[65]; /* fingerprints, 64 hex digits; adapter "" for none */
    char base_name[128], adapter_name[128];
    char training[4096];        /* JSON: the training record */
} vm_router_file;
/* info must name the base model. */
vmoer_status vm_router_save(const vm_router *r, const vm_router_file *info, const char *path);
/* Every tensor checked against the metadata's shapes; non-finite values refused. info may be NULL. */
vmoer_status vm_router_load(const char *path, vm_router_file *info, vm_router **out);
/* The same from data[size], which need not outlive the call; `where` names it in errors. */
vmoer_status vm_router_load_memory(const void *data, size_t size, const char *where, vm_router_file *info, vm_router **out);

/* ---- pieces, exposed for tests ---- */
/* KL of one token, N = n; L packed, `rank` columns below its diagonal (0: MF, n - 1: FC). */
double vm_gaussian_kl(const float *dmu, const float *L, int n, int rank, double s0);

#endif
