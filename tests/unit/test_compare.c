/* test_compare.c: the bootstrap over items and seeds against numpy's and scikit-learn's numbers on the same samples
 * (tests/golden/compare.json, by tools/golden_compare.py) and against closed forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/status.h"
#include "eval/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 8, CHOICES = 4 };
#define OK(expr)                                                            \
    do {                                                                    \
        if ((expr) != VMOER_OK) fail_msg("%s: %s", #expr, vm_error_text()); \
    } while (0)

/* ---- runs made by hand ---- */

typedef struct run {
    vm_predictions d;
    double *p;
    int *k, *label;
} run;

static run run_new(size_t n) {
    run t = {.p = calloc(n * CHOICES, sizeof *t.p), .k = calloc(n, sizeof *t.k), .label = calloc(n, sizeof *t.label)};
    for (size_t i = 0; i < n; i++) t.k[i] = CHOICES;
    t.d = (vm_predictions){.n = n, .stride = CHOICES, .p = t.p, .k = t.k, .label = t.label};
    return t;
}

static void run_free(run *t) {
    free(t->p);
    free(t->k);
    free(t->label);
}

/* Choice 0 with confidence c; the first `right` items are right. */
static run certain(size_t n, size_t right, double c) {
    run t = run_new(n);
    for (size_t i = 0; i < n; i++) {
        for (int j = 0; j < CHOICES; j++) t.p[i * CHOICES + (size_t)j] = j ? (1 - c) / 3 : c;
        t.label[i] = i < right ? 0 : 1;
    }
    return t;
}

/* ---- golden ---- */

static json_t *load(void) {
    char path[4096];
    json_t *root;
    snprintf(path, sizeof path, "%s/golden/compare.json", VMOER_TESTS_DIR);
    OK(vm_json_load(path, &root));
    return root;
}

static vm_resamples samples_of(const json_t *rows) {
    vm_resamples s;
    size_t count = json_array_size(rows), n = json_array_size(json_array_get(rows, 0));
    OK(vm_resamples_create(n, count, 0, 0, &s));
    for (size_t i = 0; i < count * n; i++)
        s.weight[i] = (uint32_t)json_integer_value(json_array_get(json_array_get(rows, i / n), i % n));
    return s;
}

static void numbers(const json_t *array, double *out) {
    for (size_t i = 0; i < json_array_size(array); i++) out[i] = json_number_value(json_array_get(array, i));
}

static void same_table(const char *what, const json_t *rows, const double *got, size_t width) {
    assert_true(json_array_size(rows) > 0);
    for (size_t r = 0; r < json_array_size(rows); r++)
        for (size_t k = 0; k < width; k++) {
            double want = json_number_value(json_array_get(json_array_get(rows, r), k));
            if (!(fabs(got[r * width + k] - want) <= 1e-9))
                fail_msg("%s: sample %zu, figure %zu is %.15g, expected %.15g", what, r, k, got[r * width + k], want);
        }
}

