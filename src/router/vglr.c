/* vglr.c: variational Gaussian logit routing, q(l|u) = N(l_det + dmu, L L^T) against the prior N(l_det, s0^2 I);
 * docs/METHOD.md. Mean field (MF): L diagonal, raw[N]. Full covariance (FC): L lower triangular, raw packed [N(N+1)/2],
 * (i, j) at i(i+1)/2 + j. */
#include "router/router_internal.h"

#include <math.h>
#include <string.h>

/* L_ii = exp(raw_ii) with raw_ii held in [-10, 5] (L_ii in [4.5e-5, 148]); outside, the gradient is 0. NaN stays NaN.
 */
static const float RAW_LOW = -10.0f, RAW_HIGH = 5.0f;

static float clamp_raw(float raw) { return raw < RAW_LOW ? RAW_LOW : raw > RAW_HIGH ? RAW_HIGH : raw; }

static size_t triangle(int i) { return (size_t)i * ((size_t)i + 1) / 2; } /* start of row i */
static size_t diagonal(int i, bool full) { return full ? triangle(i) + (size_t)i : (size_t)i; }
static size_t outputs(int n, bool full) { return full ? triangle(n) : (size_t)n; }

/* L may be raw. */
static void build_scale(const float *raw, int n, bool full, float *L) {
    if (L != raw) memcpy(L, raw, outputs(n, full) * sizeof *L);
    for (int i = 0; i < n; i++) L[diagonal(i, full)] = expf(clamp_raw(raw[diagonal(i, full)]));
}

/* Summed as non-negative terms, one a logit: dmu_i^2/s0^2, L_ij^2/s0^2 below the diagonal, and x - 1 - ln x with x =
 * L_ii^2/s0^2. */
double vm_gaussian_kl(const float *dmu, const float *L, int n, bool full, double s0) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const float *row = full ? L + triangle(i) : L + i;
        int below = full ? i : 0;
        double squares = (double)dmu[i] * dmu[i];
        for (int j = 0; j < below; j++) squares += (double)row[j] * row[j];
        double ratio = row[below] / s0;
        double x = ratio * ratio;
        sum += squares / (s0 * s0) + fmax(0.0, x - 1.0 - log(x)); /* rounding may take it below 0 near x = 1 */
    }
    return 0.5 * sum;
}

static bool is_full(const vm_token_context *c) { return c->kind == &vm_router_kind_vglr_fc; }

static double forward(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, float *l,
                      float *L) {
    bool full = is_full(c);
    build_scale(raw, c->n, full, L);
    for (int i = 0; i < c->n; i++) {
        l[i] += full ? c->kernels->dot(L + triangle(i), eps, i + 1) : L[i] * eps[i];
    }
    return vm_gaussian_kl(dmu, L, c->n, full, c->prior_scale);
}

/* ddmu = dl + w dmu/s0^2;  dL_ij = dl_i eps_j + w (L_ij/s0^2 - [i = j]/L_ii);  draw_ii = dL_ii L_ii. */
static void backward(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, const float *dl,
                     float kl_weight, float *ddmu, float *draw, float *scratch) {
    (void)scratch;
    bool full = is_full(c);
    float precision = 1.0f / (c->prior_scale * c->prior_scale), w = kl_weight * precision;
    for (int i = 0; i < c->n; i++) {
        ddmu[i] = dl[i] + w * dmu[i];
        if (full) {
            const float *row = raw + triangle(i);
            float *out = draw + triangle(i);
            for (int j = 0; j < i; j++) out[j] = dl[i] * eps[j] + w * row[j];
        }
        float r = raw[diagonal(i, full)], d = expf(clamp_raw(r));
        bool inside = r >= RAW_LOW && r <= RAW_HIGH;
        draw[diagonal(i, full)] = inside ? dl[i] * eps[i] * d + kl_weight * (d * d * precision - 1.0f) : 0.0f;
    }
}

