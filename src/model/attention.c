/* attention.c: see attention.h. A task is one family (a root and its children) and one key-value head, so no two tasks
 * write the same gradient; forward, where few families are long, some of its blocks.
 *
 * A task takes the family's tokens in blocks. A row is a query head of a token; the rows of a token are neighbours, so
 * those of a segment are too, and all its heads share a product. A block's products are taken a piece at a time: the
 * root's keys meet every row, in one product for all children, and a child's own keys meet the child's rows. A row of
 * probabilities is [the root's keys, the own keys], zero where it may not look. A past's keys are the root's first
 * ones. Where the blocks are cut depends on the family alone, and no output depends on it but the keys' gradients,
 * which are summed block by block. */
#include "model/attention.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

enum {
    BLOCK_ROWS = 48, /* their probabilities and gradients stay in a second-level cache for some hundred keys */
    TASKS_PER_THREAD = 4
};

/* What a thread works in; sizes are those of the largest family. */
typedef struct memory {
    vm_panel *k_columns, *v_columns; /* [segments] each k = head_dim, n = its keys; V only backward */
    vm_panel k_rows, v_rows;         /* k = the family's keys, n = head_dim; K only backward, V only forward */
    vm_panel q_rows, dout_rows;      /* k = rows of a block, n = head_dim; backward */
    float *columns[2];               /* what k_columns and v_columns are packed in */
    float *p, *dp;                   /* [rows, ldp] probabilities of a block, and their gradients; dp only backward */
    float *drawn;                    /* [rows] probability of the sink */
    void *left;                      /* the left-hand rows of one product */
} memory;

typedef struct attention_job {
    const vm_attention *a;
    const int32_t *roots; /* [n_roots + 1] index of each root segment; the end */
    const float *qkv, *dout;
    float *out, *dqkv;
    int group;           /* query heads a key-value head */
    int block_tokens;    /* most of a block */
    int parts;           /* tasks a family and key-value head */
    size_t ld, ldo, ldp; /* floats of a row of qkv, of out, of probabilities */
    int32_t *q_row,
        *o_row;     /* [rows of a block] where a row lies in qkv and in out, in head_dims from the block's first */
    float *scale;   /* [rows of a block] a->scale each */
    float *dsinks;  /* [roots, n_heads]; NULL: not wanted */
    memory *memory; /* [threads] */
} attention_job;

typedef struct family {
    const attention_job *job;
    memory *m;
    const vm_segment *segments; /* the root first */
    int n_segments;
    int begin, end; /* tokens */
    int head;       /* the first query head */
    float *dsinks;  /* of it and the next ones; NULL: not wanted */
    size_t q, k, v; /* where the head's first query, its key and its value lie in a row of qkv; q in one of out too */
} family;

typedef struct block {
    int begin, end; /* tokens */
    int rows;
} block;

/* The rows of a block that meet the keys of a segment. */
typedef struct piece {
    int row, rows;
    int keys;      /* the segment's first ones, up to the end of the block */
    size_t column; /* of its first key in a row of probabilities */
} piece;

static int at_least(int value, int limit) { return value > limit ? value : limit; }
static int segment_end(const vm_segment *s) { return s->start + s->length; }
static int past_tokens(const vm_attention *a) { return a->past ? a->past->tokens : 0; }

/* False: no row of the block meets a key of segment s. */
static bool piece_of(const family *f, const block *b, int s, piece *out) {
    const vm_segment *own = &f->segments[s];
    int end = vm_at_most(segment_end(own), b->end);
    int first = s == 0 ? b->begin : at_least(own->start, b->begin), last = s == 0 ? b->end : end;
    if (first >= last) return false;
    *out = (piece){.row = (first - b->begin) * f->job->group,
                   .rows = (last - first) * f->job->group,
                   .keys = past_tokens(f->job->a) + end - own->start,
                   .column = s == 0 ? 0 : (size_t)f->segments[0].length};
    return true;
}

