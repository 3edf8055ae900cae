/* llama.c: Llama models, no multipliers: dense (SmolLM2 among them), one SwiGLU feed-forward a layer; or Mixtral,
 * routed experts in every layer without shared ones, gates renormalised over the top K. */
#include "base/status.h"
#include "model/arch/arch.h"

/* How files of 2023 have experts. */
static const char single_expert[] = "blk.0.ffn_gate.0.weight";

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    int experts = 0;
    if (vm_arch_has(g, c, "expert_count")) VM_TRY(vm_arch_u32(g, c, "expert_count", 0, 1024, &experts));
    if (!experts) return vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->shared_width);
    if (vm_gguf_find_tensor(g, single_expert))
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "%s: a tensor for each expert is not supported; convert the model anew to have ffn_gate_exps",
                        single_expert);
    VM_TRY(vm_arch_read_experts(g, c));
    return vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->expert_width);
}

const vm_arch vm_arch_llama = {
    .name = "llama",
    .read_config = read_config,
    .interleaved = true,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_DENSE, VM_ARCH_EXPERTS("mlp", "gate")},
};