/* tr Sigma = |L|_F^2;  tr P Sigma P = sum over columns of |L_j|^2 - (sum_i L_ij)^2 / N. */
static void trace(const float *L, int n, bool full, float *total, float *projected, float *column) {
    double squares = 0, common = 0;
    memset(column, 0, (size_t)n * sizeof *column);
    for (int i = 0; i < n; i++) {
        const float *row = full ? L + triangle(i) : L + i;
        int first = full ? 0 : i;
        for (int j = first; j <= i; j++) {
            squares += (double)row[j - first] * row[j - first];
            column[j] += row[j - first];
        }
    }
    for (int j = 0; j < n; j++) common += (double)column[j] * column[j];
    if (total) *total = (float)squares;
    if (projected) *projected = (float)fmax(0.0, squares - common / n);
}

/* S = L L^T, all of it, by adding the outer product of one column of L after the other. scratch[N]. */
static void build_covariance(const float *L, int n, float *S, float *scratch) {
    memset(S, 0, (size_t)n * (size_t)n * sizeof *S);
    for (int j = 0; j < n; j++) {
        for (int i = j; i < n; i++) scratch[i] = L[triangle(i) + (size_t)j];
        for (int i = j; i < n; i++) {
            float *row = S + (size_t)i * (size_t)n;
            for (int k = j; k <= i; k++) row[k] += scratch[i] * scratch[k];
        }
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) S[(size_t)k * (size_t)n + (size_t)i] = S[(size_t)i * (size_t)n + (size_t)k];
    }
}

/* p_k ~ 1 / sum_i exp(x_i), x_i = (m_i - m_k) / sqrt(1 + pi/8 v_ki): p = softmax over k of -logsumexp(x), which never
 * overflows. p: m on entry. S[N, N], or NULL: Sigma is diagonal. diag[N]: S_ii. scratch[2N]. */
static void closed(const vm_token_context *c, const float *S, const float *diag, float *p, float *scratch) {
    const float pi_8 = 0.39269908f;
    int n = c->n;
    float *x = scratch, *score = scratch + n;
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < n; i++) {
            float v = i == k ? 0.0f : diag[k] + diag[i] - (S ? 2.0f * S[(size_t)k * (size_t)n + (size_t)i] : 0.0f);
            x[i] = (p[i] - p[k]) / sqrtf(1.0f + pi_8 * (v > 0.0f ? v : 0.0f));
        }
        score[k] = -c->kernels->logsumexp(x, n);
    }
    memcpy(p, score, (size_t)n * sizeof *p);
    c->kernels->softmax(p, n);
}

/* out = Sigma p = L (L^T p), diag[N] = S_ii; returns the logit's variance under p, sum_k p_k S_kk - p' Sigma p.
 * scratch[N]. */
static float apply_covariance(const vm_token_context *c, const float *L, const float *diag, const float *p, float *out,
                              float *scratch) {
    int n = c->n;
    if (is_full(c)) {
        memset(scratch, 0, (size_t)n * sizeof *scratch);
        for (int i = 0; i < n; i++) c->kernels->axpy(p[i], L + triangle(i), scratch, i + 1);
        for (int i = 0; i < n; i++) out[i] = c->kernels->dot(L + triangle(i), scratch, i + 1);
    } else {
        for (int i = 0; i < n; i++) out[i] = diag[i] * p[i];
    }
    float variance = c->kernels->dot(p, diag, n) - c->kernels->dot(p, out, n);
    return variance > 0.0f ? variance : 0.0f;
}

/* p = softmax(m + 1/2 diag Sigma - Sigma p) by damped steps. The map's Jacobian is -(diag p - p p') Sigma, its
 * eigenvalues lie in [-V, 0] with V the trace, the variance above: the step 2/(2 + V) contracts by V/(2 + V) or better;
 * 50 steps suffice up to L_ii about 2. p: m on entry. scratch[4N]. */
static void tilted(const vm_token_context *c, const float *L, float *p, float *scratch) {
    size_t n = (size_t)c->n;
    float *m = scratch, *diag = scratch + n, *next = scratch + 2 * n, *product = scratch + 3 * n;
    memcpy(m, p, n * sizeof *m);
    for (int i = 0; i < c->n; i++)
        diag[i] = is_full(c) ? c->kernels->dot(L + triangle(i), L + triangle(i), i + 1) : L[i] * L[i];
    c->kernels->softmax(p, c->n);
    float change = 1.0f;
    for (int step = 0; step < 50 && change > 1e-6f; step++) {
        float damping = 2.0f / (2.0f + apply_covariance(c, L, diag, p, next, product));
        for (size_t i = 0; i < n; i++) next[i] = m[i] + 0.5f * diag[i] - next[i];
        c->kernels->softmax(next, c->n);
        change = 0.0f;
        for (size_t i = 0; i < n; i++) {
            float move = damping * (next[i] - p[i]);
            p[i] += move;
            change = fmaxf(change, fabsf(move));
        }
    }
}

