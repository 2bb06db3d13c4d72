"""Are equally good models told apart? How often a comparison finds a difference, in a world in which the truth is known.

python benchmarks/comparisons.py [REPETITIONS]      1,000, if none is given

Each image has a difficulty of its own, and a model is right on nine of ten. Printed is, by the number of test images:
- of ten equally good checkpoints: the tables in which at least one of the 45 pairs "differs", pair by pair and after Holm's
  correction; how often a single pair does by McNemar's exact test, and by its mid-p (0.05 is promised); by how many points the
  best of the ten seems better than it is; and how often the interval of a true difference of two points holds it (0.95)
- of two equally good recipes, whose runs differ by the luck of training: how often one run of each "differs", three, and five;
  and how often five runs of each find a recipe that is two points better
"""

import sys
from itertools import combinations
from types import SimpleNamespace

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest

from dlops_mnist.parts.compare import compare_recipes, difference_interval, holm
from dlops_mnist.parts.metrics import mcnemar

SIZES = (80, 360, 10_000)
EASE, LUCK, LEAD = (4, 2.5), 0.25, 0.4  # logits: of an image, mean and deviation; deviation of a run; two points of accuracy


def tested(images: int, runs: int, rng: np.random.Generator, luck: float = 0.0, lead: float = 0.0) -> np.ndarray:
    "Which of the images the runs of two recipes get right, the second of which is ahead: bool [2, runs, N]."
    strength = luck * rng.normal(size=(2, runs, 1)) + np.array([0, lead]).reshape(2, 1, 1)
    return rng.uniform(size=(2, runs, images)) < expit(rng.normal(*EASE, images) + strength)


def checkpoints(images: int, rng: np.random.Generator, truth: tuple[float, float]) -> tuple[float, ...]:
    "One table of ten equally good checkpoints; and whether the interval of a true difference holds it."
    right = np.concatenate(tested(images, 5, rng))
    p = [mcnemar(a, b)[2] for a, b in combinations(right, 2)]
    only_a, only_b, _ = mcnemar(*right[:2])
    exact = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    a, b = tested(images, 1, rng, lead=LEAD)[:, 0]
    low, high = difference_interval(*mcnemar(b, a)[:2], images)
    return (min(p) < 0.05, holm(p).min() < 0.05, exact < 0.05, p[0] < 0.05,
            100 * (right.mean(axis=1).max() - truth[0]), low <= truth[1] - truth[0] <= high)


def recipes(images: int, rng: np.random.Generator) -> tuple[bool, ...]:
    "Whether two recipes are told apart: equally good ones by one run of each, three and five; one that is ahead by five."
    def found(right): return "can't tell" not in compare_recipes(*([SimpleNamespace(right=run) for run in runs] for runs in right))

    one, three, five, ahead = (tested(images, runs, rng, LUCK, lead) for runs, lead in ((1, 0), (3, 0), (5, 0), (5, LEAD)))
    return mcnemar(*one[:, 0])[2] < 0.05, found(three), found(five), found(ahead)


ROWS = ["ten equal checkpoints: one of 45 pairs differs", "  after Holm's correction", "  a single pair, exact test",
        "  a single pair, mid-p", "  the best seems better by, points", "a difference of two points: its interval holds it",
        "two equal recipes: one run of each differs", "  three runs of each", "  five runs of each",
        "a recipe two points ahead: found by five of each"]


def main(repetitions: int = 1000) -> None:
    rng = np.random.default_rng(0)
    ease = rng.normal(*EASE, 2_000_000)
    truth = expit(ease).mean(), expit(ease + LEAD).mean()
    print(f"accuracy {truth[0]:.1%}, {truth[1]:.1%} if ahead; {repetitions:,} repetitions\n{'':52}" +
          "".join(f"{size:>8,}" for size in SIZES))
    found = [np.mean([(*checkpoints(size, rng, truth), *recipes(size, rng)) for _ in range(repetitions)], axis=0) for size in SIZES]
    for name, *cells in zip(ROWS, *found): print(f"{name:52}" + "".join(f"{cell:8.3f}" for cell in cells))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
