/* test_gguf.c: the reader against the reference's file, crafted files that must be refused, truncation and flipped
 * bytes, lack of memory; the writer against the reader. */
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/gguf.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- every allocation of the library passes here, so that one can be made to fail ---- */

static int allocations_left = -1; /* -1: no limit; 0: the next one fails */

int posix_memalign(void **out, size_t alignment, size_t size) {
    if (allocations_left == 0) return ENOMEM;
    if (allocations_left > 0) allocations_left--;
    void *p = memalign(alignment, size);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

/* ---- crafting ---- */

typedef struct bytes {
    uint8_t data[4096];
    size_t size;
} bytes;

static void put(bytes *b, const void *data, size_t size) {
    assert_true(b->size + size <= sizeof b->data);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void put_u32(bytes *b, uint32_t v) { put(b, &v, 4); }

static void put_u64(bytes *b, uint64_t v) { put(b, &v, 8); }

static void put_string(bytes *b, const char *text) {
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static void start(bytes *b, uint64_t n_tensors, uint64_t n_keys) {
    b->size = 0;
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_keys);
}

static void key(bytes *b, const char *name, uint32_t type) {
    put_string(b, name);
    put_u32(b, type);
}

static void key_u32(bytes *b, const char *name, uint32_t value) {
    key(b, name, VM_GGUF_U32);
    put_u32(b, value);
}

static void tensor(bytes *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset) {
    put_string(b, name);
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) put_u64(b, ne[i]);
    put_u32(b, type);
    put_u64(b, offset);
}

static void data(bytes *b, size_t size) {
    while (b->size % 32) put(b, "", 1);
    for (size_t i = 0; i < size; i++) put(b, "x", 1);
}

#define NE(...) ((const uint64_t[]){__VA_ARGS__})

/* A whole file with a key of each kind and three tensors, the last not padded. */
static void valid(bytes *b) {
    start(b, 3, 6);
    key_u32(b, "a.u32", 7);
    key(b, "a.string", VM_GGUF_STRING);
    put_string(b, "text");
    key(b, "a.bool", VM_GGUF_BOOL);
    put(b, "\1", 1);
    key(b, "a.f32", VM_GGUF_F32);
    put(b, &(float){0.5f}, 4);
    key(b, "a.strings", VM_GGUF_ARRAY);
    put_u32(b, VM_GGUF_STRING);
    put_u64(b, 2);
    put_string(b, "x");
    put_string(b, "yz");
    key(b, "a.i16s", VM_GGUF_ARRAY);
    put_u32(b, VM_GGUF_I16);
    put_u64(b, 2);
    put(b, (int16_t[]){-1, 2}, 4);
    tensor(b, "one", 2, NE(3, 2), VM_F32, 0);
    tensor(b, "two", 1, NE(32), VM_Q4_1, 32);
    tensor(b, "three", 1, NE(5), VM_F32, 64);
    data(b, 64 + 20);
}

/* Exactly `size` bytes on the heap: a read past the end meets the sanitizer. Opens, walks through everything, closes.
 */
static vmoer_status open_exact(const uint8_t *from, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, from, size);
    vm_gguf *g = NULL;
    vmoer_status status = vm_gguf_open_memory(copy, size, "test.gguf", &g);
    assert_true((status == VMOER_OK) == (g != NULL));
    unsigned sum = 0;
    for (size_t i = 0; g && i < vm_gguf_key_count(g); i++) {
        const char *name = vm_gguf_key_at(g, i), *text;
        size_t length, count;
        vm_gguf_type element;
        int32_t value;
        if (vm_gguf_get_string(g, name, &text, &length) == VMOER_OK && length) sum += (unsigned char)text[length - 1];
        if (vm_gguf_get_array(g, name, &element, &count) != VMOER_OK) continue;
        for (size_t k = 0; k < count; k++) {
            if (vm_gguf_array_string(g, name, k, &text, &length) == VMOER_OK && length)
                sum += (unsigned char)text[length - 1];
            if (vm_gguf_array_i32(g, name, k, &value) == VMOER_OK) sum += (unsigned)value;
        }
    }
    for (size_t i = 0; g && i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        assert_ptr_equal(vm_gguf_find_tensor(g, t->name), t);
        sum += t->data[0] + t->data[t->size - 1];
    }
    vm_gguf_free(g);
    free(copy);
    volatile unsigned used = sum;
    (void)used;
    return status;
}

static void assert_refused(const bytes *b, vmoer_status expected, const char *text, int line) {
    vmoer_status status = open_exact(b->data, b->size);
    if (status != expected || !strstr(vm_error_text(), text) || !strstr(vm_error_text(), "test.gguf: "))
        fail_msg("line %d: status %d, wanted %d and \"%s\": %s", line, status, expected, text, vm_error_text());
}
#define REFUSED(expected, text) assert_refused(&b, VMOER_ERROR_##expected, text, __LINE__)

