/* trainer.c: see trainer.h. */
#include "train/trainer.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/status.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHECKPOINT_STEPS = 50 };

typedef struct run {
    vm_train_job *job;
    const vmoer_hooks *hooks;
    vm_optimizer *optimizer;
    json_t *history; /* array of looks */
    int32_t *order;  /* [n] this epoch's order of the training items */
    int order_epoch;
    uint64_t step, total; /* steps done, to do */
    uint64_t hold;        /* from this step on the learning rate stays */
    int steps_per_epoch;
    double best_nll;
    char checkpoint[4096];
} run;

vmoer_status vm_train_predict(const vm_train_job *job, vm_predictions *out) {
    size_t n = job->heldout->n;
    double *p = vm_calloc(n * VM_MAX_CHOICES, sizeof *p);
    int *k = vm_calloc(n, sizeof *k);
    *out = (vm_predictions){.n = n, .stride = VM_MAX_CHOICES, .p = p, .k = k, .label = job->heldout->answers};
    vmoer_status status = p && k ? vm_objective_predict(&job->objective, job->heldout, &job->predict, p)
                                 : vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", n);
    for (size_t i = 0; status == VMOER_OK && i < n; i++) k[i] = job->heldout->prompts[i].n_choices;
    if (status == VMOER_OK) return VMOER_OK;
    vm_train_predictions_free(out);
    return vm_error_in(status, "held-out part");
}

void vm_train_predictions_free(vm_predictions *d) {
    vm_free((void *)(uintptr_t)d->p);
    vm_free((void *)(uintptr_t)d->k);
    *d = (vm_predictions){0};
}

vmoer_status vm_train_measure(const vm_predictions *d, json_t **out) {
    vm_metrics m;
    VM_TRY_IN(vm_metrics_compute(d, &m), "held-out part");
    *out = json_pack("{s:f, s:f, s:f, s:I}", "acc", m.acc, "nll", m.nll, "ece", m.ece, "n", (json_int_t)d->n);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
}

vmoer_status vm_train_look(const vm_train_job *job, json_t **out) {
    vm_predictions d;
    VM_TRY(vm_train_predict(job, &d));
    vmoer_status status = vm_train_measure(&d, out);
    vm_train_predictions_free(&d);
    if (status != VMOER_OK || !job->objective.teacher) return status;
    double divergence;
    status = vm_objective_divergence(&job->objective, job->heldout, &job->predict, &divergence);
    if (status == VMOER_OK)
        json_object_set_new(*out, "divergence", json_real(divergence));
    else
        json_decref(*out), *out = NULL;
    return status;
}

/* The order of an epoch is a function of seed and epoch alone. */
static void order_epoch(run *r, int epoch) {
    if (r->order_epoch == epoch) return;
    size_t n = r->job->train->n;
    for (size_t i = 0; i < n; i++) r->order[i] = (int32_t)i;
    vm_rng rng = vm_rng_start(r->job->params->seed, VM_RNG_SHUFFLE, (uint32_t)epoch);
    vm_rng_shuffle(&rng, r->order, n);
    r->order_epoch = epoch;
}

/* "layers.12.mean.bias" -> "layers.*.mean.bias" */
static void name_kind(const char *name, char *kind) {
    while (*name) {
        size_t digits = strspn(name, "0123456789");
        *kind++ = digits ? '*' : *name;
        name += digits ? digits : 1;
    }
    *kind = '\0';
}

/* What is trained, tensors of one name in all layers and experts together: an adapter has hundreds. */
static json_t *trainable_of(const vm_param_list *trained, size_t *total) {
    json_t *kinds = json_object();
    *total = 0;
    for (size_t i = 0; i < trained->count; i++) {
        const vm_param *p = trained->items[i];
        if (!p->grad) continue;
        char kind[sizeof p->name];
        name_kind(p->name, kind);
        const json_t *before = json_object_get(kinds, kind);
        json_int_t tensors = json_integer_value(json_object_get(before, "tensors")),
                   parameters = json_integer_value(json_object_get(before, "parameters"));
        size_t n = vm_param_size(p);
        *total += n;
        json_object_set_new(kinds, kind,
                            json_pack("{s:I, s:I}", "tensors", tensors + 1, "parameters", parameters + (json_int_t)n));
    }
    return kinds;
}

/* What the record calls the states that are kept. */
const char *vm_train_keep_name(vmoer_keep keep) {
    static const char *const names[] = {"last", "best", "both"};
    return names[keep];
}

/* The record beside a state: `keep` says which one it is, so that it has the bytes of a run that keeps it alone. */
static json_t *config_beside(const run *r, vmoer_keep which) {
    json_t *config = json_copy(r->job->config);
    if (json_object_get(config, "keep")) json_object_set_new(config, "keep", json_string(vm_train_keep_name(which)));
    return config;
}

