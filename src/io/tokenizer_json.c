/* tokenizer_json.c: the vocabulary in Hugging Face's tokenizer.json. A file says what its tokenizer does, so what is
 * not known here is refused by its name; nothing is guessed. Truncation and padding, which are settings of a call, play
 * no part. */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *type_of(const json_t *part) {
    const char *type = json_string_value(json_object_get(part, "type"));
    return type ? type : "";
}
static bool is_type(const json_t *part, const char *type) { return strcmp(type_of(part), type) == 0; }

static vmoer_status unsupported(const char *key, const json_t *value) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    vmoer_status status = vm_error(VMOER_ERROR_UNSUPPORTED, "%s: %.200s is not known", key, text ? text : "its value");
    free(text);
    return status;
}

/* ---- the pre-tokenizer ---- */
#define END "\x1f" /* of a stage; in no pattern */
#define SPLIT(pattern) "Split " pattern END
#define DIGITS "Digits" END
#define BYTES "ByteLevel" END
#define BYTES_GPT2 "ByteLevel with its regex" END
#define SPACE_MARK "\u2581"

/* What a pre_tokenizer is put down as, stage by stage, and what it then is; the patterns as the files have them. */
static const struct {
    const char *stages;
    vm_pretokenizer kind;
} known[] = {
    {BYTES_GPT2, VM_PRETOKENIZER_GPT2},
    {DIGITS BYTES_GPT2, VM_PRETOKENIZER_SMOLLM},
    {SPLIT("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s"
           "*[\\r\\n]+|\\s+(?!\\S)|\\s+") BYTES,
     VM_PRETOKENIZER_QWEN2},
    {SPLIT("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]"
           "*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+") BYTES,
     VM_PRETOKENIZER_LLAMA3},
    {SPLIT("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'"
           "re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}"
           "\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+"
           "(?!\\S)|\\s+") BYTES,
     VM_PRETOKENIZER_O200K},
    {SPLIT("[\r\n]")
         SPLIT("\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
               "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
               "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-"
               "\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
               "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-"
               "\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
               "\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
               "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
               "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-"
               "\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0"
               "-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+")
             SPLIT("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+") SPLIT("\\s+$")
                 SPLIT("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+") DIGITS BYTES,
     VM_PRETOKENIZER_DEEPSEEK_LLM},
    {SPLIT("\\p{N}{1,3}") SPLIT("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+")
         SPLIT("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?"
               "[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+") BYTES,
     VM_PRETOKENIZER_DEEPSEEK_V3},
};

enum { MAX_STAGES_TEXT = 4096 };
typedef struct stages_text {
    char text[MAX_STAGES_TEXT];
    size_t size;
} stages_text;

static bool put(stages_text *s, const char *text) {
    size_t length = strlen(text);
    if (length >= sizeof s->text - s->size) return false;
    memcpy(s->text + s->size, text, length + 1);
    s->size += length;
    return true;
}

/* Puts one stage down; false: it is of no kind that is known. */
static bool put_stage(stages_text *s, const json_t *stage) {
    if (is_type(stage, "Split")) {
        const char *regex = json_string_value(json_object_get(json_object_get(stage, "pattern"), "Regex"));
        const char *behavior = json_string_value(json_object_get(stage, "behavior"));
        bool isolates =
            behavior && strcmp(behavior, "Isolated") == 0 && !json_is_true(json_object_get(stage, "invert"));
        return regex && isolates && put(s, "Split ") && put(s, regex) && put(s, END);
    }
    if (is_type(stage, "Digits")) return json_is_true(json_object_get(stage, "individual_digits")) && put(s, DIGITS);
    if (!is_type(stage, "ByteLevel") || !json_is_false(json_object_get(stage, "add_prefix_space"))) return false;
    return put(s, json_is_false(json_object_get(stage, "use_regex")) ? BYTES : BYTES_GPT2);
}

