/* test_router_vtsr.c: the variational temperature: against PyTorch (tools/golden_vtsr.py) and finite differences, the
 * straight-through gradient of the choice beside the gates', its exact start, and that training leaves it alive. */
#include "base/rng.h"
#include "base/status.h"
#include "io/safetensors.h"
#include "router/router_internal.h"
#include "train/optimizer.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYER = 3 };
static const char *const kinds[2] = {"vtsr", "vtsr-paper"};

static vm_router *make_router(const char *kind, int n, int dim, int width, float tau, uint64_t seed) {
    vm_router_config c = {.n_layers = 1,
                          .layers = {LAYER},
                          .n_experts = n,
                          .dim = dim,
                          .width = width,
                          .prior_scale = tau,
                          .initial_scale = 0.2f,
                          .seed = seed,
                          .temperature = 1};
    strcpy(c.kind, kind);
    vm_router *r;
    if (vm_router_create(&c, &r) != VMOER_OK) fail_msg("%s", vm_error_text());
    return r;
}

static float *floats(size_t n) {
    float *x = vm_calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

static void fill(float *x, size_t n, float scale, uint32_t stream) {
    vm_rng rng = vm_rng_start(12, VM_RNG_INIT, stream);
    for (size_t i = 0; i < n; i++) x[i] += scale * vm_rng_normal(&rng);
}

static void shake(vm_router *r, float scale) {
    vm_param_list list = vm_router_params(r);
    for (size_t i = 0; i < list.count; i++)
        fill(list.items[i]->value, vm_param_size(list.items[i]), scale, (uint32_t)i + 50);
}

static void assert_close(double got, double expected, double tolerance, const char *what, size_t at) {
    if (!(fabs(got - expected) <= tolerance * (1 + fabs(expected))))
        fail_msg("%s[%zu]: %.9g, expected %.9g", what, at, got, expected);
}

/* ---- the start ---- */

/* T(u) is 1 to the bit, and without noise p is the deterministic router's on every ISA. */
static void test_starts_at_one(void **state) {
    (void)state;
    enum { T = 40, N = 12, D = 16 };
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    float *u = floats(T * D), *logits = floats(T * N), p[T * N], scores[T * N], temperature[T];
    vm_token_key keys[T] = {{0}};
    fill(u, T * D, 1, 1), fill(logits, T * N, 1, 2);
    vm_route in = {.layer = LAYER, .n_tokens = T, .u = u, .logits = logits, .tokens = keys};
    for (int table = 0; table < n_tables; table++) {
        vm_kernels_force(tables[table]);
        for (int kind = 0; kind < 2; kind++) {
            vm_router *r = make_router(kinds[kind], N, D, 8, 1, 1);
            vm_routing out = {.p = p, .scores = scores, .temperature = temperature};
            assert_int_equal(vm_router_infer(r, NULL, &in, VM_INFERENCE_PASSES, 1, &out), VMOER_OK);
            for (int t = 0; t < T; t++) assert_true(temperature[t] == 1);
            float expected[T * N];
            memcpy(expected, logits, sizeof expected);
            for (int t = 0; t < T; t++) tables[table]->softmax(expected + t * N, N);
            if (kind == 1) assert_memory_equal(p, expected, sizeof p);
            if (kind == 0) assert_memory_not_equal(p, expected, sizeof p); /* the draws of T are there from the start */
            vm_router_free(r);
        }
    }
    vm_kernels_force(NULL);
    vm_free(u), vm_free(logits);
}

/* ---- PyTorch ---- */

static const float *values(const vm_safetensors *st, const char *prefix, const char *name, size_t n) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    const vm_st_tensor *t = vm_safetensors_find(st, full);
    if (!t || t->size != n * sizeof(float)) fail_msg("%s: not there, or of another size", full);
    return (const float *)(const void *)t->data;
}

static void assert_all(const float *got, const float *expected, size_t n, double tolerance, const char *what) {
    for (size_t i = 0; i < n; i++) assert_close(got[i], expected[i], tolerance, what, i);
}

