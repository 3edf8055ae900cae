/* granitemoe.c: IBM Granite MoE: routed experts in every layer, optional shared experts, gates renormalised over the
 * top K, four multipliers. */
#include "base/status.h"
#include "model/arch/arch.h"

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    VM_TRY(vm_arch_read_experts(g, c));
    VM_TRY(vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->expert_width));
    if (vm_arch_has(g, c, "expert_shared_feed_forward_length"))
        VM_TRY(vm_arch_u32(g, c, "expert_shared_feed_forward_length", 0, 1 << 20, &c->shared_width));
    return vm_arch_read_granite(g, c);
}

const vm_arch vm_arch_granitemoe = {
    .name = "granitemoe",
    .read_config = read_config,
    .interleaved = true,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_EXPERTS("block_sparse_moe", "router"),
              [VM_SITE_SHARED_IN] = {{"ffn_gate_shexp", "ffn_up_shexp"}, {"shared_mlp.input_linear"}},
              [VM_SITE_SHARED_OUT] = {{"ffn_down_shexp"}, {"shared_mlp.output_linear"}}},
};
