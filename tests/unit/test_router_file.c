/* test_router_file.c: a router on disk: what is written reads back bit for bit, and what is not a router is refused by
 * the name of its fault. */
#include "base/file.h"
#include "base/rng.h"
#include "base/status.h"
#include "infer/session.h"
#include "io/safetensors.h"
#include "router/router_internal.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const BASE = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static char folder[] = "/tmp/vmoer-router-XXXXXX";
static char path[64], second_path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    snprintf(second_path, sizeof second_path, "%s/b.safetensors", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    unlink(second_path);
    return rmdir(folder);
}

static vm_router_file make_info(void) {
    vm_router_file info = {
        .base_name = "tiny \"model\" \xc3\xa4", .adapter_name = "", .training = "{\"steps\": 3, \"beta\": 0.01}"};
    strcpy(info.base, BASE);
    return info;
}

static void assert_same_file(const char *a, const char *b) {
    vm_map x, y;
    assert_int_equal(vm_map_open(a, &x), VMOER_OK);
    assert_int_equal(vm_map_open(b, &y), VMOER_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    vm_map_close(&x);
    vm_map_close(&y);
}

static void test_round_trip(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int rank, members, keep;
        float route_temperature, noise;
    } kinds[] = {{.name = "vglr-fc"},
                 {.name = "vglr-mf"},
                 {.name = "residual"},
                 {.name = "vglr-lr", .rank = 2},
                 {.name = "vglr-noise"},
                 {.name = "isotropic", .noise = 0.3f},
                 {.name = "temperature"},
                 {.name = "vtsr"},
                 {.name = "fixed-t", .route_temperature = 0.7f},
                 {.name = "expert-sample", .route_temperature = 0.7f, .keep = 3},
                 {.name = "weights"},
                 {.name = "mc-dropout", .members = 7, .noise = 0.3f},
                 {.name = "swag", .rank = 4, .members = 64},
                 {.name = "ensemble", .members = 3}};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        vm_router_config config = {.n_layers = strcmp(kinds[kind].name, "temperature") == 0 ? 0 : 3,
                                   .layers = {0, 7, 511},
                                   .n_experts = 5,
                                   .dim = 6,
                                   .width = 4,
                                   .prior_scale = 0.1f,
                                   .initial_scale = 0.3f,
                                   .seed = UINT64_MAX,
                                   .temperature = 1.1,
                                   .rank = kinds[kind].rank,
                                   .members = kinds[kind].members,
                                   .keep_experts = kinds[kind].keep,
                                   .route_temperature = kinds[kind].route_temperature,
                                   .noise = kinds[kind].noise};
        strcpy(config.kind, kinds[kind].name);
        vm_router *r, *back;
        assert_int_equal(vm_router_create(&config, &r), VMOER_OK);
        vm_param_list list = vm_router_params(r);
        vm_rng rng = vm_rng_start(1, VM_RNG_INIT, 9);
        for (size_t i = 0; i < list.count; i++) {
            for (size_t j = 0; j < vm_param_size(list.items[i]); j++)
                list.items[i]->value[j] = fabsf(vm_rng_normal(&rng));
        }
        vm_router_set_temperature(r, 1.0 / 3);
        vm_router_file info = make_info(), info_back;
        if (kind == 1) strcpy(info.adapter, BASE), strcpy(info.adapter_name, "map"), info.training[0] = '\0';
        assert_int_equal(vm_router_save(r, &info, path), VMOER_OK);
        memset(&info_back, 1, sizeof info_back);
        assert_int_equal(vm_router_load(path, &info_back, &back), VMOER_OK);

        const vm_router_config *c = vm_router_get_config(back);
        assert_string_equal(c->kind, kinds[kind].name);
        assert_true(c->rank == kinds[kind].rank && c->members == kinds[kind].members && c->noise == kinds[kind].noise);
        assert_true(c->temperature == 1.0 / 3 && c->prior_scale == 0.1f && c->initial_scale == 0.3f &&
                    c->seed == UINT64_MAX);
        assert_true(c->route_temperature == config.route_temperature && c->keep_experts == config.keep_experts);
        assert_true(c->n_experts == 5 && c->dim == 6 && c->width == 4 && c->n_layers == config.n_layers);
        for (int i = 0; i < c->n_layers; i++) assert_int_equal(c->layers[i], config.layers[i]);
        assert_string_equal(info_back.base, info.base);
        assert_string_equal(info_back.adapter, info.adapter);
        assert_string_equal(info_back.base_name, info.base_name);
        assert_string_equal(info_back.adapter_name, info.adapter_name);
        assert_string_equal(info_back.training, info.training);
        vm_param_list list_back = vm_router_params(back);
        assert_int_equal(list.count, list_back.count);
        for (size_t i = 0; i < list.count; i++) {
            assert_string_equal(list.items[i]->name, list_back.items[i]->name);
            assert_memory_equal(list.items[i]->value, list_back.items[i]->value,
                                vm_param_size(list.items[i]) * sizeof(float));
        }
        assert_int_equal(vm_router_save(back, &info_back, second_path), VMOER_OK);
        assert_same_file(path, second_path);
        vm_router_free(r);
        vm_router_free(back);
    }
}

