/* hf_tokenizer.c: a folder's tokenizer. tokenizer.json says how text becomes ids; which tokens begin and end a text
 * stands beside it: in tokenizer_config.json by their texts, else in config.json or generation_config.json by their
 * ids. */
#include "base/status.h"
#include "io/hf_internal.h"
#include "io/tokenizer_internal.h"

#include <string.h>

static vmoer_status find_text(const json_t *config, const char *name, const vm_vocabulary *v, int32_t *out) {
    const json_t *token = json_object_get(config, name);
    if (json_is_object(token)) token = json_object_get(token, "content"); /* an added token in full */
    const char *text = json_string_value(token);
    *out = -1;
    if (!text) return VMOER_OK;
    for (size_t id = 0; id < v->size && *out < 0; id++)
        if (v->tokens[id].text && v->tokens[id].length == json_string_length(token) &&
            strcmp(v->tokens[id].text, text) == 0)
            *out = (int32_t)id;
    return *out >= 0 ? VMOER_OK
                     : vm_error(VMOER_ERROR_FORMAT, "tokenizer_config.json: %s \"%.64s\" is no token of tokenizer.json",
                                name, text);
}

static vmoer_status find_key(const vm_gguf *g, const char *key, const vm_vocabulary *v, int32_t *out) {
    uint32_t id;
    *out = -1;
    if (!vm_gguf_has_key(g, key)) return VMOER_OK;
    VM_TRY(vm_gguf_get_u32(g, key, &id));
    if (id >= v->size)
        return vm_error(VMOER_ERROR_FORMAT, "%s: id %u, tokenizer.json has %zu tokens", key, id, v->size);
    *out = (int32_t)id;
    return VMOER_OK;
}

/* eos by its text; what the ids said of it stays one of the others that end an answer, where there is room. */
static vmoer_status find_ends(const vm_gguf *g, const json_t *config, vm_vocabulary *v) {
    int32_t eos, *ends[] = {&v->rules.eos, &v->rules.eot, &v->rules.eom};
    VM_TRY(find_key(g, "tokenizer.ggml.eos_token_id", v, &v->rules.eos));
    VM_TRY(find_key(g, "tokenizer.ggml.eot_token_id", v, &v->rules.eot));
    VM_TRY(find_key(g, "tokenizer.ggml.eom_token_id", v, &v->rules.eom));
    VM_TRY(find_text(config, "eos_token", v, &eos));
    VM_TRY(find_text(config, "pad_token", v, &v->rules.pad));
    if (v->rules.pad < 0) VM_TRY(find_key(g, "tokenizer.ggml.padding_token_id", v, &v->rules.pad));
    if (eos < 0) return VMOER_OK;
    for (size_t i = 0; i < 3; i++) {
        if (*ends[i] != eos && *ends[i] >= 0) continue;
        *ends[i] = v->rules.eos;
        break;
    }
    v->rules.eos = eos;
    return VMOER_OK;
}

static vmoer_status read_vocabulary(const vm_gguf *g, const json_t *root, const json_t *config, vm_vocabulary *v) {
    VM_TRY_IN(vm_vocabulary_from_json(root, v), "tokenizer.json");
    if (json_is_true(json_object_get(config, "add_eos_token")))
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "tokenizer_config.json: add_eos_token is true: nothing is put behind a text");
    VM_TRY(find_ends(g, config, v));
    if (v->rules.adds_bos) return VMOER_OK; /* tokenizer.json has said it */
    VM_TRY(find_text(config, "bos_token", v, &v->rules.bos));
    return v->rules.bos >= 0 ? VMOER_OK : find_key(g, "tokenizer.ggml.bos_token_id", v, &v->rules.bos);
}

static vmoer_status of_folder(const vm_gguf *g, const vm_hf_folder *f,
                              vmoer_status (*use)(const vm_vocabulary *v, void *context), void *context) {
    vm_vocabulary v = {.size = 0};
    json_t *root = NULL, *config = NULL;
    vmoer_status status;
    VM_GOTO(vm_hf_json(f, "tokenizer.json", &root));
    VM_GOTO(vm_hf_tokenizer_config(f, &config));
    VM_GOTO(root ? VMOER_OK
                 : vm_error(VMOER_ERROR_UNSUPPORTED, "there is no tokenizer.json; other tokenizers are not read"));
    VM_GOTO(read_vocabulary(g, root, config, &v));
    status = use(&v, context);
done:
    vm_vocabulary_free(&v);
    json_decref(root);
    json_decref(config);
    return status;
}

static vmoer_status of_file(const vm_gguf *g, vmoer_status (*use)(const vm_vocabulary *v, void *context),
                            void *context) {
    vm_vocabulary v = {.size = 0};
    vmoer_status status = vm_vocabulary_from_gguf(g, &v);
    if (status == VMOER_OK) status = use(&v, context);
    vm_vocabulary_free(&v);
    return status;
}

vmoer_status vm_hf_with_vocabulary(const vm_gguf *g, vmoer_status (*use)(const vm_vocabulary *v, void *context),
                                   void *context) {
    const vm_hf_folder *f = vm_hf_folder_of(g);
    VM_TRY_IN(f ? of_folder(g, f, use, context) : of_file(g, use, context), "%s", vm_gguf_path(g));
    return VMOER_OK;
}

static vmoer_status build(const vm_vocabulary *v, void *context) { return vm_tokenizer_build(v, context); }

vmoer_status vm_tokenizer_open(const vm_gguf *g, vm_tokenizer **out) {
    *out = NULL;
    return vm_hf_with_vocabulary(g, build, out);
}

typedef struct key_writer {
    vm_gguf_writer *w;
    size_t n_vocab;
} key_writer;

static vmoer_status put_keys(const vm_vocabulary *v, void *context) {
    const key_writer *k = context;
    return vm_vocabulary_put_keys(v, k->n_vocab, k->w);
}

vmoer_status vm_tokenizer_copy_keys(vm_gguf_writer *w, const vm_gguf *g) {
    const vm_gguf_tensor *embedding = vm_gguf_find_tensor(g, "token_embd.weight");
    if (!vm_hf_folder_of(g) || !embedding) return VMOER_OK; /* a folder has one: its table says so */
    key_writer k = {w, (size_t)embedding->ne[1]};
    return vm_hf_with_vocabulary(g, put_keys, &k);
}
