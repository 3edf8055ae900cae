/* test_conformal.c: scores, quantile and the law of the coverage against scipy's numbers (tests/golden/metrics.json)
 * and by hand; coverage of exchangeable data; ties; too few items; and vmoer_conformal on folders made here, hostile
 * ones among them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/conformal.h"
#include "vmoer/vmoer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *golden_part(const char *key, json_t **root) {
    const char *dir = getenv("VMOER_TESTS");
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/metrics.json", dir ? dir : VMOER_TESTS_DIR);
    if (vm_json_load(path, root) != VMOER_OK) fail_msg("%s", vm_error_text());
    return json_object_get(*root, key);
}

static double at(const json_t *list, size_t i) { return json_number_value(json_array_get(list, i)); }
static double of(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

static void near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("%.15g, expected %.15g", got, want);
}

static void law(void **state) {
    (void)state;
    json_t *root, *item;
    size_t index;
    assert_true(json_array_size(golden_part("laws", &root)) >= 7);
    json_array_foreach(json_object_get(root, "laws"), index, item) {
        size_t n = (size_t)of(item, "n"), m = (size_t)of(item, "m");
        double alpha = of(item, "alpha");
        assert_int_equal(vm_conformal_rank(n, alpha), (int)of(item, "rank"));
        vm_coverage_law l = vm_coverage_law_of(n, m, alpha);
        near(l.mean, of(item, "mean"), 1e-15);
        near(l.beta.low, at(json_object_get(item, "beta"), 0), 1e-9);
        near(l.beta.high, at(json_object_get(item, "beta"), 1), 1e-9);
        near(l.share.low, at(json_object_get(item, "share"), 0), 1e-15);
        near(l.share.high, at(json_object_get(item, "share"), 1), 1e-15);
    }
    json_decref(root);
}

/* Of n = 8 scores at alpha .1 the rank is 9: every choice is in every set. */
static void too_few_items(void **state) {
    (void)state;
    double scores[] = {.3, .1, .2, .5, .4, .9, .7, .8};
    assert_int_equal(vm_conformal_rank(8, .1), 9);
    assert_true(isinf(vm_conformal_quantile(scores, 8, .1)));
    assert_true(vm_conformal_quantile(scores, 8, .2) == .9); /* the 8th of 8 */
    assert_true(vm_conformal_quantile(scores, 8, .5) == .5); /* ceil(4.5) = 5th */
    vm_coverage_law l = vm_coverage_law_of(8, 10, .1);
    assert_true(l.mean == 1 && l.beta.low == 1 && l.share.low == 1 && l.share.high == 1);
    double p[] = {.5, .5, .9, .1}, score[4];
    int k[] = {2, 2}, label[] = {0, 1};
    vm_predictions d = {.n = 2, .stride = 2, .p = p, .k = k, .label = label};
    vm_conformal_lac(&d, score);
    vm_halves h;
    assert_int_equal(vm_conformal_halves(&d, score, .1, 20, 0, &h), VMOER_OK);
    assert_true(h.mean.coverage == 1 && h.mean.size == 2 && h.mean.sizes[2] == 1 && h.inside == 1);
    d.n = 1;
    assert_int_equal(vm_conformal_halves(&d, score, .1, 20, 0, &h), VMOER_ERROR_ARGUMENT);
}

