/* pass.c: see pass.h. A layer's forward is written once and used by inference, by training and by recomputation. */
#include "model/pass_internal.h"

#include "base/status.h"
#include "model/qk_norm.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TOKENS_A_TASK = 16 };

void vm_pass_free(vm_pass *p) {
    if (!p) return;
    for (int l = 0; p->kept && l < p->m->config.n_layers; l++) vm_arena_free(p->kept[l]);
    vm_arena_free(p->step);
    vm_arena_free(p->scratch);
    vm_arena_free(p->shared);
    vm_free(p->kept);
    vm_free(p->acts);
    vm_free(p->x);
    vm_free(p);
}

vmoer_status vm_pass_create(vm_model *m, vm_pool *pool, vm_pass **out) {
    vm_pass *p = vm_calloc(1, sizeof *p);
    if (!p) return vm_error(VMOER_ERROR_MEMORY, "no memory for a pass");
    size_t L = (size_t)m->config.n_layers;
    p->m = m;
    p->pool = pool;
    p->step = vm_arena_create();
    p->scratch = vm_arena_create();
    p->shared = vm_arena_create();
    p->kept = vm_calloc(L, sizeof *p->kept);
    p->acts = vm_calloc(L, sizeof *p->acts);
    p->x = vm_calloc(L + 1, sizeof *p->x);
    bool ok = p->step && p->scratch && p->shared && p->kept && p->acts && p->x;
    for (size_t l = 0; ok && l < L; l++) ok = (p->kept[l] = vm_arena_create()) != NULL;
    if (!ok) {
        vm_pass_free(p);
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a pass");
    }
    *out = p;
    return VMOER_OK;
}

vmoer_status vm_pass_no_memory(const vm_pass *p) {
    return vm_error(VMOER_ERROR_MEMORY, "no memory for a pass of %d tokens", p->batch->n_tokens);
}

/* ---- element-wise parts over tokens ---- */

typedef struct token_job {
    vm_pass *p;
    const float *x, *y, *w, *dy, *inv;
    const int32_t *index; /* of x's rows; NULL: as they stand */
    float *out, *inv_out;
    float scale;
    int width;
} token_job;

static void norm_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    token_job *j = context;
    size_t d = (size_t)j->width;
    for (size_t t = begin; t < end; t++)
        j->inv_out[t] = vm_kernels_get()->rmsnorm(j->x + (j->index ? (size_t)j->index[t] : t) * d, j->w,
                                                  j->p->m->config.rms_eps, j->out + t * d, j->width);
}

void vm_pass_norm(vm_pass *p, const float *x, const int32_t *index, const vm_param *w, int rows, float *out,
                  float *inv) {
    token_job j = {
        .p = p, .x = x, .index = index, .w = w->value, .out = out, .inv_out = inv, .width = p->m->config.dim};
    vm_pool_run_range(p->pool, (size_t)rows, TOKENS_A_TASK, norm_rows, &j);
}

static void norm_backward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    token_job *j = context;
    size_t d = (size_t)j->width;
    for (size_t t = begin; t < end; t++)
        vm_kernels_get()->rmsnorm_backward(j->x + t * d, j->w, j->inv[t], j->dy + t * d, j->out + t * d, NULL,
                                           j->width);
}

/* dx[rows, D] += ; the norm's own gradient, where trained, is a sum over tokens in order. */
static void norm_backward(vm_pass *p, const float *x, vm_param *w, const float *inv, const float *dy, int rows,
                          float *dx) {
    size_t d = (size_t)p->m->config.dim;
    if (w->grad) {
        for (size_t t = 0; t < (size_t)rows; t++)
            vm_kernels_get()->rmsnorm_backward(x + t * d, w->value, inv[t], dy + t * d, dx + t * d, w->grad, (int)d);
        return;
    }
    token_job j = {.p = p, .x = x, .w = w->value, .inv = inv, .dy = dy, .out = dx, .width = (int)d};
    vm_pool_run_range(p->pool, (size_t)rows, TOKENS_A_TASK, norm_backward_rows, &j);
}

/* Rotates q and k of each token by its position; scale -1: back. */
static void rope_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    token_job *j = context;
    const vm_config *c = &j->p->m->config;
    size_t ld = (size_t)((c->n_heads + 2 * c->n_kv_heads) * c->head_dim), half = (size_t)c->head_dim / 2;
    for (size_t t = begin; t < end; t++) {
        const float *cosine = j->p->m->rope_cos + (size_t)j->p->batch->positions[t] * half,
                    *sine = j->p->m->rope_sin + (size_t)j->p->batch->positions[t] * half;
        for (int h = 0; h < c->n_heads + c->n_kv_heads; h++)
            vm_kernels_get()->rope(j->out + t * ld + (size_t)(h * c->head_dim), cosine, sine, (int)half, j->scale);
    }
}

