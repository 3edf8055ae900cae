/* adapter.h: LoRA adapters in PEFT's layout (adapter_config.json + adapter_model.safetensors), read and written, and in llama.cpp's (a GGUF), read.
 * PEFT's modules carry Hugging Face names and row order, experts its target_parameters layout (docs/ORACLES.md); a GGUF's tensors its own. */
#ifndef VM_MODEL_ADAPTER_H
#define VM_MODEL_ADAPTER_H

#include "io/safetensors.h"
#include "vmoer/vmoer_errors.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct vm_adapter vm_adapter;
/* A folder, or a file that ends in .gguf. Checked; every tensor must belong to a lora_A/lora_B pair of agreeing shapes. */
vmoer_status vm_adapter_open(const char *path, vm_adapter **out);
/* An adapter that vm_adapter_put wrote into a file of other tensors; *out is NULL where the file holds none. */
vmoer_status vm_adapter_open_within(const char *path, vm_adapter **out);
void vm_adapter_free(vm_adapter *a); /* takes NULL */
const char *vm_adapter_name(const vm_adapter *a);        /* last part of the path */
const char *vm_adapter_fingerprint(const vm_adapter *a); /* SHA-256 of the file of tensors, 64 hex */
const char *vm_adapter_base(const vm_adapter *a);        /* base fingerprint this project wrote into the file's metadata; "" if another tool wrote it */

/* general.architecture of the base model, not NUL-terminated; *length 0 where the layout does not say. */
const char *vm_adapter_architecture(const vm_adapter *a, size_t *length);

/* w[rows, in] += scale * B A of expert `expert` of a module that stacks n_experts; of a plain one, 0 of 1. An adapter in PEFT's layout is merged by the
 * modules' names, a GGUF by the tensors' ("blk.3.attn_q"); the rows of either may be those of `heads` heads interleaved (halves.h). Each does nothing for the
 * other, nor where the adapter has no such name. Wrong shapes: an error naming the tensor. Remembers what was used. */
vmoer_status vm_adapter_merge_module(vm_adapter *a, const char *module, int expert, int n_experts, int rows, int in, int heads, float *w);
vmoer_status vm_adapter_merge_tensor(vm_adapter *a, const char *tensor, int expert, int n_experts, int rows, int in, int heads, float *w);
/* An error naming a tensor that no merge asked for. */
vmoer_status vm_adapter_check_used(const vm_adapter *a);

/* One module to write. Per-expert modules (n_experts > 0) pass one A and B pointer an expert. */
typedef struct vm_adapter_module {
    const char *module;
    int rows, in, rank;
    int n_experts;          /* 0: a plain module */
    int heads;              /* > 0: the file has the rows of B interleaved (halves.h) */
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
