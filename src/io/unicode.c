/* unicode.c: UTF-8 decoding and character classes by binary search in a table of runs. */
#include "io/unicode.h"

#include "io/unicode_classes.h"

/* The last run that is not above `key`; the first one is 0. */
static uint32_t run_of(const uint32_t *runs, size_t count, uint32_t key) {
    size_t low = 0, high = count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (runs[middle] <= key)
            low = middle;
        else
            high = middle;
    }
    return runs[low];
}

vm_unicode_class vm_unicode_classify(uint32_t code) {
    if (code < sizeof ascii_classes) return (vm_unicode_class)ascii_classes[code];
    return (vm_unicode_class)(run_of(class_runs, sizeof class_runs / sizeof *class_runs, code << 4 | 15) & 15);
}

bool vm_unicode_is_word(uint32_t code) {
    return run_of(word_runs, sizeof word_runs / sizeof *word_runs, code << 1 | 1) & 1;
}

bool vm_utf8_next(const char *text, size_t length, size_t *at, uint32_t *code) {
    const uint8_t *p = (const uint8_t *)text + *at;
    size_t left = length - *at;
    if (p[0] < 0x80) {
        *code = p[0];
        *at += 1;
        return true;
    }
    size_t size = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || left < size) return false;
    uint32_t value = p[0] & (0xffu >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if ((p[i] & 0xc0) != 0x80) return false;
        value = value << 6 | (p[i] & 0x3fu);
    }
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < smallest[size] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return false;
    *code = value;
    *at += size;
    return true;
}

size_t vm_utf8_put(uint32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint32_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = size - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(lead[size] | code);
    return size;
}

bool vm_utf8_valid(const char *text, size_t length, size_t *bad) {
    size_t at = 0;
    uint32_t code;
    while (at < length) {
        if (!vm_utf8_next(text, length, &at, &code)) {
            *bad = at;
            return false;
        }
    }
    return true;
}

size_t vm_utf8_count(const char *text, size_t length) {
    size_t count = 0;
    for (size_t i = 0; i < length; i++) count += ((uint8_t)text[i] & 0xc0) != 0x80;
    return count;
}
