/* weights.c: what the kinds with matrices of their own share, and "weights", the plainest of them: the model's router
 * trained on. A draw of the weights is a linear router; inference runs S of them as one product, u times [S N, D],
 * and takes the mean of their softmaxes. */
#include "router/weights.h"

#include "base/status.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TASK_TOKENS = 16 };

/* ---- tensors ---- */

static int matrices(const vm_router_config *c, const vm_weights_kind *kind) {
    return kind->matrices ? kind->matrices(c) : 1;
}

static vm_router_tensor tensor(const vm_router_kind *kind, const vm_router_config *c, int slot) {
    static const char *const names[VM_WEIGHT_SLOTS] = {"weight", "mean", "variance", "deviations"};
    int count = slot == VM_WEIGHT ? matrices(c, kind->weights) : slot == VM_WEIGHT_DEVIATIONS ? c->rank : 1;
    if (slot != VM_WEIGHT && !kind->weights->gather) count = 0;
    vm_router_tensor t = {.rows = count * c->n_experts,
                          .cols = c->dim,
                          .decay = slot == VM_WEIGHT,
                          .carried = slot != VM_WEIGHT,
                          .positive = slot == VM_WEIGHT_VARIANCE};
    snprintf(t.name, sizeof t.name, "%s", names[slot]);
    return t;
}

vmoer_status vm_router_start_weights(vm_router *r, int layer, const float *w) {
    vm_router_layer *l = vm_router_layer_find(r, layer);
    if (!l) return vm_error(VMOER_ERROR_ARGUMENT, "router: layer %d is not one of its layers", layer);
    const vm_weights_kind *kind = r->kind->weights;
    vm_param *weight = &l->params[VM_WEIGHT];
    size_t size = vm_matrix_size(&r->config);
    for (size_t at = 0; at < vm_param_size(weight); at += size) memcpy(weight->value + at, w, size * sizeof *w);
    if (kind->start) kind->start(&r->config, l, layer);
    r->packed = false;
    return VMOER_OK;
}

bool vm_router_has_weights(const vm_router *r) { return r->kind->weights != NULL; }

int vm_router_config_rounds(const vm_router_config *c) {
    const vm_router_kind *k = vm_router_kind_find(c->kind);
    return k && k->weights ? matrices(c, k->weights) : 1;
}

int vm_router_rounds(const vm_router *r) { return vm_router_config_rounds(&r->config); }

bool vm_router_gathers(const vm_router *r) { return r->kind->weights && r->kind->weights->gather; }

vmoer_status vm_router_gather(vm_router *r, uint64_t step, uint64_t total) {
    if (!vm_router_gathers(r)) return VMOER_OK;
    for (int i = 0; i < r->config.n_layers; i++)
        VM_TRY(r->kind->weights->gather(&r->config, &r->layers[i], step, total));
    return VMOER_OK;
}

/* ---- a call ---- */

/* What the tasks of one call share. Row 0 of x and l is token `first`. */
typedef struct call {
    const vm_router_config *config;
    const vm_weights_kind *kind;
    const vm_kernels *kernels;
    const vm_route *in;
    int first;
    int count; /* matrices side by side in l */
    float *x;  /* [rows, D]: masked u, or its gradient */
    float *l;  /* [rows, count N]: logits, or their gradients */
    const float *p_in, *dp;
    float *du;
    const vm_routing *out;
    float *kl;
} call;

static call make_call(const vm_router *r, const vm_route *in, int count) {
    return (call){
        .config = &r->config, .kind = r->kind->weights, .kernels = vm_kernels_get(), .in = in, .count = count};
}

static int rows_left(const call *c, int chunk) {
    int left = c->in->n_tokens - c->first;
    return left < chunk ? left : chunk;
}

static size_t dim_of(const call *c) { return (size_t)c->config->dim; }
static size_t experts_of(const call *c) { return (size_t)c->config->n_experts; }

/* The matrix that token t trains. */
static size_t member_of(const call *c, size_t t) { return (c->in->tokens[t].item + c->in->step) % (uint64_t)c->count; }

/* Of one matrix's logits. */
static void add_bias(const call *c, float *l) {
    for (size_t i = 0; c->in->bias && i < experts_of(c); i++) l[i] += c->in->bias[i];
}

/* ---- training ---- */

