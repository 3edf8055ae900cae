/* reproduce.c: `vmoer reproduce`: the whole protocol on one model. Plan, stages, results, report. */
#include "api/reproduce.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

vmoer_reproduce_params vmoer_reproduce_params_default(void) {
    return (vmoer_reproduce_params){.tasks = "openbookqa,arc_easy,arc_challenge",
                                    .routers = "all",
                                    .nll_routers = "map,temperature,residual,vglr-fc,vglr-fc-passes",
                                    .passes = 10,
                                    .ood_sample = 500,
                                    .bootstrap = 1000,
                                    .memory_gib = 2.0};
}

static vmoer_status save(const vm_experiment *x, const char *name, const json_t *value) {
    char path[4096];
    VM_TRY(vm_path_join(path, sizeof path, x->p->output_path, name));
    return vm_json_save(path, value);
}

/* Seconds of each stage, kept over interruptions; those of a stage that was interrupted are those of its last part. A
 * shard has a file of its own: it is read, added to and written again. */
static vmoer_status add_timing(const vm_experiment *x, const char *stage, double seconds) {
    char path[4096], name[64] = "timings.json";
    if (x->shards > 1) snprintf(name, sizeof name, "timings-%d-of-%d.json", x->shard, x->shards);
    json_t *timings = NULL;
    struct rusage usage;
    VM_TRY(vm_path_join(path, sizeof path, x->p->output_path, name));
    if (vm_file_exists(path)) VM_TRY(vm_json_load(path, &timings));
    json_int_t peak = json_integer_value(json_object_get(timings, "peak_memory_bytes"));
    json_t *all = json_object_get(timings, "seconds");
    all = all ? json_incref(all) : json_object();
    json_decref(timings);
    getrusage(RUSAGE_SELF, &usage);
    if (usage.ru_maxrss * 1024 > peak) peak = usage.ru_maxrss * 1024;
    json_object_set_new(all, stage, json_real(seconds));
    timings = json_pack("{s:o, s:I, s:s}", "seconds", all, "peak_memory_bytes", peak, "build", vmoer_build_info());
    vmoer_status status =
        timings ? vm_json_save(path, timings) : vm_error(VMOER_ERROR_MEMORY, "no memory for the times");
    json_decref(timings);
    return status;
}

static vmoer_status run_stages(const vm_experiment *x) {
    for (size_t i = 0; i < x->n_stages; i++) {
        const vm_stage *s = &x->stages[i];
        double start = vm_api_seconds();
        if (s->seed % x->shards != x->shard) continue;
        if (!s->done) vm_log(x->hooks, "stage %zu of %zu: %s (about %.0f s)", i + 1, x->n_stages, s->path, s->seconds);
        VM_TRY_IN(vm_stage_run(x, s), "%s", s->path);
        if (!s->done) VM_TRY(add_timing(x, s->path, vm_api_seconds() - start));
    }
    return VMOER_OK;
}

static vmoer_status open_model(vm_experiment *x) {
    vm_gguf *g;
    vm_config c;
    VM_TRY(vm_gguf_open(x->p->model, &g));
    vmoer_status status = vm_config_read(g, &c);
    if (status == VMOER_OK) vm_model_fingerprint(g, x->fingerprint);
    vm_gguf_free(g);
    if (status != VMOER_OK) return vm_error_in(status, "%s", x->p->model);
    if (!c.n_experts) return vm_error(VMOER_ERROR_ARGUMENT, "'%s' is dense: it has no router", c.name);
    x->first_layer = c.dense_layers, x->n_layers = c.n_layers - c.dense_layers;
    snprintf(x->model_name, sizeof x->model_name, "%s", c.name);
    return VMOER_OK;
}

