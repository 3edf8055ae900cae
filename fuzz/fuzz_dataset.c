/* fuzz_dataset.c: the readers of question files. First byte: the format; the rest: the file; where the format
 * has labels, they follow a byte 0xff. What is read must keep the promises of dataset.h, and splitting and cutting it
 * must work. */
#include "base/memory.h"
#include "io/dataset_internal.h"
#include "io/heldout.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_item(const vm_item *item) {
    size_t bad;
    if (item->n_choices < 2 || item->n_choices > VM_MAX_CHOICES || item->answer < 0 || item->answer >= item->n_choices)
        abort();
    if (!*item->id || !*item->stem || !vm_utf8_valid(item->stem, strlen(item->stem), &bad)) abort();
    for (int c = 0; c < item->n_choices; c++) {
        if (!*item->choices[c] || !vm_utf8_valid(item->choices[c], strlen(item->choices[c]), &bad)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    vm_dataset *d;
    if (size < 1 || vm_dataset_create("task", &d) != VMOER_OK) return 0;
    vm_dataset_format format = (vm_dataset_format)(data[0] % (VM_DATASET_SIQA + 1));
    vm_text_file file = {(const char *)data + 1, size - 1, "fuzz"}, labels = {NULL, 0, "labels"};
    bool has_labels = vm_dataset_has_labels(format);
    const char *cut = has_labels ? memchr(file.data, 0xff, file.size) : NULL;
    if (cut) {
        file.size = (size_t)(cut - file.data);
        labels = (vm_text_file){cut + 1, size - 2 - file.size, "labels"};
    }
    if (vm_dataset_parse(d, format, &file, has_labels ? &labels : NULL) == VMOER_OK) {
        size_t n = vm_dataset_count(d);
        const vm_item **items = vm_malloc(n + 1, sizeof *items);
        bool *held = vm_malloc(n + 1, sizeof *held);
        if (!items || !held) abort();
        for (size_t i = 0; i < n; i++) check_item(items[i] = vm_dataset_at(d, i));
        if (vm_heldout_split(items, n, held) != VMOER_OK) abort();
        vm_free(items);
        vm_free(held);
        vm_dataset_sample(d, n / 2 + 1);
        if (vm_dataset_count(d) > n / 2 + 1) abort();
        vm_dataset_keep_choices(d, 4);
    }
    vm_dataset_free(d);
    return 0;
}
