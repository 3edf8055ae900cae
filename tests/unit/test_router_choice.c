/* test_router_choice.c: draws, and the routers that choose their experts by them: frequencies against exact
 * probabilities, limits, independence from threads and company. */
#include "base/rng.h"
#include "base/status.h"
#include "router/router_internal.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYER = 5, N = 6 };

static vm_router *make_router(const char *kind, int n, float temperature, int keep) {
    vm_router_config c = {.n_layers = 1,
                          .layers = {LAYER},
                          .n_experts = n,
                          .dim = 4,
                          .initial_scale = 0.2f,
                          .route_temperature = temperature,
                          .keep_experts = keep,
                          .temperature = 1};
    strcpy(c.kind, kind);
    vm_router *r;
    if (vm_router_create(&c, &r) != VMOER_OK) fail_msg("%s", vm_error_text());
    return r;
}

/* T tokens with the same logits, or (logits NULL) with their own. */
typedef struct tokens {
    vm_route route;
    float *p, *scores, *temperature;
} tokens;

static tokens make_tokens(int T, int n, const float *logits) {
    float *u = vm_calloc((size_t)T * 4, sizeof *u), *l = vm_calloc((size_t)(T * n), sizeof *l);
    vm_token_key *keys = vm_calloc((size_t)T, sizeof *keys);
    vm_rng rng = vm_rng_start(4, VM_RNG_INIT, 0);
    for (int i = 0; i < T * n; i++) l[i] = logits ? logits[i % n] : vm_rng_normal(&rng);
    for (int t = 0; t < T; t++) keys[t] = (vm_token_key){(uint32_t)(t / 100), (uint16_t)(t % 5), (uint16_t)(t % 100)};
    return (tokens){{.layer = LAYER, .n_tokens = T, .u = u, .logits = l, .tokens = keys, .seed = 7, .step = 2},
                    vm_calloc((size_t)(T * n), sizeof(float)),
                    vm_calloc((size_t)(T * n), sizeof(float)),
                    vm_calloc((size_t)T, sizeof(float))};
}

static void free_tokens(tokens *k) {
    vm_free((void *)(uintptr_t)k->route.u), vm_free((void *)(uintptr_t)k->route.logits);
    vm_free((void *)(uintptr_t)k->route.tokens);
    vm_free(k->p), vm_free(k->scores), vm_free(k->temperature);
}

static void infer(const vm_router *r, vm_pool *pool, tokens *k) {
    vm_routing out = {.p = k->p, .scores = k->scores, .temperature = k->temperature};
    if (vm_router_infer(r, pool, &k->route, VM_INFERENCE_PASSES, 1, &out) != VMOER_OK) fail_msg("%s", vm_error_text());
}

/* Index of the largest score that is not among the first `taken` of chosen. */
static int next_best(const float *scores, int n, const int *chosen, int taken) {
    int best = -1;
    for (int i = 0; i < n; i++) {
        bool free = true;
        for (int k = 0; k < taken; k++) free = free && chosen[k] != i;
        if (free && (best < 0 || scores[i] > scores[best])) best = i;
    }
    return best;
}

/* ---- draws ---- */

static void test_normals(void **state) {
    (void)state;
    vm_token_key keys[2] = {{.item = 3, .part = 1, .position = 9}, {.item = 4, .part = 1, .position = 9}};
    vm_route route = {.layer = LAYER, .n_tokens = 2, .tokens = keys, .seed = 1, .step = 2, .sign = 1};
    float first[6], other[6];
    vm_router_normals(&route, VM_RNG_ROUTE, 0, 6, 1, first);
    for (int change = 0; change < 7; change++) { /* each coordinate gives another draw */
        vm_route changed = route;
        vm_token_key key = keys[0];
        changed.tokens = &key;
        if (change == 0) key.item++;
        if (change == 1) key.part++;
        if (change == 2) key.position++;
        if (change == 3) changed.layer++;
        if (change == 4) changed.seed++;
        if (change == 5) changed.step++;
        if (change == 6) changed.step += (uint64_t)1 << 32;
        vm_router_normals(&changed, VM_RNG_ROUTE, 0, 6, 1, other);
        for (int i = 0; i < 6; i++) assert_true(first[i] != other[i]);
    }
    vm_route negative = route;
    negative.sign = -1;
    vm_router_normals(&negative, VM_RNG_ROUTE, 0, 6, 1, other);
    for (int i = 0; i < 6; i++) assert_true(other[i] == -first[i]);
    vm_route moved = route; /* the place in the batch is not a coordinate */
    vm_token_key swapped[2] = {keys[1], keys[0]};
    moved.tokens = swapped;
    vm_router_normals(&moved, VM_RNG_ROUTE, 1, 6, 1, other);
    assert_memory_equal(first, other, sizeof first);

    double sum = 0, squares = 0, product = 0;
    enum { TOKENS = 20000 };
    for (int t = 0; t < TOKENS; t++) {
        vm_token_key key = {.item = (uint32_t)t};
        moved.tokens = &key;
        vm_router_normals(&moved, VM_RNG_ROUTE, 0, 6, 1, other);
        for (int i = 0; i < 6; i++) sum += other[i], squares += other[i] * other[i];
        product += other[0] * other[4];
    }
    assert_true(fabs(sum / (6 * TOKENS)) < 4 / sqrt(6.0 * TOKENS));
    assert_true(fabs(squares / (6 * TOKENS) - 1) < 4 * sqrt(2 / (6.0 * TOKENS)));
    assert_true(fabs(product / TOKENS) < 4 / sqrt((double)TOKENS));
}

