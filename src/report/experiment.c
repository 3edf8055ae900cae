/* experiment.c: what `vmoer reproduce` found, before everything else: goals, and sentences made from the numbers. */
#include "report/page.h"

#include <math.h>
#include <string.h>

/* ---- goals ---- */

static void goal_row(vm_text *t, const vm_goal *goal) {
    static const char *const TAGS[] = {"<span class=\"tag unclear\">not measured</span>",
                                       "<span class=\"tag worse\">✗ missed</span>",
                                       "<span class=\"tag better\">✓ reached</span>"};
    bool percent = strchr(goal->goal, '%') != NULL;
    double scale = percent ? 100 : 1;
    vm_text_put(t,
                percent && !isnan(goal->value.value) ? "<tr><th scope=\"row\">%t</th><td>%s</td><td><b>%+1%%</b>"
                                                     : "<tr><th scope=\"row\">%t</th><td>%s</td><td><b>%+3</b>",
                goal->name, TAGS[goal->holds + 1], scale * goal->value.value);
    vm_page_sub_interval(t, goal->value.ci, scale, percent ? 1 : 3);
    vm_text_put(t, "</td><td>%t</td></tr>\n", goal->goal);
}

/* Those of one router, or those of all others. */
static void goal_table(vm_text *t, const vm_report_experiment *x, const char *router, bool others) {
    vm_text_put(t, "<div class=\"scroll\"><table><thead><tr><th>Goal</th><th></th><th>Measured, 95%% interval</th><th>"
                   "Wanted</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < x->n_goals; i++) {
        if ((strcmp(x->goals[i].router, router) != 0) == others) goal_row(t, &x->goals[i]);
    }
    vm_text_put(t, "</tbody></table></div>\n");
}

/* The first goal is that of the router that the experiment was made for: fixed beforehand, not chosen by what came out.
 */
static void goals(vm_text *t, const vm_report_experiment *x) {
    size_t own = 0, reached = 0, measured = 0;
    if (x->n_goals == 0) return;
    const char *router = x->goals[0].router;
    for (size_t i = 0; i < x->n_goals; i++) {
        if (strcmp(x->goals[i].router, router) != 0) continue;
        own++;
        reached += x->goals[i].holds == 1;
        measured += x->goals[i].holds >= 0;
    }
    vm_text_put(t, "<p class=\"verdict\">");
    if (*router) vm_text_put(t, "%t: ", vm_router_name(router));
    vm_text_put(t, "%u of %u goals reached%s</p>\n", reached, own, measured < own ? "; not all were measured." : ".");
    goal_table(t, x, router, false);
    if (own == x->n_goals) return;
    vm_text_put(t, "<details><summary>The same goals asked of the other routers</summary>\n");
    goal_table(t, x, router, true);
    vm_text_put(t, "</details>\n");
}

/* ---- verdicts: a row a router, a column a task and MAP ---- */

static bool has_any(const vm_report_experiment *x, const char *task, const char *map) {
    for (size_t i = 0; i < x->routers.n; i++) {
        if (vm_calibration_find(x, task, map, x->routers.items[i])) return true;
    }
    return false;
}

static void base_cell(vm_text *t, const vm_calibration *c) {
    vm_text_put(
        t, "<td class=\"first\"><b>%n3</b><span class=\"sub\">right on %n1%%</span><span class=\"sub\">%s</span></td>",
        c->score[VM_SCORE_ECE].value, 100 * c->score[VM_SCORE_ACC].value,
        c->at_floor ? "at the floor" : "above the floor");
}

static void verdict_cell(vm_text *t, const vm_calibration *c) {
    const vm_figure *ece = &c->versus[VM_VERSUS_MAP][VM_SCORE_ECE], *acc = &c->versus[VM_VERSUS_MAP][VM_SCORE_ACC];
    vm_text_put(t, "<td class=\"first\">");
    vm_page_difference(t, ece, false);
    if (c->at_floor) vm_text_put(t, "<span class=\"sub\">at the floor</span>");
    if (vm_judge(c->versus[VM_VERSUS_TEMPERATURE][VM_SCORE_ECE].ci, false) == VM_BETTER)
        vm_text_put(t, "<span class=\"sub\">beyond temperature</span>");
    if (vm_judge(c->versus[VM_VERSUS_RESIDUAL][VM_SCORE_ECE].ci, false) == VM_BETTER)
        vm_text_put(t, "<span class=\"sub\">beyond residual</span>");
    if (vm_judge(acc->ci, true) != VM_UNCLEAR)
        vm_text_put(t, "<span class=\"sub\">accuracy %+1 points</span>", 100 * acc->value);
    vm_text_put(t, "</td>");
}

