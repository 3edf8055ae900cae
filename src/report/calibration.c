/* calibration.c: the table of an experiment: routers by task, the MAPs beside each other, paired differences. */
#include "report/page.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

void vm_page_sub_interval(vm_text *t, vm_interval interval, double scale, int decimals) {
    if (isnan(interval.low)) return;
    vm_text_put(t, "<span class=\"sub\">");
    vm_page_interval(t, interval, scale, decimals);
    vm_text_put(t, "</span>");
}

void vm_page_router(vm_text *t, const char *router, bool words) {
    vm_text_put(t, "<tr%s><th scope=\"row\">%t", strcmp(router, "map") == 0 ? " class=\"base\"" : "",
                vm_router_name(router));
    if (words && vm_router_words(router)) vm_text_put(t, "<span class=\"sub\">%s</span>", vm_router_words(router));
    vm_text_put(t, "</th>");
}

void vm_page_difference(vm_text *t, const vm_figure *difference, bool percent) {
    static const char *const CLASS[] = {"better", "worse", "unclear"}, *const MARK[] = {"✓ ", "✗ ", ""};
    double scale = percent ? 100 : 1;
    if (isnan(difference->value)) {
        vm_text_put(t, "–");
        return;
    }
    vm_verdict verdict = vm_judge(difference->ci, percent);
    vm_text_put(t, percent ? "<span class=\"tag %s\">%s%+1</span>" : "<span class=\"tag %s\">%s%+3</span>",
                CLASS[verdict], MARK[verdict], scale * difference->value);
    vm_page_sub_interval(t, difference->ci, scale, percent ? 1 : 3);
}

static void score_cell(vm_text *t, const vm_figure *score, bool percent) {
    vm_text_put(t, percent ? "<td><b>%n1%%</b>" : "<td><b>%n3</b>", percent ? 100 * score->value : score->value);
    vm_page_sub_interval(t, score->ci, percent ? 100 : 1, percent ? 1 : 3);
    vm_text_put(t, "</td>");
}

static bool has_task(const vm_report_experiment *x, const char *task, const char *map) {
    for (size_t i = 0; i < x->routers.n; i++) {
        if (vm_calibration_find(x, task, map, x->routers.items[i])) return true;
    }
    return false;
}

static bool has_router(const vm_report_experiment *x, const char *task, const char *router) {
    for (size_t m = 0; m < x->kinds.n; m++) {
        if (vm_calibration_find(x, task, x->kinds.items[m], router)) return true;
    }
    return false;
}

static void figures_of(vm_text *t, const vm_calibration *c) {
    if (!c) {
        vm_text_put(t, "<td class=\"first\">–</td><td>–</td><td>–</td><td>–</td>");
        return;
    }
    vm_text_put(t, "<td class=\"first\"><b>%n1%%</b>", 100 * c->score[VM_SCORE_ACC].value);
    vm_page_sub_interval(t, c->score[VM_SCORE_ACC].ci, 100, 1);
    vm_text_put(t, "</td>");
    score_cell(t, &c->score[VM_SCORE_NLL], false);
    score_cell(t, &c->score[VM_SCORE_ECE], false);
    vm_text_put(t, "<td>%+3<span class=\"sub\">floor %n3 [%n3]</span>%s</td>", c->excess, c->floor.mean, c->floor.p95,
                c->at_floor ? "<span class=\"tag better\">at the floor</span>" : "");
}

static void scores_table(vm_text *t, const vm_report_experiment *x, const char *task) {
    vm_text_put(t, "<div class=\"scroll\"><table><thead><tr><th rowspan=\"2\">Router</th>");
    for (size_t m = 0; m < x->kinds.n; m++) {
        if (!has_task(x, task, x->kinds.items[m])) continue;
        vm_text_put(t, "<th class=\"first\" colspan=\"4\">%t</th>", vm_map_name(x->kinds.items[m]));
    }
    vm_text_put(t, "</tr><tr>");
    for (size_t m = 0; m < x->kinds.n; m++) {
        if (!has_task(x, task, x->kinds.items[m])) continue;
        vm_text_put(t, "<th class=\"first\">Accuracy&nbsp;↑</th><th>NLL&nbsp;↓</th><th>ECE&nbsp;↓</th>"
                       "<th>Excess ECE&nbsp;↓</th>");
    }
    vm_text_put(t, "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < x->routers.n; i++) {
        const char *router = x->routers.items[i];
        if (!has_router(x, task, router)) continue;
        vm_page_router(t, router, true);
        for (size_t m = 0; m < x->kinds.n; m++) {
            if (has_task(x, task, x->kinds.items[m]))
                figures_of(t, vm_calibration_find(x, task, x->kinds.items[m], router));
        }
        vm_text_put(t, "</tr>\n");
    }
    vm_text_put(t, "</tbody></table></div>\n<p class=\"note\">In brackets: 95%% intervals over questions and seeds. "
                   "Floor: the ECE of a perfectly calibrated model, its mean and [95th percentile]; what lies below "
                   "the latter is <b>at the floor</b>, as good as so many questions can tell.</p>\n");
}

static bool has_versus(const vm_calibration *c) {
    for (int v = 0; v < VM_VERSUS; v++) {
        for (int k = 0; k <= VM_SCORE_ECE; k++) {
            if (!isnan(c->versus[v][k].value)) return true;
        }
    }
    return false;
}

