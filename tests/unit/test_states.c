/* test_states.c: the states kept between passes: found for the very question and no other, within their bound; and
 * passes that begin at them have the bits of passes that do not, whatever of their batch is there, in training and
 * inference. */
#include "base/rng.h"
#include "model_fixture.h"
#include "train/lora.h"

enum { DIM = 32, VOCAB = 272, QUESTIONS = 4, LENGTH = 12 };

/* ---- the table alone ---- */

/* Question i: ids of its own, the first `context` of them the context, the rest choice 0. */
static void make_tokens(int i, int context, int32_t *ids, vm_token_key *keys, float *h) {
    for (int t = 0; t < LENGTH; t++) {
        ids[t] = i * LENGTH + t;
        keys[t] = (vm_token_key){(uint32_t)i, t >= context, (uint16_t)t};
        for (int d = 0; d < DIM; d++) h[t * DIM + d] = (float)(i * 1000 + t * DIM + d + context);
    }
}

static void test_found(void **state) {
    (void)state;
    enum { MANY = 300 }; /* the table grows a few times */
    vm_states *s;
    int32_t ids[LENGTH];
    vm_token_key keys[LENGTH];
    float h[LENGTH * DIM];
    OK(vm_states_create(3, DIM, 0, &s));
    assert_int_equal(vm_states_layer(s), 3);
    assert_true(vm_states_bytes(s) == 0);
    make_tokens(0, 5, ids, keys, h);
    assert_null(vm_states_find(s, LENGTH, ids, keys));
    for (int i = 0; i < MANY; i++) {
        make_tokens(i, 5, ids, keys, h);
        vm_states_put(s, LENGTH, ids, keys, h);
        /* The same tokens divided otherwise are another question. */
        make_tokens(i, 6, ids, keys, h);
        if (i % 2) vm_states_put(s, LENGTH, ids, keys, h);
    }
    size_t bytes = vm_states_bytes(s);
    assert_true(bytes > MANY * sizeof h);
    for (int i = 0; i < MANY; i++)
        for (int context = 5; context < 7; context++) {
            make_tokens(i, context, ids, keys, h);
            for (int t = 0; t < LENGTH; t++) keys[t].item += 77; /* another data set's number of it */
            const float *found = vm_states_find(s, LENGTH, ids, keys);
            if (context == 5 || i % 2)
                assert_memory_equal(found, h, sizeof h);
            else
                assert_null(found);
            assert_null(vm_states_find(s, LENGTH - 1, ids, keys));
            keys[LENGTH - 1].position++;
            assert_null(vm_states_find(s, LENGTH, ids, keys));
            keys[LENGTH - 1].position--;
            ids[i % LENGTH]++;
            assert_null(vm_states_find(s, LENGTH, ids, keys));
        }
    /* What is there stays, and is not kept twice. */
    make_tokens(9, 5, ids, keys, h);
    float other[LENGTH * DIM] = {0};
    vm_states_put(s, LENGTH, ids, keys, other);
    assert_memory_equal(vm_states_find(s, LENGTH, ids, keys), h, sizeof h);
    assert_true(vm_states_bytes(s) == bytes);
    vm_states_free(s);
    vm_states_free(NULL);
}

static void test_bound(void **state) {
    (void)state;
    enum { MANY = 200, BOUND = 100000 };
    vm_states *s;
    int32_t ids[LENGTH];
    vm_token_key keys[LENGTH];
    float h[LENGTH * DIM];
    int there = 0;
    OK(vm_states_create(0, DIM, BOUND, &s));
    for (int i = 0; i < MANY; i++) {
        make_tokens(i, 5, ids, keys, h);
        vm_states_put(s, LENGTH, ids, keys, h);
        assert_true(vm_states_bytes(s) <= BOUND);
    }
    for (int i = 0; i < MANY; i++) {
        make_tokens(i, 5, ids, keys, h);
        const float *found = vm_states_find(s, LENGTH, ids, keys);
        if (found) assert_int_equal(i, there++); /* the first ones */
    }
    assert_in_range(there, BOUND / sizeof h / 2, BOUND / sizeof h);
    vm_states_free(s);
}

/* ---- passes ---- */

typedef struct bench {
    vm_model *m;
    vm_pool *pool;
    vm_pass *pass;
    vm_router *router;
    vm_arena *arena;
    vm_prompt prompts[QUESTIONS];
} bench;

