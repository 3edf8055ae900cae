#!/usr/bin/env python3
"""Writes tests/golden/compare.json: what src/eval/compare.c makes of given bootstrap samples, from scikit-learn and plain numpy.

    python tools/golden_compare.py tests/golden/compare.json

Two routers, three seeds each; the samples of items and seeds are drawn here and stand in the file, every resampled figure is worked out
on the items written out as often as they were drawn.
"""
import json
import sys

import numpy as np
from golden_metrics import expected, ood_case, softmax

SEEDS, ITEMS, ID, OOD, COUNT = 3, 17, 13, 9, 12
METRICS = ["acc", "nll", "ece", "mce", "brier", "ece_mass"]
OODS = ["auroc", "aupr", "fpr95"]


def draws(rng, n):
    return np.array([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(COUNT)])


def over_seeds(figures, weight):
    """figures[seed][sample][measure] -> [sample][measure]: the mean over the seeds drawn."""
    return np.einsum("rs,srm->rm", weight, np.array(figures)) / SEEDS


def interval(values):
    return [[float(v) for v in np.percentile(values[:, k], [2.5, 97.5])] for k in range(values.shape[1])]


def metrics_of(rows, labels):
    out = expected(rows, labels)
    return [out[m] for m in METRICS]


def main(path):
    rng = np.random.default_rng(53)
    labels = [int(v) for v in rng.integers(4, size=ITEMS)]
    seeds, items, id_items, ood_items = (draws(rng, n) for n in (SEEDS, ITEMS, ID, OOD))
    routers, tables = [], []
    for sharpness in (3.0, 1.0):
        runs, figures, scores, detections = [], [], [], []
        for _ in range(SEEDS):
            rows = [[float(v) for v in softmax(sharpness * rng.normal(size=4) + 1.5 * np.eye(4)[y])] for y in labels]
            runs.append(rows)
            # The equal-mass bins follow the items' order where confidences are equal: a drawn item's copies stand together.
            figures.append([metrics_of([rows[i] for i in np.repeat(np.arange(ITEMS), w)], list(np.repeat(labels, w))) for w in items])
            inside, outside = np.round(rng.normal(0, 1, ID), 1), np.round(rng.normal(.7, 1, OOD), 1)
            scores.append({"id": [float(v) for v in inside], "ood": [float(v) for v in outside]})
            detections.append([[ood_case("", np.repeat(inside, a), np.repeat(outside, b))[m] for m in OODS] for a, b in zip(id_items, ood_items)])
        table, detection = over_seeds(figures, seeds), over_seeds(detections, seeds)
        tables.append(table)
        routers.append({"p": runs, "scores": scores, "metrics": table.tolist(), "ood": detection.tolist(),
                        "value": [float(v) for v in np.mean([metrics_of(r, labels) for r in runs], axis=0)]})
    with open(path, "w") as f:
        json.dump({"label": labels, "seeds": seeds.tolist(), "items": items.tolist(), "id_items": id_items.tolist(), "ood_items": ood_items.tolist(),
                   "routers": routers, "difference": interval(tables[1] - tables[0])}, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
