/* calibrate.c: trains a variational router (or a control) over a frozen model. */
#include "api/internal.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/utf8.h"
#include "eval/jaccard.h"
#include "eval/metrics.h"
#include "train/stability.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AUTO_LAYERS = 10 };

int vm_api_auto_layers(int n_layers) {
    return n_layers >= 3 * AUTO_LAYERS ? AUTO_LAYERS : n_layers >= 3 ? n_layers / 3 : 1;
}

vmoer_calibrate_params vmoer_calibrate_params_default(void) {
    vmoer_calibrate_params p = {.train = vm_train_params_default(),
                                .router = "vglr-fc",
                                .layers = "auto",
                                .width = 64,
                                .prior_scale = 1,
                                .beta = 0.01,
                                .initial_scale = 0.2,
                                .draws = 1,
                                .objective = "mean",
                                .train_on = "train"};
    p.train.learning_rate = 1e-3;
    p.train.epochs = 1;
    return p;
}

typedef struct calibration {
    const vmoer_calibrate_params *p;
    vm_training *training;
    vm_router *router;
    vm_states *states; /* below the lowest variational layer all is frozen; NULL where there is none */
    json_t *facts;     /* {"stability": [...]} with --layers auto, else NULL */
    const vm_train_job *job;
    bool fits_temperature;
    json_t *trials; /* of what is fitted */
} calibration;

vmoer_status vm_api_layers(const char *text, const vm_config *model, vm_router_config *c) {
    static const char malformed[] = "--layers '%s': must be auto, all, or like 3,7-9";
    bool chosen[512] = {false}, all = strcmp(text, "all") == 0;
    for (const char *at = all ? "" : text; *at;) {
        char *end;
        long low = strtol(at, &end, 10), high = low;
        if (end == at) return vm_error(VMOER_ERROR_ARGUMENT, malformed, text);
        if (*end == '-') {
            at = end + 1;
            high = strtol(at, &end, 10);
            if (end == at) return vm_error(VMOER_ERROR_ARGUMENT, malformed, text);
        }
        if (low < 0 || high < low || high >= model->n_layers || (*end && *end != ','))
            return vm_error(VMOER_ERROR_ARGUMENT, "--layers '%s': the model's layers are 0 to %d", text,
                            model->n_layers - 1);
        if (!vm_model_routes(model, (int)low))
            return vm_error(VMOER_ERROR_ARGUMENT, "--layers '%s': layer %ld is dense, those with a router are %d to %d",
                            text, low, model->dense_layers, model->n_layers - 1);
        for (long l = low; l <= high; l++) chosen[l] = true;
        at = *end ? end + 1 : end;
    }
    c->n_layers = 0;
    for (int l = model->dense_layers; l < model->n_layers; l++)
        if (all || chosen[l]) c->layers[c->n_layers++] = l;
    return c->n_layers ? VMOER_OK : vm_error(VMOER_ERROR_ARGUMENT, "--layers names no layer");
}

static vmoer_status write_router(const calibration *c, const char *folder, const json_t *record) {
    vm_router_file file = {.training = ""};
    char path[4096];
    memcpy(file.base, c->training->model->fingerprint, sizeof file.base);
    memcpy(file.adapter, c->training->adapter_fingerprint, sizeof file.adapter);
    vm_copy_text(file.base_name, sizeof file.base_name, c->training->model->config.name);
    vm_copy_text(file.adapter_name, sizeof file.adapter_name, c->training->adapter_name);
    VM_TRY(vm_api_training_text(json_object_get(record, "config"), file.training));
    VM_TRY(vm_path_join(path, sizeof path, folder, "router.safetensors"));
    VM_TRY(vm_router_save(c->router, &file, path));
    VM_TRY(vm_path_join(path, sizeof path, folder, "training.json"));
    return vm_json_save(path, record);
}

/* What was fitted, into a record. */
static vmoer_status add_fits(const calibration *c, json_t *record) {
    double temperature = vm_router_get_config(c->router)->temperature;
    bool ok = json_object_set(record, "trials", c->trials) == 0 &&
              (!c->fits_temperature || json_object_set_new(record, "temperature", json_real(temperature)) == 0);
    return ok ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
}

/* The trainer's: what it has now is to be kept, with an output temperature of its own where that is wanted. */
static vmoer_status save_router(void *context, const char *folder, const json_t *record) {
    calibration *c = context;
    if (!c->fits_temperature) return write_router(c, folder, record);
    json_array_clear(c->trials);
    VM_TRY(vm_api_fit_temperature(c->job, c->router, c->trials));
    json_t *own = json_copy((json_t *)(uintptr_t)record);
    vmoer_status status = own ? add_fits(c, own) : vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    if (status == VMOER_OK) status = write_router(c, folder, own);
    json_decref(own);
    return status;
}

