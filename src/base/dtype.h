/* dtype.h: element types of stored tensors. Values are GGUF's type ids. */
#ifndef VM_BASE_DTYPE_H
#define VM_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum vm_dtype {
    VM_F32 = 0,
    VM_F16 = 1,
    VM_Q4_0 = 2,
    VM_Q4_1 = 3,
    VM_Q8_0 = 8,
    VM_BF16 = 30
} vm_dtype;

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

/* n elements (a multiple of the block) from `type` at src to f32 at dst, and back. The same bits on every machine.
 * vm_quantize: F32, F16, BF16, Q8_0 only (false otherwise). */
bool vm_dequantize(uint32_t type, const void *src, size_t n, float *dst);
bool vm_quantize(uint32_t type, const float *src, size_t n, void *dst);

#endif