static void check_golden(const vm_safetensors *st, int kind, bool renormalise) {
    enum { N = 7, K = 3, D = 8, T = 6, WIDTH = 5 };
    static const char *const names[4] = {"trunk.weight", "trunk.bias", "scale.weight", "scale.bias"};
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%s.%s", kinds[kind], renormalise ? "renormalised" : "plain");
    vm_router *r = make_router(kinds[kind], N, D, WIDTH, 0.7f, 0);
    vm_param_list list = vm_router_params(r);
    assert_int_equal(list.count, 4);
    for (size_t i = 0; i < 4; i++) {
        size_t size = vm_param_size(list.items[i]);
        memcpy(list.items[i]->value, values(st, prefix, names[i], size), size * sizeof(float));
    }
    vm_token_key keys[T] = {{0}};
    vm_route in = {.layer = LAYER,
                   .n_tokens = T,
                   .u = values(st, prefix, "u", T * D),
                   .logits = values(st, prefix, "logits", T * N),
                   .tokens = keys,
                   .sign = 1};
    const float *eps = values(st, prefix, "eps", T), *gumbels = values(st, prefix, "gumbels", T * N),
                *weights = values(st, prefix, "weights", T * N), *gate = values(st, prefix, "gate", T * N);
    float draws[T * (N + 1)], p[T * N], scores[T * N], kl[T], dp[T * N] = {0}, du[T * D] = {0}, dlogits[T * N];
    int each = kind == 0 ? N + 1 : N;
    for (int t = 0; t < T; t++) {
        if (kind == 0) draws[t * each] = eps[t];
        memcpy(draws + t * each + each - N, gumbels + t * N, N * sizeof *draws);
    }
    float *saved = floats(T * vm_router_saved_floats(r));
    assert_int_equal(vm_router_forward_with(r, NULL, &in, draws, p, scores, saved, kl), VMOER_OK);
    assert_all(p, values(st, prefix, "p", T * N), T * N, 3e-6, "p");
    assert_all(scores, values(st, prefix, "scores", T * N), T * N, 5e-6, "scores");
    assert_all(kl, values(st, prefix, "kl", T), T, 3e-6, "kl");
    for (int t = 0; t < T; t++) { /* the gradient of the gates by p, as a feed-forward layer hands it over */
        const float *g = gate + t * N, *w = weights + t * N, *q = p + t * N;
        double sum = 0, mean = 0;
        for (int i = 0; i < N; i++)
            if (g[i] > 0) sum += q[i], mean += (double)w[i] * q[i];
        for (int i = 0; i < N; i++)
            if (g[i] > 0) dp[t * N + i] = renormalise ? (float)((w[i] - mean / sum) / sum) : w[i];
    }
    assert_int_equal(vm_router_backward_with(r, NULL, &in, draws, p, saved, dp, 0.3f, du, dlogits), VMOER_OK);
    for (size_t i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "grad.%s", names[i]);
        size_t size = vm_param_size(list.items[i]);
        assert_all(list.items[i]->grad, values(st, prefix, name, size), size, 1e-5, name);
    }
    assert_all(du, values(st, prefix, "grad.u", T * D), T * D, 1e-5, "du");
    assert_all(dlogits, values(st, prefix, "grad.logits", T * N), T * N, 1e-5, "dlogits");
    vm_free(saved);
    vm_router_free(r);
}

static void test_golden(void **state) {
    (void)state;
    const char *tests = getenv("VMOER_TESTS");
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/vtsr.safetensors", tests ? tests : VMOER_TESTS_DIR);
    vm_safetensors *st;
    if (vm_safetensors_open(path, &st) != VMOER_OK) fail_msg("%s", vm_error_text());
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (int table = 0; table < n_tables; table++) {
        vm_kernels_force(tables[table]);
        for (int which = 0; which < 4; which++) check_golden(st, which & 1, which & 2);
    }
    vm_kernels_force(NULL);
    vm_safetensors_free(st);
}

/* ---- finite differences ---- */

enum { FN = 5, FD = 6, FT = 4, FH = 4 };
static const double FKL = 0.37, FTAU = 0.8;

/* All in double; draws as the router's. `frozen` [T, N]: dz of the point, whose product with the relaxed choice has the
 * straight-through gradient; NULL: the loss without it. */
typedef struct problem {
    bool noise;
    double *value[4]; /* of the router's parameters */
    double u[FT * FD], logits[FT * FN], dp[FT * FN];
    float draws[FT * (FN + 1)];
    const double *frozen;
} problem;

