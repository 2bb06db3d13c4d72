"""A disk that is full, a process that is killed, folders that may not be written, and many programs at once.

Nothing half-written is ever taken for whole, the next start works, and who can't go on says so in one message.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from dlops_mnist.core import UserError
from dlops_mnist.images import ImageArrays, open_images
from dlops_mnist.png import encode_png
from dlops_mnist.runfolder import Run
from dlops_mnist.sources import build_digits, write_dataset

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
ROOT = Path(__file__).parents[1]
FORK = get_context("fork")
SHORT = ["trainer.max_epochs=3", "trainer.enable_progress_bar=false", "model.hidden=[32]"]


@contextmanager
def small_disk(folder: Path, size: int):
    "A file system of so many bytes; skips the test where none can be made."
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try: mounted = subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except OSError: mounted = False
    if not mounted: pytest.skip("a small disk needs the right to mount a tmpfs")
    try: yield folder
    finally: subprocess.run(["umount", "-l", str(folder)], check=True)


def forked(function, *args, **kwargs):
    "A process, started, that calls the function; its exit status is 0, 2 for a `UserError`, and 1 for a crash."

    def body():
        try: function(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            os._exit(2)
        except SystemExit as error: os._exit(error.code if isinstance(error.code, int) else 1)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = FORK.Process(target=body, daemon=False)
    process.start()
    return process


def finish(processes, seconds: float = 120) -> list[int]:
    "The exit statuses of processes, which must end in time."
    end = time.monotonic() + seconds
    for process in processes: process.join(max(0.1, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes: process.kill()
    assert None not in codes, "not done in time"
    return codes


def make_images(path: Path, count: int = 40, seed: int = 0) -> Path:
    "A small dataset of random pictures."
    numbers = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (path / split / name).mkdir(parents=True)
            for i in range(count):
                (path / split / name / f"{i}.png").write_bytes(encode_png(numbers.integers(0, 256, (28, 28), np.uint8)))
    return path


def train_here(*words: str):
    "Train in this process, as the command line does."
    import dlops_mnist.train as program
    from dlops_mnist.launch import launch

    launch(program.train_and_report, [*words])


def check_run(path: Path, rows: int | None = None) -> Run:
    "A run's folder in which everything that is there is whole."
    from dlops_mnist.models import load_module

    run = Run(path)
    assert json.loads(run.provenance_file.read_text())["status"] in ("finished", "failed", "running", "interrupted")
    assert run.config["datamodule"]["classes"]
    found = list(csv.DictReader(run.metrics_file.open()))
    assert all(None not in row.values() and None not in row for row in found)
    if rows is not None: assert len(found) == rows
    for checkpoint in run.checkpoints.glob("*.ckpt"): load_module(checkpoint)
    return run


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    "The dataset of the repository, copied, with a warm cache; and the packages that training needs, imported."
    import matplotlib.pyplot  # noqa: F401

    from dlops_mnist import dataset, evaluate, models, recipe, tracking, train  # noqa: F401

    path = shutil.copytree(ROOT / "dataset", tmp_path_factory.mktemp("shipped") / "dataset", ignore=shutil.ignore_patterns(".cache"))
    open_images(path)
    return path


# --- a full disk ---


@pytest.mark.parametrize("size", [150_000, 400_000, *(pytest.param(size, marks=pytest.mark.slow) for size in range(20_000, 1_000_000, 40_000))])
def test_training_on_a_full_disk(size, shipped, tmp_path, capfd):
    "The last good checkpoint stays, and one message says what happened."
    with small_disk(tmp_path / "runs", size) as runs:
        words = [f"paths.runs={runs}", f"datamodule.path={shipped}", "trainer.max_epochs=12", "model.hidden=[64]", *SHORT[1:2]]
        code, = finish([forked(train_here, *words)])
        out, err = capfd.readouterr()
        if code == 0: assert size > 300_000
        else:
            assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err + out, out + err
            assert "space" in err
            assert not list(runs.rglob("*.part")), "what could not be finished takes no room"
        for run in runs.glob("*/*"):
            if run.is_dir(): check_run(run)


def limit_files(size: int) -> None:
    "Let no file of this process grow larger."
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("limit", [30_000, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (100, 2000, 9000, 100_000))])
def test_training_where_no_file_may_grow(limit, shipped, tmp_path, capfd):
    def limited():
        limit_files(limit)
        train_here(f"paths.runs={tmp_path}/runs", f"datamodule.path={shipped}", *SHORT)

    code, = finish([forked(limited)])
    out, err = capfd.readouterr()
    assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err + out, out + err
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("size", [20_000, 60_000, *(pytest.param(size, marks=pytest.mark.slow) for size in range(4096, 400_000, 12_288))])
def test_decoding_on_a_full_disk(size, tmp_path, capfd):
    path = make_images(tmp_path / "images")
    with small_disk(tmp_path / "cache", size) as cache:
        code, = finish([forked(open_images, path, False, cache)])
        out, err = capfd.readouterr()
        assert code == (0 if size > 300_000 else code)
        assert code in (0, 2) and "Traceback" not in err + out, err
        if code == 2:
            assert "space" in err and "cache=" in err
            assert not [f for f in cache.rglob("*") if f.name.startswith(("plain-", ".plain-"))]
    assert len(open_images(path, False, tmp_path / "other").splits["train"]["images"]) == 80


@pytest.mark.parametrize("size", [100_000, *(pytest.param(size, marks=pytest.mark.slow) for size in range(4096, 400_000, 50_000))])
def test_building_on_a_full_disk(size, tmp_path, capfd):
    with small_disk(tmp_path / "disk", size) as disk:
        code, = finish([forked(build_digits, disk / "digits", binary=3)])
        out, err = capfd.readouterr()
        assert code == 2 and "space" in err and "Traceback" not in err + out, err
        assert not os.listdir(disk)


# --- killed ---


def kill_at_random(function, numbers: random.Random, longest: float) -> int:
    "Start a process and kill it within so many seconds; its status."
    process = forked(function)
    process.join(numbers.uniform(0, longest))
    process.kill()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("kills", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_decoding_is_killed(kills, tmp_path):
    "What lies in the cache is whole, or it is not used."
    path, numbers, killed = make_images(tmp_path / "images", 600), random.Random(kills), 0
    began = time.monotonic()
    assert finish([forked(open_images, path, False, tmp_path / "whole")]) == [0]
    longest = time.monotonic() - began
    wanted = open_images(path, False, tmp_path / "whole")
    for i in range(kills):
        for generation in (tmp_path / "cache").glob("plain-*"): shutil.rmtree(generation)
        killed += kill_at_random(lambda: open_images(path, False, tmp_path / "cache"), numbers, longest) == -signal.SIGKILL
        for generation in (tmp_path / "cache").glob("plain-*"): same(ImageArrays.load(path, generation), wanted)
        if i % 5 == 4: same(open_images(path, False, tmp_path / "cache"), wanted)
    assert killed > kills / 3
    same(open_images(path, False, tmp_path / "cache"), wanted)
    assert sorted(name[:6] for name in os.listdir(tmp_path / "cache")) in (["." "gitig", "lock", "plain-"], [".gitig", "plain-"])


def same(a: ImageArrays, b: ImageArrays) -> None:
    assert a.fingerprint == b.fingerprint and a.classes == b.classes
    for split, arrays in a.splits.items():
        for what, values in arrays.items(): assert np.array_equal(values, b.splits[split][what]), (split, what)


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_building_is_killed(kills, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    images = np.random.default_rng(0).integers(0, 256, (3000, 28, 28), np.uint8)
    plan = {split: {"a": np.arange(0, 1500), "b": np.arange(1500, 3000)} for split in ("train", "test")}
    path, numbers, killed = tmp_path / "built" / "data", random.Random(kills), 0
    path.parent.mkdir()

    def build(): write_dataset(path, {"train": images, "test": images}, plan, {"source": "digits"})

    began = time.monotonic()
    assert finish([forked(build)]) == [0]
    longest = time.monotonic() - began
    shutil.rmtree(path)
    for _ in range(kills):
        killed += kill_at_random(build, numbers, longest) == -signal.SIGKILL
        if path.exists():
            assert sum(1 for _ in path.rglob("*.png")) == 6000, "half of a dataset"
            shutil.rmtree(path)
    assert killed > kills / 3
    build()
    assert sum(1 for _ in path.rglob("*.png")) == 6000
    time.sleep(0.5)  # helpers of the killed ones see that nobody listens any more
    build()
    assert os.listdir(path.parent) == ["data"], "something was left behind"
