/* generate.c: text from a model, token by token. */
#include "api/internal.h"
#include "infer/conversation.h"
#include "infer/sampler.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

vmoer_generate_params vmoer_generate_params_default(void) {
    /* llama.cpp's, but for the seed and the end. */
    return (vmoer_generate_params){.max_tokens = 256,
                                   .batch_size = 512,
                                   .temperature = 0.8,
                                   .top_k = 40,
                                   .top_p = 0.95,
                                   .min_p = 0.05,
                                   .repeat_penalty = 1,
                                   .repeat_last_n = 64};
}

static size_t memory_bound(double gib) {
    double bytes = gib * (1 << 30);
    if (gib == 0) bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 2;
    return bytes >= (double)(SIZE_MAX / 2) ? SIZE_MAX / 2 : bytes < 1 ? 1 : (size_t)bytes;
}

/* The model's generation for these settings; one with others is forgotten. */
static vmoer_status prepare(vmoer_model *m, const vmoer_generate_params *p) {
    vm_generation_options o = {.context = p->context ? p->context : m->session->model->config.context,
                               .batch_size = p->batch_size,
                               .memory = memory_bound(p->memory_gib)};
    if (m->generation) {
        vm_generation_options old = vm_generation_get_options(m->generation);
        if (old.context == o.context && old.batch_size == o.batch_size && old.memory == o.memory) return VMOER_OK;
        vm_generation_free(m->generation);
        m->generation = NULL;
    }
    return vm_generation_create(m->session, &o, &m->generation);
}

static vmoer_status check(const vmoer_generate_params *p) {
    if (p->max_tokens < -1)
        return vm_error(VMOER_ERROR_ARGUMENT, "max_tokens %d, must be 0 or more, or -1: until the context is full",
                        p->max_tokens);
    if (!(p->memory_gib >= 0)) return vm_error(VMOER_ERROR_ARGUMENT, "memory_gib %g, must be 0 or more", p->memory_gib);
    if (!p->prompt == !p->messages) return vm_error(VMOER_ERROR_ARGUMENT, "say either a prompt or messages");
    return VMOER_OK;
}

/* The ids of a conversation that waits for its next message. */
static vmoer_status read_messages(const vmoer_model *m, const char *messages, vm_ids *ids) {
    json_t *list;
    char *text;
    size_t length;
    VM_TRY(vm_json_parse(messages, strlen(messages), "messages", &list));
    vmoer_status status = vm_conversation_check(list);
    if (status != VMOER_OK) vm_error_in(status, "messages");
    if (status == VMOER_OK)
        status =
            vm_conversation_tokens(m->session->model->file, m->session->tokenizer, list, true, &text, &length, ids);
    if (status == VMOER_OK) vm_free(text);
    json_decref(list);
    return status;
}

/* What the text goes on with. */
static vmoer_status begin(vmoer_model *m, const vmoer_generate_params *p, vmoer_generated *out) {
    const vm_tokenizer *t = m->session->tokenizer;
    vm_ids ids = {NULL, 0, 0};
    size_t kept = 0;
    vmoer_status status = VMOER_OK;
    if (p->messages) {
        VM_GOTO(read_messages(m, p->messages, &ids));
    } else {
        VM_GOTO(vm_tokenizer_begin(t, &ids));
        VM_GOTO(vm_tokenizer_encode(t, p->prompt, strlen(p->prompt), p->parse_special, &ids));
    }
    if (ids.count == 0) VM_GOTO(vm_error(VMOER_ERROR_ARGUMENT, "the prompt is empty"));
    VM_GOTO(vm_generation_set(m->generation, ids.ids, ids.count, &kept));
    out->prompt_tokens = (int)ids.count;
    out->kept_tokens = (int)kept;
done:
    vm_ids_free(&ids);
    return status;
}

static vmoer_token describe(const vm_next *next, int32_t id, int position, const vm_stream *text) {
    return (vmoer_token){.id = id,
                         .position = position,
                         .text = text->text,
                         .text_length = text->length,
                         .probability = exp((double)next->logits[id] - next->log_sum_exp),
                         .entropy = next->entropy,
                         .expected_entropy = next->expected_entropy,
                         .mutual_information = next->mutual_information,
                         .gate_entropy = next->gate_entropy,
                         .logit_variance = next->logit_variance,
                         .logit_variance_projected = next->logit_variance_projected,
                         .routing_temperature = next->routing_temperature};
}

/* A token for which the last distribution was asked, and whether any may follow. */
typedef struct generator {
    vmoer_model *m;
    const vmoer_generate_params *p;
    const vmoer_hooks *hooks;
    vm_sampler_options sampler;
    vm_candidate *room; /* [V] */
    vm_stream text;
} generator;

static vmoer_status step(generator *x, vmoer_generated *out, bool *goes_on) {
    const vm_tokenizer *t = x->m->session->tokenizer;
    vm_generation *g = x->m->generation;
    vm_next next;
    size_t n;
    *goes_on = false;
    const int32_t *ids = vm_generation_ids(g, &n);
    if (out->tokens == x->p->max_tokens) return out->stop = VMOER_STOP_LENGTH, VMOER_OK;
    if (n == (size_t)vm_generation_get_options(g).context) return out->stop = VMOER_STOP_CONTEXT, VMOER_OK;
    VM_TRY(vm_generation_next(g, x->hooks, &next));
    int32_t id = vm_sampler_take(&x->sampler, next.logits, x->m->session->model->config.n_vocab, ids, n, x->room);
    if (vm_tokenizer_is_end(t, id)) return out->stop = VMOER_STOP_END, VMOER_OK;
    VM_TRY(vm_stream_add(&x->text, t, id));
    VM_TRY(vm_generation_add(g, id));
    out->tokens++;
    vmoer_token token = describe(&next, id, (int)n, &x->text);
    *goes_on = !x->p->on_token || !x->p->on_token(x->p->user, &token);
    out->stop = VMOER_STOP_ASKED;
    return VMOER_OK;
}

vmoer_status vmoer_generate(vmoer_model *m, const vmoer_generate_params *p, const vmoer_hooks *hooks,
                            vmoer_generated *given) {
    generator x = {.m = m,
                   .p = p,
                   .hooks = hooks,
                   .sampler = {.temperature = p->temperature,
                               .top_k = p->top_k,
                               .top_p = p->top_p,
                               .min_p = p->min_p,
                               .repeat_penalty = p->repeat_penalty,
                               .repeat_last_n = p->repeat_last_n,
                               .seed = p->seed}};
    vmoer_generated out = {0};
    double begun = vm_api_seconds(), drawn = 0;
    VM_TRY(check(p));
    VM_TRY(vm_sampler_check(&x.sampler));
    VM_TRY(prepare(m, p));
    VM_TRY(begin(m, p, &out));
    x.room = vm_malloc((size_t)m->session->model->config.n_vocab, sizeof *x.room);
    vmoer_status status = x.room ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for a vocabulary");
    for (bool goes_on = true; status == VMOER_OK && goes_on;) {
        status = step(&x, &out, &goes_on);
        if (drawn == 0) drawn = vm_api_seconds();
    }
    out.prompt_seconds = drawn - begun;
    out.seconds = vm_api_seconds() - drawn;
    if (given) *given = out;
    vm_free(x.room);
    vm_stream_free(&x.text);
    return status;
}
