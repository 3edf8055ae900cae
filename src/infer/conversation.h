/* conversation.h: a conversation as tokens, laid out by the model's own chat template (GGUF key tokenizer.chat_template). Special tokens come from the
 * template alone: text that looks like one in a message is plain text, in whatever way the template puts it together with its own. */
#ifndef VM_INFER_CONVERSATION_H
#define VM_INFER_CONVERSATION_H

#include "io/gguf.h"
#include "io/tokenizer.h"

/* VMOER_ERROR_DATA: not a list of {"role", ...}. */
vmoer_status vm_conversation_check(const json_t *messages);
/* messages: such a list; with answer the opening of the next one's text stands at the end. *text[*length], as the template lays it out (vm_free), and its ids,
 * added to *ids. VMOER_ERROR_DATA: the template refuses it. */
vmoer_status vm_conversation_tokens(const vm_gguf *g, const vm_tokenizer *t, const json_t *messages, bool answer, char **text, size_t *length, vm_ids *ids);

#endif
