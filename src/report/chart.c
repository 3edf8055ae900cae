/* chart.c: axes, lines, bars. Coordinates grow to the right and downwards, as in SVG. */
#include "report/chart.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 340, LEFT = 46, RIGHT = 10, TOP = 12, LEGEND_ROW = 17, MAX_POINTS = 240, SHORT_NAME = 18 };

/* Values from low to high onto from .. to. A logarithmic one speaks of the values' logarithms, in whole powers of ten.
 */
typedef struct axis {
    double low, high, from, to, step;
    int decimals;
    bool logarithmic;
} axis;

static double place(const axis *a, double value) {
    if (a->logarithmic) value = log10(value);
    double share = (value - a->low) / (a->high - a->low);
    return a->from + fmin(fmax(share, 0), 1) * (a->to - a->from); /* a value beyond the axis lies on its end */
}

/* Ends at multiples of 1, 2 or 5 x 10^i, with about `ticks` of them. */
static axis make_axis(double low, double high, double from, double to, int ticks) {
    if (!(low >= -1e12 && high <= 1e12 && low <= high)) low = 0, high = 1; /* nothing that could be drawn */
    if (high - low < 1e-9 * fmax(1, fabs(high))) {
        double room = fmax(fabs(high), 1) * .1;
        low -= room;
        high += room;
    }
    double raw = (high - low) / ticks, unit = pow(10, floor(log10(raw)));
    double step = unit * (raw / unit <= 1.0001 ? 1 : raw / unit <= 2.0001 ? 2 : raw / unit <= 5.0001 ? 5 : 10);
    int decimals = (int)fmin(fmax(-floor(log10(step) + 1e-9), 0), 6);
    return (axis){step * floor(low / step + 1e-6), step * ceil(high / step - 1e-6), from, to, step, decimals, false};
}

static axis make_log_axis(double low, double high, double from, double to) {
    axis a = {floor(log10(low) + 1e-6), ceil(log10(high) - 1e-6), from, to, 1, 0, true};
    if (!(a.low >= -12 && a.high <= 12 && a.low <= a.high)) a.low = -1, a.high = 1; /* nothing that could be drawn */
    if (a.low == a.high) a.low -= 1;
    return a;
}

static void put_number(vm_text *t, double value, int decimals) {
    static const char *const FORMAT[] = {"%n0", "%n1", "%n2", "%n3", "%n4", "%n5", "%n6"};
    vm_text_put(t, FORMAT[decimals], value);
}

static int tick_count(const axis *a) { return (int)fmin(lround((a->high - a->low) / a->step), 20); }

/* Opens the picture up to its description, which the caller writes and ends with end_description. */
static void begin_svg(vm_text *t, double height, const char *title, const char *subject) {
    int id = ++t->next_id;
    vm_text_put(t, "<svg role=\"img\" viewBox=\"0 0 %d %0\" width=\"%d\" height=\"%0\" aria-labelledby=\"t%d d%d\">",
                WIDTH, height, WIDTH, height, id, id);
    vm_text_put(t, "<title id=\"t%d\">%s", id, title);
    if (subject) vm_text_put(t, ": %t", subject);
    vm_text_put(t, "</title><desc id=\"d%d\">", id);
}

static void end_description(vm_text *t) { vm_text_put(t, "</desc>\n"); }

static void end_svg(vm_text *t) { vm_text_put(t, "</svg>"); }

static void x_axis(vm_text *t, const axis *x, double top, double bottom, const char *label) {
    for (int i = 0; i <= tick_count(x); i++) {
        double value = x->low + i * x->step, at;
        if (x->logarithmic) value = pow(10, value);
        at = place(x, value);
        vm_text_put(
            t, "<line class=\"grid\" x1=\"%1\" x2=\"%1\" y1=\"%1\" y2=\"%1\"/><text class=\"mid\" x=\"%1\" y=\"%1\">",
            at, at, top, bottom, at, bottom + 14);
        if (x->logarithmic)
            vm_text_put(t, "%g", value);
        else
            put_number(t, value, x->decimals);
        vm_text_put(t, "</text>");
    }
    vm_text_put(t, "<text class=\"mid name\" x=\"%1\" y=\"%1\">%s</text>\n", (x->from + x->to) / 2, bottom + 30, label);
}

