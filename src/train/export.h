/* export.h: a fully fine-tuned model as a GGUF file that loads like the one it was trained from. */
#ifndef VM_TRAIN_EXPORT_H
#define VM_TRAIN_EXPORT_H

#include "model/model.h"

/* Writes a GGUF at `path` with the values m holds now: metadata, tokenizer, tensor names, order and shapes are those of
 * the file it was loaded from, Q and K rows in GGUF's order. Norms and routers are F32; matrices are BF16, what the
 * default arithmetic rounds them to anyway, and llama.cpp reads it. Tensors the model has no use for are copied. m must
 * have been loaded with train_all (VMOER_ERROR_ARGUMENT). */
vmoer_status vm_model_export(const vm_model *m, const char *path);

#endif
