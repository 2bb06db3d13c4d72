"""What earlier versions left behind goes on working: run folders, checkpoints, experiment files, names in people's scripts.

tests/data/old says what is there and which commit made it.
"""

import hashlib
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import dlops_mnist
from dlops_mnist.config import load_config
from dlops_mnist.models import MNISTModule, load_module
from dlops_mnist.parts.checkpoint import load_weights

OLD = Path(__file__).parent / "data/old"


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", autouse=True)
def untouched():
    before = contents(OLD)
    assert sum(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) <= 300_000
    yield
    assert contents(OLD) == before


@pytest.fixture(scope="module")
def images(root, tmp_path_factory) -> Path:
    return shutil.copytree(root / "dataset", tmp_path_factory.mktemp("images") / "dataset",
                           ignore=shutil.ignore_patterns(".cache"))


@pytest.fixture
def work(images, tmp_path, monkeypatch) -> Path:
    "A working folder with copies of the old files, and the images that they were made with."
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dataset").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(work):
    return lambda name: next(Path("runs", name).iterdir())


@pytest.fixture
def go(program, work):
    "Runs a program that must end well; returns its output in one line, without the line breaks of a narrow terminal."

    def go(*words, status=0):
        done = program(*words, cwd=work)
        assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())

    return go


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    if path.name != "whole.ckpt": return state
    # made when dropout had a place of its own, and the layer behind it another number
    return {name.replace("layers.3", "layers.2"): tensor for name, tensor in state.items()}


