/* test_recipe.c: a recipe survives its file, with a recovery and without one, and builds the same MoE bytes on every
 * ISA; a MoE whose experts all run is the dense model; a recovery is merged as its formula says and touches nothing
 * else; recipes that are wrong in one place are refused by name. */
#include "base/file.h"
#include "base/rng.h"
#include "model_fixture.h"
#include "train/lora.h"
#include "train/recipe.h"

enum {
    D = 32,
    F = 48,
    LAYERS = 3,
    EXPERTS = 4,
    WIDTH = 8,
    SHARED = F - EXPERTS * WIDTH,
    RANK = 2,
    ALPHA = 5,
    VOCAB = 272
};

static float half(double value) { return vm_f16_to_f32(vm_f32_to_f16((float)value)); }

/* A recipe of tiny-llama: every order shuffled, routers of size `size`, all halves, the same on every machine. */
static vm_recipe *make(const char *dense_path, int top_k, double size) {
    vm_model *dense;
    vm_recipe *r;
    OK(vm_model_load(dense_path, &(vm_model_options){.backward_from = -1}, NULL, &dense));
    OK(vm_recipe_create(dense, EXPERTS, WIDTH, top_k, &r));
    vm_model_free(dense);
    assert_int_equal(r->shared_width, SHARED);
    assert_null(r->recovery);
    snprintf(r->training, sizeof r->training, "{\"steps\": 7}");
    vm_rng rng = vm_rng_start(31, VM_RNG_INIT, 0);
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < F; i++) r->layers[l].order[i] = i;
        vm_rng_shuffle(&rng, r->layers[l].order, F);
        for (int i = 0; i < EXPERTS * D; i++) r->layers[l].router[i] = half(size * (2 * vm_rng_uniform(&rng) - 1));
    }
    return r;
}

/* What r splits the dense model into, at `path`, and with LoRA whose A and B are halves of up to 0.3, the same on every
 * machine. */
static vm_model *make_distilled(const vm_recipe *r, const char *dense_path, const char *path) {
    vm_model *m;
    vm_param_list params;
    OK(vm_recipe_build(r, NULL, dense_path, path));
    OK(vm_model_load(path, &(vm_model_options){.backward_from = 0}, NULL, &m));
    OK(vm_lora_attach(m, "attention,experts", RANK, ALPHA, 1, NULL));
    OK(vm_model_params(m, &params));
    assert_int_equal(params.count,
                     LAYERS * 2 * (6 + 2 * EXPERTS)); /* q, k, v, output, shared in and out; each expert's in and out */
    vm_rng rng = vm_rng_start(32, VM_RNG_INIT, 0);
    for (size_t i = 0; i < params.count; i++)
        for (size_t k = 0; k < vm_param_size(params.items[i]); k++)
            params.items[i]->value[k] = half(0.6 * vm_rng_uniform(&rng) - 0.3);
    vm_free(params.items);
    OK(vm_model_refresh(m, NULL));
    return m;
}

/* The recipe of make(dense_path, 2, 0.3) with such a recovery, in a file. */
static void write_recovery(const char *dense_path, const char *path) {
    const char *split = scratch_path("distilled.gguf");
    vm_recipe *r = make(dense_path, 2, 0.3);
    vm_model *m = make_distilled(r, dense_path, split);
    OK(vm_recipe_save(r, m, path));
    vm_model_free(m);
    vm_recipe_free(r);
    unlink(split);
}

/* ---- the recipe's file ---- */

static void assert_same_recipe(const vm_recipe *a, const vm_recipe *b) {
    assert_string_equal(a->base, b->base);
    assert_string_equal(a->base_name, b->base_name);
    assert_string_equal(a->training, b->training);
    assert_true(a->n_layers == b->n_layers && a->dim == b->dim && a->width == b->width && a->experts == b->experts &&
                a->expert_width == b->expert_width && a->shared_width == b->shared_width && a->top_k == b->top_k);
    for (int l = 0; l < LAYERS; l++) {
        assert_memory_equal(a->layers[l].order, b->layers[l].order, F * sizeof(int32_t));
        assert_memory_equal(a->layers[l].router, b->layers[l].router, EXPERTS * D * sizeof(float));
    }
}

