/* lora.c: see lora.h. Walks layers, sites and slots; slot i of a site is LoRA i of its projection. */
#include "train/lora.h"

#include "base/rng.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_RANK = 4096, TARGET_SITES = VM_SITE_EXPERT_OUT + 1 /* the sites below, which no target is above */ };

/* ---- attaching ---- */

static const struct {
    const char *name;
    unsigned sites;
} known_targets[] = {
    {"attention", 1u << VM_SITE_QKV | 1u << VM_SITE_ATTENTION_OUT},
    {"experts",
     1u << VM_SITE_SHARED_IN | 1u << VM_SITE_SHARED_OUT | 1u << VM_SITE_EXPERT_IN | 1u << VM_SITE_EXPERT_OUT},
    {"shared", 1u << VM_SITE_SHARED_IN | 1u << VM_SITE_SHARED_OUT},
    {"router", 1u << VM_SITE_ROUTER},
};

/* A set of sites, bit by bit. */
static vmoer_status parse_targets(const char *targets, unsigned *out) {
    *out = 0;
    for (const char *p = targets;; p++) {
        size_t length = strcspn(p, ",");
        unsigned sites = 0;
        for (size_t i = 0; i < sizeof known_targets / sizeof known_targets[0]; i++)
            if (strlen(known_targets[i].name) == length && strncmp(known_targets[i].name, p, length) == 0)
                sites = known_targets[i].sites;
        if (!sites)
            return vm_error(VMOER_ERROR_ARGUMENT, "LoRA target \"%.*s\" is not attention, shared, experts or router",
                            (int)(length < 80 ? length : 80), p);
        *out |= sites;
        p += length;
        if (!*p) return VMOER_OK;
    }
}

typedef struct attach_context {
    vm_model *m;
    int rank;
    float scale;
    uint64_t seed;
    vm_pool *pool;
} attach_context;

static int count_experts(const vm_model *m, const vm_slot *slot) { return slot->per_expert ? m->config.n_experts : 1; }

static vmoer_status attach_slot(const attach_context *c, int layer, vm_site site, int index, const vm_slot *slot,
                                int expert) {
    char name[128];
    vm_linear *l = vm_model_linear(c->m, layer, site, expert);
    if (slot->per_expert)
        snprintf(name, sizeof name, "%.95s.%d", slot->name, expert);
    else
        snprintf(name, sizeof name, "%.95s", slot->name);
    vm_lora *lora;
    VM_TRY(vm_linear_add_lora(l, name, slot->row, slot->rows, c->rank, c->scale, &lora));
    /* The stream is the tensor's place in the model, so that its values do not depend on what else is attached. */
    uint32_t stream = ((uint32_t)layer * TARGET_SITES + (uint32_t)site) * VM_MAX_LORA + (uint32_t)index;
    stream = stream * (uint32_t)count_experts(c->m, slot) + (uint32_t)expert;
    vm_rng rng = vm_rng_start(c->seed, VM_RNG_INIT, stream);
    double bound = 1 / sqrt(l->in);
    for (size_t i = 0; i < vm_param_size(&lora->a); i++)
        lora->a.value[i] = (float)(bound * (2 * vm_rng_uniform(&rng) - 1));
    return VMOER_OK;
}

static vmoer_status attach_site(const attach_context *c, int layer, vm_site site, int *attached) {
    vm_slot slots[VM_MAX_LORA];
    int n = vm_model_slots(&c->m->config, layer, site, slots);
    if (n == 0) return VMOER_OK;
    for (int expert = 0; expert < count_experts(c->m, &slots[0]); expert++) {
        for (int i = 0; i < n; i++) VM_TRY(attach_slot(c, layer, site, i, &slots[i], expert));
        VM_TRY(vm_linear_refresh(vm_model_linear(c->m, layer, site, expert), c->pool));
        *attached += n;
    }
    return VMOER_OK;
}

/* sites: a set, bit by bit. */
static vmoer_status check(const char *targets, int rank, double alpha, unsigned *sites) {
    VM_TRY(parse_targets(targets, sites));
    if (rank < 1 || rank > MAX_RANK)
        return vm_error(VMOER_ERROR_ARGUMENT, "LoRA rank %d is outside 1..%d", rank, MAX_RANK);
    return isfinite(alpha) ? VMOER_OK : vm_error(VMOER_ERROR_ARGUMENT, "LoRA alpha %g is not a finite number", alpha);
}

vmoer_status vm_lora_check(const char *targets, int rank, double alpha) {
    unsigned sites;
    return check(targets, rank, alpha, &sites);
}

