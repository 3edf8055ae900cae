/* test_nfc.c: normal form C against Hugging Face's (tests/golden/nfc.txt, made by tools/golden_tokens.py): texts, every
 * code point in contexts; long runs of marks. */
#include "tokenizer_fixture.h"

#include <time.h>

static void check_text(const char *from, const char *to) {
    char given[256], want[256];
    size_t length = from_hex(from, given), want_length = from_hex(to, want);
    vm_bytes got = {0};
    assert_int_equal(vm_nfc(given, length, &got), VMOER_OK);
    if (got.length != want_length || (want_length && memcmp(got.data, want, want_length) != 0))
        fail_msg("%s does not become %s", from, to);
    if (vm_nfc_check(given, length) == length) assert_string_equal(from, to); /* the quick answer is never wrong */
    vm_bytes_free(&got);
}

/* Every code point between two texts: one long text whose lines cannot change each other. */
static void check_all(const char *before, const char *after, const char *sha256) {
    char given[64], hex[65];
    vm_bytes all = {0}, got = {0};
    for (uint32_t code = 0; code < 0x110000; code++) {
        if (code == 0xd800) code = 0xe000;
        size_t n = from_hex(before, given);
        n += vm_utf8_put(code, given + n);
        n += from_hex(after, given + n);
        given[n++] = '\n';
        assert_int_equal(vm_bytes_add(&all, given, n), VMOER_OK);
    }
    assert_int_equal(vm_nfc(all.data, all.length, &got), VMOER_OK);
    vm_sha256(got.data, got.length, hex);
    assert_string_equal(hex, sha256);
    vm_bytes_free(&all);
    vm_bytes_free(&got);
}

static void test_golden(void **state) {
    (void)state;
    char path[4096], line[1024], field[4][256];
    golden_path(path, "nfc.txt");
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    int texts = 0, contexts = 0;
    while (fgets(line, sizeof line, f)) {
        int n = sscanf(line, "%255s %255s %255s %255s", field[0], field[1], field[2], field[3]);
        if (n == 4) {
            check_all(field[1], field[2], field[3]);
            contexts++;
        } else {
            assert_int_equal(n, 2);
            check_text(field[0], field[1]);
            texts++;
        }
    }
    fclose(f);
    assert_int_equal(texts, 300);
    assert_int_equal(contexts, 5);
}

/* Marks without end: in order, in the wrong order, and composing with what comes before. */
static void test_long_texts(void **state) {
    (void)state;
    static const char *const units[] = {"a",      "\u0301",       "\u0301\u0323", "a\u0301",
                                        "\u0344", "\u1100\u1161", "\u09be",       "\u0345\u0334\u0301"};
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
        size_t size = strlen(units[k]), whole = n / size * size;
        for (size_t i = 0; i < whole; i++) text[i] = units[k][i % size];
        vm_bytes once = {0}, twice = {0};
        clock_t start = clock();
        assert_int_equal(vm_nfc(text, whole, &once), VMOER_OK);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (seconds > 5)
            fail_msg("%s: %g s", units[k], seconds); /* at most .1 s here; sanitizers and valgrind are slower */
        assert_int_equal(vm_nfc(once.data, once.length, &twice), VMOER_OK);
        assert_int_equal(once.length, twice.length);
        assert_memory_equal(once.data, twice.data, once.length);
        vm_bytes_free(&once);
        vm_bytes_free(&twice);
    }
    free(text);
}

static void test_check(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t at;
    } cases[] = {{"", 0},           {"plain", 5},   {"caf\u00e9 \u6f22\uac00", 12},
                 {"cafe\u0301", 4}, {"a\u212b", 1}, {"x\u1161", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(vm_nfc_check(cases[i].text, strlen(cases[i].text)), cases[i].at);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