static void rope(vm_pass *p, float *qkv, float sign) {
    token_job j = {.p = p, .out = qkv, .scale = sign};
    vm_pool_run_range(p->pool, (size_t)p->batch->n_tokens, TOKENS_A_TASK, rope_rows, &j);
}

/* out = x + scale * y */
static void add_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    token_job *j = context;
    size_t d = (size_t)j->width;
    for (size_t i = begin * d; i < end * d; i++) j->out[i] = j->x[i] + j->scale * j->y[i];
}

static void add(vm_pass *p, const float *x, float scale, const float *y, float *out) {
    token_job j = {.p = p, .x = x, .y = y, .out = out, .scale = scale, .width = p->m->config.dim};
    vm_pool_run_range(p->pool, (size_t)p->batch->n_tokens, TOKENS_A_TASK, add_rows, &j);
}

/* ---- one layer ---- */

static vm_attention attention_of(const vm_pass *p, int layer) {
    const vm_config *c = &p->m->config;
    return (vm_attention){.n_heads = c->n_heads,
                          .n_kv_heads = c->n_kv_heads,
                          .head_dim = c->head_dim,
                          .scale = c->attention_scale,
                          .window = vm_model_window(c, layer),
                          .sinks = p->m->layers[layer].sinks.value,
                          .n_segments = p->batch->n_segments,
                          .segments = p->batch->segments};
}

/* q NULL: the model has none. */
static vm_qk_norm qk_norm_of(const vm_pass *p, int layer) {
    const vm_config *c = &p->m->config;
    vm_layer *l = &p->m->layers[layer];
    return (vm_qk_norm){.n_heads = c->n_heads,
                        .n_kv_heads = c->n_kv_heads,
                        .head_dim = c->head_dim,
                        .whole = c->arch->qk_norm == VM_QK_NORM_WHOLE,
                        .eps = c->rms_eps,
                        .q = l->q_norm.value ? &l->q_norm : NULL,
                        .k = &l->k_norm};
}

static vm_ffn_route route_of(const vm_pass *p, int layer) {
    const vm_pass_options *o = &p->options;
    bool bayesian = o->router && vm_router_has_layer(o->router, layer);
    return (vm_ffn_route){.routing = o->routing,
                          .router = bayesian ? o->router : NULL,
                          .training = o->training && layer >= p->lowest, /* below, backward finds nothing to do */
                          .inference = o->inference,
                          .samples = o->samples,
                          .signals = o->facts,
                          .noise = o->noise,
                          .layer = layer,
                          .tokens = p->batch->keys,
                          .seed = o->seed,
                          .step = o->step,
                          .sign = o->sign};
}

