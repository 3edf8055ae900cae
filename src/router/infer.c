/* infer.c: routing probabilities of a layer's tokens at inference, by the trunk or without tensors. Everything a strip
 * of 16 tokens needs happens in one task and in cache: trunk, heads, L, the way from N(m, L L^T) to probabilities,
 * signals. A token is a lane of its strip and lanes never meet, so nothing depends on the threads or on which tokens
 * share a call. */
#include "base/rng.h"
#include "base/status.h"
#include "router/router_internal.h"
#include <math.h>
#include <string.h>

/* ---- what stays from call to call ---- */

static vmoer_status pack_linear(vm_arena *memory, const vm_param *weight, const vm_param *bias, vm_router_linear *out) {
    int rows = weight->rows, padded = vm_strip_padded(rows);
    if (!out->weight) {
        out->weight = vm_arena_alloc(memory, vm_strip_bytes(rows, weight->cols), 1);
        out->bias = vm_arena_alloc(memory, (size_t)padded, sizeof *out->bias);
    }
    if (!out->weight || !out->bias) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", weight->name);
    vm_kernels_get()->strip_pack(weight->value, rows, weight->cols, out->weight);
    memset(out->bias, 0, (size_t)padded * sizeof *out->bias);
    memcpy(out->bias, bias->value, (size_t)rows * sizeof *out->bias);
    return VMOER_OK;
}

vmoer_status vm_trunk_pack(const vm_router_layer *layer, vm_arena *memory, vm_router_packed *out) {
    if (!out->linear) {
        out->linear = vm_arena_alloc(memory, VM_TRUNK_SLOTS / 2, sizeof *out->linear);
        if (!out->linear) return vm_error(VMOER_ERROR_MEMORY, "router: out of memory");
        memset(out->linear, 0, VM_TRUNK_SLOTS / 2 * sizeof *out->linear);
    }
    for (int slot = 0; slot < VM_TRUNK_SLOTS; slot += 2) {
        const vm_param *w = &layer->params[slot];
        if (w->rows > 0) VM_TRY(pack_linear(memory, w, w + 1, &out->linear[slot / 2]));
    }
    return VMOER_OK;
}

static vmoer_status pack_layer(const vm_router *r, const vm_router_layer *layer, vm_arena *memory,
                               vm_router_packed *out) {
    out->kernels = vm_kernels_get();
    return r->kind->network->pack ? r->kind->network->pack(layer, memory, out) : VMOER_OK;
}

vmoer_status vm_router_pack(vm_router *r) {
    for (int i = 0; i < r->config.n_layers; i++) {
        vm_weight_table_free(atomic_exchange(&r->layers[i].weights, NULL));
        VM_TRY(pack_layer(r, &r->layers[i], r->memory, &r->layers[i].packed));
    }
    r->packed = true;
    return VMOER_OK;
}

/* The draws of a layer for (seed, samples), as vm_kernels.gaussian_sample wants them. */
struct vm_draw_table {
    uint64_t seed;
    int samples;
    float *draws;
};

static vm_draw_table *make_draws(const vm_route *in, int n, int samples) {
    int pairs = (samples + 1) / 2, blocks = (pairs + VM_DRAW_BLOCK - 1) / VM_DRAW_BLOCK;
    vm_draw_table *t = vm_malloc(1, sizeof *t);
    float *draws = vm_calloc((size_t)blocks * VM_DRAW_BLOCK * (size_t)n, sizeof *draws);
    if (!t || !draws) {
        vm_free(t);
        vm_free(draws);
        return NULL;
    }
    *t = (vm_draw_table){in->seed, samples, draws};
    for (int pair = 0; pair < pairs; pair++) {
        float *column = draws + (size_t)(pair / VM_DRAW_BLOCK) * VM_DRAW_BLOCK * (size_t)n + pair % VM_DRAW_BLOCK;
        float normal[4];
        for (int i = 0; i < n; i++) {
            if (i % 4 == 0) {
                uint32_t counter[4] = {(uint32_t)in->layer, (uint32_t)pair, (uint32_t)i / 4, 0};
                vm_rng_normal4(in->seed, VM_RNG_INFERENCE, counter, normal);
            }
            column[(size_t)i * VM_DRAW_BLOCK] = normal[i % 4];
        }
    }
    return t;
}

