/* info.c: what a model file is. One that cannot be run is explained too: what stands in it, and what of it is not
 * supported. */
#include "api/internal.h"

#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { LONGEST_TEXT = 256 }; /* bytes of a metadata value that is shown */

double vm_api_parameters(const vm_gguf *g) {
    double sum = 0;
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        sum += (double)t->ne[0] * (double)t->ne[1] * (double)t->ne[2] * (double)t->ne[3];
    }
    return sum;
}

/* Takes `more` over. */
static vmoer_status add_all(json_t *o, json_t *more) {
    int failed = json_object_update(o, more);
    json_decref(more);
    return failed ? vm_error(VMOER_ERROR_MEMORY, "no memory") : VMOER_OK;
}

static void add_string(json_t *o, const char *name, const vm_gguf *g, const char *key) {
    const char *text;
    size_t n;
    if (vm_gguf_has_key(g, key) && vm_gguf_get_string(g, key, &text, &n) == VMOER_OK)
        json_object_set_new(o, name, json_stringn(text, n));
}

/* Tensors by type; of types that cannot be read, what is missing. */
static json_t *types_of(const vm_gguf *g, json_t *missing) {
    json_t *types = json_object();
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        const char *name = vm_dtype_name(t->type);
        const json_t *count = json_object_get(types, name);
        if (!count && !vm_dequantize(t->type, NULL, 0, NULL))
            json_array_append_new(missing,
                                  json_sprintf("%s: type %s is not supported (" VM_DTYPES " are)", t->name, name));
        json_object_set_new(types, name, json_integer(json_integer_value(count) + 1));
    }
    return types;
}

/* A number, a truth value or a short text; NULL: something else. */
static json_t *value_of(const vm_gguf *g, const char *key) {
    const char *text;
    size_t n;
    uint32_t whole;
    float number;
    bool truth;
    if (vm_gguf_get_string(g, key, &text, &n) == VMOER_OK) return n <= LONGEST_TEXT ? json_stringn(text, n) : NULL;
    if (vm_gguf_get_bool(g, key, &truth) == VMOER_OK) return json_boolean(truth);
    if (vm_gguf_get_u32(g, key, &whole) == VMOER_OK) return json_integer(whole);
    return vm_gguf_get_f32(g, key, &number) == VMOER_OK ? vm_api_number((double)number) : NULL;
}

/* The architecture's own keys. */
static json_t *metadata_of(const vm_gguf *g) {
    json_t *metadata = json_object();
    const char *name = "";
    size_t n = 0;
    if (vm_gguf_has_key(g, "general.architecture")) vm_gguf_get_string(g, "general.architecture", &name, &n);
    for (size_t i = 0; n && i < vm_gguf_key_count(g); i++) {
        const char *key = vm_gguf_key_at(g, i);
        json_t *value = strncmp(key, name, n) == 0 && key[n] == '.' ? value_of(g, key) : NULL;
        if (value) json_object_set_new(metadata, key, value);
    }
    return metadata;
}

/* Of a model that can be run. */
static vmoer_status describe_model(const vm_gguf *g, const vm_config *c, json_t *o) {
    VM_TRY(add_all(o, json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "name", c->name, "layers", c->n_layers,
                                "dimension", c->dim, "heads", c->n_heads, "kv_heads", c->n_kv_heads, "head_dimension",
                                c->head_dim, "vocabulary", c->n_vocab, "context", c->context)));
    vm_kv_cache sequence = {.n_layers = c->n_layers, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim};
    json_object_set_new(o, "context_bytes", json_integer((json_int_t)vm_kv_cache_bytes(&sequence, c->context)));
    if (!c->n_experts) {
        json_object_set_new(o, "experts", json_null());
        json_object_set_new(o, "feed_forward", json_integer(c->shared_width));
        return VMOER_OK;
    }
    /* Parameters a token runs through: all but the routed experts it does not take. */
    double expert = 3.0 * c->dim * c->expert_width,
           idle = (double)(c->n_layers - c->dense_layers) * (c->n_experts - c->top_k) * expert;
    json_object_set_new(o, "experts",
                        json_pack("{s:i, s:i, s:i, s:i, s:f, s:i}", "routed", c->n_experts, "per_token", c->top_k,
                                  "width", c->expert_width, "shared_width", c->shared_width, "active_parameters",
                                  vm_api_parameters(g) - idle, "dense_layers", c->dense_layers));
    return VMOER_OK;
}

static vmoer_status describe(const vm_gguf *g, json_t *o) {
    vm_config c;
    char fingerprint[65];
    vm_tokenizer *t = NULL;
    json_t *missing = json_array();
    json_object_set_new(o, "missing", missing);
    vm_model_fingerprint(g, fingerprint);
    VM_TRY(add_all(o, json_pack("{s:s, s:I, s:f, s:i, s:o}", "fingerprint", fingerprint, "file_bytes",
                                (json_int_t)vm_gguf_file_size(g), "parameters", vm_api_parameters(g), "tensors",
                                (int)vm_gguf_tensor_count(g), "types", types_of(g, missing))));
    add_string(o, "name", g, "general.name");
    add_string(o, "architecture", g, "general.architecture");
    add_string(o, "licence", g, "general.license");
    add_string(o, "organisation", g, "general.organization");
    add_string(o, "tokenizer", g, "tokenizer.ggml.model");
    add_string(o, "pre_tokenizer", g, "tokenizer.ggml.pre");
    vmoer_status status = vm_config_read(g, &c);
    if (status == VMOER_ERROR_UNSUPPORTED) {
        json_array_append_new(missing, json_string(vm_error_text()));
        json_object_set_new(o, "metadata", metadata_of(g));
    } else {
        VM_TRY(status);
        VM_TRY(describe_model(g, &c, o));
    }
    if (vm_tokenizer_open(g, &t) != VMOER_OK) json_array_append_new(missing, json_string(vm_error_text()));
    vm_tokenizer_free(t);
    return VMOER_OK;
}

/* A folder that was refused by `why`: what config.json says. */
static vmoer_status describe_folder(const char *path, const char *why, json_t *o) {
    char file[PATH_MAX];
    json_t *config;
    VM_TRY(vm_path_join(file, sizeof file, path, "config.json"));
    VM_TRY(vm_json_load(file, &config));
    json_object_set(o, "architecture", json_object_get(config, "model_type"));
    json_object_set_new(o, "missing", json_pack("[s]", why));
    json_object_set_new(o, "metadata", config);
    return VMOER_OK;
}

static vmoer_status describe_path(const char *path, json_t *o) {
    vm_gguf *g;
    vmoer_status status = vm_gguf_open(path, &g);
    if (status == VMOER_ERROR_UNSUPPORTED && vm_is_folder(path)) {
        char why[1024];
        snprintf(why, sizeof why, "%s", vm_error_text());
        return describe_folder(path, why, o);
    }
    VM_TRY(status);
    status = describe(g, o);
    vm_gguf_free(g);
    return status == VMOER_OK ? status : vm_error_in(status, "%s", path);
}

vmoer_status vmoer_info(const char *path, char **out_json) {
    if (!path) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    json_t *o = json_object();
    vmoer_status status = o ? describe_path(path, o) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    if (status == VMOER_OK) return vm_api_return_json(o, out_json);
    json_decref(o);
    return status;
}
