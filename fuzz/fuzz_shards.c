/* fuzz_shards.c: any bytes as a model in several GGUF files: each begins at a "GGUF" of the input. They are written
 * under the names that shards have, and the first is opened, which opens all; every tensor and byte is then visited. */
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_FILES = 4 };
static char folder[] = "/tmp/vmoer-fuzz-XXXXXX";

static const char *path_of(int i, int n) {
    static char path[128];
    snprintf(path, sizeof path, "%s/m-%05d-of-%05d.gguf", folder, i + 1, n);
    return path;
}

static void remove_folder(void) { rmdir(folder); }

static void read_all(const vm_gguf *g) {
    volatile uint8_t last = 0;
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        if (vm_gguf_find_tensor(g, t->name) != t) abort();
        last = t->data[t->size - 1];
    }
    (void)last;
    size_t left, n = 0;
    while (vm_gguf_bytes(g, n, &left)) n += left;
    if (n != vm_gguf_file_size(g)) abort();
    vm_gguf_writer *w = vm_gguf_writer_create();
    if (!w || vm_gguf_writer_copy_keys(w, g, "") != VMOER_OK) abort();
    vm_gguf_writer_free(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *begin[MAX_FILES + 1];
    int n = 0;
    for (size_t at = 0; at < size && n < MAX_FILES;) {
        const uint8_t *next = at + 4 <= size ? memmem(data + at, size - at, "GGUF", 4) : NULL;
        if (!next) break;
        begin[n++] = next;
        at = (size_t)(next - data) + 4;
    }
    if (n < 2) return 0;
    begin[n] = data + size;
    static int made;
    if (!made++) {
        if (!mkdtemp(folder)) abort();
        atexit(remove_folder);
    }
    for (int i = 0; i < n; i++) {
        FILE *f = fopen(path_of(i, n), "wb");
        if (!f || fwrite(begin[i], 1, (size_t)(begin[i + 1] - begin[i]), f) != (size_t)(begin[i + 1] - begin[i]))
            abort();
        fclose(f);
    }
    vm_gguf *g;
    if (vm_gguf_open(path_of(0, n), &g) == VMOER_OK) {
        read_all(g);
        vm_gguf_free(g);
    }
    for (int i = 0; i < n; i++) unlink(path_of(i, n));
    return 0;
}
