/* test_generate.c: what a model says of the next token, held to whole passes over the sequence: with one pass and with
 * several; however the sequence came, by any batch size; what is kept of an earlier one; a token's text, where
 * characters end later than they begin; and the public call: where it ends, and what it remembers. */
#include "infer/generate.h"
#include "model_fixture.h"
#include "vmoer/vmoer.h"

enum { PROMPT = 70, STEPS = 20, LENGTH = PROMPT + STEPS, PASSES = 3 };

static vm_session *open_session(const char *name, int threads, bool router) {
    char file[64];
    vm_session *s;
    snprintf(file, sizeof file, "%s.gguf", name);
    OK(vm_session_open(
        golden_path(file),
        &(vm_session_options){.compute = VM_COMPUTE_BF16, .inference = -1, .seed = 5, .threads = threads}, &s));
    if (!router) return s;
    vm_router_config config = {.n_layers = 1,
                               .layers = {1},
                               .n_experts = 8,
                               .dim = s->model->config.dim,
                               .kind = "vglr-fc",
                               .width = 8,
                               .prior_scale = 1,
                               .initial_scale = 1,
                               .seed = 3,
                               .temperature = 1};
    OK(vm_router_create(&config, &s->router));
    vm_rng rng = vm_rng_start(17, VM_RNG_INIT, 0);
    stir_router(s->router, 0.2f, &rng);
    s->options.router = s->router;
    s->options.inference = VM_INFERENCE_PASSES;
    s->options.samples = PASSES;
    return s;
}

static vm_generation *open_generation(vm_session *s, int batch_size) {
    vm_generation *g;
    vm_generation_options o = {.context = s->model->config.context, .batch_size = batch_size};
    OK(vm_generation_create(s, &o, &g));
    return g;
}

static void some_ids(const vm_session *s, int32_t *ids) {
    vm_rng rng = vm_rng_start(2, VM_RNG_TEXT, 0);
    for (int i = 0; i < LENGTH; i++) ids[i] = (int32_t)vm_rng_below(&rng, (uint32_t)s->model->config.n_vocab);
}

/* What whole passes over ids[n] say: logits[V], the first pass's or the logarithm of the mean probability. */
static vm_next whole(vm_session *s, const int32_t *ids, int n, float *logits) {
    size_t V = (size_t)s->model->config.n_vocab;
    int passes = s->options.inference == VM_INFERENCE_PASSES ? PASSES : 1, L = s->model->config.n_layers;
    double mean[1024] = {0};
    assert_true(V <= 1024);
    vm_next next = {.logits = logits};
    for (int pass = 0; pass < passes; pass++) {
        vm_batch batch;
        vm_pass_options options = s->options;
        options.facts = true, options.step = (uint64_t)pass;
        vm_arena_reset(s->arena);
        OK(vm_sequence_build(s->arena, ids, n, 0, &batch));
        OK(vm_pass_forward(s->pass, &batch, &options, NULL, NULL, logits));
        double sum = 0, entropy = 0;
        for (size_t i = 0; i < V; i++) sum += exp((double)logits[i]);
        for (size_t i = 0; i < V; i++) {
            double p = exp((double)logits[i]) / sum;
            mean[i] += p / passes, entropy -= p * log(p);
        }
        next.expected_entropy += entropy / passes;
        if (!s->model->config.n_experts) continue;
        vm_facts facts = vm_pass_facts(s->pass);
        for (int l = 0; l < L; l++) next.gate_entropy += (double)facts.gate_entropy[l * n + n - 1] / (L * passes);
        next.logit_variance += (double)facts.trace[(L - 1) * n + n - 1] / passes;
    }
    for (size_t i = 0; i < V; i++) next.entropy -= mean[i] * log(mean[i]);
    for (size_t i = 0; passes > 1 && i < V; i++) logits[i] = (float)log(mean[i]);
    return next;
}

static void near(double a, double b, double tolerance, const char *what) {
    if (!(fabs(a - b) <= tolerance)) fail_msg("%s: %.12g, not %.12g", what, a, b);
}

