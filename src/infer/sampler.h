/* sampler.h: which token follows. From a model's logits, in this order, which is llama.cpp's: the repeat penalty; the top-k most likely; of these the fewest
 * whose probabilities sum to top-p; of these the ones with at least min-p of the first one's probability; the temperature; a draw. */
#ifndef VM_INFER_SAMPLER_H
#define VM_INFER_SAMPLER_H

#include "vmoer/vmoer_errors.h"
#include <stddef.h>
#include <stdint.h>

typedef struct vm_sampler_options {
    double temperature;    /* 0: the most likely token, ties to the lower id, and nothing but the penalty counts */
    int top_k;             /* 0: all */
    double top_p;          /* (0, 1]; 1: all */
    double min_p;          /* [0, 1]; 0: all */
    double repeat_penalty; /* > 0: what the last tokens are has its logit divided by it, multiplied where that is negative; 1: none */
    int repeat_last_n;     /* those last tokens; -1: all of the sequence */
    uint64_t seed;
} vm_sampler_options;

/* VMOER_ERROR_ARGUMENT names the value that is out of its range. */
vmoer_status vm_sampler_check(const vm_sampler_options *o);

typedef struct vm_candidate {
    double logit;  /* after the penalty */
    double weight; /* probability, not normalised */
    int32_t id;
} vm_candidate;

/* What may follow ids[n]: fills list[n_vocab] and returns how many of its first ones are left, 1 or more. logits[n_vocab]; their largest is finite, none
 * is NaN. */
size_t vm_sampler_candidates(const vm_sampler_options *o, const float *logits, int n_vocab, const int32_t *ids, size_t n, vm_candidate *list);
/* One of them, drawn by seed and n alone; list[n_vocab] is room for them. */
int32_t vm_sampler_take(const vm_sampler_options *o, const float *logits, int n_vocab, const int32_t *ids, size_t n, vm_candidate *list);

#endif