/* to[row, key] = scale * <x of the row, column of the key>; x: of the block's first row, ld from token to token. */
static void meet(const family *f, const block *b, const float *x, size_t ld, const vm_panel *columns,
                 const float *scale, float *to) {
    int group = f->job->group, hd = f->job->a->head_dim;
    vm_rows left = vm_rows_at(VM_COMPUTE_F32, hd, f->m->left);
    for (int t = 0; t < b->end - b->begin; t++)
        vm_rows_set(&left, t * group, group, hd, x + (size_t)t * ld, (size_t)hd);
    piece p;
    for (int s = 0; s < f->n_segments; s++)
        if (piece_of(f, b, s, &p))
            vm_multiply(&(vm_product){.a = &left,
                                      .first = p.row,
                                      .m = p.rows,
                                      .b = &columns[s],
                                      .columns = p.keys,
                                      .c = to + (size_t)p.row * f->job->ldp + p.column,
                                      .ldc = f->job->ldp,
                                      .scale = scale});
}

/* to[row] = sum over keys of w[row, key] * vector of the key; index: where a row of `to` lies. */
static void gather(const family *f, const block *b, const float *w, const vm_panel *vectors, float *to,
                   const int32_t *index) {
    piece p;
    for (int s = 0; s < f->n_segments; s++) {
        if (!piece_of(f, b, s, &p)) continue;
        vm_rows left = vm_rows_at(VM_COMPUTE_F32, p.keys, f->m->left);
        vm_rows_set(&left, 0, p.rows, p.keys, w + (size_t)p.row * f->job->ldp + p.column, f->job->ldp);
        vm_multiply(&(vm_product){.a = &left,
                                  .m = p.rows,
                                  .b = vectors,
                                  .k_first = f->segments[s].start - f->begin,
                                  .k = p.keys,
                                  .columns = f->job->a->head_dim,
                                  .c = to,
                                  .ldc = (size_t)f->job->a->head_dim,
                                  .c_index = index + p.row,
                                  .accumulate = s > 0});
    }
}

/* d[key] += sum over rows of w[row, key] * x of the row; d: of the batch's first token. */
static void spread(const family *f, const block *b, const float *w, const vm_panel *x, float *d) {
    piece p;
    for (int s = 0; s < f->n_segments; s++) {
        if (!piece_of(f, b, s, &p)) continue;
        vm_rows left = vm_rows_at(VM_COMPUTE_F32, p.rows, f->m->left);
        vm_rows_set_across(&left, 0, p.keys, w + (size_t)p.row * f->job->ldp + p.column, f->job->ldp);
        vm_multiply(&(vm_product){.a = &left,
                                  .m = p.keys,
                                  .b = x,
                                  .k_first = p.row,
                                  .k = p.rows,
                                  .columns = f->job->a->head_dim,
                                  .c = d + (size_t)f->segments[s].start * f->job->ld,
                                  .ldc = f->job->ld,
                                  .accumulate = true});
    }
}

/* p[n] = softmax of p and the sink, whose probability is returned. */
static float softmax_with(float sink, float *p, int n) {
    float ahead = vm_kernels_get()->softmax(p, n) - sink, rest = 1 / (1 + expf(-ahead));
    for (int i = 0; i < n; i++) p[i] *= rest;
    return 1 / (1 + expf(ahead));
}

/* Rows of probabilities from products with the keys; with dp, instead, rows of their gradients to those of the
 * products.
 */
static void finish_rows(const family *f, const block *b, float *dp) {
    const vm_kernels *kernels = vm_kernels_get();
    const vm_attention *a = f->job->a;
    size_t ldp = f->job->ldp;
    for (int s = 0; s < f->n_segments; s++) {
        const vm_segment *own = &f->segments[s];
        int first = at_least(own->start, b->begin), last = vm_at_most(segment_end(own), b->end);
        int before = (s == 0 ? past_tokens(f->job->a) : f->segments[0].length) - own->start;
        for (int t = first; t < last; t++)
            for (int h = 0; h < f->job->group; h++) {
                size_t row = (size_t)(t - b->begin) * (size_t)f->job->group + (size_t)h;
                int end = before + t + 1, multiplied = before + last;
                int begin = a->window ? at_least(end - a->window, 0) : 0, seen = end - begin;
                float *x = (dp ? dp : f->m->p) + row * ldp, *p = f->m->p + row * ldp + begin;
                if (dp && f->dsinks) f->dsinks[h] -= f->m->drawn[row] * kernels->dot(p, x + begin, seen);
                if (dp)
                    kernels->softmax_backward(p, a->scale, x + begin, seen);
                else if (a->sinks)
                    f->m->drawn[row] = softmax_with(a->sinks[f->head + h], p, seen);
                else
                    kernels->softmax(p, seen);
                memset(x, 0, (size_t)begin * sizeof *x);
                memset(x + end, 0, (size_t)(multiplied - end) * sizeof *x);
            }
    }
}

