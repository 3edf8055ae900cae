/* bench.c: how fast the model is on this machine, beside what the machine can do. A list of tests is made first; those
 * of one phase share a loaded model and run in turn, round after round, so that what else the machine does falls on all
 * of them alike; the shortest time of each counts. What is trained is a copy in memory. */
#include "api/internal.h"

#include "base/progress.h"
#include "base/rng.h"
#include "base/status.h"
#include "base/utf8.h"
#include "kernels/peak.h"
#include "model/flops.h"
#include "train/lora.h"
#include "train/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TESTS = 64, MAX_LIST = 16, MAX_PASS_QUESTIONS = 256, ROUTER_WIDTH = 64, DECODED = 64 };
static const double peak_seconds = 0.2, head_scale = 0.02;

vmoer_bench_params vmoer_bench_params_default(void) {
    return (vmoer_bench_params){.layers = "auto",
                                .questions = {.tasks = "openbookqa", .limit = 64},
                                .tests = "all",
                                .lengths = "128,512",
                                .samples = "1,8,32,128",
                                .targets = "attention",
                                .rank = 8,
                                .batch_size = 16,
                                .repeats = 5};
}

typedef enum kind { PREFILL, DECODE, EVAL, FOUR_PROMPTS, FINETUNE, CALIBRATE, CALIBRATE_AGAIN } kind;

typedef struct bench bench;
typedef struct test {
    char name[64];
    kind kind;
    int length;             /* PREFILL, DECODE: tokens */
    bool routed;            /* with the variational router */
    vm_inference inference; /* of it */
    int samples;
    int against;  /* index of the test that this one's overhead is over, or -1 */
    double count; /* tokens or questions of a run */
    double flops; /* of a run */
    double best;  /* seconds of the shortest run */
} test;

struct bench {
    const vmoer_bench_params *p;
    const vmoer_hooks *hooks;
    vm_config config; /* the model's, from its header */
    json_t *rows;
    double peaks[2]; /* FLOP/s of all threads, by vm_compute; 0: not measured, or the ISA has none */
    json_t *layers;  /* of the variational router that was measured; NULL: none */
    int threads;
    test tests[MAX_TESTS];
    int n_tests;
    uint64_t done, total; /* runs */
    vm_arena *arena;      /* of one run's batch */

    /* The phase at hand: a session, or a training. */
    vm_session *session;
    vm_training training;
    vm_router *router;
    vm_router_file router_file; /* what a loaded one says of itself */
    vm_objective objective;
    vm_states *states; /* what a question met again need not compute */
    vm_optimizer *optimizer;
    vm_param_list trained;
    vm_examples questions; /* of the session */
    vm_prompt
        *singles; /* each choice of each question as a prompt of its own; share the questions' texts but for ids */
    size_t n_singles;
    int32_t *order; /* [questions of the training] 0, 1, ... */
    uint64_t step;
};

/* ---- what is asked for ---- */

/* Is `name` among the tests? Everything is with "all"; *named: by its own name. */
static bool wanted(const bench *b, const char *name, bool *named) {
    size_t length = strlen(name);
    *named = false;
    for (const char *at = b->p->tests; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == 0)) *named = true;
    return *named || strcmp(b->p->tests, "all") == 0;
}

static vmoer_status check_tests(const char *tests) {
    static const char *const known[] = {"peak", "prefill",      "router",   "decode",
                                        "eval", "four-prompts", "finetune", "calibrate"};
    if (strcmp(tests, "all") == 0) return VMOER_OK;
    for (const char *at = tests;;) {
        size_t n = strcspn(at, ",");
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || (strlen(known[i]) == n && strncmp(at, known[i], n) == 0);
        if (!found)
            return vm_error(VMOER_ERROR_ARGUMENT,
                            "--tests '%s': must be all, or some of peak, prefill, router, decode, eval, four-prompts, "
                            "finetune, calibrate",
                            tests);
        if (!at[n]) return VMOER_OK;
        at += n + 1;
    }
}

