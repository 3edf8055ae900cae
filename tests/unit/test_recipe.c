/* test_recipe.c: a recipe survives its file, gives the weights its formula says, and builds the same MoE bytes on every ISA; a MoE whose experts all run is the
 * dense model; recipes that are wrong in one place are refused by name. */
#include "base/file.h"
#include "base/rng.h"
#include "model_fixture.h"
#include "train/recipe.h"

enum { D = 32, F = 48, LAYERS = 3, EXPERTS = 4, WIDTH = 8, RANK = 2, VOCAB = 272 };

/* A recipe of tiny-llama: every order shuffled, routers and deltas of size `size`, all halves, the same on every machine. */
static vm_recipe *make(const char *dense_path, int top_k, float size) {
    vm_model *dense;
    vm_recipe *r;
    OK(vm_model_load(dense_path, &(vm_model_options){.backward_from = -1}, NULL, &dense));
    OK(vm_recipe_create(dense, EXPERTS, WIDTH, top_k, RANK, &r));
    vm_model_free(dense);
    assert_int_equal(r->shared_width, F - EXPERTS * WIDTH);
    snprintf(r->training, sizeof r->training, "{\"steps\": 7}");
    vm_rng rng = vm_rng_start(31, VM_RNG_INIT, 0);
    for (int l = 0; l < LAYERS; l++) {
        vm_recipe_layer *y = &r->layers[l];
        struct { float *values; int n; } parts[] = {{y->router, EXPERTS * D}, {y->gate_a, RANK * D}, {y->gate_b, F * RANK}, {y->up_a, RANK * D},
                                                    {y->up_b, F * RANK},      {y->down_a, RANK * F}, {y->down_b, D * RANK}};
        for (int i = 0; i < F; i++) y->order[i] = i;
        vm_rng_shuffle(&rng, y->order, F);
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
            for (int i = 0; i < parts[p].n; i++) parts[p].values[i] = vm_f16_to_f32(vm_f32_to_f16(size * (float)(2 * vm_rng_uniform(&rng) - 1)));
    }
    return r;
}

static void assert_same_recipe(const vm_recipe *a, const vm_recipe *b) {
    assert_string_equal(a->base, b->base);
    assert_string_equal(a->base_name, b->base_name);
    assert_string_equal(a->training, b->training);
    assert_true(a->n_layers == b->n_layers && a->dim == b->dim && a->width == b->width && a->experts == b->experts && a->expert_width == b->expert_width &&
                a->shared_width == b->shared_width && a->top_k == b->top_k && a->rank == b->rank);
    for (int l = 0; l < LAYERS; l++) {
        const vm_recipe_layer *x = &a->layers[l], *y = &b->layers[l];
        assert_memory_equal(x->order, y->order, F * sizeof(int32_t));
        assert_memory_equal(x->router, y->router, EXPERTS * D * sizeof(float));
        assert_memory_equal(x->gate_a, y->gate_a, RANK * D * sizeof(float));
        assert_memory_equal(x->gate_b, y->gate_b, F * RANK * sizeof(float));
        assert_memory_equal(x->up_a, y->up_a, RANK * D * sizeof(float));
        assert_memory_equal(x->up_b, y->up_b, F * RANK * sizeof(float));
        assert_memory_equal(x->down_a, y->down_a, RANK * F * sizeof(float));
        assert_memory_equal(x->down_b, y->down_b, D * RANK * sizeof(float));
    }
}

static void test_file(void **state) {
    (void)state;
    const char *path = scratch_path("recipe.safetensors");
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0.3f), *back;
    r->layers[1].down_b[3] = 0.1f; /* no half: saving rounds what is in memory too */
    OK(vm_recipe_save(r, path));
    assert_true(r->layers[1].down_b[3] != 0.1f && fabsf(r->layers[1].down_b[3] - 0.1f) < 1e-4f);
    OK(vm_recipe_load(path, &back));
    assert_same_recipe(r, back);
    vm_recipe_free(back);
    vm_recipe_free(r);
    unlink(path);
    vm_recipe_free(NULL);
}

