/* route.c: a layer's tokens through the network in training: what every kind of router has in common. Matrix products
 * run over all tokens, the rest token by token in tasks of TOKEN_BLOCK tokens; each writes its own rows, so nothing
 * depends on the threads or on which tokens share a call. Inference: infer.c. */
#include "base/rng.h"
#include "base/status.h"
#include "router/router_internal.h"
#include <math.h>
#include <string.h>

enum {
    TOKEN_BLOCK = 16,
    CHUNK_TOKENS = 1024, /* most tokens in work at once where the heads' outputs are scratch */
    CHUNK_FLOATS = 1 << 20
};

/* What the tasks of one call share. Rows of z, mean and raw are `stride` floats apart. */
typedef struct call {
    vm_token_context token;
    const vm_router *r;
    vm_router_layer *layer;
    const vm_route *in;
    int first; /* token of row 0 of h, dh, ddmu, draw */
    size_t stride;
    float *z, *mean, *raw, *h, *dh, *ddmu, *draw;
    const float *saved, *eps, *dp, *p_in;
    float *p, *kl, *dlogits;
    float kl_weight;
    float *scratch; /* [workers, scratch_floats] */
    size_t scratch_floats;
} call;

typedef void (*token_fn)(const call *c, int t, float *scratch);

typedef struct token_loop {
    const call *c;
    token_fn fn;
    int first, last;
} token_loop;

static void run_tokens(void *context, int task, int worker) {
    const token_loop *loop = context;
    int begin = loop->first + task * TOKEN_BLOCK;
    int end = begin + TOKEN_BLOCK < loop->last ? begin + TOKEN_BLOCK : loop->last;
    float *scratch = loop->c->scratch ? loop->c->scratch + (size_t)worker * loop->c->scratch_floats : NULL;
    for (int t = begin; t < end; t++) loop->fn(loop->c, t, scratch);
}

/* fn for tokens first..last-1. */
static void for_tokens(vm_pool *pool, const call *c, token_fn fn, int first, int last) {
    token_loop loop = {c, fn, first, last};
    vm_pool_run(pool, (last - first + TOKEN_BLOCK - 1) / TOKEN_BLOCK, run_tokens, &loop);
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i++) x[i] += y[i];
}

static bool all_finite(const float *x, int n) {
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
    }
    return true;
}

static float *floats(vm_arena *memory, size_t rows, size_t columns) {
    size_t n;
    return vm_mul(rows, columns, &n) ? vm_arena_alloc(memory, n, sizeof(float)) : NULL;
}

vmoer_status vm_router_out_of_memory(const vm_route *in) {
    return vm_error(VMOER_ERROR_MEMORY, "router, layer %d: out of memory for %d tokens", in->layer, in->n_tokens);
}

vmoer_status vm_router_find_call(const vm_router *r, const vm_route *in, vm_router_layer **layer) {
    *layer = vm_router_layer_find(r, in->layer);
    if (!*layer) return vm_error(VMOER_ERROR_ARGUMENT, "router: layer %d is not one of its layers", in->layer);
    if (in->n_tokens < 0) return vm_error(VMOER_ERROR_ARGUMENT, "router: %d tokens", in->n_tokens);
    return VMOER_OK;
}

static vmoer_status start_call(const vm_router *r, const vm_route *in, vm_pool *pool, vm_arena *memory, call *c) {
    *c = (call){.r = r, .in = in};
    VM_TRY(vm_router_find_call(r, in, &c->layer));
    c->token = (vm_token_context){
        .kind = r->kind, .kernels = vm_kernels_get(), .n = r->config.n_experts, .prior_scale = r->config.prior_scale};
    c->scratch_floats =
        r->kind->scratch_floats(r->config.n_experts) + 2 * ((size_t)r->config.width + (size_t)r->config.n_experts);
    c->scratch_floats = (c->scratch_floats + 15) & ~(size_t)15; /* no cache line shared between workers */
    c->scratch = floats(memory, (size_t)vm_pool_threads(pool), c->scratch_floats);
    return c->scratch ? VMOER_OK : vm_router_out_of_memory(in);
}