static void test_file(void **state) {
    (void)state;
    const char *path = scratch_path("recipe.safetensors"), *split = scratch_path("split.gguf");
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0.3), *back;
    r->layers[1].router[3] = 0.1f; /* no half: saving rounds what is in memory too */
    OK(vm_recipe_save(r, NULL, path));
    assert_true(r->layers[1].router[3] != 0.1f && fabsf(r->layers[1].router[3] - 0.1f) < 1e-4f);
    OK(vm_recipe_load(path, &back));
    assert_same_recipe(r, back);
    assert_null(back->recovery);
    vm_recipe_free(back);

    vm_model *m = make_distilled(r, golden_path("tiny-llama.gguf"), split);
    OK(vm_recipe_save(r, m, path));
    OK(vm_recipe_load(path, &back));
    assert_same_recipe(r, back);
    assert_non_null(back->recovery);
    /* The recovery is the model's LoRA: that of the third expert's way in, in the second layer. */
    static float w[2 * WIDTH * D];
    const vm_lora *lora = vm_model_linear(m, 1, VM_SITE_EXPERT_IN, 2)->lora[0];
    OK(vm_adapter_merge_module(back->recovery, "model.layers.1.block_sparse_moe.experts.gate_up_proj", 2, EXPERTS,
                               2 * WIDTH, D, 0, w));
    for (int o = 0; o < 2 * WIDTH; o++)
        for (int i = 0; i < D; i++) {
            double delta = 0;
            for (int j = 0; j < RANK; j++)
                delta += (double)ALPHA / RANK * (double)lora->b.value[o * RANK + j] * (double)lora->a.value[j * D + i];
            assert_float_equal(w[o * D + i], delta, 1e-6);
        }
    vm_recipe_free(back);
    vm_model_free(m);
    vm_recipe_free(r);
    unlink(path);
    unlink(split);
    vm_recipe_free(NULL);
}

/* A file that could not be read again is not written. */
static void test_not_saved(void **state) {
    (void)state;
    const char *path = scratch_path("recipe.safetensors"), *split = scratch_path("split.gguf");
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0.3);
    vm_model *plain, *m = make_distilled(r, golden_path("tiny-llama.gguf"), split);
    OK(vm_model_load(split, &(vm_model_options){.backward_from = 0}, NULL, &plain));
    assert_int_equal(vm_recipe_save(r, plain, path), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "the model has no LoRA to save"));
    vm_model_free(plain);
    m->layers[2].attention_out.lora[0]->b.value[5] = 1e5f;
    assert_int_equal(vm_recipe_save(r, m, path), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "layers.2.self_attn.o_proj.lora_B.weight: element 5"));
    r->layers[1].router[3] = 1e5f;
    assert_int_equal(vm_recipe_save(r, NULL, path), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "blk.1.router: element 3 is not a finite number"));
    assert_int_equal(access(path, F_OK), -1);
    vm_model_free(m);
    vm_recipe_free(r);
    unlink(split);
}

/* ---- the built model ---- */

/* tiny-llama with its feed-forward weights rounded to bf16, so that the MoE's are the same numbers; its embedding in
 * Q8_0, which no one writes anew. */
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
        bool embedding = strcmp(t->name, "token_embd.weight") == 0;
        memcpy(values, t->data, t->size);
        if (embedding)
            assert_true(vm_quantize(VM_Q8_0, (const float *)(const void *)t->data, t->size / sizeof *values, values));
        for (size_t k = 0; strstr(t->name, ".ffn_") && !strstr(t->name, "norm") && k < t->size / sizeof *values; k++)
            values[k] = vm_bf16_to_f32(vm_f32_to_bf16(values[k]));
        OK(vm_gguf_writer_tensor(w, t->name, embedding ? VM_Q8_0 : t->type, t->n_dims, t->ne, values));
    }
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    vm_arena_free(arena);
    vm_gguf_free(g);
    return path;
}

static void logits_of(vm_model *m, float *logits) {
    vm_safetensors *st = golden_open("tiny-llama");
    vm_pass *pass;
    sequences s;
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 6, &s);
    OK(vm_pass_forward(pass, &s.batch, &(vm_pass_options){.sign = 1}, NULL, NULL, logits));
    vm_pass_free(pass);
    vm_safetensors_free(st);
}

static void logits_of_file(const char *path, float *logits, vm_config *config) {
    vm_model *m;
    OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
    *config = m->config;
    logits_of(m, logits);
    vm_model_free(m);
}

/* Flat routers, every expert running: the dense model, neurons in another order. The factor top_k on the way down
 * undoes the gates' 1 / K. */
