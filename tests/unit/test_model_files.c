/* test_model_files.c: model files that are wrong in one place: every tensor missing, of another shape, or holding a
 * value that is no number; every hyper-parameter missing or impossible. Each is refused by the name of what is wrong.
 */
#include "model_fixture.h"

/* One change to a GGUF; what is NULL or 0 stays as it is. */
typedef struct change {
    const char *drop_key, *drop_tensor;
    const char *u32_key, *f32_key, *text_key;
    uint32_t u32;
    float f32;
    const char *text;
    const char *short_tensor; /* its rows are half as long */
    const char *tall_tensor;  /* one row less */
    const char
        *spoilt_tensor; /* its last element becomes f32; of another type than F32 the last block 0xff, no numbers */
    const char *renamed_tensor, *new_name;
    const char *false_key;
    const char *bias_tensor; /* one more, [32] */
} change;

static bool is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

static void write_tensor(vm_gguf_writer *w, const vm_gguf_tensor *t, const change *c, float *copy) {
    int64_t ne[4];
    const void *data = t->data;
    memcpy(ne, t->ne, sizeof ne);
    if (is(c->short_tensor, t->name)) ne[0] /= 2;
    if (is(c->tall_tensor, t->name)) ne[t->n_dims - 1]--;
    if (is(c->spoilt_tensor, t->name)) {
        memcpy(copy, t->data, t->size);
        size_t elements, bytes;
        vm_dtype_block(t->type, &elements, &bytes);
        if (t->type == VM_F32)
            copy[t->size / sizeof *copy - 1] = c->f32;
        else
            memset((char *)copy + t->size - bytes, 0xff, bytes);
        data = copy;
    }
    OK(vm_gguf_writer_tensor(w, is(c->renamed_tensor, t->name) ? c->new_name : t->name, t->type, t->n_dims, ne, data));
}

/* The golden model with the change, as a file of this test. */
static const char *changed(const char *name, const change *c) {
    const char *path = scratch_path("model.gguf");
    char file[64];
    vm_gguf *g;
    vm_gguf_writer *w = vm_gguf_writer_create();
    float *copy = vm_malloc(1 << 16, sizeof *copy);
    snprintf(file, sizeof file, "%s.gguf", name);
    OK(vm_gguf_open(golden_path(file), &g));
    for (size_t i = 0; i < vm_gguf_key_count(g); i++)
        if (!is(c->drop_key, vm_gguf_key_at(g, i))) OK(vm_gguf_writer_copy_keys(w, g, vm_gguf_key_at(g, i)));
    if (c->u32_key) OK(vm_gguf_writer_u32(w, c->u32_key, c->u32));
    if (c->f32_key) OK(vm_gguf_writer_f32(w, c->f32_key, c->f32));
    if (c->text_key) OK(vm_gguf_writer_string(w, c->text_key, c->text));
    if (c->false_key) OK(vm_gguf_writer_bool(w, c->false_key, false));
    if (c->bias_tensor) OK(vm_gguf_writer_tensor(w, c->bias_tensor, VM_F32, 1, (int64_t[]){32}, copy));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++)
        if (!is(c->drop_tensor, vm_gguf_tensor_at(g, i)->name)) write_tensor(w, vm_gguf_tensor_at(g, i), c, copy);
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
    vm_free(copy);
    return path;
}

static void assert_refused(const char *name, const change *c, const char *says) {
    const char *path = changed(name, c);
    vm_model *m = NULL;
    for (int train = 0; train < 2; train++) {
        vmoer_status status =
            vm_model_load(path, &(vm_model_options){.backward_from = train - 1, .train_all = train}, NULL, &m);
        if (status == VMOER_OK) fail_msg("%s was accepted, \"%s\" expected", name, says);
        if (!strstr(vm_error_text(), says)) fail_msg("\"%s\" expected, got \"%s\"", says, vm_error_text());
        assert_non_null(strstr(vm_error_text(), path));
    }
    unlink(path);
}

static void each_tensor(void (*check)(const char *model, const vm_gguf_tensor *t)) {
    for (int i = 0; i < TINY_MODELS; i++) {
        char file[64];
        vm_gguf *g;
        snprintf(file, sizeof file, "%s.gguf", tiny_models[i]);
        OK(vm_gguf_open(golden_path(file), &g));
        for (size_t k = 0; k < vm_gguf_tensor_count(g); k++) check(tiny_models[i], vm_gguf_tensor_at(g, k));
        vm_gguf_free(g);
    }
}