/* x[T, D] -> h[T, D], the residual stream between the halves; fills a from `arena`. */
static vmoer_status attention_forward(vm_pass *p, int layer, const float *x, vm_arena *arena, layer_acts *a, float *h) {
    const vm_config *c = &p->m->config;
    const vm_layer *l = &p->m->layers[layer];
    int T = p->batch->n_tokens;
    size_t t = (size_t)T, d = (size_t)c->dim, q = (size_t)(c->n_heads * c->head_dim),
           width = q + 2 * (size_t)(c->n_kv_heads * c->head_dim);
    bool ok = true;
    a->n1 = vm_arena_floats(arena, t, d, &ok), a->inv1 = vm_arena_floats(arena, t, 1, &ok);
    a->qkv = vm_arena_floats(arena, t, width, &ok);
    a->attended = vm_arena_floats(arena, t, q, &ok);
    vm_qk_norm norm = qk_norm_of(p, layer);
    if (norm.q) {
        a->qk = vm_arena_floats(arena, t, (q + width) / 2, &ok);
        a->inv_qk = vm_arena_floats(arena, t, (size_t)vm_qk_norm_count(&norm), &ok);
    }
    a->t_qkv = vm_arena_floats(arena, t, (size_t)vm_linear_rank(&l->qkv), &ok);
    a->t_out = vm_arena_floats(arena, t, (size_t)vm_linear_rank(&l->attention_out), &ok);
    float *y = vm_arena_floats(p->scratch, t, d, &ok);
    if (!ok) return vm_pass_no_memory(p);

    vm_pass_norm(p, x, NULL, &l->attention_norm, T, a->n1, a->inv1);
    vm_linear_call qkv = {.l = &l->qkv, .m = T, .x = a->n1, .ldx = d, .y = a->qkv, .ldy = width, .t = a->t_qkv};
    VM_TRY(vm_linear_forward(p->pool, p->scratch, &qkv, 1));
    if (norm.q) vm_qk_norm_forward(&norm, p->pool, T, a->qkv, a->qk, a->inv_qk);
    rope(p, a->qkv, 1.0f);
    vm_attention attention = attention_of(p, layer);
    vm_past past;
    if (p->batch->cache) {
        const float *k = a->qkv + q, *v = k + c->n_kv_heads * c->head_dim;
        vm_kv_cache_put(p->batch->cache, p->pool, layer, T, k, v, width);
        past = vm_kv_cache_past(p->batch->cache, layer);
        attention.past = &past;
    }
    VM_TRY(vm_attention_forward(&attention, p->pool, p->scratch, a->qkv, a->attended));
    vm_linear_call project = {
        .l = &l->attention_out, .m = T, .x = a->attended, .ldx = q, .y = y, .ldy = d, .t = a->t_out};
    VM_TRY(vm_linear_forward(p->pool, p->scratch, &project, 1));
    add(p, x, c->residual_scale, y, h);
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

/* h[T, D] -> out[T, D]; fills a from `arena`. */
static vmoer_status ffn_forward(vm_pass *p, int layer, const float *h, vm_arena *arena, layer_acts *a, float *out) {
    const vm_config *c = &p->m->config;
    const vm_layer *l = &p->m->layers[layer];
    int T = p->batch->n_tokens;
    size_t t = (size_t)T, d = (size_t)c->dim;
    bool ok = true;
    a->h = h;
    a->n2 = vm_arena_floats(arena, t, d, &ok), a->inv2 = vm_arena_floats(arena, t, 1, &ok);
    float *y = vm_arena_floats(p->scratch, t, d, &ok);
    if (!ok) return vm_pass_no_memory(p);

    vm_pass_norm(p, h, NULL, &l->ffn_norm, T, a->n2, a->inv2);
    vm_ffn_route route = route_of(p, layer);
    VM_TRY(vm_ffn_forward(&l->ffn, p->pool, arena, p->scratch, T, a->n2, &route, &a->ffn, y));
    add(p, h, c->residual_scale, y, out);
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

/* x[layer] -> out[T, D]; fills a from `arena`, anew. */
static vmoer_status layer_forward(vm_pass *p, int layer, vm_arena *arena, layer_acts *a, float *out) {
    const float *h = p->x[layer];
    *a = (layer_acts){.filled = true};
    vm_arena_reset(arena);
    if (layer != p->lowest || !p->half) {
        bool ok = true;
        float *between = vm_arena_floats(arena, (size_t)p->batch->n_tokens, (size_t)p->m->config.dim, &ok);
        if (!ok) return vm_pass_no_memory(p);
        VM_TRY(attention_forward(p, layer, p->x[layer], arena, a, between));
        h = between;
    }
    return ffn_forward(p, layer, h, arena, a, out);
}

static bool attention_trained(const vm_layer *l) {
    return vm_linear_trainable(&l->qkv) || vm_linear_trainable(&l->attention_out) || l->attention_norm.grad ||
           l->ffn_norm.grad;
}

static void scale_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    token_job *j = context;
    size_t d = (size_t)j->width;
    for (size_t i = begin * d; i < end * d; i++) j->out[i] = j->scale * j->x[i];
}

/* residual_scale * dx[T, D], in `room` unless the scale is 1. */
static const float *times_residual_scale(vm_pass *p, const float *dx, float *room) {
    const vm_config *c = &p->m->config;
    if (c->residual_scale == 1.0f) return dx;
    token_job j = {.p = p, .x = dx, .out = room, .scale = c->residual_scale, .width = c->dim};
    vm_pool_run_range(p->pool, (size_t)p->batch->n_tokens, TOKENS_A_TASK, scale_rows, &j);
    return room;
}

/* dx[T, D]: gradient of the residual stream after the layer, turned into the one before it. input: the lower one is
 * wanted at all. */
static vmoer_status layer_backward(vm_pass *p, int layer, layer_acts *a, float kl_weight, bool input, float *dx) {
    const vm_config *c = &p->m->config;
    vm_layer *l = &p->m->layers[layer];
    const float *x = p->x[layer];
    int T = p->batch->n_tokens;
    size_t t = (size_t)T, d = (size_t)c->dim, q = (size_t)(c->n_heads * c->head_dim),
           width = q + 2 * (size_t)(c->n_kv_heads * c->head_dim);
    bool ok = true;
    float *room = c->residual_scale == 1.0f ? NULL : vm_arena_floats(p->scratch, t, d, &ok),
          *dn = vm_arena_floats(p->scratch, t, d, &ok);
    if (!ok) return vm_pass_no_memory(p);
    const float *dy = times_residual_scale(p, dx, room);
    vm_ffn_route route = route_of(p, layer);
    bool attention = input || attention_trained(l);
    VM_TRY(vm_ffn_backward(&l->ffn, p->pool, p->scratch, T, &route, &a->ffn, dy, kl_weight, attention ? dn : NULL));
    if (attention) {
        vm_qk_norm norm = qk_norm_of(p, layer);
        float *dattended = vm_arena_floats(p->scratch, t, q, &ok), *dqkv = vm_arena_floats(p->scratch, t, width, &ok),
              *room_qk = norm.q ? vm_arena_floats(p->scratch, t, (q + width) / 2, &ok) : NULL;
        if (!ok) return vm_pass_no_memory(p);
        norm_backward(p, a->h, &l->ffn_norm, a->inv2, dn, T, dx);
        dy = times_residual_scale(p, dx, room);
        vm_linear_call project = {.l = &l->attention_out,
                                  .m = T,
                                  .x = a->attended,
                                  .ldx = q,
                                  .dy = dy,
                                  .ldy = d,
                                  .t = a->t_out,
                                  .dx = dattended,
                                  .lddx = q};
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &project, 1));
        vm_attention heads = attention_of(p, layer);
        VM_TRY(vm_attention_backward(&heads, p->pool, p->scratch, a->qkv, dattended, dqkv, l->sinks.grad));
        rope(p, dqkv, -1.0f);
        if (norm.q) vm_qk_norm_backward(&norm, p->pool, T, a->qk, a->inv_qk, dqkv, room_qk);
        bool norm_wanted = input || l->attention_norm.grad;
        vm_linear_call qkv = {.l = &l->qkv,
                              .m = T,
                              .x = a->n1,
                              .ldx = d,
                              .dy = dqkv,
                              .ldy = width,
                              .t = a->t_qkv,
                              .dx = norm_wanted ? dn : NULL,
                              .lddx = d};
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &qkv, 1));
        if (norm_wanted) norm_backward(p, x, &l->attention_norm, a->inv1, dn, T, dx);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