/* tiny-moe, its attention trained or not; a router of the layers from `lowest` on that says something. */
static bench open_bench(vm_compute compute, bool lora, int lowest) {
    bench b = {.m = NULL};
    vm_router_config config = {.kind = "vglr-fc",
                               .n_layers = 2 - lowest,
                               .layers = {lowest, 1},
                               .n_experts = 8,
                               .dim = DIM,
                               .width = 8,
                               .prior_scale = 1,
                               .initial_scale = 0.3f,
                               .seed = 3,
                               .temperature = 1};
    OK(vm_pool_create(2, &b.pool));
    OK(vm_model_load(golden_path("tiny-moe.gguf"),
                     &(vm_model_options){.compute = compute, .backward_from = lora ? 0 : lowest}, b.pool, &b.m));
    if (lora) OK(vm_lora_attach(b.m, "attention", 2, 4, 1, b.pool));
    OK(vm_pass_create(b.m, b.pool, &b.pass));
    OK(vm_router_create(&config, &b.router));
    vm_rng rng = vm_rng_start(17, VM_RNG_INIT, 0);
    stir_router(b.router, 0.2f, &rng);
    b.arena = vm_arena_create();
    for (int q = 0; q < QUESTIONS; q++) b.prompts[q] = random_prompt(&rng, VOCAB, q, 7);
    return b;
}

static void close_bench(bench *b) {
    for (int q = 0; q < QUESTIONS; q++) vm_free(b->prompts[q].ids);
    vm_arena_free(b->arena);
    vm_router_free(b->router);
    vm_pass_free(b->pass);
    vm_model_free(b->m);
    vm_pool_free(b->pool);
}

/* What a pass over some questions gives. */
typedef struct outcome {
    float log_probability[256], gradients[4096];
    size_t n, n_gradients;
    double kl;
} outcome;

static vmoer_status run(bench *b, const int *which, int n, const vm_pass_options *options, outcome *out) {
    static const int right[QUESTIONS] = {1, 0, 2, 1};
    vm_question list[QUESTIONS];
    question_run r = {.loss = 0};
    memset(out, 0, sizeof *out);
    for (int i = 0; i < n; i++) list[i] = (vm_question){&b->prompts[which[i]], (uint32_t)(40 + which[i])};
    OK(vm_questions_build(b->arena, list, n, VM_FORMAT_CLOZE, &r.q));
    out->n = (size_t)r.q.batch.n_targets;
    assert_true(out->n <= 256);
    r.log_probability = out->log_probability;
    r.d_log_probability = vm_arena_alloc(b->arena, out->n, sizeof(float));
    VM_TRY(vm_pass_forward(b->pass, &r.q.batch, options, r.log_probability, NULL, NULL));
    if (!options->training) return VMOER_OK;
    question_loss(&r, right);
    out->kl = vm_pass_kl(b->pass);
    OK(vm_pass_backward(b->pass, r.d_log_probability, 0.01f));
    vm_param_list list_of = vm_router_params(b->router);
    for (size_t i = 0; i < list_of.count; i++) {
        size_t count = vm_param_size(list_of.items[i]);
        assert_true(out->n_gradients + count <= 4096);
        memcpy(out->gradients + out->n_gradients, list_of.items[i]->grad, count * sizeof(float));
        memset(list_of.items[i]->grad, 0, count * sizeof(float));
        out->n_gradients += count;
    }
    return VMOER_OK;
}

static void assert_same(const outcome *a, const outcome *b) {
    assert_true(a->n == b->n && a->n_gradients == b->n_gradients);
    assert_memory_equal(a->log_probability, b->log_probability, a->n * sizeof(float));
    assert_memory_equal(a->gradients, b->gradients, a->n_gradients * sizeof(float));
    assert_true(a->kl == b->kl);
}

static double size_of(const outcome *o) {
    double sum = 0;
    for (size_t i = 0; i < o->n_gradients; i++) sum += fabs((double)o->gradients[i]);
    return sum;
}

static const vm_compute both[] = {VM_COMPUTE_F32, VM_COMPUTE_BF16};
static const struct {
    int n, which[QUESTIONS];
} batches[] = {{1, {2}}, {2, {2, 0}}, {3, {1, 2, 3}}, {3, {3, 0, 2}}, {4, {3, 2, 1, 0}}, {2, {1, 1}}};
enum { BATCHES = sizeof batches / sizeof *batches };

