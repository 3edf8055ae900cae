#!/usr/bin/env python3
"""Writes tests/golden/metrics.json: expected values of src/eval from scikit-learn, scipy and plain numpy.

    python tools/golden_metrics.py tests/golden/metrics.json

Calibration error is worked out here item by item from its definition, not with the binning code of src/eval.
"""
import json
import sys

import numpy as np
import scipy.stats as stats
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.metrics import (accuracy_score, average_precision_score, brier_score_loss, log_loss, roc_auc_score, roc_curve)

BINS = 15
CLIP = 1e-12


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def random_items(rng, n, ks, sharpness):
    """Rows of unequal length; the label is drawn so that the predictor is right more often than not."""
    rows, labels = [], []
    for _ in range(n):
        k = int(rng.choice(ks))
        p = softmax(sharpness * rng.normal(size=k))
        rows.append([float(v) for v in p])
        labels.append(int(rng.choice(k, p=softmax(np.log(p) / 1.7))))
    return rows, labels


def eighths(rng, n):
    """Probabilities in eighths: many equal confidences, several on the very edge of nothing, ties within an item."""
    table = [[.5, .25, .125, .125], [.25, .25, .25, .25], [.125, .375, .375, .125], [1, 0, 0, 0], [0, .5, .5, 0], [.125, .125, 0, .75]]
    rows = [table[i] for i in rng.integers(len(table), size=n)]
    return rows, [int(v) for v in rng.integers(4, size=n)]


def fifteenths(n):
    """Every confidence is exactly the upper edge of a bin as a double: it belongs to the bin below."""
    rows, labels = [], []
    for i in range(n):
        b = 8 + i % 8
        rows.append([b / 15, 1 - b / 15])
        labels.append(i % 3 == 0)
    return rows, [int(v) for v in labels]


def expected(rows, labels):
    n = len(rows)
    width = max(len(r) for r in rows)
    p = np.zeros((n, width))
    for i, r in enumerate(rows):
        p[i, :len(r)] = r
    y = np.array(labels)
    best, conf = p.argmax(1), p.max(1)
    right = (best == y).astype(float)
    out = {"acc": accuracy_score(y, best)}
    picked = p[np.arange(n), y]
    out["nll"] = float(np.mean(-np.log(np.maximum(picked, CLIP))))
    if picked.min() > 1e-9:
        assert abs(out["nll"] - log_loss(y, p, labels=np.arange(width))) < 1e-12
    out["brier"] = brier_score_loss(y, p, labels=np.arange(width), scale_by_half=False) if width > 2 else \
        float(np.mean(((p - np.eye(width)[y]) ** 2).sum(1)))

    counts, ece, mce = [], 0.0, 0.0
    for b in range(BINS):
        low, high = b / BINS, (b + 1) / BINS
        inside = ((conf > low) | (b == 0)) & ((conf <= high) | (b == BINS - 1))
        counts.append(int(inside.sum()))
        if inside.any():
            gap = abs(right[inside].mean() - conf[inside].mean())
            ece += inside.mean() * gap
            mce = max(mce, gap)
    out["ece"], out["mce"] = ece, mce

    order = np.argsort(conf, kind="stable")
    out["ece_mass"] = sum(len(part) / n * abs(right[part].mean() - conf[part].mean()) for part in np.array_split(order, BINS) if len(part))

    falling = np.argsort(-conf, kind="stable")
    risk = np.cumsum(1 - right[falling]) / np.arange(1, n + 1)
    out["aurc"] = float(risk.mean())

    logs = [np.log(np.maximum(r, CLIP)) for r in rows]

    def nll_at(log_t):
        beta = np.exp(-log_t)
        return np.mean([logsumexp(l * beta) - l[c] * beta for l, c in zip(logs, labels)])

    ends = np.log(.05), np.log(20)  # the bounded search never tries them
    fit = minimize_scalar(nll_at, bounds=ends, method="bounded", options={"xatol": 1e-10})
    out["temperature_nll"] = float(min([fit.fun, nll_at(0.0)] + [nll_at(e) for e in ends]))
    return {k: float(v) for k, v in out.items()} | {"counts": counts}


def ood_case(name, inside, outside):
    y = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    s = np.r_[inside, outside]
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    return {"name": name, "id": [float(v) for v in inside], "ood": [float(v) for v in outside],
            "auroc": float(roc_auc_score(y, s)), "aupr": float(average_precision_score(y, s)),
            "fpr95": float(fpr[np.argmax(tpr >= .95)])}


def law_case(n, m, alpha):
    """Coverage of split-conformal sets: Beta over calibration sets, beta-binomial of m test items."""
    k = int(np.ceil(round((n + 1) * (1 - alpha), 9)))
    assert k <= n
    a, b = k, n + 1 - k
    return {"n": n, "m": m, "alpha": alpha, "rank": k, "mean": a / (a + b), "beta": [float(v) for v in stats.beta.ppf([.025, .975], a, b)],
            "share": [float(v) / m for v in stats.betabinom.ppf([.025, .975], m, a, b)]}


