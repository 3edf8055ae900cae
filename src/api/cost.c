/* cost.c: what a variational router adds to a prompt's answer: operations by formula and as counted, numbers, working
 * memory, time. Beside the router's own layers stand all layers of the model, with a router of the same kind whose
 * layers repeat the given one's values. */
#include "api/internal.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/status.h"
#include "kernels/count.h"
#include "model/flops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DETERMINISTIC, CHOSEN, ALL, WAYS, MAX_ROUNDS = 1000 };
static const char *const way_names[WAYS] = {"deterministic", "chosen", "all"};

vmoer_cost_params vmoer_cost_params_default(void) {
    return (vmoer_cost_params){.load = vmoer_model_params_default(), .length = 512, .rounds = 5};
}

/* One of the three ways to answer. */
typedef struct way {
    vm_router *router; /* NULL: deterministic */
    int passes;
    double flops, counted;        /* of the whole prompt */
    size_t parameters, workspace; /* workspace: bytes, on one thread */
    double seconds[MAX_ROUNDS];
} way;

typedef struct account {
    const vmoer_cost_params *p;
    const vmoer_hooks *hooks;
    vm_session *session;
    vm_arena *arena;
    vm_router *all; /* NULL: the router has no layers */
    vm_batch batch;
    way ways[WAYS];
} account;

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory for a prompt"); }

static vmoer_status check_params(const vmoer_cost_params *p) {
    if (!p->load.router) return vm_error(VMOER_ERROR_ARGUMENT, "no router given (--router FILE)");
    if (p->rounds < 1 || p->rounds > MAX_ROUNDS)
        return vm_error(VMOER_ERROR_ARGUMENT, "rounds %d, must be 1 to %d", p->rounds, MAX_ROUNDS);
    if (p->load.routing != VMOER_ROUTING_LEARNED)
        return vm_error(VMOER_ERROR_ARGUMENT, "the cost of a routing that is not learned is not measured");
    return vm_api_check_label(p->label);
}

/* ---- the routers ---- */

static size_t count_parameters(const vm_param_list *list) {
    size_t sum = 0;
    for (size_t i = 0; i < list->count; i++) sum += vm_param_size(list->items[i]);
    return sum;
}

/* A router like `given` in all of the model's layers that have one. */
static vmoer_status spread_router(vm_router *given, const vm_config *model, vm_router **out) {
    vm_router_config c = *vm_router_get_config(given);
    size_t layers = (size_t)c.n_layers;
    VM_TRY(vm_api_layers("all", model, &c));
    VM_TRY(vm_router_create(&c, out));
    vm_param_list from = vm_router_params(given), to = vm_router_params(*out);
    size_t each = from.count / layers;
    for (size_t i = 0; i < to.count; i++) {
        const vm_param *value = from.items[i / each % layers * each + i % each];
        memcpy(to.items[i]->value, value->value, vm_param_size(value) * sizeof *value->value);
    }
    VM_TRY(vm_router_pack(given));
    return vm_router_pack(*out);
}

static vmoer_status make_ways(account *a) {
    vm_router *router = a->session->router;
    bool layers = vm_router_get_config(router)->n_layers > 0;
    int passes = a->session->options.inference == VM_INFERENCE_PASSES && layers ? a->session->options.samples : 1;
    if (layers) VM_TRY(spread_router(router, &a->session->model->config, &a->all));
    a->ways[DETERMINISTIC] = (way){.passes = 1};
    a->ways[CHOSEN] = (way){.router = router, .passes = passes};
    a->ways[ALL] = (way){.router = layers ? a->all : router, .passes = passes};
    for (int i = CHOSEN; i < WAYS; i++) {
        vm_param_list params = vm_router_params(a->ways[i].router);
        a->ways[i].parameters = count_parameters(&params);
        VM_TRY(vm_router_pack(a->ways[i].router));
    }
    return VMOER_OK;
}

/* ---- the prompt ---- */

/* Random tokens; the next one's distribution is asked for. */
static vmoer_status make_prompt(account *a) {
    const vm_config *c = &a->session->model->config;
    if (a->p->length < 1 || a->p->length > c->context)
        return vm_error(VMOER_ERROR_ARGUMENT, "length %d, must be 1 to the model's context, %d", a->p->length,
                        c->context);
    int32_t *ids = vm_arena_alloc(a->arena, (size_t)a->p->length, sizeof *ids), *row;
    if (!ids || !(row = vm_arena_alloc(a->arena, 1, sizeof *row))) return no_memory();
    vm_rng rng = vm_rng_start(a->p->load.seed, VM_RNG_TEXT, 0);
    for (int i = 0; i < a->p->length; i++) ids[i] = (int32_t)vm_rng_below(&rng, (uint32_t)c->n_vocab);
    *row = 0;
    VM_TRY(vm_sequence_build(a->arena, ids, a->p->length, 0, &a->batch));
    a->batch.n_targets = 1, a->batch.target_row = row, a->batch.target_id = ids;
    return VMOER_OK;
}

static vm_pass_options options_of(const account *a, const way *w) {
    vm_pass_options o = a->session->options;
    o.router = w->router;
    return o;
}

/* The prompt once; of several passes the part below the lowest variational layer once. */
static vmoer_status answer(const account *a, const way *w, vm_pass *pass) {
    const vm_pass_options o = options_of(a, w);
    float log_probability;
    VM_TRY(vm_pass_forward(pass, &a->batch, &o, &log_probability, NULL, NULL));
    for (int i = 1; i < w->passes; i++) VM_TRY(vm_pass_again(pass, (uint64_t)i, &log_probability, NULL));
    return VMOER_OK;
}

