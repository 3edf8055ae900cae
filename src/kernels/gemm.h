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
    VM_GEMM_PANEL = 16,      /* columns of a panel, and words of a block side */
    VM_GEMM_BLOCK_ROWS = 256 /* most rows of a block */
};

/* One block of up to 16 x 16 words to pack. A line is a run of consecutive source elements:
 * along k (line j is column j of B) or across k (line l is the slice of all rows of A, or columns of B, at depth l). */
typedef struct vm_pack_block {
    vm_compute type;
    bool along_k;          /* only with by_word: A along k is packed by pack_row */
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
    const uint32_t *a; /* [m, 16-padded][a_stride], plain or as tiles */
    size_t a_stride;   /* words, >= words rounded up to 16 */
    const uint32_t *b; /* [panels][panel_words] */
    size_t panel_words;
    float *c; /* [m, n], row length ldc */
    size_t ldc;
    bool accumulate;
} vm_gemm_block;

typedef struct vm_gemm_kernels {
    bool a_tiles[2]; /* by vm_compute: A is wanted as tiles */
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
#endif

#endif
