/* distance.c: see distance.h. All in double: D is some thousands at most, and this runs once an evaluation. */
#include "eval/distance.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>

void vm_distance_free(vm_distance *d) {
    vm_free(d->mean);
    vm_free(d->lower);
    *d = (vm_distance){0};
}

/* S into the lower triangle of s[D, D]; *fourth becomes sum over the vectors of |x - mean|^4. centred[D] is scratch. */
static void covariance(const float *x, size_t n, size_t D, const double *mean, double *centred, double *s,
                       double *fourth) {
    *fourth = 0;
    for (size_t t = 0; t < n; t++) {
        double square = 0;
        for (size_t i = 0; i < D; i++) {
            centred[i] = (double)x[t * D + i] - mean[i];
            square += centred[i] * centred[i];
        }
        *fourth += square * square;
        for (size_t i = 0; i < D; i++) {
            double factor = centred[i] / (double)n, *row = s + i * D;
            for (size_t j = 0; j <= i; j++) row[j] += factor * centred[j];
        }
    }
}

/* The weight of mu I, mu = tr(S)/D, that is nearest to the best one in mean square: b^2 / d^2 with
 * d^2 = |S - mu I|^2 / D and b^2 = min(d^2, (sum |x - mean|^4 / n - |S|^2) / (n D)), |.| the Frobenius norm. */
static double shrinkage_of(const double *s, size_t n, size_t D, double mu, double fourth) {
    double square = 0;
    for (size_t i = 0; i < D; i++) {
        for (size_t j = 0; j < i; j++) square += 2 * s[i * D + j] * s[i * D + j];
        square += s[i * D + i] * s[i * D + i];
    }
    double d2 = square / (double)D - mu * mu, b2 = (fourth / (double)n - square) / ((double)n * (double)D);
    if (!(b2 > 0)) return 0;
    return b2 < d2 ? b2 / d2 : 1;
}

/* The lower triangle of s[D, D] becomes L, column by column; column[D] is scratch. False: not positive definite. */
static int cholesky(double *s, size_t D, double *column) {
    for (size_t k = 0; k < D; k++) {
        if (!(s[k * D + k] > 0)) return 0;
        double root = sqrt(s[k * D + k]);
        s[k * D + k] = root;
        for (size_t i = k + 1; i < D; i++) column[i] = s[i * D + k] /= root;
        for (size_t i = k + 1; i < D; i++) {
            double factor = column[i], *row = s + i * D;
            for (size_t j = k + 1; j <= i; j++) row[j] -= factor * column[j];
        }
    }
    return 1;
}

vmoer_status vm_distance_fit(const float *x, size_t n, int dim, vm_distance *out) {
    size_t D = (size_t)dim;
    *out = (vm_distance){.dim = dim};
    if (n < 2) return vm_error(VMOER_ERROR_DATA, "a covariance of %zu vectors, at least 2", n);
    for (size_t i = 0; i < n * D; i++)
        if (!isfinite(x[i])) return vm_error(VMOER_ERROR_NUMERIC, "vector %zu is not finite", i / D);
    out->mean = vm_calloc(D, sizeof *out->mean);
    out->lower = vm_calloc(D, D * sizeof *out->lower);
    double *scratch = vm_malloc(D, sizeof *scratch);
    vmoer_status status = out->mean && out->lower && scratch
                              ? VMOER_OK
                              : vm_error(VMOER_ERROR_MEMORY, "a covariance of %d dimensions", dim);
    if (status == VMOER_OK) {
        double fourth, mu = 0;
        for (size_t t = 0; t < n; t++)
            for (size_t i = 0; i < D; i++) out->mean[i] += (double)x[t * D + i] / (double)n;
        covariance(x, n, D, out->mean, scratch, out->lower, &fourth);
        for (size_t i = 0; i < D; i++) mu += out->lower[i * D + i] / (double)D;
        double weight = out->shrinkage = shrinkage_of(out->lower, n, D, mu, fourth);
        for (size_t i = 0; i < D; i++) {
            for (size_t j = 0; j <= i; j++) out->lower[i * D + j] *= 1 - weight;
            out->lower[i * D + i] += weight * mu;
        }
        if (!cholesky(out->lower, D, scratch))
            status = vm_error(VMOER_ERROR_DATA, "the covariance of %zu vectors has no inverse", n);
    }
    vm_free(scratch);
    return status;
}

vmoer_status vm_distance_of(const vm_distance *d, const float *x, size_t n, double *out) {
    size_t D = (size_t)d->dim;
    double *z = vm_malloc(D, sizeof *z);
    if (!z) return vm_error(VMOER_ERROR_MEMORY, "a vector of %d", d->dim);
    for (size_t t = 0; t < n; t++) { /* L z = x - mean; the distance is |z| */
        double square = 0;
        for (size_t i = 0; i < D; i++) {
            z[i] = (double)x[t * D + i] - d->mean[i];
            for (size_t j = 0; j < i; j++) z[i] -= d->lower[i * D + j] * z[j];
            z[i] /= d->lower[i * D + i];
            square += z[i] * z[i];
        }
        out[t] = sqrt(square);
    }
    vm_free(z);
    return VMOER_OK;
}