/* "128,512" -> values[n], each in [1, most]. */
static vmoer_status parse_list(const char *name, const char *text, int most, int values[MAX_LIST], int *n) {
    *n = 0;
    for (const char *at = text;; at++) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || value < 1 || value > most || *n == MAX_LIST)
            return vm_error(VMOER_ERROR_ARGUMENT, "%s '%s': must be up to %d numbers from 1 to %d, with commas", name,
                            text, MAX_LIST, most);
        values[(*n)++] = (int)value;
        if (!*end) return VMOER_OK;
        at = end;
    }
}

static test *add_test(bench *b, kind what, const char *format, int number) {
    test *t = &b->tests[b->n_tests++];
    *t = (test){.kind = what, .against = -1, .best = 1e300};
    snprintf(t->name, sizeof t->name, format, number);
    return t;
}

/* The router's tests, each over the deterministic one of the same length. */
static vmoer_status plan_router(bench *b, int length, int base) {
    static const struct {
        const char *format;
        vm_inference inference;
    } ways[] = {{"pp%d mean", VM_INFERENCE_MEAN},
                {"pp%d passes", VM_INFERENCE_PASSES}, /* one of them */
                {"pp%d tilted", VM_INFERENCE_TILTED}};
    enum { WAYS = sizeof ways / sizeof *ways };
    int samples[MAX_LIST], n;
    VM_TRY(parse_list("--samples", b->p->samples, 4096, samples, &n));
    for (int i = 0; i < WAYS + n; i++) {
        test *t = add_test(b, PREFILL, i < WAYS ? ways[i].format : "pp%d sample", length);
        size_t used = strlen(t->name);
        if (i >= WAYS) snprintf(t->name + used, sizeof t->name - used, " %d", samples[i - WAYS]);
        t->length = length;
        t->routed = true;
        t->inference = i < WAYS ? ways[i].inference : VM_INFERENCE_SAMPLE;
        t->samples = i < WAYS ? 1 : samples[i - WAYS];
        t->against = base;
    }
    return VMOER_OK;
}

static vmoer_status plan(bench *b) {
    int lengths[MAX_LIST], n;
    bool named, prefill = wanted(b, "prefill", &named), router = wanted(b, "router", &named);
    if (router && named && !b->config.n_experts)
        return vm_error(VMOER_ERROR_ARGUMENT, "--tests router: '%s' is dense: it has no router", b->config.name);
    router = router && b->config.n_experts;
    VM_TRY(parse_list("--lengths", b->p->lengths, b->config.context, lengths, &n));
    for (int i = prefill ? 0 : n - 1; (prefill || router) && i < n; i++)
        add_test(b, PREFILL, "pp%d", lengths[i])->length = lengths[i];
    if (router) VM_TRY(plan_router(b, lengths[n - 1], b->n_tests - 1));
    int decoded = vm_at_most(DECODED, b->config.context);
    if (wanted(b, "decode", &named)) add_test(b, DECODE, "tg%d", decoded)->length = decoded;
    if (wanted(b, "eval", &named)) add_test(b, EVAL, "eval", 0);
    if (wanted(b, "four-prompts", &named)) add_test(b, FOUR_PROMPTS, "four prompts", 0);
    if (wanted(b, "finetune", &named)) add_test(b, FINETUNE, "finetune r %d", b->p->rank);
    if (wanted(b, "calibrate", &named)) {
        if (named && !b->config.n_experts)
            return vm_error(VMOER_ERROR_ARGUMENT, "--tests calibrate: '%s' is dense: it has no router", b->config.name);
        if (b->config.n_experts) {
            add_test(b, CALIBRATE, "calibrate", 0);
            add_test(b, CALIBRATE_AGAIN, "calibrate again", 0);
        }
    }
    b->total = (uint64_t)b->n_tests * ((uint64_t)b->p->repeats + 1);
    return VMOER_OK;
}

static vmoer_status check_params(const vmoer_bench_params *p) {
    if (!p->model) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    if (p->repeats < 1 || p->repeats > 100000)
        return vm_error(VMOER_ERROR_ARGUMENT, "repeats %d, must be 1 to 100000", p->repeats);
    if (p->batch_size < 1 || p->batch_size > 4096)
        return vm_error(VMOER_ERROR_ARGUMENT, "batch size %d, must be 1 to 4096", p->batch_size);
    VM_TRY(check_tests(p->tests));
    VM_TRY(vm_lora_check(p->targets, p->rank, 2.0 * p->rank));
    return vm_api_check_questions(&p->questions);
}

