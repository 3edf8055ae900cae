/* shapes.h: the products that decide the speed, one list for the test of their results and for the measurement. */
#ifndef VM_BENCH_SHAPES_H
#define VM_BENCH_SHAPES_H

#include <stdbool.h>

/* C [m, n] = A [m, k] B [k, n]. */
typedef struct vm_shape {
    const char *what;
    int tasks; /* > 0: experts, so many blocks of m rows, gathered from the tokens */
    int m, n, k;
    bool transposed; /* A is stored [k, m] */
} vm_shape;

/* The projections of SmolLM2-135M and of the MoE made of it, 1000 tokens: forward, dx (gradient of the input), dw (of
 * the weight). Then other sizes and kinds. */
static const vm_shape vm_shapes[] = {
    {"qkv", 0, 1000, 960, 576, false},
    {"qkv_dx", 0, 1000, 576, 960, false},
    {"qkv_dw", 0, 960, 576, 1000, true},
    {"attention_out", 0, 1000, 576, 576, false}, /* dx has the same shape */
    {"attention_out_dw", 0, 576, 576, 1000, true},
    {"gate_up", 0, 1000, 3072, 576, false},
    {"gate_up_dx", 0, 1000, 576, 3072, false},
    {"gate_up_dw", 0, 3072, 576, 1000, true},
    {"down", 0, 1000, 576, 1536, false},
    {"down_dx", 0, 1000, 1536, 576, false},
    {"down_dw", 0, 576, 1536, 1000, true},
    {"experts_up", 125, 128, 96, 576, false},
    {"experts_up_dx", 125, 128, 576, 96, false},
    {"experts_down", 125, 128, 576, 48, false},
    {"experts_down_dx", 125, 128, 48, 576, false},
    {"head", 0, 64, 49152, 576, false},
    {"head_dx", 0, 64, 576, 49152, false},
    {"qkv_600", 0, 600, 960, 576, false},
    {"down_300", 0, 300, 576, 1536, false},
    {"gradient_300", 0, 576, 576, 300, true},
    {"lora_down", 0, 1000, 16, 576, false},
    {"lora_up", 0, 1000, 576, 16, false},
    {"router", 0, 1000, 24, 576, false},
    {"row", 0, 1, 3072, 576, false},
    {"square", 0, 2048, 2048, 2048, false},
};
enum { VM_N_SHAPES = sizeof vm_shapes / sizeof *vm_shapes };

#endif
