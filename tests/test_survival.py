"""Runs that are killed, stopped and continued, in real processes: they end as if nothing had happened.

The moments are random, from a seed that a failure prints. It is the same each time, and another one in `make test-slow`,
where a run is also killed at each of its file operations; TEST_SEED=N sets it.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from dlops_mnist.parts.runfolder import Run, find_runs

ROOT = Path(__file__).parents[1]
SEED = int(os.environ["TEST_SEED"])
EARLY_STOPPING = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2", "monitor=val_loss", "monitor_mode=min"]
CASES = {
    "MLP, one cycle, saved every third step": [
        "model.dropout=0.3", "augment=shift", "scheduler=onecycle", "scheduler.max_lr=0.01", "checkpoint_every_n_steps=3",
        "trainer.max_epochs=6", "trainer.val_check_interval=4"],
    "CNN, plateau, early stopping, saved every third step": [
        "model=cnn", "model.filters=[4,8]", "model.dropout=0.2", "model.channels_last=true", "augment=shift",
        "scheduler=plateau", "scheduler.patience=0", "scheduler.mode=max", "checkpoint_every_n_steps=3", "trainer.max_epochs=9",
        "trainer.max_steps=1000", *EARLY_STOPPING, "+callbacks.early_stopping.min_delta=0.008"],
    "FastCNN, cosine, smoothed labels, saved every fifth step": [
        "model=fast_cnn", "augment=shift", "augment.pixels=2", "label_smoothing=0.1", "scheduler=cosine",
        "checkpoint_every_n_steps=5", "trainer.max_epochs=6"],
    "MLP, schedule by epoch, loader processes, early stopping, saved after each epoch": [
        "model.hidden=[30]", "model.dropout=0.5", "augment._target_=dropped.Dropped",
        "+scheduler._target_=torch.optim.lr_scheduler.ExponentialLR", "+scheduler.gamma=0.5", "datamodule.num_workers=1",
        "trainer.max_epochs=9", *EARLY_STOPPING, "+callbacks.early_stopping.min_delta=0.01"],
    "MLP, plateau, bfloat16, gradients of two steps added up, saved every second step": [
        "model.dropout=0.3", "augment=shift", "scheduler=plateau", "scheduler.patience=0", "scheduler.mode=max",
        "trainer.precision=bf16-mixed",
        "trainer.accumulate_grad_batches=2", "checkpoint_every_n_steps=2", "trainer.max_epochs=5", "trainer.val_check_interval=3"],
}
DROPPED = '''
import random

import numpy as np
import torch


class Dropped(torch.nn.Module):
    "Drops pixels, by the two generators that are not PyTorch's."

    def forward(self, images):
        kept = np.random.random(images.shape) < 0.7
        return images.roll(random.randrange(-1, 2), -1) * torch.as_tensor(kept)
'''


# the first in `make test`, all of them in `make guarantees`
MANY_CASES = [*list(CASES)[:1], *(pytest.param(case, marks=pytest.mark.slow) for case in list(CASES)[1:])]


@pytest.fixture(scope="module")
def trainer_process():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    place = {}

    def start(cwd: Path):
        if place.get("cwd") != cwd:
            if place: place["process"].stdin.close(), place["process"].wait()
            process = subprocess.Popen([sys.executable, ROOT / "tests/killer.py"], cwd=cwd, env=environment, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdout.readline() == "ready\n"
            place.update(cwd=cwd, process=process)
        return place["process"]

    yield start
    if place: place["process"].stdin.close(), place["process"].wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A working folder that all tests of this module share: the process that trains stays in it."
    folder = tmp_path_factory.mktemp("survival")
    shutil.copytree(ROOT / "dataset", folder / "dataset")
    (folder / "dropped.py").write_text(DROPPED)
    return folder


@pytest.fixture
def go(trainer_process, place, monkeypatch):
    "Trains in a process of its own; with a signal, sends that so many seconds after the first checkpoint."
    monkeypatch.chdir(place)
    process = trainer_process(place)

    def go(*argv, number=None, after=0.0, operation=None):
        known = {run.path for run in find_runs()}
        request = {"argv": [*argv, "trainer.enable_progress_bar=false"], "number": number, "after": after, "operation": operation}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        result = json.loads(process.stdout.readline())
        [*new] = (run for run in find_runs() if run.path not in known)
        return result, (new[0] if new else None)

    return go


@pytest.fixture(scope="module")
def undisturbed():
    return {}  # by case: the run that nobody stopped, and how long it took after its first checkpoint


def whole(case, go, undisturbed):
    if case not in undisturbed:
        result, run = go(*CASES[case])
        assert result["status"] == 0 and run.status == "finished", result["log"]
        assert (run.epochs < run.config["trainer"]["max_epochs"]) == ("early stopping" in case), "stops early, or does not"
        undisturbed[case] = run, result["seconds"]
    return undisturbed[case]


def weights(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def assert_nothing_is_half_written(run: Run) -> None:
    "All of its files are whole; before the first epoch's end there may be neither metrics nor checkpoints."
    if run.last_checkpoint.exists():
        assert {"state_dict", "loops", "optimizer_states"} <= set(torch.load(run.last_checkpoint, weights_only=True))
    if (run.checkpoints / "best.ckpt").exists(): weights(run.checkpoints / "best.ckpt")
    lines = run.metrics_file.read_text().splitlines() if run.metrics_file.exists() else []
    assert all(len(line.split(",")) == len(lines[0].split(",")) for line in lines)
    assert json.loads(run.provenance_file.read_text())["status"] and yaml.safe_load(run.config_file.read_text())["seed"] == 0


def assert_same(run: Run, expected: Run) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = weights(run.checkpoints / name), weights(expected.checkpoints / name)
        assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert run.metrics_file.read_text() == expected.metrics_file.read_text()


def killed_and_continued(case, go, undisturbed, chance: random.Random, kills: int = 1) -> bool:
    "Whether the run was still training when the signal came."
    expected, seconds = whole(case, go, undisturbed)
    result, run = go(*CASES[case], number=signal.SIGKILL, after=chance.uniform(0, seconds))
    if result["status"] == 0: undisturbed[case] = expected, result["seconds"]  # it escaped: so long does it take now
    hit = killed = result["status"] == -signal.SIGKILL and run.status != "finished"  # it may die while it says goodbye
    while killed:
        assert run.status == "dead" and run.last_checkpoint.exists()
        assert_nothing_is_half_written(run)
        kills -= 1
        again = {"number": signal.SIGKILL, "after": chance.uniform(0, seconds)} if kills > 0 else {}
        result, _ = go(f"resume={run.path}", "trust=true", **again)
        killed = result["status"] == -signal.SIGKILL and run.status != "finished"
    assert run.status == "finished", result["log"]
    assert_same(run, expected)
    shutil.rmtree(run.path)
    return hit


@pytest.mark.parametrize("case", MANY_CASES)
def test_the_same_config_twice(case, go, undisturbed):
    expected, _ = whole(case, go, undisturbed)
    result, run = go(*CASES[case])
    assert result["status"] == 0, result["log"]
    assert_same(run, expected)


@pytest.mark.parametrize("case", MANY_CASES)
def test_killed_and_continued(case, go, undisturbed):
    print(f"TEST_SEED={SEED}")
    assert any(killed_and_continued(case, go, undisturbed, random.Random(f"{SEED} {case} {i}")) for i in range(5))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_many_moments(case, go, undisturbed):
    print(f"TEST_SEED={SEED}")
    hits = sum(killed_and_continued(case, go, undisturbed, random.Random(f"{SEED} {case} many {i}")) for i in range(12))
    assert hits >= 6
    print(f"{case}: {hits} of 12 signals came while it trained")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again(case, go, undisturbed):
    print(f"TEST_SEED={SEED}")
    for i in range(3): killed_and_continued(case, go, undisturbed, random.Random(f"{SEED} {case} again {i}"), kills=4)


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_each_of_its_file_operations(step, go, place):
    "No moment is left to chance: a file opened to be written, a rename, a link, a folder, a removal."
    settings = ["trainer.max_epochs=2", "model.dropout=0.3", "checkpoint_every_n_steps=3"]
    result, expected = go(*settings)
    kinds = {"no run yet": 0, "nothing to go on from": 0, "continued": 0, "finished": 0}
    for operation in range(1, result["operations"] + 1, step):
        killed, run = go(*settings, operation=operation)
        if killed["status"] == 0 and operation > result["operations"] - 3: break  # two runs of one second need a name more
        assert killed["status"] == -signal.SIGKILL
        if run is None: kind = "no run yet"
        elif not run.last_checkpoint.exists():
            assert_nothing_is_half_written(run)
            kind = "nothing to go on from"
            refused, _ = go(f"resume={run.path}")
            assert refused["status"] == 2 and "train it anew" in " ".join(refused["log"].split()), refused["log"]
        else:
            kind = "finished" if run.status == "finished" else "continued"
            assert_nothing_is_half_written(run)
            if kind == "continued": assert go(f"resume={run.path}")[0]["status"] == 0
            assert_same(run, expected)
        kinds[kind] += 1
    print(kinds)
    assert kinds["continued"] > sum(kinds.values()) / 3


@pytest.mark.parametrize("case, number, status", [
    (list(CASES)[0], signal.SIGINT, 130), (list(CASES)[1], signal.SIGTERM, 143), (list(CASES)[0], signal.SIGHUP, 129)])
def test_stopped_and_continued(case, number, status, go, undisturbed):
    expected, seconds = whole(case, go, undisturbed)
    print(f"TEST_SEED={SEED}")
    chance = random.Random(f"{SEED} {case} {number}")
    for half in range(1, 7):  # the run may be faster than the signal
        result, run = go(*CASES[case], number=number, after=chance.uniform(0, seconds / 2**half))
        if result["status"]: break
    assert result["status"] == status, result["log"]
    assert run.status == "interrupted"
    command = f"python -m dlops_mnist.train resume={run.path.relative_to(Path.cwd()) if run.path.is_absolute() else run.path}"
    assert command in result["log"] and "Traceback" not in result["log"]
    print(f"ended {result['to_stop']:.2f} s after the signal")
    assert result["to_stop"] < 5, "about a quarter of a second where the machine has nothing else to do"
    assert run.last_checkpoint.exists()
    assert_nothing_is_half_written(run)
    result, _ = go(f"resume={run.path}")
    assert result["status"] == 0, result["log"]
    assert_same(run, expected)


@pytest.mark.parametrize("case", MANY_CASES[:2])
def test_killed_and_continued_in_another_run(case, go, undisturbed):
    "By `ckpt_path`: the same weights and rows, in a folder of its own that begins where the other one ended."
    expected, seconds = whole(case, go, undisturbed)
    print(f"TEST_SEED={SEED}")
    chance = random.Random(f"{SEED} {case} ckpt_path")
    for half in range(1, 7):  # the run may be faster than the signal
        killed, run = go(*CASES[case], number=signal.SIGKILL, after=chance.uniform(0, seconds / 2**half))
        if run.status == "dead": break
    assert killed["status"] == -signal.SIGKILL and run.status == "dead"
    result, other = go(*CASES[case], f"ckpt_path={run.last_checkpoint}")
    assert result["status"] == 0 and other.path != run.path, result["log"]
    ours, theirs = weights(other.last_checkpoint), weights(expected.last_checkpoint)
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert 0 < len(other.rows) <= len(expected.rows) and other.rows == expected.rows[-len(other.rows):]
    assert f" of {expected.epochs}" in result["log"]


def children(pid: int) -> set[int]:
    return {int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def wait_until(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)
    return answer


def start(cwd: Path, *words: str) -> subprocess.Popen:
    "The program, as a person starts it, in a session of its own: no signal for it must reach us."
    command = [sys.executable, "-m", "dlops_mnist.train", *words, "trainer.enable_progress_bar=false"]
    return subprocess.Popen(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def output(program: subprocess.Popen, status: int = 0) -> str:
    out = program.communicate(timeout=300)[0]
    assert program.returncode == status and "Traceback" not in out, out
    return out


TWO_PROCESSES = ["trainer=ddp_sim", "trainer.max_epochs=40", "model.dropout=0.3", "checkpoint_every_n_steps=2"]


@pytest.fixture(scope="module")
def two_undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(ROOT / "dataset", folder / "dataset")
    output(start(folder, *TWO_PROCESSES))
    return next(find_runs(folder / "runs"))


@pytest.mark.slow
@pytest.mark.races
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system's list of processes is read")
@pytest.mark.parametrize("number, status, everybody", [
    (signal.SIGINT, 130, True),  # as a terminal sends it
    (signal.SIGTERM, 143, False),  # as `kill` does
    (signal.SIGTERM, 143, True),  # as a cluster does
])
def test_two_processes_stop_together_and_go_on(number, status, everybody, two_undisturbed, tmp_path):
    shutil.copytree(ROOT / "dataset", tmp_path / "dataset")
    program = start(tmp_path, *TWO_PROCESSES)
    run = wait_until(lambda: next((run for run in find_runs(tmp_path / "runs") if run.rows), None))
    helpers = children(program.pid)
    assert helpers
    os.killpg(program.pid, number) if everybody else os.kill(program.pid, number)
    out = output(program, status)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers), 30)
    assert run.status == "interrupted" and len(run.rows) < 40
    assert out.count(f"go on with: python -m dlops_mnist.train resume={run.path.relative_to(tmp_path)}") == 1
    assert_nothing_is_half_written(run)
    output(start(tmp_path, f"resume={run.path}"))
    assert_same(run, two_undisturbed)


@pytest.mark.slow
@pytest.mark.races
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system's list of processes is read")
@pytest.mark.parametrize("victim", ["first", "other"])
def test_one_of_two_processes_is_killed(victim, two_undisturbed, tmp_path):
    shutil.copytree(ROOT / "dataset", tmp_path / "dataset")
    program = start(tmp_path, *TWO_PROCESSES)
    run = wait_until(lambda: next((run for run in find_runs(tmp_path / "runs") if run.rows), None))
    (helper,) = children(program.pid)
    os.kill(program.pid if victim == "first" else helper, signal.SIGKILL)
    out = program.communicate(timeout=120)[0]
    wait_until(lambda: not Path(f"/proc/{helper}").exists(), 60)
    assert program.returncode in ((-signal.SIGKILL,) if victim == "first" else (2, -signal.SIGKILL)), out
    assert run.status in ("failed", "dead")
    if program.returncode == 2: assert f"go on with: python -m dlops_mnist.train resume={run.path.relative_to(tmp_path)}" in out
    assert_nothing_is_half_written(run)
    output(start(tmp_path, f"resume={run.path}"))
    assert_same(run, two_undisturbed)


SLOW = """
import pathlib, time
from dlops_mnist.dataset import MNISTDataModule
from dlops_mnist.parts.images import parallel

