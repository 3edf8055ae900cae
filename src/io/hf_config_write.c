/* hf_config_write.c: a GGUF's hyper-parameters as the names and values of config.json, by the tables that read it.
 * RoPE is put down as before transformers 5, which all its releases read. */
#include "base/rope.h"
#include "base/status.h"
#include "io/hf_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static vmoer_status set(json_t *object, const char *name, json_t *value) {
    return json_object_set_new(object, name, value) == 0 ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory");
}

/* "<arch>.<key>" */
typedef struct full_key {
    char text[128];
} full_key;
static full_key join(const vm_hf_arch *a, const char *key) {
    full_key full;
    snprintf(full.text, sizeof full.text, "%s.%s", a->arch, key);
    return full;
}

/* A number that may be absent: *out stays. */
static vmoer_status get_f32(const vm_gguf *g, const vm_hf_arch *a, const char *key, float *out) {
    full_key full = join(a, key);
    if (!vm_gguf_has_key(g, full.text)) return VMOER_OK;
    VM_TRY(vm_gguf_get_f32(g, full.text, out));
    return isfinite(*out) ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "%s is no finite number", full.text);
}

static vmoer_status head_dim(const vm_gguf *g, const vm_hf_arch *a, uint32_t *out) {
    uint32_t dim, heads;
    if (vm_gguf_has_key(g, join(a, "attention.key_length").text))
        return vm_hf_need_u32(g, a, "attention.key_length", VM_HF_MAX_HEAD, out);
    VM_TRY(vm_hf_need_u32(g, a, "embedding_length", UINT32_MAX, &dim));
    VM_TRY(vm_hf_need_u32(g, a, "attention.head_count", 1024, &heads));
    *out = heads ? dim / heads : 0;
    return heads && dim % heads == 0 && *out <= VM_HF_MAX_HEAD
               ? VMOER_OK
               : vm_error(VMOER_ERROR_FORMAT, "%s.embedding_length %u of %u heads", a->arch, dim, heads);
}

/* ---- the table's rows ---- */

/* NULL: the GGUF does not say it. */
static vmoer_status read_value(const vm_gguf *g, const vm_hf_arch *a, const vm_hf_key *k, json_t **out) {
    full_key full = join(a, k->key);
    uint32_t whole;
    float real = 0;
    bool truth;
    *out = NULL;
    if (!vm_gguf_has_key(g, full.text)) return VMOER_OK;
    switch (k->type) {
    case VM_HF_BOOL:
        VM_TRY(vm_gguf_get_bool(g, full.text, &truth));
        *out = json_boolean(truth);
        break;
    case VM_HF_F32:
        VM_TRY(get_f32(g, a, k->key, &real));
        if (real == 0 && k->unsaid) return VMOER_OK;
        *out = json_real((double)real);
        break;
    case VM_HF_U32:
        VM_TRY(vm_gguf_get_u32(g, full.text, &whole));
        *out = json_integer(whole);
        break;
    }
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory");
}

/* What it means that the GGUF has no such key; NULL: nothing is to be said. */
static vmoer_status unsaid(const vm_gguf *g, const vm_hf_arch *a, const vm_hf_key *k, const json_t *config,
                           json_t **out) {
    uint32_t head;
    *out = NULL;
    if (k->unsaid && strcmp(k->unsaid, "head") == 0) {
        VM_TRY(head_dim(g, a, &head));
        *out = json_real((double)(1.0f / sqrtf((float)head)));
    } else if (k->unsaid) {
        *out = json_loads(k->unsaid, JSON_DECODE_ANY, NULL);
    } else if (!k->instead) {
        return vm_error(VMOER_ERROR_FORMAT, "key \"%s\" is missing: config.json needs %s", join(a, k->key).text,
                        k->name);
    } else {
        *out = json_incref(json_object_get(config, k->instead)); /* NULL: "", or the other name of the same value */
    }
    return VMOER_OK;
}

