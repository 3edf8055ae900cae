/* conformal.h: answer sets that hold the right answer with a chosen probability, and the confidence below which to abstain. Pure functions on arrays.
 *
 * Split conformal prediction (Vovk, Gammerman and Shafer 2005): n calibration items give the scores of their right answers; q is the k-th smallest,
 * k = ceil((n + 1)(1 - alpha)), infinite where k > n; the set of a new item is every choice whose score is at most q. Where calibration and new items
 * are exchangeable the set holds the right answer with probability >= 1 - alpha, whatever the model is. */
#ifndef VM_EVAL_CONFORMAL_H
#define VM_EVAL_CONFORMAL_H

#include "eval/metrics.h"

/* score[n, d->stride] of every choice, the higher the stranger; what lies beyond k[i] is left alone. d has been checked (vm_metrics_compute).
 *   LAC  1 - p  (Sadinle, Lei and Wasserman 2019): the smallest sets on average
 *   APS  the probability of the choices before it, by falling p, ties to the lower index, plus uniform[i] times its own (Romano, Sesia and Candes 2020):
 *        larger sets where the model is unsure; uniform[n] in [0, 1), the same for all choices of an item */
void vm_conformal_lac(const vm_predictions *d, double *score);
void vm_conformal_aps(const vm_predictions *d, const double *uniform, double *score);

/* k = ceil((n + 1)(1 - alpha)), alpha in (0, 1); what rounding adds to a whole number does not raise it. */
size_t vm_conformal_rank(size_t n, double alpha);
/* q from the scores of the right answers, which are sorted; INFINITY where the rank exceeds n. */
double vm_conformal_quantile(double *scores, size_t n, double alpha);

/* What theory says of the coverage when scores have no ties. Given the calibration items, the probability that a new item is covered is itself random:
 * Beta(k, n + 1 - k) over calibration sets. The covered share of m test items is beta-binomial: exactly that is its law over random halves, too. */
typedef struct vm_coverage_law {
    double mean;       /* k / (n + 1) */
    vm_interval beta;  /* 2.5 and 97.5 percentile of the Beta */
    vm_interval share; /* of the covered share of the m test items */
} vm_coverage_law;
vm_coverage_law vm_coverage_law_of(size_t n_calibration, size_t n_test, double alpha);

enum { VM_SET_SIZES = 64 };
typedef struct vm_sets {
    double coverage;            /* share of the items whose set holds the right answer */
    double size;                /* mean number of choices in a set */
    double sizes[VM_SET_SIZES]; /* share of the sets with so many choices, 0 .. d->stride < VM_SET_SIZES */
} vm_sets;
/* The sets that q makes of all items of d. */
vm_sets vm_conformal_sets(const vm_predictions *d, const double *score, double q);

typedef struct vm_halves {
    vm_sets mean;         /* over the halvings */
    vm_interval coverage; /* 2.5 and 97.5 percentile over the halvings */
    double inside;        /* share of the halvings whose coverage lies in the law's `share` */
} vm_halves;
/* `count` random halvings: n / 2 items calibrate, the others are tested. VMOER_ERROR_ARGUMENT: fewer than 2 items, no halving. */
vmoer_status vm_conformal_halves(const vm_predictions *d, const double *score, double alpha, int count, uint64_t seed, vm_halves *out);

typedef struct vm_abstention {
    double confidence; /* answer where the confidence is at least this; NAN: no threshold reaches the accuracy */
    double coverage;   /* share of the items answered */
    double accuracy;   /* of the answered ones; NAN where there are none */
} vm_abstention;
/* Of the thresholds at which the answered items' accuracy is at least `accuracy` the one that answers most. Items of equal confidence go together. */
vmoer_status vm_abstention_find(const vm_predictions *d, double accuracy, vm_abstention *out);
/* What a threshold gives on d. */
vmoer_status vm_abstention_apply(const vm_predictions *d, double confidence, vm_abstention *out);

#endif
