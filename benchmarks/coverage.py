"""Do the intervals of `evaluate` hold what they promise? How often the 95% interval of each metric covers the truth.

python benchmarks/coverage.py [REPETITIONS] [DRAWS] [PROCESSES]      200, 400 and 2, if none is given; 500 400 takes half an hour
python benchmarks/coverage.py shares [REPETITIONS]      4000: what is a share of images needs no draws, and a minute

A world in which the truth is known: the model's scores are normal, the classes `distance` apart, so its accuracy is what we
ask for. (It knows how frequent each class is, unless to name the commonest were then better than what we ask for.) The whole
world has 400,000 images; a test set is drawn from it, again and again, and its intervals are compared with what the model does
in the whole world. Printed is the share that covers, and in brackets, where it is more than a tenth of them, the share in
which the table says that it can't tell. A row is a metric, a column the number of images. At 10,000 images there are half as
many test sets. In the end stands the range of each row over all worlds, of cells in which the table tells at least fifty times.
`shares` says besides, of each cell beyond .93 to .99 (at 30 images .90), how near to the middle any interval of a share could
come: the number of hits jumps.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
from scipy.stats import binom

from dlops_mnist.parts.intervals import share_interval
from dlops_mnist.parts.metrics import FEW, metric_table

SIZES, ACCURACIES = (30, 80, 360, 10_000), (0.84, 0.95, 0.99, 0.998)
SHOWN = {"accuracy": "accuracy", "loss": "loss", "roc_auc": "ROC AUC", "brier": "Brier score", "mcc": "Matthews",
         "average_precision": "average precision", "precision/0": "precision", "recall/0": "recall", "f1/0": "F1",
         "ece": "calibration error"}


def world(classes: int, accuracy: float, rare: bool, sharp: float, size: int = 400_000) -> tuple[np.ndarray, ...]:
    "Labels [N], probabilities [N] or [N, K] and losses [N] of a whole world; `sharp`: 1 is calibrated, 3 is far too sure."
    rng = np.random.default_rng(0)
    prior = np.geomspace(1 / 20 if rare else 1, 1, classes)
    prior /= prior.sum()
    labels, noise = rng.choice(classes, size, p=prior), rng.normal(size=(size, classes))
    known = np.log(prior) * (prior.max() < accuracy)
    low, high = 0.1, 12.0
    for _ in range(20):
        distance = (low + high) / 2
        logits = distance * (noise + distance * np.eye(classes)[labels]) + known
        low, high = (distance, high) if (logits.argmax(1) == labels).mean() < accuracy else (low, distance)
    logits = sharp * logits
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(size), labels]
    return labels, p if classes > 2 else p[:, 1], losses


def cover(classes: int, rare: bool, sharp: float, accuracy: float, repetitions: int, draws: int) -> list[dict[str, tuple]]:
    "For each number of images and each metric: the share of the intervals that cover, and of the tables that have none."
    labels, p, losses = world(classes, accuracy, rare, sharp)
    names = [str(k) for k in range(classes)]
    truth, rng, found = metric_table(labels, p, names, losses, draws=1)["value"], np.random.default_rng(1), []
    for images in SIZES:
        inside, none = [], []
        for seed in range(repetitions // (1 + (images > 5000))):
            rows = rng.integers(0, len(labels), images)
            table = metric_table(labels[rows], p[rows], names, losses[rows], draws=draws, seed=seed)
            inside.append((table["low"] <= truth) & (truth <= table["high"]))
            none.append(table["low"].isna())
        inside, none = np.array(inside), np.array(none)
        found.append({name: (covered.sum() / max((~absent).sum(), 1), absent.mean(), (~absent).sum())
                      for name, covered, absent in zip(truth.index, inside.T, none.T) if name in SHOWN})
    return found


def reachable(images: int, share: float) -> float:
    "The coverage nearest to 0.96 that an interval of a share can have which depends on the number of hits alone."
    below = np.append(0, binom.cdf(np.arange(images + 1), images, share))
    some = below[None] - below[:, None]
    return float(some.flat[abs(some - 0.96).argmin()])


def shares(repetitions: int = 4000) -> None:
    "The rows of shares: a test set is a table of confusions, and `counted_metrics` is written for all of them at once."
    rng, ranges = np.random.default_rng(1), {}
    for classes, rare, accuracy in product((2, 10), (False, True), ACCURACIES):
        labels, p, _ = world(classes, accuracy, rare, 1)
        guesses = p.argmax(1) if classes > 2 else (p > 0.5).astype(int)
        whole = np.bincount(labels * classes + guesses, minlength=classes**2)
        for images in SIZES:
            tables = rng.multinomial(images, whole / len(labels), repetitions).reshape(-1, classes, classes)
            for name, (hits, of) in counted(tables).items():
                truth = np.divide(*(part[0] for part in counted(whole.reshape(1, classes, classes))[name]))
                low, high = share_interval(hits, of)
                told = of >= (FEW if name != "accuracy" else 1)
                if told.sum() < 50: continue
                covered = ((low <= truth) & (truth <= high))[told].mean()
                ranges.setdefault((name, images), []).append(covered)
                if not (0.93 if images > 30 else 0.9) <= covered <= 0.99:
                    usual = int(np.median(of[told]))
                    print(f"{classes} classes{', 1:20' * rare}, {accuracy}, {images} images: {name} of {usual}, truly {truth:.4f}: "
                          f"{covered:.3f}; possible {reachable(usual, truth):.3f}", flush=True)
    show_ranges(ranges, ("accuracy", "precision", "recall", "F1"))


def counted(tables: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    "Of tables of confusions [B, K, K]: hits and images of the accuracy, and of the first class's precision, recall and F1."
    hits, actual, named = tables[:, 0, 0], tables[:, 0].sum(1), tables[:, :, 0].sum(1)
    return {"accuracy": (np.trace(tables, axis1=1, axis2=2), tables.sum((1, 2))), "precision": (hits, named),
            "recall": (hits, actual), "F1": (hits, actual + named - hits)}


def show_ranges(ranges: dict, titles) -> None:
    "The range of each row over all worlds."
    print(f"\n{'all worlds':20}" + "".join(f"{size:<16,}" for size in SIZES))
    for title in titles:
        told = (f"{min(r):.3f} to {max(r):.3f}" if (r := ranges.get((title, size))) else "can not tell" for size in SIZES)
        print(f"{title:20}" + "".join(f"{text:16}" for text in told))


def main(repetitions: int = 200, draws: int = 400, processes: int = 2) -> None:
    kinds, ranges = list(product((2, 10), (False, True), (1, 3))), {}
    pool = ProcessPoolExecutor(processes)
    jobs = {kind: [pool.submit(cover, *kind, accuracy, repetitions, draws) for accuracy in ACCURACIES] for kind in kinds}
    for (classes, rare, sharp), futures in jobs.items():
        cells = [cell for future in futures for cell in future.result()]
        print(f"\n{classes} classes, {'1:20' if rare else 'balanced'}, {'calibrated' if sharp == 1 else 'three times too sure'};"
              f" {repetitions} test sets, {draws} draws\n{'accuracy':20}" +
              "".join(f"{accuracy:<{8 * len(SIZES)}}" for accuracy in ACCURACIES))
        print(f"{'images':20}" + "".join(f"{size:<8,}" for size in SIZES) * len(ACCURACIES))
        for name, title in SHOWN.items():
            words = [f"{covered:.2f}" + f"({absent:.1f})" * int(absent > 0.1) for covered, absent, _ in (c[name] for c in cells)]
            print(f"{title:20}" + "".join(f"{word:8}" for word in words), flush=True)
            for size, cell in zip(SIZES * len(ACCURACIES), cells):
                if cell[name][2] >= 50: ranges.setdefault((title, size), []).append(cell[name][0])
    show_ranges(ranges, SHOWN.values())


if __name__ == "__main__":
    words = sys.argv[1:]
    (shares if words[:1] == ["shares"] else main)(*map(int, words[words[:1] == ["shares"]:]))
