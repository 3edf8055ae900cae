/* test_convert_folder.c: `vmoer convert` from a GGUF to a folder of Hugging Face's layout: read again, and made a GGUF
 * again, it is the same model; it appears whole or not at all; what it cannot say is refused. That transformers loads
 * it is held by tools/check_folder.py. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "io/hf.h"
#include "io/tokenizer_internal.h"
#include "model_fixture.h"
#include "vmoer/vmoer.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { VOCAB = 272 };

static const char *in_folder(const char *folder, const char *name) {
    static char paths[4][4200];
    static int turn;
    char *path = paths[turn++ & 3];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void clear(const char *folder) {
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir));) unlink(in_folder(folder, e->d_name));
    closedir(dir);
    rmdir(folder);
}

static vmoer_status convert(const char *from, const char *to, const char *shard_size) {
    vmoer_convert_params p = vmoer_convert_params_default();
    p.model = from;
    p.output_path = to;
    p.shard_size = shard_size;
    return vmoer_convert(&p, NULL, NULL);
}

static vmoer_status quantize(const char *from, const char *to) {
    vmoer_quantize_params p = vmoer_quantize_params_default();
    p.model = from;
    p.output_path = to;
    return vmoer_quantize(&p, NULL, NULL);
}

static const char *golden_gguf(const char *name) {
    char file[256];
    snprintf(file, sizeof file, "%s.gguf", name);
    return golden_path(file);
}

/* ---- there and back ---- */

static void same_row(const vm_gguf_tensor *a, const vm_gguf_tensor *b, size_t i) {
    char x[4096], y[4096];
    size_t bytes = a->size / (size_t)(a->ne[1] * a->ne[2] * a->ne[3]);
    assert_true(bytes <= sizeof x);
    vm_gguf_copy_rows(a, i, 1, x);
    vm_gguf_copy_rows(b, i, 1, y);
    assert_memory_equal(x, y, bytes);
}

/* But for Llama 3's factors, which are made anew and may be rounded otherwise. */
static void same_tensors(const vm_gguf *a, const vm_gguf *b) {
    assert_int_equal(vm_gguf_tensor_count(a), vm_gguf_tensor_count(b));
    for (size_t k = 0; k < vm_gguf_tensor_count(a); k++) {
        const vm_gguf_tensor *x = vm_gguf_tensor_at(a, k), *y = vm_gguf_find_tensor(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->type, y->type);
        assert_int_equal(x->n_dims, y->n_dims);
        assert_memory_equal(x->ne, y->ne, sizeof x->ne);
        size_t rows = (size_t)(x->ne[1] * x->ne[2] * x->ne[3]);
        for (size_t i = 0; i < rows && strcmp(x->name, "rope_freqs.weight") != 0; i++) same_row(x, y, i);
    }
}

static void same_tokenizer(const vm_gguf *a, const vm_gguf *b) {
    static const char text[] = "The weather on 12 Quays:<|im_end|>\n na\xc3\xafve\t<|im_start|> \xf0\x9f\x98\x80";
    vm_tokenizer *x, *y;
    OK(vm_tokenizer_open(a, &x));
    OK(vm_tokenizer_open(b, &y));
    for (int special = 0; special < 2; special++) {
        vm_ids p = {0}, q = {0};
        OK(vm_tokenizer_encode(x, text, sizeof text - 1, special, &p));
        OK(vm_tokenizer_encode(y, text, sizeof text - 1, special, &q));
        assert_int_equal(p.count, q.count);
        assert_memory_equal(p.ids, q.ids, p.count * sizeof *p.ids);
        vm_ids_free(&p);
        vm_ids_free(&q);
    }
    assert_int_equal(vm_tokenizer_bos(x), vm_tokenizer_bos(y));
    assert_int_equal(vm_tokenizer_eos(x), vm_tokenizer_eos(y));
    assert_int_equal(vm_tokenizer_adds_bos(x), vm_tokenizer_adds_bos(y));
    const char *one, *other;
    size_t n, m;
    OK(vm_gguf_get_string(a, "tokenizer.chat_template", &one, &n));
    OK(vm_gguf_get_string(b, "tokenizer.chat_template", &other, &m));
    assert_int_equal(n, m);
    assert_memory_equal(one, other, n);
    vm_tokenizer_free(x);
    vm_tokenizer_free(y);
}

