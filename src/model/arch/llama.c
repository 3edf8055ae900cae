/* llama.c: dense Llama models (SmolLM2 among them): one SwiGLU feed-forward a layer, no multipliers. */
#include "base/status.h"
#include "model/arch/arch.h"

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    if (vm_arch_has(g, c, "expert_count")) {
        int experts;
        VM_TRY(vm_arch_u32(g, c, "expert_count", 0, 1024, &experts));
        if (experts)
            return vm_error(VMOER_ERROR_UNSUPPORTED,
                            "llama.expert_count is %d: Mixtral-type models are not supported yet", experts);
    }
    return vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->shared_width);
}

const vm_arch vm_arch_llama = {
    .name = "llama",
    .read_config = read_config,
    .interleaved = true,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_DENSE},
};
