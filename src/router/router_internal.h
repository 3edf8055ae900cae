/* router_internal.h: what the files of this room share: the table of a kind's functions, a layer's tensors, the router itself.
 *
 * A router is put together of three things (docs/HOWTO-add-router.md):
 *   the room      router.c, router_file.c, products.c, the draws (route.c) and the strips (infer.c): the same for all
 *   a network     which tensors a layer has, and their way forward and back for many tokens at once: the trunk with its heads (route.c), none, or
 *                 the model's own router weights again (weights.c)
 *   a kind        one file each: what the numbers mean. Of a kind with a trunk: how one token's head outputs become a draw of the logits and a KL,
 *                 and how those of a strip of 16 tokens become routing probabilities. */
#ifndef VM_ROUTER_ROUTER_INTERNAL_H
#define VM_ROUTER_ROUTER_INTERNAL_H

#include "base/rng.h"
#include "kernels/kernels.h"
#include "router/router.h"
#include <stdatomic.h>

/* Limits of a router, of its file too. */
enum {
    VM_ROUTER_MAX_LAYERS = 512, /* layer indices are below it */
    VM_ROUTER_MAX_EXPERTS = 4096,
    VM_ROUTER_MAX_DIM = 65536,
    VM_ROUTER_MAX_WIDTH = 4096,
    VM_ROUTER_MAX_MEMBERS = 64,
    VM_STRIP_SCRATCH = VM_DRAW_BLOCK + 3, /* rows of N x 16 floats that a kind's infer may use */
    VM_ROUTER_EACH_EXPERT = -1            /* vm_router_kind.normals: N of them */
};

typedef struct vm_router_kind vm_router_kind;
typedef struct vm_router_layer vm_router_layer;
typedef struct vm_router_packed vm_router_packed;

/* ---- one token, in training ---- */

/* What the functions of one token need to know. */
typedef struct vm_token_context {
    const vm_router_kind *kind;
    const vm_router_config *config;
    const vm_kernels *kernels;
    int n; /* N */
} vm_token_context;

typedef struct vm_token {
    const float *logits; /* [N] l_det */
    const float *dmu;    /* [N] the mean head's output; zeros where the kind has no such head */
    const float *raw;    /* [scale outputs]; NULL where the kind has none */
    const float *normals, *gumbels; /* of this draw: [normals], [N]; NULL where the kind has none */
} vm_token;

/* ---- a strip of 16 tokens, at inference ---- */

/* What all strips of a call share. */
typedef struct vm_infer_call {
    const vm_router *r;
    const vm_kernels *kernels;
    const vm_router_packed *packed;
    const vm_route *in;
    vm_inference inference;
    int samples;
    const float *table; /* SAMPLE of a Gaussian: the draws as vm_kernels.gaussian_sample wants them; else NULL */
    bool runs_kind;     /* the kind's infer is wanted: false for a softmax of the mean alone */
    vm_routing out;
} vm_infer_call;

/* Arrays [rows][16]. */
typedef struct vm_strip {
    float *raw;                 /* [scale outputs]; may be overwritten */
    const float *mean;          /* [N] l_det + dmu */
    const float *normals, *gumbels; /* PASSES: of this pass, [normals], [N]; else not set */
    float *p;                   /* [N] to be written: the routing probabilities; PASSES: the draw's logits; a Gaussian's MEAN: left alone */
    float *scores;              /* [N] likewise, of a kind that chooses */
    float *check;               /* [1] NaN added where raw is not finite: kernels may hide one */
    float *trace, *projected;   /* [1] the signals; 0 before */
    float *diagonal;            /* [1] of trace; 0 before */
    float *temperature;         /* [1] likewise; NAN before */
    float *scratch;             /* [VM_STRIP_SCRATCH][N] */
} vm_strip;

/* ---- a network ---- */

/* A tensor of a layer, in a file as "layers.<layer>.<name>". */
typedef struct vm_router_tensor {
    char name[64];
    int rows, cols; /* rows 0: this router has none in this slot */
    bool decay;
    bool carried;   /* no gradient (param.h) */
    bool positive;  /* 0 or more everywhere */
} vm_router_tensor;

