/* conformal.c: see conformal.h. */
#include "eval/conformal.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/items.h"

#include <math.h>
#include <string.h>

/* ---- scores and their quantile ---- */

void vm_conformal_lac(const vm_predictions *d, double *score) {
    for (size_t i = 0; i < d->n; i++)
        for (size_t c = i * (size_t)d->stride; c < i * (size_t)d->stride + (size_t)d->k[i]; c++) score[c] = 1 - d->p[c];
}

void vm_conformal_aps(const vm_predictions *d, const double *uniform, double *score) {
    for (size_t i = 0; i < d->n; i++) {
        const double *p = d->p + i * (size_t)d->stride;
        for (int c = 0; c < d->k[i]; c++) {
            double before = 0;
            for (int other = 0; other < d->k[i]; other++)
                if (p[other] > p[c] || (p[other] == p[c] && other < c)) before += p[other];
            score[i * (size_t)d->stride + (size_t)c] = before + uniform[i] * p[c];
        }
    }
}

size_t vm_conformal_rank(size_t n, double alpha) {
    double exact = ((double)n + 1) * (1 - alpha);
    return (size_t)ceil(exact - 1e-9); /* 10 (1 - .7) is 3.0000000000000004 */
}

double vm_conformal_quantile(double *scores, size_t n, double alpha) {
    size_t rank = vm_conformal_rank(n, alpha);
    if (rank > n) return INFINITY;
    vm_sort_doubles(scores, n);
    return scores[rank - 1];
}

/* ---- what theory says of the coverage ---- */

/* P(Beta(k, n + 1 - k) <= x) = P(Binomial(n, x) >= k), for whole k. Terms by their logarithms: the first may underflow.
 */
static double beta_below(size_t k, size_t n, double x) {
    double log_term = (double)n * log1p(-x), sum = k == 0 ? exp(log_term) : 0;
    for (size_t j = 1; j <= n; j++) {
        log_term += log((double)(n - j + 1) / (double)j * (x / (1 - x)));
        if (j >= k) sum += exp(log_term);
    }
    return sum;
}

