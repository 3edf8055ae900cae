/* common.c: see internal.h. */
#include "api/internal.h"

#include "base/file.h"
#include "base/status.h"
#include "io/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

vmoer_status vm_api_data_dir(const char *given, char out[4096]) {
    const char *environment = getenv("VMOER_DATA"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given || environment) {
        const char *dir = given ? given : environment;
        if (!vm_is_folder(dir))
            return vm_error(VMOER_ERROR_IO, "%s: no such folder (from %s)", dir, given ? "--data" : "VMOER_DATA");
        snprintf(out, 4096, "%s", dir);
        return VMOER_OK;
    }
    snprintf(out, 4096, "data");
    if (vm_is_folder(out)) return VMOER_OK;
    if (cache)
        snprintf(out, 4096, "%s/vmoer/data", cache);
    else
        snprintf(out, 4096, "%s/.cache/vmoer/data", home ? home : "");
    if (vm_is_folder(out)) return VMOER_OK;
    return vm_error(VMOER_ERROR_IO, "no data sets: looked in ./data and %s; say --data DIR, or run ./dev data", out);
}

vmoer_status vm_api_check_questions(const vmoer_questions *q) {
    if (q->n_choices < 0 || q->limit < 0 || q->sample < 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "n_choices %d, limit %d, sample %d, must be 0 or more", q->n_choices,
                        q->limit, q->sample);
    if ((unsigned)q->split > VMOER_SPLIT_HELDOUT)
        return vm_error(VMOER_ERROR_ARGUMENT, "there is no split %d", (int)q->split);
    return VMOER_OK;
}

void vm_api_put_cuts(json_t *config, const vmoer_questions *q) {
    if (q->n_choices) json_object_set_new(config, "n_choices", json_integer(q->n_choices));
    if (q->sample) json_object_set_new(config, "sample", json_integer(q->sample));
}

vmoer_status vm_api_dataset(const vmoer_questions *q, const char *task, vmoer_split split, vm_dataset **out) {
    static const vm_split splits[] = {VM_SPLIT_TEST, VM_SPLIT_TRAIN, VM_SPLIT_HELDOUT};
    if (task) {
        char dir[4096];
        VM_TRY(vm_api_data_dir(q->data_dir, dir));
        VM_TRY(vm_dataset_load(dir, task, splits[split], out));
    } else {
        VM_TRY(vm_dataset_load_file(q->task_file, out));
    }
    if (q->n_choices) vm_dataset_keep_choices(*out, q->n_choices);
    if (q->sample) vm_dataset_sample(*out, (size_t)q->sample);
    if (q->limit) vm_dataset_limit(*out, (size_t)q->limit);
    if (vm_dataset_count(*out) > 0) return VMOER_OK;
    vmoer_status status =
        vm_error(VMOER_ERROR_DATA, "%s: no questions left with %d choices", vm_dataset_task(*out), q->n_choices);
    vm_dataset_free(*out);
    return status;
}

vmoer_status vm_api_each_task(const vmoer_questions *q, vmoer_status (*visit)(void *context, const char *task),
                              void *context) {
    if (!q->tasks == !q->task_file)
        return vm_error(VMOER_ERROR_ARGUMENT, "say which questions: either --tasks NAMES or --task-file FILE");
    if (q->task_file) return visit(context, NULL);
    const char *rest = q->tasks;
    do {
        char name[128];
        size_t n = strcspn(rest, ",");
        if (n == 0 || n >= sizeof name)
            return vm_error(VMOER_ERROR_ARGUMENT, "--tasks '%s': an empty or overlong name", q->tasks);
        memcpy(name, rest, n);
        name[n] = 0;
        VM_TRY(visit(context, name));
        rest += n + (rest[n] == ',');
    } while (*rest);
    return VMOER_OK;
}

typedef struct example_request {
    const vmoer_questions *questions;
    const vm_tokenizer *tokenizer;
    vmoer_split split;
    vm_examples *out;
} example_request;

static vmoer_status add_examples(void *context, const char *task) {
    const example_request *r = context;
    vm_dataset *d;
    VM_TRY(vm_api_dataset(r->questions, task, r->split, &d));
    vmoer_status status = vm_examples_add(r->out, r->tokenizer, d, VM_FORMAT_CLOZE);
    vm_dataset_free(d);
    return status;
}

vmoer_status vm_api_examples(const vmoer_questions *q, const char *what, const vm_tokenizer *t, vmoer_split split,
                             vm_examples *out) {
    if (split == VMOER_SPLIT_TRAIN && (!q->tasks || q->task_file))
        return vm_error(VMOER_ERROR_ARGUMENT, "%s takes tasks by their names (--tasks openbookqa)", what);
    example_request r = {q, t, split, out};
    return vm_api_each_task(q, add_examples, &r);
}

vm_compute vm_api_compute(vmoer_compute c) { return c == VMOER_COMPUTE_F32 ? VM_COMPUTE_F32 : VM_COMPUTE_BF16; }

vmoer_model_params vmoer_model_params_default(void) { return (vmoer_model_params){0}; }