static void scores(void **state) {
    (void)state;
    enum { STRIDE = 5, MOST = 64 };
    json_t *root, *sets = golden_part("sets", &root), *rows = json_object_get(sets, "p");
    size_t n = json_array_size(rows);
    double p[MOST * STRIDE] = {0}, uniform[MOST], lac[MOST * STRIDE], aps[MOST * STRIDE];
    int k[MOST], label[MOST];
    assert_in_range(n, 30, MOST);
    for (size_t i = 0; i < n; i++) {
        k[i] = (int)json_array_size(json_array_get(rows, i));
        for (size_t c = 0; c < (size_t)k[i]; c++) p[i * STRIDE + c] = at(json_array_get(rows, i), c);
        label[i] = (int)at(json_object_get(sets, "label"), i);
        uniform[i] = at(json_object_get(sets, "uniform"), i);
    }
    vm_predictions d = {.n = n, .stride = STRIDE, .p = p, .k = k, .label = label};
    vm_conformal_lac(&d, lac);
    vm_conformal_aps(&d, uniform, aps);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < (size_t)k[i]; c++) {
            near(lac[i * STRIDE + c], at(json_array_get(json_object_get(sets, "lac"), i), c), 1e-12);
            near(aps[i * STRIDE + c], at(json_array_get(json_object_get(sets, "aps"), i), c), 1e-12);
        }
    /* the sets of a quantile, by the definition */
    vm_sets made = vm_conformal_sets(&d, aps, .6);
    double covered = 0, choices = 0, empty = 0;
    for (size_t i = 0; i < n; i++) {
        int size = 0;
        for (size_t c = 0; c < (size_t)k[i]; c++) size += aps[i * STRIDE + c] <= .6;
        covered += aps[i * STRIDE + (size_t)label[i]] <= .6;
        choices += size;
        empty += size == 0;
    }
    near(made.coverage, covered / (double)n, 1e-15);
    near(made.size, choices / (double)n, 1e-15);
    near(made.sizes[0], empty / (double)n, 1e-15);
    json_decref(root);
}

/* ---- coverage ---- */
enum { ITEMS = 400, CHOICES = 4 };
typedef struct made_items {
    double p[ITEMS * CHOICES], lac[ITEMS * CHOICES], aps[ITEMS * CHOICES];
    int k[ITEMS], label[ITEMS];
    vm_predictions d;
} made_items;

/* truth: how much the labels follow p (0: not at all). The guarantee does not care. */
static void make(made_items *m, double truth, bool flat, uint64_t seed) {
    vm_rng rng = vm_rng_start(seed, VM_RNG_TEXT, 0);
    double uniform[ITEMS];
    for (int i = 0; i < ITEMS; i++) {
        double *p = m->p + i * CHOICES, sum = 0, u = vm_rng_uniform(&rng);
        for (int c = 0; c < CHOICES; c++) sum += p[c] = flat ? 1 : exp(1.5 * (double)vm_rng_normal(&rng));
        for (int c = 0; c < CHOICES; c++) p[c] /= sum;
        m->k[i] = CHOICES;
        m->label[i] = 0;
        for (double below = 0; m->label[i] < CHOICES - 1; m->label[i]++) {
            below += truth * p[m->label[i]] + (1 - truth) / CHOICES;
            if (u < below) break;
        }
        uniform[i] = vm_rng_uniform(&rng);
    }
    m->d = (vm_predictions){.n = ITEMS, .stride = CHOICES, .p = m->p, .k = m->k, .label = m->label};
    vm_conformal_lac(&m->d, m->lac);
    vm_conformal_aps(&m->d, uniform, m->aps);
}

/* The covered share of the other half is beta-binomial whatever the model is worth: its mean, its interval, and 95% of
 * the halvings inside. */
static void exchangeable_items_are_covered(void **state) {
    (void)state;
    static made_items m;
    for (int truth = 0; truth <= 1; truth++) {
        make(&m, truth, false, 5);
        vm_coverage_law l = vm_coverage_law_of(ITEMS / 2, ITEMS / 2, .1);
        const double *const scores[] = {m.lac, m.aps};
        for (int s = 0; s < 2; s++) {
            vm_halves h, again, other;
            assert_int_equal(vm_conformal_halves(&m.d, scores[s], .1, 2000, 1, &h), VMOER_OK);
            assert_int_equal(vm_conformal_halves(&m.d, scores[s], .1, 2000, 1, &again), VMOER_OK);
            assert_int_equal(vm_conformal_halves(&m.d, scores[s], .1, 2000, 2, &other), VMOER_OK);
            assert_memory_equal(&h, &again, sizeof h);
            assert_true(memcmp(&h, &other, sizeof h) != 0);
            assert_true(l.mean >= .9);
            near(h.mean.coverage, l.mean, 5 * .03 / sqrt(2000)); /* one share's standard deviation is .03 */
            near(h.coverage.low, l.share.low, .015);
            near(h.coverage.high, l.share.high, .015);
            near(h.inside, .96, .02);
            double sum = 0;
            for (int k = 0; k <= CHOICES; k++) sum += h.mean.sizes[k];
            near(sum, 1, 1e-12);
        }
    }
}

