/* head.c: the last norm and the vocabulary at the asked rows: log-probabilities, entropies, the divergence from a
 * teacher, and their gradients.
 *
 * The vocabulary is gone through in pieces, whose logits stay in one thread's cache: no row of all logits is written
 * unless somebody asks for it. Sums over the vocabulary are sums over the pieces in order. Backward takes a piece's
 * product anew, which costs less than the way of the logits through memory. Pieces belong to groups, cut by the
 * vocabulary alone; each group adds up a gradient of its own, and these are added in order. */
#include "model/pass_internal.h"

#include "base/status.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { HEAD_ROWS = 256, PIECE = 512, GROUPS = 8 };

/* One model's logits at the rows of a block. */
typedef struct side {
    const vm_model *m;
    vm_rows normed; /* [rows, D] */
    float *part;    /* [rows, pieces] log sum exp over a piece */
    float *lse;     /* [rows] over all */
} side;

typedef struct head_job {
    const vm_pass *p;
    int first, rows; /* asked rows [first, first + rows) of the batch: the block */
    int pieces, per_group;
    side own, teacher; /* teacher.m NULL: none */
    float **work;      /* [threads] of [2, HEAD_ROWS, PIECE] */
    float *logits;     /* [n_rows, V] asked for, or NULL */
    float *mean; /* [rows, pieces] mean over a piece's distribution: of the logits where an entropy is asked, of the
                  * difference of the logits with a teacher */
    const int32_t *first_target, *first_entropy; /* [n_rows + 1] */
    float *log_probability, *entropy;
    const float *d_log_probability;
    vm_rows *slope;  /* [threads] of [HEAD_ROWS, PIECE]: gradient by a piece's product */
    float *partial;  /* [GROUPS, rows, D] gradient by `normed` */
    float *dnormed;  /* [rows, D] their sum */
    vm_panel normed; /* [rows, D] on the right, where the head is trained */
    atomic_bool failed;
} head_job;

static int vocabulary(const head_job *j) { return j->p->m->config.n_vocab; }

static int piece_columns(const head_job *j, int piece) {
    int left = vocabulary(j) - piece * PIECE;
    return left < PIECE ? left : PIECE;
}

/* z[rows, columns of the piece], row stride ldz. */
static void piece_logits(const head_job *j, const side *s, int piece, float *z, size_t ldz) {
    int columns = piece_columns(j, piece);
    float scale = s->m->config.logit_scale;
    vm_multiply(&(vm_product){.a = &s->normed,
                              .m = j->rows,
                              .b = &s->m->head.forward,
                              .column = piece * PIECE,
                              .columns = columns,
                              .c = z,
                              .ldc = ldz});
    if (scale == 1.0f) return;
    for (int i = 0; i < j->rows; i++)
        for (int v = 0; v < columns; v++) z[(size_t)i * ldz + (size_t)v] /= scale;
}

static float *part_at(const head_job *j, float *x, int row, int piece) {
    return x + (size_t)row * (size_t)j->pieces + (size_t)piece;
}

/* ---- forward ---- */

static void forward_piece(void *context, int piece, int worker) {
    const head_job *j = context;
    const vm_kernels *kernels = vm_kernels_get();
    const vm_batch *b = j->p->batch;
    int columns = piece_columns(j, piece), column = piece * PIECE;
    size_t ldz = j->logits ? (size_t)vocabulary(j) : PIECE;
    float *z = j->logits ? j->logits + (size_t)j->first * ldz + column : j->work[worker],
          *copy = j->work[worker] + HEAD_ROWS * PIECE;
    piece_logits(j, &j->own, piece, z, ldz);
    for (int i = 0; i < j->rows; i++, z += ldz) {
        int row = j->first + i;
        for (int t = j->first_target[row]; t < j->first_target[row + 1]; t++)
            if (b->target_id[t] >= column && b->target_id[t] < column + columns)
                j->log_probability[t] = z[b->target_id[t] - column];
        if (j->first_entropy[row] < j->first_entropy[row + 1]) {
            memcpy(copy, z, (size_t)columns * sizeof *z);
            *part_at(j, j->own.part, i, piece) = kernels->softmax(copy, columns);
            *part_at(j, j->mean, i, piece) = kernels->dot(copy, z, columns);
        } else {
            *part_at(j, j->own.part, i, piece) = kernels->logsumexp(z, columns);
        }
    }
}

/* lse[rows] from the pieces'. */
static void join(const head_job *j, const side *s) {
    for (int i = 0; i < j->rows; i++) s->lse[i] = vm_kernels_get()->logsumexp(part_at(j, s->part, i, 0), j->pieces);
}

