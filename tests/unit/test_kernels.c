/* test_kernels.c: every table this CPU can run against truths in double, and against itself where bits must not differ.
 */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "base/threads.h"
#include "kernels/gemm.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_TABLES = 8 };
static const vm_kernels *tables[MAX_TABLES];
static int n_tables, n_named; /* the first n_named come from the probe */

static float *random_values(vm_rng *rng, size_t n) {
    float *values = malloc(n ? n * sizeof *values : 1); /* exactly n, so that a sanitizer sees a step too far */
    assert_non_null(values);
    for (size_t i = 0; i < n; i++) values[i] = vm_rng_normal(rng);
    return values;
}

static int32_t *random_index(vm_rng *rng, int n, int below) {
    int32_t *index = malloc(n ? (size_t)n * sizeof *index : 1);
    assert_non_null(index);
    for (int i = 0; i < n; i++) index[i] = (int32_t)vm_rng_below(rng, (uint32_t)below);
    return index;
}

static double as_operand(vm_compute type, float f) {
    return type == VM_COMPUTE_BF16 ? vm_bf16_to_f32(vm_f32_to_bf16(f)) : f;
}

/* ---- matrix products ---- */

typedef struct shape {
    int m, n, k;
} shape;

/* One product with its operands, stored as the flags say. */
typedef struct product {
    shape s;
    vm_compute type;
    int a_rows, a_depth, b_depth; /* stored sizes, larger than m and k where an index picks from them */
    float *a, *b;
    int32_t *m_index, *a_k_index, *b_k_index;
    size_t a_m_stride, a_k_stride, b_k_stride, b_n_stride;
} product;

enum { A_ALONG_K, A_ACROSS, A_NEITHER, A_LAYOUTS };
enum { B_ALONG_K, B_ACROSS, B_NEITHER, B_LAYOUTS };

static product make_product(vm_rng *rng, shape s, vm_compute type, int a_layout, int b_layout, bool gather_m,
                            bool gather_k) {
    product p = {.s = s, .type = type, .a_rows = gather_m ? s.m + 3 : s.m, .a_depth = gather_k ? s.k + 5 : s.k};
    p.b_depth = p.a_depth;
    size_t a_pad = a_layout == A_NEITHER ? 2 : 1, b_pad = b_layout == B_NEITHER ? 2 : 1;
    p.a_m_stride = a_layout == A_ACROSS ? 1 : (size_t)p.a_depth * a_pad;
    p.a_k_stride = a_layout == A_ACROSS ? (size_t)p.a_rows : a_pad;
    p.b_n_stride = b_layout == B_ACROSS ? 1 : (size_t)p.b_depth * b_pad;
    p.b_k_stride = b_layout == B_ACROSS ? (size_t)s.n : b_pad;
    p.a = random_values(rng, (size_t)p.a_rows * (size_t)p.a_depth * a_pad);
    p.b = random_values(rng, (size_t)p.b_depth * (size_t)s.n * b_pad);
    if (gather_m) p.m_index = random_index(rng, s.m, p.a_rows);
    if (gather_k) p.a_k_index = random_index(rng, s.k, p.a_depth);
    if (gather_k) p.b_k_index = random_index(rng, s.k, p.b_depth);
    return p;
}

static void free_product(product *p) {
    free(p->a);
    free(p->b);
    free(p->m_index);
    free(p->a_k_index);
    free(p->b_k_index);
}

static vm_panel pack_panel(vm_pool *pool, const product *p) {
    vm_panel panel = {.data = vm_malloc(vm_panel_bytes(p->type, p->s.k, p->s.n) + 1, 1)};
    assert_non_null(panel.data);
    vm_panel_pack(pool, &panel, p->type, p->s.k, p->s.n, p->b, p->b_k_stride, p->b_n_stride, p->b_k_index);
    return panel;
}

static vm_gemm_job make_job(const product *p, const vm_panel *panel, float *c, size_t ldc, bool accumulate) {
    return (vm_gemm_job){.m = p->s.m,
                         .a = p->a,
                         .a_m_stride = p->a_m_stride,
                         .a_k_stride = p->a_k_stride,
                         .m_index = p->m_index,
                         .k_index = p->a_k_index,
                         .b = panel,
                         .c = c,
                         .ldc = ldc,
                         .accumulate = accumulate};
}

/* The product in double, and the error a sum of k products in f32 may have in any order: (k + 2) 2^-24 sum |a b|
 * (Higham, Accuracy and Stability, 3.1; one more step for the old value of C). */
