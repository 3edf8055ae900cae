/* verify.c: `vmoer verify`, every byte of a model read. */
#include "verbs.h"

typedef struct verify_options {
    common_options common;
    vmoer_verify_params p;
} verify_options;

static const option options[] = {
    MODEL_OPTION(verify_options, p.model, MODEL_TEXT),
    ADAPTER_OPTION(verify_options, p.adapter),
    {"router", 0, OPTION_TEXT, "FILE", "router of calibrate", offsetof(verify_options, p.router), NULL, 0},
    THREADS_OPTION(verify_options, p.threads),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(verify_options *)target = (verify_options){.p = {.model = NULL}}; }

static int run(const void *given, char **operands, int n_operands) {
    const verify_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("verify", o->common.quiet);
    int code = session_end(vmoer_verify(&o->p, &text));
    return code ? code : print_result(text, o->common.output, print_object);
}

const verb verb_verify = {
    .name = "verify",
    .summary = "full check of a model, and of an adapter and a router made for it",
    .description = "Reads every weight: that all tensors are there with their shapes and hold finite numbers, that the "
                   "tokenizer and the chat template can be read, that adapter and router fit. Prints the files' "
                   "SHA-256 and the tensors that the architecture has no place for; what is wrong is named with its "
                   "tensor and offset.",
    .options = options,
    .size = sizeof(verify_options),
    .defaults = defaults,
    .run = run,
};
