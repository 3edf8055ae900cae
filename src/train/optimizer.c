/* optimizer.c: see optimizer.h. Sums over chunks are taken in double and in order; everything else is element by
 * element. */
#include "train/optimizer.h"

#include "base/memory.h"
#include "base/status.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { CHUNK = 16384 };

/* Elements [begin, begin + n) of a parameter. */
typedef struct vm_optimizer_chunk {
    size_t param, begin, n;
} chunk;

vm_optimizer_options vm_optimizer_options_default(void) {
    return (vm_optimizer_options){.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
}

static vmoer_status check_options(const vm_optimizer_options *o) {
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1))
        return vm_error(VMOER_ERROR_ARGUMENT, "AdamW: betas %g and %g must lie in [0, 1)", o->beta1, o->beta2);
    if (!(o->epsilon > 0 && o->epsilon < INFINITY))
        return vm_error(VMOER_ERROR_ARGUMENT, "AdamW: epsilon %g must be positive", o->epsilon);
    if (!(o->weight_decay >= 0 && o->weight_decay < INFINITY))
        return vm_error(VMOER_ERROR_ARGUMENT, "weight decay %g must be from 0", o->weight_decay);
    if (!(o->clip >= 0 && o->clip < INFINITY))
        return vm_error(VMOER_ERROR_ARGUMENT, "clipping norm %g must be from 0", o->clip);
    return VMOER_OK;
}

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory for the optimiser's state"); }

static vmoer_status make_state(vm_optimizer *o) {
    size_t count = o->params.count, n_chunks = 0;
    for (size_t i = 0; i < count; i++)
        if (o->params.items[i]->grad) n_chunks += (vm_param_size(o->params.items[i]) + CHUNK - 1) / CHUNK;
    if (n_chunks > INT_MAX) return vm_error(VMOER_ERROR_LIMIT, "too many parameters");
    o->m = vm_calloc(count + 1, sizeof *o->m);
    o->v = vm_calloc(count + 1, sizeof *o->v);
    o->chunks = vm_malloc(n_chunks + 1, sizeof *o->chunks);
    o->squares = vm_malloc(n_chunks + 1, sizeof *o->squares);
    if (!o->m || !o->v || !o->chunks || !o->squares) return no_memory();
    for (size_t i = 0; i < count; i++) {
        size_t size = vm_param_size(o->params.items[i]);
        if (!o->params.items[i]->grad) continue;
        o->m[i] = vm_calloc(size, sizeof *o->m[i]);
        o->v[i] = vm_calloc(size, sizeof *o->v[i]);
        if (!o->m[i] || !o->v[i]) return no_memory();
        for (size_t begin = 0; begin < size; begin += CHUNK)
            o->chunks[o->n_chunks++] =
                (chunk){.param = i, .begin = begin, .n = size - begin < CHUNK ? size - begin : CHUNK};
    }
    return VMOER_OK;
}

static vmoer_status take_rates(vm_optimizer *o, const float *rates) {
    o->rates = vm_malloc(o->params.count + 1, sizeof *o->rates);
    if (!o->rates) return no_memory();
    for (size_t i = 0; i < o->params.count; i++) {
        o->rates[i] = rates ? rates[i] : 1;
        if (!(o->rates[i] >= 0 && o->rates[i] < INFINITY))
            return vm_error(VMOER_ERROR_ARGUMENT, "%s: factor %g on the learning rate must be from 0",
                            o->params.items[i]->name, (double)o->rates[i]);
    }
    return VMOER_OK;
}

vmoer_status vm_optimizer_create(const vm_param_list *params, const vm_optimizer_options *options, const float *rates,
                                 vm_optimizer **out) {
    *out = NULL;
    VM_TRY(check_options(options));
    vm_optimizer *o = vm_calloc(1, sizeof *o);
    if (!o) return no_memory();
    o->options = *options;
    o->params = *params;
    vmoer_status status;
    VM_GOTO(take_rates(o, rates));
    VM_GOTO(make_state(o));
    *out = o;
    return VMOER_OK;
done:
    vm_optimizer_free(o);
    return status;
}

