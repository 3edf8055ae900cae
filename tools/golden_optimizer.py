#!/usr/bin/env python3
"""AdamW with clipping by the global norm as PyTorch computes it (in f64): values of three parameters after each of six steps.

    python tools/golden_optimizer.py [--golden tests/golden]

optimizer.safetensors: NAME.start [rows, cols]; NAME.grads, NAME.values [6, rows, cols]; rates, norms [6] (global norm before clipping).
weight: decay; bias: none; router: decay, five times the learning rate. Metadata: weight_decay, clip.
"""
import argparse
import pathlib

import torch

from oracle import store

STEPS, WEIGHT_DECAY, CLIP = 6, 0.1, 3.0
SHAPES = {"weight": (5, 7), "bias": (1, 7), "router": (4, 3)}


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--golden", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    g = torch.Generator().manual_seed(7)
    params = {n: torch.randn(s, generator=g).double().requires_grad_() for n, s in SHAPES.items()}
    grads = {n: torch.randn(STEPS, *s, generator=g) for n, s in SHAPES.items()}
    for v in grads.values():
        v[2] *= 0.05  # one step below the clipping norm
    optimizer = torch.optim.AdamW([
        {"params": [params["weight"]], "weight_decay": WEIGHT_DECAY, "scale": 1},
        {"params": [params["bias"]], "weight_decay": 0, "scale": 1},
        {"params": [params["router"]], "weight_decay": WEIGHT_DECAY, "scale": 5}], betas=(0.9, 0.999), eps=1e-8)
    rates = torch.tensor([0.004, 0.008, 0.01, 0.0075, 0.005, 0.0025])
    out = {f"{n}.start": p.detach().float().clone() for n, p in params.items()}
    out |= {f"{n}.grads": v for n, v in grads.items()}
    values, norms = {n: [] for n in SHAPES}, []
    for t in range(STEPS):
        for n, p in params.items():
            p.grad = grads[n][t].double()
        norms.append(torch.nn.utils.clip_grad_norm_(list(params.values()), CLIP))
        for group in optimizer.param_groups:
            group["lr"] = float(rates[t]) * group["scale"]
        optimizer.step()
        for n, p in params.items():
            values[n].append(p.detach().float().clone())
    out |= {f"{n}.values": torch.stack(v) for n, v in values.items()}
    out |= {"rates": rates, "norms": torch.stack(norms).float()}
    print("norms", [round(float(n), 3) for n in norms])
    store.save(out, a.golden / "optimizer.safetensors", weight_decay=WEIGHT_DECAY, clip=CLIP)


if __name__ == "__main__":
    main()
