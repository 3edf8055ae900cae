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
#define KEY_FIRST \
    "vmoer.tokenizer.space_prefix_first" /* of ours: add_space_prefix is of the whole text's start alone */

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

/* SentencePiece's, as Llama 2 and Mixtral have it: every span of text gets a space in front; or, which only GGUFs
 * written here say, the first alone, as transformers has it by now. */
static vmoer_status read_characters(vm_rules *rules, const vm_gguf *g) {
    bool leads = true, first = false;
    VM_TRY(read_flag(g, "tokenizer.ggml.add_space_prefix", &leads));
    VM_TRY(read_flag(g, KEY_FIRST, &first));
    rules->alphabet = VM_ALPHABET_CHARACTERS;
    rules->pretokenizer = VM_PRETOKENIZER_NONE;
    rules->byte_fallback = rules->fuses_unknown = true;
    rules->strips_space = leads;
    if (leads && !first) vm_steps_add(&rules->normalizer, VM_STEP_PREPEND, "", "\u2581");
    vm_steps_add(leads && first ? &rules->spaces : &rules->normalizer, VM_STEP_REPLACE, " ", "\u2581");
    if (leads && first) vm_steps_add(&rules->spaces, VM_STEP_LEAD_FIRST, "", "\u2581");
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

static bool is_byte(const vm_slice s) { return s.length == 6 && memcmp(s.text, "<0x", 3) == 0 && s.text[5] == '>'; }

/* tokenizer.json does not tell bytes and the unknown token from others. */
static int32_t type_of(const vm_vocabulary *v, size_t id) {
    bool characters = v->rules.alphabet == VM_ALPHABET_CHARACTERS;
    if (characters && (int32_t)id == v->rules.unknown) return VM_TOKEN_UNKNOWN;
    return characters && v->types[id] == VM_TOKEN_NORMAL && is_byte(v->tokens[id]) ? VM_TOKEN_BYTE : v->types[id];
}

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
        types[id] = own ? type_of(v, id) : VM_TOKEN_UNUSED;
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

static vmoer_status put_bytes_model(const vm_vocabulary *v, vm_arena *arena, vm_gguf_writer *w) {
    const char *pre = name_of(&v->rules);
    if (!pre)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "the normalizer, pre-tokenizer or model of tokenizer.json is none that a GGUF is written with");
    VM_TRY(vm_gguf_writer_string(w, "tokenizer.ggml.model", "gpt2"));
    VM_TRY(vm_gguf_writer_string(w, "tokenizer.ggml.pre", pre));
    return put_merges(v, arena, w);
}

/* ---- SentencePiece's ---- */

static bool is_step(const vm_step *step, vm_step_kind kind, const char *from) {
    return step->kind == kind && strcmp(step->from, from) == 0 && strcmp(step->to, "\u2581") == 0;
}

/* Whether read_characters can make these rules, and of what. */
static bool says_characters(const vm_rules *r, bool *leads, bool *first) {
    const vm_steps *n = &r->normalizer, *s = &r->spaces;
    bool plain = r->pretokenizer == VM_PRETOKENIZER_NONE && r->byte_fallback && r->fuses_unknown && !r->keeps_words;
    bool always = n->count == 2 && s->count == 0 && is_step(&n->list[0], VM_STEP_PREPEND, "");
    bool never = n->count == 1 && s->count == 0;
    *first = n->count == 0 && s->count == 2 && is_step(&s->list[1], VM_STEP_LEAD_FIRST, "");
    *leads = always || *first;
    const vm_step *replace = *first ? &s->list[0] : &n->list[always];
    return plain && (*leads || never) && is_step(replace, VM_STEP_REPLACE, " ") && r->strips_space == *leads;
}

static vmoer_status put_scores(const vm_vocabulary *v, size_t n_vocab, vm_arena *arena, vm_gguf_writer *w) {
    float *scores = vm_arena_alloc(arena, n_vocab, sizeof *scores);
    vm_tokenizer *t;
    if (!scores) return no_memory(n_vocab);
    VM_TRY(vm_tokenizer_build(v, &t));
    vmoer_status status = vm_tokenizer_score(t, v, scores);
    vm_tokenizer_free(t);
    VM_TRY(status);
    for (size_t id = v->size; id < n_vocab; id++) scores[id] = -(float)v->n_merges;
    return vm_gguf_writer_f32s(w, KEY_SCORES, n_vocab, scores);
}

static vmoer_status put_characters(const vm_vocabulary *v, size_t n_vocab, vm_arena *arena, vm_gguf_writer *w) {
    const vm_rules *r = &v->rules;
    bool leads, first;
    if (!says_characters(r, &leads, &first) || r->unknown < 0 || r->bos < 0 || r->eos < 0)
        return vm_error(
            VMOER_ERROR_UNSUPPORTED,
            "the normalizer, pre-tokenizer, model or special tokens of tokenizer.json are none that a GGUF of "
            "SentencePiece's BPE is written with");
    for (size_t id = 0; id < v->size; id++)
        if (v->flags[id] & (VM_ADDED_NORMALIZED | VM_ADDED_OUTSIDE))
            return vm_error(
                VMOER_ERROR_UNSUPPORTED,
                "the added token \"%.64s\" is looked for in normalised text, or is outside of the vocabulary, "
                "which a GGUF of SentencePiece's BPE cannot say",
                v->tokens[id].text);
    VM_TRY(vm_gguf_writer_string(w, "tokenizer.ggml.model", "llama"));
    VM_TRY(vm_gguf_writer_string(w, "tokenizer.ggml.pre", "default"));
    VM_TRY(put_scores(v, n_vocab, arena, w));
    VM_TRY(vm_gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", (uint32_t)r->unknown));
    if (first) VM_TRY(vm_gguf_writer_bool(w, KEY_FIRST, true));
    return vm_gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", leads);
}

static vmoer_status put_all(const vm_vocabulary *v, size_t n_vocab, vm_arena *arena, vm_gguf_writer *w) {
    VM_TRY(v->rules.alphabet == VM_ALPHABET_CHARACTERS ? put_characters(v, n_vocab, arena, w)
                                                       : put_bytes_model(v, arena, w));
    return put_texts(v, n_vocab, arena, w);
}

vmoer_status vm_vocabulary_put_keys(const vm_vocabulary *v, size_t n_vocab, vm_gguf_writer *w) {
    const vm_rules *r = &v->rules;
    if (v->size > n_vocab)
        return vm_error(VMOER_ERROR_FORMAT, "%s: %zu tokens, the model has %zu", v->tokens_key, v->size, n_vocab);
    for (size_t id = 0; id < v->size; id++)
        if (v->flags[id] & (VM_ADDED_LSTRIP | VM_ADDED_RSTRIP | VM_ADDED_WORD))
            return vm_error(VMOER_ERROR_UNSUPPORTED,
                            "the added token \"%.64s\" has lstrip, rstrip or single_word, which a GGUF cannot say",
                            v->tokens[id].text);
    vm_arena *arena = vm_arena_create();
    vmoer_status status = arena ? put_all(v, n_vocab, arena, w) : no_memory(n_vocab);
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