size_t vm_draw_table_bytes(const vm_draw_table *t, int n) {
    int blocks = t ? ((t->samples + 1) / 2 + VM_DRAW_BLOCK - 1) / VM_DRAW_BLOCK : 0;
    return (size_t)blocks * VM_DRAW_BLOCK * (size_t)n * sizeof *t->draws;
}

void vm_draw_table_free(vm_draw_table *t) {
    if (!t) return;
    vm_free(t->draws);
    vm_free(t);
}

/* A table taken from the layer while this call uses it; another call that finds none there makes its own. */
static vmoer_status take_draws(vm_router_layer *layer, const vm_route *in, int n, int samples, vm_draw_table **out) {
    *out = NULL;
    if (samples < 1) return vm_error(VMOER_ERROR_ARGUMENT, "router: %d samples", samples);
    vm_draw_table *kept = atomic_exchange(&layer->draws, NULL);
    if (kept && (kept->seed != in->seed || kept->samples != samples)) {
        vm_draw_table_free(kept);
        kept = NULL;
    }
    *out = kept ? kept : make_draws(in, n, samples);
    return *out ? VMOER_OK : vm_router_out_of_memory(in);
}

/* ---- a strip ---- */

/* A worker's memory, [rows][16]. */
typedef struct strip_memory {
    float *u, *h, *dmu; /* [D], [H], [N]; of products padded */
    float *mean;        /* what s has as const: [N] */
    float *normals, *gumbels;
    vm_strip s;
} strip_memory;

/* Cuts the memory at `base`; returns its length. */
static size_t lay_out(const vm_infer_call *c, float *base, strip_memory *m) {
    const vm_router *r = c->r;
    bool trunk = r->kind->network == &vm_network_trunk, passes = c->inference == VM_INFERENCE_PASSES;
    size_t n = (size_t)r->config.n_experts, at = 0;
    const struct {
        float **part;
        size_t rows;
    } parts[] = {{&m->u, trunk ? (size_t)r->config.dim : 0},
                 {&m->h, trunk ? (size_t)vm_strip_padded(r->config.width) : 0},
                 {&m->dmu, trunk ? (size_t)vm_strip_padded((int)n) : 0},
                 {&m->s.raw, c->runs_kind && r->scale_outputs > 0 ? (size_t)vm_strip_padded(r->scale_outputs) : 0},
                 {&m->mean, n},
                 {&m->s.p, n},
                 {&m->s.scores, r->kind->chooses ? n : 0},
                 {&m->s.check, 1},
                 {&m->s.trace, 1},
                 {&m->s.projected, 1},
                 {&m->s.diagonal, 1},
                 {&m->s.temperature, 1},
                 {&m->normals, passes ? (size_t)vm_router_count_normals(r) : 0},
                 {&m->gumbels, passes ? (size_t)vm_router_count_gumbels(r) : 0},
                 {&m->s.scratch, c->runs_kind ? VM_STRIP_SCRATCH * n : 0}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = base ? base + at : NULL;
        at += parts[i].rows * VM_STRIP;
    }
    m->s.mean = m->mean;
    m->s.normals = m->normals;
    m->s.gumbels = m->gumbels;
    return at;
}

/* A panel of 16 columns. */
void vm_to_lanes(const float *x, int rows, int n, float *y) {
    vm_panel strip = {.data = y};
    vm_panel_pack(NULL, &strip, VM_COMPUTE_F32, n, rows, x, 1, (size_t)n, NULL);
}

void vm_from_lanes(const float *y, int rows, int n, float *x) {
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < n; i++) x[t * n + i] = y[i * VM_STRIP + t];
}

static void multiply(const vm_infer_call *c, int slot, int outputs, int inputs, const float *x, float *y) {
    const vm_router_linear *w = &c->packed->linear[slot / 2];
    c->kernels->strip_product(w->weight, outputs, inputs, w->bias, x, y);
}