static void logits_of(const char *path, const vm_safetensors *st, float *out) {
    vm_model_options options = {.backward_from = -1};
    vm_pass_options how = {.sign = 1};
    vm_model *m;
    vm_pass *pass;
    sequences s;
    OK(vm_model_load(path, &options, NULL, &m));
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 6, &s);
    OK(vm_pass_forward(pass, &s.batch, &how, NULL, NULL, out));
    vm_pass_free(pass);
    vm_model_free(m);
}

static void same_logits(const char *name, const char *folder) {
    vm_safetensors *st = golden_open(name);
    size_t n = vm_safetensors_find(st, "ids")->size / 4 * VOCAB;
    float *a = vm_malloc(n, sizeof *a), *b = vm_malloc(n, sizeof *b);
    logits_of(golden_gguf(name), st, a);
    logits_of(folder, st, b);
    if (strcmp(name, "tiny-granite") == 0) /* by those factors */
        assert_true(relative_difference(a, b, n) < 1e-6);
    else
        assert_memory_equal(a, b, n * sizeof *a);
    vm_free(a);
    vm_free(b);
    vm_safetensors_free(st);
}

/* The model as a GGUF without types that a folder does not have: of MXFP4's, whose other weights are Q8_0, by its
 * folder. */
static void make_source(const char *name, char path[4096]) {
    strcpy(path, golden_gguf(name));
    if (strcmp(name, "tiny-gpt-oss-mxfp4") != 0) return;
    strcpy(path, scratch_path("source.gguf"));
    OK(convert(golden_path("tiny-gpt-oss-mxfp4-folder"), path, NULL));
}

static void test_there_and_back(void **state) {
    (void)state;
    for (int i = 0; i < TINY_MODELS; i++) {
        const char *name = tiny_models[i], *folder = scratch_path("there"), *again = scratch_path("again"),
                   *file = scratch_path("back.gguf");
        vm_gguf *first, *there, *back;
        char source[4096];
        make_source(name, source);
        OK(convert(source, folder, i % 2 ? "20KB" : NULL));
        OK(convert(folder, file, NULL));
        OK(vm_gguf_open(source, &first));
        OK(vm_gguf_open(folder, &there));
        OK(vm_gguf_open(file, &back));
        same_tensors(first, there);
        same_tensors(first, back);
        same_config(first, there);
        same_config(first, back);
        same_tokenizer(first, there);
        same_tokenizer(first, back);
        same_logits(name, folder);
        vm_gguf_free(there);
        /* A folder again, of a folder: the same but for its number of files. */
        OK(convert(folder, again, "40KB"));
        OK(vm_gguf_open(again, &there));
        same_tensors(first, there);
        same_config(first, there);
        same_tokenizer(first, there);
        vm_gguf_free(first);
        vm_gguf_free(there);
        vm_gguf_free(back);
        clear(folder);
        clear(again);
        unlink(file);
        unlink(scratch_path("source.gguf"));
    }
}