/* ---- reading ---- */

static void reads_a_valid_file(void **state) {
    (void)state;
    bytes b;
    valid(&b);
    vm_gguf *g;
    assert_int_equal(vm_gguf_open_memory(b.data, b.size, "name", &g), VMOER_OK);
    assert_string_equal(vm_gguf_path(g), "name");
    assert_int_equal(vm_gguf_file_size(g), b.size);
    assert_int_equal(vm_gguf_key_count(g), 6);
    assert_string_equal(vm_gguf_key_at(g, 5), "a.i16s");
    assert_null(vm_gguf_key_at(g, 6));
    assert_int_equal(vm_gguf_tensor_count(g), 3);
    assert_null(vm_gguf_tensor_at(g, 3));
    assert_null(vm_gguf_find_tensor(g, "four"));
    const vm_gguf_tensor *t = vm_gguf_find_tensor(g, "two");
    assert_ptr_equal(t, vm_gguf_tensor_at(g, 1));
    assert_int_equal(t->type, VM_Q4_1);
    assert_int_equal(t->n_dims, 1);
    assert_int_equal(t->ne[0], 32);
    assert_int_equal(t->ne[3], 1);
    assert_int_equal(t->size, 20);
    assert_ptr_equal(t->data, b.data + t->offset);
    size_t header = vm_gguf_header_size(g), left;
    assert_int_equal(header, b.size - 84);
    assert_int_equal(t->offset, header + 32);
    assert_ptr_equal(vm_gguf_bytes(g, 1, &left), b.data + 1);
    assert_int_equal(left, header - 1);
    assert_null(vm_gguf_bytes(g, b.size, &left));
    vm_gguf_free(g);
    vm_gguf_free(NULL);

    b.data[4] = 2; /* version 2 has the same layout */
    assert_int_equal(open_exact(b.data, b.size), VMOER_OK);
}

static const char *golden(const char *name) {
    static char path[4096];
    const char *tests = getenv("VMOER_TESTS");
    snprintf(path, sizeof path, "%s/golden/%s", tests ? tests : VMOER_TESTS_DIR, name);
    return path;
}

static void assert_wrong(vmoer_status status, const char *text) {
    assert_int_equal(status, VMOER_ERROR_FORMAT);
    if (!strstr(vm_error_text(), text)) fail_msg("\"%s\" is not in: %s", text, vm_error_text());
}

static void reads_every_type_of_the_reference(void **state) {
    (void)state;
    vm_gguf *g;
    assert_int_equal(vm_gguf_open(golden("io-types.gguf"), &g), VMOER_OK);
    uint32_t u;
    float f;
    bool flag;
    const char *text;
    size_t length, count;
    int32_t value;
    vm_gguf_type element;
    assert_int_equal(vm_gguf_get_u32(g, "t.u8", &u), VMOER_OK);
    assert_int_equal(u, 255);
    assert_int_equal(vm_gguf_get_u32(g, "t.u16", &u), VMOER_OK);
    assert_int_equal(u, 65535);
    assert_int_equal(vm_gguf_get_u32(g, "t.u32", &u), VMOER_OK);
    assert_int_equal(u, 4294967295u);
    assert_wrong(vm_gguf_get_u32(g, "t.i8", &u), "\"t.i8\" does not fit");
    assert_wrong(vm_gguf_get_u32(g, "t.i16", &u), "does not fit");
    assert_wrong(vm_gguf_get_u32(g, "t.i32", &u), "does not fit");
    assert_wrong(vm_gguf_get_u32(g, "t.i64", &u), "does not fit");
    assert_wrong(vm_gguf_get_u32(g, "t.u64", &u), "does not fit");
    assert_wrong(vm_gguf_get_u32(g, "t.f32", &u), "\"t.f32\" is of type f32, not u32");
    assert_wrong(vm_gguf_get_u32(g, "t.none", &u), "\"t.none\" is missing");
    assert_int_equal(vm_gguf_get_f32(g, "t.f32", &f), VMOER_OK);
    assert_true(f == 0.1f);
    assert_int_equal(vm_gguf_get_f32(g, "t.f64", &f), VMOER_OK);
    assert_true(f == 0.1f);
    assert_wrong(vm_gguf_get_f32(g, "t.u8", &f), "is of type u8, not f32");
    assert_int_equal(vm_gguf_get_bool(g, "t.bool", &flag), VMOER_OK);
    assert_true(flag);
    assert_wrong(vm_gguf_get_bool(g, "t.u8", &flag), "is of type u8, not bool");
    assert_int_equal(vm_gguf_get_string(g, "t.string", &text, &length), VMOER_OK);
    assert_int_equal(length, 7);
    assert_memory_equal(text,
                        "Gr\xc3\xbc\xc3\x9f"
                        "e",
                        7);
    assert_wrong(vm_gguf_get_string(g, "t.strings", &text, &length), "is of type array of string, not string");
    assert_int_equal(vm_gguf_get_array(g, "t.strings", &element, &count), VMOER_OK);
    assert_int_equal(element, VM_GGUF_STRING);
    assert_int_equal(count, 3);
    assert_int_equal(vm_gguf_array_string(g, "t.strings", 1, &text, &length), VMOER_OK);
    assert_int_equal(length, 0);
    assert_int_equal(vm_gguf_array_string(g, "t.strings", 2, &text, &length), VMOER_OK);
    assert_int_equal(length, 7);
    assert_memory_equal(text, "drei \xc3\xbc", 7);
    assert_wrong(vm_gguf_array_string(g, "t.strings", 3, &text, &length), "has 3 elements, element 3");
    assert_wrong(vm_gguf_array_string(g, "t.ints", 0, &text, &length), "is of type array of i32, not array of string");
    assert_wrong(vm_gguf_array_string(g, "t.string", 0, &text, &length), "is of type string, not array");
    assert_int_equal(vm_gguf_array_i32(g, "t.ints", 1, &value), VMOER_OK);
    assert_int_equal(value, -4);
    assert_wrong(vm_gguf_array_i32(g, "t.floats", 0, &value), "array of f32, not array of i32");
    assert_wrong(vm_gguf_array_i32(g, "t.bools", 0, &value), "array of bool, not array of i32");
    assert_wrong(vm_gguf_get_array(g, "t.u8", &element, &count), "is of type u8, not array");
    vm_gguf_free(g);

    assert_int_equal(vm_gguf_open(golden("no-such.gguf"), &g), VMOER_ERROR_IO);
    assert_null(g);
}

