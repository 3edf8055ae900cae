/* test_router_weights.c: the kinds with matrices of their own, weights, mc-dropout, swag and ensemble, against a scalar
 * double-precision reading of docs/METHOD.md: what they compute, their gradients, their draws' frequencies and moments,
 * what swag gathers, and that without noise all of them are `weights`. */
#include "base/rng.h"
#include "base/status.h"
#include "router/weights.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { T = 37, N = 6, DIM = 21, LAYER = 5, LAYERS = 2, MEMBERS = 5, RANK = 3, MATRIX = N * DIM };

static const char *const kinds[] = {"weights", "mc-dropout", "swag", "ensemble"};
enum { PLAIN, DROPOUT, SWAG, ENSEMBLE, KINDS };

#define OK(expr)                                                            \
    do {                                                                    \
        if ((expr) != VMOER_OK) fail_msg("%s: %s", #expr, vm_error_text()); \
    } while (0)

static void fill(float *x, size_t n, float scale, uint32_t stream) {
    vm_rng rng = vm_rng_start(99, VM_RNG_INIT, stream);
    for (size_t i = 0; i < n; i++) x[i] = scale * vm_rng_normal(&rng);
}

static vm_router_config config_of(int kind) {
    vm_router_config c = {.n_layers = LAYERS,
                          .layers = {2, LAYER},
                          .n_experts = N,
                          .dim = DIM,
                          .prior_scale = 1,
                          .initial_scale = 1,
                          .seed = 11,
                          .temperature = 1};
    strcpy(c.kind, kinds[kind]);
    if (kind != PLAIN) c.members = MEMBERS;
    if (kind == DROPOUT) c.noise = 0.3f;
    if (kind == SWAG) c.rank = RANK;
    return c;
}

static vm_router *make(const vm_router_config *c) {
    vm_router *r;
    OK(vm_router_create(c, &r));
    return r;
}

static float *value_of(vm_router *r, int which) { return vm_router_layer_find(r, LAYER)->params[which].value; }

static float bias[N]; /* of the model's router */

/* Every tensor moved off its start; variances positive. */
static vm_router *make_shaken(int kind) {
    vm_router_config c = config_of(kind);
    vm_router *r = make(&c);
    vm_param_list list = vm_router_params(r);
    for (size_t i = 0; i < list.count; i++) {
        vm_param *p = list.items[i];
        fill(p->value, vm_param_size(p), 0.4f, 1000 + (uint32_t)i);
        for (size_t j = 0; strstr(p->name, "variance") && j < vm_param_size(p); j++) p->value[j] = fabsf(p->value[j]);
    }
    return r;
}

typedef struct problem {
    vm_token_key keys[T];
    float u[T * DIM], logits[T * N], weights[T * N];
    vm_route route;
} problem;

static void make_problem(problem *q) {
    for (int t = 0; t < T; t++)
        q->keys[t] =
            (vm_token_key){.item = (uint32_t)(t / 7), .part = (uint16_t)(t % 3), .position = (uint16_t)(t % 7)};
    fill(q->u, T * DIM, 1, 1);
    fill(q->logits, T * N, 1, 2);
    fill(q->weights, T * N, 1, 3);
    fill(bias, N, 1, 4);
    q->route = (vm_route){.layer = LAYER,
                          .n_tokens = T,
                          .u = q->u,
                          .logits = q->logits,
                          .bias = bias,
                          .tokens = q->keys,
                          .seed = 7,
                          .step = 3,
                          .sign = 1};
}

static void infer(const vm_router *r, const vm_route *route, vm_inference way, float *p) {
    OK(vm_router_infer(r, NULL, route, way, 32, &(vm_routing){.p = p}));
}

/* ---- the scalar truth ---- */

static void truth_logits(const double *w, const double *u, double *l) {
    for (int i = 0; i < N; i++) {
        l[i] = (double)bias[i];
        for (int d = 0; d < DIM; d++) l[i] += w[i * DIM + d] * u[d];
    }
}

static void truth_softmax(const double *l, double *p) {
    double max = l[0], sum = 0;
    for (int i = 1; i < N; i++) max = fmax(max, l[i]);
    for (int i = 0; i < N; i++) sum += p[i] = exp(l[i] - max);
    for (int i = 0; i < N; i++) p[i] /= sum;
}

static void widen(const float *x, int n, double *y) {
    for (int i = 0; i < n; i++) y[i] = x[i];
}

/* Draw `number` of a layer, by the kind's own function. */
static void draw(const vm_router *r, int layer, uint64_t seed, uint64_t number, float *w) {
    const vm_weights_kind *k = r->kind->weights;
    vm_router_layer *l = vm_router_layer_find(r, layer);
    if (k->draw)
        k->draw(&r->config, l, layer, seed, number, w);
    else
        memcpy(w, l->params[VM_WEIGHT].value, MATRIX * sizeof *w);
}

/* ---- inference ---- */

/* SAMPLE is the mean over the members' softmaxes, PASSES the member of its number, MEAN the mean of the weights; the
 * signals are the covariance of the members' logits. */
static void test_inference(void **state) {
    (void)state;
    problem q;
    make_problem(&q);
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router *r = make_shaken(kind);
        int count = kind == PLAIN ? 1 : MEMBERS;
        static double w[MEMBERS][MATRIX], mean[MATRIX];
        memset(mean, 0, sizeof mean);
        for (int s = 0; s < count; s++) {
            float drawn[MATRIX];
            draw(r, LAYER, q.route.seed, (uint64_t)s, drawn);
            widen(drawn, MATRIX, w[s]);
        }
        for (int i = 0; i < MATRIX; i++) {
            if (kind == ENSEMBLE)
                for (int s = 0; s < MEMBERS; s++) mean[i] += (double)value_of(r, VM_WEIGHT)[s * MATRIX + i] / MEMBERS;
            else
                mean[i] = (double)value_of(r, kind == SWAG ? VM_WEIGHT_MEAN : VM_WEIGHT)[i];
        }
        float sampled[T * N], central[T * N], passed[T * N], trace[T], projected[T], diagonal[T], temperature[T];
        OK(vm_router_infer(r, NULL, &q.route, VM_INFERENCE_SAMPLE, 32,
                           &(vm_routing){.p = sampled,
                                         .trace = trace,
                                         .trace_projected = projected,
                                         .trace_diagonal = diagonal,
                                         .temperature = temperature}));
        assert_true(vm_router_has_trace(r, VM_INFERENCE_TILTED) == (kind != PLAIN)); /* which is SAMPLE here */
        assert_false(vm_router_has_trace(r, VM_INFERENCE_MEAN));
        assert_false(vm_router_has_trace(r, VM_INFERENCE_PASSES));
        infer(r, &q.route, VM_INFERENCE_MEAN, central);
        infer(r, &q.route, VM_INFERENCE_PASSES, passed);
        for (int t = 0; t < T; t++) {
            double u[DIM], l[MEMBERS][N], p[N], sum[N] = {0}, center[N] = {0}, squares = 0, common = 0;
            widen(q.u + t * DIM, DIM, u);
            for (int s = 0; s < count; s++) {
                truth_logits(w[s], u, l[s]);
                truth_softmax(l[s], p);
                for (int i = 0; i < N; i++) sum[i] += p[i] / count, center[i] += l[s][i] / count;
                for (int i = 0; s == (int)q.route.step % count && i < N; i++)
                    assert_float_equal(passed[t * N + i], p[i], 2e-6);
            }
            for (int i = 0; i < N; i++) assert_float_equal(sampled[t * N + i], sum[i], 2e-6);
            truth_logits(mean, u, l[0]);
            truth_softmax(l[0], p);
            for (int i = 0; i < N; i++) assert_float_equal(central[t * N + i], p[i], 2e-6);
            for (int s = 0; s < count; s++) {
                double shift = 0;
                truth_logits(w[s], u, l[0]);
                for (int i = 0; i < N; i++) {
                    squares += (l[0][i] - center[i]) * (l[0][i] - center[i]);
                    shift += l[0][i] - center[i];
                }
                common += shift * shift / N;
            }
            double divisor = count > 1 ? count - 1 : 1;
            assert_float_equal(trace[t], squares / divisor, 1e-5 * (1 + squares));
            assert_float_equal(projected[t], (squares - common) / divisor, 1e-5 * (1 + squares));
            assert_true((trace[t] > 0) == vm_router_has_trace(r, VM_INFERENCE_SAMPLE));
            assert_true(diagonal[t] == 0);
            assert_true(isnan(temperature[t]));
        }
        vm_router_free(r);
    }
}

