/* test_adapter.c: adapters against what PEFT makes of them (tools/golden_adapter.py), written ones against PEFT's own
 * bytes, and files that must be refused. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/safetensors.h"
#include "model/adapter.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATH_SIZE = 1024 };

static char scratch[PATH_SIZE]; /* a fresh folder */

static void golden_path(char out[PATH_SIZE], const char *name) {
    const char *tests = getenv("VMOER_TESTS");
    snprintf(out, PATH_SIZE, "%s/golden/%s", tests ? tests : VMOER_TESTS_DIR, name);
}

static void scratch_path(char out[PATH_SIZE], const char *name) {
    assert_int_equal(vm_path_join(out, PATH_SIZE, scratch, name), VMOER_OK);
}

static int make_scratch(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/vmoer-adapter-XXXXXX", base ? base : "/tmp");
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state) {
    (void)state;
    char path[PATH_SIZE];
    scratch_path(path, "adapter_config.json");
    unlink(path);
    scratch_path(path, "adapter_model.safetensors");
    unlink(path);
    scratch_path(path, "within.safetensors");
    unlink(path);
    return rmdir(scratch);
}

/* ---- deltas ---- */

static double worst_difference(const vm_st_tensor *expected, size_t at, size_t n, const float *got) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        float e;
        memcpy(&e, expected->data + (at + i) * sizeof e, sizeof e);
        worst = fmax(worst, fabs((double)e - (double)got[i]));
    }
    return worst;
}

/* Merges every module of the golden file that belongs to `golden` out of the adapter; returns how many there were. */
static int check_adapter(const char *golden, vm_adapter *a, double tolerance) {
    char path[PATH_SIZE], start[64];
    golden_path(path, "adapter-deltas.safetensors");
    vm_safetensors *file;
    assert_int_equal(vm_safetensors_open(path, &file), VMOER_OK);
    size_t length = (size_t)snprintf(start, sizeof start, "%s/", golden);
    int count = 0;
    for (size_t i = 0; i < vm_safetensors_count(file); i++) {
        const vm_st_tensor *t = vm_safetensors_at(file, i);
        if (strncmp(t->name, start, length) != 0) continue;
        const char *module = t->name + length;
        bool stacked = t->n_dims == 3;
        int n = stacked ? (int)t->shape[0] : 1, rows = (int)t->shape[t->n_dims - 2], in = (int)t->shape[t->n_dims - 1];
        size_t size = (size_t)rows * (size_t)in;
        float *w = vm_malloc(size, sizeof *w);
        for (int e = 0; e < n; e++) {
            for (size_t k = 0; k < size; k++) w[k] = 1.5f; /* what was there must stay there */
            vmoer_status status = vm_adapter_merge_module(a, module, e, n, rows, in, 0, w);
            if (status != VMOER_OK) fail_msg("%s", vm_error_text());
            for (size_t k = 0; k < size; k++) w[k] -= 1.5f;
            double worst = worst_difference(t, (size_t)e * size, size, w);
            if (!(worst <= tolerance)) fail_msg("%s, expert %d: %g away from PEFT", t->name, e, worst);
        }
        vm_free(w);
        count++;
    }
    vm_safetensors_free(file);
    return count;
}

static int check_deltas(const char *golden, const char *dir, double tolerance) {
    vm_adapter *a;
    if (vm_adapter_open(dir, &a) != VMOER_OK) fail_msg("%s", vm_error_text());
    int count = check_adapter(golden, a, tolerance);
    vm_adapter_free(a);
    return count;
}

static void test_deltas(void **state) {
    (void)state;
    char dir[PATH_SIZE];
    golden_path(dir, "tiny-moe-lora");
    assert_int_equal(check_deltas("tiny-moe-lora", dir, 4e-7), 9);
    golden_path(dir, "adapter-variant"); /* rank_pattern, alpha_pattern, use_rslora, one parameter of the experts */
    assert_int_equal(check_deltas("adapter-variant", dir, 4e-7), 3);
}

