/* training.c: how models and routers were trained: learning curves, and the trials of fits without training. */
#include "report/page.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

/* ---- learning curves ---- */

static void curve_figure(vm_text *t, const char *subject, const vm_history *history, const char *title,
                         const char *words, const char *unit, int first, int second) {
    static const char *const NAMES[VM_CURVES] = {"loss",         "cross-entropy", "KL",
                                                 "held-out NLL", "held-out ECE",  "held-out divergence"};
    vm_series series[2];
    size_t n = 0, points = 0;
    double low = INFINITY, high = -INFINITY, last = -INFINITY, start = INFINITY;
    const int curves[] = {first, second};
    for (size_t c = 0; c < 2; c++) {
        if (curves[c] < 0) continue;
        const double *y = history->curve[curves[c]];
        size_t known = 0;
        for (size_t i = 0; i < history->n; i++) {
            if (isnan(y[i])) continue;
            known++;
            low = fmin(low, y[i]), high = fmax(high, y[i]);
            start = fmin(start, history->step[i]), last = fmax(last, history->step[i]);
        }
        if (known == 0 || (curves[c] == VM_CURVE_KL && high == 0))
            continue; /* what has no prior has a KL of 0 throughout */
        points = known > points ? known : points;
        series[n] = (vm_series){NAMES[curves[c]], history->step, y, history->n, (int)n};
        n++;
    }
    if (n == 0) return;
    vm_text_put(t, "<figure><figcaption><b>%s</b>%s</figcaption>", title, words);
    vm_chart_lines(t, &(vm_chart){.title = title,
                                  .subject = subject,
                                  .x_label = "step",
                                  .y_label = unit,
                                  .x_low = start,
                                  .x_high = last,
                                  .y_low = low,
                                  .y_high = high,
                                  .markers = points <= 40,
                                  .series = series,
                                  .n_series = n});
    vm_text_put(t, "</figure>\n");
}

static void trainable_line(vm_text *t, const json_t *root) {
    const json_t *total = json_object_get(root, "parameters");
    const char *kind;
    json_t *sums;
    size_t tensors = 0;
    if (!json_is_integer(total)) return;
    json_object_foreach(json_object_get(root, "trainable"), kind, sums) {
        tensors += (size_t)json_integer_value(json_object_get(sums, "tensors"));
    }
    vm_text_put(t, "<p class=\"note\">%g trained parameters", json_number_value(total));
    if (tensors > 0) vm_text_put(t, " in %u tensors", tensors);
    vm_text_put(t, ".</p>\n");
}

static void lowest_line(vm_text *t, const vm_report_training *training) {
    const double *nll = training->history.curve[VM_CURVE_HELDOUT_NLL];
    size_t best = training->history.n;
    for (size_t i = 0; i < training->history.n; i++) {
        if (!isnan(nll[i]) && (best == training->history.n || nll[i] < nll[best])) best = i;
    }
    if (best == training->history.n) return;
    vm_text_put(t, "<p class=\"note\">Lowest held-out NLL: %n3 at step %g.</p>\n", nll[best],
                training->history.step[best]);
}

static void learning(vm_text *t, const vm_report_training *training) {
    vm_page_figures(t, 4);
    curve_figure(t, training->path, &training->history, "Training loss", "On the questions trained on, in nats.",
                 "nats", VM_CURVE_LOSS, VM_CURVE_CE);
    curve_figure(t, training->path, &training->history, "KL divergence",
                 "How far the router's distribution is from its prior, in nats a token and layer.", "nats", VM_CURVE_KL,
                 -1);
    curve_figure(t, training->path, &training->history, "Held-out NLL", "On questions kept aside: the honest curve.",
                 "nats", VM_CURVE_HELDOUT_NLL, -1);
    curve_figure(t, training->path, &training->history, "Held-out calibration error",
                 "On the same questions kept aside.", "ECE", VM_CURVE_HELDOUT_ECE, -1);
    vm_text_put(t, "</div>\n");
}

/* ---- fits without training ---- */

