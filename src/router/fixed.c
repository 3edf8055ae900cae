/* fixed.c: fixed routing temperature with sampling (docs/METHOD.md): p = softmax(l_det / T) with one T for all, and K
 * experts drawn from it without replacement, as the K largest of l_det / T + Gumbel. Nothing is trained. */
#include "router/router_internal.h"

static void infer(const vm_infer_call *c, const vm_strip *s) {
    float T = c->r->config.route_temperature;
    for (int i = 0; i < c->r->config.n_experts * VM_STRIP; i++) {
        s->p[i] = s->mean[i] / T;
        s->scores[i] = s->p[i] + s->gumbels[i];
    }
}

const vm_router_kind vm_router_kind_fixed_t = {
    .name = "fixed-t",
    .network = &vm_network_none,
    .has_layers = true,
    .chooses = true,
    .inference = VM_INFERENCE_PASSES,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .numbers = {[VM_ROUTER_ROUTE_TEMPERATURE] = {.low = 1e-6, .high = 1e6, .start = 1}},
    .infer = infer,
};