/* ---- the machine ---- */

static vmoer_status add_row(bench *b, json_t *row) {
    return row && json_array_append_new(b->rows, row) == 0 ? VMOER_OK
                                                           : vm_error(VMOER_ERROR_MEMORY, "no memory for the results");
}

static json_t *rate_or_null(double rate) { return rate > 0 ? json_real(rate) : json_null(); }

static vmoer_status add_peak(bench *b, const char *name, double rate, const char *unit) {
    return add_row(b, json_pack("{s:s, s:o, s:s, s:i}", "test", name, "rate", rate_or_null(rate / 1e9), "unit", unit,
                                "threads", b->threads));
}

/* Those of one thread first: those of as many as the tests use stay. */
static vmoer_status measure_peaks(bench *b) {
    static const char *const names[] = {"peak f32", "peak bf16"};
    bool named, asked = wanted(b, "peak", &named);
    vm_pool *pool = NULL;
    double read;
    vmoer_status status = VMOER_OK;
    for (int all = 0; all < 2; all++) {
        vm_pool_free(pool);
        pool = NULL;
        VM_GOTO(vm_pool_create(all ? b->p->threads : 1, &pool));
        b->threads = vm_pool_threads(pool);
        for (int type = VM_COMPUTE_F32; type <= VM_COMPUTE_BF16; type++) {
            VM_GOTO(vm_progress(b->hooks, "peaks", (uint64_t)(2 * all + type), 5, names[type]));
            b->peaks[type] = vm_peak_flops(vm_kernels_get(), (vm_compute)type, pool, peak_seconds);
            if (asked) VM_GOTO(add_peak(b, names[type], b->peaks[type], "GFLOP/s"));
        }
    }
    VM_GOTO(vm_progress(b->hooks, "peaks", 4, 5, "peak read"));
    if (asked) {
        VM_GOTO(vm_peak_read(pool, peak_seconds, &read));
        VM_GOTO(add_peak(b, "peak read", read, "GB/s"));
    }
    status = vm_progress(b->hooks, "peaks", 5, 5, NULL);
done:
    vm_pool_free(pool);
    return status;
}

/* "Intel(R) Xeon(R) Processor"; "unknown" where the system does not say. */
static void cpu_name(char out[128]) {
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, 128, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        line[strcspn(line, "\n")] = 0;
        vm_copy_text(out, 128, value + 1 + strspn(value + 1, " "));
        break;
    }
    if (f) fclose(f);
}

/* ---- routers ---- */

/* As many as --layers auto would choose, evenly spread over those with a router. */
static void spread_layers(const vm_config *model, vm_router_config *c) {
    int n = model->n_layers - model->dense_layers;
    c->n_layers = vm_api_auto_layers(n);
    for (int i = 0; i < c->n_layers; i++) c->layers[i] = model->dense_layers + (2 * i + 1) * n / (2 * c->n_layers);
}

/* A VGLR-FC whose heads are small random numbers, so that no part of the work is a special case. */
static vmoer_status make_router(const bench *b, vm_router **out) {
    vm_router_config c = {.kind = "vglr-fc",
                          .n_experts = b->config.n_experts,
                          .dim = b->config.dim,
                          .width = ROUTER_WIDTH,
                          .prior_scale = 1.0f,
                          .initial_scale = 0.2f,
                          .seed = b->p->seed,
                          .temperature = 1};
    if (strcmp(b->p->layers, "auto") == 0)
        spread_layers(&b->config, &c);
    else
        VM_TRY(vm_api_layers(b->p->layers, &b->config, &c));
    VM_TRY(vm_router_create(&c, out));
    vm_param_list params = vm_router_params(*out);
    for (size_t i = 0; i < params.count; i++) {
        vm_rng rng = vm_rng_start(b->p->seed, VM_RNG_NOISE, (uint32_t)i);
        const vm_param *head = params.items[i];
        for (size_t k = 0; strstr(head->name, ".trunk.") == NULL && k < vm_param_size(head); k++)
            head->value[k] += (float)head_scale * vm_rng_normal(&rng);
    }
    return vm_router_pack(*out);
}

