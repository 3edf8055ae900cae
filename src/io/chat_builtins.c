/* chat_builtins.c: the filters, tests and functions of chat templates, and the methods of dicts. */
#include "io/chat_internal.h"

#include "io/unicode.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

vmoer_status vm_chat_bind(vm_piece what, const vm_arguments *args, const char *names, int required, vm_value *out) {
    int n = 0;
    for (const char *at = names; *at; n++) {
        size_t length = strcspn(at, " ");
        vm_piece name = vm_piece_own(at, length);
        out[n] = (vm_value){.kind = VM_VALUE_MISSING};
        for (int i = 0; i < args->count; i++) {
            if (args->names[i].text ? !vm_piece_equal(args->names[i], name) : i != n) continue;
            if (out[n].kind != VM_VALUE_MISSING)
                return vm_error(VMOER_ERROR_DATA, "%.*s: two values for '%.*s'", VM_PIECE(what), VM_PIECE(name));
            out[n] = args->values[i];
        }
        if (n < required && out[n].kind == VM_VALUE_MISSING)
            return vm_error(VMOER_ERROR_DATA, "%.*s: '%.*s' is missing", VM_PIECE(what), VM_PIECE(name));
        at += length;
        at += *at == ' ';
    }
    for (int i = 0; i < args->count; i++) {
        bool known = !args->names[i].text && i < n;
        for (const char *at = names; *at && !known;) {
            size_t length = strcspn(at, " ");
            known = args->names[i].text && vm_piece_equal(args->names[i], vm_piece_own(at, length));
            at += length;
            at += *at == ' ';
        }
        if (!known && args->names[i].text)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%.*s: the argument '%.*s' is not supported", VM_PIECE(what),
                            VM_PIECE(args->names[i]));
        if (!known) return vm_error(VMOER_ERROR_DATA, "%.*s: more than %d arguments", VM_PIECE(what), n);
    }
    return VMOER_OK;
}

static vm_piece piece(const char *text) { return vm_piece_own(text, strlen(text)); }

/* ---- filters ---- */

static vmoer_status length_of(vm_render *r, vm_value v, vm_value *out) {
    size_t n = 0;
    if (v.kind == VM_VALUE_STRING) {
        VM_TRY(vm_chat_charge(r, v.s.length));
        n = vm_utf8_count(v.s.text, v.s.length);
    } else if (v.kind == VM_VALUE_LIST && v.list->form != VM_GENERATOR) {
        n = v.list->count;
    } else if (v.kind == VM_VALUE_DICT) {
        n = v.dict->count;
    } else if (v.kind != VM_VALUE_UNDEFINED) {
        return vm_error(VMOER_ERROR_DATA, "%s has no length", vm_value_kind_name(v));
    }
    *out = vm_value_int((int64_t)n);
    return VMOER_OK;
}

/* Names of attributes with dots, numbers among them. */
static vmoer_status attribute_path(vm_render *r, vm_value v, vm_value path, vm_value *out) {
    *out = v;
    if (path.kind == VM_VALUE_INT) return vm_value_item(r, v, path, out);
    if (path.kind != VM_VALUE_STRING)
        return vm_error(VMOER_ERROR_DATA, "%s as the name of an attribute", vm_value_kind_name(path));
    for (vm_piece rest = path.s;;) {
        const char *dot = rest.length ? memchr(rest.text, '.', rest.length) : NULL;
        vm_value key = vm_value_string(vm_piece_part(rest, 0, dot ? (size_t)(dot - rest.text) : rest.length));
        int64_t number = 0;
        bool digits = key.s.length > 0 && key.s.length < 10;
        for (size_t i = 0; i < key.s.length && digits; i++) {
            digits = key.s.text[i] >= '0' && key.s.text[i] <= '9';
            number = 10 * number + key.s.text[i] - '0';
        }
        VM_TRY(vm_value_item(r, *out, digits ? vm_value_int(number) : key, out));
        if (!dot) return VMOER_OK;
        rest = vm_piece_part(rest, key.s.length + 1, rest.length - key.s.length - 1);
    }
}