static void array_elements_must_fit_32_bits(void **state) {
    (void)state;
    bytes b;
    start(&b, 0, 2);
    key(&b, "k", VM_GGUF_ARRAY);
    put_u32(&b, VM_GGUF_I64);
    put_u64(&b, 4);
    put(&b, (int64_t[]){INT32_MIN, INT32_MAX, (int64_t)INT32_MIN - 1, (int64_t)INT32_MAX + 1}, 32);
    key(&b, "u", VM_GGUF_ARRAY);
    put_u32(&b, VM_GGUF_U64);
    put_u64(&b, 1);
    put_u64(&b, UINT64_MAX);
    vm_gguf *g;
    int32_t value;
    assert_int_equal(vm_gguf_open_memory(b.data, b.size, "ints", &g), VMOER_OK);
    assert_int_equal(vm_gguf_array_i32(g, "k", 0, &value), VMOER_OK);
    assert_int_equal(value, INT32_MIN);
    assert_int_equal(vm_gguf_array_i32(g, "k", 1, &value), VMOER_OK);
    assert_int_equal(value, INT32_MAX);
    assert_wrong(vm_gguf_array_i32(g, "k", 2, &value), "element 2 does not fit");
    assert_wrong(vm_gguf_array_i32(g, "k", 3, &value), "element 3 does not fit");
    assert_wrong(vm_gguf_array_i32(g, "u", 0, &value), "element 0 does not fit");
    vm_gguf_free(g);
}

/* ---- refusing ---- */

static void refuses_bad_heads_and_counts(void **state) {
    (void)state;
    bytes b;
    valid(&b);
    b.data[0] = 'g';
    REFUSED(FORMAT, "not a GGUF file");
    static const uint32_t versions[] = {0, 1, 4, 255};
    for (size_t i = 0; i < 4; i++) {
        valid(&b);
        memcpy(b.data + 4, &versions[i], 4);
        REFUSED(UNSUPPORTED, "GGUF version");
    }
    valid(&b);
    memcpy(b.data + 4, "\0\0\0\3", 4);
    REFUSED(UNSUPPORTED, "big-endian");
    /* Counts whose product with a size wraps, and merely too large ones. */
    static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 64 + 2, (uint64_t)1 << 58, (uint64_t)1 << 31, 200};
    for (size_t i = 0; i < 5; i++) {
        start(&b, counts[i], 0);
        REFUSED(FORMAT, "byte 8: ");
        start(&b, 0, counts[i]);
        REFUSED(FORMAT, "byte 16: ");
    }
}

