/* utf8.h: the ends of texts: what must fit a fixed buffer is cut between characters, for JSON and safetensors metadata
 * take whole ones only. */
#ifndef VM_BASE_UTF8_H
#define VM_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* The largest n <= length such that text[n] does not stand inside a UTF-8 character that began before it. Looks at the
 * last bytes of text[length] alone; what is no UTF-8 there stays. */
size_t vm_utf8_cut(const char *text, size_t length);

/* Whether text is longer than `end` and ends with it. */
bool vm_ends_with(const char *text, const char *end);

/* Copies text into out[size], size >= 1, NUL-terminated; what does not fit is left out, whole characters at a time. */
void vm_copy_text(char *out, size_t size, const char *text);

#endif
