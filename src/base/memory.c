/* memory.c: everything is 64-byte aligned (a cache line, an AVX-512 register) and comes from posix_memalign,
 * so that vm_free is free. A request for nothing still gives a pointer: NULL always means a failure. */
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

void *vm_malloc(size_t count, size_t size) {
    size_t bytes;
    void *p;
    if (!vm_mul(count, size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    if (posix_memalign(&p, ALIGNMENT, bytes ? bytes : 1)) return NULL;
    return p;
}

void *vm_calloc(size_t count, size_t size) {
    void *p = vm_malloc(count, size);
    if (p) memset(p, 0, count * size);
    return p;
}

void vm_free(void *p) { free(p); }

char *vm_strndup(const char *text, size_t length) {
    size_t bytes;
    char *copy = vm_add(length, 1, &bytes) ? vm_malloc(bytes, 1) : NULL;
    if (!copy) return NULL;
    if (length) memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *vm_strdup(const char *text) { return vm_strndup(text, strlen(text)); }

bool vm_grow(void **array, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return true;
    size_t doubled = *capacity ? *capacity : 8;
    while (doubled < need) {
        if (!vm_mul(doubled, 2, &doubled)) return false;
    }
    void *grown = vm_malloc(doubled, size);
    if (!grown) return false;
    /* *array is in truth some other pointer type: read and written as bytes, so that no alias rule is bent. */
    void *old;
    memcpy(&old, array, sizeof old);
    if (old) memcpy(grown, old, *capacity * size);
    vm_free(old);
    memcpy(array, &grown, sizeof grown);
    *capacity = doubled;
    return true;
}

/* ---- arenas: a list of chunks, each at least as large as all before it together ---- */

typedef struct chunk {
    struct chunk *next;
    size_t size; /* bytes at data */
    size_t used;
    _Alignas(ALIGNMENT) unsigned char data[];
} chunk;

struct vm_arena {
    chunk *first, *current;
    size_t bytes; /* of all chunks */
};

enum { FIRST_CHUNK = 64 * 1024 };

vm_arena *vm_arena_create(void) { return vm_calloc(1, sizeof(vm_arena)); }

static void *take(chunk *c, size_t bytes) {
    if (!c || c->size - c->used < bytes) return NULL;
    void *p = c->data + c->used;
    c->used += bytes;
    return p;
}

void *vm_arena_alloc(vm_arena *arena, size_t count, size_t size) {
    size_t bytes;
    if (!vm_mul(count, size, &bytes) || !vm_add(bytes, ALIGNMENT - 1, &bytes)) return NULL;
    bytes &= ~(size_t)(ALIGNMENT - 1);
    if (!bytes) bytes = ALIGNMENT;

    /* After a reset the same requests find the same chunks again: step forward until one fits. */
    void *p = take(arena->current, bytes);
    while (!p && arena->current && arena->current->next) {
        arena->current = arena->current->next;
        p = take(arena->current, bytes);
    }
    if (p) return p;

    size_t room = arena->bytes > FIRST_CHUNK ? arena->bytes : FIRST_CHUNK;
    if (room < bytes) room = bytes;
    size_t total;
    if (!vm_add(room, sizeof(chunk), &total)) return NULL;
    chunk *c = vm_malloc(total, 1);
    if (!c) return NULL;
    *c = (chunk){.size = room};
    if (arena->current)
        arena->current->next = c;
    else
        arena->first = c;
    arena->current = c;
    arena->bytes += room;
    return take(c, bytes);
}

char *vm_arena_strndup(vm_arena *arena, const char *text, size_t length) {
    size_t bytes;
    char *copy = vm_add(length, 1, &bytes) ? vm_arena_alloc(arena, bytes, 1) : NULL;
    if (!copy) return NULL;
    if (length) memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

void vm_arena_reset(vm_arena *arena) {
    for (chunk *c = arena->first; c; c = c->next) c->used = 0;
    arena->current = arena->first;
}

size_t vm_arena_bytes(const vm_arena *arena) { return arena->bytes; }

void vm_arena_free(vm_arena *arena) {
    if (!arena) return;
    for (chunk *c = arena->first, *next; c; c = next) {
        next = c->next;
        vm_free(c);
    }
    vm_free(arena);
}
