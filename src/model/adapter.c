/* adapter.c: LoRA adapters as PEFT stores them. The contract is adapter.h; the layout was learnt from PEFT 0.21
 * (docs/ORACLES.md):
 *
 *   base_model.model.<module>.lora_A.weight [r, in], .lora_B.weight [rows, r]      W += s B A
 *   s = alpha / r (use_rslora: alpha / sqrt(r)); a key of rank_pattern, alpha_pattern that matches replaces r, alpha
 *
 * Routers and routed experts are bare parameters in transformers 5, not modules, and PEFT reaches them by
 * target_parameters: `bare` knows them. A stack of N experts has one pair, A [N r, in] with experts outermost and B
 * [rows, r N] with experts innermost. */
#include "model/adapter.h"

#include "base/dtype.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/safetensors.h"

#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = 4096, MAX_NAME = 256 };

static const char weights_file[] = "adapter_model.safetensors", config_file[] = "adapter_config.json";
static const char prefix[] = "base_model.model.", suffix_a[] = ".lora_A.weight", suffix_b[] = ".lora_B.weight";
static const char base_key[] = "vmoer.base_fingerprint";
static const char config_key[] = "adapter_config"; /* metadata, where a file holds an adapter among other tensors */

/* One lora_A/lora_B pair. */
typedef struct pair {
    const vm_st_tensor *a, *b;
    vm_dtype a_type, b_type;
    atomic_bool used; /* merges of different modules may run at once */
} pair;

struct vm_adapter {
    char *name;
    char fingerprint[65];
    vm_safetensors *file;
    json_t *config;
    int rank;
    double alpha;
    bool rslora;
    pair *pairs; /* [n_pairs], by the name of A */
    size_t n_pairs;
};

/* ---- names ---- */

/* What we call a module and is a bare parameter. Two parameters of one container nest their adapters in the order the
 * container defines them: the first one's are under base_layer when `outer` is a target too. */
static const struct {
    const char *module, *container, *parameter, *outer;
} bare[] = {
    {"experts.gate_up_proj", "experts", "gate_up_proj", "down_proj"},
    {"experts.down_proj", "experts", "down_proj", NULL},
    {"block_sparse_moe.router", "block_sparse_moe.router", "weight", NULL},
    {"mlp.gate", "mlp.gate", "weight", NULL},
};
enum { N_BARE = sizeof bare / sizeof bare[0] };

/* How PEFT knows a module. */
typedef struct peft_name {
    int bare;             /* index in `bare`, -1: an ordinary module */
    int layer;            /* length of what precedes the name in its layer: "model.layers.3." */
    char stem[MAX_NAME];  /* tensors are stem + ".lora_A.weight" */
    char key[MAX_NAME];   /* what targets and patterns are matched against */
    char outer[MAX_NAME]; /* key of the parameter that nests this one; "" if none */
} peft_name;

/* `text` ends with `end`, at its start or after a dot. */
static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return m > 0 && m <= n && strcmp(text + n - m, end) == 0 && (m == n || text[n - m - 1] == '.');
}

/* Length of "model.layers.3." in front of a name; 0 if it is not that of a layer. */
static int layer_part(const char *module) {
    int length = 0;
    sscanf(module, "model.layers.%*d.%n", &length);
    return length;
}

/* The name of a module whose nesting is not yet decided. */
static vmoer_status name_module(const char *module, peft_name *out) {
    *out = (peft_name){.bare = -1, .layer = layer_part(module)};
    /* Room for what is added to either name. */
    if (strlen(module) > MAX_NAME - 64)
        return vm_error(VMOER_ERROR_LIMIT, "module name of %zu bytes is too long", strlen(module));
    for (int i = 0; i < N_BARE; i++)
        if (ends_with(module, bare[i].module)) out->bare = i;
    if (out->bare < 0) {
        snprintf(out->stem, sizeof out->stem, "%s%s", prefix, module);
        snprintf(out->key, sizeof out->key, "%s", module);
        return VMOER_OK;
    }
    int parent = (int)(strlen(module) - strlen(bare[out->bare].module));
    const char *container = bare[out->bare].container;
    snprintf(out->stem, sizeof out->stem, "%s%.*s%s", prefix, parent, module, container);
    snprintf(out->key, sizeof out->key, "%.*s%s.%s", parent, module, container, bare[out->bare].parameter);
    if (bare[out->bare].outer)
        snprintf(out->outer, sizeof out->outer, "%.*s%s.%s", parent, module, container, bare[out->bare].outer);
    return VMOER_OK;
}

