/* tasks.c: the tables and figures of the tasks of one group. */
#include "report/page.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

static const vm_metrics_ci NO_INTERVAL = {{NAN, NAN}, {NAN, NAN}, {NAN, NAN}, {NAN, NAN}, {NAN, NAN}, {NAN, NAN}};

/* One figure of one run: value, interval, difference to the baseline. */
static void metric_cell(vm_text *t, const vm_row *row, double value, vm_interval interval, double difference,
                        vm_interval of_difference, bool percent) {
    static const char *const CLASS[] = {"better", "worse", "unclear"};
    double scale = percent ? 100 : 1;
    int decimals = percent ? 1 : 3;
    vm_text_put(t, percent ? "<td><b>%n1%%</b><span class=\"sub\">" : "<td><b>%n3</b><span class=\"sub\">",
                scale * value);
    vm_page_interval(t, interval, scale, decimals);
    vm_text_put(t, "</span>");
    if (row->paired_n > 0) {
        const char *verdict = CLASS[vm_judge(of_difference, percent)];
        vm_text_put(t,
                    percent ? "<span class=\"tag %s\">%+1 %s</span><span class=\"sub\">"
                            : "<span class=\"tag %s\">%+3 %s</span><span class=\"sub\">",
                    verdict, scale * difference, verdict);
        vm_page_interval(t, of_difference, scale, decimals);
        vm_text_put(t, "</span>");
    }
    vm_text_put(t, "</td>");
}

static void plain_cell(vm_text *t, double value, vm_interval interval) {
    vm_text_put(t, "<td>%n3", value);
    if (!isnan(interval.low)) {
        vm_text_put(t, "<span class=\"sub\">");
        vm_page_interval(t, interval, 1, 3);
        vm_text_put(t, "</span>");
    }
    vm_text_put(t, "</td>");
}

static void table_row(vm_text *t, const vm_comparison *c, const vm_row *row) {
    const vm_report_task *task = row->task;
    bool base = c->baseline && row == c->rows;
    const vm_metrics *m = &task->metrics, *d = &row->difference;
    const vm_metrics_ci *ci = &task->ci, *of = row->paired_n ? &row->interval : &NO_INTERVAL;
    vm_text_put(t, "<tr%s><th scope=\"row\">%t<span class=\"sub\">%t%s", base ? " class=\"base\"" : "", row->name,
                row->run->router_kind, base ? ", baseline" : "");
    if (task->n != c->rows[0].task->n) vm_text_put(t, ", %u questions", task->n);
    vm_text_put(t, "</span></th>");
    metric_cell(t, row, m->acc, ci->acc, d->acc, of->acc, true);
    metric_cell(t, row, m->nll, ci->nll, d->nll, of->nll, false);
    metric_cell(t, row, m->ece, ci->ece, d->ece, of->ece, false);
    vm_text_put(t, "<td>%n3<span class=\"sub\">[%n3]</span></td><td>%+3%s</td>", task->floor.mean, task->floor.p95,
                m->ece - task->floor.mean, m->ece <= task->floor.p95 ? "<span class=\"sub\">within chance</span>" : "");
    metric_cell(t, row, m->brier, ci->brier, d->brier, of->brier, false);
    plain_cell(t, m->mce, ci->mce);
    plain_cell(t, m->ece_mass, ci->ece_mass);
    plain_cell(t, row->aurc, NO_INTERVAL.acc);
    vm_text_put(t, "</tr>\n");
}

