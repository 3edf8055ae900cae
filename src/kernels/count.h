/* count.h: how many multiply-adds the products of this process take, counted where they are issued: vm_gemm, vm_multiply, the products of strips (of all 16
 * lanes, whatever stands in them). Off unless somebody counts; counting changes no result. */
#ifndef VM_KERNELS_COUNT_H
#define VM_KERNELS_COUNT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One count at a time. */
void vm_count_begin(void);
uint64_t vm_count_end(void); /* multiply-adds since then */

extern atomic_bool vm_count_on;
void vm_count_add(uint64_t multiply_adds);
static inline void vm_count(uint64_t multiply_adds) {
    if (atomic_load_explicit(&vm_count_on, memory_order_relaxed)) vm_count_add(multiply_adds);
}

#endif
