/* test_sampler.c: which tokens a sampler leaves and with what probabilities, held to the definitions taken literally on
 * a sorted list; that the draws have these frequencies; that they depend on seed and position alone; what is refused.
 */
#include "base/rng.h"
#include "base/status.h"
#include "infer/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OK(call) assert_int_equal(call, VMOER_OK)

enum { V = 37, HISTORY = 12 };

static const vm_sampler_options plain = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};

typedef struct entry {
    double logit, p;
    int id;
} entry;

static int by_logit(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : x->id - y->id;
}

/* p[V] by the definitions: 0 for what is cut away. */
static void expected(const vm_sampler_options *o, const float *logits, const int32_t *ids, int n, double *p) {
    entry list[V];
    double sum = 0;
    int kept = V, nucleus = 0;
    for (int i = 0; i < V; i++) {
        bool recent = false;
        for (int t = 0; t < n; t++) recent |= ids[t] == i && (o->repeat_last_n < 0 || t >= n - o->repeat_last_n);
        double l = (double)logits[i];
        if (recent) l = l > 0 ? l / o->repeat_penalty : l * o->repeat_penalty;
        list[i] = (entry){.logit = l, .id = i};
        p[i] = 0;
    }
    qsort(list, V, sizeof *list, by_logit);
    if (o->temperature == 0) {
        p[list[0].id] = 1;
        return;
    }
    if (o->top_k > 0 && o->top_k < V) kept = o->top_k;
    for (int i = 0; i < kept; i++) sum += list[i].p = exp(list[i].logit - list[0].logit);
    double below = 0; /* a token stays while those before it do not reach top_p */
    while (nucleus < kept && (o->top_p >= 1 || below < o->top_p * sum)) below += list[nucleus++].p;
    sum = 0;
    for (int i = 0; i < nucleus; i++)
        if (list[i].p >= o->min_p * list[0].p)
            sum += p[list[i].id] = exp((list[i].logit - list[0].logit) / o->temperature);
    for (int i = 0; i < V; i++) p[i] /= sum;
}

static void random_logits(vm_rng *rng, float *logits, int32_t *ids) {
    for (int i = 0; i < V; i++) logits[i] = 3 * vm_rng_normal(rng);
    for (int i = 0; i < HISTORY; i++) ids[i] = (int32_t)vm_rng_below(rng, V);
}

static void compare(const vm_sampler_options *o, const float *logits, const int32_t *ids, int n) {
    vm_candidate list[V];
    double want[V], got[V] = {0}, sum = 0;
    OK(vm_sampler_check(o));
    expected(o, logits, ids, n, want);
    size_t count = vm_sampler_candidates(o, logits, V, ids, (size_t)n, list);
    assert_in_range(count, 1, V);
    for (size_t i = 0; i < count; i++) sum += list[i].weight;
    for (size_t i = 0; i < count; i++) {
        assert_true(got[list[i].id] == 0); /* no token twice */
        got[list[i].id] = list[i].weight / sum;
    }
    for (int i = 0; i < V; i++)
        if (fabs(got[i] - want[i]) > 1e-12)
            fail_msg("k %d p %g min %g t %g penalty %g of %d: token %d has %.12g, not %.12g", o->top_k, o->top_p,
                     o->min_p, o->temperature, o->repeat_penalty, o->repeat_last_n, i, got[i], want[i]);
}

static void test_candidates(void **state) {
    (void)state;
    static const int ks[] = {0, 1, 2, 5, V - 1, V, V + 5};
    static const double ps[] = {1e-9, 0.3, 0.95, 0.999999, 1}, mins[] = {0, 0.05, 0.5, 1}, ts[] = {0, 0.3, 1, 2.5};
    static const struct {
        double penalty;
        int last;
    } repeats[] = {{1, 64}, {1.3, 64}, {2, 4}, {0.5, -1}, {3, 0}};
    vm_rng rng = vm_rng_start(4, VM_RNG_TEXT, 0);
    float logits[V];
    int32_t ids[HISTORY];
    for (size_t k = 0; k < sizeof ks / sizeof *ks; k++)
        for (size_t p = 0; p < sizeof ps / sizeof *ps; p++)
            for (size_t m = 0; m < sizeof mins / sizeof *mins; m++)
                for (size_t t = 0; t < sizeof ts / sizeof *ts; t++)
                    for (size_t r = 0; r < sizeof repeats / sizeof *repeats; r++) {
                        vm_sampler_options o = {.temperature = ts[t],
                                                .top_k = ks[k],
                                                .top_p = ps[p],
                                                .min_p = mins[m],
                                                .repeat_penalty = repeats[r].penalty,
                                                .repeat_last_n = repeats[r].last};
                        random_logits(&rng, logits, ids);
                        compare(&o, logits, ids, HISTORY);
                        compare(&o, logits, ids, 2);
                    }
}