static void name_nest(peft_name *name) {
    size_t length = strlen(name->stem);
    snprintf(name->stem + length, sizeof name->stem - length, ".base_layer");
}

/* ---- reading: configuration ---- */

static vmoer_status config_error(const char *key, const char *what) {
    return vm_error(VMOER_ERROR_FORMAT, "%s: \"%s\" %s", config_file, key, what);
}

/* null, false, "", [] and {}: what PEFT writes for a feature that is off. */
static bool is_off(const json_t *value) {
    return !value || json_is_null(value) || json_is_false(value) ||
           (json_is_string(value) && !json_string_length(value)) || (json_is_array(value) && !json_array_size(value)) ||
           (json_is_object(value) && !json_object_size(value));
}

/* Features that change what an adapter computes, or train more than A and B. */
static vmoer_status check_features(const json_t *config) {
    static const char *const refused[] = {
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "modules_to_save",
        "layer_replication",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
        "corda_config",
        "lora_ga_config",
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (!is_off(json_object_get(config, refused[i])))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"%s\" is set; only plain LoRA is supported", config_file,
                            refused[i]);
    const json_t *bias = json_object_get(config, "bias");
    if (bias && !json_is_null(bias) && (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"bias\" is not \"none\"; only plain LoRA is supported",
                        config_file);
    /* The others change the base weights too, so that A and B alone do not say what was learnt. */
    const json_t *init = json_object_get(config, "init_lora_weights");
    const char *text = json_string_value(init);
    if (init && !json_is_null(init) && !json_is_boolean(init) &&
        !(text && (strcmp(text, "gaussian") == 0 || strcmp(text, "orthogonal") == 0 || strcmp(text, "eva") == 0)))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"init_lora_weights\" is %.32s, which changes the base weights",
                        config_file, text ? text : "neither a boolean nor a name");
    return VMOER_OK;
}

static vmoer_status check_rank(const char *key, const json_t *value) {
    if (!json_is_integer(value)) return config_error(key, "is not an integer");
    json_int_t rank = json_integer_value(value);
    if (rank < 1 || rank > MAX_RANK)
        return vm_error(VMOER_ERROR_LIMIT, "%s: \"%s\": rank %lld is outside 1..%d", config_file, key, (long long)rank,
                        MAX_RANK);
    return VMOER_OK;
}

static vmoer_status check_alpha(const char *key, const json_t *value) {
    if (!json_is_number(value)) return config_error(key, "is not a number");
    return fabs(json_number_value(value)) <= 1e9 ? VMOER_OK : config_error(key, "is no sensible scale");
}

/* Keys of a pattern are regular expressions to PEFT, but in practice names or endings of names; anything else is
 * refused, since a pattern read wrongly would scale weights wrongly. A leading ^ asks for the whole name. */
static vmoer_status check_pattern(const json_t *config, const char *name,
                                  vmoer_status (*check)(const char *, const json_t *)) {
    json_t *pattern = json_object_get(config, name);
    if (is_off(pattern)) return VMOER_OK;
    if (!json_is_object(pattern)) return config_error(name, "is not an object");
    const char *key;
    json_t *value;
    json_object_foreach(pattern, key, value) {
        const char *plain = key + (key[0] == '^');
        if (!*plain || strpbrk(plain, "^$*+?()[]{}|\\"))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"%s\": \"%.80s\" is not a plain name", config_file, name,
                            key);
        VM_TRY_IN(check(key, value), "%s", name);
    }
    return VMOER_OK;
}

