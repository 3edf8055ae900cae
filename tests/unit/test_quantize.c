/* test_quantize.c: vmoer_quantize on files of a few tensors: what becomes which type, what stays, what the metadata
 * say, and that a weight that cannot be stored is named and leaves no file. */
#include "model_fixture.h"

#include "vmoer/vmoer.h"

enum { COLS = 256, ROWS = 3 };

typedef struct sample {
    float matrix[ROWS * COLS], router[ROWS * COLS], narrow[2 * 48], norm[COLS];
} sample;

static const char *write_sample(const sample *s) {
    const char *path = scratch_path("before.gguf");
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_writer_string(w, "general.architecture", "llama"));
    OK(vm_gguf_writer_u32(w, "general.file_type", 0));
    OK(vm_gguf_writer_tensor(w, "blk.0.ffn_down_exps.weight", VM_F32, 3, (int64_t[]){COLS, 1, ROWS}, s->matrix));
    OK(vm_gguf_writer_tensor(w, "blk.0.ffn_gate_inp.weight", VM_F32, 2, (int64_t[]){COLS, ROWS}, s->router));
    OK(vm_gguf_writer_tensor(w, "blk.0.ffn_up_exps.bias", VM_F32, 2, (int64_t[]){COLS, ROWS}, s->router));
    OK(vm_gguf_writer_tensor(w, "narrow.weight", VM_F32, 2, (int64_t[]){48, 2}, s->narrow));
    OK(vm_gguf_writer_tensor(w, "blk.0.attn_norm.weight", VM_F32, 1, (int64_t[]){COLS}, s->norm));
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    return path;
}

static void fill(sample *s) {
    vm_rng rng = vm_rng_start(1, VM_RNG_INIT, 0);
    float *values = (float *)s;
    for (size_t i = 0; i < sizeof *s / sizeof *values; i++) values[i] = vm_rng_normal(&rng);
}

static const struct {
    vmoer_weights weights;
    uint32_t type, file_type;
} kinds[] = {{VMOER_WEIGHTS_Q8_0, VM_Q8_0, 7}, {VMOER_WEIGHTS_Q6_K, VM_Q6_K, 18}, {VMOER_WEIGHTS_Q4_K, VM_Q4_K, 14},
             {VMOER_WEIGHTS_Q4_0, VM_Q4_0, 2}, {VMOER_WEIGHTS_BF16, VM_BF16, 32}, {VMOER_WEIGHTS_F16, VM_F16, 1}};

static void matrices_change_and_the_rest_stays(void **state) {
    (void)state;
    sample *s = vm_malloc(1, sizeof *s);
    fill(s);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const char *before = write_sample(s), *after = scratch_path("after.gguf");
        char *json;
        vmoer_quantize_params p = vmoer_quantize_params_default();
        p.model = before;
        p.output_path = after;
        p.type = kinds[k].weights;
        p.threads = 2;
        OK(vmoer_quantize(&p, NULL, &json));
        assert_non_null(strstr(json, vm_dtype_name(kinds[k].type)));
        vmoer_free(json);
        vm_gguf *g;
        OK(vm_gguf_open(after, &g));
        assert_int_equal(vm_gguf_tensor_count(g), 5);
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, 0);
        uint8_t expected[sizeof s->matrix];
        assert_int_equal(t->type, kinds[k].type);
        assert_int_equal(t->n_dims, 3);
        assert_true(vm_quantize(t->type, s->matrix, ROWS * COLS, expected));
        assert_memory_equal(t->data, expected, t->size);
        for (size_t i = 1; i < 3; i++) {
            assert_int_equal(vm_gguf_tensor_at(g, i)->type, VM_F32);
            assert_memory_equal(vm_gguf_tensor_at(g, i)->data, s->router, sizeof s->router);
        }
        bool plain = kinds[k].type == VM_BF16 || kinds[k].type == VM_F16;
        assert_int_equal(vm_gguf_tensor_at(g, 3)->type, plain ? kinds[k].type : VM_F16); /* 48 is no multiple of 32 */
        assert_memory_equal(vm_gguf_tensor_at(g, 4)->data, s->norm, sizeof s->norm);
        uint32_t value;
        assert_int_equal(vm_gguf_has_key(g, "general.quantization_version"), !plain);
        if (!plain) {
            OK(vm_gguf_get_u32(g, "general.quantization_version", &value));
            assert_int_equal(value, 2);
        }
        OK(vm_gguf_get_u32(g, "general.file_type", &value));
        assert_int_equal(value, 0); /* most weights of this file stay f32 */
        vm_gguf_free(g);
        unlink(before);
        unlink(after);
    }
    vm_free(s);
}

