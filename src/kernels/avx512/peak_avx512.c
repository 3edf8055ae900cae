/* peak_avx512.c: the peak of f32 multiply-adds, 16 a instruction. */
#include "kernels/peak.h"
#include "kernels/unroll.h"

#include <immintrin.h>

enum { SUMS = 12 };

static float run(const void *data, int steps) {
    __m512 sum[SUMS], x = _mm512_load_ps(data), y = _mm512_load_ps((const float *)data + 16);
    VM_UNROLL
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_ps((float)i);
    for (int s = 0; s < steps; s++) {
        VM_UNROLL
        for (int i = 0; i < SUMS; i++) sum[i] = _mm512_fmadd_ps(x, y, sum[i]);
    }
    VM_UNROLL
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}

const vm_peak_kernel vm_peak_avx512 = {run, SUMS * 32.0};
