/* tokenizer_gguf.c: the vocabulary in a GGUF's metadata, tokenizer.ggml.*. */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include <stdio.h>
#include <string.h>

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"
#define KEY_SCORES "tokenizer.ggml.scores"
#define KEY_MERGES "tokenizer.ggml.merges"

static vmoer_status read_texts(vm_vocabulary *v, const vm_gguf *g) {
    vm_gguf_type element;
    size_t size, n_merges = 0;
    VM_TRY(vm_gguf_get_array(g, KEY_TOKENS, &element, &size));
    if (v->rules.alphabet == VM_ALPHABET_BYTES) VM_TRY(vm_gguf_get_array(g, KEY_MERGES, &element, &n_merges));
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
    bool characters = rules->alphabet == VM_ALPHABET_CHARACTERS, adds_eos = false;
    int32_t unknown = -1;
    if (characters && v->size > 2) unknown = 0, rules->bos = 1, rules->eos = 2;
    VM_TRY(read_id(v, g, "tokenizer.ggml.bos_token_id", &rules->bos));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eos_token_id", &rules->eos));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eot_token_id", &rules->eot));
    VM_TRY(read_id(v, g, "tokenizer.ggml.eom_token_id", &rules->eom));
    VM_TRY(read_id(v, g, "tokenizer.ggml.unknown_token_id", &unknown));
    VM_TRY(read_id(v, g, "tokenizer.ggml.padding_token_id", &rules->pad));
    if (characters)
        rules->unknown = unknown; /* in BYTES what has no token vanishes, as in Hugging Face's of these models */
    rules->adds_bos = (characters || rules->pretokenizer == VM_PRETOKENIZER_LLAMA3) && rules->bos >= 0;
    VM_TRY(read_flag(g, "tokenizer.ggml.add_bos_token", &rules->adds_bos));
    if (rules->adds_bos && rules->bos < 0)
        return vm_error(VMOER_ERROR_FORMAT, "tokenizer.ggml.add_bos_token is set, tokenizer.ggml.bos_token_id is not");
    VM_TRY(read_flag(g, "tokenizer.ggml.add_eos_token", &adds_eos));
    if (adds_eos)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "tokenizer.ggml.add_eos_token is true: nothing is put behind a text");
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

vmoer_status vm_vocabulary_from_gguf(const vm_gguf *g, vm_vocabulary *v) {
    *v = (vm_vocabulary){.tokens_key = KEY_TOKENS, .merges_key = KEY_MERGES};
    VM_TRY(read_kind(&v->rules, g));
    if (v->rules.alphabet == VM_ALPHABET_CHARACTERS) v->merges_key = KEY_SCORES;
    VM_TRY(read_texts(v, g));
    VM_TRY(read_scores(v, g));
    VM_TRY(read_types(v, g));
    return read_ids(v, g);
}

/* ---- the other way ---- */

