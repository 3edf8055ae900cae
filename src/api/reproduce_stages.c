/* reproduce_stages.c: which stages an experiment has, and how each is run. A stage knows what it is made from (its
 * settings and the SHA-256 of the files it reads); when it is done this stands in its stage.json. A done stage is not
 * run again; one made from something else is refused. */
#include "api/reproduce.h"

#include "base/file.h"
#include "base/status.h"
#include "eval/jaccard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char sigmas[] = ".01,.1";
static const double target = .53; /* the Jaccard index of the paper's deterministic router */
static const char ood_sets[] = "arc_easy,arc_challenge,medmcqa,mmlu_professional_law";
enum { OOD_CHOICES = 4, QUICK_LENGTH = 32 };

const char *vm_map_kind_name(vm_map_kind map) { return map == VM_MAP_NLL ? "nll" : "published"; }

const char *vm_stage_kind_name(vm_stage_kind kind) {
    static const char *const names[VM_STAGE_KINDS] = {"map",     "layers",  "router", "id",   "stability",
                                                      "heldout", "ood-run", "ood",    "cost", "conformal"};
    return names[kind];
}

static void stage_path(const vm_experiment *x, vm_stage *s) {
    const char *task = x->tasks[s->task].name;
    if (s->kind == VM_STAGE_MAP)
        snprintf(s->path, sizeof s->path, "%.100s/map-%d", task, s->seed);
    else if (s->kind == VM_STAGE_LAYERS)
        snprintf(s->path, sizeof s->path, "%.100s/%s-%d/layers", task, vm_map_kind_name(s->map), s->seed);
    else
        snprintf(s->path, sizeof s->path, "%.100s/%s-%d/%.60s/%s", task, vm_map_kind_name(s->map), s->seed,
                 x->routers[s->router].name, vm_stage_kind_name(s->kind));
}

vmoer_status vm_stage_folder(const vm_experiment *x, vm_stage_kind kind, int task, vm_map_kind map, int seed,
                             int router, char out[4096]) {
    vm_stage s = {.kind = kind, .task = task, .map = map, .seed = seed, .router = router};
    stage_path(x, &s);
    return vm_path_join(out, 4096, x->p->output_path, s.path);
}

/* ---- which there are ---- */

static vmoer_questions questions_of(const vm_experiment *x, const char *task, vmoer_split split) {
    return (vmoer_questions){.data_dir = x->data_dir, .tasks = task, .split = split};
}

static double mean_length(const vm_dataset *d) {
    size_t n = vm_dataset_count(d), bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const vm_item *item = vm_dataset_at(d, i);
        bytes += strlen(item->stem);
        for (int c = 0; c < item->n_choices; c++) bytes += strlen(item->choices[c]);
    }
    return n ? (double)bytes / (double)n : 0;
}

/* How many questions of a part of t's there are, and t->length; 0 and a note in x->skipped where the data set is not
 * there. */
static vmoer_status count_questions(vm_experiment *x, vm_experiment_task *t, vmoer_split split, int n_choices,
                                    size_t *n) {
    static const vm_split splits[] = {VM_SPLIT_TEST, VM_SPLIT_TRAIN, VM_SPLIT_HELDOUT};
    vm_dataset *d;
    *n = 0;
    vmoer_status status = vm_dataset_load(x->data_dir, t->name, splits[split], &d);
    if (status == VMOER_ERROR_IO || status == VMOER_ERROR_UNSUPPORTED) {
        json_object_set_new(x->skipped, t->name, json_string(vmoer_last_error()));
        return VMOER_OK;
    }
    VM_TRY(status);
    if (n_choices) vm_dataset_keep_choices(d, n_choices);
    *n = vm_dataset_count(d);
    t->length = mean_length(d);
    vm_dataset_free(d);
    return VMOER_OK;
}

static size_t cut(size_t n, int limit) { return limit > 0 && (size_t)limit < n ? (size_t)limit : n; }

static vmoer_status no_room(void) {
    return vm_error(VMOER_ERROR_LIMIT, "more than %d tasks or sets", VM_EXPERIMENT_TASKS);
}

