/* verbs.h: what the verbs' files share: option rows that several of them have. */
#ifndef VMOER_CLI_VERBS_H
#define VMOER_CLI_VERBS_H

#include "options.h"
#include "session.h"
#include "table.h"

extern const verb verb_info, verb_verify, verb_tokenize, verb_run, verb_eval, verb_finetune, verb_upcycle, verb_quantize, verb_convert, verb_calibrate;
extern const verb verb_ood, verb_stability, verb_cost, verb_conformal, verb_report, verb_reproduce, verb_bench;

extern const char *const compute_words[], *const inference_words[], *const routing_words[], *const split_words[], *const keep_words[];

#define MODEL_TEXT "GGUF file, or a Hugging Face folder"

/* M: the verb's struct; the last argument of each: where in it the library's struct stands. */
#define MODEL_OPTION(M, member, text) {"model", 'm', OPTION_TEXT, "PATH", text, offsetof(M, member), NULL, 1}

#define ADAPTER_OPTION(M, member)                                                                                          \
    {"adapter", 0, OPTION_TEXT, "PATH", "LoRA adapter: a folder of finetune or PEFT, or a GGUF", offsetof(M, member), NULL, 0}

#define ROUTER_OPTION(M, member)                                                                                           \
    {"router", 0, OPTION_TEXT, "FILE", "router of calibrate; without it the model's own", offsetof(M, member), NULL, 0}

#define COMPUTE_OPTION(M, member)                                                                                          \
    {"compute", 0, OPTION_ENUM, NULL, "arithmetic of the matrix products; auto: bf16", offsetof(M, member), compute_words, 0}

#define THREADS_OPTION(M, member) {"threads", 't', OPTION_INT, "N", "0: one a CPU", offsetof(M, member), NULL, 0}

#define LABEL_OPTION(M, member)                                                                                            \
    {"label", 0, OPTION_TEXT, "TEXT", "name of this run in tables and reports; without it made from the router",           \
     offsetof(M, member), NULL, 0}

#define TASK_NAMES "openbookqa, arc_easy, arc_challenge, sciq, medmcqa, piqa, social_iqa, mmlu_<subject>"

/* Parts of vmoer_questions. Any number of tasks, or a file: */
#define QUESTION_OPTIONS(M, questions)                                                                                     \
    {.name = "Questions", .kind = OPTION_HEADING},                                                                         \
        {"tasks", 0, OPTION_TEXT, "LIST",                                                                                  \
         "tasks by name, with commas: " TASK_NAMES,                                                                        \
         offsetof(M, questions.tasks), NULL, 0},                                                                           \
        {"task_file", 0, OPTION_TEXT, "FILE", "your own questions in place of --tasks: JSON lines "                        \
         "{question, choices[], answer}, 2 to 26 choices, answer counted from 0", offsetof(M, questions.task_file), NULL, 0},               \
        CUT_OPTIONS(M, questions)

/* Tasks by name alone, for they have training questions: */
#define TRAINING_QUESTION_OPTIONS(M, questions)                                                                            \
    {.name = "Questions", .kind = OPTION_HEADING},                                                                         \
        {"tasks", 0, OPTION_TEXT, "LIST", "tasks by name, with commas: " TASK_NAMES,                                       \
         offsetof(M, questions.tasks), NULL, 0},                                                                           \
        CUT_OPTIONS(M, questions)

#define DATA_OPTION(M, member)                                                                                             \
    {"data", 0, OPTION_TEXT, "DIR", "folder of the data sets' official files; without it ./data, then the user's cache",   \
     offsetof(M, member), NULL, 0}

#define CUT_OPTIONS(M, questions)                                                                                          \
        DATA_OPTION(M, questions.data_dir),                                                                                \
        {"n_choices", 0, OPTION_INT, "N", "keep only questions with N choices; 0: all", offsetof(M, questions.n_choices),  \
         NULL, 0},                                                                                                         \
        {"limit", 0, OPTION_INT, "N", "the first N questions of each task; 0: all", offsetof(M, questions.limit), NULL, 0}, \
        {"sample", 0, OPTION_INT, "N", "N questions of each task, picked by a hash of their text; 0: all",                 \
         offsetof(M, questions.sample), NULL, 0}

/* vmoer_train_params, but for the model. */
#define TRAIN_OPTIONS(M, train)                                                                                            \
    {.name = "Training", .kind = OPTION_HEADING},                                                                          \
        {"output_path", 0, OPTION_TEXT, "DIR", "folder for the result, checkpoints and training.json",                     \
         offsetof(M, train.output_path), NULL, 1},                                                                         \
        {"keep", 0, OPTION_ENUM, NULL,                                                                                     \
         "which state is kept: the last, the one with the lowest held-out NLL, or the last and in the folder best the best", \
         offsetof(M, train.keep), keep_words, 0},                                                                          \
        LOOP_OPTIONS(M, train)

#define LOOP_OPTIONS(M, train)                                                                                             \
        {"resume", 0, OPTION_FLAG, NULL, "go on from the last checkpoint in the folder", offsetof(M, train.resume), NULL, 0}, \
        {"seed", 0, OPTION_SEED, "N", "of the order, the draws and the start", offsetof(M, train.seed), NULL, 0},          \
        {"epochs", 0, OPTION_INT, "N", "passes over the training questions", offsetof(M, train.epochs), NULL, 0},          \
        {"steps", 0, OPTION_INT, "N", "stop after N steps whatever --epochs says; 0: by epochs", offsetof(M, train.steps), \
         NULL, 0},                                                                                                         \
        {"batch_size", 'b', OPTION_INT, "N", "questions a step", offsetof(M, train.batch_size), NULL, 0},                  \
        {"learning_rate", 0, OPTION_REAL, "X", "peak of the schedule", offsetof(M, train.learning_rate), NULL, 0},         \
        {"warmup", 0, OPTION_REAL, "X", "share of all steps with a rising rate; then it falls linearly to 0",              \
         offsetof(M, train.warmup), NULL, 0},                                                                              \
        {"weight_decay", 0, OPTION_REAL, "X", "AdamW's", offsetof(M, train.weight_decay), NULL, 0},                        \
        {"clip", 0, OPTION_REAL, "X", "bound of the global gradient norm", offsetof(M, train.clip), NULL, 0},              \
        {"evaluate_every", 0, OPTION_INT, "N", "steps between looks at the held-out part; 0: at each epoch's end",         \
         offsetof(M, train.evaluate_every), NULL, 0},                                                                      \
        COMPUTE_OPTION(M, train.compute),                                                                                  \
        THREADS_OPTION(M, train.threads),                                                                                  \
        {"memory_gib", 0, OPTION_REAL, "X",                                                                                \
         "bound for kept activations and, half of it, for calibrate's states below its router; beyond it they are "        \
         "computed again",                                                                                                 \
         offsetof(M, train.memory_gib), NULL, 0}

/* Shows training.json: what was trained, and the history. */
void print_training(const json_t *root, output_format output);

/* Shows any JSON object as rows of key and value, nested keys joined with dots. */
void print_object(const json_t *root, output_format output);

#endif