static void refuses_lengths_past_the_end(void **state) {
    (void)state;
    bytes b;
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, (uint64_t)1 << 32, 1000};
    for (size_t i = 0; i < 5; i++) {
        start(&b, 0, 1);
        put_u64(&b, lengths[i]);
        data(&b, 32);
        REFUSED(FORMAT, "key 0: byte 24: key is ");

        start(&b, 0, 1);
        key(&b, "s", VM_GGUF_STRING);
        put_u64(&b, lengths[i]);
        REFUSED(FORMAT, "key \"s\": byte 37: string is ");

        start(&b, 0, 1);
        key(&b, "array", VM_GGUF_ARRAY);
        put_u32(&b, VM_GGUF_U8);
        put_u64(&b, lengths[i]);
        REFUSED(FORMAT, "key \"array\": byte 41: an array of ");

        start(&b, 0, 1);
        key(&b, "array", VM_GGUF_ARRAY);
        put_u32(&b, VM_GGUF_STRING);
        put_u64(&b, lengths[i]);
        data(&b, 64);
        REFUSED(FORMAT, "key \"array\": byte 41: an array of ");

        start(&b, 0, 1);
        key(&b, "array", VM_GGUF_ARRAY);
        put_u32(&b, VM_GGUF_STRING);
        put_u64(&b, 1);
        put_u64(&b, lengths[i]);
        REFUSED(FORMAT, "key \"array\": byte 53: string in an array is ");

        start(&b, 1, 0);
        put_u64(&b, lengths[i]);
        data(&b, 64);
        REFUSED(FORMAT, "tensor 0: byte 24: tensor name is ");
    }
}

static void refuses_bad_keys_and_values(void **state) {
    (void)state;
    bytes b;
    start(&b, 0, 1);
    key_u32(&b, "", 1);
    REFUSED(FORMAT, "key 0: byte 24: key is empty or not printable");
    start(&b, 0, 1);
    key_u32(&b, "a\tb", 1);
    REFUSED(FORMAT, "not printable");
    start(&b, 0, 1);
    key_u32(&b, "gr\xc3\xbc", 1);
    REFUSED(FORMAT, "not printable");
    start(&b, 0, 1);
    put_u64(&b, 3);
    put(&b, "a\0b", 3);
    put_u32(&b, VM_GGUF_U32);
    put_u32(&b, 1);
    REFUSED(FORMAT, "not printable");
    start(&b, 0, 2);
    key_u32(&b, "same", 1);
    key_u32(&b, "same", 1);
    REFUSED(FORMAT, "key \"same\" stands twice");
    static const uint32_t types[] = {13, 255, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        start(&b, 0, 1);
        key(&b, "k", types[i]);
        data(&b, 32);
        REFUSED(FORMAT, "key \"k\": byte 33: unknown value type");
        start(&b, 0, 1);
        key(&b, "k", VM_GGUF_ARRAY);
        put_u32(&b, types[i]);
        put_u64(&b, 1);
        data(&b, 32);
        REFUSED(FORMAT, "key \"k\": byte 37: unknown element type");
    }
    start(&b, 0, 1);
    key(&b, "k", VM_GGUF_ARRAY);
    put_u32(&b, VM_GGUF_ARRAY);
    put_u64(&b, 1);
    data(&b, 32);
    REFUSED(UNSUPPORTED, "array of arrays");
    start(&b, 0, 1);
    key(&b, "k", VM_GGUF_BOOL);
    put(&b, "\2", 1);
    REFUSED(FORMAT, "key \"k\": byte 37: a bool is 2");
    start(&b, 0, 1);
    key(&b, "k", VM_GGUF_ARRAY);
    put_u32(&b, VM_GGUF_BOOL);
    put_u64(&b, 3);
    put(&b, "\0\1\xff", 3);
    REFUSED(FORMAT, "key \"k\": byte 51: a bool is 255");
}

static void refuses_bad_alignments(void **state) {
    (void)state;
    bytes b;
    static const uint32_t bad[] = {0, 1, 4, 7, 12, 33, 1 << 21, 1 << 30, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        start(&b, 1, 1);
        key_u32(&b, "general.alignment", bad[i]);
        tensor(&b, "t", 1, NE(8), VM_F32, 0);
        data(&b, 32);
        REFUSED(FORMAT, "key \"general.alignment\" is ");
    }
    start(&b, 0, 1);
    key(&b, "general.alignment", VM_GGUF_STRING);
    put_string(&b, "32");
    REFUSED(FORMAT, "\"general.alignment\" is of type string");
    start(&b, 1, 1);
    key_u32(&b, "general.alignment", 64);
    tensor(&b, "t", 1, NE(8), VM_F32, 0);
    while (b.size % 64) put(&b, "", 1);
    data(&b, 32);
    assert_int_equal(open_exact(b.data, b.size), VMOER_OK);
}

