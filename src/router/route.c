/* route.c: the draws, the networks of the trunk and of none, and a layer's tokens through the trunk in training.
 * Matrix products run over all tokens, the rest token by token in tasks of TOKEN_BLOCK tokens; each writes its own
 * rows, so nothing depends on the threads or on which tokens share a call. Inference: infer.c. */
#include "base/status.h"
#include "router/router_internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TOKEN_BLOCK = 16 };

/* What the tasks of one call share. Rows of z, mean and raw are `stride` floats apart, those of draws `n_draws`. */
typedef struct call {
    vm_token_context token;
    const vm_router *r;
    vm_router_layer *layer;
    const vm_route *in;
    int first; /* token of row 0 of h, dh, ddmu, draw */
    size_t stride;
    float *z, *mean, *raw, *h, *dh, *ddmu, *draw;
    const float *saved, *draws, *dp, *p_in;
    int normals, n_draws;
    float *drawn; /* [tokens, n_draws]: where draw_token leaves them */
    float *p, *scores, *kl, *dlogits;
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

vmoer_status vm_router_out_of_memory(const vm_route *in) {
    return vm_error(VMOER_ERROR_MEMORY, "router, layer %d: out of memory for %d tokens", in->layer, in->n_tokens);
}

vmoer_status vm_router_find_call(const vm_router *r, const vm_route *in, vm_router_layer **layer) {
    *layer = vm_router_layer_find(r, in->layer);
    if (!*layer) return vm_error(VMOER_ERROR_ARGUMENT, "router: layer %d is not one of its layers", in->layer);
    if (in->n_tokens < 0) return vm_error(VMOER_ERROR_ARGUMENT, "router: %d tokens", in->n_tokens);
    return VMOER_OK;
}

static vmoer_status start_call(const vm_router *r, const vm_route *in, vm_pool *pool, call *c) {
    *c = (call){.r = r, .in = in};
    VM_TRY(vm_router_find_call(r, in, &c->layer));
    c->token = (vm_token_context){
        .kind = r->kind, .config = &r->config, .kernels = vm_kernels_get(), .n = r->config.n_experts};
    c->normals = vm_router_count_normals(r);
    c->n_draws = c->normals + vm_router_count_gumbels(r);
    c->scratch_floats = (r->kind->scratch_floats ? r->kind->scratch_floats(&r->config) : 0) +
                        2 * ((size_t)r->config.width + (size_t)r->config.n_experts);
    c->scratch_floats = (c->scratch_floats + 15) & ~(size_t)15; /* no cache line shared between workers */
    bool ok = true;
    c->scratch = vm_arena_floats(r->work, (size_t)vm_pool_threads(pool), c->scratch_floats, &ok);
    return ok ? VMOER_OK : vm_router_out_of_memory(in);
}

/* ---- draws ---- */

int vm_router_count_normals(const vm_router *r) {
    return r->kind->normals == VM_ROUTER_EACH_EXPERT ? r->config.n_experts : r->kind->normals;
}

int vm_router_count_gumbels(const vm_router *r) { return r->kind->chooses ? r->config.n_experts : 0; }

/* The step enters through the key: its 64 bits are the block of the step itself, at a counter no draw uses. */
uint64_t vm_router_step_seed(const vm_route *in, vm_rng_purpose purpose) {
    uint32_t word[4];
    vm_rng_block(in->seed, purpose, (uint32_t[4]){(uint32_t)in->step, (uint32_t)(in->step >> 32), 0, 0x40000000u},
                 word);
    return word[0] | (uint64_t)word[1] << 32;
}

void vm_router_start_counter(const vm_route *in, int t, uint32_t counter[4]) {
    const vm_token_key *key = &in->tokens[t];
    counter[0] = key->item;
    counter[1] = (uint32_t)key->part << 16 | key->position;
    counter[2] = (uint32_t)in->layer << 16;
    counter[3] = 0;
}

void vm_router_normals(const vm_route *in, vm_rng_purpose purpose, int t, int n, int stride, float *out) {
    uint64_t seed = vm_router_step_seed(in, purpose);
    uint32_t counter[4];
    vm_router_start_counter(in, t, counter);
    for (int i = 0; i < n; i += 4, counter[3]++) {
        float normal[4];
        vm_rng_normal4(seed, purpose, counter, normal);
        for (int j = i; j < n && j < i + 4; j++) out[(size_t)j * (size_t)stride] = in->sign * normal[j - i];
    }
}

/* U = (word + 1/2) / 2^32 is never 0 nor 1, and 1 - U is what the word's complement gives. */
void vm_router_gumbels(const vm_route *in, vm_rng_purpose purpose, int t, int n, int stride, float *out) {
    uint64_t seed = vm_router_step_seed(in, purpose);
    uint32_t counter[4], word[4];
    vm_router_start_counter(in, t, counter);
    for (int i = 0; i < n; i += 4, counter[3]++) {
        vm_rng_block(seed, purpose, counter, word);
        for (int j = i; j < n && j < i + 4; j++) {
            uint32_t w = in->sign < 0 ? ~word[j - i] : word[j - i];
            out[(size_t)j * (size_t)stride] = (float)-log(-log(((double)w + 0.5) * 0x1p-32));
        }
    }
}

static void draw_token(const call *c, int t, float *scratch) {
    (void)scratch;
    float *row = c->drawn + (size_t)t * (size_t)c->n_draws;
    vm_router_normals(c->in, VM_RNG_ROUTE, t, c->normals, 1, row);
    vm_router_gumbels(c->in, VM_RNG_GUMBEL, t, c->n_draws - c->normals, 1, row + c->normals);
}

/* *draws[T, n_draws] in r->work; NULL for a kind that draws nothing. */
static vmoer_status draw_all(vm_router *r, vm_pool *pool, const vm_route *in, float **draws) {
    *draws = NULL;
    call c = {.r = r, .in = in, .normals = vm_router_count_normals(r)};
    c.n_draws = c.normals + vm_router_count_gumbels(r);
    if (c.n_draws == 0 || in->n_tokens <= 0) return VMOER_OK;
    if (in->sign != 1.0f && in->sign != -1.0f)
        return vm_error(VMOER_ERROR_ARGUMENT, "router: sign of the draw is %g, not 1 or -1", (double)in->sign);
    bool ok = true;
    *draws = c.drawn = vm_arena_floats(r->work, (size_t)in->n_tokens, (size_t)c.n_draws, &ok);
    if (!ok) return vm_router_out_of_memory(in);
    for_tokens(pool, &c, draw_token, 0, in->n_tokens);
    return VMOER_OK;
}

/* What a kind sees of token t; mean and raw are the heads' outputs. */
static vm_token token_of(const call *c, int t, const float *mean, const float *raw) {
    const float *draws = c->draws ? c->draws + (size_t)t * (size_t)c->n_draws : NULL;
    return (vm_token){.logits = c->in->logits + (size_t)t * (size_t)c->token.n,
                      .dmu = c->r->kind->has_mean ? mean : c->r->zeros,
                      .raw = c->r->scale_outputs > 0 ? raw : NULL,
                      .normals = draws,
                      .gumbels = draws && c->r->kind->chooses ? draws + c->normals : NULL};
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
    if (c->r->kind->has_mean) add(mean, c->layer->params[VM_MEAN_BIAS].value, c->token.n);
    if (raw) add(raw, c->layer->params[VM_SCALE_BIAS].value, c->r->scale_outputs);
}

/* p = l_det + dmu. False if that, or a head output beside it, is not finite: kernels may hide a NaN. */
static bool start_logits(const call *c, const vm_token *x, float *p) {
    int n = c->token.n;
    for (int i = 0; i < n; i++) p[i] = x->logits[i] + x->dmu[i];
    return vm_router_all_finite(p, (size_t)n) && (!x->raw || vm_router_all_finite(x->raw, (size_t)c->r->scale_outputs));
}

static void forward_token(const call *c, int t, float *scratch) {
    int n = c->token.n;
    float *mean = c->mean + (size_t)t * c->stride, *raw = c->raw ? c->raw + (size_t)t * c->stride : NULL,
          *p = c->p + (size_t)t * (size_t)n, *scores = c->scores ? c->scores + (size_t)t * (size_t)n : NULL;
    add_head_bias(c, mean, raw);
    vm_token x = token_of(c, t, mean, raw);
    bool finite = start_logits(c, &x, p);
    c->kl[t] = (float)c->r->kind->forward(&c->token, &x, p, scores, scratch);
    finite = finite && vm_router_all_finite(p, (size_t)n);
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
    return vm_router_panel(pool, memory, w->cols, w->rows, w->value, true, out)
               ? VMOER_OK
               : vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", w->name);
}

static size_t mean_floats(const vm_router *r) { return r->kind->has_mean ? (size_t)r->config.n_experts : 0; }

/* saved: z[H], dmu[N] where there is a mean head, raw[M]; biases included. */
static size_t trunk_saved_floats(const vm_router *r) {
    return (size_t)r->config.width + mean_floats(r) + (size_t)r->scale_outputs;
}

vmoer_status vm_router_forward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *draws, float *p,
                                    float *scores, float *saved, float *kl) {
    call c;
    VM_TRY(start_call(r, in, pool, &c));
    size_t width = (size_t)r->config.width, n = (size_t)r->config.n_experts;
    bool has_mean = r->kind->has_mean;
    vm_panel W1 = {0}, Wm = {0}, Wl = {0};
    VM_TRY(pack_weight(pool, r->work, &c.layer->params[VM_TRUNK_WEIGHT], &W1));
    if (has_mean) VM_TRY(pack_weight(pool, r->work, &c.layer->params[VM_MEAN_WEIGHT], &Wm));
    if (r->scale_outputs > 0) VM_TRY(pack_weight(pool, r->work, &c.layer->params[VM_SCALE_WEIGHT], &Wl));
    c.stride = trunk_saved_floats(r);
    bool ok = true;
    c.h = vm_arena_floats(r->work, (size_t)in->n_tokens, width, &ok);
    if (!ok) return vm_router_out_of_memory(in);
    c.z = saved;
    c.mean = saved + width;
    c.raw = r->scale_outputs > 0 ? saved + width + mean_floats(r) : NULL;
    c.draws = draws;
    c.p = p;
    c.scores = scores;
    c.kl = kl;

    vm_gemm_job trunk = vm_router_product(in->n_tokens, in->u, &W1, c.z, c.stride, false);
    VM_TRY(vm_gemm(pool, &trunk, 1));
    for_tokens(pool, &c, trunk_token, 0, in->n_tokens);
    vm_gemm_job heads[2] = {vm_router_product(in->n_tokens, c.h, &Wm, c.mean, c.stride, false),
                            vm_router_product(in->n_tokens, c.h, &Wl, c.raw, c.stride, false)};
    VM_TRY(vm_gemm(pool, has_mean ? heads : heads + 1, has_mean + (c.raw != NULL)));
    for_tokens(pool, &c, forward_token, 0, in->n_tokens);
    VM_TRY(vm_router_check_finite(in, p, n, "a logit"));
    return vm_router_check_finite(in, kl, 1, "KL");
}

