/* test_router_rank.c: the Gaussian family by the rank of its covariance: where LR meets FC and MF it is these bit for
 * bit; its draws have the covariance L L'; its cost grows as N r; and the kinds at the family's edge, noise without a
 * mean and noise without a network. */
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

enum { LAYER = 3, T = 37, DIM = 12, WIDTH = 8 };

static void fill(float *x, size_t n, float scale, uint32_t stream) {
    vm_rng rng = vm_rng_start(21, VM_RNG_INIT, stream);
    for (size_t i = 0; i < n; i++) x[i] = scale * vm_rng_normal(&rng);
}

static float *floats(size_t n) {
    float *x = calloc(n ? n : 1, sizeof *x);
    assert_non_null(x);
    return x;
}

static vm_router_config make_config(const char *kind, int n, int rank) {
    vm_router_config c = {.n_layers = 1,
                          .layers = {LAYER},
                          .n_experts = n,
                          .dim = DIM,
                          .width = WIDTH,
                          .prior_scale = 0.8f,
                          .initial_scale = 0.3f,
                          .rank = rank,
                          .temperature = 1};
    strcpy(c.kind, kind);
    return c;
}

/* Values that depend on the tensor and the place in it alone: routers with equal shapes are equal. */
static vm_router *make_router(const char *kind, int n, int rank) {
    vm_router_config config = make_config(kind, n, rank);
    vm_router *r;
    if (vm_router_create(&config, &r) != VMOER_OK) fail_msg("%s", vm_error_text());
    vm_param_list list = vm_router_params(r);
    for (size_t i = 0; i < list.count; i++) {
        float *change = floats(vm_param_size(list.items[i]));
        fill(change, vm_param_size(list.items[i]), 0.3f, (uint32_t)i);
        for (size_t j = 0; j < vm_param_size(list.items[i]); j++) list.items[i]->value[j] += change[j];
        free(change);
    }
    return r;
}

static float u[T * DIM], logits[T * 64], weights[T * 64];
static vm_token_key keys[T];

static vm_route make_route(int n) {
    fill(u, T * DIM, 1, 100), fill(logits, (size_t)(T * n), 1, 101), fill(weights, (size_t)(T * n), 1, 102);
    for (int t = 0; t < T; t++) keys[t] = (vm_token_key){.item = (uint32_t)t, .position = (uint16_t)(t % 5)};
    return (vm_route){
        .layer = LAYER, .n_tokens = T, .u = u, .logits = logits, .tokens = keys, .seed = 7, .step = 3, .sign = 1};
}

/* All that a router says of T tokens. */
typedef struct account {
    float p[T * 64], kl[T], du[T * DIM], dlogits[T * 64];
    float inferred[VM_INFERENCE_PASSES + 1][T * 64], trace[T], projected[T];
} account;

static void ask(vm_router *r, int n, account *a) {
    vm_route in = make_route(n);
    memset(a, 0, sizeof *a);
    float *saved = floats(T * vm_router_saved_floats(r));
    assert_int_equal(vm_router_forward(r, NULL, &in, a->p, NULL, saved, a->kl), VMOER_OK);
    assert_int_equal(vm_router_backward(r, NULL, &in, a->p, saved, weights, 0.4f, a->du, a->dlogits), VMOER_OK);
    for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
        vm_routing out = {.p = a->inferred[way], .trace = a->trace, .trace_projected = a->projected};
        assert_int_equal(vm_router_infer(r, NULL, &in, way, 9, &out), VMOER_OK);
    }
    free(saved);
}

static account one, other;

static void assert_same_router(vm_router *a, vm_router *b, int n) {
    vm_param_list x = vm_router_params(a), y = vm_router_params(b);
    ask(a, n, &one);
    ask(b, n, &other);
    assert_memory_equal(&one, &other, sizeof one);
    assert_int_equal(x.count, y.count);
    for (size_t i = 0; i < x.count; i++) {
        assert_string_equal(x.items[i]->name, y.items[i]->name);
        assert_int_equal(x.items[i]->rows, y.items[i]->rows);
        assert_memory_equal(x.items[i]->grad, y.items[i]->grad, vm_param_size(x.items[i]) * sizeof(float));
        assert_true(x.items[i]->grad[0] != 0);
    }
    vm_router_free(a);
    vm_router_free(b);
}

