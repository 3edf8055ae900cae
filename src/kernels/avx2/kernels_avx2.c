/* kernels_avx2.c: the row kernels on 8 lanes, and the table of the CPUs that have AVX2 and FMA. */
#include "kernels/gemm.h"
#include "kernels/unroll.h"

#include <immintrin.h>
#include <math.h>

typedef __m256 vec;
enum { LANES = 8 };

/* Mask whose first n of 8 lanes are set. */
static inline __m256i lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_set(float f) { return _mm256_set1_ps(f); }
static inline vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
static inline vec vec_load_part(const float *p, int n, float fill) {
    __m256i mask = lanes(n);
    return _mm256_blendv_ps(vec_set(fill), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}
static inline void vec_store(float *p, vec v) { _mm256_storeu_ps(p, v); }
static inline void vec_store_part(float *p, vec v, int n) { _mm256_maskstore_ps(p, lanes(n), v); }
static inline vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec vec_round(vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vec vec_clamp(vec v, float low, float high) {
    return _mm256_max_ps(vec_set(low), _mm256_min_ps(vec_set(high), v));
}
static inline vec vec_equal_zero(vec v, vec x, vec y) { return _mm256_and_ps(v, _mm256_cmp_ps(x, y, _CMP_NEQ_UQ)); }

static inline vec vec_above(vec v, vec x, vec y) { return _mm256_and_ps(v, _mm256_cmp_ps(x, y, _CMP_GT_OQ)); }
static inline vec vec_sqrt(vec v) { return _mm256_sqrt_ps(v); }

static inline vec power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* By two factors, so that n from -150 to 128 reaches subnormals and infinity. */
static inline vec vec_scale(vec v, vec n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return vec_mul(vec_mul(v, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}

/* Halves are folded onto each other down to one lane. */
static inline float vec_sum(vec v) {
    __m128 w = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    w = _mm_add_ps(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(_mm_add_ss(w, _mm_shuffle_ps(w, w, 1)));
}

static inline float vec_maximum(vec v) {
    __m128 w = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    w = _mm_max_ps(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(_mm_max_ss(w, _mm_shuffle_ps(w, w, 1)));
}

#include "kernels/elementwise.inc"
#include "kernels/strips.inc"

const vm_kernels vm_kernels_avx2 = {.name = "avx2", .gemm = &vm_gemm_avx2, ELEMENTWISE_TABLE, STRIP_TABLE};
