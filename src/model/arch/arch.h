/* arch.h: what the architectures' files share: names that most have, and the reading of hyper-parameters. `key` is without the "<arch>." in
 * front; a value outside [low, high] is an error that names the key. */
#ifndef VM_MODEL_ARCH_ARCH_H
#define VM_MODEL_ARCH_ARCH_H

#include "model/model.h"

/* Elements of vm_arch.sites. */
#define VM_ARCH_ATTENTION                                                                                                  \
    [VM_SITE_QKV] = {{"attn_q", "attn_k", "attn_v"}, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}},        \
    [VM_SITE_ATTENTION_OUT] = {{"attn_output"}, {"self_attn.o_proj"}}
#define VM_ARCH_DENSE                                                                                \
    [VM_SITE_SHARED_IN] = {{"ffn_gate", "ffn_up"}, {"mlp.gate_proj", "mlp.up_proj"}},                \
    [VM_SITE_SHARED_OUT] = {{"ffn_down"}, {"mlp.down_proj"}}
/* Routed experts in the Hugging Face module `block`, whose router is `gate`. */
#define VM_ARCH_EXPERTS(block, gate)                                                                 \
    [VM_SITE_ROUTER] = {{"ffn_gate_inp"}, {block "." gate}},                                         \
    [VM_SITE_EXPERT_IN] = {{"ffn_gate_exps", "ffn_up_exps"}, {block ".experts.gate_up_proj"}},       \
    [VM_SITE_EXPERT_OUT] = {{"ffn_down_exps"}, {block ".experts.down_proj"}}
/* Shared experts in the Hugging Face module `module`. */
#define VM_ARCH_SHARED(module)                                                                       \
    [VM_SITE_SHARED_IN] = {{"ffn_gate_shexp", "ffn_up_shexp"}, {module ".gate_proj", module ".up_proj"}}, \
    [VM_SITE_SHARED_OUT] = {{"ffn_down_shexp"}, {module ".down_proj"}}

vmoer_status vm_arch_u32(const vm_gguf *g, const vm_config *c, const char *key, uint32_t low, uint32_t high, int *out);
vmoer_status vm_arch_f32(const vm_gguf *g, const vm_config *c, const char *key, float low, float high, float *out);
bool vm_arch_has(const vm_gguf *g, const vm_config *c, const char *key);
/* expert_count, expert_used_count and, where the file has it, expert_weights_norm into c->renormalise. */
vmoer_status vm_arch_read_experts(const vm_gguf *g, vm_config *c);
/* feed_forward_length of a dense model, which an expert_count other than 0 is not. */
vmoer_status vm_arch_read_dense(const vm_gguf *g, vm_config *c);
/* What all Granite models have: four multipliers. */
vmoer_status vm_arch_read_granite(const vm_gguf *g, vm_config *c);

#endif
