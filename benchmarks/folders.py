"""Folders as people have them: what this package, torchvision's ImageFolder, timm, fastai and Keras make of each.

python benchmarks/folders.py [FOLDER]      FOLDER: where they are drawn (default: a temporary folder)

Asks those of the five that are installed here, each as its documentation shows it, and says what was seen: `fine`, an
error, or what is wrong without a word of it (`!`). The others need an environment of their own (torchvision, timm, fastai,
keras, grain; Keras runs on PyTorch here). It draws all pictures itself, and takes seconds.
"""

import gzip
import logging
import os
import re
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

os.environ["KERAS_BACKEND"] = "torch"
warnings.filterwarnings("ignore")
logging.disable()
SIZE, TRAIN, TEST = 24, 12, 6


def draw(name: str, number: int, size: int = SIZE) -> np.ndarray:
    "A disc, a bar or a ring; no two pictures are alike."
    picture, rng = Image.new("L", (size, size)), np.random.default_rng([number, len(name), ord(name[0])])
    x, y = rng.integers(2, size - 10, 2).tolist()
    pen = ImageDraw.Draw(picture)
    if name == "bar": pen.rectangle((x, y, x + 7, y + 2), fill=255)
    else: pen.ellipse((x, y, x + 7, y + 7), fill=255 * (name == "disc"), outline=255)
    picture.putpixel((number % size, 0), 255)
    return np.asarray(picture)


def fill(root: Path, splits=(("train", TRAIN), ("test", TEST)), classes=("bar", "disc"), end="png", below="",
         change=Image.fromarray, start=0, size=SIZE) -> None:
    for split, count in splits:
        for name in classes:
            folder = root / split / name / below
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(start, start + count): change(draw(name, i + 100 * len(split), size)).save(folder / f"{i:03}.{end}")


def ink(pixels): return Image.fromarray(np.stack([0 * pixels] * 3 + [pixels], -1))
def deep(pixels): return Image.fromarray(np.where(pixels > 0, 3000, 1000).astype(np.uint16))


def several(root):
    for i, end in enumerate(("png", "bmp", "gif", "tif", "webp")): fill(root, (("train", 4), ("test", 2)), end=end, start=10 * i)


def sizes(root):
    for i in range(6): fill(root, (("train", 2), ("test", 1)), start=2 * i, size=SIZE + 3 * i)


def lacking(root):
    fill(root, (("train", TRAIN),), ("bar", "disc", "ring"))
    fill(root, (("test", TEST),), ("disc", "ring"))


def broken(root):
    fill(root)
    (root / "train/bar/000.png").write_bytes(b"")
    (root / "train/disc/001.png").write_bytes((root / "train/disc/001.png").read_bytes()[:60])


def table(root):
    (root / "images").mkdir(parents=True)
    for i in range(36): Image.fromarray(draw(("bar", "disc")[i % 2], i)).save(root / f"images/{i:03}.png")
    (root / "labels.csv").write_text("filename,label\n" + "".join(f"{i:03}.png,{('bar', 'disc')[i % 2]}\n" for i in range(36)))


def idx(root):
    root.mkdir(parents=True)
    for split, count in (("train", 24), ("t10k", 12)):
        images = np.stack([draw(("bar", "disc")[i % 2], i) for i in range(count)])
        for kind, values in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8) % 2)):
            head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (root / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))


# kind of folder -> (draws it, images to be read, what ours is told when it asks)
KINDS: dict[str, tuple[Callable, int, dict]] = {
    "PNG and JPEG side by side": (lambda root: (fill(root), fill(root, end="jpg", start=50)), 72, {}),
    "PNG, BMP, GIF, TIFF, WebP": (several, 60, {}),
    "classes, no train and test": (lambda root: fill(root, (("", 18),)), 36, {}),
    "train alone": (lambda root: fill(root, (("train", 18),)), 36, {}),
    "classes in subfolders": (lambda root: fill(root, below="monday"), 36, {}),
    "images of several sizes": (sizes, 36, {"resize": [SIZE, SIZE]}),
    "black ink, transparent ground": (lambda root: fill(root, change=ink), 36, {}),
    "16 bits": (lambda root: fill(root, change=deep), 36, {"range": "auto"}),
    "a class that test lacks": (lacking, 48, {}),
    "two broken files": (broken, 34, {"broken": "skip"}),
    "one folder and a table": (table, 36, {}),
    "IDX files that aren't MNIST's": (idx, 36, {}),
}


