/* upcycle.c: a dense model becomes a Mixture-of-Experts: split by activations, distilled block by block, written as a
 * recipe and built from it. */
#include "api/internal.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/utf8.h"
#include "train/cluster.h"
#include "train/lora.h"
#include "train/recipe.h"
#include "train/router_fit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

vmoer_upcycle_params vmoer_upcycle_params_default(void) {
    vmoer_upcycle_params p = {.train = vm_train_params_default(),
                              .experts = 32,
                              .shared = 0,
                              .top_k = 16,
                              .tokens = 2048,
                              .spread = 0.02,
                              .targets = "attention,experts",
                              .rank = 2};
    p.train.batch_size = 32;
    p.train.learning_rate = 3e-3;
    return p;
}

enum { PASS_QUESTIONS = 32 };

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
    json_t *history;     /* of the distillation; NULL: none */
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
static vmoer_status nats(upcycle *c, vm_model *m, vm_routing_mode routing, double *out) {
    vm_pass *pass = NULL;
    vm_arena *arena = vm_arena_create();
    vmoer_status status = arena ? vm_pass_create(m, c->pool, &pass) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    vm_pass_options o = {.routing = routing, .seed = c->p->train.seed};
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
        if (!vm_gguf_read_rows(t, 0, (size_t)t->ne[1], out[i]))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: type %s is not supported", name, vm_dtype_name(t->type));
    }
    return VMOER_OK;
}

/* Order and starting router of a layer. */
static vmoer_status split_layer(upcycle *c, vm_recipe *r, int layer, const vm_dense_ffn *f) {
    int n = c->n_tokens;
    const float *u = c->u + (size_t)layer * (size_t)c->n_tokens * (size_t)r->dim;
    float *out = vm_malloc((size_t)n * (size_t)r->dim, sizeof *out),
          *active = vm_malloc((size_t)n * (size_t)r->width, sizeof *active);
    vmoer_status status = out && active ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory to split layer %d", layer);
    if (status == VMOER_OK) status = vm_dense_ffn_run(f, c->pool, r->width, r->dim, n, u, out, active);
    if (status == VMOER_OK)
        status = vm_cluster_neurons(c->pool, active, n, r->width, r->shared_width, r->experts, r->expert_width,
                                    c->p->train.seed, r->layers[layer].order);
    if (status == VMOER_OK) status = vm_router_fit(r, layer, f, c->pool, u, n, c->p->spread);
    vm_free(out);
    vm_free(active);
    return status;
}

static vmoer_status split(upcycle *c, vm_recipe *r) {
    size_t n = (size_t)r->width * (size_t)r->dim;
    float *weights = vm_malloc(3 * n, sizeof *weights);
    if (!weights) return vm_error(VMOER_ERROR_MEMORY, "no memory for a layer's weights");
    vm_dense_ffn f = {weights, weights + n, weights + 2 * n};
    vmoer_status status = VMOER_OK;
    for (int l = 0; l < r->n_layers; l++) {
        VM_GOTO(read_dense(c, l, &f));
        VM_GOTO(split_layer(c, r, l, &f));
        VM_GOTO(vm_progress(c->hooks, "split", (uint64_t)l + 1, (uint64_t)r->n_layers, NULL));
    }
done:
    vm_free(weights);
    return status;
}

/* The name of a file beside the model: "moe.gguf" and ".recipe.safetensors" give "moe.recipe.safetensors". */
static vmoer_status path_beside(const char *gguf, const char *suffix, char out[4096]) {
    size_t n = strlen(gguf);
    if (vm_ends_with(gguf, ".gguf")) n -= 5;
    if (n + strlen(suffix) >= 4096) return vm_error(VMOER_ERROR_LIMIT, "--output_path is too long");
    snprintf(out, 4096, "%.*s%s", (int)n, gguf, suffix);
    return VMOER_OK;
}

