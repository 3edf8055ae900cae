/* kernels_avx512.c: the row kernels on 16 lanes, and the tables of the CPUs that have AVX-512. */
#include "kernels/gemm.h"
#include "kernels/unroll.h"

#include <immintrin.h>
#include <math.h>

typedef __m512 vec;
enum { LANES = 16 };

static inline __mmask16 lanes(int n) { return (__mmask16)((1u << n) - 1); }
static inline vec vec_set(float f) { return _mm512_set1_ps(f); }
static inline vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vec vec_load_part(const float *p, int n, float fill) {
    return _mm512_mask_loadu_ps(vec_set(fill), lanes(n), p);
}
static inline void vec_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
static inline void vec_store_part(float *p, vec v, int n) { _mm512_mask_storeu_ps(p, lanes(n), v); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec vec_scale(vec v, vec n) { return _mm512_scalef_ps(v, n); }
static inline vec vec_round(vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vec vec_clamp(vec v, float low, float high) {
    return _mm512_max_ps(vec_set(low), _mm512_min_ps(vec_set(high), v));
}
static inline vec vec_equal_zero(vec v, vec x, vec y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_NEQ_UQ), v);
}
static inline vec vec_above(vec v, vec x, vec y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ), v);
}
static inline vec vec_sqrt(vec v) { return _mm512_sqrt_ps(v); }

/* Halves are folded onto each other down to one lane. */
static inline float vec_sum(vec v) {
    v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
    v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    __m128 w = _mm512_castps512_ps128(v);
    w = _mm_add_ps(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(_mm_add_ss(w, _mm_shuffle_ps(w, w, 1)));
}

static inline float vec_maximum(vec v) {
    v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
    v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    __m128 w = _mm512_castps512_ps128(v);
    w = _mm_max_ps(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(_mm_max_ss(w, _mm_shuffle_ps(w, w, 1)));
}

#include "kernels/elementwise.inc"
#include "kernels/strips.inc"

#define PACKING .pack = vm_gemm_pack_avx512, .pack_row = vm_gemm_pack_row_avx512
static const vm_gemm_kernels gemm = {.rows = {14, 12}, PACKING, .multiply = {vm_gemm_f32_avx512, vm_gemm_bf16_avx512}};
static const vm_gemm_kernels gemm_bf16 = {
    .rows = {14, 14}, PACKING, .multiply = {vm_gemm_f32_avx512, vm_gemm_bf16_avx512_bf16}};
static const vm_gemm_kernels gemm_amx = {
    .a_tiles = {false, true}, .rows = {14, 32}, PACKING, .multiply = {vm_gemm_f32_avx512, vm_gemm_bf16_amx}};

const vm_kernels vm_kernels_avx512 = {.name = "avx512", .gemm = &gemm, ELEMENTWISE_TABLE, STRIP_TABLE};
const vm_kernels vm_kernels_avx512_bf16 = {.name = "avx512", .gemm = &gemm_bf16, ELEMENTWISE_TABLE, STRIP_TABLE};
const vm_kernels vm_kernels_amx = {.name = "amx",
                                   .gemm = &gemm_amx,
                                   ELEMENTWISE_TABLE,
                                   .strip_pack = vm_strip_pack_amx,
                                   .strip_product = vm_strip_product_amx,
                                   STRIP_GAUSSIANS};
