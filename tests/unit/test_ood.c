/* test_ood.c: AUROC, average precision and FPR95 against scikit-learn's numbers (tests/golden/metrics.json) and by
 * hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/controls.h"
#include "eval/distance.h"
#include "eval/ood.h"
#include "io/safetensors.h"
#include "vmoer/vmoer.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* ---- saved runs ---- */
static char folder[] = "/tmp/vmoer-test-ood-XXXXXX";

static const char *place(const char *run, const char *file) {
    static char path[8][512];
    static int next;
    char *out = path[next++ % 8];
    snprintf(out, sizeof *path, "%s/%s%s%s", folder, run, file ? "/" : "", file ? file : "");
    return out;
}

enum { ITEMS = 40, DIM = 3 };
typedef struct made_run {
    double length[ITEMS], entropy[ITEMS], wrong[ITEMS];
    uint64_t hash[ITEMS];
    float hidden[ITEMS * DIM];
} made_run;

/* A signal that grows with the length, and hidden states around `shift`; lengths around `length`. */
static void write_run(const char *name, const char *task, uint64_t seed, double length, double shift, made_run *m) {
    vm_rng rng = vm_rng_start(seed, VM_RNG_TEXT, 0);
    char text[512];
    assert_int_equal(vm_make_dirs(place(name, NULL)), VMOER_OK);
    FILE *f = fopen(place(name, "samples.jsonl"), "w");
    assert_non_null(f);
    for (int i = 0; i < ITEMS; i++) {
        m->length[i] = length + vm_rng_below(&rng, 12);
        m->entropy[i] = .4 * log(m->length[i] + 1) + .05 * (double)vm_rng_normal(&rng);
        m->wrong[i] = vm_rng_below(&rng, 2);
        m->hash[i] = (uint64_t)vm_rng_u32(&rng) << 8 | seed;
        for (int k = 0; k < DIM; k++) m->hidden[i * DIM + k] = (float)shift + vm_rng_normal(&rng);
        fprintf(
            f,
            "{\"task\": \"%s\", \"id\": \"q%d\", \"hash\": \"%016llx\", \"label\": %d, \"probabilities\": [0.4, 0.6], "
            "\"signals\": {\"choice_entropy\": %.17g, \"length\": %g%s}}\n",
            task, i, (unsigned long long)m->hash[i], m->wrong[i] > 0 ? 0 : 1, m->entropy[i], m->length[i],
            i ? ", \"odd\": 1" : "");
    }
    fclose(f);
    snprintf(text, sizeof text,
             "{\"kind\": \"eval\", \"label\": \"%s\", \"model\": {}, \"adapter\": null, \"router\": {}, \"config\": "
             "{\"split\": "
             "\"test\"}, \"results\": {\"%s\": {\"n\": %d}}}",
             name, task, ITEMS);
    assert_int_equal(vm_write_file(place(name, "results.json"), text, strlen(text)), VMOER_OK);
    vm_st_writer *w = vm_st_writer_create();
    assert_int_equal(vm_st_writer_f32(w, task, "F32", 2, (int64_t[]){ITEMS, DIM}, m->hidden), VMOER_OK);
    assert_int_equal(vm_st_writer_save(w, place(name, "hidden.safetensors")), VMOER_OK);
    vm_st_writer_free(w);
}

static vmoer_status run_ood(const char *id, const char *const *runs, int n, const char *fit, const char *signals,
                            char **text) {
    vmoer_ood_params p = vmoer_ood_params_default();
    const char *given[4];
    for (int i = 0; i < n; i++) given[i] = place(runs[i], NULL);
    p.id_run = place(id, NULL), p.ood_runs = given, p.n_ood = n, p.signals = signals, p.bootstrap = 20;
    p.fit_run = fit ? place(fit, NULL) : NULL;
    p.output_path = place("out", NULL);
    return vmoer_ood(&p, NULL, text);
}

static const json_t *at(const json_t *root, const char *a, const char *b, const char *c) {
    return json_object_get(json_object_get(json_object_get(root, a), b), c);
}

