/* gguf_internal.h: what the GGUF writer, and models that are more than one file, need of the reader. */
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

/* The value of a key as it stands in the file, checked: what follows the type's 4 bytes. NULL: there is no such key. */
const uint8_t *vm_gguf_raw_value(const vm_gguf *g, const char *key, vm_gguf_type *type, size_t *size);

/* 1..limit bytes of printable ASCII. */
bool vm_gguf_name_ok(const char *name, size_t length, size_t limit);

/* Elements and bytes of a tensor. VMOER_ERROR_UNSUPPORTED: unknown type; VMOER_ERROR_FORMAT: a dimension below 1, a row
 * that is no whole number of blocks, an overflow. The text does not name the tensor. */
vmoer_status vm_gguf_tensor_size(uint32_t type, int n_dims, const int64_t *ne, size_t *bytes);

typedef struct vm_gguf_piece {
    const uint8_t *data; /* [size] */
    size_t size;
} vm_gguf_piece;

/* What a model has that is not one GGUF file. */
typedef struct vm_gguf_whole {
    const vm_gguf_tensor *tensors; /* [n_tensors], all the model has; copied, but for their names and data. A name that stands twice is refused */
    size_t n_tensors;
    vm_gguf_piece header;        /* what vm_gguf_header_size counts */
    const vm_gguf_piece *pieces; /* [n_pieces] the bytes behind it; the list is copied */
    size_t n_pieces;
    void *owned; /* given to `release` when the vm_gguf is freed; not where vm_gguf_make_whole fails */
    void (*release)(void *owned);
} vm_gguf_whole;
/* Makes g, whose own keys stay (but for those that start with `drop`; NULL: all do), such a model. */
vmoer_status vm_gguf_make_whole(vm_gguf *g, const vm_gguf_whole *whole, const char *drop);
/* What vm_gguf_make_whole was given as `owned`, where it was given this `release`; else NULL. */
void *vm_gguf_owned(const vm_gguf *g, void (*release)(void *owned));

/* One file, a shard or not. */
vmoer_status vm_gguf_open_file(const char *path, vm_gguf **out);
/* Adds the other files of a model whose metadata says that g is the first of several; nothing where it does not. */
vmoer_status vm_gguf_join_shards(vm_gguf *g);

#endif
