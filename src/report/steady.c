/* steady.c: how much of the choice of experts survives noise, and whether the routers are alive. Of single runs as of
 * an experiment: a list of routers, each with its levels of noise. */
#include "report/page.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

static bool is_model_itself(const vm_report_steady *s) {
    return strcmp(s->router, "map") == 0 || strcmp(s->router, "deterministic") == 0;
}

static bool same_level(const vm_steady_sigma *a, const vm_steady_sigma *b) {
    return a->sigma == b->sigma && a->relative == b->relative;
}

static const vm_steady_sigma *level_of(const vm_report_steady *s, const vm_steady_sigma *level) {
    for (size_t i = 0; i < s->n_sigmas; i++) {
        if (same_level(&s->sigmas[i], level)) return &s->sigmas[i];
    }
    return NULL;
}

/* The routers of one group (of one MAP) and the levels of noise that any of them was given. */
typedef struct steady_group {
    const char *name;
    const vm_report_steady **rows; /* [n_rows], in the order of the routers */
    const vm_steady_sigma **levels;
    size_t n_rows, n_levels;
} steady_group;

static const char *row_name(const vm_report_steady *s) { return s->path ? s->label.name : vm_router_name(s->router); }

static void add_level(steady_group *g, const vm_steady_sigma *level) {
    size_t at = g->n_levels;
    for (size_t i = 0; i < g->n_levels; i++) {
        if (same_level(g->levels[i], level)) return;
    }
    for (; at > 0 && g->levels[at - 1]->relative == level->relative && g->levels[at - 1]->sigma > level->sigma; at--)
        g->levels[at] = g->levels[at - 1];
    g->levels[at] = level;
    g->n_levels++;
}

static bool fill_group(steady_group *g, const vm_report_steady *all, size_t n) {
    size_t levels = 1;
    for (size_t i = 0; i < n; i++) levels += all[i].n_sigmas;
    g->rows = vm_malloc(n, sizeof *g->rows);
    g->levels = vm_malloc(levels, sizeof *g->levels);
    if (!g->rows || !g->levels) return false;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(all[i].label.group, g->name) != 0) continue;
        size_t at = g->n_rows++;
        for (; at > 0 && vm_router_rank(g->rows[at - 1]->router) > vm_router_rank(all[i].router); at--)
            g->rows[at] = g->rows[at - 1];
        g->rows[at] = &all[i];
        for (size_t s = 0; s < all[i].n_sigmas; s++) add_level(g, &all[i].sigmas[s]);
    }
    return true;
}

/* ---- by layer ---- */

enum { MOST_LINES = 7 };

/* The lines of a figure: all where there are few, else the routers that have a line of their own, each once. */
static bool is_drawn(const steady_group *g, size_t row) {
    if (g->n_rows <= MOST_LINES) return true;
    int style = vm_router_style(g->rows[row]->router);
    for (size_t i = 0; i < row; i++) {
        if (vm_router_style(g->rows[i]->router) == style) return false;
    }
    return style != VM_STYLE_UNNAMED;
}

static int style_of(const steady_group *g, size_t row) {
    int style = vm_router_style(g->rows[row]->router);
    if (style == VM_STYLE_UNNAMED) return (int)row + 1;
    for (size_t i = 0; i < row; i++) {
        if (vm_router_style(g->rows[i]->router) == style) return (int)row + 1;
    }
    return style;
}

static double find_chance(const steady_group *g) {
    for (size_t i = 0; i < g->n_rows; i++) {
        if (!isnan(g->rows[i]->chance)) return g->rows[i]->chance;
    }
    return NAN;
}

/* In three digits: that of the target is bisected. */
static void put_level(vm_text *t, const vm_steady_sigma *level) {
    double digit = level->sigma > 0 ? pow(10, floor(log10(level->sigma)) - 2) : 1;
    vm_text_put(t, "sigma %g%s", round(level->sigma / digit) * digit,
                level->relative ? " of the input's root mean square" : " (absolute)");
}

