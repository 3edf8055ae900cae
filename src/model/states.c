/* states.c: see states.h. A hash table with open addressing; what was kept first stays: with a shuffled order a part of
 * the questions kept for good is found more often than any that would be replaced. */
#include "model/states.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

typedef struct entry {
    uint64_t hash;
    int n;
    int32_t *ids;      /* [n] */
    vm_token_key *key; /* [n] */
    float *h;          /* [n, D] */
} entry;

struct vm_states {
    int layer;
    size_t dim, memory, bytes;
    entry *table; /* [slots], a power of two; n == 0: free */
    size_t slots, used;
};

vmoer_status vm_states_create(int layer, int dim, size_t memory, vm_states **out) {
    vm_states *s = vm_calloc(1, sizeof *s);
    if (!s) return vm_error(VMOER_ERROR_MEMORY, "no memory for kept states");
    *s = (vm_states){.layer = layer, .dim = (size_t)dim, .memory = memory};
    *out = s;
    return VMOER_OK;
}

void vm_states_free(vm_states *s) {
    if (!s) return;
    for (size_t i = 0; i < s->slots; i++) vm_free(s->table[i].ids);
    vm_free(s->table);
    vm_free(s);
}

int vm_states_layer(const vm_states *s) { return s->layer; }

size_t vm_states_bytes(const vm_states *s) { return s->bytes; }

/* FNV-1a over what decides a token's state: itself and its place in the question. */
static uint64_t hash_of(int n, const int32_t *ids, const vm_token_key *keys) {
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < n; i++) {
        const uint32_t words[2] = {(uint32_t)ids[i], (uint32_t)keys[i].part << 16 | keys[i].position};
        for (int w = 0; w < 2; w++) hash = (hash ^ words[w]) * 1099511628211u;
    }
    return hash;
}

static bool same(const entry *e, uint64_t hash, int n, const int32_t *ids, const vm_token_key *keys) {
    if (e->hash != hash || e->n != n || memcmp(e->ids, ids, (size_t)n * sizeof *ids) != 0) return false;
    for (int i = 0; i < n; i++)
        if (e->key[i].part != keys[i].part || e->key[i].position != keys[i].position) return false;
    return true;
}

/* The question's slot, or the free one where it would be. There always is a free one. */
static entry *slot_of(const vm_states *s, uint64_t hash, int n, const int32_t *ids, const vm_token_key *keys) {
    size_t i = (size_t)(hash ^ hash >> 32) & (s->slots - 1);
    while (s->table[i].n && !same(&s->table[i], hash, n, ids, keys)) i = (i + 1) & (s->slots - 1);
    return &s->table[i];
}

const float *vm_states_find(const vm_states *s, int n, const int32_t *ids, const vm_token_key *keys) {
    return s->slots ? slot_of(s, hash_of(n, ids, keys), n, ids, keys)->h : NULL;
}

static bool has_room(const vm_states *s, size_t more) { return s->memory == 0 || s->bytes + more <= s->memory; }

/* At most half full. */
static bool grow(vm_states *s) {
    if (2 * (s->used + 1) <= s->slots) return true;
    vm_states larger = *s;
    larger.slots = s->slots ? 2 * s->slots : 64;
    size_t more = (larger.slots - s->slots) * sizeof *s->table;
    if (!has_room(s, more) || !(larger.table = vm_calloc(larger.slots, sizeof *larger.table))) return false;
    for (size_t i = 0; i < s->slots; i++) {
        const entry *e = &s->table[i];
        if (e->n) *slot_of(&larger, e->hash, e->n, e->ids, e->key) = *e;
    }
    vm_free(s->table);
    larger.bytes += more;
    *s = larger;
    return true;
}

void vm_states_put(vm_states *s, int n, const int32_t *ids, const vm_token_key *keys, const float *h) {
    size_t count = (size_t)n, of_ids = count * sizeof *ids, of_keys = count * sizeof *keys,
           bytes = of_ids + of_keys + count * s->dim * sizeof *h;
    if (!grow(s) || !has_room(s, bytes)) return;
    uint64_t hash = hash_of(n, ids, keys);
    entry *e = slot_of(s, hash, n, ids, keys);
    char *block = e->n ? NULL : vm_malloc(1, bytes); /* one for all three; a batch may hold a question twice */
    if (!block) return;
    *e = (entry){.hash = hash,
                 .n = n,
                 .ids = (int32_t *)(void *)block,
                 .key = (vm_token_key *)(void *)(block + of_ids),
                 .h = (float *)(void *)(block + of_ids + of_keys)};
    memcpy(e->ids, ids, of_ids);
    memcpy(e->key, keys, of_keys);
    memcpy(e->h, h, bytes - of_ids - of_keys);
    s->bytes += bytes;
    s->used++;
}
