/* gguf.c: the reader. One pass over the header checks everything and leaves pointers into the map; after vm_gguf_open
 * no access can fail for what the file says, only for what the caller asks. Keys and tensors are found by binary
 * search: a hash could be flooded with chosen names, a sorted index cannot, and it shows the duplicates. */
#include "io/gguf.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/gguf_internal.h"
#include "io/hf.h"

#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF values are read in place: this reader needs a little-endian machine"
#endif

typedef struct entry {
    const char *key; /* NUL-terminated copy */
    vm_gguf_type type;
    const uint8_t *raw; /* the value in the file, after its type */
    size_t raw_size;
    const uint8_t *value;   /* scalar: the value; string: its first byte; array: the first element */
    vm_gguf_type element;   /* arrays */
    size_t count;           /* arrays: elements; strings: bytes */
    const uint64_t *starts; /* arrays of strings: where each element's length field is, from `value` */
} entry;

struct vm_gguf {
    vm_map map; /* owned; empty when opened from memory */
    const uint8_t *data;
    size_t size;
    const char *path;
    vm_arena *arena; /* everything below */
    entry *keys;
    entry **keys_by_name;
    size_t n_keys;
    vm_gguf_tensor *tensors;
    vm_gguf_tensor **tensors_by_name;
    size_t n_tensors;
    size_t data_start; /* offset of the tensor data */
    vm_gguf_piece header;
    vm_gguf_piece *pieces; /* what follows it */
    size_t n_pieces;
    void *owned; /* NULL, or for release */
    void (*release)(void *owned);
};

/* Bytes of a scalar; 0: string, array or unknown. */
static size_t scalar_size(uint32_t type) {
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

static const char *type_name(uint32_t type) {
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return type < sizeof names / sizeof names[0] ? names[type] : "?";
}

bool vm_gguf_name_ok(const char *name, size_t length, size_t limit) {
    if (length < 1 || length > limit) return false;
    for (size_t i = 0; i < length; i++) {
        if (name[i] < 0x20 || name[i] > 0x7e) return false;
    }
    return true;
}

vmoer_status vm_gguf_tensor_size(uint32_t type, int n_dims, const int64_t *ne, size_t *bytes) {
    size_t block_elements, block_bytes, elements = 1;
    if (!vm_dtype_block(type, &block_elements, &block_bytes))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "unknown tensor type %u", type);
    for (int i = 0; i < n_dims; i++) {
        if (ne[i] < 1) return vm_error(VMOER_ERROR_FORMAT, "dimension %d is %lld", i, (long long)ne[i]);
        if (!vm_mul(elements, (size_t)ne[i], &elements) || elements > INT64_MAX)
            return vm_error(VMOER_ERROR_FORMAT, "the product of the dimensions overflows");
    }
    if ((size_t)ne[0] % block_elements != 0)
        return vm_error(VMOER_ERROR_FORMAT, "a row of %lld elements is no whole number of %s blocks of %zu",
                        (long long)ne[0], vm_dtype_name(type), block_elements);
    if (!vm_mul(elements / block_elements, block_bytes, bytes) || *bytes > INT64_MAX)
        return vm_error(VMOER_ERROR_FORMAT, "the size in bytes overflows");
    return VMOER_OK;
}

/* ---- parsing: a cursor that never passes the end ---- */

typedef struct cursor {
    const uint8_t *data;
    size_t size, pos;
} cursor;

static size_t left(const cursor *c) { return c->size - c->pos; }

static vmoer_status take(cursor *c, size_t size, const char *what, const uint8_t **out) {
    if (size > left(c))
        return vm_error(VMOER_ERROR_FORMAT, "byte %zu: %s needs %zu bytes, %zu are left in the file", c->pos, what,
                        size, left(c));
    *out = c->data + c->pos;
    c->pos += size;
    return VMOER_OK;
}

static vmoer_status take_u32(cursor *c, const char *what, uint32_t *out) {
    const uint8_t *p;
    VM_TRY(take(c, 4, what, &p));
    memcpy(out, p, 4);
    return VMOER_OK;
}

static vmoer_status take_u64(cursor *c, const char *what, uint64_t *out) {
    const uint8_t *p;
    VM_TRY(take(c, 8, what, &p));
    memcpy(out, p, 8);
    return VMOER_OK;
}