static void golden(void **state) {
    (void)state;
    json_t *root = load();
    vm_resamples seeds = samples_of(json_object_get(root, "seeds")), items = samples_of(json_object_get(root, "items")),
                 id = samples_of(json_object_get(root, "id_items")),
                 ood = samples_of(json_object_get(root, "ood_items"));
    size_t count = items.count, n = items.n;
    double *all[2];
    for (size_t which = 0; which < 2; which++) {
        const json_t *router = json_array_get(json_object_get(root, "routers"), which);
        double *metrics[RUNS], *oods[RUNS], value[VM_METRICS] = {0}, *over = calloc(count * VM_METRICS, sizeof *over);
        for (size_t s = 0; s < seeds.n; s++) {
            run t = run_new(n);
            vm_metrics m;
            vm_ood o;
            double a[64], b[64];
            const json_t *scores = json_array_get(json_object_get(router, "scores"), s);
            for (size_t i = 0; i < n; i++) {
                numbers(json_array_get(json_array_get(json_object_get(router, "p"), s), i), t.p + i * CHOICES);
                t.label[i] = (int)json_integer_value(json_array_get(json_object_get(root, "label"), i));
            }
            metrics[s] = calloc(count * VM_METRICS, sizeof(double));
            OK(vm_metrics_resampled(&t.d, &items, &m, metrics[s]));
            for (size_t k = 0; k < VM_METRICS; k++) value[k] += ((double *)&m)[k] / (double)seeds.n;
            numbers(json_object_get(scores, "id"), a);
            numbers(json_object_get(scores, "ood"), b);
            oods[s] = calloc(count * VM_OODS, sizeof(double));
            OK(vm_ood_resampled(a, &id, b, &ood, &o, oods[s]));
            run_free(&t);
        }
        vm_over_seeds((const double *const *)metrics, &seeds, VM_METRICS, over);
        same_table("metrics", json_object_get(router, "metrics"), over, VM_METRICS);
        for (size_t k = 0; k < VM_METRICS; k++)
            assert_float_equal(value[k], json_number_value(json_array_get(json_object_get(router, "value"), k)), 1e-9);
        double *detection = calloc(count * VM_OODS, sizeof *detection);
        vm_over_seeds((const double *const *)oods, &seeds, VM_OODS, detection);
        same_table("ood", json_object_get(router, "ood"), detection, VM_OODS);
        free(detection);
        for (size_t s = 0; s < seeds.n; s++) free(metrics[s]), free(oods[s]);
        all[which] = over;
    }
    for (size_t k = 0; k < VM_METRICS; k++) {
        const json_t *want = json_array_get(json_object_get(root, "difference"), k);
        double *difference = calloc(count, sizeof *difference);
        for (size_t r = 0; r < count; r++) difference[r] = all[1][r * VM_METRICS + k] - all[0][r * VM_METRICS + k];
        vm_interval i = vm_interval_of(difference, count);
        assert_float_equal(i.low, json_number_value(json_array_get(want, 0)), 1e-9);
        assert_float_equal(i.high, json_number_value(json_array_get(want, 1)), 1e-9);
        free(difference);
    }
    free(all[0]), free(all[1]);
    vm_resamples_free(&seeds), vm_resamples_free(&items), vm_resamples_free(&id), vm_resamples_free(&ood);
    json_decref(root);
}

/* ---- closed forms ---- */

/* Accuracy a of n items: resamples have mean a and variance a (1 - a) / n. Of two equal runs every paired difference is
 * 0. */
static void binomial(void **state) {
    (void)state;
    enum { N = 200, COUNT = 4000 };
    vm_resamples items;
    run a = certain(N, 60, .7);
    vm_metrics m;
    double *draws = calloc((size_t)COUNT * VM_METRICS, sizeof *draws),
           *again = calloc((size_t)COUNT * VM_METRICS, sizeof *draws), sum = 0, squares = 0;
    OK(vm_resamples_create(N, COUNT, 7, 1, &items));
    OK(vm_metrics_resampled(&a.d, &items, &m, draws));
    assert_float_equal(m.acc, .3, 1e-12);
    for (size_t r = 0; r < COUNT; r++) {
        double acc = draws[r * VM_METRICS];
        sum += acc;
        squares += (acc - .3) * (acc - .3);
        /* all in one bin: |acc - .7| */
        assert_float_equal(draws[r * VM_METRICS + 2], fabs(acc - .7), 1e-12);
    }
    double variance = .3 * .7 / N;
    assert_true(fabs(sum / COUNT - .3) < 4 * sqrt(variance / COUNT));
    assert_true(fabs(squares / COUNT / variance - 1) < 4 * sqrt(2.0 / COUNT));
    OK(vm_metrics_resampled(&a.d, &items, &m, again));
    assert_memory_equal(draws, again, sizeof *draws * COUNT * VM_METRICS);
    free(draws);
    free(again);
    run_free(&a);
    vm_resamples_free(&items);
}

/* Two seeds, one that is always right and one that never is: the mean over the seeds drawn is 0, 1/2, 1 in 1, 2, 1 of 4
 * samples; a question's own draw changes nothing. */
