/* tokenize_stream.c: our tokenizer as a filter, for the comparison in tools/golden_tokens.py. Not installed.
 * Usage: tokenize_stream MODEL.gguf
 * Input: records of u32 length, u8 parse_special, text. Output: records of u32 count, i32 ids; count 2^32 - 1: refused.
 */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    vm_gguf *gguf;
    vm_tokenizer *tokenizer;
    if (argc != 2 || vm_gguf_open(argv[1], &gguf) != VMOER_OK || vm_tokenizer_from_gguf(gguf, &tokenizer) != VMOER_OK) {
        fprintf(stderr, "tokenize_stream: %s\n", argc == 2 ? vm_error_text() : "one argument, a GGUF file");
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
        if (count != UINT32_MAX) fwrite(ids.ids, 4, ids.count, stdout);
    }
    vm_free(text);
    vm_ids_free(&ids);
    vm_tokenizer_free(tokenizer);
    vm_gguf_free(gguf);
    return fflush(stdout) == 0 ? 0 : 1;
}
