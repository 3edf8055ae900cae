/* text.h: the page being written, a growing text. Running out of memory is remembered and reported once, at the end.
 * Numbers do not pass through printf: the decimal point is a point in every locale. Private to report/. */
#ifndef VM_REPORT_TEXT_H
#define VM_REPORT_TEXT_H

#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct vm_text {
    char *data; /* [size], not NUL-terminated */
    size_t size, capacity;
    bool failed;
    int next_id; /* of the SVG elements that are referred to */
} vm_text;
void vm_text_free(vm_text *t);

/* Appends `format` with
 *   %s            text as it is: markup of this program
 *   %t            text of a file: HTML-escaped, broken UTF-8 and control characters replaced
 *   %d, %u        int, size_t
 *   %0 ... %6     double with so many decimals, for attributes and coordinates ("-0.5")
 *   %n0 ... %n6   the same for reading: a true minus sign
 *   %+0 ... %+6   and a plus in front of what is not negative
 *   %g            double in six digits that count, zeros at the end left out ("0.0001", "3e-7")
 *   %%            a percent sign */
void vm_text_put(vm_text *t, const char *format, ...);

/* At most `max` characters of a file's text; a longer one is cut and ends in an ellipsis. Escaped. */
void vm_text_short(vm_text *t, const char *text, size_t max);
/* UTF-8 characters of text, a broken byte counting as one. */
size_t vm_text_length(const char *text);

#endif