static void two_seeds(void **state) {
    (void)state;
    enum { N = 10, COUNT = 8000 };
    vm_resamples items, seeds;
    run runs[2] = {certain(N, 0, .9), certain(N, N, .9)};
    double *tables[2], *over = calloc((size_t)COUNT * VM_METRICS, sizeof *over);
    size_t times[3] = {0};
    OK(vm_resamples_create(N, COUNT, 0, 0, &items));
    OK(vm_resamples_create(2, COUNT, 0, 1, &seeds));
    for (int s = 0; s < 2; s++) {
        vm_metrics m;
        tables[s] = calloc((size_t)COUNT * VM_METRICS, sizeof(double));
        OK(vm_metrics_resampled(&runs[s].d, &items, &m, tables[s]));
    }
    vm_over_seeds((const double *const *)tables, &seeds, VM_METRICS, over);
    for (size_t r = 0; r < COUNT; r++) {
        double twice = 2 * over[r * VM_METRICS];
        assert_true(twice == 0 || twice == 1 || twice == 2);
        times[(size_t)twice]++;
    }
    for (int i = 0; i < 3; i++) {
        double p = i == 1 ? .5 : .25;
        assert_true(fabs((double)times[i] / COUNT - p) < 4 * sqrt(p * (1 - p) / COUNT));
    }
    for (int s = 0; s < 2; s++) free(tables[s]), run_free(&runs[s]);
    free(over);
    vm_resamples_free(&items), vm_resamples_free(&seeds);
}

/* Of three runs with the same probabilities the floor is that of one: they share the labels. Labels drawn for each
 * alone would average out, to a p95 nearer to the mean. */
static void shared_floor(void **state) {
    (void)state;
    enum { N = 1000 };
    run a = certain(N, 500, .6), b = certain(N, 200, .9);
    vm_ece_floor one, three, other;
    const vm_predictions same[] = {a.d, a.d, a.d}, mixed[] = {a.d, b.d};
    OK(vm_ece_floor_compute(&a.d, 2000, 3, &one));
    OK(vm_ece_floor_over_seeds(same, 3, 2000, 3, &three));
    assert_float_equal(one.mean, three.mean, 1e-12);
    assert_float_equal(one.p95, three.p95, 1e-12);
    /* Everything lies in one bin, so the floor is |sum of n Bernoulli(c) / n - c|: E = sqrt(2 c (1 - c) / (pi n)), to
     * 2%. */
    assert_true(fabs(one.mean / sqrt(2 * .6 * .4 / (M_PI * N)) - 1) < .05);
    assert_true(fabs(one.p95 / (1.96 * sqrt(.6 * .4 / N)) - 1) < .05);
    OK(vm_ece_floor_compute(&b.d, 2000, 3, &other));
    OK(vm_ece_floor_over_seeds(mixed, 2, 2000, 3, &three));
    assert_float_equal(three.mean, (one.mean + other.mean) / 2, 1e-12);
    run_free(&a), run_free(&b);
}

static void refused(void **state) {
    (void)state;
    vm_resamples s, t;
    run a = certain(5, 2, .5);
    vm_metrics m;
    vm_ood o;
    double draws[64], scores[8] = {0};
    vm_ece_floor f;
    assert_int_equal(vm_resamples_create(0, 10, 0, 0, &s), VMOER_ERROR_ARGUMENT);
    vm_resamples_free(&s);
    assert_int_equal(vm_resamples_create(5, 0, 0, 0, &s), VMOER_ERROR_ARGUMENT);
    vm_resamples_free(&s);
    OK(vm_resamples_create(4, 2, 0, 0, &s));
    OK(vm_resamples_create(4, 3, 0, 0, &t));
    assert_int_equal(vm_metrics_resampled(&a.d, &s, &m, draws), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "samples of 4 items for 5"));
    assert_int_equal(vm_ood_resampled(scores, &s, scores, &t, &o, draws), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_ece_floor_over_seeds(&a.d, 0, 10, 0, &f), VMOER_ERROR_ARGUMENT);
    vm_resamples_free(&s), vm_resamples_free(&t);
    run_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden), cmocka_unit_test(binomial),
                                       cmocka_unit_test(two_seeds), cmocka_unit_test(shared_floor),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