/* SentencePiece's spaces. */
static vmoer_status read_metaspace(const json_t *pre, vm_rules *rules) {
    const char *mark = json_string_value(json_object_get(pre, "replacement"));
    const char *scheme = json_string_value(json_object_get(pre, "prepend_scheme"));
    const json_t *split = json_object_get(pre, "split");
    bool first = scheme && strcmp(scheme, "first") == 0, always = scheme && strcmp(scheme, "always") == 0;
    bool known_scheme = first || always || (scheme && strcmp(scheme, "never") == 0);
    if (!mark || strcmp(mark, SPACE_MARK) != 0 || !known_scheme || !json_is_boolean(split))
        return unsupported("pre_tokenizer", pre);
    vm_steps_add(&rules->spaces, VM_STEP_REPLACE, " ", SPACE_MARK);
    if (first || always) vm_steps_add(&rules->spaces, first ? VM_STEP_LEAD_FIRST : VM_STEP_LEAD, "", SPACE_MARK);
    rules->pretokenizer = json_is_true(split) ? VM_PRETOKENIZER_METASPACE : VM_PRETOKENIZER_NONE;
    return VMOER_OK;
}

vmoer_status vm_pretokenizer_from_json(const json_t *pre, vm_rules *rules) {
    stages_text s = {.size = 0};
    const json_t *list = is_type(pre, "Sequence") ? json_object_get(pre, "pretokenizers") : NULL;
    size_t n = list ? json_array_size(list) : 1;
    rules->alphabet = VM_ALPHABET_CHARACTERS;
    rules->pretokenizer = VM_PRETOKENIZER_NONE;
    if (!pre || json_is_null(pre)) return VMOER_OK;
    if (is_type(pre, "Metaspace")) return read_metaspace(pre, rules);
    rules->alphabet = VM_ALPHABET_BYTES;
    for (size_t i = 0; i < n; i++) {
        const json_t *stage = list ? json_array_get(list, i) : pre;
        if (!put_stage(&s, stage)) return unsupported("pre_tokenizer", stage);
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].stages, s.text) == 0) {
            rules->pretokenizer = known[i].kind;
            return VMOER_OK;
        }
    }
    return unsupported("pre_tokenizer", pre);
}

static json_t *stage_json(const char *stage, size_t length) {
    bool gpt2 = length == sizeof BYTES_GPT2 - 2 && memcmp(stage, BYTES_GPT2, length) == 0;
    if (gpt2 || (length == sizeof BYTES - 2 && memcmp(stage, BYTES, length) == 0))
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                         "use_regex", gpt2);
    if (length == sizeof DIGITS - 2 && memcmp(stage, DIGITS, length) == 0)
        return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    const size_t name = sizeof "Split " - 1;
    return json_pack("{s:s, s:{s:s%}, s:s, s:b}", "type", "Split", "pattern", "Regex", stage + name, length - name,
                     "behavior", "Isolated", "invert", 0);
}

json_t *vm_pretokenizer_to_json(const vm_rules *rules) {
    if (rules->alphabet == VM_ALPHABET_CHARACTERS) {
        const vm_step *lead = rules->spaces.count == 2 ? &rules->spaces.list[1] : NULL;
        const char *scheme = !lead ? "never" : lead->kind == VM_STEP_LEAD_FIRST ? "first" : "always";
        if (rules->spaces.count == 0) return json_null();
        return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", SPACE_MARK, "prepend_scheme",
                         scheme, "split", rules->pretokenizer == VM_PRETOKENIZER_METASPACE);
    }
    size_t i = 0;
    while (known[i].kind != rules->pretokenizer) i++; /* BYTES has one of them */
    json_t *list = json_array();
    for (const char *at = known[i].stages, *end; *at; at = end + 1) {
        end = strchr(at, *END);
        if (json_array_append_new(list, stage_json(at, (size_t)(end - at))) != 0) break;
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

/* ---- normalizer and decoder ---- */

/* {"String": text}; NULL: a pattern of another kind */
static const char *pattern_text(const json_t *part) {
    return json_string_value(json_object_get(json_object_get(part, "pattern"), "String"));
}

static vmoer_status read_normalizer(const json_t *part, vm_steps *steps) {
    bool known_part = false;
    if (!part || json_is_null(part)) return VMOER_OK;
    if (is_type(part, "Sequence")) {
        const json_t *list = json_object_get(part, "normalizers");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *step = json_array_get(list, i);
            if (is_type(step, "Sequence")) return unsupported("normalizer", part);
            VM_TRY(read_normalizer(step, steps));
        }
        return json_is_array(list) ? VMOER_OK : unsupported("normalizer", part);
    }
    if (is_type(part, "NFC")) {
        known_part = vm_steps_add(steps, VM_STEP_NFC, "", "");
    } else if (is_type(part, "Prepend")) {
        const char *text = json_string_value(json_object_get(part, "prepend"));
        known_part = text && vm_steps_add(steps, VM_STEP_PREPEND, "", text);
    } else if (is_type(part, "Replace")) {
        const char *from = pattern_text(part), *to = json_string_value(json_object_get(part, "content"));
        known_part = from && to && vm_steps_add(steps, VM_STEP_REPLACE, from, to);
    }
    return known_part ? VMOER_OK : unsupported("normalizer", part);
}

