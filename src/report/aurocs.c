/* aurocs.c: AUROC by signal and set as a table coloured by its values: of an experiment, over all seeds. */
#include "report/page.h"

#include <math.h>
#include <string.h>

void vm_page_heat(vm_text *t, const vm_figure *auroc, double length) {
    if (isnan(auroc->value)) {
        vm_text_put(t, "<td>–</td>");
        return;
    }
    int step = (int)lround(fmin(fabs(auroc->value - .5), .5) * 10);
    bool sure = auroc->ci.low > .5 || auroc->ci.high < .5;
    if (step == 0)
        vm_text_put(t, "<td>");
    else
        vm_text_put(t, auroc->value > .5 ? "<td class=\"hi%d\">" : "<td class=\"lo%d\">", step);
    vm_text_put(t, sure ? "<b>%n3</b>" : "%n3", auroc->value);
    vm_text_put(t, "<span class=\"sub\">");
    if (!isnan(auroc->ci.low)) vm_page_interval(t, auroc->ci, 1, 3);
    vm_text_put(t, "%s</span></td>", auroc->value <= length ? " ≤ length" : "");
}

static bool has_signal(const vm_experiment *x, const char *map, const char *router, const char *signal) {
    for (size_t s = 0; s < x->sets.n; s++) {
        if (vm_auroc_find(x, map, router, x->sets.items[s], signal)) return true;
    }
    return false;
}

static bool is_length(const char *signal) { return strcmp(signal, "length") == 0; }

/* The length of a question is the same whatever the router. */
static double length_of(const vm_experiment *x, const char *map, const char *set) {
    const vm_auroc *a = NULL;
    for (size_t i = 0; i < x->routers.n && !a; i++) a = vm_auroc_find(x, map, x->routers.items[i], set, "length");
    return a ? a->auroc.value : NAN;
}

static void put_row(vm_text *t, const vm_experiment *x, const char *map, const char *router, const char *signal) {
    vm_text_put(t, "<tr%s><th scope=\"row\">", is_length(signal) ? " class=\"base\"" : "");
    if (is_length(signal))
        vm_text_put(t, "Length, the control");
    else
        vm_text_put(t, "%t", vm_router_name(router));
    vm_text_put(t, "</th>");
    for (size_t s = 0; s < x->sets.n; s++) {
        const vm_auroc *a = vm_auroc_find(x, map, router, x->sets.items[s], signal);
        double length = is_length(signal) ? NAN : length_of(x, map, x->sets.items[s]);
        vm_page_heat(t, a ? &a->auroc : &(vm_figure){NAN, {NAN, NAN}}, length);
    }
    vm_text_put(t, "</tr>\n");
}

/* A signal of every router that has it; the length, the same of all, once. */
static void signal_rows(vm_text *t, const vm_experiment *x, const char *map, const char *signal) {
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

static void begin_table(vm_text *t, const vm_experiment *x) {
    vm_text_put(t, "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>AUROC&nbsp;↑ of</th>");
    for (size_t s = 0; s < x->sets.n; s++) vm_text_put(t, "<th>%t</th>", x->sets.items[s]);
    vm_text_put(t, "</tr></thead>\n<tbody>\n");
}

/* The paper's signals, and the one that costs nothing: fixed, not chosen by what came out. */
static const char *const MAIN[] = {"choice_entropy", "mutual_information", "logit_variance", "routing_temperature"};
enum { N_MAIN = sizeof MAIN / sizeof *MAIN };

static void main_table(vm_text *t, const vm_experiment *x, const char *map) {
    begin_table(t, x);
    for (size_t k = 0; k < N_MAIN; k++) signal_rows(t, x, map, MAIN[k]);
    signal_rows(t, x, map, "length");
    vm_text_put(t, "</tbody></table></div>\n");
}

static void whole_table(vm_text *t, const vm_experiment *x, const char *map) {
    vm_text_put(t, "<details><summary>All signals, %t</summary>\n", vm_map_name(map));
    begin_table(t, x);
    for (size_t k = 0; k < x->signals.n; k++) signal_rows(t, x, map, x->signals.items[k]);
    vm_text_put(t, "</tbody></table></div>\n</details>\n");
}

void vm_page_aurocs(vm_text *t, const vm_experiment *x, size_t index) {
    if (x->n_aurocs == 0) return;
    vm_text_put(
        t,
        "<h2 id=\"aurocs-%u\">Noticing strange questions</h2>\n<p class=\"note\">Does a signal rise on questions "
        "of another kind? Blue: it does; orange: it points the wrong way; white: a coin would do as well. Bold: "
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
    }
}
