#!/usr/bin/env python3
"""GPT-OSS' attention with sinks by transformers, with and without a sliding window: values and gradients.

    python tools/golden_sinks.py [--out tests/golden]
"""
import argparse
import pathlib
import types

import torch
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from oracle import store

HEADS, KV_HEADS, HEAD, TOKENS = 6, 2, 8, 19


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    out = {}
    for window in (0, 5):
        g = torch.Generator().manual_seed(40 + window)
        qkv = torch.randn(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD, generator=g, requires_grad=True)
        sinks = (2 * torch.randn(HEADS, generator=g)).requires_grad_()
        dout = torch.randn(TOKENS, HEADS * HEAD, generator=g)
        q, k, v = (part.reshape(1, TOKENS, -1, HEAD).transpose(1, 2)
                   for part in qkv.split([HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD], dim=-1))
        sees = sliding_window_causal_mask_function(window) if window else causal_mask_function
        mask = torch.tensor([[0.0 if sees(0, 0, torch.tensor(i), torch.tensor(j)) else float("-inf") for j in range(TOKENS)] for i in range(TOKENS)])
        module = types.SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, sinks=sinks, training=False)
        y = eager_attention_forward(module, q, k, v, mask[None, None], scaling=HEAD ** -0.5)[0].reshape(TOKENS, HEADS * HEAD)
        (y * dout).sum().backward()
        out |= {f"{window}.{n}": t.detach().contiguous() for n, t in (
            ("qkv", qkv), ("sinks", sinks), ("dout", dout), ("out", y), ("dqkv", qkv.grad), ("dsinks", sinks.grad))}
    store.save(out, a.out / "sinks.safetensors", model="gpt_oss")


if __name__ == "__main__":
    main()
