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
    vm_free(l->lora_a.data);
    vm_free(l->lora_b.data);
    if (l->weight) param_clear(l->weight);
    vm_free(l->weight);
    if (l->bias) param_clear(l->bias);
    vm_free(l->bias);
    for (int i = 0; i < l->n_lora; i++) {
        vm_lora *r = l->lora[i];
        param_clear(&r->a);
        param_clear(&r->b);
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

vmoer_status vm_linear_set_bias(vm_linear *l, const char *name, const float *bias, bool train) {
    l->bias = vm_calloc(1, sizeof *l->bias);
    if (!l->bias) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", name);
    VM_TRY(param_init(l->bias, name, ".bias", 1, l->out));
    l->bias->decay = false;
    memcpy(l->bias->value, bias, vm_param_size(l->bias) * sizeof *bias);
    if (train) return VMOER_OK;
    vm_free(l->bias->grad);
    l->bias->grad = NULL;
    return VMOER_OK;
}

vmoer_status vm_linear_add_lora(vm_linear *l, const char *name, int row, int rows, int rank, float scale,
                                vm_lora **out) {
    if (l->n_lora == VM_MAX_LORA)
        return vm_error(VMOER_ERROR_LIMIT, "%s: more than %d LoRA on one projection", name, VM_MAX_LORA);
    if (l->compute == VM_COMPUTE_BF16 && (l->in % 2 || l->out % 2)) /* B and A begin in words of their own below W */
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: LoRA on a matrix of %d x %d, an odd number", name, l->out, l->in);
    vm_lora *r = vm_calloc(1, sizeof *r);
    if (!r) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", name);
    l->lora[l->n_lora++] = r;
    *r = (vm_lora){.row = row, .rows = rows, .rank = rank, .scale = scale};
    VM_TRY(param_init(&r->a, name, ".lora_A.weight", rank, l->in));
    VM_TRY(param_init(&r->b, name, ".lora_B.weight", rows, rank));
    *out = r;
    return VMOER_OK;
}

/* Room for R more rows below W, and for R columns beside A and B. */
static vmoer_status make_room(vm_panel *p, int k) {
    if (!p->data || p->k == k) return VMOER_OK;
    vm_panel wider = {.type = p->type, .k = k, .n = p->n};
    VM_TRY(panel_alloc(&wider, p->type, k, p->n));
    vm_panel_extend(&wider, p);
    vm_free(p->data);
    *p = wider;
    return VMOER_OK;
}

static vmoer_status refresh_lora(vm_linear *l, vm_pool *pool) {
    size_t R = (size_t)vm_linear_rank(l), in = (size_t)l->in, out = (size_t)l->out, at = 0;
    float *a = vm_malloc(R * in, sizeof *a), *b = vm_calloc(R * out, sizeof *b); /* [R, in], [R, out] */
    vmoer_status status = a && b ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for LoRA of rank %zu", R);
    for (int i = 0; i < l->n_lora && status == VMOER_OK; at += (size_t)l->lora[i++]->rank) {
        const vm_lora *r = l->lora[i];
        size_t rank = (size_t)r->rank, row = (size_t)r->row;
        memcpy(a + at * in, r->a.value, rank * in * sizeof *a);
        for (size_t x = 0; x < (size_t)r->rows; x++)
            for (size_t j = 0; j < rank; j++) b[(at + j) * out + row + x] = r->b.value[x * rank + j];
    }
    if (status != VMOER_OK) goto done;
    VM_GOTO(make_room(&l->forward, l->in + (int)R));
    VM_GOTO(make_room(&l->backward, l->out + (int)R));
    VM_GOTO(panel_alloc(&l->lora_a, l->compute, l->in, (int)R));
    VM_GOTO(panel_alloc(&l->lora_b, l->compute, l->out, (int)R));
    vm_panel_pack(pool, &l->lora_a, l->compute, l->in, (int)R, a, 1, in, NULL);
    vm_panel_pack(pool, &l->lora_b, l->compute, l->out, (int)R, b, 1, out, NULL);
    vm_panel_set_rows(&l->forward, l->in, (int)R, b, out);
    if (l->backward.data) vm_panel_set_rows(&l->backward, l->out, (int)R, a, in);
done:
    vm_free(a);
    vm_free(b);
    return status;
}

vmoer_status vm_linear_refresh(vm_linear *l, vm_pool *pool) {
    if (l->weight) {
        VM_TRY(pack_forward(&l->forward, pool, l->compute, l->out, l->in, l->weight->value));
        if (l->backward.data) VM_TRY(pack_backward(&l->backward, pool, l->compute, l->out, l->in, l->weight->value));
    }
    return l->n_lora ? refresh_lora(l, pool) : VMOER_OK;
}

int vm_linear_rank(const vm_linear *l) {
    int rank = 0;
    for (int i = 0; i < l->n_lora; i++) rank += l->lora[i]->rank;
    return rank;
}

bool vm_linear_trainable(const vm_linear *l) { return l->weight || l->n_lora > 0; }

void vm_linear_scale(const vm_linear *l, int m, float *t) {
    for (int row = 0; row < m; row++)
        for (int i = 0; i < l->n_lora; i++)
            for (int r = 0; r < l->lora[i]->rank; r++) *t++ *= l->lora[i]->scale;
}

enum { BIAS_ROWS = 16 }; /* of a task */

/* Jobs of one stage. */
typedef struct job_list {
    vm_gemm_job *jobs;
    int count;
} job_list;

static vmoer_status jobs_init(job_list *list, vm_arena *scratch, int n, int per_call) {
    list->jobs = vm_arena_alloc(scratch, (size_t)n * (size_t)per_call + 1, sizeof *list->jobs);
    list->count = 0;
    return list->jobs ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for %d matrix products", n);
}

/* Is a LoRA's middle to be computed for this call? */
static bool wants_middle(const vm_linear_call *call) { return call->m > 0 && call->l->n_lora && !call->dt; }

/* The products t[m, R] = scale * x B of the calls that want one. */
static vmoer_status lora_middles(vm_pool *pool, const vm_linear_call *calls, int n, job_list *list) {
    VM_TRY(vm_gemm(pool, list->jobs, list->count));
    for (int c = 0, job = 0; c < n; c++)
        if (wants_middle(&calls[c])) vm_linear_scale(calls[c].l, calls[c].m, list->jobs[job++].c);
    return VMOER_OK;
}

static void add_tail(vm_gemm_job *job, const vm_linear *l, const float *t) {
    int R = vm_linear_rank(l);
    if (R) job->tail = t, job->tail_stride = (size_t)R, job->tail_k = R;
}

/* The products alone. */
static vmoer_status multiply(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n) {
    job_list middles, products;
    VM_TRY(jobs_init(&middles, scratch, n, 1));
    VM_TRY(jobs_init(&products, scratch, n, 1));
    for (int c = 0; c < n; c++) {
        const vm_linear_call *call = &calls[c];
        if (call->m == 0) continue;
        vm_gemm_job job = {
            .m = call->m, .a = call->x, .a_m_stride = call->ldx, .a_k_stride = 1, .m_index = call->index};
        job.b = &call->l->lora_a, job.c = call->t, job.ldc = (size_t)vm_linear_rank(call->l);
        if (wants_middle(call)) middles.jobs[middles.count++] = job;
        job.b = &call->l->forward, job.c = call->y, job.ldc = call->ldy;
        add_tail(&job, call->l, call->t);
        products.jobs[products.count++] = job;
    }
    VM_TRY(lora_middles(pool, calls, n, &middles));
    return vm_gemm(pool, products.jobs, products.count);
}

static void add_bias(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const vm_linear_call *c = context;
    for (size_t i = begin; i < end; i++) vm_kernels_get()->axpy(1.0f, c->l->bias->value, c->y + i * c->ldy, c->l->out);
}

vmoer_status vm_linear_forward(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n) {
    VM_TRY(multiply(pool, scratch, calls, n));
    for (int c = 0; c < n; c++) {
        vm_linear_call call = calls[c];
        if (call.l->bias) vm_pool_run_range(pool, (size_t)call.m, BIAS_ROWS, add_bias, &call);
    }
    return VMOER_OK;
}

/* The products of the unit vectors are the columns of W; 1 w + 0 + ... + 0 is w. */
vmoer_status vm_linear_matrix(const vm_linear *l, vm_pool *pool, float *w) {
    enum { AT_ONCE = 256 };
    size_t in = (size_t)l->in, out = (size_t)l->out;
    vm_arena *scratch = vm_arena_create();
    bool ok = scratch != NULL;
    float *x = ok ? vm_arena_floats(scratch, AT_ONCE, in, &ok) : NULL;
    float *y = ok ? vm_arena_floats(scratch, AT_ONCE, out, &ok) : NULL;
    float *t = ok ? vm_arena_floats(scratch, AT_ONCE, (size_t)vm_linear_rank(l), &ok) : NULL;
    vmoer_status status =
        ok ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory to read a %d x %d weight", l->out, l->in);
    for (size_t first = 0; status == VMOER_OK && first < in; first += AT_ONCE) {
        size_t rows = in - first < AT_ONCE ? in - first : AT_ONCE;
        vm_linear_call call = {.l = l, .m = (int)rows, .x = x, .ldx = in, .y = y, .ldy = out, .t = t};
        memset(x, 0, rows * in * sizeof *x);
        for (size_t i = 0; i < rows; i++) x[i * in + first + i] = 1;
        status = multiply(pool, scratch, &call, 1);
        for (size_t i = 0; status == VMOER_OK && i < rows; i++)
            for (size_t j = 0; j < out; j++) w[j * in + first + i] = y[i * out + j];
    }
    vm_arena_free(scratch);
    return status;
}

/* ---- backward ---- */

/* The gradients of one LoRA's A and B, some columns of either:  dA += dt' x,  dB += dy' t.  Both are products with few
 * rows. */
typedef struct lora_task {
    const vm_linear_call *call;
    const vm_lora *r;
    const float *s; /* [m, R] from this LoRA's column on: dt or t */
    bool a;
    int column, columns;
} lora_task;

enum { GRADIENT_COLUMNS = 128, MAX_RANK_AT_ONCE = 16 };

static void lora_gradient(void *context, int task, int worker) {
    (void)worker;
    const lora_task *j = (const lora_task *)context + task;
    const vm_linear_call *c = j->call;
    size_t R = (size_t)vm_linear_rank(c->l), rank = (size_t)j->r->rank, column = (size_t)j->column;
    if (j->a) {
        vm_kernels_get()->outer(j->r->rank, j->columns, c->m, j->s, R, c->x + column, c->ldx, c->index,
                                j->r->a.grad + column, (size_t)c->l->in);
        return;
    }
    float turned[MAX_RANK_AT_ONCE * GRADIENT_COLUMNS]; /* dB' */
    for (size_t first = 0; first < rank; first += MAX_RANK_AT_ONCE) {
        int ranks = (int)(rank - first < MAX_RANK_AT_ONCE ? rank - first : MAX_RANK_AT_ONCE);
        memset(turned, 0, sizeof turned);
        vm_kernels_get()->outer(ranks, j->columns, c->m, j->s + first, R, c->dy + j->r->row + column, c->ldy,
                                c->dy_index, turned, GRADIENT_COLUMNS);
        for (size_t x = 0; x < (size_t)j->columns; x++)
            for (size_t r = 0; r < (size_t)ranks; r++)
                j->r->b.grad[(column + x) * rank + first + r] += turned[r * GRADIENT_COLUMNS + x];
    }
}

static int add_tasks(lora_task *tasks, lora_task task, int columns) {
    int count = 0;
    for (task.column = 0; task.column < columns; task.column += GRADIENT_COLUMNS) {
        task.columns = columns - task.column < GRADIENT_COLUMNS ? columns - task.column : GRADIENT_COLUMNS;
        tasks[count++] = task;
    }
    return count;
}

static vmoer_status lora_gradients(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n,
                                   float *const *dt) {
    size_t most = 0;
    for (int c = 0; c < n; c++)
        most += (size_t)calls[c].l->n_lora * (size_t)((calls[c].l->in + calls[c].l->out) / GRADIENT_COLUMNS + 2);
    lora_task *tasks = vm_arena_alloc(scratch, most + 1, sizeof *tasks);
    if (!tasks) return vm_error(VMOER_ERROR_MEMORY, "no memory for the LoRA gradients");
    int count = 0;
    for (int c = 0; c < n; c++) {
        const vm_linear *l = calls[c].l;
        size_t at = 0;
        for (int i = 0; calls[c].m > 0 && i < l->n_lora; at += (size_t)l->lora[i++]->rank) {
            lora_task task = {.call = &calls[c], .r = l->lora[i], .s = dt[c] + at, .a = true};
            count += add_tasks(tasks + count, task, l->in);
            task.s = calls[c].t + at, task.a = false;
            count += add_tasks(tasks + count, task, l->lora[i]->rows);
        }
    }
    vm_pool_run(pool, count, lora_gradient, tasks);
    return VMOER_OK;
}

/* The gradient of W as a job: dy' as the left-hand matrix, row i is output i, contraction over the tokens; x packed on
 * the right. */
static vmoer_status weight_job(vm_pool *pool, vm_arena *scratch, const vm_linear_call *call, vm_gemm_job *job) {
    const vm_linear *l = call->l;
    vm_panel *x = vm_arena_alloc(scratch, 1, sizeof *x);
    if (x) x->data = vm_arena_alloc(scratch, 1, vm_panel_bytes(l->compute, call->m, l->in));
    if (!x || !x->data) return vm_error(VMOER_ERROR_MEMORY, "no memory to pack %d x %d activations", call->m, l->in);
    vm_panel_pack(pool, x, l->compute, call->m, l->in, call->x, call->ldx, 1, call->index);
    *job = (vm_gemm_job){.m = l->out,
                         .a = call->dy,
                         .a_m_stride = 1,
                         .a_k_stride = call->ldy,
                         .k_index = call->dy_index,
                         .b = x,
                         .c = l->weight->grad,
                         .ldc = (size_t)l->in,
                         .accumulate = true};
    return VMOER_OK;
}

/* The sum of dy over the tokens, in their order. */
static void bias_gradient(const vm_linear_call *c) {
    if (!c->l->bias || !c->l->bias->grad) return;
    for (size_t i = 0; i < (size_t)c->m; i++) {
        size_t row = c->dy_index ? (size_t)c->dy_index[i] : i;
        vm_kernels_get()->axpy(c->bias_scale ? c->bias_scale[i] : 1.0f, c->dy + row * c->ldy, c->l->bias->grad,
                               c->l->out);
    }
}

vmoer_status vm_linear_backward(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n) {
    job_list middles, products;
    VM_TRY(jobs_init(&middles, scratch, n, 1));
    VM_TRY(jobs_init(&products, scratch, n, 2));
    float **dt = vm_arena_alloc(scratch, (size_t)n + 1, sizeof *dt); /* [n] -> [m, R], scale * dy B */
    if (!dt) return vm_error(VMOER_ERROR_MEMORY, "no memory for the LoRA gradients");
    for (int c = 0; c < n; c++) {
        const vm_linear_call *call = &calls[c];
        const vm_linear *l = call->l;
        size_t R = (size_t)vm_linear_rank(l);
        if (call->m == 0) continue;
        vm_gemm_job job = {
            .m = call->m, .a = call->dy, .a_m_stride = call->ldy, .a_k_stride = 1, .m_index = call->dy_index};
        dt[c] = call->dt ? call->dt : vm_arena_alloc(scratch, (size_t)call->m * R, sizeof(float));
        if (!dt[c]) return vm_error(VMOER_ERROR_MEMORY, "no memory for the LoRA gradients");
        job.b = &l->lora_b, job.c = dt[c], job.ldc = R;
        if (wants_middle(call)) middles.jobs[middles.count++] = job;
        if (call->dx) {
            job.b = &l->backward, job.c = call->dx, job.ldc = call->lddx, job.accumulate = call->add_dx;
            add_tail(&job, l, dt[c]);
            products.jobs[products.count++] = job;
        }
        if (l->weight) VM_TRY(weight_job(pool, scratch, call, &products.jobs[products.count++]));
    }
    for (int c = 0; c < n; c++) bias_gradient(&calls[c]);
    VM_TRY(lora_middles(pool, calls, n, &middles));
    VM_TRY(vm_gemm(pool, products.jobs, products.count));
    return lora_gradients(pool, scratch, calls, n, dt);
}
