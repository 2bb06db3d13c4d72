"""How the time of `python -m dlops_mnist.runs` grows with the number of run folders.

python benchmarks/runs_table.py [N ...]        default: 100 1000 10000

Makes N synthetic run folders in a temporary folder, 500 learning rates and 8 batch sizes among them, and prints for
each N the time for all rows, and that of the baseline, which makes the same rows with each config read as a whole by
PyYAML's C loader. Both start with nothing remembered. Then the whole command, beside `import torch`, which every
training script waits for before it does anything. The files are in the operating system's cache throughout.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

from dlops_mnist import runs
from dlops_mnist.config import load_config
from dlops_mnist.parts.core import flatten
from dlops_mnist.parts.runfolder import Run, write_rows
from dlops_mnist.parts.yamlfile import to_yaml

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


def baseline(folder: Path) -> None:
    "The same rows, each config read as a whole."
    quick, runs.read_settings = runs.read_settings, read_whole
    try: runs.select_runs(folder)
    finally: runs.read_settings = quick


def read_whole(file: Path) -> dict:
    return {key: runs.simple(value) for key, value in flatten(Run(file.parent).config).items()}


def rows(folder: Path) -> None:
    runs._read_piece.cache_clear()
    runs.select_runs(folder)


def command(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "dlops_mnist.runs", str(folder)], check=True, stdout=subprocess.DEVNULL)


def import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def compare(number: int) -> bool:
    "Print the times for so many runs."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_runs(folder, number)
        repeats = 3 if number > 1000 else 5
        ours, theirs = measure.alternate(lambda: rows(folder), lambda: baseline(folder), repeats, number <= 1000)
        reached = measure.verdict(f"{number:,} runs, all rows: ours against configs read as a whole", ours, theirs, 1)
        ours, theirs = measure.alternate(lambda: command(folder), import_torch, repeats)
        title = f"{number:,} runs, the command: ours against `import torch`"
        # the start has a target; what comes on top grows with the number of runs
        if number <= 100: return measure.verdict(title, ours, theirs, 0.35, at_most=True) and reached
        print(f"{title}\n  ours {ours}, theirs {theirs}", flush=True)
        return reached


if __name__ == "__main__":
    measure.main([lambda n=n: compare(n) for n in [int(word) for word in sys.argv[1:]] or [100, 1000, 10000]])
