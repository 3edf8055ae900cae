/* conformal.c: answer sets and abstention thresholds from saved eval runs. Runs no model. */
#include "api/internal.h"

#include "base/rng.h"
#include "base/status.h"
#include "eval/conformal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CURVE_POINTS = 101, MOST_LEVELS = 16, SCORES = 2 };
static const char *const score_names[SCORES] = {"lac", "aps"};

_Static_assert((int)VM_MAX_CHOICES < (int)VM_SET_SIZES, "a set may hold every choice");

vmoer_conformal_params vmoer_conformal_params_default(void) {
    return (vmoer_conformal_params){.alpha = .1, .halves = 1000, .accuracy = "0.7,0.8,0.9,0.95"};
}

typedef struct request {
    const vmoer_conformal_params *p;
    double levels[MOST_LEVELS]; /* of selective accuracy */
    int n_levels;
    vm_saved_run run, calibration; /* calibration.folder NULL: none */
    vm_arena *arena;               /* of the task at hand */
} request;

/* One task's answers, and the scores of its choices. */
typedef struct scored {
    vm_predictions d;
    double *score[SCORES]; /* [n, d.stride] */
} scored;

static vmoer_status read_levels(const char *text, request *r) {
    for (const char *at = text; r->n_levels < MOST_LEVELS;) {
        char *end;
        double level = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(level > 0 && level <= 1)) break;
        r->levels[r->n_levels++] = level;
        if (!*end) return VMOER_OK;
        at = end + 1;
    }
    return vm_error(VMOER_ERROR_ARGUMENT, "accuracy '%.80s': at most %d numbers above 0 and up to 1, with commas", text,
                    MOST_LEVELS);
}

static vmoer_status score_task(const request *r, const vm_saved_run *run, const char *task, scored *out) {
    const uint64_t *hashes;
    VM_TRY(vm_saved_predictions(run, task, r->arena, &out->d));
    VM_TRY(vm_saved_hashes(run, task, r->arena, &hashes));
    size_t n = out->d.n;
    double *uniform = vm_arena_alloc(r->arena, n, sizeof *uniform);
    for (int s = 0; s < SCORES; s++) {
        out->score[s] = vm_arena_alloc(r->arena, n, VM_MAX_CHOICES * sizeof *out->score[s]);
        if (!uniform || !out->score[s]) return vm_api_no_memory();
    }
    for (size_t i = 0; i < n; i++) { /* by the question: the same whatever other questions stand beside it */
        uint32_t counter[4] = {(uint32_t)hashes[i], (uint32_t)(hashes[i] >> 32), 0, 0}, words[4];
        vm_rng_block(r->p->seed, VM_RNG_CONFORMAL, counter, words);
        uniform[i] = (double)words[0] * 0x1p-32;
    }
    vm_conformal_lac(&out->d, out->score[0]);
    vm_conformal_aps(&out->d, uniform, out->score[1]);
    return VMOER_OK;
}

/* The quantile that all items give. */
static vmoer_status quantile_of(const request *r, const scored *s, int kind, double *out) {
    size_t n = s->d.n;
    double *right = vm_arena_alloc(r->arena, n, sizeof *right);
    if (!right) return vm_api_no_memory();
    for (size_t i = 0; i < n; i++) right[i] = s->score[kind][i * (size_t)s->d.stride + (size_t)s->d.label[i]];
    *out = vm_conformal_quantile(right, n, r->p->alpha);
    return VMOER_OK;
}

/* ---- as JSON ---- */

static json_t *sets_to_json(const vm_predictions *d, const vm_sets *sets) {
    int most = 0;
    for (size_t i = 0; i < d->n; i++) most = d->k[i] > most ? d->k[i] : most;
    json_t *sizes = json_array();
    for (int k = 0; k <= most; k++) json_array_append_new(sizes, json_real(sets->sizes[k]));
    return json_pack("{s:f, s:f, s:o}", "coverage", sets->coverage, "size", sets->size, "sizes", sizes);
}

static json_t *law_to_json(size_t n, size_t m, double alpha) {
    vm_coverage_law law = vm_coverage_law_of(n, m, alpha);
    return json_pack("{s:I, s:I, s:{s:f, s:o, s:{s:o}}}", "n_calibration", (json_int_t)n, "n_test", (json_int_t)m,
                     "theory", "coverage", law.mean, "beta", vm_api_interval(law.beta), "ci95", "coverage",
                     vm_api_interval(law.share));
}

