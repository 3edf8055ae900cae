/* test_rng.c: the generator against its published vector, the distributions against their moments. */
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The seed whose key is 0 for a purpose: mix(0) = 0 (see rng.c). */
static uint64_t seed_of_zero_key(vm_rng_purpose purpose) {
    return (uint64_t)0 - (uint64_t)purpose * 0x9e3779b97f4a7c15u;
}

static void block_is_philox(void **state) {
    (void)state;
    static const uint32_t zero[4] = {0};
    /* Random123's known answer for philox4x32, 10 rounds, counter 0, key 0. */
    static const uint32_t answer[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    for (int purpose = VM_RNG_INIT; purpose <= VM_RNG_TEXT; purpose++) {
        uint32_t out[4];
        vm_rng_block(seed_of_zero_key((vm_rng_purpose)purpose), (vm_rng_purpose)purpose, zero, out);
        assert_memory_equal(out, answer, sizeof out);
    }
}

static void draws_stay_the_same_between_versions(void **state) {
    (void)state;
    /* Not from outside: they pin the key's making, on which every stored run depends. */
    uint32_t out[4];
    vm_rng_block(1, VM_RNG_INIT, (uint32_t[4]){1, 2, 3, 4}, out);
    static const uint32_t pinned[4] = {0x2b0668ec, 0x245ec8f1, 0xb7672982, 0x5040f675};
    assert_memory_equal(out, pinned, sizeof out);
    vm_rng r = vm_rng_start(42, VM_RNG_SHUFFLE, 7);
    static const uint32_t pinned_stream[5] = {0xe0044728, 0x68b0f444, 0xd4b188da, 0x0b13119b, 0xc27a5bc4};
    for (int i = 0; i < 5; i++) assert_int_equal(vm_rng_u32(&r), pinned_stream[i]);
}

static void keys_and_counters_separate_draws(void **state) {
    (void)state;
    /* Every single change gives other words; all blocks are different. */
    uint32_t blocks[64][4];
    int n = 0;
    for (uint64_t seed = 0; seed < 2; seed++) {
        for (int purpose = VM_RNG_INIT; purpose <= VM_RNG_ROUTE; purpose++) {
            for (int part = 0; part < 5; part++) {
                uint32_t counter[4] = {0};
                if (part < 4) counter[part] = 1;
                vm_rng_block(seed, (vm_rng_purpose)purpose, counter, blocks[n++]);
            }
        }
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++) assert_true(memcmp(blocks[i], blocks[j], sizeof blocks[0]) != 0);
    }
}

static void stream_resumes_from_its_struct(void **state) {
    (void)state;
    vm_rng a = vm_rng_start(5, VM_RNG_BOOTSTRAP, 1);
    for (int i = 0; i < 13; i++) vm_rng_u32(&a);
    vm_rng b = a;
    for (int i = 0; i < 100; i++) assert_int_equal(vm_rng_u32(&a), vm_rng_u32(&b));
    vm_rng other = vm_rng_start(5, VM_RNG_BOOTSTRAP, 2);
    other.next = a.next;
    assert_true(vm_rng_u32(&a) != vm_rng_u32(&other));
}

/* Mean, variance, skewness, kurtosis and the correlation of neighbours, each within five standard errors. */
static void check_normal(const float *z, int n) {
    double sums[5] = {0}, lagged = 0;
    for (int i = 0; i < n; i++) {
        double power = 1;
        for (int k = 1; k < 5; k++) sums[k] += power *= z[i];
        if (i) lagged += (double)z[i] * z[i - 1];
    }
    double root = sqrt(n);
    assert_true(fabs(sums[1] / n) < 5 / root);
    assert_true(fabs(sums[2] / n - 1) < 5 * sqrt(2) / root);
    assert_true(fabs(sums[3] / n) < 5 * sqrt(15) / root);
    assert_true(fabs(sums[4] / n - 3) < 5 * sqrt(96) / root);
    assert_true(fabs(lagged / n) < 5 / root);
}

enum { N = 400000 };
static float normals[N];

static void normals_are_normal(void **state) {
    (void)state;
    for (uint32_t i = 0; i < N / 4; i++) {
        uint32_t counter[4] = {i, 0, 3, 0};
        vm_rng_normal4(9, VM_RNG_ROUTE, counter, normals + 4 * i);
    }
    check_normal(normals, N);
    int beyond[4] = {0}; /* P(|z| > k) for k = 1, 2, 3, 4 */
    float largest = 0;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 4; k++) beyond[k] += fabsf(normals[i]) > (float)(k + 1);
        largest = fmaxf(largest, fabsf(normals[i]));
    }
    for (int k = 0; k < 4; k++) {
        double p = erfc((k + 1) / sqrt(2));
        assert_true(fabs(beyond[k] - N * p) < 5 * sqrt(N * p * (1 - p)));
    }
    assert_true(largest > 4.2f && largest < 6.77f);

    vm_rng r = vm_rng_start(9, VM_RNG_INIT, 0);
    for (int i = 0; i < N; i++) normals[i] = vm_rng_normal(&r);
    check_normal(normals, N);
}

static void uniform_and_below_are_even(void **state) {
    (void)state;
    vm_rng r = vm_rng_start(3, VM_RNG_FLOOR, 0);
    double sum = 0;
    for (int i = 0; i < N; i++) {
        double u = vm_rng_uniform(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N));

    enum { FACES = 7 };
    int counts[FACES] = {0};
    for (int i = 0; i < N; i++) counts[vm_rng_below(&r, FACES)]++;
    double chi2 = 0, expected = (double)N / FACES;
    for (int i = 0; i < FACES; i++) chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
    assert_true(chi2 < 35); /* 6 degrees of freedom: p < 1e-5 */

    for (int i = 0; i < 100; i++) assert_int_equal(vm_rng_below(&r, 1), 0);
    /* n = 3 * 2^30: without rejection the multiples of 3 would come twice as often as the others. */
    int thirds[3] = {0};
    for (int i = 0; i < N; i++) {
        uint32_t x = vm_rng_below(&r, 3u << 30);
        assert_true(x < 3u << 30);
        thirds[x % 3]++;
    }
    for (int i = 0; i < 3; i++) assert_true(fabs(thirds[i] - N / 3.0) < 5 * sqrt(N * 2.0 / 9));
}

static void shuffle_gives_every_order_alike(void **state) {
    (void)state;
    vm_rng r = vm_rng_start(11, VM_RNG_SHUFFLE, 0);
    int counts[6] = {0};
    for (int i = 0; i < 60000; i++) {
        int32_t v[3] = {0, 1, 2};
        vm_rng_shuffle(&r, v, 3);
        assert_int_equal(1 << v[0] | 1 << v[1] | 1 << v[2], 7);
        counts[2 * v[0] + (v[1] > v[2])]++;
    }
    for (int i = 0; i < 6; i++) assert_true(abs(counts[i] - 10000) < 460); /* five standard errors */
    vm_rng_shuffle(&r, NULL, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_is_philox),
        cmocka_unit_test(draws_stay_the_same_between_versions),
        cmocka_unit_test(keys_and_counters_separate_draws),
        cmocka_unit_test(stream_resumes_from_its_struct),
        cmocka_unit_test(normals_are_normal),
        cmocka_unit_test(uniform_and_below_are_even),
        cmocka_unit_test(shuffle_gives_every_order_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
