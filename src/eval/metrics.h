/* metrics.h: how good and how honest probabilities are. Pure functions on arrays, callable without a model.
 * Items i in [0, n): p[i * stride .. + k[i]) are the probabilities over k[i] choices, label[i] the right choice.
 * Prediction = largest probability, ties to the lower index; confidence = that probability. */
#ifndef VM_EVAL_METRICS_H
#define VM_EVAL_METRICS_H

#include "vmoer/vmoer_errors.h"
#include <stddef.h>
#include <stdint.h>

typedef struct vm_predictions {
    size_t n;
    int stride;       /* >= every k[i] */
    const double *p;  /* [n, stride] */
    const int *k;     /* [n] */
    const int *label; /* [n] */
} vm_predictions;

enum { VM_ECE_BINS = 15 };

typedef struct vm_reliability_bin {
    double low, high;            /* confidence range: (low, high], the first bin includes 0 */
    size_t count;
    double confidence, accuracy; /* means; 0 where count is 0 */
} vm_reliability_bin;

typedef struct vm_metrics {
    double acc;
    double nll;       /* mean -ln p[label], nats; p clipped at 1e-12 */
    double ece;       /* sum_b n_b/n |acc_b - conf_b|, 15 equal-width bins (Naeini 2015, Guo 2017) */
    double mce;       /* max_b over non-empty bins */
    double brier;     /* mean sum_c (p_c - [c == label])^2 */
    double ece_mass;  /* equal-mass ECE: 15 bins of equal count (by sorted confidence; sizes differ by at most one) */
} vm_metrics;

vmoer_status vm_metrics_compute(const vm_predictions *d, vm_metrics *out);
void vm_reliability(const vm_predictions *d, vm_reliability_bin bins[VM_ECE_BINS]);

typedef struct vm_interval { double low, high; } vm_interval; /* 2.5 and 97.5 percentile */
vm_interval vm_interval_of(double *values, size_t n); /* of n >= 1 values, which it sorts */
typedef struct vm_metrics_ci { vm_interval acc, nll, ece, mce, brier, ece_mass; } vm_metrics_ci;
/* Percentile bootstrap over items, `resamples` >= 1, deterministic in seed. */
vmoer_status vm_metrics_bootstrap(const vm_predictions *d, int resamples, uint64_t seed, vm_metrics_ci *out);
/* Paired bootstrap of metric(b) - metric(a) over the same items (same n, labels). */
vmoer_status vm_metrics_paired(const vm_predictions *a, const vm_predictions *b, int resamples, uint64_t seed, vm_metrics *difference, vm_metrics_ci *out);

typedef struct vm_ece_floor { double mean, p95; } vm_ece_floor;
/* ECE of a perfectly calibrated model with these probabilities: labels drawn from p, `draws` times. */
vmoer_status vm_ece_floor_compute(const vm_predictions *d, int draws, uint64_t seed, vm_ece_floor *out);

/* Output temperature scaling: T > 0 minimising the NLL of softmax(ln p / T) (Guo 2017), or of its mean over passes, whose predictions d[passes] are of the
 * same items; golden-section on ln T in [ln .05, ln 20]. */
vmoer_status vm_temperature_fit(const vm_predictions *d, int passes, double *temperature);

/* Risk-coverage: items by falling confidence (ties kept together by item order); out_risk[i] = error rate of the i+1 most confident. aurc = mean. */
vmoer_status vm_risk_coverage(const vm_predictions *d, double *out_risk, double *aurc);

#endif
