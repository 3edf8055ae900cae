/* gguf_write.c: the writer, GGUF v3. Keys and tensors stand in the file in the order in which they were first set;
 * every tensor is aligned to 32 bytes, the last one padded too. What it writes the reader accepts. */
#include "io/gguf.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = VM_GGUF_DEFAULT_ALIGNMENT, MAX_NAME = 63 /* llama.cpp keeps names in 64 bytes, the NUL included */ };

static const char alignment_key[] = "general.alignment";

typedef struct pending_key {
    const char *key;
    vm_gguf_type type;
    const uint8_t *raw; /* the value as it will stand in the file, after its type */
    size_t size;
} pending_key;

typedef struct pending_tensor {
    const char *name;
    uint32_t type;
    int n_dims;
    int64_t ne[4];
    const void *data; /* the caller's; NULL: fill makes it */
    vm_gguf_fill *fill;
    void *context;
    size_t size;
} pending_tensor;

struct vm_gguf_writer {
    vm_arena *arena; /* keys, values, names */
    pending_key *keys;
    size_t n_keys, key_capacity;
    pending_tensor *tensors;
    size_t n_tensors, tensor_capacity;
};

vm_gguf_writer *vm_gguf_writer_create(void) {
    vm_gguf_writer *w = vm_calloc(1, sizeof *w);
    if (!w) return NULL;
    w->arena = vm_arena_create();
    if (!w->arena) {
        vm_free(w);
        return NULL;
    }
    return w;
}

void vm_gguf_writer_free(vm_gguf_writer *w) {
    if (!w) return;
    vm_arena_free(w->arena);
    vm_free(w->keys);
    vm_free(w->tensors);
    vm_free(w);
}

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "GGUF writer: out of memory"); }

typedef struct buffer {
    uint8_t *bytes; /* [size] */
    size_t size, capacity;
} buffer;

static bool put(buffer *b, const void *data, size_t size) {
    if (!vm_grow((void **)&b->bytes, &b->capacity, b->size + size, 1)) return false;
    if (size) memcpy(b->bytes + b->size, data, size);
    b->size += size;
    return true;
}

static bool put_u32(buffer *b, uint32_t value) { return put(b, &value, 4); }

static bool put_u64(buffer *b, uint64_t value) { return put(b, &value, 8); }

static bool put_string(buffer *b, const char *text) { return put_u64(b, strlen(text)) && put(b, text, strlen(text)); }

/* ---- keys ---- */

/* Sets key to a copy of `raw`; only the first n_searched keys can hold it already. */
static vmoer_status set_key(vm_gguf_writer *w, size_t n_searched, const char *key, vm_gguf_type type, const void *raw,
                            size_t size) {
    pending_key *slot = NULL;
    for (size_t i = 0; i < n_searched && !slot; i++) {
        if (strcmp(w->keys[i].key, key) == 0) slot = &w->keys[i];
    }
    uint8_t *copy = vm_arena_alloc(w->arena, size, 1);
    if (!copy) return no_memory();
    memcpy(copy, raw, size);
    if (!slot) {
        if (w->n_keys == VM_GGUF_MAX_KEYS)
            return vm_error(VMOER_ERROR_LIMIT, "GGUF writer: more than %d keys", (int)VM_GGUF_MAX_KEYS);
        const char *name = vm_arena_strndup(w->arena, key, strlen(key));
        if (!name || !vm_grow((void **)&w->keys, &w->key_capacity, w->n_keys + 1, sizeof *w->keys)) return no_memory();
        slot = &w->keys[w->n_keys++];
        slot->key = name;
    }
    slot->type = type;
    slot->raw = copy;
    slot->size = size;
    return VMOER_OK;
}