/* Tokens in work at once: a function of the sizes alone, for the sums over tokens are cut there. */
static int chunk_tokens(const vm_router *r) {
    int by_size = CHUNK_FLOATS / (r->scale_outputs > 0 ? r->scale_outputs : 1);
    return by_size < TOKEN_BLOCK ? TOKEN_BLOCK : by_size < CHUNK_TOKENS ? by_size : CHUNK_TOKENS;
}

static vm_gemm_job job(int m, const float *a, size_t lda, const vm_panel *b, float *c, size_t ldc, bool accumulate) {
    return (vm_gemm_job){
        .m = m, .a = a, .a_m_stride = lda, .a_k_stride = 1, .b = b, .c = c, .ldc = ldc, .accumulate = accumulate};
}

/* ---- draws ---- */

/* The step enters through the key: its 64 bits are the block of the step itself, at a counter no draw uses. */
void vm_router_draw(const vm_route *in, int t, int n, float *eps) {
    const vm_token_key *key = &in->tokens[t];
    uint32_t word[4];
    vm_rng_block(in->seed, VM_RNG_ROUTE, (uint32_t[4]){(uint32_t)in->step, (uint32_t)(in->step >> 32), 0, 0x40000000u},
                 word);
    uint64_t seed = word[0] | (uint64_t)word[1] << 32;
    uint32_t counter[4] = {key->item, (uint32_t)key->part << 16 | key->position, (uint32_t)in->layer << 16, 0};
    for (int i = 0; i < n; i += 4) {
        float normal[4];
        counter[3] = (uint32_t)i / 4;
        vm_rng_normal4(seed, VM_RNG_ROUTE, counter, normal);
        for (int j = i; j < n && j < i + 4; j++) eps[j] = in->sign * normal[j - i];
    }
}

static void draw_token(const call *c, int t, float *scratch) {
    (void)scratch;
    vm_router_draw(c->in, t, c->token.n, c->ddmu + (size_t)t * (size_t)c->token.n);
}

/* *eps[T, N] in r->work; NULL for a kind that draws nothing. */
static vmoer_status draw_all(vm_router *r, vm_pool *pool, const vm_route *in, float **eps) {
    *eps = NULL;
    if (!r->kind->has_covariance || in->n_tokens <= 0) return VMOER_OK;
    if (in->sign != 1.0f && in->sign != -1.0f)
        return vm_error(VMOER_ERROR_ARGUMENT, "router: sign of the draw is %g, not 1 or -1", (double)in->sign);
    *eps = floats(r->work, (size_t)in->n_tokens, (size_t)r->config.n_experts);
    if (!*eps) return vm_router_out_of_memory(in);
    call c = {.r = r, .in = in, .token.n = r->config.n_experts, .ddmu = *eps};
    for_tokens(pool, &c, draw_token, 0, in->n_tokens);
    return VMOER_OK;
}

/* ---- forward ---- */

/* h = silu(z + b1); z keeps the sum. h may be z. */
static void trunk_token(const call *c, int t, float *scratch) {
    (void)scratch;
    int row = t - c->first, width = c->r->config.width;
    float *z = c->z + (size_t)row * c->stride;
    add(z, c->layer->params[VM_TRUNK_BIAS].value, width);
    c->token.kernels->swiglu(z, c->r->ones, c->h + (size_t)row * (size_t)width, width);
}

static void add_head_bias(const call *c, float *mean, float *raw) {
    add(mean, c->layer->params[VM_MEAN_BIAS].value, c->token.n);
    if (raw) add(raw, c->layer->params[VM_SCALE_BIAS].value, c->r->scale_outputs);
}

/* p = l_det + dmu. False if that, or a head output beside it, is not finite: kernels may hide a NaN. */
static bool start_logits(const call *c, int t, const float *mean, const float *raw, float *p) {
    int n = c->token.n;
    const float *logits = c->in->logits + (size_t)t * (size_t)n;
    for (int i = 0; i < n; i++) p[i] = logits[i] + mean[i];
    return all_finite(p, n) && (!raw || all_finite(raw, c->r->scale_outputs));
}