def the_same(ours: dict, theirs: dict) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def newest(experiment: str) -> Path:
    return max(Path("runs", experiment).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def table(file: str | Path) -> list[list[float]]:
    return [list(map(float, line.split(","))) for line in Path(file).read_text().splitlines()[1:]]


# --- run folders and checkpoints ---

def test_an_old_run_is_evaluated_as_it_was(go, run):
    file = run("finished") / "evaluation/metrics.json"
    before = json.loads(file.read_text())
    file.unlink()
    go("evaluate", run("finished"))
    after = json.loads(file.read_text())
    assert after["confusion_matrix"] == before["confusion_matrix"]
    for name, metric in before["metrics"].items():
        if name == "ece": continue  # freed of the part that is chance, since then
        assert after["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-5), name
        assert after["metrics"][name]["low"] == pytest.approx(metric["low"], abs=0.05)


def test_old_runs_stand_in_the_table(go):
    printed = go("runs")
    assert printed.count("interrupted") >= 2 and printed.count("finished") >= 1 and "several_steps" in printed
    assert "several_steps" not in go("runs", "experiment=finished")


@pytest.fixture(scope="module")
def as_it_was(images, tmp_path_factory, program) -> bool:
    "Whether this machine's arithmetic is that of the one on which the old files were made, to the last bit."
    work = tmp_path_factory.mktemp("again")
    shutil.copytree(OLD, work, dirs_exist_ok=True)
    (work / "dataset").symlink_to(images)
    [old] = (work / "runs/interrupted").iterdir()
    done = program("train", old / "config.yaml", "paths.runs=again", cwd=work)
    assert done.returncode == 0, done.stderr
    [again] = (work / "again/interrupted").iterdir()
    ours, theirs = weights(again / "checkpoints/last.ckpt"), weights(OLD / "whole.ckpt")
    for name in theirs: torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    return the_same(ours, theirs)


def test_an_old_run_goes_on_to_the_same_weights(go, run, as_it_was):
    "Interrupted within its second epoch, with dropout, moved images and a schedule: as if nothing had happened."
    go("train", f"resume={run('interrupted')}")
    assert json.loads((run("interrupted") / "provenance.json").read_text())["status"] == "finished"
    ours, theirs = weights(run("interrupted") / "checkpoints/last.ckpt"), weights(Path("whole.ckpt"))
    for name in theirs: torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    if as_it_was:
        assert the_same(ours, theirs)
        assert (run("interrupted") / "metrics.csv").read_text() == Path("whole.csv").read_text()


def test_an_old_checkpoint_goes_on_in_a_new_run(go, run, as_it_was):
    old = run("interrupted")
    go("train", old / "config.yaml", f"ckpt_path={old / 'checkpoints/last.ckpt'}", "experiment=new")
    assert not as_it_was or the_same(weights(newest("new") / "checkpoints/last.ckpt"), weights(Path("whole.ckpt")))


def test_an_old_config_trains_again(go, run, as_it_was):
    printed = go("train", run("finished") / "config.yaml", "experiment=again")
    assert "steps_per_call" not in printed, "it was 1, as always now"
    ours, theirs = table(newest("again") / "metrics.csv"), table(run("finished") / "metrics.csv")
    assert ours == theirs if as_it_was else ours == [pytest.approx(row, abs=1e-3) for row in theirs]


@pytest.mark.parametrize("checkpoint, network", [("fast_cnn.ckpt", "FastCNN"), ("whole.ckpt", "CNN")])
def test_an_old_checkpoint_is_a_model(work, checkpoint, network):
    from dlops_mnist.recipe import FastCNN  # the old name of its module

    from dlops_mnist import MNISTModule, load_module

    module = load_module(checkpoint)
    cls = FastCNN if network == "FastCNN" else dlops_mnist.CNN
    assert type(module.model) is cls and the_same(module.state_dict(), weights(Path(checkpoint)))
    assert the_same(MNISTModule.load_from_checkpoint(checkpoint).state_dict(), weights(Path(checkpoint)))


@pytest.mark.parametrize("checkpoint", ["fast_cnn.ckpt", "whole.ckpt"])
def test_an_old_checkpoint_is_evaluated(go, checkpoint):
    assert "accuracy" in go("evaluate", checkpoint)


# --- experiment files ---

def test_the_spelling_of_the_series(go):
    go("train", "series")
    config = load_config(newest("series"))
    assert [section["_target_"].rpartition(".")[2] for section in config.callbacks.values()] == ["WandBCallback", "EarlyStopping"]
    assert config.optimizer["_target_"] == "torch.optim.Adam" and Path("logs/series/version_0/metrics.csv").is_file()


@pytest.mark.parametrize("source", ["targets", "fast_cnn.ckpt"])
def test_several_steps_in_a_call_are_dropped_with_one_sentence(go, source):
    printed = go("train", source, "experiment=dropped")
    assert printed.count("steps_per_call") == 1
    assert "steps_per_call" not in (newest("dropped") / "config.yaml").read_text()


def test_classes_by_their_old_names(go):
    go("train", "targets")
    assert (newest("targets") / "figures/confusion_matrix.png").is_file()
    assert weights(newest("targets") / "checkpoints/last.ckpt").keys() == weights(Path("fast_cnn.ckpt")).keys()


def test_an_unfinished_run_of_several_steps_is_refused_with_the_way_on(go, run):
    before = contents(run("several_steps"))
    message = go("train", f"resume={run('several_steps')}", status=2)
    assert "steps_per_call" in message and contents(run("several_steps")) == before
    way = re.search(r"python -m dlops_mnist\.train (.+)$", message)
    assert way, message
    go("train", *shlex.split(way[1]), "experiment=goes_on")
    assert len(table(newest("goes_on") / "metrics.csv")) == 3 and contents(run("several_steps")) == before


# --- names in people's scripts and settings ---

def test_the_names_of_the_series():
    space = {}
    exec("from dlops_mnist import *", space)
    assert {"CNN", "FastCNN", "ImageClassificationReport", "MLP", "MNISTDataModule", "MNISTModule", "Path", "RandomShift", "Run",
            "UserError", "WandBCallback", "deep_update", "diff", "fingerprint", "fit", "load_config", "load_module", "pl",
            "plot_runs", "runs_table", "torch"} <= set(space)


NAMED = {"models": ["MNISTModule", "MLP", "CNN"], "networks": ["MLP", "CNN"], "recipe": ["FastCNN", "RandomShift"],
         "dataset": ["MNISTDataModule"], "train": ["train"], "config": ["load_config"], "runfolder": ["Run"],
         "core": ["UserError"], "base": ["deep_update"], "evaluate": ["evaluate"], "runs": ["runs_table"],
         "tracking": ["WandBCallback", "ImageClassificationReport"], "callbacks": ["WandBCallback", "ImageClassificationReport"]}


@pytest.mark.parametrize("module", NAMED)
def test_what_files_and_scripts_name_is_where_it_was(module):
    there = importlib.import_module(f"dlops_mnist.{module}")
    for name in NAMED[module]:
        home = importlib.import_module(getattr(there, name).__module__)
        assert getattr(home, name) is getattr(there, name)
        if name in dlops_mnist.__all__: assert getattr(dlops_mnist, name) is getattr(there, name)


@pytest.mark.parametrize("old", dlops_mnist.MOVED)
def test_a_module_under_its_old_name_is_the_same(old):
    assert importlib.import_module(f"dlops_mnist.{old}") is importlib.import_module(f"dlops_mnist.{dlops_mnist.MOVED[old]}")


@pytest.mark.parametrize("model", [{"_target_": "dlops_mnist.models.MLP", "hidden": [6, 5]},
                                   {"_target_": "dlops_mnist.models.CNN", "filters": [4]}])
def test_names_of_weights_do_not_depend_on_dropout_and_old_names_load(work, model):
    nets = {dropout: MNISTModule({"model": {**model, "dropout": dropout}}) for dropout in (0.0, 0.5)}
    assert nets[0.0].state_dict().keys() == nets[0.5].state_dict().keys()
    # once, dropout had a place of its own, and each layer behind it another number
    state = nets[0.5].state_dict()
    old, shift = {}, {name: i // 2 for i, name in enumerate(state)}  # a weight and a bias to a layer
    for name, tensor in state.items():
        parts = name.split(".")
        parts[2] = str(int(parts[2]) + (shift[name] if "MLP" in model["_target_"] else parts[2] != "0"))
        old[".".join(parts)] = tensor
    assert old.keys() != state.keys()
    torch.save({"hyper_parameters": dict(nets[0.5].hparams), "state_dict": old}, "old.ckpt")
    loaded = load_module("old.ckpt")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert load_weights(nets[0.0], "old.ckpt").startswith(f"weights     {len(state)} of {len(state)} tensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in nets[0.0].state_dict().items())
