/* report.h: a folder of results -> one self-contained HTML file: inline SVG and CSS, no script, readable printed.
 * Reads only files (results.json, samples.jsonl, ood results.json, timings.json: docs/FORMATS.md). */
#ifndef VM_REPORT_REPORT_H
#define VM_REPORT_REPORT_H

#include "vmoer/vmoer.h"

vmoer_status vm_report_write(const char *folder, const char *output_path, const char *title, const vmoer_hooks *hooks);

#endif
