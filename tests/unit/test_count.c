/* test_count.c: the operations that the formulas of flops.h and router.h give, against those counted where they are
 * issued: dense models and mixtures, every kind of router, every way of inference, every ISA. */
#include "kernels/count.h"
#include "model/flops.h"
#include "model_fixture.h"
#include "router/router_internal.h"

enum { TOKENS = 32 }; /* whole strips */

/* Roots of `length` tokens each, the last token of the last one asked: alone (1), a token sees itself and nothing more
 * is multiplied than is needed. */
static void make_batch(int length, int n_tokens, sequences *s) {
    memset(s, 0, sizeof *s);
    s->batch = (vm_batch){
        .ids = s->ids, .positions = s->positions, .keys = s->keys, .rows = s->rows, .n_rows = 1, .n_tokens = n_tokens};
    vm_segment *segments = vm_calloc((size_t)n_tokens, sizeof *segments);
    s->batch.segments = segments;
    for (int t = 0; t < n_tokens; t++) {
        s->ids[t] = 40 + t;
        s->positions[t] = t % length;
        s->keys[t] = (vm_token_key){(uint32_t)(t / length), 0, (uint16_t)(t % length)};
        if (t % length == 0) segments[s->batch.n_segments++] = (vm_segment){t, length, -1};
    }
    s->rows[0] = n_tokens - 1;
}

static void free_batch(sequences *s) { vm_free((void *)s->batch.segments); }

/* Operations of a pass, as counted; the same result as without counting. */
static double counted(vm_pass *pass, const vm_batch *b, const vm_pass_options *o, int vocab) {
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        logits[i] = vm_malloc((size_t)vocab, sizeof(float));
        if (i) vm_count_begin();
        OK(vm_pass_forward(pass, b, o, NULL, NULL, logits[i]));
    }
    double sum = 2 * (double)vm_count_end();
    assert_memory_equal(logits[0], logits[1], (size_t)vocab * sizeof(float));
    vm_free(logits[0]);
    vm_free(logits[1]);
    return sum;
}

static void test_models(void **state) {
    (void)state;
    for (int i = 0; i < TINY_MODELS; i++)
        for (int compute = VM_COMPUTE_F32; compute <= VM_COMPUTE_BF16; compute++) {
            vm_model *m =
                load_model(tiny_models[i], (vm_model_options){.compute = (vm_compute)compute, .backward_from = -1});
            vm_pass_options o = {.samples = 1};
            vm_pass *pass;
            sequences s;
            OK(vm_pass_create(m, NULL, &pass));
            make_batch(1, TOKENS, &s);
            double formula = vm_flops_forward(m, &s.batch, &o), count = counted(pass, &s.batch, &o, m->config.n_vocab);
            if (count != formula) fail_msg("%s: %.0f, counted %.0f", tiny_models[i], formula, count);
            free_batch(&s);
            /* Of longer sequences attention's products take in what lies beyond a token and comes to nothing. */
            make_batch(16, TOKENS, &s);
            formula = vm_flops_forward(m, &s.batch, &o), count = counted(pass, &s.batch, &o, m->config.n_vocab);
            double scores = 4.0 * m->config.n_heads * m->config.head_dim * m->config.n_layers * TOKENS;
            if (!(count > formula && count <= formula + scores * (16 - 17.0 / 2)))
                fail_msg("%s: %.0f, counted %.0f", tiny_models[i], formula, count);
            free_batch(&s);
            vm_pass_free(pass);
            vm_model_free(m);
        }
}

/* Sigma next to nothing: TILTED takes one step. */
static vm_router *make_router(const vm_model *m, const char *kind) {
    vm_router_config c = {.n_layers = 1,
                          .layers = {1},
                          .n_experts = m->config.n_experts,
                          .dim = m->config.dim,
                          .width = 5,
                          .prior_scale = 1,
                          .initial_scale = 1e-4f,
                          .temperature = 1};
    snprintf(c.kind, sizeof c.kind, "%s", kind);
    vm_router_config_complete(&c);
    if (strcmp(kind, "isotropic") == 0) c.noise = 1e-4f;
    vm_router *r;
    OK(vm_router_create(&c, &r));
    return r;
}

