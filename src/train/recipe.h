/* recipe.h: how a dense model becomes a Mixture-of-Experts, as a small file: for each layer an order of the neurons (shared experts first, then each
 * routed expert's), the router, and low-rank deltas that recover what the split lost. From it and the dense GGUF the MoE GGUF is built byte for
 * byte the same on every machine: plain f32 arithmetic in one fixed order, one rounding to bf16. docs/FORMATS.md has the layout. */
#ifndef VM_TRAIN_RECIPE_H
#define VM_TRAIN_RECIPE_H

#include "base/json.h"
#include "model/model.h"

typedef struct vm_recipe_layer {
    int32_t *order; /* [F] neuron of the dense model at each place */
    float *router;  /* [N, D] */
    float *gate_a, *gate_b; /* [r, D], [F, r]: rows in the new order */
    float *up_a, *up_b;
    float *down_a, *down_b; /* [r, F], [D, r] */
} vm_recipe_layer;

typedef struct vm_recipe {
    char base[65];    /* fingerprint of the dense model */
    char base_name[128];
    int n_layers, dim, width; /* L, D, F */
    int experts;      /* N routed */
    int expert_width; /* w */
    int shared_width; /* F - N w */
    int top_k, rank;
    vm_recipe_layer *layers; /* [L] */
    char training[4096];     /* JSON: how it was found */
} vm_recipe;

/* All arrays zero. */
vmoer_status vm_recipe_create(const vm_model *dense, int experts, int expert_width, int top_k, int rank, vm_recipe **out);
void vm_recipe_free(vm_recipe *r); /* takes NULL */
/* Half precision; the values in r are rounded to what the file holds. VMOER_ERROR_NUMERIC where it cannot hold one. */
vmoer_status vm_recipe_save(vm_recipe *r, const char *path);
/* Everything checked: shapes, finite values, that each order is a permutation. */
vmoer_status vm_recipe_load(const char *path, vm_recipe **out);

/* Dense FFN weights of a layer in the recipe's order with the deltas added: gate, up [F, D], down [D, F]. dense_* in the model's order. */
void vm_recipe_weights(const vm_recipe *r, int layer, const float *dense_gate, const float *dense_up, const float *dense_down, float *gate, float *up,
                       float *down);
/* Writes the granitemoe GGUF. routed down-projections carry the factor top_k, since granitemoe's gates sum to 1. */
vmoer_status vm_recipe_build(const vm_recipe *r, const char *dense_path, const char *out_path);

#endif