static void check_missing(const char *model, const vm_gguf_tensor *t) {
    char says[160];
    if (strcmp(t->name, "output.weight") == 0) return;          /* absent means tied */
    if (strcmp(t->name, "blk.0.attn_output.bias") == 0) return; /* absent means none */
    if (strcmp(t->name, "rope_freqs.weight") == 0) return;      /* the same */
    snprintf(says, sizeof says, "%s: missing tensor", t->name);
    assert_refused(model, &(change){.drop_tensor = t->name}, says);
}

static void check_shape(const char *model, const vm_gguf_tensor *t) {
    char says[160];
    snprintf(says, sizeof says, "%s: shape [", t->name);
    if (t->type == VM_F32) assert_refused(model, &(change){.short_tensor = t->name}, says); /* else no whole block */
    /* The embedding's rows are the vocabulary: one less is a smaller one. */
    if (strcmp(t->name, "token_embd.weight") != 0) assert_refused(model, &(change){.tall_tensor = t->name}, says);
}

static bool untied(const char *model) {
    return is(model, "tiny-moe-noshared") || is(model, "tiny-mixtral") || is(model, "tiny-olmoe") ||
           is(model, "tiny-qwen2moe") || strstr(model, "tiny-gpt-oss");
}

static void check_values(const char *model, const vm_gguf_tensor *t) {
    char says[160];
    /* Untied, the embedding is read a row at a time as it is needed, unless it is trained: its turn is below. */
    if (untied(model) && is(t->name, "token_embd.weight")) return;
    snprintf(says, sizeof says, "%s: element ", t->name);
    assert_refused(model, &(change){.spoilt_tensor = t->name, .f32 = NAN}, says);
    assert_refused(model, &(change){.spoilt_tensor = t->name, .f32 = -INFINITY}, says);
}

static void test_missing_tensors(void **state) {
    (void)state;
    each_tensor(check_missing);
}

static void test_shapes(void **state) {
    (void)state;
    each_tensor(check_shape);
}

static void test_values(void **state) {
    (void)state;
    each_tensor(check_values);
    const char *path = changed("tiny-moe-noshared", &(change){.spoilt_tensor = "token_embd.weight", .f32 = NAN});
    vm_model *m;
    float row[32];
    OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
    OK(vm_model_embed(m, 270, row));
    assert_int_equal(vm_model_embed(m, 271, row), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "token_embd.weight: row 271"));
    vm_model_free(m);
    assert_int_equal(vm_model_load(path, &(vm_model_options){.backward_from = 0, .train_all = true}, NULL, &m),
                     VMOER_ERROR_NUMERIC);
    unlink(path);
}

#define MOE(key) "granitemoe." key

