/* test_dataset.c: every format from text made here, the folders' layouts, what is refused and where the error points,
 * and the real files where they are at hand. */
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/dataset_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static vmoer_status parse_labelled(vm_dataset_format format, const char *text, size_t size, const char *labels,
                                   vm_dataset **out) {
    vm_dataset *d;
    *out = NULL;
    assert_int_equal(vm_dataset_create("task", &d), VMOER_OK);
    assert_int_equal(vm_dataset_has_labels(format), labels != NULL);
    size_t n_labels = labels ? strlen(labels) : 0;
    char *exact = malloc(size ? size : 1); /* a read past the end meets the sanitizer's red zone */
    char *right = malloc(n_labels ? n_labels : 1);
    memcpy(exact, text, size);
    if (labels) memcpy(right, labels, n_labels);
    vm_text_file file = {exact, size, "made.here"}, beside = {right, n_labels, "made-labels.lst"};
    vmoer_status status = vm_dataset_parse(d, format, &file, labels ? &beside : NULL);
    free(right);
    free(exact);
    if (status == VMOER_OK)
        *out = d;
    else
        vm_dataset_free(d);
    return status;
}

static vmoer_status parse(vm_dataset_format format, const char *text, size_t size, vm_dataset **out) {
    return parse_labelled(format, text, size, NULL, out);
}

static vm_dataset *parsed(vm_dataset_format format, const char *text) {
    vm_dataset *d;
    if (parse(format, text, strlen(text), &d) != VMOER_OK) fail_msg("%s", vm_error_text());
    return d;
}

static void assert_item(const vm_dataset *d, size_t i, const char *id, const char *stem, int n, int answer,
                        const char *right) {
    const vm_item *item = vm_dataset_at(d, i);
    assert_non_null(item);
    assert_string_equal(item->id, id);
    assert_string_equal(item->stem, stem);
    assert_int_equal(item->n_choices, n);
    assert_int_equal(item->answer, answer);
    assert_string_equal(item->choices[answer], right);
}

#define AI2(stem, key)                                                                               \
    "{\"id\": \"q1\", \"fact1\": 5, \"question\": {\"stem\": \"" stem                                \
    "\", \"choices\": [{\"text\": \"one\", \"label\": \"1\"}, {\"text\": \"tw\\u00f6\", \"label\": " \
    "\"2\"}, {\"text\": \"three\", \"label\": \"3\"}]}, \"answerKey\": \"" key "\"}"

static void test_ai2(void **state) {
    (void)state;
    vm_dataset *d = parsed(VM_DATASET_AI2, "\n" AI2("Count?", "2") "\r\n  \n" AI2("Again?", "3"));
    assert_int_equal(vm_dataset_count(d), 2);
    assert_item(d, 0, "q1", "Count?", 3, 1, "tw\xc3\xb6");
    assert_item(d, 1, "q1", "Again?", 3, 2, "three");
    assert_null(vm_dataset_at(d, 2));
    vm_dataset_free(d);
}

static void test_medmcqa(void **state) {
    (void)state;
    vm_dataset *d = parsed(VM_DATASET_MEDMCQA, "{\"question\":\"Q\",\"exp\":null,\"cop\":4,\"opa\":\"a\",\"opb\":\"b\","
                                               "\"opc\":\"c\",\"opd\":\"d\",\"choice_type\":\"multi\"}");
    assert_item(d, 0, "task-1", "Q", 4, 3, "d");
    vm_dataset_free(d);
}

static void test_user(void **state) {
    (void)state;
    vm_dataset *d = parsed(VM_DATASET_USER, "{\"question\":\"Q\",\"choices\":[\"x\",\"y\"],\"answer\":0}\n{\"id\":"
                                            "\"mine\",\"question\":\"R\",\"choices\":[\"x\",\"y\"],\"answer\":1}\n");
    assert_item(d, 0, "task-1", "Q", 2, 0, "x");
    assert_item(d, 1, "mine", "R", 2, 1, "y");
    vm_dataset_free(d);
}

#define PIQA(goal) "{\"id\": 7, \"goal\": \"" goal "\", \"sol1\": \"with a rag\", \"sol2\": \"with soup\"}\n"
#define SIQA(question)                                              \
    "{\"context\": \"Kim lost a shoe.\", \"question\": \"" question \
    "\", \"answerA\": \"look for it\", \"answerB\": \"sing\", \"answerC\": \"be glad\"}\n"

