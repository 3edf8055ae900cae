/* fit.c: what calibrate fits on the held-out part in place of training, or after it: the one number of a router that
 * has nothing to train, and the output temperature. Every value that was tried stands in the record. */
#include "api/internal.h"

#include "base/progress.h"
#include "base/status.h"
#include "train/log_search.h"

#include <math.h>
#include <stdio.h>

/* Of the number: half decades from .01 to 10, then twice between neighbours: to a factor of 1.33. */
enum { POINTS = 7, ROUNDS = 2 };
static const double lowest = .01, highest = 10;

static vmoer_status add_trial(json_t *trials, const char *name, double value, json_t *heldout) {
    return json_array_append_new(trials, json_pack("{s:f, s:o}", name, value, "heldout", heldout)) == 0
               ? VMOER_OK
               : vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
}

/* ---- the one number ---- */

typedef struct number_fit {
    vm_train_job job; /* predicts with the router at hand */
    vm_router_config config;
    float *number; /* in config */
    const char *name;
    const vmoer_hooks *hooks;
    json_t *trials;
    int most;
} number_fit;

static vmoer_status try_number(void *context, double value, double *nll) {
    number_fit *f = context;
    char note[96];
    json_t *heldout = NULL;
    vm_router *router;
    *f->number = (float)value;
    VM_TRY(vm_router_create(&f->config, &router));
    f->job.predict.router = router;
    vmoer_status status = vm_train_look(&f->job, &heldout);
    vm_router_free(router);
    VM_TRY_IN(status, "%s %g", f->name, value);
    *nll = json_number_value(json_object_get(heldout, "nll"));
    snprintf(note, sizeof note, "%s %.4g: acc %.4f nll %.4f ece %.4f", f->name, value,
             json_number_value(json_object_get(heldout, "acc")), *nll,
             json_number_value(json_object_get(heldout, "ece")));
    vm_log(f->hooks, "held out: %s", note);
    VM_TRY(add_trial(f->trials, f->name, value, heldout));
    return vm_progress(f->hooks, f->job.stage, json_array_size(f->trials), (uint64_t)f->most, note);
}

vm_router_number vm_api_one_number(const vm_router *r) { /* what a kind does not use is 0 */
    return vm_router_get_config(r)->noise > 0 ? VM_ROUTER_NOISE : VM_ROUTER_ROUTE_TEMPERATURE;
}

vmoer_status vm_api_fit_number(const vm_train_job *job, double given, const vmoer_hooks *hooks, vm_router **router,
                               json_t *trials, size_t *best) {
    number_fit f = {.job = *job, .config = *vm_router_get_config(*router), .hooks = hooks, .trials = trials, .most = 1};
    vm_router_number number = vm_api_one_number(*router);
    f.number = number == VM_ROUTER_NOISE ? &f.config.noise : &f.config.route_temperature;
    f.name = vm_router_number_name(number);
    vm_log_search search = {
        .low = lowest, .high = highest, .points = POINTS, .rounds = ROUNDS, .measure = try_number, .context = &f};
    double value = given, nll;
    f.job.predict.samples = VM_API_FIT_PASSES;
    if (given == 0) f.most = vm_log_search_most(&search);
    VM_TRY(given == 0 ? vm_log_search_run(&search, &value) : try_number(&f, given, &nll));
    for (*best = 0; json_number_value(json_object_get(json_array_get(trials, *best), f.name)) != value;) ++*best;
    *f.number = (float)value;
    vm_router_free(*router);
    return vm_router_create(&f.config, router);
}

/* ---- the output temperature ---- */

/* The mean over passes d[passes] of softmax(ln p / temperature), into mean->p. */
static void scaled_mean(const vm_predictions *d, int passes, double temperature, vm_predictions *mean) {
    double score[VM_MAX_CHOICES], p[VM_MAX_CHOICES], *to = (double *)(uintptr_t)mean->p;
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i * (size_t)d->stride;
        for (int c = 0; c < d->k[i]; c++) to[at + (size_t)c] = 0;
        for (int s = 0; s < passes; s++) {
            for (int c = 0; c < d->k[i]; c++) score[c] = log(d[s].p[at + (size_t)c]);
            vm_choice_softmax(score, d->k[i], temperature, p);
            for (int c = 0; c < d->k[i]; c++) to[at + (size_t)c] += p[c] / passes;
        }
    }
}

vmoer_status vm_api_fit_temperature(const vm_train_job *job, vm_router *router, json_t *trials) {
    vm_train_job one = *job;
    vm_predictions d[VM_API_FIT_PASSES] = {{0}}, mean = {0};
    int passes = job->predict.inference == VM_INFERENCE_PASSES ? VM_API_FIT_PASSES : 1;
    double temperature = 1;
    vmoer_status status;
    one.predict.samples = 1;
    if (job->predict.router) one.predict.router = router;
    for (int s = 0; s < passes; s++) {
        one.predict.step = (uint64_t)s;
        VM_GOTO(vm_train_predict(&one, &d[s]));
    }
    mean = d[0];
    if (!(mean.p = vm_calloc(mean.n * (size_t)mean.stride, sizeof *mean.p))) {
        status = vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", mean.n);
        goto done;
    }
    VM_GOTO(vm_temperature_fit(d, passes, &temperature));
    for (int scaled = 0; scaled < 2; scaled++) {
        json_t *heldout;
        double t = scaled ? temperature : 1;
        scaled_mean(d, passes, t, &mean);
        VM_GOTO(vm_train_measure(&mean, &heldout));
        VM_GOTO(add_trial(trials, "temperature", t, heldout));
    }
    vm_router_set_temperature(router, temperature);
done:
    vm_free((void *)(uintptr_t)mean.p);
    for (int s = 0; s < passes; s++) vm_train_predictions_free(&d[s]);
    return status;
}
