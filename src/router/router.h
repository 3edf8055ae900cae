/* router.h: variational routers. A router sits between the model's deterministic router and the choice of experts: from the router input u
 * and the deterministic logits l_det it gives the probabilities p that take softmax(l_det)'s place in the gate, and where its kind draws the
 * experts itself the scores they are chosen by. It never sees the model.
 * Symbols are those of docs/METHOD.md: T tokens, D = dim, N experts, H = width of the trunk. All arithmetic is f32.
 *
 * What the kinds compute: docs/METHOD.md. That of the Gaussian family:
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
    uint32_t item;     /* index of the question in its data set; of a sequence, which 65,536 of its tokens */
    uint16_t part;     /* 0: the question, 1 + c: choice c */
    uint16_t position; /* in the sequence */
} vm_token_key;

/* PASSES: one draw of the router's own randomness for this pass; the caller averages over whole passes. */
typedef enum vm_inference { VM_INFERENCE_MEAN, VM_INFERENCE_CLOSED, VM_INFERENCE_SAMPLE, VM_INFERENCE_TILTED, VM_INFERENCE_PASSES } vm_inference;

/* Of the numbers from `rank` on a kind uses some; the others are 0. */
typedef struct vm_router_config {
    char kind[16];           /* "vglr-fc", "residual", "temperature", ...: VM_ROUTER_KINDS in router_internal.h */
    int n_layers;            /* Bayesian layers; 0 for "temperature" */
    int32_t layers[512];     /* their indices in the model, ascending */
    int n_experts, dim;
    int width;               /* of the trunk; kinds without one do not look at it */
    float prior_scale;       /* s0 > 0 */
    float initial_scale;     /* L_ii at the start */
    uint64_t seed;           /* of the initial values */
    double temperature;      /* divides the choice scores; 1: none */
    int rank;                /* columns of L below its diagonal; directions of the weights' covariance */
    int members;             /* networks, or draws of the weights, that answer together */
    int keep_experts;        /* that are always taken */
    float route_temperature; /* of the draw of the experts */
    float noise;             /* standard deviation of the logits' noise; rate of the dropout */
} vm_router_config;

/* The numbers that only some kinds use: their names are those of the config's fields, of the file's keys and of calibrate's options. */
typedef enum vm_router_number {
    VM_ROUTER_RANK,
    VM_ROUTER_MEMBERS,
    VM_ROUTER_KEEP_EXPERTS,
    VM_ROUTER_ROUTE_TEMPERATURE,
    VM_ROUTER_NOISE,
    VM_ROUTER_NUMBERS
} vm_router_number;

/* The kind's own values in place of the numbers that are 0; an unknown kind is left alone. vm_router_create refuses what is out of range, and what
 * the kind does not use, naming the kinds that do. */
void vm_router_config_complete(vm_router_config *config);
/* What vm_router_default_inference and vm_router_rounds will say of a router that is yet to be made; MEAN and 1 for an unknown kind. */
vm_inference vm_router_config_inference(const vm_router_config *config);
int vm_router_config_rounds(const vm_router_config *config);
/* One of the numbers and its name. */
double vm_router_get_number(const vm_router_config *c, vm_router_number which);
const char *vm_router_number_name(vm_router_number which);

typedef struct vm_router vm_router;

/* One layer's tokens. */
typedef struct vm_route {
    int layer;                  /* the model's layer index; must be one of config.layers */
    int n_tokens;
    const float *u;             /* [T, D] router input */
    const float *logits;        /* [T, N] l_det */
    const float *bias;          /* [N] of the model's router, which weights of a kind's own leave in its place; NULL: none */
    const vm_token_key *tokens; /* [T] */
    uint64_t seed, step;        /* of the draws; step: of the training, or the number of the pass with PASSES */
    float sign;                 /* training: 1, or -1 for the antithetic draw */
} vm_route;

/* What inference gives, owned by the caller; each but p may be NULL. */
typedef struct vm_routing {
    float *p;                /* [T, N] routing probabilities: the gates come from them */
    float *scores;           /* [T, N] what the K experts are the largest of; written only where vm_router_chooses */
    float *trace;            /* [T] tr Sigma; 0 without vm_router_has_trace */
    float *trace_projected;  /* [T] tr P Sigma P; likewise */
    float *temperature;      /* [T] T(u) of the token; NAN where the kind has none */
    float *trace_diagonal;   /* [T] the diagonal's part of tr Sigma, sum_i L_ii^2; 0 without covariance */
} vm_routing;

