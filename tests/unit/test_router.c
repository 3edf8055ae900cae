/* test_router.c: the variational routers against a scalar double-precision reading of docs/METHOD.md, against their own
 * limits (no noise, no off-diagonal, no layer), and their independence from threads and batches. Files:
 * test_router_file.c; PyTorch's numbers: test_router_golden.c. */
#include "base/rng.h"
#include "base/status.h"
#include "router/router_internal.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYER = 5 };

static vm_router_config make_config(const char *kind, int n, int dim, int width) {
    vm_router_config c = {.n_layers = 2,
                          .layers = {2, LAYER},
                          .n_experts = n,
                          .dim = dim,
                          .width = width,
                          .prior_scale = 0.8f,
                          .initial_scale = 0.3f,
                          .seed = 11,
                          .temperature = 1.0,
                          .rank = strcmp(kind, "vglr-lr") == 0 ? 2 : 0};
    strcpy(c.kind, kind);
    return c;
}

static vm_router *make_router(const vm_router_config *config) {
    vm_router *r;
    assert_int_equal(vm_router_create(config, &r), VMOER_OK);
    return r;
}

static void fill(float *x, size_t n, float scale, uint32_t stream) {
    vm_rng rng = vm_rng_start(99, VM_RNG_INIT, stream);
    for (size_t i = 0; i < n; i++) x[i] = scale * vm_rng_normal(&rng);
}

/* Every parameter moved off its start, so that no gradient is 0 for a trivial reason. */
static void shake(vm_router *r, float scale) {
    vm_param_list list = vm_router_params(r);
    for (size_t i = 0; i < list.count; i++) {
        float *change = malloc(vm_param_size(list.items[i]) * sizeof *change);
        fill(change, vm_param_size(list.items[i]), scale, 1000 + (uint32_t)i);
        for (size_t j = 0; j < vm_param_size(list.items[i]); j++) list.items[i]->value[j] += change[j];
        free(change);
    }
}

typedef struct problem {
    vm_router *r;
    vm_pool *pool;
    int T, n, dim;
    vm_token_key *keys;
    float *u, *logits, *weights, *p, *saved, *kl, *du, *dlogits;
    vm_route route;
} problem;

