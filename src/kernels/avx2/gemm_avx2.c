/* gemm_avx2.c: products on 8 lanes by FMA, in register tiles of 6 x 16 sums; bf16 words are widened to f32. */
#include "kernels/gemm.h"

#include "kernels/unroll.h"
#include <immintrin.h>

enum { TILE_ROWS = 6 };

/* ---- packing: as in ref/gemm_ref.c to the bit, on 8 x 8 words at a time ---- */

/* The upper halves of the result are x rounded to bf16, as vm_f32_to_bf16 does; the lower halves are not cleared. */
static inline __m256i round_bf16(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
}

/* x[0 .. 7], 0 from n on. */
static inline __m256 load_some(const float *x, int n) {
    if (n >= 8) return _mm256_loadu_ps(x);
    return _mm256_maskload_ps(x, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}

/* Elements x .. x + 7 of a line, 0 outside. */
static inline __m256 load(const vm_pack_block *p, int line, int x) {
    int n = line < p->lines ? p->valid - x : 0;
    return n <= 0 ? _mm256_setzero_ps() : load_some(p->line[line] + p->offset + x, n);
}

/* Words of two rounded vectors: the first in the low half. */
static inline __m256i pair_words(__m256i low, __m256i high) {
    return _mm256_blend_epi16(_mm256_srli_epi32(low, 16), high, 0xaa);
}

/* 16 bf16 of two vectors that follow each other: neighbours make a word, so part them into even and odd first. */
static inline __m256i narrow(__m256 a, __m256 b) {
    __m256 even = _mm256_shuffle_ps(a, b, 0x88), odd = _mm256_shuffle_ps(a, b, 0xdd);
    return _mm256_permute4x64_epi64(pair_words(round_bf16(even), round_bf16(odd)),
                                    0xd8); /* shuffles work inside halves */
}

/* v[i]: eight words x .. x + 7 of the lines (or pairs of lines) line + i. */
static inline void load_words(const vm_pack_block *p, int line, int x, __m256i v[8]) {
    for (int i = 0; i < 8; i++) {
        if (p->type == VM_COMPUTE_F32)
            v[i] = _mm256_castps_si256(load(p, line + i, x));
        else if (p->along_k)
            v[i] = narrow(load(p, line + i, 2 * x), load(p, line + i, 2 * x + 8));
        else
            v[i] = pair_words(round_bf16(load(p, 2 * (line + i), x)), round_bf16(load(p, 2 * (line + i) + 1, x)));
    }
}

/* v[i] lane j <-> v[j] lane i. */
static inline void transpose(__m256i v[8]) {
    __m256i t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int c = 0; c < 4; c++) {
        t[c] = _mm256_permute2x128_si256(v[c], v[c + 4], 0x20);
        t[c + 4] = _mm256_permute2x128_si256(v[c], v[c + 4], 0x31);
    }
    for (int c = 0; c < 8; c++) v[c] = t[c];
}

static void pack(const vm_pack_block *p) {
    bool turn = p->along_k == p->by_word;
    for (int line = 0; line < 16; line += 8) {
        for (int x = 0; x < 16; x += 8) {
            __m256i v[8];
            load_words(p, line, x, v);
            if (turn) transpose(v);
            int row = turn ? x : line, column = turn ? line : x;
            for (int r = 0; r < 8 && row + r < p->rows; r++)
                _mm256_storeu_si256((__m256i *)(p->dst + (size_t)(row + r) * p->dst_stride + column), v[r]);
        }
    }
}

static void pack_row(vm_compute type, const float *x, int n, uint32_t *dst, size_t step, const float *next) {
    int depth = type == VM_COMPUTE_BF16 ? 32 : 16;
    for (int l = 0; l < n; l += depth, dst += step) {
        if (next) {
            _mm_prefetch((const char *)(next + l), _MM_HINT_T0);
            if (depth == 32 && l + 16 < n) _mm_prefetch((const char *)(next + l + 16), _MM_HINT_T0);
        }
        for (int half = 0; half < 2; half++) {
            int at = l + half * depth / 2, left = n - at;
            __m256i words;
            if (left <= 0)
                words = _mm256_setzero_si256();
            else if (type == VM_COMPUTE_F32)
                words = _mm256_castps_si256(load_some(x + at, left));
            else
                words =
                    narrow(load_some(x + at, left), left > 8 ? load_some(x + at + 8, left - 8) : _mm256_setzero_ps());
            _mm256_store_si256((__m256i *)(dst + half * 8), words);
        }
    }
}

/* ---- products ---- */

