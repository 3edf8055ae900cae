/* hf_arch.c: the models whose folders can be read, as tables (hf_internal.h says what a row means). The names on the
 * right are those of the checkpoints that save_pretrained writes, which transformers may rename in memory. */
#include "base/status.h"
#include "io/hf_internal.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */

/* ---- rows that most models share ---- */

#define TRANSFORMER_KEYS \
    {"hidden_size", "embedding_length", VM_HF_U32, NULL}, \
    {"num_hidden_layers", "block_count", VM_HF_U32, NULL}, \
    {"intermediate_size", "feed_forward_length", VM_HF_U32, NULL}, \
    {"num_attention_heads", "attention.head_count", VM_HF_U32, NULL}, \
    {"num_key_value_heads", "attention.head_count_kv", VM_HF_U32, "num_attention_heads"}, \
    {"head_dim", "attention.key_length", VM_HF_U32, ""}, \
    {"head_dim", "attention.value_length", VM_HF_U32, ""}, \
    {"max_position_embeddings", "context_length", VM_HF_U32, NULL}, \
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", VM_HF_F32, NULL}, \
    {"vocab_size", "vocab_size", VM_HF_U32, NULL}

#define MOE_KEYS \
    {"num_local_experts", "expert_count", VM_HF_U32, "num_experts"}, \
    {"num_experts_per_tok", "expert_used_count", VM_HF_U32, NULL}

#define TRANSFORMER_FIXED \
    {"hidden_act", "\"silu\""}, \
    {"quantization_config", "null"}

#define WEIGHT(gguf, name) {gguf ".weight", name ".weight", 0, 0, VM_HF_ROWS, NULL}
#define HALF(gguf, name, part) {gguf ".weight", name ".weight", part, 2, VM_HF_ROWS, NULL}
#define BIAS(gguf, name, heads, when) {gguf ".bias", name ".bias", 0, 0, heads, when}

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

#define MLP_TENSORS \
    WEIGHT("blk.#.ffn_gate", "model.layers.#.mlp.gate_proj"), \
    WEIGHT("blk.#.ffn_up", "model.layers.#.mlp.up_proj"), \
    WEIGHT("blk.#.ffn_down", "model.layers.#.mlp.down_proj")

#define LLAMA_TENSORS \
    EMBEDDING_TENSORS, \
    NORM_TENSORS, \
    ATTENTION_TENSORS(VM_HF_Q_HEADS, VM_HF_KV_HEADS), \
    BIAS("blk.#.attn_q", "model.layers.#.self_attn.q_proj", VM_HF_Q_HEADS, "attention_bias"), \
    BIAS("blk.#.attn_k", "model.layers.#.self_attn.k_proj", VM_HF_KV_HEADS, "attention_bias"), \
    BIAS("blk.#.attn_v", "model.layers.#.self_attn.v_proj", VM_HF_ROWS, "attention_bias"), \
    BIAS("blk.#.attn_output", "model.layers.#.self_attn.o_proj", VM_HF_ROWS, "attention_bias")

/* ---- Llama; and Granite, dense, which has its tensors ---- */

static const vm_hf_key llama_keys[] = {TRANSFORMER_KEYS, {0}};
static const vm_hf_fixed llama_fixed[] = {TRANSFORMER_FIXED, {0}};
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
    {"embedding_multiplier", "embedding_scale", VM_HF_F32, "1"}, \
    {"residual_multiplier", "residual_scale", VM_HF_F32, "1"}, \
    {"attention_multiplier", "attention.scale", VM_HF_F32, "1"}, \
    {"logits_scaling", "logit_scale", VM_HF_F32, "1"}

static const vm_hf_key granite_keys[] = {GRANITE_KEYS, {0}};

/* ---- Qwen2 ---- */

