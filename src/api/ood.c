/* ood.c: tells from saved eval runs how well each signal separates strange questions from familiar ones, and what the
 * length of the questions has to do with it. Runs no model. */
#include "api/internal.h"

#include "base/status.h"
#include "eval/controls.h"
#include "eval/distance.h"
#include "eval/ood.h"

#include <math.h>
#include <string.h>

enum { ROC_POINTS = 101 };

vmoer_ood_params vmoer_ood_params_default(void) { return (vmoer_ood_params){.bootstrap = 1000}; }

/* The items of one task. */
typedef struct side {
    json_t *list; /* [n] samples */
    size_t n;
    double *value, *rest;        /* [n] the signal at hand, and what is left of it without the length */
    double *length, *log_length; /* [n]; NULL: the run did not keep it */
    const uint64_t *hash;        /* [n] */
} side;

typedef struct request {
    const vmoer_ood_params *p;
    json_t *names; /* of the signals that were asked for; NULL: whatever there is */
    vm_saved_run run, fit_run;
    vm_distance distance;
    vm_arena *arena, *set; /* of the in-distribution side; of the set at hand */
    const char *id_task;
    side id;
} request;

/* values[n] of one signal; false if any item lacks it. */
static bool take(const side *s, const char *name, double *values) {
    for (size_t i = 0; i < s->n; i++) {
        const json_t *v = json_object_get(json_object_get(json_array_get(s->list, i), "signals"), name);
        if (!json_is_number(v)) return false;
        values[i] = json_number_value(v);
    }
    return true;
}

static vmoer_status open_side(const vm_saved_run *run, const char *task, vm_arena *arena, side *out) {
    bool ok = true;
    *out = (side){.list = json_object_get(run->tasks, task)};
    size_t n = out->n = json_array_size(out->list);
    double *values = vm_arena_alloc(arena, 4 * n, sizeof *values);
    if (!values) return vm_api_no_memory();
    out->value = values, out->rest = values + n;
    VM_TRY(vm_saved_hashes(run, task, arena, &out->hash));
    if (!take(out, "length", values + 2 * n)) return VMOER_OK;
    out->length = values + 2 * n, out->log_length = values + 3 * n;
    for (size_t i = 0; i < n && ok; i++) {
        ok = out->length[i] > 0;
        out->log_length[i] = log(out->length[i]);
    }
    return ok ? VMOER_OK : vm_error(VMOER_ERROR_DATA, "%s: %s: a length that is not above 0", run->folder, task);
}

/* ---- one signal ---- */

static vmoer_status score(const request *r, const double *id, size_t n_id, const double *ood, size_t n_ood,
                          json_t **out) {
    vm_ood o;
    vm_ood_ci ci;
    VM_TRY(vm_ood_compute(id, n_id, ood, n_ood, &o));
    VM_TRY(vm_ood_bootstrap(id, n_id, ood, n_ood, r->p->bootstrap, 0, &ci));
    *out = json_pack("{s:f, s:f, s:f, s:{s:o, s:o, s:o}}", "auroc", o.auroc, "aupr", o.aupr, "fpr95", o.fpr95, "ci95",
                     "auroc", vm_api_interval(ci.auroc), "aupr", vm_api_interval(ci.aupr), "fpr95",
                     vm_api_interval(ci.fpr95));
    return *out ? VMOER_OK : vm_api_no_memory();
}

/* Which items of the two sides are compared at equal lengths. */
typedef struct matching {
    size_t n, *id, *ood; /* [n] */
} matching;

static vmoer_status match(const request *r, const side *ood, matching *out) {
    size_t most = r->id.n < ood->n ? r->id.n : ood->n;
    *out = (matching){.id = vm_arena_alloc(r->set, most, 2 * sizeof *out->id)};
    if (!out->id) return vm_api_no_memory();
    out->ood = out->id + most;
    if (!r->id.length || !ood->length) return VMOER_OK;
    vm_lengths a = {r->id.n, r->id.length, r->id.hash}, b = {ood->n, ood->length, ood->hash};
    return vm_match_lengths(&a, &b, out->id, out->ood, &out->n);
}

/* The same without what a line in the log of the length, fitted on the ID items, says; and between items of like
 * length. */
