/* test_metrics.c: metrics, bootstrap, calibration floor, temperature and risk-coverage against scikit-learn's and
 * numpy's numbers (tests/golden/metrics.json, by tools/golden_metrics.py) and against closed forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/metrics.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct table {
    vm_predictions d;
    double *p;
    int *k, *label;
} table;

static table table_new(size_t n, int stride) {
    table t = {
        .p = calloc(n * (size_t)stride, sizeof *t.p), .k = calloc(n, sizeof *t.k), .label = calloc(n, sizeof *t.label)};
    for (size_t i = 0; i < n; i++) t.k[i] = stride;
    t.d = (vm_predictions){.n = n, .stride = stride, .p = t.p, .k = t.k, .label = t.label};
    return t;
}

static void table_free(table *t) {
    free(t->p);
    free(t->k);
    free(t->label);
}

static json_t *load_golden(void) {
    const char *dir = getenv("VMOER_TESTS");
#ifdef VMOER_TESTS_DIR
    if (!dir) dir = VMOER_TESTS_DIR;
#endif
    assert_non_null(dir);
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/metrics.json", dir);
    json_t *root;
    if (vm_json_load(path, &root) != VMOER_OK) fail_msg("%s", vm_error_text());
    return root;
}

static table table_of_case(const json_t *item) {
    const json_t *rows = json_object_get(item, "p"), *labels = json_object_get(item, "label");
    size_t n = json_array_size(rows), width = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = json_array_size(json_array_get(rows, i));
        if (k > width) width = k;
    }
    table t = table_new(n, (int)width + 1); /* one column more than needed: padding must not count */
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, i);
        t.k[i] = (int)json_array_size(row);
        t.label[i] = (int)json_integer_value(json_array_get(labels, i));
        for (int c = 0; c <= (int)width; c++) {
            t.p[i * (width + 1) + (size_t)c] = c < t.k[i] ? json_number_value(json_array_get(row, (size_t)c)) : NAN;
        }
    }
    return t;
}

static void near(const char *name, const char *what, double got, const json_t *expected, double tolerance) {
    const json_t *value = json_object_get(expected, what);
    if (!json_is_number(value)) fail_msg("%s: no golden %s", name, what);
    double want = json_number_value(value);
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s: %s is %.15g, expected %.15g", name, what, got, want);
}

/* Mean NLL of softmax(ln p / T), written out plainly. */
static double nll_at(const vm_predictions *d, double temperature) {
    double sum = 0;
    for (size_t i = 0; i < d->n; i++) {
        const double *p = d->p + i * (size_t)d->stride;
        double z = 0;
        for (int c = 0; c < d->k[i]; c++) z += exp(log(fmax(p[c], 1e-12)) / temperature);
        sum += log(z) - log(fmax(p[d->label[i]], 1e-12)) / temperature;
    }
    return sum / (double)d->n;
}

static void golden(void **state) {
    (void)state;
    json_t *root = load_golden();
    size_t index;
    json_t *item;
    assert_true(json_array_size(json_object_get(root, "cases")) >= 10);
    json_array_foreach(json_object_get(root, "cases"), index, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *expected = json_object_get(item, "expected");
        table t = table_of_case(item);
        vm_metrics m;
        if (vm_metrics_compute(&t.d, &m) != VMOER_OK) fail_msg("%s: %s", name, vm_error_text());
        near(name, "acc", m.acc, expected, 1e-9);
        near(name, "nll", m.nll, expected, 1e-9);
        near(name, "ece", m.ece, expected, 1e-9);
        near(name, "mce", m.mce, expected, 1e-9);
        near(name, "brier", m.brier, expected, 1e-9);
        near(name, "ece_mass", m.ece_mass, expected, 1e-9);

        vm_reliability_bin bins[VM_ECE_BINS];
        vm_reliability(&t.d, bins);
        double ece = 0;
        for (int b = 0; b < VM_ECE_BINS; b++) {
            size_t count = (size_t)json_integer_value(json_array_get(json_object_get(expected, "counts"), (size_t)b));
            if (bins[b].count != count)
                fail_msg("%s: bin %d holds %zu items, expected %zu", name, b, bins[b].count, count);
            ece += (double)bins[b].count / (double)t.d.n * fabs(bins[b].accuracy - bins[b].confidence);
        }
        near(name, "ece", ece, expected, 1e-9);
        assert_true(bins[0].low == 0 && bins[VM_ECE_BINS - 1].high == 1);

        double *risk = calloc(t.d.n, sizeof *risk), aurc;
        assert_int_equal(vm_risk_coverage(&t.d, risk, &aurc), VMOER_OK);
        near(name, "aurc", aurc, expected, 1e-9);
        assert_true(fabs(risk[t.d.n - 1] - (1 - m.acc)) < 1e-12);
        free(risk);

        double temperature;
        assert_int_equal(vm_temperature_fit(&t.d, 1, &temperature), VMOER_OK);
        near(name, "temperature_nll", nll_at(&t.d, temperature), expected, 1e-9);
        table_free(&t);
    }
    json_decref(root);
}

