/* hf_arch.c: the models whose folders can be read, as tables (hf_internal.h says what a row means). The names on the
 * right are those of the checkpoints that save_pretrained writes, which transformers may rename in memory. */
#include "base/status.h"
#include "io/hf_internal.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */

/* ---- rows that most models share ---- */

#define TRANSFORMER_KEYS \
    {"hidden_size", "embedding_length", VM_HF_U32, NULL, NULL}, \
    {"num_hidden_layers", "block_count", VM_HF_U32, NULL, NULL}, \
    {"intermediate_size", "feed_forward_length", VM_HF_U32, NULL, NULL}, \
    {"num_attention_heads", "attention.head_count", VM_HF_U32, NULL, NULL}, \
    {"num_key_value_heads", "attention.head_count_kv", VM_HF_U32, "num_attention_heads", NULL}, \
    {"head_dim", "attention.key_length", VM_HF_U32, "", NULL}, \
    {"head_dim", "attention.value_length", VM_HF_U32, "", NULL}, \
    {"max_position_embeddings", "context_length", VM_HF_U32, NULL, NULL}, \
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", VM_HF_F32, NULL, NULL}, \
    {"vocab_size", "vocab_size", VM_HF_U32, NULL, NULL}

/* The one name or the other: save_pretrained's changed. */
#define MOE_KEYS(name, other) \
    {name, "expert_count", VM_HF_U32, other, NULL}, \
    {"num_experts_per_tok", "expert_used_count", VM_HF_U32, NULL, NULL}

#define TRANSFORMER_FIXED \
    {"hidden_act", "\"silu\""}, \
    {"quantization_config", "null"}

#define WEIGHT(gguf, name) {gguf ".weight", name ".weight", 0, 0, VM_HF_ROWS, NULL}
#define HALF(gguf, name, part) {gguf ".weight", name ".weight", part, 2, VM_HF_ROWS, NULL}
#define BIAS(gguf, name, form, when) {gguf ".bias", name ".bias", 0, 0, form, when}

#define EMBEDDING_TENSORS \
    WEIGHT("token_embd", "model.embed_tokens"), \
    WEIGHT("output_norm", "model.norm"), \
    {"output.weight", "lm_head.weight", 0, 0, VM_HF_ROWS, ""}

#define NORM_TENSORS \
    WEIGHT("blk.#.attn_norm", "model.layers.#.input_layernorm"), \
    WEIGHT("blk.#.ffn_norm", "model.layers.#.post_attention_layernorm")

/* q, k: VM_HF_Q_HEADS and VM_HF_KV_HEADS where llama.cpp interleaves them, VM_HF_ROWS where not. */
#define ATTENTION_TENSORS(q, k) \
    {"blk.#.attn_q.weight", "model.layers.#.self_attn.q_proj.weight", 0, 0, q, NULL}, \
    {"blk.#.attn_k.weight", "model.layers.#.self_attn.k_proj.weight", 0, 0, k, NULL}, \
    WEIGHT("blk.#.attn_v", "model.layers.#.self_attn.v_proj"), \
    WEIGHT("blk.#.attn_output", "model.layers.#.self_attn.o_proj")

#define QKV_BIASES(q, k, when) \
    BIAS("blk.#.attn_q", "model.layers.#.self_attn.q_proj", q, when), \
    BIAS("blk.#.attn_k", "model.layers.#.self_attn.k_proj", k, when), \
    BIAS("blk.#.attn_v", "model.layers.#.self_attn.v_proj", VM_HF_ROWS, when)

#define MLP_TENSORS \
    WEIGHT("blk.#.ffn_gate", "model.layers.#.mlp.gate_proj"), \
    WEIGHT("blk.#.ffn_up", "model.layers.#.mlp.up_proj"), \
    WEIGHT("blk.#.ffn_down", "model.layers.#.mlp.down_proj")

