/* stability.h: how much of a router's choice of experts survives noise on its input. Isolated: each layer sees the input that it has in a clean pass, with
 * noise on its own router's input alone. Propagated: the routers of all layers see noise at once, and what they choose is carried through the model. */
#ifndef VM_TRAIN_STABILITY_H
#define VM_TRAIN_STABILITY_H

#include "train/objective.h"
#include "vmoer/vmoer.h"

typedef struct vm_stability {
    size_t questions;       /* the first so many of the examples */
    const vm_noise *levels; /* [n_levels], all of one seed */
    int n_levels;
    bool propagated;        /* wanted: a pass more a level */
    bool alive;             /* wanted: flip_rate and those below it */
    vm_pass_options answer; /* the router under test: router, inference, samples, seed and step; {0}: the model's own */
} vm_stability;

/* Means over all tokens of the questions, choices included, layer by layer of L; all NAN in a layer without a router. */
typedef struct vm_stability_figures {
    double *isolated;     /* [n_levels, L] Jaccard index of the clean and the noisy choice, whose draws are independent */
    double *shared;       /* [n_levels, L] the same with the same draws on both sides; equal where the inference draws nothing */
    double *propagated;   /* [n_levels, L] independent draws; NAN where it was not wanted */
    double *load_entropy; /* [L] of the share of each expert in the clean choices, nats */
    double *between;      /* [L] Jaccard index of the clean choices of two tokens of a question, half its length apart */
    /* Of the layers of the router under test, NAN elsewhere: is it alive? */
    double *flip_rate;       /* [L] share of the tokens whose choice differs between two draws of the router's own randomness */
    double *scale_variation; /* [L] standard deviation of tr Sigma over the tokens, over its mean; NAN without covariance */
    double *off_diagonal;    /* [L] share of |L|_F^2, summed over the tokens, that is below the diagonal; NAN likewise */
} vm_stability_figures;
void vm_stability_figures_free(vm_stability_figures *f); /* takes {0} */

/* VMOER_ERROR_ARGUMENT for a dense model or no question. The same for any number of threads. *out is to be freed after VMOER_OK alone. */
vmoer_status vm_stability_measure(const vm_stability *s, vm_model *m, vm_pool *pool, vm_pass *pass, const vm_examples *e, const vmoer_hooks *hooks,
                                  vm_stability_figures *out);

/* The relative sigma at which the mean over layers of the isolated index of the model's own router falls to `target`, in (0, 1): bisected to 1 in 10^4 on
 * one pass, in which W_r (u + sigma rms(u) eps) = W_r u + sigma rms(u) W_r eps. NAN: it never falls that far. */
vmoer_status vm_stability_sigma(size_t questions, uint64_t seed, double target, vm_model *m, vm_pool *pool, vm_pass *pass, const vm_examples *e,
                                const vmoer_hooks *hooks, double *sigma);

#endif
