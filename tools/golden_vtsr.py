#!/usr/bin/env python3
"""Variational temperature, sampled routing (tests/golden/vtsr.safetensors): one layer's forward, regulariser and gradients, the choice of the experts
straight through by the detach trick. Format: docs/ORACLES.md.

    python tools/golden_vtsr.py [--golden tests/golden]
"""
import argparse
import pathlib

import torch

from oracle import store

N, K, DIM, TOKENS, WIDTH, BETA, TAU, BOUND = 7, 3, 8, 6, 5, 0.3, 0.7, 3.0


def case(noise, renormalise, generator):
    def normal(*shape):
        return torch.randn(*shape, generator=generator).float().double()

    outputs = 2 if noise else 1
    w = {"trunk.weight": normal(WIDTH, DIM) / DIM ** 0.5, "trunk.bias": 0.1 * normal(WIDTH),
         "scale.weight": normal(outputs, WIDTH), "scale.bias": 0.1 * normal(outputs)}
    w = {k: v.float().double().requires_grad_() for k, v in w.items()}
    u, l_det = normal(TOKENS, DIM).requires_grad_(), normal(TOKENS, N).requires_grad_()
    eps, U = normal(TOKENS, 1), torch.rand(TOKENS, N, generator=generator, dtype=torch.double)
    G = (-torch.log(-torch.log(U))).float().double()
    weights = normal(TOKENS, N)

    h = torch.nn.functional.silu(u @ w["trunk.weight"].T + w["trunk.bias"])
    raw = h @ w["scale.weight"].T + w["scale.bias"]
    mu = raw[:, :1]
    if noise:
        s = raw[:, 1:].exp()
        z = mu + s * eps
        q, prior = torch.distributions.Normal(mu, s), torch.distributions.Normal(torch.zeros(1).double(), TAU)
        kl = torch.distributions.kl_divergence(q, prior)[:, 0]
    else:
        z = mu
    log_T = BOUND * torch.tanh(z / BOUND)
    if not noise:
        kl = -log_T[:, 0]
    l = l_det * torch.exp(-log_T)
    p = torch.softmax(l, -1)
    chosen = (l + G).topk(K, -1).indices
    relaxed = torch.softmax(l + G, -1)
    choice = torch.zeros_like(p).scatter(-1, chosen, 1.0) + relaxed - relaxed.detach()
    held = torch.zeros_like(p).scatter(-1, chosen, 1.0).detach()  # experts that did not run have no gradient
    gate = held * choice * p
    if renormalise:
        gate = gate / gate.sum(-1, keepdim=True)
    loss = (gate * weights).sum() + BETA * kl.sum()
    leaves = {**w, "u": u, "logits": l_det}
    grads = torch.autograd.grad(loss, list(leaves.values()))
    out = {"u": u, "logits": l_det, "eps": eps, "gumbels": G, "weights": weights, **w, "p": p, "scores": l + G, "kl": kl, "gate": gate,
           "loss": loss[None]}
    out = {k: v.detach().float() for k, v in out.items()}
    out.update({f"grad.{k}": g.float() for k, g in zip(leaves, grads)})
    out["chosen"] = chosen.int()
    print(f"loss {float(loss.detach()):.6f}, T {torch.exp(log_T.detach()).flatten().tolist()}")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", default="tests/golden", type=pathlib.Path)
    g, out = torch.Generator().manual_seed(7), {}
    for name, noise in (("vtsr", True), ("vtsr-paper", False)):
        for gates, renormalise in (("plain", False), ("renormalised", True)):
            out.update({f"{name}.{gates}.{k}": v for k, v in case(noise, renormalise, g).items()})
    store.save(out, parser.parse_args().golden / "vtsr.safetensors", K=K, beta=BETA, tau=TAU)


if __name__ == "__main__":
    main()