/* ---- weights ---- */

static void test_weights(void **state) {
    (void)state;
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0.3f);
    static float dense[3][F * D], out[3][F * D];
    vm_rng rng = vm_rng_start(3, VM_RNG_INIT, 1);
    for (int i = 0; i < 3 * F * D; i++) dense[i / (F * D)][i % (F * D)] = vm_rng_normal(&rng);
    const vm_recipe_layer *l = &r->layers[1];
    vm_recipe_weights(r, 1, dense[0], dense[1], dense[2], out[0], out[1], out[2]);
    for (int i = 0; i < F; i++)
        for (int d = 0; d < D; d++) {
            double gate = (double)dense[0][l->order[i] * D + d], up = (double)dense[1][l->order[i] * D + d], down = (double)dense[2][d * F + l->order[i]];
            for (int j = 0; j < RANK; j++) {
                gate += (double)l->gate_b[i * RANK + j] * (double)l->gate_a[j * D + d];
                up += (double)l->up_b[i * RANK + j] * (double)l->up_a[j * D + d];
                down += (double)l->down_b[d * RANK + j] * (double)l->down_a[j * F + i];
            }
            assert_float_equal(out[0][i * D + d], gate, 2e-6);
            assert_float_equal(out[1][i * D + d], up, 2e-6);
            assert_float_equal(out[2][d * F + i], down, 2e-6);
        }
    vm_recipe_free(r);
}

/* tiny-llama with its feed-forward weights rounded to bf16, so that the MoE's are the same numbers. */
static const char *write_rounded(void) {
    const char *path = scratch_path("dense.gguf");
    vm_gguf *g;
    vm_arena *arena = vm_arena_create();
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_open(golden_path("tiny-llama.gguf"), &g));
    OK(vm_gguf_writer_copy_keys(w, g, ""));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        float *values = vm_arena_alloc(arena, t->size, 1);
        memcpy(values, t->data, t->size);
        for (size_t k = 0; strstr(t->name, ".ffn_") && !strstr(t->name, "norm") && k < t->size / sizeof *values; k++)
            values[k] = vm_bf16_to_f32(vm_f32_to_bf16(values[k]));
        OK(vm_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, values));
    }
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    vm_arena_free(arena);
    vm_gguf_free(g);
    return path;
}

static void logits_of(const char *path, float *logits, vm_config *config) {
    vm_safetensors *st = golden_open("tiny-llama");
    vm_model *m;
    vm_pass *pass;
    sequences s;
    OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
    *config = m->config;
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 6, &s);
    OK(vm_pass_forward(pass, &s.batch, &(vm_pass_options){.sign = 1}, NULL, NULL, logits));
    vm_pass_free(pass);
    vm_model_free(m);
    vm_safetensors_free(st);
}

/* Flat routers, every expert running, no deltas: the dense model, neurons in another order. The factor top_k on the way down undoes the gates' 1 / K. */
static void test_all_experts(void **state) {
    (void)state;
    static float dense[MAX_TOKENS * VOCAB], moe[MAX_TOKENS * VOCAB];
    const char *dense_path = write_rounded(), *moe_path = scratch_path("moe.gguf");
    vm_config config;
    vm_recipe *r = make(dense_path, EXPERTS, 0);
    OK(vm_recipe_build(r, dense_path, moe_path));
    logits_of(dense_path, dense, &config);
    assert_string_equal(config.arch, "llama");
    logits_of(moe_path, moe, &config);
    assert_string_equal(config.arch, "granitemoe");
    assert_string_equal(config.name, "tiny-llama MoE 4x8 top 4");
    assert_true(config.n_experts == EXPERTS && config.top_k == EXPERTS && config.expert_width == WIDTH && config.shared_width == F - EXPERTS * WIDTH);
    assert_true(config.n_layers == LAYERS && config.dim == D && config.n_vocab == VOCAB && config.context == 128 && config.n_heads == 4 && config.n_kv_heads == 2);
    double d = largest_difference(moe, dense, 46 * VOCAB);
    if (!(d < 5e-5)) fail_msg("logits differ by %g", d);
    vm_recipe_free(r);
    /* And with experts left out it is another one. */
    r = make(dense_path, 2, 0);
    OK(vm_recipe_build(r, dense_path, moe_path));
    logits_of(moe_path, moe, &config);
    assert_true(largest_difference(moe, dense, 46 * VOCAB) > 0.1);
    vm_recipe_free(r);
    unlink(moe_path);
    unlink(dense_path);
}

