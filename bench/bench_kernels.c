/* bench_kernels.c: GFLOP/s of vm_gemm per ISA, type and shape beside the measured peak of the instruction it is made
 * of, best of N, one CSV line each. Packing of A is inside the time (it happens in every call), packing of B is not
 * (weights are packed once; the pack_* lines give its rate). bench_kernels [isa or shape ...]   all of this CPU's by
 * default; BENCH_SECONDS: time a line may take (0.2) */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/threads.h"
#include "bench/shapes.h"
#include "kernels/peak.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One thread is measured by its CPU time, which other programs on the machine touch less; several by the wall's. */
static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile float sink;
static double seconds_a_line = 0.2;
static vm_pool *pools[2]; /* of one thread and of all */

/* The shortest run of fn(context) in the time of a line, at least three. */
static double best(void (*fn)(void *), void *context) {
    double shortest = 1e30, start = now();
    for (int i = 0; i < 3 || now() - start < seconds_a_line; i++) {
        double before = now();
        fn(context);
        double took = now() - before;
        if (took < shortest) shortest = took;
    }
    return shortest;
}

/* ---- products ---- */

enum { TOKENS = 1000, EXPERT_ROWS = 128, MAX_WORKERS = 64 };

typedef struct product {
    vm_pool *pool;
    vm_gemm_job job;
    vm_panel *panel;
    const float *b;
    bool failed;
    /* Experts: */
    int tasks;            /* of EXPERT_ROWS rows each */
    vm_rows input;        /* of all tokens */
    const int32_t *index; /* [tasks * EXPERT_ROWS] tokens, random */
    vm_rows rows[MAX_WORKERS];
    float *out[MAX_WORKERS]; /* [EXPERT_ROWS, n] */
} product;

static void run_product(void *context) {
    product *p = context;
    if (vm_gemm(p->pool, &p->job, 1) != VMOER_OK) p->failed = true;
}

/* As the model runs them: a block of an expert's tokens is gathered from the rounded input and multiplied, in one
 * thread's cache. */
static void run_block(void *context, int task, int worker) {
    product *p = context;
    vm_rows_gather(&p->rows[worker], 0, EXPERT_ROWS, &p->input, p->index + task * EXPERT_ROWS);
    vm_multiply(&(vm_product){.a = &p->rows[worker],
                              .m = EXPERT_ROWS,
                              .b = p->panel,
                              .columns = p->panel->n,
                              .c = p->out[worker],
                              .ldc = (size_t)p->panel->n});
}

static void run_experts(void *context) {
    product *p = context;
    vm_pool_run(p->pool, p->tasks, run_block, p);
}

static void run_pack_weights(void *context) { /* from [n, k] */
    product *p = context;
    vm_panel_pack(p->pool, p->panel, p->panel->type, p->panel->k, p->panel->n, p->b, 1, (size_t)p->panel->k, NULL);
}

static void run_pack_activations(void *context) { /* from [k, n] */
    product *p = context;
    vm_panel_pack(p->pool, p->panel, p->panel->type, p->panel->k, p->panel->n, p->b, (size_t)p->panel->n, 1, NULL);
}

static float *random_values(vm_arena *arena, size_t n, bool *ok) {
    float *x = vm_arena_floats(arena, 1, n, ok);
    vm_rng rng = vm_rng_start(1, VM_RNG_INIT, 0);
    for (size_t i = 0; x && i < n; i++) x[i] = (float)vm_rng_uniform(&rng) - 0.5f;
    return x;
}

/* Everything from the arena, as the shape wants it. */
static bool make_product(vm_arena *arena, vm_compute type, const vm_shape *s, int threads, product *p) {
    size_t m = (size_t)(s->tasks ? TOKENS : s->m), k = (size_t)s->k, n = (size_t)s->n;
    bool ok = true;
    float *a = random_values(arena, m * k, &ok), *b = random_values(arena, k * n, &ok);
    float *c = vm_arena_floats(arena, m, n, &ok);
    vm_panel *panel = vm_arena_alloc(arena, 1, sizeof *panel);
    if (!ok || !panel) return false;
    *panel = (vm_panel){
        .type = type, .k = s->k, .n = s->n, .data = vm_arena_alloc(arena, vm_panel_bytes(type, s->k, s->n), 1)};
    if (!panel->data) return false;
    *p = (product){.panel = panel, .b = b, .tasks = s->tasks};
    run_pack_weights(p);
    p->job = (vm_gemm_job){.m = s->m,
                           .a = a,
                           .a_m_stride = s->transposed ? 1 : k,
                           .a_k_stride = s->transposed ? m : 1,
                           .b = panel,
                           .c = c,
                           .ldc = n};
    if (!s->tasks) return true;
    void *words = vm_arena_alloc(arena, vm_rows_bytes(type, TOKENS, s->k), 1);
    int32_t *index = vm_arena_alloc(arena, (size_t)s->tasks * EXPERT_ROWS, sizeof *index);
    for (int w = 0; ok && w < threads; w++) {
        void *memory = vm_arena_alloc(arena, vm_rows_bytes(type, EXPERT_ROWS, s->k), 1);
        p->rows[w] = vm_rows_at(type, s->k, memory);
        p->out[w] = vm_arena_floats(arena, EXPERT_ROWS, n, &ok);
        ok = ok && memory;
    }
    if (!ok || !words || !index) return false;
    p->input = vm_rows_at(type, s->k, words);
    vm_rows_set(&p->input, 0, TOKENS, s->k, a, k);
    vm_rng rng = vm_rng_start(1, VM_RNG_SHUFFLE, 0);
    for (int i = 0; i < s->tasks * EXPERT_ROWS; i++) index[i] = (int32_t)vm_rng_below(&rng, TOKENS);
    p->index = index;
    return true;
}

