/* test_model_types.c: a model whose matrices are stored in one type is, weight by weight, the model that stores their
 * values in f32: every type that can be read, experts and the embedding's rows included. Another type is refused. */
#include "model_fixture.h"

enum { DIM = 256, VOCABULARY = 272, LARGEST = DIM * DIM * 4 };

/* tiny-moe-neutral's tensor with rows of whole blocks of 256. */
static void widen(int64_t ne[4], const vm_gguf_tensor *t) {
    memcpy(ne, t->ne, sizeof t->ne);
    ne[0] = DIM;
    if (strstr(t->name, "attn_k") || strstr(t->name, "attn_v")) ne[1] = DIM / 2;
    if (ne[1] == 16 || ne[1] == 32) ne[1] = DIM;
}

/* n elements of random blocks whose values are all finite, and those values. */
static void fill(uint32_t type, vm_rng *rng, size_t n, uint8_t *stored, float *values) {
    size_t elements, bytes;
    assert_true(vm_dtype_block(type, &elements, &bytes));
    for (size_t i = 0; i < n; i += elements, stored += bytes, values += elements) {
        bool finite = false;
        while (!finite) {
            for (size_t k = 0; k < bytes; k++) stored[k] = (uint8_t)vm_rng_below(rng, 256);
            finite = vm_dequantize(type, stored, elements, values);
            for (size_t k = 0; k < elements; k++) finite &= isfinite(values[k]) != 0;
        }
    }
}

/* The same random model twice: matrices in `type`, and in f32. readable false: stored in a type of which the size alone
 * is known. */
static void write_models(uint32_t type, bool readable, const char *stored_path, const char *plain_path) {
    vm_gguf *g;
    vm_gguf_writer *stored = vm_gguf_writer_create(), *plain = vm_gguf_writer_create();
    vm_arena *arena = vm_arena_create();
    vm_rng rng = vm_rng_start(type, VM_RNG_INIT, 0);
    OK(vm_gguf_open(golden_path("tiny-moe-neutral.gguf"), &g));
    vm_gguf_writer *both[] = {stored, plain};
    for (int i = 0; i < 2; i++) {
        OK(vm_gguf_writer_copy_keys(both[i], g, ""));
        OK(vm_gguf_writer_u32(both[i], "granitemoe.embedding_length", DIM));
        OK(vm_gguf_writer_u32(both[i], "granitemoe.feed_forward_length", DIM));
        OK(vm_gguf_writer_u32(both[i], "granitemoe.expert_feed_forward_length", DIM));
        OK(vm_gguf_writer_u32(both[i], "granitemoe.expert_shared_feed_forward_length", DIM));
        OK(vm_gguf_writer_u32(both[i], "granitemoe.rope.dimension_count", DIM / 4));
    }
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        int64_t ne[4];
        size_t n = 1;
        if (t->n_dims == 1) { /* a norm */
            memcpy(ne, (int64_t[]){DIM, 1, 1, 1}, sizeof ne);
            n = DIM;
        } else {
            widen(ne, t);
            for (int k = 0; k < 4; k++) n *= (size_t)ne[k];
        }
        uint8_t *bytes = vm_arena_alloc(arena, n, sizeof(float));
        float *values = vm_arena_alloc(arena, n, sizeof *values);
        memset(bytes, 0, n * sizeof(float));
        uint32_t kind = t->n_dims == 1 ? VM_F32 : type;
        if (kind == type && readable)
            fill(type, &rng, n, bytes, values);
        else
            memset(values, 0, n * sizeof *values);
        OK(vm_gguf_writer_tensor(stored, t->name, kind, t->n_dims, ne, bytes));
        OK(vm_gguf_writer_tensor(plain, t->name, VM_F32, t->n_dims, ne, values));
    }
    OK(vm_gguf_writer_save(stored, stored_path));
    OK(vm_gguf_writer_save(plain, plain_path));
    vm_gguf_writer_free(stored);
    vm_gguf_writer_free(plain);
    vm_arena_free(arena);
    vm_gguf_free(g);
}

static void assert_same_matrix(const vm_linear *a, const vm_linear *b, float *x, float *y) {
    assert_int_equal(a->in, b->in);
    assert_int_equal(a->out, b->out);
    OK(vm_linear_matrix(a, NULL, x));
    OK(vm_linear_matrix(b, NULL, y));
    assert_memory_equal(x, y, (size_t)a->in * (size_t)a->out * sizeof *x);
}

static void check_type(uint32_t type) {
    const char *stored = scratch_path("stored.gguf"), *plain = scratch_path("plain.gguf");
    vm_model *a, *b;
    write_models(type, true, stored, plain);
    OK(vm_model_load(stored, &(vm_model_options){.backward_from = -1}, NULL, &a));
    OK(vm_model_load(plain, &(vm_model_options){.backward_from = -1}, NULL, &b));
    float *x = vm_malloc(LARGEST, sizeof *x), *y = vm_malloc(LARGEST, sizeof *y);
    for (int site = 0; site < VM_SITE_COUNT; site++) {
        bool per_expert = site == VM_SITE_EXPERT_IN || site == VM_SITE_EXPERT_OUT;
        for (int e = 0; e < (per_expert ? 4 : 1); e++)
            assert_same_matrix(vm_model_linear(a, 0, (vm_site)site, e), vm_model_linear(b, 0, (vm_site)site, e), x, y);
    }
    assert_same_matrix(&a->head, &b->head, x, y);
    for (int id = 0; id < VOCABULARY; id++) {
        OK(vm_model_embed(a, id, x));
        OK(vm_model_embed(b, id, y));
        assert_memory_equal(x, y, DIM * sizeof *x);
    }
    vm_free(x);
    vm_free(y);
    vm_model_free(a);
    vm_model_free(b);
    unlink(stored);
    unlink(plain);
}

static void every_type_loads_as_its_values(void **state) {
    (void)state;
    static const uint32_t types[] = {VM_F16,  VM_BF16, VM_Q4_0, VM_Q4_1, VM_Q5_0,   VM_Q5_1,   VM_Q8_0, VM_Q2_K,
                                     VM_Q3_K, VM_Q4_K, VM_Q5_K, VM_Q6_K, VM_IQ4_NL, VM_IQ4_XS, VM_MXFP4};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) check_type(types[i]);
}

static void another_type_is_refused_by_the_tensor(void **state) {
    (void)state;
    static const uint32_t types[] = {9, 16, 24, 34, 40}; /* Q8_1, IQ2_XXS, I8, TQ1_0, NVFP4 */
    const char *stored = scratch_path("stored.gguf"), *plain = scratch_path("plain.gguf");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char says[128];
        vm_model *m = NULL;
        write_models(types[i], false, stored, plain);
        assert_int_equal(vm_model_load(stored, &(vm_model_options){.backward_from = -1}, NULL, &m),
                         VMOER_ERROR_UNSUPPORTED);
        snprintf(says, sizeof says, "%s: blk.0.attn_q.weight: type %s is not supported (F32, ", stored,
                 vm_dtype_name(types[i]));
        if (!strstr(vm_error_text(), says)) fail_msg("\"%s\" expected, got \"%s\"", says, vm_error_text());
    }
    unlink(stored);
    unlink(plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_loads_as_its_values),
        cmocka_unit_test(another_type_is_refused_by_the_tensor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
