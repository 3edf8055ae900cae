/* rng.c: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) by Random123.
 *
 * Key: the 64 bits of mix(seed + purpose * 0x9e3779b97f4a7c15), where mix is the finaliser of SplitMix64. For one seed
 * two purposes never have the same key (the multiplier is odd and mix is a bijection), for one purpose two seeds never
 * do. Streams (vm_rng) use the counters {block low, block high, stream, 0x80000000}; who calls vm_rng_block for the
 * same purpose as a stream keeps the top bit of counter[3] clear and never meets them. */
#include "base/rng.h"

#include <math.h>
#include <Random123/philox.h>

static philox4x32_key_t make_key(uint64_t seed, uint32_t purpose) {
    uint64_t z = seed + purpose * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (philox4x32_key_t){{(uint32_t)z, (uint32_t)(z >> 32)}};
}

void vm_rng_block(uint64_t seed, vm_rng_purpose purpose, const uint32_t counter[4], uint32_t out[4]) {
    philox4x32_ctr_t c = {{counter[0], counter[1], counter[2], counter[3]}};
    c = philox4x32(c, make_key(seed, purpose));
    for (int i = 0; i < 4; i++) out[i] = c.v[i];
}

/* Box-Muller: two normals from two words. u1 = (a + 1/2) / 2^32 lies in [2^-33, 1], so the logarithm is finite
 * (|z| <= 6.77); u2 has 24 bits, as many as a float holds. */
static void box_muller(uint32_t a, uint32_t b, float *z0, float *z1) {
    float u1 = (float)a * 0x1p-32f + 0x1p-33f;
    float angle = (float)(b >> 8) * 0x1p-24f * 6.28318530717958647692f;
    float radius = sqrtf(-2.0f * logf(u1));
    *z0 = radius * cosf(angle);
    *z1 = radius * sinf(angle);
}

void vm_rng_normal4(uint64_t seed, vm_rng_purpose purpose, const uint32_t counter[4], float out[4]) {
    uint32_t words[4];
    vm_rng_block(seed, purpose, counter, words);
    box_muller(words[0], words[1], &out[0], &out[1]);
    box_muller(words[2], words[3], &out[2], &out[3]);
}

void vm_rng_normals(uint64_t seed, vm_rng_purpose purpose, const uint32_t counter[4], size_t n, float *out) {
    for (size_t i = 0; i < n; i += 4) {
        uint32_t block[4] = {counter[0], counter[1], counter[2], counter[3] + (uint32_t)(i / 4)};
        float z[4];
        vm_rng_normal4(seed, purpose, block, z);
        for (size_t k = i; k < n && k < i + 4; k++) out[k] = z[k - i];
    }
}

vm_rng vm_rng_start(uint64_t seed, vm_rng_purpose purpose, uint32_t stream) {
    return (vm_rng){.seed = seed, .purpose = purpose, .stream = stream, .next = 0};
}

uint32_t vm_rng_u32(vm_rng *rng) {
    uint64_t block = rng->next / 4;
    uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), rng->stream, 0x80000000u};
    uint32_t words[4];
    vm_rng_block(rng->seed, (vm_rng_purpose)rng->purpose, counter, words);
    return words[rng->next++ % 4];
}

double vm_rng_uniform(vm_rng *rng) { return vm_rng_u32(rng) * 0x1p-32; }

/* Lemire, "Fast random integer generation in an interval", 2019: the high word of a product, the few values that
 * would make some results more likely drawn again. */
uint32_t vm_rng_below(vm_rng *rng, uint32_t n) {
    uint64_t product = (uint64_t)vm_rng_u32(rng) * n;
    if ((uint32_t)product < n) {
        uint32_t threshold = -n % n; /* 2^32 mod n */
        while ((uint32_t)product < threshold) product = (uint64_t)vm_rng_u32(rng) * n;
    }
    return (uint32_t)(product >> 32);
}

float vm_rng_normal(vm_rng *rng) {
    uint32_t a = vm_rng_u32(rng), b = vm_rng_u32(rng);
    float z0, z1;
    box_muller(a, b, &z0, &z1);
    return z0;
}

void vm_rng_shuffle(vm_rng *rng, int32_t *values, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = vm_rng_below(rng, (uint32_t)i);
        int32_t t = values[i - 1];
        values[i - 1] = values[j];
        values[j] = t;
    }
}
