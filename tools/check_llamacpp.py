#!/usr/bin/env python3
"""Next-token distributions of llama.cpp on a GGUF, against a dump of our program or against transformers.

    python tools/check_llamacpp.py MODEL.gguf --dump DUMP.safetensors [--tolerance X]
    python tools/check_llamacpp.py MODEL.gguf --golden GOLDEN.safetensors [--tolerance X]

DUMP (written by our program): {"ids": i32 flat, "offsets": i32 [n + 1], "logits": f32 [n, vocab]}, logits of each prompt's last
position. GOLDEN: any file with ids and offsets (tests/golden/logits.safetensors, tiny-*.safetensors); transformers computes.
Weights are expanded to f32 for llama.cpp first; --as-is leaves them quantised, and with them llama.cpp's activations.
Exit status 1 when a logit differs by more than the tolerance.
"""
import argparse
import tempfile

import numpy as np
from safetensors.numpy import load_file

from oracle import compare, llamacpp


def transformers_logits(model, ids):
    import torch

    from oracle import gguf_to_hf
    torch.set_num_threads(1)
    m = gguf_to_hf.load(model)
    with torch.no_grad():
        return np.stack([m(input_ids=torch.tensor([p])).logits[0, -1].numpy() for p in ids])


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("model")
    which = a.add_mutually_exclusive_group(required=True)
    which.add_argument("--dump")
    which.add_argument("--golden")
    a.add_argument("--as-is", action="store_true")
    a.add_argument("--prompts", type=int, default=50, help="the first so many prompts (50)")
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--tolerance", type=float, default=float("inf"))
    a = a.parse_args()
    if a.dump:
        ids, ours = compare.dump(a.dump)
        ids, ours = ids[:a.prompts], ours[:a.prompts]
    else:
        g = load_file(a.golden)
        ids = [g["ids"][s:e].tolist() for s, e in zip(g["offsets"][:-1], g["offsets"][1:])][:a.prompts]
        ours = transformers_logits(a.model, ids)
    with tempfile.NamedTemporaryFile(suffix=".gguf") as tmp:
        path = a.model
        if not a.as_is:
            llamacpp.expand(a.model, tmp.name)
            path = tmp.name
        theirs = llamacpp.last_logits(path, ids, a.threads)
    worst = compare.report(ours, theirs, ("vmoer" if a.dump else "transformers") + " against llama.cpp")
    raise SystemExit(worst > a.tolerance)


if __name__ == "__main__":
    main()