static void check_router(const vm_model *m, const vm_router_kind *kind) {
    static const char *const names[] = {"mean", "closed", "sample", "tilted", "passes"};
    vm_router *r = make_router(m, kind->name);
    vm_pass *pass;
    sequences s;
    vm_pass_options plain = {.samples = 1};
    OK(vm_pass_create((vm_model *)m, NULL, &pass));
    make_batch(1, TOKENS, &s);
    double without = counted(pass, &s.batch, &plain, m->config.n_vocab);
    for (int way = VM_INFERENCE_MEAN; way <= VM_INFERENCE_PASSES; way++)
        for (int samples = 1; samples <= 7; samples += 3) {
            vm_pass_options o = {.router = r, .inference = (vm_inference)way, .samples = samples};
            double count = counted(pass, &s.batch, &o, m->config.n_vocab) - without,
                   formula = TOKENS * vm_router_flops(r, (vm_inference)way, samples),
                   pass_formula = vm_flops_forward(m, &s.batch, &o) - vm_flops_forward(m, &s.batch, &plain);
            double step = kind->has_covariance && way == VM_INFERENCE_TILTED
                              ? formula - TOKENS * vm_router_flops(r, VM_INFERENCE_PASSES, samples)
                              : 0; /* what the steps come to: VM_TILTED_STEPS times 4 M */
            if (count != formula - step * (VM_TILTED_STEPS - 1) / VM_TILTED_STEPS || pass_formula != formula)
                fail_msg("%s, %s of %d: %.0f, in a pass %.0f, counted %.0f", kind->name, names[way], samples, formula,
                         pass_formula, count);
        }
    assert_true(vm_router_bytes(r) > 0);
    if (vm_router_default_inference(r) !=
        VM_INFERENCE_MEAN) { /* passes again: what the lowest layer's routers see is there */
        float log_probability;
        vm_pass_options o = {.router = r, .inference = VM_INFERENCE_PASSES, .samples = 2};
        s.batch.n_targets = 1, s.batch.target_row = (int32_t[]){0}, s.batch.target_id = s.ids;
        OK(vm_pass_forward(pass, &s.batch, &o, &log_probability, NULL, NULL));
        vm_count_begin();
        OK(vm_pass_again(pass, 1, &log_probability, NULL));
        double count = 2 * (double)vm_count_end(), formula = vm_flops_again(m, &s.batch, &o);
        if (count != formula) fail_msg("%s, again: %.0f, counted %.0f", kind->name, formula, count);
    }
    free_batch(&s);
    vm_pass_free(pass);
    vm_router_free(r);
}

static void test_routers(void **state) {
    (void)state;
    vm_model *m = load_model("tiny-moe", (vm_model_options){.compute = VM_COMPUTE_F32, .backward_from = -1});
    const vm_kernels *tables[8];
    int n = vm_kernels_all(tables, 8);
    for (int i = 0; i < n; i++) {
        vm_kernels_force(tables[i]);
#define CHECK(name) \
    if (vm_router_kind_##name.has_layers) check_router(m, &vm_router_kind_##name);
        VM_ROUTER_KINDS(CHECK)
#undef CHECK
    }
    vm_kernels_force(NULL);
    vm_model_free(m);
}

static void test_off(void **state) {
    (void)state;
    assert_false(atomic_load(&vm_count_on));
    vm_count(5);
    vm_count_begin();
    vm_count(7);
    assert_int_equal(vm_count_end(), 7);
    vm_count(5);
    vm_count_begin();
    assert_int_equal(vm_count_end(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_routers),
        cmocka_unit_test(test_off),
    };
    return cmocka_run_group_tests_name("count", tests, NULL, NULL);
}