static vmoer_status filter_join(vm_render *r, vm_value v, const vm_arguments *args, vm_value *out) {
    vm_value a[2];
    const vm_value *items;
    size_t count;
    vm_piece between, text;
    VM_TRY(vm_chat_bind(piece("join"), args, "d attribute", 0, a));
    VM_TRY(vm_value_text(r, a[0].kind == VM_VALUE_MISSING ? vm_value_undefined(piece("")) : a[0], &between));
    VM_TRY(vm_value_items(r, v, &items, &count));
    vm_text_buffer b = {0};
    vmoer_status status = VMOER_OK;
    for (size_t i = 0; i < count && status == VMOER_OK; i++) {
        vm_value item = items[i];
        if (a[1].kind != VM_VALUE_MISSING && a[1].kind != VM_VALUE_NONE) status = attribute_path(r, item, a[1], &item);
        if (status == VMOER_OK) status = vm_value_text(r, item, &text);
        if (status == VMOER_OK && i) status = vm_buffer_add(r, &b, between);
        if (status == VMOER_OK) status = vm_buffer_add(r, &b, text);
    }
    if (status == VMOER_OK) status = vm_text_copy(r, vm_buffer_piece(&b, 0), out);
    vm_buffer_free(&b);
    return status;
}

/* Jinja's title: a word begins after white space, a hyphen or an opening bracket. */
static vmoer_status filter_title(vm_render *r, vm_value v, vm_value *out) {
    vm_piece s;
    bool first = true;
    VM_TRY(vm_value_text(r, v, &s));
    VM_TRY(vm_text_method(r, s, piece("lower"), &(vm_arguments){.count = 0}, out));
    for (size_t i = 0; i < s.length; i++) {
        char *c = (char *)out->s.text + i; /* the copy that was just made */
        if (first && *c >= 'a' && *c <= 'z') *c = (char)(*c - 32);
        first = strchr("-({[< \t\n\v\f\r\x1c\x1d\x1e\x1f", *c) && *c;
    }
    return VMOER_OK;
}

static vmoer_status filter_tojson(vm_render *r, vm_value v, const vm_arguments *args, vm_value *out) {
    vm_value a[3];
    VM_TRY(vm_chat_bind(piece("tojson"), args, "ensure_ascii indent sort_keys", 0, a));
    bool spaces = a[1].kind == VM_VALUE_INT;
    if (args->count && (args->count > 2 && !args->names[2].text))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "tojson: separators are not supported");
    if (a[1].kind > VM_VALUE_NONE && !spaces)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "tojson: indented by %s", vm_value_kind_name(a[1]));
    if (spaces && (a[1].i < 0 || a[1].i > 64))
        return vm_error(VMOER_ERROR_LIMIT, "tojson: indented by %lld", (long long)a[1].i);
    return vm_value_json(r, v, spaces ? a[1].i : -1, vm_value_true(a[0]), vm_value_true(a[2]), out);
}

static vmoer_status filter_first_last(vm_render *r, vm_value v, bool last, vm_value *out) {
    const vm_value *items;
    size_t count;
    bool generator = v.kind == VM_VALUE_LIST && v.list->form == VM_GENERATOR;
    if (last && generator)
        return vm_error(VMOER_ERROR_DATA, "last of a sequence that is not known yet; put |list before it");
    size_t at = generator ? v.list->at : 0;
    VM_TRY(vm_value_items(r, v, &items, &count));
    if (generator && count) v.list->at = at + 1;
    *out = count ? items[last ? count - 1 : 0] : vm_value_undefined(piece(last ? "last" : "first"));
    return VMOER_OK;
}

static vmoer_status filter_int(vm_render *r, vm_value v, const vm_arguments *args, vm_value *out) {
    vm_value a[1], text;
    char digits[40], *end;
    VM_TRY(vm_chat_bind(piece("int"), args, "default", 0, a));
    *out = a[0].kind == VM_VALUE_MISSING ? vm_value_int(0) : a[0];
    double f = NAN;
    if (v.kind == VM_VALUE_INT || v.kind == VM_VALUE_BOOL)
        return *out = vm_value_int(v.kind == VM_VALUE_INT ? v.i : v.b), VMOER_OK;
    if (v.kind == VM_VALUE_FLOAT) f = v.f;
    if (v.kind == VM_VALUE_STRING) {
        VM_TRY(vm_text_method(r, v.s, piece("strip"), &(vm_arguments){.count = 0}, &text));
        if (!text.s.length || text.s.length >= sizeof digits) return VMOER_OK;
        memcpy(digits, text.s.text, text.s.length);
        digits[text.s.length] = '\0';
        if (strspn(digits, "+-0123456789.eE") != text.s.length) return VMOER_OK;
        errno = 0;
        long long whole = strtoll(digits, &end, 10);
        if (!*end && !errno) return *out = vm_value_int(whole), VMOER_OK;
        f = strtod(digits, &end);
        if (*end) f = NAN;
    }
    if (isnan(f)) return VMOER_OK;
    if (!(fabs(f) < 9e18)) return vm_error(VMOER_ERROR_LIMIT, "int: a number of more than 64 bits");
    *out = vm_value_int((int64_t)f);
    return VMOER_OK;
}

