/* stability.h: which layers' routing decisions noise would change. Isolated: each layer sees the input it has in a
 * clean pass, with noise on its own router's input alone. */
#ifndef VM_TRAIN_STABILITY_H
#define VM_TRAIN_STABILITY_H

#include "train/objective.h"
#include "vmoer/vmoer.h"

typedef struct vm_stability {
    size_t questions; /* the first so many of the examples */
    double sigma;     /* standard deviation of the noise over rms(u) of each token */
    uint64_t seed;    /* of the noise */
} vm_stability;

/* jaccard[n_layers] of a Mixture-of-Experts: mean over all tokens of the questions (choices included) of the Jaccard
 * index between the top K of softmax(W_r u) and of softmax(W_r (u + sigma rms(u) eps)), eps ~ N(0, I) by who the token
 * is and the layer. The model's own router, whatever else is at hand. The same for any number of threads. */
vmoer_status vm_stability_measure(const vm_stability *s, vm_model *m, vm_pool *pool, vm_pass *pass,
                                  const vm_examples *e, const vmoer_hooks *hooks, double *jaccard);

#endif
