/* vmoer.h: calibrated answers and honest uncertainty from Mixture-of-Experts language models.
 *
 * A ladder: stay on the lowest rung that does the job.
 *   1  load, ask, free                a multiple-choice question in, probabilities and uncertainty out
 *      or a text to go on with        and what the model and its router say of each token
 *   2  look inside                    architecture, tokens
 *   3  jobs                           evaluate, fine-tune, upcycle, calibrate, measure, compare, report: what the command `vmoer` does
 *
 * Rung 1 in full (a program that compiles):
 *
 *     #include <vmoer/vmoer.h>
 *     #include <stdio.h>
 *     int main(int argc, char **argv) {
 *         const char *choices[] = {"a puddle after rain", "a rock", "a mirror", "the moon"};
 *         vmoer_model_params params = vmoer_model_params_default();
 *         if (argc > 2) params.router = argv[2];
 *         vmoer_model *model; vmoer_answer answer;
 *         if (argc < 2 || vmoer_model_load(argv[1], &params, &model) != VMOER_OK ||
 *             vmoer_ask(model, "Which of these evaporates in the sun?", choices, 4, &answer) != VMOER_OK)
 *             return fprintf(stderr, "%s\n", vmoer_last_error()), 1;
 *         printf("%s (%.0f%%)\n", choices[answer.best], 100 * answer.confidence);
 *         vmoer_model_free(model);
 *     }
 *
 * Rules: every function that can fail returns a vmoer_status and leaves one line in vmoer_last_error() (per thread). The library never
 * prints, exits or aborts. Strings are UTF-8. A free function takes NULL. A model may be used by one thread at a time. */
#ifndef VMOER_H
#define VMOER_H

#include "vmoer_errors.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define VMOER_API __attribute__((visibility("default")))
#else
#define VMOER_API
#endif

VMOER_API const char *vmoer_last_error(void);                   /* this thread's last failure, one line; "" if none */
VMOER_API const char *vmoer_status_text(vmoer_status status);   /* "malformed file" */
VMOER_API const char *vmoer_version(void);                      /* "0.1.0" */
VMOER_API const char *vmoer_build_info(void);                   /* "0.1.0 (commit abc1234, gcc 12.2.0, ISA amx)" */

/* How the library tells what it is doing; zero-initialise for silence. Called on the thread that called the library. */
typedef struct vmoer_hooks {
    /* done of total units of `stage`; note may be NULL. Return non-zero to stop: the call ends with VMOER_ERROR_INTERRUPTED, and
     * eval goes on from there when it is called again, training too where `resume` says so (upcycling: after its split, which is made anew). */
    int (*progress)(void *user, const char *stage, uint64_t done, uint64_t total, const char *note);
    void (*log)(void *user, const char *line);
    void *user;
} vmoer_hooks;

/* ---- 1: load, ask, free ---- */

typedef struct vmoer_model vmoer_model;

typedef enum vmoer_compute { VMOER_COMPUTE_AUTO, VMOER_COMPUTE_F32, VMOER_COMPUTE_BF16 } vmoer_compute; /* AUTO: bf16 */
typedef enum vmoer_inference {
    VMOER_INFERENCE_AUTO,   /* what suits the router: tilted for Gaussian logits, sample for weights of its own, passes where it draws its experts, else mean */
    VMOER_INFERENCE_MEAN,   /* logits l_det + dmu, no noise */
    VMOER_INFERENCE_CLOSED, /* closed-form approximation of E softmax(l), no sampling noise */
    VMOER_INFERENCE_SAMPLE, /* mean of softmax over S draws */
    VMOER_INFERENCE_TILTED, /* softmax of tilted logits: exact to second order in the covariance, no sampling noise (docs/METHOD.md) */
    VMOER_INFERENCE_PASSES  /* S passes through the model, each with draws of its own; the mean of their answers */
} vmoer_inference;
/* Diagnostics: how the K experts are chosen. */
typedef enum vmoer_routing { VMOER_ROUTING_LEARNED, VMOER_ROUTING_RANDOM, VMOER_ROUTING_ORACLE } vmoer_routing;

