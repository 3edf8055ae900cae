/* test_report.c: a synthetic folder of runs, written as docs/FORMATS.md says, becomes one self-contained page; bad
 * files are refused by name. VMOER_REPORT_OUTPUT=page.html keeps the page to look at. */
#include "report_fixture.h"

#include "base/rng.h"
#include "eval/ood.h"
#include "report/collect.h"
#include "report/text.h"

#include <locale.h>
#include <math.h>

/* ---- synthetic runs ---- */

typedef struct made_run {
    const char *folder, *label, *kind;
    double sharpness; /* how far the probabilities exaggerate: 1 is calibrated */
    double gain;      /* added to the logit of the right answer */
    double variance;  /* level of the logit variance, 0: the model has none */
} made_run;

enum { CHOICES = 4 };

/* The same questions for every run: the truth's logits come from the task's seed alone. */
static vm_predictions make_predictions(const made_run *run, size_t n, uint64_t seed) {
    double *p = calloc(n * CHOICES, sizeof *p);
    int *k = calloc(n, sizeof *k), *label = calloc(n, sizeof *label);
    vm_rng rng = vm_rng_start(seed, VM_RNG_TEXT, 0), noise = vm_rng_start(seed + strlen(run->folder), VM_RNG_TEXT, 1);
    for (size_t i = 0; i < n; i++) {
        double logit[CHOICES], z = 0, sum = 0;
        for (int c = 0; c < CHOICES; c++) {
            logit[c] = 1.1 * vm_rng_normal(&rng);
            z += exp(logit[c]);
        }
        double u = vm_rng_uniform(&rng) * z;
        while (label[i] < CHOICES - 1 && u >= exp(logit[label[i]])) u -= exp(logit[label[i]++]);
        for (int c = 0; c < CHOICES; c++) {
            logit[c] += .15 * vm_rng_normal(&noise) + (c == label[i] ? run->gain : 0);
            p[i * CHOICES + (size_t)c] = exp(logit[c] * run->sharpness);
            sum += p[i * CHOICES + (size_t)c];
        }
        for (int c = 0; c < CHOICES; c++) p[i * CHOICES + (size_t)c] /= sum;
        k[i] = CHOICES;
    }
    return (vm_predictions){.n = n, .stride = CHOICES, .p = p, .k = k, .label = label};
}

static void free_predictions(vm_predictions *d) {
    free((void *)d->p);
    free((void *)d->k);
    free((void *)d->label);
}

static json_t *interval(vm_interval i) { return json_pack("[ff]", i.low, i.high); }

static json_t *result_of(const made_run *run, const vm_predictions *d) {
    vm_metrics m;
    vm_metrics_ci ci;
    vm_ece_floor floor;
    vm_reliability_bin bins[VM_ECE_BINS];
    assert_int_equal(vm_metrics_compute(d, &m), VMOER_OK);
    assert_int_equal(vm_metrics_bootstrap(d, 200, 0, &ci), VMOER_OK);
    assert_int_equal(vm_ece_floor_compute(d, 200, 0, &floor), VMOER_OK);
    vm_reliability(d, bins);
    json_t *reliability = json_array(), *layers = json_array();
    for (int b = 0; b < VM_ECE_BINS; b++) {
        json_array_append_new(reliability, json_pack("{sf sf sI sf sf}", "low", bins[b].low, "high", bins[b].high,
                                                     "count", (json_int_t)bins[b].count, "confidence",
                                                     bins[b].confidence, "accuracy", bins[b].accuracy));
    }
    for (int l = 0; l < 30; l++) {
        double wave = sin(l * .4) * .08;
        json_array_append_new(layers,
                              json_pack("{si sf sf sf}", "layer", l, "logit_spread", .5 + wave + run->variance * .1,
                                        "margin", .12 - wave / 2 - run->variance * .02, "load_entropy", 3.0 + wave));
    }
    return json_pack("{sI sf sf sf sf sf sf s{so so so so so so} s{sf sf} so s{so}}", "n", (json_int_t)d->n, "acc",
                     m.acc, "nll", m.nll, "ece", m.ece, "mce", m.mce, "brier", m.brier, "ece_mass", m.ece_mass, "ci95",
                     "acc", interval(ci.acc), "nll", interval(ci.nll), "ece", interval(ci.ece), "mce", interval(ci.mce),
                     "brier", interval(ci.brier), "ece_mass", interval(ci.ece_mass), "ece_floor", "mean", floor.mean,
                     "p95", floor.p95, "reliability", reliability, "routing", "layers", layers);
}