/* The heads' outputs of a strip. */
static void run_trunk(const vm_infer_call *c, size_t first, int rows, strip_memory *m) {
    const vm_router *r = c->r;
    int n = r->config.n_experts, width = r->config.width, dim = r->config.dim;
    vm_to_lanes(c->in->u + first * (size_t)dim, rows, dim, m->u);
    multiply(c, VM_TRUNK_WEIGHT, width, dim, m->u, m->h);
    c->kernels->swiglu(m->h, r->ones, m->h, width * VM_STRIP);
    if (r->kind->has_mean)
        multiply(c, VM_MEAN_WEIGHT, n, width, m->h, m->dmu);
    else
        memset(m->dmu, 0, (size_t)n * VM_STRIP * sizeof *m->dmu);
    if (c->runs_kind && r->scale_outputs > 0) multiply(c, VM_SCALE_WEIGHT, r->scale_outputs, width, m->h, m->s.raw);
}

/* p[rows, N] = l_det + dmu (dmu NULL: 0). */
static void add_mean(const float *logits, const float *dmu, int rows, int n, float *p) {
    for (int t = 0; t < rows; t++, logits += n, p += n)
        for (int i = 0; i < n; i++) p[i] = dmu ? logits[i] + dmu[i * VM_STRIP + t] : logits[i];
}

/* check[rows]: NaN where a logit of l[rows, N] is not finite. */
static void check_rows(const float *l, int rows, int n, float *check) {
    for (int t = 0; t < rows; t++, l += n) {
        uint32_t largest = 0;
        for (int i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, &l[i], sizeof bits);
            bits &= 0x7fffffffu;
            largest = bits > largest ? bits : largest;
        }
        if (largest >= 0x7f800000u) check[t] = NAN;
    }
}

static void draw_strip(const vm_infer_call *c, size_t first, int rows, strip_memory *m) {
    int normals = vm_router_count_normals(c->r), gumbels = vm_router_count_gumbels(c->r);
    memset(m->normals, 0, (size_t)(normals + gumbels) * VM_STRIP * sizeof *m->normals); /* neighbours; lanes beyond */
    for (int t = 0; t < rows; t++) {
        vm_router_normals(c->in, VM_RNG_PASS, (int)first + t, normals, VM_STRIP, m->normals + t);
        vm_router_gumbels(c->in, VM_RNG_PASS_GUMBEL, (int)first + t, gumbels, VM_STRIP, m->gumbels + t);
    }
}

static void put_row(float *out, size_t first, const float *row, int rows) {
    if (out) memcpy(out + first, row, (size_t)rows * sizeof *row);
}

static void infer_strip(const vm_infer_call *c, size_t first, int rows, float *memory) {
    int n = c->r->config.n_experts;
    bool trunk = c->r->kind->network == &vm_network_trunk;
    float *p = c->out.p + first * (size_t)n;
    strip_memory m;
    lay_out(c, memory, &m);

    if (trunk) run_trunk(c, first, rows, &m);
    memset(m.s.check, 0, 4 * VM_STRIP * sizeof *m.s.check); /* the signals are its neighbours */
    for (int t = 0; t < VM_STRIP; t++) m.s.temperature[t] = NAN;
    float broken[VM_STRIP] = {0};
    add_mean(c->in->logits + first * (size_t)n, trunk ? m.dmu : NULL, rows, n, p);
    check_rows(p, rows, n, broken);
    if (c->runs_kind) {
        vm_to_lanes(p, rows, n, m.mean);
        if (c->inference == VM_INFERENCE_PASSES) draw_strip(c, first, rows, &m);
        c->r->kind->infer(c, &m.s);
    }
    if (c->inference != VM_INFERENCE_MEAN) vm_from_lanes(m.s.p, rows, n, p);
    if (c->inference == VM_INFERENCE_PASSES) check_rows(p, rows, n, broken);
    if (c->inference == VM_INFERENCE_MEAN || c->inference == VM_INFERENCE_PASSES)
        for (int t = 0; t < rows; t++) c->kernels->softmax(p + t * n, n);
    if (c->r->kind->chooses && c->out.scores) vm_from_lanes(m.s.scores, rows, n, c->out.scores + first * (size_t)n);
    for (int t = 0; t < rows; t++) p[t * n] += broken[t] + m.s.check[t]; /* 0 or NaN: kernels may hide one */
    put_row(c->out.trace, first, m.s.trace, rows);
    put_row(c->out.trace_projected, first, m.s.projected, rows);
    put_row(c->out.trace_diagonal, first, m.s.diagonal, rows);
    put_row(c->out.temperature, first, m.s.temperature, rows);
}