/* D[s, i] = (L eps_s)_i for the VM_DRAW_BLOCK draws E[N, VM_DRAW_BLOCK] of one block. */
static void noise_block(const float *L, const float *E, int n, bool full, float *D) {
    for (int i = 0; i < n; i++) {
        float sum[VM_DRAW_BLOCK] = {0};
        const float *row = full ? L + triangle(i) : L + i;
        for (int j = full ? 0 : i, l = 0; j <= i; j++, l++) {
            const float *eps = E + (size_t)j * VM_DRAW_BLOCK;
            for (int s = 0; s < VM_DRAW_BLOCK; s++) sum[s] += row[l] * eps[s];
        }
        for (int s = 0; s < VM_DRAW_BLOCK; s++) D[(size_t)s * (size_t)n + (size_t)i] = sum[s];
    }
}

/* p += softmax(m + sign * noise). */
static void add_draw(const vm_token_context *c, const float *m, const float *noise, float sign, float *l, float *p) {
    for (int i = 0; i < c->n; i++) l[i] = m[i] + sign * noise[i];
    c->kernels->softmax(l, c->n);
    for (int i = 0; i < c->n; i++) p[i] += l[i];
}

/* Mean of softmax(m + L eps) over the table, each eps followed by -eps. p: m on entry. scratch[(VM_DRAW_BLOCK + 2) N].
 */
static void sample(const vm_token_context *c, const float *L, bool full, float *p, float *scratch) {
    size_t n = (size_t)c->n;
    float *m = scratch, *l = scratch + n, *D = scratch + 2 * n;
    memcpy(m, p, n * sizeof *m);
    memset(p, 0, n * sizeof *p);
    for (int done = 0; done < c->samples; done++) {
        int pair = done / 2, in_block = pair % VM_DRAW_BLOCK;
        const float *E = c->draws + (size_t)(pair - in_block) * n;
        if (in_block == 0 && done % 2 == 0) noise_block(L, E, c->n, full, D);
        add_draw(c, m, D + (size_t)in_block * n, done % 2 == 0 ? 1.0f : -1.0f, l, p);
    }
    for (size_t i = 0; i < n; i++) p[i] /= (float)c->samples;
}

static void infer(const vm_token_context *c, vm_inference inference, float *raw, float *p, float *total,
                  float *projected, float *scratch) {
    bool full = is_full(c);
    if (raw) build_scale(raw, c->n, full, raw);
    if (raw && (total || projected)) trace(raw, c->n, full, total, projected, scratch);
    if (inference == VM_INFERENCE_CLOSED) {
        float *diag = scratch, *S = scratch + 3 * (size_t)c->n;
        if (full) build_covariance(raw, c->n, S, scratch);
        for (int i = 0; i < c->n; i++) diag[i] = full ? S[(size_t)i * (size_t)c->n + (size_t)i] : raw[i] * raw[i];
        closed(c, full ? S : NULL, diag, p, scratch + c->n);
    } else if (inference == VM_INFERENCE_SAMPLE) {
        sample(c, raw, full, p, scratch);
    } else if (inference == VM_INFERENCE_TILTED) {
        tilted(c, raw, p, scratch);
    } else {
        c->kernels->softmax(p, c->n);
    }
}

static size_t fc_scratch(int n) {
    size_t covariance = (size_t)n * (size_t)n + 3 * (size_t)n, draws = (VM_DRAW_BLOCK + 2) * (size_t)n;
    return covariance > draws ? covariance : draws; /* either holds L, N(N+1)/2 */
}

static int fc_outputs(int n) { return (int)outputs(n, true); }
static void fc_start(int n, float initial_scale, float *bias) {
    for (int i = 0; i < n; i++) bias[diagonal(i, true)] = logf(initial_scale);
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
static size_t mf_scratch(int n) { return (VM_DRAW_BLOCK + 2) * (size_t)n; }
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