/* The names that transformers' save_pretrained wrote, with their types, shapes and bytes. */
static void test_names(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-llama", "tiny-mixtral",  "tiny-qwen3moe",
                                        "tiny-olmoe", "tiny-qwen2moe", "tiny-granite"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *folder = scratch_path("names");
        char file[256];
        vm_safetensors *a, *b;
        snprintf(file, sizeof file, "%s-folder/model.safetensors", names[i]);
        char source[4096];
        make_source(names[i], source);
        OK(convert(source, folder, NULL));
        unlink(scratch_path("source.gguf"));
        OK(vm_safetensors_open(golden_path(file), &a));
        OK(vm_safetensors_open(in_folder(folder, "model.safetensors"), &b));
        assert_string_equal(vm_safetensors_metadata(b, "format"), "pt");
        assert_int_equal(vm_safetensors_count(a), vm_safetensors_count(b));
        for (size_t k = 0; k < vm_safetensors_count(a); k++) {
            const vm_st_tensor *x = vm_safetensors_at(a, k), *y = vm_safetensors_find(b, x->name);
            if (!y) fail_msg("%s: no %s", names[i], x->name);
            assert_string_equal(x->dtype, y->dtype);
            assert_int_equal(x->n_dims, y->n_dims);
            assert_memory_equal(x->shape, y->shape, (size_t)x->n_dims * sizeof *x->shape);
            assert_memory_equal(x->data, y->data, x->size);
        }
        vm_safetensors_free(a);
        vm_safetensors_free(b);
        clear(folder);
    }
}

static void test_shards(void **state) {
    (void)state;
    const char *folder = scratch_path("shards");
    json_t *index;
    OK(convert(golden_gguf("tiny-moe"), folder, "60KB"));
    OK(vm_json_load(in_folder(folder, "model.safetensors.index.json"), &index));
    const json_t *map = json_object_get(index, "weight_map");
    assert_string_equal(json_string_value(json_object_get(map, "model.embed_tokens.weight")),
                        "model-00001-of-00004.safetensors");
    size_t total = 0;
    for (int i = 1; i <= 4; i++) {
        vm_safetensors *st;
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-00004.safetensors", i);
        OK(vm_safetensors_open(in_folder(folder, name), &st));
        size_t held = 0;
        for (size_t k = 0; k < vm_safetensors_count(st); k++) {
            const vm_st_tensor *t = vm_safetensors_at(st, k);
            held += t->size;
            assert_string_equal(json_string_value(json_object_get(map, t->name)), name);
        }
        assert_true(held <= 60000);
        total += held;
        vm_safetensors_free(st);
    }
    assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")), total);
    json_decref(index);
    clear(folder);
}

/* ---- the tokenizer of scores ---- */

/* A GGUF's scores become merges: the ids of chosen texts stay. */
static void test_scores(void **state) {
    (void)state;
    static const char *const some[] = {"the weather on 12 Quays", " two  spaces ", "na\xc3\xafve \xf0\x9f\x98\x80\n",
                                       "<s>a</s>"};
    vm_gguf *g;
    vm_vocabulary v;
    vm_tokenizer *a, *b;
    json_t *root, *again;
    OK(vm_gguf_open(golden_path("vocab_spm.gguf"), &g));
    OK(vm_vocabulary_from_gguf(g, &v));
    OK(vm_tokenizer_build(&v, &a));
    OK(vm_vocabulary_to_json(&v, &root));
    OK(vm_tokenizer_from_json(root, &b));
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        vm_ids p = {0}, q = {0};
        OK(vm_tokenizer_encode(a, some[i], strlen(some[i]), true, &p));
        OK(vm_tokenizer_encode(b, some[i], strlen(some[i]), true, &q));
        assert_int_equal(p.count, q.count);
        assert_memory_equal(p.ids, q.ids, p.count * sizeof *p.ids);
        vm_ids_free(&p);
        vm_ids_free(&q);
    }
    vm_tokenizer_free(a);
    vm_tokenizer_free(b);
    vm_vocabulary_free(&v);
    /* What is read of it is written again. */
    OK(vm_vocabulary_from_json(root, &v));
    OK(vm_vocabulary_to_json(&v, &again));
    assert_true(json_equal(root, again));
    vm_vocabulary_free(&v);
    json_decref(root);
    json_decref(again);
    vm_gguf_free(g);
}

