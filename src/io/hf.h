/* hf.h: a folder of Hugging Face's layout (config.json, safetensors, tokenizer.json) read as if it were a GGUF: the keys that llama.cpp's converter would
 * write, made from config.json, and tensors under GGUF's names that point into the folder's files. Whatever reads a vm_gguf reads a folder so.
 * Untrusted like any file: config.json is checked key by key, what is not known to be harmless is refused by name, and shards are only opened by
 * plain file names. Supported models: hf_arch.c. */
#ifndef VM_IO_HF_H
#define VM_IO_HF_H

#include "base/progress.h"
#include "io/gguf.h"

/* path: the folder. Files in it may be symbolic links, as in Hugging Face's cache. */
vmoer_status vm_hf_open(const char *path, vm_gguf **out);

typedef struct vm_hf_file {
    const char *name;
    const uint8_t *data; /* [size] */
    size_t size;
} vm_hf_file;
/* Same, of files in memory that outlive the vm_gguf (fuzzing, tests). `where` names the folder in errors. */
vmoer_status vm_hf_open_memory(const vm_hf_file *files, size_t n_files, const char *where, vm_gguf **out);

typedef struct vm_hf_saving {
    uint64_t shard_bytes; /* of weights that a file has at most, but for a tensor that is larger alone; 0: one file */
    /* Looks at the folder, which is whole but still has another name; an error ends the saving. */
    vmoer_status (*check)(void *context, const char *folder);
    void *context;
    const vmoer_hooks *hooks;
} vm_hf_saving;
/* Writes the model as such a folder: a path that is not there, or an empty folder; it appears whole or not at all. Weights in their types, bit for bit.
 * VMOER_ERROR_UNSUPPORTED names the key or tensor that a folder cannot have: quantised weights, what the model's tables lack. */
vmoer_status vm_hf_save(const vm_gguf *g, const char *path, const vm_hf_saving *how);

#endif
