/* upcycle.c: a dense model becomes a Mixture-of-Experts: split by activations, distilled block by block, written as a
 * recipe and built from it. */
#include "api/internal.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "train/cluster.h"
#include "train/distill.h"
#include "train/recipe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

vmoer_upcycle_params vmoer_upcycle_params_default(void) {
    return (vmoer_upcycle_params){.questions = {.tasks = "openbookqa", .split = VMOER_SPLIT_TRAIN},
                                  .experts = 32,
                                  .shared = 8,
                                  .top_k = 12,
                                  .tokens = 16384,
                                  .steps = 250,
                                  .batch_tokens = 1536,
                                  .rank = 12,
                                  .learning_rate = 1e-3,
                                  .router_learning_rate = 2e-3,
                                  .spread = 0.5};
}

enum { CLUSTER_TOKENS = 2048, PASS_QUESTIONS = 32 };

static const vm_model_options forward_only = {.compute = VM_COMPUTE_BF16, .backward_from = -1};

typedef struct upcycle {
    const vmoer_upcycle_params *p;
    const vmoer_hooks *hooks;
    vm_pool *pool;
    vm_model *dense;
    vm_tokenizer *tokenizer;
    vm_examples texts, heldout;
    float *u;            /* [layers, tokens, D] feed-forward inputs of the dense model */
    int n_tokens, first; /* cached; where the pass at hand begins */
    json_t *layers;      /* per layer: relative error before and after */
} upcycle;

/* ---- running texts: question and right answer, one sequence each ---- */

static int right_tokens(const vm_examples *e, int i) {
    const vm_prompt *p = &e->prompts[i];
    int c = e->answers[i];
    return p->n_context + p->start[c + 1] - p->start[c];
}

/* Texts [first, first + n) as a batch of roots; every token's successor is a target. Arrays in the arena. */
static vmoer_status text_batch(const vm_examples *e, int first, int n, vm_arena *arena, vm_batch *b) {
    size_t tokens = 0;
    for (int i = 0; i < n; i++) tokens += (size_t)right_tokens(e, first + i);
    int32_t *ids = vm_arena_alloc(arena, tokens, sizeof *ids),
            *positions = vm_arena_alloc(arena, tokens, sizeof *positions);
    int32_t *rows = vm_arena_alloc(arena, tokens, sizeof *rows), *row = vm_arena_alloc(arena, tokens, sizeof *row),
            *id = vm_arena_alloc(arena, tokens, sizeof *id);
    vm_token_key *keys = vm_arena_alloc(arena, tokens, sizeof *keys);
    vm_segment *segments = vm_arena_alloc(arena, (size_t)n, sizeof *segments);
    if (!ids || !positions || !rows || !row || !id || !keys || !segments)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a batch of %d texts", n);
    *b = (vm_batch){.ids = ids,
                    .positions = positions,
                    .keys = keys,
                    .segments = segments,
                    .rows = rows,
                    .target_row = row,
                    .target_id = id};
    for (int i = 0; i < n; i++) {
        const vm_prompt *p = &e->prompts[first + i];
        int length = right_tokens(e, first + i);
        segments[b->n_segments++] = (vm_segment){b->n_tokens, length, -1};
        for (int t = 0; t < length; t++, b->n_tokens++) {
            ids[b->n_tokens] =
                t < p->n_context ? p->ids[t] : p->ids[p->start[e->answers[first + i]] + t - p->n_context];
            positions[b->n_tokens] = t;
            keys[b->n_tokens] = (vm_token_key){(uint32_t)(first + i), 0, (uint16_t)t};
            if (t == 0) continue;
            rows[b->n_rows] = b->n_tokens - 1;
            row[b->n_targets] = b->n_rows++;
            id[b->n_targets++] = ids[b->n_tokens];
        }
    }
    return VMOER_OK;
}

static void capture(void *context, int layer, int n_tokens, const float *u) {
    upcycle *c = context;
    size_t D = (size_t)c->dense->config.dim;
    int room = c->n_tokens - c->first, n = n_tokens < room ? n_tokens : room;
    memcpy(c->u + ((size_t)layer * (size_t)c->n_tokens + (size_t)c->first) * D, u, (size_t)n * D * sizeof *u);
}