/* A model that says the same of everything: LAC cannot tell and takes all; APS breaks the ties and stays exact. */
static void ties(void **state) {
    (void)state;
    static made_items m;
    make(&m, 0, true, 7);
    vm_halves lac, aps;
    assert_int_equal(vm_conformal_halves(&m.d, m.lac, .2, 500, 0, &lac), VMOER_OK);
    assert_true(lac.mean.coverage == 1 && lac.mean.size == CHOICES);
    assert_int_equal(vm_conformal_halves(&m.d, m.aps, .2, 500, 0, &aps), VMOER_OK);
    near(aps.mean.coverage, vm_coverage_law_of(ITEMS / 2, ITEMS / 2, .2).mean, .01);
    assert_true(aps.mean.size < 3.5);
}

static void abstention(void **state) {
    (void)state;
    /* confidences .9 (right), .8 (wrong), .7 and .7 (right, right), .6 (wrong) */
    double p[] = {.9, .1, .2, .8, .7, .3, .3, .7, .6, .4};
    int k[] = {2, 2, 2, 2, 2}, label[] = {0, 0, 0, 1, 1};
    vm_predictions d = {.n = 5, .stride = 2, .p = p, .k = k, .label = label};
    vm_abstention a;
    assert_int_equal(vm_abstention_find(&d, .75, &a), VMOER_OK);
    assert_true(a.confidence == .7 && a.coverage == .8 && a.accuracy == .75); /* beyond the dip at .8 */
    assert_int_equal(vm_abstention_find(&d, .6, &a), VMOER_OK);
    assert_true(a.confidence == .6 && a.coverage == 1);
    assert_int_equal(vm_abstention_find(&d, .76, &a),
                     VMOER_OK); /* two of three would do, but equal confidences go together */
    assert_true(a.confidence == .9 && a.coverage == .2 && a.accuracy == 1);
    assert_int_equal(vm_abstention_apply(&d, .75, &a), VMOER_OK);
    assert_true(a.coverage == .4 && a.accuracy == .5);
    assert_int_equal(vm_abstention_apply(&d, .95, &a), VMOER_OK);
    assert_true(a.coverage == 0 && isnan(a.accuracy));
    label[0] = 1;
    assert_int_equal(vm_abstention_find(&d, .9, &a), VMOER_OK);
    assert_true(isnan(a.confidence) && a.coverage == 0);
    p[0] = 2;
    assert_int_equal(vm_abstention_find(&d, .9, &a), VMOER_ERROR_DATA);
}

/* ---- saved runs ---- */
static char root_folder[] = "/tmp/vmoer-test-conformal-XXXXXX";

static const char *place(const char *run, const char *file) {
    static char path[4][512];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof *path, "%s/%s%s%s", root_folder, run, file ? "/" : "", file ? file : "");
    return out;
}

/* A finished run of n items in one task; from: the first item's number. */
static void write_run(const char *run, const char *task, int from, int n, const char *adapter) {
    char text[512];
    assert_int_equal(vm_make_dirs(place(run, NULL)), VMOER_OK);
    FILE *f = fopen(place(run, "samples.jsonl"), "w");
    assert_non_null(f);
    for (int i = from; i < from + n; i++) {
        double p = .3 + .07 * (i * 7 % 10);
        fprintf(f,
                "{\"task\": \"%s\", \"id\": \"q%d\", \"hash\": \"%016x\", \"label\": %d, \"probabilities\": [%.17g, "
                "%.17g], \"signals\": {}}\n",
                task, i, i * 2654435761u, i % 3 == 0, p, 1 - p);
    }
    fclose(f);
    snprintf(text, sizeof text,
             "{\"kind\": \"eval\", \"label\": \"L\", \"model\": {\"name\": \"m\"}, \"adapter\": %s, \"router\": {}, "
             "\"config\": "
             "{\"split\": \"%s\", \"format\": \"cloze\"}, \"results\": {\"%s\": {\"n\": %d}}}",
             adapter, run, task, n);
    assert_int_equal(vm_write_file(place(run, "results.json"), text, strlen(text)), VMOER_OK);
}

static vmoer_status conform(const char *run, const char *calibration, char **text) {
    vmoer_conformal_params p = vmoer_conformal_params_default();
    p.run = place(run, NULL);
    p.calibration_run = calibration ? place(calibration, NULL) : NULL;
    p.output_path = place("out", NULL);
    p.halves = 50;
    p.accuracy = "0.6,1";
    return vmoer_conformal(&p, NULL, text);
}

