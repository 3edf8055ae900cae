/* vtsr.c: variational temperature, sampled routing (docs/METHOD.md): p = softmax(l_det / T(u)), the K experts drawn
 * from it. log T = B tanh(z / B), which keeps T within e^-B .. e^B, is 1 at z = 0 and has a gradient everywhere.
 *
 *   vtsr        q(z|u) = N(mu(u), s(u)^2) against the prior N(0, tau^2), tau = prior_scale; raw = mu, ln s
 *   vtsr-paper  z = mu(u), without noise; the regulariser is -log T, so that T is pulled up; raw = mu */
#include "router/router_internal.h"

#include <math.h>

static const float BOUND = 3.0f;

static float deviation(float raw) { return expf(vm_clamp_raw(raw)); }

/* A temperature: of z = mu + s eps. */
typedef struct temperature {
    float s, eps; /* 0 where there is no noise */
    float bend;   /* tanh(z / B) */
    float T;
} temperature;

static temperature draw(float mu, float s, float eps) {
    float bend = tanhf((mu + s * eps) / BOUND);
    return (temperature){s, eps, bend, expf(BOUND * bend)};
}

static temperature draw_token(const vm_token_context *c, const vm_token *x) {
    return c->kind->normals ? draw(x->raw[0], deviation(x->raw[1]), x->normals[0]) : draw(x->raw[0], 0, 0);
}

static double forward(const vm_token_context *c, const vm_token *x, float *l, float *scores, float *scratch) {
    (void)scratch;
    temperature d = draw_token(c, x);
    for (int i = 0; i < c->n; i++) {
        l[i] = x->logits[i] / d.T;
        scores[i] = l[i] + x->gumbels[i];
    }
    if (!c->kind->normals) return -(double)(BOUND * d.bend);
    return vm_gaussian_kl(x->raw, &d.s, 1, 0, c->config->prior_scale);
}

/* Of the choice, straight through: the drawn experts' indicators z_k stand where the relaxed ones p~ = softmax(l + G)
 * would, so with dz_k = p_k dp_k  dl += p~ (dz - <p~, dz>). */
static void add_choice_gradient(const vm_token_context *c, const vm_token *x, float T, const float *p, const float *dp,
                                float *dl, float *relaxed) {
    float mean = 0;
    for (int i = 0; i < c->n; i++) relaxed[i] = x->logits[i] / T + x->gumbels[i];
    c->kernels->softmax(relaxed, c->n);
    for (int i = 0; i < c->n; i++) mean += relaxed[i] * (p[i] * dp[i]);
    for (int i = 0; i < c->n; i++) dl[i] += relaxed[i] * (p[i] * dp[i] - mean);
}

/* l = l_det / T: dl_det = dl / T and dlog T = -<dl, l>; dlog T / dz = 1 - tanh^2(z / B). */
static void backward(const vm_token_context *c, const vm_token *x, const float *p, const float *dp, float kl_weight,
                     float *dl, float *ddmu, float *draw, float *scratch) {
    (void)ddmu;
    temperature d = draw_token(c, x);
    float along = 0, slope = 1.0f - d.bend * d.bend, tau = c->config->prior_scale;
    add_choice_gradient(c, x, d.T, p, dp, dl, scratch);
    for (int i = 0; i < c->n; i++) {
        along += dl[i] * (x->logits[i] / d.T);
        dl[i] /= d.T;
    }
    if (!c->kind->normals) {
        draw[0] = -(along + kl_weight) * slope;
        return;
    }
    draw[0] = -along * slope + kl_weight * x->raw[0] / (tau * tau);
    draw[1] =
        vm_raw_inside(x->raw[1]) ? -along * slope * d.eps * d.s + kl_weight * (d.s * d.s / (tau * tau) - 1.0f) : 0.0f;
}

static void infer(const vm_infer_call *c, const vm_strip *s) {
    bool noise = c->r->kind->normals > 0;
    for (int t = 0; t < VM_STRIP; t++) {
        float mu = s->raw[t];
        float T = noise ? draw(mu, deviation(s->raw[VM_STRIP + t]), s->normals[t]).T : draw(mu, 0, 0).T;
        s->temperature[t] = draw(mu, 0, 0).T; /* what is known of the token, without the draw */
        for (int i = t; i < c->r->config.n_experts * VM_STRIP; i += VM_STRIP) {
            s->p[i] = s->mean[i] / T;
            s->scores[i] = s->p[i] + s->gumbels[i];
        }
    }
}

static size_t scratch_floats(const vm_router_config *c) { return (size_t)c->n_experts; }
static int two_outputs(const vm_router_config *c) { return (void)c, 2; }
static int one_output(const vm_router_config *c) { return (void)c, 1; }
static void start_both(const vm_router_config *c, float *bias) { bias[1] = logf(c->initial_scale); }
static void start_mean(const vm_router_config *c, float *bias) { (void)c, (void)bias; }

const vm_router_kind vm_router_kind_vtsr = {
    .name = "vtsr",
    .network = &vm_network_trunk,
    .has_layers = true,
    .has_kl = true,
    .has_temperature = true,
    .chooses = true,
    .normals = 1,
    .inference = VM_INFERENCE_PASSES,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .scale_outputs = two_outputs,
    .start_scale = start_both,
    .scratch_floats = scratch_floats,
    .forward = forward,
    .backward = backward,
    .infer = infer,
};

const vm_router_kind vm_router_kind_vtsr_paper = {
    .name = "vtsr-paper",
    .network = &vm_network_trunk,
    .has_layers = true,
    .has_kl = true,
    .has_temperature = true,
    .chooses = true,
    .inference = VM_INFERENCE_PASSES,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .scale_outputs = one_output,
    .start_scale = start_mean,
    .scratch_floats = scratch_floats,
    .forward = forward,
    .backward = backward,
    .infer = infer,
};
