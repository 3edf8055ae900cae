/* ffn.c: see ffn.h. Forward and backward of the mixture, side by side. */
#include "model/ffn.h"

#include "base/rng.h"
#include "base/status.h"
#include "model/experts.h"

#include <math.h>
#include <string.h>

enum { ROWS_A_TASK = 32 }; /* tokens (or rows) one thread takes at a time in the element-wise parts */

void vm_ffn_clear(vm_ffn *f) {
    vm_linear_clear(&f->router);
    vm_linear_clear(&f->shared_in);
    vm_linear_clear(&f->shared_out);
    vm_linear_clear(&f->shared_gate);
    for (int e = 0; e < f->n_experts; e++) {
        if (f->expert_in) vm_linear_clear(&f->expert_in[e]);
        if (f->expert_out) vm_linear_clear(&f->expert_out[e]);
    }
    vm_free(f->expert_in);
    vm_free(f->expert_out);
    memset(f, 0, sizeof *f);
}

/* One pass that keeps the best so far in order. A NaN ranks with the lowest before it: nothing later of that value or
 * below passes it, which makes the order of any input total. */
void vm_top_k(const float *p, int n, int k, int32_t *chosen) {
    float value[VM_TOP_K_MAX]; /* of chosen */
    int held = 0;
    for (int e = 0; e < n; e++) {
        float x = isnan(p[e]) ? (held > 0 ? value[held - 1] : INFINITY) : p[e];
        if (held == k && !(x > value[k - 1])) continue;
        if (held < k) held++;
        int at = held - 1;
        for (; at > 0 && x > value[at - 1]; at--) {
            value[at] = value[at - 1];
            chosen[at] = chosen[at - 1];
        }
        value[at] = x;
        chosen[at] = e;
    }
}

static int32_t *ints(vm_arena *arena, size_t count, bool *ok) {
    int32_t *p = vm_arena_alloc(arena, count + 1, sizeof *p);
    *ok &= p != NULL;
    return p;
}

static vmoer_status no_memory(void) {
    return vm_error(VMOER_ERROR_MEMORY, "no memory for the activations of a feed-forward layer");
}

/* ---- element-wise parts, parallel over rows ---- */

typedef struct rows_job {
    const vm_ffn *f;
    const vm_ffn_acts *acts;
    const vm_ffn_route *route;
    int width;
    vm_activation activation;
    const float *hidden, *dactive, *outputs;
    float *out, *dhidden, *dp, *dgate;
} rows_job;

static void activate_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const rows_job *j = context;
    size_t w = (size_t)j->width;
    for (size_t i = begin; i < end; i++)
        vm_activate(j->activation, j->hidden + i * 2 * w, j->hidden + i * 2 * w + w, j->out + i * w, j->width);
}

static void swiglu_backward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const rows_job *j = context;
    const vm_kernels *kernels = vm_kernels_get();
    size_t w = (size_t)j->width;
    for (size_t i = begin; i < end; i++) {
        const float *gate = j->hidden + i * 2 * w;
        float *dgate = j->dhidden + i * 2 * w;
        kernels->swiglu_backward(gate, gate + w, j->dactive + i * w, dgate, dgate + w, j->width);
    }
}

/* ---- choosing experts ---- */

static void softmax_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const rows_job *j = context;
    const vm_kernels *kernels = vm_kernels_get();
    size_t n = (size_t)j->f->n_experts;
    for (size_t t = begin; t < end; t++) {
        memcpy(j->acts->p + t * n, j->acts->logits + t * n, n * sizeof(float));
        kernels->softmax(j->acts->p + t * n, (int)n);
    }
}

/* K experts of a token at random: the largest of N uniform draws that depend on who the token is alone. */
static void draw_random(const vm_ffn_route *route, const vm_token_key *key, int n, int k, int32_t *chosen) {
    float draws[VM_TOP_K_MAX + 4];
    for (int e = 0; e < n; e += 4) {
        uint32_t counter[4] = {key->item, (uint32_t)key->part << 16 | key->position, (uint32_t)route->layer,
                               (uint32_t)e / 4},
                 words[4];
        vm_rng_block(route->seed, VM_RNG_RANDOM_ROUTING, counter, words);
        for (int i = 0; i < 4; i++) draws[e + i] = (float)(words[i] >> 8);
    }
    vm_top_k(draws, n, k, chosen);
}

