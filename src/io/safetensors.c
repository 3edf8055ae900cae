/* safetensors.c: reader and writer. The header is JSON (Jansson, duplicates refused); everything is checked when the
 * file is opened, in 64-bit integers, never through doubles. Tensor data need not be aligned in the file: read it by
 * memcpy. */
#include "io/safetensors.h"

#include "base/dtype.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 100000000, MAX_DIMS = 8 };

static const char metadata_key[] = "__metadata__";

/* Bits of an element; 0: unknown. */
static size_t dtype_bits(const char *dtype) {
    static const struct {
        const char *name;
        uint8_t bits;
    } known[] = {
        {"BOOL", 8},    {"U8", 8},      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F4", 4},
        {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"I16", 16}, {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},
        {"U32", 32},    {"F32", 32},    {"I64", 64}, {"U64", 64},    {"F64", 64},    {"C64", 64},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, dtype) == 0) return known[i].bits;
    }
    return 0;
}

bool vm_st_float_type(const char *dtype, vm_dtype *out) {
    if (strcmp(dtype, "F32") == 0)
        *out = VM_F32;
    else if (strcmp(dtype, "F16") == 0)
        *out = VM_F16;
    else if (strcmp(dtype, "BF16") == 0)
        *out = VM_BF16;
    else
        return false;
    return true;
}

static bool count_elements(int n_dims, const int64_t *shape, size_t *out) {
    *out = 1;
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0 || !vm_mul(*out, (size_t)shape[i], out)) return false;
    }
    return *out <= INT64_MAX;
}

/* "[2, 3]" */
static const char *shape_text(int n_dims, const int64_t *shape, char text[256]) {
    size_t used = (size_t)snprintf(text, 256, "[");
    for (int i = 0; i < n_dims; i++)
        used += (size_t)snprintf(text + used, 256 - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + used, 256 - used, "]");
    return text;
}

/* ---- reader ---- */

typedef struct located {
    vm_st_tensor tensor;
    uint64_t begin, end; /* in the data section */
} located;

struct vm_safetensors {
    vm_map map; /* owned; empty when opened from memory */
    const uint8_t *data;
    size_t size;
    const char *path;
    vm_arena *arena;
    located *tensors; /* by offset */
    located **by_name;
    size_t n_tensors;
    json_t *metadata; /* owned; NULL if there is none */
};

static vmoer_status parse_offsets(const json_t *offsets, located *t) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return vm_error(VMOER_ERROR_FORMAT, "data_offsets are not two integers");
    json_int_t b = json_integer_value(begin), e = json_integer_value(end);
    if (b < 0 || e < b)
        return vm_error(VMOER_ERROR_FORMAT, "data_offsets [%lld, %lld] are no range", (long long)b, (long long)e);
    t->begin = (uint64_t)b;
    t->end = (uint64_t)e;
    return VMOER_OK;
}

static vmoer_status parse_tensor(const json_t *info, located *t) {
    vm_st_tensor *tensor = &t->tensor;
    const char *dtype = json_string_value(json_object_get(info, "dtype"));
    const json_t *shape = json_object_get(info, "shape");
    if (!dtype || !json_is_array(shape)) return vm_error(VMOER_ERROR_FORMAT, "no dtype or no shape");
    size_t bits = dtype_bits(dtype);
    if (!bits) return vm_error(VMOER_ERROR_UNSUPPORTED, "unknown dtype \"%.32s\"", dtype);
    snprintf(tensor->dtype, sizeof tensor->dtype, "%s", dtype);
    VM_TRY(parse_offsets(json_object_get(info, "data_offsets"), t));

    size_t n_dims = json_array_size(shape);
    if (n_dims > MAX_DIMS)
        return vm_error(VMOER_ERROR_LIMIT, "%zu dimensions, at most %d are allowed", n_dims, (int)MAX_DIMS);
    tensor->n_dims = (int)n_dims;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return vm_error(VMOER_ERROR_FORMAT, "dimension %zu is not an integer from 0", i);
        tensor->shape[i] = json_integer_value(dim);
    }
    size_t elements, n_bits;
    if (!count_elements(tensor->n_dims, tensor->shape, &elements) || !vm_mul(elements, bits, &n_bits))
        return vm_error(VMOER_ERROR_FORMAT, "the size overflows");
    if (n_bits % 8 != 0) return vm_error(VMOER_ERROR_FORMAT, "%zu bits are no whole number of bytes", n_bits);
    tensor->size = n_bits / 8;
    if (t->end - t->begin != tensor->size)
        return vm_error(VMOER_ERROR_FORMAT, "shape and dtype make %zu bytes, data_offsets [%llu, %llu] say %llu",
                        tensor->size, (unsigned long long)t->begin, (unsigned long long)t->end,
                        (unsigned long long)(t->end - t->begin));
    return VMOER_OK;
}