static void refuses_bad_tensors(void **state) {
    (void)state;
    const uint64_t big = (uint64_t)1 << 62, half = (uint64_t)1 << 32;
    struct {
        uint32_t n_dims;
        uint64_t ne[4];
        uint32_t type;
        uint64_t offset;
        vmoer_status status;
        const char *text;
    } bad[] = {
        {0, {0}, VM_F32, 0, VMOER_ERROR_FORMAT, "byte 33: 0 dimensions"},
        {1, {0}, VM_F32, 0, VMOER_ERROR_FORMAT, "dimension 0 is 0"},
        {2, {8, 0}, VM_F32, 0, VMOER_ERROR_FORMAT, "dimension 1 is 0"},
        {1, {UINT64_MAX}, VM_F32, 0, VMOER_ERROR_FORMAT, "dimension 0 is -1"},
        {2, {half, half}, VM_F32, 0, VMOER_ERROR_FORMAT, "product of the dimensions overflows"},
        {3, {half, half, 1}, VM_F32, 0, VMOER_ERROR_FORMAT, "product of the dimensions overflows"},
        {2, {big, 2}, VM_F32, 0, VMOER_ERROR_FORMAT, "product of the dimensions overflows"},
        {4, {half, 2, half / 2, 2}, VM_F32, 0, VMOER_ERROR_FORMAT, "product of the dimensions overflows"},
        {1, {big}, VM_F32, 0, VMOER_ERROR_FORMAT, "size in bytes overflows"},
        {1, {big}, VM_F16, 0, VMOER_ERROR_FORMAT, "size in bytes overflows"},
        {1, {big / 4}, VM_F32, 0, VMOER_ERROR_FORMAT, "goes past the end of the file"},
        {1, {16}, VM_Q8_0, 0, VMOER_ERROR_FORMAT, "no whole number of Q8_0 blocks of 32"},
        {2, {33, 32}, VM_Q4_1, 0, VMOER_ERROR_FORMAT, "no whole number of Q4_1 blocks"},
        {1, {32}, 4, 0, VMOER_ERROR_UNSUPPORTED, "unknown tensor type 4"},
        {1, {32}, 36, 0, VMOER_ERROR_UNSUPPORTED, "unknown tensor type 36"},
        {1, {32}, UINT32_MAX, 0, VMOER_ERROR_UNSUPPORTED, "unknown tensor type"},
        {1, {8}, VM_F32, 32, VMOER_ERROR_FORMAT, "starts at data offset 32, the one before it ends at 0"},
        {1, {8}, VM_F32, 1, VMOER_ERROR_FORMAT, "starts at data offset 1"},
        {1, {8}, VM_F32, UINT64_MAX - 31, VMOER_ERROR_FORMAT, "starts at data offset"},
        {1, {9}, VM_F32, 0, VMOER_ERROR_FORMAT, "goes past the end of the file"},
        {1, {7}, VM_F32, 0, VMOER_OK, NULL}, /* within the padding */
    };
    bytes b;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        start(&b, 1, 0);
        tensor(&b, "t", bad[i].n_dims, bad[i].ne, bad[i].type, bad[i].offset);
        data(&b, 32);
        if (bad[i].status == VMOER_OK) {
            assert_int_equal(open_exact(b.data, b.size), VMOER_OK);
            continue;
        }
        assert_refused(&b, bad[i].status, bad[i].text, (int)i);
        assert_non_null(strstr(vm_error_text(), "tensor \"t\""));
    }
    start(&b, 1, 0);
    tensor(&b, "t", 5, NE(1, 1, 1, 1, 1), VM_F32, 0);
    data(&b, 32);
    REFUSED(FORMAT, "tensor \"t\": byte 33: 5 dimensions");
    start(&b, 1, 0);
    put_string(&b, "t");
    put_u32(&b, UINT32_MAX);
    data(&b, 32);
    REFUSED(FORMAT, "dimensions");
}

