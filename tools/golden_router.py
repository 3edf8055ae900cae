#!/usr/bin/env python3
"""The variational router by itself (tests/golden/router.safetensors) and inside the tiny MoE model with the full ELBO objective
(tests/golden/tiny-moe-elbo.safetensors). Format: docs/ORACLES.md.

    python tools/golden_router.py [--golden tests/golden]        (after golden_tiny.py)
"""
import argparse
import pathlib
import sys

import torch

import golden_tiny
from oracle import cloze, gguf_to_hf, rng, store, vglr

DIM, TOKENS, WIDTH, BETA = 16, 5, 8, 0.1
PRIORS = {"s1": 1.0, "s05": 0.5}
DRAWS = 1_000_000


def exact(t):
    """A random f32 value as f64: what the file holds is what was computed with."""
    return t.float().double()


def check_kl(dmu, L, s0):
    n = dmu.shape[-1]
    q = torch.distributions.MultivariateNormal(dmu, scale_tril=L)
    p = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=torch.double), s0 ** 2 * torch.eye(n, dtype=torch.double))
    gap = float((vglr.kl(dmu, L, s0) - torch.distributions.kl_divergence(q, p)).detach().abs().max())
    if gap > 1e-9:
        sys.exit(f"the KL formula is off by {gap}")