static int by_offset(const void *a, const void *b) {
    const located *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name); /* empty tensors share a place: keep the order defined */
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(located *const *)a)->tensor.name, (*(located *const *)b)->tensor.name);
}

/* Tensors must follow each other from 0 to the end of the file, without hole, overlap or remainder. */
static vmoer_status place_tensors(vm_safetensors *st, size_t data_start) {
    qsort(st->tensors, st->n_tensors, sizeof *st->tensors, by_offset);
    uint64_t expected = 0, available = st->size - data_start;
    for (size_t i = 0; i < st->n_tensors; i++) {
        located *t = &st->tensors[i];
        if (t->begin != expected)
            return vm_error(VMOER_ERROR_FORMAT,
                            "tensor \"%.80s\" starts at data offset %llu, the one before it ends at %llu",
                            t->tensor.name, (unsigned long long)t->begin, (unsigned long long)expected);
        if (t->end > available)
            return vm_error(VMOER_ERROR_FORMAT,
                            "tensor \"%.80s\" ends at data offset %llu, the file has %llu bytes of data",
                            t->tensor.name, (unsigned long long)t->end, (unsigned long long)available);
        t->tensor.data = st->data + data_start + t->begin;
        expected = t->end;
        st->by_name[i] = t;
    }
    if (expected != available)
        return vm_error(VMOER_ERROR_FORMAT, "%llu bytes follow the last tensor, which ends at data offset %llu",
                        (unsigned long long)(available - expected), (unsigned long long)expected);
    qsort(st->by_name, st->n_tensors, sizeof *st->by_name, by_name);
    return VMOER_OK;
}

static vmoer_status parse_header(vm_safetensors *st, json_t *header, size_t data_start) {
    json_t *metadata = json_object_get(header, metadata_key);
    const char *key;
    json_t *value;
    if (metadata) {
        if (!json_is_object(metadata)) return vm_error(VMOER_ERROR_FORMAT, "%s is not an object", metadata_key);
        json_object_foreach(metadata, key, value) {
            if (!json_is_string(value))
                return vm_error(VMOER_ERROR_FORMAT, "%s: \"%.80s\" is not a string", metadata_key, key);
        }
        st->metadata = json_incref(metadata);
    }
    size_t n = json_object_size(header) - (metadata ? 1 : 0);
    st->tensors = vm_arena_alloc(st->arena, n, sizeof *st->tensors);
    st->by_name = vm_arena_alloc(st->arena, n, sizeof *st->by_name);
    if (!st->tensors || !st->by_name) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    json_object_foreach(header, key, value) {
        if (value == metadata) continue;
        located *t = &st->tensors[st->n_tensors++];
        *t = (located){0};
        t->tensor.name = vm_arena_strndup(st->arena, key, strlen(key));
        if (!t->tensor.name) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
        VM_TRY_IN(parse_tensor(value, t), "tensor \"%.80s\"", key);
    }
    return place_tensors(st, data_start);
}

static vmoer_status parse(vm_safetensors *st) {
    uint64_t length;
    if (st->size < 8)
        return vm_error(VMOER_ERROR_FORMAT, "byte 0: %zu bytes are too few for a safetensors file", st->size);
    memcpy(&length, st->data, 8); /* little-endian, as every machine this is built for */
    if (length > st->size - 8)
        return vm_error(VMOER_ERROR_FORMAT, "byte 0: a header of %llu bytes, %zu are left in the file",
                        (unsigned long long)length, st->size - 8);
    if (length > MAX_HEADER)
        return vm_error(VMOER_ERROR_LIMIT, "byte 0: a header of %llu bytes, at most %d are allowed",
                        (unsigned long long)length, (int)MAX_HEADER);
    if (length == 0 || st->data[8] != '{')
        return vm_error(VMOER_ERROR_FORMAT, "byte 8: the header does not start with {");
    json_t *header;
    VM_TRY(vm_json_parse((const char *)st->data + 8, (size_t)length, "header", &header));
    vmoer_status status = parse_header(st, header, 8 + (size_t)length);
    json_decref(header);
    return status;
}