static void test_missing_keys(void **state) {
    (void)state;
    static const char *const keys[] = {
        "general.architecture",     MOE("block_count"),          MOE("embedding_length"),
        MOE("context_length"),      MOE("attention.head_count"), MOE("attention.layer_norm_rms_epsilon"),
        MOE("feed_forward_length"), MOE("expert_count"),         MOE("expert_used_count"),
        MOE("logit_scale"),
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_refused("tiny-moe", &(change){.drop_key = keys[i]}, keys[i]);
}

static void test_keys(void **state) {
    (void)state;
    static const struct {
        change c;
        const char *says;
    } cases[] = {
        {{.text_key = "general.architecture", .text = "mamba"},
         "general.architecture 'mamba' is not supported; supported are llama, qwen2, granite, granitemoe, qwen3moe, "
         "olmoe"},
        {{.text_key = "general.architecture", .text = "phimoe"},
         "general.architecture 'phimoe' is not supported: it has LayerNorm with biases, a bias on the head, gates by "
         "sparsemixer; supported are llama"},
        {{.text_key = "general.architecture", .text = ""}, "general.architecture '' is not supported"},
        {{.text_key = "general.architecture", .text = "an architecture with a name that no field holds"},
         "general.architecture: longer than"},
        {{.u32_key = "general.architecture", .u32 = 3}, "general.architecture"},
        {{.text_key = "general.name", .text = "a \xff name"}, "general.name is not UTF-8 at byte 2"},
        {{.text_key = MOE("block_count"), .text = "two"}, MOE("block_count")},
        {{.u32_key = MOE("block_count"), .u32 = 0}, MOE("block_count is 0, must be 1 to 512")},
        {{.u32_key = MOE("block_count"), .u32 = 3}, "blk.2.attn_norm.weight: missing tensor"},
        {{.u32_key = MOE("block_count"), .u32 = 4000000000u}, MOE("block_count is 4000000000")},
        {{.u32_key = MOE("embedding_length"), .u32 = 0}, MOE("embedding_length is 0")},
        {{.drop_key = MOE("rope.dimension_count"), .u32_key = MOE("embedding_length"), .u32 = 64},
         "token_embd.weight: shape [272, 32], embedding_length is 64"},
        {{.u32_key = MOE("context_length"), .u32 = 0}, MOE("context_length is 0")},
        {{.u32_key = MOE("attention.head_count"), .u32 = 0}, MOE("attention.head_count is 0")},
        {{.u32_key = MOE("attention.head_count"), .u32 = 3},
         "attention.head_count 3 is not a multiple of head_count_kv 2"},
        {{.u32_key = MOE("attention.head_count"), .u32 = 6},
         "embedding_length 32 is not a multiple of attention.head_count 6"},
        {{.u32_key = MOE("attention.head_count"), .u32 = 32}, "head dimension 1 is odd"},
        {{.u32_key = MOE("attention.head_count_kv"), .u32 = 0}, MOE("attention.head_count_kv is 0")},
        {{.u32_key = MOE("attention.head_count_kv"), .u32 = 8}, "is not a multiple of head_count_kv 8"},
        {{.u32_key = MOE("attention.key_length"), .u32 = 6}, MOE("rope.dimension_count 8 is not the head dimension 6")},
        {{.u32_key = MOE("attention.key_length"), .u32 = 1u << 20}, MOE("attention.key_length is 1048576")},
        {{.u32_key = MOE("rope.dimension_count"), .u32 = 4}, MOE("rope.dimension_count 4 is not the head dimension 8")},
        {{.text_key = MOE("rope.scaling.type"), .text = "longrope"},
         MOE("rope.scaling.type: 'longrope' RoPE scaling is not supported; none, linear, dynamic and yarn are")},
        {{.renamed_tensor = "blk.1.attn_norm.weight", .new_name = "rope_factors_long.weight"},
         "rope_factors_long.weight: 'longrope' RoPE scaling is not supported"},
        {{.renamed_tensor = "blk.1.attn_norm.weight", .new_name = "rope_factors_short.weight"},
         "rope_factors_short.weight: 'longrope' RoPE scaling is not supported"},
        {{.f32_key = MOE("attn_logit_softcapping"), .f32 = 50},
         MOE("attn_logit_softcapping is 50; only 0 is supported")},
        {{.f32_key = MOE("final_logit_softcapping"), .f32 = 30},
         MOE("final_logit_softcapping is 30; only 0 is supported")},
        {{.f32_key = MOE("router_logit_softcapping"), .f32 = NAN}, MOE("router_logit_softcapping is nan")},
        {{.u32_key = MOE("expert_gating_func"), .u32 = 2},
         MOE("expert_gating_func is 2; only 1, a softmax, is supported")},
        {{.u32_key = MOE("expert_gating_func"), .u32 = 4000000000u}, MOE("expert_gating_func is 4000000000")},
        {{.u32_key = MOE("expert_group_count"), .u32 = 8}, MOE("expert_group_count is 8: experts in groups")},
        {{.u32_key = MOE("expert_group_count"), .u32 = 4000000000u}, MOE("expert_group_count is 4000000000")},
        {{.text_key = MOE("rope.scaling.type"), .text = ""}, MOE("rope.scaling.type: ''")},
        {{.f32_key = MOE("rope.scaling.factor"), .f32 = -2}, MOE("rope.scaling.factor is -2")},
        {{.f32_key = MOE("rope.scaling.factor"), .f32 = 1e-30f}, MOE("rope.scaling.factor is 1e-30")},
        {{.f32_key = MOE("rope.scale_linear"), .f32 = INFINITY}, MOE("rope.scale_linear is inf")},
        {{.f32_key = MOE("rope.scaling.attn_factor"), .f32 = NAN}, MOE("rope.scaling.attn_factor is nan")},
        {{.u32_key = MOE("rope.scaling.original_context_length"), .u32 = 0},
         MOE("rope.scaling.original_context_length is 0")},
        {{.f32_key = MOE("rope.scaling.yarn_beta_fast"), .f32 = -1}, MOE("rope.scaling.yarn_beta_fast is -1")},
        {{.f32_key = MOE("rope.scaling.yarn_ext_factor"), .f32 = 0.5f},
         MOE("rope.scaling.yarn_ext_factor is 0.5; only 1 is supported")},
        {{.f32_key = MOE("rope.scaling.yarn_log_multiplier"), .f32 = 0.1f},
         MOE("rope.scaling.yarn_log_multiplier is 0.1; only 0 is supported")},
        {{.text_key = MOE("rope.scaling.type"), .text = "yarn", .f32_key = MOE("rope.freq_base"), .f32 = 1},
         MOE("rope.freq_base is 1, must be 1.01")},
        {{.f32_key = MOE("rope.freq_base"), .f32 = 0}, MOE("rope.freq_base is 0")},
        {{.f32_key = MOE("rope.freq_base"), .f32 = NAN}, MOE("rope.freq_base is nan")},
        {{.f32_key = MOE("attention.layer_norm_rms_epsilon"), .f32 = -1},
         MOE("attention.layer_norm_rms_epsilon is -1")},
        {{.f32_key = MOE("attention.layer_norm_rms_epsilon"), .f32 = INFINITY},
         MOE("attention.layer_norm_rms_epsilon is inf")},
        {{.u32_key = MOE("feed_forward_length"), .u32 = 0}, MOE("feed_forward_length is 0")},
        {{.u32_key = MOE("feed_forward_length"), .u32 = 17},
         "blk.0.ffn_gate_exps.weight: shape [32, 16, 8, 1], expected [32, 17, 8, 1]"},
        {{.u32_key = MOE("feed_forward_length"), .u32 = 1u << 20}, "blk.0.ffn_gate_exps.weight: shape"},
        {{.u32_key = MOE("expert_shared_feed_forward_length"), .u32 = 1u << 20}, "blk.0.ffn_gate_shexp.weight: shape"},
        {{.u32_key = MOE("expert_count"), .u32 = 0}, MOE("expert_count is 0")},
        {{.u32_key = MOE("expert_count"), .u32 = 1024}, "blk.0.ffn_gate_inp.weight: shape"},
        {{.u32_key = MOE("expert_count"), .u32 = 7}, "blk.0.ffn_gate_inp.weight: shape"},
        {{.u32_key = MOE("expert_used_count"), .u32 = 0}, MOE("expert_used_count is 0")},
        {{.u32_key = MOE("expert_used_count"), .u32 = 9}, MOE("expert_used_count 9 is more than expert_count 8")},
        {{.f32_key = MOE("logit_scale"), .f32 = 0}, MOE("logit_scale is 0")},
        {{.f32_key = MOE("embedding_scale"), .f32 = NAN}, MOE("embedding_scale is nan")},
        {{.f32_key = MOE("residual_scale"), .f32 = -1}, MOE("residual_scale is -1")},
        {{.text_key = MOE("attention.scale"), .text = "1"}, MOE("attention.scale")},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_refused("tiny-moe", &cases[i].c, cases[i].says);
    assert_refused("tiny-llama", &(change){.drop_key = "llama.feed_forward_length"}, "llama.feed_forward_length");
#define DEEPSEEK(key) "deepseek." key
    static const struct {
        change c;
        const char *says;
    } deepseek[] = {
        {{.drop_key = DEEPSEEK("expert_count")}, DEEPSEEK("expert_count")},
        {{.drop_key = DEEPSEEK("expert_shared_count")}, DEEPSEEK("expert_shared_count")},
        {{.drop_key = DEEPSEEK("expert_feed_forward_length")}, DEEPSEEK("expert_feed_forward_length")},
        {{.drop_key = DEEPSEEK("feed_forward_length")}, DEEPSEEK("feed_forward_length")},
        {{.drop_key = DEEPSEEK("leading_dense_block_count")}, "blk.0.ffn_gate_inp.weight: missing tensor"},
        {{.u32_key = DEEPSEEK("leading_dense_block_count"), .u32 = 3},
         "leading_dense_block_count is 3, must be 0 to 2"},
        {{.u32_key = DEEPSEEK("leading_dense_block_count"), .u32 = 2}, "blk.1.ffn_gate.weight: missing tensor"},
        {{.u32_key = DEEPSEEK("leading_dense_block_count"), .u32 = 4000000000u},
         "leading_dense_block_count is 4000000000"},
        {{.u32_key = DEEPSEEK("expert_shared_count"), .u32 = 1},
         "blk.1.ffn_gate_shexp.weight: shape [32, 16, 1, 1], expected [32, 8"},
        {{.u32_key = DEEPSEEK("expert_shared_count"), .u32 = 4000000000u},
         DEEPSEEK("expert_shared_count is 4000000000")},
        {{.u32_key = DEEPSEEK("expert_feed_forward_length"), .u32 = 1u << 20}, "blk.1.ffn_gate_shexp.weight: shape"},
        {{.u32_key = DEEPSEEK("feed_forward_length"), .u32 = 0}, DEEPSEEK("feed_forward_length is 0")},
        {{.u32_key = DEEPSEEK("feed_forward_length"), .u32 = 49}, "blk.0.ffn_gate.weight: shape [32, 48"},
        {{.f32_key = DEEPSEEK("expert_weights_scale"), .f32 = -1}, DEEPSEEK("expert_weights_scale is -1")},
        {{.f32_key = DEEPSEEK("expert_weights_scale"), .f32 = NAN}, DEEPSEEK("expert_weights_scale is nan")},
    };
    for (size_t i = 0; i < sizeof deepseek / sizeof *deepseek; i++)
        assert_refused("tiny-deepseek", &deepseek[i].c, deepseek[i].says);
    assert_refused("tiny-gpt-oss", &(change){.drop_key = "gpt-oss.attention.sliding_window"},
                   "gpt-oss.attention.sliding_window");
    assert_refused("tiny-gpt-oss", &(change){.drop_key = "gpt-oss.expert_feed_forward_length"},
                   "gpt-oss.expert_feed_forward_length");
    static const char *const qwen2moe[] = {"qwen2moe.expert_count", "qwen2moe.expert_used_count",
                                           "qwen2moe.expert_feed_forward_length",
                                           "qwen2moe.expert_shared_feed_forward_length"};
    for (size_t i = 0; i < sizeof qwen2moe / sizeof *qwen2moe; i++)
        assert_refused("tiny-qwen2moe", &(change){.drop_key = qwen2moe[i]}, qwen2moe[i]);
    assert_refused("tiny-qwen2moe", &(change){.u32_key = "qwen2moe.expert_shared_feed_forward_length", .u32 = 0},
                   "expert_shared_feed_forward_length is 0, must be 1");
    assert_refused("tiny-llama", &(change){.u32_key = "llama.expert_count", .u32 = 8}, "llama.expert_used_count");
    assert_refused("tiny-mixtral", &(change){.u32_key = "llama.expert_count", .u32 = 1025},
                   "llama.expert_count is 1025");
    assert_refused("tiny-mixtral", &(change){.u32_key = "llama.expert_count", .u32 = 1},
                   "llama.expert_count is 1, must be 2");
    assert_refused("tiny-mixtral", &(change){.u32_key = "llama.expert_used_count", .u32 = 5},
                   "expert_used_count 5 is more");
    assert_refused("tiny-mixtral", &(change){.drop_key = "llama.feed_forward_length"}, "llama.feed_forward_length");
    assert_refused("tiny-qwen2", &(change){.drop_key = "qwen2.feed_forward_length"}, "qwen2.feed_forward_length");
    assert_refused("tiny-qwen2", &(change){.u32_key = "qwen2.expert_count", .u32 = 8},
                   "qwen2.expert_count is 8: experts are not supported in this architecture");
    assert_refused("tiny-granite", &(change){.u32_key = "granite.expert_count", .u32 = 2}, "granite.expert_count is 2");
    assert_refused("tiny-granite", &(change){.spoilt_tensor = "rope_freqs.weight", .f32 = 0},
                   "rope_freqs.weight: element 3 is not positive");
    assert_refused("tiny-granite", &(change){.drop_key = "granite.logit_scale"}, "granite.logit_scale");
    assert_refused("tiny-granite", &(change){.f32_key = "granite.attention.scale", .f32 = -1},
                   "granite.attention.scale is -1");
    assert_refused("tiny-granite", &(change){.false_key = "granite.rope.scaling.finetuned"},
                   "granite.rope.scaling.finetuned is false: ");
    assert_refused("tiny-qwen3moe", &(change){.drop_key = "qwen3moe.expert_feed_forward_length"},
                   "qwen3moe.expert_feed_forward_length");
    assert_refused("tiny-qwen3moe", &(change){.drop_key = "qwen3moe.expert_count"}, "qwen3moe.expert_count");
    assert_refused("tiny-qwen3moe",
                   &(change){.text_key = "qwen3moe.expert_weights_norm", .text = "a string where a bool is due"},
                   "qwen3moe.expert_weights_norm");
    assert_refused(
        "tiny-qwen3moe",
        &(change){.drop_key = "qwen3moe.rope.dimension_count", .u32_key = "qwen3moe.attention.key_length", .u32 = 8},
        "blk.0.attn_q_norm.weight: shape [16, 1, 1, 1], expected [8, 1, 1, 1]");
    assert_refused("tiny-olmoe", &(change){.f32_key = "olmoe.attention.clamp_kqv", .f32 = 8},
                   "olmoe.attention.clamp_kqv is 8; only 0 is supported");
    assert_refused("tiny-olmoe", &(change){.drop_key = "olmoe.feed_forward_length"}, "olmoe.feed_forward_length");
    assert_refused("tiny-mistral",
                   &(change){.text_key = "llama.attention.sliding_window_pattern", .text = "not a number"},
                   "llama.attention.sliding_window_pattern");
    assert_refused("tiny-mistral", &(change){.u32_key = "llama.attention.sliding_window", .u32 = 4000000000u},
                   "llama.attention.sliding_window is 4000000000");
    assert_refused("tiny-llama", &(change){.bias_tensor = "blk.1.attn_sinks.weight"},
                   "blk.1.attn_sinks.weight: shape [32, 1, 1, 1], expected [4, 1, 1, 1]");
    assert_refused("tiny-moe", &(change){.bias_tensor = "blk.0.attn_k.bias"}, "blk.0.attn_q.bias: missing tensor");
    assert_refused("tiny-moe", &(change){.bias_tensor = "blk.1.ffn_up_exps.bias"},
                   "blk.1.ffn_gate_exps.bias: missing tensor");
    assert_refused("tiny-mixtral",
                   &(change){.renamed_tensor = "blk.0.ffn_gate_exps.weight", .new_name = "blk.0.ffn_gate.0.weight"},
                   "blk.0.ffn_gate.0.weight: a tensor for each expert is not supported");
}

/* What is allowed to be absent, and what it then means. */
static void test_defaults(void **state) {
    (void)state;
    static const char *const optional[] = {MOE("embedding_scale"), MOE("residual_scale"), MOE("attention.scale"),
                                           MOE("rope.freq_base"), "general.name"};
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++) {
        const char *path = changed("tiny-moe", &(change){.drop_key = optional[i]});
        vm_model *m;
        OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
        assert_float_equal(m->config.embedding_scale, i == 0 ? 1 : 1.5f, 0);
        assert_float_equal(m->config.residual_scale, i == 1 ? 1 : 0.7f, 0);
        assert_float_equal(m->config.attention_scale, i == 2 ? 1 / sqrtf(8) : 0.3f, 0);
        assert_float_equal(m->config.rope.base, 10000, 0);
        assert_string_equal(m->config.name, i == 4 ? "" : "tiny-moe");
        vm_model_free(m);
        unlink(path);
    }
    const char *path = changed("tiny-moe", &(change){.u32_key = MOE("context_length"),
                                                     .u32 = 1u << 26}); /* a table for all of them would be large */
    vm_model *m;
    OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
    assert_int_equal(m->config.context, 16384);
    vm_model_free(m);
    unlink(path);
}

/* How positions are stretched, as llama.cpp has it: a factor without a type is linear, a type "none" switches it off.
 */
static void test_scaling(void **state) {
    (void)state;
    static const struct {
        change c;
        vm_rope_scaling scaling;
        float frequency; /* of the second pair, without scaling 0.1 */
    } cases[] = {
        {{.f32_key = MOE("rope.scaling.factor"), .f32 = 4}, VM_ROPE_LINEAR, 0.025f},
        {{.f32_key = MOE("rope.scaling.factor"), .f32 = 0}, VM_ROPE_LINEAR, 0.1f},
        {{.f32_key = MOE("rope.scale_linear"), .f32 = 2}, VM_ROPE_LINEAR, 0.05f},
        {{.f32_key = MOE("rope.scaling.factor"), .f32 = 4, .text_key = MOE("rope.scaling.type"), .text = "none"},
         VM_ROPE_NONE,
         0.1f},
        {{.f32_key = MOE("rope.scaling.factor"),
          .f32 = 4,
          .text_key = MOE("rope.scaling.type"),
          .text = "dynamic",
          .u32_key = MOE("rope.scaling.original_context_length"),
          .u32 = 64},
         VM_ROPE_DYNAMIC,
         0.0584804f}}; /* (10000 * (4 * 128 / 64 - 3)^(8/6))^-0.25 */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = changed("tiny-moe", &cases[i].c);
        vm_model *m;
        OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
        assert_int_equal(m->config.rope.scaling, cases[i].scaling);
        assert_float_equal(m->rope_sin[4 + 1], sinf(cases[i].frequency), 1e-6); /* [position 1][pair 1] */
        vm_model_free(m);
        unlink(path);
    }
}

