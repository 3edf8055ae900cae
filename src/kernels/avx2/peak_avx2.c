/* peak_avx2.c: the peak of f32 multiply-adds, 8 a instruction. */
#include "kernels/peak.h"
#include "kernels/unroll.h"

#include <immintrin.h>

enum { SUMS = 12 };

static float run(const void *data, int steps) {
    __m256 sum[SUMS], x = _mm256_load_ps(data), y = _mm256_load_ps((const float *)data + 8);
    VM_UNROLL
    for (int i = 0; i < SUMS; i++) sum[i] = _mm256_set1_ps((float)i);
    for (int s = 0; s < steps; s++) {
        VM_UNROLL
        for (int i = 0; i < SUMS; i++) sum[i] = _mm256_fmadd_ps(x, y, sum[i]);
    }
    VM_UNROLL
    for (int i = 1; i < SUMS; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    return _mm256_cvtss_f32(sum[0]);
}

const vm_peak_kernel vm_peak_avx2 = {run, SUMS * 16.0};
