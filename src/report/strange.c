/* strange.c: how well each signal tells strange questions from familiar ones: a table a set, and ROC curves. */
#include "report/page.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_SIGNALS = 64 };

static int by_rank(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int rank_x = vm_signal_rank(x), rank_y = vm_signal_rank(y);
    return rank_x != rank_y ? rank_x - rank_y : strcmp(x, y);
}

/* Names of the signals that any run has for this set. */
static size_t all_signals(const vm_group *group, const vm_strange_set *wanted, const char **names) {
    size_t n = 0;
    for (size_t i = 0; i < group->n_oods; i++) {
        const vm_report_set *set = vm_set_find(group->oods[i], wanted);
        for (size_t s = 0; set && s < set->n_signals; s++) {
            bool known = false;
            for (size_t k = 0; k < n; k++) known = known || strcmp(names[k], set->signals[s].name) == 0;
            if (!known && n < MAX_SIGNALS) names[n++] = set->signals[s].name;
        }
    }
    qsort(names, n, sizeof *names, by_rank);
    return n;
}

static void signal_table(vm_text *t, const vm_group *group, const vm_strange_set *wanted) {
    const char *names[MAX_SIGNALS];
    size_t n = all_signals(group, wanted, names);
    vm_text_put(t, "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>AUROC&nbsp;↑ of</th>");
    for (size_t i = 0; i < group->n_oods; i++) {
        if (vm_set_find(group->oods[i], wanted)) vm_text_put(t, "<th>%t</th>", group->ood_names[i]);
    }
    vm_text_put(t, "</tr></thead>\n<tbody>\n");
    for (size_t k = 0; k < n; k++) {
        bool control = strcmp(names[k], "length") == 0;
        vm_text_put(t, "<tr%s><th scope=\"row\">", control ? " class=\"base\"" : "");
        vm_put_signal(t, names[k]);
        vm_text_put(t, "%s</th>", control ? "<span class=\"sub\">control</span>" : "");
        for (size_t i = 0; i < group->n_oods; i++) {
            const vm_report_set *set = vm_set_find(group->oods[i], wanted);
            if (set) vm_page_auroc(t, vm_signal_find(set, names[k]), true);
        }
        vm_text_put(t, "</tr>\n");
    }
    vm_text_put(t, "</tbody></table></div>\n");
}

void vm_page_rocs(vm_text *t, const char *subject, const vm_series *series, size_t n) {
    vm_chart_lines(t, &(vm_chart){.title = "ROC curves",
                                  .subject = subject,
                                  .x_label = "familiar ones flagged by mistake",
                                  .y_label = "strange ones caught",
                                  .x_high = 1,
                                  .y_high = 1,
                                  .diagonal = true,
                                  .series = series,
                                  .n_series = n});
}

/* The same signal has the same line in every figure; those of the last word are in the table only. */
static void roc_figure(vm_text *t, const char *run, const vm_report_set *set) {
    static const struct {
        const char *name, *shown;
        int style;
    } LINES[] = {{"choice_entropy", "choice entropy", 0},
                 {"vocabulary_entropy", "vocabulary entropy", 1},
                 {"gate_entropy", "gate entropy", 2},
                 {"logit_variance", "logit variance", 3},
                 {"logit_variance_projected", "projected variance", 4},
                 {"length", "length (control)", VM_STYLE_CONTROL}};
    vm_series series[sizeof LINES / sizeof *LINES];
    size_t n = 0;
    for (size_t i = 0; i < sizeof LINES / sizeof *LINES; i++) {
        const vm_report_signal *s = vm_signal_find(set, LINES[i].name);
        if (s && s->n_roc > 0) series[n++] = (vm_series){LINES[i].shown, s->fpr, s->tpr, s->n_roc, LINES[i].style};
    }
    if (n == 0) return;
    vm_text_put(t,
                "<figure><figcaption><b>%t</b>ROC against %t. Above the diagonal is better than guessing.</figcaption>",
                run, set->name);
    vm_page_rocs(t, run, series, n);
    vm_text_put(t, "</figure>\n");
}

static void show_set(vm_text *t, const vm_group *group, const vm_strange_set *set) {
    vm_text_put(t,
                "<h3>%t <span class=\"note\">%u questions, against %u of %t; guessing has an AUPR of %n3</span></h3>\n",
                set->name, set->n, set->id_n, set->id_task, (double)set->n / (double)(set->n + set->id_n));
    signal_table(t, group, set);
    size_t runs = 0;
    for (size_t i = 0; i < group->n_oods; i++) runs += vm_set_find(group->oods[i], set) != NULL;
    vm_page_figures(t, runs);
    for (size_t i = 0; i < group->n_oods; i++) {
        const vm_report_set *found = vm_set_find(group->oods[i], set);
        if (found) roc_figure(t, group->ood_names[i], found);
    }
    vm_text_put(t, "</div>\n");
}

void vm_page_ood(vm_text *t, const vm_group *group, size_t index) {
    if (group->n_sets == 0) return;
    vm_text_put(t, "<h2 id=\"strange-%u\">", index);
    vm_page_heading(t, group, "noticing strange questions");
    vm_text_put(t, "</h2>\n<p class=\"note\">Out-of-distribution detection: does a signal rise on questions of another "
                   "kind? AUROC with 95%% intervals, blue above 0.5, orange below. "
                   "The length of the question is a control, not a signal: what a signal does no better than length, "
                   "length may explain. Length taken out: what is left of the signal "
                   "without its straight line on the length. Equal lengths: between questions paired by length.</p>\n");
    for (size_t i = 0; i < group->n_sets; i++) show_set(t, group, &group->sets[i]);
}
