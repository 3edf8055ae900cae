/* reproduce.c: `vmoer reproduce`, the whole protocol on one model. */
#include "verbs.h"

#include <stdio.h>
#include <string.h>

typedef struct reproduce_options {
    common_options common;
    vmoer_reproduce_params p;
} reproduce_options;

static const option options[] = {
    MODEL_OPTION(reproduce_options, p.model, "Mixture-of-Experts: " MODEL_TEXT),
    {.name = "Experiment", .kind = OPTION_HEADING},
    {"output_path", 0, OPTION_TEXT, "DIR",
     "plan.json, a folder a stage, results.json, timings.json, report.html; stages that are done there are not run "
     "again",
     offsetof(reproduce_options, p.output_path), NULL, 1},
    {"plan", 0, OPTION_FLAG, NULL, "only say what would be done, how long it takes and how much memory",
     offsetof(reproduce_options, p.plan), NULL, 0},
    {"shard", 0, OPTION_TEXT, "I/N",
     "only the seeds I, I + N ...: N processes or machines may share the folder; a run without it then puts the "
     "results together",
     offsetof(reproduce_options, p.shard), NULL, 0},
    {"quick", 0, OPTION_FLAG, NULL,
     "a smoke run: a few steps, items and passes, the first task alone, one seed; its figures mean nothing",
     offsetof(reproduce_options, p.quick), NULL, 0},
    {"settings", 0, OPTION_TEXT, "FILE", "JSON of hyper-parameters over the built-in ones (docs/FORMATS.md)",
     offsetof(reproduce_options, p.settings), NULL, 0},
    {"routers", 0, OPTION_TEXT, "LIST", "on the published MAP: names in the settings, with commas; all",
     offsetof(reproduce_options, p.routers), NULL, 0},
    {"nll_routers", 0, OPTION_TEXT, "LIST", "of these on the NLL-stopped MAP",
     offsetof(reproduce_options, p.nll_routers), NULL, 0},
    {"seeds", 0, OPTION_INT, "N", "MAPs a task, a router seed each; 0: three, with --quick one",
     offsetof(reproduce_options, p.seeds), NULL, 0},
    {"passes", 0, OPTION_INT, "S", "samples of routers that need them, where the settings do not say",
     offsetof(reproduce_options, p.passes), NULL, 0},
    {.name = "Questions", .kind = OPTION_HEADING},
    {"tasks", 0, OPTION_TEXT, "LIST",
     "tasks with MAPs of their own, with commas; those without data are left out. Stability and OoD: of the first",
     offsetof(reproduce_options, p.tasks), NULL, 0},
    {"split", 0, OPTION_ENUM, NULL, "what is evaluated: test, or heldout for a pilot",
     offsetof(reproduce_options, p.split), split_words, 0},
    DATA_OPTION(reproduce_options, p.data_dir),
    {"ood_sample", 0, OPTION_INT, "N", "questions of each OoD set, picked by a hash of their text; 0: all",
     offsetof(reproduce_options, p.ood_sample), NULL, 0},
    {"bootstrap", 0, OPTION_INT, "N", "resamples for the 95% intervals", offsetof(reproduce_options, p.bootstrap), NULL,
     0},
    {.name = "Machine", .kind = OPTION_HEADING},
    COMPUTE_OPTION(reproduce_options, p.compute),
    THREADS_OPTION(reproduce_options, p.threads),
    {"memory_gib", 0, OPTION_REAL, "X", "bound for kept activations in the trainings",
     offsetof(reproduce_options, p.memory_gib), NULL, 0},
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(reproduce_options *)target = (reproduce_options){.p = vmoer_reproduce_params_default()};
}

/* Every stage: CSV. */
static void print_stages(const json_t *stages) {
    size_t i;
    const json_t *stage;
    table *t = table_new(OUTPUT_CSV);
    table_column(t, "stage");
    table_column(t, "folder");
    table_column(t, "done");
    table_column(t, "seconds");
    json_array_foreach(stages, i, stage) {
        table_value(t, stage, "stage", 0);
        table_value(t, stage, "folder", 0);
        table_cell(t, json_is_true(json_object_get(stage, "done")) ? "yes" : "no");
        table_value(t, stage, "seconds", 1);
    }
    table_print(t);
}

