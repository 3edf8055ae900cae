/* infer.c: routing probabilities of a layer's tokens at inference. The trunk is one matrix product over all tokens;
 * from there on everything a strip of 16 tokens needs happens in one task and in cache: heads, L, the way from N(m, L
 * L^T) to probabilities, signals. A token is a lane of its strip and lanes never meet, so nothing depends on the
 * threads or on which tokens share a call. */
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

static vmoer_status pack_layer(const vm_router *r, const vm_router_layer *layer, vm_arena *memory,
                               vm_router_packed *out) {
    const vm_param *w = layer->params;
    out->kernels = vm_kernels_get();
    VM_TRY(pack_linear(memory, &w[VM_TRUNK_WEIGHT], &w[VM_TRUNK_BIAS], &out->trunk));
    VM_TRY(pack_linear(memory, &w[VM_MEAN_WEIGHT], &w[VM_MEAN_BIAS], &out->mean));
    return r->scale_outputs > 0 ? pack_linear(memory, &w[VM_SCALE_WEIGHT], &w[VM_SCALE_BIAS], &out->scale) : VMOER_OK;
}

vmoer_status vm_router_pack(vm_router *r) {
    for (int i = 0; i < r->config.n_layers; i++) VM_TRY(pack_layer(r, &r->layers[i], r->memory, &r->layers[i].packed));
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

/* What the tasks of one call share. */
typedef struct call {
    vm_strip_context strip;
    const vm_router *r;
    const vm_router_packed *packed;
    const vm_route *in;
    vm_inference inference;
    bool scale; /* the scale head is wanted */
    float *p, *trace, *projected;
    float *scratch; /* [workers, scratch_floats] */
    size_t scratch_floats;
} call;

/* A worker's memory, [rows][16]; of products padded. */
typedef struct strip_memory {
    float *u;                         /* [D] */
    float *h;                         /* [H] */
    float *dmu;                       /* [N] */
    float *raw;                       /* [scale outputs] */
    float *mean, *p;                  /* [N] */
    float *check, *trace, *projected; /* [1] */
    float *scratch;                   /* [VM_DRAW_BLOCK + 2][N] */
} strip_memory;

/* Cuts the memory at `base`; returns its length. */
static size_t lay_out(const vm_router *r, bool scale, float *base, strip_memory *m) {
    size_t n = (size_t)r->config.n_experts, at = 0;
    const struct {
        float **part;
        size_t rows;
    } parts[] = {{&m->u, (size_t)r->config.dim},
                 {&m->h, (size_t)vm_strip_padded(r->config.width)},
                 {&m->dmu, (size_t)vm_strip_padded((int)n)},
                 {&m->raw, scale ? (size_t)vm_strip_padded(r->scale_outputs) : 0},
                 {&m->mean, n},
                 {&m->p, n},
                 {&m->check, 1},
                 {&m->trace, 1},
                 {&m->projected, 1},
                 {&m->scratch, scale ? (VM_DRAW_BLOCK + 2) * n : 0}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = base ? base + at : NULL;
        at += parts[i].rows * VM_STRIP;
    }
    return at;
}

/* x[rows, n] to y[n][16], lanes from `rows` on 0: a panel of 16 columns; and back. */
static void to_lanes(const float *x, int rows, int n, float *y) {
    vm_panel strip = {.data = y};
    vm_panel_pack(NULL, &strip, VM_COMPUTE_F32, n, rows, x, 1, (size_t)n, NULL);
}

static void from_lanes(const float *y, int rows, int n, float *x) {
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < n; i++) x[t * n + i] = y[i * VM_STRIP + t];
}

static void multiply(const call *c, const vm_router_linear *w, int outputs, int inputs, const float *x, float *y) {
    c->strip.kernels->strip_product(w->weight, outputs, inputs, w->bias, x, y);
}

/* p[rows, N] = l_det + dmu; check += NaN where that is not finite. */
static void add_mean(const float *logits, const float *dmu, int rows, int n, float *p, float *check) {
    for (int t = 0; t < rows; t++, logits += n, p += n) {
        uint32_t largest = 0;
        for (int i = 0; i < n; i++) {
            p[i] = logits[i] + dmu[i * VM_STRIP + t];
            uint32_t bits;
            memcpy(&bits, &p[i], sizeof bits);
            bits &= 0x7fffffffu;
            largest = bits > largest ? bits : largest;
        }
        if (largest >= 0x7f800000u) check[t] = NAN;
    }
}