static void softmax_at(const double *l, double *p) {
    double sum = 0;
    for (int i = 0; i < FN; i++) sum += p[i] = exp(l[i]);
    for (int i = 0; i < FN; i++) p[i] /= sum;
}

static double truth(const problem *q) {
    double loss = 0;
    int m = q->noise ? 2 : 1, each = q->noise ? FN + 1 : FN;
    for (int t = 0; t < FT; t++) {
        double raw[2] = {q->value[3][0], m > 1 ? q->value[3][1] : 0};
        for (int j = 0; j < FH; j++) {
            double a = q->value[1][j];
            for (int d = 0; d < FD; d++) a += q->value[0][j * FD + d] * q->u[t * FD + d];
            for (int i = 0; i < m; i++) raw[i] += q->value[2][i * FH + j] * a / (1 + exp(-a));
        }
        double s = q->noise ? exp(raw[1]) : 0, z = raw[0] + (q->noise ? s * q->draws[t * each] : 0),
               log_T = 3 * tanh(z / 3), l[FN], y[FN], p[FN];
        const float *G = q->draws + t * each + each - FN;
        for (int i = 0; i < FN; i++) {
            l[i] = q->logits[t * FN + i] * exp(-log_T);
            y[i] = l[i] + G[i];
        }
        softmax_at(l, p);
        for (int i = 0; i < FN; i++) loss += q->dp[t * FN + i] * p[i];
        softmax_at(y, p);
        for (int i = 0; q->frozen && i < FN; i++) loss += q->frozen[t * FN + i] * p[i];
        double r = s / FTAU;
        loss += FKL * (q->noise ? 0.5 * (raw[0] * raw[0] / (FTAU * FTAU) + r * r - 1) - log(r) : -log_T);
    }
    return loss;
}

static double slope(const problem *q, double *x) {
    double kept = *x;
    *x = kept + 1e-5;
    double up = truth(q);
    *x = kept - 1e-5;
    double down = truth(q);
    *x = kept;
    return (up - down) / 2e-5;
}

/* saturated: one Gumbel so large that the relaxed choice is constant, which leaves the gates' gradient alone. */
static void check_gradients(int kind, bool saturated) {
    vm_router *r = make_router(kinds[kind], FN, FD, FH, (float)FTAU, 3);
    shake(r, 0.4f);
    vm_param_list list = vm_router_params(r);
    problem q = {.noise = kind == 0};
    float u[FT * FD] = {0}, logits[FT * FN] = {0}, dp[FT * FN] = {0}, p[FT * FN], scores[FT * FN], kl[FT],
                 du[FT * FD] = {0}, dlogits[FT * FN];
    fill(u, FT * FD, 1, 1), fill(logits, FT * FN, 1, 2), fill(dp, FT * FN, 1, 3);
    int each = kind == 0 ? FN + 1 : FN;
    fill(q.draws, (size_t)(FT * each), 1, 4);
    for (int t = 0; saturated && t < FT; t++) q.draws[t * each + each - 1] = 200;
    for (int i = 0; i < FT * FD; i++) q.u[i] = u[i];
    for (int i = 0; i < FT * FN; i++) q.logits[i] = logits[i], q.dp[i] = dp[i];
    for (size_t i = 0; i < 4; i++) {
        size_t size = vm_param_size(list.items[i]);
        q.value[i] = vm_calloc(size, sizeof(double));
        for (size_t j = 0; j < size; j++) q.value[i][j] = list.items[i]->value[j];
    }
    vm_token_key keys[FT] = {{0}};
    vm_route in = {.layer = LAYER, .n_tokens = FT, .u = u, .logits = logits, .tokens = keys, .sign = 1};
    float *saved = floats(FT * vm_router_saved_floats(r));
    assert_int_equal(vm_router_forward_with(r, NULL, &in, q.draws, p, scores, saved, kl), VMOER_OK);
    assert_int_equal(vm_router_backward_with(r, NULL, &in, q.draws, p, saved, dp, (float)FKL, du, dlogits), VMOER_OK);
    double frozen[FT * FN];
    for (int i = 0; i < FT * FN; i++) frozen[i] = (double)p[i] * dp[i];
    q.frozen = saturated ? NULL : frozen;
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < vm_param_size(list.items[i]); j++)
            assert_close(list.items[i]->grad[j], slope(&q, &q.value[i][j]), 2e-5, list.items[i]->name, j);
    for (size_t i = 0; i < FT * FD; i++) assert_close(du[i], slope(&q, &q.u[i]), 2e-5, "du", i);
    for (size_t i = 0; i < FT * FN; i++) assert_close(dlogits[i], slope(&q, &q.logits[i]), 2e-5, "dlogits", i);
    for (size_t i = 0; i < 4; i++) vm_free(q.value[i]);
    vm_free(saved);
    vm_router_free(r);
}

