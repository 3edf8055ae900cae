/* distill.c: see distill.h. */
#include "train/distill.h"

#include "base/rng.h"
#include "base/status.h"
#include "train/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the dense layer ---- */

/* y[m, n] = x[m, k] w[n, k]^T in f32. */
static vmoer_status product(vm_pool *pool, int m, int k, int n, const float *x, size_t ldx, const float *w, size_t ldw,
                            float *y) {
    vm_panel p = {.data = vm_malloc(1, vm_panel_bytes(VM_COMPUTE_F32, k, n))};
    if (!p.data) return vm_error(VMOER_ERROR_MEMORY, "no memory for a %d x %d product", m, n);
    vm_panel_pack(pool, &p, VM_COMPUTE_F32, k, n, w, 1, ldw, NULL);
    vm_gemm_job job = {.m = m, .a = x, .a_m_stride = ldx, .a_k_stride = 1, .b = &p, .c = y, .ldc = (size_t)n};
    vmoer_status status = vm_gemm(pool, &job, 1);
    vm_free(p.data);
    return status;
}

vmoer_status vm_dense_ffn_run(const vm_dense_ffn *f, vm_pool *pool, int width, int dim, int n_tokens, const float *u,
                              float *out, float *active) {
    size_t T = (size_t)n_tokens, F = (size_t)width, D = (size_t)dim;
    float *gate = vm_malloc(T * F, sizeof *gate), *up = vm_malloc(T * F, sizeof *up);
    vmoer_status status =
        gate && up ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory to run a dense layer on %d tokens", n_tokens);
    if (status == VMOER_OK) status = product(pool, n_tokens, dim, width, u, D, f->gate, D, gate);
    if (status == VMOER_OK) status = product(pool, n_tokens, dim, width, u, D, f->up, D, up);
    for (size_t t = 0; status == VMOER_OK && t < T; t++)
        vm_kernels_get()->swiglu(gate + t * F, up + t * F, gate + t * F, width);
    if (status == VMOER_OK) status = product(pool, n_tokens, width, dim, gate, F, f->down, F, out);
    if (status == VMOER_OK && active) {
        float *norm = up; /* [F], of each neuron's down column; the up projections are used up */
        memset(norm, 0, F * sizeof *norm);
        for (size_t d = 0; d < D; d++)
            for (size_t i = 0; i < F; i++) norm[i] += f->down[d * F + i] * f->down[d * F + i];
        for (size_t i = 0; i < F; i++) norm[i] = sqrtf(norm[i]);
        for (size_t t = 0; t < T; t++)
            for (size_t i = 0; i < F; i++) active[t * F + i] = fabsf(gate[t * F + i]) * norm[i];
    }
    vm_free(gate);
    vm_free(up);
    return status;
}

/* ---- the router's start ---- */

/* Solves (A + ridge I) X = B in place: A[n, n] symmetric positive, B[n, m] becomes X. Cholesky, f64: A = U' U, of which
 * only the upper triangle is read and written, along its rows. */
static vmoer_status solve(double *a, int n, double ridge, double *b, int m) {
    size_t N = (size_t)n, M = (size_t)m;
    for (size_t i = 0; i < N; i++) a[i * N + i] += ridge;
    for (size_t j = 0; j < N; j++) {
        double *row = a + j * N;
        for (size_t k = 0; k < j; k++)
            for (size_t i = j; i < N; i++) row[i] -= a[k * N + i] * a[k * N + j];
        if (!(row[j] > 0))
            return vm_error(VMOER_ERROR_NUMERIC, "the router inputs' covariance is not positive definite");
        double root = sqrt(row[j]);
        for (size_t i = j; i < N; i++) row[i] /= root;
    }
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < i; k++)
            for (size_t c = 0; c < M; c++) b[i * M + c] -= a[k * N + i] * b[k * M + c];
        for (size_t c = 0; c < M; c++) b[i * M + c] /= a[i * N + i];
    }
    for (size_t i = N; i-- > 0;) {
        for (size_t k = i + 1; k < N; k++)
            for (size_t c = 0; c < M; c++) b[i * M + c] -= a[i * N + k] * b[k * M + c];
        for (size_t c = 0; c < M; c++) b[i * M + c] /= a[i * N + i];
    }
    return VMOER_OK;
}

/* norm[T, N]: norm of each routed expert's output over the token's mean, minus 1. Relative, because the first token of
 * a sequence has outputs a thousand times larger than any other and would decide the fit alone. */
