/* test_router_strips.c: strips of 16 tokens. Products are those of f32; every ISA gives what ref gives, for any number
 * of experts and tokens; a strip's lanes never meet; tables of draws and memory kept between calls do not show. */
#include "base/rng.h"
#include "router/router_internal.h"
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { T = 37, DIM = 24, WIDTH = 20 };

static void fill(float *x, size_t n, float scale, uint32_t stream) {
    vm_rng rng = vm_rng_start(3, VM_RNG_INIT, stream);
    for (size_t i = 0; i < n; i++) x[i] = scale * vm_rng_normal(&rng);
}

static vm_router *make_router(const char *kind, int n) {
    vm_router_config config = {.n_layers = 1,
                               .layers = {1},
                               .n_experts = n,
                               .dim = DIM,
                               .width = WIDTH,
                               .prior_scale = 1,
                               .initial_scale = 0.4f,
                               .temperature = 1,
                               .rank = strcmp(kind, "vglr-lr") == 0 ? 3 : 0};
    strcpy(config.kind, kind);
    vm_router *r;
    assert_int_equal(vm_router_create(&config, &r), VMOER_OK);
    vm_param_list list = vm_router_params(r);
    for (size_t i = 0; i < list.count; i++) {
        float change[20000];
        size_t size = vm_param_size(list.items[i]);
        assert_true(size <= 20000);
        fill(change, size, 0.15f, 10 + (uint32_t)i);
        for (size_t j = 0; j < size; j++) list.items[i]->value[j] += change[j];
    }
    return r;
}

typedef struct answer {
    float p[T * 40], trace[T], projected[T];
} answer;

static float u[T * DIM], logits[T * 40];
static vm_token_key keys[T];

static void infer(const vm_router *r, int n, vm_inference way, int samples, uint64_t seed, answer *a) {
    fill(u, T * DIM, 1, 1);
    fill(logits, (size_t)(T * n), 1.5f, 2);
    vm_route route = {.layer = 1, .n_tokens = T, .u = u, .logits = logits, .tokens = keys, .seed = seed, .sign = 1};
    memset(a, 0, sizeof *a);
    assert_int_equal(vm_router_infer(r, NULL, &route, way, samples,
                                     &(vm_routing){.p = a->p, .trace = a->trace, .trace_projected = a->projected}),
                     VMOER_OK);
}

static void assert_close(const float *x, const float *y, int n, double tolerance) {
    for (int i = 0; i < n; i++)
        if (!(fabs((double)x[i] - y[i]) <= tolerance * (1 + fabs((double)y[i]))))
            fail_msg("[%d]: %.9g, expected %.9g", i, (double)x[i], (double)y[i]);
}

static void test_every_isa(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 7, 8, 9, 16, 33, 40};
    static const char *const kinds[] = {"vglr-mf", "vglr-fc", "vglr-lr"};
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int kind = 0; kind < 3; kind++) {
            int n = sizes[s];
            vm_router *r = make_router(kinds[kind], n);
            for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
                answer expected, got;
                vm_kernels_force(tables[0]);
                infer(r, n, way, 19, 5, &expected);
                for (int t = 1; t < n_tables; t++) {
                    vm_kernels_force(tables[t]);
                    infer(r, n, way, 19, 5, &got);
                    assert_close(got.p, expected.p, T * n, 3e-6);
                    assert_close(got.trace, expected.trace, T, 5e-6);
                    assert_close(got.projected, expected.projected, T, 5e-6);
                }
                for (int t = 0; t < T; t++) {
                    double sum = 0;
                    for (int i = 0; i < n; i++) sum += expected.p[t * n + i];
                    assert_true(fabs(sum - 1) < 1e-5);
                }
            }
            vm_kernels_force(NULL);
            vm_router_free(r);
        }
    }
}

/* W x + bias to the rounding of f32, at depths of one element and of many; a NaN stays in its lane. */
static void test_product(void **state) {
    (void)state;
    static const int shapes[][2] = {{1, 1}, {5, 3}, {64, 33}, {70, 64}, {130, 100}, {65, 513}, {3, 1100}};
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int m = shapes[s][0], k = shapes[s][1];
        size_t padded = (size_t)vm_strip_padded(m), size = (size_t)m * (size_t)k;
        float *w = vm_calloc(size, sizeof *w), *bias = vm_calloc(padded, sizeof *bias);
        float *x = vm_calloc((size_t)k * VM_STRIP, sizeof *x), *y = vm_calloc(padded * VM_STRIP, sizeof *y);
        void *packed = vm_calloc(vm_strip_bytes(m, k), 1);
        fill(w, size, 1, 20), fill(bias, (size_t)m, 1, 21), fill(x, (size_t)k * VM_STRIP, 1, 22);
        x[(k - 1) * VM_STRIP + 3] = NAN;
        for (int table = 0; table < n_tables; table++) {
            tables[table]->strip_pack(w, m, k, packed);
            tables[table]->strip_product(packed, m, k, bias, x, y);
            for (int i = 0; i < m; i++) {
                assert_true(isnan(y[i * VM_STRIP + 3]));
                for (int lane = 0; lane < VM_STRIP; lane++) {
                    double sum = bias[i], size_of_terms = fabs(sum);
                    for (int l = 0; l < k; l++) {
                        double term = (double)w[i * k + l] * x[l * VM_STRIP + lane];
                        sum += term, size_of_terms += fabs(term);
                    }
                    if (lane != 3) assert_true(fabs(y[i * VM_STRIP + lane] - sum) <= 2.5e-7 * size_of_terms);
                }
            }
        }
        vm_free(w), vm_free(bias), vm_free(x), vm_free(y), vm_free(packed);
    }
}

