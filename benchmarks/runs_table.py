"""How the time of `python -m dlops_mnist.runs` grows with the number of run folders.

python benchmarks/runs_table.py [N ...]        default: 100 1000 10000

Makes N synthetic run folders in a temporary folder and prints for each N: the first table of a process (cold: nothing
parsed before), the second one in the same process (warm), and the whole command. The baseline reads the same files
with PyYAML for each run, nothing remembered. Every time is the median of three, with the spread in brackets.
The files are in the operating system's cache throughout: they have just been written.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from dlops_mnist import runs as this
from dlops_mnist.config import load_config
from dlops_mnist.core import flatten
from dlops_mnist.runfolder import find_runs, write_rows
from dlops_mnist.yamlfile import to_yaml

METRICS = [{"epoch": e, "step": 7 * e + 6, "loss": 0.7 / (e + 1), "acc": 1 - 0.2 / (e + 1), "val_loss": 0.5 / (e + 1),
            "val_acc": 1 - 0.1 / (e + 1)} for e in range(10)]
PROVENANCE = {"status": "finished", "error": None, "started": "2026-01-01T00:00:00+00:00", "seconds": 12.3,
              "fingerprint": "0" * 64, "packages": {f"package{i}": "1.2.3" for i in range(13)},
              "git": {"commit": "0" * 40, "branch": "main", "dirty": False},
              "process": {"host": "elsewhere", "boot": "0", "pid": 1, "began": 1}}


def make_runs(folder: Path, number: int) -> None:
    "Write run folders that differ in learning rate, batch size and seed, 1,000 to an experiment."
    template = to_yaml(load_config(None, "seed=4321", "optimizer.lr=0.87654321", "datamodule.batch_size=54321"))
    for i in range(number):
        run = folder / f"{i // 1000:03}" / f"20260101-{i:06}"
        run.mkdir(parents=True)
        text = template.replace("4321\n", f"{i}\n", 1).replace("0.87654321", f"{1e-4 * (1 + i % 500):.6f}")
        (run / "config.yaml").write_text(text.replace("54321", str(2 ** (3 + i % 8))))
        (run / "provenance.json").write_text(json.dumps(PROVENANCE))
        write_rows(run / "metrics.csv", METRICS)


def naive(folder: Path) -> list:
    "The table's content with `Run` alone."
    return [(flatten(run.config), run.provenance, run.best, run.status) for run in find_runs(folder)]


def cold(folder: Path) -> list:
    this._section.cache_clear()
    return this.select_runs(folder)


def command(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "dlops_mnist.runs", str(folder)], check=True, stdout=subprocess.DEVNULL)


def measure(job: Callable, folder: Path, repeats: int = 3) -> str:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job(folder)
        times.append(time.perf_counter() - start)
    return f"{median(times):8.3f} s ({min(times):.3f}-{max(times):.3f})"


def main(numbers: list[int]) -> None:
    if os.getloadavg()[0] > 0.5 * os.cpu_count(): print("The machine is busy: these figures say little.")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    print(f"import torch, for comparison: {time.perf_counter() - start:.3f} s")
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            make_runs(Path(folder), number)
            print(f"\n{number:,} runs")
            for name, job in {"cold": cold, "warm": this.select_runs, "command": command}.items():
                print(f"  {name:8} {measure(job, Path(folder))}")
            print(f"  {'baseline':8} {measure(naive, Path(folder), 3 if number <= 1000 else 1)}", flush=True)


if __name__ == "__main__": main([int(word) for word in sys.argv[1:]] or [100, 1000, 10000])
