/* linear.c: see linear.h. All products of a call go to the kernels as one list of jobs, so that many small matrices
 * (experts) keep every thread busy. */
#include "model/linear.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

static vmoer_status panel_alloc(vm_panel *p, vm_compute type, int k, int n) {
    if (!p->data) p->data = vm_malloc(1, vm_panel_bytes(type, k, n));
    return p->data ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for a %d x %d weight", n, k);
}

/* The panels of W[out, in]: forward contracts over in, backward over out. */
static vmoer_status pack_forward(vm_panel *p, vm_pool *pool, vm_compute type, int out, int in, const float *w) {
    VM_TRY(panel_alloc(p, type, in, out));
    vm_panel_pack(pool, p, type, in, out, w, 1, (size_t)in, NULL);
    return VMOER_OK;
}

static vmoer_status pack_backward(vm_panel *p, vm_pool *pool, vm_compute type, int out, int in, const float *w) {
    VM_TRY(panel_alloc(p, type, out, in));
    vm_panel_pack(pool, p, type, out, in, w, (size_t)in, 1, NULL);
    return VMOER_OK;
}

vmoer_status vm_linear_init(vm_linear *l, vm_pool *pool, vm_compute compute, int out, int in, const float *w,
                            bool with_backward) {
    memset(l, 0, sizeof *l);
    l->in = in;
    l->out = out;
    l->compute = compute;
    VM_TRY(pack_forward(&l->forward, pool, compute, out, in, w));
    if (with_backward) VM_TRY(pack_backward(&l->backward, pool, compute, out, in, w));
    return VMOER_OK;
}

static void param_clear(vm_param *p) {
    vm_free(p->value);
    vm_free(p->grad);
    p->value = p->grad = NULL;
}

void vm_linear_clear(vm_linear *l) {
    vm_free(l->forward.data);
    vm_free(l->backward.data);
    if (l->weight) param_clear(l->weight);
    vm_free(l->weight);
    for (int i = 0; i < l->n_lora; i++) {
        vm_lora *r = l->lora[i];
        param_clear(&r->a);
        param_clear(&r->b);
        vm_free(r->a_forward.data);
        vm_free(r->b_forward.data);
        vm_free(r->a_backward.data);
        vm_free(r->b_backward.data);
        vm_free(r);
    }
    memset(l, 0, sizeof *l);
}

static vmoer_status param_init(vm_param *p, const char *name, const char *suffix, int rows, int cols) {
    snprintf(p->name, sizeof p->name, "%s%s", name, suffix);
    p->rows = rows;
    p->cols = cols;
    p->decay = true;
    p->value = vm_calloc((size_t)rows * (size_t)cols, sizeof(float));
    p->grad = vm_calloc((size_t)rows * (size_t)cols, sizeof(float));
    return p->value && p->grad
               ? VMOER_OK
               : vm_error(VMOER_ERROR_MEMORY, "%s: no memory for %d x %d and its gradient", p->name, rows, cols);
}

vmoer_status vm_linear_train(vm_linear *l, const char *name, const float *w) {
    l->weight = vm_calloc(1, sizeof *l->weight);
    if (!l->weight) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", name);
    VM_TRY(param_init(l->weight, name, ".weight", l->out, l->in));
    memcpy(l->weight->value, w, vm_param_size(l->weight) * sizeof(float));
    return VMOER_OK;
}

vmoer_status vm_linear_add_lora(vm_linear *l, const char *name, int row, int rows, int rank, float scale,
                                vm_lora **out) {
    if (l->n_lora == VM_MAX_LORA)
        return vm_error(VMOER_ERROR_LIMIT, "%s: more than %d LoRA on one projection", name, VM_MAX_LORA);
    vm_lora *r = vm_calloc(1, sizeof *r);
    if (!r) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", name);
    l->lora[l->n_lora++] = r;
    *r = (vm_lora){.row = row, .rows = rows, .rank = rank, .scale = scale};
    VM_TRY(param_init(&r->a, name, ".lora_A.weight", rank, l->in));
    VM_TRY(param_init(&r->b, name, ".lora_B.weight", rows, rank));
    *out = r;
    return VMOER_OK;
}