static void check_sequence(const char *name, bool router) {
    static const int batch_sizes[] = {512, 17, 1};
    for (int way = 0; way < 3; way++) {
        vm_session *s = open_session(name, way == 1 ? 3 : 1, router);
        vm_generation *g = open_generation(s, batch_sizes[way]);
        size_t V = (size_t)s->model->config.n_vocab, kept;
        int32_t ids[LENGTH];
        float logits[1024];
        some_ids(s, ids);
        OK(vm_generation_set(g, ids, PROMPT, &kept));
        assert_int_equal(kept, 0);
        for (int n = PROMPT; n < LENGTH; n++) {
            vm_next got, want;
            OK(vm_generation_next(g, NULL, &got));
            want = whole(s, ids, n, logits);
            if (router)
                assert_true(largest_difference(got.logits, logits, V) < 1e-6);
            else
                assert_memory_equal(got.logits, logits, V * sizeof *logits);
            double sum = 0;
            for (size_t i = 0; i < V; i++) sum += exp((double)got.logits[i]);
            near(got.log_sum_exp, log(sum), 1e-12, "log sum exp");
            near(got.entropy, want.entropy, 1e-6, "entropy");
            if (s->model->config.n_experts)
                near(got.gate_entropy, want.gate_entropy, 1e-6, "gate entropy");
            else
                assert_true(isnan(got.gate_entropy));
            assert_true(isnan(got.routing_temperature));
            assert_true(isnan(got.mutual_information) == !router && isnan(got.logit_variance) == !router);
            if (router) {
                near(got.expected_entropy, want.expected_entropy, 1e-6, "expected entropy");
                near(got.mutual_information, want.entropy - want.expected_entropy, 1e-6, "mutual information");
                near(got.logit_variance, want.logit_variance, 1e-6 * want.logit_variance, "trace");
                assert_true(got.mutual_information > 1e-4);
            }
            OK(vm_generation_add(g, ids[n]));
        }
        /* Another end to the same beginning, and nothing new at all. */
        ids[PROMPT - 5] = (ids[PROMPT - 5] + 1) % (int32_t)V;
        OK(vm_generation_set(g, ids, PROMPT, &kept));
        assert_int_equal(kept, PROMPT - 5);
        for (int again = 0; again < 2; again++) {
            vm_next got;
            OK(vm_generation_next(g, NULL, &got));
            whole(s, ids, PROMPT, logits);
            assert_true(largest_difference(got.logits, logits, V) < (router ? 1e-6 : 1e-30));
        }
        OK(vm_generation_set(g, ids, PROMPT, &kept));
        assert_int_equal(kept, PROMPT - 1);
        vm_generation_free(g);
        vm_session_free(s);
    }
}

static void test_dense(void **state) {
    (void)state;
    check_sequence("tiny-llama", false);
}

static void test_experts(void **state) {
    (void)state;
    check_sequence("tiny-moe", false);
}

static void test_passes(void **state) {
    (void)state;
    check_sequence("tiny-moe", true);
}

typedef struct watch {
    uint64_t done, total;
    int calls, stop_at;
} watch;

static int on_progress(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    watch *w = user;
    (void)note;
    assert_string_equal(stage, "prompt");
    assert_true(done > w->done && (!w->total || total == w->total));
    w->done = done, w->total = total;
    return ++w->calls == w->stop_at;
}

/* Stopped within the prompt, the sequence goes on where it was. */
static void test_interrupted(void **state) {
    (void)state;
    vm_session *s = open_session("tiny-moe", 1, true);
    vm_generation *g = open_generation(s, 16);
    int32_t ids[LENGTH];
    float logits[1024];
    size_t kept;
    watch w = {.stop_at = 7};
    vmoer_hooks hooks = {.progress = on_progress, .user = &w};
    vm_next next;
    some_ids(s, ids);
    OK(vm_generation_set(g, ids, PROMPT, &kept));
    assert_int_equal(vm_generation_next(g, &hooks, &next), VMOER_ERROR_INTERRUPTED);
    assert_true(w.done < w.total && w.total == PASSES * PROMPT);
    OK(vm_generation_set(g, ids, PROMPT, &kept));
    assert_int_equal(kept, 0); /* the third pass has not begun */
    OK(vm_generation_next(g, NULL, &next));
    whole(s, ids, PROMPT, logits);
    assert_true(largest_difference(next.logits, logits, (size_t)s->model->config.n_vocab) < 1e-6);
    vm_generation_free(g);
    vm_session_free(s);
}

static void test_refused(void **state) {
    (void)state;
    vm_session *s = open_session("tiny-moe", 1, false);
    vm_generation *g;
    vm_next next;
    int32_t ids[LENGTH];
    size_t kept;
    some_ids(s, ids);
    assert_int_equal(vm_generation_create(s, &(vm_generation_options){.context = 129, .batch_size = 1}, &g),
                     VMOER_ERROR_LIMIT);
    assert_int_equal(vm_generation_create(s, &(vm_generation_options){.context = 9, .batch_size = 0}, &g),
                     VMOER_ERROR_ARGUMENT);
    OK(vm_generation_create(s, &(vm_generation_options){.context = 9, .batch_size = 4, .memory = 1000}, &g));
    assert_int_equal(vm_generation_set(g, ids, 10, &kept), VMOER_ERROR_LIMIT);
    OK(vm_generation_set(g, ids, 9, &kept));
    assert_int_equal(vm_generation_add(g, 1), VMOER_ERROR_LIMIT);
    assert_int_equal(vm_generation_next(g, NULL, &next), VMOER_ERROR_LIMIT);
    assert_non_null(strstr(vm_error_text(), "allowed"));
    vm_generation_free(g);
    vm_session_free(s);
}

