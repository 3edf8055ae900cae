/* peak_avx2.c: the peak of f32 multiply-adds, 8 a instruction. */
#include "kernels/peak.h"

#include <immintrin.h>

typedef __m256 vec;
static inline vec vec_set(float f) { return _mm256_set1_ps(f); }
static inline vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline float vec_first(vec v) { return _mm256_cvtss_f32(v); }
static inline vec multiply_add(vec sum, const void *data) {
    const float *x = data;
    return _mm256_fmadd_ps(_mm256_load_ps(x), _mm256_load_ps(x + 8), sum);
}

#include "kernels/peak_loop.h"

const vm_peak_kernel vm_peak_avx2 = {run, SUMS * 16.0};
