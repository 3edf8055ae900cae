/* test_pass.c: what must hold of a pass whatever the weights: the same bits for any number of threads, any company in
 * the batch and any memory bound; what a router that says nothing changes (nothing); how experts are chosen; how far a
 * teacher is, and that who has nothing to learn learns nothing; and which batches are refused. */
#include "base/rng.h"
#include "model_fixture.h"

enum { DIM = 32, VOCAB = 272, QUESTIONS = 3, CHOICES = 3 * QUESTIONS };

typedef struct bench {
    vm_model *m;
    vm_pool *pool;
    vm_pass *pass;
    vm_router *router;
    vm_arena *arena;
    vm_prompt prompts[QUESTIONS];
} bench;

/* A vglr-fc router of tiny-moe's two layers with random values in every tensor (`noise` 0: as it starts). */
static vm_router *make_router(const char *kind, float noise) {
    vm_router_config config = {.n_layers = 2,
                               .layers = {0, 1},
                               .n_experts = 8,
                               .dim = DIM,
                               .width = 8,
                               .prior_scale = 1,
                               .initial_scale = 0.3f,
                               .seed = 3,
                               .temperature = 1};
    vm_router *r;
    snprintf(config.kind, sizeof config.kind, "%s", kind);
    OK(vm_router_create(&config, &r));
    vm_rng rng = vm_rng_start(17, VM_RNG_INIT, 0);
    stir_router(r, noise, &rng);
    return r;
}

static bench open_model(const char *file, vm_compute compute, int threads, bool train, const char *router) {
    bench b = {.m = NULL};
    vm_model_options options = {.compute = compute, .backward_from = train ? 0 : -1, .train_all = train};
    if (threads) OK(vm_pool_create(threads, &b.pool));
    OK(vm_model_load(golden_path(file), &options, b.pool, &b.m));
    OK(vm_pass_create(b.m, b.pool, &b.pass));
    if (router) b.router = make_router(router, 0.2f);
    b.arena = vm_arena_create();
    /* Three questions of different lengths; the last choices of the last are long enough for several tasks a layer. */
    vm_rng rng = vm_rng_start(5, VM_RNG_TEXT, 0);
    for (int q = 0; q < QUESTIONS; q++) b.prompts[q] = random_prompt(&rng, VOCAB, q, 15);
    return b;
}

static bench open_bench(vm_compute compute, int threads, bool train, const char *router) {
    return open_model("tiny-moe.gguf", compute, threads, train, router);
}

static void close_bench(bench *b) {
    for (int q = 0; q < QUESTIONS; q++) vm_free(b->prompts[q].ids);
    vm_arena_free(b->arena);
    vm_router_free(b->router);
    vm_pass_free(b->pass);
    vm_model_free(b->m);
    vm_pool_free(b->pool);
}

/* The questions [first, first + n) as one batch. */
static question_run questions(bench *b, int first, int n) {
    vm_question list[QUESTIONS];
    question_run r = {.loss = 0};
    for (int i = 0; i < n; i++) list[i] = (vm_question){&b->prompts[first + i], (uint32_t)(40 + first + i)};
    OK(vm_questions_build(b->arena, list, n, VM_FORMAT_CLOZE, &r.q));
    r.log_probability = vm_arena_alloc(b->arena, (size_t)r.q.batch.n_targets, sizeof(float));
    r.d_log_probability = vm_arena_alloc(b->arena, (size_t)r.q.batch.n_targets, sizeof(float));
    return r;
}

static void run(bench *b, question_run *r, const vm_pass_options *options) {
    static const int right[QUESTIONS] = {1, 0, 2};
    OK(vm_pass_forward(b->pass, &r->q.batch, options, r->log_probability, NULL, NULL));
    question_loss(r, right);
}

static void assert_same_bits(const float *a, const float *b, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: element %zu is %.9g and %.9g", what, i, (double)a[i], (double)b[i]);
}

/* All gradients of model and router, in order, and zero again; *count floats, the caller frees. */
static float *take_gradients(bench *b, size_t *count) {
    vm_param_list lists[2];
    size_t n = 0;
    OK(vm_model_params(b->m, &lists[0]));
    lists[1] = b->router ? vm_router_params(b->router) : (vm_param_list){NULL, 0};
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < lists[i].count; k++) n += vm_param_size(lists[i].items[k]);
    float *all = vm_malloc(n, sizeof *all), *out = all;
    double sum = 0;
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < lists[i].count; k++) {
            vm_param *p = lists[i].items[k];
            memcpy(out, p->grad, vm_param_size(p) * sizeof *out);
            memset(p->grad, 0, vm_param_size(p) * sizeof *out);
            out += vm_param_size(p);
        }
    for (size_t i = 0; i < n; i++) sum += fabs((double)all[i]);
    assert_true(isfinite(sum) && sum > 1);
    vm_free(lists[0].items);
    *count = n;
    return all;
}