void vm_optimizer_free(vm_optimizer *o) {
    if (!o) return;
    for (size_t i = 0; o->m && i < o->params.count; i++) vm_free(o->m[i]);
    for (size_t i = 0; o->v && i < o->params.count; i++) vm_free(o->v[i]);
    vm_free(o->m);
    vm_free(o->v);
    vm_free(o->rates);
    vm_free(o->chunks);
    vm_free(o->squares);
    vm_free(o);
}

/* ---- a step ---- */

static void square_task(void *context, int task, int worker) {
    (void)worker;
    vm_optimizer *o = context;
    const chunk *c = &o->chunks[task];
    const float *g = o->params.items[c->param]->grad + c->begin;
    double sum = 0;
    for (size_t i = 0; i < c->n; i++) sum += (double)g[i] * (double)g[i];
    o->squares[task] = sum;
}

/* A double holds the square of any float, so a sum that is not finite has an element that is not. */
static vmoer_status global_norm(vm_optimizer *o, vm_pool *pool, double *out) {
    vm_pool_run(pool, o->n_chunks, square_task, o);
    double sum = 0;
    for (int i = 0; i < o->n_chunks; i++) {
        if (!isfinite(o->squares[i]))
            return vm_error(VMOER_ERROR_NUMERIC, "the gradient of %s is not finite",
                            o->params.items[o->chunks[i].param]->name);
        sum += o->squares[i];
    }
    *out = sqrt(sum);
    return VMOER_OK;
}

typedef struct step_context {
    const vm_optimizer *o;
    float scale; /* of the gradients, from clipping */
    double learning_rate;
    double correction1, correction2; /* 1 - beta^step */
} step_context;

/* theta <- (1 - lr wd) theta - lr mhat / (sqrt(vhat) + eps), mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t). */
static void step_task(void *context, int task, int worker) {
    (void)worker;
    const step_context *s = context;
    const vm_optimizer *o = s->o;
    const chunk *c = &o->chunks[task];
    const vm_param *p = o->params.items[c->param];
    double rate = s->learning_rate * (double)o->rates[c->param];
    const float b1 = (float)o->options.beta1, b2 = (float)o->options.beta2;
    const float r1 = (float)(1 - o->options.beta1), r2 = (float)(1 - o->options.beta2);
    const float step = (float)(rate / s->correction1), root = (float)(1 / sqrt(s->correction2)),
                epsilon = (float)o->options.epsilon;
    const float keep = p->decay ? (float)(1 - rate * o->options.weight_decay) : 1;
    float *value = p->value + c->begin, *grad = p->grad + c->begin, *m = o->m[c->param] + c->begin,
          *v = o->v[c->param] + c->begin;
    for (size_t i = 0; i < c->n; i++) {
        float g = s->scale * grad[i];
        m[i] = b1 * m[i] + r1 * g;
        v[i] = b2 * v[i] + r2 * g * g;
        value[i] = keep * value[i] - step * m[i] / (sqrtf(v[i]) * root + epsilon);
    }
    memset(grad, 0, c->n * sizeof *grad);
}

vmoer_status vm_optimizer_step(vm_optimizer *o, vm_pool *pool, double learning_rate, double *norm) {
    double n;
    VM_TRY(global_norm(o, pool, &n));
    o->step++;
    step_context s = {.o = o, .scale = 1, .learning_rate = learning_rate};
    if (o->options.clip > 0 && n > o->options.clip) s.scale = (float)(o->options.clip / n);
    s.correction1 = 1 - pow(o->options.beta1, (double)o->step);
    s.correction2 = 1 - pow(o->options.beta2, (double)o->step);
    vm_pool_run(pool, o->n_chunks, step_task, &s);
    if (norm) *norm = n;
    return VMOER_OK;
}

double vm_schedule_linear(uint64_t step, uint64_t total, double warmup) {
    if (step >= total) return 0;
    uint64_t peak = (uint64_t)(warmup * (double)total);
    return step < peak ? (double)(step + 1) / (double)(peak + 1) : (double)(total - step) / (double)(total - peak);
}
