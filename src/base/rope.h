/* rope.h: the angles of rotary position embeddings (Su 2021) and of the ways in which they are stretched over longer contexts. Pair i of a head, i < half =
 * head_dim / 2, turns by position * frequency_i; unscaled frequency_i = base^(-2 i / head_dim). As transformers' modeling_rope_utils.py has them. */
#ifndef VM_BASE_ROPE_H
#define VM_BASE_ROPE_H

#include <stdbool.h>

typedef enum vm_rope_scaling {
    VM_ROPE_NONE,
    VM_ROPE_LINEAR,  /* frequency / factor */
    VM_ROPE_DYNAMIC, /* "dynamic NTK" for a sequence of C tokens: base * (factor C / original - (factor - 1))^(head_dim / (head_dim - 2)), if C > original */
    VM_ROPE_YARN     /* Peng 2023: between 1 and 1 / factor times the frequency, by how often it turns within the original context */
} vm_rope_scaling;

typedef struct vm_rope {
    vm_rope_scaling scaling;
    float base;                 /* > 0; > 1 for YARN */
    float factor;               /* > 0; what the context is stretched by */
    int original;               /* tokens of the context that was trained on */
    float beta_fast, beta_slow; /* YARN: what turns more often than beta_fast stays, what turns less than beta_slow is divided by factor */
    bool whole;                 /* YARN: the ends of the ramp between them are rounded to whole pairs (all but GPT-OSS) */
    float attention;            /* cos and sin are multiplied by it; YARN: and by 1 + 0.1 ln(factor), where factor > 1 */
} vm_rope;

/* frequencies[half] in radians a position, for sequences of up to `context` tokens; *scale: what cos and sin are to be multiplied by. head_dim is even; > 2
 * for DYNAMIC. */
void vm_rope_frequencies(const vm_rope *r, int head_dim, int context, float *frequencies, float *scale);
/* Llama 3's way, which a GGUF has as its result, factors[half] in rope_freqs.weight: what the frequencies of `base` are divided by. 1 where a pair turns
 * more than high_freq_factor times within `original` tokens, `factor` where it does less than low_freq_factor times, and between them
 * 1 / ((1 - s) / factor + s), s = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor). 0 < low_freq_factor < high_freq_factor. */
void vm_rope_llama3_factors(float base, int head_dim, float factor, float low_freq_factor, float high_freq_factor, int original, float *factors);

#endif