static void test_the_ends_of_the_family(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 9, 24, 64};
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (int table = 0; table < n_tables; table++) {
        vm_kernels_force(tables[table]);
        for (int s = 0; s < 5; s++) {
            int n = sizes[s];
            assert_same_router(make_router("vglr-lr", n, 0), make_router("vglr-mf", n, 0), n);
            assert_same_router(make_router("vglr-lr", n, n - 1), make_router("vglr-fc", n, 0), n);
            if (n < 64) assert_same_router(make_router("vglr-lr", n, n + 1), make_router("vglr-fc", n, 0), n);
        }
    }
    vm_kernels_force(NULL);
}

/* Without a mean head dmu is 0: MEAN is the deterministic router, and the rest FC's with a mean head of zeros. */
static void test_noise_is_fc_without_a_mean(void **state) {
    (void)state;
    enum { N = 9 };
    vm_router *noise = make_router("vglr-noise", N, 0), *fc = make_router("vglr-fc", N, 0);
    vm_param_list x = vm_router_params(noise), y = vm_router_params(fc);
    assert_int_equal(x.count, 4);
    static const int slot[4] = {VM_TRUNK_WEIGHT, VM_TRUNK_BIAS, VM_SCALE_WEIGHT, VM_SCALE_BIAS};
    for (int i = 2; i < 4; i++) memset(y.items[i]->value, 0, vm_param_size(y.items[i]) * sizeof(float));
    for (int i = 0; i < 4; i++) {
        assert_string_equal(x.items[i]->name, y.items[slot[i]]->name);
        memcpy(y.items[slot[i]]->value, x.items[i]->value, vm_param_size(x.items[i]) * sizeof(float));
    }
    ask(noise, N, &one);
    ask(fc, N, &other);
    assert_memory_equal(&one, &other, sizeof one);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(x.items[i]->grad, y.items[slot[i]]->grad, vm_param_size(x.items[i]) * sizeof(float));
    for (int t = 0; t < T; t++) vm_kernels_get()->softmax(logits + t * N, N);
    assert_memory_equal(one.inferred[VM_INFERENCE_MEAN], logits, T * N * sizeof(float));
    vm_router_free(noise);
    vm_router_free(fc);
}

/* ---- the covariance of the draws ---- */

enum { N = 8, DRAWS = 100000 };

/* ln p of DRAWS draws l ~ N(m, Sigma) of one token, each under a key of its own: l_i - l_7 = ln p_i - ln p_7. */
static void draw_often(vm_router *r, bool passes, float *p) {
    float *us = floats((size_t)DRAWS * DIM), *l = floats((size_t)DRAWS * N), *kl = floats(DRAWS);
    vm_token_key *key = calloc(DRAWS, sizeof *key);
    float *saved = passes ? NULL : floats(DRAWS * vm_router_saved_floats(r));
    for (int t = 0; t < DRAWS; t++) {
        key[t].item = (uint32_t)t;
        fill(us + (size_t)t * DIM, DIM, 1, 100);
        for (int i = 0; i < N; i++) l[t * N + i] = 0.1f * (float)i;
    }
    vm_route in = {.layer = LAYER, .n_tokens = DRAWS, .u = us, .logits = l, .tokens = key, .seed = 5, .sign = 1};
    if (passes) {
        assert_int_equal(vm_router_infer(r, NULL, &in, VM_INFERENCE_PASSES, 1, &(vm_routing){.p = p}), VMOER_OK);
    } else {
        assert_int_equal(vm_router_forward(r, NULL, &in, p, NULL, saved, kl), VMOER_OK);
    }
    free(us), free(l), free(kl), free(key), free(saved);
}