static vmoer_status add_task(void *context, const char *name) {
    vm_experiment *x = context;
    vm_experiment_task *t = &x->tasks[x->n_tasks];
    if (x->p->quick && x->n_tasks > 0) return VMOER_OK; /* one is enough to see that everything works */
    if (x->n_tasks == VM_EXPERIMENT_TASKS) return no_room();
    for (int i = 0; i < x->n_tasks; i++)
        if (strcmp(x->tasks[i].name, name) == 0)
            return vm_error(VMOER_ERROR_ARGUMENT, "--tasks: %s stands there twice", name);
    *t = (vm_experiment_task){0};
    snprintf(t->name, sizeof t->name, "%s", name);
    VM_TRY(count_questions(x, t, VMOER_SPLIT_TRAIN, 0, &t->train));
    if (t->train) VM_TRY(count_questions(x, t, VMOER_SPLIT_HELDOUT, 0, &t->heldout));
    if (t->heldout) VM_TRY(count_questions(x, t, x->p->split, 0, &t->n));
    t->train = cut(t->train, x->limit);
    t->heldout = cut(t->heldout, x->limit);
    t->n = cut(t->n, x->limit);
    x->n_tasks += t->n > 0;
    return VMOER_OK;
}

static vmoer_status add_set(void *context, const char *name) {
    vm_experiment *x = context;
    vm_experiment_task *t = &x->sets[x->n_sets];
    if (strcmp(x->tasks[0].name, name) == 0) return VMOER_OK; /* what it was trained on is not strange to it */
    if (x->n_sets == VM_EXPERIMENT_TASKS) return no_room();
    *t = (vm_experiment_task){0};
    snprintf(t->name, sizeof t->name, "%s", name);
    VM_TRY(count_questions(x, t, x->p->split, OOD_CHOICES, &t->n));
    x->n_sets += t->n > 0;
    return VMOER_OK;
}

static vmoer_status find_data(vm_experiment *x) {
    x->skipped = json_object();
    if (!x->skipped) return vm_error(VMOER_ERROR_MEMORY, "no memory for the experiment");
    vmoer_questions tasks = {.tasks = x->p->tasks}, sets = {.tasks = ood_sets};
    VM_TRY(vm_api_each_task(&tasks, add_task, x));
    if (x->n_tasks == 0)
        return vm_error(VMOER_ERROR_DATA, "%s: none of the tasks %s has data there", x->data_dir, x->p->tasks);
    return vm_api_each_task(&sets, add_set, x);
}

static vmoer_status add_stage(vm_experiment *x, size_t *capacity, vm_stage s) {
    if (!vm_grow((void **)&x->stages, capacity, x->n_stages + 1, sizeof s))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu stages", x->n_stages);
    stage_path(x, &s);
    x->stages[x->n_stages++] = s;
    return VMOER_OK;
}

/* The stages of one kind, task and seed. */
static vmoer_status list_kind(vm_experiment *x, vm_stage s, size_t *capacity) {
    bool ood = s.kind == VM_STAGE_OOD_RUN || s.kind == VM_STAGE_OOD,
         sets = s.kind == VM_STAGE_HELDOUT || s.kind == VM_STAGE_COST || s.kind == VM_STAGE_CONFORMAL,
         once = s.kind == VM_STAGE_STABILITY || ood || sets;
    if (s.kind == VM_STAGE_MAP) return add_stage(x, capacity, s);
    if ((once && s.task > 0) || (ood && x->n_sets == 0)) return VMOER_OK;
    if (s.kind == VM_STAGE_COST && s.seed > 0) return VMOER_OK;
    if (s.kind == VM_STAGE_HELDOUT && x->p->split == VMOER_SPLIT_HELDOUT) return VMOER_OK;
    for (int map = 0; map < (sets ? VM_MAP_NLL : VM_MAPS); map++) {
        bool any = false;
        s.map = (vm_map_kind)map;
        for (int r = 0; r < x->n_routers; r++) {
            if (!x->runs[map][r] ||
                ((s.kind == VM_STAGE_ROUTER || s.kind == VM_STAGE_COST) && x->routers[r].deterministic))
                continue;
            any = true;
            s.router = r;
            if (s.kind != VM_STAGE_LAYERS) VM_TRY(add_stage(x, capacity, s));
        }
        s.router = 0;
        if (s.kind == VM_STAGE_LAYERS && any && x->auto_layers) VM_TRY(add_stage(x, capacity, s));
    }
    return VMOER_OK;
}

