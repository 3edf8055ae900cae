/* qwen3moe.c: Qwen3-MoE: routed experts in every layer, none shared, a norm of each head of q and k, and a head
 * dimension of its own. The gates sum to 1 unless expert_weights_norm says otherwise. */
#include "base/status.h"
#include "model/arch/arch.h"

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    VM_TRY(vm_arch_read_experts(g, c));
    return vm_arch_u32(g, c, "expert_feed_forward_length", 1, 1 << 20, &c->expert_width);
}

const vm_arch vm_arch_qwen3moe = {
    .name = "qwen3moe",
    .read_config = read_config,
    .qk_norm = VM_QK_NORM_HEADS,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_EXPERTS("mlp", "gate")},
};
