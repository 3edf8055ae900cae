/* chat_template.h: the templates by which models lay out a conversation (GGUF key tokenizer.chat_template): a subset of Jinja, rendered as transformers does
 * it (trim_blocks, lstrip_blocks, sandboxed, nothing escaped). A template is model data, hence hostile: no input or output, and limits that end with one line
 * naming the template's line: 1 MiB of template, 100 levels in its source and in values, 400 at run time, 4,000,000 steps, 128 MiB of values, 16 MiB of text.
 *
 * {{ }}, {# #}, {% if elif else for set macro break continue generation %} with + and - marks; loop (first last index index0 revindex revindex0 length previtem
 * nextitem depth depth0); expressions with or and not, comparisons, in, is, ~ + - * / // % **, conditionals, slices, calls, lists, tuples, dicts;
 *   functions  namespace range dict raise_exception strftime_now
 *   filters    capitalize count d default first items join last length list lower map reject rejectattr replace reverse select selectattr string int title
 *              tojson trim upper
 *   tests      boolean callable defined divisibleby eq equalto == even false float ge >= gt > in integer iterable le <= lower lt < mapping ne != none number
 *              odd sameas sequence string true undefined upper
 *   methods    of strings: capitalize endswith join lower lstrip replace rstrip split startswith strip title upper; of dicts: get items keys values
 * What else Jinja knows is refused when it is met: statements when parsing, the rest when it is carried out. Upper and lower case are those of ASCII: other
 * letters are refused there. Integers have 64 bits.
 * Language: jinja.palletsprojects.com/en/stable/templates */
#ifndef VM_IO_CHAT_TEMPLATE_H
#define VM_IO_CHAT_TEMPLATE_H

#include "vmoer/vmoer_errors.h"
#include <jansson.h>
#include <stddef.h>
#include <time.h>

typedef struct vm_chat_template vm_chat_template;

/* text[length], UTF-8, is copied. */
vmoer_status vm_chat_template_parse(const char *text, size_t length, vm_chat_template **out);
void vm_chat_template_free(vm_chat_template *t); /* takes NULL */

typedef struct vm_chat_text {
    char *text;  /* [length], NUL-terminated (and may hold other NULs), valid UTF-8 */
    char *given; /* [length]: 1 where a byte came with the variables, through whatever the template did to it, 0 where it is the template's own. Its own are
                  * also the variables whose names end in _token, and `role`s of small letters alone: templates make their marks of them. */
    size_t length;
} vm_chat_text;
void vm_chat_text_free(vm_chat_text *text);

/* variables: a JSON object, the names that the template sees; now: what strftime_now tells. VMOER_ERROR_DATA: the template itself refused
 * (raise_exception). Thread-safe. */
vmoer_status vm_chat_template_render(const vm_chat_template *t, const json_t *variables, const struct tm *now, vm_chat_text *out);

#endif