/* ---- facts for people ---- */

static vmoer_status facts_alloc(vm_pass *p) {
    const vm_config *c = &p->m->config;
    size_t L = (size_t)c->n_layers, T = (size_t)p->batch->n_tokens;
    bool ok = true;
    p->gate_entropy = vm_arena_floats(p->step, L, T, &ok);
    p->trace = vm_arena_floats(p->step, L, T, &ok);
    p->trace_projected = vm_arena_floats(p->step, L, T, &ok);
    p->temperature = vm_arena_floats(p->step, L, T, &ok);
    p->spread = vm_arena_floats(p->step, L, T, &ok);
    p->margin = vm_arena_floats(p->step, L, T, &ok);
    p->chosen = vm_arena_alloc(p->step, L * T * (size_t)c->top_k + 1, sizeof *p->chosen);
    return ok && p->chosen ? VMOER_OK : vm_pass_no_memory(p);
}

/* One more pass's value into the mean over passes. */
static void record(const vm_pass *p, float *fact, float value) {
    *fact = p->passes ? *fact + (value - *fact) / (float)(p->passes + 1) : value;
}

/* A layer without a router. */
static void record_nothing(vm_pass *p, int layer) {
    float *const facts[] = {p->gate_entropy, p->trace, p->trace_projected, p->temperature, p->spread, p->margin};
    size_t T = (size_t)p->batch->n_tokens, K = (size_t)p->m->config.top_k, base = (size_t)layer * T;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        for (size_t t = 0; t < T; t++) facts[i][base + t] = NAN;
    for (size_t i = 0; i < T * K; i++) p->chosen[base * K + i] = -1;
}

static void record_facts(vm_pass *p, int layer, const vm_ffn_acts *a) {
    if (!vm_model_routes(&p->m->config, layer)) return record_nothing(p, layer);
    const vm_config *c = &p->m->config;
    size_t T = (size_t)p->batch->n_tokens, N = (size_t)c->n_experts, K = (size_t)c->top_k, base = (size_t)layer * T;
    bool bayesian = p->options.router && vm_router_has_layer(p->options.router, layer);
    bool varies = bayesian && a->trace && vm_router_has_trace(p->options.router, p->options.inference);
    memcpy(p->chosen + base * K, a->chosen, T * K * sizeof *p->chosen);
    for (size_t t = 0; t < T; t++) {
        const float *prob = a->p + t * N, *l = a->logits + t * N;
        double entropy = 0, mean = 0, square = 0;
        float kth = prob[a->chosen[t * K + K - 1]], next = -1;
        for (size_t e = 0; e < N; e++) {
            if (prob[e] > 0) entropy -= (double)prob[e] * log((double)prob[e]);
            mean += (double)l[e] / (double)N;
            bool taken = false;
            for (size_t k = 0; k < K; k++) taken |= a->chosen[t * K + k] == (int32_t)e;
            if (!taken && prob[e] > next) next = prob[e];
        }
        for (size_t e = 0; e < N; e++) square += ((double)l[e] - mean) * ((double)l[e] - mean) / (double)N;
        record(p, &p->gate_entropy[base + t], (float)entropy);
        record(p, &p->spread[base + t], (float)sqrt(square));
        record(p, &p->margin[base + t], next < 0 ? 0 : kth - next);
        record(p, &p->trace[base + t], varies ? a->trace[t] : NAN);
        record(p, &p->trace_projected[base + t], varies ? a->trace_projected[t] : NAN);
        record(p, &p->temperature[base + t], a->temperature ? a->temperature[t] : NAN);
    }
}

