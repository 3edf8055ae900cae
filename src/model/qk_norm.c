/* qk_norm.c: see qk_norm.h. */
#include "model/qk_norm.h"

#include "kernels/kernels.h"

#include <string.h>

enum { TOKENS_A_TASK = 16 };

typedef struct qk_job {
    const vm_qk_norm *n;
    float *qkv, *before, *inv, *dy;
} qk_job;

typedef struct row {
    float *qkv, *before, *inv, *dy; /* of a token */
    size_t width;                   /* of q and k */
} row;

/* Of one norm: its values begin at *at, and there are so many; then on to the next one. */
static vm_param *next_norm(const vm_qk_norm *n, size_t *at, size_t *width) {
    size_t q = (size_t)(n->n_heads * n->head_dim), kv = (size_t)(n->n_kv_heads * n->head_dim);
    *at += *width;
    *width = !n->whole ? (size_t)n->head_dim : *at < q ? q : kv;
    return *at < q ? n->q : *at < q + kv ? n->k : NULL;
}

int vm_qk_norm_count(const vm_qk_norm *n) { return n->whole ? 2 : n->n_heads + n->n_kv_heads; }

static row row_of(const qk_job *j, size_t t) {
    const vm_qk_norm *n = j->n;
    size_t kv = (size_t)(n->n_kv_heads * n->head_dim), width = (size_t)(n->n_heads * n->head_dim) + kv;
    return (row){.qkv = j->qkv + t * (width + kv),
                 .before = j->before + t * width,
                 .inv = j->inv + t * (size_t)vm_qk_norm_count(n),
                 .dy = j->dy ? j->dy + t * width : NULL,
                 .width = width};
}

static void forward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const qk_job *j = context;
    for (size_t t = begin; t < end; t++) {
        row r = row_of(j, t);
        size_t at = 0, width = 0;
        memcpy(r.before, r.qkv, r.width * sizeof *r.qkv);
        for (vm_param *w; (w = next_norm(j->n, &at, &width));)
            *r.inv++ = vm_kernels_get()->rmsnorm(r.before + at, w->value, j->n->eps, r.qkv + at, (int)width);
    }
}

void vm_qk_norm_forward(const vm_qk_norm *n, vm_pool *pool, int n_tokens, float *qkv, float *before, float *inv) {
    qk_job j = {n, qkv, before, inv, NULL};
    vm_pool_run_range(pool, (size_t)n_tokens, TOKENS_A_TASK, forward_rows, &j);
}

static void backward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const qk_job *j = context;
    for (size_t t = begin; t < end; t++) {
        row r = row_of(j, t);
        size_t at = 0, width = 0;
        memcpy(r.dy, r.qkv, r.width * sizeof *r.dy);
        memset(r.qkv, 0, r.width * sizeof *r.qkv);
        for (vm_param *w; (w = next_norm(j->n, &at, &width));)
            vm_kernels_get()->rmsnorm_backward(r.before + at, w->value, *r.inv++, r.dy + at, r.qkv + at, w->grad,
                                               (int)width);
    }
}

void vm_qk_norm_backward(const vm_qk_norm *n, vm_pool *pool, int n_tokens, const float *before, const float *inv,
                         float *dqkv, float *dy) {
    /* before and inv are only read in backward. */
    qk_job j = {n, dqkv, (float *)(uintptr_t)before, (float *)(uintptr_t)inv, dy};
    if (n->q->grad)
        backward_rows(&j, 0, (size_t)n_tokens, 0); /* a sum over tokens in order */
    else
        vm_pool_run_range(pool, (size_t)n_tokens, TOKENS_A_TASK, backward_rows, &j);
}