static void refuses_bad_names_and_places(void **state) {
    (void)state;
    bytes b;
    char name[67];
    memset(name, 'n', sizeof name);
    name[65] = '\0';
    start(&b, 1, 0);
    tensor(&b, name, 1, NE(8), VM_F32, 0);
    data(&b, 32);
    REFUSED(LIMIT, "tensor name is 65 bytes long, at most 64");
    start(&b, 1, 0);
    tensor(&b, name + 1, 1, NE(8), VM_F32, 0);
    data(&b, 32);
    assert_int_equal(open_exact(b.data, b.size), VMOER_OK);
    start(&b, 1, 0);
    tensor(&b, "", 1, NE(8), VM_F32, 0);
    data(&b, 32);
    REFUSED(FORMAT, "tensor name is empty");
    start(&b, 2, 0);
    tensor(&b, "same", 1, NE(8), VM_F32, 0);
    tensor(&b, "same", 1, NE(8), VM_F32, 32);
    data(&b, 64);
    REFUSED(FORMAT, "tensor \"same\" stands twice");
    start(&b, 2, 0);
    tensor(&b, "a", 1, NE(16), VM_F32, 0);
    tensor(&b, "b", 1, NE(8), VM_F32, 32);
    data(&b, 64);
    REFUSED(FORMAT, "tensor \"b\" starts at data offset 32, the one before it ends at 64"); /* overlap */
    start(&b, 2, 0);
    tensor(&b, "a", 1, NE(8), VM_F32, 0);
    tensor(&b, "b", 1, NE(8), VM_F32, 0);
    data(&b, 32);
    REFUSED(FORMAT, "starts at data offset 0, the one before it ends at 32"); /* the same place twice */
    start(&b, 2, 0);
    tensor(&b, "a", 1, NE(8), VM_F32, 0);
    tensor(&b, "b", 1, NE(8), VM_F32, 64);
    data(&b, 96);
    REFUSED(FORMAT, "tensor \"b\" starts at data offset 64"); /* hole */
    start(&b, 1, 0);
    tensor(&b, "a", 1, NE(8), VM_F32, 0);
    data(&b, 33);
    REFUSED(FORMAT, "1 bytes follow the last tensor"); /* junk behind */
    start(&b, 2, 0);
    tensor(&b, "a", 1, NE(8), VM_F32, 32);
    tensor(&b, "b", 1, NE(8), VM_F32, 0);
    data(&b, 64);
    assert_int_equal(open_exact(b.data, b.size), VMOER_OK); /* any order */
}

static void limits_hold_where_the_bytes_are_there(void **state) {
    (void)state;
    /* Large enough files: what refuses is the limit, not the end of the file. */
    enum { SIZE = 70 << 20 };
    uint8_t *big = calloc(SIZE, 1);
    assert_non_null(big);
    bytes b;
    vm_gguf *g;
    start(&b, 0, 100001);
    memcpy(big, b.data, b.size);
    assert_int_equal(vm_gguf_open_memory(big, SIZE, "big", &g), VMOER_ERROR_LIMIT);
    start(&b, 1000001, 0);
    memcpy(big, b.data, b.size);
    assert_int_equal(vm_gguf_open_memory(big, SIZE, "big", &g), VMOER_ERROR_LIMIT);
    start(&b, 0, 1);
    put_u64(&b, 65536);
    memcpy(big, b.data, b.size);
    assert_int_equal(vm_gguf_open_memory(big, SIZE, "big", &g), VMOER_ERROR_LIMIT);
    start(&b, 0, 1);
    key(&b, "k", VM_GGUF_STRING);
    put_u64(&b, (64 << 20) + 1);
    memcpy(big, b.data, b.size);
    assert_int_equal(vm_gguf_open_memory(big, SIZE, "big", &g), VMOER_ERROR_LIMIT);
    start(&b, 0, 1);
    key(&b, "k", VM_GGUF_ARRAY);
    put_u32(&b, VM_GGUF_U8);
    put_u64(&b, (16 << 20) + 1);
    memcpy(big, b.data, b.size);
    assert_int_equal(vm_gguf_open_memory(big, SIZE, "big", &g), VMOER_ERROR_LIMIT);
    assert_null(g);
    free(big);
}

static void truncated_at_every_byte_is_an_error(void **state) {
    (void)state;
    bytes b;
    valid(&b);
    for (size_t size = 0; size < b.size; size++) {
        vmoer_status status = open_exact(b.data, size);
        if (status == VMOER_OK) fail_msg("accepted when cut to %zu of %zu bytes", size, b.size);
    }
    assert_int_equal(open_exact(b.data, b.size), VMOER_OK);
}

static void any_byte_of_the_header_may_be_anything(void **state) {
    (void)state;
    bytes b;
    valid(&b);
    int accepted = 0, refused = 0;
    for (size_t at = 0; at < b.size; at++) {
        uint8_t original = b.data[at];
        for (int value = 0; value < 256; value++) {
            b.data[at] = (uint8_t)value;
            if (open_exact(b.data, b.size) == VMOER_OK)
                accepted++;
            else
                refused++;
        }
        b.data[at] = original;
    }
    assert_true(accepted > 0 && refused > accepted); /* nearly all of the file is structure */
}

