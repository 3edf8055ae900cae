/* session.h: what surrounds a verb's call of the library: progress and log on stderr, Ctrl-C, the error line, the exit
 * code. */
#ifndef VMOER_CLI_SESSION_H
#define VMOER_CLI_SESSION_H

#include <vmoer/vmoer.h>

/* First of all; one session a process. */
void session_begin(const char *verb_name, int quiet);

/* For long calls: hooks that draw progress, and stop the library where SIGINT or SIGTERM came. */
vmoer_hooks session_hooks(void);

/* Has such a signal come since the hooks were asked for? */
int session_stopped(void);

/* Ends the progress line, prints the error line of a failed call, and says the exit code. */
int session_end(vmoer_status status);

/* An error of our own in the same shape: "vmoer eval: <text>" on stderr. Returns `code`. */
int session_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