/* All items confident by c, a share a of them right: ECE = MCE = |a - c|, in one bin. With equal confidences the
 * equal-mass bins follow the items' order; right and wrong ones spread evenly give the same value. */
static void constant_confidence(void **state) {
    (void)state;
    table t = table_new(300, 4);
    for (size_t i = 0; i < 300; i++) {
        double *p = t.p + 4 * i;
        p[0] = .7;
        p[1] = p[2] = p[3] = .1;
        t.label[i] = i % 5 < 2 ? 0 : 3; /* accuracy .4 */
    }
    vm_metrics m;
    assert_int_equal(vm_metrics_compute(&t.d, &m), VMOER_OK);
    assert_true(fabs(m.acc - .4) < 1e-12);
    assert_true(fabs(m.ece - .3) < 1e-12);
    assert_true(fabs(m.mce - .3) < 1e-12);
    assert_true(fabs(m.ece_mass - .3) < 1e-12);
    assert_true(fabs(m.nll - (.4 * -log(.7) + .6 * -log(.1))) < 1e-12);
    assert_true(fabs(m.brier - (.4 * (.09 + 3 * .01) + .6 * (.49 + .02 + .81))) < 1e-12);
    table_free(&t);
}

static void ties_in_prediction_go_to_the_lower_index(void **state) {
    (void)state;
    table t = table_new(1, 3);
    memcpy(t.p, (double[]){.2, .4, .4}, 3 * sizeof *t.p);
    vm_metrics m;
    t.label[0] = 1;
    assert_int_equal(vm_metrics_compute(&t.d, &m), VMOER_OK);
    assert_true(m.acc == 1);
    t.label[0] = 2;
    assert_int_equal(vm_metrics_compute(&t.d, &m), VMOER_OK);
    assert_true(m.acc == 0);
    table_free(&t);
}

