/* noise.c: see noise.h. */
#include "model/noise.h"

#include "base/rng.h"

#include <math.h>

enum { TOKENS_A_TASK = 16 };

typedef struct noise_job {
    const vm_noise *noise;
    uint64_t seed;
    int layer, dim;
    const vm_token_key *keys;
    const float *u, *eps;
    float *out;
} noise_job;

static void draw_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const noise_job *j = context;
    for (size_t t = begin; t < end; t++) {
        const vm_token_key *key = &j->keys[t];
        uint32_t counter[4] = {key->item, (uint32_t)key->part << 16 | key->position, (uint32_t)j->layer, 0};
        vm_rng_normals(j->seed, VM_RNG_NOISE, counter, (size_t)j->dim, j->out + t * (size_t)j->dim);
    }
}

void vm_noise_draw(vm_pool *pool, uint64_t seed, int layer, int n_tokens, int dim, const vm_token_key *keys,
                   float *eps) {
    noise_job j = {.seed = seed, .layer = layer, .dim = dim, .keys = keys, .out = eps};
    vm_pool_run_range(pool, (size_t)n_tokens, TOKENS_A_TASK, draw_rows, &j);
}

static float scale_of(const vm_noise *n, const float *u, int dim) {
    if (!n->relative) return (float)n->sigma;
    double squares = 0;
    for (int i = 0; i < dim; i++) squares += (double)u[i] * (double)u[i];
    return (float)(n->sigma * sqrt(squares / dim));
}

void vm_noise_scale(const vm_noise *n, int n_tokens, int dim, const float *u, float *scale) {
    for (size_t t = 0; t < (size_t)n_tokens; t++) scale[t] = scale_of(n, u + t * (size_t)dim, dim);
}

static void add_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const noise_job *j = context;
    for (size_t t = begin; t < end; t++) {
        size_t at = t * (size_t)j->dim;
        float scale = scale_of(j->noise, j->u + at, j->dim);
        for (size_t i = at; i < at + (size_t)j->dim; i++) j->out[i] = j->u[i] + scale * j->eps[i];
    }
}

void vm_noise_add(const vm_noise *n, vm_pool *pool, int n_tokens, int dim, const float *u, const float *eps,
                  float *out) {
    noise_job j = {.noise = n, .dim = dim, .u = u, .eps = eps, .out = out};
    vm_pool_run_range(pool, (size_t)n_tokens, TOKENS_A_TASK, add_rows, &j);
}
