/* reproduce_plan.c: how long an experiment will take and how much memory, from a short run of the model's own
 * evaluation and trainings. */
#include "api/reproduce.h"

#include "base/progress.h"
#include "base/status.h"
#include "base/utf8.h"

#include <math.h>
#include <string.h>
#include <sys/resource.h>

/* PROBE_BATCHES: of a training's questions. Stability: passes a level of noise, and those that look for the target's
 * sigma. Fit: what calibrate tries of one number, each by so many passes where the router draws (src/api/fit.c).
 * Cost: its prompts, as questions; with --quick they are short and few. */
enum {
    PROBE_BATCHES = 2,
    STABILITY_PASSES = 4,
    BISECTION = 20,
    FIT_TRIALS = 11,
    COST_QUESTIONS = 300,
    QUICK_COST_QUESTIONS = 8
};

/* Questions a second, and what every call pays. */
typedef struct speed {
    double eval, finetune, calibrate, load;
    json_int_t memory; /* bytes at the peak */
} speed;

static double rate_of(const json_t *rows, const char *test) {
    size_t i;
    const json_t *row;
    json_array_foreach(rows, i, row) {
        const char *name = json_string_value(json_object_get(row, "test"));
        if (name && strncmp(name, test, strlen(test)) == 0) return json_number_value(json_object_get(row, "rate"));
    }
    return 0;
}

static vmoer_status probe(const vm_experiment *x, speed *out) {
    const vmoer_reproduce_params *p = x->p;
    vmoer_bench_params b = vmoer_bench_params_default();
    vmoer_model_params load = {.compute = p->compute, .threads = p->threads, .samples = 1};
    vmoer_model *model;
    struct rusage usage;
    char *text;
    json_t *result;
    double start = vm_api_seconds();
    VM_TRY(vmoer_model_load(p->model, &load, &model));
    vmoer_model_free(model);
    out->load = vm_api_seconds() - start;
    b.model = p->model;
    b.questions = (vmoer_questions){
        .data_dir = x->data_dir, .tasks = x->tasks[0].name, .limit = PROBE_BATCHES * x->map.train.batch_size};
    b.tests = "eval,finetune,calibrate";
    b.lengths = "1"; /* of prompts that are not asked for */
    b.targets = x->map.targets;
    b.rank = x->map.rank;
    b.batch_size = x->map.train.batch_size;
    b.repeats = 1;
    b.compute = p->compute;
    b.threads = p->threads;
    VM_TRY_IN(vmoer_bench(&b, x->hooks, &text), "probe");
    vmoer_status status = vm_json_parse(text, strlen(text), "probe", &result);
    vmoer_free(text);
    VM_TRY(status);
    const json_t *rows = json_object_get(result, "results");
    out->eval = rate_of(rows, "eval");
    out->finetune = rate_of(rows, "finetune");
    out->calibrate = rate_of(rows, "calibrate");
    json_decref(result);
    if (!(out->eval > 0 && out->finetune > 0 && out->calibrate > 0))
        return vm_error(VMOER_ERROR_NUMERIC, "probe: a speed of 0");
    getrusage(RUSAGE_SELF, &usage);
    out->memory = (json_int_t)usage.ru_maxrss * 1024;
    return VMOER_OK;
}

/* A training's seconds: its steps at the rate, and its looks at the held-out part. */
static double training_seconds(const vm_experiment_task *task, const vmoer_train_params *t, double rate, double look) {
    double per_epoch = ceil((double)task->train / t->batch_size),
           steps = t->steps > 0 ? t->steps : t->epochs * per_epoch,
           every = t->evaluate_every > 0 ? t->evaluate_every : per_epoch;
    return steps * t->batch_size / rate + ceil(steps / every) * look;
}

/* Of n questions of a task or set, as many of the probe's, which are the first task's. */
static double as_probed(const vm_experiment *x, const vm_experiment_task *t, double n) {
    return n * t->length / x->tasks[0].length;
}

/* As much of a contestant's router as says how it answers and is trained. */
static vm_router_config kind_of(const vm_contestant *c) {
    vm_router_config config = {.members = c->calibrate.members};
    vm_copy_text(config.kind, sizeof config.kind, c->calibrate.router);
    vm_router_config_complete(&config);
    return config;
}

