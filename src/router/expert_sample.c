/* expert_sample.c: Expert-Sample (arXiv 2602.02443; docs/METHOD.md): the `keep_experts` experts with the largest logits
 * are always taken, the others drawn from the rest as the largest of l_det / T + Gumbel, all weighted by the model's
 * own p = softmax(l_det). Nothing is trained. */
#include "router/router_internal.h"

#include <string.h>

static const float KEPT = 1e30f; /* above every drawn score: those are below 1e7 times a logit */

/* Of lane t: the largest logits' scores become multiples of KEPT, falling; ties go to the lower index. */
static void keep_head(const float *mean, int n, int keep, int t, float *scores) {
    for (int left = keep; left > 0; left--) {
        int best = -1;
        for (int i = t; i < n * VM_STRIP; i += VM_STRIP)
            if (scores[i] < KEPT && (best < 0 || mean[i] > mean[best])) best = i;
        if (best < 0) return; /* all are taken, or what is left is NaN */
        scores[best] = KEPT * (float)left;
    }
}

static void infer(const vm_infer_call *c, const vm_strip *s) {
    const vm_router_config *config = &c->r->config;
    int n = config->n_experts;
    memcpy(s->p, s->mean, (size_t)n * VM_STRIP * sizeof *s->p);
    for (int i = 0; i < n * VM_STRIP; i++) s->scores[i] = s->mean[i] / config->route_temperature + s->gumbels[i];
    for (int t = 0; t < VM_STRIP; t++) keep_head(s->mean, n, config->keep_experts, t, s->scores);
}

const vm_router_kind vm_router_kind_expert_sample = {
    .name = "expert-sample",
    .network = &vm_network_none,
    .has_layers = true,
    .chooses = true,
    .inference = VM_INFERENCE_PASSES,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .numbers = {[VM_ROUTER_KEEP_EXPERTS] = {.low = 1, .high = VM_ROUTER_MAX_EXPERTS, .start = 1}, /* calibrate: K / 2 */
                [VM_ROUTER_ROUTE_TEMPERATURE] = {.low = 1e-6, .high = 1e6, .start = 1}},
    .infer = infer,
};