static vmoer_status put_controls(const request *r, const side *ood, const matching *m, json_t *out) {
    const side *id = &r->id;
    json_t *value;
    if (!id->length || !ood->length) return VMOER_OK;
    vm_line line = vm_line_fit(id->log_length, id->value, id->n);
    const side *const sides[] = {id, ood};
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < sides[k]->n; i++)
            sides[k]->rest[i] = sides[k]->value[i] - line.intercept - line.slope * sides[k]->log_length[i];
    VM_TRY(score(r, id->rest, id->n, ood->rest, ood->n, &value));
    json_object_set_new(out, "length_adjusted", value);
    json_object_set_new(out, "length_matched", json_null());
    if (m->n == 0) return VMOER_OK;
    for (size_t i = 0; i < m->n; i++) {
        id->rest[i] = id->value[m->id[i]];
        ood->rest[i] = ood->value[m->ood[i]];
    }
    VM_TRY(score(r, id->rest, m->n, ood->rest, m->n, &value));
    json_object_set_new(out, "length_matched", value);
    return VMOER_OK;
}

/* Of the values that both sides hold; *out is the caller's after an error too. */
static vmoer_status score_signal(const request *r, const char *name, const side *ood, const matching *m, json_t **out) {
    double fpr[ROC_POINTS], tpr[ROC_POINTS];
    VM_TRY(score(r, r->id.value, r->id.n, ood->value, ood->n, out));
    size_t n = vm_ood_roc(r->id.value, r->id.n, ood->value, ood->n, fpr, tpr, ROC_POINTS);
    json_t *roc = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(roc, json_pack("[f, f]", fpr[i], tpr[i]));
    json_object_set_new(*out, "roc", roc);
    return strcmp(name, "length") == 0 ? VMOER_OK : put_controls(r, ood, m, *out);
}

/* ---- the sets ---- */

/* The signals that were asked for, else those of the first item. */
static json_t *signals_of(const request *r) {
    if (r->names) return json_incref(r->names);
    json_t *names = json_array(), *unused;
    const char *name;
    json_object_foreach(json_object_get(json_array_get(r->id.list, 0), "signals"), name, unused)
        json_array_append_new(names, json_string(name));
    return names;
}

/* Tells of a signal that was asked for and is not there. */
static vmoer_status lacks(const request *r, const vm_saved_run *run, const char *task, const char *name) {
    return !r->names ? VMOER_OK
                     : vm_error(VMOER_ERROR_ARGUMENT, "%s: %s has no signal \"%s\"", run->folder, task, name);
}

static vmoer_status score_set(const request *r, const vm_saved_run *run, const char *task, json_t *results) {
    side ood;
    matching m;
    VM_TRY(open_side(run, task, r->set, &ood));
    VM_TRY(match(r, &ood, &m));
    json_t *signals = json_object(), *names = signals_of(r), *set, *element;
    vmoer_status status = VMOER_OK;
    size_t i;
    json_array_foreach(names, i, element) {
        const char *name = json_string_value(element);
        json_t *value = NULL;
        if (status != VMOER_OK) break;
        if (!take(&ood, name, ood.value) || !take(&r->id, name, r->id.value)) {
            status = lacks(r, run, task, name);
            continue;
        }
        status = score_signal(r, name, &ood, &m, &value);
        if (status != VMOER_OK) vm_error_in(status, "%s, signal %s", task, name);
        json_object_set_new(signals, name, value);
    }
    json_decref(names);
    set = json_pack("{s:I, s:I, s:o}", "n", (json_int_t)ood.n, "n_matched", (json_int_t)m.n, "signals", signals);
    if (json_object_set_new(results, task, set) != 0 && status == VMOER_OK) status = vm_api_no_memory();
    return status;
}

/* ---- the distance of the last hidden state ---- */

static vmoer_status read_hidden(const vm_saved_run *run, const char *task, int dim, vm_arena *arena, const float **rows,
                                int *found) {
    VM_TRY(vm_saved_hidden(run, task, arena, rows, found));
    if (dim && *found != dim)
        return vm_error(VMOER_ERROR_MISMATCH, "%s: %s: hidden states of %d dimensions, those of --fit_run have %d",
                        run->folder, task, *found, dim);
    return VMOER_OK;
}

