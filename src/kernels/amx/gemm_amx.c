/* gemm_amx.c: bf16 products by TMUL: 32 x 32 sums in four tiles of 16 x 16, two tiles of A, two of B. */
#include "kernels/gemm.h"

#include <immintrin.h>
#include <string.h>

enum { SIDE = 32, TILE_BYTES = 64 };

/* Palette 1: eight tiles of 16 rows x 64 bytes. Static, since compilers do not see that ldtilecfg reads all of it. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config __attribute__((aligned(64))) = {
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* Sums of 32 (or 16, if one is true) rows and columns into c, which has room for them, rows ldc apart.
 * Tiles: 0..3 sums (row-major), 4 and 5 A, 6 and 7 B. */
#define SUMS(name, rows2, columns2)                                                                          \
    static void name(const vm_gemm_block *g, const uint32_t *a, const uint32_t *b, float *c, size_t ldc) {   \
        const uint32_t *a2 = a + 16 * g->a_stride, *b2 = b + g->panel_words;                                 \
        long stride = (long)(g->a_stride * sizeof *a);                                                       \
        _tile_zero(0);                                                                                       \
        if (columns2) _tile_zero(1);                                                                         \
        if (rows2) _tile_zero(2);                                                                            \
        if (rows2 && columns2) _tile_zero(3);                                                                \
        for (int w = 0; w < g->words; w += 16) {                                                             \
            _tile_loadd(6, b, TILE_BYTES);                                                                   \
            _tile_loadd(4, a, stride);                                                                       \
            _tile_dpbf16ps(0, 4, 6);                                                                         \
            if (columns2) {                                                                                  \
                _tile_loadd(7, b2, TILE_BYTES);                                                              \
                _tile_dpbf16ps(1, 4, 7);                                                                     \
            }                                                                                                \
            if (rows2) {                                                                                     \
                _tile_loadd(5, a2, stride);                                                                  \
                _tile_dpbf16ps(2, 5, 6);                                                                     \
                if (columns2) _tile_dpbf16ps(3, 5, 7);                                                       \
            }                                                                                                \
            a += 16, a2 += 16, b += 256, b2 += 256;                                                          \
        }                                                                                                    \
        long row = (long)(ldc * sizeof *c);                                                                  \
        _tile_stored(0, c, row);                                                                             \
        if (columns2) _tile_stored(1, c + 16, row);                                                          \
        if (rows2) _tile_stored(2, c + 16 * ldc, row);                                                       \
        if (rows2 && columns2) _tile_stored(3, c + 16 * ldc + 16, row);                                      \
    }
SUMS(sums_16_16, false, false)
SUMS(sums_16_32, false, true)
SUMS(sums_32_16, true, false)
SUMS(sums_32_32, true, true)

/* c[rows, columns] from side[.., SIDE]. */
static void store_part(const float *side, float *c, size_t ldc, int rows, int columns, bool accumulate) {
    __mmask16 low = columns >= 16 ? 0xffff : (__mmask16)((1u << columns) - 1);
    __mmask16 high = columns >= 32 ? 0xffff : columns <= 16 ? 0 : (__mmask16)((1u << (columns - 16)) - 1);
    for (int i = 0; i < rows; i++, side += SIDE, c += ldc) {
        __m512 x = _mm512_loadu_ps(side), y = _mm512_loadu_ps(side + 16);
        if (accumulate) {
            x = _mm512_add_ps(_mm512_maskz_loadu_ps(low, c), x);
            if (high) y = _mm512_add_ps(_mm512_maskz_loadu_ps(high, c + 16), y);
        }
        _mm512_mask_storeu_ps(c, low, x);
        if (high) _mm512_mask_storeu_ps(c + 16, high, y);
    }
}

void vm_gemm_bf16_amx(const vm_gemm_block *g) {
    __asm__ volatile("" ::: "memory"); /* what tiles load must have been stored: the intrinsics do not say so */
    _tile_loadconfig(&tile_config);
    float side[SIDE * SIDE] __attribute__((aligned(64)));
    memset(side, 0, sizeof side);
    for (int j = 0; j < g->n; j += SIDE) {
        const uint32_t *b = g->b + (size_t)(j / VM_GEMM_PANEL) * g->panel_words;
        int columns = g->n - j < SIDE ? g->n - j : SIDE;
        for (int i = 0; i < g->m; i += SIDE) {
            const uint32_t *a = g->a + (size_t)i * g->a_stride;
            int rows = g->m - i < SIDE ? g->m - i : SIDE;
            float *c = g->c + (size_t)i * g->ldc + j;
            bool direct = rows == SIDE && columns == SIDE && !g->accumulate;
            if (direct) sums_32_32(g, a, b, c, g->ldc);
            else if (rows > 16 && columns > 16) sums_32_32(g, a, b, side, SIDE);
            else if (rows > 16) sums_32_16(g, a, b, side, SIDE);
            else if (columns > 16) sums_16_32(g, a, b, side, SIDE);
            else sums_16_16(g, a, b, side, SIDE);
            if (!direct) store_part(side, c, g->ldc, rows, columns, g->accumulate);
        }
    }
    _tile_release();
}