static vmoer_status open_view(const void *data, size_t size, const char *where, vm_safetensors **out) {
    vm_safetensors *st = vm_calloc(1, sizeof *st);
    vm_arena *arena = vm_arena_create();
    const char *path = arena ? vm_arena_strndup(arena, where, strlen(where)) : NULL;
    if (!st || !path) {
        vm_free(st);
        vm_arena_free(arena);
        return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", where);
    }
    st->arena = arena;
    st->path = path;
    st->data = data;
    st->size = size;
    vmoer_status status = parse(st);
    if (status != VMOER_OK) {
        vm_error_in(status, "%s", where);
        vm_safetensors_free(st);
        return status;
    }
    *out = st;
    return VMOER_OK;
}

vmoer_status vm_safetensors_open_memory(const void *data, size_t size, const char *where, vm_safetensors **out) {
    *out = NULL;
    return open_view(data, size, where, out);
}

vmoer_status vm_safetensors_open(const char *path, vm_safetensors **out) {
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

void vm_safetensors_free(vm_safetensors *st) {
    if (!st) return;
    json_decref(st->metadata);
    vm_arena_free(st->arena);
    vm_map_close(&st->map);
    vm_free(st);
}

size_t vm_safetensors_count(const vm_safetensors *st) { return st->n_tensors; }

const vm_st_tensor *vm_safetensors_at(const vm_safetensors *st, size_t index) {
    return index < st->n_tensors ? &st->tensors[index].tensor : NULL;
}

const vm_st_tensor *vm_safetensors_find(const vm_safetensors *st, const char *name) {
    located wanted = {.tensor.name = name}, *p = &wanted;
    located **found = bsearch(&p, st->by_name, st->n_tensors, sizeof p, by_name);
    return found ? &(*found)->tensor : NULL;
}

const char *vm_safetensors_metadata(const vm_safetensors *st, const char *key) {
    return json_string_value(json_object_get(st->metadata, key));
}

vmoer_status vm_safetensors_text(const vm_safetensors *st, const char *key, char *out, size_t size) {
    const char *text = vm_safetensors_metadata(st, key);
    if (!text) return vm_error(VMOER_ERROR_FORMAT, "%s: missing from the metadata", key);
    size_t length = strlen(text);
    if (length >= size) return vm_error(VMOER_ERROR_LIMIT, "%s: longer than %zu bytes", key, size - 1);
    memcpy(out, text, length + 1);
    return VMOER_OK;
}

vmoer_status vm_safetensors_u64(const vm_safetensors *st, const char *key, uint64_t max, uint64_t *out) {
    char text[32];
    VM_TRY(vm_safetensors_text(st, key, text, sizeof text));
    uint64_t value = 0;
    bool ok = text[0] != '\0';
    for (const char *c = text; ok && *c; c++) {
        ok = *c >= '0' && *c <= '9' && !__builtin_mul_overflow(value, (uint64_t)10, &value) &&
             !__builtin_add_overflow(value, (uint64_t)(*c - '0'), &value);
    }
    if (!ok) return vm_error(VMOER_ERROR_FORMAT, "%s: \"%s\" is not a whole number", key, text);
    if (value > max) return vm_error(VMOER_ERROR_LIMIT, "%s: %s is above %llu", key, text, (unsigned long long)max);
    *out = value;
    return VMOER_OK;
}

vmoer_status vm_safetensors_int(const vm_safetensors *st, const char *key, int max, int *out) {
    uint64_t value;
    VM_TRY(vm_safetensors_u64(st, key, (uint64_t)max, &value));
    *out = (int)value;
    return VMOER_OK;
}

vmoer_status vm_safetensors_read_f32(const vm_safetensors *st, const char *name, int n_dims, const int64_t *shape,
                                     float *dst) {
    const vm_st_tensor *t = vm_safetensors_find(st, name);
    if (!t) return vm_error(VMOER_ERROR_FORMAT, "%s: tensor \"%.80s\" is missing", st->path, name);
    bool same = t->n_dims == n_dims;
    for (int i = 0; same && i < n_dims; i++) same = t->shape[i] == shape[i];
    if (!same) {
        char has[256], wanted[256];
        return vm_error(VMOER_ERROR_MISMATCH, "%s: tensor \"%.80s\" has shape %s, %s is needed", st->path, name,
                        shape_text(t->n_dims, t->shape, has), shape_text(n_dims, shape, wanted));
    }
    vm_dtype type;
    if (!vm_st_float_type(t->dtype, &type))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: tensor \"%.80s\" is %s; F32, F16 and BF16 are supported",
                        st->path, name, t->dtype);
    size_t element, bytes;
    vm_dtype_block(type, &element, &bytes);
    vm_dequantize(type, t->data, t->size / bytes, dst);
    return VMOER_OK;
}

