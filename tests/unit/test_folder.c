/* test_folder.c: a folder that transformers wrote (tools/golden_folder.py) beside the GGUF of the same weights: the
 * same configuration, tensors, logits and tokens. And folders that are wrong in one place. */
#include "base/file.h"
#include "base/memory.h"
#include "io/hf.h"
#include "io/tokenizer.h"
#include "model_fixture.h"

static const char *const folders[] = {"tiny-llama",        "tiny-moe",      "tiny-moe-noshared", "tiny-mixtral",
                                      "tiny-qwen2",        "tiny-granite",  "tiny-qwen3moe",     "tiny-olmoe",
                                      "tiny-qwen2moe",     "tiny-deepseek", "tiny-mistral",      "tiny-gpt-oss",
                                      "tiny-gpt-oss-mxfp4"};
enum { FOLDERS = sizeof folders / sizeof *folders, VOCAB = 272 };

static vm_gguf *open_golden(const char *name, const char *end) {
    char file[256];
    vm_gguf *g;
    snprintf(file, sizeof file, "%s%s", name, end);
    OK(vm_gguf_open(golden_path(file), &g));
    return g;
}

/* ---- the same model ---- */

/* Values too, where the file has a type that no folder has: Q8_0 beside MXFP4. */
static void same_values(const vm_gguf_tensor *a, const vm_gguf_tensor *b, size_t row) {
    float x[1024], y[1024];
    assert_true((size_t)a->ne[0] <= sizeof x / sizeof *x);
    assert_true(vm_gguf_read_rows(a, row, 1, x) && vm_gguf_read_rows(b, row, 1, y));
    if (memcmp(x, y, (size_t)a->ne[0] * sizeof *x) == 0) return;
    assert_string_equal(a->name, "rope_freqs.weight"); /* Llama 3's factors are made anew, rounded otherwise */
    assert_true(relative_difference(x, y, (size_t)a->ne[0]) < 2e-7);
}

static void same_tensor(const vm_gguf_tensor *a, const vm_gguf_tensor *b) {
    assert_non_null(b);
    bool q8 = a->type == VM_Q8_0;
    assert_int_equal(q8 ? VM_F32 : a->type, b->type);
    assert_int_equal(a->n_dims, b->n_dims);
    assert_memory_equal(a->ne, b->ne, sizeof a->ne);
    if (!q8) assert_int_equal(a->size, b->size);
    size_t rows = (size_t)(a->ne[1] * a->ne[2] * a->ne[3]);
    for (size_t i = 0; i < rows; i++) {
        uint8_t x[4096], y[4096];
        same_values(a, b, i);
        if (q8 || strcmp(a->name, "rope_freqs.weight") == 0) continue;
        assert_true(a->size / rows <= sizeof x);
        vm_gguf_copy_rows(a, i, 1, x);
        vm_gguf_copy_rows(b, i, 1, y);
        assert_memory_equal(x, y, a->size / rows);
    }
}

static void test_tensors(void **state) {
    (void)state;
    for (int i = 0; i < FOLDERS; i++) {
        vm_gguf *file = open_golden(folders[i], ".gguf"), *folder = open_golden(folders[i], "-folder");
        same_config(file, folder);
        assert_int_equal(vm_gguf_tensor_count(file), vm_gguf_tensor_count(folder));
        for (size_t k = 0; k < vm_gguf_tensor_count(file); k++) {
            const vm_gguf_tensor *t = vm_gguf_tensor_at(file, k);
            same_tensor(t, vm_gguf_find_tensor(folder, t->name));
        }
        vm_gguf_free(file);
        vm_gguf_free(folder);
    }
}

static void logits_of(const char *name, const char *end, const vm_safetensors *st, float *out, char *fingerprint) {
    vm_model_options options = {.backward_from = -1};
    vm_pass_options how = {.sign = 1};
    vm_model *m;
    vm_pass *pass;
    sequences s;
    char file[256];
    snprintf(file, sizeof file, "%s%s", name, end);
    OK(vm_model_load(golden_path(file), &options, NULL, &m));
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 6, &s);
    OK(vm_pass_forward(pass, &s.batch, &how, NULL, NULL, out));
    memcpy(fingerprint, m->fingerprint, sizeof m->fingerprint);
    vm_pass_free(pass);
    vm_model_free(m);
}