static void test_properties(void **state) {
    (void)state;
    char dir[PATH_SIZE], file[PATH_SIZE], hash[65];
    golden_path(dir, "tiny-moe-lora");
    snprintf(file, sizeof file, "%.900s/adapter_model.safetensors", dir);
    strcat(dir, "//");
    vm_adapter *a;
    assert_int_equal(vm_adapter_open(dir, &a), VMOER_OK);
    assert_string_equal(vm_adapter_name(a), "tiny-moe-lora");
    assert_string_equal(vm_adapter_base(a), "");
    assert_int_equal(vm_sha256_file(file, hash), VMOER_OK);
    assert_string_equal(vm_adapter_fingerprint(a), hash);
    float w[32 * 32] = {0};
    assert_int_equal(vm_adapter_merge_module(a, "model.layers.7.self_attn.q_proj", 0, 1, 32, 32, 0, w),
                     VMOER_OK); /* not in the adapter */
    for (int i = 0; i < 32 * 32; i++) assert_true(w[i] == 0);
    /* One merged, the others not. */
    assert_int_equal(vm_adapter_merge_module(a, "model.layers.0.self_attn.q_proj", 0, 1, 32, 32, 0, w), VMOER_OK);
    assert_int_equal(vm_adapter_check_used(a), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "lora_A.weight"));
    assert_null(strstr(vm_error_text(), "layers.0.self_attn.q_proj"));
    /* Wrong shapes name the tensor. */
    assert_int_equal(vm_adapter_merge_module(a, "model.layers.0.self_attn.k_proj", 0, 1, 32, 32, 0, w),
                     VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "layers.0.self_attn.k_proj.lora_B.weight"));
    assert_int_equal(
        vm_adapter_merge_module(a, "model.layers.0.block_sparse_moe.experts.gate_up_proj", 0, 4, 32, 32, 0, w),
        VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "experts.base_layer.lora_A.weight"));
    vm_adapter_free(a);
    vm_adapter_free(NULL);
}

/* ---- writing ---- */

enum { N_EXPERTS = 8, RANK = 4, MAX_MODULES = 32 };

/* PEFT's pairs of tiny-moe-lora as modules to write; expert pointers are cut out of copies with the loops of the
 * formula. */
typedef struct modules {
    vm_adapter_module items[MAX_MODULES];
    char names[MAX_MODULES][128];
    const float *a[MAX_MODULES][N_EXPERTS], *b[MAX_MODULES][N_EXPERTS];
    vm_arena *arena;
    int n;
} modules;

static void cut(modules *m, const vm_safetensors *file, int layer, const char *stem, const char *module, bool stacked) {
    char name[256];
    snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_A.weight", layer, stem);
    const vm_st_tensor *a = vm_safetensors_find(file, name);
    snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_B.weight", layer, stem);
    const vm_st_tensor *b = vm_safetensors_find(file, name);
    assert_true(a && b);
    int n = stacked ? N_EXPERTS : 1, in = (int)a->shape[1], rows = (int)b->shape[0];
    const float *all_a = (const float *)(const void *)a->data, *all_b = (const float *)(const void *)b->data;
    for (int e = 0; e < n; e++) {
        float *b_e = vm_arena_alloc(m->arena, (size_t)rows * RANK, sizeof *b_e);
        for (int o = 0; o < rows; o++)
            for (int j = 0; j < RANK; j++) b_e[o * RANK + j] = all_b[o * RANK * n + j * n + e];
        m->a[m->n][e] = all_a + e * RANK * in;
        m->b[m->n][e] = b_e;
    }
    snprintf(m->names[m->n], sizeof m->names[m->n], "model.layers.%d.%s", layer, module);
    m->items[m->n] = (vm_adapter_module){.module = m->names[m->n],
                                         .rows = rows,
                                         .in = in,
                                         .rank = RANK,
                                         .n_experts = stacked ? n : 0,
                                         .a = m->a[m->n],
                                         .b = m->b[m->n]};
    m->n++;
}

