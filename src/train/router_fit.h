/* router_fit.h: the router a split layer starts with: ridge regression of the experts' output norms on the layer's input, scaled to a flat spread. */
#ifndef VM_TRAIN_ROUTER_FIT_H
#define VM_TRAIN_ROUTER_FIT_H

#include "train/recipe.h"

typedef struct vm_dense_ffn {
    float *gate, *up, *down; /* [F, D], [F, D], [D, F] in the dense model's order */
} vm_dense_ffn;

/* out[T, D] and, where not NULL, active[T, F] = |silu(gate u) * up u| times the norm of the neuron's down column. */
vmoer_status vm_dense_ffn_run(const vm_dense_ffn *f, vm_pool *pool, int width, int dim, int n_tokens, const float *u, float *out, float *active);

/* Sets the layer's router from its order. spread: standard deviation of the logits over the experts. */
vmoer_status vm_router_fit(vm_recipe *r, int layer, const vm_dense_ffn *dense, vm_pool *pool, const float *u, int n_tokens, double spread);

#endif
