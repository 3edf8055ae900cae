/* test_adapter_gguf.c: adapters in llama.cpp's layout give the weights that the same adapters in PEFT's do
 * (tools/golden_lora_gguf.py, whose files llama.cpp reads with peft's logits), and files that must be refused. */
#include "model_fixture.h"

#include "model/adapter.h"

enum { LARGEST = 4096 };

static vm_model *load_with(const char *name, const char *adapter_name) {
    vm_adapter *adapter;
    OK(vm_adapter_open(golden_path(adapter_name), &adapter));
    vm_model *m = load_model(name, (vm_model_options){.backward_from = -1, .adapter = adapter});
    vm_adapter_free(adapter);
    return m;
}

static void the_weights_are_those_of_the_folder(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-llama", "tiny-moe"};
    static float a[LARGEST], b[LARGEST], plain[LARGEST];
    for (size_t i = 0; i < 2; i++) {
        char folder[64], file[64];
        snprintf(folder, sizeof folder, "%s-lora", names[i]);
        snprintf(file, sizeof file, "%s-lora.gguf", names[i]);
        vm_model *peft = load_with(names[i], folder), *gguf = load_with(names[i], file),
                 *base = load_model(names[i], (vm_model_options){.backward_from = -1});
        for (int layer = 0; layer < base->config.n_layers; layer++)
            for (int site = 0; site < VM_SITE_COUNT; site++) {
                vm_slot slots[VM_MAX_LORA];
                int n = vm_model_slots(&base->config, layer, (vm_site)site, slots);
                for (int e = 0; e < (n && slots[0].per_expert ? base->config.n_experts : n > 0); e++) {
                    const vm_linear *l = vm_model_linear(peft, layer, (vm_site)site, e);
                    size_t size = (size_t)l->in * (size_t)l->out;
                    assert_true(size <= LARGEST);
                    OK(vm_linear_matrix(l, NULL, a));
                    OK(vm_linear_matrix(vm_model_linear(gguf, layer, (vm_site)site, e), NULL, b));
                    OK(vm_linear_matrix(vm_model_linear(base, layer, (vm_site)site, e), NULL, plain));
                    assert_memory_equal(a, b, size * sizeof *a);
                    assert_memory_not_equal(a, plain, size * sizeof *a);
                }
            }
        vm_model_free(peft);
        vm_model_free(gguf);
        vm_model_free(base);
    }
}

static void what_it_is_called(void **state) {
    (void)state;
    vm_adapter *a;
    OK(vm_adapter_open(golden_path("tiny-llama-lora.gguf"), &a));
    assert_string_equal(vm_adapter_name(a), "tiny-llama-lora.gguf");
    assert_string_equal(vm_adapter_base(a), "");
    assert_int_equal(strlen(vm_adapter_fingerprint(a)), 64);
    vm_model *m;
    vm_model_options options = {.backward_from = -1, .adapter = a};
    assert_int_equal(vm_model_load(golden_path("tiny-moe.gguf"), &options, NULL, &m), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "llama"));
    vm_adapter_free(a);
}

/* One small adapter, with one thing wrong. */
typedef struct sample {
    const char *type, *kind;
    float alpha;
    const char *a, *b;
    uint32_t dtype;
    int64_t rank_a, rank_b, experts_a, experts_b;
    bool invocation;
} sample;

static void refused(sample s, vmoer_status code, const char *part) {
    enum { IN = 4, ROWS = 3 };
    static const float zeros[64];
    const char *path = scratch_path("bad.gguf");
    vm_adapter *a;
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_writer_string(w, "general.architecture", "llama"));
    OK(vm_gguf_writer_string(w, "general.type", s.type));
    if (s.kind) OK(vm_gguf_writer_string(w, "adapter.type", s.kind));
    OK(vm_gguf_writer_f32(w, "adapter.lora.alpha", s.alpha));
    if (s.invocation) OK(vm_gguf_writer_u32(w, "adapter.alora.invocation_tokens", 1));
    if (s.a) OK(vm_gguf_writer_tensor(w, s.a, s.dtype, 3, (int64_t[]){IN, s.rank_a, s.experts_a}, zeros));
    if (s.b) OK(vm_gguf_writer_tensor(w, s.b, VM_F32, 3, (int64_t[]){s.rank_b, ROWS, s.experts_b}, zeros));
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    vmoer_status status = vm_adapter_open(path, &a);
    if (status != code || (part && !strstr(vm_error_text(), part)))
        fail_msg("wanted code %d and \"%s\", got %d and \"%s\"", (int)code, part, (int)status, vm_error_text());
    if (status == VMOER_OK) vm_adapter_free(a);
    unlink(path);
}

static void wrong_files_are_refused(void **state) {
    (void)state;
    static const char a[] = "blk.0.attn_q.weight.lora_a", b[] = "blk.0.attn_q.weight.lora_b";
    const sample good = {"adapter", "lora", 8, a, b, VM_F32, 2, 2, 1, 1, false};
    sample s = good;
    refused(s, VMOER_OK, NULL);
    s = good, s.type = "model", refused(s, VMOER_ERROR_FORMAT, "general.type is \"model\"");
    s = good, s.kind = NULL, refused(s, VMOER_ERROR_FORMAT, "adapter.type");
    s = good, s.kind = "ia3", refused(s, VMOER_ERROR_FORMAT, "ia3");
    s = good, s.alpha = INFINITY, refused(s, VMOER_ERROR_FORMAT, "adapter.lora.alpha");
    s = good, s.alpha = NAN, refused(s, VMOER_ERROR_FORMAT, "adapter.lora.alpha");
    s = good, s.invocation = true, refused(s, VMOER_ERROR_UNSUPPORTED, "invocation_tokens");
    s = good, s.b = NULL, refused(s, VMOER_ERROR_FORMAT, "no lora_b");
    s = good, s.a = NULL, refused(s, VMOER_ERROR_FORMAT, "no lora_a");
    s = good, s.a = s.b = NULL, refused(s, VMOER_ERROR_FORMAT, "no tensors");
    s = good, s.a = "blk.0.attn_q.weight", refused(s, VMOER_ERROR_UNSUPPORTED, "neither lora_a nor lora_b");
    s = good, s.rank_a = 3, refused(s, VMOER_ERROR_FORMAT, "rank 3");
    s = good, s.experts_b = 2, refused(s, VMOER_ERROR_FORMAT, "1 experts, lora_b beside it 2 and 2");
    s = good, s.dtype = VM_F16, refused(s, VMOER_OK, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_weights_are_those_of_the_folder),
        cmocka_unit_test(what_it_is_called),
        cmocka_unit_test(wrong_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
