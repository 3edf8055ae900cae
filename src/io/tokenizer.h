/* tokenizer.h: text <-> ids. GPT-2 byte-level BPE with the pre-tokenizers of pretokenize.h, and special tokens, from a GGUF's
 * metadata or a tokenizer.json. Ids equal Hugging Face `tokenizers`' for every text (invalid UTF-8 is refused with its offset); a normalizer, which
 * a GGUF does not name, is not applied: NFC for Qwen and OLMoE. BPE merges with a heap: time n log n in a word's length.
 * Thread-safe after creation. */
#ifndef VM_IO_TOKENIZER_H
#define VM_IO_TOKENIZER_H

#include "io/gguf.h"
#include "vmoer/vmoer_errors.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct vm_tokenizer vm_tokenizer;

typedef struct vm_ids {
    int32_t *ids; /* [count], grown by the tokenizer; free with vm_ids_free */
    size_t count, capacity;
} vm_ids;
void vm_ids_free(vm_ids *ids);
vmoer_status vm_ids_add(vm_ids *ids, int32_t id);

vmoer_status vm_tokenizer_from_gguf(const vm_gguf *g, vm_tokenizer **out);
/* Of a tokenizer.json (Hugging Face tokenizers). What it asks for beyond byte-level BPE with a known pre-tokenizer, a normalizer
 * included, is VMOER_ERROR_UNSUPPORTED and named. It does not say which token is EOS: none is. */
vmoer_status vm_tokenizer_from_json(const json_t *root, vm_tokenizer **out);
void vm_tokenizer_free(vm_tokenizer *t);
/* Appends the BOS, where texts begin with one. */
vmoer_status vm_tokenizer_begin(const vm_tokenizer *t, vm_ids *out);
/* Appends the ids of text[length] to out. parse_special: special tokens' texts become their ids; otherwise they are plain text. */
vmoer_status vm_tokenizer_encode(const vm_tokenizer *t, const char *text, size_t length, bool parse_special, vm_ids *out);
/* Bytes of ids, special tokens' text included if keep_special; *text is NUL-terminated, freed by the caller with vm_free. */
vmoer_status vm_tokenizer_decode(const vm_tokenizer *t, const int32_t *ids, size_t count, bool keep_special, char **text, size_t *length);
/* The first token in text[*at, length) that encode with parse_special finds whole: its id, and *at and *end are where it stands. -1: none, *at = length. */
int32_t vm_tokenizer_next_special(const vm_tokenizer *t, const char *text, size_t length, size_t *at, size_t *end);
/* Does text[length] begin with the text of a token that parse_special alone finds, or is all of it the beginning of one? */
bool vm_tokenizer_special_begins(const vm_tokenizer *t, const char *text, size_t length);
size_t vm_tokenizer_size(const vm_tokenizer *t); /* vocabulary */
const char *vm_tokenizer_piece(const vm_tokenizer *t, int32_t id); /* the token's stored (byte-encoded) text; NULL if out of range */
bool vm_tokenizer_is_special(const vm_tokenizer *t, int32_t id);
int32_t vm_tokenizer_bos(const vm_tokenizer *t); /* -1 if none */
int32_t vm_tokenizer_eos(const vm_tokenizer *t);
bool vm_tokenizer_adds_bos(const vm_tokenizer *t);
/* After which a model says no more: the EOS, the end of a turn or message, and special tokens that are called what other models call theirs, for a file
 * names one where a model may have several. */
bool vm_tokenizer_is_end(const vm_tokenizer *t, int32_t id);

#endif