static void saved_runs(void **state) {
    (void)state;
    static made_run id, far, fit;
    const char *const runs[] = {"far"};
    char *text;
    write_run("id", "obqa", 1, 8, 0, &id);
    write_run("far", "law", 2, 14, 4, &far);
    write_run("fit", "obqa", 3, 8, 0, &fit);
    if (run_ood("id", runs, 1, "fit", NULL, &text) != VMOER_OK) fail_msg("%s", vm_error_text());
    json_t *all = json_loads(text, 0, NULL), *on_disk;
    vmoer_free(text);
    assert_int_equal(vm_json_load(place("out", "results.json"), &on_disk), VMOER_OK);
    assert_true(json_equal(all, on_disk));
    json_decref(on_disk);
    const json_t *signals = at(all, "results", "law", "signals");
    assert_int_equal(json_object_size(signals), 3); /* "odd" is not in every item */

    /* the signal, what a line in ln length leaves of it, and between items of like length */
    const json_t *entropy = json_object_get(signals, "choice_entropy");
    double log_id[ITEMS], rest_id[ITEMS], rest_far[ITEMS];
    vm_ood m;
    assert_int_equal(vm_ood_compute(id.entropy, ITEMS, far.entropy, ITEMS, &m), VMOER_OK);
    near("plain", "auroc", m.auroc, entropy);
    assert_true(m.auroc > .8);
    for (int i = 0; i < ITEMS; i++) log_id[i] = log(id.length[i]);
    vm_line line = vm_line_fit(log_id, id.entropy, ITEMS);
    for (int i = 0; i < ITEMS; i++) {
        rest_id[i] = id.entropy[i] - line.intercept - line.slope * log_id[i];
        rest_far[i] = far.entropy[i] - line.intercept - line.slope * log(far.length[i]);
    }
    assert_int_equal(vm_ood_compute(rest_id, ITEMS, rest_far, ITEMS, &m), VMOER_OK);
    near("adjusted", "auroc", m.auroc, json_object_get(entropy, "length_adjusted"));
    near("adjusted", "fpr95", m.fpr95, json_object_get(entropy, "length_adjusted"));
    assert_true(fabs(m.auroc - .5) < .25); /* there was nothing else in it */
    vm_lengths a = {ITEMS, id.length, id.hash}, b = {ITEMS, far.length, far.hash};
    size_t of_a[ITEMS], of_b[ITEMS], pairs;
    assert_int_equal(vm_match_lengths(&a, &b, of_a, of_b, &pairs), VMOER_OK);
    assert_in_range(pairs, 3, ITEMS - 1);
    assert_int_equal(json_integer_value(at(all, "results", "law", "n_matched")), pairs);
    for (size_t i = 0; i < pairs; i++) rest_id[i] = id.entropy[of_a[i]], rest_far[i] = far.entropy[of_b[i]];
    assert_int_equal(vm_ood_compute(rest_id, pairs, rest_far, pairs, &m), VMOER_OK);
    near("matched", "auroc", m.auroc, json_object_get(entropy, "length_matched"));
    assert_null(json_object_get(json_object_get(signals, "length"), "length_adjusted"));

    /* the distance, fitted on the third run */
    vm_distance d;
    double near_id[ITEMS], near_far[ITEMS];
    assert_int_equal(vm_distance_fit(fit.hidden, ITEMS, DIM, &d), VMOER_OK);
    assert_int_equal(vm_distance_of(&d, id.hidden, ITEMS, near_id), VMOER_OK);
    assert_int_equal(vm_distance_of(&d, far.hidden, ITEMS, near_far), VMOER_OK);
    assert_int_equal(vm_ood_compute(near_id, ITEMS, near_far, ITEMS, &m), VMOER_OK);
    near("distance", "auroc", m.auroc, json_object_get(signals, "mahalanobis"));
    near("distance", "shrinkage", d.shrinkage, json_object_get(json_object_get(all, "config"), "fit"));
    vm_distance_free(&d);

    /* on the ID items alone */
    const json_t *known = at(all, "id", "signals", "choice_entropy");
    double rho;
    assert_int_equal(vm_spearman(id.entropy, id.length, ITEMS, &rho), VMOER_OK);
    near("id", "spearman_length", rho, known);
    assert_int_equal(vm_spearman(id.entropy, id.wrong, ITEMS, &rho), VMOER_OK);
    near("id", "spearman_wrong", rho, known);
    near("id", "slope", line.slope, known);
    json_decref(all);

    /* a signal that points the wrong way is shown as it is */
    assert_int_equal(run_ood("far", (const char *const[]){"id"}, 1, NULL, "choice_entropy", &text), VMOER_OK);
    all = json_loads(text, 0, NULL);
    vmoer_free(text);
    signals = at(all, "results", "obqa", "signals");
    assert_int_equal(json_object_size(signals), 1);
    assert_true(json_number_value(json_object_get(json_object_get(signals, "choice_entropy"), "auroc")) < .2);
    json_decref(all);
}

