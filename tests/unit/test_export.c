/* test_export.c: full fine-tuning. A model written as it was loaded gives the same logits, whatever its file's types; a
 * tensor lands in its own place, and as it was stored where nothing changed it; a few steps lower the loss; a training
 * that was stopped and resumed writes the same bytes. */
#include "base/file.h"
#include "base/rng.h"
#include "model_fixture.h"
#include "train/export.h"
#include "train/trainer.h"

enum { VOCAB = 272 };

static vm_model *load_path(const char *path, vm_model_options options) {
    vm_model *m;
    OK(vm_model_load(path, &options, NULL, &m));
    return m;
}

static size_t logits_of(vm_model *m, const char *golden, float *logits) {
    vm_safetensors *st = golden_open(golden);
    vm_pass *pass;
    sequences s;
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 4, &s);
    OK(vm_pass_forward(pass, &s.batch, &(vm_pass_options){.sign = 1}, NULL, NULL, logits));
    vm_pass_free(pass);
    vm_safetensors_free(st);
    return (size_t)s.batch.n_rows * VOCAB;
}

/* Every value in a matrix to what bf16 holds; norms and routers stay. */
static void round_matrices(vm_model *m) {
    vm_param_list params;
    OK(vm_model_params(m, &params));
    for (size_t i = 0; i < params.count; i++) {
        vm_param *p = params.items[i];
        if (p->rows == 1 || strstr(p->name, "ffn_gate_inp")) continue;
        for (size_t k = 0; k < vm_param_size(p); k++) p->value[k] = vm_bf16_to_f32(vm_f32_to_bf16(p->value[k]));
    }
    vm_free(params.items);
    OK(vm_model_refresh(m, NULL));
}

/* The model as it is; then all its values changed, so that a tensor that was copied or swapped shows. */
static void test_logits(void **state) {
    (void)state;
    static float before[MAX_TOKENS * VOCAB], after[MAX_TOKENS * VOCAB];
    const char *path = scratch_path("export.gguf");
    for (int i = 0; i < TINY_MODELS; i++) {
        for (int changed = 0; changed < 2; changed++) {
            vm_model *m = load_model(tiny_models[i], (vm_model_options){.backward_from = 0, .train_all = true});
            vm_param_list params;
            OK(vm_model_params(m, &params));
            vm_rng rng = vm_rng_start(8, VM_RNG_INIT, 0);
            for (size_t p = 0; changed && p < params.count; p++)
                for (size_t k = 0; k < vm_param_size(params.items[p]); k++)
                    params.items[p]->value[k] *= (float)(0.75 + 0.5 * vm_rng_uniform(&rng));
            vm_free(params.items);
            round_matrices(m);
            OK(vm_model_export(m, path));
            vm_model *back = load_path(path, (vm_model_options){.backward_from = -1});
            size_t n = logits_of(m, tiny_models[i], before);
            assert_int_equal(logits_of(back, tiny_models[i], after), n);
            if (memcmp(before, after, n * sizeof *before) != 0)
                fail_msg("%s: logits differ by %g", tiny_models[i], largest_difference(before, after, n));
            vm_model_free(back);
            vm_model_free(m);
        }
    }
    unlink(path);
}

/* tiny-moe with its tensors in turn in every type that a matrix may have. */
static void write_mixed(const char *path) {
    static const vm_dtype types[] = {VM_Q8_0, VM_F16, VM_BF16, VM_F32};
    vm_gguf *g;
    vm_arena *arena = vm_arena_create();
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_open(golden_path("tiny-moe.gguf"), &g));
    OK(vm_gguf_writer_copy_keys(w, g, ""));
    for (size_t i = 0, turn = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        vm_dtype type = t->n_dims == 1 ? VM_F32 : types[turn++ % 4];
        if (type == VM_Q8_0 && t->ne[0] % 32) type = VM_F16;
        void *data = vm_arena_alloc(arena, t->size, 1);
        assert_true(vm_quantize(type, (const float *)(const void *)t->data, t->size / sizeof(float), data));
        OK(vm_gguf_writer_tensor(w, t->name, type, t->n_dims, t->ne, data));
    }
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    vm_arena_free(arena);
    vm_gguf_free(g);
}

