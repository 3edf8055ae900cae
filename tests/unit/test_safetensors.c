/* test_safetensors.c: the reader against the reference's file and against crafted ones that must be refused; the writer
 * against the reader; lack of memory in both. */
#include "base/dtype.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- every allocation of the library and of its JSON passes here, so that one can be made to fail ---- */

static int allocations_left = -1; /* -1: no limit; 0: the next one fails */

static bool allowed(void) {
    if (allocations_left == 0) return false;
    if (allocations_left > 0) allocations_left--;
    return true;
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    void *p = allowed() ? memalign(alignment, size) : NULL;
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

static void *json_memory(size_t size) { return allowed() ? malloc(size) : NULL; }

/* ---- crafting ---- */

typedef struct bytes {
    uint8_t data[8192];
    size_t size;
} bytes;

static void craft(bytes *b, const char *header, size_t data_size) {
    uint64_t length = strlen(header);
    assert_true(8 + length + data_size <= sizeof b->data);
    memcpy(b->data, &length, 8);
    memcpy(b->data + 8, header, length);
    for (size_t i = 0; i < data_size; i++) b->data[8 + length + i] = (uint8_t)i;
    b->size = 8 + length + data_size;
}

/* Exactly `size` bytes on the heap: a read past the end meets the sanitizer. Opens, reads everything, closes. */
static vmoer_status open_exact(const uint8_t *from, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, from, size);
    vm_safetensors *st = NULL;
    vmoer_status status = vm_safetensors_open_memory(copy, size, "test.safetensors", &st);
    assert_true((status == VMOER_OK) == (st != NULL));
    unsigned sum = 0;
    for (size_t i = 0; st && i < vm_safetensors_count(st); i++) {
        const vm_st_tensor *t = vm_safetensors_at(st, i);
        assert_ptr_equal(vm_safetensors_find(st, t->name), t);
        if (t->size) sum += t->data[0] + t->data[t->size - 1];
        float *values = malloc(t->size * 2 + 4);
        assert_non_null(values);
        vm_safetensors_read_f32(st, t->name, t->n_dims, t->shape, values);
        free(values);
    }
    vm_safetensors_free(st);
    free(copy);
    volatile unsigned used = sum;
    (void)used;
    return status;
}

static const char valid_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[6,14]},"
                                   "\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
                                   "\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[14,14]}}  ";

/* ---- reading ---- */

static void reads_a_valid_file(void **state) {
    (void)state;
    bytes b;
    craft(&b, valid_header, 14);
    assert_int_equal(open_exact(b.data, b.size), VMOER_OK);
    vm_safetensors *st;
    assert_int_equal(vm_safetensors_open_memory(b.data, b.size, "x", &st), VMOER_OK);
    assert_int_equal(vm_safetensors_count(st), 3);
    assert_string_equal(vm_safetensors_at(st, 0)->name, "a"); /* by place in the file */
    assert_string_equal(vm_safetensors_at(st, 1)->name, "b");
    assert_string_equal(vm_safetensors_at(st, 1)->dtype, "F32");
    assert_int_equal(vm_safetensors_at(st, 1)->n_dims, 2);
    assert_int_equal(vm_safetensors_at(st, 1)->shape[0], 2);
    assert_int_equal(vm_safetensors_at(st, 1)->size, 8);
    assert_ptr_equal(vm_safetensors_at(st, 1)->data, b.data + b.size - 8);
    assert_null(vm_safetensors_at(st, 3));
    assert_null(vm_safetensors_find(st, "c"));
    assert_null(vm_safetensors_find(st, "__metadata__"));
    assert_string_equal(vm_safetensors_metadata(st, "format"), "pt");
    assert_null(vm_safetensors_metadata(st, "none"));
    vm_safetensors_free(st);
    vm_safetensors_free(NULL);

    craft(&b, "{}", 0);
    assert_int_equal(vm_safetensors_open_memory(b.data, b.size, "x", &st), VMOER_OK);
    assert_int_equal(vm_safetensors_count(st), 0);
    assert_null(vm_safetensors_metadata(st, "format"));
    vm_safetensors_free(st);
}

