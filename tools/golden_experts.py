#!/usr/bin/env python3
"""GPT-OSS' feed-forward half by transformers: biases, clamped SwiGLU, softmax over the chosen logits; values and gradients.

    python tools/golden_experts.py [--out tests/golden]
"""
import argparse
import pathlib

import torch
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

from oracle import store


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    dim, width, experts, k, tokens = 16, 8, 6, 3, 20
    config = GptOssConfig(hidden_size=dim, intermediate_size=width, num_local_experts=experts, num_experts_per_tok=k,
                          experts_implementation="eager")
    m = GptOssMLP(config).float()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in sorted(m.named_parameters()):
            scale = 3.0 if "gate_up" in name else 1.0  # so that both limits of 7 are met
            p.copy_(torch.randn(p.shape, generator=g) * scale / (dim ** 0.5 if p.dim() > 1 and "bias" not in name else 2))
    u = torch.randn(1, tokens, dim, generator=g, requires_grad=True)
    dy = torch.randn(tokens, dim, generator=g)
    logits, _, chosen = m.router(u[0])
    y = m(u)[0][0]
    (y * dy).sum().backward()
    gate_up = u.detach()[0] @ m.experts.gate_up_proj.detach() + m.experts.gate_up_proj_bias.detach()[:, None]
    print("beyond a limit:", int((gate_up[..., ::2] > 7).sum()), int((gate_up[..., 1::2].abs() > 7).sum()), "of", gate_up.numel() // 2)

    def halves(p, bias):  # ours: gate rows, then up rows, [out, in]
        p = p.detach() if bias else p.detach().transpose(1, 2)
        return torch.cat([p[:, ::2], p[:, 1::2]], dim=1)

    out = {"u": u[0], "dy": dy, "y": y, "logits": logits, "chosen": chosen.int(), "grad.u": u.grad[0]}
    e, r = m.experts, m.router
    for prefix, of in (("", lambda p: p), ("grad.", lambda p: p.grad)):
        out |= {prefix + "router": of(r.weight), prefix + "router.bias": of(r.bias), prefix + "in": halves(of(e.gate_up_proj), False),
                prefix + "in.bias": halves(of(e.gate_up_proj_bias), True), prefix + "out": of(e.down_proj).detach().transpose(1, 2),
                prefix + "out.bias": of(e.down_proj_bias)}
    store.save({n: t.detach().contiguous() for n, t in out.items()}, a.out / "experts.safetensors", model="gpt_oss", k=k)


if __name__ == "__main__":
    main()