static void mask_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const call *c = context;
    for (size_t t = begin; t < end; t++) {
        float *x = c->x + t * dim_of(c);
        memcpy(x, c->in->u + (t + (size_t)c->first) * dim_of(c), dim_of(c) * sizeof *x);
        c->kind->mask(c->config, c->in, (int)t + c->first, x);
    }
}

/* The chunk's rows as training sees them. */
static const float *seen(vm_pool *pool, call *c, int rows) {
    if (!c->kind->mask) return c->in->u + (size_t)c->first * dim_of(c);
    vm_pool_run_range(pool, (size_t)rows, TASK_TOKENS, mask_rows, c);
    return c->x;
}

static void forward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const call *c = context;
    size_t n = experts_of(c);
    for (size_t row = begin; row < end; row++) {
        size_t t = row + (size_t)c->first;
        float *l = c->l + (row * (size_t)c->count + member_of(c, t)) * n, *p = c->out->p + t * n;
        add_bias(c, l);
        memcpy(p, l, n * sizeof *p);
        c->kernels->softmax(p, (int)n);
        if (!vm_router_all_finite(l, n)) p[0] = NAN;
        c->kl[t] = 0;
    }
}

static vmoer_status forward(vm_router *r, vm_pool *pool, const vm_route *in, vm_router_layer *l, float *p,
                            float *scores, float *saved, float *kl) {
    (void)scores, (void)saved;
    const vm_param *w = &l->params[VM_WEIGHT];
    call c = make_call(r, in, matrices(&r->config, r->kind->weights));
    int chunk = vm_at_most(in->n_tokens, vm_router_chunk(w->rows));
    vm_panel panel = {0};
    bool ok = vm_router_panel(pool, r->work, w->cols, w->rows, w->value, true, &panel);
    c.l = vm_arena_floats(r->work, (size_t)chunk, (size_t)w->rows, &ok);
    c.x = c.kind->mask ? vm_arena_floats(r->work, (size_t)chunk, dim_of(&c), &ok) : NULL;
    if (!ok) return vm_router_out_of_memory(in);
    c.out = &(vm_routing){.p = p};
    c.kl = kl;
    for (; c.first < in->n_tokens; c.first += chunk) {
        int rows = rows_left(&c, chunk);
        vm_gemm_job logits = vm_router_product(rows, seen(pool, &c, rows), &panel, c.l, (size_t)w->rows, false);
        VM_TRY(vm_gemm(pool, &logits, 1));
        vm_pool_run_range(pool, (size_t)rows, TASK_TOKENS, forward_rows, &c);
    }
    return vm_router_check_finite(in, p, experts_of(&c), "a logit");
}

/* dl = p (dp - <p, dp>) of the token's matrix, 0 of the others. */
static void backward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const call *c = context;
    size_t n = experts_of(c), columns = (size_t)c->count * n;
    for (size_t row = begin; row < end; row++) {
        size_t t = row + (size_t)c->first;
        float *l = c->l + row * columns, *dl = l + member_of(c, t) * n;
        memset(l, 0, columns * sizeof *l);
        memcpy(dl, c->dp + t * n, n * sizeof *dl);
        c->kernels->softmax_backward(c->p_in + t * n, 1.0f, dl, (int)n);
    }
}

/* du += the masked gradient. */
static void unmask_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const call *c = context;
    for (size_t row = begin; row < end; row++) {
        size_t t = row + (size_t)c->first;
        float *x = c->x + row * dim_of(c);
        c->kind->mask(c->config, c->in, (int)t, x);
        c->kernels->axpy(1.0f, x, c->du + t * dim_of(c), (int)dim_of(c));
    }
}

