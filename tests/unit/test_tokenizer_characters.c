/* test_tokenizer_characters.c: SentencePiece's BPE (Llama 2, Mixtral): ids against llama.cpp's for a GGUF and Hugging
 * Face's for a tokenizer.json (tests/golden, made by tools/golden_tokens.py), bytes, cost, and vocabularies that must
 * be refused. */
#include "tokenizer_fixture.h"

#include <math.h>
#include <time.h>

static vm_tokenizer *open_golden(const char *name) {
    char path[4096];
    golden_path(path, name);
    if (!strstr(name, ".json")) return open_tokenizer(path);
    vm_map map;
    vm_tokenizer *t;
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    if (parse_json((const char *)map.data, map.size, &t) != VMOER_OK) fail_msg("%s", vm_error_text());
    vm_map_close(&map);
    return t;
}

static void test_golden(void **state) {
    (void)state;
    static const char *const files[][2] = {{"vocab_spm.gguf", "tokens_spm.txt"},
                                           {"tokenizer_mixtral.json", "tokens_spm-mixtral.txt"},
                                           {"tokenizer_added.json", "tokens_spm-added.txt"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        vm_tokenizer *t = open_golden(files[i][0]);
        compare_with_golden(t, files[i][1], false, 250);
        assert_true(vm_tokenizer_adds_bos(t));
        assert_string_equal(vm_tokenizer_piece(t, vm_tokenizer_bos(t)), "<s>");
        vm_tokenizer_free(t);
    }
}

static void check_decoded(const vm_tokenizer *t, const char *text, bool special, bool keep, const char *want) {
    vm_ids ids = {0};
    char *back;
    size_t length;
    assert_int_equal(vm_tokenizer_encode(t, text, strlen(text), special, &ids), VMOER_OK);
    assert_int_equal(vm_tokenizer_decode(t, ids.ids, ids.count, keep, &back, &length), VMOER_OK);
    assert_string_equal(back, want);
    vm_free(back);
    vm_ids_free(&ids);
}

static void test_decode(void **state) {
    (void)state;
    static const char *const files[] = {"vocab_spm.gguf", "tokenizer_mixtral.json"};
    for (size_t i = 0; i < 2; i++) {
        vm_tokenizer *t = open_golden(files[i]);
        check_decoded(t, "Hello  world \u4e16\U0001f600\n", false, true, "Hello  world \u4e16\U0001f600\n");
        check_decoded(t, " a", false, true, " a");
        check_decoded(t, "<s>a</s>b", true, true, "<s> a</s> b"); /* every span of text begins with a space */
        check_decoded(t, "<s>a</s>b", true, false, "a b");
        check_decoded(t, "", false, true, "");
        vm_tokenizer_free(t);
    }
}

/* A megabyte in one piece, of tokens that merge in runs and of none. */
static void test_long_piece(void **state) {
    (void)state;
    static const char *const files[] = {"vocab_spm.gguf", "tokenizer_mixtral.json"};
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t i = 0; i < 2; i++) {
        vm_tokenizer *t = open_golden(files[i]);
        for (const char *c = "a= q\x01"; *c; c++) {
            vm_ids ids = {0};
            memset(text, *c, n);
            clock_t start = clock();
            assert_int_equal(vm_tokenizer_encode(t, text, n, false, &ids), VMOER_OK);
            double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
            if (seconds > 5)
                fail_msg("%d: %g s", *c, seconds); /* at most .3 s here; sanitizers and valgrind are slower */
            assert_true(ids.count > 0 && ids.count <= n + 1);
            vm_ids_free(&ids);
        }
        vm_tokenizer_free(t);
    }
    free(text);
}

/* ---- vocabularies made here ---- */
typedef struct scored {
    const char *const *tokens;
    const int32_t *types; /* one a token */
    const float *scores;
    size_t n_scores;
    int adds_space; /* -1: not said */
} scored;