/* SentencePiece's: U+2581 is a space, bytes are bytes, all are one text, which may lose a space at its start. */
static vmoer_status read_decoder(const json_t *decoder, vm_rules *rules) {
    if (rules->alphabet == VM_ALPHABET_BYTES) {
        bool bytes = !decoder || json_is_null(decoder) || is_type(decoder, "ByteLevel");
        return bytes ? VMOER_OK : unsupported("decoder", decoder);
    }
    const json_t *list = is_type(decoder, "Sequence") ? json_object_get(decoder, "decoders") : NULL;
    const json_t *replace = json_array_get(list, 0), *strip = json_array_get(list, 3);
    const char *from = pattern_text(replace), *to = json_string_value(json_object_get(replace, "content"));
    bool is_known = json_array_size(list) >= 3 && json_array_size(list) <= 4 && is_type(replace, "Replace") && from &&
                    strcmp(from, SPACE_MARK) == 0 && to && strcmp(to, " ") == 0 &&
                    is_type(json_array_get(list, 1), "ByteFallback") && is_type(json_array_get(list, 2), "Fuse");
    if (strip) {
        const char *content = json_string_value(json_object_get(strip, "content"));
        is_known = is_known && is_type(strip, "Strip") && content && strcmp(content, " ") == 0 &&
                   json_integer_value(json_object_get(strip, "start")) == 1 &&
                   json_integer_value(json_object_get(strip, "stop")) == 0;
    }
    rules->strips_space = strip;
    return is_known ? VMOER_OK : unsupported("decoder", decoder ? decoder : json_null());
}

/* ---- the rest ---- */
static vmoer_status check_model(const json_t *root, const json_t **model) {
    *model = json_object_get(root, "model");
    if (!json_is_object(*model)) return vm_error(VMOER_ERROR_FORMAT, "no model, or it is no object");
    if (!is_type(*model, "BPE"))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "model.type is \"%.64s\"; only \"BPE\" is known", type_of(*model));
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        const json_t *value = json_object_get(*model, off[i]);
        const char *text = json_string_value(value);
        if (!value || json_is_null(value) || json_is_false(value) || (text && !*text)) continue;
        char key[64];
        snprintf(key, sizeof key, "model.%s", off[i]);
        return unsupported(key, value);
    }
    return VMOER_OK;
}

static vmoer_status read_rules(const json_t *root, const json_t *model, vm_rules *rules) {
    VM_TRY(read_normalizer(json_object_get(root, "normalizer"), &rules->normalizer));
    VM_TRY(vm_pretokenizer_from_json(json_object_get(root, "pre_tokenizer"), rules));
    VM_TRY(read_decoder(json_object_get(root, "decoder"), rules));
    rules->keeps_words = json_is_true(json_object_get(model, "ignore_merges"));
    rules->fuses_unknown = json_is_true(json_object_get(model, "fuse_unk"));
    rules->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    if (rules->byte_fallback && rules->alphabet == VM_ALPHABET_BYTES)
        return unsupported("with ByteLevel, model.byte_fallback", json_true());
    return VMOER_OK;
}