static void test_all_experts(void **state) {
    (void)state;
    static float dense[MAX_TOKENS * VOCAB], moe[MAX_TOKENS * VOCAB];
    const char *dense_path = write_rounded(), *moe_path = scratch_path("moe.gguf");
    vm_config config;
    vm_recipe *r = make(dense_path, EXPERTS, 0);
    OK(vm_recipe_build(r, NULL, dense_path, moe_path));
    logits_of_file(dense_path, dense, &config);
    assert_string_equal(config.arch->name, "llama");
    logits_of_file(moe_path, moe, &config);
    assert_string_equal(config.arch->name, "granitemoe");
    assert_string_equal(config.name, "tiny-llama MoE 4x8 top 4");
    assert_true(config.n_experts == EXPERTS && config.top_k == EXPERTS && config.expert_width == WIDTH &&
                config.shared_width == SHARED);
    assert_true(config.n_layers == LAYERS && config.dim == D && config.n_vocab == VOCAB && config.context == 128 &&
                config.n_heads == 4 && config.n_kv_heads == 2);
    double d = largest_difference(moe, dense, 46 * VOCAB);
    if (!(d < 5e-5)) fail_msg("logits differ by %g", d);
    vm_recipe_free(r);
    /* And with experts left out it is another one. */
    r = make(dense_path, 2, 0);
    OK(vm_recipe_build(r, NULL, dense_path, moe_path));
    logits_of_file(moe_path, moe, &config);
    assert_true(largest_difference(moe, dense, 46 * VOCAB) > 0.1);
    vm_recipe_free(r);
    unlink(moe_path);
    unlink(dense_path);
}

/* The bytes are the same on every machine: whatever compiler and kernels made this test, the files are these. */
static const char built_sha256[] = "5a9b112806bfa82bd9f601caa124b177ae45198649088651a9b7a8b2a81665e0",
                  recovered_sha256[] = "9ee7d1881c3ec0930fdd9c456cd2c47f72a9099d17d511cc5c082476b7053cc6";

static void assert_built(const vm_recipe *r, const char *kernels, const char *sha256) {
    const char *path = scratch_path("built.gguf"), *split = scratch_path("built.gguf.split");
    for (int threads = 1; threads <= 2; threads++) {
        char hex[65];
        vm_pool *pool;
        OK(vm_pool_create(threads, &pool));
        OK(vm_recipe_build(r, pool, golden_path("tiny-llama.gguf"), path));
        OK(vm_sha256_file(path, hex));
        if (strcmp(hex, sha256) != 0) fail_msg("%s, %d threads: the file is %s", kernels, threads, hex);
        vm_pool_free(pool);
    }
    assert_int_equal(access(split, F_OK), -1); /* gone with the work */
    unlink(path);
}

static void test_same_bytes(void **state) {
    (void)state;
    const vm_kernels *tables[8];
    int n = vm_kernels_all(tables, 8);
    for (int i = 0; i < n; i++) {
        char path[4096];
        vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0.3);
        snprintf(path, sizeof path, "%s", scratch_path("recipe.safetensors"));
        vm_kernels_force(tables[i]);
        assert_built(r, tables[i]->name, built_sha256);
        vm_recipe_free(r);
        write_recovery(golden_path("tiny-llama.gguf"), path);
        OK(vm_recipe_load(path, &r));
        assert_built(r, tables[i]->name, recovered_sha256);
        vm_recipe_free(r);
        unlink(path);
    }
    vm_kernels_force(NULL);
}

static void assert_copied(const vm_gguf_tensor *t, const vm_gguf_tensor *u) {
    assert_int_equal(t->type, u->type);
    assert_int_equal(t->size, u->size);
    assert_memory_equal(t->data, u->data, t->size);
}