static void test_logits(void **state) {
    (void)state;
    char fingerprints[2 * FOLDERS][65];
    for (int i = 0; i < FOLDERS; i++) {
        vm_safetensors *st = golden_open(folders[i]);
        size_t n = vm_safetensors_find(st, "ids")->size / 4 * VOCAB;
        float *a = vm_malloc(n, sizeof *a), *b = vm_malloc(n, sizeof *b);
        logits_of(folders[i], ".gguf", st, a, fingerprints[2 * i]);
        logits_of(folders[i], "-folder", st, b, fingerprints[2 * i + 1]);
        if (strcmp(folders[i], "tiny-granite") == 0) /* by those factors */
            assert_true(relative_difference(a, b, n) < 1e-6);
        else
            assert_memory_equal(a, b, n * sizeof *a);
        vm_free(a);
        vm_free(b);
        vm_safetensors_free(st);
    }
    for (int i = 0; i < 2 * FOLDERS; i++)
        for (int k = 0; k < i; k++) assert_string_not_equal(fingerprints[i], fingerprints[k]);
}

static void test_tokens(void **state) {
    (void)state;
    static const char text[] = "The weather on 12 Quays:<|im_end|>\n na\xc3\xafve\t<|im_start|>";
    vm_gguf *file = open_golden("tiny-moe", ".gguf"), *folder = open_golden("tiny-moe", "-folder");
    vm_tokenizer *a, *b;
    vm_ids x = {0}, y = {0};
    OK(vm_tokenizer_open(file, &a));
    OK(vm_tokenizer_open(folder, &b));
    for (int special = 0; special < 2; special++) {
        OK(vm_tokenizer_encode(a, text, sizeof text - 1, special, &x));
        OK(vm_tokenizer_encode(b, text, sizeof text - 1, special, &y));
    }
    assert_int_equal(x.count, y.count);
    assert_memory_equal(x.ids, y.ids, x.count * sizeof *x.ids);
    assert_int_equal(vm_tokenizer_bos(a), vm_tokenizer_bos(b));
    assert_int_equal(vm_tokenizer_eos(a), vm_tokenizer_eos(b));
    assert_int_equal(vm_tokenizer_eos(b), 2);
    assert_int_equal(vm_tokenizer_adds_bos(b), false);
    const char *one, *other;
    size_t n, m;
    OK(vm_gguf_get_string(file, "tokenizer.chat_template", &one, &n));
    OK(vm_gguf_get_string(folder, "tokenizer.chat_template", &other, &m));
    assert_int_equal(n, m);
    assert_memory_equal(one, other, n);
    vm_ids_free(&x);
    vm_ids_free(&y);
    vm_tokenizer_free(a);
    vm_tokenizer_free(b);
    vm_gguf_free(file);
    vm_gguf_free(folder);
}

/* What is written of a folder has the keys and the tensors of the GGUF: the rows in its order, the vocabulary too. */
static void test_written(void **state) {
    (void)state;
    for (int i = 0; i < FOLDERS; i++) {
        vm_gguf *file = open_golden(folders[i], ".gguf"), *folder = open_golden(folders[i], "-folder"), *back;
        const char *path = scratch_path("folder.gguf");
        vm_gguf_writer *w = vm_gguf_writer_create();
        OK(vm_gguf_writer_copy_keys(w, folder, ""));
        OK(vm_tokenizer_copy_keys(w, folder));
        for (size_t k = 0; k < vm_gguf_tensor_count(folder); k++)
            OK(vm_gguf_writer_copy(w, vm_gguf_tensor_at(folder, k)));
        OK(vm_gguf_writer_save(w, path));
        vm_gguf_writer_free(w);
        OK(vm_gguf_open(path, &back));
        for (size_t k = 0; k < vm_gguf_tensor_count(file); k++) {
            const vm_gguf_tensor *t = vm_gguf_tensor_at(file, k);
            same_tensor(t, vm_gguf_find_tensor(back, t->name));
        }
        static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
        for (int k = 0; k < 2; k++) {
            vm_gguf_type type;
            size_t n, m, length, other_length;
            const char *text, *other;
            OK(vm_gguf_get_array(file, keys[k], &type, &n));
            OK(vm_gguf_get_array(back, keys[k], &type, &m));
            assert_int_equal(n, m);
            for (size_t at = 0; at < n; at++) {
                OK(vm_gguf_array_string(file, keys[k], at, &text, &length));
                OK(vm_gguf_array_string(back, keys[k], at, &other, &other_length));
                assert_int_equal(length, other_length);
                assert_memory_equal(text, other, length);
            }
        }
        for (size_t id = 0; id < VOCAB; id++) {
            int32_t type, other;
            OK(vm_gguf_array_i32(file, "tokenizer.ggml.token_type", id, &type));
            OK(vm_gguf_array_i32(back, "tokenizer.ggml.token_type", id, &other));
            assert_int_equal(type, other);
        }
        vm_gguf_free(file);
        vm_gguf_free(folder);
        vm_gguf_free(back);
        unlink(path);
    }
}