/* ---- writer ---- */

typedef struct pending {
    uint8_t *data; /* owned copy; NULL: fill makes it */
    vm_st_fill *fill;
    void *context;
    size_t size, row_bytes;
} pending;

struct vm_st_writer {
    json_t *header;   /* complete but for the padding */
    pending *tensors; /* in the order added */
    size_t n_tensors, capacity;
    uint64_t offset;
};

vm_st_writer *vm_st_writer_create(void) {
    vm_st_writer *w = vm_calloc(1, sizeof *w);
    if (!w) return NULL;
    w->header = json_object();
    if (!w->header) {
        vm_free(w);
        return NULL;
    }
    return w;
}

void vm_st_writer_free(vm_st_writer *w) {
    if (!w) return;
    for (size_t i = 0; i < w->n_tensors; i++) vm_free(w->tensors[i].data);
    vm_free(w->tensors);
    json_decref(w->header);
    vm_free(w);
}

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "safetensors writer: out of memory"); }

vmoer_status vm_st_writer_metadata(vm_st_writer *w, const char *key, const char *value) {
    json_t *metadata = json_object_get(w->header, metadata_key);
    if (!metadata) {
        metadata = json_object();
        if (json_object_set_new(w->header, metadata_key, metadata) != 0) return no_memory();
    }
    if (json_object_set_new(metadata, key, json_string(value)) != 0)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "safetensors writer: metadata \"%.80s\" cannot be stored: not UTF-8 or no memory", key);
    return VMOER_OK;
}

vmoer_status vm_st_writer_integer(vm_st_writer *w, const char *key, uint64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return vm_st_writer_metadata(w, key, text);
}

/* Puts the tensor into the header and the list. element: its bytes; 0: what the dtype says. */
static vmoer_status add_tensor(vm_st_writer *w, const char *name, const char *dtype, size_t element, int n_dims,
                               const int64_t *shape, pending **out, size_t *elements) {
    size_t bytes, bits = dtype_bits(dtype), size = element ? element : bits / 8;
    if (!bits || bits != size * 8)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "safetensors writer: tensor \"%.80s\": %zu bytes an element are not dtype \"%.32s\"", name,
                        size, dtype);
    if (n_dims < 0 || n_dims > MAX_DIMS || !count_elements(n_dims, shape, elements) || !vm_mul(*elements, size, &bytes))
        return vm_error(VMOER_ERROR_ARGUMENT, "safetensors writer: tensor \"%.80s\": the shape is not possible", name);
    if (strcmp(name, metadata_key) == 0 || json_object_get(w->header, name))
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "safetensors writer: tensor \"%.80s\" was added twice or has a reserved name", name);
    if (!vm_grow((void **)&w->tensors, &w->capacity, w->n_tensors + 1, sizeof *w->tensors)) return no_memory();

    json_t *dims = json_array();
    for (int i = 0; i < n_dims; i++) json_array_append_new(dims, json_integer(shape[i]));
    json_t *info = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", dims, "data_offsets",
                             (json_int_t)w->offset, (json_int_t)(w->offset + bytes));
    if (!info || json_array_size(dims) != (size_t)n_dims) {
        json_decref(info);
        return no_memory();
    }
    if (json_object_set_new(w->header, name, info) != 0)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "safetensors writer: tensor \"%.80s\": the name is not UTF-8 or no memory", name);
    *out = &w->tensors[w->n_tensors++];
    **out = (pending){.size = bytes, .row_bytes = n_dims ? (size_t)shape[n_dims - 1] * size : size};
    w->offset += bytes;
    return VMOER_OK;
}

