/* test_rows.c: left-hand rows packed from a transpose, and products over part of a panel's rows. */
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Rows packed from the transpose are the rows, and part of a panel's rows is what would be packed from the part. */
static void test_across(void **state) {
    (void)state;
    enum { M = 37, N = 40, K = 70, FIRST = 7, PART = 45, BEFORE = 2 };
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 10);
    float x[M * K], across[K * M], b[K * N];
    for (int i = 0; i < M; i++)
        for (int l = 0; l < K; l++) across[l * M + i] = x[i * K + l] = vm_rng_normal(&rng);
    for (int i = 0; i < K * N; i++) b[i] = vm_rng_normal(&rng);
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (int t = 0; t < n_tables; t++) {
        vm_kernels_force(tables[t]);
        for (int i = 0; i < 2; i++) {
            vm_compute type = (vm_compute)i;
            int first = type == VM_COMPUTE_F32 ? FIRST : 0, k = type == VM_COMPUTE_F32 ? PART : K;
            vm_panel whole = {.data = vm_malloc(1, vm_panel_bytes(type, K, N))},
                     part = {.data = vm_malloc(1, vm_panel_bytes(type, k, N))};
            void *plain = vm_malloc(1, vm_rows_bytes(type, M, k)),
                 *turned = vm_malloc(1, vm_rows_bytes(type, M + BEFORE, k));
            assert_true(whole.data && part.data && plain && turned);
            vm_panel_pack(NULL, &whole, type, K, N, b, N, 1, NULL);
            vm_panel_pack(NULL, &part, type, k, N, b + (size_t)first * N, N, 1, NULL);
            vm_rows rows = vm_rows_at(type, k, plain), columns = vm_rows_at(type, k, turned);
            vm_rows_set(&rows, 0, M, k, x, K);
            vm_rows_set_across(&columns, BEFORE, M, across, M);
            float truth[M * N], got[M * N];
            vm_multiply(&(vm_product){.a = &rows, .m = M, .b = &part, .columns = N, .c = truth, .ldc = N});
            vm_multiply(&(vm_product){.a = &columns,
                                      .first = BEFORE,
                                      .m = M,
                                      .b = &whole,
                                      .k_first = first,
                                      .k = k,
                                      .columns = N,
                                      .c = got,
                                      .ldc = N});
            assert_memory_equal(truth, got, sizeof truth);
            vm_free(whole.data), vm_free(part.data);
            vm_free(plain), vm_free(turned);
        }
    }
    vm_kernels_force(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_across)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