/* The trials of one number: NLL or ECE by its value, on a logarithmic scale where that can be. */
static void trial_figure(vm_text *t, const char *subject, const vm_trial *trials, size_t n, bool ece) {
    double *x = vm_malloc(n, 2 * sizeof *x), low = INFINITY, high = -INFINITY;
    if (!x) {
        t->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = trials[i].value;
        x[n + i] = ece ? trials[i].ece : trials[i].nll;
        low = fmin(low, x[n + i]), high = fmax(high, x[n + i]);
    }
    const vm_series series = {ece ? "held-out ECE" : "held-out NLL", x, x + n, n, ece ? 1 : 0};
    vm_text_put(
        t, "<figure><figcaption><b>%s by %s</b>A mark for every value that was tried. Lower is better.</figcaption>",
        series.name, vm_number_name(trials->name));
    vm_chart_lines(t, &(vm_chart){.title = "Trials",
                                  .subject = subject,
                                  .x_label = vm_number_name(trials->name),
                                  .y_label = ece ? "ECE" : "nats",
                                  .x_low = x[0],
                                  .x_high = x[n - 1],
                                  .x_log = x[0] > 0,
                                  .y_low = low,
                                  .y_high = high,
                                  .markers = true,
                                  .series = &series,
                                  .n_series = 1});
    vm_text_put(t, "</figure>\n");
    vm_free(x);
}

static void trials(vm_text *t, const vm_report_training *training) {
    for (size_t first = 0, n; first < training->n_trials; first += n) {
        const vm_trial *own = training->trials + first;
        size_t best = 0;
        for (n = 1; first + n < training->n_trials && strcmp(own[n].name, own->name) == 0; n++)
            if (own[n].nll < own[best].nll) best = n;
        vm_text_put(t, "<p class=\"note\">%u values of the %s tried; the lowest held-out NLL, %n3, at %g.</p>\n", n,
                    vm_number_name(own->name), own[best].nll, own[best].value);
        vm_page_figures(t, 2);
        trial_figure(t, training->path, own, n, false);
        trial_figure(t, training->path, own, n, true);
        vm_text_put(t, "</div>\n");
    }
}

/* ---- an upcycled model ---- */

static void nats_row(vm_text *t, const char *name, const double nats[VM_WAYS]) {
    if (isnan(nats[VM_WAY_LEARNED])) return;
    vm_text_put(t, "<tr><th scope=\"row\">%s</th>", name);
    for (int w = 0; w < VM_WAYS; w++) vm_text_put(t, "<td>%n3</td>", nats[w]);
    vm_text_put(t, "</tr>\n");
}

static void nats_figure(vm_text *t, const vm_report_training *training) {
    if (isnan(training->dense_nats)) return;
    vm_text_put(t, "<figure><figcaption><b>From dense to experts</b>How surprised the model is by each word of the "
                   "questions kept aside and their right answers: nats a token, lower is better. The oracle picks the "
                   "experts with the largest outputs, which only running all of them tells; picks at random show how "
                   "much the choice matters.</figcaption>\n<div class=\"scroll\"><table><thead><tr><th>Experts picked "
                   "by</th><th>the router</th><th>an oracle</th><th>chance</th></tr></thead>\n<tbody>\n");
    vm_text_put(t,
                "<tr class=\"base\"><th scope=\"row\">Dense<span class=\"sub\">nothing to pick</span></th>"
                "<td>%n3</td><td>–</td><td>–</td></tr>\n",
                training->dense_nats);
    nats_row(t, "Split", training->nats[VM_STAGE_SPLIT]);
    nats_row(t, "Distilled", training->nats[VM_STAGE_DISTILLED]);
    vm_text_put(t, "</tbody></table></div></figure>\n");
}

static void upcycling(vm_text *t, const vm_report_training *training) {
    vm_text_put(t, "<div class=\"figures pairs\">\n");
    curve_figure(
        t, training->path, &training->history, "Distance from the dense model",
        "How far the probabilities of the next word are from the dense model's: KL divergence, in nats a token; "
        "0 would be the dense model itself. Loss: the same on the questions just trained on.",
        "nats a token", VM_CURVE_HELDOUT_DIVERGENCE, VM_CURVE_LOSS);
    nats_figure(t, training);
    vm_text_put(t, "</div>\n");
}

/* ---- the MAPs of an experiment ---- */

enum { MAX_SEEDS = 8 };

