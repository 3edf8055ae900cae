/* main.c: `vmoer VERB`. Uses include/vmoer and nothing below it. */
#include "options.h"

#include <vmoer/vmoer.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int run_verb(const verb *v, int argc, char **argv) {
    int n_operands, help;
    void *options = calloc(1, v->size);
    if (!options) {
        fprintf(stderr, "vmoer %s: out of memory\n", v->name);
        return 1;
    }
    v->defaults(options);
    int code = options_parse(v, options, argc, argv, &n_operands, &help);
    if (help)
        help_verb(v, stdout);
    else if (!code)
        code = v->run(options, argv, n_operands);
    free(options);
    return code;
}

/* The result only counts once it is written: a full disk behind stdout is a failure. */
static int close_stdout(int code) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "vmoer: cannot write the result: %s\n", strerror(errno));
    return code ? code : 1;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        help_program(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        help_program(stdout);
        return close_stdout(0);
    }
    if (!strcmp(argv[1], "--version")) {
        printf("vmoer %s\n", vmoer_build_info());
        return close_stdout(0);
    }
    for (int i = 0; verbs[i]; i++)
        if (!strcmp(argv[1], verbs[i]->name)) return close_stdout(run_verb(verbs[i], argc - 2, argv + 2));
    fprintf(stderr, "vmoer: unknown verb '%s' (vmoer --help lists them)\n", argv[1]);
    return 2;
}