static vmoer_status parse_config(vm_adapter *a) {
    const json_t *config = a->config;
    if (!json_is_object(config)) return vm_error(VMOER_ERROR_FORMAT, "%s: not an object", config_file);
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    if (!type) return config_error("peft_type", "is not a string");
    if (strcmp(type, "LORA") != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"peft_type\" is \"%.32s\", not \"LORA\"", config_file, type);
    VM_TRY(check_features(config));

    const json_t *rank = json_object_get(config, "r"), *alpha = json_object_get(config, "lora_alpha");
    const json_t *rslora = json_object_get(config, "use_rslora"),
                 *targets = json_object_get(config, "target_parameters");
    VM_TRY(check_rank("r", rank));
    VM_TRY(check_alpha("lora_alpha", alpha));
    VM_TRY(check_pattern(config, "rank_pattern", check_rank));
    VM_TRY(check_pattern(config, "alpha_pattern", check_alpha));
    if (!is_off(rslora) && !json_is_true(rslora)) return config_error("use_rslora", "is not a boolean");
    if (!is_off(targets)) {
        size_t i;
        json_t *target;
        if (!json_is_array(targets)) return config_error("target_parameters", "is not an array");
        json_array_foreach(targets, i, target) {
            if (!json_is_string(target)) return config_error("target_parameters", "holds what is not a string");
        }
    }
    a->rank = (int)json_integer_value(rank);
    a->alpha = json_number_value(alpha);
    a->rslora = json_is_true(rslora);
    return VMOER_OK;
}

static bool is_target_parameter(const vm_adapter *a, const char *key) {
    size_t i;
    json_t *target;
    json_array_foreach(json_object_get(a->config, "target_parameters"), i, target) {
        if (ends_with(key, json_string_value(target))) return true;
    }
    return false;
}

/* The pattern's value for a key; the first match counts, as in PEFT. NULL: none. */
static const json_t *find_pattern(const vm_adapter *a, const char *name, const char *key) {
    const char *pattern;
    json_t *value;
    json_object_foreach(json_object_get(a->config, name), pattern, value) {
        if (pattern[0] == '^' ? strcmp(key, pattern + 1) == 0 : ends_with(key, pattern)) return value;
    }
    return NULL;
}

/* ---- reading: weights ---- */

static bool float_type(const char *dtype, vm_dtype *out) {
    static const vm_dtype known[] = {VM_F32, VM_F16, VM_BF16};
    for (int i = 0; i < 3; i++)
        if (strcmp(vm_dtype_name(known[i]), dtype) == 0) return *out = known[i], true;
    return false;
}

static vmoer_status check_tensor(const vm_st_tensor *t, vm_dtype *type) {
    if (!float_type(t->dtype, type))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%.200s\" is %s; F32, F16 and BF16 are supported", t->name,
                        t->dtype);
    if (t->n_dims != 2)
        return vm_error(VMOER_ERROR_FORMAT, "tensor \"%.200s\" has %d dimensions, not 2", t->name, t->n_dims);
    for (int i = 0; i < 2; i++)
        if (t->shape[i] < 1 || t->shape[i] > INT_MAX)
            return vm_error(VMOER_ERROR_LIMIT, "tensor \"%.200s\" has a dimension of %lld", t->name,
                            (long long)t->shape[i]);
    return VMOER_OK;
}

static const vm_st_tensor *partner(const vm_safetensors *file, const char *name, const char *from, const char *to) {
    char other[2 * MAX_NAME];
    int stem = (int)(strlen(name) - strlen(from));
    int length = snprintf(other, sizeof other, "%.*s%s", stem, name, to);
    return length > 0 && (size_t)length < sizeof other ? vm_safetensors_find(file, other) : NULL;
}

static int by_name(const void *x, const void *y) {
    return strcmp(((const pair *)x)->a->name, ((const pair *)y)->a->name);
}

