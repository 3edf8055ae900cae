/* metrics.c: accuracy, proper scores, calibration error, temperature scaling and risk-coverage of given probabilities.
 *
 * Everything is a function of per-item numbers (vm_items), summed in the order of rising confidence: the same
 * arithmetic for the data itself and for a bootstrap resample, so that the two cannot drift apart. */
#include "eval/items.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double CLIP = 1e-12; /* a probability below it counts as it in the NLL: 27.6 nats at most */
static const double SUM_TOLERANCE = 1e-6;

int vm_confidence_bin(double confidence) {
    int b = (int)ceil(confidence * VM_ECE_BINS) - 1;
    if (b < 0) b = 0;
    if (b > VM_ECE_BINS - 1) b = VM_ECE_BINS - 1;
    /* confidence * 15 rounds; the edges b / 15 that are written into results decide. */
    if (b > 0 && confidence <= (double)b / VM_ECE_BINS) b--;
    if (b < VM_ECE_BINS - 1 && confidence > (double)(b + 1) / VM_ECE_BINS) b++;
    return b;
}

static int best_choice(const double *p, int k) {
    int best = 0;
    for (int c = 1; c < k; c++) {
        if (p[c] > p[best]) best = c;
    }
    return best;
}

static vmoer_status check_item(const vm_predictions *d, size_t i) {
    int k = d->k[i];
    if (k < 1 || k > d->stride)
        return vm_error(VMOER_ERROR_DATA, "item %zu: %d choices, the table holds 1 to %d", i, k, d->stride);
    if (d->label[i] < 0 || d->label[i] >= k) {
        return vm_error(VMOER_ERROR_DATA, "item %zu: label %d of %d choices", i, d->label[i], k);
    }
    const double *p = d->p + i * (size_t)d->stride;
    double sum = 0;
    for (int c = 0; c < k; c++) {
        if (!isfinite(p[c]))
            return vm_error(VMOER_ERROR_NUMERIC, "item %zu: probability of choice %d is not finite", i, c);
        if (p[c] < 0) return vm_error(VMOER_ERROR_DATA, "item %zu: probability of choice %d is %g", i, c, p[c]);
        sum += p[c];
    }
    if (fabs(sum - 1) > SUM_TOLERANCE) return vm_error(VMOER_ERROR_DATA, "item %zu: probabilities sum to %.9g", i, sum);
    return VMOER_OK;
}

static vmoer_status check(const vm_predictions *d) {
    if (d->n == 0) return vm_error(VMOER_ERROR_ARGUMENT, "no items to measure");
    if (d->n > UINT32_MAX) return vm_error(VMOER_ERROR_LIMIT, "%zu items, at most %u", d->n, UINT32_MAX);
    for (size_t i = 0; i < d->n; i++) VM_TRY(check_item(d, i));
    return VMOER_OK;
}

typedef struct sort_key {
    double value;
    uint32_t index;
} sort_key;