static vmoer_status put_row(const vm_gguf *g, const vm_hf_arch *a, const vm_hf_key *k, json_t *config) {
    json_t *value, *before = json_object_get(config, k->name);
    VM_TRY(read_value(g, a, k, &value));
    if (before && value) {
        bool same = json_equal(before, value);
        json_decref(value);
        return same ? VMOER_OK
                    : vm_error(VMOER_ERROR_UNSUPPORTED,
                               "%s is not what another key has for %s, which config.json has once",
                               join(a, k->key).text, k->name);
    }
    if (before) return VMOER_OK;
    if (!value) VM_TRY(unsaid(g, a, k, config, &value));
    return value ? set(config, k->name, value) : VMOER_OK;
}

/* ---- RoPE ---- */

/* Llama 3's numbers from the factors they make. Only low_freq_factor : high_freq_factor : the original context count,
 * and 1 : 4 is what all of its models have; then one factor between 1 and the largest says the context. */
static vmoer_status put_llama3(const vm_gguf_tensor *t, float base, json_t *rope) {
    float factors[VM_HF_MAX_HEAD / 2], made[VM_HF_MAX_HEAD / 2];
    size_t half = (size_t)t->ne[0], at = half;
    if (t->n_dims != 1 || half < 1 || half > VM_HF_MAX_HEAD / 2 || t->type != VM_F32)
        return vm_error(VMOER_ERROR_FORMAT, "%s: not a vector of at most %d numbers in F32", t->name,
                        VM_HF_MAX_HEAD / 2);
    vm_gguf_read_rows(t, 0, 1, factors);
    double factor = factors[half - 1], best = 2, original = 0;
    for (size_t i = 0; i < half; i++) {
        double s = (1 / (double)factors[i] - 1 / factor) / (1 - 1 / factor), middle = fabs(s - .5);
        if (!(s > 1e-4 && s < 1 - 1e-4) || middle >= best) continue;
        best = middle;
        at = i;
        original = (1 + 3 * s) * 2 * 3.14159265358979323846 * pow((double)base, (double)i / (double)half);
    }
    bool good = at < half && factor > 1 && original >= 1 && original < (1 << 26);
    if (good) {
        original = round(original);
        vm_rope_llama3_factors(base, (int)(2 * half), (float)factor, 1, 4, (int)original, made);
        for (size_t i = 0; i < half && good; i++) good = fabsf(made[i] - factors[i]) <= 1e-6f * factors[i];
    }
    if (!good)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "%s: these factors are not Llama 3's, and config.json has no way to say others", t->name);
    VM_TRY(set(rope, "rope_type", json_string("llama3")));
    VM_TRY(set(rope, "factor", json_real(factor)));
    VM_TRY(set(rope, "low_freq_factor", json_real(1)));
    VM_TRY(set(rope, "high_freq_factor", json_real(4)));
    return set(rope, "original_max_position_embeddings", json_integer((json_int_t)original));
}

/* Names of transformers for YaRN's, each where the GGUF has it. */
static vmoer_status put_yarn(const vm_gguf *g, const vm_hf_arch *a, double factor, json_t *rope) {
    float attention = 0;
    static const char *const betas[] = {"beta_fast", "beta_slow"};
    uint32_t original;
    const char *key = vm_gguf_has_key(g, join(a, "rope.scaling.original_context_length").text)
                          ? "rope.scaling.original_context_length"
                          : "context_length";
    VM_TRY(vm_hf_need_u32(g, a, key, INT32_MAX, &original));
    VM_TRY(set(rope, "original_max_position_embeddings", json_integer(original)));
    VM_TRY(get_f32(g, a, "rope.scaling.attn_factor", &attention));
    if (attention != 0 && attention != 1) /* a GGUF's is beside 1 + 0.1 ln(factor), config.json's is all of it */
        VM_TRY(set(rope, "attention_factor", json_real((double)attention * (factor > 1 ? 1 + 0.1 * log(factor) : 1))));
    if (a->own_rope) VM_TRY(set(rope, "truncate", json_false()));
    for (size_t i = 0; i < 2; i++) {
        char name[64];
        float beta = 0;
        snprintf(name, sizeof name, "rope.scaling.yarn_%s", betas[i]);
        VM_TRY(get_f32(g, a, name, &beta));
        if (beta != 0) VM_TRY(set(rope, betas[i], json_real((double)beta)));
    }
    return VMOER_OK;
}

