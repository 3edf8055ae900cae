/* read.c: results.json and training.json (docs/FORMATS.md) into structs. The files may have been written by anybody:
 * every type and range is checked, and an error names the file and the key. */
#include "report/reader.h"

#include "base/status.h"
#include "report/names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Only a MoE has it. */
static vmoer_status read_routing(const vm_reader *r, const json_t *json, const char *where, vm_report_task *task) {
    static const char *const KEYS[] = {"logit_spread", "margin", "load_entropy"};
    const json_t *routing = json_object_get(json, "routing");
    if (!routing || json_is_null(routing)) return VMOER_OK;
    const json_t *layers = json_object_get(routing, "layers");
    if (!json_is_array(layers)) return vm_reader_wrong(r, where, "routing.layers", "an array");
    task->n_layers = json_array_size(layers);
    task->layers = vm_reader_alloc(r, task->n_layers, sizeof *task->layers);
    if (!task->layers) return vm_reader_memory(r);
    for (size_t i = 0; i < task->n_layers; i++) {
        const json_t *layer = json_array_get(layers, i);
        size_t index;
        VM_TRY(vm_need_count(r, layer, where, "layer", &index));
        task->layers[i].layer = (int)index;
        for (int k = 0; k < 3; k++) {
            VM_TRY(vm_may_number(r, layer, where, KEYS[k], &task->layers[i].value[k]));
        }
    }
    return VMOER_OK;
}

static vmoer_status read_task(const vm_reader *r, const char *name, const json_t *json, vm_report_task *task) {
    const json_t *ci, *floor;
    task->name = name;
    if (!json_is_object(json)) return vm_reader_wrong(r, "results", name, "an object");
    VM_TRY(vm_need_count(r, json, name, "n", &task->n));
    if (task->n == 0) return vm_reader_wrong(r, name, "n", "at least one item");
    VM_TRY(vm_need_number(r, json, name, "acc", &task->metrics.acc));
    VM_TRY(vm_need_number(r, json, name, "nll", &task->metrics.nll));
    VM_TRY(vm_need_number(r, json, name, "ece", &task->metrics.ece));
    VM_TRY(vm_need_number(r, json, name, "mce", &task->metrics.mce));
    VM_TRY(vm_need_number(r, json, name, "brier", &task->metrics.brier));
    VM_TRY(vm_need_number(r, json, name, "ece_mass", &task->metrics.ece_mass));
    VM_TRY(vm_need_object(r, json, name, "ci95", &ci));
    VM_TRY(vm_need_interval(r, ci, name, "acc", &task->ci.acc));
    VM_TRY(vm_need_interval(r, ci, name, "nll", &task->ci.nll));
    VM_TRY(vm_need_interval(r, ci, name, "ece", &task->ci.ece));
    VM_TRY(vm_need_interval(r, ci, name, "mce", &task->ci.mce));
    VM_TRY(vm_need_interval(r, ci, name, "brier", &task->ci.brier));
    VM_TRY(vm_need_interval(r, ci, name, "ece_mass", &task->ci.ece_mass));
    VM_TRY(vm_need_object(r, json, name, "ece_floor", &floor));
    VM_TRY(vm_need_number(r, floor, name, "mean", &task->floor.mean));
    VM_TRY(vm_need_number(r, floor, name, "p95", &task->floor.p95));
    VM_TRY(vm_need_bins(r, json, name, task->bins));
    return read_routing(r, json, name, task);
}

static vmoer_status read_eval(const vm_reader *r, const json_t *root, const json_t *results, const char *path) {
    vm_report_data *data = r->data;
    const json_t *model, *router;
    vm_report_run run = {.path = path, .json = root, .n_tasks = json_object_size(results)};
    VM_TRY(vm_need_label(r, root, &run.label));
    VM_TRY(vm_need_object(r, root, "", "model", &model));
    VM_TRY(vm_need_string(r, model, "model", "name", &run.model));
    VM_TRY(vm_need_object(r, root, "", "router", &router));
    VM_TRY(vm_need_string(r, router, "router", "kind", &run.router_kind));
    run.tasks = vm_reader_alloc(r, run.n_tasks, sizeof *run.tasks);
    if (!run.tasks) return vm_reader_memory(r);
    const char *name;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)results, name, value) VM_TRY(read_task(r, name, value, &run.tasks[i++]));
    return vm_reader_append(r, (void **)&data->runs, &data->capacity[0], &data->n_runs, &run, sizeof run);
}

