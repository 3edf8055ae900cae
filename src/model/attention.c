/* attention.c: see attention.h. A task is one root with its children and one key-value head, so no two tasks write the
 * same gradient. */
#include "model/attention.h"

#include "base/status.h"
#include "kernels/kernels.h"

#include <string.h>

typedef struct attention_job {
    const vm_attention *a;
    const int32_t *roots; /* [n_roots + 1] index of each root segment; the end */
    const float *qkv, *dout;
    float *out, *dqkv;
    float *scratch; /* [threads, 2 max_keys] */
    size_t max_keys;
} attention_job;

static vmoer_status prepare(const vm_attention *a, vm_pool *pool, vm_arena *scratch, attention_job *job, int *n_roots) {
    int32_t *roots = vm_arena_alloc(scratch, (size_t)a->n_segments + 1, sizeof *roots);
    if (!roots) return vm_error(VMOER_ERROR_MEMORY, "no memory for attention");
    *n_roots = 0;
    for (int s = 0; s < a->n_segments; s++) {
        const vm_segment *segment = &a->segments[s];
        size_t keys = (size_t)segment->length;
        if (segment->parent < 0)
            roots[(*n_roots)++] = s;
        else
            keys += (size_t)a->segments[segment->parent].length;
        if (keys > job->max_keys) job->max_keys = keys;
    }
    roots[*n_roots] = a->n_segments;
    job->a = a;
    job->roots = roots;
    job->scratch = vm_arena_alloc(scratch, (size_t)vm_pool_threads(pool) * 2 * job->max_keys + 1, sizeof *job->scratch);
    return job->scratch ? VMOER_OK
                        : vm_error(VMOER_ERROR_MEMORY, "no memory for attention over %zu keys", job->max_keys);
}

/* The keys query `token` of `segment` sees: the parent's, then its own up to itself. */
typedef struct key_range {
    size_t first[2], count[2];
} key_range;

static key_range keys_of(const vm_attention *a, const vm_segment *s, int token) {
    key_range r = {{0, (size_t)s->start}, {0, (size_t)(token - s->start + 1)}};
    if (s->parent >= 0) {
        r.first[0] = (size_t)a->segments[s->parent].start;
        r.count[0] = (size_t)a->segments[s->parent].length;
    }
    return r;
}

/* p[keys] = softmax over the keys of scale * <q, k>. */
static void probabilities(const vm_attention *a, const vm_kernels *kernels, const float *q, const float *k, size_t ld,
                          const key_range *r, float *p) {
    size_t n = 0;
    for (int part = 0; part < 2; part++)
        for (size_t j = 0; j < r->count[part]; j++)
            p[n++] = a->scale * kernels->dot(q, k + (r->first[part] + j) * ld, a->head_dim);
    kernels->softmax(p, (int)n);
}

static void forward_task(void *context, int task, int worker) {
    const attention_job *job = context;
    const vm_attention *a = job->a;
    const vm_kernels *kernels = vm_kernels_get();
    int root = task / a->n_kv_heads, kv = task % a->n_kv_heads, group = a->n_heads / a->n_kv_heads, hd = a->head_dim;
    size_t ld = (size_t)((a->n_heads + 2 * a->n_kv_heads) * hd), ldo = (size_t)(a->n_heads * hd);
    const float *k = job->qkv + (size_t)((a->n_heads + kv) * hd), *v = k + (size_t)(a->n_kv_heads * hd);
    float *p = job->scratch + (size_t)worker * 2 * job->max_keys;
    for (int s = job->roots[root]; s < job->roots[root + 1]; s++)
        for (int t = a->segments[s].start; t < a->segments[s].start + a->segments[s].length; t++) {
            key_range r = keys_of(a, &a->segments[s], t);
            for (int h = kv * group; h < (kv + 1) * group; h++) {
                float *out = job->out + (size_t)t * ldo + (size_t)(h * hd);
                probabilities(a, kernels, job->qkv + (size_t)t * ld + (size_t)(h * hd), k, ld, &r, p);
                memset(out, 0, (size_t)hd * sizeof *out);
                size_t n = 0;
                for (int part = 0; part < 2; part++)
                    for (size_t j = 0; j < r.count[part]; j++)
                        kernels->axpy(p[n++], v + (r.first[part] + j) * ld, out, hd);
            }
        }
}

