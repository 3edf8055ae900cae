/* test_optimizer.c: AdamW against PyTorch's numbers (tools/golden_optimizer.py), closed forms, threads, and gradients
 * that are no numbers. */
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "io/safetensors.h"
#include "train/optimizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void param_make(vm_param *p, const char *name, int rows, int cols, bool decay) {
    *p = (vm_param){.rows = rows, .cols = cols, .decay = decay};
    snprintf(p->name, sizeof p->name, "%s", name);
    p->value = vm_calloc(vm_param_size(p), sizeof(float));
    p->grad = vm_calloc(vm_param_size(p), sizeof(float));
    assert_true(p->value && p->grad);
}

static void param_free(vm_param *p) {
    vm_free(p->value);
    vm_free(p->grad);
}

static void read_golden(const vm_safetensors *file, const char *name, const char *part, size_t at, size_t n,
                        float *out) {
    char full[64];
    snprintf(full, sizeof full, "%s%s", name, part);
    const vm_st_tensor *t = vm_safetensors_find(file, full);
    assert_non_null(t);
    assert_true((at + n) * sizeof(float) <= t->size);
    memcpy(out, t->data + at * sizeof(float), n * sizeof(float));
}

static void test_pytorch(void **state) {
    (void)state;
    char path[4096];
    const char *root = getenv("VMOER_TESTS");
    snprintf(path, sizeof path, "%s/golden/optimizer.safetensors", root ? root : VMOER_TESTS_DIR);
    vm_safetensors *file;
    assert_int_equal(vm_safetensors_open(path, &file), VMOER_OK);
    vm_param p[3];
    vm_param *items[3] = {&p[0], &p[1], &p[2]};
    param_make(&p[0], "weight", 5, 7, true);
    param_make(&p[1], "bias", 1, 7, false);
    param_make(&p[2], "router", 4, 3, true);
    for (int i = 0; i < 3; i++) read_golden(file, p[i].name, ".start", 0, vm_param_size(&p[i]), p[i].value);

    vm_optimizer_options options = vm_optimizer_options_default();
    options.weight_decay = strtod(vm_safetensors_metadata(file, "weight_decay"), NULL);
    options.clip = strtod(vm_safetensors_metadata(file, "clip"), NULL);
    vm_optimizer *o;
    assert_int_equal(vm_optimizer_create(&(vm_param_list){items, 3}, &options, (const float[]){1, 1, 5}, &o), VMOER_OK);
    for (size_t step = 0; step < 6; step++) {
        float rate, norm, expected[64];
        read_golden(file, "rates", "", step, 1, &rate);
        read_golden(file, "norms", "", step, 1, &norm);
        for (int i = 0; i < 3; i++)
            read_golden(file, p[i].name, ".grads", step * vm_param_size(&p[i]), vm_param_size(&p[i]), p[i].grad);
        double got;
        assert_int_equal(vm_optimizer_step(o, NULL, (double)rate, &got), VMOER_OK);
        assert_true(fabs(got - (double)norm) <= 1e-6 * (double)norm);
        for (int i = 0; i < 3; i++) {
            read_golden(file, p[i].name, ".values", step * vm_param_size(&p[i]), vm_param_size(&p[i]), expected);
            for (size_t k = 0; k < vm_param_size(&p[i]); k++) {
                double e = (double)expected[k], off = fabs(e - (double)p[i].value[k]);
                if (!(off <= 1e-6 * fmax(fabs(e), 0.1)))
                    fail_msg("step %zu, %s[%zu]: %.9g, PyTorch %.9g", step, p[i].name, k, (double)p[i].value[k], e);
                assert_true(p[i].grad[k] == 0);
            }
        }
    }
    assert_int_equal(o->step, 6);
    vm_optimizer_free(o);
    for (int i = 0; i < 3; i++) param_free(&p[i]);
    vm_safetensors_free(file);
}

/* A constant gradient g moves every step by lr g / (|g| + eps) = lr sign(g): the bias corrections cancel exactly. Decay
 * alone is geometric. */
static void test_closed_forms(void **state) {
    (void)state;
    vm_param p[2];
    vm_param *items[2] = {&p[0], &p[1]};
    param_make(&p[0], "moved", 1, 2, false);
    param_make(&p[1], "decayed", 1, 1, true);
    vm_optimizer_options options = vm_optimizer_options_default();
    options.weight_decay = 0.5;
    vm_optimizer *o;
    assert_int_equal(vm_optimizer_create(&(vm_param_list){items, 2}, &options, NULL, &o), VMOER_OK);
    p[1].value[0] = 2;
    for (int t = 1; t <= 50; t++) {
        double norm;
        p[0].grad[0] = 3;
        p[0].grad[1] = -4e-3f;
        assert_int_equal(vm_optimizer_step(o, NULL, 0.01, &norm), VMOER_OK);
        assert_float_equal(norm, hypot(3, 4e-3), 1e-6);
        assert_float_equal(p[0].value[0], -0.01 * t, 2e-6);
        assert_float_equal(p[0].value[1], 0.01 * t, 2e-6); /* eps / |g| = 2.5e-6 of it is lost */
        assert_float_equal(p[1].value[0], 2 * pow(1 - 0.01 * 0.5, t), 2e-6);
    }
    vm_optimizer_free(o);
    for (int i = 0; i < 2; i++) param_free(&p[i]);
}