static double true_element(const product *p, int i, int j, double *absolute) {
    double sum = 0;
    *absolute = 0;
    size_t row = (size_t)(p->m_index ? p->m_index[i] : i);
    for (int l = 0; l < p->s.k; l++) {
        size_t la = (size_t)(p->a_k_index ? p->a_k_index[l] : l), lb = (size_t)(p->b_k_index ? p->b_k_index[l] : l);
        double x = as_operand(p->type, p->a[row * p->a_m_stride + la * p->a_k_stride]) *
                   as_operand(p->type, p->b[lb * p->b_k_stride + (size_t)j * p->b_n_stride]);
        sum += x;
        *absolute += fabs(x);
    }
    return sum;
}

static void check_product(const vm_kernels *table, const product *p, bool accumulate) {
    const float guard = 12345.0f;
    size_t ldc = (size_t)p->s.n + 3;
    size_t size = (size_t)p->s.m * ldc;
    float *c = malloc(size * sizeof *c), *old = malloc(size * sizeof *old);
    assert_true(c && old);
    for (size_t i = 0; i < size; i++) c[i] = old[i] = i % ldc < (size_t)p->s.n ? (float)(i % 7) - 3 : guard;
    vm_kernels_force(table);
    vm_panel panel = pack_panel(NULL, p);
    vm_gemm_job job = make_job(p, &panel, c, ldc, accumulate);
    assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
    for (int i = 0; i < p->s.m; i++) {
        for (int j = 0; j < p->s.n; j++) {
            size_t at = (size_t)i * ldc + (size_t)j;
            double absolute, truth = true_element(p, i, j, &absolute);
            if (accumulate) truth += old[at], absolute += fabs((double)old[at]);
            double budget = (p->s.k + 2) * 0x1p-24 * absolute;
            if (!(fabs(c[at] - truth) <= budget))
                fail_msg("%s type %d m %d n %d k %d: C[%d, %d] = %.9g, true %.9g, budget %.3g", table->name,
                         (int)p->type, p->s.m, p->s.n, p->s.k, i, j, (double)c[at], truth, budget);
        }
        for (size_t x = (size_t)p->s.n; x < ldc; x++) assert_true(c[(size_t)i * ldc + x] == guard);
    }
    vm_free(panel.data);
    free(c);
    free(old);
}

static void test_gemm_against_truth(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 65};
    enum { N_SIZES = sizeof sizes / sizeof *sizes };
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 1);
    for (int t = 0; t < n_tables; t++) {
        for (int type = VM_COMPUTE_F32; type <= VM_COMPUTE_BF16; type++) {
            for (int a = 0; a < N_SIZES; a++) {
                for (int b = 0; b < N_SIZES;
                     b++) { /* every pair (m, n) with some k, so every pair (m, k) with some n */
                    for (int c = 0; c < 3; c++) {
                        shape s = {sizes[a], sizes[b], sizes[(a + 4 * b + 3 * c) % N_SIZES]};
                        int flags = (int)vm_rng_below(&rng, 8);
                        product p = make_product(&rng, s, (vm_compute)type, (a + c) % A_LAYOUTS,
                                                 (b + 2 * c) % B_LAYOUTS, flags & 1, flags & 2);
                        check_product(tables[t], &p, flags & 4);
                        free_product(&p);
                    }
                }
            }
        }
    }
    vm_kernels_force(NULL);
}

static void test_gemm_every_layout(void **state) {
    (void)state;
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 2);
    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < 2 * A_LAYOUTS * B_LAYOUTS * 8; i++) {
            int flags = i / (2 * A_LAYOUTS * B_LAYOUTS);
            product p = make_product(&rng, (shape){37, 50, 75}, (vm_compute)(i % 2), i / 2 % A_LAYOUTS,
                                     i / 2 / A_LAYOUTS % B_LAYOUTS, flags & 1, flags & 2);
            check_product(tables[t], &p, flags & 4);
            free_product(&p);
        }
        /* more than one row block, rows of A 2048 bytes apart, and rows of C long enough for rows of A to stay */
        static const shape large[] = {{300, 40, 512}, {70, 33, 2048}, {3, 1000, 9}, {600, 8, 33}, {300, 263, 70}};
        for (int i = 0; i < 10; i++) {
            product p =
                make_product(&rng, large[i / 2], (vm_compute)(i % 2), i % A_LAYOUTS, (i + 1) % B_LAYOUTS, false, false);
            check_product(tables[t], &p, i % 3 == 0);
            free_product(&p);
        }
    }
    vm_kernels_force(NULL);
}

static void test_gemm_empty(void **state) {
    (void)state;
    for (int t = 0; t < n_tables; t++) {
        vm_kernels_force(tables[t]);
        for (int type = VM_COMPUTE_F32; type <= VM_COMPUTE_BF16; type++) {
            float c[4] = {1, 2, 3, 4}, a[4] = {0};
            assert_int_equal(vm_panel_bytes((vm_compute)type, 0, 2), 0);
            vm_panel none = {.type = (vm_compute)type, .k = 0, .n = 2, .data = NULL};
            vm_gemm_job job = {
                .m = 2, .a = a, .a_m_stride = 1, .a_k_stride = 1, .b = &none, .c = c, .ldc = 2, .accumulate = true};
            assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
            assert_true(c[0] == 1 && c[3] == 4); /* C + nothing */
            job.m = 0;
            job.accumulate = false;
            assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
            assert_true(c[0] == 1 && c[3] == 4); /* no rows */
            job.m = 1;
            assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
            assert_true(c[0] == 0 && c[1] == 0 && c[2] == 3); /* an empty sum */
            assert_int_equal(vm_gemm(NULL, &job, 0), VMOER_OK);
        }
    }
    vm_kernels_force(NULL);
}

