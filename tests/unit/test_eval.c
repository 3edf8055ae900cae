/* test_eval.c: an evaluation in lm-eval's format, its acc and acc_norm worked out again from what stands in
 * samples.jsonl and from the questions. */
#include "base/file.h"
#include "base/json.h"
#include "infer/session.h"
#include "model_fixture.h"
#include "vmoer/vmoer.h"

#include <ftw.h>
#include <sys/stat.h>

/* Choices of very different lengths, one of them not ASCII: sums of log-probabilities favour the short ones. */
enum { ITEMS = 24, CHOICES = 4 };
static const char *const choices[CHOICES] = {"a", "\xc3\xa9t\xc3\xa9", "a long answer of many characters",
                                             "some words"};
static const int characters[CHOICES] = {1, 3, 32, 10};

/* The place of the long answer, but for every third item. */
static int label_of(int i) { return i % 3 ? (2 + ITEMS - i) % CHOICES : i % CHOICES; }

/* what: the word before each question's number. */
static void write_task(const char *dir, const char *what) {
    char path[4400], text[ITEMS * 512];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/openbookqa", dir);
    OK(vm_make_dirs(path));
    for (int i = 0; i < ITEMS; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "{\"id\": \"q%d\", \"question\": {\"stem\": \"%s %d\", \"choices\": [", i, what, i);
        for (int c = 0; c < CHOICES; c++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s{\"text\": \"%s\", \"label\": \"%c\"}", c ? ", " : "",
                                  choices[(c + i) % CHOICES], 'A' + c);
        n += (size_t)snprintf(text + n, sizeof text - n, "]}, \"answerKey\": \"%c\"}\n", 'A' + label_of(i));
    }
    assert_true(n < sizeof text);
    snprintf(path, sizeof path, "%s/openbookqa/test.jsonl", dir);
    OK(vm_write_file(path, text, n));
}

static int with_hidden, per_pass; /* of the runs to come */

static vmoer_status run_with(const vmoer_model_params *load, const char *dir, const char *tasks, const char *format,
                             const char *run, char **text) {
    vmoer_eval_params p = vmoer_eval_params_default();
    char output[4400];
    snprintf(output, sizeof output, "%s/%s", dir, run);
    p.model = golden_path("tiny-moe.gguf");
    p.questions.data_dir = dir;
    p.questions.tasks = tasks;
    p.format = format;
    p.output_path = output;
    p.bootstrap = 50;
    p.hidden = with_hidden;
    p.batch_size = per_pass;
    p.load = *load;
    return vmoer_eval(&p, NULL, text);
}

static vmoer_status run_eval(const char *dir, const char *tasks, const char *format, const char *run, char **text) {
    vmoer_model_params load = vmoer_model_params_default();
    return run_with(&load, dir, tasks, format, run, text);
}