/* Everything that is not feed-forward is copied as it stands. */
static void test_copied(void **state) {
    (void)state;
    const char *path = scratch_path("built.gguf"), *dense_path = write_rounded();
    vm_gguf *dense, *built;
    size_t copied = 0;
    vm_recipe *r = make(dense_path, 2, 0.3);
    OK(vm_recipe_build(r, NULL, dense_path, path));
    vm_recipe_free(r);
    OK(vm_gguf_open(dense_path, &dense));
    OK(vm_gguf_open(path, &built));
    for (size_t i = 0; i < vm_gguf_tensor_count(dense); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(dense, i), *u = vm_gguf_find_tensor(built, t->name);
        if (!u) continue;
        assert_copied(t, u);
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
    unlink(dense_path);
}

/* ---- the recovery, merged ---- */

/* A tensor of a layer, and the rows of B it takes of a PEFT pair. */
typedef struct place {
    const char *tensor, *pair;
    int first, of; /* its rows are [first, first + rows) of `of` */
    int heads;     /* > 0: the GGUF has a head's rows in the order 0, half, 1, half + 1, ... */
} place;

static const place places[] = {
    {"attn_q", "self_attn.q_proj", 0, 32, 4},
    {"attn_k", "self_attn.k_proj", 0, 16, 2},
    {"attn_v", "self_attn.v_proj", 0, 16, 0},
    {"attn_output", "self_attn.o_proj", 0, D, 0},
    {"ffn_gate_shexp", "shared_mlp.input_linear", 0, 2 * SHARED, 0},
    {"ffn_up_shexp", "shared_mlp.input_linear", SHARED, 2 * SHARED, 0},
    {"ffn_down_shexp", "shared_mlp.output_linear", 0, D, 0},
    {"ffn_gate_exps", "block_sparse_moe.experts.base_layer", 0, 2 * WIDTH, 0},
    {"ffn_up_exps", "block_sparse_moe.experts.base_layer", WIDTH, 2 * WIDTH, 0},
    {"ffn_down_exps", "block_sparse_moe.experts", 0, D, 0},
};
enum { PLACES = sizeof places / sizeof *places };

/* t of the built model is u of the split one + scale * B A, in double, rounded to bf16 once: to the nearest, half a
 * unit of 8 bits. */
static void check_merged(const vm_safetensors *st, int layer, const place *p, const vm_gguf_tensor *t,
                         const vm_gguf_tensor *u) {
    static float got[EXPERTS * F * D], split[EXPERTS * F * D], a[EXPERTS * RANK * D], b[2 * F * RANK * EXPERTS];
    int cols = (int)t->ne[0], rows = (int)t->ne[1], n = (int)t->ne[2];
    char name[160];
    snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_A.weight", layer, p->pair);
    OK(vm_safetensors_read_f32(st, name, 2, (int64_t[]){n * RANK, cols}, a));
    snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_B.weight", layer, p->pair);
    OK(vm_safetensors_read_f32(st, name, 2, (int64_t[]){p->of, n * RANK}, b));
    assert_int_equal(t->type, VM_BF16);
    assert_true(vm_dequantize(t->type, t->data, (size_t)(n * rows * cols), got) &&
                vm_dequantize(u->type, u->data, (size_t)(n * rows * cols), split));
    double moved = 0;
    for (int e = 0; e < n; e++)
        for (int i = 0; i < rows; i++)
            for (int k = 0; k < cols; k++) {
                int at = (e * rows + i) * cols + k, head = p->heads ? rows / p->heads : 1;
                int row = p->heads ? i / head * head + i % head / 2 + i % 2 * (head / 2) : i;
                double value = (double)split[at], delta = 0;
                for (int j = 0; j < RANK; j++)
                    delta += (double)b[((p->first + row) * RANK + j) * n + e] * (double)a[(e * RANK + j) * cols + k];
                delta *= (double)ALPHA / RANK;
                moved = fmax(moved, fabs(delta));
                if (!(fabs((double)got[at] - value - delta) <= fabs(value + delta) * 0x1p-8 + 1e-6))
                    fail_msg("%s, element %d: %g, expected %g + %g", t->name, at, (double)got[at], value, delta);
            }
    assert_true(moved > 0.1);
}

static void test_merged(void **state) {
    (void)state;
    char path[4096], dense_path[4096], split_path[4096], built_path[4096];
    snprintf(dense_path, sizeof dense_path, "%s", write_rounded());
    snprintf(path, sizeof path, "%s", scratch_path("recipe.safetensors"));
    snprintf(split_path, sizeof split_path, "%s", scratch_path("split.gguf"));
    snprintf(built_path, sizeof built_path, "%s", scratch_path("built.gguf"));
    static float distilled[MAX_TOKENS * VOCAB], split_logits[MAX_TOKENS * VOCAB], built_logits[MAX_TOKENS * VOCAB];
    vm_recipe *r = make(dense_path, 2, 0.3), *back;
    vm_model *m = make_distilled(r, dense_path, split_path);
    OK(vm_recipe_save(r, m, path));
    OK(vm_recipe_load(path, &back));
    OK(vm_recipe_build(back, NULL, dense_path, built_path));

    vm_safetensors *st;
    vm_gguf *split, *built;
    OK(vm_safetensors_open(path, &st));
    OK(vm_gguf_open(split_path, &split));
    OK(vm_gguf_open(built_path, &built));
    assert_int_equal(vm_gguf_tensor_count(built), vm_gguf_tensor_count(split));
    size_t copied = 0;
    for (size_t i = 0; i < vm_gguf_tensor_count(split); i++) {
        const vm_gguf_tensor *u = vm_gguf_tensor_at(split, i), *t = vm_gguf_find_tensor(built, u->name);
        char what[64];
        int layer, p = PLACES;
        assert_non_null(t);
        if (sscanf(u->name, "blk.%d.%63[^.]", &layer, what) == 2)
            for (p = 0; p < PLACES && strcmp(places[p].tensor, what) != 0; p++) continue;
        if (p < PLACES)
            check_merged(st, layer, &places[p], t, u);
        else
            assert_copied(u, t), copied++;
    }
    assert_int_equal(copied, 2 + 3 * LAYERS); /* embedding, last norm; two norms and the router of a layer */
    assert_int_equal(vm_gguf_find_tensor(built, "token_embd.weight")->type, VM_Q8_0);
    assert_int_equal(vm_gguf_key_count(built), vm_gguf_key_count(split));

    /* And it is the model that was distilled, but for the rounding of the weights. */
    vm_config config;
    logits_of(m, distilled);
    logits_of_file(split_path, split_logits, &config);
    logits_of_file(built_path, built_logits, &config);
    double off = relative_difference(built_logits, distilled, 46 * VOCAB),
           way = relative_difference(split_logits, distilled, 46 * VOCAB);
    if (!(off < 0.05 && way > 0.5)) fail_msg("built %g, split %g away from the distilled model", off, way);

    vm_gguf_free(built);
    vm_gguf_free(split);
    vm_safetensors_free(st);
    vm_model_free(m);
    vm_recipe_free(r);
    vm_recipe_free(back);
    unlink(path);
    unlink(split_path);
    unlink(built_path);
    unlink(dense_path);
}

/* ---- refused ---- */

/* One change to a recipe's file. */
typedef struct change {
    const char *says;
    const char *meta, *value;  /* value NULL: left out */
    const char *drop, *turned; /* a tensor left out, or with its shape the other way round */
    const char *spoilt;        /* a tensor whose last value becomes `number`; an order's: (int)number */
    float number;
    const char *moved; /* all tensors of this layer, "layers.N.", go to layer 7 */
    const char *extra; /* a tensor more */
    bool wide_order;   /* orders stored as I64 */
} change;

static bool is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

static void write_changed(const vm_safetensors *st, const change *c, const char *path) {
    static const char *const keys[] = {"format", "version", "base",    "base_name",    "training", "layers",
                                       "dim",    "width",   "experts", "expert_width", "top_k",    "adapter_config"};
    static uint8_t copy[1 << 16];
    vm_st_writer *w = vm_st_writer_create();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *value = is(c->meta, keys[i]) ? c->value : vm_safetensors_metadata(st, keys[i]);
        if (value) OK(vm_st_writer_metadata(w, keys[i], value));
    }
    for (size_t i = 0; i < vm_safetensors_count(st); i++) {
        const vm_st_tensor *t = vm_safetensors_at(st, i);
        int64_t shape[2] = {t->shape[0], t->n_dims > 1 ? t->shape[1] : 1};
        char name[200];
        if (is(c->drop, t->name)) continue;
        assert_true(t->size <= sizeof copy);
        memcpy(copy, t->data, t->size);
        snprintf(name, sizeof name, "%s", t->name);
        char *moved = c->moved ? strstr(name, c->moved) : NULL;
        if (moved) moved[strlen("layers.")] = '7';
        bool order = strcmp(t->dtype, "I32") == 0;
        if (is(c->spoilt, t->name)) {
            int32_t neuron = order ? (int32_t)c->number : 0;
            uint16_t half_number = vm_f32_to_f16(c->number);
            if (order)
                memcpy(copy + t->size - 4, &neuron, 4);
            else
                memcpy(copy + t->size - 2, &half_number, 2);
        }
        if (is(c->turned, t->name))
            shape[0] = t->n_dims > 1 ? t->shape[1] : t->shape[0] / 2, shape[1] = t->n_dims > 1 ? t->shape[0] : 2;
        if (c->wide_order && order)
            OK(vm_st_writer_raw(w, name, "I64", 8, 1, (int64_t[]){shape[0] / 2}, copy));
        else
            OK(vm_st_writer_raw(w, name, t->dtype, order ? 4 : 2, is(c->turned, t->name) ? 2 : t->n_dims, shape, copy));
    }
    if (c->extra) OK(vm_st_writer_f32(w, c->extra, "F16", 1, (int64_t[]){1}, (float[]){0}));
    OK(vm_st_writer_save(w, path));
    vm_st_writer_free(w);
}

