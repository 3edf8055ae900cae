/* conformal.c: `vmoer conformal`, answer sets and abstention thresholds from saved runs. */
#include "verbs.h"

typedef struct conformal_options {
    common_options common;
    vmoer_conformal_params p;
} conformal_options;

static const option options[] = {
    {"run", 0, OPTION_TEXT, "DIR",
     "folder of an eval run: halved at random, and what --calibration_run's sets are asked of",
     offsetof(conformal_options, p.run), NULL, 1},
    {"calibration_run", 0, OPTION_TEXT, "DIR",
     "folder of an eval run of the same model on other items, held-out ones: its sets and thresholds on --run",
     offsetof(conformal_options, p.calibration_run), NULL, 0},
    {"alpha", 0, OPTION_REAL, "X", "a set misses the right answer with this probability at most",
     offsetof(conformal_options, p.alpha), NULL, 0},
    {"accuracy", 0, OPTION_TEXT, "LIST", "accuracies of the answered questions to find thresholds for, with commas",
     offsetof(conformal_options, p.accuracy), NULL, 0},
    {"output_path", 0, OPTION_TEXT, "DIR", "folder for results.json", offsetof(conformal_options, p.output_path), NULL,
     0},
    {"halves", 0, OPTION_INT, "N", "random halvings of the run", offsetof(conformal_options, p.halves), NULL, 0},
    {"seed", 0, OPTION_SEED, "N", "of the halvings and of the randomised sets", offsetof(conformal_options, p.seed),
     NULL, 0},
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(conformal_options *)target = (conformal_options){.p = vmoer_conformal_params_default()};
}

/* One row a way of making sets: the random halves, and the shift where there is one. */
static void print_sets(const json_t *root, output_format output) {
    static const char *const from[] = {"halves", "shift"}, *const scores[] = {"lac", "aps"};
    table *t = table_new(output);
    table_column(t, "run");
    table_column(t, "task");
    table_column(t, "calibrated_on");
    table_column(t, "score");
    table_interval_column(t, "coverage");
    table_interval_column(t, "by_theory");
    table_column(t, "size");
    const char *task;
    json_t *result;
    json_object_foreach(json_object_get(root, "results"), task, result) {
        for (int f = 0; f < 2; f++) {
            json_t *source = json_object_get(result, from[f]);
            for (int s = 0; s < 2 && json_is_object(source); s++) {
                const json_t *sets = json_object_get(source, scores[s]);
                table_value(t, root, "label", 0);
                table_cell(t, "%s", task);
                table_cell(t, "%s", f == 0 ? "half" : "other run");
                table_cell(t, "%s", scores[s]);
                table_interval(t, sets, "coverage", 3);
                table_interval(t, json_object_get(source, "theory"), "coverage", 3);
                table_value(t, sets, "size", 2);
            }
        }
    }
    table_print(t);
}

static void print_conformal(const json_t *root, output_format output) {
    print_sets(root, output);
    if (output != OUTPUT_MD) return;
    printf("\n");
    static const char *const columns[] = {"accuracy", "confidence", "coverage", "selective_accuracy"};
    table *t = table_new(output);
    table_column(t, "task");
    table_column(t, "calibrated_on");
    for (int c = 0; c < 4; c++) table_column(t, columns[c]);
    const char *task;
    json_t *result, *row;
    size_t i;
    json_object_foreach(json_object_get(root, "results"), task, result) {
        const json_t *shift = json_object_get(result, "shift");
        for (int f = 0; f < 2; f++) {
            json_array_foreach(json_object_get(f ? shift : result, "abstention"), i, row) {
                table_cell(t, "%s", task);
                table_cell(t, "%s", f ? "other run" : "itself");
                for (int c = 0; c < 4; c++) table_value(t, row, columns[c], 3);
            }
        }
    }
    table_print(t);
}

static int run(const void *given, char **operands, int n_operands) {
    const conformal_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("conformal", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_conformal(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_conformal);
}

const verb verb_conformal = {
    .name = "conformal",
    .summary = "answer sets that hold the right answer with a chosen probability, from saved eval runs",
    .description = "Split-conformal answer sets by two scores (lac: 1 - probability, the smallest sets; aps: adaptive, "
                   "randomised), "
                   "their coverage over random halves of a run beside what theory gives, and with --calibration_run "
                   "their coverage where the "
                   "calibration items are other ones. Then, for each --accuracy, the confidence from which on to "
                   "answer so that the answered "
                   "questions reach it, and how many are answered. No model is run.",
    .options = options,
    .size = sizeof(conformal_options),
    .defaults = defaults,
    .run = run,
};
