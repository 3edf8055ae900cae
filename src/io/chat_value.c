/* chat_value.c: the values of a chat template and what every operation on them shares. They behave as Python's do. */
#include "io/chat_internal.h"

#include "io/unicode.h"

enum { MAX_STEPS = 4000000, BYTES_A_STEP = 64, MAX_BYTES = 128 << 20 };

vmoer_status vm_chat_charge(vm_render *r, size_t bytes) {
    r->steps += 1 + (int64_t)(bytes / BYTES_A_STEP);
    if (r->steps <= MAX_STEPS) return VMOER_OK;
    return vm_error(VMOER_ERROR_LIMIT, "the template takes more than %d steps", MAX_STEPS);
}

vmoer_status vm_chat_alloc(vm_render *r, size_t count, size_t size, void **out) {
    size_t bytes;
    if (!vm_mul(count, size, &bytes) || bytes > MAX_BYTES || (r->bytes += bytes + 64) > MAX_BYTES)
        return vm_error(VMOER_ERROR_LIMIT, "the template's values take more than %d MiB", MAX_BYTES >> 20);
    *out = vm_arena_alloc(r->arena, count, size);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the template's values");
}

vm_value vm_value_string(vm_piece s) { return (vm_value){.kind = VM_VALUE_STRING, .s = s}; }
vm_value vm_value_int(int64_t i) { return (vm_value){.kind = VM_VALUE_INT, .i = i}; }
vm_value vm_value_bool(bool b) { return (vm_value){.kind = VM_VALUE_BOOL, .b = b}; }
vm_value vm_value_undefined(vm_piece name) { return (vm_value){.kind = VM_VALUE_UNDEFINED, .s = name}; }

const char *vm_value_kind_name(vm_value v) {
    static const char *const names[] = {"nothing", "undefined", "none",       "a boolean", "an integer",
                                        "a float", "a string",  "a list",     "a dict",    "a namespace",
                                        "a loop",  "a macro",   "a function", "a method"};
    if (v.kind == VM_VALUE_LIST && v.list->form != VM_LIST) return v.list->form == VM_TUPLE ? "a tuple" : "a sequence";
    return names[v.kind];
}

bool vm_value_true(vm_value v) {
    switch (v.kind) {
    case VM_VALUE_MISSING:
    case VM_VALUE_UNDEFINED:
    case VM_VALUE_NONE:
        return false;
    case VM_VALUE_BOOL:
        return v.b;
    case VM_VALUE_INT:
        return v.i != 0;
    case VM_VALUE_FLOAT:
        return v.f != 0;
    case VM_VALUE_STRING:
        return v.s.length > 0;
    case VM_VALUE_LIST:
        return v.list->form == VM_GENERATOR || v.list->count > 0;
    case VM_VALUE_DICT:
        return v.dict->count > 0;
    default:
        return true;
    }
}

static int depth_of(vm_value v) {
    return v.kind == VM_VALUE_LIST ? v.list->depth : v.kind == VM_VALUE_DICT ? v.dict->depth : 0;
}

static vmoer_status deeper(int *depth, vm_value v) {
    if (depth_of(v) >= *depth) *depth = depth_of(v) + 1;
    if (*depth > VM_CHAT_DEPTH) return vm_error(VMOER_ERROR_LIMIT, "a value more than %d levels deep", VM_CHAT_DEPTH);
    return VMOER_OK;
}

vmoer_status vm_value_list(vm_render *r, vm_list_form form, vm_value *items, size_t count, vm_value *out) {
    vm_list *list;
    VM_TRY(vm_chat_charge(r, count * sizeof *items));
    VM_TRY(vm_chat_alloc(r, 1, sizeof *list, (void **)&list));
    *list = (vm_list){.form = form, .depth = 1, .count = count, .items = items};
    for (size_t i = 0; i < count; i++) VM_TRY(deeper(&list->depth, items[i]));
    *out = (vm_value){.kind = VM_VALUE_LIST, .list = list};
    return VMOER_OK;
}

