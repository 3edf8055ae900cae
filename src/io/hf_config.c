/* hf_config.c: config.json as GGUF metadata. The keys are llama.cpp's; values are checked as numbers here, as
 * hyper-parameters where any GGUF's are. */
#include "base/rope.h"
#include "base/status.h"
#include "io/hf_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The value of a name, NULL where it is absent or null. */
static const json_t *get(const json_t *config, const char *name) {
    const json_t *value = json_object_get(config, name);
    return json_is_null(value) ? NULL : value;
}

/* The value of "name" or "object.name". */
static const json_t *find(const json_t *config, const char *name) {
    char object[64];
    const char *dot = strchr(name, '.');
    if (!dot) return get(config, name);
    snprintf(object, sizeof object, "%.*s", (int)(dot - name), name);
    return get(get(config, object), dot + 1);
}

static vmoer_status check_fixed(const vm_hf_fixed *fixed, const json_t *config) {
    for (; fixed->name; fixed++) {
        const json_t *value = find(config, fixed->name);
        if (!value) continue;
        json_t *wanted = json_loads(fixed->value, JSON_DECODE_ANY, NULL);
        bool same = json_is_number(wanted)
                        ? json_number_value(wanted) == json_number_value(value) && json_is_number(value)
                        : json_equal(wanted, value);
        json_decref(wanted);
        if (same) continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        vmoer_status status = vm_error(VMOER_ERROR_UNSUPPORTED, "%s is %.80s; only %s is supported", fixed->name,
                                       text ? text : "?", strcmp(fixed->value, "null") == 0 ? "none" : fixed->value);
        free(text);
        return status;
    }
    return VMOER_OK;
}

static vmoer_status to_u32(const char *name, const json_t *value, uint32_t *out) {
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    if (n < 0 || n > UINT32_MAX)
        return vm_error(VMOER_ERROR_FORMAT, "%s is not a whole number from 0 to %u", name, UINT32_MAX);
    *out = (uint32_t)n;
    return VMOER_OK;
}

static vmoer_status to_f32(const char *name, const json_t *value, float *out) {
    *out = (float)json_number_value(value);
    return json_is_number(value) && isfinite(*out)
               ? VMOER_OK
               : vm_error(VMOER_ERROR_FORMAT, "%s is not a number that a float holds", name);
}

/* value: of that name in config.json. */
static vmoer_status put_value(const vm_hf_key *k, const char *key, const json_t *value, vm_gguf_writer *w) {
    float real;
    uint32_t whole;
    switch (k->type) {
    case VM_HF_BOOL:
        if (!json_is_boolean(value)) return vm_error(VMOER_ERROR_FORMAT, "%s is neither true nor false", k->name);
        return vm_gguf_writer_bool(w, key, json_is_true(value));
    case VM_HF_F32:
        VM_TRY(to_f32(k->name, value, &real));
        return vm_gguf_writer_f32(w, key, real);
    case VM_HF_U32:
        break;
    }
    VM_TRY(to_u32(k->name, value, &whole));
    return vm_gguf_writer_u32(w, key, whole);
}

static vmoer_status put_key(const vm_hf_arch *a, const vm_hf_key *k, const json_t *config, vm_gguf_writer *w) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", a->arch, k->key);
    const json_t *value = get(config, k->name);
    if (!value && k->instead) value = get(config, k->instead);
    if (value) return put_value(k, key, value, w);
    if (!k->instead) return vm_error(VMOER_ERROR_FORMAT, "%s is missing", k->name);
    json_t *constant = json_loads(k->instead, JSON_DECODE_ANY, NULL); /* NULL: "", or a name */
    vmoer_status status = constant           ? put_value(k, key, constant, w)
                          : *k->instead != 0 ? vm_error(VMOER_ERROR_FORMAT, "%s is missing", k->instead)
                                             : VMOER_OK;
    json_decref(constant);
    return status;
}

/* ---- RoPE: "rope_parameters" of transformers 5, or "rope_theta" and "rope_scaling" before it ---- */

