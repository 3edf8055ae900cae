/* conversation.c: see conversation.h. */
#include "infer/conversation.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/chat_template.h"

#include <time.h>

vmoer_status vm_conversation_check(const json_t *messages) {
    size_t i;
    const json_t *message;
    if (!json_is_array(messages)) return vm_error(VMOER_ERROR_DATA, "not a list of messages");
    json_array_foreach(messages, i, message) {
        if (!json_is_string(json_object_get(message, "role")))
            return vm_error(VMOER_ERROR_DATA, "message %zu has no role", i);
    }
    return VMOER_OK;
}

static void add_token(json_t *variables, const char *name, const vm_tokenizer *t, int32_t id) {
    if (id >= 0) json_object_set_new(variables, name, json_string(vm_tokenizer_piece(t, id)));
}

/* What transformers gives a template; the names of tools and documents are not there. */
static vmoer_status render(const vm_chat_template *template, const vm_tokenizer *t, const json_t *messages, bool answer,
                           vm_chat_text *out) {
    struct tm now;
    time_t seconds = time(NULL);
    if (!localtime_r(&seconds, &now)) return vm_error(VMOER_ERROR_IO, "no local time");
    json_t *variables = json_pack("{s:O, s:b}", "messages", messages, "add_generation_prompt", (int)answer);
    if (!variables) return vm_error(VMOER_ERROR_MEMORY, "no memory for the messages");
    add_token(variables, "bos_token", t, vm_tokenizer_bos(t));
    add_token(variables, "eos_token", t, vm_tokenizer_eos(t));
    vmoer_status status = vm_chat_template_render(template, variables, &now, out);
    json_decref(variables);
    return status;
}

vmoer_status vm_conversation_tokens(const vm_gguf *g, const vm_tokenizer *t, const json_t *messages, bool answer,
                                    char **text, size_t *length, vm_ids *ids) {
    static const char key[] = "tokenizer.chat_template";
    const char *source;
    size_t size;
    vm_chat_template *template;
    vm_chat_text out = {NULL, NULL, 0};
    if (!vm_gguf_has_key(g, key)) return vm_error(VMOER_ERROR_UNSUPPORTED, "the model has no chat template (%s)", key);
    VM_TRY(vm_gguf_get_string(g, key, &source, &size));
    VM_TRY_IN(vm_chat_template_parse(source, size, &template), "%s", key);
    vmoer_status status = render(template, t, messages, answer, &out);
    if (status != VMOER_OK) vm_error_in(status, "%s", key);
    vm_chat_template_free(template);
    if (status == VMOER_OK) status = vm_tokenizer_encode_chat(t, out.text, out.given, out.length, ids);
    if (status == VMOER_OK) {
        *text = out.text;
        *length = out.length;
        out.text = NULL;
    }
    vm_chat_text_free(&out);
    return status;
}
