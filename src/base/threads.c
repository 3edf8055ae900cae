/* threads.c: the pool. One 64-bit word, the gate, says whether a job is open, which one, and how many workers are in
 * it.
 *
 *   caller: writes the job, opens the gate with a new job number, takes tasks itself until none is left, closes the
 *           gate, waits until the last worker inside has left.
 *   worker: sees an open gate with a number it does not know, enters (adds one), takes tasks, leaves.
 *
 * A worker that wakes too late finds the gate shut and is not waited for, so a short job never pays for a slow wake-up.
 * Both sides spin for some hundred microseconds (the gap between two layers' jobs) before they sleep.
 *
 * Every thread begins with its own share of the tasks, the same part of them in every job, and takes them in order; who
 * has none left takes the last ones of another. So the rows that a thread wrote in one job are those it reads in the
 * next, and stay in its cache: lines that travel between cores cost more than most of the arithmetic. */
#include "base/threads.h"

#include "base/memory.h"
#include "base/status.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { MAX_THREADS = 1024, SPINS = 4000 };

/* gate = job number << 32 | OPEN | members */
#define OPEN ((uint64_t)1 << 31)
#define MEMBERS (OPEN - 1)

typedef struct worker {
    vm_pool *pool;
    pthread_t thread;
    int index;
} worker;

/* Tasks [first, end) of a thread's share that are left: first << 32 | end. */
typedef struct share {
    _Alignas(64) _Atomic uint64_t left;
} share;

struct vm_pool {
    int n_threads;   /* the caller included */
    int spins;       /* 0 when there are more threads than CPUs: spinning would take the CPU from who has work */
    worker *workers; /* [n_threads - 1] */
    share *shares;   /* [n_threads] */

    /* The job: written by the caller while the gate is shut and empty. */
    vm_task_fn fn;
    void *context;

    _Alignas(64) _Atomic uint64_t gate;
    _Alignas(64) atomic_int sleepers; /* workers that sleep or are about to */
    atomic_bool caller_sleeps;
    atomic_bool stop;
    pthread_mutex_t lock; /* only for sleeping and waking */
    pthread_cond_t wake, left;
};

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int cpu_count(void) {
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (!set) break;
        size_t bytes = CPU_ALLOC_SIZE((size_t)cpus);
        int failed = sched_getaffinity(0, bytes, set);
        int saved = errno;
        int count = failed ? 0 : CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (count > 0) return count;
        if (saved != EINVAL) break; /* EINVAL: the kernel knows more CPUs than the set holds */
    }
    return 1;
}

/* The first task of a share, or its last; -1: none is left. */
static int take(share *s, bool last) {
    uint64_t left = atomic_load_explicit(&s->left, memory_order_relaxed);
    for (;;) {
        uint32_t first = (uint32_t)(left >> 32), end = (uint32_t)left;
        if (first >= end) return -1;
        uint64_t rest = last ? left - 1 : left + ((uint64_t)1 << 32);
        if (atomic_compare_exchange_weak_explicit(&s->left, &left, rest, memory_order_relaxed, memory_order_relaxed))
            return (int)(last ? end - 1 : first);
    }
}

static void take_tasks(vm_pool *pool, int worker_index) {
    for (int i = 0; i < pool->n_threads; i++) {
        share *s = &pool->shares[(worker_index + i) % pool->n_threads];
        for (int task; (task = take(s, i > 0)) >= 0;) pool->fn(pool->context, task, worker_index);
    }
}

static bool has_new_job(uint64_t gate, uint32_t last_job) {
    return (gate & OPEN) && (uint32_t)(gate >> 32) != last_job;
}

/* Returns when there is a job this worker has not been in, or the pool ends. */
static void wait_for_job(vm_pool *pool, uint32_t last_job) {
    for (int i = 0; i < pool->spins; i++) {
        if (has_new_job(atomic_load_explicit(&pool->gate, memory_order_relaxed), last_job)) return;
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed)) return;
        cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    /* Announce first, look then; the caller opens first, looks for sleepers then (both sequentially consistent):
     * one of the two sees the other. */
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_new_job(atomic_load(&pool->gate), last_job) && !atomic_load(&pool->stop))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *argument) {
    worker *self = argument;
    vm_pool *pool = self->pool;
    uint32_t last_job = 0;
    while (!atomic_load_explicit(&pool->stop, memory_order_relaxed)) {
        uint64_t gate = atomic_load_explicit(&pool->gate, memory_order_relaxed);
        if (!has_new_job(gate, last_job)) {
            wait_for_job(pool, last_job);
            continue;
        }
        if (!atomic_compare_exchange_weak_explicit(&pool->gate, &gate, gate + 1, memory_order_acquire,
                                                   memory_order_relaxed))
            continue;
        last_job = (uint32_t)(gate >> 32);
        take_tasks(pool, self->index);
        gate = atomic_fetch_sub(&pool->gate, 1) - 1;
        if ((gate & (OPEN | MEMBERS)) == 0 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->left);
            pthread_mutex_unlock(&pool->lock);
        }
    }
    return NULL;
}