static double seconds_of(const vm_experiment *x, const vm_stage *s, const speed *v) {
    const vm_experiment_task *task = &x->tasks[s->task];
    const vm_contestant *c = &x->routers[s->router];
    double look = as_probed(x, task, (double)task->heldout) / v->eval, n = 0;
    vm_router_config router = kind_of(c);
    bool by_passes =
        c->inference == VMOER_INFERENCE_PASSES ||
        (c->inference == VMOER_INFERENCE_AUTO && vm_router_config_inference(&router) == VM_INFERENCE_PASSES);
    double passes = by_passes ? c->samples : 1;
    switch (s->kind) {
    case VM_STAGE_MAP:
        return v->load + training_seconds(task, &x->map.train, v->finetune, look);
    case VM_STAGE_ROUTER:
        if (c->trained)
            return v->load + vm_router_config_rounds(&router) *
                                 training_seconds(task, &c->calibrate.train, v->calibrate / c->calibrate.draws, look);
        if (strcmp(c->calibrate.router, "temperature") != 0) {
            bool given = c->calibrate.noise != 0 || c->calibrate.route_temperature != 0;
            look *= (given ? 1 : FIT_TRIALS) * (by_passes ? VM_API_FIT_PASSES : 1);
        }
        return v->load + look;
    case VM_STAGE_ID:
        return v->load + passes * as_probed(x, task, (double)task->n) / v->eval;
    case VM_STAGE_OOD_RUN:
        for (int i = 0; i < x->n_sets; i++) {
            bool sampled = x->ood_sample > 0 && (size_t)x->ood_sample < x->sets[i].n;
            n += as_probed(x, &x->sets[i], sampled ? x->ood_sample : (double)x->sets[i].n);
        }
        return v->load + passes * n / v->eval;
    case VM_STAGE_LAYERS:
        return v->load + STABILITY_PASSES * x->layers_questions / v->eval;
    case VM_STAGE_STABILITY:
        return v->load + (STABILITY_PASSES * 5 + BISECTION) * x->stability_questions / v->eval;
    case VM_STAGE_HELDOUT:
        return v->load + passes * look;
    case VM_STAGE_COST:
        return v->load + (x->p->quick ? QUICK_COST_QUESTIONS : COST_QUESTIONS) / v->eval;
    case VM_STAGE_OOD:
    case VM_STAGE_CONFORMAL:
    case VM_STAGE_KINDS:
        break;
    }
    return 0;
}

static json_t *tasks_to_json(const vm_experiment_task *tasks, int n, bool trained) {
    json_t *all = json_object();
    for (int i = 0; i < n; i++) {
        json_t *own = json_pack("{s:I}", "n", (json_int_t)tasks[i].n);
        if (trained) json_object_set_new(own, "train", json_integer((json_int_t)tasks[i].train));
        if (trained) json_object_set_new(own, "heldout", json_integer((json_int_t)tasks[i].heldout));
        json_object_set_new(all, tasks[i].name, own);
    }
    return all;
}

static void log_plan(const vm_experiment *x, const speed *v) {
    double total = 0;
    for (int kind = 0; kind < VM_STAGE_KINDS; kind++) {
        double seconds = 0;
        size_t n = 0, done = 0;
        for (size_t i = 0; i < x->n_stages; i++) {
            if ((int)x->stages[i].kind != kind) continue;
            n++, done += x->stages[i].done;
            seconds += x->stages[i].seconds;
        }
        total += seconds;
        if (n)
            vm_log(x->hooks, "plan: %s: %zu stages, %zu done, about %.1f min", vm_stage_kind_name((vm_stage_kind)kind),
                   n, done, seconds / 60);
    }
    vm_log(x->hooks, "plan: about %.1f min and %.2f GiB", total / 60, (double)v->memory / 1073741824.0);
}

vmoer_status vm_experiment_plan(vm_experiment *x, json_t **plan) {
    speed v = {0};
    size_t left = 0;
    double total = 0;
    for (size_t i = 0; i < x->n_stages; i++) left += !x->stages[i].done;
    if (left) VM_TRY(probe(x, &v));
    /* Half of the bound is for the states that calibrate keeps; the probe's few questions do not fill it. */
    v.memory += (json_int_t)(x->p->memory_gib / 2 * 1073741824.0);
    json_t *stages = json_array();
    for (size_t i = 0; i < x->n_stages; i++) {
        vm_stage *s = &x->stages[i];
        if (!s->done) s->seconds = seconds_of(x, s, &v);
        total += s->seconds;
        json_array_append_new(stages, json_pack("{s:s, s:s, s:b, s:f}", "folder", s->path, "stage",
                                                vm_stage_kind_name(s->kind), "done", s->done, "seconds", s->seconds));
    }
    if (left) log_plan(x, &v);
    *plan = json_pack("{s:s, s:s, s:{s:s, s:s}, s:o, s:o, s:o, s:O, s:{s:f, s:f, s:f, s:f}, s:o, s:f, s:I}", "vmoer",
                      vmoer_version(), "kind", "plan", "model", "name", x->model_name, "fingerprint", x->fingerprint,
                      "config", vm_experiment_config(x), "tasks", tasks_to_json(x->tasks, x->n_tasks, true), "sets",
                      tasks_to_json(x->sets, x->n_sets, false), "skipped", x->skipped, "probe", "load_seconds", v.load,
                      "eval", v.eval, "finetune", v.finetune, "calibrate", v.calibrate, "stages", stages, "seconds",
                      total, "memory_bytes", v.memory);
    return *plan ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the plan, or the model's name is not UTF-8");
}
