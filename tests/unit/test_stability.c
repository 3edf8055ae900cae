/* test_stability.c: Jaccard indices by hand; and of a model's routers under noise: none without noise, fewer experts
 * kept under more of it, blind to the size of the logits, the same for any number of threads; and a router that looks
 * in one direction only is the stablest. */
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

static void measure(fixture *f, size_t questions, double sigma, uint64_t seed, int threads, double *jaccard) {
    vm_stability s = {.questions = questions, .sigma = sigma, .seed = seed};
    vm_pool *pool;
    vm_pass *pass;
    f->examples = (vm_examples){f->prompts, f->answers, QUESTIONS};
    OK(vm_pool_create(threads, &pool));
    OK(vm_pass_create(f->m, pool, &pass));
    OK(vm_stability_measure(&s, f->m, pool, pass, &f->examples, NULL, jaccard));
    vm_pass_free(pass);
    vm_pool_free(pool);
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

static void test_dense(void **state) {
    (void)state;
    fixture f = setup("tiny-llama");
    vm_stability s = {.questions = 4, .sigma = 0.1};
    vm_pass *pass;
    double jaccard[LAYERS];
    f.examples = (vm_examples){f.prompts, f.answers, QUESTIONS};
    OK(vm_pass_create(f.m, NULL, &pass));
    assert_int_equal(vm_stability_measure(&s, f.m, NULL, pass, &f.examples, NULL, jaccard), VMOER_ERROR_ARGUMENT);
    vm_pass_free(pass);
    clear(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jaccard),        cmocka_unit_test(test_least_stable),  cmocka_unit_test(test_noise),
        cmocka_unit_test(test_size_of_logits), cmocka_unit_test(test_one_direction), cmocka_unit_test(test_dense),
    };
    return cmocka_run_group_tests_name("stability", tests, NULL, NULL);
}
