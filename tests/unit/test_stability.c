/* test_stability.c: Jaccard indices by hand, their expectation by chance against simulation; and of a model's routers
 * under noise: none without noise, fewer experts kept under more of it, blind to the size of the logits, the same for
 * any number of threads; a router that looks in one direction only is the least stable; what the experts see stays
 * clean; and the noise that a target asks for does what was asked. */
#include "eval/jaccard.h"
#include "model_fixture.h"
#include "train/stability.h"

enum { LAYERS = 3, D = 32 };

static void test_jaccard(void **state) {
    (void)state;
    const int32_t a[] = {3, 1, 7}, b[] = {7, 3, 1}, c[] = {7, 0, 2}, d[] = {0, 2, 4};
    assert_true(vm_jaccard(a, b, 3) == 1);
    assert_true(vm_jaccard(a, c, 3) == 1.0 / 5);
    assert_true(vm_jaccard(c, d, 3) == 2.0 / 4);
    assert_true(vm_jaccard(a, d, 3) == 0);
    assert_true(vm_jaccard(a, a, 1) == 1 && vm_jaccard(a, c, 1) == 0);
}

/* Two random sets, the first k of a shuffled row each. */
static void test_chance(void **state) {
    (void)state;
    static const int cases[][2] = {{32, 16}, {40, 8}, {5, 4}, {7, 1}, {6, 6}};
    enum { DRAWS = 20000 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int n = cases[i][0], k = cases[i][1];
        int32_t a[40], b[40];
        vm_rng rng = vm_rng_start(7, VM_RNG_SHUFFLE, (uint32_t)i);
        double sum = 0, squares = 0, expected = vm_jaccard_chance(n, k);
        for (int x = 0; x < n; x++) a[x] = b[x] = x;
        for (int d = 0; d < DRAWS; d++) {
            vm_rng_shuffle(&rng, b, (size_t)n);
            double j = vm_jaccard(a, b, k);
            sum += j, squares += j * j;
        }
        double mean = sum / DRAWS, error = sqrt(fmax(0, squares / DRAWS - mean * mean) / DRAWS);
        if (!(fabs(mean - expected) <= 4 * error + 1e-12)) fail_msg("%d of %d: %g, drawn %g", k, n, expected, mean);
    }
    assert_true(vm_jaccard_chance(7, 1) == 1.0 / 7);
    assert_true(vm_jaccard_chance(4096, 2048) > 0.33 && vm_jaccard_chance(4096, 2048) < 0.34);
    assert_true(vm_jaccard_corrected(0.75, 0.5) == 0.5 && isnan(vm_jaccard_corrected(1, 1)));
}

static void test_least_stable(void **state) {
    (void)state;
    const double jaccard[] = {0.5, 0.25, 0.5, 0.75, 0.25, 0.5};
    int32_t layers[6];
    static const int32_t expected[7][6] = {
        {0}, {1}, {1, 4}, {0, 1, 4}, {0, 1, 2, 4}, {0, 1, 2, 4, 5}, {0, 1, 2, 3, 4, 5}};
    for (int count = 0; count <= 6; count++) {
        vm_least_stable(jaccard, 6, count, layers);
        assert_memory_equal(layers, expected[count], (size_t)count * sizeof *layers);
    }
}

/* ---- a model ---- */

enum { QUESTIONS = 20 };

typedef struct fixture {
    vm_model *m;
    vm_prompt prompts[QUESTIONS];
    int32_t answers[QUESTIONS];
    vm_examples examples;
} fixture;

static fixture setup(const char *name) {
    fixture f = {.m = load_model(name, (vm_model_options){.backward_from = 0, .train_all = true})};
    vm_safetensors *st = golden_open(name);
    for (int i = 0; i < QUESTIONS; i++) {
        f.prompts[i] = golden_prompt(st);
        f.prompts[i].ids[1] = 40 + 3 * i; /* not the same question each time */
    }
    vm_safetensors_free(st);
    return f;
}

static void clear(fixture *f) {
    for (int i = 0; i < QUESTIONS; i++) vm_free(f->prompts[i].ids);
    vm_model_free(f->m);
}

static vm_stability_figures figures_of(fixture *f, const vm_stability *s, int threads) {
    vm_stability_figures figures;
    vm_pool *pool;
    vm_pass *pass;
    f->examples = (vm_examples){f->prompts, f->answers, QUESTIONS};
    OK(vm_pool_create(threads, &pool));
    OK(vm_pass_create(f->m, pool, &pass));
    OK(vm_stability_measure(s, f->m, pool, pass, &f->examples, NULL, &figures));
    vm_pass_free(pass);
    vm_pool_free(pool);
    return figures;
}

