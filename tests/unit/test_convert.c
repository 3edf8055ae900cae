/* test_convert.c: a folder in bf16 becomes a GGUF: matrices byte for byte, vectors and the router in f32, a vocabulary
 * filled up; and what a GGUF cannot say of a tokenizer is refused. */
#include "base/file.h"
#include "base/memory.h"
#include "io/tokenizer.h"
#include "model_fixture.h"
#include "vmoer/vmoer.h"

enum { VOCAB = 272 };

static const char *in_folder(const char *name) {
    static char paths[4][4200];
    static int turn;
    char *path = paths[turn++ & 3];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_path("bf16"), name);
    return path;
}

static void copy_file(const char *name, const char *old, const char *new) {
    char from[256];
    vm_map map;
    snprintf(from, sizeof from, "tiny-mixtral-folder/%s", name);
    OK(vm_map_open(golden_path(from), &map));
    const char *data = (const char *)map.data, *at = old ? memmem(data, map.size, old, strlen(old)) : NULL;
    assert_true(!old || at);
    size_t before = at ? (size_t)(at - data) : map.size, skip = at ? strlen(old) : 0, added = at ? strlen(new) : 0;
    char *text = vm_malloc(map.size + added, 1);
    memcpy(text, data, before);
    if (at) memcpy(text + before, new, added);
    memcpy(text + before + added, data + before + skip, map.size - before - skip);
    OK(vm_write_file(in_folder(name), text, map.size - skip + added));
    vm_free(text);
    vm_map_close(&map);
}

/* tiny-mixtral's folder with its weights rounded to bf16. */
static void make_folder(void) {
    vm_safetensors *st;
    vm_st_writer *w = vm_st_writer_create();
    OK(vm_make_dirs(scratch_path("bf16")));
    OK(vm_safetensors_open(golden_path("tiny-mixtral-folder/model.safetensors"), &st));
    for (size_t i = 0; i < vm_safetensors_count(st); i++) {
        const vm_st_tensor *t = vm_safetensors_at(st, i);
        float *values = vm_malloc(t->size, 1);
        OK(vm_safetensors_read_f32(st, t->name, t->n_dims, t->shape, values));
        OK(vm_st_writer_f32(w, t->name, "BF16", t->n_dims, t->shape, values));
        vm_free(values);
    }
    OK(vm_st_writer_save(w, in_folder("model.safetensors")));
    vm_st_writer_free(w);
    vm_safetensors_free(st);
    copy_file("config.json", NULL, NULL);
    copy_file("tokenizer.json", NULL, NULL);
}

static vmoer_status convert(void) {
    vmoer_convert_params p = vmoer_convert_params_default();
    p.model = scratch_path("bf16");
    p.output_path = scratch_path("bf16.gguf");
    return vmoer_convert(&p, NULL, NULL);
}

static void test_types(void **state) {
    (void)state;
    vm_gguf *folder, *file;
    uint32_t type;
    OK(convert());
    OK(vm_gguf_open(scratch_path("bf16"), &folder));
    OK(vm_gguf_open(scratch_path("bf16.gguf"), &file));
    assert_int_equal(vm_gguf_tensor_count(folder), vm_gguf_tensor_count(file));
    for (size_t i = 0; i < vm_gguf_tensor_count(file); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(file, i), *from = vm_gguf_find_tensor(folder, t->name);
        bool exact = t->n_dims > 1 && !strstr(t->name, "ffn_gate_inp");
        size_t rows = (size_t)(t->ne[1] * t->ne[2] * t->ne[3]), cols = (size_t)t->ne[0];
        float *a = vm_malloc(rows * cols, sizeof *a), *b = vm_malloc(rows * cols, sizeof *b);
        assert_int_equal(from->type, VM_BF16);
        assert_int_equal(t->type, exact ? VM_BF16 : VM_F32);
        assert_true(vm_gguf_read_rows(t, 0, rows, a) && vm_gguf_read_rows(from, 0, rows, b));
        assert_memory_equal(a, b, rows * cols * sizeof *a);
        vm_free(a);
        vm_free(b);
    }
    OK(vm_gguf_get_u32(file, "general.file_type", &type));
    assert_int_equal(type, 32);
    vm_gguf_free(folder);
    vm_gguf_free(file);
}

/* Without its last tokens the vocabulary is smaller than the embedding. */
static void test_filled_up(void **state) {
    (void)state;
    vm_gguf *g;
    const char *text;
    size_t length;
    int32_t type;
    copy_file("tokenizer.json", ",\n      \"\xc4\xa0Q\": 271", "");
    /* And its merge. */
    vm_map map;
    OK(vm_map_open(in_folder("tokenizer.json"), &map));
    const char merge[] = ",\n      [\n        \"\xc4\xa0\",\n        \"Q\"\n      ]";
    const char *data = (const char *)map.data, *at = memmem(data, map.size, merge, strlen(merge));
    assert_non_null(at);
    char *less = vm_malloc(map.size, 1);
    size_t before = (size_t)(at - data), after = map.size - before - strlen(merge);
    memcpy(less, data, before);
    memcpy(less + before, at + strlen(merge), after);
    vm_map_close(&map);
    OK(vm_write_file(in_folder("tokenizer.json"), less, before + after));
    vm_free(less);
    OK(convert());
    OK(vm_gguf_open(scratch_path("bf16.gguf"), &g));
    OK(vm_gguf_array_string(g, "tokenizer.ggml.tokens", VOCAB - 1, &text, &length));
    assert_int_equal(length, 8);
    assert_memory_equal(text, "[PAD271]", 8);
    OK(vm_gguf_array_i32(g, "tokenizer.ggml.token_type", VOCAB - 1, &type));
    assert_int_equal(type, 5);
    vm_gguf_free(g);
    copy_file("tokenizer.json", NULL, NULL);
}

static void refused(const char *old, const char *new, vmoer_status code, const char *says) {
    copy_file("tokenizer.json", old, new);
    vmoer_status status = convert();
    if (status != code || !strstr(vm_error_text(), says))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, status, vm_error_text());
    copy_file("tokenizer.json", NULL, NULL);
}

static void test_refused(void **state) {
    (void)state;
    refused("\"lstrip\": false", "\"lstrip\": true", VMOER_ERROR_UNSUPPORTED,
            "\"<|endoftext|>\" has lstrip, rstrip or single_word");
    refused("\"single_word\": false", "\"single_word\": true", VMOER_ERROR_UNSUPPORTED,
            "\"<|endoftext|>\" has lstrip, rstrip or single_word");
    refused("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", VMOER_ERROR_UNSUPPORTED,
            "none that a GGUF is written with");
    refused("\"ignore_merges\": false", "\"ignore_merges\": true", VMOER_ERROR_UNSUPPORTED,
            "none that a GGUF is written with");
    refused("\"\xc4\xa0Q\": 271", "\"\xc4\xa0Q\": 271, \"more\": 272", VMOER_ERROR_FORMAT,
            "273 tokens, the model has 272");
}

static int prepare(void **state) {
    (void)state;
    make_folder();
    return 0;
}

static int clean(void **state) {
    (void)state;
    static const char *const names[] = {"model.safetensors", "config.json", "tokenizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_folder(names[i]));
    unlink(scratch_path("bf16.gguf"));
    return rmdir(scratch_path("bf16"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types), cmocka_unit_test(test_filled_up),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, prepare, clean);
}
