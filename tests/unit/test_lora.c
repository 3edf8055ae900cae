/* test_lora.c: LoRA attached to the tiny models: names, shapes and start values; what is saved, merged into the
 * weights, gives the outputs that the attached LoRA gives. */
#include "base/json.h"
#include "base/rng.h"
#include "base/status.h"
#include "train/lora.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char scratch[1024];

static int make_scratch(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%.900s/vmoer-lora-XXXXXX", base ? base : "/tmp");
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state) {
    (void)state;
    char path[1200];
    snprintf(path, sizeof path, "%s/adapter_config.json", scratch);
    unlink(path);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", scratch);
    unlink(path);
    return rmdir(scratch);
}

static vm_model *load(const char *name, vm_adapter *adapter, int backward_from) {
    char path[4096];
    const char *root = getenv("VMOER_TESTS");
    snprintf(path, sizeof path, "%s/golden/%s", root ? root : VMOER_TESTS_DIR, name);
    vm_model *m;
    vm_model_options options = {.compute = VM_COMPUTE_F32, .adapter = adapter, .backward_from = backward_from};
    if (vm_model_load(path, &options, NULL, &m) != VMOER_OK) fail_msg("%s", vm_error_text());
    return m;
}

static vm_param *find(const vm_param_list *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i]->name, name) == 0) return list->items[i];
    fail_msg("%s is not trained", name);
    return NULL;
}

static void attach(vm_model *m, const char *targets) {
    if (vm_lora_attach(m, targets, 4, 10, 5, NULL) != VMOER_OK) fail_msg("%s", vm_error_text());
}

static void test_attach(void **state) {
    (void)state;
    vm_model *all = load("tiny-moe.gguf", NULL, 0), *some = load("tiny-moe.gguf", NULL, 0);
    vm_param_list list, few;
    assert_int_equal(all->first_trained, 2);
    attach(all, "attention,experts,router");
    attach(some, "router");
    assert_int_equal(all->first_trained, 0);
    assert_int_equal(vm_model_params(all, &list), VMOER_OK);
    assert_int_equal(vm_model_params(some, &few), VMOER_OK);
    assert_int_equal(few.count, 2 * 2);
    assert_int_equal(list.count, 2 * 2 * (3 + 1 + 1 + 1 + 1 + 8 + 8)); /* layers, A and B, sites */
    static const struct {
        const char *module;
        int in, rows;
    } modules[] = {
        {"model.layers.0.self_attn.q_proj", 32, 32},
        {"model.layers.1.self_attn.v_proj", 32, 16},
        {"model.layers.1.self_attn.o_proj", 32, 32},
        {"model.layers.0.shared_mlp.input_linear", 32, 64},
        {"model.layers.0.block_sparse_moe.router", 32, 8},
        {"model.layers.1.block_sparse_moe.experts.gate_up_proj.7", 32, 32},
        {"model.layers.1.block_sparse_moe.experts.down_proj.0", 16, 32},
    };
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s.lora_A.weight", modules[i].module);
        const vm_param *a = find(&list, name);
        snprintf(name, sizeof name, "%s.lora_B.weight", modules[i].module);
        const vm_param *b = find(&list, name);
        assert_true(a->rows == 4 && a->cols == modules[i].in && b->rows == modules[i].rows && b->cols == 4);
    }
    /* A is uniform in +-1/sqrt(in): over all of them the mean is 0 and the mean square bound^2 / 3. B is 0. No two A
     * are the same. */
    double sum = 0, squares = 0;
    size_t count = 0;
    for (size_t i = 0; i < list.count; i++) {
        const vm_param *p = list.items[i];
        bool is_a = strstr(p->name, "lora_A") != NULL;
        for (size_t k = 0; k < vm_param_size(p); k++) {
            double x = (double)p->value[k] * (is_a ? sqrt(p->cols) : 1);
            assert_true(is_a ? fabs(x) <= 1.000001 : x == 0);
            sum += x, squares += x * x;
            if (is_a) count++;
        }
        for (size_t j = 0; is_a && j < i; j++)
            assert_false(strstr(list.items[j]->name, "lora_A") && list.items[j]->cols == p->cols &&
                         memcmp(list.items[j]->value, p->value, 64) == 0);
    }
    assert_float_equal(sum / (double)count, 0, 4 / sqrt(3.0 * (double)count));
    assert_float_equal(squares / (double)count, 1.0 / 3, 4 * 0.3 / sqrt((double)count));
    /* The router's A does not depend on what else is a target. */
    const char *router = "model.layers.1.block_sparse_moe.router.lora_A.weight";
    assert_memory_equal(find(&list, router)->value, find(&few, router)->value, 4 * 32 * sizeof(float));
    vm_free(list.items);
    vm_free(few.items);
    vm_model_free(all);
    vm_model_free(some);
}

