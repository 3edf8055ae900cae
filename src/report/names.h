/* names.h: what the files' words for routers, MAPs and signals are called on the page, and in what order they stand. Private to report/. */
#ifndef VM_REPORT_NAMES_H
#define VM_REPORT_NAMES_H

#include "report/text.h"

/* From the plain to the derived; `length`, the control, after everything else. */
int vm_signal_rank(const char *name);
/* "entropy over the choices" for "choice_entropy"; the name itself where it is unknown, escaped. */
void vm_put_signal(vm_text *t, const char *name);

/* By kind, or by the name that reproduce's settings give it. Baselines and controls, then variational routers, then their rivals; the unknown last.
 * "deterministic" and "map" are one. */
int vm_router_rank(const char *kind);
/* Has this kind lines in figures that cannot hold all? Style of its lines; VM_STYLE_UNNAMED: none of its own. */
enum { VM_STYLE_UNNAMED = -2 };
int vm_router_style(const char *kind);
/* "VGLR-FC" for "vglr-fc"; the kind itself, escaped, where it is unknown. NULL of vm_router_words: nothing is known of it. */
const char *vm_router_name(const char *kind);
const char *vm_router_words(const char *kind);

/* "routing temperature": a number that calibrate fits; one of the known. */
const char *vm_number_name(const char *key);

/* "published MAP", "NLL-stopped MAP" */
const char *vm_map_name(const char *kind);
int vm_map_rank(const char *kind);

#endif