/* Equal logits: the lower id first. An impossible token stays one. */
static void test_ties(void **state) {
    (void)state;
    float logits[V];
    int32_t ids[1] = {0};
    for (int i = 0; i < V; i++) logits[i] = i % 3 ? 1 : i == 3 ? -INFINITY : 0;
    for (int k = 0; k < V; k++) {
        vm_sampler_options o = plain;
        o.top_k = k;
        compare(&o, logits, ids, 1);
        o.top_p = 0.5;
        compare(&o, logits, ids, 1);
        o.temperature = 0;
        compare(&o, logits, ids, 1);
    }
    vm_candidate list[V];
    for (uint64_t seed = 0; seed < 200; seed++) {
        vm_sampler_options o = plain;
        o.seed = seed;
        assert_int_not_equal(vm_sampler_take(&o, logits, V, ids, 1, list), 3);
    }
}

/* Of so many draws a token's share is its probability, within five standard deviations. */
static void test_frequencies(void **state) {
    (void)state;
    enum { DRAWS = 40000 };
    static const vm_sampler_options ways[] = {
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 3},
        {.temperature = 0.7, .top_k = 6, .top_p = 0.9, .min_p = 0.02, .repeat_penalty = 1, .seed = UINT64_MAX},
    };
    static int32_t ids[DRAWS];
    vm_rng rng = vm_rng_start(8, VM_RNG_TEXT, 0);
    float logits[V];
    random_logits(&rng, logits, ids);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        int count[V] = {0};
        double p[V];
        vm_candidate list[V];
        for (size_t n = 0; n < DRAWS; n++) count[vm_sampler_take(&ways[w], logits, V, ids, n, list)]++;
        expected(&ways[w], logits, ids, 0, p);
        for (int i = 0; i < V; i++)
            if (fabs(count[i] - DRAWS * p[i]) > 5 * sqrt(DRAWS * p[i] * (1 - p[i])))
                fail_msg("way %zu: token %d came %d times, of %d with probability %g", w, i, count[i], DRAWS, p[i]);
    }
}

static void test_seeds(void **state) {
    (void)state;
    enum { DRAWS = 64 };
    int32_t ids[DRAWS] = {0}, taken[3][DRAWS];
    vm_rng rng = vm_rng_start(9, VM_RNG_TEXT, 0);
    float logits[V];
    vm_candidate list[V];
    random_logits(&rng, logits, ids);
    for (int way = 0; way < 3; way++)
        for (size_t n = 0; n < DRAWS; n++) {
            vm_sampler_options o = plain;
            o.seed = way == 2 ? 6 : 5;
            taken[way][n] = vm_sampler_take(&o, logits, V, ids, n, list);
        }
    assert_memory_equal(taken[0], taken[1], sizeof taken[0]);
    assert_memory_not_equal(taken[0], taken[2], sizeof taken[0]);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        vm_sampler_options o;
        const char *text;
    } bad[] = {
        {{.temperature = -0.1, .top_p = 1, .repeat_penalty = 1}, "temperature -0.1"},
        {{.temperature = INFINITY, .top_p = 1, .repeat_penalty = 1}, "temperature inf"},
        {{.temperature = 1, .top_k = -1, .top_p = 1, .repeat_penalty = 1}, "top_k -1"},
        {{.temperature = 1, .top_p = 0, .repeat_penalty = 1}, "top_p 0"},
        {{.temperature = 1, .top_p = 1.1, .repeat_penalty = 1}, "top_p 1.1"},
        {{.temperature = 1, .top_p = 1, .min_p = 2, .repeat_penalty = 1}, "min_p 2"},
        {{.temperature = 1, .top_p = 1, .min_p = NAN, .repeat_penalty = 1}, "min_p nan"},
        {{.temperature = 1, .top_p = 1, .repeat_penalty = 0}, "repeat_penalty 0"},
        {{.temperature = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = -2}, "repeat_last_n -2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(vm_sampler_check(&bad[i].o), VMOER_ERROR_ARGUMENT);
        assert_non_null(strstr(vm_error_text(), bad[i].text));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_candidates), cmocka_unit_test(test_ties),    cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_seeds),      cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