typedef struct vm_router_network {
    int slots; /* a layer's; 0: no tensors */
    vm_router_tensor (*tensor)(const vm_router_kind *kind, const vm_router_config *c, int slot);
    /* Initial values; all are 0 before. NULL: they stay 0. */
    void (*start)(vm_router *r, vm_router_layer *layer, int model_layer);
    /* The layer's values as infer wants them; memory where *out has none yet. NULL: it takes them as they are. */
    vmoer_status (*pack)(const vm_router_layer *layer, vm_arena *memory, vm_router_packed *out);
    double (*flops)(const vm_router *r, vm_inference inference, int samples);

    /* Training: as vm_router_saved_floats (NULL: 0), _forward and _backward; the call was checked, r->work is empty. NULL: nothing to train. */
    size_t (*saved_floats)(const vm_router *r);
    vmoer_status (*forward)(vm_router *r, vm_pool *pool, const vm_route *in, vm_router_layer *layer, float *p, float *scores, float *saved, float *kl);
    vmoer_status (*backward)(vm_router *r, vm_pool *pool, const vm_route *in, vm_router_layer *layer, const float *p, const float *saved, const float *dp,
                             float kl_weight, float *du, float *dlogits);

    /* Inference: all tokens of the call, into c->out; memory: scratch. */
    vmoer_status (*infer)(const vm_infer_call *c, vm_pool *pool, vm_router_layer *layer, vm_arena *memory);
} vm_router_network;

extern const vm_router_network vm_network_trunk; /* trunk and heads: route.c */
extern const vm_router_network vm_network_none;  /* no tensors, mean = l_det: route.c */
extern const vm_router_network vm_network_weights; /* the model's own router weights again: weights.c */

/* ---- a kind ---- */

/* Of a number that a kind uses; high 0: it does not. */
typedef struct vm_router_range {
    double low, high;
    double start; /* where the user gives none */
} vm_router_range;

struct vm_router_kind {
    const char *name; /* what users write, at most 15 bytes */
    const vm_router_network *network;
    bool has_layers;        /* false: nothing but the output temperature; every pointer below may be NULL */
    bool has_covariance;    /* its logits are Gaussian: SAMPLE, CLOSED, TILTED, trace */
    bool has_kl;            /* a regulariser: prior_scale and initial_scale mean something */
    bool has_temperature;   /* a T(u) */
    bool chooses;           /* writes scores; N Gumbels a draw */
    int normals;            /* a draw, or VM_ROUTER_EACH_EXPERT */
    vm_inference inference; /* its own way; MEAN: no randomness */
    int max_experts;
    const char *larger;     /* the kind for more experts; NULL: none */
    vm_router_range numbers[VM_ROUTER_NUMBERS];

    /* Of the trunk. The functions may run on several threads at once. */
    bool has_mean;                                                        /* the mean head */
    int (*scale_outputs)(const vm_router_config *c);                      /* rows of the scale head; NULL: no such head */
    void (*start_scale)(const vm_router_config *c, float *bias);          /* the scale head's bias at the start; [scale outputs], 0 before */
    size_t (*scratch_floats)(const vm_router_config *c);                  /* of forward and backward; NULL: none */
    /* On entry l[N] = l_det + dmu; on return the logits of the draw: p is their softmax. scores[N] of a kind that chooses, else NULL. Returns the KL. */
    double (*forward)(const vm_token_context *c, const vm_token *x, float *l, float *scores, float *scratch);
    /* On entry dl[N] = the gradient of <dp, p> by the draw's logits. Gradients of that and of kl_weight * KL: ddmu[N] (scratch where the kind has no
     * mean head) and draw[scale outputs], overwritten; dl: by l_det. */
    void (*backward)(const vm_token_context *c, const vm_token *x, const float *p, const float *dp, float kl_weight, float *dl, float *ddmu, float *draw,
                     float *scratch);

    double (*flops)(const vm_router_config *c, vm_inference inference, int samples); /* a token's, beyond the heads; NULL: none */

    /* Of trunk and none; NULL: p is softmax(mean) always. */
    void (*infer)(const vm_infer_call *c, const vm_strip *s);

    const struct vm_weights_kind *weights; /* of the network of weights: weights.h */
};

/* Those of the products of L by its rank (vglr.c): vm_router_flops. */
double vm_gaussian_flops(int n, int rank, vm_inference inference, int samples);

