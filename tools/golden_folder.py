#!/usr/bin/env python3
"""Folders as transformers' save_pretrained writes them, of the same weights as the tiny GGUFs: what a folder is read as must equal the
file. The shards are small on purpose. Format: docs/ORACLES.md.

    python tools/golden_folder.py [--golden tests/golden]
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

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


def mxfp4_folder(model, path, out):
    """GPT-OSS as it is published: the experts' blocks beside their scales (rows of gate and up in turn, two neighbours a byte), all else as
    save_pretrained has it. transformers' own unpacking must give the model's weights."""
    model.save_pretrained(out)
    state, stored = load_file(out / "model.safetensors"), {t.name: t.data for t in GGUFReader(path).tensors}
    for layer in range(model.config.num_hidden_layers):
        for name, tensors in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            parts = [stored[f"blk.{layer}.ffn_{t}_exps.weight"] for t in tensors]  # [N, rows, 17 a block]
            rows = np.stack(parts, axis=2).reshape(len(parts[0]), -1, parts[0].shape[-1] // 17, 17)
            low, high = rows[..., 1:] & 15, rows[..., 1:] >> 4
            values = np.concatenate([low, high], axis=-1)
            key = f"model.layers.{layer}.mlp.experts.{name}"
            blocks, scales = torch.from_numpy(values[..., ::2] | values[..., 1::2] << 4), torch.from_numpy(rows[..., 0].copy())
            if not torch.equal(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32), state.pop(key)):
                raise SystemExit(f"{key}: MXFP4 is not what the model has")
            state[key + "_blocks"], state[key + "_scales"] = blocks, scales
    save_file({k: v.contiguous() for k, v in state.items()}, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
                                     "quant_method": "mxfp4"}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--golden", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    for name, shard in (("tiny-llama", "5GB"), ("tiny-moe", "60KB"), ("tiny-moe-noshared", "5GB"), ("tiny-mixtral", "5GB"), ("tiny-mistral", "5GB"), ("tiny-qwen2", "5GB"),
                        ("tiny-granite", "5GB"), ("tiny-qwen3moe", "5GB"), ("tiny-olmoe", "5GB"),
                        ("tiny-qwen2moe", "5GB"), ("tiny-deepseek", "5GB"), ("tiny-gpt-oss", "5GB"), ("tiny-gpt-oss-mxfp4", "5GB")):
        model = gguf_to_hf.load(a.golden / f"{name}.gguf")
        if name == "tiny-moe-noshared":
            model = plain_granite(model)
        model.config.rope_parameters = golden_tiny.MODELS[name][2].rope_parameters  # a GGUF has Llama 3's as a tensor
        out = a.golden / f"{name}-folder"
        shutil.rmtree(out, ignore_errors=True)
        if name == "tiny-deepseek":
            deepseek_folder(model, out)
        elif name == "tiny-gpt-oss-mxfp4":
            mxfp4_folder(model, a.golden / f"{name}.gguf", out)
        else:
            model.save_pretrained(out, max_shard_size=shard)
        tokenizer().save_pretrained(out)
        for path in out.iterdir():
            path.chmod(0o644)
        print(name, sum(path.stat().st_size for path in out.iterdir()), sorted(path.name for path in out.iterdir()))


if __name__ == "__main__":
    main()
