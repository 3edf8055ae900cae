/* summary.c: what was compared and what came out, in sentences made from the numbers. A difference counts only where
 * its 95% interval excludes 0; where nothing improved, the page says so first. */
#include "report/page.h"

#include <math.h>
#include <string.h>

void vm_page_heading(vm_text *t, const vm_group *group, const char *what) {
    if (*group->name) vm_text_put(t, "%t · ", group->name);
    vm_text_put(t, "%t", what);
}

void vm_page_interval(vm_text *t, vm_interval interval, double scale, int decimals) {
    vm_text_put(t, decimals == 1 ? "[%n1, %n1]" : "[%n3, %n3]", scale * interval.low, scale * interval.high);
}

void vm_page_auroc(vm_text *t, const vm_report_signal *s, bool more) {
    if (!s) {
        vm_text_put(t, "<td>–</td>");
        return;
    }
    vm_page_begin_heat(t, s->value.auroc);
    vm_text_put(t, "<b>%n3</b><span class=\"sub\">", s->value.auroc);
    vm_page_interval(t, s->ci.auroc, 1, 3);
    vm_text_put(t, "</span>");
    if (s->ci.auroc.high < .5)
        vm_text_put(t, "<span class=\"tag worse\">wrong way</span>");
    else if (s->ci.auroc.low <= .5)
        vm_text_put(t, "<span class=\"tag unclear\">like guessing</span>");
    if (more && !isnan(s->adjusted.value)) {
        vm_text_put(t, "<span class=\"sub\">length taken out %n3 ", s->adjusted.value);
        vm_page_interval(t, s->adjusted.ci, 1, 3);
        vm_text_put(t, "</span>");
    }
    if (more && !isnan(s->matched.value)) {
        vm_text_put(t, "<span class=\"sub\">equal lengths %n3 ", s->matched.value);
        vm_page_interval(t, s->matched.ci, 1, 3);
        vm_text_put(t, "</span>");
    }
    if (more) vm_text_put(t, "<span class=\"sub\">AUPR %n3 · FPR95 %n3</span>", s->value.aupr, s->value.fpr95);
    vm_text_put(t, "</td>");
}

static void put_name(vm_text *t, const vm_row *row) {
    const char *kind = vm_router_words(row->run->router_kind);
    vm_text_put(t, "<b>%t</b>", row->name);
    if (kind) vm_text_put(t, " (%s)", kind);
}

static double mean_confidence(const vm_report_task *task) {
    double sum = 0, n = 0;
    for (int b = 0; b < VM_ECE_BINS; b++) {
        sum += (double)task->bins[b].count * task->bins[b].confidence;
        n += (double)task->bins[b].count;
    }
    return n > 0 ? sum / n : NAN;
}

static bool at_floor(const vm_report_task *task) { return task->metrics.ece <= task->floor.p95; }

/* A run by itself: right, sure, and whether the two agree. */
static void describe_alone(vm_text *t, const vm_row *row) {
    const vm_report_task *task = row->task;
    double sure = mean_confidence(task);
    vm_text_put(t, "<li>");
    put_name(t, row);
    vm_text_put(t,
                " is right on %n1%% of the questions and %n1%% confident on average. Its calibration error is %n3; "
                "chance alone gives a perfectly calibrated model about %n3, and less than %n3 in 95%% of cases: ",
                100 * task->metrics.acc, 100 * sure, task->metrics.ece, task->floor.mean, task->floor.p95);
    if (at_floor(task))
        vm_text_put(t, "no miscalibration can be seen on so many questions.</li>\n");
    else if (sure > task->metrics.acc)
        vm_text_put(t, "it claims more than it delivers (over-confident).</li>\n");
    else
        vm_text_put(t, "it delivers more than it claims (under-confident).</li>\n");
}

