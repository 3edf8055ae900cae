"""Reads a GGUF into a transformers model (or one of ours, where transformers has none) with f32 weights.

The model that comes back computes with exactly the numbers the file holds (quantised blocks are expanded to f32), so any
difference between it and another reader of the same file is that reader's arithmetic, not its weights.

GGUF stores the rows of Q and K of some architectures in the order that the interleaved rotary embedding wants; transformers rotates halves.
The permutation within a head of size h: GGUF row 2i   = transformers row i
                                         GGUF row 2i+1 = transformers row i + h/2      (i < h/2)
"""
import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import (GptOssConfig, GptOssForCausalLM, GraniteConfig, GraniteForCausalLM, GraniteMoeSharedConfig, GraniteMoeSharedForCausalLM, LlamaConfig,
                          LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

from . import deepseek
from .hf_to_gguf import INTERLEAVED


def unpermute(w, heads):
    """[heads * h, in]: GGUF's interleaved rows -> transformers' rotated halves."""
    h = w.shape[0] // heads
    return w.reshape(heads, h // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def fields(reader):
    """Metadata as a plain dict; arrays become lists."""
    return {name: f.contents() for name, f in reader.fields.items()}


def tensors(reader):
    """name -> f32 numpy array in row-major [.., out, in] order (GGUF lists dimensions fastest first)."""
    out = {}
    for t in reader.tensors:
        shape = tuple(int(n) for n in reversed(t.shape))
        out[t.name] = np.ascontiguousarray(dequantize(t.data, t.tensor_type).reshape(shape).astype(np.float32))
    return out


def rope_parameters(meta, arch):
    key = f"{arch}.rope.scaling."
    out = {"rope_type": "default", "rope_theta": meta.get(f"{arch}.rope.freq_base", 10000.0)}
    kind = meta.get(key + "type", "none")
    if kind == "yarn":
        out.update(rope_type="yarn", factor=meta[key + "factor"], original_max_position_embeddings=meta[key + "original_context_length"],
                   beta_fast=meta.get(key + "yarn_beta_fast", 32.0), beta_slow=meta.get(key + "yarn_beta_slow", 1.0), truncate=arch != "gpt-oss")
    elif kind != "none":
        raise ValueError(f"{key}type {kind} is not supported")
    return out


def common_config(meta, arch, vocab):
    heads = meta[f"{arch}.attention.head_count"]
    dim = meta[f"{arch}.embedding_length"]
    return dict(
        vocab_size=vocab,
        hidden_size=dim,
        num_hidden_layers=meta[f"{arch}.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=meta.get(f"{arch}.attention.head_count_kv", heads),
        max_position_embeddings=meta[f"{arch}.context_length"],
        rms_norm_eps=meta[f"{arch}.attention.layer_norm_rms_epsilon"],
        rope_parameters=rope_parameters(meta, arch),
        head_dim=meta.get(f"{arch}.attention.key_length", dim // heads),
        hidden_act="silu",
        bos_token_id=meta.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=meta.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=None,
        attn_implementation="eager",
    )


def attention(src, arch, heads, kv_heads, layer):
    blk, p = f"blk.{layer}.", f"model.layers.{layer}."
    out = {p + "input_layernorm.weight": src[blk + "attn_norm.weight"],
           p + "post_attention_layernorm.weight": src[blk + ("post_attention_norm" if arch == "gpt-oss" else "ffn_norm") + ".weight"]}
    if arch == "gpt-oss":
        out[p + "self_attn.sinks"] = src[blk + "attn_sinks.weight"]
    for ours, theirs, n in (("attn_q", "q_proj", heads), ("attn_k", "k_proj", kv_heads), ("attn_v", "v_proj", 0), ("attn_output", "o_proj", 0)):
        for kind in ("weight", "bias"):
            if blk + f"{ours}.{kind}" in src:
                value = src[blk + f"{ours}.{kind}"]
                out[p + f"self_attn.{theirs}.{kind}"] = unpermute(value, n) if n and arch in INTERLEAVED else value
    for which in "qk":
        if blk + f"attn_{which}_norm.weight" in src:
            out[p + f"self_attn.{which}_norm.weight"] = src[blk + f"attn_{which}_norm.weight"]
    return out


def multipliers(meta, arch, head):
    """Granite's."""
    return dict(embedding_multiplier=meta.get(f"{arch}.embedding_scale", 1.0),
                residual_multiplier=meta.get(f"{arch}.residual_scale", 1.0), logits_scaling=meta[f"{arch}.logit_scale"],
                attention_multiplier=meta.get(f"{arch}.attention.scale", head ** -0.5))


def load(path):
    """Returns the model (eval mode, f32, eager attention and experts, no gradient needed yet)."""
    reader = GGUFReader(path)
    meta, src = fields(reader), tensors(reader)
    arch = meta["general.architecture"]
    common = common_config(meta, arch, src["token_embd.weight"].shape[0])
    common["tie_word_embeddings"] = "output.weight" not in src
    common["attention_bias"] = "blk.0.attn_output.bias" in src
    heads, kv_heads = common["num_attention_heads"], common["num_key_value_heads"]

    moe, router = "mlp", "gate"  # transformers' names
    if arch == "llama" and meta.get("llama.expert_count", 0):
        config = MixtralConfig(
            intermediate_size=meta["llama.feed_forward_length"], num_local_experts=meta["llama.expert_count"],
            num_experts_per_tok=meta["llama.expert_used_count"], experts_implementation="eager", **common)
        model = MixtralForCausalLM(config)
    elif arch == "llama" and meta.get("llama.attention.sliding_window", 0):
        config = MistralConfig(intermediate_size=meta["llama.feed_forward_length"], sliding_window=meta["llama.attention.sliding_window"], **common)
        model = MistralForCausalLM(config)
    elif arch == "llama":
        config = LlamaConfig(intermediate_size=meta["llama.feed_forward_length"], **common)
        model = LlamaForCausalLM(config)
    elif arch == "qwen2":
        config = Qwen2Config(intermediate_size=meta["qwen2.feed_forward_length"], **common)
        model = Qwen2ForCausalLM(config)
    elif arch == "granite":
        config = GraniteConfig(intermediate_size=meta["granite.feed_forward_length"], **multipliers(meta, arch, common["head_dim"]), **common)
        model = GraniteForCausalLM(config)
    elif arch == "qwen3moe":
        config = Qwen3MoeConfig(
            intermediate_size=meta.get("qwen3moe.feed_forward_length", 1), moe_intermediate_size=meta["qwen3moe.expert_feed_forward_length"],
            num_experts=meta["qwen3moe.expert_count"], num_experts_per_tok=meta["qwen3moe.expert_used_count"], norm_topk_prob=True,
            experts_implementation="eager", **common)
        model = Qwen3MoeForCausalLM(config)
    elif arch == "olmoe":
        config = OlmoeConfig(
            intermediate_size=meta["olmoe.feed_forward_length"], num_experts=meta["olmoe.expert_count"],
            num_experts_per_tok=meta["olmoe.expert_used_count"], norm_topk_prob=False, experts_implementation="eager", **common)
        model = OlmoeForCausalLM(config)
    elif arch == "qwen2moe":
        config = Qwen2MoeConfig(
            intermediate_size=meta["qwen2moe.feed_forward_length"], moe_intermediate_size=meta["qwen2moe.expert_feed_forward_length"],
            shared_expert_intermediate_size=meta["qwen2moe.expert_shared_feed_forward_length"], num_experts=meta["qwen2moe.expert_count"],
            num_experts_per_tok=meta["qwen2moe.expert_used_count"], norm_topk_prob=False, experts_implementation="eager", **common)
        model = Qwen2MoeForCausalLM(config)
    elif arch == "gpt-oss":
        config = GptOssConfig(
            intermediate_size=meta["gpt-oss.expert_feed_forward_length"], num_local_experts=meta["gpt-oss.expert_count"],
            num_experts_per_tok=meta["gpt-oss.expert_used_count"], sliding_window=meta["gpt-oss.attention.sliding_window"],
            experts_implementation="eager", **common)
        model = GptOssForCausalLM(config)
    elif arch == "deepseek":
        config = deepseek.DeepseekConfig(
            intermediate_size=meta["deepseek.feed_forward_length"], first_k_dense_replace=meta["deepseek.leading_dense_block_count"],
            num_experts=meta["deepseek.expert_count"], num_experts_per_tok=meta["deepseek.expert_used_count"],
            n_shared_experts=meta["deepseek.expert_shared_count"],
            moe_intermediate_size=meta["deepseek.expert_feed_forward_length"],
            routed_scaling_factor=meta.get("deepseek.expert_weights_scale", 1.0), **common)
        model = deepseek.DeepseekForCausalLM(config)
    elif arch == "granitemoe":
        moe, router = "block_sparse_moe", "router"
        # expert_feed_forward_length wins where both are given, as it is the unambiguous one
        width = meta.get("granitemoe.expert_feed_forward_length", meta.get("granitemoe.feed_forward_length"))
        config = GraniteMoeSharedConfig(
            intermediate_size=width,
            shared_intermediate_size=meta.get("granitemoe.expert_shared_feed_forward_length", 0),
            num_local_experts=meta["granitemoe.expert_count"],
            num_experts_per_tok=meta["granitemoe.expert_used_count"],
            experts_implementation="eager", **multipliers(meta, arch, common["head_dim"]), **common)
        model = GraniteMoeSharedForCausalLM(config)
    else:
        raise ValueError(f"{path}: architecture {arch} is not supported")

    state = {"model.embed_tokens.weight": src["token_embd.weight"], "model.norm.weight": src["output_norm.weight"]}
    if "output.weight" in src:
        state["lm_head.weight"] = src["output.weight"]
    for i in range(config.num_hidden_layers):
        blk, p = f"blk.{i}.", f"model.layers.{i}."
        state.update(attention(src, arch, heads, kv_heads, i))
        if blk + "ffn_gate.weight" in src:
            for ours, theirs in (("gate", "gate"), ("up", "up"), ("down", "down")):
                state[p + f"mlp.{theirs}_proj.weight"] = src[blk + f"ffn_{ours}.weight"]
            continue
        if arch == "gpt-oss":
            state[p + "mlp.router.weight"], state[p + "mlp.router.bias"] = src[blk + "ffn_gate_inp.weight"], src[blk + "ffn_gate_inp.bias"]
            for suffix, kind, axis in (("", "weight", 2), ("_bias", "bias", 1)):
                gate, up, down = (src[blk + f"ffn_{part}_exps.{kind}"] for part in ("gate", "up", "down"))
                pair = np.stack([gate, up], axis=2).reshape(gate.shape[0], -1, *gate.shape[2:])
                state[p + "mlp.experts.gate_up_proj" + suffix] = np.ascontiguousarray(pair.swapaxes(1, 2) if axis == 2 else pair)
                state[p + "mlp.experts.down_proj" + suffix] = np.ascontiguousarray(down.swapaxes(1, 2) if axis == 2 else down)
            continue
        state[p + f"{moe}.{router}.weight"] = src[blk + "ffn_gate_inp.weight"]
        state[p + f"{moe}.experts.gate_up_proj"] = np.concatenate(
            [src[blk + "ffn_gate_exps.weight"], src[blk + "ffn_up_exps.weight"]], axis=1)
        state[p + f"{moe}.experts.down_proj"] = src[blk + "ffn_down_exps.weight"]
        if getattr(config, "shared_intermediate_size", 0):
            state[p + "shared_mlp.input_linear.weight"] = np.concatenate(
                [src[blk + "ffn_gate_shexp.weight"], src[blk + "ffn_up_shexp.weight"]], axis=0)
            state[p + "shared_mlp.output_linear.weight"] = src[blk + "ffn_down_shexp.weight"]
        if arch in ("deepseek", "qwen2moe"):
            for part in ("gate", "up", "down"):
                shared = "shared_experts" if arch == "deepseek" else "shared_expert"
                state[p + f"mlp.{shared}.{part}_proj.weight"] = src[blk + f"ffn_{part}_shexp.weight"]
        if arch == "qwen2moe":
            state[p + "mlp.shared_expert_gate.weight"] = src[blk + "ffn_gate_inp_shexp.weight"][None]

    missing, unexpected = model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    missing = [m for m in missing if not (m == "lm_head.weight" and config.tie_word_embeddings)]
    if missing or unexpected:
        raise ValueError(f"{path}: weights missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    if "rope_freqs.weight" in src:
        model.model.rotary_emb.inv_freq /= torch.from_numpy(src["rope_freqs.weight"])
    return model.float().eval()