static char *lines_of(const char *task, const vm_predictions *d, char *text) {
    size_t used = strlen(text);
    text = realloc(text, used + d->n * 256);
    for (size_t i = 0; i < d->n; i++) {
        json_t *p = json_array();
        for (int c = 0; c < CHOICES; c++) json_array_append_new(p, json_real(d->p[i * CHOICES + (size_t)c]));
        char id[64], hash[32];
        snprintf(id, sizeof id, "%s-%zu", task, i);
        snprintf(hash, sizeof hash, "%016zx", i * 2654435761u);
        json_t *line = json_pack("{ss ss ss si so}", "task", task, "id", id, "hash", hash, "label", d->label[i],
                                 "probabilities", p);
        char *written = vm_json_line(line);
        used += (size_t)sprintf(text + used, "%s\n", written);
        free(written);
        json_decref(line);
    }
    return text;
}

static void make_run(const made_run *run) {
    char name[512];
    json_t *results = json_object();
    char *lines = calloc(1, 1);
    const struct {
        const char *task;
        size_t n;
        double gain;
    } tasks[] = {{"openbookqa", 500, 0}, {"arc_easy", 320, -.1}, {"arc_challenge", 240, -.4}};
    for (size_t i = 0; i < 3; i++) {
        made_run here = *run;
        here.gain += tasks[i].gain;
        vm_predictions d = make_predictions(&here, tasks[i].n, 70 + i);
        json_object_set_new(results, tasks[i].task, result_of(&here, &d));
        lines = lines_of(tasks[i].task, &d, lines);
        free_predictions(&d);
    }
    bool deterministic = strcmp(run->kind, "deterministic") == 0;
    snprintf(name, sizeof name, "%s/results.json", run->folder);
    put_json(name,
             json_pack("{ss ss ss s{ss ss ss} s{ss ss} s{ss ss? so sf} s{ss ss ss ss si si sb} so}", "vmoer", "0.1.0",
                       "kind", "eval", "label", run->label, "model", "name", "smollm2-moe", "architecture",
                       "granitemoe", "fingerprint", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                       "adapter", "name", "map", "fingerprint",
                       "0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53b179c9523d0e6a", "router", "kind", run->kind,
                       "fingerprint",
                       deterministic ? NULL : "7562b682750a6f8c8c15e5bc70ea373728110db53b179c9523d0e6a0f98a330c",
                       "layers", deterministic ? json_array() : json_pack("[iii]", 3, 7, 9), "temperature", 1.0,
                       "config", "format", "cloze", "split", "test", "compute", "bf16", "inference",
                       deterministic ? "mean" : "sample", "samples", 32, "seed", 0, "oracle", 0, "results", results));
    snprintf(name, sizeof name, "%s/samples.jsonl", run->folder);
    put_file(name, lines);
    free(lines);
}

static json_t *signal_of(uint64_t seed, double shift, size_t n_id, size_t n_ood) {
    double *id = calloc(n_id, sizeof *id), *ood = calloc(n_ood, sizeof *ood), fpr[100], tpr[100];
    vm_rng rng = vm_rng_start(seed, VM_RNG_TEXT, 2);
    vm_ood m;
    vm_ood_ci ci;
    for (size_t i = 0; i < n_id; i++) id[i] = vm_rng_normal(&rng);
    for (size_t i = 0; i < n_ood; i++) ood[i] = shift + vm_rng_normal(&rng);
    assert_int_equal(vm_ood_compute(id, n_id, ood, n_ood, &m), VMOER_OK);
    assert_int_equal(vm_ood_bootstrap(id, n_id, ood, n_ood, 200, 0, &ci), VMOER_OK);
    size_t n = vm_ood_roc(id, n_id, ood, n_ood, fpr, tpr, 100);
    json_t *roc = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(roc, json_pack("[ff]", fpr[i], tpr[i]));
    free(id);
    free(ood);
    return json_pack("{sf sf sf s{so so so} so s{sf s{s[ff]}} sn}", "auroc", m.auroc, "aupr", m.aupr, "fpr95", m.fpr95,
                     "ci95", "auroc", interval(ci.auroc), "aupr", interval(ci.aupr), "fpr95", interval(ci.fpr95), "roc",
                     roc, "length_adjusted", "auroc", .625, "ci95", "auroc", .5, .75, "length_matched");
}

