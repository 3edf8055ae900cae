/* halves.h: the rows of Q and K. RoPE rotates row i of a head with row i + half here and at Hugging Face; GGUFs of llama-type models store such
 * pairs side by side: (0, half, 1, half + 1, ...). */
#ifndef VM_IO_HALVES_H
#define VM_IO_HALVES_H

#include <stddef.h>

/* Where row i of `rows` rows of `heads` heads of such a file lies here; heads 0: the file has them as we do. */
static inline size_t vm_to_halves(size_t i, size_t rows, int heads) {
    if (!heads) return i;
    size_t head = rows / (size_t)heads, in_head = i % head;
    return i - in_head + in_head / 2 + in_head % 2 * (head / 2);
}

/* The other way: where row i here lies in such a file. */
static inline size_t vm_from_halves(size_t i, size_t rows, int heads) {
    if (!heads) return i;
    size_t head = rows / (size_t)heads, in_head = i % head, half = head / 2;
    return i - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

#endif
