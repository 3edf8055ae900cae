/* session.h: asks a model multiple-choice questions, many at a time. Holds what one line of work needs: model, pool, pass, tokenizer, router. */
#ifndef VM_INFER_SESSION_H
#define VM_INFER_SESSION_H

#include "model/questions.h"

typedef struct vm_session_options {
    const char *adapter;   /* LoRA or NULL */
    const char *router;    /* router file or NULL */
    vm_compute compute;
    int inference;         /* vm_inference, or -1: the default of the router's kind */
    int samples;           /* 0: 32 draws; 10 passes, one by default of a kind that draws its experts */
    vm_routing_mode routing;
    uint64_t seed;
    int threads;
    bool check_only;       /* of the model's weights nothing is kept, and no question can be asked */
} vm_session_options;

typedef struct vm_session {
    vm_pool *pool;
    vm_model *model;
    vm_tokenizer *tokenizer;
    vm_router *router;     /* NULL: deterministic */
    vm_pass *pass;
    vm_arena *arena;       /* of the batch at hand */
    float *hidden;         /* [n, D] of the questions answered last: the last norm's output at each one's last token; the arena's */
    vm_pass_options options;
    double temperature;    /* output temperature; 1 without a router file */
    char adapter_name[128], adapter_fingerprint[65]; /* "" without an adapter */
    char router_fingerprint[65];                     /* SHA-256 of the file; "" without a router */
} vm_session;

/* Refuses a router made for another base or adapter, naming both. */
vmoer_status vm_session_open(const char *model_path, const vm_session_options *options, vm_session **out);
void vm_session_free(vm_session *s); /* takes NULL */

/* That the router of the file at `path`, what it says of itself in `file`, was made for this model with this adapter ("" and "": none). */
vmoer_status vm_check_router(const char *path, const vm_router *router, const vm_router_file *file, const vm_model *model, const char *adapter_name,
                             const char *adapter_fingerprint);

/* What is known about one answered question; of several passes, their mean. NAN: the model has no such signal. */
typedef struct vm_answer {
    int n_choices;
    double score[VM_MAX_CHOICES];       /* what the softmax is taken of, before the output temperature */
    double probability[VM_MAX_CHOICES];
    double choice_entropy, vocabulary_entropy;
    double total_entropy;               /* the next three under VM_INFERENCE_PASSES, nats: choice_entropy, that of the mean over passes; */
    double expected_entropy;            /* mean of the passes' own: aleatoric; */
    double mutual_information;          /* total - expected >= 0: epistemic */
    double gate_entropy, gate_entropy_last;
    double logit_variance, logit_variance_last;
    double logit_variance_projected, logit_variance_projected_last;
    double routing_temperature, routing_temperature_last;
    int length;                         /* tokens of the question, no BOS */
} vm_answer;

/* Runs n questions as one ragged batch. */
vmoer_status vm_session_answer(vm_session *s, const vm_question *questions, int n, vm_format format, vm_answer *out);

#endif
