/* chat_text.c: a chat template's values as text (as Python prints them, and as JSON), and the methods of strings. */
#include "io/chat_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_TEXT = 16 << 20 };

vmoer_status vm_buffer_add(vm_render *r, vm_text_buffer *b, vm_piece s) {
    VM_TRY(vm_chat_charge(r, s.length));
    if (s.length > MAX_TEXT || b->length + s.length > MAX_TEXT)
        return vm_error(VMOER_ERROR_LIMIT, "the template's text takes more than %d MiB", MAX_TEXT >> 20);
    size_t need = b->length + s.length + 1;
    if (!vm_grow((void **)&b->text, &b->text_capacity, need, 1) ||
        !vm_grow((void **)&b->given, &b->given_capacity, need, 1))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the template's text");
    if (s.length) memcpy(b->text + b->length, s.text, s.length);
    if (s.length && s.given)
        memcpy(b->given + b->length, s.given, s.length);
    else
        memset(b->given + b->length, 0, s.length);
    b->length += s.length;
    b->text[b->length] = '\0';
    return VMOER_OK;
}

vm_piece vm_buffer_piece(const vm_text_buffer *b, size_t from) {
    return b->text ? (vm_piece){b->text + from, b->length - from, b->given + from} : vm_piece_own("", 0);
}

void vm_buffer_free(vm_text_buffer *b) {
    vm_free(b->text);
    vm_free(b->given);
}

static vmoer_status add_text(vm_render *r, vm_text_buffer *b, const char *text) {
    return vm_buffer_add(r, b, vm_piece_own(text, strlen(text)));
}

/* Room for a string whose bytes are to be filled in; `given` where `mixed`. */
static vmoer_status new_text(vm_render *r, size_t length, bool mixed, char **text, char **given) {
    *given = NULL;
    VM_TRY(vm_chat_charge(r, length));
    VM_TRY(vm_chat_alloc(r, length, 1, (void **)text));
    return mixed ? vm_chat_alloc(r, length, 1, (void **)given) : VMOER_OK;
}

static void put(char *text, char *given, vm_piece s) {
    if (s.length) memcpy(text, s.text, s.length);
    if (given && s.length && s.given) memcpy(given, s.given, s.length);
    if (given && !s.given) memset(given, 0, s.length);
}

vmoer_status vm_text_concat(vm_render *r, vm_piece a, vm_piece b, vm_value *out) {
    char *text, *given;
    VM_TRY(new_text(r, a.length + b.length, a.given || b.given, &text, &given));
    put(text, given, a);
    put(text + a.length, given ? given + a.length : NULL, b);
    *out = vm_value_string((vm_piece){text, a.length + b.length, given});
    return VMOER_OK;
}

vmoer_status vm_text_copy(vm_render *r, vm_piece s, vm_value *out) {
    if (s.given && !memchr(s.given, 1, s.length)) s.given = NULL;
    return vm_text_concat(r, s, vm_piece_own("", 0), out);
}

/* The fewest digits that give the number back, laid out as Python does. */
static void float_text(double v, char out[40]) {
    if (!isfinite(v)) {
        strcpy(out, isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    char digits[40];
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, v);
    while (strtod(digits, NULL) != v && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision - exponent;
        snprintf(out, 40, "%.*f", decimals > 1 ? decimals : 1, v);
    } else {
        strcpy(out, digits); /* both have a sign and at least two digits in the exponent */
    }
}

static vmoer_status add_number(vm_render *r, vm_text_buffer *b, vm_value v) {
    char text[40];
    if (v.kind == VM_VALUE_INT)
        snprintf(text, sizeof text, "%lld", (long long)v.i);
    else
        float_text(v.f, text);
    return add_text(r, b, text);
}

/* ---- as Python prints ---- */

static vmoer_status add_quoted(vm_render *r, vm_text_buffer *b, vm_piece s) {
    char quote = s.length && memchr(s.text, '\'', s.length) && !memchr(s.text, '"', s.length) ? '"' : '\'';
    VM_TRY(vm_buffer_add(r, b, vm_piece_own(&quote, 1)));
    for (size_t at = 0, start = 0; at < s.length; start = at) {
        uint32_t c = 0;
        char escape[12] = "";
        vm_utf8_next(s.text, s.length, &at, &c);
        if (c == (uint32_t)quote || c == '\\')
            snprintf(escape, sizeof escape, "\\%c", (int)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(escape, sizeof escape, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad)
            snprintf(escape, sizeof escape, "\\x%02x", (unsigned)c);
        else if (c > 0x20 && c <= 0xffff && vm_unicode_classify(c) == VM_UNICODE_SPACE)
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)c);
        if (*escape)
            VM_TRY(add_text(r, b, escape));
        else
            VM_TRY(vm_buffer_add(r, b, vm_piece_part(s, start, at - start)));
    }
    return vm_buffer_add(r, b, vm_piece_own(&quote, 1));
}