static vmoer_status load_scored(const scored *v, vm_tokenizer **out) {
    static file f;
    size_t n = 0;
    f.size = 0;
    while (v->tokens[n]) n++;
    put(&f, "GGUF", 4);
    put_u32(&f, 3);
    put_u64(&f, 0);
    put_u64(&f, 3 + (v->n_scores > 0) + (v->adds_space >= 0));
    put_text(&f, "tokenizer.ggml.model");
    put_u32(&f, VM_GGUF_STRING);
    put_text(&f, "llama");
    put_strings(&f, "tokenizer.ggml.tokens", v->tokens);
    put_text(&f, "tokenizer.ggml.token_type");
    put_u32(&f, VM_GGUF_ARRAY);
    put_u32(&f, VM_GGUF_I32);
    put_u64(&f, n);
    put(&f, v->types, n * 4);
    if (v->n_scores > 0) {
        put_text(&f, "tokenizer.ggml.scores");
        put_u32(&f, VM_GGUF_ARRAY);
        put_u32(&f, VM_GGUF_F32);
        put_u64(&f, v->n_scores);
        put(&f, v->scores, v->n_scores * 4);
    }
    if (v->adds_space >= 0) {
        put_text(&f, "tokenizer.ggml.add_space_prefix");
        put_u32(&f, VM_GGUF_BOOL);
        put(&f, v->adds_space ? "\1" : "\0", 1);
    }
    vm_gguf *g;
    if (vm_gguf_open_memory(f.bytes, f.size, "made here", &g) != VMOER_OK) fail_msg("%s", vm_error_text());
    vmoer_status status = vm_tokenizer_open(g, out);
    vm_gguf_free(g);
    return status;
}

#define LIST(type, ...) ((const type[]){__VA_ARGS__})
static const scored good = {
    LIST(char *const, "<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u2581", "a", "aa", "\u2581a", "aaa", NULL),
    LIST(int32_t, 2, 3, 3, 6, 6, 1, 1, 1, 1, 1), LIST(float, 0, 0, 0, 0, 0, -9, -8, -1, -2, -3), 10, -1};

static void check_ids(const scored *v, const char *text, const int32_t *want, size_t n) {
    vm_tokenizer *t;
    vm_ids ids = {0};
    if (load_scored(v, &t) != VMOER_OK) fail_msg("%s", vm_error_text());
    assert_int_equal(vm_tokenizer_encode(t, text, strlen(text), false, &ids), VMOER_OK);
    assert_int_equal(ids.count, n);
    assert_memory_equal(ids.ids, want, n * sizeof *want);
    vm_ids_free(&ids);
    vm_tokenizer_free(t);
}

static void test_rules(void **state) {
    (void)state;
    scored v = good;
    /* the best score first, from the left; then what is left */
    check_ids(&v, "aaa", LIST(int32_t, 5, 9), 2);
    check_ids(&v, "a", LIST(int32_t, 8), 1);
    v.adds_space = 0;
    check_ids(&v, "aaaa", LIST(int32_t, 7, 7), 2);
    check_ids(&v, "a a", LIST(int32_t, 6, 8), 2);
    check_ids(&v, "\u00e9", LIST(int32_t, 3, 4), 2); /* its bytes */
    check_ids(&v, "\u00eaz\u00e9a", LIST(int32_t, 3, 4, 0, 6),
              4); /* bytes that lack, in a row: one unknown token; in Hugging Face's order */
    v.tokens =
        LIST(char *const, "<unk>", "<s>", "</s>", "<0xc3>", "<0xA9>", "\u2581", "a", "aa", "\u2581a", "aaa", NULL);
    check_ids(&v, "\u00e9", LIST(int32_t, 0), 1); /* the byte's token is written in capitals */
}

