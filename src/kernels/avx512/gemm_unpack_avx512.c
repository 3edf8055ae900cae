/* gemm_unpack_avx512.c: bf16 products on a CPU without vdpbf16ps: both halves of a word are widened to f32. */
#include "kernels/gemm.h"

#include <immintrin.h>

#define TILE_ROWS 12 /* leaves registers for the four widened halves of B */

static inline __m512 low_half(__m512i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }

static inline __m512 high_half(__m512i words) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)));
}

static inline __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(high_half(a), high_half(b), _mm512_fmadd_ps(low_half(a), low_half(b), sum));
}

#include "kernels/avx512/tile_avx512.h"

void vm_gemm_bf16_avx512(const vm_gemm_block *block) { multiply(block); }
