/* gguf.h: GGUF model files (v2, v3; little-endian), read by map and written. Every input is hostile: each length is
 * checked against the bytes left before anything is allocated; errors name the key or tensor and the offset. GGUF's keys and
 * tensor names are this library's one vocabulary for models: a Hugging Face folder is read as if it were such a file (hf.h).
 * Limits: 100,000 keys, 1,000,000 tensors, arrays of 16M elements, strings of 64 MiB, alignment a power of two <= 1 MiB.
 * Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md */
#ifndef VM_IO_GGUF_H
#define VM_IO_GGUF_H

#include "base/dtype.h"
#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stdint.h>

/* GPT-OSS's experts in a folder: matrices that have the rows of `count` tensors in turn, row i of the turn-th at i * count + turn. Either by columns,
 * [ne[0]][count ne[1]] elements, or in MXFP4 with the scales apart: blocks [count ne[1]][ne[0] / 32][16], byte j with elements 2 j (low) and 2 j + 1. */
typedef struct vm_gguf_turns {
    int turn, count;
    const uint8_t *const *scales; /* [ne[2]] of [count ne[1]][ne[0] / 32]; NULL: by columns */
} vm_gguf_turns;

typedef struct vm_gguf_tensor {
    const char *name;    /* NUL-terminated */
    uint32_t type;       /* vm_dtype, or an id this library knows by size only */
    int n_dims;          /* 1..4 */
    int64_t ne[4];       /* ne[0] is the contiguous dimension; unused are 1 */
    const uint8_t *data; /* in the map, as long as the vm_gguf lives; NULL where `matrices` has it */
    size_t size;         /* bytes */
    uint64_t offset;     /* of data in the file; 0 in a folder */
    /* A folder's tensors may lie otherwise than a file's; vm_gguf_copy_rows and vm_gguf_read_rows know how: */
    const uint8_t *const *matrices; /* [ne[2]] where each expert's ne[1] rows begin; NULL: one after the other in data */
    int halves; /* > 0: so many heads' rows are in halves, where a file has them interleaved: Q and K (halves.h) */
    const vm_gguf_turns *turns; /* NULL: rows lie in one piece, one after the other */
} vm_gguf_tensor;

typedef enum vm_gguf_type {
    VM_GGUF_U8 = 0, VM_GGUF_I8, VM_GGUF_U16, VM_GGUF_I16, VM_GGUF_U32, VM_GGUF_I32, VM_GGUF_F32, VM_GGUF_BOOL,
    VM_GGUF_STRING, VM_GGUF_ARRAY, VM_GGUF_U64, VM_GGUF_I64, VM_GGUF_F64
} vm_gguf_type;

typedef struct vm_gguf vm_gguf;
/* A file; the first of several that are a model's shards (NAME-00001-of-0000N.gguf), which opens all; or a folder of Hugging Face's layout. */
vmoer_status vm_gguf_open(const char *path, vm_gguf **out);
/* Same, from memory that outlives the vm_gguf (fuzzing, tests). `where` names it in errors. */
vmoer_status vm_gguf_open_memory(const void *data, size_t size, const char *where, vm_gguf **out);
void vm_gguf_free(vm_gguf *g); /* takes NULL */
const char *vm_gguf_path(const vm_gguf *g);
/* The model's bytes: those before the tensor data (header, metadata, tensor list; a folder's config.json), and all, data and further files included. */
size_t vm_gguf_header_size(const vm_gguf *g);
size_t vm_gguf_file_size(const vm_gguf *g);
/* Where byte `offset` of them is; *size: how many stand there in one piece. NULL past the end. */
const uint8_t *vm_gguf_bytes(const vm_gguf *g, size_t offset, size_t *size);

size_t vm_gguf_tensor_count(const vm_gguf *g);
const vm_gguf_tensor *vm_gguf_tensor_at(const vm_gguf *g, size_t index);
const vm_gguf_tensor *vm_gguf_find_tensor(const vm_gguf *g, const char *name); /* NULL if absent */
/* The rows from `row` on, of ne[0] elements each (ne[1] to ne[3] in one), as a file has them: into out, so many of the size bytes of all. */
void vm_gguf_copy_rows(const vm_gguf_tensor *t, size_t row, size_t rows, void *out);
/* The rows from `row` on as f32: out[rows, ne[0]]. False: of a type that is known by its size only. */
bool vm_gguf_read_rows(const vm_gguf_tensor *t, size_t row, size_t rows, float *out);
/* Matrix `index` (of ne[1] rows; below ne[2] * ne[3]) was read, and its pages of the file need not stay in memory. A later look reads them again. Only of a
 * file's own bytes: not of a vector, of which a folder may hold a copy, nor of a file in memory. */