static vmoer_status expert_norms(const vm_recipe *r, int layer, const vm_dense_ffn *dense, vm_pool *pool,
                                 const float *u, int n_tokens, float *norm) {
    size_t T = (size_t)n_tokens, F = (size_t)r->width, D = (size_t)r->dim, w = (size_t)r->expert_width,
           N = (size_t)r->experts;
    float *gate = vm_malloc(w * D, sizeof *gate), *up = vm_malloc(w * D, sizeof *up),
          *down = vm_malloc(D * w, sizeof *down), *out = vm_malloc(T * D, sizeof *out);
    vmoer_status status =
        gate && up && down && out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the experts' norms");
    for (size_t e = 0; e < N && status == VMOER_OK; e++) {
        for (size_t i = 0; i < w; i++) {
            size_t neuron = (size_t)r->layers[layer].order[(size_t)r->shared_width + e * w + i];
            memcpy(gate + i * D, dense->gate + neuron * D, D * sizeof *gate);
            memcpy(up + i * D, dense->up + neuron * D, D * sizeof *up);
            for (size_t d = 0; d < D; d++) down[d * w + i] = dense->down[d * F + neuron];
        }
        vm_dense_ffn expert = {gate, up, down};
        status = vm_dense_ffn_run(&expert, pool, r->expert_width, r->dim, n_tokens, u, out, NULL);
        for (size_t t = 0; t < T && status == VMOER_OK; t++)
            norm[t * N + e] = sqrtf(vm_kernels_get()->dot(out + t * D, out + t * D, r->dim));
    }
    for (size_t t = 0; t < T && status == VMOER_OK; t++) {
        float mean = 0;
        for (size_t e = 0; e < N; e++) mean += norm[t * N + e] / (float)N;
        for (size_t e = 0; e < N; e++) norm[t * N + e] = norm[t * N + e] / (mean + 1e-20f) - 1.0f;
    }
    vm_free(gate);
    vm_free(up);
    vm_free(down);
    vm_free(out);
    return status;
}

vmoer_status vm_distill_router(vm_recipe *r, int layer, const vm_dense_ffn *dense, vm_pool *pool, const float *u,
                               int n_tokens, double spread) {
    size_t T = (size_t)n_tokens, D = (size_t)r->dim, N = (size_t)r->experts;
    float *norm = vm_malloc(T * N, sizeof *norm), *covariance = vm_malloc(D * D, sizeof *covariance),
          *cross = vm_malloc(D * N, sizeof *cross);
    float *logits = vm_malloc(T * N, sizeof *logits);
    double *a = vm_malloc(D * D, sizeof *a), *b = vm_malloc(D * N, sizeof *b);
    vm_panel pu = {.data = vm_malloc(1, vm_panel_bytes(VM_COMPUTE_F32, n_tokens, r->dim))};
    vm_panel pn = {.data = vm_malloc(1, vm_panel_bytes(VM_COMPUTE_F32, n_tokens, r->experts))};
    vmoer_status status = VMOER_OK;
    if (!norm || !covariance || !cross || !logits || !a || !b || !pu.data || !pn.data) {
        status = vm_error(VMOER_ERROR_MEMORY, "no memory to fit a router");
        goto done;
    }
    VM_GOTO(expert_norms(r, layer, dense, pool, u, n_tokens, norm));
    vm_panel_pack(pool, &pu, VM_COMPUTE_F32, n_tokens, r->dim, u, D, 1, NULL);
    vm_panel_pack(pool, &pn, VM_COMPUTE_F32, n_tokens, r->experts, norm, N, 1, NULL);
    vm_gemm_job jobs[2] = {{.m = r->dim, .a = u, .a_m_stride = 1, .a_k_stride = D, .b = &pu, .c = covariance, .ldc = D},
                           {.m = r->dim, .a = u, .a_m_stride = 1, .a_k_stride = D, .b = &pn, .c = cross, .ldc = N}};
    VM_GOTO(vm_gemm(pool, jobs, 2));
    double trace = 0;
    for (size_t i = 0; i < D * D; i++) a[i] = (double)covariance[i];
    for (size_t i = 0; i < D * N; i++) b[i] = (double)cross[i];
    for (size_t i = 0; i < D; i++) trace += a[i * D + i];
    VM_GOTO(solve(a, r->dim, 0.01 * trace / r->dim, b, r->experts));
    float *router = r->layers[layer].router;
    for (size_t e = 0; e < N; e++)
        for (size_t d = 0; d < D; d++) router[e * D + d] = (float)b[d * N + e];
    VM_GOTO(product(pool, n_tokens, r->dim, r->experts, u, D, router, D, logits));
    double deviation = 0;
    for (size_t t = 0; t < T; t++) {
        double mean = 0, square = 0;
        for (size_t e = 0; e < N; e++) mean += (double)logits[t * N + e] / (double)N;
        for (size_t e = 0; e < N; e++)
            square += ((double)logits[t * N + e] - mean) * ((double)logits[t * N + e] - mean) / (double)N;
        deviation += sqrt(square) / (double)T;
    }
    for (size_t i = 0; i < N * D && deviation > 0; i++) router[i] *= (float)(spread / deviation);
done:
    vm_free(norm);
    vm_free(covariance);
    vm_free(cross);
    vm_free(logits);
    vm_free(a);
    vm_free(b);
    vm_free(pu.data);
    vm_free(pn.data);
    return status;
}

