/* chart.h: the report's pictures as inline SVG, 340 units wide, coloured by the page's style sheet. Every line differs
 * in colour, dashes and marker; every picture has a title and a description in words. Private to report/. */
#ifndef VM_REPORT_CHART_H
#define VM_REPORT_CHART_H

#include "eval/metrics.h"
#include "report/text.h"

enum { VM_STYLE_BASELINE = 0, VM_STYLE_CONTROL = -1 }; /* 1, 2, ...: the others */

typedef struct vm_series {
    const char *name;    /* of a file: escaped here; NULL: another line of the series before it */
    const double *x, *y; /* [n]; a NAN y is a gap */
    size_t n;
    int style;
} vm_series;

typedef struct vm_chart {
    const char *title, *subject; /* "Learning curve" of "runs/fc" (of a file; NULL: none): together the SVG's title */
    const char *x_label, *y_label;
    double x_low, x_high, y_low, y_high; /* what must be inside; the axes end at round numbers around it */
    bool x_log;                          /* powers of ten at equal distances: every x > 0 */
    bool diagonal;                       /* a dashed line from corner to corner: guessing */
    const char *guide;                   /* names a dashed level line, as "chance"; NULL: none */
    double guide_y;
    bool markers;                        /* a mark at every point */
    const vm_series *series;             /* [n_series] */
    size_t n_series;
} vm_chart;
void vm_chart_lines(vm_text *t, const vm_chart *chart);

/* Accuracy by confidence in bars, the gap to the mean confidence hatched, 95% Wilson intervals; below, how many
 * questions each bin holds. */
void vm_chart_reliability(vm_text *t, const char *name, const vm_reliability_bin bins[VM_ECE_BINS]);

/* A row a run: the value with its interval, over the band 0 .. p95 in which a perfectly calibrated model would lie. */
typedef struct vm_floor_row {
    const char *name;
    double value;
    vm_interval interval;
    vm_ece_floor floor;
    int style;
} vm_floor_row;
void vm_chart_floor(vm_text *t, const char *task, const vm_floor_row *rows, size_t n);

#endif
