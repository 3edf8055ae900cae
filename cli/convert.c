/* convert.c: `vmoer convert`, a folder or shards as one GGUF file. */
#include "verbs.h"

typedef struct convert_options {
    common_options common;
    vmoer_convert_params p;
} convert_options;

static const option options[] = {
    MODEL_OPTION(convert_options, p.model, MODEL_TEXT ", or the first of its shards"),
    {"output_path", 0, OPTION_TEXT, "FILE", "the GGUF to write", offsetof(convert_options, p.output_path), NULL, 1},
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(convert_options *)target = (convert_options){.p = vmoer_convert_params_default()};
}

static int run(const void *given, char **operands, int n_operands) {
    const convert_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("convert", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_convert(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_object);
}

const verb verb_convert = {
    .name = "convert",
    .summary = "a Hugging Face folder, or a GGUF's shards, as one GGUF file",
    .description =
        "Writes what llama.cpp's converter makes of the folder: its keys, the vocabulary of tokenizer.json, the "
        "weights in the types they have (vectors and routers in f32).",
    .options = options,
    .size = sizeof(convert_options),
    .defaults = defaults,
    .run = run,
};
