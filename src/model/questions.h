/* questions.h: multiple-choice questions as one ragged batch, and the scores of their choices. The question is one segment, each choice a child of it,
 * so the question is computed once. A choice's last token is never an input: nothing is asked after it.
 * Entropies are those after the contexts, one a question. */
#ifndef VM_MODEL_QUESTIONS_H
#define VM_MODEL_QUESTIONS_H

#include "io/prompt.h"
#include "model/pass.h"

typedef struct vm_question {
    const vm_prompt *prompt;
    uint32_t item; /* who it is, for the draws: its index in the data set */
} vm_question;

/* All arrays live in the arena given to build. C = choices of all questions. */
typedef struct vm_questions {
    vm_batch batch;
    int n;                       /* questions */
    int n_choices;               /* C */
    const int32_t *first_choice; /* [n + 1] */
    const int32_t *root;         /* [n] segment of each question's context */
    const int32_t *target_choice; /* [n_targets] which of the C choices a target belongs to */
    const float *scale;          /* [C] score = scale * sum of log-probabilities: 1 / tokens for cloze, 1 otherwise */
} vm_questions;

vmoer_status vm_questions_build(vm_arena *arena, const vm_question *questions, int n, vm_format format, vm_questions *out);
/* ids[length] after `past` others of their sequence, with the last token's distribution asked and no target. Arrays live in the arena but for ids, the
 * caller's. */
vmoer_status vm_sequence_build(vm_arena *arena, const int32_t *ids, int length, int past, vm_batch *out);
/* What a pass over questions says of their choices; or the mean over passes, of which there are options.samples where the inference is VM_INFERENCE_PASSES
 * and the router draws. Arrays of the arena given to run. */
typedef struct vm_choices {
    double *score;              /* [C] */
    double *probability;        /* [C] softmax(score / temperature) over a question's choices, of each pass by itself */
    double *entropy;            /* [n] of these probabilities, nats */
    double *vocabulary_entropy; /* [n] nats; with options.facts */
} vm_choices;
/* One pass of `weight`, its score[C], into the means; to start with they are 0. */
void vm_choices_add(const vm_questions *q, const double *score, double temperature, double weight, vm_choices *out);
/* Mutual information between the answer to a question and the router's draws, nats, >= 0: the entropy of the mean less the mean of the entropies. */
double vm_choices_information(const vm_questions *q, const vm_choices *choices, int question);
/* Passes are numbered from options.step on. VMOER_ERROR_NUMERIC where a score is not finite. */
vmoer_status vm_questions_run(vm_pass *p, vm_arena *arena, const vm_questions *q, const vm_pass_options *options, double temperature,
                              vm_choices *out);
/* score[C] from log_probability[n_targets]. */
void vm_questions_score(const vm_questions *q, const float *log_probability, double *score);
/* d_log_probability[n_targets] from d_score[C]. */
void vm_questions_score_backward(const vm_questions *q, const double *d_score, float *d_log_probability);
/* Input tokens a question adds to a batch. */
int vm_prompt_inputs(const vm_prompt *p);
/* p[n] = softmax(score[n] / temperature). */
void vm_choice_softmax(const double *score, int n, double temperature, double *p);
double vm_choice_entropy(const double *p, int n); /* nats */

#endif
