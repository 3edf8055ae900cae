/* gemm.h: what an ISA gives to the GEMM driver (gemm.c). Private to kernels/.
 *
 * Operands are packed in 32-bit words: a word is one f32, or two bf16 neighbours along k (the first in the low half).
 *   A, a block of rows:  [rows, 16-padded][a_stride words], rows plain, k padded with zeros to a whole 16 words; or as
 *                        tiles: [strips of 16 rows][a_stride / 16][16 rows][16 words]; padding rows hold anything
 *   B, a panel:          [words][16 columns]; for bf16 the words are padded with zeros to a multiple of 16
 * so that one layout serves scalar code, FMA with a broadcast of A's word, vdpbf16ps, and the tiles of AMX
 * (16 rows x 16 words of A times 16 words x 16 columns of B). */
#ifndef VM_KERNELS_GEMM_H
#define VM_KERNELS_GEMM_H

#include "kernels/kernels.h"

enum {
    VM_GEMM_PANEL = 16,       /* columns of a panel, and words of a block side */
    VM_GEMM_BLOCK_ROWS = 256, /* most rows of a block */
    VM_GEMM_STRIP_WORDS = 320 /* deepest that 32 rows or columns stay in a first-level cache of 48 KB */
};

/* Words of depth k: of a panel, and of a packed row of A. */
static inline size_t vm_gemm_depth(vm_compute type, int k) {
    return type == VM_COMPUTE_BF16 ? ((size_t)k + 31) / 32 * 16 : (size_t)k;
}

/* Words from one packed row of A to the next, padded to whole blocks. */
static inline size_t vm_gemm_row_stride(vm_compute type, int k) {
    size_t words = (vm_gemm_depth(type, k) + 15) / 16 * 16;
    /* Rows a multiple of 1 KiB apart would share a few sets of the first-level cache. */
    return words % 256 == 0 ? words + 16 : words;
}

/* One block of up to 16 x 16 words to pack. A line is a run of consecutive source elements:
 * along k (line j is column j of B) or across k (line l is the slice of all rows of A, or columns of B, at depth l). */
typedef struct vm_pack_block {
    vm_compute type;
    bool along_k;          /* lines run along k */
    const float *line[32]; /* [lines] */
    int lines;             /* along k: 0..16; across k: 0..16, or 0..32 for bf16 */
    size_t offset;         /* first element read in every line */
    int valid;             /* elements read of every line; along k: 1..16, or 1..32 for bf16; across k: 1..16 */
    bool by_word;  /* false: dst row = row of A, 16 words along k each; true: dst row = word, 16 columns of B each */
    uint32_t *dst; /* [rows][dst_stride] words; 16 words of each are written, zero where the source has nothing */
    size_t dst_stride;
    int rows; /* 1..16 */
} vm_pack_block;

/* C[m, n] = (accumulate ? C : 0) + A B for one packed block of rows and some panels. */
typedef struct vm_gemm_block {
    int m, n, words;   /* m <= VM_GEMM_BLOCK_ROWS */
    bool rows_stay;    /* the panels stay in the second-level cache, 32 rows of A in the first (VM_GEMM_STRIP_WORDS) */
    const uint32_t *a; /* [m, 16-padded][a_stride], plain or as tiles */
    size_t a_stride;   /* words, >= words rounded up to 16 */
    bool a_tiles;
    const uint32_t *b; /* [panels][panel_words] */
    size_t panel_words;
    const uint32_t *next; /* next_words of panels wanted after these: fetched meanwhile; NULL: unknown */
    size_t next_words;
    bool fetched; /* these are in the second-level cache */
    float *c; /* [m, n], row length ldc */
    size_t ldc;
    const int32_t *c_index; /* [m] row i of the product goes to c[c_index[i]]; NULL: c[i] */
    const float *scale;     /* [m] row i of A B is multiplied by it before it is added or stored; NULL: 1 */
    bool accumulate;
} vm_gemm_block;

/* Where row i of a block's product goes, at column j. */
static inline float *vm_gemm_row(const vm_gemm_block *g, int i, int j) {
    return g->c + (size_t)(g->c_index ? g->c_index[i] : i) * g->ldc + j;
}

typedef struct vm_gemm_kernels {
    bool a_tiles[2]; /* by vm_compute: A may come as tiles, and is faster so */
    int rows[2];     /* rows of one register tile; row blocks are cut at multiples of it */
    void (*pack)(const vm_pack_block *block);
    /* n elements of a row of A to groups of 16 words, `step` words from group to group, the last one zero-padded.
     * next: a row that will be wanted soon, NULL if none. */
    void (*pack_row)(vm_compute type, const float *x, int n, uint32_t *dst, size_t step, const float *next);
    void (*multiply[2])(const vm_gemm_block *block); /* by vm_compute */
} vm_gemm_kernels;

/* The tables, each in its own folder. The probe in kernels.c decides which of them may be called. */
extern const vm_kernels vm_kernels_ref;
extern const vm_gemm_kernels vm_gemm_ref;
#if defined(__x86_64__)
extern const vm_kernels vm_kernels_avx2;
extern const vm_gemm_kernels vm_gemm_avx2;
extern const vm_kernels vm_kernels_avx512;      /* bf16 by unpacking to f32 */
extern const vm_kernels vm_kernels_avx512_bf16; /* bf16 by vdpbf16ps; also called "avx512" */
extern const vm_kernels vm_kernels_amx;
void vm_gemm_pack_avx512(const vm_pack_block *block);
void vm_gemm_pack_row_avx512(vm_compute type, const float *x, int n, uint32_t *dst, size_t step, const float *next);
void vm_gemm_f32_avx512(const vm_gemm_block *block);
void vm_gemm_bf16_avx512(const vm_gemm_block *block);      /* needs avx512f only */
void vm_gemm_bf16_avx512_bf16(const vm_gemm_block *block); /* needs avx512_bf16 */
void vm_gemm_bf16_amx(const vm_gemm_block *block);
void vm_strip_pack_amx(const float *w, int m, int k, void *packed);
void vm_strip_product_amx(const void *packed, int m, int k, const float *bias, const float *x, float *y);
#endif

#endif
