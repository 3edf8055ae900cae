/* stability.c: see stability.h. The pass shows each layer's input; the router chooses on it once more for every level
 * of noise. */
#include "train/stability.h"

#include "base/progress.h"
#include "base/status.h"
#include "eval/jaccard.h"

#include <math.h>
#include <string.h>

enum { PASS_QUESTIONS = 16, TOKENS_A_TASK = 16 };

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory to watch the routing"); }

/* ---- questions through the model ---- */

/* What both measurements walk with: batches of questions, and a hook on the input of every layer with a router. */
typedef struct walk {
    vm_model *m;
    vm_pool *pool;
    vm_pass *pass;
    vm_arena *arena; /* of a batch */
    vm_questions q;  /* the batch */
    void *context;
    vmoer_status (*layer)(void *context, int layer, const float *u);
    vmoer_status (*batch)(void *context); /* after a batch */
    vmoer_status status;                  /* of the layers so far */
} walk;

static void capture(void *context, int layer, int n_tokens, const float *u) {
    (void)n_tokens;
    walk *w = context;
    if (w->status == VMOER_OK && vm_model_routes(&w->m->config, layer)) w->status = w->layer(w->context, layer, u);
}

static vmoer_status walk_batch(walk *w, const vm_pass_options *answer, const vm_examples *e, size_t first, size_t n) {
    vm_question questions[PASS_QUESTIONS];
    vm_arena_reset(w->arena);
    for (size_t i = 0; i < n; i++) questions[i] = (vm_question){&e->prompts[first + i], (uint32_t)(first + i)};
    VM_TRY(vm_questions_build(w->arena, questions, (int)n, VM_FORMAT_CLOZE, &w->q));
    w->q.batch.n_rows = w->q.batch.n_targets = 0; /* nothing is asked */
    vm_pass_options options = *answer;
    options.facts = true;
    options.capture = capture;
    options.capture_context = w;
    w->status = VMOER_OK;
    VM_TRY(vm_pass_forward(w->pass, &w->q.batch, &options, NULL, NULL, NULL));
    VM_TRY(w->status);
    return w->batch ? w->batch(w->context) : VMOER_OK;
}

static vmoer_status walk_through(walk *w, const char *stage, const vm_pass_options *answer, const vm_examples *e,
                                 size_t questions, const vmoer_hooks *hooks) {
    size_t n = e->n < questions ? e->n : questions;
    if (!w->m->config.n_experts || n == 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "no router to watch, or no question to watch it by");
    for (size_t first = 0; first < n; first += PASS_QUESTIONS) {
        size_t count = n - first < PASS_QUESTIONS ? n - first : PASS_QUESTIONS;
        VM_TRY(walk_batch(w, answer, e, first, count));
        VM_TRY(vm_progress(hooks, stage, first + count, n, NULL));
    }
    return VMOER_OK;
}

/* ---- the index ---- */

typedef struct comparison {
    const int32_t *a, *b; /* [T, K] */
    const int32_t *other; /* [T] row of b that meets row t of a; NULL: t */
    int k;
    double *jaccard; /* [T] */
} comparison;

static void compare_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const comparison *c = context;
    for (size_t t = begin, k = (size_t)c->k; t < end; t++)
        c->jaccard[t] = vm_jaccard(c->a + t * k, c->b + (c->other ? (size_t)c->other[t] : t) * k, c->k);
}

/* Sum over T tokens, in their order. */
static double sum_jaccard(vm_pool *pool, const comparison *c, size_t T) {
    double sum = 0;
    vm_pool_run_range(pool, T, TOKENS_A_TASK, compare_rows, (void *)c);
    for (size_t t = 0; t < T; t++) sum += c->jaccard[t];
    return sum;
}

/* ---- measuring ---- */