static float *floats(size_t n) {
    float *x = calloc(n ? n : 1, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Takes r. */
static problem make_problem(vm_router *r, int T, int threads) {
    const vm_router_config *c = vm_router_get_config(r);
    problem q = {.r = r, .T = T, .n = c->n_experts, .dim = c->dim};
    if (threads > 1) assert_int_equal(vm_pool_create(threads, &q.pool), VMOER_OK);
    size_t rows = (size_t)T, n = (size_t)q.n, dim = (size_t)q.dim;
    q.keys = calloc(rows, sizeof *q.keys);
    for (int t = 0; t < T; t++)
        q.keys[t] = (vm_token_key){.item = (uint32_t)(t / 7), .part = (uint16_t)(t % 3), .position = (uint16_t)(t % 7)};
    q.u = floats(rows * dim);
    q.logits = floats(rows * n);
    q.weights = floats(rows * n);
    q.p = floats(rows * n);
    q.saved = floats(rows * vm_router_saved_floats(r));
    q.kl = floats(rows);
    q.du = floats(rows * dim);
    q.dlogits = floats(rows * n);
    fill(q.u, rows * dim, 1.0f, 1);
    fill(q.logits, rows * n, 1.0f, 2);
    fill(q.weights, rows * n, 1.0f, 3);
    q.route = (vm_route){
        .layer = LAYER, .n_tokens = T, .u = q.u, .logits = q.logits, .tokens = q.keys, .seed = 7, .step = 3, .sign = 1};
    return q;
}

static void free_problem(problem *q) {
    vm_router_free(q->r);
    vm_pool_free(q->pool);
    free(q->keys), free(q->u), free(q->logits), free(q->weights), free(q->p), free(q->saved), free(q->kl), free(q->du),
        free(q->dlogits);
}

static const float KL_WEIGHT = 0.37f;

static void run_forward(problem *q) {
    assert_int_equal(vm_router_forward(q->r, q->pool, &q->route, q->p, NULL, q->saved, q->kl), VMOER_OK);
}

static void run_backward(problem *q) {
    assert_int_equal(
        vm_router_backward(q->r, q->pool, &q->route, q->p, q->saved, q->weights, KL_WEIGHT, q->du, q->dlogits),
        VMOER_OK);
}

static void run_infer(const problem *q, vm_inference inference, int samples, float *p, float *trace, float *projected) {
    assert_int_equal(vm_router_infer(q->r, q->pool, &q->route, inference, samples,
                                     &(vm_routing){.p = p, .trace = trace, .trace_projected = projected}),
                     VMOER_OK);
}

/* ---- the scalar truth ---- */

typedef struct truth {
    int n, dim, width, M;
    int rank;
    double s0;
    const double *W1, *b1, *Wm, *bm, *Wl, *bl; /* of one layer */
} truth;

static double truth_dot(const double *row, const double *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += row[i] * x[i];
    return sum;
}

static void truth_softmax(const double *l, int n, double *p) {
    double max = l[0], sum = 0;
    for (int i = 1; i < n; i++) max = fmax(max, l[i]);
    for (int i = 0; i < n; i++) sum += p[i] = exp(l[i] - max);
    for (int i = 0; i < n; i++) p[i] /= sum;
}

/* Mean m and the dense lower triangle L[N, N] of one token; returns KL(q||p), 0 without covariance. */
static double truth_posterior(const truth *k, const double *u, const double *logits, double *m, double *L) {
    double h[64], kl = 0;
    for (int i = 0; i < k->width; i++) {
        double z = truth_dot(k->W1 + i * k->dim, u, k->dim) + k->b1[i];
        h[i] = z / (1 + exp(-z));
    }
    memset(L, 0, (size_t)(k->n * k->n) * sizeof *L);
    for (int i = 0, at = 0; i < k->n; i++) {
        double dmu = k->Wm ? truth_dot(k->Wm + i * k->width, h, k->width) + k->bm[i] : 0;
        m[i] = logits[i] + dmu;
        if (k->M == 0) continue;
        kl += dmu * dmu / (k->s0 * k->s0) - 1 + 2 * log(k->s0);
        for (int j = 0; j <= i; j++) {
            if (j >= k->rank && j < i) continue;
            double raw = truth_dot(k->Wl + at * k->width, h, k->width) + k->bl[at];
            double value = i == j ? exp(fmin(fmax(raw, -10), 5)) : raw;
            L[i * k->n + j] = value;
            kl += value * value / (k->s0 * k->s0) - (i == j ? 2 * log(value) : 0);
            at++;
        }
    }
    return kl / 2;
}

/* p of one draw. */
static double truth_forward(const truth *k, const double *u, const double *logits, const double *eps, double *p) {
    double m[64], L[64 * 64];
    double kl = truth_posterior(k, u, logits, m, L);
    for (int i = 0; i < k->n; i++) m[i] += truth_dot(L + i * k->n, eps, k->n);
    truth_softmax(m, k->n, p);
    return kl;
}

/* All numbers of a problem in double: parameters of LAYER, u, logits, eps. */
typedef struct doubles {
    truth k;
    double *value[VM_TRUNK_SLOTS];
    size_t size[VM_TRUNK_SLOTS];
    double *u, *logits, *eps;
} doubles;

static double *widen(const float *x, size_t n) {
    double *y = calloc(n ? n : 1, sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

static doubles make_doubles(const problem *q) {
    const vm_router_config *c = vm_router_get_config(q->r);
    const vm_router_layer *layer = vm_router_layer_find(q->r, LAYER);
    doubles d = {0};
    for (int i = 0; i < VM_TRUNK_SLOTS; i++) {
        d.size[i] = vm_param_size(&layer->params[i]);
        d.value[i] = widen(layer->params[i].value, d.size[i]);
    }
    bool mean = d.size[VM_MEAN_WEIGHT] > 0;
    d.k = (truth){.n = q->n,
                  .dim = q->dim,
                  .width = c->width,
                  .M = q->r->scale_outputs,
                  .rank = strcmp(c->kind, "vglr-mf") == 0 ? 0
                          : c->rank                       ? c->rank
                                                          : q->n - 1,
                  .s0 = c->prior_scale,
                  .W1 = d.value[VM_TRUNK_WEIGHT],
                  .b1 = d.value[VM_TRUNK_BIAS],
                  .Wm = mean ? d.value[VM_MEAN_WEIGHT] : NULL,
                  .bm = mean ? d.value[VM_MEAN_BIAS] : NULL,
                  .Wl = d.value[VM_SCALE_WEIGHT],
                  .bl = d.value[VM_SCALE_BIAS]};
    d.u = widen(q->u, (size_t)(q->T * q->dim));
    d.logits = widen(q->logits, (size_t)(q->T * q->n));
    float *eps = floats((size_t)(q->T * q->n));
    if (q->r->kind->has_covariance) {
        for (int t = 0; t < q->T; t++) vm_router_normals(&q->route, VM_RNG_ROUTE, t, q->n, 1, eps + t * q->n);
    }
    d.eps = widen(eps, (size_t)(q->T * q->n));
    free(eps);
    return d;
}

static void free_doubles(doubles *d) {
    for (int i = 0; i < VM_TRUNK_SLOTS; i++) free(d->value[i]);
    free(d->u), free(d->logits), free(d->eps);
}

static double truth_loss(const doubles *d, const problem *q) {
    double loss = 0, p[64];
    for (int t = 0; t < q->T; t++) {
        loss += KL_WEIGHT * truth_forward(&d->k, d->u + t * q->dim, d->logits + t * q->n, d->eps + t * q->n, p);
        for (int i = 0; i < q->n; i++) loss += q->weights[t * q->n + i] * p[i];
    }
    return loss;
}

/* Central difference of the loss by *x. */
static double slope(const doubles *d, const problem *q, double *x) {
    const double step = 1e-5;
    double kept = *x;
    *x = kept + step;
    double up = truth_loss(d, q);
    *x = kept - step;
    double down = truth_loss(d, q);
    *x = kept;
    return (up - down) / (2 * step);
}

static void assert_close(double got, double expected, double tolerance, const char *what, size_t at) {
    if (!(fabs(got - expected) <= tolerance * (1 + fabs(expected))))
        fail_msg("%s[%zu]: %.9g, expected %.9g", what, at, got, expected);
}

/* The first two have L's diagonal where the tests expect it, the first four a covariance. */
static const char *const layered[] = {"vglr-fc", "vglr-mf", "vglr-lr", "vglr-noise", "residual"};
enum { GAUSSIAN = 4, LAYERED = 5 };

static void test_forward_is_the_mathematics(void **state) {
    (void)state;
    for (int kind = 0; kind < LAYERED; kind++) {
        vm_router_config config = make_config(layered[kind], 7, 20, 9);
        vm_router *r = make_router(&config);
        shake(r, 0.3f);
        problem q = make_problem(r, 37, 1);
        run_forward(&q);
        doubles d = make_doubles(&q);
        for (int t = 0; t < q.T; t++) {
            double p[64];
            double kl = truth_forward(&d.k, d.u + t * q.dim, d.logits + t * q.n, d.eps + t * q.n, p);
            assert_close(q.kl[t], kl, 1e-5, "kl", (size_t)t);
            for (int i = 0; i < q.n; i++) assert_close(q.p[t * q.n + i], p[i], 1e-5, "p", (size_t)(t * q.n + i));
        }
        free_doubles(&d);
        free_problem(&q);
    }
}

static void test_gradients(void **state) {
    (void)state;
    for (int kind = 0; kind < LAYERED; kind++) {
        vm_router_config config = make_config(layered[kind], 5, 6, 4);
        vm_router *r = make_router(&config);
        shake(r, 0.4f);
        problem q = make_problem(r, 9, 1);
        fill(q.du, (size_t)(q.T * q.dim), 1.0f, 4); /* du is added to */
        float *before = floats((size_t)(q.T * q.dim));
        memcpy(before, q.du, (size_t)(q.T * q.dim) * sizeof *before);
        run_forward(&q);
        run_backward(&q);
        doubles d = make_doubles(&q);
        const vm_router_layer *layer = vm_router_layer_find(r, LAYER);
        for (int which = 0; which < VM_TRUNK_SLOTS; which++) {
            for (size_t i = 0; i < d.size[which]; i++) {
                assert_close(layer->params[which].grad[i], slope(&d, &q, &d.value[which][i]), 2e-5,
                             layer->params[which].name, i);
            }
        }
        for (int i = 0; i < q.T * q.dim; i++)
            assert_close(q.du[i] - before[i], slope(&d, &q, &d.u[i]), 2e-5, "du", (size_t)i);
        for (int i = 0; i < q.T * q.n; i++)
            assert_close(q.dlogits[i], slope(&d, &q, &d.logits[i]), 2e-5, "dlogits", (size_t)i);
        free(before);
        free_doubles(&d);
        free_problem(&q);
    }
}

/* A second backward adds to the parameters' gradients; the other layer's stay 0. */
static void test_gradients_accumulate(void **state) {
    (void)state;
    vm_router_config config = make_config("vglr-fc", 5, 6, 4);
    vm_router *r = make_router(&config);
    shake(r, 0.4f);
    problem q = make_problem(r, 9, 1);
    run_forward(&q);
    run_backward(&q);
    const vm_router_layer *layer = vm_router_layer_find(r, LAYER), *other = vm_router_layer_find(r, 2);
    float once = layer->params[VM_SCALE_WEIGHT].grad[3], bias = layer->params[VM_MEAN_BIAS].grad[1];
    assert_true(once != 0 && bias != 0);
    run_backward(&q);
    assert_close(layer->params[VM_SCALE_WEIGHT].grad[3], 2.0 * once, 1e-6, "scale.weight", 3);
    assert_close(layer->params[VM_MEAN_BIAS].grad[1], 2.0 * bias, 1e-6, "mean.bias", 1);
    for (int which = 0; which < VM_TRUNK_SLOTS; which++) assert_true(other->params[which].grad[0] == 0);
    free_problem(&q);
}

/* Outside [-10, 5] the diagonal's raw value has no gradient, and nothing overflows. */
static void test_the_diagonal_is_bounded(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        vm_router_config config = make_config(layered[kind], 4, 6, 4);
        vm_router *r = make_router(&config);
        vm_router_params(r);
        problem q = make_problem(r, 3, 1);
        const vm_router_layer *layer = vm_router_layer_find(r, LAYER);
        float *bias = layer->params[VM_SCALE_BIAS].value;
        int at[4] = {0, kind == 0 ? 2 : 1, kind == 0 ? 5 : 2, kind == 0 ? 9 : 3};
        bias[at[0]] = 1000, bias[at[1]] = -1000, bias[at[2]] = 4.9f;
        run_forward(&q);
        run_backward(&q);
        const float *grad = layer->params[VM_SCALE_BIAS].grad;
        assert_true(grad[at[0]] == 0 && grad[at[1]] == 0 && grad[at[2]] > 0 && grad[at[3]] != 0);
        float trace[3];
        run_infer(&q, VM_INFERENCE_SAMPLE, 8, q.p, trace, NULL);
        assert_close(trace[0], exp(10) + exp(-20) + exp(9.8) + 0.09, 1e-5, "trace", 0);
        free_problem(&q);
    }
}

static void test_kl(void **state) {
    (void)state;
    float zero[3] = {0}, identity[6] = {0.7f, 0, 0.7f, 0, 0, 0.7f}, diagonal[3] = {0.7f, 0.7f, 0.7f},
          dmu[3] = {1, -2, 0.5f};
    assert_true(vm_gaussian_kl(zero, identity, 3, 2, 0.7f) == 0);
    assert_true(vm_gaussian_kl(zero, diagonal, 3, 0, 0.7f) == 0);
    float L[6] = {0.5f, -0.25f, 2, 1, 0.125f, 0.75f};
    double s0 = 1.5, squares = 1 + 4 + 0.25 + 0.25 + 0.0625 + 4 + 1 + 0.015625 + 0.5625;
    double expected = 0.5 * (squares / (s0 * s0) - 3 - 2 * log(0.5 * 2 * 0.75) + 6 * log(s0));
    assert_close(vm_gaussian_kl(dmu, L, 3, 2, s0), expected, 1e-14, "kl", 0);
    for (int i = 0; i < 2000; i++) { /* never below 0, however close L is to s0 */
        float near = 0.7f * (1 + (float)(i - 1000) * 1e-9f);
        for (int j = 0; j < 3; j++) diagonal[j] = near;
        assert_true(vm_gaussian_kl(zero, diagonal, 3, 0, 0.7f) >= 0);
    }
}

/* ---- limits ---- */

static void test_starts_as_the_deterministic_router(void **state) {
    (void)state;
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    for (int table = 0; table < n_tables; table++) {
        vm_kernels_force(tables[table]);
        for (int kind = 0; kind < LAYERED; kind++) {
            vm_router_config config = make_config(layered[kind], 24, 32, 16);
            problem q = make_problem(make_router(&config), 50, 1);
            run_infer(&q, VM_INFERENCE_MEAN, 0, q.p, NULL, NULL);
            for (int t = 0; t < q.T; t++) vm_kernels_get()->softmax(q.logits + t * q.n, q.n);
            assert_memory_equal(q.p, q.logits, (size_t)(q.T * q.n) * sizeof(float));
            free_problem(&q);
        }
    }
    vm_kernels_force(NULL);
}

static double largest_difference(const float *x, const float *y, int n) {
    double largest = 0;
    for (int i = 0; i < n; i++) largest = fmax(largest, fabs((double)x[i] - y[i]));
    return largest;
}

static void set_scale_bias(vm_router *r, float value) {
    vm_param *p = &r->layers[1].params[VM_SCALE_BIAS];
    for (int i = 0; i < p->cols; i++) p->value[i] = value;
}

static void test_no_noise_is_the_mean(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        vm_router_config config = make_config(layered[kind], 12, 16, 8);
        vm_router *r = make_router(&config);
        vm_param *mean = &r->layers[1].params[VM_MEAN_WEIGHT];
        fill(mean->value, vm_param_size(mean), 0.5f, 5);
        vm_router_params(r);
        problem q = make_problem(r, 20, 1);
        float *mean_p = floats((size_t)(q.T * q.n));
        run_infer(&q, VM_INFERENCE_MEAN, 0, mean_p, NULL, NULL);
        static const vm_inference ways[3] = {VM_INFERENCE_CLOSED, VM_INFERENCE_SAMPLE, VM_INFERENCE_TILTED};
        double last[3] = {1, 1, 1};
        for (int exponent = 1; exponent <= 8; exponent++) { /* shrinking Sigma shrinks the differences */
            for (int i = 0; i < q.n; i++)
                r->layers[1].params[VM_SCALE_BIAS].value[kind == 0 ? i * (i + 3) / 2 : i] = (float)-exponent;
            for (int way = 0; way < 3; way++) {
                run_infer(&q, ways[way], 32, q.p, NULL, NULL);
                double difference = largest_difference(q.p, mean_p, q.T * q.n);
                assert_true(difference < fmax(last[way], 3e-7));
                last[way] = difference;
            }
        }
        assert_true(last[0] < 3e-7 && last[1] < 3e-7 && last[2] < 3e-7);
        free(mean_p);
        free_problem(&q);
    }
}

/* The same trunk, means and diagonal: FC without off-diagonal entries is MF. */
static void test_fc_without_correlations_is_mf(void **state) {
    (void)state;
    vm_router_config fc_config = make_config("vglr-fc", 10, 16, 8), mf_config = make_config("vglr-mf", 10, 16, 8);
    vm_router *fc = make_router(&fc_config), *mf = make_router(&mf_config);
    shake(mf, 0.4f);
    vm_router_params(fc);
    for (int which = 0; which <= VM_MEAN_BIAS; which++) {
        memcpy(fc->layers[1].params[which].value, mf->layers[1].params[which].value,
               vm_param_size(&mf->layers[1].params[which]) * sizeof(float));
    }
    for (int i = 0; i < 10; i++) {
        int row = i * (i + 3) / 2;
        memcpy(fc->layers[1].params[VM_SCALE_WEIGHT].value + row * 8,
               mf->layers[1].params[VM_SCALE_WEIGHT].value + i * 8, 8 * sizeof(float));
        fc->layers[1].params[VM_SCALE_BIAS].value[row] = mf->layers[1].params[VM_SCALE_BIAS].value[i];
    }
    problem a = make_problem(fc, 30, 1), b = make_problem(mf, 30, 1);
    run_forward(&a);
    run_forward(&b);
    assert_true(largest_difference(a.p, b.p, 300) < 1e-6);
    assert_true(largest_difference(a.kl, b.kl, 30) < 1e-5);
    for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
        float trace[2][30], projected[2][30];
        run_infer(&a, way, 6, a.p, trace[0], projected[0]);
        run_infer(&b, way, 6, b.p, trace[1], projected[1]);
        assert_true(largest_difference(a.p, b.p, 300) < 1e-6);
        assert_true(largest_difference(trace[0], trace[1], 30) < 1e-5 &&
                    largest_difference(projected[0], projected[1], 30) < 1e-5);
        assert_true(trace[0][0] > projected[0][0] && projected[0][0] > 0);
    }
    free_problem(&a);
    free_problem(&b);
}

/* ---- inference against the posterior written out ---- */

/* Signals, the closed form, and E softmax(l) by a million draws of the test's own. */
static void test_inference_is_the_mathematics(void **state) {
    (void)state;
    enum { N = 8, DRAWS = 1000000 };
    for (int kind = 0; kind < GAUSSIAN; kind++) {
        vm_router_config config = make_config(layered[kind], N, 16, 8);
        vm_router *r = make_router(&config);
        shake(r, 0.1f);
        problem q = make_problem(r, 2, 1);
        doubles d = make_doubles(&q);
        float closed[2 * N], sampled[2 * N], tilted[2 * N], trace[2], projected[2];
        run_infer(&q, VM_INFERENCE_CLOSED, 0, closed, trace, projected);
        run_infer(&q, VM_INFERENCE_SAMPLE, 4096, sampled, NULL, NULL);
        run_infer(&q, VM_INFERENCE_TILTED, 0, tilted, NULL, NULL);
        for (int t = 0; t < 2; t++) {
            double m[64], L[64 * 64], S[N][N], total = 0, all = 0, p[N], sum = 0, mc[N] = {0};
            truth_posterior(&d.k, d.u + t * q.dim, d.logits + t * N, m, L);
            for (int i = 0; i < N; i++) {
                for (int j = 0; j < N; j++) all += S[i][j] = truth_dot(L + i * N, L + j * N, N);
                total += S[i][i];
            }
            assert_close(trace[t], total, 1e-5, "trace", (size_t)t);
            assert_close(projected[t], total - all / N, 1e-5, "trace_projected", (size_t)t);
            for (int k = 0; k < N; k++) {
                double inverse = 0;
                for (int i = 0; i < N; i++)
                    inverse += exp(-(m[k] - m[i]) / sqrt(1 + acos(-1) / 8 * (S[k][k] + S[i][i] - 2 * S[k][i])));
                sum += p[k] = 1 / inverse;
            }
            double fixed[N];
            for (int i = 0; i < N; i++) {
                fixed[i] = m[i] + S[i][i] / 2;
                for (int j = 0; j < N; j++) fixed[i] -= S[i][j] * tilted[t * N + j];
            }
            truth_softmax(fixed, N, fixed);
            for (int i = 0; i < N; i++) assert_close(tilted[t * N + i], fixed[i], 3e-6, "tilted", (size_t)i);
            vm_rng rng = vm_rng_start(5, VM_RNG_TEXT, (uint32_t)t);
            for (int s = 0; s < DRAWS; s++) {
                double eps[N], l[N], one[N];
                for (int i = 0; i < N; i++) eps[i] = vm_rng_normal(&rng);
                for (int i = 0; i < N; i++) l[i] = m[i] + truth_dot(L + i * N, eps, i + 1);
                truth_softmax(l, N, one);
                for (int i = 0; i < N; i++) mc[i] += one[i] / DRAWS;
            }
            for (int k = 0; k < N; k++) {
                assert_close(closed[t * N + k], p[k] / sum, 1e-5, "closed", (size_t)k);
                assert_true(fabs(closed[t * N + k] - mc[k]) <
                            0.03); /* an approximation: docs/METHOD.md has its error */
                assert_true(fabs(tilted[t * N + k] - mc[k]) < 0.005);
                assert_true(fabs(sampled[t * N + k] - mc[k]) < 0.01);
            }
        }
        free_doubles(&d);
        free_problem(&q);
    }
}

/* Draw 2j + 1 is minus draw 2j: with l_det + dmu = 0 and two experts, p of the pair is symmetric about 1/2. */
static void test_samples_are_antithetic(void **state) {
    (void)state;
    vm_router_config config = make_config("vglr-mf", 2, 4, 2);
    vm_router *r = make_router(&config);
    vm_router_params(r);
    set_scale_bias(r, 1.0f);
    problem q = make_problem(r, 4, 1);
    memset(q.logits, 0, 8 * sizeof *q.logits);
    run_infer(&q, VM_INFERENCE_SAMPLE, 1, q.p, NULL, NULL);
    assert_true(fabs(q.p[0] - 0.5) > 1e-3);
    float odd[8];
    run_infer(&q, VM_INFERENCE_SAMPLE, 33, odd, NULL, NULL);
    assert_true(fabs(odd[0] - 0.5) > 1e-4);
    run_infer(&q, VM_INFERENCE_SAMPLE, 2, q.p, NULL, NULL);
    assert_true(fabs(q.p[0] - 0.5) < 1e-6);
    run_infer(&q, VM_INFERENCE_SAMPLE, 34, q.p, NULL, NULL);
    assert_true(fabs(q.p[0] - 0.5) < 1e-6);
    free_problem(&q);
}

/* ---- threads, batches, chunks ---- */

static void assert_same(const float *x, const float *y, int n) { assert_memory_equal(x, y, (size_t)n * sizeof(float)); }

static void test_threads_change_nothing(void **state) {
    (void)state;
    for (int kind = 0; kind < LAYERED; kind++) {
        vm_router_config config = make_config(layered[kind], 24, 40, 16);
        vm_router *one = make_router(&config), *many = make_router(&config);
        shake(one, 0.2f);
        shake(many, 0.2f);
        problem a = make_problem(one, 131, 1), b = make_problem(many, 131, 4);
        run_forward(&a), run_backward(&a);
        run_forward(&b), run_backward(&b);
        assert_same(a.p, b.p, 131 * 24);
        assert_same(a.kl, b.kl, 131);
        assert_same(a.du, b.du, 131 * 40);
        assert_same(a.dlogits, b.dlogits, 131 * 24);
        for (int which = 0; which < VM_TRUNK_SLOTS; which++) {
            assert_same(one->layers[1].params[which].grad, many->layers[1].params[which].grad,
                        (int)vm_param_size(&one->layers[1].params[which]));
        }
        for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
            float trace[2][131], projected[2][131];
            run_infer(&a, way, 5, a.p, trace[0], projected[0]);
            run_infer(&b, way, 5, b.p, trace[1], projected[1]);
            assert_same(a.p, b.p, 131 * 24);
            assert_same(trace[0], trace[1], 131);
            assert_same(projected[0], projected[1], 131);
        }
        free_problem(&a);
        free_problem(&b);
    }
}

