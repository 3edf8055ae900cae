/* count.c: see count.h. */
#include "kernels/count.h"

atomic_bool vm_count_on;
static _Atomic uint64_t counted;

void vm_count_begin(void) {
    atomic_store(&counted, 0);
    atomic_store(&vm_count_on, true);
}

uint64_t vm_count_end(void) {
    atomic_store(&vm_count_on, false);
    return atomic_load(&counted);
}

void vm_count_add(uint64_t multiply_adds) { atomic_fetch_add_explicit(&counted, multiply_adds, memory_order_relaxed); }
