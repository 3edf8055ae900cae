/* qwen2moe.c: Qwen2-MoE (Qwen1.5-MoE-A2.7B): biases on Q, K and V, routed experts whose gates are the softmax's own
 * unless expert_weights_norm says otherwise, and shared experts behind a gate of each token's. */
#include "base/status.h"
#include "model/arch/arch.h"

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    c->renormalise = false;
    VM_TRY(vm_arch_read_experts(g, c));
    VM_TRY(vm_arch_u32(g, c, "expert_feed_forward_length", 1, 1 << 20, &c->expert_width));
    return vm_arch_u32(g, c, "expert_shared_feed_forward_length", 1, 1 << 20, &c->shared_width);
}

const vm_arch vm_arch_qwen2moe = {
    .name = "qwen2moe",
    .read_config = read_config,
    .sites = {VM_ARCH_ATTENTION, [VM_SITE_QKV].bias = true, VM_ARCH_EXPERTS("mlp", "gate"),
              VM_ARCH_SHARED("mlp.shared_expert"),
              [VM_SITE_SHARED_GATE] = {{"ffn_gate_inp_shexp"}, {"mlp.shared_expert_gate"}}},
};