/* "accuracy 51.2% against 51.8%: no clear change ([-2.1, 0.9] points)" */
static void compare_metric(vm_text *t, const char *what, double value, double base, vm_interval interval,
                           bool percent) {
    vm_verdict verdict = vm_judge(interval, percent);
    static const char *const HIGHER[] = {"higher", "lower", "no clear change"}, *const LOWER[] = {"lower", "higher",
                                                                                                  "no clear change"};
    vm_text_put(t, percent ? "%s %n1%% against %n1%%: %s " : "%s %n3 against %n3: %s ", what,
                percent ? 100 * value : value, percent ? 100 * base : base, percent ? HIGHER[verdict] : LOWER[verdict]);
    vm_page_interval(t, interval, percent ? 100 : 1, percent ? 1 : 3);
    vm_text_put(t, percent ? " points" : "");
}

static void describe_difference(vm_text *t, const vm_row *base, const vm_row *row) {
    const vm_report_task *a = base->task, *b = row->task;
    vm_text_put(t, "<li>");
    put_name(t, row);
    vm_text_put(t, ": calibration error %n3 against %n3", b->metrics.ece, a->metrics.ece);
    if (row->paired_n == 0) {
        vm_text_put(t, "; not compared question by question (no samples that both share).</li>\n");
        return;
    }
    if (row->paired_n < a->n || row->paired_n < b->n)
        vm_text_put(t, " (differences on the %u questions both answered)", row->paired_n);
    vm_verdict verdict = vm_judge(row->interval.ece, false);
    double size = fabs(row->difference.ece);
    if (verdict == VM_UNCLEAR) {
        vm_text_put(t, "; the difference's 95%% interval ");
        vm_page_interval(t, row->interval.ece, 1, 3);
        vm_text_put(t, " includes 0: <span class=\"tag unclear\">no improvement shown</span>.");
    } else {
        vm_text_put(t,
                    verdict == VM_BETTER ? "; %n3 lower, 95%% interval of the difference "
                                         : "; %n3 higher, 95%% interval of the difference ",
                    size);
        vm_page_interval(t, row->interval.ece, 1, 3);
        vm_text_put(t, verdict == VM_BETTER ? ": <span class=\"tag better\">better</span>."
                                            : ": <span class=\"tag worse\">worse</span>.");
    }
    if (at_floor(b))
        vm_text_put(t, " That is within what chance gives a perfectly calibrated model (%n3).", b->floor.p95);
    vm_text_put(t, " ");
    compare_metric(t, "Accuracy", b->metrics.acc, a->metrics.acc, row->interval.acc, true);
    vm_text_put(t, "; ");
    compare_metric(t, "NLL", b->metrics.nll, a->metrics.nll, row->interval.nll, false);
    vm_text_put(t, ".</li>\n");
}

typedef struct tally {
    size_t compared, better, worse, accuracy_lost;
} tally;

static tally count_verdicts(const vm_comparison *c) {
    tally out = {0};
    for (size_t i = 1; i < c->n_rows && c->baseline; i++) {
        if (c->rows[i].paired_n == 0) continue;
        vm_verdict verdict = vm_judge(c->rows[i].interval.ece, false);
        out.compared++;
        out.better += verdict == VM_BETTER;
        out.worse += verdict == VM_WORSE;
        out.accuracy_lost += vm_judge(c->rows[i].interval.acc, true) == VM_WORSE;
    }
    return out;
}

static void verdict_line(vm_text *t, const vm_comparison *c) {
    tally n = count_verdicts(c);
    vm_text_put(t, "<p class=\"verdict\">");
    if (!c->baseline)
        vm_text_put(t, "There is no deterministic run to compare with.");
    else if (c->n_rows == 1)
        vm_text_put(t, "There is one run only: nothing is compared.");
    else if (n.compared == 0)
        vm_text_put(t,
                    "No run shares its questions with %t: the figures stand side by side, differences are not judged.",
                    c->rows[0].name);
    else if (n.compared == 1 && n.better)
        vm_text_put(t, "Calibration improved over %t.", c->rows[0].name);
    else if (n.compared == 1 && n.worse)
        vm_text_put(t, "Calibration became worse than that of %t.", c->rows[0].name);
    else if (n.compared == 1)
        vm_text_put(t, "No improvement of calibration over %t is shown.", c->rows[0].name);
    else if (n.better == 0)
        vm_text_put(t, "None of the %u runs improves calibration over %t in a way that these questions could show.",
                    n.compared, c->rows[0].name);
    else
        vm_text_put(t, "%u of %u runs improve calibration over %t.", n.better, n.compared, c->rows[0].name);
    if (n.compared > 1 && n.worse > 0)
        vm_text_put(t, n.worse == 1 ? " 1 makes it worse." : " %u make it worse.", n.worse);
    if (n.accuracy_lost == 1)
        vm_text_put(t, n.compared == 1 ? " Accuracy fell." : " In 1 of them accuracy falls.");
    else if (n.accuracy_lost > 1)
        vm_text_put(t, " In %u of them accuracy falls.", n.accuracy_lost);
    vm_text_put(t, "</p>\n");
}

