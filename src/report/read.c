/* read.c: results.json and training.json (docs/FORMATS.md) into structs. The files may have been written by anybody:
 * every type and range is checked, and an error names the file and the key. */
#include "report/collect.h"

#include "base/json.h"
#include "base/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    vm_report_data *data;
    const char *file;
} reader;

static vmoer_status no_memory(const reader *r) { return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", r->file); }

static vmoer_status wrong(const reader *r, const char *where, const char *key, const char *expected) {
    return vm_error(VMOER_ERROR_FORMAT, "%s: %.200s%s%s: %s expected", r->file, where, *where ? "." : "", key,
                    expected);
}

static void *get_memory(const reader *r, size_t count, size_t size) {
    void *p = vm_arena_alloc(r->data->arena, count, size);
    if (p) memset(p, 0, count * size);
    return p;
}

static vmoer_status need_number(const reader *r, const json_t *object, const char *where, const char *key,
                                double *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) return wrong(r, where, key, "a number");
    *out = json_number_value(value);
    return VMOER_OK;
}

static vmoer_status need_count(const reader *r, const json_t *object, const char *where, const char *key, size_t *out) {
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n > 1000000000) return wrong(r, where, key, "a count");
    *out = (size_t)n;
    return VMOER_OK;
}

static vmoer_status need_string(const reader *r, const json_t *object, const char *where, const char *key,
                                const char **out) {
    *out = json_string_value(json_object_get(object, key));
    return *out ? VMOER_OK : wrong(r, where, key, "a string");
}

static vmoer_status need_object(const reader *r, const json_t *object, const char *where, const char *key,
                                const json_t **out) {
    *out = json_object_get(object, key);
    return json_is_object(*out) ? VMOER_OK : wrong(r, where, key, "an object");
}

static vmoer_status need_interval(const reader *r, const json_t *object, const char *where, const char *key,
                                  vm_interval *out) {
    const json_t *pair = json_object_get(object, key);
    const json_t *low = json_array_get(pair, 0), *high = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_number(low) || !json_is_number(high))
        return wrong(r, where, key, "[low, high]");
    *out = (vm_interval){json_number_value(low), json_number_value(high)};
    return VMOER_OK;
}

static vmoer_status read_bins(const reader *r, const json_t *task, const char *where,
                              vm_reliability_bin bins[VM_ECE_BINS]) {
    const json_t *array = json_object_get(task, "reliability");
    if (json_array_size(array) != VM_ECE_BINS) return wrong(r, where, "reliability", "an array of 15 bins");
    for (size_t b = 0; b < VM_ECE_BINS; b++) {
        const json_t *bin = json_array_get(array, b);
        VM_TRY(need_number(r, bin, where, "low", &bins[b].low));
        VM_TRY(need_number(r, bin, where, "high", &bins[b].high));
        VM_TRY(need_count(r, bin, where, "count", &bins[b].count));
        VM_TRY(need_number(r, bin, where, "confidence", &bins[b].confidence));
        VM_TRY(need_number(r, bin, where, "accuracy", &bins[b].accuracy));
    }
    return VMOER_OK;
}

/* Only a MoE has it. */
static vmoer_status read_routing(const reader *r, const json_t *json, const char *where, vm_report_task *task) {
    static const char *const KEYS[] = {"logit_spread", "margin", "load_entropy"};
    const json_t *routing = json_object_get(json, "routing");
    if (!routing || json_is_null(routing)) return VMOER_OK;
    const json_t *layers = json_object_get(routing, "layers");
    if (!json_is_array(layers)) return wrong(r, where, "routing.layers", "an array");
    task->n_layers = json_array_size(layers);
    task->layers = get_memory(r, task->n_layers, sizeof *task->layers);
    if (!task->layers) return no_memory(r);
    for (size_t i = 0; i < task->n_layers; i++) {
        const json_t *layer = json_array_get(layers, i);
        size_t index;
        VM_TRY(need_count(r, layer, where, "layer", &index));
        task->layers[i].layer = (int)index;
        for (int k = 0; k < 3; k++) {
            /* A fact that was not measured is absent. */
            task->layers[i].value[k] = NAN;
            if (json_object_get(layer, KEYS[k])) {
                VM_TRY(need_number(r, layer, where, KEYS[k], &task->layers[i].value[k]));
            }
        }
    }
    return VMOER_OK;
}

