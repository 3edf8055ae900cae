/* conformal.c: answer sets that hold the right answer with a chosen probability, and when to abstain. Halves of one run
 * and a shift to another are never in one table: theory holds for the former alone. */
#include "report/page.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

static const char *const WAYS[VM_SETS_WAYS] = {"smallest sets (LAC)", "adaptive sets (APS)"};

static const vm_conformal_task *task_of(const vm_report_conformal *c, const char *name) {
    for (size_t i = 0; i < c->n_tasks; i++) {
        if (strcmp(c->tasks[i].name, name) == 0) return &c->tasks[i];
    }
    return NULL;
}

static void name_cell(vm_text *t, const vm_report_conformal *c, const char *sub) {
    vm_text_put(t, "<tr><th scope=\"row\">%t%s%t<span class=\"sub\">%t</span></th>", c->label.group,
                *c->label.group ? " / " : "", c->label.name, sub);
}

static void coverage_cells(vm_text *t, const vm_report_conformal *c, const vm_conformal_test *test,
                           const vm_answer_sets *sets) {
    vm_text_put(t, "<td>%n1%%</td><td><b>%n1%%</b>", 100 * (1 - c->alpha), 100 * sets->coverage);
    vm_page_sub_interval(t, sets->ci, 100, 1);
    vm_text_put(t, "</td><td>%n1%%", 100 * test->theory);
    vm_page_sub_interval(t, test->expect, 100, 1);
    vm_text_put(t, "</td>");
}

static void halves_table(vm_text *t, const vm_report_conformal *all, size_t n, const char *task) {
    vm_text_put(t, "<div class=\"scroll\"><table><thead><tr><th>Run</th><th>Wanted</th><th>Covered</th><th>By theory"
                   "</th><th>Halvings within theory's interval</th><th>Choices in a set&nbsp;↓</th></tr></thead>\n"
                   "<tbody>\n");
    for (size_t i = 0; i < n; i++) {
        const vm_conformal_task *c = task_of(&all[i], task);
        for (int way = 0; c && way < VM_SETS_WAYS; way++) {
            const vm_answer_sets *sets = &c->halves.sets[way];
            name_cell(t, &all[i], WAYS[way]);
            coverage_cells(t, &all[i], &c->halves, sets);
            vm_text_put(t, "<td>%n1%%</td><td>%n2</td></tr>\n", 100 * sets->inside, sets->size);
        }
    }
    vm_text_put(t,
                "</tbody></table></div>\n<p class=\"note\">Random halves of the same questions, many times: one half "
                "sets the threshold, the other is tested. Then the sets cover what was wanted whatever the model "
                "is; what a better model buys is smaller sets.</p>\n");
}

static void shift_table(vm_text *t, const vm_report_conformal *all, size_t n, const char *task) {
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        const vm_conformal_task *c = task_of(&all[i], task);
        if (!c || !c->shift_run) continue;
        if (!any)
            vm_text_put(t,
                        "<h4>From other questions to these</h4>\n<div class=\"scroll\"><table><thead><tr><th>Run</th>"
                        "<th>Wanted</th><th>Covered</th><th>Without a shift</th><th></th><th>Choices in a set"
                        "&nbsp;↓</th></tr></thead>\n<tbody>\n");
        any = true;
        for (int way = 0; way < VM_SETS_WAYS; way++) {
            const vm_answer_sets *sets = &c->shift.sets[way];
            name_cell(t, &all[i], WAYS[way]);
            coverage_cells(t, &all[i], &c->shift, sets);
            vm_text_put(t, "<td>%s<span class=\"sub\">threshold from %u of %t, %t</span></td><td>%n2</td></tr>\n",
                        sets->inside > 0 ? "<span class=\"tag better\">✓ as without a shift</span>"
                                         : "<span class=\"tag worse\">✗ the questions differ</span>",
                        c->shift.n_calibration, c->shift_run, c->shift_split, sets->size);
        }
    }
    if (any)
        vm_text_put(t,
                    "</tbody></table></div>\n<p class=\"note\">The threshold comes from another run, as from held-out "
                    "questions: where these are of another kind, nothing guarantees the coverage.</p>\n");
}

