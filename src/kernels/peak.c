/* peak.c: see peak.h. */
#include "kernels/peak.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "kernels/gemm.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The shortest run of fn(context) in `seconds`, at least three. */
static double shortest(const vm_pool *pool, double seconds, void (*fn)(void *), void *context) {
    clockid_t id = vm_pool_threads(pool) > 1 ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
    struct timespec t;
    double best = 1e30, spent = 0;
    for (int i = 0; i < 3 || spent < seconds; i++) {
        clock_gettime(id, &t);
        double start = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
        fn(context);
        clock_gettime(id, &t);
        double took = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec - start;
        spent += took;
        if (took < best) best = took;
    }
    return best;
}

/* ---- arithmetic ---- */

enum { STEPS = 50000 };

typedef struct arithmetic {
    vm_pool *pool;
    const vm_peak_kernel *kernel;
    unsigned char data[VM_PEAK_DATA] __attribute__((aligned(64)));
} arithmetic;

static void run_kernel(void *context, int task, int worker) {
    (void)task, (void)worker;
    const arithmetic *a = context;
    volatile float sink = a->kernel->run(a->data, STEPS);
    (void)sink;
}

static void run_arithmetic(void *context) {
    arithmetic *a = context;
    vm_pool_run(a->pool, vm_pool_threads(a->pool), run_kernel, a);
}

static const vm_peak_kernel *kernel_of(const vm_kernels *table, vm_compute type) {
#if defined(__x86_64__)
    bool bf16 = type == VM_COMPUTE_BF16;
    if (table == &vm_kernels_avx2) return &vm_peak_avx2;
    if (table == &vm_kernels_amx && bf16) return &vm_peak_amx;
    if (table == &vm_kernels_avx512_bf16 && bf16) return &vm_peak_avx512_bf16;
    if (table != &vm_kernels_ref) return &vm_peak_avx512;
#else
    (void)table, (void)type;
#endif
    return NULL;
}

double vm_peak_flops(const vm_kernels *table, vm_compute type, vm_pool *pool, double seconds) {
    arithmetic a = {.pool = pool, .kernel = kernel_of(table, type)};
    if (!a.kernel) return 0;
    vm_rng rng = vm_rng_start(1, VM_RNG_INIT, 1);
    for (size_t i = 0; i < sizeof a.data; i += 2) {
        uint16_t h = vm_f32_to_bf16(vm_rng_normal(&rng));
        memcpy(a.data + i, &h, 2);
    }
    return vm_pool_threads(pool) * a.kernel->flops * STEPS / shortest(pool, seconds, run_arithmetic, &a);
}

/* ---- reading ---- */

enum {
    PIECE = 4 << 20, /* bytes of a task */
    STREAMS = 8      /* independent runs in it, so that the CPU has many lines under way */
};

typedef struct reading {
    vm_pool *pool;
    uint8_t *data;
    size_t size; /* a multiple of PIECE */
} reading;

static void fill(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const reading *r = context;
    memset(r->data + begin, (int)(begin / PIECE) | 1, end - begin);
}

static void read_piece(void *context, int task, int worker) {
    (void)worker;
    enum { STREAM = PIECE / STREAMS, LINE = 64 };
    const reading *r = context;
    const uint8_t *piece = r->data + (size_t)task * PIECE;
    uint64_t sum[STREAMS] = {0};
    for (size_t at = 0; at < STREAM; at += LINE)
        for (size_t s = 0; s < STREAMS; s++) {
            uint64_t line[LINE / 8];
            memcpy(line, piece + s * STREAM + at, sizeof line);
            for (size_t i = 0; i < LINE / 8; i++) sum[s] += line[i];
        }
    for (size_t s = 1; s < STREAMS; s++) sum[0] += sum[s];
    volatile uint64_t sink = sum[0];
    (void)sink;
}

static void run_reading(void *context) {
    reading *r = context;
    vm_pool_run(r->pool, (int)(r->size / PIECE), read_piece, r);
}

vmoer_status vm_peak_read(vm_pool *pool, double seconds, double *out) {
    /* Twice the last cache, as far as the machine has room: what a round leaves there the next one does not come to. */
    size_t least = (size_t)256 << 20, most = (size_t)1 << 30, cache = 0, page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (size_t)sysconf(_SC_PHYS_PAGES) / 8 * page;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    cache = l3 > 0 ? (size_t)l3 : 0;
#endif
    if (room < most) most = room;
    size_t size = 2 * cache > least ? 2 * cache : least;
    if (size > most) size = most;
    reading r = {.pool = pool, .size = (size + PIECE - 1) / PIECE * PIECE};
    void *map = mmap(NULL, r.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return vm_error(VMOER_ERROR_MEMORY, "no memory to measure reading: %zu bytes", r.size);
    madvise(map, r.size, MADV_HUGEPAGE);
    r.data = map;
    vm_pool_run_range(pool, r.size, PIECE, fill, &r);
    *out = (double)r.size / shortest(pool, seconds, run_reading, &r);
    munmap(map, r.size);
    return VMOER_OK;
}