vmoer_status vm_value_dict(vm_render *r, size_t capacity, vm_value *out) {
    vm_dict *d;
    VM_TRY(vm_chat_alloc(r, 1, sizeof *d, (void **)&d));
    *d = (vm_dict){.depth = 1, .capacity = capacity};
    VM_TRY(vm_chat_alloc(r, capacity, sizeof *d->keys, (void **)&d->keys));
    VM_TRY(vm_chat_alloc(r, capacity, sizeof *d->values, (void **)&d->values));
    *out = (vm_value){.kind = VM_VALUE_DICT, .dict = d};
    return VMOER_OK;
}

static vmoer_status append(vm_render *r, vm_dict *d, vm_piece key, vm_value value) {
    if (d->count == d->capacity) {
        size_t capacity = d->capacity ? 2 * d->capacity : 4;
        vm_piece *keys;
        vm_value *values;
        VM_TRY(vm_chat_alloc(r, capacity, sizeof *keys, (void **)&keys));
        VM_TRY(vm_chat_alloc(r, capacity, sizeof *values, (void **)&values));
        if (d->count) {
            memcpy(keys, d->keys, d->count * sizeof *keys);
            memcpy(values, d->values, d->count * sizeof *values);
        }
        d->keys = keys, d->values = values, d->capacity = capacity;
    }
    d->keys[d->count] = key;
    d->values[d->count++] = value;
    return deeper(&d->depth, value);
}

vmoer_status vm_dict_set(vm_render *r, vm_dict *d, vm_piece key, vm_value value) {
    vm_value *there;
    VM_TRY(vm_dict_find(r, d, key, &there));
    if (!there) return append(r, d, key, value);
    *there = value;
    return deeper(&d->depth, value);
}

vmoer_status vm_dict_find(vm_render *r, const vm_dict *d, vm_piece key, vm_value **out) {
    *out = NULL;
    VM_TRY(vm_chat_charge(r, 8 * d->count));
    for (size_t i = 0; i < d->count && !*out; i++) {
        if (vm_piece_equal(d->keys[i], key)) *out = &d->values[i];
    }
    return VMOER_OK;
}

static vmoer_status given_string(vm_render *r, const char *text, size_t length, vm_piece *out) {
    char *given;
    VM_TRY(vm_chat_charge(r, length));
    VM_TRY(vm_chat_alloc(r, length, 1, (void **)&given));
    memset(given, 1, length);
    *out = (vm_piece){text, length, given};
    return VMOER_OK;
}

/* What belongs to the template although it is not written there: bos_token and its like, which come beside the
 * conversation, and the names of roles, of which templates make marks ('<|' + role + '|>'). */
static bool is_own(const char *key, const json_t *value, int depth) {
    const char *text = json_string_value(value);
    if (!text) return false;
    if (depth == 0) return vm_ends_with(key, "_token");
    return strcmp(key, "role") == 0 && text[strspn(text, "abcdefghijklmnopqrstuvwxyz")] == '\0';
}