static void cut_all(modules *m, const vm_safetensors *file) {
    static const char *const plain[] = {"self_attn.q_proj", "self_attn.k_proj",        "self_attn.v_proj",
                                        "self_attn.o_proj", "shared_mlp.input_linear", "shared_mlp.output_linear"};
    m->n = 0;
    m->arena = vm_arena_create();
    for (int layer = 0; layer < 2; layer++) {
        for (int i = 0; i < 6; i++) cut(m, file, layer, plain[i], plain[i], false);
        cut(m, file, layer, "block_sparse_moe.router", "block_sparse_moe.router", false);
        cut(m, file, layer, "block_sparse_moe.experts.base_layer", "block_sparse_moe.experts.gate_up_proj", true);
        cut(m, file, layer, "block_sparse_moe.experts", "block_sparse_moe.experts.down_proj", true);
    }
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* "a b c", sorted, of an array of strings in a JSON file. */
static void joined(const json_t *array, char *out, size_t size) {
    const char *items[64];
    size_t n = json_array_size(array), used = 0;
    for (size_t i = 0; i < n; i++) items[i] = json_string_value(json_array_get(array, i));
    qsort(items, n, sizeof *items, by_text);
    out[0] = '\0';
    for (size_t i = 0; i < n; i++) used += (size_t)snprintf(out + used, size - used, "%s ", items[i]);
}

static void test_save(void **state) {
    (void)state;
    char path[PATH_SIZE];
    golden_path(path, "tiny-moe-lora/adapter_model.safetensors");
    vm_safetensors *peft, *ours;
    assert_int_equal(vm_safetensors_open(path, &peft), VMOER_OK);
    static modules m;
    cut_all(&m, peft);
    vm_adapter_info info = {
        .base_name = "tiny-moe", .base_fingerprint = "0123abcd", .rank = RANK, .alpha = 8, .dtype = "F32"};
    if (vm_adapter_save(scratch, &info, m.items, m.n) != VMOER_OK) fail_msg("%s", vm_error_text());

    /* The same tensors, bit for bit. */
    scratch_path(path, "adapter_model.safetensors");
    assert_int_equal(vm_safetensors_open(path, &ours), VMOER_OK);
    assert_string_equal(vm_safetensors_metadata(ours, "format"), "pt");
    assert_int_equal(vm_safetensors_count(ours), vm_safetensors_count(peft));
    for (size_t i = 0; i < vm_safetensors_count(peft); i++) {
        const vm_st_tensor *t = vm_safetensors_at(peft, i), *u = vm_safetensors_find(ours, t->name);
        if (!u) fail_msg("%s is missing", t->name);
        assert_int_equal(u->size, t->size);
        assert_int_equal(u->shape[0], t->shape[0]);
        assert_memory_equal(u->data, t->data, t->size);
    }
    vm_safetensors_free(ours);

    /* The same targets as PEFT's configuration, but with the folder they are in. */
    scratch_path(path, "adapter_config.json");
    json_t *config;
    char text[512];
    assert_int_equal(vm_json_load(path, &config), VMOER_OK);
    joined(json_object_get(config, "target_modules"), text, sizeof text);
    assert_string_equal(text, "self_attn.k_proj self_attn.o_proj self_attn.q_proj self_attn.v_proj "
                              "shared_mlp.input_linear shared_mlp.output_linear ");
    joined(json_object_get(config, "target_parameters"), text, sizeof text);
    assert_string_equal(
        text,
        "block_sparse_moe.experts.down_proj block_sparse_moe.experts.gate_up_proj block_sparse_moe.router.weight ");
    assert_string_equal(json_string_value(json_object_get(config, "base_model_name_or_path")), "tiny-moe");
    json_decref(config);

    assert_int_equal(check_deltas("tiny-moe-lora", scratch, 4e-7), 9);
    vm_adapter *a;
    assert_int_equal(vm_adapter_open(scratch, &a), VMOER_OK);
    assert_string_equal(vm_adapter_base(a), "0123abcd");
    vm_adapter_free(a);

    /* Half precision; and a rank of its own for a module (here its first two rows of A, columns of B). */
    info.dtype = "F16";
    assert_int_equal(vm_adapter_save(scratch, &info, m.items, m.n), VMOER_OK);
    assert_int_equal(check_deltas("tiny-moe-lora", scratch, 2e-3), 9);
    m.items[0].rank = 2;
    info.dtype = "F32";
    assert_int_equal(vm_adapter_save(scratch, &info, m.items, m.n), VMOER_OK);
    float w[32 * 32] = {0}, expected[32 * 32] = {0};
    assert_int_equal(vm_adapter_open(scratch, &a), VMOER_OK);
    assert_int_equal(vm_adapter_merge_module(a, m.names[0], 0, 1, 32, 32, 0, w), VMOER_OK);
    for (int o = 0; o < 32; o++)
        for (int i = 0; i < 32; i++)
            for (int j = 0; j < 2; j++)
                expected[o * 32 + i] += 4 * m.b[0][0][o * 2 + j] * m.a[0][0][j * 32 + i]; /* alpha / 2 */
    for (int i = 0; i < 32 * 32; i++) assert_float_equal(w[i], expected[i], 1e-6);
    vm_adapter_free(a);

    /* What cannot be stored. */
    float huge[RANK * 32] = {0};
    const float *pointer = huge;
    huge[5] = 70000;
    m.items[0].rank = RANK;
    m.items[0].a = &pointer;
    info.dtype = "F16";
    assert_int_equal(vm_adapter_save(scratch, &info, m.items, m.n), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "layers.0.self_attn.q_proj.lora_A.weight: element 5"));
    vm_arena_free(m.arena);
    vm_safetensors_free(peft);
}

