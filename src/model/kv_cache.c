/* kv_cache.c: see kv_cache.h. */
#include "model/kv_cache.h"

#include "base/status.h"
#include "kernels/kernels.h"

#include <string.h>

enum {
    FIRST_ROOM = 64, /* tokens */
    ALONE = 16       /* tokens that are not worth another thread */
};

static int panels(const vm_kv_cache *c) { return c->n_layers * c->n_kv_heads; }

void vm_kv_cache_free(vm_kv_cache *c) {
    if (!c) return;
    for (int i = 0; c->keys && c->values && i < panels(c); i++) {
        vm_free(c->keys[i].data);
        vm_free(c->values[i].data);
    }
    vm_free(c->keys);
    vm_free(c->values);
    vm_free(c);
}

vmoer_status vm_kv_cache_create(int n_layers, int n_kv_heads, int head_dim, int limit, size_t most_bytes,
                                vm_kv_cache **out) {
    vm_kv_cache *c = vm_calloc(1, sizeof *c);
    if (!c) return vm_error(VMOER_ERROR_MEMORY, "no memory for a sequence");
    *c = (vm_kv_cache){
        .n_layers = n_layers, .n_kv_heads = n_kv_heads, .head_dim = head_dim, .limit = limit, .most_bytes = most_bytes};
    c->keys = vm_calloc((size_t)panels(c), sizeof *c->keys);
    c->values = vm_calloc((size_t)panels(c), sizeof *c->values);
    if (!c->keys || !c->values) {
        vm_kv_cache_free(c);
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a sequence");
    }
    *out = c;
    return VMOER_OK;
}

size_t vm_kv_cache_bytes(const vm_kv_cache *c, int tokens) {
    return (size_t)panels(c) *
           (vm_panel_bytes(VM_COMPUTE_F32, c->head_dim, tokens) + vm_panel_bytes(VM_COMPUTE_F32, tokens, c->head_dim));
}

/* A panel [k, n] that begins with what is in p. Columns are whole panels of the layout one after the other; rows are
 * not. */
static bool grow(vm_panel *p, int k, int n) {
    vm_panel wider = {.type = VM_COMPUTE_F32, .k = k, .n = n};
    wider.data = vm_calloc(1, vm_panel_bytes(VM_COMPUTE_F32, k, n));
    if (!wider.data) return false;
    if (p->data && p->k == k)
        memcpy(wider.data, p->data, vm_panel_bytes(VM_COMPUTE_F32, k, p->n));
    else if (p->data)
        vm_panel_extend(&wider, p);
    vm_free(p->data);
    *p = wider;
    return true;
}

vmoer_status vm_kv_cache_reserve(vm_kv_cache *c, int tokens) {
    if (tokens <= c->capacity) return VMOER_OK;
    if (tokens > c->limit)
        return vm_error(VMOER_ERROR_LIMIT, "a sequence of %d tokens, the context is one of %d", tokens, c->limit);
    int room = c->capacity ? c->capacity : FIRST_ROOM;
    while (room < tokens && room < c->limit) room = room > c->limit / 2 ? c->limit : 2 * room;
    room = vm_at_most(room, c->limit);
    if (c->most_bytes && vm_kv_cache_bytes(c, room) > c->most_bytes) room = tokens;
    double gib = (double)vm_kv_cache_bytes(c, room) / (1 << 30);
    if (c->most_bytes && vm_kv_cache_bytes(c, room) > c->most_bytes)
        return vm_error(VMOER_ERROR_LIMIT, "the keys and values of %d tokens are %.3g GiB, more than the %.3g allowed",
                        tokens, gib, (double)c->most_bytes / (1 << 30));
    for (int i = 0; i < panels(c); i++)
        if (!grow(&c->keys[i], c->head_dim, room) || !grow(&c->values[i], room, c->head_dim))
            return vm_error(VMOER_ERROR_MEMORY, "no memory for the keys and values of %d tokens (%.3g GiB)", room, gib);
    c->capacity = room;
    return VMOER_OK;
}

typedef struct put_job {
    const vm_kv_cache *c;
    int layer, tokens;
    const float *k, *v;
    size_t ld;
} put_job;

static void put_head(void *context, int head, int worker) {
    (void)worker;
    const put_job *j = context;
    const vm_kv_cache *c = j->c;
    int panel = j->layer * c->n_kv_heads + head;
    size_t at = (size_t)(head * c->head_dim);
    vm_panel_set_columns(&c->keys[panel], c->length, j->tokens, j->k + at, j->ld);
    vm_panel_set_rows(&c->values[panel], c->length, j->tokens, j->v + at, j->ld);
}

void vm_kv_cache_put(vm_kv_cache *c, vm_pool *pool, int layer, int tokens, const float *k, const float *v, size_t ld) {
    put_job j = {c, layer, tokens, k, v, ld};
    vm_pool_run(tokens > ALONE ? pool : NULL, c->n_kv_heads, put_head, &j);
}

vm_past vm_kv_cache_past(const vm_kv_cache *c, int layer) {
    size_t first = (size_t)layer * (size_t)c->n_kv_heads;
    return (vm_past){.tokens = c->length, .keys = c->keys + first, .values = c->values + first};
}