typedef struct vmoer_model_params {
    const char *adapter;       /* LoRA merged into the weights: a folder of PEFT's or a GGUF; or NULL */
    const char *router;        /* router file of `calibrate`, or NULL: the model's deterministic router */
    vmoer_compute compute;
    vmoer_inference inference; /* with a router */
    int samples;               /* S of VMOER_INFERENCE_SAMPLE and _PASSES, 1..4096; 0: 32 draws; 10 passes, one where the experts are drawn by AUTO */
    uint64_t seed;             /* of every draw at inference */
    vmoer_routing routing;
    int threads;               /* 0: one a CPU */
} vmoer_model_params;
VMOER_API vmoer_model_params vmoer_model_params_default(void);

/* path: a GGUF file, or a Hugging Face folder (docs/FORMATS.md), of an architecture that README.md lists; here and wherever a model is asked for. An adapter or
 * router made for another base is VMOER_ERROR_MISMATCH. */
VMOER_API vmoer_status vmoer_model_load(const char *path, const vmoer_model_params *params, vmoer_model **out);
VMOER_API void vmoer_model_free(vmoer_model *model);

enum { VMOER_MAX_CHOICES = 26 }; /* a letter each */

typedef struct vmoer_answer {
    int n_choices, best;                   /* best: index of the largest probability, ties to the lower index */
    double probability[VMOER_MAX_CHOICES]; /* over the choices, sums to 1 */
    double confidence;                     /* probability[best] */
    double choice_entropy;                 /* nats, of probability */
    double expected_entropy;               /* VMOER_INFERENCE_PASSES: mean of the passes' own choice entropies, nats: aleatoric; NAN: another inference */
    double mutual_information;             /* choice_entropy - expected_entropy >= 0, nats: epistemic; NAN likewise */
    double vocabulary_entropy;             /* nats, of the next token after "Answer:" */
    double gate_entropy;                   /* nats, of the routing probabilities; mean over the question's tokens, then layers; NAN: dense */
    double logit_variance;                 /* tr Sigma of the router's logits, pooled the same way over the Bayesian layers; NAN: no covariance */
    double logit_variance_projected;       /* tr P Sigma P, P = I - 11'/N: without the common mode that softmax ignores; NAN likewise */
    double routing_temperature;            /* T(u) of the routing, pooled the same way over the layers that have it; NAN: the router has none */
    int question_tokens;
} vmoer_answer;

/* choices[n_choices], 2..VMOER_MAX_CHOICES. Cloze prompt: "Question: {question}\nAnswer: {choice}". */
VMOER_API vmoer_status vmoer_ask(vmoer_model *model, const char *question, const char *const *choices, int n_choices, vmoer_answer *out);

/* What is known of a token that was generated. Signals are of the pass that it was drawn after, the routing's of the token before it, means over the layers
 * that have them; NAN as in vmoer_answer. */
typedef struct vmoer_token {
    int32_t id;
    int position;              /* in the sequence, from 0 */
    const char *text;          /* UTF-8, valid during the call: the characters that end in this token, "" where one goes on into the next; a byte of no
                                * character is U+FFFD */
    size_t text_length;        /* bytes: the text may hold a NUL */
    double probability;        /* the model's own: before penalty, cuts and temperature */
    double entropy;            /* nats, of the model's own distribution over the vocabulary */
    double expected_entropy;   /* VMOER_INFERENCE_PASSES: mean of the passes' own; NAN: another inference */
    double mutual_information; /* entropy - expected_entropy >= 0; NAN likewise */
    double gate_entropy, logit_variance, logit_variance_projected, routing_temperature;
} vmoer_token;

