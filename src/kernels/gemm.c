/* gemm.c: packing of both operands and the spreading of products over the threads. The arithmetic is in the ISA
 * folders.
 *
 * Panels (B): F32 [ceil(n/16)][k][16] f32; BF16 [ceil(n/16)][ceil(k/32) * 16 pairs][16][2] bf16, zero-padded.
 * A block of rows of A is packed into the thread's scratch and multiplied by a group of panels: at most 256 rows at
 * once, or 32 at a time where these stay in the first-level cache and the panels in the second. A task is such a pair;
 * every element of C is written by one task and summed over the whole k inside it, so the cut into tasks, which depends
 * on the number of threads and on the caches, never shows in the result. */
#include "kernels/gemm.h"

#include "base/memory.h"
#include "base/status.h"
#include "kernels/count.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum {
    PANEL = VM_GEMM_PANEL,
    BLOCK_ROWS = VM_GEMM_BLOCK_ROWS,
    STRIP_ROWS = 32,      /* packed just before they are multiplied where they stay in the first-level cache */
    LONG_ROW = 256,       /* columns of C whose runs the hardware foresees */
    SPLIT_ROWS = 64,      /* below this the panels are read too often for the rows they serve */
    TASKS_PER_THREAD = 4, /* enough that the last task to end is short */
    PANELS_PER_PACK_TASK = 4
};
#define SPLIT_WORK 500000.0 /* multiply-adds that outweigh the start of a task */

static int panel_count(int n) { return vm_ceil_div(n, PANEL); }

size_t vm_panel_bytes(vm_compute type, int k, int n) {
    return (size_t)panel_count(n) * vm_gemm_depth(type, k) * PANEL * sizeof(uint32_t);
}

/* ---- packing ---- */

/* A matrix seen as [outer, k]: the rows of A or the columns of B. */
typedef struct source {
    vm_compute type;
    int k;
    const float *data;
    size_t outer_stride, k_stride;
    const int32_t *outer_index, *k_index; /* NULL: identity */
    const float *tail;                    /* the last tail_k of k; NULL: none */
    size_t tail_stride;
    int tail_k;
} source;

/* Where words go: the block of outer 16 * p and word w starts at p * outer_step + w * word_step, its rows `stride`
 * apart. */
typedef struct destination {
    uint32_t *words;
    size_t outer_step, word_step, stride;
    bool by_word;
    bool exact; /* by_word: words past k are left alone, not set to 0 */
} destination;

static const float *outer_line(const source *s, int i) {
    return s->data + (size_t)(s->outer_index ? s->outer_index[i] : i) * s->outer_stride;
}

static size_t k_offset(const source *s, int l) { return (size_t)(s->k_index ? s->k_index[l] : l) * s->k_stride; }

/* Fills in the destination of one block and packs it. */
static void pack_at(const vm_gemm_kernels *kernels, const source *s, const destination *d, vm_pack_block *block,
                    int outer, int k_first) {
    size_t word = (size_t)(s->type == VM_COMPUTE_BF16 ? k_first / 2 : k_first);
    block->dst = d->words + (size_t)(outer / PANEL) * d->outer_step + word * d->word_step;
    int left = s->type == VM_COMPUTE_BF16 ? (s->k - k_first + 1) / 2 : s->k - k_first;
    block->rows = d->by_word && (d->exact || s->type == VM_COMPUTE_F32) ? vm_at_most(left, PANEL) : PANEL;
    kernels->pack(block);
}

static int block_depth(vm_compute type) { return type == VM_COMPUTE_BF16 ? 2 * PANEL : PANEL; }

/* Outer [first, first + count), whose neighbours are neighbours in memory. */
static void pack_across(const vm_gemm_kernels *kernels, const source *s, int first, int count, const destination *d) {
    int depth = block_depth(s->type);
    vm_pack_block block = {.type = s->type, .along_k = false, .by_word = d->by_word, .dst_stride = d->stride};
    for (int l = 0; l < s->k; l += depth) {
        block.lines = vm_at_most(s->k - l, depth);
        for (int j = 0; j < block.lines; j++) block.line[j] = s->data + k_offset(s, l + j);
        for (int i = 0; i < count; i += PANEL) {
            block.offset = (size_t)(first + i);
            block.valid = vm_at_most(count - i, PANEL);
            pack_at(kernels, s, d, &block, i, l);
        }
    }
}

