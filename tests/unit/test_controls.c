/* test_controls.c: rank correlation and line against scipy and numpy, the Mahalanobis distance against scikit-learn's
 * LedoitWolf (all in tests/golden/metrics.json), the matching of lengths by its rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/controls.h"
#include "eval/distance.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *root;

static int load(void **state) {
    (void)state;
    const char *dir = getenv("VMOER_TESTS");
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/metrics.json", dir ? dir : VMOER_TESTS_DIR);
    return vm_json_load(path, &root) == VMOER_OK ? 0 : -1;
}

static int unload(void **state) {
    (void)state;
    json_decref(root);
    return 0;
}

static double *numbers(const json_t *item, const char *key, size_t *n) {
    const json_t *list = json_object_get(item, key);
    *n = json_array_size(list);
    double *out = calloc(*n, sizeof *out);
    for (size_t i = 0; i < *n; i++) out[i] = json_number_value(json_array_get(list, i));
    return out;
}

/* [n, *dim] */
static float *rows(const json_t *item, const char *key, size_t *n, int *dim) {
    const json_t *list = json_object_get(item, key);
    *n = json_array_size(list);
    *dim = (int)json_array_size(json_array_get(list, 0));
    float *out = calloc(*n * (size_t)*dim, sizeof *out);
    for (size_t i = 0; i < *n * (size_t)*dim; i++)
        out[i] = (float)json_number_value(json_array_get(json_array_get(list, i / (size_t)*dim), i % (size_t)*dim));
    return out;
}