/* ---- what it takes ---- */

/* On one thread: neither operations nor memory are to depend on how many there are. */
static vmoer_status take_account(account *a, way *w) {
    vm_pass *pass;
    vm_pass_options o = options_of(a, w);
    VM_TRY(vm_pass_create(a->session->model, NULL, &pass));
    w->flops = vm_flops_forward(a->session->model, &a->batch, &o);
    if (w->passes > 1) w->flops += (w->passes - 1) * vm_flops_again(a->session->model, &a->batch, &o);
    vm_count_begin();
    vmoer_status status = answer(a, w, pass);
    w->counted = 2 * (double)vm_count_end();
    w->workspace = vm_pass_bytes(pass) + (w->router ? vm_router_bytes(w->router) : 0);
    vm_pass_free(pass);
    return status;
}

/* The ways in turn, round by round; the first round warms up. */
static vmoer_status race(account *a) {
    for (int round = -1; round < a->p->rounds; round++)
        for (int i = 0; i < WAYS; i++) {
            double start = vm_api_seconds();
            VM_TRY(answer(a, &a->ways[i], a->session->pass));
            if (round >= 0) a->ways[i].seconds[round] = vm_api_seconds() - start;
            VM_TRY(vm_progress(a->hooks, "cost", (uint64_t)(WAYS * (round + 1) + i + 1),
                               (uint64_t)(WAYS * (a->p->rounds + 1)), way_names[i]));
        }
    return VMOER_OK;
}

/* ---- the result ---- */

static json_t *way_to_json(const account *a, int i) {
    const way *w = &a->ways[i], *base = &a->ways[DETERMINISTIC];
    double tokens = a->batch.n_tokens;
    if (i == DETERMINISTIC)
        return json_pack("{s:f, s:f, s:I}", "flops_token", w->flops / tokens, "flops_counted_token",
                         w->counted / tokens, "workspace_bytes", (json_int_t)w->workspace);
    return json_pack("{s:i, s:I, s:f, s:f, s:f, s:f, s:I}", "n_layers", vm_router_get_config(w->router)->n_layers,
                     "parameters", (json_int_t)w->parameters, "flops_token", (w->flops - base->flops) / tokens,
                     "flops_share", (w->flops - base->flops) / base->flops, "flops_counted_token",
                     (w->counted - base->counted) / tokens, "flops_counted_share",
                     (w->counted - base->counted) / base->counted, "workspace_bytes",
                     (json_int_t)w->workspace - (json_int_t)base->workspace);
}

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Sorts values[n]. */
static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* overhead: the median over the rounds of how much longer than the deterministic way the round took. */
static json_t *seconds_to_json(const account *a) {
    json_t *all = json_object();
    int n = a->p->rounds;
    for (int i = 0; i < WAYS; i++) {
        double seconds[MAX_ROUNDS], more[MAX_ROUNDS];
        for (int r = 0; r < n; r++) {
            seconds[r] = a->ways[i].seconds[r];
            more[r] = seconds[r] / a->ways[DETERMINISTIC].seconds[r] - 1;
        }
        double middle = median(seconds, n); /* and the shortest is the first */
        json_object_set_new(
            all, way_names[i],
            json_pack("{s:f, s:f, s:f}", "median", middle, "best", seconds[0], "overhead", median(more, n)));
    }
    return all;
}

static vmoer_status result_of(const account *a, json_t **out) {
    json_t *config = json_pack("{s:i}", "length", a->p->length), *results = json_object();
    if (config) vm_api_put_load(config, a->session, &a->p->load);
    for (int i = 0; i < WAYS; i++) json_object_set_new(results, way_names[i], way_to_json(a, i));
    json_t *head = vm_api_head("cost", a->session, config);
    if (head && json_object_set_new(head, "results", results) == 0 &&
        json_object_set_new(head, "label", json_string(vm_api_label(a->p->label, a->session))) == 0) {
        *out = head;
        return VMOER_OK;
    }
    json_decref(head);
    return vm_error(VMOER_ERROR_MEMORY, "no memory for the results, or a name in them is not UTF-8");
}

static vmoer_status run(account *a, json_t **out) {
    const vmoer_cost_params *p = a->p;
    if (p->output_path) VM_TRY(vm_make_dirs(p->output_path));
    VM_TRY(vm_api_session_open(p->model, &p->load, &a->session));
    a->arena = vm_arena_create();
    if (!a->arena) return no_memory();
    VM_TRY(make_prompt(a));
    VM_TRY(make_ways(a));
    for (int i = 0; i < WAYS; i++) VM_TRY(take_account(a, &a->ways[i]));
    VM_TRY(race(a));
    VM_TRY(result_of(a, out));
    json_t *seconds = seconds_to_json(a);
    if (p->output_path)
        VM_TRY(vm_api_write(p->output_path, *out,
                            json_pack("{s:O, s:i, s:i}", "seconds", seconds, "rounds", p->rounds, "threads",
                                      vm_pool_threads(a->session->pool))));
    json_object_set_new(*out, "seconds", seconds);
    return VMOER_OK;
}

vmoer_status vmoer_cost(const vmoer_cost_params *p, const vmoer_hooks *hooks, char **out_json) {
    json_t *result = NULL;
    VM_TRY(check_params(p));
    account *a = vm_calloc(1, sizeof *a);
    if (!a) return no_memory();
    a->p = p, a->hooks = hooks;
    vmoer_status status = run(a, &result);
    vm_router_free(a->all);
    vm_session_free(a->session);
    vm_arena_free(a->arena);
    vm_free(a);
    if (status == VMOER_OK) return vm_api_return_json(result, out_json);
    json_decref(result);
    return status;
}