/* ---- the built file ---- */

/* The bytes are the same on every machine: whatever compiler and kernels made this test, the file is this one. */
static const char built_sha256[] = "09525b70b32a6df0cfb121445db8a573a5fa82a50f354ec8bed7aac7c4adcc79";

static void test_same_bytes(void **state) {
    (void)state;
    const char *path = scratch_path("built.gguf"), *dense = golden_path("tiny-llama.gguf");
    const vm_kernels *tables[8];
    int n = vm_kernels_all(tables, 8);
    for (int i = 0; i < n; i++) {
        char hex[65];
        vm_kernels_force(tables[i]);
        vm_recipe *r = make(dense, 2, 0.3f);
        OK(vm_recipe_build(r, dense, path));
        OK(vm_sha256_file(path, hex));
        if (strcmp(hex, built_sha256) != 0) fail_msg("%s: the file is %s", tables[i]->name, hex);
        vm_recipe_free(r);
    }
    vm_kernels_force(NULL);
    unlink(path);
}

/* Everything that is not feed-forward is copied as it stands. */
static void test_copied(void **state) {
    (void)state;
    const char *path = scratch_path("built.gguf"), *dense_path = golden_path("tiny-llama.gguf");
    vm_gguf *dense, *built;
    size_t copied = 0;
    vm_recipe *r = make(dense_path, 2, 0.3f);
    OK(vm_recipe_build(r, dense_path, path));
    vm_recipe_free(r);
    OK(vm_gguf_open(dense_path, &dense));
    OK(vm_gguf_open(path, &built));
    for (size_t i = 0; i < vm_gguf_tensor_count(dense); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(dense, i), *u = vm_gguf_find_tensor(built, t->name);
        if (!u) continue;
        assert_int_equal(t->type, u->type);
        assert_int_equal(t->size, u->size);
        assert_memory_equal(t->data, u->data, t->size);
        copied++;
    }
    assert_int_equal(copied, vm_gguf_tensor_count(dense) - 3 * LAYERS);
    assert_int_equal(vm_gguf_tensor_count(built), copied + 7 * LAYERS);
    for (size_t i = 0; i < vm_gguf_key_count(dense); i++) {
        const char *key = vm_gguf_key_at(dense, i);
        if (strncmp(key, "tokenizer.", 10) == 0) assert_true(vm_gguf_has_key(built, key));
    }
    assert_true(vm_gguf_has_key(built, "granitemoe.attention.scale") && !vm_gguf_has_key(built, "llama.block_count"));
    vm_gguf_free(built);
    vm_gguf_free(dense);
    unlink(path);
}

/* ---- refused ---- */

/* One change to a recipe's file. */
typedef struct change {
    const char *says;
    const char *meta, *value; /* value NULL: left out */
    const char *drop, *turned; /* a tensor left out, or with its shape the other way round */
    const char *spoilt;       /* a tensor whose last value becomes `number`; an order's: (int)number */
    float number;
    bool wide_order;          /* orders stored as I64 */
    bool extra;
} change;

static bool is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

