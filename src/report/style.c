/* style.c: the page's style sheet. Colours after Okabe and Ito, darkened on white and lightened on black until thin
 * lines keep a contrast of 4.5 : 1; the same page prints in the light colours. */
#include "report/page.h"

#define LIGHT                                                                                                          \
    "--bg:#fff;--panel:#f7f8fa;--ink:#16191d;--muted:#575e68;--line:#d9dde3;--accent:#0067a5;--tint:#eaf3fa;--chance:" \
    "#cfd6df;"                                                                                                         \
    "--good:#00694e;--good-bg:#e2f3ec;--bad:#a13c00;--bad-bg:#fbe9de;--c1:#0067a5;--c2:#b84700;--c3:#00754f;--c4:#"    \
    "96437f;"                                                                                                          \
    "--c5:#7d5c00;--c6:#1f7a94;--bar:#7fb2d6;"
#define DARK                                                                                                        \
    "--bg:#14171b;--panel:#1c2025;--ink:#e9ecf0;--muted:#a3acb8;--line:#363c45;--accent:#7cc0f4;--tint:#1b2b3a;--"  \
    "chance:#3d4550;"                                                                                               \
    "--good:#5fd6ae;--good-bg:#15352b;--bad:#ffa46b;--bad-bg:#3d2415;--c1:#6cb8f2;--c2:#ff9a5c;--c3:#52d3aa;--c4:#" \
    "e59bcd;"                                                                                                       \
    "--c5:#e6c14a;--c6:#8bd5e8;--bar:#3f6f94;"

