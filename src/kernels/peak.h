/* peak.h: what this machine can do at most, for speeds to be held beside: the instruction that an ISA's products are made of, on independent registers and on
 * nothing else, and reading memory. Best of all runs in the given time; a pool of one thread is timed by its CPU time, which other programs on the machine
 * touch less, a larger one by the wall's clock. */
#ifndef VM_KERNELS_PEAK_H
#define VM_KERNELS_PEAK_H

#include "kernels/kernels.h"

/* FLOP/s of `table`'s instruction for `type`, on every thread of the pool at once; a multiply-add counts two. 0: there is no instruction to speak of (ref). */
double vm_peak_flops(const vm_kernels *table, vm_compute type, vm_pool *pool, double seconds);

/* Bytes/s that all threads of the pool read from an array too large for the caches. */
vmoer_status vm_peak_read(vm_pool *pool, double seconds, double *out);

/* ---- private to kernels/: one file an ISA, with its flags ---- */
enum { VM_PEAK_DATA = 4096 }; /* bytes of bf16, 64-byte aligned: numbers as real as the products', since some CPUs lower their clock when multipliers toggle */
typedef struct vm_peak_kernel {
    float (*run)(const void *data, int steps); /* what it returns is of no use but that it was computed */
    double flops;                              /* of one step */
} vm_peak_kernel;
#if defined(__x86_64__)
extern const vm_peak_kernel vm_peak_avx2, vm_peak_avx512, vm_peak_avx512_bf16, vm_peak_amx;
#endif

#endif
