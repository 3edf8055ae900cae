/* test_router_fit.c: the dense layer against its formula in double; a fitted router that finds the experts with the
 * long outputs, with the same bits on any number of threads. */
#include "base/rng.h"
#include "base/status.h"
#include "train/router_fit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { D = 24, EXPERTS = 8, WIDTH = 6, SHARED = 12, F = SHARED + EXPERTS * WIDTH, TOP_K = 3, TOKENS = 900 };

#define OK(expr)                                                            \
    do {                                                                    \
        if ((expr) != VMOER_OK) fail_msg("%s: %s", #expr, vm_error_text()); \
    } while (0)

static float gate[F * D], up[F * D], down[D * F], u[TOKENS * D];
static vm_dense_ffn dense = {gate, up, down};

/* A layer in which expert e answers to direction e of the input: a token is loud in a few directions. Shared neurons
 * answer to all. */
static int make_layer(void **state) {
    (void)state;
    vm_rng rng = vm_rng_start(11, VM_RNG_INIT, 0);
    for (int i = 0; i < F; i++)
        for (int d = 0; d < D; d++) {
            int e = i < SHARED ? -1 : (i - SHARED) / WIDTH;
            float size = e < 0 ? 0.2f : d == e ? 1.0f : 0.1f;
            gate[i * D + d] = size * (d == e ? 1.0f : vm_rng_normal(&rng));
            up[i * D + d] = (e < 0 ? 0.2f : 0.3f) * vm_rng_normal(&rng);
            down[d * F + i] = 0.5f * vm_rng_normal(&rng);
        }
    for (int t = 0; t < TOKENS; t++) {
        for (int d = 0; d < D; d++) u[t * D + d] = 0.5f * vm_rng_normal(&rng) - (d < EXPERTS ? 1.0f : 0);
        for (int k = 0; k < TOP_K; k++) u[t * D + (int)vm_rng_below(&rng, EXPERTS)] = 2.5f;
    }
    /* Every 25th token is the first of its sequence: one direction of the input, which one neuron makes a thousand
     * times as loud as anything else. */
    for (int t = 0; t < TOKENS; t += 25) {
        for (int d = 0; d < D; d++) u[t * D + d] *= 0.1f;
        u[t * D + D - 1] = 5;
    }
    gate[SHARED * D + D - 1] = 4, up[SHARED * D + D - 1] = 10;
    return 0;
}

/* A recipe of one layer: all that vm_recipe_create reads of a model is its configuration. Neurons in order. */
static vm_recipe *make_recipe(void) {
    vm_model model = {
        .config = {.arch = &vm_arch_llama, .n_layers = 1, .dim = D, .shared_width = F, .rope.attention = 1}};
    vm_recipe *r;
    OK(vm_recipe_create(&model, EXPERTS, WIDTH, TOP_K, &r));
    for (int i = 0; i < F; i++) r->layers[0].order[i] = i;
    return r;
}

static double silu(double z) { return z / (1 + exp(-z)); }

/* out[D] += weight * the neurons [first, first + n) of these weights, for one token. */
static void neurons(const float *g, const float *p, const float *w, int first, int n, const float *x, double weight,
                    double *out) {
    for (int i = first; i < first + n; i++) {
        double a = 0, b = 0;
        for (int d = 0; d < D; d++) a += (double)g[i * D + d] * (double)x[d], b += (double)p[i * D + d] * (double)x[d];
        for (int d = 0; d < D; d++) out[d] += weight * silu(a) * b * (double)w[d * F + i];
    }
}

static void test_dense(void **state) {
    (void)state;
    static float out[TOKENS * D], active[TOKENS * F];
    OK(vm_dense_ffn_run(&dense, NULL, F, D, TOKENS, u, out, active));
    for (int t = 0; t < TOKENS; t += 7) {
        double expected[D] = {0}, size = 0;
        neurons(gate, up, down, 0, F, u + t * D, 1, expected);
        for (int d = 0; d < D; d++) size = fmax(size, fabs(expected[d]));
        for (int d = 0; d < D; d++) assert_float_equal(out[t * D + d], expected[d], 1e-5 * (size + 1));
        for (int i = 0; i < F; i += 5) {
            double alone[D] = {0}, square = 0;
            neurons(gate, up, down, i, 1, u + t * D, 1, alone);
            for (int d = 0; d < D; d++) square += alone[d] * alone[d];
            assert_float_equal(active[t * F + i], sqrt(square), 1e-5 * (sqrt(square) + 1));
        }
    }
    OK(vm_dense_ffn_run(&dense, NULL, F, D, TOKENS, u, out, NULL));
}

/* How much of what the best choice of K experts would catch the router's K catch (0 by chance), and the logits'
 * standard deviation over the experts. */
static double caught(const float *router, double *spread) {
    double got = 0, best = 0, chance = 0;
    *spread = 0;
    for (int t = 0; t < TOKENS; t++) {
        float norm[EXPERTS], logit[EXPERTS];
        double mean = 0, square = 0, all = 0;
        for (int e = 0; e < EXPERTS; e++) {
            double out[D] = {0}, sum = 0, l = 0;
            neurons(gate, up, down, SHARED + e * WIDTH, WIDTH, u + t * D, 1, out);
            for (int d = 0; d < D; d++) sum += out[d] * out[d], l += (double)router[e * D + d] * (double)u[t * D + d];
            norm[e] = (float)sqrt(sum), logit[e] = (float)l;
            all += (double)norm[e], mean += l / EXPERTS;
        }
        for (int e = 0; e < EXPERTS; e++) square += ((double)logit[e] - mean) * ((double)logit[e] - mean) / EXPERTS;
        *spread += sqrt(square) / TOKENS;
        int32_t chosen[TOP_K], oracle[TOP_K];
        vm_top_k(logit, EXPERTS, TOP_K, chosen);
        vm_top_k(norm, EXPERTS, TOP_K, oracle);
        for (int k = 0; k < TOP_K; k++) got += (double)norm[chosen[k]], best += (double)norm[oracle[k]];
        chance += all * TOP_K / EXPERTS;
    }
    return (got - chance) / (best - chance);
}

static void test_router(void **state) {
    (void)state;
    vm_recipe *r = make_recipe();
    double spread;
    OK(vm_router_fit(r, 0, &dense, NULL, u, TOKENS, 0.5));
    double share = caught(r->layers[0].router, &spread);
    if (!(share > 0.6)) fail_msg("the router catches %g of what the oracle does beyond chance", share);
    assert_float_equal(spread, 0.5, 1e-4);
    vm_recipe_free(r);
}

/* Neurons the other way round too: an order that is not read would go unnoticed. */
static void test_threads(void **state) {
    (void)state;
    vm_recipe *r[3];
    for (int i = 0; i < 3; i++) {
        vm_pool *pool;
        OK(vm_pool_create(i ? i : 1, &pool));
        r[i] = make_recipe();
        for (int k = 0; i == 0 && k < F; k++) r[i]->layers[0].order[k] = F - 1 - k;
        OK(vm_router_fit(r[i], 0, &dense, pool, u, TOKENS, 0.5));
        vm_pool_free(pool);
    }
    assert_memory_equal(r[1]->layers[0].router, r[2]->layers[0].router, EXPERTS * D * sizeof(float));
    assert_memory_not_equal(r[0]->layers[0].router, r[1]->layers[0].router, EXPERTS * D * sizeof(float));
    for (int i = 0; i < 3; i++) vm_recipe_free(r[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dense), cmocka_unit_test(test_router),
                                       cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests(tests, make_layer, NULL);
}
