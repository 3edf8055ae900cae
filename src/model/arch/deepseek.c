/* deepseek.c: DeepSeek-MoE (v1): the lowest layers dense, above them routed experts whose gates are the softmax's own,
 * and shared experts, which together are one block of their widths' sum. */
#include "base/status.h"
#include "model/arch/arch.h"

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    float scale = 0;
    int shared;
    VM_TRY(vm_arch_read_experts(g, c));
    c->renormalise = false;
    if (vm_arch_has(g, c, "expert_weights_scale"))
        VM_TRY(vm_arch_f32(g, c, "expert_weights_scale", 0.0f, 1e6f, &scale));
    if (scale > 0) c->expert_scale = scale; /* 0 is 1, as in llama.cpp */
    VM_TRY(vm_arch_u32(g, c, "expert_feed_forward_length", 1, 1 << 20, &c->expert_width));
    VM_TRY(vm_arch_u32(g, c, "expert_shared_count", 0, 256, &shared));
    c->shared_width = shared * c->expert_width;
    if (vm_arch_has(g, c, "leading_dense_block_count"))
        VM_TRY(vm_arch_u32(g, c, "leading_dense_block_count", 0, (uint32_t)c->n_layers - 1, &c->dense_layers));
    return c->dense_layers ? vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->dense_width) : VMOER_OK;
}

const vm_arch vm_arch_deepseek = {
    .name = "deepseek",
    .read_config = read_config,
    .interleaved = true,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_EXPERTS("mlp", "gate"), VM_ARCH_SHARED("mlp.shared_experts")},
};
