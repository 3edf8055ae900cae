/* nfc.h: Unicode's normal form C (UAX #15): canonical decomposition, marks in canonical order, composition. The tables are those of Hugging Face
 * `tokenizers` (tools/unicode_nfc.py), so that a model's ids do not depend on which Unicode a machine has. Linear in the text, whatever it holds. */
#ifndef VM_IO_NFC_H
#define VM_IO_NFC_H

#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A text that grows; starts as {0}, vm_bytes_free in any case. */
typedef struct vm_bytes {
    char *data; /* [length] of [capacity] */
    size_t length, capacity;
} vm_bytes;
void vm_bytes_free(vm_bytes *t);
vmoer_status vm_bytes_add(vm_bytes *t, const char *text, size_t length);

/* Offset of the first character of text[length], valid UTF-8, that may not be in normal form where it stands; length: there is none, as in nearly all
 * texts. Bytes below 0xcc (all of Latin) are only looked at. */
size_t vm_nfc_check(const char *text, size_t length);
/* Adds the normal form of text[length], valid UTF-8, to out. */
vmoer_status vm_nfc(const char *text, size_t length, vm_bytes *out);

#endif
