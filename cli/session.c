/* session.c: progress, signals, errors. A terminal gets one bar that redraws itself, anything else a plain line at most
 * every five seconds (and one at each stage's end), so that a log file stays readable. */
#include "session.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double bar_interval = 0.1, line_interval = 5.0; /* seconds */

static volatile sig_atomic_t stop_asked;

static struct session {
    const char *verb;
    int quiet, terminal, drawn; /* drawn: the bar stands on the current line */
    char stage[64];
    double begun, shown;  /* seconds; of this stage, of the last drawing */
    uint64_t first, last; /* `done` when the stage was first seen: a resumed run's rate counts what it did itself; at
                             the last call */
} session;

/* The first one asks the library to stop; one that comes a second later or more ends the process. Closer ones are the
 * same wish: timeout(1), for one, signals a process and then its group. */
static void on_signal(int number) {
    static volatile time_t first;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (stop_asked && t.tv_sec > first + 1) {
        signal(number, SIG_DFL);
        raise(number);
    }
    if (!stop_asked) first = t.tv_sec;
    stop_asked = 1;
}

/* Files are read where they are mapped: of one that was cut off meanwhile there is nothing to read. */
static void on_bus_error(int number) {
    static const char text[] = "vmoer: a file that is in use was cut off, or its disk cannot be read\n";
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)number, (void)written;
    _exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void clear_bar(void) {
    if (session.drawn) fputs("\r\033[K", stderr);
    session.drawn = 0;
}

static const char *clock_text(double seconds, char *buffer, size_t size) {
    long s = seconds < 359999 ? (long)(seconds + 0.5) : 359999;
    if (s >= 3600)
        snprintf(buffer, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buffer, size, "%ld:%02ld", s / 60, s % 60);
    return buffer;
}

static int terminal_width(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

static void draw(uint64_t done, uint64_t total, const char *note, double at) {
    enum { BAR = 24 };
    char line[256], bar[BAR + 4] = "", of[24] = "", eta[48] = "", elapsed[32], left[32];
    double seconds = at - session.begun, rate = seconds > 0 ? (double)(done - session.first) / seconds : 0;
    clock_text(seconds, elapsed, sizeof elapsed);
    if (rate > 0 && total > done)
        snprintf(eta, sizeof eta, ", %s left", clock_text((double)(total - done) / rate, left, sizeof left));
    if (session.terminal && total) {
        size_t filled = done < total ? (size_t)((double)done / (double)total * BAR) : BAR;
        bar[0] = '[', bar[BAR + 1] = ']', bar[BAR + 2] = ' ', bar[BAR + 3] = 0;
        memset(bar + 1, '#', filled);
        memset(bar + 1 + filled, '.', BAR - filled);
    }
    if (total) snprintf(of, sizeof of, "/%llu", (unsigned long long)total);
    snprintf(line, sizeof line, "%s %s%llu%s  %s, %.3g/s%s%s%s", session.stage, bar, (unsigned long long)done, of,
             elapsed, rate, eta, note && *note ? "  " : "", note ? note : "");
    if (session.terminal)
        fprintf(stderr, "\r\033[K%.*s", terminal_width() - 1, line);
    else
        fprintf(stderr, "%s\n", line);
    session.drawn = session.terminal;
    session.shown = at;
}

static int on_progress(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    (void)user;
    if (session.quiet) return stop_asked;
    double at = now();
    int again = session.last != UINT64_MAX && done < session.last; /* the next job of the same name */
    if (again || strncmp(stage, session.stage, sizeof session.stage - 1)) {
        if (session.drawn) fputc('\n', stderr);
        session.drawn = 0;
        snprintf(session.stage, sizeof session.stage, "%s", stage);
        session.begun = session.shown = at;
        session.first = done;
        session.last = UINT64_MAX;
    }
    int ends = total && done >= total && session.last != done;
    session.last = done;
    if (ends || at - session.shown >= (session.terminal ? bar_interval : line_interval)) draw(done, total, note, at);
    return stop_asked;
}

static void on_log(void *user, const char *line) {
    (void)user;
    if (session.quiet) return;
    clear_bar();
    fprintf(stderr, "%s\n", line);
}

void session_begin(const char *verb_name, int quiet) {
    session.verb = verb_name;
    session.quiet = quiet;
    session.terminal = isatty(STDERR_FILENO);
    struct sigaction action = {.sa_handler = on_bus_error};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

vmoer_hooks session_hooks(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return (vmoer_hooks){.progress = on_progress, .log = on_log};
}

int session_stopped(void) { return stop_asked; }

int session_fail(int code, const char *format, ...) {
    va_list arguments;
    clear_bar();
    fprintf(stderr, "vmoer %s: ", session.verb);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return code;
}

int session_end(vmoer_status status) {
    if (session.drawn) fputc('\n', stderr);
    session.drawn = 0;
    if (status == VMOER_OK) return 0;
    const char *text = vmoer_last_error();
    if (!*text) text = vmoer_status_text(status);
    return session_fail(status == VMOER_ERROR_ARGUMENT ? 2 : 1, "%s", text);
}