static vmoer_status read_task(const reader *r, const char *name, const json_t *json, vm_report_task *task) {
    const json_t *ci, *floor;
    task->name = name;
    if (!json_is_object(json)) return wrong(r, "results", name, "an object");
    VM_TRY(need_count(r, json, name, "n", &task->n));
    if (task->n == 0) return wrong(r, name, "n", "at least one item");
    VM_TRY(need_number(r, json, name, "acc", &task->metrics.acc));
    VM_TRY(need_number(r, json, name, "nll", &task->metrics.nll));
    VM_TRY(need_number(r, json, name, "ece", &task->metrics.ece));
    VM_TRY(need_number(r, json, name, "mce", &task->metrics.mce));
    VM_TRY(need_number(r, json, name, "brier", &task->metrics.brier));
    VM_TRY(need_number(r, json, name, "ece_mass", &task->metrics.ece_mass));
    VM_TRY(need_object(r, json, name, "ci95", &ci));
    VM_TRY(need_interval(r, ci, name, "acc", &task->ci.acc));
    VM_TRY(need_interval(r, ci, name, "nll", &task->ci.nll));
    VM_TRY(need_interval(r, ci, name, "ece", &task->ci.ece));
    VM_TRY(need_interval(r, ci, name, "mce", &task->ci.mce));
    VM_TRY(need_interval(r, ci, name, "brier", &task->ci.brier));
    VM_TRY(need_interval(r, ci, name, "ece_mass", &task->ci.ece_mass));
    VM_TRY(need_object(r, json, name, "ece_floor", &floor));
    VM_TRY(need_number(r, floor, name, "mean", &task->floor.mean));
    VM_TRY(need_number(r, floor, name, "p95", &task->floor.p95));
    VM_TRY(read_bins(r, json, name, task->bins));
    return read_routing(r, json, name, task);
}

static vmoer_status split_label(const reader *r, const char *label, vm_report_label *out) {
    const char *slash = strstr(label, " / ");
    out->name = slash ? slash + 3 : label;
    out->group = vm_arena_strndup(r->data->arena, label, slash ? (size_t)(slash - label) : 0);
    return out->group ? VMOER_OK : no_memory(r);
}

static vmoer_status read_eval(const reader *r, const json_t *root, const json_t *results, const char *path) {
    vm_report_data *data = r->data;
    const json_t *model, *router;
    const char *label;
    vm_report_run run = {.path = path, .json = root, .n_tasks = json_object_size(results)};
    VM_TRY(need_string(r, root, "", "label", &label));
    VM_TRY(split_label(r, label, &run.label));
    VM_TRY(need_object(r, root, "", "model", &model));
    VM_TRY(need_string(r, model, "model", "name", &run.model));
    VM_TRY(need_object(r, root, "", "router", &router));
    VM_TRY(need_string(r, router, "router", "kind", &run.router_kind));
    run.tasks = get_memory(r, run.n_tasks, sizeof *run.tasks);
    if (!run.tasks) return no_memory(r);
    const char *name;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)results, name, value) VM_TRY(read_task(r, name, value, &run.tasks[i++]));
    if (!vm_grow((void **)&data->runs, &data->capacity[0], data->n_runs + 1, sizeof run)) return no_memory(r);
    data->runs[data->n_runs++] = run;
    return VMOER_OK;
}

static vmoer_status read_roc(const reader *r, const json_t *json, const char *where, vm_report_signal *signal) {
    const json_t *roc = json_object_get(json, "roc");
    if (!json_is_array(roc)) return wrong(r, where, "roc", "an array of [fpr, tpr]");
    signal->n_roc = json_array_size(roc);
    signal->fpr = get_memory(r, signal->n_roc, sizeof *signal->fpr);
    signal->tpr = get_memory(r, signal->n_roc, sizeof *signal->tpr);
    if (!signal->fpr || !signal->tpr) return no_memory(r);
    for (size_t i = 0; i < signal->n_roc; i++) {
        const json_t *pair = json_array_get(roc, i);
        const json_t *x = json_array_get(pair, 0), *y = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_number(x) || !json_is_number(y))
            return wrong(r, where, "roc", "an array of [fpr, tpr]");
        signal->fpr[i] = json_number_value(x);
        signal->tpr[i] = json_number_value(y);
    }
    return VMOER_OK;
}