/* The same with room for a copy of its data, which the caller fills. */
static vmoer_status add_copy(vm_st_writer *w, const char *name, const char *dtype, size_t element, int n_dims,
                             const int64_t *shape, uint8_t **data, size_t *elements) {
    pending *p;
    VM_TRY(add_tensor(w, name, dtype, element, n_dims, shape, &p, elements));
    *data = p->data = vm_malloc(p->size, 1);
    return *data ? VMOER_OK : no_memory();
}

vmoer_status vm_st_writer_raw(vm_st_writer *w, const char *name, const char *dtype, size_t element, int n_dims,
                              const int64_t *shape, const void *data) {
    uint8_t *copy;
    size_t elements;
    VM_TRY(add_copy(w, name, dtype, element, n_dims, shape, &copy, &elements));
    if (elements) memcpy(copy, data, elements * element);
    return VMOER_OK;
}

vmoer_status vm_st_writer_f32(vm_st_writer *w, const char *name, const char *dtype, int n_dims, const int64_t *shape,
                              const float *values) {
    vm_dtype type;
    if (!vm_st_float_type(dtype, &type))
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "safetensors writer: tensor \"%.80s\": dtype \"%.32s\" is not F32, F16 or BF16", name, dtype);
    uint8_t *copy;
    size_t elements, block, bytes;
    vm_dtype_block(type, &block, &bytes);
    VM_TRY(add_copy(w, name, dtype, bytes, n_dims, shape, &copy, &elements));
    vm_quantize(type, values, elements, copy);
    return VMOER_OK;
}

vmoer_status vm_st_writer_rows(vm_st_writer *w, const char *name, const char *dtype, int n_dims, const int64_t *shape,
                               vm_st_fill *fill, void *context) {
    pending *p;
    size_t elements;
    VM_TRY(add_tensor(w, name, dtype, 0, n_dims, shape, &p, &elements));
    p->fill = fill;
    p->context = context;
    return VMOER_OK;
}

static vmoer_status put_rows(const pending *t, vm_writer *out) {
    enum { PIECE = 4 << 20 };
    if (t->size == 0) return VMOER_OK;
    size_t rows = t->size / t->row_bytes, most = t->row_bytes < PIECE ? PIECE / t->row_bytes : 1;
    if (most > rows) most = rows;
    void *piece = vm_malloc(most, t->row_bytes);
    if (!piece) return no_memory();
    vmoer_status status = VMOER_OK;
    for (size_t row = 0; row < rows && status == VMOER_OK; row += most) {
        size_t n = rows - row < most ? rows - row : most;
        status = t->fill(t->context, row, n, piece);
        if (status == VMOER_OK) status = vm_writer_write(out, piece, n * t->row_bytes);
    }
    vm_free(piece);
    return status;
}

static vmoer_status put_file(const vm_st_writer *w, const char *header, vm_writer *out) {
    size_t length = strlen(header), padding = (8 - length % 8) % 8; /* data starts 8-byte aligned */
    uint64_t n = length + padding;
    VM_TRY(vm_writer_write(out, &n, 8));
    VM_TRY(vm_writer_write(out, header, length));
    VM_TRY(vm_writer_write(out, "        ", padding));
    for (size_t i = 0; i < w->n_tensors; i++) {
        const pending *t = &w->tensors[i];
        VM_TRY(t->fill ? put_rows(t, out) : vm_writer_write(out, t->data, t->size));
    }
    return VMOER_OK;
}

vmoer_status vm_st_writer_save(vm_st_writer *w, const char *path) {
    char *header = vm_json_line(w->header);
    if (!header) return no_memory();
    vmoer_status status;
    vm_writer *out = NULL;
    if (strlen(header) > MAX_HEADER - 8) {
        status = vm_error(VMOER_ERROR_LIMIT, "%s: a header of more than %d bytes", path, (int)MAX_HEADER);
        goto done;
    }
    VM_GOTO(vm_writer_open(path, &out));
    VM_GOTO(put_file(w, header, out));
    status = vm_writer_commit(out);
    out = NULL;
done:
    vm_writer_abort(out);
    free(header);
    return status;
}