static void summarise_task(vm_text *t, const vm_group *group, const vm_comparison *c) {
    vm_text_put(t, "<h3>");
    vm_page_heading(t, group, c->task);
    vm_text_put(t, " <span class=\"note\">%u questions</span></h3>\n", c->rows[0].task->n);
    verdict_line(t, c);
    vm_text_put(t, "<ul>\n");
    for (size_t i = 0; i < c->n_rows; i++) {
        if (i == 0 || !c->baseline)
            describe_alone(t, &c->rows[i]);
        else
            describe_difference(t, &c->rows[0], &c->rows[i]);
    }
    vm_text_put(t, "</ul>\n");
}

/* The signals that the summary speaks of: fixed, not chosen by what came out. */
static const char *const SUMMARY_SIGNALS[] = {"choice_entropy", "logit_variance"};
enum { N_SUMMARY_SIGNALS = sizeof SUMMARY_SIGNALS / sizeof *SUMMARY_SIGNALS };

static const vm_report_signal *signal_in(const vm_report_ood *ood, const vm_strange_set *set, const char *name) {
    const vm_report_set *found = vm_set_find(ood, set);
    return found ? vm_signal_find(found, name) : NULL;
}

/* One signal of one run on every set; nothing where the run does not have it. */
static void auroc_row(vm_text *t, const vm_group *group, size_t ood, const char *signal, bool control) {
    size_t known = 0;
    for (size_t i = 0; i < group->n_sets; i++) known += signal_in(group->oods[ood], &group->sets[i], signal) != NULL;
    if (known == 0) return;
    vm_text_put(t, "<tr%s><th scope=\"row\">%t<span class=\"sub\">", control ? " class=\"base\"" : "",
                control ? "Control" : group->ood_names[ood]);
    vm_put_signal(t, signal);
    vm_text_put(t, "</span></th>");
    for (size_t i = 0; i < group->n_sets; i++)
        vm_page_auroc(t, signal_in(group->oods[ood], &group->sets[i], signal), false);
    vm_text_put(t, "</tr>\n");
}

/* Against the plainest signal of the baseline, by intervals that do not touch: strict, as these are not paired. */
static void judge_signal(vm_text *t, const vm_group *group, size_t ood, const char *signal) {
    size_t compared = 0, higher = 0, lower = 0;
    for (size_t i = 0; i < group->n_sets; i++) {
        const vm_report_signal *base = signal_in(group->oods[0], &group->sets[i], SUMMARY_SIGNALS[0]);
        const vm_report_signal *here = signal_in(group->oods[ood], &group->sets[i], signal);
        if (!base || !here || base == here) continue;
        compared++;
        higher += here->ci.auroc.low > base->ci.auroc.high;
        lower += here->ci.auroc.high < base->ci.auroc.low;
    }
    if (compared == 0) return;
    vm_text_put(t, "<li>%t, ", group->ood_names[ood]);
    vm_put_signal(t, signal);
    vm_text_put(t, ": ");
    if (higher > 0) vm_text_put(t, "clearly higher on %u%s", higher, lower > 0 ? ", " : "");
    if (lower > 0) vm_text_put(t, "clearly lower on %u", lower);
    if (higher + lower == 0) vm_text_put(t, "no clear difference on any");
    vm_text_put(t, " of %u sets.</li>\n", compared);
}

