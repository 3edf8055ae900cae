/* dtype_quantize.c: f32 to stored types. Q8_0 and Q4_0 follow ggml's reference bit for bit. Q4_K and Q6_K are searches
 * of this library's own for the least squared error: for every group candidates of its scale, each made the best one
 * for the integers it gives; then what the block can store of them, tried with its neighbours. Any f32 may come. */
#include "base/dtype.h"

#include <math.h>

#define LARGEST_F16 65504.0f

static float put_f16(uint8_t *at, float value) {
    uint16_t stored = vm_f32_to_f16(value);
    memcpy(at, &stored, 2);
    return vm_f16_to_f32(stored);
}

/* The integer nearest to x, halves up, within the bounds; what is no number gives `low`. */
static int nearest(float x, int low, int high) {
    float from_low = x - (float)low;
    from_low = from_low > 0 ? from_low : 0;
    from_low = from_low < (float)(high - low) ? from_low : (float)(high - low);
    return low + (int)(from_low + 0.5f);
}

/* d = max |x| / 127, q = round(x / d), halves away from zero. */
static void quantize_q8_0(const float *src, uint8_t *block) {
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(src[i]));
    float d = largest / 127.0f;
    float inverse = d != 0 ? 1.0f / d : 0.0f;
    put_f16(block, d);
    for (int i = 0; i < 32; i++) {
        /* With a NaN, an infinity or a subnormal d the product may leave the range: clamp before the cast. */
        float q = roundf(src[i] * inverse);
        block[2 + i] = (uint8_t)(int8_t)(q >= 127.0f ? 127 : q > -127.0f ? (int)q : q <= -127.0f ? -127 : 0);
    }
}

