/* test_tokenizer.c: ids against Hugging Face's (tests/golden, made by tools/golden_tokens.py), round trips, cost, and
 * vocabularies that must be refused. */
#include "tokenizer_fixture.h"

#include <sys/mman.h>
#include <time.h>

static void test_golden_tiny(void **state) {
    (void)state;
    const char *const kinds[] = {"gpt2", "smollm"};
    for (int i = 0; i < 2; i++) {
        char name[64], path[4096];
        snprintf(name, sizeof name, "vocab_%s.gguf", kinds[i]);
        golden_path(path, name);
        vm_tokenizer *t = open_tokenizer(path);
        snprintf(name, sizeof name, "tokens_%s.txt", kinds[i]);
        compare_with_golden(t, name, true, 400);
        vm_tokenizer_free(t);
    }
}

static void test_golden_model(void **state) {
    (void)state;
    const char *model = getenv("VMOER_MODEL");
    if (!model || !vm_file_exists(model)) skip();
    vm_tokenizer *t = open_tokenizer(model);
    compare_with_golden(t, "tokens_smollm2.txt", false,
                        400); /* this vocabulary lacks 21 bytes, some of them in these texts */
    assert_int_equal(vm_tokenizer_size(t), 49152);
    vm_tokenizer_free(t);
}

static void test_facts(void **state) {
    (void)state;
    vm_tokenizer *t = open_tiny();
    assert_int_equal(vm_tokenizer_bos(t), 1);
    assert_int_equal(vm_tokenizer_eos(t), 2);
    assert_false(vm_tokenizer_adds_bos(t));
    assert_string_equal(vm_tokenizer_piece(t, 1), "<|im_start|>");
    assert_null(vm_tokenizer_piece(t, -1));
    assert_null(vm_tokenizer_piece(t, (int32_t)vm_tokenizer_size(t)));
    assert_true(vm_tokenizer_is_special(t, 2));
    assert_false(vm_tokenizer_is_special(t, 3)); /* user-defined */
    assert_false(vm_tokenizer_is_special(t, -1));
    vm_tokenizer_free(t);
}

static void test_special_tokens(void **state) {
    (void)state;
    vm_tokenizer *t = open_tiny();
    const char *text = "a<|im_end|><tool>>";
    vm_ids ids = {0};
    char *back;
    size_t length;
    assert_int_equal(vm_tokenizer_encode(t, text, strlen(text), true, &ids), VMOER_OK);
    assert_int_equal(ids.count, 3);
    assert_int_equal(ids.ids[1], 2);
    assert_int_equal(ids.ids[2], 4); /* the longest of <tool> and <tool>> */
    assert_int_equal(vm_tokenizer_decode(t, ids.ids, ids.count, false, &back, &length), VMOER_OK);
    assert_string_equal(back, "a<tool>>");
    vm_free(back);
    ids.count = 0;
    assert_int_equal(vm_tokenizer_encode(t, text, strlen(text), false, &ids), VMOER_OK);
    assert_true(ids.count > 5); /* a control token's text stays text; a user-defined one is always whole */
    for (size_t i = 0; i < ids.count; i++) assert_int_not_equal(ids.ids[i], 2);
    assert_int_equal(ids.ids[ids.count - 1], 4);
    vm_ids_free(&ids);
    vm_tokenizer_free(t);
}

