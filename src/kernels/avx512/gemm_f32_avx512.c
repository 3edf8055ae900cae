/* gemm_f32_avx512.c: f32 products by FMA. */
#include "kernels/gemm.h"

#include <immintrin.h>

#define TILE_ROWS 14

static inline __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

#include "kernels/avx512/tile_avx512.h"

void vm_gemm_f32_avx512(const vm_gemm_block *block) { multiply(block); }
