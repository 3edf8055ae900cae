/* test_report_experiment.c: what `vmoer reproduce`, `stability`, `cost` and `conformal` write becomes tables and
 * figures; bad files are refused by name. VMOER_REPORT_EXPERIMENT=page.html keeps the page of the experiment to look
 * at, VMOER_REPORT_MEASURES=page.html that of the single runs,
 * VMOER_REPORT_SETS=page.html that of answer sets. */
#include "report_fixture.h"

#include "base/rng.h"
#include "eval/metrics.h"
#include "report/collect.h"

#include <math.h>

static const char *const ROUTERS[] = {"map",     "temperature",   "residual",   "weights",    "vglr-noise", "vglr-fc",
                                      "vglr-mf", "vglr-lr",       "vtsr",       "vtsr-paper", "isotropic",  "fixed-t",
                                      "roe",     "expert-sample", "mc-dropout", "swag",       "ensemble"};
static const char *const TASKS[] = {"openbookqa", "arc_easy", "arc_challenge"}, *const MAPS[] = {"published", "nll"};
static const char *const SETS[] = {"arc_easy", "arc_challenge", "medmcqa", "mmlu_professional_law"};
enum { N_ROUTERS = sizeof ROUTERS / sizeof *ROUTERS };

static json_t *figure(double mean, double half) {
    return json_pack("{sf s[ff]}", "mean", mean, "ci95", mean - half, mean + half);
}

static json_t *bins_of(double over) {
    json_t *bins = json_array();
    for (int b = 0; b < VM_ECE_BINS; b++) {
        double middle = (b + .5) / VM_ECE_BINS;
        json_array_append_new(bins, json_pack("{sf sf si sf sf}", "low", b / 15., "high", (b + 1) / 15., "count",
                                              b < 3 ? 0 : 200 - 12 * b, "confidence", middle, "accuracy",
                                              fmax(middle - over * middle, 0)));
    }
    return bins;
}

/* Against each of three: the difference and its interval; nothing against itself. */
static json_t *versus_of(const char *router, double gain) {
    static const char *const AGAINST[] = {"map", "temperature", "residual"};
    json_t *versus = json_object();
    for (int v = 0; v < 3; v++) {
        if (strcmp(router, AGAINST[v]) == 0) continue;
        double ece = v == 1 ? .02 : -gain, nll = -gain / 2 + .02 * v;
        json_object_set_new(versus, AGAINST[v],
                            json_pack("{s[fff] s[fff] s[fff]}", "acc", .01, -.01, .03, "nll", nll, nll - .04, nll + .04,
                                      "ece", ece, ece - .03, ece + .03));
    }
    return versus;
}

static json_t *history_of(size_t seed, bool router) {
    json_t *history = json_array();
    for (int step = 10; step <= 600; step += 10) {
        double ce = .9 * exp(-step / 150.) + .1 + .03 * sin(step * 1.7 + (double)seed);
        json_t *record = json_pack("{si sf sf sf}", "step", step, "loss", ce, "ce", ce, "kl", router ? 3. : 0.);
        if (step % 50 == 0)
            json_object_set_new(record, "heldout",
                                json_pack("{sf sf sf}", "acc", .5, "nll",
                                          1.2 + pow(step / 100. - 2, 2) * .015 + .01 * (double)seed, "ece",
                                          .04 + step * .0003 + .005 * (double)seed));
        json_array_append_new(history, record);
    }
    return history;
}