/* Adds the signal "mahalanobis" to every sample of the task. */
static vmoer_status add_distance(const request *r, const vm_saved_run *run, const char *task) {
    const float *rows;
    int dim;
    json_t *list = json_object_get(run->tasks, task);
    size_t n = json_array_size(list);
    if (!r->fit_run.folder) return VMOER_OK;
    VM_TRY(vm_saved_runs_same(&r->fit_run, run));
    VM_TRY(read_hidden(run, task, r->distance.dim, r->set, &rows, &dim));
    double *distance = vm_arena_alloc(r->set, n, sizeof *distance);
    if (!distance) return vm_api_no_memory();
    VM_TRY(vm_distance_of(&r->distance, rows, n, distance));
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(distance[i]))
            return vm_error(VMOER_ERROR_NUMERIC, "%s: %s: hidden state %zu is not finite", run->folder, task, i);
        json_object_set_new(json_object_get(json_array_get(list, i), "signals"), "mahalanobis", json_real(distance[i]));
    }
    return VMOER_OK;
}

/* A fit that has seen the ID items finds them nearer than it would find new ones. */
static vmoer_status check_apart(const request *r, const char *fit_task) {
    json_t *seen = json_object(), *sample;
    const json_t *lists[] = {json_object_get(r->fit_run.tasks, fit_task), json_object_get(r->run.tasks, r->id_task)};
    vmoer_status status = VMOER_OK;
    size_t i;
    json_array_foreach(lists[0], i, sample) {
        const char *id = json_string_value(json_object_get(sample, "id"));
        if (id) json_object_set(seen, id, json_object_get(sample, "hash"));
    }
    json_array_foreach(lists[1], i, sample) {
        const char *id = json_string_value(json_object_get(sample, "id"));
        const json_t *hash = id ? json_object_get(seen, id) : NULL;
        if (status != VMOER_OK || !hash || !json_equal(hash, json_object_get(sample, "hash"))) continue;
        status = vm_error(VMOER_ERROR_ARGUMENT, "%s: its item %.60s stands in %s too: fit on held-out items",
                          r->p->id_run, id, r->p->fit_run);
    }
    json_decref(seen);
    return status;
}

static vmoer_status fit(request *r, json_t **out) {
    const float *rows;
    *out = json_null();
    if (!r->p->fit_run) return VMOER_OK;
    VM_TRY(vm_saved_run_open(r->p->fit_run, &r->fit_run));
    const char *task = json_object_iter_key(json_object_iter(r->fit_run.tasks));
    size_t n = json_array_size(json_object_get(r->fit_run.tasks, task));
    int dim;
    if (json_object_size(r->fit_run.tasks) != 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "%s: %zu tasks, a run to fit on has one", r->p->fit_run,
                        json_object_size(r->fit_run.tasks));
    VM_TRY(check_apart(r, task));
    VM_TRY(read_hidden(&r->fit_run, task, 0, r->set, &rows, &dim));
    VM_TRY_IN(vm_distance_fit(rows, n, dim, &r->distance), "%s", r->p->fit_run);
    *out = json_pack("{s:O, s:s, s:O*, s:I, s:i, s:f}", "run", json_object_get(r->fit_run.results, "label"), "task",
                     task, "split", json_object_get(json_object_get(r->fit_run.results, "config"), "split"), "n",
                     (json_int_t)n, "dim", dim, "shrinkage", r->distance.shrinkage);
    return *out ? VMOER_OK : vm_api_no_memory();
}

/* ---- what is known of the ID items alone ---- */

/* Of each signal: how it goes with the length and with wrong answers, and its line in the log of the length. */
static vmoer_status describe_id(const request *r, json_t **out) {
    vm_predictions d;
    const side *id = &r->id;
    VM_TRY(vm_saved_predictions(&r->run, r->id_task, r->arena, &d));
    double *wrong = vm_arena_alloc(r->arena, d.n, sizeof *wrong);
    if (!wrong) return vm_api_no_memory();
    for (size_t i = 0; i < d.n; i++) {
        const double *p = d.p + i * (size_t)d.stride;
        int best = 0;
        for (int c = 1; c < d.k[i]; c++)
            if (p[c] > p[best]) best = c;
        wrong[i] = best != d.label[i];
    }
    json_t *names = signals_of(r), *all = *out = json_object(), *element;
    vmoer_status status = VMOER_OK;
    size_t i;
    json_array_foreach(names, i, element) {
        const char *name = json_string_value(element);
        double by_length = NAN, by_wrong = NAN;
        if (status == VMOER_OK && !take(id, name, id->value)) {
            status = lacks(r, &r->run, r->id_task, name);
            continue;
        }
        if (status == VMOER_OK && id->length) status = vm_spearman(id->value, id->length, id->n, &by_length);
        if (status == VMOER_OK) status = vm_spearman(id->value, wrong, id->n, &by_wrong);
        if (status != VMOER_OK) break;
        vm_line line = {NAN, NAN};
        if (id->length) line = vm_line_fit(id->log_length, id->value, id->n);
        json_object_set_new(all, name,
                            json_pack("{s:o, s:o, s:o, s:o}", "spearman_length", vm_api_number(by_length),
                                      "spearman_wrong", vm_api_number(by_wrong), "slope", vm_api_number(line.slope),
                                      "intercept", vm_api_number(line.intercept)));
    }
    json_decref(names);
    return status;
}