void vm_gguf_release(const vm_gguf_tensor *t, size_t index);

/* A block of MXFP4 as turns->scales has it, and as a file has it. */
void vm_mxfp4_from_pairs(const uint8_t *pairs, uint8_t scale, uint8_t block[1 + 16]);
void vm_mxfp4_to_pairs(const uint8_t block[1 + 16], uint8_t *pairs); /* block[0] is the scale */

size_t vm_gguf_key_count(const vm_gguf *g);
const char *vm_gguf_key_at(const vm_gguf *g, size_t index);
bool vm_gguf_has_key(const vm_gguf *g, const char *key);
/* Typed access; any integer type that holds the value is accepted. A missing key or wrong type is an error that names both. */
vmoer_status vm_gguf_get_u32(const vm_gguf *g, const char *key, uint32_t *out);
vmoer_status vm_gguf_get_f32(const vm_gguf *g, const char *key, float *out);
vmoer_status vm_gguf_get_bool(const vm_gguf *g, const char *key, bool *out);
vmoer_status vm_gguf_get_string(const vm_gguf *g, const char *key, const char **out, size_t *length); /* not NUL-terminated */
/* Arrays: element type and count, then elements. */
vmoer_status vm_gguf_get_array(const vm_gguf *g, const char *key, vm_gguf_type *element, size_t *count);
vmoer_status vm_gguf_array_string(const vm_gguf *g, const char *key, size_t index, const char **out, size_t *length);
vmoer_status vm_gguf_array_f32(const vm_gguf *g, const char *key, size_t index, float *out);
vmoer_status vm_gguf_array_i32(const vm_gguf *g, const char *key, size_t index, int32_t *out);

/* ---- writer: collect, then write atomically; tensor data must stay valid until vm_gguf_writer_save ---- */
typedef struct vm_gguf_writer vm_gguf_writer;
vm_gguf_writer *vm_gguf_writer_create(void); /* NULL: out of memory */
void vm_gguf_writer_free(vm_gguf_writer *w);
/* Setting a key again replaces it. */
vmoer_status vm_gguf_writer_u32(vm_gguf_writer *w, const char *key, uint32_t value);
vmoer_status vm_gguf_writer_f32(vm_gguf_writer *w, const char *key, float value);
vmoer_status vm_gguf_writer_bool(vm_gguf_writer *w, const char *key, bool value);
vmoer_status vm_gguf_writer_string(vm_gguf_writer *w, const char *key, const char *value);
/* Arrays: [count] texts of so many bytes each; and numbers. */
vmoer_status vm_gguf_writer_strings(vm_gguf_writer *w, const char *key, size_t count, const char *const *texts, const size_t *lengths);
vmoer_status vm_gguf_writer_i32s(vm_gguf_writer *w, const char *key, size_t count, const int32_t *values);
vmoer_status vm_gguf_writer_f32s(vm_gguf_writer *w, const char *key, size_t count, const float *values);
/* Copies every key of g that starts with `prefix` ("" for all). */
vmoer_status vm_gguf_writer_copy_keys(vm_gguf_writer *w, const vm_gguf *g, const char *prefix);
vmoer_status vm_gguf_writer_tensor(vm_gguf_writer *w, const char *name, uint32_t type, int n_dims, const int64_t *ne, const void *data);
/* The same for data that is made while the file is written: saving asks for rows [row, row + rows) of ne[0] elements (all other dimensions in one), from 0
 * rising, a few MiB at a time, into out. An error ends the saving; no file appears. */
typedef vmoer_status vm_gguf_fill(void *context, size_t row, size_t rows, void *out);
vmoer_status vm_gguf_writer_rows(vm_gguf_writer *w, const char *name, uint32_t type, int n_dims, const int64_t *ne, vm_gguf_fill *fill, void *context);
/* A tensor of a model as it is stored. */
vmoer_status vm_gguf_writer_copy(vm_gguf_writer *w, const vm_gguf_tensor *t);
vmoer_status vm_gguf_writer_save(vm_gguf_writer *w, const char *path);
/* What the file begins with, the tensor data left out; freed by the caller with vm_free. */
vmoer_status vm_gguf_writer_header(const vm_gguf_writer *w, uint8_t **out, size_t *size);

#endif