/* The kinds: X(name) stands for the table vm_router_kind_<name>, defined in the kind's file. */
#define VM_ROUTER_KINDS(X)                                                                                                                  \
    X(vglr_fc)                                                                                                                              \
    X(vglr_lr)                                                                                                                              \
    X(vglr_mf)                                                                                                                              \
    X(vglr_noise)                                                                                                                           \
    X(isotropic)                                                                                                                            \
    X(residual)                                                                                                                             \
    X(vtsr)                                                                                                                                 \
    X(vtsr_paper)                                                                                                                           \
    X(fixed_t)                                                                                                                              \
    X(roe)                                                                                                                                  \
    X(expert_sample)                                                                                                                        \
    X(weights)                                                                                                                              \
    X(mc_dropout)                                                                                                                           \
    X(swag)                                                                                                                                 \
    X(ensemble)                                                                                                                             \
    X(temperature)

#define VM_ROUTER_KIND_DECLARE(name) extern const vm_router_kind vm_router_kind_##name;
VM_ROUTER_KINDS(VM_ROUTER_KIND_DECLARE)
#undef VM_ROUTER_KIND_DECLARE

/* Of a strip of Gaussian logits what the call's inference asks for, into s->p; vglr.c. scratch[VM_DRAW_BLOCK + 2][N][16]. */
void vm_infer_gaussians(const vm_infer_call *c, const vm_strip *s, const vm_gaussians *g, float *scratch);

const vm_router_kind *vm_router_kind_find(const char *name); /* NULL: unknown */

/* The numbers of the config by name and place. */
typedef struct vm_router_number_info {
    const char *key;
    bool whole;
    size_t offset; /* of an int or a float in vm_router_config */
} vm_router_number_info;
extern const vm_router_number_info vm_router_number_infos[VM_ROUTER_NUMBERS];

/* ---- the router ---- */

/* Slots of the trunk. */
enum { VM_TRUNK_WEIGHT, VM_TRUNK_BIAS, VM_MEAN_WEIGHT, VM_MEAN_BIAS, VM_SCALE_WEIGHT, VM_SCALE_BIAS, VM_TRUNK_SLOTS };

/* A weight and its bias packed for vm_kernels.strip_product. */
typedef struct vm_router_linear {
    void *weight;
    float *bias;
} vm_router_linear;

/* A layer's values as inference wants them. */
struct vm_router_packed {
    const vm_kernels *kernels; /* whose layout it is */
    vm_router_linear *linear;  /* as many as the network has */
};

typedef struct vm_draw_table vm_draw_table;
void vm_draw_table_free(vm_draw_table *t); /* takes NULL */
size_t vm_draw_table_bytes(const vm_draw_table *t, int n); /* takes NULL */
typedef struct vm_weight_table vm_weight_table;
void vm_weight_table_free(vm_weight_table *t); /* likewise */
size_t vm_weight_table_bytes(const vm_weight_table *t); /* likewise */

struct vm_router_layer {
    vm_param *params;               /* [slots]; one that the router lacks is empty */
    vm_router_packed packed;        /* of the values at the last vm_router_pack */
    _Atomic(vm_draw_table *) draws; /* of the last SAMPLE; NULL: none, or in use */
    _Atomic(vm_weight_table *) weights; /* matrices of the last call; likewise */
};

struct vm_router {
    vm_router_config config;
    const vm_router_kind *kind;
    int scale_outputs;       /* M; 0 without a scale head */
    vm_router_layer *layers; /* [config.n_layers] */
    vm_param **list;         /* [n_params] those that there are */
    size_t n_params;
    float *ones;             /* [width][16]; silu(z) = swiglu(z, 1) */
    float *zeros;            /* [N] */
    bool packed;             /* the layers' packed hold the params' values */
    vm_arena *memory;        /* everything above */
    vm_arena *work;          /* scratch of forward and backward, kept between calls */
    _Atomic(vm_arena *) *spare; /* scratch of inference; NULL in it: none, or in use by a call, of which there may be many at once */
};