static vmoer_status read_signal(const reader *r, const char *name, const json_t *json, vm_report_signal *signal) {
    const json_t *ci;
    signal->name = name;
    VM_TRY(need_number(r, json, name, "auroc", &signal->value.auroc));
    VM_TRY(need_number(r, json, name, "aupr", &signal->value.aupr));
    VM_TRY(need_number(r, json, name, "fpr95", &signal->value.fpr95));
    VM_TRY(need_object(r, json, name, "ci95", &ci));
    VM_TRY(need_interval(r, ci, name, "auroc", &signal->ci.auroc));
    VM_TRY(need_interval(r, ci, name, "aupr", &signal->ci.aupr));
    VM_TRY(need_interval(r, ci, name, "fpr95", &signal->ci.fpr95));
    return read_roc(r, json, name, signal);
}

int vm_signal_rank(const char *name) {
    static const char *const ORDER[] = {"choice_entropy",
                                        "vocabulary_entropy",
                                        "gate_entropy",
                                        "gate_entropy_last",
                                        "logit_variance",
                                        "logit_variance_last",
                                        "logit_variance_projected",
                                        "logit_variance_projected_last"};
    enum { KNOWN = sizeof ORDER / sizeof *ORDER };
    for (int i = 0; i < KNOWN; i++) {
        if (strcmp(name, ORDER[i]) == 0) return i;
    }
    return strcmp(name, "length") == 0 ? KNOWN + 1 : KNOWN;
}

static int by_rank(const void *a, const void *b) {
    const vm_report_signal *x = a, *y = b;
    int rank_x = vm_signal_rank(x->name), rank_y = vm_signal_rank(y->name);
    return rank_x != rank_y ? rank_x - rank_y : strcmp(x->name, y->name);
}

static vmoer_status read_set(const reader *r, const char *name, const json_t *json, vm_report_set *set) {
    const json_t *signals;
    set->name = name;
    VM_TRY(need_count(r, json, name, "n", &set->n));
    VM_TRY(need_object(r, json, name, "signals", &signals));
    set->n_signals = json_object_size(signals);
    set->signals = get_memory(r, set->n_signals, sizeof *set->signals);
    if (!set->signals) return no_memory(r);
    const char *key;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)signals, key, value) VM_TRY(read_signal(r, key, value, &set->signals[i++]));
    qsort(set->signals, set->n_signals, sizeof *set->signals, by_rank);
    return VMOER_OK;
}

static vmoer_status read_ood(const reader *r, const json_t *root, const json_t *results, const char *path) {
    vm_report_data *data = r->data;
    const json_t *id;
    const char *label;
    vm_report_ood ood = {.path = path, .n_sets = json_object_size(results)};
    VM_TRY(need_string(r, root, "", "label", &label));
    VM_TRY(split_label(r, label, &ood.label));
    VM_TRY(need_object(r, root, "", "id", &id));
    VM_TRY(need_string(r, id, "id", "task", &ood.id_task));
    VM_TRY(need_count(r, id, "id", "n", &ood.id_n));
    ood.sets = get_memory(r, ood.n_sets, sizeof *ood.sets);
    if (!ood.sets) return no_memory(r);
    const char *name;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)results, name, value) VM_TRY(read_set(r, name, value, &ood.sets[i++]));
    if (!vm_grow((void **)&data->oods, &data->capacity[1], data->n_oods + 1, sizeof ood)) return no_memory(r);
    data->oods[data->n_oods++] = ood;
    return VMOER_OK;
}

