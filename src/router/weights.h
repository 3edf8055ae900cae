/* weights.h: the kinds that route by matrices W [N, D] of their own: l = W u takes l_det's place. weights.c has what they share; a kind's file says
 * what training sees of u and W, and what W is at inference. docs/METHOD.md. */
#ifndef VM_ROUTER_WEIGHTS_H
#define VM_ROUTER_WEIGHTS_H

#include "router/router_internal.h"

/* The tensors of a layer, "layers.<model layer>." + weight | mean | variance | deviations. Only swag has more than the first, which is what is trained. */
enum { VM_WEIGHT, VM_WEIGHT_MEAN, VM_WEIGHT_VARIANCE, VM_WEIGHT_DEVIATIONS, VM_WEIGHT_SLOTS };

/* Floats of one matrix. */
static inline size_t vm_matrix_size(const vm_router_config *c) { return (size_t)c->n_experts * (size_t)c->dim; }

/* What vm_router_kind.weights points to; each entry may be NULL. Matrices that are more than one stand one below the other: [M N, D]. */
typedef struct vm_weights_kind {
    int (*matrices)(const vm_router_config *c); /* M of VM_WEIGHT: the token of item i at step s trains matrix (i + s) mod M. NULL: 1 */
    /* VM_WEIGHT has just become the model's own router weights, M times; `layer` is the model's. */
    void (*start)(const vm_router_config *c, vm_router_layer *l, int layer);
    /* x[D], in place: what training sees of token t's u; linear and symmetric in x, so that gradients pass it the same way. NULL: u itself. */
    void (*mask)(const vm_router_config *c, const vm_route *in, int t, float *x);
    /* After step `step` of `total`, from 1: brings the tensors after VM_WEIGHT up to date. NULL: there are none. */
    vmoer_status (*gather)(const vm_router_config *c, vm_router_layer *l, uint64_t step, uint64_t total);
    void (*mean)(const vm_router_config *c, const vm_router_layer *l, float *w); /* w[N, D]; NULL: VM_WEIGHT */
    /* w[N, D] of draw `number`, a pure function of its arguments. NULL: there is one matrix, the mean. */
    void (*draw)(const vm_router_config *c, const vm_router_layer *l, int layer, uint64_t seed, uint64_t number, float *w);
} vm_weights_kind;

#endif
