/* adapter.h: LoRA adapters in PEFT's layout (adapter_config.json + adapter_model.safetensors), read and written. Modules carry Hugging Face
 * names and row order. Per-expert modules follow PEFT's target_parameters layout (docs/ORACLES.md). */
#ifndef VM_MODEL_ADAPTER_H
#define VM_MODEL_ADAPTER_H

#include "io/safetensors.h"
#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct vm_adapter vm_adapter;
/* Both files checked; every tensor must belong to a lora_A/lora_B pair of agreeing shapes. */
vmoer_status vm_adapter_open(const char *dir, vm_adapter **out);
/* An adapter that vm_adapter_put wrote into a file of other tensors; *out is NULL where the file holds none. */
vmoer_status vm_adapter_open_within(const char *path, vm_adapter **out);
void vm_adapter_free(vm_adapter *a); /* takes NULL */
const char *vm_adapter_name(const vm_adapter *a);        /* last part of the folder's path */
const char *vm_adapter_fingerprint(const vm_adapter *a); /* SHA-256 of adapter_model.safetensors, 64 hex */
const char *vm_adapter_base(const vm_adapter *a);        /* base fingerprint this project wrote into the file's metadata; "" if another tool wrote it */

/* w[rows, in] += scale * B A of `module`; nothing if the adapter has no such module. Wrong shapes: an error naming the tensor. Remembers what was used. */
vmoer_status vm_adapter_merge(vm_adapter *a, const char *module, int rows, int in, float *w);
/* The same for expert `expert` of a per-expert module. */
vmoer_status vm_adapter_merge_expert(vm_adapter *a, const char *module, int expert, int n_experts, int rows, int in, float *w);
/* An error naming a tensor that no merge asked for. */
vmoer_status vm_adapter_check_used(const vm_adapter *a);

/* One module to write. Per-expert modules (n_experts > 0) pass one A and B pointer an expert. */
typedef struct vm_adapter_module {
    const char *module;
    int rows, in, rank;
    int n_experts;          /* 0: a plain module */
    const float *const *a;  /* [max(1, n_experts)] of [rank, in] */
    const float *const *b;  /* [max(1, n_experts)] of [rows, rank] */
} vm_adapter_module;
typedef struct vm_adapter_info {
    const char *base_name, *base_fingerprint;
    int rank;
    double alpha;
    const char *dtype; /* "F32" or "F16" */
} vm_adapter_info;
/* put: adds the adapter to a file, its configuration as metadata. save: writes dir/adapter_model.safetensors, then
 * dir/adapter_config.json. */
vmoer_status vm_adapter_put(vm_st_writer *w, const vm_adapter_info *info, const vm_adapter_module *modules, int n);
vmoer_status vm_adapter_save(const char *dir, const vm_adapter_info *info, const vm_adapter_module *modules, int n);

#endif
