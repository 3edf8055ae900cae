/* head.c: the last norm and the vocabulary's logits, at the asked rows alone and a block of them at a time:
 * log-probabilities, entropies, the divergence from a teacher, and their gradients. */
#include "model/pass_internal.h"

#include "base/status.h"

#include <math.h>

enum { HEAD_ROWS = 64 };

/* Rows of the batch's asked ones: those in `rows`, or where it is NULL all of them. */
typedef struct row_list {
    const int32_t *rows;
    int n;
} row_list;

static size_t row_at(const row_list *list, int i) { return (size_t)(list->rows ? list->rows[i] : i); }

typedef struct head_job {
    const vm_pass *p;
    const row_list *list;
    int first;                                   /* in the list: the block's first row */
    float *logits;                               /* [rows of the block, V] */
    const int32_t *first_target, *first_entropy; /* [n_rows + 1] */
    bool slope; /* forward: leave the derivative of the log-probability by the logits behind, in rows of one target */
    float *log_probability, *entropy;
    const float *d_log_probability;
} head_job;

/* The head's product of rows [first, first + n) of the list: logits[n, V], where backward finds their gradient;
 * dnormed[n, D] or NULL. */
static vm_linear_call head_call(const vm_pass *p, const row_list *list, int first, int n, float *logits,
                                float *dnormed) {
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    return (vm_linear_call){.l = &p->m->head,
                            .m = n,
                            .x = list->rows ? p->normed : p->normed + (size_t)first * d,
                            .ldx = d,
                            .index = list->rows ? list->rows + first : NULL,
                            .y = logits,
                            .dy = logits,
                            .ldy = V,
                            .dx = dnormed,
                            .lddx = d};
}

/* The block's logits from the product: logits and the row's number. */
static float *take_logits(const head_job *j, int task, size_t *row) {
    const vm_config *c = &j->p->m->config;
    float *logits = j->logits + (size_t)task * (size_t)c->n_vocab;
    if (c->logit_scale != 1.0f)
        for (size_t v = 0; v < (size_t)c->n_vocab; v++) logits[v] /= c->logit_scale;
    *row = row_at(j->list, j->first + task);
    return logits;
}

static bool one_target(const int32_t *first_target, size_t row) {
    return first_target[row + 1] == first_target[row] + 1;
}

static void forward_task(void *context, int task, int worker) {
    (void)worker;
    const head_job *j = context;
    const vm_batch *b = j->p->batch;
    int n_vocab = j->p->m->config.n_vocab, i;
    size_t V = (size_t)n_vocab, row;
    float *logits = take_logits(j, task, &row), lse;
    for (i = j->first_target[row]; i < j->first_target[row + 1]; i++) j->log_probability[i] = logits[b->target_id[i]];
    if (j->slope && one_target(j->first_target, row)) {
        lse = vm_kernels_get()->softmax(logits, n_vocab);
        for (size_t v = 0; v < V; v++) logits[v] = -logits[v];
        logits[b->target_id[j->first_target[row]]] += 1.0f;
    } else {
        lse = vm_kernels_get()->logsumexp(logits, n_vocab);
        for (i = j->first_entropy[row]; i < j->first_entropy[row + 1]; i++) { /* H = lse - E logit */
            double mean = 0;
            for (size_t v = 0; v < V; v++) mean += exp((double)(logits[v] - lse)) * (double)logits[v];
            j->entropy[i] = (float)((double)lse - mean);
        }
    }
    for (i = j->first_target[row]; i < j->first_target[row + 1]; i++) j->log_probability[i] -= lse;
}

/* The gradient by the product, in place of the logits. */
static void backward_task(void *context, int task, int worker) {
    (void)worker;
    const head_job *j = context;
    const vm_config *c = &j->p->m->config;
    size_t row;
    float *logits = take_logits(j, task, &row), total = 0;
    for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++) total += j->d_log_probability[i];
    vm_kernels_get()->softmax(logits, c->n_vocab);
    for (size_t v = 0; v < (size_t)c->n_vocab; v++) logits[v] *= -total / c->logit_scale;
    for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++)
        logits[j->p->batch->target_id[i]] += j->d_log_probability[i] / c->logit_scale;
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