/* The tokens of these bytes, one a token. */
static void stream_of(const vm_session *s, const char *bytes, size_t n, const char *const *expected) {
    vm_stream stream = {.text = NULL};
    for (size_t i = 0; i < n; i++) {
        int32_t id = -1;
        for (int32_t k = 0; k < (int32_t)vm_tokenizer_size(s->tokenizer) && id < 0; k++) {
            char *text;
            size_t length;
            OK(vm_tokenizer_decode(s->tokenizer, &k, 1, true, &text, &length));
            if (length == 1 && text[0] == bytes[i]) id = k;
            vm_free(text);
        }
        assert_true(id >= 0);
        OK(vm_stream_add(&stream, s->tokenizer, id));
        assert_string_equal(stream.text, expected[i]);
        assert_int_equal(stream.length, strlen(expected[i]));
    }
    /* A token that the tokenizer does not know says nothing. */
    OK(vm_stream_add(&stream, s->tokenizer, (int32_t)vm_tokenizer_size(s->tokenizer)));
    assert_string_equal(stream.text, "");
    vm_stream_free(&stream);
}

static void test_stream(void **state) {
    (void)state;
    vm_session *s = open_session("tiny-moe", 1, false);
#define BAD "\xef\xbf\xbd"
    stream_of(s, "a\xe2\x82\xac\xf0\x9f\x98\x80z", 9,
              (const char *const[]){"a", "", "", "\xe2\x82\xac", "", "", "", "\xf0\x9f\x98\x80", "z"});
    /* Lone continuations, a character that another one cuts short, overlong and surrogate forms. */
    stream_of(s, "\x80\xe2\x82x\xc0\xaf\xed\xa0\x80y", 10,
              (const char *const[]){BAD, "", "", BAD BAD "x", "", BAD BAD, "", "", BAD BAD BAD, "y"});
    vm_session_free(s);
}

typedef struct taken {
    int n, most;
    int32_t id[128];
    char text[1024];
    size_t length;
} taken;

static int on_token(void *user, const vmoer_token *t) {
    taken *all = user;
    assert_true(t->probability > 0 && t->probability <= 1 && t->entropy > 0);
    if (all->n) assert_true(t->position > all->n);
    all->id[all->n++] = t->id;
    memcpy(all->text + all->length, t->text, t->text_length);
    all->length += t->text_length;
    return all->n == all->most;
}

static void test_public(void **state) {
    (void)state;
    vmoer_model *m;
    vmoer_generated g;
    taken one = {.most = 0}, two = {.most = 7};
    vmoer_generate_params p = vmoer_generate_params_default();
    OK(vmoer_model_load(golden_path("tiny-moe.gguf"), NULL, &m));
    assert_int_equal(vmoer_generate(m, &p, NULL, &g), VMOER_ERROR_ARGUMENT); /* no prompt */
    p.prompt = "Hello, hello", p.max_tokens = 20, p.on_token = on_token, p.user = &one;
    OK(vmoer_generate(m, &p, NULL, &g));
    assert_true(g.stop == VMOER_STOP_LENGTH && g.tokens == 20 && one.n == 20 && g.kept_tokens == 0);
    /* Once more, on what is remembered, until somebody has enough. */
    p.user = &two;
    OK(vmoer_generate(m, &p, NULL, &g));
    assert_true(g.stop == VMOER_STOP_ASKED && g.tokens == 7 && two.n == 7 && g.kept_tokens == g.prompt_tokens - 1);
    assert_memory_equal(one.id, two.id, sizeof *two.id * 7);
    assert_memory_equal(one.text, two.text, two.length);
    /* A seed by which the model ends its text. */
    vm_session *s = open_session("tiny-moe", 1, false);
    bool ended = false;
    p.temperature = 4, p.top_k = 0, p.top_p = 1, p.min_p = 0, p.max_tokens = -1;
    for (p.seed = 0; p.seed < 40 && !ended; p.seed++) {
        taken all = {.most = 0};
        p.user = &all;
        OK(vmoer_generate(m, &p, NULL, &g));
        ended = g.stop == VMOER_STOP_END;
        assert_true(ended || (g.stop == VMOER_STOP_CONTEXT && g.prompt_tokens + g.tokens == 128));
        for (int i = 0; i < all.n; i++) assert_false(vm_tokenizer_is_end(s->tokenizer, all.id[i]));
    }
    assert_true(ended);
    vm_session_free(s);
    vmoer_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),       cmocka_unit_test(test_experts), cmocka_unit_test(test_passes),
        cmocka_unit_test(test_interrupted), cmocka_unit_test(test_refused), cmocka_unit_test(test_stream),
        cmocka_unit_test(test_public),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
