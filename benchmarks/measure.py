"""What the benchmarks share: the verdict on a ratio, and a refusal to judge on a busy machine.

Every figure is a ratio of two times that were taken in turn, in one run, so that a machine's speed cancels out. The kernel
is asked how much of the processors went to others meanwhile: a repeat that had to share is thrown away.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a program that is timed begins with compiled modules, as it does for people
ELSEWHERE = 0.1  # of all processors' time: above it a repeat does not count
TRIES = 3  # how often a repeat may be thrown away


class Busy(Exception):
    "The machine has other work to do, so that a time would say nothing."


def machine_seconds() -> float:
    "Processor seconds spent so far by everybody on this machine, idle time left out; 0 where /proc can't tell."
    try:
        with open("/proc/stat") as file: fields = [int(word) for word in file.readline().split()[1:]]
    except OSError: return 0.0
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # without idle and iowait


def own_seconds() -> float:
    "Processor seconds spent so far by this process and those of its children that have ended."
    return sum(os.times()[:4])


def timed(job: Callable[[], object]) -> float:
    "Seconds that `job` takes; raises `Busy` if others used the machine meanwhile."
    machine, own, start = machine_seconds(), own_seconds(), time.perf_counter()
    job()
    seconds = time.perf_counter() - start
    others = machine_seconds() - machine - (own_seconds() - own)
    # the kernel counts in hundredths of a second: for a short job that is all noise
    most = ELSEWHERE * seconds * os.cpu_count() + 0.05
    if others > most: raise Busy(f"others used {others:.2f} s of {seconds:.2f} s")
    return seconds


def wait_for_quiet(
    seconds: float = 60,  # how long to wait at most
) -> None:
    "Wait until others use less than a tenth of the machine; raises `Busy` if they don't in time."
    end = time.monotonic() + seconds
    while True:
        before = machine_seconds()
        time.sleep(1)
        if machine_seconds() - before < ELSEWHERE * os.cpu_count(): return
        if time.monotonic() > end: raise Busy(f"no quiet second within {seconds:.0f}")


def again(job: Callable[[], object]) -> float:
    "As `timed`, with a few more tries."
    for _ in range(TRIES):
        try: return timed(job)
        except Busy: wait_for_quiet()
    return timed(job)


@dataclass
class Times:
    "Seconds of several repeats."

    values: list[float]

    @property
    def median(self) -> float: return statistics.median(self.values)

    def __str__(self) -> str:
        unit, factor = ("ms", 1e3) if self.median < 1 else ("s", 1)
        low, high = min(self.values), max(self.values)
        return f"{self.median * factor:.3g} {unit} ({low * factor:.3g}-{high * factor:.3g})"


def alternate(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int = 5,
    warm_up: bool = True,  # run each once before the repeats that count
) -> tuple[Times, Times]:
    "Times of two jobs, taken in turn; raises `Busy` on a machine that never is quiet."
    wait_for_quiet()
    if warm_up: ours(), theirs()
    pairs = [(again(ours), again(theirs)) for _ in range(repeats)]
    return Times([pair[0] for pair in pairs]), Times([pair[1] for pair in pairs])


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
