/* verify.c: a model, and with it an adapter and a router, read to the last byte: opened as any job opens them, with
 * nothing kept of the weights. */
#include "api/internal.h"

#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "io/chat_template.h"

#include <string.h>

/* Tensors that the architecture has no place for: they change no answer. */
static json_t *unused_of(const vm_model *m) {
    json_t *names = json_array();
    for (size_t i = 0; i < vm_gguf_tensor_count(m->file); i++)
        if (!m->used[i]) json_array_append_new(names, json_string(vm_gguf_tensor_at(m->file, i)->name));
    return names;
}

static vmoer_status check_template(const vm_gguf *g, bool *has) {
    static const char key[] = "tokenizer.chat_template";
    const char *text;
    size_t length;
    vm_chat_template *t;
    *has = vm_gguf_has_key(g, key);
    if (!*has) return VMOER_OK;
    VM_TRY(vm_gguf_get_string(g, key, &text, &length));
    VM_TRY_IN(vm_chat_template_parse(text, length, &t), "%s", key);
    vm_chat_template_free(t);
    return VMOER_OK;
}

typedef struct bytes_of {
    const vm_gguf *g;
    size_t at;
} bytes_of;

static const uint8_t *next_bytes(void *context, size_t *size) {
    bytes_of *b = context;
    const uint8_t *bytes = vm_gguf_bytes(b->g, b->at, size);
    if (bytes) b->at += *size;
    return bytes;
}

static json_t *named(const char *name, const char *fingerprint) {
    return fingerprint[0] ? json_pack("{s:s, s:s}", "name", name, "sha256", fingerprint) : json_null();
}

static vmoer_status check(const vmoer_verify_params *p, const vm_session *s, char **out_json) {
    const vm_model *m = s->model;
    const vm_gguf *g = m->file;
    size_t tokens = vm_tokenizer_size(s->tokenizer);
    char sha256[65];
    bool template;
    VM_TRY_IN(check_template(g, &template), "%s", p->model);
    vm_sha256_pieces(next_bytes, &(bytes_of){.g = g}, sha256);
    json_t *router = s->router ? named(vm_router_get_config(s->router)->kind, s->router_fingerprint) : json_null();
    json_t *result =
        json_pack("{s:{s:s, s:s, s:s, s:I, s:I, s:o, s:i, s:i, s:b}, s:o, s:o}", "model", "name", m->config.name,
                  "architecture", m->config.arch->name, "sha256", sha256, "bytes", (json_int_t)vm_gguf_file_size(g),
                  "tensors", (json_int_t)vm_gguf_tensor_count(g), "unused", unused_of(m), "vocabulary",
                  m->config.n_vocab, "tokens", (int)tokens, "chat_template", template, "adapter",
                  named(s->adapter_name, s->adapter_fingerprint), "router", router);
    return vm_api_return_json(result, out_json);
}

vmoer_status vmoer_verify(const vmoer_verify_params *p, char **out_json) {
    vm_session *s;
    if (!p->model) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    vm_session_options o = {
        .adapter = p->adapter, .router = p->router, .inference = -1, .threads = p->threads, .check_only = true};
    VM_TRY(vm_session_open(p->model, &o, &s));
    vmoer_status status = check(p, s, out_json);
    vm_session_free(s);
    return status;
}
