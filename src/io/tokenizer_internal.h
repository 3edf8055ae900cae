/* tokenizer_internal.h: what the files that name a vocabulary (tokenizer_gguf.c, tokenizer_json.c) give the tokenizer. */
#ifndef VM_IO_TOKENIZER_INTERNAL_H
#define VM_IO_TOKENIZER_INTERNAL_H

#include "io/pretokenize.h"
#include "io/tokenizer.h"
#include <jansson.h>

enum { VM_MAX_TOKENS = 1 << 24 };

/* As GGUF numbers them; what the others mean makes no difference here. */
typedef enum vm_token_type { VM_TOKEN_NORMAL = 1, VM_TOKEN_CONTROL = 3, VM_TOKEN_USER = 4, VM_TOKEN_LAST = 6 } vm_token_type;

typedef struct vm_slice {
    const char *text; /* [length], any bytes */
    size_t length;
} vm_slice;
typedef struct vm_merge {
    vm_slice left, right;
} vm_merge;

/* Borrows all it points to. Texts and merges are checked by vm_tokenizer_build; the rest keeps what is said here. */
typedef struct vm_vocabulary {
    const char *tokens_key, *merges_key; /* where tokens and merges stand, for messages */
    vm_slice *tokens;                    /* [size] */
    uint8_t *types;                      /* [size]: vm_token_type */
    size_t size;
    vm_merge *merges; /* [n_merges], by rank */
    size_t n_merges;
    vm_pretokenizer pretokenizer;
    bool keeps_words; /* a piece that is a token is that token, merges or not */
    int32_t bos, eos; /* below size, or -1: none */
    int32_t eot, eom; /* of a turn and of a message, likewise */
    bool adds_bos;
} vm_vocabulary;
/* Frees tokens, types and merges, which the files' readers allocate. */
void vm_vocabulary_free(vm_vocabulary *v);
/* Room for tokens (NORMAL, without text) and for merges. */
vmoer_status vm_vocabulary_init(vm_vocabulary *v, size_t size, size_t n_merges);
/* "left right" with one space. The error names the merge. */
vmoer_status vm_vocabulary_merge(vm_vocabulary *v, size_t rank, const char *text, size_t length);

/* What the pre_tokenizer of a tokenizer.json is; VMOER_ERROR_UNSUPPORTED shows what is not known. */
vmoer_status vm_pretokenizer_from_json(const json_t *pre, vm_pretokenizer *out);

vmoer_status vm_tokenizer_build(const vm_vocabulary *v, vm_tokenizer **out);

#endif