static void set_gates(const vm_ffn *f, const float *p, const int32_t *chosen, float *gates) {
    float sum = 0;
    for (int k = 0; k < f->top_k; k++) sum += p[chosen[k]];
    for (int k = 0; k < f->top_k; k++) gates[k] = f->scale * (f->renormalise ? p[chosen[k]] / sum : p[chosen[k]]);
}

static void choose_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const rows_job *j = context;
    const vm_ffn *f = j->f;
    size_t n = (size_t)f->n_experts, K = (size_t)f->top_k;
    const float *scores = j->outputs ? j->outputs : j->acts->scores ? j->acts->scores : j->acts->p;
    for (size_t t = begin; t < end; t++) {
        int32_t *chosen = j->acts->chosen + t * K;
        if (j->route->routing == VM_ROUTING_RANDOM)
            draw_random(j->route, &j->route->tokens[t], f->n_experts, f->top_k, chosen);
        else
            vm_top_k(scores + t * n, f->n_experts, f->top_k, chosen);
        set_gates(f, j->acts->p + t * n, chosen, j->acts->gates + t * K);
    }
}

/* y[T, D] of one block of width w; hidden [T, 2 w], active [T, w] and LoRA's t_in, t_out are left behind. */
static vmoer_status run_block(const vm_linear *in, const vm_linear *out, vm_activation activation, vm_pool *pool,
                              vm_arena *scratch, int n_tokens, const float *u, float *hidden, float *active,
                              float *t_in, float *t_out, float *y) {
    vm_linear_call first = {
        .l = in, .m = n_tokens, .x = u, .ldx = (size_t)in->in, .y = hidden, .ldy = (size_t)in->out, .t = t_in};
    vm_linear_call second = {
        .l = out, .m = n_tokens, .x = active, .ldx = (size_t)out->in, .y = y, .ldy = (size_t)out->out, .t = t_out};
    VM_TRY(vm_linear_forward(pool, scratch, &first, 1));
    rows_job j = {.width = out->in, .activation = activation, .hidden = hidden, .out = active};
    vm_pool_run_range(pool, (size_t)n_tokens, ROWS_A_TASK, activate_rows, &j);
    return vm_linear_forward(pool, scratch, &second, 1);
}

/* norms[T, N]: the squared norm of every expert's output, for ORACLE. One expert after the other: the memory is one's.
 */
static vmoer_status output_norms(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens, const float *u,
                                 float *norms) {
    size_t T = (size_t)n_tokens, D = (size_t)f->dim, N = (size_t)f->n_experts, w = (size_t)f->width;
    bool ok = true;
    float *hidden = vm_arena_floats(scratch, T, 2 * w, &ok), *active = vm_arena_floats(scratch, T, w, &ok),
          *y = vm_arena_floats(scratch, T, D, &ok),
          *t_in = vm_arena_floats(scratch, T, (size_t)vm_linear_rank(&f->expert_in[0]), &ok),
          *t_out = vm_arena_floats(scratch, T, (size_t)vm_linear_rank(&f->expert_out[0]), &ok);
    if (!ok) return no_memory();
    for (size_t e = 0; e < N; e++) {
        VM_TRY(run_block(&f->expert_in[e], &f->expert_out[e], f->activation, pool, scratch, n_tokens, u, hidden, active,
                         t_in, t_out, y));
        for (size_t t = 0; t < T; t++) norms[t * N + e] = vm_kernels_get()->dot(y + t * D, y + t * D, f->dim);
    }
    return VMOER_OK;
}

/* What a variational router is called with; seen[T, D]: what it sees. */
static vm_route router_call(const vm_ffn *f, const vm_ffn_route *route, int n_tokens, const float *seen,
                            const vm_ffn_acts *a) {
    return (vm_route){.layer = route->layer,
                      .n_tokens = n_tokens,
                      .u = seen,
                      .logits = a->logits,
                      .bias = f->router.bias ? f->router.bias->value : NULL,
                      .tokens = route->tokens,
                      .seed = route->seed,
                      .step = route->step,
                      .sign = route->sign};
}

/* What the routers see of u[T, D]. */
static vmoer_status disturb(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens, const float *u,
                            const vm_ffn_route *route, const float **seen) {
    *seen = u;
    if (route->noise.sigma == 0) return VMOER_OK;
    bool ok = true;
    float *noisy = vm_arena_floats(scratch, (size_t)n_tokens, (size_t)f->dim, &ok);
    if (!ok) return no_memory();
    vm_noise_draw(pool, route->noise.seed, route->layer, n_tokens, f->dim, route->tokens, noisy);
    vm_noise_add(&route->noise, pool, n_tokens, f->dim, u, noisy, noisy);
    *seen = noisy;
    return VMOER_OK;
}

