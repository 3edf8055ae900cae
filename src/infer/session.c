/* session.c: see session.h. */
#include "infer/session.h"

#include "base/file.h"
#include "base/status.h"
#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DRAWS = 32, PASSES = 10 }; /* where nobody says how many */

void vm_session_free(vm_session *s) {
    if (!s) return;
    vm_pass_free(s->pass);
    vm_router_free(s->router);
    vm_tokenizer_free(s->tokenizer);
    vm_model_free(s->model);
    vm_arena_free(s->arena);
    vm_pool_free(s->pool);
    vm_free(s);
}

/* "the adapter 'map' (1f4d9192fafc...)" */
static void adapter_text(const char *name, const char *fingerprint, char out[176]) {
    if (fingerprint[0])
        snprintf(out, 176, "the adapter '%s' (%.12s...)", name, fingerprint);
    else
        snprintf(out, 176, "no adapter");
}

/* Both names stand in the message: whoever reads it must see which two files do not belong together. */
vmoer_status vm_check_router(const char *path, const vm_router *router, const vm_router_file *file,
                             const vm_model *model, const char *adapter_name, const char *adapter_fingerprint) {
    const vm_router_config *r = vm_router_get_config(router);
    const vm_config *c = &model->config;
    if (strcmp(file->base, model->fingerprint) != 0)
        return vm_error(VMOER_ERROR_MISMATCH,
                        "%s: router made for the base model '%s' (%.12s...), this is '%s' (%.12s...)", path,
                        file->base_name, file->base, c->name, model->fingerprint);
    if (strcmp(file->adapter, adapter_fingerprint) != 0) {
        char theirs[176], own[176];
        adapter_text(file->adapter_name, file->adapter, theirs);
        adapter_text(adapter_name, adapter_fingerprint, own);
        return vm_error(VMOER_ERROR_MISMATCH, "%s: router made for %s, here is %s", path, theirs, own);
    }
    for (int i = 0; i < r->n_layers; i++)
        if (!vm_model_routes(c, r->layers[i]) || r->layers[i] >= c->n_layers || r->n_experts != c->n_experts ||
            r->dim != c->dim)
            return vm_error(VMOER_ERROR_MISMATCH,
                            "%s: layer %d, %d experts, dimension %d; the model has routers in layers %d to %d, %d "
                            "experts, dimension %d",
                            path, r->layers[i], r->n_experts, r->dim, c->dense_layers, c->n_layers - 1, c->n_experts,
                            c->dim);
    return VMOER_OK;
}

static vmoer_status open_session(const char *model_path, const vm_session_options *o, vm_session *s) {
    vmoer_status status = VMOER_OK;
    vm_adapter *adapter = NULL;
    s->options = (vm_pass_options){.routing = o->routing, .seed = o->seed};
    s->temperature = 1;
    s->arena = vm_arena_create();
    if (!s->arena) return vm_error(VMOER_ERROR_MEMORY, "no memory for a session");
    VM_TRY(vm_pool_create(o->threads, &s->pool));
    if (o->adapter) VM_TRY(vm_adapter_open(o->adapter, &adapter));
    vm_model_options m = {.compute = o->compute, .adapter = adapter, .backward_from = -1, .check_only = o->check_only};
    VM_GOTO(vm_model_load(model_path, &m, s->pool, &s->model));
    if (adapter) {
        vm_copy_text(s->adapter_name, sizeof s->adapter_name, vm_adapter_name(adapter));
        snprintf(s->adapter_fingerprint, sizeof s->adapter_fingerprint, "%s", vm_adapter_fingerprint(adapter));
    }
    VM_GOTO(vm_tokenizer_open(s->model->file, &s->tokenizer));
    VM_GOTO(vm_pass_create(s->model, s->pool, &s->pass));
    if (o->router) {
        vm_router_file file;
        VM_GOTO(vm_router_load(o->router, &file, &s->router));
        VM_GOTO(vm_check_router(o->router, s->router, &file, s->model, s->adapter_name, s->adapter_fingerprint));
        VM_GOTO(vm_sha256_file(o->router, s->router_fingerprint));
        s->temperature = vm_router_get_config(s->router)->temperature;
        s->options.router = s->router;
        s->options.inference = o->inference >= 0 ? vm_router_inference(s->router, (vm_inference)o->inference)
                                                 : vm_router_default_inference(s->router);
    }
    s->options.samples = o->samples > 0                                       ? o->samples
                         : s->options.inference != VM_INFERENCE_PASSES        ? DRAWS
                         : o->inference >= 0 || !vm_router_chooses(s->router) ? PASSES
                                                                              : 1;
done:
    vm_adapter_free(adapter);
    return status;
}

