/* calibrate.c: `vmoer calibrate`, a variational router over a frozen model. */
#include "verbs.h"

typedef struct calibrate_options {
    common_options common;
    vmoer_calibrate_params p;
} calibrate_options;

static const char *const router_words[] = {"vglr-fc",       "vglr-mf", "vglr-lr",    "vglr-noise", "isotropic",
                                           "residual",      "vtsr",    "vtsr-paper", "fixed-t",    "roe",
                                           "expert-sample", "weights", "mc-dropout", "swag",       "ensemble",
                                           "temperature",   NULL};
static const char *const objective_words[] = {"mean", "mixture", NULL};
static const char *const train_on_words[] = {"train", "heldout", NULL};

static const option options[] = {
    MODEL_OPTION(calibrate_options, p.train.model, MODEL_TEXT),
    {"adapter", 0, OPTION_TEXT, "PATH", "the MAP adapter beneath the router",
     offsetof(calibrate_options, p.train.adapter), NULL, 0},
    {"quick", 0, OPTION_FLAG, NULL,
     "trains nothing: an isotropic router with the widest noise that leaves 99% of up to 500 held-out answers alone, "
     "and the output temperature that suits it",
     offsetof(calibrate_options, p.quick), NULL, 0},
    {.name = "Router", .kind = OPTION_HEADING},
    {"router", 0, OPTION_TEXT, NULL,
     "Gaussian logits (vglr), experts drawn at a temperature, uncertain weights (mc-dropout to ensemble), and "
     "controls: "
     "docs/METHOD.md has each",
     offsetof(calibrate_options, p.router), router_words, 0},
    {"layers", 0, OPTION_TEXT, "LIST", "auto: the least stable under noise; all; or numbers and ranges like 3,7-9",
     offsetof(calibrate_options, p.layers), NULL, 0},
    {"width", 0, OPTION_INT, "N", "of the shared trunk", offsetof(calibrate_options, p.width), NULL, 0},
    {"prior_scale", 0, OPTION_REAL, "X", "s0, the prior's standard deviation",
     offsetof(calibrate_options, p.prior_scale), NULL, 0},
    {"beta", 0, OPTION_REAL, "X", "weight of the KL, averaged over tokens and layers",
     offsetof(calibrate_options, p.beta), NULL, 0},
    {"initial_scale", 0, OPTION_REAL, "X", "diagonal of L at the start", offsetof(calibrate_options, p.initial_scale),
     NULL, 0},
    {"draws", 0, OPTION_INT, "N", "training draws a question and step, in antithetic pairs",
     offsetof(calibrate_options, p.draws), NULL, 0},
    {"objective", 0, OPTION_TEXT, NULL,
     "of several draws: the mean of their losses (the ELBO), or the loss of the mean of their probabilities",
     offsetof(calibrate_options, p.objective), objective_words, 0},
    {"rank", 0, OPTION_INT, "N",
     "columns of L below its diagonal, or deviations that swag keeps; 0 here and below: the router's own",
     offsetof(calibrate_options, p.rank), NULL, 0},
    {"members", 0, OPTION_INT, "N", "networks, or draws of the weights, that answer together",
     offsetof(calibrate_options, p.members), NULL, 0},
    {"keep_experts", 0, OPTION_INT, "N", "that are always taken; 0: half of the model's top-k",
     offsetof(calibrate_options, p.keep_experts), NULL, 0},
    {"route_temperature", 0, OPTION_REAL, "X", "of the draw of the experts",
     offsetof(calibrate_options, p.route_temperature), NULL, 0},
    {"noise", 0, OPTION_REAL, "X", "standard deviation of the logits' noise; rate of the dropout",
     offsetof(calibrate_options, p.noise), NULL, 0},
    {"train_on", 0, OPTION_TEXT, NULL, "which part of the training questions the router learns from",
     offsetof(calibrate_options, p.train_on), train_on_words, 0},
    {"fit_temperature", 0, OPTION_FLAG, NULL,
     "also fits the output temperature on the held-out part, with the router in place; --router temperature always "
     "does",
     offsetof(calibrate_options, p.fit_temperature), NULL, 0},
    TRAINING_QUESTION_OPTIONS(calibrate_options, p.train.questions),
    {"task_file", 0, OPTION_TEXT, "FILE",
     "with --quick, in place of --tasks: your own questions, all of them the held-out part (as for eval)",
     offsetof(calibrate_options, p.train.questions.task_file), NULL, 0},
    TRAIN_OPTIONS(calibrate_options, p.train),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(calibrate_options *)target = (calibrate_options){.p = vmoer_calibrate_params_default()};
}

static int run(const void *given, char **operands, int n_operands) {
    const calibrate_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("calibrate", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_calibrate(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_training);
}

const verb verb_calibrate = {
    .name = "calibrate",
    .summary = "trains a variational router on a task; everything else stays frozen",
    .description = "Trains the small networks that make the routing decision Bayesian, and writes a router file that "
                   "only fits this model "
                   "and this adapter.",
    .options = options,
    .size = sizeof(calibrate_options),
    .defaults = defaults,
    .run = run,
};