/* p, and the scores where the router chooses, of a variational router. */
static vmoer_status run_router(const vm_ffn *f, vm_pool *pool, vm_arena *keep, int n_tokens, const float *seen,
                               const vm_ffn_route *route, vm_ffn_acts *a) {
    size_t T = (size_t)n_tokens;
    vm_route in = router_call(f, route, n_tokens, seen, a);
    bool ok = true;
    if (vm_router_chooses(route->router)) a->scores = vm_arena_floats(keep, T, (size_t)f->n_experts, &ok);
    if (route->training) {
        a->saved = vm_arena_floats(keep, T, vm_router_saved_floats(route->router), &ok);
        a->kl = vm_arena_floats(keep, T, 1, &ok);
        if (!ok) return no_memory();
        return vm_router_forward(route->router, pool, &in, a->p, a->scores, a->saved, a->kl);
    }
    if (route->signals) {
        a->trace = vm_arena_floats(keep, T, 1, &ok);
        a->trace_projected = vm_arena_floats(keep, T, 1, &ok);
        a->temperature = vm_arena_floats(keep, T, 1, &ok);
    }
    if (!ok) return no_memory();
    const vm_routing out = {.p = a->p,
                            .scores = a->scores,
                            .trace = a->trace,
                            .trace_projected = a->trace_projected,
                            .temperature = a->temperature};
    return vm_router_infer(route->router, pool, &in, route->inference, route->samples, &out);
}

vmoer_status vm_ffn_choose(const vm_ffn *f, vm_pool *pool, vm_arena *keep, vm_arena *scratch, int n_tokens,
                           const float *u, const vm_ffn_route *route, vm_ffn_acts *a) {
    size_t T = (size_t)n_tokens, N = (size_t)f->n_experts;
    bool ok = true;
    const float *seen;
    VM_TRY(disturb(f, pool, scratch, n_tokens, u, route, &seen));
    a->logits = vm_arena_floats(keep, T, N, &ok);
    a->p = vm_arena_floats(keep, T, N, &ok);
    a->t_router = vm_arena_floats(keep, T, (size_t)vm_linear_rank(&f->router), &ok);
    a->chosen = ints(keep, T * (size_t)f->top_k, &ok);
    a->gates = vm_arena_floats(keep, T, (size_t)f->top_k, &ok);
    if (!ok) return no_memory();
    vm_linear_call call = {
        .l = &f->router, .m = n_tokens, .x = seen, .ldx = (size_t)f->dim, .y = a->logits, .ldy = N, .t = a->t_router};
    VM_TRY(vm_linear_forward(pool, scratch, &call, 1));

    rows_job j = {.f = f, .acts = a, .route = route};
    if (route->router)
        VM_TRY(run_router(f, pool, keep, n_tokens, seen, route, a));
    else
        vm_pool_run_range(pool, (size_t)n_tokens, ROWS_A_TASK, softmax_rows, &j);
    if (route->routing == VM_ROUTING_ORACLE) {
        float *norms = vm_arena_floats(scratch, T, N, &ok);
        if (!ok) return no_memory();
        VM_TRY(output_norms(f, pool, scratch, n_tokens, u, norms));
        j.outputs = norms;
    }
    vm_pool_run_range(pool, (size_t)n_tokens, ROWS_A_TASK, choose_rows, &j);
    return VMOER_OK;
}

/* out[T, D] = h x[T, D] */
static void gate_shared_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const rows_job *j = context;
    size_t D = (size_t)j->width;
    for (size_t t = begin; t < end; t++)
        for (size_t i = 0; i < D; i++) j->out[t * D + i] = j->acts->shared_gate[t] * j->hidden[t * D + i];
}

static void gate_shared(const vm_ffn *f, vm_pool *pool, int n_tokens, const vm_ffn_acts *a, const float *x,
                        float *out) {
    rows_job j = {.acts = a, .width = f->dim, .hidden = x, .out = out};
    vm_pool_run_range(pool, (size_t)n_tokens, ROWS_A_TASK, gate_shared_rows, &j);
}