/* ---- distillation ---- */

enum { DELTAS = 6 };

typedef struct fit {
    vm_recipe *r;
    int layer;
    const vm_dense_ffn *dense;
    vm_pool *pool;
    vm_ffn ffn;
    float *gate, *up, *down;    /* [F, D], [F, D], [D, F] in the recipe's order, deltas added */
    float *dgate, *dup, *ddown; /* their gradients */
    vm_param params[DELTAS];    /* a, b of gate, up, down: values are the recipe's */
    vm_param *list[DELTAS + 1];
    vm_arena *keep, *scratch;
} fit;

/* Copies the recipe's weights into the experts. */
static vmoer_status refresh(fit *f) {
    const vm_recipe *r = f->r;
    size_t D = (size_t)r->dim, F = (size_t)r->width, S = (size_t)r->shared_width, w = (size_t)r->expert_width;
    vm_recipe_weights(r, f->layer, f->dense->gate, f->dense->up, f->dense->down, f->gate, f->up, f->down);
    if (S) {
        memcpy(f->ffn.shared_in.weight->value, f->gate, S * D * sizeof(float));
        memcpy(f->ffn.shared_in.weight->value + S * D, f->up, S * D * sizeof(float));
        for (size_t d = 0; d < D; d++)
            memcpy(f->ffn.shared_out.weight->value + d * S, f->down + d * F, S * sizeof(float));
        VM_TRY(vm_linear_refresh(&f->ffn.shared_in, f->pool));
        VM_TRY(vm_linear_refresh(&f->ffn.shared_out, f->pool));
    }
    for (size_t e = 0; e < (size_t)r->experts; e++) {
        size_t first = S + e * w;
        float *in = f->ffn.expert_in[e].weight->value, *out = f->ffn.expert_out[e].weight->value;
        memcpy(in, f->gate + first * D, w * D * sizeof *in);
        memcpy(in + w * D, f->up + first * D, w * D * sizeof *in);
        for (size_t d = 0; d < D; d++)
            for (size_t i = 0; i < w; i++) out[d * w + i] = (float)r->top_k * f->down[d * F + first + i];
        VM_TRY(vm_linear_refresh(&f->ffn.expert_in[e], f->pool));
        VM_TRY(vm_linear_refresh(&f->ffn.expert_out[e], f->pool));
    }
    return vm_linear_refresh(&f->ffn.router, f->pool);
}

static vmoer_status trained_linear(fit *f, vm_compute compute, int out, int in, const float *w, const char *name,
                                   vm_linear *l) {
    VM_TRY(vm_linear_init(l, f->pool, compute, out, in, w, true));
    return vm_linear_train(l, name, w);
}

