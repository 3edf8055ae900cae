/* test_heldout.c: the split on questions made here, and on OpenBookQA where the data is at hand. */
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "io/dataset_internal.h"
#include "io/heldout.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static vm_item make(const char *stem, const char *answer) {
    vm_item item = {.id = "x", .stem = stem, .n_choices = 2, .choices = {answer, "nothing"}, .answer = 0};
    assert_int_equal(vm_item_hash(stem, answer, &item.hash), VMOER_OK);
    return item;
}

static float similarity(const char *stem_a, const char *answer_a, const char *stem_b, const char *answer_b) {
    vm_item a = make(stem_a, answer_a), b = make(stem_b, answer_b);
    const vm_item *query = &a, *pool = &b;
    float s = -1, back = -1;
    assert_int_equal(vm_heldout_similarity(&query, 1, &pool, 1, &s), VMOER_OK);
    assert_int_equal(vm_heldout_similarity(&pool, 1, &query, 1, &back), VMOER_OK);
    assert_true(s == back);
    return s;
}

static void test_similarity(void **state) {
    (void)state;
    assert_float_equal(similarity("The sun melts the ice", "water", "Melting ICE, the sun's!", "Water"), 1, 0);
    assert_float_equal(similarity("frogs eat flies", "insects", "a frog in ponds", "swamp"), 1. / 6,
                       1e-6); /* frog | eat fly insect pond swamp */
    assert_float_equal(similarity("what is the", "of it", "what is the", "of it"), 0, 0);     /* no content word */
    assert_float_equal(similarity("glass", "gas", "glasses", "classes"), 1. / 3, 1e-6);       /* glass | gas class */
    assert_float_equal(similarity("Étoile x", "filante", "étoile", "filante"), 1. / 3, 1e-6); /* only ASCII is folded */
    vm_item a = make("rivers carry sand", "erosion"), b = make("rivers carry boats", "trade"),
            c = make("rivers carry sand", "erosion");
    const vm_item *pool[2] = {&b, &c}, *query = &a;
    float s;
    assert_int_equal(vm_heldout_similarity(&query, 1, pool, 2, &s), VMOER_OK);
    assert_float_equal(s, 1, 0);
    assert_int_equal(vm_heldout_similarity(&query, 1, pool, 0, &s), VMOER_OK);
    assert_float_equal(s, 0, 0);
}

/* Topics of five questions each that share most words; some questions without any content word, twice. */
enum { TOPICS = 200, EACH = 5, N = TOPICS * EACH };
static char stems[N][64], answers[N][32];

static void make_topics(vm_item items[N]) {
    for (int i = 0; i < N; i++) {
        int topic = i / EACH;
        snprintf(stems[i], sizeof stems[i], "alpha%d beta%d gamma%d delta%d", topic, topic, topic, i);
        snprintf(answers[i], sizeof answers[i], "omega%d", topic);
        if (topic == 0)
            snprintf(stems[i], sizeof stems[i], "what is it %.*s", i / 2, "????"),
                snprintf(answers[i], sizeof answers[i], "a");
        items[i] = make(stems[i], answers[i]);
    }
}

static void test_whole_clusters(void **state) {
    (void)state;
    static vm_item items[N];
    const vm_item *list[N], *shuffled[N];
    bool held[N], again[N];
    int32_t order[N];
    size_t count = 0;
    make_topics(items);
    for (int i = 0; i < N; i++) list[i] = &items[i], order[i] = i;
    assert_int_equal(vm_heldout_split(list, N, held), VMOER_OK);
    for (int i = 0; i < N; i++) {
        count += held[i];
        if (i >= EACH && i % EACH) assert_int_equal(held[i], held[i - 1]);
        if (i % 2 && i < 4) assert_int_equal(held[i], held[i - 1]); /* the same wordless question */
    }
    assert_in_range(count, N * 15 / 100, N * 15 / 100 + EACH);
    vm_rng rng = vm_rng_start(3, VM_RNG_SHUFFLE, 0);
    vm_rng_shuffle(&rng, order, N);
    for (int i = 0; i < N; i++) shuffled[i] = &items[order[i]];
    assert_int_equal(vm_heldout_split(shuffled, N, again), VMOER_OK);
    for (int i = 0; i < N; i++) assert_int_equal(again[i], held[order[i]]);
}

