/* report.c: the page from its parts. The same folder gives the same bytes: no date, no absolute path. */
#include "report/report.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "report/page.h"

#include <string.h>

static void put_models(vm_text *t, const vm_report_data *data) {
    size_t shown = 0;
    for (size_t i = 0; i < data->n_runs; i++) {
        bool named = false;
        for (size_t before = 0; before < i; before++)
            named = named || strcmp(data->runs[before].model, data->runs[i].model) == 0;
        if (!named) vm_text_put(t, "%s%t", shown++ ? ", " : " of ", data->runs[i].model);
    }
}

static void link_to(vm_text *t, const char *id, size_t index, const char *words, bool present) {
    if (present) vm_text_put(t, "<a href=\"#%s-%u\">%s</a>", id, index, words);
}

static void experiment_links(vm_text *t, const vm_report_experiment *x, size_t index) {
    link_to(t, "experiment", index, "Calibration", true);
    link_to(t, "stability", index + 1, "Stability", x->n_steady > 0);
    link_to(t, "aurocs", index, "Strange questions", x->n_aurocs > 0);
    link_to(t, "cost", index + 1, "Cost", x->n_costs > 0);
    link_to(t, "sets", index, "Answer sets", x->n_set_means > 0);
    link_to(t, "maps", index, "MAPs", x->n_maps > 0);
}

static void run_links(vm_text *t, const vm_report_data *data, const vm_groups *groups) {
    for (size_t i = 0; i < groups->n; i++) {
        const vm_group *group = &groups->items[i];
        if (group->n_tasks > 0)
            vm_text_put(t, "<a href=\"#group-%u\">%t</a>", i, *group->name ? group->name : "Results");
        if (group->n_sets > 0) {
            vm_text_put(t, "<a href=\"#strange-%u\">", i);
            vm_page_heading(t, group, "strange questions");
            vm_text_put(t, "</a>");
        }
    }
    link_to(t, "stability", 0, "Stability", data->n_steady > 0);
    link_to(t, "cost", 0, "Cost", data->n_costs > 0);
    if (data->n_conformals > 0) vm_text_put(t, "<a href=\"#sets\">Answer sets</a>");
    if (data->n_trainings > 0) vm_text_put(t, "<a href=\"#training\">Training</a>");
    vm_text_put(t, "<a href=\"#configuration\">Configuration</a>");
}

static void put_header(vm_text *t, const vm_report_data *data, const vm_groups *groups, const char *title) {
    vm_text_put(t, "<header>\n<h1>%t</h1>\n<p class=\"lead\">", title);
    if (data->n_experiments == 1)
        vm_text_put(t, "An experiment from beginning to end: ");
    else if (data->n_experiments > 1)
        vm_text_put(t, "%u experiments from beginning to end: ", data->n_experiments);
    vm_text_put(t, "%u evaluation run%s", data->n_runs, data->n_runs == 1 ? "" : "s");
    put_models(t, data);
    vm_text_put(t, ". Accuracy, honesty of the confidence, and what happens on strange questions.</p>\n<nav><a "
                   "href=\"#summary\">In short</a>");
    for (size_t i = 0; i < data->n_experiments; i++) experiment_links(t, &data->experiments[i], i);
    if (data->n_experiments > 0)
        vm_text_put(t, "<a href=\"#runs\">Single runs</a>");
    else
        run_links(t, data, groups);
    vm_text_put(t, "<a href=\"#glossary\">Words</a></nav>\n</header>\n");
}

/* What the single folders hold: the page itself, or below an experiment its appendix. */
static vmoer_status put_runs(vm_text *t, const vm_report_data *data, const vm_groups *groups) {
    bool folded = data->n_experiments > 0;
    for (size_t i = 0; i < groups->n; i++) {
        const vm_group *group = &groups->items[i];
        if (folded) vm_text_put(t, "<details><summary>%t</summary>\n", *group->name ? group->name : "Results");
        vm_page_group(t, group, i);
        vm_page_ood(t, group, i);
        if (folded) vm_text_put(t, "</details>\n");
    }
    vm_page_steady(t, data->steady, data->n_steady, 0);
    vm_page_cost(t, data->costs, data->n_costs, 0);
    vm_page_conformal(t, data->conformals, data->n_conformals);
    vm_page_training(t, data);
    return vm_page_configuration(t, data);
}

static vmoer_status put_page(vm_text *t, const vm_report_data *data, const vm_groups *groups, const char *title) {
    bool folded = data->n_experiments > 0;
    vm_text_put(t,
                "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
                "content=\"width=device-width, initial-scale=1\">\n"
                "<meta name=\"color-scheme\" content=\"light dark\">\n<title>%t</title>\n",
                title);
    vm_page_style(t);
    vm_text_put(t, "</head>\n<body>\n<main>\n");
    put_header(t, data, groups, title);
    vm_page_summary(t, data, groups);
    for (size_t i = 0; i < data->n_experiments; i++) vm_page_experiment(t, data, i);
    if (folded)
        vm_text_put(t,
                    "<h2 id=\"runs\">Single runs</h2>\n<details class=\"appendix\"><summary>Every run by itself: %u "
                    "evaluations, %u trainings, settings and fingerprints</summary>\n",
                    data->n_runs, data->n_trainings);
    VM_TRY(put_runs(t, data, groups));
    if (folded) vm_text_put(t, "</details>\n");
    vm_page_glossary(t);
    vm_text_put(t, "</main>\n</body>\n</html>\n");
    return t->failed ? vm_error(VMOER_ERROR_MEMORY, "report: out of memory") : VMOER_OK;
}

vmoer_status vm_report_write(const char *folder, const char *output_path, const char *title, const vmoer_hooks *hooks) {
    vm_report_data data;
    vm_groups groups;
    vm_text page = {0};
    vmoer_status status;
    VM_GOTO(vm_report_collect(folder, hooks, &data));
    for (size_t i = 0; i < data.n_notes; i++) vm_log(hooks, "%s", data.notes[i]);
    VM_GOTO(vm_report_compare(&data, hooks, &groups));
    VM_GOTO(put_page(&page, &data, &groups, title && *title ? title : "Calibrated answers: report"));
    VM_GOTO(vm_write_file(output_path, page.data, page.size));
done:
    vm_text_free(&page);
    vm_report_free(&data);
    return status;
}
