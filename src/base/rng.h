/* rng.h: counter-based random numbers (Philox4x32-10, from Random123). A draw is a pure function of a key and a
 * counter, so it is the same for any number of threads, any batch size and after a resume. */
#ifndef VM_BASE_RNG_H
#define VM_BASE_RNG_H

#include <stdint.h>
#include <stddef.h>

/* What a key stands for; a purpose never shares draws with another one. */
typedef enum vm_rng_purpose {
    VM_RNG_INIT = 1,   /* initial values of parameters */
    VM_RNG_SHUFFLE,    /* order of the training items */
    VM_RNG_ROUTE,      /* draws of the variational router in training */
    VM_RNG_INFERENCE,  /* draws of the variational router at inference */
    VM_RNG_BOOTSTRAP,  /* resampling in the evaluation */
    VM_RNG_FLOOR,      /* labels of the perfectly calibrated model */
    VM_RNG_RANDOM_ROUTING, /* experts drawn at random */
    VM_RNG_CLUSTER,    /* clustering of neurons */
    VM_RNG_TEXT,       /* text sampled from a model */
    VM_RNG_NOISE,      /* noise on a router's input, where its stability is measured */
    VM_RNG_PASS,       /* as VM_RNG_ROUTE, of a whole pass at inference */
    VM_RNG_GUMBEL,     /* which experts a router draws, in training */
    VM_RNG_PASS_GUMBEL, /* the same of a whole pass at inference */
    VM_RNG_CONFORMAL,  /* uniforms of randomised answer sets */
    VM_RNG_HALVES,     /* random halves of a run's items */
    VM_RNG_MEMBERS,    /* what tells the members of an ensemble apart at the start */
    VM_RNG_DROPOUT,    /* masks of a router's input in training */
    VM_RNG_WEIGHTS,    /* draws of a router's weights at inference, masks too */
    VM_RNG_TOKEN       /* which token follows, of those that a sampler leaves */
} vm_rng_purpose;

/* 4 words from (seed, purpose) and counter[4]. */
void vm_rng_block(uint64_t seed, vm_rng_purpose purpose, const uint32_t counter[4], uint32_t out[4]);
/* 4 independent N(0,1) from the same block (Box-Muller). */
void vm_rng_normal4(uint64_t seed, vm_rng_purpose purpose, const uint32_t counter[4], float out[4]);
/* out[n]: those of the blocks with counter[3], counter[3] + 1, ... one after the other. */
void vm_rng_normals(uint64_t seed, vm_rng_purpose purpose, const uint32_t counter[4], size_t n, float *out);

/* A sequential stream over the same generator; its whole state is this struct (store it to resume). */
typedef struct vm_rng {
    uint64_t seed;
    uint32_t purpose;
    uint32_t stream;
    uint64_t next; /* index of the next 32-bit word */
} vm_rng;
vm_rng vm_rng_start(uint64_t seed, vm_rng_purpose purpose, uint32_t stream);
uint32_t vm_rng_u32(vm_rng *rng);
double vm_rng_uniform(vm_rng *rng);                /* [0, 1), 32 bits */
uint32_t vm_rng_below(vm_rng *rng, uint32_t n);     /* unbiased, [0, n); n >= 1 */
float vm_rng_normal(vm_rng *rng);
void vm_rng_shuffle(vm_rng *rng, int32_t *values, size_t n); /* Fisher-Yates */

#endif
