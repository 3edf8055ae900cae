/* tokenizer_json_write.c: a vocabulary as Hugging Face's tokenizer.json. What tokenizer_json.c reads of it is the
 * vocabulary again. */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include <stdio.h>
#include <string.h>

#define SPACE_MARK "\u2581"

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory for tokenizer.json"); }

static json_t *text_of(vm_slice s) {
    return json_stringn(s.text, s.length);
} /* UTF-8: vm_tokenizer_build has checked */

/* A token that only fills the vocabulary up to the embedding, as vm_vocabulary_put_keys writes it. */
static bool is_filler(const vm_vocabulary *v, size_t id) {
    char text[32];
    size_t length = (size_t)snprintf(text, sizeof text, "[PAD%zu]", id);
    return v->types[id] == VM_TOKEN_UNUSED && v->tokens[id].length == length &&
           memcmp(v->tokens[id].text, text, length) == 0;
}

/* ---- tokens and merges ---- */

static vmoer_status put_merges(const vm_vocabulary *v, const vm_tokenizer *t, json_t *merges) {
    vm_merge *list = v->merges;
    size_t n = v->n_merges;
    vmoer_status status = VMOER_OK;
    if (v->scores) VM_TRY(vm_tokenizer_list_merges(t, v, &list, &n));
    for (size_t i = 0; i < n && status == VMOER_OK; i++)
        if (json_array_append_new(merges, json_pack("[o, o]", text_of(list[i].left), text_of(list[i].right))) != 0)
            status = no_memory();
    if (v->scores) vm_free(list);
    return status;
}

/* All of them, also those that are no part of the model's vocabulary (VM_ADDED_OUTSIDE): Hugging Face takes the ids of
 * such added tokens not from the file but in turn, behind the largest one of the vocabulary. */
static vmoer_status put_vocabulary(const vm_vocabulary *v, json_t *vocab) {
    for (size_t id = 0; id < v->size; id++) {
        const vm_slice s = v->tokens[id];
        if (!s.text || is_filler(v, id)) continue;
        if (json_object_setn_new(vocab, s.text, s.length, json_integer((json_int_t)id)) != 0) return no_memory();
    }
    return VMOER_OK;
}

static vmoer_status put_added(const vm_vocabulary *v, json_t *added) {
    for (size_t id = 0; id < v->size; id++) {
        bool user = v->types[id] == VM_TOKEN_USER, control = v->types[id] == VM_TOKEN_CONTROL;
        if (!v->tokens[id].text || !(user || control || v->types[id] == VM_TOKEN_UNKNOWN)) continue;
        json_t *token = json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                                  text_of(v->tokens[id]), "single_word", v->flags[id] & VM_ADDED_WORD, "lstrip",
                                  v->flags[id] & VM_ADDED_LSTRIP, "rstrip", v->flags[id] & VM_ADDED_RSTRIP,
                                  "normalized", v->flags[id] & VM_ADDED_NORMALIZED, "special", !user);
        if (json_array_append_new(added, token) != 0) return no_memory();
    }
    return VMOER_OK;
}

/* ---- what happens to a text before and behind ---- */

static json_t *replace_json(const char *from, const char *to) {
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content", to);
}

static json_t *normalizer_json(const vm_steps *steps) {
    if (steps->count == 0) return json_null();
    json_t *list = json_array();
    for (size_t i = 0; i < steps->count; i++) {
        const vm_step *step = &steps->list[i];
        json_array_append_new(list, step->kind == VM_STEP_NFC ? json_pack("{s:s}", "type", "NFC")
                                    : step->kind == VM_STEP_PREPEND
                                        ? json_pack("{s:s, s:s}", "type", "Prepend", "prepend", step->to)
                                        : replace_json(step->from, step->to));
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
}

static json_t *decoder_json(const vm_rules *r) {
    if (r->alphabet == VM_ALPHABET_BYTES)
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1,
                         "use_regex", 1);
    json_t *list =
        json_pack("[o, {s:s}, {s:s}]", replace_json(SPACE_MARK, " "), "type", "ByteFallback", "type", "Fuse");
    if (r->strips_space)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", list);
}

/* BOS in front. */
static json_t *post_processor_json(const vm_vocabulary *v) {
    if (!v->rules.adds_bos) return json_null();
    const vm_slice bos = v->tokens[v->rules.bos];
    const char *name = bos.text;
    size_t n = bos.length;
    return json_pack(
        "{s:s, s:[{s:{s:s%, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:s%, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}], s:o}", "type",
        "TemplateProcessing", "single", "SpecialToken", "id", name, n, "type_id", 0, "Sequence", "id", "A", "type_id",
        0, "pair", "SpecialToken", "id", name, n, "type_id", 0, "Sequence", "id", "A", "type_id", 0, "Sequence", "id",
        "B", "type_id", 1, "special_tokens",
        json_pack("{s%:{s:s%, s:[i], s:[s%]}}", name, n, "id", name, n, "ids", v->rules.bos, "tokens", name, n));
}

/* added, vocab and merges are taken. */
static json_t *whole(const vm_vocabulary *v, json_t *added, json_t *vocab, json_t *merges) {
    const vm_rules *r = &v->rules;
    json_t *unknown = r->unknown >= 0 ? text_of(v->tokens[r->unknown]) : json_null();
    json_t *model =
        json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token", unknown,
                  "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", r->fuses_unknown, "byte_fallback",
                  r->byte_fallback, "ignore_merges", r->keeps_words, "vocab", vocab, "merges", merges);
    return json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", added, "normalizer", normalizer_json(&r->normalizer), "pre_tokenizer",
                     vm_pretokenizer_to_json(r), "post_processor", post_processor_json(v), "decoder", decoder_json(r),
                     "model", model);
}

vmoer_status vm_vocabulary_to_json(const vm_vocabulary *v, json_t **out) {
    vm_tokenizer *t = NULL;
    json_t *added = json_array(), *vocab = json_object(), *merges = json_array();
    vmoer_status status;
    *out = NULL;
    VM_GOTO(added && vocab && merges ? VMOER_OK : no_memory());
    VM_GOTO(vm_tokenizer_build(v, &t)); /* which checks it */
    VM_GOTO(put_merges(v, t, merges));
    VM_GOTO(put_vocabulary(v, vocab));
    VM_GOTO(put_added(v, added));
    *out = whole(v, json_incref(added), json_incref(vocab), json_incref(merges));
    VM_GOTO(*out ? VMOER_OK : no_memory());
done:
    json_decref(added);
    json_decref(vocab);
    json_decref(merges);
    vm_tokenizer_free(t);
    return status;
}
