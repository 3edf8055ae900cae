/* tokenizer_gguf.c: the vocabulary in a GGUF's metadata, tokenizer.ggml.*. */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include <string.h>

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"
#define KEY_SCORES "tokenizer.ggml.scores"
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
    size_t size, n_merges = 0;
    VM_TRY(want_strings(g, KEY_TOKENS, &size));
    if (v->rules.alphabet == VM_ALPHABET_BYTES) VM_TRY(want_strings(g, KEY_MERGES, &n_merges));
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

static vmoer_status read_scores(vm_vocabulary *v, const vm_gguf *g) {
    vm_gguf_type element;
    size_t count;
    if (v->rules.alphabet == VM_ALPHABET_BYTES) return VMOER_OK;
    VM_TRY(vm_gguf_get_array(g, KEY_SCORES, &element, &count));
    if (count != v->size) return vm_error(VMOER_ERROR_FORMAT, KEY_SCORES ": %zu scores for %zu tokens", count, v->size);
    v->scores = vm_malloc(count, sizeof *v->scores);
    if (!v->scores) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", count);
    for (size_t id = 0; id < count; id++) VM_TRY(vm_gguf_array_f32(g, KEY_SCORES, id, &v->scores[id]));
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
        if (type < VM_TOKEN_NORMAL || type > VM_TOKEN_BYTE)
            return vm_error(VMOER_ERROR_FORMAT, KEY_TYPES ": token %zu has the unknown type %d", id, type);
        v->types[id] = (uint8_t)type;
        /* whether merges make an added token a file does not say: here as Hugging Face's of these models, there as
         * llama.cpp */
        bool added = type >= VM_TOKEN_UNKNOWN && type <= VM_TOKEN_USER;
        if (added && v->rules.alphabet == VM_ALPHABET_BYTES) v->flags[id] = VM_ADDED_OUTSIDE;
    }
    return VMOER_OK;
}

/* An optional id; *out stays what it is if the key is absent. */
static vmoer_status read_id(const vm_vocabulary *v, const vm_gguf *g, const char *key, int32_t *out) {
    uint32_t id;
    if (!vm_gguf_has_key(g, key)) return VMOER_OK;
    VM_TRY(vm_gguf_get_u32(g, key, &id));
    if (id >= v->size)
        return vm_error(VMOER_ERROR_FORMAT, "%s: id %u, the vocabulary has %zu tokens", key, id, v->size);
    *out = (int32_t)id;
    return VMOER_OK;
}

static vmoer_status read_flag(const vm_gguf *g, const char *key, bool *out) {
    return vm_gguf_has_key(g, key) ? vm_gguf_get_bool(g, key, out) : VMOER_OK;
}

/* What is not said is as llama.cpp has it. */
static vmoer_status read_ids(vm_vocabulary *v, const vm_gguf *g) {
    vm_rules *rules = &v->rules;
    bool characters = rules->alphabet == VM_ALPHABET_CHARACTERS;
    int32_t unknown = -1, ignored;
    if (characters && v->size > 2) unknown = 0, rules->bos = 1, rules->eos = 2;
    VM_TRY(read_id(v, g, "tokenizer.ggml.bos_token_id", &rules->bos));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eos_token_id", &rules->eos));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eot_token_id", &rules->eot));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eom_token_id", &rules->eom));
    VM_TRY(read_id(v, g, "tokenizer.ggml.unknown_token_id", &unknown));
    VM_TRY(read_id(v, g, "tokenizer.ggml.padding_token_id", &ignored));
    if (characters)
        rules->unknown = unknown; /* in BYTES what has no token vanishes, as in Hugging Face's of these models */
    rules->adds_bos = (characters || rules->pretokenizer == VM_PRETOKENIZER_LLAMA3) && rules->bos >= 0;
    VM_TRY(read_flag(g, "tokenizer.ggml.add_bos_token", &rules->adds_bos));
    if (rules->adds_bos && rules->bos < 0)
        return vm_error(VMOER_ERROR_FORMAT, "tokenizer.ggml.add_bos_token is set, tokenizer.ggml.bos_token_id is not");
    return VMOER_OK;
}

/* SentencePiece's, as Llama 2 and Mixtral have it: every span of text gets a space in front. */
static vmoer_status read_characters(vm_rules *rules, const vm_gguf *g) {
    bool leads = true;
    VM_TRY(read_flag(g, "tokenizer.ggml.add_space_prefix", &leads));
    rules->alphabet = VM_ALPHABET_CHARACTERS;
    rules->pretokenizer = VM_PRETOKENIZER_NONE;
    rules->byte_fallback = rules->fuses_unknown = true;
    rules->strips_space = leads;
    if (leads) vm_steps_add(&rules->normalizer, VM_STEP_PREPEND, "", "\u2581");
    vm_steps_add(&rules->normalizer, VM_STEP_REPLACE, " ", "\u2581");
    return VMOER_OK;
}

static vmoer_status read_kind(vm_rules *rules, const vm_gguf *g) {
    const char *name;
    size_t length;
    bool nfc;
    VM_TRY(vm_gguf_get_string(g, "tokenizer.ggml.model", &name, &length));
    if (length == 5 && memcmp(name, "llama", 5) == 0) return read_characters(rules, g);
    if (length != 4 || memcmp(name, "gpt2", 4) != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "tokenizer.ggml.model is \"%.*s\"; known are \"gpt2\" (byte-level BPE) and \"llama\" "
                        "(SentencePiece's BPE)",
                        (int)(length < 64 ? length : 64), name);
    VM_TRY(vm_gguf_get_string(g, "tokenizer.ggml.pre", &name, &length));
    VM_TRY(vm_pretokenizer_find(name, length, &rules->pretokenizer, &nfc));
    if (nfc) vm_steps_add(&rules->normalizer, VM_STEP_NFC, "", "");
    rules->keeps_words = rules->pretokenizer == VM_PRETOKENIZER_LLAMA3; /* no key says it; so does llama.cpp */
    return VMOER_OK;
}

vmoer_status vm_tokenizer_from_gguf(const vm_gguf *g, vm_tokenizer **out) {
    vm_vocabulary v = {.tokens_key = KEY_TOKENS, .merges_key = KEY_MERGES};
    vmoer_status status;
    VM_GOTO(read_kind(&v.rules, g));
    if (v.rules.alphabet == VM_ALPHABET_CHARACTERS) v.merges_key = KEY_SCORES;
    VM_GOTO(read_texts(&v, g));
    VM_GOTO(read_scores(&v, g));
    VM_GOTO(read_types(&v, g));
    VM_GOTO(read_ids(&v, g));
    VM_GOTO(vm_tokenizer_build(&v, out));
done:
    vm_vocabulary_free(&v);
    return status == VMOER_OK ? status : vm_error_in(status, "%s", vm_gguf_path(g));
}