static void layers_figure(vm_text *t, const steady_group *g, const vm_steady_sigma *level, int fact, const char *title,
                          const char *words) {
    vm_series series[VM_REPORT_MAX_NAMES];
    double *numbers[VM_REPORT_MAX_NAMES], low = 1, high = 0, last = 0, chance = find_chance(g);
    size_t n = 0;
    bool jaccard = fact != VM_STEADY_LOAD;
    if (!jaccard) low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < g->n_rows && n < VM_REPORT_MAX_NAMES; i++) {
        const vm_steady_sigma *s = is_drawn(g, i) ? level_of(g->rows[i], level) : NULL;
        size_t known = 0;
        for (size_t l = 0; s && l < s->n_layers; l++) known += !isnan(s->layers[l].fact[fact]);
        if (known == 0) continue;
        double *x = vm_malloc(s->n_layers, 2 * sizeof *x), *y = x ? x + s->n_layers : NULL;
        if (!x) {
            t->failed = true;
            break;
        }
        for (size_t l = 0; l < s->n_layers; l++) {
            x[l] = s->layers[l].layer;
            y[l] = s->layers[l].fact[fact];
            if (x[l] > last) last = x[l];
            low = fmin(low, y[l]);
            if (y[l] > high) high = y[l];
        }
        numbers[n] = x;
        series[n++] = (vm_series){row_name(g->rows[i]), x, y, s->n_layers, style_of(g, i)};
    }
    if (n > 0) {
        vm_text_put(t, "<figure><figcaption><b>%s, ", title);
        put_level(t, level);
        vm_text_put(t, "</b>%s</figcaption>", words);
        vm_chart_lines(t, &(vm_chart){.title = title,
                                      .subject = *g->name ? vm_map_name(g->name) : NULL,
                                      .x_label = "layer",
                                      .y_label = jaccard ? "Jaccard index" : "entropy, nats",
                                      .x_high = last,
                                      .y_low = jaccard && !isnan(chance) ? fmin(low, chance) : low,
                                      .y_high = jaccard ? 1 : high,
                                      .markers = last < 40,
                                      .guide = jaccard && !isnan(chance) ? "chance" : NULL,
                                      .guide_y = chance,
                                      .series = series,
                                      .n_series = n});
        vm_text_put(t, "</figure>\n");
    }
    for (size_t i = 0; i < n; i++) vm_free(numbers[i]);
}

/* The mean over the layers by the level of noise; of the relative levels, or of the absolute ones. */
static void levels_figure(vm_text *t, const steady_group *g, bool relative) {
    vm_series series[VM_REPORT_MAX_NAMES];
    double *numbers[VM_REPORT_MAX_NAMES], low = 1, first = INFINITY, last = 0, chance = find_chance(g);
    size_t n = 0, levels = 0;
    for (size_t l = 0; l < g->n_levels; l++) levels += g->levels[l]->relative == relative && g->levels[l]->sigma > 0;
    for (size_t i = 0; i < g->n_rows && n < VM_REPORT_MAX_NAMES && levels > 1; i++) {
        double *x = is_drawn(g, i) ? vm_malloc(levels, 2 * sizeof *x) : NULL, *y = x ? x + levels : NULL;
        size_t known = 0;
        for (size_t l = 0; x && l < g->n_levels; l++) {
            const vm_steady_sigma *s = level_of(g->rows[i], g->levels[l]);
            if (!s || s->relative != relative || !(s->sigma > 0) || isnan(s->mean[VM_STEADY_ISOLATED].value)) continue;
            x[known] = s->sigma;
            y[known++] = s->mean[VM_STEADY_ISOLATED].value;
            first = fmin(first, s->sigma), last = fmax(last, s->sigma);
            low = fmin(low, s->mean[VM_STEADY_ISOLATED].value);
        }
        if (known == 0) {
            vm_free(x);
            continue;
        }
        numbers[n] = x;
        series[n++] = (vm_series){row_name(g->rows[i]), x, y, known, style_of(g, i)};
    }
    if (n > 0) {
        vm_text_put(t,
                    "<figure><figcaption><b>Stability by noise, %s</b>Mean over the layers of the share of the choice "
                    "that survives. Flatter is steadier.</figcaption>",
                    relative ? "relative" : "absolute");
        vm_chart_lines(t, &(vm_chart){.title = "Mean Jaccard index by level of noise",
                                      .subject = *g->name ? vm_map_name(g->name) : NULL,
                                      .x_label = relative ? "sigma, of the input's root mean square" : "sigma",
                                      .y_label = "Jaccard index",
                                      .x_low = first,
                                      .x_high = last,
                                      .y_low = isnan(chance) ? low : fmin(low, chance),
                                      .y_high = 1,
                                      .x_log = true,
                                      .markers = true,
                                      .guide = isnan(chance) ? NULL : "chance",
                                      .guide_y = chance,
                                      .series = series,
                                      .n_series = n});
        vm_text_put(t, "</figure>\n");
    }
    for (size_t i = 0; i < n; i++) vm_free(numbers[i]);
}