/* Builds the model at `path` and puts its nats a token by each way of routing into figures[key]. */
static vmoer_status measure(upcycle *c, const vm_recipe *r, const char *path, const char *key, json_t *figures) {
    static const struct {
        const char *name;
        vm_routing_mode routing;
    } ways[] = {{"learned", VM_ROUTING_LEARNED}, {"oracle", VM_ROUTING_ORACLE}, {"random", VM_ROUTING_RANDOM}};
    json_t *o = json_object();
    vm_model *m;
    if (json_object_set_new(figures, key, o) != 0) return vm_error(VMOER_ERROR_MEMORY, "no memory for the record");
    VM_TRY(vm_recipe_build(r, c->pool, c->p->train.model, path));
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
    const vmoer_train_params *t = &p->train;
    json_t *config =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:f, s:i, s:I, s:s}", "base", c->dense->fingerprint, "experts", p->experts,
                  "shared", p->shared, "top_k", p->top_k, "tokens", c->n_tokens, "spread", p->spread, "rank", p->rank,
                  "seed", (json_int_t)t->seed, "tasks", t->questions.tasks);
    if (t->questions.limit) json_object_set_new(config, "limit", json_integer(t->questions.limit));
    vm_api_put_cuts(config, &t->questions);
    if (!p->rank) return config;
    json_t *loop = vm_training_loop_config(t);
    json_object_update(config, loop);
    json_decref(loop);
    json_object_set_new(config, "targets", json_string(p->targets));
    json_object_set_new(config, "router_learning_rate", json_real(p->router_learning_rate));
    return config;
}

/* ---- distillation ---- */

typedef struct distillation {
    upcycle *c;
    vm_recipe *recipe;
    vm_model *model;
    char path[4096]; /* of the recipe */
} distillation;

/* The recipe with what is trained now. */
static vmoer_status save_recipe(void *context, const char *folder, const json_t *record) {
    distillation *d = context;
    (void)folder, (void)record; /* both are the whole upcycling's, which names them itself */
    for (int l = 0; l < d->recipe->n_layers; l++)
        memcpy(d->recipe->layers[l].router, d->model->layers[l].ffn.router.weight->value,
               (size_t)d->recipe->experts * (size_t)d->recipe->dim * sizeof(float));
    return vm_recipe_save(d->recipe, d->model, d->path);
}

/* The routers whole, everything else by LoRA. */
static vmoer_status attach(const distillation *d) {
    const vmoer_upcycle_params *p = d->c->p;
    VM_TRY(vm_lora_attach(d->model, p->targets, p->rank, 2.0 * p->rank, p->train.seed, d->c->pool));
    for (int l = 0; l < d->recipe->n_layers; l++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.ffn_gate_inp", l);
        VM_TRY(vm_linear_train(&d->model->layers[l].ffn.router, name, d->recipe->layers[l].router));
    }
    return VMOER_OK;
}

/* The loop's own settings: its folder is beside the model. */
static vmoer_status loop_params(const vmoer_upcycle_params *p, char dir[4096], vmoer_train_params *out) {
    *out = p->train;
    out->output_path = dir;
    out->keep = VMOER_KEEP_LAST; /* the best look would be by the choices' NLL, which is not what is trained for */
    return path_beside(p->train.output_path, ".distill", dir);
}

static vmoer_status train(distillation *d, vm_pass *teacher, vm_pass *student, const json_t *config) {
    upcycle *c = d->c;
    vm_param_list trained = {NULL, 0};
    json_t *record = NULL;
    vmoer_train_params t;
    char dir[4096];
    VM_TRY(loop_params(c->p, dir, &t));
    VM_TRY(vm_model_params(d->model, &trained));
    float *rates;
    vmoer_status status = vm_training_rates(&trained, t.learning_rate, c->p->router_learning_rate, &rates);
    vm_train_job job = {.params = &t,
                        .config = (json_t *)(uintptr_t)config,
                        .stage = "distill",
                        .model = d->model,
                        .pool = c->pool,
                        .trained = trained,
                        .rates = rates,
                        .train = &c->texts,
                        .heldout = &c->heldout,
                        .save = save_recipe,
                        .context = d,
                        .objective = {.pass = student,
                                      .format = VM_FORMAT_CLOZE,
                                      .teacher = teacher,
                                      .draws = 1,
                                      .seed = t.seed,
                                      .memory = vm_training_memory(&t)}};
    if (status == VMOER_OK) status = vm_train_run(&job, c->hooks, &record);
    if (status == VMOER_OK) c->history = json_incref(json_object_get(record, "history"));
    json_decref(record);
    vm_free(trained.items);
    vm_free(rates);
    return status;
}