static vmoer_status trunk_forward(vm_router *r, vm_pool *pool, const vm_route *in, vm_router_layer *layer, float *p,
                                  float *scores, float *saved, float *kl) {
    (void)layer;
    float *draws;
    VM_TRY(draw_all(r, pool, in, &draws));
    return vm_router_forward_with(r, pool, in, draws, p, scores, saved, kl);
}

/* ---- backward ---- */

/* dl = p (dp - <p, dp>), the gradient of the softmax; then the heads' gradients, and h again from z. */
static void heads_backward_token(const call *c, int t, float *scratch) {
    int n = c->token.n, width = c->r->config.width, m = c->r->scale_outputs;
    size_t row = (size_t)(t - c->first), at = (size_t)t * (size_t)n;
    const float *saved = c->saved + (size_t)t * c->stride, *p = c->p_in + at, *dp = c->dp + at;
    float *dl = c->dlogits + at;
    memcpy(dl, dp, (size_t)n * sizeof *dl);
    c->token.kernels->softmax_backward(p, 1.0f, dl, n);
    vm_token x = token_of(c, t, saved + width, saved + width + mean_floats(c->r));
    c->r->kind->backward(&c->token, &x, p, dp, c->kl_weight, dl, c->ddmu + row * (size_t)n,
                         m > 0 ? c->draw + row * (size_t)m : NULL, scratch);
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
    VM_TRY(vm_router_weight_gradient(pool, dout, inputs, weight));
    column_sums sums = {dout, rows, weight->rows, bias->grad};
    vm_pool_run(pool, (weight->rows + 63) / 64, sum_columns, &sums);
    return VMOER_OK;
}