/* N = 64: more tokens than one chunk holds; each token alone gives the same bits, before and after the panels are
 * packed for good. */
static void test_batches_change_nothing(void **state) {
    (void)state;
    enum { T = 1100, N = 64, D = 8 };
    vm_router_config config = make_config("vglr-fc", N, D, 4);
    vm_router *r = make_router(&config);
    shake(r, 0.1f);
    problem q = make_problem(r, T, 2);
    run_forward(&q);
    for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
        float *all = floats(T * N), trace[T], alone[N], alone_trace;
        run_infer(&q, way, 3, all, trace, NULL);
        for (int t = 0; t < T; t += 61) {
            vm_route route = q.route;
            route.n_tokens = 1, route.u += t * D, route.logits += t * N, route.tokens += t;
            if (t > T / 2) assert_int_equal(vm_router_pack(r), VMOER_OK);
            assert_int_equal(
                vm_router_infer(r, q.pool, &route, way, 3, &(vm_routing){.p = alone, .trace = &alone_trace}), VMOER_OK);
            assert_same(alone, all + t * N, N);
            assert_same(&alone_trace, trace + t, 1);
            float p[N], kl, *saved = floats(vm_router_saved_floats(r));
            assert_int_equal(vm_router_forward(r, NULL, &route, p, NULL, saved, &kl), VMOER_OK);
            assert_same(p, q.p + t * N, N);
            assert_same(&kl, q.kl + t, 1);
            free(saved);
        }
        vm_router_params(r);
        free(all);
    }
    /* Backward in one call is the sum of its parts. */
    run_backward(&q);
    float sum[4 * D], *du = floats(T * D), *dlogits = floats(T * N);
    vm_param *trunk = &r->layers[1].params[VM_TRUNK_WEIGHT];
    memcpy(sum, trunk->grad, sizeof sum);
    memset(trunk->grad, 0, sizeof sum);
    for (int t = 0; t < T; t += 100) {
        vm_route route = q.route;
        route.n_tokens = 100, route.u += t * D, route.logits += t * N, route.tokens += t;
        assert_int_equal(vm_router_backward(r, q.pool, &route, q.p + t * N,
                                            q.saved + (size_t)t * vm_router_saved_floats(r), q.weights + t * N,
                                            KL_WEIGHT, du + t * D, dlogits + t * N),
                         VMOER_OK);
    }
    for (size_t i = 0; i < 4 * D; i++) assert_close(trunk->grad[i], sum[i], 1e-4, "trunk.weight", i);
    assert_same(du, q.du, T * D);
    assert_same(dlogits, q.dlogits, T * N);
    free(du), free(dlogits);
    free_problem(&q);
}

