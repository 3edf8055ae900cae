/* kernels.h: the numeric kernels. One table of function pointers a CPU kind, picked once by probing the CPU or by VMOER_ISA=ref|avx2|avx512|amx.
 * ref/ is the scalar truth. Within one ISA results never depend on the number of threads, on which rows share a call, or on alignment:
 * every output element is a sum over k in one fixed order. No fast-math. */
#ifndef VM_KERNELS_KERNELS_H
#define VM_KERNELS_KERNELS_H

#include "base/threads.h"
#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- matrix multiplication ---- */

/* Type the products are taken in; sums are always f32. */
typedef enum vm_compute { VM_COMPUTE_F32, VM_COMPUTE_BF16 } vm_compute;

/* A right-hand matrix B[k, n], packed in panels of 16 columns (the layout is the same for every ISA, see gemm.c). */
typedef struct vm_panel {
    vm_compute type;
    int k, n;
    void *data; /* vm_panel_bytes(type, k, n) bytes, 64-byte aligned; NULL: no matrix. Owned by whoever made the panel */
} vm_panel;
size_t vm_panel_bytes(vm_compute type, int k, int n);
/* Packs element (i, j) = src[row(i) * k_stride + j * n_stride], i in [0,k), j in [0,n), row(i) = k_index ? k_index[i] : i.
 * dst->data must hold vm_panel_bytes; sets type, k, n. pool may be NULL. Rounds to nearest even for BF16. */
void vm_panel_pack(vm_pool *pool, vm_panel *dst, vm_compute type, int k, int n, const float *src, size_t k_stride, size_t n_stride,
                   const int32_t *k_index);

/* dst, with its type, k, n and data set, becomes src with dst->k - src->k rows of zeros below; same type and n. */
void vm_panel_extend(vm_panel *dst, const vm_panel *src);
/* Packs `rows` more rows of B, at the bottom of a packed panel: row k_first + i is src[i * ld ..], k_first even (BF16), k_first + rows <= dst->k.
 * Rows below them, up to the next whole word, become 0. */
void vm_panel_set_rows(vm_panel *dst, int k_first, int rows, const float *src, size_t ld);
/* Packs `columns` columns of B anew: column n_first + j is src[j * ld ..], n_first + columns <= dst->n. F32 only. */
void vm_panel_set_columns(vm_panel *dst, int n_first, int columns, const float *src, size_t ld);

/* C[m, n] = (accumulate ? C : 0) + A[m, k] B[k, n].
 * A's element (i, l) = a[i_row * a_m_stride + l_row * a_k_stride], i_row = m_index ? m_index[i] : i, l_row = k_index ? k_index[l] : l.
 * (a_m_stride = row length, a_k_stride = 1: plain; a_m_stride = 1, a_k_stride = row length: A transposed, for weight gradients.)
 * With a tail, A's last tail_k columns are tail[i * tail_stride ..] instead, i without the index (a_k_stride 1, no k_index). */
typedef struct vm_gemm_job {
    int m;
    const float *a; /* f32; rounded to bf16 while packing when b->type is BF16 */
    size_t a_m_stride, a_k_stride;
    const int32_t *m_index, *k_index; /* NULL: identity */
    const float *tail;                /* NULL: none */
    size_t tail_stride;
    int tail_k;
    const vm_panel *b;                /* k = b->k, n = b->n */
    float *c;
    size_t ldc;
    bool accumulate;
} vm_gemm_job;
/* Runs n jobs, spread over the threads by (job, row block, panel); jobs must not write the same elements. m == 0 or k == 0 is allowed.
 * Scratch for packing A is the pool-independent thread-local scratch of gemm.c, bounded by (256 rows x k) a thread. */
vmoer_status vm_gemm(vm_pool *pool, const vm_gemm_job *jobs, int n_jobs);

/* ---- the same product on the calling thread, its left-hand rows packed by hand: for chains of products that stay in cache ---- */