static void backward_task(void *context, int task, int worker) {
    const attention_job *job = context;
    const vm_attention *a = job->a;
    const vm_kernels *kernels = vm_kernels_get();
    int root = task / a->n_kv_heads, kv = task % a->n_kv_heads, group = a->n_heads / a->n_kv_heads, hd = a->head_dim;
    size_t ld = (size_t)((a->n_heads + 2 * a->n_kv_heads) * hd), ldo = (size_t)(a->n_heads * hd);
    size_t k_offset = (size_t)((a->n_heads + kv) * hd), v_offset = k_offset + (size_t)(a->n_kv_heads * hd);
    float *p = job->scratch + (size_t)worker * 2 * job->max_keys, *dp = p + job->max_keys;
    for (int s = job->roots[root]; s < job->roots[root + 1]; s++)
        for (int t = a->segments[s].start; t < a->segments[s].start + a->segments[s].length; t++) {
            key_range r = keys_of(a, &a->segments[s], t);
            for (int h = kv * group; h < (kv + 1) * group; h++) {
                const float *q = job->qkv + (size_t)t * ld + (size_t)(h * hd),
                            *dout = job->dout + (size_t)t * ldo + (size_t)(h * hd);
                float *dq = job->dqkv + (size_t)t * ld + (size_t)(h * hd), mean = 0;
                probabilities(a, kernels, q, job->qkv + k_offset, ld, &r, p);
                size_t n = 0;
                for (int part = 0; part < 2; part++)
                    for (size_t j = 0; j < r.count[part]; j++, n++) {
                        size_t row = (r.first[part] + j) * ld;
                        dp[n] = kernels->dot(dout, job->qkv + row + v_offset, hd);
                        kernels->axpy(p[n], dout, job->dqkv + row + v_offset, hd);
                        mean += p[n] * dp[n];
                    }
                n = 0;
                for (int part = 0; part < 2; part++)
                    for (size_t j = 0; j < r.count[part]; j++, n++) {
                        size_t row = (r.first[part] + j) * ld;
                        float ds = a->scale * p[n] * (dp[n] - mean);
                        kernels->axpy(ds, job->qkv + row + k_offset, dq, hd);
                        kernels->axpy(ds, q, job->dqkv + row + k_offset, hd);
                    }
            }
        }
}

vmoer_status vm_attention_forward(const vm_attention *a, vm_pool *pool, vm_arena *scratch, const float *qkv,
                                  float *out) {
    attention_job job = {.qkv = qkv, .out = out};
    int n_roots;
    VM_TRY(prepare(a, pool, scratch, &job, &n_roots));
    vm_pool_run(pool, n_roots * a->n_kv_heads, forward_task, &job);
    return VMOER_OK;
}

vmoer_status vm_attention_backward(const vm_attention *a, vm_pool *pool, vm_arena *scratch, const float *qkv,
                                   const float *dout, float *dqkv) {
    attention_job job = {.qkv = qkv, .dout = dout, .dqkv = dqkv};
    int n_roots, n_tokens = 0;
    VM_TRY(prepare(a, pool, scratch, &job, &n_roots));
    for (int s = 0; s < a->n_segments; s++)
        if (a->segments[s].start + a->segments[s].length > n_tokens)
            n_tokens = a->segments[s].start + a->segments[s].length;
    memset(dqkv, 0, (size_t)n_tokens * (size_t)((a->n_heads + 2 * a->n_kv_heads) * a->head_dim) * sizeof *dqkv);
    vm_pool_run(pool, n_roots * a->n_kv_heads, backward_task, &job);
    return VMOER_OK;
}