/* What the router will be, by the parameters and the model's header. *auto_layers: its layers, here the first alone,
 * are yet to be chosen. */
static vmoer_status router_config(const vmoer_calibrate_params *p, vm_router_config *c, bool *auto_layers) {
    vm_gguf *g;
    vm_config model;
    VM_TRY(vm_gguf_open(p->train.model, &g));
    vmoer_status status = vm_config_read(g, &model);
    vm_gguf_free(g);
    if (status != VMOER_OK) return vm_error_in(status, "%s", p->train.model);
    *c = (vm_router_config){.n_experts = model.n_experts,
                            .dim = model.dim,
                            .width = p->width,
                            .prior_scale = (float)p->prior_scale,
                            .initial_scale = (float)p->initial_scale,
                            .seed = p->train.seed,
                            .temperature = 1,
                            .rank = p->rank,
                            .members = p->members,
                            .keep_experts = p->keep_experts,
                            .route_temperature = (float)p->route_temperature,
                            .noise = (float)p->noise};
    vm_copy_text(c->kind, sizeof c->kind, p->router);
    vm_router_config_complete(c);
    *auto_layers = false;
    if (strcmp(p->router, "temperature") == 0) return VMOER_OK;
    if (!model.n_experts)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "'%s' is dense: it has no router to make variational (--router temperature works)", model.name);
    if (c->keep_experts && !p->keep_experts) c->keep_experts = model.top_k > 1 ? model.top_k / 2 : 1;
    if (c->keep_experts && c->keep_experts >= model.top_k)
        return vm_error(VMOER_ERROR_ARGUMENT, "keep_experts: %d of the %d experts a token, so that none is drawn",
                        c->keep_experts, model.top_k);
    *auto_layers = strcmp(p->layers, "auto") == 0;
    VM_TRY(vm_api_layers(*auto_layers ? "all" : p->layers, &model, c));
    if (*auto_layers) c->n_layers = 1;
    return VMOER_OK;
}

/* The least stable layers by the held-out questions; what was measured goes into the record. */
static vmoer_status choose_layers(calibration *c, const vmoer_hooks *hooks, vm_router_config *config) {
    const vm_training *t = c->training;
    int first = t->model->config.dense_layers, n = t->model->config.n_layers - first, count = vm_api_auto_layers(n);
    const vm_noise noise = {.sigma = VM_AUTO_SIGMA, .relative = true, .seed = 0};
    const vm_stability how = {
        .questions = VM_AUTO_QUESTIONS, .levels = &noise, .n_levels = 1, .answer = {.samples = 1}};
    const vm_examples *heldout = strcmp(c->p->train_on, "heldout") == 0 ? &t->train : &t->heldout;
    vm_stability_figures figures;
    VM_TRY(vm_stability_measure(&how, t->model, t->pool, t->pass, heldout, hooks, &figures));
    double jaccard[512];
    memcpy(jaccard, figures.isolated + first, (size_t)n * sizeof *jaccard);
    vm_stability_figures_free(&figures);
    vm_least_stable(jaccard, n, count, config->layers);
    config->n_layers = count;
    for (int i = 0; i < count; i++) config->layers[i] += first;
    json_t *list = json_array();
    for (int l = 0; l < n; l++)
        json_array_append_new(list, json_pack("{s:i, s:f}", "layer", first + l, "jaccard", jaccard[l]));
    c->facts = json_pack("{s:o}", "stability", list);
    if (!c->facts) return vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    for (int i = 0; i < count; i++)
        vm_log(hooks, "layer %d is variational: Jaccard %.4f under noise", config->layers[i],
               jaccard[config->layers[i] - first]);
    return VMOER_OK;
}

/* Opens the training and makes the router. What can be refused is refused before the model is read. */
static vmoer_status prepare(calibration *c, const vmoer_hooks *hooks) {
    const vmoer_calibrate_params *p = c->p;
    vm_router_config config;
    bool auto_layers;
    VM_TRY(router_config(p, &config, &auto_layers));
    VM_TRY(vm_router_create(&config, &c->router));
    /* Gradients flow down to the lowest variational layer and no further. */
    bool trained = vm_router_params(c->router).count > 0;
    int backward_from = !trained ? -1 : auto_layers ? 0 : config.layers[0];
    VM_TRY(vm_training_open(&p->train, backward_from, false, strcmp(p->train_on, "heldout") == 0, c->training));
    if (!auto_layers) return VMOER_OK;
    VM_TRY(choose_layers(c, hooks, &config));
    vm_router_free(c->router);
    return vm_router_create(&config, &c->router);
}

