/* test_gguf_rows.c: the GGUF writer asks for a tensor's rows while it writes: in order, in pieces, once each. */
#include "model_fixture.h"

typedef struct asked {
    size_t next, calls, fail_at;
} asked;

static vmoer_status count_up(void *context, size_t row, size_t rows, void *out) {
    asked *a = context;
    assert_int_equal(row, a->next);
    if (a->calls++ == a->fail_at) return vm_error(VMOER_ERROR_NUMERIC, "no more");
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < 1024; k++) {
            float value = (float)((row + i) % 4096) + (float)k / 1024;
            memcpy((char *)out + (i * 1024 + k) * sizeof value, &value, sizeof value);
        }
    a->next += rows;
    return VMOER_OK;
}

static void rows_are_made_while_the_file_is_written(void **state) {
    (void)state;
    const char *path = scratch_path("rows.gguf");
    enum { ROWS = 3 * 700 };
    unlink(path);
    for (size_t fail_at = 1; fail_at <= 9; fail_at += 8) { /* in the second piece of 4 MiB; never */
        asked a = {.fail_at = fail_at};
        vm_gguf_writer *w = vm_gguf_writer_create();
        assert_int_equal(vm_gguf_writer_rows(w, "t", VM_F32, 3, (int64_t[]){1024, 700, 3}, count_up, &a), VMOER_OK);
        vmoer_status status = vm_gguf_writer_save(w, path);
        vm_gguf_writer_free(w);
        if (fail_at == 1) {
            assert_int_equal(status, VMOER_ERROR_NUMERIC);
            assert_int_not_equal(access(path, F_OK), 0);
            continue;
        }
        vm_gguf *g;
        assert_int_equal(status, VMOER_OK);
        assert_int_equal(a.calls, 3);
        assert_int_equal(vm_gguf_open(path, &g), VMOER_OK);
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, 0);
        assert_int_equal(t->size, ROWS * 4096);
        for (size_t i = 0; i < ROWS * 1024; i++) {
            float value = ((const float *)(const void *)t->data)[i];
            if (value != (float)(i / 1024) + (float)(i % 1024) / 1024) fail_msg("element %zu is %g", i, value);
        }
        vm_gguf_free(g);
        unlink(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_made_while_the_file_is_written)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
