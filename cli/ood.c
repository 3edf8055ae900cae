/* ood.c: `vmoer ood`, out-of-distribution detection from saved runs. */
#include "verbs.h"

typedef struct ood_options {
    common_options common;
    vmoer_ood_params p;
} ood_options;

static const option options[] = {
    {"id_run", 0, OPTION_TEXT, "DIR", "folder of the eval run on the in-distribution task",
     offsetof(ood_options, p.id_run), NULL, 1},
    {"fit_run", 0, OPTION_TEXT, "DIR",
     "folder of an eval --hidden run of held-out in-distribution questions: adds the signal mahalanobis",
     offsetof(ood_options, p.fit_run), NULL, 0},
    {"signals", 0, OPTION_TEXT, "LIST", "the signals to compare, chosen beforehand, with commas; without it all",
     offsetof(ood_options, p.signals), NULL, 0},
    {"output_path", 0, OPTION_TEXT, "DIR", "folder for results.json", offsetof(ood_options, p.output_path), NULL, 0},
    {"bootstrap", 0, OPTION_INT, "N", "resamples for the 95% intervals", offsetof(ood_options, p.bootstrap), NULL, 0},
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(ood_options *)target = (ood_options){.p = vmoer_ood_params_default()}; }

static void print_ood(const json_t *root, output_format output) {
    static const char *const measures[] = {"auroc", "aupr", "fpr95"};
    enum { MEASURES = sizeof measures / sizeof *measures };
    table *t = table_new(output);
    table_column(t, "run");
    table_column(t, "task");
    table_column(t, "n");
    table_column(t, "signal");
    for (int k = 0; k < MEASURES; k++) table_interval_column(t, measures[k]);
    table_interval_column(t, "length_adjusted");
    table_interval_column(t, "length_matched");
    table_column(t, "n_matched");
    const char *task, *signal;
    json_t *result, *figures;
    json_object_foreach(json_object_get(root, "results"), task, result) {
        json_object_foreach(json_object_get(result, "signals"), signal, figures) {
            table_value(t, root, "label", 0);
            table_cell(t, "%s", task);
            table_value(t, result, "n", 0);
            table_cell(t, "%s", signal);
            for (int k = 0; k < MEASURES; k++) table_interval(t, figures, measures[k], 3);
            table_interval(t, json_object_get(figures, "length_adjusted"), "auroc", 3);
            table_interval(t, json_object_get(figures, "length_matched"), "auroc", 3);
            table_value(t, result, "n_matched", 0);
        }
    }
    table_print(t);
}

static int run(const void *given, char **operands, int n_operands) {
    const ood_options *o = given;
    vmoer_ood_params p = o->p;
    char *text = NULL;
    session_begin("ood", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    if (!n_operands)
        return session_fail(2, "name one or more folders of eval runs on out-of-distribution tasks (vmoer ood --help)");
    p.ood_runs = (const char *const *)operands;
    p.n_ood = n_operands;
    int code = session_end(vmoer_ood(&p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_ood);
}

const verb verb_ood = {
    .name = "ood",
    .summary = "how well each uncertainty signal tells strange questions, from saved eval runs",
    .description = "AUROC, AUPR (positive: out of distribution) and FPR95 of every signal, from the samples of "
                   "finished eval runs; no model "
                   "is run. A folder with several tasks counts each as a set of its own. length_adjusted and "
                   "length_matched: the AUROC "
                   "without what the length of the questions explains, and between questions of like length.",
    .operands = "OOD_RUN...",
    .options = options,
    .size = sizeof(ood_options),
    .defaults = defaults,
    .run = run,
};
