"""Two sets of next-token logits, [n, vocab] each: how far apart are they, as numbers and as distributions?"""
import numpy as np
from safetensors.numpy import load_file


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def report(got, want, label):
    """Prints one line; returns the largest |difference| of a logit."""
    d = np.abs(got.astype(np.float64) - want)
    lg, lw = log_softmax(got), log_softmax(want)
    kl = (np.exp(lw) * (lw - lg)).sum(axis=-1)
    same = (got.argmax(axis=-1) == want.argmax(axis=-1)).mean()
    print(f"{label}: {len(got)} rows, |dlogit| max {d.max():.3g} rms {np.sqrt((d ** 2).mean()):.3g}, "
          f"KL mean {kl.mean():.3g} max {kl.max():.3g}, top-1 agreement {same:.4f}")
    return float(d.max())


def dump(path):
    """Last-position logits as vmoer writes them: {"ids": i32 flat, "offsets": i32 [n + 1], "logits": f32 [n, vocab]}.
    Returns (list of id lists, logits)."""
    t = load_file(path)
    ids, offsets, logits = t["ids"], t["offsets"], t["logits"]
    if len(logits) != len(offsets) - 1 or offsets[-1] != len(ids):
        raise SystemExit(f"{path}: offsets, ids and logits do not fit each other")
    return [ids[a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:])], logits