static bool bench_shape(const vm_kernels *table, vm_compute type, const vm_shape *s, double peaks[2]) {
    static const char *const type_names[] = {"f32", "bf16"};
    vm_arena *arena = vm_arena_create();
    int threads = vm_pool_threads(pools[1]), rows = s->tasks ? s->tasks * EXPERT_ROWS : s->m;
    product p;
    bool done = arena && threads <= MAX_WORKERS && make_product(arena, type, s, threads, &p);
    if (done) {
        double rates[2];
        for (int t = 0; t < 2; t++) {
            p.pool = pools[t];
            clock_used = t == 0 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
            rates[t] = 2.0 * rows * s->n * s->k / best(s->tasks ? run_experts : run_product, &p) / 1e9;
        }
        done = !p.failed;
        printf("%s,%s,%s,%d,%d,%d,%.1f,%.3f,%.1f,%.3f,%.2f\n", table->name, type_names[type], s->what, rows, s->n, s->k,
               rates[0], peaks[0] > 0 ? rates[0] / peaks[0] : 0, rates[1], peaks[1] > 0 ? rates[1] / peaks[1] : 0,
               rates[1] / rates[0]);
        fflush(stdout);
    }
    vm_arena_free(arena);
    return done;
}

static bool bench_packing(vm_compute type) {
    enum { N = 960, K = 576 };
    vm_arena *arena = vm_arena_create();
    product p;
    bool done = arena && make_product(arena, type, &(vm_shape){"packing", 0, 1, N, K, false}, 1, &p);
    if (done) {
        p.pool = pools[0];
        clock_used = CLOCK_THREAD_CPUTIME_ID;
        double read = (double)N * K * sizeof(float) / 1e9;
        printf("# packing B, one thread, GB/s of f32 read: weights %.1f, activations %.1f\n",
               read / best(run_pack_weights, &p), read / best(run_pack_activations, &p));
    }
    vm_arena_free(arena);
    return done;
}

/* ---- row kernels ---- */

enum { ROW = 1536, ROWS = 16 }; /* in cache, as the model calls them */
typedef struct row_run {
    const vm_kernels *k;
    float *x, *y, *z, *d, *e; /* [ROWS * ROW] */
} row_run;

static void run_rmsnorm(void *context) {
    row_run *r = context;
    for (int i = 0; i < ROWS; i++) r->k->rmsnorm(r->x + i * ROW, r->y, 1e-5f, r->d + i * ROW, ROW);
}
static void run_softmax(void *context) {
    row_run *r = context;
    for (int i = 0; i < ROWS; i++) r->k->softmax(r->z + i * ROW, ROW);
}
static void run_swiglu(void *context) {
    row_run *r = context;
    for (int i = 0; i < ROWS; i++) r->k->swiglu(r->x + i * ROW, r->y + i * ROW, r->d + i * ROW, ROW);
}
static void run_swiglu_backward(void *context) {
    row_run *r = context;
    for (int i = 0; i < ROWS; i++)
        r->k->swiglu_backward(r->x + i * ROW, r->y + i * ROW, r->z + i * ROW, r->d + i * ROW, r->e + i * ROW, ROW);
}
static void run_dot(void *context) {
    row_run *r = context;
    for (int i = 0; i < ROWS; i++) sink = r->k->dot(r->x + i * ROW, r->y + i * ROW, ROW);
}

