/* test_router_golden.c: the routers against PyTorch's double precision (tools/golden_router.py): forward, KL,
 * gradients, the closed form, signals, E softmax by a million draws; and the draws themselves against their Python
 * twin. */
#include "base/rng.h"
#include "base/status.h"
#include "io/safetensors.h"
#include "router/router_internal.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DIM = 16, TOKENS = 5, WIDTH = 8 };
static const float BETA = 0.1f;

static const vm_st_tensor *find(const vm_safetensors *st, const char *a, const char *b) {
    char name[128];
    snprintf(name, sizeof name, "%s%s", a, b);
    const vm_st_tensor *t = vm_safetensors_find(st, name);
    if (!t) fail_msg("no tensor %s", name);
    return t;
}

static const float *values(const vm_safetensors *st, const char *a, const char *b, size_t n) {
    const vm_st_tensor *t = find(st, a, b);
    assert_string_equal(t->dtype, "F32");
    assert_int_equal(t->size, n * sizeof(float));
    return (const float *)(const void *)t->data;
}

static void assert_all_close(const float *got, const float *expected, size_t n, double tolerance, const char *what) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - expected[i]) <= tolerance * (1 + fabs((double)expected[i])))) {
            fail_msg("%s[%zu]: %.9g, expected %.9g", what, i, (double)got[i], (double)expected[i]);
        }
    }
}

static vm_safetensors *open_golden(const char *name) {
    const char *tests = getenv("VMOER_TESTS");
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/%s", tests ? tests : VMOER_TESTS_DIR, name);
    vm_safetensors *st;
    if (vm_safetensors_open(path, &st) != VMOER_OK) fail_msg("%s", vm_error_text());
    return st;
}

static const char *const names[VM_TRUNK_SLOTS] = {"trunk.weight", "trunk.bias",   "mean.weight",
                                                  "mean.bias",    "scale.weight", "scale.bias"};

static vm_router *make_router(const vm_safetensors *st, const char *prefix, const char *kind, int n, float s0) {
    vm_router_config config = {.n_layers = 1,
                               .n_experts = n,
                               .dim = DIM,
                               .width = WIDTH,
                               .prior_scale = s0,
                               .initial_scale = 0.3f,
                               .temperature = 1};
    strcpy(config.kind, kind);
    config.rank = strcmp(kind, "vglr-lr") == 0 ? 3 : 0;
    vm_router *r;
    assert_int_equal(vm_router_create(&config, &r), VMOER_OK);
    vm_param_list list = vm_router_params(r);
    for (int i = 0; i < VM_TRUNK_SLOTS; i++) {
        size_t size = vm_param_size(list.items[i]);
        memcpy(list.items[i]->value, values(st, prefix, names[i], size), size * sizeof(float));
    }
    return r;
}

static void check_training(const vm_safetensors *st, const char *prefix, const char *prior, vm_router *r,
                           const vm_route *route, int n) {
    const float *eps = values(st, prefix, "eps", (size_t)(TOKENS * n)),
                *weights = values(st, prefix, "weights", (size_t)(TOKENS * n));
    float p[TOKENS * 24], kl[TOKENS], du[TOKENS * DIM] = {0}, dlogits[TOKENS * 24];
    float *saved = calloc(TOKENS * vm_router_saved_floats(r), sizeof *saved);
    assert_int_equal(vm_router_forward_with(r, NULL, route, eps, p, NULL, saved, kl), VMOER_OK);
    assert_int_equal(vm_router_backward_with(r, NULL, route, eps, p, saved, weights, BETA / TOKENS, du, dlogits),
                     VMOER_OK);
    char name[64];
    assert_all_close(p, values(st, prefix, "p", (size_t)(TOKENS * n)), (size_t)(TOKENS * n), 2e-6, "p");
    snprintf(name, sizeof name, "%s%s.", prefix, prior);
    assert_all_close(kl, values(st, name, "kl", TOKENS), TOKENS, 2e-6, "kl");
    double loss = 0;
    for (int i = 0; i < TOKENS * n; i++) loss += (double)p[i] * weights[i];
    for (int t = 0; t < TOKENS; t++) loss += BETA / TOKENS * (double)kl[t];
    assert_true(fabs(loss - *values(st, name, "loss", 1)) < 5e-6 * (1 + fabs(loss)));
    strcat(name, "grad.");
    for (int i = 0; i < VM_TRUNK_SLOTS; i++) {
        const vm_param *param = vm_router_params(r).items[i];
        assert_all_close(param->grad, values(st, name, names[i], vm_param_size(param)), vm_param_size(param), 5e-6,
                         names[i]);
    }
    assert_all_close(du, values(st, name, "u", TOKENS * DIM), TOKENS * DIM, 5e-6, "du");
    assert_all_close(dlogits, values(st, name, "logits", (size_t)(TOKENS * n)), (size_t)(TOKENS * n), 5e-6, "dlogits");
    free(saved);
}