typedef struct watch {
    const vm_stability *s;
    walk walk;
    vm_arena *arena; /* of a layer */
    vm_stability_figures *sum;
    double *load;   /* [L, N] how often each expert was chosen */
    size_t tokens;  /* seen */
    double *traces; /* [L, 3] sums over tokens: tr Sigma, its square, and its diagonal's part */
    int32_t *clean; /* [L, T, K] of the batch; its memory and the next ones' are the walk's */
    int32_t *other; /* [T] the token half a question further */
    float *eps;     /* [T, D] of the layer, and its noisy input */
    float *noisy;
    double *jaccard; /* [T] */
} watch;

/* The draws of the noisy side: another seed for the ways that draw by it, another pass for those that draw by that. */
static void draw_anew(uint64_t *seed, uint64_t *step) {
    *seed += 1;
    *step += 1;
}

/* The batch's own memory, on its first layer with a router. */
static vmoer_status begin_batch(watch *w) {
    const vm_questions *q = &w->walk.q;
    const vm_config *c = &w->walk.m->config;
    size_t T = (size_t)q->batch.n_tokens, all = (size_t)c->n_layers * T * (size_t)c->top_k;
    w->clean = vm_arena_alloc(w->walk.arena, all, sizeof *w->clean);
    w->other = vm_arena_alloc(w->walk.arena, T, sizeof *w->other);
    w->jaccard = vm_arena_alloc(w->walk.arena, T, sizeof *w->jaccard);
    bool ok = w->clean && w->other && w->jaccard;
    w->eps = vm_arena_floats(w->walk.arena, T, (size_t)c->dim, &ok);
    w->noisy = vm_arena_floats(w->walk.arena, T, (size_t)c->dim, &ok);
    if (!ok) return no_memory();
    for (int i = 0; i < q->n; i++) {
        int first = q->batch.segments[q->root[i]].start,
            n = (i + 1 < q->n ? q->batch.segments[q->root[i + 1]].start : q->batch.n_tokens) - first;
        for (int t = 0; t < n; t++) w->other[first + t] = first + (t + n / 2) % n;
    }
    w->tokens += T;
    return VMOER_OK;
}

/* The choice of the router under test on u[T, D]; acts live in the layer's arena. */
static vmoer_status choose(watch *w, int layer, const float *u, vm_inference inference, bool anew, vm_ffn_acts *acts) {
    const vm_pass_options *o = &w->s->answer;
    vm_ffn_route route = {.router = o->router && vm_router_has_layer(o->router, layer) ? o->router : NULL,
                          .inference = inference,
                          .samples = o->samples,
                          .layer = layer,
                          .tokens = w->walk.q.batch.keys,
                          .seed = o->seed,
                          .step = o->step};
    if (anew) draw_anew(&route.seed, &route.step);
    *acts = (vm_ffn_acts){.u = u};
    return vm_ffn_choose(&w->walk.m->layers[layer].ffn, w->walk.pool, w->arena, w->arena, w->walk.q.batch.n_tokens, u,
                         &route, acts);
}

/* Two draws of the router's own randomness on the clean input, and what Sigma is there. */
static vmoer_status draw_twice(watch *w, int layer, const float *u) {
    const vm_pass_options *o = &w->s->answer;
    const vm_batch *b = &w->walk.q.batch;
    size_t T = (size_t)b->n_tokens, K = (size_t)w->walk.m->config.top_k, N = (size_t)w->walk.m->config.n_experts;
    vm_ffn_acts one, other;
    bool ok = true;
    vm_arena_reset(w->arena);
    VM_TRY(choose(w, layer, u, VM_INFERENCE_PASSES, false, &one));
    VM_TRY(choose(w, layer, u, VM_INFERENCE_PASSES, true, &other));
    comparison pair = {.a = one.chosen, .b = other.chosen, .k = (int)K, .jaccard = w->jaccard};
    sum_jaccard(w->walk.pool, &pair, T);
    for (size_t t = 0; t < T; t++) w->sum->flip_rate[layer] += w->jaccard[t] < 1;
    if (!vm_router_has_covariance(o->router)) return VMOER_OK;
    float *trace = vm_arena_floats(w->arena, T, 1, &ok), *diagonal = vm_arena_floats(w->arena, T, 1, &ok),
          *p = vm_arena_floats(w->arena, T, N, &ok);
    if (!ok) return no_memory();
    vm_route in = {.layer = layer, .n_tokens = b->n_tokens, .u = u, .logits = one.logits, .tokens = b->keys};
    vm_routing out = {.p = p, .trace = trace, .trace_diagonal = diagonal};
    VM_TRY(vm_router_infer(o->router, w->walk.pool, &in, VM_INFERENCE_MEAN, 1, &out));
    double *sums = w->traces + 3 * layer;
    for (size_t t = 0; t < T; t++) {
        sums[0] += (double)trace[t];
        sums[1] += (double)trace[t] * (double)trace[t];
        sums[2] += (double)diagonal[t];
    }
    return VMOER_OK;
}