/* ---- tables ---- */

static void fact_cell(vm_text *t, const vm_steady_sigma *s, int fact) {
    vm_text_put(t, fact == VM_STEADY_ISOLATED ? "<td><b>%n3</b>" : "<td>%n3", s->mean[fact].value);
    vm_page_sub_interval(t, s->mean[fact].ci, 1, 3);
    if (!isnan(s->bayesian[fact])) vm_text_put(t, "<span class=\"sub\">its layers: %n3</span>", s->bayesian[fact]);
    vm_text_put(t, "</td>");
}

static const vm_steady_sigma *level_of_map(const steady_group *g, const vm_steady_sigma *level) {
    for (size_t i = 0; i < g->n_rows; i++) {
        if (is_model_itself(g->rows[i])) return level_of(g->rows[i], level);
    }
    return NULL;
}

static void level_rows(vm_text *t, const steady_group *g, const vm_steady_sigma *level) {
    const vm_steady_sigma *base = level_of_map(g, level);
    vm_text_put(t, "<tr class=\"level\"><th scope=\"rowgroup\" colspan=\"8\">");
    put_level(t, level);
    if (!isnan(level->at_jaccard)) vm_text_put(t, ", where MAP's own router falls to %g", level->at_jaccard);
    vm_text_put(t, "</th></tr>\n");
    for (size_t i = 0; i < g->n_rows; i++) {
        const vm_steady_sigma *s = level_of(g->rows[i], level);
        if (!s) continue;
        vm_text_put(t, "<tr%s><th scope=\"row\">%t</th>", is_model_itself(g->rows[i]) ? " class=\"base\"" : "",
                    row_name(g->rows[i]));
        fact_cell(t, s, VM_STEADY_ISOLATED);
        double here = s->mean[VM_STEADY_ISOLATED].value, there = base ? base->mean[VM_STEADY_ISOLATED].value : NAN;
        if (s == base || !(there > 0) || isnan(here))
            vm_text_put(t, "<td>–</td>");
        else
            vm_text_put(t, "<td>%+1%%</td>", 100 * (here / there - 1));
        for (int fact = VM_STEADY_CORRECTED; fact < VM_STEADY_FACTS; fact++) fact_cell(t, s, fact);
        vm_text_put(t, "</tr>\n");
    }
}

static void begin_levels(vm_text *t) {
    vm_text_put(t, "<div class=\"scroll\"><table><thead><tr><th>Router</th><th>Jaccard&nbsp;↑, noise in one layer</th>"
                   "<th>against MAP</th><th>chance-corrected&nbsp;↑</th><th>same draws&nbsp;↑</th><th>noise "
                   "everywhere&nbsp;↑</th><th>load entropy</th><th>between words</th></tr></thead>\n<tbody>\n");
}

/* Where the table would become long, all but the first level are folded. */
static void levels_table(vm_text *t, const steady_group *g) {
    enum { LONG = 24 };
    bool folded = g->n_levels > 1 && g->n_levels * g->n_rows > LONG;
    begin_levels(t);
    for (size_t l = 0; l < g->n_levels; l++) {
        if (folded && l == 1) {
            vm_text_put(t, "</tbody></table></div>\n<details><summary>The other levels of noise</summary>\n");
            begin_levels(t);
        }
        level_rows(t, g, g->levels[l]);
    }
    vm_text_put(t, "</tbody></table></div>\n%s", folded ? "</details>\n" : "");
    vm_text_put(t, "<p class=\"note\">Means over the MoE layers. A router that always picks the "
                   "same experts would be perfectly steady: the load entropy must not fall, and the Jaccard index "
                   "between different words must not rise.");
    if (!isnan(find_chance(g))) vm_text_put(t, " Two random choices share %n3.", find_chance(g));
    vm_text_put(t, "</p>\n");
}

