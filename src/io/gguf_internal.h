/* gguf_internal.h: what the GGUF writer needs of the reader. Only gguf.c and gguf_write.c include it. */
#ifndef VM_IO_GGUF_INTERNAL_H
#define VM_IO_GGUF_INTERNAL_H

#include "io/gguf.h"

enum {
    VM_GGUF_MAX_KEYS = 100000,
    VM_GGUF_MAX_TENSORS = 1000000,
    VM_GGUF_MAX_KEY_BYTES = 65535,
    VM_GGUF_MAX_NAME_BYTES = 64,
    VM_GGUF_MAX_DIMS = 4,
    VM_GGUF_MAX_ARRAY = 16 << 20,
    VM_GGUF_MAX_STRING = 64 << 20,
    VM_GGUF_MAX_ALIGNMENT = 1 << 20,
    VM_GGUF_DEFAULT_ALIGNMENT = 32,
    VM_GGUF_VERSION = 3
};

/* The value of key `index` as it stands in the file, checked: what follows the type's 4 bytes. */
const uint8_t *vm_gguf_raw_value(const vm_gguf *g, size_t index, vm_gguf_type *type, size_t *size);

/* 1..limit bytes of printable ASCII. */
bool vm_gguf_name_ok(const char *name, size_t length, size_t limit);

/* Elements and bytes of a tensor. VMOER_ERROR_UNSUPPORTED: unknown type; VMOER_ERROR_FORMAT: a dimension below 1, a row
 * that is no whole number of blocks, an overflow. The text does not name the tensor. */
vmoer_status vm_gguf_tensor_size(uint32_t type, int n_dims, const int64_t *ne, size_t *bytes);

#endif
