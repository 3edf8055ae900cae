/* quantize.c: `vmoer quantize`, a model file in another type. */
#include "verbs.h"

typedef struct quantize_options {
    common_options common;
    vmoer_quantize_params p;
} quantize_options;

static const char *const weights_words[] = {"q8_0", "q6_k", "q4_k", "q4_0", "bf16", "f16", "q4_k_m", NULL};
_Static_assert(VMOER_WEIGHTS_Q8_0 == 0 && VMOER_WEIGHTS_Q6_K == 1 && VMOER_WEIGHTS_Q4_K == 2 &&
                   VMOER_WEIGHTS_Q4_0 == 3 && VMOER_WEIGHTS_BF16 == 4 && VMOER_WEIGHTS_F16 == 5 &&
                   VMOER_WEIGHTS_Q4_K_M == 6,
               "weights_words");

static const option options[] = {
    MODEL_OPTION(quantize_options, p.model, MODEL_TEXT),
    {"type", 0, OPTION_ENUM, NULL,
     "of the weights: 8.5, 6.6, 4.5, 4.5, 16, 16 and (q4_k_m: some in q6_k) 4.8 bits each",
     offsetof(quantize_options, p.type), weights_words, 0},
    {"output_path", 0, OPTION_TEXT, "FILE", "the GGUF to write", offsetof(quantize_options, p.output_path), NULL, 1},
    THREADS_OPTION(quantize_options, p.threads),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(quantize_options *)target = (quantize_options){.p = vmoer_quantize_params_default()};
}

static int run(const void *given, char **operands, int n_operands) {
    const quantize_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("quantize", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_quantize(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_object);
}

const verb verb_quantize = {
    .name = "quantize",
    .summary = "a GGUF with its matrices in another type",
    .description = "Norms, biases and routers stay as they are; a matrix whose rows are no whole blocks of the type "
                   "becomes q8_0, or f16. Says what was lost: the root mean square error relative to the weights' own.",
    .options = options,
    .size = sizeof(quantize_options),
    .defaults = defaults,
    .run = run,
};