/* Every part of a tokenizer.json that is read is written again. */
static void test_json(void **state) {
    (void)state;
    static const char *const names[] = {"tokenizer.json", "tokenizer_mixtral.json", "tokenizer_added.json"};
    static const char *const parts[] = {"normalizer", "added_tokens", "decoder"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *root, *again, *third;
        vm_vocabulary v;
        OK(vm_json_load(golden_path(names[i]), &root));
        OK(vm_vocabulary_from_json(root, &v));
        OK(vm_vocabulary_to_json(&v, &again));
        vm_vocabulary_free(&v);
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            if (strcmp(parts[k], "normalizer") != 0 || json_is_null(json_object_get(root, parts[k])))
                assert_true(json_equal(json_object_get(root, parts[k]), json_object_get(again, parts[k])));
        assert_true(json_equal(json_object_get(json_object_get(root, "model"), "merges"),
                               json_object_get(json_object_get(again, "model"), "merges")));
        OK(vm_vocabulary_from_json(again, &v));
        OK(vm_vocabulary_to_json(&v, &third));
        assert_true(json_equal(again, third));
        vm_vocabulary_free(&v);
        json_decref(root);
        json_decref(again);
        json_decref(third);
    }
}

static void test_pre_tokenizers(void **state) {
    (void)state;
    json_t *all, *pre;
    const char *name;
    OK(vm_json_load(golden_path("pre_tokenizers.json"), &all));
    json_object_foreach(all, name, pre) {
        vm_rules rules = {0}, again = {0};
        OK(vm_pretokenizer_from_json(pre, &rules));
        json_t *written = vm_pretokenizer_to_json(&rules);
        OK(vm_pretokenizer_from_json(written, &again));
        if (memcmp(&rules, &again, sizeof rules) != 0) fail_msg("%s", name);
        json_decref(written);
    }
    json_decref(all);
}

/* ---- whole or not at all ---- */

static int die(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    (void)stage, (void)note;
    if (2 * done > total) raise(user ? SIGKILL : SIGCONT);
    return user ? 0 : 2 * done > total;
}

static void test_stopped(void **state) {
    (void)state;
    vmoer_convert_params p = vmoer_convert_params_default();
    const char *folder = scratch_path("stopped");
    p.model = golden_gguf("tiny-moe");
    p.output_path = folder;
    p.shard_size = "20KB";
    vmoer_hooks stop = {.progress = die};
    assert_int_equal(vmoer_convert(&p, &stop, NULL), VMOER_ERROR_INTERRUPTED);
    assert_false(vm_file_exists(folder));
    pid_t child = fork();
    if (child == 0) {
        int yes;
        vmoer_hooks kill_me = {.progress = die, .user = &yes};
        vmoer_convert(&p, &kill_me, NULL);
        _exit(0);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    assert_false(vm_file_exists(folder));
    char left[4200];
    vm_gguf *g;
    snprintf(left, sizeof left, "%s.%ld.0.tmp", folder, (long)child);
    assert_true(vm_file_exists(in_folder(left, "model-00001-of-00009.safetensors")));
    assert_int_equal(vm_gguf_open(left, &g), VMOER_ERROR_IO);
    assert_non_null(strstr(vm_error_text(), "a folder without config.json"));
    clear(left);
    snprintf(left, sizeof left, "%s.%ld.0.tmp", folder, (long)getpid()); /* the one that was stopped */
    assert_false(vm_file_exists(left));
}

static void refused(const char *from, const char *to, const char *size, vmoer_status code, const char *says) {
    vmoer_status status = convert(from, to, size);
    if (status != code || !strstr(vm_error_text(), says))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, status, vm_error_text());
}