/* within: the file holds other tensors too, which are passed over. */
static vmoer_status pair_tensors(vm_adapter *a, bool within) {
    size_t n = vm_safetensors_count(a->file);
    a->pairs = vm_calloc(n + 1, sizeof *a->pairs);
    if (!a->pairs) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const vm_st_tensor *t = vm_safetensors_at(a->file, i);
        if (within && strncmp(t->name, prefix, strlen(prefix)) != 0) continue;
        /* The suffixes begin with a dot, which ends_with wants in front of what it is given. */
        bool is_a = ends_with(t->name, suffix_a + 1), is_b = ends_with(t->name, suffix_b + 1);
        if (strncmp(t->name, prefix, strlen(prefix)) != 0 || (!is_a && !is_b))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%.200s\" is neither lora_A nor lora_B of a module",
                            t->name);
        const vm_st_tensor *other =
            is_a ? partner(a->file, t->name, suffix_a, suffix_b) : partner(a->file, t->name, suffix_b, suffix_a);
        if (!other)
            return vm_error(VMOER_ERROR_FORMAT, "tensor \"%.200s\" has no %s beside it", t->name,
                            is_a ? "lora_B" : "lora_A");
        if (!is_a) continue;
        pair *p = &a->pairs[a->n_pairs];
        p->a = t;
        p->b = other;
        VM_TRY(check_tensor(p->a, &p->a_type));
        VM_TRY(check_tensor(p->b, &p->b_type));
        if (t->shape[0] != other->shape[1])
            return vm_error(VMOER_ERROR_FORMAT, "tensor \"%.200s\" has %lld rows, lora_B beside it %lld columns",
                            t->name, (long long)t->shape[0], (long long)other->shape[1]);
        a->n_pairs++;
    }
    if (!a->n_pairs) return vm_error(VMOER_ERROR_FORMAT, "no tensors");
    qsort(a->pairs, a->n_pairs, sizeof *a->pairs, by_name);
    return VMOER_OK;
}

static vmoer_status take_name(vm_adapter *a, const char *dir) {
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && dir[begin - 1] != '/') begin--;
    a->name = vm_strndup(dir + begin, end - begin);
    return a->name ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "out of memory");
}

static vmoer_status open_files(vm_adapter *a, const char *dir) {
    char path[PATH_MAX];
    VM_TRY(take_name(a, dir));
    VM_TRY(vm_path_join(path, sizeof path, dir, config_file));
    VM_TRY(vm_json_load(path, &a->config));
    VM_TRY_IN(parse_config(a), "%s", dir);
    VM_TRY(vm_path_join(path, sizeof path, dir, weights_file));
    VM_TRY(vm_safetensors_open(path, &a->file));
    VM_TRY_IN(pair_tensors(a, false), "%s", path);
    return vm_sha256_file(path, a->fingerprint);
}

static vmoer_status open_within(vm_adapter *a, const char *path) {
    VM_TRY(take_name(a, path));
    VM_TRY(vm_safetensors_open(path, &a->file));
    const char *text = vm_safetensors_metadata(a->file, config_key);
    if (!text) return VMOER_OK;
    VM_TRY_IN(vm_json_parse(text, strlen(text), config_key, &a->config), "%s: __metadata__", path);
    VM_TRY_IN(parse_config(a), "%s: __metadata__", path);
    VM_TRY_IN(pair_tensors(a, true), "%s", path);
    return vm_sha256_file(path, a->fingerprint);
}

/* An adapter without a configuration is none. */
static vmoer_status open_by(vmoer_status (*fill)(vm_adapter *a, const char *path), const char *path, vm_adapter **out) {
    *out = NULL;
    vm_adapter *a = vm_calloc(1, sizeof *a);
    if (!a) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status = fill(a, path);
    if (status == VMOER_OK && a->config)
        *out = a;
    else
        vm_adapter_free(a);
    return status;
}

vmoer_status vm_adapter_open(const char *dir, vm_adapter **out) { return open_by(open_files, dir, out); }

vmoer_status vm_adapter_open_within(const char *path, vm_adapter **out) { return open_by(open_within, path, out); }

void vm_adapter_free(vm_adapter *a) {
    if (!a) return;
    vm_free(a->name);
    vm_free(a->pairs);
    vm_safetensors_free(a->file);
    json_decref(a->config);
    vm_free(a);
}

const char *vm_adapter_name(const vm_adapter *a) { return a->name; }

const char *vm_adapter_fingerprint(const vm_adapter *a) { return a->fingerprint; }

const char *vm_adapter_base(const vm_adapter *a) {
    const char *base = vm_safetensors_metadata(a->file, base_key);
    return base ? base : "";
}

/* ---- merging ---- */

static pair *find_stem(const vm_adapter *a, const char *stem) {
    char name[MAX_NAME + 16];
    snprintf(name, sizeof name, "%s%s", stem, suffix_a);
    vm_st_tensor tensor = {.name = name};
    pair wanted = {.a = &tensor};
    return bsearch(&wanted, a->pairs, a->n_pairs, sizeof *a->pairs, by_name);
}