static void the_file_type_is_that_of_most_weights(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        float x[2 * COLS] = {1, 2, 3};
        const char *before = scratch_path("before.gguf"), *after = scratch_path("after.gguf");
        vm_gguf_writer *w = vm_gguf_writer_create();
        OK(vm_gguf_writer_tensor(w, "a.weight", VM_F32, 2, (int64_t[]){COLS, 2}, x));
        OK(vm_gguf_writer_save(w, before));
        vm_gguf_writer_free(w);
        vmoer_quantize_params p = {.model = before, .output_path = after, .type = kinds[k].weights, .threads = 1};
        OK(vmoer_quantize(&p, NULL, NULL));
        vm_gguf *g;
        uint32_t value;
        OK(vm_gguf_open(after, &g));
        OK(vm_gguf_get_u32(g, "general.file_type", &value));
        assert_int_equal(value, kinds[k].file_type);
        vm_gguf_free(g);
        unlink(before);
        unlink(after);
    }
}

/* Of 16 layers: two at either end, and of the rest 4, 7, 10, 13. */
static void a_mix_is_finer_where_it_matters(void **state) {
    (void)state;
    static const bool fine[16] = {1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 1};
    for (int tied = 0; tied < 2; tied++) {
        float x[2 * COLS] = {1, 2, 3};
        const char *before = scratch_path("before.gguf"), *after = scratch_path("after.gguf");
        char name[64];
        vm_gguf_writer *w = vm_gguf_writer_create();
        OK(vm_gguf_writer_tensor(w, "token_embd.weight", VM_F32, 2, (int64_t[]){COLS, 2}, x));
        if (!tied) OK(vm_gguf_writer_tensor(w, "output.weight", VM_F32, 2, (int64_t[]){COLS, 2}, x));
        static const char *const of_layer[] = {"attn_q", "attn_v", "ffn_up_exps", "ffn_down_exps"};
        for (int i = 0; i < 64; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i / 4, of_layer[i % 4]);
            OK(vm_gguf_writer_tensor(w, name, VM_F32, 2, (int64_t[]){COLS, 2}, x));
        }
        OK(vm_gguf_writer_save(w, before));
        vm_gguf_writer_free(w);
        vmoer_quantize_params p = {.model = before, .output_path = after, .type = VMOER_WEIGHTS_Q4_K_M, .threads = 1};
        OK(vmoer_quantize(&p, NULL, NULL));
        vm_gguf *g;
        uint32_t value;
        OK(vm_gguf_open(after, &g));
        assert_int_equal(vm_gguf_find_tensor(g, "token_embd.weight")->type, tied ? VM_Q6_K : VM_Q4_K);
        if (!tied) assert_int_equal(vm_gguf_find_tensor(g, "output.weight")->type, VM_Q6_K);
        for (int i = 0; i < 64; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i / 4, of_layer[i % 4]);
            assert_int_equal(vm_gguf_find_tensor(g, name)->type, fine[i / 4] && i % 2 ? VM_Q6_K : VM_Q4_K);
        }
        OK(vm_gguf_get_u32(g, "general.file_type", &value));
        assert_int_equal(value, 15);
        vm_gguf_free(g);
        unlink(before);
        unlink(after);
    }
}

static void what_cannot_be_stored_is_named(void **state) {
    (void)state;
    sample *s = vm_malloc(1, sizeof *s);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int large = 0; large < 2; large++) {
            if (large && kinds[k].weights == VMOER_WEIGHTS_BF16) continue; /* it holds any */
            fill(s);
            s->matrix[COLS + 7] = large ? 3e38f : NAN;
            const char *before = write_sample(s), *after = scratch_path("after.gguf");
            vmoer_quantize_params p = {.model = before, .output_path = after, .type = kinds[k].weights, .threads = 1};
            assert_int_equal(vmoer_quantize(&p, NULL, NULL), VMOER_ERROR_NUMERIC);
            const char *text = strstr(vm_error_text(), "blk.0.ffn_down_exps.weight: element ");
            if (!text) fail_msg("\"%s\" names no element", vm_error_text());
            int element = atoi(text + strlen("blk.0.ffn_down_exps.weight: element "));
            assert_in_range(element, COLS, COLS + 7); /* in a block others may come first */
            assert_int_not_equal(access(after, F_OK), 0);
            unlink(before);
        }
    vm_free(s);
}

static void wrong_parameters_are_refused(void **state) {
    (void)state;
    vmoer_quantize_params p = vmoer_quantize_params_default();
    assert_int_equal(vmoer_quantize(&p, NULL, NULL), VMOER_ERROR_ARGUMENT);
    p.model = p.output_path = "x";
    p.type = (vmoer_weights)7;
    assert_int_equal(vmoer_quantize(&p, NULL, NULL), VMOER_ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrices_change_and_the_rest_stays), cmocka_unit_test(the_file_type_is_that_of_most_weights),
        cmocka_unit_test(a_mix_is_finer_where_it_matters),    cmocka_unit_test(what_cannot_be_stored_is_named),
        cmocka_unit_test(wrong_parameters_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
