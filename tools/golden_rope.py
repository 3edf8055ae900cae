#!/usr/bin/env python3
"""The frequencies of scaled rotary positions as transformers computes them: tests/golden/rope.json.

    python tools/golden_rope.py [--out tests/golden]
"""
import argparse
import json
import pathlib

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# head, context, and rope_parameters; the values of models that people run, and corners: nothing stretched, a ramp within one pair
CASES = [
    (64, 8192, dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    (8, 64, dict(rope_type="linear", rope_theta=500000.0, factor=2.5)),
    (64, 8192, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0, original=2048)),
    (16, 1024, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0, original=1024)),
    (128, 16384, dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=32768)),
    (64, 16384, dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, original_max_position_embeddings=4096, beta_fast=32.0, beta_slow=1.0,
                     truncate=False)),
    (64, 4096, dict(rope_type="yarn", rope_theta=10000.0, factor=40.0, original_max_position_embeddings=4096, beta_fast=16.0, beta_slow=2.0)),
    (8, 128, dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)),
    (16, 128, dict(rope_type="yarn", rope_theta=10000.0, factor=0.5, original_max_position_embeddings=4)),
    (16, 128, dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=64, attention_factor=1.25)),
    (128, 16384, dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=8192)),
    (64, 16384, dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                     original_max_position_embeddings=8192)),
    (8, 128, dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=0.5, high_freq_factor=2.0,
                  original_max_position_embeddings=32)),
]


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    out = []
    for head, context, rope in CASES:
        rope = dict(rope)
        original = rope.pop("original", None)  # of dynamic scaling it is max_position_embeddings itself
        config = LlamaConfig(hidden_size=head, num_attention_heads=1, max_position_embeddings=original or context, rope_parameters=rope)
        frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=context)
        out.append(dict(head=head, context=context, original=original or rope.get("original_max_position_embeddings", context),
                        type=rope["rope_type"], base=rope["rope_theta"], factor=rope["factor"], beta_fast=rope.get("beta_fast", 32.0),
                        beta_slow=rope.get("beta_slow", 1.0), whole=rope.get("truncate", True), attention=rope.get("attention_factor", 0.0),
                        low=rope.get("low_freq_factor", 0.0), high=rope.get("high_freq_factor", 0.0), frequencies=frequencies.tolist(),
                        scale=float(scale)))
    (a.out / "rope.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")


if __name__ == "__main__":
    main()
