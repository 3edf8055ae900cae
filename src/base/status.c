/* status.c: the error text of each thread. One line of at most 1023 bytes; what is longer is cut at the end. */
#include "base/status.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_SIZE = 1024 };

static _Thread_local char error_text[TEXT_SIZE];

/* Names from files land in these texts: no control character of theirs may reach a terminal or break the line. */
static void store(const char *text) {
    size_t i = 0;
    for (; text[i] && i < TEXT_SIZE - 1; i++) {
        unsigned char c = (unsigned char)text[i];
        error_text[i] = c < 0x20 || c == 0x7f ? '?' : text[i];
    }
    if (i == TEXT_SIZE - 1) i = vm_utf8_cut(error_text, i); /* it was cut, here or before */
    error_text[i] = '\0';
}

vmoer_status(vm_error)(vmoer_status code, const char *format, ...) {
    char text[TEXT_SIZE]; /* a copy, because the arguments may point into the text they replace */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    store(text);
    return code;
}

vmoer_status(vm_error_in)(vmoer_status code, const char *format, ...) {
    char text[2 * TEXT_SIZE + 2];
    va_list args;
    va_start(args, format);
    vsnprintf(text, TEXT_SIZE, format, args);
    va_end(args);
    size_t used = strlen(text);
    memcpy(text + used, ": ", 3);
    used += 2;
    if (strncmp(error_text, text, used) == 0) return code; /* said below already */
    memcpy(text + used, error_text, strlen(error_text) + 1);
    store(text);
    return code;
}

const char *vm_error_text(void) { return error_text; }

const char *vm_status_text(vmoer_status code) {
    switch (code) {
#define STATUS_CASE(name, value, text) \
    case VMOER_##name:                 \
        return text;
        VMOER_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}