/* Trains the split model at `split` towards the dense one; the recipe is saved at d->path. */
static vmoer_status distill(distillation *d, const char *split_path) {
    upcycle *c = d->c;
    vm_pass *teacher = NULL, *student = NULL;
    vm_model_options options = {.compute = vm_api_compute(c->p->train.compute)};
    VM_TRY(vm_model_load(split_path, &options, c->pool, &d->model));
    json_t *config = config_of(c);
    vmoer_status status = attach(d);
    if (status == VMOER_OK) status = vm_pass_create(c->dense, c->pool, &teacher);
    if (status == VMOER_OK) status = vm_pass_create(d->model, c->pool, &student);
    if (status == VMOER_OK) status = train(d, teacher, student, config);
    json_decref(config);
    vm_pass_free(teacher);
    vm_pass_free(student);
    vm_model_free(d->model);
    return status;
}

/* Finds the recipe and writes it; `figures` gets nats a token by stage and way of routing. */
static vmoer_status find_recipe(upcycle *c, vm_recipe *r, json_t *figures) {
    distillation d = {.c = c, .recipe = r};
    char split_path[4096];
    VM_TRY(path_beside(c->p->train.output_path, ".recipe.safetensors", d.path));
    VM_TRY(path_beside(c->p->train.output_path, ".split.tmp", split_path));
    VM_TRY(cache_inputs(c));
    json_t *config = config_of(c);
    vmoer_status status = vm_api_training_text(config, r->training);
    json_decref(config);
    VM_TRY(status);
    VM_TRY(split(c, r));
    /* Not at output_path: what stands there is finished. */
    status = measure(c, r, split_path, "split", figures);
    if (status == VMOER_OK) status = c->p->rank ? distill(&d, split_path) : vm_recipe_save(r, NULL, d.path);
    unlink(split_path);
    VM_TRY(status);
    vm_recipe *saved;
    VM_TRY(vm_recipe_load(d.path, &saved));
    status = c->p->rank ? measure(c, saved, c->p->train.output_path, "distilled", figures)
                        : vm_recipe_build(saved, c->pool, c->p->train.model, c->p->train.output_path);
    vm_recipe_free(saved);
    return status;
}

/* Finds the recipe, writes everything, and says how it went. */
static vmoer_status find_and_record(upcycle *c, vm_recipe *r, json_t **out) {
    char path[4096];
    double dense;
    VM_TRY(path_beside(c->p->train.output_path, ".training.json", path));
    VM_TRY(nats(c, c->dense, VM_ROUTING_LEARNED, &dense));
    json_t *figures = json_object();
    vmoer_status status = find_recipe(c, r, figures);
    json_t *record =
        json_pack("{s:s, s:s, s:{s:s, s:s}, s:o, s:o, s:f, s:o}", "vmoer", vmoer_version(), "kind", "upcycle", "model",
                  "name", c->dense->config.name, "fingerprint", c->dense->fingerprint, "config", config_of(c),
                  "history", c->history ? json_incref(c->history) : json_array(), "dense_nats", dense, "nats", figures);
    if (status == VMOER_OK && !record) status = vm_error(VMOER_ERROR_MEMORY, "no memory for the training record");
    if (status == VMOER_OK) status = vm_json_save(path, record);
    if (status != VMOER_OK)
        json_decref(record);
    else
        *out = record;
    return status;
}