/* tiny-llama, one tensor or key more. */
static const char *changed_llama(const char *key, uint32_t value, const char *tensor) {
    const char *path = scratch_path("changed.gguf");
    static const float zeros[32];
    vm_gguf *g;
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_open(golden_gguf("tiny-llama"), &g));
    OK(vm_gguf_writer_copy_keys(w, g, ""));
    if (key && strstr(key, "template"))
        OK(vm_gguf_writer_string(w, key, "{{ x }}\xff"));
    else if (key)
        OK(vm_gguf_writer_u32(w, key, value));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) OK(vm_gguf_writer_copy(w, vm_gguf_tensor_at(g, i)));
    if (tensor) OK(vm_gguf_writer_tensor(w, tensor, VM_F32, 1, (int64_t[]){strstr(tensor, "rope") ? 4 : 32}, zeros));
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
    return path;
}

/* Keys that no tiny model has, as config.json's and back. */
static void test_keys(void **state) {
    (void)state;
    static const struct {
        const char *scaling;
        float factor, attention;
    } all[] = {{"linear", 3, 1}, {"dynamic", 3, 1}, {"yarn", 3, 1.25f}, {"yarn", 1, .75f}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *path = scratch_path("keys.gguf"), *folder = scratch_path("keys");
        vm_gguf *g, *back;
        vm_gguf_writer *w = vm_gguf_writer_create();
        OK(vm_gguf_open(golden_gguf("tiny-llama"), &g));
        OK(vm_gguf_writer_copy_keys(w, g, ""));
        OK(vm_gguf_writer_string(w, "llama.rope.scaling.type", all[i].scaling));
        OK(vm_gguf_writer_f32(w, "llama.rope.scaling.factor", all[i].factor));
        if (all[i].attention != 1) OK(vm_gguf_writer_f32(w, "llama.rope.scaling.attn_factor", all[i].attention));
        OK(vm_gguf_writer_u32(w, "tokenizer.ggml.eot_token_id", 7));
        for (size_t k = 0; k < vm_gguf_tensor_count(g); k++) OK(vm_gguf_writer_copy(w, vm_gguf_tensor_at(g, k)));
        OK(vm_gguf_writer_save(w, path));
        vm_gguf_writer_free(w);
        vm_gguf_free(g);
        OK(convert(path, folder, NULL)); /* which compares the configurations, too */
        OK(vm_gguf_open(folder, &back));
        vm_config c;
        uint32_t eot;
        OK(vm_config_read(back, &c));
        assert_true(c.rope.attention == all[i].attention);
        OK(vm_gguf_get_u32(back, "tokenizer.ggml.eot_token_id", &eot));
        assert_int_equal(eot, 7);
        vm_gguf_free(back);
        clear(folder);
        unlink(path);
    }
}

