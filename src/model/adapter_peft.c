/* adapter_peft.c: LoRA adapters as PEFT stores them; learnt from PEFT 0.21 (docs/ORACLES.md):
 *
 *   base_model.model.<module>.lora_A.weight [r, in], .lora_B.weight [rows, r]      W += s B A
 *   s = alpha / r (use_rslora: alpha / sqrt(r)); a key of rank_pattern, alpha_pattern that matches replaces r, alpha
 *
 * `bare` knows the parameters that PEFT reaches by target_parameters. A stack of N experts has one pair, A [N r, in]
 * with experts outermost and B [rows, r N] with experts innermost. */
#include "model/adapter_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char vm_peft_weights_file[] = "adapter_model.safetensors", vm_peft_config_file[] = "adapter_config.json";
const char vm_peft_suffix_a[] = ".lora_A.weight", vm_peft_suffix_b[] = ".lora_B.weight";
const char vm_peft_base_key[] = "vmoer.base_fingerprint", vm_peft_config_key[] = "adapter_config";
static const char prefix[] = "base_model.model.";

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
    {"mlp.router", "mlp.router", "weight", NULL},
};
enum { N_BARE = sizeof bare / sizeof bare[0] };

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

vmoer_status vm_peft_name_module(const char *module, vm_peft_name *out) {
    int known = -1;
    *out = (vm_peft_name){.layer = layer_part(module)};
    /* Room for what is added to either name. */
    if (strlen(module) > VM_PEFT_MAX_NAME - 64)
        return vm_error(VMOER_ERROR_LIMIT, "module name of %zu bytes is too long", strlen(module));
    for (int i = 0; i < N_BARE; i++)
        if (ends_with(module, bare[i].module)) known = i;
    out->bare = known >= 0;
    if (!out->bare) {
        snprintf(out->stem, sizeof out->stem, "%s%s", prefix, module);
        snprintf(out->key, sizeof out->key, "%s", module);
        return VMOER_OK;
    }
    int parent = (int)(strlen(module) - strlen(bare[known].module));
    const char *container = bare[known].container;
    snprintf(out->stem, sizeof out->stem, "%s%.*s%s", prefix, parent, module, container);
    snprintf(out->key, sizeof out->key, "%.*s%s.%s", parent, module, container, bare[known].parameter);
    if (bare[known].outer)
        snprintf(out->outer, sizeof out->outer, "%.*s%s.%s", parent, module, container, bare[known].outer);
    return VMOER_OK;
}

void vm_peft_name_nest(vm_peft_name *name) {
    size_t length = strlen(name->stem);
    snprintf(name->stem + length, sizeof name->stem - length, ".base_layer");
}

/* ---- reading: configuration ---- */

static vmoer_status config_error(const char *key, const char *what) {
    return vm_error(VMOER_ERROR_FORMAT, "%s: \"%s\" %s", vm_peft_config_file, key, what);
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
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"%s\" is set; only plain LoRA is supported",
                            vm_peft_config_file, refused[i]);
    const json_t *bias = json_object_get(config, "bias");
    if (bias && !json_is_null(bias) && (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"bias\" is not \"none\"; only plain LoRA is supported",
                        vm_peft_config_file);
    /* The others change the base weights too, so that A and B alone do not say what was learnt. */
    const json_t *init = json_object_get(config, "init_lora_weights");
    const char *text = json_string_value(init);
    if (init && !json_is_null(init) && !json_is_boolean(init) &&
        !(text && (strcmp(text, "gaussian") == 0 || strcmp(text, "orthogonal") == 0 || strcmp(text, "eva") == 0)))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"init_lora_weights\" is %.32s, which changes the base weights",
                        vm_peft_config_file, text ? text : "neither a boolean nor a name");
    return VMOER_OK;
}

static vmoer_status check_rank(const char *key, const json_t *value) {
    if (!json_is_integer(value)) return config_error(key, "is not an integer");
    json_int_t rank = json_integer_value(value);
    if (rank < 1 || rank > VM_ADAPTER_MAX_RANK)
        return vm_error(VMOER_ERROR_LIMIT, "%s: \"%s\": rank %lld is outside 1..%d", vm_peft_config_file, key,
                        (long long)rank, VM_ADAPTER_MAX_RANK);
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
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"%s\": \"%.80s\" is not a plain name", vm_peft_config_file,
                            name, key);
        VM_TRY_IN(check(key, value), "%s", name);
    }
    return VMOER_OK;
}

static vmoer_status parse_config(vm_adapter *a) {
    const json_t *config = a->config;
    if (!json_is_object(config)) return vm_error(VMOER_ERROR_FORMAT, "%s: not an object", vm_peft_config_file);
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    if (!type) return config_error("peft_type", "is not a string");
    if (strcmp(type, "LORA") != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: \"peft_type\" is \"%.32s\", not \"LORA\"", vm_peft_config_file,
                        type);
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

static vmoer_status take_tensor(const vm_st_tensor *t, vm_adapter_matrix *out) {
    if (t->n_dims != 2)
        return vm_error(VMOER_ERROR_FORMAT, "tensor \"%.200s\" has %d dimensions, not 2", t->name, t->n_dims);
    for (int i = 0; i < 2; i++)
        if (t->shape[i] < 1 || t->shape[i] > INT_MAX)
            return vm_error(VMOER_ERROR_LIMIT, "tensor \"%.200s\" has a dimension of %lld", t->name,
                            (long long)t->shape[i]);
    *out = (vm_adapter_matrix){.name = t->name, .data = t->data, .rows = t->shape[0], .cols = t->shape[1]};
    if (vm_st_float_type(t->dtype, &out->type)) return VMOER_OK;
    return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%.200s\" is %s; F32, F16 and BF16 are supported", t->name,
                    t->dtype);
}