static void y_axis(vm_text *t, const axis *y, double left, double right, const char *label) {
    for (int i = 0; i <= tick_count(y); i++) {
        double value = y->low + i * y->step, at = place(y, value);
        vm_text_put(
            t, "<line class=\"grid\" x1=\"%1\" x2=\"%1\" y1=\"%1\" y2=\"%1\"/><text class=\"end\" x=\"%1\" y=\"%1\">",
            left, right, at, at, left - 5, at + 3.5);
        put_number(t, value, y->decimals);
        vm_text_put(t, "</text>");
    }
    double middle = (y->from + y->to) / 2;
    vm_text_put(t, "<text class=\"mid name\" transform=\"translate(10 %1) rotate(-90)\">%s</text>\n", middle, label);
}

static const char *dashes(int style) {
    static const char *const DASHES[] = {"7 3", "2 2.5", "9 3 2 3", "", "5 2 1 2 1 2"};
    if (style == VM_STYLE_CONTROL) return "1 4";
    return style == VM_STYLE_BASELINE ? "" : DASHES[(style - 1) % 5];
}

/* Six colours; the sheet's classes are c0 (baseline), c1 .. c6 and cc (control). */
static void put_class(vm_text *t, int style) {
    if (style == VM_STYLE_CONTROL)
        vm_text_put(t, "cc");
    else
        vm_text_put(t, "c%d", style == VM_STYLE_BASELINE ? 0 : 1 + (style - 1) % 6);
}

static void put_marker(vm_text *t, int style, double x, double y) {
    int shape = style <= 0 ? 0 : 1 + (style - 1) % 4;
    if (shape == 0)
        vm_text_put(t, "<circle cx=\"%1\" cy=\"%1\" r=\"3\"/>", x, y);
    else if (shape == 1)
        vm_text_put(t, "<rect x=\"%1\" y=\"%1\" width=\"5.6\" height=\"5.6\"/>", x - 2.8, y - 2.8);
    else if (shape == 2)
        vm_text_put(t, "<path d=\"M%1 %1l3.6 6.4h-7.2z\"/>", x, y - 4.2);
    else if (shape == 3)
        vm_text_put(t, "<path d=\"M%1 %1l4 4-4 4-4-4z\"/>", x, y - 4);
    else
        vm_text_put(t, "<path d=\"M%1 %1l3.6-6.4h-7.2z\"/>", x, y + 4.2);
}

static void put_line(vm_text *t, const vm_chart *chart, const vm_series *s, const axis *x, const axis *y) {
    size_t stride = s->n > MAX_POINTS ? (s->n + MAX_POINTS - 1) / MAX_POINTS : 1;
    bool pen_down = false;
    vm_text_put(t, "<g class=\"line ");
    put_class(t, s->style);
    vm_text_put(t, "\"><path stroke-dasharray=\"%s\" d=\"", dashes(s->style));
    for (size_t i = 0; i < s->n; i++) {
        bool kept = i % stride == 0 || i + 1 == s->n;
        if (!kept || isnan(s->y[i])) continue; /* a line goes on over what was not measured */
        vm_text_put(t, pen_down ? "L%1 %1" : "M%1 %1", place(x, s->x[i]), place(y, s->y[i]));
        pen_down = true;
    }
    vm_text_put(t, "\"/>");
    for (size_t i = 0; i < s->n && chart->markers; i++) {
        if (!isnan(s->y[i])) put_marker(t, s->style, place(x, s->x[i]), place(y, s->y[i]));
    }
    vm_text_put(t, "</g>\n");
}

static size_t named(const vm_chart *chart) {
    size_t n = 0;
    for (size_t i = 0; i < chart->n_series; i++) n += chart->series[i].name != NULL;
    return n;
}

