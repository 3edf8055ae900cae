/* gendocs.c: docs/CLI.md, the man page and bash completion from the option tables. A build-time program, not installed.
 */
#include "options.h"

#include <vmoer/vmoer.h>

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static void *defaults_of(const verb *v) {
    void *defaults = calloc(1, v->size);
    if (!defaults) exit(1);
    v->defaults(defaults);
    return defaults;
}

/* "FILE", or the words with bars between. */
static const char *value_text(const option *o, char *buffer, size_t size) {
    buffer[0] = 0;
    if (o->argument) {
        snprintf(buffer, size, "%s", o->argument);
    } else if (o->words) {
        size_t used = 0;
        for (int i = 0; o->words[i] && used < size; i++)
            used += (size_t)snprintf(buffer + used, size - used, "%s%s", i ? "|" : "", o->words[i]);
    }
    return buffer;
}

/* Text in a cell of a Markdown table. */
static void cell(const char *text) {
    for (; *text; text++) {
        if (strchr("|<_*", *text)) putchar('\\');
        putchar(*text);
    }
}

static void print_markdown(void) {
    printf("# The command line\n\n<!-- Made from the option tables in cli/ by the build's gendocs; do not edit. -->\n\n"
           "`vmoer VERB [options]`. The result goes to stdout, progress and log to stderr. Exit codes: 0 done, 1 "
           "failed, 2 wrong usage.\n"
           "In names `-` and `_` are alike. Every option can be set by an environment variable, `VMOER_` and its name "
           "in capitals;\n"
           "a flag wins over the environment, the environment over the default. A switch `--name` is taken back by "
           "`--no_name`.\n"
           "Ctrl-C stops long work so that the same command (training: with `--resume`) goes on from there.\n\n"
           "| verb "
           "| does |\n|---|---|\n");
    for (int i = 0; verbs[i]; i++) printf("| [%s](#%s) | %s |\n", verbs[i]->name, verbs[i]->name, verbs[i]->summary);
    for (int i = 0; verbs[i]; i++) {
        const verb *v = verbs[i];
        void *defaults = defaults_of(v);
        printf("\n## %s\n\n`vmoer %s [options]%s%s`\n\n%s\n", v->name, v->name, v->operands ? " " : "",
               v->operands ? v->operands : "", v->description);
        if (v->options[0].kind != OPTION_HEADING) printf("\n| option | value | default | |\n|---|---|---|---|\n");
        for (const option *o = v->options; o->name; o++) {
            char value[128], standard[64], letter[16] = "";
            if (o->kind == OPTION_HEADING) {
                printf("\n%s:\n\n| option | value | default | |\n|---|---|---|---|\n", o->name);
                continue;
            }
            if (o->letter) snprintf(letter, sizeof letter, "`-%c`, ", o->letter);
            value_text(o, value, sizeof value);
            for (char *bar = value; (bar = strchr(bar, '|'));) *bar = ' ';
            printf("| %s`--%s` | %s | %s | ", letter, o->name, value,
                   options_default(o, defaults, standard, sizeof standard));
            cell(o->help);
            printf("%s |\n", o->required ? " (required)" : "");
        }
        free(defaults);
    }
}

/* roff: a hyphen that is typed is \-, a leading dot or quote would be a request. */
static void roff(const char *text) {
    if (*text == '.' || *text == '\'') printf("\\&");
    for (; *text; text++) {
        if (*text == '-' || *text == '\\') putchar('\\');
        putchar(*text);
    }
}

static void print_man(void) {
    printf(".TH VMOER 1 \"\" \"vmoer %s\" \"User Commands\"\n.SH NAME\nvmoer \\- calibrated answers and honest "
           "uncertainty from "
           "Mixture\\-of\\-Experts language models\n.SH SYNOPSIS\n.B vmoer\n.I VERB\n[options]\n.SH DESCRIPTION\n"
           "The result goes to standard output, progress and log to standard error. In option names \\- and _ are "
           "alike. Every option can be set "
           "by an environment variable, VMOER_ and its name in capitals; a flag wins over the environment, the "
           "environment over the default.\n",
           vmoer_version());
    for (int i = 0; verbs[i]; i++) {
        const verb *v = verbs[i];
        void *defaults = defaults_of(v);
        printf(".SH \"");
        for (const char *c = v->name; *c; c++) putchar(toupper((unsigned char)*c));
        printf("\"\n.B vmoer %s\n[options]%s%s\n.PP\n", v->name, v->operands ? " " : "",
               v->operands ? v->operands : "");
        roff(v->description);
        putchar('\n');
        for (const option *o = v->options; o->name; o++) {
            char value[128], standard[64];
            if (o->kind == OPTION_HEADING) {
                printf(".SS %s\n", o->name);
                continue;
            }
            printf(".TP\n\\fB");
            if (o->letter) printf("\\-%c\\fR, \\fB", o->letter);
            printf("\\-\\-%s\\fR", o->name);
            if (*value_text(o, value, sizeof value)) printf(" \\fI%s\\fR", value);
            putchar('\n');
            roff(o->help);
            if (o->required) printf(" (required)");
            if (*options_default(o, defaults, standard, sizeof standard)) printf(" [%s]", standard);
            putchar('\n');
        }
        free(defaults);
    }
    printf(".SH EXIT STATUS\n0 done, 1 a failure at run time, 2 wrong usage.\n");
}

static void print_completion(void) {
    printf("# bash completion for vmoer, made from its option tables.\n_vmoer() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} options=\n"
           "    COMPREPLY=()\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W '--help --version");
    for (int i = 0; verbs[i]; i++) printf(" %s", verbs[i]->name);
    printf("' -- \"$cur\"))\n        return\n    fi\n    case $verb:$prev in\n");
    for (int i = 0; verbs[i]; i++) {
        for (const option *o = verbs[i]->options; o->name; o++) {
            if (o->kind == OPTION_HEADING || !o->words) continue;
            printf("    %s:--%s", verbs[i]->name, o->name);
            if (o->letter) printf("|%s:-%c", verbs[i]->name, o->letter);
            printf(") COMPREPLY=($(compgen -W '");
            for (int k = 0; o->words[k]; k++) printf("%s%s", k ? " " : "", o->words[k]);
            printf("' -- \"$cur\")); return ;;\n");
        }
    }
    printf("    esac\n    case $verb in\n");
    for (int i = 0; verbs[i]; i++) {
        printf("    %s) options='--help", verbs[i]->name);
        for (const option *o = verbs[i]->options; o->name; o++)
            if (o->kind != OPTION_HEADING) printf(" --%s", o->name);
        printf("' ;;\n");
    }
    printf("    esac\n    case $cur in\n    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")) ;;\n"
           "    *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n    esac\n}\ncomplete -o filenames -F _vmoer vmoer\n");
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "markdown"))
        print_markdown();
    else if (argc == 2 && !strcmp(argv[1], "man"))
        print_man();
    else if (argc == 2 && !strcmp(argv[1], "completion"))
        print_completion();
    else
        return fprintf(stderr, "usage: gendocs markdown|man|completion\n"), 2;
    return 0;
}