/* Kinds with weights of their own start from the model's routers. */
static vmoer_status start_weights(const calibration *c) {
    const vm_router_config *r = vm_router_get_config(c->router);
    if (!vm_router_has_weights(c->router)) return VMOER_OK;
    float *w = vm_malloc((size_t)r->n_experts * (size_t)r->dim, sizeof *w);
    vmoer_status status = w ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the model's routers");
    for (int i = 0; status == VMOER_OK && i < r->n_layers; i++) {
        const vm_linear *router = &c->training->model->layers[r->layers[i]].ffn.router;
        status = vm_linear_matrix(router, c->training->pool, w);
        if (status == VMOER_OK) status = vm_router_start_weights(c->router, r->layers[i], w);
    }
    vm_free(w);
    return status;
}

/* Half of the memory bound is for the states, half for the activations; 0 stays no bound. */
static size_t share_of_memory(const vmoer_calibrate_params *p) { return (vm_training_memory(&p->train) + 1) / 2; }

static vmoer_status open_states(calibration *c) {
    const vm_router_config *r = vm_router_get_config(c->router);
    if (r->n_layers == 0) return VMOER_OK;
    return vm_states_create(r->layers[0], r->dim, share_of_memory(c->p), &c->states);
}

static json_t *config_of(const calibration *c) {
    const vmoer_calibrate_params *p = c->p;
    const vm_router_config *r = vm_router_get_config(c->router);
    json_t *config = vm_training_config(c->training), *layers = json_array();
    for (int i = 0; i < r->n_layers; i++) json_array_append_new(layers, json_integer(r->layers[i]));
    json_t *own =
        json_pack("{s:s, s:o, s:i, s:f, s:f, s:f, s:i, s:s, s:s, s:b}", "router", p->router, "layers", layers, "width",
                  p->width, "prior_scale", p->prior_scale, "beta", p->beta, "initial_scale", p->initial_scale, "draws",
                  p->draws, "objective", p->objective, "train_on", p->train_on, "fit_temperature", c->fits_temperature);
    if (p->quick) json_object_set_new(own, "quick", json_true());
    for (vm_router_number i = 0; i < VM_ROUTER_NUMBERS; i++) /* those of this kind */
        if (vm_router_get_number(r, i) != 0)
            json_object_set_new(own, vm_router_number_name(i), json_real(vm_router_get_number(r, i)));
    json_object_update(config, own);
    json_decref(own);
    return config;
}

/* A router without parameters: its one number is fitted, or is the output temperature alone. */
static vmoer_status fit(calibration *c, const vmoer_hooks *hooks, json_t **record) {
    const vmoer_calibrate_params *p = c->p;
    size_t chosen = 0; /* the trial that the result stands for */
    const char *name = "temperature";
    VM_TRY(vm_make_dirs(p->train.output_path));
    if (vm_router_get_config(c->router)->n_layers) {
        name = vm_router_number_name(vm_api_one_number(c->router));
        double given = p->noise != 0 ? p->noise : p->route_temperature;
        VM_TRY(p->quick ? vm_api_fit_quick(c->job, hooks, &c->router, c->trials, &chosen)
                        : vm_api_fit_number(c->job, given, hooks, &c->router, c->trials, &chosen));
    }
    if (c->fits_temperature) VM_TRY(vm_api_fit_temperature(c->job, c->router, c->trials));
    *record = json_pack("{s:s, s:s, s:o, s:i, s:[{s:i, s:O}], s:{s:{s:i, s:i}}}", "vmoer", vmoer_version(), "kind",
                        "calibrate", "config", config_of(c), "parameters", 1, "history", "step", 0, "heldout",
                        json_object_get(json_array_get(c->trials, chosen), "heldout"), "trainable", name, "tensors", 1,
                        "parameters", 1);
    if (!*record) return vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    if (c->facts) json_object_update(*record, c->facts);
    vmoer_status status = add_fits(c, *record);
    return status == VMOER_OK ? write_router(c, p->train.output_path, *record) : status;
}

