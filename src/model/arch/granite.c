/* granite.c: dense IBM Granite: a Llama with four multipliers. */
#include "base/status.h"
#include "model/arch/arch.h"

#include <stdio.h>

/* Absent or 0 means the default, as in llama.cpp. */
static vmoer_status multiplier(const vm_gguf *g, const vm_config *c, const char *key, float *value) {
    float stored = 0;
    if (vm_arch_has(g, c, key)) VM_TRY(vm_arch_f32(g, c, key, 0.0f, 1e6f, &stored));
    if (stored > 0) *value = stored;
    return VMOER_OK;
}

/* What a Granite file switches its positions off with. */
static vmoer_status check_rope(const vm_gguf *g, const vm_config *c) {
    char key[64];
    bool on = true;
    snprintf(key, sizeof key, "%s.rope.scaling.finetuned", c->arch->name);
    if (vm_gguf_has_key(g, key)) VM_TRY(vm_gguf_get_bool(g, key, &on));
    return on ? VMOER_OK : vm_error(VMOER_ERROR_UNSUPPORTED, "%s is false: a model without RoPE is not supported", key);
}

vmoer_status vm_arch_read_granite(const vm_gguf *g, vm_config *c) {
    VM_TRY(check_rope(g, c));
    VM_TRY(multiplier(g, c, "embedding_scale", &c->embedding_scale));
    VM_TRY(multiplier(g, c, "residual_scale", &c->residual_scale));
    VM_TRY(multiplier(g, c, "attention.scale", &c->attention_scale));
    return vm_arch_f32(g, c, "logit_scale", 1e-6f, 1e6f, &c->logit_scale);
}

static vmoer_status read_config(const vm_gguf *g, vm_config *c) {
    VM_TRY(vm_arch_read_dense(g, c));
    return vm_arch_read_granite(g, c);
}

const vm_arch vm_arch_granite = {
    .name = "granite",
    .read_config = read_config,
    .interleaved = true,
    .sites = {VM_ARCH_ATTENTION, VM_ARCH_DENSE},
};