static void test_labelled(void **state) {
    (void)state;
    vm_dataset *d;
    const char *pans = PIQA("clean a pan") "\n" PIQA("dry a cup");
    assert_int_equal(parse_labelled(VM_DATASET_PIQA, pans, strlen(pans), "1\r\n0\n\n", &d), VMOER_OK);
    assert_int_equal(vm_dataset_count(d), 2);
    assert_item(d, 0, "task-1", "clean a pan", 2, 1, "with soup");
    assert_item(d, 1, "task-3", "dry a cup", 2, 0, "with a rag");
    vm_dataset_free(d);
    const char *text = SIQA("What next?") SIQA("How is Kim?") SIQA("Why?");
    assert_int_equal(parse_labelled(VM_DATASET_SIQA, text, strlen(text), "1\n3\n2", &d), VMOER_OK);
    assert_item(d, 0, "task-1", "Kim lost a shoe. What next?", 3, 0, "look for it");
    assert_item(d, 1, "task-2", "Kim lost a shoe. How is Kim?", 3, 2, "be glad");
    assert_item(d, 2, "task-3", "Kim lost a shoe. Why?", 3, 1, "sing");
    vm_dataset_free(d);
}

static void test_labels_refused(void **state) {
    (void)state;
    static const struct {
        vm_dataset_format format;
        const char *text, *labels, *says;
        vmoer_status status;
    } bad[] = {
        {VM_DATASET_PIQA, PIQA("a") PIQA("b"), "1\n", "made.here:2: no label for it in made-labels.lst",
         VMOER_ERROR_DATA},
        {VM_DATASET_PIQA, PIQA("a"), "1\n\n0\n", "made-labels.lst:3: a label without a question", VMOER_ERROR_DATA},
        {VM_DATASET_PIQA, PIQA("a"), "2\n", "made.here:1: made-labels.lst:1: the label is not 0 to 1",
         VMOER_ERROR_DATA},
        {VM_DATASET_PIQA, PIQA("a"), "01\n", "made-labels.lst:1: the label is not 0 to 1", VMOER_ERROR_DATA},
        {VM_DATASET_PIQA, PIQA("a"), "/", "not 0 to 1", VMOER_ERROR_DATA},
        {VM_DATASET_PIQA, "{\"goal\": \"a\", \"sol1\": \"x\"}\n", "1\n", "made.here:1: no text \"sol2\"",
         VMOER_ERROR_FORMAT},
        {VM_DATASET_PIQA, "{\"sol2\": \"y\", \"sol1\": \"x\"}\n", "1\n", "no text \"goal\"", VMOER_ERROR_FORMAT},
        {VM_DATASET_SIQA, SIQA("a"), "0\n", "made-labels.lst:1: the label is not 1 to 3", VMOER_ERROR_DATA},
        {VM_DATASET_SIQA, SIQA("a"), "4\n", "the label is not 1 to 3", VMOER_ERROR_DATA},
        {VM_DATASET_SIQA, SIQA("a"), "B\n", "the label is not 1 to 3", VMOER_ERROR_DATA},
        {VM_DATASET_SIQA, SIQA("a"), "", "made.here:1: no label", VMOER_ERROR_DATA},
        {VM_DATASET_SIQA, "{\"question\": \"a\"}\n", "1\n", "made.here:1: no text \"context\"", VMOER_ERROR_FORMAT},
        {VM_DATASET_SIQA, "{\"context\": \"c\", \"question\": \"a\", \"answerA\": \"x\", \"answerC\": \"z\"}\n", "1\n",
         "no text \"answerB\"", VMOER_ERROR_FORMAT},
    };
    vm_dataset *d;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(parse_labelled(bad[i].format, bad[i].text, strlen(bad[i].text), bad[i].labels, &d),
                         bad[i].status);
        if (!strstr(vm_error_text(), bad[i].says)) fail_msg("\"%s\" does not say \"%s\"", vm_error_text(), bad[i].says);
    }
}

/* A letter each: 26 are possible, 27 are not. */
static void test_most_choices(void **state) {
    (void)state;
    char text[1024] = "{\"question\": \"Q\", \"answer\": 25, \"choices\": [";
    for (int c = 0; c < 26; c++) snprintf(text + strlen(text), 16, "\"c%d\"%s", c, c < 25 ? ", " : "]}");
    vm_dataset *d = parsed(VM_DATASET_USER, text);
    assert_item(d, 0, "task-1", "Q", 26, 25, "c25");
    vm_dataset_free(d);
    strcpy(strchr(text, ']'), ", \"c26\"]}");
    assert_int_equal(parse(VM_DATASET_USER, text, strlen(text), &d), VMOER_ERROR_LIMIT);
    assert_non_null(strstr(vm_error_text(), "27 choices, at most 26"));
}