/* ---- wrong folders ---- */

/* A folder in memory: files of a golden one, some with other bytes. */
enum { MAX_FILES = 16 };
typedef struct fake {
    vm_hf_file files[MAX_FILES];
    void *bytes[MAX_FILES];
    size_t n;
} fake;

static void put_bytes(fake *f, const char *name, const void *data, size_t size) {
    size_t i = 0;
    while (i < f->n && strcmp(f->files[i].name, name) != 0) i++;
    assert_true(i < MAX_FILES);
    if (i == f->n) f->n++;
    vm_free(f->bytes[i]);
    f->bytes[i] = vm_malloc(size ? size : 1, 1); /* exact: a read past the end meets the sanitizer */
    memcpy(f->bytes[i], data, size);
    f->files[i] = (vm_hf_file){name, f->bytes[i], size};
}

static void put_text(fake *f, const char *name, const char *text) { put_bytes(f, name, text, strlen(text)); }

static void take(fake *f, const char *folder, const char *name) {
    char path[256];
    vm_map map;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    OK(vm_map_open(golden_path(path), &map));
    put_bytes(f, name, map.data, map.size);
    vm_map_close(&map);
}

static fake fake_of(const char *folder) {
    static const char *const names[] = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    fake f = {.n = 0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) take(&f, folder, names[i]);
    return f;
}

static fake fake_llama(void) { return fake_of("tiny-llama-folder"); }

static fake fake_moe(void) {
    static const char *const names[] = {"config.json",
                                        "model.safetensors.index.json",
                                        "model-00001-of-00004.safetensors",
                                        "model-00002-of-00004.safetensors",
                                        "model-00003-of-00004.safetensors",
                                        "model-00004-of-00004.safetensors"};
    fake f = {.n = 0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) take(&f, "tiny-moe-folder", names[i]);
    return f;
}

static void fake_free(fake *f) {
    for (size_t i = 0; i < f->n; i++) vm_free(f->bytes[i]);
}

/* The first `old` in the file becomes `new`. */
static void change(fake *f, const char *name, const char *old, const char *new) {
    for (size_t i = 0; i < f->n; i++) {
        if (strcmp(f->files[i].name, name) != 0) continue;
        const char *data = (const char *)f->files[i].data, *at = memmem(data, f->files[i].size, old, strlen(old));
        if (!at) fail_msg("%s does not have %s", name, old);
        size_t before = (size_t)(at - data), after = f->files[i].size - before - strlen(old);
        char *text = vm_malloc(before + strlen(new) + after, 1);
        memcpy(text, data, before);
        memcpy(text + before, new, strlen(new));
        memcpy(text + before + strlen(new), at + strlen(old), after);
        put_bytes(f, name, text, before + strlen(new) + after);
        vm_free(text);
        return;
    }
    fail_msg("no %s", name);
}

/* Opening the folder, and then reading its configuration and tokenizer, fails with that text. */
static void refused(fake f, vmoer_status code, const char *says) {
    vm_gguf *g;
    vm_config c;
    vm_tokenizer *t = NULL;
    vmoer_status status = vm_hf_open_memory(f.files, f.n, "here", &g);
    if (status == VMOER_OK) {
        status = vm_config_read(g, &c);
        if (status == VMOER_OK) status = vm_tokenizer_open(g, &t);
        vm_tokenizer_free(t);
    } else {
        assert_null(g);
    }
    vm_gguf_free(g);
    fake_free(&f);
    if (status != code || !strstr(vm_error_text(), says))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, status, vm_error_text());
}

typedef struct wrong {
    const char *old, *new;
    vmoer_status code;
    const char *says;
} wrong;