vmoer_status vm_lora_attach(vm_model *m, const char *targets, int rank, double alpha, uint64_t seed, vm_pool *pool) {
    unsigned sites;
    int attached = 0;
    VM_TRY(check(targets, rank, alpha, &sites));
    if (m->backward_from != 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "LoRA needs a model loaded with its whole backward pass");
    attach_context c = {.m = m, .rank = rank, .scale = (float)(alpha / rank), .seed = seed, .pool = pool};
    for (int layer = 0; layer < m->config.n_layers; layer++)
        for (int site = 0; site < VM_SITE_COUNT; site++)
            if (sites >> site & 1) VM_TRY(attach_site(&c, layer, (vm_site)site, &attached));
    if (!attached)
        return vm_error(VMOER_ERROR_ARGUMENT, "the model has nothing that LoRA targets \"%.80s\" name", targets);
    m->first_trained = 0;
    return VMOER_OK;
}

/* ---- saving ---- */

/* The modules to write; their pointer arrays live in the arena. */
typedef struct collection {
    vm_arena *arena;
    vm_adapter_module *items;
    size_t capacity;
    int n;
    float scale; /* of the first one; rank is items[0].rank */
} collection;

/* The LoRA of a slot, NULL if it has none. */
static const vm_lora *find_lora(const vm_model *m, int layer, vm_site site, const vm_slot *slot, int expert) {
    /* The model is only read: vm_model_linear has no const twin. */
    const vm_linear *l = vm_model_linear((vm_model *)(uintptr_t)m, layer, site, expert);
    for (int i = 0; i < l->n_lora; i++)
        if (l->lora[i]->row == slot->row && l->lora[i]->rows == slot->rows) return l->lora[i];
    return NULL;
}

static vmoer_status collect_slot(collection *c, const vm_model *m, int layer, vm_site site, const vm_slot *slot) {
    const vm_lora *first = find_lora(m, layer, site, slot, 0);
    if (!first) return VMOER_OK;
    int n = count_experts(m, slot);
    const float **a = vm_arena_alloc(c->arena, (size_t)n, sizeof *a),
                **b = vm_arena_alloc(c->arena, (size_t)n, sizeof *b);
    const char *module = vm_arena_strndup(c->arena, slot->name, strlen(slot->name));
    if (!a || !b || !module || !vm_grow((void **)&c->items, &c->capacity, (size_t)c->n + 1, sizeof *c->items))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the adapter's modules");
    for (int e = 0; e < n; e++) {
        const vm_lora *lora = find_lora(m, layer, site, slot, e);
        if (!lora || lora->rank != first->rank)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: the experts have LoRA of different ranks", module);
        a[e] = lora->a.value;
        b[e] = lora->b.value;
    }
    if (c->n == 0) c->scale = first->scale;
    c->items[c->n++] = (vm_adapter_module){.module = module,
                                           .rows = first->b.rows,
                                           .in = first->a.cols,
                                           .rank = first->rank,
                                           .n_experts = slot->per_expert ? n : 0,
                                           .heads = slot->heads,
                                           .a = a,
                                           .b = b};
    return VMOER_OK;
}

static vmoer_status collect(collection *c, const vm_model *m) {
    vm_slot slots[VM_MAX_LORA];
    for (int layer = 0; layer < m->config.n_layers; layer++)
        for (int site = 0; site < VM_SITE_COUNT; site++) {
            int n = vm_model_slots(&m->config, layer, (vm_site)site, slots);
            for (int i = 0; i < n; i++) VM_TRY(collect_slot(c, m, layer, (vm_site)site, &slots[i]));
        }
    return c->n ? VMOER_OK : vm_error(VMOER_ERROR_ARGUMENT, "the model has no LoRA to save");
}

/* alpha as the user gave it, where it has at most three decimals: the scale is a float, alpha / rank rounded. */
static double recover_alpha(float scale, int rank) {
    double alpha = (double)scale * rank, rounded = round(alpha * 1000) / 1000;
    return (float)(rounded / rank) == scale ? rounded : alpha;
}

/* To `dir`, or into `w` where that is given. */
static vmoer_status save(const vm_model *m, const char *dir, vm_st_writer *w, const char *dtype) {
    collection c = {.arena = vm_arena_create()};
    vmoer_status status;
    if (!c.arena) return vm_error(VMOER_ERROR_MEMORY, "no memory for the adapter's modules");
    VM_GOTO(collect(&c, m));
    vm_adapter_info info = {.base_name = m->config.name,
                            .base_fingerprint = m->fingerprint,
                            .rank = c.items[0].rank,
                            .alpha = recover_alpha(c.scale, c.items[0].rank),
                            .dtype = dtype};
    status = w ? vm_adapter_put(w, &info, c.items, c.n) : vm_adapter_save(dir, &info, c.items, c.n);
done:
    vm_arena_free(c.arena);
    vm_free(c.items);
    return status;
}

vmoer_status vm_lora_put(const vm_model *m, vm_st_writer *w, const char *dtype) { return save(m, NULL, w, dtype); }

vmoer_status vm_lora_save(const vm_model *m, const char *dir, const char *dtype) { return save(m, dir, NULL, dtype); }
