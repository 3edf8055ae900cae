/* dtype_internal.h: the quantised blocks of dtype.h, one at a time. Only dtype.c and dtype_blocks.c include it. */
#ifndef VM_BASE_DTYPE_INTERNAL_H
#define VM_BASE_DTYPE_INTERNAL_H

#include "base/dtype.h"

/* One block's bytes to its elements; both lengths are the type's (vm_dtype_block). */
typedef void vm_block_reader(const uint8_t *restrict block, float *restrict dst);

vm_block_reader vm_read_q4_0, vm_read_q4_1, vm_read_q5_0, vm_read_q5_1, vm_read_q8_0;
vm_block_reader vm_read_q2_k, vm_read_q3_k, vm_read_q4_k, vm_read_q5_k, vm_read_q6_k;
vm_block_reader vm_read_iq4_nl, vm_read_iq4_xs, vm_read_mxfp4;

#endif
