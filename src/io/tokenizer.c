/* tokenizer.c: a vocabulary, special tokens, encoding and decoding. What is inside a word is bpe.c's, what a word is
 * pretokenize.c's. A vocabulary is untrusted: everything encode and decode rely on is checked when it is taken. */
#include "io/tokenizer_internal.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/bpe.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SPECIAL_BYTES = 256, /* bounds the time to look for a special token at a position */
    MAX_TEXT = 1 << 30       /* a piece's indices are 32 bits wide */
};

typedef struct id_table {
    int32_t *ids; /* [capacity], -1: empty */
    size_t capacity;
} id_table;

struct vm_tokenizer {
    vm_pretokenizer pretokenizer;
    bool keeps_words;
    size_t size;
    char *pieces;         /* the stored texts, NUL-terminated, one after the other */
    size_t *piece_at;     /* [size + 1]: offsets into pieces */
    char *bytes;          /* the texts' bytes */
    size_t *bytes_at;     /* [size + 1]: offsets into bytes */
    uint8_t *type;        /* [size]: vm_token_type */
    int32_t byte_id[256]; /* -1: the vocabulary lacks this byte; such bytes vanish, as in Hugging Face's tokenizers */
    vm_merges merges;
    id_table table;   /* of the stored texts */
    int32_t *special; /* [n_special]: control and user-defined tokens, by their text's bytes */
    size_t n_special;
    bool starts_special[256];
    int32_t bos, eos, eot, eom;
    bool adds_bos;
};

void vm_ids_free(vm_ids *ids) {
    vm_free(ids->ids);
    *ids = (vm_ids){0};
}

vmoer_status vm_ids_add(vm_ids *out, int32_t id) {
    void *grown = out->ids;
    if (!vm_grow(&grown, &out->capacity, out->count + 1, sizeof *out->ids))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", out->count + 1);
    out->ids = grown;
    out->ids[out->count++] = id;
    return VMOER_OK;
}

/* ---- GPT-2's printable stand-ins for bytes ---- */
enum { STAND_INS = 0x144 };

/* The others follow each other from U+0100. */
static int stand_in(int byte) {
    if (byte < 0x21) return 0x100 + byte;
    if (byte >= 0x7f && byte <= 0xa0) return 0x121 + byte - 0x7f;
    return byte == 0xad ? 0x143 : byte;
}

/* byte_of[code]: the byte that a character below STAND_INS stands for, -1 if none. */
static void fill_stand_ins(int byte_of[STAND_INS]) {
    for (int i = 0; i < STAND_INS; i++) byte_of[i] = -1;
    for (int byte = 0; byte < 256; byte++) byte_of[stand_in(byte)] = byte;
}

/* ---- texts of tokens to ids, ---- */
static const char *stored(const vm_tokenizer *t, int32_t id, size_t *length) {
    *length = t->piece_at[id + 1] - t->piece_at[id] - 1;
    return t->pieces + t->piece_at[id];
}

/* The place of a text in the table: its id, or -1 where it would go. */
static int32_t *find_text(const vm_tokenizer *t, const char *text, size_t length) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
    size_t i = (size_t)(h ^ h >> 32) & (t->table.capacity - 1);
    for (; t->table.ids[i] >= 0; i = (i + 1) & (t->table.capacity - 1)) {
        size_t other_length;
        const char *other = stored(t, t->table.ids[i], &other_length);
        if (other_length == length && memcmp(other, text, length) == 0) break;
    }
    return &t->table.ids[i];
}

static vmoer_status fill_table(vm_tokenizer *t, const char *key) {
    id_table *table = &t->table;
    table->capacity = 16;
    while (table->capacity < 2 * t->size) table->capacity *= 2;
    table->ids = vm_malloc(table->capacity, sizeof *table->ids);
    if (!table->ids) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", t->size);
    for (size_t i = 0; i < table->capacity; i++) table->ids[i] = -1;
    for (size_t id = 0; id < t->size; id++) {
        size_t length;
        const char *text = stored(t, (int32_t)id, &length);
        int32_t *place = find_text(t, text, length);
        if (*place >= 0)
            return vm_error(VMOER_ERROR_FORMAT, "%s: tokens %d and %zu have the same text", key, *place, id);
        *place = (int32_t)id;
    }
    return VMOER_OK;
}