/* The bits of packed weights are one for all ISAs, special values included. */
static void test_panels_equal(void **state) {
    (void)state;
    static const float special[] = {0.0f,    -0.0f,         INFINITY,      -INFINITY,   NAN,        1e-40f,
                                    -1e-42f, 3.3961776e38f, 3.4028235e38f, 1.00390625f, 1.01171875f};
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 3);
    static const shape shapes[] = {{1, 1, 1}, {1, 17, 33}, {1, 70, 95}, {1, 16, 32}, {1, 5, 64}};
    for (size_t x = 0; x < sizeof shapes / sizeof *shapes; x++) {
        for (int i = 0; i < 2 * B_LAYOUTS * 2; i++) {
            product p = make_product(&rng, shapes[x], (vm_compute)(i % 2), A_ALONG_K, i / 2 % B_LAYOUTS, false,
                                     i / 2 / B_LAYOUTS);
            size_t count = (size_t)p.b_depth * (size_t)p.s.n;
            for (size_t j = 0; j < count; j += 3) p.b[j] = special[j / 3 % (sizeof special / sizeof *special)];
            size_t bytes = vm_panel_bytes(p.type, p.s.k, p.s.n);
            vm_kernels_force(tables[0]);
            vm_panel first = pack_panel(NULL, &p);
            for (int t = 1; t < n_tables; t++) {
                vm_kernels_force(tables[t]);
                vm_panel other = pack_panel(NULL, &p);
                assert_memory_equal(first.data, other.data, bytes);
                vm_free(other.data);
            }
            vm_free(first.data);
            free_product(&p);
        }
    }
    vm_kernels_force(NULL);
}

/* A row's bits do not depend on the other rows, on the threads, or on the other jobs. */
static void test_gemm_same_bits(void **state) {
    (void)state;
    enum { JOBS = 6 };
    static const int m_of_job[JOBS] = {300, 1, 21, 64, 5, 150}, n_of_job[JOBS] = {270, 150, 150, 300, 33, 150};
    vm_pool *pools[2];
    assert_int_equal(vm_pool_create(2, &pools[0]), VMOER_OK);
    assert_int_equal(vm_pool_create(3, &pools[1]), VMOER_OK);
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 4);
    for (int t = 0; t < n_tables; t++) {
        vm_kernels_force(tables[t]);
        for (int type = VM_COMPUTE_F32; type <= VM_COMPUTE_BF16; type++) {
            const int k = 200;
            vm_gemm_job jobs[JOBS];
            product p[JOBS];
            vm_panel panels[JOBS];
            float *alone[JOBS], *together[JOBS];
            for (int j = 0; j < JOBS; j++) {
                const int n = n_of_job[j];
                p[j] = make_product(&rng, (shape){m_of_job[j], n, k}, (vm_compute)type, j % A_LAYOUTS, j % B_LAYOUTS,
                                    j == 2, false);
                panels[j] = pack_panel(pools[0], &p[j]);
                alone[j] = calloc((size_t)m_of_job[j] * (size_t)n, sizeof(float));
                together[j] = calloc((size_t)m_of_job[j] * (size_t)n, sizeof(float));
                assert_true(alone[j] && together[j]);
                for (int i = 0; i < m_of_job[j]; i++) { /* row by row */
                    vm_gemm_job job = make_job(&p[j], &panels[j], alone[j] + (size_t)(i * n), (size_t)n, false);
                    job.m = 1;
                    if (job.m_index)
                        job.m_index += i;
                    else
                        job.a += (size_t)i * job.a_m_stride;
                    assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
                }
                jobs[j] = make_job(&p[j], &panels[j], together[j], (size_t)n, false);
            }
            for (int round = 0; round < 3; round++) {
                for (int j = 0; j < JOBS; j++)
                    memset(together[j], 0xff, (size_t)m_of_job[j] * (size_t)n_of_job[j] * sizeof(float));
                assert_int_equal(vm_gemm(round == 0 ? NULL : pools[round - 1], jobs, JOBS), VMOER_OK);
                for (int j = 0; j < JOBS; j++)
                    assert_memory_equal(alone[j], together[j],
                                        (size_t)m_of_job[j] * (size_t)n_of_job[j] * sizeof(float));
                memset(together[0], 0xff, (size_t)m_of_job[0] * (size_t)n_of_job[0] * sizeof(float));
                assert_int_equal(vm_gemm(round == 0 ? NULL : pools[round - 1], jobs, 1), VMOER_OK);
                assert_memory_equal(alone[0], together[0], (size_t)m_of_job[0] * (size_t)n_of_job[0] * sizeof(float));
            }
            for (int j = 0; j < JOBS; j++) {
                free_product(&p[j]);
                vm_free(panels[j].data);
                free(alone[j]);
                free(together[j]);
            }
        }
    }
    vm_kernels_force(NULL);
    vm_pool_free(pools[0]);
    vm_pool_free(pools[1]);
}