#define LLAMA_TENSORS \
    EMBEDDING_TENSORS, \
    NORM_TENSORS, \
    ATTENTION_TENSORS(VM_HF_Q_HEADS, VM_HF_KV_HEADS), \
    QKV_BIASES(VM_HF_Q_HEADS, VM_HF_KV_HEADS, "attention_bias"), \
    BIAS("blk.#.attn_output", "model.layers.#.self_attn.o_proj", VM_HF_ROWS, "attention_bias")

/* ---- Llama; and Granite, dense, which has its tensors ---- */

static const vm_hf_key llama_keys[] = {TRANSFORMER_KEYS, {0}};
static const vm_hf_fixed plain_fixed[] = {TRANSFORMER_FIXED, {0}};
static const vm_hf_tensor llama_tensors[] = {
    LLAMA_TENSORS,
    MLP_TENSORS,
    BIAS("blk.#.ffn_gate", "model.layers.#.mlp.gate_proj", VM_HF_ROWS, "mlp_bias"),
    BIAS("blk.#.ffn_up", "model.layers.#.mlp.up_proj", VM_HF_ROWS, "mlp_bias"),
    BIAS("blk.#.ffn_down", "model.layers.#.mlp.down_proj", VM_HF_ROWS, "mlp_bias"),
    {0}
};

#define GRANITE_KEYS \
    TRANSFORMER_KEYS, \
    {"embedding_multiplier", "embedding_scale", VM_HF_F32, "1", "1"}, \
    {"residual_multiplier", "residual_scale", VM_HF_F32, "1", "1"}, \
    {"attention_multiplier", "attention.scale", VM_HF_F32, "1", "head"}, \
    {"logits_scaling", "logit_scale", VM_HF_F32, "1", NULL}

static const vm_hf_key granite_keys[] = {GRANITE_KEYS, {0}};

/* ---- Qwen2 ---- */

static const vm_hf_tensor qwen2_tensors[] = {
    EMBEDDING_TENSORS,
    NORM_TENSORS,
    ATTENTION_TENSORS(VM_HF_ROWS, VM_HF_ROWS),
    QKV_BIASES(VM_HF_ROWS, VM_HF_ROWS, NULL),
    MLP_TENSORS,
    {0}
};

/* ---- Qwen3-MoE and OLMoE: norms of Q and K, a tensor an expert ---- */

#define MOE_MLP_TENSORS \
    WEIGHT("blk.#.ffn_gate_inp", "model.layers.#.mlp.gate"), \
    WEIGHT("blk.#.ffn_gate_exps", "model.layers.#.mlp.experts.#.gate_proj"), \
    WEIGHT("blk.#.ffn_up_exps", "model.layers.#.mlp.experts.#.up_proj"), \
    WEIGHT("blk.#.ffn_down_exps", "model.layers.#.mlp.experts.#.down_proj")

#define QK_NORM_TENSORS \
    WEIGHT("blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm"), \
    WEIGHT("blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm")

