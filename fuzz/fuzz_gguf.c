/* fuzz_gguf.c: any bytes as a GGUF file: opened, walked through by every accessor, its tensors dequantised, copied into
 * a writer. Nothing may crash, leak or hang; what was accepted must hold together. */
#include "base/dtype.h"
#include "io/gguf.h"
#include "to_folder.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_key(const vm_gguf *g, const char *key) {
    uint32_t u;
    float f;
    bool flag;
    const char *text;
    size_t length, count;
    vm_gguf_type element;
    int32_t value;
    volatile unsigned char last = 0;
    if (!vm_gguf_has_key(g, key)) abort();
    vm_gguf_get_u32(g, key, &u);
    vm_gguf_get_f32(g, key, &f);
    vm_gguf_get_bool(g, key, &flag);
    if (vm_gguf_get_string(g, key, &text, &length) == VMOER_OK && length) last = (unsigned char)text[length - 1];
    if (vm_gguf_get_array(g, key, &element, &count) != VMOER_OK) return;
    for (size_t i = 0; i < count; i++) {
        if (vm_gguf_array_string(g, key, i, &text, &length) == VMOER_OK && length)
            last = (unsigned char)text[length - 1];
        vm_gguf_array_i32(g, key, i, &value);
    }
    if (vm_gguf_array_i32(g, key, count, &value) == VMOER_OK) abort();
    (void)last;
}

static void read_tensor(const vm_gguf *g, const vm_gguf_tensor *t) {
    if (vm_gguf_find_tensor(g, t->name) != t) abort();
    size_t elements, bytes, n = 1;
    if (!vm_dtype_block(t->type, &elements, &bytes)) abort();
    for (int i = 0; i < 4; i++) n *= (size_t)t->ne[i];
    if (n / elements * bytes != t->size) abort();
    if (n > 1 << 20) return;
    float *values = malloc(n * sizeof *values);
    if (values) vm_gguf_read_rows(t, 0, n / (size_t)t->ne[0], values);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    vm_gguf *g;
    if (vm_gguf_open_memory(data, size, "fuzz", &g) != VMOER_OK) return 0;
    for (size_t i = 0; i < vm_gguf_key_count(g); i++) read_key(g, vm_gguf_key_at(g, i));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) read_tensor(g, vm_gguf_tensor_at(g, i));
    size_t left;
    if (vm_gguf_header_size(g) > size || vm_gguf_file_size(g) != size) abort();
    if (vm_gguf_bytes(g, 0, &left) != data || vm_gguf_bytes(g, size, &left)) abort();
    vm_gguf_writer *w = vm_gguf_writer_create();
    if (w && vm_gguf_writer_copy_keys(w, g, "") != VMOER_OK) abort();
    vm_gguf_writer_free(w);
    to_folder(g);
    vm_gguf_free(g);
    return 0;
}