/* Rows [m, k] of a left-hand matrix, rounded once however many products read them. */
typedef struct vm_rows {
    vm_compute type;
    int k;
    size_t stride;   /* 32-bit words from row to row */
    uint32_t *words; /* vm_rows_bytes(type, m, k) bytes, 64-byte aligned, owned by whoever made the rows */
} vm_rows;
size_t vm_rows_bytes(vm_compute type, int m, int k);
vm_rows vm_rows_at(vm_compute type, int k, void *memory); /* nothing in them yet */
/* Columns [0, columns) of rows [first, first + m) from x[m, columns], row stride ldx; rounded to nearest even for BF16. The rest of their last group of
 * 32 columns (F32: 16) becomes 0. */
void vm_rows_set(const vm_rows *r, int first, int m, int columns, const float *x, size_t ldx);
/* The columns from `column` (BF16: even) on, all that are left. */
void vm_rows_set_tail(const vm_rows *r, int first, int m, int column, const float *x, size_t ldx);
/* All columns of rows [first, first + m) from x[k, m], row stride ldx: the transpose. */
void vm_rows_set_across(const vm_rows *r, int first, int m, const float *x, size_t ldx);
/* Row first + i begins with row index[i] of `from`, i in [0, m). */
void vm_rows_gather(const vm_rows *r, int first, int m, const vm_rows *from, const int32_t *index);

/* C[m, columns] = (accumulate ? C : 0) + scale (A B), A the rows [first, first + m), B the columns [column, column + columns) and the rows
 * [k_first, k_first + k) of a panel of A's type. An element has the bits vm_gemm gives it. */
typedef struct vm_product {
    const vm_rows *a;
    int first, m;
    const vm_panel *b;
    int k_first, k;         /* k_first: BF16: a multiple of 32; k 0: all rows of B */
    int column, columns;    /* column: a multiple of 16; columns >= 1 */
    const void *next;       /* next_bytes of panels that products after this one read: fetched meanwhile; NULL: unknown */
    size_t next_bytes;
    bool fetched;           /* an earlier product fetched B */
    float *c;               /* element (0, 0) of the product */
    size_t ldc;
    const int32_t *c_index; /* [m] row i goes to c[c_index[i]], each to its own; NULL: c[i] */
    const float *scale;     /* [m]; NULL: 1 */
    bool accumulate;
} vm_product;
void vm_multiply(const vm_product *p);

/* ---- strips: 16 tokens side by side, arrays [rows][16] (f32 panels of 16 columns), one token a lane; lanes never meet ---- */
enum {
    VM_STRIP = 16,
    VM_STRIP_ROWS = 64, /* products are taken this many rows at a time */
    VM_DRAW_BLOCK = 8
};
static inline int vm_strip_padded(int rows) { return (rows + VM_STRIP_ROWS - 1) / VM_STRIP_ROWS * VM_STRIP_ROWS; }
/* Bytes of packed weights [rows, depth], for any ISA. */
static inline size_t vm_strip_bytes(int rows, int depth) {
    return (size_t)vm_strip_padded(rows) * (((size_t)depth + 31) / 32 * 32) * 6;
}

/* A strip of Gaussian distributions N(mean, L L^T) over n logits. L is a diagonal and `rank` columns below it, packed row by row: row i is its
 * columns 0 .. min(i, rank) - 1, then its diagonal. rank 0: the diagonal alone; n - 1 and beyond: a lower triangle. */
typedef struct vm_gaussians {
    int n, rank;
    float *scale;      /* [sum of min(i, rank) + 1][16]: L */
    const float *mean; /* [n][16] */
} vm_gaussians;

