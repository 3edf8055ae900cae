/* config.c: hyper-parameters from a GGUF's metadata, checked before anything is built from them. Architectures differ
 * in what arch/<name>.c says. */
#include "base/status.h"
#include "io/unicode.h"
#include "model/arch/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_CONTEXT = 1 << 26 }; /* that a file may claim */

static const vm_arch *const architectures[] = {&vm_arch_llama,      &vm_arch_qwen2,    &vm_arch_granite,
                                               &vm_arch_granitemoe, &vm_arch_qwen3moe, &vm_arch_olmoe,
                                               &vm_arch_deepseek,   &vm_arch_qwen2moe, &vm_arch_gpt_oss};

/* What others that people have files of need, and no pass here does. */
static const struct {
    const char *name, *why;
} unread[] = {
    {"phimoe", "LayerNorm with biases, a bias on the head, gates by sparsemixer"},
    {"phi3", "fused projections, longrope"},
    {"deepseek2", "latent attention, experts chosen by groups"},
    {"llama4", "attention in chunks, layers without RoPE, gates on the experts' input"},
    {"grok", "soft-capped logits, norms after each half, GELU experts"},
    {"gemma2", "soft-capped logits, norms after each half, GELU"},
    {"dbrx", "LayerNorm, clipped queries, keys and values"},
    {"arctic", "a dense feed-forward block beside the experts with a norm of its own"},
    {"glm4moe", "experts by sigmoid with a correction bias, RoPE on a part of the head"},
    {"dots1", "experts by sigmoid with a correction bias"},
    {"bailingmoe2", "experts by sigmoid, in groups, with a correction bias"},
    {"ernie4_5-moe", "experts chosen with a correction bias"},
    {"minimax-m2", "experts by sigmoid with a correction bias, RoPE on a part of the head"},
    {"hunyuan-moe", "norms of queries and keys after RoPE"},
    {"smallthinker", "routers before the attention, ReLU experts"},
    {"qwen3next", "linear attention, a gate on the attention's output"},
    {"granitehybrid", "recurrent layers (Mamba)"},
    {"jamba", "recurrent layers (Mamba)"},
    {"nemotron_h_moe", "recurrent layers (Mamba), experts by sigmoid"},
    {"lfm2moe", "convolutions in place of most attention, experts by sigmoid"},
};

vmoer_status vm_arch_u32(const vm_gguf *g, const vm_config *c, const char *key, uint32_t low, uint32_t high, int *out) {
    char full[128];
    uint32_t value;
    snprintf(full, sizeof full, "%s.%s", c->arch->name, key);
    VM_TRY(vm_gguf_get_u32(g, full, &value));
    if (value < low || value > high)
        return vm_error(VMOER_ERROR_FORMAT, "%s is %u, must be %u to %u", full, value, low, high);
    *out = (int)value;
    return VMOER_OK;
}

vmoer_status vm_arch_f32(const vm_gguf *g, const vm_config *c, const char *key, float low, float high, float *out) {
    char full[128];
    float value;
    snprintf(full, sizeof full, "%s.%s", c->arch->name, key);
    VM_TRY(vm_gguf_get_f32(g, full, &value));
    if (!(value >= low && value <= high))
        return vm_error(VMOER_ERROR_FORMAT, "%s is %g, must be %g to %g", full, (double)value, (double)low,
                        (double)high);
    *out = value;
    return VMOER_OK;
}

bool vm_arch_has(const vm_gguf *g, const vm_config *c, const char *key) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", c->arch->name, key);
    return vm_gguf_has_key(g, full);
}

static vmoer_status copy_string(const vm_gguf *g, const char *key, char *out, size_t size) {
    const char *text;
    size_t length;
    VM_TRY(vm_gguf_get_string(g, key, &text, &length));
    size_t bad;
    if (!vm_utf8_valid(text, length, &bad))
        return vm_error(VMOER_ERROR_FORMAT, "%s is not UTF-8 at byte %zu", key, bad);
    if (length >= size) return vm_error(VMOER_ERROR_LIMIT, "%s: longer than %zu bytes", key, size - 1);
    memcpy(out, text, length);
    out[length] = 0;
    return VMOER_OK;
}