static vmoer_status add_repr(vm_render *r, vm_text_buffer *b, vm_value v) {
    if (v.kind == VM_VALUE_STRING) return add_quoted(r, b, v.s);
    if (v.kind == VM_VALUE_UNDEFINED) return add_text(r, b, "Undefined");
    return vm_value_print(r, b, v);
}

vmoer_status vm_value_print(vm_render *r, vm_text_buffer *b, vm_value v) {
    switch (v.kind) {
    case VM_VALUE_UNDEFINED:
        return VMOER_OK;
    case VM_VALUE_NONE:
        return add_text(r, b, "None");
    case VM_VALUE_BOOL:
        return add_text(r, b, v.b ? "True" : "False");
    case VM_VALUE_INT:
    case VM_VALUE_FLOAT:
        return add_number(r, b, v);
    case VM_VALUE_STRING:
        return vm_buffer_add(r, b, v.s);
    case VM_VALUE_LIST:
        if (v.list->form > VM_TUPLE) break;
        VM_TRY(add_text(r, b, v.list->form == VM_LIST ? "[" : "("));
        for (size_t i = 0; i < v.list->count; i++) {
            if (i) VM_TRY(add_text(r, b, ", "));
            VM_TRY(add_repr(r, b, v.list->items[i]));
        }
        return add_text(r, b, v.list->form == VM_LIST ? "]" : v.list->count == 1 ? ",)" : ")");
    case VM_VALUE_DICT:
        VM_TRY(add_text(r, b, "{"));
        for (size_t i = 0; i < v.dict->count; i++) {
            if (i) VM_TRY(add_text(r, b, ", "));
            VM_TRY(add_quoted(r, b, v.dict->keys[i]));
            VM_TRY(add_text(r, b, ": "));
            VM_TRY(add_repr(r, b, v.dict->values[i]));
        }
        return add_text(r, b, "}");
    default:
        break;
    }
    return vm_error(VMOER_ERROR_UNSUPPORTED, "%s has no text", vm_value_kind_name(v));
}

typedef struct json_style {
    int64_t indent;
    bool ascii, sorted;
} json_style;
static vmoer_status add_json(vm_render *r, vm_text_buffer *b, vm_value v, const json_style *style, int level);

static vmoer_status as_string(vm_render *r, vm_value v, const json_style *style, vm_value *out) {
    vm_text_buffer b = {0};
    vmoer_status status = style ? add_json(r, &b, v, style, 0) : vm_value_print(r, &b, v);
    if (status == VMOER_OK) status = vm_text_copy(r, vm_buffer_piece(&b, 0), out);
    vm_buffer_free(&b);
    return status;
}

vmoer_status vm_value_text(vm_render *r, vm_value v, vm_piece *out) {
    *out = vm_piece_own("", 0);
    if (v.kind != VM_VALUE_STRING && v.kind != VM_VALUE_UNDEFINED) VM_TRY(as_string(r, v, NULL, &v));
    if (v.kind == VM_VALUE_STRING) *out = v.s;
    return VMOER_OK;
}

/* ---- as JSON: what Python's json.dumps writes ---- */

