/* upcycle.c: `vmoer upcycle`, a dense model to a Mixture-of-Experts. */
#include "verbs.h"

typedef struct upcycle_options {
    common_options common;
    vmoer_upcycle_params p;
} upcycle_options;

static const option options[] = {
    MODEL_OPTION(upcycle_options, p.train.model, "dense model: " MODEL_TEXT),
    {"recipe", 0, OPTION_TEXT, "FILE",
     "rebuild from this recipe (seconds, the same bytes everywhere); without it one is found",
     offsetof(upcycle_options, p.recipe), NULL, 0},
    {"output_path", 0, OPTION_TEXT, "FILE",
     "the MoE GGUF; a found recipe goes beside it as <name>.recipe.safetensors, its record as <name>.training.json",
     offsetof(upcycle_options, p.train.output_path), NULL, 1},
    {.name = "Split", .kind = OPTION_HEADING},
    {"experts", 0, OPTION_INT, "N", "experts of equal width, the shared ones included",
     offsetof(upcycle_options, p.experts), NULL, 0},
    {"shared", 0, OPTION_INT, "N", "experts that always run", offsetof(upcycle_options, p.shared), NULL, 0},
    {"top_k", 0, OPTION_INT, "K", "routed experts a token", offsetof(upcycle_options, p.top_k), NULL, 0},
    {"tokens", 0, OPTION_INT, "N", "activations a layer that the split is found on",
     offsetof(upcycle_options, p.tokens), NULL, 0},
    {"spread", 0, OPTION_REAL, "X", "standard deviation of the routers' logits at the start",
     offsetof(upcycle_options, p.spread), NULL, 0},
    TRAINING_QUESTION_OPTIONS(upcycle_options, p.train.questions),
    {.name = "Distillation", .kind = OPTION_HEADING},
    {"targets", 0, OPTION_TEXT, "LIST",
     "what LoRA changes beside the routers, with commas: attention, shared, experts (shared and routed)",
     offsetof(upcycle_options, p.targets), NULL, 0},
    {"rank", 0, OPTION_INT, "N", "of the LoRA kept in the recipe; 0: no distillation",
     offsetof(upcycle_options, p.rank), NULL, 0},
    {"router_learning_rate", 0, OPTION_REAL, "X", "of the routers; 0: that of everything else",
     offsetof(upcycle_options, p.router_learning_rate), NULL, 0},
    LOOP_OPTIONS(upcycle_options, p.train),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(upcycle_options *)target = (upcycle_options){.p = vmoer_upcycle_params_default()};
}

static int run(const void *given, char **operands, int n_operands) {
    const upcycle_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("upcycle", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_upcycle(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_object);
}

const verb verb_upcycle = {
    .name = "upcycle",
    .summary = "dense GGUF to Mixture-of-Experts GGUF",
    .description = "Splits each feed-forward block into experts by which neurons fire together, fits the routers, and "
                   "distils: routers and low-rank changes of the weights are trained until the model gives the dense "
                   "one's next-token distributions on the task's training questions. The result is a granitemoe GGUF.",
    .options = options,
    .size = sizeof(upcycle_options),
    .defaults = defaults,
    .run = run,
};
