/* fuzz_encode.c: any text under small vocabularies made here, with every pre-tokenizer and as SentencePiece's. What
 * is decoded again must be the text (where it is normalised: that), for they have every byte. */
#include "try_text.h"
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
    for (int i = 0; i < N_KINDS; i++)
        try_text(small[i], (const char *)data, size, strcmp(kinds[i], "qwen2") == 0 ? TRIP_CANONICAL : TRIP_SAME);
    try_text(characters, (const char *)data, size, TRIP_SPACED);
    return 0;
}