/* ---- the same bits ---- */

static const vm_compute both[] = {VM_COMPUTE_F32, VM_COMPUTE_BF16};

static void test_threads(void **state) {
    (void)state;
    for (int c = 0; c < 2; c++) {
        float *gradients[2], log_probability[2][128];
        size_t n;
        double kl[2];
        for (int i = 0; i < 2; i++) {
            bench b = open_bench(both[c], i + 1, true, "vglr-fc");
            question_run r = questions(&b, 0, QUESTIONS);
            run(&b, &r, &(vm_pass_options){.training = true, .router = b.router, .seed = 6, .sign = 1});
            kl[i] = vm_pass_kl(b.pass);
            memcpy(log_probability[i], r.log_probability, (size_t)r.q.batch.n_targets * sizeof(float));
            n = (size_t)r.q.batch.n_targets;
            assert_true(n <= 128);
            if (i) assert_same_bits(log_probability[0], log_probability[1], n, "log-probabilities");
            OK(vm_pass_backward(b.pass, r.d_log_probability, 0.01f));
            gradients[i] = take_gradients(&b, &n);
            close_bench(&b);
        }
        assert_true(kl[0] == kl[1] && kl[0] > 0);
        assert_same_bits(gradients[0], gradients[1], n, "gradients");
        vm_free(gradients[0]);
        vm_free(gradients[1]);
    }
}

static void test_company(void **state) {
    (void)state;
    static const struct {
        bool router;
        vm_inference inference;
        vm_routing_mode routing;
    } ways[] = {
        {false, 0, VM_ROUTING_LEARNED}, {false, 0, VM_ROUTING_RANDOM},  {false, 0, VM_ROUTING_ORACLE},
        {true, VM_INFERENCE_MEAN, 0},   {true, VM_INFERENCE_CLOSED, 0}, {true, VM_INFERENCE_SAMPLE, 0},
    };
    for (int c = 0; c < 2; c++) {
        bench b = open_bench(both[c], 2, false, "vglr-fc");
        for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
            vm_pass_options options = {.router = ways[way].router ? b.router : NULL,
                                       .inference = ways[way].inference,
                                       .samples = 8,
                                       .routing = ways[way].routing,
                                       .seed = 6,
                                       .sign = 1};
            question_run all = questions(&b, 0, QUESTIONS);
            run(&b, &all, &options);
            int target = 0;
            for (int q = 0; q < QUESTIONS; q++) {
                question_run one = questions(&b, q, 1);
                run(&b, &one, &options);
                assert_same_bits(one.log_probability, all.log_probability + target, (size_t)one.q.batch.n_targets,
                                 "a question alone");
                target += one.q.batch.n_targets;
            }
            assert_int_equal(target, all.q.batch.n_targets);
        }
        close_bench(&b);
    }
}

/* In training too: the draws of a question are its own. And a shared prefix is the prefix computed for each choice. */
static void test_company_in_training(void **state) {
    (void)state;
    bench b = open_bench(VM_COMPUTE_F32, 1, true, "vglr-fc");
    vm_pass_options options = {.training = true, .router = b.router, .seed = 6, .step = 3, .sign = 1};
    question_run all = questions(&b, 0, QUESTIONS), last = questions(&b, QUESTIONS - 1, 1);
    double kl = 0;
    run(&b, &last, &options);
    int first = all.q.batch.n_targets - last.q.batch.n_targets;
    for (int q = 0; q < QUESTIONS; q++) {
        question_run one = questions(&b, q, 1);
        run(&b, &one, &options);
        kl += vm_pass_kl(b.pass);
    }
    run(&b, &all, &options);
    assert_same_bits(last.log_probability, all.log_probability + first, (size_t)last.q.batch.n_targets,
                     "a question alone");
    assert_float_equal(vm_pass_kl(b.pass), kl, 1e-12 * kl);
    /* Another step, another seed, the antithetic draw: other values. */
    for (int i = 0; i < 3; i++) {
        vm_pass_options other = options;
        if (i == 0)
            other.step++;
        else if (i == 1)
            other.seed++;
        else
            other.sign = -1;
        question_run r = questions(&b, QUESTIONS - 1, 1);
        run(&b, &r, &other);
        assert_true(largest_difference(r.log_probability, last.log_probability, (size_t)r.q.batch.n_targets) > 1e-4);
    }
    close_bench(&b);
}

