/* prompt.c: a question's text in each format, and its tokens. Every format goes the way of lm-evaluation-harness
 * (0.4.x, api/model.py, TemplateLM._encode_pair): a context's trailing white space moves to the continuation, context +
 * continuation is tokenized as one text, and what lies past the context's own tokens is the continuation's. */
#include "io/prompt.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/unicode.h"
#include <stdio.h>
#include <string.h>

static const char *const format_names[] = {
    [VM_FORMAT_CLOZE] = "cloze", [VM_FORMAT_LETTER] = "letter", [VM_FORMAT_LM_EVAL] = "lm-eval"};

vmoer_status vm_format_parse(const char *name, vm_format *out) {
    for (int f = 0; f < 3; f++) {
        if (strcmp(name, format_names[f]) == 0) {
            *out = (vm_format)f;
            return VMOER_OK;
        }
    }
    return vm_error(VMOER_ERROR_ARGUMENT, "no prompt format \"%.40s\"; there are cloze, letter and lm-eval", name);
}

const char *vm_format_name(vm_format format) { return (unsigned)format < 3 ? format_names[format] : "?"; }

/* ---- text ---- */
typedef struct text {
    char *bytes;
    size_t length, capacity;
    bool failed; /* out of memory: asked once at the end */
} text;

static void add(text *t, const char *s, size_t length) {
    void *grown = t->bytes;
    if (t->failed || !vm_grow(&grown, &t->capacity, t->length + length + 1, 1)) {
        t->failed = true;
        return;
    }
    t->bytes = grown;
    memcpy(t->bytes + t->length, s, length);
    t->length += length;
}

static void add_string(text *t, const char *s) { add(t, s, strlen(s)); }

/* What Python's str.strip takes for white space: \s and the four separators U+001C to U+001F. */
static bool is_python_space(uint32_t code) {
    return (code >= 0x1c && code <= 0x1f) || vm_unicode_classify(code) == VM_UNICODE_SPACE;
}

/* Length of s[length] without its trailing white space. */
static size_t stripped(const char *s, size_t length) {
    while (length > 0) {
        size_t start = length - 1;
        while (start > 0 && ((uint8_t)s[start] & 0xc0) == 0x80) start--;
        uint32_t code;
        size_t at = start;
        if (!vm_utf8_next(s, length, &at, &code) || !is_python_space(code)) break;
        length = start;
    }
    return length;
}

static void add_stripped(text *t, const char *s) {
    size_t length = stripped(s, strlen(s)), start = 0;
    for (size_t at = 0; at < length; start = at) {
        uint32_t code;
        if (!vm_utf8_next(s, length, &at, &code) || !is_python_space(code)) break;
    }
    add(t, s + start, length - start);
}

static void add_lettered_choices(text *t, const vm_item *item) {
    for (int c = 0; c < item->n_choices; c++) {
        char letter[4] = {(char)('A' + c), '.', ' ', '\0'};
        add_string(t, letter);
        add_string(t, item->choices[c]);
        add_string(t, "\n");
    }
}

/* ---- the tasks of lm-evaluation-harness whose prompts are known here, as of 0.4.13: lm_eval/tasks/TASK ---- */
typedef enum lm_eval_task { TASK_OPENBOOKQA, TASK_QUESTION, TASK_SOCIAL_IQA, TASK_MEDMCQA, TASK_MMLU } lm_eval_task;

static vmoer_status find_lm_eval_task(const char *task, const vm_item *item, lm_eval_task *out) {
    if (strcmp(task, "openbookqa") == 0)
        *out = TASK_OPENBOOKQA;
    else if (strcmp(task, "arc_easy") == 0 || strcmp(task, "arc_challenge") == 0 || strcmp(task, "piqa") == 0)
        *out = TASK_QUESTION;
    else if (strcmp(task, "social_iqa") == 0)
        *out = TASK_SOCIAL_IQA;
    else if (strcmp(task, "medmcqa") == 0)
        *out = TASK_MEDMCQA;
    else if (strncmp(task, "mmlu_", 5) == 0 && task[5])
        *out = TASK_MMLU;
    else if (strcmp(task, "sciq") == 0)
        return vm_error(
            VMOER_ERROR_UNSUPPORTED,
            "sciq: lm-eval's prompt starts with a supporting passage, which is not read here; use cloze or letter");
    else
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "%.60s: lm-eval's prompt for this task is not known here; use cloze or letter", task);
    if ((*out == TASK_MEDMCQA || *out == TASK_MMLU) && item->n_choices != 4)
        return vm_error(VMOER_ERROR_DATA, "%.60s: lm-eval's prompt has 4 choices, this item %d", task, item->n_choices);
    return VMOER_OK;
}

