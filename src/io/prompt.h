/* prompt.h: a question as text. All choices share the context; each adds its continuation.
 *   cloze   "Question: {stem}\nAnswer:" + " {choice}"; score = mean log-probability a token
 *   letter  "Question: {stem}\nA. {choice}\n...\nAnswer:" + " A"; score = log-probability of the letter
 *   lm-eval the prompt of that lm-eval task; score = sum of log-probabilities (acc), or divided by the choice's length in characters (acc_norm) */
#ifndef VM_IO_PROMPT_H
#define VM_IO_PROMPT_H

#include "io/dataset.h"
#include "io/tokenizer.h"

typedef enum vm_format { VM_FORMAT_CLOZE, VM_FORMAT_LETTER, VM_FORMAT_LM_EVAL } vm_format;
vmoer_status vm_format_parse(const char *name, vm_format *out);
const char *vm_format_name(vm_format format);

typedef struct vm_prompt {
    int32_t *ids;                      /* context then the continuations one after the other; [start[n_choices]] */
    int n_context;                     /* tokens of the context, >= 1 (BOS included if the tokenizer adds it) */
    int n_choices;
    int start[VM_MAX_CHOICES + 1];     /* choice c is ids[start[c] .. start[c+1]); start[0] == n_context */
    int chars[VM_MAX_CHOICES];         /* length of the choice's text in characters (code points): what acc_norm divides by */
} vm_prompt;

/* Tokenizes context + continuation as one text where that decides the ids (as lm-eval does) and splits at the context's length. */
vmoer_status vm_prompt_build(const vm_tokenizer *t, const char *task, const vm_item *item, vm_format format, vm_prompt *out);
void vm_prompt_free(vm_prompt *p);

#endif
