/* test_model.c: the forward pass held to transformers: logits, routing, scores and loss of the four tiny models on
 * every ISA, alone and in one ragged batch; bf16 within what its rounding explains; and the real model's logits on 200
 * prompts where it is at hand (VMOER_MODEL). */
#include "model_fixture.h"

enum { VOCAB = 272, DIM = 32 };

static void on_every_isa(void (*check)(const char *name)) {
    const vm_kernels *tables[8];
    int n = vm_kernels_all(tables, 8);
    for (int i = 0; i < n; i++) {
        vm_kernels_force(tables[i]);
        for (int m = 0; m < TINY_MODELS; m++) check(tiny_models[m]);
    }
    vm_kernels_force(NULL);
}

/* ---- logits ---- */

static void check_logits(const char *name) {
    vm_safetensors *st = golden_open(name);
    vm_model *m = load_model(name, (vm_model_options){.backward_from = -1});
    vm_pass *pass;
    sequences s;
    float logits[MAX_TOKENS * VOCAB];
    vm_pass_options options = {.sign = 1};
    int n = (int)(vm_safetensors_find(st, "offsets")->size / 4) - 1;
    assert_int_equal(m->config.n_vocab, VOCAB);
    OK(vm_pass_create(m, NULL, &pass));
    const float *golden = golden_f32(st, "logits", 0), *hidden = golden_f32(st, "hidden.final", 0);
    size_t D = (size_t)m->config.dim;
    for (int i = 0; i <= n; i++) { /* each by itself, then all in one batch */
        golden_sequences(st, i < n ? i : 0, i < n ? 1 : n, &s);
        size_t first = i < n ? (size_t)golden_i32(st, "offsets", 0)[i] : 0;
        OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, logits));
        double d = largest_difference(logits, golden + first * VOCAB, (size_t)s.batch.n_tokens * VOCAB);
        if (!(d < 1e-4)) fail_msg("%s, %s: logits of sequence %d differ by %g", name, vm_kernels_get()->name, i, d);
        d = largest_difference(vm_pass_normed(pass), hidden + first * D, (size_t)s.batch.n_tokens * D);
        if (!(d < 1e-4))
            fail_msg("%s, %s: last states of sequence %d differ by %g", name, vm_kernels_get()->name, i, d);
    }
    vm_pass_free(pass);
    vm_model_free(m);
    vm_safetensors_free(st);
}

static void test_logits(void **state) {
    (void)state;
    on_every_isa(check_logits);
}

/* Log-probabilities and entropies of asked rows alone, against those of all logits; more rows than one block of the
 * head. */
static void test_targets(void **state) {
    (void)state;
    vm_safetensors *st = golden_open("tiny-moe");
    vm_model *m = load_model("tiny-moe", (vm_model_options){.backward_from = -1});
    vm_pass *pass;
    sequences s;
    enum { REPEAT = 100 };
    float logits[MAX_TOKENS * VOCAB], log_probability[2 * REPEAT], entropy[REPEAT / 4];
    vm_pass_options options = {.sign = 1};
    int32_t rows[REPEAT], entropy_row[REPEAT / 4], target_row[2 * REPEAT], target_id[2 * REPEAT];
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 6, &s);
    OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, logits));
    for (int i = 0; i < REPEAT; i++) {
        rows[i] = i * 7 % s.batch.n_tokens;
        if (i % 4 == 1) entropy_row[i / 4] = i; /* of these rows alone */
        for (int k = 0; k < 2; k++) target_row[2 * i + k] = i, target_id[2 * i + k] = (i * 13 + k * 101) % VOCAB;
    }
    s.batch.rows = rows, s.batch.n_rows = REPEAT;
    s.batch.target_row = target_row, s.batch.target_id = target_id, s.batch.n_targets = 2 * REPEAT;
    s.batch.entropy_row = entropy_row, s.batch.n_entropies = REPEAT / 4;
    OK(vm_pass_forward(pass, &s.batch, &options, log_probability, entropy, NULL));
    for (int i = 0; i < REPEAT; i++) {
        const float *row = logits + (size_t)rows[i] * VOCAB;
        double sum = 0, h = 0;
        for (int v = 0; v < VOCAB; v++) sum += exp((double)row[v]);
        for (int v = 0; v < VOCAB; v++) h -= exp((double)row[v]) / sum * ((double)row[v] - log(sum));
        if (i % 4 == 1) assert_float_equal(entropy[i / 4], h, 2e-5);
        for (int k = 0; k < 2; k++)
            assert_float_equal(log_probability[2 * i + k], (double)row[target_id[2 * i + k]] - log(sum), 2e-5);
    }
    vm_pass_free(pass);
    vm_model_free(m);
    vm_safetensors_free(st);
}

