/* pretokenize.c: the gpt2 pattern as a scanner. */
#include "io/pretokenize.h"

#include "io/unicode.h"
#include <string.h>

bool vm_pretokenizer_find(const char *name, size_t length, vm_pretokenizer *out) {
    static const struct {
        const char *name;
        vm_pretokenizer kind;
    } known[] = {
        {"gpt2", VM_PRETOKENIZER_GPT2},     {"gpt-2", VM_PRETOKENIZER_GPT2},    {"default", VM_PRETOKENIZER_GPT2},
        {"smollm", VM_PRETOKENIZER_SMOLLM}, {"refact", VM_PRETOKENIZER_SMOLLM}, {"starcoder", VM_PRETOKENIZER_SMOLLM},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) == length && memcmp(known[i].name, name, length) == 0) {
            *out = known[i].kind;
            return true;
        }
    }
    return false;
}

/* What a scan meets at a position: a class of the pattern, or the end of the stretch the pattern is applied to. */
typedef enum seen { SEEN_OTHER, SEEN_LETTER, SEEN_NUMBER, SEEN_SPACE, SEEN_END } seen;

typedef struct scanner {
    vm_pretokenizer kind;
    const char *text;
    size_t length;
} scanner;

/* The class at `at`; *next is the position after that character. Isolated digits end a stretch. */
static seen look(const scanner *s, size_t at, size_t *next) {
    uint32_t code;
    *next = at;
    if (at >= s->length || !vm_utf8_next(s->text, s->length, next, &code)) return SEEN_END;
    bool isolates = s->kind == VM_PRETOKENIZER_SMOLLM;
    switch (vm_unicode_classify(code)) {
    case VM_UNICODE_LETTER:
        return SEEN_LETTER;
    case VM_UNICODE_SPACE:
        return SEEN_SPACE;
    case VM_UNICODE_NUMBER:
        return isolates ? SEEN_END : SEEN_NUMBER;
    case VM_UNICODE_NUMERIC:
        return isolates ? SEEN_END : SEEN_OTHER;
    case VM_UNICODE_OTHER:
        break;
    }
    return SEEN_OTHER;
}

/* Length of the English contraction at p, 0 if none. */
static size_t contraction(const char *p, size_t left) {
    if (left < 2 || p[0] != '\'') return 0;
    if (strchr("stmd", p[1]) && p[1] != '\0') return 2;
    if (left >= 3 && (memcmp(p + 1, "re", 2) == 0 || memcmp(p + 1, "ve", 2) == 0 || memcmp(p + 1, "ll", 2) == 0))
        return 3;
    return 0;
}

size_t vm_pretokenize_next(vm_pretokenizer kind, const char *text, size_t length, size_t start) {
    scanner s = {kind, text, length};
    size_t next, at = start;
    size_t short_form = contraction(text + start, length - start);
    if (short_form) return start + short_form;

    seen first = look(&s, at, &next);
    if (first == SEEN_END) return next > start ? next : length; /* an isolated digit */
    if (text[at] == ' ') {                                      /* one space goes with the word behind it */
        size_t after;
        seen second = look(&s, next, &after);
        if (second != SEEN_SPACE && second != SEEN_END) {
            first = second;
            next = after;
        }
    }
    size_t last = start; /* where the last character taken starts */
    seen here = first;
    while (here == first) {
        last = at;
        at = next;
        here = look(&s, at, &next);
    }
    /* \s+(?!\S): a run of spaces before a word leaves its last one to the word, unless it is the only one. */
    if (first == SEEN_SPACE && here != SEEN_END && last > start) return last;
    return at;
}