static vmoer_status cache_inputs(upcycle *c) {
    int all = 0;
    for (int i = 0; i < (int)c->texts.n; i++) all += right_tokens(&c->texts, i);
    c->n_tokens = c->p->tokens < all ? c->p->tokens : all;
    c->u =
        vm_malloc((size_t)c->dense->config.n_layers * (size_t)c->n_tokens * (size_t)c->dense->config.dim, sizeof *c->u);
    vm_arena *arena = vm_arena_create();
    vm_pass *pass = NULL;
    vmoer_status status = c->u && arena ? VMOER_OK
                                        : vm_error(VMOER_ERROR_MEMORY, "no memory to cache %d tokens of %d layers",
                                                   c->n_tokens, c->dense->config.n_layers);
    if (status == VMOER_OK) status = vm_pass_create(c->dense, c->pool, &pass);
    vm_pass_options options = {.capture = capture, .capture_context = c};
    for (int i = 0; status == VMOER_OK && c->first < c->n_tokens; i += PASS_QUESTIONS) {
        vm_batch b;
        int n = (int)c->texts.n - i < PASS_QUESTIONS ? (int)c->texts.n - i : PASS_QUESTIONS;
        vm_arena_reset(arena);
        VM_GOTO(text_batch(&c->texts, i, n, arena, &b));
        b.n_rows = b.n_targets = 0; /* nothing is asked */
        VM_GOTO(vm_pass_forward(pass, &b, &options, NULL, NULL, NULL));
        c->first += b.n_tokens;
        VM_GOTO(vm_progress(c->hooks, "cache", (uint64_t)(c->first < c->n_tokens ? c->first : c->n_tokens),
                            (uint64_t)c->n_tokens, NULL));
    }
done:
    vm_pass_free(pass);
    vm_arena_free(arena);
    return status;
}

/* Mean nats a token of the held-out texts (question and right answer), by one way of routing. */
static vmoer_status nats(upcycle *c, vm_model *m, vm_routing routing, double *out) {
    vm_pass *pass = NULL;
    vm_arena *arena = vm_arena_create();
    vmoer_status status = arena ? vm_pass_create(m, c->pool, &pass) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    vm_pass_options o = {.routing = routing, .seed = c->p->seed};
    double sum = 0;
    size_t targets = 0;
    for (int i = 0; status == VMOER_OK && i < (int)c->heldout.n; i += PASS_QUESTIONS) {
        vm_batch b;
        int n = (int)c->heldout.n - i < PASS_QUESTIONS ? (int)c->heldout.n - i : PASS_QUESTIONS;
        vm_arena_reset(arena);
        VM_GOTO(text_batch(&c->heldout, i, n, arena, &b));
        float *log_probability = vm_arena_alloc(arena, (size_t)b.n_targets, sizeof *log_probability);
        if (!log_probability) VM_GOTO(vm_error(VMOER_ERROR_MEMORY, "no memory"));
        VM_GOTO(vm_pass_forward(pass, &b, &o, log_probability, NULL, NULL));
        for (int t = 0; t < b.n_targets; t++) sum -= (double)log_probability[t];
        targets += (size_t)b.n_targets;
    }
    *out = sum / (double)targets;
done:
    vm_pass_free(pass);
    vm_arena_free(arena);
    return status;
}

/* ---- finding a recipe ---- */

static vmoer_status read_dense(const upcycle *c, int layer, vm_dense_ffn *f) {
    static const char *const names[] = {"ffn_gate", "ffn_up", "ffn_down"};
    float *out[] = {f->gate, f->up, f->down};
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, names[i]);
        const vm_gguf_tensor *t = vm_gguf_find_tensor(c->dense->file, name); /* there: the model was loaded from it */
        if (!vm_dequantize(t->type, t->data, (size_t)c->dense->config.dim * (size_t)c->dense->config.shared_width,
                           out[i]))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: type %s is not supported", name, vm_dtype_name(t->type));
    }
    return VMOER_OK;
}

/* Order and starting router of a layer. */
static vmoer_status split_layer(upcycle *c, vm_recipe *r, int layer, const vm_dense_ffn *f) {
    int n = c->n_tokens < CLUSTER_TOKENS ? c->n_tokens : CLUSTER_TOKENS;
    const float *u = c->u + (size_t)layer * (size_t)c->n_tokens * (size_t)r->dim;
    float *out = vm_malloc((size_t)n * (size_t)r->dim, sizeof *out),
          *active = vm_malloc((size_t)n * (size_t)r->width, sizeof *active);
    vmoer_status status = out && active ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory to split layer %d", layer);
    if (status == VMOER_OK) status = vm_dense_ffn_run(f, c->pool, r->width, r->dim, n, u, out, active);
    if (status == VMOER_OK)
        status = vm_cluster_neurons(c->pool, active, n, r->width, r->shared_width, r->experts, r->expert_width,
                                    c->p->seed, r->layers[layer].order);
    if (status == VMOER_OK) status = vm_distill_router(r, layer, f, c->pool, u, n, c->p->spread);
    vm_free(out);
    vm_free(active);
    return status;
}

typedef vmoer_status (*layer_fn)(upcycle *c, vm_recipe *r, int layer, const vm_dense_ffn *f);