static void forward_token(const call *c, int t, float *scratch) {
    int n = c->token.n;
    float *mean = c->mean + (size_t)t * c->stride, *raw = c->raw ? c->raw + (size_t)t * c->stride : NULL,
          *p = c->p + (size_t)t * (size_t)n;
    add_head_bias(c, mean, raw);
    bool finite = start_logits(c, t, mean, raw, p);
    c->kl[t] =
        (float)c->r->kind->forward(&c->token, mean, raw, c->eps ? c->eps + (size_t)t * (size_t)n : NULL, p, scratch);
    finite = finite && all_finite(p, n);
    c->token.kernels->softmax(p, n);
    if (!finite) p[0] = NAN;
}

vmoer_status vm_router_check_finite(const vm_route *in, const float *p, size_t stride, const char *what) {
    for (int t = 0; p && t < in->n_tokens; t++) {
        if (!isfinite(p[(size_t)t * stride])) {
            return vm_error(VMOER_ERROR_NUMERIC, "router, layer %d: %s of token %d is not finite", in->layer, what, t);
        }
    }
    return VMOER_OK;
}

/* Panel of W^T for W[outputs, inputs]. */
static vmoer_status pack_weight(vm_pool *pool, vm_arena *memory, const vm_param *w, vm_panel *out) {
    out->data = vm_arena_alloc(memory, vm_panel_bytes(VM_COMPUTE_F32, w->cols, w->rows), 1);
    if (!out->data) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", w->name);
    vm_panel_pack(pool, out, VM_COMPUTE_F32, w->cols, w->rows, w->value, 1, (size_t)w->cols, NULL);
    return VMOER_OK;
}

size_t vm_router_saved_floats(const vm_router *r) {
    if (!r->kind->has_layers) return 0;
    return (size_t)r->config.width + (size_t)r->config.n_experts + (size_t)r->scale_outputs;
}

/* saved: z[H], dmu[N], raw[M], biases included. */
vmoer_status vm_router_forward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *eps, float *p,
                                    float *saved, float *kl) {
    call c;
    VM_TRY(start_call(r, in, pool, r->work, &c));
    size_t width = (size_t)r->config.width, n = (size_t)r->config.n_experts;
    vm_panel W1 = {0}, Wm = {0}, Wl = {0};
    VM_TRY(pack_weight(pool, r->work, &c.layer->params[VM_TRUNK_WEIGHT], &W1));
    VM_TRY(pack_weight(pool, r->work, &c.layer->params[VM_MEAN_WEIGHT], &Wm));
    if (r->scale_outputs > 0) VM_TRY(pack_weight(pool, r->work, &c.layer->params[VM_SCALE_WEIGHT], &Wl));
    c.stride = vm_router_saved_floats(r);
    c.h = floats(r->work, (size_t)in->n_tokens, width);
    if (!c.h) return vm_router_out_of_memory(in);
    c.z = saved;
    c.mean = saved + width;
    c.raw = r->scale_outputs > 0 ? saved + width + n : NULL;
    c.eps = eps;
    c.p = p;
    c.kl = kl;

    vm_gemm_job trunk = job(in->n_tokens, in->u, (size_t)r->config.dim, &W1, c.z, c.stride, false);
    VM_TRY(vm_gemm(pool, &trunk, 1));
    for_tokens(pool, &c, trunk_token, 0, in->n_tokens);
    vm_gemm_job heads[2] = {job(in->n_tokens, c.h, width, &Wm, c.mean, c.stride, false),
                            job(in->n_tokens, c.h, width, &Wl, c.raw, c.stride, false)};
    VM_TRY(vm_gemm(pool, heads, c.raw ? 2 : 1));
    for_tokens(pool, &c, forward_token, 0, in->n_tokens);
    VM_TRY(vm_router_check_finite(in, p, n, "a logit"));
    return vm_router_check_finite(in, kl, 1, "KL");
}

vmoer_status vm_router_forward(vm_router *r, vm_pool *pool, const vm_route *in, float *p, float *saved, float *kl) {
    float *eps;
    vm_arena_reset(r->work);
    VM_TRY(draw_all(r, pool, in, &eps));
    return vm_router_forward_with(r, pool, in, eps, p, saved, kl);
}