static const vm_hf_key qwen3moe_keys[] = {
    TRANSFORMER_KEYS,
    MOE_KEYS("num_experts", "num_local_experts"),
    {"moe_intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL, NULL},
    {"norm_topk_prob", "expert_weights_norm", VM_HF_BOOL, "false", "true"},
    {0}
};
static const vm_hf_fixed qwen3moe_fixed[] = {
    TRANSFORMER_FIXED,
    {"attention_bias", "false"},
    {"decoder_sparse_step", "1"},
    {"mlp_only_layers", "[]"},
    {0}
};
static const vm_hf_key olmoe_keys[] = {
    TRANSFORMER_KEYS,
    MOE_KEYS("num_experts", "num_local_experts"),
    {"norm_topk_prob", "expert_weights_norm", VM_HF_BOOL, "false", "false"},
    {0}
};
static const vm_hf_fixed olmoe_fixed[] = {
    TRANSFORMER_FIXED,
    {"attention_bias", "false"},
    {"clip_qkv", "null"},
    {0}
};
static const vm_hf_tensor qk_norm_moe_tensors[] = {
    EMBEDDING_TENSORS,
    NORM_TENSORS,
    ATTENTION_TENSORS(VM_HF_ROWS, VM_HF_ROWS),
    QK_NORM_TENSORS,
    MOE_MLP_TENSORS,
    {0}
};

/* ---- Qwen2-MoE: shared experts behind a gate ---- */

static const vm_hf_key qwen2moe_keys[] = {
    TRANSFORMER_KEYS,
    MOE_KEYS("num_experts", "num_local_experts"),
    {"moe_intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL, NULL},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", VM_HF_U32, NULL, NULL},
    {"norm_topk_prob", "expert_weights_norm", VM_HF_BOOL, "false", "false"},
    {0}
};
static const vm_hf_fixed qwen2moe_fixed[] = {
    TRANSFORMER_FIXED,
    {"qkv_bias", "true"},
    {"decoder_sparse_step", "1"},
    {"mlp_only_layers", "[]"},
    {0}
};
static const vm_hf_tensor qwen2moe_tensors[] = {
    EMBEDDING_TENSORS,
    NORM_TENSORS,
    ATTENTION_TENSORS(VM_HF_ROWS, VM_HF_ROWS),
    QKV_BIASES(VM_HF_ROWS, VM_HF_ROWS, NULL),
    MOE_MLP_TENSORS,
    WEIGHT("blk.#.ffn_gate_shexp", "model.layers.#.mlp.shared_expert.gate_proj"),
    WEIGHT("blk.#.ffn_up_shexp", "model.layers.#.mlp.shared_expert.up_proj"),
    WEIGHT("blk.#.ffn_down_shexp", "model.layers.#.mlp.shared_expert.down_proj"),
    {"blk.#.ffn_gate_inp_shexp.weight", "model.layers.#.mlp.shared_expert_gate.weight", 0, 0, VM_HF_ONE_ROW, NULL},
    {0}
};

/* ---- DeepSeek-MoE v1: the lowest layers dense, so that a layer has one kind of tensors or the other ---- */

static const vm_hf_key deepseek_keys[] = {
    TRANSFORMER_KEYS,
    {"n_routed_experts", "expert_count", VM_HF_U32, NULL, NULL},
    {"num_experts_per_tok", "expert_used_count", VM_HF_U32, NULL, NULL},
    {"n_shared_experts", "expert_shared_count", VM_HF_U32, NULL, NULL},
    {"moe_intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL, NULL},
    {"first_k_dense_replace", "leading_dense_block_count", VM_HF_U32, "0", "0"},
    {"routed_scaling_factor", "expert_weights_scale", VM_HF_F32, "1", "1"},
    {0}
};
static const vm_hf_fixed deepseek_fixed[] = {
    TRANSFORMER_FIXED,
    {"attention_bias", "false"},
    {"moe_layer_freq", "1"},
    {"norm_topk_prob", "false"},
    {"scoring_func", "\"softmax\""},
    {0}
};
#define EITHER(gguf, name) {"blk.#." gguf ".weight", "model.layers.#.mlp." name ".weight", 0, 0, VM_HF_ROWS, ""}
static const vm_hf_tensor deepseek_tensors[] = {
    EMBEDDING_TENSORS,
    NORM_TENSORS,
    ATTENTION_TENSORS(VM_HF_Q_HEADS, VM_HF_KV_HEADS),
    EITHER("ffn_gate", "gate_proj"),
    EITHER("ffn_up", "up_proj"),
    EITHER("ffn_down", "down_proj"),
    EITHER("ffn_gate_inp", "gate"),
    EITHER("ffn_gate_exps", "experts.#.gate_proj"),
    EITHER("ffn_up_exps", "experts.#.up_proj"),
    EITHER("ffn_down_exps", "experts.#.down_proj"),
    EITHER("ffn_gate_shexp", "shared_experts.gate_proj"),
    EITHER("ffn_up_shexp", "shared_experts.up_proj"),
    EITHER("ffn_down_shexp", "shared_experts.down_proj"),
    {0}
};

/* ---- Mixtral ---- */

static const vm_hf_key mixtral_keys[] = {TRANSFORMER_KEYS, MOE_KEYS("num_local_experts", "num_experts"), {0}};
static const vm_hf_tensor mixtral_tensors[] = {
    LLAMA_TENSORS,
    WEIGHT("blk.#.ffn_gate_inp", "model.layers.#.block_sparse_moe.gate"),
    WEIGHT("blk.#.ffn_gate_exps", "model.layers.#.block_sparse_moe.experts.#.w1"),
    WEIGHT("blk.#.ffn_up_exps", "model.layers.#.block_sparse_moe.experts.#.w3"),
    WEIGHT("blk.#.ffn_down_exps", "model.layers.#.block_sparse_moe.experts.#.w2"),
    {0}
};

/* ---- Mistral: a Llama without biases ---- */

static const vm_hf_tensor mistral_tensors[] = {
    EMBEDDING_TENSORS,
    NORM_TENSORS,
    ATTENTION_TENSORS(VM_HF_Q_HEADS, VM_HF_KV_HEADS),
    MLP_TENSORS,
    {0}
};

/* ---- Granite MoE, and with shared experts (none where shared_intermediate_size is 0) ---- */

#define GRANITE_MOE_KEYS \
    GRANITE_KEYS, \
    MOE_KEYS("num_local_experts", "num_experts"), \
    {"intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL, NULL}

#define GRANITE_MOE_TENSORS \
    LLAMA_TENSORS, \
    WEIGHT("blk.#.ffn_gate_inp", "model.layers.#.block_sparse_moe.router.layer"), \
    HALF("blk.#.ffn_gate_exps", "model.layers.#.block_sparse_moe.input_linear", 0), \
    HALF("blk.#.ffn_up_exps", "model.layers.#.block_sparse_moe.input_linear", 1), \
    WEIGHT("blk.#.ffn_down_exps", "model.layers.#.block_sparse_moe.output_linear")

static const vm_hf_fixed granite_moe_fixed[] = {
    TRANSFORMER_FIXED,
    {"position_embedding_type", "\"rope\""},
    {"normalization_function", "\"rmsnorm\""},
    {0}
};
static const vm_hf_key granite_moe_keys[] = {GRANITE_MOE_KEYS, {0}};
static const vm_hf_tensor granite_moe_tensors[] = {GRANITE_MOE_TENSORS, {0}};

static const vm_hf_key granite_moe_shared_keys[] = {
    GRANITE_MOE_KEYS,
    {"shared_intermediate_size", "expert_shared_feed_forward_length", VM_HF_U32, "0", "0"},
    {0}
};
static const vm_hf_tensor granite_moe_shared_tensors[] = {
    GRANITE_MOE_TENSORS,
    {"blk.#.ffn_gate_shexp.weight", "model.layers.#.shared_mlp.input_linear.weight", 0, 2, VM_HF_ROWS, ""},
    {"blk.#.ffn_up_shexp.weight", "model.layers.#.shared_mlp.input_linear.weight", 1, 2, VM_HF_ROWS, ""},
    {"blk.#.ffn_down_shexp.weight", "model.layers.#.shared_mlp.output_linear.weight", 0, 0, VM_HF_ROWS, ""},
    {0}
};

/* ---- GPT-OSS: biases everywhere, experts by columns or in MXFP4, gate and up in turn ---- */

static const vm_hf_key gpt_oss_keys[] = {
    TRANSFORMER_KEYS,
    MOE_KEYS("num_local_experts", "num_experts"),
    {"intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL, NULL},
    {0}
};
static const vm_hf_fixed gpt_oss_fixed[] = {
    {"hidden_act", "\"silu\""},
    {"attention_bias", "true"},
    {"swiglu_alpha", "1.702"},
    {"swiglu_limit", "7.0"},
    {"quantization_config.quant_method", "\"mxfp4\""},
    {0}
};
#define TURNS(kind, name, form) \
    {"blk.#.ffn_gate_exps." kind, "model.layers.#.mlp.experts.gate_up_proj" name, 0, 2, form, NULL}, \
    {"blk.#.ffn_up_exps." kind, "model.layers.#.mlp.experts.gate_up_proj" name, 1, 2, form, NULL}
static const vm_hf_tensor gpt_oss_tensors[] = {
    EMBEDDING_TENSORS,
    WEIGHT("blk.#.attn_norm", "model.layers.#.input_layernorm"),
    WEIGHT("blk.#.post_attention_norm", "model.layers.#.post_attention_layernorm"),
    ATTENTION_TENSORS(VM_HF_ROWS, VM_HF_ROWS),
    QKV_BIASES(VM_HF_ROWS, VM_HF_ROWS, NULL),
    BIAS("blk.#.attn_output", "model.layers.#.self_attn.o_proj", VM_HF_ROWS, NULL),
    {"blk.#.attn_sinks.weight", "model.layers.#.self_attn.sinks", 0, 0, VM_HF_ROWS, NULL},
    WEIGHT("blk.#.ffn_gate_inp", "model.layers.#.mlp.router"),
    BIAS("blk.#.ffn_gate_inp", "model.layers.#.mlp.router", VM_HF_ROWS, NULL),
    TURNS("weight", "", VM_HF_COLUMNS),
    TURNS("bias", "_bias", VM_HF_TURNS),
    {"blk.#.ffn_down_exps.weight", "model.layers.#.mlp.experts.down_proj", 0, 1, VM_HF_COLUMNS, NULL},
    {"blk.#.ffn_down_exps.bias", "model.layers.#.mlp.experts.down_proj_bias", 0, 0, VM_HF_ROWS, NULL},
    {0}
};

/* ---- the list ---- */

static const vm_hf_arch architectures[] = {
    {"llama", "LlamaForCausalLM", "llama", llama_keys, plain_fixed, llama_tensors, {0}, false},
    {"granite", "GraniteForCausalLM", "granite", granite_keys, plain_fixed, llama_tensors, {0}, false},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", llama_keys, plain_fixed, qwen2_tensors, {VM_HF_WINDOW_UPPER, true, 4096}, false},
    {"mistral", "MistralForCausalLM", "llama", llama_keys, plain_fixed, mistral_tensors, {VM_HF_WINDOW_ALL, false, 4096}, false},
    {"mixtral", "MixtralForCausalLM", "llama", mixtral_keys, plain_fixed, mixtral_tensors, {VM_HF_WINDOW_ALL, false, 0}, false},
    {"qwen2_moe", "Qwen2MoeForCausalLM", "qwen2moe", qwen2moe_keys, qwen2moe_fixed, qwen2moe_tensors, {VM_HF_WINDOW_EVEN_LOWER, true, 4096}, false},
    {"deepseek", "DeepseekForCausalLM", "deepseek", deepseek_keys, deepseek_fixed, deepseek_tensors, {0}, false},
    {"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3moe", qwen3moe_keys, qwen3moe_fixed, qk_norm_moe_tensors, {VM_HF_WINDOW_ALL, true, 4096}, false},
    {"olmoe", "OlmoeForCausalLM", "olmoe", olmoe_keys, olmoe_fixed, qk_norm_moe_tensors, {0}, false},
    {"granitemoe", "GraniteMoeForCausalLM", "granitemoe", granite_moe_keys, granite_moe_fixed, granite_moe_tensors, {0}, false},
    {"granitemoeshared", "GraniteMoeSharedForCausalLM", "granitemoe", granite_moe_shared_keys, granite_moe_fixed, granite_moe_shared_tensors, {0}, false},
    {"gpt_oss", "GptOssForCausalLM", "gpt-oss", gpt_oss_keys, gpt_oss_fixed, gpt_oss_tensors, {VM_HF_WINDOW_EVEN, false, 128}, true},
};

/* clang-format on */

vmoer_status vm_hf_arch_find(const char *model_type, const vm_hf_arch **out) {
    char known[512] = "";
    for (size_t i = 0, used = 0; i < sizeof architectures / sizeof *architectures; i++) {
        *out = &architectures[i];
        if (strcmp((*out)->model_type, model_type) == 0) return VMOER_OK;
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", (*out)->model_type);
    }
    return vm_error(VMOER_ERROR_UNSUPPORTED, "model_type \"%.64s\" is not supported; supported are %s", model_type,
                    known);
}

/* Whether the table has a name for the key. */
static bool names_key(const vm_hf_arch *a, const char *key) {
    for (const vm_hf_key *k = a->keys; k->name; k++)
        if (strcmp(k->key, key) == 0) return true;
    return false;
}

static bool says_more(const vm_gguf *g, const vm_hf_arch *a, const char *key) {
    char full[128];
    uint32_t value;
    snprintf(full, sizeof full, "%s.%s", a->arch, key);
    return vm_gguf_has_key(g, full) && vm_gguf_get_u32(g, full, &value) == VMOER_OK && value > 0 && !names_key(a, key);
}

/* A key of another model type of the architecture that a has no name for; NULL: none. */
static const char *unnamed_key(const vm_gguf *g, const vm_hf_arch *a) {
    static const char window[] = "attention.sliding_window";
    if (a->window.layers == VM_HF_WINDOW_NONE && says_more(g, a, window)) return window;
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (strcmp(architectures[i].arch, a->arch) != 0) continue;
        for (const vm_hf_key *k = architectures[i].keys; k->name; k++)
            if (k->type == VM_HF_U32 && says_more(g, a, k->key)) return k->key;
    }
    return NULL;
}

vmoer_status vm_hf_arch_of(const vm_gguf *g, const vm_hf_arch **out) {
    const char *arch, *key = NULL;
    size_t length;
    VM_TRY(vm_gguf_get_string(g, "general.architecture", &arch, &length));
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        *out = &architectures[i];
        if (strlen((*out)->arch) != length || memcmp((*out)->arch, arch, length) != 0) continue;
        const char *unnamed = unnamed_key(g, *out);
        if (!unnamed) return VMOER_OK;
        key = unnamed;
    }
    return key ? vm_error(VMOER_ERROR_UNSUPPORTED, "no model type of Hugging Face has a name for %.*s.%s",
                          (int)(length < 64 ? length : 64), arch, key)
               : vm_error(VMOER_ERROR_UNSUPPORTED, "folders of the architecture \"%.*s\" are not supported",
                          (int)(length < 64 ? length : 64), arch);
}

void vm_hf_expand(char out[VM_HF_MAX_NAME], const char *pattern, int layer, int expert) {
    const char *first = strchr(pattern, '#'), *second = first ? strchr(first + 1, '#') : NULL;
    if (!first)
        snprintf(out, VM_HF_MAX_NAME, "%s", pattern);
    else if (!second)
        snprintf(out, VM_HF_MAX_NAME, "%.*s%d%s", (int)(first - pattern), pattern, layer, first + 1);
    else
        snprintf(out, VM_HF_MAX_NAME, "%.*s%d%.*s%d%s", (int)(first - pattern), pattern, layer,
                 (int)(second - first - 1), first + 1, expert, second + 1);
}

bool vm_hf_per_expert(const vm_hf_tensor *row) {
    const char *first = strchr(row->name, '#');
    return first && strchr(first + 1, '#');
}

vmoer_status vm_hf_need_u32(const vm_gguf *g, const vm_hf_arch *a, const char *key, uint32_t most, uint32_t *out) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", a->arch, key);
    VM_TRY(vm_gguf_get_u32(g, full, out));
    return *out <= most ? VMOER_OK : vm_error(VMOER_ERROR_LIMIT, "%s is %u, at most %u are allowed", full, *out, most);
}