/* ---- routing ---- */

typedef struct captured {
    float u[4][MAX_TOKENS * DIM];
} captured;

static void capture(void *context, int layer, int n_tokens, const float *u) {
    memcpy(((captured *)context)->u[layer], u, (size_t)n_tokens * DIM * sizeof *u);
}

/* What vm_facts must say of one token, from its golden logits [N] and selection [K]. */
static void check_facts(const vm_facts *f, size_t at, const float *l, const int32_t *selected, int n, int k) {
    double sum = 0, entropy = 0, mean = 0, square = 0, next = 0;
    for (int e = 0; e < n; e++) sum += exp((double)l[e]), mean += (double)l[e] / n;
    for (int e = 0; e < n; e++) {
        double p = exp((double)l[e]) / sum;
        bool taken = false;
        for (int i = 0; i < k; i++) taken |= selected[i] == e;
        if (!taken && p > next) next = p;
        entropy -= p * log(p);
        square += ((double)l[e] - mean) * ((double)l[e] - mean) / n;
    }
    assert_float_equal(f->gate_entropy[at], entropy, 1e-4);
    assert_float_equal(f->spread[at], sqrt(square), 1e-4);
    assert_float_equal(f->margin[at], exp((double)l[selected[k - 1]]) / sum - next, 1e-4);
    assert_true(isnan(f->trace[at]) && isnan(f->trace_projected[at]));
}

static void check_routing(const char *name) {
    vm_safetensors *st = golden_open(name);
    vm_model *m = load_model(name, (vm_model_options){.backward_from = -1});
    const vm_config *c = &m->config;
    vm_pass *pass;
    sequences s;
    captured seen;
    vm_pass_options options = {.sign = 1, .facts = true, .capture = capture, .capture_context = &seen};
    size_t N = (size_t)c->n_experts, K = (size_t)c->top_k;
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 6, &s);
    size_t T = (size_t)s.batch.n_tokens;
    OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, NULL));
    vm_facts facts = vm_pass_facts(pass);
    vm_arena *scratch = vm_arena_create();
    for (int layer = 0; layer < c->n_layers && N; layer++) {
        char key[64];
        if (layer < c->dense_layers) {
            for (size_t at = (size_t)layer * T; at < (size_t)(layer + 1) * T; at++) {
                assert_true(isnan(facts.gate_entropy[at]) && isnan(facts.spread[at]) && isnan(facts.margin[at]));
                for (size_t k = 0; k < K; k++) assert_int_equal(facts.chosen[at * K + k], -1);
            }
            continue;
        }
        float logits[MAX_TOKENS * 8];
        vm_linear_call call = {
            .l = &m->layers[layer].ffn.router, .m = (int)T, .x = seen.u[layer], .ldx = DIM, .y = logits, .ldy = N};
        OK(vm_linear_forward(NULL, scratch, &call, 1));
        snprintf(key, sizeof key, "router_logits.%d", layer);
        const float *golden = golden_f32(st, key, T * N);
        double d = largest_difference(logits, golden, T * N);
        if (!(d < 1e-4))
            fail_msg("%s, %s: router logits of layer %d differ by %g", name, vm_kernels_get()->name, layer, d);
        snprintf(key, sizeof key, "selected.%d", layer);
        const int32_t *selected = golden_i32(st, key, T * K);
        assert_memory_equal(facts.chosen + (size_t)layer * T * K, selected, T * K * sizeof *selected);
        for (size_t t = 0; t < T; t++)
            check_facts(&facts, (size_t)layer * T + t, golden + t * N, selected + t * K, (int)N, (int)K);
    }
    vm_arena_free(scratch);
    vm_pass_free(pass);
    vm_model_free(m);
    vm_safetensors_free(st);
}

static void test_routing(void **state) {
    (void)state;
    on_every_isa(check_routing);
}

/* ---- questions ---- */