/* *rope: the object that says how positions are stretched, NULL where they are not; *type: how, "default" where not. */
static vmoer_status find_rope(const json_t *config, const json_t **rope, const char **type) {
    const json_t *name = NULL;
    *rope = get(config, "rope_parameters");
    if (!*rope) *rope = get(config, "rope_scaling");
    *type = "default";
    if (!*rope) return VMOER_OK;
    if (!json_is_object(*rope)) return vm_error(VMOER_ERROR_FORMAT, "rope_parameters, or rope_scaling, is no object");
    name = get(*rope, "rope_type");
    if (!name) name = get(*rope, "type");
    if (!name) return VMOER_OK;
    if (!json_is_string(name)) return vm_error(VMOER_ERROR_FORMAT, "rope_type is no text");
    *type = json_string_value(name);
    return VMOER_OK;
}

static vmoer_status rope_f32(const json_t *rope, const char *name, float *out) {
    if (!get(rope, name))
        return vm_error(VMOER_ERROR_FORMAT, "%s is missing from rope_parameters, or rope_scaling", name);
    return to_f32(name, get(rope, name), out);
}

static vmoer_status rope_original(const json_t *config, const json_t *rope, uint32_t *out) {
    const char *name = "original_max_position_embeddings";
    if (get(rope, name)) return to_u32(name, get(rope, name), out);
    return to_u32("max_position_embeddings", get(config, "max_position_embeddings"), out);
}

/* What cos and sin are multiplied by, over what a GGUF multiplies them by without being told, 1 + 0.1 ln(factor); 1
 * where the object does not say it. */
static vmoer_status attention_factor(const json_t *rope, double factor, double *out) {
    static const char *const names[] = {"attention_factor", "mscale", "mscale_all_dim"};
    double given[3] = {0, 0, 0}, slope = factor > 1 ? 0.1 * log(factor) : 0;
    float checked;
    *out = 1;
    for (size_t i = 0; i < 3; i++) {
        if (!get(rope, names[i])) continue;
        VM_TRY(to_f32(names[i], get(rope, names[i]), &checked));
        given[i] = json_number_value(get(rope, names[i]));
    }
    if (get(rope, names[0]))
        *out = given[0] / (1 + slope);
    else if (given[1] != 0 && given[2] != 0) /* else neither counts */
        *out = (1 + given[1] * slope) / (1 + given[2] * slope) / (1 + slope);
    return *out > 0 && isfinite(*out) ? VMOER_OK
                                      : vm_error(VMOER_ERROR_FORMAT, "YaRN's attention_factor is no positive number");
}

/* YaRN's numbers, each where the object has it. */
static vmoer_status put_yarn(const vm_hf_arch *a, const char *prefix, const json_t *config, const json_t *rope,
                             vm_gguf_writer *w) {
    static const char *const betas[] = {"beta_fast", "beta_slow"};
    char key[128];
    uint32_t original;
    float beta;
    double attention;
    if (json_is_false(get(rope, "truncate")) != a->own_rope)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "YaRN %s truncate is not supported for the model_type \"%s\"",
                        a->own_rope ? "with" : "without", a->model_type);
    VM_TRY(rope_original(config, rope, &original));
    snprintf(key, sizeof key, "%soriginal_context_length", prefix);
    VM_TRY(vm_gguf_writer_u32(w, key, original));
    VM_TRY(attention_factor(rope, json_number_value(get(rope, "factor")), &attention));
    if (attention != 1) {
        snprintf(key, sizeof key, "%sattn_factor", prefix);
        VM_TRY(vm_gguf_writer_f32(w, key, (float)attention));
    }
    for (size_t i = 0; i < 2; i++) {
        if (!get(rope, betas[i])) continue;
        VM_TRY(to_f32(betas[i], get(rope, betas[i]), &beta));
        snprintf(key, sizeof key, "%syarn_%s", prefix, betas[i]);
        VM_TRY(vm_gguf_writer_f32(w, key, beta));
    }
    return VMOER_OK;
}

