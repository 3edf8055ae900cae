/* heldout_table.c: prints the table of docs/HELDOUT.md: how close the held-out questions, the test questions and a
 * random part of the training questions are to their nearest training question. Not installed; docs/HELDOUT.md has the
 * command. Usage: heldout_table DATA TASK... */
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "io/heldout.h"
#include <stdio.h>
#include <stdlib.h>

static void die(void) {
    fprintf(stderr, "heldout_table: %s\n", vm_error_text());
    exit(1);
}

static const vm_item **list(const vm_dataset *d) {
    const vm_item **items = vm_malloc(vm_dataset_count(d) + 1, sizeof *items);
    if (!items) exit(1);
    for (size_t i = 0; i < vm_dataset_count(d); i++) items[i] = vm_dataset_at(d, i);
    return items;
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void row(const char *task, const char *name, const vm_item *const *queries, size_t n, const vm_item *const *pool,
                size_t m) {
    float *s = vm_malloc(n + 1, sizeof *s);
    if (!s || vm_heldout_similarity(queries, n, pool, m, s) != VMOER_OK) die();
    double mean = 0, close = 0;
    for (size_t i = 0; i < n; i++) {
        mean += s[i] / (double)n;
        close += (s[i] >= 0.5f) / (double)n;
    }
    qsort(s, n, sizeof *s, compare);
    printf("| %s | %s | %zu | %zu | %.3f |", task, name, n, m, mean);
    static const double quantiles[] = {.1, .25, .5, .75, .9, .95, .99};
    for (int q = 0; q < 7; q++) printf(" %.3f |", s[(size_t)(quantiles[q] * (double)(n - 1) + .5)]);
    printf(" %.1f%% |\n", 100 * close);
    vm_free(s);
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: heldout_table DATA TASK...\n"), 2;
    printf("| task | from -> to | n | pool | mean | 10%% | 25%% | 50%% | 75%% | 90%% | 95%% | 99%% | >= 1/2 "
           "|\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int t = 2; t < argc; t++) {
        vm_dataset *train, *held, *test;
        if (vm_dataset_load(argv[1], argv[t], VM_SPLIT_TRAIN, &train) != VMOER_OK ||
            vm_dataset_load(argv[1], argv[t], VM_SPLIT_HELDOUT, &held) != VMOER_OK ||
            vm_dataset_load(argv[1], argv[t], VM_SPLIT_TEST, &test) != VMOER_OK)
            die();
        size_t n = vm_dataset_count(held), m = vm_dataset_count(train);
        const vm_item **from = list(held), **to = list(train), **tests = list(test);
        row(argv[t], "held-out -> train", from, n, to, m);
        row(argv[t], "test -> train", tests, vm_dataset_count(test), to, m);
        /* as many questions drawn at random from the same pool, against the rest */
        const vm_item **all = vm_malloc(n + m, sizeof *all);
        int32_t *order = vm_malloc(n + m, sizeof *order);
        if (!all || !order) return 1;
        for (size_t i = 0; i < n + m; i++) order[i] = (int32_t)i;
        vm_rng rng = vm_rng_start(1, VM_RNG_SHUFFLE, 0);
        vm_rng_shuffle(&rng, order, n + m);
        for (size_t i = 0; i < n + m; i++) all[i] = (size_t)order[i] < n ? from[order[i]] : to[(size_t)order[i] - n];
        row(argv[t], "random -> rest", all, n, all + n, m);
        vm_free(order);
        vm_free(all);
        vm_free(tests);
        vm_free(to);
        vm_free(from);
        vm_dataset_free(test);
        vm_dataset_free(held);
        vm_dataset_free(train);
    }
    return 0;
}