/* In the order of the protocol: what the later ones need comes first. */
static vmoer_status list_stages(vm_experiment *x) {
    size_t capacity = 0;
    for (int kind = 0; kind < VM_STAGE_KINDS; kind++)
        for (int task = 0; task < x->n_tasks; task++)
            for (int seed = 0; seed < x->seeds; seed++)
                VM_TRY(list_kind(x, (vm_stage){.kind = (vm_stage_kind)kind, .task = task, .seed = seed}, &capacity));
    return VMOER_OK;
}

vmoer_status vm_experiment_stages(vm_experiment *x) {
    VM_TRY(find_data(x));
    VM_TRY(list_stages(x));
    for (size_t i = 0; i < x->n_stages; i++) {
        char folder[4096], path[4096];
        VM_TRY(vm_path_join(folder, sizeof folder, x->p->output_path, x->stages[i].path));
        VM_TRY(vm_path_join(path, sizeof path, folder, "stage.json"));
        x->stages[i].done = vm_file_exists(path);
    }
    return VMOER_OK;
}

/* ---- what one is made from ---- */

static vmoer_status adapter_folder(const vm_experiment *x, const vm_stage *s, char out[4096]) {
    char map[4096];
    VM_TRY(vm_stage_folder(x, VM_STAGE_MAP, s->task, VM_MAP_PUBLISHED, s->seed, 0, map));
    if (s->map == VM_MAP_NLL) return vm_path_join(out, 4096, map, "best");
    snprintf(out, 4096, "%s", map);
    return VMOER_OK;
}

/* Of the MAP's own router: "". */
static vmoer_status router_file(const vm_experiment *x, const vm_stage *s, char out[4096]) {
    char folder[4096];
    out[0] = '\0';
    if (x->routers[s->router].deterministic) return VMOER_OK;
    VM_TRY(vm_stage_folder(x, VM_STAGE_ROUTER, s->task, s->map, s->seed, s->router, folder));
    return vm_path_join(out, 4096, folder, "router.safetensors");
}

static vmoer_status put_file(json_t *made_from, const char *key, const char *folder, const char *name) {
    char path[4096], hex[65];
    VM_TRY(vm_path_join(path, sizeof path, folder, name));
    VM_TRY(vm_sha256_file(path, hex));
    return json_object_set_new(made_from, key, json_string(hex)) == 0
               ? VMOER_OK
               : vm_error(VMOER_ERROR_MEMORY, "no memory for a stage");
}

static vmoer_status put_inputs(const vm_experiment *x, const vm_stage *s, json_t *m) {
    char folder[4096], file[4096];
    if (s->kind == VM_STAGE_MAP) return VMOER_OK;
    VM_TRY(adapter_folder(x, s, folder));
    VM_TRY(put_file(m, "adapter", folder, "adapter_model.safetensors"));
    if (s->kind == VM_STAGE_ROUTER || s->kind == VM_STAGE_LAYERS) return VMOER_OK;
    VM_TRY(router_file(x, s, file));
    if (file[0]) {
        VM_TRY(vm_stage_folder(x, VM_STAGE_ROUTER, s->task, s->map, s->seed, s->router, folder));
        VM_TRY(put_file(m, "router_file", folder, "router.safetensors"));
    }
    if (s->kind != VM_STAGE_OOD && s->kind != VM_STAGE_CONFORMAL) return VMOER_OK;
    VM_TRY(vm_stage_folder(x, VM_STAGE_ID, s->task, s->map, s->seed, s->router, folder));
    VM_TRY(put_file(m, "id", folder, "samples.jsonl"));
    if (s->kind == VM_STAGE_CONFORMAL) {
        if (x->p->split == VMOER_SPLIT_HELDOUT) return VMOER_OK;
        VM_TRY(vm_stage_folder(x, VM_STAGE_HELDOUT, s->task, s->map, s->seed, s->router, folder));
        return put_file(m, "heldout", folder, "samples.jsonl");
    }
    VM_TRY(vm_stage_folder(x, VM_STAGE_OOD_RUN, s->task, s->map, s->seed, s->router, folder));
    return put_file(m, "ood_run", folder, "samples.jsonl");
}

