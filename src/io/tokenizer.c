/* tokenizer.c: taking a vocabulary, and decoding. A vocabulary is untrusted: everything encode and decode rely on is
 * checked when it is taken. */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_ADDED_BYTES = 256 }; /* bounds the time to look for an added token at a position */

#define SPACE_MARK "\u2581" /* the space of the alphabet CHARACTERS */

void vm_ids_free(vm_ids *ids) {
    vm_free(ids->ids);
    *ids = (vm_ids){0};
}

/* ---- what the files' readers fill ---- */
void vm_vocabulary_free(vm_vocabulary *v) {
    vm_free(v->tokens);
    vm_free(v->types);
    vm_free(v->flags);
    vm_free(v->merges);
    vm_free(v->scores);
}

vmoer_status vm_vocabulary_init(vm_vocabulary *v, size_t size, size_t n_merges) {
    if (size == 0) return vm_error(VMOER_ERROR_FORMAT, "%s: empty", v->tokens_key);
    if (size > VM_MAX_TOKENS)
        return vm_error(VMOER_ERROR_LIMIT, "%s: %zu tokens, at most %d", v->tokens_key, size, VM_MAX_TOKENS);
    v->size = size;
    v->n_merges = n_merges;
    v->tokens = vm_calloc(size, sizeof *v->tokens);
    v->types = vm_malloc(size, 1);
    v->flags = vm_calloc(size, 1);
    v->merges = vm_calloc(n_merges ? n_merges : 1, sizeof *v->merges);
    if (!v->tokens || !v->types || !v->flags || !v->merges)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens and %zu merges", size, n_merges);
    memset(v->types, VM_TOKEN_NORMAL, size);
    v->rules.unknown = v->rules.bos = v->rules.eos = v->rules.eot = v->rules.eom = v->rules.pad = -1;
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

/* ---- texts of tokens ---- */
static vmoer_status take_tokens(vm_tokenizer *t, const vm_vocabulary *v) {
    const char *key = v->tokens_key;
    t->size = v->size;
    size_t total = 0;
    for (size_t id = 0; id < t->size; id++) total += v->tokens[id].length + 1; /* cannot wrap: each lies in memory */
    t->pieces = vm_malloc(total, 1);
    t->bytes = vm_malloc(total, 1);
    t->piece_at = vm_malloc(t->size + 1, sizeof *t->piece_at);
    t->bytes_at = vm_malloc(t->size + 1, sizeof *t->bytes_at);
    t->type = vm_malloc(t->size, 1);
    t->flags = vm_malloc(t->size, 1);
    if (!t->pieces || !t->bytes || !t->piece_at || !t->bytes_at || !t->type || !t->flags)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", t->size);
    memcpy(t->type, v->types, t->size);
    memcpy(t->flags, v->flags, t->size);
    size_t at = 0, bad;
    for (size_t id = 0; id < t->size; id++) {
        const char *text = v->tokens[id].text;
        size_t length = v->tokens[id].length;
        if (text && length == 0) return vm_error(VMOER_ERROR_FORMAT, "%s: token %zu is empty", key, id);
        if (text && memchr(text, '\0', length))
            return vm_error(VMOER_ERROR_FORMAT, "%s: token %zu contains NUL", key, id);
        if (text && !vm_utf8_valid(text, length, &bad))
            return vm_error(VMOER_ERROR_FORMAT, "%s: token %zu is not UTF-8 at byte %zu", key, id, bad);
        t->piece_at[id] = at;
        if (text) memcpy(t->pieces + at, text, length);
        t->pieces[at + length] = '\0';
        at += length + 1;
    }
    t->piece_at[t->size] = at;
    return VMOER_OK;
}

/* The place of a text in the table: its id, or -1 where it would go. */
static int32_t *find_place(const vm_tokenizer *t, const char *text, size_t length) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
    size_t i = (size_t)(h ^ h >> 32) & (t->table_size - 1);
    for (; t->table[i] >= 0; i = (i + 1) & (t->table_size - 1)) {
        vm_slice other = vm_tokenizer_stored(t, t->table[i]);
        if (other.length == length && memcmp(other.text, text, length) == 0) break;
    }
    return &t->table[i];
}

int32_t vm_tokenizer_find(const vm_tokenizer *t, const char *text, size_t length) {
    return *find_place(t, text, length);
}

static vmoer_status fill_table(vm_tokenizer *t, const char *key) {
    t->table_size = 16;
    while (t->table_size < 2 * t->size) t->table_size *= 2;
    t->table = vm_malloc(t->table_size, sizeof *t->table);
    if (!t->table) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", t->size);
    for (size_t i = 0; i < t->table_size; i++) t->table[i] = -1;
    for (size_t id = 0; id < t->size; id++) {
        vm_slice text = vm_tokenizer_stored(t, (int32_t)id);
        if (text.length == 0) continue; /* no token of this id */
        int32_t *place = find_place(t, text.text, text.length);
        if (*place >= 0)
            return vm_error(VMOER_ERROR_FORMAT, "%s: tokens %d and %zu have the same text", key, *place, id);
        *place = (int32_t)id;
    }
    return VMOER_OK;
}