/* Shuts the gate and waits until nobody is inside. */
static void close_job(vm_pool *pool) {
    if ((atomic_fetch_and(&pool->gate, ~OPEN) & MEMBERS) == 0) return;
    for (int i = 0; i < pool->spins; i++) {
        if ((atomic_load_explicit(&pool->gate, memory_order_acquire) & MEMBERS) == 0) return;
        cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while ((atomic_load(&pool->gate) & MEMBERS) != 0) pthread_cond_wait(&pool->left, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

void vm_pool_run(vm_pool *pool, int n_tasks, vm_task_fn fn, void *context) {
    if (!pool || pool->n_threads == 1 || n_tasks <= 1) {
        for (int task = 0; task < n_tasks; task++) fn(context, task, 0);
        return;
    }
    pool->fn = fn;
    pool->context = context;
    for (int64_t t = 0; t < pool->n_threads; t++) {
        uint64_t first = (uint64_t)(n_tasks * t / pool->n_threads),
                 end = (uint64_t)(n_tasks * (t + 1) / pool->n_threads);
        atomic_store_explicit(&pool->shares[t].left, first << 32 | end, memory_order_relaxed);
    }
    uint32_t job = (uint32_t)(atomic_load_explicit(&pool->gate, memory_order_relaxed) >> 32) + 1;
    if (job == 0) job = 1; /* 0: what a new worker has seen, nothing */
    atomic_store(&pool->gate, (uint64_t)job << 32 | OPEN);

    int sleepers = atomic_load(&pool->sleepers);
    if (sleepers > 0) {
        pthread_mutex_lock(&pool->lock);
        if (sleepers < n_tasks) {
            pthread_cond_broadcast(&pool->wake);
        } else {
            for (int i = 1; i < n_tasks; i++) pthread_cond_signal(&pool->wake);
        }
        pthread_mutex_unlock(&pool->lock);
    }
    take_tasks(pool, 0);
    close_job(pool);
}

static void stop_workers(vm_pool *pool, int started) {
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < started; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->left);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    vm_free(pool->workers);
    vm_free(pool->shares);
    vm_free(pool);
}

vmoer_status vm_pool_create(int n_threads, vm_pool **out) {
    *out = NULL;
    int cpus = cpu_count();
    if (n_threads <= 0) n_threads = cpus < MAX_THREADS ? cpus : MAX_THREADS;
    if (n_threads > MAX_THREADS)
        return vm_error(VMOER_ERROR_LIMIT, "%d threads: at most %d", n_threads, (int)MAX_THREADS);

    vm_pool *pool = vm_calloc(1, sizeof *pool);
    worker *workers = vm_calloc((size_t)n_threads, sizeof *workers);
    share *shares = vm_calloc((size_t)n_threads, sizeof *shares);
    if (!pool || !workers || !shares) {
        vm_free(pool);
        vm_free(workers);
        vm_free(shares);
        return vm_error(VMOER_ERROR_MEMORY, "thread pool: out of memory");
    }
    pool->n_threads = n_threads;
    pool->spins = n_threads <= cpus ? SPINS : 0;
    pool->workers = workers;
    pool->shares = shares;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->left, NULL);

    /* Signals are the program's business: the workers take none. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0, started = 0;
    for (; started < n_threads - 1; started++) {
        workers[started] = (worker){.pool = pool, .index = started + 1};
        failed = pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]);
        if (failed) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        stop_workers(pool, started);
        return vm_error(VMOER_ERROR_MEMORY, "thread %d of %d cannot be started: %s", started + 2, n_threads,
                        strerror(failed));
    }
    *out = pool;
    return VMOER_OK;
}

void vm_pool_free(vm_pool *pool) {
    if (pool) stop_workers(pool, pool->n_threads - 1);
}

int vm_pool_threads(const vm_pool *pool) { return pool ? pool->n_threads : 1; }

typedef struct range {
    size_t n, piece;
    vm_range_fn fn;
    void *context;
} range;

static void run_piece(void *context, int task, int index) {
    const range *r = context;
    size_t begin = (size_t)task * r->piece, left = r->n - begin;
    r->fn(r->context, begin, begin + (left < r->piece ? left : r->piece), index);
}

void vm_pool_run_range(vm_pool *pool, size_t n, size_t piece, vm_range_fn fn, void *context) {
    range r = {n, piece, fn, context};
    vm_pool_run(pool, (int)((n + piece - 1) / piece), run_piece, &r);
}
