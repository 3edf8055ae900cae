/* options.h: one table of options a verb. Parsing, --help, the man page, bash completion and docs/CLI.md all read it,
 * and the defaults shown are those of the library's own params structs, so none of them can drift. */
#ifndef VMOER_CLI_OPTIONS_H
#define VMOER_CLI_OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum option_kind {
    OPTION_HEADING, /* `name` is a title above the options that follow */
    OPTION_FLAG,    /* int: --name sets 1, --no_name sets 0 */
    OPTION_INT,     /* int */
    OPTION_SEED,    /* uint64_t */
    OPTION_REAL,    /* double, finite */
    OPTION_TEXT,    /* const char *; where `words` is given one of them */
    OPTION_ENUM     /* int-sized enum: the index into `words` */
} option_kind;

typedef struct option {
    const char *name; /* without dashes; - and _ are alike on the command line. NULL ends a table */
    char letter;      /* short form, 0: none */
    option_kind kind;
    const char *argument; /* what --help calls the value, NULL: a flag, or the words */
    const char *help;
    size_t offset;            /* of the target in the verb's struct */
    const char *const *words; /* ends with NULL */
    int required;
} option;

/* What every verb's struct begins with. */
typedef enum output_format { OUTPUT_MD, OUTPUT_CSV, OUTPUT_JSON } output_format;
typedef struct common_options {
    int output; /* output_format */
    int quiet;
} common_options;

extern const char *const output_words[];
#define COMMON_OPTIONS                                                                                                \
    {.name = "General", .kind = OPTION_HEADING}, {"output",                                                           \
                                                  'o',                                                                \
                                                  OPTION_ENUM,                                                        \
                                                  NULL,                                                               \
                                                  "how the result is printed on stdout",                              \
                                                  offsetof(common_options, output),                                   \
                                                  output_words,                                                       \
                                                  0},                                                                 \
    {                                                                                                                 \
        "quiet", 'q', OPTION_FLAG, NULL, "no progress and no log on stderr", offsetof(common_options, quiet), NULL, 0 \
    }

typedef struct verb {
    const char *name;
    const char *summary;     /* one line */
    const char *description; /* sentences below the usage line */
    const char *operands;    /* "RUN...", NULL: takes none */
    const option *options;
    size_t size; /* of the struct that the offsets are into */
    void (*defaults)(void *options);
    /* Returns the exit code: 0 done, 1 a failure at run time, 2 wrong usage. */
    int (*run)(const void *options, char **operands, int n_operands);
} verb;

extern const verb *const verbs[]; /* ends with NULL */

/* Environment, then arguments, into `options` (already holding the defaults); operands are moved to the front of argv
 * and counted. Returns 0, or 2 after one line on stderr; *help is set where --help was asked for. */
int options_parse(const verb *v, void *options, int argc, char **argv, int *n_operands, int *help);

/* The default of `o` as text; "" where there is none to speak of. */
const char *options_default(const option *o, const void *defaults, char *buffer, size_t size);

/* Upper-case environment name of `o`. */
void options_environment(const option *o, char *buffer, size_t size);

void help_program(FILE *out);
void help_verb(const verb *v, FILE *out);

#endif