static vm_router_config one_layer(const char *kind) {
    vm_router_config config = {.n_layers = 1,
                               .layers = {3},
                               .n_experts = 4,
                               .dim = 6,
                               .width = 4,
                               .prior_scale = 1,
                               .initial_scale = 0.3f,
                               .temperature = 1};
    snprintf(config.kind, sizeof config.kind, "%s", kind);
    return config;
}

/* A loaded router computes with the loaded values (its panels are packed after they are read). */
static void test_a_loaded_router_infers_the_same(void **state) {
    (void)state;
    vm_router_config config = one_layer("vglr-fc");
    vm_router *r, *back;
    assert_int_equal(vm_router_create(&config, &r), VMOER_OK);
    vm_param_list list = vm_router_params(r);
    for (size_t i = 0; i < list.count; i++) list.items[i]->value[0] = 0.5f;
    vm_router_file info = make_info();
    assert_int_equal(vm_router_save(r, &info, path), VMOER_OK);
    assert_int_equal(vm_router_load(path, NULL, &back), VMOER_OK);
    float u[6] = {1, -1, 2, 0.5f, 0, 3}, logits[4] = {0.1f, 0.4f, -1, 0}, p[4], p_back[4], start[4];
    vm_token_key key = {0};
    vm_route route = {.layer = 3, .n_tokens = 1, .u = u, .logits = logits, .tokens = &key, .sign = 1};
    assert_int_equal(vm_router_infer(r, NULL, &route, VM_INFERENCE_CLOSED, 0, &(vm_routing){.p = p}), VMOER_OK);
    assert_int_equal(vm_router_infer(back, NULL, &route, VM_INFERENCE_CLOSED, 0, &(vm_routing){.p = p_back}), VMOER_OK);
    assert_memory_equal(p, p_back, sizeof p);
    vm_router_free(back);
    assert_int_equal(vm_router_create(&config, &back), VMOER_OK);
    assert_int_equal(vm_router_infer(back, NULL, &route, VM_INFERENCE_CLOSED, 0, &(vm_routing){.p = start}), VMOER_OK);
    assert_memory_not_equal(p, start, sizeof p);
    vm_router_free(r);
    vm_router_free(back);
}

/* ---- faulty files, made of a good one with one thing changed ---- */

typedef struct file_case {
    const char *key, *value; /* metadata key to set; value NULL: leave it out */
    const char *tensor;      /* tensor to change, or NULL */
    const char *dtype;       /* its type */
    int64_t rows, cols;      /* its shape; rows 0: leave it out */
    float first;             /* its first value */
    const char *says;        /* must be in the error */
} file_case;

