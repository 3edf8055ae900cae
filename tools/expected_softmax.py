#!/usr/bin/env python3
"""How far the ways to E softmax(l), l ~ N(m, L L^T), are from a million draws: the table in docs/METHOD.md.

    python tools/expected_softmax.py

m ~ N(0, spread^2 I), the diagonal of L is scale/sqrt(2), below it N(0, scale^2/2N): tr Sigma is about N scale^2/2 to 3/4 N scale^2.
"uneven": the rows of L are multiplied by factors from 1/4 to 4/3. Figures: total variation, mean over 4 random cases (in thousandths).
"""
import numpy as np

DRAWS, CASES = 1_000_000, 4
rng = np.random.default_rng(0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pairwise(m, L):
    S = L @ L.T
    d = np.diag(S)
    x = (m[None] - m[:, None]) / np.sqrt(1 + np.pi / 8 * (d[:, None] + d[None] - 2 * S))
    p = 1 / np.exp(x).sum(1)
    return p / p.sum()


def tilted(m, L, steps=40):
    S = L @ L.T
    d, p = np.diag(S), softmax(m)
    for _ in range(steps):
        Sp = S @ p
        a = 2 / (2 + p @ d - p @ Sp)
        change = softmax(m + d / 2 - Sp) - p
        p = p + a * change
        if abs(change).max() < 1e-6:
            break
    return p


def sampled(m, L, samples):
    eps = rng.standard_normal((samples // 2, len(m)))
    return softmax(m + np.vstack([eps, -eps]) @ L.T).mean(0)


def monte_carlo(m, L):
    total, chunk = 0, 50_000
    for _ in range(DRAWS // chunk):
        eps = rng.standard_normal((chunk, len(m)), dtype=np.float32)
        total = total + softmax(m.astype(np.float32) + eps @ L.T.astype(np.float32)).sum(0, dtype=np.float64)
    return total / DRAWS


def main():
    print("|  N | spread | scale | mean | closed | tilted | S = 32 | S = 4096 |\n|---|---|---|---|---|---|---|---|")
    for n in (12, 24, 40):
        for spread, scale, uneven in ((.5, .3, 0), (.5, 1, 0), (1, .3, 0), (1, 1, 0), (1, 2, 0), (1, 1, 1)):
            gaps = []
            for _ in range(CASES):
                m = spread * rng.standard_normal(n)
                L = np.tril(rng.standard_normal((n, n)), -1) * scale / np.sqrt(2 * n) + np.eye(n) * scale / np.sqrt(2)
                if uneven:
                    L *= rng.uniform(1 / 4, 4 / 3, (n, 1))
                truth = monte_carlo(m, L)
                ways = softmax(m), pairwise(m, L), tilted(m, L), sampled(m, L, 32), sampled(m, L, 4096)
                gaps.append([abs(p - truth).sum() / 2 for p in ways])
            figures = " | ".join(f"{1000 * g:.2f}" for g in np.mean(gaps, 0))
            print(f"| {n} | {spread} | {scale}{' uneven' if uneven else ''} | {figures} |")


if __name__ == "__main__":
    main()