vm_facts vm_pass_facts(const vm_pass *p) {
    return (vm_facts){.gate_entropy = p->gate_entropy,
                      .trace = p->trace,
                      .trace_projected = p->trace_projected,
                      .temperature = p->temperature,
                      .spread = p->spread,
                      .margin = p->margin,
                      .chosen = p->chosen};
}

double vm_facts_at(const float *values, int n_layers, int n_tokens, int token) {
    double sum = 0;
    int layers = 0;
    for (int l = 0; values && l < n_layers; l++) {
        float value = values[(size_t)l * (size_t)n_tokens + (size_t)token];
        if (isnan(value)) continue;
        sum += (double)value;
        layers++;
    }
    return layers ? sum / layers : NAN;
}

/* ---- the pass ---- */

int vm_passes(const vm_pass_options *o) {
    bool draws =
        o->inference == VM_INFERENCE_PASSES && o->router && vm_router_default_inference(o->router) != VM_INFERENCE_MEAN;
    return draws ? o->samples : 1;
}

static vmoer_status check_batch(const vm_pass *p, const vm_batch *b) {
    const vm_pass *teacher = p->options.teacher;
    if (teacher && (teacher->m->config.n_vocab != p->m->config.n_vocab || teacher->copy.n_rows != b->n_rows))
        return vm_error(VMOER_ERROR_ARGUMENT, "the teacher has %d tokens and %d rows, the model %d and %d",
                        teacher->m->config.n_vocab, teacher->copy.n_rows, p->m->config.n_vocab, b->n_rows);
    int next = 0;
    for (int s = 0; s < b->n_segments; s++) {
        const vm_segment *g = &b->segments[s];
        bool parent_ok = g->parent < 0 || (g->parent < s && b->segments[g->parent].parent < 0);
        for (int r = g->parent + 1; parent_ok && g->parent >= 0 && r < s; r++)
            parent_ok = b->segments[r].parent == g->parent;
        if (g->start != next || g->length < 1 || !parent_ok)
            return vm_error(VMOER_ERROR_ARGUMENT, "segment %d does not follow the one before it", s);
        next += g->length;
    }
    if (next != b->n_tokens || b->n_tokens < 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "segments cover %d of %d tokens", next, b->n_tokens);
    for (int t = 0; t < b->n_tokens; t++)
        if (b->positions[t] < 0 || b->positions[t] >= p->m->config.context)
            return vm_error(VMOER_ERROR_LIMIT, "position %d is beyond the context of %d tokens", b->positions[t],
                            p->m->config.context);
    for (int r = 0; r < b->n_rows; r++)
        if (b->rows[r] < 0 || b->rows[r] >= b->n_tokens)
            return vm_error(VMOER_ERROR_ARGUMENT, "row %d: token %d of %d", r, b->rows[r], b->n_tokens);
    for (int i = 0; i < b->n_targets; i++) {
        if (b->target_row[i] < (i ? b->target_row[i - 1] : 0) || b->target_row[i] >= b->n_rows)
            return vm_error(VMOER_ERROR_ARGUMENT, "target %d: row %d of %d, or before the last target's", i,
                            b->target_row[i], b->n_rows);
        /* A tokenizer may know more tokens than the model has rows. */
        if (b->target_id[i] < 0 || b->target_id[i] >= p->m->config.n_vocab)
            return vm_error(VMOER_ERROR_ARGUMENT, "token %d is outside the vocabulary of %d", b->target_id[i],
                            p->m->config.n_vocab);
    }
    return VMOER_OK;
}

/* That the batch continues the sequence in its cache, and that this is a pass which can; room for its tokens. */
static vmoer_status prepare_cache(const vm_pass *p, const vm_batch *b) {
    const vm_config *c = &p->m->config;
    const vm_pass_options *o = &p->options;
    vm_kv_cache *cache = b->cache;
    if (cache->n_layers != c->n_layers || cache->n_kv_heads != c->n_kv_heads || cache->head_dim != c->head_dim)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "a cache of %d layers, %d heads of %d; the model has %d layers, %d heads of %d",
                        cache->n_layers, cache->n_kv_heads, cache->head_dim, c->n_layers, c->n_kv_heads, c->head_dim);
    if (b->n_segments != 1 || o->training || o->states)
        return vm_error(VMOER_ERROR_ARGUMENT, "a sequence is continued by one segment, and not in training");
    for (int t = 0; t < b->n_tokens; t++)
        if (b->positions[t] != cache->length + t)
            return vm_error(VMOER_ERROR_ARGUMENT, "token %d has position %d after %d cached tokens", t, b->positions[t],
                            cache->length);
    return vm_kv_cache_reserve(cache, cache->length + b->n_tokens);
}