static void lack_of_memory_is_an_error_at_every_allocation(void **state) {
    (void)state;
    bytes b;
    valid(&b);
    vmoer_status status = VMOER_ERROR_MEMORY;
    int n = 0;
    for (; status != VMOER_OK; n++) {
        assert_true(n < 100);
        allocations_left = n;
        status = open_exact(b.data, b.size);
        allocations_left = -1;
        if (status != VMOER_OK) assert_int_equal(status, VMOER_ERROR_MEMORY);
    }
    assert_true(n > 3);
}

/* ---- writing ---- */

static char path[64];

static int make_path(void **state) {
    (void)state;
    strcpy(path, "/tmp/vmoer-gguf-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

static vmoer_status write_sample(void) {
    static const float ones[6] = {1, 2, 3, 4, 5, 6};
    static const uint8_t block[34] = {1};
    vm_gguf_writer *w = vm_gguf_writer_create();
    if (!w) return VMOER_ERROR_MEMORY;
    vmoer_status status;
    VM_GOTO(vm_gguf_writer_string(w, "general.architecture", "tiny"));
    VM_GOTO(vm_gguf_writer_u32(w, "a.u32", 1));
    VM_GOTO(vm_gguf_writer_u32(w, "a.u32", 2)); /* replaces */
    VM_GOTO(vm_gguf_writer_f32(w, "a.f32", 0.25f));
    VM_GOTO(vm_gguf_writer_bool(w, "a.bool", true));
    VM_GOTO(vm_gguf_writer_string(w, "a.empty", ""));
    VM_GOTO(vm_gguf_writer_tensor(w, "ones", VM_F32, 2, (int64_t[]){3, 2}, ones));
    VM_GOTO(vm_gguf_writer_tensor(w, "block", VM_Q8_0, 1, (int64_t[]){32}, block));
    VM_GOTO(vm_gguf_writer_save(w, path));
done:
    vm_gguf_writer_free(w);
    return status;
}

static void written_file_reads_back(void **state) {
    (void)state;
    assert_int_equal(write_sample(), VMOER_OK);
    vm_gguf *g;
    assert_int_equal(vm_gguf_open(path, &g), VMOER_OK);
    assert_int_equal(vm_gguf_key_count(g), 5);
    assert_string_equal(vm_gguf_key_at(g, 0), "general.architecture");
    assert_string_equal(vm_gguf_key_at(g, 1), "a.u32");
    uint32_t u;
    float f;
    bool flag;
    const char *text;
    size_t length;
    assert_int_equal(vm_gguf_get_u32(g, "a.u32", &u), VMOER_OK);
    assert_int_equal(u, 2);
    assert_int_equal(vm_gguf_get_f32(g, "a.f32", &f), VMOER_OK);
    assert_true(f == 0.25f);
    assert_int_equal(vm_gguf_get_bool(g, "a.bool", &flag), VMOER_OK);
    assert_true(flag);
    assert_int_equal(vm_gguf_get_string(g, "a.empty", &text, &length), VMOER_OK);
    assert_int_equal(length, 0);
    const vm_gguf_tensor *ones = vm_gguf_find_tensor(g, "ones"), *block = vm_gguf_find_tensor(g, "block");
    assert_non_null(ones);
    assert_non_null(block);
    assert_memory_equal(ones->data, ((float[]){1, 2, 3, 4, 5, 6}), 24);
    assert_int_equal(ones->n_dims, 2);
    assert_int_equal(ones->ne[0], 3);
    assert_int_equal(ones->offset % 32, 0);
    assert_int_equal(block->offset % 32, 0);
    assert_int_equal(block->data[0], 1);
    assert_int_equal(block->size, 34);
    assert_int_equal(vm_gguf_file_size(g) % 32, 0);
    vm_gguf_free(g);
}

static void copied_file_is_the_same(void **state) {
    (void)state;
    vm_gguf *g, *copy;
    assert_int_equal(vm_gguf_open(golden("io-types.gguf"), &g), VMOER_OK);
    vm_gguf_writer *w = vm_gguf_writer_create();
    assert_non_null(w);
    assert_int_equal(vm_gguf_writer_copy_keys(w, g, ""), VMOER_OK);
    assert_int_equal(vm_gguf_writer_copy_keys(w, g, "t."), VMOER_OK); /* again: replaced, not doubled */
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        assert_int_equal(vm_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data), VMOER_OK);
    }
    assert_int_equal(vm_gguf_writer_save(w, path), VMOER_OK);
    vm_gguf_writer_free(w);
    /* The reference's writer and ours agree on every byte. */
    vm_map written;
    assert_int_equal(vm_map_open(path, &written), VMOER_OK);
    assert_int_equal(written.size, vm_gguf_file_size(g));
    assert_memory_equal(written.data, vm_gguf_bytes(g, 0, &(size_t){0}), written.size);
    vm_map_close(&written);

    w = vm_gguf_writer_create();
    assert_int_equal(vm_gguf_writer_copy_keys(w, g, "t.i"), VMOER_OK);
    assert_int_equal(vm_gguf_writer_save(w, path), VMOER_OK);
    vm_gguf_writer_free(w);
    assert_int_equal(vm_gguf_open(path, &copy), VMOER_OK);
    assert_int_equal(vm_gguf_key_count(copy), 5); /* i8, i16, i32, i64, ints */
    assert_true(vm_gguf_has_key(copy, "t.i64"));
    assert_false(vm_gguf_has_key(copy, "t.u8"));
    vm_gguf_free(copy);
    vm_gguf_free(g);
}

