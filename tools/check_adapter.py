#!/usr/bin/env python3
"""Does peft read the adapter our program wrote, and do both then compute the same?

    python tools/check_adapter.py BASE.gguf ADAPTER_DIR --dump DUMP.safetensors [--tolerance X]
    python tools/check_adapter.py BASE.gguf ADAPTER_DIR --ids 5,9,12

DUMP, written by our program with the adapter on: {"ids": i32 flat, "offsets": i32 [n + 1], "logits": f32 [n, vocab]} (last
position of each prompt). With --ids the last position's largest logits are printed. Every tensor of the adapter's file must be one
that peft knows, and every one peft expects must be there. Exit status 1 when a logit differs by more than the tolerance.
"""
import argparse
import pathlib

from oracle import compare, gguf_to_hf  # first: it keeps peft from looking the base model up on the network
import numpy as np
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("base")
    a.add_argument("adapter", type=pathlib.Path)
    which = a.add_mutually_exclusive_group(required=True)
    which.add_argument("--dump")
    which.add_argument("--ids", help="token ids, separated by commas")
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--tolerance", type=float, default=float("inf"))
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    model = PeftModel.from_pretrained(gguf_to_hf.load(a.base), a.adapter).eval()

    stored, known = load_file(a.adapter / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    if set(stored) != set(known):
        raise SystemExit(f"tensors only in the file: {sorted(set(stored) - set(known))}, "
                         f"only in peft: {sorted(set(known) - set(stored))}")
    for name, t in stored.items():
        if not torch.equal(t.float(), known[name].float()):
            raise SystemExit(f"{name}: peft did not load the stored values")

    @torch.no_grad()
    def last(ids):
        return model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()

    if a.ids:
        row = last([int(i) for i in a.ids.split(",")])
        for i in row.argsort()[::-1][:10]:
            print(f"{i:8d} {row[i]:.6f}")
        return
    ids, ours = compare.dump(a.dump)
    worst = compare.report(ours, np.stack([last(p) for p in ids]), f"vmoer against peft ({len(stored)} tensors)")
    raise SystemExit(worst > a.tolerance)


if __name__ == "__main__":
    main()