static void assert_same_shape(const vm_gguf_tensor *t, const vm_gguf_tensor *was) {
    assert_string_equal(t->name, was->name);
    assert_int_equal(t->n_dims, was->n_dims);
    assert_memory_equal(t->ne, was->ne, sizeof t->ne);
}

/* Exports m; every tensor is copied as its file has it but for `changed` (NULL: none), which is of `type` now. */
static void check_copied(const vm_model *m, const char *path, const char *changed, vm_dtype type) {
    vm_gguf *g;
    OK(vm_model_export(m, path));
    OK(vm_gguf_open(path, &g));
    assert_int_equal(vm_gguf_tensor_count(g), vm_gguf_tensor_count(m->file));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i), *was = vm_gguf_tensor_at(m->file, i);
        assert_same_shape(t, was);
        bool other = changed && strcmp(t->name, changed) == 0,
             same = t->size == was->size && memcmp(t->data, was->data, t->size) == 0;
        if (t->type != (other ? type : was->type) || same == other)
            fail_msg("%s, %s changed: type %s, bytes %s", t->name, changed ? changed : "nothing",
                     vm_dtype_name(t->type), same ? "the same" : "others");
    }
    vm_gguf_free(g);
}

/* A tensor is written anew where one of its values changed, whichever that is, and only then: norms and routers in F32,
 * matrices in BF16. */
static void test_copied(void **state) {
    (void)state;
    static const struct {
        const char *tensor, *param;
        int at; /* element of the parameter; < 0: from its end */
        vm_dtype type;
    } cases[] = {
        {"token_embd.weight", "token_embd.weight", 0, VM_BF16},
        {"output_norm.weight", "output_norm.weight", -1, VM_F32},
        {"blk.0.attn_norm.weight", "blk.0.attn_norm.weight", 3, VM_F32},
        {"blk.1.ffn_gate_inp.weight", "blk.1.ffn_gate_inp", -1, VM_F32},
        {"blk.0.attn_q.weight", "blk.0.attn_q+", 32 * 32 - 1, VM_BF16},
        {"blk.0.attn_k.weight", "blk.0.attn_q+", 32 * 32, VM_BF16},
        {"blk.0.attn_v.weight", "blk.0.attn_q+", -1, VM_BF16},
        {"blk.1.attn_output.weight", "blk.1.attn_output", 40, VM_BF16},
        {"blk.1.ffn_up_shexp.weight", "blk.1.ffn_gate_shexp+", -1, VM_BF16},
        {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_exps.0", 0, VM_BF16},
        {"blk.0.ffn_up_exps.weight", "blk.0.ffn_gate_exps.7", -1, VM_BF16},
        {"blk.1.ffn_down_exps.weight", "blk.1.ffn_down_exps.7", -1, VM_BF16},
    };
    char source[4096], path[4096];
    snprintf(source, sizeof source, "%s", scratch_path("source.gguf"));
    snprintf(path, sizeof path, "%s", scratch_path("export.gguf"));
    write_mixed(source);
    vm_model *m = load_path(source, (vm_model_options){.backward_from = 0, .train_all = true});
    vm_param_list params;
    OK(vm_model_params(m, &params));
    check_copied(m, path, NULL, VM_F32);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t p = 0;
        while (p < params.count && strncmp(params.items[p]->name, cases[i].param, strlen(cases[i].param)) != 0) p++;
        if (p == params.count) fail_msg("no parameter %s", cases[i].param);
        size_t n = vm_param_size(params.items[p]);
        float *value = &params.items[p]->value[cases[i].at < 0 ? n - (size_t)-cases[i].at : (size_t)cases[i].at],
              before = *value;
        *value += 1.0f;
        check_copied(m, path, cases[i].tensor, cases[i].type);
        *value = before;
    }
    check_copied(m, path, NULL, VM_F32);
    vm_free(params.items);
    vm_model_free(m);
    unlink(path);
    unlink(source);
}