static vmoer_status get_router(bench *b) {
    VM_TRY(b->p->router ? vm_router_load(b->p->router, &b->router_file, &b->router) : make_router(b, &b->router));
    const vm_router_config *c = vm_router_get_config(b->router);
    if (c->n_layers == 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "%s: a router without layers has no speed", b->p->router);
    json_decref(b->layers);
    b->layers = json_array();
    for (int i = 0; i < c->n_layers; i++) json_array_append_new(b->layers, json_integer(c->layers[i]));
    return VMOER_OK;
}

static vmoer_status check_router(const bench *b, const vm_model *m, const char *adapter, const char *fingerprint) {
    return b->p->router ? vm_check_router(b->p->router, b->router, &b->router_file, m, adapter, fingerprint) : VMOER_OK;
}

/* ---- one run ---- */

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory for a batch"); }

static vm_pass_options options_of(const bench *b, const test *t) {
    vm_pass_options o = b->session->options;
    if (t->routed) o.router = b->router, o.inference = t->inference, o.samples = t->samples;
    return o;
}

static vmoer_status random_ids(bench *b, int n, int32_t **out) {
    *out = vm_arena_alloc(b->arena, (size_t)n, sizeof **out);
    if (!*out) return no_memory();
    vm_rng rng = vm_rng_start(b->p->seed, VM_RNG_TEXT, 0);
    for (int i = 0; i < n; i++) (*out)[i] = (int32_t)vm_rng_below(&rng, (uint32_t)b->config.n_vocab);
    return VMOER_OK;
}

/* The pass over `length` tokens after `past` others; the next one's distribution is asked for. */
static vmoer_status run_tokens(bench *b, test *t, const int32_t *ids, int length, int past, vm_kv_cache *cache) {
    int32_t target_row = 0;
    vm_batch batch;
    float log_probability;
    VM_TRY(vm_sequence_build(b->arena, ids + past, length, past, &batch));
    batch.n_targets = 1, batch.target_row = &target_row, batch.target_id = ids;
    batch.cache = cache;
    vm_pass_options o = options_of(b, t);
    t->flops += vm_flops_forward(b->session->model, &batch, &o);
    return vm_pass_forward(b->session->pass, &batch, &o, &log_probability, NULL, NULL);
}

/* A prompt of random tokens at once, or a sequence token by token. */
static vmoer_status run_sequence(bench *b, test *t) {
    int at_once = t->kind == PREFILL ? t->length : 1;
    vm_kv_cache *cache = NULL;
    int32_t *ids;
    VM_TRY(random_ids(b, t->length, &ids));
    if (t->kind == DECODE)
        VM_TRY(vm_kv_cache_create(b->config.n_layers, b->config.n_kv_heads, b->config.head_dim, t->length, 0, &cache));
    t->count = t->length;
    t->flops = 0;
    double start = vm_api_seconds();
    vmoer_status status = VMOER_OK;
    for (int past = 0; past < t->length && status == VMOER_OK; past += at_once)
        status = run_tokens(b, t, ids, at_once, past, cache);
    t->best = fmin(t->best, vm_api_seconds() - start);
    vm_kv_cache_free(cache);
    return status;
}

/* Questions, or their choices one by one, in passes of eval's size. */
static vmoer_status run_eval(bench *b, test *t) {
    bool whole = t->kind == EVAL;
    const vm_prompt *prompts = whole ? b->questions.prompts : b->singles;
    size_t n = whole ? b->questions.n : b->n_singles;
    vm_question questions[MAX_PASS_QUESTIONS];
    vm_answer answers[MAX_PASS_QUESTIONS];
    vm_pass_options o = options_of(b, t);
    double seconds = 0;
    t->count = (double)b->questions.n;
    t->flops = 0;
    for (size_t first = 0; first < n;) {
        int count = 0, tokens = 0;
        while (count < MAX_PASS_QUESTIONS && first + (size_t)count < n && tokens < VM_API_PASS_TOKENS) {
            const vm_prompt *prompt = &prompts[first + (size_t)count];
            tokens += vm_prompt_inputs(prompt);
            questions[count] = (vm_question){prompt, (uint32_t)(first + (size_t)count)};
            count++;
        }
        double start = vm_api_seconds();
        VM_TRY(vm_session_answer(b->session, questions, count, VM_FORMAT_CLOZE, answers));
        seconds += vm_api_seconds() - start;
        vm_questions q;
        vm_arena_reset(b->arena);
        VM_TRY(vm_questions_build(b->arena, questions, count, VM_FORMAT_CLOZE, &q));
        t->flops += vm_flops_forward(b->session->model, &q.batch, &o);
        first += (size_t)count;
    }
    t->best = fmin(t->best, seconds);
    return VMOER_OK;
}

