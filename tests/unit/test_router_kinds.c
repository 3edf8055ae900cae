/* test_router_kinds.c: what holds of every kind of router, taken from the list of kinds, so that a new one is tested
 * before anybody writes a test for it: gradients by differences, threads, company, files, numbers that are none. */
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
#include <unistd.h>

#include <cmocka.h>

enum { LAYER = 3, N = 5, D = 6, H = 4, T = 37 };

#define KIND_ENTRY(name) &vm_router_kind_##name,
static const vm_router_kind *const kinds[] = {VM_ROUTER_KINDS(KIND_ENTRY)};
enum { KINDS = sizeof kinds / sizeof *kinds };

static vm_router *make_router(const vm_router_kind *kind) {
    vm_router_config c = {.n_layers = kind->has_layers,
                          .layers = {kind->has_layers ? LAYER : 0},
                          .n_experts = N,
                          .dim = D,
                          .width = H,
                          .prior_scale = 0.8f,
                          .initial_scale = 0.3f,
                          .seed = 2,
                          .temperature = 1};
    assert_true(strlen(kind->name) < sizeof c.kind && vm_router_kind_find(kind->name) == kind);
    strcpy(c.kind, kind->name);
    vm_router_config_complete(&c);
    vm_router *r;
    if (vm_router_create(&c, &r) != VMOER_OK) fail_msg("%s: %s", kind->name, vm_error_text());
    vm_param_list list = vm_router_params(r);
    vm_rng rng = vm_rng_start(6, VM_RNG_INIT, 0);
    for (size_t i = 0; i < list.count; i++) { /* off the start, where gradients are 0 for trivial reasons */
        for (size_t j = 0; j < vm_param_size(list.items[i]); j++) {
            float change = 0.4f * vm_rng_normal(&rng);
            list.items[i]->value[j] += list.items[i]->grad ? change : fabsf(change);
        }
    }
    return r;
}

static float u[T * D], logits[T * N], weights[T * N];
static vm_token_key keys[T];

static vm_route make_route(void) {
    vm_rng rng = vm_rng_start(6, VM_RNG_INIT, 1);
    for (int i = 0; i < T * D; i++) u[i] = vm_rng_normal(&rng);
    for (int i = 0; i < T * N; i++) logits[i] = vm_rng_normal(&rng), weights[i] = vm_rng_normal(&rng);
    for (int t = 0; t < T; t++) keys[t] = (vm_token_key){.item = (uint32_t)t / 5, .position = (uint16_t)(t % 5)};
    return (vm_route){
        .layer = LAYER, .n_tokens = T, .u = u, .logits = logits, .tokens = keys, .seed = 4, .step = 7, .sign = 1};
}

/* One router's outputs for all tokens. */
typedef struct answers {
    float p[T * N], scores[T * N], trace[T], projected[T], temperature[T], kl[T], du[T * D], dlogits[T * N];
} answers;

static void run_pieces(vm_router *r, vm_pool *pool, int way, int piece, answers *a) {
    const vm_route all = make_route();
    memset(a, 0, sizeof *a);
    size_t width = vm_router_saved_floats(r);
    float *saved = vm_calloc(T * width + 1, sizeof *saved);
    for (int t = 0; t < T; t += piece) {
        vm_route in = all;
        in.n_tokens = t + piece < T ? piece : T - t;
        in.u += t * D, in.logits += t * N, in.tokens += t;
        float *p = a->p + t * N, *scores = a->scores + t * N;
        vmoer_status status;
        if (way >= 0) {
            const vm_routing out = {.p = p,
                                    .scores = scores,
                                    .trace = a->trace + t,
                                    .trace_projected = a->projected + t,
                                    .temperature = a->temperature + t};
            status = vm_router_infer(r, pool, &in, (vm_inference)way, 6, &out);
        } else {
            status = vm_router_forward(r, pool, &in, p, vm_router_chooses(r) ? scores : NULL, saved + (size_t)t * width,
                                       a->kl + t);
            if (status == VMOER_OK)
                status = vm_router_backward(r, pool, &in, p, saved + (size_t)t * width, weights + t * N, 0.3f,
                                            a->du + t * D, a->dlogits + t * N);
        }
        if (status != VMOER_OK) fail_msg("%s: %s", r->kind->name, vm_error_text());
    }
    vm_free(saved);
}

/* One call on one thread, pieces of 5 tokens on four: the same bits, in training (way -1) and every way of inference.
 */
