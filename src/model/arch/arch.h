/* arch.h: what an architecture's file uses to read its hyper-parameters. `key` is without the "<arch>." in front; a value outside
 * [low, high] is an error that names the key. */
#ifndef VM_MODEL_ARCH_ARCH_H
#define VM_MODEL_ARCH_ARCH_H

#include "model/model.h"

vmoer_status vm_arch_u32(const vm_gguf *g, const vm_config *c, const char *key, uint32_t low, uint32_t high, int *out);
vmoer_status vm_arch_f32(const vm_gguf *g, const vm_config *c, const char *key, float low, float high, float *out);
bool vm_arch_has(const vm_gguf *g, const vm_config *c, const char *key);
/* expert_count and expert_used_count. */
vmoer_status vm_arch_read_experts(const vm_gguf *g, vm_config *c);

#endif
