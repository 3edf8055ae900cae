/* cost.c: `vmoer cost`, what a variational router adds. */
#include "verbs.h"

typedef struct cost_options {
    common_options common;
    vmoer_cost_params p;
} cost_options;

static const option options[] = {
    MODEL_OPTION(cost_options, p.model, MODEL_TEXT),
    ADAPTER_OPTION(cost_options, p.load.adapter),
    {"router", 0, OPTION_TEXT, "FILE", "router of calibrate", offsetof(cost_options, p.load.router), NULL, 1},
    {"inference", 0, OPTION_ENUM, NULL, "how the router answers, as in eval", offsetof(cost_options, p.load.inference),
     inference_words, 0},
    {"samples", 0, OPTION_INT, "S", "as in eval", offsetof(cost_options, p.load.samples), NULL, 0},
    {.name = "Measurement", .kind = OPTION_HEADING},
    {"length", 'p', OPTION_INT, "N", "tokens of the prompt, which are random", offsetof(cost_options, p.length), NULL,
     0},
    {"rounds", 'r', OPTION_INT, "N", "in each the model answers without the router, with it, and with it in all layers",
     offsetof(cost_options, p.rounds), NULL, 0},
    {"seed", 0, OPTION_SEED, "N", "of the prompt and of the router's draws", offsetof(cost_options, p.load.seed), NULL,
     0},
    {"output_path", 0, OPTION_TEXT, "DIR", "folder for results.json and timings.json",
     offsetof(cost_options, p.output_path), NULL, 0},
    LABEL_OPTION(cost_options, p.label),
    COMPUTE_OPTION(cost_options, p.load.compute),
    THREADS_OPTION(cost_options, p.load.threads),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(cost_options *)target = (cost_options){.p = vmoer_cost_params_default()}; }

static void print_cost(const json_t *root, output_format output) {
    static const char *const ways[] = {"deterministic", "chosen", "all"};
    static const struct {
        const char *name;
        int decimals;
        int timed;
    } columns[] = {{"n_layers", 0, 0},
                   {"parameters", 0, 0},
                   {"flops_token", 0, 0},
                   {"flops_share", 5, 0},
                   {"flops_counted_share", 5, 0},
                   {"workspace_bytes", 0, 0},
                   {"best", 5, 1},
                   {"median", 5, 1},
                   {"overhead", 4, 1}};
    enum { COLUMNS = sizeof columns / sizeof *columns };
    table *t = table_new(output);
    table_column(t, "run");
    table_column(t, "layers");
    for (int k = 0; k < COLUMNS; k++) table_column(t, columns[k].name);
    for (int i = 0; i < 3; i++) {
        const json_t *row = json_object_get(json_object_get(root, "results"), ways[i]),
                     *seconds = json_object_get(json_object_get(root, "seconds"), ways[i]);
        table_value(t, root, "label", 0);
        table_cell(t, "%s", i ? ways[i] : "none");
        for (int k = 0; k < COLUMNS; k++)
            table_value(t, columns[k].timed ? seconds : row, columns[k].name, columns[k].decimals);
    }
    table_print(t);
}

static int run(const void *given, char **operands, int n_operands) {
    const cost_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("cost", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_cost(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_cost);
}

const verb verb_cost = {
    .name = "cost",
    .summary = "what a router adds: operations, parameters, working memory, time",
    .description =
        "Answers one prompt with the model's own router, with the given one in its layers (chosen), and with one like "
        "it in all layers, whose layers repeat its values. The first row is what the model itself takes, the others "
        "what is added: flops_token by formula, flops_share of the model's, flops_counted_share the same as counted "
        "where the products are issued. best and median are seconds of a prompt in interleaved rounds, overhead the "
        "median of how much longer a round took.",
    .options = options,
    .size = sizeof(cost_options),
    .defaults = defaults,
    .run = run,
};