static json_t *set_names(const vm_experiment *x) {
    json_t *names = json_array();
    for (int i = 0; i < x->n_sets; i++) json_array_append_new(names, json_string(x->sets[i].name));
    return names;
}

/* The layers of a router by the stage that measured them; what its settings say where they name any. text[4096]. */
static vmoer_status layers_of(const vm_experiment *x, const vm_stage *s, char text[4096]) {
    const char *said = x->routers[s->router].calibrate.layers;
    char folder[4096], path[4096];
    json_t *results;
    double jaccard[512];
    int32_t layers[512];
    snprintf(text, 4096, "%s", said);
    if (!x->auto_layers || strcmp(said, "auto") != 0) return VMOER_OK;
    VM_TRY(vm_stage_folder(x, VM_STAGE_LAYERS, s->task, s->map, s->seed, 0, folder));
    VM_TRY(vm_path_join(path, sizeof path, folder, "results.json"));
    VM_TRY(vm_json_load(path, &results));
    const json_t *level = json_array_get(json_object_get(json_object_get(results, "results"), "sigmas"), 0),
                 *measured = json_object_get(level, "layers");
    bool whole = json_array_size(measured) == (size_t)x->n_layers && x->n_layers <= 512 &&
                 json_is_true(json_object_get(level, "relative"));
    for (size_t l = 0; whole && l < (size_t)x->n_layers; l++)
        jaccard[l] = json_number_value(json_object_get(json_array_get(measured, l), "isolated"));
    json_decref(results);
    if (!whole) return vm_error(VMOER_ERROR_FORMAT, "%s: no relative noise on %d layers", path, x->n_layers);
    int count = vm_api_auto_layers(x->n_layers);
    vm_least_stable(jaccard, x->n_layers, count, layers);
    text[0] = '\0';
    for (int i = 0; i < count; i++) {
        size_t used = strlen(text);
        snprintf(text + used, 4096 - used, "%s%d", i ? "," : "", x->first_layer + layers[i]);
    }
    return VMOER_OK;
}

/* The MAP's own hidden states are kept: for Mahalanobis distances, a rival of all signals. */
static bool keeps_hidden(const vm_experiment *x, const vm_stage *s) {
    bool run = s->kind == VM_STAGE_ID || s->kind == VM_STAGE_HELDOUT || s->kind == VM_STAGE_OOD_RUN;
    return run && s->task == 0 && s->map == VM_MAP_PUBLISHED && x->routers[s->router].deterministic && x->n_sets &&
           x->p->split != VMOER_SPLIT_HELDOUT;
}