/* The isolated indices of one layer. */
static vmoer_status disturb(watch *w, int layer, const float *u, const int32_t *clean) {
    const vm_stability *s = w->s;
    const vm_batch *b = &w->walk.q.batch;
    size_t T = (size_t)b->n_tokens, L = (size_t)w->walk.m->config.n_layers;
    int dim = w->walk.m->config.dim;
    bool draws = s->answer.router && vm_router_has_layer(s->answer.router, layer);
    vm_ffn_acts acts;
    vm_noise_draw(w->walk.pool, s->levels[0].seed, layer, b->n_tokens, dim, b->keys, w->eps);
    for (int i = 0; i < s->n_levels; i++) {
        comparison c = {.a = clean, .k = w->walk.m->config.top_k, .jaccard = w->jaccard};
        size_t at = (size_t)i * L + (size_t)layer;
        vm_arena_reset(w->arena);
        vm_noise_add(&s->levels[i], w->walk.pool, b->n_tokens, dim, u, w->eps, w->noisy);
        VM_TRY(choose(w, layer, w->noisy, s->answer.inference, true, &acts));
        c.b = acts.chosen;
        double independent = sum_jaccard(w->walk.pool, &c, T), shared = independent;
        if (draws) {
            vm_arena_reset(w->arena);
            VM_TRY(choose(w, layer, w->noisy, s->answer.inference, false, &acts));
            c.b = acts.chosen;
            shared = sum_jaccard(w->walk.pool, &c, T);
        }
        w->sum->isolated[at] += independent;
        w->sum->shared[at] += shared;
    }
    return VMOER_OK;
}

static vmoer_status clean_layer(void *context, int layer, const float *u) {
    watch *w = context;
    const vm_config *c = &w->walk.m->config;
    if (layer == c->dense_layers) VM_TRY(begin_batch(w));
    size_t T = (size_t)w->walk.q.batch.n_tokens, K = (size_t)c->top_k, l = (size_t)layer;
    int32_t *clean = w->clean + l * T * K;
    memcpy(clean, vm_pass_facts(w->walk.pass).chosen + l * T * K, T * K * sizeof *clean);
    for (size_t i = 0; i < T * K; i++) w->load[l * (size_t)c->n_experts + (size_t)clean[i]] += 1;
    comparison others = {.a = clean, .b = clean, .other = w->other, .k = c->top_k, .jaccard = w->jaccard};
    w->sum->between[l] += sum_jaccard(w->walk.pool, &others, T);
    if (w->s->alive && w->s->answer.router && vm_router_has_layer(w->s->answer.router, layer))
        VM_TRY(draw_twice(w, layer, u));
    return w->s->n_levels ? disturb(w, layer, u, clean) : VMOER_OK;
}