/* Whole, in every part; the numbers are made up. */
static json_t *make_experiment(void) {
    json_t *maps = json_array(), *calibration = json_array(), *ood = json_array(), *stability = json_array(),
           *cost = json_array(), *alive = json_array();
    vm_rng rng = vm_rng_start(5, VM_RNG_TEXT, 0);
    for (size_t m = 0; m < 2; m++) {
        for (size_t t = 0; t < 3; t++) {
            for (int seed = 0; seed < 3; seed++)
                json_array_append_new(maps,
                                      json_pack("{ss si ss ss so}", "task", TASKS[t], "seed", seed, "kind", MAPS[m],
                                                "path", "maps/x", "history", history_of((size_t)seed, false)));
        }
        for (size_t i = 0; i < N_ROUTERS; i++) {
            const char *router = ROUTERS[i];
            bool gaussian = strncmp(router, "vglr", 4) == 0;
            double gain = gaussian ? .06 : i == 1 ? .1 : .005 * (double)i, base = m == 0 ? .16 : .09;
            for (size_t t = 0; t < 3; t++) {
                double ece = fmax(base - gain + .01 * vm_rng_normal(&rng), .03);
                json_array_append_new(calibration,
                                      json_pack("{ss ss ss si si so so so so so s{sf sf} sf sb so so}", "task",
                                                TASKS[t], "map", MAPS[m], "router", router, "n", 500, "seeds", 3, "acc",
                                                figure(.46 + .01 * (double)t, .04), "nll", figure(1.3, .05), "ece",
                                                figure(ece, .03), "mce", figure(.3, .1), "brier", figure(.65, .03),
                                                "ece_floor", "mean", .045, "p95", .065, "excess_ece", ece - .045,
                                                "at_floor", ece < .065, "versus", versus_of(router, gain),
                                                "reliability", bins_of(ece * 2)));
            }
            for (size_t s = 0; s < 4; s++) {
                static const char *const SIGNALS[] = {"choice_entropy", "vocabulary_entropy", "gate_entropy",
                                                      "length",         "mutual_information", "logit_variance"};
                for (size_t k = 0; k < (gaussian ? 6 : 4); k++) {
                    double auroc = k == 3 ? .4 + .18 * (double)s : k == 5 ? .4 - .1 * (double)s : .58 + .05 * (double)s;
                    auroc = fmin(auroc + .01 * vm_rng_normal(&rng), .99);
                    json_array_append_new(ood, json_pack("{ss ss ss si ss so so so}", "map", MAPS[m], "router", router,
                                                         "set", SETS[s], "n", 500, "signal", SIGNALS[k], "auroc",
                                                         figure(auroc, .03), "aupr", figure(.6, .05), "fpr95",
                                                         figure(.8, .05)));
                }
            }
            if (i == 1) continue; /* the temperature routes as MAP does */
            for (int s = 0; s < 3; s++) {
                double sigma = pow(10, s - 2), kept = (gaussian ? .97 : .9) - .12 * s;
                json_t *layers = json_array();
                for (int l = 0; l < 30; l++)
                    json_array_append_new(layers, json_pack("{si sf sf}", "layer", l, "isolated",
                                                            fmin(kept + .05 * sin(l * .6 + (double)i), 1),
                                                            "load_entropy", 3.2 - .02 * l));
                json_array_append_new(
                    stability, json_pack("{ss ss sf sb s{sf} sf s{sf} sf sf sf so}", "map", MAPS[m], "router", router,
                                         "sigma", sigma, "relative", 1, "isolated", "mean", kept, "isolated_shared",
                                         kept + .02, "propagated", "mean", kept - .1, "chance_corrected", kept - .05,
                                         "load_entropy", 3.1, "between_tokens", .45, "layers", layers));
            }
            if (i < 2) continue;
            bool dead = i == 2 || (m == 1 && i == 5); /* Residual, which draws nothing, and VGLR-FC */
            json_array_append_new(alive, json_pack("{ss ss sf sf so so}", "map", MAPS[m], "router", router,
                                                   "flipped_layers", dead ? 0. : 1., "flip_rate", dead ? 0. : .3,
                                                   "scale_variation", gaussian ? json_real(.2) : json_null(),
                                                   "off_diagonal", gaussian ? json_real(.1) : json_null()));
        }
    }
    for (size_t i = 1; i < N_ROUTERS; i++) {
        for (int all = 0; all < 2; all++)
            json_array_append_new(
                cost, json_pack("{ss ss si si sf sf sf si}", "router", ROUTERS[i], "layers", all ? "all" : "chosen",
                                "n_layers", all ? 30 : 10, "parameters", (int)(i * 12345 * (size_t)(all ? 3 : 1)),
                                "flops_token", 1e5 * (double)i, "flops_share", .001 * (double)i * (all ? 3 : 1),
                                "flops_counted_share", .0011 * (double)i, "workspace_bytes", (int)(i * 65536)));
    }
    json_t *sets = json_array();
    for (size_t i = 0; i < N_ROUTERS; i++)
        json_array_append_new(sets, json_pack("{ss ss sf s{s{sf sf} s{sf sf}} s{s{sf sf}}}", "map", MAPS[0], "router",
                                              ROUTERS[N_ROUTERS - 1 - i], "alpha", .1, "halves", "lac", "coverage",
                                              .901, "size", 2.5, "aps", "coverage", .902, "size", 2.75, "shift", "lac",
                                              "coverage", .85, "size", 2.25));
    return json_pack(
        "{ss ss ss s{si ss} so so so so so so so s[{ss ss sf s[ff] sb ss} {ss ss sf s[ff] sb ss} {ss ss sn sn sn ss}]}",
        "vmoer", "0.1.0", "kind", "reproduce", "model", "smollm2-moe", "config", "seeds", 3, "split", "test", "maps",
        maps, "calibration", calibration, "ood", ood, "stability", stability, "cost", cost, "alive", alive, "conformal",
        sets, "goals", "name", "ECE of VGLR-FC against MAP", "goal", "-94% or at the floor", "value", -.38, "ci95", -.6,
        -.1, "holds", 0, "router", "vglr-fc", "name", "Accuracy kept", "goal", "not lower", "value", .01, "ci95", -.01,
        .03, "holds", 1, "router", "vglr-fc", "name", "Mean AUROC", "goal", "+12%", "value", "ci95", "holds", "router",
        "vtsr");
}

