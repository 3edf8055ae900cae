/* gemm_amx.c: bf16 products by TMUL: 32 x 32 sums in four tiles of 16 x 16, two tiles of A, two of B.
 *
 * Sums leave the tiles for a small buffer in the first-level cache; from there vector stores carry them to C between
 * the steps of the next 32 x 32 sums, where they cost nothing. Storing tiles into C straight would stall on every cache
 * miss. The same steps fetch the next panels into the second-level cache. A depth whose two panels exceed the
 * first-level cache is gone through in passes; sums wait in f32 between them, so the passes do not show in the result.
 */
#include "kernels/amx/tiles_amx.h"
#include "kernels/gemm.h"

#include <immintrin.h>

enum {
    TILE = 16,
    SIDE = 2 * TILE,
    TILE_WORDS = TILE * TILE,
    TILE_BYTES = 64, /* of a row */
    STRIPS = VM_GEMM_BLOCK_ROWS / SIDE,
    PASS_STEPS = 20, /* 2 KB of B a step: 40 of the 48 KB of first-level cache */
    LINE_WORDS = 16,
    MAX_FETCH = 8 /* lines a step; more gained nothing */
};

/* What is done beside the products. */
typedef struct aside {
    /* Sums on their way to C */
    const vm_gemm_block *g;
    const float *side; /* [rows][SIDE] */
    int row, end;      /* of the block: the next one, and where they end */
    int column;
    __mmask16 low, high; /* columns */
    int rows_per_step;
    /* Panels on their way to the cache */
    const uint32_t *fetch, *fetch_end;
    int fetch_per_step; /* lines */
} aside;

/* The next `count` rows, fewer at the end. What the loop needs is in locals: C's stores might alias *s. */
static inline void carry(aside *s, int count) {
    const int end = s->end - s->row < count ? s->end : s->row + count;
    const size_t ldc = s->g->ldc;
    const int32_t *index = s->g->c_index;
    const float *scale = s->g->scale, *side = s->side;
    const bool accumulate = s->g->accumulate;
    const __mmask16 low = s->low, high = s->high;
    float *base = s->g->c + s->column;
    for (int row = s->row; row < end; row++, side += SIDE) {
        float *c = base + (size_t)(index ? index[row] : row) * ldc;
        __m512 x = _mm512_load_ps(side), y = _mm512_maskz_load_ps(high, side + TILE);
        if (scale) {
            __m512 factor = _mm512_set1_ps(scale[row]);
            x = _mm512_mul_ps(factor, x);
            y = _mm512_mul_ps(factor, y);
        }
        if (accumulate) {
            x = _mm512_add_ps(_mm512_maskz_loadu_ps(low, c), x);
            y = _mm512_add_ps(_mm512_maskz_loadu_ps(high, c + TILE), y);
        }
        _mm512_mask_storeu_ps(c, low, x);
        _mm512_mask_storeu_ps(c + TILE, high, y);
    }
    s->row = end;
    s->side = side;
}

static inline void step_aside(aside *s) {
    carry(s, s->rows_per_step);
    for (int i = 0; i < s->fetch_per_step && s->fetch < s->fetch_end; i++, s->fetch += LINE_WORDS)
        _mm_prefetch((const char *)s->fetch, _MM_HINT_T1);
}

/* The products of `steps` pairs of tiles along k added to the sums of 32 (or 16, if one is false) rows and columns in
 * side; first: there are none yet. a and b: the first tiles of two strips; A's rows and its tiles along k lie as the
 * block says. B is read again for every strip of A and stays in the first-level cache; A passes by it, hence the
 * streaming load. Tiles: 0..3 sums (row-major), 4 and 5 A, 6 and 7 B. */
