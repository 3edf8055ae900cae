/* test_shapes.c: the products whose speed bench_kernels measures, forward and both gradients, against truths in double,
 * by every table and type, alone and with threads. Depths and widths are the models'; rows are fewer. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/threads.h"
#include "bench/shapes.h"
#include "kernels/gemm.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { SAMPLES = 200, MIN_ROWS = 3 };

static float *random_values(size_t n) {
    float *x = vm_malloc(n, sizeof *x);
    assert_non_null(x);
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 12);
    for (size_t i = 0; i < n; i++) x[i] = (float)vm_rng_uniform(&rng) - 0.5f;
    return x;
}

static double as_operand(vm_compute type, float f) {
    return type == VM_COMPUTE_BF16 ? vm_bf16_to_f32(vm_f32_to_bf16(f)) : f;
}

/* Elements all over C; the error a sum of k products in f32 may have in any order: (k + 2) 2^-24 sum |a b|. */
static void check_elements(const char *what, const vm_gemm_job *job, const float *b) {
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 13);
    int k = job->b->k, n = job->b->n;
    for (int x = 0; x < SAMPLES; x++) {
        int i = (int)vm_rng_below(&rng, (uint32_t)job->m), j = (int)vm_rng_below(&rng, (uint32_t)n);
        double sum = 0, absolute = 0;
        for (size_t l = 0; l < (size_t)k; l++) {
            double term = as_operand(job->b->type, job->a[(size_t)i * job->a_m_stride + l * job->a_k_stride]) *
                          as_operand(job->b->type, b[(size_t)j * (size_t)k + l]);
            sum += term, absolute += fabs(term);
        }
        double got = job->c[(size_t)i * job->ldc + (size_t)j], budget = (k + 2) * 0x1p-24 * absolute;
        if (!(fabs(got - sum) <= budget))
            fail_msg("%s %s type %d: C[%d, %d] = %.9g, true %.9g, budget %.3g", vm_kernels_get()->name, what,
                     (int)job->b->type, i, j, got, sum, budget);
    }
}

/* a: at least [m, k] or [k, m]; b: [n, k]; c, again: [m, n]. */
static void check_shape(const vm_shape *s, vm_compute type, int m, const float *a, const float *b, vm_pool *pool) {
    size_t rows = (size_t)m, k = (size_t)s->k, n = (size_t)s->n, bytes = rows * n * sizeof(float);
    vm_panel panel = {.data = vm_malloc(1, vm_panel_bytes(type, s->k, s->n))};
    float *c = vm_malloc(1, bytes), *again = vm_malloc(1, bytes);
    assert_true(panel.data && c && again);
    vm_panel_pack(pool, &panel, type, s->k, s->n, b, 1, k, NULL);
    vm_gemm_job job = {.m = m,
                       .a = a,
                       .a_m_stride = s->transposed ? 1 : k,
                       .a_k_stride = s->transposed ? rows : 1,
                       .b = &panel,
                       .c = again,
                       .ldc = n};
    memset(c, 0xff, bytes);
    memset(again, 0xff, bytes);
    assert_int_equal(vm_gemm(pool, &job, 1), VMOER_OK);
    job.c = c;
    assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
    check_elements(s->what, &job, b);
    assert_memory_equal(c, again, bytes);
    vm_free(panel.data);
    vm_free(c);
    vm_free(again);
}

static void test_shapes(void **state) {
    (void)state;
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    vm_pool *pool;
    assert_int_equal(vm_pool_create(3, &pool), VMOER_OK);
    for (int i = 0; i < VM_N_SHAPES; i++) {
        const vm_shape *s = &vm_shapes[i];
        size_t depth_by_width = (size_t)s->k * (size_t)s->n;
        float *a = random_values((size_t)s->m * (size_t)s->k), *b = random_values(depth_by_width);
        for (int t = 0; t < n_tables; t++) {
            /* Some 2^26 products and sums, 2^22 by the slow truth. */
            size_t rows = ((size_t)1 << (strcmp(tables[t]->name, "ref") == 0 ? 22 : 26)) / depth_by_width;
            int m = rows >= (size_t)s->m ? s->m : rows < MIN_ROWS ? MIN_ROWS : (int)rows;
            if (m > s->m) m = s->m;
            vm_kernels_force(tables[t]);
            check_shape(s, VM_COMPUTE_F32, m, a, b, pool);
            check_shape(s, VM_COMPUTE_BF16, m, a, b, pool);
        }
        vm_free(a);
        vm_free(b);
    }
    vm_kernels_force(NULL);
    vm_pool_free(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests_name("shapes", tests, NULL, NULL);
}