static void reads_the_file_of_the_reference(void **state) {
    (void)state;
    const char *tests = getenv("VMOER_TESTS");
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/io-types.safetensors", tests ? tests : VMOER_TESTS_DIR);
    vm_safetensors *st;
    assert_int_equal(vm_safetensors_open(path, &st), VMOER_OK);
    assert_int_equal(vm_safetensors_count(st), 6);
    assert_string_equal(vm_safetensors_metadata(st, "note"), "Gr\xc3\xbc\xc3\x9f"
                                                             "e");
    float values[6];
    assert_int_equal(vm_safetensors_read_f32(st, "f32", 2, (int64_t[]){2, 3}, values), VMOER_OK);
    assert_memory_equal(values, ((float[]){1, 2, 3, -4, 5.5f, 0.1f}), sizeof values);
    assert_int_equal(vm_safetensors_read_f32(st, "f16", 1, (int64_t[]){2}, values), VMOER_OK);
    assert_true(values[0] == vm_f16_to_f32(vm_f32_to_f16(0.1f)) && values[1] == -65504);
    assert_int_equal(vm_safetensors_read_f32(st, "scalar", 0, NULL, values), VMOER_OK);
    assert_true(values[0] == 2.5f);
    assert_int_equal(vm_safetensors_read_f32(st, "empty", 2, (int64_t[]){0, 4}, NULL), VMOER_OK);
    const vm_st_tensor *u8 = vm_safetensors_find(st, "u8"), *i64 = vm_safetensors_find(st, "i64");
    assert_string_equal(u8->dtype, "U8");
    assert_int_equal(u8->n_dims, 3);
    assert_int_equal(u8->data[0], 7);
    int64_t value;
    memcpy(&value, i64->data, 8);
    assert_true(value == (int64_t)1 << 40);

    assert_int_equal(vm_safetensors_read_f32(st, "none", 0, NULL, values), VMOER_ERROR_FORMAT);
    assert_non_null(strstr(vm_error_text(), "\"none\" is missing"));
    assert_int_equal(vm_safetensors_read_f32(st, "f32", 2, (int64_t[]){3, 2}, values), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "\"f32\" has shape [2, 3], [3, 2] is needed"));
    assert_int_equal(vm_safetensors_read_f32(st, "f32", 1, (int64_t[]){6}, values), VMOER_ERROR_MISMATCH);
    assert_int_equal(vm_safetensors_read_f32(st, "u8", 3, (int64_t[]){1, 1, 1}, values), VMOER_ERROR_UNSUPPORTED);
    vm_safetensors_free(st);
    assert_int_equal(vm_safetensors_open("/nonexistent", &st), VMOER_ERROR_IO);
    assert_null(st);
}

/* ---- refusing ---- */

