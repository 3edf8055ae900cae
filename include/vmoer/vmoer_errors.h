/* vmoer_errors.h: every status code of the library, once.
 *
 * A function that can fail returns a vmoer_status. The text of the last failure on the calling
 * thread (what, where, what to do; one line) is vmoer_last_error(). */
#ifndef VMOER_ERRORS_H
#define VMOER_ERRORS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, value, text) */
#define VMOER_STATUS_LIST(X)                                                                        \
    X(OK, 0, "success")                                                                             \
    X(ERROR_ARGUMENT, 1, "invalid argument")                                                        \
    X(ERROR_MEMORY, 2, "out of memory")                                                             \
    X(ERROR_IO, 3, "input/output error")                                                            \
    X(ERROR_FORMAT, 4, "malformed file")                                                            \
    X(ERROR_UNSUPPORTED, 5, "not supported")                                                        \
    X(ERROR_MISMATCH, 6, "made for another model")                                                  \
    X(ERROR_DATA, 7, "invalid data item")                                                           \
    X(ERROR_LIMIT, 8, "limit exceeded")                                                             \
    X(ERROR_NUMERIC, 9, "not a finite number")                                                      \
    X(ERROR_INTERRUPTED, 10, "interrupted")

typedef enum vmoer_status {
#define VMOER_STATUS_ENUM(name, value, text) VMOER_##name = value,
    VMOER_STATUS_LIST(VMOER_STATUS_ENUM)
#undef VMOER_STATUS_ENUM
} vmoer_status;

#ifdef __cplusplus
}
#endif
#endif
