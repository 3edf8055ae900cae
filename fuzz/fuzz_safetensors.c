/* fuzz_safetensors.c: any bytes as a safetensors file: opened, every tensor read. Nothing may crash, leak or hang. */
#include "io/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    vm_safetensors *st;
    if (vm_safetensors_open_memory(data, size, "fuzz", &st) != VMOER_OK) return 0;
    vm_safetensors_metadata(st, "format");
    const uint8_t *end = data + size;
    volatile unsigned char last = 0;
    for (size_t i = 0; i < vm_safetensors_count(st); i++) {
        const vm_st_tensor *t = vm_safetensors_at(st, i);
        if (vm_safetensors_find(st, t->name) != t || t->data < data || t->size > (size_t)(end - t->data)) abort();
        if (t->size) last = t->data[t->size - 1];
        float *values = malloc(t->size * 2 + 4); /* the smallest element has 2 bytes */
        if (values) vm_safetensors_read_f32(st, t->name, t->n_dims, t->shape, values);
        free(values);
    }
    (void)last;
    vm_safetensors_free(st);
    return 0;
}