static vmoer_status distill_layer(upcycle *c, vm_recipe *r, int layer, const vm_dense_ffn *f) {
    const vmoer_upcycle_params *p = c->p;
    vm_distill_config d = {.steps = p->steps,
                           .batch_tokens = p->batch_tokens,
                           .learning_rate = p->learning_rate,
                           .router_learning_rate = p->router_learning_rate,
                           .spread = p->spread,
                           .seed = p->seed};
    double before, after;
    VM_TRY(vm_distill_layer(r, layer, f, c->pool, c->u + (size_t)layer * (size_t)c->n_tokens * (size_t)r->dim,
                            c->n_tokens, &d, &before, &after));
    vm_log(c->hooks, "layer %d: relative error %.4f -> %.4f", layer, before, after);
    json_array_append_new(c->layers,
                          json_pack("{s:i, s:f, s:f}", "layer", layer, "error_before", before, "error_after", after));
    return VMOER_OK;
}

static vmoer_status each_layer(upcycle *c, vm_recipe *r, const char *stage, layer_fn work) {
    size_t n = (size_t)r->width * (size_t)r->dim;
    float *weights = vm_malloc(3 * n, sizeof *weights);
    if (!weights) return vm_error(VMOER_ERROR_MEMORY, "no memory for a layer's weights");
    vm_dense_ffn f = {weights, weights + n, weights + 2 * n};
    vmoer_status status = VMOER_OK;
    for (int l = 0; l < r->n_layers; l++) {
        VM_GOTO(read_dense(c, l, &f));
        VM_GOTO(work(c, r, l, &f));
        VM_GOTO(vm_progress(c->hooks, stage, (uint64_t)l + 1, (uint64_t)r->n_layers, NULL));
    }
done:
    vm_free(weights);
    return status;
}

/* The name of a file beside the model: "moe.gguf" and ".recipe.safetensors" give "moe.recipe.safetensors". */
static vmoer_status path_beside(const char *gguf, const char *suffix, char out[4096]) {
    size_t n = strlen(gguf);
    if (n > 5 && strcmp(gguf + n - 5, ".gguf") == 0) n -= 5;
    if (n + strlen(suffix) >= 4096) return vm_error(VMOER_ERROR_LIMIT, "--output_path is too long");
    snprintf(out, 4096, "%.*s%s", (int)n, gguf, suffix);
    return VMOER_OK;
}

/* Builds the model at `path` and puts its nats a token by each way of routing into figures[key]. */
static vmoer_status measure(upcycle *c, const vm_recipe *r, const char *path, const char *key, json_t *figures) {
    static const struct {
        const char *name;
        vm_routing routing;
    } ways[] = {{"learned", VM_ROUTING_LEARNED}, {"oracle", VM_ROUTING_ORACLE}, {"random", VM_ROUTING_RANDOM}};
    json_t *o = json_object();
    vm_model *m;
    if (json_object_set_new(figures, key, o) != 0) return vm_error(VMOER_ERROR_MEMORY, "no memory for the record");
    VM_TRY(vm_recipe_build(r, c->p->model, path));
    VM_TRY(vm_model_load(path, &forward_only, c->pool, &m));
    vmoer_status status = VMOER_OK;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        double value;
        status = nats(c, m, ways[i].routing, &value);
        if (status != VMOER_OK) break;
        json_object_set_new(o, ways[i].name, json_real(value));
        vm_log(c->hooks, "%s, %s routing: %.4f nats a token on the held-out texts", key, ways[i].name, value);
    }
    vm_model_free(m);
    return status;
}

static json_t *config_of(const upcycle *c) {
    const vmoer_upcycle_params *p = c->p;
    json_t *config = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:I, s:s}", "experts", p->experts,
                               "shared", p->shared, "top_k", p->top_k, "rank", p->rank, "tokens", c->n_tokens, "steps",
                               p->steps, "batch_tokens", p->batch_tokens, "learning_rate", p->learning_rate,
                               "router_learning_rate", p->router_learning_rate, "spread", p->spread, "seed",
                               (json_int_t)p->seed, "tasks", p->questions.tasks);
    if (p->questions.limit) json_object_set_new(config, "limit", json_integer(p->questions.limit));
    vm_api_put_cuts(config, &p->questions);
    return config;
}

/* Finds the recipe and writes it; `figures` gets nats a token by stage and way of routing. */
static vmoer_status find_recipe(upcycle *c, vm_recipe *r, json_t *figures) {
    char path[4096], split[4096];
    VM_TRY(path_beside(c->p->output_path, ".recipe.safetensors", path));
    VM_TRY(path_beside(c->p->output_path, ".split.tmp", split));
    VM_TRY(cache_inputs(c));
    json_t *config = config_of(c);
    vmoer_status status = vm_api_training_text(config, r->training);
    json_decref(config);
    VM_TRY(status);
    VM_TRY(each_layer(c, r, "split", split_layer));
    /* Not at output_path: what stands there is finished. */
    status = measure(c, r, split, "split", figures);
    unlink(split);
    VM_TRY(status);
    VM_TRY(each_layer(c, r, "distill", distill_layer));
    VM_TRY(vm_recipe_save(r, path));
    return measure(c, r, c->p->output_path, "distilled", figures);
}

