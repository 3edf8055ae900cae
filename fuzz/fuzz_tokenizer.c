/* fuzz_tokenizer.c: a vocabulary nobody vouches for, and any text under it. The input is a GGUF or a tokenizer.json,
 * then 0xff, then the text. */
#include "base/json.h"
#include "try_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *cut = memrchr(data, 0xff, size);
    size_t file_size = cut ? (size_t)(cut - data) : size;
    const char *text = cut ? (const char *)cut + 1 : "some text aaaa 12";
    size_t length = cut ? size - file_size - 1 : strlen(text);
    vm_tokenizer *t = NULL;
    vm_gguf *g;
    json_t *root;
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        if (vm_gguf_open_memory(data, file_size, "fuzz", &g) != VMOER_OK) return 0;
        if (vm_tokenizer_open(g, &t) != VMOER_OK) t = NULL;
        vm_gguf_free(g);
    } else {
        if (vm_json_parse((const char *)data, file_size, "fuzz", &root) != VMOER_OK) return 0;
        if (vm_tokenizer_from_json(root, &t) != VMOER_OK) t = NULL;
        json_decref(root);
    }
    if (t) try_text(t, text, length, TRIP_NONE);
    vm_tokenizer_free(t);
    return 0;
}
