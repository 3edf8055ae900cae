/* dataset_internal.h: a data set being filled, shared by dataset.c (tasks, splits) and dataset_formats.c (files). */
#ifndef VM_IO_DATASET_INTERNAL_H
#define VM_IO_DATASET_INTERNAL_H

#include "base/memory.h"
#include "io/dataset.h"
#include <stdbool.h>

struct vm_dataset {
    char task[64];
    vm_arena *arena; /* the items' texts */
    vm_item *items;  /* [count] */
    size_t count, capacity;
};

typedef enum vm_dataset_format {
    VM_DATASET_AI2,     /* OpenBookQA, ARC: JSON lines {id, question: {stem, choices: [{text, label}]}, answerKey} */
    VM_DATASET_MEDMCQA, /* JSON lines {id, question, opa..opd, cop: 1..4} */
    VM_DATASET_SCIQ,    /* a JSON list of {question, correct_answer, distractor1..3} */
    VM_DATASET_MMLU,    /* CSV without header: question, four choices, A..D */
    VM_DATASET_USER,    /* JSON lines {question, choices: [text], answer: index from 0}, id optional */
    VM_DATASET_PIQA,    /* JSON lines {goal, sol1, sol2}; a line 0 or 1 of the labels file for each */
    VM_DATASET_SIQA     /* Social IQa: JSON lines {context, question, answerA..C}; a line 1, 2 or 3 of the labels file for each */
} vm_dataset_format;

/* A file's bytes; `where` names it in errors. */
typedef struct vm_text_file {
    const char *data; /* [size] */
    size_t size;
    const char *where;
} vm_text_file;

vmoer_status vm_dataset_create(const char *task, vm_dataset **out);
/* Copies the item in, after checking it: valid UTF-8, nothing empty, 2..VM_MAX_CHOICES choices, the answer among them.
 * Sets the hash; the errors do not name the place. */
vmoer_status vm_dataset_add(vm_dataset *d, const vm_item *item);
/* The hash that vm_dataset_add gives an item. VMOER_ERROR_MEMORY only. */
vmoer_status vm_item_hash(const char *stem, const char *answer, uint64_t *out);
/* Whether the right answers stand in a file of their own beside the questions: train.jsonl and train-labels.lst. */
bool vm_dataset_has_labels(vm_dataset_format format);
/* Appends every item of a file; labels: NULL where the format has none. */
vmoer_status vm_dataset_parse(vm_dataset *d, vm_dataset_format format, const vm_text_file *file,
                              const vm_text_file *labels);

#endif