/* Finds the recipe, writes everything, and says how it went. */
static vmoer_status find_and_record(upcycle *c, vm_recipe *r, json_t **out) {
    char path[4096];
    double dense;
    VM_TRY(path_beside(c->p->output_path, ".training.json", path));
    VM_TRY(nats(c, c->dense, VM_ROUTING_LEARNED, &dense));
    json_t *figures = json_object();
    vmoer_status status = find_recipe(c, r, figures);
    json_t *record = json_pack("{s:s, s:s, s:{s:s, s:s}, s:o, s:O, s:f, s:o}", "vmoer", vmoer_version(), "kind",
                               "upcycle", "model", "name", c->dense->config.name, "fingerprint", c->dense->fingerprint,
                               "config", config_of(c), "layers", c->layers, "dense_nats", dense, "nats", figures);
    if (status == VMOER_OK && !record) status = vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    if (status == VMOER_OK) status = vm_json_save(path, record);
    if (status != VMOER_OK)
        json_decref(record);
    else
        *out = record;
    return status;
}

static vmoer_status search(upcycle *c, char **out_json) {
    const vmoer_upcycle_params *p = c->p;
    vm_recipe *r = NULL;
    json_t *record = NULL;
    if (p->tokens < 64 || p->steps < 1 || p->batch_tokens < 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "tokens %d, steps %d, batch_tokens %d are too few", p->tokens, p->steps,
                        p->batch_tokens);
    if (!(p->learning_rate > 0 && isfinite(p->learning_rate)) ||
        !(p->router_learning_rate >= 0 && isfinite(p->router_learning_rate)) ||
        !(p->spread >= 0 && isfinite(p->spread)))
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "learning_rate %g must be above 0, router_learning_rate %g and spread %g 0 or more",
                        p->learning_rate, p->router_learning_rate, p->spread);
    VM_TRY(vm_api_check_questions(&p->questions));
    vm_writer *w;
    VM_TRY(vm_writer_open(p->output_path, &w)); /* a place that cannot be written to: said now, not after the work */
    vm_writer_abort(w);
    VM_TRY(vm_pool_create(p->threads, &c->pool));
    VM_TRY(vm_model_load(p->model, &forward_only, c->pool, &c->dense));
    if (p->experts < 2 || p->shared < 0 || p->shared > p->experts - 2 || c->dense->config.shared_width % p->experts)
        return vm_error(VMOER_ERROR_ARGUMENT, "%d experts, %d of them shared, do not divide a feed-forward width of %d",
                        p->experts, p->shared, c->dense->config.shared_width);
    VM_TRY(vm_tokenizer_from_gguf(c->dense->file, &c->tokenizer));
    VM_TRY(vm_api_examples(&p->questions, "upcycling", c->tokenizer, VMOER_SPLIT_TRAIN, &c->texts));
    VM_TRY(vm_api_examples(&p->questions, "upcycling", c->tokenizer, VMOER_SPLIT_HELDOUT, &c->heldout));
    VM_TRY(vm_recipe_create(c->dense, p->experts - p->shared, c->dense->config.shared_width / p->experts, p->top_k,
                            p->rank, &r));
    vmoer_status status = find_and_record(c, r, &record);
    vm_recipe_free(r);
    return status == VMOER_OK ? vm_api_return_json(record, out_json) : status;
}

vmoer_status vmoer_upcycle(const vmoer_upcycle_params *p, const vmoer_hooks *hooks, char **out_json) {
    if (!p->model || !p->output_path)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "upcycling takes a dense model (-m) and the file to write (--output_path)");
    if (p->recipe) {
        vm_recipe *r;
        VM_TRY(vm_recipe_load(p->recipe, &r));
        vmoer_status status = vm_recipe_build(r, p->model, p->output_path);
        vm_recipe_free(r);
        return status == VMOER_OK ? vm_api_return_json(json_pack("{s:s, s:s, s:s}", "vmoer", vmoer_version(), "kind",
                                                                 "upcycle", "output", p->output_path),
                                                       out_json)
                                  : status;
    }
    upcycle c = {.p = p, .hooks = hooks, .layers = json_array()};
    vmoer_status status = search(&c, out_json);
    vm_examples_free(&c.texts);
    vm_examples_free(&c.heldout);
    vm_tokenizer_free(c.tokenizer);
    vm_model_free(c.dense);
    vm_pool_free(c.pool);
    vm_free(c.u);
    json_decref(c.layers);
    return status;
}
