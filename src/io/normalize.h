/* normalize.h: what is done to a text before it is cut into pieces: the normalizer of a tokenizer.json, and the part of its pre-tokenizer Metaspace that
 * changes characters, as a short list of steps. */
#ifndef VM_IO_NORMALIZE_H
#define VM_IO_NORMALIZE_H

#include "io/nfc.h"

typedef struct vm_slice {
    const char *text; /* [length], any bytes */
    size_t length;
} vm_slice;

typedef enum vm_step_kind {
    VM_STEP_NFC,
    VM_STEP_REPLACE,   /* every `from` becomes `to` */
    VM_STEP_PREPEND,   /* `to` comes in front of what is not empty */
    VM_STEP_LEAD,      /* the same, unless it stands there already */
    VM_STEP_LEAD_FIRST /* the same, at the start of the whole text alone */
} vm_step_kind;

enum { VM_MAX_STEPS = 4, VM_MAX_STEP_BYTES = 7 }; /* so that no file makes a text larger than 7^4 times itself */
typedef struct vm_step {
    vm_step_kind kind;
    char from[VM_MAX_STEP_BYTES + 1], to[VM_MAX_STEP_BYTES + 1]; /* NUL-terminated */
} vm_step;
typedef struct vm_steps {
    size_t count;
    vm_step list[VM_MAX_STEPS];
} vm_steps;
/* Adds a step, `from` and `to` where its kind has them. False: too many steps, a text that is too long, or nothing to look for. */
bool vm_steps_add(vm_steps *steps, vm_step_kind kind, const char *from, const char *to);

/* Takes *text through the steps; it is UTF-8 and stays it. Afterwards it points into one of the buffers, or where it did if nothing changed. first: it
 * stands at the start of the whole text. The result has less than 2^30 bytes. */
vmoer_status vm_steps_apply(const vm_steps *steps, bool first, vm_bytes buffers[2], vm_slice *text);

#endif