static vmoer_status read_shard(const char *text, int *shard, int *shards) {
    int length = 0;
    *shard = 0, *shards = 1;
    if (!text) return VMOER_OK;
    bool read = sscanf(text, "%3d/%3d%n", shard, shards, &length) == 2 && text[length] == '\0';
    return read && *shard >= 0 && *shard < *shards
               ? VMOER_OK
               : vm_error(VMOER_ERROR_ARGUMENT, "--shard '%.20s', must be I/N with 0 <= I < N, like 0/2", text);
}

static vmoer_status check_params(const vmoer_reproduce_params *p) {
    if (!p->model) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    if (!p->output_path) return vm_error(VMOER_ERROR_ARGUMENT, "no output folder given (--output_path DIR)");
    if (!p->tasks || !p->routers || !p->nll_routers)
        return vm_error(VMOER_ERROR_ARGUMENT, "no tasks or no routers given");
    if (p->split != VMOER_SPLIT_TEST && p->split != VMOER_SPLIT_HELDOUT)
        return vm_error(VMOER_ERROR_ARGUMENT, "--split: an experiment is evaluated on test or heldout");
    if (p->seeds < 0 || p->seeds > 100) return vm_error(VMOER_ERROR_ARGUMENT, "--seeds %d, must be 0 to 100", p->seeds);
    if (p->passes < 1 || p->passes > 4096)
        return vm_error(VMOER_ERROR_ARGUMENT, "--passes %d, must be 1 to 4096", p->passes);
    if (p->ood_sample < 0) return vm_error(VMOER_ERROR_ARGUMENT, "--ood_sample %d, must be 0 or more", p->ood_sample);
    if (p->bootstrap < 1 || p->bootstrap > 100000)
        return vm_error(VMOER_ERROR_ARGUMENT, "--bootstrap %d, must be 1 to 100000", p->bootstrap);
    vmoer_train_params memory = {.memory_gib = p->memory_gib};
    return vm_training_check_memory(&memory);
}

/* *out: the plan where that is all that is wanted, else the results. */
static vmoer_status reproduce(vm_experiment *x, json_t **out) {
    json_t *plan;
    VM_TRY(vm_api_data_dir(x->p->data_dir, x->data_dir));
    VM_TRY(open_model(x));
    VM_TRY(vm_experiment_configure(x));
    VM_TRY(vm_experiment_stages(x));
    VM_TRY(vm_make_dirs(x->p->output_path));
    VM_TRY(vm_experiment_plan(x, &plan));
    vmoer_status status = save(x, "plan.json", plan);
    if (status == VMOER_OK && !x->p->plan) status = run_stages(x);
    if (status == VMOER_OK && (x->p->plan || x->shards > 1)) {
        *out = plan;
        return VMOER_OK;
    }
    json_decref(plan);
    VM_TRY(status);
    VM_TRY(vm_experiment_results(x, out));
    char report[4096];
    status = save(x, "results.json", *out);
    if (status == VMOER_OK) status = vm_path_join(report, sizeof report, x->p->output_path, "report.html");
    if (status == VMOER_OK) status = vmoer_report(x->p->output_path, report, x->model_name, x->hooks);
    if (status != VMOER_OK) json_decref(*out);
    return status;
}

vmoer_status vmoer_reproduce(const vmoer_reproduce_params *p, const vmoer_hooks *hooks, char **out_json) {
    vm_experiment *x = vm_calloc(1, sizeof *x);
    json_t *out = NULL;
    if (!x) return vm_error(VMOER_ERROR_MEMORY, "no memory for the experiment");
    x->p = p;
    x->hooks = hooks;
    vmoer_status status = check_params(p);
    if (status == VMOER_OK) status = read_shard(p->shard, &x->shard, &x->shards);
    if (status == VMOER_OK) status = reproduce(x, &out);
    if (status == VMOER_OK) status = vm_api_return_json(out, out_json);
    for (int m = 0; m < VM_MAPS; m++) vm_free(x->runs[m]);
    vm_free(x->routers);
    vm_free(x->stages);
    json_decref(x->settings);
    json_decref(x->skipped);
    vm_free(x);
    return status;
}
