/* normalize.c: see normalize.h. */
#include "io/normalize.h"

#include "base/status.h"
#include <string.h>

enum { MAX_RESULT = 1 << 30 };

bool vm_steps_add(vm_steps *steps, vm_step_kind kind, const char *from, const char *to) {
    bool fits = steps->count < VM_MAX_STEPS && strlen(from) <= VM_MAX_STEP_BYTES && strlen(to) <= VM_MAX_STEP_BYTES;
    if (!fits || (kind == VM_STEP_REPLACE && !*from)) return false;
    vm_step *step = &steps->list[steps->count++];
    step->kind = kind;
    strcpy(step->from, from);
    strcpy(step->to, to);
    return true;
}

static vmoer_status too_long(void) {
    return vm_error(VMOER_ERROR_LIMIT, "the text has more than %d bytes once it is normalised", MAX_RESULT);
}

static vmoer_status add(vm_bytes *out, const char *bytes, size_t length) {
    return length > MAX_RESULT - out->length ? too_long() : vm_bytes_add(out, bytes, length);
}

static vmoer_status replace(const vm_step *step, vm_slice s, vm_bytes *out) {
    size_t from = strlen(step->from), to = strlen(step->to), at = 0;
    for (const char *hit; (hit = memmem(s.text + at, s.length - at, step->from, from));
         at = (size_t)(hit - s.text) + from) {
        VM_TRY(add(out, s.text + at, (size_t)(hit - s.text) - at));
        VM_TRY(add(out, step->to, to));
    }
    return add(out, s.text + at, s.length - at);
}

/* Whether the step leaves the text as it is. */
static bool is_idle(const vm_step *step, vm_slice s, bool first) {
    size_t to = strlen(step->to);
    bool starts = s.length >= to && memcmp(s.text, step->to, to) == 0;
    switch (step->kind) {
    case VM_STEP_NFC:
        return vm_nfc_check(s.text, s.length) == s.length;
    case VM_STEP_REPLACE:
        return !memmem(s.text, s.length, step->from, strlen(step->from));
    case VM_STEP_PREPEND:
        return false;
    case VM_STEP_LEAD:
        return starts;
    case VM_STEP_LEAD_FIRST:
        return starts || !first;
    }
    return true;
}

vmoer_status vm_steps_apply(const vm_steps *steps, bool first, vm_bytes buffers[2], vm_slice *text) {
    for (size_t i = 0; i < steps->count && text->length > 0; i++) {
        const vm_step *step = &steps->list[i];
        if (is_idle(step, *text, first)) continue;
        vm_bytes *out = &buffers[text->text == buffers[0].data];
        out->length = 0;
        if (step->kind == VM_STEP_NFC) {
            VM_TRY(vm_nfc(text->text, text->length, out));
            if (out->length > MAX_RESULT) return too_long();
        } else if (step->kind == VM_STEP_REPLACE) {
            VM_TRY(replace(step, *text, out));
        } else {
            VM_TRY(add(out, step->to, strlen(step->to)));
            VM_TRY(add(out, text->text, text->length));
        }
        *text = (vm_slice){out->data, out->length};
    }
    return VMOER_OK;
}