static vmoer_status count_step(bench *b, const int32_t *items, int n, double *flops) {
    vm_question *questions = vm_arena_alloc(b->arena, (size_t)n, sizeof *questions);
    vm_questions q;
    if (!questions) return no_memory();
    for (int i = 0; i < n; i++) questions[i] = (vm_question){&b->training.train.prompts[items[i]], (uint32_t)items[i]};
    VM_TRY(vm_questions_build(b->arena, questions, n, VM_FORMAT_CLOZE, &q));
    vm_pass_options o = {.training = true, .router = b->objective.router, .states = b->objective.states};
    *flops += vm_flops_forward(b->training.model, &q.batch, &o) + vm_flops_backward(b->training.model, &q.batch, &o);
    return VMOER_OK;
}

/* One epoch, in whole steps: gradients, AdamW, and what changed packed anew. */
static vmoer_status run_training(bench *b, test *t) {
    vm_training *train = &b->training;
    int n = (int)train->train.n;
    double rate = t->kind == FINETUNE ? 1e-4 : 1e-3, norm, seconds = 0;
    t->count = n;
    t->flops = 0;
    b->objective.states = t->kind == CALIBRATE_AGAIN ? b->states : NULL;
    for (int first = 0, count; first < n; first += count) {
        vm_loss loss;
        count = n - first < b->p->batch_size ? n - first : b->p->batch_size;
        double start = vm_api_seconds();
        VM_TRY(vm_objective_step(&b->objective, &train->train, b->order + first, count, b->step++, &loss));
        VM_TRY(vm_optimizer_step(b->optimizer, train->pool, rate, &norm));
        if (t->kind == FINETUNE) VM_TRY(vm_model_refresh(train->model, train->pool));
        seconds += vm_api_seconds() - start;
        vm_arena_reset(b->arena);
        VM_TRY(count_step(b, b->order + first, count, &t->flops));
    }
    t->best = fmin(t->best, seconds);
    return VMOER_OK;
}

static vmoer_status run_test(bench *b, test *t) {
    vm_arena_reset(b->arena);
    if (t->kind == PREFILL || t->kind == DECODE) return run_sequence(b, t);
    return t->kind == EVAL || t->kind == FOUR_PROMPTS ? run_eval(b, t) : run_training(b, t);
}

/* Tests [first, last) in turn. The first round warms up: its times are forgotten. */
static vmoer_status run_rounds(bench *b, int first, int last) {
    for (int round = 0; round <= b->p->repeats; round++)
        for (int i = first; i < last; i++) {
            test *t = &b->tests[i];
            VM_TRY_IN(run_test(b, t), "%s", t->name);
            if (round == 0) t->best = 1e300;
            VM_TRY(vm_progress(b->hooks, "bench", ++b->done, b->total, t->name));
        }
    return VMOER_OK;
}

/* ---- phases ---- */

static vmoer_status split_choices(bench *b) {
    size_t n = 0;
    for (size_t i = 0; i < b->questions.n; i++) n += (size_t)b->questions.prompts[i].n_choices;
    b->singles = vm_calloc(n, sizeof *b->singles);
    if (!b->singles) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu prompts", n);
    for (size_t i = 0; i < b->questions.n; i++) {
        const vm_prompt *q = &b->questions.prompts[i];
        for (int c = 0; c < q->n_choices; c++) {
            vm_prompt *s = &b->singles[b->n_singles++];
            int length = q->start[c + 1] - q->start[c];
            *s = (vm_prompt){.n_context = q->n_context, .n_choices = 1};
            s->start[0] = q->n_context;
            s->start[1] = q->n_context + length;
            s->ids = vm_malloc((size_t)s->start[1], sizeof *s->ids);
            if (!s->ids) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu prompts", n);
            memcpy(s->ids, q->ids, (size_t)q->n_context * sizeof *s->ids);
            memcpy(s->ids + q->n_context, q->ids + q->start[c], (size_t)length * sizeof *s->ids);
        }
    }
    return VMOER_OK;
}