/* What the Gaussian kernels say of one strip. */
typedef struct gaussian_answer {
    float check[VM_STRIP], trace[VM_STRIP], projected[VM_STRIP], p[4][40 * VM_STRIP];
} gaussian_answer;

/* L of `rank` columns below the diagonal, made of the triangle raw[n(n+1)/2][16]. */
static void ask_gaussians(const vm_kernels *k, int n, int rank, const float *raw, const float *mean, const float *draws,
                          gaussian_answer *a) {
    float scale[40 * 41 / 2 * VM_STRIP], scratch[(VM_DRAW_BLOCK + 2) * 40 * VM_STRIP], *row = scale;
    for (int i = 0; i < n; i++, raw += i * VM_STRIP) {
        size_t below = (size_t)(i < rank ? i : rank) * VM_STRIP;
        memcpy(row, raw, below * sizeof *row);
        memcpy(row + below, raw + i * VM_STRIP, VM_STRIP * sizeof *row);
        row += below + VM_STRIP;
    }
    vm_gaussians g = {.n = n, .rank = rank, .scale = scale, .mean = mean};
    memset(a, 0, sizeof *a);
    k->gaussian_scale(&g, -10, 5, a->check, a->trace, a->projected, scratch);
    k->gaussian_sample(&g, draws, 11, a->p[0], scratch);
    k->gaussian_tilted(&g, a->p[1], scratch);
    k->gaussian_closed(&g, a->p[2], scratch);
    k->gaussian_draw(&g, draws, a->p[3]);
}

/* A rank is the triangle without the columns it lacks: 0 is the diagonal, n - 1 and beyond the triangle bit for bit. */
static void test_every_rank(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 9, 16, 33, 40};
    static float raw[40 * 41 / 2 * VM_STRIP], without[40 * 41 / 2 * VM_STRIP], mean[40 * VM_STRIP],
        draws[40 * VM_STRIP];
    static gaussian_answer full, expected, got;
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    fill(mean, 40 * VM_STRIP, 1, 31), fill(draws, 40 * VM_STRIP, 1, 32);
    for (int s = 0; s < 6; s++) {
        int n = sizes[s], size = n * (n + 1) / 2 * VM_STRIP;
        fill(raw, (size_t)size, 0.2f, 30);
        for (int table = 0; table < n_tables; table++) {
            ask_gaussians(tables[table], n, n - 1, raw, mean, draws, &full);
            for (int rank = 0; rank <= n + 1; rank++) {
                memcpy(without, raw, sizeof raw);
                for (int i = 0; i < n; i++)
                    for (int j = rank; j < i; j++)
                        memset(without + (i * (i + 1) / 2 + j) * VM_STRIP, 0, VM_STRIP * sizeof *without);
                ask_gaussians(tables[table], n, n - 1, without, mean, draws, &expected);
                ask_gaussians(tables[table], n, rank, raw, mean, draws, &got);
                assert_close(got.trace, expected.trace, VM_STRIP, 1e-6);
                assert_close(got.projected, expected.projected, VM_STRIP, 1e-6);
                for (int way = 0; way < 4; way++) assert_close(got.p[way], expected.p[way], n * VM_STRIP, 2e-6);
                assert_int_equal(memcmp(&got, &full, sizeof got) == 0, rank >= n - 1);
            }
        }
    }
}

