/* test_eval.c: an evaluation in lm-eval's format, its acc and acc_norm worked out again from what stands in
 * samples.jsonl and from the questions. */
#include "base/file.h"
#include "base/json.h"
#include "model_fixture.h"
#include "vmoer/vmoer.h"

#include <ftw.h>

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

static vmoer_status run_eval(const char *dir, const char *tasks, const char *format, const char *run, char **text) {
    vmoer_eval_params p = vmoer_eval_params_default();
    char output[4400];
    snprintf(output, sizeof output, "%s/%s", dir, run);
    p.model = golden_path("tiny-moe.gguf");
    p.questions.data_dir = dir;
    p.questions.tasks = tasks;
    p.format = format;
    p.output_path = output;
    p.bootstrap = 50;
    return vmoer_eval(&p, NULL, text);
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_acc_norm), cmocka_unit_test(test_other_data)};
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
