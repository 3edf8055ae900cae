/* residual.c: the control that says what the Bayes is worth. The trunk and the mean head of VGLR, l = l_det + dmu: no
 * noise, no KL. */
#include "router/router_internal.h"

#include <string.h>

static size_t scratch_floats(int n) {
    (void)n;
    return 0;
}

static double forward(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, float *l,
                      float *scratch) {
    (void)c, (void)dmu, (void)raw, (void)eps, (void)l, (void)scratch;
    return 0.0; /* l is l_det + dmu already */
}

static void backward(const vm_token_context *c, const float *dmu, const float *raw, const float *eps, const float *dl,
                     float kl_weight, float *ddmu, float *draw) {
    (void)dmu, (void)raw, (void)eps, (void)kl_weight, (void)draw;
    memcpy(ddmu, dl, (size_t)c->n * sizeof *dl);
}

const vm_router_kind vm_router_kind_residual = {
    .name = "residual",
    .has_layers = true,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .scratch_floats = scratch_floats,
    .forward = forward,
    .backward = backward,
};
