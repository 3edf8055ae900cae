/* router_fit.c: see router_fit.h. */
#include "train/router_fit.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

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

vmoer_status vm_router_fit(vm_recipe *r, int layer, const vm_dense_ffn *dense, vm_pool *pool, const float *u,
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
