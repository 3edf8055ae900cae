/* dtype_blocks.c: what the quantised blocks mean (their bytes: dtype.h). Each value is made of plain f32 products,
 * sums and differences in the order of the reference (gguf.quants of PyPI's gguf), each rounded once: the same bits.
 * The loops go over bytes whose every field lies at the same bits, so that the compiler makes vectors of them. */
#include "base/dtype_internal.h"

static float f16_at(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return vm_f16_to_f32(v);
}

void vm_read_q8_0(const uint8_t *restrict block, float *restrict dst) {
    float d = f16_at(block);
    for (int i = 0; i < 32; i++) dst[i] = (float)(int8_t)block[2 + i] * d;
}

void vm_read_q4_0(const uint8_t *restrict block, float *restrict dst) {
    float d = f16_at(block);
    for (int i = 0; i < 16; i++) {
        dst[i] = (float)((block[2 + i] & 15) - 8) * d;
        dst[i + 16] = (float)((block[2 + i] >> 4) - 8) * d;
    }
}

void vm_read_q4_1(const uint8_t *restrict block, float *restrict dst) {
    float d = f16_at(block), m = f16_at(block + 2);
    for (int i = 0; i < 16; i++) {
        float low = (float)(block[4 + i] & 15) * d, high = (float)(block[4 + i] >> 4) * d;
        dst[i] = low + m;
        dst[i + 16] = high + m;
    }
}

/* q[32] = the low four bits of qs and, above them, the bits of qh, bit i for element i. */
static void five_bits(const uint8_t *restrict qh, const uint8_t *restrict qs, uint8_t *restrict q) {
    uint8_t high[32];
    for (size_t i = 0; i < 4; i++) { /* bit k of a byte to byte k of eight: alone in it, then 128 if set, then 16 */
        uint64_t bits = qh[i] * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
        bits = ((bits + UINT64_C(0x7f7f7f7f7f7f7f7f)) & UINT64_C(0x8080808080808080)) >> 3;
        memcpy(high + 8 * i, &bits, 8);
    }
    for (int i = 0; i < 16; i++) {
        q[i] = (uint8_t)((qs[i] & 15) | high[i]);
        q[i + 16] = (uint8_t)(qs[i] >> 4 | high[i + 16]);
    }
}

void vm_read_q5_0(const uint8_t *restrict block, float *restrict dst) {
    float d = f16_at(block);
    uint8_t q[32];
    five_bits(block + 2, block + 6, q);
    for (int i = 0; i < 32; i++) dst[i] = (float)(q[i] - 16) * d;
}

void vm_read_q5_1(const uint8_t *restrict block, float *restrict dst) {
    float d = f16_at(block), m = f16_at(block + 2);
    uint8_t q[32];
    five_bits(block + 4, block + 8, q);
    for (int i = 0; i < 32; i++) dst[i] = (float)q[i] * d + m;
}

void vm_read_q2_k(const uint8_t *restrict block, float *restrict dst) {
    const uint8_t *scales = block, *qs = block + 16;
    float d = f16_at(block + 80), dmin = f16_at(block + 82);
    for (int s = 0; s < 16; s++) { /* 16 elements of one scale: two bits of 16 bytes */
        const uint8_t *q = qs + s / 8 * 32 + s % 2 * 16;
        int shift = s % 8 / 2 * 2;
        float scale = d * (float)(scales[s] & 15), least = dmin * (float)(scales[s] >> 4);
        for (int i = 0; i < 16; i++) dst[16 * s + i] = scale * (float)(q[i] >> shift & 3) - least;
    }
}

void vm_read_q3_k(const uint8_t *restrict block, float *restrict dst) {
    const uint8_t *high = block, *qs = block + 32, *scales = block + 96;
    float d = f16_at(block + 108);
    for (int s = 0; s < 16; s++) {
        const uint8_t *q = qs + s / 8 * 32 + s % 2 * 16, *h = high + s % 2 * 16;
        int shift = s % 8 / 2 * 2, bit = s / 2;
        int six = (scales[s % 8] >> s / 8 * 4 & 15) | (scales[8 + s % 4] >> s / 4 * 2 & 3) << 4;
        float scale = d * (float)(six - 32);
        for (int i = 0; i < 16; i++) dst[16 * s + i] = scale * (float)((q[i] >> shift & 3) + (h[i] >> bit & 1) * 4 - 4);
    }
}

