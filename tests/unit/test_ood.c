/* test_ood.c: AUROC, average precision and FPR95 against scikit-learn's numbers (tests/golden/metrics.json) and by
 * hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/ood.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double *numbers(const json_t *array, size_t *n) {
    *n = json_array_size(array);
    double *out = calloc(*n, sizeof *out);
    for (size_t i = 0; i < *n; i++) out[i] = json_number_value(json_array_get(array, i));
    return out;
}

static void near(const char *name, const char *what, double got, const json_t *item) {
    double want = json_number_value(json_object_get(item, what));
    if (!(fabs(got - want) <= 1e-9)) fail_msg("%s: %s is %.15g, expected %.15g", name, what, got, want);
}

/* Trapezes under the ROC points: the AUROC, when no point is left out. */
static double area(const double *fpr, const double *tpr, size_t n) {
    double sum = 0;
    for (size_t i = 1; i < n; i++) sum += (fpr[i] - fpr[i - 1]) * (tpr[i] + tpr[i - 1]) / 2;
    return sum;
}

static void golden(void **state) {
    (void)state;
    const char *dir = getenv("VMOER_TESTS");
#ifdef VMOER_TESTS_DIR
    if (!dir) dir = VMOER_TESTS_DIR;
#endif
    assert_non_null(dir);
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/metrics.json", dir);
    json_t *root, *item;
    if (vm_json_load(path, &root) != VMOER_OK) fail_msg("%s", vm_error_text());
    assert_true(json_array_size(json_object_get(root, "ood")) >= 7);
    size_t index;
    json_array_foreach(json_object_get(root, "ood"), index, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        size_t n_id, n_ood;
        double *id = numbers(json_object_get(item, "id"), &n_id), *ood = numbers(json_object_get(item, "ood"), &n_ood);
        vm_ood m;
        assert_int_equal(vm_ood_compute(id, n_id, ood, n_ood, &m), VMOER_OK);
        near(name, "auroc", m.auroc, item);
        near(name, "aupr", m.aupr, item);
        near(name, "fpr95", m.fpr95, item);

        double fpr[400], tpr[400];
        size_t n = vm_ood_roc(id, n_id, ood, n_ood, fpr, tpr, 400);
        near(name, "auroc", area(fpr, tpr, n), item);
        n = vm_ood_roc(id, n_id, ood, n_ood, fpr, tpr, 12); /* thinned: still from corner to corner, rising */
        assert_true(n >= 2 && n <= 12);
        assert_true(fpr[0] == 0 && tpr[0] == 0 && fpr[n - 1] == 1 && tpr[n - 1] == 1);
        for (size_t i = 1; i < n; i++) assert_true(fpr[i] >= fpr[i - 1] && tpr[i] >= tpr[i - 1]);
        free(id);
        free(ood);
    }
    json_decref(root);
}

/* Counted pair by pair, with half a point for a tie. */
static void auroc_is_the_share_of_pairs(void **state) {
    (void)state;
    const double id[] = {1, 2, 2, 5}, ood[] = {2, 3, 0};
    double won = 0;
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 3; j++) won += ood[j] > id[i] ? 1 : ood[j] == id[i] ? .5 : 0;
    }
    vm_ood m, mirrored;
    assert_int_equal(vm_ood_compute(id, 4, ood, 3, &m), VMOER_OK);
    assert_true(fabs(m.auroc - won / 12) < 1e-15);
    assert_true(fabs(m.fpr95 - 1) < 1e-15); /* all three OoD items are kept only by the lowest threshold, 0 */
    /* A signal that points the wrong way stays below 1/2. */
    assert_int_equal(vm_ood_compute(ood, 3, id, 4, &mirrored), VMOER_OK);
    assert_true(fabs(mirrored.auroc - (1 - m.auroc)) < 1e-15);
}