class Slow(MNISTDataModule):
    def prepare_data(self):
        pathlib.Path("here").touch()
        list(parallel(time.sleep, [0.5] * 400))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system's list of processes is read")
@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("everybody", [True, False])
def test_stopped_while_data_is_prepared(number, status, everybody, tmp_path):
    "By helper processes of its own, which get the signal as well, or don't."
    (tmp_path / "slow.py").write_text(SLOW)
    program = start(tmp_path, "datamodule._target_=slow.Slow")
    wait_until((tmp_path / "here").exists)
    time.sleep(0.2)  # the helpers begin
    helpers = children(program.pid)
    began = time.monotonic()
    os.killpg(program.pid, number) if everybody else os.kill(program.pid, number)
    out = output(program, status)
    assert time.monotonic() - began < 10 and out.count("\n") == 1 and "interrupted" in out, out
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"here", "slow.py"}, "no run, nothing half-made"
    assert not any(Path(f"/proc/{pid}").exists() for pid in helpers)


KILL = """
import os
import signal
import pytorch_lightning as pl

class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if os.environ.get("KILL_AT") == f"{trainer.current_epoch} {batch_idx}" and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGKILL)
"""
RAGGED = ["trainer=ddp_sim", "datamodule.batch_size=16", "model.dropout=0.3", "augment=shift", "checkpoint_every_n_steps=1",
          "trainer.max_epochs=3", "+callbacks.kill._target_=kill.Kill"]


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    "A run of two processes whose last batch has one image for one of them, and none for the other."
    folder = tmp_path_factory.mktemp("ragged")
    shutil.copytree(ROOT / "dataset", folder / "dataset")
    shutil.copytree(folder / "dataset/test", folder / "dataset/val")  # else it would be cut from what is counted here
    (folder / "kill.py").write_text(KILL)
    for file in sorted((folder / "dataset/train/3").iterdir())[:23]: file.unlink()
    assert sum(1 for _ in (folder / "dataset/train").rglob("*.png")) % 32 == 1
    output(start(folder, *RAGGED))
    return next(find_runs(folder / "runs"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["0 8", "1 0", "1 5", "1 8", "2 3"])
def test_two_processes_with_a_ragged_batch_go_on(moment, ragged, tmp_path, monkeypatch):
    "Killed before a given batch of an epoch, whose last one (number 8) has nothing for one of the processes."
    folder = ragged.path.parents[2]
    shutil.copytree(folder / "dataset", tmp_path / "dataset")
    shutil.copy(folder / "kill.py", tmp_path)
    with monkeypatch.context() as context:
        context.setenv("KILL_AT", moment)
        program = start(tmp_path, *RAGGED)
        program.communicate(timeout=120)
    assert program.returncode == -signal.SIGKILL
    (run,) = find_runs(tmp_path / "runs")
    epoch, batch = map(int, moment.split())
    assert torch.load(run.last_checkpoint, weights_only=True)["global_step"] == 9 * epoch + batch
    output(start(tmp_path, f"resume={run.path}", "trust=true"))
    assert_same(run, ragged)


def test_what_cannot_go_on_says_so(go, undisturbed, place):
    case = list(CASES)[0]
    run, _ = whole(case, go, undisturbed)
    def message(*argv):
        result, new = go(*argv)
        assert result["status"] == 2 and new is None and "Traceback" not in result["log"], result["log"]
        return " ".join(result["log"].split())
    before = run.provenance_file.read_text()
    assert "is finished" in message(f"resume={run.path}")
    assert "schedule" in message(f"resume={run.path}", "trainer.max_epochs=9")
    assert "`model.dropout` was 0.3" in message(f"resume={run.path}", "model.dropout=0.1")
    assert "name no experiment" in message("001", f"resume={run.path}")
    assert "not the folder of a run" in message("resume=dataset")
    assert "names no run" in message("resume=")
    assert run.provenance_file.read_text() == before, "and the run is as it was"


def test_images_that_have_changed_are_not_gone_on_with(go, place, tmp_path):
    "One image less, or one pixel; the same images elsewhere are the same images."
    settings = ["datamodule.path=mine"]
    shutil.copytree(place / "dataset", mine := place / "mine", ignore=shutil.ignore_patterns(".cache"))
    shutil.copytree(mine, kept := tmp_path / "kept")
    _, run = go(*settings, "trainer.max_epochs=1")
    before, some = run.provenance_file.read_text(), sorted((mine / "train/3").iterdir())[0]
    for change in (lambda: shutil.copy(sorted((mine / "train/no3").iterdir())[0], some), some.unlink):
        change()
        refused, new = go(f"resume={run.path}", "trainer.max_epochs=2")
        said = " ".join(refused["log"].split())
        assert refused["status"] == 2 and new is None and "Traceback" not in said, said
        assert f"fingerprint was {run.provenance['fingerprint'][:12]}, and is" in said and "elsewhere: datamodule.path=" in said
        assert run.provenance_file.read_text() == before and len(run.rows) == 1
    anew, other = go(str(run.path), f"ckpt_path={run.last_checkpoint}", "trainer.max_epochs=2")
    assert anew["status"] == 0 and other.path != run.path, anew["log"]  # as the message advises
    longer, _ = go(f"resume={run.path}", "trainer.max_epochs=2", f"datamodule.path={kept}")
    assert longer["status"] == 0 and len(run.rows) == 2, longer["log"]
    shutil.rmtree(mine)


def test_a_finished_run_is_trained_longer(go, place):
    short, run = go("trainer.max_epochs=2")
    longer, _ = go(f"resume={run.path}", "trainer.max_epochs=4")
    assert longer["status"] == 0, longer["log"]
    _, expected = go("trainer.max_epochs=4")
    assert_same(run, expected)
    assert run.config["trainer"]["max_epochs"] == 4 and run.config["resume"] is None


def test_a_run_in_use_is_left_alone(go, place):
    _, run = go("trainer.max_epochs=1")
    provenance = json.loads(run.provenance_file.read_text())
    from dlops_mnist.parts.runfolder import process_identity

    run.provenance_file.write_text(json.dumps(provenance | {"status": "running", "process": process_identity()}))
    result, _ = go(f"resume={run.path}", "trainer.max_epochs=3")
    assert result["status"] == 2 and "is being trained, by process" in " ".join(result["log"].split())
    run.provenance_file.write_text(json.dumps(provenance))


def test_a_run_repeats_from_its_checkpoint_alone(go, undisturbed, place, tmp_path):
    expected, _ = whole(list(CASES)[0], go, undisturbed)
    alone = tmp_path / "alone.ckpt"
    shutil.copy(expected.checkpoints / "best.ckpt", alone)
    result, run = go(str(alone))
    assert result["status"] == 0, result["log"]
    assert_same(run, expected)
    assert run.path.parent.name == expected.path.parent.name and run.config["repeats"] == str(alone)


@pytest.mark.slow
def test_a_checkpoint_of_the_shipped_images_repeats_in_an_empty_folder(place, tmp_path):
    "As a colleague would: the file alone, on another number of threads, in a process and a folder of their own."
    def train(folder, threads, *argv):
        # both: with MKL, torch goes by MKL's own
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        command = [sys.executable, "-m", "dlops_mnist.train", *argv, "trainer.enable_progress_bar=false"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        [run] = find_runs(folder / "runs")
        return " ".join(done.stdout.split()), run

    (here := tmp_path / "here").mkdir(), (there := tmp_path / "there").mkdir(), (elsewhere := tmp_path / "elsewhere").mkdir()
    shutil.copytree(ROOT / "dataset", here / "dataset")
    (here / "short.yml").write_text("trainer: {max_epochs: 1}\n")
    _, expected = train(here, 1, "short.yml")
    for folder in (there, elsewhere): shutil.copy(expected.checkpoints / "best.ckpt", folder)
    log, run = train(there, 1, "best.ckpt")
    assert_same(run, expected)
    assert "Unpacked dataset/" in log and "threads" not in log
    log, _ = train(elsewhere, 2, "best.ckpt")
    assert "threads 1 2" in log and log.index("threads 1 2") < log.index("best val_acc")


@pytest.mark.parametrize("fact, then, row", [
    ("packages", {"torch": "2.6.0"}, "torch 2.6.0"),
    ("python", "3.10.1", "python 3.10.1"),
    ("git", {"commit": "abcdef123456789", "dirty": False}, "commit abcdef123456"),
    ("git", {"commit": "abcdef123456789", "dirty": True}, "uncommitted changes yes"),
    ("hardware", {"cpu": "Z80"}, "processor Z80"),
    ("hardware", {"threads": 96}, "threads 96"),
    ("fingerprint", "0123456789abcdef", "images 0123456789ab"),
])
def test_what_is_not_as_it_was_is_said_before_training(fact, then, row, go, undisturbed, place, tmp_path):
    expected, _ = whole(list(CASES)[0], go, undisturbed)
    checkpoint = torch.load(expected.last_checkpoint, weights_only=True)
    assert set(checkpoint["dlops_mnist"]) == {"packages", "python", "git", "hardware", "fingerprint"}
    checkpoint["dlops_mnist"][fact] = then
    torch.save(checkpoint, tmp_path / "old.ckpt")
    result, run = go(str(tmp_path / "old.ckpt"), "trainer.max_epochs=1")
    assert result["status"] == 0, result["log"]
    log = " ".join(result["log"].split())
    assert "not as it was" in log and row in log and log.index(row) < log.index("best val_acc")