/* As the model reads it: without a type a factor is linear. */
static vmoer_status put_scaling(const vm_gguf *g, const vm_hf_arch *a, json_t *rope) {
    const char *type = "linear";
    char name[32];
    size_t length = strlen(type);
    float factor = 0;
    full_key full = join(a, "rope.scaling.type");
    if (vm_gguf_has_key(g, full.text)) VM_TRY(vm_gguf_get_string(g, full.text, &type, &length));
    snprintf(name, sizeof name, "%.*s", (int)(length < 31 ? length : 31), type);
    VM_TRY(get_f32(g, a, "rope.scale_linear", &factor));
    VM_TRY(get_f32(g, a, "rope.scaling.factor", &factor));
    bool linear = strcmp(name, "linear") == 0, yarn = strcmp(name, "yarn") == 0;
    if (strcmp(name, "none") == 0 || (linear && (factor == 0 || factor == 1))) return VMOER_OK;
    if (!linear && !yarn && strcmp(name, "dynamic") != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: '%s' RoPE scaling is not supported", full.text, name);
    VM_TRY(set(rope, "rope_type", json_string(name)));
    if (factor == 0) factor = 1;
    VM_TRY(set(rope, "factor", json_real((double)factor)));
    return yarn ? put_yarn(g, a, (double)factor, rope) : VMOER_OK;
}

static vmoer_status put_rope(const vm_gguf *g, const vm_hf_arch *a, json_t *config) {
    const vm_gguf_tensor *factors = vm_gguf_find_tensor(g, "rope_freqs.weight");
    float base = 10000;
    VM_TRY(get_f32(g, a, "rope.freq_base", &base));
    VM_TRY(set(config, "rope_theta", json_real((double)base)));
    json_t *rope = json_object();
    vmoer_status status = factors ? put_llama3(factors, base, rope) : put_scaling(g, a, rope);
    if (status == VMOER_OK && json_object_size(rope) == 0 && a->own_rope)
        status = set(rope, "rope_type", json_string("default"));
    if (status == VMOER_OK && json_object_size(rope) > 0)
        status =
            json_object_set(config, "rope_scaling", rope) == 0 ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory");
    json_decref(rope);
    return status;
}

vmoer_status vm_hf_put_names(const vm_hf_arch *a, const vm_gguf *g, json_t *config) {
    const vm_gguf_tensor *embedding = vm_gguf_find_tensor(g, "token_embd.weight");
    uint32_t head;
    if (!embedding) return vm_error(VMOER_ERROR_FORMAT, "token_embd.weight: missing tensor");
    VM_TRY(set(config, "vocab_size", json_integer(embedding->ne[1]))); /* not all files have the key */
    VM_TRY(head_dim(g, a, &head));
    VM_TRY(set(config, "head_dim", json_integer(head)));
    for (const vm_hf_key *k = a->keys; k->name; k++) VM_TRY(put_row(g, a, k, config));
    for (const vm_hf_fixed *fixed = a->fixed; fixed->name; fixed++) {
        json_t *value = json_loads(fixed->value, JSON_DECODE_ANY, NULL);
        if (strchr(fixed->name, '.') || json_is_null(value)) {
            json_decref(value);
            continue; /* absent says the same */
        }
        VM_TRY(set(config, fixed->name, value));
    }
    VM_TRY(vm_hf_put_window_names(a, g, config));
    return put_rope(g, a, config);
}
