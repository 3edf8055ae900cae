/* unicode.h: UTF-8 as the tokenizer and the data sets need it: checked decoding and the character classes of the
 * pre-tokenizers. The tables are our own (tools/unicode_classes.py), so that no system library's version decides a
 * token. */
#ifndef VM_IO_UNICODE_H
#define VM_IO_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum vm_unicode_class {
    VM_UNICODE_OTHER = 0,
    VM_UNICODE_UPPER,       /* \p{Lu}, \p{Lt} */
    VM_UNICODE_LOWER,       /* \p{Ll} */
    VM_UNICODE_CASELESS,    /* \p{Lm}, \p{Lo} */
    VM_UNICODE_MARK,        /* \p{M} */
    VM_UNICODE_NUMBER,      /* \p{N} */
    VM_UNICODE_SPACE,       /* \s, the property White_Space */
    VM_UNICODE_PUNCTUATION, /* \p{P} */
    VM_UNICODE_SYMBOL,      /* \p{S} */
    VM_UNICODE_NUMERIC      /* OTHER to the patterns' older tables, yet isolated as a digit by the newer ones */
} vm_unicode_class;
vm_unicode_class vm_unicode_classify(uint32_t code);
bool vm_unicode_is_word(uint32_t code); /* \w: letters, marks, decimal digits, connectors and what else counts as alphabetic */
/* \p{L} */
static inline bool vm_unicode_is_letter(vm_unicode_class kind) { return kind >= VM_UNICODE_UPPER && kind <= VM_UNICODE_CASELESS; }

/* Decodes the character at text[*at], *at < length, and moves *at past it. False: not UTF-8 there (overlong forms,
 * surrogates and values above U+10FFFF included); *at stays. */
bool vm_utf8_next(const char *text, size_t length, size_t *at, uint32_t *code);
/* Encodes a code point that is no surrogate; how many bytes that takes. */
size_t vm_utf8_put(uint32_t code, char out[4]);
/* True if text[length] is UTF-8; otherwise *bad is the offset of the first byte that is not. */
bool vm_utf8_valid(const char *text, size_t length, size_t *bad);
/* Number of code points of valid UTF-8. */
size_t vm_utf8_count(const char *text, size_t length);

#endif
