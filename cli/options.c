/* options.c: the parser over the option tables. flag > environment VMOER_<NAME> > default. */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const output_words[] = {"md", "csv", "json", NULL};

static int same_name(const char *typed, size_t length, const char *name) {
    if (strlen(name) != length) return 0;
    for (size_t i = 0; i < length; i++) {
        char c = typed[i] == '-' ? '_' : typed[i];
        if (c != name[i]) return 0;
    }
    return 1;
}

static const option *find_long(const verb *v, const char *typed, size_t length) {
    for (const option *o = v->options; o->name; o++)
        if (o->kind != OPTION_HEADING && same_name(typed, length, o->name)) return o;
    return NULL;
}

static const option *find_letter(const verb *v, char letter) {
    for (const option *o = v->options; o->name; o++)
        if (o->kind != OPTION_HEADING && o->letter == letter) return o;
    return NULL;
}

static int refuse_value(const verb *v, const char *source, const char *value, const char *wanted) {
    fprintf(stderr, "vmoer %s: %s: '%s' is not %s\n", v->name, source, value, wanted);
    return 2;
}

static int word_index(const char *const *words, const char *value) {
    for (int i = 0; words[i]; i++)
        if (!strcmp(words[i], value)) return i;
    return -1;
}

static int refuse_word(const verb *v, const char *source, const char *value, const char *const *words) {
    char wanted[256] = "one of";
    for (size_t used = strlen(wanted); *words && used < sizeof wanted; words++)
        used += (size_t)snprintf(wanted + used, sizeof wanted - used, " %s", *words);
    return refuse_value(v, source, value, wanted);
}

/* source: how the user wrote it ("--limit", "VMOER_LIMIT"), for the error. */
static int store(const verb *v, const option *o, void *options, const char *source, const char *value) {
    char *target = (char *)options + o->offset, *end;
    errno = 0;
    switch (o->kind) {
    case OPTION_FLAG: {
        static const char *const no_yes[] = {"0", "1", "false", "true", "no", "yes", "off", "on", NULL};
        int index = word_index(no_yes, value);
        if (index < 0) return refuse_value(v, source, value, "0 or 1");
        *(int *)target = index & 1;
        return 0;
    }
    case OPTION_INT: {
        long n = strtol(value, &end, 10);
        if (!*value || *end || errno || isspace((unsigned char)*value) || (int)n != n)
            return refuse_value(v, source, value, "a whole number");
        *(int *)target = (int)n;
        return 0;
    }
    case OPTION_SEED: {
        unsigned long long n = strtoull(value, &end, 10);
        if (!isdigit((unsigned char)*value) || *end || errno)
            return refuse_value(v, source, value, "a whole number from 0 to 2^64 - 1");
        *(uint64_t *)target = n;
        return 0;
    }
    case OPTION_REAL: {
        double x = strtod(value, &end);
        if (!*value || *end || isspace((unsigned char)*value) || !isfinite(x))
            return refuse_value(v, source, value, "a number");
        *(double *)target = x;
        return 0;
    }
    case OPTION_TEXT:
        if (!*value) return refuse_value(v, source, value, "a value");
        if (o->words && word_index(o->words, value) < 0) return refuse_word(v, source, value, o->words);
        *(const char **)target = value;
        return 0;
    case OPTION_ENUM: {
        int index = word_index(o->words, value);
        if (index < 0) return refuse_word(v, source, value, o->words);
        *(int *)target = index;
        return 0;
    }
    case OPTION_HEADING:
        break;
    }
    return 2;
}

void options_environment(const option *o, char *buffer, size_t size) {
    snprintf(buffer, size, "VMOER_%s", o->name);
    for (char *c = buffer; *c; c++) *c = (char)toupper((unsigned char)*c);
}

static int parse_environment(const verb *v, void *options, char *given) {
    for (const option *o = v->options; o->name; o++) {
        char name[64];
        if (o->kind == OPTION_HEADING) continue;
        options_environment(o, name, sizeof name);
        const char *value = getenv(name);
        if (!value || !*value) continue;
        if (store(v, o, options, name, value)) return 2;
        given[o - v->options] = 1;
    }
    return 0;
}