static void saved_runs(void **state) {
    (void)state;
    char *text;
    write_run("test", "obqa", 0, 90, "null");
    write_run("heldout", "obqa", 100, 60, "null");
    write_run("strange", "law", 300, 30, "null");
    write_run("tuned", "obqa", 100, 60, "{}");
    if (conform("test", "heldout", &text) != VMOER_OK) fail_msg("%s", vm_error_text());
    json_t *all = json_loads(text, 0, NULL), *on_disk,
           *result = json_object_get(json_object_get(all, "results"), "obqa");
    vmoer_free(text);
    assert_int_equal(vm_json_load(place("out", "results.json"), &on_disk), VMOER_OK);
    assert_true(json_equal(all, on_disk));
    json_decref(on_disk);
    assert_string_equal(json_string_value(json_object_get(all, "kind")), "conformal");
    assert_int_equal(of(result, "n"), 90);
    json_t *halves = json_object_get(result, "halves"), *shift = json_object_get(result, "shift");
    assert_int_equal(of(halves, "n_calibration"), 45);
    assert_int_equal(of(shift, "n_calibration"), 60);
    assert_int_equal(of(shift, "n_test"), 90);
    assert_string_equal(json_string_value(json_object_get(shift, "split")), "heldout");
    near(of(json_object_get(shift, "theory"), "coverage"), 55. / 61, 1e-15);
    assert_int_equal(json_array_size(json_object_get(json_object_get(shift, "aps"), "sizes")), 3);
    /* q is the 55th smallest 1 - p of the held-out run's right answers; the coverage is that of the test run */
    double right[60], covered = 0;
    for (int i = 0; i < 60; i++) {
        double p = .3 + .07 * ((i + 100) * 7 % 10);
        right[i] = 1 - ((i + 100) % 3 == 0 ? 1 - p : p);
    }
    double q = vm_conformal_quantile(right, 60, .1);
    near(of(json_object_get(shift, "lac"), "quantile"), q, 1e-15);
    for (int i = 0; i < 90; i++) {
        double p = .3 + .07 * (i * 7 % 10);
        covered += 1 - (i % 3 == 0 ? 1 - p : p) <= q;
    }
    near(of(json_object_get(shift, "lac"), "coverage"), covered / 90, 1e-15);
    json_t *never = json_array_get(json_object_get(result, "abstention"), 1);
    assert_true(json_is_null(json_object_get(never, "confidence")) || of(never, "selective_accuracy") == 1);
    json_t *curve = json_object_get(result, "risk_coverage");
    assert_int_equal(json_array_size(curve), 90);
    assert_true(at(json_array_get(curve, 89), 0) == 1);
    json_decref(all);

    assert_int_equal(conform("strange", "heldout", &text), VMOER_OK); /* the only task calibrates another */
    assert_non_null(strstr(text, "\"task\": \"obqa\""));
    vmoer_free(text);
    assert_int_equal(conform("test", NULL, &text), VMOER_OK);
    assert_non_null(strstr(text, "\"shift\": null"));
    vmoer_free(text);
    assert_int_equal(conform("test", "tuned", &text), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "another adapter"));
    write_run("one", "obqa", 0, 1, "null");
    assert_int_equal(conform("one", NULL, &text), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "obqa: 1 items"));
}