static bool runs_across(const source *s) { return s->outer_stride == 1 && !s->outer_index; }
static bool runs_along_k(const source *s) { return s->k_stride == 1 && !s->k_index; }

/* Elements [l, l + n) of a line, collected into stage where they are not neighbours in memory. */
static const float *line_part(const source *s, const float *line, int l, int n, float *stage) {
    if (runs_along_k(s)) return line + l;
    for (int x = 0; x < n; x++) stage[x] = line[k_offset(s, l + x)];
    return stage;
}

/* Row i of A from where its last whole group before the tail ends: what is left of the line, then the tail. */
static void pack_tail(const vm_gemm_kernels *kernels, const source *s, int i, const float *line, int from,
                      uint32_t *dst, size_t step) {
    const float *tail = s->tail + (size_t)i * s->tail_stride;
    int body = s->k - s->tail_k, depth = block_depth(s->type);
    float stage[2 * PANEL];
    for (int l = from; l < s->k; l += depth, dst += step) {
        int n = vm_at_most(s->k - l, depth);
        for (int x = 0; x < n; x++) stage[x] = l + x < body ? line[l + x] : tail[l + x - body];
        kernels->pack_row(s->type, stage, n, dst, step, NULL);
    }
}

/* Rows [first, first + count) of A. */
static void pack_rows(const vm_gemm_kernels *kernels, const source *s, int first, int count, const destination *d) {
    if (runs_across(s)) {
        pack_across(kernels, s, first, count, d);
        return;
    }
    size_t step = PANEL * d->word_step;
    for (int i = 0; i < count; i++) {
        const float *line = outer_line(s, first + i);
        uint32_t *dst = d->words + (size_t)(i / PANEL) * d->outer_step + (size_t)(i % PANEL) * d->stride;
        int depth = block_depth(s->type);
        if (runs_along_k(s)) {
            int whole = s->tail ? (s->k - s->tail_k) / depth * depth : s->k;
            kernels->pack_row(s->type, line, whole, dst, step, i + 1 < count ? outer_line(s, first + i + 1) : NULL);
            if (s->tail) pack_tail(kernels, s, first + i, line, whole, dst + (size_t)(whole / depth) * step, step);
            continue;
        }
        float stage[2 * PANEL];
        for (int l = 0; l < s->k; l += depth, dst += step) {
            int n = vm_at_most(s->k - l, depth);
            kernels->pack_row(s->type, line_part(s, line, l, n, stage), n, dst, step, NULL);
        }
    }
}

/* Columns [first, first + count) of B. */
static void pack_columns(const vm_gemm_kernels *kernels, const source *s, int first, int count, const destination *d) {
    if (runs_across(s)) {
        pack_across(kernels, s, first, count, d);
        return;
    }
    float stage[PANEL][2 * PANEL];
    int depth = block_depth(s->type);
    vm_pack_block block = {.type = s->type, .along_k = true, .by_word = true, .dst_stride = d->stride};
    for (int i = 0; i < count; i += PANEL) {
        block.lines = vm_at_most(count - i, PANEL);
        for (int l = 0; l < s->k; l += depth) {
            block.valid = vm_at_most(s->k - l, depth);
            for (int j = 0; j < block.lines; j++)
                block.line[j] = line_part(s, outer_line(s, first + i + j), l, block.valid, stage[j]);
            pack_at(kernels, s, d, &block, i, l);
        }
    }
}

typedef struct panel_pack {
    const vm_gemm_kernels *kernels;
    source source;
    uint32_t *words;
    size_t panel_words;
    int n;
} panel_pack;