static void infer_strip(void *context, size_t first, size_t end, int worker) {
    const call *c = context;
    const vm_kernels *k = c->strip.kernels;
    int rows = (int)(end - first), n = c->strip.n, width = c->r->config.width, dim = c->r->config.dim;
    float *p = c->p + first * (size_t)n;
    strip_memory m;
    lay_out(c->r, c->scale, c->scratch + (size_t)worker * c->scratch_floats, &m);

    to_lanes(c->in->u + first * (size_t)dim, rows, dim, m.u);
    multiply(c, &c->packed->trunk, width, dim, m.u, m.h);
    k->swiglu(m.h, c->r->ones, m.h, width * VM_STRIP);
    multiply(c, &c->packed->mean, n, width, m.h, m.dmu);
    memset(m.check, 0, 3 * VM_STRIP * sizeof *m.check);
    if (c->scale) multiply(c, &c->packed->scale, c->r->scale_outputs, width, m.h, m.raw);
    float broken[VM_STRIP] = {0};
    add_mean(c->in->logits + first * (size_t)n, m.dmu, rows, n, p, broken);
    if (c->scale) {
        to_lanes(p, rows, n, m.mean);
        c->r->kind->infer(&c->strip, c->inference, m.raw, m.mean, m.p, m.check, m.trace, m.projected, m.scratch);
    }
    if (c->inference == VM_INFERENCE_MEAN) {
        for (int t = 0; t < rows; t++) k->softmax(p + t * n, n);
    } else {
        from_lanes(m.p, rows, n, p);
    }
    for (int t = 0; t < rows; t++) p[t * n] += broken[t] + m.check[t]; /* 0 or NaN: kernels may hide one */
    if (c->trace) memcpy(c->trace + first, m.trace, (size_t)rows * sizeof *m.trace);
    if (c->projected) memcpy(c->projected + first, m.projected, (size_t)rows * sizeof *m.projected);
}

/* ---- the call ---- */

static vmoer_status run(call *c, const vm_router_layer *layer, vm_pool *pool, vm_arena *memory) {
    const vm_router *r = c->r;
    const vm_route *in = c->in;
    vm_router_packed fresh = {0};
    c->packed = &layer->packed;
    if (!r->packed || c->packed->kernels != c->strip.kernels) {
        VM_TRY(pack_layer(r, layer, memory, &fresh));
        c->packed = &fresh;
    }
    strip_memory unused;
    bool ok = true;
    c->scratch_floats = lay_out(r, c->scale, NULL, &unused);
    c->scratch = vm_arena_floats(memory, (size_t)vm_pool_threads(pool), c->scratch_floats, &ok);
    if (!ok) return vm_router_out_of_memory(in);
    vm_pool_run_range(pool, (size_t)in->n_tokens, VM_STRIP, infer_strip, c);
    VM_TRY(vm_router_check_finite(in, c->p, (size_t)c->strip.n, "a logit"));
    VM_TRY(vm_router_check_finite(in, c->trace, 1, "tr Sigma"));
    return vm_router_check_finite(in, c->projected, 1, "tr P Sigma P");
}

vmoer_status vm_router_infer(const vm_router *r, vm_pool *pool, const vm_route *in, vm_inference inference, int samples,
                             float *p, float *trace, float *trace_projected) {
    vm_router_layer *layer;
    VM_TRY(vm_router_find_call(r, in, &layer));
    if (!r->kind->has_covariance) inference = VM_INFERENCE_MEAN;
    vm_draw_table *draws = NULL;
    if (inference == VM_INFERENCE_SAMPLE) VM_TRY(take_draws(layer, in, r->config.n_experts, samples, &draws));
    call c = {.strip = {.kind = r->kind,
                        .kernels = vm_kernels_get(),
                        .n = r->config.n_experts,
                        .draws = draws ? draws->draws : NULL,
                        .samples = samples},
              .r = r,
              .in = in,
              .inference = inference,
              .scale = r->scale_outputs > 0 && (inference != VM_INFERENCE_MEAN || trace || trace_projected),
              .p = p,
              .trace = trace,
              .projected = trace_projected};
    vm_arena *memory = atomic_exchange(r->spare, NULL);
    if (!memory) memory = vm_arena_create();
    vmoer_status status = VMOER_OK;
    if (memory) {
        vm_arena_reset(memory);
        status = run(&c, layer, pool, memory);
    } else {
        status = vm_router_out_of_memory(in);
    }
    vm_arena_free(atomic_exchange(r->spare, memory));
    vm_draw_table_free(draws ? atomic_exchange(&layer->draws, draws) : NULL);
    return status;
}
