/* quick.c: `calibrate --quick`: the widest isotropic noise of the router's logits that leaves the answers alone, by
 * bisection: the rule of Training-Free Bayesianization (arXiv 2412.05723); docs/METHOD.md. */
#include "api/internal.h"

#include "base/memory.h"
#include "base/progress.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>

/* Of at most QUESTIONS held-out questions at most one in TOLERANCE may change its answer. */
enum { QUESTIONS = 500, TOLERANCE = 100, HALVINGS = 9 };
static const double lowest = 1e-3, highest = 10; /* four decades: nine halvings of their logarithm leave 2% */

typedef struct quick {
    vm_train_job job;  /* predicts with the router at hand */
    vm_states *states; /* below the router's lowest layer */
    vm_examples part;  /* its held-out part; the arrays are ours, what the prompts point to the training's */
    vm_router_config config;
    int *answer; /* [part.n] of the deterministic router */
    const vmoer_hooks *hooks;
    json_t *trials;
} quick;

/* Evenly spread: of several tasks each has its share. */
static vmoer_status choose_questions(quick *q) {
    const vm_examples *all = q->job.heldout;
    size_t n = all->n < QUESTIONS ? all->n : QUESTIONS;
    q->part.prompts = vm_calloc(n, sizeof *q->part.prompts);
    q->part.answers = vm_calloc(n, sizeof *q->part.answers);
    q->answer = vm_calloc(n, sizeof *q->answer);
    if (!q->part.prompts || !q->part.answers || !q->answer)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", n);
    q->part.n = n;
    for (size_t i = 0; i < n; i++) {
        q->part.prompts[i] = all->prompts[i * all->n / n];
        q->part.answers[i] = all->answers[i * all->n / n];
    }
    q->job.heldout = &q->part;
    return VMOER_OK;
}

static int answer_of(const vm_predictions *d, size_t i) {
    const double *p = d->p + i * (size_t)d->stride;
    int best = 0;
    for (int c = 1; c < d->k[i]; c++)
        if (p[c] > p[best]) best = c;
    return best;
}

/* The questions that a router with noise sigma answers otherwise than the deterministic one; sigma 0: asks that one. */
static vmoer_status ask(quick *q, double sigma, int *flips) {
    vm_router *router = NULL;
    vm_predictions d;
    json_t *heldout;
    char note[128];
    q->config.noise = (float)sigma;
    if (sigma > 0) VM_TRY(vm_router_create(&q->config, &router));
    q->job.predict.router = router;
    q->job.predict.states = router ? q->states : NULL;
    vmoer_status status = vm_train_predict(&q->job, &d);
    vm_router_free(router);
    VM_TRY_IN(status, "noise %g", sigma);
    *flips = 0;
    for (size_t i = 0; i < d.n; i++) {
        int answer = answer_of(&d, i);
        if (sigma == 0) q->answer[i] = answer;
        *flips += answer != q->answer[i];
    }
    status = vm_train_measure(&d, &heldout);
    vm_train_predictions_free(&d);
    VM_TRY(status);
    snprintf(note, sizeof note, "noise %.4g: %d of %zu answers change, nll %.4f ece %.4f", sigma, *flips, q->part.n,
             json_number_value(json_object_get(heldout, "nll")), json_number_value(json_object_get(heldout, "ece")));
    if (json_array_append_new(q->trials,
                              json_pack("{s:f, s:i, s:o}", "noise", sigma, "flips", *flips, "heldout", heldout)) != 0)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    vm_log(q->hooks, "held out: %s", note);
    return vm_progress(q->hooks, q->job.stage, json_array_size(q->trials), HALVINGS + 3, note);
}

/* *best: the trial of the largest sigma with few enough flips; where none has, that of `lowest`. */
static vmoer_status bisect(quick *q, size_t *best) {
    int flips, most = (int)(q->part.n / TOLERANCE);
    double low = log(lowest), high = log(highest);
    VM_TRY(ask(q, 0, &flips));
    VM_TRY(ask(q, highest, &flips));
    *best = flips <= most;
    for (int i = 0; i < HALVINGS && *best != 1; i++) {
        double middle = (low + high) / 2;
        VM_TRY(ask(q, exp(middle), &flips));
        if (flips <= most) {
            low = middle;
            *best = json_array_size(q->trials) - 1;
        } else {
            high = middle;
        }
    }
    if (*best) return VMOER_OK;
    *best = json_array_size(q->trials);
    VM_TRY(ask(q, lowest, &flips));
    if (flips > most) vm_log(q->hooks, "even noise %g changes more than 1%% of the answers: it stays at that", lowest);
    return VMOER_OK;
}

vmoer_status vm_api_fit_quick(const vm_train_job *job, const vmoer_hooks *hooks, vm_router **router, json_t *trials,
                              size_t *best) {
    quick q = {.job = *job,
               .states = job->predict.states,
               .config = *vm_router_get_config(*router),
               .hooks = hooks,
               .trials = trials};
    q.job.predict.samples = 1; /* one pass, with the same draws at every sigma */
    vmoer_status status = choose_questions(&q);
    if (status == VMOER_OK) status = bisect(&q, best);
    if (status == VMOER_OK) {
        q.config.noise = (float)json_number_value(json_object_get(json_array_get(trials, *best), "noise"));
        vm_router_free(*router);
        status = vm_router_create(&q.config, router);
    }
    vm_free(q.part.prompts);
    vm_free(q.part.answers);
    vm_free(q.answer);
    return status;
}