static void write_case(const file_case *c) {
    static const char *const metadata[][2] = {{"format", "vmoer-router"},
                                              {"version", "1"},
                                              {"kind", "vglr-mf"},
                                              {"layers", "[2]"},
                                              {"n_experts", "3"},
                                              {"dim", "4"},
                                              {"width", "2"},
                                              {"prior_scale", "1"},
                                              {"initial_scale", "0.25"},
                                              {"seed", "0"},
                                              {"temperature", "1"},
                                              {"base", NULL},
                                              {"adapter", ""},
                                              {"base_name", "m"},
                                              {"adapter_name", ""},
                                              {"training", "{}"}};
    static const struct {
        const char *name;
        int64_t rows, cols;
    } tensors[] = {{"layers.2.trunk.weight", 2, 4}, {"layers.2.trunk.bias", 1, 2},   {"layers.2.mean.weight", 3, 2},
                   {"layers.2.mean.bias", 1, 3},    {"layers.2.scale.weight", 3, 2}, {"layers.2.scale.bias", 1, 3}};
    vm_st_writer *w = vm_st_writer_create();
    for (size_t i = 0; i < sizeof metadata / sizeof *metadata; i++) {
        bool chosen = c->key && strcmp(c->key, metadata[i][0]) == 0;
        const char *value = chosen ? c->value : metadata[i][1] ? metadata[i][1] : BASE;
        if (value) assert_int_equal(vm_st_writer_metadata(w, metadata[i][0], value), VMOER_OK);
    }
    bool known = false;
    for (size_t i = 0; i <= sizeof tensors / sizeof *tensors; i++) {
        bool extra = i == sizeof tensors / sizeof *tensors,
             chosen = !extra && c->tensor && strcmp(c->tensor, tensors[i].name) == 0;
        if (extra && (known || !c->tensor)) break;
        known |= chosen;
        float values[16] = {chosen || extra ? c->first : 0};
        int64_t shape[2] = {chosen || extra ? c->rows : tensors[i].rows, chosen || extra ? c->cols : tensors[i].cols};
        if (shape[0] == 0) continue;
        assert_int_equal(vm_st_writer_f32(w, extra ? c->tensor : tensors[i].name, chosen && c->dtype ? c->dtype : "F32",
                                          2, shape, values),
                         VMOER_OK);
    }
    assert_int_equal(vm_st_writer_save(w, path), VMOER_OK);
    vm_st_writer_free(w);
}