/* y[m, out] of one projection. */
static void project(const vm_linear *l, const float *x, int m, float *y) {
    vm_arena *scratch_memory = vm_arena_create();
    float *t = vm_arena_alloc(scratch_memory, (size_t)m * (size_t)(vm_linear_rank(l) + 1), sizeof *t);
    vm_linear_call call = {.l = l, .m = m, .x = x, .ldx = (size_t)l->in, .y = y, .ldy = (size_t)l->out, .t = t};
    assert_int_equal(vm_linear_forward(NULL, scratch_memory, &call, 1), VMOER_OK);
    vm_arena_free(scratch_memory);
}

/* Gives every B values, saves, loads with the adapter merged and compares every projection; returns how many were
 * changed by LoRA. */
static int check_saved(const char *model, const char *targets) {
    enum { ROWS = 3, WIDEST = 128 };
    vm_model *plain = load(model, NULL, -1), *trained = load(model, NULL, 0);
    attach(trained, targets);
    vm_param_list list;
    assert_int_equal(vm_model_params(trained, &list), VMOER_OK);
    for (size_t i = 0; i < list.count; i++) {
        vm_rng rng = vm_rng_start(9, VM_RNG_INIT, (uint32_t)i);
        for (size_t k = 0; strstr(list.items[i]->name, "lora_B") && k < vm_param_size(list.items[i]); k++)
            list.items[i]->value[k] = vm_rng_normal(&rng);
    }
    vm_free(list.items);
    assert_int_equal(vm_model_refresh(trained, NULL), VMOER_OK);
    if (vm_lora_save(trained, scratch, "F32") != VMOER_OK) fail_msg("%s", vm_error_text());
    vm_adapter *adapter;
    if (vm_adapter_open(scratch, &adapter) != VMOER_OK) fail_msg("%s", vm_error_text());
    assert_string_equal(vm_adapter_base(adapter), trained->fingerprint);
    vm_model *merged = load(model, adapter, -1); /* says so if a tensor found no place */
    int changed = 0;
    float x[ROWS * WIDEST], y[3][ROWS * WIDEST];
    vm_rng rng = vm_rng_start(2, VM_RNG_INIT, 0);
    for (int i = 0; i < ROWS * WIDEST; i++) x[i] = vm_rng_normal(&rng);
    for (int layer = 0; layer < plain->config.n_layers; layer++)
        for (int site = 0; site < VM_SITE_COUNT; site++) {
            vm_slot slots[VM_MAX_LORA];
            int n = vm_model_slots(&plain->config, layer, (vm_site)site, slots);
            for (int e = 0; n && e < (slots[0].per_expert ? plain->config.n_experts : 1); e++) {
                const vm_linear *l = vm_model_linear(trained, layer, (vm_site)site, e);
                assert_true(l->in <= WIDEST && l->out <= WIDEST);
                project(vm_model_linear(plain, layer, (vm_site)site, e), x, ROWS, y[0]);
                project(l, x, ROWS, y[1]);
                project(vm_model_linear(merged, layer, (vm_site)site, e), x, ROWS, y[2]);
                double moved = 0;
                for (int i = 0; i < ROWS * l->out; i++) {
                    moved = fmax(moved, fabs((double)y[1][i] - (double)y[0][i]));
                    if (!(fabsf(y[2][i] - y[1][i]) <= 1e-4f))
                        fail_msg("layer %d, %s, expert %d: %g, merged %g", layer, slots[0].name, e, (double)y[1][i],
                                 (double)y[2][i]);
                }
                assert_true(moved == 0 || moved > 0.5);
                changed += moved > 0;
            }
        }
    vm_adapter_free(adapter);
    vm_model_free(plain);
    vm_model_free(trained);
    vm_model_free(merged);
    return changed;
}

