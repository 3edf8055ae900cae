/* kv_cache.h: the keys and values of a sequence's tokens, a layer and key-value head each, kept as the panels that attention multiplies with: a step
 * packs its own token and nothing else. Grows by doubling, up to a number of tokens and of bytes. */
#ifndef VM_MODEL_KV_CACHE_H
#define VM_MODEL_KV_CACHE_H

#include "model/attention.h"

typedef struct vm_kv_cache {
    int n_layers, n_kv_heads, head_dim;
    int limit;               /* most tokens */
    size_t most_bytes;       /* of all panels; 0: no bound */
    int length;              /* tokens whose keys and values are there, in every layer. Smaller: the later ones are forgotten */
    int capacity;            /* tokens there is room for */
    vm_panel *keys, *values; /* [n_layers, n_kv_heads], f32; keys: k = head_dim, n = capacity; values: k = capacity, n = head_dim */
} vm_kv_cache;

/* Empty. limit >= 1 */
vmoer_status vm_kv_cache_create(int n_layers, int n_kv_heads, int head_dim, int limit, size_t most_bytes, vm_kv_cache **out);
void vm_kv_cache_free(vm_kv_cache *c); /* takes NULL */
/* Room for so many tokens in all, which is there or VMOER_ERROR_LIMIT or _MEMORY says why not. What is in the cache stays. */
vmoer_status vm_kv_cache_reserve(vm_kv_cache *c, int tokens);
/* The keys and values of `tokens` tokens after the first c->length, in one layer, which there must be room for: a token's keys are k[token * ld], those of
 * its heads one after the other, the values v likewise. c->length stays: it is for when all layers have them. */
void vm_kv_cache_put(vm_kv_cache *c, vm_pool *pool, int layer, int tokens, const float *k, const float *v, size_t ld);
/* What attention in one layer takes of it. */
vm_past vm_kv_cache_past(const vm_kv_cache *c, int layer);
/* Bytes with room for so many tokens. */
size_t vm_kv_cache_bytes(const vm_kv_cache *c, int tokens);

#endif
