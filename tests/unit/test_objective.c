/* test_objective.c: the training objective held to PyTorch's ELBO; what its means are taken over; two draws are a draw
 * and its mirror; cutting a large step into passes changes nothing; what a teacher's lesson is the mean of. */
#include "base/rng.h"
#include "model_fixture.h"
#include "train/lora.h"
#include "train/objective.h"

enum { DIM = 32, VOCAB = 272, ITEM = 9 };

typedef struct bench {
    vm_safetensors *st;
    vm_model *m;
    vm_pass *pass;
    vm_router *router;
    vm_examples examples;
} bench;

/* tiny-moe with the golden router, and examples of which number ITEM is the golden question. */
static bench open_bench(size_t n_examples) {
    bench b = {.st = golden_open("tiny-moe-elbo")};
    vm_router_config config = {.kind = "vglr-fc",
                               .n_layers = 2,
                               .layers = {0, 1},
                               .n_experts = 8,
                               .dim = DIM,
                               .width = 8,
                               .prior_scale = 0.5f,
                               .initial_scale = 0.3f,
                               .temperature = 1};
    b.m = load_model("tiny-moe", (vm_model_options){.backward_from = 0});
    OK(vm_pass_create(b.m, NULL, &b.pass));
    OK(vm_router_create(&config, &b.router));
    vm_param_list list = vm_router_params(b.router);
    for (size_t i = 0; i < list.count; i++)
        memcpy(list.items[i]->value, golden_f32(b.st, list.items[i]->name, vm_param_size(list.items[i])),
               vm_param_size(list.items[i]) * sizeof(float));
    b.examples.n = n_examples;
    b.examples.prompts = vm_calloc(n_examples, sizeof *b.examples.prompts);
    b.examples.answers = vm_calloc(n_examples, sizeof *b.examples.answers);
    vm_rng rng = vm_rng_start(1, VM_RNG_TEXT, 0);
    for (size_t i = 0; i < n_examples; i++) {
        vm_prompt *p = &b.examples.prompts[i];
        *p = golden_prompt(b.st);
        for (int k = 0; i != ITEM && k < p->start[3]; k++) p->ids[k] = (int32_t)vm_rng_below(&rng, VOCAB);
        b.examples.answers[i] = i == ITEM ? 1 : (int32_t)vm_rng_below(&rng, 3);
    }
    return b;
}

static void close_bench(bench *b) {
    vm_examples_free(&b->examples);
    vm_router_free(b->router);
    vm_pass_free(b->pass);
    vm_model_free(b->m);
    vm_safetensors_free(b->st);
}

/* The gradients one after the other, and zero again. The caller frees. */
static float *take_list(vm_param_list list, size_t *count) {
    *count = 0;
    for (size_t i = 0; i < list.count; i++) *count += vm_param_size(list.items[i]);
    float *all = vm_malloc(*count, sizeof *all), *out = all;
    for (size_t i = 0; i < list.count; i++) {
        size_t n = vm_param_size(list.items[i]);
        memcpy(out, list.items[i]->grad, n * sizeof *out);
        memset(list.items[i]->grad, 0, n * sizeof *out);
        out += n;
    }
    return all;
}

/* Of the router. */
static float *take_gradients(bench *b, size_t *count) { return take_list(vm_router_params(b->router), count); }

static void test_golden(void **state) {
    (void)state;
    bench b = open_bench(ITEM + 1);
    vm_objective o = {
        .pass = b.pass, .format = VM_FORMAT_CLOZE, .router = b.router, .beta = 0.1, .draws = 1, .seed = 123};
    vm_loss loss;
    OK(vm_objective_step(&o, &b.examples, (int32_t[]){ITEM}, 1, 5, &loss));
    double kl = *golden_f32(b.st, "kl", 1);
    assert_float_equal(loss.loss, *golden_f32(b.st, "loss", 1), 5e-5);
    assert_float_equal(loss.ce, *golden_f32(b.st, "ce", 1), 2e-5);
    assert_float_equal(loss.kl_sum, kl, 1e-5 * kl);
    assert_float_equal(loss.kl, kl / (11 * 2), 1e-5 * kl);
    const float *scores = golden_f32(b.st, "scores", 3);
    assert_float_equal(loss.acc, scores[1] > scores[0] && scores[1] > scores[2], 0);
    vm_param_list list = vm_router_params(b.router);
    for (size_t i = 0; i < list.count; i++) {
        char key[160];
        size_t n = vm_param_size(list.items[i]);
        snprintf(key, sizeof key, "grad.%s", list.items[i]->name);
        double d = relative_difference(list.items[i]->grad, golden_f32(b.st, key, n), n);
        if (!(d < 1e-4)) fail_msg("%s differs by %g of its norm", key, d);
    }
    close_bench(&b);
}

