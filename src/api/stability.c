/* stability.c: how much of a router's choices survives noise: several levels of noise, summed up over the layers. */
#include "api/internal.h"

#include "base/file.h"
#include "base/status.h"
#include "eval/jaccard.h"
#include "train/stability.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIGMAS = 16, MAX_LEVELS = 2 * MAX_SIGMAS + 1 };

vmoer_stability_params vmoer_stability_params_default(void) {
    return (vmoer_stability_params){.load = vmoer_model_params_default(),
                                    .questions = {.split = VMOER_SPLIT_HELDOUT, .limit = 64},
                                    .sigmas = ".01,.1"};
}

typedef struct measurement {
    const vmoer_stability_params *p;
    const vmoer_hooks *hooks;
    vm_session *session;
    vm_examples questions;
    vm_noise levels[MAX_LEVELS]; /* each sigma relative, then absolute; then the target's */
    int n_levels;
    double sigma; /* the target's; NAN: not asked, or never reached */
    vm_stability_figures figures;
} measurement;

/* ".01,.1" -> levels. */
static vmoer_status parse_sigmas(const char *text, uint64_t seed, measurement *m) {
    for (const char *at = text;; at++) {
        char *end;
        double sigma = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(sigma > 0 && sigma <= 1e6) || m->n_levels == 2 * MAX_SIGMAS)
            return vm_error(VMOER_ERROR_ARGUMENT, "--sigmas '%s': must be up to %d positive numbers, with commas", text,
                            MAX_SIGMAS);
        for (int relative = 1; relative >= 0; relative--)
            m->levels[m->n_levels++] = (vm_noise){.sigma = sigma, .relative = relative, .seed = seed};
        if (!*end) return VMOER_OK;
        at = end;
    }
}

static vmoer_status check_params(const vmoer_stability_params *p) {
    if (!p->output_path) return vm_error(VMOER_ERROR_ARGUMENT, "no output folder given (--output_path DIR)");
    if (!(p->target >= 0 && p->target < 1))
        return vm_error(VMOER_ERROR_ARGUMENT, "--target %g, must be below 1, or 0 for none", p->target);
    if (p->load.routing != VMOER_ROUTING_LEARNED)
        return vm_error(VMOER_ERROR_ARGUMENT, "the stability of a routing that is not learned is not measured");
    VM_TRY(vm_api_check_label(p->label));
    return vm_api_check_questions(&p->questions);
}

static vmoer_status measure(measurement *m) {
    vm_session *s = m->session;
    if (m->p->target > 0) {
        VM_TRY(vm_stability_sigma(m->questions.n, m->p->load.seed, m->p->target, s->model, s->pool, s->pass,
                                  &m->questions, m->hooks, &m->sigma));
        if (isfinite(m->sigma))
            m->levels[m->n_levels++] = (vm_noise){.sigma = m->sigma, .relative = true, .seed = m->p->load.seed};
    }
    const vm_stability how = {.questions = m->questions.n,
                              .levels = m->levels,
                              .n_levels = m->n_levels,
                              .propagated = true,
                              .alive = s->router != NULL,
                              .answer = s->options};
    return vm_stability_measure(&how, s->model, s->pool, s->pass, &m->questions, m->hooks, &m->figures);
}

/* ---- the result ---- */

/* What is known of a layer at level i; or of several, as means. */
typedef struct row {
    double isolated, shared, propagated, load_entropy, between;
    int layers;
} row;

static void add_layer(const measurement *m, int i, int layer, row *r) {
    const vm_stability_figures *f = &m->figures;
    size_t at = (size_t)i * (size_t)m->session->model->config.n_layers + (size_t)layer;
    r->isolated += f->isolated[at];
    r->shared += f->shared[at];
    r->propagated += f->propagated[at];
    r->load_entropy += f->load_entropy[layer];
    r->between += f->between[layer];
    r->layers++;
}

static json_t *row_to_json(const row *r, double chance) {
    if (r->layers == 0) return json_null();
    double n = r->layers, isolated = r->isolated / n;
    return json_pack("{s:f, s:f, s:o, s:f, s:f, s:f}", "isolated", isolated, "isolated_shared", r->shared / n,
                     "isolated_chance_corrected", vm_api_number(vm_jaccard_corrected(isolated, chance)), "propagated",
                     r->propagated / n, "load_entropy", r->load_entropy / n, "between_tokens", r->between / n);
}