static void thresholds(vm_text *t, const vm_abstaining *items, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const vm_abstaining *a = &items[i];
        if (isnan(a->confidence)) {
            vm_text_put(t, "<li>%n0%% right: no threshold reaches that</li>", 100 * a->accuracy);
            continue;
        }
        vm_text_put(t, "<li>%n0%% right: answer from a confidence of %n2 on, that is %n1%% of the questions",
                    100 * a->accuracy, a->confidence, 100 * a->coverage);
        if (!isnan(a->selective)) vm_text_put(t, "; %n1%% of these are right", 100 * a->selective);
        vm_text_put(t, "</li>");
    }
}

enum { MOST_LINES = 8 };

/* Folded where there are many runs. */
static void abstaining(vm_text *t, const vm_report_conformal *all, size_t n, const char *task) {
    bool any = false, folded = n > MOST_LINES;
    for (size_t i = 0; i < n; i++) {
        const vm_conformal_task *c = task_of(&all[i], task);
        if (!c || c->n_abstaining == 0) continue;
        if (!any)
            vm_text_put(
                t,
                "%s\n<div class=\"scroll\"><table><thead><tr><th>Run</th><th>Threshold chosen on these questions"
                "</th><th>Threshold from the other run</th></tr></thead>\n<tbody>\n",
                folded ? "<details><summary>When to abstain</summary>" : "<h4>When to abstain</h4>");
        any = true;
        name_cell(t, &all[i], "");
        vm_text_put(t, "<td><ul>");
        thresholds(t, c->abstaining, c->n_abstaining);
        vm_text_put(t, "</ul></td><td><ul>");
        thresholds(t, c->shifted, c->n_shifted);
        vm_text_put(t, "</ul></td></tr>\n");
    }
    if (any) vm_text_put(t, "</tbody></table></div>\n%s", folded ? "</details>\n" : "");
}

/* Lines of the first runs: the share of sets of each size, or risk against coverage. */
static void figure(vm_text *t, const vm_report_conformal *all, size_t n, const char *task, int way) {
    static const double SIZE[VMOER_MAX_CHOICES + 1] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,
                                                       14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26};
    vm_series series[MOST_LINES];
    double high = 0, last = 1;
    size_t lines = 0;
    bool sizes = way < VM_SETS_WAYS;
    for (size_t i = 0; i < n && lines < MOST_LINES; i++) {
        const vm_conformal_task *c = task_of(&all[i], task);
        if (!c) continue;
        const double *x = sizes ? SIZE : c->coverage, *y = sizes ? c->halves.sets[way].sizes : c->risk;
        size_t points = sizes ? c->halves.sets[way].n_sizes : c->n_curve;
        if (points == 0) continue;
        for (size_t k = 0; k < points; k++) high = fmax(high, y[k]);
        if (sizes) last = fmax(last, (double)points - 1);
        series[lines] = (vm_series){all[i].label.name, x, y, points, (int)lines};
        lines++;
    }
    if (lines == 0) return;
    if (sizes)
        vm_text_put(t,
                    "<figure><figcaption><b>Size of the sets: %s</b>How many of the sets have so many choices. Further "
                    "left is more useful.</figcaption>",
                    WAYS[way]);
    else
        vm_text_put(t,
                    "<figure><figcaption><b>Risk and coverage</b>Share of wrong answers when only the most confident "
                    "share of the questions is answered. Lower is better.</figcaption>");
    vm_chart_lines(t, &(vm_chart){.title = sizes ? "Sizes of the answer sets" : "Risk-coverage curves",
                                  .subject = task,
                                  .x_label = sizes ? "choices in the set" : "share of questions answered",
                                  .y_label = sizes ? "share of the sets" : "share wrong",
                                  .x_high = last,
                                  .y_high = high,
                                  .markers = sizes,
                                  .series = series,
                                  .n_series = lines});
    vm_text_put(t, "</figure>\n");
}