static void measure(fixture *f, size_t questions, double sigma, uint64_t seed, int threads, double *jaccard) {
    vm_noise noise = {.sigma = sigma, .relative = true, .seed = seed};
    vm_stability s = {.questions = questions, .levels = &noise, .n_levels = 1, .answer = {.samples = 1}};
    vm_stability_figures figures = figures_of(f, &s, threads);
    memcpy(jaccard, figures.isolated, (size_t)f->m->config.n_layers * sizeof *jaccard);
    vm_stability_figures_free(&figures);
}

static void test_noise(void **state) {
    (void)state;
    fixture f = setup("tiny-moe");
    int layers = f.m->config.n_layers;
    double none[LAYERS], little[LAYERS], much[LAYERS], other[LAYERS];
    assert_in_range(layers, 2, LAYERS);
    measure(&f, QUESTIONS, 0, 1, 1, none);
    measure(&f, QUESTIONS, 0.03, 1, 1, little);
    measure(&f, QUESTIONS, 0.5, 1, 1, much);
    measure(&f, QUESTIONS, 0.5, 2, 1, other);
    for (int l = 0; l < layers; l++) {
        assert_true(none[l] == 1);
        assert_true(little[l] < 1 && much[l] < little[l] && much[l] > 0);
        assert_true(other[l] != much[l] && fabs(other[l] - much[l]) < 0.1);
    }
    measure(&f, QUESTIONS, 0.5, 1, 3, other);
    assert_memory_equal(other, much, (size_t)layers * sizeof *much);
    /* As many questions as there are, or the first of them. */
    measure(&f, 1000, 0.5, 1, 1, other);
    assert_memory_equal(other, much, (size_t)layers * sizeof *much);
    measure(&f, 1, 0.5, 1, 1, other);
    assert_true(other[0] != much[0]);
    clear(&f);
}

/* Isolated, and of the choice: a layer's index does not change with another layer's noise or the size of its logits. */
static void test_size_of_logits(void **state) {
    (void)state;
    fixture f = setup("tiny-moe");
    int layers = f.m->config.n_layers, last = layers - 1;
    double before[LAYERS], after[LAYERS];
    measure(&f, QUESTIONS, 0.1, 1, 1, before);
    vm_param *w = f.m->layers[last].ffn.router.weight;
    for (size_t i = 0; i < vm_param_size(w); i++) w->value[i] *= 4;
    OK(vm_model_refresh(f.m, NULL));
    measure(&f, QUESTIONS, 0.1, 1, 1, after);
    assert_memory_equal(before, after, (size_t)layers * sizeof *before);
    clear(&f);
}

/* Expert e's row is 1 + e times one direction: their order hangs on the sign of one number alone. */
static void test_one_direction(void **state) {
    (void)state;
    fixture f = setup("tiny-moe");
    int layers = f.m->config.n_layers;
    double jaccard[LAYERS];
    for (int l = 0; l < layers; l++) {
        vm_param *w = f.m->layers[l].ffn.router.weight;
        float *copy = vm_malloc(vm_param_size(w), sizeof *copy);
        memcpy(copy, w->value, vm_param_size(w) * sizeof *copy);
        for (int e = 0; e < w->rows; e++)
            for (int i = 0; i < D; i++) w->value[e * D + i] = (float)(1 + e) * copy[i];
        OK(vm_model_refresh(f.m, NULL));
        measure(&f, QUESTIONS, 0.1, 1, 1, jaccard);
        for (int other = 0; other < layers; other++)
            if (other != l && !(jaccard[other] < jaccard[l]))
                fail_msg("layer %d: %g, layer %d: %g", l, jaccard[l], other, jaccard[other]);
        memcpy(w->value, copy, vm_param_size(w) * sizeof *copy);
        vm_free(copy);
    }
    clear(&f);
}

