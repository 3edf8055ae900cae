/* hf_internal.h: how a Hugging Face model is put down in tables, one an architecture, and what the files that read a folder share. */
#ifndef VM_IO_HF_INTERNAL_H
#define VM_IO_HF_INTERNAL_H

#include "base/json.h"
#include "io/gguf_internal.h"
#include "io/hf.h"
#include "io/tokenizer_internal.h"

typedef enum vm_hf_type { VM_HF_U32, VM_HF_F32, VM_HF_BOOL } vm_hf_type;

/* A value of config.json and the GGUF key "<arch>.<key>" it becomes. */
typedef struct vm_hf_key {
    const char *name, *key;
    vm_hf_type type;
    const char *instead; /* what it is where it is absent or null: another name here, or a value; "": the key is left out; NULL: it must be there */
    const char *unsaid;  /* the value that a GGUF without the key means, or with a 0 of VM_HF_F32; "head": 1 / sqrt(head dimension); NULL: as `instead`, where
                          * that is another name or "", else the GGUF must have it */
} vm_hf_key;

/* What config.json may say in one way only: absent, null, or this JSON text; "object.name": in an object, which is written by who needs it. */
typedef struct vm_hf_fixed {
    const char *name, *value;
} vm_hf_fixed;

typedef enum vm_hf_form {
    VM_HF_ROWS,                    /* as in the GGUF */
    VM_HF_Q_HEADS, VM_HF_KV_HEADS, /* in halves: a GGUF of this architecture has these heads' rows interleaved */
    VM_HF_ONE_ROW,                 /* a matrix of one row, which is a vector there */
    VM_HF_TURNS,                   /* of biases: each expert's elements of the parts in turn */
    VM_HF_COLUMNS                  /* each expert's matrix with rows and columns swapped, the parts' rows in turn; or in MXFP4 as NAME_blocks and
                                    * NAME_scales: as vm_gguf_turns has them */
} vm_hf_form;

/* A tensor of the GGUF and where its values are. '#' stands for the layer; a second one in `name` for the expert: one tensor each. */
typedef struct vm_hf_tensor {
    const char *gguf, *name;
    int part, parts;   /* it is the part-th of so many equal shares of the rows (of each expert's), which stand one below the other or, where the form says so,
                        * in turn; 0, 0: all of them */
    vm_hf_form form;
    const char *when; /* NULL: it must be there; "": it may; else it must where this name is true in config.json, and has no place where it is not */
} vm_hf_tensor;

/* Which layers have the sliding window, where layer_types does not say it (ALL: nor may). */
typedef enum vm_hf_window_layers {
    VM_HF_WINDOW_NONE, /* the class has no windows */
    VM_HF_WINDOW_ALL,
    VM_HF_WINDOW_UPPER,      /* from max_window_layers on */
    VM_HF_WINDOW_EVEN_LOWER, /* the even ones below max_window_layers */
    VM_HF_WINDOW_EVEN        /* the even ones, as the GGUF's architecture has it without a key */
} vm_hf_window_layers;
typedef struct vm_hf_window {
    vm_hf_window_layers layers;
    bool use;        /* use_sliding_window must be true */
    uint32_t absent; /* what sliding_window is where config.json does not have it (null is none); 0: none */
} vm_hf_window;

typedef struct vm_hf_arch {
    const char *model_type; /* of config.json */
    const char *class;      /* of transformers, which config.json names, too */
    const char *arch;       /* general.architecture */
    const vm_hf_key *keys;  /* each list ends with a row without a name */
    const vm_hf_fixed *fixed;
    const vm_hf_tensor *tensors;
    vm_hf_window window;
    bool own_rope; /* GPT-OSS: YaRN has "truncate": false, elsewhere true; and where config.json says nothing of scaling, it is not the plain one */
} vm_hf_arch;

/* VMOER_ERROR_UNSUPPORTED names the model types there are. */
vmoer_status vm_hf_arch_find(const char *model_type, const vm_hf_arch **out);

/* The model type for a GGUF's metadata: the first that has a name for each key that is not 0. */
vmoer_status vm_hf_arch_of(const vm_gguf *g, const vm_hf_arch **out);

/* The metadata of config.json into w. */
vmoer_status vm_hf_put_keys(const vm_hf_arch *a, const json_t *config, vm_gguf_writer *w);
/* The other way: names and values of a GGUF's hyper-parameters into the object `config`, RoPE's included. */
vmoer_status vm_hf_put_names(const vm_hf_arch *a, const vm_gguf *g, json_t *config);

/* Sliding windows, both ways. */
vmoer_status vm_hf_put_window(const vm_hf_arch *a, const json_t *config, vm_gguf_writer *w);
vmoer_status vm_hf_put_window_names(const vm_hf_arch *a, const vm_gguf *g, json_t *config);

/* The pattern with the layer and then the expert for its '#'s. */
enum { VM_HF_MAX_NAME = 256 };
void vm_hf_expand(char out[VM_HF_MAX_NAME], const char *pattern, int layer, int expert);
/* Whether the row is of a tensor an expert. */
bool vm_hf_per_expert(const vm_hf_tensor *row);
/* "<arch>.<key>" of g, at most `most`. */
vmoer_status vm_hf_need_u32(const vm_gguf *g, const vm_hf_arch *a, const char *key, uint32_t most, uint32_t *out);
enum { VM_HF_MAX_EXPERTS = 1024, VM_HF_MAX_LAYERS = 512, VM_HF_MAX_HEAD = 1024 };

/* Llama 3's RoPE, which a GGUF has as the tensor rope_freqs.weight: factors[head_dim / 2]. *has: whether config.json says so. */
vmoer_status vm_hf_rope_factors(const json_t *config, uint32_t head_dim, float *factors, bool *has);

/* ---- the folder behind a vm_gguf ---- */
typedef struct vm_hf_folder vm_hf_folder;
const vm_hf_folder *vm_hf_folder_of(const vm_gguf *g); /* NULL: g is a file */
/* A file of it as JSON, the caller's; *out NULL: there is none of that name. */
vmoer_status vm_hf_json(const vm_hf_folder *f, const char *name, json_t **out);
/* tokenizer_config.json likewise; its numbers are all doubles, for model_max_length may be 10^30. */
vmoer_status vm_hf_tokenizer_config(const vm_hf_folder *f, json_t **out);
/* Calls use with the vocabulary of a folder, or of a file. */
vmoer_status vm_hf_with_vocabulary(const vm_gguf *g, vmoer_status (*use)(const vm_vocabulary *v, void *context), void *context);

#endif