/* A cluster of a tenth of the items stays in training, whole; the share of held-out items stays what it is. */
static void test_giant_cluster(void **state) {
    (void)state;
    static vm_item items[N];
    const vm_item *list[N];
    bool held[N];
    size_t count = 0;
    make_topics(items);
    for (int i = 0; i < N / 10; i++) {
        snprintf(stems[i], sizeof stems[i], "giant cluster topic number%d", i);
        items[i] = make(stems[i], "same answer");
    }
    for (int i = 0; i < N; i++) list[i] = &items[i];
    assert_int_equal(vm_heldout_split(list, N, held), VMOER_OK);
    for (int i = 0; i < N; i++) {
        count += held[i];
        if (i < N / 10) assert_false(held[i]);
    }
    assert_in_range(count, N * 15 / 100, N * 15 / 100 + EACH);
}

static void test_few_items(void **state) {
    (void)state;
    vm_item items[10];
    const vm_item *list[10];
    bool held[10];
    static char names[10][16];
    for (int i = 0; i < 10; i++) {
        snprintf(names[i], sizeof names[i], "word%d", i);
        items[i] = make(names[i], "z");
        list[i] = &items[i];
    }
    assert_int_equal(vm_heldout_split(list, 0, held), VMOER_OK);
    assert_int_equal(vm_heldout_split(list, 10, held), VMOER_OK);
    size_t count = 0;
    for (int i = 0; i < 10; i++) count += held[i];
    assert_int_equal(count, 2);
}

/* The claims of docs/HELDOUT.md. */
static void test_openbookqa(void **state) {
    (void)state;
    const char *dir = getenv("VMOER_DATA");
    vm_dataset *d[3];
    const vm_item **items[3];
    float *s = NULL;
    if (!dir) skip();
    const vm_split splits[3] = {VM_SPLIT_TRAIN, VM_SPLIT_HELDOUT, VM_SPLIT_TEST};
    for (int k = 0; k < 3; k++) {
        if (vm_dataset_load(dir, "openbookqa", splits[k], &d[k]) != VMOER_OK) {
            if (k == 0) skip();
            fail_msg("%s", vm_error_text());
        }
        items[k] = malloc(vm_dataset_count(d[k]) * sizeof **items);
        for (size_t i = 0; i < vm_dataset_count(d[k]); i++) items[k][i] = vm_dataset_at(d[k], i);
    }
    size_t n_train = vm_dataset_count(d[0]), n_held = vm_dataset_count(d[1]), n_test = vm_dataset_count(d[2]);
    assert_int_equal(n_train + n_held, 4957);
    assert_int_equal(n_held, 744);
    assert_int_equal(n_test, 500);
    double mean[2] = {0, 0}, largest = 0;
    for (int k = 0; k < 2; k++) {
        size_t n = k ? n_test : n_held;
        s = malloc(n * sizeof *s);
        assert_int_equal(vm_heldout_similarity(items[k + 1], n, items[0], n_train, s), VMOER_OK);
        for (size_t i = 0; i < n; i++) {
            mean[k] += s[i] / (double)n;
            if (!k && s[i] > largest) largest = s[i];
        }
        free(s);
    }
    assert_true(largest <= 1. / 3 + 1e-6);
    assert_float_equal(mean[0], .223, .001);
    assert_float_equal(mean[1], .274, .001);
    /* which questions these are, whatever file they came from: the sum of their hashes */
    uint64_t sum = 0;
    for (size_t i = 0; i < n_held; i++) sum += items[1][i]->hash;
    assert_int_equal(sum, UINT64_C(0x291685bcfefdfadc));
    for (int k = 0; k < 3; k++) {
        free(items[k]);
        vm_dataset_free(d[k]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_similarity), cmocka_unit_test(test_whole_clusters), cmocka_unit_test(test_giant_cluster),
        cmocka_unit_test(test_few_items),  cmocka_unit_test(test_openbookqa),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
