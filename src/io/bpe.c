/* bpe.c: the merge table and heap BPE over a linked list of symbols. Heap entries are never removed when a symbol
 * changes: an entry whose pair no longer has the entry's rank is stale and skipped when it comes up. */
#include "io/bpe.h"

#include "base/memory.h"
#include "base/status.h"

/* ---- merges ---- */
#define NO_PAIR UINT64_MAX /* ids are not negative, so no pair has all bits set */
#define NO_RANK UINT32_MAX

typedef struct vm_merge_slot {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank;
    int32_t result;
} vm_merge_slot;

static uint64_t pair_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

/* The slot that holds `pair`, or the empty one where it belongs. */
static vm_merge_slot *find_slot(const vm_merges *m, uint64_t pair) {
    uint64_t h = pair * 0x9e3779b97f4a7c15u; /* odd multiplier; the high half mixes both ids */
    size_t i = (size_t)(h ^ h >> 32) & (m->capacity - 1);
    while (m->slots[i].pair != pair && m->slots[i].pair != NO_PAIR) i = (i + 1) & (m->capacity - 1);
    return &m->slots[i];
}

vmoer_status vm_merges_init(vm_merges *m, size_t n) {
    *m = (vm_merges){.capacity = 16};
    if (n > UINT32_MAX / 4) return vm_error(VMOER_ERROR_LIMIT, "%zu merges: too many", n);
    while (m->capacity < 2 * n) m->capacity *= 2;
    m->slots = vm_malloc(m->capacity, sizeof *m->slots);
    if (!m->slots) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu merges", n);
    for (size_t i = 0; i < m->capacity; i++) m->slots[i] = (vm_merge_slot){NO_PAIR, NO_RANK, -1};
    return VMOER_OK;
}

void vm_merges_free(vm_merges *m) {
    vm_free(m->slots);
    *m = (vm_merges){0};
}

bool vm_merges_add(vm_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t result) {
    vm_merge_slot *slot = find_slot(m, pair_of(left, right));
    if (slot->pair != NO_PAIR) return false;
    *slot = (vm_merge_slot){pair_of(left, right), rank, result};
    return true;
}

/* ---- one piece ---- */
typedef struct vm_bpe_symbol {
    int32_t id;             /* -1: merged into the symbol before it */
    int32_t previous, next; /* indices; -1 at the ends */
} vm_bpe_symbol;

void vm_bpe_free(vm_bpe *b) {
    vm_free(b->symbols);
    vm_free(b->heap);
    *b = (vm_bpe){0};
}

vmoer_status vm_bpe_begin(vm_bpe *b, size_t n) {
    b->n_symbols = b->n_heap = 0;
    void *symbols = b->symbols, *heap = b->heap;
    /* n - 1 pairs to start with, and every merge takes one entry off and puts at most two on */
    bool grown = vm_grow(&symbols, &b->symbols_capacity, n, sizeof *b->symbols);
    b->symbols = symbols;
    grown = grown && vm_grow(&heap, &b->heap_capacity, 2 * n, sizeof *b->heap);
    b->heap = heap;
    return grown ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory to tokenize a piece of %zu bytes", n);
}

void vm_bpe_push(vm_bpe *b, int32_t id) {
    int32_t i = (int32_t)b->n_symbols++;
    b->symbols[i] = (vm_bpe_symbol){id, i - 1, -1};
    if (i > 0) b->symbols[i - 1].next = i;
}

/* The merge of a symbol with the next one; rank NO_RANK: there is none. */
static vm_merge_slot merge_at(const vm_bpe *b, const vm_merges *m, int32_t left) {
    const vm_bpe_symbol *s = &b->symbols[left];
    if (s->id < 0 || s->next < 0) return (vm_merge_slot){NO_PAIR, NO_RANK, -1};
    return *find_slot(m, pair_of(s->id, b->symbols[s->next].id));
}

static void heap_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t value = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

static void heap_push(vm_bpe *b, uint64_t value) {
    size_t i = b->n_heap++;
    for (; i > 0 && b->heap[(i - 1) / 2] > value; i = (i - 1) / 2) b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = value;
}

static void push_pair(vm_bpe *b, const vm_merges *m, int32_t left) {
    if (left < 0) return;
    uint32_t rank = merge_at(b, m, left).rank;
    if (rank != NO_RANK) heap_push(b, (uint64_t)rank << 32 | (uint32_t)left);
}

void vm_bpe_merge(vm_bpe *b, const vm_merges *m) {
    for (size_t i = 0; i + 1 < b->n_symbols; i++) push_pair(b, m, (int32_t)i);
    while (b->n_heap > 0) {
        uint64_t top = b->heap[0];
        b->heap[0] = b->heap[--b->n_heap];
        heap_down(b->heap, b->n_heap, 0);
        int32_t left = (int32_t)(uint32_t)top;
        vm_merge_slot merge = merge_at(b, m, left);
        if (merge.rank != (uint32_t)(top >> 32)) continue;
        vm_bpe_symbol *s = &b->symbols[left], *gone = &b->symbols[s->next];
        s->id = merge.result;
        s->next = gone->next;
        gone->id = -1;
        if (s->next >= 0) b->symbols[s->next].previous = left;
        push_pair(b, m, s->previous);
        push_pair(b, m, left);
    }
}

bool vm_bpe_next(const vm_bpe *b, size_t *at, int32_t *id) {
    while (*at < b->n_symbols && b->symbols[*at].id < 0) ++*at;
    if (*at >= b->n_symbols) return false;
    *id = b->symbols[(*at)++].id;
    return true;
}
