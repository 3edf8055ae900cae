/* test_cluster.c: neurons that fire together are found together, whatever order they stand in; every neuron has one
 * place; the same on any number of threads. */
#include "base/memory.h"
#include "base/rng.h"
#include "train/cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SHARED = 8, EXPERTS = 16, WIDTH = 12, NEURONS = SHARED + EXPERTS * WIDTH, TOKENS = 320 };

/* owner[f]: the planted expert of neuron f, -1 for shared ones, in random order. A token's strongest tenth, 20 neurons,
 * are the shared ones and those of one expert; `flips` of a hundred are others. Shared neurons differ in how often they
 * are active. */
static float *plant(uint64_t seed, int flips, int *owner) {
    float *active = vm_calloc((size_t)TOKENS * NEURONS, sizeof *active);
    int32_t place[NEURONS];
    vm_rng rng = vm_rng_start(seed, VM_RNG_TEXT, 0);
    for (int i = 0; i < NEURONS; i++) place[i] = i;
    vm_rng_shuffle(&rng, place, NEURONS);
    for (int i = 0; i < NEURONS; i++) owner[place[i]] = i < SHARED ? -1 : (i - SHARED) / WIDTH;
    for (int t = 0; t < TOKENS; t++) {
        int expert = (int)vm_rng_below(&rng, EXPERTS);
        for (int f = 0; f < NEURONS; f++) {
            bool on = owner[f] < 0 ? vm_rng_below(&rng, 100) < 95 : owner[f] == expert;
            if ((int)vm_rng_below(&rng, 100) < flips && owner[f] >= 0) on = vm_rng_below(&rng, 8) == 0;
            active[t * NEURONS + f] = (float)vm_rng_uniform(&rng) + (on ? 5.0f + (float)vm_rng_uniform(&rng) : 0);
        }
    }
    return active;
}

static void assert_permutation(const int32_t *order) {
    int seen[NEURONS] = {0};
    for (int i = 0; i < NEURONS; i++) {
        assert_in_range(order[i], 0, NEURONS - 1);
        seen[order[i]]++;
    }
    for (int i = 0; i < NEURONS; i++) assert_int_equal(seen[i], 1);
}

/* Neurons that share their expert with the most of its planted owner. */
static int together(const int32_t *order, const int *owner) {
    int right = 0;
    for (int e = 0; e < EXPERTS; e++) {
        int count[EXPERTS] = {0}, most = 0;
        for (int i = 0; i < WIDTH; i++) {
            int o = owner[order[SHARED + e * WIDTH + i]];
            if (o >= 0) count[o]++;
        }
        for (int o = 0; o < EXPERTS; o++) most = count[o] > most ? count[o] : most;
        right += most;
    }
    return right;
}

static void test_planted(void **state) {
    (void)state;
    int all = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        int owner[NEURONS];
        int32_t order[NEURONS];
        float *active = plant(seed, seed < 3 ? 0 : 10, owner);
        assert_int_equal(vm_cluster_neurons(NULL, active, TOKENS, NEURONS, SHARED, EXPERTS, WIDTH, seed, order),
                         VMOER_OK);
        assert_permutation(order);
        for (int i = 0; i < SHARED; i++) assert_int_equal(owner[order[i]], -1);
        /* k-means may end with two halves exchanged, by chance about 2 of the 12 of an expert would be together. */
        int right = together(order, owner);
        if (right < (EXPERTS - 1) * WIDTH)
            fail_msg("seed %d: %d of %d neurons are with their own", (int)seed, right, EXPERTS * WIDTH);
        all += right;
        vm_free(active);
    }
    assert_true(all >= 6 * EXPERTS * WIDTH * 97 / 100);
}

/* The most often active first. */
static void test_shared_by_frequency(void **state) {
    (void)state;
    enum { T = 100, F = 20 };
    float active[T * F] = {0};
    int32_t order[F];
    for (int t = 0; t < T; t++)
        for (int f = 0; f < F; f++) active[t * F + f] = (float)((t * 7 + f * 3) % F) / F; /* everyone now and then */
    for (int t = 0; t < T; t++) {
        active[t * F + 13] = 3;
        if (t % 4)
            active[t * F + 5] = 4;
        else
            active[t * F + 2] = 4;
    }
    assert_int_equal(vm_cluster_neurons(NULL, active, T, F, 4, 2, 8, 1, order), VMOER_OK);
    assert_int_equal(order[0], 13); /* always among the two strongest */
    assert_int_equal(order[1], 5);
    assert_int_equal(order[2], 2);
    assert_int_equal(order[3], 0); /* never: the lower index */
}

static void test_deterministic(void **state) {
    (void)state;
    int owner[NEURONS];
    int32_t order[3][NEURONS];
    float *active = plant(9, 30, owner);
    for (int i = 0; i < 3; i++) {
        vm_pool *pool;
        assert_int_equal(vm_pool_create(1 + i % 2, &pool), VMOER_OK);
        assert_int_equal(vm_cluster_neurons(pool, active, TOKENS, NEURONS, SHARED, EXPERTS, WIDTH, 4, order[i]),
                         VMOER_OK);
        vm_pool_free(pool);
    }
    assert_memory_equal(order[0], order[1], sizeof order[0]);
    assert_memory_equal(order[0], order[2], sizeof order[0]);
    assert_int_equal(vm_cluster_neurons(NULL, active, TOKENS, NEURONS, SHARED, EXPERTS, WIDTH, 5, order[1]), VMOER_OK);
    assert_memory_not_equal(order[0], order[1], sizeof order[0]);
    /* Nothing to go by: still a place for everyone. */
    memset(active, 0, (size_t)TOKENS * NEURONS * sizeof *active);
    assert_int_equal(vm_cluster_neurons(NULL, active, TOKENS, NEURONS, 0, 2, NEURONS / 2, 4, order[0]), VMOER_OK);
    assert_permutation(order[0]);
    vm_free(active);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_planted), cmocka_unit_test(test_shared_by_frequency),
                                       cmocka_unit_test(test_deterministic)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