static void make_ood(const made_run *run) {
    char name[512];
    const struct {
        const char *set;
        size_t n;
        double shift, length;
    } sets[] = {{"arc_challenge", 240, .5, .3}, {"arc_easy", 320, .3, -.1}, {"mmlu_professional_law", 250, .9, 4}};
    json_t *results = json_object();
    for (size_t i = 0; i < 3; i++) {
        json_t *signals = json_object();
        json_object_set_new(signals, "choice_entropy",
                            signal_of(i + 100 * strlen(run->folder), sets[i].shift, 500, sets[i].n));
        json_object_set_new(signals, "vocabulary_entropy", signal_of(10 + i, sets[i].shift - .2, 500, sets[i].n));
        json_object_set_new(signals, "gate_entropy", signal_of(20 + i, .05, 500, sets[i].n));
        json_object_set_new(signals, "length", signal_of(30 + i, sets[i].length, 500, sets[i].n));
        if (run->variance > 0) {
            json_object_set_new(signals, "logit_variance",
                                signal_of(40 + i, i == 1 ? -.7 : sets[i].shift + .3, 500, sets[i].n));
            json_object_set_new(signals, "logit_variance_projected",
                                signal_of(50 + i, sets[i].shift + .2, 500, sets[i].n));
            json_object_set_new(signals, "logit_variance_last", signal_of(60 + i, sets[i].shift, 500, sets[i].n));
        }
        json_object_set_new(results, sets[i].set, json_pack("{sI so}", "n", (json_int_t)sets[i].n, "signals", signals));
    }
    snprintf(name, sizeof name, "%s/ood/results.json", run->folder);
    put_json(name, json_pack("{ss ss ss s{ss si ss} so}", "vmoer", "0.1.0", "kind", "ood", "label", run->label, "id",
                             "task", "openbookqa", "n", 500, "run", run->label, "results", results));
}

static void make_training(const char *folder, const char *kind) {
    char name[512];
    json_t *history = json_array();
    for (int step = 10; step <= 600; step += 10) {
        double ce = .9 * exp(-step / 200.0) + .25 + .04 * sin(step * 1.7);
        json_t *record =
            json_pack("{si sf sf sf sf sf sf}", "step", step, "epoch", step / 300.0, "loss",
                      ce + .01 * (3 - step / 400.0), "ce", ce, "kl", 3 - step / 400.0, "lr", 1e-4, "grad_norm", 1.0);
        if (step % 100 == 0)
            json_object_set_new(record, "heldout",
                                json_pack("{sf sf sf}", "acc", .5, "nll", 1.2 + pow(step / 100.0 - 3, 2) * .01, "ece",
                                          .1 - step * .0001));
        json_array_append_new(history, record);
    }
    snprintf(name, sizeof name, "%s/training.json", folder);
    put_json(name, json_pack("{ss ss s{sf si ss} s{s{sisi}s{sisi}} si so}", "vmoer", "0.1.0", "kind", kind, "config",
                             "learning_rate", 1e-4, "epochs", 2, "router", "vglr-fc", "trainable",
                             "layers.*.trunk.weight", "tensors", 2, "parameters", 36864, "layers.*.mean.bias",
                             "tensors", 3, "parameters", 19200, "parameters", 56064, "history", history));
}