static void test_refused(void **state) {
    (void)state;
    char llama[4096], folder[4096];
    strcpy(llama, golden_gguf("tiny-llama")); /* longer than four calls */
    strcpy(folder, scratch_path("refused"));
    static const char *const sizes[] = {"", "0", "GB", "-5GB", "5 GB", "5gb", "99999999999999999999GB"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        refused(llama, folder, sizes[i], VMOER_ERROR_ARGUMENT, "is no size such as");
    refused(llama, scratch_path("x.gguf"), "5GB", VMOER_ERROR_ARGUMENT, "shard_size is of a folder");
    refused(changed_llama(NULL, 0, "blk.0.extra.weight"), folder, NULL, VMOER_ERROR_UNSUPPORTED,
            "tensor \"blk.0.extra.weight\" has no place in a folder of the type \"llama\"");
    refused(changed_llama(NULL, 0, "blk.1.attn_q.bias"), folder, NULL, VMOER_ERROR_UNSUPPORTED,
            "tensor \"blk.0.attn_q.bias\" is missing");
    refused(changed_llama(NULL, 0, "rope_freqs.weight"), folder, NULL, VMOER_ERROR_UNSUPPORTED,
            "rope_freqs.weight: these factors are not Llama 3's");
    refused(changed_llama("llama.attention.sliding_window_pattern", 3, NULL), folder, NULL, VMOER_ERROR_UNSUPPORTED,
            "tiny-llama: the model's metadata asks for what config.json of its type has no name for");
    refused(changed_llama("llama.vocab_size", 271, NULL), folder, NULL, VMOER_ERROR_UNSUPPORTED, "llama.vocab_size");
    refused(changed_llama("llama.attention.value_length", 4, NULL), folder, NULL, VMOER_ERROR_UNSUPPORTED,
            "llama.attention.value_length is not what another key has for head_dim");
    refused(changed_llama("tokenizer.chat_template", 0, NULL), folder, NULL, VMOER_ERROR_FORMAT,
            "tokenizer.chat_template is not UTF-8, or has a byte 0");
    unlink(scratch_path("changed.gguf"));
    char q8[4096];
    strcpy(q8, scratch_path("q8.gguf"));
    OK(quantize(llama, q8));
    refused(q8, folder, NULL, VMOER_ERROR_UNSUPPORTED, "is Q8_0, a folder has F32, F16 and BF16");
    unlink(q8);
    assert_false(vm_file_exists(folder));
    /* An empty folder is filled, another one left alone. */
    assert_int_equal(mkdir(folder, 0777), 0);
    OK(convert(llama, folder, NULL));
    refused(llama, folder, NULL, VMOER_ERROR_IO, "exists, and is no empty folder");
    clear(folder);
}

/* ---- half precision ---- */

static vmoer_status fill_bf16(void *context, size_t row, size_t rows, void *out) {
    const vm_gguf_tensor *t = context;
    size_t n = (size_t)t->ne[0] * rows;
    float *values = vm_malloc(n, sizeof *values);
    bool done = vm_gguf_read_rows(t, row, rows, values) && vm_quantize(VM_BF16, values, n, out);
    vm_free(values);
    return done ? VMOER_OK : VMOER_ERROR_UNSUPPORTED;
}

/* A folder as it is saved from bf16, norms and routers too: a GGUF made of it, quantised or not, has those in f32. */
static void test_half(void **state) {
    (void)state;
    char half[4096], folder[4096], whole[4096], path[2][4096];
    vm_gguf *g, *made[2];
    strcpy(half, scratch_path("half.gguf"));
    strcpy(folder, scratch_path("half"));
    strcpy(whole, scratch_path("whole.gguf"));
    strcpy(path[0], scratch_path("direct.gguf"));
    strcpy(path[1], scratch_path("by-way.gguf"));
    OK(vm_gguf_open(golden_gguf("tiny-moe"), &g));
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_writer_copy_keys(w, g, ""));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        OK(vm_gguf_writer_rows(w, t->name, VM_BF16, t->n_dims, t->ne, fill_bf16, (void *)t));
    }
    OK(vm_gguf_writer_save(w, half));
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
    OK(convert(half, folder, NULL));
    OK(convert(folder, whole, NULL));
    OK(quantize(folder, path[0]));
    OK(quantize(whole, path[1]));
    for (int i = 0; i < 2; i++) OK(vm_gguf_open(path[i], &made[i]));
    same_tensors(made[0], made[1]);
    assert_int_equal(vm_gguf_find_tensor(made[0], "output_norm.weight")->type, VM_F32);
    assert_int_equal(vm_gguf_find_tensor(made[0], "blk.0.ffn_gate_inp.weight")->type, VM_F32);
    for (int i = 0; i < 2; i++) vm_gguf_free(made[i]);
    clear(folder);
    unlink(half);
    unlink(whole);
    for (int i = 0; i < 2; i++) unlink(path[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_names),   cmocka_unit_test(test_shards),
        cmocka_unit_test(test_scores),         cmocka_unit_test(test_json),    cmocka_unit_test(test_pre_tokenizers),
        cmocka_unit_test(test_stopped),        cmocka_unit_test(test_refused), cmocka_unit_test(test_keys),
        cmocka_unit_test(test_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
