/* distill.h: fits one layer of a recipe. Router: ridge regression on the experts' output norms, scaled to a flat spread. Then block-wise distillation: router
 * and low-rank deltas by Adam so that the routed layer gives the dense layer's output on cached tokens. The loss of a token is the squared error over the
 * squared norm of the dense output (plus the median, so that tiny outputs do not count for more than others): the first token's huge
 * activations weigh no more than any other's. */
#ifndef VM_TRAIN_DISTILL_H
#define VM_TRAIN_DISTILL_H

#include "train/recipe.h"

typedef struct vm_distill_config {
    int steps, batch_tokens;
    double learning_rate, router_learning_rate;
    double spread; /* standard deviation of the logits over the experts at the start */
    uint64_t seed;
} vm_distill_config;

typedef struct vm_dense_ffn {
    float *gate, *up, *down; /* [F, D], [F, D], [D, F] in the dense model's order */
} vm_dense_ffn;

/* out[T, D] and, where not NULL, active[T, F] = |silu(gate u) * up u| times the norm of the neuron's down column. */
vmoer_status vm_dense_ffn_run(const vm_dense_ffn *f, vm_pool *pool, int width, int dim, int n_tokens, const float *u, float *out, float *active);

/* Sets the layer's router from its order. */
vmoer_status vm_distill_router(vm_recipe *r, int layer, const vm_dense_ffn *dense, vm_pool *pool, const float *u, int n_tokens, double spread);

/* Fits router and deltas; relative errors (mean over tokens of |moe - dense|^2 / |dense|^2, square root) before and after. */
vmoer_status vm_distill_layer(vm_recipe *r, int layer, const vm_dense_ffn *dense, vm_pool *pool, const float *u, int n_tokens,
                              const vm_distill_config *config, double *before, double *after);

#endif