#define PEFT "base_model.model.model.layers."
static const change plain_cases[] = {
    {.says = "format: missing from the metadata", .meta = "format"},
    {.says = "format: \"vmoer-router\" is not vmoer-recipe", .meta = "format", .value = "vmoer-router"},
    {.says = "version: \"2\"", .meta = "version", .value = "2"},
    {.says = "base: missing from the metadata", .meta = "base"},
    {.says = "base: not a fingerprint", .meta = "base", .value = "abc"},
    {.says = "layers: \"\" is not a whole number", .meta = "layers", .value = ""},
    {.says = "layers: \"3x\" is not a whole number", .meta = "layers", .value = "3x"},
    {.says = "layers: \"-3\" is not a whole number", .meta = "layers", .value = "-3"},
    {.says = "width: \"99999999999999999999\" is not a whole number", .meta = "width", .value = "99999999999999999999"},
    {.says = "recipe: 0 layers", .meta = "layers", .value = "0"},
    {.says = "recipe: 513 layers", .meta = "layers", .value = "513"},
    {.says = "blk.3.order: missing", .meta = "layers", .value = "4"},
    {.says = "6 tensors, 2 layers have 4", .meta = "layers", .value = "2"},
    {.says = "dimension 0", .meta = "dim", .value = "0"},
    {.says = "blk.0.router: missing, or not [4, 65536]", .meta = "dim", .value = "65536"},
    {.says = "blk.0.order: missing, or not I32 [1048576]", .meta = "width", .value = "1048576"},
    {.says = "blk.0.order: missing, or not I32 [40]", .meta = "width", .value = "40"},
    {.says = "4 routed experts of 8 neurons, top 2, do not fit a feed-forward width of 31",
     .meta = "width",
     .value = "31"},
    {.says = "1 routed experts", .meta = "experts", .value = "1"},
    {.says = "blk.0.router: missing, or not [6, 32]", .meta = "experts", .value = "6"},
    {.says = "7 routed experts of 8 neurons", .meta = "experts", .value = "7"},
    {.says = "experts of 0 neurons", .meta = "expert_width", .value = "0"},
    {.says = "experts of 16777216 neurons", .meta = "expert_width", .value = "16777216"},
    {.says = "top 5", .meta = "top_k", .value = "5"},
    {.says = "top 0", .meta = "top_k", .value = "0"},
    {.says = "blk.1.router: missing, or not [4, 32]", .drop = "blk.1.router"},
    {.says = "blk.2.order: missing, or not I32 [48]", .drop = "blk.2.order"},
    {.says = "blk.2.order: missing", .drop = "blk.2.order", .extra = "blk.3.order"},
    {.says = "7 tensors, 3 layers have 6", .extra = "blk.3.router"},
    {.says = "7 tensors, 3 layers have 6",
     .extra = PEFT "0.self_attn.q_proj.lora_A.weight"}, /* nothing says what it is */
    {.says = "blk.1.order: missing, or not I32 [48]", .turned = "blk.1.order"},
    {.says = "blk.0.order: missing, or not I32 [48]", .wide_order = true},
    {.says = "blk.2.router: missing, or not [4, 32]", .turned = "blk.2.router"},
    {.says = "blk.1.order: element 47, 48, is not a permutation's", .spoilt = "blk.1.order", .number = 48},
    {.says = "blk.1.order: element 47, -1, is not a permutation's", .spoilt = "blk.1.order", .number = -1},
    {.says = "blk.2.order: element", .spoilt = "blk.2.order", .number = 0},
    {.says = "blk.2.router: element 127 is not a finite number", .spoilt = "blk.2.router", .number = NAN},
    {.says = "blk.0.router: element 127 is not a finite number", .spoilt = "blk.0.router", .number = INFINITY},
    {.says = "no tensors", .meta = "adapter_config", .value = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4}"},
};