/* ---- GPT-2's printable stand-ins for bytes ---- */
enum { STAND_INS = 0x144 };

/* The others follow each other from U+0100. */
uint32_t vm_tokenizer_stand_in(uint8_t byte) {
    if (byte < 0x21) return 0x100u + byte;
    if (byte >= 0x7f && byte <= 0xa0) return 0x121u + byte - 0x7f;
    return byte == 0xad ? 0x143 : byte;
}

/* A text in stand-ins as bytes; 0: it has a character that stands for none. */
static size_t from_stand_ins(vm_slice s, const int byte_of[STAND_INS], char *out) {
    size_t n = 0;
    for (size_t at = 0; at < s.length;) {
        uint32_t code;
        vm_utf8_next(s.text, s.length, &at, &code); /* checked by take_tokens */
        if (code >= STAND_INS || byte_of[code] < 0) return 0;
        out[n++] = (char)byte_of[code];
    }
    return n;
}

/* ---- SentencePiece's ---- */
static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte that "<0x0A>" is; -1: it is none. */
static int byte_of_text(vm_slice s) {
    if (s.length != 6 || memcmp(s.text, "<0x", 3) != 0 || s.text[5] != '>') return -1;
    int high = hex_digit(s.text[3]), low = hex_digit(s.text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

static size_t from_characters(vm_slice s, char *out) {
    int byte = byte_of_text(s);
    size_t n = 0, mark = strlen(SPACE_MARK);
    if (byte >= 0) {
        out[0] = (char)byte;
        return 1;
    }
    for (size_t at = 0; at < s.length;) {
        bool space = s.length - at >= mark && memcmp(s.text + at, SPACE_MARK, mark) == 0;
        out[n++] = space ? ' ' : s.text[at];
        at += space ? mark : 1;
    }
    return n;
}

/* The bytes each token stands for. In BYTES added tokens, and texts with a character that stands for no byte, mean
 * themselves. */
static void decode_pieces(vm_tokenizer *t) {
    int byte_of[STAND_INS];
    for (int i = 0; i < STAND_INS; i++) byte_of[i] = -1;
    for (int byte = 0; byte < 256; byte++) byte_of[vm_tokenizer_stand_in((uint8_t)byte)] = byte;
    size_t end = 0;
    for (size_t id = 0; id < t->size; id++) {
        vm_slice s = vm_tokenizer_stored(t, (int32_t)id);
        char *out = t->bytes + end;
        size_t n = 0;
        t->bytes_at[id] = end;
        if (t->rules.alphabet == VM_ALPHABET_CHARACTERS)
            n = from_characters(s, out);
        else if (!vm_tokenizer_is_added(t, (int32_t)id))
            n = from_stand_ins(s, byte_of, out);
        if (n == 0) {
            memcpy(out, s.text, s.length);
            n = s.length;
        }
        end += n;
    }
    t->bytes_at[t->size] = end;
}

/* The token of each byte. */
static void find_bytes(vm_tokenizer *t) {
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        size_t length = 6;
        if (t->rules.alphabet == VM_ALPHABET_BYTES)
            length = vm_utf8_put(vm_tokenizer_stand_in((uint8_t)byte), text);
        else
            snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        int32_t id = vm_tokenizer_find(t, text, length);
        t->byte_id[byte] = id >= 0 && !(t->flags[id] & VM_ADDED_OUTSIDE) ? id : -1;
    }
}

/* A file says which tokens are bytes; those are then what their text says. */
static vmoer_status check_bytes(const vm_tokenizer *t, const char *key) {
    for (size_t id = 0; id < t->size; id++) {
        if (t->type[id] != VM_TOKEN_BYTE || t->rules.alphabet != VM_ALPHABET_CHARACTERS) continue;
        vm_slice s = vm_tokenizer_stored(t, (int32_t)id);
        if (byte_of_text(s) < 0)
            return vm_error(VMOER_ERROR_FORMAT, "%s: token %zu, \"%.*s\", should be a byte from <0x00> to <0xFF>", key,
                            id, (int)(s.length < 32 ? s.length : 32), s.text);
    }
    return VMOER_OK;
}

/* ---- added tokens ---- */
static int by_text(const void *a, const void *b) {
    const vm_added *x = a, *y = b;
    size_t common = x->text.length < y->text.length ? x->text.length : y->text.length;
    int order = memcmp(x->text.text, y->text.text, common);
    if (order) return order;
    if (x->text.length != y->text.length) return x->text.length < y->text.length ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* One that is looked for in normalised text is normalised itself, as if it stood alone. */
static vmoer_status put_added(vm_tokenizer *t, int32_t id, const char *key) {
    bool normalized = t->flags[id] & VM_ADDED_NORMALIZED;
    vm_added_list *list = normalized ? &t->normalized : &t->added;
    vm_slice text = vm_tokenizer_stored(t, id);
    vm_bytes buffers[2] = {{0}, {0}};
    vmoer_status status = VMOER_OK;
    if (normalized && text.length <= MAX_ADDED_BYTES)
        VM_GOTO(vm_steps_apply(&t->rules.normalizer, true, buffers, &text));
    if (text.length > MAX_ADDED_BYTES)
        VM_GOTO(vm_error(VMOER_ERROR_LIMIT, "%s: special token %d has %zu bytes, at most %d", key, id, text.length,
                         MAX_ADDED_BYTES));
    if (text.length == 0) goto done; /* the normalizer left nothing of it */
    if (normalized) {
        char *copy = vm_arena_strndup(t->arena, text.text, text.length);
        if (!copy) VM_GOTO(vm_error(VMOER_ERROR_MEMORY, "no memory for token %d", id));
        text.text = copy;
    }
    list->items[list->count++] = (vm_added){text, id};
    list->starts[(uint8_t)text.text[0]] = true;
done:
    vm_bytes_free(&buffers[0]);
    vm_bytes_free(&buffers[1]);
    return status;
}

static vmoer_status collect_added(vm_tokenizer *t, const char *key) {
    size_t n[2] = {0, 0};
    for (size_t id = 0; id < t->size; id++) {
        if (vm_tokenizer_is_added(t, (int32_t)id)) n[(t->flags[id] & VM_ADDED_NORMALIZED) != 0]++;
    }
    t->arena = vm_arena_create();
    t->added.items = vm_malloc(n[0] + 1, sizeof *t->added.items);
    t->normalized.items = vm_malloc(n[1] + 1, sizeof *t->normalized.items);
    if (!t->arena || !t->added.items || !t->normalized.items)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", t->size);
    for (size_t id = 0; id < t->size; id++) {
        if (vm_tokenizer_is_added(t, (int32_t)id)) VM_TRY(put_added(t, (int32_t)id, key));
    }
    qsort(t->added.items, t->added.count, sizeof *t->added.items, by_text);
    qsort(t->normalized.items, t->normalized.count, sizeof *t->normalized.items, by_text);
    return VMOER_OK;
}

/* ---- the whole ---- */
vmoer_status vm_tokenizer_build(const vm_vocabulary *v, vm_tokenizer **out) {
    vm_tokenizer *t = vm_calloc(1, sizeof *t);
    if (!t) return vm_error(VMOER_ERROR_MEMORY, "no memory for a tokenizer");
    vmoer_status status;
    t->rules = v->rules;
    VM_GOTO(take_tokens(t, v));
    VM_GOTO(fill_table(t, v->tokens_key));
    VM_GOTO(check_bytes(t, v->tokens_key));
    decode_pieces(t);
    find_bytes(t);
    VM_GOTO(vm_tokenizer_take_merges(t, v));
    VM_GOTO(collect_added(t, v->tokens_key));
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
    vm_free(t->flags);
    vm_free(t->table);
    vm_merges_free(&t->merges);
    vm_free(t->added.items);
    vm_free(t->normalized.items);
    vm_arena_free(t->arena);
    vm_free(t);
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
    if (t->rules.strips_space && end > 0 && joined[0] == ' ') memmove(joined, joined + 1, --end);
    joined[end] = '\0';
    *text = joined;
    *length = end;
    return VMOER_OK;
}

size_t vm_tokenizer_size(const vm_tokenizer *t) { return t->size; }
const char *vm_tokenizer_piece(const vm_tokenizer *t, int32_t id) {
    return in_range(t, id) ? t->pieces + t->piece_at[id] : NULL;
}
const char *vm_tokenizer_bytes(const vm_tokenizer *t, int32_t id, size_t *length) {
    *length = in_range(t, id) ? t->bytes_at[id + 1] - t->bytes_at[id] : 0;
    return in_range(t, id) ? t->bytes + t->bytes_at[id] : "";
}
bool vm_tokenizer_is_special(const vm_tokenizer *t, int32_t id) {
    return in_range(t, id) && (t->type[id] == VM_TOKEN_CONTROL || t->type[id] == VM_TOKEN_UNKNOWN);
}
int32_t vm_tokenizer_bos(const vm_tokenizer *t) { return t->rules.bos; }
int32_t vm_tokenizer_eos(const vm_tokenizer *t) { return t->rules.eos; }
bool vm_tokenizer_adds_bos(const vm_tokenizer *t) { return t->rules.adds_bos; }

bool vm_tokenizer_is_end(const vm_tokenizer *t, int32_t id) {
    static const char *const names[] = {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>",
                                        "<|eom_id|>",    "<|return|>", "<|call|>",        "<｜end▁of▁sentence｜>",
                                        "</s>"};
    if (!in_range(t, id)) return false;
    if (id == t->rules.eos || id == t->rules.eot || id == t->rules.eom) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (vm_tokenizer_is_special(t, id) && strcmp(vm_tokenizer_piece(t, id), names[i]) == 0) return true;
    return false;
}