/* A panel of each segment, its keys as columns; x: of the family's first token. */
static void pack_columns(const family *f, const float *x, float *data, vm_panel *columns) {
    int hd = f->job->a->head_dim;
    size_t ld = f->job->ld;
    for (int s = 0; s < f->n_segments; s++) {
        const vm_segment *own = &f->segments[s];
        columns[s].data = data;
        vm_panel_pack(NULL, &columns[s], VM_COMPUTE_F32, hd, own->length, x + (size_t)(own->start - f->begin) * ld, 1,
                      ld, NULL);
        data += vm_panel_bytes(VM_COMPUTE_F32, hd, own->length) / sizeof *data;
    }
}

static family open_family(const attention_job *job, int task, int worker) {
    const vm_attention *a = job->a;
    int root = task / a->n_kv_heads, kv = task % a->n_kv_heads, hd = a->head_dim;
    family f = {.job = job,
                .m = &job->memory[worker],
                .segments = &a->segments[job->roots[root]],
                .n_segments = job->roots[root + 1] - job->roots[root],
                .head = kv * job->group,
                .dsinks =
                    job->dsinks ? job->dsinks + (size_t)root * (size_t)a->n_heads + (size_t)(kv * job->group) : NULL,
                .q = (size_t)(kv * job->group * hd),
                .k = (size_t)((a->n_heads + kv) * hd)};
    f.begin = f.segments[0].start;
    f.end = segment_end(&f.segments[f.n_segments - 1]);
    f.v = f.k + (size_t)(a->n_kv_heads * hd);
    if (a->past) {
        f.m->k_columns[0] = a->past->keys[kv];
        f.m->v_rows = a->past->values[kv];
    } else {
        pack_columns(&f, job->qkv + (size_t)f.begin * job->ld + f.k, f.m->columns[0], f.m->k_columns);
    }
    return f;
}

/* The family's blocks are of one size, but for the last. */
static bool next_block(const family *f, block *b) {
    int tokens = f->end - f->begin, size = vm_ceil_div(tokens, vm_ceil_div(tokens, f->job->block_tokens));
    b->begin = b->end;
    b->end = vm_at_most(b->begin + size, f->end);
    b->rows = (b->end - b->begin) * f->job->group;
    return b->begin < f->end;
}

static void forward_task(void *context, int task, int worker) {
    const attention_job *job = context;
    family f = open_family(job, task / job->parts, worker);
    memory *m = f.m;
    int turn = task % job->parts; /* in turn, because later blocks see more keys */
    if (!job->a->past)
        vm_panel_pack(NULL, &m->v_rows, VM_COMPUTE_F32, f.end - f.begin, job->a->head_dim,
                      job->qkv + (size_t)f.begin * job->ld + f.v, job->ld, 1, NULL);
    for (block b = {.end = f.begin}; next_block(&f, &b); turn = (turn + 1) % job->parts) {
        if (turn != 0) continue;
        meet(&f, &b, job->qkv + (size_t)b.begin * job->ld + f.q, job->ld, m->k_columns, job->scale, m->p);
        finish_rows(&f, &b, NULL);
        gather(&f, &b, m->p, &m->v_rows, job->out + (size_t)b.begin * job->ldo + f.q, job->o_row);
    }
}

