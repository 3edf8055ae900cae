/* tokenizer_json.c: the vocabulary in Hugging Face's tokenizer.json. A file says what its tokenizer does, so what is
 * not known here is refused by its name; nothing is guessed. Decoding and the texts of added tokens are those of
 * byte-level BPE; truncation and padding, which are settings of a call, and the post-processor, but for a token it puts
 * in front, play no part. */
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
#define SPLIT(pattern) "Split " pattern "\n"
#define DIGITS "Digits\n"
#define BYTES "ByteLevel\n"
#define BYTES_GPT2 "ByteLevel with its regex\n"

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
        return regex && isolates && put(s, "Split ") && put(s, regex) && put(s, "\n");
    }
    if (is_type(stage, "Digits")) return json_is_true(json_object_get(stage, "individual_digits")) && put(s, DIGITS);
    if (!is_type(stage, "ByteLevel") || !json_is_false(json_object_get(stage, "add_prefix_space"))) return false;
    return put(s, json_is_false(json_object_get(stage, "use_regex")) ? BYTES : BYTES_GPT2);
}

vmoer_status vm_pretokenizer_from_json(const json_t *pre, vm_pretokenizer *out) {
    stages_text s = {.size = 0};
    const json_t *list = is_type(pre, "Sequence") ? json_object_get(pre, "pretokenizers") : NULL;
    size_t n = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *stage = list ? json_array_get(list, i) : pre;
        if (!put_stage(&s, stage)) return unsupported("pre_tokenizer", stage);
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].stages, s.text) == 0) {
            *out = known[i].kind;
            return VMOER_OK;
        }
    }
    return unsupported("pre_tokenizer", pre);
}

/* ---- the rest ---- */
static vmoer_status check_model(const json_t *root, const json_t **model) {
    *model = json_object_get(root, "model");
    if (!json_is_object(*model)) return vm_error(VMOER_ERROR_FORMAT, "no model, or it is no object");
    if (!is_type(*model, "BPE"))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "model.type is \"%.64s\"; only \"BPE\" is known", type_of(*model));
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                                      "fuse_unk"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        const json_t *value = json_object_get(*model, off[i]);
        const char *text = json_string_value(value);
        if (!value || json_is_null(value) || json_is_false(value) || (text && !*text)) continue;
        char key[64];
        snprintf(key, sizeof key, "model.%s", off[i]);
        return unsupported(key, value);
    }
    const json_t *normalizer = json_object_get(root, "normalizer");
    bool none = !normalizer || json_is_null(normalizer) ||
                (is_type(normalizer, "Sequence") && json_array_size(json_object_get(normalizer, "normalizers")) == 0);
    return none ? VMOER_OK : unsupported("normalizer", normalizer);
}

/* Puts a text at its id. The same text again at the same id is an added token that the vocabulary has, too. */
static vmoer_status put_token(vm_vocabulary *v, const char *key, const json_t *id, const char *text, size_t length) {
    json_int_t at = json_is_integer(id) ? json_integer_value(id) : -1;
    if (at < 0 || at >= (json_int_t)v->size)
        return vm_error(VMOER_ERROR_FORMAT, "%s: \"%.64s\" has no id from 0 to %zu, so ids are missing or taken twice",
                        key, text, v->size - 1);
    vm_slice *token = &v->tokens[at];
    if (token->text && (token->length != length || memcmp(token->text, text, length) != 0))
        return vm_error(VMOER_ERROR_FORMAT, "%s: \"%.64s\" and \"%.64s\" have the same id", key, token->text, text);
    *token = (vm_slice){text, length};
    return VMOER_OK;
}