/* A token follows from the model's logits, in this order: the repeat penalty, top_k, top_p, min_p, the temperature, a draw. */
typedef struct vmoer_generate_params {
    const char *prompt;    /* text to go on with, UTF-8; NULL with messages */
    const char *messages;  /* JSON: a conversation to answer, a list of {"role", "content"}, laid out as by vmoer_tokenize_chat; NULL with a prompt */
    int parse_special;     /* text like <|im_start|> in the prompt becomes its token */
    int max_tokens;        /* -1: until the context is full */
    int context;           /* most tokens of prompt and text; 0: as many as the model takes */
    int batch_size;        /* tokens of the prompt that a pass takes; does not change any result */
    double temperature;    /* 0: always the most likely token */
    int top_k;             /* of the most likely tokens so many; 0: all */
    double top_p;          /* of these the fewest whose probabilities sum to it; 1: all */
    double min_p;          /* of these the ones with at least this share of the first one's probability; 0: all */
    double repeat_penalty; /* divides the logits of the last tokens, multiplies negative ones; 1: none */
    int repeat_last_n;     /* those last tokens; -1: all */
    uint64_t seed;         /* of the draws, each by seed and position: the same text for any threads and batch_size */
    double memory_gib;     /* bound for the keys and values; 0: half of the machine's memory */
    /* Called with each token; non-zero: enough. */
    int (*on_token)(void *user, const vmoer_token *token);
    void *user;
} vmoer_generate_params;
VMOER_API vmoer_generate_params vmoer_generate_params_default(void);

typedef enum vmoer_stop {
    VMOER_STOP_END,     /* the model ended its text; the token that says so is not part of it */
    VMOER_STOP_LENGTH,  /* max_tokens */
    VMOER_STOP_CONTEXT, /* the context is full */
    VMOER_STOP_ASKED    /* on_token said so */
} vmoer_stop;

typedef struct vmoer_generated {
    int prompt_tokens;
    int kept_tokens;       /* of them, which the text before began with too: not computed again */
    int tokens;            /* generated */
    vmoer_stop stop;
    double prompt_seconds; /* until the first token was drawn */
    double seconds;        /* of all that followed */
} vmoer_generated;
/* The model remembers the last sequence: a prompt that begins like it (a conversation) goes on from there, with the same results. `out` may be NULL.
 * VMOER_ERROR_LIMIT: the prompt is longer than the context, or its keys and values larger than memory_gib. */
VMOER_API vmoer_status vmoer_generate(vmoer_model *model, const vmoer_generate_params *params, const vmoer_hooks *hooks, vmoer_generated *out);

/* ---- 2: look inside. Texts returned by `char **out` are freed with vmoer_free ---- */

VMOER_API void vmoer_free(void *text);
/* JSON: architecture, sizes, experts, tokenizer, routers, licence; context_bytes: keys and values of a text that fills the context; missing: what is not
 * there or not supported, and why. A model that is not supported has in place of its dimensions metadata, what the file says of them. Reads no weights. */
VMOER_API vmoer_status vmoer_info(const char *path, char **out_json);

typedef struct vmoer_verify_params {
    const char *model;
    const char *adapter, *router; /* as in vmoer_model_params: must be made for the model; NULL: none */
    int threads;
} vmoer_verify_params;
/* Every tensor that the architecture asks for is there, of its shape, and every value of it is finite; the tokenizer and the chat template can be read;
 * adapter and router fit. The error names the tensor and the offset at fault. JSON with the files' SHA-256, and the tensors no place was found for. */
VMOER_API vmoer_status vmoer_verify(const vmoer_verify_params *params, char **out_json);
/* JSON: {"ids": [...], "pieces": [...]}. parse_special: text like <|im_start|> becomes its token. path: a model, or a tokenizer.json
 * (a name that ends in .json). */
VMOER_API vmoer_status vmoer_tokenize(const char *path, const char *text, size_t length, int parse_special, char **out_json);
/* messages_path: a JSON list of {"role", "content", ...}, laid out by the model's own chat template (GGUF key tokenizer.chat_template), with the opening of an
 * answer where add_generation_prompt is set. JSON: {"text": "...", "ids": [...], "pieces": [...]}. Special tokens come from the template alone: what looks like
 * one in a message is plain text. VMOER_ERROR_DATA: the template refuses these messages. */