static vmoer_status filter_items(vm_render *r, vm_value v, vm_list_form form, vm_value *out) {
    if (v.kind == VM_VALUE_UNDEFINED) return vm_value_list(r, form, NULL, 0, out);
    if (v.kind != VM_VALUE_DICT) return vm_error(VMOER_ERROR_DATA, "items of %s", vm_value_kind_name(v));
    vm_value *all, *pair;
    VM_TRY(vm_chat_alloc(r, v.dict->count, sizeof *all, (void **)&all));
    for (size_t i = 0; i < v.dict->count; i++) {
        VM_TRY(vm_chat_alloc(r, 2, sizeof *pair, (void **)&pair));
        pair[0] = vm_value_string(v.dict->keys[i]);
        pair[1] = v.dict->values[i];
        VM_TRY(vm_value_list(r, VM_TUPLE, pair, 2, &all[i]));
    }
    return vm_value_list(r, form, all, v.dict->count, out);
}

static vmoer_status filter_list(vm_render *r, vm_value v, vm_list_form form, bool reverse, vm_value *out) {
    const vm_value *items;
    vm_value *copy;
    size_t count;
    VM_TRY(vm_value_items(r, v, &items, &count));
    VM_TRY(vm_chat_alloc(r, count, sizeof *copy, (void **)&copy));
    for (size_t i = 0; i < count; i++) copy[i] = items[reverse ? count - 1 - i : i];
    return vm_value_list(r, form, copy, count, out);
}

/* Arguments from the n-th on. */
static vm_arguments rest_of(const vm_arguments *args, int n) {
    vm_arguments rest = {.count = args->count - n};
    for (int i = 0; i < rest.count; i++) rest.values[i] = args->values[i + n], rest.names[i] = args->names[i + n];
    return rest;
}

/* select, reject ([test, its arguments]) and selectattr, rejectattr (attribute, [test, its arguments]). */
static vmoer_status filter_select(vm_render *r, vm_piece name, vm_value v, const vm_arguments *args, vm_value *out) {
    bool keep = name.text[0] == 's', attribute = name.length > 6;
    const vm_value *items;
    vm_value *chosen, part;
    size_t count, n = 0;
    int test = attribute;
    if (attribute && (!args->count || args->names[0].text))
        return vm_error(VMOER_ERROR_DATA, "%.*s: no attribute", VM_PIECE(name));
    if (args->count > test && (args->names[test].text || args->values[test].kind != VM_VALUE_STRING))
        return vm_error(VMOER_ERROR_DATA, "%.*s: the name of a test expected", VM_PIECE(name));
    vm_arguments rest = rest_of(args, args->count > test ? test + 1 : args->count);
    VM_TRY(vm_value_items(r, v, &items, &count));
    VM_TRY(vm_chat_alloc(r, count, sizeof *chosen, (void **)&chosen));
    for (size_t i = 0; i < count; i++) {
        part = items[i];
        VM_TRY(vm_chat_charge(r, 0));
        if (attribute) VM_TRY(attribute_path(r, items[i], args->values[0], &part));
        bool yes = vm_value_true(part);
        if (args->count > test) VM_TRY(vm_chat_test(r, args->values[test].s, part, &rest, &yes));
        if (yes == keep) chosen[n++] = items[i];
    }
    return vm_value_list(r, VM_GENERATOR, chosen, n, out);
}

