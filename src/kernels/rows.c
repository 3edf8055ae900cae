/* rows.c: left-hand rows packed by hand, and products of them on the calling thread; see kernels.h. */
#include "kernels/gemm.h"

#include "base/dtype.h"
#include "kernels/count.h"
#include <string.h>

enum { PANEL = VM_GEMM_PANEL };

size_t vm_rows_bytes(vm_compute type, int m, int k) {
    /* Kernels load whole strips of two tiles: what lies past the last row is read, never used. */
    return ((size_t)m + 2 * PANEL) * vm_gemm_row_stride(type, k) * sizeof(uint32_t);
}

vm_rows vm_rows_at(vm_compute type, int k, void *memory) {
    return (vm_rows){.type = type, .k = k, .stride = vm_gemm_row_stride(type, k), .words = memory};
}

void vm_rows_set(const vm_rows *r, int first, int m, int columns, const float *x, size_t ldx) {
    const vm_gemm_kernels *kernels = vm_kernels_get()->gemm;
    for (int i = 0; i < m; i++)
        kernels->pack_row(r->type, x + (size_t)i * ldx, columns, r->words + (size_t)(first + i) * r->stride, PANEL,
                          NULL);
}

void vm_rows_set_tail(const vm_rows *r, int first, int m, int column, const float *x, size_t ldx) {
    int n = r->k - column;
    for (int i = 0; i < m; i++) {
        const float *from = x + (size_t)i * ldx;
        uint32_t *row = r->words + (size_t)(first + i) * r->stride;
        if (r->type == VM_COMPUTE_F32) {
            memcpy(row + column, from, (size_t)n * sizeof *from);
            continue;
        }
        for (int l = 0; l < n; l += 2) {
            uint32_t low = vm_f32_to_bf16(from[l]), high = l + 1 < n ? vm_f32_to_bf16(from[l + 1]) : 0;
            row[(column + l) / 2] = low | high << 16;
        }
        /* What is multiplied by the padding of a panel must be a number. */
        for (int w = (r->k + 1) / 2; w % PANEL; w++) row[w] = 0;
    }
}

void vm_rows_set_across(const vm_rows *r, int first, int m, const float *x, size_t ldx) {
    const vm_gemm_kernels *kernels = vm_kernels_get()->gemm;
    int depth = r->type == VM_COMPUTE_BF16 ? 2 * PANEL : PANEL;
    vm_pack_block block = {.type = r->type, .dst_stride = r->stride};
    for (int l = 0; l < r->k; l += depth) {
        block.lines = r->k - l < depth ? r->k - l : depth;
        for (int j = 0; j < block.lines; j++) block.line[j] = x + (size_t)(l + j) * ldx;
        for (int i = 0; i < m; i += PANEL) {
            block.offset = (size_t)i;
            block.valid = block.rows = m - i < PANEL ? m - i : PANEL;
            block.dst = r->words + (size_t)(first + i) * r->stride + (size_t)(l / depth * PANEL);
            kernels->pack(&block);
        }
    }
}

void vm_rows_gather(const vm_rows *r, int first, int m, const vm_rows *from, const int32_t *index) {
    size_t words = (vm_gemm_depth(from->type, from->k) + PANEL - 1) / PANEL * PANEL;
    for (int i = 0; i < m; i++) {
        /* Rows may be anywhere: the hardware cannot guess the next one. */
        const uint32_t *next = from->words + (size_t)index[i + 1 < m ? i + 1 : i] * from->stride;
        for (size_t w = 0; w < words; w += PANEL) __builtin_prefetch(next + w);
        memcpy(r->words + (size_t)(first + i) * r->stride, from->words + (size_t)index[i] * from->stride,
               words * sizeof *next);
    }
}

void vm_multiply(const vm_product *p) {
    const vm_gemm_kernels *kernels = vm_kernels_get()->gemm;
    vm_compute type = p->b->type;
    size_t panel_words = vm_gemm_depth(type, p->b->k) * PANEL;
    size_t skipped = vm_gemm_depth(type, p->k_first) * PANEL;
    vm_count((uint64_t)p->m * (uint64_t)p->columns * (uint64_t)(p->k ? p->k : p->b->k));
    for (int done = 0; done < p->m; done += VM_GEMM_BLOCK_ROWS) {
        size_t skip = p->c_index ? 0 : (size_t)done * p->ldc;
        vm_gemm_block block = {.m = p->m - done < VM_GEMM_BLOCK_ROWS ? p->m - done : VM_GEMM_BLOCK_ROWS,
                               .n = p->columns,
                               .words = (int)vm_gemm_depth(type, p->k ? p->k : p->b->k),
                               .a = p->a->words + (size_t)(p->first + done) * p->a->stride,
                               .a_stride = p->a->stride,
                               .b = (const uint32_t *)p->b->data + (size_t)(p->column / PANEL) * panel_words + skipped,
                               .panel_words = panel_words,
                               .next = p->next,
                               .next_words = p->next_bytes / sizeof(uint32_t),
                               .fetched = p->fetched,
                               .c = p->c + skip,
                               .ldc = p->ldc,
                               .c_index = p->c_index ? p->c_index + done : NULL,
                               .scale = p->scale ? p->scale + done : NULL,
                               .accumulate = p->accumulate};
        kernels->multiply[type](&block);
    }
}