static void add_lm_eval_context(text *t, const char *task, lm_eval_task kind, const vm_item *item) {
    switch (kind) {
    case TASK_OPENBOOKQA:
        add_string(t, item->stem);
        break;
    case TASK_QUESTION:
        add_string(t, "Question: ");
        add_string(t, item->stem);
        add_string(t, "\nAnswer:");
        break;
    case TASK_SOCIAL_IQA:
        add_string(t, "Q: ");
        add_string(t, item->stem);
        add_string(t, "\nA:");
        break;
    case TASK_MEDMCQA:
        add_string(t, "Question: ");
        add_string(t, item->stem);
        add_string(t, "\nChoices:\n");
        add_lettered_choices(t, item);
        add_string(t, "Answer:");
        break;
    case TASK_MMLU:
        add_string(t, "The following are multiple choice questions (with answers) about ");
        for (const char *s = task + 5; *s; s++) add(t, *s == '_' ? " " : s, 1);
        add_string(t, ".\n\n");
        add_stripped(t, item->stem);
        add_string(t, "\n");
        add_lettered_choices(t, item);
        add_string(t, "Answer:");
        break;
    }
}

/* The context, and whether the choices' letters follow it rather than their texts. */
static vmoer_status write_context(text *t, const char *task, const vm_item *item, vm_format format, bool *letters) {
    lm_eval_task kind;
    switch (format) {
    case VM_FORMAT_CLOZE:
    case VM_FORMAT_LETTER:
        *letters = format == VM_FORMAT_LETTER;
        add_string(t, "Question: ");
        add_string(t, item->stem);
        add_string(t, "\n");
        if (*letters) add_lettered_choices(t, item);
        add_string(t, "Answer:");
        return VMOER_OK;
    case VM_FORMAT_LM_EVAL:
        VM_TRY(find_lm_eval_task(task, item, &kind));
        *letters = kind == TASK_MEDMCQA || kind == TASK_MMLU;
        add_lm_eval_context(t, task, kind, item);
        return VMOER_OK;
    }
    return vm_error(VMOER_ERROR_ARGUMENT, "prompt format %d", (int)format);
}

/* ---- tokens ---- */
/* Appends the ids of t to out, BOS first if the tokenizer adds it. */
static vmoer_status encode(const vm_tokenizer *tokenizer, const char *bytes, size_t length, vm_ids *out) {
    out->count = 0;
    VM_TRY(vm_tokenizer_begin(tokenizer, out));
    return vm_tokenizer_encode(tokenizer, bytes, length, false, out);
}

static vmoer_status append(vm_ids *out, const int32_t *ids, size_t n) {
    void *grown = out->ids;
    if (!vm_grow(&grown, &out->capacity, out->count + n, sizeof *out->ids))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a prompt");
    out->ids = grown;
    memcpy(out->ids + out->count, ids, n * sizeof *ids);
    out->count += n;
    return VMOER_OK;
}

vmoer_status vm_prompt_build(const vm_tokenizer *t, const char *task, const vm_item *item, vm_format format,
                             vm_prompt *out) {
    text written = {0};
    vm_ids all = {0}, whole = {0};
    bool letters;
    vmoer_status status;
    *out = (vm_prompt){.n_choices = item->n_choices};
    VM_GOTO(write_context(&written, task, item, format, &letters));
    size_t context_length = written.length; /* trailing white space included: it goes to the continuations */
    VM_GOTO(written.failed ? vm_error(VMOER_ERROR_MEMORY, "no memory for a prompt") : VMOER_OK);
    VM_GOTO(encode(t, written.bytes, stripped(written.bytes, context_length), &all));
    size_t n_context = all.count;
    if (n_context == 0)
        VM_GOTO(vm_error(VMOER_ERROR_DATA, "item %s: the question has no token in this vocabulary", item->id));
    out->n_context = out->start[0] = (int)n_context;
    for (int c = 0; c < item->n_choices; c++) {
        char letter[2] = {(char)('A' + c), '\0'};
        const char *choice = letters ? letter : item->choices[c];
        written.length = context_length;
        add_string(&written, " ");
        add_string(&written, choice);
        VM_GOTO(written.failed ? vm_error(VMOER_ERROR_MEMORY, "no memory for a prompt") : VMOER_OK);
        VM_GOTO(encode(t, written.bytes, written.length, &whole));
        if (whole.count <= n_context)
            VM_GOTO(vm_error(VMOER_ERROR_DATA, "item %s: choice %d has no token of its own", item->id, c));
        VM_GOTO(append(&all, whole.ids + n_context, whole.count - n_context));
        out->start[c + 1] = (int)all.count;
        out->chars[c] = (int)vm_utf8_count(choice, strlen(choice));
    }
    out->ids = all.ids;
done:
    vm_free(written.bytes);
    vm_ids_free(&whole);
    if (status != VMOER_OK) {
        vm_ids_free(&all);
        *out = (vm_prompt){0};
    }
    return status;
}

void vm_prompt_free(vm_prompt *p) {
    vm_free(p->ids);
    *p = (vm_prompt){0};
}