static const change recovery_cases[] = {
    {.says = "54 tensors, 3 layers have 6", .meta = "adapter_config"},
    {.says = "__metadata__: adapter_config: line 1, column 0", .meta = "adapter_config", .value = ""},
    {.says = "__metadata__: adapter_config: line 1",
     .meta = "adapter_config",
     .value = "{\"peft_type\": \"LORA\", \"r\": 2,"},
    {.says = "not an object", .meta = "adapter_config", .value = "[2]"},
    {.says = "\"peft_type\" is \"IA3\", not \"LORA\"",
     .meta = "adapter_config",
     .value = "{\"peft_type\": \"IA3\", \"r\": 2, \"lora_alpha\": 4}"},
    {.says = "\"use_dora\" is set",
     .meta = "adapter_config",
     .value = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"use_dora\": true}"},
    {.says = "has no lora_B", .drop = PEFT "1.self_attn.k_proj.lora_B.weight"},
    {.says = "has no lora_A", .drop = PEFT "2.block_sparse_moe.experts.lora_A.weight"},
    {.says = "has 32 rows, lora_B beside it 2 columns", .turned = PEFT "0.self_attn.q_proj.lora_A.weight"},
    {.says = "is neither lora_A nor lora_B of a module", .extra = PEFT "0.self_attn.q_proj.bias"},
    {.says = "7 tensors beside the adapter's, 3 layers have 6",
     .extra = "model.layers.0.self_attn.q_proj.lora_A.weight"},
    {.says = "6 tensors beside the adapter's, 2 layers have 4", .meta = "layers", .value = "2"},
    {.says = "blk.1.router: missing, or not [4, 32]", .drop = "blk.1.router"},
};