static const char *const SHEET[] = {
    ":root{color-scheme:light dark;" LIGHT "}\n",
    "@media (prefers-color-scheme:dark){:root{" DARK "}}\n",
    /* Text */
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',sans-serif}\n",
    "main{max-width:1180px;margin:0 auto;padding:0 20px 64px}p,li{max-width:78ch}a{color:var(--accent)}\n",
    "header{border-top:5px solid var(--accent);padding:34px 0 6px}h1{font-size:2rem;line-height:1.2;margin:0 0 "
    "6px;letter-spacing:-.01em}\n",
    "h2{font-size:1.4rem;margin:52px 0 12px;padding-bottom:6px;border-bottom:2px solid "
    "var(--line)}h3{font-size:1.12rem;margin:32px 0 8px}"
    "h4{font-size:1rem;margin:26px 0 6px}\n",
    ".lead,.note,figcaption,.sub{color:var(--muted)}.lead{margin:0}.note{font-size:.88rem}h1,h2,h3,h4,figcaption,li,p,."
    "kv td{overflow-wrap:anywhere}th,td{overflow-wrap:break-word}\n",
    "nav{margin:18px 0 0;font-size:.92rem}nav a{display:inline-block;margin:0 14px 4px 0}\n",
    /* Summary */
    ".summary{background:var(--panel);border:1px solid var(--line);border-radius:12px;padding:6px 24px "
    "14px;margin-top:24px}"
    ".summary h2{border:0;margin:14px 0 4px;padding:0}.summary h3{margin:22px 0 4px}.summary "
    ".scroll{background:var(--bg)}.summary ul{margin:8px 0;padding-left:1.2em}"
    ".summary li{margin:7px 0}.verdict{font-weight:600;margin:6px 0}\n",
    ".tag{display:inline-block;border-radius:5px;padding:0 6px;font-size:.8rem;font-weight:600;white-space:nowrap}"
    ".better{color:var(--good);background:var(--good-bg)}.worse{color:var(--bad);background:var(--bad-bg)}"
    ".unclear{color:var(--muted);background:var(--panel);box-shadow:inset 0 0 0 1px var(--line)}\n",
    /* Tables */
    ".scroll{overflow-x:auto;margin:12px 0;border:1px solid "
    "var(--line);border-radius:10px}table{border-collapse:collapse;width:100%;"
    "font-size:.88rem;font-variant-numeric:tabular-nums}\n",
    "th,td{padding:8px 9px;text-align:left;vertical-align:top;border-top:1px solid var(--line)}thead "
    "th{border-top:0;background:var(--panel);"
    "color:var(--muted);font-size:.8rem;font-weight:600;line-height:1.3;vertical-align:bottom}tbody "
    "th{font-weight:600}\n",
    "tbody th{min-width:7.5em;max-width:17em;position:sticky;left:0;background:var(--bg)}td b{font-weight:600}td "
    ".sub,th .sub{display:block;font-weight:400;font-size:.76rem;white-space:nowrap}th .sub{white-space:normal}"
    "td .tag{margin-top:3px;font-size:.74rem;font-weight:500;padding:0 5px}tr.base>*{background:var(--tint)}\n",
    ".kv tr:first-child>*{border-top:0}.kv th{font-weight:500;color:var(--muted);width:15em;position:static}.kv td,.kv "
    "th{padding:5px 12px}"
    "code,.kv td{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans "
    "Mono',monospace;font-size:.82rem}\n",
    "thead tr+tr th,td.first,th.first{border-left:1px solid var(--line)}thead tr+tr "
    "th:not(.first){border-left:0}tr.level "
    "th{background:var(--panel);color:var(--muted);max-width:none;position:static}\n",
    /* AUROC: blue above a half, orange below; the ink stays readable on the strongest of both */
    ".hi1{background:rgba(0,103,165,.1)}.hi2{background:rgba(0,103,165,.2)}.hi3{background:rgba(0,103,165,.3)}.hi4{"
    "background:rgba(0,103,165,.4)}.hi5{background:rgba(0,103,165,.5)}"
    ".lo1{background:rgba(213,94,0,.1)}.lo2{background:rgba(213,94,0,.2)}.lo3{background:rgba(213,94,0,.3)}.lo4{"
    "background:rgba(213,94,0,.4)}.lo5{background:rgba(213,94,0,.5)}.heat td{color:var(--ink)}.heat td "
    ".sub{color:inherit;opacity:.8}\n",
    "td ul{margin:0;padding-left:1.1em}\n",
    /* Folded parts */
    "details{margin:14px 0;border:1px solid var(--line);border-radius:10px;padding:0 "
    "14px}summary{cursor:pointer;padding:"
    "10px 0;font-weight:600;overflow-wrap:anywhere}details[open]{padding-bottom:14px}\n",
    /* Figures */
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:16px;margin:14px "
    "0;align-items:start}"
    ".figures.pairs{grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr))}.figures>div{min-width:0}figure{"
    "margin:0;border:1px solid var(--line);border-radius:10px;padding:12px 12px 10px;break-inside:avoid}"
    "figcaption{font-size:.88rem;line-height:1.4;margin-bottom:8px}figcaption "
    "b{display:block;color:var(--ink);font-size:.95rem}\n",
    "svg{display:block;width:100%;max-width:430px;height:auto;margin:0 auto;overflow:visible}svg "
    "text{fill:var(--muted);font-size:11px}svg .ink{fill:var(--ink);font-weight:600}"
    "svg .mid{text-anchor:middle}svg .end{text-anchor:end}svg .tiny{font-size:7.5px}svg .name{font-size:11.5px}\n",
    ".grid{stroke:var(--line);stroke-width:1}.base{stroke:var(--muted)}.guess{stroke:var(--muted);stroke-width:1.2;"
    "stroke-dasharray:4 4}\n",
    ".line{stroke:currentColor;fill:currentColor}.line "
    "path:first-child{fill:none;stroke-width:2;stroke-linejoin:round}.line>:not(:first-child){stroke:var(--bg);stroke-"
    "width:.8}\n",
    ".c0{color:var(--ink)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:"
    "var(--c5)}.c6{color:var(--c6)}.cc{color:var(--muted)}\n",
    ".bar{fill:var(--bar)}.count{fill:var(--chance)}.over{stroke:var(--c2)}.under{stroke:var(--c3)}.over rect,.under "
    "rect{fill:none;stroke-width:1}.over path{stroke-width:1.3}"
    ".under "
    "path{stroke-width:2.2;stroke-linecap:round}.sure{stroke:var(--ink);stroke-width:2}.whisker{stroke:var(--ink);"
    "stroke-width:1;opacity:.75}.few{opacity:.45}\n",
    ".chance{fill:var(--chance)}.chance-mean{stroke:var(--muted);stroke-width:1.5}\n",
    "dl{display:grid;grid-template-columns:minmax(9em,auto) 1fr;gap:8px "
    "20px;max-width:90ch}dt{font-weight:600}dd{margin:0}\n",
    /* Narrow windows and paper */
    "@media (max-width:600px){main{padding:0 14px "
    "40px}header{padding-top:22px}h1{font-size:1.55rem}h2{margin-top:40px}.summary{padding:2px 14px 8px}"
    "th,td{padding:8px 9px}dl{display:block}dd{margin:0 0 10px}.kv th{width:auto}}\n",
    "@page{size:landscape;margin:12mm}@media print{:root{color-scheme:light;" LIGHT
    "}html{font-size:10pt}main{max-width:none;padding:0}nav{display:none}"
    ".scroll{overflow:visible;border:0}tbody "
    "th{position:static}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}h2,h3,h4{break-after:avoid}"
    "tr{break-inside:avoid}th,td{padding:5px 6px}.figures,.figures.pairs{grid-template-columns:repeat(3,1fr)}}\n",
};

void vm_page_style(vm_text *t) {
    vm_text_put(t, "<style>\n");
    for (size_t i = 0; i < sizeof SHEET / sizeof *SHEET; i++) vm_text_put(t, "%s", SHEET[i]);
    vm_text_put(t, "</style>\n");
}

void vm_page_figures(vm_text *t, size_t n) { vm_text_put(t, "<div class=\"figures%s\">\n", n == 4 ? " pairs" : ""); }