static void test_faulty_files(void **state) {
    (void)state;
    vm_router *r;
    file_case good = {0};
    write_case(&good);
    assert_int_equal(vm_router_load(path, NULL, &r), VMOER_OK);
    vm_router_free(r);

    static const char *const keys[] = {"format",  "version",     "kind",          "layers",  "n_experts",   "dim",
                                       "width",   "prior_scale", "initial_scale", "seed",    "temperature", "base",
                                       "adapter", "base_name",   "adapter_name",  "training"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        file_case missing = {.key = keys[i], .says = keys[i]};
        write_case(&missing);
        assert_int_equal(vm_router_load(path, NULL, &r), VMOER_ERROR_FORMAT);
        assert_null(r);
        assert_non_null(strstr(vm_error_text(), keys[i]));
        assert_non_null(strstr(vm_error_text(), path));
    }
    char long_text[5000];
    memset(long_text, ' ', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    char deep[4001];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    const file_case cases[] = {
        {"format", "vmoer-recipe", .says = "format"},
        {"version", "2", .says = "version"},
        {"kind", "vglr", .says = "kind"},
        {"kind", "a name longer than fifteen", .says = "kind"},
        {"kind", "vglr-fc", .says = "scale.weight"},
        {"kind", "vglr-lr", .says = "rank"},
        {"kind", "vglr-noise", .says = "scale.weight"},
        {"kind", "isotropic", .says = "noise"},
        {"kind", "residual", .says = "6 tensors"},
        {"kind", "expert-sample", .says = "keep_experts"},
        {"kind", "roe", .says = "route_temperature"},
        {"kind", "temperature", .says = "layers"},
        {"layers", "", .says = "layers"},
        {"layers", "{}", .says = "layers"},
        {"layers", "[]", .says = "layers"},
        {"layers", "[2", .says = "layers"},
        {"layers", "[2.5]", .says = "layers"},
        {"layers", "[-1]", .says = "layers"},
        {"layers", "[512]", .says = "layers"},
        {"layers", "[3, 2]", .says = "layers"},
        {"layers", "[2, 2]", .says = "layers"},
        {"layers", "[3]", .says = "layers.3.trunk.weight"},
        {"layers", "[2, 3]", .says = "layers.3.trunk.weight"},
        {"layers", "[99999999999999999999]", .says = "layers"},
        {"layers", deep, .says = "layers"},
        {"n_experts", "0", .says = "n_experts"},
        {"n_experts", "-3", .says = "n_experts"},
        {"n_experts", "", .says = "n_experts"},
        {"n_experts", "3.0", .says = "n_experts"},
        {"n_experts", " 3", .says = "n_experts"},
        {"n_experts", "4097", .says = "n_experts"},
        {"n_experts", "18446744073709551619", .says = "n_experts"},
        {"n_experts", "4", .says = "mean.weight"},
        {"dim", "65537", .says = "dim"},
        {"dim", "5", .says = "trunk.weight"},
        {"width", "4097", .says = "width"},
        {"width", "3", .says = "trunk.weight"},
        {"prior_scale", "0", .says = "prior_scale"},
        {"prior_scale", "-1", .says = "prior_scale"},
        {"prior_scale", "1e300", .says = "prior_scale"},
        {"prior_scale", "nan", .says = "prior_scale"},
        {"prior_scale", "1,2", .says = "prior_scale"},
        {"prior_scale", "\"1\"", .says = "prior_scale"},
        {"prior_scale", "1]", .says = "prior_scale"},
        {"initial_scale", "0", .says = "initial_scale"},
        {"initial_scale", "1e9", .says = "initial_scale"},
        {"initial_scale", "inf", .says = "initial_scale"},
        {"seed", "18446744073709551616", .says = "seed"},
        {"seed", "-1", .says = "seed"},
        {"temperature", "0", .says = "temperature"},
        {"temperature", "1e999", .says = "temperature"},
        {"temperature", long_text, .says = "temperature"},
        {"base", "", .says = "base"},
        {"base", "0123", .says = "base"},
        {"adapter", "0123", .says = "adapter"},
        {"base_name", long_text, .says = "base_name"},
        {"adapter_name", long_text, .says = "adapter_name"},
        {"training", "[]", .says = "training"},
        {"training", "{\"a\": 1", .says = "training"},
        {"training", long_text, .says = "training"},
        {.tensor = "layers.2.mean.weight", .says = "layers.2.mean.weight"},
        {.tensor = "layers.2.scale.bias", .says = "layers.2.scale.bias"},
        {.tensor = "layers.2.mean.weight", .rows = 2, .cols = 3, .says = "layers.2.mean.weight"},
        {.tensor = "layers.2.mean.weight", .rows = 3, .cols = 3, .says = "layers.2.mean.weight"},
        {.tensor = "layers.2.mean.weight", .rows = 3, .cols = 2, .dtype = "F16", .says = "layers.2.mean.weight"},
        {.tensor = "layers.2.trunk.weight", .rows = 2, .cols = 4, .first = INFINITY, .says = "layers.2.trunk.weight"},
        {.tensor = "layers.2.scale.bias", .rows = 1, .cols = 3, .first = NAN, .says = "layers.2.scale.bias"},
        {.tensor = "layers.4.mean.bias", .rows = 1, .cols = 3, .says = "7 tensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_case(&cases[i]);
        if (vm_router_load(path, NULL, &r) == VMOER_OK) fail_msg("case %zu (%s) was taken", i, cases[i].says);
        assert_null(r);
        if (!strstr(vm_error_text(), cases[i].says))
            fail_msg("case %zu: \"%s\" does not say %s", i, vm_error_text(), cases[i].says);
    }
    assert_int_not_equal(vm_router_load("/nonexistent/router", NULL, &r), VMOER_OK);
    assert_null(r);
    assert_int_not_equal(vm_router_load_memory("", 0, "nothing", NULL, &r), VMOER_OK);
    assert_non_null(strstr(vm_error_text(), "nothing"));
}

/* Of the kinds with weights of their own: numbers missing, out of range or another kind's; tensors of another number of
 * members or deviations; a variance below 0. */
static void test_faulty_weights(void **state) {
    (void)state;
    static const struct {
        const char *kind, *rank, *members, *noise; /* NULL: not there */
        int rows, deviations;                      /* of weight, of deviations; 0: none */
        float variance;
        const char *says; /* NULL: a good one */
    } cases[] = {
        {"weights", NULL, NULL, NULL, 3, 0, -1, NULL},
        {"weights", NULL, NULL, NULL, 6, 0, -1, "layers.2.weight: its shape is not [3, 4]"},
        {"mc-dropout", NULL, "2", "0.5", 3, 0, -1, NULL},
        {"mc-dropout", NULL, "2", NULL, 3, 0, -1, "noise"},
        {"mc-dropout", NULL, "2", "0.96", 3, 0, -1, "noise"},
        {"mc-dropout", NULL, "2", "0", 3, 0, -1, "noise"},
        {"mc-dropout", NULL, "65", "0.5", 3, 0, -1, "members"},
        {"ensemble", NULL, "2", NULL, 6, 0, -1, NULL},
        {"ensemble", NULL, "3", NULL, 6, 0, -1, "layers.2.weight: its shape is not [9, 4]"},
        {"ensemble", NULL, NULL, NULL, 6, 0, -1, "members"},
        {"ensemble", NULL, "0", NULL, 6, 0, -1, "members"},
        {"swag", "2", "5", NULL, 3, 6, 0, NULL},
        {"swag", "1", "5", NULL, 3, 3, 0, "rank"},
        {"swag", "65", "5", NULL, 3, 195, 0, "rank"},
        {"swag", NULL, "5", NULL, 3, 6, 0, "rank"},
        {"swag", "3", "5", NULL, 3, 6, 0, "layers.2.deviations: its shape is not [9, 4]"},
        {"swag", "2", "5", NULL, 3, 0, 0, "layers.2.deviations: missing"},
        {"swag", "2", "5", NULL, 3, 6, -1, "layers.2.mean: missing"},
        {"swag", "2", "5", NULL, 3, 6, -2, "layers.2.variance: element 1 is -2, below 0"},
        {"swag", "2", "5", NULL, 3, 6, NAN, "layers.2.variance"},
        {"weights", NULL, NULL, NULL, 3, 6, 0, "4 tensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const metadata[][2] = {{"format", "vmoer-router"},
                                           {"version", "1"},
                                           {"kind", cases[i].kind},
                                           {"layers", "[2]"},
                                           {"n_experts", "3"},
                                           {"dim", "4"},
                                           {"width", "0"},
                                           {"prior_scale", "1"},
                                           {"initial_scale", "0.25"},
                                           {"seed", "0"},
                                           {"temperature", "1"},
                                           {"base", BASE},
                                           {"adapter", ""},
                                           {"base_name", "m"},
                                           {"adapter_name", ""},
                                           {"training", "{}"},
                                           {"rank", cases[i].rank},
                                           {"members", cases[i].members},
                                           {"noise", cases[i].noise}};
        static float zeros[1024];
        float variance[12] = {1, cases[i].variance};
        vm_st_writer *w = vm_st_writer_create();
        for (size_t k = 0; k < sizeof metadata / sizeof *metadata; k++)
            if (metadata[k][1]) assert_int_equal(vm_st_writer_metadata(w, metadata[k][0], metadata[k][1]), VMOER_OK);
        const struct {
            const char *name;
            int rows;
            const float *data;
        } tensors[] = {{"layers.2.weight", cases[i].rows, zeros},
                       {"layers.2.mean", cases[i].variance == -1 ? 0 : 3, zeros},
                       {"layers.2.variance", cases[i].variance == -1 ? 0 : 3, variance},
                       {"layers.2.deviations", cases[i].deviations, zeros}};
        for (size_t k = 0; k < sizeof tensors / sizeof *tensors; k++)
            if (tensors[k].rows)
                assert_int_equal(
                    vm_st_writer_f32(w, tensors[k].name, "F32", 2, (int64_t[2]){tensors[k].rows, 4}, tensors[k].data),
                    VMOER_OK);
        assert_int_equal(vm_st_writer_save(w, path), VMOER_OK);
        vm_st_writer_free(w);
        vm_router *r;
        vmoer_status status = vm_router_load(path, NULL, &r);
        if (!cases[i].says && status != VMOER_OK) fail_msg("case %zu: %s", i, vm_error_text());
        if (cases[i].says && status == VMOER_OK) fail_msg("case %zu (%s) was taken", i, cases[i].says);
        if (cases[i].says && !strstr(vm_error_text(), cases[i].says))
            fail_msg("case %zu: \"%s\" does not say %s", i, vm_error_text(), cases[i].says);
        vm_router_free(r);
    }
}

/* A file of the right base and adapter whose sizes are not the model's. */
static void test_sizes_of_another_model(void **state) {
    (void)state;
    vm_model model = {.config = {.n_layers = 4, .n_experts = 4, .dim = 6}};
    vm_router_file info = make_info();
    strcpy(model.fingerprint, BASE);
    for (int change = 0; change < 4; change++) {
        vm_router_config config = one_layer("vglr-mf");
        if (change == 1) config.layers[0] = 4;
        if (change == 2) config.n_experts = 5;
        if (change == 3) config.dim = 7;
        vm_router *r;
        assert_int_equal(vm_router_create(&config, &r), VMOER_OK);
        assert_int_equal(vm_check_router(path, r, &info, &model, "", ""), change ? VMOER_ERROR_MISMATCH : VMOER_OK);
        if (change) assert_non_null(strstr(vm_error_text(), "the model has routers in layers 0 to 3, 4 experts, dimension 6"));
        if (change == 1) assert_non_null(strstr(vm_error_text(), "layer 4, "));
        vm_router_free(r);
    }
}

/* Every prefix of a good file is refused. */
static void test_truncated_files(void **state) {
    (void)state;
    file_case good = {0};
    write_case(&good);
    vm_map map;
    vm_router *r;
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    for (size_t size = 0; size < map.size; size++) {
        void *copy = malloc(size ? size : 1);
        memcpy(copy, map.data, size);
        assert_int_not_equal(vm_router_load_memory(copy, size, "cut", NULL, &r), VMOER_OK);
        assert_null(r);
        free(copy);
    }
    vm_map_close(&map);
}

static void test_saving_refuses(void **state) {
    (void)state;
    vm_router_config config = one_layer("residual");
    vm_router *r;
    assert_int_equal(vm_router_create(&config, &r), VMOER_OK);
    vm_router_file info = make_info();
    unlink(path);
    assert_int_equal(vm_router_save(r, NULL, path), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), path));
    strcpy(info.base, "short");
    assert_int_not_equal(vm_router_save(r, &info, path), VMOER_OK);
    info = make_info();
    memset(info.training, ' ', sizeof info.training);
    assert_int_equal(vm_router_save(r, &info, path), VMOER_ERROR_ARGUMENT);
    info = make_info();
    vm_router_params(r).items[2]->value[5] = NAN;
    assert_int_equal(vm_router_save(r, &info, path), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "layers.3.mean.weight"));
    vm_router_params(r).items[2]->value[5] = 0;
    vm_router_set_temperature(r, NAN);
    assert_int_equal(vm_router_save(r, &info, path), VMOER_ERROR_LIMIT);
    assert_false(vm_file_exists(path));
    vm_router_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_a_loaded_router_infers_the_same),
        cmocka_unit_test(test_faulty_files),   cmocka_unit_test(test_sizes_of_another_model),
        cmocka_unit_test(test_faulty_weights), cmocka_unit_test(test_truncated_files),
        cmocka_unit_test(test_saving_refuses),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
