/* tile_avx512.h: the body of an AVX-512 product: register tiles of up to TILE_ROWS x 32 sums, one word of A broadcast
 * to 16 columns at a time. Include once in a file that defines TILE_ROWS (12 or 14) and static inline __m512
 * multiply_add(__m512 sum, __m512i a, __m512i b): sum + the products of one word of A and 16 of B. */
#include "kernels/unroll.h"

typedef struct tile {
    int words;
    const uint32_t *a; /* [rows][a_stride] */
    size_t a_stride;
    const uint32_t *b; /* [panels][panel_words] */
    size_t panel_words;
    const vm_gemm_block *g;
    int row, column; /* of the block, where the tile begins */
    __mmask16 last;  /* columns of the last panel */
} tile;

static inline __attribute__((always_inline)) void tile_multiply(const tile *t, const int rows, const int panels) {
    __m512 sum[TILE_ROWS][2];
    VM_UNROLL
    for (int i = 0; i < rows; i++) {
        VM_UNROLL
        for (int p = 0; p < panels; p++) sum[i][p] = _mm512_setzero_ps();
    }
    const uint32_t *a = t->a, *b = t->b;
    const size_t a_stride = t->a_stride, panel_words = t->panel_words;
    for (int w = 0; w < t->words; w++) {
        __m512i column[2];
        VM_UNROLL
        for (int p = 0; p < panels; p++) column[p] = _mm512_load_si512(b + (size_t)p * panel_words);
        VM_UNROLL
        for (int i = 0; i < rows; i++) {
            __m512i word = _mm512_set1_epi32((int)a[(size_t)i * a_stride]);
            VM_UNROLL
            for (int p = 0; p < panels; p++) sum[i][p] = multiply_add(sum[i][p], word, column[p]);
        }
        a++;
        b += VM_GEMM_PANEL;
    }
    const vm_gemm_block *g = t->g;
    VM_UNROLL
    for (int i = 0; i < rows; i++) {
        float *row = vm_gemm_row(g, t->row + i, t->column);
        VM_UNROLL
        for (int p = 0; p < panels; p++) {
            float *c = row + p * VM_GEMM_PANEL;
            __mmask16 mask = p == panels - 1 ? t->last : 0xffff;
            __m512 value = sum[i][p];
            if (g->scale) value = _mm512_mul_ps(_mm512_set1_ps(g->scale[t->row + i]), value);
            if (g->accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), value);
            _mm512_mask_storeu_ps(c, mask, value);
        }
    }
}

/* One function a tile height, so that every sum has its register. */
#define TILE(rows)                                                            \
    static void tile_##rows##_1(const tile *t) { tile_multiply(t, rows, 1); } \
    static void tile_##rows##_2(const tile *t) { tile_multiply(t, rows, 2); }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
TILE(7)
TILE(8)
TILE(9)
TILE(10)
TILE(11)
TILE(12)
#if TILE_ROWS == 14
TILE(13)
TILE(14)
#endif
#undef TILE

#define TILE(rows) \
    { tile_##rows##_1, tile_##rows##_2 }
static void (*const tiles[TILE_ROWS + 1][2])(const tile *t) = {{NULL, NULL}, TILE(1),  TILE(2),  TILE(3), TILE(4),
                                                               TILE(5),      TILE(6),  TILE(7),  TILE(8), TILE(9),
                                                               TILE(10),     TILE(11), TILE(12),
#if TILE_ROWS == 14
                                                               TILE(13),     TILE(14)
#endif
};
#undef TILE

static void multiply(const vm_gemm_block *g) {
    /* Strips of equal height: 16 rows are 8 + 8, not 14 + 2, whose sums would wait for each other. */
    int strips = (g->m + TILE_ROWS - 1) / TILE_ROWS;
    for (int j = 0; j < g->n; j += 2 * VM_GEMM_PANEL) {
        int columns = g->n - j, panels = columns > VM_GEMM_PANEL ? 2 : 1;
        int in_last = columns - (panels - 1) * VM_GEMM_PANEL;
        tile t = {.words = g->words,
                  .a_stride = g->a_stride,
                  .b = g->b + (size_t)(j / VM_GEMM_PANEL) * g->panel_words,
                  .panel_words = g->panel_words,
                  .g = g,
                  .column = j,
                  .last = in_last >= VM_GEMM_PANEL ? 0xffff : (__mmask16)((1u << in_last) - 1)};
        int i = 0;
        for (int s = 0; s < strips; s++) {
            int rows = (g->m - i + strips - s - 1) / (strips - s);
            t.a = g->a + (size_t)i * g->a_stride;
            t.row = i;
            tiles[rows][panels - 1](&t);
            i += rows;
        }
    }
}
