/* internal.h: what the files of api/ share: public parameters translated to the rooms' own. */
#ifndef VM_API_INTERNAL_H
#define VM_API_INTERNAL_H

#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "eval/metrics.h"
#include "infer/generate.h"
#include "train/trainer.h"
#include "vmoer/vmoer.h"

struct vmoer_model {
    vm_session *session;
    vm_generation *generation; /* of the last text, whose keys and values the next one may share; NULL: none yet */
};

/* Where the data sets are: what the user said, else $VMOER_DATA, else ./data, else the cache. out[4096]. */
vmoer_status vm_api_data_dir(const char *given, char out[4096]);
/* That the cuts and the split are ones there are. */
vmoer_status vm_api_check_questions(const vmoer_questions *q);
/* n_choices and sample into a record's config, where they are set. */
void vm_api_put_cuts(json_t *config, const vmoer_questions *q);
/* The questions of one task (a name, or NULL with q->task_file), filtered and cut as q says. */
vmoer_status vm_api_dataset(const vmoer_questions *q, const char *task, vmoer_split split, vm_dataset **out);
/* The same of all tasks by their names, as prompts, added to *out. what: who asks, for the error. */
vmoer_status vm_api_examples(const vmoer_questions *q, const char *what, const vm_tokenizer *t, vmoer_split split,
                             vm_examples *out);
/* Calls visit with each name of a comma-separated list, or once with NULL for a task file. */
vmoer_status vm_api_each_task(const vmoer_questions *q, vmoer_status (*visit)(void *context, const char *task),
                              void *context);
vm_compute vm_api_compute(vmoer_compute c);
/* Model, adapter, router by public parameters. */
vmoer_status vm_api_session_open(const char *path, const vmoer_model_params *params, vm_session **out);

/* Eval's own size of a pass: questions are added until it has so many tokens. */
enum { VM_API_PASS_TOKENS = 1024 };

/* samples.jsonl of an eval run as {task: [sample, ...]}, each in the order of the file. whole: as in vm_json_lines. */
vmoer_status vm_api_samples(const char *path, size_t *whole, json_t **tasks);
double vm_api_parameters(const vm_gguf *g); /* elements of all tensors */
static inline vmoer_status vm_api_no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory for the results"); }
json_t *vm_api_number(double x);                     /* null where it is none: infinite, or not a number */
json_t *vm_api_interval(vm_interval i);              /* [low, high] */
json_t *vm_api_reliability(const vm_predictions *d); /* a list of the bins of its reliability diagram */

/* What a run's results.json begins with: who made it, of which kind, model, adapter, router and config (taken over). NULL: no memory, or a name is not
 * UTF-8. */
json_t *vm_api_head(const char *kind, const vm_session *s, json_t *config);
/* Of a record's config what the model is loaded and asked with: compute, inference, samples, seed. */
void vm_api_put_load(json_t *config, const vm_session *s, const vmoer_model_params *p);
const char *vm_api_split_name(vmoer_split split);
/* The run's name in tables: what the user said (checked to be UTF-8), else the router's kind. */
vmoer_status vm_api_check_label(const char *label);
const char *vm_api_label(const char *label, const vm_session *s);
double vm_api_seconds(void); /* a clock that only goes forward */
/* results.json, and timings.json: these times (taken over), the peak of memory and the build. */
vmoer_status vm_api_write(const char *folder, const json_t *results, json_t *timings);

/* ---- finished eval runs: what ood and conformal read (runs.c) ---- */
typedef struct vm_saved_run {
    const char *folder; /* lent */
    json_t *results;    /* results.json of the kind "eval", with a label */
    json_t *tasks;      /* {task: [sample, ...]}, as many samples as results.json says */
} vm_saved_run;
vmoer_status vm_saved_run_open(const char *folder, vm_saved_run *out);
void vm_saved_run_close(vm_saved_run *run); /* takes one of zeros */
/* That one model was asked in one way in both: else their numbers cannot be compared. */
vmoer_status vm_saved_runs_same(const vm_saved_run *one, const vm_saved_run *other);
/* The answers of one task of the run; arrays are the arena's. Errors name the item. */
vmoer_status vm_saved_predictions(const vm_saved_run *run, const char *task, vm_arena *arena, vm_predictions *out);
/* hash[n] of its items, the arena's. */
vmoer_status vm_saved_hashes(const vm_saved_run *run, const char *task, vm_arena *arena, const uint64_t **out);
/* Its hidden states rows[n, *dim] of an eval --hidden, the arena's. */
vmoer_status vm_saved_hidden(const vm_saved_run *run, const char *task, vm_arena *arena, const float **rows, int *dim);