/* Every set of every run against the in-distribution items. */
static vmoer_status score_runs(const request *r, json_t *results) {
    const vmoer_ood_params *p = r->p;
    for (int i = 0; i < p->n_ood; i++) {
        vm_saved_run run;
        json_t *list;
        const char *task;
        vmoer_status status = VMOER_OK;
        VM_TRY(vm_saved_run_open(p->ood_runs[i], &run));
        json_object_foreach(run.tasks, task, list) {
            vm_arena_reset(r->set);
            if (status == VMOER_OK && json_object_get(results, task))
                status = vm_error(VMOER_ERROR_ARGUMENT, "%s: %s stands in a run before it too", p->ood_runs[i], task);
            if (status == VMOER_OK) status = add_distance(r, &run, task);
            if (status == VMOER_OK) status = score_set(r, &run, task, results);
        }
        vm_saved_run_close(&run);
        VM_TRY(status);
    }
    return VMOER_OK;
}

/* "choice_entropy,length" -> r->names. */
static vmoer_status read_names(request *r) {
    if (!r->p->signals) return VMOER_OK;
    r->names = json_array();
    for (const char *at = r->p->signals;; at++) {
        size_t n = strcspn(at, ",");
        if (n == 0 || json_array_append_new(r->names, json_stringn(at, n)) != 0)
            return vm_error(VMOER_ERROR_ARGUMENT, "--signals '%.200s': names of signals with commas", r->p->signals);
        at += n;
        if (!*at) return VMOER_OK;
    }
}

/* *all: what results.json holds, also after an error. */
static vmoer_status compare(request *r, json_t **all) {
    const vmoer_ood_params *p = r->p;
    json_t *fitted = NULL, *signals = NULL;
    VM_TRY(read_names(r));
    VM_TRY(vm_saved_run_open(p->id_run, &r->run));
    if (json_object_size(r->run.tasks) != 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "%s: %zu tasks, an in-distribution run has one", p->id_run,
                        json_object_size(r->run.tasks));
    r->id_task = json_object_iter_key(json_object_iter(r->run.tasks));
    json_t *label = json_object_get(r->run.results, "label");
    vmoer_status status = fit(r, &fitted);
    if (status == VMOER_OK) status = add_distance(r, &r->run, r->id_task);
    if (status == VMOER_OK) status = open_side(&r->run, r->id_task, r->arena, &r->id);
    if (status == VMOER_OK) status = describe_id(r, &signals);
    *all = json_pack("{s:s, s:s, s:O, s:{s:s, s:I, s:O, s:o*}, s:{s:i, s:o*, s:O?}, s:{}}", "vmoer", vmoer_version(),
                     "kind", "ood", "label", label, "id", "task", r->id_task, "n", (json_int_t)r->id.n, "run", label,
                     "signals", signals, "config", "bootstrap", p->bootstrap, "fit", fitted, "signals", r->names,
                     "results");
    VM_TRY(status);
    if (!*all) return vm_api_no_memory();
    VM_TRY(score_runs(r, json_object_get(*all, "results")));
    return vm_api_save_results(p->output_path, *all);
}

vmoer_status vmoer_ood(const vmoer_ood_params *p, const vmoer_hooks *hooks, char **out_json) {
    (void)hooks; /* seconds of work */
    if (!p->id_run || p->n_ood < 1)
        return vm_error(
            VMOER_ERROR_ARGUMENT,
            "say the in-distribution run (--id_run DIR) and at least one other (vmoer ood --id_run DIR DIR)");
    request r = {.p = p, .arena = vm_arena_create(), .set = vm_arena_create()};
    json_t *all = NULL;
    vmoer_status status = r.arena && r.set ? compare(&r, &all) : vm_api_no_memory();
    vm_saved_run_close(&r.run);
    vm_saved_run_close(&r.fit_run);
    vm_distance_free(&r.distance);
    vm_arena_free(r.arena);
    vm_arena_free(r.set);
    json_decref(r.names);
    if (status == VMOER_OK) return vm_api_return_json(all, out_json);
    json_decref(all);
    return status;
}