/* One or two facts by step, a line a seed: the seeds of one fact look the same. */
static void map_figure(vm_text *t, const vm_report_experiment *x, const char *task, const char *kind, const char *title,
                       const char *words, const char *unit, const int curves[2]) {
    static const char *const NAMES[VM_CURVES] = {[VM_CURVE_LOSS] = "training loss",
                                                 [VM_CURVE_HELDOUT_NLL] = "held-out NLL",
                                                 [VM_CURVE_HELDOUT_ECE] = "held-out ECE"};
    vm_series series[2 * MAX_SEEDS];
    double low = INFINITY, high = -INFINITY, last = 0;
    size_t n = 0;
    for (int c = 0; c < 2 && curves[c] >= 0; c++) {
        size_t seeds = 0;
        for (size_t m = 0; m < x->n_maps && seeds < MAX_SEEDS; m++) {
            const vm_map_training *map = &x->maps[m];
            const double *y = map->history.curve[curves[c]];
            size_t known = 0;
            if (strcmp(map->task, task) != 0 || strcmp(map->kind, kind) != 0) continue;
            for (size_t i = 0; i < map->history.n; i++) {
                if (isnan(y[i])) continue;
                known++;
                low = fmin(low, y[i]), high = fmax(high, y[i]), last = fmax(last, map->history.step[i]);
            }
            if (known == 0) continue;
            series[n++] = (vm_series){seeds++ ? NULL : NAMES[curves[c]], map->history.step, y, map->history.n, c};
        }
    }
    if (n == 0) return;
    vm_text_put(t, "<figure><figcaption><b>%s</b>%t, %t. %s</figcaption>", title, vm_map_name(kind), task, words);
    vm_chart_lines(t, &(vm_chart){.title = title,
                                  .subject = task,
                                  .x_label = "step",
                                  .y_label = unit,
                                  .x_high = last,
                                  .y_low = fmin(low, 0),
                                  .y_high = high,
                                  .series = series,
                                  .n_series = n});
    vm_text_put(t, "</figure>\n");
}

void vm_page_maps(vm_text *t, const vm_report_experiment *x, size_t index) {
    if (x->n_maps == 0) return;
    vm_text_put(t,
                "<h2 id=\"maps-%u\">Training of the MAPs</h2>\n<p class=\"note\">One line a seed. Over-fitting shows "
                "where the training loss goes on falling while the held-out NLL rises: from there on the model becomes "
                "surer, not better. The published MAP goes on to the end; the NLL-stopped one stops at the lowest "
                "held-out NLL.</p>\n",
                index);
    vm_page_figures(t, 2);
    for (size_t m = 0; m < x->n_maps; m++) {
        const vm_map_training *map = &x->maps[m];
        bool known = false;
        for (size_t before = 0; before < m; before++)
            known =
                known || (strcmp(x->maps[before].task, map->task) == 0 && strcmp(x->maps[before].kind, map->kind) == 0);
        if (known) continue;
        map_figure(t, x, map->task, map->kind, "Loss", "Lower is better.", "nats",
                   (const int[]){VM_CURVE_HELDOUT_NLL, VM_CURVE_LOSS});
        map_figure(t, x, map->task, map->kind, "Held-out calibration error", "Lower is better.", "ECE",
                   (const int[]){VM_CURVE_HELDOUT_ECE, -1});
    }
    vm_text_put(t, "</div>\n");
}

/* ---- one training after the other ---- */

enum { FEW_TRAININGS = 8 };

void vm_page_training(vm_text *t, const vm_report_data *data) {
    if (data->n_trainings == 0) return;
    vm_text_put(t, "<h2 id=\"training\">Training</h2>\n");
    bool folded = data->n_trainings > FEW_TRAININGS;
    for (size_t i = 0; i < data->n_trainings; i++) {
        const vm_report_training *training = &data->trainings[i];
        bool upcycled = strcmp(training->kind, "upcycle") == 0;
        vm_text_put(t,
                    folded ? "<details><summary>%t <span class=\"note\">%t</span></summary>\n"
                           : "<h3>%t <span class=\"note\">%t</span></h3>\n",
                    training->path, training->kind);
        trainable_line(t, training->json);
        if (!upcycled) lowest_line(t, training);
        trials(t, training);
        bool fit_alone = training->n_trials > 0 && training->history.n < 2; /* a look at what was chosen */
        if (upcycled && (training->history.n > 0 || !isnan(training->dense_nats)))
            upcycling(t, training);
        else if (training->history.n == 0 && training->n_trials == 0)
            vm_text_put(t, "<p class=\"note\">No history was recorded.</p>\n");
        else if (!fit_alone)
            learning(t, training);
        if (folded) vm_text_put(t, "</details>\n");
    }
}