/* The order of choices is a matter of the question alone, and not always the same. */
static void test_sciq(void **state) {
    (void)state;
    char text[8192] = "[";
    for (int i = 0; i < 24; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used,
                 "%s{\"question\":\"Q%d\",\"distractor3\":\"z\",\"distractor1\":\"x\",\"distractor2\":\"y\",\"correct_"
                 "answer\":\"right\",\"support\":\"\"}",
                 i ? ", " : "", i);
    }
    strcat(text, "]");
    vm_dataset *d = parsed(VM_DATASET_SCIQ, text), *again = parsed(VM_DATASET_SCIQ, text);
    int seen[4] = {0};
    for (size_t i = 0; i < 24; i++) {
        const vm_item *item = vm_dataset_at(d, i);
        assert_string_equal(item->choices[item->answer], "right");
        assert_int_equal(item->answer, vm_dataset_at(again, i)->answer);
        seen[item->answer]++;
        int letters = 0;
        for (int c = 0; c < 4; c++) letters += item->choices[c][0];
        assert_int_equal(letters, 'r' + 'x' + 'y' + 'z');
    }
    for (int c = 0; c < 4; c++) assert_in_range(seen[c], 1, 15);
    vm_dataset_free(again);
    vm_dataset_free(d);
}

static void test_csv(void **state) {
    (void)state;
    vm_dataset *d =
        parsed(VM_DATASET_MMLU,
               "\"Say \"\"no\"\",\nor not?\",a,\"b, c\",5'6\" tall,d,B\r\nPlain?,1,2,3,\"4\",\"D\"\r\nLast?,1,2,3,4,A");
    assert_int_equal(vm_dataset_count(d), 3);
    assert_item(d, 0, "task-1", "Say \"no\",\nor not?", 4, 1, "b, c");
    assert_string_equal(vm_dataset_at(d, 0)->choices[2], "5'6\" tall");
    assert_item(d, 1, "task-3", "Plain?", 4, 3, "4");
    assert_item(d, 2, "task-4", "Last?", 4, 0, "1");
    vm_dataset_free(d);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        vm_dataset_format format;
        const char *text, *says;
        vmoer_status status;
    } bad[] = {
        {VM_DATASET_AI2, "{}\n", "made.here:1: ", VMOER_ERROR_FORMAT},
        {VM_DATASET_AI2, AI2("ok", "1") "\n\n" AI2("x", "4"), "made.here:3: answerKey \"4\"", VMOER_ERROR_DATA},
        {VM_DATASET_AI2, AI2("ok", "1") "\n{\"id\": ", "made.here:2: ", VMOER_ERROR_FORMAT},
        {VM_DATASET_AI2, AI2("  ", "1"), "question is empty", VMOER_ERROR_DATA},
        {VM_DATASET_AI2, AI2("a\\u0000b", "1"), "made.here:1", VMOER_ERROR_FORMAT},
        {VM_DATASET_AI2, AI2("a\\ud800b", "1"), "made.here:1", VMOER_ERROR_FORMAT},
        {VM_DATASET_AI2,
         AI2("a\xff"
             "b",
             "1"),
         "made.here:1", VMOER_ERROR_FORMAT},
        {VM_DATASET_AI2,
         "{\"question\": {\"stem\": \"s\", \"choices\": [{\"text\": \"a\", \"label\": \"A\"}, {\"text\": \"b\", "
         "\"label\": \"A\"}]}, \"answerKey\": \"A\"}",
         "two choices are labelled \"A\"", VMOER_ERROR_DATA},
        {VM_DATASET_AI2,
         "{\"question\": {\"stem\": \"s\", \"choices\": [{\"text\": \"a\", \"label\": \"A\"}]}, \"answerKey\": \"A\"}",
         "1 choices", VMOER_ERROR_DATA},
        {VM_DATASET_AI2, "[1]", "not a JSON object", VMOER_ERROR_FORMAT},
        {VM_DATASET_MEDMCQA, "{\"question\":\"Q\",\"cop\":0,\"opa\":\"a\",\"opb\":\"b\",\"opc\":\"c\",\"opd\":\"d\"}",
         "\"cop\"", VMOER_ERROR_DATA},
        {VM_DATASET_MEDMCQA, "{\"question\":\"Q\",\"cop\":5,\"opa\":\"a\",\"opb\":\"b\",\"opc\":\"c\",\"opd\":\"d\"}",
         "\"cop\"", VMOER_ERROR_DATA},
        {VM_DATASET_MEDMCQA, "{\"question\":\"Q\",\"opa\":\"a\",\"opb\":\"b\",\"opc\":\"c\",\"opd\":\"d\"}", "\"cop\"",
         VMOER_ERROR_FORMAT},
        {VM_DATASET_MEDMCQA, "{\"question\":\"Q\",\"cop\":1,\"opa\":\"a\",\"opb\":\"b\",\"opc\":\"c\",\"opd\":\"\"}",
         "choice 3: the choice is empty", VMOER_ERROR_DATA},
        {VM_DATASET_MEDMCQA, "{\"question\":\"Q\",\"cop\":1,\"opa\":\"a\",\"opb\":\"b\",\"opc\":\"c\",\"opd\":null}",
         "\"opd\"", VMOER_ERROR_FORMAT},
        {VM_DATASET_USER, "{\"question\":\"Q\",\"choices\":[\"x\",\"y\"],\"answer\":2}", "\"answer\"",
         VMOER_ERROR_DATA},
        {VM_DATASET_USER, "{\"question\":\"Q\",\"choices\":[\"x\",\"y\"],\"answer\":-1}", "\"answer\"",
         VMOER_ERROR_DATA},
        {VM_DATASET_USER, "{\"question\":\"Q\",\"choices\":[\"x\",\"y\"],\"answer\":\"x\"}", "\"answer\"",
         VMOER_ERROR_FORMAT},
        {VM_DATASET_USER, "{\"question\":\"Q\",\"choices\":[\"x\",7],\"answer\":0}", "choice 1 is not a text",
         VMOER_ERROR_FORMAT},
        {VM_DATASET_USER, "{\"question\":\"Q\",\"choices\":\"xy\",\"answer\":0}", "\"choices\"", VMOER_ERROR_FORMAT},
        {VM_DATASET_SCIQ, "{}", "not a JSON list", VMOER_ERROR_FORMAT},
        {VM_DATASET_SCIQ, "[{\"question\":\"q\",\"distractor1\":\"x\",\"distractor2\":\"y\",\"distractor3\":\"z\"}]",
         "item 1: no text \"correct_answer\"", VMOER_ERROR_FORMAT},
        {VM_DATASET_MMLU, "Q?,1,2,3,4,A\n\"Q\n?\",1,2,3,4\nx", "made.here:2: 5 fields", VMOER_ERROR_FORMAT},
        {VM_DATASET_MMLU, "Q?,1,2,3,4,A,7\n", "more than 6", VMOER_ERROR_FORMAT},
        {VM_DATASET_MMLU, "\"Q\n?\",1,2,3,4,A\nQ?,1,2,3,4,E\n", "made.here:3: the answer \"E\"", VMOER_ERROR_DATA},
        {VM_DATASET_MMLU, "Q?,1,2,3,4,\"A\"B\n", "after a quoted field", VMOER_ERROR_FORMAT},
        {VM_DATASET_MMLU, "Q?,1,2,3,4,\"A", "does not end", VMOER_ERROR_FORMAT},
        {VM_DATASET_MMLU, "Q?,1,\xc3(,3,4,A", "choice 1: the choice is not UTF-8 at byte 0", VMOER_ERROR_DATA},
    };
    vm_dataset *d;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(parse(bad[i].format, bad[i].text, strlen(bad[i].text), &d), bad[i].status);
        if (!strstr(vm_error_text(), bad[i].says) || !strstr(vm_error_text(), "made.here"))
            fail_msg("\"%s\" does not say \"%s\"", vm_error_text(), bad[i].says);
    }
    assert_int_equal(parse(VM_DATASET_MMLU, "Q\0?,1,2,3,4,A\n", 14, &d), VMOER_ERROR_DATA);
    assert_non_null(strstr(vm_error_text(), "NUL"));
    size_t size = (1 << 20) + 100;
    char *line = malloc(size);
    memset(line, 'x', size);
    assert_int_equal(parse(VM_DATASET_USER, line, size, &d), VMOER_ERROR_LIMIT);
    assert_int_equal(parse(VM_DATASET_MMLU, line, size, &d), VMOER_ERROR_LIMIT);
    free(line);
}