/* Levels share a pass and change nothing about each other; the first layer's input is clean in either way. */
static void test_propagated(void **state) {
    (void)state;
    fixture f = setup("tiny-moe");
    size_t L = (size_t)f.m->config.n_layers;
    const vm_noise levels[] = {{.sigma = 0.3, .relative = true, .seed = 5}, {.sigma = 0.3, .seed = 5}, {.seed = 5}};
    vm_stability s = {
        .questions = QUESTIONS, .levels = levels, .n_levels = 3, .propagated = true, .answer = {.samples = 1}};
    vm_stability_figures figures = figures_of(&f, &s, 1), again = figures_of(&f, &s, 2);
    double alone[LAYERS];
    measure(&f, QUESTIONS, 0.3, 5, 1, alone);
    assert_memory_equal(figures.isolated, alone, L * sizeof *alone);
    assert_memory_equal(figures.propagated, again.propagated, 3 * L * sizeof *alone);
    assert_memory_equal(figures.shared, figures.isolated, 3 * L * sizeof *alone);
    for (size_t level = 0; level < 2; level++) {
        const double *isolated = figures.isolated + level * L, *propagated = figures.propagated + level * L;
        assert_true(propagated[0] == isolated[0] && propagated[0] < 1);
        for (size_t l = 1; l < L; l++) assert_true(propagated[l] < 1 && propagated[l] != isolated[l]);
    }
    for (size_t l = 0; l < L; l++) {
        assert_true(figures.propagated[2 * L + l] == 1);
        assert_true(figures.between[l] > 0 && figures.between[l] < 1);
        assert_true(figures.load_entropy[l] > 0 && figures.load_entropy[l] <= log(f.m->config.n_experts) + 1e-12);
    }
    assert_true(figures.isolated[0] != figures.isolated[L]); /* relative, absolute */
    vm_stability_figures_free(&figures);
    vm_stability_figures_free(&again);
    clear(&f);
}

/* Routers that look at nothing choose the same under any noise: then the pass must have the same bits. */
static void test_experts_see_clean(void **state) {
    (void)state;
    fixture f = setup("tiny-moe");
    float *out[2];
    vm_arena *arena = vm_arena_create();
    vm_pass *pass;
    for (int l = 0; l < f.m->config.n_layers; l++) {
        vm_param *w = f.m->layers[l].ffn.router.weight;
        memset(w->value, 0, vm_param_size(w) * sizeof *w->value);
    }
    OK(vm_model_refresh(f.m, NULL));
    OK(vm_pass_create(f.m, NULL, &pass));
    question_run r = golden_question(arena, &f.prompts[0], 0);
    size_t n = (size_t)r.q.batch.n_targets;
    for (int i = 0; i < 2; i++) {
        vm_pass_options o = {.samples = 1, .noise = {.sigma = i ? 1.0 : 0.0, .relative = true}};
        out[i] = vm_arena_alloc(arena, n, sizeof(float));
        OK(vm_pass_forward(pass, &r.q.batch, &o, out[i], NULL, NULL));
    }
    assert_memory_equal(out[0], out[1], n * sizeof(float));
    vm_pass_options training = {.training = true, .noise = {.sigma = 1}};
    assert_int_equal(vm_pass_forward(pass, &r.q.batch, &training, out[0], NULL, NULL), VMOER_ERROR_ARGUMENT);
    vm_pass_free(pass);
    vm_arena_free(arena);
    clear(&f);
}

/* On layer 1, L = 0.5 I but for `off` below the diagonal, whatever the token. */
static vm_router *make_router(const fixture *f, float off) {
    vm_router_config c = {.kind = "vglr-fc",
                          .n_layers = 1,
                          .layers = {1},
                          .n_experts = f->m->config.n_experts,
                          .dim = f->m->config.dim,
                          .width = 4,
                          .prior_scale = 1,
                          .initial_scale = 0.5f,
                          .temperature = 1};
    vm_router *r;
    OK(vm_router_create(&c, &r));
    vm_param_list params = vm_router_params(r);
    float *bias = params.items[params.count - 1]->value;
    for (int i = 0, at = 0; i < c.n_experts; i++, at++)
        for (int j = 0; j < i; j++) bias[at++] = off;
    OK(vm_router_pack(r));
    return r;
}

/* The two sides of a router that draws: nearly no noise leaves what shared draws choose, not what others do. One draw:
 * of an antithetic pair the noise cancels to first order. */
