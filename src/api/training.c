/* training.c: finetune and calibrate: model and questions in, an adapter or a router file out. */
#include "api/internal.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/utf8.h"
#include "train/export.h"
#include "train/lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

vmoer_train_params vm_train_params_default(void) {
    return (vmoer_train_params){.questions = {.tasks = "openbookqa"},
                                .epochs = 3,
                                .batch_size = 16,
                                .learning_rate = 1e-4,
                                .warmup = 0.06,
                                .clip = 1.0,
                                .memory_gib = 2.0};
}

vmoer_status vm_training_check_memory(const vmoer_train_params *p) {
    return p->memory_gib >= 0 && p->memory_gib < 1e6
               ? VMOER_OK
               : vm_error(VMOER_ERROR_ARGUMENT, "--memory_gib %g, must be 0 (no bound) to a million", p->memory_gib);
}

vmoer_status vm_training_check_output(const vmoer_train_params *p) {
    if (!p->output_path) return vm_error(VMOER_ERROR_ARGUMENT, "no output folder given (--output_path DIR)");
    return vm_train_check_folder(p);
}

static vmoer_status open_training(const vmoer_train_params *p, int backward_from, bool train_all, bool swap,
                                  vm_training *t) {
    if (!p->model) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    VM_TRY(vm_api_check_questions(&p->questions));
    VM_TRY(vm_training_check_memory(p));
    vm_adapter *adapter = NULL;
    VM_TRY(vm_pool_create(p->threads, &t->pool));
    if (p->adapter) {
        VM_TRY(vm_adapter_open(p->adapter, &adapter));
        vm_copy_text(t->adapter_name, sizeof t->adapter_name, vm_adapter_name(adapter));
        snprintf(t->adapter_fingerprint, sizeof t->adapter_fingerprint, "%s", vm_adapter_fingerprint(adapter));
    }
    vm_model_options o = {.compute = vm_api_compute(p->compute),
                          .adapter = adapter,
                          .backward_from = backward_from,
                          .train_all = train_all};
    vmoer_status status = vm_model_load(p->model, &o, t->pool, &t->model);
    vm_adapter_free(adapter);
    VM_TRY(status);
    VM_TRY(vm_tokenizer_open(t->model->file, &t->tokenizer));
    VM_TRY(vm_pass_create(t->model, t->pool, &t->pass));
    const vmoer_questions *q = &p->questions;
    vm_examples *train = swap ? &t->heldout : &t->train, *heldout = swap ? &t->train : &t->heldout;
    if (!q->task_file) VM_TRY(vm_api_examples(q, "training", t->tokenizer, VMOER_SPLIT_TRAIN, train));
    return vm_api_examples(q, "training", t->tokenizer, VMOER_SPLIT_HELDOUT, heldout);
}

vmoer_status vm_training_open(const vmoer_train_params *params, int backward_from, bool train_all, bool swap,
                              vm_training *t) {
    memset(t, 0, sizeof *t);
    t->params = params;
    vmoer_status status = open_training(params, backward_from, train_all, swap, t);
    if (status != VMOER_OK) vm_training_close(t);
    return status;
}

void vm_training_close(vm_training *t) {
    vm_examples_free(&t->train);
    vm_examples_free(&t->heldout);
    vm_pass_free(t->pass);
    vm_tokenizer_free(t->tokenizer);
    vm_model_free(t->model);
    vm_pool_free(t->pool);
    memset(t, 0, sizeof *t);
}

size_t vm_training_memory(const vmoer_train_params *p) { return (size_t)(p->memory_gib * 1073741824.0); }

json_t *vm_training_loop_config(const vmoer_train_params *p) {
    return json_pack("{s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:i, s:s}", "epochs", p->epochs, "steps", p->steps,
                     "batch_size", p->batch_size, "learning_rate", p->learning_rate, "warmup", p->warmup,
                     "weight_decay", p->weight_decay, "clip", p->clip, "evaluate_every", p->evaluate_every, "compute",
                     vm_api_compute(p->compute) == VM_COMPUTE_BF16 ? "bf16" : "f32");
}

json_t *vm_training_config(const vm_training *t) {
    const vmoer_train_params *p = t->params;
    json_t *config = vm_training_loop_config(p);
    const char *tasks = p->questions.tasks ? p->questions.tasks : p->questions.task_file;
    json_t *own = json_pack("{s:s, s:s, s:s, s:I, s:s, s:i}", "base", t->model->fingerprint, "adapter",
                            t->adapter_fingerprint, "tasks", tasks, "seed", (json_int_t)p->seed, "keep",
                            vm_train_keep_name(p->keep), "limit", p->questions.limit);
    json_object_update(config, own);
    json_decref(own);
    vm_api_put_cuts(config, &p->questions);
    return config;
}

vmoer_status vm_api_training_text(const json_t *config, char out[VM_TRAINING_TEXT]) {
    char *line = config ? vm_json_line(config) : NULL;
    if (!line) return vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    size_t length = strlen(line);
    if (length < VM_TRAINING_TEXT) memcpy(out, line, length + 1);
    free(line);
    return length < VM_TRAINING_TEXT
               ? VMOER_OK
               : vm_error(VMOER_ERROR_LIMIT, "the settings take %zu bytes, a file's record of them holds %d", length,
                          VM_TRAINING_TEXT - 1);
}

