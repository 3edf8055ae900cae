/* pretokenize.c: the patterns of pretokenize.h as scanners, and the walk through their stages. */
#include "io/pretokenize.h"

#include "base/status.h"
#include "io/unicode.h"
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- names ---- */
static const struct {
    const char *name;
    vm_pretokenizer kind;
    bool nfc;
} names[] = {
    {"gpt2", VM_PRETOKENIZER_GPT2, false},
    {"gpt-2", VM_PRETOKENIZER_GPT2, false},
    {"default", VM_PRETOKENIZER_GPT2, false},
    {"olmo", VM_PRETOKENIZER_GPT2, true},
    {"smollm", VM_PRETOKENIZER_SMOLLM, false},
    {"refact", VM_PRETOKENIZER_SMOLLM, false},
    {"starcoder", VM_PRETOKENIZER_SMOLLM, false},
    {"qwen2", VM_PRETOKENIZER_QWEN2, true},
    {"deepseek-r1-qwen", VM_PRETOKENIZER_QWEN2, true},
    {"llama-bpe", VM_PRETOKENIZER_LLAMA3, false},
    {"llama3", VM_PRETOKENIZER_LLAMA3, false},
    {"llama-v3", VM_PRETOKENIZER_LLAMA3, false},
    {"gpt-4o", VM_PRETOKENIZER_O200K, false},
    {"llama4", VM_PRETOKENIZER_O200K, false},
    {"deepseek-llm", VM_PRETOKENIZER_DEEPSEEK_LLM, false},
    {"deepseek-v3", VM_PRETOKENIZER_DEEPSEEK_V3, false},
};
enum { N_NAMES = sizeof names / sizeof *names };

const char *vm_pretokenizer_name(vm_pretokenizer kind, bool nfc) {
    for (size_t i = 0; i < N_NAMES; i++)
        if (names[i].kind == kind && names[i].nfc == nfc) return names[i].name;
    return NULL;
}

vmoer_status vm_pretokenizer_find(const char *name, size_t length, vm_pretokenizer *out, bool *nfc) {
    char known[512] = "";
    for (size_t i = 0, at = 0; i < N_NAMES; i++) {
        if (strlen(names[i].name) == length && memcmp(names[i].name, name, length) == 0) {
            *out = names[i].kind;
            *nfc = names[i].nfc;
            return VMOER_OK;
        }
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", names[i].name);
    }
    return vm_error(VMOER_ERROR_UNSUPPORTED, "tokenizer.ggml.pre is \"%.*s\"; known are %s",
                    (int)(length < 64 ? length : 64), name, known);
}

/* ---- characters ---- */
enum { CLASS_END = -1 }; /* the end of the piece; otherwise a vm_unicode_class */

/* The class of the character at `at`, and where the next one starts. */
static int look(const char *text, size_t at, size_t end, size_t *next, uint32_t *code) {
    *next = at;
    if (at >= end || !vm_utf8_next(text, end, next, code)) return CLASS_END;
    return (int)vm_unicode_classify(*code);
}
static int class_at(const char *text, size_t at, size_t end, size_t *next) {
    uint32_t code;
    return look(text, at, end, next, &code);
}

/* Sets of classes as bits. */
#define SET(kind) (1u << (kind))
#define LETTERS (SET(VM_UNICODE_UPPER) | SET(VM_UNICODE_LOWER) | SET(VM_UNICODE_CASELESS))
#define CASELESS (SET(VM_UNICODE_CASELESS) | SET(VM_UNICODE_MARK)) /* both a capital and a small letter to o200k */
#define SIGNS (SET(VM_UNICODE_PUNCTUATION) | SET(VM_UNICODE_SYMBOL))
#define SPACES SET(VM_UNICODE_SPACE)
#define NUMBERS SET(VM_UNICODE_NUMBER)
#define NOT_WORDS                                                                                       \
    (SET(VM_UNICODE_OTHER) | SET(VM_UNICODE_MARK) | SIGNS | SET(VM_UNICODE_NUMERIC)) /* [^\s\p{L}\p{N}] \
                                                                                      */

static bool is_in(unsigned set, int kind) { return kind != CLASS_END && (set >> kind & 1); }

/* The end of the run of characters of a set that starts at `at`; of at most `most` of them. */
static size_t run_of(unsigned set, const char *text, size_t at, size_t end, size_t most) {
    for (size_t next; most > 0 && is_in(set, class_at(text, at, end, &next)); most--) at = next;
    return at;
}

static bool is_newline(char c) { return c == '\r' || c == '\n'; }
static bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static bool is_ascii_sign(char c) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

typedef struct range {
    uint32_t first, last;
} range;