/* Given text makes no marker, wherever it ends; the template's own beside it do. */
static void test_chat(void **state) {
    (void)state;
    vm_tokenizer *t = open_tiny();
    static const struct {
        const char *text, *given; /* given: x where a byte is somebody's */
        int control;              /* how many control tokens come of it */
    } cases[] = {{"<|im_start|>hi<|im_end|>", "                        ", 2},
                 {"<|im_start|><|im_end|><|im_end|>", "            xxxxxxxxxx          ", 2},
                 {"<|im_start|><|im_end|>", "           x          ", 1},
                 {"<|im_start|>", "x           ", 0},
                 {"<|im_<|im_end|>", "xxxxx          ", 1},
                 {"<|im_end|>", "     x    ", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = strlen(cases[i].text);
        char given[64];
        assert_int_equal(strlen(cases[i].given), length);
        for (size_t k = 0; k < length; k++) given[k] = cases[i].given[k] == 'x';
        vm_ids ids = {0};
        assert_int_equal(vm_tokenizer_encode_chat(t, cases[i].text, given, length, &ids), VMOER_OK);
        int control = 0;
        for (size_t k = 0; k < ids.count; k++) control += vm_tokenizer_is_special(t, ids.ids[k]);
        assert_int_equal(control, cases[i].control);
        vm_ids_free(&ids);
    }
    vm_tokenizer_free(t);
    /* user-defined tokens are text, but for those that look like markers; a normalizer keeps the two apart */
    for (int normalized = 0; normalized < 2; normalized++) {
        char json[2048];
        snprintf(
            json, sizeof json,
            "{\"added_tokens\":[{\"id\":3,\"content\":\"<|u|>\",\"special\":false,\"normalized\":%s},"
            "{\"id\":4,\"content\":\"<t>\",\"special\":false,\"normalized\":%s}],\"normalizer\":{\"type\":\"NFC\"},"
            "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
            "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"|\":1,\"u\":2},\"merges\":[]}}",
            normalized ? "true" : "false", normalized ? "true" : "false");
        assert_int_equal(parse_json(json, strlen(json), &t), VMOER_OK);
        static const char text[] = "<|u|><t>", all[8] = {1, 1, 1, 1, 1, 1, 1, 1}, none[8] = {0};
        vm_ids ids = {0};
        assert_int_equal(vm_tokenizer_encode_chat(t, text, all, 8, &ids), VMOER_OK);
        assert_int_equal(ids.count, 4);
        assert_int_equal(ids.ids[3], 4);
        ids.count = 0;
        assert_int_equal(vm_tokenizer_encode_chat(t, text, none, 8, &ids), VMOER_OK);
        assert_int_equal(ids.count, 2);
        ids.count = 0; /* a text that NFC changes: one given byte makes all of it given */
        assert_int_equal(vm_tokenizer_encode_chat(t, "a\u0301<|u|>", (const char[8]){1}, 8, &ids), VMOER_OK);
        assert_int_equal(ids.ids[ids.count - 1], normalized ? 1 : 3);
        vm_ids_free(&ids);
        vm_tokenizer_free(t);
    }
}

static void test_encode_appends(void **state) {
    (void)state;
    vm_tokenizer *t = open_tiny();
    vm_ids ids = {0};
    assert_int_equal(vm_tokenizer_encode(t, "hello", 5, false, &ids), VMOER_OK);
    size_t first = ids.count;
    assert_int_equal(vm_tokenizer_encode(t, "hello", 5, false, &ids), VMOER_OK);
    assert_int_equal(ids.count, 2 * first);
    assert_memory_equal(ids.ids, ids.ids + first, first * sizeof *ids.ids);
    vm_ids_free(&ids);
    vm_tokenizer_free(t);
}

static void test_invalid_utf8(void **state) {
    (void)state;
    vm_tokenizer *t = open_tiny();
    static const struct {
        const char *text;
        size_t length;
    } bad[] = {
        {"ab\x80", 3}, {"ab\xc3", 3},     {"ab\xc0\x80", 4},         {"ab\xed\xa0\x80", 5}, {"ab\xf4\x90\x80\x80", 6},
        {"ab\xff", 3}, {"ab\xe2\x82", 4}, {"ab\xf0\x80\x80\x80", 6}, {"ab\xe0\x9f\xbf", 5}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        vm_ids ids = {0};
        assert_int_equal(vm_tokenizer_encode(t, bad[i].text, bad[i].length, false, &ids), VMOER_ERROR_DATA);
        assert_non_null(strstr(vm_error_text(), "byte 2"));
        assert_int_equal(ids.count, 0);
        vm_ids_free(&ids);
    }
    int32_t wrong[2] = {5, (int32_t)vm_tokenizer_size(t)};
    char *text;
    size_t length;
    assert_int_equal(vm_tokenizer_decode(t, wrong, 2, true, &text, &length), VMOER_ERROR_ARGUMENT);
    wrong[1] = -1;
    assert_int_equal(vm_tokenizer_decode(t, wrong, 2, true, &text, &length), VMOER_ERROR_ARGUMENT);
    vm_tokenizer_free(t);
}

/* A megabyte in one piece: quadratic merging would take hours. */
static void test_long_piece(void **state) {
    (void)state;
    vm_tokenizer *t = open_tiny();
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (int c = 0; c < 2; c++) {
        memset(text, c ? ' ' : 'a', n);
        vm_ids ids = {0};
        clock_t start = clock();
        assert_int_equal(vm_tokenizer_encode(t, text, n, false, &ids), VMOER_OK);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        assert_true(seconds < 5); /* 0.1 s here; sanitizers and valgrind are slower */
        assert_true(ids.count > 0 && ids.count < n / 2);
        vm_ids_free(&ids);
    }
    free(text);
    vm_tokenizer_free(t);
}

/* 2 GiB: refused by the length alone. */
static void test_endless_text(void **state) {
    (void)state;
    vm_tokenizer *t = open_tiny();
    vm_ids ids = {0};
    size_t n = (size_t)1 << 31;
    char *text = mmap(NULL, n, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(text != MAP_FAILED);
    assert_int_equal(vm_tokenizer_encode(t, text, n, false, &ids), VMOER_ERROR_LIMIT);
    assert_string_equal(vm_error_text(), "a text of 2147483648 bytes, at most 1073741824");
    munmap(text, n);
    vm_tokenizer_free(t);
}

static vm_pretokenizer find_pretokenizer(const char *name) {
    vm_pretokenizer kind;
    bool nfc;
    if (vm_pretokenizer_find(name, strlen(name), &kind, &nfc) != VMOER_OK) fail_msg("%s", vm_error_text());
    return kind;
}

static void test_pretokenizer(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *pieces; /* cut marks: | */
    } cases[] = {
        {"gpt-2", "it's  12 we'LL", "it|'s| | 12| we|'|LL"},
        {"smollm", "it's  12 x3y", "it|'s|  |1|2| x|3|y"},
        {"olmo", "a \n\nb!? \t", "a| \n|\n|b|!?| \t"},
        {"gpt2", "'stv'vex'", "'s|tv|'ve|x|'"},
        {"refact", "a1  2b", "a|1|  |2|b"},
        {"starcoder", "a1  2b", "a|1|  |2|b"},
        {"qwen2", "we'LLx 12 (a)\n\n  b", "we|'LL|x| |1|2| (|a|)\n\n| | b"},
        {"llama-bpe", "we'LLx 1234 (a)\n\n  b", "we|'LL|x| |123|4| (|a|)\n\n| | b"},
        {"gpt-4o", "we'LLx XMLHttp/\n/a", "we'LL|x| XMLHttp|/\n/|a"},
        {"gpt-4o", "camelCaseABC's", "camel|Case|ABC's"},
        {"deepseek-v3", "a_b  c 1234!\n x", "a|_b| | c| |123|4|!\n| x"},
        {"deepseek-llm", "ab, c1\n\n d  ", "ab|,| c|1|\n|\n| d|  "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char joined[64] = "";
        vm_pieces pieces;
        vm_pieces_begin(&pieces, find_pretokenizer(cases[i].name), cases[i].text, strlen(cases[i].text));
        for (size_t start, end; vm_pieces_next(&pieces, &start, &end);) {
            if (start) strcat(joined, "|");
            strncat(joined, cases[i].text + start, end - start);
        }
        assert_string_equal(joined, cases[i].pieces);
    }
    static const char *const same[][2] = {{"llama3", "llama-bpe"},
                                          {"llama-v3", "llama-bpe"},
                                          {"llama4", "gpt-4o"},
                                          {"deepseek-r1-qwen", "qwen2"},
                                          {"default", "gpt-2"}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        assert_int_equal(find_pretokenizer(same[i][0]), find_pretokenizer(same[i][1]));
    assert_int_equal(vm_unicode_classify(0x180e), VM_UNICODE_OTHER); /* where PCRE2's \s differs */
    assert_int_equal(vm_unicode_classify(0x85), VM_UNICODE_SPACE);
    assert_int_equal(vm_unicode_classify(0x10ffff), VM_UNICODE_OTHER);
    assert_int_equal(vm_unicode_classify(0x1c5), VM_UNICODE_UPPER); /* title case */
    assert_int_equal(vm_unicode_classify('_'), VM_UNICODE_PUNCTUATION);
}

/* Every line of pieces.txt: the same cuts as the patterns themselves make. */
static void test_golden_pieces(void **state) {
    (void)state;
    char path[4096], *line = NULL;
    golden_path(path, "pieces.txt");
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t capacity = 0, lines = 0;
    while (getline(&line, &capacity, f) > 0) {
        char *rest, *name = strtok_r(line, " \n", &rest), *hex = strtok_r(NULL, " \n", &rest);
        char *text = malloc(strlen(hex));
        vm_pieces pieces;
        vm_pieces_begin(&pieces, find_pretokenizer(name), text, from_hex(hex, text));
        lines++;
        for (char *length; (length = strtok_r(NULL, " \n", &rest));) {
            size_t start, end;
            if (!vm_pieces_next(&pieces, &start, &end) || end - start != (size_t)atoi(length))
                fail_msg("pieces.txt line %zu (%s): the piece at byte %zu differs", lines, name, start);
        }
        assert_int_equal(pieces.at, pieces.length);
        free(text);
    }
    free(line);
    fclose(f);
    assert_true(lines > 1000);
}

/* No pattern goes through a megabyte of anything more than a few times. */
static void test_long_texts(void **state) {
    (void)state;
    static const char *const kinds[] = {"gpt-2",  "smollm",       "qwen2",      "llama-bpe",
                                        "gpt-4o", "deepseek-llm", "deepseek-v3"};
    static const char *const units[] = {"a",
                                        "A",
                                        "1",
                                        " ",
                                        "\n",
                                        "!",
                                        "\xe5\xad\x97",
                                        "\xcc\x81",
                                        "\xc2\xaa",
                                        "\xc2\xaa"
                                        "A",
                                        "'",
                                        " \n",
                                        "A a",
                                        "\x01",
                                        "\x01 ",
                                        " \xe2\x80\x83"};
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t size = strlen(units[u]), whole = n / size * size, sum = 0;
            for (size_t i = 0; i < whole; i++) text[i] = units[u][i % size];
            text[whole - 1] = size == 1 ? 'x' : text[whole - 1]; /* a run that something follows */
            vm_pieces pieces;
            clock_t begin = clock();
            vm_pieces_begin(&pieces, find_pretokenizer(kinds[k]), text, whole);
            for (size_t start, end; vm_pieces_next(&pieces, &start, &end); sum += end - start) assert_true(end > start);
            double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
            assert_int_equal(sum, whole);
            if (seconds > 5)
                fail_msg("%s, \"%s\": %g s", kinds[k], units[u],
                         seconds); /* here at most .1 s; sanitizers and valgrind are slower */
        }
    }
    free(text);
}

/* ---- vocabularies made here ---- */
typedef struct vocabulary {
    const char *model, *pre;
    const char *const *tokens, *const *merges;
    const int32_t *types;
    size_t n_types;
    uint32_t eos;
    const char *flag; /* a key that is true; NULL: none */
} vocabulary;

static vmoer_status load(const vocabulary *v, vm_tokenizer **out) {
    static file f;
    f.size = 0;
    put(&f, "GGUF", 4);
    put_u32(&f, 3);
    put_u64(&f, 0);
    put_u64(&f, 4 + (v->merges != NULL) + (v->types != NULL) + (v->flag != NULL));
    put_text(&f, "tokenizer.ggml.model");
    put_u32(&f, VM_GGUF_STRING);
    put_text(&f, v->model);
    put_text(&f, "tokenizer.ggml.pre");
    put_u32(&f, VM_GGUF_STRING);
    put_text(&f, v->pre);
    put_strings(&f, "tokenizer.ggml.tokens", v->tokens);
    if (v->merges) put_strings(&f, "tokenizer.ggml.merges", v->merges);
    if (v->types) {
        put_text(&f, "tokenizer.ggml.token_type");
        put_u32(&f, VM_GGUF_ARRAY);
        put_u32(&f, VM_GGUF_I32);
        put_u64(&f, v->n_types);
        put(&f, v->types, v->n_types * 4);
    }
    put_text(&f, "tokenizer.ggml.eos_token_id");
    put_u32(&f, VM_GGUF_U32);
    put_u32(&f, v->eos);
    if (v->flag) {
        put_text(&f, v->flag);
        put_u32(&f, VM_GGUF_BOOL);
        put(&f, "\1", 1);
    }
    vm_gguf *g;
    if (vm_gguf_open_memory(f.bytes, f.size, "made here", &g) != VMOER_OK) fail_msg("%s", vm_error_text());
    vmoer_status status = vm_tokenizer_open(g, out);
    vm_gguf_free(g);
    return status;
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_TEXTS ((const char *const[]){NULL})

/* A piece that is a token: llama3 takes it as it is, the others merge. Special tokens are no words. */
static void test_whole_words(void **state) {
    (void)state;
    static const char *const names[] = {"llama-bpe", "qwen2", "gpt-2"};
    for (int i = 0; i < 3; i++) {
        const vocabulary v = {"gpt2",
                              names[i],
                              TEXTS("a", "b", "\u0120", "ab", "\u0120ab", "ba"),
                              TEXTS("a b"),
                              (int32_t[]){1, 1, 1, 1, 1, 3},
                              6,
                              5,
                              false};
        vm_tokenizer *t;
        assert_int_equal(load(&v, &t), VMOER_OK);
        vm_ids ids = {0};
        assert_int_equal(vm_tokenizer_encode(t, " ab", 3, false, &ids), VMOER_OK);
        if (i == 0) {
            assert_int_equal(ids.count, 1);
            assert_int_equal(ids.ids[0], 4);
        } else {
            assert_int_equal(ids.count, 2);
            assert_int_equal(ids.ids[0], 2);
            assert_int_equal(ids.ids[1], 3);
        }
        ids.count = 0;
        assert_int_equal(vm_tokenizer_encode(t, "ba", 2, false, &ids), VMOER_OK);
        assert_int_equal(ids.count, 2);
        vm_ids_free(&ids);
        vm_tokenizer_free(t);
    }
}

static void test_refused_vocabularies(void **state) {
    (void)state;
    const vocabulary good = {"gpt2", "gpt2", TEXTS("a", "b", "ab", "<s>"), TEXTS("a b"), (int32_t[]){1, 1, 1, 3}, 4,
                             3,      false};
    vm_tokenizer *t;
    assert_int_equal(load(&good, &t), VMOER_OK);
    vm_ids ids = {0};
    assert_int_equal(vm_tokenizer_encode(t, "abc", 3, false, &ids), VMOER_OK);
    assert_int_equal(ids.count, 1); /* the vocabulary has no c: it vanishes, as in the oracle */
    assert_int_equal(ids.ids[0], 2);
    vm_ids_free(&ids);
    vm_tokenizer_free(t);

    char endless[300];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
/* The good vocabulary with one member changed is refused with this code and these words. */
#define BAD(code, words, ...)                                                                                \
    do {                                                                                                     \
        vocabulary v = good;                                                                                 \
        v.__VA_ARGS__;                                                                                       \
        assert_int_equal(load(&v, &t), VMOER_ERROR_##code);                                                  \
        if (!strstr(vm_error_text(), words)) fail_msg("\"%s\" does not say \"%s\"", vm_error_text(), words); \
    } while (0)
    BAD(UNSUPPORTED, "\"bert\"", model = "bert");
    BAD(UNSUPPORTED, "tokenizer.ggml.pre is \"qwen\"; known are gpt2, ", pre = "qwen");
    BAD(UNSUPPORTED, ", deepseek-llm, deepseek-v3", pre = "qwen2x");
    BAD(FORMAT, "merges", merges = NULL);
    BAD(FORMAT, "tokens", tokens = NO_TEXTS);
    BAD(FORMAT, "same text", tokens = TEXTS("a", "b", "a", "<s>"));
    BAD(FORMAT, "empty", tokens = TEXTS("a", "b", "", "<s>"));
    BAD(FORMAT, "UTF-8", tokens = TEXTS("a", "b", "ab", "\xff"));
    BAD(FORMAT, "merge 0", merges = TEXTS("ab"));
    BAD(FORMAT, "merge 0", merges = TEXTS(" ab"));
    BAD(FORMAT, "merge 0", merges = TEXTS("ab "));
    BAD(FORMAT, "merge 0", merges = TEXTS("a b "));
    BAD(FORMAT, "merge 1: its result", merges = TEXTS("a b", "b a"));
    BAD(FORMAT, "left part", merges = TEXTS("c b"));
    BAD(FORMAT, "right part", merges = TEXTS("a c"));
    BAD(FORMAT, "repeats", merges = TEXTS("a b", "a b"));
    BAD(FORMAT, "3 types for 4 tokens", n_types = 3);
    BAD(FORMAT, "unknown type", types = ((int32_t[]){1, 1, 7, 3}));
    BAD(FORMAT, "unknown type", types = ((int32_t[]){1, 0, 1, 3}));
    BAD(FORMAT, "eos_token_id", eos = 4);
    BAD(FORMAT, "add_bos_token", flag = "tokenizer.ggml.add_bos_token");
    BAD(UNSUPPORTED, "add_eos_token is true", flag = "tokenizer.ggml.add_eos_token");
    BAD(LIMIT, "special token 3", tokens = TEXTS("a", "b", "ab", endless));
#undef BAD
}

/* ---- tokenizer.json ---- */
static void test_json(void **state) {
    (void)state;
    char path[4096];
    vm_tokenizer *t;
    golden_path(path, "tokenizer.json");
    vm_map map;
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    if (parse_json((const char *)map.data, map.size, &t) != VMOER_OK) fail_msg("%s", vm_error_text());
    vm_map_close(&map);
    compare_with_golden(t, "tokens_json.txt", true, 80);
    assert_true(vm_tokenizer_adds_bos(t));
    assert_string_equal(vm_tokenizer_piece(t, vm_tokenizer_bos(t)), "<|begin_of_text|>");
    assert_int_equal(vm_tokenizer_eos(t), -1);
    vm_tokenizer_free(t);
}

static void test_json_pretokenizers(void **state) {
    (void)state;
    char path[4096];
    json_t *all, *pre;
    const char *name;
    golden_path(path, "pre_tokenizers.json");
    assert_int_equal(vm_json_load(path, &all), VMOER_OK);
    assert_int_equal(json_object_size(all), 7);
    json_object_foreach(all, name, pre) {
        vm_rules rules = {0};
        if (vm_pretokenizer_from_json(pre, &rules) != VMOER_OK) fail_msg("%s: %s", name, vm_error_text());
        assert_int_equal(rules.pretokenizer, find_pretokenizer(name));
        assert_int_equal(rules.alphabet, VM_ALPHABET_BYTES);
    }
    json_decref(all);
}

/* Ids without a token, and tokens that take white space with them. */
static void test_json_added(void **state) {
    (void)state;
    static const char json[] =
        "{\"added_tokens\":[{\"id\":9,\"content\":\"<l>\",\"lstrip\":true,\"special\":true},{\"id\":7,\"content\":\"<r>"
        "\","
        "\"rstrip\":true,\"special\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_"
        "regex\":"
        "true},\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0,\"?\":4},\"merges\":[]}}";
    vm_tokenizer *t;
    if (parse_json(json, sizeof json - 1, &t) != VMOER_OK) fail_msg("%s", vm_error_text());
    assert_int_equal(vm_tokenizer_size(t), 10);
    assert_string_equal(vm_tokenizer_piece(t, 1), "");
    static const int32_t want[] = {0, 9, 4, 0, 7, 0, 4, 4};
    static const char text[] = "a \n<l> a<r>\t\u2003a\u00e9";
    vm_ids ids = {0};
    char *back;
    size_t length;
    assert_int_equal(vm_tokenizer_encode(t, text, sizeof text - 1, true, &ids), VMOER_OK);
    assert_int_equal(ids.count, 8);
    assert_memory_equal(ids.ids, want, sizeof want);
    assert_int_equal(vm_tokenizer_decode(t, (const int32_t[]){0, 1, 9, 0}, 4, true, &back, &length), VMOER_OK);
    assert_string_equal(back, "a<l>a");
    vm_free(back);
    vm_ids_free(&ids);
    vm_tokenizer_free(t);
}

static void test_refused_json(void **state) {
    (void)state;
    static const struct {
        vmoer_status code;
        const char *good, *bad, *words; /* good's first place becomes bad */
    } cases[] = {
        {VMOER_ERROR_FORMAT, "{\"version\"", "{\"version", "line 1"},
        {VMOER_ERROR_FORMAT, "\"model\"", "\"modal\"", "no model"},
        {VMOER_ERROR_UNSUPPORTED, "\"BPE\"", "\"Unigram\"", "model.type is \"Unigram\""},
        {VMOER_ERROR_UNSUPPORTED, "\"byte_fallback\":false", "\"byte_fallback\":true", "model.byte_fallback: true"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}",
         "normalizer: {\"type\":\"NFKC\"}"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}",
         "{\"type\":\"Lowercase\"}"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"b\"}", "Regex"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"too long\"}", "too long"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":"
         "\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":"
         "\"<s>\",\"ids\":[3],\"tokens\":[\"<s>\"]}}}",
         "post_processor: single: [{\"Sequence\":{\"id\":\"A\""},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"<s>\","
         "\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[3],\"tokens\":[\"<s>\"]}}}",
         "post_processor: single: [{\"SpecialToken\""},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"<s>\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[3],\"tokens\":[\"<s>\"]}"
         "}}",
         "post_processor: single"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\"}", "post_processor: single: null"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}",
         "post_processor: single: []"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":"
         "\"B\"}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[3],\"tokens\":[\"<s>\"]}}}",
         "post_processor: single"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"RobertaProcessing\"}",
         "post_processor: {\"type\":\"RobertaProcessing\"}"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"Sequence\"}", "post_processor: {\"type\":\"Sequence\"}"},
        {VMOER_ERROR_UNSUPPORTED, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":"
         "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":"
         "\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[3],\"tokens\":[\"<s>\"]}}},{"
         "\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{"
         "\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[3],\"tokens\":[\"<s>\"]}}}"
         "]}",
         "post_processor: single: [{\"SpecialToken\""},
        {VMOER_ERROR_FORMAT, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{"
         "\"id\":\"<s>\",\"ids\":[4],\"tokens\":[\"<s>\"]}}}",
         "special_tokens: \"<s>\" is not one token with an id"},
        {VMOER_ERROR_FORMAT, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{"
         "\"id\":\"<s>\",\"ids\":[3,3],\"tokens\":[\"<s>\"]}}}",
         "special_tokens: \"<s>\" is not one token"},
        {VMOER_ERROR_FORMAT, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{"
         "\"id\":\"<s>\",\"ids\":[-1],\"tokens\":[\"<s>\"]}}}",
         "special_tokens: \"<s>\" is not one token"},
        {VMOER_ERROR_FORMAT, "\"normalizer\":null",
         "\"normalizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"<t>\"}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\","
         "\"ids\":[3],\"tokens\":[\"<s>\"]}}}",
         "special_tokens: \"<t>\" is not one token"},
        {VMOER_ERROR_UNSUPPORTED, "\"pre_tokenizer\":", "\"pre_tokenizer\":null,\"x\":", "decoder: null"},
        {VMOER_ERROR_UNSUPPORTED, "\"pre_tokenizer\":",
         "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":false}"
         ",\"x\":",
         "pre_tokenizer: {\"type\":\"Metaspace\""},
        {VMOER_ERROR_UNSUPPORTED, "\"version\"", "\"decoder\":{\"type\":\"WordPiece\"},\"v\"",
         "decoder: {\"type\":\"WordPiece\"}"},
        {VMOER_ERROR_FORMAT, "\"byte_fallback\":false", "\"unk_token\":\"<unk>\"",
         "model.unk_token: not in model.vocab"},
        {VMOER_ERROR_UNSUPPORTED, "{\"type\":\"ByteLevel\"", "{\"type\":\"Metaspace\"", "Metaspace"},
        {VMOER_ERROR_UNSUPPORTED, "\"use_regex\":true", "\"use_regex\":false", "pre_tokenizer: {\"type\":\"Sequence\""},
        {VMOER_ERROR_UNSUPPORTED, "\"add_prefix_space\":false", "\"add_prefix_space\":true",
         "\"add_prefix_space\":true"},
        {VMOER_ERROR_UNSUPPORTED, "\"Digits\"", "\"Numbers\"", "Numbers"},
        {VMOER_ERROR_FORMAT, "\"vocab\":{", "\"vocab\":[],\"x\":{", "model.vocab: no object"},
        {VMOER_ERROR_FORMAT, "\"merges\":[", "\"merges\":{},\"x\":[", "model.merges: no array"},
        {VMOER_ERROR_LIMIT, "\"b\":1", "\"b\":65540", "an id of 65540, at most 65539"},
        {VMOER_ERROR_FORMAT, "\"b\":1", "\"b\":-1", "\"b\" has no id"},
        {VMOER_ERROR_FORMAT, "\"b\":1", "\"b\":1.5", "\"b\" has no id"},
        {VMOER_ERROR_FORMAT, "\"b\":1", "\"b\":2", "have the same id"},
        {VMOER_ERROR_FORMAT, "\"b\":1", "\"a\":1", "line 1"},
        {VMOER_ERROR_FORMAT, "\"content\"", "\"context\"", "added_tokens[0]: no content"},
        {VMOER_ERROR_FORMAT, "\"id\":3", "\"id\":\"3\"", "added_tokens[0]: \"<s>\" has no id"},
        {VMOER_ERROR_FORMAT, "[\"a\",\"b\"]", "[\"a\"]", "merge 0 is not two tokens"},
        {VMOER_ERROR_FORMAT, "[\"a\",\"b\"]", "\"ab\"", "merge 0 is not two tokens with a space between"},
        {VMOER_ERROR_FORMAT, "[\"a\",\"b\"]", "[\"a\",\"c\"]", "right part"},
        {VMOER_ERROR_FORMAT, "[\"a\",\"b\"]", "[\"a\",1]", "merge 0"},
    };
    static const char good[] = "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"lstrip\":false,"
                               "\"rstrip\":false,\"special\":true}],"
                               "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
                               "\"type\":\"Digits\",\"individual_digits\":true},"
                               "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]},\"model\":{"
                               "\"type\":\"BPE\",\"byte_fallback\":false,"
                               "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]}}";
    char text[2048];
    vm_tokenizer *t;
    for (size_t i = 0; i <= sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "%s", good);
        bool changes = i < sizeof cases / sizeof *cases;
        if (changes) {
            const char *place = strstr(good, cases[i].good);
            assert_non_null(place);
            snprintf(text, sizeof text, "%.*s%s%s", (int)(place - good), good, cases[i].bad,
                     place + strlen(cases[i].good));
        }
        vmoer_status status = parse_json(text, strlen(text), &t);
        assert_int_equal(status, changes ? cases[i].code : VMOER_OK);
        if (changes && !strstr(vm_error_text(), cases[i].words))
            fail_msg("\"%s\" does not say \"%s\"", vm_error_text(), cases[i].words);
    }
    assert_int_equal(vm_tokenizer_size(t), 4);
    assert_false(vm_tokenizer_adds_bos(t));
    vm_tokenizer_free(t);
}