/* Said now, not after the split. */
static vmoer_status check_distillation(const vmoer_upcycle_params *p) {
    vmoer_train_params loop;
    char dir[4096];
    VM_TRY(loop_params(p, dir, &loop));
    VM_TRY(vm_train_check(&loop));
    VM_TRY(vm_training_check_memory(&loop));
    VM_TRY(vm_train_check_folder(&loop));
    VM_TRY(vm_training_check_rates(loop.learning_rate, p->router_learning_rate));
    VM_TRY(vm_lora_check(p->targets, p->rank, 2.0 * p->rank));
    return strstr(p->targets, "router")
               ? vm_error(VMOER_ERROR_ARGUMENT, "--targets %s: upcycling trains the routers themselves", p->targets)
               : VMOER_OK;
}

static vmoer_status search(upcycle *c, char **out_json) {
    const vmoer_upcycle_params *p = c->p;
    vm_recipe *r = NULL;
    json_t *record = NULL;
    if (p->tokens < 64) return vm_error(VMOER_ERROR_ARGUMENT, "tokens %d are too few, must be 64 or more", p->tokens);
    if (p->rank < 0 || !(p->spread >= 0 && isfinite(p->spread)))
        return vm_error(VMOER_ERROR_ARGUMENT, "rank %d and spread %g must be 0 or more", p->rank, p->spread);
    if (p->rank) VM_TRY(check_distillation(p));
    VM_TRY(vm_api_check_questions(&p->train.questions));
    vm_writer *w;
    VM_TRY(
        vm_writer_open(p->train.output_path, &w)); /* a place that cannot be written to: said now, not after the work */
    vm_writer_abort(w);
    VM_TRY(vm_model_load(p->train.model, &forward_only, c->pool, &c->dense));
    if (p->experts < 2 || p->shared < 0 || p->shared > p->experts - 2 || c->dense->config.shared_width % p->experts)
        return vm_error(VMOER_ERROR_ARGUMENT, "%d experts, %d of them shared, do not divide a feed-forward width of %d",
                        p->experts, p->shared, c->dense->config.shared_width);
    VM_TRY(vm_tokenizer_open(c->dense->file, &c->tokenizer));
    VM_TRY(vm_api_examples(&p->train.questions, "upcycling", c->tokenizer, VMOER_SPLIT_TRAIN, &c->texts));
    VM_TRY(vm_api_examples(&p->train.questions, "upcycling", c->tokenizer, VMOER_SPLIT_HELDOUT, &c->heldout));
    VM_TRY(
        vm_recipe_create(c->dense, p->experts - p->shared, c->dense->config.shared_width / p->experts, p->top_k, &r));
    vmoer_status status = find_and_record(c, r, &record);
    vm_recipe_free(r);
    return status == VMOER_OK ? vm_api_return_json(record, out_json) : status;
}

static vmoer_status rebuild(const upcycle *c, char **out_json) {
    vm_recipe *r;
    VM_TRY(vm_recipe_load(c->p->recipe, &r));
    vmoer_status status = vm_recipe_build(r, c->pool, c->p->train.model, c->p->train.output_path);
    vm_recipe_free(r);
    VM_TRY(status);
    return vm_api_return_json(
        json_pack("{s:s, s:s, s:s}", "vmoer", vmoer_version(), "kind", "upcycle", "output", c->p->train.output_path),
        out_json);
}

vmoer_status vmoer_upcycle(const vmoer_upcycle_params *p, const vmoer_hooks *hooks, char **out_json) {
    if (!p->train.model || !p->train.output_path)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "upcycling takes a dense model (-m) and the file to write (--output_path)");
    upcycle c = {.p = p, .hooks = hooks};
    VM_TRY(vm_pool_create(p->train.threads, &c.pool));
    vmoer_status status = p->recipe ? rebuild(&c, out_json) : search(&c, out_json);
    vm_examples_free(&c.texts);
    vm_examples_free(&c.heldout);
    vm_tokenizer_free(c.tokenizer);
    vm_model_free(c.dense);
    vm_pool_free(c.pool);
    vm_free(c.u);
    json_decref(c.history);
    return status;
}