/* Batches one after the other, of whose questions none, some and all are there. */
static void test_same_bits(void **state) {
    (void)state;
    for (int c = 0; c < 2; c++)
        for (int lowest = 0; lowest < 2; lowest++)
            for (int way = 0; way < 4; way++) { /* plain; layers computed again; two questions' room; inference */
                bench b = open_bench(both[c], false, lowest);
                vm_pass_options plain = {.training = way < 3,
                                         .router = b.router,
                                         .seed = 6,
                                         .step = 2,
                                         .sign = 1,
                                         .memory = way == 1,
                                         .inference = VM_INFERENCE_SAMPLE,
                                         .samples = 4},
                                with = plain;
                outcome expected, got;
                OK(vm_states_create(lowest, DIM, way == 2 ? 16000 : 0, &with.states));
                size_t bytes = 0;
                for (int i = 0; i < BATCHES; i++) {
                    OK(run(&b, batches[i].which, batches[i].n, &plain, &expected));
                    OK(run(&b, batches[i].which, batches[i].n, &with, &got));
                    assert_same(&got, &expected);
                    assert_true(way == 3 || (size_of(&got) > 0.1 && got.kl > 0));
                    if (i >= 4) assert_true(vm_states_bytes(with.states) == bytes); /* all that will be there is */
                    bytes = vm_states_bytes(with.states);
                }
                vm_states_free(with.states);
                close_bench(&b);
            }
}

/* With the attention trained (LoRA that has not moved yet) the pass keeps the whole layer, and gradients go through it:
 * the router's are the same. */
static void test_half_a_layer(void **state) {
    (void)state;
    for (int c = 0; c < 2; c++)
        for (int lowest = 0; lowest < 2; lowest++) {
            outcome o[2];
            for (int lora = 0; lora < 2; lora++) {
                bench b = open_bench(both[c], lora, lowest);
                vm_pass_options options = {.training = true, .router = b.router, .seed = 6, .sign = 1};
                OK(run(&b, (int[]){0, 1, 2}, 3, &options, &o[lora]));
                close_bench(&b);
            }
            assert_same(&o[0], &o[1]);
        }
}

/* The state of another question under a question's name is what the pass then begins at: it does not compute its own.
 */
static void test_taken(void **state) {
    (void)state;
    bench b = open_bench(VM_COMPUTE_F32, false, 1);
    vm_pass_options options = {.router = b.router, .inference = VM_INFERENCE_MEAN};
    outcome plain, got;
    vm_questions q;
    vm_question list[2] = {{&b.prompts[0], 40}, {&b.prompts[1], 41}};
    OK(run(&b, (int[]){0, 1}, 2, &options, &plain));
    OK(vm_states_create(1, DIM, 0, &options.states));
    OK(vm_questions_build(b.arena, list, 2, VM_FORMAT_CLOZE, &q));
    int first = vm_prompt_inputs(&b.prompts[0]), n = vm_prompt_inputs(&b.prompts[1]);
    float *h = vm_calloc((size_t)n * DIM, sizeof *h);
    for (int i = 0; i < n * DIM; i++) h[i] = (float)(i % 7) - 3;
    vm_states_put(options.states, n, q.batch.ids + first, q.batch.keys + first, h);
    OK(run(&b, (int[]){0, 1}, 2, &options, &got));
    size_t own = 0;
    while (q.target_choice[own] < q.first_choice[1]) own++;
    assert_memory_equal(got.log_probability, plain.log_probability, own * sizeof(float));
    assert_true(largest_difference(got.log_probability + own, plain.log_probability + own, got.n - own) > 0.1);
    vm_free(h);
    vm_states_free(options.states);
    close_bench(&b);
}

static void layer_seen(void *context, int layer, int n_tokens, const float *u) {
    (void)context, (void)layer, (void)n_tokens, (void)u;
}

/* Passes for which the states would be wrong, or would hide what is asked for. */
static void test_refused(void **state) {
    (void)state;
    enum { FITS, OTHER_LAYER, NO_ROUTER, FACTS, CAPTURE, RANDOM, CASES };
    bench b = open_bench(VM_COMPUTE_F32, false, 1), trained = open_bench(VM_COMPUTE_F32, true, 1);
    vm_states *states[2];
    outcome o;
    for (int l = 0; l < 2; l++) OK(vm_states_create(l, DIM, 0, &states[l]));
    for (int i = 0; i < CASES; i++) {
        vm_pass_options options = {.router = i == NO_ROUTER ? NULL : b.router,
                                   .states = states[i != OTHER_LAYER],
                                   .facts = i == FACTS,
                                   .capture = i == CAPTURE ? layer_seen : NULL,
                                   .routing = i == RANDOM ? VM_ROUTING_RANDOM : VM_ROUTING_LEARNED};
        assert_int_equal(run(&b, (int[]){0}, 1, &options, &o), i == FITS ? VMOER_OK : VMOER_ERROR_ARGUMENT);
    }
    vm_pass_options options = {.training = true, .router = trained.router, .sign = 1, .states = states[1]};
    assert_int_equal(run(&trained, (int[]){0}, 1, &options, &o), VMOER_ERROR_ARGUMENT);
    for (int l = 0; l < 2; l++) vm_states_free(states[l]);
    close_bench(&trained);
    close_bench(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found),        cmocka_unit_test(test_bound), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_half_a_layer), cmocka_unit_test(test_taken), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
