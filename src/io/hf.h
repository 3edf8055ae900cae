/* hf.h: a folder of Hugging Face's layout (config.json, safetensors, tokenizer.json) read as if it were a GGUF: the keys that llama.cpp's converter would
 * write, made from config.json, and tensors under GGUF's names that point into the folder's files. Whatever reads a vm_gguf reads a folder so.
 * Untrusted like any file: config.json is checked key by key, what is not known to be harmless is refused by name, and shards are only opened by
 * plain file names. Supported models: hf_arch.c. */
#ifndef VM_IO_HF_H
#define VM_IO_HF_H

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

#endif
