/* peak_bf16_avx512.c: the peak of vdpbf16ps, 32 multiply-adds an instruction. */
#include "kernels/peak.h"
#include "kernels/unroll.h"

#include <immintrin.h>

enum { SUMS = 12 };

static float run(const void *data, int steps) {
    __m512 sum[SUMS];
    __m512i x = _mm512_load_si512(data), y = _mm512_load_si512((const char *)data + 64);
    VM_UNROLL
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_ps((float)i);
    for (int s = 0; s < steps; s++) {
        VM_UNROLL
        for (int i = 0; i < SUMS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)x, (__m512bh)y);
    }
    VM_UNROLL
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}

const vm_peak_kernel vm_peak_avx512_bf16 = {run, SUMS * 64.0};
