"""`datamodule.cache=none`: nothing decoded is kept. The same images in the same order as from the cache, in bounded memory."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dlops_mnist.config import load_config
from dlops_mnist.dataset import EpochSampler, MNISTDataModule
from dlops_mnist.evaluate import measure_all
from dlops_mnist.inspection import inspect
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.images import open_images
from dlops_mnist.train import train


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user"


def photos(path: Path, count: int, side: int = 24) -> Path:
    "JPEG and PNG files of three sizes in two classes, and no split."
    for label, name in enumerate(("dark", "light")):
        (path / name).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([i, label])
            pixels = rng.integers(60 * label, 60 * label + 120, (side + i % 3, side, 3), np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i:04}.{('jpg', 'png')[i % 2]}")
    return path


def opened(path: Path, **settings) -> MNISTDataModule:
    dm = MNISTDataModule(path, resize=[16, 16], **settings)
    dm.setup()
    return dm


def test_batches_are_those_of_the_cache_and_no_pixels_are_kept(tmp_path, own_cache, monkeypatch):
    path = photos(tmp_path / "photos", 40)
    streams = [opened(path, cache="none", num_workers=workers) for workers in (0, 2)]
    assert not (path / ".cache").exists() and sum(file.stat().st_size for file in own_cache.rglob("*") if file.is_file()) < 12_000
    cached = opened(path)
    for stream in streams:
        assert stream.fingerprint == cached.fingerprint and stream.facts == cached.facts
        assert all(stream.dataset(split).frame.equals(cached.dataset(split).frame) for split in ("train", "val", "test"))
    for _ in range(2):  # each epoch has an order of its own
        for batches in zip(*(dm.train_dataloader() for dm in (cached, *streams)), strict=True):
            assert all(torch.equal(one, other) for batch in batches[1:] for one, other in zip(batches[0], batch))
    for rank in (0, 1):  # of two processes that share the images
        monkeypatch.setattr(EpochSampler, "process", staticmethod(lambda rank=rank: (rank, 2)))
        for (one, labels), (other, others) in zip(cached.train_dataloader(), streams[1].train_dataloader(), strict=True):
            assert torch.equal(one, other) and torch.equal(labels, others)
    assert any("num_workers" in note for note in streams[0].notes) and not any("num_workers" in note for note in streams[1].notes)


def test_a_training_is_the_same_and_goes_on_exactly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = photos(tmp_path / "photos", 40)
    words = [f"datamodule.path={path}", "datamodule.resize=[24,24]", "model=fast_cnn", "model.filters=[2,2,2]",
             "trainer.accelerator=cpu", "augment.flip=0.5", "augment._target_=dlops_mnist.parts.augment.Augment"]
    stream = ["datamodule.cache=none", "datamodule.num_workers=2"]
    whole = train(load_config(None, *words, "trainer.max_epochs=2", "paths.runs=whole"))
    part = train(load_config(None, *words, *stream, "trainer.max_epochs=1", "paths.runs=part"))
    part = train(load_config(None, f"resume={part.path}", "trainer.max_epochs=2"))
    assert part.config["datamodule"]["cache"] == "none" and part.rows == whole.rows and len(part.rows) == 2
    weights = [torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (whole, part)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    a, b = measure_all(whole.path, part.path)
    assert (a.probabilities == b.probabilities).all()
    shutil.rmtree(path / ".cache")
    capsys.readouterr()
    inspect(str(path), cache="none", resize=[24, 24], figures=str(tmp_path / "figures"))
    assert "train  dark       40" in capsys.readouterr().out and not (path / ".cache").exists()


def test_a_file_that_disappears_is_one_sentence(tmp_path):
    dm = opened(photos(tmp_path / "photos", 20), cache="none", num_workers=1)
    gone = tmp_path / "photos" / dm.dataset("train").paths[3]
    gone.unlink()
    with pytest.raises(UserError) as error:
        for _ in dm.train_dataloader(): pass
    assert str(error.value) == f"`{gone}` can't be read: No such file or directory."


def test_a_disk_that_is_too_small_offers_both_ways_out(tmp_path, monkeypatch):
    path, room = photos(tmp_path / "photos", 30), 60 * 3 * 64 * 64 // 4
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - room, room))
    with pytest.raises(UserError, match=r"take 0\.7 MB .* has 0\.2 MB left.*datamodule\.cache=DIR") as error:
        open_images(path, resize=[64, 64])
    assert not list((path / ".cache").glob("*color*")), "nothing is begun"
    height, width = map(int, re.search(r"datamodule\.resize=\[(\d+),(\d+)\]", str(error.value)).groups())
    assert 60 * 3 * height * width <= room and height == width >= 24
    assert open_images(path, resize=[height, width]).image_shape == [3, height, width], "the size that it names fits"
    assert "datamodule.cache=none" in str(error.value)
    assert open_images(path, resize=[64, 64], cache="none").splits["train"]["images"].shape == (60, 3, 64, 64)


MEASURED = """
import json, re, sys
from pathlib import Path
from dlops_mnist.dataset import EpochSampler, MNISTDataModule
from dlops_mnist.networks import FastCNN, run_epoch
import torch

def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # of this program alone
model = FastCNN((2, 2, 2), [3, 256, 256])
adam = torch.optim.Adam(model.parameters())
run_epoch(model, [(torch.zeros(8, 3, 256, 256, dtype=torch.uint8), torch.zeros(8).long())], adam)
before = peak()
dm = MNISTDataModule(Path(sys.argv[1]), 8, resize=[256, 256], **json.loads(sys.argv[2]))
dm.setup()
run_epoch(model, dm.train_dataloader(), adam)
run_epoch(model, dm.val_dataloader())
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system is asked how much memory a program had at most")
def test_memory_is_bounded(root, tmp_path):
    "The pixels of 600 images are 118 MB: the cache has all of them in memory at once, a stream a few batches."
    path, grown = photos(tmp_path / "photos", 300), {}
    for name, settings in {"stream": {"cache": "none"}, "workers": {"cache": "none", "num_workers": 2}, "cache": {}}.items():
        command = [sys.executable, "-c", MEASURED, path, json.dumps(settings)]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        grown[name] = float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert max(grown["stream"], grown["workers"]) < 60 and grown["cache"] > 100, grown
