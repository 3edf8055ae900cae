/* aurocs.c: AUROC by signal and set as a table coloured by its values: of an experiment, over all seeds. */
#include "report/page.h"

#include <math.h>
#include <string.h>

void vm_page_begin_heat(vm_text *t, double auroc) {
    int step = (int)lround(fmin(fabs(auroc - .5), .5) * 10);
    if (step == 0)
        vm_text_put(t, "<td>");
    else
        vm_text_put(t, auroc > .5 ? "<td class=\"hi%d\">" : "<td class=\"lo%d\">", step);
}

/* Marked where it is no larger than the AUROC of the questions' length (NAN: not known). */
static void heat_cell(vm_text *t, const vm_figure *auroc, double length) {
    bool sure = auroc->ci.low > .5 || auroc->ci.high < .5;
    if (isnan(auroc->value)) {
        vm_text_put(t, "<td>–</td>");
        return;
    }
    vm_page_begin_heat(t, auroc->value);
    vm_text_put(t, sure ? "<b>%n3</b><span class=\"sub\">" : "%n3<span class=\"sub\">", auroc->value);
    if (!isnan(auroc->ci.low)) vm_page_interval(t, auroc->ci, 1, 3);
    vm_text_put(t, "%s</span></td>", auroc->value <= length ? " ≤ length" : "");
}

static bool has_signal(const vm_report_experiment *x, const char *map, const char *router, const char *signal) {
    for (size_t s = 0; s < x->sets.n; s++) {
        if (vm_auroc_find(x, map, router, x->sets.items[s], signal)) return true;
    }
    return false;
}

static bool is_length(const char *signal) { return strcmp(signal, "length") == 0; }

/* The length of a question is the same whatever the router. */
static double length_of(const vm_report_experiment *x, const char *map, const char *set) {
    const vm_auroc *a = NULL;
    for (size_t i = 0; i < x->routers.n && !a; i++) a = vm_auroc_find(x, map, x->routers.items[i], set, "length");
    return a ? a->auroc.value : NAN;
}

static void put_row(vm_text *t, const vm_report_experiment *x, const char *map, const char *router,
                    const char *signal) {
    vm_text_put(t, "<tr%s><th scope=\"row\">", is_length(signal) ? " class=\"base\"" : "");
    if (is_length(signal))
        vm_text_put(t, "Length, the control");
    else
        vm_text_put(t, "%t", vm_router_name(router));
    vm_text_put(t, "</th>");
    for (size_t s = 0; s < x->sets.n; s++) {
        const vm_auroc *a = vm_auroc_find(x, map, router, x->sets.items[s], signal);
        double length = is_length(signal) ? NAN : length_of(x, map, x->sets.items[s]);
        heat_cell(t, a ? &a->auroc : &(vm_figure){NAN, {NAN, NAN}}, length);
    }
    vm_text_put(t, "</tr>\n");
}

/* A signal of every router that has it; the length, the same of all, once. */
static void signal_rows(vm_text *t, const vm_report_experiment *x, const char *map, const char *signal) {
    bool any = false;
    for (size_t i = 0; i < x->routers.n && !(any && is_length(signal)); i++) {
        if (!has_signal(x, map, x->routers.items[i], signal)) continue;
        if (!any && !is_length(signal)) {
            vm_text_put(t, "<tr class=\"level\"><th scope=\"rowgroup\" colspan=\"%u\">", x->sets.n + 1);
            vm_put_signal(t, signal);
            vm_text_put(t, "</th></tr>\n");
        }
        any = true;
        put_row(t, x, map, x->routers.items[i], signal);
    }
}

static void begin_table(vm_text *t, const vm_report_experiment *x) {
    vm_text_put(t, "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>AUROC&nbsp;↑ of</th>");
    for (size_t s = 0; s < x->sets.n; s++) vm_text_put(t, "<th>%t</th>", x->sets.items[s]);
    vm_text_put(t, "</tr></thead>\n<tbody>\n");
}

/* The paper's signals, and the one that costs nothing: fixed, not chosen by what came out. */
static const char *const MAIN[] = {"choice_entropy", "mutual_information", "logit_variance", "routing_temperature"};
enum { N_MAIN = sizeof MAIN / sizeof *MAIN };

