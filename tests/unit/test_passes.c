/* test_passes.c: several passes over a question, each with draws of its own. They share what lies below the router's
 * lowest layer and have the bits of passes that do not; what a token draws depends on who it is and on the number of
 * the pass alone; and what the passes say together: probabilities, entropies, mutual information. */
#include "base/rng.h"
#include "model_fixture.h"

enum { DIM = 32, VOCAB = 272, QUESTIONS = 4, PASSES = 3, LAYERS = 2, MOST = 256 };

/* cmocka's compares floats. */
static void assert_near(double a, double b, double tolerance) { assert_true(fabs(a - b) <= tolerance); }

typedef struct bench {
    vm_model *m;
    vm_pool *pool;
    vm_pass *pass;
    vm_router *router;
    vm_arena *arena;
    vm_prompt prompts[QUESTIONS];
    vm_question list[QUESTIONS];
} bench;

/* tiny-moe and a router of the layers from `lowest` on that says something. */
static bench open_bench(const char *kind, vm_compute compute, int threads, int lowest) {
    bench b = {.m = NULL};
    vm_router_config config = {.n_layers = LAYERS - lowest,
                               .layers = {lowest, 1},
                               .n_experts = 8,
                               .dim = DIM,
                               .width = 8,
                               .prior_scale = 1,
                               .initial_scale = 1,
                               .seed = 3,
                               .temperature = 1};
    snprintf(config.kind, sizeof config.kind, "%s", kind);
    vm_router_config_complete(&config);
    OK(vm_pool_create(threads, &b.pool));
    OK(vm_model_load(golden_path("tiny-moe.gguf"), &(vm_model_options){.compute = compute, .backward_from = -1}, b.pool,
                     &b.m));
    OK(vm_pass_create(b.m, b.pool, &b.pass));
    OK(vm_router_create(&config, &b.router));
    vm_rng rng = vm_rng_start(17, VM_RNG_INIT, 0);
    stir_router(b.router, 0.2f, &rng);
    b.arena = vm_arena_create();
    for (int q = 0; q < QUESTIONS; q++) {
        b.prompts[q] = random_prompt(&rng, VOCAB, q, 7);
        b.list[q] = (vm_question){.item = (uint32_t)(40 + q)};
    }
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

/* Questions [first, first + n) as a batch. */
static vm_questions build(bench *b, int first, int n) {
    vm_questions q;
    for (int i = 0; i < QUESTIONS; i++) b->list[i].prompt = &b->prompts[i];
    OK(vm_questions_build(b->arena, b->list + first, n, VM_FORMAT_CLOZE, &q));
    assert_true(q.batch.n_targets <= MOST);
    return q;
}

static const vm_compute both[] = {VM_COMPUTE_F32, VM_COMPUTE_BF16};

/* Pass s after pass 0, which it shares the lower layers with, against pass s of its own; with kept states below, too.
 */
static void test_shared(void **state) {
    (void)state;
    for (int c = 0; c < 2; c++)
        for (int lowest = 0; lowest < LAYERS; lowest++) {
            bench b = open_bench("vglr-fc", both[c], 2, lowest);
            vm_questions q = build(&b, 0, QUESTIONS);
            size_t n = (size_t)q.batch.n_targets, E = (size_t)q.batch.n_entropies;
            vm_pass_options options = {.router = b.router, .inference = VM_INFERENCE_PASSES, .seed = 6};
            float own[PASSES][MOST], own_entropy[PASSES][QUESTIONS], got[MOST], entropy[QUESTIONS];
            for (int s = 0; s < PASSES; s++) {
                options.step = (uint64_t)s;
                OK(vm_pass_forward(b.pass, &q.batch, &options, own[s], own_entropy[s], NULL));
                if (s) assert_true(largest_difference(own[s], own[0], n) > 1e-2);
            }
            vm_states *states;
            OK(vm_states_create(lowest, DIM, 0, &states));
            for (int way = 0; way < 3; way++) { /* without states; putting them there; taking them */
                options.states = way ? states : NULL;
                for (int s = PASSES - 1; s >= 0; s--) {
                    options.step = (uint64_t)s;
                    OK(s == PASSES - 1 ? vm_pass_forward(b.pass, &q.batch, &options, got, entropy, NULL)
                                       : vm_pass_again(b.pass, (uint64_t)s, got, entropy));
                    assert_memory_equal(got, own[s], n * sizeof *got);
                    assert_memory_equal(entropy, own_entropy[s], E * sizeof *entropy);
                }
            }
            vm_states_free(states);
            close_bench(&b);
        }
}

/* Pass s of a question alone, and with others and other threads. */
static void test_who_not_where(void **state) {
    (void)state;
    bench b = open_bench("vglr-fc", VM_COMPUTE_F32, 1, 0), other = open_bench("vglr-fc", VM_COMPUTE_F32, 3, 0);
    vm_pass_options options = {.router = b.router, .inference = VM_INFERENCE_PASSES, .seed = 6, .step = 5},
                    same = options;
    same.router = other.router;
    vm_questions all = build(&other, 0, QUESTIONS);
    float together[MOST], alone[MOST];
    OK(vm_pass_forward(other.pass, &all.batch, &same, together, NULL, NULL));
    size_t at = 0;
    for (int i = 0; i < QUESTIONS; i++) {
        vm_questions one = build(&b, i, 1);
        OK(vm_pass_forward(b.pass, &one.batch, &options, alone, NULL, NULL));
        assert_memory_equal(alone, together + at, (size_t)one.batch.n_targets * sizeof *alone);
        at += (size_t)one.batch.n_targets;
    }
    close_bench(&other);
    close_bench(&b);
}

/* The facts of passes run again: means of the passes' own, below the router those of any of them. */
static void test_facts(void **state) {
    (void)state;
    bench b = open_bench("vglr-fc", VM_COMPUTE_F32, 1, 1);
    vm_questions q = build(&b, 0, 2);
    vm_pass_options options = {.router = b.router, .inference = VM_INFERENCE_PASSES, .seed = 6, .facts = true};
    size_t T = (size_t)q.batch.n_tokens;
    float lp[MOST];
    size_t R = (size_t)q.batch.n_rows * DIM;
    double *entropy = vm_calloc(LAYERS * T, sizeof *entropy), *trace = vm_calloc(LAYERS * T, sizeof *trace);
    double *normed = vm_calloc(R, sizeof *normed), apart = 0;
    for (int s = 0; s < PASSES; s++) {
        options.step = (uint64_t)s;
        OK(vm_pass_forward(b.pass, &q.batch, &options, lp, NULL, NULL));
        vm_facts f = vm_pass_facts(b.pass);
        for (size_t i = 0; i < LAYERS * T; i++) {
            entropy[i] += (double)f.gate_entropy[i] / PASSES;
            trace[i] += (double)f.trace[i] / PASSES;
        }
        for (size_t i = 0; i < R; i++) normed[i] += (double)vm_pass_normed(b.pass)[i] / PASSES;
    }
    options.step = 0;
    OK(vm_pass_forward(b.pass, &q.batch, &options, lp, NULL, NULL));
    float first = vm_pass_facts(b.pass).gate_entropy[T];
    for (int s = 1; s < PASSES; s++) OK(vm_pass_again(b.pass, (uint64_t)s, lp, NULL));
    vm_facts f = vm_pass_facts(b.pass);
    for (size_t i = 0; i < LAYERS * T; i++) {
        assert_float_equal(f.gate_entropy[i], entropy[i], 1e-5);
        assert_int_equal(isnan(f.trace[i]), i < T); /* layer 0 is the model's own */
        if (i >= T) assert_float_equal(f.trace[i], trace[i], 1e-4 * fabs(trace[i]));
        assert_true(isnan(f.temperature[i]));
    }
    assert_true(fabsf(f.gate_entropy[T] - first) > 1e-5f);
    for (size_t i = 0; i < R; i++) assert_float_equal(vm_pass_normed(b.pass)[i], normed[i], 1e-5);
    options.facts = false; /* then those of the last pass alone */
    OK(vm_pass_forward(b.pass, &q.batch, &options, lp, NULL, NULL));
    OK(vm_pass_again(b.pass, 1, lp, NULL));
    for (size_t i = 0; i < R; i++) apart = fmax(apart, fabs((double)vm_pass_normed(b.pass)[i] - normed[i]));
    assert_true(apart > 1e-3);
    vm_free(normed);
    vm_free(entropy);
    vm_free(trace);
    close_bench(&b);
}

/* Only what may be run again is. */
static void test_refused(void **state) {
    (void)state;
    bench b = open_bench("vglr-fc", VM_COMPUTE_F32, 1, 1);
    vm_questions q = build(&b, 0, 1);
    float lp[MOST];
    assert_int_equal(vm_pass_again(b.pass, 1, lp, NULL), VMOER_ERROR_ARGUMENT);
    vm_pass_options options = {.router = b.router, .inference = VM_INFERENCE_TILTED};
    OK(vm_pass_forward(b.pass, &q.batch, &options, lp, NULL, NULL));
    assert_int_equal(vm_pass_again(b.pass, 1, lp, NULL), VMOER_ERROR_ARGUMENT);
    close_bench(&b);
}

/* Two questions of 2 and 3 choices, three passes, numbers made by hand. */
static void test_closed_form(void **state) {
    (void)state;
    static const int32_t first_choice[] = {0, 2, 5};
    vm_questions q = {.n = 2, .n_choices = 5, .first_choice = first_choice};
    const double far = 2000; /* probabilities 1 and 0 */
    const double scores[3][5] = {{far, 0, 0, 0, 0}, {0, far, log(2), 0, 0}, {log(3), 0, 0, 0, -far}};
    double score[5] = {0}, p[5] = {0}, entropy[2] = {0};
    vm_choices out = {.score = score, .probability = p, .entropy = entropy};
    for (int s = 0; s < 3; s++) vm_choices_add(&q, scores[s], 1, 1. / 3, &out);
    /* question 0: (1, 0), (0, 1), (3/4, 1/4); question 1: thirds, (1/2, 1/4, 1/4), (1/2, 1/2, 0) */
    const double mean[5] = {7. / 12, 5. / 12, 4. / 9, 13. / 36, 7. / 36};
    for (int c = 0; c < 5; c++) assert_near(p[c], mean[c], 1e-15);
    double quarter = 2 * log(2) - .75 * log(3), expected[2] = {quarter / 3, (log(3) + 2.5 * log(2)) / 3};
    for (int i = 0; i < 2; i++) {
        double total = 0;
        for (int c = first_choice[i]; c < first_choice[i + 1]; c++) total -= mean[c] * log(mean[c]);
        assert_near(entropy[i], expected[i], 1e-15);
        assert_near(vm_choices_information(&q, &out, i), total - expected[i], 1e-15);
    }
    assert_near(score[0], (far + log(3)) / 3, 1e-12);
    assert_near(score[4], -far / 3, 1e-12);
    /* The temperature is the passes', not the mean's: softmax of 2 ln 3 / 2. */
    double hot[5] = {0}, hot_score[5] = {0}, hot_entropy[2] = {0};
    vm_choices warm = {.score = hot_score, .probability = hot, .entropy = hot_entropy};
    vm_choices_add(&q, (double[5]){2 * log(3), 0, 0, 0, 0}, 2, .5, &warm);
    vm_choices_add(&q, (double[5]){-far, 0, 0, 0, 0}, 2, .5, &warm);
    assert_near(hot[0], 3. / 8, 1e-15);
    /* Passes that agree carry no information, to the bit where there is one. */
    for (int passes = 1; passes < 12; passes++) {
        memset(score, 0, sizeof score), memset(p, 0, sizeof p), memset(entropy, 0, sizeof entropy);
        for (int s = 0; s < passes; s++) vm_choices_add(&q, scores[2], 1, 1. / passes, &out);
        for (int i = 0; i < 2; i++) {
            double information = vm_choices_information(&q, &out, i);
            assert_true(passes == 1 ? information == 0 : information >= 0 && information < 1e-15);
        }
    }
}

static const char *const kinds[] = {"vglr-fc", "vglr-mf", "residual"};

/* The run of all passes: means of what single passes say; one pass where nothing is drawn. */
static void test_run(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        bench b = open_bench(kinds[k], VM_COMPUTE_F32, 2, 1);
        vm_questions q = build(&b, 0, QUESTIONS);
        vm_pass_options options = {.router = b.router, .inference = VM_INFERENCE_PASSES, .samples = PASSES, .seed = 6};
        vm_choices all, one, mean;
        bool random = k < 2;
        double p[MOST] = {0}, entropy[QUESTIONS] = {0};
        float lp[MOST], vocabulary[QUESTIONS], average[QUESTIONS] = {0};
        for (int s = 0; s < PASSES; s++) {
            double score[MOST], own[VM_MAX_CHOICES];
            options.step = (uint64_t)s;
            OK(vm_pass_forward(b.pass, &q.batch, &options, lp, vocabulary, NULL));
            vm_questions_score(&q, lp, score);
            for (int i = 0; i < q.n; i++) {
                int first = q.first_choice[i], n = q.first_choice[i + 1] - first;
                vm_choice_softmax(score + first, n, 1.5, own);
                for (int c = 0; c < n; c++) p[first + c] += own[c] / PASSES;
                entropy[i] += vm_choice_entropy(own, n) / PASSES;
                average[i] += vocabulary[i] / PASSES;
            }
        }
        options.step = 0;
        OK(vm_questions_run(b.pass, b.arena, &q, &options, 1.5, &all));
        options.facts = true;
        OK(vm_questions_run(b.pass, b.arena, &q, &options, 1.5, &one));
        assert_memory_equal(one.probability, all.probability, (size_t)q.n_choices * sizeof *p);
        for (int c = 0; c < q.n_choices; c++) assert_near(all.probability[c], p[c], 1e-14);
        for (int i = 0; i < q.n; i++) {
            assert_near(all.entropy[i], entropy[i], 1e-14);
            assert_float_equal(one.vocabulary_entropy[i], average[i], 1e-5);
            double information = vm_choices_information(&q, &all, i);
            assert_true(random ? information > 1e-9 : information == 0);
        }
        options.samples = 1;
        OK(vm_questions_run(b.pass, b.arena, &q, &options, 1.5, &one));
        for (int i = 0; i < q.n; i++) assert_true(vm_choices_information(&q, &one, i) == 0);
        if (!random) {
            options.inference = VM_INFERENCE_MEAN;
            OK(vm_questions_run(b.pass, b.arena, &q, &options, 1.5, &mean));
            assert_memory_equal(one.probability, mean.probability, (size_t)q.n_choices * sizeof *p);
            assert_memory_equal(all.probability, mean.probability, (size_t)q.n_choices * sizeof *p);
        }
        close_bench(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared),  cmocka_unit_test(test_who_not_where), cmocka_unit_test(test_facts),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_closed_form),   cmocka_unit_test(test_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
