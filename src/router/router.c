/* router.c: the list of kinds, a router's config and its tensors. What they compute: route.c and the kinds' files. */
#include "router/router_internal.h"

#include "base/status.h"
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define KIND_ENTRY(name) &vm_router_kind_##name,
static const vm_router_kind *const kinds[] = {VM_ROUTER_KINDS(KIND_ENTRY)};
#undef KIND_ENTRY

const vm_router_kind *vm_router_kind_find(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    }
    return NULL;
}

/* ---- the numbers that only some kinds use ---- */

const vm_router_number_info vm_router_number_infos[VM_ROUTER_NUMBERS] = {
    [VM_ROUTER_RANK] = {"rank", true, offsetof(vm_router_config, rank)},
    [VM_ROUTER_MEMBERS] = {"members", true, offsetof(vm_router_config, members)},
    [VM_ROUTER_KEEP_EXPERTS] = {"keep_experts", true, offsetof(vm_router_config, keep_experts)},
    [VM_ROUTER_ROUTE_TEMPERATURE] = {"route_temperature", false, offsetof(vm_router_config, route_temperature)},
    [VM_ROUTER_NOISE] = {"noise", false, offsetof(vm_router_config, noise)},
};

double vm_router_get_number(const vm_router_config *c, vm_router_number which) {
    const void *at = (const char *)c + vm_router_number_infos[which].offset;
    return vm_router_number_infos[which].whole ? *(const int *)at : (double)*(const float *)at;
}

const char *vm_router_number_name(vm_router_number which) { return vm_router_number_infos[which].key; }

void vm_router_config_complete(vm_router_config *c) {
    const vm_router_kind *k = vm_router_kind_find(c->kind);
    for (int i = 0; k && i < VM_ROUTER_NUMBERS; i++) {
        void *at = (char *)c + vm_router_number_infos[i].offset;
        if (k->numbers[i].high == 0 || vm_router_get_number(c, (vm_router_number)i) != 0) continue;
        if (vm_router_number_infos[i].whole)
            *(int *)at = (int)k->numbers[i].start;
        else
            *(float *)at = (float)k->numbers[i].start;
    }
}

/* A number that the kind does not use was given: says who does. */
static vmoer_status refuse_number(const vm_router_kind *k, int which) {
    char users[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i]->numbers[which].high > 0 && used < sizeof users)
            used += (size_t)snprintf(users + used, sizeof users - used, "%s%s", used ? ", " : "", kinds[i]->name);
    }
    return vm_error(VMOER_ERROR_ARGUMENT, "%s: not a number of '%s'; of: %s", vm_router_number_infos[which].key,
                    k->name, used ? users : "no router");
}

static vmoer_status check_numbers(const vm_router_config *c, const vm_router_kind *k) {
    for (int i = 0; i < VM_ROUTER_NUMBERS; i++) {
        const vm_router_range *range = &k->numbers[i];
        double value = vm_router_get_number(c, (vm_router_number)i);
        if (range->high == 0) {
            if (value != 0) return refuse_number(k, i);
        } else if (!(value >= (double)(float)range->low &&
                     value <= (double)(float)range->high)) { /* floats' own bounds */
            return vm_error(VMOER_ERROR_LIMIT, "%s: %g is not in %g..%g", vm_router_number_infos[i].key, value,
                            range->low, range->high);
        }
    }
    return VMOER_OK;
}

static vmoer_status check_size(const char *key, int value, int low, int high) {
    if (value >= low && value <= high) return VMOER_OK;
    return vm_error(VMOER_ERROR_LIMIT, "%s: %d is not in %d..%d", key, value, low, high);
}

static vmoer_status check_layers(const vm_router_config *c) {
    for (int i = 0; i < c->n_layers; i++) {
        VM_TRY(check_size("layers", c->layers[i], 0, VM_ROUTER_MAX_LAYERS - 1));
        if (i > 0 && c->layers[i] <= c->layers[i - 1]) {
            return vm_error(VMOER_ERROR_ARGUMENT, "layers: %d after %d, must ascend", c->layers[i], c->layers[i - 1]);
        }
    }
    return VMOER_OK;
}