static uint64_t hash_of(const char *stem, const char *answer) {
    uint64_t hash;
    assert_int_equal(vm_item_hash(stem, answer, &hash), VMOER_OK);
    return hash;
}

static void test_hash(void **state) {
    (void)state;
    assert_int_equal(hash_of("The sun", "is hot"), UINT64_C(0x4ebc1cf31677af66)); /* sha256("the sun\nis hot") */
    assert_int_equal(hash_of("  the\t\nSUN ", "Is\xc2\xa0HOT"), hash_of("The sun", "is hot"));
    assert_int_not_equal(hash_of("the sun is", "hot"), hash_of("the sun", "is hot"));
    assert_int_not_equal(hash_of("thesun", "is hot"), hash_of("the sun", "is hot"));
    assert_int_equal(hash_of("", ""), UINT64_C(0x01ba4719c80b6fe9)); /* sha256("\n") */
}

static void test_cuts(void **state) {
    (void)state;
    char text[4096] = "";
    for (int i = 0; i < 20; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "{\"question\":\"Q%d\",\"choices\":[\"x\",\"y\"%s],\"answer\":0}\n",
                 i < 18 ? i : 5, i % 4 ? "" : ",\"z\"");
    }
    vm_dataset *d = parsed(VM_DATASET_USER, text);
    assert_int_equal(vm_dataset_keep_choices(d, 2), 5);
    assert_int_equal(vm_dataset_count(d), 15);
    assert_string_equal(vm_dataset_at(d, 0)->stem, "Q1");
    vm_dataset_limit(d, 100);
    assert_int_equal(vm_dataset_count(d), 15);
    vm_dataset_limit(d, 14);
    assert_int_equal(vm_dataset_count(d), 14);
    vm_dataset_free(d);

    for (size_t n = 1; n <= 21; n++) { /* Q5 is there three times: ties in the hash */
        d = parsed(VM_DATASET_USER, text);
        vm_dataset *all = parsed(VM_DATASET_USER, text);
        vm_dataset_sample(d, n);
        assert_int_equal(vm_dataset_count(d), n < 20 ? n : 20);
        uint64_t largest = 0;
        size_t below = 0, at = 0;
        for (size_t i = 0; i < vm_dataset_count(d); i++) {
            if (vm_dataset_at(d, i)->hash > largest) largest = vm_dataset_at(d, i)->hash;
            while (at < 20 && strcmp(vm_dataset_at(all, at)->id, vm_dataset_at(d, i)->id) != 0) at++;
            assert_true(at < 20); /* in the file's order */
        }
        for (size_t i = 0; i < 20; i++) below += vm_dataset_at(all, i)->hash < largest;
        assert_true(below < n);
        vm_dataset_free(all);
        vm_dataset_free(d);
    }
}

