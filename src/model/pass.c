/* pass.c: see pass.h. A layer's forward is written once and used by inference, by training and by recomputation. */
#include "model/pass.h"

#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { HEAD_ROWS = 64, TOKENS_A_TASK = 16 };

typedef struct layer_acts {
    bool filled;
    float *n1, *inv1; /* [T, D], [T]: attention's normed input and 1 / rms */
    float *qkv;       /* [T, q + 2 kv], rotated */
    float *attended;  /* [T, q] */
    float *h;         /* [T, D]: residual stream between the halves */
    float *n2, *inv2; /* [T, D], [T] */
    float *t_qkv, *t_out;
    vm_ffn_acts ffn;
} layer_acts;

struct vm_pass {
    vm_model *m;
    vm_pool *pool;
    vm_arena *step;    /* what lives from forward to backward: residual streams, facts */
    vm_arena *scratch; /* within one layer */
    vm_arena *shared;  /* activations of the layer at hand, where they are not kept */
    vm_arena **kept;   /* [n_layers] */
    layer_acts *acts;  /* [n_layers] */
    float **x;         /* [n_layers + 1] residual stream entering each layer, [T, D]; inference uses two in turn */
    const vm_batch *batch;
    vm_batch copy;
    vm_pass_options options;
    bool ready; /* a training forward is complete and no backward has spent it */
    double kl, divergence;
    float *inv_final; /* [n_rows] */
    float *normed;    /* [n_rows, D] */
    float *lse;       /* [n_rows] */
    float *gate_entropy, *trace, *trace_projected, *spread, *margin;
    int32_t *chosen;
};

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

static vmoer_status no_memory(const vm_pass *p) {
    return vm_error(VMOER_ERROR_MEMORY, "no memory for a pass of %d tokens", p->batch->n_tokens);
}

/* ---- element-wise parts over tokens ---- */

typedef struct token_job {
    vm_pass *p;
    const float *x, *y, *w, *dy, *inv;
    float *out, *inv_out;
    float scale;
    int width;
} token_job;

static void norm_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    token_job *j = context;
    size_t d = (size_t)j->width;
    for (size_t t = begin; t < end; t++)
        j->inv_out[t] =
            vm_kernels_get()->rmsnorm(j->x + t * d, j->w, j->p->m->config.rms_eps, j->out + t * d, j->width);
}