static const made_run RUNS[] = {
    {"published/map", "published / MAP", "deterministic", 2.2, .25, 0},
    {"published/fc", "published / VGLR-FC", "vglr-fc", 1.1, .22, 1},
    {"published/mf", "published / VGLR-MF", "vglr-mf", 1.5, .24, .7},
    {"published/residual", "published / residual control", "residual", 2.15, .25, 0},
    {"nll-stopped/map", "nll-stopped / MAP", "deterministic", 1.15, .3, 0},
    {"nll-stopped/fc", "nll-stopped / VGLR-FC", "vglr-fc", 1.12, .29, 1},
};

static void make_all(void) {
    for (size_t i = 0; i < sizeof RUNS / sizeof *RUNS; i++) make_run(&RUNS[i]);
    for (size_t i = 0; i < 4; i++) make_ood(&RUNS[i]);
    make_training("published/adapter", "finetune");
    make_training("published/router-fc", "calibrate");
}

/* ---- tests ---- */

static void one_page_that_stands_alone(void **state) {
    (void)state;
    make_all();
    const char *kept = getenv("VMOER_REPORT_OUTPUT");
    char *page = report(kept ? kept : in_root("report.html"));
    check_pictures(page, 30);
    assert_int_equal(count(page, "http:") + count(page, "https:") + count(page, "src=") + count(page, "<script") +
                         count(page, "@import") + count(page, "<link"),
                     0);
    assert_non_null(strstr(page, "<title>Bayesian routing on OpenBookQA</title>"));
    assert_non_null(strstr(page, "prefers-color-scheme:dark"));
    assert_non_null(strstr(page, "@media print"));
    /* Each group has its own baseline. */
    assert_non_null(strstr(page, "<h2 id=\"group-0\">nll-stopped</h2>"));
    assert_non_null(strstr(page, "<h2 id=\"group-1\">published</h2>"));
    assert_int_equal(count(page, "deterministic, baseline"), 6); /* two groups, three tasks */
    assert_non_null(strstr(page, "The same runs away from home"));
    assert_non_null(strstr(page, "<span class=\"sub\">length taken out 0.625 [0.500, 0.750]</span>"));
    assert_null(strstr(page, ">equal lengths"));
    assert_non_null(strstr(page, "Lowest held-out NLL: 1.200 at step 300."));
    assert_non_null(strstr(page, "56064 trained parameters in 5 tensors"));
    free(page);
}

/* What the sentences say follows from the numbers. */
static void the_summary_is_honest(void **state) {
    (void)state;
    make_all();
    char *page = report(in_root("report.html"));
    const char *published = strstr(page, "<h3>published · openbookqa"),
               *stopped = strstr(page, "<h3>nll-stopped · openbookqa");
    assert_true(published && stopped && stopped < published);
    assert_true(strstr(published, "2 of 3 runs improve calibration over MAP.") < strstr(published, "</section>"));
    assert_true(strstr(stopped, "No improvement of calibration over MAP is shown.") < published);
    assert_true(strstr(stopped, "includes 0: <span class=\"tag unclear\">no improvement shown</span>") < published);
    assert_non_null(strstr(page, "<li>VGLR-FC, logit variance: clearly lower on 1 of 3 sets.</li>"));
    assert_non_null(
        strstr(page, "<li>residual control, entropy over the choices: no clear difference on any of 3 sets.</li>"));
    assert_non_null(strstr(page, "mmlu_professional_law: the questions differ much in length alone (AUROC 0.999)"));
    assert_null(strstr(page, "arc_easy: the questions differ much"));
    assert_non_null(strstr(page, ">wrong way<"));
    free(page);
}

static void same_input_same_bytes(void **state) {
    (void)state;
    make_all();
    char *first = report(in_root("report.html")), *again = report(in_root("again.html"));
    assert_string_equal(first, again);
    /* Not even where a comma is the decimal point. */
    if (setlocale(LC_ALL, "de_DE.UTF-8")) {
        char *german = report(in_root("again.html"));
        setlocale(LC_ALL, "C");
        assert_string_equal(first, german);
        free(german);
    }
    free(first);
    free(again);
}

