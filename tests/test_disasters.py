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

from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.images import ImageArrays, open_images
from dlops_mnist.parts.pictures import encode_png
from dlops_mnist.parts.runfolder import Run
from dlops_mnist.parts.sources import build_digits, write_dataset

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
ROOT = Path(__file__).parents[1]
FORK = get_context("fork")
SEED = int(os.environ["TEST_SEED"])
A_CHECKPOINT, AN_EVALUATION = 627_000, 506_000  # bytes, of the runs that are trained here
SHORT = ["trainer.max_epochs=3", "trainer.enable_progress_bar=false", "model.hidden=[32]"]


@contextmanager
def small_disk(folder: Path, size: int):
    "A file system of so many bytes; skips the test where none can be made."
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def forked(function, *args, **kwargs):
    "A process, started, that calls the function; its exit status is 0, 2 for a `UserError`, and 1 for a crash."

    def body():
        try:
            function(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            os._exit(2)
        except SystemExit as error:
            os._exit(error.code if isinstance(error.code, int) else 1)
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
    for process in processes:
        process.join(max(0.1, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
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
    from dlops_mnist.parts.launch import launch

    launch(program.train_and_report, [*words])


def check_run(path: Path, rows: int | None = None) -> Run:
    "A run's folder in which everything that is there is whole."
    from dlops_mnist.models import load_module

    run = Run(path)
    assert json.loads(run.provenance_file.read_text())["status"] in ("finished", "failed", "running", "interrupted")
    assert run.config["datamodule"]["classes"]
    found = list(csv.DictReader(run.metrics_file.open()))
    assert all(None not in row.values() and None not in row for row in found)
    if rows is not None:
        assert len(found) == rows
    for checkpoint in run.checkpoints.glob("*.ckpt"):
        load_module(checkpoint)
    return run


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    "The dataset of the repository, copied, with a warm cache; and the packages that training needs, imported."
    import matplotlib.pyplot  # noqa: F401

    from dlops_mnist import dataset, evaluate, models, tracking, train  # noqa: F401

    path = shutil.copytree(
        ROOT / "dataset", tmp_path_factory.mktemp("shipped") / "dataset", ignore=shutil.ignore_patterns(".cache")
    )
    open_images(path)
    return path


# --- a full disk ---


@pytest.mark.parametrize(
    "size",
    [150_000, 800_000, *(pytest.param(size, marks=pytest.mark.slow) for size in range(20_000, 1_500_000, 60_000))],
)
def test_training_on_a_full_disk(size, shipped, tmp_path, capfd):
    "The last good checkpoint stays, and one message says what happened."
    with small_disk(tmp_path / "runs", size) as runs:
        words = [
            f"paths.runs={runs}",
            f"datamodule.path={shipped}",
            "trainer.max_epochs=12",
            "model.hidden=[64]",
            *SHORT[1:2],
        ]
        (code,) = finish([forked(train_here, *words)])
        out, err = capfd.readouterr()
        if code == 0:
            assert size > 2 * A_CHECKPOINT, "the next one is written before the last one goes"
        else:
            assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err + out, out + err
            assert "space" in err
            assert not list(runs.rglob("*.part")), "what could not be finished takes no room"
        for run in runs.glob("*/*"):
            if run.is_dir():
                check_run(run)
                assert size < A_CHECKPOINT + 100_000 or Run(run).last_checkpoint.is_file(), "what was saved is gone"


def limit_files(size: int) -> None:
    "Let no file of this process grow larger."
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    "limit", [30_000, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (2000, 9000, 100_000))]
)
def test_training_where_no_file_may_grow(limit, shipped, tmp_path, capfd):
    def limited():
        limit_files(limit)
        train_here(f"paths.runs={tmp_path}/runs", f"datamodule.path={shipped}", *SHORT)

    (code,) = finish([forked(limited)])
    out, err = capfd.readouterr()
    assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err + out, out + err
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "size", [20_000, 60_000, *(pytest.param(size, marks=pytest.mark.slow) for size in range(4096, 400_000, 12_288))]
)
def test_decoding_on_a_full_disk(size, tmp_path, capfd):
    path = make_images(tmp_path / "images")
    with small_disk(tmp_path / "cache", size) as cache:
        (code,) = finish([forked(open_images, path, False, cache)])
        out, err = capfd.readouterr()
        assert code == (0 if size > 300_000 else code)
        assert code in (0, 2) and "Traceback" not in err + out, err
        if code == 2:
            assert "space" in err and "cache=" in err
            assert not [f for f in cache.rglob("*") if f.name.startswith(("grey-", "plain-", ".plain-", ".grey-"))]
    assert len(open_images(path, False, tmp_path / "other").splits["train"]["images"]) == 80


