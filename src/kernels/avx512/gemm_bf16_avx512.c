/* gemm_bf16_avx512.c: bf16 products by vdpbf16ps, which adds both products of a word to an f32 sum (subnormals count as
 * 0). */
#include "kernels/gemm.h"

#include <immintrin.h>

#define TILE_ROWS 14

static inline __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

#include "kernels/avx512/tile_avx512.h"

void vm_gemm_bf16_avx512_bf16(const vm_gemm_block *block) { multiply(block); }
