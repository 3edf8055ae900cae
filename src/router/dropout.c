/* dropout.c: "mc-dropout" (Gal & Ghahramani 2016): W trained with Bernoulli masks on u, a fresh one a token, layer and
 * step; at inference the average over `members` masks, each the same for all tokens. A component is dropped with
 * probability `noise`, to 1/65536; what is kept grows by 1 / (1 - noise), so that W u keeps its mean. */
#include "base/rng.h"
#include "router/weights.h"
#include <math.h>
#include <string.h>

/* x[n] times the mask of the blocks counter[0..3] + (0, 0, 0, i / 8): 16 bits a component. flip 0xffff: the antithetic
 * mask. */
static void apply(uint64_t seed, vm_rng_purpose purpose, uint32_t counter[4], uint32_t flip, float rate, int n,
                  float *x) {
    uint32_t threshold = (uint32_t)lrintf(rate * 65536.0f), word[4];
    float scale = 1.0f / (1.0f - rate);
    for (int i = 0; i < n; i++) {
        if (i % 8 == 0) {
            counter[3] = (uint32_t)i / 8;
            vm_rng_block(seed, purpose, counter, word);
        }
        uint32_t bits = (word[i % 8 / 2] >> (i % 2 * 16) & 0xffff) ^ flip;
        x[i] = bits < threshold ? 0.0f : scale * x[i];
    }
}

static void mask(const vm_router_config *c, const vm_route *in, int t, float *x) {
    uint32_t counter[4];
    vm_router_start_counter(in, t, counter);
    apply(vm_router_step_seed(in, VM_RNG_DROPOUT), VM_RNG_DROPOUT, counter, in->sign < 0 ? 0xffff : 0, c->noise, c->dim,
          x);
}

/* W (mask u) = (W mask) u. */
static void draw(const vm_router_config *c, const vm_router_layer *l, int layer, uint64_t seed, uint64_t number,
                 float *w) {
    const float *weight = l->params[VM_WEIGHT].value;
    uint32_t counter[4] = {(uint32_t)layer, (uint32_t)number, (uint32_t)(number >> 32)};
    size_t dim = (size_t)c->dim;
    memcpy(w, weight, vm_matrix_size(c) * sizeof *w);
    for (int row = 0; row < c->n_experts; row++)
        apply(seed, VM_RNG_WEIGHTS, counter, 0, c->noise, c->dim, w + (size_t)row * dim);
}

static const vm_weights_kind dropout = {.mask = mask, .draw = draw};

const vm_router_kind vm_router_kind_mc_dropout = {
    .name = "mc-dropout",
    .network = &vm_network_weights,
    .has_layers = true,
    .inference = VM_INFERENCE_SAMPLE,
    .max_experts = VM_ROUTER_MAX_EXPERTS,
    .numbers = {[VM_ROUTER_MEMBERS] = {1, VM_ROUTER_MAX_MEMBERS, 10}, [VM_ROUTER_NOISE] = {1e-4, 0.95, 0.1}},
    .weights = &dropout};
