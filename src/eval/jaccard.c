/* jaccard.c: see jaccard.h. */
#include "eval/jaccard.h"

#include <math.h>

double vm_jaccard(const int32_t *a, const int32_t *b, int k) {
    int both = 0;
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++) both += a[i] == b[j];
    return (double)both / (2 * k - both);
}

/* By the ratio of neighbouring terms, P(x + 1) / P(x) = (k - x)^2 / ((x + 1) (n - 2k + x + 1)); a sum that would leave
 * the range of double is scaled down, which leaves the quotient alone. */
double vm_jaccard_chance(int n, int k) {
    double weight = 1, total = 0, sum = 0;
    for (int x = k > n - k ? 2 * k - n : 0; x <= k; x++) {
        total += weight;
        sum += weight * x / (2.0 * k - x);
        weight *= (double)(k - x) * (k - x) / ((x + 1.0) * (n - 2.0 * k + x + 1));
        if (weight > 1e200) weight *= 1e-200, total *= 1e-200, sum *= 1e-200;
    }
    return sum / total;
}

double vm_jaccard_corrected(double jaccard, double chance) {
    return chance < 1 ? (jaccard - chance) / (1 - chance) : NAN;
}

void vm_least_stable(const double *jaccard, int n, int count, int32_t *layers) {
    int found = 0;
    for (int l = 0; l < n; l++) {
        int before = 0; /* layers that come before this one */
        for (int other = 0; other < n; other++)
            before += jaccard[other] < jaccard[l] || (jaccard[other] == jaccard[l] && other < l);
        if (before < count) layers[found++] = l;
    }
}