/* A number that may be absent; 0 means the same. */
static vmoer_status read_optional(const vm_gguf *g, const vm_config *c, const char *key, float low, float high,
                                  float *value) {
    float stored = 0;
    if (!vm_arch_has(g, c, key)) return VMOER_OK;
    VM_TRY(vm_arch_f32(g, c, key, 0.0f, high, &stored));
    return stored == 0 ? VMOER_OK : vm_arch_f32(g, c, key, low, high, value);
}

/* As llama.cpp reads them: without a type, a factor is linear. */
static vmoer_status read_scaling(const vm_gguf *g, vm_config *c) {
    static const char *const types[] = {
        [VM_ROPE_NONE] = "none", [VM_ROPE_LINEAR] = "linear", [VM_ROPE_DYNAMIC] = "dynamic", [VM_ROPE_YARN] = "yarn"};
    char key[96], type[32] = "linear";
    size_t i = 0;
    snprintf(key, sizeof key, "%s.rope.scaling.type", c->arch->name);
    if (vm_gguf_has_key(g, key)) VM_TRY(copy_string(g, key, type, sizeof type));
    while (i < sizeof types / sizeof *types && strcmp(type, types[i]) != 0) i++;
    if (i == sizeof types / sizeof *types)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "%s: '%s' RoPE scaling is not supported; none, linear, dynamic and yarn are", key, type);
    c->rope.scaling = (vm_rope_scaling)i;
    return VMOER_OK;
}

/* What no pass here does: such keys must have the value that changes nothing, such tensors must not be there. */
static vmoer_status refuse(const vm_gguf *g, const vm_config *c) {
    static const struct {
        const char *key;
        float neutral;
    } keys[] = {{"rope.scaling.yarn_ext_factor", 1},     {"rope.scaling.yarn_attn_factor", 1},
                {"rope.scaling.yarn_log_multiplier", 0}, {"rope.scaling.alpha", 0},
                {"attn_logit_softcapping", 0},           {"final_logit_softcapping", 0},
                {"router_logit_softcapping", 0},         {"attention.clamp_kqv", 0}};
    static const char *const tensors[] = {"rope_factors_long.weight", "rope_factors_short.weight"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        float value = keys[i].neutral;
        if (vm_arch_has(g, c, keys[i].key)) VM_TRY(vm_arch_f32(g, c, keys[i].key, -1e30f, 1e30f, &value));
        if (value != keys[i].neutral)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s.%s is %g; only %g is supported", c->arch->name, keys[i].key,
                            (double)value, (double)keys[i].neutral);
    }
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (vm_gguf_find_tensor(g, tensors[i]))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: 'longrope' RoPE scaling is not supported", tensors[i]);
    return VMOER_OK;
}

