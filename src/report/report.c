/* report.c: the page from its parts. The same folder gives the same bytes: no date, no absolute path. */
#include "report/report.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "report/page.h"

#include <string.h>

static void put_models(vm_text *t, const vm_report_data *data) {
    for (size_t i = 0; i < data->n_runs; i++) {
        bool named = false;
        for (size_t before = 0; before < i; before++)
            named = named || strcmp(data->runs[before].model, data->runs[i].model) == 0;
        if (!named) vm_text_put(t, "%s%t", i ? ", " : " of ", data->runs[i].model);
    }
}

static void put_header(vm_text *t, const vm_report_data *data, const vm_groups *groups, const char *title) {
    vm_text_put(t, "<header>\n<h1>%t</h1>\n<p class=\"lead\">%u evaluation run%s", title, data->n_runs,
                data->n_runs == 1 ? "" : "s");
    put_models(t, data);
    vm_text_put(t, ". Accuracy, honesty of the confidence, and what happens on strange questions.</p>\n<nav><a "
                   "href=\"#summary\">In short</a>");
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
    if (data->n_trainings > 0) vm_text_put(t, "<a href=\"#training\">Training</a>");
    vm_text_put(t, "<a href=\"#configuration\">Configuration</a><a href=\"#glossary\">Words</a></nav>\n</header>\n");
}

static vmoer_status put_page(vm_text *t, const vm_report_data *data, const vm_groups *groups, const char *title) {
    vm_text_put(t,
                "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
                "content=\"width=device-width, initial-scale=1\">\n"
                "<meta name=\"color-scheme\" content=\"light dark\">\n<title>%t</title>\n",
                title);
    vm_page_style(t);
    vm_text_put(t, "</head>\n<body>\n<main>\n");
    put_header(t, data, groups, title);
    vm_page_summary(t, data, groups);
    for (size_t i = 0; i < groups->n; i++) {
        vm_page_group(t, &groups->items[i], i);
        vm_page_ood(t, &groups->items[i], i);
    }
    vm_page_training(t, data);
    VM_TRY(vm_page_configuration(t, data));
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