static void test_no_tokens(void **state) {
    (void)state;
    vm_router_config config = make_config("vglr-fc", 8, 8, 4);
    problem q = make_problem(make_router(&config), 0, 1);
    run_forward(&q);
    run_backward(&q);
    run_infer(&q, VM_INFERENCE_SAMPLE, 4, q.p, NULL, NULL);
    free_problem(&q);
}

/* ---- refusals ---- */

static void expect_refused(const vm_router_config *config, const char *key) {
    vm_router *r;
    assert_int_not_equal(vm_router_create(config, &r), VMOER_OK);
    assert_null(r);
    if (!strstr(vm_error_text(), key)) fail_msg("\"%s\" does not name %s", vm_error_text(), key);
}

static void test_config_limits(void **state) {
    (void)state;
    const vm_router_config good = make_config("vglr-fc", 8, 8, 4);
#define REFUSED(key, change)         \
    do {                             \
        vm_router_config bad = good; \
        change;                      \
        expect_refused(&bad, key);   \
    } while (0)
    REFUSED("kind", strcpy(bad.kind, "vglr"));
    REFUSED("kind", memset(bad.kind, 'x', sizeof bad.kind));
    REFUSED("layers", bad.n_layers = 0);
    REFUSED("layers", bad.n_layers = 513);
    REFUSED("layers", bad.layers[1] = 2);
    REFUSED("layers", bad.layers[1] = 512);
    REFUSED("layers", bad.layers[0] = -1);
    REFUSED("n_experts", bad.n_experts = 0);
    REFUSED("n_experts", bad.n_experts = 65);
    REFUSED("dim", bad.dim = 65537);
    REFUSED("width", bad.width = 4097);
    REFUSED("prior_scale", bad.prior_scale = 0);
    REFUSED("prior_scale", bad.prior_scale = NAN);
    REFUSED("initial_scale", bad.initial_scale = 0);
    REFUSED("initial_scale", bad.initial_scale = 200);
    REFUSED("rank: not a number of 'vglr-fc'", bad.rank = 3);
    REFUSED("keep_experts: not a number of 'vglr-fc'", bad.keep_experts = -1);
    REFUSED("noise: not a number of 'vglr-fc'", bad.noise = NAN);
    REFUSED("temperature", bad.temperature = 0);
    REFUSED("temperature", bad.temperature = INFINITY);
    REFUSED("layers", strcpy(bad.kind, "temperature"));
#undef REFUSED
}

