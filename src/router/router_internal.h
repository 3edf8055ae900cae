/* router_internal.h: what the files of this room share: the table of a kind's functions, a layer's tensors, the router itself.
 *
 * The work is split in two. route.c runs what every kind has in common, for all tokens at once: the trunk and its heads as matrix products,
 * the draws, the softmax and its gradient. A kind (one file each) only says what one token's head outputs mean: how they become a draw of
 * the logits, a KL and routing probabilities. docs/HOWTO-add-router.md. */
#ifndef VM_ROUTER_ROUTER_INTERNAL_H
#define VM_ROUTER_ROUTER_INTERNAL_H

#include "kernels/kernels.h"
#include "router/router.h"

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
    /* SAMPLE: the table of draws, pairs = ceil(samples / 2) columns in blocks of VM_DRAW_BLOCK: component i of pair b * VM_DRAW_BLOCK + s is
     * draws[(b * N + i) * VM_DRAW_BLOCK + s]; columns past the last pair are 0. NULL otherwise. */
    const float *draws;
    int samples;
} vm_token_context;
enum { VM_DRAW_BLOCK = 16 };

/* One kind of router. The functions see one token: dmu[N] and raw[scale outputs] are the heads' outputs, bias included; scratch is theirs
 * until they return. They may run on several threads at once. */
typedef struct vm_router_kind {
    const char *name;
    bool has_layers;     /* false: nothing but the temperature; every pointer below may be NULL */
    bool has_covariance; /* draws differ from their mean */
    int max_experts;
    int (*scale_outputs)(int n);                                  /* rows of the scale head; NULL: no such head, raw is NULL */
    void (*start_scale)(int n, float initial_scale, float *bias); /* the scale head's bias at the start; [scale outputs] */
    size_t (*scratch_floats)(int n);
    /* On entry l[N] = l_det + dmu; on return the logits of the draw eps[N]. Returns KL(q||p). */
    double (*forward)(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, float *l, float *scratch);
    /* Gradients of  <dl, l> + kl_weight * KL  into ddmu[N] and draw[scale outputs], both overwritten. */
    void (*backward)(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, const float *dl, float kl_weight,
                     float *ddmu, float *draw, float *scratch);
    /* p[N]: on entry l_det + dmu, on return the routing probabilities. raw (may be overwritten) is NULL when neither the inference nor the
     * signals need it. trace, trace_projected: one float each, or NULL. */
    void (*infer)(const vm_token_context *c, vm_inference inference, float *raw, float *p, float *trace, float *trace_projected,
                  float *scratch);
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

/* The three right-hand matrices of the way forward: W1^T [D, H], Wm^T [H, N], Wl^T [H, scale outputs]. */
typedef struct vm_router_panels {
    vm_panel trunk, mean, scale; /* scale.data NULL: no such head */
} vm_router_panels;

typedef struct vm_router_layer {
    vm_param params[VM_ROUTER_LAYER_PARAMS]; /* without a scale head the last two are empty */
    vm_router_panels panels;                 /* of the values at the last vm_router_pack */
} vm_router_layer;

struct vm_router {
    vm_router_config config;
    const vm_router_kind *kind;
    int scale_outputs;       /* M; 0 without a scale head */
    int params_per_layer;
    vm_router_layer *layers; /* [config.n_layers] */
    vm_param **list;         /* [config.n_layers * params_per_layer] */
    float *ones;             /* [width]; silu(z) = swiglu(z, 1) */
    bool packed;             /* the layers' panels hold the params' values */
    vm_arena *memory;        /* everything above */
    vm_arena *work;          /* scratch of forward and backward, kept between calls */
};

/* Refuses a config outside the limits; the text names the field. *kind: its table. */
vmoer_status vm_router_config_check(const vm_router_config *config, const vm_router_kind **kind);
/* Name and shape of parameter `which` of layers[layer], a value of the enum above below the kind's params_per_layer. */
void vm_router_param_name(const vm_router_config *config, int layer, int which, char name[128]);
void vm_router_param_shape(const vm_router_config *config, int scale_outputs, int which, int *rows, int *cols);
/* NULL: not a layer of this router. */
const vm_router_layer *vm_router_layer_find(const vm_router *r, int layer);
/* Packs `layer`'s values into *out (all zero, or packed before); new data come from `memory`; pool may be NULL. */
vmoer_status vm_router_panels_pack(const vm_router *r, const vm_router_layer *layer, vm_pool *pool, vm_arena *memory,
                                   vm_router_panels *out);
/* Packs every layer for inference with values that no longer change. */
vmoer_status vm_router_pack(vm_router *r);

/* eps[N] of token t of `in`: pure function of (seed, step), the token and the layer, times sign. */
void vm_router_draw(const vm_route *in, int t, int n, float *eps);
/* vm_router_forward and _backward with given draws eps[T, N]. */
vmoer_status vm_router_forward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *eps, float *p, float *saved, float *kl);
vmoer_status vm_router_backward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *eps, const float *p, const float *saved,
                                     const float *dp, float kl_weight, float *du, float *dlogits);

#endif
