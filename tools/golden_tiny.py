#!/usr/bin/env python3
"""Tiny models (complete GGUF files) and what transformers computes with them: logits, hidden states, routing, cloze loss and
the gradient of every parameter. Format: docs/ORACLES.md.

    python tools/golden_tiny.py [--out tests/golden]
"""
import argparse
import pathlib
import sys

import torch
from transformers import (GptOssConfig, GptOssForCausalLM, GraniteConfig, GraniteForCausalLM, GraniteMoeSharedConfig, GraniteMoeSharedForCausalLM, LlamaConfig,
                          LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

from oracle import cloze, deepseek, gguf_to_hf, hf_to_gguf, store

VOCAB = len(hf_to_gguf.vocabulary())
COMMON = dict(vocab_size=VOCAB, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
              rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
              rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
MOE = dict(COMMON, intermediate_size=16, experts_implementation="eager")
NEUTRAL = dict(embedding_multiplier=1.0, residual_multiplier=1.0, logits_scaling=1.0, attention_multiplier=8 ** -0.5)



def scaled(**rope):
    return dict(COMMON, rope_parameters=dict(rope_theta=10000.0, **rope))


MODELS = {
    "tiny-llama": (1, LlamaForCausalLM, LlamaConfig(
        intermediate_size=48, num_hidden_layers=3, tie_word_embeddings=True, **COMMON)),
    "tiny-moe": (4, GraniteMoeSharedForCausalLM, GraniteMoeSharedConfig(
        num_hidden_layers=2, num_local_experts=8, num_experts_per_tok=3, shared_intermediate_size=32, tie_word_embeddings=True,
        embedding_multiplier=1.5, residual_multiplier=0.7, logits_scaling=2.0, attention_multiplier=0.3, **MOE)),
    "tiny-moe-neutral": (5, GraniteMoeSharedForCausalLM, GraniteMoeSharedConfig(
        num_hidden_layers=1, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=32, tie_word_embeddings=True,
        **NEUTRAL, **MOE)),
    "tiny-moe-noshared": (6, GraniteMoeSharedForCausalLM, GraniteMoeSharedConfig(
        num_hidden_layers=1, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=0, tie_word_embeddings=False,
        **NEUTRAL, **MOE)),
    "tiny-qwen2": (9, Qwen2ForCausalLM, Qwen2Config(
        intermediate_size=48, num_hidden_layers=1, tie_word_embeddings=True, **scaled(
            rope_type="yarn", factor=2.0, original_max_position_embeddings=64))),
    "tiny-granite": (10, GraniteForCausalLM, GraniteConfig(
        intermediate_size=48, num_hidden_layers=1, tie_word_embeddings=True, embedding_multiplier=1.5, residual_multiplier=0.7, logits_scaling=2.0,
        attention_multiplier=0.3, attention_bias=True, **scaled(
            rope_type="llama3", factor=4.0, low_freq_factor=0.5, high_freq_factor=2.0, original_max_position_embeddings=32))),
    "tiny-qwen3moe": (11, Qwen3MoeForCausalLM, Qwen3MoeConfig(
        num_hidden_layers=1, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=16, norm_topk_prob=True, tie_word_embeddings=True,
        **MOE)),
    "tiny-olmoe": (12, OlmoeForCausalLM, OlmoeConfig(
        num_hidden_layers=1, num_experts=4, num_experts_per_tok=2, norm_topk_prob=False, tie_word_embeddings=False,
        **dict(MOE, num_key_value_heads=4))),
    "tiny-mistral": (14, MistralForCausalLM, MistralConfig(
        intermediate_size=48, num_hidden_layers=2, tie_word_embeddings=True, sliding_window=4, head_dim=8, **COMMON)),
    "tiny-mixtral": (8, MixtralForCausalLM, MixtralConfig(
        num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False, **MOE)),
    "tiny-qwen2moe": (33, Qwen2MoeForCausalLM, Qwen2MoeConfig(
        num_hidden_layers=2, intermediate_size=48, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=8,
        shared_expert_intermediate_size=24, norm_topk_prob=False, tie_word_embeddings=False, experts_implementation="eager", **COMMON)),
    "tiny-gpt-oss": (54, GptOssForCausalLM, GptOssConfig(
        num_hidden_layers=2, intermediate_size=8, num_local_experts=8, num_experts_per_tok=3, head_dim=8, sliding_window=4,
        tie_word_embeddings=False, experts_implementation="eager", **scaled(
            rope_type="yarn", factor=2.0, original_max_position_embeddings=64, truncate=False))),
    "tiny-gpt-oss-mxfp4": (82, GptOssForCausalLM, GptOssConfig(
        num_hidden_layers=1, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, head_dim=8, sliding_window=4,
        tie_word_embeddings=False, experts_implementation="eager", **COMMON)),
    "tiny-deepseek": (15, deepseek.DeepseekForCausalLM, deepseek.DeepseekConfig(
        num_hidden_layers=3, intermediate_size=48, first_k_dense_replace=1, num_experts=8, n_shared_experts=2,
        num_experts_per_tok=3, moe_intermediate_size=8, routed_scaling_factor=1.5, tie_word_embeddings=True, **COMMON)),
}


def fill(model, seed):
    """Weights that keep every activation near 1, so that no term of the arithmetic hides behind another."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            n = torch.randn(p.shape, generator=g)
            if "norm" in name:
                p.copy_(1 + 0.2 * n)
            elif "embed_tokens" in name:
                p.copy_(0.5 * n)
            else:
                p.copy_(n * 1.3 / p.shape[-1] ** 0.5)


def inputs(seed):
    """Three free sequences, then a prefix with three continuations of different lengths."""
    g = torch.Generator().manual_seed(1000 + seed)

    def ids(n):
        return torch.randint(3, VOCAB, (n,), generator=g).tolist()

    free = [ids(1), [1] + ids(5) + [2], ids(12)]
    return free, ids(6), [ids(3), ids(1), ids(4)], 1


def measure(model, seed):
    """Everything but the gradients' names; the model's trainable parameters carry .grad afterwards."""
    free, prefix, choices, right = inputs(seed)
    sequences = free + [prefix + c for c in choices]
    out = {}
    out["ids"], out["offsets"] = cloze.flat(sequences)
    out["prefix"] = torch.tensor(prefix, dtype=torch.int32)
    out["choices"], out["choice_offsets"] = cloze.flat(choices)
    out["right"] = torch.tensor([right], dtype=torch.int32)
    out.update(cloze.record(model, sequences))
    model.zero_grad()
    score = cloze.scores(model, prefix, choices)
    loss = cloze.loss(score, right)
    loss.backward()
    out["scores"], out["loss"] = score.detach(), loss.detach()[None]
    return out


def margin(out, k):
    """Smallest gap between the k-th and the k+1-th router logit: a golden selection must not hang on a rounding error."""
    gaps = [float((v.sort(descending=True).values[:, k - 1] - v.sort(descending=True).values[:, k]).min())
            for name, v in out.items() if name.startswith("router_logits.")]
    return min(gaps) if gaps else float("inf")


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, (seed, kind, config) in MODELS.items():
        model = kind(config).float().eval()
        fill(model, seed)
        path = a.out / f"{name}.gguf"
        quantised = name.endswith("-mxfp4")
        hf_to_gguf.write(model, path, name, quantised)
        back = gguf_to_hf.load(path)
        for (n1, p1), (n2, p2) in zip(sorted(model.named_parameters()), sorted(back.named_parameters())):
            if n1 != n2 or float((p1 - p2).norm() / p1.norm()) > (0.2 if quantised else 0):
                sys.exit(f"{name}: {n1} does not survive the round trip through GGUF")
        if not torch.allclose(model.model.rotary_emb.inv_freq, back.model.rotary_emb.inv_freq, rtol=1e-6):
            sys.exit(f"{name}: RoPE does not survive the round trip through GGUF")
        out = measure(back, seed)
        gap = margin(out, getattr(config, "num_experts_per_tok", 0))
        if gap < 1e-3:
            sys.exit(f"{name}: selection margin {gap} is too thin for a golden file; change the seed")
        for n, p in back.named_parameters():
            if config.model_type != "gpt_oss" or ".experts." not in n:
                out["grad." + n] = p.grad
        if config.model_type == "gpt_oss":  # by GGUF's names, and as GGUF has them
            for i, layer in enumerate(back.model.layers):
                for n, value in hf_to_gguf.gpt_oss_experts(lambda n: getattr(layer.mlp.experts, n).grad).items():
                    out[f"grad.blk.{i}.{n}"] = value.contiguous()
        store.save(out, a.out / f"{name}.safetensors", model=name, seed=seed, right=1)
        print(f"{name}: loss {float(out['loss']):.6f} scores {out['scores'].tolist()} logit rms "
              f"{float(out['logits'].std()):.3f} least margin {gap:.4f} "
              f"gguf {path.stat().st_size} golden {(a.out / (name + '.safetensors')).stat().st_size}")


if __name__ == "__main__":
    main()