static vmoer_status take_string(cursor *c, const char *what, size_t limit, const uint8_t **out, size_t *length) {
    size_t at = c->pos;
    uint64_t n;
    VM_TRY(take_u64(c, what, &n));
    if (n > left(c))
        return vm_error(VMOER_ERROR_FORMAT, "byte %zu: %s is %llu bytes long, %zu are left in the file", at, what,
                        (unsigned long long)n, left(c));
    if (n > limit)
        return vm_error(VMOER_ERROR_LIMIT, "byte %zu: %s is %llu bytes long, at most %zu are allowed", at, what,
                        (unsigned long long)n, limit);
    *length = (size_t)n;
    return take(c, *length, what, out);
}

/* A key or a tensor name, copied. */
static vmoer_status take_name(cursor *c, vm_gguf *g, const char *what, size_t limit, const char **out) {
    size_t at = c->pos, length;
    const uint8_t *text;
    VM_TRY(take_string(c, what, limit, &text, &length));
    if (!vm_gguf_name_ok((const char *)text, length, limit))
        return vm_error(VMOER_ERROR_FORMAT, "byte %zu: %s is empty or not printable ASCII", at, what);
    *out = vm_arena_strndup(g->arena, (const char *)text, length);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "out of memory");
}

static vmoer_status check_bools(const cursor *c, const uint8_t *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (values[i] > 1)
            return vm_error(VMOER_ERROR_FORMAT, "byte %zu: a bool is %u, not 0 or 1", (size_t)(values + i - c->data),
                            values[i]);
    }
    return VMOER_OK;
}

static vmoer_status take_array(cursor *c, vm_gguf *g, entry *e) {
    size_t at = c->pos;
    uint32_t element;
    uint64_t count;
    VM_TRY(take_u32(c, "array's element type", &element));
    VM_TRY(take_u64(c, "array's length", &count));
    if (element == VM_GGUF_ARRAY)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "byte %zu: an array of arrays is not supported", at);
    size_t size = scalar_size(element);
    if (!size && element != VM_GGUF_STRING)
        return vm_error(VMOER_ERROR_FORMAT, "byte %zu: unknown element type %u", at, element);
    size_t least = size ? size : 8; /* of a string: its length field */
    if (count > left(c) / least)
        return vm_error(VMOER_ERROR_FORMAT, "byte %zu: an array of %llu %s, %zu bytes are left in the file", at,
                        (unsigned long long)count, type_name(element), left(c));
    if (count > VM_GGUF_MAX_ARRAY)
        return vm_error(VMOER_ERROR_LIMIT, "byte %zu: an array of %llu elements, at most %d are allowed", at,
                        (unsigned long long)count, (int)VM_GGUF_MAX_ARRAY);
    e->element = (vm_gguf_type)element;
    e->count = (size_t)count;
    if (size) {
        VM_TRY(take(c, e->count * size, "array", &e->value));
        return element == VM_GGUF_BOOL ? check_bools(c, e->value, e->count) : VMOER_OK;
    }
    uint64_t *starts = vm_arena_alloc(g->arena, e->count, sizeof *starts);
    if (!starts) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    e->value = c->data + c->pos;
    for (size_t i = 0; i < e->count; i++) {
        const uint8_t *text;
        size_t length;
        starts[i] = (uint64_t)(c->data + c->pos - e->value);
        VM_TRY(take_string(c, "string in an array", VM_GGUF_MAX_STRING, &text, &length));
    }
    e->starts = starts;
    return VMOER_OK;
}

static vmoer_status take_value(cursor *c, vm_gguf *g, entry *e) {
    size_t at = c->pos;
    uint32_t type;
    VM_TRY(take_u32(c, "value's type", &type));
    e->type = (vm_gguf_type)type;
    e->raw = c->data + c->pos;
    if (type == VM_GGUF_STRING) {
        VM_TRY(take_string(c, "string", VM_GGUF_MAX_STRING, &e->value, &e->count));
    } else if (type == VM_GGUF_ARRAY) {
        VM_TRY(take_array(c, g, e));
    } else {
        size_t size = scalar_size(type);
        if (!size) return vm_error(VMOER_ERROR_FORMAT, "byte %zu: unknown value type %u", at, type);
        VM_TRY(take(c, size, "value", &e->value));
        if (type == VM_GGUF_BOOL) VM_TRY(check_bools(c, e->value, 1));
    }
    e->raw_size = (size_t)(c->data + c->pos - e->raw);
    return VMOER_OK;
}

