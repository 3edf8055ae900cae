/* router.c: the list of kinds, a router's config and its tensors. What they compute: route.c and the kinds' files. */
#include "router/router_internal.h"

#include "base/rng.h"
#include "base/status.h"
#include <math.h>
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
    VM_TRY(check_size("n_experts", c->n_experts, low, k->max_experts));
    VM_TRY(check_size("dim", c->dim, low, VM_ROUTER_MAX_DIM));
    VM_TRY(check_size("width", c->width, low, VM_ROUTER_MAX_WIDTH));
    float least = k->has_covariance ? expf(-10.0f) : 0.0f; /* the range of L_ii (vglr.c) */
    if (!(c->initial_scale >= least && c->initial_scale <= expf(5.0f))) {
        return vm_error(VMOER_ERROR_LIMIT, "initial_scale: %g is not in %g..%g", (double)c->initial_scale,
                        (double)least, exp(5.0));
    }
    bool prior_ok = k->has_covariance ? c->prior_scale >= 1e-6f && c->prior_scale <= 1e6f : isfinite(c->prior_scale);
    if (!prior_ok) return vm_error(VMOER_ERROR_LIMIT, "prior_scale: %g is not in 1e-6..1e6", (double)c->prior_scale);
    if (!(c->temperature >= 1e-6 && c->temperature <= 1e6)) {
        return vm_error(VMOER_ERROR_LIMIT, "temperature: %g is not in 1e-6..1e6", c->temperature);
    }
    *kind = k;
    return VMOER_OK;
}

void vm_router_param_name(const vm_router_config *config, int layer, int which, char name[128]) {
    static const char *const names[VM_ROUTER_LAYER_PARAMS] = {"trunk.weight", "trunk.bias",   "mean.weight",
                                                              "mean.bias",    "scale.weight", "scale.bias"};
    snprintf(name, 128, "layers.%d.%s", (int)config->layers[layer], names[which]);
}

void vm_router_param_shape(const vm_router_config *config, int scale_outputs, int which, int *rows, int *cols) {
    int outputs = which <= VM_TRUNK_BIAS ? config->width : which <= VM_MEAN_BIAS ? config->n_experts : scale_outputs;
    bool bias = which == VM_TRUNK_BIAS || which == VM_MEAN_BIAS || which == VM_SCALE_BIAS;
    *rows = bias ? 1 : outputs;
    *cols = bias ? outputs : which == VM_TRUNK_WEIGHT ? config->dim : config->width;
}

static vmoer_status make_params(vm_router *r, int layer) {
    for (int which = 0; which < r->params_per_layer; which++) {
        vm_param *p = &r->layers[layer].params[which];
        vm_router_param_name(&r->config, layer, which, p->name);
        vm_router_param_shape(&r->config, r->scale_outputs, which, &p->rows, &p->cols);
        p->decay = which == VM_TRUNK_WEIGHT || which == VM_MEAN_WEIGHT || which == VM_SCALE_WEIGHT;
        p->value = vm_arena_alloc(r->memory, vm_param_size(p), sizeof(float));
        p->grad = vm_arena_alloc(r->memory, vm_param_size(p), sizeof(float));
        if (!p->value || !p->grad) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", p->name);
        memset(p->value, 0, vm_param_size(p) * sizeof(float));
        memset(p->grad, 0, vm_param_size(p) * sizeof(float));
        r->list[layer * r->params_per_layer + which] = p;
    }
    return VMOER_OK;
}

/* W1 ~ N(0, 1/D); everything else 0 but the scale head's bias. */
static void start_values(vm_router *r, int layer) {
    vm_param *trunk = &r->layers[layer].params[VM_TRUNK_WEIGHT];
    vm_rng rng = vm_rng_start(r->config.seed, VM_RNG_INIT, (uint32_t)r->config.layers[layer]);
    float deviation = 1.0f / sqrtf((float)r->config.dim);
    for (size_t i = 0; i < vm_param_size(trunk); i++) trunk->value[i] = deviation * vm_rng_normal(&rng);
    if (r->scale_outputs > 0) {
        r->kind->start_scale(r->config.n_experts, r->config.initial_scale,
                             r->layers[layer].params[VM_SCALE_BIAS].value);
    }
}

static vmoer_status make_layers(vm_router *r) {
    size_t n = (size_t)r->config.n_layers;
    r->layers = vm_arena_alloc(r->memory, n, sizeof *r->layers);
    r->list = vm_arena_alloc(r->memory, n * (size_t)r->params_per_layer, sizeof *r->list);
    r->ones = vm_arena_alloc(r->memory, (size_t)r->config.width * VM_STRIP, sizeof *r->ones);
    r->spare = vm_arena_alloc(r->memory, 1, sizeof *r->spare);
    if (r->layers) memset(r->layers, 0, n * sizeof *r->layers);
    if (r->spare) atomic_init(r->spare, NULL);
    if (!r->layers || !r->list || !r->ones || !r->spare) return vm_error(VMOER_ERROR_MEMORY, "router: out of memory");
    for (size_t i = 0; i < n; i++) atomic_init(&r->layers[i].draws, NULL);
    for (int i = 0; i < r->config.width * VM_STRIP; i++) r->ones[i] = 1.0f;
    for (int i = 0; i < r->config.n_layers; i++) {
        VM_TRY(make_params(r, i));
        start_values(r, i);
    }
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
    r->scale_outputs = kind->scale_outputs ? kind->scale_outputs(config->n_experts) : 0;
    r->params_per_layer = r->scale_outputs > 0 ? VM_ROUTER_LAYER_PARAMS : VM_SCALE_WEIGHT;
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
    for (int i = 0; r->layers && i < r->config.n_layers; i++) vm_draw_table_free(atomic_load(&r->layers[i].draws));
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

vm_param_list vm_router_params(vm_router *r) {
    r->packed = false; /* from here on the values may change under us */
    return (vm_param_list){r->list, (size_t)r->config.n_layers * (size_t)r->params_per_layer};
}

double vm_router_flops(const vm_router *r, vm_inference inference, int samples) {
    double D = r->config.dim, H = r->config.width, N = r->config.n_experts, M = r->scale_outputs;
    double mean = 2 * D * H + 2 * H * N;
    if (inference == VM_INFERENCE_MEAN || !r->kind->has_covariance) return mean;
    return mean + 2 * H * M + (inference == VM_INFERENCE_SAMPLE ? 2 * M * ((samples + 1) / 2) : 0);
}