static int rising(const void *a, const void *b) {
    const sort_key *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

vmoer_status vm_items_build(const vm_predictions *d, vm_items *out) {
    *out = (vm_items){0};
    VM_TRY(check(d));
    sort_key *keys = vm_malloc(d->n, sizeof *keys);
    out->item = vm_malloc(d->n, sizeof *out->item);
    out->order = vm_malloc(d->n, sizeof *out->order);
    if (!keys || !out->item || !out->order) {
        vm_free(keys);
        return vm_error(VMOER_ERROR_MEMORY, "metrics of %zu items", d->n);
    }
    out->n = d->n;
    for (size_t i = 0; i < d->n; i++) {
        const double *p = d->p + i * (size_t)d->stride;
        int best = best_choice(p, d->k[i]);
        double brier = 0;
        for (int c = 0; c < d->k[i]; c++) {
            double miss = p[c] - (c == d->label[i]);
            brier += miss * miss;
        }
        out->item[i] = (vm_item){.confidence = p[best],
                                 .nll = -log(fmax(p[d->label[i]], CLIP)),
                                 .brier = brier,
                                 .bin = vm_confidence_bin(p[best]),
                                 .correct = best == d->label[i]};
        keys[i] = (sort_key){p[best], (uint32_t)i};
    }
    qsort(keys, d->n, sizeof *keys, rising);
    for (size_t i = 0; i < d->n; i++) out->order[i] = keys[i].index;
    vm_free(keys);
    return VMOER_OK;
}

void vm_items_free(vm_items *items) {
    vm_free(items->item);
    vm_free(items->order);
    *items = (vm_items){0};
}

/* The equal-mass bins are filled one after the other in the order of confidence; bin b of n items holds n / 15, the
 * first n % 15 of them one more. */
typedef struct mass_bins {
    size_t n, bin, room;
    double gap;   /* sum of confidence - correct in the bin being filled */
    double total; /* sum of |gap| of the bins before */
} mass_bins;

static size_t mass_size(size_t n, size_t bin) { return n / VM_ECE_BINS + (bin < n % VM_ECE_BINS); }

static void mass_add(mass_bins *m, double gap, size_t count) {
    while (count > 0) {
        size_t take = count < m->room ? count : m->room;
        m->gap += (double)take * gap;
        m->room -= take;
        count -= take;
        if (m->room == 0) {
            m->total += fabs(m->gap);
            m->gap = 0;
            m->room = mass_size(m->n, ++m->bin);
        }
    }
}

vm_metrics vm_items_metrics(const vm_items *items, const uint32_t *weight) {
    double n = (double)items->n, correct = 0, nll = 0, brier = 0;
    double gap[VM_ECE_BINS] = {0}, count[VM_ECE_BINS] = {0};
    mass_bins mass = {.n = items->n, .room = mass_size(items->n, 0)};
    for (size_t rank = 0; rank < items->n; rank++) {
        uint32_t i = items->order[rank], times = weight ? weight[i] : 1;
        if (times == 0) continue;
        const vm_item *item = &items->item[i];
        double w = times, miss = item->confidence - item->correct;
        correct += w * item->correct;
        nll += w * item->nll;
        brier += w * item->brier;
        gap[item->bin] += w * miss;
        count[item->bin] += w;
        mass_add(&mass, miss, times);
    }
    vm_metrics out = {.acc = correct / n, .nll = nll / n, .brier = brier / n, .ece_mass = mass.total / n};
    for (int b = 0; b < VM_ECE_BINS; b++) {
        if (count[b] == 0) continue;
        out.ece += fabs(gap[b]) / n;
        out.mce = fmax(out.mce, fabs(gap[b]) / count[b]);
    }
    return out;
}

vmoer_status vm_metrics_compute(const vm_predictions *d, vm_metrics *out) {
    vm_items items;
    vmoer_status status = vm_items_build(d, &items);
    if (status == VMOER_OK) *out = vm_items_metrics(&items, NULL);
    vm_items_free(&items);
    return status;
}

void vm_reliability(const vm_predictions *d, vm_reliability_bin bins[VM_ECE_BINS]) {
    for (int b = 0; b < VM_ECE_BINS; b++) {
        bins[b] = (vm_reliability_bin){.low = (double)b / VM_ECE_BINS, .high = (double)(b + 1) / VM_ECE_BINS};
    }
    for (size_t i = 0; i < d->n; i++) {
        const double *p = d->p + i * (size_t)d->stride;
        int best = best_choice(p, d->k[i]);
        vm_reliability_bin *bin = &bins[vm_confidence_bin(p[best])];
        bin->count++;
        bin->confidence += p[best];
        bin->accuracy += best == d->label[i];
    }
    for (int b = 0; b < VM_ECE_BINS; b++) {
        if (bins[b].count == 0) continue;
        bins[b].confidence /= (double)bins[b].count;
        bins[b].accuracy /= (double)bins[b].count;
    }
}

/* Mean NLL of the mean over passes of softmax(ln p / T) at log_t = ln T. logs[passes, n, stride]: ln p, clipped, minus
 * the item's largest, so that the sum lies in [1, k] at every T. */
static double scaled_nll(const vm_predictions *d, int passes, const double *logs, double log_t) {
    double inverse = exp(-log_t), sum = 0;
    size_t stride = (size_t)d->stride;
    for (size_t i = 0; i < d->n; i++) {
        double top = -INFINITY, mass = 0; /* sum over passes of p(label) is mass exp(top) */
        for (size_t s = 0; s < (size_t)passes; s++) {
            const double *l = logs + (s * d->n + i) * stride;
            double z = 0;
            for (int c = 0; c < d->k[i]; c++) z += exp(l[c] * inverse);
            double right = l[d->label[i]] * inverse - log(z);
            mass = right > top ? mass * exp(top - right) + 1 : mass + exp(right - top);
            top = fmax(top, right);
        }
        sum -= top + log(mass / passes);
    }
    return sum / (double)d->n;
}

/* One pass's NLL is convex in 1 / T, hence has one valley in ln T: golden-section search narrows it down to 1e-10. Of
 * several passes it is where the search ends. */
vmoer_status vm_temperature_fit(const vm_predictions *d, int passes, double *temperature) {
    for (int s = 0; s < passes; s++) VM_TRY(check(&d[s]));
    size_t cells, all;
    bool ok = vm_mul(d->n, (size_t)d->stride, &cells) && vm_mul(cells, (size_t)passes, &all);
    double *logs = ok ? vm_malloc(all, sizeof *logs) : NULL;
    if (!logs) return vm_error(VMOER_ERROR_MEMORY, "temperature of %zu items", d->n);
    for (size_t row = 0; row < d->n * (size_t)passes; row++) {
        size_t i = row % d->n;
        const double *p = d[row / d->n].p + i * (size_t)d->stride;
        double *l = logs + row * (size_t)d->stride;
        double largest = log(fmax(p[best_choice(p, d->k[i])], CLIP));
        for (int c = 0; c < d->k[i]; c++) l[c] = log(fmax(p[c], CLIP)) - largest;
    }
    const double ratio = (sqrt(5) - 1) / 2;
    double low = log(.05), high = log(20);
    double a = high - ratio * (high - low), b = low + ratio * (high - low);
    double at_a = scaled_nll(d, passes, logs, a), at_b = scaled_nll(d, passes, logs, b);
    while (high - low > 1e-10) {
        if (at_a <= at_b) {
            high = b, b = a, at_b = at_a;
            a = high - ratio * (high - low);
            at_a = scaled_nll(d, passes, logs, a);
        } else {
            low = a, a = b, at_a = at_b;
            b = low + ratio * (high - low);
            at_b = scaled_nll(d, passes, logs, b);
        }
    }
    double best = (low + high) / 2;
    /* Where nothing is gained (probabilities all equal, say) the search ends anywhere: leave them alone. */
    *temperature = scaled_nll(d, passes, logs, best) < scaled_nll(d, passes, logs, 0) ? exp(best) : 1;
    vm_free(logs);
    return VMOER_OK;
}

static int falling(const void *a, const void *b) {
    const sort_key *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

vmoer_status vm_risk_coverage(const vm_predictions *d, double *out_risk, double *aurc) {
    VM_TRY(check(d));
    sort_key *keys = vm_malloc(d->n, sizeof *keys);
    if (!keys) return vm_error(VMOER_ERROR_MEMORY, "risk-coverage of %zu items", d->n);
    for (size_t i = 0; i < d->n; i++) {
        const double *p = d->p + i * (size_t)d->stride;
        keys[i] = (sort_key){p[best_choice(p, d->k[i])], (uint32_t)i};
    }
    qsort(keys, d->n, sizeof *keys, falling);
    double wrong = 0, area = 0;
    for (size_t rank = 0; rank < d->n; rank++) {
        size_t i = keys[rank].index;
        wrong += best_choice(d->p + i * (size_t)d->stride, d->k[i]) != d->label[i];
        out_risk[rank] = wrong / (double)(rank + 1);
        area += out_risk[rank];
    }
    *aurc = area / (double)d->n;
    vm_free(keys);
    return VMOER_OK;
}