/* Puts a text at its id. The same text again at the same id is an added token that the vocabulary has, too. */
static vmoer_status put_token(vm_vocabulary *v, const char *key, const json_t *id, const char *text, size_t length) {
    json_int_t at = json_is_integer(id) ? json_integer_value(id) : -1;
    if (at < 0 || at >= (json_int_t)v->size)
        return vm_error(VMOER_ERROR_FORMAT, "%s: \"%.64s\" has no id from 0 to %zu", key, text, v->size - 1);
    vm_slice *token = &v->tokens[at];
    if (token->text && (token->length != length || memcmp(token->text, text, length) != 0))
        return vm_error(VMOER_ERROR_FORMAT, "%s: \"%.64s\" and \"%.64s\" have the same id", key, token->text, text);
    *token = (vm_slice){text, length};
    return VMOER_OK;
}

static vmoer_status put_added(vm_vocabulary *v, const json_t *vocab, const json_t *added, size_t i) {
    const json_t *token = json_array_get(added, i), *content = json_object_get(token, "content");
    char key[64];
    if (!json_is_string(content)) return vm_error(VMOER_ERROR_FORMAT, "added_tokens[%zu]: no content", i);
    const json_t *id = json_object_get(token, "id");
    snprintf(key, sizeof key, "added_tokens[%zu]", i);
    VM_TRY(put_token(v, key, id, json_string_value(content), json_string_length(content)));
    json_int_t at = json_integer_value(id);
    v->types[at] = json_is_true(json_object_get(token, "special")) ? VM_TOKEN_CONTROL : VM_TOKEN_USER;
    static const struct {
        const char *name;
        uint8_t flag;
    } flags[] = {{"normalized", VM_ADDED_NORMALIZED},
                 {"lstrip", VM_ADDED_LSTRIP},
                 {"rstrip", VM_ADDED_RSTRIP},
                 {"single_word", VM_ADDED_WORD}};
    for (size_t k = 0; k < sizeof flags / sizeof *flags; k++)
        if (json_is_true(json_object_get(token, flags[k].name))) v->flags[at] |= flags[k].flag;
    if (!json_object_get(vocab, json_string_value(content))) v->flags[at] |= VM_ADDED_OUTSIDE;
    return VMOER_OK;
}

/* One more than the largest id there is. Ids may be missing, but not so many that a small file fills the memory. */
static vmoer_status count_ids(const char *tokens_key, const json_t *vocab, const json_t *added, size_t *size) {
    enum { MAX_MISSING = 65536 };
    const char *text;
    json_t *id;
    json_int_t largest = -1;
    size_t most = json_object_size(vocab) + json_array_size(added) + MAX_MISSING;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id) {
        if (json_integer_value(id) > largest) largest = json_integer_value(id);
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        id = json_object_get(json_array_get(added, i), "id");
        if (json_integer_value(id) > largest) largest = json_integer_value(id);
    }
    if (largest >= (json_int_t)most)
        return vm_error(VMOER_ERROR_LIMIT, "%s: an id of %lld, at most %zu with so few tokens", tokens_key,
                        (long long)largest, most - 1);
    *size = (size_t)(largest + 1);
    return VMOER_OK;
}

/* The token for what has none; it is one of the model's own. */
static vmoer_status read_unknown(vm_vocabulary *v, const json_t *model, const json_t *vocab) {
    const json_t *name = json_object_get(model, "unk_token");
    if (!name || json_is_null(name)) return VMOER_OK;
    const json_t *id = json_is_string(name) ? json_object_get(vocab, json_string_value(name)) : NULL;
    if (!id) return vm_error(VMOER_ERROR_FORMAT, "model.unk_token: not in %s", v->tokens_key);
    v->rules.unknown = (int32_t)json_integer_value(id);
    return VMOER_OK;
}

