/* test_log_search.c: which values are tried, in which order, and that the best of them is found. */
#include "base/status.h"
#include "train/log_search.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { MOST = 16 };

typedef struct valley {
    double bottom; /* of |ln value - ln bottom| */
    int fails_at;  /* the call that fails; 0: none */
    int n;
    double tried[MOST];
} valley;

static vmoer_status measure(void *context, double value, double *loss) {
    valley *v = context;
    assert_true(v->n < MOST);
    v->tried[v->n++] = value;
    *loss = isnan(v->bottom) ? 1 : fabs(log(value / v->bottom));
    return v->n == v->fails_at ? vm_error(VMOER_ERROR_NUMERIC, "no more") : VMOER_OK;
}

static void assert_trials(const valley *v, const double *values, int n) {
    assert_int_equal(v->n, n);
    for (int i = 0; i < n; i++) assert_true(fabs(v->tried[i] / values[i] - 1) < 1e-12);
}

/* Five points from 1 to 81, then between the best and its neighbours, twice. */
static void test_inside(void **state) {
    (void)state;
    const double r = sqrt(3), q = sqrt(r), values[] = {1, 3, 9, 27, 81, 9 * r, 3 * r, 9 * r * q, 9 * q};
    valley v = {.bottom = 12.5};
    vm_log_search s = {.low = 1, .high = 81, .points = 5, .rounds = 2, .measure = measure, .context = &v};
    double best;
    assert_int_equal(vm_log_search_most(&s), 9);
    assert_int_equal(vm_log_search_run(&s, &best), VMOER_OK);
    assert_trials(&v, values, 9);
    assert_true(fabs(best / (9 * q) - 1) < 1e-12);
}

/* At an end there is one neighbour; the ends are met to the bit. */
static void test_ends(void **state) {
    (void)state;
    const double low[] = {.01, .1, 1, 10, .01 * sqrt(10)}, high[] = {.01, .1, 1, 10, sqrt(10)};
    for (int end = 0; end < 2; end++) {
        valley v = {.bottom = end ? 1e9 : 1e-9};
        vm_log_search s = {.low = .01, .high = 10, .points = 4, .rounds = 1, .measure = measure, .context = &v};
        double best;
        assert_int_equal(vm_log_search_run(&s, &best), VMOER_OK);
        assert_trials(&v, end ? high : low, 5);
        assert_true(best == (end ? 10 : .01));
    }
}

/* Where nothing is gained the lowest value is taken; an error ends the search. */
static void test_flat_and_error(void **state) {
    (void)state;
    valley v = {.bottom = NAN};
    vm_log_search s = {.low = .5, .high = 8, .points = 3, .rounds = 3, .measure = measure, .context = &v};
    double best = 0;
    assert_int_equal(vm_log_search_run(&s, &best), VMOER_OK);
    assert_true(best == .5);
    for (int call = 1; call <= 6; call++) {
        valley broken = {.bottom = 2, .fails_at = call};
        s.context = &broken;
        assert_int_equal(vm_log_search_run(&s, &best), VMOER_ERROR_NUMERIC);
        assert_int_equal(broken.n, call);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_inside), cmocka_unit_test(test_ends),
                                       cmocka_unit_test(test_flat_and_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
