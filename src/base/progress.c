/* progress.c: the two callbacks of vmoer_hooks; either may be absent. */
#include "base/progress.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

vmoer_status vm_progress(const vmoer_hooks *hooks, const char *stage, uint64_t done, uint64_t total, const char *note) {
    if (!hooks || !hooks->progress || !hooks->progress(hooks->user, stage, done, total, note)) return VMOER_OK;
    return vm_error(VMOER_ERROR_INTERRUPTED, "%s: stopped on request at %llu of %llu", stage, (unsigned long long)done,
                    (unsigned long long)total);
}

void vm_log(const vmoer_hooks *hooks, const char *format, ...) {
    if (!hooks || !hooks->log) return;
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    hooks->log(hooks->user, line);
}
