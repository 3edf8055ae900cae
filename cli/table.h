/* table.h: a result as rows of text, printed as a Markdown table or as CSV, filled from the library's JSON.
 * First the columns, then cells row by row. Out of memory ends the program. */
#ifndef VMOER_CLI_TABLE_H
#define VMOER_CLI_TABLE_H

#include "options.h"

#include <jansson.h>

typedef struct table table;

table *table_new(output_format output); /* MD or CSV */
void table_column(table *t, const char *name);
void table_interval_column(table *t, const char *name); /* CSV: three columns, name, name_low, name_high */

void table_cell(table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* object[key]: whole numbers as they are, others with `decimals` (CSV: all digits), "-" (CSV: nothing) where absent. */
void table_value(table *t, const json_t *object, const char *key, int decimals);
/* The same with its interval object.ci95[key]: "0.500 [0.456, 0.544]". For an interval column. */
void table_interval(table *t, const json_t *object, const char *key, int decimals);

/* Prints to stdout and frees. */
void table_print(table *t);

/* What a verb does with the JSON of its call: OUTPUT_JSON prints it as it is, else `print` shows it. Frees `text`;
 * returns the exit code. */
int print_result(char *text, output_format output, void (*print)(const json_t *root, output_format output));

#endif