static void expect_status(vmoer_status got, vmoer_status expected, const char *text) {
    assert_int_equal(got, expected);
    if (!strstr(vm_error_text(), text)) fail_msg("\"%s\" does not say %s", vm_error_text(), text);
}

static void test_call_errors(void **state) {
    (void)state;
    vm_router_config config = make_config("vglr-mf", 6, 8, 4);
    vm_router *r = make_router(&config);
    problem q = make_problem(r, 4, 1);
    vm_route bad = q.route;
    bad.layer = 3;
    expect_status(vm_router_infer(r, NULL, &bad, VM_INFERENCE_MEAN, 0, &(vm_routing){.p = q.p}), VMOER_ERROR_ARGUMENT,
                  "layer 3");
    expect_status(vm_router_forward(r, NULL, &bad, q.p, NULL, q.saved, q.kl), VMOER_ERROR_ARGUMENT, "layer 3");
    bad = q.route;
    bad.sign = 0;
    expect_status(vm_router_forward(r, NULL, &bad, q.p, NULL, q.saved, q.kl), VMOER_ERROR_ARGUMENT, "sign");
    expect_status(vm_router_infer(r, NULL, &q.route, VM_INFERENCE_SAMPLE, 0, &(vm_routing){.p = q.p}),
                  VMOER_ERROR_ARGUMENT, "samples");
    q.logits[2 * 6 + 3] = NAN;
    for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
        expect_status(vm_router_infer(r, NULL, &q.route, way, 4, &(vm_routing){.p = q.p}), VMOER_ERROR_NUMERIC,
                      "token 2");
    }
    expect_status(vm_router_forward(r, NULL, &q.route, q.p, NULL, q.saved, q.kl), VMOER_ERROR_NUMERIC, "token 2");
    free_problem(&q);
}

