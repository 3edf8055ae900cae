/* report.c: `vmoer report`, a folder of results to one HTML file. */
#include "verbs.h"

#include <stdlib.h>

typedef struct report_options {
    common_options common;
    const char *output_path, *title;
} report_options;

static const option options[] = {
    {"output_path", 0, OPTION_TEXT, "FILE", "the HTML file; without it FOLDER/report.html",
     offsetof(report_options, output_path), NULL, 0},
    {"title", 0, OPTION_TEXT, "TEXT", "its headline", offsetof(report_options, title), NULL, 0},
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(report_options *)target = (report_options){.title = NULL}; }

static int run(const void *given, char **operands, int n_operands) {
    const report_options *o = given;
    char *beside = NULL;
    session_begin("report", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    if (n_operands != 1) return session_fail(2, "name one folder of results (vmoer report --help)");
    if (!o->output_path && asprintf(&beside, "%s/report.html", operands[0]) < 0)
        return session_fail(1, "out of memory");
    const char *path = o->output_path ? o->output_path : beside;
    int code = session_end(vmoer_report(operands[0], path, o->title, &hooks));
    if (!code) {
        json_t *result = json_pack("{s:s}", "report", path);
        if (o->common.output == OUTPUT_JSON && result)
            json_dumpf(result, stdout, 0);
        else
            printf("%s", path);
        printf("\n");
        json_decref(result);
    }
    free(beside);
    return code;
}

const verb verb_report = {
    .name = "report",
    .summary = "all results of a folder to one self-contained HTML file",
    .description =
        "Reads every results.json and training.json under FOLDER and writes one HTML file that needs "
        "nothing else: tables, reliability diagrams, "
        "risk-coverage and ROC curves, stability, answer sets, cost. The folder of an experiment (reproduce) "
        "gives its goals and tables first, the single runs folded behind them. Prints its path.",
    .operands = "FOLDER",
    .options = options,
    .size = sizeof(report_options),
    .defaults = defaults,
    .run = run,
};