/* A pass past the last member begins with the first again, or draws afresh. */
static void test_passes(void **state) {
    (void)state;
    problem q;
    make_problem(&q);
    for (int kind = DROPOUT; kind < KINDS; kind++) {
        vm_router *r = make_shaken(kind);
        float first[T * N], again[T * N], later[T * N];
        q.route.step = 1;
        infer(r, &q.route, VM_INFERENCE_PASSES, first);
        q.route.step = 1 + MEMBERS;
        infer(r, &q.route, VM_INFERENCE_PASSES, later);
        assert_true((memcmp(first, later, sizeof first) == 0) == (kind == ENSEMBLE));
        q.route.step = 1;
        infer(r, &q.route, VM_INFERENCE_PASSES, again);
        assert_memory_equal(first, again, sizeof first);
        q.route.seed++;
        infer(r, &q.route, VM_INFERENCE_PASSES, later);
        assert_true((memcmp(first, later, sizeof first) == 0) == (kind == ENSEMBLE));
        q.route.seed--;
        vm_router_free(r);
    }
}

/* Started from the model's own router and not trained: MEAN is softmax(l_det) to the bit. Without noise every kind is
 * `weights`: rate 0, nothing gathered, equal members. */
static void test_start(void **state) {
    (void)state;
    problem q;
    make_problem(&q);
    static float w[MATRIX], expected[T * N], p[T * N];
    fill(w, MATRIX, 0.3f, 50);
    vm_panel panel = {.data = vm_malloc(1, vm_panel_bytes(VM_COMPUTE_F32, DIM, N))};
    vm_panel_pack(NULL, &panel, VM_COMPUTE_F32, DIM, N, w, 1, DIM, NULL);
    vm_gemm_job job = {.m = T, .a = q.u, .a_m_stride = DIM, .a_k_stride = 1, .b = &panel, .c = expected, .ldc = N};
    OK(vm_gemm(NULL, &job, 1));
    for (int t = 0; t < T; t++) {
        vm_kernels_get()->axpy(1.0f, bias, expected + t * N, N);
        vm_kernels_get()->softmax(expected + t * N, N);
    }
    vm_free(panel.data);
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router_config c = config_of(kind);
        vm_router *r = make(&c);
        r->config.noise = 0; /* a file has it above 0 */
        assert_true(vm_router_has_weights(r));
        assert_int_equal(vm_router_start_weights(r, 3, w), VMOER_ERROR_ARGUMENT);
        for (int i = 0; i < LAYERS; i++) OK(vm_router_start_weights(r, c.layers[i], w));
        if (kind == ENSEMBLE) {
            /* 1% of noise, another for every member and layer, none of it common to the members. */
            double squares = 0, w_squares = 0;
            for (int i = 0; i < MATRIX; i++) w_squares += (double)w[i] * (double)w[i];
            const float *members = value_of(r, VM_WEIGHT);
            for (int i = 0; i < MEMBERS * MATRIX; i++) {
                double d = (double)(members[i] - w[i % MATRIX]);
                squares += d * d;
            }
            assert_float_equal(sqrt(squares / MEMBERS / w_squares), 0.01, 0.001);
            assert_memory_not_equal(members, members + MATRIX, MATRIX * sizeof *w);
            assert_memory_not_equal(members, vm_router_layer_find(r, 2)->params[VM_WEIGHT].value, MATRIX * sizeof *w);
            for (int m = 0; m < MEMBERS; m++) memcpy(value_of(r, VM_WEIGHT) + m * MATRIX, w, sizeof w);
            infer(r, &q.route, VM_INFERENCE_SAMPLE, p);
            for (int i = 0; i < T * N; i++) assert_float_equal(p[i], expected[i], 1e-6);
            infer(r, &q.route, VM_INFERENCE_PASSES, p);
        } else {
            for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
                infer(r, &q.route, way, p);
                if (way == VM_INFERENCE_MEAN || way == VM_INFERENCE_PASSES)
                    assert_memory_equal(p, expected, sizeof p);
                else
                    for (int i = 0; i < T * N; i++) assert_float_equal(p[i], expected[i], 1e-6);
            }
        }
        assert_memory_equal(p, expected, sizeof p);
        vm_router_free(r);
    }
}

