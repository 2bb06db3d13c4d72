"""What the benchmarks share: the verdict on a ratio, and a refusal to judge on a busy machine.

Every figure is a ratio of two times that were taken in one run, so that a machine's speed cancels out. How that is done,
and how others' work is noticed, is in nbs/18_speed.ipynb.
"""

import statistics
import sys
from collections.abc import Callable, Sequence

from dlops_mnist.speed import Busy, Times, again, alternate, wait_for_quiet

__all__ = ["Busy", "Times", "again", "alternate", "main", "verdict", "wait_for_quiet"]


def verdict(
    title: str,
    ours: Times,
    theirs: Times,
    target: float,  # the ratio to reach
    at_most: bool = False,  # the ratio is ours / theirs, and small is good; else theirs / ours, and large is good
) -> bool:
    "Print both times, their ratio with its spread over the pairs, and whether the target is reached."
    pairs = list(zip(ours.values, theirs.values))
    ratios = sorted(a / b if at_most else b / a for a, b in pairs)
    ratio = statistics.median(ratios)
    reached = ratio <= target if at_most else ratio >= target
    bound = f"{'at most' if at_most else 'at least'} {target:g}"
    print(f"{title}\n  ours {ours}, theirs {theirs}\n  ratio {ratio:.3g} ({ratios[0]:.3g}-{ratios[-1]:.3g}); "
          f"wanted: {bound}: {'reached' if reached else 'MISSED'}", flush=True)
    return reached


def main(jobs: Sequence[Callable[[], bool]]) -> None:
    "Run benchmarks as a program: exit status 0 if all targets are reached, 1 if not, 3 if the machine was busy."
    try: reached = [job() for job in jobs]
    except Busy as busy:
        print(f"The machine is busy ({busy}): no verdict.", file=sys.stderr)
        sys.exit(3)
    sys.exit(not all(reached))