vmoer_status vm_router_create(const vm_router_config *config, vm_router **out); /* *out is NULL where it fails */
void vm_router_free(vm_router *r);
const vm_router_config *vm_router_get_config(const vm_router *r);
void vm_router_set_temperature(vm_router *r, double temperature); /* of the choices: config.temperature; not a T(u) */
bool vm_router_has_layer(const vm_router *r, int layer);
bool vm_router_has_covariance(const vm_router *r);
/* The logits vary in this inference, and trace says how much: by their covariance, or between several draws of the weights. */
bool vm_router_has_trace(const vm_router *r, vm_inference inference);
bool vm_router_has_kl(const vm_router *r);                  /* training has a regulariser, weighted by beta */
bool vm_router_chooses(const vm_router *r);                 /* draws its experts itself: gates from p, choice by scores */
vm_inference vm_router_default_inference(const vm_router *r);
/* What the kind does where `asked` is asked for: vm_router_infer says which kinds have only some of the ways. */
vm_inference vm_router_inference(const vm_router *r, vm_inference asked);
/* Trainable tensors, in a fixed order; of kinds with a trunk "layers.<model layer>.trunk.weight" [H, D], ".trunk.bias" [1, H], ".mean.weight" [N, H],
 * ".mean.bias", ".scale.weight" [M, H], ".scale.bias", without the heads that the kind lacks. Owned by the router; the array too. From this call on
 * the values may change, so vm_router_infer packs them in every call; a router whose params nobody asked for packs them once. */
vm_param_list vm_router_params(vm_router *r);
/* Packs every layer for inference with values that no longer change: what ends that. Nothing is kept that was made of earlier values. */
vmoer_status vm_router_pack(vm_router *r);

/* ---- kinds that route by weights of their own ---- */
bool vm_router_has_weights(const vm_router *r);
/* w[N, D]: the model's own router weights of a layer, what training starts from. To be called for every layer of a new router; W u replaces l_det. */
vmoer_status vm_router_start_weights(vm_router *r, int layer, const float *w);
int vm_router_rounds(const vm_router *r);  /* networks that are trained side by side, each on its share of a batch: steps are counted so many fold */
bool vm_router_gathers(const vm_router *r); /* the weights' trajectory in the second half of the training, at constant learning rate */
/* To be called after every optimiser step, counted from 1; what it gathers is among vm_router_params. VMOER_ERROR_ARGUMENT: total is too small. */
vmoer_status vm_router_gather(vm_router *r, uint64_t step, uint64_t total);

/* ---- training ---- */
/* Floats a token that forward keeps for backward. */
size_t vm_router_saved_floats(const vm_router *r);
/* p[T, N] of one draw; scores[T, N], NULL unless vm_router_chooses: the K largest are the choice; saved[T, saved_floats]; kl[T]: the regulariser
 * of each token, KL(q||p) (0 without one). VMOER_ERROR_UNSUPPORTED: the kind has nothing to train. */
vmoer_status vm_router_forward(vm_router *r, vm_pool *pool, const vm_route *in, float *p, float *scores, float *saved, float *kl);
/* Gradients of  sum_t <dp_t, p_t> + kl_weight * sum_t kl_t: accumulates the params' grad, du[T, D] += where it is not NULL,
 * dlogits[T, N] = (overwritten). A kind that chooses adds its straight-through gradient of the choice, for which dp is 0 off the chosen. */
vmoer_status vm_router_backward(vm_router *r, vm_pool *pool, const vm_route *in, const float *p, const float *saved, const float *dp, float kl_weight,
                                float *du, float *dlogits);

/* ---- inference ---- */
/* out->p by the chosen way:
 *   MEAN    softmax(l_det + dmu); with zero heads the same bits as softmax(l_det) of the kernel table
 *   CLOSED  p_k ~ 1 / sum_i exp(-(m_k - m_i) / sqrt(1 + pi/8 v_ki)), v_ki = S_kk + S_ii - 2 S_ki, normalised over k
 *   SAMPLE  mean of softmax over `samples` draws, antithetic pairs, from one fixed table of draws a layer (N x samples, from seed and
 *           layer: docs/METHOD.md says why)
 *   TILTED  the solution of p = softmax(m + 1/2 diag S - S p): E softmax(l) exact to second order in S, no sampling noise; far nearer
 *           to it than CLOSED (figures in docs/METHOD.md)
 *   PASSES  softmax of one draw, a function of (seed, step, token, layer)
 * Without a covariance a kind whose default is PASSES or MEAN, drawing or without randomness, is that in all of them; what has weights of its own takes
 * SAMPLE for CLOSED and TILTED. VMOER_ERROR_NUMERIC when a token's logits or signals are not finite. */
vmoer_status vm_router_infer(const vm_router *r, vm_pool *pool, const vm_route *in, vm_inference inference, int samples, const vm_routing *out);

/* Floating-point operations that a token of a Bayesian layer adds, by its products alone, a multiply-add counting two (src/kernels/count.h counts the
 * same as it happens): trunk 2 D H, mean 2 H N; where the inference needs the scale head, its M rows 2 H M. Of L with its M elements, r columns below
 * the diagonal: SAMPLE L eps for every antithetic pair, 2 M; PASSES L eps once; CLOSED Sigma, 2 M + 2 sum_{j < r} (N - j)^2; TILTED diag Sigma, 2 M,
 * and Sigma p in every step, 4 M, of which VM_TILTED_STEPS are reckoned with: how many there are hangs on Sigma. Without the signals. */
enum { VM_TILTED_STEPS = 3 }; /* at L_ii = .2; 1 where Sigma is next to nothing, 8 at .7, 17 at 1.4 */
double vm_router_flops(const vm_router *r, vm_inference inference, int samples);
/* What inference holds between calls beside the values: scratch, draws. */
size_t vm_router_bytes(const vm_router *r);

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