static const vm_st_tensor *partner(const vm_safetensors *file, const char *name, const char *from, const char *to) {
    char other[2 * VM_PEFT_MAX_NAME];
    int stem = (int)(strlen(name) - strlen(from));
    int length = snprintf(other, sizeof other, "%.*s%s", stem, name, to);
    return length > 0 && (size_t)length < sizeof other ? vm_safetensors_find(file, other) : NULL;
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
        bool is_a = ends_with(t->name, vm_peft_suffix_a + 1), is_b = ends_with(t->name, vm_peft_suffix_b + 1);
        if (strncmp(t->name, prefix, strlen(prefix)) != 0 || (!is_a && !is_b))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%.200s\" is neither lora_A nor lora_B of a module",
                            t->name);
        const vm_st_tensor *other = is_a ? partner(a->file, t->name, vm_peft_suffix_a, vm_peft_suffix_b)
                                         : partner(a->file, t->name, vm_peft_suffix_b, vm_peft_suffix_a);
        if (!other)
            return vm_error(VMOER_ERROR_FORMAT, "tensor \"%.200s\" has no %s beside it", t->name,
                            is_a ? "lora_B" : "lora_A");
        if (!is_a) continue;
        vm_adapter_pair *p = &a->pairs[a->n_pairs];
        VM_TRY(take_tensor(t, &p->a));
        VM_TRY(take_tensor(other, &p->b));
        if (t->shape[0] != other->shape[1])
            return vm_error(VMOER_ERROR_FORMAT, "tensor \"%.200s\" has %lld rows, lora_B beside it %lld columns",
                            t->name, (long long)t->shape[0], (long long)other->shape[1]);
        a->n_pairs++;
    }
    if (!a->n_pairs) return vm_error(VMOER_ERROR_FORMAT, "no tensors");
    vm_adapter_sort_pairs(a);
    return VMOER_OK;
}

vmoer_status vm_adapter_read_peft(vm_adapter *a, const char *dir) {
    char path[PATH_MAX];
    VM_TRY(vm_path_join(path, sizeof path, dir, vm_peft_config_file));
    VM_TRY(vm_json_load(path, &a->config));
    VM_TRY_IN(parse_config(a), "%s", dir);
    VM_TRY(vm_path_join(path, sizeof path, dir, vm_peft_weights_file));
    VM_TRY(vm_safetensors_open(path, &a->file));
    VM_TRY_IN(pair_tensors(a, false), "%s", path);
    return vm_sha256_file(path, a->fingerprint);
}

vmoer_status vm_adapter_take_within(vm_adapter *a, const char *where) {
    const char *text = vm_safetensors_metadata(a->file, vm_peft_config_key);
    if (!text) return VMOER_OK;
    VM_TRY_IN(vm_json_parse(text, strlen(text), vm_peft_config_key, &a->config), "%s: __metadata__", where);
    VM_TRY_IN(parse_config(a), "%s: __metadata__", where);
    VM_TRY_IN(pair_tensors(a, true), "%s", where);
    return VMOER_OK;
}

vmoer_status vm_adapter_read_within(vm_adapter *a, const char *path) {
    VM_TRY(vm_safetensors_open(path, &a->file));
    VM_TRY(vm_adapter_take_within(a, path));
    return vm_sha256_file(path, a->fingerprint);
}

/* ---- finding ---- */

vmoer_status vm_adapter_peft_pair(const vm_adapter *a, const char *module, vm_adapter_pair **out, int *rank,
                                  float *scale) {
    char tensor[VM_PEFT_MAX_NAME + 16];
    vm_peft_name name;
    VM_TRY(vm_peft_name_module(module, &name));
    *out = NULL;
    if (name.bare && !is_target_parameter(a, name.key)) return VMOER_OK;
    if (*name.outer && is_target_parameter(a, name.outer)) vm_peft_name_nest(&name);
    snprintf(tensor, sizeof tensor, "%s%s", name.stem, vm_peft_suffix_a);
    *out = vm_adapter_find_pair(a, tensor);
    if (!*out) return VMOER_OK;
    const json_t *rank_value = find_pattern(a, "rank_pattern", name.key),
                 *alpha_value = find_pattern(a, "alpha_pattern", name.key);
    *rank = rank_value ? (int)json_integer_value(rank_value) : a->rank;
    double alpha = alpha_value ? json_number_value(alpha_value) : a->alpha;
    *scale = (float)(alpha / (a->rslora ? sqrt(*rank) : *rank));
    return VMOER_OK;
}