static void assert_refused(const vm_safetensors *st, const change *c, const char *path) {
    vm_recipe *r = NULL;
    write_changed(st, c, path);
    if (vm_recipe_load(path, &r) == VMOER_OK) fail_msg("accepted, \"%s\" expected", c->says);
    if (!strstr(vm_error_text(), c->says)) fail_msg("\"%s\" expected, got \"%s\"", c->says, vm_error_text());
    assert_ptr_equal(strstr(vm_error_text(), path), vm_error_text()); /* once, in front */
    assert_null(strstr(vm_error_text() + 1, path));
    assert_null(r);
}

static void test_hostile(void **state) {
    (void)state;
    char good[4096], bad[4096];
    snprintf(good, sizeof good, "%s", scratch_path("good.safetensors"));
    snprintf(bad, sizeof bad, "%s", scratch_path("bad.safetensors"));
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0.3), *back;
    vm_safetensors *st;
    for (int i = 0; i < F; i++) r->layers[2].order[i] = i; /* so that a 0 at the end is the second one */
    OK(vm_recipe_save(r, NULL, good));
    OK(vm_safetensors_open(good, &st));
    write_changed(st, &(change){.says = ""}, bad);
    OK(vm_recipe_load(bad, &back)); /* what the helper writes is a recipe while nothing is changed */
    assert_same_recipe(r, back);
    vm_recipe_free(back);
    for (size_t i = 0; i < sizeof plain_cases / sizeof *plain_cases; i++) assert_refused(st, &plain_cases[i], bad);
    vm_safetensors_free(st);
    vm_recipe_free(r);

    write_recovery(golden_path("tiny-llama.gguf"), good);
    OK(vm_safetensors_open(good, &st));
    assert_int_equal(vm_safetensors_count(st), LAYERS * (2 + 2 * 8));
    write_changed(st, &(change){.says = ""}, bad);
    OK(vm_recipe_load(bad, &back));
    assert_non_null(back->recovery);
    vm_recipe_free(back);
    for (size_t i = 0; i < sizeof recovery_cases / sizeof *recovery_cases; i++)
        assert_refused(st, &recovery_cases[i], bad);
    vm_safetensors_free(st);
    unlink(good);
    unlink(bad);
}