static void verdict_row(vm_text *t, const vm_report_experiment *x, const char *router) {
    bool base = strcmp(router, "map") == 0, any = false;
    for (size_t i = 0; i < x->tasks.n; i++) {
        for (size_t m = 0; m < x->kinds.n; m++) {
            const char *task = x->tasks.items[i], *map = x->kinds.items[m];
            const vm_calibration *c = vm_calibration_find(x, task, map, router);
            if (!has_any(x, task, map)) continue;
            if (!any) vm_page_router(t, router, false);
            any = true;
            if (!c)
                vm_text_put(t, "<td class=\"first\">–</td>");
            else if (base)
                base_cell(t, c);
            else
                verdict_cell(t, c);
        }
    }
    if (any) vm_text_put(t, "</tr>\n");
}

static void verdicts(vm_text *t, const vm_report_experiment *x) {
    if (x->n_calibration == 0) return;
    vm_text_put(t, "<h3>Calibration error</h3>\n<p>The first row: MAP's ECE. Below: the difference to it.</p>\n<div "
                   "class=\"scroll\"><table><thead><tr><th>ECE&nbsp;↓</th>");
    for (size_t i = 0; i < x->tasks.n; i++) {
        for (size_t m = 0; m < x->kinds.n; m++) {
            if (has_any(x, x->tasks.items[i], x->kinds.items[m]))
                vm_text_put(t, "<th class=\"first\">%t<br>%t</th>", x->tasks.items[i], vm_map_name(x->kinds.items[m]));
        }
    }
    vm_text_put(t, "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < x->routers.n; i++) verdict_row(t, x, x->routers.items[i]);
    vm_text_put(t, "</tbody></table></div>\n<p class=\"note\">✓ better, ✗ worse: the 95%% interval of the difference "
                   "excludes 0; grey: it does not. At the floor: as good as so many questions can tell. Beyond "
                   "temperature, beyond residual: better than that control too; a gain counts as Bayesian only beyond "
                   "the residual control. Accuracy is spoken of where it changed.</p>\n");
}

void vm_page_experiment_summary(vm_text *t, const vm_report_experiment *x) {
    vm_text_put(t, "<p>Each router was trained on the same fine-tuned models (MAPs) and asked the same questions; all "
                   "differences are on the same questions and seeds, and count where their 95%% interval excludes "
                   "0.</p>\n");
    goals(t, x);
    verdicts(t, x);
    for (size_t i = 0; i < x->n_skipped; i++)
        vm_text_put(t, i == 0 ? "<p>Left out, as there is no data: %t" : ", %t", x->skipped[i]);
    if (x->n_skipped > 0) vm_text_put(t, ".</p>\n");
    if (x->n_calibration > 4)
        vm_text_put(
            t,
            "<p class=\"note\">Each difference is judged at 95%%: of %u without any real difference about one in "
            "twenty would look real by chance.</p>\n",
            x->n_calibration);
}

void vm_page_experiment(vm_text *t, const vm_report_data *data, size_t index) {
    const vm_report_experiment *x = &data->experiments[index];
    vm_text_put(t, "<h2 id=\"experiment-%u\">Calibration <span class=\"note\">%t", index, x->model);
    if (strcmp(x->path, ".") != 0) vm_text_put(t, ", %t", x->path);
    vm_text_put(t, "</span></h2>\n");
    vm_page_calibration(t, x);
    vm_page_steady(t, x->steady, x->n_steady, index + 1);
    vm_page_aurocs(t, data, x, index);
    vm_page_cost(t, x->costs, x->n_costs, index + 1);
    vm_page_set_means(t, x, index);
    vm_page_maps(t, x, index);
}
