/* recipe.h: how a dense model becomes a Mixture-of-Experts, as a small file: for each layer an order of the neurons (shared experts first, then each
 * routed expert's) and the router; and, where the split was distilled, a LoRA adapter on the split model that recovers what it lost.
 * From it and the dense GGUF the MoE GGUF is built byte for byte the same on every machine: plain f32 arithmetic in one fixed order,
 * one rounding to bf16. docs/FORMATS.md has the layout. */
#ifndef VM_TRAIN_RECIPE_H
#define VM_TRAIN_RECIPE_H

#include "base/json.h"
#include "model/model.h"

typedef struct vm_recipe_layer {
    int32_t *order; /* [F] neuron of the dense model at each place */
    float *router;  /* [N, D] */
} vm_recipe_layer;

typedef struct vm_recipe {
    char base[65];    /* fingerprint of the dense model */
    char base_name[128];
    int n_layers, dim, width; /* L, D, F */
    int experts;      /* N routed */
    int expert_width; /* w */
    int shared_width; /* F - N w */
    int top_k;
    vm_recipe_layer *layers; /* [L] */
    char training[4096];     /* JSON: how it was found */
    vm_adapter *recovery;    /* of a loaded recipe: the adapter it holds; NULL: none */
} vm_recipe;

/* All arrays zero. */
vmoer_status vm_recipe_create(const vm_model *dense, int experts, int expert_width, int top_k, vm_recipe **out);
void vm_recipe_free(vm_recipe *r); /* takes NULL */
/* Half precision; the routers in r are rounded to what the file holds. VMOER_ERROR_NUMERIC where it cannot hold one.
 * distilled: the split model with the LoRA to keep; NULL: none. */
vmoer_status vm_recipe_save(vm_recipe *r, const vm_model *distilled, const char *path);
/* Checked: shapes, finite routers, that each order is a permutation, what the file holds beside; whether a recovery fits the model, at the build. */
vmoer_status vm_recipe_load(const char *path, vm_recipe **out);

/* Writes the granitemoe GGUF, the recovery merged into its weights. Routed down-projections carry the factor top_k, since granitemoe's gates sum
 * to 1. A recovery needs "<out_path>.split" for the time of the work. */
vmoer_status vm_recipe_build(const vm_recipe *r, vm_pool *pool, const char *dense_path, const char *out_path);

#endif
