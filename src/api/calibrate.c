/* calibrate.c: trains a variational router (or a control) over a frozen model. */
#include "api/internal.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "eval/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AUTO_LAYERS = 10 };

vmoer_calibrate_params vmoer_calibrate_params_default(void) {
    vmoer_calibrate_params p = {.train = vm_train_params_default(), .router = "vglr-fc", .layers = "auto", .width = 64, .prior_scale = 1, .beta = 0.01,
                                .initial_scale = 0.2, .draws = 1, .train_on = "train"};
    p.train.learning_rate = 1e-3;
    p.train.epochs = 1;
    return p;
}

typedef struct calibration {
    const vmoer_calibrate_params *p;
    vm_training *training;
    vm_router *router;
} calibration;

/* "3,7-9" -> layers ascending; "all"; "auto": the last third of the layers. */
static vmoer_status parse_layers(const char *text, int n_layers, vm_router_config *c) {
    bool chosen[512] = {false};
    if (strcmp(text, "all") == 0 || strcmp(text, "auto") == 0) {
        int first = text[1] == 'l' || n_layers < AUTO_LAYERS ? 0 : n_layers - AUTO_LAYERS;
        for (int l = first; l < n_layers; l++) chosen[l] = true;
    } else {
        for (const char *at = text; *at;) {
            char *end;
            long low = strtol(at, &end, 10), high = low;
            if (end == at) return vm_error(VMOER_ERROR_ARGUMENT, "--layers '%s': must be auto, all, or like 3,7-9", text);
            if (*end == '-') {
                at = end + 1;
                high = strtol(at, &end, 10);
                if (end == at) return vm_error(VMOER_ERROR_ARGUMENT, "--layers '%s': must be auto, all, or like 3,7-9", text);
            }
            if (low < 0 || high < low || high >= n_layers || (*end && *end != ','))
                return vm_error(VMOER_ERROR_ARGUMENT, "--layers '%s': the model's layers are 0 to %d", text, n_layers - 1);
            for (long l = low; l <= high; l++) chosen[l] = true;
            at = *end ? end + 1 : end;
        }
    }
    c->n_layers = 0;
    for (int l = 0; l < n_layers; l++)
        if (chosen[l]) c->layers[c->n_layers++] = l;
    return c->n_layers ? VMOER_OK : vm_error(VMOER_ERROR_ARGUMENT, "--layers names no layer");
}

static vmoer_status save_router(void *context, const json_t *record) {
    calibration *c = context;
    vm_router_file file = {.training = ""};
    char path[4096];
    memcpy(file.base, c->training->model->fingerprint, sizeof file.base);
    memcpy(file.adapter, c->training->adapter_fingerprint, sizeof file.adapter);
    snprintf(file.base_name, sizeof file.base_name, "%s", c->training->model->config.name);
    snprintf(file.adapter_name, sizeof file.adapter_name, "%s", c->training->adapter_name);
    char *line = vm_json_line(json_object_get(record, "config"));
    if (!line) return vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    snprintf(file.training, sizeof file.training, "%s", line);
    free(line);
    VM_TRY(vm_path_join(path, sizeof path, c->p->train.output_path, "router.safetensors"));
    VM_TRY(vm_router_save(c->router, &file, path));
    VM_TRY(vm_path_join(path, sizeof path, c->p->train.output_path, "training.json"));
    return vm_json_save(path, record);
}

/* Output temperature scaling: one parameter, fitted on the held-out questions. */
static vmoer_status fit_temperature(calibration *c, vm_train_job *job, json_t **record) {
    size_t n = job->heldout->n;
    double *p = vm_calloc(n * VM_MAX_CHOICES, sizeof *p), temperature;
    int *k = vm_calloc(n, sizeof *k);
    json_t *before = NULL;
    vmoer_status status = p && k ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", n);
    if (status == VMOER_OK) status = vm_make_dirs(c->p->train.output_path);
    if (status == VMOER_OK) status = vm_objective_predict(&job->objective, job->heldout, &job->predict, p);
    for (size_t i = 0; status == VMOER_OK && i < n; i++) k[i] = job->heldout->prompts[i].n_choices;
    vm_predictions d = {.n = n, .stride = VM_MAX_CHOICES, .p = p, .k = k, .label = job->heldout->answers};
    if (status == VMOER_OK) status = vm_temperature_fit(&d, &temperature);
    if (status == VMOER_OK) status = vm_train_look(job, &before);
    if (status == VMOER_OK) {
        vm_router_set_temperature(c->router, temperature);
        *record = json_pack("{s:s, s:s, s:O, s:i, s:f, s:[{s:i, s:o}], s:[]}", "vmoer", vmoer_version(), "kind", "calibrate", "config", job->config, "parameters", 1,
                            "temperature", temperature, "history", "step", 0, "heldout", before, "trainable");
        status = *record ? save_router(c, *record) : vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    }
    vm_free(p);
    vm_free(k);
    return status;
}