static vmoer_status put_settings(const vm_experiment *x, const vm_stage *s, json_t *m) {
    const vm_contestant *c = &x->routers[s->router];
    const json_t *inference = json_object_get(c->settings, "inference");
    bool training = s->kind == VM_STAGE_MAP || s->kind == VM_STAGE_ROUTER,
         answers = s->kind > VM_STAGE_ROUTER && s->kind != VM_STAGE_OOD && s->kind != VM_STAGE_CONFORMAL;
    if (training) json_object_set_new(m, "limit", json_integer(x->limit));
    if (s->kind == VM_STAGE_MAP) json_object_set(m, "settings", json_object_get(x->settings, "map"));
    if (s->kind == VM_STAGE_ROUTER) {
        json_object_set(m, "settings", (json_t *)(uintptr_t)c->settings);
        char layers[4096];
        VM_TRY(layers_of(x, s, layers));
        json_object_set_new(m, "layers", json_string(layers));
    }
    if (answers) {
        json_object_set_new(m, "split", json_string(vm_api_split_name(x->p->split)));
        json_object_set_new(m, "inference",
                            inference ? json_incref((json_t *)(uintptr_t)inference) : json_string("auto"));
        json_object_set_new(m, "samples", json_integer(c->samples));
    }
    if (keeps_hidden(x, s)) json_object_set_new(m, "hidden", json_true());
    if (s->kind == VM_STAGE_LAYERS || s->kind == VM_STAGE_STABILITY)
        json_object_set_new(m, "questions",
                            json_integer(s->kind == VM_STAGE_LAYERS ? x->layers_questions : x->stability_questions));
    if (s->kind == VM_STAGE_ID || s->kind == VM_STAGE_HELDOUT) json_object_set_new(m, "limit", json_integer(x->limit));
    if (s->kind == VM_STAGE_OOD_RUN) {
        json_object_set_new(m, "sets", set_names(x));
        json_object_set_new(m, "sample", json_integer(x->ood_sample));
    }
    if (s->kind >= VM_STAGE_ID && s->kind != VM_STAGE_STABILITY && s->kind != VM_STAGE_CONFORMAL)
        json_object_set_new(m, "bootstrap", json_integer(x->bootstrap));
    return VMOER_OK;
}

static vmoer_status made_from(const vm_experiment *x, const vm_stage *s, json_t **out) {
    *out = json_pack("{s:s, s:s, s:s, s:s, s:i}", "stage", vm_stage_kind_name(s->kind), "task", x->tasks[s->task].name,
                     "model", x->fingerprint, "compute",
                     vm_api_compute(x->p->compute) == VM_COMPUTE_BF16 ? "bf16" : "f32", "seed", s->seed);
    if (!*out) return vm_error(VMOER_ERROR_MEMORY, "no memory for a stage");
    vmoer_status status = put_settings(x, s, *out);
    if (status == VMOER_OK) status = put_inputs(x, s, *out);
    if (status != VMOER_OK) json_decref(*out);
    return status;
}

/* ---- running ---- */

static void train_params(const vm_experiment *x, const vm_stage *s, const char *folder, vmoer_train_params *t) {
    t->model = x->p->model;
    t->questions = questions_of(x, x->tasks[s->task].name, VMOER_SPLIT_TRAIN);
    t->questions.limit = x->limit;
    t->output_path = folder;
    t->resume = 1;
    t->seed = (uint64_t)s->seed;
    t->compute = x->p->compute;
    t->threads = x->p->threads;
    t->memory_gib = x->p->memory_gib;
}

static vmoer_status run_map(const vm_experiment *x, const vm_stage *s, const char *folder) {
    vmoer_finetune_params p = x->map;
    train_params(x, s, folder, &p.train);
    return vmoer_finetune(&p, x->hooks, NULL);
}

static vmoer_status run_router(const vm_experiment *x, const vm_stage *s, const char *folder) {
    vmoer_calibrate_params p = x->routers[s->router].calibrate;
    char adapter[4096], layers[4096];
    VM_TRY(adapter_folder(x, s, adapter));
    VM_TRY(layers_of(x, s, layers));
    train_params(x, s, folder, &p.train);
    p.train.adapter = adapter;
    p.layers = layers;
    return vmoer_calibrate(&p, x->hooks, NULL);
}

/* How a contestant is loaded and asked; the paths are the caller's [4096]. */
static vmoer_status load_params(const vm_experiment *x, const vm_stage *s, char *adapter, char *router,
                                vmoer_model_params *out) {
    const vm_contestant *c = &x->routers[s->router];
    VM_TRY(adapter_folder(x, s, adapter));
    VM_TRY(router_file(x, s, router));
    *out = (vmoer_model_params){.adapter = adapter,
                                .router = router[0] ? router : NULL,
                                .compute = x->p->compute,
                                .inference = c->inference,
                                .samples = c->samples,
                                .seed = (uint64_t)s->seed,
                                .threads = x->p->threads};
    return VMOER_OK;
}