static vmoer_status make_ffn(fit *f) {
    const vm_recipe *r = f->r;
    size_t N = (size_t)r->experts;
    float *zero = vm_calloc(2 * (size_t)r->width * (size_t)r->dim, sizeof *zero);
    if (!zero) return vm_error(VMOER_ERROR_MEMORY, "no memory for a layer");
    vmoer_status status = VMOER_OK;
    f->ffn = (vm_ffn){.dim = r->dim,
                      .shared_width = r->shared_width,
                      .n_experts = r->experts,
                      .width = r->expert_width,
                      .top_k = r->top_k,
                      .renormalise = true,
                      .scale = 1};
    f->ffn.expert_in = vm_calloc(N, sizeof *f->ffn.expert_in);
    f->ffn.expert_out = vm_calloc(N, sizeof *f->ffn.expert_out);
    if (!f->ffn.expert_in || !f->ffn.expert_out) {
        status = vm_error(VMOER_ERROR_MEMORY, "no memory for a layer");
        goto done;
    }
    VM_GOTO(
        trained_linear(f, VM_COMPUTE_F32, r->experts, r->dim, r->layers[f->layer].router, "router", &f->ffn.router));
    if (r->shared_width) {
        VM_GOTO(trained_linear(f, VM_COMPUTE_BF16, 2 * r->shared_width, r->dim, zero, "shared_in", &f->ffn.shared_in));
        VM_GOTO(trained_linear(f, VM_COMPUTE_BF16, r->dim, r->shared_width, zero, "shared_out", &f->ffn.shared_out));
    }
    for (size_t e = 0; e < N; e++) {
        VM_GOTO(
            trained_linear(f, VM_COMPUTE_BF16, 2 * r->expert_width, r->dim, zero, "expert_in", &f->ffn.expert_in[e]));
        VM_GOTO(trained_linear(f, VM_COMPUTE_BF16, r->dim, r->expert_width, zero, "expert_out", &f->ffn.expert_out[e]));
    }
done:
    vm_free(zero);
    return status;
}

static vmoer_status make_params(fit *f, uint64_t seed) {
    const vm_recipe *r = f->r;
    vm_recipe_layer *l = &f->r->layers[f->layer];
    size_t n = (size_t)r->width * (size_t)r->dim;
    vm_param p[DELTAS] = {{.name = "gate.a", .rows = r->rank, .cols = r->dim, .value = l->gate_a},
                          {.name = "gate.b", .rows = r->width, .cols = r->rank, .value = l->gate_b},
                          {.name = "up.a", .rows = r->rank, .cols = r->dim, .value = l->up_a},
                          {.name = "up.b", .rows = r->width, .cols = r->rank, .value = l->up_b},
                          {.name = "down.a", .rows = r->rank, .cols = r->width, .value = l->down_a},
                          {.name = "down.b", .rows = r->dim, .cols = r->rank, .value = l->down_b}};
    memcpy(f->params, p, sizeof p);
    for (int i = 0; i < DELTAS; i++) {
        f->params[i].grad = vm_calloc(vm_param_size(&p[i]) + 1, sizeof(float));
        if (!f->params[i].grad) return vm_error(VMOER_ERROR_MEMORY, "no memory for a layer's gradients");
        f->list[i] = &f->params[i];
        vm_rng rng = vm_rng_start(seed, VM_RNG_INIT, (uint32_t)(f->layer * DELTAS + i));
        for (size_t j = 0; i % 2 == 0 && j < vm_param_size(&p[i]); j++)
            p[i].value[j] = (float)((2 * vm_rng_uniform(&rng) - 1) / sqrt((double)p[i].cols));
    }
    f->list[DELTAS] = f->ffn.router.weight;
    f->gate = vm_malloc(n, sizeof(float)), f->up = vm_malloc(n, sizeof(float)), f->down = vm_malloc(n, sizeof(float));
    f->dgate = vm_malloc(n, sizeof(float)), f->dup = vm_malloc(n, sizeof(float)),
    f->ddown = vm_malloc(n, sizeof(float));
    f->keep = vm_arena_create();
    f->scratch = vm_arena_create();
    return f->gate && f->up && f->down && f->dgate && f->dup && f->ddown && f->keep && f->scratch
               ? VMOER_OK
               : vm_error(VMOER_ERROR_MEMORY, "no memory for a layer's weights");
}

static void clear(fit *f) {
    vm_ffn_clear(&f->ffn);
    for (int i = 0; i < DELTAS; i++) vm_free(f->params[i].grad);
    vm_free(f->gate), vm_free(f->up), vm_free(f->down);
    vm_free(f->dgate), vm_free(f->dup), vm_free(f->ddown);
    vm_arena_free(f->keep);
    vm_arena_free(f->scratch);
}