/* 19 of 20 OoD items are exactly 95%: the 20th may lie anywhere. */
static void fpr95_keeps_exactly_95_percent(void **state) {
    (void)state;
    double id[10], ood[20];
    for (int i = 0; i < 10; i++) id[i] = i;
    for (int i = 0; i < 20; i++) ood[i] = i ? 7.5 : -100;
    vm_ood m;
    assert_int_equal(vm_ood_compute(id, 10, ood, 20, &m), VMOER_OK);
    assert_true(fabs(m.fpr95 - .2) < 1e-15);
    ood[1] = -50; /* now 18 of 20 lie above */
    assert_int_equal(vm_ood_compute(id, 10, ood, 20, &m), VMOER_OK);
    assert_true(m.fpr95 == 1);
}

static void infinite_scores_rank(void **state) {
    (void)state;
    const double id[] = {-INFINITY, 0}, ood[] = {INFINITY, 1, INFINITY};
    vm_ood m;
    assert_int_equal(vm_ood_compute(id, 2, ood, 3, &m), VMOER_OK);
    assert_true(m.auroc == 1 && m.aupr == 1 && m.fpr95 == 0);
}

static void refuses_bad_input(void **state) {
    (void)state;
    double id[] = {1, 2}, ood[] = {3, NAN};
    vm_ood m;
    vm_ood_ci ci;
    assert_int_equal(vm_ood_compute(id, 2, ood, 2, &m), VMOER_ERROR_NUMERIC);
    assert_string_equal(vm_error_text(), "out-of-distribution score 1 is not a number");
    assert_int_equal(vm_ood_compute(ood, 2, id, 2, &m), VMOER_ERROR_NUMERIC);
    assert_int_equal(vm_ood_bootstrap(id, 2, ood, 2, 10, 0, &ci), VMOER_ERROR_NUMERIC);
    assert_int_equal(vm_ood_roc(id, 2, ood, 2, &m.auroc, &m.aupr, 1), 0);
    assert_int_equal(vm_ood_compute(id, 0, ood, 1, &m), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_ood_compute(id, 2, ood, 0, &m), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_ood_bootstrap(id, 2, ood, 1, 0, 0, &ci), VMOER_ERROR_ARGUMENT);
}

/* Hanley and McNeil (1982): the standard error of an AUROC of exponential-like scores. */
static void bootstrap_agrees_with_theory(void **state) {
    (void)state;
    enum { N = 400 };
    double id[N], ood[N];
    vm_rng rng = vm_rng_start(9, VM_RNG_TEXT, 0);
    for (int i = 0; i < N; i++) {
        id[i] = vm_rng_normal(&rng);
        ood[i] = 1 + vm_rng_normal(&rng);
    }
    vm_ood m;
    vm_ood_ci ci, again, other;
    assert_int_equal(vm_ood_compute(id, N, ood, N, &m), VMOER_OK);
    assert_int_equal(vm_ood_bootstrap(id, N, ood, N, 2000, 1, &ci), VMOER_OK);
    assert_int_equal(vm_ood_bootstrap(id, N, ood, N, 2000, 1, &again), VMOER_OK);
    assert_int_equal(vm_ood_bootstrap(id, N, ood, N, 2000, 2, &other), VMOER_OK);
    assert_memory_equal(&ci, &again, sizeof ci);
    assert_true(memcmp(&ci, &other, sizeof ci) != 0);
    double a = m.auroc, q1 = a / (2 - a), q2 = 2 * a * a / (1 + a);
    double error = sqrt((a * (1 - a) + (N - 1) * (q1 - a * a) + (N - 1) * (q2 - a * a)) / ((double)N * N));
    assert_true(fabs((ci.auroc.high - ci.auroc.low) / 2 / error - 1.96) < .25);
    assert_true(fabs(a - .7602) < .05); /* Phi(1 / sqrt 2) */
    assert_true(ci.auroc.low < a && a < ci.auroc.high);
    assert_true(ci.aupr.low < m.aupr && m.aupr < ci.aupr.high);
    assert_true(ci.fpr95.low < m.fpr95 && m.fpr95 < ci.fpr95.high);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test(auroc_is_the_share_of_pairs),
        cmocka_unit_test(fpr95_keeps_exactly_95_percent),
        cmocka_unit_test(infinite_scores_rank),
        cmocka_unit_test(refuses_bad_input),
        cmocka_unit_test(bootstrap_agrees_with_theory),
    };
    return cmocka_run_group_tests_name("ood", tests, NULL, NULL);
}