/* ---- training ---- */

/* The token's u as training sees it, and the matrix it trains. */
static const double *truth_seen(const vm_router *r, const problem *q, int t, const double *w, double *u) {
    float ones[DIM];
    for (int d = 0; d < DIM; d++) ones[d] = 1;
    if (r->kind->weights->mask) r->kind->weights->mask(&r->config, &q->route, t, ones);
    for (int d = 0; d < DIM; d++) u[d] *= (double)ones[d];
    bool ensemble = strcmp(r->config.kind, "ensemble") == 0;
    return w + (ensemble ? (q->keys[t].item + q->route.step) % MEMBERS * MATRIX : 0);
}

/* sum_t <weights_t, p_t> of token t. */
static double truth_loss(const vm_router *r, const problem *q, int t, const double *w, const double *u, double *p) {
    double seen[DIM], l[N], loss = 0;
    memcpy(seen, u, sizeof seen);
    const double *mine = truth_seen(r, q, t, w, seen);
    truth_logits(mine, seen, l);
    truth_softmax(l, p);
    for (int i = 0; i < N; i++) loss += (double)q->weights[t * N + i] * p[i];
    return loss;
}

typedef struct gradients {
    float p[T * N], kl[T], du[T * DIM], dlogits[T * N], dw[MEMBERS * MATRIX];
} gradients;

