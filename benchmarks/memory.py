"""P8: memory and start-up with 1,000,000 images, against 10,000.

python benchmarks/memory.py [IMAGES]       default: 1000000

A million PNG files would take 4 GB of disk and minutes to write, so the benchmark makes the cache that they would be
decoded into: random pixels, written by the functions that write the real one. What is left out is the check of every
file when the dataset is opened; its time is in `benchmarks/images.py` (per 70,000 files).

Each measurement is a process of its own: the MLP of the series at batch size 2048, through Lightning and our loaders,
for as many steps as an epoch over the many images has, and for 2 steps only. Peak resident memory counts the pages of
the memory-mapped arrays that were touched. Which those are is up to the system: Linux maps a page with its neighbours,
64 KB or many times that, so 4,096 images in random places may bring in half of the file. So the bound is measured as
well: a process that maps the same files, takes the images and labels of as many batches in the same order, and does
nothing else.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import Times, main, wait_for_quiet

FEW, BATCH = 10_000, 2048
CODE = "import sys; sys.path.insert(0, {here!r}); import memory; memory.{what}(sys.argv[1], int(sys.argv[2]))"


def make_generation(path: Path, count: int) -> None:
    "What `write_generation` would leave for a dataset of so many images."
    from dlops_mnist.parts.folder import Scan
    from dlops_mnist.parts.images import write_splits

    path.mkdir()
    generator = np.random.default_rng(0)
    files = {(split, str(d)): [f"{d}{i:07}.png" for i in range(n // 10)]
             for split, n in (("train", count), ("test", 1000)) for d in range(10)}
    total = sum(map(len, files.values()))
    raw = np.memmap(path / "raw", np.uint8, "w+", shape=(total, 28, 28))
    for i in range(0, total, 10_000): raw[i:i + 10_000] = generator.integers(0, 256, raw[i:i + 10_000].shape, np.uint8)
    found = Scan([str(d) for d in range(10)], files, "", 0)
    write_splits(path, found, raw, generator.integers(0, 2**64, total, np.uint64))
    (path / "raw").unlink()
    meta = {"classes": found.classes, "image_shape": [28, 28], "splits": ["train", "test"], "fingerprint": "0" * 64}
    (path / "meta.json").write_text(json.dumps(meta))


def peak() -> int:
    "The most memory that this process ever had, in bytes."
    # not `ru_maxrss`, into which the memory of the process that started this one goes as well
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def train(path: str, steps: int) -> None:
    "In a process of its own: open, train, and print seconds of opening and the peak of resident memory in bytes."
    import pytorch_lightning as pl

    from dlops_mnist import dataset
    from dlops_mnist.config import load_config
    from dlops_mnist.models import MNISTModule
    from dlops_mnist.parts import images
    from dlops_mnist.parts.core import keep_freed_memory

    keep_freed_memory()
    dataset.open_images = lambda *_: images.ImageArrays.load(Path(path), Path(path))
    classes = ",".join(f"digit{d}" for d in range(10))
    config = load_config(None, f"datamodule.classes=[{classes}]", "datamodule.image_shape=[28,28]")
    start = time.perf_counter()
    datamodule = dataset.MNISTDataModule(path, batch_size=BATCH, val="test")
    datamodule.setup()
    opened = time.perf_counter() - start
    trainer = pl.Trainer(max_epochs=-1, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)
    trainer.fit(MNISTModule(config), datamodule)
    most = peak()
    start = time.perf_counter()
    next(iter(datamodule.train_dataloader()))
    first = time.perf_counter() - start
    print(json.dumps({"opened": opened, "first": first, "peak": most, "steps": trainer.global_step}))


def touch(path: str, steps: int) -> None:
    "In a process of its own: read what `train` reads and nothing else, and print how much memory that took, in bytes."
    from dlops_mnist.parts.batches import EpochSampler

    before = peak()
    images, labels = (np.load(Path(path) / f"train-{what}.npy", mmap_mode="r") for what in ("images", "labels"))
    order = EpochSampler(len(images)).order()
    for start in range(0, min(len(order), steps * BATCH), BATCH):
        images.take(order[start:start + BATCH], axis=0), labels.take(order[start:start + BATCH])
    print(json.dumps(peak() - before))


def measure(what: str, path: Path, steps: int):
    code = CODE.format(here=str(Path(__file__).parent), what=what)
    done = subprocess.run([sys.executable, "-c", code, str(path), str(steps)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def judge(name: str, few: Path, many: Path, steps: int, repeats: int = 3) -> bool:
    "Peak memory with many images beyond that with few, at most the pages that had to be touched."
    wait_for_quiet()
    jobs = [(what, path) for what in ("train", "touch") for path in (few, many)]
    rounds = [[measure(what, path, steps) for what, path in jobs] for _ in range(repeats)]
    beyond = sorted((b["peak"] - a["peak"]) / 1e6 for a, b, *_ in rounds)
    touched = sorted((b - a) / 1e6 for *_, a, b in rounds)
    reached = beyond[0] <= touched[-1]  # two processes that read the same differ by a few megabytes
    print(f"P8 {name}: peak resident memory {rounds[0][0]['peak'] / 1e6:,.0f} MB with few images, "
          f"{rounds[0][1]['peak'] / 1e6:,.0f} MB with many\n  beyond: {_range(beyond)} MB; wanted: at most what reading"
          f" them takes, {_range(touched)} MB: {'reached' if reached else 'MISSED'}")
    for what, words in (("opened", "the loaders are ready after"), ("first", "an epoch's first batch takes")):
        print(f"  {words} {Times([a[what] for a, *_ in rounds])} and {Times([b[what] for _, b, *_ in rounds])}")
    return reached


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):,.1f} ({values[0]:,.1f}-{values[-1]:,.1f})"


def run(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        make_generation(few, FEW)
        make_generation(many, count)
        main([lambda: judge("an epoch", few, many, -(-count // BATCH)), lambda: judge("2 steps", few, many, 2)])


if __name__ == "__main__": run(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