static int by_key(const void *a, const void *b) { return strcmp((*(entry *const *)a)->key, (*(entry *const *)b)->key); }

static vmoer_status parse_keys(cursor *c, vm_gguf *g, uint64_t count) {
    enum { LEAST = 8 + 1 + 4 + 1 }; /* bytes of the smallest key and value */
    if (count > left(c) / LEAST)
        return vm_error(VMOER_ERROR_FORMAT, "byte 16: %llu keys, only %zu bytes are left in the file",
                        (unsigned long long)count, left(c));
    if (count > VM_GGUF_MAX_KEYS)
        return vm_error(VMOER_ERROR_LIMIT, "byte 16: %llu keys, at most %d are allowed", (unsigned long long)count,
                        (int)VM_GGUF_MAX_KEYS);
    g->n_keys = (size_t)count;
    g->keys = vm_arena_alloc(g->arena, g->n_keys, sizeof *g->keys);
    g->keys_by_name = vm_arena_alloc(g->arena, g->n_keys, sizeof *g->keys_by_name);
    if (!g->keys || !g->keys_by_name) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < g->n_keys; i++) {
        entry *e = &g->keys[i];
        *e = (entry){0};
        g->keys_by_name[i] = e;
        VM_TRY_IN(take_name(c, g, "key", VM_GGUF_MAX_KEY_BYTES, &e->key), "key %zu", i);
        VM_TRY_IN(take_value(c, g, e), "key \"%.80s\"", e->key);
    }
    qsort(g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, by_key);
    for (size_t i = 1; i < g->n_keys; i++) {
        if (by_key(&g->keys_by_name[i - 1], &g->keys_by_name[i]) == 0)
            return vm_error(VMOER_ERROR_FORMAT, "key \"%.80s\" stands twice in the file", g->keys_by_name[i]->key);
    }
    return VMOER_OK;
}

static vmoer_status parse_tensor(cursor *c, vm_gguf_tensor *t) {
    size_t at = c->pos;
    uint32_t n_dims;
    VM_TRY(take_u32(c, "number of dimensions", &n_dims));
    if (n_dims < 1 || n_dims > VM_GGUF_MAX_DIMS)
        return vm_error(VMOER_ERROR_FORMAT, "byte %zu: %u dimensions, 1 to %d are allowed", at, n_dims,
                        (int)VM_GGUF_MAX_DIMS);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < VM_GGUF_MAX_DIMS; i++) t->ne[i] = 1;
    for (int i = 0; i < t->n_dims; i++) {
        uint64_t ne;
        VM_TRY(take_u64(c, "dimension", &ne));
        t->ne[i] = ne <= INT64_MAX ? (int64_t)ne : -1;
    }
    VM_TRY(take_u32(c, "tensor type", &t->type));
    VM_TRY_IN(vm_gguf_tensor_size(t->type, t->n_dims, t->ne, &t->size), "byte %zu", at);
    VM_TRY(take_u64(c, "tensor offset", &t->offset));
    return VMOER_OK;
}

static int by_tensor_name(const void *a, const void *b) {
    return strcmp((*(vm_gguf_tensor *const *)a)->name, (*(vm_gguf_tensor *const *)b)->name);
}

static int by_offset(const void *a, const void *b) {
    uint64_t x = (*(vm_gguf_tensor *const *)a)->offset, y = (*(vm_gguf_tensor *const *)b)->offset;
    return (x > y) - (x < y);
}

static vmoer_status read_alignment(const vm_gguf *g, size_t *out) {
    const char *key = "general.alignment";
    uint32_t value = VM_GGUF_DEFAULT_ALIGNMENT;
    if (vm_gguf_has_key(g, key)) VM_TRY(vm_gguf_get_u32(g, key, &value));
    if (value < 8 || value > VM_GGUF_MAX_ALIGNMENT || (value & (value - 1)) != 0)
        return vm_error(VMOER_ERROR_FORMAT, "key \"%s\" is %u, not a power of two from 8 to %d", key, value,
                        (int)VM_GGUF_MAX_ALIGNMENT);
    *out = value;
    return VMOER_OK;
}

/* The tensors, in whatever order, fill the data section: each starts where the one before it, padded, ends. A gap means
 * that a size was understood differently by the writer; an overlap that the file is broken or lies. */