static vmoer_status check_params(const vmoer_calibrate_params *p) {
    if (!p->train.model) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    if (p->train.questions.task_file && !p->quick)
        return vm_error(VMOER_ERROR_ARGUMENT, "--task_file is for --quick: training takes tasks by their names");
    if (p->quick && (p->noise != 0 || strcmp(p->train_on, "train") != 0))
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "--quick finds the noise on the held-out part: no --noise, no --train_on");
    if (p->draws < 1 || p->draws > VM_MAX_DRAWS)
        return vm_error(VMOER_ERROR_ARGUMENT, "draws %d, must be 1 to %d", p->draws, VM_MAX_DRAWS);
    if (strcmp(p->objective, "mean") != 0 && strcmp(p->objective, "mixture") != 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "objective '%s', must be mean or mixture", p->objective);
    if (!(p->beta >= 0 && isfinite(p->beta)))
        return vm_error(VMOER_ERROR_ARGUMENT, "beta %g, must be 0 or more", p->beta);
    if (strcmp(p->train_on, "train") != 0 && strcmp(p->train_on, "heldout") != 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "train_on '%s', must be train or heldout", p->train_on);
    if (strcmp(p->router, "temperature") != 0) VM_TRY(vm_train_check(&p->train));
    return vm_training_check_output(&p->train);
}

/* Several draws a question are for the kinds that are trained by their draws and a KL. */
static vmoer_status check_objective(const vmoer_calibrate_params *p, bool kl) {
    if (kl || (p->draws == 1 && strcmp(p->objective, "mean") == 0)) return VMOER_OK;
    return vm_error(VMOER_ERROR_ARGUMENT, "--draws and --objective are for variational routers, not for '%s'",
                    p->router);
}

/* What --quick stands for. */
static vmoer_status quick_params(const vmoer_calibrate_params *p, vmoer_calibrate_params *out) {
    *out = *p;
    if (!p->quick) return VMOER_OK;
    if (strcmp(p->router, vmoer_calibrate_params_default().router) != 0 && strcmp(p->router, "isotropic") != 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "--quick makes an isotropic router, not '%s'", p->router);
    out->router = "isotropic";
    out->fit_temperature = 1;
    if (p->train.questions.task_file) out->train.questions.tasks = NULL;
    return VMOER_OK;
}

vmoer_status vmoer_calibrate(const vmoer_calibrate_params *params, const vmoer_hooks *hooks, char **out_json) {
    vmoer_calibrate_params own;
    const vmoer_calibrate_params *p = &own;
    VM_TRY(quick_params(params, &own));
    vm_training t = {.params = &p->train};
    calibration c = {
        .p = p, .training = &t, .fits_temperature = p->fit_temperature || strcmp(p->router, "temperature") == 0};
    json_t *config = NULL, *record = NULL;
    char text[VM_TRAINING_TEXT];
    vmoer_status status;
    VM_TRY(check_params(p));
    if (!(c.trials = json_array())) return vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    VM_GOTO(prepare(&c, hooks));
    VM_GOTO(start_weights(&c));
    VM_GOTO(open_states(&c));
    config = config_of(&c);
    VM_GOTO(vm_api_training_text(config, text)); /* the file could not hold it: say so now, not after hours */
    vm_param_list trained = vm_router_params(c.router);
    bool kl = vm_router_has_kl(c.router), layers = vm_router_get_config(c.router)->n_layers > 0;
    VM_GOTO(check_objective(p, kl));
    vm_train_job job = {.params = &p->train,
                        .config = config,
                        .facts = c.facts,
                        .stage = "calibrate",
                        .model = t.model,
                        .pool = t.pool,
                        .trained = trained,
                        .train = &t.train,
                        .heldout = &t.heldout,
                        .save = save_router,
                        .context = &c,
                        .predict = {.router = layers ? c.router : NULL,
                                    .inference = vm_router_default_inference(c.router),
                                    .samples = 1,
                                    .seed = p->train.seed,
                                    .states = c.states},
                        .objective = {.pass = t.pass,
                                      .format = VM_FORMAT_CLOZE,
                                      .router = layers ? c.router : NULL,
                                      .beta = kl ? p->beta : 0,
                                      .draws = p->draws,
                                      .mixture = strcmp(p->objective, "mixture") == 0,
                                      .seed = p->train.seed,
                                      .memory = share_of_memory(p),
                                      .states = c.states}};
    c.job = &job;
    if (trained.count) {
        VM_GOTO(vm_train_run(&job, hooks, &record));
        if (json_array_size(c.trials)) VM_GOTO(add_fits(&c, record));
    } else {
        VM_GOTO(fit(&c, hooks, &record));
    }
    status = vm_api_return_json(json_incref(record), out_json);
done:
    json_decref(record);
    json_decref(config);
    json_decref(c.facts);
    json_decref(c.trials);
    vm_states_free(c.states);
    vm_router_free(c.router);
    vm_training_close(&t);
    return status;
}