/* AUROC and its interval of a control for the length. */
static vmoer_status read_control(const vm_reader *r, const json_t *json, const char *name, const char *key,
                                 vm_figure *out) {
    const json_t *control = json_object_get(json, key), *ci;
    *out = (vm_figure){NAN, {NAN, NAN}};
    if (!control || json_is_null(control)) return VMOER_OK;
    if (!json_is_object(control)) return vm_reader_wrong(r, name, key, "an object");
    VM_TRY(vm_need_number(r, control, key, "auroc", &out->value));
    VM_TRY(vm_need_object(r, control, key, "ci95", &ci));
    return vm_need_interval(r, ci, key, "auroc", &out->ci);
}

static vmoer_status read_signal(const vm_reader *r, const char *name, const json_t *json, vm_report_signal *signal) {
    const json_t *ci;
    signal->name = name;
    VM_TRY(vm_need_number(r, json, name, "auroc", &signal->value.auroc));
    VM_TRY(vm_need_number(r, json, name, "aupr", &signal->value.aupr));
    VM_TRY(vm_need_number(r, json, name, "fpr95", &signal->value.fpr95));
    VM_TRY(vm_need_object(r, json, name, "ci95", &ci));
    VM_TRY(vm_need_interval(r, ci, name, "auroc", &signal->ci.auroc));
    VM_TRY(vm_need_interval(r, ci, name, "aupr", &signal->ci.aupr));
    VM_TRY(vm_need_interval(r, ci, name, "fpr95", &signal->ci.fpr95));
    VM_TRY(read_control(r, json, name, "length_adjusted", &signal->adjusted));
    VM_TRY(read_control(r, json, name, "length_matched", &signal->matched));
    if (!json_is_array(json_object_get(json, "roc"))) return vm_reader_wrong(r, name, "roc", "an array of [x, y]");
    return vm_may_points(r, json, name, "roc", &signal->fpr, &signal->tpr, &signal->n_roc);
}

static int by_rank(const void *a, const void *b) {
    const vm_report_signal *x = a, *y = b;
    int rank_x = vm_signal_rank(x->name), rank_y = vm_signal_rank(y->name);
    return rank_x != rank_y ? rank_x - rank_y : strcmp(x->name, y->name);
}

static vmoer_status read_set(const vm_reader *r, const char *name, const json_t *json, vm_report_set *set) {
    const json_t *signals;
    set->name = name;
    VM_TRY(vm_need_count(r, json, name, "n", &set->n));
    VM_TRY(vm_need_object(r, json, name, "signals", &signals));
    set->n_signals = json_object_size(signals);
    set->signals = vm_reader_alloc(r, set->n_signals, sizeof *set->signals);
    if (!set->signals) return vm_reader_memory(r);
    const char *key;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)signals, key, value) VM_TRY(read_signal(r, key, value, &set->signals[i++]));
    qsort(set->signals, set->n_signals, sizeof *set->signals, by_rank);
    return VMOER_OK;
}

static vmoer_status read_ood(const vm_reader *r, const json_t *root, const json_t *results, const char *path) {
    vm_report_data *data = r->data;
    const json_t *id;
    vm_report_ood ood = {.path = path, .n_sets = json_object_size(results)};
    VM_TRY(vm_need_label(r, root, &ood.label));
    VM_TRY(vm_need_object(r, root, "", "id", &id));
    VM_TRY(vm_need_string(r, id, "id", "task", &ood.id_task));
    VM_TRY(vm_need_count(r, id, "id", "n", &ood.id_n));
    ood.sets = vm_reader_alloc(r, ood.n_sets, sizeof *ood.sets);
    if (!ood.sets) return vm_reader_memory(r);
    const char *name;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)results, name, value) VM_TRY(read_set(r, name, value, &ood.sets[i++]));
    return vm_reader_append(r, (void **)&data->oods, &data->capacity[1], &data->n_oods, &ood, sizeof ood);
}