static vmoer_status make_router(const vmoer_calibrate_params *p, const vm_gguf *g, vm_router **out) {
    vm_config model;
    VM_TRY(vm_config_read(g, &model));
    vm_router_config c = {.n_experts = model.n_experts, .dim = model.dim, .width = p->width, .prior_scale = (float)p->prior_scale,
                          .initial_scale = (float)p->initial_scale, .seed = p->train.seed, .temperature = 1};
    snprintf(c.kind, sizeof c.kind, "%s", p->router);
    if (strcmp(p->router, "temperature") != 0) {
        if (!model.n_experts) return vm_error(VMOER_ERROR_ARGUMENT, "'%s' is dense: it has no router to make variational (--router temperature works)", model.name);
        VM_TRY(parse_layers(p->layers, model.n_layers, &c));
    }
    return vm_router_create(&c, out);
}

static json_t *config_of(const calibration *c) {
    const vmoer_calibrate_params *p = c->p;
    const vm_router_config *r = vm_router_get_config(c->router);
    json_t *config = vm_training_config(c->training), *layers = json_array();
    for (int i = 0; i < r->n_layers; i++) json_array_append_new(layers, json_integer(r->layers[i]));
    json_t *own = json_pack("{s:s, s:o, s:i, s:f, s:f, s:f, s:i, s:s}", "router", p->router, "layers", layers, "width", p->width, "prior_scale", p->prior_scale, "beta",
                            p->beta, "initial_scale", p->initial_scale, "draws", p->draws, "train_on", p->train_on);
    json_object_update(config, own);
    json_decref(own);
    return config;
}

static vmoer_status check_params(const vmoer_calibrate_params *p) {
    if (!p->train.model) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    if (p->draws != 1 && p->draws != 2) return vm_error(VMOER_ERROR_ARGUMENT, "draws %d, must be 1 or 2 (antithetic)", p->draws);
    if (!(p->beta >= 0 && isfinite(p->beta))) return vm_error(VMOER_ERROR_ARGUMENT, "beta %g, must be 0 or more", p->beta);
    if (strcmp(p->train_on, "train") != 0 && strcmp(p->train_on, "heldout") != 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "train_on '%s', must be train or heldout", p->train_on);
    return VMOER_OK;
}

vmoer_status vmoer_calibrate(const vmoer_calibrate_params *p, const vmoer_hooks *hooks, char **out_json) {
    vm_training t;
    vm_gguf *g;
    calibration c = {.p = p, .training = &t};
    json_t *config = NULL, *record = NULL;
    vm_param_list trained = {NULL, 0};
    VM_TRY(check_params(p));
    VM_TRY(vm_gguf_open(p->train.model, &g));
    vmoer_status status = make_router(p, g, &c.router);
    vm_gguf_free(g);
    VM_TRY(status);
    const vm_router_config *r = vm_router_get_config(c.router);
    /* Gradients flow down to the lowest variational layer and no further. */
    status = vm_training_open(&p->train, r->n_layers ? r->layers[0] : -1, false, strcmp(p->train_on, "heldout") == 0, &t);
    if (status != VMOER_OK) {
        vm_router_free(c.router);
        return status;
    }
    config = config_of(&c);
    trained = vm_router_params(c.router);
    bool covariance = vm_router_has_covariance(c.router), layers = r->n_layers > 0;
    vm_train_job job = {.params = &p->train, .config = config, .stage = "calibrate", .model = t.model, .pool = t.pool, .trained = trained, .train = &t.train,
                        .heldout = &t.heldout, .save = save_router, .context = &c,
                        .predict = {.router = layers ? c.router : NULL, .inference = covariance ? VM_INFERENCE_TILTED : VM_INFERENCE_MEAN, .seed = p->train.seed},
                        .objective = {.pass = t.pass, .format = VM_FORMAT_CLOZE, .router = layers ? c.router : NULL, .beta = covariance ? p->beta : 0,
                                      .draws = covariance ? p->draws : 1, .seed = p->train.seed, .memory = (size_t)(p->train.memory_gib * 1073741824.0)}};
    if (layers) VM_GOTO(vm_train_run(&job, hooks, &record));
    else VM_GOTO(fit_temperature(&c, &job, &record));
    status = vm_api_return_json(record, out_json);
done:
    json_decref(config);
    vm_router_free(c.router);
    vm_training_close(&t);
    return status;
}
