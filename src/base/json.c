/* json.c: the one set of flags under which this project reads and writes JSON. Jansson checks the UTF-8, stops at 2048
 * levels and refuses \u0000 in strings (ours are NUL-terminated). */
#include "base/json.h"

#include "base/file.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE = 1 << 20 };

/* 17 significant digits give every double back. */
#define WRITE_FLAGS (JSON_SORT_KEYS | JSON_REAL_PRECISION(17))

static vmoer_status parse(const char *text, size_t size, size_t flags, const char *where, json_t **out) {
    json_error_t error;
    *out = json_loadb(size ? text : "", size, JSON_REJECT_DUPLICATES | flags, &error);
    if (*out) return VMOER_OK;
    vmoer_status code = json_error_code(&error) == json_error_out_of_memory ? VMOER_ERROR_MEMORY : VMOER_ERROR_FORMAT;
    return vm_error(code, "%s: line %d, column %d: %s", where, error.line, error.column, error.text);
}

vmoer_status vm_json_parse(const char *text, size_t size, const char *where, json_t **out) {
    return parse(text, size, 0, where, out);
}

vmoer_status vm_json_parse_reals(const char *text, size_t size, const char *where, json_t **out) {
    return parse(text, size, JSON_DECODE_INT_AS_REAL, where, out);
}

vmoer_status vm_json_load(const char *path, json_t **out) {
    *out = NULL;
    vm_map map;
    VM_TRY(vm_map_open(path, &map));
    vmoer_status status = vm_json_parse((const char *)map.data, map.size, path, out);
    vm_map_close(&map);
    return status;
}

vmoer_status vm_json_lines(const char *path, size_t *whole,
                           vmoer_status (*visit)(void *context, const char *where, json_t *line), void *context) {
    vm_map map;
    VM_TRY(vm_map_open(path, &map));
    vmoer_status status = VMOER_OK;
    size_t at = 0, number = 1;
    for (; at < map.size && status == VMOER_OK; number++) {
        const char *text = (const char *)map.data + at, *end = memchr(text, '\n', map.size - at);
        size_t size = end ? (size_t)(end - text) : map.size - at;
        char where[4200];
        json_t *line = NULL;
        if (!end && whole) break;
        snprintf(where, sizeof where, "%s, line %zu", path, number);
        if (size > MAX_LINE)
            status = vm_error(VMOER_ERROR_LIMIT, "%s: %zu bytes, at most %d", where, size, MAX_LINE);
        else
            status = vm_json_parse(text, size, where, &line);
        if (status == VMOER_OK) status = visit(context, where, line);
        json_decref(line);
        at += size + 1;
    }
    if (whole) *whole = at;
    vm_map_close(&map);
    return status;
}

vmoer_status vm_json_save(const char *path, const json_t *value) {
    char *text = json_dumps(value, WRITE_FLAGS | JSON_INDENT(2));
    if (!text) return vm_error(VMOER_ERROR_MEMORY, "%s: the JSON value cannot be written out", path);
    size_t length = strlen(text);
    text[length] = '\n'; /* in place of the NUL: the size goes with it */
    vmoer_status status = vm_write_file(path, text, length + 1);
    free(text);
    return status;
}

char *vm_json_line(const json_t *value) { return json_dumps(value, WRITE_FLAGS | JSON_COMPACT); }
