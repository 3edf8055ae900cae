/* safetensors.h: adapters and routers on disk. Rules of the Rust reader: 8-byte length, JSON object, string metadata, no duplicate
 * keys, tensors contiguous from 0 without hole or overlap, sizes checked, nothing after the last tensor. Errors name tensor and offset. */
#ifndef VM_IO_SAFETENSORS_H
#define VM_IO_SAFETENSORS_H

#include "base/dtype.h"
#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The three types this library computes with, by their names in a file. False: another. */
bool vm_st_float_type(const char *dtype, vm_dtype *out);

typedef struct vm_st_tensor {
    const char *name;
    char dtype[8];       /* "F32", "F16", "BF16", "I32", ... */
    int n_dims;          /* 0..8 */
    int64_t shape[8];    /* row-major, shape[n_dims-1] contiguous */
    const uint8_t *data; /* in the map */
    size_t size;         /* bytes */
} vm_st_tensor;

typedef struct vm_safetensors vm_safetensors;
vmoer_status vm_safetensors_open(const char *path, vm_safetensors **out);
vmoer_status vm_safetensors_open_memory(const void *data, size_t size, const char *where, vm_safetensors **out);
void vm_safetensors_free(vm_safetensors *st);
size_t vm_safetensors_count(const vm_safetensors *st);
const vm_st_tensor *vm_safetensors_at(const vm_safetensors *st, size_t index);
const vm_st_tensor *vm_safetensors_find(const vm_safetensors *st, const char *name); /* NULL if absent */
const char *vm_safetensors_metadata(const vm_safetensors *st, const char *key);      /* NULL if absent */
/* The same, required: as text in out[size], as a whole number of digits alone up to max. */
vmoer_status vm_safetensors_text(const vm_safetensors *st, const char *key, char *out, size_t size);
vmoer_status vm_safetensors_u64(const vm_safetensors *st, const char *key, uint64_t max, uint64_t *out);
vmoer_status vm_safetensors_int(const vm_safetensors *st, const char *key, int max, int *out);
/* Finds a tensor, requires the shape, converts F32/F16/BF16 to f32 in dst[prod(shape)]. */
vmoer_status vm_safetensors_read_f32(const vm_safetensors *st, const char *name, int n_dims, const int64_t *shape, float *dst);

typedef struct vm_st_writer vm_st_writer;
vm_st_writer *vm_st_writer_create(void);
void vm_st_writer_free(vm_st_writer *w);
vmoer_status vm_st_writer_metadata(vm_st_writer *w, const char *key, const char *value);
vmoer_status vm_st_writer_integer(vm_st_writer *w, const char *key, uint64_t value); /* metadata too */
/* dtype "F32", "F16" or "BF16" from f32 values (copied), or any other dtype name from raw bytes of `element` size with vm_st_writer_raw. */
vmoer_status vm_st_writer_f32(vm_st_writer *w, const char *name, const char *dtype, int n_dims, const int64_t *shape, const float *values);
vmoer_status vm_st_writer_raw(vm_st_writer *w, const char *name, const char *dtype, size_t element, int n_dims, const int64_t *shape, const void *data);
/* The same for data that is made while the file is written: saving asks for rows [row, row + rows) of shape[n_dims - 1] elements (all other dimensions in one),
 * from 0 rising, a few MiB at a time, into out. An error ends the saving; no file appears. */
typedef vmoer_status vm_st_fill(void *context, size_t row, size_t rows, void *out);
vmoer_status vm_st_writer_rows(vm_st_writer *w, const char *name, const char *dtype, int n_dims, const int64_t *shape, vm_st_fill *fill, void *context);
/* Atomic. Tensors in the order added; the same input gives the same bytes. */
vmoer_status vm_st_writer_save(vm_st_writer *w, const char *path);

#endif