static void check_question(const char *name) {
    vm_safetensors *st = golden_open(name);
    vm_model *m = load_model(name, (vm_model_options){.backward_from = -1});
    vm_arena *arena = vm_arena_create();
    vm_prompt prompt = golden_prompt(st);
    vm_pass *pass;
    question_run r = golden_question(arena, &prompt, 0);
    vm_pass_options options = {.sign = 1};
    OK(vm_pass_create(m, NULL, &pass));
    /* The prefix once, every choice without its last token; a choice of one token adds none. */
    assert_int_equal(r.q.batch.n_tokens, 6 + 2 + 0 + 3);
    assert_int_equal(r.q.batch.n_tokens, vm_prompt_inputs(&prompt));
    assert_int_equal(r.q.batch.n_segments, 3);
    OK(vm_pass_forward(pass, &r.q.batch, &options, r.log_probability, NULL, NULL));
    question_loss(&r, golden_i32(st, "right", 1));
    const float *scores = golden_f32(st, "scores", 3);
    for (int i = 0; i < 3; i++) assert_float_equal(r.score[i], scores[i], 2e-5);
    assert_float_equal(r.loss, *golden_f32(st, "loss", 1), 2e-5);
    vm_pass_free(pass);
    vm_free(prompt.ids);
    vm_arena_free(arena);
    vm_model_free(m);
    vm_safetensors_free(st);
}

static void test_questions(void **state) {
    (void)state;
    on_every_isa(check_question);
}

/* ---- bf16 ---- */

/* Relative rms error of a logit: every product rounds both its operands, each by a relative error uniform in +-2^-9 at
 * most, so by 2^-9 sqrt(2/3) together; a layer has 4 products one after the other, the head 1 more. `gain` is what the
 * network makes of such a disturbance: the tiny models, whose every layer matters as much as what it is added to, up to
 * 3 times; a trained one does not enlarge it. */
static double bf16_budget(double gain, int n_layers) { return gain * sqrt(2.0 / 3) / 512 * sqrt(4 * n_layers + 1); }

/* The routing decision is f32 whatever the rest is: its logits are those of the file's weights, in double, and the
 * input the router saw. */
static void check_f32_routing(vm_model *m, const captured *seen, const vm_facts *facts, size_t n_tokens) {
    size_t N = (size_t)m->config.n_experts, K = (size_t)m->config.top_k;
    for (int layer = m->config.dense_layers; layer < m->config.n_layers; layer++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", layer);
        const float *w = (const float *)(const void *)vm_gguf_find_tensor(m->file, name)->data;
        const vm_param *bias = m->layers[layer].ffn.router.bias;
        for (size_t t = 0; t < n_tokens; t++) {
            double logit[8] = {0}, mean = 0, square = 0;
            for (size_t e = 0; e < N; e++) {
                if (bias) logit[e] = (double)bias->value[e];
                for (size_t d = 0; d < DIM; d++)
                    logit[e] += (double)w[e * DIM + d] * (double)seen->u[layer][t * DIM + d];
                mean += logit[e] / (double)N;
            }
            for (size_t e = 0; e < N; e++) square += (logit[e] - mean) * (logit[e] - mean) / (double)N;
            size_t at = (size_t)layer * n_tokens + t;
            assert_float_equal(facts->spread[at], sqrt(square), 5e-6);
            for (size_t k = 1; k < K; k++)
                assert_true(logit[facts->chosen[at * K + k]] <= logit[facts->chosen[at * K + k - 1]] + 1e-5);
        }
    }
}

static void test_bf16(void **state) {
    (void)state;
    for (int i = 0; i < TINY_MODELS; i++) {
        vm_safetensors *st = golden_open(tiny_models[i]);
        vm_model *m = load_model(tiny_models[i], (vm_model_options){.compute = VM_COMPUTE_BF16, .backward_from = -1});
        vm_pass *pass;
        sequences s;
        float logits[MAX_TOKENS * VOCAB];
        captured seen;
        vm_pass_options options = {.sign = 1, .facts = true, .capture = capture, .capture_context = &seen};
        OK(vm_pass_create(m, NULL, &pass));
        golden_sequences(st, 0, 6, &s);
        OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, logits));
        vm_facts facts = vm_pass_facts(pass);
        if (m->config.n_experts) check_f32_routing(m, &seen, &facts, (size_t)s.batch.n_tokens);
        double d = relative_difference(logits, golden_f32(st, "logits", 0), (size_t)s.batch.n_tokens * VOCAB),
               budget = bf16_budget(3, m->config.n_layers);
        if (!(d < budget && d > budget / 100))
            fail_msg("%s: bf16 logits differ by %g of their size, the budget is %g", tiny_models[i], d, budget);
        vm_pass_free(pass);
        vm_model_free(m);
        vm_safetensors_free(st);
    }
}

/* ---- the real model ---- */