#define T(dtype, shape, offsets) "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void refuses_crafted_headers(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        vmoer_status status;
        const char *text;
    } bad[] = {
        {"", 0, VMOER_ERROR_FORMAT, "does not start with {"},
        {" {}", 0, VMOER_ERROR_FORMAT, "does not start with {"},
        {"[]", 0, VMOER_ERROR_FORMAT, "does not start with {"},
        {"{", 0, VMOER_ERROR_FORMAT, "header: line 1"},
        {"{}x", 0, VMOER_ERROR_FORMAT, "header: line 1"},
        {"{\"a\xff\":1}", 0, VMOER_ERROR_FORMAT, "header: line 1"},
        {"{\"__metadata__\":[]}", 0, VMOER_ERROR_FORMAT, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, VMOER_ERROR_FORMAT, "\"a\" is not a string"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, VMOER_ERROR_FORMAT, "duplicate"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
         "\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         0, VMOER_ERROR_FORMAT, "duplicate"},
        {"{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, VMOER_ERROR_FORMAT,
         "duplicate"},
        {"{\"t\":1}", 0, VMOER_ERROR_FORMAT, "tensor \"t\": no dtype or no shape"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, VMOER_ERROR_FORMAT, "data_offsets are not two"},
        {"{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, VMOER_ERROR_FORMAT, "no shape"},
        {"{\"t\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, VMOER_ERROR_FORMAT, "no dtype"},
        {T("Q9", "[1]", "[0,1]"), 1, VMOER_ERROR_UNSUPPORTED, "tensor \"t\": unknown dtype \"Q9\""},
        {T("f32", "[1]", "[0,4]"), 4, VMOER_ERROR_UNSUPPORTED, "unknown dtype"},
        {T("", "[1]", "[0,1]"), 1, VMOER_ERROR_UNSUPPORTED, "unknown dtype"},
        {T("U8", "[1]", "[0]"), 1, VMOER_ERROR_FORMAT, "not two integers"},
        {T("U8", "[1]", "[0,1,2]"), 1, VMOER_ERROR_FORMAT, "not two integers"},
        {T("U8", "[1]", "[0,1.0]"), 1, VMOER_ERROR_FORMAT, "not two integers"},
        {T("U8", "[1]", "[\"0\",\"1\"]"), 1, VMOER_ERROR_FORMAT, "not two integers"},
        {T("U8", "[1]", "[-1,0]"), 1, VMOER_ERROR_FORMAT, "are no range"},
        {T("U8", "[1]", "[1,0]"), 1, VMOER_ERROR_FORMAT, "are no range"},
        {T("U8", "[1]", "[0,18446744073709551617]"), 1, VMOER_ERROR_FORMAT, "header: line 1"},
        {T("U8", "[-1]", "[0,1]"), 1, VMOER_ERROR_FORMAT, "dimension 0 is not an integer"},
        {T("U8", "[1,1.0]", "[0,1]"), 1, VMOER_ERROR_FORMAT, "dimension 1 is not an integer"},
        {T("U8", "[[1]]", "[0,1]"), 1, VMOER_ERROR_FORMAT, "dimension 0 is not an integer"},
        {T("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, VMOER_ERROR_LIMIT, "9 dimensions"},
        /* Products that wrap to 0 or to 1, with ranges that fit them. */
        {T("F32", "[4294967296,4294967296]", "[0,0]"), 0, VMOER_ERROR_FORMAT, "size overflows"},
        {T("F32", "[4611686018427387904]", "[0,0]"), 0, VMOER_ERROR_FORMAT, "size overflows"},
        {T("U8", "[2305843009213693952]", "[0,0]"), 0, VMOER_ERROR_FORMAT, "size overflows"},
        {T("F64", "[9223372036854775807,2]", "[0,0]"), 0, VMOER_ERROR_FORMAT, "size overflows"},
        {T("F4", "[3]", "[0,1]"), 1, VMOER_ERROR_FORMAT, "12 bits are no whole number of bytes"},
        {T("F32", "[2]", "[0,4]"), 4, VMOER_ERROR_FORMAT, "make 8 bytes, data_offsets [0, 4] say 4"},
        {T("F32", "[1]", "[0,8]"), 8, VMOER_ERROR_FORMAT, "make 4 bytes"},
        {T("F32", "[0]", "[0,4]"), 4, VMOER_ERROR_FORMAT, "make 0 bytes"},
        {T("F32", "[1]", "[4,8]"), 8, VMOER_ERROR_FORMAT, "starts at data offset 4, the one before it ends at 0"},
        {T("F32", "[1]", "[0,4]"), 3, VMOER_ERROR_FORMAT, "ends at data offset 4, the file has 3 bytes"},
        {T("F32", "[1]", "[0,4]"), 0, VMOER_ERROR_FORMAT, "the file has 0 bytes"},
        {T("U8", "[1152921504606846975]", "[0,1152921504606846975]"), 4, VMOER_ERROR_FORMAT, "the file has 4 bytes"},
        {T("F32", "[1]", "[0,4]"), 8, VMOER_ERROR_FORMAT, "4 bytes follow the last tensor"},
        {"{}", 1, VMOER_ERROR_FORMAT, "1 bytes follow the last tensor"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, VMOER_ERROR_FORMAT, "tensor \"b\" starts at data offset 2"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         4, VMOER_ERROR_FORMAT, "starts at data offset 0"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[6,10]}}",
         10, VMOER_ERROR_FORMAT, "tensor \"b\" starts at data offset 6"},
    };
    bytes b;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        craft(&b, bad[i].header, bad[i].data);
        vmoer_status status = open_exact(b.data, b.size);
        if (status != bad[i].status || !strstr(vm_error_text(), bad[i].text) ||
            strncmp(vm_error_text(), "test.safetensors: ", 18) != 0)
            fail_msg("case %zu: status %d, wanted %d and \"%s\": %s", i, status, bad[i].status, bad[i].text,
                     vm_error_text());
    }
    craft(&b, T("F4", "[4]", "[0,2]"), 2);
    assert_int_equal(open_exact(b.data, b.size), VMOER_OK);
}

static void refuses_header_lengths_past_the_end(void **state) {
    (void)state;
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, 100000001, 3};
    bytes b;
    for (size_t i = 0; i < 5; i++) {
        craft(&b, "{}", 0);
        memcpy(b.data, &lengths[i], 8);
        assert_int_equal(open_exact(b.data, b.size), VMOER_ERROR_FORMAT);
        assert_non_null(strstr(vm_error_text(), "byte 0: a header of "));
    }
    /* As long as it says, but longer than allowed. */
    uint8_t *big = calloc(100000100, 1);
    assert_non_null(big);
    memcpy(big, &lengths[3], 8);
    vm_safetensors *st;
    assert_int_equal(vm_safetensors_open_memory(big, 100000100, "big", &st), VMOER_ERROR_LIMIT);
    free(big);
}