vmoer_status vm_router_config_check(const vm_router_config *c, const vm_router_kind **kind) {
    const vm_router_kind *k = memchr(c->kind, '\0', sizeof c->kind) ? vm_router_kind_find(c->kind) : NULL;
    if (!k) return vm_error(VMOER_ERROR_UNSUPPORTED, "kind: unknown router \"%.*s\"", (int)sizeof c->kind, c->kind);
    /* A kind without layers has no sizes either; whatever it carries must still be sane. */
    int low = k->has_layers ? 1 : 0;
    VM_TRY(check_size("layers: their number", c->n_layers, low, k->has_layers ? VM_ROUTER_MAX_LAYERS : 0));
    VM_TRY(check_layers(c));
    if (c->n_experts > k->max_experts && k->larger) {
        return vm_error(VMOER_ERROR_LIMIT, "n_experts: %d, '%s' takes at most %d; '%s' is for more", c->n_experts,
                        k->name, k->max_experts, k->larger);
    }
    VM_TRY(check_size("n_experts", c->n_experts, low, k->max_experts));
    VM_TRY(check_size("dim", c->dim, low, VM_ROUTER_MAX_DIM));
    VM_TRY(check_size("width", c->width, k->network == &vm_network_trunk, VM_ROUTER_MAX_WIDTH));
    VM_TRY(check_numbers(c, k));
    float least = k->has_kl ? expf(VM_RAW_LOW) : 0.0f, most = expf(VM_RAW_HIGH);
    if (!(c->initial_scale >= least && c->initial_scale <= most)) {
        return vm_error(VMOER_ERROR_LIMIT, "initial_scale: %g is not in %g..%g", (double)c->initial_scale,
                        (double)least, (double)most);
    }
    bool prior_ok = k->has_kl ? c->prior_scale >= 1e-6f && c->prior_scale <= 1e6f : isfinite(c->prior_scale);
    if (!prior_ok) return vm_error(VMOER_ERROR_LIMIT, "prior_scale: %g is not in 1e-6..1e6", (double)c->prior_scale);
    if (!(c->temperature >= 1e-6 && c->temperature <= 1e6)) {
        return vm_error(VMOER_ERROR_LIMIT, "temperature: %g is not in 1e-6..1e6", c->temperature);
    }
    *kind = k;
    return VMOER_OK;
}

void vm_router_param_name(const vm_router_config *config, int layer, const vm_router_tensor *t, char name[128]) {
    snprintf(name, 128, "layers.%d.%s", (int)config->layers[layer], t->name);
}

static vmoer_status make_params(vm_router *r, int layer) {
    vm_router_layer *l = &r->layers[layer];
    int slots = r->kind->network->slots;
    l->params = vm_arena_alloc(r->memory, (size_t)slots + 1, sizeof *l->params);
    if (!l->params) return vm_error(VMOER_ERROR_MEMORY, "router: out of memory");
    memset(l->params, 0, (size_t)slots * sizeof *l->params);
    for (int slot = 0; slot < slots; slot++) {
        vm_router_tensor t = r->kind->network->tensor(r->kind, &r->config, slot);
        vm_param *p = &l->params[slot];
        if (t.rows == 0) continue;
        vm_router_param_name(&r->config, layer, &t, p->name);
        p->rows = t.rows;
        p->cols = t.cols;
        p->decay = t.decay;
        p->value = vm_arena_alloc(r->memory, vm_param_size(p), sizeof(float));
        p->grad = t.carried ? NULL : vm_arena_alloc(r->memory, vm_param_size(p), sizeof(float));
        if (!p->value || (!p->grad && !t.carried)) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", p->name);
        memset(p->value, 0, vm_param_size(p) * sizeof(float));
        if (p->grad) memset(p->grad, 0, vm_param_size(p) * sizeof(float));
        r->list[r->n_params++] = p;
    }
    if (r->kind->network->start) r->kind->network->start(r, l, r->config.layers[layer]);
    return VMOER_OK;
}