static void test_gradients(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        check_gradients(kind, true);
        check_gradients(kind, false);
    }
}

/* ---- bounds ---- */

/* However far the head goes, T stays within e^-3 .. e^3 and s within its range, and nothing overflows. */
static void test_bounds(void **state) {
    (void)state;
    enum { N = 4 };
    for (int kind = 0; kind < 2; kind++) {
        vm_router *r = make_router(kinds[kind], N, 2, 2, 1, 0);
        float *bias = vm_router_params(r).items[3]->value;
        float u[2] = {0}, logits[N] = {1, -1, 0.5f, 0}, p[N], scores[N], kl, dp[N] = {1, 0, 0, 0}, dlogits[N],
              temperature;
        float *saved = floats(vm_router_saved_floats(r));
        vm_token_key key = {0};
        vm_route in = {.layer = LAYER, .n_tokens = 1, .u = u, .logits = logits, .tokens = &key, .sign = 1};
        for (int sign = -1; sign <= 1; sign += 2) {
            bias[0] = (float)sign * 1e4f;
            if (kind == 0) bias[1] = (float)sign * 1e4f;
            vm_routing out = {.p = p, .temperature = &temperature};
            assert_int_equal(vm_router_infer(r, NULL, &in, VM_INFERENCE_PASSES, 1, &out), VMOER_OK);
            assert_close(temperature, exp(3 * sign), 1e-6, "T", 0);
            assert_int_equal(vm_router_forward(r, NULL, &in, p, scores, saved, &kl), VMOER_OK);
            assert_int_equal(vm_router_backward(r, NULL, &in, p, saved, dp, 1, NULL, dlogits), VMOER_OK);
            const float *grad = vm_router_params(r).items[3]->grad;
            assert_true(isfinite(grad[0]) && (kind == 1 || grad[1] == 0));
        }
        bias[0] = NAN;
        assert_int_equal(vm_router_infer(r, NULL, &in, VM_INFERENCE_PASSES, 1, &(vm_routing){.p = p}),
                         VMOER_ERROR_NUMERIC);
        assert_int_equal(vm_router_forward(r, NULL, &in, p, scores, saved, &kl), VMOER_ERROR_NUMERIC);
        vm_free(saved);
        vm_router_free(r);
    }
}

/* ---- threads and company, training and inference ---- */