def monte_carlo(m, L, generator):
    """E softmax over plain draws, and its standard error."""
    total, square, chunk = torch.zeros_like(m), torch.zeros_like(m), 50_000
    for _ in range(DRAWS // chunk):
        eps = torch.randn(chunk, m.shape[-1], generator=generator, dtype=torch.double)
        for t in range(len(m)):
            p = torch.softmax(m[t] + eps @ L[t].T, -1)
            total[t] += p.sum(0)
            square[t] += (p ** 2).sum(0)
    mean = total / DRAWS
    return mean, ((square / DRAWS - mean ** 2) / (DRAWS - 1)).sqrt()


def layer(n, rank, generator):
    def normal(*shape):
        return exact(torch.randn(*shape, generator=generator))

    w = {k: exact(v).requires_grad_() for k, v in vglr.parameters(n, DIM, WIDTH, rank, generator).items()}
    u, l_det = normal(TOKENS, DIM).requires_grad_(), normal(TOKENS, n).requires_grad_()
    eps, weights = normal(TOKENS, n), normal(TOKENS, n)
    out = {"u": u, "logits": l_det, "eps": eps, "weights": weights, **w}
    l, dmu, L = vglr.draw(w, u, l_det, eps)
    p = torch.softmax(l, -1)
    with torch.no_grad():
        m = l_det + dmu
        mc, error = monte_carlo(m, L, generator)
        total, projected = vglr.traces(L)
        P = torch.eye(n, dtype=torch.double) - 1 / n
        S = L @ L.transpose(-2, -1)
        same = torch.allclose(projected, torch.diagonal(P @ S @ P, dim1=-2, dim2=-1).sum(-1), atol=1e-12)
        if not same or not torch.allclose(total, torch.diagonal(S, dim1=-2, dim2=-1).sum(-1), atol=1e-12):
            sys.exit("the traces do not agree with their definition")
        out.update({"dmu": dmu, "l": l, "p": p, "mean.p": torch.softmax(m, -1), "closed.p": vglr.closed(m, L),
                    "mc.p": mc, "mc.error": error, "trace": total, "trace_projected": projected})
        out["L"] = L[:, *vglr.entries(n, rank)]
    for name, s0 in PRIORS.items():
        check_kl(dmu, L, s0)
        kl = vglr.kl(dmu, L, s0)
        loss = (p * weights).sum() + BETA * kl.mean()
        leaves = {**w, "u": u, "logits": l_det}
        grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        out[f"{name}.kl"], out[f"{name}.loss"] = kl, loss[None]
        out.update({f"{name}.grad.{k}": g for k, g in zip(leaves, grads)})
    return {k: v.detach().float() for k, v in out.items()}


def routers(path):
    out, g = {}, torch.Generator().manual_seed(42)
    for family, n, rank in (("mf", 4, 0), ("fc", 4, 3), ("mf", 24, 0), ("fc", 24, 23), ("lr", 24, 3)):
        one = layer(n, rank, g)
        worst = float((one["closed.p"] - one["mc.p"]).abs().max())
        print(f"{family}{n}: KL {one['s1.kl'].mean():.4f} loss {float(one['s1.loss']):.5f}, closed form against {DRAWS} draws: "
              f"max {worst:.4f} (largest standard error {float(one['mc.error'].max()):.2g}), plug-in mean "
              f"{float((one['mean.p'] - one['mc.p']).abs().max()):.4f}")
        out.update({f"{family}{n}.{k}": v for k, v in one.items()})
    store.save(out, path, beta=BETA, dim=DIM, tokens=TOKENS, width=WIDTH, draws=DRAWS)


# ---- inside a model ----
SEED, STEP, ITEM, DRAW, SAMPLES, PRIOR = 123, 5, 9, 0, 32, 0.5
LAYERS = [0, 1]


class VariationalRouter(torch.nn.Module):
    """Takes the place of GraniteMoeSharedTopKRouter; `how` decides what routes: a list of eps rows, or mean, closed, sample."""

    def __init__(self, base, weights, layer):
        super().__init__()
        self.base, self.weights, self.layer = base, weights, layer
        self.how, self.kl, self.margin = "mean", None, float("inf")

    def forward(self, u):
        l_det = torch.nn.functional.linear(u, self.base.weight)
        n = l_det.shape[-1]
        if torch.is_tensor(self.how):
            l, dmu, L = vglr.draw(self.weights, u, l_det, self.how)
            self.kl = vglr.kl(dmu, L, PRIOR)
            p = torch.softmax(l, -1)
        else:
            dmu, raw = vglr.heads(self.weights, u)
            m, L = l_det + dmu, vglr.cholesky(raw, n)
            if self.how == "mean":
                p = torch.softmax(m, -1)
            elif self.how == "closed":
                p = vglr.closed(m, L)
            else:
                eps = torch.from_numpy(rng.inference_table(SEED, self.layer, SAMPLES // 2, n))
                p = vglr.antithetic(m, L, eps)
        top, index = p.topk(self.base.top_k, -1)
        rest = p.detach().sort(-1, descending=True).values
        self.margin = min(self.margin, float((rest[:, self.base.top_k - 1] - rest[:, self.base.top_k]).min()))
        return l_det, top / top.sum(-1, keepdim=True), index


def elbo(golden, path):
    seed, _, config = golden_tiny.MODELS["tiny-moe"]
    model = gguf_to_hf.load(golden / "tiny-moe.gguf")
    g = torch.Generator().manual_seed(79)
    n = config.num_local_experts
    out, routers, named = {}, [], {}
    for i in LAYERS:
        w = {k: v.requires_grad_() for k, v in vglr.parameters(n, config.hidden_size, WIDTH, n - 1, g, scale=0.5).items()}
        named.update({f"layers.{i}.{k}": v for k, v in w.items()})
        moe = model.model.layers[i].block_sparse_moe
        moe.router = VariationalRouter(moe.router, w, i)
        routers.append(moe.router)

    free, prefix, choices, right = golden_tiny.inputs(seed)
    # one question: its prefix is computed once, a choice's last token is never an input
    rows = [(0, t) for t in range(len(prefix))] + [(1 + c, len(prefix) + t) for c, ids in enumerate(choices)
                                                   for t in range(len(ids) - 1)]
    eps = {i: torch.tensor([rng.route_draw(SEED, STEP, ITEM, part, at, i, DRAW, n).tolist() for part, at in rows]) for i in LAYERS}
    scores, kls, at = [], [], len(prefix)
    for c, ids in enumerate(choices):
        own = list(range(at, at + len(ids) - 1))
        at += len(own)
        for r, i in zip(routers, LAYERS):
            r.how = eps[i][list(range(len(prefix))) + own]
        logp = torch.log_softmax(model(input_ids=torch.tensor([prefix + ids[:-1]])).logits[0], -1)
        scores.append(logp[torch.arange(len(prefix) - 1, len(logp)), torch.tensor(ids)].mean())
        for r in routers:  # the prefix's KL counts once
            kls.append(r.kl if c == 0 else r.kl[len(prefix):])
    score, total = torch.stack(scores), torch.cat(kls).sum()
    ce = cloze.loss(score, right)
    loss = ce + BETA * total / (len(rows) * len(LAYERS))
    for k, v in named.items():
        out[k] = v.detach()
        out["grad." + k] = torch.autograd.grad(loss, v, retain_graph=True)[0]
    out.update({"scores": score.detach(), "ce": ce.detach()[None], "kl": total.detach()[None], "loss": loss.detach()[None],
                "part": torch.tensor([p for p, _ in rows], dtype=torch.int32),
                "position": torch.tensor([t for _, t in rows], dtype=torch.int32)})
    out.update({f"eps.{i}": e for i, e in eps.items()})

    sequences = free + [prefix + ids for ids in choices]
    out["ids"], out["offsets"] = cloze.flat(sequences)
    out["prefix"] = torch.tensor(prefix, dtype=torch.int32)
    out["choices"], out["choice_offsets"] = cloze.flat(choices)
    with torch.no_grad():
        for how in ("mean", "closed", "sample"):
            for r in routers:
                r.how = how
            out[f"{how}.logits"] = torch.stack([model(input_ids=torch.tensor([s])).logits[0, -1] for s in sequences])
    margin = min(r.margin for r in routers)
    if margin < 1e-4:
        sys.exit(f"selection margin {margin} is too thin for a golden file; change the seed")
    store.save(out, path, model="tiny-moe", kind="vglr-fc", layers=",".join(map(str, LAYERS)), width=WIDTH, prior_scale=PRIOR,
               beta=BETA, seed=SEED, step=STEP, item=ITEM, draw=DRAW, samples=SAMPLES, right=right)
    print(f"elbo: ce {float(ce.detach()):.6f} kl {float(total.detach()):.6f} loss {float(loss.detach()):.6f}, least margin {margin:.5f}, "
          f"closed - mean {float((out['closed.logits'] - out['mean.logits']).abs().max()):.4f}")


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--golden", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    routers(a.golden / "router.safetensors")
    elbo(a.golden, a.golden / "tiny-moe-elbo.safetensors")


if __name__ == "__main__":
    main()