/* The eight scales and minima of 6 bits that Q4_K and Q5_K pack into 12 bytes. */
static void scale_and_minimum(const uint8_t *p, int s, int *scale, int *minimum) {
    if (s < 4) {
        *scale = p[s] & 63;
        *minimum = p[4 + s] & 63;
    } else {
        *scale = (p[4 + s] & 15) | (p[s - 4] >> 6) << 4;
        *minimum = p[4 + s] >> 4 | (p[s] >> 6) << 4;
    }
}

void vm_read_q4_k(const uint8_t *restrict block, float *restrict dst) {
    const uint8_t *qs = block + 16;
    float d = f16_at(block), dmin = f16_at(block + 2);
    for (int s = 0; s < 8; s++) {
        int six, six_minimum, shift = s % 2 * 4;
        scale_and_minimum(block + 4, s, &six, &six_minimum);
        float scale = d * (float)six, least = dmin * (float)six_minimum;
        const uint8_t *q = qs + s / 2 * 32;
        for (int i = 0; i < 32; i++) dst[32 * s + i] = scale * (float)(q[i] >> shift & 15) - least;
    }
}

void vm_read_q5_k(const uint8_t *restrict block, float *restrict dst) {
    const uint8_t *high = block + 16, *qs = block + 48;
    float d = f16_at(block), dmin = f16_at(block + 2);
    for (int s = 0; s < 8; s++) {
        int six, six_minimum, shift = s % 2 * 4;
        scale_and_minimum(block + 4, s, &six, &six_minimum);
        float scale = d * (float)six, least = dmin * (float)six_minimum;
        const uint8_t *q = qs + s / 2 * 32;
        for (int i = 0; i < 32; i++)
            dst[32 * s + i] = scale * (float)((q[i] >> shift & 15) + (high[i] >> s & 1) * 16) - least;
    }
}

void vm_read_q6_k(const uint8_t *restrict block, float *restrict dst) {
    const uint8_t *ql = block, *qh = block + 128, *scales = block + 192;
    float d = f16_at(block + 208);
    for (int s = 0; s < 16; s++) {
        const uint8_t *low = ql + s / 8 * 64 + s % 4 * 16, *high = qh + s / 8 * 32 + s % 2 * 16;
        int low_shift = s % 8 / 4 * 4, high_shift = s % 8 / 2 * 2;
        float scale = d * (float)(int8_t)scales[s];
        for (int i = 0; i < 16; i++)
            dst[16 * s + i] = scale * (float)((low[i] >> low_shift & 15) + (high[i] >> high_shift & 3) * 16 - 32);
    }
}

/* 32 nibbles, low ones first, that stand for values of a table. */
static void look_up(const uint8_t *restrict qs, const int8_t table[16], float d, float *restrict dst) {
    float values[16];
    for (int i = 0; i < 16; i++) values[i] = (float)table[i] * d;
    for (int i = 0; i < 16; i++) {
        dst[i] = values[qs[i] & 15];
        dst[i + 16] = values[qs[i] >> 4];
    }
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void vm_read_iq4_nl(const uint8_t *restrict block, float *restrict dst) {
    look_up(block + 2, iq4_values, f16_at(block), dst);
}

void vm_read_iq4_xs(const uint8_t *restrict block, float *restrict dst) {
    float d = f16_at(block);
    int high = block[2] | block[3] << 8;
    for (int s = 0; s < 8; s++) {
        int six = (block[4 + s / 2] >> s % 2 * 4 & 15) | (high >> 2 * s & 3) << 4;
        look_up(block + 8 + 16 * s, iq4_values, d * (float)(six - 32), dst + 32 * s);
    }
}

void vm_read_mxfp4(const uint8_t *restrict block, float *restrict dst) {
    static const int8_t halves[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    uint32_t e = block[0], bits = e < 2 ? 0x00200000u << e : (e - 1) << 23; /* 2^(e - 128), subnormal below 2 */
    float d;
    memcpy(&d, &bits, 4);
    look_up(block + 1, halves, d, dst);
}
