/* dataset.h: multiple-choice questions from the data sets' official files, or from a user's JSON lines.
 * Errors name file and line. Limits: a line 1 MiB, 2..26 choices (a letter each), 1,000,000 items. */
#ifndef VM_IO_DATASET_H
#define VM_IO_DATASET_H

#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VM_MAX_CHOICES = 26 }; /* A to Z */

typedef struct vm_item {
    const char *id;    /* the file's own id, or "<task>-<line>" */
    const char *stem;  /* the question; UTF-8 */
    int n_choices;     /* 2..VM_MAX_CHOICES */
    const char *choices[VM_MAX_CHOICES];
    int answer;        /* index from 0 */
    uint64_t hash;     /* of stem and right answer's normalised text: splits and cuts depend on it alone, never on file order or ids */
} vm_item;

typedef struct vm_dataset vm_dataset;

typedef enum vm_split {
    VM_SPLIT_TEST,    /* the official test set (MedMCQA, PIQA, Social IQa: validation, for their test labels are not public) */
    VM_SPLIT_TRAIN,   /* training items that are not held out */
    VM_SPLIT_HELDOUT  /* clusters held out of the training items (heldout.h) */
} vm_split;

/* openbookqa, arc_easy, arc_challenge, sciq, medmcqa, piqa, social_iqa, mmlu_<subject>. `dir` is the data folder (interface.md: --data).
 * OpenBookQA: TRAIN and HELDOUT come from train.jsonl + dev.jsonl pooled, MMLU: from a subject's val and dev. Unknown task, missing file: an error that
 * says what was looked for. */
vmoer_status vm_dataset_load(const char *dir, const char *task, vm_split split, vm_dataset **out);
/* A user's JSON lines {"question","choices":[...],"answer":index}. */
vmoer_status vm_dataset_load_file(const char *path, vm_dataset **out);
void vm_dataset_free(vm_dataset *d);
const char *vm_dataset_task(const vm_dataset *d);
size_t vm_dataset_count(const vm_dataset *d);
const vm_item *vm_dataset_at(const vm_dataset *d, size_t index);
/* Keeps only items with exactly n choices; returns how many went. */
size_t vm_dataset_keep_choices(vm_dataset *d, int n);
/* Keeps the first n items of the file (n >= 1). */
void vm_dataset_limit(vm_dataset *d, size_t n);
/* Keeps the n items with the smallest hash, in file order: the same n items from any source of the data. */
void vm_dataset_sample(vm_dataset *d, size_t n);

#endif
