#!/usr/bin/env python3
"""The adapters of golden_lora.py as llama.cpp has them: <name>-lora.gguf beside the folder, f32, with the base model's tensor names and order of rows.
With --check also how far llama.cpp's logits with it are from peft's.

    python tools/golden_lora_gguf.py [--golden tests/golden] [--check]        (after golden_tiny.py and golden_lora.py)
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
from safetensors.numpy import load_file

from oracle import hf_to_gguf

PREFIX = "base_model.model.model.layers."
PLAIN = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "block_sparse_moe.router": "ffn_gate_inp",
         "shared_mlp.input_linear": ("ffn_gate_shexp", "ffn_up_shexp"), "shared_mlp.output_linear": "ffn_down_shexp"}
# Two parameters of one container: the first one's adapter is nested.
STACKS = {"block_sparse_moe.experts.base_layer": ("ffn_gate_exps", "ffn_up_exps"), "block_sparse_moe.experts": "ffn_down_exps"}


def tensors(state, experts, heads):
    """(GGUF name without suffix, A, B) of every weight."""
    for key in sorted(k for k in state if ".lora_A." in k):
        a, b = state[key], state[key.replace(".lora_A.", ".lora_B.")]
        layer, module = key.removeprefix(PREFIX).removesuffix(".lora_A.weight").split(".", 1)
        if module in STACKS:
            names, rank = STACKS[module], a.shape[0] // experts
            a = a.reshape(experts, rank, a.shape[1])
            b = b.reshape(b.shape[0], rank, experts).transpose(2, 0, 1)
        else:
            names = PLAIN[module]
        if module in ("self_attn.q_proj", "self_attn.k_proj"):
            b = hf_to_gguf.permute(b, heads[module[10]])
        if isinstance(names, str):
            yield f"blk.{layer}.{names}.weight", a, b
        else:  # gate and up share A
            half = b.shape[-2] // 2
            yield f"blk.{layer}.{names[0]}.weight", a, b[..., :half, :]
            yield f"blk.{layer}.{names[1]}.weight", a, b[..., half:, :]


def write(golden, name):
    base = gguf.GGUFReader(golden / f"{name}.gguf")
    arch = base.fields["general.architecture"].contents()

    def value(key):
        return base.fields[f"{arch}.{key}"].contents() if f"{arch}.{key}" in base.fields else 0

    folder = golden / f"{name}-lora"
    settings = json.loads((folder / "adapter_config.json").read_text())
    w = gguf.GGUFWriter(golden / f"{name}-lora.gguf", arch)
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", float(settings["lora_alpha"]))
    heads = {"q": value("attention.head_count"), "k": value("attention.head_count_kv")}
    for tensor, a, b in tensors(load_file(folder / "adapter_model.safetensors"), value("expert_count"), heads):
        w.add_tensor(tensor + ".lora_a", np.ascontiguousarray(a, dtype=np.float32))
        w.add_tensor(tensor + ".lora_b", np.ascontiguousarray(b, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def check(golden, name):
    import torch
    from peft import PeftModel

    from oracle import compare, gguf_to_hf, llamacpp
    torch.set_num_threads(1)
    model = PeftModel.from_pretrained(gguf_to_hf.load(golden / f"{name}.gguf"), golden / f"{name}-lora")
    g = load_file(golden / f"{name}.safetensors")
    ids = [g["ids"][s:e].tolist() for s, e in zip(g["offsets"][:-1], g["offsets"][1:])]
    with torch.no_grad():
        ours = np.stack([model(input_ids=torch.tensor([p])).logits[0, -1].numpy() for p in ids])
    compare.report(ours, llamacpp.last_logits(golden / f"{name}.gguf", ids, adapter=golden / f"{name}-lora.gguf"),
                   f"{name}: peft against llama.cpp")


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--golden", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a.add_argument("--check", action="store_true")
    a = a.parse_args()
    for name in ("tiny-llama", "tiny-moe"):
        write(a.golden, name)
        if a.check:
            check(a.golden, name)


if __name__ == "__main__":
    main()
