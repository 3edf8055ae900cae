/* checkpoint.h: a training run on disk, so that it goes on after any stop with the same bytes as if it had not stopped.
 * One safetensors file: F32 tensors "value/NAME", "m/NAME", "v/NAME" for every parameter of the optimiser, "value/NAME"
 * alone for one without a gradient, and metadata "vmoer.checkpoint", a JSON object {"optimizer_step", "meta"}. It is
 * replaced by rename: after kill -9 at any time it is the old one or the new one (a file NAME.PID.N.tmp may be left
 * beside it). */
#ifndef VM_TRAIN_CHECKPOINT_H
#define VM_TRAIN_CHECKPOINT_H

#include "base/json.h"
#include "train/optimizer.h"

/* meta: an object of the caller's, in it "config", an object: every setting that decides the result. */
vmoer_status vm_checkpoint_save(const char *path, const vm_optimizer *o, const json_t *meta);

/* Restores parameters and optimiser and gives what the caller saved (owned by the caller, json_decref). A checkpoint
 * whose config is not `config` is VMOER_ERROR_MISMATCH and names the setting; names and shapes must be the optimiser's.
 * After an error nothing was changed. */
vmoer_status vm_checkpoint_load(const char *path, vm_optimizer *o, const json_t *config, json_t **meta);

#endif