static vmoer_status add_json_string(vm_render *r, vm_text_buffer *b, vm_piece s, bool ascii) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    VM_TRY(add_text(r, b, "\""));
    for (size_t at = 0, start = 0; at < s.length; start = at) {
        uint32_t c = 0;
        char escape[16] = "";
        vm_utf8_next(s.text, s.length, &at, &c);
        const char *known = c && c < 0x80 ? strchr(from, (int)c) : NULL;
        if (known)
            snprintf(escape, sizeof escape, "\\%c", to[known - from]);
        else if (c < 0x20 || (ascii && c > 0x7e && c <= 0xffff))
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)c);
        else if (ascii && c > 0xffff)
            snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xd800 + ((unsigned)c - 0x10000) / 1024,
                     0xdc00 + (unsigned)c % 1024);
        if (*escape)
            VM_TRY(add_text(r, b, escape));
        else
            VM_TRY(vm_buffer_add(r, b, vm_piece_part(s, start, at - start)));
    }
    return add_text(r, b, "\"");
}

static vmoer_status add_break(vm_render *r, vm_text_buffer *b, bool more, const json_style *style, int level) {
    if (style->indent < 0) return add_text(r, b, more ? ", " : "");
    VM_TRY(add_text(r, b, more ? ",\n" : "\n"));
    for (int64_t i = 0; i < style->indent * level; i++) VM_TRY(add_text(r, b, " "));
    return VMOER_OK;
}

static int order_keys(const void *a, const void *b, void *keys) {
    const vm_piece *k = keys, x = k[*(const size_t *)a], y = k[*(const size_t *)b];
    size_t common = x.length < y.length ? x.length : y.length;
    int order = common ? memcmp(x.text, y.text, common) : 0;
    return order ? order : x.length < y.length ? -1 : x.length > y.length;
}

static vmoer_status add_json_dict(vm_render *r, vm_text_buffer *b, const vm_dict *d, const json_style *style,
                                  int level) {
    size_t *order;
    VM_TRY(vm_chat_charge(r, 64 * d->count));
    VM_TRY(vm_chat_alloc(r, d->count, sizeof *order, (void **)&order));
    for (size_t i = 0; i < d->count; i++) order[i] = i;
    if (style->sorted) qsort_r(order, d->count, sizeof *order, order_keys, d->keys);
    VM_TRY(add_text(r, b, "{"));
    for (size_t i = 0; i < d->count; i++) {
        if (i || style->indent >= 0) VM_TRY(add_break(r, b, i > 0, style, level + 1));
        VM_TRY(add_json_string(r, b, d->keys[order[i]], style->ascii));
        VM_TRY(add_text(r, b, ": "));
        VM_TRY(add_json(r, b, d->values[order[i]], style, level + 1));
    }
    if (d->count) VM_TRY(add_break(r, b, false, style, level));
    return add_text(r, b, "}");
}

