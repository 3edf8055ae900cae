/* info.c: `vmoer info`, what a model file is. */
#include "verbs.h"

typedef struct info_options {
    common_options common;
    const char *model;
} info_options;

static const option options[] = {
    MODEL_OPTION(info_options, model, MODEL_TEXT),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(info_options *)target = (info_options){.model = NULL}; }

static int run(const void *given, char **operands, int n_operands) {
    const info_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("info", o->common.quiet);
    int code = session_end(vmoer_info(o->model, &text));
    return code ? code : print_result(text, o->common.output, print_object);
}

const verb verb_info = {
    .name = "info",
    .summary = "what a model file is: architecture, experts, routers, sizes, licence",
    .description = "Says what a model file is, what it lacks, and what of it is not supported. Reads no weights.",
    .options = options,
    .size = sizeof(info_options),
    .defaults = defaults,
    .run = run,
};