/* ---- the call ---- */

/* What the tasks of a call share beside it. */
typedef struct strips {
    vm_infer_call call;
    float *memory; /* [workers, floats] */
    size_t floats;
} strips;

static void run_strip(void *context, size_t first, size_t end, int worker) {
    const strips *s = context;
    infer_strip(&s->call, first, (int)(end - first), s->memory + (size_t)worker * s->floats);
}

vmoer_status vm_strips_infer(const vm_infer_call *call, vm_pool *pool, vm_router_layer *layer, vm_arena *memory) {
    const vm_router *r = call->r;
    const vm_route *in = call->in;
    vm_router_packed fresh = {0};
    strips s = {.call = *call};
    vm_infer_call *c = &s.call;
    c->packed = &layer->packed;
    if (!r->packed || c->packed->kernels != c->kernels) {
        VM_TRY(pack_layer(r, layer, memory, &fresh));
        c->packed = &fresh;
    }
    bool ok = true;
    strip_memory unused;
    s.floats = lay_out(c, NULL, &unused);
    s.memory = vm_arena_floats(memory, (size_t)vm_pool_threads(pool), s.floats, &ok);
    if (!ok) return vm_router_out_of_memory(in);
    vm_pool_run_range(pool, (size_t)in->n_tokens, VM_STRIP, run_strip, &s);
    VM_TRY(vm_router_check_finite(in, c->out.p, (size_t)r->config.n_experts, "a logit"));
    VM_TRY(vm_router_check_finite(in, c->out.trace, 1, "tr Sigma"));
    VM_TRY(vm_router_check_finite(in, c->out.trace_projected, 1, "tr P Sigma P"));
    return vm_router_check_finite(in, r->kind->has_temperature ? c->out.temperature : NULL, 1, "the temperature");
}

vm_inference vm_router_inference(const vm_router *r, vm_inference asked) {
    const vm_router_kind *k = r->kind;
    if (k->has_covariance) return asked;
    if (k->inference == VM_INFERENCE_SAMPLE && (asked == VM_INFERENCE_MEAN || asked == VM_INFERENCE_PASSES))
        return asked;
    return k->inference;
}

bool vm_router_has_trace(const vm_router *r, vm_inference inference) {
    return r->kind->has_covariance ||
           (vm_router_inference(r, inference) == VM_INFERENCE_SAMPLE && r->config.members > 1);
}

vmoer_status vm_router_infer(const vm_router *r, vm_pool *pool, const vm_route *in, vm_inference inference, int samples,
                             const vm_routing *out) {
    vm_router_layer *layer;
    VM_TRY(vm_router_find_call(r, in, &layer));
    const vm_router_kind *kind = r->kind;
    vm_route own = *in;
    own.sign = 1; /* antithetic draws are training's */
    vm_infer_call c = {.r = r,
                       .kernels = vm_kernels_get(),
                       .in = &own,
                       .inference = vm_router_inference(r, inference),
                       .samples = samples,
                       .out = *out};
    bool signals = kind->has_covariance ? out->trace || out->trace_projected || out->trace_diagonal
                                        : kind->has_temperature && out->temperature;
    c.runs_kind = kind->infer && (c.inference != VM_INFERENCE_MEAN || signals);
    vm_draw_table *draws = NULL;
    if (c.inference == VM_INFERENCE_SAMPLE && kind->has_covariance) {
        VM_TRY(take_draws(layer, in, r->config.n_experts, samples, &draws));
        c.table = draws->draws;
    }
    vm_arena *memory = atomic_exchange(r->spare, NULL);
    if (!memory) memory = vm_arena_create();
    vmoer_status status = VMOER_OK;
    if (memory) {
        vm_arena_reset(memory);
        status = kind->network->infer(&c, pool, layer, memory);
    } else {
        status = vm_router_out_of_memory(in);
    }
    vm_arena_free(atomic_exchange(r->spare, memory));
    vm_draw_table_free(draws ? atomic_exchange(&layer->draws, draws) : NULL);
    return status;
}