static vmoer_status check_entropies(const vm_batch *b) {
    for (int i = 0; i < b->n_entropies; i++)
        if (b->entropy_row[i] < (i ? b->entropy_row[i - 1] : 0) || b->entropy_row[i] >= b->n_rows)
            return vm_error(VMOER_ERROR_ARGUMENT, "entropy %d: row %d of %d, or before the last one's", i,
                            b->entropy_row[i], b->n_rows);
    return VMOER_OK;
}

static vmoer_status embed(vm_pass *p, float *x) {
    size_t d = (size_t)p->m->config.dim;
    for (size_t t = 0; t < (size_t)p->batch->n_tokens; t++) {
        VM_TRY(vm_model_embed(p->m, p->batch->ids[t], x + t * d));
        if (p->m->config.embedding_scale != 1.0f)
            for (size_t i = 0; i < d; i++) x[t * d + i] *= p->m->config.embedding_scale;
    }
    return VMOER_OK;
}

int vm_pass_lowest_trained(const vm_model *m, const vm_router *router) {
    int lowest = m->first_trained;
    for (int l = 0; router && l < lowest; l++)
        if (vm_router_has_layer(router, l)) lowest = l;
    return lowest;
}

/* By draws of its own for every pass over the batch. */
static bool draws_passes(const vm_pass_options *o) { return !o->training && o->inference == VM_INFERENCE_PASSES; }

/* Where the pass divides: see lowest and half. */
static vmoer_status divide(vm_pass *p) {
    const vm_pass_options *o = &p->options;
    int n = p->m->config.n_layers;
    p->lowest = o->training || o->states || draws_passes(o) ? vm_pass_lowest_trained(p->m, p->options.router) : n;
    p->half = p->lowest < n && !p->m->embedding_param && !attention_trained(&p->m->layers[p->lowest]);
    if (o->training && p->lowest == n) return vm_error(VMOER_ERROR_ARGUMENT, "a training pass, but nothing is trained");
    if (o->training && p->lowest < p->m->backward_from)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "layer %d is trained, but the model was loaded for gradients from layer %d on", p->lowest,
                        p->m->backward_from);
    if (o->noise.sigma != 0 && (o->training || o->states))
        return vm_error(VMOER_ERROR_ARGUMENT, "noise on the routers' inputs in a pass that trains or begins half-way");
    if (o->states && (!p->half || p->lowest != vm_states_layer(o->states) || o->routing != VM_ROUTING_LEARNED ||
                      o->facts || o->capture))
        return vm_error(VMOER_ERROR_ARGUMENT, "states of layer %d, which this pass cannot begin at",
                        vm_states_layer(o->states));
    return VMOER_OK;
}

/* What the rest of the pass and its caller take from a layer just run. */
static void observe(vm_pass *p, int layer) {
    const vm_pass_options *o = &p->options;
    const layer_acts *a = &p->acts[layer];
    for (size_t t = 0; a->ffn.kl && t < (size_t)p->batch->n_tokens; t++) p->kl += (double)a->ffn.kl[t];
    if (o->facts && p->m->config.n_experts) record_facts(p, layer, &a->ffn);
    if (o->capture) o->capture(o->capture_context, layer, p->batch->n_tokens, a->n2);
}

/* out[T, D]: what enters the lowest layer, or its feed-forward half. Of the activations nothing stays. */
static vmoer_status run_below(vm_pass *p, float *out) {
    bool ok = true;
    float *turns[2] = {out, vm_arena_floats(p->step, (size_t)p->batch->n_tokens, (size_t)p->m->config.dim, &ok)};
    if (!ok) return vm_pass_no_memory(p);
    int left = p->lowest + p->half;
    VM_TRY(embed(p, turns[left & 1]));
    for (int l = 0; left > 0; l++, left--) {
        layer_acts *a = &p->acts[l];
        p->x[l] = turns[left & 1];
        float *next = turns[(left - 1) & 1];
        if (l == p->lowest) {
            vm_arena_reset(p->shared);
            VM_TRY_IN(attention_forward(p, l, p->x[l], p->shared, a, next), "layer %d", l);
        } else {
            VM_TRY_IN(layer_forward(p, l, p->shared, a, next), "layer %d", l);
            observe(p, l);
        }
        a->filled = false;
    }
    return VMOER_OK;
}

