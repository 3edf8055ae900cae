/* activation.c: see activation.h. */
#include "model/activation.h"

#include "kernels/kernels.h"

#include <math.h>

static const float limit = 7.0f, gain = 1.702f;

void vm_activate(vm_activation kind, const float *gate, const float *up, float *out, int n) {
    if (kind == VM_ACTIVATION_SWIGLU) {
        vm_kernels_get()->swiglu(gate, up, out, n);
        return;
    }
    for (int i = 0; i < n; i++) {
        float g = fminf(gate[i], limit), u = fmaxf(fminf(up[i], limit), -limit);
        out[i] = g / (1 + expf(-gain * g)) * (1 + u);
    }
}

void vm_activate_backward(vm_activation kind, const float *gate, const float *up, const float *d_out, float *dgate,
                          float *dup, int n) {
    if (kind == VM_ACTIVATION_SWIGLU) {
        vm_kernels_get()->swiglu_backward(gate, up, d_out, dgate, dup, n);
        return;
    }
    for (int i = 0; i < n; i++) {
        float g = fminf(gate[i], limit), u = fmaxf(fminf(up[i], limit), -limit), s = 1 / (1 + expf(-gain * g));
        dgate[i] = gate[i] <= limit ? d_out[i] * (1 + u) * s * (1 + gain * g * (1 - s)) : 0;
        dup[i] = fabsf(up[i]) <= limit ? d_out[i] * g * s : 0;
    }
}
