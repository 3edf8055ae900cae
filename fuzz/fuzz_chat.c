/* fuzz_chat.c: any bytes as a chat template, over a conversation with values of every kind. What it prints must be
 * UTF-8 and within the limit, and the same again; what it refuses must name a line. */
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/chat_template.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \" Be brief. \"}, {\"role\": \"user\", \"content\": "
    "\"Gr\\u00fc\\u00dfe \\ud83d\\ude00\\n\"},"
    "{\"role\": \"assistant\", \"content\": \"<think>\\nx</think> y\", \"tool_calls\": [{\"function\": {\"name\": "
    "\"f\", \"arguments\": {\"a\": [1, 2.5, null, "
    "true]}}}]}], \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"add_generation_prompt\": true, \"i\": 7, \"f\": "
    "1e22, \"nil\": null, \"d\": {\"k\": {}}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_t *variables;
    static const struct tm now = {.tm_year = 125, .tm_mon = 2, .tm_mday = 7};
    vm_chat_template *t;
    vm_chat_text text[2] = {{NULL, NULL, 0}, {NULL, NULL, 0}};
    size_t bad;
    vmoer_status status[2];
    if (!variables && vm_json_parse(conversation, sizeof conversation - 1, "conversation", &variables) != VMOER_OK)
        abort();
    if (vm_chat_template_parse((const char *)data, size, &t) != VMOER_OK) return 0;
    for (int i = 0; i < 2; i++) {
        status[i] = vm_chat_template_render(t, variables, &now, &text[i]);
        if (status[i] != VMOER_OK && strncmp(vm_error_text(), "line ", 5) != 0) abort();
    }
    size_t length = text[0].length;
    if (status[0] != status[1] || length != text[1].length) abort();
    if (status[0] == VMOER_OK) {
        if (memcmp(text[0].text, text[1].text, length) != 0 || !vm_utf8_valid(text[0].text, length, &bad)) abort();
        if (length > 16 << 20 || text[0].text[length] || memcmp(text[0].given, text[1].given, length) != 0) abort();
        for (size_t i = 0; i < length; i++) {
            if (text[0].given[i] & ~1) abort();
        }
    }
    vm_chat_text_free(&text[0]);
    vm_chat_text_free(&text[1]);
    vm_chat_template_free(t);
    return 0;
}
