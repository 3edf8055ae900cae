/* log_search.h: the best value of one positive number by a loss that is dear to measure. */
#ifndef VM_TRAIN_LOG_SEARCH_H
#define VM_TRAIN_LOG_SEARCH_H

#include "vmoer/vmoer_errors.h"

typedef struct vm_log_search {
    double low, high;   /* tried too; 0 < low < high */
    int points;         /* on the first grid, even on the logarithm, in rising order; >= 2 */
    int rounds;         /* after it: each tries the geometric means of the best value so far and its neighbours */
    vmoer_status (*measure)(void *context, double value, double *loss);
    void *context;
} vm_log_search;

/* How often measure is called at most. */
int vm_log_search_most(const vm_log_search *s);
/* *best: the value tried with the lowest loss, ties to the lower value. Errors are those of measure. */
vmoer_status vm_log_search_run(const vm_log_search *s, double *best);

#endif
