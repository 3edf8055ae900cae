/* peak_loop.h: the loop of a peak: one instruction on independent registers. Include once in a file that defines vec and static inline
 *   vec vec_set(float f), vec vec_add(vec a, vec b), float vec_first(vec v),
 *   vec multiply_add(vec sum, const void *data): sum + the products of the first two vectors at data. */
#include "kernels/unroll.h"

enum { SUMS = 12 };

static float run(const void *data, int steps) {
    vec sum[SUMS];
    VM_UNROLL
    for (int i = 0; i < SUMS; i++) sum[i] = vec_set((float)i);
    for (int s = 0; s < steps; s++) {
        VM_UNROLL
        for (int i = 0; i < SUMS; i++) sum[i] = multiply_add(sum[i], data);
    }
    VM_UNROLL
    for (int i = 1; i < SUMS; i++) sum[0] = vec_add(sum[0], sum[i]);
    return vec_first(sum[0]);
}