static void norm(vm_pass *p, const float *x, const vm_param *w, int rows, float *out, float *inv) {
    token_job j = {.p = p, .x = x, .w = w->value, .out = out, .inv_out = inv, .width = p->m->config.dim};
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

static vm_attention attention_of(const vm_pass *p) {
    const vm_config *c = &p->m->config;
    return (vm_attention){.n_heads = c->n_heads,
                          .n_kv_heads = c->n_kv_heads,
                          .head_dim = c->head_dim,
                          .scale = c->attention_scale,
                          .n_segments = p->batch->n_segments,
                          .segments = p->batch->segments};
}

static vm_ffn_route route_of(const vm_pass *p, int layer) {
    const vm_pass_options *o = &p->options;
    bool bayesian = o->router && vm_router_has_layer(o->router, layer);
    return (vm_ffn_route){.routing = o->routing,
                          .router = bayesian ? o->router : NULL,
                          .training = o->training,
                          .inference = o->inference,
                          .samples = o->samples,
                          .layer = layer,
                          .tokens = p->batch->keys,
                          .seed = o->seed,
                          .step = o->step,
                          .sign = o->sign};
}

/* x[T, D] -> out[T, D]; fills a from `arena`. */
static vmoer_status layer_forward(vm_pass *p, int layer, const float *x, vm_arena *arena, layer_acts *a, float *out) {
    const vm_config *c = &p->m->config;
    const vm_layer *l = &p->m->layers[layer];
    int T = p->batch->n_tokens;
    size_t t = (size_t)T, d = (size_t)c->dim, q = (size_t)(c->n_heads * c->head_dim),
           width = q + 2 * (size_t)(c->n_kv_heads * c->head_dim);
    bool ok = true;
    *a = (layer_acts){.filled = true};
    a->n1 = vm_arena_floats(arena, t, d, &ok), a->inv1 = vm_arena_floats(arena, t, 1, &ok);
    a->qkv = vm_arena_floats(arena, t, width, &ok);
    a->attended = vm_arena_floats(arena, t, q, &ok);
    a->h = vm_arena_floats(arena, t, d, &ok);
    a->n2 = vm_arena_floats(arena, t, d, &ok), a->inv2 = vm_arena_floats(arena, t, 1, &ok);
    a->t_qkv = vm_arena_floats(arena, t, (size_t)vm_linear_rank(&l->qkv), &ok);
    a->t_out = vm_arena_floats(arena, t, (size_t)vm_linear_rank(&l->attention_out), &ok);
    float *y = vm_arena_floats(p->scratch, t, d, &ok);
    if (!ok) return no_memory(p);

    norm(p, x, &l->attention_norm, T, a->n1, a->inv1);
    vm_linear_call qkv = {.l = &l->qkv, .m = T, .x = a->n1, .ldx = d, .y = a->qkv, .ldy = width, .t = a->t_qkv};
    VM_TRY(vm_linear_forward(p->pool, p->scratch, &qkv, 1));
    rope(p, a->qkv, 1.0f);
    vm_attention attention = attention_of(p);
    VM_TRY(vm_attention_forward(&attention, p->pool, p->scratch, a->qkv, a->attended));
    vm_linear_call project = {
        .l = &l->attention_out, .m = T, .x = a->attended, .ldx = q, .y = y, .ldy = d, .t = a->t_out};
    VM_TRY(vm_linear_forward(p->pool, p->scratch, &project, 1));
    add(p, x, c->residual_scale, y, a->h);

    norm(p, a->h, &l->ffn_norm, T, a->n2, a->inv2);
    vm_ffn_route route = route_of(p, layer);
    VM_TRY(vm_ffn_forward(&l->ffn, p->pool, arena, p->scratch, T, a->n2, &route, &a->ffn, y));
    add(p, a->h, c->residual_scale, y, out);
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

/* dx[T, D]: gradient of the residual stream after the layer, turned into the one before it. input: the lower one is
 * wanted at all. */
static vmoer_status layer_backward(vm_pass *p, int layer, const float *x, layer_acts *a, float kl_weight, bool input,
                                   float *dx) {
    const vm_config *c = &p->m->config;
    vm_layer *l = &p->m->layers[layer];
    int T = p->batch->n_tokens;
    size_t t = (size_t)T, d = (size_t)c->dim, q = (size_t)(c->n_heads * c->head_dim),
           width = q + 2 * (size_t)(c->n_kv_heads * c->head_dim);
    bool ok = true;
    float *dy = vm_arena_floats(p->scratch, t, d, &ok), *dn = vm_arena_floats(p->scratch, t, d, &ok);
    if (!ok) return no_memory(p);
    memset(dy, 0, t * d * sizeof *dy);
    add(p, dy, c->residual_scale, dx, dy);
    vm_ffn_route route = route_of(p, layer);
    VM_TRY(vm_ffn_backward(&l->ffn, p->pool, p->scratch, T, &route, &a->ffn, dy, kl_weight, dn));
    bool attention_trained = vm_linear_trainable(&l->qkv) || vm_linear_trainable(&l->attention_out) ||
                             l->attention_norm.grad || l->ffn_norm.grad;
    if (input || attention_trained) {
        float *dattended = vm_arena_floats(p->scratch, t, q, &ok), *dqkv = vm_arena_floats(p->scratch, t, width, &ok);
        if (!ok) return no_memory(p);
        norm_backward(p, a->h, &l->ffn_norm, a->inv2, dn, T, dx);
        memset(dy, 0, t * d * sizeof *dy);
        add(p, dy, c->residual_scale, dx, dy);
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
        vm_attention attention = attention_of(p);
        VM_TRY(vm_attention_backward(&attention, p->pool, p->scratch, a->qkv, dattended, dqkv));
        rope(p, dqkv, -1.0f);
        vm_linear_call qkv = {
            .l = &l->qkv, .m = T, .x = a->n1, .ldx = d, .dy = dqkv, .ldy = width, .t = a->t_qkv, .dx = dn, .lddx = d};
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &qkv, 1));
        norm_backward(p, x, &l->attention_norm, a->inv1, dn, T, dx);
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
    p->spread = vm_arena_floats(p->step, L, T, &ok);
    p->margin = vm_arena_floats(p->step, L, T, &ok);
    p->chosen = vm_arena_alloc(p->step, L * T * (size_t)c->top_k + 1, sizeof *p->chosen);
    return ok && p->chosen ? VMOER_OK : no_memory(p);
}

static void record_facts(vm_pass *p, int layer, const vm_ffn_acts *a) {
    const vm_config *c = &p->m->config;
    size_t T = (size_t)p->batch->n_tokens, N = (size_t)c->n_experts, K = (size_t)c->top_k, base = (size_t)layer * T;
    bool bayesian = p->options.router && vm_router_has_layer(p->options.router, layer);
    bool covariance = bayesian && vm_router_has_covariance(p->options.router) && a->trace;
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
        p->gate_entropy[base + t] = (float)entropy;
        p->spread[base + t] = (float)sqrt(square);
        p->margin[base + t] = next < 0 ? 0 : kth - next;
        p->trace[base + t] = covariance ? a->trace[t] : NAN;
        p->trace_projected[base + t] = covariance ? a->trace_projected[t] : NAN;
    }
}

