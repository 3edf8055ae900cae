/* vglr.c: variational Gaussian logit routing, q(l|u) = N(l_det + dmu, L L^T) against the prior N(l_det, s0^2 I);
 * docs/METHOD.md. One family by its rank r: L is lower triangular and has, beside its diagonal, the first r columns
 * below it; raw and L are packed row by row, row i its columns 0 .. min(i, r) - 1 and its diagonal. Mean field (MF):
 * r = 0, raw[N]. Full covariance (FC): r = N - 1, raw[N(N+1)/2], (i, j) at i(i+1)/2 + j. */
#include "router/router_internal.h"

#include <math.h>
#include <string.h>

/* L_ii = exp(raw_ii) with raw_ii held in [-10, 5] (L_ii in [4.5e-5, 148]); outside, the gradient is 0. NaN stays NaN.
 */
static const float RAW_LOW = -10.0f, RAW_HIGH = 5.0f;

static float clamp_raw(float raw) { return raw < RAW_LOW ? RAW_LOW : raw > RAW_HIGH ? RAW_HIGH : raw; }

static int below(int i, int rank) { return i < rank ? i : rank; } /* elements of row i before its diagonal */
static size_t outputs(int n, int rank) {
    size_t triangle = (size_t)below(n, rank);
    return triangle * (triangle + 1) / 2 + ((size_t)n - triangle) * (triangle + 1);
}

/* Summed as non-negative terms, one a logit: dmu_i^2/s0^2, L_ij^2/s0^2 below the diagonal, and x - 1 - ln x with x =
 * L_ii^2/s0^2. */
double vm_gaussian_kl(const float *dmu, const float *L, int n, int rank, double s0) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double squares = (double)dmu[i] * dmu[i];
        for (int j = below(i, rank); j > 0; j--, L++) squares += (double)*L * *L;
        double ratio = *L++ / s0;
        double x = ratio * ratio;
        sum += squares / (s0 * s0) + fmax(0.0, x - 1.0 - log(x)); /* rounding may take it below 0 near x = 1 */
    }
    return 0.5 * sum;
}

static int rank_of(const vm_router_kind *kind, int n) { return kind == &vm_router_kind_vglr_fc ? n - 1 : 0; }

/* L of raw: the same but for its diagonal. */
static void build_scale(const float *raw, int n, int rank, float *L) {
    memcpy(L, raw, outputs(n, rank) * sizeof *L);
    for (int i = 0; i < n; i++, L++) {
        L += below(i, rank);
        *L = expf(clamp_raw(*L));
    }
}

static double forward(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, float *l,
                      float *L) {
    int rank = rank_of(c->kind, c->n);
    build_scale(raw, c->n, rank, L);
    const float *row = L;
    int i = 0;
    for (; i < c->n && i <= rank; row += ++i) l[i] += c->kernels->dot(row, eps, i + 1);
    for (; i < c->n; i++, row += rank + 1)
        l[i] += (rank > 0 ? c->kernels->dot(row, eps, rank) : 0.0f) + row[rank] * eps[i];
    return vm_gaussian_kl(dmu, L, c->n, rank, c->prior_scale);
}

/* ddmu = dl + w dmu/s0^2;  dL_ij = dl_i eps_j + w (L_ij/s0^2 - [i = j]/L_ii);  draw_ii = dL_ii L_ii. */
static void backward(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, const float *dl,
                     float kl_weight, float *ddmu, float *draw) {
    int rank = rank_of(c->kind, c->n);
    float precision = 1.0f / (c->prior_scale * c->prior_scale), w = kl_weight * precision;
    for (int i = 0; i < c->n; i++) {
        int columns = below(i, rank);
        ddmu[i] = dl[i] + w * dmu[i];
        for (int j = 0; j < columns; j++) draw[j] = dl[i] * eps[j] + w * raw[j];
        float r = raw[columns], d = expf(clamp_raw(r));
        bool inside = r >= RAW_LOW && r <= RAW_HIGH;
        draw[columns] = inside ? dl[i] * eps[i] * d + kl_weight * (d * d * precision - 1.0f) : 0.0f;
        raw += columns + 1;
        draw += columns + 1;
    }
}

static void infer(const vm_strip_context *c, vm_inference inference, float *raw, const float *mean, float *p,
                  float *check, float *trace, float *projected, float *scratch) {
    vm_gaussians g = {.n = c->n, .rank = rank_of(c->kind, c->n), .scale = raw, .mean = mean};
    c->kernels->gaussian_scale(&g, RAW_LOW, RAW_HIGH, check, trace, projected, scratch);
    if (inference == VM_INFERENCE_CLOSED)
        c->kernels->gaussian_closed(&g, p, scratch);
    else if (inference == VM_INFERENCE_SAMPLE)
        c->kernels->gaussian_sample(&g, c->draws, c->samples, p, scratch);
    else if (inference == VM_INFERENCE_TILTED)
        c->kernels->gaussian_tilted(&g, p, scratch);
}

static size_t fc_scratch(int n) { return outputs(n, n - 1); } /* L */
static int fc_outputs(int n) { return (int)outputs(n, n - 1); }
static void fc_start(int n, float initial_scale, float *bias) {
    for (int i = 0; i < n; i++) bias[i * (i + 3) / 2] = logf(initial_scale);
}
const vm_router_kind vm_router_kind_vglr_fc = {
    .name = "vglr-fc",
    .has_layers = true,
    .has_covariance = true,
    .max_experts = 256, /* N(N+1)/2 outputs a token: beyond this the triangle is no sensible family */
    .scale_outputs = fc_outputs,
    .start_scale = fc_start,
    .scratch_floats = fc_scratch,
    .forward = forward,
    .backward = backward,
    .infer = infer,
};

static int mf_outputs(int n) { return n; }
static void mf_start(int n, float initial_scale, float *bias) {
    for (int i = 0; i < n; i++) bias[i] = logf(initial_scale);
}
static size_t mf_scratch(int n) { return outputs(n, 0); }
const vm_router_kind vm_router_kind_vglr_mf = {
    .name = "vglr-mf",
    .has_layers = true,
    .has_covariance = true,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .scale_outputs = mf_outputs,
    .start_scale = mf_start,
    .scratch_floats = mf_scratch,
    .forward = forward,
    .backward = backward,
    .infer = infer,
};