static vmoer_status record_of(const run *r, vmoer_keep which, json_t **out) {
    const vm_train_job *job = r->job;
    size_t total;
    json_t *trainable = trainable_of(&job->trained, &total);
    *out = json_pack("{s:s, s:s, s:o, s:o, s:I, s:O}", "vmoer", vmoer_version(), "kind", job->stage, "config",
                     config_beside(r, which), "trainable", trainable, "parameters", (json_int_t)total, "history",
                     r->history);
    bool ok = *out && (!job->facts || json_object_update(*out, (json_t *)(uintptr_t)job->facts) == 0);
    return ok ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
}

/* which: the last state or the best one. */
static vmoer_status save_result(run *r, vmoer_keep which) {
    const vmoer_train_params *t = r->job->params;
    const char *folder = t->output_path;
    char best[4096];
    json_t *record;
    if (which == VMOER_KEEP_BEST && t->keep == VMOER_KEEP_BOTH) {
        VM_TRY(vm_path_join(best, sizeof best, t->output_path, "best"));
        VM_TRY(vm_make_dirs(best));
        folder = best;
    }
    VM_TRY(record_of(r, which, &record));
    vmoer_status status = r->job->save(r->job->context, folder, record);
    json_decref(record);
    return status;
}

static vmoer_status save_checkpoint(run *r) {
    json_t *meta = json_pack("{s:O, s:I, s:f, s:O}", "config", r->job->config, "step", (json_int_t)r->step, "best_nll",
                             r->best_nll, "history", r->history);
    if (!meta) return vm_error(VMOER_ERROR_MEMORY, "no memory for a checkpoint");
    vmoer_status status = vm_checkpoint_save(r->checkpoint, r->optimizer, meta);
    json_decref(meta);
    return status;
}

static vmoer_status resume(run *r) {
    json_t *meta;
    VM_TRY(vm_checkpoint_load(r->checkpoint, r->optimizer, r->job->config, &meta));
    r->step = (uint64_t)json_integer_value(json_object_get(meta, "step"));
    r->best_nll = json_number_value(json_object_get(meta, "best_nll"));
    json_decref(r->history);
    r->history = json_incref(json_object_get(meta, "history"));
    json_decref(meta);
    if (!json_is_array(r->history) || r->step > r->total)
        return vm_error(VMOER_ERROR_FORMAT, "%s: step or history is not valid", r->checkpoint);
    vm_log(r->hooks, "goes on after step %llu of %llu", (unsigned long long)r->step, (unsigned long long)r->total);
    return vm_model_refresh(r->job->model, r->job->pool);
}

/* A look at the held-out part; writes the result if it is the best so far. */
static vmoer_status look(run *r, const vm_loss *l, double rate, double norm) {
    json_t *heldout;
    VM_TRY(vm_train_look(r->job, &heldout));
    double nll = json_number_value(json_object_get(heldout, "nll"));
    vm_log(r->hooks, "step %llu: loss %.4f ce %.4f kl %.4f; held out: acc %.4f nll %.4f ece %.4f",
           (unsigned long long)r->step, l->loss, l->ce, l->kl, json_number_value(json_object_get(heldout, "acc")), nll,
           json_number_value(json_object_get(heldout, "ece")));
    if (json_object_get(heldout, "divergence"))
        vm_log(r->hooks, "step %llu: held out: %.4f nats a token from the teacher", (unsigned long long)r->step,
               json_number_value(json_object_get(heldout, "divergence")));
    json_t *entry = json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "step", (json_int_t)r->step, "epoch",
                              (double)r->step / r->steps_per_epoch, "loss", l->loss, "ce", l->ce, "kl", l->kl, "kl_sum",
                              l->kl_sum, "lr", rate, "grad_norm", norm, "heldout", heldout);
    if (!entry || json_array_append_new(r->history, entry) != 0)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    if (r->job->params->keep == VMOER_KEEP_LAST || !(nll < r->best_nll)) return VMOER_OK;
    r->best_nll = nll;
    return save_result(r, VMOER_KEEP_BEST);
}

static uint64_t rounds_of(const vm_train_job *job) {
    return job->objective.router ? (uint64_t)vm_router_rounds(job->objective.router) : 1;
}

