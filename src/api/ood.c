/* ood.c: tells from saved eval runs how well each signal separates strange questions from familiar ones. Runs no model.
 */
#include "api/internal.h"

#include "base/status.h"
#include "eval/ood.h"

enum { ROC_POINTS = 101 };

vmoer_ood_params vmoer_ood_params_default(void) { return (vmoer_ood_params){.bootstrap = 1000}; }

/* values[n] of one signal; false if any item lacks it. */
static bool take(const json_t *list, const char *name, double *values) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_object_get(json_object_get(json_array_get(list, i), "signals"), name);
        if (!json_is_number(v)) return false;
        values[i] = json_number_value(v);
    }
    return true;
}

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory for the results"); }

static vmoer_status score_signal(const double *id, size_t n_id, const double *ood, size_t n_ood, int bootstrap,
                                 json_t **out) {
    vm_ood o;
    vm_ood_ci ci;
    double fpr[ROC_POINTS], tpr[ROC_POINTS];
    VM_TRY(vm_ood_compute(id, n_id, ood, n_ood, &o));
    VM_TRY(vm_ood_bootstrap(id, n_id, ood, n_ood, bootstrap, 0, &ci));
    size_t n = vm_ood_roc(id, n_id, ood, n_ood, fpr, tpr, ROC_POINTS);
    json_t *roc = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(roc, json_pack("[f, f]", fpr[i], tpr[i]));
    *out = json_pack("{s:f, s:f, s:f, s:{s:o, s:o, s:o}, s:o}", "auroc", o.auroc, "aupr", o.aupr, "fpr95", o.fpr95,
                     "ci95", "auroc", vm_api_interval(ci.auroc), "aupr", vm_api_interval(ci.aupr), "fpr95",
                     vm_api_interval(ci.fpr95), "roc", roc);
    return *out ? VMOER_OK : no_memory();
}

static vmoer_status score_set(const json_t *id, const json_t *ood, int bootstrap, json_t *results, const char *task) {
    size_t n_id = json_array_size(id), n_ood = json_array_size(ood);
    double *a = vm_calloc(n_id, sizeof *a), *b = vm_calloc(n_ood, sizeof *b);
    json_t *signals = json_object(), *score;
    const char *name;
    json_t *unused;
    vmoer_status status = a && b ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for %zu samples", n_id + n_ood);
    json_object_foreach(json_object_get(json_array_get(id, 0), "signals"), name, unused) {
        if (status != VMOER_OK || !take(id, name, a) || !take(ood, name, b)) continue;
        status = score_signal(a, n_id, b, n_ood, bootstrap, &score);
        if (status == VMOER_OK)
            json_object_set_new(signals, name, score);
        else
            vm_error_in(status, "%s, signal %s", task, name);
    }
    json_t *set = json_pack("{s:I, s:o}", "n", (json_int_t)n_ood, "signals", signals);
    if (json_object_set_new(results, task, set) != 0 && status == VMOER_OK) status = no_memory();
    vm_free(a);
    vm_free(b);
    return status;
}

/* Every set of every run against the in-distribution items. */
static vmoer_status score_runs(const vmoer_ood_params *p, const json_t *id, json_t *results) {
    for (int i = 0; i < p->n_ood; i++) {
        vm_saved_run run;
        json_t *list;
        const char *task;
        vmoer_status status = VMOER_OK;
        VM_TRY(vm_saved_run_open(p->ood_runs[i], &run));
        json_object_foreach(run.tasks, task, list) {
            if (status != VMOER_OK) break;
            status = json_object_get(results, task)
                         ? vm_error(VMOER_ERROR_ARGUMENT, "%s: %s stands in a run before it too", p->ood_runs[i], task)
                         : score_set(id, list, p->bootstrap, results, task);
        }
        vm_saved_run_close(&run);
        VM_TRY(status);
    }
    return VMOER_OK;
}

/* *all: what results.json holds, also after an error. */
static vmoer_status compare(const vmoer_ood_params *p, const vm_saved_run *run, json_t **all) {
    if (json_object_size(run->tasks) != 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "%s: %zu tasks, an in-distribution run has one", p->id_run,
                        json_object_size(run->tasks));
    const char *id_task = json_object_iter_key(json_object_iter(run->tasks));
    const json_t *id = json_object_get(run->tasks, id_task);
    json_t *label = json_object_get(run->results, "label");
    *all = json_pack("{s:s, s:s, s:O, s:{s:s, s:I, s:O}, s:{}}", "vmoer", vmoer_version(), "kind", "ood", "label",
                     label, "id", "task", id_task, "n", (json_int_t)json_array_size(id), "run", label, "results");
    if (!*all) return no_memory();
    VM_TRY(score_runs(p, id, json_object_get(*all, "results")));
    return vm_api_save_results(p->output_path, *all);
}

vmoer_status vmoer_ood(const vmoer_ood_params *p, const vmoer_hooks *hooks, char **out_json) {
    (void)hooks; /* seconds of work */
    if (!p->id_run || p->n_ood < 1)
        return vm_error(
            VMOER_ERROR_ARGUMENT,
            "say the in-distribution run (--id_run DIR) and at least one other (vmoer ood --id_run DIR DIR)");
    vm_saved_run run;
    json_t *all = NULL;
    VM_TRY(vm_saved_run_open(p->id_run, &run));
    vmoer_status status = compare(p, &run, &all);
    vm_saved_run_close(&run);
    if (status == VMOER_OK) return vm_api_return_json(all, out_json);
    json_decref(all);
    return status;
}