static void alignment_of_a_copied_file_is_not_copied(void **state) {
    (void)state;
    bytes b;
    start(&b, 0, 2);
    key_u32(&b, "general.alignment", 4096);
    key_u32(&b, "k", 5);
    vm_gguf *g;
    assert_int_equal(vm_gguf_open_memory(b.data, b.size, "aligned", &g), VMOER_OK);
    vm_gguf_writer *w = vm_gguf_writer_create();
    assert_int_equal(vm_gguf_writer_copy_keys(w, g, ""), VMOER_OK);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", VM_F32, 1, (int64_t[]){1}, &(float){1}), VMOER_OK);
    assert_int_equal(vm_gguf_writer_save(w, path), VMOER_OK);
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
    assert_int_equal(vm_gguf_open(path, &g), VMOER_OK);
    assert_false(vm_gguf_has_key(g, "general.alignment"));
    vm_gguf_free(g);
}

static void writer_refuses_what_the_reader_would(void **state) {
    (void)state;
    vm_gguf_writer *w = vm_gguf_writer_create();
    static const float x[32] = {0};
    char name[65];
    memset(name, 'n', 64);
    name[64] = '\0';
    assert_int_equal(vm_gguf_writer_u32(w, "", 1), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_gguf_writer_u32(w, "a\n", 1), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_gguf_writer_u32(w, "general.alignment", 64), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_gguf_writer_tensor(w, name, VM_F32, 1, (int64_t[]){1}, x), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_gguf_writer_tensor(w, "", VM_F32, 1, (int64_t[]){1}, x), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", VM_F32, 0, NULL, x), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", VM_F32, 5, (int64_t[]){1, 1, 1, 1, 1}, x), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", VM_F32, 1, (int64_t[]){0}, x), VMOER_ERROR_FORMAT);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", VM_Q8_0, 1, (int64_t[]){31}, x), VMOER_ERROR_FORMAT);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", 99, 1, (int64_t[]){32}, x), VMOER_ERROR_UNSUPPORTED);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", VM_F32, 1, (int64_t[]){1}, x), VMOER_OK);
    assert_int_equal(vm_gguf_writer_tensor(w, "t", VM_F32, 1, (int64_t[]){1}, x), VMOER_OK);
    assert_int_equal(vm_gguf_writer_save(w, path), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "tensor \"t\" was added twice"));
    vm_gguf_writer_free(w);
    vm_gguf_writer_free(NULL);
}

static void writer_survives_lack_of_memory(void **state) {
    (void)state;
    vmoer_status status = VMOER_ERROR_MEMORY;
    for (int n = 0; status != VMOER_OK; n++) {
        assert_true(n < 100);
        allocations_left = n;
        status = write_sample();
        allocations_left = -1;
        if (status != VMOER_OK) assert_int_equal(status, VMOER_ERROR_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_valid_file),
        cmocka_unit_test(reads_every_type_of_the_reference),
        cmocka_unit_test(array_elements_must_fit_32_bits),
        cmocka_unit_test(refuses_bad_heads_and_counts),
        cmocka_unit_test(refuses_lengths_past_the_end),
        cmocka_unit_test(refuses_bad_keys_and_values),
        cmocka_unit_test(refuses_bad_alignments),
        cmocka_unit_test(refuses_bad_tensors),
        cmocka_unit_test(refuses_bad_names_and_places),
        cmocka_unit_test(limits_hold_where_the_bytes_are_there),
        cmocka_unit_test(truncated_at_every_byte_is_an_error),
        cmocka_unit_test(any_byte_of_the_header_may_be_anything),
        cmocka_unit_test(lack_of_memory_is_an_error_at_every_allocation),
        cmocka_unit_test(written_file_reads_back),
        cmocka_unit_test(copied_file_is_the_same),
        cmocka_unit_test(alignment_of_a_copied_file_is_not_copied),
        cmocka_unit_test(writer_refuses_what_the_reader_would),
        cmocka_unit_test(writer_survives_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