static void run(vm_router *r, vm_pool *pool, const problem *q, gradients *g) {
    memset(g, 1, sizeof *g);
    memset(g->du, 0, sizeof g->du);
    assert_int_equal(vm_router_saved_floats(r), 0);
    OK(vm_router_forward(r, pool, &q->route, g->p, NULL, NULL, g->kl));
    OK(vm_router_backward(r, pool, &q->route, g->p, NULL, q->weights, 0.7f, g->du, g->dlogits));
    vm_param *w = &vm_router_layer_find(r, LAYER)->params[VM_WEIGHT];
    memcpy(g->dw, w->grad, vm_param_size(w) * sizeof(float));
    memset(w->grad, 0, vm_param_size(w) * sizeof(float));
}

static void test_gradients(void **state) {
    (void)state;
    static problem q;
    static gradients g;
    static double w[MEMBERS * MATRIX], u[T * DIM];
    make_problem(&q);
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router *r = make_shaken(kind);
        int size = (int)vm_param_size(&vm_router_layer_find(r, LAYER)->params[VM_WEIGHT]);
        assert_int_equal(size, kind == ENSEMBLE ? MEMBERS * MATRIX : MATRIX);
        widen(value_of(r, VM_WEIGHT), size, w);
        widen(q.u, T * DIM, u);
        for (int sign = 1; sign >= -1; sign -= 2) {
            q.route.sign = (float)sign;
            run(r, NULL, &q, &g);
            for (int t = 0; t < T; t++) {
                double p[N];
                truth_loss(r, &q, t, w, u + t * DIM, p);
                assert_true(g.kl[t] == 0);
                for (int i = 0; i < N; i++) {
                    assert_float_equal(g.p[t * N + i], p[i], 2e-6);
                    assert_true(g.dlogits[t * N + i] == 0);
                }
                for (int d = 0; d < DIM; d++) {
                    double *x = &u[t * DIM + d], keep = *x;
                    *x = keep + 1e-5;
                    double up = truth_loss(r, &q, t, w, u + t * DIM, p);
                    *x = keep - 1e-5;
                    double down = truth_loss(r, &q, t, w, u + t * DIM, p);
                    *x = keep;
                    assert_float_equal(g.du[t * DIM + d], (up - down) / 2e-5, 3e-6);
                }
            }
            int moved = 0;
            for (int i = 0; i < size; i++) {
                double keep = w[i], slope = 0, p[N];
                for (int t = 0; t < T; t++) {
                    w[i] = keep + 1e-5;
                    double up = truth_loss(r, &q, t, w, u + t * DIM, p);
                    w[i] = keep - 1e-5;
                    slope += (up - truth_loss(r, &q, t, w, u + t * DIM, p)) / 2e-5;
                }
                w[i] = keep;
                assert_float_equal(g.dw[i], slope, 3e-5);
                moved += g.dw[i] != 0;
            }
            assert_true(moved > size / 2);
        }
        q.route.sign = 1;
        /* Twice is twice: gradients accumulate. */
        static gradients twice;
        run(r, NULL, &q, &g);
        OK(vm_router_backward(r, NULL, &q.route, g.p, NULL, q.weights, 0, NULL, g.dlogits));
        run(r, NULL, &q, &twice);
        for (int i = 0; i < size; i++) assert_float_equal(twice.dw[i], 2 * g.dw[i], 1e-5);
        vm_router_free(r);
    }
}