static void test_draws(void **state) {
    (void)state;
    fixture f = setup("tiny-moe");
    size_t N = (size_t)f.m->config.n_experts, L = (size_t)f.m->config.n_layers;
    vm_router *r = make_router(&f, 0.25f);
    static const vm_inference ways[] = {VM_INFERENCE_TILTED, VM_INFERENCE_SAMPLE, VM_INFERENCE_PASSES};
    const vm_noise noise = {.sigma = 1e-6, .seed = 1};
    for (size_t i = 0; i < 3; i++) {
        vm_stability s = {.questions = QUESTIONS,
                          .levels = &noise,
                          .n_levels = 1,
                          .propagated = true,
                          .alive = true,
                          .answer = {.router = r, .inference = ways[i], .samples = 1}};
        vm_stability_figures figures = figures_of(&f, &s, 1);
        bool draws = ways[i] != VM_INFERENCE_TILTED;
        if (!(figures.shared[1] > 0.999 && (figures.isolated[1] < 0.9) == draws))
            fail_msg("%zu: %g %g", i, figures.isolated[1], figures.shared[1]);
        assert_true((figures.propagated[1] < 0.9) == draws);
        assert_true(figures.isolated[0] > 0.999 && figures.isolated[0] == figures.shared[0]);
        /* The same of every way: it asks for the router's own draws. */
        double triangle = (double)(N * (N - 1)) / 2 * 0.25 * 0.25, off = triangle / (triangle + (double)N * 0.25);
        assert_true(figures.flip_rate[1] > 0.1 && figures.flip_rate[1] <= 1);
        assert_true(fabs(figures.off_diagonal[1] - off) < 1e-6 && figures.scale_variation[1] < 1e-3);
        for (size_t l = 0; l < L; l++)
            assert_true(l == 1 || (isnan(figures.flip_rate[l]) && isnan(figures.off_diagonal[l]) &&
                                   isnan(figures.scale_variation[l])));
        vm_stability_figures_free(&figures);
    }
    vm_router_free(r);
    r = make_router(&f, 0);
    vm_stability s = {.questions = QUESTIONS, .alive = true, .answer = {.router = r, .samples = 1}};
    vm_stability_figures figures = figures_of(&f, &s, 1);
    assert_true(figures.off_diagonal[1] < 1e-6);
    vm_stability_figures_free(&figures);
    vm_router_free(r);
    clear(&f);
}

/* biased: the routers have biases, which noise on their input does not touch. */
static void check_sigma(bool biased) {
    fixture f = setup("tiny-moe");
    vm_pass *pass;
    vm_rng rng = vm_rng_start(5, VM_RNG_INIT, 0);
    for (int l = 0; biased && l < f.m->config.n_layers; l++) {
        float bias[8];
        for (int e = 0; e < f.m->config.n_experts; e++) bias[e] = 2 * vm_rng_normal(&rng);
        OK(vm_linear_set_bias(&f.m->layers[l].ffn.router, "router", bias, false));
    }
    double sigma, jaccard[LAYERS], mean = 0;
    f.examples = (vm_examples){f.prompts, f.answers, QUESTIONS};
    OK(vm_pass_create(f.m, NULL, &pass));
    OK(vm_stability_sigma(QUESTIONS, 3, 0.8, f.m, NULL, pass, &f.examples, NULL, &sigma));
    measure(&f, QUESTIONS, sigma, 3, 1, jaccard);
    for (int l = 0; l < f.m->config.n_layers; l++) mean += jaccard[l] / f.m->config.n_layers;
    if (!(fabs(mean - 0.8) < 2e-3)) fail_msg("bias %d, sigma %g: %g", biased, sigma, mean);
    /* Less than what chance gives cannot be reached. */
    OK(vm_stability_sigma(QUESTIONS, 3, 0.01, f.m, NULL, pass, &f.examples, NULL, &sigma));
    assert_true(isnan(sigma));
    vm_pass_free(pass);
    clear(&f);
}

static void test_sigma(void **state) {
    (void)state;
    check_sigma(false);
    check_sigma(true);
}

static void test_dense(void **state) {
    (void)state;
    fixture f = setup("tiny-llama");
    vm_stability s = {.questions = 4};
    vm_stability_figures figures;
    vm_pass *pass;
    f.examples = (vm_examples){f.prompts, f.answers, QUESTIONS};
    OK(vm_pass_create(f.m, NULL, &pass));
    assert_int_equal(vm_stability_measure(&s, f.m, NULL, pass, &f.examples, NULL, &figures), VMOER_ERROR_ARGUMENT);
    vm_pass_free(pass);
    clear(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jaccard),        cmocka_unit_test(test_chance),
        cmocka_unit_test(test_least_stable),   cmocka_unit_test(test_noise),
        cmocka_unit_test(test_size_of_logits), cmocka_unit_test(test_one_direction),
        cmocka_unit_test(test_propagated),     cmocka_unit_test(test_experts_see_clean),
        cmocka_unit_test(test_draws),          cmocka_unit_test(test_sigma),
        cmocka_unit_test(test_dense),
    };
    return cmocka_run_group_tests_name("stability", tests, NULL, NULL);
}
