/* roe.c: Roster of Experts (arXiv 2509.17238; docs/METHOD.md): the K largest of l_det + T Gumbel, weighted by the
 * model's own p = softmax(l_det). Nothing is trained. */
#include "router/router_internal.h"

#include <string.h>

static void infer(const vm_infer_call *c, const vm_strip *s) {
    float T = c->r->config.route_temperature;
    int n = c->r->config.n_experts * VM_STRIP;
    memcpy(s->p, s->mean, (size_t)n * sizeof *s->p);
    for (int i = 0; i < n; i++) s->scores[i] = s->mean[i] + T * s->gumbels[i];
}

const vm_router_kind vm_router_kind_roe = {
    .name = "roe",
    .network = &vm_network_none,
    .has_layers = true,
    .chooses = true,
    .inference = VM_INFERENCE_PASSES,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .numbers = {[VM_ROUTER_ROUTE_TEMPERATURE] = {.low = 1e-6, .high = 1e6, .start = 1}},
    .infer = infer,
};