static void table(vm_text *t, const vm_comparison *c) {
    vm_text_put(t, "<div "
                   "class=\"scroll\"><table><thead><tr><th>Run</th><th>Accuracy&nbsp;↑</th><th>NLL&nbsp;↓</"
                   "th><th>ECE&nbsp;↓</th><th>Chance floor</th><th>Excess ECE&nbsp;↓</th>"
                   "<th>Brier&nbsp;↓</th><th>MCE&nbsp;↓</th><th>Equal-mass "
                   "ECE&nbsp;↓</th><th>AURC&nbsp;↓</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < c->n_rows; i++) table_row(t, c, &c->rows[i]);
    vm_text_put(t, "</tbody></table></div>\n<p class=\"note\">↑ higher is better, ↓ lower is better. In brackets: 95%% "
                   "intervals. Chance floor: mean and [95th percentile] of the ECE of a perfectly "
                   "calibrated model.");
    if (c->baseline && c->n_rows > 1) {
        vm_text_put(t, " Coloured: the difference to %t on the same questions (accuracy in points) with its interval.",
                    c->rows[0].name);
    }
    vm_text_put(t, "</p>\n");
}

static int row_style(const vm_comparison *c, size_t i) { return c->baseline ? (int)i : (int)i + 1; }

enum { MOST_FIGURES = 8 };

/* The runs that figures show: all where they are few, else the first of each of the main routers. */
static bool is_drawn(const vm_comparison *c, size_t i) {
    int style = vm_router_style(c->rows[i].run->router_kind);
    if (c->n_rows <= MOST_FIGURES) return true;
    for (size_t before = 0; before < i; before++) {
        if (vm_router_style(c->rows[before].run->router_kind) == style) return false;
    }
    return style != VM_STYLE_UNNAMED;
}

static size_t count_drawn(const vm_comparison *c) {
    size_t n = 0;
    for (size_t i = 0; i < c->n_rows; i++) n += is_drawn(c, i);
    return n;
}

static void floor_figure(vm_text *t, const vm_comparison *c) {
    vm_floor_row *rows = vm_malloc(c->n_rows, sizeof *rows);
    if (!rows) {
        t->failed = true;
        return;
    }
    for (size_t i = 0; i < c->n_rows; i++) {
        const vm_report_task *task = c->rows[i].task;
        rows[i] = (vm_floor_row){c->rows[i].name, task->metrics.ece, task->ci.ece, task->floor, row_style(c, i)};
    }
    vm_text_put(t, "<figure><figcaption><b>Calibration error</b>With 95%% intervals. Grey band: where a perfectly "
                   "calibrated model would lie in 95%% of cases; its line: the mean. Resampling adds noise, so an "
                   "interval can lie to the right of its value.</figcaption>");
    vm_chart_floor(t, c->task, rows, c->n_rows);
    vm_text_put(t, "</figure>\n");
    vm_free(rows);
}

/* The first few points of the curve are the luck of single questions: it starts at ten. */
static void risk_figure(vm_text *t, const vm_comparison *c) {
    enum { SKIP = 9 };
    vm_series *series = vm_malloc(c->n_rows, sizeof *series);
    size_t n = 0;
    double high = 0;
    if (!series) {
        t->failed = true;
        return;
    }
    for (size_t i = 0; i < c->n_rows; i++) {
        const vm_row *row = &c->rows[i];
        size_t skip = row->task->samples.n > 2 * SKIP ? SKIP : 0;
        if (!row->risk || !is_drawn(c, i)) continue;
        series[n++] = (vm_series){row->name, row->coverage + skip, row->risk + skip, row->task->samples.n - skip,
                                  row_style(c, i)};
        for (size_t k = skip; k < row->task->samples.n; k++) high = fmax(high, row->risk[k]);
    }
    if (n > 0) {
        vm_text_put(t, "<figure><figcaption><b>Risk and coverage</b>Share of wrong answers when only the most "
                       "confident share of the questions is answered. Lower is better.</figcaption>");
        vm_chart_lines(t, &(vm_chart){.title = "Risk-coverage curves",
                                      .subject = c->task,
                                      .x_label = "share of questions answered",
                                      .y_label = "share wrong",
                                      .x_high = 1,
                                      .y_high = high,
                                      .series = series,
                                      .n_series = n});
        vm_text_put(t, "</figure>\n");
    }
    vm_free(series);
}

void vm_page_reliability_note(vm_text *t) {
    vm_text_put(t, "<p class=\"note\">Bars: how often answers of that confidence are right. "
                   "Black line: how confident they were. <b>Hatched</b>: claimed too much; "
                   "<b>dotted</b>: claimed too little. Dashed diagonal: perfect calibration. Thin lines: 95%% "
                   "intervals; pale bars hold fewer than ten questions. Below: questions in each bin.</p>\n");
}

static void reliability_figures(vm_text *t, const vm_comparison *c) {
    vm_text_put(t, "<h4>Reliability</h4>\n");
    vm_page_reliability_note(t);
    vm_page_figures(t, count_drawn(c));
    for (size_t i = 0; i < c->n_rows; i++) {
        const vm_row *row = &c->rows[i];
        if (!is_drawn(c, i)) continue;
        vm_text_put(t, "<figure><figcaption><b>%t</b>ECE %n3, chance floor %n3</figcaption>", row->name,
                    row->task->metrics.ece, row->task->floor.mean);
        vm_chart_reliability(t, row->name, row->task->bins);
        vm_text_put(t, "</figure>\n");
    }
    vm_text_put(t, "</div>\n");
}

static size_t most_layers(const vm_comparison *c) {
    size_t most = 0;
    for (size_t i = 0; i < c->n_rows; i++) most = c->rows[i].task->n_layers > most ? c->rows[i].task->n_layers : most;
    return most;
}

/* One fact by layer, a line a run. x, y: [n_rows, layers] to fill. */
static void routing_figure(vm_text *t, const vm_comparison *c, int fact, vm_series *series, double *x, double *y,
                           size_t layers) {
    static const char *const TITLE[] = {"Spread of the routing scores", "Margin of the choice", "Evenness of the load"};
    static const char *const WORDS[] = {
        "Standard deviation of the scores over the experts (logit_spread).",
        "Probability of the last expert taken minus that of the first one left out (margin): small means easily "
        "tipped.",
        "Entropy of how often each expert is used, in nats (load_entropy): high means all are used."};
    static const char *const UNIT[] = {"spread", "margin", "entropy, nats"};
    double high = -INFINITY, low = fact == 2 ? INFINITY : 0, last = 0; /* spread and margin are read from 0 on */
    size_t n = 0;
    for (size_t i = 0; i < c->n_rows; i++) {
        const vm_report_task *task = c->rows[i].task;
        size_t known = 0;
        if (!is_drawn(c, i)) continue;
        for (size_t l = 0; l < task->n_layers; l++) {
            double value = task->layers[l].value[fact];
            x[i * layers + l] = task->layers[l].layer;
            y[i * layers + l] = value;
            if (isnan(value)) continue;
            known++;
            high = fmax(high, value);
            low = fmin(low, value);
            last = fmax(last, task->layers[l].layer);
        }
        if (known > 0)
            series[n++] = (vm_series){c->rows[i].name, x + i * layers, y + i * layers, task->n_layers, row_style(c, i)};
    }
    if (n == 0) return;
    vm_text_put(t, "<figure><figcaption><b>%s</b>%s</figcaption>", TITLE[fact], WORDS[fact]);
    vm_chart_lines(t, &(vm_chart){.title = TITLE[fact],
                                  .subject = c->task,
                                  .x_label = "layer",
                                  .y_label = UNIT[fact],
                                  .x_high = last,
                                  .y_low = low,
                                  .y_high = high,
                                  .markers = layers <= 40,
                                  .series = series,
                                  .n_series = n});
    vm_text_put(t, "</figure>\n");
}

static void routing_figures(vm_text *t, const vm_comparison *c) {
    size_t layers = most_layers(c);
    if (layers == 0) return;
    vm_series *series = vm_malloc(c->n_rows, sizeof *series);
    double *x = vm_calloc(c->n_rows, layers * sizeof *x), *y = vm_calloc(c->n_rows, layers * sizeof *y);
    if (series && x && y) {
        vm_text_put(t, "<h4>Routing, layer by layer</h4>\n");
        vm_page_figures(t, 3);
        for (int fact = 0; fact < 3; fact++) routing_figure(t, c, fact, series, x, y, layers);
        vm_text_put(t, "</div>\n");
    } else {
        t->failed = true;
    }
    vm_free(series);
    vm_free(x);
    vm_free(y);
}

static void shifted_tasks(vm_text *t, const vm_group *group) {
    bool any = false;
    for (size_t i = 0; i < group->n_tasks; i++) {
        const vm_comparison *c = &group->tasks[i];
        if (!c->shifted) continue;
        if (!any)
            vm_text_put(t, "<h3>The same runs away from home</h3>\n<p class=\"note\">Question sets that these runs "
                           "were not made for; they serve as strange ones below.</p>\n");
        any = true;
        vm_text_put(t, "<h4>%t <span class=\"note\">%u questions</span></h4>\n", c->task, c->rows[0].task->n);
        table(t, c);
    }
}

void vm_page_group(vm_text *t, const vm_group *group, size_t index) {
    if (group->n_tasks == 0) return;
    vm_text_put(t, "<h2 id=\"group-%u\">%t</h2>\n", index, *group->name ? group->name : "Results");
    for (size_t i = 0; i < group->n_tasks; i++) {
        const vm_comparison *c = &group->tasks[i];
        if (c->shifted) continue;
        vm_text_put(t, "<h3>%t <span class=\"note\">%u questions</span></h3>\n", c->task, c->rows[0].task->n);
        table(t, c);
        if (count_drawn(c) < c->n_rows)
            vm_text_put(t, "<p class=\"note\">Curves and diagrams show %u of the %u runs: the main routers.</p>\n",
                        count_drawn(c), c->n_rows);
        vm_page_figures(t, 2);
        floor_figure(t, c);
        risk_figure(t, c);
        vm_text_put(t, "</div>\n");
        reliability_figures(t, c);
        routing_figures(t, c);
    }
    shifted_tasks(t, group);
}
