"Copies that were changed a little are found, and strangers are not taken for them."

import io
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from dlops_mnist.inspection import inspect, leaks
from dlops_mnist.parts.copies import coarse_views, near_copies, near_pairs
from dlops_mnist.parts.images import open_images
from dlops_mnist.parts.pictures import decode


def saved_again(image: np.ndarray) -> np.ndarray:
    Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=75)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("change", [lambda image: np.roll(image, 1, axis=1), lambda image: np.roll(image, (-1, 1), axis=(0, 1)),
                                    lambda image: np.minimum(image, 254) + 1, saved_again])
def test_copies_that_were_changed_a_little_are_found(root, change):
    arrays = open_images(root / "dataset")
    train, test = arrays.splits["train"], arrays.splits["test"]
    more = {"images": np.stack([change(image) for image in test["images"]]), "labels": test["labels"],
            "paths": np.char.add(b"copy of ", test["paths"]), "hashes": test["hashes"] + np.uint64(1)}
    spoilt = replace(arrays, splits={"test": test, "train": {what: np.concatenate([train[what], more[what]]) for what in train}})
    table, _, chance = near_copies(spoilt)
    pairs = {tuple(sorted(group)) for _, group in table.groupby("group")["image"]}
    assert len(test["paths"]) == 80 and {(f"copy of {path.decode()}", path.decode()) for path in test["paths"]} <= pairs
    assert len(pairs) <= 82 and chance < 2 and (np.diff(table["distance"]) >= 0).all() and len(leaks(spoilt)) == 0
    assert near_copies(arrays).table.empty


def test_near_copies_of_photographs_whatever_comes_in_at_the_border():
    rng = np.random.default_rng(0)
    scenes = np.stack([gaussian_filter(scene, (0, 2, 2)) for scene in rng.normal(size=(150, 3, 50, 46))])
    scenes = np.clip(128 + 400 * scenes, 0, 255).astype(np.uint8)
    again = np.stack([saved_again(scene.transpose(1, 2, 0)).transpose(2, 0, 1) for scene in scenes[:20, :, 2:42, 3:43]])
    images = np.concatenate([scenes[:, :, 2:42, 3:43], scenes[:20, :, 3:43, 2:42], again])  # all, some shifted, some saved again
    pairs, _, _, chance = near_pairs(coarse_views(images))
    assert {(i, 150 + k * 20 + i) for k in (0, 1) for i in range(20)} <= set(map(tuple, pairs.tolist())) and chance < 1
    scene = np.where(pairs < 150, pairs, (pairs - 150) % 20)
    assert (scene[:, 0] == scene[:, 1]).all(), "and nothing else"


def test_near_copies_where_there_is_little_to_compare(tmp_path):
    for size in ((4, 5), (6, 6)):
        for i, (split, name) in enumerate(product(("train", "test"), "ab")):
            (tmp_path / f"{size}/{split}/{name}").mkdir(parents=True)
            Image.fromarray(np.full(size, 60 * i, np.uint8)).save(tmp_path / f"{size}/{split}/{name}/x.png")
        arrays = open_images(tmp_path / f"{size}")
        assert near_copies(arrays).table.empty, "pictures of one colour each, far from one another"
    blank = {what: values[:1] for what, values in arrays.splits["train"].items()}
    assert near_copies(replace(arrays, splits={"train": blank, "test": blank})).table.empty, "one picture, twice the same"


def test_inspect_shows_near_copies_and_how_many_are_by_chance(root, tmp_path, capsys):
    folder = Path(shutil.copytree(root / "dataset", tmp_path / "data", ignore=shutil.ignore_patterns(".cache")))
    file = sorted((folder / "test/3").iterdir())[0]
    Image.fromarray(np.roll(decode(file.read_bytes()), 1, axis=1)).save(folder / "train/3/moved.png")
    inspect(str(folder), figures=str(tmp_path / "pictures"))
    out = " ".join(capsys.readouterr().out.split())
    assert "near copies: 1 " in out and "1 pair is nearer than" in out
    assert "1 of them in two splits; by chance there would be fewer" in out
    assert "moved.png" in out and (tmp_path / "pictures/copies.png").stat().st_size > 1000