static bool is_within(const range *ranges, size_t n, uint32_t code) {
    size_t low = 0, high = n; /* ranges[i] ends before code for i < low, not for i >= high */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && ranges[low].first <= code;
}

/* ---- scanners: the end of the match at text[at], `at` itself where there is none; at < end ---- */
typedef size_t match_fn(const char *text, size_t at, size_t end);

/* 's|'t|'re|'ve|'m|'ll|'d, any_case: by Unicode's case folding, which makes an s of U+017F too */
static size_t match_contraction(const char *text, size_t at, size_t end, bool any_case) {
    size_t left = end - at;
    if (left < 2 || text[at] != '\'') return at;
    const char *p = text + at + 1;
    if (any_case && left >= 3 && memcmp(p, "\xc5\xbf", 2) == 0) return at + 3;
    int fold = any_case ? 0x20 : 0, first = (unsigned char)p[0] | fold,
        second = left >= 3 ? (unsigned char)p[1] | fold : 0;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? at + 3 : at;
}

/* \s+(?!\S)|\s+, before it \s*[\r\n]+ where `newlines` */
static size_t match_spaces(const char *text, size_t at, size_t end, bool newlines) {
    size_t i = at, last = at, line = at,
           next; /* `last`: where the last one taken starts; `line`: after the last newline */
    for (; class_at(text, i, end, &next) == VM_UNICODE_SPACE; i = next) {
        last = i;
        if (is_newline(text[i])) line = next;
    }
    if (newlines && line > at) return line;
    return i < end && last > at ? last : i;
}

/* ` ?[set]+`, behind it any number of the characters `tail` */
static size_t match_spaced(unsigned set, const char *text, size_t at, size_t end, const char *tail) {
    size_t from = at + (text[at] == ' '), i = run_of(set, text, from, end, SIZE_MAX);
    if (i == from) return at;
    while (i < end && text[i] != '\0' && strchr(tail, text[i])) i++;
    return i;
}

static size_t match_gpt2(const char *text, size_t at, size_t end) {
    static const unsigned sets[] = {LETTERS, NUMBERS, NOT_WORDS};
    size_t i = match_contraction(text, at, end, false);
    for (size_t k = 0; k < sizeof sets / sizeof *sets && i == at; k++) i = match_spaced(sets[k], text, at, end, "");
    return i > at ? i : match_spaces(text, at, end, false);
}

/* [^\r\n\p{L}\p{N}] : the end of that character, `at` itself where there is none */
static size_t match_prefix(const char *text, size_t at, size_t end) {
    size_t next;
    int kind = class_at(text, at, end, &next);
    return is_in(LETTERS | NUMBERS, kind) || kind == CLASS_END || is_newline(text[at]) ? at : next;
}

/* What the patterns after cl100k have in common behind their words. */
static size_t match_rest(const char *text, size_t at, size_t end, size_t digits, const char *tail) {
    size_t i = run_of(NUMBERS, text, at, end, digits);
    if (i == at) i = match_spaced(NOT_WORDS, text, at, end, tail);
    return i > at ? i : match_spaces(text, at, end, true);
}

static size_t match_cl100k(const char *text, size_t at, size_t end, size_t digits) {
    size_t i = match_contraction(text, at, end, true), from = match_prefix(text, at, end);
    if (i > at) return i;
    i = run_of(LETTERS, text, from, end, SIZE_MAX);
    return i > from ? i : match_rest(text, at, end, digits, "\r\n");
}
static size_t match_qwen2(const char *text, size_t at, size_t end) { return match_cl100k(text, at, end, 1); }
static size_t match_llama3(const char *text, size_t at, size_t end) { return match_cl100k(text, at, end, 3); }

/* [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ : where no small letter follows the run of capitals, the
 * star gives back as much as it must, and the match ends behind the run's last caseless character. *capitals: the end
 * of that run. */
static size_t match_cased(const char *text, size_t at, size_t end, size_t *capitals) {
    size_t i = at, caseless = at, next;
    for (int kind; is_in(SET(VM_UNICODE_UPPER) | CASELESS, kind = class_at(text, i, end, &next)); i = next) {
        if (is_in(CASELESS, kind)) caseless = next;
    }
    *capitals = i;
    i = run_of(SET(VM_UNICODE_LOWER) | CASELESS, text, i, end, SIZE_MAX);
    return i > *capitals ? i : caseless;
}

static size_t match_o200k(const char *text, size_t at, size_t end) {
    size_t prefix = match_prefix(text, at, end), capitals, next, i = match_cased(text, prefix, end, &capitals);
    if (i == prefix) {
        /* No small letter: a mark, which might have been the prefix, is one itself; else capitals alone. */
        if (class_at(text, at, end, &next) == VM_UNICODE_MARK) return match_contraction(text, prefix, end, true);
        i = capitals;
    }
    return i > prefix ? match_contraction(text, i, end, true) : match_rest(text, at, end, 3, "\r\n/");
}