void vm_page_conformal(vm_text *t, const vm_report_conformal *all, size_t n) {
    if (n == 0) return;
    vm_text_put(t,
                "<h2 id=\"sets\">Answer sets</h2>\n<p class=\"note\">In place of one answer a set of choices, as small "
                "as may be, that holds the right one with a chosen probability (conformal prediction).</p>\n");
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < all[i].n_tasks; k++) {
            const vm_conformal_task *task = &all[i].tasks[k];
            bool known = false;
            for (size_t before = 0; before < i && !known; before++) known = task_of(&all[before], task->name) != NULL;
            if (known) continue;
            vm_text_put(t, "<h3>%t <span class=\"note\">%u questions</span></h3>\n", task->name, task->n);
            halves_table(t, all, n, task->name);
            shift_table(t, all, n, task->name);
            vm_page_figures(t, 3);
            for (int way = 0; way <= VM_SETS_WAYS; way++) figure(t, all, n, task->name, way);
            vm_text_put(t, "</div>\n");
            abstaining(t, all, n, task->name);
        }
    }
}

/* ---- of an experiment ---- */

static bool has_shift(const vm_report_experiment *x) {
    bool any = false;
    for (size_t i = 0; i < x->n_set_means; i++) any = any || !isnan(x->set_means[i].coverage[VM_SETS_SHIFT][0]);
    return any;
}

static void mean_cells(vm_text *t, const vm_set_means *m, int part) {
    for (int way = 0; way < VM_SETS_WAYS; way++) {
        const char *first = way == 0 ? " class=\"first\"" : "";
        double coverage = m->coverage[part][way], size = m->size[part][way];
        if (isnan(coverage) || isnan(size))
            vm_text_put(t, "<td%s>–</td><td>–</td>", first);
        else
            vm_text_put(t, "<td%s>%n1%%</td><td><b>%n2</b></td>", first, 100 * coverage, size);
    }
}

void vm_page_set_means(vm_text *t, const vm_report_experiment *x, size_t index) {
    if (x->n_set_means == 0) return;
    int parts = has_shift(x) ? VM_SETS_PARTS : VM_SETS_SHIFT;
    vm_text_put(
        t,
        "<h2 id=\"sets-%u\">Answer sets</h2>\n<p class=\"note\">In place of one answer a set of choices, as small "
        "as may be, that holds the right one with a probability of %n0%% (conformal prediction). LAC: the smallest "
        "sets; APS: adaptive ones. Means over the seeds.</p>\n<div class=\"scroll\"><table><thead><tr><th "
        "rowspan=\"2\">Router</th><th class=\"first\" colspan=\"4\">Halves of the same questions</th>%s</tr>\n<tr>",
        index, 100 * (1 - x->set_means[0].alpha),
        parts > 1 ? "<th class=\"first\" colspan=\"4\">From held-out questions to these</th>" : "");
    for (int part = 0; part < parts; part++)
        vm_text_put(t, "<th class=\"first\">LAC covers</th><th>choices&nbsp;↓</th><th>APS covers</th><th>choices&nbsp;↓"
                       "</th>");
    vm_text_put(t, "</tr></thead>\n<tbody>\n");
    for (size_t r = 0; r < x->routers.n; r++)
        for (size_t i = 0; i < x->n_set_means; i++) {
            const vm_set_means *m = &x->set_means[i];
            if (strcmp(m->router, x->routers.items[r]) != 0) continue;
            vm_page_router(t, m->router, false);
            for (int part = 0; part < parts; part++) mean_cells(t, m, part);
            vm_text_put(t, "</tr>\n");
        }
    vm_text_put(
        t,
        "</tbody></table></div>\n<p class=\"note\">Between halves of the same questions the sets cover what was "
        "wanted whatever the model is: what a better model buys is smaller sets.%s</p>\n",
        parts > 1 ? " From questions of another kind nothing guarantees the coverage." : "");
}