static vmoer_status put_added(vm_vocabulary *v, const json_t *added, size_t i) {
    const json_t *token = json_array_get(added, i), *content = json_object_get(token, "content");
    static const char *const off[] = {"single_word", "lstrip", "rstrip"};
    char key[64];
    if (!json_is_string(content)) return vm_error(VMOER_ERROR_FORMAT, "added_tokens[%zu]: no content", i);
    for (size_t k = 0; k < sizeof off / sizeof *off; k++) {
        if (!json_is_true(json_object_get(token, off[k]))) continue;
        snprintf(key, sizeof key, "added_tokens[%zu]: %s", i, off[k]);
        return unsupported(key, json_object_get(token, off[k]));
    }
    const json_t *id = json_object_get(token, "id");
    snprintf(key, sizeof key, "added_tokens[%zu]", i);
    VM_TRY(put_token(v, key, id, json_string_value(content), json_string_length(content)));
    bool special = json_is_true(json_object_get(token, "special"));
    v->types[json_integer_value(id)] = special ? VM_TOKEN_CONTROL : VM_TOKEN_USER;
    return VMOER_OK;
}

/* How many tokens there are: the vocabulary's, and the added ones it does not have. */
static size_t count_tokens(const json_t *vocab, const json_t *added) {
    size_t n = json_object_size(vocab);
    for (size_t i = 0; i < json_array_size(added); i++) {
        const char *content = json_string_value(json_object_get(json_array_get(added, i), "content"));
        if (content && !json_object_get(vocab, content)) n++;
    }
    return n;
}

static vmoer_status read_tokens(vm_vocabulary *v, const json_t *root, const json_t *model) {
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    const json_t *added = json_object_get(root, "added_tokens");
    if (!json_is_object(vocab)) return vm_error(VMOER_ERROR_FORMAT, "model.vocab: no object");
    if (!json_is_array(merges)) return vm_error(VMOER_ERROR_FORMAT, "model.merges: no array");
    size_t size = count_tokens(vocab, added);
    if (size == 0) return vm_error(VMOER_ERROR_FORMAT, "model.vocab: empty");
    VM_TRY(vm_vocabulary_init(v, size, json_array_size(merges)));
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
        VM_TRY(put_token(v, v->tokens_key, id, text, strlen(text)));
    for (size_t i = 0; i < json_array_size(added); i++) VM_TRY(put_added(v, added, i));
    for (size_t at = 0; at < size; at++) {
        if (!v->tokens[at].text) return vm_error(VMOER_ERROR_FORMAT, "%s: no token has id %zu", v->tokens_key, at);
    }
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

/* The token that a TemplateProcessing puts in front of a text: BOS. */
static void read_bos(vm_vocabulary *v, const json_t *post) {
    const json_t *list = is_type(post, "Sequence") ? json_object_get(post, "processors") : NULL;
    for (size_t i = 0; i < json_array_size(list); i++) read_bos(v, json_array_get(list, i));
    const json_t *first =
        is_type(post, "TemplateProcessing") ? json_array_get(json_object_get(post, "single"), 0) : NULL;
    const char *name = json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    for (size_t id = 0; name && id < v->size; id++) {
        if (v->types[id] != VM_TOKEN_CONTROL || strcmp(v->tokens[id].text, name) != 0) continue;
        v->bos = (int32_t)id;
        v->adds_bos = true;
    }
}

vmoer_status vm_tokenizer_from_json(const json_t *root, vm_tokenizer **out) {
    vm_vocabulary v = {
        .tokens_key = "model.vocab", .merges_key = "model.merges", .bos = -1, .eos = -1, .eot = -1, .eom = -1};
    const json_t *model;
    vmoer_status status;
    VM_GOTO(check_model(root, &model));
    VM_GOTO(vm_pretokenizer_from_json(json_object_get(root, "pre_tokenizer"), &v.pretokenizer));
    v.keeps_words = json_is_true(json_object_get(model, "ignore_merges"));
    VM_GOTO(read_tokens(&v, root, model));
    read_bos(&v, json_object_get(root, "post_processor"));
    VM_GOTO(vm_tokenizer_build(&v, out));
done:
    vm_vocabulary_free(&v);
    return status;
}