static json_t *abstention_to_json(double level, const vm_abstention *a) {
    return json_pack("{s:f, s:o, s:f, s:o}", "accuracy", level, "confidence", vm_api_number(a->confidence), "coverage",
                     a->coverage, "selective_accuracy", vm_api_number(a->accuracy));
}

static vmoer_status halves_to_json(const request *r, const scored *s, json_t **out) {
    size_t n = s->d.n;
    *out = law_to_json(n / 2, n - n / 2, r->p->alpha);
    for (int kind = 0; kind < SCORES; kind++) {
        vm_halves h;
        VM_TRY(vm_conformal_halves(&s->d, s->score[kind], r->p->alpha, r->p->halves, r->p->seed, &h));
        json_t *sets = sets_to_json(&s->d, &h.mean);
        json_object_set_new(sets, "ci95", json_pack("{s:o}", "coverage", vm_api_interval(h.coverage)));
        json_object_set_new(sets, "inside", json_real(h.inside));
        json_object_set_new(*out, score_names[kind], sets);
    }
    return *out ? VMOER_OK : vm_api_no_memory();
}

/* The calibration run's task of the same name, else its only one. */
static vmoer_status calibration_task(const vm_saved_run *run, const char *task, const char **out) {
    *out = task;
    if (json_object_get(run->tasks, task)) return VMOER_OK;
    *out = json_object_iter_key(json_object_iter(run->tasks));
    if (json_object_size(run->tasks) == 1) return VMOER_OK;
    return vm_error(VMOER_ERROR_ARGUMENT, "%s: has no %s, and more tasks than one to calibrate by", run->folder, task);
}

/* Calibrated on the other run and asked of this one: no theory holds where the two are of different kinds. */
static vmoer_status shift_to_json(const request *r, const char *task, const scored *test, json_t **out) {
    const char *from;
    scored calibration;
    VM_TRY(calibration_task(&r->calibration, task, &from));
    VM_TRY(score_task(r, &r->calibration, from, &calibration));
    json_t *abstention = json_array(), *config = json_object_get(r->calibration.results, "config");
    *out = law_to_json(calibration.d.n, test->d.n, r->p->alpha);
    json_object_set_new(*out, "task", json_string(from));
    json_object_set(*out, "split", json_object_get(config, "split"));
    json_object_set(*out, "run", json_object_get(r->calibration.results, "label"));
    json_object_set_new(*out, "abstention", abstention);
    vm_interval expected = vm_coverage_law_of(calibration.d.n, test->d.n, r->p->alpha).share;
    for (int kind = 0; kind < SCORES; kind++) {
        double q;
        VM_TRY(quantile_of(r, &calibration, kind, &q));
        vm_sets sets = vm_conformal_sets(&test->d, test->score[kind], q);
        json_t *value = sets_to_json(&test->d, &sets);
        json_object_set_new(value, "quantile", vm_api_number(q));
        json_object_set_new(value, "inside",
                            json_boolean(sets.coverage >= expected.low && sets.coverage <= expected.high));
        json_object_set_new(*out, score_names[kind], value);
    }
    for (int l = 0; l < r->n_levels; l++) {
        vm_abstention there, here = {NAN, 0, NAN};
        VM_TRY(vm_abstention_find(&calibration.d, r->levels[l], &there));
        if (isfinite(there.confidence)) VM_TRY(vm_abstention_apply(&test->d, there.confidence, &here));
        json_array_append_new(abstention, abstention_to_json(r->levels[l], &here));
    }
    return *out ? VMOER_OK : vm_api_no_memory();
}

/* At most CURVE_POINTS of [coverage, risk], the last at coverage 1. */
static vmoer_status curve_to_json(const request *r, const vm_predictions *d, json_t **out, double *aurc) {
    double *risk = vm_arena_alloc(r->arena, d->n, sizeof *risk);
    if (!risk) return vm_api_no_memory();
    VM_TRY(vm_risk_coverage(d, risk, aurc));
    size_t points = d->n < CURVE_POINTS ? d->n : CURVE_POINTS;
    *out = json_array();
    for (size_t i = 1; i <= points; i++) {
        size_t answered = d->n * i / points;
        json_array_append_new(*out, json_pack("[f, f]", (double)answered / (double)d->n, risk[answered - 1]));
    }
    return VMOER_OK;
}

