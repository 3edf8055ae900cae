/* test_info.c: what vmoer_info says of files that cannot be run: what stands in them, and why not. */
#include "model_fixture.h"

#include "base/json.h"
#include "vmoer/vmoer.h"

/* A file of an architecture that is not read, with a tensor of a type that is not either. */
static const char *write_strange(void) {
    static const uint8_t data[66]; /* a block of IQ2_XXS */
    static char text[300];
    const char *path = scratch_path("strange.gguf");
    vm_gguf_writer *w = vm_gguf_writer_create();
    memset(text, 'a', sizeof text - 1);
    OK(vm_gguf_writer_string(w, "general.architecture", "grok"));
    OK(vm_gguf_writer_string(w, "general.name", "a name"));
    OK(vm_gguf_writer_u32(w, "grok.block_count", 64));
    OK(vm_gguf_writer_f32(w, "grok.final_logit_softcapping", 30));
    OK(vm_gguf_writer_f32(w, "grok.none", NAN));
    OK(vm_gguf_writer_bool(w, "grok.flag", true));
    OK(vm_gguf_writer_string(w, "grok.text", "short"));
    OK(vm_gguf_writer_string(w, "grok.long", text));
    OK(vm_gguf_writer_string(w, "grok.bytes", "\xff"));
    OK(vm_gguf_writer_i32s(w, "grok.list", 1, (int32_t[]){1}));
    OK(vm_gguf_writer_u32(w, "grokked.block_count", 1));
    OK(vm_gguf_writer_tensor(w, "blk.0.a.weight", 16, 2, (int64_t[]){256, 1}, data));
    OK(vm_gguf_writer_tensor(w, "blk.0.b.weight", 16, 2, (int64_t[]){256, 1}, data));
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    return path;
}

static json_t *info_of(const char *path) {
    char *text;
    json_t *root;
    OK(vmoer_info(path, &text));
    OK(vm_json_parse(text, strlen(text), "info", &root));
    vmoer_free(text);
    return root;
}

static void assert_text(const json_t *value, const char *begin) {
    const char *text = json_string_value(value);
    if (!text || strncmp(text, begin, strlen(begin)) != 0) fail_msg("\"%s\" expected, got \"%s\"", begin, text);
}

static void a_file_of_an_unread_architecture(void **state) {
    (void)state;
    const char *path = write_strange();
    json_t *o = info_of(path);
    const json_t *missing = json_object_get(o, "missing");
    json_t *metadata = json_pack("{s:i, s:f, s:n, s:b, s:s}", "grok.block_count", 64, "grok.final_logit_softcapping",
                                 30.0, "grok.none", "grok.flag", 1, "grok.text", "short");
    assert_true(json_equal(json_object_get(o, "metadata"), metadata));
    assert_text(json_object_get(o, "architecture"), "grok");
    assert_text(json_object_get(o, "name"), "a name");
    assert_int_equal(json_integer_value(json_object_get(o, "tensors")), 2);
    assert_true(json_number_value(json_object_get(o, "parameters")) == 512);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "types"), "IQ2_XXS")), 2);
    assert_int_equal(json_array_size(missing), 3);
    assert_text(json_array_get(missing, 0), "blk.0.a.weight: type IQ2_XXS is not supported (F32, ");
    assert_text(json_array_get(missing, 1),
                "general.architecture 'grok' is not supported: it has soft-capped logits, norms after each half, GELU "
                "experts; supported are llama");
    assert_non_null(strstr(json_string_value(json_array_get(missing, 2)), "tokenizer.ggml.model"));
    json_decref(metadata);
    json_decref(o);
    unlink(path);
}

/* What is wrong, and not only unknown, stays an error. */
static void a_wrong_file(void **state) {
    (void)state;
    const char *path = scratch_path("wrong.gguf");
    char *text = NULL;
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_writer_string(w, "general.architecture", "llama"));
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    assert_int_equal(vmoer_info(path, &text), VMOER_ERROR_FORMAT);
    assert_non_null(strstr(vm_error_text(), "wrong.gguf: token_embd.weight: missing tensor"));
    assert_null(text);
    unlink(path);
    assert_int_equal(vmoer_info(path, &text), VMOER_ERROR_IO);
    assert_int_equal(vmoer_info(NULL, &text), VMOER_ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_file_of_an_unread_architecture),
                                       cmocka_unit_test(a_wrong_file)};
    return cmocka_run_group_tests_name("info", tests, NULL, NULL);
}
