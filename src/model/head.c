/* head.c: the last norm and the vocabulary's logits, at the asked rows alone and a block of them at a time:
 * log-probabilities, entropies, the divergence from a teacher, and their gradients. */
#include "model/pass_internal.h"

#include "base/status.h"

#include <math.h>

enum { HEAD_ROWS = 64 };

typedef struct head_job {
    vm_pass *p;
    const float *logits; /* [rows, V] */
    float *dlogits;      /* the same memory, or NULL */
    float *lse, *entropy;
    const float *d_log_probability;
    const int32_t *first_target; /* [n_rows + 1] */
    float *log_probability;
    int first_row;
} head_job;

/* The head's product of the asked rows [first, first + n): logits[n, V], where backward finds their gradient;
 * dnormed[n, D] or NULL. */
static vm_linear_call head_call(const vm_pass *p, int first, int n, float *logits, float *dnormed) {
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    return (vm_linear_call){.l = &p->m->head,
                            .m = n,
                            .x = p->normed + (size_t)first * d,
                            .ldx = d,
                            .y = logits,
                            .dy = logits,
                            .ldy = V,
                            .dx = dnormed,
                            .lddx = d};
}

static void head_task(void *context, int task, int worker) {
    (void)worker;
    const head_job *j = context;
    const vm_config *c = &j->p->m->config;
    const vm_batch *b = j->p->batch;
    size_t V = (size_t)c->n_vocab, row = (size_t)(j->first_row + task);
    float *logits = (float *)j->logits + (size_t)task * V;
    if (c->logit_scale != 1.0f)
        for (size_t v = 0; v < V; v++) logits[v] /= c->logit_scale;
    if (!j->dlogits) {
        float lse = vm_kernels_get()->logsumexp(logits, c->n_vocab);
        j->lse[row] = lse;
        for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++)
            j->log_probability[i] = logits[b->target_id[i]] - lse;
        if (j->entropy) { /* H = lse - E logit */
            double mean = 0;
            for (size_t v = 0; v < V; v++) mean += exp((double)(logits[v] - lse)) * (double)logits[v];
            j->entropy[row] = (float)((double)lse - mean);
        }
        return;
    }
    float total = 0;
    for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++) total += j->d_log_probability[i];
    vm_kernels_get()->softmax(logits, c->n_vocab);
    for (size_t v = 0; v < V; v++) logits[v] *= -total / c->logit_scale;
    for (int i = j->first_target[row]; i < j->first_target[row + 1]; i++)
        logits[b->target_id[i]] += j->d_log_probability[i] / c->logit_scale;
}

static vmoer_status target_ranges(vm_pass *p, const int32_t **out) {
    const vm_batch *b = p->batch;
    int32_t *first = vm_arena_alloc(p->scratch, (size_t)b->n_rows + 1, sizeof *first);
    if (!first) return vm_pass_no_memory(p);
    int i = 0;
    for (int r = 0; r <= b->n_rows; r++) {
        while (i < b->n_targets && b->target_row[i] < r) i++;
        first[r] = i;
    }
    *out = first;
    return VMOER_OK;
}

/* dx[T, D] += gradient through the last norm of the asked rows [first, first + n), whose dnormed[n, D] is given. */
static void final_norm_backward(vm_pass *p, const float *x, int first, int n, const float *dnormed, float *dx) {
    size_t d = (size_t)p->m->config.dim;
    for (size_t i = 0; i < (size_t)n; i++) {
        size_t r = (size_t)first + i, token = (size_t)p->batch->rows[r];
        vm_kernels_get()->rmsnorm_backward(x + token * d, p->m->final_norm.value, p->inv_final[r], dnormed + i * d,
                                           dx + token * d, p->m->final_norm.grad, (int)d);
    }
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
    double lse_t = (double)k->logsumexp(t, j->n_vocab), lse_s = (double)k->logsumexp(zs, j->n_vocab);
    k->softmax(t, j->n_vocab);
    double mean = 0;
    for (size_t v = 0; v < V; v++) mean += (double)t[v] * (double)(zt[v] - zs[v]);
    j->divergence[task] = mean - lse_t + lse_s;
    k->softmax(zs, j->n_vocab);
    for (size_t v = 0; v < V; v++) zs[v] = j->weight / j->scale * (zs[v] - t[v]);
}

vmoer_status vm_head_teach(vm_pass *p, const float *x, float *dx) {
    const vm_batch *b = p->batch;
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
    for (int first = 0; first < b->n_rows; first += HEAD_ROWS) {
        int n = b->n_rows - first < HEAD_ROWS ? b->n_rows - first : HEAD_ROWS;
        vm_linear_call call = head_call(p, first, n, block, dnormed);
        vm_linear_call other = head_call(teacher, first, n, wanted, NULL);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &other, 1));
        vm_pool_run(p->pool, n, teach_task, &j);
        for (int i = 0; i < n; i++) p->divergence += divergence[i];
        if (!dx) continue;
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &call, 1));
        final_norm_backward(p, x, first, n, dnormed, dx);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}

vmoer_status vm_head_forward(vm_pass *p, const float *x, float *log_probability, float *entropy, float *logits) {
    const vm_batch *b = p->batch;
    size_t d = (size_t)p->m->config.dim, V = (size_t)p->m->config.n_vocab;
    bool ok = true, asked = b->n_targets > 0 || entropy || logits;
    p->normed = vm_arena_floats(p->step, (size_t)b->n_rows, d, &ok);
    p->inv_final = vm_arena_floats(p->step, (size_t)b->n_rows, 1, &ok);
    p->lse = vm_arena_floats(p->step, (size_t)b->n_rows, 1, &ok);
    float *block = logits || !asked ? NULL : vm_arena_floats(p->scratch, HEAD_ROWS, V, &ok);
    head_job j = {.p = p, .lse = p->lse, .entropy = entropy, .log_probability = log_probability};
    if (!ok) return vm_pass_no_memory(p);
    VM_TRY(target_ranges(p, &j.first_target));
    vm_pass_norm(p, x, b->rows, &p->m->final_norm, b->n_rows, p->normed, p->inv_final);
    for (int first = 0; asked && first < b->n_rows; first += HEAD_ROWS) {
        int n = b->n_rows - first < HEAD_ROWS ? b->n_rows - first : HEAD_ROWS;
        float *out = logits ? logits + (size_t)first * V : block;
        vm_linear_call call = head_call(p, first, n, out, NULL);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        j.logits = out;
        j.first_row = first;
        vm_pool_run(p->pool, n, head_task, &j);
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
    head_job j = {.p = p, .d_log_probability = d_log_probability, .logits = block, .dlogits = block};
    if (!ok) return vm_pass_no_memory(p);
    VM_TRY(target_ranges(p, &j.first_target));
    for (int first = 0; first < b->n_rows; first += HEAD_ROWS) {
        int n = b->n_rows - first < HEAD_ROWS ? b->n_rows - first : HEAD_ROWS;
        vm_linear_call call = head_call(p, first, n, block, dnormed);
        VM_TRY(vm_linear_forward(p->pool, p->scratch, &call, 1));
        j.first_row = first;
        vm_pool_run(p->pool, n, head_task, &j);
        VM_TRY(vm_linear_backward(p->pool, p->scratch, &call, 1));
        final_norm_backward(p, x, first, n, dnormed, dx);
    }
    vm_arena_reset(p->scratch);
    return VMOER_OK;
}
