/* tokenizer_internal.h: what the files that name a vocabulary (tokenizer_gguf.c, tokenizer_json.c) give the tokenizer, and what its own files share:
 * tokenizer.c takes a vocabulary and decodes, tokenizer_encode.c encodes. */
#ifndef VM_IO_TOKENIZER_INTERNAL_H
#define VM_IO_TOKENIZER_INTERNAL_H

#include "base/memory.h"
#include "io/bpe.h"
#include "io/normalize.h"
#include "io/pretokenize.h"
#include "io/tokenizer.h"
#include <jansson.h>

enum { VM_MAX_TOKENS = 1 << 24 };

/* As GGUF numbers them; UNUSED is as NORMAL. */
typedef enum vm_token_type {
    VM_TOKEN_NORMAL = 1, VM_TOKEN_UNKNOWN = 2, VM_TOKEN_CONTROL = 3, VM_TOKEN_USER = 4, VM_TOKEN_UNUSED = 5, VM_TOKEN_BYTE = 6
} vm_token_type;

/* Of an added token: a special one, which text may stand for or not (CONTROL, UNKNOWN), or one that text always stands for (USER). */
enum {
    VM_ADDED_NORMALIZED = 1, /* looked for in the text after its normalizer, not before */
    VM_ADDED_LSTRIP = 2,     /* takes the white space before it */
    VM_ADDED_RSTRIP = 4,     /* and behind it */
    VM_ADDED_OUTSIDE = 8,    /* no part of the model's vocabulary: never made by merges, no word */
    VM_ADDED_WORD = 16       /* is none beside a character of a word (vm_unicode_is_word) */
};

typedef struct vm_merge {
    vm_slice left, right;
} vm_merge;

/* How a vocabulary writes text. */
typedef enum vm_alphabet {
    VM_ALPHABET_BYTES,     /* GPT-2's: a character for each byte */
    VM_ALPHABET_CHARACTERS /* SentencePiece's: characters, U+2581 for the space, <0xNN> for the bytes of what it has no character for */
} vm_alphabet;

typedef struct vm_rules {
    vm_alphabet alphabet;
    vm_steps normalizer, spaces; /* before and behind the search for added tokens that are NORMALIZED */
    vm_pretokenizer pretokenizer;
    bool keeps_words;   /* a piece that is a token is that token, merges or not */
    bool byte_fallback; /* CHARACTERS: a character that is no token becomes its bytes' tokens, where all are there */
    bool fuses_unknown; /* several characters in a row that are no tokens are one unknown token */
    bool strips_space;  /* a text that decoding gives loses a space at its start */
    int32_t unknown;    /* what a character that is no token becomes; -1: nothing */
    int32_t bos, eos;   /* -1: none */
    int32_t eot, eom;   /* of a turn and of a message, likewise */
    int32_t pad;        /* what fills up, where texts are to be of one length: likewise, not used here */
    bool adds_bos;
} vm_rules;

/* Borrows all it points to. Texts, merges and scores are checked by vm_tokenizer_build; the rest keeps what is said here. */
typedef struct vm_vocabulary {
    const char *tokens_key, *merges_key; /* where tokens, and merges or scores stand, for messages */
    vm_slice *tokens;                    /* [size]; text NULL: there is no token of this id */
    uint8_t *types;                      /* [size]: vm_token_type */
    uint8_t *flags;                      /* [size]: VM_ADDED_..., 0 for others */
    size_t size;
    vm_merge *merges; /* [n_merges], by rank */
    size_t n_merges;
    float *scores; /* [size] or NULL. In place of merges: two tokens become one wherever their text is a token, the highest score first */
    vm_rules rules; /* its ids below size */
} vm_vocabulary;
/* Frees the arrays, which the files' readers allocate. */
void vm_vocabulary_free(vm_vocabulary *v);
/* Room for tokens (NORMAL, without text) and for merges; the rules' ids become -1. */
vmoer_status vm_vocabulary_init(vm_vocabulary *v, size_t size, size_t n_merges);
/* "left right" with one space. The error names the merge. */
vmoer_status vm_vocabulary_merge(vm_vocabulary *v, size_t rank, const char *text, size_t length);