static size_t match_digit(const char *text, size_t at, size_t end) {
    return run_of(NUMBERS | SET(VM_UNICODE_NUMERIC), text, at, end, 1);
}
static size_t match_three_digits(const char *text, size_t at, size_t end) { return run_of(NUMBERS, text, at, end, 3); }
static size_t match_newline(const char *text, size_t at, size_t end) {
    (void)end;
    return at + is_newline(text[at]);
}

/* `\s?[ranges]+`, without the space where not `spaced` */
static size_t match_ranges(const range *ranges, size_t n, const char *text, size_t at, size_t end, bool spaced) {
    size_t i = at, next;
    uint32_t code;
    if (spaced && class_at(text, at, end, &next) == VM_UNICODE_SPACE) {
        size_t after;
        if (look(text, next, end, &after, &code) != CLASS_END && is_within(ranges, n, code)) i = next;
    }
    while (look(text, i, end, &next, &code) != CLASS_END && is_within(ranges, n, code)) i = next;
    return i;
}
#define MATCH_RANGES(ranges, spaced) match_ranges(ranges, sizeof(ranges) / sizeof *(ranges), text, at, end, spaced)

static size_t match_llm_words(const char *text, size_t at, size_t end) {
    static const range cased[] = {
        {0x41, 0x5a},       {0x61, 0x7a},       {0xb5, 0xb5},       {0xc0, 0xd6},       {0xd8, 0xf6},
        {0xf8, 0x1ba},      {0x1bc, 0x1bf},     {0x1c4, 0x293},     {0x295, 0x2af},     {0x370, 0x373},
        {0x376, 0x376},     {0x377, 0x377},     {0x37b, 0x37d},     {0x37f, 0x37f},     {0x386, 0x386},
        {0x388, 0x38a},     {0x38c, 0x38c},     {0x38e, 0x3a1},     {0x3a3, 0x3f5},     {0x3f7, 0x481},
        {0x48a, 0x52f},     {0x531, 0x556},     {0x10a0, 0x10c5},   {0x13a0, 0x13f5},   {0x13f8, 0x13fd},
        {0x1c90, 0x1cba},   {0x1cbd, 0x1cbf},   {0x1d00, 0x1d2b},   {0x1d6b, 0x1d77},   {0x1d79, 0x1d9a},
        {0x1e00, 0x1f15},   {0x1f18, 0x1f1d},   {0x1f20, 0x1f45},   {0x1f48, 0x1f4d},   {0x1f50, 0x1f57},
        {0x1f59, 0x1f59},   {0x1f5b, 0x1f5b},   {0x1f5d, 0x1f5d},   {0x1f5f, 0x1f7d},   {0x1f80, 0x1fb4},
        {0x1fb6, 0x1fbc},   {0x1fbe, 0x1fbe},   {0x1fc2, 0x1fc4},   {0x1fc6, 0x1fcc},   {0x1fd0, 0x1fd3},
        {0x1fd6, 0x1fdb},   {0x1fe0, 0x1fec},   {0x1ff2, 0x1ff4},   {0x1ff6, 0x1ffc},   {0x2102, 0x2102},
        {0x2107, 0x2107},   {0x210a, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211d},   {0x2124, 0x2124},
        {0x2126, 0x2126},   {0x2128, 0x2128},   {0x212a, 0x212d},   {0x212f, 0x2134},   {0x2139, 0x2139},
        {0x213c, 0x213f},   {0x2145, 0x2149},   {0x214e, 0x214e},   {0x2183, 0x2183},   {0x2184, 0x2184},
        {0x2c00, 0x2c7b},   {0x2c7e, 0x2ce4},   {0x2ceb, 0x2cee},   {0x2cf2, 0x2cf2},   {0x2cf3, 0x2cf3},
        {0xa640, 0xa66d},   {0xa680, 0xa69b},   {0xa722, 0xa76f},   {0xa771, 0xa787},   {0xa78b, 0xa78e},
        {0xab70, 0xabbf},   {0xfb00, 0xfb06},   {0xfb13, 0xfb17},   {0xff21, 0xff3a},   {0xff41, 0xff5a},
        {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb}, {0x10c80, 0x10cb2}, {0x10cc0, 0x10cf2},
        {0x118a0, 0x118df}, {0x1e900, 0x1e943}};
    return MATCH_RANGES(cased, true);
}
static size_t match_llm_signs(const char *text, size_t at, size_t end) {
    static const range signs[] = {{'!', '/'},       {':', '~'},       {0x2018, 0x201f},
                                  {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}};
    return MATCH_RANGES(signs, true);
}
static size_t match_llm_asian(const char *text, size_t at, size_t end) {
    static const range asian[] = {{0x800, 0x9fa5}, {0xac00, 0xd7ff}};
    return MATCH_RANGES(asian, false);
}
static size_t match_v3_asian(const char *text, size_t at, size_t end) {
    static const range asian[] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}};
    return MATCH_RANGES(asian, false);
}