/* ---- within another file ---- */

/* A file with a tensor of its own on either side of the adapter's n modules; config: in place of the adapter's, where
 * not NULL. */
static void write_within(const vm_adapter_info *info, const modules *m, int n, const char *config) {
    char path[PATH_SIZE];
    static const float values[4] = {1, 2, 3, 4};
    vm_st_writer *w = vm_st_writer_create();
    assert_int_equal(vm_st_writer_f32(w, "blk.0.router", "F32", 2, (int64_t[]){2, 2}, values), VMOER_OK);
    if (n && vm_adapter_put(w, info, m->items, n) != VMOER_OK) fail_msg("%s", vm_error_text());
    if (config) assert_int_equal(vm_st_writer_metadata(w, "adapter_config", config), VMOER_OK);
    assert_int_equal(vm_st_writer_f32(w, "model.lora_A.weight", "F32", 1, (int64_t[]){4}, values), VMOER_OK);
    scratch_path(path, "within.safetensors");
    assert_int_equal(vm_st_writer_save(w, path), VMOER_OK);
    vm_st_writer_free(w);
}

static void test_within(void **state) {
    (void)state;
    char path[PATH_SIZE], hash[65];
    golden_path(path, "tiny-moe-lora/adapter_model.safetensors");
    vm_safetensors *peft, *st;
    vm_adapter *a;
    assert_int_equal(vm_safetensors_open(path, &peft), VMOER_OK);
    static modules m;
    cut_all(&m, peft);
    /* A name that JSON in JSON must escape. */
    vm_adapter_info info = {
        .base_name = "tiny \"moe\"\\", .base_fingerprint = "x", .rank = RANK, .alpha = 8, .dtype = "F32"};
    write_within(&info, &m, m.n, NULL);
    scratch_path(path, "within.safetensors");
    assert_int_equal(vm_safetensors_open(path, &st), VMOER_OK);
    assert_int_equal(vm_safetensors_count(st), vm_safetensors_count(peft) + 2);
    for (size_t i = 0; i < vm_safetensors_count(peft); i++) {
        const vm_st_tensor *t = vm_safetensors_at(peft, i), *u = vm_safetensors_find(st, t->name);
        if (!u) fail_msg("%s is missing", t->name);
        assert_int_equal(u->size, t->size);
        assert_memory_equal(u->data, t->data, t->size);
    }
    /* The configuration is the one of the folder. */
    const char *text = vm_safetensors_metadata(st, "adapter_config");
    json_t *within, *saved;
    assert_non_null(text);
    assert_int_equal(vm_json_parse(text, strlen(text), "within", &within), VMOER_OK);
    assert_int_equal(vm_adapter_save(scratch, &info, m.items, m.n), VMOER_OK);
    scratch_path(path, "adapter_config.json");
    assert_int_equal(vm_json_load(path, &saved), VMOER_OK);
    assert_true(json_equal(within, saved));
    assert_string_equal(json_string_value(json_object_get(within, "base_model_name_or_path")), info.base_name);
    json_decref(within);
    json_decref(saved);
    vm_safetensors_free(st);

    scratch_path(path, "within.safetensors");
    assert_int_equal(vm_adapter_open_within(path, &a), VMOER_OK);
    assert_non_null(a);
    assert_string_equal(vm_adapter_name(a), "within.safetensors");
    assert_string_equal(vm_adapter_base(a), ""); /* the file it is in says what it is for */
    assert_int_equal(vm_sha256_file(path, hash), VMOER_OK);
    assert_string_equal(vm_adapter_fingerprint(a), hash);
    assert_int_equal(vm_adapter_check_used(a), VMOER_ERROR_MISMATCH);
    assert_int_equal(check_adapter("tiny-moe-lora", a, 4e-7), 9);
    vm_adapter_free(a);

    info.dtype = "F16";
    write_within(&info, &m, m.n, NULL);
    assert_int_equal(vm_adapter_open_within(path, &a), VMOER_OK);
    assert_int_equal(check_adapter("tiny-moe-lora", a, 2e-3), 9);
    vm_adapter_free(a);
    /* One module alone. */
    write_within(&info, &m, 1, NULL);
    assert_int_equal(vm_adapter_open_within(path, &a), VMOER_OK);
    float w[32 * 32] = {0};
    assert_int_equal(vm_adapter_merge_module(a, m.items[0].module, 0, 1, 32, 32, 0, w), VMOER_OK);
    assert_int_equal(vm_adapter_check_used(a), VMOER_OK);
    vm_adapter_free(a);
    vm_arena_free(m.arena);
    vm_safetensors_free(peft);
}

