/* noise.h: Gaussian noise on what a layer's router sees, for measuring how much of its choice survives. The experts see the input as it is. */
#ifndef VM_MODEL_NOISE_H
#define VM_MODEL_NOISE_H

#include "base/threads.h"
#include "router/router.h"

typedef struct vm_noise {
    double sigma;  /* standard deviation of each component of the router's input u; 0: none */
    bool relative; /* ... times rms(u) of the token, over its D components */
    uint64_t seed;
} vm_noise;

/* eps[T, D] ~ N(0, I): a pure function of the seed, the layer and who each token is (keys[T]). */
void vm_noise_draw(vm_pool *pool, uint64_t seed, int layer, int n_tokens, int dim, const vm_token_key *keys, float *eps);
/* scale[T]: what stands before eps_t for inputs u[T, D]. */
void vm_noise_scale(const vm_noise *n, int n_tokens, int dim, const float *u, float *scale);
/* out[T, D] = u + scale_t eps_t; out may be eps. */
void vm_noise_add(const vm_noise *n, vm_pool *pool, int n_tokens, int dim, const float *u, const float *eps, float *out);

#endif