/* ---- taking a vocabulary ---- */
static vmoer_status take_tokens(vm_tokenizer *t, const vm_vocabulary *v) {
    const char *key = v->tokens_key;
    if (v->size == 0) return vm_error(VMOER_ERROR_FORMAT, "%s: empty", key);
    if (v->size > VM_MAX_TOKENS)
        return vm_error(VMOER_ERROR_LIMIT, "%s: %zu tokens, at most %d", key, v->size, VM_MAX_TOKENS);
    t->size = v->size;
    size_t total = 0;
    for (size_t id = 0; id < t->size; id++) total += v->tokens[id].length + 1; /* cannot wrap: each lies in memory */
    t->pieces = vm_malloc(total, 1);
    t->bytes = vm_malloc(total, 1);
    t->piece_at = vm_malloc(t->size + 1, sizeof *t->piece_at);
    t->bytes_at = vm_malloc(t->size + 1, sizeof *t->bytes_at);
    t->type = vm_malloc(t->size, 1);
    if (!t->pieces || !t->bytes || !t->piece_at || !t->bytes_at || !t->type)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", t->size);
    size_t at = 0, bad;
    for (size_t id = 0; id < t->size; id++) {
        const char *text = v->tokens[id].text;
        size_t length = v->tokens[id].length;
        if (length == 0) return vm_error(VMOER_ERROR_FORMAT, "%s: token %zu is empty", key, id);
        if (memchr(text, '\0', length)) return vm_error(VMOER_ERROR_FORMAT, "%s: token %zu contains NUL", key, id);
        if (!vm_utf8_valid(text, length, &bad))
            return vm_error(VMOER_ERROR_FORMAT, "%s: token %zu is not UTF-8 at byte %zu", key, id, bad);
        t->piece_at[id] = at;
        memcpy(t->pieces + at, text, length);
        t->pieces[at + length] = '\0';
        at += length + 1;
        t->type[id] = v->types[id];
    }
    t->piece_at[t->size] = at;
    return VMOER_OK;
}

static bool is_added(const vm_tokenizer *t, int32_t id) {
    return t->type[id] == VM_TOKEN_CONTROL || t->type[id] == VM_TOKEN_USER;
}

/* The bytes each token stands for. Added tokens, and texts with a character that stands for no byte, mean themselves.
 */
static void decode_pieces(vm_tokenizer *t) {
    int byte_of[STAND_INS];
    fill_stand_ins(byte_of);
    for (int byte = 0; byte < 256; byte++) t->byte_id[byte] = -1;
    size_t end = 0;
    for (size_t id = 0; id < t->size; id++) {
        size_t length, at = 0, start = end;
        const char *text = stored(t, (int32_t)id, &length);
        bool plain = false;
        t->bytes_at[id] = start;
        while (at < length && !plain) {
            uint32_t code;
            vm_utf8_next(text, length, &at, &code); /* checked by take_tokens */
            plain = code >= STAND_INS || byte_of[code] < 0;
            if (!plain) t->bytes[end++] = (char)byte_of[code];
        }
        if (!plain && end == start + 1) t->byte_id[(uint8_t)t->bytes[start]] = (int32_t)id;
        if (plain || is_added(t, (int32_t)id)) {
            memcpy(t->bytes + start, text, length);
            end = start + length;
        }
    }
    t->bytes_at[t->size] = end;
}

static vmoer_status take_merges(vm_tokenizer *t, const vm_vocabulary *v) {
    VM_TRY(vm_merges_init(&t->merges, v->n_merges));
    char *joined = NULL;
    size_t capacity = 0;
    vmoer_status status = VMOER_OK;
    for (size_t rank = 0; rank < v->n_merges; rank++) {
        const vm_slice left = v->merges[rank].left, right = v->merges[rank].right;
        void *grown = joined;
        if (!vm_grow(&grown, &capacity, left.length + right.length, 1)) {
            status = vm_error(VMOER_ERROR_MEMORY, "no memory for merge %zu", rank);
            goto done;
        }
        joined = grown;
        memcpy(joined, left.text, left.length);
        memcpy(joined + left.length, right.text, right.length);
        int32_t a = *find_text(t, left.text, left.length), b = *find_text(t, right.text, right.length);
        int32_t made = *find_text(t, joined, left.length + right.length);
        if (a < 0 || b < 0 || made < 0) {
            status = vm_error(VMOER_ERROR_FORMAT, "%s: merge %zu: its %s is not in the vocabulary", v->merges_key, rank,
                              a < 0   ? "left part"
                              : b < 0 ? "right part"
                                      : "result");
            goto done;
        }
        if (!vm_merges_add(&t->merges, a, b, made)) {
            status = vm_error(VMOER_ERROR_FORMAT, "%s: merge %zu repeats an earlier one", v->merges_key, rank);
            goto done;
        }
    }
done:
    vm_free(joined);
    return status;
}