/* Keys and the list of tensors are the source's, but for the types of what changed: here everything. */
static void test_file(void **state) {
    (void)state;
    const char *path = scratch_path("export.gguf");
    vm_model *m = load_model("tiny-moe", (vm_model_options){.backward_from = 0, .train_all = true});
    vm_param_list params;
    OK(vm_model_params(m, &params));
    for (size_t p = 0; p < params.count; p++)
        for (size_t k = 0; k < vm_param_size(params.items[p]); k++) params.items[p]->value[k] *= 1.5f;
    vm_free(params.items);
    OK(vm_model_export(m, path));
    vm_gguf *g;
    OK(vm_gguf_open(path, &g));
    assert_int_equal(vm_gguf_key_count(g), vm_gguf_key_count(m->file));
    for (size_t i = 0; i < vm_gguf_key_count(g); i++)
        assert_string_equal(vm_gguf_key_at(g, i), vm_gguf_key_at(m->file, i));
    uint32_t file_type;
    OK(vm_gguf_get_u32(g, "general.file_type", &file_type));
    assert_int_equal(file_type, 32);
    assert_int_equal(vm_gguf_tensor_count(g), vm_gguf_tensor_count(m->file));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i), *was = vm_gguf_tensor_at(m->file, i);
        assert_same_shape(t, was);
        bool full = strstr(t->name, "norm") || strstr(t->name, "ffn_gate_inp");
        assert_int_equal(t->type, full ? VM_F32 : VM_BF16);
    }
    vm_gguf_free(g);
    vm_model_free(m);
    unlink(path);
}

/* A tensor that no one reads is copied, even under a name that is nearly another's; it decides nothing. */
static void test_foreign_tensor(void **state) {
    (void)state;
    const char *path = scratch_path("export.gguf"), *source = scratch_path("source.gguf");
    static const uint16_t extra[40] = {1, 2, 3};
    vm_gguf *g;
    vm_gguf_writer *w = vm_gguf_writer_create();
    OK(vm_gguf_open(golden_path("tiny-moe.gguf"), &g));
    OK(vm_gguf_writer_copy_keys(w, g, ""));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        OK(vm_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data));
    }
    static const char *const names[] = {"blk.00.attn_q.weight", "blk.0.ffn_up.weight", "blk.0.attn_q.scale",
                                        "blk.999.attn_q.weight", "rope.weight"};
    enum { NAMES = sizeof names / sizeof *names };
    for (int i = 0; i < NAMES; i++) OK(vm_gguf_writer_tensor(w, names[i], VM_F16, 1, (int64_t[]){40}, extra));
    OK(vm_gguf_writer_save(w, source));
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
    vm_model *m = load_path(source, (vm_model_options){.backward_from = 0, .train_all = true});
    OK(vm_model_export(m, path));
    vm_model_free(m);
    OK(vm_gguf_open(path, &g));
    for (int i = 0; i < NAMES; i++) {
        const vm_gguf_tensor *t = vm_gguf_find_tensor(g, names[i]);
        if (!t || t->type != VM_F16 || t->size != sizeof extra) fail_msg("%s was not copied", names[i]);
        assert_memory_equal(t->data, extra, sizeof extra);
    }
    vm_gguf_free(g);
    unlink(path);
    unlink(source);
}

static void test_not_trained(void **state) {
    (void)state;
    vm_model *m = load_model("tiny-moe", (vm_model_options){.backward_from = 0});
    assert_int_equal(vm_model_export(m, scratch_path("never.gguf")), VMOER_ERROR_ARGUMENT);
    vm_model_free(m);
}

/* ---- training ---- */

typedef struct training {
    vm_model *model;
    vm_pass *pass;
    const char *path;
} training;

static vmoer_status save(void *context, const char *folder, const json_t *record) {
    (void)folder, (void)record;
    const training *t = context;
    return vm_model_export(t->model, t->path);
}

static int stop_at_3(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    (void)user, (void)stage, (void)total, (void)note;
    return done == 3;
}

/* Six steps on the golden question, seen twice; stopped after the third and resumed where `stop` is set. The first and
 * last loss of the record. */