/* E f from the means of f over each piece's distribution. */
static double mean_of(const head_job *j, const side *s, int row) {
    double mean = 0;
    for (int piece = 0; piece < j->pieces; piece++)
        mean +=
            exp((double)(*part_at(j, s->part, row, piece) - s->lse[row])) * (double)*part_at(j, j->mean, row, piece);
    return mean;
}

static void finish_forward(const head_job *j) {
    join(j, &j->own);
    for (int i = 0; i < j->rows; i++) {
        int row = j->first + i;
        for (int t = j->first_target[row]; t < j->first_target[row + 1]; t++) j->log_probability[t] -= j->own.lse[i];
        for (int e = j->first_entropy[row]; e < j->first_entropy[row + 1]; e++) /* H = lse - E logit */
            j->entropy[e] = (float)((double)j->own.lse[i] - mean_of(j, &j->own, i));
    }
}

/* ---- backward ---- */

/* z, logits on entry, becomes factor * softmax over the whole vocabulary. */
static void scaled_softmax(float *z, int columns, float lse, float factor) {
    float scale = factor * expf(vm_kernels_get()->softmax(z, columns) - lse);
    for (int v = 0; v < columns; v++) z[v] *= scale;
}

/* z becomes the gradient of sum d log-probability by the piece's product. */
static void target_slope(const head_job *j, int piece, int columns, float *z) {
    const vm_batch *b = j->p->batch;
    float scale = j->p->m->config.logit_scale;
    int column = piece * PIECE;
    for (int i = 0; i < j->rows; i++, z += PIECE) {
        int from = j->first_target[j->first + i], to = j->first_target[j->first + i + 1];
        float total = 0;
        for (int t = from; t < to; t++) total += j->d_log_probability[t];
        scaled_softmax(z, columns, j->own.lse[i], -total / scale);
        for (int t = from; t < to; t++)
            if (b->target_id[t] >= column && b->target_id[t] < column + columns)
                z[b->target_id[t] - column] += j->d_log_probability[t] / scale;
    }
}

/* KL(t || s) = sum t (z_t - z_s) - lse(z_t) + lse(z_s): its gradient by z_s is s - t (Hinton 2015, temperature 1). */
static void teacher_slope(const head_job *j, int piece, int columns, float *z, float *zt) {
    float weight = j->p->options.teacher_weight / j->p->m->config.logit_scale;
    piece_logits(j, &j->teacher, piece, zt, PIECE);
    for (int i = 0; i < j->rows; i++, z += PIECE, zt += PIECE) {
        scaled_softmax(z, columns, j->own.lse[i], weight);
        scaled_softmax(zt, columns, j->teacher.lse[i], weight);
        for (int v = 0; v < columns; v++) z[v] -= zt[v];
    }
}

static void backward_group(void *context, int group, int worker) {
    head_job *j = context;
    const vm_linear *head = &j->p->m->head;
    size_t D = (size_t)head->in;
    float *z = j->work[worker], *partial = j->partial + (size_t)group * (size_t)j->rows * D;
    int first = group * j->per_group;
    for (int piece = first; piece < first + j->per_group && piece < j->pieces; piece++) {
        int columns = piece_columns(j, piece);
        piece_logits(j, &j->own, piece, z, PIECE);
        if (j->teacher.m)
            teacher_slope(j, piece, columns, z, z + HEAD_ROWS * PIECE);
        else
            target_slope(j, piece, columns, z);
        if (head->weight) {
            vm_gemm_job grad = {.m = columns,
                                .a = z,
                                .a_m_stride = 1,
                                .a_k_stride = PIECE,
                                .b = &j->normed,
                                .c = head->weight->grad + (size_t)(piece * PIECE) * D,
                                .ldc = D,
                                .accumulate = true};
            if (vm_gemm(NULL, &grad, 1) != VMOER_OK) atomic_store(&j->failed, true);
        }
        vm_rows_set(&j->slope[worker], 0, j->rows, columns, z, PIECE);
        vm_multiply(&(vm_product){.a = &j->slope[worker],
                                  .m = j->rows,
                                  .b = &head->backward,
                                  .k_first = piece * PIECE,
                                  .k = columns,
                                  .columns = head->in,
                                  .c = partial,
                                  .ldc = D,
                                  .accumulate = piece > first});
    }
}

static void add_groups(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const head_job *j = context;
    size_t D = (size_t)j->p->m->config.dim, groups = (size_t)((j->pieces + j->per_group - 1) / j->per_group);
    memcpy(j->dnormed + begin * D, j->partial + begin * D, (end - begin) * D * sizeof *j->dnormed);
    for (size_t g = 1; g < groups; g++)
        vm_kernels_get()->axpy(1.0f, j->partial + (g * (size_t)j->rows + begin) * D, j->dnormed + begin * D,
                               (int)((end - begin) * D));
}