/* Values and gradients of a step are means over its questions, KL over all tokens; each question's draws are its own
 * wherever it stands. */
static void test_means(void **state) {
    (void)state;
    enum { N = 4 };
    bench b = open_bench(ITEM + 1);
    vm_objective o = {
        .pass = b.pass, .format = VM_FORMAT_CLOZE, .router = b.router, .beta = 0.3, .draws = 1, .seed = 2};
    const int32_t items[N] = {7, ITEM, 0, 3};
    vm_loss all, one, sum = {0};
    size_t n;
    OK(vm_objective_step(&o, &b.examples, items, N, 6, &all));
    float *together = take_gradients(&b, &n);
    for (int i = 0; i < N; i++) {
        OK(vm_objective_step(&o, &b.examples, &items[i], 1, 6, &one));
        sum.loss += one.loss / N, sum.ce += one.ce / N, sum.kl += one.kl / N, sum.kl_sum += one.kl_sum / N,
            sum.acc += one.acc / N;
        assert_float_equal(one.loss, one.ce + o.beta * one.kl, 1e-12);
    }
    float *apart = take_gradients(&b, &n);
    for (size_t i = 0; i < n; i++) apart[i] /= N;
    /* All have 11 tokens, so the mean of the means is the mean. */
    assert_float_equal(all.loss, sum.loss, 1e-9);
    assert_float_equal(all.ce, sum.ce, 1e-9);
    assert_float_equal(all.kl, sum.kl, 1e-9);
    assert_float_equal(all.kl_sum, sum.kl_sum, 1e-8);
    assert_float_equal(all.acc, sum.acc, 1e-12);
    assert_true(relative_difference(together, apart, n) < 1e-5);
    vm_free(together);
    vm_free(apart);
    close_bench(&b);
}

/* Two draws: values and gradients are means over the draw and its mirror image, which is not the draw again. */
static void test_two_draws(void **state) {
    (void)state;
    bench b = open_bench(ITEM + 1);
    vm_objective o = {
        .pass = b.pass, .format = VM_FORMAT_CLOZE, .router = b.router, .beta = 0.1, .draws = 2, .seed = 123};
    vm_arena *arena = vm_arena_create();
    vm_loss both;
    double ce[2], kl = 0, kl_weight = 1.0 / (11 * 2 * 2); /* tokens, layers, draws */
    size_t n;
    OK(vm_objective_step(&o, &b.examples, (int32_t[]){ITEM}, 1, 5, &both));
    float *got = take_gradients(&b, &n);
    for (int draw = 0; draw < 2; draw++) {
        question_run r = golden_question(arena, &b.examples.prompts[ITEM], ITEM);
        OK(vm_pass_forward(
            b.pass, &r.q.batch,
            &(vm_pass_options){
                .training = true, .router = b.router, .seed = 123, .step = 5, .sign = draw ? -1.0f : 1.0f},
            r.log_probability, NULL, NULL));
        question_loss(&r, &(int){1});
        ce[draw] = r.loss;
        kl += vm_pass_kl(b.pass) * kl_weight;
        for (int i = 0; i < r.q.batch.n_targets; i++) r.d_log_probability[i] /= 2;
        OK(vm_pass_backward(b.pass, r.d_log_probability, (float)(o.beta * kl_weight)));
    }
    float *expected = take_gradients(&b, &n);
    assert_true(fabs(ce[0] - ce[1]) > 1e-3);
    assert_float_equal(both.ce, (ce[0] + ce[1]) / 2, 1e-9);
    assert_float_equal(both.kl, kl, 1e-9 * kl);
    assert_float_equal(both.kl_sum, kl * 11 * 2, 1e-9 * kl);
    assert_true(relative_difference(got, expected, n) < 1e-6);
    vm_free(got);
    vm_free(expected);
    vm_arena_free(arena);
    close_bench(&b);
}

/* The mixture's loss is -ln of the draws' mean probability, no more than the mean of their losses, and with one draw
 * the same; its gradient is its slope: the KL's part is left out, so that only the shares can make it right. */