static int compare_pieces(const void *a, const void *b, void *tokenizer) {
    const vm_tokenizer *t = tokenizer;
    return strcmp(t->pieces + t->piece_at[*(const int32_t *)a], t->pieces + t->piece_at[*(const int32_t *)b]);
}

static vmoer_status collect_special(vm_tokenizer *t, const char *key) {
    t->special = vm_malloc(t->size, sizeof *t->special);
    if (!t->special) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", t->size);
    for (int32_t id = 0; (size_t)id < t->size; id++) {
        if (!is_added(t, id)) continue;
        size_t length;
        const char *text = stored(t, id, &length);
        if (length > MAX_SPECIAL_BYTES)
            return vm_error(VMOER_ERROR_LIMIT, "%s: special token %d has %zu bytes, at most %d", key, id, length,
                            MAX_SPECIAL_BYTES);
        t->special[t->n_special++] = id;
        t->starts_special[(uint8_t)text[0]] = true;
    }
    qsort_r(t->special, t->n_special, sizeof *t->special, compare_pieces, t);
    return VMOER_OK;
}

void vm_vocabulary_free(vm_vocabulary *v) {
    vm_free(v->tokens);
    vm_free(v->types);
    vm_free(v->merges);
}

vmoer_status vm_vocabulary_init(vm_vocabulary *v, size_t size, size_t n_merges) {
    v->size = size;
    v->n_merges = n_merges;
    v->tokens = vm_calloc(size ? size : 1, sizeof *v->tokens);
    v->types = vm_malloc(size ? size : 1, 1);
    v->merges = vm_calloc(n_merges ? n_merges : 1, sizeof *v->merges);
    if (!v->tokens || !v->types || !v->merges)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens and %zu merges", size, n_merges);
    memset(v->types, VM_TOKEN_NORMAL, size);
    return VMOER_OK;
}

vmoer_status vm_vocabulary_merge(vm_vocabulary *v, size_t rank, const char *text, size_t length) {
    const char *space = memchr(text, ' ', length);
    size_t left = space ? (size_t)(space - text) : 0, right = space ? length - left - 1 : 0;
    if (left == 0 || right == 0 || memchr(space + 1, ' ', right))
        return vm_error(VMOER_ERROR_FORMAT, "%s: merge %zu is not two tokens with a space between", v->merges_key,
                        rank);
    v->merges[rank] = (vm_merge){{text, left}, {space + 1, right}};
    return VMOER_OK;
}

vmoer_status vm_tokenizer_build(const vm_vocabulary *v, vm_tokenizer **out) {
    vm_tokenizer *t = vm_calloc(1, sizeof *t);
    if (!t) return vm_error(VMOER_ERROR_MEMORY, "no memory for a tokenizer");
    vmoer_status status;
    t->pretokenizer = v->pretokenizer;
    t->keeps_words = v->keeps_words;
    t->bos = v->bos;
    t->eos = v->eos;
    t->eot = v->eot;
    t->eom = v->eom;
    t->adds_bos = v->adds_bos;
    VM_GOTO(take_tokens(t, v));
    decode_pieces(t);
    VM_GOTO(fill_table(t, v->tokens_key));
    VM_GOTO(take_merges(t, v));
    VM_GOTO(collect_special(t, v->tokens_key));
done:
    if (status == VMOER_OK)
        *out = t;
    else
        vm_tokenizer_free(t);
    return status;
}

void vm_tokenizer_free(vm_tokenizer *t) {
    if (!t) return;
    vm_free(t->pieces);
    vm_free(t->piece_at);
    vm_free(t->bytes);
    vm_free(t->bytes_at);
    vm_free(t->type);
    vm_free(t->table.ids);
    vm_merges_free(&t->merges);
    vm_free(t->special);
    vm_free(t);
}