/* The pair of a module, NULL if the adapter has none, and the scale and rank of it. */
static vmoer_status find_pair(const vm_adapter *a, const char *module, pair **out, int *rank, float *scale) {
    peft_name name;
    VM_TRY(name_module(module, &name));
    *out = NULL;
    if (name.bare >= 0 && !is_target_parameter(a, name.key)) return VMOER_OK;
    if (*name.outer && is_target_parameter(a, name.outer)) name_nest(&name);
    *out = find_stem(a, name.stem);
    if (!*out) return VMOER_OK;
    const json_t *rank_value = find_pattern(a, "rank_pattern", name.key),
                 *alpha_value = find_pattern(a, "alpha_pattern", name.key);
    *rank = rank_value ? (int)json_integer_value(rank_value) : a->rank;
    double alpha = alpha_value ? json_number_value(alpha_value) : a->alpha;
    *scale = (float)(alpha / (a->rslora ? sqrt(*rank) : *rank));
    return VMOER_OK;
}

static vmoer_status check_shape(const vm_st_tensor *t, int64_t rows, int64_t columns) {
    if (t->shape[0] == rows && t->shape[1] == columns) return VMOER_OK;
    return vm_error(VMOER_ERROR_MISMATCH,
                    "adapter tensor \"%.200s\" is [%lld, %lld], the model and its rank need [%lld, %lld]", t->name,
                    (long long)t->shape[0], (long long)t->shape[1], (long long)rows, (long long)columns);
}

/* n elements from element `at` on; all must be finite. */
static vmoer_status read_elements(const vm_st_tensor *t, vm_dtype type, size_t at, size_t n, float *out) {
    size_t elements, bytes;
    vm_dtype_block(type, &elements, &bytes);
    vm_dequantize(type, t->data + at * bytes, n, out);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(out[i]))
            return vm_error(VMOER_ERROR_NUMERIC, "adapter tensor \"%.200s\": element %zu is not finite", t->name,
                            at + i);
    return VMOER_OK;
}

/* w += scale * B A with expert `expert`'s A and B out of a stack of `n`. Plain loops in one order: a merged model is
 * the same on every machine. */
static vmoer_status merge(const pair *p, int expert, int n, int rank, float scale, int rows, int in, float *w) {
    size_t width = (size_t)in;
    float *a = vm_malloc((size_t)rank * width, sizeof *a), *delta = vm_malloc(width, sizeof *delta);
    vmoer_status status = VMOER_OK;
    if (!a || !delta) {
        status = vm_error(VMOER_ERROR_MEMORY, "adapter tensor \"%.200s\": out of memory", p->a->name);
        goto done;
    }
    VM_GOTO(read_elements(p->a, p->a_type, (size_t)expert * (size_t)rank * width, (size_t)rank * width, a));
    for (size_t o = 0; o < (size_t)rows; o++) {
        memset(delta, 0, width * sizeof *delta);
        for (size_t j = 0; j < (size_t)rank; j++) {
            float b;
            VM_GOTO(read_elements(p->b, p->b_type, (o * (size_t)rank + j) * (size_t)n + (size_t)expert, 1, &b));
            for (size_t i = 0; i < width; i++) delta[i] += b * a[j * width + i];
        }
        for (size_t i = 0; i < width; i++) w[o * width + i] += scale * delta[i];
    }
done:
    vm_free(a);
    vm_free(delta);
    return status;
}

vmoer_status vm_adapter_merge(vm_adapter *a, const char *module, int rows, int in, float *w) {
    return vm_adapter_merge_expert(a, module, 0, 1, rows, in, w);
}

vmoer_status vm_adapter_merge_expert(vm_adapter *a, const char *module, int expert, int n_experts, int rows, int in,
                                     float *w) {
    pair *p;
    int rank;
    float scale;
    VM_TRY(find_pair(a, module, &p, &rank, &scale));
    if (!p) return VMOER_OK;
    VM_TRY(check_shape(p->a, (int64_t)rank * n_experts, in));
    VM_TRY(check_shape(p->b, rows, (int64_t)rank * n_experts));
    atomic_store_explicit(&p->used, true, memory_order_relaxed);
    return merge(p, expert, n_experts, rank, scale, rows, in, w);
}