static vmoer_status place_tensors(vm_gguf *g, size_t header_end) {
    size_t alignment;
    VM_TRY(read_alignment(g, &alignment));
    g->data_start =
        (header_end + alignment - 1) & ~(alignment - 1); /* header_end is a position in memory: no overflow */

    qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, by_offset);
    uint64_t expected = 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        vm_gguf_tensor *t = g->tensors_by_name[i];
        if (t->offset != expected)
            return vm_error(VMOER_ERROR_FORMAT,
                            "tensor \"%s\" starts at data offset %llu, the one before it ends at %llu", t->name,
                            (unsigned long long)t->offset, (unsigned long long)expected);
        if (g->data_start > g->size || t->offset > g->size - g->data_start ||
            t->size > g->size - g->data_start - t->offset)
            return vm_error(VMOER_ERROR_FORMAT,
                            "tensor \"%s\" (data offset %llu, %zu bytes) goes past the end of the file of %zu bytes: "
                            "it was cut off or is not whole",
                            t->name, (unsigned long long)t->offset, t->size, g->size);
        expected = (t->offset + t->size + alignment - 1) & ~(uint64_t)(alignment - 1);
        t->offset += g->data_start;
        t->data = g->data + t->offset;
    }
    if (g->size > g->data_start && g->size - g->data_start > expected)
        return vm_error(VMOER_ERROR_FORMAT, "%llu bytes follow the last tensor, which ends at byte %llu",
                        (unsigned long long)(g->size - g->data_start - expected),
                        (unsigned long long)(g->data_start + expected));
    return VMOER_OK;
}

static vmoer_status sort_tensors(vm_gguf *g) {
    qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, by_tensor_name);
    for (size_t i = 1; i < g->n_tensors; i++) {
        if (by_tensor_name(&g->tensors_by_name[i - 1], &g->tensors_by_name[i]) == 0)
            return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" stands twice in the file", g->tensors_by_name[i]->name);
    }
    return VMOER_OK;
}

static vmoer_status parse_tensors(cursor *c, vm_gguf *g, uint64_t count) {
    enum { LEAST = 8 + 1 + 4 + 8 + 4 + 8 }; /* bytes of the smallest tensor entry */
    if (count > left(c) / LEAST)
        return vm_error(VMOER_ERROR_FORMAT, "byte 8: %llu tensors, only %zu bytes are left in the file",
                        (unsigned long long)count, left(c));
    if (count > VM_GGUF_MAX_TENSORS)
        return vm_error(VMOER_ERROR_LIMIT, "byte 8: %llu tensors, at most %d are allowed", (unsigned long long)count,
                        (int)VM_GGUF_MAX_TENSORS);
    g->n_tensors = (size_t)count;
    g->tensors = vm_arena_alloc(g->arena, g->n_tensors, sizeof *g->tensors);
    g->tensors_by_name = vm_arena_alloc(g->arena, g->n_tensors, sizeof *g->tensors_by_name);
    if (!g->tensors || !g->tensors_by_name) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < g->n_tensors; i++) {
        vm_gguf_tensor *t = &g->tensors[i];
        *t = (vm_gguf_tensor){0};
        g->tensors_by_name[i] = t;
        VM_TRY_IN(take_name(c, g, "tensor name", VM_GGUF_MAX_NAME_BYTES, &t->name), "tensor %zu", i);
        VM_TRY_IN(parse_tensor(c, t), "tensor \"%s\"", t->name);
    }
    VM_TRY(place_tensors(g, c->pos));
    return sort_tensors(g);
}

static vmoer_status parse(vm_gguf *g) {
    cursor c = {.data = g->data, .size = g->size};
    const uint8_t *magic;
    uint32_t version;
    uint64_t n_tensors, n_keys;
    if (g->size < 4 || memcmp(g->data, "GGUF", 4) != 0)
        return vm_error(VMOER_ERROR_FORMAT, "byte 0: not a GGUF file (it does not start with \"GGUF\")");
    VM_TRY(take(&c, 4, "magic", &magic));
    VM_TRY(take_u32(&c, "version", &version));
    if (version != 0 && (version & 0xffff) == 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "byte 4: a big-endian GGUF file; convert it to little-endian");
    if (version != 2 && version != 3)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "byte 4: GGUF version %u; 2 and 3 are supported", version);
    VM_TRY(take_u64(&c, "number of tensors", &n_tensors));
    VM_TRY(take_u64(&c, "number of keys", &n_keys));
    VM_TRY(parse_keys(&c, g, n_keys));
    return parse_tensors(&c, g, n_tensors);
}

