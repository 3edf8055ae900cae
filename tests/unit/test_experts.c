/* test_experts.c: experts with biases, a clamped SwiGLU and a router with a bias, as GPT-OSS has them, held to
 * transformers: outputs, choice and every gradient, on every ISA. */
#include "model/ffn.h"
#include "model_fixture.h"

enum { D = 16, W = 8, N = 6, K = 3, T = 20 };

static void make(const vm_safetensors *st, const char *name, int e, int rows, int in, vm_linear *l) {
    char key[64];
    size_t size = (size_t)rows * (size_t)in;
    int n = e < 0 ? 1 : N, at = e < 0 ? 0 : e;
    const float *w = golden_f32(st, name, (size_t)n * size) + (size_t)at * size;
    snprintf(key, sizeof key, "%s.bias", name);
    const float *bias = golden_f32(st, key, (size_t)(n * rows)) + at * rows;
    OK(vm_linear_init(l, NULL, VM_COMPUTE_F32, rows, in, w, true));
    OK(vm_linear_train(l, name, w));
    OK(vm_linear_set_bias(l, name, bias, true));
}

static void assert_near(const char *what, const float *got, const float *golden, size_t n) {
    double d = relative_difference(got, golden, n);
    if (!(d < 1e-5)) fail_msg("%s, %s differs by %g of its size", vm_kernels_get()->name, what, d);
}

static void check_gradients(const vm_safetensors *st, const char *name, int e, const vm_linear *l) {
    char key[64];
    size_t size = vm_param_size(l->weight), rows = (size_t)l->out, n = e < 0 ? 1 : N, at = e < 0 ? 0 : (size_t)e;
    snprintf(key, sizeof key, "grad.%s", name);
    assert_near(key, l->weight->grad, golden_f32(st, key, n * size) + at * size, size);
    snprintf(key, sizeof key, "grad.%s.bias", name);
    assert_near(key, l->bias->grad, golden_f32(st, key, n * rows) + at * rows, rows);
}

static void check(const vm_safetensors *st) {
    vm_ffn f = {.dim = D,
                .n_experts = N,
                .width = W,
                .top_k = K,
                .renormalise = true,
                .scale = 1,
                .activation = VM_ACTIVATION_CLAMPED,
                .expert_in = vm_calloc(N, sizeof(vm_linear)),
                .expert_out = vm_calloc(N, sizeof(vm_linear))};
    vm_arena *keep = vm_arena_create(), *scratch = vm_arena_create();
    vm_token_key keys[T] = {{0}};
    vm_ffn_route route = {.training = true, .tokens = keys, .sign = 1};
    vm_ffn_acts acts;
    float y[T * D], du[T * D];
    make(st, "router", -1, N, D, &f.router);
    for (int e = 0; e < N; e++) {
        make(st, "in", e, 2 * W, D, &f.expert_in[e]);
        make(st, "out", e, D, W, &f.expert_out[e]);
    }
    OK(vm_ffn_forward(&f, NULL, keep, scratch, T, golden_f32(st, "u", T * D), &route, &acts, y));
    assert_near("logits", acts.logits, golden_f32(st, "logits", T * N), T * N);
    assert_memory_equal(acts.chosen, golden_i32(st, "chosen", T * K), sizeof(int32_t) * T * K);
    assert_near("y", y, golden_f32(st, "y", T * D), T * D);
    OK(vm_ffn_backward(&f, NULL, scratch, T, &route, &acts, golden_f32(st, "dy", T * D), 0, du));
    assert_near("du", du, golden_f32(st, "grad.u", T * D), T * D);
    check_gradients(st, "router", -1, &f.router);
    for (int e = 0; e < N; e++) {
        check_gradients(st, "in", e, &f.expert_in[e]);
        check_gradients(st, "out", e, &f.expert_out[e]);
    }
    vm_arena_free(keep);
    vm_arena_free(scratch);
    vm_ffn_clear(&f);
}

static void test_biases(void **state) {
    (void)state;
    const vm_kernels *tables[8];
    int n = vm_kernels_all(tables, 8);
    vm_safetensors *st = golden_open("experts");
    for (int i = 0; i < n; i++) {
        vm_kernels_force(tables[i]);
        check(st);
    }
    vm_kernels_force(NULL);
    vm_safetensors_free(st);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_biases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