/* *result is the caller's after an error too. */
static vmoer_status conform(const request *r, const char *task, json_t *result) {
    scored s;
    json_t *value;
    double aurc;
    VM_TRY(score_task(r, &r->run, task, &s));
    VM_TRY(curve_to_json(r, &s.d, &value, &aurc));
    json_object_set_new(result, "risk_coverage", value);
    json_object_set_new(result, "aurc", json_real(aurc));
    json_object_set_new(result, "n", json_integer((json_int_t)s.d.n));

    vmoer_status status = halves_to_json(r, &s, &value);
    json_object_set_new(result, "halves", value);
    VM_TRY_IN(status, "%s: %s", r->run.folder, task);

    json_object_set_new(result, "quantile", value = json_object());
    for (int kind = 0; kind < SCORES; kind++) {
        double q;
        VM_TRY(quantile_of(r, &s, kind, &q));
        json_object_set_new(value, score_names[kind], vm_api_number(q));
    }
    json_object_set_new(result, "abstention", value = json_array());
    for (int l = 0; l < r->n_levels; l++) {
        vm_abstention a;
        VM_TRY(vm_abstention_find(&s.d, r->levels[l], &a));
        json_array_append_new(value, abstention_to_json(r->levels[l], &a));
    }
    value = json_null();
    status = r->calibration.folder ? shift_to_json(r, task, &s, &value) : VMOER_OK;
    json_object_set_new(result, "shift", value);
    return status;
}

/* *all: what results.json holds, also after an error. */
static vmoer_status conform_all(request *r, json_t **all) {
    const vmoer_conformal_params *p = r->p;
    json_t *list;
    const char *task;
    VM_TRY(vm_saved_run_open(p->run, &r->run));
    if (p->calibration_run) VM_TRY(vm_saved_run_open(p->calibration_run, &r->calibration));
    if (p->calibration_run) VM_TRY(vm_saved_runs_same(&r->calibration, &r->run));
    json_t *accuracy = json_array();
    for (int l = 0; l < r->n_levels; l++) json_array_append_new(accuracy, json_real(r->levels[l]));
    *all = json_pack("{s:s, s:s, s:O, s:{s:f, s:I, s:i, s:o}, s:{}}", "vmoer", vmoer_version(), "kind", "conformal",
                     "label", json_object_get(r->run.results, "label"), "config", "alpha", p->alpha, "seed",
                     (json_int_t)p->seed, "halves", p->halves, "accuracy", accuracy, "results");
    if (!*all) return vm_api_no_memory();
    json_t *results = json_object_get(*all, "results");
    json_object_foreach(r->run.tasks, task, list) {
        json_t *result = json_object();
        vm_arena_reset(r->arena);
        vmoer_status status = conform(r, task, result);
        if (json_object_set_new(results, task, result) != 0 && status == VMOER_OK) status = vm_api_no_memory();
        VM_TRY(status);
    }
    return vm_api_save_results(p->output_path, *all);
}

vmoer_status vmoer_conformal(const vmoer_conformal_params *p, const vmoer_hooks *hooks, char **out_json) {
    (void)hooks; /* seconds of work */
    request r = {.p = p};
    json_t *all = NULL;
    if (!p->run) return vm_error(VMOER_ERROR_ARGUMENT, "no folder of an eval run given (--run DIR)");
    if (!(p->alpha > 0 && p->alpha < 1))
        return vm_error(VMOER_ERROR_ARGUMENT, "alpha %g, must be above 0 and below 1", p->alpha);
    if (p->halves < 1) return vm_error(VMOER_ERROR_ARGUMENT, "halves %d, must be at least 1", p->halves);
    VM_TRY(read_levels(p->accuracy, &r));
    if (!(r.arena = vm_arena_create())) return vm_api_no_memory();
    vmoer_status status = conform_all(&r, &all);
    vm_saved_run_close(&r.run);
    vm_saved_run_close(&r.calibration);
    vm_arena_free(r.arena);
    if (status == VMOER_OK) return vm_api_return_json(all, out_json);
    json_decref(all);
    return status;
}
