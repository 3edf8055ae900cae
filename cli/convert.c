/* convert.c: `vmoer convert`, from a folder or shards to one GGUF file, or from a GGUF to a folder. */
#include "verbs.h"

typedef struct convert_options {
    common_options common;
    vmoer_convert_params p;
} convert_options;

static const option options[] = {
    MODEL_OPTION(convert_options, p.model, MODEL_TEXT ", or the first of its shards"),
    {"output_path", 0, OPTION_TEXT, "PATH", "FILE.gguf: the GGUF to write; another name: the folder",
     offsetof(convert_options, p.output_path), NULL, 1},
    {"shard_size", 0, OPTION_TEXT, "SIZE", "5GB, 500MB, ...: what a folder's files of weights have at most",
     offsetof(convert_options, p.shard_size), NULL, 0},
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
    .summary = "a Hugging Face folder, or a GGUF's shards, as one GGUF file; a GGUF as a folder",
    .description =
        "A GGUF is what llama.cpp's converter makes of a folder: its keys, the vocabulary of tokenizer.json, the "
        "weights in the types they have (vectors and routers in f32). A folder is one that transformers loads: "
        "config.json, tokenizer.json, safetensors; quantised weights have no place in it.",
    .options = options,
    .size = sizeof(convert_options),
    .defaults = defaults,
    .run = run,
};