static vmoer_status set_checked(vm_gguf_writer *w, const char *key, vm_gguf_type type, const void *raw, size_t size) {
    if (!vm_gguf_name_ok(key, strlen(key), VM_GGUF_MAX_KEY_BYTES))
        return vm_error(VMOER_ERROR_ARGUMENT, "GGUF writer: a key must be 1 to %d printable ASCII characters",
                        (int)VM_GGUF_MAX_KEY_BYTES);
    if (strcmp(key, alignment_key) == 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "GGUF writer: %s is the writer's own, always %d", key, (int)ALIGNMENT);
    return set_key(w, w->n_keys, key, type, raw, size);
}

vmoer_status vm_gguf_writer_u32(vm_gguf_writer *w, const char *key, uint32_t value) {
    return set_checked(w, key, VM_GGUF_U32, &value, sizeof value);
}

vmoer_status vm_gguf_writer_f32(vm_gguf_writer *w, const char *key, float value) {
    return set_checked(w, key, VM_GGUF_F32, &value, sizeof value);
}

vmoer_status vm_gguf_writer_bool(vm_gguf_writer *w, const char *key, bool value) {
    uint8_t byte = value ? 1 : 0;
    return set_checked(w, key, VM_GGUF_BOOL, &byte, 1);
}

vmoer_status vm_gguf_writer_string(vm_gguf_writer *w, const char *key, const char *value) {
    uint64_t length = strlen(value);
    if (length > VM_GGUF_MAX_STRING)
        return vm_error(VMOER_ERROR_LIMIT,
                        "GGUF writer: the value of \"%.80s\" is %llu bytes long, at most %d are allowed", key,
                        (unsigned long long)length, (int)VM_GGUF_MAX_STRING);
    uint8_t *raw = vm_malloc(8 + (size_t)length, 1);
    if (!raw) return no_memory();
    memcpy(raw, &length, 8);
    memcpy(raw + 8, value, (size_t)length);
    vmoer_status status = set_checked(w, key, VM_GGUF_STRING, raw, 8 + (size_t)length);
    vm_free(raw);
    return status;
}

/* raw: the elements as they will stand in the file. */
static vmoer_status set_array(vm_gguf_writer *w, const char *key, vm_gguf_type element, size_t count,
                              const buffer *raw) {
    buffer whole = {0};
    vmoer_status status = no_memory();
    if (count > VM_GGUF_MAX_ARRAY)
        status = vm_error(VMOER_ERROR_LIMIT, "GGUF writer: \"%.80s\" has %zu elements, at most %d are allowed", key,
                          count, (int)VM_GGUF_MAX_ARRAY);
    else if (put_u32(&whole, element) && put_u64(&whole, count) && put(&whole, raw->bytes, raw->size))
        status = set_checked(w, key, VM_GGUF_ARRAY, whole.bytes, whole.size);
    vm_free(whole.bytes);
    return status;
}

vmoer_status vm_gguf_writer_strings(vm_gguf_writer *w, const char *key, size_t count, const char *const *texts,
                                    const size_t *lengths) {
    buffer raw = {0};
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) ok = put_u64(&raw, lengths[i]) && put(&raw, texts[i], lengths[i]);
    vmoer_status status = ok ? set_array(w, key, VM_GGUF_STRING, count, &raw) : no_memory();
    vm_free(raw.bytes);
    return status;
}

static vmoer_status set_numbers(vm_gguf_writer *w, const char *key, vm_gguf_type type, size_t count, const void *values,
                                size_t size) {
    buffer raw = {0};
    vmoer_status status = put(&raw, values, count * size) ? set_array(w, key, type, count, &raw) : no_memory();
    vm_free(raw.bytes);
    return status;
}

vmoer_status vm_gguf_writer_i32s(vm_gguf_writer *w, const char *key, size_t count, const int32_t *values) {
    return set_numbers(w, key, VM_GGUF_I32, count, values, sizeof *values);
}

vmoer_status vm_gguf_writer_f32s(vm_gguf_writer *w, const char *key, size_t count, const float *values) {
    return set_numbers(w, key, VM_GGUF_F32, count, values, sizeof *values);
}