static vmoer_status backward(vm_router *r, vm_pool *pool, const vm_route *in, vm_router_layer *l, const float *p,
                             const float *saved, const float *dp, float kl_weight, float *du, float *dlogits) {
    (void)saved, (void)kl_weight;
    vm_param *w = &l->params[VM_WEIGHT];
    call c = make_call(r, in, matrices(&r->config, r->kind->weights));
    int chunk = vm_at_most(in->n_tokens, vm_router_chunk(w->rows));
    size_t rows = (size_t)chunk;
    vm_panel back = {0}, x = {0};
    bool ok = vm_router_panel(pool, r->work, chunk, w->cols, NULL, false, &x) &&
              (!du || vm_router_panel(pool, r->work, w->rows, w->cols, w->value, false, &back));
    c.l = vm_arena_floats(r->work, rows, (size_t)w->rows, &ok);
    c.x = c.kind->mask ? vm_arena_floats(r->work, rows, dim_of(&c), &ok) : NULL;
    if (!ok) return vm_router_out_of_memory(in);
    c.p_in = p;
    c.dp = dp;
    c.du = du;
    memset(dlogits, 0, (size_t)in->n_tokens * experts_of(&c) * sizeof *dlogits);
    for (; c.first < in->n_tokens; c.first += chunk) {
        int now = rows_left(&c, chunk);
        vm_pool_run_range(pool, (size_t)now, TASK_TOKENS, backward_rows, &c);
        vm_router_panel(pool, NULL, now, w->cols, seen(pool, &c, now), false, &x);
        VM_TRY(vm_router_weight_gradient(pool, c.l, &x, w));
        if (!du) continue;
        float *to = c.kind->mask ? c.x : du + (size_t)c.first * dim_of(&c);
        vm_gemm_job input = vm_router_product(now, c.l, &back, to, dim_of(&c), !c.kind->mask);
        VM_TRY(vm_gemm(pool, &input, 1));
        if (c.kind->mask) vm_pool_run_range(pool, (size_t)now, TASK_TOKENS, unmask_rows, &c);
    }
    return VMOER_OK;
}

/* ---- inference ---- */

/* The matrices of a layer for one way of inference, packed. */
struct vm_weight_table {
    vm_inference inference;
    uint64_t seed, first; /* number of the first draw */
    int count;
    vm_panel panel; /* [D, count N] */
};

void vm_weight_table_free(vm_weight_table *t) {
    if (!t) return;
    vm_free(t->panel.data);
    vm_free(t);
}

size_t vm_weight_table_bytes(const vm_weight_table *t) {
    return t ? vm_panel_bytes(t->panel.type, t->panel.k, t->panel.n) : 0;
}

/* Matrices at inference: `members` draws side by side, or one. */
static int count_of(const vm_router *r, vm_inference inference) {
    return inference == VM_INFERENCE_SAMPLE && r->kind->weights->draw ? r->config.members : 1;
}

typedef struct draw_job {
    const vm_router *r;
    const vm_router_layer *layer;
    const vm_weight_table *table;
    int number; /* the model's layer */
    float *w;   /* [count N, D] */
} draw_job;

static void draw_matrix(void *context, int task, int worker) {
    (void)worker;
    const draw_job *j = context;
    const vm_router_config *c = &j->r->config;
    const vm_weights_kind *kind = j->r->kind->weights;
    size_t size = vm_matrix_size(c);
    float *w = j->w + (size_t)task * size;
    if (kind->draw && j->table->inference != VM_INFERENCE_MEAN)
        kind->draw(c, j->layer, j->number, j->table->seed, j->table->first + (uint64_t)task, w);
    else if (kind->mean)
        kind->mean(c, j->layer, w);
    else
        memcpy(w, j->layer->params[VM_WEIGHT].value, size * sizeof *w);
}

static bool fill_table(const vm_router *r, vm_pool *pool, const vm_router_layer *l, int layer, vm_weight_table *t) {
    int rows = t->count * r->config.n_experts, dim = r->config.dim;
    float *w = vm_malloc((size_t)rows * (size_t)dim, sizeof *w);
    t->panel.data = vm_malloc(1, vm_panel_bytes(VM_COMPUTE_F32, dim, rows));
    bool ok = w && t->panel.data;
    draw_job j = {r, l, t, layer, w};
    if (ok) {
        vm_pool_run(pool, t->count, draw_matrix, &j);
        vm_router_panel(pool, NULL, dim, rows, w, true, &t->panel);
    }
    vm_free(w);
    return ok;
}

/* The table kept by the layer, taken from it while this call uses it, or a new one. */
static vm_weight_table *take_table(const vm_router *r, vm_pool *pool, vm_router_layer *l, const vm_route *in,
                                   vm_inference inference) {
    vm_weight_table want = {.inference = inference, .count = count_of(r, inference)};
    if (inference != VM_INFERENCE_MEAN) want.seed = in->seed;
    if (inference == VM_INFERENCE_PASSES) want.first = in->step;
    vm_weight_table *t = atomic_exchange(&l->weights, NULL);
    if (t && r->packed && t->inference == want.inference && t->seed == want.seed && t->first == want.first) return t;
    vm_weight_table_free(t);
    t = vm_malloc(1, sizeof *t);
    if (t) *t = want;
    if (t && fill_table(r, pool, l, in->layer, t)) return t;
    vm_weight_table_free(t);
    return NULL;
}