static void test_config_refused(void **state) {
    (void)state;
    static const wrong all[] = {
        {"{", "[", VMOER_ERROR_FORMAT, "config.json: line 2"},
        {"\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", VMOER_ERROR_UNSUPPORTED,
         "config.json: model_type \"mamba\" is not supported; supported are llama"},
        {"\"model_type\": \"llama\"", "\"model_type\": 3", VMOER_ERROR_FORMAT, "no model_type"},
        {"\"hidden_size\": 32", "\"hidden_size\": null", VMOER_ERROR_FORMAT, "hidden_size is missing"},
        {"\"hidden_size\": 32", "\"hidden_size\": -32", VMOER_ERROR_FORMAT, "hidden_size is not a whole number"},
        {"\"hidden_size\": 32", "\"hidden_size\": 4294967296", VMOER_ERROR_FORMAT, "hidden_size is not a whole number"},
        {"\"hidden_size\": 32", "\"hidden_size\": \"32\"", VMOER_ERROR_FORMAT, "hidden_size is not a whole number"},
        {"\"hidden_size\": 32", "\"hidden_size\": 32, \"hidden_size\": 32", VMOER_ERROR_FORMAT, "duplicate"},
        {"9.999999747378752e-06", "1e39", VMOER_ERROR_FORMAT, "rms_norm_eps is not a number"},
        {"9.999999747378752e-06", "true", VMOER_ERROR_FORMAT, "rms_norm_eps is not a number"},
        {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", VMOER_ERROR_UNSUPPORTED, "hidden_act is \"gelu\""},
        {"\"attention_bias\": false", "\"attention_bias\": true", VMOER_ERROR_FORMAT,
         "\"model.layers.0.self_attn.q_proj.bias\" is missing"},
        {"\"mlp_bias\": false", "\"mlp_bias\": true", VMOER_ERROR_FORMAT,
         "\"model.layers.0.mlp.gate_proj.bias\" is missing"},
        {"\"use_cache\": true", "\"quantization_config\": {\"bits\": 4}", VMOER_ERROR_UNSUPPORTED,
         "quantization_config is {\"bits\":4}; only none"},
        {"\"rope_type\": \"default\"", "\"rope_type\": \"longrope\"", VMOER_ERROR_UNSUPPORTED, "\"longrope\""},
        {"\"rope_type\": \"default\"", "\"rope_type\": \"dynamic\"", VMOER_ERROR_FORMAT, "factor is missing"},
        {"\"rope_type\": \"default\"", "\"rope_type\": \"yarn\", \"factor\": 2, \"attention_factor\": 0",
         VMOER_ERROR_FORMAT, "attention_factor is no positive number"},
        {"\"rope_type\": \"default\"", "\"rope_type\": \"yarn\", \"factor\": 2, \"mscale\": \"1\"", VMOER_ERROR_FORMAT,
         "mscale is not a number"},
        {"\"rope_type\": \"default\"",
         "\"rope_type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 4, \"high_freq_factor\": 4",
         VMOER_ERROR_FORMAT, "llama3 with numbers"},
        {"\"rope_parameters\": {", "\"rope_parameters\": 3, \"x\": {", VMOER_ERROR_FORMAT,
         "rope_scaling, is no object"},
        {"\"use_cache\": true", "\"partial_rotary_factor\": 0.5", VMOER_ERROR_UNSUPPORTED,
         "partial_rotary_factor is 0.5"},
        {"\"rope_theta\": 10000.0", "\"rope_theta\": 0", VMOER_ERROR_FORMAT, "rope.freq_base"},
        {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", VMOER_ERROR_FORMAT,
         "tensor \"model.layers.3.input_layernorm.weight\" is missing"},
        {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", VMOER_ERROR_UNSUPPORTED,
         "model.safetensors: tensor \"model.layers.2.input_layernorm.weight\" is none that models of the type"},
        {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4294967295", VMOER_ERROR_LIMIT, "block_count"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 5", VMOER_ERROR_FORMAT,
         "\"model.layers.0.self_attn.q_proj.weight\" are not those of 5 heads"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 0", VMOER_ERROR_FORMAT, "of 0 heads"},
        {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", VMOER_ERROR_FORMAT,
         "\"lm_head.weight\" is missing, and tie_word_embeddings is false"},
        {"\"pad_token_id\": null", "\"pad_token_id\": \"2\"", VMOER_ERROR_FORMAT, "config.json: pad_token_id"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake f = fake_llama();
        change(&f, "config.json", all[i].old, all[i].new);
        refused(f, all[i].code, all[i].says);
    }
}

static void test_tensors_refused(void **state) {
    (void)state;
    /* In a safetensors header, each of the length of what it replaces. */
    static const wrong all[] = {
        {"\"dtype\":\"F32\"", "\"dtype\":\"I32\"", VMOER_ERROR_UNSUPPORTED, "is I32; F32, F16 and BF16 are supported"},
        {"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.wEight", VMOER_ERROR_FORMAT,
         "tensor \"model.layers.0.mlp.up_proj.weight\" is missing"},
        {"model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight", VMOER_ERROR_FORMAT, "duplicate"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake f = fake_llama();
        change(&f, "model.safetensors", all[i].old, all[i].new);
        refused(f, all[i].code, all[i].says);
    }
    fake f = fake_llama();
    for (size_t i = 0; i < f.n; i++)
        if (strcmp(f.files[i].name, "model.safetensors") == 0) f.files[i].size -= 5;
    refused(f, VMOER_ERROR_FORMAT, "here: model.safetensors: ");
}

static void test_index_refused(void **state) {
    (void)state;
    static const char first[] = "model.embed_tokens.weight\": \"model-00001-of-00004.safetensors",
                      index[] = "model.safetensors.index.json";
    static const wrong all[] = {
        {first, "model.embed_tokens.weight\": \"../model-00001-of-00004.safetensors", VMOER_ERROR_FORMAT,
         "\"model.embed_tokens.weight\" is in \"../model-00001-of-00004.safetensors\", which is no plain name"},
        {first, "model.embed_tokens.weight\": \"/model-00001-of-00004.safetensors", VMOER_ERROR_FORMAT,
         "no plain name"},
        {first, "model.embed_tokens.weight\": \"model-00001-of-00004.bin", VMOER_ERROR_FORMAT, "no plain name"},
        {first, "model.embed_tokens.weight\": \"model-00009-of-00004.safetensors", VMOER_ERROR_IO,
         "model-00009-of-00004.safetensors: there is no such file"},
        {first, "model.embed_tokens.weight\": \"model-00002-of-00004.safetensors", VMOER_ERROR_FORMAT,
         "tensor \"model.embed_tokens.weight\" is not in model-00002-of-00004.safetensors"},
        {first, "model.embed.weight\": \"model-00001-of-00004.safetensors", VMOER_ERROR_FORMAT,
         "tensor \"model.embed.weight\" is not in"},
        {"\"model.norm.weight\": \"model-00004-of-00004.safetensors\"", "\"model.norm.weight\": 4", VMOER_ERROR_FORMAT,
         "\"model.norm.weight\" is in \"?\""},
        {",\n    \"model.norm.weight\": \"model-00004-of-00004.safetensors\"", "", VMOER_ERROR_FORMAT,
         "tensor \"model.norm.weight\" of model-00004-of-00004.safetensors is missing"},
        {"\"weight_map\": {", "\"weights\": {", VMOER_ERROR_FORMAT, "weight_map: missing"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake f = fake_moe();
        change(&f, index, all[i].old, all[i].new);
        refused(f, all[i].code, all[i].says);
    }
    /* One shard is the other one again. */
    fake f = fake_moe();
    take(&f, "tiny-moe-folder", "model-00001-of-00004.safetensors");
    put_bytes(&f, "model-00002-of-00004.safetensors", f.bytes[2], f.files[2].size);
    refused(f, VMOER_ERROR_FORMAT,
            "stands in model-00001-of-00004.safetensors and in model-00002-of-00004.safetensors");
    /* Experts: another number of them than the tensors have is the model's to refuse; none here. */
    f = fake_moe();
    change(&f, "config.json", "\"num_local_experts\": 8", "\"num_local_experts\": 1");
    refused(f, VMOER_ERROR_FORMAT, "granitemoe.expert_count");
    f = fake_moe();
    change(&f, "config.json", "\"hidden_act\": \"silu\"", "\"position_embedding_type\": \"nope\"");
    refused(f, VMOER_ERROR_UNSUPPORTED, "position_embedding_type is \"nope\"");
}

static void test_files_refused(void **state) {
    (void)state;
    fake f = fake_llama();
    f.files[0].name = "config";
    refused(f, VMOER_ERROR_IO, "here: a folder without config.json");
    f = fake_llama();
    f.files[2].name = "pytorch_model.bin";
    refused(f, VMOER_ERROR_UNSUPPORTED, "neither model.safetensors nor model.safetensors.index.json");
    f = fake_llama();
    f.files[3].name = "tokenizer.model";
    refused(f, VMOER_ERROR_UNSUPPORTED, "there is no tokenizer.json");
    f = fake_llama();
    put_text(&f, "tokenizer.json", "[]");
    refused(f, VMOER_ERROR_FORMAT, "tokenizer.json: not an object");
    f = fake_llama();
    put_text(&f, "generation_config.json", "{\"pad_token_id\": -1}");
    refused(f, VMOER_ERROR_FORMAT, "generation_config.json: pad_token_id is no token's id");
    f = fake_llama();
    put_text(&f, "tokenizer_config.json", "{\"eos_token\": {\"content\": \"<end>\"}}");
    refused(f, VMOER_ERROR_FORMAT, "eos_token \"<end>\" is no token of tokenizer.json");
    f = fake_llama();
    put_text(&f, "tokenizer_config.json", "{\"add_eos_token\": true}");
    refused(f, VMOER_ERROR_UNSUPPORTED, "tokenizer_config.json: add_eos_token is true");
    f = fake_llama();
    put_text(&f, "tokenizer_config.json", "{}");
    put_text(&f, "generation_config.json", "{\"eos_token_id\": 272}");
    refused(f, VMOER_ERROR_FORMAT, "tokenizer.ggml.eos_token_id: id 272, tokenizer.json has 272 tokens");
    f = fake_llama();
    put_bytes(&f, "chat_template.jinja", "a\0b", 3);
    refused(f, VMOER_ERROR_FORMAT, "chat_template.jinja: a byte 0");
}

/* A tensor an expert. */
static void test_experts_refused(void **state) {
    (void)state;
    static const wrong all[] = {
        {"\"num_local_experts\": 4", "\"num_local_experts\": 5", VMOER_ERROR_FORMAT,
         "tensor \"model.layers.0.block_sparse_moe.experts.4.w1.weight\" is missing"},
        {"\"num_local_experts\": 4", "\"num_local_experts\": 3", VMOER_ERROR_UNSUPPORTED,
         "tensor \"model.layers.0.block_sparse_moe.experts.3.w1.weight\" is none"},
        {"\"num_local_experts\": 4", "\"num_local_experts\": 1025", VMOER_ERROR_LIMIT, "llama.expert_count is 1025"},
        {"\"num_local_experts\": 4", "\"num_local_experts\": 0", VMOER_ERROR_FORMAT, "the number of experts is 0"},
        {"\"sliding_window\": null", "\"sliding_window\": \"4096\"", VMOER_ERROR_FORMAT,
         "sliding_window is not a whole"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake f = fake_of("tiny-mixtral-folder");
        change(&f, "config.json", all[i].old, all[i].new);
        refused(f, all[i].code, all[i].says);
    }
    static const char name[] = "layers.1.block_sparse_moe.experts.2.w2.weight\":{\"dtype\":\"F32\",\"shape\":";
    fake f = fake_of("tiny-mixtral-folder");
    char old[128], new[128];
    snprintf(old, sizeof old, "%s[32,16]", name);
    snprintf(new, sizeof new, "%s[16,32]", name);
    change(&f, "model.safetensors", old, new);
    refused(f, VMOER_ERROR_FORMAT, "experts.2.w2.weight\" is not of the shape and type of the others");
}

/* norm_topk_prob is obeyed where an architecture knows both ways. */
static void test_gates(void **state) {
    (void)state;
    static const char *const all[] = {"tiny-qwen2moe-folder", "tiny-olmoe-folder"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        for (int normed = 0; normed < 2; normed++) {
            fake f = fake_of(all[i]);
            vm_gguf *g;
            vm_config c;
            if (normed) change(&f, "config.json", "\"norm_topk_prob\": false", "\"norm_topk_prob\": true");
            OK(vm_hf_open_memory(f.files, f.n, "here", &g));
            OK(vm_config_read(g, &c));
            assert_int_equal(c.renormalise, normed);
            vm_gguf_free(g);
            fake_free(&f);
        }
    }
}

/* GPT-OSS's experts, and what its config.json says otherwise than others'. */
static void test_gpt_oss_refused(void **state) {
    (void)state;
    static const struct {
        const char *folder, *file, *old, *new; /* in a safetensors header as long as what it replaces */
        vmoer_status code;
        const char *says;
    } all[] = {
        {"tiny-gpt-oss", "config.json", "\"swiglu_limit\": 7.0", "\"swiglu_limit\": 5", VMOER_ERROR_UNSUPPORTED,
         "swiglu_limit is 5; only 7.0 is supported"},
        {"tiny-gpt-oss", "config.json", "\"truncate\": false", "\"truncate\": true", VMOER_ERROR_UNSUPPORTED,
         "YaRN with truncate is not supported for the model_type \"gpt_oss\""},
        {"tiny-gpt-oss", "config.json", "\"sliding_attention\",\n    \"full_attention\"",
         "\"full_attention\",\n    \"sliding_attention\"", VMOER_ERROR_UNSUPPORTED, "layer_types"},
        {"tiny-gpt-oss", "config.json", "\"sliding_window\": 4", "\"sliding_window\": null", VMOER_ERROR_FORMAT,
         "gpt-oss.attention.sliding_window: missing"},
        {"tiny-gpt-oss-mxfp4", "config.json", "\"rope_parameters\"", "\"rope\"", VMOER_ERROR_FORMAT,
         "rope_parameters, or rope_scaling, is missing"},
        {"tiny-gpt-oss-mxfp4", "config.json", "\"mxfp4\"", "\"gptq\"", VMOER_ERROR_UNSUPPORTED,
         "quantization_config.quant_method is \"gptq\"; only \"mxfp4\""},
        {"tiny-gpt-oss", "model.safetensors", "experts.down_proj\"", "experts.down_prok\"", VMOER_ERROR_FORMAT,
         "experts.down_proj\" is missing, and so is its MXFP4"},
        {"tiny-gpt-oss-mxfp4", "model.safetensors", "experts.down_proj_scales", "experts.down_proj_scalez",
         VMOER_ERROR_FORMAT, "experts.down_proj_scales\" is missing"},
        {"tiny-gpt-oss-mxfp4", "model.safetensors", "\"shape\":[4,64,1,16]", "\"shape\":[4,64,16,1]",
         VMOER_ERROR_FORMAT, "gate_up_proj_blocks\" is not of 2 parts' experts, at most 1024, in MXFP4"},
        {"tiny-gpt-oss-mxfp4", "model.safetensors", "\"shape\":[4,64,1]", "\"shape\":[64,4,1]", VMOER_ERROR_FORMAT,
         "gate_up_proj_blocks\" is not of 2 parts'"},
        {"tiny-gpt-oss", "model.safetensors", "\"shape\":[8,16]", "\"shape\":[128 ]", VMOER_ERROR_FORMAT,
         "gate_up_proj_bias\" is not of 2 parts' biases"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s-folder", all[i].folder);
        fake f = fake_of(name);
        change(&f, all[i].file, all[i].old, all[i].new);
        refused(f, all[i].code, all[i].says);
    }
}

/* What YaRN multiplies cos and sin by, as transformers' ROPE_INIT_FUNCTIONS have it. */
static void test_yarn(void **state) {
    (void)state;
    static const struct {
        const char *more;
        double scale;
    } all[] = {
        {"", 1.0693147180559945},
        {"\"attention_factor\": 1.5,", 1.5},
        {"\"mscale\": 0.707, \"mscale_all_dim\": 1.0,", 0.9810072637667154},
        {"\"mscale\": 0.707,", 1.0693147180559945},
        {"\"mscale\": 0.707, \"mscale_all_dim\": 0.5, \"attention_factor\": 0.25,", .25},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake f = fake_of("tiny-qwen2-folder");
        vm_gguf *g;
        vm_config c;
        char text[256];
        float frequencies[4], scale;
        snprintf(text, sizeof text, "%s \"factor\": 2.0", all[i].more);
        change(&f, "config.json", "\"factor\": 2.0", text);
        OK(vm_hf_open_memory(f.files, f.n, "here", &g));
        OK(vm_config_read(g, &c));
        vm_rope_frequencies(&c.rope, c.head_dim, c.context, frequencies, &scale);
        if (fabs((double)scale / all[i].scale - 1) > 2e-7) fail_msg("%zu: %.9g", i, (double)scale);
        vm_gguf_free(g);
        fake_free(&f);
    }
}

/* Which layers have a window, as transformers' classes say; a text of config.json and what it becomes, in turn. */
static void test_windows(void **state) {
    (void)state;
    static const char use[] = "\"use_sliding_window\": false", used[] = "\"use_sliding_window\": true",
                      list[] = "\"layer_types\": [", five[] = "\"sliding_window\": 5", zero[] = "\"sliding_window\": 0",
                      most[] = "\"max_window_layers\": 28";
    static const struct {
        const char *folder, *changes[8];
        int window, period; /* -1: refused */
    } all[] = {
        {"tiny-mistral", {NULL}, 4, 0},
        {"tiny-mistral", {"\"sliding_window\": 4", "\"sliding_window\": null"}, 0, 0},
        {"tiny-mistral", {"\"sliding_window\": 4", "\"x\": 4"}, 4096, 0},
        {"tiny-mixtral", {"\"sliding_window\": null", "\"sliding_window\": 7"}, 7, 0},
        {"tiny-mixtral", {"\"sliding_window\": null", "\"x\": 7"}, 0, 0},
        {"tiny-qwen3moe", {"\"sliding_window\": null", five}, 0, 0},
        {"tiny-qwen3moe", {"\"sliding_window\": null", five, use, used}, 5, 0},
        {"tiny-qwen2moe", {zero, five}, 0, 0},
        {"tiny-qwen2moe", {zero, five, use, used}, 0, 0}, /* the list has none */
        {"tiny-qwen2moe", {zero, five, use, used, list, "\"x\": ["}, 5, 2},
        {"tiny-qwen2moe", {zero, five, use, used, "\"full_attention\"", "\"sliding_attention\""}, 5, 2},
        {"tiny-qwen2moe",
         {zero, five, use, used, "\"full_attention\",", "\"full_attention\",\"full_attention\","},
         -1,
         0},
        {"tiny-qwen2moe", {zero, five, use, used, "\"full_attention\"", "\"chunked_attention\""}, -1, 0},
        {"tiny-qwen2moe", {zero, five, use, used, list, "\"x\": [", most, "\"max_window_layers\": 0"}, 0, 0},
        {"tiny-qwen2", {"\"sliding_window\": null", five, use, used, list, "\"x\": ["}, 0, 0},
        {"tiny-qwen2",
         {"\"sliding_window\": null", five, use, used, list, "\"x\": [", most, "\"max_window_layers\": 0"},
         5,
         0},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s-folder", all[i].folder);
        fake f = fake_of(name);
        vm_gguf *g;
        vm_config c = {.window = -1};
        for (int k = 0; k < 8 && all[i].changes[k]; k += 2)
            change(&f, "config.json", all[i].changes[k], all[i].changes[k + 1]);
        if (vm_hf_open_memory(f.files, f.n, "here", &g) == VMOER_OK) OK(vm_config_read(g, &c));
        if (c.window != all[i].window || c.window_period != all[i].period)
            fail_msg("%zu: window %d, period %d: %s", i, c.window, c.window_period, vm_error_text());
        vm_gguf_free(g);
        fake_free(&f);
    }
    /* Qwen2's upper layers alone. */
    fake f = fake_of("tiny-qwen2moe-folder");
    vm_gguf *g;
    change(&f, "config.json", zero, five);
    change(&f, "config.json", use, used);
    change(&f, "config.json", "\"full_attention\"\n", "\"sliding_attention\"\n");
    assert_int_equal(vm_hf_open_memory(f.files, f.n, "here", &g), VMOER_ERROR_UNSUPPORTED);
    assert_non_null(strstr(vm_error_text(), "layer_types: a sliding_window in these layers only is not supported"));
    fake_free(&f);
}

/* The ends of a text: by tokenizer_config.json's texts, else by the first id of a list; the template by its name. */
static void test_ends(void **state) {
    (void)state;
    static const struct {
        const char *tokenizer_config, *old, *new;
        int bos, eos;
    } all[] = {
        {"{\"eos_token\": \"<|endoftext|>\", \"bos_token\": {\"content\": \"<|im_end|>\"}}", "{", "{", 2, 0},
        {"{\"model_max_length\": 1000000000000000019884624838656}", "\"eos_token_id\": 2", "\"eos_token_id\": 5", 1, 9},
        {"{}", "{", "{", 1, 9},
        {"{\"eos_token\": null}", "{", "{", 1, 9},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake f = fake_llama();
        vm_gguf *g;
        vm_tokenizer *t;
        put_text(&f, "tokenizer_config.json", all[i].tokenizer_config);
        put_text(&f, "generation_config.json", "{\"eos_token_id\": [9, 10]}");
        change(&f, "config.json", all[i].old, all[i].new);
        OK(vm_hf_open_memory(f.files, f.n, "here", &g));
        OK(vm_tokenizer_open(g, &t));
        assert_int_equal(vm_tokenizer_bos(t), all[i].bos);
        assert_int_equal(vm_tokenizer_eos(t), all[i].eos);
        vm_tokenizer_free(t);
        vm_gguf_free(g);
        fake_free(&f);
    }
    fake f = fake_llama();
    vm_gguf *g;
    const char *template;
    size_t length;
    put_text(&f, "tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"no\"}, "
             "{\"name\": \"default\", \"template\": \"yes\"}]}");
    OK(vm_hf_open_memory(f.files, f.n, "here", &g));
    OK(vm_gguf_get_string(g, "tokenizer.chat_template", &template, &length));
    assert_memory_equal(template, "yes", length);
    vm_gguf_free(g);
    fake_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_written),
        cmocka_unit_test(test_config_refused),
        cmocka_unit_test(test_tensors_refused),
        cmocka_unit_test(test_index_refused),
        cmocka_unit_test(test_files_refused),
        cmocka_unit_test(test_experts_refused),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_gpt_oss_refused),
        cmocka_unit_test(test_gates),
        cmocka_unit_test(test_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