static vmoer_status make_layers(vm_router *r) {
    size_t n = (size_t)r->config.n_layers;
    r->layers = vm_arena_alloc(r->memory, n, sizeof *r->layers);
    r->list = vm_arena_alloc(r->memory, n * (size_t)r->kind->network->slots + 1, sizeof *r->list);
    r->ones = vm_arena_alloc(r->memory, (size_t)r->config.width * VM_STRIP + 1, sizeof *r->ones);
    r->zeros = vm_arena_alloc(r->memory, (size_t)r->config.n_experts, sizeof *r->zeros);
    r->spare = vm_arena_alloc(r->memory, 1, sizeof *r->spare);
    if (r->layers) memset(r->layers, 0, n * sizeof *r->layers);
    if (r->spare) atomic_init(r->spare, NULL);
    if (!r->layers || !r->list || !r->ones || !r->zeros || !r->spare)
        return vm_error(VMOER_ERROR_MEMORY, "router: out of memory");
    for (size_t i = 0; i < n; i++) {
        atomic_init(&r->layers[i].draws, NULL);
        atomic_init(&r->layers[i].weights, NULL);
    }
    for (int i = 0; i < r->config.width * VM_STRIP; i++) r->ones[i] = 1.0f;
    memset(r->zeros, 0, (size_t)r->config.n_experts * sizeof *r->zeros);
    for (int i = 0; i < r->config.n_layers; i++) VM_TRY(make_params(r, i));
    return vm_router_pack(r);
}

vmoer_status vm_router_create(const vm_router_config *config, vm_router **out) {
    *out = NULL;
    const vm_router_kind *kind;
    VM_TRY_IN(vm_router_config_check(config, &kind), "router");
    vm_router *r = vm_calloc(1, sizeof *r);
    if (!r) return vm_error(VMOER_ERROR_MEMORY, "router: out of memory");
    r->config = *config;
    r->kind = kind;
    r->scale_outputs = kind->scale_outputs ? kind->scale_outputs(config) : 0;
    r->memory = vm_arena_create();
    r->work = vm_arena_create();
    vmoer_status status = VMOER_OK;
    if (!r->memory || !r->work) {
        status = vm_error(VMOER_ERROR_MEMORY, "router: out of memory");
    } else if (kind->has_layers) {
        status = make_layers(r);
    }
    if (status != VMOER_OK) {
        vm_router_free(r);
        return status;
    }
    *out = r;
    return VMOER_OK;
}

void vm_router_free(vm_router *r) {
    if (!r) return;
    for (int i = 0; r->layers && i < r->config.n_layers; i++) {
        vm_draw_table_free(atomic_load(&r->layers[i].draws));
        vm_weight_table_free(atomic_load(&r->layers[i].weights));
    }
    if (r->spare) vm_arena_free(atomic_load(r->spare));
    vm_arena_free(r->memory);
    vm_arena_free(r->work);
    vm_free(r);
}

const vm_router_config *vm_router_get_config(const vm_router *r) { return &r->config; }

void vm_router_set_temperature(vm_router *r, double temperature) { r->config.temperature = temperature; }

vm_router_layer *vm_router_layer_find(const vm_router *r, int layer) {
    int low = 0, high = r->config.n_layers;
    while (low < high) {
        int middle = (low + high) / 2;
        if (r->config.layers[middle] < layer) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < r->config.n_layers && r->config.layers[low] == layer ? &r->layers[low] : NULL;
}

bool vm_router_has_layer(const vm_router *r, int layer) { return vm_router_layer_find(r, layer) != NULL; }

bool vm_router_has_covariance(const vm_router *r) { return r->kind->has_covariance; }

bool vm_router_has_kl(const vm_router *r) { return r->kind->has_kl; }

bool vm_router_chooses(const vm_router *r) { return r->kind->chooses; }

vm_inference vm_router_default_inference(const vm_router *r) { return r->kind->inference; }

vm_inference vm_router_config_inference(const vm_router_config *c) {
    const vm_router_kind *k = vm_router_kind_find(c->kind);
    return k ? k->inference : VM_INFERENCE_MEAN;
}

vm_param_list vm_router_params(vm_router *r) {
    r->packed = false; /* from here on the values may change under us */
    return (vm_param_list){r->list, r->n_params};
}

double vm_router_flops(const vm_router *r, vm_inference inference, int samples) {
    return r->kind->has_layers ? r->kind->network->flops(r, vm_router_inference(r, inference), samples) : 0;
}

size_t vm_router_bytes(const vm_router *r) {
    const vm_arena *scratch = r->spare ? atomic_load(r->spare) : NULL;
    size_t bytes = scratch ? vm_arena_bytes(scratch) : 0;
    for (int i = 0; i < r->config.n_layers; i++)
        bytes += vm_draw_table_bytes(atomic_load(&r->layers[i].draws), r->config.n_experts) +
                 vm_weight_table_bytes(atomic_load(&r->layers[i].weights));
    return bytes;
}