/* P = softmax(scale Q K^T), O = P V:  dV = P^T dO, dP = dO V^T, dS = scale P (dP - <P, dP>), dQ = dS K, dK = dS^T Q. */
static void backward_task(void *context, int task, int worker) {
    const attention_job *job = context;
    family f = open_family(job, task, worker);
    memory *m = f.m;
    int hd = job->a->head_dim;
    const float *k = job->qkv + (size_t)f.begin * job->ld + f.k, *v = job->qkv + (size_t)f.begin * job->ld + f.v;
    vm_panel_pack(NULL, &m->k_rows, VM_COMPUTE_F32, f.end - f.begin, hd, k, job->ld, 1, NULL);
    pack_columns(&f, v, m->columns[1], m->v_columns);
    for (int t = f.begin; t < f.end; t++) {
        memset(job->dqkv + (size_t)t * job->ld + f.k, 0, (size_t)hd * sizeof(float));
        memset(job->dqkv + (size_t)t * job->ld + f.v, 0, (size_t)hd * sizeof(float));
    }
    for (block b = {.end = f.begin}; next_block(&f, &b);) {
        const float *q = job->qkv + (size_t)b.begin * job->ld + f.q;
        const float *dout = job->dout + (size_t)b.begin * job->ldo + f.q;
        meet(&f, &b, q, job->ld, m->k_columns, job->scale, m->p);
        finish_rows(&f, &b, NULL);
        vm_panel_pack(NULL, &m->dout_rows, VM_COMPUTE_F32, b.rows, hd, dout, (size_t)hd, 1, job->o_row);
        spread(&f, &b, m->p, &m->dout_rows, job->dqkv + f.v);
        meet(&f, &b, dout, job->ldo, m->v_columns, NULL, m->dp);
        finish_rows(&f, &b, m->dp);
        gather(&f, &b, m->dp, &m->k_rows, job->dqkv + (size_t)b.begin * job->ld + f.q, job->q_row);
        vm_panel_pack(NULL, &m->q_rows, VM_COMPUTE_F32, b.rows, hd, q, (size_t)hd, 1, job->q_row);
        spread(&f, &b, m->dp, &m->q_rows, job->dqkv + f.k);
    }
}

/* The largest of each of a family's measures. */
typedef struct extent {
    int segments, tokens, keys; /* keys: that a row sees */
    size_t columns;             /* floats of a panel of every segment */
} extent;

static void extend(extent *most, const vm_attention *a, int first, int end) {
    extent e = {.segments = end - first, .tokens = segment_end(&a->segments[end - 1]) - a->segments[first].start};
    for (int s = first; s < end; s++) {
        e.columns += vm_panel_bytes(VM_COMPUTE_F32, a->head_dim, a->segments[s].length) / sizeof(float);
        e.keys = at_least(e.keys, a->segments[s].length + (s == first ? past_tokens(a) : a->segments[first].length));
    }
    most->segments = at_least(most->segments, e.segments);
    most->tokens = at_least(most->tokens, e.tokens);
    most->keys = at_least(most->keys, e.keys);
    if (e.columns > most->columns) most->columns = e.columns;
}

static float *rows_panel(vm_arena *scratch, int k, int n, bool *ok) {
    return vm_arena_floats(scratch, vm_panel_bytes(VM_COMPUTE_F32, k, n) / sizeof(float), 1, ok);
}

static bool take_memory(memory *m, vm_arena *scratch, const attention_job *job, const extent *most) {
    int hd = job->a->head_dim, rows = job->block_tokens * job->group;
    size_t meeting = vm_rows_bytes(VM_COMPUTE_F32, rows, hd),
           gathering = vm_rows_bytes(VM_COMPUTE_F32, rows, most->keys),
           spreading = job->dout ? vm_rows_bytes(VM_COMPUTE_F32, most->keys, rows) : 0;
    size_t left = meeting > gathering ? meeting : gathering;
    bool ok = true;
    memset(m, 0, sizeof *m);
    m->left = vm_arena_alloc(scratch, left > spreading ? left : spreading, 1);
    m->k_columns = vm_arena_alloc(scratch, (size_t)most->segments, sizeof *m->k_columns);
    m->columns[0] = vm_arena_floats(scratch, most->columns, 1, &ok);
    m->p = vm_arena_floats(scratch, (size_t)rows, job->ldp, &ok);
    m->drawn = vm_arena_floats(scratch, (size_t)rows, 1, &ok);
    if (!job->dout) {
        m->v_rows.data = rows_panel(scratch, most->tokens, hd, &ok);
        return ok && m->left && m->k_columns;
    }
    m->v_columns = vm_arena_alloc(scratch, (size_t)most->segments, sizeof *m->v_columns);
    m->columns[1] = vm_arena_floats(scratch, most->columns, 1, &ok);
    m->k_rows.data = rows_panel(scratch, most->tokens, hd, &ok);
    m->q_rows.data = rows_panel(scratch, rows, hd, &ok);
    m->dout_rows.data = rows_panel(scratch, rows, hd, &ok);
    m->dp = vm_arena_floats(scratch, (size_t)rows, job->ldp, &ok);
    return ok && m->left && m->k_columns && m->v_columns;
}