/* A question trains one member in all its tokens, the next one at the next step. */
static void test_members(void **state) {
    (void)state;
    static problem q;
    static gradients g;
    make_problem(&q);
    vm_router *r = make_shaken(ENSEMBLE);
    assert_int_equal(vm_router_rounds(r), MEMBERS);
    for (int t = 0; t < T; t++) q.keys[t].item = 8;
    for (uint64_t step = 0; step < 2 * MEMBERS; step++) {
        q.route.step = step;
        run(r, NULL, &q, &g);
        for (int i = 0; i < MEMBERS * MATRIX; i++)
            assert_true((g.dw[i] != 0) == (i / MATRIX == (int)((8 + step) % MEMBERS)));
    }
    vm_router_free(r);
}

/* ---- independence ---- */

static void test_threads_and_batch(void **state) {
    (void)state;
    static problem q;
    static gradients one, three;
    make_problem(&q);
    vm_pool *pool;
    OK(vm_pool_create(3, &pool));
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router *r = make_shaken(kind), *packed = make_shaken(kind);
        OK(vm_router_pack(packed));
        run(r, NULL, &q, &one);
        run(r, pool, &q, &three);
        assert_memory_equal(&one, &three, sizeof one);
        for (vm_inference way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++) {
            float p[T * N], other[T * N];
            infer(r, &q.route, way, p);
            OK(vm_router_infer(packed, pool, &q.route, way, 32, &(vm_routing){.p = other}));
            assert_memory_equal(p, other, sizeof p);
            for (int first = 0, n; first < T; first += n) {
                vm_route part = q.route;
                n = first == 0 ? 1 : first + 19 < T ? 19 : T - first;
                part.n_tokens = n;
                part.u += first * DIM, part.logits += first * N, part.tokens += first;
                infer(packed, &part, way, other + first * N);
            }
            assert_memory_equal(p, other, sizeof p);
        }
        vm_router_free(r);
        vm_router_free(packed);
    }
    vm_pool_free(pool);
}

