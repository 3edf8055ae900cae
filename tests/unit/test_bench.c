/* test_bench.c: the machine's peaks, the counted operations against numbers worked out by hand, and `bench` on a tiny
 * model: every row is there, positive, and what does more work counts more. */
#include "api/internal.h"
#include "kernels/peak.h"
#include "model/flops.h"
#include "model_fixture.h"
#include "train/lora.h"

#include <sys/stat.h>

/* ---- peaks ---- */

static void test_peaks(void **state) {
    (void)state;
    const vm_kernels *tables[8];
    double read = 0;
    int n = vm_kernels_all(tables, 8);
    for (int i = 0; i < n; i++)
        for (int type = VM_COMPUTE_F32; type <= VM_COMPUTE_BF16; type++) {
            double peak = vm_peak_flops(tables[i], (vm_compute)type, NULL, 0.001);
            if (strcmp(tables[i]->name, "ref") == 0)
                assert_true(peak == 0);
            else
                assert_true(peak > 1e8 && peak < 1e15);
        }
    OK(vm_peak_read(NULL, 0.001, &read));
    assert_true(read > 1e7 && read < 1e13);
}

/* ---- operations ---- */

enum { PREFIX = 5, TAIL = 3 };

/* A question of 5 tokens with two choices of 3 more, 4 rows asked. */
static vm_batch small_batch(void) {
    static int32_t ids[PREFIX + 2 * TAIL], positions[PREFIX + 2 * TAIL], rows[4] = {4, 7, 9, 10};
    static vm_token_key keys[PREFIX + 2 * TAIL];
    static const vm_segment segments[3] = {{0, PREFIX, -1}, {PREFIX, TAIL, 0}, {PREFIX + TAIL, TAIL, 0}};
    return (vm_batch){.n_tokens = PREFIX + 2 * TAIL,
                      .ids = ids,
                      .positions = positions,
                      .keys = keys,
                      .n_segments = 3,
                      .segments = segments,
                      .n_rows = 4,
                      .rows = rows};
}

static vm_router *one_router(const vm_model *m, int layer) {
    vm_router_config c = {.kind = "vglr-fc",
                          .n_layers = 1,
                          .layers = {layer},
                          .n_experts = m->config.n_experts,
                          .dim = m->config.dim,
                          .width = 5,
                          .prior_scale = 1,
                          .initial_scale = 0.2f,
                          .temperature = 1};
    vm_router *r;
    OK(vm_router_create(&c, &r));
    return r;
}

static void test_flops(void **state) {
    (void)state;
    vm_batch b = small_batch();
    vm_pass_options o = {.samples = 1};
    vm_model *m = load_model("tiny-moe", (vm_model_options){.compute = VM_COMPUTE_F32, .backward_from = -1});
    const vm_config *c = &m->config;
    /* 5 tokens see 1 to 5, the choices' 6 to 8: 15 + 2 * 21. */
    double T = 11, pairs = 57, D = c->dim, q = (double)c->n_heads * c->head_dim,
           kv = (double)c->n_kv_heads * c->head_dim, qkv = T * 2 * D * (q + 2 * kv),
           rest = T * (2 * q * D + 6 * D * c->shared_width + 2 * D * c->n_experts + 6 * D * c->expert_width * c->top_k),
           scores = 4 * q * pairs, head = 4 * 2 * D * c->n_vocab, layers = c->n_layers;
    double plain = layers * (qkv + rest + scores) + head;
    assert_true(vm_flops_forward(m, &b, &o) == plain);

    /* Three more tokens of a sequence of five see 6 to 8, and one of them is asked: no more than in one batch. */
    vm_kv_cache cache = {.length = 5};
    vm_segment segment = {0, 3, -1};
    vm_batch more = {.n_tokens = 3, .n_segments = 1, .segments = &segment, .n_rows = 1, .cache = &cache};
    assert_true(vm_flops_forward(m, &more, &o) == layers * ((qkv + rest) * 3 / 11 + 4 * q * 21) + head / 4);

    /* A router on layer 1: its forward is one draw, its way back ends there. */
    vm_router *r = one_router(m, 1);
    double N = c->n_experts, triangle = N * (N + 1) / 2, trunk = 2 * D * 5, mean = trunk + 2 * 5 * N,
           draw = mean + 2 * 5 * triangle + 2 * triangle;
    assert_true(vm_router_flops(r, VM_INFERENCE_MEAN, 1) == mean);
    assert_true(vm_router_flops(r, VM_INFERENCE_TILTED, 1) == draw + 4 * VM_TILTED_STEPS * triangle);
    assert_true(vm_router_flops(r, VM_INFERENCE_CLOSED, 1) == draw + 2 * (triangle * (2 * N + 1) / 3 - 1));
    assert_true(vm_router_flops(r, VM_INFERENCE_PASSES, 1) == draw);
    assert_true(vm_router_flops(r, VM_INFERENCE_SAMPLE, 7) == draw + 3 * 2 * triangle);
    o = (vm_pass_options){.training = true, .router = r};
    assert_true(vm_flops_forward(m, &b, &o) == plain + T * draw);
    double back = head + (layers - 2) * (qkv + rest + 2 * scores) + T * (2 * draw - trunk);
    assert_true(vm_flops_backward(m, &b, &o) == back);
    OK(vm_states_create(1, c->dim, 0, &o.states));
    double known = qkv + rest + scores + qkv + scores + T * 2 * q * D; /* layer 0, and attention of layer 1 */
    assert_true(vm_flops_forward(m, &b, &o) == plain + T * draw - known);
    vm_states_free(o.states);
    vm_router_free(r);
    vm_model_free(m);

    /* LoRA of rank 3 on q, k, v and the output. */
    m = load_model("tiny-moe", (vm_model_options){.compute = VM_COMPUTE_F32, .backward_from = 0});
    OK(vm_lora_attach(m, "attention", 3, 6, 0, NULL));
    double into = T * 2 * 3 * 3 * D, lora = into + T * 2 * 3 * (q + 2 * kv) + T * 2 * 3 * (q + D);
    o = (vm_pass_options){.training = true};
    assert_true(vm_flops_forward(m, &b, &o) == plain + layers * lora);
    back = head + layers * (qkv + rest + 2 * scores + 2 * lora) - qkv - into;
    assert_true(vm_flops_backward(m, &b, &o) == back);
    vm_model_free(m);
}