static void test_memory_bound(void **state) {
    (void)state;
    for (int c = 0; c < 2; c++) {
        bench b = open_bench(both[c], 2, true, "vglr-fc");
        question_run r = questions(&b, 0, QUESTIONS);
        float *gradients[3];
        size_t n, bytes[3];
        /* Nothing bounded; the first layer kept and the second computed again; and once more, over what the others left
         * in memory. */
        static const size_t memory[] = {1, 0, 1};
        for (int i = 0; i < 3; i++) {
            run(&b, &r,
                &(vm_pass_options){
                    .training = true, .router = b.router, .seed = 6, .sign = 1, .memory = memory[i], .facts = i == 2});
            OK(vm_pass_backward(b.pass, r.d_log_probability, 0.01f));
            gradients[i] = take_gradients(&b, &n);
            bytes[i] = vm_pass_bytes(b.pass);
        }
        assert_true(bytes[1] > bytes[0]);
        assert_same_bits(gradients[0], gradients[1], n, "gradients of a bounded pass");
        assert_same_bits(gradients[0], gradients[2], n, "gradients of a bounded pass after another");
        for (int i = 0; i < 3; i++) vm_free(gradients[i]);
        close_bench(&b);
    }
}

/* Gradients add up: two passes over parts give the gradient of both. Without a forward pass of training there is none.
 */
static void test_accumulation(void **state) {
    (void)state;
    bench b = open_bench(VM_COMPUTE_F32, 0, true, NULL);
    question_run all = questions(&b, 0, 2);
    vm_pass_options options = {.training = true, .sign = 1};
    size_t n;
    assert_int_equal(vm_pass_backward(b.pass, NULL, 0), VMOER_ERROR_ARGUMENT);
    run(&b, &all, &options);
    OK(vm_pass_backward(b.pass, all.d_log_probability, 0));
    assert_int_equal(vm_pass_backward(b.pass, all.d_log_probability, 0), VMOER_ERROR_ARGUMENT); /* spent */
    float *together = take_gradients(&b, &n);
    const float *d = all.d_log_probability;
    for (int q = 0; q < 2; q++) {
        question_run one = questions(&b, q, 1);
        run(&b, &one, &options);
        OK(vm_pass_backward(b.pass, d, 0));
        d += one.q.batch.n_targets;
    }
    float *apart = take_gradients(&b, &n);
    assert_true(relative_difference(apart, together, n) < 1e-6);
    vm_free(together);
    vm_free(apart);
    run(&b, &all, &(vm_pass_options){.sign = 1});
    assert_int_equal(vm_pass_backward(b.pass, all.d_log_probability, 0), VMOER_ERROR_ARGUMENT);
    close_bench(&b);
}

/* ---- routers that say nothing, or the opposite ---- */

static void test_router_at_rest(void **state) {
    (void)state;
    static const char *const kinds[] = {"vglr-fc", "vglr-mf", "vglr-noise", "residual"};
    for (int c = 0; c < 2; c++)
        for (int kind = 0; kind < 4; kind++) {
            bench b = open_bench(both[c], 0, false, NULL);
            b.router = make_router(kinds[kind], 0);
            question_run plain = questions(&b, 0, QUESTIONS), r = questions(&b, 0, QUESTIONS);
            run(&b, &plain, &(vm_pass_options){.sign = 1});
            run(&b, &r, &(vm_pass_options){.router = b.router, .inference = VM_INFERENCE_MEAN, .sign = 1});
            assert_same_bits(r.log_probability, plain.log_probability, (size_t)r.q.batch.n_targets, kinds[kind]);
            close_bench(&b);
        }
}

/* A router of weights that are the model's own, with the bias that the model has beside them. */
static void test_own_weights(void **state) {
    (void)state;
    static const char *const files[] = {"tiny-moe.gguf", "tiny-gpt-oss.gguf"};
    for (int f = 0; f < 2; f++) {
        bench b = open_model(files[f], VM_COMPUTE_F32, 0, false, NULL);
        b.router = make_router("weights", 0);
        for (int l = 0; l < 2; l++) {
            float w[8 * DIM];
            assert_true((b.m->layers[l].ffn.router.bias != NULL) == (f == 1));
            OK(vm_linear_matrix(&b.m->layers[l].ffn.router, NULL, w));
            OK(vm_router_start_weights(b.router, l, w));
        }
        question_run plain = questions(&b, 0, QUESTIONS), r = questions(&b, 0, QUESTIONS);
        run(&b, &plain, &(vm_pass_options){.sign = 1});
        run(&b, &r, &(vm_pass_options){.router = b.router, .inference = VM_INFERENCE_MEAN, .sign = 1});
        assert_same_bits(r.log_probability, plain.log_probability, (size_t)r.q.batch.n_targets, files[f]);
        close_bench(&b);
    }
}

/* p[T, N] of layer 0 for some made-up inputs. */
static void routed(bench *b, const float *u, const vm_token_key *keys, int n_tokens, float sign, bool with_router,
                   float *p) {
    vm_arena *keep = vm_arena_create(), *scratch = vm_arena_create();
    vm_ffn_acts acts;
    float y[16 * DIM];
    vm_ffn_route route = {
        .router = with_router ? b->router : NULL, .training = true, .tokens = keys, .seed = 3, .sign = sign};
    OK(vm_ffn_forward(&b->m->layers[0].ffn, NULL, keep, scratch, n_tokens, u, &route, &acts, y));
    memcpy(p, acts.p, (size_t)n_tokens * 8 * sizeof *p);
    vm_arena_free(keep);
    vm_arena_free(scratch);
}