/* A packed router keeps its draws, and forgets them when its values may have changed. */
static void test_new_values(void **state) {
    (void)state;
    problem q;
    make_problem(&q);
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router *r = make_shaken(kind);
        OK(vm_router_pack(r));
        float before[T * N], after[T * N], w[MATRIX];
        infer(r, &q.route, VM_INFERENCE_SAMPLE, before);
        fill(w, MATRIX, 1, 77);
        OK(vm_router_start_weights(r, LAYER, w));
        infer(r, &q.route, VM_INFERENCE_SAMPLE, after);
        assert_memory_not_equal(before, after, sizeof before);
        OK(vm_router_pack(r));
        infer(r, &q.route, VM_INFERENCE_SAMPLE, before);
        assert_memory_equal(before, after, sizeof before);
        fill(w, MATRIX, 1, 78);
        OK(vm_router_start_weights(r, LAYER, w));
        OK(vm_router_pack(r)); /* at once, with nobody asking in between */
        infer(r, &q.route, VM_INFERENCE_SAMPLE, after);
        assert_memory_not_equal(before, after, sizeof before);
        vm_router_free(r);
    }
}

static void test_not_finite(void **state) {
    (void)state;
    static problem q;
    static gradients g;
    make_problem(&q);
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router *r = make_shaken(kind);
        q.u[5 * DIM + 2] = INFINITY;
        for (int i = 0; i < MATRIX; i++) value_of(r, kind == SWAG ? VM_WEIGHT_MEAN : VM_WEIGHT)[i] += 0.01f;
        assert_int_equal(vm_router_infer(r, NULL, &q.route, VM_INFERENCE_MEAN, 1, &(vm_routing){.p = g.p}),
                         VMOER_ERROR_NUMERIC);
        assert_non_null(strstr(vm_error_text(), "layer 5: a logit of token 5"));
        q.u[5 * DIM + 2] = 1;
        value_of(r, VM_WEIGHT)[3] = NAN;
        assert_int_equal(vm_router_forward(r, NULL, &q.route, g.p, NULL, NULL, g.kl), VMOER_ERROR_NUMERIC);
        vm_router_free(r);
    }
}

/* ---- draws ---- */

/* Each component is kept with probability 1 - rate and then scaled; masks differ between tokens, layers and steps; the
 * antithetic one of rate 1/2 is the complement. */
static void test_masks(void **state) {
    (void)state;
    enum { STEPS = 200 };
    problem q;
    make_problem(&q);
    for (int half = 0; half < 2; half++) {
        vm_router_config c = config_of(DROPOUT);
        c.noise = half ? 0.5f : 0.3f;
        vm_router *r = make(&c);
        int kept[DIM] = {0}, all = 0;
        for (int step = 0; step < STEPS; step++)
            for (int t = 0; t < T; t++) {
                float x[DIM], opposite[DIM];
                for (int d = 0; d < DIM; d++) x[d] = opposite[d] = 1;
                q.route.step = (uint64_t)step;
                r->kind->weights->mask(&r->config, &q.route, t, x);
                q.route.sign = -1;
                r->kind->weights->mask(&r->config, &q.route, t, opposite);
                q.route.sign = 1;
                for (int d = 0; d < DIM; d++) {
                    assert_true(x[d] == 0 || fabsf(x[d] * (1 - c.noise) - 1) < 1e-6f);
                    if (half) assert_true((x[d] == 0) != (opposite[d] == 0));
                    kept[d] += x[d] != 0;
                }
            }
        int n = STEPS * T;
        double p = 1 - (double)c.noise;
        for (int d = 0; d < DIM; d++) {
            all += kept[d];
            assert_float_equal((double)kept[d] / n, p, 4.5 * sqrt(p * (1 - p) / n));
        }
        assert_float_equal((double)all / n / DIM, p, 4 * sqrt(p * (1 - p) / n / DIM));
        vm_router_free(r);
    }
    /* Who may share a mask: the same token in the same layer at the same step, and nobody else. */
    vm_router *r = make_shaken(DROPOUT);
    float base[DIM], x[DIM];
    for (int change = 0; change < 8; change++) {
        make_problem(&q);
        q.route.tokens = q.keys;
        if (change == 1) q.route.seed++;
        if (change == 2) q.route.step++;
        if (change == 3) q.route.layer = 2;
        if (change == 4) q.keys[9].item++;
        if (change == 5) q.keys[9].part++;
        if (change == 6) q.keys[9].position++;
        if (change == 7) q.route.step += (uint64_t)1 << 32;
        for (int d = 0; d < DIM; d++) x[d] = 1;
        r->kind->weights->mask(&r->config, &q.route, 9, x);
        if (change == 0)
            memcpy(base, x, sizeof x);
        else
            assert_memory_not_equal(base, x, sizeof x);
    }
    /* At inference a mask drops whole columns of W. */
    float w[MATRIX], other[MATRIX];
    int dropped = 0;
    draw(r, LAYER, 7, 2, w);
    draw(r, 2, 7, 2, other);
    const float *weight = value_of(r, VM_WEIGHT);
    for (int d = 0; d < DIM; d++) {
        dropped += w[d] == 0;
        for (int i = 0; i < N; i++)
            assert_float_equal(w[i * DIM + d], w[d] == 0 ? 0 : weight[i * DIM + d] / 0.7f, 1e-6);
    }
    assert_true(dropped > 0 && dropped < DIM);
    int same = 0;
    for (int d = 0; d < DIM; d++) same += (w[d] == 0) == (other[d] == 0);
    assert_true(same < DIM);
    vm_router_free(r);
}