/* dx[T, D] += the gradient through the block's rows and the last norm, a sum over rows in order. */
static vmoer_status backward_block(head_job *j, const float *x, float *dx) {
    vm_pool *pool = j->p->pool;
    const vm_linear *head = &j->p->m->head;
    size_t D = (size_t)head->in;
    if (head->weight)
        vm_panel_pack(pool, &j->normed, head->compute, j->rows, head->in, j->p->normed + (size_t)j->first * D, D, 1,
                      NULL);
    vm_pool_run(pool, (j->pieces + j->per_group - 1) / j->per_group, backward_group, j);
    if (atomic_load(&j->failed)) return vm_pass_no_memory(j->p);
    vm_pool_run_range(pool, (size_t)j->rows, 16, add_groups, j);
    for (int i = 0; i < j->rows; i++) {
        size_t row = (size_t)(j->first + i), token = (size_t)j->p->batch->rows[row];
        vm_kernels_get()->rmsnorm_backward(x + token * D, j->p->m->final_norm.value, j->p->inv_final[row],
                                           j->dnormed + (size_t)i * D, dx + token * D, j->p->m->final_norm.grad,
                                           (int)D);
    }
    return VMOER_OK;
}

/* ---- distillation: the teacher's distribution in place of targets ---- */

static void teach_piece(void *context, int piece, int worker) {
    const head_job *j = context;
    const vm_kernels *kernels = vm_kernels_get();
    int columns = piece_columns(j, piece);
    float *z = j->work[worker], *zt = z + HEAD_ROWS * PIECE, t[PIECE];
    piece_logits(j, &j->own, piece, z, PIECE);
    piece_logits(j, &j->teacher, piece, zt, PIECE);
    for (int i = 0; i < j->rows; i++, z += PIECE, zt += PIECE) {
        *part_at(j, j->own.part, i, piece) = kernels->logsumexp(z, columns);
        memcpy(t, zt, (size_t)columns * sizeof *t);
        *part_at(j, j->teacher.part, i, piece) = kernels->softmax(t, columns);
        for (int v = 0; v < columns; v++) z[v] = zt[v] - z[v];
        *part_at(j, j->mean, i, piece) = kernels->dot(t, z, columns);
    }
}

static double finish_teach(const head_job *j) {
    double sum = 0;
    join(j, &j->own);
    join(j, &j->teacher);
    for (int i = 0; i < j->rows; i++)
        sum += mean_of(j, &j->teacher, i) - (double)j->teacher.lse[i] + (double)j->own.lse[i];
    return sum;
}

/* ---- what they share ---- */

static bool side_alloc(vm_arena *scratch, const vm_model *m, int rows, int pieces, side *s) {
    const vm_linear *head = &m->head;
    bool ok = true;
    void *memory = vm_arena_alloc(scratch, 1, vm_rows_bytes(head->compute, rows, head->in));
    *s = (side){.m = m, .normed = vm_rows_at(head->compute, head->in, memory)};
    s->part = vm_arena_floats(scratch, (size_t)rows, (size_t)pieces, &ok);
    s->lse = vm_arena_floats(scratch, (size_t)rows, 1, &ok);
    return ok && memory;
}

/* Room for blocks of up to HEAD_ROWS rows. */
static vmoer_status start(vm_pass *p, bool backward, head_job *j) {
    const vm_linear *head = &p->m->head;
    int most = p->batch->n_rows < HEAD_ROWS ? p->batch->n_rows : HEAD_ROWS, threads = vm_pool_threads(p->pool);
    size_t rows = (size_t)most, D = (size_t)head->in;
    bool ok = true;
    *j = (head_job){.p = p, .pieces = (head->out + PIECE - 1) / PIECE};
    atomic_init(&j->failed, false);
    j->per_group = (j->pieces + GROUPS - 1) / GROUPS;
    j->work = vm_arena_alloc(p->scratch, (size_t)threads, sizeof *j->work);
    j->slope = vm_arena_alloc(p->scratch, (size_t)threads, sizeof *j->slope);
    j->mean = vm_arena_floats(p->scratch, rows, (size_t)j->pieces, &ok);
    ok = ok && j->work && j->slope && side_alloc(p->scratch, p->m, most, j->pieces, &j->own);
    if (p->options.teacher) ok = ok && side_alloc(p->scratch, p->options.teacher->m, most, j->pieces, &j->teacher);
    for (int t = 0; ok && t < threads; t++) {
        j->work[t] = vm_arena_floats(p->scratch, 2 * HEAD_ROWS, PIECE, &ok);
        if (!backward) continue;
        void *memory = vm_arena_alloc(p->scratch, 1, vm_rows_bytes(head->compute, HEAD_ROWS, PIECE));
        j->slope[t] = vm_rows_at(head->compute, PIECE, memory);
        ok = ok && memory;
    }
    if (backward) {
        j->partial = vm_arena_floats(p->scratch, GROUPS * rows, D, &ok);
        j->dnormed = vm_arena_floats(p->scratch, rows, D, &ok);
        j->normed.data = vm_arena_alloc(p->scratch, 1, vm_panel_bytes(head->compute, most, head->in));
        ok = ok && j->normed.data;
    }
    return ok ? VMOER_OK : vm_pass_no_memory(p);
}

