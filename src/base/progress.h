/* progress.h: how the library says what it is doing. It never prints: it calls back. */
#ifndef VM_BASE_PROGRESS_H
#define VM_BASE_PROGRESS_H

#include "vmoer/vmoer_errors.h"
#include "vmoer/vmoer.h"

/* Reports done/total units of `stage` with a short note ("loss 1.234"; NULL for none).
 * VMOER_ERROR_INTERRUPTED when the callback asks to stop. hooks NULL: nothing, VMOER_OK. */
vmoer_status vm_progress(const vmoer_hooks *hooks, const char *stage, uint64_t done, uint64_t total, const char *note);
/* A line for the log. */
void vm_log(const vmoer_hooks *hooks, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
