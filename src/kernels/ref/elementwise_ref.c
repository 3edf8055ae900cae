/* elementwise_ref.c: the scalar truth of the row kernels. Reductions are summed in double, in index order. */
#include "kernels/gemm.h"
#include "kernels/unroll.h"

#include <math.h>

static float dot(const float *x, const float *y, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * y[i];
    return (float)sum;
}

static void axpy(float a, const float *x, float *y, int n) {
    for (int i = 0; i < n; i++) y[i] += a * x[i];
}

static void outer(int rows, int n, int m, const float *s, size_t lds, const float *x, size_t ldx, const int32_t *index,
                  float *c, size_t ldc) {
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < n; i++) {
            float sum = 0;
            for (int t = 0; t < m; t++)
                sum += s[(size_t)t * lds + (size_t)r] * x[(size_t)(index ? index[t] : t) * ldx + (size_t)i];
            c[(size_t)r * ldc + (size_t)i] += sum;
        }
    }
}

static float rmsnorm(const float *x, const float *w, float eps, float *y, int n) {
    double squares = 0;
    for (int i = 0; i < n; i++) squares += (double)x[i] * x[i];
    float inv_rms = (float)(1.0 / sqrt(squares / n + eps));
    for (int i = 0; i < n; i++) y[i] = x[i] * inv_rms * w[i];
    return inv_rms;
}

static void rmsnorm_backward(const float *x, const float *w, float inv_rms, const float *dy, float *dx, float *dw,
                             int n) {
    double along = 0; /* sum_j dy_j w_j x_j */
    for (int i = 0; i < n; i++) along += (double)(dy[i] * w[i]) * x[i];
    float pull = (float)(along * inv_rms * inv_rms * inv_rms / n);
    for (int i = 0; i < n; i++) {
        dx[i] += dy[i] * w[i] * inv_rms - x[i] * pull;
        if (dw) dw[i] += dy[i] * (x[i] * inv_rms);
    }
}

static float maximum(const float *x, int n) {
    float max = -INFINITY;
    for (int i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

static float softmax(float *x, int n) {
    float max = maximum(x, n);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        x[i] = x[i] == -INFINITY ? 0.0f : expf(x[i] - max);
        sum += x[i];
    }
    if (sum == 0) return -INFINITY; /* every entry is -inf */
    for (int i = 0; i < n; i++) x[i] = (float)(x[i] / sum);
    return max + logf((float)sum);
}

static void softmax_backward(const float *p, float scale, float *dp, int n) {
    float mean = dot(p, dp, n);
    for (int i = 0; i < n; i++) dp[i] = scale * p[i] * (dp[i] - mean);
}

static float logsumexp(const float *x, int n) {
    float max = maximum(x, n);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] == -INFINITY ? 0.0f : expf(x[i] - max);
    return sum == 0 ? -INFINITY : max + logf((float)sum);
}

static void swiglu(const float *gate, const float *up, float *out, int n) {
    for (int i = 0; i < n; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void swiglu_backward(const float *gate, const float *up, const float *dout, float *dgate, float *dup, int n) {
    for (int i = 0; i < n; i++) {
        float z = gate[i], s = 1.0f / (1.0f + expf(-z)), d = dout[i], u = up[i];
        dup[i] = d * (z * s);
        dgate[i] = d * u * (s * (1.0f + z * (1.0f - s)));
    }
}

static void rope(float *x, const float *cosine, const float *sine, int half, float sign) {
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[half + i], s = sign * sine[i];
        x[i] = a * cosine[i] - b * s;
        x[half + i] = b * cosine[i] + a * s;
    }
}

/* ---- strips: a lane at a time ---- */

typedef float vec;
enum { LANES = 1 };
static inline vec vec_set(float f) { return f; }
static inline vec vec_load(const float *p) { return *p; }
static inline void vec_store(float *p, vec v) { *p = v; }
static inline vec vec_add(vec a, vec b) { return a + b; }
static inline vec vec_sub(vec a, vec b) { return a - b; }
static inline vec vec_mul(vec a, vec b) { return a * b; }
static inline vec vec_div(vec a, vec b) { return a / b; }
static inline vec vec_max(vec a, vec b) { return a > b ? a : b; }
static inline vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
static inline vec vec_clamp(vec v, float low, float high) { return v < low ? low : v > high ? high : v; }
static inline vec vec_above(vec v, vec x, vec y) { return x > y ? v : 0.0f; }
static inline vec vec_sqrt(vec v) { return sqrtf(v); }
static inline vec vec_exp(vec v) { return expf(v); }
static inline float vec_maximum(vec v) { return v; }

#include "kernels/strips.inc"

const vm_kernels vm_kernels_ref = {.name = "ref",
                                   .gemm = &vm_gemm_ref,
                                   .dot = dot,
                                   .axpy = axpy,
                                   .outer = outer,
                                   .rmsnorm = rmsnorm,
                                   .rmsnorm_backward = rmsnorm_backward,
                                   .softmax = softmax,
                                   .softmax_backward = softmax_backward,
                                   .logsumexp = logsumexp,
                                   .swiglu = swiglu,
                                   .swiglu_backward = swiglu_backward,
                                   .rope = rope,
                                   STRIP_TABLE};