/* ---- backward ---- */

/* dl = p (dp - <p, dp>), the gradient of the softmax; then the heads' gradients, and h again from z. */
static void heads_backward_token(const call *c, int t, float *scratch) {
    (void)scratch;
    int n = c->token.n, width = c->r->config.width, m = c->r->scale_outputs;
    size_t row = (size_t)(t - c->first), at = (size_t)t * (size_t)n;
    const float *saved = c->saved + (size_t)t * c->stride, *p = c->p_in + at, *dp = c->dp + at;
    float *dl = c->dlogits + at;
    float mean = c->token.kernels->dot(p, dp, n);
    for (int i = 0; i < n; i++) dl[i] = p[i] * (dp[i] - mean);
    c->r->kind->backward(&c->token, saved + width, saved + width + n, c->eps ? c->eps + at : NULL, dl, c->kl_weight,
                         c->ddmu + row * (size_t)n, m > 0 ? c->draw + row * (size_t)m : NULL);
    c->token.kernels->swiglu(saved, c->r->ones, c->h + row * (size_t)width, width);
}

/* dh becomes dz. */
static void trunk_backward_token(const call *c, int t, float *scratch) {
    int width = c->r->config.width;
    float *dh = c->dh + (size_t)(t - c->first) * (size_t)width, *dz = scratch, *unused = scratch + width;
    c->token.kernels->swiglu_backward(c->saved + (size_t)t * c->stride, c->r->ones, dh, dz, unused, width);
    memcpy(dh, dz, (size_t)width * sizeof *dh);
}

typedef struct column_sums {
    const float *x; /* [rows, columns] */
    int rows, columns;
    float *sum; /* [columns], += */
} column_sums;

static void sum_columns(void *context, int task, int worker) {
    (void)worker;
    const column_sums *s = context;
    int begin = task * 64, end = begin + 64 < s->columns ? begin + 64 : s->columns;
    for (int t = 0; t < s->rows; t++) {
        const float *row = s->x + (size_t)t * (size_t)s->columns;
        for (int i = begin; i < end; i++) s->sum[i] += row[i];
    }
}

/* For outputs = inputs W^T + b: dW += dout^T inputs, db += sum of dout over rows. inputs: a panel [rows, inputs]. */
static vmoer_status linear_backward(vm_pool *pool, const float *dout, int rows, const vm_panel *inputs,
                                    vm_param *weight, vm_param *bias) {
    vm_gemm_job product = {.m = weight->rows,
                           .a = dout,
                           .a_m_stride = 1,
                           .a_k_stride = (size_t)weight->rows,
                           .b = inputs,
                           .c = weight->grad,
                           .ldc = (size_t)weight->cols,
                           .accumulate = true};
    VM_TRY(vm_gemm(pool, &product, 1));
    column_sums sums = {dout, rows, weight->rows, bias->grad};
    vm_pool_run(pool, (weight->rows + 63) / 64, sum_columns, &sums);
    return VMOER_OK;
}

/* Panels of the way back: Wm [N, H], Wl [M, H], W1 [H, D] as they are, and rows of h and u. */
typedef struct backward_panels {
    vm_panel mean, scale, trunk, h, u;
} backward_panels;

static bool make_panel(vm_pool *pool, vm_arena *memory, int k, int n, const float *src, vm_panel *out) {
    if (!out->data) out->data = vm_arena_alloc(memory, vm_panel_bytes(VM_COMPUTE_F32, k, n), 1);
    if (out->data && src) vm_panel_pack(pool, out, VM_COMPUTE_F32, k, n, src, (size_t)n, 1, NULL);
    return out->data != NULL;
}

static bool make_weight_panel(vm_pool *pool, vm_arena *memory, const vm_param *w, vm_panel *out) {
    return make_panel(pool, memory, w->rows, w->cols, w->value, out);
}