/* Which layers see how far: a period of 2 leaves every second one whole, of 0 none, of 1 all. */
static void test_windows(void **state) {
    (void)state;
    static const struct {
        change c;
        int window[2];
    } cases[] = {{{.drop_key = NULL}, {4, 4}},
                 {{.u32_key = "llama.attention.sliding_window_pattern", .u32 = 2}, {4, 0}},
                 {{.u32_key = "llama.attention.sliding_window_pattern", .u32 = 1}, {0, 0}},
                 {{.u32_key = "llama.attention.sliding_window_pattern", .u32 = 0}, {4, 4}},
                 {{.u32_key = "llama.attention.sliding_window", .u32 = 0}, {0, 0}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = changed("tiny-mistral", &cases[i].c);
        vm_gguf *g;
        vm_config c;
        OK(vm_gguf_open(path, &g));
        OK(vm_config_read(g, &c));
        for (int l = 0; l < 2; l++) assert_int_equal(vm_model_window(&c, l), cases[i].window[l]);
        vm_gguf_free(g);
        unlink(path);
    }
}

/* Whether the gates sum to 1: what the architecture does, unless the file says. */
static void test_renormalise(void **state) {
    (void)state;
    static const struct {
        const char *model, *key;
        bool expected;
    } cases[] = {{"tiny-qwen3moe", NULL, true},
                 {"tiny-qwen3moe", "qwen3moe.expert_weights_norm", false},
                 {"tiny-olmoe", NULL, false},
                 {"tiny-mixtral", "llama.expert_weights_norm", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = changed(cases[i].model, &(change){.false_key = cases[i].key});
        vm_model *m;
        OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
        assert_int_equal(m->config.renormalise, cases[i].expected);
        vm_model_free(m);
        unlink(path);
    }
}

/* The fingerprint is that of the content: weights and keys. In a file this small the sampled blocks are all there is.
 */
static void test_fingerprint(void **state) {
    (void)state;
    char hex[3][65];
    const change changes[] = {{.drop_key = NULL},
                              {.spoilt_tensor = "blk.1.ffn_down_exps.weight", .f32 = 0.5f},
                              {.text_key = "general.name", .text = "another"}};
    for (int i = 0; i < 3; i++) {
        const char *path = changed("tiny-moe", &changes[i]);
        vm_gguf *g;
        OK(vm_gguf_open(path, &g));
        vm_model_fingerprint(g, hex[i]);
        vm_gguf_free(g);
        assert_int_equal(strlen(hex[i]), 64);
        unlink(path);
    }
    assert_string_not_equal(hex[0], hex[1]);
    assert_string_not_equal(hex[0], hex[2]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_tensors), cmocka_unit_test(test_shapes),  cmocka_unit_test(test_values),
        cmocka_unit_test(test_missing_keys),    cmocka_unit_test(test_keys),    cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_renormalise),     cmocka_unit_test(test_scaling), cmocka_unit_test(test_windows),
        cmocka_unit_test(test_fingerprint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