/* A product whose left side has a tail and whose panel got its last rows later is the product of the whole, to the bit.
 */
static void test_gemm_tail(void **state) {
    (void)state;
    static const struct {
        shape s;
        int tail;
    } cases[] = {
        {{40, 33, 49}, 1}, {{17, 16, 50}, 2}, {{70, 50, 96 + 24}, 24}, {{5, 20, 64 + 33}, 33}, {{3, 960, 578}, 2}};
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 6);
    for (int t = 0; t < n_tables; t++) {
        vm_kernels_force(tables[t]);
        for (int i = 0; i < 2 * (int)(sizeof cases / sizeof *cases); i++) {
            vm_compute type = (vm_compute)(i % 2);
            shape s = cases[i / 2].s;
            int tail = cases[i / 2].tail, body = s.k - tail;
            size_t m = (size_t)s.m, n = (size_t)s.n, k = (size_t)s.k, rows = m + 3;
            float *x = random_values(&rng, rows * k), *b = random_values(&rng, k * n); /* [m + 3, k], [k, n] */
            float *whole = calloc(m * n, sizeof *whole), *parts = calloc(m * n, sizeof *parts),
                  *last = malloc(m * (size_t)tail * sizeof *last);
            int32_t *index = random_index(&rng, s.m, (int)rows);
            assert_true(whole && parts && last);
            for (size_t r = 0; r < m; r++)
                memcpy(last + r * (size_t)tail, x + (size_t)index[r] * k + body, (size_t)tail * sizeof *last);
            vm_panel full = {.data = vm_malloc(1, vm_panel_bytes(type, s.k, s.n))},
                     top = {.data = vm_malloc(1, vm_panel_bytes(type, body, s.n))},
                     grown = {.type = type, .k = s.k, .n = s.n, .data = vm_malloc(1, vm_panel_bytes(type, s.k, s.n))};
            assert_true(full.data && top.data && grown.data);
            vm_panel_pack(NULL, &full, type, s.k, s.n, b, n, 1, NULL);
            vm_panel_pack(NULL, &top, type, body, s.n, b, n, 1, NULL);
            vm_panel_extend(&grown, &top);
            vm_panel_set_rows(&grown, body, tail, b, n); /* other rows first: all must be written over */
            vm_panel_set_rows(&grown, body, tail, b + (size_t)body * n, n);
            assert_memory_equal(full.data, grown.data, vm_panel_bytes(type, s.k, s.n));
            vm_gemm_job job = {
                .m = s.m, .a = x, .a_m_stride = k, .a_k_stride = 1, .m_index = index, .b = &full, .c = whole, .ldc = n};
            assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
            for (size_t r = 0; r < rows; r++)
                for (int l = body; l < s.k; l++) x[r * k + (size_t)l] = NAN; /* not read */
            job.b = &grown, job.c = parts, job.tail = last, job.tail_stride = (size_t)tail, job.tail_k = tail;
            assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
            assert_memory_equal(whole, parts, m * n * sizeof *whole);
            vm_free(full.data);
            vm_free(top.data);
            vm_free(grown.data);
            free(x);
            free(b);
            free(whole);
            free(parts);
            free(last);
            free(index);
        }
    }
    vm_kernels_force(NULL);
}

/* vm_multiply on rows packed by hand and gathered gives the bits of vm_gemm, in the rows and with the factors it is
 * told. */