@pytest.mark.parametrize(
    "size", [100_000, *(pytest.param(size, marks=pytest.mark.slow) for size in range(4096, 400_000, 50_000))]
)
def test_building_on_a_full_disk(size, tmp_path, capfd):
    with small_disk(tmp_path / "disk", size) as disk:
        (code,) = finish([forked(build_digits, disk / "digits", binary=3)])
        out, err = capfd.readouterr()
        assert code == 2 and "space" in err and "Traceback" not in err + out, err
        assert not os.listdir(disk)


# --- killed ---


class Killer:
    "Starts processes that do one thing, and kills each at a random moment of its life."

    def __init__(self, function, seed: int):
        print(f"TEST_SEED={SEED}")
        self.function, self.numbers, self.killed = function, random.Random(seed + SEED), 0
        began = time.monotonic()
        assert finish([forked(function)]) == [0]
        self.lifetime = time.monotonic() - began

    def strike(self) -> None:
        began, process = time.monotonic(), forked(self.function)
        process.join(self.numbers.uniform(0, self.lifetime))
        # who escaped tells how long such a life is now: it depends on what else the machine does
        if process.exitcode is not None:
            self.lifetime = time.monotonic() - began
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), "what a killed one left behind made the next one fail"
        self.killed += process.exitcode != 0


@pytest.mark.parametrize("kills", [5, pytest.param(400, marks=pytest.mark.slow)])
def test_decoding_is_killed(kills, tmp_path):
    "What lies in the cache is whole, or it is not used."
    path = make_images(tmp_path / "images", 600)
    wanted = open_images(path, False, tmp_path / "whole")

    def decode():
        open_images(path, False, tmp_path / "cache")

    killer = Killer(decode, kills)
    for i in range(4 * kills):  # some escape, on a busy machine most of the first ones
        if i >= kills and killer.killed > kills / 3: break
        for generation in (tmp_path / "cache").glob("grey-*"):
            shutil.rmtree(generation)
        killer.strike()
        for generation in (tmp_path / "cache").glob("grey-*"):
            same(ImageArrays.load(path, generation), wanted)
        if i % 5 == 4:
            same(open_images(path, False, tmp_path / "cache"), wanted)
    assert killer.killed > kills / 3
    same(open_images(path, False, tmp_path / "cache"), wanted)
    assert {name.split("-")[0] for name in os.listdir(tmp_path / "cache")} - {"lock"} == {".gitignore", "grey", "plain"}