static vmoer_status filter_map(vm_render *r, vm_value v, const vm_arguments *args, vm_value *out) {
    bool attribute = args->count && args->names[0].text;
    const vm_value *items;
    vm_value *mapped, a[2];
    size_t count;
    if (attribute)
        VM_TRY(vm_chat_bind(piece("map"), args, "attribute default", 1, a));
    else if (!args->count || args->values[0].kind != VM_VALUE_STRING)
        return vm_error(VMOER_ERROR_DATA, "map: a filter or an attribute expected");
    vm_arguments rest = rest_of(args, attribute ? args->count : 1);
    VM_TRY(vm_value_items(r, v, &items, &count));
    VM_TRY(vm_chat_alloc(r, count, sizeof *mapped, (void **)&mapped));
    /* map('map', ...) ends: each level takes an argument */
    for (size_t i = 0; i < count; i++) {
        VM_TRY(vm_chat_charge(r, 0));
        if (!attribute) {
            VM_TRY(vm_chat_filter(r, args->values[0].s, items[i], &rest, &mapped[i]));
            continue;
        }
        VM_TRY(attribute_path(r, items[i], a[0], &mapped[i]));
        if (mapped[i].kind == VM_VALUE_UNDEFINED && a[1].kind != VM_VALUE_MISSING) mapped[i] = a[1];
    }
    return vm_value_list(r, VM_GENERATOR, mapped, count, out);
}

static vmoer_status filter_default(vm_value v, const vm_arguments *args, vm_value *out) {
    vm_value a[2];
    VM_TRY(vm_chat_bind(piece("default"), args, "default_value boolean", 0, a));
    bool take = v.kind == VM_VALUE_UNDEFINED || (vm_value_true(a[1]) && !vm_value_true(v));
    *out = !take ? v : a[0].kind == VM_VALUE_MISSING ? vm_value_string(piece("")) : a[0];
    return VMOER_OK;
}

/* As the method, of whatever is given as text. */
static vmoer_status filter_replace(vm_render *r, vm_piece s, const vm_arguments *args, vm_value *out) {
    vm_arguments texts = *args;
    for (int i = 0; i < texts.count && i < 2; i++) {
        vm_piece text;
        if (texts.names[i].text) continue;
        VM_TRY(vm_value_text(r, texts.values[i], &text));
        texts.values[i] = vm_value_string(text);
    }
    return vm_text_method(r, s, piece("replace"), &texts, out);
}

vmoer_status vm_chat_filter(vm_render *r, vm_piece name, vm_value v, const vm_arguments *args, vm_value *out) {
    static const char *const alone[] = {"length", "count",   "first", "last",  "items",      "list",
                                        "string", "reverse", "upper", "lower", "capitalize", "title"};
    vm_piece s;
    VM_TRY(vm_chat_charge(r, 0));
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
        if (vm_piece_is(name, alone[i])) VM_TRY(vm_chat_bind(name, args, "", 0, NULL));
    }
    if (vm_piece_is(name, "length") || vm_piece_is(name, "count")) return length_of(r, v, out);
    if (vm_piece_is(name, "default") || vm_piece_is(name, "d")) return filter_default(v, args, out);
    if (vm_piece_is(name, "join")) return filter_join(r, v, args, out);
    if (vm_piece_is(name, "tojson")) return filter_tojson(r, v, args, out);
    if (vm_piece_is(name, "first")) return filter_first_last(r, v, false, out);
    if (vm_piece_is(name, "last")) return filter_first_last(r, v, true, out);
    if (vm_piece_is(name, "items")) return filter_items(r, v, VM_GENERATOR, out);
    if (vm_piece_is(name, "list")) return filter_list(r, v, VM_LIST, false, out);
    if (vm_piece_is(name, "int")) return filter_int(r, v, args, out);
    if (vm_piece_is(name, "map")) return filter_map(r, v, args, out);
    if (vm_piece_is(name, "title")) return filter_title(r, v, out);
    if (vm_piece_is(name, "reverse") && v.kind == VM_VALUE_STRING)
        return vm_value_slice(
            r, v, (const vm_value[]){{.kind = VM_VALUE_NONE}, {.kind = VM_VALUE_NONE}, vm_value_int(-1)}, out);
    if (vm_piece_is(name, "reverse")) return filter_list(r, v, VM_GENERATOR, true, out);
    if (vm_piece_is(name, "select") || vm_piece_is(name, "reject") || vm_piece_is(name, "selectattr") ||
        vm_piece_is(name, "rejectattr"))
        return filter_select(r, name, v, args, out);
    bool trim = vm_piece_is(name, "trim"), replace = vm_piece_is(name, "replace"), string = vm_piece_is(name, "string");
    if (trim || replace || string || vm_piece_is(name, "upper") || vm_piece_is(name, "lower") ||
        vm_piece_is(name, "capitalize")) {
        VM_TRY(vm_value_text(r, v, &s));
        if (string) return *out = vm_value_string(s), VMOER_OK;
        if (replace) return filter_replace(r, s, args, out);
        return vm_text_method(r, s, trim ? piece("strip") : name, args, out);
    }
    return vm_error(VMOER_ERROR_UNSUPPORTED, "the filter '%.*s' is not supported", VM_PIECE(name));
}

