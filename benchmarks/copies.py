"""Near copies among MNIST's 70,000 images: how many are found, how many are false alarms, and how long it takes.

python benchmarks/copies.py [FOLDER] [COPIES]      FOLDER: where MNIST's images are, or are built; 80 copies of each kind

Copies of test images are put among the others: shifted by one pixel, one grey level brighter, saved again as JPEG of three
qualities. The writers of MNIST's test set wrote none of its training set, so every pair between the two is a false alarm; all
other pairs of originals are counted beside it. Each kind of copy is searched for by itself, and once none at all.
"""

import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dlops_mnist.parts.copies import coarse_views, near_pairs
from dlops_mnist.parts.images import open_images
from dlops_mnist.parts.sources import build_mnist


def resaved(image: np.ndarray, quality: int) -> np.ndarray:
    Image.fromarray(image).save(file := BytesIO(), "JPEG", quality=quality)
    return np.asarray(Image.open(file))


KINDS = {"none": None, "one pixel right": lambda image: np.roll(image, 1, axis=1),
         "one pixel up and left": lambda image: np.roll(image, (-1, -1), (0, 1)),
         "one level brighter": lambda image: np.minimum(image, 254) + 1,
         **{f"JPEG, quality {quality}": lambda image, quality=quality: resaved(image, quality) for quality in (90, 75, 50)}}


def main(folder: str, copies: int = 80) -> None:
    splits = open_images(build_mnist(Path(folder) / "all")).splits
    images = np.concatenate([splits[name]["images"] for name in ("train", "test")])
    train = len(splits["train"]["images"])
    chosen = train + np.random.default_rng(0).permutation(len(images) - train)[:copies]
    for name, change in KINDS.items():
        more = np.stack([change(images[i]) for i in chosen]) if change else images[:0]
        start, cpu = time.perf_counter(), time.process_time()
        pairs, distances, limit, chance = near_pairs(coarse_views(np.concatenate([images, more])))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        originals = pairs[(pairs < len(images)).all(axis=1)]
        between = ((originals < train).sum(axis=1) == 1).sum()
        found = len({(i, len(images) + k) for k, i in enumerate(chosen)} & set(map(tuple, pairs.tolist()))) if change else 0
        print(f"{name:24} found {found:3} of {len(more):3}; pairs of originals {len(originals)}, of them {between} of different "
              f"writers; by chance {chance:.1f}; limit {limit:.2f} levels; {seconds:.1f} s, {cpu:.1f} s of processor", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(sys.argv[1] if len(sys.argv) > 1 else temporary, *map(int, sys.argv[2:]))