static vmoer_status add_json(vm_render *r, vm_text_buffer *b, vm_value v, const json_style *style, int level) {
    switch (v.kind) {
    case VM_VALUE_NONE:
        return add_text(r, b, "null");
    case VM_VALUE_BOOL:
        return add_text(r, b, v.b ? "true" : "false");
    case VM_VALUE_STRING:
        return add_json_string(r, b, v.s, style->ascii);
    case VM_VALUE_DICT:
        return add_json_dict(r, b, v.dict, style, level);
    case VM_VALUE_INT:
        return add_number(r, b, v);
    case VM_VALUE_FLOAT:
        if (!isfinite(v.f)) return add_text(r, b, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
        return add_number(r, b, v);
    case VM_VALUE_LIST:
        if (v.list->form > VM_TUPLE) break;
        VM_TRY(add_text(r, b, "["));
        for (size_t i = 0; i < v.list->count; i++) {
            if (i || style->indent >= 0) VM_TRY(add_break(r, b, i > 0, style, level + 1));
            VM_TRY(add_json(r, b, v.list->items[i], style, level + 1));
        }
        if (v.list->count) VM_TRY(add_break(r, b, false, style, level));
        return add_text(r, b, "]");
    default:
        break;
    }
    return vm_error(VMOER_ERROR_DATA, "tojson: %s is no JSON", vm_value_kind_name(v));
}

vmoer_status vm_value_json(vm_render *r, vm_value v, int64_t indent, bool ascii, bool sorted, vm_value *out) {
    return as_string(r, v, &(json_style){indent, ascii, sorted}, out);
}

/* ---- methods of strings ---- */

bool vm_text_is_method(vm_value_kind kind, vm_piece name) {
    static const char *const str = " capitalize casefold center count encode endswith expandtabs find format "
                                   "format_map index isalnum isalpha isascii "
                                   "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle "
                                   "isupper join ljust lower lstrip maketrans "
                                   "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit "
                                   "rstrip split splitlines startswith strip "
                                   "swapcase title translate upper zfill ";
    static const char *const dict = " clear copy fromkeys get items keys pop popitem setdefault update values ";
    static const char *const list = " append clear copy count extend index insert pop remove reverse sort ";
    const char *names = kind == VM_VALUE_STRING ? str
                        : kind == VM_VALUE_DICT ? dict
                        : kind == VM_VALUE_LIST ? list
                                                : "";
    char word[16];
    if (name.length > 12 || memchr(name.text, ' ', name.length)) return false;
    snprintf(word, sizeof word, " %.*s ", (int)name.length, name.text);
    return strlen(word) == name.length + 2 && name.length && strstr(names, word);
}

/* Whether the character is one to strip: of `set`, or white space where there is no set. */
static bool is_of(uint32_t c, const vm_piece *set) {
    if (!set) return vm_chat_is_space(c);
    for (size_t at = 0; at < set->length;) {
        uint32_t member = 0;
        vm_utf8_next(set->text, set->length, &at, &member);
        if (member == c) return true;
    }
    return false;
}

static vmoer_status strip(vm_render *r, vm_piece s, const vm_piece *set, bool left, bool right, vm_value *out) {
    uint32_t c = 0;
    VM_TRY(vm_chat_charge(r, 0));
    while (left && s.length) {
        size_t at = 0;
        VM_TRY(vm_chat_charge(r, set ? set->length : 0));
        vm_utf8_next(s.text, s.length, &at, &c);
        if (!is_of(c, set)) break;
        s = vm_piece_part(s, at, s.length - at);
    }
    while (right && s.length) {
        size_t start = s.length - 1, at;
        VM_TRY(vm_chat_charge(r, set ? set->length : 0));
        while (start && ((uint8_t)s.text[start] & 0xc0) == 0x80) start--;
        at = start;
        vm_utf8_next(s.text, s.length, &at, &c);
        if (!is_of(c, set)) break;
        s.length = start;
    }
    *out = vm_value_string(s);
    return VMOER_OK;
}

static vmoer_status not_ascii(vm_piece s, vm_piece name) {
    for (size_t i = 0; i < s.length; i++) {
        if ((uint8_t)s.text[i] >= 0x80)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%.*s: '%.*s' is not ASCII", VM_PIECE(name), VM_PIECE(s));
    }
    return VMOER_OK;
}

static vmoer_status change_case(vm_render *r, vm_piece s, vm_piece name, vm_value *out) {
    bool upper = vm_piece_is(name, "upper"), title = vm_piece_is(name, "title"), first = true;
    VM_TRY(not_ascii(s, name));
    VM_TRY(vm_text_copy(r, s, out));
    for (size_t i = 0; i < s.length; i++) {
        char *c = (char *)out->s.text + i; /* the copy that was just made */
        bool small = *c >= 'a' && *c <= 'z', capital = *c >= 'A' && *c <= 'Z';
        bool up = upper || ((title || vm_piece_is(name, "capitalize")) && first);
        if (small && up) *c = (char)(*c - 32);
        if (capital && !up) *c = (char)(*c + 32);
        first = title && !small && !capital;
    }
    return VMOER_OK;
}

static vmoer_status replace(vm_render *r, vm_piece s, vm_piece old, vm_piece new, int64_t limit, vm_value *out) {
    vm_text_buffer b = {0};
    vmoer_status status = VMOER_OK;
    size_t at = 0, from = 0; /* text before `from` is in b */
    for (int64_t n = 0; (limit < 0 || n < limit) && status == VMOER_OK; n++) {
        const char *hit = at > s.length ? NULL
                          : old.length  ? memmem(s.text + at, s.length - at, old.text, old.length)
                                        : s.text + at;
        if (!hit) break;
        size_t offset = (size_t)(hit - s.text);
        status = vm_buffer_add(r, &b, vm_piece_part(s, from, offset - from));
        if (status == VMOER_OK) status = vm_buffer_add(r, &b, new);
        from = at = offset + old.length;
        if (!old.length) { /* between all characters */
            uint32_t c;
            if (at == s.length)
                at++;
            else
                vm_utf8_next(s.text, s.length, &at, &c);
        }
    }
    if (status == VMOER_OK) status = vm_buffer_add(r, &b, vm_piece_part(s, from, s.length - from));
    if (status == VMOER_OK) status = vm_text_copy(r, vm_buffer_piece(&b, 0), out);
    vm_buffer_free(&b);
    return status;
}

typedef struct pieces {
    vm_value *items;
    size_t count, capacity;
} pieces;

static vmoer_status add_piece(vm_render *r, pieces *p, vm_piece s) {
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 4;
        vm_value *grown;
        VM_TRY(vm_chat_alloc(r, capacity, sizeof *grown, (void **)&grown));
        if (p->count) memcpy(grown, p->items, p->count * sizeof *grown);
        p->items = grown;
        p->capacity = capacity;
    }
    p->items[p->count++] = vm_value_string(s);
    return vm_chat_charge(r, 0);
}