static vmoer_status put_scaling(const vm_hf_arch *a, const json_t *config, vm_gguf_writer *w) {
    static const char *const types[] = {"linear", "dynamic", "yarn"}; /* GGUF's words, too */
    char prefix[64], key[128];
    const json_t *rope;
    const char *type;
    float factor;
    VM_TRY(find_rope(config, &rope, &type));
    if (!rope && a->own_rope) return vm_error(VMOER_ERROR_FORMAT, "rope_parameters, or rope_scaling, is missing");
    if (strcmp(type, "default") == 0 || strcmp(type, "llama3") == 0) return VMOER_OK;
    size_t i = 0;
    while (i < 3 && strcmp(type, types[i]) != 0) i++;
    if (i == 3)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "rope_type \"%.32s\" is not supported; default, linear, dynamic, yarn and llama3 are", type);
    snprintf(prefix, sizeof prefix, "%s.rope.scaling.", a->arch);
    snprintf(key, sizeof key, "%stype", prefix);
    VM_TRY(vm_gguf_writer_string(w, key, type));
    VM_TRY(rope_f32(rope, "factor", &factor));
    snprintf(key, sizeof key, "%sfactor", prefix);
    VM_TRY(vm_gguf_writer_f32(w, key, factor));
    return i == 2 ? put_yarn(a, prefix, config, rope, w) : VMOER_OK;
}

vmoer_status vm_hf_rope_factors(const json_t *config, uint32_t head_dim, float *factors, bool *has) {
    const json_t *rope;
    const char *type;
    float base = 10000.0f, factor, low, high;
    uint32_t original;
    VM_TRY(find_rope(config, &rope, &type));
    *has = strcmp(type, "llama3") == 0;
    if (!*has) return VMOER_OK;
    const json_t *theta = get(config, "rope_theta");
    if (!theta) theta = get(rope, "rope_theta");
    if (theta) VM_TRY(to_f32("rope_theta", theta, &base));
    VM_TRY(rope_f32(rope, "factor", &factor));
    VM_TRY(rope_f32(rope, "low_freq_factor", &low));
    VM_TRY(rope_f32(rope, "high_freq_factor", &high));
    VM_TRY(rope_original(config, rope, &original));
    if (!(base > 0 && factor > 0 && low > 0 && high > low) || original < 1 || original > INT32_MAX)
        return vm_error(VMOER_ERROR_FORMAT, "rope_type llama3 with numbers that make no frequencies");
    vm_rope_llama3_factors(base, (int)head_dim, factor, low, high, (int)original, factors);
    return VMOER_OK;
}

static vmoer_status put_rope(const vm_hf_arch *a, const json_t *config, vm_gguf_writer *w) {
    char key[128];
    const json_t *rope, *theta = get(config, "rope_theta"), *part = get(config, "partial_rotary_factor");
    const char *type;
    float value;
    VM_TRY(find_rope(config, &rope, &type));
    if (!theta) theta = get(rope, "rope_theta");
    if (theta) {
        VM_TRY(to_f32("rope_theta", theta, &value));
        snprintf(key, sizeof key, "%s.rope.freq_base", a->arch);
        VM_TRY(vm_gguf_writer_f32(w, key, value));
    }
    if (!part) part = get(rope, "partial_rotary_factor");
    if (part) {
        VM_TRY(to_f32("partial_rotary_factor", part, &value));
        if (value != 1.0f)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "partial_rotary_factor is %g; only 1 is supported", (double)value);
    }
    VM_TRY(put_scaling(a, config, w));
    uint32_t dim, heads;
    const json_t *head_dim = get(config, "head_dim");
    snprintf(key, sizeof key, "%s.rope.dimension_count", a->arch);
    if (head_dim) {
        VM_TRY(to_u32("head_dim", head_dim, &dim));
        return vm_gguf_writer_u32(w, key, dim);
    }
    VM_TRY(to_u32("hidden_size", get(config, "hidden_size"), &dim));
    VM_TRY(to_u32("num_attention_heads", get(config, "num_attention_heads"), &heads));
    if (heads < 1 || dim % heads)
        return vm_error(VMOER_ERROR_FORMAT, "hidden_size %u is not a multiple of num_attention_heads %u", dim, heads);
    return vm_gguf_writer_u32(w, key, dim / heads);
}

vmoer_status vm_hf_put_keys(const vm_hf_arch *a, const json_t *config, vm_gguf_writer *w) {
    VM_TRY(vm_gguf_writer_string(w, "general.architecture", a->arch));
    VM_TRY(vm_gguf_writer_string(w, "general.type", "model"));
    VM_TRY(check_fixed(a->fixed, config));
    for (const vm_hf_key *k = a->keys; k->name; k++) VM_TRY(put_key(a, k, config, w));
    VM_TRY(vm_hf_put_window(a, config, w));
    return put_rope(a, config, w);
}
