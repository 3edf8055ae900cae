/* pretokenize.h: cuts text into the pieces inside which BPE merges.
 * The gpt2 pattern is  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ ; smollm first sets
 * every \p{N} apart and applies the pattern between them. Scanned by hand: every piece costs time linear in its length.
 */
#ifndef VM_IO_PRETOKENIZE_H
#define VM_IO_PRETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>

typedef enum vm_pretokenizer { VM_PRETOKENIZER_GPT2, VM_PRETOKENIZER_SMOLLM } vm_pretokenizer;

/* From GGUF's tokenizer.ggml.pre. False: a name this library does not know. */
bool vm_pretokenizer_find(const char *name, size_t length, vm_pretokenizer *out);
/* End of the piece that starts at text[start], start < length; text is valid UTF-8. */
size_t vm_pretokenize_next(vm_pretokenizer kind, const char *text, size_t length, size_t start);

#endif