static vmoer_status backward_chunk(vm_pool *pool, call *c, backward_panels *panels, int rows, float *du) {
    const vm_router *r = c->r;
    vm_param *w = c->layer->params;
    int width = r->config.width, n = c->token.n, m = r->scale_outputs, dim = r->config.dim;
    const float *u = c->in->u + (size_t)c->first * (size_t)dim;
    for_tokens(pool, c, heads_backward_token, c->first, c->first + rows);
    make_panel(pool, NULL, rows, width, c->h, &panels->h);
    make_panel(pool, NULL, rows, dim, u, &panels->u);

    VM_TRY(linear_backward(pool, c->ddmu, rows, &panels->h, &w[VM_MEAN_WEIGHT], &w[VM_MEAN_BIAS]));
    vm_gemm_job dh = job(rows, c->ddmu, (size_t)n, &panels->mean, c->dh, (size_t)width, false);
    VM_TRY(vm_gemm(pool, &dh, 1));
    if (m > 0) {
        VM_TRY(linear_backward(pool, c->draw, rows, &panels->h, &w[VM_SCALE_WEIGHT], &w[VM_SCALE_BIAS]));
        dh = job(rows, c->draw, (size_t)m, &panels->scale, c->dh, (size_t)width, true);
        VM_TRY(vm_gemm(pool, &dh, 1));
    }
    for_tokens(pool, c, trunk_backward_token, c->first, c->first + rows);
    VM_TRY(linear_backward(pool, c->dh, rows, &panels->u, &w[VM_TRUNK_WEIGHT], &w[VM_TRUNK_BIAS]));
    if (!du) return VMOER_OK;
    vm_gemm_job down =
        job(rows, c->dh, (size_t)width, &panels->trunk, du + (size_t)c->first * (size_t)dim, (size_t)dim, true);
    return vm_gemm(pool, &down, 1);
}

vmoer_status vm_router_backward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *eps, const float *p,
                                     const float *saved, const float *dp, float kl_weight, float *du, float *dlogits) {
    call c;
    VM_TRY(start_call(r, in, pool, r->work, &c));
    int chunk = chunk_tokens(r) < in->n_tokens ? chunk_tokens(r) : in->n_tokens, m = r->scale_outputs;
    size_t rows = (size_t)chunk, width = (size_t)r->config.width, n = (size_t)r->config.n_experts;
    backward_panels panels = {0};
    const vm_param *w = c.layer->params;
    bool ok = make_weight_panel(pool, r->work, &w[VM_MEAN_WEIGHT], &panels.mean) &&
              (!du || make_weight_panel(pool, r->work, &w[VM_TRUNK_WEIGHT], &panels.trunk)) &&
              (m == 0 || make_weight_panel(pool, r->work, &w[VM_SCALE_WEIGHT], &panels.scale)) &&
              make_panel(pool, r->work, chunk, r->config.width, NULL, &panels.h) &&
              make_panel(pool, r->work, chunk, r->config.dim, NULL, &panels.u);
    c.h = floats(r->work, rows, width);
    c.dh = floats(r->work, rows, width);
    c.ddmu = floats(r->work, rows, n);
    c.draw = m > 0 ? floats(r->work, rows, (size_t)m) : NULL;
    if (!ok || !c.h || !c.dh || !c.ddmu || (m > 0 && !c.draw)) return vm_router_out_of_memory(in);
    c.stride = vm_router_saved_floats(r);
    c.saved = saved;
    c.eps = eps;
    c.p_in = p;
    c.dp = dp;
    c.kl_weight = kl_weight;
    c.dlogits = dlogits;
    for (; c.first < in->n_tokens; c.first += chunk) {
        int left = in->n_tokens - c.first;
        VM_TRY(backward_chunk(pool, &c, &panels, left < chunk ? left : chunk, du));
    }
    return VMOER_OK;
}

vmoer_status vm_router_backward(vm_router *r, vm_pool *pool, const vm_route *in, const float *p, const float *saved,
                                const float *dp, float kl_weight, float *du, float *dlogits) {
    float *eps;
    vm_arena_reset(r->work);
    VM_TRY(draw_all(r, pool, in, &eps));
    return vm_router_backward_with(r, pool, in, eps, p, saved, dp, kl_weight, du, dlogits);
}