static void refused_runs(void **state) {
    (void)state;
    static made_run m;
    const char *const runs[] = {"far"};
    char *text;
    static const struct {
        const char *id, *fit, *signals, *says;
        vmoer_status status;
    } bad[] = {
        {"id", NULL, "choice_entropy,mutual_information", "obqa has no signal \"mutual_information\"",
         VMOER_ERROR_ARGUMENT},
        {"id", NULL, "odd", "has no signal \"odd\"", VMOER_ERROR_ARGUMENT},
        {"id", NULL, "a,,b", "--signals 'a,,b'", VMOER_ERROR_ARGUMENT},
        {"id", NULL, "", "--signals ''", VMOER_ERROR_ARGUMENT},
        {"id", "id", NULL, "its item q0 stands in", VMOER_ERROR_ARGUMENT},
        {"id", "bare", NULL, "hidden states, of an eval --hidden: ", VMOER_ERROR_IO},
        {"id", "wide", NULL, "hidden states of 3 dimensions, those of --fit_run have 4", VMOER_ERROR_MISMATCH},
        {"id", "short", NULL, "no tensor \"obqa\" of 40 rows", VMOER_ERROR_FORMAT},
        {"id", "flat", NULL, "no inverse", VMOER_ERROR_DATA},
        {"id", "nan", NULL, "not finite", VMOER_ERROR_NUMERIC},
        {"id", "other", NULL, "made with another router", VMOER_ERROR_MISMATCH},
        {"id", "nowhere", NULL, "nowhere", VMOER_ERROR_IO},
        {"zero", NULL, NULL, "a length that is not above 0", VMOER_ERROR_DATA},
    };
    const char *const made[] = {"bare", "wide", "short", "flat", "nan", "other"};
    for (int i = 0; i < 6; i++) write_run(made[i], "obqa", 10 + (uint64_t)i, 8, 0, &m);
    write_run("zero", "obqa", 20, 0, 0, &m);
    assert_int_equal(unlink(place("bare", "hidden.safetensors")), 0);
    float values[ITEMS * 4] = {0};
    for (int i = 0; i < 3; i++) {
        vm_st_writer *w = vm_st_writer_create();
        values[0] = i == 2 ? NAN : 0;
        assert_int_equal(vm_st_writer_f32(w, "obqa", "F32", 2,
                                          (int64_t[]){i == 1 ? ITEMS - 1 : ITEMS, i == 0 ? 4 : DIM},
                                          i ? values : memcpy(values, m.hidden, sizeof m.hidden)),
                         VMOER_OK);
        assert_int_equal(vm_st_writer_save(w, place(i == 0   ? "wide"
                                                    : i == 1 ? "short"
                                                             : "nan",
                                                    "hidden.safetensors")),
                         VMOER_OK);
        vm_st_writer_free(w);
    }
    memset(values, 0, sizeof values);
    vm_st_writer *w = vm_st_writer_create();
    assert_int_equal(vm_st_writer_f32(w, "obqa", "F32", 2, (int64_t[]){ITEMS, DIM}, values), VMOER_OK);
    assert_int_equal(vm_st_writer_save(w, place("flat", "hidden.safetensors")), VMOER_OK);
    vm_st_writer_free(w);
    json_t *results;
    assert_int_equal(vm_json_load(place("other", "results.json"), &results), VMOER_OK);
    json_object_set_new(results, "router", json_pack("{s:s}", "kind", "vglr-fc"));
    assert_int_equal(vm_json_save(place("other", "results.json"), results), VMOER_OK);
    json_decref(results);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        vmoer_status status = run_ood(bad[i].id, runs, 1, bad[i].fit, bad[i].signals, &text);
        if (status != bad[i].status || !strstr(vm_error_text(), bad[i].says))
            fail_msg("%d, \"%s\" does not say \"%s\"", status, vm_error_text(), bad[i].says);
    }
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test(auroc_is_the_share_of_pairs),
        cmocka_unit_test(fpr95_keeps_exactly_95_percent),
        cmocka_unit_test(infinite_scores_rank),
        cmocka_unit_test(refuses_bad_input),
        cmocka_unit_test(bootstrap_agrees_with_theory),
        cmocka_unit_test(saved_runs),
        cmocka_unit_test(refused_runs),
    };
    return cmocka_run_group_tests_name("ood", tests, make_folder, remove_folder);
}
