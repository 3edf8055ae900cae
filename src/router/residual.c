/* residual.c: the control that says what the Bayes is worth. The trunk and the mean head of VGLR, l = l_det + dmu: no
 * noise, no KL. */
#include "router/router_internal.h"

#include <string.h>

static double forward(const vm_token_context *c, const vm_token *x, float *l, float *scores, float *scratch) {
    (void)c, (void)x, (void)l, (void)scores, (void)scratch;
    return 0.0; /* l is l_det + dmu already */
}

static void backward(const vm_token_context *c, const vm_token *x, const float *p, const float *dp, float kl_weight,
                     float *dl, float *ddmu, float *draw, float *scratch) {
    (void)x, (void)p, (void)dp, (void)kl_weight, (void)draw, (void)scratch;
    memcpy(ddmu, dl, (size_t)c->n * sizeof *dl);
}

const vm_router_kind vm_router_kind_residual = {
    .name = "residual",
    .network = &vm_network_trunk,
    .has_layers = true,
    .inference = VM_INFERENCE_MEAN,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .has_mean = true,
    .forward = forward,
    .backward = backward,
};