static vmoer_status session_phase(bench *b, int first, int last) {
    const vmoer_bench_params *p = b->p;
    bool routed = false, asked = false;
    for (int i = first; i < last; i++) {
        routed = routed || b->tests[i].routed;
        asked = asked || b->tests[i].kind == EVAL || b->tests[i].kind == FOUR_PROMPTS;
    }
    vmoer_model_params load = {
        .adapter = p->adapter, .compute = p->compute, .samples = 1, .seed = p->seed, .threads = p->threads};
    VM_TRY(vm_api_session_open(p->model, &load, &b->session));
    const vm_session *session = b->session;
    if (routed) {
        VM_TRY(get_router(b));
        VM_TRY(check_router(b, session->model, session->adapter_name, session->adapter_fingerprint));
    }
    if (asked) {
        VM_TRY(vm_api_examples(&p->questions, "bench", b->session->tokenizer, VMOER_SPLIT_TRAIN, &b->questions));
        VM_TRY(split_choices(b));
    }
    return run_rounds(b, first, last);
}

static vmoer_status training_phase(bench *b, int first, int last) {
    const vmoer_bench_params *p = b->p;
    bool router = b->tests[first].kind != FINETUNE;
    vmoer_train_params train = vm_train_params_default();
    vm_optimizer_options options = vm_optimizer_options_default();
    train.model = p->model;
    train.adapter = p->adapter;
    train.questions = p->questions;
    train.compute = p->compute;
    train.threads = p->threads;
    options.clip = train.clip;
    if (router) VM_TRY(get_router(b));
    VM_TRY(
        vm_training_open(&train, router ? vm_router_get_config(b->router)->layers[0] : 0, false, false, &b->training));
    vm_training *t = &b->training;
    if (router) {
        VM_TRY(check_router(b, t->model, t->adapter_name, t->adapter_fingerprint));
        b->trained = vm_router_params(b->router);
        VM_TRY(vm_states_create(vm_router_get_config(b->router)->layers[0], b->config.dim, vm_training_memory(&train),
                                &b->states));
    } else {
        VM_TRY(vm_lora_attach(t->model, p->targets, p->rank, 2.0 * p->rank, p->seed, t->pool));
        VM_TRY(vm_model_params(t->model, &b->trained));
        VM_TRY(vm_model_refresh(t->model, t->pool));
    }
    b->objective = (vm_objective){.pass = t->pass,
                                  .format = VM_FORMAT_CLOZE,
                                  .router = b->router,
                                  .beta = router && vm_router_has_kl(b->router) ? 0.01 : 0,
                                  .draws = 1,
                                  .seed = p->seed,
                                  .memory = vm_training_memory(&train)};
    b->order = vm_malloc(t->train.n, sizeof *b->order);
    if (!b->order) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", t->train.n);
    for (size_t i = 0; i < t->train.n; i++) b->order[i] = (int32_t)i;
    VM_TRY(vm_optimizer_create(&b->trained, &options, NULL, &b->optimizer));
    return run_rounds(b, first, last);
}

static void end_phase(bench *b) {
    vm_optimizer_free(b->optimizer);
    if (!b->router) vm_free(b->trained.items);
    for (size_t i = 0; i < b->n_singles; i++) vm_prompt_free(&b->singles[i]);
    vm_free(b->singles);
    vm_free(b->order);
    vm_examples_free(&b->questions);
    vm_session_free(b->session);
    vm_training_close(&b->training);
    vm_router_free(b->router);
    vm_states_free(b->states);
    b->optimizer = NULL, b->session = NULL, b->router = NULL, b->singles = NULL, b->order = NULL, b->states = NULL;
    b->n_singles = 0;
    b->trained = (vm_param_list){NULL, 0};
    b->objective = (vm_objective){.pass = NULL};
}

/* What the tests of a phase share: the session, the model with LoRA, or that with a router. */
static int phase_of(const test *t) { return t->kind < FINETUNE ? 0 : t->kind == FINETUNE ? 1 : 2; }