static void truncated_or_changed_anywhere_is_never_a_crash(void **state) {
    (void)state;
    bytes b;
    craft(&b, valid_header, 14);
    for (size_t size = 0; size < b.size; size++) {
        if (open_exact(b.data, size) == VMOER_OK) fail_msg("accepted when cut to %zu of %zu bytes", size, b.size);
    }
    static const uint8_t values[] = {0, 1, '"', '0', '9', '-', '{', '}', '[', ']', ',', ' ', '\\', 0x7f, 0x80, 0xff};
    int accepted = 0, refused = 0;
    for (size_t at = 0; at < b.size - 14; at++) {
        uint8_t original = b.data[at];
        for (size_t i = 0; i < sizeof values; i++) {
            b.data[at] = values[i];
            if (open_exact(b.data, b.size) == VMOER_OK)
                accepted++;
            else
                refused++;
        }
        b.data[at] = original;
    }
    assert_true(accepted > 0 && refused > accepted);
}

static void lack_of_memory_is_an_error_at_every_allocation(void **state) {
    (void)state;
    bytes b;
    craft(&b, valid_header, 14);
    vmoer_status status = VMOER_ERROR_MEMORY;
    int n = 0;
    for (; status != VMOER_OK; n++) {
        assert_true(n < 500);
        allocations_left = n;
        status = open_exact(b.data, b.size);
        allocations_left = -1;
        /* Jansson does not always say that memory was what it lacked. */
        if (status != VMOER_OK) assert_true(status == VMOER_ERROR_MEMORY || status == VMOER_ERROR_FORMAT);
    }
    assert_true(n > 10);
}

/* ---- writing ---- */

static char path[64];