static json_t *make_stability(const char *label, const char *router, double kept) {
    json_t *sigmas = json_array();
    for (int s = 0; s < 2; s++) {
        json_t *layers = json_array();
        for (int l = 0; l < 6; l++)
            json_array_append_new(layers, json_pack("{si sf sf sf sf sf sf}", "layer", l, "isolated", kept - .1 * s,
                                                    "isolated_shared", kept, "isolated_chance_corrected", kept - .2,
                                                    "propagated", kept - .1, "load_entropy", 3. - .1 * l,
                                                    "between_tokens", .4));
        json_array_append_new(sigmas, json_pack("{sf sb so s{sf sf sf sf sf sf} s{sf}}", "sigma", s ? .1 : .01,
                                                "relative", s == 0, "layers", layers, "mean", "isolated", kept - .1 * s,
                                                "isolated_shared", kept, "isolated_chance_corrected", kept - .2,
                                                "propagated", kept - .1, "load_entropy", 2.75, "between_tokens", .4,
                                                "mean_bayesian", "isolated", kept - .15));
    }
    return json_pack("{ss ss ss s{ss} s{so sf s{sf sf} s{sf sf sf sn}}}", "vmoer", "0.1.0", "kind", "stability",
                     "label", label, "router", "kind", router, "results", "sigmas", sigmas, "chance", .34, "sigma_at",
                     "jaccard", .53, "sigma", .01, "alive", "flipped_layers", .5, "flip_rate", .125, "scale_variation",
                     .25, "off_diagonal");
}

static json_t *make_sets(double coverage, double size, json_t *more) {
    json_t *sets = json_pack("{sf sf s[fffff]}", "coverage", coverage, "size", size, "sizes", .0, .25, .25, .25, .25);
    json_object_update(sets, more);
    json_decref(more);
    return sets;
}

static json_t *make_test(bool shift) {
    json_t *test = json_pack("{si si s{sf s[ff] s{s[ff]}}}", "n_calibration", 250, "n_test", 250, "theory", "coverage",
                             .9, "beta", .86, .93, "ci95", "coverage", .84, .95);
    static const char *const ways[] = {"lac", "aps"};
    for (int way = 0; way < 2; way++)
        json_object_set_new(
            test, ways[way],
            shift ? make_sets(way ? .91 : .75, 2.5, json_pack("{sf sb}", "quantile", .8, "inside", way))
                  : make_sets(.9, 2.75, json_pack("{s{s[ff]} sf}", "ci95", "coverage", .85, .94, "inside", .95)));
    if (shift) {
        json_object_set_new(test, "run", json_string("held-out"));
        json_object_set_new(test, "split", json_string("heldout"));
        json_object_set_new(
            test, "abstention",
            json_pack("[{sf sn sf sn}]", "accuracy", .8, "confidence", "coverage", 0., "selective_accuracy"));
    }
    return test;
}