static void label_of(const vm_experiment *x, const vm_stage *s, char label[256]) {
    snprintf(label, 256, "%.100s %s %d / %.60s", x->tasks[s->task].name, vm_map_kind_name(s->map), s->seed,
             x->routers[s->router].name);
}

static vmoer_status run_layers(const vm_experiment *x, const vm_stage *s, const char *folder) {
    char adapter[4096], sigma[32];
    vmoer_stability_params p = vmoer_stability_params_default();
    VM_TRY(adapter_folder(x, s, adapter));
    snprintf(sigma, sizeof sigma, "%g", VM_AUTO_SIGMA);
    p.model = x->p->model;
    p.load = (vmoer_model_params){.adapter = adapter, .compute = x->p->compute, .samples = 1, .threads = x->p->threads};
    p.questions = questions_of(x, x->tasks[s->task].name, VMOER_SPLIT_HELDOUT);
    p.questions.limit = x->layers_questions;
    p.sigmas = sigma;
    p.output_path = folder;
    return vmoer_stability(&p, x->hooks, NULL);
}

static vmoer_status run_stability(const vm_experiment *x, const vm_stage *s, const char *folder) {
    char adapter[4096], router[4096], label[256];
    vmoer_stability_params p = vmoer_stability_params_default();
    VM_TRY(load_params(x, s, adapter, router, &p.load));
    label_of(x, s, label);
    p.model = x->p->model;
    p.questions = questions_of(x, x->tasks[s->task].name, x->p->split);
    p.questions.limit = x->stability_questions;
    p.sigmas = sigmas;
    p.target = target;
    p.output_path = folder;
    p.label = label;
    return vmoer_stability(&p, x->hooks, NULL);
}

static vmoer_status run_eval(const vm_experiment *x, const vm_stage *s, const char *folder) {
    char adapter[4096], router[4096], label[256], sets[VM_EXPERIMENT_TASKS * 129] = "";
    bool ood = s->kind == VM_STAGE_OOD_RUN;
    vmoer_eval_params p = vmoer_eval_params_default();
    VM_TRY(load_params(x, s, adapter, router, &p.load));
    label_of(x, s, label);
    p.model = x->p->model;
    for (int i = 0; i < x->n_sets; i++) {
        size_t used = strlen(sets);
        snprintf(sets + used, sizeof sets - used, "%s%s", used ? "," : "", x->sets[i].name);
    }
    p.questions = questions_of(x, ood ? sets : x->tasks[s->task].name,
                               s->kind == VM_STAGE_HELDOUT ? VMOER_SPLIT_HELDOUT : x->p->split);
    if (ood) {
        p.questions.n_choices = OOD_CHOICES;
        p.questions.sample = x->ood_sample;
    } else {
        p.questions.limit = x->limit;
    }
    p.output_path = folder;
    p.bootstrap = x->bootstrap;
    p.hidden = keeps_hidden(x, s);
    p.label = label;
    return vmoer_eval(&p, x->hooks, NULL);
}

static vmoer_status run_ood(const vm_experiment *x, const vm_stage *s, const char *folder) {
    char id[4096], run[4096], fit[4096] = "";
    const char *runs[] = {run};
    const vm_stage heldout = {
        .kind = VM_STAGE_HELDOUT, .task = s->task, .map = s->map, .seed = s->seed, .router = s->router};
    if (keeps_hidden(x, &heldout))
        VM_TRY(vm_stage_folder(x, VM_STAGE_HELDOUT, s->task, s->map, s->seed, s->router, fit));
    VM_TRY(vm_stage_folder(x, VM_STAGE_ID, s->task, s->map, s->seed, s->router, id));
    VM_TRY(vm_stage_folder(x, VM_STAGE_OOD_RUN, s->task, s->map, s->seed, s->router, run));
    vmoer_ood_params p = vmoer_ood_params_default();
    p.id_run = id;
    p.ood_runs = runs;
    p.n_ood = 1;
    p.fit_run = fit[0] ? fit : NULL;
    p.output_path = folder;
    p.bootstrap = x->bootstrap;
    return vmoer_ood(&p, x->hooks, NULL);
}

