#!/usr/bin/env python3
"""LoRA adapters as peft writes them, on the tiny models: the adapter directory, the logits it gives and the gradients of A and B.
Format, tensor names and formulae: docs/ORACLES.md.

    python tools/golden_lora.py [--golden tests/golden]        (after golden_tiny.py)
"""
import argparse
import json
import pathlib
import sys

from oracle import gguf_to_hf, store  # first: it keeps peft from looking the base model up on the network
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

import golden_tiny

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]
ADAPTERS = {
    "tiny-llama": dict(target_modules=ATTENTION + ["gate_proj", "up_proj", "down_proj"]),
    # routed experts and the router are bare parameters in transformers 5, not Linear modules
    "tiny-moe": dict(target_modules=ATTENTION + ["shared_mlp.input_linear", "shared_mlp.output_linear"],
                     target_parameters=["block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj",
                                        "block_sparse_moe.router.weight"]),
    "tiny-mixtral": dict(target_modules=ATTENTION, target_parameters=MLP_EXPERTS),
    "tiny-qwen3moe": dict(target_modules=ATTENTION, target_parameters=MLP_EXPERTS),
    "tiny-gpt-oss": dict(target_modules=ATTENTION, target_parameters=MLP_EXPERTS[:2] + ["mlp.router.weight"]),
}


def merge(base, directory):
    """The adapter by the formulae in docs/ORACLES.md, without peft: proof that the page is right."""
    model = gguf_to_hf.load(base)
    settings = json.loads((directory / "adapter_config.json").read_text())
    r, scale = settings["r"], settings["lora_alpha"] / settings["r"]
    lora = load_file(directory / "adapter_model.safetensors")
    inner = {"experts.base_layer": "experts.gate_up_proj", "experts": "experts.down_proj", "router": "router.weight",
             "gate": "gate.weight"}
    for name in [n for n in lora if n.endswith(".lora_A.weight")]:
        A, B = lora[name], lora[name.replace("lora_A", "lora_B")]
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        short = module.partition("block_sparse_moe.")[2] or module.partition("mlp.")[2]
        target = module.removesuffix(short) + inner[short] if short in inner else module + ".weight"
        weight = model.get_parameter(target)
        with torch.no_grad():
            if weight.dim() == 3:
                n = weight.shape[0]
                for e in range(n):
                    delta = scale * B[:, e::n] @ A[e * r:(e + 1) * r]
                    weight[e] += delta.T if model.config.model_type == "gpt_oss" else delta  # which has its experts [in, out]
            else:
                weight += scale * B @ A
    return model


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--golden", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    for base, targets in ADAPTERS.items():
        seed, _, config = golden_tiny.MODELS[base]
        directory = a.golden / f"{base}-lora"
        model = get_peft_model(gguf_to_hf.load(a.golden / f"{base}.gguf"),
                               LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **targets))
        g = torch.Generator().manual_seed(2000 + seed)
        with torch.no_grad():
            for name, p in sorted(model.named_parameters()):
                if "lora_" in name:  # B too: an adapter with B = 0 would test nothing
                    p.copy_(torch.randn(p.shape, generator=g) * 0.4 / p.shape[-1] ** 0.5)
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(directory, save_embedding_layers=False)
        config_path = directory / "adapter_config.json"  # peft keeps sets: sort them, so that a rerun writes the same bytes
        settings = json.loads(config_path.read_text())
        for key in ("target_modules", "target_parameters"):
            settings[key] = sorted(settings[key]) if settings[key] else settings[key]
        config_path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        (directory / "README.md").unlink(missing_ok=True)
        (directory / "adapter_model.safetensors").chmod(0o644)

        # what is recorded is the adapter as read back from disk
        model = PeftModel.from_pretrained(gguf_to_hf.load(a.golden / f"{base}.gguf"), directory, is_trainable=True).eval()
        out = golden_tiny.measure(model, seed)
        gap = golden_tiny.margin(out, getattr(config, "num_experts_per_tok", 0))
        if gap < 1e-3:
            sys.exit(f"{base}: selection margin {gap} is too thin for a golden file; change the seed")
        wrong = float((out["logits"] - golden_tiny.measure(merge(a.golden / f"{base}.gguf", directory), seed)["logits"]).abs().max())
        if wrong > 1e-4:
            sys.exit(f"{base}: the documented formula gives other logits than peft, by {wrong}")
        saved = get_peft_model_state_dict(model)
        grads = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.requires_grad}
        if set(saved) != set(grads):
            sys.exit(f"{base}: names on disk and in the model differ: {sorted(set(saved) ^ set(grads))}")
        for n, v in sorted(grads.items()):
            out["grad." + n] = v
        keep = {k: v for k, v in out.items() if not k.startswith("hidden.")}
        store.save(keep, a.golden / f"{base}-lora.safetensors", model=base, adapter=f"{base}-lora", seed=seed)
        print(f"{base}-lora: loss {float(out['loss']):.6f} least margin {gap:.4f}")
        for n, v in sorted(saved.items()):
            if ".layers.0." in n:
                print("   ", n, tuple(v.shape), f"|grad| {float(grads[n].norm()):.4f}")


if __name__ == "__main__":
    main()
