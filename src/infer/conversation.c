/* conversation.c: see conversation.h.
 *
 * A template only sees strings, and what it makes of them comes out as one text. So the messages' strings are marked
 * before: inside what looks like a special token stands a character that is in no text (one of Unicode's 32
 * noncharacters U+FDD0 to U+FDEF), and goes away when the text between the special tokens that are left is tokenized. A
 * string's end that a special token could begin with is marked too: the template's next characters do not complete it.
 */
#include "infer/conversation.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/chat_template.h"

#include <string.h>
#include <time.h>

enum { MARK = 3 }; /* bytes of a mark: ef b7 90 to ef b7 af */

typedef struct marker {
    const vm_tokenizer *tokenizer;
    char mark[MARK + 1];
    vmoer_status status;
} marker;

static bool strings_have(const json_t *value, const char *mark) {
    const char *key;
    const json_t *member;
    size_t i;
    if (json_is_string(value)) return memmem(json_string_value(value), json_string_length(value), mark, MARK) != NULL;
    if (json_is_array(value)) {
        json_array_foreach(value, i, member) if (strings_have(member, mark)) return true;
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)value, key, member) if (strings_have(member, mark)) return true;
    }
    return false;
}

/* A mark that stands nowhere yet. */
static vmoer_status choose_mark(marker *m, const json_t *messages, const char *template, size_t size) {
    for (int c = 0x90; c <= 0xaf; c++) {
        memcpy(m->mark, (char[]){(char)0xef, (char)0xb7, (char)c, 0}, MARK + 1);
        if (!strings_have(messages, m->mark) && !memmem(template, size, m->mark, MARK)) return VMOER_OK;
    }
    return vm_error(VMOER_ERROR_DATA, "the messages have all of Unicode's noncharacters U+FDD0 to U+FDEF");
}

/* The string with its marks; NULL: none is needed, or m->status says why not. */
static json_t *marked(marker *m, const char *text, size_t length) {
    char *out = vm_malloc(length ? length : 1, 1 + MARK);
    if (!out) return m->status = vm_error(VMOER_ERROR_MEMORY, "no memory for the messages"), NULL;
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        bool begins = vm_tokenizer_special_begins(m->tokenizer, text + i, length - i);
        do out[n++] = text[i];
        while (begins && i + 1 < length && ((unsigned char)text[i + 1] & 0xc0) == 0x80 && ++i); /* a whole character */
        if (begins) memcpy(out + n, m->mark, MARK), n += MARK;
    }
    json_t *string = n > length ? json_stringn(out, n) : NULL;
    if (n > length && !string) m->status = vm_error(VMOER_ERROR_MEMORY, "no memory for the messages");
    vm_free(out);
    return string;
}

/* A copy of the value, its strings marked. */
static json_t *mark_value(marker *m, const json_t *value) {
    const char *key;
    json_t *member, *copy;
    size_t i;
    if (json_is_string(value)) {
        copy = marked(m, json_string_value(value), json_string_length(value));
        return copy || m->status != VMOER_OK ? copy : json_incref((json_t *)value);
    }
    if (!json_is_array(value) && !json_is_object(value)) return json_incref((json_t *)value);
    copy = json_is_array(value) ? json_array() : json_object();
    int failed = !copy;
    if (json_is_array(value)) {
        json_array_foreach(value, i, member) if (!failed) failed = json_array_append_new(copy, mark_value(m, member));
    } else {
        json_object_foreach((json_t *)value, key, member) if (!failed) failed =
            json_object_set_new(copy, key, mark_value(m, member));
    }
    if (!failed) return copy;
    json_decref(copy);
    if (m->status == VMOER_OK) m->status = vm_error(VMOER_ERROR_MEMORY, "no memory for the messages");
    return NULL;
}

/* Copies text[length] without its marks; returns how much that is. */
static size_t unmark(const marker *m, const char *text, size_t length, char *out) {
    size_t n = 0;
    while (length > 0) {
        const char *found = memmem(text, length, m->mark, MARK);
        size_t part = found ? (size_t)(found - text) : length, taken = found ? part + MARK : part;
        memcpy(out + n, text, part);
        n += part, text += taken, length -= taken;
    }
    return n;
}

/* The ids of marked text[length], and in out[length] what it is without its marks, *n bytes. */
static vmoer_status tokenize(const marker *m, const char *text, size_t length, vm_ids *ids, char *out, size_t *n) {
    const vm_tokenizer *t = m->tokenizer;
    *n = 0;
    for (size_t start = 0, end; start < length; start = end) {
        size_t at = start;
        int32_t id = vm_tokenizer_next_special(t, text, length, &at, &end);
        size_t plain = unmark(m, text + start, at - start, out + *n);
        VM_TRY(vm_tokenizer_encode(t, out + *n, plain, false, ids));
        *n += plain;
        if (id < 0) break;
        VM_TRY(vm_ids_add(ids, id));
        memcpy(out + *n, text + at, end - at);
        *n += end - at;
    }
    return VMOER_OK;
}

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
static vmoer_status render(marker *m, const char *template, size_t size, const json_t *messages, bool answer,
                           char **text, size_t *length) {
    vm_chat_template *t;
    struct tm now;
    time_t seconds = time(NULL);
    if (!localtime_r(&seconds, &now)) return vm_error(VMOER_ERROR_IO, "no local time");
    json_t *copy = mark_value(m, messages);
    if (!copy) return m->status;
    json_t *variables = json_pack("{s:o, s:b}", "messages", copy, "add_generation_prompt", (int)answer);
    if (!variables) return vm_error(VMOER_ERROR_MEMORY, "no memory for the messages");
    add_token(variables, "bos_token", m->tokenizer, vm_tokenizer_bos(m->tokenizer));
    add_token(variables, "eos_token", m->tokenizer, vm_tokenizer_eos(m->tokenizer));
    vmoer_status status = vm_chat_template_parse(template, size, &t);
    if (status == VMOER_OK) {
        status = vm_chat_template_render(t, variables, &now, text, length);
        vm_chat_template_free(t);
    }
    json_decref(variables);
    return status;
}

vmoer_status vm_conversation_tokens(const vm_gguf *g, const vm_tokenizer *t, const json_t *messages, bool answer,
                                    char **text, size_t *length, vm_ids *ids) {
    static const char key[] = "tokenizer.chat_template";
    const char *template;
    size_t size, rendered_length;
    char *rendered;
    marker m = {.tokenizer = t};
    if (!vm_gguf_has_key(g, key)) return vm_error(VMOER_ERROR_UNSUPPORTED, "the model has no chat template (%s)", key);
    VM_TRY(vm_gguf_get_string(g, key, &template, &size));
    VM_TRY(choose_mark(&m, messages, template, size));
    VM_TRY_IN(render(&m, template, size, messages, answer, &rendered, &rendered_length), "%s", key);
    *text = vm_malloc(rendered_length + 1, 1);
    vmoer_status status = *text ? tokenize(&m, rendered, rendered_length, ids, *text, length)
                                : vm_error(VMOER_ERROR_MEMORY, "no memory for the messages");
    vm_free(rendered);
    if (status == VMOER_OK)
        (*text)[*length] = '\0';
    else
        vm_free(*text);
    return status;
}