vm_facts vm_pass_facts(const vm_pass *p) {
    return (vm_facts){.gate_entropy = p->gate_entropy,
                      .trace = p->trace,
                      .trace_projected = p->trace_projected,
                      .spread = p->spread,
                      .margin = p->margin,
                      .chosen = p->chosen};
}

/* ---- head ---- */

typedef struct head_job {
    vm_pass *p;
    const float *logits; /* [rows, V] */
    float *dlogits;      /* the same memory, or NULL */
    float *lse, *entropy;
    const float *d_log_probability;
    const int32_t *first_target; /* [n_rows + 1] */
    float *log_probability;
    int first_row;
} head_job;

/* The head's product of the asked rows [first, first + n): logits[n, V], where backward finds their gradient;
 * dnormed[n, D] or NULL. */
static vm_linear_call head_call(const vm_pass *p, int first, int n, float *logits, float *dnormed) {
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    return (vm_linear_call){.l = &p->m->head,
                            .m = n,
                            .x = p->normed + (size_t)first * d,
                            .ldx = d,
                            .y = logits,
                            .dy = logits,
                            .ldy = V,
                            .dx = dnormed,
                            .lddx = d};
}

static void head_task(void *context, int task, int worker) {
    (void)worker;
    const head_job *j = context;
    const vm_config *c = &j->p->m->config;
    const vm_batch *b = j->p->batch;
    size_t V = (size_t)c->n_vocab, row = (size_t)(j->first_row + task);
    float *logits = (float *)j->logits + (size_t)task * V;
    if (c->logit_scale != 1.0f)
        for (size_t v = 0; v < V; v++) logits[v] /= c->logit_scale;
    if (!j->dlogits) {
        float lse = vm_kernels_get()->logsumexp(logits, c->n_vocab);
        j->lse[row] = lse;
        for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++)
            j->log_probability[i] = logits[b->target_id[i]] - lse;
        if (j->entropy) { /* H = lse - E logit */
            double mean = 0;
            for (size_t v = 0; v < V; v++) mean += exp((double)(logits[v] - lse)) * (double)logits[v];
            j->entropy[row] = (float)((double)lse - mean);
        }
        return;
    }
    float total = 0;
    for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++) total += j->d_log_probability[i];
    vm_kernels_get()->softmax(logits, c->n_vocab);
    for (size_t v = 0; v < V; v++) logits[v] *= -total / c->logit_scale;
    for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++)
        logits[b->target_id[i]] += j->d_log_probability[i] / c->logit_scale;
}

static vmoer_status target_ranges(vm_pass *p, const int32_t **out) {
    const vm_batch *b = p->batch;
    int32_t *first = vm_arena_alloc(p->scratch, (size_t)b->n_rows + 1, sizeof *first);
    if (!first) return no_memory(p);
    int i = 0;
    for (int r = 0; r <= b->n_rows; r++) {
        while (i < b->n_targets && b->target_row[i] < r) i++;
        first[r] = i;
    }
    *out = first;
    return VMOER_OK;
}

