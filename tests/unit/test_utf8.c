/* test_utf8.c: texts cut between characters, never inside one. */
#include "base/status.h"
#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* One, two, three and four bytes. */
static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\xad"
                           "b";

static void test_cut(void **state) {
    (void)state;
    static const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
    assert_int_equal(strlen(text), 11);
    for (size_t n = 0; n <= 11; n++) assert_int_equal(vm_utf8_cut(text, n), expected[n]);
    /* No UTF-8: stays. */
    assert_int_equal(vm_utf8_cut("\xa9\xa9\xa9\xa9\xa9", 5), 5);
    assert_int_equal(vm_utf8_cut("\xa9", 1), 1);
    assert_int_equal(vm_utf8_cut("a\xa9", 2), 2);
}

static void test_copy(void **state) {
    (void)state;
    static const size_t expected[] = {0, 0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11};
    for (size_t size = 1; size < 14; size++) {
        char out[16];
        memset(out, 'x', sizeof out);
        vm_copy_text(out, size, text);
        assert_int_equal(strlen(out), expected[size]);
        assert_memory_equal(out, text, expected[size]);
        for (size_t i = size; i < sizeof out; i++) assert_int_equal(out[i], 'x');
    }
}

/* A long error text: the end of it is whole too, wherever the cut falls. */
static void test_error_text(void **state) {
    (void)state;
    for (int shift = 0; shift < 3; shift++) {
        char name[2048] = "";
        for (int i = 0; i < shift; i++) strcat(name, "a");
        for (int i = 0; i < 500; i++) strcat(name, "\xe2\x82\xac");
        assert_int_equal(vm_error(VMOER_ERROR_IO, "%s", name), VMOER_ERROR_IO);
        const char *kept = vm_error_text();
        size_t n = strlen(kept);
        assert_true(n > 1000 && n < 1024 && (n - (size_t)shift) % 3 == 0);
        assert_memory_equal(kept, name, n);
        assert_int_equal(vm_error_in(VMOER_ERROR_IO, "b"), VMOER_ERROR_IO);
        n = strlen(vm_error_text());
        assert_true(n > 1000 && n < 1024 && (n - 3 - (size_t)shift) % 3 == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_error_text),
    };
    return cmocka_run_group_tests_name("utf8", tests, NULL, NULL);
}