static void write_changed(const vm_safetensors *st, const change *c, const char *path) {
    static const char *const keys[] = {"format", "version", "base", "base_name", "training", "layers", "dim", "width", "experts", "expert_width", "top_k", "rank"};
    static uint8_t copy[1 << 16];
    vm_st_writer *w = vm_st_writer_create();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *value = is(c->meta, keys[i]) ? c->value : vm_safetensors_metadata(st, keys[i]);
        if (value) OK(vm_st_writer_metadata(w, keys[i], value));
    }
    for (size_t i = 0; i < vm_safetensors_count(st); i++) {
        const vm_st_tensor *t = vm_safetensors_at(st, i);
        int64_t shape[2] = {t->shape[0], t->n_dims > 1 ? t->shape[1] : 1};
        if (is(c->drop, t->name)) continue;
        memcpy(copy, t->data, t->size);
        bool order = strcmp(t->dtype, "I32") == 0;
        if (is(c->spoilt, t->name)) {
            int32_t neuron = order ? (int32_t)c->number : 0;
            uint16_t half = vm_f32_to_f16(c->number);
            if (order) memcpy(copy + t->size - 4, &neuron, 4);
            else memcpy(copy + t->size - 2, &half, 2);
        }
        if (is(c->turned, t->name)) shape[0] = t->n_dims > 1 ? t->shape[1] : t->shape[0] / 2, shape[1] = t->n_dims > 1 ? t->shape[0] : 2;
        if (c->wide_order && order) OK(vm_st_writer_raw(w, t->name, "I64", 8, 1, (int64_t[]){shape[0] / 2}, copy));
        else OK(vm_st_writer_raw(w, t->name, t->dtype, order ? 4 : 2, is(c->turned, t->name) ? 2 : t->n_dims, shape, copy));
    }
    if (c->extra) OK(vm_st_writer_f32(w, "blk.3.router", "F16", 1, (int64_t[]){1}, (float[]){0}));
    OK(vm_st_writer_save(w, path));
    vm_st_writer_free(w);
}

static void test_hostile(void **state) {
    (void)state;
    static const change cases[] = {
        {.says = "__metadata__.format: missing", .meta = "format"},
        {.says = "'vmoer-router' is not vmoer-recipe", .meta = "format", .value = "vmoer-router"},
        {.says = "__metadata__.version: '2'", .meta = "version", .value = "2"},
        {.says = "__metadata__.base: missing", .meta = "base"},
        {.says = "__metadata__.base: not a fingerprint", .meta = "base", .value = "abc"},
        {.says = "__metadata__.layers: '' is not a count", .meta = "layers", .value = ""},
        {.says = "__metadata__.layers: '3x' is not a count", .meta = "layers", .value = "3x"},
        {.says = "__metadata__.layers: '-3' is not a count", .meta = "layers", .value = "-3"},
        {.says = "__metadata__.rank: '99999999999999999999' is not a count", .meta = "rank", .value = "99999999999999999999"},
        {.says = "recipe: 0 layers", .meta = "layers", .value = "0"},
        {.says = "recipe: 513 layers", .meta = "layers", .value = "513"},
        {.says = "24 tensors, 4 layers have 32", .meta = "layers", .value = "4"},
        {.says = "24 tensors, 2 layers have 16", .meta = "layers", .value = "2"},
        {.says = "dimension 0", .meta = "dim", .value = "0"},
        {.says = "blk.0.router: missing, or not [4, 65536]", .meta = "dim", .value = "65536"},
        {.says = "blk.0.gate.b: missing, or not [1048576, 2]", .meta = "width", .value = "1048576"},
        {.says = "4 routed experts of 8 neurons, top 2, do not fit a feed-forward width of 31", .meta = "width", .value = "31"},
        {.says = "1 routed experts", .meta = "experts", .value = "1"},
        {.says = "blk.0.router: missing, or not [6, 32]", .meta = "experts", .value = "6"},
        {.says = "7 routed experts of 8 neurons", .meta = "experts", .value = "7"},
        {.says = "experts of 0 neurons", .meta = "expert_width", .value = "0"},
        {.says = "experts of 16777216 neurons", .meta = "expert_width", .value = "16777216"},
        {.says = "top 5", .meta = "top_k", .value = "5"},
        {.says = "top 0", .meta = "top_k", .value = "0"},
        {.says = "rank 4097", .meta = "rank", .value = "4097"},
        {.says = "blk.0.gate.a: missing, or not [3, 32]", .meta = "rank", .value = "3"},
        {.says = "23 tensors", .drop = "blk.1.up.a"},
        {.says = "25 tensors", .extra = true},
        {.says = "blk.2.order: missing", .drop = "blk.2.order", .extra = true},
        {.says = "blk.2.down.b", .drop = "blk.2.down.b", .extra = true},
        {.says = "blk.0.down.a: missing, or not [2, 48]", .turned = "blk.0.down.a"},
        {.says = "blk.1.down.a", .turned = "blk.1.down.a"},
        {.says = "blk.1.order: missing, or not I32 [48]", .turned = "blk.1.order"},
        {.says = "blk.0.order: missing, or not I32 [48]", .wide_order = true},
        {.says = "blk.1.order: element 47, 48, is not a permutation's", .spoilt = "blk.1.order", .number = 48},
        {.says = "blk.1.order: element 47, -1, is not a permutation's", .spoilt = "blk.1.order", .number = -1},
        {.says = "blk.2.order: element", .spoilt = "blk.2.order", .number = 0},
        {.says = "blk.2.router: element 127 is not a finite number", .spoilt = "blk.2.router", .number = NAN},
        {.says = "blk.0.up.b: element 95 is not a finite number", .spoilt = "blk.0.up.b", .number = INFINITY},
    };
    const char *good = scratch_path("good.safetensors"), *bad = scratch_path("bad.safetensors");
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0.3f), *back;
    vm_safetensors *st;
    for (int i = 0; i < F; i++) r->layers[2].order[i] = i; /* so that a 0 at the end is the second one */
    OK(vm_recipe_save(r, good));
    OK(vm_safetensors_open(good, &st));
    write_changed(st, &(change){.says = ""}, bad);
    OK(vm_recipe_load(bad, &back)); /* what the helper writes is a recipe while nothing is changed */
    assert_same_recipe(r, back);
    vm_recipe_free(back);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_changed(st, &cases[i], bad);
        back = NULL;
        if (vm_recipe_load(bad, &back) == VMOER_OK) fail_msg("case %zu was accepted, \"%s\" expected", i, cases[i].says);
        if (!strstr(vm_error_text(), cases[i].says)) fail_msg("case %zu: \"%s\" expected, got \"%s\"", i, cases[i].says, vm_error_text());
        assert_non_null(strstr(vm_error_text(), bad));
        assert_null(back);
    }
    vm_safetensors_free(st);
    /* A file that could not be read again is not written. */
    r->layers[1].up_a[3] = 1e5f;
    assert_int_equal(vm_recipe_save(r, bad), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "blk.1.up.a: element 3 is not a finite number"));
    vm_recipe_free(r);
    unlink(good);
    unlink(bad);
}

