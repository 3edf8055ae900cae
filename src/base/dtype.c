/* dtype.c: the types of ggml: sizes of all of them, conversions of those this library computes with (the quantised
 * blocks: dtype_blocks.c; from f32: dtype_quantize.c). */
#include "base/dtype_internal.h"

typedef struct type_info {
    const char *name; /* NULL: an id that was never given out or was taken back */
    uint16_t elements, bytes;
    vm_block_reader *read; /* NULL: a plain type, or known by size only */
} type_info;

static const type_info types[] = {
    [0] = {"F32", 1, 4, NULL},
    [1] = {"F16", 1, 2, NULL},
    [2] = {"Q4_0", 32, 18, vm_read_q4_0},
    [3] = {"Q4_1", 32, 20, vm_read_q4_1},
    [6] = {"Q5_0", 32, 22, vm_read_q5_0},
    [7] = {"Q5_1", 32, 24, vm_read_q5_1},
    [8] = {"Q8_0", 32, 34, vm_read_q8_0},
    [9] = {"Q8_1", 32, 36, NULL},
    [10] = {"Q2_K", 256, 84, vm_read_q2_k},
    [11] = {"Q3_K", 256, 110, vm_read_q3_k},
    [12] = {"Q4_K", 256, 144, vm_read_q4_k},
    [13] = {"Q5_K", 256, 176, vm_read_q5_k},
    [14] = {"Q6_K", 256, 210, vm_read_q6_k},
    [15] = {"Q8_K", 256, 292, NULL},
    [16] = {"IQ2_XXS", 256, 66, NULL},
    [17] = {"IQ2_XS", 256, 74, NULL},
    [18] = {"IQ3_XXS", 256, 98, NULL},
    [19] = {"IQ1_S", 256, 50, NULL},
    [20] = {"IQ4_NL", 32, 18, vm_read_iq4_nl},
    [21] = {"IQ3_S", 256, 110, NULL},
    [22] = {"IQ2_S", 256, 82, NULL},
    [23] = {"IQ4_XS", 256, 136, vm_read_iq4_xs},
    [24] = {"I8", 1, 1, NULL},
    [25] = {"I16", 1, 2, NULL},
    [26] = {"I32", 1, 4, NULL},
    [27] = {"I64", 1, 8, NULL},
    [28] = {"F64", 1, 8, NULL},
    [29] = {"IQ1_M", 256, 56, NULL},
    [30] = {"BF16", 1, 2, NULL},
    [34] = {"TQ1_0", 256, 54, NULL},
    [35] = {"TQ2_0", 256, 66, NULL},
    [39] = {"MXFP4", 32, 17, vm_read_mxfp4},
    [40] = {"NVFP4", 64, 36, NULL},
    [41] = {"Q1_0", 128, 18, NULL},
};

static const type_info *find_type(uint32_t type) {
    return type < sizeof types / sizeof types[0] && types[type].name ? &types[type] : NULL;
}

bool vm_dtype_block(uint32_t type, size_t *elements, size_t *bytes) {
    const type_info *info = find_type(type);
    if (!info) return false;
    *elements = info->elements;
    *bytes = info->bytes;
    return true;
}

const char *vm_dtype_name(uint32_t type) {
    const type_info *info = find_type(type);
    return info ? info->name : "?";
}

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint32_t to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* As the F16C instructions do it: a signalling NaN becomes quiet, the rest of its payload stays. All cases are
 * computed and one is taken by its mask, so that rows become vectors. */
float vm_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = (uint32_t)(h & 0x7fff) << 13;
    uint32_t small = to_bits((float)(h & 0x3ff) * 0x1p-24f); /* subnormal or zero: exact in f32 */
    uint32_t is_small = 0u - (magnitude < 0x00800000u), is_special = 0u - (magnitude >= 0x0f800000u);
    uint32_t quiet = (0u - (magnitude > 0x0f800000u)) & 0x400000u;
    uint32_t larger = (magnitude + (112u << 23)) | (is_special & 0x7f800000u) | quiet;
    return from_bits(sign | (small & is_small) | (larger & ~is_small));
}

uint16_t vm_f32_to_f16(float f) {
    uint32_t bits = to_bits(f);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and above rounds to infinity */
    if (magnitude < 0x38800000u) {
        /* Below 2^-14 the result is subnormal, a multiple of 2^-24. In [0.5, 1) that is the last bit of a float, so
         * the addition rounds, half to even; what it leaves in the low bits is the result. */
        return (uint16_t)(sign | (to_bits(from_bits(magnitude) + 0.5f) - to_bits(0.5f)));
    }
    uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1); /* may carry into the exponent, as it should */
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

static uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

bool vm_dequantize(uint32_t type, const void *src, size_t n, float *dst) {
    const type_info *info = find_type(type);
    if (!info || n % info->elements != 0) return false;
    const uint8_t *p = src;
    switch (type) {
    case VM_F32:
        if (n) memcpy(dst, src, n * 4);
        return true;
    case VM_F16:
        for (size_t i = 0; i < n; i++) dst[i] = vm_f16_to_f32(load_u16(p + 2 * i));
        return true;
    case VM_BF16:
        for (size_t i = 0; i < n; i++) dst[i] = vm_bf16_to_f32(load_u16(p + 2 * i));
        return true;
    default:
        if (!info->read) return false;
        for (size_t i = 0; i < n; i += info->elements, p += info->bytes) info->read(p, dst + i);
        return true;
    }
}