static json_t *make_conformal(const char *label, bool shift) {
    return json_pack("{ss ss ss s{sf} s{s{si so s{sf sf} so s[{sf sf sf sf}] s[[ff] [ff]] sf}}}", "vmoer", "0.1.0",
                     "kind", "conformal", "label", label, "config", "alpha", .1, "results", "openbookqa", "n", 500,
                     "halves", make_test(false), "quantile", "lac", .8, "aps", .9, "shift",
                     shift ? make_test(true) : json_null(), "abstention", "accuracy", .8, "confidence", .82, "coverage",
                     .28, "selective_accuracy", .81, "risk_coverage", .5, .2, 1., .5, "aurc", .28);
}

typedef struct bad_value {
    const char *list, *key;
    json_t *value;
    const char *words;
} bad_value;

static void check_alone(const char *page) {
    assert_int_equal(count(page, "http:") + count(page, "https:") + count(page, "src=") + count(page, "<script") +
                         count(page, "@import") + count(page, "<link"),
                     0);
    assert_int_equal(count(page, "<details"), count(page, "</details>"));
    assert_int_equal(count(page, "<table"), count(page, "</table>"));
}

static void an_experiment_leads(void **state) {
    (void)state;
    put_json("results.json", make_experiment());
    put_json("stability/vglr-fc/results.json", make_stability("published / VGLR-FC", "vglr-fc", .9));
    put_json("routers/vglr-fc/training.json", json_pack("{ss s{ss} so}", "kind", "calibrate", "config", "router",
                                                        "vglr-fc", "history", history_of(0, true)));
    const char *kept = getenv("VMOER_REPORT_EXPERIMENT");
    char *page = report(kept ? kept : in_root("report.html"));
    check_alone(page);
    check_pictures(page, 30);
    /* Goals: reached, missed and not measured are told apart in words. */
    assert_non_null(strstr(page, "VGLR-FC: 1 of 2 goals reached.</p>"));
    assert_non_null(
        strstr(page, "<b>−38.0%</b><span class=\"sub\">[−60.0, −10.0]</span></td><td>-94% or at the floor"));
    assert_non_null(strstr(page, "<b>+0.010</b><span class=\"sub\">[−0.010, 0.030]</span></td><td>not lower</td>"));
    assert_int_equal(count(page, "✓ reached"), 1);
    assert_int_equal(count(page, "✗ missed"), 1);
    assert_int_equal(count(page, ">not measured<"), 1);
    /* What is said of a router follows from its intervals. */
    const char *said = strstr(page, "<h3>Calibration error</h3>"), *fc = said ? strstr(said, ">VGLR-FC</th>") : NULL;
    assert_non_null(fc);
    assert_true(strstr(fc, "<td class=\"first\"><span class=\"tag better\">✓ −0.060</span><span class=\"sub\">[−0.090, "
                           "−0.030]</span>") == fc + strlen(">VGLR-FC</th>"));
    assert_true(strstr(fc, "beyond residual") < strstr(fc, "</tr>") && strstr(fc, "beyond temperature") == NULL);
    const char *residual = strstr(said, ">Residual</th>");
    assert_true(strstr(residual, "<span class=\"tag unclear\">−0.010</span>") < strstr(residual, "</tr>"));
    /* Routers stand in the page's order, the MAPs beside each other. */
    assert_non_null(strstr(page,
                           "<th class=\"first\" colspan=\"4\">published MAP</th><th class=\"first\" colspan=\"4\">"
                           "NLL-stopped MAP</th>"));
    assert_int_equal(count(page, "<h4>Paired differences"), 6);
    /* Relative to MAP at the same sigma. */
    assert_non_null(strstr(page, "<td>+7.8%</td>")); /* .97 / .9 */
    assert_int_equal(count(page, "its noise decides nothing"), 1);
    assert_int_equal(count(page, "every draw chooses the same"), 2);
    assert_non_null(strstr(page, "≤ length"));
    assert_int_equal(count(page,
                           "<td class=\"first\">90.1%</td><td><b>2.50</b></td><td>90.2%</td><td><b>2.75</b></td><td "
                           "class=\"first\">85.0%</td><td><b>2.25</b></td><td>–</td><td>–</td></tr>"),
                     N_ROUTERS);
    /* The single runs are folded, after everything else. */
    const char *runs = strstr(page, "<h2 id=\"runs\">");
    assert_true(runs > strstr(page, "<h2 id=\"maps-0\">") && strstr(page, "routers/vglr-fc") > runs);
    assert_true(strstr(page, "<h2 id=\"stability-0\">") > runs && strstr(page, "<h2 id=\"stability-1\">") < runs);
    free(page);
}