VMOER_API vmoer_status vmoer_tokenize_chat(const char *path, const char *messages_path, int add_generation_prompt, char **out_json);
VMOER_API vmoer_status vmoer_detokenize(const char *path, const int32_t *ids, size_t count, char **out_text);
/* Runs each prompt (token ids, flat with offsets[n+1]) and writes safetensors {"ids","offsets","logits" [n, vocabulary] f32}
 * of the last position: for comparison with other engines. */
VMOER_API vmoer_status vmoer_dump_logits(vmoer_model *model, const int32_t *ids, const int32_t *offsets, int n, const char *out_path);

/* ---- 3: jobs. Each writes its files atomically and, where said, goes on where it was stopped ---- */

typedef enum vmoer_split { VMOER_SPLIT_TEST, VMOER_SPLIT_TRAIN, VMOER_SPLIT_HELDOUT } vmoer_split;

/* Which questions: a task by name from the data folder, or a user's JSON lines. */
typedef struct vmoer_questions {
    const char *data_dir;  /* NULL: $VMOER_DATA, else ./data, else the user's cache */
    const char *tasks;     /* "openbookqa,arc_easy"; NULL with task_file */
    const char *task_file; /* JSON lines {question, choices[], answer}; NULL with tasks */
    vmoer_split split;
    int n_choices;         /* keep only items with that many choices; 0: all */
    int limit;             /* first n items; 0: all */
    int sample;            /* n items by the smallest hash of their text; 0: all */
} vmoer_questions;

typedef struct vmoer_eval_params {
    const char *model;
    vmoer_model_params load;
    vmoer_questions questions;
    const char *format;      /* "cloze", "letter", "lm-eval" */
    const char *output_path; /* folder: results.json, samples.jsonl, timings.json; samples already there are not run again */
    int batch_size;          /* questions a pass; 0: automatic. Does not change any result */
    int bootstrap;           /* resamples for the 95% intervals, e.g. 1000 */
    int hidden;              /* 1: hidden.safetensors too, the last norm's output at each question's last token */
    const char *label;       /* name of this run in tables and reports; NULL: made from the router */
} vmoer_eval_params;
VMOER_API vmoer_eval_params vmoer_eval_params_default(void);
/* out_json (NULL: not wanted): the content of results.json. */
VMOER_API vmoer_status vmoer_eval(const vmoer_eval_params *params, const vmoer_hooks *hooks, char **out_json);

/* Which state of a training is kept. */
typedef enum vmoer_keep {
    VMOER_KEEP_LAST, /* that of the last step */
    VMOER_KEEP_BEST, /* that of the look with the lowest held-out NLL */
    VMOER_KEEP_BOTH  /* the last in output_path, the best in output_path/best: the bytes of two runs by one */
} vmoer_keep;

typedef struct vmoer_train_params { /* what finetune, calibrate and upcycle share */
    const char *model;
    const char *adapter;        /* calibrate: the MAP adapter beneath; finetune, upcycle: NULL */
    vmoer_questions questions;  /* tasks by their names; split is ignored: trains on TRAIN, watches HELDOUT */
    const char *output_path;
    int resume;                 /* go on from the last checkpoint in output_path; without it, one that is there is refused */
    uint64_t seed;
    int epochs;
    int steps;                  /* > 0: stop after so many steps whatever epochs says */
    int batch_size;             /* questions a step */
    double learning_rate, warmup, weight_decay, clip; /* warmup: share of all steps; then linear decay to 0; clip: global gradient norm */
    int evaluate_every;         /* steps between looks at the held-out part; 0: at the end of each epoch */
    vmoer_keep keep;            /* upcycle: always the last */
    vmoer_compute compute;
    int threads;
    double memory_gib;          /* bound for kept activations, beyond it layers are recomputed in the backward pass; calibrate: half of it is for the
                                 * questions' states below its lowest layer, kept from step to step and look to look */
} vmoer_train_params;

