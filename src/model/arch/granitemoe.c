/* granitemoe.c: IBM Granite MoE: routed experts in every layer, optional shared experts, gates renormalised over the
 * top K, four multipliers. */
#include "base/status.h"
#include "model/arch/arch.h"

/* Absent or 0 means the default, as in llama.cpp. */
static vmoer_status multiplier(const vm_gguf *g, const vm_config *c, const char *key, float *value) {
    float stored = 0;
    if (vm_arch_has(g, c, key)) VM_TRY(vm_arch_f32(g, c, key, 0.0f, 1e6f, &stored));
    if (stored > 0) *value = stored;
    return VMOER_OK;
}

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    VM_TRY(vm_arch_read_experts(g, c));
    VM_TRY(vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->expert_width));
    if (vm_arch_has(g, c, "expert_shared_feed_forward_length"))
        VM_TRY(vm_arch_u32(g, c, "expert_shared_feed_forward_length", 0, 1 << 20, &c->shared_width));
    VM_TRY(multiplier(g, c, "embedding_scale", &c->embedding_scale));
    VM_TRY(multiplier(g, c, "residual_scale", &c->residual_scale));
    VM_TRY(multiplier(g, c, "attention.scale", &c->attention_scale));
    return vm_arch_f32(g, c, "logit_scale", 1e-6f, 1e6f, &c->logit_scale);
}

const vm_arch vm_arch_granitemoe = {
    .name = "granitemoe",
    .read_config = read_config,
    .interleaved = true,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_EXPERTS("block_sparse_moe", "router"),
              [VM_SITE_SHARED_IN] = {{"ffn_gate_shexp", "ffn_up_shexp"}, {"shared_mlp.input_linear"}},
              [VM_SITE_SHARED_OUT] = {{"ffn_down_shexp"}, {"shared_mlp.output_linear"}}},
};