def same(a: ImageArrays, b: ImageArrays) -> None:
    assert a.fingerprint == b.fingerprint and a.classes == b.classes
    for split, arrays in a.splits.items():
        for what, values in arrays.items():
            assert np.array_equal(values, b.splits[split][what]), (split, what)


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_building_is_killed(kills, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    images = np.random.default_rng(0).integers(0, 256, (3000, 28, 28), np.uint8)
    plan = {split: {"a": np.arange(0, 1500), "b": np.arange(1500, 3000)} for split in ("train", "test")}
    path = tmp_path / "built" / "data"
    path.parent.mkdir()

    def build():
        write_dataset(path, {"train": images, "test": images}, plan, {"source": "digits"})

    killer = Killer(build, kills)
    shutil.rmtree(path)
    for _ in range(kills):
        killer.strike()
        if path.exists():
            assert sum(1 for _ in path.rglob("*.png")) == 6000, "half of a dataset"
            shutil.rmtree(path)
    assert killer.killed > kills / 3
    build()
    assert sum(1 for _ in path.rglob("*.png")) == 6000
    end = time.monotonic() + 60
    while os.listdir(path.parent) != ["data"]:  # helpers of the killed ones first see that nobody listens any more
        assert time.monotonic() < end, "something was left behind"
        time.sleep(0.1)
        build()


@pytest.fixture(scope="module")
def trained(shipped, tmp_path_factory) -> Path:
    "A run's folder."
    runs = tmp_path_factory.mktemp("runs")
    assert finish([forked(train_here, f"paths.runs={runs}", f"datamodule.path={shipped}", *SHORT)]) == [0]
    return next((runs / "base").iterdir())


def whole_files(folder: Path) -> list[str]:
    "The names of an evaluation's files, each of which must be whole."
    for file in folder.glob("*.png"):
        assert file.read_bytes().endswith(b"IEND\xaeB`\x82"), file
    for file in folder.glob("*.json"):
        json.loads(file.read_text())
    for file in folder.glob("*.html"):
        assert file.read_text().rstrip().endswith("</html>"), file
    return sorted(file.name for file in folder.glob("*"))


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_evaluating_is_killed(kills, trained):
    "The files of an evaluation are each of them whole, at any moment."
    from dlops_mnist.evaluate import evaluate

    def work():
        evaluate(trained, draws=20)

    killer = Killer(work, kills)
    for _ in range(kills):
        killer.strike()
        assert {"metrics.json", "report.html"} <= {*whole_files(trained / "evaluation")}
    assert killer.killed > kills / 6
    assert finish([forked(work)]) == [0]
    check_run(trained, rows=3)


@pytest.mark.parametrize(
    "size", [60_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (*range(8_000, 450_000, 40_000), 700_000))]
)
def test_evaluating_on_a_full_disk(size, trained, tmp_path, capfd):
    "One message; every file that is there is whole, and metrics.json is there when all of them are."
    from dlops_mnist.evaluate import evaluate

    with small_disk(tmp_path / "disk", size) as disk:
        (code,) = finish([forked(evaluate, trained, out=disk / "evaluation", draws=20)])
        out, err = capfd.readouterr()
        assert code == (2 if size < AN_EVALUATION else 0) and "Traceback" not in out + err, out + err
        assert code == 0 or err.count("error: ") == 1 and "space" in err, err
        assert ("metrics.json" in whole_files(disk / "evaluation")) == (code == 0)


# --- many at once ---


def test_eight_runs_at_once(shipped, tmp_path, monkeypatch, capfd):
    "All succeed, the cache is built by one of them, and each leaves a whole folder of its own."
    import dlops_mnist.parts.images as module

    data = shutil.copytree(shipped, tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    real, record = module.write_generation, tmp_path / "built"

    def counted(*args, **kwargs):
        with record.open("a") as file:
            file.write(f"{os.getpid()}\n")  # appended by the system in one piece
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "write_generation", counted)
    words = [f"paths.runs={tmp_path}/runs", f"datamodule.path={data}", *SHORT]
    codes = finish([forked(train_here, *words, f"seed={seed}") for seed in range(8)])
    assert codes == [0] * 8, capfd.readouterr().err
    assert len(record.read_text().split()) == 1, "the cache is built once"
    runs = list((tmp_path / "runs/base").iterdir())
    assert len(runs) == 8
    assert {check_run(run, rows=3).provenance["seed"] for run in runs} == set(range(8))
    assert {Run(run).status for run in runs} == {"finished"}
    assert len([path for path in (data / ".cache").glob("*-*") if path.is_dir()]) == 1