/* ---- the rest of the table ---- */
typedef struct vm_kernels {
    const char *name; /* "ref", "avx2", "avx512", "amx" */
    /* GEMM inner kernels are private to kernels/ (gemm.h). */
    const struct vm_gemm_kernels *gemm;
    float (*dot)(const float *x, const float *y, int n);                  /* sum x_i y_i */
    void (*axpy)(float a, const float *x, float *y, int n);               /* y += a x */
    /* C[rows, n] += sum over t in [0, m) of s[t, rows]' x_t[n], t rising: a product with few rows, for which packing would cost more than it.
     * x_t = x + (index ? index[t] : t) * ldx. */
    void (*outer)(int rows, int n, int m, const float *s, size_t lds, const float *x, size_t ldx, const int32_t *index, float *c, size_t ldc);
    /* y_i = x_i * w_i / rms, rms = sqrt(mean x^2 + eps); returns 1/rms. RMSNorm, Zhang & Sennrich 2019. y may be x. */
    float (*rmsnorm)(const float *x, const float *w, float eps, float *y, int n);
    /* dx += gradient of the above given dy and inv_rms; dw += if dw. */
    void (*rmsnorm_backward)(const float *x, const float *w, float inv_rms, const float *dy, float *dx, float *dw, int n);
    /* In place x_i = exp(x_i - max) / sum; returns log sum exp of the input. n >= 1. -inf entries give 0. */
    float (*softmax)(float *x, int n);
    /* In place dp_i = scale p_i (dp_i - sum_j p_j dp_j): gradient of x from that of p = softmax(scale x). */
    void (*softmax_backward)(const float *p, float scale, float *dp, int n);
    /* log sum exp without writing; n >= 1. */
    float (*logsumexp)(const float *x, int n);
    /* out_i = silu(gate_i) * up_i, silu(z) = z / (1 + exp(-z)). out may be gate or up. */
    void (*swiglu)(const float *gate, const float *up, float *out, int n);
    /* dgate, dup from dout (overwritten; dgate may be gate, dup may be up). */
    void (*swiglu_backward)(const float *gate, const float *up, const float *dout, float *dgate, float *dup, int n);
    /* Rotary embedding of one head vector x[2 * half], pairs (i, i + half): cos/sin [half]. sign -1: the inverse (backward). In place. */
    void (*rope)(float *x, const float *cosine, const float *sine, int half, float sign);

    /* Weights w[m, k] to packed[vm_strip_bytes(m, k)], 64-byte aligned: the layout is the table's own. */
    void (*strip_pack)(const float *w, int m, int k, void *packed);
    /* y = W x + bias for a strip: x[k][16]; bias[m] and y[m][16] are both padded to vm_strip_padded(m) rows, whatever stands there. The first rows of
     * packed weights may be asked for alone. */
    void (*strip_product)(const void *packed, int m, int k, const float *bias, const float *x, float *y);
    /* g->scale: on entry L with x in place of exp(x) on its diagonal; on return L, x held in [low, high] (NaN stays NaN). trace[16] = |L|_F^2;
     * projected[16] = |P L|_F^2, P = I - 1 1'/n; check[16]: 0, or NaN where an entry is not finite. scratch[n][16]. */
    void (*gaussian_scale)(const vm_gaussians *g, float low, float high, float *check, float *trace, float *projected, float *scratch);
    /* l[n][16] = mean + L eps, eps[n][16]: each token its own draw. */
    void (*gaussian_draw)(const vm_gaussians *g, const float *eps, float *l);
    /* p[n][16]: the mean of softmax(mean + L eps) over `samples` draws, each eps of the table followed by -eps: component i of pair
     * b * VM_DRAW_BLOCK + s is draws[(b * n + i) * VM_DRAW_BLOCK + s]. scratch[(VM_DRAW_BLOCK + 2) n][16]. */
    void (*gaussian_sample)(const vm_gaussians *g, const float *draws, int samples, float *p, float *scratch);
    /* p[n][16]: the solution of p = softmax(mean + 1/2 diag S - S p), S = L L^T, by damped steps. scratch[2n][16]. */
    void (*gaussian_tilted)(const vm_gaussians *g, float *p, float *scratch);
    /* p[n][16]: p_k ~ 1 / sum_i exp(-(m_k - m_i) / sqrt(1 + pi/8 v_ki)), v_ki = S_kk + S_ii - 2 S_ki, normalised over k. scratch[3n][16]. */
    void (*gaussian_closed)(const vm_gaussians *g, float *p, float *scratch);
} vm_kernels;

/* The table of this CPU; the same pointer for the process's life. VMOER_ISA names another one the CPU has; an unknown or missing
 * name falls back to the probe's; vm_kernels_status, asked before a model is loaded, refuses it. */
const vm_kernels *vm_kernels_get(void);
vmoer_status vm_kernels_status(void);
/* Every table this CPU can run (tests): fills out[max], returns the count; [0] is ref. */
int vm_kernels_all(const vm_kernels **out, int max);
/* Makes vm_gemm and vm_kernels_get use `k` (tests and bench; not thread-safe). NULL: back to the probe's. */
void vm_kernels_force(const vm_kernels *k);

#endif
