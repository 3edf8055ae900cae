/* text.c: appending, escaping, numbers. */
#include "report/text.h"

#include "base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

void vm_text_free(vm_text *t) {
    vm_free(t->data);
    *t = (vm_text){0};
}

static void add(vm_text *t, const char *data, size_t size) {
    size_t need;
    if (t->failed || size == 0) return;
    if (!vm_add(t->size, size, &need) || !vm_grow((void **)&t->data, &t->capacity, need, 1)) {
        t->failed = true;
        return;
    }
    memcpy(t->data + t->size, data, size);
    t->size = need;
}

static void add_text(vm_text *t, const char *text) { add(t, text, strlen(text)); }

/* Length of the well-formed UTF-8 character at s (no surrogates, no overlong forms); 0: broken. s is NUL-terminated. */
static size_t utf8_length(const char *s) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return 1;
    size_t length = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
    if (u[0] < 0xc2 || u[0] > 0xf4) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((u[i] & 0xc0) != 0x80) return 0;
    }
    if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f)) return 0;
    if ((u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f)) return 0;
    return length;
}

static void add_character(vm_text *t, const char *s, size_t length) {
    unsigned char c = (unsigned char)*s;
    if (length == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
        add_text(t, "\xef\xbf\xbd"); /* U+FFFD */
    else if (c == '&')
        add_text(t, "&amp;");
    else if (c == '<')
        add_text(t, "&lt;");
    else if (c == '>')
        add_text(t, "&gt;");
    else if (c == '"')
        add_text(t, "&quot;");
    else if (c == '\'')
        add_text(t, "&#39;");
    else
        add(t, s, length);
}

static const char *add_next(vm_text *t, const char *s) {
    size_t length = utf8_length(s);
    add_character(t, s, length);
    return s + (length ? length : 1);
}

size_t vm_text_length(const char *text) {
    size_t count = 0;
    for (const char *s = text; *s; count++) {
        size_t length = utf8_length(s);
        s += length ? length : 1;
    }
    return count;
}

void vm_text_short(vm_text *t, const char *text, size_t max) {
    size_t length = vm_text_length(text);
    size_t keep = length <= max ? length : max - 1;
    const char *s = text;
    for (size_t i = 0; i < keep; i++) s = add_next(t, s);
    if (keep < length) add_text(t, "\xe2\x80\xa6");
}

static void add_unsigned(vm_text *t, uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    add(t, digits + at, sizeof digits - at);
}

/* Rounded half away from zero; a value that rounds to zero has no minus sign. */
static void add_fixed(vm_text *t, double value, int decimals, const char *minus, const char *plus) {
    static const double POWER[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6};
    if (decimals < 0 || decimals > 6) { /* not a format of text.h: the tests notice */
        t->failed = true;
        return;
    }
    if (!isfinite(value) || fabs(value) > 1e12) {
        add_text(t, isnan(value) ? "\xe2\x80\x93"
                    : value < 0  ? "\xe2\x88\x92\xe2\x88\x9e"
                                 : "\xe2\x88\x9e"); /* en dash, infinity */
        return;
    }
    uint64_t scale = (uint64_t)POWER[decimals], scaled = (uint64_t)llround(fabs(value) * POWER[decimals]);
    add_text(t, value < 0 && scaled > 0 ? minus : plus);
    add_unsigned(t, scaled / scale);
    if (decimals == 0) return;
    char fraction[8] = ".";
    uint64_t rest = scaled % scale;
    for (int i = decimals; i > 0; i--, rest /= 10) fraction[i] = (char)('0' + rest % 10);
    add(t, fraction, (size_t)decimals + 1);
}

/* Six digits that count, no zeros at the end; very large and very small ones with an exponent. */
static void add_general(vm_text *t, double value) {
    double size = fabs(value);
    int exponent = size > 0 && isfinite(size) ? (int)floor(log10(size)) : 0;
    if (exponent < -4 || exponent > 8) {
        add_general(t, value / pow(10, exponent));
        vm_text_put(t, "e%d", exponent);
        return;
    }
    int decimals = exponent > 5 ? 0 : exponent < -1 ? 6 : 5 - exponent;
    add_fixed(t, value, decimals > 6 ? 6 : decimals, "-", "");
    if (decimals == 0 || t->failed || !isfinite(value)) return;
    while (t->data[t->size - 1] == '0') t->size--;
    if (t->data[t->size - 1] == '.') t->size--;
}

void vm_text_put(vm_text *t, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    for (const char *s = format; *s; s++) {
        if (*s != '%') {
            size_t plain = strcspn(s, "%");
            add(t, s, plain);
            s += plain - 1;
            continue;
        }
        s++;
        if (*s == 's') {
            add_text(t, va_arg(arguments, const char *));
        } else if (*s == 't') {
            for (const char *c = va_arg(arguments, const char *); *c;) c = add_next(t, c);
        } else if (*s == 'd') {
            int value = va_arg(arguments, int);
            if (value < 0) add_text(t, "-");
            add_unsigned(t, value < 0 ? (uint64_t) - (int64_t)value : (uint64_t)value);
        } else if (*s == 'u') {
            add_unsigned(t, va_arg(arguments, size_t));
        } else if (*s == 'n') {
            add_fixed(t, va_arg(arguments, double), *++s - '0', "\xe2\x88\x92", "");
        } else if (*s == '+') {
            add_fixed(t, va_arg(arguments, double), *++s - '0', "\xe2\x88\x92", "+");
        } else if (*s == 'g') {
            add_general(t, va_arg(arguments, double));
        } else if (*s == '%') {
            add_text(t, "%");
        } else {
            add_fixed(t, va_arg(arguments, double), *s - '0', "-", "");
        }
    }
    va_end(arguments);
}