/* ---- tests ---- */

static int test_of_kind(vm_piece name, vm_value v) { /* 1, 0; -1: none of these */
    bool number = v.kind == VM_VALUE_INT || v.kind == VM_VALUE_FLOAT || v.kind == VM_VALUE_BOOL;
    bool list = v.kind == VM_VALUE_LIST,
         container = v.kind == VM_VALUE_STRING || v.kind == VM_VALUE_DICT || v.kind == VM_VALUE_UNDEFINED;
    if (vm_piece_is(name, "defined")) return v.kind != VM_VALUE_UNDEFINED;
    if (vm_piece_is(name, "undefined")) return v.kind == VM_VALUE_UNDEFINED;
    if (vm_piece_is(name, "none")) return v.kind == VM_VALUE_NONE;
    if (vm_piece_is(name, "string")) return v.kind == VM_VALUE_STRING;
    if (vm_piece_is(name, "mapping")) return v.kind == VM_VALUE_DICT;
    if (vm_piece_is(name, "iterable")) return list || container || v.kind == VM_VALUE_LOOP;
    if (vm_piece_is(name, "sequence")) return (list && v.list->form <= VM_TUPLE) || container;
    if (vm_piece_is(name, "number")) return number;
    if (vm_piece_is(name, "integer")) return v.kind == VM_VALUE_INT;
    if (vm_piece_is(name, "float")) return v.kind == VM_VALUE_FLOAT;
    if (vm_piece_is(name, "boolean")) return v.kind == VM_VALUE_BOOL;
    if (vm_piece_is(name, "true")) return v.kind == VM_VALUE_BOOL && v.b;
    if (vm_piece_is(name, "false")) return v.kind == VM_VALUE_BOOL && !v.b;
    if (vm_piece_is(name, "callable"))
        return v.kind == VM_VALUE_MACRO || v.kind == VM_VALUE_FUNCTION || v.kind == VM_VALUE_METHOD ||
               v.kind == VM_VALUE_UNDEFINED || v.kind == VM_VALUE_LOOP;
    return -1;
}

static int order_test(vm_piece name) {
    static const char *const names[] = {"lt", "<", "le", "<=", "gt", ">", "ge", ">="};
    for (int i = 0; i < 8; i++) {
        if (vm_piece_is(name, names[i])) return i / 2;
    }
    return -1;
}

