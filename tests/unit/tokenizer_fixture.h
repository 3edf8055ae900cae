/* tokenizer_fixture.h: what the tests of tokenizers share: golden files and vocabularies made byte by byte. */
#ifndef TOKENIZER_FIXTURE_H
#define TOKENIZER_FIXTURE_H

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/pretokenize.h"
#include "io/tokenizer_internal.h"
#include "io/unicode.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static inline void golden_path(char out[4096], const char *name) {
    const char *root = getenv("VMOER_TESTS") ? getenv("VMOER_TESTS") : VMOER_TESTS_DIR;
    snprintf(out, 4096, "%s/golden/%s", root, name);
}

static inline vm_tokenizer *open_tokenizer(const char *path) {
    vm_gguf *g;
    vm_tokenizer *t = NULL;
    assert_int_equal(vm_gguf_open(path, &g), VMOER_OK);
    if (vm_tokenizer_open(g, &t) != VMOER_OK) fail_msg("%s", vm_error_text());
    vm_gguf_free(g);
    return t;
}

static inline vm_tokenizer *open_tiny(void) {
    char path[4096];
    golden_path(path, "vocab_smollm.gguf");
    return open_tokenizer(path);
}

static inline size_t from_hex(const char *hex, char *out) {
    if (strcmp(hex, "-") == 0) return 0;
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return n;
}

/* Every line: the same ids. Decoding gives the text back where the vocabulary has every byte. */
static inline void compare_with_golden(const vm_tokenizer *t, const char *name, bool round_trip, size_t least) {
    char path[4096], *line = NULL;
    golden_path(path, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t capacity = 0, lines = 0;
    while (getline(&line, &capacity, f) > 0) {
        char *rest, *field = strtok_r(line, " \n", &rest);
        bool special = strcmp(field, "1") == 0;
        field = strtok_r(NULL, " \n", &rest);
        char *text = malloc(strlen(field) + 1), *back;
        size_t length = from_hex(field, text), back_length, n = 0;
        vm_ids ids = {0};
        assert_int_equal(vm_tokenizer_encode(t, text, length, special, &ids), VMOER_OK);
        while ((field = strtok_r(NULL, " \n", &rest))) {
            if (n >= ids.count || ids.ids[n] != atoi(field))
                fail_msg("%s line %zu: id %zu differs", name, lines + 1, n);
            n++;
        }
        assert_int_equal(n, ids.count);
        if (round_trip) {
            assert_int_equal(vm_tokenizer_decode(t, ids.ids, ids.count, true, &back, &back_length), VMOER_OK);
            assert_int_equal(back_length, length);
            assert_memory_equal(back, text, length);
            assert_int_equal(back[length], 0);
            vm_free(back);
        }
        vm_ids_free(&ids);
        free(text);
        lines++;
    }
    free(line);
    fclose(f);
    assert_true(lines > least);
}

/* ---- vocabularies made here, byte by byte ---- */
typedef struct file {
    uint8_t bytes[8192];
    size_t size;
} file;

static inline void put(file *f, const void *data, size_t size) {
    assert_true(f->size + size <= sizeof f->bytes);
    memcpy(f->bytes + f->size, data, size);
    f->size += size;
}
static inline void put_u32(file *f, uint32_t v) { put(f, &v, 4); }
static inline void put_u64(file *f, uint64_t v) { put(f, &v, 8); }
static inline void put_text(file *f, const char *s) {
    put_u64(f, strlen(s));
    put(f, s, strlen(s));
}
static inline void put_strings(file *f, const char *key, const char *const *strings) {
    uint64_t n = 0;
    while (strings[n]) n++;
    put_text(f, key);
    put_u32(f, VM_GGUF_ARRAY);
    put_u32(f, VM_GGUF_STRING);
    put_u64(f, n);
    for (uint64_t i = 0; i < n; i++) put_text(f, strings[i]);
}

static inline vmoer_status parse_json(const char *text, size_t size, vm_tokenizer **t) {
    json_t *root;
    VM_TRY(vm_json_parse(text, size, "made here", &root));
    vmoer_status status = vm_tokenizer_from_json(root, t);
    json_decref(root);
    return status;
}

#endif
