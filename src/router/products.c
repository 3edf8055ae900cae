/* products.c: what the networks' matrix products over many tokens have in common, in training and beyond. */
#include "router/router_internal.h"

#include <math.h>

enum { TASK_TOKENS = 16, CHUNK_TOKENS = 1024, CHUNK_FLOATS = 1 << 20 };

int vm_router_chunk(int columns) {
    int by_size = CHUNK_FLOATS / (columns > 0 ? columns : 1);
    return by_size < TASK_TOKENS ? TASK_TOKENS : by_size < CHUNK_TOKENS ? by_size : CHUNK_TOKENS;
}

bool vm_router_all_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

bool vm_router_panel(vm_pool *pool, vm_arena *memory, int k, int n, const float *src, bool across, vm_panel *out) {
    if (!out->data) out->data = vm_arena_alloc(memory, 1, vm_panel_bytes(VM_COMPUTE_F32, k, n));
    if (out->data && src)
        vm_panel_pack(pool, out, VM_COMPUTE_F32, k, n, src, across ? 1 : (size_t)n, across ? (size_t)k : 1, NULL);
    return out->data != NULL;
}

vm_gemm_job vm_router_product(int m, const float *a, const vm_panel *b, float *c, size_t ldc, bool accumulate) {
    return (vm_gemm_job){.m = m,
                         .a = a,
                         .a_m_stride = (size_t)b->k,
                         .a_k_stride = 1,
                         .b = b,
                         .c = c,
                         .ldc = ldc,
                         .accumulate = accumulate};
}

vmoer_status vm_router_weight_gradient(vm_pool *pool, const float *dout, const vm_panel *inputs, vm_param *weight) {
    vm_gemm_job product = {.m = weight->rows,
                           .a = dout,
                           .a_m_stride = 1,
                           .a_k_stride = (size_t)weight->rows,
                           .b = inputs,
                           .c = weight->grad,
                           .ldc = (size_t)weight->cols,
                           .accumulate = true};
    return vm_gemm(pool, &product, 1);
}