vmoer_status vm_value_from_json(vm_render *r, const json_t *json, int depth, vm_value *out) {
    if (depth > VM_CHAT_DEPTH) return vm_error(VMOER_ERROR_LIMIT, "a value more than %d levels deep", VM_CHAT_DEPTH);
    VM_TRY(vm_chat_charge(r, 0));
    switch (json_typeof(json)) {
    case JSON_NULL:
        *out = (vm_value){.kind = VM_VALUE_NONE};
        return VMOER_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = vm_value_bool(json_is_true(json));
        return VMOER_OK;
    case JSON_INTEGER:
        *out = vm_value_int(json_integer_value(json));
        return VMOER_OK;
    case JSON_REAL:
        *out = (vm_value){.kind = VM_VALUE_FLOAT, .f = json_real_value(json)};
        return VMOER_OK;
    case JSON_STRING:
        *out = (vm_value){.kind = VM_VALUE_STRING};
        return given_string(r, json_string_value(json), json_string_length(json), &out->s);
    case JSON_ARRAY: {
        size_t count = json_array_size(json);
        vm_value *items;
        VM_TRY(vm_chat_alloc(r, count, sizeof *items, (void **)&items));
        for (size_t i = 0; i < count; i++) VM_TRY(vm_value_from_json(r, json_array_get(json, i), depth + 1, &items[i]));
        return vm_value_list(r, VM_LIST, items, count, out);
    }
    case JSON_OBJECT:
        break;
    }
    VM_TRY(vm_value_dict(r, json_object_size(json), out));
    /* jansson's iterators take the object as one that could be changed */
    for (void *at = json_object_iter((json_t *)json); at; at = json_object_iter_next((json_t *)json, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *part = json_object_iter_value(at);
        vm_piece name;
        vm_value value;
        VM_TRY(given_string(r, key, strlen(key), &name));
        VM_TRY(vm_value_from_json(r, part, depth + 1, &value));
        if (is_own(key, part, depth)) value.s.given = NULL;
        VM_TRY(append(r, out->dict, name, value)); /* the parser refused doubles */
    }
    return VMOER_OK;
}

static size_t character_size(const char *text) {
    uint8_t c = (uint8_t)*text;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

vmoer_status vm_value_items(vm_render *r, vm_value v, const vm_value **items, size_t *count) {
    vm_value *made;
    *items = NULL;
    *count = 0;
    if (v.kind == VM_VALUE_UNDEFINED) return VMOER_OK;
    if (v.kind == VM_VALUE_LIST) {
        *count = v.list->count - v.list->at;
        if (*count) *items = v.list->items + v.list->at; /* an empty list may have no items to point to */
        if (v.list->form == VM_GENERATOR) v.list->at = v.list->count;
        return VMOER_OK;
    }
    if (v.kind == VM_VALUE_DICT) {
        *count = v.dict->count;
        VM_TRY(vm_chat_charge(r, *count * sizeof *made));
        VM_TRY(vm_chat_alloc(r, *count, sizeof *made, (void **)&made));
        for (size_t i = 0; i < *count; i++) made[i] = vm_value_string(v.dict->keys[i]);
        *items = made;
        return VMOER_OK;
    }
    if (v.kind != VM_VALUE_STRING)
        return vm_error(VMOER_ERROR_DATA, "%s cannot be gone through", vm_value_kind_name(v));
    *count = vm_utf8_count(v.s.text, v.s.length);
    VM_TRY(vm_chat_charge(r, *count * sizeof *made));
    VM_TRY(vm_chat_alloc(r, *count, sizeof *made, (void **)&made));
    for (size_t i = 0, at = 0; i < *count; i++) {
        made[i] = vm_value_string(vm_piece_part(v.s, at, character_size(v.s.text + at)));
        at += made[i].s.length;
    }
    *items = made;
    return VMOER_OK;
}

/* ---- comparisons ---- */

static bool is_number(vm_value v) {
    return v.kind == VM_VALUE_INT || v.kind == VM_VALUE_FLOAT || v.kind == VM_VALUE_BOOL;
}

static double to_double(vm_value v) {
    return v.kind == VM_VALUE_FLOAT ? v.f : v.kind == VM_VALUE_BOOL ? v.b : (double)v.i;
}

/* An integer and a double, exactly: no integer beyond 2^53 is rounded into equality. */
static int order_int_double(int64_t i, double f) {
    if (f >= 9223372036854775808.0) return -1;
    if (f < -9223372036854775808.0) return 1;
    int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    return (double)whole < f ? -1 : (double)whole > f;
}

static int order_numbers(vm_value a, vm_value b) {
    if (a.kind == VM_VALUE_FLOAT && b.kind == VM_VALUE_FLOAT) return a.f < b.f ? -1 : a.f > b.f;
    if (a.kind == VM_VALUE_FLOAT) return -order_int_double(b.kind == VM_VALUE_BOOL ? b.b : b.i, a.f);
    int64_t i = a.kind == VM_VALUE_BOOL ? a.b : a.i;
    if (b.kind == VM_VALUE_FLOAT) return order_int_double(i, b.f);
    int64_t j = b.kind == VM_VALUE_BOOL ? b.b : b.i;
    return i < j ? -1 : i > j;
}

static bool is_nan(vm_value v) { return is_number(v) && to_double(v) != to_double(v); }

vmoer_status vm_value_equal(vm_render *r, vm_value a, vm_value b, bool *out) {
    *out = false;
    VM_TRY(vm_chat_charge(r, a.kind == VM_VALUE_STRING ? a.s.length : 0));
    if (is_number(a) && is_number(b)) {
        *out = !is_nan(a) && !is_nan(b) && order_numbers(a, b) == 0;
        return VMOER_OK;
    }
    if (a.kind != b.kind) return VMOER_OK;
    switch (a.kind) {
    case VM_VALUE_STRING:
        *out = vm_piece_equal(a.s, b.s);
        break;
    case VM_VALUE_LIST:
        if (a.list == b.list) {
            *out = true;
            break;
        }
        if (a.list->form != b.list->form || a.list->form > VM_TUPLE || a.list->count != b.list->count) break;
        *out = true;
        for (size_t i = 0; i < a.list->count && *out; i++)
            VM_TRY(vm_value_equal(r, a.list->items[i], b.list->items[i], out));
        break;
    case VM_VALUE_DICT:
        if (a.dict->count != b.dict->count) break;
        *out = true;
        for (size_t i = 0; i < a.dict->count && *out; i++) {
            vm_value *other;
            VM_TRY(vm_dict_find(r, b.dict, a.dict->keys[i], &other));
            *out = other != NULL;
            if (other) VM_TRY(vm_value_equal(r, a.dict->values[i], *other, out));
        }
        break;
    case VM_VALUE_NAMESPACE:
        *out = a.dict == b.dict;
        break;
    case VM_VALUE_LOOP:
        *out = a.loop == b.loop;
        break;
    case VM_VALUE_MACRO:
        *out = a.macro == b.macro;
        break;
    case VM_VALUE_FUNCTION:
        *out = vm_piece_equal(a.s, b.s);
        break;
    case VM_VALUE_METHOD:
        *out = a.method == b.method;
        break;
    default:
        *out = true; /* undefined, none */
    }
    return VMOER_OK;
}

vmoer_status vm_value_order(vm_render *r, vm_value a, vm_value b, int *out) {
    if (is_number(a) && is_number(b)) {
        if (is_nan(a) || is_nan(b)) return vm_error(VMOER_ERROR_UNSUPPORTED, "an order of numbers with nan");
        *out = order_numbers(a, b);
        return VMOER_OK;
    }
    if (a.kind != VM_VALUE_STRING || b.kind != VM_VALUE_STRING)
        return vm_error(VMOER_ERROR_DATA, "%s and %s have no order", vm_value_kind_name(a), vm_value_kind_name(b));
    size_t common = a.s.length < b.s.length ? a.s.length : b.s.length;
    VM_TRY(vm_chat_charge(r, common));
    *out = common ? memcmp(a.s.text, b.s.text, common) : 0; /* the order of UTF-8 is that of the characters */
    if (!*out) *out = a.s.length < b.s.length ? -1 : a.s.length > b.s.length;
    return VMOER_OK;
}

vmoer_status vm_value_in(vm_render *r, vm_value item, vm_value container, bool *out) {
    const vm_value *items;
    size_t count;
    *out = false;
    if (container.kind == VM_VALUE_STRING) {
        if (item.kind != VM_VALUE_STRING)
            return vm_error(VMOER_ERROR_DATA, "%s in a string: only a string can be", vm_value_kind_name(item));
        VM_TRY(vm_chat_charge(r, container.s.length));
        *out = !item.s.length || memmem(container.s.text, container.s.length, item.s.text, item.s.length);
        return VMOER_OK;
    }
    if (container.kind == VM_VALUE_DICT) {
        vm_value *value = NULL;
        if (item.kind == VM_VALUE_STRING) VM_TRY(vm_dict_find(r, container.dict, item.s, &value));
        *out = value != NULL;
        return VMOER_OK;
    }
    VM_TRY(vm_value_items(r, container, &items, &count));
    for (size_t i = 0; i < count && !*out; i++) VM_TRY(vm_value_equal(r, item, items[i], out));
    return VMOER_OK;
}

/* ---- parts ---- */

static vmoer_status undefined_part(vm_value v, vm_piece name) {
    if (v.s.length)
        return vm_error(VMOER_ERROR_DATA, "'%.*s' is undefined: it has no '%.*s'", VM_PIECE(v.s), VM_PIECE(name));
    return vm_error(VMOER_ERROR_DATA, "an undefined value has no '%.*s'", VM_PIECE(name));
}

static vmoer_status bound_method(vm_render *r, vm_value v, vm_piece name, vm_value *out) {
    vm_method *m;
    VM_TRY(vm_chat_alloc(r, 1, sizeof *m, (void **)&m));
    *m = (vm_method){v, name};
    *out = (vm_value){.kind = VM_VALUE_METHOD, .method = m};
    return VMOER_OK;
}

static bool loop_part(const vm_loop *l, vm_piece name, vm_value *out) {
    int64_t index = (int64_t)l->index, count = (int64_t)l->count;
    if (vm_piece_is(name, "first")) return *out = vm_value_bool(index == 0), true;
    if (vm_piece_is(name, "last")) return *out = vm_value_bool(index == count - 1), true;
    if (vm_piece_is(name, "index")) return *out = vm_value_int(index + 1), true;
    if (vm_piece_is(name, "index0")) return *out = vm_value_int(index), true;
    if (vm_piece_is(name, "revindex")) return *out = vm_value_int(count - index), true;
    if (vm_piece_is(name, "revindex0")) return *out = vm_value_int(count - index - 1), true;
    if (vm_piece_is(name, "length")) return *out = vm_value_int(count), true;
    /* There are no recursive loops: */
    if (vm_piece_is(name, "depth")) return *out = vm_value_int(1), true;
    if (vm_piece_is(name, "depth0")) return *out = vm_value_int(0), true;
    if (vm_piece_is(name, "previtem")) return *out = index ? l->items[index - 1] : vm_value_undefined(name), true;
    if (vm_piece_is(name, "nextitem"))
        return *out = index + 1 < count ? l->items[index + 1] : vm_value_undefined(name), true;
    return false;
}

vmoer_status vm_value_attribute(vm_render *r, vm_value v, vm_piece name, vm_value *out) {
    vm_value *value = NULL;
    *out = vm_value_undefined(name);
    if (v.kind == VM_VALUE_UNDEFINED) return undefined_part(v, name);
    if (v.kind == VM_VALUE_LOOP) {
        if (loop_part(v.loop, name, out)) return VMOER_OK;
        return vm_error(VMOER_ERROR_UNSUPPORTED, "loop.%.*s is not supported", VM_PIECE(name));
    }
    if (vm_text_is_method(v.kind, name)) return bound_method(r, v, name, out);
    if (v.kind == VM_VALUE_DICT || v.kind == VM_VALUE_NAMESPACE) VM_TRY(vm_dict_find(r, v.dict, name, &value));
    if (value) *out = *value;
    return VMOER_OK;
}

/* Where the i-th character begins, i <= the number of characters. */
static size_t offset_of(vm_piece s, int64_t i) {
    size_t at = 0;
    for (; i > 0; i--) at += character_size(s.text + at);
    return at;
}

vmoer_status vm_value_item(vm_render *r, vm_value v, vm_value key, vm_value *out) {
    vm_piece nothing = vm_piece_own("", 0);
    if (v.kind == VM_VALUE_UNDEFINED) {
        vm_piece name = nothing;
        VM_TRY(vm_value_text(r, key, &name));
        return undefined_part(v, name);
    }
    *out = vm_value_undefined(nothing);
    if (key.kind == VM_VALUE_STRING) {
        vm_value *value = NULL;
        *out = vm_value_undefined(key.s);
        if (v.kind == VM_VALUE_DICT) VM_TRY(vm_dict_find(r, v.dict, key.s, &value));
        if (!value) return vm_value_attribute(r, v, key.s, out);
        *out = *value;
        return VMOER_OK;
    }
    if (key.kind != VM_VALUE_INT && key.kind != VM_VALUE_BOOL) return VMOER_OK;
    int64_t index = key.kind == VM_VALUE_INT ? key.i : key.b, count;
    if (v.kind == VM_VALUE_LIST && v.list->form <= VM_TUPLE)
        count = (int64_t)v.list->count;
    else if (v.kind == VM_VALUE_STRING)
        count = (int64_t)vm_utf8_count(v.s.text, v.s.length);
    else
        return VMOER_OK;
    if (v.kind == VM_VALUE_STRING) VM_TRY(vm_chat_charge(r, v.s.length));
    if (index < 0) index += count;
    if (index < 0 || index >= count) return VMOER_OK;
    if (v.kind == VM_VALUE_LIST) {
        *out = v.list->items[index];
        return VMOER_OK;
    }
    size_t at = offset_of(v.s, index);
    *out = vm_value_string(vm_piece_part(v.s, at, character_size(v.s.text + at)));
    return VMOER_OK;
}

static vmoer_status bound(vm_value v, int64_t otherwise, int64_t low, int64_t high, int64_t count, int64_t *out) {
    if (v.kind != VM_VALUE_NONE && v.kind != VM_VALUE_INT && v.kind != VM_VALUE_BOOL)
        return vm_error(VMOER_ERROR_DATA, "a slice by %s", vm_value_kind_name(v));
    int64_t i = v.kind == VM_VALUE_NONE ? otherwise : v.kind == VM_VALUE_BOOL ? v.b : v.i < 0 ? v.i + count : v.i;
    *out = i < low ? low : i > high ? high : i;
    return VMOER_OK;
}

vmoer_status vm_value_slice(vm_render *r, vm_value v, const vm_value *bounds, vm_value *out) {
    bool text = v.kind == VM_VALUE_STRING;
    if (!text && !(v.kind == VM_VALUE_LIST && v.list->form <= VM_TUPLE))
        return vm_error(VMOER_ERROR_DATA, "%s has no slices", vm_value_kind_name(v));
    int64_t step = bounds[2].kind == VM_VALUE_NONE ? 1 : bounds[2].kind == VM_VALUE_INT ? bounds[2].i : 0, start, stop;
    if (step == 0 || step == INT64_MIN) return vm_error(VMOER_ERROR_DATA, "a slice with such a step");
    size_t n_items;
    const vm_value *items;
    int64_t count = text ? (int64_t)vm_utf8_count(v.s.text, v.s.length) : (int64_t)v.list->count;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
    VM_TRY(bound(bounds[0], step > 0 ? low : high, low, high, count, &start));
    VM_TRY(bound(bounds[1], step > 0 ? high : low, low, high, count, &stop));
    if (text) VM_TRY(vm_chat_charge(r, v.s.length));
    if (text && step == 1) {
        size_t from = offset_of(v.s, start), to = stop > start ? offset_of(v.s, stop) : from;
        *out = vm_value_string(vm_piece_part(v.s, from, to - from));
        return VMOER_OK;
    }
    VM_TRY(vm_value_items(r, v, &items, &n_items));
    /* the distance is less than 2^62: counts are bounded by the memory */
    int64_t distance = step > 0 ? stop - start : start - stop, size = step > 0 ? step : -step;
    size_t n = distance > 0 ? (size_t)((distance - 1) / size + 1) : 0;
    vm_value *chosen;
    VM_TRY(vm_chat_alloc(r, n, sizeof *chosen, (void **)&chosen));
    for (size_t i = 0; i < n; i++) chosen[i] = items[start + (int64_t)i * step];
    if (!text) return vm_value_list(r, v.list->form, chosen, n, out);
    char *bytes, *given = NULL;
    size_t length = 0;
    VM_TRY(vm_chat_charge(r, n * sizeof *chosen));
    VM_TRY(vm_chat_alloc(r, v.s.length, 1, (void **)&bytes));
    if (v.s.given) VM_TRY(vm_chat_alloc(r, v.s.length, 1, (void **)&given));
    for (size_t i = 0; i < n; i++) {
        vm_piece c = chosen[i].s;
        memcpy(bytes + length, c.text, c.length);
        if (given) memcpy(given + length, c.given, c.length);
        length += c.length;
    }
    *out = vm_value_string((vm_piece){bytes, length, given});
    return VMOER_OK;
}
