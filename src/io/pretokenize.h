/* pretokenize.h: cuts text into the pieces inside which BPE merges, as the pre_tokenizer of each model's tokenizer.json does.
 *
 * A pre-tokenizer is a sequence of stages. Each takes every piece of the stage before apart: what its pattern matches stands
 * alone, and so does what lies between two matches; a stage sees nothing outside its piece. The patterns are those of the
 * models' tokenizer.json; which name of tokenizer.ggml.pre means which is llama.cpp's list (src/llama-vocab.cpp). Written as
 * scanners by hand: a text takes time linear in its length, whatever it is. */
#ifndef VM_IO_PRETOKENIZE_H
#define VM_IO_PRETOKENIZE_H

#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>

typedef enum vm_pretokenizer {
    /* Mixtral, Llama 2: the text is one piece */
    VM_PRETOKENIZER_NONE,
    /* Metaspace that splits: a piece starts at each U+2581, which stands for a space there */
    VM_PRETOKENIZER_METASPACE,
    /* openai-community/gpt2, allenai/OLMo and OLMoE (after NFC):
     *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
    VM_PRETOKENIZER_GPT2,
    /* SmolLM2, StarCoder, Granite: each digit alone (Digits: \p{N} of the newest tables), then gpt2's */
    VM_PRETOKENIZER_SMOLLM,
    /* Qwen2, Qwen3 (after NFC):
     *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
    VM_PRETOKENIZER_QWEN2,
    /* meta-llama/Meta-Llama-3: Qwen2's with \p{N}{1,3}; a piece that is a token is that token, merges or not (ignore_merges) */
    VM_PRETOKENIZER_LLAMA3,
    /* openai/gpt-oss, o200k (tiktoken_ext/openai_public.py):
     *   [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
     *   |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
     *   |\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
    VM_PRETOKENIZER_O200K,
    /* deepseek-ai/deepseek-llm-7b-base, deepseek-moe-16b-base, six stages:
     *   [\r\n]   \s?[CASED]+   \s?[!-/:-~U+FF01-U+FF0F U+FF1A-U+FF5E U+2018-U+201F U+3000-U+3002]+   \s+$
     *   [U+4E00-U+9FA5 U+0800-U+4E00 U+AC00-U+D7FF]+   each digit alone (Digits)
     * CASED is the list of cased letters that stands in pretokenize.c. */
    VM_PRETOKENIZER_DEEPSEEK_LLM,
    /* deepseek-ai/DeepSeek-V3, three stages:
     *   \p{N}{1,3}   [U+4E00-U+9FA5 U+3040-U+309F U+30A0-U+30FF]+
     *   [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*
     *   |\s*[\r\n]+|\s+(?!\S)|\s+ */
    VM_PRETOKENIZER_DEEPSEEK_V3
} vm_pretokenizer;

/* From GGUF's tokenizer.ggml.pre. *nfc: whether the tokenizer.json of the models that the name comes from brings a text to NFC before, which a GGUF does not
 * say (and llama.cpp does not do). VMOER_ERROR_UNSUPPORTED: a name this library does not know; the text lists those it does. */
vmoer_status vm_pretokenizer_find(const char *name, size_t length, vm_pretokenizer *out, bool *nfc);

/* A name of that list for it, with NFC before it or without; NULL: it has none. */
const char *vm_pretokenizer_name(vm_pretokenizer kind, bool nfc);

enum { VM_PRETOKENIZER_STAGES = 6 };
/* Walks the pieces of a text. */
typedef struct vm_pieces {
    vm_pretokenizer kind;
    const char *text;
    size_t length, at;
    struct {
        size_t end;       /* of this stage's piece around `at` */
        size_t match_end; /* past `at`: the piece up to `end` lies before a match that ends here */
    } stage[VM_PRETOKENIZER_STAGES];
} vm_pieces;
/* text[length] is valid UTF-8 and outlives the walk. */
void vm_pieces_begin(vm_pieces *p, vm_pretokenizer kind, const char *text, size_t length);
/* The next piece, text[*start, *end), never empty. False: there is none. */
bool vm_pieces_next(vm_pieces *p, size_t *start, size_t *end);

#endif