/* ---- the job ---- */

/* Questions in OpenBookQA's layout. */
static const char *write_task(void) {
    static char dir[4096], task[4200], path[4300];
    static const char *const parts[] = {"train", "dev", "test"};
    snprintf(dir, sizeof dir, "%s", scratch_path("bench"));
    snprintf(task, sizeof task, "%s/openbookqa", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(mkdir(task, 0700), 0);
    for (int p = 0; p < 3; p++) {
        snprintf(path, sizeof path, "%s/%s.jsonl", task, parts[p]);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        for (int i = 0; i < 20; i++)
            fprintf(f,
                    "{\"id\": \"%d-%d\", \"question\": {\"stem\": \"what of %c%d%c\", \"choices\": [{\"text\": "
                    "\"fox\", \"label\": \"A\"}, {\"text\": \"sea\", \"label\": \"B\"}]}, \"answerKey\": \"%c\"}\n",
                    p, i, 'a' + i, p, 'z' - i, "AB"[i % 2]);
        assert_int_equal(fclose(f), 0);
    }
    return dir;
}

static void remove_task(const char *dir) {
    char command[4200];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    assert_int_equal(system(command), 0);
}

static vmoer_bench_params small_params(const char *dir) {
    vmoer_bench_params p = vmoer_bench_params_default();
    p.model = golden_path("tiny-moe.gguf");
    p.questions.data_dir = dir;
    p.questions.limit = 6;
    p.lengths = "8,24";
    p.samples = "1,32";
    p.batch_size = 4;
    p.repeats = 2;
    p.threads = 2;
    return p;
}

static json_t *bench(const vmoer_bench_params *p) {
    char *text;
    OK(vmoer_bench(p, NULL, &text));
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    vmoer_free(text);
    return root;
}

static double number(const json_t *row, const char *key) { return json_number_value(json_object_get(row, key)); }

static const json_t *find(const json_t *root, const char *test, int threads) {
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(root, "results"), i, row) {
        if (strcmp(json_string_value(json_object_get(row, "test")), test) == 0 && number(row, "threads") == threads)
            return row;
    }
    fail_msg("no row '%s' of %d threads", test, threads);
    return NULL;
}

static double flops(const json_t *root, const char *test) { /* of a run */
    const json_t *row = find(root, test, 2);
    return number(row, "gflops") * number(row, "seconds");
}

