/* gpt_oss.c: GPT-OSS: routed experts in every layer, none shared, the softmax over the chosen logits; biases
 * everywhere, a clamped SwiGLU, sinks, and a sliding window in every other layer. */
#include "base/status.h"
#include "model/arch/arch.h"

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    VM_TRY(vm_arch_read_experts(g, c));
    c->activation = VM_ACTIVATION_CLAMPED;
    c->rope.whole = false;
    c->window_period = 2;
    if (!c->window) return vm_error(VMOER_ERROR_FORMAT, "gpt-oss.attention.sliding_window: missing, or 0");
    return vm_arch_u32(g, c, "expert_feed_forward_length", 1, 1 << 20, &c->expert_width);
}

/* Hugging Face has the experts' matrices the other way round, [in, out]; their adapters, A [r, in] and B [out, r], are
 * as everywhere. */
const vm_arch vm_arch_gpt_oss = {
    .name = "gpt-oss",
    .read_config = read_config,
    .sinks = true,
    .ffn_norm = "post_attention_norm",
    .sites =
        {VM_ARCH_ATTENTION, [VM_SITE_QKV].bias = true, [VM_SITE_ATTENTION_OUT].bias = true,
         [VM_SITE_ROUTER] = {{"ffn_gate_inp"}, {"mlp.router"}, true},
         [VM_SITE_EXPERT_IN] = {{"ffn_gate_exps", "ffn_up_exps"}, {"mlp.experts.gate_up_proj"}, true, .in_turn = true},
         [VM_SITE_EXPERT_OUT] = {{"ffn_down_exps"}, {"mlp.experts.down_proj"}, true}},
};