/* Two columns where all names are short. */
static bool two_columns(const vm_chart *chart) {
    for (size_t i = 0; i < chart->n_series; i++) {
        if (chart->series[i].name && vm_text_length(chart->series[i].name) > SHORT_NAME) return false;
    }
    return named(chart) > 1;
}

static size_t legend_rows(const vm_chart *chart) { return two_columns(chart) ? (named(chart) + 1) / 2 : named(chart); }

static void legend(vm_text *t, const vm_chart *chart, double top) {
    bool two = two_columns(chart);
    size_t i = 0;
    for (const vm_series *s = chart->series; s < chart->series + chart->n_series; s++) {
        if (!s->name) continue;
        double x = two && i % 2 ? LEFT + 148 : LEFT, y = top + LEGEND_ROW * (double)(two ? i / 2 : i) + 8;
        i++;
        vm_text_put(t, "<g class=\"line ");
        put_class(t, s->style);
        vm_text_put(t, "\"><path stroke-dasharray=\"%s\" d=\"M%1 %1h28\"/>", dashes(s->style), x, y);
        if (chart->markers) put_marker(t, s->style, x + 14, y);
        vm_text_put(t, "</g><text x=\"%1\" y=\"%1\">", x + 34, y + 4);
        vm_text_short(t, s->name, two ? SHORT_NAME : 40);
        vm_text_put(t, "</text>\n");
    }
}

/* First and last value of each line, for who cannot see them. */
static void describe_lines(vm_text *t, const vm_chart *chart) {
    vm_text_put(t, "%s against %s.", chart->y_label, chart->x_label);
    for (size_t i = 0; i < chart->n_series; i++) {
        const vm_series *s = &chart->series[i];
        size_t first = 0, last = s->n;
        while (first < s->n && isnan(s->y[first])) first++;
        while (last > first && isnan(s->y[last - 1])) last--;
        if (first < last)
            vm_text_put(t, " %t: from %n3 at %n2 to %n3 at %n2.", s->name ? s->name : "another", s->y[first],
                        s->x[first], s->y[last - 1], s->x[last - 1]);
    }
}

void vm_chart_lines(vm_text *t, const vm_chart *chart) {
    const double plot = 210, bottom = TOP + plot, legend_top = bottom + 38;
    axis x = chart->x_log ? make_log_axis(chart->x_low, chart->x_high, LEFT, WIDTH - RIGHT)
                          : make_axis(chart->x_low, chart->x_high, LEFT, WIDTH - RIGHT, 5);
    axis y = make_axis(chart->y_low, chart->y_high, bottom, TOP, 5);
    begin_svg(t, legend_top + LEGEND_ROW * (double)legend_rows(chart) + 4, chart->title, chart->subject);
    describe_lines(t, chart);
    end_description(t);
    x_axis(t, &x, TOP, bottom, chart->x_label);
    y_axis(t, &y, LEFT, WIDTH - RIGHT, chart->y_label);
    if (chart->diagonal)
        vm_text_put(t, "<line class=\"guess\" x1=\"%d\" y1=\"%1\" x2=\"%d\" y2=\"%d\"/>\n", LEFT, bottom, WIDTH - RIGHT,
                    TOP);
    if (chart->guide)
        vm_text_put(t,
                    "<line class=\"guess\" x1=\"%d\" x2=\"%d\" y1=\"%1\" y2=\"%1\"/><text class=\"end\" x=\"%d\" "
                    "y=\"%1\">%s</text>\n",
                    LEFT, WIDTH - RIGHT, place(&y, chart->guide_y), place(&y, chart->guide_y), WIDTH - RIGHT - 3,
                    place(&y, chart->guide_y) - 4, chart->guide);
    for (size_t i = chart->n_series; i-- > 0;) put_line(t, chart, &chart->series[i], &x, &y); /* the baseline on top */
    legend(t, chart, legend_top);
    end_svg(t);
}