static void check_inference(const vm_safetensors *st, const char *prefix, const vm_router *r, const vm_route *route,
                            int n) {
    float p[TOKENS * 24], trace[TOKENS], projected[TOKENS];
    size_t size = (size_t)(TOKENS * n);
    assert_int_equal(vm_router_infer(r, NULL, route, VM_INFERENCE_MEAN, 0,
                                     &(vm_routing){.p = p, .trace = trace, .trace_projected = projected}),
                     VMOER_OK);
    assert_all_close(p, values(st, prefix, "mean.p", size), size, 2e-6, "mean");
    assert_all_close(trace, values(st, prefix, "trace", TOKENS), TOKENS, 3e-6, "trace");
    assert_all_close(projected, values(st, prefix, "trace_projected", TOKENS), TOKENS, 3e-6, "trace_projected");
    assert_int_equal(vm_router_infer(r, NULL, route, VM_INFERENCE_CLOSED, 0, &(vm_routing){.p = p}), VMOER_OK);
    assert_all_close(p, values(st, prefix, "closed.p", size), size, 2e-6, "closed");
    assert_int_equal(vm_router_infer(r, NULL, route, VM_INFERENCE_SAMPLE, 4096, &(vm_routing){.p = p}), VMOER_OK);
    assert_all_close(p, values(st, prefix, "mc.p", size), size, 0.01, "sample");
}

static const struct {
    const char *prefix, *kind;
    int n;
} cases[5] = {{"mf4.", "vglr-mf", 4},
              {"fc4.", "vglr-fc", 4},
              {"mf24.", "vglr-mf", 24},
              {"fc24.", "vglr-fc", 24},
              {"lr24.", "vglr-lr", 24}};

static void test_golden_router(void **state) {
    (void)state;
    vm_safetensors *st = open_golden("router.safetensors");
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    vm_token_key keys[TOKENS] = {{0}};
    for (int table = 0; table < n_tables; table++) {
        vm_kernels_force(tables[table]);
        for (int which = 0; which < 10; which++) {
            bool small_prior = which & 1;
            const char *prefix = cases[which / 2].prefix;
            int n = cases[which / 2].n;
            vm_router *r = make_router(st, prefix, cases[which / 2].kind, n, small_prior ? 0.5f : 1.0f);
            vm_route route = {.n_tokens = TOKENS,
                              .u = values(st, prefix, "u", TOKENS * DIM),
                              .logits = values(st, prefix, "logits", (size_t)(TOKENS * n)),
                              .tokens = keys,
                              .sign = 1};
            check_training(st, prefix, small_prior ? "s05" : "s1", r, &route, n);
            check_inference(st, prefix, r, &route, n);
            vm_router_free(r);
        }
    }
    vm_kernels_force(NULL);
    vm_safetensors_free(st);
}

static void test_golden_draws(void **state) {
    (void)state;
    vm_safetensors *st = open_golden("tiny-moe-elbo.safetensors");
    const vm_st_tensor *part = find(st, "part", ""), *position = find(st, "position", "");
    int tokens = (int)part->shape[0];
    for (int layer = 0; layer < 2; layer++) {
        char name[16];
        snprintf(name, sizeof name, "eps.%d", layer);
        const vm_st_tensor *eps = find(st, name, "");
        int n = (int)eps->shape[1];
        assert_int_equal(eps->shape[0], tokens);
        for (int t = 0; t < tokens; t++) {
            vm_token_key key = {.item = (uint32_t)atoi(vm_safetensors_metadata(st, "item")),
                                .part = (uint16_t)((const int32_t *)(const void *)part->data)[t],
                                .position = (uint16_t)((const int32_t *)(const void *)position->data)[t]};
            vm_route route = {.layer = layer,
                              .n_tokens = 1,
                              .tokens = &key,
                              .seed = (uint64_t)atoi(vm_safetensors_metadata(st, "seed")),
                              .step = (uint64_t)atoi(vm_safetensors_metadata(st, "step")),
                              .sign = 1};
            float got[64];
            vm_router_normals(&route, VM_RNG_ROUTE, 0, n, 1, got);
            assert_all_close(got, (const float *)(const void *)eps->data + t * n, (size_t)n, 3e-6, name);
        }
    }
    vm_safetensors_free(st);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden_router), cmocka_unit_test(test_golden_draws)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