static vmoer_status split(vm_render *r, vm_piece s, const vm_piece *by, int64_t limit, vm_value *out) {
    pieces p = {NULL, 0, 0};
    size_t at = 0, start;
    VM_TRY(vm_chat_charge(r, s.length));
    if (by && !by->length) return vm_error(VMOER_ERROR_DATA, "split: an empty separator");
    for (int64_t n = 0; by; n++) {
        const char *hit = limit >= 0 && n >= limit ? NULL : memmem(s.text + at, s.length - at, by->text, by->length);
        size_t end = hit ? (size_t)(hit - s.text) : s.length;
        VM_TRY(add_piece(r, &p, vm_piece_part(s, at, end - at)));
        if (!hit) break;
        at = end + by->length;
    }
    for (int64_t n = 0; !by; n++) {
        uint32_t c = 0;
        for (start = at; at < s.length && (vm_utf8_next(s.text, s.length, &at, &c), vm_chat_is_space(c));) start = at;
        if (start == s.length) break;
        if (limit >= 0 && n >= limit) { /* the rest, with the space at its end */
            VM_TRY(add_piece(r, &p, vm_piece_part(s, start, s.length - start)));
            break;
        }
        size_t end = at;
        while (at < s.length && (vm_utf8_next(s.text, s.length, &at, &c), !vm_chat_is_space(c))) end = at;
        VM_TRY(add_piece(r, &p, vm_piece_part(s, start, end - start)));
    }
    return vm_value_list(r, VM_LIST, p.items, p.count, out);
}

static vmoer_status join(vm_render *r, vm_piece between, vm_value list, vm_value *out) {
    const vm_value *items;
    size_t count;
    vm_text_buffer b = {0};
    VM_TRY(vm_value_items(r, list, &items, &count));
    vmoer_status status = VMOER_OK;
    for (size_t i = 0; i < count && status == VMOER_OK; i++) {
        if (items[i].kind != VM_VALUE_STRING)
            status = vm_error(VMOER_ERROR_DATA, "join: %s among the strings", vm_value_kind_name(items[i]));
        if (status == VMOER_OK && i) status = vm_buffer_add(r, &b, between);
        if (status == VMOER_OK) status = vm_buffer_add(r, &b, items[i].s);
    }
    if (status == VMOER_OK) status = vm_text_copy(r, vm_buffer_piece(&b, 0), out);
    vm_buffer_free(&b);
    return status;
}