static vmoer_status read_tokens(vm_vocabulary *v, const json_t *root, const json_t *model) {
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    const json_t *added = json_object_get(root, "added_tokens");
    if (!json_is_object(vocab)) return vm_error(VMOER_ERROR_FORMAT, "model.vocab: no object");
    if (!json_is_array(merges)) return vm_error(VMOER_ERROR_FORMAT, "model.merges: no array");
    size_t size;
    VM_TRY(count_ids(v->tokens_key, vocab, added, &size));
    VM_TRY(vm_vocabulary_init(v, size, json_array_size(merges)));
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
        VM_TRY(put_token(v, v->tokens_key, id, text, strlen(text)));
    for (size_t i = 0; i < json_array_size(added); i++) VM_TRY(put_added(v, vocab, added, i));
    VM_TRY(read_unknown(v, model, vocab));
    for (size_t rank = 0; rank < v->n_merges; rank++) {
        const json_t *merge = json_array_get(merges, rank), *left = json_array_get(merge, 0),
                     *right = json_array_get(merge, 1);
        if (json_is_string(merge)) {
            VM_TRY(vm_vocabulary_merge(v, rank, json_string_value(merge), json_string_length(merge)));
        } else if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right)) {
            v->merges[rank] = (vm_merge){{json_string_value(left), json_string_length(left)},
                                         {json_string_value(right), json_string_length(right)}};
        } else {
            return vm_error(VMOER_ERROR_FORMAT, "%s: merge %zu is not two tokens", v->merges_key, rank);
        }
    }
    return VMOER_OK;
}

/* The id that a template's token stands for, which is BOS. */
static vmoer_status read_bos(vm_vocabulary *v, const json_t *post, const char *name) {
    const json_t *ids = json_object_get(json_object_get(json_object_get(post, "special_tokens"), name), "ids"),
                 *first = json_array_get(ids, 0);
    json_int_t id = json_array_size(ids) == 1 && json_is_integer(first) ? json_integer_value(first) : -1;
    if (id < 0 || id >= (json_int_t)v->size || !v->tokens[id].text)
        return vm_error(VMOER_ERROR_FORMAT, "post_processor: special_tokens: \"%.64s\" is not one token with an id",
                        name);
    v->rules.bos = (int32_t)id;
    v->rules.adds_bos = true;
    return VMOER_OK;
}

/* A text with at most a token in front. */
static vmoer_status read_template(vm_vocabulary *v, const json_t *post) {
    const json_t *single = json_object_get(post, "single");
    size_t n = json_array_size(single);
    const char *text =
        json_string_value(json_object_get(json_object_get(json_array_get(single, n - 1), "Sequence"), "id"));
    const char *name =
        json_string_value(json_object_get(json_object_get(json_array_get(single, 0), "SpecialToken"), "id"));
    bool is_known = n >= 1 && n <= 2 && text && strcmp(text, "A") == 0 && (n == 1 || (name && !v->rules.adds_bos));
    if (!is_known) return unsupported("post_processor: single", single ? single : json_null());
    return n == 2 ? read_bos(v, post, name) : VMOER_OK;
}

/* ByteLevel's changes offsets only. */
static vmoer_status read_post(vm_vocabulary *v, const json_t *post) {
    if (!post || json_is_null(post) || is_type(post, "ByteLevel")) return VMOER_OK;
    return is_type(post, "TemplateProcessing") ? read_template(v, post) : unsupported("post_processor", post);
}

static vmoer_status read_posts(vm_vocabulary *v, const json_t *post) {
    if (!is_type(post, "Sequence")) return read_post(v, post);
    const json_t *list = json_object_get(post, "processors");
    for (size_t i = 0; i < json_array_size(list); i++) VM_TRY(read_post(v, json_array_get(list, i)));
    return json_is_array(list) ? VMOER_OK : unsupported("post_processor", post);
}

vmoer_status vm_vocabulary_from_json(const json_t *root, vm_vocabulary *v) {
    *v = (vm_vocabulary){.tokens_key = "model.vocab", .merges_key = "model.merges"};
    const json_t *model;
    VM_TRY(check_model(root, &model));
    VM_TRY(read_rules(root, model, &v->rules));
    VM_TRY(read_tokens(v, root, model));
    return read_posts(v, json_object_get(root, "post_processor"));
}

vmoer_status vm_tokenizer_from_json(const json_t *root, vm_tokenizer **out) {
    vm_vocabulary v;
    vmoer_status status = vm_vocabulary_from_json(root, &v);
    if (status == VMOER_OK) status = vm_tokenizer_build(&v, out);
    vm_vocabulary_free(&v);
    return status;
}