static void test_company_changes_nothing(void **state) {
    (void)state;
    enum { T = 83, N = 9, D = 12 };
    vm_pool *pool;
    assert_int_equal(vm_pool_create(4, &pool), VMOER_OK);
    float *u = floats(T * D), *logits = floats(T * N), *dp = floats(T * N);
    fill(u, T * D, 1, 1), fill(logits, T * N, 1, 2), fill(dp, T * N, 1, 3);
    vm_token_key keys[T];
    for (int t = 0; t < T; t++) keys[t] = (vm_token_key){.item = (uint32_t)t / 9, .position = (uint16_t)(t % 9)};
    vm_route in = {
        .layer = LAYER, .n_tokens = T, .u = u, .logits = logits, .tokens = keys, .seed = 5, .step = 6, .sign = -1};
    for (int kind = 0; kind < 2; kind++) {
        float *grad[2], *answers[2];
        for (int run = 0; run < 2; run++) { /* in one call of one thread; in pieces of 7 tokens, four threads */
            vm_router *r = make_router(kinds[kind], N, D, 8, 1, 1);
            shake(r, 0.3f);
            size_t width = vm_router_saved_floats(r);
            float *saved = floats(T * width), *a = answers[run] = floats(T * (5 * N + 2 + D));
            float *p = a, *scores = p + T * N, *dlogits = scores + T * N, *q = dlogits + T * N, *choice = q + T * N,
                  *kl = choice + T * N, *temperature = kl + T, *du = temperature + T;
            for (int t = 0, piece = run ? 7 : T; t < T; t += piece) {
                vm_route part = in;
                part.n_tokens = t + piece < T ? piece : T - t;
                part.u += t * D, part.logits += t * N, part.tokens += t;
                vm_pool *on = run ? pool : NULL;
                assert_int_equal(
                    vm_router_forward(r, on, &part, p + t * N, scores + t * N, saved + (size_t)t * width, kl + t),
                    VMOER_OK);
                assert_int_equal(vm_router_backward(r, on, &part, p + t * N, saved + (size_t)t * width, dp + t * N,
                                                    0.1f, du + t * D, dlogits + t * N),
                                 VMOER_OK);
                vm_routing out = {.p = q + t * N, .scores = choice + t * N, .temperature = temperature + t};
                assert_int_equal(vm_router_infer(r, on, &part, VM_INFERENCE_PASSES, 1, &out), VMOER_OK);
            }
            assert_memory_not_equal(scores, choice, T * N * sizeof(float)); /* draws of their own */
            vm_param_list list = vm_router_params(r);
            grad[run] = floats(vm_param_size(list.items[0]));
            memcpy(grad[run], list.items[0]->grad, vm_param_size(list.items[0]) * sizeof(float));
            vm_free(saved);
            vm_router_free(r);
        }
        assert_memory_equal(answers[0], answers[1], T * (5 * N + 2 + D) * sizeof(float));
        for (int i = 0; i < 8 * D; i++) assert_close(grad[0][i], grad[1][i], 1e-4, "trunk.weight", (size_t)i);
        for (int run = 0; run < 2; run++) vm_free(grad[run]), vm_free(answers[run]);
    }
    vm_free(u), vm_free(logits), vm_free(dp);
    vm_pool_free(pool);
}

/* ---- training leaves it alive ---- */

typedef struct life {
    double mean, spread, low, high; /* of log T over tokens */
    double entropy;                 /* of p, over ln N */
    double apart;                   /* mean log T where the labels are flat, less that where they are sharp */
} life;

/* A token's label is a draw from softmax(l_det / t), t = flat where u_0 > 0, sharp where not; the loss is the
 * cross-entropy of the label under the gates of the K chosen, mixed with a little of everything. The best T is t. */
