/* test_file.c: files and JSON, in a folder of its own that it removes again. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[512];

static int make_folder(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/vmoer-test-XXXXXX", base && *base ? base : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *position) {
    (void)info;
    (void)kind;
    (void)position;
    return remove(path);
}

static int remove_folder(void **state) {
    (void)state;
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *in_folder(const char *name) {
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    assert_int_equal(vm_path_join(path, sizeof paths[0], folder, name), VMOER_OK);
    return path;
}

static int n_found;

static int count_file(const char *path, const struct stat *info, int kind, struct FTW *position) {
    (void)path;
    (void)info;
    (void)position;
    n_found += kind == FTW_F;
    return 0;
}

static int files_in_folder(void) {
    n_found = 0;
    assert_int_equal(nftw(folder, count_file, 16, FTW_PHYS), 0);
    return n_found;
}

static void assert_content(const char *path, const void *data, size_t size) {
    vm_map map;
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    assert_int_equal(map.size, size);
    if (size) assert_memory_equal(map.data, data, size);
    vm_map_close(&map);
    assert_null(map.data);
}

/* ---- maps ---- */

static void a_link_that_leads_nowhere_is_opened_in_vain(void **state) {
    (void)state;
    const char *path = in_folder("dangling");
    vm_map map;
    assert_int_equal(symlink("nowhere", path), 0);
    assert_true(vm_file_exists(path));
    assert_int_equal(vm_map_open(path, &map), VMOER_ERROR_IO);
    assert_int_equal(unlink(path), 0);
}

static void map_refuses_what_is_no_file(void **state) {
    (void)state;
    vm_map map;
    assert_int_equal(vm_map_open(in_folder("absent"), &map), VMOER_ERROR_IO);
    assert_non_null(strstr(vm_error_text(), "absent"));
    assert_null(map.data);
    assert_int_equal(vm_map_open(folder, &map), VMOER_ERROR_IO);
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    assert_int_equal(vm_map_open(in_folder("pipe"), &map), VMOER_ERROR_IO); /* and does not wait for a writer */
    assert_int_equal(unlink(in_folder("pipe")), 0);
    char hex[65];
    assert_int_equal(vm_sha256_file(folder, hex), VMOER_ERROR_IO);
}

static void empty_file_is_an_empty_map(void **state) {
    (void)state;
    assert_int_equal(vm_write_file(in_folder("empty"), NULL, 0), VMOER_OK);
    vm_map map;
    assert_int_equal(vm_map_open(in_folder("empty"), &map), VMOER_OK);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    vm_map_close(&map);
}

/* ---- writer ---- */

static void file_appears_whole_or_not_at_all(void **state) {
    (void)state;
    const char *path = in_folder("target");
    int before = files_in_folder();
    vm_writer *w;
    assert_int_equal(vm_writer_open(path, &w), VMOER_OK);
    assert_int_equal(vm_writer_write(w, "new", 3), VMOER_OK);
    assert_false(vm_file_exists(path));
    vm_writer_abort(w);
    assert_int_equal(files_in_folder(), before);

    assert_int_equal(vm_write_file(path, "old", 3), VMOER_OK);
    assert_int_equal(vm_writer_open(path, &w), VMOER_OK);
    assert_int_equal(vm_writer_write(w, "newer", 5), VMOER_OK);
    assert_int_equal(vm_writer_offset(w), 5);
    assert_content(path, "old", 3);
    assert_int_equal(vm_writer_commit(w), VMOER_OK);
    assert_content(path, "newer", 5);
    assert_int_equal(files_in_folder(), before + 1);
    vm_writer_abort(NULL);
}