static void test_refused(void **state) {
    (void)state;
    char endless[200];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    vm_tokenizer *t;
#define BAD(code, words, ...)                                                                                \
    do {                                                                                                     \
        scored v = good;                                                                                     \
        v.__VA_ARGS__;                                                                                       \
        assert_int_equal(load_scored(&v, &t), VMOER_ERROR_##code);                                           \
        if (!strstr(vm_error_text(), words)) fail_msg("\"%s\" does not say \"%s\"", vm_error_text(), words); \
    } while (0)
#define WITH(text) \
    LIST(char *const, "<unk>", "<s>", "</s>", text, "<0xA9>", "\u2581", "a", "aa", "\u2581a", "aaa", NULL)
    BAD(FORMAT, "token 3, \"<0x-1>\", should be a byte", tokens = WITH("<0x-1>"));
    BAD(FORMAT, "token 3, \"<0xZZ>\", should be a byte", tokens = WITH("<0xZZ>"));
    BAD(FORMAT, "token 3, \"<0x100>\"", tokens = WITH("<0x100>"));
    BAD(FORMAT, "token 3, \"C3\"", tokens = WITH("C3"));
    BAD(FORMAT, "same text", tokens = WITH("<0xA9>"));
    BAD(FORMAT, "tokenizer.ggml.scores", n_scores = 0);
    BAD(FORMAT, "9 scores for 10 tokens", n_scores = 9);
    BAD(FORMAT, "the score of token 1 is no finite number", scores = LIST(float, 0, NAN, 0, 0, 0, 0, 0, 0, 0, 0));
    BAD(FORMAT, "the score of token 9 is no finite number", scores = LIST(float, 0, 0, 0, 0, 0, 0, 0, 0, 0, INFINITY));
    BAD(LIMIT, "token 6 has 199 bytes",
        tokens = LIST(char *const, "<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u2581", endless, "aa", "\u2581a",
                      "aaa", NULL));
    BAD(FORMAT, "unknown type", types = LIST(int32_t, 2, 3, 3, 6, 6, 1, 1, 1, 1, 0));
#undef BAD
#undef WITH
}

/* ---- into a GGUF ---- */

static vmoer_status through_gguf(const char *text, size_t size, vm_tokenizer **out) {
    json_t *root;
    vm_vocabulary v;
    uint8_t *bytes = NULL;
    vm_gguf *g = NULL;
    vm_gguf_writer *w = vm_gguf_writer_create();
    *out = NULL;
    assert_int_equal(vm_json_parse(text, size, "made here", &root), VMOER_OK);
    vmoer_status status = vm_vocabulary_from_json(root, &v);
    v.rules.eos = 2; /* which tokenizer_config.json says */
    if (status == VMOER_OK) status = vm_vocabulary_put_keys(&v, v.size + 3, w);
    vm_vocabulary_free(&v);
    json_decref(root);
    if (status == VMOER_OK) {
        assert_int_equal(vm_gguf_writer_header(w, &bytes, &size), VMOER_OK);
        assert_int_equal(vm_gguf_open_memory(bytes, size, "written", &g), VMOER_OK);
        if (vm_tokenizer_open(g, out) != VMOER_OK) fail_msg("%s", vm_error_text());
    }
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
    vm_free(bytes);
    return status;
}

/* A copy of tokenizer_mixtral.json with a text in place of another. */
static char *changed(const char *old, const char *new) {
    char path[4096], *text;
    golden_path(path, "tokenizer_mixtral.json");
    vm_map map;
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    const char *at = memmem(map.data, map.size, old, strlen(old));
    if (!at) fail_msg("no %s", old);
    size_t before = (size_t)(at - (const char *)map.data);
    text = calloc(1, map.size + strlen(new) + 1);
    memcpy(text, map.data, before);
    strcpy(text + before, new);
    memcpy(text + before + strlen(new), at + strlen(old), map.size - before - strlen(old));
    vm_map_close(&map);
    return text;
}

#define NORMALIZER                                                                                                    \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},{\"type\":" \
    "\"Replace\","                                                                                                    \
    "\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]},\"pre_tokenizer\":null"
#define METASPACE(scheme, split)                                                                                   \
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":" \
    "\"" scheme "\",\"split\":" split "}"

static void test_to_gguf(void **state) {
    (void)state;
    char *text = changed(NORMALIZER, NORMALIZER);
    vm_tokenizer *written, *json;
    assert_int_equal(through_gguf(text, strlen(text), &written), VMOER_OK);
    compare_with_golden(written, "tokens_spm-mixtral.txt", false, 250);
    assert_true(vm_tokenizer_adds_bos(written));
    assert_int_equal(vm_tokenizer_eos(written), 2);
    assert_true(vm_tokenizer_is_special(written, 0));
    vm_tokenizer_free(written);
    free(text);
    /* As transformers saves it by now: a space at the start of the text alone. */
    static const char *const some[] = {"a b", "<s>a</s>b",  " two  spaces", "na\xc3\xafve \xf0\x9f\x98\x80",
                                       "\n",  "the weather"};
    text = changed(NORMALIZER, METASPACE("first", "false"));
    assert_int_equal(parse_json(text, strlen(text), &json), VMOER_OK);
    if (through_gguf(text, strlen(text), &written) != VMOER_OK) fail_msg("%s", vm_error_text());
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        vm_ids a = {0}, b = {0};
        assert_int_equal(vm_tokenizer_encode(json, some[i], strlen(some[i]), true, &a), VMOER_OK);
        assert_int_equal(vm_tokenizer_encode(written, some[i], strlen(some[i]), true, &b), VMOER_OK);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.ids, b.ids, a.count * sizeof *a.ids);
        vm_ids_free(&a);
        vm_ids_free(&b);
    }
    vm_tokenizer_free(written);
    vm_tokenizer_free(json);
    free(text);
}