static double beta_quantile(size_t k, size_t n, double q) {
    double low = 0, high = 1;
    for (int step = 0; step < 60; step++) {
        double middle = (low + high) / 2;
        if (beta_below(k, n, middle) < q)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

/* Beta-binomial with a = k, b = n + 1 - k over m items: P(x + 1) / P(x) = (m - x)(x + a) / ((x + 1)(m - x - 1 + b)). */
static vm_interval share_interval(size_t k, size_t n, size_t m) {
    double a = (double)k, b = (double)(n + 1 - k), log_term = 0, below = 0;
    vm_interval out = {NAN, 1};
    for (size_t j = 0; j < m; j++) log_term += log((b + (double)j) / (a + b + (double)j));
    for (size_t x = 0; x <= m; x++) {
        below += exp(log_term);
        if (isnan(out.low) && below >= .025) out.low = (double)x / (double)m;
        if (below >= .975) {
            out.high = (double)x / (double)m;
            break;
        }
        double left = (double)(m - x);
        log_term += log(left * ((double)x + a) / (((double)x + 1) * (left - 1 + b)));
    }
    return out;
}

vm_coverage_law vm_coverage_law_of(size_t n, size_t m, double alpha) {
    size_t k = vm_conformal_rank(n, alpha);
    if (k > n) return (vm_coverage_law){1, {1, 1}, {1, 1}}; /* every set is the whole */
    return (vm_coverage_law){
        (double)k / ((double)n + 1), {beta_quantile(k, n, .025), beta_quantile(k, n, .975)}, share_interval(k, n, m)};
}

/* ---- sets ---- */

/* Adds item i's set to the sums. */
static void add_set(const vm_predictions *d, const double *score, size_t i, double q, vm_sets *sums) {
    const double *s = score + i * (size_t)d->stride;
    int size = 0;
    for (int c = 0; c < d->k[i]; c++) size += s[c] <= q;
    sums->coverage += s[d->label[i]] <= q;
    sums->size += size;
    sums->sizes[size]++;
}

static void divide(vm_sets *s, double by) {
    s->coverage /= by;
    s->size /= by;
    for (int k = 0; k < VM_SET_SIZES; k++) s->sizes[k] /= by;
}

vm_sets vm_conformal_sets(const vm_predictions *d, const double *score, double q) {
    vm_sets sets = {0};
    for (size_t i = 0; i < d->n; i++) add_set(d, score, i, q, &sets);
    divide(&sets, (double)d->n);
    return sets;
}

vmoer_status vm_conformal_halves(const vm_predictions *d, const double *score, double alpha, int count, uint64_t seed,
                                 vm_halves *out) {
    size_t n = d->n, half = n / 2;
    if (n < 2 || count < 1)
        return vm_error(VMOER_ERROR_ARGUMENT, "%zu items in %d random halves: at least 2 and 1", n, count);
    vm_coverage_law law = vm_coverage_law_of(half, n - half, alpha);
    int32_t *order = vm_malloc(n, sizeof *order);
    double *right = vm_malloc(half, sizeof *right), *coverage = vm_malloc((size_t)count, sizeof *coverage);
    vm_sets sums = {0};
    size_t inside = 0;
    for (int h = 0; order && right && coverage && h < count; h++) {
        vm_rng rng = vm_rng_start(seed, VM_RNG_HALVES, (uint32_t)h);
        for (size_t i = 0; i < n; i++) order[i] = (int32_t)i;
        vm_rng_shuffle(&rng, order, n);
        for (size_t i = 0; i < half; i++)
            right[i] = score[(size_t)order[i] * (size_t)d->stride + (size_t)d->label[order[i]]];
        double q = vm_conformal_quantile(right, half, alpha), before = sums.coverage;
        for (size_t i = half; i < n; i++) add_set(d, score, (size_t)order[i], q, &sums);
        coverage[h] = (sums.coverage - before) / (double)(n - half);
        inside += coverage[h] >= law.share.low && coverage[h] <= law.share.high;
    }
    vmoer_status status =
        order && right && coverage ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "halves of %zu items", n);
    if (status == VMOER_OK) {
        divide(&sums, (double)count * (double)(n - half));
        *out = (vm_halves){sums, vm_interval_of(coverage, (size_t)count), (double)inside / count};
    }
    vm_free(order);
    vm_free(right);
    vm_free(coverage);
    return status;
}

/* ---- abstention ---- */

vmoer_status vm_abstention_find(const vm_predictions *d, double accuracy, vm_abstention *out) {
    vm_items items;
    vmoer_status status = vm_items_build(d, &items);
    *out = (vm_abstention){NAN, 0, NAN};
    double answered = 0, correct = 0, n = (double)d->n;
    for (size_t i = status == VMOER_OK ? d->n : 0; i-- > 0;) { /* from the most confident down */
        const vm_item *item = &items.item[items.order[i]];
        answered++;
        correct += item->correct;
        bool tied = i > 0 && items.item[items.order[i - 1]].confidence == item->confidence;
        if (!tied && correct / answered >= accuracy)
            *out = (vm_abstention){item->confidence, answered / n, correct / answered};
    }
    vm_items_free(&items);
    return status;
}

vmoer_status vm_abstention_apply(const vm_predictions *d, double confidence, vm_abstention *out) {
    vm_items items;
    vmoer_status status = vm_items_build(d, &items);
    double answered = 0, correct = 0;
    for (size_t i = 0; status == VMOER_OK && i < d->n; i++) {
        bool answers = items.item[i].confidence >= confidence;
        answered += answers;
        correct += answers && items.item[i].correct;
    }
    *out = (vm_abstention){confidence, answered / (double)d->n, answered > 0 ? correct / answered : NAN};
    vm_items_free(&items);
    return status;
}
