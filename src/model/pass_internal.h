/* pass_internal.h: what pass.c (layers) and head.c (the vocabulary) share. */
#ifndef VM_MODEL_PASS_INTERNAL_H
#define VM_MODEL_PASS_INTERNAL_H

#include "model/pass.h"

typedef struct layer_acts {
    bool filled;
    float *n1, *inv1; /* [T, D], [T]: attention's normed input and 1 / rms */
    float *qkv;       /* [T, q + 2 kv], rotated */
    float *qk, *inv_qk; /* what vm_qk_norm_forward leaves; NULL without such norms */
    float *attended;  /* [T, q] */
    const float *h;   /* [T, D]: residual stream between the halves */
    float *n2, *inv2; /* [T, D], [T] */
    float *t_qkv, *t_out;
    vm_ffn_acts ffn;
} layer_acts;

struct vm_pass {
    vm_model *m;
    vm_pool *pool;
    vm_arena *step;    /* what lives from forward to backward: residual streams, facts */
    vm_arena *scratch; /* within one layer */
    vm_arena *shared;  /* activations of the layer at hand, where they are not kept */
    vm_arena **kept;   /* [n_layers] */
    layer_acts *acts;  /* [n_layers] */
    int lowest;        /* below it nothing is kept for backward, nor, where `half`, of its attention */
    bool half;         /* no gradient passes through the lowest layer's attention */
    float **x;         /* [n_layers + 1] residual stream entering each layer above, and the head, [T, D]; where `half`,
                        * x[lowest] is the one between the halves */
    const vm_batch *batch;
    vm_batch copy;
    vm_pass_options options;
    bool ready; /* a training forward is complete and no backward has spent it */
    int passes; /* complete ones over this batch that may be run again; 0: none */
    double kl, divergence;
    float *inv_final; /* [n_rows] */
    float *normed;    /* [n_rows, D]; NULL: the head has not run yet */
    float *mean_normed; /* [n_rows, D] of it over passes, with facts; NULL: none */
    float *lse;       /* [n_rows] log sum exp of the logits */
    float *gate_entropy, *trace, *trace_projected, *temperature, *spread, *margin;
    int32_t *chosen;
};

vmoer_status vm_pass_no_memory(const vm_pass *p);
/* out[rows, D] and inv[rows] from rows of x[.., D], those of index[rows] where it is not NULL. */
void vm_pass_norm(vm_pass *p, const float *x, const int32_t *index, const vm_param *w, int rows, float *out, float *inv);

/* x[T, D]: the residual stream after the last layer, here and below; the outputs are those of vm_pass_forward. */
vmoer_status vm_head_forward(vm_pass *p, const float *x, float *log_probability, float *entropy, float *logits);
/* dx[T, D] (zeroed by the caller) += gradient through the head of the asked rows. */
vmoer_status vm_head_backward(vm_pass *p, const float *x, const float *d_log_probability, float *dx);
/* Sums the divergence from the teacher over the asked rows; dx[T, D] += its gradient, where dx is not NULL. */
vmoer_status vm_head_teach(vm_pass *p, const float *x, float *dx);

#endif
