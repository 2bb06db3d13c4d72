"""Do the intervals of `evaluate` hold what they promise? How often the 95% interval of each metric covers the truth.

python benchmarks/coverage.py [REPETITIONS] [DRAWS]      100 and 200, if none is given; with 2000 and 1000, go for lunch

A world in which the truth is known: the model's scores are normal, the classes `distance` apart, so its accuracy is what we
ask for. The whole world has 400,000 images; a test set is drawn from it, again and again, and its intervals are compared with
what the model does in the whole world. Printed is the share that covers, and in brackets, where it is more than a tenth of
them, the share in which the table says that it can't tell. A row is a metric, a column the number of images.
"""

import sys
from functools import cache
from itertools import product

import numpy as np

from dlops_mnist.parts.metrics import metric_table

SIZES, ACCURACIES = (30, 80, 360, 10_000), (0.84, 0.95, 0.99, 0.998)  # 10,000 images only with 200 repetitions or more
SHOWN = {"accuracy": "accuracy", "loss": "loss", "roc_auc": "ROC AUC", "brier": "Brier score", "mcc": "Matthews",
         "average_precision": "average precision", "precision/0": "precision", "recall/0": "recall", "f1/0": "F1",
         "ece": "calibration error"}


@cache
def world(classes: int, accuracy: float, rare: bool, sharp: float, size: int = 400_000) -> tuple[np.ndarray, ...]:
    "Labels [N], probabilities [N] or [N, K] and losses [N] of a whole world; `sharp`: 1 is calibrated, 3 is far too sure."
    rng = np.random.default_rng(0)
    prior = np.geomspace(1 / 20 if rare else 1, 1, classes)
    prior /= prior.sum()
    labels, noise = rng.choice(classes, size, p=prior), rng.normal(size=(size, classes))
    low, high = 0.1, 12.0
    for _ in range(20):
        distance = (low + high) / 2
        logits = distance * (noise + distance * np.eye(classes)[labels]) + np.log(prior)
        low, high = (distance, high) if (logits.argmax(1) == labels).mean() < accuracy else (low, distance)
    logits = sharp * logits
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(size), labels]
    return labels, p if classes > 2 else p[:, 1], losses


def cover(classes: int, accuracy: float, rare: bool, sharp: float, images: int, repetitions: int, draws: int):
    "For each metric the shares of the test sets whose interval covers, and which have none."
    labels, p, losses = world(classes, accuracy, rare, sharp)
    names = [str(k) for k in range(classes)]
    truth, rng = metric_table(labels, p, names, losses, draws=1)["value"], np.random.default_rng(1)
    inside, none = [], []
    for seed in range(repetitions):
        rows = rng.integers(0, len(labels), images)
        table = metric_table(labels[rows], p[rows], names, losses[rows], draws=draws, seed=seed)
        inside.append((table["low"] <= truth) & (truth <= table["high"]))
        none.append(table["low"].isna())
    none = np.array(none)
    return {name: (covered.sum() / max((~absent).sum(), 1), absent.mean())
            for name, covered, absent in zip(truth.index, np.array(inside).T, none.T) if name in SHOWN}


def main(repetitions: int = 100, draws: int = 200) -> None:
    sizes = SIZES if repetitions >= 200 else SIZES[:-1]
    for classes, rare, sharp in product((2, 10), (False, True), (1, 3)):
        print(f"\n{classes} classes, {'1:20' if rare else 'balanced'}, {'calibrated' if sharp == 1 else 'three times too sure'};"
              f" {repetitions} test sets, {draws} draws\n{'accuracy':20}" +
              "".join(f"{accuracy:<{8 * len(sizes)}}" for accuracy in ACCURACIES))
        print(f"{'images':20}" + "".join(f"{size:<8,}" for size in sizes) * len(ACCURACIES))
        cells = [cover(classes, accuracy, rare, sharp, size, repetitions if size < 5000 else max(repetitions // 5, 20), draws)
                 for accuracy, size in product(ACCURACIES, sizes)]
        for name, title in SHOWN.items():
            if name not in cells[0]: continue
            words = [f"{covered:.2f}" + f"({absent:.1f})" * (absent > 0.1) for covered, absent in (c[name] for c in cells)]
            print(f"{title:20}" + "".join(f"{word:8}" for word in words), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