/* Panels of the way back: Wm [N, H], Wl [M, H], W1 [H, D] as they are, and rows of h and u. */
typedef struct backward_panels {
    vm_panel mean, scale, trunk, h, u;
} backward_panels;

static bool pack_back(vm_pool *pool, vm_arena *memory, const vm_param *w, vm_panel *out) {
    return vm_router_panel(pool, memory, w->rows, w->cols, w->value, false, out);
}

static vmoer_status backward_chunk(vm_pool *pool, call *c, backward_panels *panels, int rows, float *du) {
    const vm_router *r = c->r;
    vm_param *w = c->layer->params;
    int width = r->config.width, m = r->scale_outputs, dim = r->config.dim;
    const float *u = c->in->u + (size_t)c->first * (size_t)dim;
    for_tokens(pool, c, heads_backward_token, c->first, c->first + rows);
    vm_router_panel(pool, NULL, rows, width, c->h, false, &panels->h);
    vm_router_panel(pool, NULL, rows, dim, u, false, &panels->u);

    bool has_mean = r->kind->has_mean;
    if (has_mean) {
        VM_TRY(linear_backward(pool, c->ddmu, rows, &panels->h, &w[VM_MEAN_WEIGHT], &w[VM_MEAN_BIAS]));
        vm_gemm_job dh = vm_router_product(rows, c->ddmu, &panels->mean, c->dh, (size_t)width, false);
        VM_TRY(vm_gemm(pool, &dh, 1));
    }
    if (m > 0) {
        VM_TRY(linear_backward(pool, c->draw, rows, &panels->h, &w[VM_SCALE_WEIGHT], &w[VM_SCALE_BIAS]));
        vm_gemm_job dh = vm_router_product(rows, c->draw, &panels->scale, c->dh, (size_t)width, has_mean);
        VM_TRY(vm_gemm(pool, &dh, 1));
    }
    for_tokens(pool, c, trunk_backward_token, c->first, c->first + rows);
    VM_TRY(linear_backward(pool, c->dh, rows, &panels->u, &w[VM_TRUNK_WEIGHT], &w[VM_TRUNK_BIAS]));
    if (!du) return VMOER_OK;
    vm_gemm_job down =
        vm_router_product(rows, c->dh, &panels->trunk, du + (size_t)c->first * (size_t)dim, (size_t)dim, true);
    return vm_gemm(pool, &down, 1);
}

