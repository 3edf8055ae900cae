/* strip_amx.c: the f32 product of a strip on tiles of bf16. An f32 is the sum of three bf16, x = h + m + l, each the
 * rounded rest of the former: 8 bits a part, 24 in all. Of the nine products of the parts the six down to 2^-16 of the
 * largest are taken, h l' + h m' + h h' + m m' + m h' + l h', summed in f32: what is left out is below the rounding of
 * an f32 product.
 *
 * Packed weights: [blocks of 64 rows][steps of 32 along the depth][h, m, l][4 tiles][16 rows][16 pairs]. */
#include "base/memory.h"
#include "kernels/amx/tiles_amx.h"
#include "kernels/count.h"
#include "kernels/gemm.h"

#include <immintrin.h>

enum {
    TILE = 16,
    TILE_WORDS = TILE * TILE,
    TILE_BYTES = 64, /* of a row */
    DEPTH = 32,      /* of a step */
    BLOCK_TILES = VM_STRIP_ROWS / TILE,
    PARTS = 3,
    STEP_WORDS = PARTS * BLOCK_TILES * TILE_WORDS,
    PASS_STEPS = 16 /* of the strip's own numbers in parts: 48 KB */
};

/* Pairs (a, b), a in the low half, in their three parts, `step` words apart. Halves are rounded away from 0; the last
 * part is cut, and so keeps a NaN whatever its bits. */
static inline void split(__m512 a, __m512 b, uint32_t *out, size_t step) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u), half = _mm512_set1_epi32(0x8000);
    for (int part = 0; part < PARTS; part++, out += step) {
        __m512i ha = _mm512_castps_si512(a), hb = _mm512_castps_si512(b);
        if (part + 1 < PARTS) {
            ha = _mm512_and_si512(_mm512_add_epi32(ha, half), upper);
            hb = _mm512_and_si512(_mm512_add_epi32(hb, half), upper);
            a = _mm512_sub_ps(a, _mm512_castsi512_ps(ha));
            b = _mm512_sub_ps(b, _mm512_castsi512_ps(hb));
        }
        _mm512_store_si512(out, _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(ha, 16), hb));
    }
}

void vm_strip_pack_amx(const float *w, int m, int k, void *packed) {
    uint32_t *out = packed;
    for (int block = 0; block < m; block += VM_STRIP_ROWS) {
        for (int l = 0; l < k; l += DEPTH, out += STEP_WORDS) {
            for (int i = 0; i < VM_STRIP_ROWS; i++) {
                float even[TILE] = {0}, odd[TILE] = {0};
                for (int j = 0; j < DEPTH && block + i < m && l + j < k; j++)
                    (j % 2 ? odd : even)[j / 2] = w[(size_t)(block + i) * (size_t)k + (size_t)(l + j)];
                split(_mm512_loadu_ps(even), _mm512_loadu_ps(odd), out + i * TILE, BLOCK_TILES * TILE_WORDS);
            }
        }
    }
}

static void add_bias(const float *bias, float *y) {
    for (int i = 0; i < VM_STRIP_ROWS; i++, y += TILE)
        _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), _mm512_set1_ps(bias[i])));
}

/* Sums of all four tiles of weights at w with the part of the strip in tile 6 or 7: neighbours never wait for each
 * other. */
#define ADD_PART(w, x)                                    \
    do {                                                  \
        _tile_loadd(4, (w), TILE_BYTES);                  \
        _tile_dpbf16ps(0, 4, x);                          \
        _tile_loadd(5, (w) + TILE_WORDS, TILE_BYTES);     \
        _tile_dpbf16ps(1, 5, x);                          \
        _tile_loadd(4, (w) + 2 * TILE_WORDS, TILE_BYTES); \
        _tile_dpbf16ps(2, 4, x);                          \
        _tile_loadd(5, (w) + 3 * TILE_WORDS, TILE_BYTES); \
        _tile_dpbf16ps(3, 5, x);                          \
    } while (0)

/* Numbers of a strip, x[k][16], from row `first` on. */
typedef struct strip {
    const float *x;
    int first, k;
} strip;

