/* page.h: the parts of the page, in the order in which they stand. Each appends HTML. Private to report/. */
#ifndef VM_REPORT_PAGE_H
#define VM_REPORT_PAGE_H

#include "report/chart.h"
#include "report/compare.h"
#include "report/names.h"
#include "report/text.h"

void vm_page_style(vm_text *t);                                                        /* style.c: the CSS */
void vm_page_summary(vm_text *t, const vm_report_data *data, const vm_groups *groups); /* summary.c: plain words */
/* An experiment (`vmoer reproduce`): what it says of itself within the summary; then its sections, experiment.c and: */
void vm_page_experiment_summary(vm_text *t, const vm_report_experiment *x);
void vm_page_experiment(vm_text *t, const vm_report_data *data, size_t index);
void vm_page_calibration(vm_text *t, const vm_report_experiment *x);          /* calibration.c: routers by task, MAPs side by side */
void vm_page_aurocs(vm_text *t, const vm_report_data *data, const vm_report_experiment *x, size_t index); /* aurocs.c: by signal and set */
void vm_page_set_means(vm_text *t, const vm_report_experiment *x, size_t index); /* conformal.c: answer sets */
void vm_page_maps(vm_text *t, const vm_report_experiment *x, size_t index);   /* training.c: over-fitting */
/* Of an experiment (index > 0, its place + 1) or of single runs (index 0): */
void vm_page_steady(vm_text *t, const vm_report_steady *all, size_t n, size_t index); /* steady.c: choices under noise; alive? */
void vm_page_cost(vm_text *t, const vm_report_cost *costs, size_t n, size_t index);   /* cost.c */
void vm_page_conformal(vm_text *t, const vm_report_conformal *all, size_t n);          /* conformal.c: answer sets, when to abstain */
void vm_page_group(vm_text *t, const vm_group *group, size_t index);                   /* tasks.c: tables and figures */
void vm_page_ood(vm_text *t, const vm_group *group, size_t index);          /* strange.c: strange questions */
void vm_page_training(vm_text *t, const vm_report_data *data);              /* training.c: learning curves */
vmoer_status vm_page_configuration(vm_text *t, const vm_report_data *data); /* appendix.c: settings, fingerprints */
void vm_page_glossary(vm_text *t);                                          /* glossary.c */

/* "published · openbookqa"; the task alone where the group has no name. */
void vm_page_heading(vm_text *t, const vm_group *group, const char *what);
/* " [0.12, 0.21]" with so many decimals (1 or 3), times scale. */
void vm_page_interval(vm_text *t, vm_interval interval, double scale, int decimals);
/* The same as a line below a value; nothing where there is none. */
void vm_page_sub_interval(vm_text *t, vm_interval interval, double scale, int decimals);
/* Opens a cell of AUROC, coloured by its value. */
void vm_page_begin_heat(vm_text *t, double auroc);
/* Opens the row of a router of an experiment: its name, and what it is. */
void vm_page_router(vm_text *t, const char *router, bool words);
/* A difference as ✓ better, ✗ worse or neither, with its interval; a share in points (percent: higher is better). */
void vm_page_difference(vm_text *t, const vm_figure *difference, bool percent);
/* How to read reliability diagrams. */
void vm_page_reliability_note(vm_text *t);
/* Opens a grid of n figures: two columns where three would leave one alone in its row. Ends with "</div>". */
void vm_page_figures(vm_text *t, size_t n);
/* The picture of n ROC curves. */
void vm_page_rocs(vm_text *t, const char *subject, const vm_series *series, size_t n);
/* A table cell: AUROC, its interval, what it says; `more`: AUPR and FPR95 too. NULL: a dash. */
void vm_page_auroc(vm_text *t, const vm_report_signal *s, bool more);

#endif
