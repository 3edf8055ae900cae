/* fuzz_tokenizer.c: a vocabulary nobody vouches for, and any text under it. The input is a GGUF or a tokenizer.json,
 * then 0xff, then the text; without them the text is encoded under a small vocabulary made here, with every
 * pre-tokenizer. Encoding valid UTF-8 must work, its ids must be in range, and decode to the text (where it is
 * normalised: to that) where the vocabulary has every byte. */
#include "base/json.h"
#include "base/memory.h"
#include "io/nfc.h"
#include "io/tokenizer.h"
#include "io/unicode.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What decoding the ids of a text gives back. */
typedef enum trip {
    TRIP_NONE,      /* anything */
    TRIP_SAME,      /* the text */
    TRIP_CANONICAL, /* one of the same normal form */
    TRIP_SPACED     /* the text, its U+2581 as spaces; where no token stands for text */
} trip;

static void check_trip(trip kind, const char *text, size_t length, const char *back, size_t back_length) {
    vm_bytes want = {0}, got = {0};
    if (kind == TRIP_CANONICAL) {
        if (vm_nfc(text, length, &want) != VMOER_OK || vm_nfc(back, back_length, &got) != VMOER_OK) abort();
    } else {
        for (size_t i = 0; i < length; i++) {
            bool mark = kind == TRIP_SPACED && length - i >= 3 && memcmp(text + i, "\u2581", 3) == 0;
            if (vm_bytes_add(&want, mark ? " " : text + i, 1) != VMOER_OK) abort();
            i += mark ? 2 : 0;
        }
        if (vm_bytes_add(&got, back, back_length) != VMOER_OK) abort();
    }
    if (want.length != got.length || (got.length && memcmp(want.data, got.data, got.length) != 0)) abort();
    vm_bytes_free(&want);
    vm_bytes_free(&got);
}

static void try_text(const vm_tokenizer *t, const char *text, size_t length, trip kind) {
    size_t bad;
    bool valid = vm_utf8_valid(text, length, &bad);
    for (int special = 0; special < 3; special++) {
        vm_ids ids = {0};
        char *back, *given = calloc(length + 1, 1);
        size_t back_length, third = length / 3;
        vmoer_status status;
        if (special < 2) {
            status = vm_tokenizer_encode(t, text, length, special, &ids);
        } else { /* the middle is somebody's */
            memset(given + third, 1, third);
            status = vm_tokenizer_encode_chat(t, text, given, length, &ids);
        }
        free(given);
        if ((status == VMOER_OK) != valid) abort();
        for (size_t i = 0; i < ids.count; i++) {
            if (!vm_tokenizer_piece(t, ids.ids[i])) abort();
        }
        if (vm_tokenizer_decode(t, ids.ids, ids.count, true, &back, &back_length) != VMOER_OK) abort();
        if (valid && kind != TRIP_NONE && (kind != TRIP_SPACED || special == 0))
            check_trip(kind, text, length, back, back_length);
        vm_free(back);
        vm_ids_free(&ids);
    }
}

/* ---- the small vocabulary: every byte, a few merges, two special tokens; written as a GGUF ---- */
typedef struct buffer {
    uint8_t bytes[16384];
    size_t size;
} buffer;

static void put(buffer *b, const void *data, size_t size) {
    memcpy(b->bytes + b->size, data, size);
    b->size += size;
}
static void put_u32(buffer *b, uint32_t v) { put(b, &v, 4); }
static void put_u64(buffer *b, uint64_t v) { put(b, &v, 8); }
static void put_text(buffer *b, const char *s) {
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}
static void put_array(buffer *b, const char *key, uint32_t type, uint64_t n) {
    put_text(b, key);
    put_u32(b, VM_GGUF_ARRAY);
    put_u32(b, type);
    put_u64(b, n);
}
static void put_string(buffer *b, const char *key, const char *value) {
    put_text(b, key);
    put_u32(b, VM_GGUF_STRING);
    put_text(b, value);
}

