/* status.h: how a failure travels. The place that sees it calls vm_error() with the code and one line
 * that names the key, line or offset; callers on the way up either pass it on (VM_TRY) or put what they
 * know in front of it (VM_TRY_IN: "model.gguf: blk.3.ffn_down_exps: ..."). The text is per thread. */
#ifndef VM_BASE_STATUS_H
#define VM_BASE_STATUS_H

#include "vmoer/vmoer_errors.h"

/* Sets this thread's error text and returns `code`. */
vmoer_status vm_error(vmoer_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "<formatted>: " in front of this thread's error text and returns `code`. */
vmoer_status vm_error_in(vmoer_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Both calls give back `code` where the compiler can see it (it is evaluated twice): with VM_TRY it then knows that an
 * output is set whenever the callee succeeded, and does not warn of uninitialised variables that are none. */
static inline vmoer_status vm_error_code(vmoer_status same, vmoer_status code) {
    (void)same;
    return code;
}
#define vm_error(code, ...) vm_error_code((vm_error)(code, __VA_ARGS__), code)
#define vm_error_in(code, ...) vm_error_code((vm_error_in)(code, __VA_ARGS__), code)

/* This thread's error text, "" if nothing failed yet. Owned by the library, valid until the next failure. */
const char *vm_error_text(void);

/* The fixed text of a code ("malformed file"). */
const char *vm_status_text(vmoer_status code);

#define VM_TRY(expr)                                                                                \
    do {                                                                                            \
        vmoer_status vm_status_ = (expr);                                                           \
        if (vm_status_ != VMOER_OK) return vm_status_;                                              \
    } while (0)

#define VM_TRY_IN(expr, ...)                                                                        \
    do {                                                                                            \
        vmoer_status vm_status_ = (expr);                                                           \
        if (vm_status_ != VMOER_OK) return vm_error_in(vm_status_, __VA_ARGS__);                    \
    } while (0)

/* For functions with one exit: stores the status in a local `status` and jumps to `done`. */
#define VM_GOTO(expr)                                                                               \
    do {                                                                                            \
        status = (expr);                                                                            \
        if (status != VMOER_OK) goto done;                                                          \
    } while (0)

#endif
