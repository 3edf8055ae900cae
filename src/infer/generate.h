/* generate.h: a sequence that grows: its tokens, their keys and values, and what the session's model says of the next one. One pass over the model a token,
 * or S of them, each with draws and a cache of its own, where the router's inference is VM_INFERENCE_PASSES. Results depend on the tokens alone, not on how
 * they came or on what a pass takes at once. */
#ifndef VM_INFER_GENERATE_H
#define VM_INFER_GENERATE_H

#include "base/progress.h"
#include "infer/session.h"

typedef struct vm_generation_options {
    int context;    /* most tokens of the sequence, 1 to the model's */
    int batch_size; /* tokens that a pass takes at once, >= 1 */
    size_t memory;  /* bytes of all keys and values; 0: no bound */
} vm_generation_options;

typedef struct vm_generation vm_generation;
/* The session is lent for the generation's life. */
vmoer_status vm_generation_create(vm_session *s, const vm_generation_options *options, vm_generation **out);
void vm_generation_free(vm_generation *g); /* takes NULL */
vm_generation_options vm_generation_get_options(const vm_generation *g);

/* The sequence becomes ids[n], n >= 1; what it begins with in common with the one before is not computed again: *kept of its tokens. VMOER_ERROR_LIMIT: more
 * than the context. Nothing runs yet. */
vmoer_status vm_generation_set(vm_generation *g, const int32_t *ids, size_t n, size_t *kept);
/* One more token. VMOER_ERROR_LIMIT: the context is full. */
vmoer_status vm_generation_add(vm_generation *g, int32_t id);
const int32_t *vm_generation_ids(const vm_generation *g, size_t *n);

/* What follows the last token, and signals of that token's routing, means over the layers that have them. NAN: the model has no such signal. */
typedef struct vm_next {
    const float *logits;     /* [V], the generation's until it runs again; of several passes the logarithm of their mean probabilities */
    double log_sum_exp;      /* of the logits: a token's log-probability is its logit less this */
    double entropy;          /* over the vocabulary, nats */
    double expected_entropy; /* VM_INFERENCE_PASSES: mean of the passes' own; NAN: another inference */
    double mutual_information; /* entropy - expected_entropy >= 0; NAN likewise */
    double gate_entropy, logit_variance, logit_variance_projected, routing_temperature; /* of passes their mean */
} vm_next;
/* Runs what has not run yet. hooks->progress, where there are hooks, sees the stage "prompt" between passes over more than batch_size tokens. */
vmoer_status vm_generation_next(vm_generation *g, const vmoer_hooks *hooks, vm_next *out);

/* ---- text of a token at a time ---- */

/* A character may end several tokens later than it begins: its first bytes wait here. Begins as zeros. */
typedef struct vm_stream {
    char waiting[4];
    size_t n_waiting;
    char *text; /* [length], NUL-terminated: what the last call completed; freed with vm_stream_free */
    size_t length, capacity;
} vm_stream;
void vm_stream_free(vm_stream *t);
/* t->text becomes the characters that `id` completes, UTF-8: none of a special token's, U+FFFD for each byte that belongs to no character. */
vmoer_status vm_stream_add(vm_stream *t, const vm_tokenizer *tokenizer, int32_t id);

#endif
