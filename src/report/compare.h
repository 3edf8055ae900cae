/* compare.h: which runs belong together, what each is compared with, and how far they differ on the same questions.
 * Private to report/. */
#ifndef VM_REPORT_COMPARE_H
#define VM_REPORT_COMPARE_H

#include "report/collect.h"

/* One run in the table of a task. */
typedef struct vm_row {
    const vm_report_run *run;
    const vm_report_task *task;
    const char *name;        /* of the run, within its group; with the folder where two have the same */
    size_t paired_n;         /* questions shared with the baseline; 0: no comparison */
    vm_metrics difference;   /* this run - baseline, on those questions */
    vm_metrics_ci interval;  /* 95%, paired bootstrap */
    double *coverage, *risk; /* [task->samples.n], NULL without samples */
    double aurc;             /* NAN without samples */
} vm_row;

typedef struct vm_comparison {
    const char *task;
    bool shifted;  /* only met as an out-of-distribution set */
    bool baseline; /* rows[0] is what the others are compared with */
    vm_row *rows;
    size_t n_rows;
} vm_comparison;

/* One out-of-distribution set against one home task; every run that has it counts. */
typedef struct vm_strange_set {
    const char *name, *id_task;
    size_t n, id_n; /* questions, of the first run that has it */
} vm_strange_set;

typedef struct vm_group {
    const char *name;     /* "" for labels without one */
    vm_comparison *tasks; /* home tasks first */
    size_t n_tasks;
    const vm_report_ood **oods; /* [n_oods] */
    const char **ood_names;     /* [n_oods] */
    size_t n_oods;
    vm_strange_set *sets;
    size_t n_sets;
} vm_group;

typedef struct vm_groups {
    vm_group *items;
    size_t n;
} vm_groups;

enum { VM_REPORT_RESAMPLES = 2000 };

/* Everything is allocated in data's arena. */
vmoer_status vm_report_compare(const vm_report_data *data, const vmoer_hooks *hooks, vm_groups *out);

/* The set in one result, the signal in one set; NULL: not there. */
const vm_report_set *vm_set_find(const vm_report_ood *ood, const vm_strange_set *set);
const vm_report_signal *vm_signal_find(const vm_report_set *set, const char *name);

/* What an interval of a difference says. */
typedef enum vm_verdict { VM_BETTER, VM_WORSE, VM_UNCLEAR } vm_verdict;
vm_verdict vm_judge(vm_interval difference, bool higher_is_better);

#endif