static void test_multiply(void **state) {
    (void)state;
    static const shape shapes[] = {{1, 16, 1}, {33, 48, 40}, {300, 70, 96}, {31, 96, 576}, {17, 33, 512}};
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 5);
    for (int t = 0; t < n_tables; t++) {
        vm_kernels_force(tables[t]);
        for (int i = 0; i < 2 * (int)(sizeof shapes / sizeof *shapes); i++) {
            vm_compute type = (vm_compute)(i % 2);
            shape s = shapes[i / 2];
            product p = make_product(&rng, s, type, A_ALONG_K, B_ALONG_K, true, false);
            vm_panel panel = pack_panel(NULL, &p);
            size_t m = (size_t)s.m, n = (size_t)s.n, ldc = n + 5;
            float *whole = calloc(m * n, sizeof *whole), *c = malloc((m + 9) * ldc * sizeof *c),
                  *old = malloc((m + 9) * ldc * sizeof *old);
            float *scale = random_values(&rng, m);
            int32_t *where = malloc(m * sizeof *where);
            void *all = vm_malloc(1, vm_rows_bytes(type, p.a_rows, s.k)),
                 *some = vm_malloc(1, vm_rows_bytes(type, s.m + 2, s.k));
            assert_true(whole && c && old && where && all && some);
            vm_gemm_job job = make_job(&p, &panel, whole, n, false);
            assert_int_equal(vm_gemm(NULL, &job, 1), VMOER_OK);
            vm_rows from = vm_rows_at(type, s.k, all), rows = vm_rows_at(type, s.k, some);
            vm_rows_set(&from, 0, p.a_rows, s.k, p.a, p.a_m_stride);
            vm_rows_gather(&rows, 2, s.m, &from, p.m_index);
            for (size_t r = 0; r < m; r++) where[r] = (int32_t)(m + 8 - r); /* any order, each row its own */
            for (int flags = 0; flags < 8; flags++) {
                bool scattered = flags & 1, scaled = flags & 2, accumulate = flags & 4;
                int column = s.n > 32 ? 32 : 0, columns = s.n > 48 ? 16 : s.n - column;
                for (size_t x = 0; x < (m + 9) * ldc; x++) c[x] = old[x] = (float)(x % 7) - 3;
                vm_multiply(&(vm_product){.a = &rows,
                                          .first = 2,
                                          .m = s.m,
                                          .b = &panel,
                                          .column = column,
                                          .columns = columns,
                                          .c = c,
                                          .ldc = ldc,
                                          .c_index = scattered ? where : NULL,
                                          .scale = scaled ? scale : NULL,
                                          .accumulate = accumulate});
                for (size_t r = 0; r < m; r++) {
                    float *row = (scattered ? (size_t)where[r] : r) * ldc + c, *before = row - c + old;
                    for (int x = 0; x < columns; x++) {
                        float value = whole[r * n + (size_t)(column + x)];
                        if (scaled) value *= scale[r];
                        if (accumulate) value += before[x];
                        assert_true(row[x] == value);
                        row[x] = before[x];
                    }
                }
                assert_memory_equal(c, old, (m + 9) * ldc * sizeof *c); /* and nothing else was touched */
            }
            vm_free(all);
            vm_free(some);
            vm_free(panel.data);
            free(whole);
            free(c);
            free(old);
            free(scale);
            free(where);
            free_product(&p);
        }
    }
    vm_kernels_force(NULL);
}

/* ---- row kernels ---- */

static const int lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127, 576};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

#define CHECK(value, truth, budget)                                                                                 \
    do {                                                                                                            \
        double v_ = (value), t_ = (truth), b_ = (budget);                                                           \
        if (!(fabs(v_ - t_) <= b_)) fail_msg("%s: %s = %.9g, true %.9g, budget %.3g", k->name, #value, v_, t_, b_); \
    } while (0)

/* Rounding errors of one element: a handful of operations. */
#define SOME(x) (8 * 0x1p-24 * fabs(x) + 1e-44)

static void test_outer(void **state) {
    (void)state;
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 8);
    for (int t = 0; t < n_tables; t++) {
        const vm_kernels *k = tables[t];
        for (int i = 0; i < 60; i++) {
            int rows = 1 + i % 15, n = lengths[i % N_LENGTHS], m = i % 4 ? 1 + 7 * (i % 13) : 0;
            size_t lds = (size_t)rows + 2, ldx = (size_t)n + 3, ldc = (size_t)n + 1;
            float *s = random_values(&rng, (size_t)m * lds), *x = random_values(&rng, (size_t)(m + 4) * ldx),
                  *c = random_values(&rng, (size_t)rows * ldc), *old = malloc((size_t)rows * ldc * sizeof *old);
            int32_t *index = i % 2 ? random_index(&rng, m, m + 4) : NULL;
            assert_non_null(old);
            memcpy(old, c, (size_t)rows * ldc * sizeof *old);
            k->outer(rows, n, m, s, lds, x, ldx, index, c, ldc);
            for (size_t r = 0; r < (size_t)rows; r++) {
                for (size_t j = 0; j < (size_t)n; j++) {
                    double truth = (double)old[r * ldc + j], absolute = fabs(truth);
                    for (size_t q = 0; q < (size_t)m; q++) {
                        double term =
                            (double)s[q * lds + r] * (double)x[(size_t)(index ? index[q] : (int32_t)q) * ldx + j];
                        truth += term, absolute += fabs(term);
                    }
                    CHECK(c[r * ldc + j], truth, (m + 2) * 0x1p-24 * absolute);
                }
                assert_true(c[r * ldc + (size_t)n] == old[r * ldc + (size_t)n]);
            }
            free(s);
            free(x);
            free(c);
            free(old);
            free(index);
        }
    }
}

