/* page.h: the parts of the page, in the order in which they stand. Each appends HTML. Private to report/. */
#ifndef VM_REPORT_PAGE_H
#define VM_REPORT_PAGE_H

#include "report/chart.h"
#include "report/compare.h"
#include "report/text.h"

void vm_page_style(vm_text *t);                                                        /* style.c: the CSS */
void vm_page_summary(vm_text *t, const vm_report_data *data, const vm_groups *groups); /* summary.c: plain words */
void vm_page_group(vm_text *t, const vm_group *group, size_t index);                   /* tasks.c: tables and figures */
void vm_page_ood(vm_text *t, const vm_group *group, size_t index);          /* strange.c: strange questions */
void vm_page_training(vm_text *t, const vm_report_data *data);              /* appendix.c: learning curves */
vmoer_status vm_page_configuration(vm_text *t, const vm_report_data *data); /* appendix.c: settings, fingerprints */
void vm_page_glossary(vm_text *t);                                          /* glossary.c */

/* "published · openbookqa"; the task alone where the group has no name. */
void vm_page_heading(vm_text *t, const vm_group *group, const char *what);
/* " [0.12, 0.21]" with so many decimals (1 or 3), times scale. */
void vm_page_interval(vm_text *t, vm_interval interval, double scale, int decimals);
/* "choice entropy" for "choice_entropy": what a signal is called in sentences. Escaped. */
void vm_page_signal(vm_text *t, const char *name);
/* Opens a grid of n figures: two columns where three would leave one alone in its row. Ends with "</div>". */
void vm_page_figures(vm_text *t, size_t n);
/* A table cell: AUROC, its interval, what it says; `more`: AUPR and FPR95 too. NULL: a dash. */
void vm_page_auroc(vm_text *t, const vm_report_signal *s, bool more);

#endif