/* Loads `file`, keeps it alive with the data, and copies `path`. */
static vmoer_status open_document(const reader *r, const char *path, const json_t **root, const char **kept_path,
                                  const char **kind) {
    json_t *document;
    VM_TRY(vm_json_load(r->file, &document));
    if (json_array_append_new(r->data->documents, document) != 0) return no_memory(r);
    *root = document;
    *kept_path = vm_arena_strndup(r->data->arena, path, strlen(path));
    if (!*kept_path) return no_memory(r);
    if (!json_is_object(document)) return vm_error(VMOER_ERROR_FORMAT, "%s: an object expected", r->file);
    return need_string(r, document, "", "kind", kind);
}

vmoer_status vm_report_read_results(vm_report_data *data, const char *file, const char *path) {
    reader r = {data, file};
    const json_t *root, *results;
    const char *kept, *kind;
    VM_TRY(open_document(&r, path, &root, &kept, &kind));
    bool eval = strcmp(kind, "eval") == 0;
    if (!eval && strcmp(kind, "ood") != 0) {
        return vm_report_note(data, "%s holds results of the kind \"%s\", which this report does not show.", path,
                              kind);
    }
    VM_TRY(need_object(&r, root, "", "results", &results));
    return eval ? read_eval(&r, root, results, kept) : read_ood(&r, root, results, kept);
}

static vmoer_status read_record(const reader *r, const json_t *record, vm_report_training *training, size_t i) {
    static const struct {
        bool heldout;
        const char *key;
    } CURVES[VM_CURVES] = {{false, "loss"}, {false, "ce"}, {false, "kl"},
                           {true, "nll"},   {true, "ece"}, {true, "divergence"}};
    const json_t *heldout = json_object_get(record, "heldout");
    VM_TRY(need_number(r, record, "history", "step", &training->step[i]));
    for (int c = 0; c < VM_CURVES; c++) {
        const json_t *from = CURVES[c].heldout ? heldout : record;
        const json_t *value = json_object_get(from, CURVES[c].key);
        training->curve[c][i] = NAN;
        if (value && !json_is_null(value))
            VM_TRY(need_number(r, from, "history", CURVES[c].key, &training->curve[c][i]));
    }
    return VMOER_OK;
}

static vmoer_status read_nats(const reader *r, vm_report_training *training) {
    static const char *const STAGES[VM_STAGES] = {"split", "distilled"}, *const WAYS[VM_WAYS] = {"learned", "oracle",
                                                                                                 "random"};
    const json_t *nats = json_object_get(training->json, "nats");
    training->dense_nats = NAN;
    if (nats && !json_is_object(nats)) return wrong(r, "", "nats", "an object");
    if (nats) VM_TRY(need_number(r, training->json, "", "dense_nats", &training->dense_nats));
    for (int s = 0; s < VM_STAGES; s++) {
        const json_t *stage = json_object_get(nats, STAGES[s]);
        for (int w = 0; w < VM_WAYS; w++) {
            training->nats[s][w] = NAN;
            if (stage) VM_TRY(need_number(r, stage, STAGES[s], WAYS[w], &training->nats[s][w]));
        }
    }
    return VMOER_OK;
}

vmoer_status vm_report_read_training(vm_report_data *data, const char *file, const char *path) {
    reader r = {data, file};
    vm_report_training training = {0};
    VM_TRY(open_document(&r, path, &training.json, &training.path, &training.kind));
    const json_t *history = json_object_get(training.json, "history");
    if (history && !json_is_array(history)) return wrong(&r, "", "history", "an array");
    training.n = json_array_size(history);
    training.step = get_memory(&r, training.n, sizeof *training.step);
    if (!training.step) return no_memory(&r);
    for (int c = 0; c < VM_CURVES; c++) {
        training.curve[c] = get_memory(&r, training.n, sizeof *training.curve[c]);
        if (!training.curve[c]) return no_memory(&r);
    }
    for (size_t i = 0; i < training.n; i++) {
        VM_TRY(read_record(&r, json_array_get(history, i), &training, i));
    }
    VM_TRY(read_nats(&r, &training));
    if (!vm_grow((void **)&data->trainings, &data->capacity[2], data->n_trainings + 1, sizeof training))
        return no_memory(&r);
    data->trainings[data->n_trainings++] = training;
    return VMOER_OK;
}