static void test_mixture(void **state) {
    (void)state;
    bench b = open_bench(ITEM + 1);
    vm_objective o = {.pass = b.pass, .format = VM_FORMAT_CLOZE, .router = b.router, .draws = 4, .seed = 123};
    const int32_t items[3] = {ITEM, 2, 5};
    vm_loss mean, mixture, low, high;
    size_t n;
    OK(vm_objective_step(&o, &b.examples, items, 3, 5, &mean));
    float *of_mean = take_gradients(&b, &n);
    o.mixture = true;
    OK(vm_objective_step(&o, &b.examples, items, 3, 5, &mixture));
    float *gradient = take_gradients(&b, &n);
    assert_true(mixture.ce < mean.ce - 1e-6);
    assert_float_equal(mixture.kl, mean.kl, 1e-9 * mean.kl);
    assert_true(relative_difference(of_mean, gradient, n) > 1e-3);

    vm_param_list list = vm_router_params(b.router);
    double slope = 0, step = 2e-3;
    vm_rng rng = vm_rng_start(7, VM_RNG_TEXT, 1);
    float *direction = vm_malloc(n, sizeof *direction), *start = vm_malloc(n, sizeof *start);
    for (size_t i = 0; i < n; i++) {
        direction[i] = vm_rng_normal(&rng) / sqrtf((float)n);
        slope += (double)gradient[i] * (double)direction[i];
    }
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0, at = 0; i < list.count; i++)
            for (size_t j = 0; j < vm_param_size(list.items[i]); j++, at++) {
                if (side == 0) start[at] = list.items[i]->value[j];
                list.items[i]->value[j] = start[at] + (float)(side ? -step : step) * direction[at];
            }
        OK(vm_objective_step(&o, &b.examples, items, 3, 5, side ? &low : &high));
        vm_free(take_gradients(&b, &n));
    }
    assert_float_equal((high.ce - low.ce) / (2 * step), slope, 0.02 * fabs(slope));

    o.draws = 1;
    OK(vm_objective_step(&o, &b.examples, items, 3, 5, &mixture));
    o.mixture = false;
    OK(vm_objective_step(&o, &b.examples, items, 3, 5, &mean));
    assert_float_equal(mixture.ce, mean.ce, 1e-12);
    vm_free(of_mean);
    vm_free(gradient);
    vm_free(direction);
    vm_free(start);
    close_bench(&b);
}

/* 800 questions are 8800 tokens, three passes; 372 a pass at most. As many gradients as by steps of 100. */
static void test_many(void **state) {
    (void)state;
    enum { N = 800, PART = 100 };
    bench b = open_bench(N);
    vm_objective o = {
        .pass = b.pass, .format = VM_FORMAT_CLOZE, .router = b.router, .beta = 0.3, .draws = 1, .seed = 2};
    static int32_t items[N];
    vm_loss all, part;
    double ce = 0, kl = 0;
    size_t n;
    for (int i = 0; i < N; i++) items[i] = N - 1 - i;
    OK(vm_objective_step(&o, &b.examples, items, N, 1, &all));
    float *together = take_gradients(&b, &n);
    for (int i = 0; i < N; i += PART) {
        OK(vm_objective_step(&o, &b.examples, items + i, PART, 1, &part));
        ce += part.ce * PART / N, kl += part.kl * PART / N;
    }
    float *apart = take_gradients(&b, &n);
    for (size_t i = 0; i < n; i++) apart[i] *= (float)PART / N;
    assert_float_equal(all.ce, ce, 1e-9);
    assert_float_equal(all.kl, kl, 1e-9);
    assert_true(relative_difference(together, apart, n) < 1e-4);
    /* Predictions: those of a question by itself. */
    static double p[N * VM_MAX_CHOICES];
    vm_pass_options options = {.router = b.router, .inference = VM_INFERENCE_CLOSED, .sign = 1};
    vm_arena *arena = vm_arena_create();
    OK(vm_objective_predict(&o, &b.examples, &options, p));
    for (int i = 0; i < N; i += 97) {
        double expected[3];
        question_run r = golden_question(arena, &b.examples.prompts[i], (uint32_t)i);
        OK(vm_pass_forward(b.pass, &r.q.batch, &options, r.log_probability, NULL, NULL));
        vm_questions_score(&r.q, r.log_probability, r.score);
        vm_choice_softmax(r.score, 3, 1, expected);
        assert_memory_equal(p + i * VM_MAX_CHOICES, expected, sizeof expected);
    }
    vm_arena_free(arena);
    vm_free(together);
    vm_free(apart);
    close_bench(&b);
}

/* ---- a teacher ---- */

/* The first n examples, as a set of their own where the bench keeps them. */
static vm_examples part(const bench *b, size_t first, size_t n) {
    return (vm_examples){b->examples.prompts + first, b->examples.answers + first, n};
}

/* 800 questions of 8 to 11 tokens, two passes, taught by tiny-llama: a step's loss is the divergence over its
 * questions, which is the mean over all their tokens, wherever they stand; the gradients are those of the parts; what
 * the right answer is plays no part, nor does the number of draws. */