static json_t *level_to_json(const measurement *m, int i, double chance) {
    const vm_router *router = m->session->router;
    row all = {.layers = 0}, bayesian = {.layers = 0};
    json_t *layers = json_array();
    const vm_config *c = &m->session->model->config;
    for (int l = c->dense_layers; l < c->n_layers; l++) {
        row own = {.layers = 0};
        add_layer(m, i, l, &own);
        add_layer(m, i, l, &all);
        if (router && vm_router_has_layer(router, l)) add_layer(m, i, l, &bayesian);
        json_t *layer = row_to_json(&own, chance);
        json_object_set_new(layer, "layer", json_integer(l));
        json_array_append_new(layers, layer);
    }
    return json_pack("{s:f, s:b, s:o, s:o, s:o}", "sigma", m->levels[i].sigma, "relative", m->levels[i].relative,
                     "layers", layers, "mean", row_to_json(&all, chance), "mean_bayesian",
                     row_to_json(&bayesian, chance));
}

/* Is the router alive? Means over its layers. */
static json_t *alive_to_json(const measurement *m) {
    const vm_stability_figures *f = &m->figures;
    const vm_router_config *r = m->session->router ? vm_router_get_config(m->session->router) : NULL;
    double flipped = 0, rate = 0, variation = 0, off_diagonal = 0;
    if (!r || r->n_layers == 0) return json_null();
    for (int i = 0; i < r->n_layers; i++) {
        int32_t l = r->layers[i];
        flipped += f->flip_rate[l] > 0;
        rate += f->flip_rate[l];
        variation += f->scale_variation[l];
        off_diagonal += f->off_diagonal[l];
    }
    return json_pack("{s:f, s:f, s:o, s:o}", "flipped_layers", flipped / r->n_layers, "flip_rate", rate / r->n_layers,
                     "scale_variation", vm_api_number(variation / r->n_layers), "off_diagonal",
                     vm_api_number(off_diagonal / r->n_layers));
}

static json_t *config_of(const measurement *m) {
    const vmoer_stability_params *p = m->p;
    json_t *sigmas = json_array();
    for (int i = 0; i < m->n_levels; i++)
        if (!m->levels[i].relative) json_array_append_new(sigmas, json_real(m->levels[i].sigma));
    json_t *config = json_pack("{s:s, s:s, s:I, s:o, s:f}", "tasks", p->questions.tasks, "split",
                               vm_api_split_name(p->questions.split), "questions", (json_int_t)m->questions.n, "sigmas",
                               sigmas, "target", p->target);
    if (config) vm_api_put_cuts(config, &p->questions);
    if (config) vm_api_put_load(config, m->session, &p->load);
    return config;
}

static vmoer_status result_of(const measurement *m, json_t **out) {
    const vm_config *c = &m->session->model->config;
    double chance = vm_jaccard_chance(c->n_experts, c->top_k);
    json_t *head = vm_api_head("stability", m->session, config_of(m)), *levels = json_array();
    for (int i = 0; i < m->n_levels; i++) json_array_append_new(levels, level_to_json(m, i, chance));
    json_t *results =
        json_pack("{s:o, s:f, s:o, s:o}", "sigmas", levels, "chance", chance, "alive", alive_to_json(m), "sigma_at",
                  m->p->target > 0 ? json_pack("{s:f, s:o}", "jaccard", m->p->target, "sigma", vm_api_number(m->sigma))
                                   : json_null());
    if (head && results && json_object_set_new(head, "results", results) == 0 &&
        json_object_set_new(head, "label", json_string(vm_api_label(m->p->label, m->session))) == 0) {
        *out = head;
        return VMOER_OK;
    }
    json_decref(head);
    return vm_error(VMOER_ERROR_MEMORY, "no memory for the results, or a name in them is not UTF-8");
}

static vmoer_status run(measurement *m, json_t **out) {
    const vmoer_stability_params *p = m->p;
    double start = vm_api_seconds();
    VM_TRY(vm_make_dirs(p->output_path));
    VM_TRY(vm_api_session_open(p->model, &p->load, &m->session));
    VM_TRY(vm_api_examples(&p->questions, "stability", m->session->tokenizer, p->questions.split, &m->questions));
    VM_TRY(measure(m));
    VM_TRY(result_of(m, out));
    return vm_api_write(
        p->output_path, *out,
        json_pack("{s:f, s:i}", "seconds", vm_api_seconds() - start, "threads", vm_pool_threads(m->session->pool)));
}

vmoer_status vmoer_stability(const vmoer_stability_params *p, const vmoer_hooks *hooks, char **out_json) {
    measurement m = {.p = p, .hooks = hooks, .sigma = NAN};
    json_t *result = NULL;
    VM_TRY(check_params(p));
    VM_TRY(parse_sigmas(p->sigmas, p->load.seed, &m));
    vmoer_status status = run(&m, &result);
    vm_stability_figures_free(&m.figures);
    vm_examples_free(&m.questions);
    vm_session_free(m.session);
    if (status == VMOER_OK) return vm_api_return_json(result, out_json);
    json_decref(result);
    return status;
}
