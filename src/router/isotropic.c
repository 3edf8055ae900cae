/* isotropic.c: the control that trains nothing: l = l_det + sigma eps, eps ~ N(0, I), with one sigma = config.noise for
 * all tokens and layers. docs/METHOD.md says how sigma is found. */
#include "router/router_internal.h"

static void infer(const vm_infer_call *c, const vm_strip *s) {
    int n = c->r->config.n_experts;
    float sigma = c->r->config.noise, *scale = s->scratch, *scratch = scale + n * VM_STRIP;
    for (int i = 0; i < n * VM_STRIP; i++) scale[i] = sigma;
    for (int lane = 0; lane < VM_STRIP; lane++) {
        s->trace[lane] = s->diagonal[lane] = (float)n * (sigma * sigma);
        s->projected[lane] = (float)(n - 1) * (sigma * sigma);
    }
    vm_infer_gaussians(c, s, &(vm_gaussians){.n = n, .scale = scale, .mean = s->mean}, scratch);
}

static double flops(const vm_router_config *c, vm_inference inference, int samples) {
    return vm_gaussian_flops(c->n_experts, 0, inference, samples);
}

const vm_router_kind vm_router_kind_isotropic = {.name = "isotropic",
                                                 .network = &vm_network_none,
                                                 .has_layers = true,
                                                 .has_covariance = true,
                                                 .normals = VM_ROUTER_EACH_EXPERT,
                                                 .inference = VM_INFERENCE_PASSES,
                                                 .max_experts = VM_ROUTER_MAX_EXPERTS,
                                                 .numbers[VM_ROUTER_NOISE] = {1e-4, 100, 0.1},
                                                 .flops = flops,
                                                 .infer = infer};
