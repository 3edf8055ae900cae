/* bench_kernels.c: GFLOP/s of vm_gemm per ISA, type and shape beside the measured peak of the instruction it is made
 * of, best of N, one CSV line each. Packing of A is inside the time (it happens in every call), packing of B is not
 * (weights are packed once; the pack_* lines give its rate). bench_kernels [isa or shape ...]   all of this CPU's by
 * default; BENCH_SECONDS: time a line may take (0.2) */
#include "base/memory.h"
#include "base/rng.h"
#include "base/threads.h"
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

typedef struct shape {
    const char *what;
    int jobs, m, n, k; /* jobs > 1: m varies around its value from job to job */
    bool transposed;   /* A is stored [k, m] */
} shape;

static const shape shapes[] = {{"qkv", 1, 1000, 960, 576, false},         {"attention_out", 1, 1000, 576, 576, false},
                               {"gate_up", 1, 1000, 3072, 576, false},    {"down", 1, 1000, 576, 1536, false},
                               {"down_300", 1, 300, 576, 1536, false},    {"qkv_600", 1, 600, 960, 576, false},
                               {"head", 1, 64, 49152, 576, false},        {"weight_gradient", 1, 3072, 576, 1000, true},
                               {"gradient_300", 1, 576, 576, 300, true},  {"experts_up", 24, 150, 96, 576, false},
                               {"experts_down", 24, 150, 576, 48, false}, {"lora_down", 1, 1000, 16, 576, false},
                               {"lora_up", 1, 1000, 576, 16, false},      {"router", 1, 1000, 24, 576, false},
                               {"row", 1, 1, 3072, 576, false},           {"square", 1, 2048, 2048, 2048, false}};
enum { MAX_JOBS = 24 };

typedef struct product {
    vm_pool *pool;
    vm_gemm_job jobs[MAX_JOBS];
    int n_jobs;
    vm_panel *panel;
    const float *b;
    bool failed;
} product;

static void run_product(void *context) {
    product *p = context;
    if (vm_gemm(p->pool, p->jobs, p->n_jobs) != VMOER_OK) p->failed = true;
}

static void run_pack_weights(void *context) { /* from [n, k] */
    product *p = context;
    vm_panel_pack(p->pool, p->panel, p->panel->type, p->panel->k, p->panel->n, p->b, 1, (size_t)p->panel->k, NULL);
}

static void run_pack_activations(void *context) { /* from [k, n] */
    product *p = context;
    vm_panel_pack(p->pool, p->panel, p->panel->type, p->panel->k, p->panel->n, p->b, (size_t)p->panel->n, 1, NULL);
}

static float *values(size_t n) {
    float *x = vm_malloc(n, sizeof *x);
    vm_rng rng = vm_rng_start(1, VM_RNG_INIT, 0);
    for (size_t i = 0; x && i < n; i++) x[i] = (float)vm_rng_uniform(&rng) - 0.5f;
    return x;
}

static bool bench_shape(const vm_kernels *table, vm_compute type, const shape *s, double peaks[2]) {
    static const char *const type_names[] = {"f32", "bf16"};
    product p = {.n_jobs = s->jobs};
    int rows = 0, m[MAX_JOBS];
    for (int j = 0; j < s->jobs; j++) rows += m[j] = s->jobs == 1 ? s->m : s->m / 8 + s->m * ((7 * j) % 24) / 12;
    float *a = values((size_t)rows * (size_t)s->k), *b = values((size_t)s->k * (size_t)s->n);
    float *c = values((size_t)rows * (size_t)s->n);
    vm_panel panel = {.type = type, .k = s->k, .n = s->n, .data = vm_malloc(vm_panel_bytes(type, s->k, s->n), 1)};
    bool done = a && b && c && panel.data;
    if (done) {
        p.panel = &panel;
        p.b = b;
        run_pack_weights(&p);
        for (int j = 0, row = 0; j < s->jobs; row += m[j++])
            p.jobs[j] = (vm_gemm_job){.m = m[j],
                                      .a = s->transposed ? a : a + (size_t)row * (size_t)s->k,
                                      .a_m_stride = s->transposed ? 1 : (size_t)s->k,
                                      .a_k_stride = s->transposed ? (size_t)s->m : 1,
                                      .b = &panel,
                                      .c = c + (size_t)row * (size_t)s->n,
                                      .ldc = (size_t)s->n};
        double rates[2];
        for (int t = 0; t < 2; t++) {
            p.pool = pools[t];
            clock_used = t == 0 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
            double flops = 2.0 * rows * s->n * s->k;
            rates[t] = flops / best(run_product, &p) / 1e9;
        }
        done = !p.failed;
        printf("%s,%s,%s,%d,%d,%d,%d,%.1f,%.2f,%.1f,%.2f,%.2f\n", table->name, type_names[type], s->what, s->jobs, rows,
               s->n, s->k, rates[0], peaks[0] > 0 ? rates[0] / peaks[0] : 0, rates[1],
               peaks[1] > 0 ? rates[1] / peaks[1] : 0, rates[1] / rates[0]);
        fflush(stdout);
    }
    vm_free(a);
    vm_free(b);
    vm_free(c);
    vm_free(panel.data);
    return done;
}

static bool bench_packing(vm_compute type) {
    enum { N = 960, K = 576 };
    product p = {.pool = pools[0]};
    float *b = values((size_t)N * K);
    vm_panel panel = {.type = type, .k = K, .n = N, .data = vm_malloc(vm_panel_bytes(type, K, N), 1)};
    bool done = b && panel.data;
    if (done) {
        p.b = b;
        p.panel = &panel;
        double read = (double)N * K * sizeof(float) / 1e9;
        printf("# packing B, one thread, GB/s of f32 read: weights %.1f, activations %.1f\n",
               read / best(run_pack_weights, &p), read / best(run_pack_activations, &p));
    }
    vm_free(b);
    vm_free(panel.data);
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
    row_run r = {
        table, values(ROWS * ROW), values(ROWS * ROW), values(ROWS * ROW), values(ROWS * ROW), values(ROWS * ROW)};
    bool done = r.x && r.y && r.z && r.d && r.e;
    if (done) {
        printf("# %s rows of %d, elements/ns, one thread:", table->name, ROW);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            printf(" %s %.2f", rows[i].name, ROWS * ROW / best(rows[i].fn, &r) / 1e9);
        printf("\n");
    }
    vm_free(r.x);
    vm_free(r.y);
    vm_free(r.z);
    vm_free(r.d);
    vm_free(r.e);
    return done;
}

/* Is `name` named, or nothing of its kind? */
static bool wanted(const char *name, bool is_shape, int argc, char **argv) {
    bool any = false;
    for (int i = 1; i < argc; i++) {
        bool names_shape = false;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            names_shape = names_shape || strcmp(argv[i], shapes[s].what) == 0;
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
    printf("isa,type,shape,jobs,m,n,k,gflops_1,of_peak_1,gflops_%d,of_peak_%d,speedup\n", vm_pool_threads(pools[1]),
           vm_pool_threads(pools[1]));
    bool done = true;
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
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
                if (!wanted(shapes[s].what, true, argc, argv)) continue;
                if (strcmp(tables[t]->name, "ref") == 0 && shapes[s].m * (double)shapes[s].n * shapes[s].k > 1e9)
                    continue;
                done = bench_shape(tables[t], (vm_compute)type, &shapes[s], peaks) && done;
            }
        }
    }
    vm_pool_free(pools[0]);
    vm_pool_free(pools[1]);
    return done ? 0 : 1;
}