vmoer_status vm_linear_refresh(vm_linear *l, vm_pool *pool) {
    if (l->weight) {
        VM_TRY(pack_forward(&l->forward, pool, l->compute, l->out, l->in, l->weight->value));
        if (l->backward.data) VM_TRY(pack_backward(&l->backward, pool, l->compute, l->out, l->in, l->weight->value));
    }
    for (int i = 0; i < l->n_lora; i++) {
        vm_lora *r = l->lora[i];
        VM_TRY(pack_forward(&r->a_forward, pool, l->compute, r->rank, l->in, r->a.value));
        VM_TRY(pack_forward(&r->b_forward, pool, l->compute, r->rows, r->rank, r->b.value));
        VM_TRY(pack_backward(&r->a_backward, pool, l->compute, r->rank, l->in, r->a.value));
        VM_TRY(pack_backward(&r->b_backward, pool, l->compute, r->rows, r->rank, r->b.value));
    }
    return VMOER_OK;
}

int vm_linear_rank(const vm_linear *l) {
    int rank = 0;
    for (int i = 0; i < l->n_lora; i++) rank += l->lora[i]->rank;
    return rank;
}

bool vm_linear_trainable(const vm_linear *l) { return l->weight || l->n_lora > 0; }

/* Jobs of one stage, at most a few a call. */
typedef struct job_list {
    vm_gemm_job *jobs;
    int count;
} job_list;

static vmoer_status jobs_init(job_list *list, vm_arena *scratch, int n, int per_call) {
    list->jobs = vm_arena_alloc(scratch, (size_t)n * (size_t)per_call + 1, sizeof *list->jobs);
    list->count = 0;
    return list->jobs ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for %d matrix products", n);
}

static void scale_columns(float *t, int m, size_t ld, int columns, float scale) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < columns; j++) t[(size_t)i * ld + (size_t)j] *= scale;
}

vmoer_status vm_linear_forward(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n) {
    job_list first, second;
    VM_TRY(jobs_init(&first, scratch, n, 1 + VM_MAX_LORA));
    VM_TRY(jobs_init(&second, scratch, n, VM_MAX_LORA));
    for (int c = 0; c < n; c++) {
        const vm_linear_call *call = &calls[c];
        const vm_linear *l = call->l;
        if (call->m == 0) continue;
        vm_gemm_job product = {
            .m = call->m, .a = call->x, .a_m_stride = call->ldx, .a_k_stride = 1, .m_index = call->index};
        size_t rank = (size_t)vm_linear_rank(l);
        float *t = call->t;
        product.b = &l->forward, product.c = call->y, product.ldc = call->ldy;
        first.jobs[first.count++] = product;
        for (int i = 0; i < l->n_lora; t += l->lora[i]->rank, i++) {
            const vm_lora *r = l->lora[i];
            product.b = &r->a_forward, product.c = t, product.ldc = rank;
            first.jobs[first.count++] = product;
            second.jobs[second.count++] = (vm_gemm_job){.m = call->m,
                                                        .a = t,
                                                        .a_m_stride = rank,
                                                        .a_k_stride = 1,
                                                        .b = &r->b_forward,
                                                        .c = call->y + r->row,
                                                        .ldc = call->ldy,
                                                        .accumulate = true};
        }
    }
    VM_TRY(vm_gemm(pool, first.jobs, first.count));
    if (second.count == 0) return VMOER_OK;
    for (int c = 0; c < n; c++) {
        size_t rank = (size_t)vm_linear_rank(calls[c].l);
        float *t = calls[c].t;
        for (int i = 0; i < calls[c].l->n_lora; t += calls[c].l->lora[i]->rank, i++)
            scale_columns(t, calls[c].m, rank, calls[c].l->lora[i]->rank, calls[c].l->lora[i]->scale);
    }
    return vm_gemm(pool, second.jobs, second.count);
}

/* x (or t) as a right-hand matrix over the call's rows, for weight gradients. */
static vmoer_status pack_rows(vm_pool *pool, vm_arena *scratch, vm_compute type, int m, int columns, const float *x,
                              size_t ld, const int32_t *index, vm_panel **out) {
    vm_panel *p = vm_arena_alloc(scratch, 1, sizeof *p);
    if (p) p->data = vm_arena_alloc(scratch, 1, vm_panel_bytes(type, m, columns));
    if (!p || !p->data) return vm_error(VMOER_ERROR_MEMORY, "no memory to pack %d x %d activations", m, columns);
    vm_panel_pack(pool, p, type, m, columns, x, ld, 1, index);
    *out = p;
    return VMOER_OK;
}

