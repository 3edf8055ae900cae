/* test_distill.c: the dense layer against its formula in double; a fitted router that finds the experts with the long outputs; distillation that comes nearer to
 * the dense layer, by its own account and by ours, with the same bits on any number of threads. */
#include "base/rng.h"
#include "base/status.h"
#include "train/distill.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { D = 24, EXPERTS = 8, WIDTH = 6, SHARED = 12, F = SHARED + EXPERTS * WIDTH, TOP_K = 3, RANK = 4, TOKENS = 900 };

#define OK(expr)                                                        \
    do {                                                                \
        if ((expr) != VMOER_OK) fail_msg("%s: %s", #expr, vm_error_text()); \
    } while (0)

static float gate[F * D], up[F * D], down[D * F], u[TOKENS * D];
static vm_dense_ffn dense = {gate, up, down};

/* A layer in which expert e answers to direction e of the input: a token is loud in a few directions. Shared neurons answer to all. */
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
    /* Every 25th token is the first of its sequence: one direction of the input, which one neuron makes a thousand times as loud as anything else. */
    for (int t = 0; t < TOKENS; t += 25) {
        for (int d = 0; d < D; d++) u[t * D + d] *= 0.1f;
        u[t * D + D - 1] = 5;
    }
    gate[SHARED * D + D - 1] = 4, up[SHARED * D + D - 1] = 10;
    return 0;
}

/* A recipe of one layer: all that vm_recipe_create reads of a model is its configuration. Neurons in order. */
static vm_recipe *make_recipe(int top_k) {
    vm_model model = {.config = {.n_layers = 1, .dim = D, .shared_width = F}};
    vm_recipe *r;
    OK(vm_recipe_create(&model, EXPERTS, WIDTH, top_k, RANK, &r));
    for (int i = 0; i < F; i++) r->layers[0].order[i] = i;
    return r;
}

static double silu(double z) { return z / (1 + exp(-z)); }

/* out[D] += weight * the neurons [first, first + n) of these weights, for one token. */
static void neurons(const float *g, const float *p, const float *w, int first, int n, const float *x, double weight, double *out) {
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

/* How much of what the best choice of K experts would catch the router's K catch (0 by chance), and the logits' standard deviation over the experts. */
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
    vm_recipe *r = make_recipe(TOP_K);
    double spread;
    OK(vm_distill_router(r, 0, &dense, NULL, u, TOKENS, 0.5));
    double share = caught(r->layers[0].router, &spread);
    if (!(share > 0.6)) fail_msg("the router catches %g of what the oracle does beyond chance", share);
    assert_float_equal(spread, 0.5, 1e-4);
    vm_recipe_free(r);
}

/* Root of the mean relative squared error of the routed layer, from the recipe alone, in double. */
static double error_of(const vm_recipe *r) {
    static float g[F * D], p[F * D], w[D * F];
    const float *router = r->layers[0].router;
    double error = 0;
    vm_recipe_weights(r, 0, gate, up, down, g, p, w);
    for (int t = 0; t < TOKENS; t++) {
        double y[D] = {0}, target[D] = {0}, sum = 0, square = 0, size = 0, gates[EXPERTS];
        float logit[EXPERTS];
        int32_t chosen[EXPERTS];
        for (int e = 0; e < EXPERTS; e++) {
            double l = 0;
            for (int d = 0; d < D; d++) l += (double)router[e * D + d] * (double)u[t * D + d];
            logit[e] = (float)l;
        }
        vm_top_k(logit, EXPERTS, r->top_k, chosen);
        for (int k = 0; k < r->top_k; k++) sum += gates[k] = exp((double)(logit[chosen[k]] - logit[chosen[0]]));
        neurons(g, p, w, 0, SHARED, u + t * D, 1, y);
        for (int k = 0; k < r->top_k; k++) neurons(g, p, w, SHARED + chosen[k] * WIDTH, WIDTH, u + t * D, r->top_k * gates[k] / sum, y);
        neurons(gate, up, down, 0, F, u + t * D, 1, target);
        for (int d = 0; d < D; d++) square += (y[d] - target[d]) * (y[d] - target[d]), size += target[d] * target[d];
        error += square / size / TOKENS;
    }
    return sqrt(error);
}

static const vm_distill_config config = {.steps = 120, .batch_tokens = 128, .learning_rate = 4e-3, .router_learning_rate = 8e-3, .spread = 0.5, .seed = 7};

static void test_distill(void **state) {
    (void)state;
    vm_recipe *r = make_recipe(TOP_K);
    double before, after;
    OK(vm_distill_router(r, 0, &dense, NULL, u, TOKENS, config.spread));
    double start = error_of(r);
    OK(vm_distill_layer(r, 0, &dense, NULL, u, TOKENS, &config, &before, &after));
    /* bf16 products: a few in a thousand of the outputs' size, and of the choices. */
    assert_float_equal(before, start, 0.02 * start);
    assert_float_equal(after, error_of(r), 0.02 * after);
    if (!(after < 0.7 * before)) fail_msg("relative error %g before, %g after", before, after);
    vm_recipe_free(r);
}

/* Where all experts run with equal weights there is nothing to fit: the error is bf16's. Without steps nothing moves. */
static void test_nothing_to_fit(void **state) {
    (void)state;
    vm_recipe *r = make_recipe(EXPERTS);
    double before, after;
    vm_distill_config none = config;
    none.steps = 0;
    OK(vm_distill_layer(r, 0, &dense, NULL, u, TOKENS, &none, &before, &after));
    assert_true(before == after && before > 1e-5 && before < 0.01);
    for (int i = 0; i < EXPERTS * D; i++) assert_true(r->layers[0].router[i] == 0);
    for (int i = 0; i < F * RANK; i++) assert_true(r->layers[0].gate_b[i] == 0 && r->layers[0].up_b[i] == 0);
    vm_recipe_free(r);
}

static void test_threads(void **state) {
    (void)state;
    vm_recipe *r[2];
    double before[2], after[2];
    vm_distill_config few = config;
    few.steps = 15;
    for (int i = 0; i < 2; i++) {
        vm_pool *pool;
        OK(vm_pool_create(i + 1, &pool));
        r[i] = make_recipe(TOP_K);
        OK(vm_distill_router(r[i], 0, &dense, pool, u, TOKENS, few.spread));
        OK(vm_distill_layer(r[i], 0, &dense, pool, u, TOKENS, &few, &before[i], &after[i]));
        vm_pool_free(pool);
    }
    const vm_recipe_layer *x = &r[0]->layers[0], *y = &r[1]->layers[0];
    assert_true(before[0] == before[1] && after[0] == after[1]);
    assert_memory_equal(x->router, y->router, EXPERTS * D * sizeof(float));
    assert_memory_equal(x->gate_a, y->gate_a, RANK * D * sizeof(float));
    assert_memory_equal(x->gate_b, y->gate_b, F * RANK * sizeof(float));
    assert_memory_equal(x->down_a, y->down_a, RANK * F * sizeof(float));
    assert_memory_equal(x->down_b, y->down_b, D * RANK * sizeof(float));
    vm_recipe_free(r[0]);
    vm_recipe_free(r[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dense), cmocka_unit_test(test_router), cmocka_unit_test(test_distill),
                                       cmocka_unit_test(test_nothing_to_fit), cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests(tests, make_layer, NULL);
}
