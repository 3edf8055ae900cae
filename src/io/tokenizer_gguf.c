/* tokenizer_gguf.c: the vocabulary in a GGUF's metadata, tokenizer.ggml.*. */
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include <string.h>

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"
#define KEY_MERGES "tokenizer.ggml.merges"

static vmoer_status want_strings(const vm_gguf *g, const char *key, size_t *count) {
    vm_gguf_type element;
    VM_TRY(vm_gguf_get_array(g, key, &element, count));
    if (element != VM_GGUF_STRING)
        return vm_error(VMOER_ERROR_FORMAT, "%s: element type %d where %d is needed", key, (int)element,
                        VM_GGUF_STRING);
    return VMOER_OK;
}

static vmoer_status read_texts(vm_vocabulary *v, const vm_gguf *g) {
    size_t size, n_merges;
    VM_TRY(want_strings(g, KEY_TOKENS, &size));
    VM_TRY(want_strings(g, KEY_MERGES, &n_merges));
    VM_TRY(vm_vocabulary_init(v, size, n_merges));
    for (size_t id = 0; id < size; id++)
        VM_TRY(vm_gguf_array_string(g, KEY_TOKENS, id, &v->tokens[id].text, &v->tokens[id].length));
    for (size_t rank = 0; rank < n_merges; rank++) {
        const char *text;
        size_t length;
        VM_TRY(vm_gguf_array_string(g, KEY_MERGES, rank, &text, &length));
        VM_TRY(vm_vocabulary_merge(v, rank, text, length));
    }
    return VMOER_OK;
}

static vmoer_status read_types(vm_vocabulary *v, const vm_gguf *g) {
    if (!vm_gguf_has_key(g, KEY_TYPES)) return VMOER_OK;
    vm_gguf_type element;
    size_t count;
    VM_TRY(vm_gguf_get_array(g, KEY_TYPES, &element, &count));
    if (count != v->size) return vm_error(VMOER_ERROR_FORMAT, KEY_TYPES ": %zu types for %zu tokens", count, v->size);
    for (size_t id = 0; id < v->size; id++) {
        int32_t type;
        VM_TRY(vm_gguf_array_i32(g, KEY_TYPES, id, &type));
        if (type < VM_TOKEN_NORMAL || type > VM_TOKEN_LAST)
            return vm_error(VMOER_ERROR_FORMAT, KEY_TYPES ": token %zu has the unknown type %d", id, type);
        v->types[id] = (uint8_t)type;
    }
    return VMOER_OK;
}

/* An optional id; *out is -1 if the key is absent. */
static vmoer_status read_id(const vm_vocabulary *v, const vm_gguf *g, const char *key, int32_t *out) {
    uint32_t id;
    *out = -1;
    if (!vm_gguf_has_key(g, key)) return VMOER_OK;
    VM_TRY(vm_gguf_get_u32(g, key, &id));
    if (id >= v->size)
        return vm_error(VMOER_ERROR_FORMAT, "%s: id %u, the vocabulary has %zu tokens", key, id, v->size);
    *out = (int32_t)id;
    return VMOER_OK;
}

static vmoer_status read_ids(vm_vocabulary *v, const vm_gguf *g) {
    int32_t ignored;
    VM_TRY(read_id(v, g, "tokenizer.ggml.bos_token_id", &v->bos));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eos_token_id", &v->eos));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eot_token_id", &v->eot));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eom_token_id", &v->eom));
    VM_TRY(read_id(v, g, "tokenizer.ggml.unknown_token_id", &ignored));
    VM_TRY(read_id(v, g, "tokenizer.ggml.padding_token_id", &ignored));
    if (vm_gguf_has_key(g, "tokenizer.ggml.add_bos_token"))
        VM_TRY(vm_gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &v->adds_bos));
    if (v->adds_bos && v->bos < 0)
        return vm_error(VMOER_ERROR_FORMAT, "tokenizer.ggml.add_bos_token is set, tokenizer.ggml.bos_token_id is not");
    return VMOER_OK;
}

static vmoer_status read_kind(vm_vocabulary *v, const vm_gguf *g) {
    const char *name;
    size_t length;
    VM_TRY(vm_gguf_get_string(g, "tokenizer.ggml.model", &name, &length));
    if (length != 4 || memcmp(name, "gpt2", 4) != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "tokenizer.ggml.model is \"%.*s\"; only \"gpt2\" (byte-level BPE) is known",
                        (int)(length < 64 ? length : 64), name);
    VM_TRY(vm_gguf_get_string(g, "tokenizer.ggml.pre", &name, &length));
    VM_TRY(vm_pretokenizer_find(name, length, &v->pretokenizer));
    v->keeps_words = v->pretokenizer == VM_PRETOKENIZER_LLAMA3; /* no key says it; so does llama.cpp */
    return VMOER_OK;
}

vmoer_status vm_tokenizer_from_gguf(const vm_gguf *g, vm_tokenizer **out) {
    vm_vocabulary v = {.tokens_key = KEY_TOKENS, .merges_key = KEY_MERGES};
    vmoer_status status;
    VM_GOTO(read_kind(&v, g));
    VM_GOTO(read_texts(&v, g));
    VM_GOTO(read_types(&v, g));
    VM_GOTO(read_ids(&v, g));
    VM_GOTO(vm_tokenizer_build(&v, out));
done:
    vm_vocabulary_free(&v);
    return status == VMOER_OK ? status : vm_error_in(status, "%s", vm_gguf_path(g));
}