/* The same batch with noise on every router's input. */
static vmoer_status propagate(void *context) {
    watch *w = context;
    const vm_config *c = &w->walk.m->config;
    size_t T = (size_t)w->walk.q.batch.n_tokens, K = (size_t)c->top_k, L = (size_t)c->n_layers;
    for (int i = 0; i < w->s->n_levels && w->s->propagated; i++) {
        vm_pass_options options = w->s->answer;
        options.noise = w->s->levels[i];
        options.facts = true;
        draw_anew(&options.seed, &options.step);
        VM_TRY(vm_pass_forward(w->walk.pass, &w->walk.q.batch, &options, NULL, NULL, NULL));
        const int32_t *chosen = vm_pass_facts(w->walk.pass).chosen;
        for (size_t l = (size_t)c->dense_layers; l < L; l++) {
            comparison pair = {
                .a = w->clean + l * T * K, .b = chosen + l * T * K, .k = c->top_k, .jaccard = w->jaccard};
            w->sum->propagated[(size_t)i * L + l] += sum_jaccard(w->walk.pool, &pair, T);
        }
    }
    return VMOER_OK;
}

void vm_stability_figures_free(vm_stability_figures *f) {
    vm_free(f->isolated);
    vm_free(f->shared);
    vm_free(f->propagated);
    vm_free(f->load_entropy);
    vm_free(f->between);
    vm_free(f->flip_rate);
    vm_free(f->scale_variation);
    vm_free(f->off_diagonal);
    *f = (vm_stability_figures){NULL};
}

/* Sums become means, counts entropies. */
static void finish(const watch *w) {
    const vm_config *c = &w->walk.m->config;
    size_t L = (size_t)c->n_layers, N = (size_t)c->n_experts;
    double tokens = (double)w->tokens;
    for (size_t i = 0; i < (size_t)w->s->n_levels * L; i++) {
        bool routes = vm_model_routes(c, (int)(i % L));
        w->sum->isolated[i] = routes ? w->sum->isolated[i] / tokens : NAN;
        w->sum->shared[i] = routes ? w->sum->shared[i] / tokens : NAN;
        w->sum->propagated[i] = routes && w->s->propagated ? w->sum->propagated[i] / tokens : NAN;
    }
    for (size_t l = 0; l < (size_t)c->dense_layers; l++)
        w->sum->flip_rate[l] = w->sum->scale_variation[l] = w->sum->off_diagonal[l] = w->sum->between[l] =
            w->sum->load_entropy[l] = NAN;
    for (size_t l = (size_t)c->dense_layers; l < L; l++) {
        const double *trace = w->traces + 3 * l;
        bool drawn = w->s->alive && w->s->answer.router && vm_router_has_layer(w->s->answer.router, (int)l);
        double mean = trace[0] / tokens, variance = fmax(0, trace[1] / tokens - mean * mean);
        w->sum->flip_rate[l] = drawn ? w->sum->flip_rate[l] / tokens : NAN;
        w->sum->scale_variation[l] = mean > 0 ? sqrt(variance) / mean : NAN;
        w->sum->off_diagonal[l] = mean > 0 ? fmax(0, 1 - trace[2] / trace[0]) : NAN;
        w->sum->between[l] /= tokens;
        for (size_t e = 0; e < N; e++) {
            double share = w->load[l * N + e] / (tokens * c->top_k);
            if (share > 0) w->sum->load_entropy[l] -= share * log(share);
        }
    }
}

