/* linear.h: y = x W^T + bias with optional LoRA on ranges of its rows, forward beside backward, for many matrices at a time (experts).
 * LoRA (Hu 2021): rows [row, row + rows) of W become W + scale * B A, A [rank, in], B [rows, rank]; W stays frozen. */
#ifndef VM_MODEL_LINEAR_H
#define VM_MODEL_LINEAR_H

#include "base/memory.h"
#include "base/param.h"
#include "kernels/kernels.h"

typedef struct vm_lora {
    int row, rows, rank;
    float scale; /* alpha / rank */
    vm_param a;  /* [rank, in] */
    vm_param b;  /* [rows, rank] */
} vm_lora;

enum { VM_MAX_LORA = 3 };

/* Owns everything it points to. With LoRA, R the sum of their ranks, B and A ride along the products: y = [x | t] [W; B]', t = scale x A'. The matrices
 * below are of all LoRA side by side, 0 where a LoRA has no rows. */
typedef struct vm_linear {
    int in, out;
    vm_compute compute;
    vm_panel forward;          /* k = in + R, n = out: W, then B */
    vm_panel backward;         /* k = out + R, n = in: W, then A; data NULL: no gradient of the input can be asked for */
    vm_panel lora_a;           /* k = in, n = R; data NULL without LoRA, as the next one */
    vm_panel lora_b;           /* k = out, n = R */
    vm_param *weight;          /* [out, in] when W itself is trained, else NULL */
    vm_param *bias;            /* [1, out], grad NULL while W is frozen; NULL: none. Only vm_linear_forward adds it and _backward has its gradient */
    vm_lora *lora[VM_MAX_LORA]; /* disjoint row ranges */
    int n_lora;
} vm_linear;

/* Packs W [out, in] (not kept). with_backward: the backward panel too. */
vmoer_status vm_linear_init(vm_linear *l, vm_pool *pool, vm_compute compute, int out, int in, const float *w, bool with_backward);
void vm_linear_clear(vm_linear *l);
/* Makes W trainable: `w` [out, in] is copied into weight->value. */
vmoer_status vm_linear_train(vm_linear *l, const char *name, const float *w);
/* Gives y a bias, a copy of bias[out], trained where `train`. */
vmoer_status vm_linear_set_bias(vm_linear *l, const char *name, const float *bias, bool train);
/* Adds a LoRA on rows [row, row + rows); A and B are zero, named name + ".lora_A.weight" / ".lora_B.weight". Not used before a refresh. */
vmoer_status vm_linear_add_lora(vm_linear *l, const char *name, int row, int rows, int rank, float scale, vm_lora **out);
/* Packs anew after weight, A or B changed. */
vmoer_status vm_linear_refresh(vm_linear *l, vm_pool *pool);
int vm_linear_rank(const vm_linear *l); /* R */
/* w[out, in] = W with its LoRA and without a bias, as the products have it (BF16: rounded). */
vmoer_status vm_linear_matrix(const vm_linear *l, vm_pool *pool, float *w);
bool vm_linear_trainable(const vm_linear *l);

/* One product of a batch of them. */
typedef struct vm_linear_call {
    const vm_linear *l;
    int m;                /* rows of x; 0 is allowed */
    const float *x;       /* [.., in], row stride ldx */
    size_t ldx;
    const int32_t *index; /* row i of the product is x[index[i]]; NULL: x[i] */
    float *y;             /* forward: [m, out], row stride ldy, written */
    const float *dy;      /* backward: [m, out], row stride ldy; with dy_index row i is dy[dy_index[i]] */
    const int32_t *dy_index;
    const float *bias_scale; /* [m] backward: the bias takes dy times this; NULL: 1 */
    size_t ldy;
    float *t;             /* [m, R], written forward, read backward; NULL without LoRA */
    float *dt;            /* backward: [m, R] scale * dy B where the caller has it; NULL: it is computed */
    float *dx;            /* backward: [m, in] row stride lddx, written (or added to); NULL: not wanted */
    size_t lddx;
    bool add_dx;
} vm_linear_call;

/* t[m, R] (row stride R) times each LoRA's scale, column by column. */
void vm_linear_scale(const vm_linear *l, int m, float *t);

vmoer_status vm_linear_forward(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n);
/* Accumulates the gradients of weight, bias, A and B where they are trained, and gives dx where wanted. */
vmoer_status vm_linear_backward(vm_pool *pool, vm_arena *scratch, const vm_linear_call *calls, int n);

#endif