vmoer_status vm_gguf_writer_copy_keys(vm_gguf_writer *w, const vm_gguf *g, const char *prefix) {
    size_t n_before = w->n_keys; /* the keys of g differ among themselves */
    for (size_t i = 0; i < vm_gguf_key_count(g); i++) {
        const char *key = vm_gguf_key_at(g, i);
        if (strncmp(key, prefix, strlen(prefix)) != 0 || strcmp(key, alignment_key) == 0) continue;
        vm_gguf_type type;
        size_t size;
        const uint8_t *raw = vm_gguf_raw_value(g, key, &type, &size);
        VM_TRY(set_key(w, n_before, key, type, raw, size));
    }
    return VMOER_OK;
}

/* ---- tensors ---- */

/* t: data, or fill and its context. */
static vmoer_status add_tensor(vm_gguf_writer *w, const char *name, uint32_t type, int n_dims, const int64_t *ne,
                               pending_tensor t) {
    if (!vm_gguf_name_ok(name, strlen(name), MAX_NAME))
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "GGUF writer: tensor name \"%.80s\" is not 1 to %d printable ASCII characters", name,
                        (int)MAX_NAME);
    if (n_dims < 1 || n_dims > VM_GGUF_MAX_DIMS)
        return vm_error(VMOER_ERROR_ARGUMENT, "GGUF writer: tensor \"%s\" has %d dimensions, 1 to %d are allowed", name,
                        n_dims, (int)VM_GGUF_MAX_DIMS);
    if (w->n_tensors == VM_GGUF_MAX_TENSORS)
        return vm_error(VMOER_ERROR_LIMIT, "GGUF writer: more than %d tensors", (int)VM_GGUF_MAX_TENSORS);
    t.type = type;
    t.n_dims = n_dims;
    for (int i = 0; i < n_dims; i++) t.ne[i] = ne[i];
    VM_TRY_IN(vm_gguf_tensor_size(type, n_dims, ne, &t.size), "GGUF writer: tensor \"%s\"", name);
    t.name = vm_arena_strndup(w->arena, name, strlen(name));
    if (!t.name || !vm_grow((void **)&w->tensors, &w->tensor_capacity, w->n_tensors + 1, sizeof *w->tensors))
        return no_memory();
    w->tensors[w->n_tensors++] = t;
    return VMOER_OK;
}

vmoer_status vm_gguf_writer_tensor(vm_gguf_writer *w, const char *name, uint32_t type, int n_dims, const int64_t *ne,
                                   const void *data) {
    return add_tensor(w, name, type, n_dims, ne, (pending_tensor){.data = data});
}

vmoer_status vm_gguf_writer_rows(vm_gguf_writer *w, const char *name, uint32_t type, int n_dims, const int64_t *ne,
                                 vm_gguf_fill *fill, void *context) {
    return add_tensor(w, name, type, n_dims, ne, (pending_tensor){.fill = fill, .context = context});
}

static vmoer_status fill_copy(void *context, size_t row, size_t rows, void *out) {
    vm_gguf_copy_rows(context, row, rows, out);
    return VMOER_OK;
}