static void test_gumbels(void **state) {
    (void)state;
    enum { TOKENS = 20000 };
    double sum = 0, squares = 0, product = 0, below = 0;
    for (int t = 0; t < TOKENS; t++) {
        vm_token_key key = {.item = (uint32_t)t};
        vm_route route = {.layer = LAYER, .n_tokens = 1, .tokens = &key, .seed = 3, .step = 9, .sign = 1};
        float g[2][10], normal[4];
        vm_router_gumbels(&route, VM_RNG_GUMBEL, 0, 5, 2, g[0]); /* every second place */
        route.sign = -1;
        vm_router_gumbels(&route, VM_RNG_GUMBEL, 0, 5, 2, g[1]);
        for (int i = 0; i < 5; i++) {
            double u = exp(-exp(-(double)g[0][2 * i])), v = exp(-exp(-(double)g[1][2 * i]));
            assert_true(fabs(u + v - 1) < 1e-5); /* antithetic */
            sum += g[0][2 * i];
            squares += g[0][2 * i] * g[0][2 * i];
            below += g[0][2 * i] < 0;
        }
        vm_router_normals(&route, VM_RNG_ROUTE, 0, 1, 1, normal);
        product += normal[0] * (g[0][0] - 0.5772);
    }
    double mean = sum / (5 * TOKENS), variance = squares / (5 * TOKENS) - mean * mean,
           expected = acos(-1) * acos(-1) / 6;
    assert_true(fabs(mean - 0.57721566) < 4 * sqrt(expected / (5 * TOKENS)));
    assert_true(fabs(variance - expected) < 0.05);
    assert_true(fabs(below / (5 * TOKENS) - exp(-1)) < 4 * sqrt(0.25 / (5 * TOKENS)));
    assert_true(fabs(product / TOKENS) < 4 * sqrt(expected / TOKENS)); /* nothing to do with the normals */
}

/* ---- which experts ---- */

/* Chi-square of how often each ordered pair is drawn after the `kept` first places, against Plackett and Luce:
 * P(i, j) = w_i / W w_j / (W - w_i), w = exp(l / T) over the experts that are not kept, W their sum. */
static double chi_square(const char *kind, float T, int keep, int *cells) {
    enum { TOKENS = 40000 };
    static const float logits[N] = {0.3f, -0.8f, 1.1f, 0.2f, -0.1f, 0.9f};
    vm_router *r = make_router(kind, N, T, keep);
    tokens k = make_tokens(TOKENS, N, logits);
    infer(r, NULL, &k);
    int count[N][N] = {{0}}, head[N];
    for (int i = 0; i < keep; i++) head[i] = next_best(logits, N, head, i);
    for (int t = 0; t < TOKENS; t++) {
        int chosen[N];
        for (int i = 0; i < keep + 2; i++) chosen[i] = next_best(k.scores + t * N, N, chosen, i);
        for (int i = 0; i < keep; i++) assert_int_equal(chosen[i], head[i]);
        count[chosen[keep]][chosen[keep + 1]]++;
    }
    double w[N], W = 0, sum = 0;
    for (int i = 0; i < N; i++) {
        bool kept = false;
        for (int j = 0; j < keep; j++) kept |= head[j] == i;
        W += w[i] = kept ? 0 : exp((double)logits[i] / (double)T);
    }
    *cells = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            if (i == j || w[i] == 0 || w[j] == 0) continue;
            double expected = TOKENS * w[i] / W * w[j] / (W - w[i]);
            sum += (count[i][j] - expected) * (count[i][j] - expected) / expected;
            ++*cells;
        }
    free_tokens(&k);
    vm_router_free(r);
    return sum;
}