/* With a mean head of zero, log p+ + log p- is twice log softmax(l_det) but for a constant a token. */
static void test_antithetic(void **state) {
    (void)state;
    enum { T = 16 };
    bench b = open_bench(VM_COMPUTE_F32, 0, false, NULL);
    b.router = make_router("vglr-fc", 0);
    float u[T * DIM], plus[T * 8], minus[T * 8], plain[T * 8];
    vm_token_key keys[T];
    vm_rng rng = vm_rng_start(4, VM_RNG_TEXT, 0);
    for (int i = 0; i < T * DIM; i++) u[i] = vm_rng_normal(&rng);
    for (int t = 0; t < T; t++) keys[t] = (vm_token_key){(uint32_t)t, 1, 2};
    routed(&b, u, keys, T, 1, true, plus);
    routed(&b, u, keys, T, -1, true, minus);
    routed(&b, u, keys, T, 1, false, plain);
    double moved = 0;
    for (int t = 0; t < T; t++) {
        double constant = 0;
        for (int e = 0; e < 8; e++) {
            int i = t * 8 + e;
            double sum = log((double)plus[i]) + log((double)minus[i]) - 2 * log((double)plain[i]);
            if (e == 0) constant = sum;
            assert_float_equal(sum, constant, 2e-5);
            moved += fabs(log((double)plus[i]) - log((double)minus[i])) / (T * 8);
        }
    }
    assert_true(moved > 0.1);
    close_bench(&b);
}

/* ---- choosing experts ---- */

static const int32_t *chosen_of(bench *b, const question_run *r, vm_routing_mode routing, uint64_t seed) {
    OK(vm_pass_forward(b->pass, &r->q.batch,
                       &(vm_pass_options){.routing = routing, .seed = seed, .sign = 1, .facts = true},
                       r->log_probability, NULL, NULL));
    return vm_pass_facts(b->pass).chosen;
}

/* Random routing is a function of seed, layer and who the token is; every expert gets its share. */
static void test_random_routing(void **state) {
    (void)state;
    enum { K = 3, N = 8, SEEDS = 200 };
    bench b = open_bench(VM_COMPUTE_F32, 0, false, NULL), other = open_bench(VM_COMPUTE_F32, 0, false, NULL);
    question_run all = questions(&b, 0, QUESTIONS);
    int T = all.q.batch.n_tokens, count[N] = {0}, same_layers = 0, same_seeds = 0;
    int32_t *first = vm_malloc((size_t)(2 * T * K), sizeof *first);
    memcpy(first, chosen_of(&b, &all, VM_ROUTING_RANDOM, 1), (size_t)(2 * T * K) * sizeof *first);
    /* Another model decides nothing here: its router is turned round. */
    for (int l = 0; l < 2; l++) {
        vm_linear *router = &other.m->layers[l].ffn.router;
        float *w = vm_malloc((size_t)(N * DIM), sizeof *w);
        for (int i = 0; i < N * DIM; i++) w[i] = (float)(i % 7) - 3;
        OK(vm_linear_train(router, "router", w));
        OK(vm_linear_refresh(router, NULL));
        vm_free(w);
    }
    assert_memory_equal(first, chosen_of(&other, &all, VM_ROUTING_RANDOM, 1), (size_t)(2 * T * K) * sizeof *first);
    for (int i = 0; i < T; i++) same_layers += memcmp(first + i * K, first + (T + i) * K, K * sizeof *first) == 0;
    for (uint64_t seed = 2; seed < 2 + SEEDS; seed++) {
        const int32_t *chosen = chosen_of(&b, &all, VM_ROUTING_RANDOM, seed);
        for (int i = 0; i < 2 * T; i++) {
            const int32_t *c = chosen + i * K;
            assert_true(c[0] != c[1] && c[0] != c[2] && c[1] != c[2]);
            for (int k = 0; k < K; k++) count[c[k]]++;
        }
        same_seeds += memcmp(chosen, first, (size_t)(2 * T * K) * sizeof *chosen) == 0;
    }
    assert_true(same_layers < T / 10); /* 1 in 336 by chance */
    assert_int_equal(same_seeds, 0);
    double expected = 2.0 * T * K * SEEDS / N;
    for (int e = 0; e < N; e++)
        if (fabs(count[e] - expected) > 5 * sqrt(expected))
            fail_msg("expert %d was drawn %d times of %g", e, count[e], expected);
    vm_free(first);
    close_bench(&b);
    close_bench(&other);
}

typedef struct captured {
    float u[2][256 * DIM];
} captured;