static life train(const char *kind, double sharp, double flat, float beta, uint64_t seed) {
    enum { T = 256, N = 12, D = 8, K = 4, STEPS = 300 };
    vm_router *r = make_router(kind, N, D, 16, 1, seed);
    vm_param_list list = vm_router_params(r);
    vm_optimizer_options options = vm_optimizer_options_default();
    vm_optimizer *optimizer;
    options.clip = 1;
    assert_int_equal(vm_optimizer_create(&list, &options, NULL, &optimizer), VMOER_OK);
    float u[T * D], logits[T * N], p[T * N], scores[T * N], kl[T], dp[T * N], dlogits[T * N], temperature[T];
    float *saved = floats(T * vm_router_saved_floats(r));
    vm_token_key keys[T];
    vm_route in = {.layer = LAYER, .n_tokens = T, .u = u, .logits = logits, .tokens = keys, .seed = seed, .sign = 1};
    vm_rng rng = vm_rng_start(seed, VM_RNG_TEXT, 0);
    for (int step = 0; step < STEPS; step++) {
        memset(dp, 0, sizeof dp);
        for (int i = 0; i < T * D; i++) u[i] = vm_rng_normal(&rng);
        for (int i = 0; i < T * N; i++) logits[i] = vm_rng_normal(&rng);
        for (int t = 0; t < T; t++) keys[t] = (vm_token_key){.item = (uint32_t)(step * T + t)};
        in.step = (uint64_t)step;
        assert_int_equal(vm_router_forward(r, NULL, &in, p, scores, saved, kl), VMOER_OK);
        for (int t = 0; t < T; t++) {
            double label_T = u[t * D] > 0 ? flat : sharp, best = -INFINITY, sum = 0;
            int label = 0, chosen[K];
            for (int i = 0; i < N; i++) {
                double g = logits[t * N + i] / label_T - log(-log(vm_rng_uniform(&rng) + 1e-12));
                if (g > best) best = g, label = i;
            }
            for (int k = 0; k < K; k++) {
                chosen[k] = -1;
                for (int i = 0; i < N; i++) {
                    bool free = true;
                    for (int j = 0; j < k; j++) free = free && chosen[j] != i;
                    if (free && (chosen[k] < 0 || scores[t * N + i] > scores[t * N + chosen[k]])) chosen[k] = i;
                }
                sum += p[t * N + chosen[k]];
            }
            for (int k = 0; k < K; k++) { /* through g = p / sum and -ln(.02 + g_label) */
                if (chosen[k] != label) continue;
                double gate = p[t * N + label] / sum, dg = -1 / (0.02 + gate) / T;
                for (int j = 0; j < K; j++)
                    dp[t * N + chosen[j]] = (float)((dg * (chosen[j] == label) - dg * gate) / sum);
            }
        }
        assert_int_equal(vm_router_backward(r, NULL, &in, p, saved, dp, beta / T, NULL, dlogits), VMOER_OK);
        assert_int_equal(
            vm_optimizer_step(optimizer, NULL, 0.01 * vm_schedule_linear((uint64_t)step, STEPS, 0.06), NULL), VMOER_OK);
    }
    life a = {.low = INFINITY, .high = -INFINITY};
    vm_routing out = {.p = p, .temperature = temperature};
    assert_int_equal(vm_router_infer(r, NULL, &in, VM_INFERENCE_PASSES, 1, &out), VMOER_OK);
    double square = 0, of[2] = {0};
    int count[2] = {0};
    for (int t = 0; t < T; t++) {
        double log_T = log(temperature[t]);
        a.mean += log_T / T, square += log_T * log_T / T;
        a.low = fmin(a.low, log_T), a.high = fmax(a.high, log_T);
        of[u[t * D] > 0] += log_T, count[u[t * D] > 0]++;
        for (int i = 0; i < N; i++) a.entropy -= p[t * N + i] > 0 ? p[t * N + i] * log(p[t * N + i]) / log(N) / T : 0;
    }
    a.spread = sqrt(square - a.mean * a.mean);
    a.apart = of[1] / count[1] - of[0] / count[0];
    vm_optimizer_free(optimizer);
    vm_free(saved);
    vm_router_free(r);
    return a;
}

static void test_training_does_not_collapse(void **state) {
    (void)state;
    static const struct {
        const char *kind;
        double sharp, flat;
        float beta;
        bool alive;
    } cases[] = {{"vtsr", 0.3, 2, 0.01f, true},    /* there is something to learn */
                 {"vtsr", 0.3, 2, 1, true},        /* the prior is strong */
                 {"vtsr", 1e-3, 1e-3, 0.1f, true}, /* the labels are always the largest logit's: the loss wants T = 0 */
                 {"vtsr", 1e3, 1e3, 0.1f, true},   /* they have nothing to do with the logits: T = infinity */
                 {"vtsr-paper", 0.3, 2, 1, false}}; /* -log T has no end: what the prior is for */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool learns = cases[i].sharp < cases[i].flat;
        for (uint64_t seed = 1; seed <= 3; seed++) {
            life a = train(cases[i].kind, cases[i].sharp, cases[i].flat, cases[i].beta, seed);
            bool off_bounds = a.low > -2.9 && a.high<2.9, varies = a.spread> 0.02,
                 open = a.entropy > 0.02 && a.entropy < 0.995, alive = off_bounds && varies && open;
            if (alive != cases[i].alive || (alive && learns && !(a.apart > 0.1)))
                fail_msg("%s, labels at %g and %g, beta %g, seed %d: log T %.2f +- %.2f in %.2f..%.2f, entropy %.3f, "
                         "apart %.2f",
                         cases[i].kind, cases[i].sharp, cases[i].flat, (double)cases[i].beta, (int)seed, a.mean,
                         a.spread, a.low, a.high, a.entropy, a.apart);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_at_one),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_company_changes_nothing),
        cmocka_unit_test(test_training_does_not_collapse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
