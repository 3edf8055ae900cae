/* peak_avx512.c: the peak of f32 multiply-adds, 16 a instruction. */
#include "kernels/peak.h"

#include <immintrin.h>

typedef __m512 vec;
static inline vec vec_set(float f) { return _mm512_set1_ps(f); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline float vec_first(vec v) { return _mm512_cvtss_f32(v); }
static inline vec multiply_add(vec sum, const void *data) {
    const float *x = data;
    return _mm512_fmadd_ps(_mm512_load_ps(x), _mm512_load_ps(x + 16), sum);
}

#include "kernels/peak_loop.h"

const vm_peak_kernel vm_peak_avx512 = {run, SUMS * 32.0};