static void summarise_oods(vm_text *t, const vm_group *group) {
    if (group->n_sets == 0) return;
    vm_text_put(t, "<h3>");
    vm_page_heading(t, group, "noticing strange questions");
    vm_text_put(t, "</h3>\n<p>Does the model look less sure on questions of another kind? AUROC with 95%% interval: "
                   "0.5 is guessing, 1 is perfect, below 0.5 the signal points the wrong way.</p>\n"
                   "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>Run and signal</th>");
    for (size_t i = 0; i < group->n_sets; i++) vm_text_put(t, "<th>%t</th>", group->sets[i].name);
    vm_text_put(t, "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < group->n_oods; i++) {
        for (size_t k = 0; k < N_SUMMARY_SIGNALS; k++) auroc_row(t, group, i, SUMMARY_SIGNALS[k], false);
    }
    auroc_row(t, group, 0, "length", true);
    vm_text_put(t, "</tbody></table></div>\n");
    if (group->n_oods > 1) {
        vm_text_put(t, "<p>Against %t's ", group->ood_names[0]);
        vm_put_signal(t, SUMMARY_SIGNALS[0]);
        vm_text_put(t, " (clear: the intervals do not touch):</p>\n<ul>\n");
        for (size_t i = 0; i < group->n_oods; i++) {
            for (size_t k = 0; k < N_SUMMARY_SIGNALS; k++) judge_signal(t, group, i, SUMMARY_SIGNALS[k]);
        }
        vm_text_put(t, "</ul>\n");
    }
    for (size_t i = 0; i < group->n_sets; i++) {
        const vm_report_signal *length = signal_in(group->oods[0], &group->sets[i], "length");
        if (length && fabs(length->value.auroc - .5) > .2) {
            vm_text_put(t,
                        "<p>%t: the questions differ much in length alone (AUROC %n3), so part of any signal's success "
                        "there may be length.</p>\n",
                        group->sets[i].name, length->value.auroc);
        }
    }
}

static size_t count_comparisons(const vm_groups *groups) {
    size_t count = 0;
    for (size_t g = 0; g < groups->n; g++) {
        for (size_t c = 0; c < groups->items[g].n_tasks; c++) {
            if (!groups->items[g].tasks[c].shifted) count += count_verdicts(&groups->items[g].tasks[c]).compared;
        }
    }
    return count;
}

void vm_page_summary(vm_text *t, const vm_report_data *data, const vm_groups *groups) {
    vm_text_put(t, "<section class=\"summary\" id=\"summary\">\n<h2>In short</h2>\n");
    if (data->n_runs > 0 || data->n_experiments > 0) {
        vm_text_put(t, "<p>A model answers multiple-choice questions with probabilities. Two things count: how often "
                       "the answer is right, and whether its confidence can be "
                       "believed, so that of all answers given with 70%% confidence 70%% are right. The distance from "
                       "that is the calibration error; 0 is perfect.</p>\n");
    }
    for (size_t i = 0; i < data->n_experiments; i++) vm_page_experiment_summary(t, &data->experiments[i]);
    bool leads =
        data->n_experiments > 0; /* what the single runs of an experiment say is in its tables, over all seeds */
    for (size_t g = 0; g < groups->n && !leads; g++) {
        const vm_group *group = &groups->items[g];
        for (size_t c = 0; c < group->n_tasks; c++) {
            if (!group->tasks[c].shifted) summarise_task(t, group, &group->tasks[c]);
        }
        summarise_oods(t, group);
    }
    if (data->n_runs == 0 && data->n_oods == 0 && !leads)
        vm_text_put(t, "<p>%s: nothing has been evaluated yet.</p>\n",
                    data->n_steady + data->n_costs > 0 ? "The folder holds measurements of routers, no answers"
                                                       : "The folder holds training records only");
    size_t comparisons = count_comparisons(groups);
    if (comparisons >= 5 && !leads) {
        vm_text_put(t,
                    "<p class=\"note\">%u runs are compared above, each at 95%%: of comparisons without any real "
                    "difference about one in twenty looks real by chance.</p>\n",
                    comparisons);
    }
    vm_text_put(t, "</section>\n");
}