/* dx[T, D] += gradient through the last norm of the asked rows [first, first + n), whose dnormed[n, D] is given. */
static void final_norm_backward(vm_pass *p, const float *x, int first, int n, const float *dnormed, float *dx) {
    size_t d = (size_t)p->m->config.dim;
    for (size_t i = 0; i < (size_t)n; i++) {
        size_t r = (size_t)first + i, token = (size_t)p->batch->rows[r];
        vm_kernels_get()->rmsnorm_backward(x + token * d, p->m->final_norm.value, p->inv_final[r], dnormed + i * d,
                                           dx + token * d, p->m->final_norm.grad, (int)d);
    }
}

/* ---- distillation: the teacher's distribution in place of targets ---- */

typedef struct teach_job {
    float *teacher;     /* [rows, V] logits of the teacher; divided by their scale */
    float *logits;      /* [rows, V] logits; becomes the gradient of weight * KL by the logits before logit_scale */
    float **work;       /* [workers] of [V] */
    double *divergence; /* [rows] */
    float weight, scale, teacher_scale;
    int n_vocab;
} teach_job;

/* KL(t || s) = sum t (z_t - z_s) - lse(z_t) + lse(z_s), its gradient by z_s is s - t (Hinton 2015, temperature 1). */
static void teach_task(void *context, int task, int worker) {
    const teach_job *j = context;
    const vm_kernels *k = vm_kernels_get();
    size_t V = (size_t)j->n_vocab;
    float *zt = j->teacher + (size_t)task * V, *zs = j->logits + (size_t)task * V, *t = j->work[worker];
    for (size_t v = 0; v < V; v++) t[v] = zt[v] /= j->teacher_scale;
    for (size_t v = 0; v < V; v++) zs[v] /= j->scale;
    double lse_t = (double)k->logsumexp(t, j->n_vocab), lse_s = (double)k->logsumexp(zs, j->n_vocab);
    k->softmax(t, j->n_vocab);
    double mean = 0;
    for (size_t v = 0; v < V; v++) mean += (double)t[v] * (double)(zt[v] - zs[v]);
    j->divergence[task] = mean - lse_t + lse_s;
    k->softmax(zs, j->n_vocab);
    for (size_t v = 0; v < V; v++) zs[v] = j->weight / j->scale * (zs[v] - t[v]);
}

/* Sums the divergence from the teacher over the asked rows; dx[T, D] += its gradient, where dx is not NULL. */
static vmoer_status head_teach(vm_pass *p, const float *x, float *dx) {
    const vm_batch *b = p->batch;
    const vm_pass *teacher = p->options.teacher;
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    int workers = vm_pool_threads(p->pool);
    bool ok = true;
    float *block = vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok),
          *wanted = vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok),
          *dnormed = vm_arena_floats(p->scratch, HEAD_ROWS, d, &ok),
          *work = vm_arena_floats(p->scratch, (size_t)workers, V, &ok);
    float **works = vm_arena_alloc(p->scratch, (size_t)workers, sizeof *works);
    double *divergence = vm_arena_alloc(p->scratch, HEAD_ROWS, sizeof *divergence);
    if (!ok || !works || !divergence) return no_memory(p);
    for (int w = 0; w < workers; w++) works[w] = work + (size_t)w * V;
    teach_job j = {.teacher = wanted,
                   .logits = block,
                   .work = works,
                   .divergence = divergence,
                   .weight = p->options.teacher_weight,
                   .scale = p->m->config.logit_scale,
                   .teacher_scale = teacher->m->config.logit_scale,
                   .n_vocab = p->m->config.n_vocab};
    p->divergence = 0;
    for (int first = 0; first < b->n_rows; first += HEAD_ROWS) {
        int n = b->n_rows - first < HEAD_ROWS ? b->n_rows - first : HEAD_ROWS;
        vm_linear_call call = head_call(p, first, n, block, dnormed);
        vm_linear_call other = head_call(teacher, first, n, wanted, NULL);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &other, 1));
        vm_pool_run(p->pool, n, teach_task, &j);
        for (int i = 0; i < n; i++) p->divergence += divergence[i];
        if (!dx) continue;
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &call, 1));
        final_norm_backward(p, x, first, n, dnormed, dx);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