static void test_save(void **state) {
    (void)state;
    assert_int_equal(check_saved("tiny-moe.gguf", "attention,experts,router"), 2 * (2 + 1 + 2 + 16));
    assert_int_equal(check_saved("tiny-moe.gguf", "router,attention"), 2 * 3);
    assert_int_equal(check_saved("tiny-llama.gguf", "attention,experts,router"), 3 * 4);
    assert_int_equal(check_saved("tiny-moe-noshared.gguf", "experts"), 8);
    assert_int_equal(check_saved("tiny-gpt-oss.gguf", "attention,experts,router"), 2 * (2 + 1 + 16));
    char path[1200];
    json_t *config;
    snprintf(path, sizeof path, "%s/adapter_config.json", scratch);
    assert_int_equal(vm_json_load(path, &config), VMOER_OK);
    assert_int_equal(json_integer_value(json_object_get(config, "lora_alpha")), 10);
    json_decref(config);
}

static void test_refused(void **state) {
    (void)state;
    vm_model *m = load("tiny-llama.gguf", NULL, 0), *forward = load("tiny-llama.gguf", NULL, -1);
    static const char *const bad[] = {"",          "attention,",       ",attention", "attention,mlp",
                                      "Attention", "attention experts"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(vm_lora_attach(m, bad[i], 4, 8, 0, NULL), VMOER_ERROR_ARGUMENT);
        assert_non_null(strstr(vm_error_text(), "LoRA target"));
    }
    assert_int_equal(vm_lora_attach(m, "router", 4, 8, 0, NULL), VMOER_ERROR_ARGUMENT); /* a dense model has none */
    assert_int_equal(vm_lora_attach(m, "attention", 0, 8, 0, NULL), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_lora_attach(m, "attention", 4097, 8, 0, NULL), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_lora_attach(m, "attention", 4, NAN, 0, NULL), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_lora_attach(forward, "attention", 4, 8, 0, NULL), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "backward"));
    assert_int_equal(vm_lora_save(m, scratch, "F32"), VMOER_ERROR_ARGUMENT);
    vm_model_free(m);
    vm_model_free(forward);
}

/* y = x W' + scale (x A') B' on rows [1, 4) of a 5 x 7 matrix: a router of five experts is no multiple of anything.
 * Such a matrix is refused in bf16, whose words hold two numbers. */
