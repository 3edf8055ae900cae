/* distance.h: how far a vector lies from a cloud of vectors, in standard deviations of the cloud in that direction (Mahalanobis 1936). */
#ifndef VM_EVAL_DISTANCE_H
#define VM_EVAL_DISTANCE_H

#include "vmoer/vmoer_errors.h"
#include <stddef.h>

typedef struct vm_distance {
    int dim;          /* D */
    double *mean;     /* [D] */
    double *lower;    /* [D, D] L, lower triangular, L L' = (1 - shrinkage) S + shrinkage tr(S)/D I */
    double shrinkage; /* in [0, 1] */
} vm_distance;

/* Mean and shrunk covariance of x[n, D]. S = 1/n sum (x - mean)(x - mean)'; how much it is shrunk towards a multiple of I follows from the data
 * (Ledoit and Wolf 2004), so that the matrix has an inverse also where n < D. VMOER_ERROR_DATA: fewer than 2 vectors, or no spread;
 * VMOER_ERROR_NUMERIC: a number is not finite. *out is freed with vm_distance_free in any case. */
vmoer_status vm_distance_fit(const float *x, size_t n, int dim, vm_distance *out);
/* out[n] = sqrt( (x - mean)' (L L')^-1 (x - mean) ) of x[n, D]. */
vmoer_status vm_distance_of(const vm_distance *d, const float *x, size_t n, double *out);
void vm_distance_free(vm_distance *d);

#endif