static vmoer_status head_forward(vm_pass *p, const float *x, float *log_probability, float *entropy, float *logits) {
    const vm_batch *b = p->batch;
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    bool ok = true, asked = b->n_targets > 0 || entropy || logits;
    float *rows = vm_arena_floats(p->scratch, (size_t)b->n_rows, d, &ok);
    p->normed = vm_arena_floats(p->step, (size_t)b->n_rows, d, &ok);
    p->inv_final = vm_arena_floats(p->step, (size_t)b->n_rows, 1, &ok);
    p->lse = vm_arena_floats(p->step, (size_t)b->n_rows, 1, &ok);
    float *block = logits || !asked ? NULL : vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok);
    head_job j = {.p = p, .lse = p->lse, .entropy = entropy, .log_probability = log_probability};
    if (!ok) return no_memory(p);
    VM_TRY(target_ranges(p, &j.first_target));
    for (size_t r = 0; r < (size_t)b->n_rows; r++) memcpy(rows + r * d, x + (size_t)b->rows[r] * d, d * sizeof *rows);
    norm(p, rows, &p->m->final_norm, b->n_rows, p->normed, p->inv_final);
    for (int first = 0; asked && first < b->n_rows; first += HEAD_ROWS) {
        int n = b->n_rows - first < HEAD_ROWS ? b->n_rows - first : HEAD_ROWS;
        float *out = logits ? logits + (size_t)first * V : block;
        vm_linear_call call = head_call(p, first, n, out, NULL);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        j.logits = out;
        j.first_row = first;
        vm_pool_run(p->pool, n, head_task, &j);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

/* dx[T, D] (zeroed by the caller) += gradient through the head of the asked rows. */
static vmoer_status head_backward(vm_pass *p, const float *x, const float *d_log_probability, float *dx) {
    const vm_batch *b = p->batch;
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    bool ok = true;
    float *block = vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok),
          *dnormed = vm_arena_floats(p->scratch, HEAD_ROWS, d, &ok);
    head_job j = {.p = p, .d_log_probability = d_log_probability, .logits = block, .dlogits = block};
    if (!ok) return no_memory(p);
    VM_TRY(target_ranges(p, &j.first_target));
    for (int first = 0; first < b->n_rows; first += HEAD_ROWS) {
        int n = b->n_rows - first < HEAD_ROWS ? b->n_rows - first : HEAD_ROWS;
        vm_linear_call call = head_call(p, first, n, block, dnormed);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        j.first_row = first;
        vm_pool_run(p->pool, n, head_task, &j);
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &call, 1));
        final_norm_backward(p, x, first, n, dnormed, dx);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

/* ---- the pass ---- */

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

static vmoer_status embed(vm_pass *p, float *x) {
    size_t d = (size_t)p->m->config.dim;
    for (size_t t = 0; t < (size_t)p->batch->n_tokens; t++) {
        VM_TRY(vm_model_embed(p->m, p->batch->ids[t], x + t * d));
        if (p->m->config.embedding_scale != 1.0f)
            for (size_t i = 0; i < d; i++) x[t * d + i] *= p->m->config.embedding_scale;
    }
    return VMOER_OK;
}

/* Is this layer's input gradient or a gradient inside it needed? */
static int lowest_trained(const vm_pass *p) {
    int lowest = p->m->first_trained;
    for (int l = 0; p->options.router && l < lowest; l++)
        if (vm_router_has_layer(p->options.router, l)) lowest = l;
    return lowest;
}