static void a_measurement_by_itself(void **state) {
    (void)state;
    put_json("map/results.json", make_stability("MAP", "deterministic", .75));
    put_json("fc/results.json", make_stability("VGLR-FC", "vglr-fc", .9));
    const char *kept = getenv("VMOER_REPORT_MEASURES");
    char *page = report(kept ? kept : in_root("report.html"));
    check_alone(page);
    check_pictures(page, 3);
    assert_non_null(
        strstr(page, "The folder holds measurements of routers, no answers: nothing has been evaluated yet."));
    assert_non_null(strstr(page, "<td><b>0.900</b><span class=\"sub\">its layers: 0.750</span></td><td>+20.0%</td>"));
    assert_non_null(strstr(page, "Two random choices share 0.340."));
    assert_int_equal(count(page, "where MAP's own router falls to 0.53</th>"), 1); /* at the sigma of sigma_at alone */
    assert_non_null(strstr(page, "<td>50.0%</td><td>12.5%</td><td>0.250</td><td>–</td>"));
    assert_non_null(strstr(page, "Expert load by layer, sigma 0.01 of the input's root mean square"));
    free(page);
}

static void answer_sets(void **state) {
    (void)state;
    put_json("map/results.json", make_conformal("MAP", false));
    put_json("fc/results.json", make_conformal("VGLR-FC", true));
    const char *kept = getenv("VMOER_REPORT_SETS");
    if (kept) free(report(kept));
    char *page = report(in_root("report.html"));
    check_alone(page);
    check_pictures(page, 3);
    assert_int_equal(count(page, "<svg"), 3); /* sizes of both ways, risk and coverage */
    /* Of halves and of a shift in tables apart; the shift of one run only. */
    const char *shift = strstr(page, "<h4>From other questions to these</h4>");
    assert_non_null(shift);
    assert_int_equal(count(page, "<td>90.0%</td><td><b>90.0%</b><span class=\"sub\">[85.0, 94.0]</span></td>"), 4);
    assert_int_equal(count(shift, "<td>90.0%</td><td><b>90.0%</b>"), 0);
    assert_int_equal(count(shift, "<td>90.0%</td><td><b>75.0%</b></td>"), 1);
    assert_int_equal(count(page, "✗ the questions differ"), 1);
    assert_int_equal(count(page, "✓ as without a shift"), 1);
    assert_int_equal(
        count(page, "80% right: answer from a confidence of 0.82 on, that is 28.0% of the questions; 81.0%"), 2);
    assert_int_equal(count(page, "80% right: no threshold reaches that"), 1);
    free(page);

    const bad_value bad[] = {{"", "n", json_string("x"), "openbookqa.n: a count expected"},
                             {"", "halves", json_null(), "halves: an object expected"},
                             {"", "risk_coverage", json_pack("[i]", 1), "openbookqa.risk_coverage: an array of [x, y]"},
                             {"", "abstention", json_pack("[{}]"), "abstention[0].accuracy: a number expected"},
                             {"shift", "run", json_null(), "shift.run: a string expected"},
                             {"shift", "theory", json_null(), "shift.theory: an object expected"},
                             {"halves", "lac", json_null(), "halves.lac: an object expected"},
                             {"halves", "aps", json_pack("{sf sf sb}", "coverage", .9, "size", 2., "inside", 1),
                              "aps.sizes: an array of shares"},
                             {"halves", "aps",
                              json_pack("{sf sf sb s[s]}", "coverage", .9, "size", 2., "inside", 1, "sizes", "x"),
                              "aps.sizes: numbers expected"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *one = make_conformal("x", true), *task = json_object_get(json_object_get(one, "results"), "openbookqa");
        json_object_set_new(*bad[i].list ? json_object_get(task, bad[i].list) : task, bad[i].key, bad[i].value);
        put_json("map/results.json", one);
        assert_int_equal(remove(in_root("report.html")), i == 0 ? 0 : -1);
        refuse(VMOER_ERROR_FORMAT, "map/results.json: ", bad[i].words);
    }
}

static void a_price(void **state) {
    (void)state;
    const char *good =
        "{\"kind\": \"cost\", \"label\": \"x\", \"router\": {\"kind\": \"vglr-fc\"}, \"results\": "
        "{\"deterministic\": {}, \"chosen\": {\"n_layers\": 10, \"parameters\": 733280, \"flops_token\": "
        "1500000, \"flops_share\": 0.004, \"flops_counted_share\": 0.005, \"workspace_bytes\": 131072}, "
        "\"all\": {\"n_layers\": 30, \"flops_share\": 0.012}}}";
    put_file("fc/results.json", good);
    char *page = report(in_root("report.html"));
    assert_non_null(strstr(page,
                           ">VGLR-FC<span class=\"sub\">fc</span></th><td>10<span class=\"sub\">chosen</span></td><td>"
                           "733.3 k</td><td>1500.0 k</td><td><b>0.40%</b> <span class=\"tag better\">below 1%</span>"
                           "</td><td><b>0.50%</b></td><td>128.0 KiB</td>"));
    assert_non_null(strstr(page, "<b>1.20%</b> <span class=\"tag worse\">1% or more</span></td><td>–</td><td>–</td>"));
    free(page);
    assert_int_equal(remove(in_root("report.html")), 0);
    put_file("fc/results.json", "{\"kind\": \"cost\", \"router\": {\"kind\": \"x\"}, \"results\": {\"chosen\": 1}}");
    refuse(VMOER_ERROR_FORMAT, "fc/results.json: ", "results.chosen: an object expected");
}

/* A number fitted without training: its trials in the order of its values. */
static void fitted_numbers(void **state) {
    (void)state;
    put_file("iso/training.json", "{\"kind\": \"calibrate\", \"history\": [{\"step\": 1, \"heldout\": {\"nll\": 1.25, "
                                  "\"ece\": 0.1}}], \"trials\": ["
                                  "{\"noise\": 0.1, \"heldout\": {\"nll\": 1.25, \"ece\": 0.1}}, {\"noise\": 10, "
                                  "\"heldout\": {\"nll\": 1.5, \"ece\": "
                                  "0.05}}, {\"noise\": 1, \"heldout\": {\"nll\": 1.125, \"ece\": 0.075}}]}");
    char *page = report(in_root("report.html"));
    check_pictures(page, 2);
    assert_int_equal(count(page, "<svg"), 2);
    assert_non_null(
        strstr(page, "3 values of the noise of the scores tried; the lowest held-out NLL, 1.125, at 1.</p>"));
    assert_non_null(strstr(page, "held-out NLL: from 1.250 at 0.10 to 1.500 at 10.00."));
    free(page);
    assert_int_equal(remove(in_root("report.html")), 0);
    put_file("iso/training.json", "{\"kind\": \"calibrate\", \"trials\": [{\"depth\": 3}]}");
    refuse(VMOER_ERROR_FORMAT, "iso/training.json: ", "trials[0]: noise, route_temperature or temperature expected");
    put_file("iso/training.json", "{\"kind\": \"calibrate\", \"trials\": [{\"noise\": 3}]}");
    refuse(VMOER_ERROR_FORMAT, "iso/training.json: ", "trials[0].heldout: an object expected");
}

/* What is not there is left out, not invented. */
static void an_experiment_cut_short(void **state) {
    (void)state;
    put_file("results.json",
             "{\"kind\": \"reproduce\", \"maps\": [{\"task\": \"x\", \"kind\": \"other\", \"seed\": 0}]}");
    char *page = report(in_root("report.html"));
    check_alone(page);
    assert_non_null(strstr(page, "No router has been evaluated yet."));
    assert_int_equal(count(page, "<svg") + count(page, "id=\"cost-") + count(page, "id=\"aurocs-"), 0);
    free(page);
}

static void hostile_files_are_named(void **state) {
    (void)state;
    json_t *good = make_experiment();
    const bad_value bad[] = {
        {"calibration", "task", json_integer(1), "calibration[2].task: a string expected"},
        {"calibration", "n", json_integer(-1), "calibration[2].n: a count expected"},
        {"calibration", "ece", json_string("x"), "calibration[2].ece: a number or"},
        {"calibration", "acc", json_pack("{sf si}", "mean", .5, "ci95", 1), "calibration[2].acc.ci95"},
        {"calibration", "at_floor", json_integer(1), "calibration[2].at_floor: true or false"},
        {"calibration", "ece_floor", json_null(), "calibration[2].ece_floor: an object expected"},
        {"calibration", "reliability", json_array(), "calibration[2].reliability: an array of 15"},
        {"calibration", "versus", json_integer(1), "calibration[2].versus: an object expected"},
        {"calibration", "versus", json_pack("{s{s[ff]}}", "map", "ece", .1, .2),
         "calibration[2].map: [difference, low, high]"},
        {"ood", "auroc", json_true(), "ood[2].auroc: a number or"},
        {"ood", "signal", json_null(), "ood[2].signal: a string expected"},
        {"stability", "relative", json_null(), "stability[2].relative: true or false expected"},
        {"stability", "sigma", json_null(), "stability[2].sigma: a number expected"},
        {"stability", "layers", json_integer(3), "layers: an array expected"},
        {"stability", "layers", json_pack("[i]", 3), "layers[0]: an object expected"},
        {"cost", "n_layers", json_real(.5), "cost[2].n_layers: a count expected"},
        {"conformal", "alpha", json_null(), "conformal[2].alpha: a number expected"},
        {"alive", "flip_rate", json_string(""), "alive[2].flip_rate: a number expected"},
        {"goals", "goal", json_integer(3), "goals[2].goal: a string expected"},
        {"goals", "router", json_integer(1), "goals[2].router: a string expected"},
        {"goals", "holds", json_string("yes"), "goals[2].holds: true, false or null expected"},
        {"maps", "history", json_integer(3), "maps[2].history: an array expected"},
        {"maps", "seed", json_string("0"), "maps[2].seed: a count expected"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *whole = json_deep_copy(good);
        json_object_set_new(json_array_get(json_object_get(whole, bad[i].list), 2), bad[i].key, bad[i].value);
        put_json("results.json", whole);
        refuse(VMOER_ERROR_FORMAT, "/results.json: ", bad[i].words);
    }
    /* Lists. */
    const char *const lists[] = {"maps", "calibration", "ood", "stability", "cost", "alive", "conformal", "goals"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char words[64];
        json_t *whole = json_deep_copy(good);
        json_object_set_new(whole, lists[i], json_object());
        put_json("results.json", whole);
        snprintf(words, sizeof words, "%s: an array expected", lists[i]);
        refuse(VMOER_ERROR_FORMAT, "/results.json: ", words);
        json_t *many = json_array();
        for (int k = 0; k <= 8000; k++) json_array_append_new(many, json_object());
        whole = json_deep_copy(good);
        json_object_set_new(whole, lists[i], many);
        put_json("results.json", whole);
        snprintf(words, sizeof words, "%s: more than 8000 entries", lists[i]);
        refuse(VMOER_ERROR_LIMIT, "/results.json: ", words);
    }
    /* One figure twice, and too many names. */
    json_t *whole = json_deep_copy(good), *rows = json_object_get(whole, "calibration");
    json_array_append(rows, json_array_get(rows, 4));
    put_json("results.json", whole);
    refuse(VMOER_ERROR_FORMAT, "/results.json: ", "calibration: two entries of arc_easy, published, temperature");
    whole = json_deep_copy(good);
    rows = json_object_get(whole, "ood");
    json_array_append(rows, json_array_get(rows, 0));
    put_json("results.json", whole);
    refuse(VMOER_ERROR_FORMAT, "/results.json: ", "ood: two entries of published, map, arc_easy, choice_entropy");
    whole = json_deep_copy(good);
    rows = json_object_get(whole, "ood");
    for (int i = 0; i < 80; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        json_object_set_new(json_array_get(rows, (size_t)i), "signal", json_string(name));
    }
    put_json("results.json", whole);
    refuse(VMOER_ERROR_LIMIT, "/results.json: ", "more than 64 names of its kind");
    json_decref(good);
    put_file("results.json", "{\"kind\": \"reproduce\", \"model\": 3}");
    refuse(VMOER_ERROR_FORMAT, "/results.json: ", "model: a string expected");

    put_file("results.json",
             "{\"kind\": \"stability\", \"label\": \"x\", \"router\": {\"kind\": \"y\"}, \"results\": 1}");
    refuse(VMOER_ERROR_FORMAT, "/results.json: ", "results: an object expected");
    const bad_value measured[] = {
        {"", "sigmas", json_integer(1), "sigmas: an array expected"},
        {"", "chance", json_string("x"), "chance: a number expected"},
        {"", "alive", json_integer(1), "alive: an object expected"},
        {"", "sigma_at", json_pack("{ss}", "sigma", "x"), "sigma_at.sigma: a number expected"},
        {"sigmas", "sigma", json_null(), "sigmas[1].sigma: a number expected"},
        {"sigmas", "mean", json_null(), "sigmas[1].mean: an object expected"},
        {"sigmas", "layers", json_pack("[{}]"), "layers[0].layer: a count expected"}};
    for (size_t i = 0; i < sizeof measured / sizeof *measured; i++) {
        json_t *one = make_stability("x", "vglr-fc", .9), *results = json_object_get(one, "results");
        json_object_set_new(*measured[i].list ? json_array_get(json_object_get(results, measured[i].list), 1) : results,
                            measured[i].key, measured[i].value);
        put_json("results.json", one);
        refuse(VMOER_ERROR_FORMAT, "/results.json: ", measured[i].words);
    }
}

/* Every word of a file may be markup. */
static void replace_strings(json_t *value) {
    const char *key;
    json_t *inner;
    size_t i;
    json_array_foreach(value, i, inner) {
        if (json_is_string(inner))
            json_array_set_new(value, i, json_string("<img onerror=x>"));
        else
            replace_strings(inner);
    }
    if (!json_is_object(value)) return;
    json_object_foreach(value, key, inner) {
        if (!json_is_string(inner)) {
            replace_strings(inner);
        } else if (strcmp(key, "kind") != 0 || json_object_get(value, "task")) {
            char marked[128];
            snprintf(marked, sizeof marked, "<img onerror='%.80s'>&\"", json_string_value(inner));
            json_object_set_new(value, key, json_string(marked));
        }
    }
}

static void words_are_escaped(void **state) {
    (void)state;
    json_t *whole = make_experiment(), *one = make_stability("<b>a</b> / <i>b</i>", "<u>c</u>", .9);
    replace_strings(whole);
    put_json("results.json", whole);
    put_json("<s>/results.json", one);
    char *page = report(in_root("report.html"));
    assert_int_equal(count(page, "<img") + count(page, "<i>") + count(page, "<u>") + count(page, "<s>") +
                         count(page, "<b>a</b>"),
                     0);
    assert_true(count(page, "&lt;img onerror=&#39;vglr-fc&#39;&gt;&amp;&quot;") > 10);
    check_pictures(page, 10);
    free(page);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_experiment_leads, make_root, remove_root),
        cmocka_unit_test_setup_teardown(a_measurement_by_itself, make_root, remove_root),
        cmocka_unit_test_setup_teardown(answer_sets, make_root, remove_root),
        cmocka_unit_test_setup_teardown(a_price, make_root, remove_root),
        cmocka_unit_test_setup_teardown(fitted_numbers, make_root, remove_root),
        cmocka_unit_test_setup_teardown(an_experiment_cut_short, make_root, remove_root),
        cmocka_unit_test_setup_teardown(hostile_files_are_named, make_root, remove_root),
        cmocka_unit_test_setup_teardown(words_are_escaped, make_root, remove_root),
    };
    return cmocka_run_group_tests_name("report of an experiment", tests, NULL, NULL);
}
