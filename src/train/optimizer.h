/* optimizer.h: AdamW (Loshchilov & Hutter 2019) with clipping by the global norm, over any list of parameters. Work is
 * cut into chunks of fixed size, so that results do not depend on the number of threads. */
#ifndef VM_TRAIN_OPTIMIZER_H
#define VM_TRAIN_OPTIMIZER_H

#include "base/param.h"
#include "base/threads.h"
#include "vmoer/vmoer_errors.h"
#include <stdint.h>

typedef struct vm_optimizer_options {
    double beta1, beta2, epsilon;
    double weight_decay; /* decoupled; only where param->decay */
    double clip;         /* largest global norm of the gradients; 0: no clipping */
} vm_optimizer_options;
vm_optimizer_options vm_optimizer_options_default(void); /* .9, .999, 1e-8, 0, 0 */

typedef struct vm_optimizer {
    vm_optimizer_options options;
    vm_param_list params;              /* the caller's; both the array and the parameters must outlive this */
    float *rates;                      /* [count] multipliers of the learning rate */
    float **m, **v;                    /* [count] of the parameter's shape: running means of g and of g^2; NULL without a gradient */
    uint64_t step;                     /* steps taken */
    struct vm_optimizer_chunk *chunks; /* [n_chunks] */
    double *squares;                   /* [n_chunks]: sum of g^2 */
    int n_chunks;
} vm_optimizer;

/* rates [count] is copied; NULL: 1 everywhere. Ranges of the options are checked. Parameters without a gradient stay as they
 * are. */
vmoer_status vm_optimizer_create(const vm_param_list *params, const vm_optimizer_options *options, const float *rates,
                                 vm_optimizer **out);
void vm_optimizer_free(vm_optimizer *o); /* takes NULL */

/* One step from the parameters' gradients, which are zero afterwards. norm (NULL: not wanted) is the global norm before
 * clipping. A gradient that is not finite is VMOER_ERROR_NUMERIC, names the first such parameter and leaves everything
 * as it was. */
vmoer_status vm_optimizer_step(vm_optimizer *o, vm_pool *pool, double learning_rate, double *norm);

/* Factor on the learning rate of step `step` in [0, total): rises linearly to 1 at step floor(warmup * total), warmup
 * in [0, 1], then falls linearly towards the 0 it would reach at step `total`. Never 0 before, so that no step is
 * wasted. */
double vm_schedule_linear(uint64_t step, uint64_t total, double warmup);

#endif
