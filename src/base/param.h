/* param.h: a tensor that is trained, or carried along by what is (grad NULL). Owned by who made it (a router, a LoRA set, a model); the optimiser keeps its
 * own state. */
#ifndef VM_BASE_PARAM_H
#define VM_BASE_PARAM_H

#include <stdbool.h>
#include <stddef.h>

typedef struct vm_param {
    char name[128];
    int rows, cols; /* shape [rows, cols]; a vector is [1, cols] */
    float *value;   /* [rows, cols] */
    float *grad;    /* [rows, cols], accumulated; zeroed by the optimiser after a step. NULL: no optimiser moves the value; a checkpoint keeps it */
    bool decay;     /* weight decay applies (matrices, not biases or norms) */
} vm_param;

typedef struct vm_param_list {
    vm_param **items; /* [count], the params are owned elsewhere; the array by who built the list (vm_free) */
    size_t count;
} vm_param_list;

static inline size_t vm_param_size(const vm_param *p) { return (size_t)p->rows * (size_t)p->cols; }

#endif
