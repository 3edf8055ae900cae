/* swag.c: SWA-Gaussian (Maddox et al. 2019) over the router's weights: in the second half of the training, at constant
 * rate, the trajectory's mean, its diagonal variance and its last `rank` deviations from the mean are gathered; a draw
 * is
 *
 *   W = mean + sqrt(variance / 2) z1 + 1 / sqrt(2 (rank - 1)) sum_k z2_k deviation_k,   z1, z2 ~ N(0, I)
 *
 * z2 is one vector for all layers, as W is one point of the weight space of all layers. */
#include "base/rng.h"
#include "base/status.h"
#include "router/weights.h"
#include <math.h>
#include <string.h>

/* As often as gives 2 rank collections; the mean follows W until the first. Variance by Welford: a difference of means
 * of squares would cancel in f32. */
static vmoer_status gather(const vm_router_config *c, vm_router_layer *l, uint64_t step, uint64_t total) {
    uint64_t half = total / 2, every = (total - half) / (2 * (uint64_t)c->rank);
    size_t size = vm_matrix_size(c);
    const float *w = l->params[VM_WEIGHT].value;
    float *mean = l->params[VM_WEIGHT_MEAN].value, *variance = l->params[VM_WEIGHT_VARIANCE].value;
    if (every == 0)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "swag: %llu steps are too few for rank %d: the second half has to gather %d times",
                        (unsigned long long)total, c->rank, 2 * c->rank);
    if (step <= half) memcpy(mean, w, size * sizeof *w);
    if (step <= half || (step - half) % every != 0) return VMOER_OK;
    uint64_t n = (step - half) / every;
    float *deviation = l->params[VM_WEIGHT_DEVIATIONS].value + (n - 1) % (uint64_t)c->rank * size;
    float share = 1.0f / (float)n;
    if (n == 1) memcpy(mean, w, size * sizeof *w);
    for (size_t i = 0; i < size; i++) {
        float before = w[i] - mean[i];
        mean[i] += share * before;
        deviation[i] = w[i] - mean[i];
        variance[i] += share * (before * deviation[i] - variance[i]);
    }
    return VMOER_OK;
}

static void start(const vm_router_config *c, vm_router_layer *l, int layer) {
    (void)layer;
    memcpy(l->params[VM_WEIGHT_MEAN].value, l->params[VM_WEIGHT].value, vm_matrix_size(c) * sizeof(float));
}

static void mean(const vm_router_config *c, const vm_router_layer *l, float *w) {
    memcpy(w, l->params[VM_WEIGHT_MEAN].value, vm_matrix_size(c) * sizeof *w);
}

static void draw(const vm_router_config *c, const vm_router_layer *l, int layer, uint64_t seed, uint64_t number,
                 float *w) {
    size_t size = vm_matrix_size(c);
    const float *variance = l->params[VM_WEIGHT_VARIANCE].value, *deviation = l->params[VM_WEIGHT_DEVIATIONS].value;
    float normal[4], scale = 1.0f / sqrtf(2.0f * (float)(c->rank - 1));
    uint32_t low = (uint32_t)number, high = (uint32_t)(number >> 32);
    mean(c, l, w);
    for (size_t i = 0; i < size; i++) {
        if (i % 4 == 0)
            vm_rng_normal4(seed, VM_RNG_WEIGHTS, (uint32_t[4]){(uint32_t)layer, low, high, (uint32_t)(i / 4)}, normal);
        w[i] += sqrtf(0.5f * variance[i]) * normal[i % 4];
    }
    for (size_t k = 0; k < (size_t)c->rank; k++) {
        if (k % 4 == 0)
            vm_rng_normal4(seed, VM_RNG_WEIGHTS, (uint32_t[4]){UINT32_MAX, low, high, (uint32_t)(k / 4)}, normal);
        for (size_t i = 0; i < size; i++) w[i] += scale * normal[k % 4] * deviation[k * size + i];
    }
}

static const vm_weights_kind swag = {.start = start, .gather = gather, .mean = mean, .draw = draw};

const vm_router_kind vm_router_kind_swag = {
    .name = "swag",
    .network = &vm_network_weights,
    .has_layers = true,
    .inference = VM_INFERENCE_SAMPLE,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .numbers = {[VM_ROUTER_RANK] = {2, 64, 10}, [VM_ROUTER_MEMBERS] = {1, VM_ROUTER_MAX_MEMBERS, 10}},
    .weights = &swag};
