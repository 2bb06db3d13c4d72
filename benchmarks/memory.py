"""P8: memory and start-up with 1,000,000 images, against 10,000.

python benchmarks/memory.py [IMAGES]       default: 1000000

A million PNG files would take 4 GB of disk and minutes to write, so the benchmark makes the cache that they would be
decoded into: random pixels, written by the functions that write the real one. What is left out is the check of every
file when the dataset is opened; its time is in `benchmarks/images.py` (per 70,000 files).

Each measurement is a process of its own: one epoch of the series' MLP at batch size 2048, through Lightning and
`MNISTDataModule`. Peak resident memory counts the pages of the memory-mapped arrays that were touched, so an epoch over
N images may add N x 784 bytes and, for each image, its label (8) and its place in the shuffled order (8), and no more.
Then the same with 2 steps only. Linux maps a window of 16 pages (64 KB) around each page that is touched, so 4,096 images
in random places may add as many windows.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import Times, main, wait_for_quiet

FEW, BYTES = 10_000, 784 + 8 + 8  # of an image: pixels, label, place in the order
CODE = "import sys; sys.path.insert(0, {here!r}); from memory import child; child(*map(int, sys.argv[2:]), path=sys.argv[1])"


def make_generation(path: Path, count: int) -> None:
    "What `write_generation` would leave for a dataset of so many images."
    from dlops_mnist.folder import Scan
    from dlops_mnist.images import write_splits

    path.mkdir()
    generator = np.random.default_rng(0)
    files = {(split, str(d)): [f"{d}{i:07}.png" for i in range(n // 10)]
             for split, n in (("train", count), ("test", 1000)) for d in range(10)}
    total = sum(map(len, files.values()))
    raw = np.memmap(path / "raw", np.uint8, "w+", shape=(total, 28, 28))
    for i in range(0, total, 10_000): raw[i:i + 10_000] = generator.integers(0, 256, raw[i:i + 10_000].shape, np.uint8)
    found = Scan([str(d) for d in range(10)], files, "", 0, {}, False)
    write_splits(path, found, raw, generator.integers(0, 2**64, total, np.uint64))
    (path / "raw").unlink()
    meta = {"classes": found.classes, "image_shape": [28, 28], "splits": ["train", "test"], "fingerprint": "0" * 64}
    (path / "meta.json").write_text(json.dumps(meta))


def child(steps: int, path: str) -> None:
    "In a process of its own: open, train, and print seconds of opening and the peak of resident memory in bytes."
    import pytorch_lightning as pl

    from dlops_mnist import dataset, images
    from dlops_mnist.config import load_config
    from dlops_mnist.models import MNISTModule

    dataset.open_images = lambda *_: images.ImageArrays.load(Path(path), Path(path))
    config = load_config(None, f"datamodule.classes=[{','.join(f'digit{d}' for d in range(10))}]", "datamodule.image_shape=[28,28]")
    start = time.perf_counter()
    datamodule = dataset.MNISTDataModule(path, batch_size=2048, val="test")
    datamodule.setup()
    loader = datamodule.train_dataloader()
    opened = time.perf_counter() - start
    next(iter(loader))
    first = time.perf_counter() - start
    trainer = pl.Trainer(max_epochs=1, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)
    trainer.fit(MNISTModule(config), datamodule)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"opened": opened, "first": first, "peak": peak, "steps": trainer.global_step}))


def measure(path: Path, steps: int) -> dict[str, float]:
    code = CODE.format(here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(path), str(steps)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def judge(few: Path, many: Path, count: int, steps: int, touched: int, repeats: int = 3) -> bool:
    "Peak memory with many images beyond that with few, at most the bytes that were touched."
    wait_for_quiet()
    pairs = [(measure(few, steps), measure(many, steps)) for _ in range(repeats)]
    beyond = sorted((b["peak"] - a["peak"]) / 1e6 for a, b in pairs)
    name = "an epoch" if steps < 0 else f"{steps} steps"
    print(f"P8 {name}: peak resident memory {pairs[0][0]['peak'] / 1e6:,.0f} MB with {FEW:,} images, "
          f"{pairs[0][1]['peak'] / 1e6:,.0f} MB with {count:,}\n  beyond: {beyond[len(beyond) // 2]:,.0f} MB "
          f"({beyond[0]:,.0f}-{beyond[-1]:,.0f}); wanted: at most the {touched / 1e6:,.0f} MB that were touched: "
          f"{'reached' if beyond[-1] <= touched / 1e6 else 'MISSED'}")
    for what, words in (("opened", "the loader is ready"), ("first", "the first batch is there")):
        print(f"  {words} after {Times([a[what] for a, _ in pairs])} and {Times([b[what] for _, b in pairs])}")
    return beyond[-1] <= touched / 1e6


def run(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        make_generation(few, FEW)
        make_generation(many, count)
        windows = 2 * 2048 * (65536 + 784) + 3 * 8 * count  # of two batches; labels, the order, and the order in the making
        main([lambda: judge(few, many, count, -1, (count - FEW) * BYTES),
              lambda: judge(few, many, count, 2, min(windows, count * BYTES))])


if __name__ == "__main__": run(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