vmoer_status vm_linear_backward(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n) {
    job_list first, second;
    VM_TRY(jobs_init(&first, scratch, n, 1 + VM_MAX_LORA));
    VM_TRY(jobs_init(&second, scratch, n, 1 + 3 * VM_MAX_LORA));
    float **dt = vm_arena_alloc(scratch, (size_t)n + 1, sizeof *dt); /* [n] -> [m, rank sum], scale * dy B */
    if (!dt) return vm_error(VMOER_ERROR_MEMORY, "no memory for the LoRA gradients");
    for (int c = 0; c < n; c++) {
        const vm_linear_call *call = &calls[c];
        const vm_linear *l = call->l;
        if (call->m == 0) continue;
        size_t rank = (size_t)vm_linear_rank(l), column = 0;
        vm_gemm_job dy = {
            .m = call->m, .a = call->dy, .a_m_stride = call->ldy, .a_k_stride = 1, .m_index = call->dy_index};
        if (call->dx) {
            dy.b = &l->backward, dy.c = call->dx, dy.ldc = call->lddx, dy.accumulate = call->add_dx;
            first.jobs[first.count++] = dy;
        }
        if (l->n_lora && !(dt[c] = vm_arena_alloc(scratch, (size_t)call->m * rank, sizeof(float))))
            return vm_error(VMOER_ERROR_MEMORY, "no memory for the LoRA gradients");
        for (int i = 0; i < l->n_lora; column += (size_t)l->lora[i]->rank, i++) {
            dy.a = call->dy + l->lora[i]->row;
            dy.b = &l->lora[i]->b_backward, dy.c = dt[c] + column, dy.ldc = rank, dy.accumulate = false;
            first.jobs[first.count++] = dy;
        }
    }
    VM_TRY(vm_gemm(pool, first.jobs, first.count));
    /* Second stage. Two LoRA of one projection both add to dx, so the dx of slot i > 0 cannot share a list with slot
     * 0's. */
    for (int slot = 0; slot < VM_MAX_LORA; slot++) {
        second.count = 0;
        for (int c = 0; c < n; c++) {
            const vm_linear_call *call = &calls[c];
            const vm_linear *l = call->l;
            if (call->m == 0) continue;
            vm_panel *x = NULL;
            /* dy^T as the left-hand matrix: row i is output i, contraction over the tokens. */
            vm_gemm_job grad = {
                .a = call->dy, .a_m_stride = 1, .a_k_stride = call->ldy, .k_index = call->dy_index, .accumulate = true};
            if (slot == 0 && l->weight) {
                VM_TRY(pack_rows(pool, scratch, l->compute, call->m, l->in, call->x, call->ldx, call->index, &x));
                grad.m = l->out, grad.b = x, grad.c = l->weight->grad, grad.ldc = (size_t)l->in;
                second.jobs[second.count++] = grad;
            }
            if (slot >= l->n_lora) continue;
            const vm_lora *r = l->lora[slot];
            size_t rank = (size_t)vm_linear_rank(l), column = 0;
            for (int i = 0; i < slot; i++) column += (size_t)l->lora[i]->rank;
            float *d = dt[c] + column;
            scale_columns(d, call->m, rank, r->rank, r->scale);
            vm_panel *t;
            VM_TRY(pack_rows(pool, scratch, l->compute, call->m, r->rank, call->t + column, rank, NULL, &t));
            grad.m = r->rows, grad.a = call->dy + r->row, grad.b = t, grad.c = r->b.grad, grad.ldc = (size_t)r->rank;
            second.jobs[second.count++] = grad;
            if (!x) VM_TRY(pack_rows(pool, scratch, l->compute, call->m, l->in, call->x, call->ldx, call->index, &x));
            second.jobs[second.count++] = (vm_gemm_job){.m = r->rank,
                                                        .a = d,
                                                        .a_m_stride = 1,
                                                        .a_k_stride = rank,
                                                        .b = x,
                                                        .c = r->a.grad,
                                                        .ldc = (size_t)l->in,
                                                        .accumulate = true};
            if (call->dx)
                second.jobs[second.count++] = (vm_gemm_job){.m = call->m,
                                                            .a = d,
                                                            .a_m_stride = rank,
                                                            .a_k_stride = 1,
                                                            .b = &r->a_backward,
                                                            .c = call->dx,
                                                            .ldc = call->lddx,
                                                            .accumulate = true};
        }
        if (second.count == 0) break;
        VM_TRY(vm_gemm(pool, second.jobs, second.count));
    }
    return VMOER_OK;
}
