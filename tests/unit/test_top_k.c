/* test_top_k.c: the choice of experts against the rule said literally: K times the largest that is not taken, the first
 * of equals. */
#include "base/rng.h"
#include "model/ffn.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void rule(const float *p, int n, int k, int32_t *chosen) {
    for (int i = 0; i < k; i++) {
        int best = -1;
        for (int e = 0; e < n; e++) {
            bool taken = false;
            for (int j = 0; j < i; j++) taken |= chosen[j] == e;
            if (!taken && (best < 0 || p[e] > p[best])) best = e;
        }
        chosen[i] = best;
    }
}

static void test_order(void **state) {
    (void)state;
    static const float p[] = {0.1f, 0.3f, 0.1f, 0.3f, 0.2f};
    static const int32_t expected[] = {1, 3, 4, 0, 2};
    int32_t chosen[5];
    for (int k = 1; k <= 5; k++) {
        vm_top_k(p, 5, k, chosen);
        assert_memory_equal(chosen, expected, (size_t)k * sizeof *chosen);
    }
    static const float equal[64];
    int32_t many[64];
    vm_top_k(equal, 64, 64, many);
    for (int i = 0; i < 64; i++) assert_int_equal(many[i], i);
}

static void expect_rule(const float *p, int n, int k) {
    int32_t chosen[64], expected[64];
    vm_top_k(p, n, k, chosen);
    rule(p, n, k, expected);
    assert_memory_equal(chosen, expected, (size_t)k * sizeof *chosen);
}

/* Values from few to many distinct ones, with both zeros and both infinities, and NaN in every place. */
static void test_any_input(void **state) {
    (void)state;
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.0f, -1.0f};
    vm_rng rng = vm_rng_start(1, VM_RNG_TEXT, 0);
    for (int round = 0; round < 20000; round++) {
        int n = 1 + (int)vm_rng_below(&rng, 64), k = 1 + (int)vm_rng_below(&rng, (uint32_t)n);
        uint32_t distinct = 1 + vm_rng_below(&rng, 100), specials = vm_rng_below(&rng, 4);
        float p[64];
        for (int i = 0; i < n; i++)
            p[i] = vm_rng_below(&rng, 8) < specials ? special[vm_rng_below(&rng, 7)]
                                                    : (float)vm_rng_below(&rng, distinct) / (float)distinct;
        expect_rule(p, n, k);
    }
}

static void test_many_experts(void **state) {
    (void)state;
    enum { N = VM_TOP_K_MAX, K = 32 };
    float *p = malloc(N * sizeof *p);
    int32_t *all = malloc(N * sizeof *all), expected[K];
    vm_rng rng = vm_rng_start(1, VM_RNG_TEXT, 1);
    for (int i = 0; i < N; i++) p[i] = (float)vm_rng_below(&rng, 1000);
    rule(p, N, K, expected);
    vm_top_k(p, N, K, all);
    assert_memory_equal(all, expected, sizeof expected);
    vm_top_k(p, N, N, all);
    assert_memory_equal(all, expected, sizeof expected);
    for (int i = 1; i < N; i++)
        assert_true(p[all[i - 1]] > p[all[i]] || (p[all[i - 1]] == p[all[i]] && all[i - 1] < all[i]));
    free(p), free(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_any_input),
        cmocka_unit_test(test_many_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