static void panel_pack_task(void *context, int task, int worker) {
    (void)worker;
    const panel_pack *p = context;
    int first = task * PANELS_PER_PACK_TASK;
    int count = vm_at_most(p->n - first * PANEL, PANELS_PER_PACK_TASK * PANEL);
    destination d = {p->words + (size_t)first * p->panel_words, p->panel_words, PANEL, PANEL, true, false};
    pack_columns(p->kernels, &p->source, first * PANEL, count, &d);
}

void vm_panel_pack(vm_pool *pool, vm_panel *dst, vm_compute type, int k, int n, const float *src, size_t k_stride,
                   size_t n_stride, const int32_t *k_index) {
    dst->type = type;
    dst->k = k;
    dst->n = n;
    panel_pack p = {.kernels = vm_kernels_get()->gemm,
                    .source = {type, k, src, n_stride, k_stride, NULL, k_index, NULL, 0, 0},
                    .words = dst->data,
                    .panel_words = vm_gemm_depth(type, k) * PANEL,
                    .n = n};
    int tasks = (panel_count(n) + PANELS_PER_PACK_TASK - 1) / PANELS_PER_PACK_TASK;
    vm_pool_run((double)k * n < SPLIT_WORK / 8 ? NULL : pool, tasks, panel_pack_task, &p);
}

void vm_panel_extend(vm_panel *dst, const vm_panel *src) {
    size_t words = vm_gemm_depth(dst->type, dst->k) * PANEL, kept = vm_gemm_depth(src->type, src->k) * PANEL;
    for (int p = 0; p < panel_count(src->n); p++) {
        uint32_t *to = (uint32_t *)dst->data + (size_t)p * words;
        memcpy(to, (const uint32_t *)src->data + (size_t)p * kept, kept * sizeof *to);
        memset(to + kept, 0, (words - kept) * sizeof *to);
    }
}

void vm_panel_set_rows(vm_panel *dst, int k_first, int rows, const float *src, size_t ld) {
    source s = {dst->type, rows, src, 1, ld, NULL, NULL, NULL, 0, 0};
    size_t words = vm_gemm_depth(dst->type, dst->k) * PANEL,
           skip = (size_t)(dst->type == VM_COMPUTE_BF16 ? k_first / 2 : k_first) * PANEL;
    destination d = {(uint32_t *)dst->data + skip, words, PANEL, PANEL, true, true};
    pack_across(vm_kernels_get()->gemm, &s, 0, dst->n, &d);
}

void vm_panel_set_columns(vm_panel *dst, int n_first, int columns, const float *src, size_t ld) {
    size_t k = (size_t)dst->k, words = vm_gemm_depth(dst->type, dst->k) * PANEL;
    for (int n = n_first; n < n_first + columns; n++, src += ld) {
        float *to = (float *)dst->data + (size_t)(n / PANEL) * words + (size_t)(n % PANEL);
        for (size_t l = 0; l < k; l++) to[l * PANEL] = src[l];
    }
}

/* ---- products ---- */

/* A thread keeps its scratch until it ends. */
typedef struct scratch {
    void *data;
    size_t bytes;
} scratch;
static pthread_key_t scratch_key;
static bool scratch_key_valid;

