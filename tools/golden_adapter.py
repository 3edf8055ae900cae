#!/usr/bin/env python3
"""What peft adds to each weight for an adapter: the delta of every module of one layer, for the adapter of golden_lora.py and for a
second one that uses rank_pattern, alpha_pattern, use_rslora and a single expert parameter (so without nesting).

    python tools/golden_adapter.py [--golden tests/golden]        (after golden_tiny.py and golden_lora.py)
"""
import argparse
import json
import pathlib

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from oracle import gguf_to_hf, store

VARIANT = dict(r=4, lora_alpha=6, use_rslora=True, rank_pattern={"q_proj": 2, "experts.down_proj": 3},
               alpha_pattern={"^model.layers.0.self_attn.q_proj": 5, "down_proj": 7}, target_modules=["q_proj", "v_proj"],
               target_parameters=["experts.down_proj"], lora_dropout=0.0, task_type="CAUSAL_LM")


def deltas(model, layer):
    out = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or f".layers.{layer}." not in name:
            continue
        name = name.removeprefix("base_model.model.")
        if hasattr(module, "parameter_name"):
            name = name.removesuffix(".base_layer")
            if module.parameter_name != "weight":
                name += "." + module.parameter_name
        out[name] = module.get_delta_weight("default").detach()
    return out


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--golden", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    model = PeftModel.from_pretrained(gguf_to_hf.load(a.golden / "tiny-moe.gguf"), a.golden / "tiny-moe-lora")
    out = {f"tiny-moe-lora/{n}": v for n, v in deltas(model, 1).items()}

    directory = a.golden / "adapter-variant"
    model = get_peft_model(gguf_to_hf.load(a.golden / "tiny-moe-neutral.gguf"), LoraConfig(**VARIANT))
    g = torch.Generator().manual_seed(3000)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.4 / p.shape[-1] ** 0.5)
    model.peft_config["default"].base_model_name_or_path = "tiny-moe-neutral"
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    settings = json.loads((directory / "adapter_config.json").read_text())
    settings["target_modules"].sort()  # a set, in another order every time
    (directory / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (directory / "adapter_model.safetensors").chmod(0o644)
    model = PeftModel.from_pretrained(gguf_to_hf.load(a.golden / "tiny-moe-neutral.gguf"), directory)
    out |= {f"adapter-variant/{n}": v for n, v in deltas(model, 0).items()}
    store.save(out, a.golden / "adapter-deltas.safetensors")
    for n, v in out.items():
        print(n, tuple(v.shape), float(v.norm()))


if __name__ == "__main__":
    main()