static vmoer_status read_rope(const vm_gguf *g, vm_config *c) {
    vm_rope *r = &c->rope;
    *r = (vm_rope){.base = 10000.0f,
                   .factor = 1,
                   .original = c->context,
                   .beta_fast = 32,
                   .beta_slow = 1,
                   .whole = true,
                   .attention = 1};
    int dimension = c->head_dim;
    if (vm_arch_has(g, c, "rope.dimension_count"))
        VM_TRY(vm_arch_u32(g, c, "rope.dimension_count", 1, VM_MAX_HEAD, &dimension));
    if (dimension != c->head_dim)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s.rope.dimension_count %d is not the head dimension %d",
                        c->arch->name, dimension, c->head_dim);
    VM_TRY(read_scaling(g, c));
    if (vm_arch_has(g, c, "rope.freq_base"))
        VM_TRY(vm_arch_f32(g, c, "rope.freq_base", r->scaling == VM_ROPE_YARN ? 1.01f : 1.0f, 1e12f, &r->base));
    const char *factor = vm_arch_has(g, c, "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    VM_TRY(read_optional(g, c, factor, 1e-3f, 1e6f, &r->factor));
    VM_TRY(read_optional(g, c, "rope.scaling.attn_factor", 1e-3f, 1e3f, &r->attention));
    if (vm_arch_has(g, c, "rope.scaling.original_context_length"))
        VM_TRY(vm_arch_u32(g, c, "rope.scaling.original_context_length", 1, MAX_CONTEXT, &r->original));
    VM_TRY(read_optional(g, c, "rope.scaling.yarn_beta_fast", 1e-3f, 1e6f, &r->beta_fast));
    VM_TRY(read_optional(g, c, "rope.scaling.yarn_beta_slow", 1e-3f, 1e6f, &r->beta_slow));
    return c->head_dim > 2 || r->scaling != VM_ROPE_DYNAMIC
               ? VMOER_OK
               : vm_error(VMOER_ERROR_UNSUPPORTED, "%s: dynamic RoPE scaling of heads of 2", c->arch->name);
}

/* What every architecture here has. */
static vmoer_status read_common(const vm_gguf *g, vm_config *c) {
    const vm_gguf_tensor *embedding = vm_gguf_find_tensor(g, "token_embd.weight");
    if (!embedding) return vm_error(VMOER_ERROR_FORMAT, "token_embd.weight: missing tensor");
    VM_TRY(vm_arch_u32(g, c, "block_count", 1, 512, &c->n_layers));
    VM_TRY(vm_arch_u32(g, c, "embedding_length", 1, 65536, &c->dim));
    VM_TRY(vm_arch_u32(g, c, "context_length", 1, MAX_CONTEXT, &c->context));
    VM_TRY(vm_arch_u32(g, c, "attention.head_count", 1, 1024, &c->n_heads));
    c->n_kv_heads = c->n_heads;
    if (vm_arch_has(g, c, "attention.head_count_kv"))
        VM_TRY(vm_arch_u32(g, c, "attention.head_count_kv", 1, 1024, &c->n_kv_heads));
    if (c->n_heads % c->n_kv_heads)
        return vm_error(VMOER_ERROR_FORMAT, "%s.attention.head_count %d is not a multiple of head_count_kv %d",
                        c->arch->name, c->n_heads, c->n_kv_heads);
    if (vm_arch_has(g, c, "attention.key_length")) {
        VM_TRY(vm_arch_u32(g, c, "attention.key_length", 2, VM_MAX_HEAD, &c->head_dim));
    } else {
        if (c->dim % c->n_heads)
            return vm_error(VMOER_ERROR_FORMAT, "%s.embedding_length %d is not a multiple of attention.head_count %d",
                            c->arch->name, c->dim, c->n_heads);
        c->head_dim = c->dim / c->n_heads;
        if (c->head_dim > VM_MAX_HEAD)
            return vm_error(VMOER_ERROR_LIMIT, "%s: head dimension %d is more than %d", c->arch->name, c->head_dim,
                            VM_MAX_HEAD);
    }
    if (c->head_dim % 2)
        return vm_error(VMOER_ERROR_FORMAT, "%s: head dimension %d is odd", c->arch->name, c->head_dim);
    VM_TRY(read_rope(g, c));
    VM_TRY(refuse(g, c));
    if (vm_arch_has(g, c, "attention.sliding_window"))
        VM_TRY(vm_arch_u32(g, c, "attention.sliding_window", 0, MAX_CONTEXT, &c->window));
    if (vm_arch_has(g, c, "attention.sliding_window_pattern"))
        VM_TRY(vm_arch_u32(g, c, "attention.sliding_window_pattern", 0, 512, &c->window_period));
    VM_TRY(vm_arch_f32(g, c, "attention.layer_norm_rms_epsilon", 0.0f, 1.0f, &c->rms_eps));
    c->embedding_scale = c->residual_scale = c->logit_scale = c->expert_scale = 1.0f;
    c->attention_scale = 1.0f / sqrtf((float)c->head_dim);
    c->renormalise = true;
    if (embedding->n_dims != 2 || embedding->ne[0] != c->dim || embedding->ne[1] < 1 || embedding->ne[1] > (1 << 24))
        return vm_error(VMOER_ERROR_FORMAT, "token_embd.weight: shape [%lld, %lld], embedding_length is %d",
                        (long long)embedding->ne[1], (long long)embedding->ne[0], c->dim);
    c->n_vocab = (int)embedding->ne[1];
    if (c->context > 16384) c->context = 16384;
    return VMOER_OK;
}

