/* adapter_internal.h: what an adapter is once it is open, whatever layout it came in: adapter.c merges it, adapter_peft.c and adapter_gguf.c read the
 * two layouts, adapter_write.c writes PEFT's. */
#ifndef VM_MODEL_ADAPTER_INTERNAL_H
#define VM_MODEL_ADAPTER_INTERNAL_H

#include "base/dtype.h"
#include "base/json.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "model/adapter.h"

#include <stdatomic.h>

enum { VM_ADAPTER_MAX_RANK = 4096, VM_PEFT_MAX_NAME = 256 };

/* F32, F16 or BF16, [rows, cols], with experts in either of them: see vm_adapter. */
typedef struct vm_adapter_matrix {
    const char *name; /* the tensor's */
    vm_dtype type;
    const uint8_t *data;
    int64_t rows, cols;
} vm_adapter_matrix;

typedef struct vm_adapter_pair {
    vm_adapter_matrix a, b;
    atomic_bool used; /* merges of different modules may run at once */
} vm_adapter_pair;

struct vm_adapter {
    char *name;
    char fingerprint[65];
    vm_adapter_pair *pairs; /* [n_pairs], by the name of A */
    size_t n_pairs;
    /* PEFT's layout */
    vm_safetensors *file;
    json_t *config;
    int rank;
    double alpha;
    bool rslora;
    /* GGUF's; there B of a stack of experts is [N rows, r], PEFT's [rows, r N]; A is [N r, in] in both */
    vm_gguf *gguf;
};

/* Each fills an empty adapter from `path`. An adapter without `config` and `gguf` is none. */
vmoer_status vm_adapter_read_peft(vm_adapter *a, const char *dir);
vmoer_status vm_adapter_read_within(vm_adapter *a, const char *path);
vmoer_status vm_adapter_read_gguf(vm_adapter *a, const char *path);
/* What the last two do with a file that is open: a->file, a->gguf. `where` names it in errors. */
vmoer_status vm_adapter_take_within(vm_adapter *a, const char *where);
vmoer_status vm_adapter_take_gguf(vm_adapter *a, const char *where);

/* Orders the pairs for vm_adapter_find_pair. */
void vm_adapter_sort_pairs(vm_adapter *a);
/* NULL: there is none whose A has this name. */
vm_adapter_pair *vm_adapter_find_pair(const vm_adapter *a, const char *name);
/* The same by what the layout calls a projection, its rank and scale with it; *out is NULL where the adapter does not have it. */
vmoer_status vm_adapter_peft_pair(const vm_adapter *a, const char *module, vm_adapter_pair **out, int *rank, float *scale);
vmoer_status vm_adapter_gguf_pair(const vm_adapter *a, const char *tensor, vm_adapter_pair **out, int *rank, float *scale);

/* How PEFT knows a module. Routers and routed experts are bare parameters in transformers 5, not modules, and PEFT reaches them by target_parameters. */
typedef struct vm_peft_name {
    bool bare;                    /* a bare parameter */
    int layer;                    /* length of what precedes the name in its layer: "model.layers.3." */
    char stem[VM_PEFT_MAX_NAME];  /* tensors are stem + ".lora_A.weight" */
    char key[VM_PEFT_MAX_NAME];   /* what targets and patterns are matched against */
    char outer[VM_PEFT_MAX_NAME]; /* key of the parameter that nests this one; "" if none */
} vm_peft_name;
/* The name of a module whose nesting is not yet decided. */
vmoer_status vm_peft_name_module(const char *module, vm_peft_name *out);
void vm_peft_name_nest(vm_peft_name *name);
extern const char vm_peft_weights_file[], vm_peft_config_file[];
extern const char vm_peft_suffix_a[], vm_peft_suffix_b[];
extern const char vm_peft_base_key[];   /* metadata: the base model's fingerprint */
extern const char vm_peft_config_key[]; /* metadata, where a file holds an adapter among other tensors */

#endif