static void alive_cell(vm_text *t, double value, bool percent) {
    if (isnan(value))
        vm_text_put(t, "<td>–</td>");
    else
        vm_text_put(t, percent ? "<td>%n1%%</td>" : "<td>%n3</td>", percent ? 100 * value : value);
}

static void alive_table(vm_text *t, const steady_group *g) {
    size_t n = 0;
    for (size_t i = 0; i < g->n_rows; i++) {
        const vm_report_steady *s = g->rows[i];
        if (!s->has_alive) continue;
        if (n++ == 0)
            vm_text_put(t,
                        "<h4>Is the router alive?</h4>\n<div class=\"scroll\"><table><thead><tr><th>Router</th><th>"
                        "Layers whose choice ever flips</th><th>Choices that flip between two draws</th><th>Variation "
                        "of the noise over words</th><th>Share off the diagonal</th><th></th></tr></thead>\n<tbody>"
                        "\n");
        vm_text_put(t, "<tr><th scope=\"row\">%t</th>", row_name(s));
        alive_cell(t, s->alive[VM_ALIVE_FLIPPED], true);
        alive_cell(t, s->alive[VM_ALIVE_RATE], true);
        alive_cell(t, s->alive[VM_ALIVE_SCALE], false);
        alive_cell(t, s->alive[VM_ALIVE_OFF_DIAGONAL], false);
        bool dead = s->alive[VM_ALIVE_FLIPPED] == 0 || s->alive[VM_ALIVE_RATE] == 0;
        vm_text_put(t, "<td>%s</td></tr>\n",
                    !dead                             ? ""
                    : isnan(s->alive[VM_ALIVE_SCALE]) ? "every draw chooses the same" /* a control has none */
                                                      : "<span class=\"tag worse\">its noise decides nothing</span>");
    }
    if (n > 0)
        vm_text_put(t, "</tbody></table></div>\n<p class=\"note\">A router whose noise never changes the choice of "
                       "experts, or is the same for every word, is variational in name only. Off the diagonal: how "
                       "much of the covariance is between experts.</p>\n");
}

static void show_group(vm_text *t, const steady_group *g) {
    if (*g->name) vm_text_put(t, "<h3>%t</h3>\n", vm_map_name(g->name));
    if (g->n_levels > 0) {
        levels_table(t, g);
        vm_page_figures(t, 0);
        levels_figure(t, g, true);
        levels_figure(t, g, false);
        for (size_t l = 0; l < g->n_levels; l++)
            layers_figure(t, g, g->levels[l], VM_STEADY_ISOLATED, "Stability by layer",
                          "Share of the chosen experts that survives noise in that layer alone. Higher is steadier.");
        layers_figure(t, g, g->levels[0], VM_STEADY_LOAD, "Expert load by layer",
                      "Entropy of how often each expert is used: high means that all are used, 0 that one is.");
        vm_text_put(t, "</div>\n");
    }
    alive_table(t, g);
}

void vm_page_steady(vm_text *t, const vm_report_steady *all, size_t n, size_t index) {
    if (n == 0) return;
    vm_text_put(t,
                "<h2 id=\"stability-%u\">Stability of the routing</h2>\n<p class=\"note\">Gaussian noise is added to "
                "what the router sees: which of the chosen experts are chosen again? The Jaccard index is the share "
                "that two choices have in common; 1: the same experts.</p>\n",
                index);
    for (size_t i = 0; i < n; i++) {
        bool known = false;
        for (size_t before = 0; before < i; before++)
            known = known || strcmp(all[before].label.group, all[i].label.group) == 0;
        if (known) continue;
        steady_group g = {.name = all[i].label.group};
        if (fill_group(&g, all, n))
            show_group(t, &g);
        else
            t->failed = true;
        vm_free(g.rows);
        vm_free(g.levels);
    }
}