/* Wilson's 95% interval of a share. */
static vm_interval wilson(double share, double n) {
    const double z = 1.959964;
    double centre = (share + z * z / (2 * n)) / (1 + z * z / n);
    double half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n);
    return (vm_interval){centre - half, centre + half};
}

static void describe_bins(vm_text *t, const vm_reliability_bin *bins) {
    vm_text_put(t, "Accuracy of the answers by how confident they were.");
    for (int b = 0; b < VM_ECE_BINS; b++) {
        if (bins[b].count == 0) continue;
        vm_text_put(t, " Confidence %2 to %2: %u questions, mean confidence %2, accuracy %2.", bins[b].low,
                    bins[b].high, bins[b].count, bins[b].confidence, bins[b].accuracy);
    }
}

/* The gap between claim and truth: hatched where too much was claimed, dotted where too little. Drawn line by line, as
 * a pattern fill would become a bitmap on paper. */
static void gap(vm_text *t, bool over, double left, double top, double width, double height) {
    const double step = 5;
    vm_text_put(t, "<g class=\"%s\"><rect x=\"%1\" y=\"%1\" width=\"%1\" height=\"%1\"/><path d=\"",
                over ? "over" : "under", left, top, width, height);
    if (over) { /* where x + y = s in the box */
        for (double s = step; s < width + height; s += step) {
            vm_text_put(t, "M%1 %1L%1 %1", left + fmax(0, s - height), top + fmin(s, height), left + fmin(s, width),
                        top + fmax(0, s - width));
        }
    } else {
        for (double y = step / 2; y < height; y += step) {
            for (double x = step / 2; x < width; x += step) vm_text_put(t, "M%1 %1h0", left + x, top + y);
        }
    }
    vm_text_put(t, "\"/></g>");
}

static void reliability_bar(vm_text *t, const vm_reliability_bin *bin, const axis *x, const axis *y) {
    double left = place(x, bin->low) + 1, width = place(x, bin->high) - left - 1, middle = left + width / 2;
    double base = y->from, right = place(y, bin->accuracy), sure = place(y, bin->confidence);
    vm_interval range = wilson(fmin(fmax(bin->accuracy, 0), 1), (double)bin->count);
    vm_text_put(t, "<g%s><rect class=\"bar\" x=\"%1\" y=\"%1\" width=\"%1\" height=\"%1\"/>",
                bin->count < 10 ? " class=\"few\"" : "", left, right, width, base - right);
    gap(t, bin->confidence > bin->accuracy, left, fmin(right, sure), width, fabs(right - sure));
    vm_text_put(t, "<line class=\"sure\" x1=\"%1\" x2=\"%1\" y1=\"%1\" y2=\"%1\"/>", left, left + width, sure, sure);
    vm_text_put(t, "<line class=\"whisker\" x1=\"%1\" x2=\"%1\" y1=\"%1\" y2=\"%1\"/></g>\n", middle, middle,
                place(y, range.low), place(y, range.high));
}

static void count_bar(vm_text *t, const vm_reliability_bin *bin, size_t most, const axis *x, double base,
                      double height) {
    double left = place(x, bin->low) + 1, width = place(x, bin->high) - left - 1;
    double tall = most ? height * (double)bin->count / (double)most : 0;
    vm_text_put(t, "<rect class=\"count\" x=\"%1\" y=\"%1\" width=\"%1\" height=\"%1\"/>", left, base - tall, width,
                tall);
    vm_text_put(t, "<text class=\"mid tiny\" x=\"%1\" y=\"%1\">%u</text>", left + width / 2, base - tall - 2.5,
                bin->count);
}