static void test_linear_rows(void **state) {
    (void)state;
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 5);
    for (int t = 0; t < n_tables; t++) {
        const vm_kernels *k = tables[t];
        for (int l = 0; l < N_LENGTHS; l++) {
            int n = lengths[l];
            size_t size = (size_t)n;
            float *x = random_values(&rng, size), *y = random_values(&rng, size), *w = random_values(&rng, size);
            float *out = random_values(&rng, size), *dx = random_values(&rng, size), *dw = random_values(&rng, size);
            double sum = 0, absolute = 0, squares = 0, along = 0, along_absolute = 0;
            for (int i = 0; i < n; i++) {
                sum += (double)x[i] * y[i];
                absolute += fabs((double)x[i] * y[i]);
                squares += (double)x[i] * x[i];
                along += (double)x[i] * y[i] * w[i];
                along_absolute += fabs((double)x[i] * y[i] * w[i]);
            }
            CHECK(k->dot(x, y, n), sum, (n + 2) * 0x1p-24 * absolute);

            memcpy(out, y, size * sizeof *out);
            k->axpy(0.7f, x, out, n);
            for (int i = 0; i < n; i++)
                CHECK(out[i], y[i] + (double)0.7f * x[i], 0x1p-23 * (fabs((double)y[i]) + fabs(0.7 * x[i])));

            double inverse = 1 / sqrt(squares / n + 1e-5);
            float inv_rms = k->rmsnorm(x, w, 1e-5f, out, n);
            CHECK(inv_rms, inverse, (n + 8) * 0x1p-24 * inverse);
            for (int i = 0; i < n; i++)
                CHECK(out[i], x[i] * inverse * w[i], (n + 10) * 0x1p-24 * fabs(x[i] * inverse * w[i]));
            memcpy(out, x, size * sizeof *out);
            assert_true(k->rmsnorm(out, w, 1e-5f, out, n) == inv_rms); /* in place */

            float *before = malloc(2 * size * sizeof *before);
            assert_non_null(before);
            memcpy(before, dx, size * sizeof *before);
            memcpy(before + n, dw, size * sizeof *before);
            k->rmsnorm_backward(x, w, (float)inverse, y, dx, dw, n);
            double cube = inverse * inverse * inverse / n;
            for (int i = 0; i < n; i++) {
                double first = (double)y[i] * w[i] * inverse, second = x[i] * along * cube;
                double budget =
                    (n + 16) * 0x1p-24 * (fabs(first) + fabs((double)before[i]) + fabs(x[i] * along_absolute * cube));
                CHECK(dx[i], before[i] + first - second, budget);
                CHECK(dw[i], before[n + i] + y[i] * x[i] * inverse,
                      SOME(fabs((double)before[n + i]) + fabs(y[i] * x[i] * inverse)));
            }
            memcpy(out, dx, size * sizeof *out);
            memcpy(dx, before, size * sizeof *dx);
            k->rmsnorm_backward(x, w, (float)inverse, y, dx, NULL, n);
            assert_memory_equal(out, dx, size * sizeof *out); /* dw is optional and changes nothing else */
            free(before);

            int half = n; /* rope turns 2 n values: x then y */
            float *pair = malloc(2 * size * sizeof *pair), *cosine = malloc(size * sizeof *cosine),
                  *sine = malloc(size * sizeof *sine);
            assert_true(pair && cosine && sine);
            memcpy(pair, x, size * sizeof *x);
            memcpy(pair + n, y, size * sizeof *y);
            for (int i = 0; i < n; i++) cosine[i] = cosf(w[i]), sine[i] = sinf(w[i]);
            k->rope(pair, cosine, sine, half, 1.0f);
            for (int i = 0; i < n; i++) {
                double scale = SOME(fabs((double)x[i]) + fabs((double)y[i]));
                CHECK(pair[i], (double)x[i] * cosine[i] - (double)y[i] * sine[i], scale);
                CHECK(pair[n + i], (double)y[i] * cosine[i] + (double)x[i] * sine[i], scale);
            }
            k->rope(pair, cosine, sine, half, -1.0f);
            for (int i = 0; i < n; i++) {
                CHECK(pair[i], x[i], 2 * SOME(fabs((double)x[i]) + fabs((double)y[i])));
                CHECK(pair[n + i], y[i], 2 * SOME(fabs((double)x[i]) + fabs((double)y[i])));
            }
            free(pair), free(cosine), free(sine);
            free(x), free(y), free(w), free(out), free(dx), free(dw);
        }
    }
}

