/* stability.c: see stability.h. The pass shows each layer's input; the router runs on it twice. */
#include "train/stability.h"

#include "base/progress.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/jaccard.h"

#include <math.h>
#include <string.h>

enum { PASS_QUESTIONS = 16, TOKENS_A_TASK = 16 };

/* What the layers of one pass share. */
typedef struct watch {
    const vm_stability *s;
    vm_model *m;
    vm_pool *pool;
    vm_arena *arena;
    const vm_batch *batch;
    double *sum;         /* [n_layers] of the Jaccard index over the tokens seen */
    size_t tokens;       /* seen */
    vmoer_status status; /* of the layers so far */
} watch;

/* One layer of one pass. */
typedef struct layer_work {
    const watch *w;
    int layer;
    const float *u;     /* [T, D] */
    float *noisy;       /* [T, D] */
    float *p[2];        /* [T, N], clean and noisy: logits, then probabilities */
    int32_t *chosen[2]; /* [T, K] */
    double *jaccard;    /* [T] */
} layer_work;

static void add_noise(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const layer_work *y = context;
    int dim = y->w->m->config.dim;
    for (size_t t = begin; t < end; t++) {
        const vm_token_key *key = &y->w->batch->keys[t];
        const float *u = y->u + t * (size_t)dim;
        float *out = y->noisy + t * (size_t)dim, eps[4];
        double squares = 0;
        for (int i = 0; i < dim; i++) squares += (double)u[i] * (double)u[i];
        float scale = (float)(y->w->s->sigma * sqrt(squares / dim));
        for (int i = 0; i < dim; i++) {
            if (i % 4 == 0) {
                uint32_t part = (uint32_t)key->part << 16 | key->position;
                uint32_t counter[4] = {key->item, part, (uint32_t)y->layer, (uint32_t)i / 4};
                vm_rng_normal4(y->w->s->seed, VM_RNG_NOISE, counter, eps);
            }
            out[i] = u[i] + scale * eps[i % 4];
        }
    }
}

static void compare(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const layer_work *y = context;
    const vm_config *c = &y->w->m->config;
    for (size_t t = begin; t < end; t++) {
        for (int i = 0; i < 2; i++) {
            float *p = y->p[i] + t * (size_t)c->n_experts;
            vm_kernels_get()->softmax(p, c->n_experts);
            vm_top_k(p, c->n_experts, c->top_k, y->chosen[i] + t * (size_t)c->top_k);
        }
        size_t first = t * (size_t)c->top_k;
        y->jaccard[t] = vm_jaccard(y->chosen[0] + first, y->chosen[1] + first, c->top_k);
    }
}

static vmoer_status measure_layer(watch *w, int layer, const float *u) {
    const vm_config *c = &w->m->config;
    const vm_linear *router = &w->m->layers[layer].ffn.router;
    size_t T = (size_t)w->batch->n_tokens, D = (size_t)c->dim, N = (size_t)c->n_experts, K = (size_t)c->top_k;
    layer_work y = {.w = w, .layer = layer, .u = u};
    vm_arena_reset(w->arena);
    y.noisy = vm_arena_alloc(w->arena, T * D, sizeof *y.noisy);
    y.jaccard = vm_arena_alloc(w->arena, T, sizeof *y.jaccard);
    bool ok = y.noisy && y.jaccard;
    for (int i = 0; i < 2; i++) {
        y.p[i] = vm_arena_alloc(w->arena, T * N, sizeof *y.p[i]);
        y.chosen[i] = vm_arena_alloc(w->arena, T * K, sizeof *y.chosen[i]);
        ok = ok && y.p[i] && y.chosen[i];
    }
    if (!ok) return vm_error(VMOER_ERROR_MEMORY, "no memory to watch the routing of %zu tokens", T);
    vm_pool_run_range(w->pool, T, TOKENS_A_TASK, add_noise, &y);
    for (int i = 0; i < 2; i++) {
        vm_linear_call call = {.l = router, .m = (int)T, .x = i ? y.noisy : u, .ldx = D, .y = y.p[i], .ldy = N};
        VM_TRY(vm_linear_forward(w->pool, w->arena, &call, 1));
    }
    vm_pool_run_range(w->pool, T, TOKENS_A_TASK, compare, &y);
    for (size_t t = 0; t < T; t++) w->sum[layer] += y.jaccard[t];
    return VMOER_OK;
}

static void capture(void *context, int layer, int n_tokens, const float *u) {
    (void)n_tokens;
    watch *w = context;
    if (w->status == VMOER_OK) w->status = measure_layer(w, layer, u);
}

/* Questions [first, first + n) through the model; the watch sums up. */
static vmoer_status run_pass(watch *w, vm_pass *pass, vm_arena *arena, const vm_examples *e, size_t first, int n) {
    vm_question questions[PASS_QUESTIONS];
    vm_questions q;
    vm_arena_reset(arena);
    for (int i = 0; i < n; i++)
        questions[i] = (vm_question){&e->prompts[first + (size_t)i], (uint32_t)first + (uint32_t)i};
    VM_TRY(vm_questions_build(arena, questions, n, VM_FORMAT_CLOZE, &q));
    q.batch.n_rows = q.batch.n_targets = 0; /* nothing is asked */
    vm_pass_options options = {.capture = capture, .capture_context = w};
    w->batch = &q.batch;
    w->status = VMOER_OK;
    VM_TRY(vm_pass_forward(pass, &q.batch, &options, NULL, NULL, NULL));
    w->tokens += (size_t)q.batch.n_tokens;
    return w->status;
}

vmoer_status vm_stability_measure(const vm_stability *s, vm_model *m, vm_pool *pool, vm_pass *pass,
                                  const vm_examples *e, const vmoer_hooks *hooks, double *jaccard) {
    size_t n = e->n < s->questions ? e->n : s->questions;
    vm_arena *arena = vm_arena_create();
    watch w = {.s = s, .m = m, .pool = pool, .arena = vm_arena_create(), .sum = jaccard};
    vmoer_status status = VMOER_OK;
    if (!arena || !w.arena) VM_GOTO(vm_error(VMOER_ERROR_MEMORY, "no memory to watch the routing"));
    if (!m->config.n_experts || n == 0)
        VM_GOTO(vm_error(VMOER_ERROR_ARGUMENT, "no router to watch, or no question to watch it by"));
    memset(jaccard, 0, (size_t)m->config.n_layers * sizeof *jaccard);
    for (size_t first = 0; first < n; first += PASS_QUESTIONS) {
        size_t count = n - first < PASS_QUESTIONS ? n - first : PASS_QUESTIONS;
        VM_GOTO(run_pass(&w, pass, arena, e, first, (int)count));
        VM_GOTO(vm_progress(hooks, "stability", first + count, n, NULL));
    }
    for (int l = 0; l < m->config.n_layers; l++) jaccard[l] /= (double)w.tokens;
done:
    vm_arena_free(arena);
    vm_arena_free(w.arena);
    return status;
}