/* ---- life ---- */

static vmoer_status open_view(const void *data, size_t size, const char *where, vm_gguf **out) {
    vm_gguf *g = vm_calloc(1, sizeof *g);
    vm_arena *arena = vm_arena_create();
    const char *path = arena ? vm_arena_strndup(arena, where, strlen(where)) : NULL;
    if (!g || !path) {
        vm_free(g);
        vm_arena_free(arena);
        return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", where);
    }
    g->arena = arena;
    g->path = path;
    g->data = data;
    g->size = size;
    g->pieces = vm_arena_alloc(arena, 1, sizeof *g->pieces);
    vmoer_status status = g->pieces ? parse(g) : vm_error(VMOER_ERROR_MEMORY, "out of memory");
    if (status != VMOER_OK) {
        vm_error_in(status, "%s", where);
        vm_gguf_free(g);
        return status;
    }
    g->header = (vm_gguf_piece){g->data, g->data_start < size ? g->data_start : size};
    g->pieces[0] = (vm_gguf_piece){g->data + g->header.size, size - g->header.size};
    g->n_pieces = 1;
    *out = g;
    return VMOER_OK;
}

vmoer_status vm_gguf_open_memory(const void *data, size_t size, const char *where, vm_gguf **out) {
    *out = NULL;
    return open_view(data, size, where, out);
}

vmoer_status vm_gguf_open_file(const char *path, vm_gguf **out) {
    *out = NULL;
    vm_map map;
    VM_TRY(vm_map_open(path, &map));
    vmoer_status status = open_view(map.data, map.size, path, out);
    if (status == VMOER_OK)
        (*out)->map = map;
    else
        vm_map_close(&map);
    return status;
}

vmoer_status vm_gguf_open(const char *path, vm_gguf **out) {
    if (vm_is_folder(path)) return vm_hf_open(path, out);
    VM_TRY(vm_gguf_open_file(path, out));
    vmoer_status status = vm_gguf_join_shards(*out);
    if (status == VMOER_OK) return VMOER_OK;
    vm_gguf_free(*out);
    *out = NULL;
    return vm_error_in(status, "%s", path);
}

/* Leaves out the keys that start with this. */
static void drop_keys(vm_gguf *g, const char *prefix) {
    size_t n = 0;
    for (size_t i = 0; i < g->n_keys; i++)
        if (strncmp(g->keys[i].key, prefix, strlen(prefix)) != 0) g->keys[n++] = g->keys[i];
    g->n_keys = n;
    for (size_t i = 0; i < n; i++) g->keys_by_name[i] = &g->keys[i];
    qsort(g->keys_by_name, n, sizeof(entry *), by_key);
}

vmoer_status vm_gguf_make_whole(vm_gguf *g, const vm_gguf_whole *whole, const char *drop) {
    vm_gguf_tensor *tensors = vm_arena_alloc(g->arena, whole->n_tensors, sizeof *tensors);
    vm_gguf_tensor **by_name = vm_arena_alloc(g->arena, whole->n_tensors, sizeof(vm_gguf_tensor *));
    vm_gguf_piece *pieces = vm_arena_alloc(g->arena, whole->n_pieces, sizeof *pieces);
    if (!tensors || !by_name || !pieces) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < whole->n_tensors; i++) {
        tensors[i] = whole->tensors[i];
        by_name[i] = &tensors[i];
    }
    g->tensors = tensors;
    g->tensors_by_name = by_name;
    g->n_tensors = whole->n_tensors;
    VM_TRY(sort_tensors(g));
    for (size_t i = 0; i < whole->n_pieces; i++) pieces[i] = whole->pieces[i];
    g->header = whole->header;
    g->pieces = pieces;
    g->n_pieces = whole->n_pieces;
    g->owned = whole->owned;
    g->release = whole->release;
    if (drop) drop_keys(g, drop);
    return VMOER_OK;
}

void *vm_gguf_owned(const vm_gguf *g, void (*release)(void *owned)) { return g->release == release ? g->owned : NULL; }

