/* json.h: jansson with this project's rules: duplicates refused, depth limited, doubles written so that they read
 * back the same, keys sorted (equal runs give equal bytes), files written atomically. */
#ifndef VM_BASE_JSON_H
#define VM_BASE_JSON_H

#include "vmoer/vmoer_errors.h"
#include <jansson.h>
#include <stddef.h>

/* *out is owned by the caller (json_decref). The error names `where`, line and column. */
vmoer_status vm_json_parse(const char *text, size_t size, const char *where, json_t **out);
/* The same with every number a double: for a file that has whole numbers too large for an integer. */
vmoer_status vm_json_parse_reals(const char *text, size_t size, const char *where, json_t **out);
vmoer_status vm_json_load(const char *path, json_t **out);
/* Gives each line of the file to visit, which stops the reading where it fails. `where` names file and line for its
 * errors; the value is lent (json_incref to keep it). A last line without its newline is what a killed writer leaves: where
 * whole is not NULL it is left out and *whole is the size of the whole lines in bytes, else it is a line like any other.
 * A line has at most 1 MiB. */
vmoer_status vm_json_lines(const char *path, size_t *whole,
                           vmoer_status (*visit)(void *context, const char *where, json_t *line), void *context);
/* Pretty-printed, atomic. */
vmoer_status vm_json_save(const char *path, const json_t *value);
/* One line, no trailing newline; free with free(). NULL: out of memory. */
char *vm_json_line(const json_t *value);

#endif