/* One argument that begins with a dash; *next is the argument after it, consumed where it is the value. */
static int parse_flag(const verb *v, void *options, char ***next, char **end, char *given) {
    const char *argument = *(*next)++;
    const option *o;
    const char *value = NULL;
    if (argument[1] == '-') {
        const char *name = argument + 2;
        size_t length = strcspn(name, "=");
        if (name[length]) value = name + length + 1;
        o = find_long(v, name, length);
        if (!o && !value && length > 3 && (!strncmp(name, "no_", 3) || !strncmp(name, "no-", 3))) {
            o = find_long(v, name + 3, length - 3);
            if (o && o->kind != OPTION_FLAG) o = NULL;
            if (o) value = "0";
        }
    } else {
        o = find_letter(v, argument[1]);
        if (o && argument[2]) value = argument + 2;
    }
    if (!o) {
        fprintf(stderr, "vmoer %s: unknown option '%s' (vmoer %s --help lists them)\n", v->name, argument, v->name);
        return 2;
    }
    if (!value && o->kind == OPTION_FLAG) value = "1";
    if (!value && *next == end) {
        fprintf(stderr, "vmoer %s: %s needs a value\n", v->name, argument);
        return 2;
    }
    if (!value) value = *(*next)++;
    char source[64];
    snprintf(source, sizeof source, "--%s", o->name);
    if (store(v, o, options, source, value)) return 2;
    given[o - v->options] = 1;
    return 0;
}

int options_parse(const verb *v, void *options, int argc, char **argv, int *n_operands, int *help) {
    size_t n_options = 0;
    while (v->options[n_options].name) n_options++;
    char *given = calloc(n_options + 1, 1);
    if (!given) {
        fprintf(stderr, "vmoer %s: out of memory\n", v->name);
        return 2;
    }
    int status = 2, only_operands = 0;
    *n_operands = *help = 0;
    char **end = argv + argc;
    for (char **a = argv; a < end && strcmp(*a, "--"); a++)
        if (!strcmp(*a, "--help") || !strcmp(*a, "-h")) *help = 1;
    if (*help) {
        status = 0;
        goto done;
    }
    if (parse_environment(v, options, given)) goto done;
    for (char **next = argv; next < end;) {
        if (only_operands || (*next)[0] != '-' || !(*next)[1]) {
            if (!v->operands) {
                fprintf(stderr, "vmoer %s: unexpected argument '%s' (vmoer %s --help)\n", v->name, *next, v->name);
                goto done;
            }
            argv[(*n_operands)++] = *next++;
        } else if (!strcmp(*next, "--")) {
            only_operands = 1;
            next++;
        } else if (parse_flag(v, options, &next, end, given)) {
            goto done;
        }
    }
    for (size_t i = 0; i < n_options; i++)
        if (v->options[i].required && !given[i]) {
            fprintf(stderr, "vmoer %s: --%s is missing (vmoer %s --help)\n", v->name, v->options[i].name, v->name);
            goto done;
        }
    status = 0;
done:
    free(given);
    return status;
}

const char *options_default(const option *o, const void *defaults, char *buffer, size_t size) {
    const char *target = (const char *)defaults + o->offset;
    buffer[0] = 0;
    switch (o->kind) {
    case OPTION_FLAG:
        snprintf(buffer, size, "%s", *(const int *)target ? "on" : "");
        break;
    case OPTION_INT:
        snprintf(buffer, size, "%d", *(const int *)target);
        break;
    case OPTION_SEED:
        snprintf(buffer, size, "%llu", (unsigned long long)*(const uint64_t *)target);
        break;
    case OPTION_REAL:
        snprintf(buffer, size, "%g", *(const double *)target);
        break;
    case OPTION_TEXT:
        if (*(const char *const *)target) snprintf(buffer, size, "%s", *(const char *const *)target);
        break;
    case OPTION_ENUM:
        snprintf(buffer, size, "%s", o->words[*(const int *)target]);
        break;
    case OPTION_HEADING:
        break;
    }
    return buffer;
}