static void pieces_of_any_size_arrive(void **state) {
    (void)state;
    enum { SIZE = 400000 };
    uint8_t *data = vm_malloc(SIZE, 1);
    assert_non_null(data);
    vm_rng r = vm_rng_start(1, VM_RNG_TEXT, 0);
    for (size_t i = 0; i < SIZE; i++) data[i] = (uint8_t)vm_rng_u32(&r);
    static const size_t steps[] = {1, 1000, 65535, 65536, 65537, 0, 100000};
    vm_writer *w;
    assert_int_equal(vm_writer_open(in_folder("pieces"), &w), VMOER_OK);
    size_t at = 0;
    for (int i = 0; at < SIZE; i++) {
        size_t step = steps[i % 7] < SIZE - at ? steps[i % 7] : SIZE - at;
        assert_int_equal(vm_writer_write(w, data + at, step), VMOER_OK);
        at += step;
        assert_int_equal(vm_writer_offset(w), at);
    }
    assert_int_equal(vm_writer_commit(w), VMOER_OK);
    assert_content(in_folder("pieces"), data, SIZE);
    vm_free(data);
}

static void rights_follow_the_umask_and_links_stay_links(void **state) {
    (void)state;
    mode_t before = umask(027);
    assert_int_equal(vm_write_file(in_folder("rights"), "x", 1), VMOER_OK);
    umask(before);
    struct stat st;
    assert_int_equal(stat(in_folder("rights"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);

    assert_int_equal(symlink("rights", in_folder("link")), 0);
    assert_int_equal(vm_write_file(in_folder("link"), "yz", 2), VMOER_OK);
    assert_int_equal(lstat(in_folder("link"), &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_content(in_folder("rights"), "yz", 2);
}

static void writer_refuses_impossible_targets(void **state) {
    (void)state;
    vm_writer *w = NULL;
    assert_int_equal(vm_writer_open(in_folder("no/such/folder"), &w), VMOER_ERROR_IO);
    assert_null(w);
    assert_int_equal(vm_writer_open(folder, &w), VMOER_ERROR_IO);
    assert_int_equal(vm_writer_open("/dev/null", &w), VMOER_ERROR_IO); /* or a device would be replaced by a file */
}

static void failed_write_is_reported(void **state) {
    (void)state;
    vm_writer *w;
    int before = files_in_folder();
    assert_int_equal(vm_writer_open(in_folder("lost"), &w), VMOER_OK);
    assert_int_equal(vm_writer_write(w, "x", 1), VMOER_OK);
    /* The temporary file vanishes: the rename must say so. */
    assert_int_equal(files_in_folder(), before + 1);
    char temporary[1100];
    snprintf(temporary, sizeof temporary, "%s.%ld.0.tmp", in_folder("lost"), (long)getpid());
    assert_int_equal(unlink(temporary), 0);
    assert_int_equal(vm_writer_commit(w), VMOER_ERROR_IO);
    assert_false(vm_file_exists(in_folder("lost")));
}

/* ---- paths, hashes ---- */

static void folders_are_made_with_their_parents(void **state) {
    (void)state;
    assert_int_equal(vm_make_dirs(in_folder("a/b//c/")), VMOER_OK);
    assert_int_equal(vm_make_dirs(in_folder("a/b/c")), VMOER_OK);
    assert_true(vm_file_exists(in_folder("a/b/c")));
    assert_int_equal(vm_write_file(in_folder("a/file"), "x", 1), VMOER_OK);
    assert_int_equal(vm_make_dirs(in_folder("a/file/d")), VMOER_ERROR_IO);
    assert_int_equal(vm_make_dirs(in_folder("a/file")), VMOER_ERROR_IO);
    assert_int_equal(vm_make_dirs(""), VMOER_ERROR_IO);
}

static void paths_join_within_the_room(void **state) {
    (void)state;
    char path[8];
    assert_int_equal(vm_path_join(path, sizeof path, "abc", "def"), VMOER_OK);
    assert_string_equal(path, "abc/def");
    assert_int_equal(vm_path_join(path, sizeof path, "ab/", "def"), VMOER_OK);
    assert_string_equal(path, "ab/def");
    assert_int_equal(vm_path_join(path, sizeof path, "abc", "defg"), VMOER_ERROR_LIMIT);
}

static void sha256_gives_the_published_values(void **state) {
    (void)state;
    char hex[65];
    vm_sha256("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    vm_sha256("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    /* FIPS 180, the long message: a million times "a"; three of them, for a file of several reads. */
    char *text = vm_malloc(1000000, 1);
    assert_non_null(text);
    memset(text, 'a', 1000000);
    assert_int_equal(vm_write_file(in_folder("million"), text, 1000000), VMOER_OK);
    assert_int_equal(vm_sha256_file(in_folder("million"), hex), VMOER_OK);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    vm_writer *w;
    assert_int_equal(vm_writer_open(in_folder("three"), &w), VMOER_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(vm_writer_write(w, text, 1000000), VMOER_OK);
    assert_int_equal(vm_writer_commit(w), VMOER_OK);
    char whole[65];
    vm_map map;
    assert_int_equal(vm_map_open(in_folder("three"), &map), VMOER_OK);
    vm_sha256(map.data, map.size, whole);
    vm_map_close(&map);
    assert_int_equal(vm_sha256_file(in_folder("three"), hex), VMOER_OK);
    assert_string_equal(hex, whole);
    vm_free(text);
}

/* ---- JSON ---- */

static vmoer_status parse(const char *text, json_t **out) { return vm_json_parse(text, strlen(text), "here", out); }

static void json_refuses_what_is_ambiguous_or_broken(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "{\"a\":1,\"a\":2}",
        "{\"a\":{\"b\":1,\"b\":1}}",
        "[1,]",
        "[01]",
        "[NaN]",
        "[1] x",
        "\xef\xbb\xbf[1]",
        "[\"\xff\"]",
        "[\"\\ud800\"]",
        "[\"\\u0000\"]",
        "[99999999999999999999]",
        "[1e999]",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *value;
        assert_int_equal(parse(bad[i], &value), VMOER_ERROR_FORMAT);
        assert_null(value);
    }
    json_t *value;
    parse("{\n \"a\": 1,\n \"a\": 2}", &value);
    assert_non_null(strstr(vm_error_text(), "here: line 3, column 4: duplicate"));
}

static void json_depth_is_bounded(void **state) {
    (void)state;
    enum { DEEP = 1000000 };
    char *text = vm_malloc(DEEP, 1);
    assert_non_null(text);
    memset(text, '[', DEEP);
    json_t *value;
    assert_int_equal(vm_json_parse(text, DEEP, "deep", &value), VMOER_ERROR_FORMAT);
    vm_free(text);
}

static void json_gives_doubles_back(void **state) {
    (void)state;
    vm_rng r = vm_rng_start(2, VM_RNG_TEXT, 0);
    for (int i = 0; i < 2000; i++) {
        uint64_t bits = (uint64_t)vm_rng_u32(&r) << 32 | vm_rng_u32(&r);
        double x;
        memcpy(&x, &bits, 8);
        if (i == 0) x = 0.1;
        if (!isfinite(x)) continue;
        json_t *array = json_pack("[f]", x), *back;
        char *line = vm_json_line(array);
        assert_non_null(line);
        assert_int_equal(parse(line, &back), VMOER_OK);
        assert_true(json_real_value(json_array_get(back, 0)) == x);
        free(line);
        json_decref(array);
        json_decref(back);
    }
}

static void json_files_are_sorted_and_end_in_a_newline(void **state) {
    (void)state;
    json_t *value, *back;
    assert_int_equal(parse("{\"b\": [1, 0.5], \"a\": \"\xc3\xbc\"}", &value), VMOER_OK);
    assert_int_equal(vm_json_save(in_folder("x.json"), value), VMOER_OK);
    static const char text[] = "{\n  \"a\": \"\xc3\xbc\",\n  \"b\": [\n    1,\n    0.5\n  ]\n}\n";
    assert_content(in_folder("x.json"), text, sizeof text - 1);
    assert_int_equal(vm_json_load(in_folder("x.json"), &back), VMOER_OK);
    assert_true(json_equal(value, back));
    char *line = vm_json_line(value);
    assert_string_equal(line, "{\"a\":\"\xc3\xbc\",\"b\":[1,0.5]}");
    free(line);
    json_decref(value);
    json_decref(back);
    assert_int_equal(vm_json_load(in_folder("absent.json"), &back), VMOER_ERROR_IO);
    assert_null(back);
}

/* Adds up the numbers n of the lines; 9 is refused. */
static vmoer_status add_line(void *context, const char *where, json_t *line) {
    int n = (int)json_integer_value(json_object_get(line, "n"));
    *(int *)context += n;
    return n == 9 ? vm_error(VMOER_ERROR_DATA, "%s: nine", where) : VMOER_OK;
}

static void json_lines_are_read_one_by_one(void **state) {
    (void)state;
    enum { LONG = (1 << 20) + 1 };
    static const struct {
        const char *text;
        int sum, sum_whole;
        size_t whole;
        vmoer_status status;
        const char *words;
    } cases[] = {{"", 0, 0, 0, VMOER_OK, NULL},
                 {"{\"n\":1}\n{\"n\":2}\n", 3, 3, 16, VMOER_OK, NULL},
                 {"{\"n\":1}\n{\"n\":2}", 3, 1, 8, VMOER_OK, NULL},
                 {"{\"n\":1}\n{\"n\"", 1, 1, 8, VMOER_ERROR_FORMAT, "lines, line 2: line 1"},
                 {"{\"n\":9}\n{\"n\":2}\n", 9, 9, 8, VMOER_ERROR_DATA, "lines, line 1: nine"},
                 {"{\"n\":1}\n\n", 1, 1, 9, VMOER_ERROR_FORMAT, "line 2"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int sum = 0;
        size_t whole;
        assert_int_equal(vm_write_file(in_folder("lines"), cases[i].text, strlen(cases[i].text)), VMOER_OK);
        assert_int_equal(vm_json_lines(in_folder("lines"), NULL, add_line, &sum), cases[i].status);
        assert_int_equal(sum, cases[i].sum);
        if (cases[i].words) assert_non_null(strstr(vm_error_text(), cases[i].words));
        sum = 0;
        bool torn = cases[i].whole < strlen(cases[i].text) && cases[i].status != VMOER_ERROR_DATA;
        assert_int_equal(vm_json_lines(in_folder("lines"), &whole, add_line, &sum), torn ? VMOER_OK : cases[i].status);
        assert_int_equal(sum, cases[i].sum_whole);
        assert_int_equal(whole, cases[i].whole);
    }
    char *text = vm_malloc(LONG, 1);
    int sum = 0;
    assert_non_null(text);
    memset(text, ' ', LONG);
    assert_int_equal(vm_write_file(in_folder("lines"), text, LONG), VMOER_OK);
    assert_int_equal(vm_json_lines(in_folder("lines"), NULL, add_line, &sum), VMOER_ERROR_LIMIT);
    vm_free(text);
    assert_int_equal(vm_json_lines(in_folder("absent"), NULL, add_line, &sum), VMOER_ERROR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_link_that_leads_nowhere_is_opened_in_vain),
        cmocka_unit_test(map_refuses_what_is_no_file),
        cmocka_unit_test(empty_file_is_an_empty_map),
        cmocka_unit_test(file_appears_whole_or_not_at_all),
        cmocka_unit_test(pieces_of_any_size_arrive),
        cmocka_unit_test(rights_follow_the_umask_and_links_stay_links),
        cmocka_unit_test(writer_refuses_impossible_targets),
        cmocka_unit_test(failed_write_is_reported),
        cmocka_unit_test(folders_are_made_with_their_parents),
        cmocka_unit_test(paths_join_within_the_room),
        cmocka_unit_test(sha256_gives_the_published_values),
        cmocka_unit_test(json_refuses_what_is_ambiguous_or_broken),
        cmocka_unit_test(json_depth_is_bounded),
        cmocka_unit_test(json_gives_doubles_back),
        cmocka_unit_test(json_files_are_sorted_and_end_in_a_newline),
        cmocka_unit_test(json_lines_are_read_one_by_one),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