static void test_not_to_gguf(void **state) {
    (void)state;
    static const struct {
        const char *old, *new, *says;
    } all[] = {
        {NORMALIZER, METASPACE("first", "true"), "the normalizer, pre-tokenizer, model or special tokens"},
        {NORMALIZER, METASPACE("always", "false"), "the normalizer, pre-tokenizer, model or special tokens"},
        {"\"fuse_unk\":true", "\"fuse_unk\":false", "the normalizer, pre-tokenizer, model or special tokens"},
        {"\"byte_fallback\":true", "\"byte_fallback\":false", "the normalizer, pre-tokenizer, model or special tokens"},
        {"\"ignore_merges\":false", "\"ignore_merges\":true", "the normalizer, pre-tokenizer, model or special tokens"},
        {",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}", "",
         "the normalizer, pre-tokenizer, model or"},
        {"\"unk_token\":\"<unk>\"", "\"unk_token\":null", "the normalizer, pre-tokenizer, model or special tokens"},
        {"\"normalized\":false", "\"normalized\":true", "the added token \"<unk>\" is looked for in normalised text"},
        {"\"merges\":[", "\"merges\":[[\"<0x00>\",\"<0x01>\"],", "its result is not in the vocabulary"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char *text = changed(all[i].old, all[i].new);
        vm_tokenizer *t;
        vmoer_status status = through_gguf(text, strlen(text), &t);
        if (status == VMOER_OK || !strstr(vm_error_text(), all[i].says))
            fail_msg("%zu: got %d \"%s\"", i, status, vm_error_text());
        free(text);
    }
    /* A merge less. */
    char *text = changed(NORMALIZER, NORMALIZER), *first = strstr(text, "\"merges\":[") + strlen("\"merges\":["),
         *end = strchr(first, ']') + 1;
    vm_tokenizer *t;
    memmove(first, end + 1, strlen(end + 1) + 1);
    assert_int_equal(through_gguf(text, strlen(text), &t), VMOER_ERROR_UNSUPPORTED);
    assert_non_null(strstr(vm_error_text(), "model.merges: these merges are not those of scores"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_decode),  cmocka_unit_test(test_long_piece),
        cmocka_unit_test(test_rules),       cmocka_unit_test(test_refused), cmocka_unit_test(test_to_gguf),
        cmocka_unit_test(test_not_to_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