vmoer_status vm_report_read_results(vm_report_data *data, const char *file, const char *path) {
    static const struct {
        const char *kind;
        vmoer_status (*read)(const vm_reader *r, const json_t *root, const json_t *results, const char *path);
    } KINDS[] = {{"eval", read_eval},
                 {"ood", read_ood},
                 {"stability", vm_read_stability},
                 {"cost", vm_read_cost},
                 {"conformal", vm_read_conformal}};
    vm_reader r = {data, file};
    const json_t *root, *results;
    const char *kept, *kind;
    VM_TRY(vm_reader_open(&r, path, &root, &kept, &kind));
    if (strcmp(kind, "reproduce") == 0) return vm_read_experiment(&r, root, kept);
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (strcmp(kind, KINDS[i].kind) != 0) continue;
        VM_TRY(vm_need_object(&r, root, "", "results", &results));
        return KINDS[i].read(&r, root, results, kept);
    }
    return vm_report_note(data, "%s holds results of the kind \"%s\", which this report does not show.", path, kind);
}

static vmoer_status read_nats(const vm_reader *r, vm_report_training *training) {
    static const char *const STAGES[VM_STAGES] = {"split", "distilled"}, *const WAYS[VM_WAYS] = {"learned", "oracle",
                                                                                                 "random"};
    const json_t *nats = json_object_get(training->json, "nats");
    training->dense_nats = NAN;
    if (nats && !json_is_object(nats)) return vm_reader_wrong(r, "", "nats", "an object");
    if (nats) VM_TRY(vm_need_number(r, training->json, "", "dense_nats", &training->dense_nats));
    for (int s = 0; s < VM_STAGES; s++) {
        const json_t *stage = json_object_get(nats, STAGES[s]);
        for (int w = 0; w < VM_WAYS; w++) {
            training->nats[s][w] = NAN;
            if (stage) VM_TRY(vm_need_number(r, stage, STAGES[s], WAYS[w], &training->nats[s][w]));
        }
    }
    return VMOER_OK;
}

static vmoer_status read_trial(const vm_reader *r, const json_t *entry, const char *where, void *item) {
    static const char *const NAMES[] = {"noise", "route_temperature", "temperature"};
    vm_trial *out = item;
    const json_t *heldout;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES && !out->name; i++)
        if (json_object_get(entry, NAMES[i])) out->name = NAMES[i];
    if (!out->name) return vm_reader_wrong(r, "", where, "noise, route_temperature or temperature");
    VM_TRY(vm_need_number(r, entry, where, out->name, &out->value));
    VM_TRY(vm_need_object(r, entry, where, "heldout", &heldout));
    VM_TRY(vm_need_number(r, heldout, where, "nll", &out->nll));
    return vm_need_number(r, heldout, where, "ece", &out->ece);
}

static int by_value(const void *a, const void *b) {
    const vm_trial *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->value > y->value) - (x->value < y->value);
}

vmoer_status vm_report_read_training(vm_report_data *data, const char *file, const char *path) {
    vm_reader r = {data, file};
    vm_report_training training = {0};
    VM_TRY(vm_reader_open(&r, path, &training.json, &training.path, &training.kind));
    VM_TRY(vm_may_history(&r, training.json, "", &training.history));
    VM_TRY(vm_may_list(&r, training.json, "trials", sizeof *training.trials, read_trial, (void **)&training.trials,
                       &training.n_trials));
    qsort(training.trials, training.n_trials, sizeof *training.trials, by_value);
    VM_TRY(read_nats(&r, &training));
    return vm_reader_append(&r, (void **)&data->trainings, &data->capacity[2], &data->n_trainings, &training,
                            sizeof training);
}
