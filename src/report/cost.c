/* cost.c: what the routers cost beside the deterministic one. */
#include "report/page.h"

#include <math.h>
#include <string.h>

static void amount(vm_text *t, double value, const char *const units[4], double step) {
    int unit = 0;
    while (unit < 3 && fabs(value) >= step * 10) value /= step, unit++;
    if (isnan(value))
        vm_text_put(t, "<td>–</td>");
    else
        vm_text_put(t, unit ? "<td>%n1%s</td>" : "<td>%n0%s</td>", value, units[unit]);
}

static void share_cell(vm_text *t, double share, bool judged) {
    vm_text_put(t, "<td>");
    if (isnan(share))
        vm_text_put(t, "–");
    else
        vm_text_put(t, "<b>%n2%%</b>", 100 * share);
    if (judged && !isnan(share))
        vm_text_put(t, share < .01 ? " <span class=\"tag better\">below 1%%</span>"
                                   : " <span class=\"tag worse\">1%% or more</span>");
    vm_text_put(t, "</td>");
}

static void cost_row(vm_text *t, const vm_report_cost *c) {
    static const char *const COUNT[] = {"", " k", " M", " G"}, *const BYTES[] = {" B", " KiB", " MiB", " GiB"};
    vm_text_put(t, "<tr><th scope=\"row\">%t", vm_router_name(c->router));
    if (c->path && strcmp(c->path, ".") != 0) vm_text_put(t, "<span class=\"sub\">%t</span>", c->path);
    vm_text_put(t, "</th><td>%u<span class=\"sub\">%t</span></td>", c->n_layers, c->layers);
    amount(t, c->fact[VM_COST_PARAMETERS], COUNT, 1000);
    amount(t, c->fact[VM_COST_FLOPS], COUNT, 1000);
    share_cell(t, c->fact[VM_COST_SHARE], true);
    share_cell(t, c->fact[VM_COST_COUNTED], false);
    amount(t, c->fact[VM_COST_WORKSPACE], BYTES, 1024);
    vm_text_put(t, "</tr>\n");
}

void vm_page_cost(vm_text *t, const vm_report_cost *costs, size_t n, size_t index) {
    if (n == 0) return;
    vm_text_put(t,
                "<h2 id=\"cost-%u\">Cost</h2>\n<p class=\"note\">What a router adds to the model with its own "
                "deterministic one, for each word: with all its passes, where it answers by several. Share: of all "
                "floating-point operations of the "
                "model; by formula, and as counted while it ran.</p>\n<div class=\"scroll\"><table><thead><tr><th>"
                "Router</th><th>Layers</th><th>Parameters</th><th>Operations a word</th><th>Share, by formula&nbsp;↓"
                "</th><th>Share, counted&nbsp;↓</th><th>Workspace&nbsp;↓</th></tr></thead>\n<tbody>\n",
                index);
    for (size_t i = 0; i < n; i++) cost_row(t, &costs[i]);
    vm_text_put(t, "</tbody></table></div>\n");
}