vmoer_status vm_adapter_check_used(const vm_adapter *a) {
    for (size_t i = 0; i < a->n_pairs; i++)
        if (!atomic_load_explicit(&a->pairs[i].used, memory_order_relaxed))
            return vm_error(VMOER_ERROR_MISMATCH, "adapter %s: the model has no place for tensor \"%.200s\"", a->name,
                            a->pairs[i].a->name);
    return VMOER_OK;
}

/* ---- writing ---- */

static bool holds(const json_t *array, const char *text) {
    size_t i;
    json_t *value;
    json_array_foreach(array, i, value) {
        if (strcmp(json_string_value(value), text) == 0) return true;
    }
    return false;
}

static vmoer_status add_once(json_t *array, const char *text) {
    if (holds(array, text) || json_array_append_new(array, json_string(text)) == 0) return VMOER_OK;
    return vm_error(VMOER_ERROR_MEMORY, "out of memory");
}

static vmoer_status check_values(const char *name, const float *values, size_t n, float largest) {
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(values[i]) <= largest))
            return vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu (%g) cannot be stored", name, i, (double)values[i]);
    return VMOER_OK;
}

/* The tensors of a module. Experts are stacked as in the head comment; a plain module is a stack of one. */
static vmoer_status put_module(vm_st_writer *w, const char *stem, const char *dtype, const vm_adapter_module *m) {
    size_t n = m->n_experts ? (size_t)m->n_experts : 1, rank = (size_t)m->rank, in = (size_t)m->in,
           rows = (size_t)m->rows;
    float largest = strcmp(dtype, "F16") == 0 ? 65504.0f : 3.4028235e38f;
    char name_a[MAX_NAME + 16], name_b[MAX_NAME + 16];
    snprintf(name_a, sizeof name_a, "%s%s", stem, suffix_a);
    snprintf(name_b, sizeof name_b, "%s%s", stem, suffix_b);
    float *a = vm_malloc(n * rank * in, sizeof *a), *b = vm_malloc(rows * rank * n, sizeof *b);
    vmoer_status status;
    if (!a || !b) {
        status = vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", name_a);
        goto done;
    }
    for (size_t e = 0; e < n; e++) {
        memcpy(a + e * rank * in, m->a[e], rank * in * sizeof *a);
        for (size_t i = 0; i < rows * rank; i++) b[i * n + e] = m->b[e][i];
    }
    VM_GOTO(check_values(name_a, a, n * rank * in, largest));
    VM_GOTO(check_values(name_b, b, rows * rank * n, largest));
    VM_GOTO(vm_st_writer_f32(w, name_a, dtype, 2, (const int64_t[]){(int64_t)(n * rank), m->in}, a));
    VM_GOTO(vm_st_writer_f32(w, name_b, dtype, 2, (const int64_t[]){m->rows, (int64_t)(rank * n)}, b));
done:
    vm_free(a);
    vm_free(b);
    return status;
}

/* Targets are endings without the layer's number, as people write them. modules: names of modules; parameters: of bare
 * parameters. */
static vmoer_status collect_targets(const vm_adapter_info *info, const vm_adapter_module *modules, int n,
                                    json_t *targets, json_t *parameters, json_t *ranks) {
    for (int i = 0; i < n; i++) {
        peft_name name;
        VM_TRY(name_module(modules[i].module, &name));
        if (modules[i].n_experts > 0 && name.bare < 0)
            return vm_error(VMOER_ERROR_ARGUMENT, "%s: not known as a stack of experts", modules[i].module);
        VM_TRY(add_once(name.bare >= 0 ? parameters : targets, name.key + name.layer));
        if (modules[i].rank != info->rank && json_object_set_new(ranks, name.key, json_integer(modules[i].rank)) != 0)
            return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    }
    return VMOER_OK;
}

static vmoer_status put_modules(vm_st_writer *w, const vm_adapter_info *info, const vm_adapter_module *modules, int n,
                                const json_t *parameters) {
    for (int i = 0; i < n; i++) {
        peft_name name;
        VM_TRY(name_module(modules[i].module, &name));
        /* PEFT nests by the targets, which hold for all layers. */
        if (*name.outer && holds(parameters, name.outer + name.layer)) name_nest(&name);
        VM_TRY(put_module(w, name.stem, info->dtype, &modules[i]));
    }
    return VMOER_OK;
}

