/* objective.h: one loss for MAP and the variational routers: cross-entropy of the right choice under softmax over the choice scores, plus, with a router,
 * beta * KLbar, KLbar = mean of KL(q||p) over the batch's input tokens and the Bayesian layers. */
#ifndef VM_TRAIN_OBJECTIVE_H
#define VM_TRAIN_OBJECTIVE_H

#include "model/questions.h"

/* A training or held-out set, tokenised once; {0} is an empty one. */
typedef struct vm_examples {
    vm_prompt *prompts; /* [n] */
    int32_t *answers;   /* [n] index of the right choice */
    size_t n;
} vm_examples;
vmoer_status vm_examples_add(vm_examples *e, const vm_tokenizer *t, const vm_dataset *d, vm_format format);
void vm_examples_free(vm_examples *e);

enum { VM_MAX_DRAWS = 64 };
typedef struct vm_objective {
    vm_pass *pass;
    vm_format format;
    vm_router *router; /* NULL: MAP */
    vm_pass *teacher;  /* not NULL: distillation, see below */
    double beta;
    int draws;         /* a question and step, 1 to VM_MAX_DRAWS, in antithetic pairs: mean of their losses, or */
    bool mixture;      /* the loss of the mean of their probabilities (docs/METHOD.md), at twice the forward passes */
    uint64_t seed;
    size_t memory;     /* bytes for kept activations; 0: no bound */
    vm_states *states; /* of steps: what their passes share (pass.h); NULL: none */
} vm_objective;

typedef struct vm_loss {
    double loss, ce;
    double kl;     /* mean over tokens and Bayesian layers */
    double kl_sum; /* un-averaged, a question */
    double acc;
} vm_loss;

/* With a teacher (a pass of another model with the same vocabulary) the loss is the mean over all input tokens of
 * KL(teacher || model), between their next-token distributions; the right answers play no part. loss and ce are that mean. */

/* Accumulates the gradients of the mean loss over the items (indices into e). step decides the draws. */
vmoer_status vm_objective_step(const vm_objective *o, const vm_examples *e, const int32_t *items, int n, uint64_t step, vm_loss *out);

/* Mean over all input tokens of KL(teacher || model), nats a token; o->teacher is not NULL. */
vmoer_status vm_objective_divergence(const vm_objective *o, const vm_examples *e, const vm_pass_options *options, double *out);

/* Probabilities of every example by a pass that does not train, or the passes, of `options`: p[n, VM_MAX_CHOICES]. */
vmoer_status vm_objective_predict(const vm_objective *o, const vm_examples *e, const vm_pass_options *options, double *p);

#endif