/* Expects Cov(l_i - l_7, l_j - l_7) = C_ij, C = A Sigma A', within 5 standard errors sqrt((C_ii C_jj + C_ij^2) / n). */
static void check_covariance(const float *p, const double *sigma) {
    double mean[N - 1] = {0}, C[N - 1][N - 1], worst = 0;
    double(*d)[N - 1] = calloc(DRAWS, sizeof *d);
    for (int t = 0; t < DRAWS; t++) {
        for (int i = 0; i < N - 1; i++) {
            d[t][i] = log((double)p[t * N + i]) - log((double)p[t * N + N - 1]);
            mean[i] += d[t][i] / DRAWS;
        }
    }
    for (int i = 0; i < N - 1; i++)
        for (int j = 0; j < N - 1; j++)
            C[i][j] = sigma[i * N + j] - sigma[i * N + N - 1] - sigma[j * N + N - 1] + sigma[N * N - 1];
    for (int i = 0; i < N - 1; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = 0, error = sqrt((C[i][i] * C[j][j] + C[i][j] * C[i][j]) / DRAWS);
            for (int t = 0; t < DRAWS; t++) sum += (d[t][i] - mean[i]) * (d[t][j] - mean[j]) / (DRAWS - 1);
            worst = fmax(worst, fabs(sum - C[i][j]) / error);
        }
    }
    free(d);
    if (!(worst < 5)) fail_msg("a covariance is off by %.1f standard errors", worst);
}

static void test_covariance_of_the_draws(void **state) {
    (void)state;
    float *p = floats((size_t)DRAWS * N);
    for (int rank = 0; rank <= N - 1; rank += rank == 2 ? N - 3 : 2) { /* 0, 2, N - 1 */
        vm_router *r = make_router("vglr-lr", N, rank);
        double h[WIDTH], L[N][N] = {{0}}, sigma[N * N];
        float x[DIM];
        const vm_param *w = r->layers[0].params;
        fill(x, DIM, 1, 100);
        for (int i = 0; i < WIDTH; i++) {
            double z = w[VM_TRUNK_BIAS].value[i];
            for (int j = 0; j < DIM; j++) z += (double)w[VM_TRUNK_WEIGHT].value[i * DIM + j] * x[j];
            h[i] = z / (1 + exp(-z));
        }
        for (int i = 0, at = 0; i < N; i++) {
            for (int j = 0; j <= i; j++) {
                if (j >= rank && j < i) continue;
                double raw = w[VM_SCALE_BIAS].value[at];
                for (int k = 0; k < WIDTH; k++) raw += w[VM_SCALE_WEIGHT].value[at * WIDTH + k] * h[k];
                L[i][j] = i == j ? exp(raw) : raw;
                at++;
            }
        }
        for (int i = 0; i < N * N; i++) {
            sigma[i] = 0;
            for (int k = 0; k < N; k++) sigma[i] += L[i / N][k] * L[i % N][k];
        }
        draw_often(r, false, p);
        check_covariance(p, sigma);
        draw_often(r, true, p);
        check_covariance(p, sigma);
        vm_router_free(r);
    }
    free(p);
}

/* ---- cost and limits ---- */

static void test_cost_is_linear_in_experts(void **state) {
    (void)state;
    static const int sizes[] = {64, 128, 256};
    for (int s = 0; s < 3; s++) {
        int n = sizes[s], rank = 4, outputs = n * (rank + 1) - rank * (rank + 1) / 2;
        vm_router *r = make_router("vglr-lr", n, rank);
        assert_int_equal(r->layers[0].params[VM_SCALE_WEIGHT].rows, outputs);
        double mean = 2.0 * DIM * WIDTH + 2.0 * WIDTH * n, heads = mean + 2.0 * WIDTH * outputs;
        assert_true(vm_router_flops(r, VM_INFERENCE_MEAN, 0) == mean);
        assert_true(vm_router_flops(r, VM_INFERENCE_TILTED, 0) == heads + (2 + 4 * VM_TILTED_STEPS) * (double)outputs);
        assert_true(vm_router_flops(r, VM_INFERENCE_SAMPLE, 32) == heads + 16 * 2.0 * outputs);
        vm_router_free(r);
    }
}