/* What a post-processor may be; the token in front is the one its special_tokens name. */
static void test_json_post(void **state) {
    (void)state;
    static const struct {
        const char *post;
        bool adds_bos;
    } cases[] = {
        {"{\"type\":\"ByteLevel\",\"trim_offsets\":false}", false},
        {"{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}", false},
        {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":\"TemplateProcessing\",\"single\":["
         "{\"SpecialToken\":{\"id\":\"begin\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"begin\":{\"ids\":["
         "1]}}}]"
         "}",
         true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        vm_tokenizer *t;
        int n = snprintf(text, sizeof text,
                         "{\"post_processor\":%s,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                         "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}",
                         cases[i].post);
        if (parse_json(text, (size_t)n, &t) != VMOER_OK) fail_msg("%s", vm_error_text());
        assert_int_equal(vm_tokenizer_adds_bos(t), cases[i].adds_bos);
        assert_int_equal(vm_tokenizer_bos(t), cases[i].adds_bos ? 1 : -1);
        vm_tokenizer_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_tiny),    cmocka_unit_test(test_golden_model),
        cmocka_unit_test(test_chat),           cmocka_unit_test(test_facts),
        cmocka_unit_test(test_special_tokens), cmocka_unit_test(test_encode_appends),
        cmocka_unit_test(test_invalid_utf8),   cmocka_unit_test(test_long_piece),
        cmocka_unit_test(test_endless_text),   cmocka_unit_test(test_pretokenizer),
        cmocka_unit_test(test_golden_pieces),  cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_whole_words),    cmocka_unit_test(test_refused_vocabularies),
        cmocka_unit_test(test_json),           cmocka_unit_test(test_json_pretokenizers),
        cmocka_unit_test(test_refused_json),   cmocka_unit_test(test_json_added),
        cmocka_unit_test(test_json_post),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