/* Mean and covariance of the draws of W, within a layer and between two: 1/2 diag(variance) + D D' / (2 (rank - 1)), z2
 * being the same in all layers. */
static void test_moments(void **state) {
    (void)state;
    enum { DRAWS = 20000, SOME = 9, BOTH = 2 * SOME }; /* of each layer's elements */
    vm_router *r = make_shaken(SWAG);
    static double sum[BOTH], products[BOTH][BOTH];
    for (uint64_t s = 0; s < DRAWS; s++) {
        float w[MATRIX];
        double x[BOTH];
        for (int layer = 0; layer < 2; layer++) {
            const vm_router_layer *l = &r->layers[layer];
            draw(r, r->config.layers[layer], 5, s, w);
            for (int i = 0; i < SOME; i++)
                x[layer * SOME + i] = (double)w[i * 14] - (double)l->params[VM_WEIGHT_MEAN].value[i * 14];
        }
        for (int i = 0; i < BOTH; i++) {
            sum[i] += x[i] / DRAWS;
            for (int j = 0; j < BOTH; j++) products[i][j] += x[i] * x[j] / DRAWS;
        }
    }
    double expected[BOTH][BOTH];
    for (int i = 0; i < BOTH; i++)
        for (int j = 0; j < BOTH; j++) {
            const vm_router_layer *a = &r->layers[i / SOME], *b = &r->layers[j / SOME];
            int x = i % SOME * 14, y = j % SOME * 14;
            expected[i][j] = i == j ? 0.5 * (double)a->params[VM_WEIGHT_VARIANCE].value[x] : 0;
            for (int k = 0; k < RANK; k++)
                expected[i][j] += (double)a->params[VM_WEIGHT_DEVIATIONS].value[k * MATRIX + x] *
                                  (double)b->params[VM_WEIGHT_DEVIATIONS].value[k * MATRIX + y] / (2 * (RANK - 1));
        }
    for (int i = 0; i < BOTH; i++) {
        assert_float_equal(sum[i], 0, 5 * sqrt(expected[i][i] / DRAWS));
        for (int j = 0; j < BOTH; j++) {
            double deviation = sqrt((expected[i][i] * expected[j][j] + expected[i][j] * expected[i][j]) / DRAWS);
            assert_float_equal(products[i][j], expected[i][j], 5 * deviation);
        }
    }
    vm_router_free(r);
}

/* ---- what swag gathers ---- */