/* y[T, D] of the shared part. */
static vmoer_status shared_forward(const vm_ffn *f, vm_pool *pool, vm_arena *keep, vm_arena *scratch, int n_tokens,
                                   vm_ffn_acts *a, float *y) {
    size_t T = (size_t)n_tokens, W = (size_t)f->shared_width;
    bool ok = true;
    a->shared_hidden = vm_arena_floats(keep, T, 2 * W, &ok);
    a->shared_active = vm_arena_floats(keep, T, W, &ok);
    a->t_shared_in = vm_arena_floats(keep, T, (size_t)vm_linear_rank(&f->shared_in), &ok);
    a->t_shared_out = vm_arena_floats(keep, T, (size_t)vm_linear_rank(&f->shared_out), &ok);
    if (!ok) return no_memory();
    VM_TRY(run_block(&f->shared_in, &f->shared_out, VM_ACTIVATION_SWIGLU, pool, scratch, n_tokens, a->u,
                     a->shared_hidden, a->shared_active, a->t_shared_in, a->t_shared_out, y));
    if (!f->shared_gate.out) return VMOER_OK;
    a->shared_gate = vm_arena_floats(keep, T, 1, &ok);
    a->t_shared_gate = vm_arena_floats(keep, T, (size_t)vm_linear_rank(&f->shared_gate), &ok);
    if (!ok) return no_memory();
    vm_linear_call call = {.l = &f->shared_gate,
                           .m = n_tokens,
                           .x = a->u,
                           .ldx = (size_t)f->dim,
                           .y = a->shared_gate,
                           .ldy = 1,
                           .t = a->t_shared_gate};
    VM_TRY(vm_linear_forward(pool, scratch, &call, 1));
    for (size_t t = 0; t < T; t++) a->shared_gate[t] = 1 / (1 + expf(-a->shared_gate[t]));
    gate_shared(f, pool, n_tokens, a, y, y);
    return VMOER_OK;
}

vmoer_status vm_ffn_forward(const vm_ffn *f, vm_pool *pool, vm_arena *keep, vm_arena *scratch, int n_tokens,
                            const float *u, const vm_ffn_route *route, vm_ffn_acts *a, float *y) {
    *a = (vm_ffn_acts){.u = u};
    if (f->shared_width) VM_TRY(shared_forward(f, pool, keep, scratch, n_tokens, a, y));
    if (f->n_experts == 0) return VMOER_OK;

    VM_TRY(vm_ffn_choose(f, pool, keep, scratch, n_tokens, u, route, a));
    return vm_experts_forward(f, pool, route->training ? keep : NULL, scratch, n_tokens, a, y);
}

/* ---- backward ---- */

/* Through the gates: dgate[T, K] to dp[T, N]. */
static void gate_backward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const rows_job *j = context;
    const vm_ffn *f = j->f;
    size_t n = (size_t)f->n_experts, K = (size_t)f->top_k;
    for (size_t t = begin; t < end; t++) {
        const float *p = j->acts->p + t * n, *dg = j->dgate + t * K;
        const int32_t *chosen = j->acts->chosen + t * K;
        float *dp = j->dp + t * n, sum = 0, mean = 0;
        memset(dp, 0, n * sizeof *dp);
        for (size_t k = 0; k < K; k++) sum += p[chosen[k]], mean += dg[k] * p[chosen[k]];
        mean /= sum; /* sum_k dg_k p_k / sum_k p_k */
        for (size_t k = 0; k < K; k++) dp[chosen[k]] = f->scale * (f->renormalise ? (dg[k] - mean) / sum : dg[k]);
    }
}

/* dl = p (dp - <p, dp>): softmax, in place over dp. */
static void softmax_backward_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const rows_job *j = context;
    const vm_kernels *kernels = vm_kernels_get();
    size_t n = (size_t)j->f->n_experts;
    for (size_t t = begin; t < end; t++) kernels->softmax_backward(j->acts->p + t * n, 1.0f, j->dp + t * n, (int)n);
}

/* What reaches the gate's logit: h (1 - h) <dy, shared> = (1 - h) <dactive, active>, dactive being that of h dy.
 * du[T, D] +=, NULL: not wanted. */