static void capture(void *context, int layer, int n_tokens, const float *u) {
    assert_true(n_tokens <= 256);
    memcpy(((captured *)context)->u[layer], u, (size_t)n_tokens * DIM * sizeof *u);
}

/* The oracle runs the experts whose outputs are the longest; where all run there is nothing to choose. */
static void test_oracle_routing(void **state) {
    (void)state;
    enum { K = 3, N = 8, WIDTH = 16 };
    static captured seen;
    bench b = open_bench(VM_COMPUTE_F32, 0, false, NULL);
    question_run all = questions(&b, 0, QUESTIONS), learned = questions(&b, 0, QUESTIONS);
    size_t T = (size_t)all.q.batch.n_tokens;
    OK(vm_pass_forward(
        b.pass, &all.q.batch,
        &(vm_pass_options){
            .routing = VM_ROUTING_ORACLE, .sign = 1, .facts = true, .capture = capture, .capture_context = &seen},
        all.log_probability, NULL, NULL));
    const int32_t *chosen = vm_pass_facts(b.pass).chosen;
    vm_arena *scratch = vm_arena_create();
    for (int l = 0; l < 2; l++) {
        float norms[256 * N], hidden[256 * 2 * WIDTH], active[256 * WIDTH], out[256 * DIM];
        for (int e = 0; e < N; e++) {
            const vm_ffn *f = &b.m->layers[l].ffn;
            vm_linear_call in = {
                .l = &f->expert_in[e], .m = (int)T, .x = seen.u[l], .ldx = DIM, .y = hidden, .ldy = 2 * WIDTH};
            vm_linear_call down = {
                .l = &f->expert_out[e], .m = (int)T, .x = active, .ldx = WIDTH, .y = out, .ldy = DIM};
            OK(vm_linear_forward(NULL, scratch, &in, 1));
            for (size_t t = 0; t < T; t++)
                for (size_t i = 0; i < WIDTH; i++) {
                    float g = hidden[t * 2 * WIDTH + i];
                    active[t * WIDTH + i] = g / (1 + expf(-g)) * hidden[t * 2 * WIDTH + WIDTH + i];
                }
            OK(vm_linear_forward(NULL, scratch, &down, 1));
            for (size_t t = 0; t < T; t++) {
                norms[t * N + (size_t)e] = 0;
                for (size_t d = 0; d < DIM; d++) norms[t * N + (size_t)e] += out[t * DIM + d] * out[t * DIM + d];
            }
        }
        for (size_t t = 0; t < T; t++) {
            int32_t expected[K];
            vm_top_k(norms + t * N, N, K, expected);
            assert_memory_equal(chosen + ((size_t)l * T + t) * K, expected, sizeof expected);
        }
    }
    vm_arena_free(scratch);
    b.m->config.top_k = b.m->layers[0].ffn.top_k = b.m->layers[1].ffn.top_k = N;
    run(&b, &all, &(vm_pass_options){.routing = VM_ROUTING_ORACLE, .sign = 1});
    run(&b, &learned, &(vm_pass_options){.sign = 1});
    assert_true(largest_difference(all.log_probability, learned.log_probability, (size_t)all.q.batch.n_targets) <
                1e-5); /* summed in another order */
    close_bench(&b);
}

/* ---- a teacher ---- */

/* All three questions, every token asked and none a target: 99 rows, more than the head takes at a time. */
static question_run every_token(bench *b) {
    question_run r = questions(b, 0, QUESTIONS);
    int32_t *rows = vm_arena_alloc(b->arena, (size_t)r.q.batch.n_tokens, sizeof *rows);
    for (int t = 0; t < r.q.batch.n_tokens; t++) rows[t] = t;
    r.q.batch.rows = rows, r.q.batch.n_rows = r.q.batch.n_tokens, r.q.batch.n_targets = 0;
    assert_int_equal(r.q.batch.n_rows, 99);
    return r;
}

/* tiny-llama, whose logits are not divided as tiny-moe's are, after a pass of `batch`; logits as in vm_pass_forward. */
static vm_pass *open_teacher(vm_compute compute, vm_pool *pool, const vm_batch *batch, float *logits, vm_model **m) {
    vm_pass *teacher;
    OK(vm_model_load(golden_path("tiny-llama.gguf"), &(vm_model_options){.compute = compute, .backward_from = -1}, pool,
                     m));
    OK(vm_pass_create(*m, pool, &teacher));
    OK(vm_pass_forward(teacher, batch, &(vm_pass_options){.sign = 1}, NULL, NULL, logits));
    return teacher;
}

/* sum p (log p - log q) over the rows, p and q of these logits. */
static double divergence_of(const float *teacher, const float *student, int n_rows) {
    double sum = 0;
    for (int r = 0; r < n_rows; r++) {
        const float *z[2] = {teacher + r * VOCAB, student + r * VOCAB};
        double lse[2] = {0, 0};
        for (int i = 0; i < 2; i++) {
            for (int v = 0; v < VOCAB; v++) lse[i] += exp((double)z[i][v]);
            lse[i] = log(lse[i]);
        }
        for (int v = 0; v < VOCAB; v++)
            sum += exp((double)z[0][v] - lse[0]) * ((double)z[0][v] - lse[0] - (double)z[1][v] + lse[1]);
    }
    return sum;
}