/* The stages of one kind, which follow each other, as a row. */
static void print_plan(const json_t *root) {
    const json_t *stages = json_object_get(root, "stages"), *skipped = json_object_get(root, "skipped"), *why;
    size_t n = json_array_size(stages);
    const char *name;
    table *t = table_new(OUTPUT_MD);
    table_column(t, "stage");
    table_column(t, "folders");
    table_column(t, "done");
    table_column(t, "minutes");
    for (size_t i = 0, first = 0; i < n; first = i) {
        const char *kind = json_string_value(json_object_get(json_array_get(stages, first), "stage"));
        size_t done = 0;
        double seconds = 0;
        for (; i < n; i++) {
            const json_t *stage = json_array_get(stages, i);
            if (strcmp(json_string_value(json_object_get(stage, "stage")), kind) != 0) break;
            done += json_is_true(json_object_get(stage, "done"));
            seconds += json_number_value(json_object_get(stage, "seconds"));
        }
        table_cell(t, "%s", kind);
        table_cell(t, "%zu", i - first);
        table_cell(t, "%zu", done);
        table_cell(t, "%.1f", seconds / 60);
    }
    table_print(t);
    printf("\nabout %.1f min and %.2f GiB\n", json_number_value(json_object_get(root, "seconds")) / 60,
           json_number_value(json_object_get(root, "memory_bytes")) / 1073741824.0);
    json_object_foreach((json_t *)skipped, name, why) printf("without %s: %s\n", name, json_string_value(why));
}

static void add_figure(table *t, const json_t *entry, const char *key) {
    const json_t *figure = json_object_get(entry, key);
    json_t *shown =
        json_pack("{s:O, s:{s:O}}", key, json_object_get(figure, "mean"), "ci95", key, json_object_get(figure, "ci95"));
    table_interval(t, shown, key, 3);
    json_decref(shown);
}

static void print_calibration(const json_t *root, output_format output) {
    static const char *const measures[] = {"acc", "nll", "ece", "brier"};
    enum { MEASURES = sizeof measures / sizeof *measures };
    size_t i;
    const json_t *entry;
    table *t = table_new(output);
    table_column(t, "task");
    table_column(t, "map");
    table_column(t, "router");
    table_column(t, "n");
    table_column(t, "seeds");
    for (int k = 0; k < MEASURES; k++) table_interval_column(t, measures[k]);
    table_column(t, "ece_floor_p95");
    json_array_foreach(json_object_get(root, "calibration"), i, entry) {
        table_value(t, entry, "task", 0);
        table_value(t, entry, "map", 0);
        table_value(t, entry, "router", 0);
        table_value(t, entry, "n", 0);
        table_value(t, entry, "seeds", 0);
        for (int k = 0; k < MEASURES; k++) add_figure(t, entry, measures[k]);
        table_value(t, json_object_get(entry, "ece_floor"), "p95", 3);
    }
    table_print(t);
}

static void print_goals(const json_t *root, output_format output) {
    size_t i;
    const json_t *entry;
    table *t = table_new(output);
    table_column(t, "goal");
    table_column(t, "wanted");
    table_column(t, "value");
    table_column(t, "holds");
    json_array_foreach(json_object_get(root, "goals"), i, entry) {
        const json_t *holds = json_object_get(entry, "holds");
        table_value(t, entry, "name", 0);
        table_value(t, entry, "goal", 0);
        table_value(t, entry, "value", 3);
        table_cell(t, json_is_null(holds) ? "-" : json_is_true(holds) ? "yes" : "no");
    }
    table_print(t);
}

static void print_reproduce(const json_t *root, output_format output) {
    const char *kind = json_string_value(json_object_get(root, "kind"));
    if (kind && strcmp(kind, "plan") == 0) {
        if (output == OUTPUT_MD)
            print_plan(root);
        else
            print_stages(json_object_get(root, "stages"));
        return;
    }
    print_calibration(root, output);
    if (output != OUTPUT_MD) return; /* one table a CSV; the JSON has everything */
    printf("\n");
    print_goals(root, output);
}

static int run(const void *given, char **operands, int n_operands) {
    const reproduce_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("reproduce", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_reproduce(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_reproduce);
}

const verb verb_reproduce = {
    .name = "reproduce",
    .summary = "the whole protocol on one model: MAPs, routers, calibration, stability, OoD, report",
    .description =
        "For every task that has data: a MAP a seed (of which two states are kept, as published and NLL-stopped), the "
        "layers, every router, calibration; for the first task stability and out-of-distribution sets too; then "
        "results.json over all seeds, with bootstrap intervals and paired differences, and report.html. A plan with "
        "times and memory, from a short probe of the model, comes first. Every stage is a folder; whatever stopped the "
        "run, the same command goes on, and the results are byte-equal.",
    .options = options,
    .size = sizeof(reproduce_options),
    .defaults = defaults,
    .run = run,
};