static void refused_parameters(void **state) {
    (void)state;
    static const struct {
        double alpha;
        int halves;
        const char *accuracy, *says;
    } bad[] = {
        {0, 10, "0.8", "alpha 0"},
        {1, 10, "0.8", "alpha 1"},
        {NAN, 10, "0.8", "alpha nan"},
        {.1, 0, "0.8", "halves 0"},
        {.1, 10, "", "accuracy ''"},
        {.1, 10, "0.8,", "accuracy '0.8,'"},
        {.1, 10, "0.8;0.9", "accuracy '0.8"},
        {.1, 10, "1.1", "accuracy '1.1'"},
        {.1, 10, "nan", "accuracy 'nan'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        vmoer_conformal_params p = vmoer_conformal_params_default();
        p.run = place("test", NULL);
        p.alpha = bad[i].alpha, p.halves = bad[i].halves, p.accuracy = bad[i].accuracy;
        assert_int_equal(vmoer_conformal(&p, NULL, NULL), VMOER_ERROR_ARGUMENT);
        if (!strstr(vm_error_text(), bad[i].says)) fail_msg("\"%s\" does not say \"%s\"", vm_error_text(), bad[i].says);
    }
}

/* One line in place of a good one. */
static void hostile_samples(void **state) {
    (void)state;
#define LINE(hash, label, p)                                                                             \
    "{\"task\": \"t\", \"id\": \"bad\", \"hash\": " hash ", \"label\": " label ", \"probabilities\": " p \
    ", \"signals\": {}}\n"
    static const struct {
        const char *line, *says;
    } bad[] = {
        {LINE("\"0123456789abcdef\"", "2", "[0.5, 0.5]"), "t, item 1 (bad): label"},
        {LINE("\"0123456789abcdef\"", "-1", "[0.5, 0.5]"), "label"},
        {LINE("\"0123456789abcdef\"", "0.5", "[0.5, 0.5]"), "label"},
        {LINE("\"0123456789abcdef\"", "0", "[0.5, 0.6]"), "do not sum to 1"},
        {LINE("\"0123456789abcdef\"", "0", "[1.5, -0.5]"), "numbers from 0 to 1"},
        {LINE("\"0123456789abcdef\"", "0", "[0.5, \"0.5\"]"), "numbers from 0 to 1"},
        {LINE("\"0123456789abcdef\"", "0", "[1.0]"), "2 to 26 numbers"},
        {LINE("\"0123456789abcdef\"", "0", "0.5"), "2 to 26 numbers"},
        {LINE("\"0123456789abcdeg\"", "0", "[0.5, 0.5]"), "16 hexadecimal digits"},
        {LINE("\"0123\"", "0", "[0.5, 0.5]"), "16 hexadecimal digits"},
        {LINE("7", "0", "[0.5, 0.5]"), "16 hexadecimal digits"},
        {LINE("\"0123456789abcdef\"", "0", "[0.5, NaN]"), "samples.jsonl, line 1"},
        {"{\"id\": \"bad\", \"signals\": {}}\n", "samples.jsonl, line 1: no task"},
        {"[]\n", "samples.jsonl, line 1"},
    };
    char *text, path[512];
    write_run("hostile", "t", 0, 1, "null");
    snprintf(path, sizeof path, "%s", place("hostile", "samples.jsonl"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(vm_write_file(path, bad[i].line, strlen(bad[i].line)), VMOER_OK);
        assert_int_not_equal(conform("hostile", NULL, &text), VMOER_OK);
        if (!strstr(vm_error_text(), bad[i].says)) fail_msg("\"%s\" does not say \"%s\"", vm_error_text(), bad[i].says);
    }
    assert_int_equal(vm_write_file(path, "", 0), VMOER_OK);
    assert_int_equal(conform("hostile", NULL, &text), VMOER_ERROR_DATA);
    /* another number of samples than results.json speaks of, and a folder of something else */
    write_run("hostile", "t", 0, 3, "null");
    assert_int_equal(vm_write_file(path, LINE("\"0123456789abcdef\"", "0", "[0.5, 0.5]"),
                                   strlen(LINE("\"0123456789abcdef\"", "0", "[0.5, 0.5]"))),
                     VMOER_OK);
    assert_int_equal(conform("hostile", NULL, &text), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "1 samples of t, results.json speaks of 3"));
    assert_int_equal(vm_write_file(place("hostile", "results.json"), "{\"kind\": \"ood\"}", 15), VMOER_OK);
    assert_int_equal(conform("hostile", NULL, &text), VMOER_ERROR_FORMAT);
    assert_int_equal(unlink(place("hostile", "results.json")), 0);
    assert_int_equal(conform("hostile", NULL, &text), VMOER_ERROR_IO);
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(root_folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", root_folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(law),
        cmocka_unit_test(too_few_items),
        cmocka_unit_test(scores),
        cmocka_unit_test(exchangeable_items_are_covered),
        cmocka_unit_test(ties),
        cmocka_unit_test(abstention),
        cmocka_unit_test(saved_runs),
        cmocka_unit_test(refused_parameters),
        cmocka_unit_test(hostile_samples),
    };
    return cmocka_run_group_tests_name("conformal", tests, make_folder, remove_folder);
}
