/* eval.c: `vmoer eval`, tasks to accuracy and calibration. */
#include "verbs.h"

#include <stdbool.h>
#include <string.h>

typedef struct eval_options {
    common_options common;
    vmoer_eval_params p;
} eval_options;

static const char *const format_words[] = {"cloze", "letter", "lm-eval", NULL};

static const option options[] = {
    MODEL_OPTION(eval_options, p.model, MODEL_TEXT),
    ADAPTER_OPTION(eval_options, p.load.adapter),
    ROUTER_OPTION(eval_options, p.load.router),
    {"inference", 0, OPTION_ENUM, NULL,
     "with a router, what stands for the mean over draws: no noise, closed form, draws in each router, the "
     "second-order "
     "formula, or passes through the model with draws of their own; auto: what suits the router",
     offsetof(eval_options, p.load.inference), inference_words, 0},
    {"samples", 0, OPTION_INT, "S",
     "draws of --inference sample, or passes; 0: 32 draws, 10 passes, one where auto draws the experts",
     offsetof(eval_options, p.load.samples), NULL, 0},
    {"routing", 0, OPTION_ENUM, NULL, "diagnostics: how the experts are chosen", offsetof(eval_options, p.load.routing),
     routing_words, 0},
    QUESTION_OPTIONS(eval_options, p.questions),
    {"split", 0, OPTION_ENUM, NULL, "which part of the tasks", offsetof(eval_options, p.questions.split), split_words,
     0},
    {.name = "Evaluation", .kind = OPTION_HEADING},
    {"format", 0, OPTION_TEXT, NULL, "how a question becomes a prompt", offsetof(eval_options, p.format), format_words,
     0},
    {"output_path", 0, OPTION_TEXT, "DIR",
     "folder for results.json, samples.jsonl, timings.json; samples already there are not run again",
     offsetof(eval_options, p.output_path), NULL, 1},
    LABEL_OPTION(eval_options, p.label),
    {"bootstrap", 0, OPTION_INT, "N", "resamples for the 95% intervals", offsetof(eval_options, p.bootstrap), NULL, 0},
    {"hidden", 0, OPTION_FLAG, NULL,
     "also write hidden.safetensors: the hidden state that each question ends with, for ood --fit_run",
     offsetof(eval_options, p.hidden), NULL, 0},
    {"seed", 0, OPTION_SEED, "N", "of every draw", offsetof(eval_options, p.load.seed), NULL, 0},
    {"batch_size", 'b', OPTION_INT, "N", "questions a pass, 0: automatic; does not change any result",
     offsetof(eval_options, p.batch_size), NULL, 0},
    COMPUTE_OPTION(eval_options, p.load.compute),
    THREADS_OPTION(eval_options, p.load.threads),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(eval_options *)target = (eval_options){.p = vmoer_eval_params_default()}; }

static void print_eval(const json_t *root, output_format output) {
    static const char *const measures[] = {"acc", "nll", "ece", "mce", "brier", "acc_norm"};
    const char *format = json_string_value(json_object_get(json_object_get(root, "config"), "format"));
    bool harness = format && strcmp(format, "lm-eval") == 0; /* acc_norm is its own */
    int n = (int)(sizeof measures / sizeof *measures) - !harness;
    table *t = table_new(output);
    table_column(t, "run");
    table_column(t, "task");
    table_column(t, "n");
    for (int k = 0; k < n; k++) table_interval_column(t, measures[k]);
    table_column(t, "ece_floor_p95");
    table_column(t, "excess_ece");
    table_column(t, "aurc");
    const char *task;
    json_t *result;
    json_object_foreach(json_object_get(root, "results"), task, result) {
        table_value(t, root, "label", 0);
        table_cell(t, "%s", task);
        table_value(t, result, "n", 0);
        for (int k = 0; k < n; k++) table_interval(t, result, measures[k], 3);
        table_value(t, json_object_get(result, "ece_floor"), "p95", 3);
        table_value(t, result, "excess_ece", 3);
        table_value(t, result, "aurc", 3);
    }
    table_print(t);
}

static int run(const void *given, char **operands, int n_operands) {
    const eval_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("eval", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_eval(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_eval);
}

const verb verb_eval = {
    .name = "eval",
    .summary = "tasks to accuracy, calibration and uncertainty, with intervals",
    .description = "Answers multiple-choice questions and measures accuracy (acc), log loss (nll), expected and "
                   "maximum calibration error "
                   "(ece, mce; 15 bins), Brier score, each with a bootstrap 95% interval; ece_floor_p95 is what a "
                   "perfectly calibrated model "
                   "of the same confidence would show one time in twenty. An interrupted run goes on where it stopped "
                   "when it is given the "
                   "same --output_path.",
    .options = options,
    .size = sizeof(eval_options),
    .defaults = defaults,
    .run = run,
};
