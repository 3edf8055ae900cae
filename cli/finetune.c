/* finetune.c: `vmoer finetune`, MAP fine-tuning with LoRA. */
#include "verbs.h"

typedef struct finetune_options {
    common_options common;
    vmoer_finetune_params p;
} finetune_options;

static const option options[] = {
    MODEL_OPTION(finetune_options, p.train.model, MODEL_TEXT),
    {"targets", 0, OPTION_TEXT, "LIST",
     "what gets LoRA, with commas: attention, shared, experts (shared and routed), router; all: full fine-tuning, "
     "writes a GGUF",
     offsetof(finetune_options, p.targets), NULL, 0},
    {"rank", 0, OPTION_INT, "N", "of the LoRA matrices", offsetof(finetune_options, p.rank), NULL, 0},
    {"alpha", 0, OPTION_REAL, "X", "LoRA's scale is alpha / rank", offsetof(finetune_options, p.alpha), NULL, 0},
    {"router_learning_rate", 0, OPTION_REAL, "X", "of the routers, where they are trained; 0: that of everything else",
     offsetof(finetune_options, p.router_learning_rate), NULL, 0},
    TRAINING_QUESTION_OPTIONS(finetune_options, p.train.questions),
    TRAIN_OPTIONS(finetune_options, p.train),
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(finetune_options *)target = (finetune_options){.p = vmoer_finetune_params_default()};
}

static int run(const void *given, char **operands, int n_operands) {
    const finetune_options *o = given;
    (void)operands, (void)n_operands;
    char *text = NULL;
    session_begin("finetune", o->common.quiet);
    vmoer_hooks hooks = session_hooks();
    int code = session_end(vmoer_finetune(&o->p, &hooks, &text));
    return code ? code : print_result(text, o->common.output, print_training);
}

const verb verb_finetune = {
    .name = "finetune",
    .summary = "MAP fine-tuning on a task: a LoRA adapter in PEFT's layout",
    .description =
        "Trains on the task's training questions, watches a held-out part of them, and writes a LoRA adapter "
        "(adapter_config.json, adapter_model.safetensors) or, with --targets all, the whole model (model.gguf).",
    .options = options,
    .size = sizeof(finetune_options),
    .defaults = defaults,
    .run = run,
};