static void test_not_within(void **state) {
    (void)state;
    static const struct {
        const char *config;
        vmoer_status code;
        const char *part;
    } cases[] = {
        {"", VMOER_ERROR_FORMAT, "__metadata__: adapter_config: line 1"},
        {"{\"peft_type\": \"LORA\"", VMOER_ERROR_FORMAT, "__metadata__: adapter_config: line 1"},
        {"7", VMOER_ERROR_FORMAT, "adapter_config"},
        {"{\"peft_type\": \"IA3\", \"r\": 2, \"lora_alpha\": 4}", VMOER_ERROR_UNSUPPORTED, "IA3"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4}", VMOER_ERROR_FORMAT, "no tensors"},
    };
    char path[PATH_SIZE];
    scratch_path(path, "within.safetensors");
    vm_adapter *a = (vm_adapter *)&a; /* must not stay */
    write_within(NULL, NULL, 0, NULL);
    assert_int_equal(vm_adapter_open_within(path, &a), VMOER_OK);
    assert_null(a);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_within(NULL, NULL, 0, cases[i].config);
        a = (vm_adapter *)&a;
        vmoer_status status = vm_adapter_open_within(path, &a);
        if (status != cases[i].code || !strstr(vm_error_text(), cases[i].part))
            fail_msg("case %zu: code %d and \"%s\"", i, (int)status, vm_error_text());
        assert_non_null(strstr(vm_error_text(), path));
        assert_null(a);
    }
    assert_int_equal(vm_adapter_open_within("/nonexistent.safetensors", &a), VMOER_ERROR_IO);
    assert_null(a);
}

/* ---- refusals ---- */

static void write_config(const char *text) {
    char path[PATH_SIZE];
    scratch_path(path, "adapter_config.json");
    assert_int_equal(vm_write_file(path, text, strlen(text)), VMOER_OK);
}

typedef struct tensor {
    const char *name, *dtype;
    int rows, columns;
} tensor;

static void write_tensors(const tensor *tensors, int n, const float *values) {
    char path[PATH_SIZE];
    scratch_path(path, "adapter_model.safetensors");
    vm_st_writer *w = vm_st_writer_create();
    for (int i = 0; i < n; i++) {
        int64_t shape[] = {tensors[i].rows, tensors[i].columns};
        assert_int_equal(
            vm_st_writer_raw(w, tensors[i].name, tensors[i].dtype, 4, tensors[i].columns ? 2 : 1, shape, values),
            VMOER_OK);
    }
    assert_int_equal(vm_st_writer_save(w, path), VMOER_OK);
    vm_st_writer_free(w);
}