static void scratch_free(void *value) {
    scratch *s = value;
    vm_free(s->data);
    vm_free(s);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
/* Bytes that stay in the second-level cache: of panels, beside A and C that pass; of packed rows, beside two panels. */
static size_t panel_room, row_room;

static void init(void) {
    scratch_key_valid = pthread_key_create(&scratch_key, scratch_free) == 0;
    long cache = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    size_t size = cache > 0 ? (size_t)cache : (size_t)1 << 20;
    panel_room = size / 8 * 5;
    row_room = size / 2;
}

/* Do 32 rows of A stay in the first-level cache, and all panels in the second while they pass? */
static bool rows_stay(const vm_panel *b) {
    return b->n >= LONG_ROW && vm_gemm_depth(b->type, b->k) <= VM_GEMM_STRIP_WORDS &&
           vm_panel_bytes(b->type, b->k, b->n) <= panel_room;
}

/* At least `bytes` bytes; NULL: out of memory. */
static void *scratch_get(size_t bytes) {
    if (!scratch_key_valid) return NULL;
    scratch *s = pthread_getspecific(scratch_key);
    if (!s) {
        s = vm_calloc(1, sizeof *s);
        if (!s) return NULL;
        if (pthread_setspecific(scratch_key, s) != 0) {
            vm_free(s);
            return NULL;
        }
    }
    if (s->bytes < bytes) {
        vm_free(s->data);
        s->data = vm_malloc(bytes, 1);
        s->bytes = s->data ? bytes : 0;
    }
    return s->data;
}

/* How one job is cut: tasks [first_task, first_task + blocks * groups), the groups of a row block next to each other.
 */
typedef struct plan {
    int first_task;
    int block_rows, blocks;
    int group_panels, groups;
} plan;

typedef struct gemm_run {
    const vm_gemm_kernels *kernels;
    const vm_gemm_job *jobs; /* [n_jobs] */
    const plan *plans;       /* [n_jobs + 1], the last one only ends the tasks */
    int n_jobs;
    int *packed; /* [threads] a task whose row block lies packed in the worker's scratch, -1: none */
    atomic_bool out_of_memory;
} gemm_run;

static int job_of_task(const gemm_run *run, int task) {
    int low = 0, high = run->n_jobs; /* plans[low].first_task <= task < plans[high].first_task */
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (run->plans[middle].first_task <= task)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void gemm_task(void *context, int task, int worker) {
    gemm_run *run = context;
    int j = job_of_task(run, task);
    const vm_gemm_job *job = &run->jobs[j];
    const vm_panel *b = job->b;
    const plan *p = &run->plans[j];
    int block = (task - p->first_task) / p->groups, group = (task - p->first_task) % p->groups;
    int first_row = block * p->block_rows, rows = vm_at_most(job->m - first_row, p->block_rows);
    int first_panel = group * p->group_panels;
    size_t stride = vm_gemm_row_stride(b->type, b->k), panel_words = vm_gemm_depth(b->type, b->k) * PANEL;

    bool tiles = run->kernels->a_tiles[b->type];
    bool stay = tiles && rows_stay(b);
    int strip = stay ? vm_at_most(rows, STRIP_ROWS) : rows;

    uint32_t *a = NULL;
    if (b->k > 0) {
        a = scratch_get((size_t)vm_ceil_div(strip, PANEL) * PANEL * stride * sizeof *a);
        if (!a) {
            atomic_store(&run->out_of_memory, true);
            return;
        }
    }
    source s = {b->type,      b->k,         job->a,    job->a_m_stride,  job->a_k_stride,
                job->m_index, job->k_index, job->tail, job->tail_stride, job->tail_k};
    destination d = {a, PANEL * stride, tiles ? PANEL : 1, tiles ? PANEL : stride, false, false};
    vm_gemm_block product = {.n = vm_at_most(b->n - first_panel * PANEL, p->group_panels * PANEL),
                             .words = (int)vm_gemm_depth(b->type, b->k),
                             .rows_stay = stay,
                             .a = a,
                             .a_stride = stride,
                             .a_tiles = tiles,
                             .b = b->k > 0 ? (const uint32_t *)b->data + (size_t)first_panel * panel_words : NULL,
                             .panel_words = panel_words,
                             .ldc = job->ldc,
                             .accumulate = job->accumulate};
    bool packed = run->packed[worker] == task - group;
    run->packed[worker] = strip == rows ? task - group : -1;
    for (int row = first_row; row < first_row + rows; row += strip) {
        product.m = vm_at_most(first_row + rows - row, strip);
        product.c = job->c + (size_t)row * job->ldc + (size_t)first_panel * PANEL;
        if (b->k > 0 && !packed) pack_rows(run->kernels, &s, row, product.m, &d);
        run->kernels->multiply[b->type](&product);
    }
}

static double job_work(const vm_gemm_job *job) { return (double)job->m * job->b->n * (job->b->k + 1); }

/* Cuts a job into about work / share tasks: by rows while the blocks stay tall enough, then by panels. */
static plan make_plan(const vm_gemm_job *job, int tile_rows, double share, int first_task) {
    plan p = {.first_task = first_task, .block_rows = 1, .group_panels = 1, .groups = 1};
    if (job->m <= 0 || job->b->n <= 0) return p;
    size_t row_bytes = vm_gemm_row_stride(job->b->type, job->b->k) * sizeof(uint32_t);
    int most = row_bytes ? vm_at_most((int)(row_room / row_bytes), BLOCK_ROWS) : BLOCK_ROWS;
    most = most / tile_rows * tile_rows;
    if (most < tile_rows) most = tile_rows;

    double wanted = share > 0 ? job_work(job) / share : 1;
    int parts = wanted < 1 ? 1 : wanted > 1e6 ? 1000000 : (int)(wanted + 0.999);
    int blocks = vm_ceil_div(job->m, most);
    if (parts > blocks) blocks = vm_at_most(parts, job->m / SPLIT_ROWS > blocks ? job->m / SPLIT_ROWS : blocks);
    p.block_rows = vm_at_most(vm_ceil_div(vm_ceil_div(job->m, blocks), tile_rows) * tile_rows, most);
    p.blocks = vm_ceil_div(job->m, p.block_rows);
    int pairs = vm_ceil_div(panel_count(job->b->n), 2);                /* kernels take two panels at a time */
    int groups = vm_at_most((parts + p.blocks / 2) / p.blocks, pairs); /* every further group may pack the rows again */
    if (groups < 1) groups = 1;
    p.group_panels = 2 * vm_ceil_div(pairs, groups);
    p.groups = vm_ceil_div(panel_count(job->b->n), p.group_panels);
    return p;
}

vmoer_status vm_gemm(vm_pool *pool, const vm_gemm_job *jobs, int n_jobs) {
    if (n_jobs <= 0) return VMOER_OK;
    pthread_once(&once, init);
    int threads = vm_pool_threads(pool);
    size_t plan_bytes = ((size_t)n_jobs + 1) * sizeof(plan);
    plan *plans = vm_malloc(plan_bytes + (size_t)threads * sizeof(int), 1);
    if (!plans) return vm_error(VMOER_ERROR_MEMORY, "matrix product: no memory for the plan of %d jobs", n_jobs);
    gemm_run run = {.kernels = vm_kernels_get()->gemm,
                    .jobs = jobs,
                    .plans = plans,
                    .n_jobs = n_jobs,
                    .packed = (int *)(plans + n_jobs + 1)};
    atomic_init(&run.out_of_memory, false);
    for (int t = 0; t < threads; t++) run.packed[t] = -1;

    double work = 0;
    uint64_t products = 0;
    for (int j = 0; j < n_jobs; j++) {
        work += job_work(&jobs[j]);
        products += (uint64_t)jobs[j].m * (uint64_t)jobs[j].b->n * (uint64_t)jobs[j].b->k;
    }
    vm_count(products);
    double share = threads > 1 ? work / (threads * TASKS_PER_THREAD) : 0;
    if (threads > 1 && share < SPLIT_WORK) share = SPLIT_WORK;
    int tasks = 0;
    for (int j = 0; j < n_jobs; j++) {
        plans[j] = make_plan(&jobs[j], run.kernels->rows[jobs[j].b->type], share, tasks);
        tasks += plans[j].blocks * plans[j].groups;
    }
    plans[n_jobs] = (plan){.first_task = tasks};
    vm_pool_run(tasks > 1 ? pool : NULL, tasks, gemm_task, &run);
    bool failed = atomic_load(&run.out_of_memory);
    vm_free(plans);
    if (failed) return vm_error(VMOER_ERROR_MEMORY, "matrix product: no memory for the scratch of a row block");
    return VMOER_OK;
}
