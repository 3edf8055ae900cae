/* log_search.c: see log_search.h. */
#include "train/log_search.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <string.h>

typedef struct trial {
    double value, loss;
} trial;

int vm_log_search_most(const vm_log_search *s) { return s->points + 2 * s->rounds; }

static int best_of(const trial *t, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (t[i].loss < t[best].loss) best = i;
    return best;
}

/* Tries the value between t[i] and t[i + 1] and puts it there. */
static vmoer_status try_between(const vm_log_search *s, trial *t, int *n, int i) {
    trial new = {.value = sqrt(t[i].value * t[i + 1].value)};
    VM_TRY(s->measure(s->context, new.value, &new.loss));
    memmove(t + i + 2, t + i + 1, (size_t)(*n - i - 1) * sizeof *t);
    t[i + 1] = new;
    ++*n;
    return VMOER_OK;
}

static vmoer_status search(const vm_log_search *s, trial *t, double *best) {
    int n = 0;
    for (; n < s->points; n++) {
        t[n].value = n == s->points - 1 ? s->high : s->low * pow(s->high / s->low, (double)n / (s->points - 1));
        VM_TRY(s->measure(s->context, t[n].value, &t[n].loss));
    }
    for (int round = 0; round < s->rounds; round++) {
        int at = best_of(t, n);
        if (at + 1 < n) VM_TRY(try_between(s, t, &n, at)); /* the upper one first: `at` stays where it is */
        if (at > 0) VM_TRY(try_between(s, t, &n, at - 1));
    }
    *best = t[best_of(t, n)].value;
    return VMOER_OK;
}

vmoer_status vm_log_search_run(const vm_log_search *s, double *best) {
    trial *t = vm_malloc((size_t)vm_log_search_most(s), sizeof *t);
    if (!t) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d trials", vm_log_search_most(s));
    vmoer_status status = search(s, t, best);
    vm_free(t);
    return status;
}