vmoer_status vm_chat_test(vm_render *r, vm_piece name, vm_value v, const vm_arguments *args, bool *out) {
    vm_value other;
    int kind = test_of_kind(name, v), order = order_test(name), sign;
    VM_TRY(vm_chat_charge(r, 0));
    if (kind >= 0) {
        *out = kind;
        return vm_chat_bind(name, args, "", 0, NULL);
    }
    bool odd = vm_piece_is(name, "odd"), upper = vm_piece_is(name, "upper");
    if (odd || vm_piece_is(name, "even")) {
        if (v.kind != VM_VALUE_INT && v.kind != VM_VALUE_BOOL)
            return vm_error(VMOER_ERROR_DATA, "%s is neither even nor odd", vm_value_kind_name(v));
        *out = ((v.kind == VM_VALUE_INT ? v.i : v.b) & 1) == odd;
        return vm_chat_bind(name, args, "", 0, NULL);
    }
    if (upper || vm_piece_is(name, "lower")) {
        vm_piece s;
        vm_value changed, same;
        VM_TRY(vm_chat_bind(name, args, "", 0, NULL));
        VM_TRY(vm_value_text(r, v, &s));
        VM_TRY(vm_text_method(r, s, name, args, &changed));
        VM_TRY(vm_text_method(r, s, piece(upper ? "lower" : "upper"), args, &same));
        *out = vm_piece_equal(changed.s, s) && !vm_piece_equal(same.s, s); /* at least one letter */
        return VMOER_OK;
    }
    bool equal = vm_piece_is(name, "eq") || vm_piece_is(name, "equalto") || vm_piece_is(name, "=="),
         same = vm_piece_is(name, "sameas");
    bool unequal = vm_piece_is(name, "ne") || vm_piece_is(name, "!="), in = vm_piece_is(name, "in"),
         divides = vm_piece_is(name, "divisibleby");
    if (!equal && !unequal && !same && !in && !divides && order < 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "the test '%.*s' is not supported", VM_PIECE(name));
    VM_TRY(vm_chat_bind(name, args, "other", 1, &other));
    if (in) return vm_value_in(r, v, other, out);
    if (order >= 0) {
        VM_TRY(vm_value_order(r, v, other, &sign));
        *out = order == 0 ? sign < 0 : order == 1 ? sign <= 0 : order == 2 ? sign > 0 : sign >= 0;
        return VMOER_OK;
    }
    if (divides) {
        if (v.kind != VM_VALUE_INT || other.kind != VM_VALUE_INT || other.i == 0)
            return vm_error(VMOER_ERROR_DATA, "divisibleby: two integers expected, the second not 0");
        *out = other.i == -1 || v.i % other.i == 0;
        return VMOER_OK;
    }
    if (same && (v.kind > VM_VALUE_BOOL || other.kind > VM_VALUE_BOOL))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "sameas is supported for true, false and none alone");
    VM_TRY(vm_value_equal(r, v, other, out));
    *out ^= unequal;
    return VMOER_OK;
}

/* ---- functions ---- */

bool vm_chat_is_function(vm_piece name) {
    return vm_piece_is(name, "namespace") || vm_piece_is(name, "dict") || vm_piece_is(name, "range") ||
           vm_piece_is(name, "raise_exception") || vm_piece_is(name, "strftime_now");
}

static vmoer_status make_dict(vm_render *r, vm_piece name, const vm_arguments *args, vm_value *out) {
    VM_TRY(vm_value_dict(r, (size_t)args->count, out));
    for (int i = 0; i < args->count; i++) {
        vm_value v = args->values[i];
        if (args->names[i].text) {
            VM_TRY(vm_dict_set(r, out->dict, args->names[i], v));
            continue;
        }
        if (v.kind != VM_VALUE_DICT)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%.*s of %s", VM_PIECE(name), vm_value_kind_name(v));
        for (size_t k = 0; k < v.dict->count; k++)
            VM_TRY(vm_dict_set(r, out->dict, v.dict->keys[k], v.dict->values[k]));
    }
    return VMOER_OK;
}

static vmoer_status make_range(vm_render *r, const vm_arguments *args, vm_value *out) {
    vm_value a[3], *items;
    enum { MAX_RANGE = 100000 }; /* the sandbox's */
    VM_TRY(vm_chat_bind(piece("range"), args, "start stop step", 1, a));
    for (int i = 0; i < 3; i++) {
        if (a[i].kind == VM_VALUE_MISSING) continue;
        if (a[i].kind != VM_VALUE_INT) return vm_error(VMOER_ERROR_DATA, "range of %s", vm_value_kind_name(a[i]));
        if (a[i].i <= -(INT64_C(1) << 60) || a[i].i >= INT64_C(1) << 60)
            return vm_error(VMOER_ERROR_LIMIT, "range with a number of more than 60 bits");
    }
    int64_t start = a[1].kind == VM_VALUE_MISSING ? 0 : a[0].i, stop = a[1].kind == VM_VALUE_MISSING ? a[0].i : a[1].i;
    int64_t step = a[2].kind == VM_VALUE_MISSING ? 1 : a[2].i;
    if (!step) return vm_error(VMOER_ERROR_DATA, "range in steps of 0");
    int64_t distance = step > 0 ? stop - start : start - stop, size = step > 0 ? step : -step;
    int64_t n = distance > 0 ? (distance - 1) / size + 1 : 0;
    if (n > MAX_RANGE) return vm_error(VMOER_ERROR_LIMIT, "range of more than %d numbers", MAX_RANGE);
    VM_TRY(vm_chat_alloc(r, (size_t)n, sizeof *items, (void **)&items));
    for (int64_t i = 0; i < n; i++) items[i] = vm_value_int(start + i * step);
    return vm_value_list(r, VM_VIEW, items, (size_t)n, out);
}

