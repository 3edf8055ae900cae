/* controls.c: see controls.h. */
#include "eval/controls.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct ranked {
    double value;
    size_t item;
} ranked;

static int rising(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

/* rank[n] from 1, of equal values their mean; order[n] is scratch. */
static void midranks(const double *values, size_t n, ranked *order, double *rank) {
    for (size_t i = 0; i < n; i++) order[i] = (ranked){values[i], i};
    qsort(order, n, sizeof *order, rising);
    for (size_t first = 0, end; first < n; first = end) {
        for (end = first + 1; end < n && order[end].value == order[first].value;) end++;
        for (size_t i = first; i < end; i++) rank[order[i].item] = (double)(first + 1 + end) / 2;
    }
}

/* Sums over the deviations from the means. */
typedef struct moments {
    double x, y, xx, xy, yy; /* means; sums of products */
} moments;

static moments moments_of(const double *x, const double *y, size_t n) {
    moments m = {0};
    for (size_t i = 0; i < n; i++) m.x += x[i] / (double)n, m.y += y[i] / (double)n;
    for (size_t i = 0; i < n; i++) {
        double dx = x[i] - m.x, dy = y[i] - m.y;
        m.xx += dx * dx, m.xy += dx * dy, m.yy += dy * dy;
    }
    return m;
}

static bool constant(const double *x, size_t n) {
    size_t i = 1;
    while (i < n && x[i] == x[0]) i++;
    return i >= n;
}

vmoer_status vm_spearman(const double *x, const double *y, size_t n, double *out) {
    *out = NAN;
    if (constant(x, n) || constant(y, n)) return VMOER_OK;
    ranked *order = vm_malloc(n, sizeof *order);
    double *rank = vm_malloc(n, 2 * sizeof *rank);
    vmoer_status status = order && rank ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "ranks of %zu items", n);
    if (status == VMOER_OK) {
        midranks(x, n, order, rank);
        midranks(y, n, order, rank + n);
        moments m = moments_of(rank, rank + n, n);
        *out = m.xy / sqrt(m.xx * m.yy);
    }
    vm_free(order);
    vm_free(rank);
    return status;
}

vm_line vm_line_fit(const double *x, const double *y, size_t n) {
    moments m = moments_of(x, y, n);
    double slope = constant(x, n) ? 0 : m.xy / m.xx;
    return (vm_line){m.y - slope * m.x, slope};
}

/* ---- matching ---- */
typedef struct chooser {
    uint64_t hash;
    size_t item;
} chooser;

static int by_hash(const void *a, const void *b) {
    const chooser *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

/* Whether item i of a fits a length better than item `best` does. */
static bool nearer(const vm_lengths *a, size_t i, size_t best, double length) {
    double d = fabs(a->length[i] - length), least = fabs(a->length[best] - length);
    if (d != least) return d < least;
    if (a->length[i] != a->length[best]) return a->length[i] < a->length[best];
    return a->hash[i] < a->hash[best];
}

vmoer_status vm_match_lengths(const vm_lengths *a, const vm_lengths *b, size_t *of_a, size_t *of_b, size_t *pairs) {
    chooser *order = vm_malloc(b->n + 1, sizeof *order);
    bool *taken = vm_calloc(a->n + 1, sizeof *taken);
    vmoer_status status = order && taken ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "a matching of %zu items", b->n);
    *pairs = 0;
    for (size_t i = 0; status == VMOER_OK && i < b->n; i++) order[i] = (chooser){b->hash[i], i};
    if (status == VMOER_OK) qsort(order, b->n, sizeof *order, by_hash);
    for (size_t k = 0; status == VMOER_OK && k < b->n && *pairs < a->n; k++) {
        double length = b->length[order[k].item];
        size_t best = a->n;
        for (size_t i = 0; i < a->n; i++)
            if (!taken[i] && (best == a->n || nearer(a, i, best, length))) best = i;
        if (fmax(a->length[best], length) > 1.1 * fmin(a->length[best], length)) continue;
        taken[best] = true;
        of_a[*pairs] = best;
        of_b[(*pairs)++] = order[k].item;
    }
    vm_free(order);
    vm_free(taken);
    return status;
}