static int block_rows(const row_list *list, int first) {
    return list->n - first < HEAD_ROWS ? list->n - first : HEAD_ROWS;
}

/* dx[T, D] += gradient through the last norm of an asked row, whose dnormed[D] is given. */
static void final_norm_backward(vm_pass *p, const float *x, size_t row, const float *dnormed, float *dx) {
    size_t d = (size_t)p->m->config.dim, token = (size_t)p->batch->rows[row];
    vm_kernels_get()->rmsnorm_backward(x + token * d, p->m->final_norm.value, p->inv_final[row], dnormed,
                                       dx + token * d, p->m->final_norm.grad, (int)d);
}

/* ---- distillation: the teacher's distribution in place of targets ---- */

typedef struct teach_job {
    float *teacher;     /* [rows, V] logits of the teacher; divided by their scale */
    float *logits;      /* [rows, V] logits; becomes the gradient of weight * KL by the logits before logit_scale */
    float **work;       /* [workers] of [V] */
    double *divergence; /* [rows] */
    float weight, scale, teacher_scale;
    int n_vocab;
} teach_job;

/* KL(t || s) = sum t (z_t - z_s) - lse(z_t) + lse(z_s), its gradient by z_s is s - t (Hinton 2015, temperature 1). */
static void teach_task(void *context, int task, int worker) {
    const teach_job *j = context;
    const vm_kernels *k = vm_kernels_get();
    size_t V = (size_t)j->n_vocab;
    float *zt = j->teacher + (size_t)task * V, *zs = j->logits + (size_t)task * V, *t = j->work[worker];
    for (size_t v = 0; v < V; v++) t[v] = zt[v] /= j->teacher_scale;
    for (size_t v = 0; v < V; v++) zs[v] /= j->scale;
    double mean = 0, lse_t = (double)k->softmax(t, j->n_vocab);
    for (size_t v = 0; v < V; v++) mean += (double)t[v] * (double)(zt[v] - zs[v]);
    j->divergence[task] = mean - lse_t + (double)k->softmax(zs, j->n_vocab);
    for (size_t v = 0; v < V; v++) zs[v] = j->weight / j->scale * (zs[v] - t[v]);
}

vmoer_status vm_head_teach(vm_pass *p, const float *x, float *dx) {
    const vm_pass *teacher = p->options.teacher;
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    int workers = vm_pool_threads(p->pool);
    bool ok = true;
    float *block = vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok),
          *wanted = vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok),
          *dnormed = vm_arena_floats(p->scratch, HEAD_ROWS, d, &ok),
          *work = vm_arena_floats(p->scratch, (size_t)workers, V, &ok);
    float **works = vm_arena_alloc(p->scratch, (size_t)workers, sizeof *works);
    double *divergence = vm_arena_alloc(p->scratch, HEAD_ROWS, sizeof *divergence);
    if (!ok || !works || !divergence) return vm_pass_no_memory(p);
    for (int w = 0; w < workers; w++) works[w] = work + (size_t)w * V;
    teach_job j = {.teacher = wanted,
                   .logits = block,
                   .work = works,
                   .divergence = divergence,
                   .weight = p->options.teacher_weight,
                   .scale = p->m->config.logit_scale,
                   .teacher_scale = teacher->m->config.logit_scale,
                   .n_vocab = p->m->config.n_vocab};
    p->divergence = 0;
    const row_list all = {NULL, p->batch->n_rows};
    for (int first = 0, n; first < all.n; first += n) {
        n = block_rows(&all, first);
        vm_linear_call call = head_call(p, &all, first, n, block, dnormed);
        vm_linear_call other = head_call(teacher, &all, first, n, wanted, NULL);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &other, 1));
        vm_pool_run(p->pool, n, teach_task, &j);
        for (int i = 0; i < n; i++) p->divergence += divergence[i];
        if (!dx) continue;
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &call, 1));
        for (int i = 0; i < n; i++) final_norm_backward(p, x, (size_t)(first + i), dnormed + (size_t)i * d, dx);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