/* cells - 1 degrees of freedom; 1 in 10^5 of true ones is as large as 5 deviations over the mean. */
static void test_frequencies(void **state) {
    (void)state;
    static const struct {
        const char *kind;
        float T;
        int keep;
    } cases[] = {{"fixed-t", 1, 0}, {"fixed-t", 0.5f, 0},    {"roe", 1, 0},
                 {"roe", 2, 0},     {"expert-sample", 1, 1}, {"expert-sample", 0.7f, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int cells;
        double x = chi_square(cases[i].kind, cases[i].T, cases[i].keep, &cells), freedom = cells - 1;
        if (!(x < freedom + 5 * sqrt(2 * freedom) && x > freedom - 4 * sqrt(2 * freedom)))
            fail_msg("%s at T = %g: chi-square %g of %g degrees of freedom", cases[i].kind, (double)cases[i].T, x,
                     freedom);
    }
}

/* p is softmax(l_det / T) of fixed-t, softmax(l_det) of the others, to the bit on every ISA. */
static void test_gates(void **state) {
    (void)state;
    enum { T = 37 };
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (int table = 0; table < n_tables; table++) {
        vm_kernels_force(tables[table]);
        tokens k = make_tokens(T, 9, NULL);
        float *expected = vm_calloc(T * 9, sizeof *expected);
        vm_router *r[3] = {make_router("fixed-t", 9, 0.6f, 0), make_router("roe", 9, 0.6f, 0),
                           make_router("expert-sample", 9, 0.6f, 3)};
        for (int kind = 0; kind < 3; kind++) {
            infer(r[kind], NULL, &k);
            for (int i = 0; i < T * 9; i++) expected[i] = kind == 0 ? k.route.logits[i] / 0.6f : k.route.logits[i];
            for (int t = 0; t < T; t++) tables[table]->softmax(expected + t * 9, 9);
            assert_memory_equal(k.p, expected, T * 9 * sizeof *expected);
            for (int t = 0; t < T; t++) assert_true(isnan(k.temperature[t]));
            vm_router_free(r[kind]);
        }
        free_tokens(&k);
        vm_free(expected);
    }
    vm_kernels_force(NULL);
}

/* T -> 0 is the deterministic choice, as is an Expert-Sample that keeps all it takes. */
static void test_cold_is_top_k(void **state) {
    (void)state;
    enum { T = 500, K = 3 };
    for (int kind = 0; kind < 4; kind++) {
        static const char *const names[4] = {"fixed-t", "roe", "expert-sample", "expert-sample"};
        vm_router *r = make_router(names[kind], N, kind < 3 ? 1e-6f : 5.0f, kind < 2 ? 0 : kind == 2 ? 1 : K);
        tokens k = make_tokens(T, N, NULL);
        infer(r, NULL, &k);
        for (int t = 0; t < T; t++) {
            int got[K], expected[K];
            for (int i = 0; i < K; i++) {
                got[i] = next_best(k.scores + t * N, N, got, i);
                expected[i] = next_best(k.route.logits + t * N, N, expected, i);
                assert_int_equal(got[i], expected[i]);
            }
        }
        free_tokens(&k);
        vm_router_free(r);
    }
}

/* Seed, step, layer and token make the draw; threads and company do not. */
static void test_company_changes_nothing(void **state) {
    (void)state;
    enum { T = 70 };
    vm_pool *pool;
    assert_int_equal(vm_pool_create(4, &pool), VMOER_OK);
    vm_router *r = make_router("expert-sample", N, 0.8f, 2);
    tokens one = make_tokens(T, N, NULL), many = make_tokens(T, N, NULL);
    infer(r, NULL, &one);
    infer(r, pool, &many);
    assert_memory_equal(one.scores, many.scores, T * N * sizeof(float));
    assert_memory_equal(one.p, many.p, T * N * sizeof(float));
    for (int t = 0; t < T; t += 13) {
        float p[N], scores[N];
        vm_route alone = one.route;
        alone.n_tokens = 1, alone.u += 4 * t, alone.logits += N * t, alone.tokens += t, alone.sign = -1;
        assert_int_equal(
            vm_router_infer(r, NULL, &alone, VM_INFERENCE_MEAN, 0, &(vm_routing){.p = p, .scores = scores}), VMOER_OK);
        assert_memory_equal(scores, one.scores + t * N, sizeof scores);
        assert_memory_equal(p, one.p + t * N, sizeof p);
    }
    for (int change = 0; change < 2; change++) {
        many.route.seed = one.route.seed + (change == 0);
        many.route.step = one.route.step + (change == 1);
        infer(r, pool, &many);
        for (int t = 0; t < T; t++) assert_memory_not_equal(one.scores + t * N, many.scores + t * N, N * sizeof(float));
        assert_memory_equal(one.p, many.p, T * N * sizeof(float));
    }
    free_tokens(&one);
    free_tokens(&many);
    vm_router_free(r);
    vm_pool_free(pool);
}

/* ---- what is refused ---- */

static void test_refusals(void **state) {
    (void)state;
    vm_router_config c = {
        .n_layers = 1, .layers = {LAYER}, .n_experts = N, .dim = 4, .initial_scale = 0.2f, .temperature = 1};
    vm_router *r;
    strcpy(c.kind, "fixed-t");
    assert_int_equal(vm_router_create(&c, &r), VMOER_ERROR_LIMIT);
    assert_non_null(strstr(vm_error_text(), "route_temperature: 0 is not in 1e-06..1e+06"));
    vm_router_config_complete(&c);
    assert_true(c.route_temperature == 1 && c.keep_experts == 0);
    c.keep_experts = 2;
    assert_int_equal(vm_router_create(&c, &r), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "keep_experts: not a number of 'fixed-t'; of: expert-sample"));
    strcpy(c.kind, "expert-sample");
    c.keep_experts = 4097;
    assert_int_equal(vm_router_create(&c, &r), VMOER_ERROR_LIMIT);
    assert_non_null(strstr(vm_error_text(), "keep_experts"));
    assert_null(r);

    r = make_router("roe", N, 1, 0);
    tokens k = make_tokens(20, N, NULL);
    float kl;
    assert_true(vm_router_saved_floats(r) == 0 && vm_router_params(r).count == 0 &&
                vm_router_flops(r, VM_INFERENCE_PASSES, 1) == 0);
    assert_int_equal(vm_router_forward(r, NULL, &k.route, k.p, k.scores, NULL, &kl), VMOER_ERROR_UNSUPPORTED);
    assert_non_null(strstr(vm_error_text(), "'roe' has nothing to train"));
    ((float *)(uintptr_t)k.route.logits)[3 * N + 1] = INFINITY;
    assert_int_equal(vm_router_infer(r, NULL, &k.route, VM_INFERENCE_PASSES, 1, &(vm_routing){.p = k.p}),
                     VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "token 3"));
    vm_router_free(r);
    r = make_router("fixed-t", N, 1e-6f, 0); /* finite, but not when divided */
    ((float *)(uintptr_t)k.route.logits)[3 * N + 1] = 1e35f;
    assert_int_equal(vm_router_infer(r, NULL, &k.route, VM_INFERENCE_PASSES, 1, &(vm_routing){.p = k.p}),
                     VMOER_ERROR_NUMERIC);
    vm_router_free(r);
    free_tokens(&k);
}

