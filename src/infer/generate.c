/* generate.c: see generate.h. */
#include "infer/generate.h"

#include "base/status.h"
#include "base/utf8.h"
#include "io/unicode.h"

#include <math.h>
#include <string.h>

struct vm_generation {
    vm_session *session;
    vm_generation_options options;
    int passes;
    vm_kv_cache **caches; /* [passes] */
    int32_t *ids;         /* [n] the sequence */
    size_t n, capacity;
    float *logits; /* [V] */
    double *mean;  /* [V] of the passes' probabilities; NULL: one pass */
};

void vm_generation_free(vm_generation *g) {
    if (!g) return;
    for (int s = 0; g->caches && s < g->passes; s++) vm_kv_cache_free(g->caches[s]);
    vm_free(g->caches);
    vm_free(g->ids);
    vm_free(g->logits);
    vm_free(g->mean);
    vm_free(g);
}

static vmoer_status create(vm_generation *g) {
    const vm_config *c = &g->session->model->config;
    size_t V = (size_t)c->n_vocab;
    g->caches = vm_calloc((size_t)g->passes, sizeof *g->caches);
    g->logits = vm_malloc(V, sizeof *g->logits);
    g->mean = g->passes > 1 ? vm_malloc(V, sizeof *g->mean) : NULL;
    if (!g->caches || !g->logits || (g->passes > 1 && !g->mean))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a sequence");
    size_t memory = g->options.memory ? 1 + (g->options.memory - 1) / (size_t)g->passes : 0; /* a bound stays one */
    for (int s = 0; s < g->passes; s++)
        VM_TRY(vm_kv_cache_create(c->n_layers, c->n_kv_heads, c->head_dim, g->options.context, memory, &g->caches[s]));
    return VMOER_OK;
}

vmoer_status vm_generation_create(vm_session *s, const vm_generation_options *o, vm_generation **out) {
    int most = s->model->config.context;
    if (o->context < 1 || o->context > most)
        return vm_error(VMOER_ERROR_LIMIT, "a context of %d tokens, the model's is one of %d", o->context, most);
    if (o->batch_size < 1) return vm_error(VMOER_ERROR_ARGUMENT, "batch_size %d, must be 1 or more", o->batch_size);
    vm_generation *g = vm_calloc(1, sizeof *g);
    if (!g) return vm_error(VMOER_ERROR_MEMORY, "no memory for a sequence");
    g->session = s;
    g->options = *o;
    g->passes = vm_passes(&s->options);
    vmoer_status status = create(g);
    if (status != VMOER_OK)
        vm_generation_free(g);
    else
        *out = g;
    return status;
}

vm_generation_options vm_generation_get_options(const vm_generation *g) { return g->options; }

const int32_t *vm_generation_ids(const vm_generation *g, size_t *n) {
    *n = g->n;
    return g->ids;
}

static vmoer_status make_room(vm_generation *g, size_t n) {
    void *grown = g->ids;
    if (n > (size_t)g->options.context)
        return vm_error(VMOER_ERROR_LIMIT, "a sequence of %zu tokens, the context is one of %d", n, g->options.context);
    if (!vm_grow(&grown, &g->capacity, n, sizeof *g->ids))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a sequence of %zu tokens", n);
    g->ids = grown;
    return VMOER_OK;
}

vmoer_status vm_generation_set(vm_generation *g, const int32_t *ids, size_t n, size_t *kept) {
    size_t same = 0;
    VM_TRY(make_room(g, n));
    while (same < n - 1 && same < g->n && g->ids[same] == ids[same]) same++; /* what follows the last token is asked */
    *kept = same;
    for (int s = 0; s < g->passes; s++) {
        g->caches[s]->length = vm_at_most(g->caches[s]->length, (int)same);
        *kept = (size_t)vm_at_most(g->caches[s]->length, (int)*kept);
    }
    memcpy(g->ids, ids, n * sizeof *ids);
    g->n = n;
    return VMOER_OK;
}

vmoer_status vm_generation_add(vm_generation *g, int32_t id) {
    VM_TRY(make_room(g, g->n + 1));
    g->ids[g->n++] = id;
    return VMOER_OK;
}

/* Pass s over the tokens that its cache does not have; g->logits become the last one's. */
static vmoer_status run(vm_generation *g, int s, const vmoer_hooks *hooks) {
    vm_session *session = g->session;
    vm_kv_cache *cache = g->caches[s];
    size_t begun = (size_t)cache->length, new = g->n - begun, most = (size_t)g->options.batch_size;
    while ((size_t)cache->length < g->n) {
        size_t at = (size_t)cache->length, left = g->n - at;
        bool last = left <= most;
        vm_batch batch;
        vm_pass_options options = session->options;
        options.step += (uint64_t)s;
        options.facts = last;
        vm_arena_reset(session->arena);
        VM_TRY(vm_sequence_build(session->arena, g->ids + at, (int)(last ? left : most), (int)at, &batch));
        batch.cache = cache;
        VM_TRY(vm_pass_forward(session->pass, &batch, &options, NULL, NULL, last ? g->logits : NULL));
        if (new > most)
            VM_TRY(vm_progress(hooks, "prompt", (uint64_t)s * new + ((size_t)cache->length - begun),
                               (uint64_t)g->passes * new, NULL));
    }
    return VMOER_OK;
}

