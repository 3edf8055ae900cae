/* content_words.h: the set of words that say what a question and its right answer are about. */
#ifndef VM_IO_CONTENT_WORDS_H
#define VM_IO_CONTENT_WORDS_H

#include "io/dataset.h"

/* Words are known by a 64-bit hash of their stem: ascending, without repeats. */
typedef struct vm_word_set {
    const uint64_t *words; /* [count] */
    size_t count;
} vm_word_set;

/* One block of memory with the sets of n items; vm_free the result's pointer. */
vmoer_status vm_word_sets_create(const vm_item *const *items, size_t n, vm_word_set **out);

#endif
