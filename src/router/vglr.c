/* vglr.c: variational Gaussian logit routing, q(l|u) = N(l_det + dmu, L L^T) against the prior N(l_det, s0^2 I);
 * docs/METHOD.md. One family by its rank r: L is lower triangular and has, beside its diagonal, the first r columns
 * below it; raw and L are packed row by row, row i its columns 0 .. min(i, r) - 1 and its diagonal. Mean field (MF) is
 * r = 0, full covariance (FC) r = N - 1, low rank (LR) what config.rank says. `noise`, a control, is FC with dmu = 0.
 */
#include "kernels/count.h"
#include "router/router_internal.h"

#include <math.h>
#include <string.h>

static int rank_of(const vm_router_config *c) {
    if (strcmp(c->kind, vm_router_kind_vglr_mf.name) == 0) return 0;
    return strcmp(c->kind, vm_router_kind_vglr_lr.name) == 0 ? c->rank : c->n_experts - 1;
}

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

/* L of raw: the same but for its diagonal. */
static void build_scale(const float *raw, int n, int rank, float *L) {
    memcpy(L, raw, outputs(n, rank) * sizeof *L);
    for (int i = 0; i < n; i++, L++) {
        L += below(i, rank);
        *L = expf(vm_clamp_raw(*L));
    }
}

static double forward(const vm_token_context *c, const vm_token *x, float *l, float *scores, float *L) {
    (void)scores;
    int rank = rank_of(c->config), i = 0;
    const float *eps = x->normals, *row = L;
    build_scale(x->raw, c->n, rank, L);
    vm_count(outputs(c->n, rank));
    for (; i < c->n && i <= rank; row += ++i) l[i] += c->kernels->dot(row, eps, i + 1);
    for (; i < c->n; i++, row += rank + 1)
        l[i] += (rank > 0 ? c->kernels->dot(row, eps, rank) : 0.0f) + row[rank] * eps[i];
    return vm_gaussian_kl(x->dmu, L, c->n, rank, c->config->prior_scale);
}

/* ddmu = dl + w dmu/s0^2;  dL_ij = dl_i eps_j + w (L_ij/s0^2 - [i = j]/L_ii);  draw_ii = dL_ii L_ii. */
static void backward(const vm_token_context *c, const vm_token *x, const float *p, const float *dp, float kl_weight,
                     float *dl, float *ddmu, float *draw, float *scratch) {
    (void)p, (void)dp, (void)scratch;
    int rank = rank_of(c->config);
    const float *raw = x->raw, *eps = x->normals;
    float precision = 1.0f / (c->config->prior_scale * c->config->prior_scale), w = kl_weight * precision;
    for (int i = 0; i < c->n; i++) {
        int columns = below(i, rank);
        ddmu[i] = dl[i] + w * x->dmu[i];
        for (int j = 0; j < columns; j++) draw[j] = dl[i] * eps[j] + w * raw[j];
        float r = raw[columns], d = expf(vm_clamp_raw(r));
        draw[columns] = vm_raw_inside(r) ? dl[i] * eps[i] * d + kl_weight * (d * d * precision - 1.0f) : 0.0f;
        raw += columns + 1;
        draw += columns + 1;
    }
}

/* sum[16] += L_ii^2 */
static void sum_diagonal(const vm_gaussians *g, float *sum) {
    const float *row = g->scale;
    for (int i = 0; i < g->n; i++, row += VM_STRIP) {
        row += (size_t)below(i, g->rank) * VM_STRIP;
        for (int t = 0; t < VM_STRIP; t++) sum[t] += row[t] * row[t];
    }
}

void vm_infer_gaussians(const vm_infer_call *c, const vm_strip *s, const vm_gaussians *g, float *scratch) {
    if (c->inference == VM_INFERENCE_CLOSED)
        c->kernels->gaussian_closed(g, s->p, scratch);
    else if (c->inference == VM_INFERENCE_SAMPLE)
        c->kernels->gaussian_sample(g, c->table, c->samples, s->p, scratch);
    else if (c->inference == VM_INFERENCE_TILTED)
        c->kernels->gaussian_tilted(g, s->p, scratch);
    else if (c->inference == VM_INFERENCE_PASSES)
        c->kernels->gaussian_draw(g, s->normals, s->p);
}

static void infer(const vm_infer_call *c, const vm_strip *s) {
    const vm_router_config *config = &c->r->config;
    vm_gaussians g = {.n = config->n_experts, .rank = rank_of(config), .scale = s->raw, .mean = s->mean};
    c->kernels->gaussian_scale(&g, VM_RAW_LOW, VM_RAW_HIGH, s->check, s->trace, s->projected, s->scratch);
    if (c->out.trace_diagonal) sum_diagonal(&g, s->diagonal);
    vm_infer_gaussians(c, s, &g, s->scratch);
}

double vm_gaussian_flops(int n, int rank, vm_inference inference, int samples) {
    double M = (double)outputs(n, rank), pairs = 0;
    for (int j = 0; j < n && j < rank; j++) pairs += (double)(n - j) * (n - j);
    switch (inference) {
    case VM_INFERENCE_MEAN:
        return 0;
    case VM_INFERENCE_CLOSED:
        return 2 * M + 2 * pairs;
    case VM_INFERENCE_SAMPLE:
        return 2 * M * ((samples + 1) / 2);
    case VM_INFERENCE_TILTED:
        return 2 * M + 4 * M * VM_TILTED_STEPS;
    case VM_INFERENCE_PASSES:
        return 2 * M;
    }
    return 0;
}

static double flops(const vm_router_config *c, vm_inference inference, int samples) {
    return vm_gaussian_flops(c->n_experts, rank_of(c), inference, samples);
}

static int scale_outputs(const vm_router_config *c) { return (int)outputs(c->n_experts, rank_of(c)); }
static size_t scratch_floats(const vm_router_config *c) { return outputs(c->n_experts, rank_of(c)); } /* L */
static void start_scale(const vm_router_config *c, float *bias) {
    for (int i = 0; i < c->n_experts; i++, bias++) {
        bias += below(i, rank_of(c));
        *bias = logf(c->initial_scale);
    }
}

/* A triangle is no sensible family where it has more columns: N(N+1)/2 outputs a token. */
enum { MAX_RANK = 64 };

#define VGLR                                                                                                \
    .network = &vm_network_trunk, .has_layers = true, .has_covariance = true, .has_kl = true,               \
    .normals = VM_ROUTER_EACH_EXPERT, .inference = VM_INFERENCE_TILTED, .scale_outputs = scale_outputs,     \
    .start_scale = start_scale, .scratch_floats = scratch_floats, .forward = forward, .backward = backward, \
    .flops = flops, .infer = infer

const vm_router_kind vm_router_kind_vglr_fc = {VGLR, .name = "vglr-fc", .has_mean = true, .max_experts = MAX_RANK,
                                               .larger = "vglr-lr"};
const vm_router_kind vm_router_kind_vglr_mf = {VGLR, .name = "vglr-mf", .has_mean = true,
                                               .max_experts = VM_ROUTER_MAX_EXPERTS};
const vm_router_kind vm_router_kind_vglr_lr = {VGLR, .name = "vglr-lr", .has_mean = true,
                                               .max_experts = VM_ROUTER_MAX_EXPERTS,
                                               .numbers[VM_ROUTER_RANK] = {0, MAX_RANK, 4}};
const vm_router_kind vm_router_kind_vglr_noise = {VGLR, .name = "vglr-noise", .max_experts = MAX_RANK,
                                                  .larger = "vglr-lr"};
