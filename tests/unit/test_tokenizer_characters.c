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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden), cmocka_unit_test(test_decode),  cmocka_unit_test(test_long_piece),
        cmocka_unit_test(test_rules),  cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