static void test_odd_matrix(void **state) {
    (void)state;
    enum { OUT = 5, IN = 7, ROW = 1, ROWS = 3, RANK = 3, M = 4 };
    float w[OUT * IN], x[M * IN], y[M * OUT], t[M * RANK];
    vm_rng rng = vm_rng_start(3, VM_RNG_INIT, 0);
    for (int i = 0; i < OUT * IN; i++) w[i] = vm_rng_normal(&rng);
    for (int i = 0; i < M * IN; i++) x[i] = vm_rng_normal(&rng);
    vm_linear l;
    vm_lora *r;
    assert_int_equal(vm_linear_init(&l, NULL, VM_COMPUTE_F32, OUT, IN, w, true), VMOER_OK);
    assert_int_equal(vm_linear_add_lora(&l, "router", ROW, ROWS, RANK, 0.5f, &r), VMOER_OK);
    for (int i = 0; i < RANK * IN; i++) r->a.value[i] = vm_rng_normal(&rng);
    for (int i = 0; i < ROWS * RANK; i++) r->b.value[i] = vm_rng_normal(&rng);
    assert_int_equal(vm_linear_refresh(&l, NULL), VMOER_OK);
    vm_arena *arena = vm_arena_create();
    assert_non_null(arena);
    vm_linear_call call = {.l = &l, .m = M, .x = x, .ldx = IN, .y = y, .ldy = OUT, .t = t};
    assert_int_equal(vm_linear_forward(NULL, arena, &call, 1), VMOER_OK);
    for (int m = 0; m < M; m++)
        for (int o = 0; o < OUT; o++) {
            double sum = 0;
            for (int i = 0; i < IN; i++) sum += (double)x[m * IN + i] * (double)w[o * IN + i];
            for (int j = 0; o >= ROW && o < ROW + ROWS && j < RANK; j++) {
                double middle = 0;
                for (int i = 0; i < IN; i++) middle += (double)x[m * IN + i] * (double)r->a.value[j * IN + i];
                sum += 0.5 * middle * (double)r->b.value[(o - ROW) * RANK + j];
            }
            assert_float_equal(y[m * OUT + o], sum, 1e-5);
        }
    vm_linear_clear(&l);
    vm_arena_free(arena);
    assert_int_equal(vm_linear_init(&l, NULL, VM_COMPUTE_BF16, OUT, IN, w, true), VMOER_OK);
    assert_int_equal(vm_linear_add_lora(&l, "router", ROW, ROWS, RANK, 0.5f, &r), VMOER_ERROR_UNSUPPORTED);
    vm_linear_clear(&l);
}

/* What a projection multiplies by, read back: W to the bit, and W + scale B A on the rows that have a LoRA. */
static void test_matrix(void **state) {
    (void)state;
    enum { OUT = 5, IN = 300, ROW = 2, ROWS = 3, RANK = 2 };
    static float w[OUT * IN], back[OUT * IN];
    vm_rng rng = vm_rng_start(4, VM_RNG_INIT, 0);
    for (int i = 0; i < OUT * IN; i++) w[i] = vm_rng_normal(&rng);
    vm_linear l;
    vm_lora *r;
    assert_int_equal(vm_linear_init(&l, NULL, VM_COMPUTE_F32, OUT, IN, w, true), VMOER_OK);
    assert_int_equal(vm_linear_matrix(&l, NULL, back), VMOER_OK);
    assert_memory_equal(back, w, sizeof w);
    assert_int_equal(vm_linear_add_lora(&l, "router", ROW, ROWS, RANK, 0.5f, &r), VMOER_OK);
    for (int i = 0; i < RANK * IN; i++) r->a.value[i] = vm_rng_normal(&rng);
    for (int i = 0; i < ROWS * RANK; i++) r->b.value[i] = vm_rng_normal(&rng);
    assert_int_equal(vm_linear_refresh(&l, NULL), VMOER_OK);
    assert_int_equal(vm_linear_matrix(&l, NULL, back), VMOER_OK);
    assert_memory_equal(back, w, ROW * IN * sizeof *w);
    for (int o = ROW; o < OUT; o++)
        for (int i = 0; i < IN; i++) {
            double sum = w[o * IN + i];
            for (int j = 0; j < RANK; j++)
                sum += 0.5 * (double)r->b.value[(o - ROW) * RANK + j] * (double)r->a.value[j * IN + i];
            assert_float_equal(back[o * IN + i], sum, 1e-5);
        }
    vm_linear_clear(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attach), cmocka_unit_test(test_odd_matrix), cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_save),   cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("lora", tests, make_scratch, remove_scratch);
}