/* ---- eval --hidden (hidden.c): rows[n, dim] of a task's items in their order, in hidden.<task>.f32 while the run goes on ---- */
typedef struct vm_hidden_rows {
    int file;         /* appended to; -1: closed */
    size_t row;       /* bytes */
    char path[4096];
} vm_hidden_rows;
/* Goes on after the first `done` items, whose rows must be there. Closed with vm_hidden_close in any case. */
vmoer_status vm_hidden_open(const char *folder, const char *task, int dim, size_t done, vm_hidden_rows *out);
/* On disk when it returns. */
vmoer_status vm_hidden_append(const vm_hidden_rows *h, const float *rows, size_t n);
void vm_hidden_close(vm_hidden_rows *h);
/* hidden.safetensors from the rows of every task in `results`, {task: {"n"}}: a tensor [n, dim] each, under the task's name. */
vmoer_status vm_hidden_finish(const char *folder, const json_t *results, int dim);
/* results.json into the folder (NULL: nowhere), made where it is not there. */
vmoer_status vm_api_save_results(const char *folder, const json_t *results);

/* What a tensor is in a GGUF: its own type, but f32 for vectors and routers in half precision, as GGUF's readers want them: that is exact. */
uint32_t vm_api_gguf_type(const vm_gguf_tensor *t);

/* A JSON value as text for the caller (vmoer_free), or nothing where out is NULL. Takes the reference. */
vmoer_status vm_api_return_json(json_t *value, char **out);

/* ---- training: what finetune and calibrate share ---- */
typedef struct vm_training {
    const vmoer_train_params *params;
    vm_pool *pool;
    vm_model *model;
    vm_tokenizer *tokenizer;
    vm_pass *pass;
    vm_examples train, heldout;
    char adapter_name[128], adapter_fingerprint[65]; /* "" without an adapter */
} vm_training;
/* That there is an output folder, and that it is one to train into. */
vmoer_status vm_training_check_output(const vmoer_train_params *p);
/* Loads the model (with params->adapter merged) for gradients from layer `backward_from` on, and the questions. swap:
 * train on the held-out part and look at the training part. */
vmoer_status vm_training_open(const vmoer_train_params *params, int backward_from, bool train_all, bool swap,
                              vm_training *out);
void vm_training_close(vm_training *t);
/* That the routers' rate (0: that of everything else) can be a multiple of the rate. */
vmoer_status vm_training_check_rates(double learning_rate, double router_learning_rate);
/* Multipliers of the learning rate, [trained->count], the caller's (vm_free); NULL where there is one rate for all. */
vmoer_status vm_training_rates(const vm_param_list *trained, double learning_rate, double router_learning_rate,
                               float **out);
/* That vm_training_memory can be asked. */
vmoer_status vm_training_check_memory(const vmoer_train_params *p);
size_t vm_training_memory(const vmoer_train_params *p); /* bytes for kept activations */
/* The settings that decide a training's result, as JSON: what a checkpoint is compared by. */
json_t *vm_training_config(const vm_training *t);
/* Of them those of the loop: steps, rates, schedule, arithmetic. */
json_t *vm_training_loop_config(const vmoer_train_params *p);
vmoer_train_params vm_train_params_default(void);

/* ---- what calibrate fits on the held-out part. Every value tried goes into trials: {<name of the number>: value, "heldout": its look} ---- */
enum { VM_API_FIT_PASSES = 10 }; /* that judge a router whose default inference they are */
/* Which number a router without parameters has. */
vm_router_number vm_api_one_number(const vm_router *r);
/* It, by its NLL; or, where `given` is not 0, that value tried alone. *router: replaced by the one with the best value; *best: its trial. */
vmoer_status vm_api_fit_number(const vm_train_job *job, double given, const vmoer_hooks *hooks, vm_router **router, json_t *trials, size_t *best);
/* calibrate --quick: the noise of an isotropic router, the largest at which at most 1% of the answers change; quick.c. Trials have their "flips". */
vmoer_status vm_api_fit_quick(const vm_train_job *job, const vmoer_hooks *hooks, vm_router **router, json_t *trials, size_t *best);
/* The router's output temperature, with itself in place: the trials of 1 and of the fitted one. */
vmoer_status vm_api_fit_temperature(const vm_train_job *job, vm_router *router, json_t *trials);

/* "3,7-9" or "all" -> c->layers, ascending; of a MoE. A layer without a router is an error. */
vmoer_status vm_api_layers(const char *text, const vm_config *model, vm_router_config *c);
enum { VM_TRAINING_TEXT = 4096 };
/* --layers auto: how many layers of so many with a router are variational, and how their stability is measured (docs/METHOD.md). */
enum { VM_AUTO_QUESTIONS = 64 };
#define VM_AUTO_SIGMA 0.1
int vm_api_auto_layers(int n_layers);
/* The settings as one line for the metadata of a file; VMOER_ERROR_LIMIT where they are too many for it. */
vmoer_status vm_api_training_text(const json_t *config, char out[VM_TRAINING_TEXT]);

#endif