void vm_gguf_free(vm_gguf *g) {
    if (!g) return;
    if (g->release) g->release(g->owned);
    vm_arena_free(g->arena);
    vm_map_close(&g->map);
    vm_free(g);
}

const char *vm_gguf_path(const vm_gguf *g) { return g->path; }

size_t vm_gguf_header_size(const vm_gguf *g) { return g->header.size; }

size_t vm_gguf_file_size(const vm_gguf *g) {
    size_t size = g->header.size;
    for (size_t i = 0; i < g->n_pieces; i++) size += g->pieces[i].size; /* all of it is mapped: no overflow */
    return size;
}

const uint8_t *vm_gguf_bytes(const vm_gguf *g, size_t offset, size_t *size) {
    const vm_gguf_piece *piece = &g->header;
    size_t next = 0;
    while (offset >= piece->size) {
        if (next == g->n_pieces) return NULL;
        offset -= piece->size;
        piece = &g->pieces[next++];
    }
    *size = piece->size - offset;
    return piece->data + offset;
}

/* ---- tensors ---- */

size_t vm_gguf_tensor_count(const vm_gguf *g) { return g->n_tensors; }

const vm_gguf_tensor *vm_gguf_tensor_at(const vm_gguf *g, size_t index) {
    return index < g->n_tensors ? &g->tensors[index] : NULL;
}

const vm_gguf_tensor *vm_gguf_find_tensor(const vm_gguf *g, const char *name) {
    vm_gguf_tensor wanted = {.name = name}, *p = &wanted;
    vm_gguf_tensor **found = bsearch(&p, g->tensors_by_name, g->n_tensors, sizeof p, by_tensor_name);
    return found ? *found : NULL;
}

/* ---- keys ---- */

size_t vm_gguf_key_count(const vm_gguf *g) { return g->n_keys; }

const char *vm_gguf_key_at(const vm_gguf *g, size_t index) { return index < g->n_keys ? g->keys[index].key : NULL; }

static const entry *find_key(const vm_gguf *g, const char *key) {
    entry wanted = {.key = key}, *p = &wanted;
    entry **found = bsearch(&p, g->keys_by_name, g->n_keys, sizeof p, by_key);
    return found ? *found : NULL;
}

bool vm_gguf_has_key(const vm_gguf *g, const char *key) { return find_key(g, key) != NULL; }

const uint8_t *vm_gguf_raw_value(const vm_gguf *g, const char *key, vm_gguf_type *type, size_t *size) {
    const entry *e = find_key(g, key);
    if (!e) return NULL;
    *type = e->type;
    *size = e->raw_size;
    return e->raw;
}

static vmoer_status need_key(const vm_gguf *g, const char *key, const entry **out) {
    *out = find_key(g, key);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "%s: key \"%s\" is missing", g->path, key);
}

static vmoer_status wrong_type(const vm_gguf *g, const entry *e, const char *wanted) {
    return vm_error(VMOER_ERROR_FORMAT, "%s: key \"%s\" is of type %s%s%s, not %s", g->path, e->key, type_name(e->type),
                    e->type == VM_GGUF_ARRAY ? " of " : "", e->type == VM_GGUF_ARRAY ? type_name(e->element) : "",
                    wanted);
}

/* Any integer as a sign and 64 bits. False: not an integer type. */
static bool load_integer(vm_gguf_type type, const uint8_t *p, bool *negative, uint64_t *bits) {
    int64_t s;
    switch (type) {
    case VM_GGUF_U8:
        s = *p;
        break;
    case VM_GGUF_I8:
        s = (int8_t)*p;
        break;
    case VM_GGUF_U16: {
        uint16_t v;
        memcpy(&v, p, 2);
        s = v;
        break;
    }
    case VM_GGUF_I16: {
        int16_t v;
        memcpy(&v, p, 2);
        s = v;
        break;
    }
    case VM_GGUF_U32: {
        uint32_t v;
        memcpy(&v, p, 4);
        s = v;
        break;
    }
    case VM_GGUF_I32: {
        int32_t v;
        memcpy(&v, p, 4);
        s = v;
        break;
    }
    case VM_GGUF_I64:
        memcpy(&s, p, 8);
        break;
    case VM_GGUF_U64:
        memcpy(bits, p, 8);
        *negative = false;
        return true;
    default:
        return false;
    }
    *negative = s < 0;
    *bits = (uint64_t)s;
    return true;
}