static bool bench_rows(const vm_kernels *table) {
    static const struct {
        const char *name;
        void (*fn)(void *);
    } rows[] = {{"dot", run_dot},
                {"rmsnorm", run_rmsnorm},
                {"softmax", run_softmax},
                {"swiglu", run_swiglu},
                {"swiglu_backward", run_swiglu_backward}};
    vm_arena *arena = vm_arena_create();
    bool done = arena != NULL;
    row_run r = {.k = table};
    float **arrays[] = {&r.x, &r.y, &r.z, &r.d, &r.e};
    for (size_t i = 0; done && i < sizeof arrays / sizeof *arrays; i++)
        *arrays[i] = random_values(arena, ROWS * ROW, &done);
    if (done) {
        clock_used = CLOCK_THREAD_CPUTIME_ID;
        printf("# %s rows of %d, elements/ns, one thread:", table->name, ROW);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            printf(" %s %.2f", rows[i].name, ROWS * ROW / best(rows[i].fn, &r) / 1e9);
        printf("\n");
    }
    vm_arena_free(arena);
    return done;
}

/* ---- stored types ---- */

enum { STORED = 1 << 16 }; /* elements: in cache, as the loader finds them a part of a row later */
typedef struct stored_run {
    uint32_t type;
    uint8_t *bytes;
    float *values; /* [STORED] */
} stored_run;

static void run_dequantize(void *context) {
    stored_run *r = context;
    vm_dequantize(r->type, r->bytes, STORED, r->values);
    sink += r->values[0];
}

static bool bench_types(void) {
    stored_run r = {.bytes = vm_malloc(STORED, sizeof(float)), .values = vm_malloc(STORED, sizeof(float))};
    bool done = r.bytes && r.values;
    for (size_t i = 0; done && i < STORED * sizeof(float); i++) r.bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    clock_used = CLOCK_THREAD_CPUTIME_ID;
    for (const char *before = "# to f32, one thread, GB/s of f32 written:"; done && r.type < 64; r.type++)
        if (vm_dequantize(r.type, NULL, 0, NULL)) {
            printf("%s %s %.1f", before, vm_dtype_name(r.type),
                   STORED * sizeof(float) / 1e9 / best(run_dequantize, &r));
            before = ",";
        }
    printf("\n");
    vm_free(r.bytes);
    vm_free(r.values);
    return done;
}

/* Is `name` named, or nothing of its kind? */
static bool wanted(const char *name, bool is_shape, int argc, char **argv) {
    bool any = false;
    for (int i = 1; i < argc; i++) {
        bool names_shape = false;
        for (int s = 0; s < VM_N_SHAPES; s++) names_shape = names_shape || strcmp(argv[i], vm_shapes[s].what) == 0;
        if (names_shape != is_shape) continue;
        if (strcmp(argv[i], name) == 0) return true;
        any = true;
    }
    return !any;
}

int main(int argc, char **argv) {
    const char *seconds = getenv("BENCH_SECONDS");
    if (seconds) seconds_a_line = atof(seconds);
    if (vm_pool_create(1, &pools[0]) != VMOER_OK || vm_pool_create(0, &pools[1]) != VMOER_OK) return 1;
    const vm_kernels *tables[8];
    int n_tables = vm_kernels_all(tables, 8);
    printf("isa,type,shape,m,n,k,gflops_1,of_peak_1,gflops_%d,of_peak_%d,speedup\n", vm_pool_threads(pools[1]),
           vm_pool_threads(pools[1]));
    bool done = bench_types();
    for (int t = 0; t < n_tables; t++) {
        if (!wanted(tables[t]->name, false, argc, argv)) continue;
        vm_kernels_force(tables[t]);
        done = bench_rows(tables[t]) && done;
        for (int type = VM_COMPUTE_F32; type <= VM_COMPUTE_BF16; type++) {
            double peaks[2] = {vm_peak_flops(tables[t], (vm_compute)type, pools[0], seconds_a_line) / 1e9,
                               vm_peak_flops(tables[t], (vm_compute)type, pools[1], seconds_a_line) / 1e9};
            printf("# %s %s peak, GFLOP/s: one thread %.0f, all %.0f\n", tables[t]->name,
                   type == VM_COMPUTE_F32 ? "f32" : "bf16", peaks[0], peaks[1]);
            done = bench_packing((vm_compute)type) && done;
            for (int s = 0; s < VM_N_SHAPES; s++) {
                if (!wanted(vm_shapes[s].what, true, argc, argv)) continue;
                if (strcmp(tables[t]->name, "ref") == 0 &&
                    vm_shapes[s].m * (double)vm_shapes[s].n * vm_shapes[s].k > 1e9)
                    continue;
                done = bench_shape(tables[t], (vm_compute)type, &vm_shapes[s], peaks) && done;
            }
        }
    }
    vm_pool_free(pools[0]);
    vm_pool_free(pools[1]);
    return done ? 0 : 1;
}