typedef struct vmoer_finetune_params {
    vmoer_train_params train;
    const char *targets;  /* "attention,shared,experts,router": modules that get LoRA; "all": full fine-tuning, writes a GGUF */
    int rank;             /* of LoRA; with "all" these two must stay at their defaults */
    double alpha;
    double router_learning_rate; /* of the routers, where they are trained; 0: train.learning_rate */
} vmoer_finetune_params;
VMOER_API vmoer_finetune_params vmoer_finetune_params_default(void);
VMOER_API vmoer_status vmoer_finetune(const vmoer_finetune_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_calibrate_params {
    vmoer_train_params train;
    const char *router;   /* "vglr-fc", "vglr-mf", "vglr-lr"; over the router's weights "mc-dropout", "swag", "ensemble"; controls: "vglr-noise" (no dmu),
                           * "residual" (dmu only), "isotropic" (noise, nothing trained), "weights" (the model's routers trained on), "temperature" (output
                           * temperature scaling) */
    const char *layers;   /* "auto", "all" or "3,7-9" */
    int width;            /* of the shared trunk */
    double prior_scale;   /* s0 */
    double beta;          /* weight of the mean KL a token and layer */
    double initial_scale; /* diagonal of L at the start */
    int draws;            /* a question and step, 1 to 64, in antithetic pairs */
    const char *objective; /* of several draws: "mean" of their losses (the ELBO), or the loss of the "mixture", the mean of their probabilities */
    const char *train_on; /* "train" or "heldout": which part the router learns from */
    int fit_temperature;  /* each router that is written gets the output temperature that suits it on the held-out part; "temperature" always */
    /* Each of some kinds only, refused for the others; 0: the kind's own. */
    int rank;                 /* columns of L below its diagonal; directions of the weights' covariance */
    int members;              /* networks, or draws of the weights, that answer together */
    int keep_experts;         /* that are always taken */
    double route_temperature; /* of the draw of the experts */
    double noise;             /* standard deviation of the logits' noise; rate of the dropout */
    /* In place of all of these: an "isotropic" router, nothing trained, with the widest noise that leaves 99% of the held-out answers alone, and then the
     * output temperature. Questions may come from train.questions.task_file: all of them are the held-out part. */
    int quick;
} vmoer_calibrate_params;
VMOER_API vmoer_calibrate_params vmoer_calibrate_params_default(void);
VMOER_API vmoer_status vmoer_calibrate(const vmoer_calibrate_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_upcycle_params {
    /* The distillation's, but for: model, the dense GGUF; questions, seed and threads, which the split has too; and output_path, the MoE GGUF
     * <name>.gguf, beside which go a found recipe as <name>.recipe.safetensors, its record as <name>.training.json, checkpoints into <name>.distill/. */
    vmoer_train_params train;
    const char *recipe;       /* given: rebuild from it (seconds, the same bytes everywhere); NULL: find one */
    int experts, shared, top_k; /* of equal width; experts counts the shared ones too */
    int tokens;               /* of the training questions, whose activations the split is found on */
    double spread;            /* standard deviation of the routers' logits at the start */
    const char *targets;      /* what the distillation changes by LoRA, beside the routers: "attention,experts" */
    int rank;                 /* of that LoRA, alpha is twice it; 0: no distillation */
    double router_learning_rate; /* of the routers; 0: train.learning_rate */
} vmoer_upcycle_params;
VMOER_API vmoer_upcycle_params vmoer_upcycle_params_default(void);
VMOER_API vmoer_status vmoer_upcycle(const vmoer_upcycle_params *params, const vmoer_hooks *hooks, char **out_json);

/* Types of weights that are written; bits a weight. */
typedef enum vmoer_weights {
    VMOER_WEIGHTS_Q8_0, /* 8.5 */
    VMOER_WEIGHTS_Q6_K, /* 6.6 */
    VMOER_WEIGHTS_Q4_K, /* 4.5, closer than Q4_0 */
    VMOER_WEIGHTS_Q4_0, /* 4.5 */
    VMOER_WEIGHTS_BF16,
    VMOER_WEIGHTS_F16,
    VMOER_WEIGHTS_Q4_K_M /* 4.8: Q4_K, and Q6_K where llama.cpp's mix has it */
} vmoer_weights;

typedef struct vmoer_quantize_params {
    const char *model;
    vmoer_weights type;      /* of all matrices but the routers; one whose rows are no whole blocks becomes Q8_0, or F16 */
    const char *output_path; /* the GGUF, appears whole or not at all */
    int threads;
} vmoer_quantize_params;
VMOER_API vmoer_quantize_params vmoer_quantize_params_default(void);
/* out_json: tensors and weights by type, and what was lost, root mean square relative to the weights' own. */
VMOER_API vmoer_status vmoer_quantize(const vmoer_quantize_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_convert_params {
    const char *model;       /* a Hugging Face folder, a GGUF, or the first of its shards */
    const char *output_path; /* where it ends in .gguf a GGUF, else a Hugging Face folder (none there yet, or an empty one); appears whole or not at all */
    const char *shard_size;  /* of a folder: "5GB", "500MB", ...: what a file of weights has at most; NULL: one file */
} vmoer_convert_params;
VMOER_API vmoer_convert_params vmoer_convert_params_default(void);
/* Types stay, but for vectors and routers of a GGUF, which become F32. out_json: {"path", "bytes_before", "bytes", "tensors"}. */
VMOER_API vmoer_status vmoer_convert(const vmoer_convert_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_ood_params {
    const char *id_run;            /* folder of an eval run on the in-distribution task */
    const char *const *ood_runs;   /* [n_ood] folders (a run may hold several tasks: each is a set of its own) */
    int n_ood;
    const char *fit_run;           /* folder of an eval run with `hidden` of held-out ID items: adds the signal mahalanobis, for which the others are such runs
                                    * too; NULL: none */
    const char *signals;           /* "choice_entropy,logit_variance": chosen beforehand, each must be in every run; NULL: whatever all have */
    const char *output_path;       /* folder for results.json; NULL: none */
    int bootstrap;
} vmoer_ood_params;
VMOER_API vmoer_ood_params vmoer_ood_params_default(void);
VMOER_API vmoer_status vmoer_ood(const vmoer_ood_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_stability_params {
    const char *model;
    vmoer_model_params load;   /* the router under test and how it answers; seed: of its draws and of the noise */
    vmoer_questions questions; /* tasks by their names; limit: so many of each */
    const char *sigmas;        /* ".01,.1": each as the noise's standard deviation, and relative to rms(u) of the token */
    double target;             /* in (0, 1): also the relative sigma at which the deterministic router's Jaccard index falls to it; 0: not asked */
    const char *output_path;   /* folder: results.json, timings.json */
    const char *label;         /* NULL: made from the router */
} vmoer_stability_params;
VMOER_API vmoer_stability_params vmoer_stability_params_default(void);
/* How much of a router's choice of experts survives Gaussian noise on its input u, layer by layer. */
VMOER_API vmoer_status vmoer_stability(const vmoer_stability_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_conformal_params {
    const char *run;             /* folder of an eval run: its items are halved at random, and are what calibration_run's sets are asked of */
    const char *calibration_run; /* folder of an eval run of the same model by the same settings, on other items (held-out ones); NULL: none */
    double alpha;                /* a set misses the right answer with this probability at most */
    const char *accuracy;        /* "0.8,0.9": the selective accuracies to find thresholds of the confidence for */
    const char *output_path;     /* folder for results.json; NULL: none */
    int halves;                  /* random halvings */
    uint64_t seed;               /* of the halvings and of the randomised sets */
} vmoer_conformal_params;
VMOER_API vmoer_conformal_params vmoer_conformal_params_default(void);
/* Answer sets and abstention thresholds from saved answers; runs no model. */
VMOER_API vmoer_status vmoer_conformal(const vmoer_conformal_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_cost_params {
    const char *model;
    vmoer_model_params load; /* router: a file; inference, samples: how it answers; seed: of the prompt too */
    int length;              /* tokens of the prompt, random ones */
    int rounds;              /* timed ones, after one that is not */
    const char *output_path; /* folder: results.json, timings.json; NULL: none */
    const char *label;       /* NULL: made from the router */
} vmoer_cost_params;
VMOER_API vmoer_cost_params vmoer_cost_params_default(void);
/* What a router adds to a prompt: operations, parameters, working memory; and time, which out_json has as "seconds". */
VMOER_API vmoer_status vmoer_cost(const vmoer_cost_params *params, const vmoer_hooks *hooks, char **out_json);

typedef struct vmoer_bench_params {
    const char *model;
    const char *adapter;       /* as in vmoer_model_params */
    const char *router;        /* router file; NULL: a VGLR-FC made in memory, its heads small random numbers */
    const char *layers;        /* of the one in memory: "auto" (a third of them, ten at most, evenly spread), "all" or "3,7-9" */
    vmoer_questions questions; /* of the training part, whatever `split` says */
    const char *tests;         /* "all", or names with commas: peak, prefill, router, decode, eval, four-prompts, finetune, calibrate */
    const char *lengths;       /* "128,512": tokens of the prompts of prefill; the router's is the last */
    const char *samples;       /* "1,8,32,128": draws of the router */
    const char *targets;       /* of finetune's LoRA, as in vmoer_finetune_params; its alpha is twice the rank */
    int rank;
    int batch_size;            /* questions a training step */
    int repeats;               /* rounds; each test runs once a round, after a round that is not timed, and its shortest time counts */
    vmoer_compute compute;
    uint64_t seed;
    int threads;
} vmoer_bench_params;
VMOER_API vmoer_bench_params vmoer_bench_params_default(void);
/* Measures the machine and the model on it; trains copies in memory and writes nothing. out_json: docs/FORMATS.md. */
VMOER_API vmoer_status vmoer_bench(const vmoer_bench_params *params, const vmoer_hooks *hooks, char **out_json);

/* The whole protocol on one model (docs/METHOD.md): for every task a MAP a seed, of which two states are kept: as published (the last) and the one with
 * the lowest held-out NLL; the layers; every router; calibration; for the first task also stability and OoD; the report. */
typedef struct vmoer_reproduce_params {
    const char *model;       /* a Mixture-of-Experts */
    const char *data_dir;    /* as in vmoer_questions */
    const char *tasks;       /* those without data are left out, which the plan says */
    const char *output_path; /* plan.json, a folder a stage, results.json, timings.json, report.html; stages that are done there are not run again */
    const char *settings;    /* JSON file of hyper-parameters (docs/FORMATS.md); NULL: the built-in ones */
    const char *routers, *nll_routers; /* names in the settings, on the published and on the NLL-stopped MAP; "all" */
    vmoer_split split;       /* what is evaluated: TEST, or HELDOUT for a pilot */
    int seeds;               /* MAPs a task, seeds 0, 1 ...; 0: three, with quick one */
    int passes;              /* S of routers that need samples, where the settings do not say */
    int ood_sample;          /* items of an OoD set; 0: all */
    int bootstrap;           /* resamples for the 95% intervals */
    int quick;               /* a smoke run: few steps, few items; says nothing about any method */
    int plan;                /* only the plan: plan.json and out_json hold it */
    const char *shard;       /* "I/N": only the stages of the seeds I, I + N ...: N calls, on as many machines, may share a folder; one without it (NULL)
                              * puts the results together. out_json: the plan */
    vmoer_compute compute;
    int threads;
    double memory_gib;       /* as in vmoer_train_params */
} vmoer_reproduce_params;
VMOER_API vmoer_reproduce_params vmoer_reproduce_params_default(void);
VMOER_API vmoer_status vmoer_reproduce(const vmoer_reproduce_params *params, const vmoer_hooks *hooks, char **out_json);

/* All results under `folder` -> one self-contained HTML file. title may be NULL. */
VMOER_API vmoer_status vmoer_report(const char *folder, const char *output_path, const char *title, const vmoer_hooks *hooks);

#ifdef __cplusplus
}
#endif
#endif