vmoer_status vm_api_session_open(const char *path, const vmoer_model_params *p, vm_session **out) {
    static const vm_routing_mode routings[] = {VM_ROUTING_LEARNED, VM_ROUTING_RANDOM, VM_ROUTING_ORACLE};
    static const int inferences[] = {
        -1, VM_INFERENCE_MEAN, VM_INFERENCE_CLOSED, VM_INFERENCE_SAMPLE, VM_INFERENCE_TILTED, VM_INFERENCE_PASSES};
    if (!path) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    if ((unsigned)p->compute > VMOER_COMPUTE_BF16 || (unsigned)p->inference > VMOER_INFERENCE_PASSES ||
        (unsigned)p->routing > VMOER_ROUTING_ORACLE)
        return vm_error(VMOER_ERROR_ARGUMENT, "there is no compute %d, inference %d or routing %d", (int)p->compute,
                        (int)p->inference, (int)p->routing);
    if (p->samples < 0 || p->samples > 4096)
        return vm_error(VMOER_ERROR_ARGUMENT, "samples %d, must be 1 to 4096, or 0: as many as are usual", p->samples);
    vm_session_options o = {.adapter = p->adapter,
                            .router = p->router,
                            .compute = vm_api_compute(p->compute),
                            .inference = inferences[p->inference],
                            .samples = p->samples,
                            .routing = routings[p->routing],
                            .seed = p->seed,
                            .threads = p->threads};
    return vm_session_open(path, &o, out);
}

static vmoer_status add_sample(void *context, const char *where, json_t *sample) {
    json_t *tasks = context;
    const char *task = json_string_value(json_object_get(sample, "task"));
    if (!task || !json_is_object(json_object_get(sample, "signals")))
        return vm_error(VMOER_ERROR_FORMAT, "%s: no task or no signals", where);
    json_t *list = json_object_get(tasks, task);
    if (!list && json_object_set_new(tasks, task, list = json_array()) != 0) list = NULL;
    return json_array_append(list, sample) == 0 ? VMOER_OK
                                                : vm_error(VMOER_ERROR_MEMORY, "%s: no memory for the samples", where);
}

vmoer_status vm_api_samples(const char *path, size_t *whole, json_t **tasks) {
    json_t *all = json_object();
    if (!all) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory for the samples", path);
    vmoer_status status = vm_json_lines(path, whole, add_sample, all);
    if (status != VMOER_OK)
        json_decref(all);
    else
        *tasks = all;
    return status;
}

static json_t *name_of(const char *name, const char *fingerprint) {
    return fingerprint[0] ? json_pack("{s:s, s:s}", "name", name, "fingerprint", fingerprint) : json_null();
}

json_t *vm_api_head(const char *kind, const vm_session *s, json_t *config) {
    const vm_router_config *r = s->router ? vm_router_get_config(s->router) : NULL;
    json_t *layers = json_array();
    for (int i = 0; r && i < r->n_layers; i++) json_array_append_new(layers, json_integer(r->layers[i]));
    json_t *router = json_pack("{s:s, s:o, s:f}", "kind", r ? r->kind : "deterministic", "layers", layers,
                               "temperature", s->temperature);
    json_object_set_new(router, "fingerprint", r ? json_string(s->router_fingerprint) : json_null());
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:s}, s:o, s:o, s:o}", "vmoer", vmoer_version(), "kind", kind, "model",
                     "name", s->model->config.name, "architecture", s->model->config.arch->name, "fingerprint",
                     s->model->fingerprint, "adapter", name_of(s->adapter_name, s->adapter_fingerprint), "router",
                     router, "config", config);
}

void vm_api_put_load(json_t *config, const vm_session *s, const vmoer_model_params *p) {
    static const char *const inferences[] = {"mean", "closed", "sample", "tilted", "passes"};
    json_object_set_new(config, "compute", json_string(vm_api_compute(p->compute) == VM_COMPUTE_BF16 ? "bf16" : "f32"));
    json_object_set_new(config, "inference", json_string(inferences[s->options.inference]));
    json_object_set_new(config, "samples", json_integer(s->options.samples));
    json_object_set_new(config, "seed", json_integer((json_int_t)p->seed));
}

const char *vm_api_split_name(vmoer_split split) {
    static const char *const splits[] = {"test", "train", "heldout"};
    return splits[split];
}

const char *vm_api_label(const char *label, const vm_session *s) {
    return label ? label : s->router ? vm_router_get_config(s->router)->kind : "MAP";
}

vmoer_status vm_api_check_label(const char *label) {
    size_t bad;
    if (label && !vm_utf8_valid(label, strlen(label), &bad))
        return vm_error(VMOER_ERROR_ARGUMENT, "--label is not UTF-8 at byte %zu", bad);
    return VMOER_OK;
}

double vm_api_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

vmoer_status vm_api_write(const char *folder, const json_t *results, json_t *timings) {
    char path[4096];
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    json_t *all =
        json_pack("{s:I, s:s}", "peak_memory_bytes", (json_int_t)usage.ru_maxrss * 1024, "build", vmoer_build_info());
    vmoer_status status =
        json_object_update(all, timings) == 0 ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the results");
    json_decref(timings);
    if (status == VMOER_OK) status = vm_path_join(path, sizeof path, folder, "results.json");
    if (status == VMOER_OK) status = vm_json_save(path, results);
    if (status == VMOER_OK) status = vm_path_join(path, sizeof path, folder, "timings.json");
    if (status == VMOER_OK) status = vm_json_save(path, all);
    json_decref(all);
    return status;
}

json_t *vm_api_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *vm_api_interval(vm_interval i) { return json_pack("[f, f]", i.low, i.high); }

json_t *vm_api_reliability(const vm_predictions *d) {
    vm_reliability_bin bins[VM_ECE_BINS];
    json_t *list = json_array();
    vm_reliability(d, bins);
    for (int b = 0; b < VM_ECE_BINS; b++)
        json_array_append_new(list, json_pack("{s:f, s:f, s:I, s:f, s:f}", "low", bins[b].low, "high", bins[b].high,
                                              "count", (json_int_t)bins[b].count, "confidence", bins[b].confidence,
                                              "accuracy", bins[b].accuracy));
    return list;
}

vmoer_status vm_api_return_json(json_t *value, char **out) {
    if (!value) return vm_error(VMOER_ERROR_MEMORY, "no memory for the result");
    if (out) *out = json_dumps(value, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    json_decref(value);
    return !out || *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the result");
}