static void test_softmax(void **state) {
    (void)state;
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 6);
    static const float scales[] = {1, 20, 1e4f};
    for (int t = 0; t < n_tables; t++) {
        const vm_kernels *k = tables[t];
        for (int l = 0; l < 3 * N_LENGTHS; l++) {
            int n = lengths[l / 3];
            float *x = random_values(&rng, (size_t)n), *y = malloc((size_t)n * sizeof *y);
            assert_non_null(y);
            double max = -INFINITY, sum = 0;
            for (int i = 0; i < n; i++) {
                x[i] *= scales[l % 3];
                if (n > 3 && i % 5 == 1) x[i] = -INFINITY;
                max = x[i] > max ? x[i] : max;
            }
            for (int i = 0; i < n; i++) sum += exp(x[i] - max);
            memcpy(y, x, (size_t)n * sizeof *y);
            float lse = k->softmax(y, n);
            double truth = max + log(sum), budget = 4 * 0x1p-24 * (fabs(truth) + fabs(max)) + (n + 8) * 0x1p-24;
            CHECK(lse, truth, budget);
            CHECK(k->logsumexp(x, n), truth, budget);
            for (int i = 0; i < n; i++) { /* x - max is rounded once: relative 2^-24 |x - max| */
                double p = exp(x[i] - max) / sum;
                if (x[i] == -INFINITY)
                    assert_true(y[i] == 0);
                else
                    CHECK(y[i], p, p * 0x1p-24 * (n + 12 + fabs(x[i] - max)) + 3e-45);
            }
            float *dp = random_values(&rng, (size_t)n);
            double mean = 0, absolute = 0;
            for (int i = 0; i < n; i++) mean += (double)y[i] * dp[i], absolute += fabs((double)y[i] * dp[i]);
            memcpy(x, dp, (size_t)n * sizeof *x);
            k->softmax_backward(y, 0.3f, dp, n);
            for (int i = 0; i < n; i++) {
                double error = SOME(x[i]) + (n + 8) * 0x1p-24 * absolute;
                CHECK(dp[i], 0.3f * y[i] * (x[i] - mean), 0.3f * y[i] * error + SOME(0.3f * y[i] * (x[i] - mean)));
            }
            free(x);
            free(y);
            free(dp);
        }
        float masked[19], wild[19];
        for (int i = 0; i < 19; i++) masked[i] = -INFINITY, wild[i] = 1;
        assert_true(k->logsumexp(masked, 19) == -INFINITY);
        assert_true(k->softmax(masked, 19) == -INFINITY);
        for (int i = 0; i < 19; i++) assert_true(masked[i] == 0);
        wild[3] = NAN;
        assert_true(isnan(k->logsumexp(wild, 19)));
        assert_true(isnan(k->softmax(wild, 19)));
        for (int i = 0; i < 19; i++) assert_true(isnan(wild[i]));
    }
}

static void test_swiglu(void **state) {
    (void)state;
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 7);
    for (int t = 0; t < n_tables; t++) {
        const vm_kernels *k = tables[t];
        for (int l = 0; l < N_LENGTHS; l++) {
            int n = lengths[l];
            size_t bytes = (size_t)n * sizeof(float);
            float *gate = random_values(&rng, (size_t)n), *up = random_values(&rng, (size_t)n),
                  *dout = random_values(&rng, (size_t)n);
            float *out = malloc(bytes), *dgate = malloc(bytes), *dup = malloc(bytes);
            assert_true(out && dgate && dup);
            for (int i = 0; i < n; i++) gate[i] *= i % 3 == 0 ? 30 : 3;
            k->swiglu(gate, up, out, n);
            k->swiglu_backward(gate, up, dout, dgate, dup, n);
            for (int i = 0; i < n; i++) {
                double z = gate[i], s = 1 / (1 + exp(-z));
                double below = z < -87 ? 1e-35 : 0; /* e^-z overflows: 0 stands for what is this small */
                CHECK(out[i], z * s * up[i], SOME(z * s * up[i]) + below);
                CHECK(dup[i], dout[i] * z * s, SOME(dout[i] * z * s) + below);
                CHECK(dgate[i], dout[i] * up[i] * s * (1 + z * (1 - s)),
                      SOME(dout[i] * up[i] * s * (1 + fabs(z) * 2)) + below);
            }
            float *g = malloc(bytes), *u = malloc(bytes);
            assert_true(g && u);
            memcpy(g, gate, bytes);
            memcpy(u, up, bytes);
            k->swiglu_backward(g, u, dout, g, u, n); /* in place */
            assert_memory_equal(g, dgate, bytes);
            assert_memory_equal(u, dup, bytes);
            memcpy(g, gate, bytes);
            k->swiglu(g, up, g, n);
            assert_memory_equal(g, out, bytes);
            free(g), free(u), free(gate), free(up), free(dout), free(out), free(dgate), free(dup);
        }
        /* The ends of the exponential: silu(z) -> z above, -> 0 below. */
        const float gate[6] = {88.5f, 200, 3e38f, -88.5f, -200, NAN}, one[6] = {1, 1, 1, 1, 1, 1};
        float out[6];
        k->swiglu(gate, one, out, 6);
        assert_true(out[0] == 88.5f && out[1] == 200 && out[2] == 3e38f);
        assert_true(fabsf(out[3]) < 1e-35f && out[4] == 0 && isnan(out[5]));
    }
}