static vmoer_status run(const vm_attention *a, vm_pool *pool, vm_arena *scratch, vm_task_fn task, bool apart,
                        attention_job *job) {
    int threads = vm_pool_threads(pool), group = a->n_heads / a->n_kv_heads, n_roots = 0;
    int32_t *roots = vm_arena_alloc(scratch, (size_t)a->n_segments + 1, sizeof *roots);
    if (!roots) return vm_error(VMOER_ERROR_MEMORY, "no memory for attention");
    for (int s = 0; s < a->n_segments; s++)
        if (a->segments[s].parent < 0) roots[n_roots++] = s;
    roots[n_roots] = a->n_segments;
    extent most = {0};
    for (int i = 0; i < n_roots; i++) extend(&most, a, roots[i], roots[i + 1]);

    job->a = a;
    job->roots = roots;
    job->group = group;
    job->block_tokens = at_least(BLOCK_ROWS / group, 1);
    job->ld = (size_t)((a->n_heads + 2 * a->n_kv_heads) * a->head_dim);
    job->ldo = (size_t)(a->n_heads * a->head_dim);
    job->ldp = ((size_t)most.keys + 15) / 16 * 16;
    int rows = job->block_tokens * group;
    job->q_row = vm_arena_alloc(scratch, (size_t)rows, sizeof *job->q_row);
    job->o_row = vm_arena_alloc(scratch, (size_t)rows, sizeof *job->o_row);
    job->memory = vm_arena_alloc(scratch, (size_t)threads, sizeof *job->memory);
    job->scale = vm_arena_alloc(scratch, (size_t)rows, sizeof *job->scale);
    bool ok = job->q_row && job->o_row && job->scale && job->memory;
    for (int t = 0; ok && t < threads; t++) ok = take_memory(&job->memory[t], scratch, job, &most);
    if (!ok) return vm_error(VMOER_ERROR_MEMORY, "no memory for attention over %d keys", most.keys);
    for (int r = 0; r < rows; r++) {
        job->q_row[r] = r / group * (a->n_heads + 2 * a->n_kv_heads) + r % group;
        job->o_row[r] = r / group * a->n_heads + r % group;
        job->scale[r] = a->scale;
    }
    int tasks = n_roots * a->n_kv_heads;
    job->parts = 1;
    if (apart && threads > 1 && tasks < TASKS_PER_THREAD * threads)
        job->parts =
            vm_at_most(vm_ceil_div(TASKS_PER_THREAD * threads, tasks), vm_ceil_div(most.tokens, job->block_tokens));
    vm_pool_run(pool, tasks * job->parts, task, job);
    return VMOER_OK;
}

vmoer_status vm_attention_forward(const vm_attention *a, vm_pool *pool, vm_arena *scratch, const float *qkv,
                                  float *out) {
    attention_job job = {.qkv = qkv, .out = out};
    return run(a, pool, scratch, forward_task, true, &job);
}

vmoer_status vm_attention_backward(const vm_attention *a, vm_pool *pool, vm_arena *scratch, const float *qkv,
                                   const float *dout, float *dqkv, float *dsinks) {
    attention_job job = {.qkv = qkv, .dout = dout, .dqkv = dqkv};
    size_t n = (size_t)a->n_segments * (size_t)a->n_heads; /* roots are at most segments */
    bool ok = true;
    if (dsinks) job.dsinks = vm_arena_floats(scratch, n, 1, &ok);
    if (!ok) return vm_error(VMOER_ERROR_MEMORY, "no memory for attention");
    if (dsinks) memset(job.dsinks, 0, n * sizeof *job.dsinks);
    VM_TRY(run(a, pool, scratch, backward_task, false, &job));
    for (size_t i = 0; dsinks && i < n; i++) dsinks[i % (size_t)a->n_heads] += job.dsinks[i];
    return VMOER_OK;
}