static void refuses_bad_input(void **state) {
    (void)state;
    table t = table_new(3, 3);
    for (size_t i = 0; i < 9; i++) t.p[i] = i % 3 == 0 ? .5 : .25;
    vm_metrics m;
    vm_metrics_ci ci;
    vm_ece_floor floor;
    double value, risk[3];
    assert_int_equal(vm_metrics_compute(&t.d, &m), VMOER_OK);

    struct {
        double p;
        int label, k;
        vmoer_status status;
        const char *text;
    } bad[] = {
        {NAN, 0, 3, VMOER_ERROR_NUMERIC, "item 1: probability of choice 2 is not finite"},
        {INFINITY, 0, 3, VMOER_ERROR_NUMERIC, "item 1: probability of choice 2 is not finite"},
        {-.25, 0, 3, VMOER_ERROR_DATA, "item 1: probability of choice 2 is -0.25"},
        {.25 + 2e-6, 0, 3, VMOER_ERROR_DATA, "item 1: probabilities sum to 1.000002"},
        {.25 - 2e-6, 0, 3, VMOER_ERROR_DATA, "item 1: probabilities sum to 0.999998"},
        {.25, 3, 3, VMOER_ERROR_DATA, "item 1: label 3 of 3 choices"},
        {.25, -1, 3, VMOER_ERROR_DATA, "item 1: label -1 of 3 choices"},
        {.25, 0, 4, VMOER_ERROR_DATA, "item 1: 4 choices, the table holds 1 to 3"},
        {.25, 0, 0, VMOER_ERROR_DATA, "item 1: 0 choices, the table holds 1 to 3"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        t.p[5] = bad[i].p, t.label[1] = bad[i].label, t.k[1] = bad[i].k;
        assert_int_equal(vm_metrics_compute(&t.d, &m), bad[i].status);
        assert_string_equal(vm_error_text(), bad[i].text);
        assert_int_equal(vm_metrics_bootstrap(&t.d, 10, 0, &ci), bad[i].status);
        assert_int_equal(vm_metrics_paired(&t.d, &t.d, 10, 0, &m, &ci), bad[i].status);
        assert_int_equal(vm_ece_floor_compute(&t.d, 10, 0, &floor), bad[i].status);
        assert_int_equal(vm_temperature_fit(&t.d, 1, &value), bad[i].status);
        assert_int_equal(vm_risk_coverage(&t.d, risk, &value), bad[i].status);
    }
    t.p[5] = .25 + 5e-7, t.label[1] = 0, t.k[1] = 3; /* inside the tolerance */
    assert_int_equal(vm_metrics_compute(&t.d, &m), VMOER_OK);
    assert_int_equal(vm_metrics_bootstrap(&t.d, 0, 0, &ci), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_ece_floor_compute(&t.d, 0, 0, &floor), VMOER_ERROR_ARGUMENT);
    t.d.n = 0;
    assert_int_equal(vm_metrics_compute(&t.d, &m), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_temperature_fit(&t.d, 1, &value), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_risk_coverage(&t.d, risk, &value), VMOER_ERROR_ARGUMENT);
    table_free(&t);
}

/* n items over four choices with confidences from .3 to 1; the label is drawn from p (calibrated) or from p sharpened
 * or flattened by ln p -> ln p / planted. */
static table synthetic(size_t n, uint64_t seed, double planted) {
    table t = table_new(n, 4);
    vm_rng rng = vm_rng_start(seed, VM_RNG_TEXT, 0);
    for (size_t i = 0; i < n; i++) {
        double logit[4], sum = 0, truth = 0, *p = t.p + 4 * i, u;
        for (int c = 0; c < 4; c++) {
            logit[c] = 1.5 * vm_rng_normal(&rng);
            sum += exp(logit[c]);
            truth += exp(logit[c] / planted);
        }
        for (int c = 0; c < 4; c++) p[c] = exp(logit[c]) / sum;
        u = vm_rng_uniform(&rng) * truth;
        while (t.label[i] < 3 && u >= exp(logit[t.label[i]] / planted)) u -= exp(logit[t.label[i]++] / planted);
    }
    return t;
}

static double width(vm_interval i) { return i.high - i.low; }

static void bootstrap_agrees_with_binomial(void **state) {
    (void)state;
    table t = synthetic(500, 3, 1);
    vm_metrics m;
    vm_metrics_ci ci, again, other;
    assert_int_equal(vm_metrics_compute(&t.d, &m), VMOER_OK);
    assert_int_equal(vm_metrics_bootstrap(&t.d, 2000, 7, &ci), VMOER_OK);
    assert_int_equal(vm_metrics_bootstrap(&t.d, 2000, 7, &again), VMOER_OK);
    assert_int_equal(vm_metrics_bootstrap(&t.d, 2000, 8, &other), VMOER_OK);
    assert_memory_equal(&ci, &again, sizeof ci);
    assert_true(memcmp(&ci, &other, sizeof ci) != 0);
    /* Half the width in standard errors: 1.96, within the noise of 2000 resamples and the grid of 1/500. */
    double error = sqrt(m.acc * (1 - m.acc) / 500);
    assert_true(fabs(width(ci.acc) / 2 / error - 1.96) < .12);
    assert_true(fabs((ci.acc.low + ci.acc.high) / 2 - m.acc) < .004);
    /* The NLL is a mean too: its standard error is that of the items. */
    double square = 0;
    for (size_t i = 0; i < 500; i++) square += pow(-log(t.p[4 * i + (size_t)t.label[i]]) - m.nll, 2);
    assert_true(fabs(width(ci.nll) / 2 / (sqrt(square / 499) / sqrt(500)) - 1.96) < .15);
    assert_true(ci.brier.low < m.brier && m.brier < ci.brier.high);
    assert_true(ci.ece.low > 0 && ci.ece.low <= ci.ece.high && ci.mce.low <= ci.mce.high &&
                ci.ece_mass.low < ci.ece_mass.high);
    table_free(&t);
}

/* One item drawn n times: every metric is that of the item, so the interval has no width. It also walks the equal-mass
 * bins over items that count many times. */
static void bootstrap_of_equal_items(void **state) {
    (void)state;
    table t = table_new(40, 2);
    for (size_t i = 0; i < 40; i++) t.p[2 * i] = .75, t.p[2 * i + 1] = .25;
    vm_metrics_ci ci;
    assert_int_equal(vm_metrics_bootstrap(&t.d, 50, 1, &ci), VMOER_OK);
    const vm_interval expected[] = {{1, 1}, {-log(.75), -log(.75)}, {.25, .25}, {.25, .25}, {.125, .125}, {.25, .25}};
    const vm_interval got[] = {ci.acc, ci.nll, ci.ece, ci.mce, ci.brier, ci.ece_mass};
    for (size_t i = 0; i < 6; i++) {
        assert_true(fabs(got[i].low - expected[i].low) < 1e-12 && fabs(got[i].high - expected[i].high) < 1e-12);
    }
    table_free(&t);
}

static void paired_is_tighter_and_signed(void **state) {
    (void)state;
    table a = synthetic(600, 11, 2.5), b = synthetic(600, 11, 2.5);
    for (size_t i = 0; i < 600; i++) { /* b: a with its planted over-confidence taken out */
        double sum = 0;
        for (int c = 0; c < 4; c++) sum += pow(a.p[4 * i + (size_t)c], 1 / 2.5);
        for (int c = 0; c < 4; c++) b.p[4 * i + (size_t)c] = pow(a.p[4 * i + (size_t)c], 1 / 2.5) / sum;
    }
    vm_metrics difference, m_a, m_b;
    vm_metrics_ci paired, alone;
    assert_int_equal(vm_metrics_paired(&a.d, &b.d, 1000, 5, &difference, &paired), VMOER_OK);
    assert_int_equal(vm_metrics_compute(&a.d, &m_a), VMOER_OK);
    assert_int_equal(vm_metrics_compute(&b.d, &m_b), VMOER_OK);
    assert_int_equal(vm_metrics_bootstrap(&a.d, 1000, 5, &alone), VMOER_OK);
    assert_true(fabs(difference.ece - (m_b.ece - m_a.ece)) < 1e-15 && difference.ece < 0);
    assert_true(difference.acc == 0 && paired.acc.low == 0 &&
                paired.acc.high == 0); /* scaling keeps every prediction */
    assert_true(paired.ece.high < 0 && paired.nll.high < 0);
    assert_true(width(paired.nll) < width(alone.nll));

    assert_int_equal(vm_metrics_paired(&a.d, &a.d, 100, 5, &difference, &paired), VMOER_OK);
    assert_true(difference.nll == 0 && paired.nll.low == 0 && paired.nll.high == 0);
    b.label[17] = (b.label[17] + 1) % 4;
    assert_int_equal(vm_metrics_paired(&a.d, &b.d, 100, 5, &difference, &paired), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "item 17"));
    b.d.n--;
    assert_int_equal(vm_metrics_paired(&a.d, &b.d, 100, 5, &difference, &paired), VMOER_ERROR_ARGUMENT);
    table_free(&a);
    table_free(&b);
}