static int make_path(void **state) {
    (void)state;
    strcpy(path, "/tmp/vmoer-st-XXXXXX");
    int fd = mkstemp(path);
    json_set_alloc_funcs(json_memory, free);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

static const float sample[6] = {1, -2, 0.1f, 3e38f, 1e-8f, 6};

static vmoer_status write_sample(void) {
    vm_st_writer *w = vm_st_writer_create();
    if (!w) return VMOER_ERROR_MEMORY;
    vmoer_status status;
    VM_GOTO(vm_st_writer_metadata(w, "format", "pt"));
    VM_GOTO(vm_st_writer_metadata(w, "note", "a \"quote\" \xc3\xbc"));
    VM_GOTO(vm_st_writer_f32(w, "z.bf16", "BF16", 1, (int64_t[]){3}, sample));
    VM_GOTO(vm_st_writer_f32(w, "a.f32", "F32", 2, (int64_t[]){2, 3}, sample));
    VM_GOTO(vm_st_writer_f32(w, "m.f16", "F16", 3, (int64_t[]){1, 2, 1}, sample));
    VM_GOTO(vm_st_writer_raw(w, "i32", "I32", 4, 1, (int64_t[]){2}, (int32_t[]){7, -8}));
    VM_GOTO(vm_st_writer_f32(w, "empty", "F32", 1, (int64_t[]){0}, NULL));
    VM_GOTO(vm_st_writer_f32(w, "scalar", "F32", 0, NULL, sample + 2));
    VM_GOTO(vm_st_writer_save(w, path));
done:
    vm_st_writer_free(w);
    return status;
}

static void written_file_reads_back(void **state) {
    (void)state;
    assert_int_equal(write_sample(), VMOER_OK);
    char first[65], second[65];
    assert_int_equal(vm_sha256_file(path, first), VMOER_OK);
    vm_safetensors *st;
    assert_int_equal(vm_safetensors_open(path, &st), VMOER_OK);
    assert_int_equal(vm_safetensors_count(st), 6);
    assert_string_equal(vm_safetensors_metadata(st, "note"), "a \"quote\" \xc3\xbc");
    assert_string_equal(vm_safetensors_at(st, 0)->name, "z.bf16"); /* in the order added */
    assert_string_equal(vm_safetensors_at(st, 1)->name, "a.f32");
    assert_string_equal(vm_safetensors_at(st, 3)->name, "i32");
    float values[6];
    assert_int_equal(vm_safetensors_read_f32(st, "a.f32", 2, (int64_t[]){2, 3}, values), VMOER_OK);
    assert_memory_equal(values, sample, sizeof sample);
    assert_int_equal(vm_safetensors_read_f32(st, "z.bf16", 1, (int64_t[]){3}, values), VMOER_OK);
    for (int i = 0; i < 3; i++) assert_true(values[i] == vm_bf16_to_f32(vm_f32_to_bf16(sample[i])));
    assert_int_equal(vm_safetensors_read_f32(st, "m.f16", 3, (int64_t[]){1, 2, 1}, values), VMOER_OK);
    assert_true(values[0] == 1 && values[1] == -2);
    assert_int_equal(vm_safetensors_read_f32(st, "scalar", 0, NULL, values), VMOER_OK);
    assert_true(values[0] == 0.1f);
    int32_t ints[2];
    memcpy(ints, vm_safetensors_find(st, "i32")->data, 8);
    assert_int_equal(ints[1], -8);
    vm_safetensors_free(st);

    assert_int_equal(write_sample(), VMOER_OK);
    assert_int_equal(vm_sha256_file(path, second), VMOER_OK);
    assert_string_equal(first, second);
    vm_map map;
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    uint64_t length;
    memcpy(&length, map.data, 8);
    assert_int_equal(length % 8, 0);
    vm_map_close(&map);
}

static void writer_refuses_what_the_reader_would(void **state) {
    (void)state;
    vm_st_writer *w = vm_st_writer_create();
    const int64_t one[] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, wrong[] = {-1}, huge[] = {INT64_MAX, 3};
    assert_int_equal(vm_st_writer_f32(w, "t", "F32", 1, one, sample), VMOER_OK);
    assert_int_equal(vm_st_writer_f32(w, "t", "F32", 1, one, sample), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "\"t\" was added twice"));
    assert_int_equal(vm_st_writer_f32(w, "__metadata__", "F32", 1, one, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_f32(w, "a\xff", "F32", 1, one, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_f32(w, "a", "I32", 1, one, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_raw(w, "a", "Q8", 1, 1, one, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_raw(w, "a", "I32", 8, 1, one, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_f32(w, "a", "F32", 9, one, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_f32(w, "a", "F32", 1, wrong, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_f32(w, "a", "F32", 2, huge, sample), VMOER_ERROR_ARGUMENT);
    assert_int_equal(vm_st_writer_metadata(w, "a", "\xff"), VMOER_ERROR_ARGUMENT);
    /* What was refused left no trace. */
    assert_int_equal(vm_st_writer_save(w, path), VMOER_OK);
    vm_st_writer_free(w);
    vm_st_writer_free(NULL);
    vm_safetensors *st;
    assert_int_equal(vm_safetensors_open(path, &st), VMOER_OK);
    assert_int_equal(vm_safetensors_count(st), 1);
    vm_safetensors_free(st);
    w = vm_st_writer_create();
    assert_int_equal(vm_st_writer_save(w, "/nonexistent/x"), VMOER_ERROR_IO);
    vm_st_writer_free(w);
}

static void writer_survives_lack_of_memory(void **state) {
    (void)state;
    vmoer_status status = VMOER_ERROR_MEMORY;
    for (int n = 0; status != VMOER_OK; n++) {
        assert_true(n < 500);
        allocations_left = n;
        status = write_sample();
        allocations_left = -1;
        if (status != VMOER_OK) assert_true(status == VMOER_ERROR_MEMORY || status == VMOER_ERROR_ARGUMENT);
    }
    written_file_reads_back(NULL); /* the one that succeeded is whole */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_valid_file),
        cmocka_unit_test(reads_the_file_of_the_reference),
        cmocka_unit_test(refuses_crafted_headers),
        cmocka_unit_test(refuses_header_lengths_past_the_end),
        cmocka_unit_test(truncated_or_changed_anywhere_is_never_a_crash),
        cmocka_unit_test(lack_of_memory_is_an_error_at_every_allocation),
        cmocka_unit_test(written_file_reads_back),
        cmocka_unit_test(writer_refuses_what_the_reader_would),
        cmocka_unit_test(writer_survives_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