vmoer_status vm_session_open(const char *model_path, const vm_session_options *options, vm_session **out) {
    vm_session *s = vm_calloc(1, sizeof *s);
    if (!s) return vm_error(VMOER_ERROR_MEMORY, "no memory for a session");
    vmoer_status status = open_session(model_path, options, s);
    if (status != VMOER_OK)
        vm_session_free(s);
    else
        *out = s;
    return status;
}

/* Mean over the question's tokens, then over the layers that have the signal; and the same of the last token alone.
 * values NULL: no layer has it. */
static void pool_signal(const vm_session *s, const vm_questions *q, int question, const float *values, double *mean,
                        double *last) {
    const vm_segment *context = &q->batch.segments[q->root[question]];
    size_t T = (size_t)q->batch.n_tokens;
    int skip = vm_tokenizer_adds_bos(s->tokenizer) && context->length > 1, layers = 0;
    double sum = 0;
    for (int l = 0; values && l < s->model->config.n_layers; l++) {
        const float *row = values + (size_t)l * T + context->start;
        if (isnan(row[context->length - 1])) continue;
        double tokens = 0;
        for (int t = skip; t < context->length; t++) tokens += (double)row[t];
        sum += tokens / (context->length - skip);
        layers++;
    }
    *mean = layers ? sum / layers : NAN;
    *last = vm_facts_at(values, s->model->config.n_layers, q->batch.n_tokens, context->start + context->length - 1);
}

static void fill_answer(const vm_session *s, const vm_questions *q, int question, const vm_choices *choices,
                        vm_answer *a) {
    const vm_segment *context = &q->batch.segments[q->root[question]];
    int first = q->first_choice[question], k = q->first_choice[question + 1] - first;
    *a = (vm_answer){.n_choices = k, .vocabulary_entropy = choices->vocabulary_entropy[question]};
    memcpy(a->score, choices->score + first, (size_t)k * sizeof *a->score);
    memcpy(a->probability, choices->probability + first, (size_t)k * sizeof *a->probability);
    a->choice_entropy = vm_choice_entropy(a->probability, k);
    a->length = context->length - (vm_tokenizer_adds_bos(s->tokenizer) && context->length > 1);
    bool passes = s->options.inference == VM_INFERENCE_PASSES;
    a->total_entropy = passes ? a->choice_entropy : NAN;
    a->expected_entropy = passes ? choices->entropy[question] : NAN;
    a->mutual_information = passes ? vm_choices_information(q, choices, question) : NAN;
    vm_facts facts = {0}; /* of a dense model there are none */
    if (s->model->config.n_experts) facts = vm_pass_facts(s->pass);
    pool_signal(s, q, question, facts.gate_entropy, &a->gate_entropy, &a->gate_entropy_last);
    pool_signal(s, q, question, facts.trace, &a->logit_variance, &a->logit_variance_last);
    pool_signal(s, q, question, facts.trace_projected, &a->logit_variance_projected, &a->logit_variance_projected_last);
    pool_signal(s, q, question, facts.temperature, &a->routing_temperature, &a->routing_temperature_last);
}

vmoer_status vm_session_answer(vm_session *s, const vm_question *questions, int n, vm_format format, vm_answer *out) {
    vm_questions q;
    vm_choices choices;
    vm_pass_options options = s->options;
    options.facts = true;
    vm_arena_reset(s->arena);
    VM_TRY(vm_questions_build(s->arena, questions, n, format, &q));
    VM_TRY(vm_questions_run(s->pass, s->arena, &q, &options, s->temperature, &choices));
    size_t D = (size_t)s->model->config.dim;
    s->hidden = vm_arena_alloc(s->arena, (size_t)n, D * sizeof *s->hidden);
    if (!s->hidden) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d answers", n);
    for (size_t i = 0; i < (size_t)n; i++)
        memcpy(s->hidden + i * D, vm_pass_normed(s->pass) + (size_t)q.batch.entropy_row[i] * D, D * sizeof *s->hidden);
    for (int i = 0; i < n; i++) fill_answer(s, &q, i, &choices, &out[i]);
    return VMOER_OK;
}