static void text_of_files_is_escaped(void **state) {
    (void)state;
    const made_run bad[] = {{"a/map", "MAP", "deterministic", 2, .1, 0},
                            {"a/<b>&'\"", "<script>alert('1')</script> & \"co\"", "<i>kind</i>", 1, .1, 0}};
    for (size_t i = 0; i < 2; i++) {
        make_run(&bad[i]);
        make_ood(&bad[i]);
    }
    make_training("a/<img onerror=x>", "<u>");
    if (vm_report_write(root, in_root("report.html"), "<b>title</b>", NULL) != VMOER_OK)
        fail_msg("%s", vm_error_text());
    char *page = slurp(in_root("report.html"));
    assert_int_equal(count(page, "<script"), 0);
    assert_int_equal(count(page, "<i>kind"), 0);
    assert_int_equal(count(page, "<img"), 0);
    assert_int_equal(count(page, "<u>"), 0);
    assert_int_equal(count(page, "<b>title"), 0);
    assert_int_equal(count(page, "a/<b>"), 0);
    assert_true(count(page, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;co&quot;") > 10);
    assert_int_equal(count(page, "No improvement of calibration") + count(page, "Calibration improved over MAP."), 1);
    check_pictures(page, 8);
    free(page);
}

static void malformed_files_are_named(void **state) {
    (void)state;
    refuse(VMOER_ERROR_DATA, root, "no results.json");
    put_file("a/results.json", "{\"kind\": \"eval\"");
    refuse(VMOER_ERROR_FORMAT, "a/results.json", "line 1");
    put_file("a/results.json", "[]");
    refuse(VMOER_ERROR_FORMAT, "a/results.json", "an object expected");
    put_file("a/results.json", "{\"results\": {}}");
    refuse(VMOER_ERROR_FORMAT, "a/results.json", "kind: a string expected");
    put_file("a/results.json", "{\"kind\": \"eval\", \"results\": []}");
    refuse(VMOER_ERROR_FORMAT, "a/results.json", "results: an object expected");

    /* Every number of a good file in turn becomes a string. */
    const made_run run = {"a", "MAP", "deterministic", 2, .1, 0};
    make_run(&run);
    assert_int_equal(vm_report_write(root, in_root("ok.html"), NULL, NULL), VMOER_OK);
    json_t *good;
    assert_int_equal(vm_json_load(in_root("a/results.json"), &good), VMOER_OK);
    const char *const keys[] = {"n",        "acc",  "nll",       "ece",         "mce",    "brier",
                                "ece_mass", "ci95", "ece_floor", "reliability", "routing"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *bad = json_deep_copy(good);
        json_object_set_new(json_object_get(json_object_get(bad, "results"), "arc_easy"), keys[i], json_string("x"));
        put_json("a/results.json", bad);
        refuse(VMOER_ERROR_FORMAT, "a/results.json: arc_easy", keys[i]);
    }
    json_t *bad = json_deep_copy(good);
    json_object_set_new(json_object_get(bad, "router"), "kind", json_integer(1));
    put_json("a/results.json", bad);
    refuse(VMOER_ERROR_FORMAT, "a/results.json", "router.kind: a string expected");
    put_json("a/results.json", good);

    const char *line =
        "{\"task\": \"openbookqa\", \"id\": \"x\", \"hash\": \"0\", \"label\": %s, \"probabilities\": %s}\n%s";
    const struct {
        const char *label, *p, *rest, *words;
        vmoer_status status;
    } samples[] = {
        {"0", "[0.5, 0.5]", "{\"task\"", "line 2", VMOER_ERROR_FORMAT},
        {"2", "[0.5, 0.5]", "", "line 1: label", VMOER_ERROR_FORMAT},
        {"0", "[]", "", "line 1: probabilities", VMOER_ERROR_FORMAT},
        {"0", "[\"a\", 0.5]", "", "line 1: probabilities", VMOER_ERROR_FORMAT},
        {"0", "[0.5, 0.6]", "", "openbookqa: item 0: probabilities sum to 1.1", VMOER_ERROR_DATA},
        {"0", "[0.5, 0.5]",
         "{\"task\": \"openbookqa\", \"id\": \"x\", \"hash\": \"0\", \"label\": 0, \"probabilities\": [1]}\n",
         "item x 0 occurs twice", VMOER_ERROR_FORMAT},
        {"0", "[0.5, 0.5]", "\n", "line 2", VMOER_ERROR_FORMAT}};
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        char text[1024];
        snprintf(text, sizeof text, line, samples[i].label, samples[i].p, samples[i].rest);
        put_file("a/samples.jsonl", text);
        refuse(samples[i].status, "a/samples.jsonl", samples[i].words);
    }
    assert_int_equal(remove(in_root("a/samples.jsonl")), 0);

    put_file("a/training.json", "{\"kind\": \"finetune\", \"history\": [{\"step\": 1}, {\"step\": \"2\"}]}");
    refuse(VMOER_ERROR_FORMAT, "a/training.json", "history.step: a number expected");
    put_file("a/training.json", "{\"kind\": \"upcycle\", \"nats\": {}}");
    refuse(VMOER_ERROR_FORMAT, "a/training.json", "dense_nats: a number expected");
    put_file("a/training.json", "{\"kind\": \"upcycle\", \"dense_nats\": 1, \"nats\": [1]}");
    refuse(VMOER_ERROR_FORMAT, "a/training.json", "nats: an object expected");
    put_file("a/training.json", "{\"kind\": \"upcycle\", \"dense_nats\": 1, \"nats\": {\"split\": {\"learned\": 2}}}");
    refuse(VMOER_ERROR_FORMAT, "a/training.json", "split.oracle: a number expected");
    assert_int_equal(remove(in_root("a/training.json")), 0);
    make_ood(&run);
    assert_int_equal(vm_json_load(in_root("a/ood/results.json"), &bad), VMOER_OK);
    json_t *signal = json_object_get(
        json_object_get(json_object_get(json_object_get(json_object_get(bad, "results"), "arc_easy"), "signals"),
                        "length"),
        "roc");
    json_array_append_new(signal, json_integer(1));
    put_json("a/ood/results.json", json_incref(bad));
    refuse(VMOER_ERROR_FORMAT, "a/ood/results.json", "length.roc: an array of [x, y] expected");
    json_object_set_new(
        json_object_get(json_object_get(json_object_get(json_object_get(bad, "results"), "arc_challenge"), "signals"),
                        "gate_entropy"),
        "length_adjusted", json_pack("{sf}", "auroc", .5));
    put_json("a/ood/results.json", bad);
    refuse(VMOER_ERROR_FORMAT, "a/ood/results.json", "length_adjusted.ci95: an object expected");
}

/* Runs of one label over several folders, one a task, are one run; two of the same task are told apart by their
 * folders. */
static void runs_over_several_folders(void **state) {
    (void)state;
    json_t *whole, *part;
    make_run(&RUNS[0]);
    assert_int_equal(vm_json_load(in_root("published/map/results.json"), &whole), VMOER_OK);
    const char *const tasks[] = {"openbookqa", "arc_easy", "arc_challenge"};
    for (size_t i = 0; i < 3; i++) {
        char name[64];
        part = json_deep_copy(whole);
        json_t *results = json_object();
        json_object_set(results, tasks[i], json_object_get(json_object_get(whole, "results"), tasks[i]));
        json_object_set_new(part, "results", results);
        snprintf(name, sizeof name, "split/%s/results.json", tasks[i]);
        put_json(name, part);
    }
    json_decref(whole);
    assert_int_equal(remove(in_root("published/map/results.json")), 0);
    char *page = report(in_root("report.html"));
    assert_int_equal(count(page, "MAP (split"), 0);
    assert_int_equal(count(page, "There is one run only: nothing is compared."), 3);
    free(page);
    char *again = slurp(in_root("split/arc_easy/results.json"));
    put_file("published/map/results.json", again);
    free(again);
    page = report(in_root("report.html"));
    assert_true(count(page, "MAP (split/arc_easy)") > 0 && count(page, "MAP (published/map)") > 0);
    assert_int_equal(count(page, "MAP (split/openbookqa)"), 0);
    free(page);
}

/* An upcycled model: the course of the distillation, and what each stage lost. Another figure than a fine-tuning's. */
static void an_upcycled_model(void **state) {
    (void)state;
    put_file("moe/small.training.json",
             "{\"kind\": \"upcycle\", \"config\": {\"experts\": 32}, \"dense_nats\": 4.39, "
             "\"nats\": {\"distilled\": {\"learned\": 4.6, \"oracle\": 4.5, \"random\": 6.25}, "
             "\"split\": {\"learned\": 5.5, \"oracle\": 5.25, \"random\": 7}}, "
             "\"history\": [{\"step\": 5, \"loss\": 0.75, \"ce\": 0.75, \"kl\": 0, "
             "\"heldout\": {\"acc\": 0.3, \"nll\": 1.4, \"ece\": 0.1, \"n\": 3, \"divergence\": 0.875}}, "
             "{\"step\": 10, \"loss\": 0.5, \"ce\": 0.5, \"kl\": 0, "
             "\"heldout\": {\"acc\": 0.3, \"nll\": 1.3, \"ece\": 0.1, \"n\": 3, \"divergence\": 0.625}}]}");
    char *page = report(in_root("report.html"));
    check_pictures(page, 1);
    assert_int_equal(count(page, "<svg"), 1);
    assert_non_null(strstr(page,
                           "<desc id=\"d1\">nats a token against step. held-out divergence: from 0.875 at 5.00 to "
                           "0.625 at 10.00. loss: from 0.750 at 5.00 to 0.500 at 10.00.</desc>"));
    assert_int_equal(count(page, "Held-out NLL") + count(page, "Lowest held-out NLL"), 0);
    const char *dense = strstr(page, "<td>4.390</td><td>–</td><td>–</td></tr>"),
               *split = strstr(page, ">Split</th><td>5.500</td><td>5.250</td><td>7.000</td></tr>"),
               *distilled = strstr(page, ">Distilled</th><td>4.600</td><td>4.500</td><td>6.250</td></tr>");
    assert_true(dense && split && distilled && dense < split && split < distilled);
    assert_int_equal(count(page, "experts</th><td>32"), 1);
    assert_non_null(strstr(page, "moe/small"));
    assert_null(strstr(page, "moe/small.training.json"));
    free(page);

    /* A split that was not distilled has no course. */
    put_file("moe/small.training.json",
             "{\"kind\": \"upcycle\", \"config\": {}, \"dense_nats\": 4.39, "
             "\"nats\": {\"split\": {\"learned\": 5.5, \"oracle\": 5.25, \"random\": 7}}, \"history\": []}");
    page = report(in_root("report.html"));
    assert_int_equal(count(page, "<svg"), 0);
    assert_int_equal(count(page, ">Split</th><td>5.500"), 1);
    assert_int_equal(count(page, ">Distilled</th>") + count(page, "No history was recorded."), 0);
    free(page);
}

/* What cannot be shown is said on the page, not passed over. */
static void what_is_left_out_is_told(void **state) {
    (void)state;
    const made_run run = {"a", "only", "vglr-fc", 2, .1, 0};
    make_run(&run);
    put_file("b/samples.jsonl", "");
    put_file("c/results.json", "{\"kind\": \"astrology\"}");
    put_file("d/training.json", "{\"kind\": \"finetune\", \"history\": []}");
    put_file("a/1/2/3/4/5/6/7/too-deep/results.json", "not read");
    put_file("a/.training.json", "not read");
    put_file("a/xtraining.json", "not read");
    put_file("a/x.training.json/nothing", "not read");
    put_file(".hidden/results.json", "not read");
    char lines[2048];
    snprintf(lines, sizeof lines,
             "{\"task\": \"openbookqa\", \"id\": \"x\", \"hash\": \"0\", \"label\": 0, \"probabilities\": [1]}\n");
    put_file("a/samples.jsonl", lines); /* one item where results.json speaks of 500 */
    char *page = report(in_root("report.html"));
    assert_non_null(strstr(page, "b has samples but no results yet"));
    assert_non_null(strstr(page, "c holds results of the kind &quot;astrology&quot;"));
    assert_non_null(strstr(page, "a: samples.jsonl and results.json disagree about openbookqa"));
    assert_non_null(strstr(page, "There is no deterministic run to compare with."));
    assert_non_null(strstr(page, "No history was recorded."));
    free(page);
}

static void too_many_runs(void **state) {
    (void)state;
    char name[64], words[64];
    snprintf(words, sizeof words, "more than %d results", VM_REPORT_MAX_RUNS);
    for (int i = 0; i <= VM_REPORT_MAX_RUNS; i++) {
        snprintf(name, sizeof name, "%04d/training.json", i);
        put_file(name, "{\"kind\": \"finetune\", \"history\": []}");
    }
    refuse(VMOER_ERROR_LIMIT, root, words);
    /* In one folder too. */
    for (int i = 0; i <= VM_REPORT_MAX_RUNS; i++) {
        snprintf(name, sizeof name, "%04d/training.json", i);
        assert_int_equal(remove(in_root(name)), 0);
        snprintf(name, sizeof name, "moe/%04d.training.json", i);
        put_file(name, "{\"kind\": \"upcycle\"}");
    }
    refuse(VMOER_ERROR_LIMIT, root, words);
}

static int stop_at_compare(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    (void)user, (void)done, (void)total, (void)note;
    return strcmp(stage, "compare") == 0;
}

static void can_be_stopped(void **state) {
    (void)state;
    make_run(&RUNS[0]);
    vmoer_hooks hooks = {.progress = stop_at_compare};
    assert_int_equal(vm_report_write(root, in_root("report.html"), NULL, &hooks), VMOER_ERROR_INTERRUPTED);
    assert_false(vm_file_exists(in_root("report.html")));
}

static void same_text(vm_text *t, const char *expected) {
    assert_false(t->failed);
    assert_int_equal(t->size, strlen(expected));
    assert_memory_equal(t->data, expected, t->size);
    vm_text_free(t);
}

static void numbers_and_text(void **state) {
    (void)state;
    vm_text t = {0};
    vm_text_put(&t, "%0 %1 %3 %n3 %+2 %+1 %2 %d %u %%", 2.5, -.04, -.0625, -.0625, .5, -.25, 1e300, -7, (size_t)42);
    same_text(&t, "3 0.0 -0.063 \xe2\x88\x92"
                  "0.063 +0.50 \xe2\x88\x92"
                  "0.3 \xe2\x88\x9e -7 42 %");
    vm_text_put(&t, "%g %g %g %g %g %g %g", 0.0, 1e-4, 3e-7, 1234567.0, -.5, 1.0 / 3, 2e15);
    same_text(&t, "0 0.0001 3e-7 1234567 -0.5 0.333333 2e15");
    vm_text_put(&t, "%t|%s", "a<b>&\x01\xff\xc3\xa4\xe2\x82", "<i>");
    same_text(&t, "a&lt;b&gt;&amp;\xef\xbf\xbd\xef\xbf\xbd\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd|<i>");
    vm_text_short(&t, "\xc3\xa4\xc3\xb6\xc3\xbc<", 4);
    vm_text_short(&t, "\xc3\xa4\xc3\xb6\xc3\xbc<>", 4);
    same_text(&t, "\xc3\xa4\xc3\xb6\xc3\xbc&lt;\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x80\xa6");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_page_that_stands_alone, make_root, remove_root),
        cmocka_unit_test_setup_teardown(the_summary_is_honest, make_root, remove_root),
        cmocka_unit_test_setup_teardown(same_input_same_bytes, make_root, remove_root),
        cmocka_unit_test_setup_teardown(text_of_files_is_escaped, make_root, remove_root),
        cmocka_unit_test_setup_teardown(malformed_files_are_named, make_root, remove_root),
        cmocka_unit_test_setup_teardown(runs_over_several_folders, make_root, remove_root),
        cmocka_unit_test_setup_teardown(an_upcycled_model, make_root, remove_root),
        cmocka_unit_test_setup_teardown(what_is_left_out_is_told, make_root, remove_root),
        cmocka_unit_test_setup_teardown(too_many_runs, make_root, remove_root),
        cmocka_unit_test_setup_teardown(can_be_stopped, make_root, remove_root),
        cmocka_unit_test(numbers_and_text),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