/* Softmax of (0, x) for x down to the smallest float: the exponential within 2 units in the last place. */
static void test_exponential(void **state) {
    (void)state;
    for (int t = 0; t < n_tables; t++) {
        const vm_kernels *k = tables[t];
        for (float x = -17.5f; x > -103.0f; x -= 0.0137f) { /* below -17.4 the sum is exactly 1 */
            float pair[2] = {0, x};
            k->softmax(pair, 2);
            double truth = exp((double)x), unit = truth > 0x1p-126 ? truth * 0x1p-23 : 0x1p-149;
            CHECK(pair[1], truth, 2 * unit);
        }
    }
}

/* A row kernel's result does not depend on where its operands lie. */
static void test_rows_any_alignment(void **state) {
    (void)state;
    vm_rng rng = vm_rng_start(7, VM_RNG_INIT, 8);
    enum { N = 77 };
    float *x = random_values(&rng, N), *y = random_values(&rng, N);
    for (int t = 0; t < n_tables; t++) {
        const vm_kernels *k = tables[t];
        for (int shift = 1; shift < 16; shift++) {
            float moved[N + 16], other[N + 16];
            memcpy(moved + shift, x, N * sizeof *x);
            memcpy(other + 16 - shift, y, N * sizeof *y);
            assert_true(k->dot(x, y, N) == k->dot(moved + shift, other + 16 - shift, N));
            assert_true(k->logsumexp(x, N) == k->logsumexp(moved + shift, N));
        }
    }
    free(x);
    free(y);
}

/* ---- the choice of a table ---- */

static void test_tables(void **state) {
    (void)state;
    assert_true(n_tables >= 1);
    assert_string_equal(tables[0]->name, "ref");
    const vm_kernels *usual = vm_kernels_get(), *one[1];
    assert_int_equal(vm_kernels_all(one, 1), 1);
    for (int t = 0; t < n_tables; t++) {
        vm_kernels_force(tables[t]);
        assert_ptr_equal(vm_kernels_get(), tables[t]);
    }
    vm_kernels_force(NULL);
    assert_ptr_equal(vm_kernels_get(), usual);
}

static char self_path[4096];

/* This program again, with VMOER_ISA set, printing which table it got; through TEST_EMULATOR where one runs us. */
static void ask_with_isa(const char *isa, char *out, size_t size) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        setenv("VMOER_ISA", isa, 1);
        const char *emulator = getenv("TEST_EMULATOR");
        if (emulator) execlp(emulator, emulator, self_path, "isa", (char *)NULL);
        execl(self_path, self_path, "isa", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t got;
    while (used < size - 1 && (got = read(ends[0], out + used, size - 1 - used)) > 0) used += (size_t)got;
    out[used] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_isa_override(void **state) {
    (void)state;
    char got[256], want[256];
    for (int t = 0; t < n_named; t++) {
        ask_with_isa(tables[t]->name, got, sizeof got);
        snprintf(want, sizeof want, "%s %d", tables[t]->name, VMOER_OK);
        assert_string_equal(got, want);
    }
    snprintf(want, sizeof want, "%s %d", tables[n_named - 1]->name, VMOER_ERROR_UNSUPPORTED);
    ask_with_isa("sparc", got, sizeof got);
    assert_string_equal(got, want);
    snprintf(want, sizeof want, "%s %d", tables[n_named - 1]->name, VMOER_OK);
    ask_with_isa("", got, sizeof got);
    assert_string_equal(got, want);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "isa") == 0) {
        printf("%s %d", vm_kernels_get()->name, vm_kernels_status());
        return 0;
    }
    if (readlink("/proc/self/exe", self_path, sizeof self_path - 1) < 0) return 1;
    n_tables = n_named = vm_kernels_all(tables, MAX_TABLES - 1);
#if defined(__x86_64__)
    /* A CPU with vdpbf16ps also runs what its elder sisters get. */
    for (int t = 0; t < n_named; t++)
        if (tables[t] == &vm_kernels_avx512_bf16) tables[n_tables++] = &vm_kernels_avx512;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm_against_truth),
        cmocka_unit_test(test_gemm_every_layout),
        cmocka_unit_test(test_gemm_empty),
        cmocka_unit_test(test_panels_equal),
        cmocka_unit_test(test_gemm_same_bits),
        cmocka_unit_test(test_gemm_tail),
        cmocka_unit_test(test_multiply),
        cmocka_unit_test(test_outer),
        cmocka_unit_test(test_linear_rows),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_exponential),
        cmocka_unit_test(test_rows_any_alignment),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_isa_override),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