/* ---- folders ---- */
static char folder[] = "/tmp/vmoer-test-dataset-XXXXXX";

static void write_file(const char *name, const char *text) {
    char path[512], parent[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(parent, sizeof parent, "%.*s", (int)(strrchr(path, '/') - path), path);
    assert_int_equal(vm_make_dirs(parent), VMOER_OK);
    assert_int_equal(vm_write_file(path, text, strlen(text)), VMOER_OK);
}

static void remove_folder(void) {
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

static void test_layouts(void **state) {
    (void)state;
    vm_dataset *d, *rest;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(vm_dataset_load(folder, "openbookqa", VM_SPLIT_TEST, &d), VMOER_ERROR_IO);
    assert_non_null(strstr(vm_error_text(), "openbookqa/test.jsonl"));
    assert_non_null(strstr(vm_error_text(), "OpenBookQA-V1-Sep2018/Data/Main/test.jsonl"));
    const char *const unknown[] = {"obqa", "", "mmlu_", "mmlu_../x", "mmlu_A", "ARC_easy"};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(vm_dataset_load(folder, unknown[i], VM_SPLIT_TEST, &d), VMOER_ERROR_ARGUMENT);
        assert_non_null(strstr(vm_error_text(), "arc_challenge"));
    }
    assert_int_equal(vm_dataset_load(folder, "mmlu_law", VM_SPLIT_TRAIN, &d), VMOER_ERROR_IO);
    assert_non_null(strstr(vm_error_text(), "mmlu/val/law_val.csv, mmlu/data/val/law_val.csv, data/val/law_val.csv, "
                                            "val/law_val.csv"));
    assert_int_equal(vm_dataset_load(folder, "piqa", VM_SPLIT_TRAIN, &d), VMOER_ERROR_IO);
    assert_non_null(strstr(vm_error_text(), "none of the files piqa/train.jsonl, physicaliqa-train-dev/train.jsonl"));

    /* the official archive first: train alone is the pool; then the plain layout, which wins and pools dev */
    write_file("OpenBookQA-V1-Sep2018/Data/Main/test.jsonl", AI2("archive", "1"));
    assert_int_equal(vm_dataset_load(folder, "openbookqa", VM_SPLIT_TEST, &d), VMOER_OK);
    assert_string_equal(vm_dataset_task(d), "openbookqa");
    assert_item(d, 0, "q1", "archive", 3, 0, "one");
    vm_dataset_free(d);
    write_file("openbookqa/test.jsonl", AI2("plain", "1"));
    write_file("openbookqa/train.jsonl", AI2("whales swim", "1") "\n" AI2("birds fly", "1") "\n" AI2(
                                             "trees grow", "1") "\n" AI2("stones sink", "2"));
    assert_int_equal(vm_dataset_load(folder, "openbookqa", VM_SPLIT_TRAIN, &d), VMOER_ERROR_IO); /* no dev.jsonl */
    write_file("openbookqa/dev.jsonl",
               AI2("rivers flow", "3") "\n" AI2("clouds rain", "2") "\n" AI2("magnets pull", "3"));
    assert_int_equal(vm_dataset_load(folder, "openbookqa", VM_SPLIT_TEST, &d), VMOER_OK);
    assert_item(d, 0, "q1", "plain", 3, 0, "one");
    vm_dataset_free(d);
    assert_int_equal(vm_dataset_load(folder, "openbookqa", VM_SPLIT_TRAIN, &d), VMOER_OK);
    assert_int_equal(vm_dataset_load(folder, "openbookqa", VM_SPLIT_HELDOUT, &rest), VMOER_OK);
    assert_int_equal(vm_dataset_count(d), 6);
    assert_int_equal(vm_dataset_count(rest), 1);
    vm_dataset_free(d);
    vm_dataset_free(rest);

    write_file("mmlu/test/world_law_test.csv", "Q?,1,2,3,4,A\n");
    assert_int_equal(vm_dataset_load(folder, "mmlu_world_law", VM_SPLIT_TEST, &d), VMOER_OK);
    assert_item(d, 0, "mmlu_world_law-1", "Q?", 4, 0, "1");
    vm_dataset_free(d);
    static const char *const trees[] = {"mmlu", "mmlu/data", "data",
                                        "."}; /* the last first: each comes before the next */
    for (int i = 3; i >= 0; i--) {
        char name[64], stem[32];
        snprintf(stem, sizeof stem, "tree %d,1,2,3,4,C\n", i);
        snprintf(name, sizeof name, "%s/test/heat_test.csv", trees[i]);
        write_file(name, stem);
        snprintf(name, sizeof name, "%s/val/heat_val.csv", trees[i]);
        write_file(name, "whales swim?,1,2,3,4,A\nbirds fly?,1,2,3,4,B\n");
        snprintf(name, sizeof name, "%s/dev/heat_dev.csv", trees[i]);
        write_file(name, "stones sink?,1,2,3,4,A\n");
        assert_int_equal(vm_dataset_load(folder, "mmlu_heat", VM_SPLIT_TEST, &d), VMOER_OK);
        stem[strcspn(stem, ",")] = '\0';
        assert_item(d, 0, "mmlu_heat-1", stem, 4, 2, "3");
        vm_dataset_free(d);
        assert_int_equal(vm_dataset_load(folder, "mmlu_heat", VM_SPLIT_TRAIN, &d), VMOER_OK);
        assert_int_equal(vm_dataset_load(folder, "mmlu_heat", VM_SPLIT_HELDOUT, &rest), VMOER_ERROR_DATA);
        assert_non_null(strstr(vm_error_text(), "dev/heat_dev.csv: too few questions"));
        assert_int_equal(vm_dataset_count(d), 3);
        vm_dataset_free(d);
    }

    /* official archives unpacked where they lie; then the plain layout */
    static const struct {
        const char *task, *archive, *plain, *text, *stem;
    } labelled[] = {
        {"piqa", "physicaliqa-train-dev/dev", "piqa/valid", PIQA("clean a pan"), "clean a pan"},
        {"social_iqa", "socialiqa-train-dev/dev", "social_iqa/dev", SIQA("Why?"), "Kim lost a shoe. Why?"},
    };
    for (int i = 0; i < 2; i++) {
        const char *const stems[] = {labelled[i].archive, labelled[i].plain};
        for (int k = 0; k < 2; k++) {
            char name[64];
            snprintf(name, sizeof name, "%s.jsonl", stems[k]);
            write_file(name, labelled[i].text);
            assert_int_equal(vm_dataset_load(folder, labelled[i].task, VM_SPLIT_TEST, &d), VMOER_ERROR_IO);
            snprintf(name, sizeof name, "%s-labels.lst", stems[k]);
            assert_non_null(strstr(vm_error_text(), name)); /* says which file is missing */
            write_file(name, "1\n");
            assert_int_equal(vm_dataset_load(folder, labelled[i].task, VM_SPLIT_TEST, &d), VMOER_OK);
            assert_string_equal(vm_dataset_at(d, 0)->stem, labelled[i].stem);
            assert_int_equal(vm_dataset_at(d, 0)->answer, i == 0); /* piqa's 1 is the second, Social IQa's the first */
            vm_dataset_free(d);
        }
    }
    write_file("medmcqa/dev.json", "\n");
    assert_int_equal(vm_dataset_load(folder, "medmcqa", VM_SPLIT_TEST, &d), VMOER_ERROR_DATA);
    assert_non_null(strstr(vm_error_text(), "no items"));
    write_file("arc/ARC-Easy-Test.jsonl", "{}");
    assert_int_equal(vm_dataset_load(folder, "arc_easy", VM_SPLIT_TEST, &d), VMOER_ERROR_FORMAT);
    assert_non_null(strstr(vm_error_text(), "arc/ARC-Easy-Test.jsonl:1: "));

    char path[512];
    snprintf(path, sizeof path, "%s/mine.jsonl", folder);
    assert_int_equal(vm_dataset_load_file(path, &d), VMOER_ERROR_IO);
    write_file("mine.jsonl", "{\"question\":\"Q\",\"choices\":[\"x\",\"y\"],\"answer\":0}\n");
    assert_int_equal(vm_dataset_load_file(path, &d), VMOER_OK);
    assert_item(d, 0, "file-1", "Q", 2, 0, "x");
    vm_dataset_free(d);
    write_file("mine.jsonl", "");
    assert_int_equal(vm_dataset_load_file(path, &d), VMOER_ERROR_DATA);
    remove_folder();
}

/* ---- the real files ---- */
static void test_real_data(void **state) {
    (void)state;
    static const struct {
        const char *task;
        vm_split split;
        size_t count, four; /* items, those with four choices */
    } known[] = {
        {"openbookqa", VM_SPLIT_TEST, 500, 500},
        {"openbookqa", VM_SPLIT_TRAIN, 4213, 4213},
        {"openbookqa", VM_SPLIT_HELDOUT, 744, 744},
        {"arc_easy", VM_SPLIT_TEST, 2376, 2365},
        {"arc_challenge", VM_SPLIT_TEST, 1172, 1165},
        {"medmcqa", VM_SPLIT_TEST, 4183, 4183},
        {"mmlu_professional_law", VM_SPLIT_TEST, 1534, 1534},
    };
    const char *dir = getenv("VMOER_DATA");
    char path[4096];
    if (dir) snprintf(path, sizeof path, "%s/openbookqa/test.jsonl", dir);
    if (!dir || !vm_file_exists(path)) skip();
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        vm_dataset *d;
        if (vm_dataset_load(dir, known[i].task, known[i].split, &d) != VMOER_OK) fail_msg("%s", vm_error_text());
        assert_int_equal(vm_dataset_count(d), known[i].count);
        assert_int_equal(vm_dataset_keep_choices(d, 4), known[i].count - known[i].four);
        vm_dataset_free(d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ai2),          cmocka_unit_test(test_medmcqa),  cmocka_unit_test(test_user),
        cmocka_unit_test(test_sciq),         cmocka_unit_test(test_labelled), cmocka_unit_test(test_labels_refused),
        cmocka_unit_test(test_most_choices), cmocka_unit_test(test_csv),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hash),         cmocka_unit_test(test_cuts),     cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_real_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