/* ---- encoding ---- */
vmoer_status vm_tokenizer_begin(const vm_tokenizer *t, vm_ids *out) {
    return t->adds_bos ? vm_ids_add(out, t->bos) : VMOER_OK;
}

/* First of special[low, high) whose byte `depth` is at least `byte`; all of them share their first `depth` bytes. */
static size_t narrow(const vm_tokenizer *t, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)t->pieces[t->piece_at[t->special[middle]] + depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest special token that text[length] starts with, -1 if none. User-defined tokens are text the vocabulary
 * always keeps whole; control tokens count only with `control`. */
static int32_t match_special(const vm_tokenizer *t, const char *text, size_t length, bool control) {
    int32_t found = -1;
    size_t low = 0, high = t->n_special;
    for (size_t depth = 0; depth < length; depth++) {
        int byte = (uint8_t)text[depth];
        if (byte == 0) break; /* would match the texts' ends */
        low = narrow(t, low, high, depth, byte);
        high = narrow(t, low, high, depth, byte + 1);
        if (low == high) break;
        int32_t id = t->special[low]; /* the shortest of the range comes first */
        bool ends = t->pieces[t->piece_at[id] + depth + 1] == '\0';
        if (ends && (control || t->type[id] == VM_TOKEN_USER)) found = id;
    }
    return found;
}

static int32_t next_special(const vm_tokenizer *t, const char *text, size_t length, bool control, size_t *at,
                            size_t *end) {
    for (; *at < length; ++*at) {
        int32_t id = -1;
        if (t->starts_special[(uint8_t)text[*at]]) id = match_special(t, text + *at, length - *at, control);
        if (id < 0) continue;
        *end = *at + t->piece_at[id + 1] - t->piece_at[id] - 1;
        return id;
    }
    return -1;
}

int32_t vm_tokenizer_next_special(const vm_tokenizer *t, const char *text, size_t length, size_t *at, size_t *end) {
    return next_special(t, text, length, true, at, end);
}

bool vm_tokenizer_special_begins(const vm_tokenizer *t, const char *text, size_t length) {
    if (length == 0 || !t->starts_special[(uint8_t)text[0]]) return false;
    for (size_t i = 0; i < t->n_special; i++) {
        const char *special = t->pieces + t->piece_at[t->special[i]];
        size_t n = strlen(special);
        if (t->type[t->special[i]] == VM_TOKEN_CONTROL && memcmp(text, special, n < length ? n : length) == 0)
            return true;
    }
    return false;
}

/* What one call reuses for all its pieces. */
typedef struct encoder {
    vm_bpe bpe;
    char *word; /* a piece in stand-ins */
    size_t word_capacity;
} encoder;

/* The id of the token whose stored text is the piece's; -1: none. Special tokens are found by match_special alone. */
static vmoer_status find_whole(const vm_tokenizer *t, encoder *e, const char *text, size_t length, int32_t *id) {
    void *grown = e->word;
    size_t n = 0;
    if (!vm_grow(&grown, &e->word_capacity, 2 * length, 1))
        return vm_error(VMOER_ERROR_MEMORY, "no memory to tokenize a piece of %zu bytes", length);
    e->word = grown;
    for (size_t i = 0; i < length; i++) {
        int code = stand_in((uint8_t)text[i]);
        if (code >= 0x80) e->word[n++] = (char)(0xc0 | code >> 6);
        e->word[n++] = (char)(code >= 0x80 ? 0x80 | (code & 0x3f) : code);
    }
    *id = *find_text(t, e->word, n);
    if (*id >= 0 && is_added(t, *id)) *id = -1;
    return VMOER_OK;
}

static vmoer_status encode_plain(const vm_tokenizer *t, encoder *e, const char *text, size_t length, vm_ids *out) {
    vm_pieces pieces;
    vm_pieces_begin(&pieces, t->pretokenizer, text, length);
    for (size_t start, end; vm_pieces_next(&pieces, &start, &end);) {
        int32_t id = -1;
        if (t->keeps_words) VM_TRY(find_whole(t, e, text + start, end - start, &id));
        if (id >= 0) {
            VM_TRY(vm_ids_add(out, id));
            continue;
        }
        VM_TRY(vm_bpe_begin(&e->bpe, end - start));
        for (size_t i = start; i < end; i++) {
            id = t->byte_id[(uint8_t)text[i]];
            if (id >= 0) vm_bpe_push(&e->bpe, id);
        }
        vm_bpe_merge(&e->bpe, &t->merges);
        size_t at = 0;
        while (vm_bpe_next(&e->bpe, &at, &id)) VM_TRY(vm_ids_add(out, id));
    }
    return VMOER_OK;
}

vmoer_status vm_tokenizer_encode(const vm_tokenizer *t, const char *text, size_t length, bool parse_special,
                                 vm_ids *out) {
    if (length > MAX_TEXT) return vm_error(VMOER_ERROR_LIMIT, "a text of %zu bytes, at most %d", length, MAX_TEXT);
    size_t bad;
    if (!vm_utf8_valid(text, length, &bad)) return vm_error(VMOER_ERROR_DATA, "the text is not UTF-8 at byte %zu", bad);
    encoder e = {0};
    vmoer_status status = VMOER_OK;
    for (size_t start = 0, at, end; (at = start) < length; start = end) {
        int32_t id = next_special(t, text, length, parse_special, &at, &end);
        VM_GOTO(encode_plain(t, &e, text + start, at - start, out));
        if (id < 0) break;
        VM_GOTO(vm_ids_add(out, id));
    }
done:
    vm_bpe_free(&e.bpe);
    vm_free(e.word);
    return status;
}

/* ---- decoding and facts ---- */
static bool in_range(const vm_tokenizer *t, int32_t id) { return id >= 0 && (size_t)id < t->size; }

vmoer_status vm_tokenizer_decode(const vm_tokenizer *t, const int32_t *ids, size_t count, bool keep_special,
                                 char **text, size_t *length) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        if (!in_range(t, ids[i]))
            return vm_error(VMOER_ERROR_ARGUMENT, "token id %d, the vocabulary has %zu tokens", ids[i], t->size);
        if (!vm_add(total, t->bytes_at[ids[i] + 1] - t->bytes_at[ids[i]], &total))
            return vm_error(VMOER_ERROR_LIMIT, "the text of %zu tokens is too long", count);
    }
    char *joined = total < SIZE_MAX ? vm_malloc(total + 1, 1) : NULL;
    if (!joined) return vm_error(VMOER_ERROR_MEMORY, "no memory for a text of %zu bytes", total);
    size_t end = 0;
    for (size_t i = 0; i < count; i++) {
        if (!keep_special && vm_tokenizer_is_special(t, ids[i])) continue;
        size_t size = t->bytes_at[ids[i] + 1] - t->bytes_at[ids[i]];
        memcpy(joined + end, t->bytes + t->bytes_at[ids[i]], size);
        end += size;
    }
    joined[end] = '\0';
    *text = joined;
    *length = end;
    return VMOER_OK;
}

size_t vm_tokenizer_size(const vm_tokenizer *t) { return t->size; }
const char *vm_tokenizer_piece(const vm_tokenizer *t, int32_t id) {
    return in_range(t, id) ? t->pieces + t->piece_at[id] : NULL;
}
bool vm_tokenizer_is_special(const vm_tokenizer *t, int32_t id) {
    return in_range(t, id) && t->type[id] == VM_TOKEN_CONTROL;
}
int32_t vm_tokenizer_bos(const vm_tokenizer *t) { return t->bos; }
int32_t vm_tokenizer_eos(const vm_tokenizer *t) { return t->eos; }
bool vm_tokenizer_adds_bos(const vm_tokenizer *t) { return t->adds_bos; }

bool vm_tokenizer_is_end(const vm_tokenizer *t, int32_t id) {
    static const char *const names[] = {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>",
                                        "<|eom_id|>",    "<|return|>", "<|call|>",        "<｜end▁of▁sentence｜>",
                                        "</s>"};
    if (!in_range(t, id)) return false;
    if (id == t->eos || id == t->eot || id == t->eom) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (vm_tokenizer_is_special(t, id) && strcmp(vm_tokenizer_piece(t, id), names[i]) == 0) return true;
    return false;
}