@pytest.mark.slow
def test_eight_programs_at_once(tmp_path):
    "The same with eight programs started as a person does, counted by the folders that get their final name."
    shutil.copytree(ROOT / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def note(event, args):\n"
        "    if event == 'os.rename' and os.path.basename(str(args[1])).startswith('grey-'):\n"
        "        with open(os.environ['NOTES'], 'a') as file: file.write('built\\n')\n"
        "sys.addaudithook(note)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "NOTES": str(tmp_path / "notes")}
    command = [sys.executable, "-m", "dlops_mnist.train", *SHORT]
    programs = [
        subprocess.Popen(
            [*command, f"seed={seed}"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for seed in range(8)
    ]
    for program in programs:
        err = program.communicate(timeout=300)[1]
        assert program.returncode == 0, err
    assert (tmp_path / "notes").read_text() == "built\n"
    assert {check_run(run, rows=3).status for run in (tmp_path / "runs/base").iterdir()} == {"finished"}
    assert len(os.listdir(tmp_path / "runs/base")) == 8


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_readers_while_runs_come_and_go(seconds, shipped, tmp_path, capfd):
    "Tables and curves are made while runs are written, evaluated and deleted; no reader ever stumbles."
    from dlops_mnist.evaluate import evaluate
    from dlops_mnist.parts.runfolder import mark_ended, new_run, write_rows
    from dlops_mnist.runs import plot_runs, print_runs, runs_table

    runs = tmp_path / "runs"
    assert finish([forked(train_here, f"paths.runs={runs}", f"datamodule.path={shipped}", *SHORT)]) == [0]
    whole = next((runs / "base").iterdir())
    config, end = Run(whole).config, time.monotonic() + seconds

    def write(seed):
        numbers = random.Random(seed)
        while time.monotonic() < end:
            run = new_run(config | {"seed": seed, "experiment": numbers.choice(("x", "y"))})
            for epoch in range(5):
                write_rows(run.metrics_file, [{"epoch": e, "step": e, "val_acc": e / 9} for e in range(epoch + 1)])
            mark_ended(run, "finished")
            if numbers.random() < 0.7:
                shutil.rmtree(run.path)

    def read():
        count = 0
        while time.monotonic() < end or not count:
            runs_table(runs)
            print_runs(str(runs), "val_acc>0.1")
            with plot_quietly():
                plot_runs(runs)
            for path in runs.glob("*/*"):
                Run(path).best, Run(path).metrics, repr(Run(path))
            count += 1

    def judge():
        while time.monotonic() < end:
            evaluate(whole, draws=5)

    @contextmanager
    def plot_quietly():
        try:
            yield
        except UserError:
            pass  # a moment at which no run has a metric

    tasks = [forked(write, 1), forked(write, 2), forked(read), forked(read), forked(judge)]
    assert finish(tasks, seconds + 60) == [0] * 5, capfd.readouterr().err
    check_run(whole, rows=3)


# --- data that change, and folders that may not be written ---


def test_a_damaged_cache_is_made_again(tmp_path):
    path, numbers = make_images(tmp_path / "images"), random.Random(0)
    wanted = open_images(path, False, tmp_path / "whole")
    open_images(path, False, tmp_path / "cache")
    for i in range(60):
        (generation,) = (tmp_path / "cache").glob("grey-*")
        file = numbers.choice(sorted(file for file in generation.iterdir() if file.suffix in (".npy", ".json")))
        data = file.read_bytes()
        match i % 4:  # what a machine leaves that lost its power, or a disk that fails
            case 0:
                file.unlink()
            case 1:
                file.write_bytes(b"")
            case 2:
                file.write_bytes(data[: numbers.randrange(len(data))])
            case 3:
                file.write_bytes(bytes(len(data)))
        same(open_images(path, False, tmp_path / "cache"), wanted)


def test_a_dataset_that_changes_is_always_seen(tmp_path):
    "Whatever is done to the files, also behind the clock's back, the arrays are those of a fresh start."
    path, numbers = make_images(tmp_path / "images", 8), random.Random(0)
    for i in range(40):
        files = sorted(path.glob("*/*/*.png"))
        file, other = numbers.sample(files, 2)
        status = file.stat()
        match i % 5:
            case 0:
                file.write_bytes(encode_png(np.full((28, 28), i, np.uint8)))
            case 1:  # another picture of the same size, and the time set back
                file.write_bytes(encode_png(np.full((28, 28), 100 + i, np.uint8)))
                os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
            case 2:
                file.rename(tmp_path / "x"), other.rename(file), (tmp_path / "x").rename(other)
            case 3:
                (file.parent / f"new{i}.png").write_bytes(file.read_bytes())
            case 4:
                file.unlink()
        same(open_images(path, False, tmp_path / "cache"), open_images(path, False, tmp_path / f"fresh{i}"))


def test_a_dataset_that_changes_while_it_is_read(tmp_path):
    "A reader gets what was there, or a message; the next one, when all is quiet, gets what is there."
    path, end = make_images(tmp_path / "images", 300), time.monotonic() + 3

    def change():
        numbers = random.Random(0)
        while time.monotonic() < end:
            file = path / numbers.choice(("train", "test")) / numbers.choice("ab") / f"{numbers.randrange(300)}.png"
            if numbers.random() < 0.3:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(encode_png(np.full((28, 28), numbers.randrange(256), np.uint8)))

    def read():
        while time.monotonic() < end:
            try:
                open_images(path, False, tmp_path / "cache")
            except UserError as error:
                assert "images can't be used" in str(error)

    assert finish([forked(change), forked(read), forked(read)]) == [0, 0, 0]
    same(open_images(path, False, tmp_path / "cache"), open_images(path, False, tmp_path / "fresh"))


def test_a_dataset_that_is_removed(shipped, tmp_path, capfd):
    data = shutil.copytree(shipped, tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    open_images(data, False, tmp_path / "cache")
    shutil.rmtree(data)
    words = [f"paths.runs={tmp_path}/runs", f"datamodule.path={data}", f"datamodule.cache={tmp_path}/cache", *SHORT]
    assert finish([forked(train_here, *words)]) == [2]
    assert f"There is no folder `{data}`" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def without_rights() -> None:
    "Give up the administrator's right to write what may not be written (CAP_DAC_OVERRIDE)."
    import ctypes

    libc, header, data = (
        ctypes.CDLL(None, use_errno=True),
        (ctypes.c_uint32 * 2)(0x20080522, 0),
        (ctypes.c_uint32 * 6)(),
    )
    assert libc.capget(header, data) == 0
    for i in (0, 1):
        data[i] &= ~0b110  # effective, permitted
    assert libc.capset(header, data) == 0, "capset"


def as_nobody(function, *args, **environment):
    "Call the function without the rights of an administrator, in another environment; no HOME: a user without one."

    def body():
        import pwd

        def unknown(number):
            raise KeyError(number)

        os.environ.update(environment)
        for name in [name for name, value in environment.items() if value == ""]:
            del os.environ[name]
        if environment.get("HOME") == "":
            pwd.getpwuid = unknown
        if os.geteuid() == 0:
            without_rights()
        function(*args)

    return forked(body)


@pytest.fixture
def public():
    "A folder in which a test may take rights away."
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def seal(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_data_that_may_not_be_written_and_no_home(shipped, public, capfd):
    data = shutil.copytree(shipped, public / "dataset", ignore=shutil.ignore_patterns(".cache"))
    seal(data)
    (public / "open").mkdir()
    (public / "open").chmod(0o777)
    words = [f"paths.runs={public}/open/runs", f"datamodule.path={data}", *SHORT]
    no_home = {"HOME": "", "XDG_CACHE_HOME": ""}
    (code,) = finish([as_nobody(train_here, *words, **no_home)])
    err = capfd.readouterr().err
    assert code == 2 and "datamodule.cache=" in err and "Traceback" not in err, err
    assert finish([as_nobody(train_here, *words, f"datamodule.cache={public}/open/cache", **no_home)]) == [0], (
        capfd.readouterr().err
    )
    assert finish([as_nobody(train_here, *words, HOME="", XDG_CACHE_HOME=f"{public}/open")]) == [0], (
        capfd.readouterr().err
    )
    (code,) = finish([as_nobody(build_digits, public / "open/digits", 3, **no_home)])
    err = capfd.readouterr().err
    assert code == 2 and "XDG_CACHE_HOME" in err, err
    assert sorted(os.listdir(data)) == ["source.json", "test", "train"] or sorted(os.listdir(data)) == ["test", "train"]


def test_runs_that_may_not_be_written(shipped, public, capfd):
    (public / "runs").mkdir()
    seal(public / "runs")
    data = shipped
    (code,) = finish([as_nobody(train_here, f"paths.runs={public}/runs", f"datamodule.path={data}", *SHORT)])
    err = capfd.readouterr().err
    assert code == 2 and err.count("error: ") == 1 and "can't be written" in err and "Traceback" not in err, err
    assert not os.listdir(public / "runs")
