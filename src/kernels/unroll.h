/* unroll.h: a loop whose arrays must live in registers. Private to kernels/. */
#ifndef VM_KERNELS_UNROLL_H
#define VM_KERNELS_UNROLL_H

#if defined(__clang__)
#define VM_UNROLL _Pragma("unroll")
#else
#define VM_UNROLL _Pragma("GCC unroll 32")
#endif

#endif
