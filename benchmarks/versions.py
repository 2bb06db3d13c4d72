"""Record, compare and restore 10,000 PNG files, side by side with DVC.

python benchmarks/versions.py [DVC]      (a dvc program, such as that of an environment of its own; default: dvc)

Whole commands are timed, in turn: DVC's add, diff and checkout, ours as record, diff and restore; then ours within a
process that runs already, which leaves out what Python takes to begin. Nothing is deleted before the end: for some seconds
after that, ext4 searches long for room for a new file, and whoever comes next pays.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import chdir, redirect_stdout
from pathlib import Path

import numpy as np

from dlops_mnist import versions
from dlops_mnist.parts.pictures import encode_png

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a program that is timed begins with compiled modules, as it does for people
IMAGES, ROUNDS = 10_000, 3


def make(folder: Path, seed: int) -> None:
    chance = np.random.default_rng(seed)
    for i in range(IMAGES):
        place = folder / ("train" if i % 5 else "test") / str(i % 10)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:05}.png").write_bytes(encode_png(chance.integers(0, 256, (28, 28), np.uint8)))


def seconds(*command: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode: raise SystemExit(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return time.perf_counter() - begin


def within(function, *arguments: str, **settings: str) -> float:
    begin = time.perf_counter()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere): function(*arguments, **settings)
    return time.perf_counter() - begin


def change(folder: Path, turn: int) -> None:
    "A hundred pictures get another class, a hundred are new."
    for file in sorted((folder / "train/1").glob("*.png"))[:100]: file.rename(folder / "train/2" / file.name)
    for i in range(100):
        image = np.random.default_rng([turn, i]).integers(0, 256, (28, 28), np.uint8)
        (folder / "train/3" / f"new{turn}-{i}.png").write_bytes(encode_png(image))


def round_of(dvc: str, turn: int, place: Path) -> dict[str, tuple[float, float]]:
    "Seconds of each step: ours, DVC's."
    ours = [sys.executable, "-m", "dlops_mnist.versions"]
    place.mkdir()
    with chdir(place):
        make(Path("data"), turn)
        shutil.copytree("data", "theirs")
        for command in (["git", "init", "-q"], ["git", "config", "user.email", "a@b.c"], ["git", "config", "user.name", "a"],
                        [dvc, "init", "-q"], [dvc, "config", "core.analytics", "false"]): seconds(*command)
        record = seconds(*ours, "record", "data", "note=first"), seconds(dvc, "add", "-q", "theirs")
        seconds("git", "add", "theirs.dvc", ".gitignore", ".dvc")
        seconds("git", "commit", "-qm", "first")
        for folder in ("data", "theirs"): change(Path(folder), turn)
        again = seconds(*ours, "record", "data", "note=second"), seconds(dvc, "add", "-q", "theirs")
        seconds("git", "commit", "-qam", "second")
        diff = seconds(*ours, "diff", "first", "second"), seconds(dvc, "diff", "HEAD~1", "HEAD")
        seconds("git", "checkout", "-q", "HEAD~1", "--", "theirs.dvc")
        os.rename("theirs", "before")
        restore = seconds(*ours, "restore", "first", "to=back"), seconds(dvc, "checkout", "-q", "theirs.dvc")
        inside = {"record": within(versions.record, "back", store="new"), "diff": within(versions.diff, "first", "second"),
                  "restore": within(versions.restore, "first", to="once more")}
    return {"record": record, "record again": again, "diff": diff, "restore": restore} | {
        f"{step}, inside": (found, np.nan) for step, found in inside.items()}


def main(dvc: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        rounds = [round_of(dvc, turn, Path(place, str(turn))) for turn in range(ROUNDS)]
    print(f"{IMAGES:,} PNG files, {ROUNDS} rounds, load {os.getloadavg()[0]:.1f}: "
          "seconds of whole commands, median (lowest to highest)")
    for step in rounds[0]:
        ours, theirs = (np.array([found[step][i] for found in rounds]) for i in (0, 1))
        line = f"{step:16} ours {np.median(ours):5.2f} ({ours.min():.2f} to {ours.max():.2f})"
        if not step.endswith("inside"):
            line += f"   DVC {np.median(theirs):5.2f} ({theirs.min():.2f} to {theirs.max():.2f})   {np.median(theirs / ours):.1f}x"
        print(line)


if __name__ == "__main__": main(sys.argv[1] if len(sys.argv) > 1 else "dvc")
