/* stability.c: `vmoer stability`, how much of a router's choices survives noise on its input. */
#include "verbs.h"

typedef struct stability_options {
    common_options common;
    vmoer_stability_params p;
} stability_options;

static const option options[] = {
    MODEL_OPTION(stability_options, p.model, MODEL_TEXT),
    ADAPTER_OPTION(stability_options, p.load.adapter),
    ROUTER_OPTION(stability_options, p.load.router),
    {"inference", 0, OPTION_ENUM, NULL, "with a router, how it answers, as in eval",
     offsetof(stability_options, p.load.inference), inference_words, 0},
    {"samples", 0, OPTION_INT, "S", "as in eval", offsetof(stability_options, p.load.samples), NULL, 0},
    {.name = "Questions", .kind = OPTION_HEADING},
    {"tasks", 0, OPTION_TEXT, "LIST", "tasks by name, with commas: " TASK_NAMES,
     offsetof(stability_options, p.questions.tasks), NULL, 1},
    {"split", 0, OPTION_ENUM, NULL, "which part of the tasks", offsetof(stability_options, p.questions.split),
     split_words, 0},
    {"questions", 0, OPTION_INT, "N", "the first N questions of each task; 0: all",
     offsetof(stability_options, p.questions.limit), NULL, 0},
    DATA_OPTION(stability_options, p.questions.data_dir),
    {.name = "Noise", .kind = OPTION_HEADING},
    {"sigmas", 0, OPTION_TEXT, "LIST",
     "standard deviations, with commas; each is measured as it is and relative to rms(u) of each token",
     offsetof(stability_options, p.sigmas), NULL, 0},
    {"target", 0, OPTION_REAL, "J",
     "also find the relative sigma at which the deterministic router's mean Jaccard index falls to J, and measure "
     "there; 0: no",
     offsetof(stability_options, p.target), NULL, 0},
    {"seed", 0, OPTION_SEED, "N", "of the noise and of the router's draws", offsetof(stability_options, p.load.seed),
     NULL, 0},
    {"output_path", 0, OPTION_TEXT, "DIR", "folder for results.json and timings.json",
     offsetof(stability_options, p.output_path), NULL, 1},
    LABEL_OPTION(stability_options, p.label),
    COMPUTE_OPTION(stability_options, p.load.compute),
    THREADS_OPTION(stability_options, p.load.threads),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(stability_options *)target = (stability_options){.p = vmoer_stability_params_default()};
}

static const char *const figures[] = {"isolated",   "isolated_shared", "isolated_chance_corrected",
                                      "propagated", "load_entropy",    "between_tokens"};
enum { FIGURES = sizeof figures / sizeof *figures };

static void add_row(table *t, const json_t *root, const json_t *level, const json_t *row, const char *layers) {
    if (!json_is_object(row)) return;
    table_value(t, root, "label", 0);
    table_value(t, level, "sigma", 4);
    table_cell(t, "%s", json_is_true(json_object_get(level, "relative")) ? "relative" : "absolute");
    if (layers)
        table_cell(t, "%s", layers);
    else
        table_value(t, row, "layer", 0);
    for (int k = 0; k < FIGURES; k++) table_value(t, row, figures[k], 4);
}

/* The means; CSV has the layers too. */
static void print_stability(const json_t *root, output_format output) {
    const json_t *results = json_object_get(root, "results"), *at = json_object_get(results, "sigma_at"),
                 *alive = json_object_get(results, "alive");
    size_t i, l;
    json_t *level, *layer;
    table *t = table_new(output);
    table_column(t, "run");
    table_column(t, "sigma");
    table_column(t, "noise");
    table_column(t, "layers");
    for (int k = 0; k < FIGURES; k++) table_column(t, figures[k]);
    json_array_foreach(json_object_get(results, "sigmas"), i, level) {
        add_row(t, root, level, json_object_get(level, "mean"), "all");
        add_row(t, root, level, json_object_get(level, "mean_bayesian"), "router's");
        if (output == OUTPUT_CSV)
            json_array_foreach(json_object_get(level, "layers"), l, layer) add_row(t, root, level, layer, NULL);
    }
    table_print(t);
    if (output != OUTPUT_MD) return;
    printf("\nchance: %.4f\n", json_number_value(json_object_get(results, "chance")));
    if (json_is_object(alive)) {
        printf("between two draws %.0f%% of the router's layers choose anew for some token, %.1f%% of the tokens\n",
               100 * json_number_value(json_object_get(alive, "flipped_layers")),
               100 * json_number_value(json_object_get(alive, "flip_rate")));
        if (json_is_real(json_object_get(alive, "scale_variation")))
            printf("tr Sigma varies by %.3g of its mean over the tokens; %.1f%% of |L|^2 is off the diagonal\n",
                   json_number_value(json_object_get(alive, "scale_variation")),
                   100 * json_number_value(json_object_get(alive, "off_diagonal")));
    }
    if (json_is_object(at))
        printf("the deterministic router's index falls to %g at a relative sigma of %.4g\n",
               json_number_value(json_object_get(at, "jaccard")), json_number_value(json_object_get(at, "sigma")));
}

static int run(const void *given, char **operands, int n_operands) {
    const stability_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("stability", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_stability(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_stability);
}

const verb verb_stability = {
    .name = "stability",
    .summary = "how much of a router's choice of experts survives noise on its input, layer by layer",
    .description =
        "Adds Gaussian noise to what the routers see and compares the chosen experts by their Jaccard index: isolated, "
        "noise in one layer at a time, and propagated, noise in all layers at once and carried through the model. "
        "Clean "
        "and noisy choices draw independently; isolated_shared is with the same draws. isolated_chance_corrected is 0 "
        "where nothing but chance agrees. load_entropy (nats) and between_tokens, the index of two different tokens, "
        "tell a stable router from a constant one.",
    .options = options,
    .size = sizeof(stability_options),
    .defaults = defaults,
    .run = run,
};