static void test_other_models(void **state) {
    (void)state;
    const char *path = scratch_path("never.gguf"), *other = write_rounded();
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0), *none;
    assert_int_equal(vm_recipe_build(r, other, path), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "the recipe was made for 'tiny-llama'"));
    assert_int_equal(vm_recipe_build(r, golden_path("tiny-moe.gguf"), path), VMOER_ERROR_MISMATCH);
    assert_int_equal(vm_recipe_build(r, "/nonexistent.gguf", path), VMOER_ERROR_IO);
    assert_int_equal(access(path, F_OK), -1);
    vm_recipe_free(r);
    unlink(other);
    vm_model *moe = load_model("tiny-moe", (vm_model_options){.backward_from = -1}), *dense = load_model("tiny-llama", (vm_model_options){.backward_from = -1});
    assert_int_equal(vm_recipe_create(moe, 4, 8, 2, 2, &none), VMOER_ERROR_ARGUMENT);
    static const int wrong[][4] = {{1, 8, 1, 2}, {4, 13, 2, 2}, {4, 0, 2, 2}, {4, 8, 5, 2}, {4, 8, 0, 2}, {4, 8, 2, -1}, {4, -8, 2, 1}, {-4, 8, 2, 1}, {1025, 1, 2, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_not_equal(vm_recipe_create(dense, wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3], &none), VMOER_OK);
    vm_model_free(moe);
    vm_model_free(dense);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),   cmocka_unit_test(test_weights), cmocka_unit_test(test_all_experts),  cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_copied), cmocka_unit_test(test_hostile), cmocka_unit_test(test_other_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