static vmoer_status no_memory(size_t n) { return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", n); }

static vmoer_status put_texts(const vm_vocabulary *v, size_t n, vm_arena *arena, vm_gguf_writer *w) {
    const char **texts = vm_arena_alloc(arena, n, sizeof(char *));
    size_t *lengths = vm_arena_alloc(arena, n, sizeof *lengths);
    int32_t *types = vm_arena_alloc(arena, n, sizeof *types);
    if (!texts || !lengths || !types) return no_memory(n);
    for (size_t id = 0; id < n; id++) {
        char unused[32];
        int length = snprintf(unused, sizeof unused, "[PAD%zu]", id); /* as llama.cpp's converter has it */
        bool own = id < v->size && v->tokens[id].text;
        texts[id] = own ? v->tokens[id].text : vm_arena_strndup(arena, unused, (size_t)length);
        lengths[id] = own ? v->tokens[id].length : (size_t)length;
        types[id] = own ? v->types[id] : VM_TOKEN_UNUSED;
        if (!texts[id]) return no_memory(n);
    }
    VM_TRY(vm_gguf_writer_strings(w, KEY_TOKENS, n, texts, lengths));
    return vm_gguf_writer_i32s(w, KEY_TYPES, n, types);
}

static vmoer_status put_merges(const vm_vocabulary *v, vm_arena *arena, vm_gguf_writer *w) {
    const char **texts = vm_arena_alloc(arena, v->n_merges, sizeof(char *));
    size_t *lengths = vm_arena_alloc(arena, v->n_merges, sizeof *lengths);
    if (!texts || !lengths) return no_memory(v->n_merges);
    for (size_t rank = 0; rank < v->n_merges; rank++) {
        const vm_merge *m = &v->merges[rank];
        char *text = vm_arena_alloc(arena, m->left.length + m->right.length + 1, 1);
        if (!text) return no_memory(v->n_merges);
        if (memchr(m->left.text, ' ', m->left.length) || memchr(m->right.text, ' ', m->right.length))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: merge %zu is of a text with a space, which a GGUF cannot say",
                            v->merges_key, rank);
        memcpy(text, m->left.text, m->left.length);
        text[m->left.length] = ' ';
        memcpy(text + m->left.length + 1, m->right.text, m->right.length);
        texts[rank] = text;
        lengths[rank] = m->left.length + m->right.length + 1;
    }
    return vm_gguf_writer_strings(w, KEY_MERGES, v->n_merges, texts, lengths);
}

/* The name of what stands before the merges; NULL: a GGUF has none for it. */
static const char *name_of(const vm_rules *r) {
    bool nfc = r->normalizer.count == 1 && r->normalizer.list[0].kind == VM_STEP_NFC;
    bool other = r->normalizer.count > (nfc ? 1 : 0) || r->spaces.count > 0 || r->alphabet != VM_ALPHABET_BYTES;
    if (other || r->keeps_words != (r->pretokenizer == VM_PRETOKENIZER_LLAMA3)) return NULL;
    return vm_pretokenizer_name(r->pretokenizer, nfc);
}

vmoer_status vm_vocabulary_put_keys(const vm_vocabulary *v, size_t n_vocab, vm_gguf_writer *w) {
    const vm_rules *r = &v->rules;
    const char *pre = name_of(r);
    if (v->size > n_vocab)
        return vm_error(VMOER_ERROR_FORMAT, "%s: %zu tokens, the model has %zu", v->tokens_key, v->size, n_vocab);
    if (!pre)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "the normalizer, pre-tokenizer or model of tokenizer.json is none that a GGUF is written with");
    for (size_t id = 0; id < v->size; id++)
        if (v->flags[id] & (VM_ADDED_LSTRIP | VM_ADDED_RSTRIP))
            return vm_error(VMOER_ERROR_UNSUPPORTED,
                            "the added token \"%.64s\" takes white space with it, which a GGUF cannot say",
                            v->tokens[id].text);
    VM_TRY(vm_gguf_writer_string(w, "tokenizer.ggml.model", "gpt2"));
    VM_TRY(vm_gguf_writer_string(w, "tokenizer.ggml.pre", pre));
    vm_arena *arena = vm_arena_create();
    vmoer_status status = arena ? put_texts(v, n_vocab, arena, w) : no_memory(n_vocab);
    if (status == VMOER_OK) status = put_merges(v, arena, w);
    vm_arena_free(arena);
    VM_TRY(status);
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", r->bos},
               {"tokenizer.ggml.eos_token_id", r->eos},
               {"tokenizer.ggml.eot_token_id", r->eot},
               {"tokenizer.ggml.eom_token_id", r->eom},
               {"tokenizer.ggml.padding_token_id", r->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id >= 0) VM_TRY(vm_gguf_writer_u32(w, ids[i].key, (uint32_t)ids[i].id));
    return vm_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", r->adds_bos);
}