vmoer_status vm_pass_forward(vm_pass *p, const vm_batch *batch, const vm_pass_options *options, float *log_probability,
                             float *entropy, float *logits) {
    const vm_config *c = &p->m->config;
    p->ready = false;
    p->options = *options;
    VM_TRY(check_batch(p, batch));
    p->copy = *batch;
    p->batch = &p->copy;
    p->kl = p->divergence = 0;
    vm_arena_reset(p->step);
    vm_arena_reset(p->scratch);
    size_t T = (size_t)batch->n_tokens, d = (size_t)c->dim;
    bool ok = true;
    int lowest = options->training ? lowest_trained(p) : c->n_layers;
    if (options->training && lowest == c->n_layers)
        return vm_error(VMOER_ERROR_ARGUMENT, "a training pass, but nothing is trained");
    if (options->training && lowest < p->m->backward_from)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "layer %d is trained, but the model was loaded for gradients from layer %d on", lowest,
                        p->m->backward_from);
    float *turns[2] = {vm_arena_floats(p->step, T, d, &ok), vm_arena_floats(p->step, T, d, &ok)};
    if (options->facts && c->n_experts) VM_TRY(facts_alloc(p));
    if (!ok) return no_memory(p);
    p->x[0] = turns[0];
    VM_TRY(embed(p, p->x[0]));
    size_t kept = 0;
    for (int l = 0; l < c->n_layers; l++) {
        bool trained = l >= lowest;
        bool keep = trained && (options->memory == 0 || kept < options->memory);
        vm_arena *arena = keep ? p->kept[l] : p->shared;
        p->x[l + 1] = trained ? vm_arena_floats(p->step, T, d, &ok) : turns[(l + 1) & 1];
        if (!ok) return no_memory(p);
        vm_arena_reset(arena);
        VM_TRY_IN(layer_forward(p, l, p->x[l], arena, &p->acts[l], p->x[l + 1]), "layer %d", l);
        const vm_ffn_acts *ffn = &p->acts[l].ffn;
        for (size_t t = 0; ffn->kl && t < T; t++) p->kl += (double)ffn->kl[t];
        if (options->facts && c->n_experts) record_facts(p, l, ffn);
        if (options->capture) options->capture(options->capture_context, l, batch->n_tokens, p->acts[l].n2);
        if (keep)
            kept += vm_arena_bytes(arena);
        else
            p->acts[l].filled = false;
    }
    VM_TRY(head_forward(p, p->x[c->n_layers], log_probability, entropy, logits));
    if (options->teacher && !options->training) VM_TRY(head_teach(p, p->x[c->n_layers], NULL));
    p->ready = options->training;
    return VMOER_OK;
}

static vmoer_status embed_backward(vm_pass *p, const float *dx) {
    vm_param *e = p->m->embedding_param;
    size_t d = (size_t)p->m->config.dim;
    for (size_t t = 0; e && t < (size_t)p->batch->n_tokens; t++)
        vm_kernels_get()->axpy(p->m->config.embedding_scale, dx + t * d, e->grad + (size_t)p->batch->ids[t] * d,
                               (int)d);
    return VMOER_OK;
}

vmoer_status vm_pass_backward(vm_pass *p, const float *d_log_probability, float kl_weight) {
    const vm_config *c = &p->m->config;
    if (!p->ready) return vm_error(VMOER_ERROR_ARGUMENT, "backward without a training forward before it");
    p->ready = false; /* the activations are spent */
    size_t T = (size_t)p->batch->n_tokens, d = (size_t)c->dim;
    bool ok = true;
    float *dx = vm_arena_floats(p->step, T, d, &ok), *unused = vm_arena_floats(p->step, T, d, &ok);
    if (!ok) return no_memory(p);
    memset(dx, 0, T * d * sizeof *dx);
    VM_TRY(p->options.teacher ? head_teach(p, p->x[c->n_layers], dx)
                              : head_backward(p, p->x[c->n_layers], d_log_probability, dx));
    int lowest = lowest_trained(p);
    for (int l = c->n_layers - 1; l >= lowest; l--) {
        if (!p->acts[l].filled) {
            vm_arena_reset(p->shared);
            VM_TRY_IN(layer_forward(p, l, p->x[l], p->shared, &p->acts[l], unused), "layer %d", l);
        }
        bool input = l > lowest || p->m->embedding_param;
        VM_TRY_IN(layer_backward(p, l, p->x[l], &p->acts[l], kl_weight, input, dx), "layer %d", l);
    }
    return embed_backward(p, dx);
}

double vm_pass_kl(const vm_pass *p) { return p->kl; }

double vm_pass_divergence(const vm_pass *p) { return p->divergence; }

size_t vm_pass_bytes(const vm_pass *p) {
    size_t bytes = vm_arena_bytes(p->step) + vm_arena_bytes(p->scratch) + vm_arena_bytes(p->shared);
    for (int l = 0; l < p->m->config.n_layers; l++) bytes += vm_arena_bytes(p->kept[l]);
    return bytes;
}