/* One pass of a Gaussian router is softmax(l_det + dmu + L eps) of the pass's own eps. */
static void test_a_gaussian_pass(void **state) {
    (void)state;
    static const char *const kinds[2] = {"vglr-fc", "vglr-mf"};
    enum { T = 21 };
    for (int kind = 0; kind < 2; kind++) {
        vm_router_config c = {.n_layers = 1,
                              .layers = {LAYER},
                              .n_experts = N,
                              .dim = 4,
                              .width = 3,
                              .prior_scale = 1,
                              .initial_scale = 0.5f,
                              .temperature = 1};
        strcpy(c.kind, kinds[kind]);
        vm_router *r;
        assert_int_equal(vm_router_create(&c, &r), VMOER_OK);
        vm_param_list list = vm_router_params(r);
        vm_rng rng = vm_rng_start(8, VM_RNG_INIT, 1);
        for (size_t i = 0; i < list.count; i++)
            for (size_t j = 0; j < vm_param_size(list.items[i]); j++)
                list.items[i]->value[j] += 0.3f * vm_rng_normal(&rng);
        tokens k = make_tokens(T, N, NULL);
        for (int i = 0; i < 4 * T; i++) ((float *)(uintptr_t)k.route.u)[i] = vm_rng_normal(&rng);
        infer(r, NULL, &k);
        float eps[T * N], training[T * N], p[T * N], kl[T],
            *saved = vm_calloc(T * vm_router_saved_floats(r), sizeof *saved);
        k.route.sign = 1;
        for (int t = 0; t < T; t++) {
            vm_router_normals(&k.route, VM_RNG_PASS, t, N, 1, eps + t * N);
            vm_router_normals(&k.route, VM_RNG_ROUTE, t, N, 1, training + t * N);
        }
        assert_memory_not_equal(eps, training, sizeof eps);
        assert_int_equal(vm_router_forward_with(r, NULL, &k.route, eps, p, NULL, saved, kl), VMOER_OK);
        for (int i = 0; i < T * N; i++) assert_true(fabs((double)p[i] - k.p[i]) < 2e-6);
        vm_free(saved);
        free_tokens(&k);
        vm_router_free(r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normals),       cmocka_unit_test(test_gumbels),
        cmocka_unit_test(test_frequencies),   cmocka_unit_test(test_gates),
        cmocka_unit_test(test_cold_is_top_k), cmocka_unit_test(test_company_changes_nothing),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_a_gaussian_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