/* The same, with the questions whose states are there taken from them, and the others' put there. */
static vmoer_status take_below(vm_pass *p, float *out) {
    vm_states *states = p->options.states;
    const vm_batch *b = &p->copy;
    size_t T = (size_t)b->n_tokens, d = (size_t)p->m->config.dim, S = (size_t)b->n_segments;
    bool ok = true;
    int32_t *ids = vm_arena_alloc(p->step, T, sizeof *ids), *positions = vm_arena_alloc(p->step, T, sizeof *positions),
            *origin = vm_arena_alloc(p->step, S, sizeof *origin); /* first token of a segment in b */
    vm_token_key *keys = vm_arena_alloc(p->step, T, sizeof *keys);
    vm_segment *segments = vm_arena_alloc(p->step, S, sizeof *segments);
    float *h = vm_arena_floats(p->step, T, d, &ok);
    if (!ok || !ids || !positions || !origin || !keys || !segments) return vm_pass_no_memory(p);
    vm_batch missing = {.ids = ids, .positions = positions, .keys = keys, .segments = segments};
    for (int s = 0, end; s < b->n_segments; s = end) {
        int first = b->segments[s].start, n = 0, shift = missing.n_segments - s;
        for (end = s; end < b->n_segments && (end == s || b->segments[end].parent >= 0); end++)
            n += b->segments[end].length;
        const float *found = vm_states_find(states, n, b->ids + first, b->keys + first);
        if (found) {
            memcpy(out + (size_t)first * d, found, (size_t)n * d * sizeof *out);
            continue;
        }
        int at = missing.n_tokens;
        memcpy(ids + at, b->ids + first, (size_t)n * sizeof *ids);
        memcpy(positions + at, b->positions + first, (size_t)n * sizeof *positions);
        memcpy(keys + at, b->keys + first, (size_t)n * sizeof *keys);
        for (int g = s; g < end; g++) {
            vm_segment *own = &segments[missing.n_segments];
            origin[missing.n_segments++] = b->segments[g].start;
            *own = b->segments[g];
            own->start += at - first;
            if (own->parent >= 0) own->parent += shift;
        }
        missing.n_tokens += n;
    }
    if (missing.n_tokens == 0) return VMOER_OK;
    p->batch = &missing;
    vmoer_status status = run_below(p, h);
    p->batch = &p->copy;
    VM_TRY(status);
    for (int s = 0, end; s < missing.n_segments; s = end) {
        int first = segments[s].start, n = 0;
        for (end = s; end < missing.n_segments && (end == s || segments[end].parent >= 0); end++)
            n += segments[end].length;
        memcpy(out + (size_t)origin[s] * d, h + (size_t)first * d, (size_t)n * d * sizeof *out);
        vm_states_put(states, n, ids + first, keys + first, h + (size_t)first * d);
    }
    return VMOER_OK;
}

static bool all_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* Where a log-probability that is no number comes from: the first layer whose output holds one. */
static vmoer_status check_trained(const vm_pass *p, const float *log_probability) {
    size_t size = (size_t)p->batch->n_tokens * (size_t)p->m->config.dim;
    if (!log_probability || all_finite(log_probability, (size_t)p->batch->n_targets)) return VMOER_OK;
    for (int l = p->lowest; l < p->m->config.n_layers; l++)
        if (!all_finite(p->x[l + 1], size))
            return vm_error(VMOER_ERROR_NUMERIC, "layer %d: its output is not finite", l);
    return vm_error(VMOER_ERROR_NUMERIC, "the head: a log-probability is not finite");
}

/* Room for the streams from the lowest layer on. Where no backward asks for them they take turns; what a pass run again
 * begins at stays. */
static vmoer_status streams_alloc(vm_pass *p) {
    size_t T = (size_t)p->batch->n_tokens, d = (size_t)p->m->config.dim;
    bool ok = true;
    for (int l = p->lowest; l < p->m->config.n_layers && ok; l++) {
        bool own = p->options.training || l == p->lowest || (l == p->lowest + 1 && draws_passes(&p->options));
        p->x[l + 1] = own ? vm_arena_floats(p->step, T, d, &ok) : p->x[l - 1];
    }
    return ok ? VMOER_OK : vm_pass_no_memory(p);
}

static vmoer_status record_normed(vm_pass *p) {
    size_t rows = (size_t)p->batch->n_rows, d = (size_t)p->m->config.dim;
    bool ok = true;
    if (!p->passes) p->mean_normed = vm_arena_floats(p->step, rows, d, &ok);
    for (size_t i = 0; ok && i < rows * d; i++) record(p, &p->mean_normed[i], p->normed[i]);
    return ok ? VMOER_OK : vm_pass_no_memory(p);
}

/* From p->x[lowest] to the outputs. */
static vmoer_status run_above(vm_pass *p, float *log_probability, float *entropy, float *logits) {
    const vm_pass_options *o = &p->options;
    int n = p->m->config.n_layers;
    size_t kept = 0;
    for (int l = p->lowest; l < n; l++) {
        bool keep = o->training && (o->memory == 0 || kept < o->memory);
        vm_arena *arena = keep ? p->kept[l] : p->shared;
        VM_TRY_IN(layer_forward(p, l, arena, &p->acts[l], p->x[l + 1]), "layer %d", l);
        observe(p, l);
        if (keep)
            kept += vm_arena_bytes(arena);
        else
            p->acts[l].filled = false;
    }
    VM_TRY(vm_head_forward(p, p->x[n], log_probability, entropy, logits));
    return o->facts && draws_passes(o) ? record_normed(p) : VMOER_OK;
}

