/* ood.h: telling strange questions from familiar ones by a score. Positive = out of distribution; a higher score means stranger.
 * Ties by midrank. Never max(A, 1 - A). NaN scores are an error. */
#ifndef VM_EVAL_OOD_H
#define VM_EVAL_OOD_H

#include "eval/metrics.h"

typedef struct vm_ood {
    double auroc; /* P(score_ood > score_id) + P(equal)/2 */
    double aupr;  /* average precision, positive = OoD (sum over thresholds (R_i - R_{i-1}) P_i) */
    double fpr95; /* share of ID above the highest threshold that keeps >= 95% of OoD */
} vm_ood;
vmoer_status vm_ood_compute(const double *id, size_t n_id, const double *ood, size_t n_ood, vm_ood *out);
typedef struct vm_ood_ci { vm_interval auroc, aupr, fpr95; } vm_ood_ci;
vmoer_status vm_ood_bootstrap(const double *id, size_t n_id, const double *ood, size_t n_ood, int resamples, uint64_t seed, vm_ood_ci *out);
/* ROC points for drawing: at most `max` (fpr, tpr) pairs from (0,0) to (1,1); returns the count. */
size_t vm_ood_roc(const double *id, size_t n_id, const double *ood, size_t n_ood, double *fpr, double *tpr, size_t max);

#endif