static vmoer_status want_string(vm_piece name, vm_value v, bool none_too) {
    if (v.kind == VM_VALUE_STRING || (none_too && (v.kind == VM_VALUE_NONE || v.kind == VM_VALUE_MISSING)))
        return VMOER_OK;
    return vm_error(VMOER_ERROR_DATA, "%.*s by %s", VM_PIECE(name), vm_value_kind_name(v));
}

static vmoer_status want_count(vm_piece name, vm_value v, int64_t *out) {
    *out = v.kind == VM_VALUE_INT ? v.i : -1;
    if (v.kind == VM_VALUE_INT || v.kind == VM_VALUE_MISSING) return VMOER_OK;
    return vm_error(VMOER_ERROR_DATA, "%.*s: %s is no count", VM_PIECE(name), vm_value_kind_name(v));
}

static vmoer_status has_end(vm_piece s, vm_piece name, vm_value end, bool *out) {
    bool start = vm_piece_is(name, "startswith");
    const vm_value *all = &end;
    size_t count = 1;
    if (end.kind == VM_VALUE_LIST && end.list->form == VM_TUPLE) all = end.list->items, count = end.list->count;
    *out = false;
    for (size_t i = 0; i < count && !*out; i++) {
        VM_TRY(want_string(name, all[i], false));
        vm_piece e = all[i].s;
        *out = e.length <= s.length && vm_piece_equal(vm_piece_part(s, start ? 0 : s.length - e.length, e.length), e);
    }
    return VMOER_OK;
}

vmoer_status vm_text_method(vm_render *r, vm_piece self, vm_piece name, const vm_arguments *args, vm_value *out) {
    vm_value a[3];
    int64_t limit;
    bool both = vm_piece_is(name, "strip"), left = vm_piece_is(name, "lstrip"), right = vm_piece_is(name, "rstrip"),
         yes;
    VM_TRY(vm_chat_charge(r, self.length));
    if (both || left || right) {
        VM_TRY(vm_chat_bind(name, args, "chars", 0, a));
        VM_TRY(want_string(name, a[0], true));
        return strip(r, self, a[0].kind == VM_VALUE_STRING ? &a[0].s : NULL, both || left, both || right, out);
    }
    if (vm_piece_is(name, "upper") || vm_piece_is(name, "lower") || vm_piece_is(name, "title") ||
        vm_piece_is(name, "capitalize")) {
        VM_TRY(vm_chat_bind(name, args, "", 0, a));
        return change_case(r, self, name, out);
    }
    if (vm_piece_is(name, "startswith") || vm_piece_is(name, "endswith")) {
        VM_TRY(vm_chat_bind(name, args, "prefix", 1, a));
        VM_TRY(has_end(self, name, a[0], &yes));
        *out = vm_value_bool(yes);
        return VMOER_OK;
    }
    if (vm_piece_is(name, "replace")) {
        VM_TRY(vm_chat_bind(name, args, "old new count", 2, a));
        VM_TRY(want_string(name, a[0], false));
        VM_TRY(want_string(name, a[1], false));
        VM_TRY(want_count(name, a[2], &limit));
        return replace(r, self, a[0].s, a[1].s, limit, out);
    }
    if (vm_piece_is(name, "split")) {
        VM_TRY(vm_chat_bind(name, args, "sep maxsplit", 0, a));
        VM_TRY(want_string(name, a[0], true));
        VM_TRY(want_count(name, a[1], &limit));
        return split(r, self, a[0].kind == VM_VALUE_STRING ? &a[0].s : NULL, limit, out);
    }
    if (vm_piece_is(name, "join")) {
        VM_TRY(vm_chat_bind(name, args, "list", 1, a));
        return join(r, self, a[0], out);
    }
    return vm_error(VMOER_ERROR_UNSUPPORTED, "the method '%.*s' of a string is not supported", VM_PIECE(name));
}