vmoer_status vm_gguf_writer_copy(vm_gguf_writer *w, const vm_gguf_tensor *t) {
    return vm_gguf_writer_rows(w, t->name, t->type, t->n_dims, t->ne, fill_copy, (void *)(uintptr_t)t);
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Here and not when a tensor is added: one sort instead of a search for each. */
static vmoer_status check_names_differ(const vm_gguf_writer *w) {
    const char **names = vm_malloc(w->n_tensors, sizeof *names);
    if (!names) return no_memory();
    for (size_t i = 0; i < w->n_tensors; i++) names[i] = w->tensors[i].name;
    qsort(names, w->n_tensors, sizeof *names, by_name);
    vmoer_status status = VMOER_OK;
    for (size_t i = 1; i < w->n_tensors && status == VMOER_OK; i++) {
        if (strcmp(names[i - 1], names[i]) == 0)
            status = vm_error(VMOER_ERROR_ARGUMENT, "GGUF writer: tensor \"%s\" was added twice", names[i]);
    }
    vm_free(names);
    return status;
}

/* ---- saving ---- */

static uint64_t padded(uint64_t size) { return (size + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1); }

static vmoer_status put_padding(vm_writer *out) {
    static const uint8_t zeros[ALIGNMENT];
    return vm_writer_write(out, zeros, (size_t)(padded(vm_writer_offset(out)) - vm_writer_offset(out)));
}

static vmoer_status put_rows(const pending_tensor *t, vm_writer *out) {
    enum { PIECE = 4 << 20 };
    size_t rows = 1;
    for (int d = 1; d < t->n_dims; d++) rows *= (size_t)t->ne[d];
    size_t row_bytes = t->size / rows, most = row_bytes < PIECE ? PIECE / row_bytes : 1;
    if (most > rows) most = rows;
    void *piece = vm_malloc(most, row_bytes);
    if (!piece) return no_memory();
    vmoer_status status = VMOER_OK;
    for (size_t row = 0; row < rows && status == VMOER_OK; row += most) {
        size_t n = rows - row < most ? rows - row : most;
        status = t->fill(t->context, row, n, piece);
        if (status == VMOER_OK) status = vm_writer_write(out, piece, n * row_bytes);
    }
    vm_free(piece);
    return status;
}

vmoer_status vm_gguf_writer_header(const vm_gguf_writer *w, uint8_t **out, size_t *size) {
    buffer b = {0};
    bool ok = put(&b, "GGUF", 4) && put_u32(&b, VM_GGUF_VERSION) && put_u64(&b, w->n_tensors) && put_u64(&b, w->n_keys);
    for (size_t i = 0; i < w->n_keys && ok; i++) {
        const pending_key *k = &w->keys[i];
        ok = put_string(&b, k->key) && put_u32(&b, k->type) && put(&b, k->raw, k->size);
    }
    uint64_t offset = 0;
    for (size_t i = 0; i < w->n_tensors && ok; i++) {
        const pending_tensor *t = &w->tensors[i];
        ok = put_string(&b, t->name) && put_u32(&b, (uint32_t)t->n_dims);
        for (int d = 0; d < t->n_dims && ok; d++) ok = put_u64(&b, (uint64_t)t->ne[d]);
        ok = ok && put_u32(&b, t->type) && put_u64(&b, offset);
        offset += padded(t->size);
    }
    if (!ok) {
        vm_free(b.bytes);
        return no_memory();
    }
    *out = b.bytes;
    *size = b.size;
    return VMOER_OK;
}

static vmoer_status put_file(const vm_gguf_writer *w, vm_writer *out) {
    uint8_t *header;
    size_t size;
    VM_TRY(vm_gguf_writer_header(w, &header, &size));
    vmoer_status status = vm_writer_write(out, header, size);
    vm_free(header);
    if (status == VMOER_OK) status = put_padding(out);
    for (size_t i = 0; i < w->n_tensors && status == VMOER_OK; i++) {
        const pending_tensor *t = &w->tensors[i];
        status = t->fill ? put_rows(t, out) : vm_writer_write(out, t->data, t->size);
        if (status == VMOER_OK) status = put_padding(out);
    }
    return status;
}

vmoer_status vm_gguf_writer_save(vm_gguf_writer *w, const char *path) {
    VM_TRY_IN(check_names_differ(w), "%s", path);
    vm_writer *out;
    VM_TRY(vm_writer_open(path, &out));
    vmoer_status status = put_file(w, out);
    if (status != VMOER_OK) {
        vm_writer_abort(out);
        return status;
    }
    return vm_writer_commit(out);
}