static inline void split_step(const strip *s, int step, uint32_t *out) {
    int row = s->first + step * DEPTH;
    for (int pair = 0; pair < TILE; pair++, row += 2, out += TILE) {
        __m512 a = row < s->k ? _mm512_loadu_ps(s->x + (size_t)row * TILE) : _mm512_setzero_ps();
        __m512 b = row + 1 < s->k ? _mm512_loadu_ps(s->x + (size_t)(row + 1) * TILE) : _mm512_setzero_ps();
        split(a, b, out, TILE_WORDS);
    }
}

/* from: the strip is not in parts yet; a step is taken apart while the one before it is multiplied. Tiles: 0..3 sums, 4
 * and 5 weights, 6 and 7 parts of the strip. */
static inline __attribute__((always_inline)) void multiply_block(const uint32_t *w, int steps, uint32_t *x,
                                                                 const strip *from, bool first, float *y) {
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, y, TILE_BYTES);
        _tile_loadd(1, y + TILE_WORDS, TILE_BYTES);
        _tile_loadd(2, y + 2 * TILE_WORDS, TILE_BYTES);
        _tile_loadd(3, y + 3 * TILE_WORDS, TILE_BYTES);
    }
    if (from) split_step(from, 0, x);
    for (int s = 0; s < steps; s++, w += STEP_WORDS, x += PARTS * TILE_WORDS) {
        __asm__ volatile("" ::: "memory"); /* what tiles load must have been stored: the intrinsics do not say so */
        if (from && s + 1 < steps) split_step(from, s + 1, x + PARTS * TILE_WORDS);
        const uint32_t *wh = w, *wm = wh + BLOCK_TILES * TILE_WORDS, *wl = wm + BLOCK_TILES * TILE_WORDS;
        _tile_loadd(6, x + 2 * TILE_WORDS, TILE_BYTES);
        ADD_PART(wh, 6);
        _tile_loadd(7, x + TILE_WORDS, TILE_BYTES);
        ADD_PART(wh, 7);
        _tile_loadd(6, x, TILE_BYTES);
        ADD_PART(wh, 6);
        ADD_PART(wm, 7);
        ADD_PART(wm, 6);
        ADD_PART(wl, 6);
    }
    _tile_stored(0, y, TILE_BYTES);
    _tile_stored(1, y + TILE_WORDS, TILE_BYTES);
    _tile_stored(2, y + 2 * TILE_WORDS, TILE_BYTES);
    _tile_stored(3, y + 3 * TILE_WORDS, TILE_BYTES);
}

void vm_strip_product_amx(const void *packed, int m, int k, const float *bias, const float *x, float *y) {
    uint32_t parts[PASS_STEPS * PARTS * TILE_WORDS] __attribute__((aligned(64)));
    int all_steps = vm_ceil_div(k, DEPTH), blocks = vm_ceil_div(m, VM_STRIP_ROWS);
    vm_count((uint64_t)m * (uint64_t)k * VM_STRIP);
    _tile_loadconfig(&tile_config);
    for (int begin = 0; begin < all_steps; begin += PASS_STEPS) {
        int steps = all_steps - begin < PASS_STEPS ? all_steps - begin : PASS_STEPS;
        bool last = begin + steps == all_steps;
        strip from = {x, begin * DEPTH, k};
        const uint32_t *w = (const uint32_t *)packed + (size_t)begin * STEP_WORDS;
        for (int b = 0; b < blocks; b++, w += (size_t)all_steps * STEP_WORDS) {
            float *sums = y + (size_t)b * VM_STRIP_ROWS * TILE;
            if (b == 0)
                multiply_block(w, steps, parts, &from, begin == 0, sums);
            else
                multiply_block(w, steps, parts, NULL, begin == 0, sums);
            /* A block late: its sums are on their way to memory. */
            if (last && b > 0) add_bias(bias + (b - 1) * VM_STRIP_ROWS, y + (size_t)(b - 1) * VM_STRIP_ROWS * TILE);
        }
        __asm__ volatile("" ::: "memory");
    }
    if (blocks > 0) add_bias(bias + (blocks - 1) * VM_STRIP_ROWS, y + (size_t)(blocks - 1) * VM_STRIP_ROWS * TILE);
    _tile_release();
}