/* Several chunks and a ragged end: the same bits for any number of threads. */
static void test_threads(void **state) {
    (void)state;
    enum { ROWS = 211, COLS = 241, STEPS = 3, RUNS = 3 };
    static float results[RUNS][ROWS * COLS];
    double norms[RUNS][STEPS];
    for (int run = 0; run < RUNS; run++) {
        vm_pool *pool = NULL;
        if (run > 0) assert_int_equal(vm_pool_create(1 + run, &pool), VMOER_OK);
        vm_param p[2];
        vm_param *items[2] = {&p[0], &p[1]};
        param_make(&p[0], "a", ROWS, COLS, true);
        param_make(&p[1], "b", 1, 5, false);
        vm_optimizer_options options = vm_optimizer_options_default();
        options.clip = 1;
        vm_optimizer *o;
        assert_int_equal(vm_optimizer_create(&(vm_param_list){items, 2}, &options, NULL, &o), VMOER_OK);
        vm_rng rng = vm_rng_start(1, VM_RNG_INIT, 0);
        for (int t = 0; t < STEPS; t++) {
            for (int i = 0; i < 2; i++)
                for (size_t k = 0; k < vm_param_size(&p[i]); k++) p[i].grad[k] = vm_rng_normal(&rng);
            assert_int_equal(vm_optimizer_step(o, pool, 1e-2, &norms[run][t]), VMOER_OK);
        }
        memcpy(results[run], p[0].value, sizeof results[run]);
        vm_optimizer_free(o);
        for (int i = 0; i < 2; i++) param_free(&p[i]);
        vm_pool_free(pool);
    }
    assert_true(norms[0][0] > 200 && results[0][0] != 0 && results[0][ROWS * COLS - 1] != 0);
    for (int run = 1; run < RUNS; run++) {
        assert_memory_equal(results[run], results[0], sizeof results[0]);
        assert_memory_equal(norms[run], norms[0], sizeof norms[0]);
    }
}

static void test_not_finite(void **state) {
    (void)state;
    vm_param p[2];
    vm_param *items[2] = {&p[0], &p[1]};
    param_make(&p[0], "first", 3, 3, true);
    param_make(&p[1], "second.lora_A", 2, 20000, true);
    vm_optimizer_options options = vm_optimizer_options_default();
    vm_optimizer *o;
    assert_int_equal(vm_optimizer_create(&(vm_param_list){items, 2}, &options, NULL, &o), VMOER_OK);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        p[0].grad[0] = 1;
        p[1].grad[39999] = bad[i];
        assert_int_equal(vm_optimizer_step(o, NULL, 0.1, NULL), VMOER_ERROR_NUMERIC);
        assert_non_null(strstr(vm_error_text(), "second.lora_A"));
        assert_true(p[0].value[0] == 0 && p[0].grad[0] == 1 && o->step == 0 && o->m[0][0] == 0);
    }
    p[1].grad[39999] = 3e38f; /* its square fits a double */
    assert_int_equal(vm_optimizer_step(o, NULL, 0.1, NULL), VMOER_OK);
    vm_optimizer_free(o);
    for (int i = 0; i < 2; i++) param_free(&p[i]);
    vm_optimizer_free(NULL);
}

static void test_options(void **state) {
    (void)state;
    vm_param p;
    vm_param *items[1] = {&p};
    param_make(&p, "p", 1, 1, true);
    vm_param_list list = {items, 1};
    vm_optimizer *o;
    for (int i = 0; i < 6; i++) {
        vm_optimizer_options options = vm_optimizer_options_default();
        if (i == 0) options.beta1 = 1;
        if (i == 1) options.beta2 = NAN;
        if (i == 2) options.epsilon = 0;
        if (i == 3) options.weight_decay = -1;
        if (i == 4) options.clip = INFINITY;
        assert_int_equal(vm_optimizer_create(&list, &options, i == 5 ? (const float[]){-1} : NULL, &o),
                         VMOER_ERROR_ARGUMENT);
        assert_null(o);
    }
    param_free(&p);
}

static void test_schedule(void **state) {
    (void)state;
    /* 10 steps, a fifth of them rising: 1/3, 2/3, 1, 7/8, ... 1/8. */
    assert_float_equal(vm_schedule_linear(0, 10, 0.2), 1.0 / 3, 1e-12);
    assert_float_equal(vm_schedule_linear(1, 10, 0.2), 2.0 / 3, 1e-12);
    assert_float_equal(vm_schedule_linear(2, 10, 0.2), 1, 0);
    assert_float_equal(vm_schedule_linear(3, 10, 0.2), 7.0 / 8, 1e-12);
    assert_float_equal(vm_schedule_linear(9, 10, 0.2), 1.0 / 8, 1e-12);
    assert_float_equal(vm_schedule_linear(10, 10, 0.2), 0, 0);
    assert_float_equal(vm_schedule_linear(0, 4, 0), 1, 0);
    assert_float_equal(vm_schedule_linear(3, 4, 0), 0.25, 1e-12);
    assert_float_equal(vm_schedule_linear(3, 4, 1), 0.8, 1e-12);
    assert_float_equal(vm_schedule_linear(0, 1, 0.06), 1, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pytorch),    cmocka_unit_test(test_closed_forms), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_options),      cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests_name("optimizer", tests, NULL, NULL);
}