/* A recovery that does not belong on the split model shows when it is merged; nothing is left of the work. */
static void test_misfit(void **state) {
    (void)state;
    static const change cases[] = {
        {.says = "the model has no place for tensor \"" PEFT "7.", .moved = "layers.2."},
        {.says = "0.self_attn.q_proj.lora_A.weight\" is [2, 32], the model and its rank need [3, 32]",
         .meta = "adapter_config",
         .value = "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 4}"},
        {.says = "the model has no place for tensor \"" PEFT "0.block_sparse_moe.experts.base_layer.lora_A.weight",
         .meta = "adapter_config",
         .value = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4}"}, /* the experts are no target */
        {.says = "2.self_attn.v_proj.lora_B.weight\": element 31 is not finite",
         .spoilt = PEFT "2.self_attn.v_proj.lora_B.weight",
         .number = NAN},
        {.says = "1.block_sparse_moe.experts.lora_A.weight\": element 63 is not finite",
         .spoilt = PEFT "1.block_sparse_moe.experts.lora_A.weight",
         .number = -INFINITY},
    };
    char good[4096], bad[4096], built[4096], split[4096];
    snprintf(good, sizeof good, "%s", scratch_path("good.safetensors"));
    snprintf(bad, sizeof bad, "%s", scratch_path("bad.safetensors"));
    snprintf(built, sizeof built, "%s", scratch_path("never.gguf"));
    snprintf(split, sizeof split, "%s", scratch_path("never.gguf.split"));
    vm_safetensors *st;
    write_recovery(golden_path("tiny-llama.gguf"), good);
    OK(vm_safetensors_open(good, &st));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vm_recipe *r;
        write_changed(st, &cases[i], bad);
        OK(vm_recipe_load(bad, &r));
        if (vm_recipe_build(r, NULL, golden_path("tiny-llama.gguf"), built) == VMOER_OK)
            fail_msg("case %zu was built, \"%s\" expected", i, cases[i].says);
        if (!strstr(vm_error_text(), cases[i].says))
            fail_msg("case %zu: \"%s\" expected, got \"%s\"", i, cases[i].says, vm_error_text());
        assert_int_equal(access(built, F_OK), -1);
        assert_int_equal(access(split, F_OK), -1);
        vm_recipe_free(r);
    }
    vm_safetensors_free(st);
    unlink(good);
    unlink(bad);
}

static void test_other_models(void **state) {
    (void)state;
    const char *path = scratch_path("never.gguf"), *other = write_rounded();
    vm_recipe *r = make(golden_path("tiny-llama.gguf"), 2, 0), *none;
    assert_int_equal(vm_recipe_build(r, NULL, other, path), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "the recipe was made for 'tiny-llama'"));
    assert_int_equal(vm_recipe_build(r, NULL, golden_path("tiny-moe.gguf"), path), VMOER_ERROR_MISMATCH);
    assert_int_equal(vm_recipe_build(r, NULL, "/nonexistent.gguf", path), VMOER_ERROR_IO);
    assert_int_equal(access(path, F_OK), -1);
    vm_recipe_free(r);
    unlink(other);
    vm_model *moe = load_model("tiny-moe", (vm_model_options){.backward_from = -1}),
             *dense = load_model("tiny-llama", (vm_model_options){.backward_from = -1});
    assert_int_equal(vm_recipe_create(moe, 4, 8, 2, &none), VMOER_ERROR_ARGUMENT);
    dense->config.window = 4;
    assert_int_equal(vm_recipe_create(dense, 4, 8, 2, &none), VMOER_ERROR_UNSUPPORTED);
    assert_non_null(strstr(vm_error_text(), "has a sliding window"));
    dense->config.window = 0;
    dense->config.rope.scaling = VM_ROPE_LINEAR, dense->config.rope.factor = 2;
    assert_int_equal(vm_recipe_create(dense, 4, 8, 2, &none), VMOER_ERROR_UNSUPPORTED);
    assert_non_null(strstr(vm_error_text(), "has scaled RoPE"));
    dense->config.rope.scaling = VM_ROPE_NONE;
    vm_model *biased = load_model("tiny-qwen2", (vm_model_options){.backward_from = -1});
    assert_int_equal(vm_recipe_create(biased, 4, 8, 2, &none), VMOER_ERROR_UNSUPPORTED);
    assert_non_null(strstr(vm_error_text(), "has the architecture qwen2; only a llama can be split"));
    vm_model_free(biased);
    static const int wrong[][3] = {{1, 8, 1}, {4, 13, 2}, {4, 0, 2},  {4, 8, 5},
                                   {4, 8, 0}, {4, -8, 2}, {-4, 8, 2}, {1025, 1, 2}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_not_equal(vm_recipe_create(dense, wrong[i][0], wrong[i][1], wrong[i][2], &none), VMOER_OK);
    vm_model_free(moe);
    vm_model_free(dense);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),       cmocka_unit_test(test_not_saved), cmocka_unit_test(test_all_experts),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_copied),    cmocka_unit_test(test_merged),
        cmocka_unit_test(test_hostile),    cmocka_unit_test(test_misfit),    cmocka_unit_test(test_other_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
