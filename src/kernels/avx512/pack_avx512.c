/* pack_avx512.c: rows, and blocks of 16 x 16 words, by whole vectors. The bits are those of ref/gemm_ref.c. */
#include "kernels/gemm.h"

#include "kernels/unroll.h"
#include <immintrin.h>

/* The upper halves of the result are x rounded to bf16, as vm_f32_to_bf16 does; the lower halves are not cleared. */
static inline __m512i round_bf16(__m512 x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}

/* 32 bf16 of two vectors that follow each other. */
static inline __m512i narrow(__m512 a, __m512 b) {
    const __m512i upper_halves = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31,
                                                  29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(round_bf16(a), upper_halves, round_bf16(b));
}

static inline __mmask16 first(int n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* v[i] lane j <-> v[j] lane i. */
static inline void transpose(__m512i v[16]) {
    __m512i t[16];
    VM_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    VM_UNROLL
    for (int i = 0; i < 16; i += 4) { /* v[i + c]: column c of each 4 x 4 block of rows i .. i + 3 */
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    VM_UNROLL
    for (int c = 0; c < 4; c++) {
        t[c] = _mm512_shuffle_i32x4(v[c], v[c + 4], 0x88);     /* blocks 0 and 2 of the columns, rows 0 .. 7 */
        t[c + 4] = _mm512_shuffle_i32x4(v[c], v[c + 4], 0xdd); /* blocks 1 and 3 */
        t[c + 8] = _mm512_shuffle_i32x4(v[c + 8], v[c + 12], 0x88);
        t[c + 12] = _mm512_shuffle_i32x4(v[c + 8], v[c + 12], 0xdd);
    }
    VM_UNROLL
    for (int c = 0; c < 4; c++) {
        v[c] = _mm512_shuffle_i32x4(t[c], t[c + 8], 0x88);
        v[c + 8] = _mm512_shuffle_i32x4(t[c], t[c + 8], 0xdd);
        v[c + 4] = _mm512_shuffle_i32x4(t[c + 4], t[c + 12], 0x88);
        v[c + 12] = _mm512_shuffle_i32x4(t[c + 4], t[c + 12], 0xdd);
    }
}

static inline __m512 load(const vm_pack_block *p, int line, int x, __mmask16 mask) {
    if (line >= p->lines) return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps(mask, p->line[line] + p->offset + x);
}

static inline void load_words(const vm_pack_block *p, __m512i v[16]) {
    __mmask16 low = first(p->valid), high = first(p->valid - 16);
    if (p->type == VM_COMPUTE_F32) {
        VM_UNROLL
        for (int i = 0; i < 16; i++) v[i] = _mm512_castps_si512(load(p, i, 0, low));
    } else if (p->along_k) {
        VM_UNROLL
        for (int i = 0; i < 16; i++) v[i] = narrow(load(p, i, 0, low), load(p, i, 16, high));
    } else {
        VM_UNROLL
        for (int i = 0; i < 16; i++) {
            __m512i a = round_bf16(load(p, 2 * i, 0, low)), b = round_bf16(load(p, 2 * i + 1, 0, low));
            v[i] = _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(a, 16), b);
        }
    }
}

void vm_gemm_pack_avx512(const vm_pack_block *p) {
    __m512i v[16];
    load_words(p, v);
    if (p->along_k == p->by_word) transpose(v);
    if (p->rows == 16) { /* a known count keeps v in registers */
        VM_UNROLL
        for (int r = 0; r < 16; r++) _mm512_storeu_si512(p->dst + (size_t)r * p->dst_stride, v[r]);
    } else {
        for (int r = 0; r < p->rows; r++) _mm512_storeu_si512(p->dst + (size_t)r * p->dst_stride, v[r]);
    }
}

void vm_gemm_pack_row_avx512(vm_compute type, const float *x, int n, uint32_t *dst, size_t step, const float *next) {
    int depth = type == VM_COMPUTE_BF16 ? 32 : 16, l = 0;
    for (; l + depth <= n; l += depth, dst += step) {
        if (next) { /* rows may be gathered from anywhere: the hardware cannot guess the next one */
            _mm_prefetch((const char *)(next + l), _MM_HINT_T0);
            if (depth == 32) _mm_prefetch((const char *)(next + l + 16), _MM_HINT_T0);
        }
        __m512 a = _mm512_loadu_ps(x + l);
        _mm512_store_si512(dst, depth == 32 ? narrow(a, _mm512_loadu_ps(x + l + 16)) : _mm512_castps_si512(a));
    }
    if (l == n) return;
    __m512 a = _mm512_maskz_loadu_ps(first(n - l), x + l);
    _mm512_store_si512(dst, depth == 32 ? narrow(a, _mm512_maskz_loadu_ps(first(n - l - 16), x + l + 16))
                                        : _mm512_castps_si512(a));
}