vmoer_status vm_stability_measure(const vm_stability *s, vm_model *m, vm_pool *pool, vm_pass *pass,
                                  const vm_examples *e, const vmoer_hooks *hooks, vm_stability_figures *out) {
    size_t L = (size_t)m->config.n_layers, all = (size_t)s->n_levels * L + 1;
    *out = (vm_stability_figures){.isolated = vm_calloc(all, sizeof(double)),
                                  .shared = vm_calloc(all, sizeof(double)),
                                  .propagated = vm_calloc(all, sizeof(double)),
                                  .load_entropy = vm_calloc(L, sizeof(double)),
                                  .between = vm_calloc(L, sizeof(double)),
                                  .flip_rate = vm_calloc(L, sizeof(double)),
                                  .scale_variation = vm_calloc(L, sizeof(double)),
                                  .off_diagonal = vm_calloc(L, sizeof(double))};
    watch w = {.s = s,
               .walk = {.m = m,
                        .pool = pool,
                        .pass = pass,
                        .arena = vm_arena_create(),
                        .context = &w,
                        .layer = clean_layer,
                        .batch = propagate},
               .arena = vm_arena_create(),
               .sum = out,
               .load = vm_calloc(L * (size_t)m->config.n_experts + 1, sizeof(double)),
               .traces = vm_calloc(3 * L, sizeof(double))};
    vmoer_status status = VMOER_OK;
    bool ok = out->isolated && out->shared && out->propagated && out->load_entropy && out->between && out->flip_rate &&
              out->scale_variation && out->off_diagonal && w.walk.arena && w.arena && w.load && w.traces;
    if (!ok) VM_GOTO(no_memory());
    VM_GOTO(walk_through(&w.walk, "stability", &s->answer, e, s->questions, hooks));
    finish(&w);
done:
    vm_free(w.load);
    vm_free(w.traces);
    vm_arena_free(w.arena);
    vm_arena_free(w.walk.arena);
    if (status != VMOER_OK) vm_stability_figures_free(out);
    return status;
}

/* ---- the noise that a target asks for ---- */

/* A batch's logits: clean, and what a unit of noise adds. */
typedef struct kept {
    size_t tokens;
    float **clean, **noise; /* [L] of [T, N] */
    int32_t **chosen;       /* [L] of [T, K], by the clean ones */
} kept;

typedef struct search {
    walk walk;
    uint64_t seed;
    vm_arena *arena;  /* of the whole search */
    float *eps;       /* [T, D] of the layer */
    float *scale;     /* [T] */
    kept batches[64]; /* more than so many times PASS_QUESTIONS questions say nothing new */
    int n_batches;
} search;

static vmoer_status keep_layer(void *context, int layer, const float *u) {
    search *s = context;
    const vm_config *c = &s->walk.m->config;
    const vm_batch *b = &s->walk.q.batch;
    size_t T = (size_t)b->n_tokens, D = (size_t)c->dim, N = (size_t)c->n_experts, L = (size_t)c->n_layers,
           K = (size_t)c->top_k;
    bool ok = true;
    if (layer == c->dense_layers) {
        s->batches[s->n_batches++] = (kept){.tokens = T,
                                            .clean = vm_arena_alloc(s->arena, L, sizeof(float *)),
                                            .noise = vm_arena_alloc(s->arena, L, sizeof(float *)),
                                            .chosen = vm_arena_alloc(s->arena, L, sizeof(int32_t *))};
        s->eps = vm_arena_floats(s->walk.arena, T, D, &ok);
        s->scale = vm_arena_floats(s->walk.arena, T, 1, &ok);
    }
    kept *k = &s->batches[s->n_batches - 1];
    if (!ok || !k->clean || !k->noise || !k->chosen) return no_memory();
    k->clean[layer] = vm_arena_floats(s->arena, T, N, &ok);
    k->noise[layer] = vm_arena_floats(s->arena, T, N, &ok);
    k->chosen[layer] = vm_arena_alloc(s->arena, T * K, sizeof **k->chosen);
    if (!ok || !k->chosen[layer]) return no_memory();
    memcpy(k->chosen[layer], vm_pass_facts(s->walk.pass).chosen + (size_t)layer * T * K, T * K * sizeof **k->chosen);
    const vm_noise unit = {.sigma = 1, .relative = true};
    vm_noise_draw(s->walk.pool, s->seed, layer, b->n_tokens, c->dim, b->keys, s->eps);
    vm_noise_scale(&unit, b->n_tokens, c->dim, u, s->scale);
    const vm_linear *router = &s->walk.m->layers[layer].ffn.router;
    vm_linear_call calls[] = {{.l = router, .m = (int)T, .x = u, .ldx = D, .y = k->clean[layer], .ldy = N},
                              {.l = router, .m = (int)T, .x = s->eps, .ldx = D, .y = k->noise[layer], .ldy = N}};
    VM_TRY(vm_linear_forward(s->walk.pool, s->walk.arena, calls, 2));
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < N; i++) {
            float *noise = &k->noise[layer][t * N + i];
            if (router->bias) *noise -= router->bias->value[i]; /* which stands in the clean logits alone */
            *noise *= s->scale[t];
        }
    return VMOER_OK;
}