static void test_divergence(void **state) {
    (void)state;
    static float wanted[MAX_TOKENS * VOCAB], given[MAX_TOKENS * VOCAB];
    for (int c = 0; c < 2; c++) {
        bench b = open_bench(both[c], 0, true, NULL);
        question_run r = every_token(&b);
        vm_model *m;
        vm_pass *teacher = open_teacher(both[c], NULL, &r.q.batch, wanted, &m);
        vm_pass_options options = {.sign = 1, .teacher = teacher, .teacher_weight = 0.5f};
        OK(vm_pass_forward(b.pass, &r.q.batch, &options, NULL, NULL, given));
        double expected = divergence_of(wanted, given, r.q.batch.n_rows), divergence = vm_pass_divergence(b.pass);
        assert_true(expected > 0.01 * r.q.batch.n_rows);
        assert_float_equal(divergence, expected, 2e-6 * r.q.batch.n_rows); /* log-probabilities are f32 */
        /* The same where it is taken on the way back, whatever its weight in the gradient; a pass without a teacher has
         * none. */
        options.training = true;
        OK(vm_pass_forward(b.pass, &r.q.batch, &options, NULL, NULL, NULL));
        OK(vm_pass_backward(b.pass, NULL, 0));
        assert_true(vm_pass_divergence(b.pass) == divergence);
        OK(vm_pass_forward(b.pass, &r.q.batch, &(vm_pass_options){.sign = 1}, NULL, NULL, NULL));
        assert_true(vm_pass_divergence(b.pass) == 0);
        /* Some rows of the batch alone. */
        static const int32_t rows[] = {98, 3, 50};
        vm_batch few = r.q.batch;
        few.rows = rows, few.n_rows = 3;
        OK(vm_pass_forward(teacher, &few, &(vm_pass_options){.sign = 1}, NULL, NULL, wanted));
        OK(vm_pass_forward(b.pass, &few, &(vm_pass_options){.sign = 1, .teacher = teacher}, NULL, NULL, given));
        assert_float_equal(vm_pass_divergence(b.pass), divergence_of(wanted, given, 3), 2e-6 * 3);
        vm_pass_free(teacher);
        vm_model_free(m);
        close_bench(&b);
    }
}

/* The same bits for any number of threads and any memory bound; twice the weight, twice the gradient. */
static void test_taught(void **state) {
    (void)state;
    static const struct {
        int threads;
        size_t memory;
        float weight;
    } ways[] = {{1, 0, 0.25f}, {2, 0, 0.25f}, {2, 1, 0.25f}, {1, 0, 0.5f}};
    enum { WAYS = sizeof ways / sizeof *ways };
    for (int c = 0; c < 2; c++) {
        float *gradients[WAYS];
        double divergence[WAYS];
        size_t n;
        for (int i = 0; i < WAYS; i++) {
            bench b = open_bench(both[c], ways[i].threads, true, NULL);
            question_run r = every_token(&b);
            vm_model *m;
            vm_pass *teacher = open_teacher(both[c], b.pool, &r.q.batch, NULL, &m);
            vm_pass_options options = {.training = true,
                                       .sign = 1,
                                       .memory = ways[i].memory,
                                       .teacher = teacher,
                                       .teacher_weight = ways[i].weight};
            OK(vm_pass_forward(b.pass, &r.q.batch, &options, NULL, NULL, NULL));
            OK(vm_pass_backward(b.pass, NULL, 0));
            divergence[i] = vm_pass_divergence(b.pass);
            gradients[i] = take_gradients(&b, &n);
            vm_pass_free(teacher);
            vm_model_free(m);
            close_bench(&b);
        }
        for (size_t k = 0; k < n; k++) gradients[WAYS - 1][k] /= 2;
        for (int i = 1; i < WAYS; i++) {
            assert_true(divergence[i] == divergence[0]);
            assert_same_bits(gradients[i], gradients[0], n, "gradients");
            vm_free(gradients[i]);
        }
        vm_free(gradients[0]);
    }
}

