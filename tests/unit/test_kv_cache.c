/* test_kv_cache.c: a sequence run piece by piece over its cache against the whole of it in one batch: the same bits
 * for every token, however it is cut, by any number of threads, on every table this CPU can run, with routers that
 * draw too; going back to an earlier token; and what is refused, with nothing changed. */
#include "kernels/kernels.h"
#include "model_fixture.h"

enum { LENGTH = 120, VOCAB = 272, MAX_TABLES = 8 };

typedef struct bench {
    vm_model *m;
    vm_pool *pool;
    vm_pass *pass;
    vm_router *router;
    vm_arena *arena;
    int32_t ids[LENGTH], rows[LENGTH];
} bench;

static bench open_bench(const char *name, vm_compute compute, int threads, const char *kind) {
    bench b = {.m = NULL};
    char file[64];
    snprintf(file, sizeof file, "%s.gguf", name);
    OK(vm_pool_create(threads, &b.pool));
    OK(vm_model_load(golden_path(file), &(vm_model_options){.compute = compute, .backward_from = -1}, b.pool, &b.m));
    OK(vm_pass_create(b.m, b.pool, &b.pass));
    vm_rng rng = vm_rng_start(17, VM_RNG_INIT, 0);
    if (kind) {
        vm_router_config config = {.n_layers = 2,
                                   .layers = {0, 1},
                                   .n_experts = 8,
                                   .dim = b.m->config.dim,
                                   .width = 8,
                                   .prior_scale = 1,
                                   .initial_scale = 1,
                                   .seed = 3,
                                   .temperature = 1};
        snprintf(config.kind, sizeof config.kind, "%s", kind);
        vm_router_config_complete(&config);
        OK(vm_router_create(&config, &b.router));
        stir_router(b.router, 0.2f, &rng);
    }
    b.arena = vm_arena_create();
    for (int t = 0; t < LENGTH; t++) {
        b.ids[t] = (int32_t)vm_rng_below(&rng, (uint32_t)b.m->config.n_vocab);
        b.rows[t] = t;
    }
    return b;
}

static void close_bench(bench *b) {
    vm_arena_free(b->arena);
    vm_router_free(b->router);
    vm_pass_free(b->pass);
    vm_model_free(b->m);
    vm_pool_free(b->pool);
}

static vm_kv_cache *new_cache(const bench *b) {
    const vm_config *c = &b->m->config;
    vm_kv_cache *cache;
    OK(vm_kv_cache_create(c->n_layers, c->n_kv_heads, c->head_dim, c->context, 0, &cache));
    return cache;
}

/* Tokens [first, first + n) after those before them, every one asked: logits[n, V]. */
static vmoer_status run(bench *b, vm_kv_cache *cache, int first, int n, const vm_pass_options *options, float *logits) {
    vm_batch batch;
    vm_arena_reset(b->arena);
    OK(vm_sequence_build(b->arena, b->ids + first, n, first, &batch));
    batch.rows = b->rows, batch.n_rows = n;
    batch.cache = cache;
    return vm_pass_forward(b->pass, &batch, options, NULL, NULL, logits);
}

static float *new_logits(const bench *b) {
    float *logits = vm_malloc((size_t)LENGTH * (size_t)b->m->config.n_vocab, sizeof *logits);
    assert_non_null(logits);
    return logits;
}

/* The first piece, and all that follow; tokens. 33 and 31 end in the middle of a panel and grow the cache. */
static const int cuts[][2] = {{1, 1}, {33, 31}, {100, 1}, {3, 17}, {LENGTH, 1}};
enum { CUTS = sizeof cuts / sizeof *cuts };

static void assert_pieces(bench *b, const vm_pass_options *options, const float *whole, const char *what) {
    size_t V = (size_t)b->m->config.n_vocab;
    float *logits = new_logits(b);
    for (int cut = 0; cut < CUTS; cut++) {
        vm_kv_cache *cache = new_cache(b);
        for (int at = 0, n; at < LENGTH; at += n) {
            n = vm_at_most(cuts[cut][at > 0], LENGTH - at);
            OK(run(b, cache, at, n, options, logits + (size_t)at * V));
            assert_int_equal(cache->length, at + n);
        }
        for (size_t t = 0; t < LENGTH; t++)
            if (memcmp(logits + t * V, whole + t * V, V * sizeof *logits) != 0)
                fail_msg("%s, cut %d: token %zu differs by %g", what, cut, t,
                         largest_difference(logits + t * V, whole + t * V, V));
        vm_kv_cache_free(cache);
    }
    vm_free(logits);
}

static const vm_compute both[] = {VM_COMPUTE_F32, VM_COMPUTE_BF16};

static void test_models(void **state) {
    (void)state;
    for (int model = 0; model < TINY_MODELS; model++)
        for (int c = 0; c < 2; c++) {
            bench b = open_bench(tiny_models[model], both[c], 1, NULL),
                  threads = open_bench(tiny_models[model], both[c], 3, NULL);
            float *whole = new_logits(&b);
            OK(run(&b, NULL, 0, LENGTH, &(vm_pass_options){.facts = false}, whole));
            assert_pieces(&b, &(vm_pass_options){.facts = true}, whole, tiny_models[model]);
            assert_pieces(&threads, &(vm_pass_options){.facts = false}, whole, "three threads");
            vm_free(whole);
            close_bench(&b);
            close_bench(&threads);
        }
}

