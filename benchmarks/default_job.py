"""P6: the first experiment (experiments/001.yml: MLP, batch 32, 20 epochs), against the series' code.

python benchmarks/default_job.py

Both train on the same images of `dataset/` and validate on its test images after each epoch, with their progress bars.
First the training alone, then the whole process from the command line to its end.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import series
from measure import Times, alternate, main, verdict, wait_for_quiet

from dlops_mnist.config import load_config
from dlops_mnist.train import train

REPOSITORY = Path(__file__).parents[1]


def fit(repeats: int = 5) -> bool:
    ours, theirs = [], []
    wait_for_quiet()
    with tempfile.TemporaryDirectory() as runs:
        config = load_config("001", "datamodule.val=test", "trainer.accelerator=cpu", f"paths.runs={runs}",
                             "callbacks.watch._target_=series.Stopwatch")
        for _ in range(repeats + 1):
            assert train(config).best["val_acc"] > 0.85
            ours.append(series.Stopwatch.seconds)
            start = time.perf_counter()
            assert series.train("dataset", series.mlp(), 32, 20).callback_metrics["val_acc"] > 0.85
            theirs.append(time.perf_counter() - start)
    return verdict("P6 training alone", Times(ours[1:]), Times(theirs[1:]), 6)  # the first ones warm up


def process(*command: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def whole() -> bool:
    with tempfile.TemporaryDirectory() as runs:
        command = ["-m", "dlops_mnist.train", "001", "datamodule.val=test", "trainer.accelerator=cpu", f"paths.runs={runs}"]
        ours, theirs = alternate(lambda: process(*command), lambda: process("benchmarks/series.py"))
    return verdict("P6 the whole process", ours, theirs, 1.7)


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main([fit, whole])
