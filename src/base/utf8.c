/* utf8.c: see utf8.h. */
#include "base/utf8.h"

#include <string.h>

size_t vm_utf8_cut(const char *text, size_t length) {
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        unsigned char c = (unsigned char)text[length - back];
        if ((c & 0xc0) == 0x80) continue; /* inside a character; its first byte says how long it is */
        size_t size = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return size > back ? length - back : length;
    }
    return length;
}

bool vm_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

void vm_copy_text(char *out, size_t size, const char *text) {
    size_t length = strnlen(text, size);
    if (length == size) length = vm_utf8_cut(text, size - 1);
    memcpy(out, text, length);
    out[length] = '\0';
}
