/* activation.h: what stands between an expert's two matrices, of n neurons' gate and up. CLAMPED is GPT-OSS' (Agarwal et al. 2025), limit 7:
 *
 *   SWIGLU    silu(gate) up
 *   CLAMPED   g sigmoid(1.702 g) (1 + u),    g = min(gate, 7), u = up within [-7, 7]; no gradient beyond the limits */
#ifndef VM_MODEL_ACTIVATION_H
#define VM_MODEL_ACTIVATION_H

typedef enum vm_activation { VM_ACTIVATION_SWIGLU, VM_ACTIVATION_CLAMPED } vm_activation;

/* out[n] */
void vm_activate(vm_activation kind, const float *gate, const float *up, float *out, int n);
/* dgate[n] and dup[n], written, from d_out[n]. */
void vm_activate_backward(vm_activation kind, const float *gate, const float *up, const float *d_out, float *dgate, float *dup, int n);

#endif