static vmoer_status shared_gate_backward(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens,
                                         const vm_ffn_acts *a, const float *dactive, float *du) {
    size_t T = (size_t)n_tokens, W = (size_t)f->shared_width;
    bool ok = true;
    float *dlogit = vm_arena_floats(scratch, T, 1, &ok);
    if (!ok) return no_memory();
    for (size_t t = 0; t < T; t++)
        dlogit[t] =
            (1 - a->shared_gate[t]) * vm_kernels_get()->dot(dactive + t * W, a->shared_active + t * W, f->shared_width);
    vm_linear_call call = {.l = &f->shared_gate,
                           .m = n_tokens,
                           .x = a->u,
                           .ldx = (size_t)f->dim,
                           .dy = dlogit,
                           .ldy = 1,
                           .t = a->t_shared_gate,
                           .dx = du,
                           .lddx = (size_t)f->dim,
                           .add_dx = true};
    return vm_linear_backward(pool, scratch, &call, 1);
}

static vmoer_status shared_backward(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens,
                                    const vm_ffn_acts *a, const float *dy, float *du) {
    size_t T = (size_t)n_tokens, D = (size_t)f->dim, W = (size_t)f->shared_width;
    bool ok = true;
    float *dactive = vm_arena_floats(scratch, T, W, &ok), *dhidden = vm_arena_floats(scratch, T, 2 * W, &ok),
          *gated = a->shared_gate ? vm_arena_floats(scratch, T, D, &ok) : NULL;
    if (!ok) return no_memory();
    if (gated) {
        gate_shared(f, pool, n_tokens, a, dy, gated);
        dy = gated;
    }
    vm_linear_call out = {.l = &f->shared_out,
                          .m = n_tokens,
                          .x = a->shared_active,
                          .ldx = W,
                          .dy = dy,
                          .ldy = D,
                          .t = a->t_shared_out,
                          .dx = dactive,
                          .lddx = W};
    vm_linear_call in = {.l = &f->shared_in,
                         .m = n_tokens,
                         .x = a->u,
                         .ldx = D,
                         .dy = dhidden,
                         .ldy = 2 * W,
                         .t = a->t_shared_in,
                         .dx = du,
                         .lddx = D};
    VM_TRY(vm_linear_backward(pool, scratch, &out, 1));
    rows_job j = {.width = f->shared_width, .hidden = a->shared_hidden, .dactive = dactive, .dhidden = dhidden};
    vm_pool_run_range(pool, (size_t)n_tokens, ROWS_A_TASK, swiglu_backward_rows, &j);
    VM_TRY(vm_linear_backward(pool, scratch, &in, 1));
    return gated ? shared_gate_backward(f, pool, scratch, n_tokens, a, dactive, du) : VMOER_OK;
}

vmoer_status vm_ffn_backward(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens, const vm_ffn_route *route,
                             const vm_ffn_acts *a, const float *dy, float kl_weight, float *du) {
    size_t T = (size_t)n_tokens, D = (size_t)f->dim, N = (size_t)f->n_experts;
    bool shared_wanted = du || vm_linear_trainable(&f->shared_in) || vm_linear_trainable(&f->shared_out) ||
                         vm_linear_trainable(&f->shared_gate);
    if (f->shared_width && shared_wanted) VM_TRY(shared_backward(f, pool, scratch, n_tokens, a, dy, du));
    if (f->n_experts == 0) return VMOER_OK;

    bool ok = true;
    float *dp = vm_arena_floats(scratch, T, N, &ok), *dgate = vm_arena_floats(scratch, T, (size_t)f->top_k, &ok),
          *dlogits = dp;
    if (!ok) return no_memory();
    VM_TRY(vm_experts_backward(f, pool, scratch, n_tokens, a, dy, dgate, du));
    rows_job j = {.f = f, .acts = a, .dp = dp, .dgate = dgate};
    vm_pool_run_range(pool, (size_t)n_tokens, ROWS_A_TASK, gate_backward_rows, &j);

    if (route->router) {
        vm_route r = router_call(f, route, n_tokens, a->u, a);
        dlogits = vm_arena_floats(scratch, T, N, &ok);
        if (!ok) return no_memory();
        VM_TRY(vm_router_backward(route->router, pool, &r, a->p, a->saved, dp, kl_weight, du, dlogits));
    } else {
        vm_pool_run_range(pool, (size_t)n_tokens, ROWS_A_TASK, softmax_backward_rows, &j);
    }
    vm_linear_call router = {.l = &f->router,
                             .m = n_tokens,
                             .x = a->u,
                             .ldx = D,
                             .dy = dlogits,
                             .ldy = N,
                             .t = a->t_router,
                             .dx = du,
                             .lddx = D,
                             .add_dx = true};
    return vm_linear_backward(pool, scratch, &router, 1);
}