static void test_what_a_router_says_of_itself(void **state) {
    (void)state;
    vm_router_config config = make_config("vglr-fc", 6, 8, 4);
    vm_router *r = make_router(&config);
    assert_true(vm_router_has_layer(r, 2) && vm_router_has_layer(r, LAYER));
    assert_false(vm_router_has_layer(r, 0) || vm_router_has_layer(r, 3) || vm_router_has_layer(r, 6));
    assert_true(vm_router_has_covariance(r) && vm_router_has_kl(r) && !r->kind->has_temperature);
    vm_param_list list = vm_router_params(r);
    assert_int_equal(list.count, 12);
    const char *const names[6] = {"trunk.weight", "trunk.bias",   "mean.weight",
                                  "mean.bias",    "scale.weight", "scale.bias"};
    const int shapes[6][2] = {{4, 8}, {1, 4}, {6, 4}, {1, 6}, {21, 4}, {1, 21}};
    for (int i = 0; i < 12; i++) {
        char name[64];
        snprintf(name, sizeof name, "layers.%d.%s", i < 6 ? 2 : LAYER, names[i % 6]);
        assert_string_equal(list.items[i]->name, name);
        assert_int_equal(list.items[i]->rows, shapes[i % 6][0]);
        assert_int_equal(list.items[i]->cols, shapes[i % 6][1]);
        assert_int_equal(list.items[i]->decay, i % 2 == 0);
    }
    float diagonal = list.items[5]->value[2];
    assert_close(diagonal, log(0.3), 1e-6, "scale.bias", 2);
    assert_true(list.items[5]->value[1] == 0 && list.items[4]->value[0] == 0 && list.items[2]->value[0] == 0);
    assert_true(list.items[0]->value[0] != list.items[6]->value[0]);
    vm_router_free(r);

    config = make_config("temperature", 0, 0, 0);
    config.n_layers = 0;
    config.temperature = 1.25;
    r = make_router(&config);
    assert_true(vm_router_params(r).count == 0 && vm_router_saved_floats(r) == 0);
    assert_false(vm_router_has_layer(r, 0) || vm_router_has_covariance(r));
    vm_router_set_temperature(r, 1.5);
    assert_true(vm_router_get_config(r)->temperature == 1.5);
    vm_router_free(r);
    vm_router_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_is_the_mathematics),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_gradients_accumulate),
        cmocka_unit_test(test_the_diagonal_is_bounded),
        cmocka_unit_test(test_kl),
        cmocka_unit_test(test_starts_as_the_deterministic_router),
        cmocka_unit_test(test_no_noise_is_the_mean),
        cmocka_unit_test(test_fc_without_correlations_is_mf),
        cmocka_unit_test(test_inference_is_the_mathematics),
        cmocka_unit_test(test_samples_are_antithetic),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_batches_change_nothing),
        cmocka_unit_test(test_no_tokens),
        cmocka_unit_test(test_config_limits),
        cmocka_unit_test(test_call_errors),
        cmocka_unit_test(test_what_a_router_says_of_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