/* tr and tr P . P of the covariance of count logit vectors l[count, n], divisor count - 1; mean[n] is scratch. */
static void spread(const float *l, size_t count, size_t n, float *mean, float *trace, float *projected) {
    *trace = *projected = 0;
    if (count < 2) return;
    for (size_t i = 0; i < n; i++) {
        mean[i] = 0;
        for (size_t s = 0; s < count; s++) mean[i] += l[s * n + i];
        mean[i] /= (float)count;
    }
    for (size_t s = 0; s < count; s++) {
        float squares = 0, sum = 0;
        for (size_t i = 0; i < n; i++) {
            float d = l[s * n + i] - mean[i];
            squares += d * d;
            sum += d;
        }
        *trace += squares;
        *projected += squares - sum * sum / (float)n;
    }
    *trace /= (float)(count - 1);
    *projected /= (float)(count - 1);
}

static void infer_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const call *c = context;
    size_t n = experts_of(c), count = (size_t)c->count;
    for (size_t row = begin; row < end; row++) {
        size_t t = row + (size_t)c->first;
        float *l = c->l + row * count * n, *p = c->out->p + t * n, trace, projected;
        for (size_t s = 0; s < count; s++) add_bias(c, l + s * n);
        bool finite = vm_router_all_finite(l, count * n);
        spread(l, count, n, p, &trace, &projected);
        for (size_t s = 0; s < count; s++) c->kernels->softmax(l + s * n, (int)n);
        memcpy(p, l, n * sizeof *p);
        for (size_t s = 1; s < count; s++) c->kernels->axpy(1.0f, l + s * n, p, (int)n);
        for (size_t i = 0; count > 1 && i < n; i++) p[i] /= (float)count;
        if (!finite) p[0] = NAN;
        if (c->out->trace) c->out->trace[t] = trace;
        if (c->out->trace_projected) c->out->trace_projected[t] = projected;
        if (c->out->trace_diagonal) c->out->trace_diagonal[t] = 0;
        if (c->out->temperature) c->out->temperature[t] = NAN;
    }
}

static vmoer_status infer(const vm_infer_call *i, vm_pool *pool, vm_router_layer *l, vm_arena *memory) {
    const vm_route *in = i->in;
    vm_weight_table *table = take_table(i->r, pool, l, in, i->inference);
    if (!table) return vm_router_out_of_memory(in);
    call c = make_call(i->r, in, table->count);
    c.out = &i->out;
    int columns = table->panel.n, chunk = vm_at_most(in->n_tokens, vm_router_chunk(columns));
    bool ok = true;
    c.l = vm_arena_floats(memory, (size_t)chunk, (size_t)columns, &ok);
    vmoer_status status = ok ? VMOER_OK : vm_router_out_of_memory(in);
    for (; status == VMOER_OK && c.first < in->n_tokens; c.first += chunk) {
        int rows = rows_left(&c, chunk);
        vm_gemm_job logits =
            vm_router_product(rows, in->u + (size_t)c.first * dim_of(&c), &table->panel, c.l, (size_t)columns, false);
        status = vm_gemm(pool, &logits, 1);
        if (status == VMOER_OK) vm_pool_run_range(pool, (size_t)rows, TASK_TOKENS, infer_rows, &c);
    }
    vm_weight_table_free(atomic_exchange(&l->weights, table));
    return status == VMOER_OK ? vm_router_check_finite(in, i->out.p, experts_of(&c), "a logit") : status;
}

static double flops(const vm_router *r, vm_inference inference, int samples) {
    (void)samples;
    return 2.0 * r->config.dim * r->config.n_experts * count_of(r, inference);
}

const vm_router_network vm_network_weights = {.slots = VM_WEIGHT_SLOTS,
                                              .tensor = tensor,
                                              .flops = flops,
                                              .forward = forward,
                                              .backward = backward,
                                              .infer = infer};

/* ---- the model's router trained on ---- */

static const vm_weights_kind plain = {0};

const vm_router_kind vm_router_kind_weights = {.name = "weights",
                                               .network = &vm_network_weights,
                                               .has_layers = true,
                                               .inference = VM_INFERENCE_MEAN,
                                               .max_experts = VM_ROUTER_MAX_EXPERTS,
                                               .weights = &plain};