typedef struct trial {
    const search *s;
    const float *clean, *noise; /* [T, N] */
    const int32_t *chosen;      /* [T, K] */
    float sigma;
    double *jaccard; /* [T] */
} trial;

static void try_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const trial *y = context;
    const vm_config *c = &y->s->walk.m->config;
    int32_t chosen[VM_TOP_K_MAX];
    float p[VM_TOP_K_MAX];
    for (size_t t = begin, N = (size_t)c->n_experts; t < end; t++) {
        for (size_t i = 0; i < N; i++) p[i] = y->clean[t * N + i] + y->sigma * y->noise[t * N + i];
        vm_kernels_get()->softmax(p, c->n_experts);
        vm_top_k(p, c->n_experts, c->top_k, chosen);
        y->jaccard[t] = vm_jaccard(y->chosen + t * (size_t)c->top_k, chosen, c->top_k);
    }
}

/* The mean over tokens and layers with a router at one sigma. */
static double try_sigma(const search *s, double sigma, double *jaccard) {
    double sum = 0, count = 0;
    for (int b = 0; b < s->n_batches; b++)
        for (int l = s->walk.m->config.dense_layers; l < s->walk.m->config.n_layers; l++) {
            const kept *k = &s->batches[b];
            trial y = {.s = s,
                       .clean = k->clean[l],
                       .noise = k->noise[l],
                       .chosen = k->chosen[l],
                       .sigma = (float)sigma,
                       .jaccard = jaccard};
            vm_pool_run_range(s->walk.pool, k->tokens, TOKENS_A_TASK, try_rows, &y);
            for (size_t t = 0; t < k->tokens; t++) sum += jaccard[t];
            count += (double)k->tokens;
        }
    return sum / count;
}

static vmoer_status bisect(const search *s, double target, double *sigma) {
    size_t most = 0;
    for (int b = 0; b < s->n_batches; b++) most = s->batches[b].tokens > most ? s->batches[b].tokens : most;
    double *jaccard = vm_arena_alloc(s->arena, most, sizeof *jaccard), low = 0, high = 1.0 / 64;
    if (!jaccard) return no_memory();
    while (high <= 1024 && try_sigma(s, high, jaccard) > target) low = high, high *= 2;
    *sigma = NAN;
    if (high > 1024) return VMOER_OK;
    while (high - low > 1e-4 * high) {
        double middle = (low + high) / 2;
        *(try_sigma(s, middle, jaccard) > target ? &low : &high) = middle;
    }
    *sigma = high;
    return VMOER_OK;
}

vmoer_status vm_stability_sigma(size_t questions, uint64_t seed, double target, vm_model *m, vm_pool *pool,
                                vm_pass *pass, const vm_examples *e, const vmoer_hooks *hooks, double *sigma) {
    search s = {
        .walk = {.m = m, .pool = pool, .pass = pass, .arena = vm_arena_create(), .context = &s, .layer = keep_layer},
        .seed = seed,
        .arena = vm_arena_create()};
    size_t most = sizeof s.batches / sizeof *s.batches * PASS_QUESTIONS;
    vmoer_status status = VMOER_OK;
    if (!s.walk.arena || !s.arena) VM_GOTO(no_memory());
    VM_GOTO(walk_through(&s.walk, "sigma", &(vm_pass_options){.samples = 1}, e, questions < most ? questions : most,
                         hooks));
    VM_GOTO(bisect(&s, target, sigma));
done:
    vm_arena_free(s.arena);
    vm_arena_free(s.walk.arena);
    return status;
}
