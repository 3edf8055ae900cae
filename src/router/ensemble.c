/* ensemble.c: a deep ensemble (Lakshminarayanan et al. 2017) of routers: `members` matrices that start from the model's
 * with a little noise and see the questions in orders of their own: question i trains member (i + step) mod members. */
#include "base/rng.h"
#include "router/weights.h"
#include <math.h>
#include <string.h>

static const float start_noise = 0.01f; /* of rms(W) */

static int members(const vm_router_config *c) { return c->members; }

static void start(const vm_router_config *c, vm_router_layer *l, int layer) {
    vm_param *weight = &l->params[VM_WEIGHT];
    size_t size = vm_matrix_size(c);
    double squares = 0;
    for (size_t i = 0; i < size; i++) squares += (double)weight->value[i] * (double)weight->value[i];
    float deviation = start_noise * (float)sqrt(squares / (double)size);
    vm_rng rng = vm_rng_start(c->seed, VM_RNG_MEMBERS, (uint32_t)layer);
    for (size_t i = 0; i < vm_param_size(weight); i++) weight->value[i] += deviation * vm_rng_normal(&rng);
}

static void mean(const vm_router_config *c, const vm_router_layer *l, float *w) {
    const float *weight = l->params[VM_WEIGHT].value;
    size_t size = vm_matrix_size(c);
    memcpy(w, weight, size * sizeof *w);
    for (size_t m = 1; m < (size_t)c->members; m++)
        for (size_t i = 0; i < size; i++) w[i] += weight[m * size + i];
    for (size_t i = 0; i < size; i++) w[i] /= (float)c->members;
}

static void draw(const vm_router_config *c, const vm_router_layer *l, int layer, uint64_t seed, uint64_t number,
                 float *w) {
    (void)layer, (void)seed;
    size_t size = vm_matrix_size(c);
    memcpy(w, l->params[VM_WEIGHT].value + number % (uint64_t)c->members * size, size * sizeof *w);
}

static const vm_weights_kind ensemble = {.matrices = members, .start = start, .mean = mean, .draw = draw};

const vm_router_kind vm_router_kind_ensemble = {.name = "ensemble",
                                                .network = &vm_network_weights,
                                                .has_layers = true,
                                                .inference = VM_INFERENCE_SAMPLE,
                                                .max_experts = VM_ROUTER_MAX_EXPERTS,
                                                .numbers = {[VM_ROUTER_MEMBERS] = {1, VM_ROUTER_MAX_MEMBERS, 5}},
                                                .weights = &ensemble};
