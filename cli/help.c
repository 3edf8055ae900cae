/* help.c: --help of the program and of a verb, from the option tables. */
#include "options.h"

#include <stdlib.h>
#include <string.h>

enum { HELP_COLUMN = 34, HELP_WIDTH = 110 };

/* Prints `text` wrapped, from `column` on, continuing at `indent`. */
static void wrap(FILE *out, const char *text, int column, int indent, int width) {
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > width) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_option(FILE *out, const option *o, const void *defaults) {
    char left[160], text[640], value[64];
    int used = o->letter ? snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name)
                         : snprintf(left, sizeof left, "      --%s", o->name);
    if (o->argument) {
        snprintf(left + used, sizeof left - (size_t)used, " %s", o->argument);
    } else if (o->words) {
        for (int i = 0; o->words[i] && used < (int)sizeof left; i++)
            used += snprintf(left + used, sizeof left - (size_t)used, "%s%s", i ? "|" : " ", o->words[i]);
    }
    options_default(o, defaults, value, sizeof value);
    snprintf(text, sizeof text, "%s%s%s%s%s", o->help, o->required ? " (required)" : "", *value ? " [" : "", value,
             *value ? "]" : "");
    int column = fprintf(out, "%s", left);
    if (column >= HELP_COLUMN) column = fprintf(out, "\n") - 1;
    fprintf(out, "%*s", HELP_COLUMN - column, "");
    wrap(out, text, HELP_COLUMN, HELP_COLUMN, HELP_WIDTH);
}

void help_verb(const verb *v, FILE *out) {
    fprintf(out, "usage: vmoer %s [options]%s%s\n\n", v->name, v->operands ? " " : "", v->operands ? v->operands : "");
    wrap(out, v->description, 0, 0, HELP_WIDTH);
    void *defaults = calloc(1, v->size);
    if (!defaults) return;
    v->defaults(defaults);
    if (v->options[0].kind != OPTION_HEADING) fputc('\n', out);
    for (const option *o = v->options; o->name; o++) {
        if (o->kind == OPTION_HEADING)
            fprintf(out, "\n%s:\n", o->name);
        else
            print_option(out, o, defaults);
    }
    fprintf(out, "  -h, --help\n\n");
    wrap(out,
         "In names - and _ are alike. Every option can be set by an environment variable, VMOER_ and its name in "
         "capitals; "
         "a flag wins over the environment, the environment over the [default].",
         0, 0, HELP_WIDTH);
    free(defaults);
}

void help_program(FILE *out) {
    fprintf(out, "usage: vmoer VERB [options]\n\n"
                 "Calibrated answers and honest uncertainty from Mixture-of-Experts language models.\n\n");
    for (int i = 0; verbs[i]; i++) fprintf(out, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(out,
            "\nvmoer VERB --help tells more, vmoer --version what this is.\n"
            "The result goes to stdout, progress and log to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}