static double of(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

static void near(const char *what, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s is %.15g, expected %.15g", what, got, want);
}

static void correlation_and_line(void **state) {
    (void)state;
    json_t *item;
    size_t index, n;
    assert_true(json_array_size(json_object_get(root, "controls")) >= 2);
    json_array_foreach(json_object_get(root, "controls"), index, item) {
        double *signal = numbers(item, "signal", &n), *length = numbers(item, "length", &n),
               *wrong = numbers(item, "wrong", &n), rho;
        assert_int_equal(vm_spearman(signal, length, n, &rho), VMOER_OK);
        near("spearman by length", rho, of(item, "spearman_length"), 1e-12);
        assert_int_equal(vm_spearman(signal, wrong, n, &rho), VMOER_OK);
        near("spearman by wrong", rho, of(item, "spearman_wrong"), 1e-12);
        for (size_t i = 0; i < n; i++) length[i] = log(length[i]);
        vm_line line = vm_line_fit(length, signal, n);
        near("slope", line.slope, of(item, "slope"), 1e-9);
        near("intercept", line.intercept, of(item, "intercept"), 1e-9);
        free(signal);
        free(length);
        free(wrong);
    }
    double same[] = {2, 2, 2}, rising[] = {1, 2, 3}, falling[] = {9, 4, -1}, rho;
    assert_int_equal(vm_spearman(same, rising, 3, &rho), VMOER_OK);
    assert_true(isnan(rho));
    assert_int_equal(vm_spearman(falling, rising, 3, &rho), VMOER_OK);
    assert_true(rho == -1);
    vm_line flat = vm_line_fit(same, rising, 3);
    assert_true(flat.slope == 0 && flat.intercept == 2);
}

static void distances(void **state) {
    (void)state;
    json_t *item;
    size_t index;
    assert_true(json_array_size(json_object_get(root, "distances")) >= 3);
    json_array_foreach(json_object_get(root, "distances"), index, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        size_t n, m, k;
        int dim;
        float *x = rows(item, "fit", &n, &dim), *y = rows(item, "asked", &m, &dim);
        double *want = numbers(item, "distance", &k), got[16];
        vm_distance d;
        assert_in_range(m, 1, 16);
        if (vm_distance_fit(x, n, dim, &d) != VMOER_OK) fail_msg("%s: %s", name, vm_error_text());
        near(name, d.shrinkage, of(item, "shrinkage"), 1e-10);
        assert_int_equal(vm_distance_of(&d, y, m, got), VMOER_OK);
        for (size_t i = 0; i < m; i++) near(name, got[i], want[i], 1e-8 * (1 + want[i]));
        vm_distance_free(&d);
        free(x);
        free(y);
        free(want);
    }
}

/* Two points, one dimension: mean 0, S = 1, nothing to shrink. Then what cannot be fitted. */
static void distance_by_hand(void **state) {
    (void)state;
    const float x[] = {-1, 1}, y[] = {3, 0, -.5f};
    double got[3];
    vm_distance d;
    assert_int_equal(vm_distance_fit(x, 2, 1, &d), VMOER_OK);
    assert_int_equal(vm_distance_of(&d, y, 3, got), VMOER_OK);
    assert_true(got[0] == 3 && got[1] == 0 && got[2] == .5);
    vm_distance_free(&d);
    assert_int_equal(vm_distance_fit(x, 1, 1, &d), VMOER_ERROR_DATA);
    vm_distance_free(&d);
    const float same[] = {1, 2, 1, 2}, bad[] = {1, 2, NAN, 2};
    assert_int_equal(vm_distance_fit(same, 2, 2, &d), VMOER_ERROR_DATA);
    assert_non_null(strstr(vm_error_text(), "no inverse"));
    vm_distance_free(&d);
    assert_int_equal(vm_distance_fit(bad, 2, 2, &d), VMOER_ERROR_NUMERIC);
    assert_string_equal(vm_error_text(), "vector 1 is not finite");
    vm_distance_free(&d);
}

static void matching_by_hand(void **state) {
    (void)state;
    const double a[] = {20, 10, 10, 30, 19}, b[] = {10, 21, 10, 10, 40, 29};
    const uint64_t ha[] = {1, 9, 3, 4, 5}, hb[] = {60, 10, 50, 40, 30, 20};
    vm_lengths left = {5, a, ha}, right = {6, b, hb};
    size_t of_a[5], of_b[5], pairs;
    assert_int_equal(vm_match_lengths(&left, &right, of_a, of_b, &pairs), VMOER_OK);
    /* 21 takes 20; 29 takes 30 (within a tenth); 40 finds none; the first 10 by hash (item 3) takes the 10 with the
     * smaller hash, the next the other, the last none: 19 is too long */
    const size_t want_a[] = {0, 3, 2, 1}, want_b[] = {1, 5, 3, 2};
    assert_int_equal(pairs, 4);
    assert_memory_equal(of_a, want_a, sizeof want_a);
    assert_memory_equal(of_b, want_b, sizeof want_b);
    /* of two as near the shorter */
    const double around[] = {11, 9.5, 10.5}, ten[] = {10};
    left = (vm_lengths){3, around, ha}, right = (vm_lengths){1, ten, hb};
    assert_int_equal(vm_match_lengths(&left, &right, of_a, of_b, &pairs), VMOER_OK);
    assert_true(pairs == 1 && of_a[0] == 1);
    right.n = 0;
    assert_int_equal(vm_match_lengths(&left, &right, of_a, of_b, &pairs), VMOER_OK);
    assert_int_equal(pairs, 0);
}

/* The order of the files does not matter, every pair keeps the bound, nobody is in two. */
static void matching_in_general(void **state) {
    (void)state;
    enum { A = 60, B = 90 };
    double a[A], b[B], a2[A], b2[B];
    uint64_t ha[A], hb[B], ha2[A], hb2[B];
    vm_rng rng = vm_rng_start(3, VM_RNG_TEXT, 0);
    for (int i = 0; i < A; i++) a[i] = 5 + vm_rng_below(&rng, 40), ha[i] = vm_rng_u32(&rng);
    for (int i = 0; i < B; i++) b[i] = 10 + vm_rng_below(&rng, 80), hb[i] = vm_rng_u32(&rng);
    for (int i = 0; i < A; i++) a2[i] = a[A - 1 - i], ha2[i] = ha[A - 1 - i];
    for (int i = 0; i < B; i++) b2[i] = b[B - 1 - i], hb2[i] = hb[B - 1 - i];
    size_t of_a[A], of_b[A], pairs, other_a[A], other_b[A], others;
    vm_lengths left = {A, a, ha}, right = {B, b, hb}, left2 = {A, a2, ha2}, right2 = {B, b2, hb2};
    assert_int_equal(vm_match_lengths(&left, &right, of_a, of_b, &pairs), VMOER_OK);
    assert_int_equal(vm_match_lengths(&left2, &right2, other_a, other_b, &others), VMOER_OK);
    assert_int_equal(pairs, others);
    assert_in_range(pairs, 10, A);
    bool seen_a[A] = {0}, seen_b[B] = {0};
    for (size_t k = 0; k < pairs; k++) {
        assert_int_equal(of_a[k], A - 1 - other_a[k]);
        assert_int_equal(of_b[k], B - 1 - other_b[k]);
        assert_false(seen_a[of_a[k]] || seen_b[of_b[k]]);
        seen_a[of_a[k]] = seen_b[of_b[k]] = true;
        assert_true(fmax(a[of_a[k]], b[of_b[k]]) <= 1.1 * fmin(a[of_a[k]], b[of_b[k]]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(correlation_and_line), cmocka_unit_test(distances),
        cmocka_unit_test(distance_by_hand),     cmocka_unit_test(matching_by_hand),
        cmocka_unit_test(matching_in_general),
    };
    return cmocka_run_group_tests_name("controls", tests, load, unload);
}