vmoer_status vm_pass_forward(vm_pass *p, const vm_batch *batch, const vm_pass_options *options, float *log_probability,
                             float *entropy, float *logits) {
    const vm_config *c = &p->m->config;
    p->ready = false;
    p->passes = 0;
    p->options = *options;
    VM_TRY(check_batch(p, batch));
    if (entropy) VM_TRY(check_entropies(batch));
    if (batch->cache) VM_TRY(prepare_cache(p, batch));
    VM_TRY(divide(p));
    p->copy = *batch;
    p->batch = &p->copy;
    p->kl = p->divergence = 0;
    p->normed = p->mean_normed = NULL;
    vm_arena_reset(p->step);
    vm_arena_reset(p->scratch);
    bool ok = true;
    if (options->facts && c->n_experts) VM_TRY(facts_alloc(p));
    float *x = vm_arena_floats(p->step, (size_t)batch->n_tokens, (size_t)c->dim, &ok);
    if (!ok) return vm_pass_no_memory(p);
    VM_TRY(options->states ? take_below(p, x) : run_below(p, x));
    p->x[p->lowest] = x;
    VM_TRY(streams_alloc(p));
    VM_TRY(run_above(p, log_probability, entropy, logits));
    if (options->teacher && !options->training) VM_TRY(vm_head_teach(p, p->x[c->n_layers], NULL));
    if (options->training) VM_TRY(check_trained(p, log_probability));
    p->ready = options->training;
    p->passes = draws_passes(options) && !batch->cache;
    if (batch->cache) batch->cache->length += batch->n_tokens;
    return VMOER_OK;
}

vmoer_status vm_pass_again(vm_pass *p, uint64_t step, float *log_probability, float *entropy) {
    if (!p->passes) return vm_error(VMOER_ERROR_ARGUMENT, "a pass again, but none of its kind before it");
    p->options.step = step;
    vmoer_status status = run_above(p, log_probability, entropy, NULL);
    p->passes = status == VMOER_OK ? p->passes + 1 : 0;
    return status;
}

static void embed_backward(vm_pass *p, const float *dx) {
    vm_param *e = p->m->embedding_param;
    size_t d = (size_t)p->m->config.dim;
    for (size_t t = 0; e && t < (size_t)p->batch->n_tokens; t++)
        vm_kernels_get()->axpy(p->m->config.embedding_scale, dx + t * d, e->grad + (size_t)p->batch->ids[t] * d,
                               (int)d);
}

vmoer_status vm_pass_backward(vm_pass *p, const float *d_log_probability, float kl_weight) {
    const vm_config *c = &p->m->config;
    if (!p->ready) return vm_error(VMOER_ERROR_ARGUMENT, "backward without a training forward before it");
    p->ready = false; /* the activations are spent */
    size_t T = (size_t)p->batch->n_tokens, d = (size_t)c->dim;
    bool ok = true;
    float *dx = vm_arena_floats(p->step, T, d, &ok), *unused = vm_arena_floats(p->step, T, d, &ok);
    if (!ok) return vm_pass_no_memory(p);
    memset(dx, 0, T * d * sizeof *dx);
    VM_TRY(p->options.teacher ? vm_head_teach(p, p->x[c->n_layers], dx)
                              : vm_head_backward(p, p->x[c->n_layers], d_log_probability, dx));
    for (int l = c->n_layers - 1; l >= p->lowest; l--) {
        if (!p->acts[l].filled) VM_TRY_IN(layer_forward(p, l, p->shared, &p->acts[l], unused), "layer %d", l);
        bool input = l > p->lowest || p->m->embedding_param;
        VM_TRY_IN(layer_backward(p, l, &p->acts[l], kl_weight, input, dx), "layer %d", l);
    }
    embed_backward(p, dx);
    return VMOER_OK;
}

const float *vm_pass_normed(const vm_pass *p) { return p->mean_normed ? p->mean_normed : p->normed; }

double vm_pass_kl(const vm_pass *p) { return p->kl; }

double vm_pass_divergence(const vm_pass *p) { return p->divergence; }

size_t vm_pass_bytes(const vm_pass *p) {
    size_t bytes = vm_arena_bytes(p->step) + vm_arena_bytes(p->scratch) + vm_arena_bytes(p->shared);
    for (int l = 0; l < p->m->config.n_layers; l++) bytes += vm_arena_bytes(p->kept[l]);
    return bytes;
}
