/* jaccard.c: see jaccard.h. */
#include "eval/jaccard.h"

double vm_jaccard(const int32_t *a, const int32_t *b, int k) {
    int both = 0;
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++) both += a[i] == b[j];
    return (double)both / (2 * k - both);
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
