/* bpe.h: byte-pair merging of one piece. Always merges the pair of lowest rank, the leftmost of equals, with a heap:
 * n log n in the piece's length, so that a megabyte of one letter costs no more than a megabyte of prose. */
#ifndef VM_IO_BPE_H
#define VM_IO_BPE_H

#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which pairs merge, in which order, into what. Read-only after the last add, so shared by threads. */
typedef struct vm_merges {
    struct vm_merge_slot *slots; /* [capacity], open addressing by pair */
    size_t capacity;             /* a power of two, at least twice the number of merges */
} vm_merges;
/* Room for n merges; vm_merges_free in any case. */
vmoer_status vm_merges_init(vm_merges *m, size_t n);
void vm_merges_free(vm_merges *m);
/* Adds a merge, at most n in all; those of one rank count as equals. False: the pair was there already. */
bool vm_merges_add(vm_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t result);

/* Memory one encoding call reuses for all its pieces; starts as {0}. */
typedef struct vm_bpe {
    struct vm_bpe_symbol *symbols;
    size_t n_symbols, symbols_capacity;
    uint64_t *heap; /* rank << 32 | index of the left symbol, smallest first */
    size_t n_heap, heap_capacity;
} vm_bpe;
void vm_bpe_free(vm_bpe *b);
/* Starts a piece of at most n symbols (n < 2^31). */
vmoer_status vm_bpe_begin(vm_bpe *b, size_t n);
void vm_bpe_push(vm_bpe *b, int32_t id);
/* Merges the pushed symbols; then vm_bpe_next walks the ids left: start with *at = 0, false at the end. */
void vm_bpe_merge(vm_bpe *b, const vm_merges *m);
bool vm_bpe_next(const vm_bpe *b, size_t *at, int32_t *id);

#endif
