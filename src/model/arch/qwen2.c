/* qwen2.c: dense Qwen2 and Qwen2.5: a Llama with biases on Q, K and V. */
#include "model/arch/arch.h"

const vm_arch vm_arch_qwen2 = {
    .name = "qwen2",
    .read_config = vm_arch_read_dense,
    .sites = {VM_ARCH_ATTENTION, [VM_SITE_QKV].bias = true, VM_ARCH_DENSE},
};