#define SUMS(name, rows2, columns2)                                                                                    \
    static void name(const vm_gemm_block *g, const uint32_t *a, const uint32_t *b, int steps, bool first, float *side, \
                     aside *s) {                                                                                       \
        const uint32_t *a2 = a + TILE * g->a_stride, *b2 = b + g->panel_words;                                         \
        const long a_row = g->a_tiles ? TILE_BYTES : (long)(g->a_stride * sizeof *a),                                  \
                   a_step = g->a_tiles ? TILE_WORDS : TILE;                                                            \
        const long row = SIDE * sizeof(float);                                                                         \
        if (first) {                                                                                                   \
            _tile_zero(0);                                                                                             \
            if (columns2) _tile_zero(1);                                                                               \
            if (rows2) _tile_zero(2);                                                                                  \
            if (rows2 && columns2) _tile_zero(3);                                                                      \
        } else {                                                                                                       \
            _tile_loadd(0, side, row);                                                                                 \
            if (columns2) _tile_loadd(1, side + TILE, row);                                                            \
            if (rows2) _tile_loadd(2, side + TILE * SIDE, row);                                                        \
            if (rows2 && columns2) _tile_loadd(3, side + TILE * SIDE + TILE, row);                                     \
        }                                                                                                              \
        for (int i = 0; i < steps; i++) {                                                                              \
            _tile_loadd(6, b, TILE_BYTES);                                                                             \
            _tile_stream_loadd(4, a, a_row);                                                                           \
            _tile_dpbf16ps(0, 4, 6);                                                                                   \
            if (columns2) {                                                                                            \
                _tile_loadd(7, b2, TILE_BYTES);                                                                        \
                _tile_dpbf16ps(1, 4, 7);                                                                               \
            }                                                                                                          \
            if (rows2) {                                                                                               \
                _tile_stream_loadd(5, a2, a_row);                                                                      \
                _tile_dpbf16ps(2, 5, 6);                                                                               \
                if (columns2) _tile_dpbf16ps(3, 5, 7);                                                                 \
            }                                                                                                          \
            step_aside(s);                                                                                             \
            a += a_step, a2 += a_step, b += TILE_WORDS, b2 += TILE_WORDS;                                              \
        }                                                                                                              \
        _tile_stored(0, side, row);                                                                                    \
        if (columns2) _tile_stored(1, side + TILE, row);                                                               \
        if (rows2) _tile_stored(2, side + TILE * SIDE, row);                                                           \
        if (rows2 && columns2) _tile_stored(3, side + TILE * SIDE + TILE, row);                                        \
    }
SUMS(sums_16_16, false, false)
SUMS(sums_16_32, false, true)
SUMS(sums_32_16, true, false)
SUMS(sums_32_32, true, true)

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

static __mmask16 first(int n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

void vm_gemm_bf16_amx(const vm_gemm_block *g) {
    __asm__ volatile("" ::: "memory"); /* what tiles load must have been stored: the intrinsics do not say so */
    _tile_loadconfig(&tile_config);
    float sides[STRIPS][SIDE * SIDE] __attribute__((aligned(64)));
    int strips = ceil_div(g->m, SIDE), panels = ceil_div(g->n, TILE), all_steps = g->words / TILE;
    int passes = all_steps > 0 ? ceil_div(all_steps, PASS_STEPS) : 1, pass_steps = ceil_div(all_steps, passes);
    const uint32_t *end = g->b + (size_t)panels * g->panel_words;
    aside s = {.g = g, .rows_per_step = pass_steps > 0 ? ceil_div(SIDE, pass_steps) : 0};
    int fetch = all_steps > 0 ? ceil_div((int)(2 * g->panel_words / LINE_WORDS), strips * all_steps) : 0;
    s.fetch_per_step = fetch < MAX_FETCH ? fetch : MAX_FETCH;
    int turn = 0;
    for (int j = 0; j < g->n; j += SIDE) {
        const uint32_t *b = g->b + (size_t)(j / TILE) * g->panel_words;
        int columns = g->n - j < SIDE ? g->n - j : SIDE;
        s.fetch = b + 2 * g->panel_words;
        s.fetch_end = s.fetch < end ? s.fetch + 2 * g->panel_words : s.fetch;
        for (int pass = 0; pass < passes; pass++) {
            int step = pass * pass_steps, steps = all_steps - step < pass_steps ? all_steps - step : pass_steps;
            for (int strip = 0; strip < strips; strip++) {
                int i = strip * SIDE, rows = g->m - i < SIDE ? g->m - i : SIDE;
                const uint32_t *a_step =
                    g->a + (size_t)i * g->a_stride + (size_t)step * (g->a_tiles ? TILE_WORDS : TILE);
                const uint32_t *b_step = b + (size_t)step * TILE_WORDS;
                /* A side is written at the end of a pass, when the one before it has gone to C. With one pass two take
                 * turns. */
                float *side = sides[passes > 1 ? strip : turn];
                turn = !turn;
                if (rows > TILE && columns > TILE)
                    sums_32_32(g, a_step, b_step, steps, pass == 0, side, &s);
                else if (rows > TILE)
                    sums_32_16(g, a_step, b_step, steps, pass == 0, side, &s);
                else if (columns > TILE)
                    sums_16_32(g, a_step, b_step, steps, pass == 0, side, &s);
                else
                    sums_16_16(g, a_step, b_step, steps, pass == 0, side, &s);
                if (pass < passes - 1) continue;
                carry(&s, SIDE);
                s.side = side;
                s.row = i;
                s.end = i + rows;
                s.column = j;
                s.low = first(columns);
                s.high = first(columns - TILE);
            }
        }
    }
    carry(&s, SIDE);
    _tile_release();
}