/* A calibrated predictor's ECE is a draw from the floor's own distribution: over 40 data sets it exceeds the 95th
 * percentile about twice, and the mean of the floor matches their mean. An over-confident one exceeds it always. */
static void floor_holds_the_calibrated(void **state) {
    (void)state;
    int above = 0, overconfident_above = 0;
    double ece = 0, mean = 0;
    for (uint64_t s = 0; s < 40; s++) {
        table good = synthetic(500, 100 + s, 1), bad = synthetic(500, 100 + s, 3);
        vm_metrics m;
        vm_ece_floor floor, again;
        assert_int_equal(vm_metrics_compute(&good.d, &m), VMOER_OK);
        assert_int_equal(vm_ece_floor_compute(&good.d, 400, s, &floor), VMOER_OK);
        assert_int_equal(vm_ece_floor_compute(&good.d, 400, s, &again), VMOER_OK);
        assert_memory_equal(&floor, &again, sizeof floor);
        assert_true(floor.mean < floor.p95);
        above += m.ece > floor.p95;
        ece += m.ece / 40;
        mean += floor.mean / 40;
        assert_int_equal(vm_metrics_compute(&bad.d, &m), VMOER_OK);
        assert_int_equal(vm_ece_floor_compute(&bad.d, 400, s, &floor), VMOER_OK);
        overconfident_above += m.ece > floor.p95;
        table_free(&good);
        table_free(&bad);
    }
    assert_in_range(above, 0, 6);
    assert_int_equal(overconfident_above, 40);
    assert_true(fabs(ece - mean) < .006 && mean > .03 && mean < .06);
}