static void test_threads_and_company(void **state) {
    (void)state;
    vm_pool *pool;
    assert_int_equal(vm_pool_create(4, &pool), VMOER_OK);
    for (int kind = 0; kind < KINDS; kind++) {
        if (!kinds[kind]->has_layers) continue;
        vm_router *r = make_router(kinds[kind]);
        for (int way = kinds[kind]->network->forward ? -1 : 0; way <= VM_INFERENCE_PASSES; way++) {
            static answers one, many;
            run_pieces(r, NULL, way, T, &one);
            run_pieces(r, pool, way, 5, &many);
            if (memcmp(&one, &many, sizeof one) != 0)
                fail_msg("%s, way %d: threads or company show", kinds[kind]->name, way);
            for (int t = 0; t < T; t++) {
                double sum = 0;
                for (int i = 0; i < N; i++) sum += one.p[t * N + i];
                assert_true(fabs(sum - 1) < 1e-5);
                if (way >= 0) assert_int_equal(!isnan(one.temperature[t]), kinds[kind]->has_temperature);
            }
        }
        vm_router_free(r);
    }
    vm_pool_free(pool);
}

static double loss(vm_router *r, const vm_route *in) {
    float p[T * N], kl[T], *saved = vm_calloc(T * vm_router_saved_floats(r) + 1, sizeof *saved);
    assert_int_equal(vm_router_forward(r, NULL, in, p, NULL, saved, kl), VMOER_OK);
    vm_free(saved);
    double sum = 0;
    for (int i = 0; i < T * N; i++) sum += (double)weights[i] * p[i];
    for (int t = 0; t < T; t++) sum += 0.3 * (double)kl[t];
    return sum;
}

static void check_slope(vm_router *r, const vm_route *in, float *x, double gradient, const char *what, size_t at) {
    const float kept = *x, step = 4e-3f;
    *x = kept + step;
    double high = loss(r, in), range = (double)*x;
    *x = kept - step;
    double slope = (high - loss(r, in)) / (range - (double)*x);
    *x = kept;
    if (!(fabs(slope - gradient) <= 2e-3 * (1 + fabs(slope))))
        fail_msg("%s, %s[%zu]: gradient %g, by differences %g", r->kind->name, what, at, gradient, slope);
}

/* What chooses its experts has a gradient that no difference shows: test_router_vtsr.c. */
static void test_gradients(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        if (!kinds[kind]->network->forward || kinds[kind]->chooses) continue;
        vm_router *r = make_router(kinds[kind]);
        static answers a;
        run_pieces(r, NULL, -1, T, &a);
        vm_route in = make_route();
        vm_param_list list = vm_router_params(r);
        for (size_t i = 0; i < list.count; i++) {
            vm_param *p = list.items[i];
            for (size_t j = 0; p->grad && j < vm_param_size(p); j++)
                check_slope(r, &in, &p->value[j], (double)p->grad[j], p->name, j);
        }
        for (size_t i = 0; i < 3 * D; i++) check_slope(r, &in, &u[i], (double)a.du[i], "u", i);
        for (size_t i = 0; i < 3 * N; i++) check_slope(r, &in, &logits[i], (double)a.dlogits[i], "l_det", i);
        vm_router_free(r);
    }
}

/* A loaded router answers as the one that was saved, and saves the same bytes. */
static void test_files(void **state) {
    (void)state;
    char path[] = "/tmp/vmoer-kind-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    for (int kind = 0; kind < KINDS; kind++) {
        vm_router *r = make_router(kinds[kind]), *back;
        vm_router_file info = {.base_name = "m"};
        memset(info.base, 'a', 64);
        assert_int_equal(vm_router_save(r, &info, path), VMOER_OK);
        if (vm_router_load(path, NULL, &back) != VMOER_OK) fail_msg("%s", vm_error_text());
        assert_memory_equal(vm_router_get_config(r), vm_router_get_config(back), sizeof(vm_router_config));
        static answers a, b;
        if (kinds[kind]->has_layers) {
            run_pieces(r, NULL, (int)kinds[kind]->inference, T, &a);
            run_pieces(back, NULL, (int)kinds[kind]->inference, T, &b);
            assert_memory_equal(&a, &b, sizeof a);
        }
        vm_router_free(r);
        vm_router_free(back);
    }
    unlink(path);
}

/* A NaN in u or in l_det that reaches the answer is named, in every way; none is passed on. */
static void test_numbers_that_are_none(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        if (!kinds[kind]->has_layers) continue;
        vm_router *r = make_router(kinds[kind]);
        for (int way = 0; way <= VM_INFERENCE_PASSES; way++)
            for (int where = 0; where < 2; where++) {
                float p[T * N], scores[T * N];
                vm_route in = make_route();
                if (where)
                    u[11 * D] = NAN;
                else
                    logits[11 * N + 2] = NAN;
                vmoer_status status =
                    vm_router_infer(r, NULL, &in, (vm_inference)way, 6, &(vm_routing){.p = p, .scores = scores});
                if (status == VMOER_OK)
                    for (int i = 0; i < T * N; i++) assert_true(isfinite(p[i]));
                else if (status != VMOER_ERROR_NUMERIC || !strstr(vm_error_text(), "token 11"))
                    fail_msg("%s, way %d: %s", kinds[kind]->name, way, vm_error_text());
            }
        vm_router_free(r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_and_company),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_numbers_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