vmoer_status vm_gguf_get_u32(const vm_gguf *g, const char *key, uint32_t *out) {
    const entry *e;
    bool negative;
    uint64_t bits;
    VM_TRY(need_key(g, key, &e));
    if (!load_integer(e->type, e->value, &negative, &bits)) return wrong_type(g, e, "u32");
    if (negative || bits > UINT32_MAX)
        return vm_error(VMOER_ERROR_FORMAT, "%s: key \"%s\" does not fit 32 bits without sign", g->path, key);
    *out = (uint32_t)bits;
    return VMOER_OK;
}

static bool load_float(vm_gguf_type type, const uint8_t *p, float *out) {
    double d;
    if (type == VM_GGUF_F32) {
        memcpy(out, p, 4);
    } else if (type == VM_GGUF_F64) {
        memcpy(&d, p, 8);
        *out = (float)d;
    } else {
        return false;
    }
    return true;
}

vmoer_status vm_gguf_get_f32(const vm_gguf *g, const char *key, float *out) {
    const entry *e;
    VM_TRY(need_key(g, key, &e));
    return load_float(e->type, e->value, out) ? VMOER_OK : wrong_type(g, e, "f32");
}

vmoer_status vm_gguf_get_bool(const vm_gguf *g, const char *key, bool *out) {
    const entry *e;
    VM_TRY(need_key(g, key, &e));
    if (e->type != VM_GGUF_BOOL) return wrong_type(g, e, "bool");
    *out = *e->value == 1;
    return VMOER_OK;
}

vmoer_status vm_gguf_get_string(const vm_gguf *g, const char *key, const char **out, size_t *length) {
    const entry *e;
    VM_TRY(need_key(g, key, &e));
    if (e->type != VM_GGUF_STRING) return wrong_type(g, e, "string");
    *out = (const char *)e->value;
    *length = e->count;
    return VMOER_OK;
}

vmoer_status vm_gguf_get_array(const vm_gguf *g, const char *key, vm_gguf_type *element, size_t *count) {
    const entry *e;
    VM_TRY(need_key(g, key, &e));
    if (e->type != VM_GGUF_ARRAY) return wrong_type(g, e, "array");
    *element = e->element;
    *count = e->count;
    return VMOER_OK;
}

/* The array's entry, its index checked. */
static vmoer_status need_element(const vm_gguf *g, const char *key, size_t index, const entry **out) {
    VM_TRY(need_key(g, key, out));
    if ((*out)->type != VM_GGUF_ARRAY) return wrong_type(g, *out, "array");
    if (index >= (*out)->count)
        return vm_error(VMOER_ERROR_FORMAT, "%s: key \"%s\" has %zu elements, element %zu was asked for", g->path, key,
                        (*out)->count, index);
    return VMOER_OK;
}

vmoer_status vm_gguf_array_string(const vm_gguf *g, const char *key, size_t index, const char **out, size_t *length) {
    const entry *e;
    VM_TRY(need_element(g, key, index, &e));
    if (e->element != VM_GGUF_STRING) return wrong_type(g, e, "array of string");
    const uint8_t *at = e->value + e->starts[index];
    uint64_t n;
    memcpy(&n, at, 8);
    *out = (const char *)at + 8;
    *length = (size_t)n;
    return VMOER_OK;
}

vmoer_status vm_gguf_array_f32(const vm_gguf *g, const char *key, size_t index, float *out) {
    const entry *e;
    VM_TRY(need_element(g, key, index, &e));
    bool found = load_float(e->element, e->value + index * scalar_size(e->element), out);
    return found ? VMOER_OK : wrong_type(g, e, "array of f32");
}

vmoer_status vm_gguf_array_i32(const vm_gguf *g, const char *key, size_t index, int32_t *out) {
    const entry *e;
    bool negative;
    uint64_t bits;
    VM_TRY(need_element(g, key, index, &e));
    if (!load_integer(e->element, e->value + index * scalar_size(e->element), &negative, &bits))
        return wrong_type(g, e, "array of i32");
    int64_t value = (int64_t)bits;
    if (negative ? value < INT32_MIN : bits > INT32_MAX)
        return vm_error(VMOER_ERROR_FORMAT, "%s: key \"%s\", element %zu does not fit 32 bits", g->path, key, index);
    *out = (int32_t)value;
    return VMOER_OK;
}