def sets_case(rng):
    """Scores of every choice, by sorting; of equal probabilities the lower index comes first."""
    rows, labels = random_items(rng, 25, [2, 4, 5], 1.2)
    more = eighths(rng, 15)
    rows, labels = rows + more[0], labels + more[1]
    uniform = rng.random(len(rows))
    lac, aps = [], []
    for p, u in zip(rows, uniform):
        p = np.array(p)
        order = np.argsort(-p, kind="stable")
        score = np.empty(len(p))
        score[order] = np.cumsum(p[order]) - (1 - u) * p[order]
        lac.append([float(v) for v in 1 - p])
        aps.append([float(v) for v in score])
    return {"p": rows, "label": labels, "uniform": [float(v) for v in uniform], "lac": lac, "aps": aps}


def controls_case(name, signal, length, wrong):
    slope, intercept = np.polyfit(np.log(length), signal, 1)
    return {"name": name, "signal": [float(v) for v in signal], "length": [float(v) for v in length], "wrong": [float(v) for v in wrong],
            "spearman_length": float(stats.spearmanr(signal, length).statistic), "spearman_wrong": float(stats.spearmanr(signal, wrong).statistic),
            "slope": float(slope), "intercept": float(intercept)}


def distance_case(name, x, y):
    x, y = x.astype(np.float32), y.astype(np.float32)
    fit = LedoitWolf().fit(x.astype(np.float64))
    return {"name": name, "fit": [[float(v) for v in r] for r in x], "asked": [[float(v) for v in r] for r in y],
            "shrinkage": float(fit.shrinkage_), "distance": [float(v) for v in np.sqrt(fit.mahalanobis(y.astype(np.float64)))]}


def main(path):
    rng = np.random.default_rng(20)
    sets = {
        "mixed_k": random_items(rng, 150, [3, 4, 5], 1.5),
        "sharp": random_items(rng, 97, [4], 5.0),
        "ties": eighths(rng, 80),
        "edges": fifteenths(40),
        "one_right": ([[.2, .7, .1]], [1]),
        "one_wrong": ([[.2, .7, .1]], [2]),
        "perfect": ([[0.0, 1.0, 0.0]] * 20, [1] * 20),
        "worst": ([[0.0, 1.0, 0.0, 0.0]] * 20, [2] * 20),
        "uniform": ([[.25] * 4] * 16, [i % 4 for i in range(16)]),
        "few": random_items(rng, 7, [4], 1.0),
    }
    cases = [{"name": k, "p": p, "label": y, "expected": expected(p, y)} for k, (p, y) in sets.items()]
    ood = [
        ood_case("normal", rng.normal(0, 1, 60), rng.normal(1, 1.5, 83)),
        ood_case("ties", rng.integers(0, 6, 70).astype(float), rng.integers(1, 8, 40).astype(float)),
        ood_case("below_chance", rng.normal(1, 1, 40), rng.normal(0, 1, 50)),
        ood_case("all_equal", np.full(9, .5), np.full(13, .5)),
        ood_case("separate", np.arange(10.0), 100 + np.arange(20.0)),
        ood_case("reversed", 100 + np.arange(10.0), np.arange(20.0)),
        ood_case("one_each", [1.0], [2.0]),
    ]
    laws = [law_case(*c) for c in [(9, 7, .1), (9, 10, .7), (19, 20, .05), (250, 250, .1), (372, 372, .1), (2000, 3000, .2), (5, 1, .5)]]
    length = rng.integers(4, 40, 60)
    noisy = .3 * np.log(length) + rng.normal(0, .2, 60)
    controls = [
        controls_case("noisy", noisy, length, rng.random(60) < .2 + .3 * (noisy > noisy.mean())),
        controls_case("ties", rng.integers(0, 3, 30).astype(float), rng.integers(5, 9, 30), rng.integers(0, 2, 30)),
    ]
    mixing = rng.normal(size=(6, 6))
    distances = [
        distance_case("tall", rng.normal(size=(40, 6)) @ mixing + 2, rng.normal(size=(5, 6)) @ mixing),
        distance_case("wide", rng.normal(size=(5, 9)), rng.normal(size=(4, 9))),
        distance_case("scaled", rng.normal(size=(30, 4)) * [1000, 1, .01, 3], rng.normal(size=(3, 4)) * [1000, 1, .01, 3]),
    ]
    extra = {"laws": laws, "sets": sets_case(rng), "controls": controls, "distances": distances}
    with open(path, "w") as f:
        json.dump({"cases": cases, "ood": ood} | extra, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
