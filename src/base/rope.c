/* rope.c: see rope.h. */
#include "base/rope.h"

#include <math.h>

static const double turn = 2 * 3.14159265358979323846;

/* The pair, as a real number, that turns `turns` times within the original context. */
static double pair_of(const vm_rope *r, int head_dim, float turns) {
    return head_dim * log(r->original / ((double)turns * turn)) / (2 * log((double)r->base));
}

static void stretch_yarn(const vm_rope *r, int head_dim, float *frequencies) {
    double low = pair_of(r, head_dim, r->beta_fast), high = pair_of(r, head_dim, r->beta_slow);
    if (r->whole) low = floor(low), high = ceil(high);
    low = fmax(low, 0), high = fmin(high, head_dim - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < head_dim / 2; i++) {
        float divided = (float)fmin(fmax((i - low) / (high - low), 0), 1);
        frequencies[i] = frequencies[i] / r->factor * divided + frequencies[i] * (1 - divided);
    }
}

void vm_rope_frequencies(const vm_rope *r, int head_dim, int context, float *frequencies, float *scale) {
    float base = r->base;
    if (r->scaling == VM_ROPE_DYNAMIC && context > r->original)
        base *= (float)pow((double)r->factor * context / r->original - ((double)r->factor - 1),
                           (double)head_dim / (head_dim - 2));
    for (int i = 0; i < head_dim / 2; i++) {
        frequencies[i] = 1.0f / powf(base, (float)(2 * i) / (float)head_dim);
        if (r->scaling == VM_ROPE_LINEAR) frequencies[i] /= r->factor;
    }
    *scale = r->attention;
    if (r->scaling != VM_ROPE_YARN) return;
    stretch_yarn(r, head_dim, frequencies);
    if (r->factor > 1) *scale *= (float)(1 + 0.1 * log((double)r->factor));
}

void vm_rope_llama3_factors(float base, int head_dim, float factor, float low_freq_factor, float high_freq_factor,
                            int original, float *factors) {
    double low = low_freq_factor, high = high_freq_factor;
    for (int i = 0; i < head_dim / 2; i++) {
        double turns = original / turn * pow(base, -2.0 * i / head_dim), s = (turns - low) / (high - low);
        factors[i] = turns > high ? 1 : turns < low ? factor : (float)(1 / ((1 - s) / factor + s));
    }
}