def ours(root: Path, **settings):
    from dlops_mnist.dataset import MNISTDataModule
    from dlops_mnist.parts.core import UserError

    data = MNISTDataModule(root, **settings)
    try: data.setup()
    except UserError as error:
        if "IDX files" not in str(error): raise
        data = MNISTDataModule(root.parent / "made", source="idx", raw=str(root))
        data.setup()
        return *_arrays(data), "after the command that it names"
    return *_arrays(data), ""


def _arrays(data):
    parts = data.datasets
    train = [parts[split] for split in ("train", "val") if split in parts]
    names = {name: label for label, name in enumerate(data.classes)}
    test = parts.get("test")
    return (np.concatenate([part.images for part in train]), names, test and test.images, names)


def imagefolder(root: Path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    def read(split):
        found = ImageFolder(str(root / split), ToTensor())
        return np.stack([image.numpy() for image, _ in found]), found.class_to_idx

    return *read("train" if (root / "train").is_dir() else ""), *(read("test") if (root / "test").is_dir() else (None, None)), ""


def in_timm(root: Path):
    from timm.data import create_dataset, create_loader

    def read(split):
        found = create_dataset("", root=str(root), split=split)
        loader = create_loader(found, (3, SIZE, SIZE), 16, is_training=False, use_prefetcher=False, num_workers=0,
                               mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1)
        return np.concatenate([images.numpy() for images, _ in loader]), found.reader.class_to_idx

    return *read("train"), *read("test"), ""


def in_fastai(root: Path):
    from fastai.vision.all import ImageDataLoaders

    how = {"train": "train", "valid": "test"} if (root / "test").is_dir() else {"valid_pct": 0.3, "seed": 0}
    loaders = ImageDataLoaders.from_folder(root, bs=8, num_workers=0, **how)
    names = {name: label for label, name in enumerate(loaders.vocab)}
    train, test = ([np.asarray(part[i][0]) for i in range(len(part))] for part in (loaders.train_ds, loaders.valid_ds))
    loaders.one_batch()
    return np.stack(train), names, np.stack(test), names, ""


def in_keras(root: Path):
    import keras

    def read(split, **how):
        found = keras.utils.image_dataset_from_directory(str(root / split), image_size=(SIZE, SIZE), batch_size=8, format="grain",
                                                         verbose=False, **how)
        return np.concatenate([np.asarray(images) for images, _ in found]), {name: i for i, name in enumerate(found.class_names)}

    if (root / "test").is_dir(): return *read("train"), *read("test"), ""
    part = {"validation_split": 0.3, "seed": 0}
    where = "train" if (root / "train").is_dir() else ""
    return *read(where, subset="training", **part), *read(where, subset="validation", **part), ""


READERS = {"ours": ours, "ImageFolder": imagefolder, "timm": in_timm, "fastai": in_fastai, "Keras": in_keras}


def seen(read: Callable, root: Path, wanted: int, **settings) -> str:
    "What came of it, in a few words; `!`: something is wrong, and nothing was said."
    train, names, test, others, words = read(root, **settings)
    everything = [*train, *(() if test is None else test)]
    if len(names) == 1: return f"! one class, `{next(iter(names))}`"
    if len({image.tobytes() for image in everything}) < len(everything) / 3: return "! all pictures alike"
    if test is not None and len(train) == len(test) == wanted: return "! tests on what it trained on"
    if test is not None and any(others[name] != names[name] for name in others): return "! labels of test are shifted"
    if len(everything) < wanted: return f"! {len(everything)} of {wanted} read"
    repeated = "reads a neighbour again instead" if len(everything) > wanted else ""
    return ", ".join(["fine", *filter(None, [words, repeated, "no test set" * (test is None)])])


def verdict(name: str, kind: str, root: Path) -> str:
    _, wanted, settings = KINDS[kind]
    try: return seen(READERS[name], root, wanted)
    except ImportError: raise
    except Exception as error:
        if name != "ours" or not settings: return f"{type(error).__name__}: {re.split('[.:;]', str(error))[0][:60]}"
    return f"asks; with {' '.join(f'{key}={value}' for key, value in settings.items())} {seen(ours, root, wanted, **settings)}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        for number, (kind, (make, *_)) in enumerate(KINDS.items()):
            root = base / str(number) / "data"
            if not root.exists(): make(root)
            print(kind)
            for name in READERS:
                try: print(f"  {name:12} {verdict(name, kind, root)}", flush=True)
                except ImportError: pass
