/* pass.h: one forward pass of a batch, and its backward pass. Sequences are ragged: no padding anywhere. The choices of a question are segments that
 * share the question's tokens. Logits are computed for the asked rows only, a block at a time. Activations are kept within a bound;
 * layers beyond it are computed again in the backward pass, with the same bits. */
#ifndef VM_MODEL_PASS_H
#define VM_MODEL_PASS_H

#include "model/kv_cache.h"
#include "model/model.h"
#include "model/states.h"

typedef struct vm_batch {
    int n_tokens;               /* T */
    const int32_t *ids;         /* [T] */
    const int32_t *positions;   /* [T] in their sequence, < config.context */
    const vm_token_key *keys;   /* [T] who each token is, for the draws */
    int n_segments;
    const vm_segment *segments; /* they tile [0, T) in order; children directly after their root */
    int n_rows;
    const int32_t *rows;        /* [n_rows] tokens whose next-token distribution is asked */
    int n_targets;
    const int32_t *target_row;  /* [n_targets] index into rows, not falling */
    const int32_t *target_id;   /* [n_targets] token whose log-probability is asked */
    int n_entropies;
    const int32_t *entropy_row; /* [n_entropies] index into rows, not falling: where the entropy over the vocabulary is asked */
    /* The sequence that the batch, one segment, continues: its positions begin at cache->length. A forward that succeeds adds the batch's tokens to it.
     * The results are those of the whole sequence in one batch, to the bit. Not in training. NULL: none. */
    vm_kv_cache *cache;
} vm_batch;

typedef struct vm_pass_options {
    bool training;              /* keep what backward needs; with a router: one draw */
    vm_router *router;          /* NULL: the deterministic router everywhere */
    vm_inference inference;
    int samples;
    vm_routing_mode routing;
    vm_noise noise;             /* on what every layer's routers see, not on what its experts see; inference only */
    uint64_t seed, step;        /* of the draws; step: of the training, or the number of the pass under VM_INFERENCE_PASSES */
    float sign;                 /* training: 1, or -1 for the antithetic draw */
    size_t memory;              /* bytes for kept activations; 0: no bound */
    /* Distillation: a pass that has run this batch; its distribution at every asked row is what this one should give. NULL: none.
     * Targets are not looked at then. Backward adds the gradient of teacher_weight * sum over rows of KL(teacher || this). */
    const struct vm_pass *teacher;
    float teacher_weight;
    /* What passes over the same questions share: begins at the layer the states are for, which must be the router's lowest, with nothing trained
     * below its feed-forward half. The batch is made of whole questions (questions.h). The results are the same to the bit. Not with facts or capture. */
    vm_states *states;
    bool facts;                 /* fill the per-token arrays below */
    /* Sees each layer's feed-forward input u[T, D] while it is there; NULL: nobody looks. */
    void (*capture)(void *context, int layer, int n_tokens, const float *u);
    void *capture_context;
} vm_pass_options;

/* Passes over a batch that differ by their step: options.samples, where the inference is VM_INFERENCE_PASSES and the router draws; else 1. */
int vm_passes(const vm_pass_options *options);

typedef struct vm_pass vm_pass;
vmoer_status vm_pass_create(vm_model *m, vm_pool *pool, vm_pass **out);
void vm_pass_free(vm_pass *p); /* takes NULL */

/* log_probability[n_targets]; entropy[n_entropies] in nats and logits[n_rows, V] where not NULL. */
vmoer_status vm_pass_forward(vm_pass *p, const vm_batch *batch, const vm_pass_options *options, float *log_probability, float *entropy, float *logits);
/* The last forward's batch, whose arrays must still be there, once more with the draws of pass `step`: from the router's lowest layer on, below which
 * nothing draws. The same bits as a whole forward. Only after a forward by VM_INFERENCE_PASSES that did not train. */
vmoer_status vm_pass_again(vm_pass *p, uint64_t step, float *log_probability, float *entropy);
/* After a training forward of the same batch: accumulates the gradients of  sum_i d_log_probability_i log_probability_i + kl_weight * sum KL. */
vmoer_status vm_pass_backward(vm_pass *p, const float *d_log_probability, float kl_weight);

/* The lowest layer with something trained in it, a router (NULL: none) too; n_layers: none. */
int vm_pass_lowest_trained(const vm_model *m, const vm_router *router);

/* [n_rows, D] the last norm's output at the asked rows of the last forward, which is what the head sees; valid until the next. With facts the mean
 * over the passes run again. */
const float *vm_pass_normed(const vm_pass *p);
/* After a training forward with a router: sum of the KL over tokens and Bayesian layers, nats. */
double vm_pass_kl(const vm_pass *p);
/* With a teacher, after backward or after a forward that does not train: sum over the asked rows of KL(teacher || this), nats. */
double vm_pass_divergence(const vm_pass *p);
size_t vm_pass_bytes(const vm_pass *p); /* workspace held */

/* After a forward with options.facts, for MoE models; [n_layers, T], NAN where a layer has none. Valid until the next forward. After passes run again:
 * means over the passes; chosen: of the last. */
typedef struct vm_facts {
    const float *gate_entropy;    /* of p, nats */
    const float *trace;           /* tr Sigma */
    const float *trace_projected; /* tr P Sigma P */
    const float *temperature;     /* T(u) of the routing */
    const float *spread;          /* standard deviation of l_det over the experts */
    const float *margin;          /* K-th minus K+1-th largest of p; 0 if K == N */
    const int32_t *chosen;        /* [n_layers, T, K]; -1 in a layer without a router */
} vm_facts;
vm_facts vm_pass_facts(const vm_pass *p);
/* Of one of these arrays (NULL: there is none) the mean over the layers that have it, at one of T tokens; NAN: no layer has it. */
double vm_facts_at(const float *values, int n_layers, int n_tokens, int token);

#endif
