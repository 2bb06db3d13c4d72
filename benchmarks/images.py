"""P1: 60,000 PNG files to the cached array, against a loop over scikit-image; and opening that cache again.

python benchmarks/images.py [FOLDER]      FOLDER: where the datasets are made (default: a temporary folder)

Two kinds of files: as this project writes them, and as Pillow does (compressed, with filters). Both sides read files
that the operating system has in memory already. Ours does more: it checks every checksum, hashes files and pixels,
sorts, and writes the cache. Needs MNIST (MNIST_RAW_DIR, or a download).
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import Times, alternate, main, verdict
from PIL import Image
from skimage.io import imread

from dlops_mnist.parts.images import open_images, parallel
from dlops_mnist.parts.sources import load_mnist, write_dataset

IMAGES = {"train": 50_000, "test": 10_000}


def make(folder: Path) -> dict[str, Path]:
    "60,000 images of MNIST's, once in our own files, and once in Pillow's."
    mnist = load_mnist()
    plan = {split: {str(d): np.flatnonzero(mnist[split][1][:count] == d) for d in range(10)}
            for split, count in IMAGES.items()}
    ours = write_dataset(folder / "ours", {split: images for split, (images, _) in mnist.items()}, plan, {"source": "mnist"})
    pillows = folder / "pillow"
    if not pillows.exists():
        shutil.copytree(ours, folder / "part", ignore=shutil.ignore_patterns(".cache"))
        files = list((folder / "part").glob("*/*/*.png"))
        jobs = [files[i::100] for i in range(100)]
        for _ in parallel(lambda job: [Image.open(file).save(file) for file in job] and None, jobs): pass
        (folder / "part").rename(pillows)
    return {"as this project writes them": ours, "as Pillow writes them": pillows}


def decode(path: Path) -> None:
    "Cold: the cache is removed first (a few milliseconds, and they count)."
    shutil.rmtree(path / ".cache", ignore_errors=True)
    arrays = open_images(path)
    assert [len(arrays.splits[split]["images"]) for split in IMAGES] == list(IMAGES.values())


def loop(path: Path) -> None:
    "What the series' dataset does for each item, into one array."
    images = np.stack([imread(file) for file in path.glob("*/*/*.png")])
    assert images.shape == (60_000, 28, 28)


def judge(name: str, path: Path) -> bool:
    ours, theirs = alternate(lambda: decode(path), lambda: loop(path), repeats=3)
    return verdict(f"P1 60,000 PNG files, {name}, to the cached array; against scikit-image", ours, theirs, 15)


def reopen(path: Path) -> bool:
    "Opening the cache of 70,000 files again, every file checked for changes, in milliseconds."
    from measure import again, wait_for_quiet

    open_images(path), open_images(path)
    wait_for_quiet()
    times = Times([again(lambda: open_images(path)) for _ in range(15)])
    reached = times.median <= 0.3
    print(f"P1 opening the cache again (70,000 files)\n"
          f"  ours {times}; wanted: at most 300 ms: {'reached' if reached else 'MISSED'}")
    return reached


def whole(folder: Path) -> Path:
    "All 70,000 images."
    from dlops_mnist.parts.sources import build_mnist

    return build_mnist(folder / "all")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        jobs = [lambda name=name, path=path: judge(name, path) for name, path in make(folder).items()]
        main([*jobs, lambda: reopen(whole(folder))])