/* Logits [400, V] at the middle and at the last position of the 200 golden prompts. */
static float *real_logits(const char *path, vm_compute compute, const vm_safetensors *st, int *n_vocab) {
    enum { PROMPTS = 200, GROUP = 20, MOST = 100 * GROUP };
    static int32_t positions[MOST], rows[2 * GROUP];
    static vm_token_key keys[MOST];
    vm_segment segments[GROUP];
    vm_pool *pool;
    vm_model *m;
    vm_pass *pass;
    const int32_t *ids = golden_i32(st, "ids", 0), *offsets = golden_i32(st, "offsets", PROMPTS + 1),
                  *middle = golden_i32(st, "middle", PROMPTS);
    OK(vm_pool_create(0, &pool));
    OK(vm_model_load(path, &(vm_model_options){.compute = compute, .backward_from = -1}, pool, &m));
    OK(vm_pass_create(m, pool, &pass));
    float *logits = vm_malloc(2 * PROMPTS * (size_t)m->config.n_vocab, sizeof *logits);
    assert_non_null(logits);
    for (int first = 0; first < PROMPTS; first += GROUP) {
        vm_batch b = {.ids = ids + offsets[first],
                      .positions = positions,
                      .keys = keys,
                      .segments = segments,
                      .rows = rows,
                      .n_segments = GROUP,
                      .n_rows = 2 * GROUP};
        for (int i = 0; i < GROUP; i++) {
            int length = offsets[first + i + 1] - offsets[first + i];
            segments[i] = (vm_segment){b.n_tokens, length, -1};
            rows[2 * i] = b.n_tokens + middle[first + i];
            rows[2 * i + 1] = b.n_tokens + length - 1;
            assert_true(b.n_tokens + length <= MOST);
            for (int t = 0; t < length; t++) positions[b.n_tokens++] = t;
        }
        OK(vm_pass_forward(pass, &b, &(vm_pass_options){.sign = 1}, NULL, NULL,
                           logits + 2 * (size_t)first * (size_t)m->config.n_vocab));
    }
    *n_vocab = m->config.n_vocab;
    vm_pass_free(pass);
    vm_model_free(m);
    vm_pool_free(pool);
    return logits;
}

static void test_real_model(void **state) {
    (void)state;
    enum { PROMPTS = 200, STORED = 64 };
    const char *path = getenv("VMOER_MODEL");
    if (!path || access(path, R_OK) != 0) skip();
    vm_safetensors *st = golden_open("logits");
    const int32_t *at = golden_i32(st, "positions", STORED);
    for (int compute = 0; compute < 2; compute++) {
        int V, top_differs = 0;
        double largest = 0, square = 0, size = 0;
        float *logits = real_logits(path, (vm_compute)compute, st, &V);
        for (int i = 0; i < 2 * PROMPTS; i++) {
            const char *where = i & 1 ? "last" : "middle";
            char key[32];
            const float *row = logits + (size_t)i * (size_t)V;
            int best = 0;
            for (int v = 1; v < V; v++)
                if (row[v] > row[best]) best = v;
            snprintf(key, sizeof key, "%s.top", where);
            top_differs += best != golden_i32(st, key, PROMPTS)[i / 2];
            snprintf(key, sizeof key, "%s.lse", where);
            largest = fmax(largest, fabs((double)vm_kernels_get()->logsumexp(row, V) -
                                         (double)golden_f32(st, key, PROMPTS)[i / 2]));
            snprintf(key, sizeof key, "%s.logits", where);
            const float *golden = golden_f32(st, key, PROMPTS * STORED) + (size_t)(i / 2) * STORED;
            for (int k = 0; k < STORED; k++) {
                double d = (double)row[at[k]] - (double)golden[k];
                assert_true(isfinite(d));
                largest = fmax(largest, fabs(d));
                square += d * d, size += (double)golden[k] * (double)golden[k];
            }
        }
        vm_free(logits);
        double relative = sqrt(square / size);
        print_message("%s: largest difference %g, relative %g, other tops %d of %d\n", compute ? "bf16" : "f32",
                      largest, relative, top_differs, 2 * PROMPTS);
        if (compute == VM_COMPUTE_F32)
            assert_true(largest < 1e-3 && top_differs == 0);
        else
            assert_true(relative < bf16_budget(1, 30) && top_differs <= 2 * PROMPTS / 20);
    }
    vm_safetensors_free(st);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),    cmocka_unit_test(test_targets), cmocka_unit_test(test_routing),
        cmocka_unit_test(test_questions), cmocka_unit_test(test_bf16),    cmocka_unit_test(test_real_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
