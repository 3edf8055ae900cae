/* flops.h: the floating-point operations that a pass needs, for speeds to be stated in: two for every multiply-add of its products, whatever an
 * implementation spends beside them (norms, softmaxes, rotations, packing, recomputation are nothing here).
 *
 *   forward, a token and layer   2 D (Nq + 2 Nkv) h + 2 Nq h D             attention's projections, Nq and Nkv heads of h
 *                              + 4 Nq h s                                  scores and values over the s tokens it sees
 *                              + 6 D W + 2 D N + 6 K D w                   dense or shared part of W neurons; router; K of N experts of w
 *                              + 2 D                                       where the shared part has a gate
 *                              + 2 r (in + out)                            a LoRA of rank r, wherever it is; K of the experts'
 *                              + a variational router's: vm_router_flops
 *            an asked row        2 D V
 *   backward                     for every product above the lowest trained thing the gradient of its input, as much again (scores and values:
 *                                twice as much, both factors have one), and as much again for every factor that is trained itself. (Above the
 *                                lowest: in the lowest layer with LoRA, all but the input of q, k, v and of their LoRA.) */
#ifndef VM_MODEL_FLOPS_H
#define VM_MODEL_FLOPS_H

#include "model/pass.h"

/* o: router, inference, samples and training as in vm_pass_forward. With o->states what they hold is not needed. */
double vm_flops_forward(const vm_model *m, const vm_batch *b, const vm_pass_options *o);
/* Every pass after the first: vm_pass_again. */
double vm_flops_again(const vm_model *m, const vm_batch *b, const vm_pass_options *o);
/* The way back of a training pass of a model whose own weights are frozen: LoRA, a router, or both. */
double vm_flops_backward(const vm_model *m, const vm_batch *b, const vm_pass_options *o);

#endif
