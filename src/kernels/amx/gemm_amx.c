/* gemm_amx.c: bf16 products by TMUL: 32 x 32 sums in four tiles of 16 x 16, two tiles of A, two of B.
 *
 * Of the two operands one stays in the first-level cache while the other streams past it from the second:
 * - Rows stay: 32 rows of A, while all panels pass. C is written along its rows, 32 runs at a time, which the hardware
 *   foresees: 29 GB/s where blocks of 256 rows got 17, and C is most of what a shallow product moves.
 * - Panels stay: two panels, while all rows pass, where the panels are too many for the second-level cache or too deep
 *   for 32 rows to stay. A depth whose two panels exceed the first-level cache is gone through in passes; sums wait in
 *   f32 between them, so the passes do not show in the result. The panels to come are fetched into the second-level
 *   cache on the way.
 *
 * Sums leave the tiles for a small buffer in the first-level cache; from there vector stores carry them to C between
 * the steps of the next 32 x 32 sums, where they cost little. Storing tiles into C straight would stall on every cache
 * miss. */
#include "base/memory.h"
#include "kernels/amx/tiles_amx.h"
#include "kernels/gemm.h"

#include <immintrin.h>

enum {
    TILE = 16,
    SIDE = 2 * TILE,
    TILE_WORDS = TILE * TILE,
    TILE_BYTES = 64, /* of a row */
    STRIPS = VM_GEMM_BLOCK_ROWS / SIDE,
    PASS_STEPS = VM_GEMM_STRIP_WORDS / TILE,
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

static inline void fetch(aside *s) {
    for (int i = 0; i < s->fetch_per_step && s->fetch < s->fetch_end; i++, s->fetch += LINE_WORDS)
        _mm_prefetch((const char *)s->fetch, _MM_HINT_T1);
}

/* The products of `steps` pairs of tiles along k added to the sums of 32 (or 16, if one is false) rows and columns in
 * side; first: there are none yet. a and b: the first tiles of two strips; A's rows and its tiles along k lie as the
 * block says. What passes by the first-level cache has streaming loads, which leave there what stays. Tiles: 0..3 sums
 * (row-major), 4 and 5 A, 6 and 7 B. The constants make eight loops of it, each with *s in registers. */
static inline __attribute__((always_inline)) void sums(const bool rows_stay, const bool rows2, const bool columns2,
                                                       const vm_gemm_block *g, const uint32_t *a, const uint32_t *b,
                                                       int steps, bool first, float *side, aside *s) {
    const uint32_t *a2 = a + TILE * g->a_stride, *b2 = b + g->panel_words;
    const long a_row = g->a_tiles ? TILE_BYTES : (long)(g->a_stride * sizeof *a),
               a_step = g->a_tiles ? TILE_WORDS : TILE;
    const long row = SIDE * sizeof(float);
    if (first) {
        _tile_zero(0);
        if (columns2) _tile_zero(1);
        if (rows2) _tile_zero(2);
        if (rows2 && columns2) _tile_zero(3);
    } else {
        _tile_loadd(0, side, row);
        if (columns2) _tile_loadd(1, side + TILE, row);
        if (rows2) _tile_loadd(2, side + TILE * SIDE, row);
        if (rows2 && columns2) _tile_loadd(3, side + TILE * SIDE + TILE, row);
    }
    for (int i = 0; i < steps; i++) {
        if (rows_stay) {
            _tile_stream_loadd(6, b, TILE_BYTES);
            _tile_loadd(4, a, a_row);
        } else {
            _tile_loadd(6, b, TILE_BYTES);
            _tile_stream_loadd(4, a, a_row);
        }
        _tile_dpbf16ps(0, 4, 6);
        if (columns2) {
            if (rows_stay)
                _tile_stream_loadd(7, b2, TILE_BYTES);
            else
                _tile_loadd(7, b2, TILE_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (rows2) {
            if (rows_stay)
                _tile_loadd(5, a2, a_row);
            else
                _tile_stream_loadd(5, a2, a_row);
            _tile_dpbf16ps(2, 5, 6);
            if (columns2) _tile_dpbf16ps(3, 5, 7);
        }
        carry(s, s->rows_per_step);
        if (!rows_stay) fetch(s);
        a += a_step, a2 += a_step, b += TILE_WORDS, b2 += TILE_WORDS;
    }
    _tile_stored(0, side, row);
    if (columns2) _tile_stored(1, side + TILE, row);
    if (rows2) _tile_stored(2, side + TILE * SIDE, row);
    if (rows2 && columns2) _tile_stored(3, side + TILE * SIDE + TILE, row);
}

static inline __attribute__((always_inline)) void sums_of(const bool rows_stay, int rows, int columns,
                                                          const vm_gemm_block *g, const uint32_t *a, const uint32_t *b,
                                                          int steps, bool first, float *side, aside *s) {
    if (rows > TILE && columns > TILE)
        sums(rows_stay, true, true, g, a, b, steps, first, side, s);
    else if (rows > TILE)
        sums(rows_stay, true, false, g, a, b, steps, first, side, s);
    else if (columns > TILE)
        sums(rows_stay, false, true, g, a, b, steps, first, side, s);
    else
        sums(rows_stay, false, false, g, a, b, steps, first, side, s);
}

static __mmask16 first(int n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* The sums at (i, j) are complete in `side`: what is on its way to C arrives, and they set out. */
static inline void set_out(aside *s, const float *side, int i, int j) {
    carry(s, SIDE);
    s->side = side;
    s->row = i;
    s->end = i + vm_at_most(s->g->m - i, SIDE);
    s->column = j;
    s->low = first(s->g->n - j);
    s->high = first(s->g->n - j - TILE);
}

static void multiply_rows_stay(const vm_gemm_block *g) {
    float sides[2][SIDE * SIDE] __attribute__((aligned(64))); /* they take turns */
    int steps = g->words / TILE, turn = 0;
    aside s = {.g = g, .rows_per_step = steps > 0 ? vm_ceil_div(SIDE, steps) : 0};
    for (int i = 0; i < g->m; i += SIDE) {
        for (int j = 0; j < g->n; j += SIDE, turn = !turn) {
            sums_of(true, g->m - i, g->n - j, g, g->a + (size_t)i * g->a_stride,
                    g->b + (size_t)(j / TILE) * g->panel_words, steps, true, sides[turn], &s);
            set_out(&s, sides[turn], i, j);
        }
    }
    carry(&s, SIDE);
}

static void multiply_panels_stay(const vm_gemm_block *g) {
    float sides[STRIPS][SIDE * SIDE] __attribute__((aligned(64)));
    int strips = vm_ceil_div(g->m, SIDE), panels = vm_ceil_div(g->n, TILE), all_steps = g->words / TILE;
    int passes = vm_ceil_div(all_steps, PASS_STEPS), pass_steps = vm_ceil_div(all_steps, passes);
    const uint32_t *end = g->b + (size_t)panels * g->panel_words;
    aside s = {.g = g, .rows_per_step = vm_ceil_div(SIDE, pass_steps)};
    size_t lines = (g->fetched ? g->next_words : 2 * g->panel_words) / LINE_WORDS;
    int in_steps = strips * all_steps * (g->fetched ? vm_ceil_div(panels, 2) : 1);
    s.fetch_per_step = vm_at_most(vm_ceil_div((int)lines, in_steps), MAX_FETCH);
    int turn = 0;
    for (int j = 0; j < g->n; j += SIDE) {
        const uint32_t *b = g->b + (size_t)(j / TILE) * g->panel_words;
        if (!g->fetched && b + 2 * g->panel_words < end) {
            s.fetch = b + 2 * g->panel_words;
            s.fetch_end = s.fetch + 2 * g->panel_words;
        } else if (!g->fetched || j == 0) {
            s.fetch = g->next;
            s.fetch_end = g->next + g->next_words;
        }
        for (int pass = 0; pass < passes; pass++) {
            int step = pass * pass_steps, steps = vm_at_most(all_steps - step, pass_steps);
            for (int strip = 0; strip < strips; strip++, turn = !turn) {
                int i = strip * SIDE;
                const uint32_t *a = g->a + (size_t)i * g->a_stride + (size_t)step * (g->a_tiles ? TILE_WORDS : TILE);
                /* A side is written at the end of a pass, when the one before it has gone to C. With one pass two take
                 * turns. */
                float *side = sides[passes > 1 ? strip : turn];
                sums_of(false, g->m - i, g->n - j, g, a, b + (size_t)step * TILE_WORDS, steps, pass == 0, side, &s);
                if (pass == passes - 1) set_out(&s, side, i, j);
            }
        }
    }
    carry(&s, SIDE);
}

void vm_gemm_bf16_amx(const vm_gemm_block *g) {
    __asm__ volatile("" ::: "memory"); /* what tiles load must have been stored: the intrinsics do not say so */
    _tile_loadconfig(&tile_config);
    if (g->rows_stay || g->words == 0) /* an empty sum needs no room */
        multiply_rows_stay(g);
    else
        multiply_panels_stay(g);
    _tile_release();
}
