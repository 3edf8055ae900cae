/* gemm_ref.c: the scalar truth of the GEMM. Any other ISA is tested against it. */
#include "kernels/gemm.h"

#include "base/dtype.h"
#include <string.h>

static uint32_t float_word(float f) {
    uint32_t word;
    memcpy(&word, &f, sizeof word);
    return word;
}

static float word_float(uint32_t word) {
    float f;
    memcpy(&f, &word, sizeof f);
    return f;
}

/* Element of row or column i at depth l of the block; 0 outside. */
static float element(const vm_pack_block *p, int i, int l) {
    int line = p->along_k ? i : l, x = p->along_k ? l : i;
    return line < p->lines && x < p->valid ? p->line[line][p->offset + (size_t)x] : 0.0f;
}

static void pack(const vm_pack_block *p) {
    for (int r = 0; r < p->rows; r++) {
        for (int x = 0; x < VM_GEMM_PANEL; x++) {
            int i = p->by_word ? x : r, w = p->by_word ? r : x;
            uint32_t *word = &p->dst[(size_t)r * p->dst_stride + (size_t)x];
            if (p->type == VM_COMPUTE_F32)
                *word = float_word(element(p, i, w));
            else
                *word = vm_f32_to_bf16(element(p, i, 2 * w)) | (uint32_t)vm_f32_to_bf16(element(p, i, 2 * w + 1)) << 16;
        }
    }
}

static void pack_row(vm_compute type, const float *x, int n, uint32_t *dst, size_t step, const float *next) {
    (void)next;
    int depth = type == VM_COMPUTE_BF16 ? 2 * VM_GEMM_PANEL : VM_GEMM_PANEL;
    vm_pack_block block = {.type = type, .along_k = true, .line = {x}, .lines = 1, .dst_stride = step, .rows = 1};
    for (int l = 0; l < n; l += depth, dst += step) {
        block.offset = (size_t)l;
        block.valid = n - l < depth ? n - l : depth;
        block.dst = dst;
        pack(&block);
    }
}

static void store(const vm_gemm_block *g, int i, int j, const float sum[VM_GEMM_PANEL]) {
    float *c = vm_gemm_row(g, i, j), scale = g->scale ? g->scale[i] : 1.0f;
    for (int x = 0; x < VM_GEMM_PANEL && j + x < g->n; x++) {
        float value = scale * sum[x];
        c[x] = g->accumulate ? c[x] + value : value;
    }
}

static void multiply_f32(const vm_gemm_block *g) {
    for (int j = 0; j < g->n; j += VM_GEMM_PANEL) {
        for (int i = 0; i < g->m; i++) {
            float sum[VM_GEMM_PANEL] = {0};
            for (int w = 0; w < g->words; w++) {
                const uint32_t *b = g->b + (size_t)(j / VM_GEMM_PANEL) * g->panel_words + (size_t)w * VM_GEMM_PANEL;
                float a = word_float(g->a[(size_t)i * g->a_stride + (size_t)w]);
                for (int x = 0; x < VM_GEMM_PANEL; x++) sum[x] += a * word_float(b[x]);
            }
            store(g, i, j, sum);
        }
    }
}

static void multiply_bf16(const vm_gemm_block *g) {
    for (int j = 0; j < g->n; j += VM_GEMM_PANEL) {
        for (int i = 0; i < g->m; i++) {
            float sum[VM_GEMM_PANEL] = {0};
            for (int w = 0; w < g->words; w++) {
                const uint32_t *b = g->b + (size_t)(j / VM_GEMM_PANEL) * g->panel_words + (size_t)w * VM_GEMM_PANEL;
                uint32_t a = g->a[(size_t)i * g->a_stride + (size_t)w];
                for (int x = 0; x < VM_GEMM_PANEL; x++) {
                    sum[x] += word_float(a << 16) * word_float(b[x] << 16);
                    sum[x] += word_float(a & 0xffff0000u) * word_float(b[x] & 0xffff0000u);
                }
            }
            store(g, i, j, sum);
        }
    }
}

const vm_gemm_kernels vm_gemm_ref = {
    .rows = {1, 1}, .pack = pack, .pack_row = pack_row, .multiply = {multiply_f32, multiply_bf16}};