vmoer_status vm_arch_read_experts(const vm_gguf *g, vm_config *c) {
    enum { SOFTMAX = 1 }; /* llama.cpp's number for gates that are one; 0: not said */
    char key[64];
    int gating = SOFTMAX, groups = 0;
    VM_TRY(vm_arch_u32(g, c, "expert_count", 2, 1024, &c->n_experts));
    VM_TRY(vm_arch_u32(g, c, "expert_used_count", 1, 256, &c->top_k));
    if (c->top_k > c->n_experts)
        return vm_error(VMOER_ERROR_FORMAT, "%s.expert_used_count %d is more than expert_count %d", c->arch->name,
                        c->top_k, c->n_experts);
    if (vm_arch_has(g, c, "expert_gating_func")) VM_TRY(vm_arch_u32(g, c, "expert_gating_func", 0, 1 << 20, &gating));
    if (gating > SOFTMAX)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s.expert_gating_func is %d; only %d, a softmax, is supported",
                        c->arch->name, gating, SOFTMAX);
    if (vm_arch_has(g, c, "expert_group_count")) VM_TRY(vm_arch_u32(g, c, "expert_group_count", 0, 1024, &groups));
    if (groups > 1)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s.expert_group_count is %d: experts in groups are not supported",
                        c->arch->name, groups);
    snprintf(key, sizeof key, "%s.expert_weights_norm", c->arch->name);
    return vm_gguf_has_key(g, key) ? vm_gguf_get_bool(g, key, &c->renormalise) : VMOER_OK;
}

vmoer_status vm_arch_read_dense(const vm_gguf *g, vm_config *c) {
    int experts = 0;
    if (vm_arch_has(g, c, "expert_count")) VM_TRY(vm_arch_u32(g, c, "expert_count", 0, 1024, &experts));
    if (experts)
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "%s.expert_count is %d: experts are not supported in this architecture", c->arch->name,
                        experts);
    return vm_arch_u32(g, c, "feed_forward_length", 1, 1 << 20, &c->shared_width);
}

vmoer_status vm_config_read(const vm_gguf *g, vm_config *c) {
    enum { N = sizeof architectures / sizeof *architectures };
    char name[32], known[256];
    const char *why = NULL;
    size_t length = 0;
    memset(c, 0, sizeof *c);
    VM_TRY(copy_string(g, "general.architecture", name, sizeof name));
    if (vm_gguf_has_key(g, "general.name")) VM_TRY(copy_string(g, "general.name", c->name, sizeof c->name));
    for (size_t i = 0; i < N; i++)
        if (strcmp(architectures[i]->name, name) == 0) c->arch = architectures[i];
    if (c->arch) {
        VM_TRY(read_common(g, c));
        return c->arch->read_config(g, c);
    }
    for (size_t i = 0; i < N && length < sizeof known; i++)
        length +=
            (size_t)snprintf(known + length, sizeof known - length, "%s%s", i ? ", " : "", architectures[i]->name);
    for (size_t i = 0; i < sizeof unread / sizeof *unread; i++)
        if (strcmp(unread[i].name, name) == 0) why = unread[i].why;
    return vm_error(VMOER_ERROR_UNSUPPORTED, "general.architecture '%s' is not supported%s%s; supported are %s", name,
                    why ? ": it has " : "", why ? why : "", known);
}