typedef struct tile {
    int words;
    const uint32_t *a; /* [rows][a_stride] */
    size_t a_stride;
    const uint32_t *b; /* [words][16] */
    const vm_gemm_block *g;
    int row, column; /* of the block, where the tile begins */
    int columns;     /* 1..16 */
} tile;

static inline __m256 low_half(__m256i words) { return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)); }

static inline __m256 high_half(__m256i words) {
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000u)));
}

static inline __attribute__((always_inline)) void tile_multiply(const tile *t, const int rows, const vm_compute type) {
    __m256 sum[TILE_ROWS][2];
    VM_UNROLL
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = _mm256_setzero_ps();
    const uint32_t *a = t->a, *b = t->b;
    const size_t a_stride = t->a_stride;
    for (int w = 0; w < t->words; w++) {
        __m256i b0 = _mm256_load_si256((const __m256i *)b), b1 = _mm256_load_si256((const __m256i *)(b + 8));
        VM_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256i word = _mm256_set1_epi32((int)a[(size_t)i * a_stride]);
            if (type == VM_COMPUTE_F32) {
                sum[i][0] = _mm256_fmadd_ps(_mm256_castsi256_ps(word), _mm256_castsi256_ps(b0), sum[i][0]);
                sum[i][1] = _mm256_fmadd_ps(_mm256_castsi256_ps(word), _mm256_castsi256_ps(b1), sum[i][1]);
            } else {
                sum[i][0] = _mm256_fmadd_ps(low_half(word), low_half(b0), sum[i][0]);
                sum[i][1] = _mm256_fmadd_ps(low_half(word), low_half(b1), sum[i][1]);
                sum[i][0] = _mm256_fmadd_ps(high_half(word), high_half(b0), sum[i][0]);
                sum[i][1] = _mm256_fmadd_ps(high_half(word), high_half(b1), sum[i][1]);
            }
        }
        a++;
        b += VM_GEMM_PANEL;
    }
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const vm_gemm_block *g = t->g;
    VM_UNROLL
    for (int i = 0; i < rows; i++) {
        float *row = vm_gemm_row(g, t->row + i, t->column);
        VM_UNROLL
        for (int h = 0; h < 2; h++) {
            float *c = row + 8 * h;
            __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(t->columns - 8 * h), lane);
            __m256 value = sum[i][h];
            if (g->scale) value = _mm256_mul_ps(_mm256_set1_ps(g->scale[t->row + i]), value);
            if (g->accumulate) value = _mm256_add_ps(_mm256_maskload_ps(c, mask), value);
            _mm256_maskstore_ps(c, mask, value);
        }
    }
}

/* One function a tile height, so that every sum has its register. */
#define TILE(rows)                                                                         \
    static void tile_f32_##rows(const tile *t) { tile_multiply(t, rows, VM_COMPUTE_F32); } \
    static void tile_bf16_##rows(const tile *t) { tile_multiply(t, rows, VM_COMPUTE_BF16); }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
#undef TILE

typedef void (*tile_fn)(const tile *t);
static const tile_fn tiles_f32[TILE_ROWS + 1] = {NULL,       tile_f32_1, tile_f32_2, tile_f32_3,
                                                 tile_f32_4, tile_f32_5, tile_f32_6};
static const tile_fn tiles_bf16[TILE_ROWS + 1] = {NULL,        tile_bf16_1, tile_bf16_2, tile_bf16_3,
                                                  tile_bf16_4, tile_bf16_5, tile_bf16_6};

static void multiply(const vm_gemm_block *g, const tile_fn *tiles) {
    for (int j = 0; j < g->n; j += VM_GEMM_PANEL) {
        tile t = {.words = g->words,
                  .a_stride = g->a_stride,
                  .b = g->b + (size_t)(j / VM_GEMM_PANEL) * g->panel_words,
                  .g = g,
                  .column = j,
                  .columns = g->n - j < VM_GEMM_PANEL ? g->n - j : VM_GEMM_PANEL};
        for (int i = 0; i < g->m; i += TILE_ROWS) {
            t.a = g->a + (size_t)i * g->a_stride;
            t.row = i;
            tiles[g->m - i < TILE_ROWS ? g->m - i : TILE_ROWS](&t);
        }
    }
}

static void multiply_f32(const vm_gemm_block *g) { multiply(g, tiles_f32); }
static void multiply_bf16(const vm_gemm_block *g) { multiply(g, tiles_bf16); }

const vm_gemm_kernels vm_gemm_avx2 = {
    .rows = {TILE_ROWS, TILE_ROWS}, .pack = pack, .pack_row = pack_row, .multiply = {multiply_f32, multiply_bf16}};
