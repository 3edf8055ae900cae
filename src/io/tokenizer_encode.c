/* tokenizer_encode.c: a text to ids, in the order of Hugging Face's tokenizers: added tokens, the normalizer, added
 * tokens that are looked for behind it, pieces (pretokenize.c), and merging inside each (bpe.c). */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include "io/unicode.h"
#include <string.h>

enum { MAX_TEXT = 1 << 30 }; /* a piece's indices are 32 bits wide */

/* What one call reuses for all its pieces. */
typedef struct encoder {
    const vm_tokenizer *t;
    bool control; /* the texts of control tokens become their ids */
    vm_bpe bpe;
    vm_bytes word;                 /* a piece in stand-ins */
    vm_bytes normal[2], spaced[2]; /* a span behind the normalizer, and as pieces are cut from it */
    vm_bytes marks;                /* of a span that the normalizer changed */
    vm_ids *out;
} encoder;

typedef struct span {
    vm_slice s;
    const char
        *given; /* [s.length]: 1 where a byte is somebody's text, which is no marker; otherwise 0. NULL: nowhere */
    bool first; /* at the start of the whole text */
} span;

static span part_of(span s, size_t from, size_t to) {
    return (span){{s.s.text + from, to - from}, s.given ? s.given + from : NULL, s.first && from == 0};
}

static vmoer_status append(vm_ids *out, int32_t id) {
    void *grown = out->ids;
    if (!vm_grow(&grown, &out->capacity, out->count + 1, sizeof *out->ids))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", out->count + 1);
    out->ids = grown;
    out->ids[out->count++] = id;
    return VMOER_OK;
}

vmoer_status vm_tokenizer_begin(const vm_tokenizer *t, vm_ids *out) {
    return t->rules.adds_bos ? append(out, t->rules.bos) : VMOER_OK;
}

/* ---- a piece ---- */

/* The id of the token whose stored text is the piece's; -1: none. */
static vmoer_status find_whole(encoder *e, vm_slice piece, int32_t *id) {
    vm_slice stored = piece;
    if (e->t->rules.alphabet == VM_ALPHABET_BYTES) {
        e->word.length = 0;
        for (size_t i = 0; i < piece.length; i++) {
            char bytes[4];
            VM_TRY(vm_bytes_add(&e->word, bytes, vm_utf8_put(vm_tokenizer_stand_in((uint8_t)piece.text[i]), bytes)));
        }
        stored = (vm_slice){e->word.data, e->word.length};
    }
    *id = vm_tokenizer_find(e->t, stored.text, stored.length);
    if (*id >= 0 && e->t->flags[*id] & VM_ADDED_OUTSIDE) *id = -1;
    return VMOER_OK;
}

/* The token of the character text[length], in BYTES of the byte; -1: none. */
static int32_t find_character(const vm_tokenizer *t, const char *text, size_t length) {
    if (t->rules.alphabet == VM_ALPHABET_BYTES) return t->byte_id[(uint8_t)*text];
    int32_t id = vm_tokenizer_find(t, text, length);
    return id >= 0 && t->flags[id] & VM_ADDED_OUTSIDE ? -1 : id;
}

/* The bytes' tokens; false: one is missing. */
static bool push_bytes(encoder *e, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (e->t->byte_id[(uint8_t)text[i]] < 0) return false;
    }
    for (size_t i = 0; i < length; i++) vm_bpe_push(&e->bpe, e->t->byte_id[(uint8_t)text[i]]);
    return true;
}

/* The symbols that merging starts from. An unknown token waits for the next character that is known, so that those in
 * a row can be one; bytes go past it, as in Hugging Face's tokenizers. */
static void push_symbols(encoder *e, vm_slice piece) {
    const vm_rules *rules = &e->t->rules;
    bool characters = rules->alphabet == VM_ALPHABET_CHARACTERS, waits = false;
    for (size_t at = 0, next = 0; at < piece.length; at = next) {
        uint32_t code;
        if (characters)
            vm_utf8_next(piece.text, piece.length, &next, &code);
        else
            next++;
        int32_t id = find_character(e->t, piece.text + at, next - at);
        if (id < 0 && characters && rules->byte_fallback && push_bytes(e, piece.text + at, next - at)) continue;
        if (waits && (id >= 0 || !rules->fuses_unknown)) vm_bpe_push(&e->bpe, rules->unknown);
        waits = id < 0 && rules->unknown >= 0;
        if (id >= 0) vm_bpe_push(&e->bpe, id);
    }
    if (waits) vm_bpe_push(&e->bpe, rules->unknown);
}

