/* bench.c: `vmoer bench`, speeds beside what the machine can do. */
#include "verbs.h"

typedef struct bench_options {
    common_options common;
    vmoer_bench_params p;
} bench_options;

static const option options[] = {
    MODEL_OPTION(bench_options, p.model, MODEL_TEXT),
    ADAPTER_OPTION(bench_options, p.adapter),
    {"router", 0, OPTION_TEXT, "FILE",
     "router of calibrate; without it a VGLR-FC is made in memory, its heads small random numbers",
     offsetof(bench_options, p.router), NULL, 0},
    {"layers", 0, OPTION_TEXT, "LIST",
     "of the router made in memory; auto: a third of the layers, ten at most, evenly spread; all; or like 3,7-9",
     offsetof(bench_options, p.layers), NULL, 0},
    {.name = "Tests", .kind = OPTION_HEADING},
    {"tests", 0, OPTION_TEXT, "LIST",
     "all, or some of peak, prefill, router, decode (token by token), eval, four-prompts (eval without shared "
     "prefixes), "
     "finetune, calibrate",
     offsetof(bench_options, p.tests), NULL, 0},
    {"lengths", 'p', OPTION_TEXT, "LIST", "tokens of the prompts of prefill; the router's is the last",
     offsetof(bench_options, p.lengths), NULL, 0},
    {"samples", 0, OPTION_TEXT, "LIST", "draws of the router", offsetof(bench_options, p.samples), NULL, 0},
    {"targets", 0, OPTION_TEXT, "LIST", "of finetune: attention, shared, experts, router",
     offsetof(bench_options, p.targets), NULL, 0},
    {"rank", 0, OPTION_INT, "N", "of finetune's LoRA matrices", offsetof(bench_options, p.rank), NULL, 0},
    {"batch_size", 'b', OPTION_INT, "N", "questions a training step", offsetof(bench_options, p.batch_size), NULL, 0},
    {"repeats", 'r', OPTION_INT, "N", "rounds; a test's shortest time counts", offsetof(bench_options, p.repeats), NULL,
     0},
    {"seed", 0, OPTION_SEED, "N", "of every draw", offsetof(bench_options, p.seed), NULL, 0},
    COMPUTE_OPTION(bench_options, p.compute),
    THREADS_OPTION(bench_options, p.threads),
    TRAINING_QUESTION_OPTIONS(bench_options, p.questions),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(bench_options *)target = (bench_options){.p = vmoer_bench_params_default()}; }

static void print_bench(const json_t *root, output_format output) {
    static const char *const columns[] = {"model", "size_gib", "params_m", "isa",     "threads", "test",
                                          "rate",  "unit",     "gflops",   "of_peak", "overhead"};
    static const char *const more[] = {"count", "seconds", "repeats", "cpu", "build"};
    const json_t *model = json_object_get(root, "model");
    size_t i, n = output == OUTPUT_CSV ? sizeof more / sizeof *more : 0;
    json_t *row;
    table *t = table_new(output);
    for (size_t k = 0; k < sizeof columns / sizeof *columns; k++) table_column(t, columns[k]);
    for (size_t k = 0; k < n; k++) table_column(t, more[k]);
    json_array_foreach(json_object_get(root, "results"), i, row) {
        table_value(t, model, "name", 0);
        table_cell(t, "%.2f", json_number_value(json_object_get(model, "file_bytes")) / 1073741824);
        table_cell(t, "%.1f", json_number_value(json_object_get(model, "parameters")) / 1e6);
        table_value(t, root, "isa", 0);
        table_value(t, row, "threads", 0);
        table_value(t, row, "test", 0);
        table_value(t, row, "rate", 1);
        table_value(t, row, "unit", 0);
        table_value(t, row, "gflops", 0);
        table_value(t, row, "of_peak", 3);
        table_value(t, row, "overhead", 2);
        for (size_t k = 0; k < n; k++) table_value(t, k < 3 ? row : root, more[k], 0);
    }
    table_print(t);
    if (output == OUTPUT_MD)
        printf("\ncpu: %s; vmoer %s\n", json_string_value(json_object_get(root, "cpu")),
               json_string_value(json_object_get(root, "build")));
}

static int run(const void *given, char **operands, int n_operands) {
    const bench_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("bench", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_bench(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_bench);
}

const verb verb_bench = {
    .name = "bench",
    .summary = "prefill, router, decode, evaluation and training speed beside the machine's peaks",
    .description =
        "Measures tokens/s of prefill and of decode, how much longer it takes with the variational router (overhead, "
        "in percent of "
        "the time), questions/s of evaluation and training on a task's training questions, and the machine's peaks: "
        "multiply-adds in registers, reading memory. gflops counts what the products need, two for a multiply-add; "
        "of_peak is its share of the peak of the same arithmetic on as many threads. Tests that share a model run in "
        "turn, and the shortest time of each counts. Writes nothing: what it trains is a copy in memory.",
    .options = options,
    .size = sizeof(bench_options),
    .defaults = defaults,
    .run = run,
};
