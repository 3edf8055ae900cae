/* report_fixture.h: a folder to report on, and what every page has to keep to. */
#ifndef VM_TEST_REPORT_FIXTURE_H
#define VM_TEST_REPORT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "report/report.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char root[256];

static int make_root(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/vmoer-report-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw) {
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

static int remove_root(void **state) {
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *in_root(const char *name) {
    static char path[2][1024];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, name);
    return path[turn];
}

static void put_file(const char *name, const char *text) {
    char folder[1024];
    snprintf(folder, sizeof folder, "%s", in_root(name));
    *strrchr(folder, '/') = '\0';
    assert_int_equal(vm_make_dirs(folder), VMOER_OK);
    assert_int_equal(vm_write_file(in_root(name), text, strlen(text)), VMOER_OK);
}

static void put_json(const char *name, json_t *value) {
    char *text = json_dumps(value, JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    assert_non_null(text);
    put_file(name, text);
    free(text);
    json_decref(value);
}

static char *slurp(const char *path) {
    vm_map map;
    if (vm_map_open(path, &map) != VMOER_OK) fail_msg("%s", vm_error_text());
    char *text = malloc(map.size + 1);
    memcpy(text, map.data, map.size);
    text[map.size] = '\0';
    vm_map_close(&map);
    return text;
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *s = strstr(text, what); s; s = strstr(s + 1, what)) n++;
    return n;
}

static char *report(const char *output) {
    if (vm_report_write(root, output, "Bayesian routing on OpenBookQA", NULL) != VMOER_OK)
        fail_msg("%s", vm_error_text());
    return slurp(output);
}

/* Every picture says in words what it shows. */
static void check_pictures(const char *page, size_t at_least) {
    size_t pictures = 0;
    for (const char *svg = strstr(page, "<svg"); svg; svg = strstr(svg + 4, "<svg")) {
        const char *end = strstr(svg, "</svg>"), *title = strstr(svg, "<title id="), *desc = strstr(svg, "<desc id=");
        assert_true(end && title && desc && title < end && desc < end);
        assert_true(*(strchr(title, '>') + 1) != '<' && *(strchr(desc, '>') + 1) != '<');
        assert_null(memmem(svg, (size_t)(end - svg), "nan", 3));
        pictures++;
    }
    assert_int_equal(pictures, count(page, "</svg>"));
    assert_true(pictures >= at_least);
}

static void refuse(vmoer_status status, const char *file, const char *words) {
    assert_int_equal(vm_report_write(root, in_root("report.html"), NULL, NULL), status);
    if (!strstr(vm_error_text(), file) || !strstr(vm_error_text(), words))
        fail_msg("\"%s\" does not name %s and %s", vm_error_text(), file, words);
    assert_false(vm_file_exists(in_root("report.html")));
}

#endif