static void main_table(vm_text *t, const vm_report_experiment *x, const char *map) {
    begin_table(t, x);
    for (size_t k = 0; k < N_MAIN; k++) signal_rows(t, x, map, MAIN[k]);
    signal_rows(t, x, map, "length");
    vm_text_put(t, "</tbody></table></div>\n");
}

static void whole_table(vm_text *t, const vm_report_experiment *x, const char *map) {
    vm_text_put(t, "<details><summary>All signals, %t</summary>\n", vm_map_name(map));
    begin_table(t, x);
    for (size_t k = 0; k < x->signals.n; k++) signal_rows(t, x, map, x->signals.items[k]);
    vm_text_put(t, "</tbody></table></div>\n</details>\n");
}

/* ---- ROC curves: of one seed, from its single runs ---- */

/* reproduce labels a run "TASK MAP SEED / ROUTER". */
static bool is_first_seed(const vm_report_ood *ood, const char *map) {
    const char *group = ood->label.group;
    size_t task = strlen(ood->id_task), kind = strlen(map);
    return strncmp(group, ood->id_task, task) == 0 && group[task] == ' ' && strncmp(group + task + 1, map, kind) == 0 &&
           strcmp(group + task + 1 + kind, " 0") == 0;
}

static void roc_figure(vm_text *t, const vm_report_data *data, const vm_report_experiment *x, const char *map,
                       const char *set) {
    enum { MOST = 9 };
    vm_series series[MOST];
    const vm_report_signal *length = NULL;
    size_t n = 0;
    for (size_t r = 0; r < x->routers.n && n + 1 < MOST; r++) {
        const char *router = x->routers.items[r];
        if (vm_router_style(router) == VM_STYLE_UNNAMED) continue;
        for (size_t i = 0; i < data->n_oods; i++) {
            const vm_report_ood *ood = &data->oods[i];
            if (strcmp(ood->label.name, router) != 0 || !is_first_seed(ood, map)) continue;
            const vm_report_set *found = vm_set_find(ood, &(vm_strange_set){.name = set, .id_task = ood->id_task});
            const vm_report_signal *s = found ? vm_signal_find(found, "choice_entropy") : NULL;
            if (!s || s->n_roc == 0) continue;
            if (!length) length = vm_signal_find(found, "length");
            series[n++] = (vm_series){vm_router_name(router), s->fpr, s->tpr, s->n_roc, vm_router_style(router)};
            break;
        }
    }
    if (n == 0) return;
    if (length && length->n_roc > 0)
        series[n++] = (vm_series){"length (control)", length->fpr, length->tpr, length->n_roc, VM_STYLE_CONTROL};
    vm_text_put(
        t,
        "<figure><figcaption><b>%t</b>ROC of the entropy over the choices, one seed. Above the diagonal is better "
        "than guessing.</figcaption>",
        set);
    vm_page_rocs(t, set, series, n);
    vm_text_put(t, "</figure>\n");
}

void vm_page_aurocs(vm_text *t, const vm_report_data *data, const vm_report_experiment *x, size_t index) {
    if (x->n_aurocs == 0) return;
    vm_text_put(
        t,
        "<h2 id=\"aurocs-%u\">Noticing strange questions</h2>\n<p class=\"note\">Does a signal rise on questions "
        "of another kind? Blue: it does; orange: it points the wrong way; no colour: a coin would do as well. Bold: "
        "the 95%% interval excludes 0.5. The length of the question is a control: what a signal does no better "
        "than length (<b>≤ length</b>), length may explain.</p>\n",
        index);
    for (size_t m = 0; m < x->kinds.n; m++) {
        bool any = false;
        for (size_t i = 0; i < x->n_aurocs; i++) any = any || strcmp(x->aurocs[i].map, x->kinds.items[m]) == 0;
        if (!any) continue;
        vm_text_put(t, "<h3>%t</h3>\n", vm_map_name(x->kinds.items[m]));
        main_table(t, x, x->kinds.items[m]);
        whole_table(t, x, x->kinds.items[m]);
        vm_page_figures(t, 0);
        for (size_t s = 0; s < x->sets.n; s++) roc_figure(t, data, x, x->kinds.items[m], x->sets.items[s]);
        vm_text_put(t, "</div>\n");
    }
}