#define GOOD_CONFIG "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4}"
#define M "base_model.model.m"
static const tensor good[] = {{M ".lora_A.weight", "F32", 2, 3}, {M ".lora_B.weight", "F32", 5, 2}};

static void expect(vmoer_status code, const char *part) {
    vm_adapter *a;
    vmoer_status status = vm_adapter_open(scratch, &a);
    if (status != code || !strstr(vm_error_text(), part))
        fail_msg("wanted code %d and \"%s\", got %d and \"%s\"", (int)code, part, (int)status, vm_error_text());
    assert_null(a);
}

static void test_bad_configs(void **state) {
    (void)state;
    static const struct {
        const char *text;
        vmoer_status code;
        const char *part;
    } cases[] = {
        {"", VMOER_ERROR_FORMAT, "adapter_config.json"},
        {"[]", VMOER_ERROR_FORMAT, "not an object"},
        {"{\"r\": 2, \"lora_alpha\": 4}", VMOER_ERROR_FORMAT, "peft_type"},
        {"{\"peft_type\": \"IA3\", \"r\": 2, \"lora_alpha\": 4}", VMOER_ERROR_UNSUPPORTED, "IA3"},
#define WITH(text) "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, " text "}"
        {"{\"peft_type\": \"LORA\", \"r\": 0, \"lora_alpha\": 4}", VMOER_ERROR_LIMIT, "\"r\""},
        {"{\"peft_type\": \"LORA\", \"r\": 4097, \"lora_alpha\": 4}", VMOER_ERROR_LIMIT, "\"r\""},
        {"{\"peft_type\": \"LORA\", \"r\": 2.5, \"lora_alpha\": 4}", VMOER_ERROR_FORMAT, "\"r\""},
        {"{\"peft_type\": \"LORA\", \"r\": 2}", VMOER_ERROR_FORMAT, "lora_alpha"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": \"4\"}", VMOER_ERROR_FORMAT, "lora_alpha"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 1e300}", VMOER_ERROR_FORMAT, "lora_alpha"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"r\": 2, \"lora_alpha\": 4}", VMOER_ERROR_FORMAT, "duplicate"},
        {WITH("\"use_dora\": true"), VMOER_ERROR_UNSUPPORTED, "use_dora"},
        {WITH("\"lora_bias\": true"), VMOER_ERROR_UNSUPPORTED, "lora_bias"},
        {WITH("\"bias\": \"all\""), VMOER_ERROR_UNSUPPORTED, "bias"},
        {WITH("\"modules_to_save\": [\"lm_head\"]"), VMOER_ERROR_UNSUPPORTED, "modules_to_save"},
        {WITH("\"layer_replication\": [[0, 2]]"), VMOER_ERROR_UNSUPPORTED, "layer_replication"},
        {WITH("\"init_lora_weights\": \"pissa_niter_4\""), VMOER_ERROR_UNSUPPORTED, "pissa_niter_4"},
        {WITH("\"use_rslora\": 1"), VMOER_ERROR_FORMAT, "use_rslora"},
        {WITH("\"rank_pattern\": [1]"), VMOER_ERROR_FORMAT, "rank_pattern"},
        {WITH("\"rank_pattern\": {\"q_proj\": 0}"), VMOER_ERROR_LIMIT, "q_proj"},
        {WITH("\"rank_pattern\": {\".*q_proj\": 2}"), VMOER_ERROR_UNSUPPORTED, ".*q_proj"},
        {WITH("\"rank_pattern\": {\"^\": 2}"), VMOER_ERROR_UNSUPPORTED, "^"},
        {WITH("\"alpha_pattern\": {\"q_proj\": null}"), VMOER_ERROR_FORMAT, "alpha_pattern"},
        {WITH("\"target_parameters\": \"w\""), VMOER_ERROR_FORMAT, "target_parameters"},
        {WITH("\"target_parameters\": [3]"), VMOER_ERROR_FORMAT, "target_parameters"},
#undef WITH
    };
    static const float values[10] = {1};
    write_tensors(good, 2, values);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_config(cases[i].text);
        expect(cases[i].code, cases[i].part);
    }
    write_config(GOOD_CONFIG);
    vm_adapter *a;
    assert_int_equal(vm_adapter_open(scratch, &a), VMOER_OK); /* so each case above failed for its own reason */
    vm_adapter_free(a);
}