static vm_tokenizer *small_tokenizer(const char *pre) {
    static buffer b;
    b.size = 0;
    static const char *const made[] = {"aa", "aaaa", "Ġa", "ab", "aba", "<x>", "<x>y"}; /* Ġ is the space */
    static const char *const merges[] = {"a a", "aa aa", "Ġ a", "a b", "ab a"};
    put(&b, "GGUF", 4);
    put_u32(&b, 3);
    put_u64(&b, 0);
    put_u64(&b, 5);
    put_string(&b, "tokenizer.ggml.model", "gpt2");
    put_string(&b, "tokenizer.ggml.pre", pre);
    put_array(&b, "tokenizer.ggml.tokens", VM_GGUF_STRING, 256 + 7);
    for (int byte = 0, next = 256; byte < 256; byte++) {
        bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        int code = itself ? byte : next++;
        char text[3] = {(char)code, 0, 0};
        if (code >= 0x80) text[0] = (char)(0xc0 | code >> 6), text[1] = (char)(0x80 | (code & 0x3f));
        put_text(&b, text);
    }
    for (int i = 0; i < 7; i++) put_text(&b, made[i]);
    put_array(&b, "tokenizer.ggml.token_type", VM_GGUF_I32, 256 + 7);
    for (int i = 0; i < 256 + 7; i++) put_u32(&b, i < 256 + 5 ? 1 : i == 256 + 5 ? 3 : 4);
    put_array(&b, "tokenizer.ggml.merges", VM_GGUF_STRING, 5);
    for (int i = 0; i < 5; i++) put_text(&b, merges[i]);
    vm_gguf *g;
    vm_tokenizer *t;
    if (vm_gguf_open_memory(b.bytes, b.size, "small", &g) != VMOER_OK || vm_tokenizer_open(g, &t) != VMOER_OK)
        abort();
    vm_gguf_free(g);
    return t;
}

/* SentencePiece's: every byte, a few that merge, one control token. */
static vm_tokenizer *small_characters(void) {
    static buffer b;
    static const char *const made[] = {"<unk>", "<s>",     "</s>", "\u2581", "a",           "b",
                                       "aa",    "\u2581a", "aaa",  "ab",     "\u2581\u2581"};
    enum { N = 256 + 11 };
    put(&b, "GGUF", 4);
    put_u32(&b, 3);
    put_u64(&b, 0);
    put_u64(&b, 4);
    put_string(&b, "tokenizer.ggml.model", "llama");
    put_array(&b, "tokenizer.ggml.tokens", VM_GGUF_STRING, N);
    for (int i = 0; i < 11; i++) put_text(&b, made[i]);
    for (int byte = 0; byte < 256; byte++) {
        char text[16];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        put_text(&b, text);
    }
    put_array(&b, "tokenizer.ggml.token_type", VM_GGUF_I32, N);
    for (int i = 0; i < N; i++) put_u32(&b, i == 0 ? 2 : i < 3 ? 3 : i < 11 ? 1 : 6);
    put_array(&b, "tokenizer.ggml.scores", VM_GGUF_F32, N);
    for (int i = 0; i < N; i++) put(&b, &(float){(float)-(i / 2)}, 4);
    vm_gguf *g;
    vm_tokenizer *t;
    if (vm_gguf_open_memory(b.bytes, b.size, "small", &g) != VMOER_OK || vm_tokenizer_open(g, &t) != VMOER_OK)
        abort();
    vm_gguf_free(g);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const kinds[] = {"gpt-2",  "smollm",       "qwen2",      "llama-bpe",
                                        "gpt-4o", "deepseek-llm", "deepseek-v3"};
    enum { N_KINDS = sizeof kinds / sizeof *kinds };
    static vm_tokenizer *small[N_KINDS];
    static vm_tokenizer *characters;
    for (int i = 0; i < N_KINDS && !small[i]; i++) small[i] = small_tokenizer(kinds[i]);
    if (!characters) characters = small_characters();
    const uint8_t *cut = memrchr(data, 0xff, size);
    size_t file_size = cut ? (size_t)(cut - data) : size;
    const char *text = cut ? (const char *)cut + 1 : "some text aaaa 12";
    size_t length = cut ? size - file_size - 1 : strlen(text);
    vm_tokenizer *t = NULL;
    vm_gguf *g;
    json_t *root;
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        if (vm_gguf_open_memory(data, file_size, "fuzz", &g) != VMOER_OK) return 0;
        if (vm_tokenizer_open(g, &t) != VMOER_OK) t = NULL;
        vm_gguf_free(g);
    } else if (size > 0 && data[0] == '{') {
        if (vm_json_parse((const char *)data, file_size, "fuzz", &root) != VMOER_OK) return 0;
        if (vm_tokenizer_from_json(root, &t) != VMOER_OK) t = NULL;
        json_decref(root);
    } else {
        for (int i = 0; i < N_KINDS; i++)
            try_text(small[i], (const char *)data, size, strcmp(kinds[i], "qwen2") == 0 ? TRIP_CANONICAL : TRIP_SAME);
        try_text(characters, (const char *)data, size, TRIP_SPACED);
    }
    if (t) try_text(t, text, length, TRIP_NONE);
    vm_tokenizer_free(t);
    return 0;
}