/* One choice, certain: nothing to miscalibrate. Confidence 1/2, one item: the gap is 1/2 whatever is drawn. */
static void floor_closed_forms(void **state) {
    (void)state;
    table sure = table_new(50, 1), coin = table_new(1, 2);
    vm_ece_floor floor;
    for (size_t i = 0; i < 50; i++) sure.p[i] = 1;
    assert_int_equal(vm_ece_floor_compute(&sure.d, 20, 0, &floor), VMOER_OK);
    assert_true(floor.mean == 0 && floor.p95 == 0);
    coin.p[0] = coin.p[1] = .5;
    assert_int_equal(vm_ece_floor_compute(&coin.d, 20, 0, &floor), VMOER_OK);
    assert_true(floor.mean == .5 && floor.p95 == .5);
    table_free(&sure);
    table_free(&coin);
}

static void temperature_recovers_what_was_planted(void **state) {
    (void)state;
    const double planted[] = {.5, 1, 1.7, 4};
    for (size_t i = 0; i < 4; i++) {
        table t = synthetic(20000, 40 + i, planted[i]);
        double temperature;
        assert_int_equal(vm_temperature_fit(&t.d, 1, &temperature), VMOER_OK);
        assert_true(fabs(log(temperature / planted[i])) < .06);
        /* The bottom of the valley. */
        assert_true(nll_at(&t.d, temperature) <= nll_at(&t.d, temperature * 1.001));
        assert_true(nll_at(&t.d, temperature) <= nll_at(&t.d, temperature / 1.001));
        table_free(&t);
    }
    /* Right and certain wants T -> 0, wrong and certain T -> infinity: the ends of the range; equal choices want
     * nothing. */
    table t = table_new(5, 2);
    double temperature;
    for (size_t i = 0; i < 5; i++) t.p[2 * i] = .9, t.p[2 * i + 1] = .1;
    assert_int_equal(vm_temperature_fit(&t.d, 1, &temperature), VMOER_OK);
    assert_true(fabs(temperature - .05) < 1e-3);
    for (size_t i = 0; i < 5; i++) t.label[i] = 1;
    assert_int_equal(vm_temperature_fit(&t.d, 1, &temperature), VMOER_OK);
    assert_true(fabs(temperature - 20) < 1e-3);
    for (size_t i = 0; i < 10; i++) t.p[i] = .5;
    assert_int_equal(vm_temperature_fit(&t.d, 1, &temperature), VMOER_OK);
    assert_true(temperature == 1);
    table_free(&t);
}

