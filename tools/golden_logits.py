#!/usr/bin/env python3
"""The real model file (any GGUF that gguf_to_hf reads) through transformers in f32, on 200 real prompts.

    python tools/golden_logits.py [--model FILE.gguf] [--data DIR] [--out tests/golden/logits.safetensors]
    python tools/golden_logits.py --compare DUMP [--model FILE.gguf]

Without options the paths come from VMOER_MODEL and VMOER_DATA. DUMP holds last-position logits of our program for the golden
prompts, in their order: raw f32 [200, vocab], the same as .npy, or a .safetensors (any prompts: ids, offsets, logits).
Format of the golden file: docs/ORACLES.md.
"""
import argparse
import hashlib
import pathlib

import numpy as np
import torch
from safetensors.numpy import load_file

from oracle import cloze, compare, gguf_to_hf, questions, store

PROMPTS = 200
POSITIONS = 64
# near and far text, short and long; three quarters end in an answer, so that the last token is not always the same
SOURCES = ["openbookqa/test.jsonl", "arc/ARC-Challenge-Test.jsonl", "arc/ARC-Easy-Test.jsonl", "medmcqa/dev.json"]


def prompts(data, tokenizer):
    rng = np.random.default_rng(7)
    out = []
    for name in SOURCES:
        items = questions.read(data / name)
        chosen = [items[i] for i in rng.choice(len(items), PROMPTS // len(SOURCES), replace=False)]
        for i, (prefix, choices, _) in enumerate(questions.cloze(tokenizer, chosen)):
            out.append((prefix + (choices[i % 4 - 1] if i % 4 and i % 4 <= len(choices) else []))[:160])
    return out


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def golden(a):
    model_path, data = questions.model_file(a.model), questions.data_folder(a.data)
    model = gguf_to_hf.load(model_path)
    ids = prompts(data, questions.from_gguf(model_path))
    vocab = model.config.vocab_size
    positions = np.sort(np.random.default_rng(11).choice(vocab, POSITIONS, replace=False)).astype(np.int32)
    out = {"positions": positions, "middle": np.array([len(p) // 2 for p in ids], np.int32)}
    out["ids"], out["offsets"] = cloze.flat(ids)
    for name in ("last", "middle"):
        for part, dtype in (("logits", np.float32), ("lse", np.float32), ("top", np.int32)):
            out[f"{name}.{part}"] = np.zeros((PROMPTS, POSITIONS) if part == "logits" else PROMPTS, dtype)
    for i, p in enumerate(ids):
        rows = logits(model, p)
        for name, at in (("last", len(p) - 1), ("middle", len(p) // 2)):
            row = rows[at].astype(np.float64)
            out[f"{name}.logits"][i] = row[positions]
            out[f"{name}.lse"][i] = row.max() + np.log(np.exp(row - row.max()).sum())
            out[f"{name}.top"][i] = row.argmax()
    store.save(out, a.out, sha256=hashlib.sha256(model_path.read_bytes()).hexdigest(), vocab=vocab,
               layers=model.config.num_hidden_layers, prompts=PROMPTS)
    lengths = [len(p) for p in ids]
    print(f"{a.out}: {a.out.stat().st_size} bytes, {sum(lengths)} tokens, lengths {min(lengths)}..{max(lengths)}, "
          f"rms logit {np.sqrt((out['last.logits'] ** 2).mean()):.3f}")


def check(a):
    model = gguf_to_hf.load(questions.model_file(a.model))
    if a.compare.suffix == ".safetensors":
        ids, got = compare.dump(a.compare)
    else:
        g = load_file(a.out)
        ids = [g["ids"][s:e].tolist() for s, e in zip(g["offsets"][:-1], g["offsets"][1:])]
        got = np.load(a.compare) if a.compare.suffix == ".npy" else np.fromfile(a.compare, np.float32)
        got = got.reshape(len(ids), model.config.vocab_size)
    want = np.stack([logits(model, p)[-1] for p in ids])
    compare.report(got, want, "vmoer against transformers f32")


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--model")
    a.add_argument("--data")
    a.add_argument("--out", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "logits.safetensors")
    a.add_argument("--compare", type=pathlib.Path, metavar="DUMP")
    a.add_argument("--threads", type=int, default=1)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    check(a) if a.compare else golden(a)


if __name__ == "__main__":
    main()
