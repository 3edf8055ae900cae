/* peak_bf16_avx512.c: the peak of vdpbf16ps, 32 multiply-adds an instruction. */
#include "kernels/peak.h"

#include <immintrin.h>

typedef __m512 vec;
static inline vec vec_set(float f) { return _mm512_set1_ps(f); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline float vec_first(vec v) { return _mm512_cvtss_f32(v); }
static inline vec multiply_add(vec sum, const void *data) {
    const char *x = data;
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_load_si512(x), (__m512bh)_mm512_load_si512(x + 64));
}

#include "kernels/peak_loop.h"

const vm_peak_kernel vm_peak_avx512_bf16 = {run, SUMS * 64.0};