static void test_teacher(void **state) {
    (void)state;
    enum { N = 800, PART = 100 };
    bench b = open_bench(N);
    vm_model *other = load_model("tiny-llama", (vm_model_options){.backward_from = -1});
    vm_objective o = {.pass = b.pass, .format = VM_FORMAT_CLOZE, .beta = 0.3, .draws = 1, .seed = 2};
    vm_pass_options options = {.sign = 1};
    vm_param_list list;
    vm_loss loss, again;
    static int32_t items[N];
    double all, one, sum = 0, tokens = 0, plain = 0;
    size_t n;
    OK(vm_pass_create(other, NULL, &o.teacher));
    OK(vm_lora_attach(b.m, "attention,experts", 2, 4, 1, NULL));
    OK(vm_model_params(b.m, &list));
    for (int i = 0; i < N; i++) {
        vm_prompt *p = &b.examples.prompts[i];
        int shorter = i / 200;
        p->n_context -= shorter;
        for (int c = 0; c <= 3; c++) p->start[c] -= shorter;
        items[i] = N - 1 - i;
    }
    OK(vm_objective_divergence(&o, &b.examples, &options, &all));
    for (size_t i = 0; i < N; i++) {
        vm_examples e = part(&b, i, 1);
        OK(vm_objective_divergence(&o, &e, &options, &one));
        sum += one * vm_prompt_inputs(&b.examples.prompts[i]);
        tokens += vm_prompt_inputs(&b.examples.prompts[i]);
        plain += one / N;
    }
    assert_true(tokens > 4096 && tokens < 11 * N);
    assert_float_equal(all, sum / tokens, 1e-9);
    assert_true(all > 0.01 && fabs(plain - all) > 1e-6); /* it is not the questions' mean */

    OK(vm_objective_step(&o, &b.examples, items, N, 1, &loss));
    float *together = take_list(list, &n);
    assert_float_equal(loss.loss, all, 1e-9);
    assert_true(loss.ce == loss.loss && loss.kl == 0 && loss.kl_sum == 0);
    sum = 0;
    for (int i = 0; i < N; i += PART) {
        vm_examples e = part(&b, (size_t)i, PART);
        double inputs = 0;
        for (int k = 0; k < PART; k++) inputs += vm_prompt_inputs(&e.prompts[k]);
        OK(vm_objective_divergence(&o, &e, &options, &one));
        OK(vm_objective_step(&o, &b.examples, items + N - PART - i, PART, 1, &loss));
        assert_float_equal(loss.loss, one, 1e-9);
        float *apart = take_list(list, &n);
        for (size_t k = 0; k < n; k++) together[k] -= (float)(inputs / tokens) * apart[k];
        for (size_t k = 0; k < n; k++) sum += fabs((double)apart[k]) * inputs / tokens;
        vm_free(apart);
    }
    double left = 0;
    for (size_t k = 0; k < n; k++) left += fabs((double)together[k]);
    if (!(sum > 0.1 && left < 1e-4 * sum)) fail_msg("%g of %g is left of the gradients", left, sum);
    vm_free(together);

    float *gradients[2];
    for (int i = 0; i < 2; i++) {
        OK(vm_objective_step(&o, &b.examples, items, PART, 1, i ? &again : &loss));
        gradients[i] = take_list(list, &n);
        for (size_t k = 0; k < N; k++) b.examples.answers[k] = (b.examples.answers[k] + 1) % 3;
        o.draws = 2;
    }
    assert_float_equal(again.loss, loss.loss, 1e-9);
    assert_true(relative_difference(gradients[1], gradients[0], n) < 1e-5);
    vm_free(gradients[0]);
    vm_free(gradients[1]);
    vm_free(list.items);
    vm_pass_free(o.teacher);
    vm_model_free(other);
    close_bench(&b);
}

/* A teacher of another vocabulary is refused by step and measure alike. */
static void test_foreign_teacher(void **state) {
    (void)state;
    bench b = open_bench(ITEM + 1);
    vm_model *other = load_model("tiny-llama", (vm_model_options){.backward_from = -1});
    vm_objective o = {.pass = b.pass, .format = VM_FORMAT_CLOZE, .draws = 1};
    vm_loss loss;
    double divergence;
    OK(vm_pass_create(other, NULL, &o.teacher));
    OK(vm_lora_attach(b.m, "attention", 2, 4, 1, NULL));
    other->config.n_vocab++;
    assert_int_equal(vm_objective_step(&o, &b.examples, (int32_t[]){ITEM}, 1, 1, &loss), VMOER_ERROR_ARGUMENT);
    assert_string_equal(vm_error_text(), "the teacher has 273 tokens and 11 rows, the model 272 and 11");
    assert_int_equal(vm_objective_divergence(&o, &b.examples, &(vm_pass_options){.sign = 1}, &divergence),
                     VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "the teacher has 273 tokens"));
    vm_pass_free(o.teacher);
    vm_model_free(other);
    close_bench(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),         cmocka_unit_test(test_means),
                                       cmocka_unit_test(test_two_draws),      cmocka_unit_test(test_mixture),
                                       cmocka_unit_test(test_many),           cmocka_unit_test(test_teacher),
                                       cmocka_unit_test(test_foreign_teacher)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
