/* lora.h: LoRA on a loaded model, attached where the user said and saved as PEFT would. */
#ifndef VM_TRAIN_LORA_H
#define VM_TRAIN_LORA_H

#include "model/model.h"

/* That targets, rank and alpha are ones vm_lora_attach takes: needs no model. */
vmoer_status vm_lora_check(const char *targets, int rank, double alpha);

/* Adds LoRA to every layer: targets is a comma-separated list of "attention" (q, k, v and output projections),
 * "shared" (the shared or dense FFN), "experts" (that and every routed expert) and "router". What the model does not
 * have (a dense model's router) is passed over; nothing at all is an error. A ~ U(-1/sqrt(in), 1/sqrt(in)), as PEFT's
 * kaiming_uniform(a = sqrt 5), the same for a tensor whatever else is a target; B = 0. rank 1..4096; scale alpha /
 * rank. The model must have been loaded with backward_from 0. Sets m->first_trained. After an error the model is to be
 * freed. */
vmoer_status vm_lora_attach(vm_model *m, const char *targets, int rank, double alpha, uint64_t seed, vm_pool *pool);

/* Writes all LoRA of the model as an adapter, a folder or into a file of other tensors; dtype "F32" or "F16". */
vmoer_status vm_lora_put(const vm_model *m, vm_st_writer *w, const char *dtype);
vmoer_status vm_lora_save(const vm_model *m, const char *dir, const char *dtype);

#endif