/* A trajectory; until its second half the mean is the weights themselves. */
static void test_gather(void **state) {
    (void)state;
    enum { TOTAL = 41, HALF = 20, EVERY = 3, COLLECTED = 7 };
    static float trajectory[TOTAL + 1][MATRIX];
    vm_router_config c = config_of(SWAG);
    vm_router *r = make(&c);
    assert_true(vm_router_gathers(r));
    fill(trajectory[0], MATRIX, 1, 60);
    OK(vm_router_start_weights(r, LAYER, trajectory[0]));
    for (int step = 1; step <= TOTAL; step++) {
        fill(trajectory[step], MATRIX, 0.01f, 60 + (uint32_t)step);
        for (int i = 0; i < MATRIX; i++) trajectory[step][i] += trajectory[step - 1][i];
        memcpy(value_of(r, VM_WEIGHT), trajectory[step], sizeof trajectory[step]);
        OK(vm_router_gather(r, (uint64_t)step, TOTAL));
        assert_memory_equal(value_of(r, VM_WEIGHT), trajectory[step], sizeof trajectory[step]);
        if (step > HALF) continue;
        assert_memory_equal(value_of(r, VM_WEIGHT_MEAN), trajectory[step], sizeof trajectory[step]);
        for (int i = 0; i < MATRIX; i++) assert_true(value_of(r, VM_WEIGHT_VARIANCE)[i] == 0);
    }
    for (int i = 0; i < MATRIX; i++) {
        double mean = 0, squares = 0, deviation[COLLECTED];
        for (int n = 0; n < COLLECTED; n++) {
            double w = (double)trajectory[HALF + EVERY * (n + 1)][i];
            mean += w, squares += w * w;
            deviation[n] = w - mean / (n + 1);
        }
        mean /= COLLECTED;
        double variance = squares / COLLECTED - mean * mean;
        assert_float_equal(value_of(r, VM_WEIGHT_MEAN)[i], mean, 1e-6);
        assert_float_equal(value_of(r, VM_WEIGHT_VARIANCE)[i], variance, 1e-7 + 1e-4 * variance);
        /* The last three, each in the place of the one before the last three. */
        for (int k = 0; k < RANK; k++) {
            int n = k == 0 ? 6 : k == 1 ? 4 : 5;
            assert_float_equal(value_of(r, VM_WEIGHT_DEVIATIONS)[k * MATRIX + i], deviation[n], 1e-6);
        }
    }
    /* Fewer than 2 rank collections are refused at once; just as many are not. */
    assert_int_equal(vm_router_gather(r, 1, 4 * RANK - 2), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "10 steps are too few for rank 3"));
    OK(vm_router_gather(r, 1, 4 * RANK - 1));
    vm_router_free(r);
    for (int kind = 0; kind < KINDS; kind++) {
        if (kind == SWAG) continue;
        r = make_shaken(kind);
        assert_false(vm_router_gathers(r));
        assert_int_equal(vm_router_rounds(r), kind == ENSEMBLE ? MEMBERS : 1);
        OK(vm_router_gather(r, 1, 1));
        vm_router_free(r);
    }
}

/* The optimiser moves the weights alone. */
static void test_carried(void **state) {
    (void)state;
    vm_router *r = make_shaken(SWAG);
    vm_param_list list = vm_router_params(r);
    assert_int_equal(list.count, LAYERS * 4);
    for (size_t i = 0; i < list.count; i++)
        assert_true((list.items[i]->grad != NULL) == (strstr(list.items[i]->name, ".weight") != NULL));
    vm_router_free(r);
}

static void test_flops(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router *r = make_shaken(kind);
        double one = 2.0 * N * DIM;
        assert_float_equal(vm_router_flops(r, VM_INFERENCE_MEAN, 32), one, 0);
        assert_float_equal(vm_router_flops(r, VM_INFERENCE_PASSES, 32), one, 0);
        assert_float_equal(vm_router_flops(r, VM_INFERENCE_SAMPLE, 32), kind == PLAIN ? one : MEMBERS * one, 0);
        vm_router_free(r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inference),  cmocka_unit_test(test_passes),     cmocka_unit_test(test_start),
        cmocka_unit_test(test_gradients),  cmocka_unit_test(test_members),    cmocka_unit_test(test_threads_and_batch),
        cmocka_unit_test(test_new_values), cmocka_unit_test(test_not_finite), cmocka_unit_test(test_masks),
        cmocka_unit_test(test_moments),    cmocka_unit_test(test_gather),     cmocka_unit_test(test_carried),
        cmocka_unit_test(test_flops),
    };
    return cmocka_run_group_tests_name("router weights", tests, NULL, NULL);
}