/* Refuses a config outside the limits; the text names the field. *kind: its table. */
vmoer_status vm_router_config_check(const vm_router_config *config, const vm_router_kind **kind);
/* Name in files of a tensor of layers[layer]. */
void vm_router_param_name(const vm_router_config *config, int layer, const vm_router_tensor *t, char name[128]);
/* NULL: not a layer of this router. */
vm_router_layer *vm_router_layer_find(const vm_router *r, int layer);
/* The layer of a call, its arguments checked. */
vmoer_status vm_router_find_call(const vm_router *r, const vm_route *in, vm_router_layer **layer);
vmoer_status vm_router_out_of_memory(const vm_route *in);
/* VMOER_ERROR_NUMERIC unless the first of every token's `stride` numbers is finite; p may be NULL. */
vmoer_status vm_router_check_finite(const vm_route *in, const float *p, size_t stride, const char *what);
/* x[rows, n] to y[n][16], lanes from `rows` on 0; and back. */
void vm_to_lanes(const float *x, int rows, int n, float *y);
void vm_from_lanes(const float *y, int rows, int n, float *x);

/* ---- draws: pure functions of (seed, step), the token and the layer ---- */

/* n draws of token t of `in`, `stride` floats apart. N(0, 1) times sign; VM_RNG_ROUTE in training, VM_RNG_PASS at inference. */
void vm_router_normals(const vm_route *in, vm_rng_purpose purpose, int t, int n, int stride, float *out);
/* Gumbels -ln(-ln U), for sign -1 of 1 - U; VM_RNG_GUMBEL in training, VM_RNG_PASS_GUMBEL at inference. */
void vm_router_gumbels(const vm_route *in, vm_rng_purpose purpose, int t, int n, int stride, float *out);
int vm_router_count_normals(const vm_router *r); /* of a draw */
int vm_router_count_gumbels(const vm_router *r);
/* What other draws are made of: the key that the step enters through, and the counter of a token's first block; the last of its four is the next's. */
uint64_t vm_router_step_seed(const vm_route *in, vm_rng_purpose purpose);
void vm_router_start_counter(const vm_route *in, int t, uint32_t counter[4]);

/* ---- scales ---- */

/* A scale is exp(raw), raw a head's output held in this range; outside, the gradient by raw is 0. NaN stays NaN. */
#define VM_RAW_LOW (-10.0f)
#define VM_RAW_HIGH 5.0f
static inline float vm_clamp_raw(float raw) { return raw < VM_RAW_LOW ? VM_RAW_LOW : raw > VM_RAW_HIGH ? VM_RAW_HIGH : raw; }
static inline bool vm_raw_inside(float raw) { return raw >= VM_RAW_LOW && raw <= VM_RAW_HIGH; }

/* ---- products over many tokens: products.c ---- */

/* Tokens in work at once where each has `columns` floats of scratch: a function of the sizes alone, for the sums over tokens are cut there. */
int vm_router_chunk(int columns);
/* True where all of x[n] is finite: kernels may hide a NaN. */
bool vm_router_all_finite(const float *x, size_t n);
/* Panel [k, n] of src[k, n], or with `across` of src[n, k]. Memory of the arena where out has none; src NULL: that alone. False: no memory. */
bool vm_router_panel(vm_pool *pool, vm_arena *memory, int k, int n, const float *src, bool across, vm_panel *out);
/* c[m, ldc] = or += a[m, b->k] b. */
vm_gemm_job vm_router_product(int m, const float *a, const vm_panel *b, float *c, size_t ldc, bool accumulate);
/* Of outputs = inputs W^T: W's gradient += dout^T inputs; dout[tokens, W's rows], inputs a panel [tokens, W's columns]. */
vmoer_status vm_router_weight_gradient(vm_pool *pool, const float *dout, const vm_panel *inputs, vm_param *weight);

/* ---- the trunk and the network without tensors at inference: infer.c ---- */

vmoer_status vm_trunk_pack(const vm_router_layer *layer, vm_arena *memory, vm_router_packed *out);
vmoer_status vm_strips_infer(const vm_infer_call *call, vm_pool *pool, vm_router_layer *layer, vm_arena *memory);

/* vm_router_forward and _backward of a trunk with given draws[T, normals + Gumbels of a draw], NULL for a kind that draws nothing. */
vmoer_status vm_router_forward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *draws, float *p, float *scores, float *saved, float *kl);
vmoer_status vm_router_backward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *draws, const float *p, const float *saved,
                                     const float *dp, float kl_weight, float *du, float *dlogits);

#endif