static vmoer_status run_phases(bench *b) {
    int last;
    for (int first = 0; first < b->n_tests; first = last) {
        int phase = phase_of(&b->tests[first]);
        for (last = first + 1; last < b->n_tests && phase_of(&b->tests[last]) == phase;) last++;
        vmoer_status status = phase ? training_phase(b, first, last) : session_phase(b, first, last);
        end_phase(b);
        VM_TRY(status);
    }
    return VMOER_OK;
}

/* ---- the result ---- */

static vmoer_status report_tests(bench *b) {
    double peak = b->peaks[vm_api_compute(b->p->compute)];
    for (int i = 0; i < b->n_tests; i++) {
        const test *t = &b->tests[i];
        const double rate = t->flops / t->best;
        json_t *overhead = t->against < 0 ? json_null() : json_real(100 * (t->best / b->tests[t->against].best - 1));
        VM_TRY(add_row(b, json_pack("{s:s, s:f, s:s, s:f, s:f, s:f, s:o, s:o, s:i, s:i}", "test", t->name, "rate",
                                    t->count / t->best, "unit",
                                    t->kind == PREFILL || t->kind == DECODE ? "tokens/s" : "questions/s", "count",
                                    t->count, "seconds", t->best, "gflops", rate / 1e9, "of_peak",
                                    rate_or_null(peak > 0 ? rate / peak : 0), "overhead", overhead, "threads",
                                    b->threads, "repeats", b->p->repeats)));
    }
    return VMOER_OK;
}

static vmoer_status result_of(const bench *b, const vm_gguf *g, json_t **out) {
    char cpu[128], fingerprint[65];
    cpu_name(cpu);
    vm_model_fingerprint(g, fingerprint);
    json_t *model = json_pack("{s:s, s:s, s:s, s:I, s:f}", "name", b->config.name, "architecture", b->config.arch->name,
                              "fingerprint", fingerprint, "file_bytes", (json_int_t)vm_gguf_file_size(g), "parameters",
                              vm_api_parameters(g));
    json_t *router =
        b->layers ? json_pack("{s:b, s:O}", "loaded", b->p->router != NULL, "layers", b->layers) : json_null();
    json_t *config = json_pack(
        "{s:s, s:i, s:s, s:i, s:i, s:i, s:s, s:I}", "tasks", b->p->questions.tasks, "limit", b->p->questions.limit,
        "targets", b->p->targets, "rank", b->p->rank, "batch_size", b->p->batch_size, "repeats", b->p->repeats,
        "compute", vm_api_compute(b->p->compute) == VM_COMPUTE_BF16 ? "bf16" : "f32", "seed", (json_int_t)b->p->seed);
    vm_api_put_cuts(config, &b->p->questions);
    *out = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:O}", "vmoer", vmoer_version(), "kind", "bench",
                     "build", vmoer_build_info(), "cpu", cpu, "isa", vm_kernels_get()->name, "threads", b->threads,
                     "model", model, "router", router, "config", config, "results", b->rows);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the results, or a name is not UTF-8");
}

vmoer_status vmoer_bench(const vmoer_bench_params *p, const vmoer_hooks *hooks, char **out_json) {
    VM_TRY(check_params(p));
    VM_TRY(vm_kernels_status());
    bench *b = vm_calloc(1, sizeof *b);
    vm_gguf *g = NULL;
    json_t *result = NULL;
    if (!b) return vm_error(VMOER_ERROR_MEMORY, "no memory to measure");
    vmoer_status status;
    b->p = p;
    b->hooks = hooks;
    b->rows = json_array();
    b->arena = vm_arena_create();
    VM_GOTO(b->rows && b->arena ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory to measure"));
    VM_GOTO(vm_gguf_open(p->model, &g));
    status = vm_config_read(g, &b->config);
    if (status != VMOER_OK) {
        vm_error_in(status, "%s", p->model);
        goto done;
    }
    VM_GOTO(plan(b));
    VM_GOTO(measure_peaks(b));
    VM_GOTO(run_phases(b));
    VM_GOTO(report_tests(b));
    VM_GOTO(result_of(b, g, &result));
    status = vm_api_return_json(result, out_json);
done:
    json_decref(b->rows);
    json_decref(b->layers);
    vm_arena_free(b->arena);
    vm_gguf_free(g);
    vm_free(b);
    return status;
}
