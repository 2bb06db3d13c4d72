"""What a search costs, what workers bring, and whether a guided search with pruning finds more than a random one.

python benchmarks/tuning.py [cost] [workers] [better] [SEEDS]        all of them, better with 10 seeds, if none is named

cost: a trial beyond its training and `load_config`, on a journal with three settings and ten reports; at most 20 ms.
workers: two workers with a core each against one, twelve equal trials; at least 1.8 times as fast. Other work on the machine
gives two workers two shares of it, and flatters them: run it on a quiet one. Two cores that are one core's two threads bring less
than two: what two plain processes bring is printed beside it.
better: TPE with the median pruner against random search without, 010_cnn, the same budget of epochs (80, in
trials of four); the better median.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from measure import Times, verdict

from dlops_mnist.parts.pruning import report
from dlops_mnist.parts.study import Study, begin, take
from dlops_mnist.tune import open_study, run_trial, trial_words

SPACE = ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "model.dropout=interval(0,0.5)", "model.filters=[4,8],[8,16],[16,32]"]
BUDGET = 80  # epochs, in trials of four
QUIET = ["trainer=cpu", "trainer.enable_progress_bar=false"]
GUIDED, BLIND = {"sampler": "tpe", "pruner": "median"}, {"sampler": "random", "pruner": "none"}


def cost() -> bool:
    "Print how long the study takes for one of thirty trials that train nothing."
    with tempfile.TemporaryDirectory() as folder:
        study = begin(Path(folder, "cnn/search"), experiment="010_cnn", words=[], monitor=["val_acc"], directions=["maximize"],
                      seed=0, sampler="tpe", pruner="median", storage="journal",
                      space={word.partition("=")[0]: word for word in SPACE})
        seconds, busy = [], []
        for number in range(30):
            start, computing = time.perf_counter(), time.process_time()
            trial, lock = take(study, 30)
            trial_words(study, trial)
            for epoch in range(10): report(study, trial, epoch, {"val_acc": 1 - 1 / (number + epoch + 2)})
            study.record.tell(trial, 0.9), lock.release()
            seconds.append(time.perf_counter() - start), busy.append(time.process_time() - computing)
    first, last = statistics.median(seconds[:10]), statistics.median(seconds[20:])
    print(f"cost of a trial: {1000 * statistics.median(seconds):.1f} ms in the median of 30 (the first ten {1000 * first:.1f}, "
          f"the last ten {1000 * last:.1f}), {1000 * statistics.median(busy):.1f} of it computing; wanted: at most 20")
    return statistics.median(seconds) <= 0.02


def search(workers: int, folder: Path) -> float:
    "Seconds of a search with so many workers."
    words = ["010_cnn", f"seed={','.join(map(str, range(1, 13)))}", "trainer.max_epochs=5", *QUIET, f"paths.runs={folder}",
             "sampler=grid", "pruner=none", f"workers={workers}"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dlops_mnist.tune", *words], check=True, stdout=subprocess.DEVNULL,
                   env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - start


COMPUTE = """
import time, torch
torch.set_num_threads(1)
layer, images = torch.nn.Conv2d(32, 64, 3), torch.rand(32, 32, 28, 28)
start = time.perf_counter()
for _ in range(300): layer(images).sum().backward()
print(time.perf_counter() - start)
"""


def bare(processes: int) -> float:
    "Seconds that each of so many processes takes for the same convolutions."
    started = [subprocess.Popen([sys.executable, "-c", COMPUTE], stdout=subprocess.PIPE) for _ in range(processes)]
    return statistics.mean(float(process.communicate()[0]) for process in started)


def workers() -> bool:
    "Print how much faster two workers are than one."
    found = {1: [], 2: []}
    print(f"two plain processes compute {2 * bare(1) / bare(2):.2f} times as much as one", flush=True)
    for _ in range(3):
        for count in found:
            with tempfile.TemporaryDirectory() as folder: found[count].append(search(count, Path(folder)))
    return verdict(f"two workers on {os.cpu_count()} cores, twelve equal trials", Times(found[2]), Times(found[1]), 1.8)


def best_within(epochs: int, seed: int, how: dict[str, str]) -> float:
    "The best val_loss that a search finds within so many epochs."
    with tempfile.TemporaryDirectory() as folder:
        study = open_study("010_cnn", [*SPACE, "trainer.max_epochs=4", *QUIET, f"seed={seed}", f"paths.runs={folder}"], **how)
        while sum(study.run(trial.number).epochs for trial in study.trials) < epochs:
            trial, lock = take(study, 1000)
            run_trial(study, trial)
            lock.release()
        return min(value for trial in Study(study.folder).trials for value in trial.intermediate_values.values())


def both(seed: int) -> list[float]:
    "What each kind of search finds."
    os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported: a process for each core
    return [best_within(BUDGET, seed, how) for how in (GUIDED, BLIND)]


def better(seeds: int) -> bool:
    "Print what both kinds of search find."
    found = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for seed, values in enumerate(pool.map(both, range(seeds))):
            found.append(values)
            print("seed {}: TPE, median pruner {:.4f}, random, no pruner {:.4f}".format(seed, *values), flush=True)
    ours, theirs = map(statistics.median, zip(*found))
    wins = sum(a < b for a, b in found)
    print(f"best val_loss within {BUDGET} epochs, median of {seeds} seeds: {ours:.4f} against {theirs:.4f}; better in {wins}")
    return ours < theirs


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if not word.isdigit()] or ["cost", "workers", "better"]
    seeds = next((int(word) for word in sys.argv[1:] if word.isdigit()), 10)
    jobs = {"cost": cost, "workers": workers, "better": lambda: better(seeds)}
    sys.exit(not all([jobs[name]() for name in named]))
