/* to_folder.h: a model's metadata and vocabulary as config.json and tokenizer.json, where they can be. */
#ifndef VM_FUZZ_TO_FOLDER_H
#define VM_FUZZ_TO_FOLDER_H

#include "io/hf_internal.h"

static inline vmoer_status read_back(const vm_vocabulary *v, void *context) {
    json_t *root;
    vm_tokenizer *t;
    (void)context;
    if (vm_vocabulary_to_json(v, &root) != VMOER_OK) return VMOER_OK;
    if (vm_tokenizer_from_json(root, &t) == VMOER_OK) vm_tokenizer_free(t);
    json_decref(root);
    return VMOER_OK;
}

static inline void to_folder(const vm_gguf *g) {
    const vm_hf_arch *a;
    json_t *config = json_object();
    if (vm_hf_arch_of(g, &a) == VMOER_OK) vm_hf_put_names(a, g, config);
    json_decref(config);
    vm_hf_with_vocabulary(g, read_back, NULL);
}

#endif