static vmoer_status save_weights(const char *dir, const vm_adapter_info *info, const vm_adapter_module *modules, int n,
                                 const json_t *parameters) {
    char path[PATH_MAX];
    VM_TRY(vm_path_join(path, sizeof path, dir, weights_file));
    vm_st_writer *w = vm_st_writer_create();
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status;
    VM_GOTO(vm_st_writer_metadata(w, "format", "pt")); /* transformers wants it */
    VM_GOTO(vm_st_writer_metadata(w, base_key, info->base_fingerprint));
    VM_GOTO(put_modules(w, info, modules, n, parameters));
    VM_GOTO(vm_st_writer_save(w, path));
done:
    vm_st_writer_free(w);
    return status;
}

/* Takes no reference to its arguments. */
static vmoer_status make_config(const vm_adapter_info *info, json_t *targets, json_t *parameters, json_t *ranks,
                                json_t **out) {
    /* Integral for readers that take an integer only. */
    json_t *alpha = info->alpha == rint(info->alpha) && fabs(info->alpha) < 1e9 ? json_integer((json_int_t)info->alpha)
                                                                                : json_real(info->alpha);
    *out =
        json_pack("{s:s, s:s, s:s, s:s, s:i, s:o, s:f, s:b, s:b, s:b, s:b, s:b, s:O, s:O, s:O, s:{}, s:n}", "peft_type",
                  "LORA", "task_type", "CAUSAL_LM", "bias", "none", "base_model_name_or_path", info->base_name, "r",
                  info->rank, "lora_alpha", alpha, "lora_dropout", 0.0, "inference_mode", 1, "init_lora_weights", 1,
                  "fan_in_fan_out", 0, "use_rslora", 0, "use_dora", 0, "target_modules", targets, "target_parameters",
                  parameters, "rank_pattern", ranks, "alpha_pattern", "modules_to_save");
    return *out ? VMOER_OK
                : vm_error(VMOER_ERROR_ARGUMENT, "%s: no memory, or the base model's name is not UTF-8", config_file);
}

/* The configuration and, borrowed from it, the list of bare parameters. */
static vmoer_status describe(const vm_adapter_info *info, const vm_adapter_module *modules, int n, json_t **config,
                             const json_t **parameters) {
    json_t *targets = json_array(), *bare_targets = json_array(), *ranks = json_object();
    vmoer_status status = targets && bare_targets && ranks
                              ? collect_targets(info, modules, n, targets, bare_targets, ranks)
                              : vm_error(VMOER_ERROR_MEMORY, "out of memory");
    if (status == VMOER_OK) status = make_config(info, targets, bare_targets, ranks, config);
    json_decref(targets);
    json_decref(bare_targets);
    json_decref(ranks);
    if (status == VMOER_OK) *parameters = json_object_get(*config, "target_parameters");
    return status;
}

vmoer_status vm_adapter_put(vm_st_writer *w, const vm_adapter_info *info, const vm_adapter_module *modules, int n) {
    json_t *config;
    const json_t *parameters;
    VM_TRY(describe(info, modules, n, &config, &parameters));
    char *text = vm_json_line(config);
    vmoer_status status = text ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "out of memory");
    if (status == VMOER_OK) status = vm_st_writer_metadata(w, config_key, text);
    if (status == VMOER_OK) status = put_modules(w, info, modules, n, parameters);
    free(text);
    json_decref(config);
    return status;
}

vmoer_status vm_adapter_save(const char *dir, const vm_adapter_info *info, const vm_adapter_module *modules, int n) {
    char path[PATH_MAX];
    json_t *config;
    const json_t *parameters;
    VM_TRY(vm_path_join(path, sizeof path, dir, config_file));
    VM_TRY_IN(describe(info, modules, n, &config, &parameters), "%s", dir);
    vmoer_status status = vm_make_dirs(dir);
    if (status == VMOER_OK) status = save_weights(dir, info, modules, n, parameters);
    if (status == VMOER_OK) status = vm_json_save(path, config);
    json_decref(config);
    return status;
}