static vmoer_status time_now(vm_render *r, vm_value format, vm_value *out) {
    char pattern[128], text[512];
    if (format.kind != VM_VALUE_STRING || !format.s.length || format.s.length >= sizeof pattern ||
        memchr(format.s.text, '\0', format.s.length))
        return vm_error(VMOER_ERROR_DATA, "strftime_now: a format of 1 to %zu bytes expected", sizeof pattern - 1);
    memcpy(pattern, format.s.text, format.s.length);
    pattern[format.s.length] = '\0';
    for (const char *at = strchr(pattern, '%'); at; at = strchr(at + 2, '%')) {
        const char *part = at[1] == '-' ? at + 2 : at + 1;
        if (!*part || !strchr(at[1] == '-' ? "dHImMSj" : "aAbBdeHIjmMpSyY%FT", *part))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "strftime_now: '%s' has a part that is not supported", pattern);
    }
    size_t length = strftime(text, sizeof text, pattern, r->now);
    if (!length && strcmp(pattern, "%p") != 0)
        return vm_error(VMOER_ERROR_LIMIT, "strftime_now: more than %zu bytes", sizeof text - 1);
    return vm_text_copy(r, vm_piece_own(text, length), out);
}

vmoer_status vm_chat_function(vm_render *r, vm_piece name, const vm_arguments *args, vm_value *out) {
    vm_value a;
    vm_piece message;
    if (vm_piece_is(name, "range")) return make_range(r, args, out);
    if (vm_piece_is(name, "strftime_now")) {
        VM_TRY(vm_chat_bind(name, args, "format", 1, &a));
        return time_now(r, a, out);
    }
    if (vm_piece_is(name, "raise_exception")) {
        VM_TRY(vm_chat_bind(name, args, "message", 1, &a));
        VM_TRY(vm_value_text(r, a, &message));
        return vm_error(VMOER_ERROR_DATA, "the template refuses: %.*s",
                        (int)vm_utf8_cut(message.text, message.length < 500 ? message.length : 500), message.text);
    }
    VM_TRY(make_dict(r, name, args, out));
    if (vm_piece_is(name, "namespace")) out->kind = VM_VALUE_NAMESPACE;
    return VMOER_OK;
}

vmoer_status vm_chat_method(vm_render *r, const vm_method *m, const vm_arguments *args, vm_value *out) {
    vm_value a[2], self = m->self, *value = NULL;
    if (self.kind == VM_VALUE_STRING) return vm_text_method(r, self.s, m->name, args, out);
    if (self.kind == VM_VALUE_DICT && vm_piece_is(m->name, "get")) {
        VM_TRY(vm_chat_bind(m->name, args, "key default", 1, a));
        if (a[0].kind == VM_VALUE_STRING) VM_TRY(vm_dict_find(r, self.dict, a[0].s, &value));
        *out = value ? *value : a[1].kind == VM_VALUE_MISSING ? (vm_value){.kind = VM_VALUE_NONE} : a[1];
        return VMOER_OK;
    }
    bool keys = vm_piece_is(m->name, "keys"), values = vm_piece_is(m->name, "values");
    if (self.kind == VM_VALUE_DICT && (keys || values || vm_piece_is(m->name, "items"))) {
        VM_TRY(vm_chat_bind(m->name, args, "", 0, NULL));
        if (keys) return filter_list(r, self, VM_VIEW, false, out);
        if (values) return vm_value_list(r, VM_VIEW, self.dict->values, self.dict->count, out);
        return filter_items(r, self, VM_VIEW, out);
    }
    return vm_error(VMOER_ERROR_UNSUPPORTED, "the method '%.*s' of %s is not supported", VM_PIECE(m->name),
                    vm_value_kind_name(self));
}
