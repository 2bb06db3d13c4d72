"""From files to the array, and from the array to a training: four ratios (P1).

python benchmarks/images.py [FOLDER] [png] [jpeg] [epoch] [reopen]      which of them (default: all)

FOLDER is where the datasets are made (default: a temporary folder). Both sides read files that the operating system has
in memory already. Ours does more: it checks every checksum, hashes files and pixels, sorts, and writes the cache.

png     60,000 small PNG files, as this project writes them and as Pillow does (compressed, with filters), against a loop
        over scikit-image. Needs MNIST (MNIST_RAW_DIR, or a download).
jpeg    10,000 drawn JPEG photographs of 256x256 to 64x64, against Pillow in a DataLoader with two workers.
epoch   a training epoch over 400 colour images of 224x224 from the cache (JPEG photographs of 500x375, resized), with
        `fast_cnn`: against a dataset that opens, resizes and converts one file at a time, two workers, as ImageFolder does;
        and against the images on hand as one tensor. Without a GPU the network takes most of it: the batches alone come first.
reopen  opening the cache of 70,000 files again, every file checked for changes, against a bare program that asks the kernel
        about each of them.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import alternate, main, verdict
from PIL import Image, ImageFilter
from skimage.io import imread
from torch.utils.data import DataLoader, Dataset

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
    return verdict(f"P1 60,000 PNG files, {name}, to the cached array; against scikit-image", ours, theirs, 20)


def ask(path: Path) -> int:
    "A bare program that asks the kernel about each file."
    return sum(entry.stat().st_size + entry.stat().st_mtime_ns for folder in path.glob("t*/*") for entry in os.scandir(folder))


def reopen(path: Path) -> bool:
    "Opening the cache of 70,000 files again, every file checked for changes."
    open_images(path), open_images(path)
    ours, bare = alternate(lambda: open_images(path), lambda: ask(path), repeats=15)
    return verdict("P1 opening the cache again (70,000 files); against a bare program that asks the kernel about each",
                   ours, bare, 1.45, at_most=True)


def whole(folder: Path) -> Path:
    "All 70,000 images."
    from dlops_mnist.parts.sources import build_mnist

    return build_mnist(folder / "all")


def photograph(number: int, width: int, height: int) -> Image.Image:
    "Soft colours, a few edges and some grain: a file of the size that a camera's would have."
    rng = np.random.default_rng(number)
    soft = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    edges = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    pixels = np.asarray(Image.blend(soft, edges.filter(ImageFilter.GaussianBlur(1)), 0.3), np.int16)
    return Image.fromarray((pixels + rng.integers(-6, 7, pixels.shape)).clip(0, 255).astype(np.uint8))


def photographs(path: Path, count: int, width: int, height: int) -> Path:
    "Two classes of JPEG files, all for the training."
    for name in "ab": (path / "train" / name).mkdir(parents=True, exist_ok=True)

    def draw(numbers):
        for i in numbers:
            file = path / "train" / "ab"[i % 2] / f"{i:05}.jpg"
            if not file.exists(): photograph(i, width, height).save(file, quality=88)

    for _ in parallel(draw, [range(start, count, 50) for start in range(50)]): pass
    return path


class OneByOne(Dataset):
    "As torchvision's ImageFolder with Resize and ToTensor: a file is opened whenever it is asked for."

    def __init__(self, path: Path, side: int): self.files, self.side = sorted(path.glob("train/*/*.jpg")), side
    def __len__(self) -> int: return len(self.files)

    def __getitem__(self, i: int):
        with Image.open(self.files[i]) as picture:
            small = picture.convert("RGB").resize((self.side, self.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float().div(255), int(self.files[i].parent.name == "b")


def jpeg(path: Path) -> bool:
    def ours():
        shutil.rmtree(path / ".cache", ignore_errors=True)
        assert len(open_images(path, resize=[64, 64]).splits["train"]["images"]) == 10_000

    def theirs(): assert sum(len(labels) for _, labels in DataLoader(OneByOne(path, 64), 100, num_workers=2)) == 10_000

    return verdict("P1 10,000 JPEG files of 256x256 to 64x64; against Pillow in a DataLoader with two workers",
                   *alternate(ours, theirs, repeats=3), 4)


def epochs(path: Path) -> bool:
    "Each side trains the same network for an epoch; the batches alone differ."
    from dlops_mnist.dataset import MNISTDataModule
    from dlops_mnist.networks import FastCNN, run_epoch

    model = FastCNN(image_shape=[3, 224, 224])
    adam = torch.optim.Adam(model.parameters())
    data = MNISTDataModule(path, val=0.01, batch_size=50, resize=[224, 224])
    data.setup()
    images, labels = data.datasets["train"].__getitems__(range(len(data.datasets["train"])))
    one_by_one = DataLoader(OneByOne(path, 224), 50, shuffle=True, num_workers=2)

    def on_hand():
        order = torch.randperm(len(images))
        run_epoch(model, ((images[some], labels[some]) for some in order.split(50)), adam)

    def ours(): run_epoch(model, data.train_dataloader(), adam)
    def theirs(): run_epoch(model, one_by_one, adam)

    batches = alternate(lambda: sum(1 for _ in data.train_dataloader()), lambda: sum(1 for _ in one_by_one), repeats=3)
    verdict("P1 the batches of an epoch of 224x224 colour images, without a network; against a file at a time", *batches, 3)
    far = verdict("P1 an epoch of 224x224 colour images from the cache; against a file at a time, two workers",
                  *alternate(ours, theirs, repeats=3), 3)
    return verdict("P1 the same; against the images on hand as one tensor", *alternate(ours, on_hand, repeats=3), 0.9) and far


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        names = [word for word in sys.argv[1:] if word in ("png", "jpeg", "epoch", "reopen")] or ["png", "jpeg", "epoch", "reopen"]
        folder = Path(next((word for word in sys.argv[1:] if word not in names), temporary))
        jobs = {"png": lambda: all([judge(name, path) for name, path in make(folder).items()]),
                "jpeg": lambda: jpeg(photographs(folder / "jpeg", 10_000, 256, 256)),
                "epoch": lambda: epochs(photographs(folder / "photos", 400, 500, 375)),
                "reopen": lambda: reopen(whole(folder))}
        main([jobs[name] for name in names])