/* A lane's draw is mean + L eps by hand. */
static void test_a_draw(void **state) {
    (void)state;
    enum { N = 9, RANK = 3, SIZE = 1 + 2 + 3 + 6 * 4 };
    float scale[SIZE * VM_STRIP], mean[N * VM_STRIP], eps[N * VM_STRIP], l[N * VM_STRIP];
    fill(scale, SIZE * VM_STRIP, 1, 40), fill(mean, N * VM_STRIP, 1, 41), fill(eps, N * VM_STRIP, 1, 42);
    vm_gaussians g = {.n = N, .rank = RANK, .scale = scale, .mean = mean};
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (int table = 0; table < n_tables; table++) {
        tables[table]->gaussian_draw(&g, eps, l);
        for (int lane = 0; lane < VM_STRIP; lane++) {
            for (int i = 0, at = 0; i < N; i++) {
                double expected = mean[i * VM_STRIP + lane];
                for (int j = 0; j < i && j < RANK; j++)
                    expected += (double)scale[at++ * VM_STRIP + lane] * eps[j * VM_STRIP + lane];
                expected += (double)scale[at++ * VM_STRIP + lane] * eps[i * VM_STRIP + lane];
                assert_true(fabs(l[i * VM_STRIP + lane] - expected) < 2e-6 * (1 + fabs(expected)));
            }
        }
    }
}

/* A token that is not finite is named and leaves its neighbours in the strip as they are. */
static void test_lanes_never_meet(void **state) {
    (void)state;
    enum { N = 8 };
    vm_router *r = make_router("vglr-fc", N);
    for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
        answer good, bad;
        infer(r, N, way, 5, 5, &good);
        u[3 * DIM] = INFINITY;
        vm_route route = {.layer = 1, .n_tokens = T, .u = u, .logits = logits, .tokens = keys, .seed = 5, .sign = 1};
        assert_int_equal(
            vm_router_infer(r, NULL, &route, way, 5,
                            &(vm_routing){.p = bad.p, .trace = bad.trace, .trace_projected = bad.projected}),
            VMOER_ERROR_NUMERIC);
        for (int t = 0; t < T; t++) {
            if (t != 3) assert_memory_equal(bad.p + t * N, good.p + t * N, N * sizeof(float));
            if (t != 3) assert_memory_equal(bad.trace + t, good.trace + t, sizeof(float));
        }
    }
    vm_router_free(r);
}

/* The table kept from the last call serves the same (seed, samples) only. */
static void test_draws_are_kept_for_what_they_are(void **state) {
    (void)state;
    enum { N = 8 };
    vm_router *r = make_router("vglr-fc", N), *other = make_router("vglr-fc", N);
    answer a, b;
    infer(r, N, VM_INFERENCE_SAMPLE, 9, 5, &a);
    infer(r, N, VM_INFERENCE_SAMPLE, 9, 5, &b);
    assert_memory_equal(&a, &b, sizeof a);
    infer(r, N, VM_INFERENCE_SAMPLE, 9, 6, &b);
    assert_memory_not_equal(a.p, b.p, sizeof a.p);
    infer(other, N, VM_INFERENCE_SAMPLE, 9, 6, &a);
    assert_memory_equal(&a, &b, sizeof a);
    infer(r, N, VM_INFERENCE_SAMPLE, 20, 6, &b);
    vm_router_free(other);
    other = make_router("vglr-fc", N);
    infer(other, N, VM_INFERENCE_SAMPLE, 20, 6, &a);
    assert_memory_equal(&a, &b, sizeof a);
    vm_router_free(r);
    vm_router_free(other);
}

typedef struct caller {
    const vm_router *r;
    uint64_t seed;
    answer expected;
    int wrong;
} caller;

static void *call_often(void *context) {
    caller *c = context;
    for (int i = 0; i < 50; i++) {
        answer a = {0};
        vm_route route = {
            .layer = 1, .n_tokens = T, .u = u, .logits = logits, .tokens = keys, .seed = c->seed, .sign = 1};
        if (vm_router_infer(c->r, NULL, &route, VM_INFERENCE_SAMPLE, 9,
                            &(vm_routing){.p = a.p, .trace = a.trace, .trace_projected = a.projected}) != VMOER_OK ||
            memcmp(&a, &c->expected, sizeof a) != 0)
            c->wrong++;
    }
    return NULL;
}

/* Many callers of one router, with tables of their own. */
static void test_callers_at_once(void **state) {
    (void)state;
    enum { N = 8, CALLERS = 4 };
    vm_router *r = make_router("vglr-fc", N);
    assert_int_equal(vm_router_pack(r), VMOER_OK);
    static caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (caller){.r = r, .seed = (uint64_t)(i / 2)};
        infer(r, N, VM_INFERENCE_SAMPLE, 9, callers[i].seed, &callers[i].expected);
    }
    for (int i = 0; i < CALLERS; i++) assert_int_equal(pthread_create(&threads[i], NULL, call_often, &callers[i]), 0);
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < CALLERS; i++) assert_int_equal(callers[i].wrong, 0);
    vm_router_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_product),          cmocka_unit_test(test_every_isa),
        cmocka_unit_test(test_every_rank),       cmocka_unit_test(test_a_draw),
        cmocka_unit_test(test_lanes_never_meet), cmocka_unit_test(test_draws_are_kept_for_what_they_are),
        cmocka_unit_test(test_callers_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