static vmoer_status train(run *r) {
    const vmoer_train_params *t = r->job->params;
    int n = (int)r->job->train->n;
    uint64_t every = (uint64_t)(t->evaluate_every > 0 ? t->evaluate_every : r->steps_per_epoch) * rounds_of(r->job);
    while (r->step < r->total) {
        int epoch = (int)(r->step / (uint64_t)r->steps_per_epoch),
            first = (int)(r->step % (uint64_t)r->steps_per_epoch) * t->batch_size;
        int count = n - first < t->batch_size ? n - first : t->batch_size;
        vm_loss loss;
        double norm,
            rate = t->learning_rate * vm_schedule_linear(r->step < r->hold ? r->step : r->hold, r->total, t->warmup);
        char note[64];
        order_epoch(r, epoch);
        VM_TRY_IN(vm_objective_step(&r->job->objective, r->job->train, r->order + first, count, r->step, &loss),
                  "step %llu", (unsigned long long)r->step);
        VM_TRY_IN(vm_optimizer_step(r->optimizer, r->job->pool, rate, &norm), "step %llu", (unsigned long long)r->step);
        VM_TRY(vm_model_refresh(r->job->model, r->job->pool));
        r->step++;
        if (r->job->objective.router) VM_TRY(vm_router_gather(r->job->objective.router, r->step, r->total));
        bool last = r->step == r->total;
        if (last || r->step % every == 0) VM_TRY(look(r, &loss, rate, norm));
        if (last || r->step % every == 0 || r->step % CHECKPOINT_STEPS == 0) VM_TRY(save_checkpoint(r));
        if (r->job->objective.teacher)
            snprintf(note, sizeof note, "%.3f nats from the teacher", loss.loss);
        else
            snprintf(note, sizeof note, "loss %.3f ce %.3f kl %.3f", loss.loss, loss.ce, loss.kl);
        vmoer_status status = vm_progress(r->hooks, r->job->stage, r->step, r->total, note);
        if (status != VMOER_OK) {
            VM_TRY(save_checkpoint(r));
            return status;
        }
    }
    return r->job->params->keep == VMOER_KEEP_BEST ? VMOER_OK : save_result(r, VMOER_KEEP_LAST);
}

vmoer_status vm_train_check(const vmoer_train_params *t) {
    if (t->batch_size < 1 || t->batch_size > 4096)
        return vm_error(VMOER_ERROR_ARGUMENT, "batch size %d, must be 1 to 4096", t->batch_size);
    if (t->epochs < 0 || t->steps < 0 || (t->epochs == 0 && t->steps == 0))
        return vm_error(VMOER_ERROR_ARGUMENT, "nothing to do: epochs and steps are 0");
    if (!(t->learning_rate >= 0 && isfinite(t->learning_rate)) || !(t->warmup >= 0 && t->warmup <= 1))
        return vm_error(VMOER_ERROR_ARGUMENT, "learning rate %g, must be 0 or more; warmup %g, must be 0 to 1",
                        t->learning_rate, t->warmup);
    if ((unsigned)t->keep > VMOER_KEEP_BOTH) return vm_error(VMOER_ERROR_ARGUMENT, "there is no keep %d", (int)t->keep);
    return VMOER_OK;
}

static vmoer_status checkpoint_path(const vmoer_train_params *t, char path[4096]) {
    return vm_path_join(path, 4096, t->output_path, "checkpoint.safetensors");
}

vmoer_status vm_train_check_folder(const vmoer_train_params *t) {
    char path[4096];
    VM_TRY(checkpoint_path(t, path));
    if (t->resume || !vm_file_exists(path)) return VMOER_OK;
    return vm_error(VMOER_ERROR_ARGUMENT,
                    "%s: a checkpoint is there: --resume goes on from it; to start anew, delete it or give another "
                    "folder",
                    path);
}

vmoer_status vm_train_run(vm_train_job *job, const vmoer_hooks *hooks, json_t **record) {
    const vmoer_train_params *t = job->params;
    VM_TRY(vm_train_check(t));
    VM_TRY(vm_train_check_folder(t));
    if (job->train->n == 0 || job->heldout->n == 0)
        return vm_error(VMOER_ERROR_DATA, "no questions to train on, or none held out");
    run r = {.job = job, .hooks = hooks, .order_epoch = -1, .best_nll = 1e300}; /* JSON has no infinity */
    vmoer_status status = VMOER_OK;
    r.steps_per_epoch = (int)((job->train->n + (size_t)t->batch_size - 1) / (size_t)t->batch_size);
    r.total = t->steps > 0 ? (uint64_t)t->steps : (uint64_t)t->epochs * (uint64_t)r.steps_per_epoch;
    r.total *= rounds_of(job);
    r.hold = job->objective.router && vm_router_gathers(job->objective.router) ? r.total / 2 : r.total;
    if (r.total <= (uint64_t)r.steps_per_epoch && job->objective.draws == 1)
        job->objective.states = NULL; /* every question is met once */
    r.history = json_array();
    r.order = vm_calloc(job->train->n, sizeof *r.order);
    if (!r.order || !r.history) {
        status = vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", job->train->n);
        goto done;
    }
    vm_optimizer_options options = vm_optimizer_options_default();
    options.weight_decay = t->weight_decay;
    options.clip = t->clip;
    VM_GOTO(vm_make_dirs(t->output_path));
    VM_GOTO(checkpoint_path(t, r.checkpoint));
    VM_GOTO(vm_optimizer_create(&job->trained, &options, job->rates, &r.optimizer));
    VM_GOTO(vm_model_refresh(job->model, job->pool));
    if (t->resume && vm_file_exists(r.checkpoint)) VM_GOTO(resume(&r));
    VM_GOTO(train(&r));
    VM_GOTO(record_of(&r, t->keep == VMOER_KEEP_BEST ? VMOER_KEEP_BEST : VMOER_KEEP_LAST, record));
done:
    vm_optimizer_free(r.optimizer);
    vm_free(r.order);
    json_decref(r.history);
    return status;
}