vmoer_status vm_router_backward_with(vm_router *r, vm_pool *pool, const vm_route *in, const float *draws,
                                     const float *p, const float *saved, const float *dp, float kl_weight, float *du,
                                     float *dlogits) {
    call c;
    VM_TRY(start_call(r, in, pool, &c));
    int chunk = vm_at_most(in->n_tokens, vm_router_chunk(r->scale_outputs)), m = r->scale_outputs;
    size_t rows = (size_t)chunk, width = (size_t)r->config.width, n = (size_t)r->config.n_experts;
    backward_panels panels = {0};
    const vm_param *w = c.layer->params;
    bool ok = (!r->kind->has_mean || pack_back(pool, r->work, &w[VM_MEAN_WEIGHT], &panels.mean)) &&
              (!du || pack_back(pool, r->work, &w[VM_TRUNK_WEIGHT], &panels.trunk)) &&
              (m == 0 || pack_back(pool, r->work, &w[VM_SCALE_WEIGHT], &panels.scale)) &&
              vm_router_panel(pool, r->work, chunk, r->config.width, NULL, false, &panels.h) &&
              vm_router_panel(pool, r->work, chunk, r->config.dim, NULL, false, &panels.u);
    c.h = vm_arena_floats(r->work, rows, width, &ok);
    c.dh = vm_arena_floats(r->work, rows, width, &ok);
    c.ddmu = vm_arena_floats(r->work, rows, n, &ok);
    c.draw = m > 0 ? vm_arena_floats(r->work, rows, (size_t)m, &ok) : NULL;
    if (!ok) return vm_router_out_of_memory(in);
    c.stride = trunk_saved_floats(r);
    c.saved = saved;
    c.draws = draws;
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

static vmoer_status trunk_backward(vm_router *r, vm_pool *pool, const vm_route *in, vm_router_layer *layer,
                                   const float *p, const float *saved, const float *dp, float kl_weight, float *du,
                                   float *dlogits) {
    (void)layer;
    float *draws;
    VM_TRY(draw_all(r, pool, in, &draws));
    return vm_router_backward_with(r, pool, in, draws, p, saved, dp, kl_weight, du, dlogits);
}

/* ---- the networks of the trunk and of none ---- */

static vm_router_tensor trunk_tensor(const vm_router_kind *kind, const vm_router_config *c, int slot) {
    static const char *const names[VM_TRUNK_SLOTS] = {"trunk.weight", "trunk.bias",   "mean.weight",
                                                      "mean.bias",    "scale.weight", "scale.bias"};
    int scale = kind->scale_outputs ? kind->scale_outputs(c) : 0;
    int outputs = slot <= VM_TRUNK_BIAS ? c->width : slot > VM_MEAN_BIAS ? scale : kind->has_mean ? c->n_experts : 0;
    bool bias = slot == VM_TRUNK_BIAS || slot == VM_MEAN_BIAS || slot == VM_SCALE_BIAS;
    vm_router_tensor t = {.decay = !bias};
    snprintf(t.name, sizeof t.name, "%s", names[slot]);
    if (outputs == 0) return t;
    t.rows = bias ? 1 : outputs;
    t.cols = bias ? outputs : slot == VM_TRUNK_WEIGHT ? c->dim : c->width;
    return t;
}

/* W1 ~ N(0, 1/D); everything else 0 but the scale head's bias. */
static void trunk_start(vm_router *r, vm_router_layer *layer, int model_layer) {
    vm_param *trunk = &layer->params[VM_TRUNK_WEIGHT];
    vm_rng rng = vm_rng_start(r->config.seed, VM_RNG_INIT, (uint32_t)model_layer);
    float deviation = 1.0f / sqrtf((float)r->config.dim);
    for (size_t i = 0; i < vm_param_size(trunk); i++) trunk->value[i] = deviation * vm_rng_normal(&rng);
    if (r->scale_outputs > 0) r->kind->start_scale(&r->config, layer->params[VM_SCALE_BIAS].value);
}

static double kind_flops(const vm_router *r, vm_inference inference, int samples) {
    return r->kind->flops ? r->kind->flops(&r->config, inference, samples) : 0;
}

static double trunk_flops(const vm_router *r, vm_inference inference, int samples) {
    double D = r->config.dim, H = r->config.width, N = r->config.n_experts, M = r->scale_outputs;
    bool scale = inference != VM_INFERENCE_MEAN || r->kind->chooses;
    return 2 * D * H + (r->kind->has_mean ? 2 * H * N : 0) + (scale ? 2 * H * M : 0) +
           kind_flops(r, inference, samples);
}

const vm_router_network vm_network_trunk = {
    .slots = VM_TRUNK_SLOTS,
    .tensor = trunk_tensor,
    .start = trunk_start,
    .pack = vm_trunk_pack,
    .flops = trunk_flops,
    .saved_floats = trunk_saved_floats,
    .forward = trunk_forward,
    .backward = trunk_backward,
    .infer = vm_strips_infer,
};

const vm_router_network vm_network_none = {.flops = kind_flops, .infer = vm_strips_infer};

/* ---- training, whatever the network ---- */

static vmoer_status start_training(vm_router *r, const vm_route *in, vm_router_layer **layer) {
    VM_TRY(vm_router_find_call(r, in, layer));
    if (!r->kind->network->forward)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "router, layer %d: '%s' has nothing to train", in->layer,
                        r->kind->name);
    vm_arena_reset(r->work);
    return VMOER_OK;
}

size_t vm_router_saved_floats(const vm_router *r) {
    return r->kind->network->saved_floats ? r->kind->network->saved_floats(r) : 0;
}

vmoer_status vm_router_forward(vm_router *r, vm_pool *pool, const vm_route *in, float *p, float *scores, float *saved,
                               float *kl) {
    vm_router_layer *layer;
    VM_TRY(start_training(r, in, &layer));
    return r->kind->network->forward(r, pool, in, layer, p, scores, saved, kl);
}

vmoer_status vm_router_backward(vm_router *r, vm_pool *pool, const vm_route *in, const float *p, const float *saved,
                                const float *dp, float kl_weight, float *du, float *dlogits) {
    vm_router_layer *layer;
    VM_TRY(start_training(r, in, &layer));
    return r->kind->network->backward(r, pool, in, layer, p, saved, dp, kl_weight, du, dlogits);
}