/* The experts' gradients side by side in the recipe's order, then zero. */
static void gather_gradients(fit *f) {
    const vm_recipe *r = f->r;
    size_t D = (size_t)r->dim, F = (size_t)r->width, S = (size_t)r->shared_width, w = (size_t)r->expert_width;
    for (int e = -1; e < r->experts; e++) {
        vm_linear *in = e < 0 ? &f->ffn.shared_in : &f->ffn.expert_in[e],
                  *out = e < 0 ? &f->ffn.shared_out : &f->ffn.expert_out[e];
        size_t n = e < 0 ? S : w, first = e < 0 ? 0 : S + (size_t)e * w;
        float scale = e < 0 ? 1.0f : (float)r->top_k;
        if (n == 0) continue;
        memcpy(f->dgate + first * D, in->weight->grad, n * D * sizeof(float));
        memcpy(f->dup + first * D, in->weight->grad + n * D, n * D * sizeof(float));
        for (size_t d = 0; d < D; d++)
            for (size_t i = 0; i < n; i++) f->ddown[d * F + first + i] = scale * out->weight->grad[d * n + i];
        memset(in->weight->grad, 0, 2 * n * D * sizeof(float));
        memset(out->weight->grad, 0, n * D * sizeof(float));
    }
}

/* W = W0 + B A: dB = dW A^T, dA = B^T dW. */
static vmoer_status low_rank_gradient(fit *f, const float *dw, int rows, int cols, vm_param *a, vm_param *b) {
    vm_panel pa = {.data = vm_arena_alloc(f->scratch, 1, vm_panel_bytes(VM_COMPUTE_F32, cols, a->rows))};
    vm_panel pw = {.data = vm_arena_alloc(f->scratch, 1, vm_panel_bytes(VM_COMPUTE_F32, rows, cols))};
    if (!pa.data || !pw.data) return vm_error(VMOER_ERROR_MEMORY, "no memory for a layer's gradients");
    vm_panel_pack(f->pool, &pa, VM_COMPUTE_F32, cols, a->rows, a->value, 1, (size_t)cols, NULL);
    vm_panel_pack(f->pool, &pw, VM_COMPUTE_F32, rows, cols, dw, (size_t)cols, 1, NULL);
    vm_gemm_job jobs[2] = {{.m = rows,
                            .a = dw,
                            .a_m_stride = (size_t)cols,
                            .a_k_stride = 1,
                            .b = &pa,
                            .c = b->grad,
                            .ldc = (size_t)a->rows},
                           {.m = a->rows,
                            .a = b->value,
                            .a_m_stride = 1,
                            .a_k_stride = (size_t)a->rows,
                            .b = &pw,
                            .c = a->grad,
                            .ldc = (size_t)cols}};
    return vm_gemm(f->pool, jobs, 2);
}

/* out[n, D] of tokens u[n, D]. */
static vmoer_status run(fit *f, int n, const float *u, vm_ffn_acts *acts, float *out) {
    vm_ffn_route route = {.sign = 1};
    vm_arena_reset(f->keep);
    vm_arena_reset(f->scratch);
    return vm_ffn_forward(&f->ffn, f->pool, f->keep, f->scratch, n, u, &route, acts, out);
}

