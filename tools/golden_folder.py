#!/usr/bin/env python3
"""Folders as transformers' save_pretrained writes them, of the same weights as the tiny GGUFs: what a folder is read as must equal the
file. The shards are small on purpose. Format: docs/ORACLES.md.

    python tools/golden_folder.py [--golden tests/golden]
"""
import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, PreTrainedTokenizerFast

import golden_tiny
from oracle import gguf_to_hf, hf_to_gguf


def tokenizer():
    """The vocabulary of the tiny GGUFs: SmolLM2's pre-tokenizer over bytes."""
    vocab = {text: i for i, text in enumerate(hf_to_gguf.vocabulary())}
    t = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m.split(" ")) for m in hf_to_gguf.MERGES]))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in hf_to_gguf.CONTROL])
    out = PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<|im_start|>", eos_token="<|im_end|>",
                                  unk_token="<|endoftext|>", pad_token="<|im_end|>")
    out.chat_template = hf_to_gguf.CHAT_TEMPLATE
    return out


def plain_granite(model):
    """The same weights without the class's shared experts: model_type granitemoe."""
    fields = {k: v for k, v in model.config.to_dict().items()
              if k not in ("model_type", "architectures", "shared_intermediate_size", "transformers_version")}
    out = GraniteMoeForCausalLM(GraniteMoeConfig(**fields))
    out.load_state_dict(model.state_dict())
    return out.eval()


def deepseek_folder(model, out):
    """DeepSeek's class is remote code: its names of 2024, a tensor an expert."""
    c, state = model.config, {}
    for name, p in model.state_dict().items():
        if ".experts.gate_up_proj" in name or ".experts.down_proj" in name:
            stem = name[:name.index(".experts.")] + ".experts."
            for e in range(p.shape[0]):
                if "gate_up" in name:
                    state[f"{stem}{e}.gate_proj.weight"], state[f"{stem}{e}.up_proj.weight"] = p[e].chunk(2)
                else:
                    state[f"{stem}{e}.down_proj.weight"] = p[e]
        elif not (name == "lm_head.weight" and c.tie_word_embeddings) and "rotary" not in name:
            state[name] = p
    out.mkdir()
    save_file({k: v.contiguous().clone() for k, v in state.items()}, out / "model.safetensors", metadata={"format": "pt"})
    fields = dict(model_type="deepseek", n_routed_experts=c.num_experts, rope_theta=c.rope_parameters["rope_theta"], rope_scaling=None,
                  hidden_act="silu", attention_bias=False, moe_layer_freq=1, norm_topk_prob=False, scoring_func="softmax")
    for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads",
                 "max_position_embeddings", "rms_norm_eps", "vocab_size", "num_experts_per_tok", "n_shared_experts",
                 "moe_intermediate_size", "first_k_dense_replace", "routed_scaling_factor", "tie_word_embeddings", "bos_token_id",
                 "eos_token_id"):
        fields[name] = getattr(c, name)
    (out / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--golden", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    for name, shard in (("tiny-llama", "5GB"), ("tiny-moe", "60KB"), ("tiny-moe-noshared", "5GB"), ("tiny-mixtral", "5GB"), ("tiny-mistral", "5GB"), ("tiny-qwen2", "5GB"),
                        ("tiny-granite", "5GB"), ("tiny-qwen3moe", "5GB"), ("tiny-olmoe", "5GB"),
                        ("tiny-qwen2moe", "5GB"), ("tiny-deepseek", "5GB")):
        model = gguf_to_hf.load(a.golden / f"{name}.gguf")
        if name == "tiny-moe-noshared":
            model = plain_granite(model)
        model.config.rope_parameters = golden_tiny.MODELS[name][2].rope_parameters  # a GGUF has Llama 3's as a tensor
        out = a.golden / f"{name}-folder"
        shutil.rmtree(out, ignore_errors=True)
        if name == "tiny-deepseek":
            deepseek_folder(model, out)
        else:
            model.save_pretrained(out, max_shard_size=shard)
        tokenizer().save_pretrained(out)
        for path in out.iterdir():
            path.chmod(0o644)
        print(name, sum(path.stat().st_size for path in out.iterdir()), sorted(path.name for path in out.iterdir()))


if __name__ == "__main__":
    main()