/* The value at the last token of the batch just run, as the mean over so many passes grows. */
static void add_signal(const vm_generation *g, const float *values, int tokens, double *mean) {
    *mean += vm_facts_at(values, g->session->model->config.n_layers, tokens, tokens - 1) / g->passes;
}

/* softmax(logits) and its entropy; returns log sum exp. */
static double distribution(const float *logits, size_t n, double *entropy) {
    double most = (double)logits[0], sum = 0, mean = 0;
    for (size_t i = 1; i < n; i++)
        if ((double)logits[i] > most) most = (double)logits[i];
    for (size_t i = 0; i < n; i++) {
        double above = (double)logits[i] - most, p = exp(above);
        sum += p;
        if (p > 0) mean += p * above;
    }
    *entropy = log(sum) - mean / sum;
    return most + log(sum);
}

vmoer_status vm_generation_next(vm_generation *g, const vmoer_hooks *hooks, vm_next *out) {
    size_t V = (size_t)g->session->model->config.n_vocab;
    bool passes = g->session->options.router && g->session->options.inference == VM_INFERENCE_PASSES;
    double expected = 0;
    *out = (vm_next){.logits = g->logits};
    for (int s = 0; s < g->passes; s++) {
        g->caches[s]->length =
            vm_at_most(g->caches[s]->length, (int)g->n - 1); /* asked again, the last one runs again */
        int before = g->caches[s]->length, most = g->options.batch_size;
        VM_TRY(run(g, s, hooks));
        int tokens = ((int)g->n - before - 1) % most + 1; /* of the last pass */
        vm_facts facts = {0};                             /* of a dense model there are none */
        if (g->session->model->config.n_experts) facts = vm_pass_facts(g->session->pass);
        add_signal(g, facts.gate_entropy, tokens, &out->gate_entropy);
        add_signal(g, facts.trace, tokens, &out->logit_variance);
        add_signal(g, facts.trace_projected, tokens, &out->logit_variance_projected);
        add_signal(g, facts.temperature, tokens, &out->routing_temperature);
        out->log_sum_exp = distribution(g->logits, V, &out->entropy);
        if (!isfinite(out->log_sum_exp))
            return vm_error(VMOER_ERROR_NUMERIC, "token %zu: the logits after it are not finite numbers", g->n - 1);
        expected += out->entropy / g->passes;
        for (size_t i = 0; g->mean && i < V; i++)
            g->mean[i] = (s ? g->mean[i] : 0) + exp((double)g->logits[i] - out->log_sum_exp) / g->passes;
    }
    for (size_t i = 0; g->mean && i < V; i++) g->logits[i] = (float)log(g->mean[i]);
    if (g->mean) out->log_sum_exp = distribution(g->logits, V, &out->entropy);
    out->expected_entropy = passes ? expected : NAN;
    out->mutual_information = passes ? fmax(0, out->entropy - expected) : NAN;
    return VMOER_OK;
}

/* ---- text ---- */

void vm_stream_free(vm_stream *t) { vm_free(t->text); }

/* The characters of t->waiting[..] and more[n], in t->text. */
static vmoer_status complete(vm_stream *t, const char *more, size_t n) {
    static const char replacement[] = "\xef\xbf\xbd";
    size_t bytes = t->n_waiting + n, at = 0;
    char *all = vm_malloc(bytes, 1);
    void *grown = t->text;
    bool ok = all && vm_grow(&grown, &t->capacity, 3 * bytes + 1, 1);
    t->text = grown;
    t->length = 0;
    if (!ok) {
        vm_free(all);
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a token's text");
    }
    memcpy(all, t->waiting, t->n_waiting);
    if (n) memcpy(all + t->n_waiting, more, n);
    size_t whole = vm_utf8_cut(all, bytes);
    while (at < whole) {
        uint32_t code;
        size_t from = at;
        if (vm_utf8_next(all, whole, &at, &code)) {
            memcpy(t->text + t->length, all + from, at - from);
            t->length += at - from;
        } else {
            memcpy(t->text + t->length, replacement, sizeof replacement - 1);
            t->length += sizeof replacement - 1;
            at++;
        }
    }
    t->text[t->length] = '\0';
    t->n_waiting = bytes - whole;
    memcpy(t->waiting, all + whole, t->n_waiting);
    vm_free(all);
    return VMOER_OK;
}

vmoer_status vm_stream_add(vm_stream *t, const vm_tokenizer *tokenizer, int32_t id) {
    size_t n = 0; /* a model may have rows for more tokens than there are: those say nothing */
    const char *bytes = vm_tokenizer_bytes(tokenizer, id, &n);
    return complete(t, bytes, vm_tokenizer_is_special(tokenizer, id) ? 0 : n);
}