/* ---- finetune ---- */

vmoer_finetune_params vmoer_finetune_params_default(void) {
    return (vmoer_finetune_params){
        .train = vm_train_params_default(), .targets = "attention,experts", .rank = 8, .alpha = 16};
}

typedef struct finetune {
    const vmoer_finetune_params *params;
    vm_training *training;
    bool all; /* the weights themselves, not LoRA */
} finetune;

static vmoer_status save_result(void *context, const char *dir, const json_t *record) {
    const finetune *f = context;
    char path[4096];
    if (f->all) {
        VM_TRY(vm_path_join(path, sizeof path, dir, "model.gguf"));
        VM_TRY(vm_model_export(f->training->model, path));
    } else {
        VM_TRY(vm_lora_save(f->training->model, dir, "F16"));
    }
    VM_TRY(vm_path_join(path, sizeof path, dir, "training.json"));
    return vm_json_save(path, record);
}

static json_t *config_of(const finetune *f) {
    json_t *config = vm_training_config(f->training);
    json_object_set_new(config, "targets", json_string(f->params->targets));
    if (f->params->router_learning_rate > 0)
        json_object_set_new(config, "router_learning_rate", json_real(f->params->router_learning_rate));
    if (f->all) return config;
    json_object_set_new(config, "rank", json_integer(f->params->rank));
    json_object_set_new(config, "alpha", json_real(f->params->alpha));
    return config;
}

vmoer_status vm_training_check_rates(double learning_rate, double router_learning_rate) {
    if (!(router_learning_rate >= 0 && isfinite(router_learning_rate)))
        return vm_error(VMOER_ERROR_ARGUMENT, "--router_learning_rate %g, must be 0 or more", router_learning_rate);
    if (router_learning_rate > 0 && !(learning_rate > 0))
        return vm_error(VMOER_ERROR_ARGUMENT, "--router_learning_rate needs a --learning_rate above 0");
    return VMOER_OK;
}

vmoer_status vm_training_rates(const vm_param_list *trained, double learning_rate, double router_learning_rate,
                               float **out) {
    size_t routers = 0;
    *out = NULL;
    if (router_learning_rate == 0) return VMOER_OK;
    float *rates = vm_malloc(trained->count, sizeof *rates);
    if (!rates) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu learning rates", trained->count);
    for (size_t i = 0; i < trained->count; i++) {
        const char *name = trained->items[i]->name;
        bool router = strstr(name, ".router.") || strstr(name, ".ffn_gate_inp.");
        routers += router;
        rates[i] = router ? (float)(router_learning_rate / learning_rate) : 1.0f;
    }
    *out = rates;
    return routers ? VMOER_OK : vm_error(VMOER_ERROR_ARGUMENT, "--router_learning_rate, but no router is trained");
}

static vmoer_status check_params(const vmoer_finetune_params *p, bool all) {
    const vmoer_finetune_params standard = vmoer_finetune_params_default();
    if (all && (p->rank != standard.rank || p->alpha != standard.alpha))
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "--rank and --alpha are LoRA's: --targets all trains the weights themselves");
    VM_TRY(vm_training_check_rates(p->train.learning_rate, p->router_learning_rate));
    VM_TRY(vm_train_check(&p->train));
    return vm_training_check_output(&p->train);
}

vmoer_status vmoer_finetune(const vmoer_finetune_params *p, const vmoer_hooks *hooks, char **out_json) {
    vm_training t;
    json_t *config = NULL, *record = NULL;
    vm_param_list trained = {NULL, 0};
    float *rates = NULL;
    finetune context = {.params = p, .training = &t, .all = strcmp(p->targets, "all") == 0};
    VM_TRY(check_params(p, context.all));
    VM_TRY(vm_training_open(&p->train, 0, context.all, false, &t));
    vmoer_status status;
    if (!context.all) VM_GOTO(vm_lora_attach(t.model, p->targets, p->rank, p->alpha, p->train.seed, t.pool));
    VM_GOTO(vm_model_params(t.model, &trained));
    VM_GOTO(vm_training_rates(&trained, p->train.learning_rate, p->router_learning_rate, &rates));
    config = config_of(&context);
    vm_train_job job = {.params = &p->train,
                        .config = config,
                        .stage = "finetune",
                        .model = t.model,
                        .pool = t.pool,
                        .trained = trained,
                        .rates = rates,
                        .train = &t.train,
                        .heldout = &t.heldout,
                        .save = save_result,
                        .context = &context,
                        .objective = {.pass = t.pass,
                                      .format = VM_FORMAT_CLOZE,
                                      .draws = 1,
                                      .seed = p->train.seed,
                                      .memory = vm_training_memory(&p->train)}};
    VM_GOTO(vm_train_run(&job, hooks, &record));
    status = vm_api_return_json(record, out_json);
done:
    vm_free(trained.items);
    vm_free(rates);
    json_decref(config);
    vm_training_close(&t);
    return status;
}