/* Who is taught by itself has nothing to learn: the same bits on both sides, and not a gradient of rounding errors. */
static void test_own_teacher(void **state) {
    (void)state;
    for (int c = 0; c < 2; c++) {
        bench b = open_bench(both[c], 2, true, NULL);
        question_run r = every_token(&b);
        vm_param_list params;
        vm_pass *teacher;
        OK(vm_pass_create(b.m, b.pool, &teacher));
        OK(vm_pass_forward(teacher, &r.q.batch, &(vm_pass_options){.sign = 1}, NULL, NULL, NULL));
        OK(vm_pass_forward(b.pass, &r.q.batch,
                           &(vm_pass_options){.training = true, .sign = 1, .teacher = teacher, .teacher_weight = 1},
                           NULL, NULL, NULL));
        OK(vm_pass_backward(b.pass, NULL, 0));
        assert_true(vm_pass_divergence(b.pass) == 0);
        OK(vm_model_params(b.m, &params));
        for (size_t i = 0; i < params.count; i++)
            for (size_t k = 0; k < vm_param_size(params.items[i]); k++)
                if (params.items[i]->grad[k] != 0)
                    fail_msg("%s: gradient %g", params.items[i]->name, (double)params.items[i]->grad[k]);
        vm_free(params.items);
        vm_pass_free(teacher);
        close_bench(&b);
    }
}

static void test_bad_teacher(void **state) {
    (void)state;
    bench b = open_bench(VM_COMPUTE_F32, 0, true, NULL);
    question_run r = every_token(&b);
    vm_batch fewer = r.q.batch;
    vm_model *m;
    vm_pass *teacher = open_teacher(VM_COMPUTE_F32, NULL, &r.q.batch, NULL, &m), *idle;
    vm_pass_options options = {.training = true, .sign = 1, .teacher = teacher, .teacher_weight = 1};
    fewer.n_rows = 98;
    assert_int_equal(vm_pass_forward(b.pass, &fewer, &options, NULL, NULL, NULL), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "the teacher has 272 tokens and 99 rows, the model 272 and 98"));
    assert_int_equal(vm_pass_backward(b.pass, NULL, 0), VMOER_ERROR_ARGUMENT);
    OK(vm_pass_create(m, NULL, &idle)); /* has run nothing */
    options.teacher = idle;
    assert_int_equal(vm_pass_forward(b.pass, &r.q.batch, &options, NULL, NULL, NULL), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "the teacher has 272 tokens and 0 rows, the model 272 and 99"));
    vm_pass_free(idle);
    options.teacher = teacher;
    OK(vm_pass_forward(b.pass, &r.q.batch, &options, NULL, NULL, NULL));
    m->config.n_vocab--;
    assert_int_equal(vm_pass_forward(b.pass, &r.q.batch, &options, NULL, NULL, NULL), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "the teacher has 271 tokens and 99 rows, the model 272 and 99"));
    vm_pass_free(teacher);
    vm_model_free(m);
    close_bench(&b);
}

/* ---- batches that are refused ---- */

typedef struct bad_batch {
    const char *says;
    vmoer_status status;
    void (*spoil)(vm_batch *b);
} bad_batch;

static int32_t spoiled_ids[MAX_TOKENS], spoiled_rows[MAX_TOKENS], spoiled_positions[MAX_TOKENS];
static vm_segment spoiled_segments[MAX_SEQUENCES];
static const int32_t one_row[] = {0, 1}, falling[] = {1, 0}, row_beyond[] = {0, 20}, id_beyond[] = {3, VOCAB},
                     id_below[] = {-1, 3}, ids[] = {3, 4};

static void gap(vm_batch *b) { (void)b, spoiled_segments[1].start++; }
static void empty_segment(vm_batch *b) { (void)b, spoiled_segments[1].length = 0; }
static void too_few(vm_batch *b) { b->n_segments--; }
static void later_parent(vm_batch *b) { (void)b, spoiled_segments[0].parent = 1; }
static void grandchild(vm_batch *b) { (void)b, spoiled_segments[1].parent = 0, spoiled_segments[2].parent = 1; }
static void apart_from_root(vm_batch *b) { (void)b, spoiled_segments[2].parent = 0; }
static void far_position(vm_batch *b) { (void)b, spoiled_positions[2] = 128; }
static void negative_position(vm_batch *b) { (void)b, spoiled_positions[2] = -1; }
static void far_token(vm_batch *b) { (void)b, spoiled_ids[3] = VOCAB; }
static void negative_token(vm_batch *b) { (void)b, spoiled_ids[3] = -1; }
static void far_row(vm_batch *b) { b->n_rows = 2, b->rows = row_beyond; }
static void far_target(vm_batch *b) { b->n_targets = 2, b->target_row = one_row, b->target_id = id_beyond; }
static void negative_target(vm_batch *b) { b->n_targets = 2, b->target_row = one_row, b->target_id = id_below; }
static void target_beyond_rows(vm_batch *b) { b->n_targets = 2, b->target_row = row_beyond, b->target_id = ids; }
static void falling_targets(vm_batch *b) { b->n_targets = 2, b->target_row = falling, b->target_id = ids; }
static void nothing(vm_batch *b) { b->n_tokens = b->n_segments = b->n_rows = 0; }