static const vm_hf_fixed qwen2_fixed[] = {
    TRANSFORMER_FIXED,
    {"use_sliding_window", "false"},
    {0}
};
static const vm_hf_tensor qwen2_tensors[] = {
    EMBEDDING_TENSORS,
    NORM_TENSORS,
    ATTENTION_TENSORS(VM_HF_ROWS, VM_HF_ROWS),
    BIAS("blk.#.attn_q", "model.layers.#.self_attn.q_proj", VM_HF_ROWS, NULL),
    BIAS("blk.#.attn_k", "model.layers.#.self_attn.k_proj", VM_HF_ROWS, NULL),
    BIAS("blk.#.attn_v", "model.layers.#.self_attn.v_proj", VM_HF_ROWS, NULL),
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
    MOE_KEYS,
    {"moe_intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL},
    {"norm_topk_prob", "expert_weights_norm", VM_HF_BOOL, "false"},
    {0}
};
static const vm_hf_fixed qwen3moe_fixed[] = {
    TRANSFORMER_FIXED,
    {"attention_bias", "false"},
    {"use_sliding_window", "false"},
    {"decoder_sparse_step", "1"},
    {"mlp_only_layers", "[]"},
    {0}
};
static const vm_hf_key olmoe_keys[] = {
    TRANSFORMER_KEYS,
    MOE_KEYS,
    {"norm_topk_prob", "expert_weights_norm", VM_HF_BOOL, "false"},
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
    MOE_KEYS,
    {"moe_intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", VM_HF_U32, NULL},
    {"norm_topk_prob", "expert_weights_norm", VM_HF_BOOL, "false"},
    {0}
};
static const vm_hf_fixed qwen2moe_fixed[] = {
    TRANSFORMER_FIXED,
    {"qkv_bias", "true"},
    {"use_sliding_window", "false"},
    {"decoder_sparse_step", "1"},
    {"mlp_only_layers", "[]"},
    {0}
};
static const vm_hf_tensor qwen2moe_tensors[] = {
    EMBEDDING_TENSORS,
    NORM_TENSORS,
    ATTENTION_TENSORS(VM_HF_ROWS, VM_HF_ROWS),
    BIAS("blk.#.attn_q", "model.layers.#.self_attn.q_proj", VM_HF_ROWS, NULL),
    BIAS("blk.#.attn_k", "model.layers.#.self_attn.k_proj", VM_HF_ROWS, NULL),
    BIAS("blk.#.attn_v", "model.layers.#.self_attn.v_proj", VM_HF_ROWS, NULL),
    MOE_MLP_TENSORS,
    WEIGHT("blk.#.ffn_gate_shexp", "model.layers.#.mlp.shared_expert.gate_proj"),
    WEIGHT("blk.#.ffn_up_shexp", "model.layers.#.mlp.shared_expert.up_proj"),
    WEIGHT("blk.#.ffn_down_shexp", "model.layers.#.mlp.shared_expert.down_proj"),
    WEIGHT("blk.#.ffn_gate_inp_shexp", "model.layers.#.mlp.shared_expert_gate"),
    {0}
};

/* ---- DeepSeek-MoE v1: the lowest layers dense, so that a layer has one kind of tensors or the other ---- */

static const vm_hf_key deepseek_keys[] = {
    TRANSFORMER_KEYS,
    {"n_routed_experts", "expert_count", VM_HF_U32, NULL},
    {"num_experts_per_tok", "expert_used_count", VM_HF_U32, NULL},
    {"n_shared_experts", "expert_shared_count", VM_HF_U32, NULL},
    {"moe_intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL},
    {"first_k_dense_replace", "leading_dense_block_count", VM_HF_U32, "0"},
    {"routed_scaling_factor", "expert_weights_scale", VM_HF_F32, "1"},
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

static const vm_hf_key mixtral_keys[] = {TRANSFORMER_KEYS, MOE_KEYS, {0}};
static const vm_hf_fixed mixtral_fixed[] = {
    TRANSFORMER_FIXED,
    {"sliding_window", "null"},
    {0}
};
static const vm_hf_tensor mixtral_tensors[] = {
    LLAMA_TENSORS,
    WEIGHT("blk.#.ffn_gate_inp", "model.layers.#.block_sparse_moe.gate"),
    WEIGHT("blk.#.ffn_gate_exps", "model.layers.#.block_sparse_moe.experts.#.w1"),
    WEIGHT("blk.#.ffn_up_exps", "model.layers.#.block_sparse_moe.experts.#.w3"),
    WEIGHT("blk.#.ffn_down_exps", "model.layers.#.block_sparse_moe.experts.#.w2"),
    {0}
};

/* ---- Granite MoE, and with shared experts (none where shared_intermediate_size is 0) ---- */

#define GRANITE_MOE_KEYS \
    GRANITE_KEYS, \
    MOE_KEYS, \
    {"intermediate_size", "expert_feed_forward_length", VM_HF_U32, NULL}

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
    {"shared_intermediate_size", "expert_shared_feed_forward_length", VM_HF_U32, "0"},
    {0}
};
static const vm_hf_tensor granite_moe_shared_tensors[] = {
    GRANITE_MOE_TENSORS,
    {"blk.#.ffn_gate_shexp.weight", "model.layers.#.shared_mlp.input_linear.weight", 0, 2, VM_HF_ROWS, ""},
    {"blk.#.ffn_up_shexp.weight", "model.layers.#.shared_mlp.input_linear.weight", 1, 2, VM_HF_ROWS, ""},
    {"blk.#.ffn_down_shexp.weight", "model.layers.#.shared_mlp.output_linear.weight", 0, 0, VM_HF_ROWS, ""},
    {0}
};

/* ---- the list ---- */

static const vm_hf_arch architectures[] = {
    {"llama", "llama", llama_keys, llama_fixed, llama_tensors},
    {"granite", "granite", granite_keys, llama_fixed, llama_tensors},
    {"qwen2", "qwen2", llama_keys, qwen2_fixed, qwen2_tensors},
    {"mixtral", "llama", mixtral_keys, mixtral_fixed, mixtral_tensors},
    {"qwen2_moe", "qwen2moe", qwen2moe_keys, qwen2moe_fixed, qwen2moe_tensors},
    {"deepseek", "deepseek", deepseek_keys, deepseek_fixed, deepseek_tensors},
    {"qwen3_moe", "qwen3moe", qwen3moe_keys, qwen3moe_fixed, qk_norm_moe_tensors},
    {"olmoe", "olmoe", olmoe_keys, olmoe_fixed, qk_norm_moe_tensors},
    {"granitemoe", "granitemoe", granite_moe_keys, granite_moe_fixed, granite_moe_tensors},
    {"granitemoeshared", "granitemoe", granite_moe_shared_keys, granite_moe_fixed, granite_moe_shared_tensors},
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
