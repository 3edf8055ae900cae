/* trainer.h: the training loop that fine-tuning and calibration share: epochs over shuffled questions, AdamW, warm-up and linear decay, looks at the
 * held-out part, checkpoints that survive kill -9. The same seed gives the same bytes, stopped and resumed or not. Of a router of M networks steps,
 * epochs and looks are counted M-fold; of one that gathers its weights (swag) the learning rate stays what it is half-way. */
#ifndef VM_TRAIN_TRAINER_H
#define VM_TRAIN_TRAINER_H

#include "base/json.h"
#include "eval/metrics.h"
#include "train/objective.h"
#include "vmoer/vmoer.h"

typedef struct vm_train_job {
    const vmoer_train_params *params;
    json_t *config;              /* every setting that decides the result: a checkpoint with another one is refused */
    const json_t *facts;         /* object whose entries stand in the record too; NULL: none */
    const char *stage;           /* for progress: "finetune" */
    vm_objective objective;
    vm_model *model;
    vm_pool *pool;
    vm_param_list trained;
    const float *rates;          /* [trained.count] multipliers of the learning rate; NULL: 1 everywhere */
    const vm_examples *train, *heldout;
    vm_pass_options predict;     /* how the held-out part is answered */
    /* Writes what is trained now into `folder`, which is there; called for each look that is the best so far and at the end, as params->keep asks. */
    vmoer_status (*save)(void *context, const char *folder, const json_t *record);
    void *context;
} vm_train_job;

/* That the settings of the loop are possible ones: vm_train_run asks too, but this needs no model. */
vmoer_status vm_train_check(const vmoer_train_params *params);
/* That the folder is one to train into: without resume, a checkpoint in it is somebody's work and not written over. vm_train_run asks too. */
vmoer_status vm_train_check_folder(const vmoer_train_params *params);

/* "last", "best", "both". */
const char *vm_train_keep_name(vmoer_keep keep);

/* *record: {"kind", "config", "trainable", "parameters", "history"}, docs/FORMATS.md; owned by the caller. */
vmoer_status vm_train_run(vm_train_job *job, const vmoer_hooks *hooks, json_t **record);

/* Probabilities of the held-out part, to be freed by vm_train_predictions_free; the labels are the part's own. */
vmoer_status vm_train_predict(const vm_train_job *job, vm_predictions *out);
void vm_train_predictions_free(vm_predictions *d);
/* Their ACC, NLL and ECE as a JSON object. */
vmoer_status vm_train_measure(const vm_predictions *d, json_t **out);
/* Both. */
vmoer_status vm_train_look(const vm_train_job *job, json_t **out);

#endif