static json_t *evaluate(const char *dir, const char *format, const char *run) {
    char *text = NULL;
    OK(run_eval(dir, "openbookqa", format, run, &text));
    json_t *results = json_loads(text, 0, NULL);
    vmoer_free(text);
    return results;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw) {
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

static void test_acc_norm(void **state) {
    (void)state;
    char dir[4200], path[4400];
    snprintf(dir, sizeof dir, "%s", scratch_path("eval"));
    write_task(dir, "Number");
    json_t *results = evaluate(dir, "lm-eval", "run");
    const json_t *task = json_object_get(json_object_get(results, "results"), "openbookqa");
    int right = 0, right_norm = 0, differ = 0;
    snprintf(path, sizeof path, "%s/run/samples.jsonl", dir);
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    for (int i = 0; i < ITEMS; i++) {
        json_t *sample = json_loadf(in, JSON_DISABLE_EOF_CHECK, NULL);
        const json_t *scores = json_object_get(sample, "scores"), *chars = json_object_get(sample, "chars");
        assert_int_equal(json_array_size(chars), CHOICES);
        size_t best = 0, best_norm = 0;
        double score[CHOICES];
        for (size_t c = 0; c < CHOICES; c++) {
            int length = characters[(c + (size_t)i) % CHOICES];
            assert_int_equal(json_integer_value(json_array_get(chars, c)), length);
            score[c] = json_number_value(json_array_get(scores, c));
            if (score[c] > score[best]) best = c;
            int best_length = characters[(best_norm + (size_t)i) % CHOICES];
            if (score[c] / length > score[best_norm] / best_length) best_norm = c;
        }
        size_t label = (size_t)json_integer_value(json_object_get(sample, "label"));
        assert_int_equal(label, label_of(i));
        right += best == label, right_norm += best_norm == label, differ += best != best_norm;
        json_decref(sample);
    }
    fclose(in);
    assert_true(differ > 0 && right != right_norm); /* else nothing was tested */
    double acc_norm = json_number_value(json_object_get(task, "acc_norm"));
    assert_float_equal(json_number_value(json_object_get(task, "acc")), (double)right / ITEMS, 1e-12);
    assert_float_equal(acc_norm, (double)right_norm / ITEMS, 1e-12);
    const json_t *ci = json_object_get(json_object_get(task, "ci95"), "acc_norm");
    assert_true(json_number_value(json_array_get(ci, 0)) <= acc_norm &&
                acc_norm <= json_number_value(json_array_get(ci, 1)));
    json_decref(results);
    results = evaluate(dir, "cloze", "cloze");
    assert_null(json_object_get(json_object_get(json_object_get(results, "results"), "openbookqa"), "acc_norm"));
    json_decref(results);
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* Answers to questions that bear the same ids but say something else are not taken for answers to these. */
static void test_other_data(void **state) {
    (void)state;
    char dir[4200];
    snprintf(dir, sizeof dir, "%s", scratch_path("eval-other"));
    write_task(dir, "Number");
    json_t *before = evaluate(dir, "cloze", "run");
    json_t *again = evaluate(dir, "cloze", "run");
    assert_true(json_equal(before, again));
    json_decref(before);
    json_decref(again);
    assert_int_equal(run_eval(dir, "openbookqa,openbookqa", "cloze", "twice", NULL), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vmoer_last_error(), "openbookqa stands there twice"));
    assert_int_equal(run_eval(dir, "", "cloze", "none", NULL), VMOER_ERROR_ARGUMENT);
    write_task(dir, "Figure");
    assert_int_equal(run_eval(dir, "openbookqa", "cloze", "run", NULL), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vmoer_last_error(), "'q0' was another question"));
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* The state a question ends with is that of its tokens alone, whoever is in the pass; a run cut off between a row and
 * its line goes on. */
static void test_hidden(void **state) {
    (void)state;
    char dir[4200], rows[4400], lines[4400], file[4400], results[4400];
    snprintf(dir, sizeof dir, "%s", scratch_path("eval-hidden"));
    snprintf(rows, sizeof rows, "%s/run/hidden.openbookqa.f32", dir);
    snprintf(lines, sizeof lines, "%s/run/samples.jsonl", dir);
    snprintf(file, sizeof file, "%s/run/hidden.safetensors", dir);
    snprintf(results, sizeof results, "%s/run/results.json", dir);
    write_task(dir, "Number");
    with_hidden = 1;
    json_decref(evaluate(dir, "cloze", "run"));

    vm_session *s;
    vm_dataset *d;
    vm_safetensors *st;
    vm_session_options options = {.compute = VM_COMPUTE_BF16, .inference = -1, .samples = 1};
    OK(vm_session_open(golden_path("tiny-moe.gguf"), &options, &s));
    OK(vm_dataset_load(dir, "openbookqa", VM_SPLIT_TEST, &d));
    OK(vm_safetensors_open(file, &st));
    size_t D = (size_t)s->model->config.dim;
    const vm_st_tensor *t = vm_safetensors_find(st, "openbookqa");
    assert_non_null(t);
    assert_true(t->n_dims == 2 && t->shape[0] == ITEMS && t->shape[1] == (int64_t)D && strcmp(t->dtype, "F32") == 0);
    for (size_t i = 0; i < ITEMS; i++) {
        vm_prompt p;
        vm_batch batch;
        OK(vm_prompt_build(s->tokenizer, "openbookqa", vm_dataset_at(d, i), VM_FORMAT_CLOZE, &p));
        OK(vm_sequence_build(s->arena, p.ids, p.n_context, 0, &batch));
        OK(vm_pass_forward(s->pass, &batch, &(vm_pass_options){.sign = 1}, NULL, NULL, NULL));
        assert_memory_equal(t->data + i * D * sizeof(float), vm_pass_normed(s->pass), D * sizeof(float));
        vm_prompt_free(&p);
    }
    vm_safetensors_free(st);
    vm_dataset_free(d);
    vm_session_free(s);

    /* killed after the rows of a pass, before their lines; and by passes of another size */
    char before[65], after[65], result[65];
    struct stat info;
    OK(vm_sha256_file(file, before));
    OK(vm_sha256_file(results, result));
    vm_map whole;
    OK(vm_map_open(lines, &whole));
    const char *end = (const char *)whole.data;
    for (int i = 0; i < 7; i++) end = strchr(end, '\n') + 1;
    long keep = end - (const char *)whole.data;
    vm_map_close(&whole);
    assert_int_equal(truncate(lines, keep + 20), 0);
    assert_int_equal(truncate(rows, (long)(10 * D * sizeof(float)) + 5), 0);
    assert_int_equal(remove(file), 0);
    per_pass = 3;
    json_decref(evaluate(dir, "cloze", "run"));
    OK(vm_sha256_file(file, after));
    assert_string_equal(before, after);
    OK(vm_sha256_file(results, after));
    assert_string_equal(result, after);
    assert_int_equal(stat(rows, &info), 0);
    assert_int_equal(info.st_size, ITEMS * D * sizeof(float));

    /* rows that are gone are not made up, and a run without states is another run */
    assert_int_equal(truncate(rows, 8), 0);
    assert_int_equal(run_eval(dir, "openbookqa", "cloze", "run", NULL), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vmoer_last_error(), "fewer rows than samples.jsonl has items"));
    with_hidden = per_pass = 0;
    assert_int_equal(run_eval(dir, "openbookqa", "cloze", "run", NULL), VMOER_ERROR_MISMATCH);
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* A router of tiny-moe's layer 1 whose logits have a standard deviation of 2, and an output temperature. */
static void write_router(const char *path, double temperature) {
    vm_router_config config = {.kind = "vglr-mf",
                               .n_layers = 1,
                               .layers = {1},
                               .n_experts = 8,
                               .dim = 32,
                               .width = 4,
                               .prior_scale = 1,
                               .initial_scale = 2,
                               .temperature = temperature};
    vm_router_file file = {.base_name = "tiny-moe"};
    vm_router *router;
    vm_gguf *g;
    OK(vm_gguf_open(golden_path("tiny-moe.gguf"), &g));
    vm_model_fingerprint(g, file.base);
    vm_gguf_free(g);
    OK(vm_router_create(&config, &router));
    OK(vm_router_save(router, &file, path));
    vm_router_free(router);
}

static double signal_of(const json_t *sample, const char *name) {
    const json_t *value = json_object_get(json_object_get(sample, "signals"), name);
    return value ? json_number_value(value) : NAN;
}

/* By which way, and whether its samples carry the information between passes: none from one pass, some from four. */
static void test_information(void **state) {
    (void)state;
    static const struct {
        const char *run;
        vmoer_inference inference;
        int samples;
    } ways[] = {
        {"tilted", VMOER_INFERENCE_AUTO, 0}, {"one", VMOER_INFERENCE_PASSES, 1}, {"four", VMOER_INFERENCE_PASSES, 4}};
    char dir[4200], router[4400], path[4400];
    snprintf(dir, sizeof dir, "%s", scratch_path("eval-passes"));
    snprintf(router, sizeof router, "%s/router.safetensors", dir);
    write_task(dir, "Number");
    write_router(router, 2);
    for (int w = 0; w < 3; w++) {
        vmoer_model_params load = vmoer_model_params_default();
        load.router = router, load.inference = ways[w].inference, load.samples = ways[w].samples;
        OK(run_with(&load, dir, "openbookqa", "cloze", ways[w].run, NULL));
        snprintf(path, sizeof path, "%s/%s/samples.jsonl", dir, ways[w].run);
        FILE *in = fopen(path, "r");
        assert_non_null(in);
        for (int i = 0; i < ITEMS; i++) {
            json_t *sample = json_loadf(in, JSON_DISABLE_EOF_CHECK, NULL);
            const json_t *p = json_object_get(sample, "probabilities"), *score = json_object_get(sample, "scores");
            double total = signal_of(sample, "total_entropy"), expected = signal_of(sample, "expected_entropy"),
                   information = signal_of(sample, "mutual_information");
            assert_true(isnan(signal_of(sample, "routing_temperature")));
            assert_true(isnan(total) == (w == 0) && isnan(expected) == (w == 0) && isnan(information) == (w == 0));
            if (w) assert_true(total == signal_of(sample, "choice_entropy"));
            if (w == 1) assert_true(information == 0 && expected == total);
            if (w == 2) assert_true(information > 1e-9 && fabs(information - (total - expected)) < 1e-15);
            double ratio = log(json_number_value(json_array_get(p, 0)) / json_number_value(json_array_get(p, 1))),
                   scores = json_number_value(json_array_get(score, 0)) - json_number_value(json_array_get(score, 1));
            if (w < 2) assert_true(fabs(ratio - scores / 2) < 1e-9); /* the temperature is in */
            json_decref(sample);
        }
        fclose(in);
    }
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_acc_norm), cmocka_unit_test(test_other_data),
                                       cmocka_unit_test(test_hidden), cmocka_unit_test(test_information)};
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