static void test_bad_tensors(void **state) {
    (void)state;
    static const struct {
        tensor tensors[3];
        int n;
        vmoer_status code;
        const char *part;
    } cases[] = {
        {{{"", "", 0, 0}}, 0, VMOER_ERROR_FORMAT, "no tensors"},
        {{{M ".lora_A.weight", "F32", 2, 3}}, 1, VMOER_ERROR_FORMAT, "has no lora_B"},
        {{{M ".lora_B.weight", "F32", 5, 2}}, 1, VMOER_ERROR_FORMAT, "has no lora_A"},
        {{{M ".lora_A.weight", "F32", 2, 3}, {M ".lora_B.weight", "F32", 5, 1}},
         2,
         VMOER_ERROR_FORMAT,
         M ".lora_A.weight"},
        {{{M ".lora_A.weight", "I32", 2, 3}, {M ".lora_B.weight", "F32", 5, 2}}, 2, VMOER_ERROR_UNSUPPORTED, "I32"},
        {{{M ".lora_A.weight", "F32", 2, 0}, {M ".lora_B.weight", "F32", 5, 2}}, 2, VMOER_ERROR_FORMAT, "dimensions"},
        {{{"base_model.model.m.lora_embedding_A", "F32", 2, 3}}, 1, VMOER_ERROR_UNSUPPORTED, "lora_embedding_A"},
        {{{"m.lora_A.weight", "F32", 2, 3}, {"m.lora_B.weight", "F32", 5, 2}}, 2, VMOER_ERROR_UNSUPPORTED, "\"m.lora_"},
    };
    static const float values[10] = {1};
    write_config(GOOD_CONFIG);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_tensors(cases[i].tensors, cases[i].n, values);
        expect(cases[i].code, cases[i].part);
    }
    /* A rank other than the configuration's, and values that are no numbers, show when merged. */
    vm_adapter *a;
    float w[15] = {0}, bad[10] = {1, 2, 3, 4, 5, INFINITY};
    static const tensor wide[] = {{M ".lora_A.weight", "F32", 1, 3}, {M ".lora_B.weight", "F32", 5, 1}};
    write_tensors(wide, 2, values);
    assert_int_equal(vm_adapter_open(scratch, &a), VMOER_OK);
    assert_int_equal(vm_adapter_merge_module(a, "m", 0, 1, 5, 3, 0, w), VMOER_ERROR_MISMATCH);
    vm_adapter_free(a);
    write_tensors(good, 2, bad);
    assert_int_equal(vm_adapter_open(scratch, &a), VMOER_OK);
    assert_int_equal(vm_adapter_merge_module(a, "m", 0, 1, 5, 3, 0, w), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "element 5"));
    char longest[400];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(vm_adapter_merge_module(a, longest, 0, 1, 5, 3, 0, w), VMOER_ERROR_LIMIT);
    vm_adapter_free(a);
}

/* A configuration cut off anywhere is refused, never half believed. */
static void test_truncated_config(void **state) {
    (void)state;
    char path[PATH_SIZE];
    vm_map map;
    static const float values[10] = {1};
    write_tensors(good, 2, values);
    golden_path(path, "tiny-moe-lora/adapter_config.json");
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    char *copy = vm_strndup((const char *)map.data, map.size);
    for (size_t n = (size_t)(strrchr(copy, '}') - copy); n > 0; n -= n > 37 ? 37 : n) {
        copy[n] = '\0';
        write_config(copy);
        expect(VMOER_ERROR_FORMAT, "adapter_config.json");
    }
    vm_free(copy);
    vm_map_close(&map);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deltas),      cmocka_unit_test(test_properties),       cmocka_unit_test(test_save),
        cmocka_unit_test(test_within),      cmocka_unit_test(test_not_within),       cmocka_unit_test(test_bad_configs),
        cmocka_unit_test(test_bad_tensors), cmocka_unit_test(test_truncated_config),
    };
    return cmocka_run_group_tests_name("adapter", tests, make_scratch, remove_scratch);
}