static void run(const char *name, const char *dir, const char *path, bool stop, double loss[2]) {
    vm_safetensors *st = golden_open(name);
    vm_prompt prompt = golden_prompt(st);
    vm_prompt prompts[] = {prompt, prompt};
    int32_t answers[] = {golden_i32(st, "right", 1)[0], golden_i32(st, "right", 1)[0]};
    vm_examples examples = {prompts, answers, 2};
    vmoer_train_params params = {
        .output_path = dir, .steps = 6, .batch_size = 1, .learning_rate = 0.003, .evaluate_every = 1};
    json_t *config = json_pack("{s:s}", "targets", "all"), *record = NULL;
    for (int part = stop ? 0 : 1; part < 2; part++) {
        training t = {.path = path};
        vm_param_list trained;
        t.model = load_model(name, (vm_model_options){.backward_from = 0, .train_all = true});
        OK(vm_pass_create(t.model, NULL, &t.pass));
        OK(vm_model_params(t.model, &trained));
        params.resume = stop && part == 1;
        vm_train_job job = {.params = &params,
                            .config = config,
                            .stage = "finetune",
                            .objective = {.pass = t.pass, .draws = 1},
                            .model = t.model,
                            .trained = trained,
                            .train = &examples,
                            .heldout = &examples,
                            .save = save,
                            .context = &t};
        vmoer_hooks hooks = {.progress = stop && part == 0 ? stop_at_3 : NULL};
        vmoer_status status = vm_train_run(&job, &hooks, &record);
        assert_int_equal(status, stop && part == 0 ? VMOER_ERROR_INTERRUPTED : VMOER_OK);
        vm_free(trained.items);
        vm_pass_free(t.pass);
        vm_model_free(t.model);
    }
    const json_t *history = json_object_get(record, "history");
    assert_int_equal(json_array_size(history), 6);
    for (int i = 0; i < 2; i++)
        loss[i] = json_number_value(json_object_get(json_array_get(history, i ? 5 : 0), "loss"));
    json_decref(record);
    json_decref(config);
    vm_free(prompt.ids);
    vm_safetensors_free(st);
}

static void test_training(void **state) {
    (void)state;
    for (int i = 0; i < TINY_MODELS; i++) {
        char dir[2][4200], path[2][4300], file[4300], digest[2][65];
        double loss[2][2];
        for (int k = 0; k < 2; k++) {
            snprintf(dir[k], sizeof dir[k], "%s", scratch_path(k ? "stopped" : "whole"));
            snprintf(path[k], sizeof path[k], "%s/model.gguf", dir[k]);
            run(tiny_models[i], dir[k], path[k], k == 1, loss[k]);
            OK(vm_sha256_file(path[k], digest[k]));
        }
        assert_string_equal(digest[0], digest[1]);
        assert_true(loss[0][0] == loss[1][0] && loss[0][1] == loss[1][1]);
        if (!(loss[0][1] < 0.7 * loss[0][0])) fail_msg("%s: loss %g, then %g", tiny_models[i], loss[0][0], loss[0][1]);
        /* What was learned is in the file. */
        static float before[MAX_TOKENS * VOCAB], after[MAX_TOKENS * VOCAB];
        vm_model *m = load_model(tiny_models[i], (vm_model_options){.backward_from = -1});
        size_t n = logits_of(m, tiny_models[i], before);
        vm_model_free(m);
        m = load_path(path[0], (vm_model_options){.backward_from = -1});
        logits_of(m, tiny_models[i], after);
        vm_model_free(m);
        assert_true(relative_difference(after, before, n) > 0.01);
        for (int k = 0; k < 2; k++) {
            unlink(path[k]);
            snprintf(file, sizeof file, "%s/checkpoint.safetensors", dir[k]);
            unlink(file);
            assert_int_equal(rmdir(dir[k]), 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),         cmocka_unit_test(test_copied),      cmocka_unit_test(test_file),
        cmocka_unit_test(test_foreign_tensor), cmocka_unit_test(test_not_trained), cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests_name("export", tests, NULL, NULL);
}
