/* dtype.h: element types of stored tensors. Values are GGUF's type ids. */
#ifndef VM_BASE_DTYPE_H
#define VM_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The types whose values this library computes with. A row of a quantised type is whole blocks, one after the other without padding; a
 * block is read byte by byte and may lie anywhere. Numbers are little-endian; f16 d, m: scales. Beside each: bytes of a block, fields in
 * order, value of element i. A nibble q: in blocks of 32 byte i holds element i low and element i + 16 high. Blocks of 256 are 8 groups g
 * of 32 elements i, or 16 groups s of 16. Source: ggml/src/ggml-common.h of github.com/ggml-org/ggml; MXFP4: OCP Microscaling Formats 1.0. */
typedef enum vm_dtype {
    VM_F32 = 0,
    VM_F16 = 1,
    VM_Q4_0 = 2,    /* 32 in 18: d, q[16]; (q - 8) d */
    VM_Q4_1 = 3,    /* 32 in 20: d, m, q[16]; q d + m */
    VM_Q5_0 = 6,    /* 32 in 22: d, h[4], q[16]; (q + 16 h - 16) d, h: bit i of the 32 */
    VM_Q5_1 = 7,    /* 32 in 24: d, m, h[4], q[16]; (q + 16 h) d + m */
    VM_Q8_0 = 8,    /* 32 in 34: d, i8 q[32]; q d */
    VM_Q2_K = 10,   /* 256 in 84: sc[16], q[64], d, m; (d (sc_s & 15)) q - m (sc_s >> 4), q: two bits, g % 4 of byte 32 (g / 4) + i */
    VM_Q3_K = 11,   /* 256 in 110: h[32], q[64], sc[12], d; (d (sc_s - 32)) (q + 4 h - 4), q as Q2_K, h: bit g of byte i, sc: 6 bits, four
                     * in nibble s / 8 of byte s % 8 and two in pair s / 4 of byte 8 + s % 4 */
    VM_Q4_K = 12,   /* 256 in 144: d, m, sc[12], q[128]; (d sc_g) q - m mn_g, q: nibble g % 2 of byte 32 (g / 2) + i; sc and mn 6 bits: g < 4
                     * in bytes g and 4 + g, later ones in the nibbles of byte 4 + g, their upper two bits on top of bytes g - 4 and g */
    VM_Q5_K = 13,   /* 256 in 176: d, m, sc[12], h[32], q[128]; (d sc_g) (q + 16 h) - m mn_g, h: bit g of byte i, the rest as Q4_K */
    VM_Q6_K = 14,   /* 256 in 210: q[128], h[64], i8 sc[16], d; (d sc_s) (q + 16 h - 32), q: nibble g / 2 % 2 of byte 64 (g / 4) +
                     * 32 (g % 2) + i, h: two bits, g % 4 of byte 32 (g / 4) + i */
    VM_IQ4_NL = 20, /* 32 in 18: d, q[16]; d table[q], 16 values from -127 to 113 */
    VM_IQ4_XS = 23, /* 256 in 136: d, u16 h, l[4], q[128]; (d (sc_g - 32)) table[q], groups as IQ4_NL; sc: nibble g of l, pair g of h on top */
    VM_BF16 = 30,
    VM_MXFP4 = 39   /* 32 in 17: u8 e, q[16]; 2^(e - 127) times 0 .5 1 1.5 2 3 4 6, negative from q = 8 on; e 255, which OCP calls NaN, is
                     * 2^128 as in ggml: 0, +-2^127, infinity */
} vm_dtype;
#define VM_DTYPES "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4" /* all of them, for messages */

/* Elements and bytes of one block (1 and the element's size for plain types). False: unknown type. */
bool vm_dtype_block(uint32_t type, size_t *elements, size_t *bytes);
const char *vm_dtype_name(uint32_t type); /* "Q4_1"; "?" if unknown */

/* Bit-exact conversions, round to nearest even. */
float vm_f16_to_f32(uint16_t h);
uint16_t vm_f32_to_f16(float f);
static inline float vm_bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint16_t vm_f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

/* n elements (a multiple of the block) from `type` at src to f32 at dst, and back. The same bits on every machine; of what is no number only
 * that it is none. A scale that is no number, or infinity where q is 0, gives such values: who needs finite ones looks for them.
 * vm_dequantize: the types of vm_dtype, n 0 asks (false otherwise). vm_quantize: F32, F16, BF16, Q8_0, Q4_0 (as ggml's reference), Q4_K, Q6_K (a search
 * for the least squared error); false otherwise. Values beyond what the type's scales hold are not refused here: they come back infinite. */
bool vm_dequantize(uint32_t type, const void *src, size_t n, float *dst);
bool vm_quantize(uint32_t type, const float *src, size_t n, void *dst);

#endif
