"Versions of a dataset: killed while recording, two at once, damaged, and found by a run's fingerprint."

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.folder import fingerprint
from dlops_mnist.versions import Store, check, diff, gc, record, restore

ROOT = Path(__file__).parents[1]


@pytest.fixture
def work(tmp_path, monkeypatch):
    "A working folder with a copy of the shipped dataset."
    shutil.copytree(ROOT / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "dlops_mnist.versions", *words], **quiet)


def test_killed_records_leave_a_store_that_is_whole(work):
    for number, share in enumerate((0.0, 0.3, 0.7)):
        process = start("record", "dataset", f"note=try {number}", f"store=store{number}")
        objects, wanted = work / f"store{number}" / "objects", share * len(list(work.glob("dataset/t*/*/*.png")))
        while process.poll() is None and len(list(objects.glob("*/*"))) <= wanted: time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        check(store=f"store{number}")
        name = record("dataset", store=f"store{number}")
        gc(store=f"store{number}")
        check(store=f"store{number}")
        assert not list(objects.glob("*/.*")) and name == fingerprint("dataset")


def test_two_at_once(work):
    both = [start("record", "dataset") for _ in range(2)]
    assert [process.wait(100) for process in both] == [0, 0]
    check()
    assert Store().names() == [fingerprint("dataset")]


def test_a_version_comes_back_as_it_was(work):
    before = record("dataset", note="first")
    first = sorted(Path("dataset/train").glob("*/*.png"))[0]
    first.write_bytes(first.read_bytes() + b"x")
    after = record("dataset")
    path = str(first.relative_to("dataset"))
    assert diff(before[:12], after[:12], json="d.json") == [("changed", path, path)]
    assert diff("first", "dataset") == diff(before, after)
    restored = restore("first", to="back")
    assert fingerprint(restored) == before
    content = next(restored.glob("train/*/*.png"))
    content.write_bytes(b"spoilt by an editor")
    check()


def test_mistakes_are_one_sentence(work):
    record("dataset", note="first")
    with pytest.raises(UserError, match="Did you mean `first`"): diff("frist", "dataset")
    with pytest.raises(UserError, match="exists already"): restore("first", to="dataset")
    manifest = next(Path(".versions/manifests").glob("*.sha256"))
    manifest.write_text(manifest.read_text().replace("train/", "test/", 1))
    with pytest.raises(UserError, match="was changed, or is damaged"): check()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written(work):
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="can't be written"): record("dataset", store="locked/store")