void vm_chart_reliability(vm_text *t, const char *name, const vm_reliability_bin bins[VM_ECE_BINS]) {
    const double plot_bottom = TOP + 220, count_bottom = plot_bottom + 68, count_height = 46;
    axis x = make_axis(0, 1, LEFT, WIDTH - RIGHT, 5), y = make_axis(0, 1, plot_bottom, TOP, 5);
    size_t most = 0;
    for (int b = 0; b < VM_ECE_BINS; b++) most = bins[b].count > most ? bins[b].count : most;
    begin_svg(t, count_bottom + 36, "Reliability diagram", name);
    describe_bins(t, bins);
    end_description(t);
    y_axis(t, &y, LEFT, WIDTH - RIGHT, "accuracy");
    for (int b = 0; b < VM_ECE_BINS; b++) {
        if (bins[b].count > 0) reliability_bar(t, &bins[b], &x, &y);
    }
    vm_text_put(t, "<line class=\"guess\" x1=\"%d\" y1=\"%1\" x2=\"%d\" y2=\"%d\"/>\n", LEFT, plot_bottom,
                WIDTH - RIGHT, TOP);
    vm_text_put(t, "<line class=\"base\" x1=\"%d\" x2=\"%d\" y1=\"%1\" y2=\"%1\"/>", LEFT, WIDTH - RIGHT, plot_bottom,
                plot_bottom);
    x_axis(t, &x, plot_bottom + 4, count_bottom, "confidence");
    for (int b = 0; b < VM_ECE_BINS; b++) {
        if (bins[b].count > 0) count_bar(t, &bins[b], most, &x, count_bottom, count_height);
    }
    vm_text_put(t, "\n<text class=\"mid name\" transform=\"translate(10 %1) rotate(-90)\">questions</text>",
                count_bottom - count_height / 2);
    end_svg(t);
}

static void describe_floor(vm_text *t, const vm_floor_row *rows, size_t n) {
    vm_text_put(t, "Calibration error with 95%% intervals.");
    for (size_t i = 0; i < n; i++) {
        vm_text_put(
            t,
            " %t: %n3, interval %n3 to %n3; a perfectly calibrated model: %n3 on average, below %n3 in 95%% of cases.",
            rows[i].name, rows[i].value, rows[i].interval.low, rows[i].interval.high, rows[i].floor.mean,
            rows[i].floor.p95);
    }
}

void vm_chart_floor(vm_text *t, const char *task, const vm_floor_row *rows, size_t n) {
    const double row_height = 38, bottom = TOP + row_height * (double)n + 2;
    double high = 0;
    for (size_t i = 0; i < n; i++)
        high = fmax(high, fmax(fmax(rows[i].value, rows[i].interval.high), rows[i].floor.p95));
    axis x = make_axis(0, high, 12, WIDTH - 14, 5);
    begin_svg(t, bottom + 36, "Calibration error", task);
    describe_floor(t, rows, n);
    end_description(t);
    x_axis(t, &x, TOP, bottom, "calibration error (ECE)");
    for (size_t i = 0; i < n; i++) {
        const vm_floor_row *r = &rows[i];
        double top = TOP + row_height * (double)i, middle = top + 25;
        vm_text_put(t, "<text class=\"ink\" x=\"12\" y=\"%1\">", top + 12);
        vm_text_short(t, r->name, 28);
        vm_text_put(t, "</text><text class=\"end\" x=\"%d\" y=\"%1\">%n3 [%n3, %n3]</text>", WIDTH - 14, top + 12,
                    r->value, r->interval.low, r->interval.high);
        vm_text_put(t, "<rect class=\"chance\" x=\"%1\" y=\"%1\" width=\"%1\" height=\"12\"/>", x.from, middle - 6,
                    place(&x, r->floor.p95) - x.from);
        vm_text_put(t, "<line class=\"chance-mean\" x1=\"%1\" x2=\"%1\" y1=\"%1\" y2=\"%1\"/><g class=\"line ",
                    place(&x, r->floor.mean), place(&x, r->floor.mean), middle - 6, middle + 6);
        put_class(t, r->style);
        vm_text_put(t, "\"><path d=\"M%1 %1H%1\"/>", place(&x, r->interval.low), middle, place(&x, r->interval.high));
        put_marker(t, r->style, place(&x, r->value), middle);
        vm_text_put(t, "</g>\n");
    }
    end_svg(t);
}