static void expect_refused(vm_router_config c, const char *text) {
    vm_router *r;
    assert_int_not_equal(vm_router_create(&c, &r), VMOER_OK);
    if (!strstr(vm_error_text(), text)) fail_msg("\"%s\" does not say %s", vm_error_text(), text);
}

static void test_limits(void **state) {
    (void)state;
    expect_refused(make_config("vglr-fc", 65, 0), "vglr-lr");
    expect_refused(make_config("vglr-noise", 65, 0), "vglr-lr");
    expect_refused(make_config("vglr-lr", 128, 65), "rank");
    expect_refused(make_config("vglr-lr", 128, -1), "rank");
    expect_refused(make_config("vglr-lr", 4097, 4), "n_experts");
    vm_router_config c = make_config("isotropic", 24, 0);
    expect_refused(c, "noise");
    c.noise = 101;
    expect_refused(c, "noise");
    c.noise = 0.5f, c.rank = 2;
    expect_refused(c, "rank");
    c = make_config("vglr-lr", 24, 0);
    vm_router_config_complete(&c);
    assert_int_equal(c.rank, 4);
}

/* ---- isotropic ---- */

/* No tensors: MF with a mean of 0 and L = sigma I says the same, up to the rounding of exp(ln sigma). */
static void test_isotropic(void **state) {
    (void)state;
    enum { EXPERTS = 24 };
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (int table = 0; table < n_tables; table++) {
        vm_kernels_force(tables[table]);
        vm_router_config c = make_config("isotropic", EXPERTS, 0), like = make_config("vglr-mf", EXPERTS, 0);
        c.noise = like.initial_scale = 0.7f;
        vm_router *r, *mf;
        assert_int_equal(vm_router_create(&c, &r), VMOER_OK);
        assert_int_equal(vm_router_create(&like, &mf), VMOER_OK);
        assert_int_equal(vm_router_params(r).count, 0);
        assert_true(vm_router_has_covariance(r) && vm_router_has_layer(r, LAYER));
        assert_int_equal(vm_router_default_inference(r), VM_INFERENCE_PASSES);
        vm_route in = make_route(EXPERTS);
        for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
            float p[2][T * EXPERTS], trace[2][T], projected[2][T];
            for (int i = 0; i < 2; i++) {
                vm_routing out = {.p = p[i], .trace = trace[i], .trace_projected = projected[i]};
                assert_int_equal(vm_router_infer(i ? mf : r, NULL, &in, way, 9, &out), VMOER_OK);
            }
            for (int i = 0; i < T * EXPERTS; i++) assert_true(fabsf(p[0][i] - p[1][i]) < 2e-6f);
            for (int t = 0; t < T; t++) {
                assert_true(fabsf(trace[0][t] - EXPERTS * 0.49f) < 1e-5f);
                assert_true(fabsf(projected[0][t] - (EXPERTS - 1) * 0.49f) < 1e-5f);
                assert_true(fabsf(trace[0][t] - trace[1][t]) < 1e-5f);
                assert_true(fabsf(projected[0][t] - projected[1][t]) < 2e-5f);
            }
        }
        float p[T * EXPERTS], later[T * EXPERTS];
        assert_int_equal(vm_router_infer(r, NULL, &in, VM_INFERENCE_PASSES, 1, &(vm_routing){.p = p}), VMOER_OK);
        in.step++;
        assert_int_equal(vm_router_infer(r, NULL, &in, VM_INFERENCE_PASSES, 1, &(vm_routing){.p = later}), VMOER_OK);
        assert_memory_not_equal(p, later, sizeof p);
        float saved[1], kl[T];
        assert_int_equal(vm_router_forward(r, NULL, &in, p, NULL, saved, kl), VMOER_ERROR_UNSUPPORTED);
        vm_router_free(r);
        vm_router_free(mf);
    }
    vm_kernels_force(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_ends_of_the_family),
        cmocka_unit_test(test_noise_is_fc_without_a_mean),
        cmocka_unit_test(test_covariance_of_the_draws),
        cmocka_unit_test(test_cost_is_linear_in_experts),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_isotropic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