/* A training's logits serve twice where they can: the gradient of a row with one target is that of its log-probability
 * times a number only backward knows. So the head's way back is taken here, while the block is at hand; not where the
 * head itself is trained, whose gradient needs the numbers. */
vmoer_status vm_head_forward(vm_pass *p, const float *x, float *log_probability, float *entropy, float *logits) {
    const vm_batch *b = p->batch;
    const row_list all = {NULL, b->n_rows};
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    bool ok = true, asked = b->n_targets > 0 || entropy || logits,
         slope = asked && p->options.training && !entropy && !logits && !vm_linear_trainable(&p->m->head);
    p->normed = vm_arena_floats(p->step, (size_t)b->n_rows, d, &ok);
    p->inv_final = vm_arena_floats(p->step, (size_t)b->n_rows, 1, &ok);
    p->slope = slope ? vm_arena_floats(p->step, (size_t)b->n_rows, d, &ok) : NULL;
    float *block = logits || !asked ? NULL : vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok);
    head_job j = {.p = p, .list = &all, .slope = slope, .log_probability = log_probability, .entropy = entropy};
    if (!ok) return vm_pass_no_memory(p);
    VM_TRY(ranges(p, b->target_row, b->n_targets, &j.first_target));
    VM_TRY(ranges(p, b->entropy_row, entropy ? b->n_entropies : 0, &j.first_entropy));
    vm_pass_norm(p, x, b->rows, &p->m->final_norm, b->n_rows, p->normed, p->inv_final);
    for (int first = 0, n; asked && first < all.n; first += n) {
        n = block_rows(&all, first);
        j.logits = logits ? logits + (size_t)first * V : block;
        j.first = first;
        vm_linear_call call = head_call(p, &all, first, n, j.logits, slope ? p->slope + (size_t)first * d : NULL);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        vm_pool_run(p->pool, n, forward_task, &j);
        if (slope) VM_TRY(vm_linear_backward(p->pool, p->scratch, &call, 1));
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

vmoer_status vm_head_backward(vm_pass *p, const float *x, const float *d_log_probability, float *dx) {
    const vm_batch *b = p->batch;
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    bool ok = true;
    float *block = vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok),
          *dnormed = vm_arena_floats(p->scratch, HEAD_ROWS, d, &ok);
    int32_t *again = vm_arena_alloc(p->scratch, (size_t)b->n_rows, sizeof *again);
    row_list list = {again, 0};
    head_job j = {.p = p, .list = &list, .d_log_probability = d_log_probability, .logits = block};
    if (!ok || !again) return vm_pass_no_memory(p);
    VM_TRY(ranges(p, b->target_row, b->n_targets, &j.first_target));
    for (int r = 0; r < b->n_rows; r++) {
        if (!p->slope || !one_target(j.first_target, (size_t)r)) {
            again[list.n++] = r;
            continue;
        }
        float *slope = p->slope + (size_t)r * d,
              scale = d_log_probability[j.first_target[r]] / p->m->config.logit_scale;
        for (size_t i = 0; i < d; i++) slope[i] *= scale;
        final_norm_backward(p, x, (size_t)r, slope, dx);
    }
    for (int first = 0, n; first < list.n; first += n) {
        n = block_rows(&list, first);
        vm_linear_call call = head_call(p, &list, first, n, block, dnormed);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        j.first = first;
        vm_pool_run(p->pool, n, backward_task, &j);
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &call, 1));
        for (int i = 0; i < n; i++) final_norm_backward(p, x, row_at(&list, first + i), dnormed + (size_t)i * d, dx);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}
