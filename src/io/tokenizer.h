/* tokenizer.h: text <-> ids, from a GGUF's metadata or a tokenizer.json: byte-level BPE with the pre-tokenizers of pretokenize.h, SentencePiece's BPE (Llama 2,
 * Mixtral), added tokens. Ids equal Hugging Face `tokenizers`' for every text (invalid UTF-8 is refused with its offset), those of a GGUF of SentencePiece's
 * llama.cpp's; docs/FORMATS.md has where the two differ. BPE merges with a heap: time n log n in a word's length. Thread-safe after creation. */
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

/* Of a tokenizer.json (Hugging Face tokenizers). What it asks for beyond what is said above is VMOER_ERROR_UNSUPPORTED and named. It does not say which token
 * is EOS: none is. */
vmoer_status vm_tokenizer_from_json(const json_t *root, vm_tokenizer **out);
/* A model's: of a folder its tokenizer.json's, with BOS and EOS as tokenizer_config.json, config.json or generation_config.json have them; of a file the
 * GGUF's. */
vmoer_status vm_tokenizer_open(const vm_gguf *g, vm_tokenizer **out);
/* The tokenizer.ggml keys of a model that is a folder, whose metadata has none of tokens: as they stand in a GGUF made of it. Nothing for a file. */
vmoer_status vm_tokenizer_copy_keys(vm_gguf_writer *w, const vm_gguf *g);
void vm_tokenizer_free(vm_tokenizer *t);
/* Appends the BOS, where texts begin with one. */
vmoer_status vm_tokenizer_begin(const vm_tokenizer *t, vm_ids *out);
/* Appends the ids of text[length] to out. parse_special: special tokens' texts become their ids; otherwise they are plain text. */
vmoer_status vm_tokenizer_encode(const vm_tokenizer *t, const char *text, size_t length, bool parse_special, vm_ids *out);
/* The same of a text that is partly somebody's: given [length] is 1 where it is. There, control tokens' texts, and what looks like one ("<|...|>"), are plain
 * text, so that nobody can write what the rest of the text, where all special tokens count, alone may say. */
vmoer_status vm_tokenizer_encode_chat(const vm_tokenizer *t, const char *text, const char *given, size_t length, vm_ids *out);
/* Bytes of ids, special tokens' text included if keep_special; *text is NUL-terminated, freed by the caller with vm_free. Where encoding puts a space in front
 * of a text, decoding takes one away there. Bytes that are no UTF-8 stay what they are. */
vmoer_status vm_tokenizer_decode(const vm_tokenizer *t, const int32_t *ids, size_t count, bool keep_special, char **text, size_t *length);
size_t vm_tokenizer_size(const vm_tokenizer *t); /* vocabulary */
const char *vm_tokenizer_piece(const vm_tokenizer *t, int32_t id); /* the token's stored (byte-encoded) text, "" for an id without a
                                                                    * token; NULL if out of range */
/* What the token stands for inside a text, [*length] bytes, perhaps parts of a character; nothing for an id out of range. Valid as long as t. */
const char *vm_tokenizer_bytes(const vm_tokenizer *t, int32_t id, size_t *length);
bool vm_tokenizer_is_special(const vm_tokenizer *t, int32_t id);
int32_t vm_tokenizer_bos(const vm_tokenizer *t); /* -1 if none */
int32_t vm_tokenizer_eos(const vm_tokenizer *t);
bool vm_tokenizer_adds_bos(const vm_tokenizer *t);
/* After which a model says no more: the EOS, the end of a turn or message, and special tokens that are called what other models call theirs, for a file
 * names one where a model may have several. */
bool vm_tokenizer_is_end(const vm_tokenizer *t, int32_t id);

#endif
