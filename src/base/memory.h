/* memory.h: checked allocation and arenas. Nothing here aborts: NULL means out of memory. */
#ifndef VM_BASE_MEMORY_H
#define VM_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* count * size zeroed bytes, 64-byte aligned; NULL on overflow or lack of memory. Free with vm_free. */
void *vm_calloc(size_t count, size_t size);
/* As vm_calloc, not zeroed. */
void *vm_malloc(size_t count, size_t size);
void vm_free(void *p); /* takes NULL */
char *vm_strdup(const char *text);
char *vm_strndup(const char *text, size_t length); /* NUL-terminated copy */
/* Grows an array of `size`-byte elements to hold at least `need`; doubles *capacity. False: out of memory, array unchanged. */
bool vm_grow(void **array, size_t *capacity, size_t need, size_t size);

/* out = a * b (or a + b); false on overflow. */
static inline bool vm_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool vm_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* a / b rounded up, a >= 0, b > 0. */
static inline int vm_ceil_div(int a, int b) { return (a + b - 1) / b; }
static inline int vm_at_most(int value, int limit) { return value < limit ? value : limit; }

/* Memory of one lifetime (a model, a step): allocate piecewise, free at once. Blocks are 64-byte aligned. */
typedef struct vm_arena vm_arena;
vm_arena *vm_arena_create(void);                               /* NULL: out of memory */
void *vm_arena_alloc(vm_arena *arena, size_t count, size_t size); /* not zeroed; NULL: out of memory or overflow */
/* [rows, columns] of them, not zeroed. NULL: out of memory or overflow, and *ok becomes false (it is left alone otherwise), so that a list of arrays is
 * asked for as one. */
static inline float *vm_arena_floats(vm_arena *arena, size_t rows, size_t columns, bool *ok) {
    size_t n;
    float *p = vm_mul(rows, columns, &n) ? (float *)vm_arena_alloc(arena, n, sizeof *p) : NULL;
    *ok = *ok && p;
    return p;
}
char *vm_arena_strndup(vm_arena *arena, const char *text, size_t length);
void vm_arena_reset(vm_arena *arena); /* keeps the memory for reuse */
size_t vm_arena_bytes(const vm_arena *arena);
void vm_arena_free(vm_arena *arena); /* takes NULL */

#endif
