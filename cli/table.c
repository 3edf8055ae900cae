/* table.c: see table.h. */
#include "table.h"

#include "session.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct table {
    output_format output;
    char **cells; /* the header first */
    size_t n_cells, capacity, n_columns;
};

static void *need(void *memory) {
    if (!memory) exit(session_fail(1, "out of memory"));
    return memory;
}

static void add(table *t, char *owned) {
    if (t->n_cells == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 64;
        t->cells = need(realloc(t->cells, t->capacity * sizeof *t->cells));
    }
    t->cells[t->n_cells++] = need(owned);
}

table *table_new(output_format output) {
    table *t = need(calloc(1, sizeof *t));
    t->output = output;
    return t;
}

void table_cell(table *t, const char *format, ...) {
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0) text = NULL;
    va_end(arguments);
    add(t, text);
}

void table_column(table *t, const char *name) {
    table_cell(t, "%s", name);
    t->n_columns++;
}

void table_interval_column(table *t, const char *name) {
    table_column(t, name);
    if (t->output != OUTPUT_CSV) return;
    table_cell(t, "%s_low", name);
    table_cell(t, "%s_high", name);
    t->n_columns += 2;
}

static void value_cell(table *t, const json_t *value, int decimals) {
    if (json_is_string(value))
        table_cell(t, "%s", json_string_value(value));
    else if (json_is_integer(value))
        table_cell(t, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value) && t->output == OUTPUT_CSV)
        table_cell(t, "%.15g", json_real_value(value));
    else if (json_is_real(value))
        table_cell(t, "%.*f", decimals, json_real_value(value));
    else if (json_is_boolean(value))
        table_cell(t, "%s", json_is_true(value) ? "yes" : "no");
    else
        table_cell(t, "%s", t->output == OUTPUT_CSV ? "" : "-");
}

void table_value(table *t, const json_t *object, const char *key, int decimals) {
    value_cell(t, json_object_get(object, key), decimals);
}

void table_interval(table *t, const json_t *object, const char *key, int decimals) {
    const json_t *value = json_object_get(object, key),
                 *interval = json_object_get(json_object_get(object, "ci95"), key);
    const json_t *low = json_array_get(interval, 0), *high = json_array_get(interval, 1);
    if (t->output == OUTPUT_CSV) {
        value_cell(t, value, decimals);
        value_cell(t, low, decimals);
        value_cell(t, high, decimals);
    } else if (json_is_number(value) && json_is_number(low) && json_is_number(high)) {
        table_cell(t, "%.*f [%.*f, %.*f]", decimals, json_number_value(value), decimals, json_number_value(low),
                   decimals, json_number_value(high));
    } else {
        value_cell(t, value, decimals);
    }
}

static size_t columns_wide(const char *text) {
    size_t n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80; /* code points */
    return n;
}

static void print_md(const table *t) {
    size_t *width = need(calloc(t->n_columns + 1, sizeof *width));
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t n = columns_wide(t->cells[i]), column = i % t->n_columns;
        if (n > width[column]) width[column] = n;
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t column = i % t->n_columns;
        printf("%s%s%*s", column ? " | " : "| ", t->cells[i], (int)(width[column] - columns_wide(t->cells[i])), "");
        if (column + 1 < t->n_columns) continue;
        printf(" |\n");
        if (i + 1 == t->n_columns) {
            for (column = 0; column < t->n_columns; column++) {
                printf("|");
                for (size_t k = 0; k < width[column] + 2; k++) putchar('-');
            }
            printf("|\n");
        }
    }
    free(width);
}

static void print_csv(const table *t) {
    for (size_t i = 0; i < t->n_cells; i++) {
        const char *text = t->cells[i];
        int quoted = text[strcspn(text, ",\"\r\n")] != 0;
        if (quoted) putchar('"');
        for (; *text; text++) {
            if (*text == '"') putchar('"');
            putchar(*text);
        }
        if (quoted) putchar('"');
        putchar((i + 1) % t->n_columns ? ',' : '\n');
    }
}

void table_print(table *t) {
    if (t->output == OUTPUT_CSV)
        print_csv(t);
    else
        print_md(t);
    for (size_t i = 0; i < t->n_cells; i++) free(t->cells[i]);
    free(t->cells);
    free(t);
}

int print_result(char *text, output_format output, void (*print)(const json_t *root, output_format output)) {
    int code = 0;
    if (output == OUTPUT_JSON) {
        size_t length = strlen(text);
        printf("%s%s", text, length && text[length - 1] == '\n' ? "" : "\n");
    } else {
        json_error_t error;
        json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
        if (root)
            print(root, output);
        else
            code = session_fail(1, "the result is not JSON: %s", error.text);
        json_decref(root);
    }
    vmoer_free(text);
    return code;
}
