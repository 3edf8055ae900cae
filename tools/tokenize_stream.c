/* tokenize_stream.c: our tokenizer as a filter, for the comparison in tools/golden_tokens.py. Not installed.
 * Usage: tokenize_stream MODEL.gguf|tokenizer.json
 * Input: records of u32 length, u8 parse_special, text. Output: records of u32 count, i32 ids; count 2^32 - 1: refused;
 * then u32 length, text of the ids decoded without special tokens. */
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static vmoer_status open_tokenizer(const char *path, vm_tokenizer **out) {
    json_t *root;
    vm_gguf *gguf;
    vmoer_status status;
    if (strlen(path) > 5 && strcmp(path + strlen(path) - 5, ".json") == 0) {
        VM_TRY(vm_json_load(path, &root));
        status = vm_tokenizer_from_json(root, out);
        json_decref(root);
    } else {
        VM_TRY(vm_gguf_open(path, &gguf));
        status = vm_tokenizer_open(gguf, out);
        vm_gguf_free(gguf);
    }
    return status;
}

int main(int argc, char **argv) {
    vm_tokenizer *tokenizer;
    if (argc != 2 || open_tokenizer(argv[1], &tokenizer) != VMOER_OK) {
        fprintf(stderr, "tokenize_stream: %s\n",
                argc == 2 ? vm_error_text() : "one argument, a GGUF or a tokenizer.json");
        return 1;
    }
    uint32_t length;
    uint8_t special;
    void *text = NULL;
    size_t capacity = 0;
    vm_ids ids = {0};
    while (fread(&length, 4, 1, stdin) == 1 && fread(&special, 1, 1, stdin) == 1) {
        if (!vm_grow(&text, &capacity, (size_t)length + 1, 1) || fread(text, 1, length, stdin) != length) return 1;
        ids.count = 0;
        uint32_t count = UINT32_MAX;
        if (vm_tokenizer_encode(tokenizer, text, length, special, &ids) == VMOER_OK) count = (uint32_t)ids.count;
        fwrite(&count, 4, 1, stdout);
        if (count == UINT32_MAX) continue;
        char *back;
        size_t size;
        if (vm_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &size) != VMOER_OK) return 1;
        uint32_t back_length = (uint32_t)size;
        fwrite(ids.ids, 4, ids.count, stdout);
        fwrite(&back_length, 4, 1, stdout);
        fwrite(back, 1, size, stdout);
        vm_free(back);
    }
    vm_free(text);
    vm_ids_free(&ids);
    vm_tokenizer_free(tokenizer);
    return fflush(stdout) == 0 ? 0 : 1;
}