static void test_bad_batches(void **state) {
    (void)state;
    static const bad_batch cases[] = {
        {"segment 1", VMOER_ERROR_ARGUMENT, gap},
        {"segment 1", VMOER_ERROR_ARGUMENT, empty_segment},
        {"cover 8 of 20", VMOER_ERROR_ARGUMENT, too_few},
        {"segment 0", VMOER_ERROR_ARGUMENT, later_parent},
        {"segment 2", VMOER_ERROR_ARGUMENT, grandchild},
        {"segment 2", VMOER_ERROR_ARGUMENT, apart_from_root},
        {"position 128 is beyond the context of 128", VMOER_ERROR_LIMIT, far_position},
        {"position -1", VMOER_ERROR_LIMIT, negative_position},
        {"token 272 is outside the vocabulary of 272", VMOER_ERROR_ARGUMENT, far_token},
        {"token -1", VMOER_ERROR_ARGUMENT, negative_token},
        {"row 1", VMOER_ERROR_ARGUMENT, far_row},
        {"token 272 is outside the vocabulary of 272", VMOER_ERROR_ARGUMENT, far_target},
        {"token -1", VMOER_ERROR_ARGUMENT, negative_target},
        {"target 1", VMOER_ERROR_ARGUMENT, target_beyond_rows},
        {"target 1", VMOER_ERROR_ARGUMENT, falling_targets},
        {"0 tokens", VMOER_ERROR_ARGUMENT, nothing},
    };
    vm_safetensors *st = golden_open("tiny-moe");
    bench b = open_bench(VM_COMPUTE_F32, 0, false, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sequences s;
        float log_probability[2];
        golden_sequences(st, 0, 3, &s); /* of 1, 7 and 12 tokens */
        assert_int_equal(s.batch.n_tokens, 20);
        memcpy(spoiled_ids, s.ids, sizeof spoiled_ids);
        memcpy(spoiled_rows, s.rows, sizeof spoiled_rows);
        memcpy(spoiled_positions, s.positions, sizeof spoiled_positions);
        memcpy(spoiled_segments, s.segments, sizeof spoiled_segments);
        s.batch.ids = spoiled_ids, s.batch.rows = spoiled_rows, s.batch.positions = spoiled_positions,
        s.batch.segments = spoiled_segments;
        s.batch.n_rows = 2;
        cases[i].spoil(&s.batch);
        vmoer_status status =
            vm_pass_forward(b.pass, &s.batch, &(vm_pass_options){.sign = 1}, log_probability, NULL, NULL);
        if (status != cases[i].status || !strstr(vm_error_text(), cases[i].says))
            fail_msg("case %zu: status %d, \"%s\", expected %d, \"%s\"", i, status, vm_error_text(), cases[i].status,
                     cases[i].says);
    }
    /* Where the entropy is asked stands in the rows, in order; nobody looks where it is not asked. */
    static const int32_t entropy_rows[][2] = {{0, 2}, {1, 0}};
    for (int i = 0; i < 2; i++) {
        float log_probability[8], entropy[2];
        question_run r = questions(&b, 0, 1);
        r.q.batch.n_rows = 2, r.q.batch.n_targets = 0, r.q.batch.entropy_row = entropy_rows[i],
        r.q.batch.n_entropies = 2;
        OK(vm_pass_forward(b.pass, &r.q.batch, &(vm_pass_options){.sign = 1}, log_probability, NULL, NULL));
        assert_int_equal(
            vm_pass_forward(b.pass, &r.q.batch, &(vm_pass_options){.sign = 1}, log_probability, entropy, NULL),
            VMOER_ERROR_ARGUMENT);
        assert_non_null(strstr(vm_error_text(), "entropy 1"));
    }
    close_bench(&b);
    vm_safetensors_free(st);
}

/* Training asks for a model that was loaded for it. */
static void test_bad_training(void **state) {
    (void)state;
    bench b = open_bench(VM_COMPUTE_F32, 0, false, "vglr-mf");
    question_run r = questions(&b, 0, 1);
    assert_int_equal(vm_pass_forward(b.pass, &r.q.batch, &(vm_pass_options){.training = true, .sign = 1},
                                     r.log_probability, NULL, NULL),
                     VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "nothing is trained"));
    assert_int_equal(vm_pass_forward(b.pass, &r.q.batch,
                                     &(vm_pass_options){.training = true, .router = b.router, .sign = 1},
                                     r.log_probability, NULL, NULL),
                     VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "layer 0 is trained"));
    close_bench(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_company),
        cmocka_unit_test(test_company_in_training),
        cmocka_unit_test(test_memory_bound),
        cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_router_at_rest),
        cmocka_unit_test(test_own_weights),
        cmocka_unit_test(test_antithetic),
        cmocka_unit_test(test_random_routing),
        cmocka_unit_test(test_oracle_routing),
        cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_taught),
        cmocka_unit_test(test_own_teacher),
        cmocka_unit_test(test_bad_teacher),
        cmocka_unit_test(test_bad_batches),
        cmocka_unit_test(test_bad_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