static vmoer_status run_conformal(const vm_experiment *x, const vm_stage *s, const char *folder) {
    char id[4096], heldout[4096];
    vmoer_conformal_params p = vmoer_conformal_params_default();
    VM_TRY(vm_stage_folder(x, VM_STAGE_ID, s->task, s->map, s->seed, s->router, id));
    VM_TRY(vm_stage_folder(x, VM_STAGE_HELDOUT, s->task, s->map, s->seed, s->router, heldout));
    p.run = id;
    p.calibration_run = x->p->split == VMOER_SPLIT_HELDOUT ? NULL : heldout;
    p.output_path = folder;
    return vmoer_conformal(&p, x->hooks, NULL);
}

static vmoer_status run_cost(const vm_experiment *x, const vm_stage *s, const char *folder) {
    char adapter[4096], router[4096], label[256];
    vmoer_cost_params p = vmoer_cost_params_default();
    VM_TRY(load_params(x, s, adapter, router, &p.load));
    label_of(x, s, label);
    p.model = x->p->model;
    if (x->p->quick) p.length = QUICK_LENGTH, p.rounds = 1;
    p.output_path = folder;
    p.label = label;
    return vmoer_cost(&p, x->hooks, NULL);
}

static vmoer_status run_kind(const vm_experiment *x, const vm_stage *s, const char *folder) {
    switch (s->kind) {
    case VM_STAGE_MAP:
        return run_map(x, s, folder);
    case VM_STAGE_LAYERS:
        return run_layers(x, s, folder);
    case VM_STAGE_ROUTER:
        return run_router(x, s, folder);
    case VM_STAGE_STABILITY:
        return run_stability(x, s, folder);
    case VM_STAGE_ID:
    case VM_STAGE_HELDOUT:
    case VM_STAGE_OOD_RUN:
        return run_eval(x, s, folder);
    case VM_STAGE_OOD:
        return run_ood(x, s, folder);
    case VM_STAGE_COST:
        return run_cost(x, s, folder);
    case VM_STAGE_CONFORMAL:
        return run_conformal(x, s, folder);
    case VM_STAGE_KINDS:
        break;
    }
    return VMOER_OK;
}

/* That the done stage was made from the same: else an error that names the first thing that differs. */
static vmoer_status check_done(const char *path, const char *folder, const json_t *now) {
    json_t *then, *value;
    const char *key;
    VM_TRY(vm_json_load(path, &then));
    vmoer_status status = VMOER_OK;
    if (!json_equal(now, then)) {
        const json_t *const sides[] = {now, then}; /* a key may stand in one of them alone */
        const char *differs = NULL;
        for (int k = 0; k < 2; k++)
            json_object_foreach((json_t *)(uintptr_t)sides[k], key,
                                value) if (!differs && !json_equal(value, json_object_get(sides[1 - k], key))) differs =
                key;
        status =
            vm_error(VMOER_ERROR_MISMATCH,
                     "%s: a stage that was made with another \"%s\"; delete the folder or choose another --output_path",
                     folder, differs);
    }
    json_decref(then);
    return status;
}

vmoer_status vm_stage_run(const vm_experiment *x, const vm_stage *s) {
    char folder[4096], path[4096], checkpoint[4096];
    json_t *from;
    VM_TRY(vm_path_join(folder, sizeof folder, x->p->output_path, s->path));
    VM_TRY(vm_path_join(path, sizeof path, folder, "stage.json"));
    VM_TRY(vm_path_join(checkpoint, sizeof checkpoint, folder, "checkpoint.safetensors"));
    VM_TRY(made_from(x, s, &from));
    vmoer_status status;
    if (s->done) {
        VM_GOTO(check_done(path, folder, from));
    } else {
        VM_GOTO(vm_make_dirs(folder));
        VM_GOTO(run_kind(x, s, folder));
        VM_GOTO(vm_json_save(path, from));
    }
    /* Nobody goes on from a training that is done. */
    if (unlink(checkpoint) != 0 && errno != ENOENT)
        status = vm_error(VMOER_ERROR_IO, "%s: %s", checkpoint, strerror(errno));
done:
    json_decref(from);
    return status;
}
