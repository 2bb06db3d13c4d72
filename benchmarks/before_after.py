"""P1 to P9 of two checkouts, in turn: what a large change has cost or brought.

python benchmarks/before_after.py OTHER [ROUNDS [FOLDER [PART ...]]]

OTHER: an older checkout, with its environment in OTHER/.venv; FOLDER: where the images are, or are made (default: a temporary
folder); PART: data, train, commands, memory, evaluate (default: all).

Only this project's side is timed; how it compares with the series' code, the other scripts say. Both checkouts work on the
same MNIST images (MNIST_RAW_DIR, or a download), in processes of their own, the order of the two changing from round to
round. A figure is called worse if its whole range lies beyond the other's, and its median by more than a tenth.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]

START = """
import json, os, shutil, subprocess, sys, time
from pathlib import Path
folder, figures = Path(sys.argv[1]), {}
def timed(name, action, repeats=1):
    best = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        best.append(time.perf_counter() - start)
    figures[name] = sorted(best)[len(best) // 2]
"""
END = "\nprint(json.dumps(figures))"

# names as they were before the parts had a folder of their own: they still lead to the same modules
DATA = """
from dlops_mnist.dataset import MNISTDataModule
from dlops_mnist.images import open_images
def decode(path):
    shutil.rmtree(path / ".cache", ignore_errors=True)
    open_images(path)
timed("P1 60,000 own PNG files", lambda: decode(folder / "ours"), 3)
timed("P1 60,000 of Pillow's", lambda: decode(folder / "pillow"), 3)
timed("P1 reopening 60,000", lambda: open_images(folder / "ours"), 15)
for size in (25, 64, 2048):
    module = MNISTDataModule(folder / "ours", batch_size=size, val="test")
    module.setup()
    loader = module.train_dataloader()
    def epoch():
        for batch in loader: pass
    timed(f"P2 an epoch in batches of {size}", epoch, 5)
"""
TRAIN = """
from dlops_mnist.config import load_config
from dlops_mnist.train import train
def run(experiment, *changes):
    changes = [f"datamodule.path={folder / 'ours'}", "datamodule.source=null", f"paths.runs={folder / 'runs'}",
               "trainer.accelerator=cpu", *changes]
    return train(load_config(experiment, "trainer.enable_progress_bar=false", *changes))
run("mnist_cnn", "trainer.max_steps=1", "trainer.limit_val_batches=1")
for precision in ("32-true", "bf16-mixed"):
    few = "trainer.max_steps=6", "trainer.limit_val_batches=1"
    short = *few, "model.channels_last=true", f"trainer.precision={precision}"
    timed(f"P3 six steps, {precision}", lambda: run("mnist_cnn", *short))
timed("P4 mnist_fast", lambda: run("mnist_fast", "datamodule.val=test"), 3)
timed("P4 mnist_best", lambda: run("mnist_best", "datamodule.val=test"))
for network, size in (("mlp", 25), ("cnn", 64)):
    few = [] if network == "mlp" else ["trainer.limit_train_batches=200"]
    timed(f"P5 an epoch of the {network}, batch {size}",
          lambda: run(None, f"model={network}", f"datamodule.batch_size={size}", "trainer.max_epochs=1",
                      "datamodule.val=test", *few))
def first(): train(load_config("001", f"paths.runs={folder / 'runs'}", "trainer.enable_progress_bar=false"))
timed("P6 001, training alone", first, 5)
"""
COMMANDS = """
def process(*words):
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
timed("P6 001, the whole process", lambda: process("dlops_mnist.train", "001", f"paths.runs={folder / 'runs'}"), 3)
for words in ("train --help", "train 001 --cfg job", "train 001 optimizer.rl=1", "train 001 seed=1,2", "train nowhere",
              "evaluate nowhere", "dataset inspect path=nowhere", f"runs {folder / 'table'}"):
    timed(f"P7 {words.replace(str(folder), '').replace('/', '')}", lambda: process(*f"dlops_mnist.{words}".split()), 3)
"""
MEMORY = """
from dlops_mnist.config import load_config
from dlops_mnist.train import train
changes = f"datamodule.path={folder / 'ours'}", f"paths.runs={folder / 'runs'}", "datamodule.batch_size=2048"
train(load_config(None, *changes, "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"))
figures["P8 peak memory of an epoch, GB"] = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20
"""
EVALUATE = """
from dlops_mnist.evaluate import evaluate
checkpoint = folder / "mlp.ckpt"
evaluate(checkpoint, draws=1)
timed("P9 10,000 images, intervals and all", lambda: evaluate(checkpoint), 3)
timed("P9 with the report", lambda: evaluate(checkpoint, out=folder / "out"), 3)
"""
SCRIPTS = {"data": DATA, "train": TRAIN, "commands": COMMANDS, "memory": MEMORY, "evaluate": EVALUATE}


def call(checkout: Path, script: str, folder: Path) -> dict[str, float]:
    "The figures that a script prints, with the package of a checkout."
    own = Path(tempfile.mkdtemp(dir=folder))  # the two share images, not caches or runs
    for name in ("ours", "pillow", "table"):
        if (folder / name).is_dir(): os.symlink(folder / name, own / name)
    if (folder / f"{checkout.name}.ckpt").is_file(): shutil.copy(folder / f"{checkout.name}.ckpt", own / "mlp.ckpt")
    command = [checkout / ".venv/bin/python", "-c", START + script + END, own]
    done = subprocess.run(command, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, text=True, capture_output=True)
    if done.returncode: sys.exit(f"{checkout}: {done.stderr[-3000:]}")
    shutil.rmtree(own)
    return json.loads(done.stdout.strip().splitlines()[-1])


PREPARE = """
import numpy as np
from PIL import Image
from dlops_mnist.sources import load_mnist, write_dataset
mnist, counts = load_mnist(), {"train": 50_000, "test": 10_000}
plan = {split: {str(d): np.flatnonzero(mnist[split][1][:count] == d) for d in range(10)} for split, count in counts.items()}
ours = write_dataset(folder / "ours", {split: images for split, (images, _) in mnist.items()}, plan, {"source": "mnist"})
shutil.copytree(ours, folder / "pillow", ignore=shutil.ignore_patterns(".cache"))
for file in (folder / "pillow").glob("*/*/*.png"): Image.open(file).save(file)
sys.path.insert(0, "benchmarks")
from runs_table import make_runs
make_runs(folder / "table", 100)
"""
CHECKPOINT = """
from dlops_mnist.config import load_config
from dlops_mnist.train import train
run = train(load_config(None, f"datamodule.path={folder / 'ours'}", f"paths.runs={folder / 'runs'}", "trainer.max_steps=300",
                        "datamodule.batch_size=128", "trainer.enable_progress_bar=false"))
shutil.copy(run.last_checkpoint, sys.argv[2])
"""


def prepare(checkouts: list[Path], folder: Path) -> None:
    "The images, a table's runs, and a checkpoint of each checkout's own; what is there already stays."
    def python(checkout: Path, script: str, *words: object) -> None:
        command = [checkout / ".venv/bin/python", "-c", START + script, *map(str, words)]
        subprocess.run(command, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, check=True)

    if not (folder / "table").exists(): python(checkouts[0], PREPARE, folder)
    for checkout in checkouts:
        if not (folder / f"{checkout.name}.ckpt").exists(): python(checkout, CHECKPOINT, folder, folder / f"{checkout.name}.ckpt")


def spread(values: list[float]) -> str: return f"{statistics.median(values):8.4f} ({min(values):.4f}-{max(values):.4f})"


def worse(new: list[float], old: list[float]) -> bool:
    return min(new) > max(old) and statistics.median(new) > 1.1 * statistics.median(old)


def main(other: Path, rounds: int = 5, place: str | None = None, only: tuple[str, ...] = ()) -> int:
    figures: dict[str, dict[Path, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder, checkouts = Path(place or temporary), [HERE, other]
        folder.mkdir(parents=True, exist_ok=True)
        prepare(checkouts, folder)
        for number in range(rounds):
            for name in only or SCRIPTS:
                for checkout in checkouts if number % 2 else checkouts[::-1]:
                    for figure, value in call(checkout, SCRIPTS[name], folder).items():
                        figures.setdefault(figure, {HERE: [], other: []})[checkout].append(value)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    lost = 0
    for name, values in figures.items():
        new, old = values[HERE], values[other]
        verdict = "WORSE" if worse(new, old) else "better" if worse(old, new) else ""
        lost += verdict == "WORSE"
        ratio = statistics.median(new) / statistics.median(old)
        print(f"{name:38} now {spread(new)}  before {spread(old)}  ratio {ratio:.2f} {verdict}")
    return lost


if __name__ == "__main__":
    if len(sys.argv) < 2: sys.exit(__doc__)
    other, rounds, place, *only = [*sys.argv[1:], *["5", ""][len(sys.argv) - 2:]]
    sys.exit(main(Path(other).resolve(), int(rounds), place or None, only) > 0)