static void test_tables(void **state) {
    (void)state;
    const vm_kernels *tables[MAX_TABLES];
    int n = vm_kernels_all(tables, MAX_TABLES);
    for (int t = 0; t < n; t++)
        for (int c = 0; c < 2; c++) {
            vm_kernels_force(tables[t]);
            bench b = open_bench("tiny-moe", both[c], 1, NULL);
            float *whole = new_logits(&b);
            OK(run(&b, NULL, 0, LENGTH, &(vm_pass_options){.facts = false}, whole));
            assert_pieces(&b, &(vm_pass_options){.facts = false}, whole, tables[t]->name);
            vm_free(whole);
            close_bench(&b);
        }
    vm_kernels_force(NULL);
}

/* What a token draws depends on who it is, on the seed and on the number of the pass. */
static void test_routers(void **state) {
    (void)state;
    static const struct {
        const char *kind;
        vm_inference inference;
        uint64_t step;
    } ways[] = {
        {"vglr-fc", VM_INFERENCE_SAMPLE, 0}, {"vglr-fc", VM_INFERENCE_PASSES, 0}, {"vglr-fc", VM_INFERENCE_PASSES, 7},
        {"vglr-mf", VM_INFERENCE_TILTED, 0}, {"vtsr", VM_INFERENCE_PASSES, 2},
    };
    enum { WAYS = sizeof ways / sizeof *ways };
    for (int c = 0; c < 2; c++) {
        float *first = NULL;
        for (int w = 0; w < WAYS; w++) {
            bench b = open_bench("tiny-moe", both[c], 2, ways[w].kind);
            vm_pass_options options = {.router = b.router,
                                       .inference = ways[w].inference,
                                       .samples = 8,
                                       .seed = 6,
                                       .step = ways[w].step,
                                       .facts = true};
            float *whole = new_logits(&b);
            OK(run(&b, NULL, 0, LENGTH, &options, whole));
            assert_pieces(&b, &options, whole, ways[w].kind);
            if (first) assert_true(largest_difference(first, whole, LENGTH * VOCAB) > 1e-3);
            vm_free(first);
            first = whole;
            close_bench(&b);
        }
        vm_free(first);
    }
}

/* A shorter length forgets: what comes after is as if the rest had never been. */
static void test_back(void **state) {
    (void)state;
    enum { KEPT = 37 };
    bench b = open_bench("tiny-moe", VM_COMPUTE_BF16, 1, NULL);
    vm_pass_options options = {.facts = false};
    size_t V = (size_t)b.m->config.n_vocab;
    vm_kv_cache *cache = new_cache(&b);
    float *whole = new_logits(&b), *logits = new_logits(&b);
    OK(run(&b, cache, 0, LENGTH, &options, logits));
    for (int t = KEPT; t < LENGTH; t++) b.ids[t] = (b.ids[t] + 1) % (int32_t)V;
    OK(run(&b, NULL, 0, LENGTH, &options, whole));
    cache->length = KEPT;
    OK(run(&b, cache, KEPT, LENGTH - KEPT, &options, logits));
    assert_memory_equal(logits, whole + KEPT * V, (LENGTH - KEPT) * V * sizeof *logits);
    vm_kv_cache_free(cache);
    vm_free(whole);
    vm_free(logits);
    close_bench(&b);
}

static void refused(vmoer_status status, vmoer_status expected, const char *text) {
    assert_int_equal(status, expected);
    if (!strstr(vm_error_text(), text)) fail_msg("'%s' is not in: %s", text, vm_error_text());
}

static void test_refused(void **state) {
    (void)state;
    bench b = open_bench("tiny-moe", VM_COMPUTE_F32, 1, "vglr-fc");
    vm_pass_options options = {.facts = false};
    const vm_config *c = &b.m->config;
    float *logits = new_logits(&b);
    vm_kv_cache *cache, *other;
    /* Two of the limits: one of tokens, one of bytes, that 100 tokens pass and the doubling to 128 does not. */
    OK(vm_kv_cache_create(c->n_layers, c->n_kv_heads, c->head_dim, 110, 0, &cache));
    size_t bytes = vm_kv_cache_bytes(cache, 100);
    assert_true(bytes < vm_kv_cache_bytes(cache, 110));
    cache->most_bytes = bytes;
    OK(run(&b, cache, 0, 50, &options, logits));
    assert_int_equal(cache->capacity, 64);
    OK(run(&b, cache, 50, 50, &options, logits));
    assert_int_equal(cache->capacity, 100);
    refused(run(&b, cache, 100, 1, &options, logits), VMOER_ERROR_LIMIT, "101 tokens are");
    cache->most_bytes = 0;
    refused(run(&b, cache, 100, 11, &options, logits), VMOER_ERROR_LIMIT, "111 tokens, the context is one of 110");
    assert_int_equal(cache->length, 100);

    refused(run(&b, cache, 99, 1, &options, logits), VMOER_ERROR_ARGUMENT, "position 99 after 100");
    vm_pass_options training = {.training = true, .router = b.router, .sign = 1};
    refused(run(&b, cache, 100, 1, &training, logits), VMOER_ERROR_ARGUMENT, "not in training");
    OK(vm_kv_cache_create(c->n_layers, c->n_kv_heads, c->head_dim + 1, 110, 0, &other));
    refused(run(&b, other, 0, 1, &options, logits), VMOER_ERROR_ARGUMENT, "a cache of 2 layers, 2 heads of 9");
    /* A pass run again would find its own tokens in the cache. */
    OK(run(&b, cache, 100, 1,
           &(vm_pass_options){.router = b.router, .inference = VM_INFERENCE_PASSES, .samples = 2, .seed = 1}, logits));
    refused(vm_pass_again(b.pass, 1, NULL, NULL), VMOER_ERROR_ARGUMENT, "a pass again");
    vm_kv_cache_free(other);
    vm_kv_cache_free(cache);
    vm_free(logits);
    close_bench(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models), cmocka_unit_test(test_tables),  cmocka_unit_test(test_routers),
        cmocka_unit_test(test_back),   cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