/* The block from row `first` on; returns its rows. */
static int next_block(head_job *j, int first) {
    size_t D = (size_t)j->p->m->config.dim;
    int left = j->p->batch->n_rows - first;
    j->first = first;
    j->rows = left < HEAD_ROWS ? left : HEAD_ROWS;
    vm_rows_set(&j->own.normed, 0, j->rows, (int)D, j->p->normed + (size_t)first * D, D);
    if (j->teacher.m) {
        D = (size_t)j->teacher.m->config.dim;
        vm_rows_set(&j->teacher.normed, 0, j->rows, (int)D, j->p->options.teacher->normed + (size_t)first * D, D);
    }
    return j->rows;
}

/* first[n_rows + 1]: where in row_of[n], which does not fall, each asked row begins. */
static vmoer_status ranges(vm_pass *p, const int32_t *row_of, int n, const int32_t **out) {
    const vm_batch *b = p->batch;
    int32_t *first = vm_arena_alloc(p->scratch, (size_t)b->n_rows + 1, sizeof *first);
    if (!first) return vm_pass_no_memory(p);
    int i = 0;
    for (int r = 0; r <= b->n_rows; r++) {
        while (i < n && row_of[i] < r) i++;
        first[r] = i;
    }
    *out = first;
    return VMOER_OK;
}

vmoer_status vm_head_teach(vm_pass *p, const float *x, float *dx) {
    head_job j;
    VM_TRY(start(p, dx != NULL, &j));
    p->divergence = 0;
    for (int first = 0; first < p->batch->n_rows; first += j.rows) {
        next_block(&j, first);
        vm_pool_run(p->pool, j.pieces, teach_piece, &j);
        p->divergence += finish_teach(&j);
        if (dx) VM_TRY(backward_block(&j, x, dx));
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

vmoer_status vm_head_forward(vm_pass *p, const float *x, float *log_probability, float *entropy, float *logits) {
    const vm_batch *b = p->batch;
    size_t d = (size_t)p->m->config.dim;
    bool ok = true;
    if (!p->normed) { /* there are none of a pass before over this batch */
        p->normed = vm_arena_floats(p->step, (size_t)b->n_rows, d, &ok);
        p->inv_final = vm_arena_floats(p->step, (size_t)b->n_rows, 1, &ok);
        p->lse = vm_arena_floats(p->step, (size_t)b->n_rows, 1, &ok);
    }
    if (!ok) return vm_pass_no_memory(p);
    vm_pass_norm(p, x, b->rows, &p->m->final_norm, b->n_rows, p->normed, p->inv_final);
    if (b->n_targets == 0 && !entropy && !logits) return VMOER_OK;
    head_job j;
    VM_TRY(start(p, false, &j));
    j.log_probability = log_probability, j.entropy = entropy, j.logits = logits;
    VM_TRY(ranges(p, b->target_row, b->n_targets, &j.first_target));
    VM_TRY(ranges(p, b->entropy_row, entropy ? b->n_entropies : 0, &j.first_entropy));
    for (int first = 0; first < b->n_rows; first += j.rows) {
        next_block(&j, first);
        vm_pool_run(p->pool, j.pieces, forward_piece, &j);
        finish_forward(&j);
        memcpy(p->lse + first, j.own.lse, (size_t)j.rows * sizeof *p->lse);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

vmoer_status vm_head_backward(vm_pass *p, const float *x, const float *d_log_probability, float *dx) {
    head_job j;
    if (p->batch->n_targets == 0) return VMOER_OK; /* a loss of the KL alone */
    VM_TRY(start(p, true, &j));
    j.d_log_probability = d_log_probability;
    VM_TRY(ranges(p, p->batch->target_row, p->batch->n_targets, &j.first_target));
    for (int first = 0; first < p->batch->n_rows; first += j.rows) {
        next_block(&j, first);
        memcpy(j.own.lse, p->lse + first, (size_t)j.rows * sizeof *p->lse);
        VM_TRY(backward_block(&j, x, dx));
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}
