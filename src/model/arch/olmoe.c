/* olmoe.c: OLMoE: routed experts in every layer, none shared, one norm of all heads of q and one of k. The gates are
 * the probabilities themselves unless expert_weights_norm says otherwise. */
#include "base/status.h"
#include "model/arch/arch.h"

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    c->renormalise = false;
    VM_TRY(vm_arch_read_experts(g, c));
    return vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->expert_width);
}

const vm_arch vm_arch_olmoe = {
    .name = "olmoe",
    .read_config = read_config,
    .qk_norm = VM_QK_NORM_WHOLE,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_EXPERTS("mlp", "gate")},
};