static vmoer_status encode_piece(encoder *e, vm_slice piece) {
    int32_t id = -1;
    if (e->t->rules.keeps_words) VM_TRY(find_whole(e, piece, &id));
    if (id >= 0) return append(e->out, id);
    VM_TRY(vm_bpe_begin(&e->bpe, piece.length));
    push_symbols(e, piece);
    vm_bpe_merge(&e->bpe, &e->t->merges);
    size_t at = 0;
    while (vm_bpe_next(&e->bpe, &at, &id)) VM_TRY(append(e->out, id));
    return VMOER_OK;
}

static vmoer_status encode_pieces(encoder *e, span s) {
    VM_TRY(vm_steps_apply(&e->t->rules.spaces, s.first, e->spaced, &s.s));
    vm_pieces pieces;
    vm_pieces_begin(&pieces, e->t->rules.pretokenizer, s.s.text, s.s.length);
    for (size_t start, end; vm_pieces_next(&pieces, &start, &end);)
        VM_TRY(encode_piece(e, (vm_slice){s.s.text + start, end - start}));
    return VMOER_OK;
}

/* ---- added tokens ---- */
static int byte_at(const vm_added *a, size_t depth) {
    return depth < a->text.length ? (uint8_t)a->text.text[depth] : 0;
}

/* First of items[low, high) whose byte `depth` is at least `byte`; all of them share their first `depth` bytes. */
static size_t narrow(const vm_added_list *list, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (byte_at(&list->items[middle], depth) < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Whether a token marks the parts of a conversation: a control token, or one that is written like one and counts as
 * user-defined in the files of some models. */
static bool is_marker(const vm_tokenizer *t, int32_t id) {
    static const char *const ends[][2] = {{"<|", "|>"}, {"<\uff5c", "\uff5c>"}};
    if (t->type[id] != VM_TOKEN_USER) return true;
    vm_slice s = vm_tokenizer_stored(t, id);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t open = strlen(ends[i][0]), close = strlen(ends[i][1]);
        if (s.length >= open + close && memcmp(s.text, ends[i][0], open) == 0 &&
            memcmp(s.text + s.length - close, ends[i][1], close) == 0)
            return true;
    }
    return false;
}

/* The longest added token that counts at s[at], NULL if none; then *skip is how far to go on: behind a longer one that
 * is plain text here, as in Hugging Face's tokenizers. */
static const vm_added *match_added(const encoder *e, const vm_added_list *list, span s, size_t at, size_t *skip) {
    const vm_added *found = NULL;
    size_t low = 0, high = list->count;
    bool touched = false; /* one of the bytes is somebody's text */
    *skip = 1;
    for (size_t depth = 0; depth < s.s.length - at; depth++) {
        int byte = (uint8_t)s.s.text[at + depth];
        if (byte == 0) break; /* would match the texts' ends */
        low = narrow(list, low, high, depth, byte);
        high = narrow(list, low, high, depth, byte + 1);
        if (low == high) break;
        touched = touched || (s.given && s.given[at + depth]);
        const vm_added *shortest = &list->items[low];
        if (shortest->text.length != depth + 1) continue;
        bool plain = touched ? is_marker(e->t, shortest->id) : e->t->type[shortest->id] != VM_TOKEN_USER && !e->control;
        if (!plain)
            found = shortest;
        else if (!e->control)
            found = NULL, *skip = depth + 1;
    }
    return found;
}

static bool is_space(vm_slice s, size_t at, size_t *next) {
    uint32_t code;
    *next = at;
    return at < s.length && vm_utf8_next(s.text, s.length, next, &code) &&
           vm_unicode_classify(code) == VM_UNICODE_SPACE;
}

static size_t behind_spaces(vm_slice s, size_t at) {
    for (size_t next; is_space(s, at, &next);) at = next;
    return at;
}
static size_t before_spaces(vm_slice s, size_t start, size_t at) {
    while (at > start) {
        size_t from = at - 1, next;
        while (from > start && ((uint8_t)s.text[from] & 0xc0) == 0x80) from--;
        if (!is_space(s, from, &next)) break;
        at = from;
    }
    return at;
}

/* Whether what lies in s[at, end) has no character of a word on either side. */
static bool is_apart(vm_slice s, size_t at, size_t end) {
    uint32_t code;
    size_t before = at;
    while (before > 0 && ((uint8_t)s.text[--before] & 0xc0) == 0x80) continue;
    if (at > 0 && vm_utf8_next(s.text, s.length, &before, &code) && vm_unicode_is_word(code)) return false;
    return end == s.length || !vm_utf8_next(s.text, s.length, &end, &code) || !vm_unicode_is_word(code);
}

/* Appends the ids of the list's tokens in s, and has `rest` do what lies between them. */
static vmoer_status encode_around(encoder *e, const vm_added_list *list, span s, vmoer_status rest(encoder *, span)) {
    size_t start = 0, at = 0, skip;
    while (at < s.s.length && list->count > 0) {
        const vm_added *found = NULL;
        skip = 1;
        if (list->starts[(uint8_t)s.s.text[at]]) found = match_added(e, list, s, at, &skip);
        uint8_t flags = found ? e->t->flags[found->id] : 0;
        if (flags & VM_ADDED_WORD && !is_apart(s.s, at, at + found->text.length))
            skip = found->text.length, found = NULL;
        if (!found) {
            at += skip;
            continue;
        }
        size_t from = flags & VM_ADDED_LSTRIP ? before_spaces(s.s, start, at) : at;
        VM_TRY(rest(e, part_of(s, start, from)));
        VM_TRY(append(e->out, found->id));
        at += found->text.length;
        if (flags & VM_ADDED_RSTRIP) at = behind_spaces(s.s, at);
        start = at;
    }
    return rest(e, part_of(s, start, s.s.length));
}

static vmoer_status encode_normalized(encoder *e, span s) {
    vm_slice before = s.s;
    VM_TRY(vm_steps_apply(&e->t->rules.normalizer, s.first, e->normal, &s.s));
    if (s.given && s.s.text != before.text) { /* which of its bytes are whose is lost: all are somebody's if one was */
        bool any = memchr(s.given, 1, before.length);
        e->marks.length = 0;
        VM_TRY(vm_bytes_add(&e->marks, s.s.text, s.s.length));
        memset(e->marks.data, any, e->marks.length);
        s.given = e->marks.data;
    }
    return encode_around(e, &e->t->normalized, s, encode_pieces);
}

static vmoer_status encode(const vm_tokenizer *t, span s, bool control, vm_ids *out) {
    size_t bad;
    if (s.s.length > MAX_TEXT)
        return vm_error(VMOER_ERROR_LIMIT, "a text of %zu bytes, at most %d", s.s.length, MAX_TEXT);
    if (!vm_utf8_valid(s.s.text, s.s.length, &bad))
        return vm_error(VMOER_ERROR_DATA, "the text is not UTF-8 at byte %zu", bad);
    encoder e = {.t = t, .control = control, .out = out};
    vmoer_status status = encode_around(&e, &t->added, s, encode_normalized);
    vm_bpe_free(&e.bpe);
    vm_bytes_free(&e.word);
    vm_bytes_free(&e.marks);
    for (int i = 0; i < 2; i++) {
        vm_bytes_free(&e.normal[i]);
        vm_bytes_free(&e.spaced[i]);
    }
    return status;
}

vmoer_status vm_tokenizer_encode(const vm_tokenizer *t, const char *text, size_t length, bool parse_special,
                                 vm_ids *out) {
    return encode(t, (span){{text, length}, NULL, true}, parse_special, out);
}

vmoer_status vm_tokenizer_encode_chat(const vm_tokenizer *t, const char *text, const char *given, size_t length,
                                      vm_ids *out) {
    return encode(t, (span){{text, length}, given, true}, true, out);
}