static void test_rows(void **state) {
    (void)state;
    static const char *const names[] = {
        "pp8",  "pp24", "pp24 mean",    "pp24 passes",  "pp24 tilted", "pp24 sample 1",  "pp24 sample 32",
        "tg64", "eval", "four prompts", "finetune r 8", "calibrate",   "calibrate again"};
    enum { N = sizeof names / sizeof *names };
    const char *dir = write_task();
    vmoer_bench_params p = small_params(dir);
    json_t *root = bench(&p);
    const json_t *results = json_object_get(root, "results");
    assert_int_equal(json_array_size(results), 5 + N);
    bool ref = strcmp(vm_kernels_get()->name, "ref") == 0;
    for (int threads = 1; threads <= 2; threads++) {
        assert_true(ref || number(find(root, "peak f32", threads), "rate") > 0);
        assert_true(ref || number(find(root, "peak bf16", threads), "rate") > 0);
    }
    assert_true(number(find(root, "peak read", 2), "rate") > 0);
    double peak = number(find(root, "peak bf16", 2), "rate");
    for (int i = 0; i < N; i++) {
        const json_t *row = find(root, names[i], 2);
        double rate = number(row, "rate"), seconds = number(row, "seconds"), count = number(row, "count");
        assert_true(rate > 0 && seconds > 0 && number(row, "gflops") > 0);
        assert_true(fabs(rate * seconds / count - 1) < 1e-9);
        assert_int_equal((int)count, i > 7 ? 6 : i == 7 ? 64 : i == 0 ? 8 : 24);
        assert_int_equal((int)number(row, "repeats"), 2);
        assert_true(ref || fabs(number(row, "of_peak") * peak / number(row, "gflops") - 1) < 1e-9);
        assert_int_equal(json_is_null(json_object_get(row, "overhead")), i < 2 || i >= 7);
        if (i >= 2 && i < 7)
            assert_true(fabs(1 + number(row, "overhead") / 100 - seconds / number(find(root, "pp24", 2), "seconds")) <
                        1e-9);
    }
    assert_true(flops(root, "pp8") < flops(root, "pp24"));
    assert_true(flops(root, "pp24") < flops(root, "pp24 mean"));
    assert_true(flops(root, "pp24 mean") < flops(root, "pp24 sample 1"));
    assert_true(flops(root, "pp24 mean") < flops(root, "pp24 passes"));
    assert_true(flops(root, "pp24 sample 1") < flops(root, "pp24 tilted"));
    assert_true(flops(root, "pp24 sample 1") < flops(root, "pp24 sample 32"));
    assert_true(flops(root, "eval") < flops(root, "four prompts"));
    assert_true(flops(root, "finetune r 8") > 1.5 * flops(root, "eval"));
    assert_true(flops(root, "calibrate") > flops(root, "eval"));
    assert_true(flops(root, "calibrate") > flops(root, "calibrate again"));
    assert_int_equal(json_array_size(json_object_get(json_object_get(root, "router"), "layers")), 1);
    json_decref(root);
    remove_task(dir);
}

/* Tests by name; a dense model has no router. */
static void test_choice(void **state) {
    (void)state;
    const char *dir = write_task();
    vmoer_bench_params p = small_params(dir);
    p.tests = "eval,router";
    p.layers = "all";
    json_t *root = bench(&p);
    assert_int_equal(json_array_size(json_object_get(root, "results")), 1 + 5 + 1);
    find(root, "pp24", 2);
    find(root, "eval", 2);
    assert_int_equal(json_array_size(json_object_get(json_object_get(root, "router"), "layers")), 2);
    json_decref(root);
    p.model = golden_path("tiny-llama.gguf");
    assert_int_equal(vmoer_bench(&p, NULL, NULL), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "is dense"));
    p.tests = "all";
    root = bench(&p);
    assert_int_equal(json_array_size(json_object_get(root, "results")), 5 + 2 + 4);
    assert_true(json_is_null(json_object_get(root, "router")));
    json_decref(root);
    remove_task(dir);
}

/* A router of another model, wherever it is asked for. */
static void test_foreign_router(void **state) {
    (void)state;
    const char *dir = write_task(),
               *path = scratch_path("foreign.safetensors"), *const tests[] = {"router", "calibrate"};
    vm_model *m = load_model("tiny-moe", (vm_model_options){.backward_from = -1});
    vm_router *r = one_router(m, 1);
    vm_router_file info = {.base_name = "another", .training = "{}"};
    memset(info.base, 'a', 64);
    OK(vm_router_save(r, &info, path));
    vmoer_bench_params p = small_params(dir);
    p.router = path;
    for (int i = 0; i < 2; i++) {
        p.tests = tests[i];
        assert_int_equal(vmoer_bench(&p, NULL, NULL), VMOER_ERROR_MISMATCH);
        assert_non_null(strstr(vm_error_text(), "'another'"));
    }
    memcpy(info.base, m->fingerprint, sizeof info.base);
    OK(vm_router_save(r, &info, path));
    p.tests = "router,calibrate";
    json_t *root = bench(&p);
    const json_t *layers = json_object_get(json_object_get(root, "router"), "layers");
    assert_int_equal(json_integer_value(json_array_get(layers, 0)), 1);
    json_decref(root);
    vm_router_free(r);
    vm_model_free(m);
    unlink(path);
    remove_task(dir);
}

static int stop_at(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    (void)note;
    assert_true(done <= total);
    return strcmp(stage, "bench") == 0 && done == *(const uint64_t *)user;
}

static void test_stops(void **state) {
    (void)state;
    const char *dir = write_task();
    vmoer_bench_params p = small_params(dir);
    char *text = NULL;
    p.tests = "prefill,eval,finetune,calibrate";
    for (uint64_t at = 1; at <= 13; at += 6) { /* in the session, in either training */
        vmoer_hooks hooks = {.progress = stop_at, .user = &at};
        assert_int_equal(vmoer_bench(&p, &hooks, &text), VMOER_ERROR_INTERRUPTED);
        assert_null(text);
    }
    remove_task(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_peaks),          cmocka_unit_test(test_flops),
                                       cmocka_unit_test(test_rows),           cmocka_unit_test(test_choice),
                                       cmocka_unit_test(test_foreign_router), cmocka_unit_test(test_stops)};
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