static vmoer_status relative_error(fit *f, int n_tokens, const float *u, const float *y, float *out, int chunk,
                                   double *error) {
    size_t D = (size_t)f->r->dim;
    *error = 0;
    for (int first = 0; first < n_tokens; first += chunk) {
        int n = n_tokens - first < chunk ? n_tokens - first : chunk;
        vm_ffn_acts acts;
        VM_TRY(run(f, n, u + (size_t)first * D, &acts, out));
        for (size_t t = 0; t < (size_t)n; t++) {
            double square = 0, norm = 0;
            const float *target = y + ((size_t)first + t) * D;
            for (size_t d = 0; d < D; d++) {
                square += ((double)out[t * D + d] - (double)target[d]) * ((double)out[t * D + d] - (double)target[d]);
                norm += (double)target[d] * (double)target[d];
            }
            *error += square / (norm + 1e-20) / n_tokens;
        }
    }
    *error = sqrt(*error);
    return VMOER_OK;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* weight[T] = 1 / (|y|^2 + median |y|^2) */
static vmoer_status token_weights(const float *y, int n_tokens, int dim, float *weight) {
    size_t T = (size_t)n_tokens, D = (size_t)dim;
    float *sorted = vm_malloc(T, sizeof *sorted);
    if (!sorted) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d tokens", n_tokens);
    for (size_t t = 0; t < T; t++) sorted[t] = weight[t] = vm_kernels_get()->dot(y + t * D, y + t * D, dim);
    qsort(sorted, T, sizeof *sorted, by_size);
    for (size_t t = 0; t < T; t++) weight[t] = 1.0f / (weight[t] + sorted[T / 2] + 1e-20f);
    vm_free(sorted);
    return VMOER_OK;
}

static vmoer_status step(fit *f, const vm_distill_config *c, vm_rng *rng, int n_tokens, const float *u, const float *y,
                         const float *weight, float *batch_u, float *out, float *dy, float *du) {
    size_t D = (size_t)f->r->dim;
    int n = c->batch_tokens;
    uint32_t *tokens = vm_malloc((size_t)n, sizeof *tokens);
    if (!tokens) return vm_error(VMOER_ERROR_MEMORY, "no memory for a batch of %d tokens", n);
    for (size_t i = 0; i < (size_t)n; i++) {
        tokens[i] = vm_rng_below(rng, (uint32_t)n_tokens);
        memcpy(batch_u + i * D, u + (size_t)tokens[i] * D, D * sizeof *batch_u);
    }
    vm_ffn_acts acts;
    vm_ffn_route route = {.sign = 1};
    vmoer_status status = run(f, n, batch_u, &acts, out);
    for (size_t i = 0; status == VMOER_OK && i < (size_t)n; i++)
        for (size_t d = 0; d < D; d++)
            dy[i * D + d] = 2.0f * weight[tokens[i]] * (out[i * D + d] - y[(size_t)tokens[i] * D + d]) / (float)n;
    vm_free(tokens);
    VM_TRY(status);
    VM_TRY(vm_ffn_backward(&f->ffn, f->pool, f->scratch, n, &route, &acts, dy, 0, du));
    gather_gradients(f);
    VM_TRY(low_rank_gradient(f, f->dgate, f->r->width, f->r->dim, &f->params[0], &f->params[1]));
    VM_TRY(low_rank_gradient(f, f->dup, f->r->width, f->r->dim, &f->params[2], &f->params[3]));
    return low_rank_gradient(f, f->ddown, f->r->dim, f->r->width, &f->params[4], &f->params[5]);
}

vmoer_status vm_distill_layer(vm_recipe *r, int layer, const vm_dense_ffn *dense, vm_pool *pool, const float *u,
                              int n_tokens, const vm_distill_config *c, double *before, double *after) {
    fit f = {.r = r, .layer = layer, .dense = dense, .pool = pool};
    size_t T = (size_t)n_tokens, D = (size_t)r->dim, B = (size_t)c->batch_tokens;
    float *y = vm_malloc(T * D, sizeof *y), *weight = vm_malloc(T, sizeof *weight),
          *batch = vm_malloc(4 * B * D, sizeof *batch);
    vm_optimizer *optimizer = NULL;
    vmoer_status status = VMOER_OK;
    if (!y || !weight || !batch) {
        status = vm_error(VMOER_ERROR_MEMORY, "no memory to distil %d tokens", n_tokens);
        goto done;
    }
    float rates[DELTAS + 1] = {1, 1, 1, 1, 1, 1, (float)(c->router_learning_rate / c->learning_rate)};
    VM_GOTO(vm_dense_ffn_run(dense, pool, r->width, r->dim, n_tokens, u, y, NULL));
    VM_GOTO(token_weights(y, n_tokens, r->dim, weight));
    VM_GOTO(make_ffn(&f));
    VM_GOTO(make_params(&f, c->seed));
    vm_param_list list = {f.list, DELTAS + 1};
    vm_optimizer_options options = vm_optimizer_options_default();
    VM_GOTO(vm_optimizer_create(&list, &options, rates, &optimizer));
    VM_GOTO(refresh(&f));
    VM_GOTO(relative_error(&f, n_tokens, u, y, batch, c->batch_tokens, before));
    vm_rng rng = vm_rng_start(c->seed, VM_RNG_SHUFFLE, (uint32_t)layer);
    for (int s = 0; s < c->steps; s++) {
        VM_GOTO(step(&f, c, &rng, n_tokens, u, y, weight, batch, batch + B * D, batch + 2 * B * D, batch + 3 * B * D));
        VM_GOTO(vm_optimizer_step(optimizer, pool,
                                  c->learning_rate * vm_schedule_linear((uint64_t)s, (uint64_t)c->steps, 0.05), NULL));
        VM_GOTO(refresh(&f));
    }
    memcpy(r->layers[layer].router, f.ffn.router.weight->value, (size_t)r->experts * D * sizeof(float));
    VM_GOTO(relative_error(&f, n_tokens, u, y, batch, c->batch_tokens, after));
done:
    clear(&f);
    vm_optimizer_free(optimizer);
    vm_free(y);
    vm_free(weight);
    vm_free(batch);
    return status;
}