/* The value of largest magnitude, the first of equals, is -8 d. */
static void quantize_q4_0(const float *src, uint8_t *block) {
    float largest = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(src[i]) > fabsf(largest)) largest = src[i];
    float d = largest / -8.0f;
    float inverse = d != 0 ? 1.0f / d : 0.0f;
    int q[32];
    put_f16(block, d);
    for (int i = 0; i < 32; i++) {
        float up = src[i] * inverse + 8.5f;
        q[i] = up >= 15.0f ? 15 : up > 0 ? (int)up : 0;
    }
    for (int i = 0; i < 16; i++) block[2 + i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

/* ---- Q4_K: 8 groups of 32, x = scale q - minimum ---- */

enum { GROUP4 = 32 };

static float error4(const float *x, float scale, float minimum, uint8_t *q) {
    float inverse = scale > 0 ? 1.0f / scale : 0, error = 0;
    for (int i = 0; i < GROUP4; i++) q[i] = (uint8_t)nearest((x[i] + minimum) * inverse, 0, 15);
    for (int i = 0; i < GROUP4; i++) {
        float e = scale * (float)q[i] - minimum - x[i];
        error += e * e;
    }
    return error;
}

/* Of each candidate's integers q the scale and minimum with the least error, sum x^2 - scale sum q x + minimum sum x.
 */
static void fit4(const float *x, float *scale, float *minimum) {
    float low = 0, high = x[0], sx = 0, best = 0;
    for (int i = 0; i < GROUP4; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sx += x[i];
    }
    *scale = high - low <= 15 * 63 * LARGEST_F16 && -low <= 63 * LARGEST_F16 ? 0 : INFINITY; /* more is not held */
    *minimum = -low;
    for (int step = -6; step <= 12 && high > low && *scale < INFINITY; step++) {
        float inverse = (15.0f + 0.25f * (float)step) / (high - low), sqx = 0;
        int sq = 0, sqq = 0;
        uint8_t q[GROUP4];
        for (int i = 0; i < GROUP4; i++) q[i] = (uint8_t)nearest((x[i] - low) * inverse, 0, 15);
        for (int i = 0; i < GROUP4; i++) {
            sq += q[i];
            sqq += q[i] * q[i];
            sqx += (float)q[i] * x[i];
        }
        int determinant = GROUP4 * sqq - sq * sq; /* 0: all the same */
        float s = 0, m = -1;
        if (determinant > 0) {
            s = ((float)GROUP4 * sqx - (float)sq * sx) / (float)determinant;
            m = ((float)sq * sqx - (float)sqq * sx) / (float)determinant;
        }
        if (m < 0 && sqq > 0) { /* the block stores none below 0 */
            m = 0;
            s = sqx / (float)sqq;
        }
        float gain = s * sqx - m * sx;
        if (s > 0 && gain > best) {
            best = gain;
            *scale = s;
            *minimum = m;
        }
    }
}

static void quantize_q4_k(const float *src, uint8_t *block) {
    float scales[8], minima[8], most_scale = 0, most_minimum = 0;
    for (int g = 0; g < 8; g++) {
        fit4(src + GROUP4 * g, &scales[g], &minima[g]);
        most_scale = scales[g] > most_scale ? scales[g] : most_scale;
        most_minimum = minima[g] > most_minimum ? minima[g] : most_minimum;
    }
    memset(block, 0, 144);
    float d = put_f16(block, most_scale / 63.0f), dmin = put_f16(block + 2, most_minimum / 63.0f);
    uint8_t *packed = block + 4, *qs = block + 16;
    for (int g = 0; g < 8; g++) {
        int scale0 = d > 0 ? nearest(scales[g] / d, 0, 63) : 0,
            minimum0 = dmin > 0 ? nearest(minima[g] / dmin, 0, 63) : 0;
        int scale = scale0, minimum = minimum0;
        uint8_t q[GROUP4], best_q[GROUP4] = {0};
        float best = INFINITY;
        for (int s = scale0 > 0 ? scale0 - 1 : 0; s <= scale0 + 1 && s <= 63; s++)
            for (int m = minimum0 > 0 ? minimum0 - 1 : 0; m <= minimum0 + 1 && m <= 63; m++) {
                float error = error4(src + GROUP4 * g, d * (float)s, dmin * (float)m, q);
                if (!(error < best)) continue;
                best = error;
                scale = s;
                minimum = m;
                memcpy(best_q, q, sizeof q);
            }
        if (g < 4) {
            packed[g] |= (uint8_t)scale;
            packed[4 + g] |= (uint8_t)minimum;
        } else {
            packed[4 + g] = (uint8_t)((scale & 15) | (minimum & 15) << 4);
            packed[g - 4] |= (uint8_t)(scale >> 4 << 6);
            packed[g] |= (uint8_t)(minimum >> 4 << 6);
        }
        for (int i = 0; i < GROUP4; i++) qs[g / 2 * 32 + i] |= (uint8_t)(best_q[i] << g % 2 * 4);
    }
}

/* ---- Q6_K: 16 groups of 16, x = scale (q - 32) ---- */

enum { GROUP6 = 16 };

static float error6(const float *x, float scale, int8_t *q) {
    float inverse = scale != 0 ? 1.0f / scale : 0, error = 0;
    for (int i = 0; i < GROUP6; i++) q[i] = (int8_t)nearest(x[i] * inverse, -32, 31);
    for (int i = 0; i < GROUP6; i++) {
        float e = scale * (float)q[i] - x[i];
        error += e * e;
    }
    return error;
}

/* Of each candidate's integers q the scale with the least error, sum x^2 - scale sum q x. */
static float fit6(const float *x) {
    float largest = 0, best = 0, scale = 0;
    for (int i = 0; i < GROUP6; i++)
        if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
    if (fabsf(largest) > 32 * 127 * LARGEST_F16) return INFINITY; /* more is not held */
    for (int step = -6; step <= 6 && largest != 0; step++) {
        float inverse = -(32.0f + 0.25f * (float)step) / largest, sqx = 0;
        int sqq = 0;
        int8_t q[GROUP6];
        for (int i = 0; i < GROUP6; i++) q[i] = (int8_t)nearest(x[i] * inverse, -32, 31);
        for (int i = 0; i < GROUP6; i++) {
            sqx += (float)q[i] * x[i];
            sqq += q[i] * q[i];
        }
        float s = sqq ? sqx / (float)sqq : 0;
        if (s * sqx > best) {
            best = s * sqx;
            scale = s;
        }
    }
    return scale;
}

static void quantize_q6_k(const float *src, uint8_t *block) {
    float scales[16], most = 0;
    for (int s = 0; s < 16; s++) {
        scales[s] = fit6(src + GROUP6 * s);
        if (fabsf(scales[s]) > fabsf(most)) most = scales[s];
    }
    memset(block, 0, 210);
    float d = put_f16(block + 208, most / -128.0f);
    for (int s = 0; s < 16; s++) {
        int scale0 = d != 0 ? nearest(scales[s] / d, -128, 127) : 0, scale = scale0;
        int8_t q[GROUP6], best_q[GROUP6] = {0};
        float best = INFINITY;
        for (int k = scale0 > -128 ? scale0 - 1 : -128; k <= scale0 + 1 && k <= 127; k++) {
            float error = error6(src + GROUP6 * s, d * (float)k, q);
            if (!(error < best)) continue;
            best = error;
            scale = k;
            memcpy(best_q, q, sizeof q);
        }
        block[192 + s] = (uint8_t)(int8_t)scale;
        uint8_t *low = block + s / 8 * 64 + s % 4 * 16, *high = block + 128 + s / 8 * 32 + s % 2 * 16;
        for (int i = 0; i < GROUP6; i++) {
            int value = best_q[i] + 32;
            low[i] |= (uint8_t)((value & 15) << s % 8 / 4 * 4);
            high[i] |= (uint8_t)(value >> 4 << s % 8 / 2 * 2);
        }
    }
}

bool vm_quantize(uint32_t type, const float *src, size_t n, void *dst) {
    size_t elements, bytes;
    if (!vm_dtype_block(type, &elements, &bytes) || n % elements != 0) return false;
    uint8_t *p = dst;
    void (*block)(const float *src, uint8_t *block);
    switch (type) {
    case VM_F32:
        if (n) memcpy(dst, src, n * 4);
        return true;
    case VM_F16:
    case VM_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = type == VM_F16 ? vm_f32_to_f16(src[i]) : vm_f32_to_bf16(src[i]);
            memcpy(p + 2 * i, &h, 2);
        }
        return true;
    case VM_Q8_0:
        block = quantize_q8_0;
        break;
    case VM_Q4_0:
        block = quantize_q4_0;
        break;
    case VM_Q4_K:
        block = quantize_q4_k;
        break;
    case VM_Q6_K:
        block = quantize_q6_k;
        break;
    default:
        return false;
    }
    for (size_t i = 0; i < n; i += elements, p += bytes) block(src + i, p);
    return true;
}