static double mean_nll_at(const table *passes, double temperature) {
    const vm_predictions *d = &passes[0].d;
    double sum = 0;
    for (size_t i = 0; i < d->n; i++) {
        double right = 0;
        for (int s = 0; s < 2; s++) {
            const double *p = passes[s].d.p + i * (size_t)d->stride;
            double z = 0;
            for (int c = 0; c < d->k[i]; c++) z += pow(p[c], 1 / temperature);
            right += pow(p[d->label[i]], 1 / temperature) / z / 2;
        }
        sum -= log(right);
    }
    return sum / (double)d->n;
}

/* Two passes of one item each, labels of the first: the temperature comes before the mean. The same pass twice is one.
 */
static void temperature_of_passes(void **state) {
    (void)state;
    table passes[2] = {synthetic(4000, 50, 2), synthetic(4000, 51, 2)};
    vm_predictions d[2] = {passes[0].d, passes[1].d};
    double temperature, one;
    memcpy(passes[1].label, passes[0].label, 4000 * sizeof *passes[0].label);
    assert_int_equal(vm_temperature_fit(d, 2, &temperature), VMOER_OK);
    assert_true(mean_nll_at(passes, temperature) <= mean_nll_at(passes, temperature * 1.001));
    assert_true(mean_nll_at(passes, temperature) <= mean_nll_at(passes, temperature / 1.001));
    assert_int_equal(vm_temperature_fit(d, 1, &one), VMOER_OK);
    assert_true(fabs(log(temperature / one)) > .01); /* the other pass disagrees */
    d[1] = d[0];
    assert_int_equal(vm_temperature_fit(d, 2, &temperature), VMOER_OK);
    assert_true(fabs(temperature / one - 1) < 1e-6);
    for (int s = 0; s < 2; s++) table_free(&passes[s]);
}

static void risk_coverage_by_hand(void **state) {
    (void)state;
    table t = table_new(4, 2);
    const double confidence[] = {.6, .9, .8, .8};
    const int right[] = {1, 1, 0, 1};
    for (size_t i = 0; i < 4; i++) {
        t.p[2 * i] = confidence[i];
        t.p[2 * i + 1] = 1 - confidence[i];
        t.label[i] = !right[i];
    }
    double risk[4], aurc;
    assert_int_equal(vm_risk_coverage(&t.d, risk, &aurc), VMOER_OK);
    const double expected[] = {0, .5, 1.0 / 3, .25}; /* .9 right, the first .8 wrong, the second right, .6 right */
    for (size_t i = 0; i < 4; i++) assert_true(fabs(risk[i] - expected[i]) < 1e-15);
    assert_true(fabs(aurc - (.5 + 1.0 / 3 + .25) / 4) < 1e-15);
    table_free(&t);
}

/* The largest task in hand takes some 50 ms; the bound leaves room for sanitisers and a busy machine. */
static void bootstrap_is_fast(void **state) {
    (void)state;
    table t = synthetic(2365, 1, 1);
    vm_metrics_ci ci;
    clock_t start = clock();
    assert_int_equal(vm_metrics_bootstrap(&t.d, 1000, 0, &ci), VMOER_OK);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    print_message("bootstrap, 2365 items x 1000: %.3f s\n", seconds);
    assert_true(seconds < 5);
    table_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test(constant_confidence),
        cmocka_unit_test(ties_in_prediction_go_to_the_lower_index),
        cmocka_unit_test(refuses_bad_input),
        cmocka_unit_test(bootstrap_agrees_with_binomial),
        cmocka_unit_test(bootstrap_of_equal_items),
        cmocka_unit_test(paired_is_tighter_and_signed),
        cmocka_unit_test(floor_holds_the_calibrated),
        cmocka_unit_test(floor_closed_forms),
        cmocka_unit_test(temperature_recovers_what_was_planted),
        cmocka_unit_test(temperature_of_passes),
        cmocka_unit_test(risk_coverage_by_hand),
        cmocka_unit_test(bootstrap_is_fast),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