static void difference_table(vm_text *t, const vm_report_experiment *x, const char *task, const char *map) {
    static const int ORDER[] = {VM_SCORE_ECE, VM_SCORE_NLL, VM_SCORE_ACC};
    bool any = false;
    for (size_t i = 0; i < x->routers.n; i++) {
        const vm_calibration *c = vm_calibration_find(x, task, map, x->routers.items[i]);
        if (!c || !has_versus(c)) continue;
        if (!any)
            vm_text_put(t,
                        "<h4>Paired differences, %t</h4>\n<div class=\"scroll\"><table><thead><tr><th rowspan=\"2\">"
                        "Router</th><th class=\"first\" colspan=\"3\">ECE&nbsp;↓ against</th><th class=\"first\" "
                        "colspan=\"3\">NLL&nbsp;↓ against</th><th class=\"first\" colspan=\"3\">Accuracy, "
                        "points&nbsp;↑ against</th></tr><tr>",
                        vm_map_name(map));
        for (int k = 0; k < 3 && !any; k++)
            vm_text_put(t, "<th class=\"first\">MAP</th><th>temperature</th><th>residual</th>");
        if (!any) vm_text_put(t, "</tr></thead>\n<tbody>\n");
        any = true;
        vm_page_router(t, c->router, false);
        for (int k = 0; k < 3; k++) {
            for (int v = 0; v < VM_VERSUS; v++) {
                vm_text_put(t, v == 0 ? "<td class=\"first\">" : "<td>");
                vm_page_difference(t, &c->versus[v][ORDER[k]], ORDER[k] == VM_SCORE_ACC);
                vm_text_put(t, "</td>");
            }
        }
        vm_text_put(t, "</tr>\n");
    }
    if (any)
        vm_text_put(t, "</tbody></table></div>\n<p class=\"note\">✓ better, ✗ worse, grey: the 95%% interval "
                       "includes 0. A gain is Bayesian only where it is one over the residual control too.</p>\n");
}

static void floor_figures(vm_text *t, const vm_report_experiment *x, const char *task) {
    vm_floor_row *rows = vm_malloc(x->routers.n, sizeof *rows);
    if (!rows) {
        t->failed = true;
        return;
    }
    vm_page_figures(t, 2);
    for (size_t m = 0; m < x->kinds.n; m++) {
        size_t n = 0;
        for (size_t i = 0; i < x->routers.n; i++) {
            const vm_calibration *c = vm_calibration_find(x, task, x->kinds.items[m], x->routers.items[i]);
            int style = vm_router_style(x->routers.items[i]);
            if (c)
                rows[n++] =
                    (vm_floor_row){vm_router_name(c->router), c->score[VM_SCORE_ECE].value, c->score[VM_SCORE_ECE].ci,
                                   c->floor, style == VM_STYLE_UNNAMED ? VM_STYLE_CONTROL : style};
        }
        if (n == 0) continue;
        vm_text_put(t,
                    "<figure><figcaption><b>Calibration error, %t</b>Further left is better. Grey band: where a "
                    "perfectly calibrated model would lie in 95%% of cases; its line: the mean.</figcaption>",
                    vm_map_name(x->kinds.items[m]));
        vm_chart_floor(t, vm_map_name(x->kinds.items[m]), rows, n);
        vm_text_put(t, "</figure>\n");
    }
    vm_text_put(t, "</div>\n");
    vm_free(rows);
}

static void reliability(vm_text *t, const vm_report_experiment *x, const char *task, const char *map) {
    size_t n = 0;
    for (size_t i = 0; i < x->routers.n; i++) {
        const vm_calibration *c = vm_calibration_find(x, task, map, x->routers.items[i]);
        if (!c || !c->bins || vm_router_style(c->router) == VM_STYLE_UNNAMED) continue;
        if (n++ == 0) {
            vm_text_put(t, "<h4>Reliability of the main routers, %t</h4>\n", vm_map_name(map));
            vm_page_reliability_note(t);
            vm_page_figures(t, 0);
        }
        vm_text_put(t, "<figure><figcaption><b>%t</b>ECE %n3, chance floor %n3</figcaption>", vm_router_name(c->router),
                    c->score[VM_SCORE_ECE].value, c->floor.mean);
        vm_chart_reliability(t, vm_router_name(c->router), c->bins);
        vm_text_put(t, "</figure>\n");
    }
    if (n > 0) vm_text_put(t, "</div>\n");
}

static const vm_calibration *first_of(const vm_report_experiment *x, const char *task) {
    for (size_t i = 0; i < x->n_calibration; i++) {
        if (strcmp(x->calibration[i].task, task) == 0) return &x->calibration[i];
    }
    return NULL;
}

void vm_page_calibration(vm_text *t, const vm_report_experiment *x) {
    if (x->n_calibration == 0) vm_text_put(t, "<p class=\"note\">No router has been evaluated yet.</p>\n");
    for (size_t i = 0; i < x->tasks.n; i++) {
        const char *task = x->tasks.items[i];
        const vm_calibration *c = first_of(x, task);
        if (!c) continue; /* a MAP was trained on it, no more */
        vm_text_put(t, "<h3>%t <span class=\"note\">%u questions, %u seed%s</span></h3>\n", task, c->n, c->seeds,
                    c->seeds == 1 ? "" : "s");
        scores_table(t, x, task);
        floor_figures(t, x, task);
        for (size_t m = 0; m < x->kinds.n; m++) difference_table(t, x, task, x->kinds.items[m]);
        for (size_t m = 0; m < x->kinds.n; m++) reliability(t, x, task, x->kinds.items[m]);
    }
}