static size_t match_v3_words(const char *text, size_t at, size_t end) {
    if (is_ascii_sign(text[at]) && at + 1 < end && is_ascii_letter(text[at + 1])) {
        for (at++; at < end && is_ascii_letter(text[at]);) at++;
        return at;
    }
    const unsigned words = LETTERS | SET(VM_UNICODE_MARK);
    size_t from, i;
    int kind = class_at(text, at, end, &from);
    if (is_in(LETTERS | SIGNS, kind) || is_newline(text[at])) from = at; /* not what may stand before a word */
    i = run_of(words, text, from, end, SIZE_MAX);
    if (i > from || kind == VM_UNICODE_MARK) return i; /* a mark is a word of its own, too */
    i = match_spaced(SIGNS, text, at, end, "\r\n");
    return i > at ? i : match_spaces(text, at, end, true);
}

/* A U+2581 with all up to the next one. */
static size_t match_metaspace(const char *text, size_t at, size_t end) {
    static const char mark[] = "\u2581";
    size_t size = sizeof mark - 1;
    if (end - at < size || memcmp(text + at, mark, size) != 0) return at;
    const char *next = memmem(text + at + size, end - at - size, mark, size);
    return next ? (size_t)(next - text) : end;
}

/* ---- stages ---- */
static const struct sequence {
    size_t n;
    match_fn *stage[VM_PRETOKENIZER_STAGES]; /* NULL: \s+$ */
} sequences[] = {
    [VM_PRETOKENIZER_NONE] = {0, {NULL}},
    [VM_PRETOKENIZER_METASPACE] = {1, {match_metaspace}},
    [VM_PRETOKENIZER_GPT2] = {1, {match_gpt2}},
    [VM_PRETOKENIZER_SMOLLM] = {2, {match_digit, match_gpt2}},
    [VM_PRETOKENIZER_QWEN2] = {1, {match_qwen2}},
    [VM_PRETOKENIZER_LLAMA3] = {1, {match_llama3}},
    [VM_PRETOKENIZER_O200K] = {1, {match_o200k}},
    [VM_PRETOKENIZER_DEEPSEEK_LLM] = {6,
                                      {match_newline, match_llm_words, match_llm_signs, NULL, match_llm_asian,
                                       match_digit}},
    [VM_PRETOKENIZER_DEEPSEEK_V3] = {3, {match_three_digits, match_v3_asian, match_v3_words}},
};

static bool continues(char c) { return ((unsigned char)c & 0xc0) == 0x80; }

/* Where the white space at the end of text[at, end) starts: found backwards, so that long runs elsewhere cost nothing.
 */
static size_t find_tail(const char *text, size_t at, size_t end) {
    size_t from = end, next;
    while (from > at) {
        size_t i = from - 1;
        while (continues(text[i])) i--; /* `at` starts a character */
        if (class_at(text, i, end, &next) != VM_UNICODE_SPACE) break;
        from = i;
    }
    return from;
}

/* The start of the first match in text[at, end) and its end; both `end` where there is none. */
static size_t find_match(match_fn *match, const char *text, size_t at, size_t end, size_t *match_end) {
    *match_end = end;
    if (!match) return find_tail(text, at, end);
    while (at < end) {
        size_t stop = match(text, at, end);
        if (stop > at) {
            *match_end = stop;
            return at;
        }
        for (at++; at < end && continues(text[at]);) at++;
    }
    return end;
}

void vm_pieces_begin(vm_pieces *p, vm_pretokenizer kind, const char *text, size_t length) {
    *p = (vm_pieces){.kind = kind, .text = text, .length = length};
}

bool vm_pieces_next(vm_pieces *p, size_t *start, size_t *end) {
    if (p->at >= p->length) return false;
    const struct sequence *s = &sequences[p->kind];
    size_t limit = p->length;
    for (size_t i = 0; i < s->n; i++) {
        size_t *piece_end = &p->stage[i].end, *match_end = &p->stage[i].match_end;
        if (*piece_end <= p->at) {
            size_t match = p->at; /* where the last search found one, if it is still ahead */
            if (*match_end <= p->at) match = find_match(s->stage[i], p->text, p->at, limit, match_end);
            *piece_end = match > p->at ? match : *match_end;
        }
        limit = *piece_end;
    }
    *start = p->at;
    *end = p->at = limit;
    return true;
}