/* Of a tokenizer.json, or of a GGUF: v borrows from it; vm_vocabulary_free in any case. */
vmoer_status vm_vocabulary_from_json(const json_t *root, vm_vocabulary *v);
vmoer_status vm_vocabulary_from_gguf(const vm_gguf *g, vm_vocabulary *v);
/* The tokenizer.json it is, the caller's; its tokens [PAD<id>] of the type UNUSED, which only fill up, left out. */
vmoer_status vm_vocabulary_to_json(const vm_vocabulary *v, json_t **out);
/* The keys it is in a GGUF of a model with n_vocab rows in its embedding: those it lacks are tokens of the type UNUSED. */
vmoer_status vm_vocabulary_put_keys(const vm_vocabulary *v, size_t n_vocab, vm_gguf_writer *w);

/* What the pre_tokenizer of a tokenizer.json is: alphabet, spaces and pretokenizer; VMOER_ERROR_UNSUPPORTED shows what is not known. */
vmoer_status vm_pretokenizer_from_json(const json_t *pre, vm_rules *rules);
json_t *vm_pretokenizer_to_json(const vm_rules *rules); /* NULL: no memory */

vmoer_status vm_tokenizer_build(const vm_vocabulary *v, vm_tokenizer **out);
/* Fills t->merges; all else stands. */
vmoer_status vm_tokenizer_take_merges(vm_tokenizer *t, const vm_vocabulary *v);
/* Scores that say what v's list of merges says: scores[v->size]; a token that is merged earlier has a higher one, what no merge makes a lower one than all.
 * VMOER_ERROR_UNSUPPORTED: no scores say it, for the ways to make a token do not stand together, or are not all there. */
vmoer_status vm_tokenizer_score(const vm_tokenizer *t, const vm_vocabulary *v, float *scores);
/* What the merges of a vocabulary with scores are as a list, by rank, of texts of t: out[*n], freed by the caller with vm_free. Of equal scores the longer
 * left part first, then the longer right one, as transformers' converter of SentencePiece models has it. */
vmoer_status vm_tokenizer_list_merges(const vm_tokenizer *t, const vm_vocabulary *v, vm_merge **out, size_t *n);

/* ---- the tokenizer itself ---- */

/* Added tokens by the bytes of the text they are looked for as. */
typedef struct vm_added {
    vm_slice text; /* no NUL in it */
    int32_t id;
} vm_added;
typedef struct vm_added_list {
    vm_added *items; /* [count], ascending */
    size_t count;
    bool starts[256]; /* whether one starts with this byte */
} vm_added_list;

struct vm_tokenizer {
    vm_rules rules;
    size_t size;
    char *pieces;         /* the stored texts, NUL-terminated, one after the other */
    size_t *piece_at;     /* [size + 1]: offsets into pieces */
    char *bytes;          /* the texts' bytes */
    size_t *bytes_at;     /* [size + 1]: offsets into bytes */
    uint8_t *type;        /* [size]: vm_token_type */
    uint8_t *flags;       /* [size]: VM_ADDED_... */
    int32_t byte_id[256]; /* BYTES: of the token of one byte; CHARACTERS: of <0xNN>. -1: none */
    vm_merges merges;
    int32_t *table;       /* [table_size], of the stored texts; -1: empty */
    size_t table_size;    /* a power of two */
    vm_added_list added, normalized;
    vm_arena *arena; /* texts of `normalized` */
};

/* The token of a stored text; -1: none. */
int32_t vm_tokenizer_find(const vm_tokenizer *t, const char *text, size_t length);
/* The character that stands for a byte in the alphabet BYTES. */
uint32_t vm_tokenizer_stand_in(uint8_t byte);
static inline vm_slice vm_tokenizer_stored(const vm_tokenizer *t, int32_t id) {
    return (vm_slice){t->pieces + t->piece_at[id], t->piece_at[id + 1] - t->piece_at[id] - 1};
}
static inline bool vm_tokenizer_is_added(const vm_tokenizer *t, int32_t id) {
    return t->type[id] >= VM_TOKEN_UNKNOWN && t->type[id] <= VM_TOKEN_USER;
}

#endif
