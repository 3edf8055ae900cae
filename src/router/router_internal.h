/* router_internal.h: what the files of this room share: the table of a kind's functions, a layer's tensors, the router itself.
 *
 * The work is split in two. route.c (training) and infer.c run what every kind has in common, for many tokens at once: the trunk and its heads
 * as matrix products, the draws, the softmax and its gradient. A kind (one file each) only says what the head outputs mean: how one token's
 * become a draw of the logits and a KL, and how those of a strip of tokens become routing probabilities. docs/HOWTO-add-router.md. */
#ifndef VM_ROUTER_ROUTER_INTERNAL_H
#define VM_ROUTER_ROUTER_INTERNAL_H

#include "kernels/kernels.h"
#include "router/router.h"
#include <stdatomic.h>

/* Limits of a router, of its file too. */
enum {
    VM_ROUTER_MAX_LAYERS = 512, /* layer indices are below it */
    VM_ROUTER_MAX_EXPERTS = 4096,
    VM_ROUTER_MAX_DIM = 65536,
    VM_ROUTER_MAX_WIDTH = 4096
};

/* What the functions of one token need to know. */
typedef struct vm_token_context {
    const struct vm_router_kind *kind;
    const vm_kernels *kernels;
    int n; /* N */
    float prior_scale;
} vm_token_context;

/* What the functions of one strip of tokens need to know. */
typedef struct vm_strip_context {
    const struct vm_router_kind *kind;
    const vm_kernels *kernels;
    int n;              /* N */
    const float *draws; /* SAMPLE: the table of vm_kernels.gaussian_sample; NULL otherwise */
    int samples;
} vm_strip_context;

/* One kind of router. The functions see one token: dmu[N] and raw[scale outputs] are the heads' outputs, bias included; scratch is theirs
 * until they return. They may run on several threads at once. */
typedef struct vm_router_kind {
    const char *name;
    bool has_layers;     /* false: nothing but the temperature; every pointer below may be NULL */
    bool has_covariance; /* draws differ from their mean */
    int max_experts;
    int (*scale_outputs)(int n);                                  /* rows of the scale head; NULL: no such head, raw is NULL */
    void (*start_scale)(int n, float initial_scale, float *bias); /* the scale head's bias at the start; [scale outputs] */
    size_t (*scratch_floats)(int n); /* of forward */
    /* On entry l[N] = l_det + dmu; on return the logits of the draw eps[N]. Returns KL(q||p). */
    double (*forward)(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, float *l, float *scratch);
    /* Gradients of  <dl, l> + kl_weight * KL  into ddmu[N] and draw[scale outputs], both overwritten. */
    void (*backward)(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, const float *dl, float kl_weight,
                     float *ddmu, float *draw);
    /* Kinds with covariance; a strip, arrays [rows][16]. raw[scale outputs] (may be overwritten); mean[N]: l_det + dmu; p[N]: the routing
     * probabilities (MEAN: left alone); trace, projected: the signals; check: NaN added where raw is not finite; scratch[VM_DRAW_BLOCK + 2][N]. */
    void (*infer)(const vm_strip_context *c, vm_inference inference, float *raw, const float *mean, float *p, float *check, float *trace,
                  float *projected, float *scratch);
} vm_router_kind;

/* The kinds: X(name) stands for the table vm_router_kind_<name>, defined in the kind's file. */
#define VM_ROUTER_KINDS(X)                                                                                                                  \
    X(vglr_fc)                                                                                                                              \
    X(vglr_mf)                                                                                                                              \
    X(residual)                                                                                                                             \
    X(temperature)

#define VM_ROUTER_KIND_DECLARE(name) extern const vm_router_kind vm_router_kind_##name;
VM_ROUTER_KINDS(VM_ROUTER_KIND_DECLARE)
#undef VM_ROUTER_KIND_DECLARE

const vm_router_kind *vm_router_kind_find(const char *name); /* NULL: unknown */

enum { VM_TRUNK_WEIGHT, VM_TRUNK_BIAS, VM_MEAN_WEIGHT, VM_MEAN_BIAS, VM_SCALE_WEIGHT, VM_SCALE_BIAS, VM_ROUTER_LAYER_PARAMS };

/* A weight and its bias packed for vm_kernels.strip_product. */
typedef struct vm_router_linear {
    void *weight;
    float *bias;
} vm_router_linear;

/* A layer's values as inference wants them. */
typedef struct vm_router_packed {
    const vm_kernels *kernels; /* whose layout it is */
    vm_router_linear trunk, mean, scale;
} vm_router_packed;

typedef struct vm_draw_table vm_draw_table;
void vm_draw_table_free(vm_draw_table *t); /* takes NULL */

typedef struct vm_router_layer {
    vm_param params[VM_ROUTER_LAYER_PARAMS]; /* without a scale head the last two are empty */
    vm_router_packed packed;                 /* of the values at the last vm_router_pack */
    _Atomic(vm_draw_table *) draws;          /* of the last SAMPLE; NULL: none, or in use */
} vm_router_layer;

struct vm_router {
    vm_router_config config;
    const vm_router_kind *kind;
    int scale_outputs;       /* M; 0 without a scale head */
    int params_per_layer;
    vm_router_layer *layers; /* [config.n_layers] */
    vm_param **list;         /* [config.n_layers * params_per_layer] */
    float *ones;             /* [width][16]; silu(z) = swiglu(z, 1) */
    bool packed;             /* the layers' packed hold the params' values */
    vm_arena *memory;        /* everything above */
    vm_arena *work;          /* scratch of forward and backward, kept between calls */
    _Atomic(vm_arena *) *spare; /* scratch of inference; NULL in it: none, or in use by a call, of which there may be many at once */
};

/* Refuses a config outside the limits; the text names the field. *kind: its table. */
vmoer_status vm_router_config_check(const vm_router_config *config, const vm_router_kind **kind);
/* Name and shape of parameter `which` of layers[layer], a value of the enum above below the kind's params_per_layer. */
void vm_router_param_name(const vm_router_config *config, int layer, int which, char name[128]);
void vm_router_param_shape(const vm_router_config *config, int scale_outputs, int which, int *rows, int *cols);
/* NULL: not a layer of this router. */
vm_router_layer *vm_router_layer_find(const vm_router *r, int layer);
/* The layer of a call, its arguments checked. */
vmoer_status vm_router_find_call(const vm_router *r, const vm_route *in, vm_router_layer **layer);
vmoer_status vm_router_out_of_memory(const vm_route *in);
/* VMOER_ERROR_NUMERIC unless the first of every token's `stride` numbers is finite; p may be NULL. */
vmoer_status vm_router_check_finite(const vm_route *in, const float *p, size_t stride, const char *what);

/* eps[N] of token t of `in`: pure function of (seed, step), the token and the layer, times sign. */
void vm_router_draw(const vm_route *in, int t, int n, float *eps);
/* vm_router_forward and _backward with given draws eps[T, N]. */
vmoer_status vm_router_forward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *eps, float *p, float *saved, float *kl);
vmoer_status vm_router_backward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *eps, const float *p, const float *saved,
                                     const float *dp, float kl_weight, float *du, float *dlogits);

#endif
