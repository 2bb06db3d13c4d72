"Training as its users do it: the series' files and lines, a folder of one's own, sweeps, several processes."

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlops_mnist.config import load_config
from dlops_mnist.parts.core import UserError, read_checkpoint
from dlops_mnist.parts.images import open_images
from dlops_mnist.parts.launch import launch
from dlops_mnist.parts.runfolder import find_runs

ROOT = Path(__file__).parents[1]


@pytest.fixture
def work(tmp_path, monkeypatch):
    "A working folder with the shipped dataset and the experiments in it."
    shutil.copytree(ROOT / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*words):
    "Train in this process (importing Lightning takes seconds), by the words of a command line; gives the newest run."
    from dlops_mnist.train import train_and_report

    before = {run.path for run in find_runs()}
    launch(train_and_report, list(words))
    new = [run for run in find_runs() if run.path not in before]
    assert len(new) == 1 and new[0].status == "finished"
    return new[0]


def images(folder, classes, size=(12, 9), splits=("train", "test"), count=12):
    "A dataset of noise with a bright corner whose place is the class."
    rng = np.random.default_rng(0)
    for split in splits:
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, size, dtype=np.uint8)
                pixels[label * 2 : label * 2 + 2] += 150
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def test_images_are_opened_in_each_training_anew(work, monkeypatch):
    from dlops_mnist import dataset

    opened, open_images = [], dataset.open_images
    monkeypatch.setattr(dataset, "open_images", lambda *args, **settings: opened.append(args) or open_images(*args, **settings))
    for times in (1, 2):
        train("trainer.max_epochs=1")
        assert len(opened) == 2 * times  # for the config, which must know the classes, and for Lightning


def test_the_lines_of_the_series_run_as_written(work):
    space = {"config": load_config("experiments/001.yml", "trainer.max_epochs=2")}
    exec("""
from dlops_mnist import *
dm = MNISTDataModule(path=Path('dataset'), batch_size=25)
dm.setup()
imgs, labels = next(iter(dm.train_dataloader()))
assert imgs.shape == (25, 28, 28) and imgs.dtype == torch.uint8
module = MNISTModule(config)
assert module(imgs).shape == (25,)
assert (module.predict(imgs) > 0.5).dtype == torch.bool
trainer = pl.Trainer(**config['trainer'])
trainer.fit(module, dm)
trainer.save_checkpoint('final.ckpt')
again = MNISTModule.load_from_checkpoint('final.ckpt')
assert again.hparams['trainer']['max_epochs'] == 2
dm2 = MNISTDataModule(**module.hparams['datamodule'])
dm2.setup()
imgs, labels = next(iter(dm2.val_dataloader(25, True)))
assert torch.equal(again.predict(imgs), module.predict(imgs))
""", space)
    assert sorted(p.name for p in work.iterdir()) == ["dataset", "experiments", "final.ckpt"], "and write nothing else"


@pytest.mark.parametrize("name,promised", [
    ("001", "runs/001/*/checkpoints/best.ckpt"),
    ("002", "lightning_logs/version_0"),
    ("003", "logs/003/version_0/metrics.csv"),
    ("004", "wandb/offline-run-*/*.wandb"),
    ("005", "wandb/offline-run-*/files/media"),
    ("006", "checkpoints/006-val_loss=0.*-epoch=*.ckpt"),
    ("debug", "runs/debug/*/metrics.csv"),
])
def test_the_files_of_the_series_run_as_they_stand(work, monkeypatch, name, promised):
    monkeypatch.setenv("WANDB_MODE", "offline")
    if "wandb" in sys.modules: sys.modules["wandb"].teardown()  # it remembers the folder of an earlier test
    train(name, "trainer.max_epochs=2")
    assert len(list(work.glob(promised))) == 1


def test_the_default_experiment_learns(work, capsys):
    run = train("001")
    assert run.best["val_acc"] >= 0.93
    assert f"python -m dlops_mnist.evaluate {run.path}" in capsys.readouterr().out
    assert {p.name for p in run.path.iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints", "provenance.json", "train.log"}
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_one_image_is_learnt_by_heart(work):
    assert train("debug", "trainer.max_epochs=30").metrics["loss"].iloc[-1] < 0.1


def test_a_run_repeats_from_its_config_and_from_its_checkpoint(work):
    first = train("001", "model=cnn", "model.filters=[4,8]", "model.dropout=0.2", "trainer.max_epochs=2")
    assert train(str(first.config_file)).metrics.equals(first.metrics)
    assert train(str(first.best_checkpoint)).metrics.equals(first.metrics)


@pytest.mark.parametrize("classes", [["cat", "dog"], ["größe a", "b=c", "d,e", "f[1]"]], ids=["two", "four, with odd names"])
def test_a_folder_of_ones_own_needs_no_python(work, classes):
    images(work / "mine", classes)
    run = train("datamodule.path=mine", "model=cnn", "model.filters=[4]", "trainer.max_epochs=1", "datamodule.val=0.3")
    assert sorted(run.config["datamodule"]["classes"]) == sorted(classes)
    assert run.config["datamodule"]["image_shape"] == [12, 9]


def test_a_folder_that_cant_be_written(work, monkeypatch):
    mine = images(work / "mine", ["a", "b"])
    (mine / ".cache").write_text("in the way of a cache, also for root, whom permissions don't stop")
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "elsewhere"))
    train("datamodule.path=mine", "trainer.max_epochs=1", "datamodule.val=0.3")
    assert any((work / "elsewhere").rglob("*.npy"))


@pytest.mark.parametrize("words,part", [
    (["datamodule.path=nowhere"], "nowhere"),
    (["trainer=gpu"], "finds no such device here. Without a GPU: trainer=cpu"),
    (["trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2"], "finds no such device here"),
    (["trainer=fsdp"], "finds no such device here"),
    (["trainer=fsdp", "trainer.accelerator=cpu"], "trainer.strategy: fsdp` needs GPUs"),
    (["trainer=cpu", "trainer.devices=4096"], "trainer.devices: 4096` would start 4096 processes"),
    (["trainer=ddp_sim", "trainer.devices=4096"], "where they only wait for one another"),
    (["monitor=val_accuracy", "trainer.max_epochs=1"], "val_acc"),
    (["callbacks.early_stopping.monitor=val_los", "trainer.max_epochs=1"], "val_loss"),
    (["datamodule.classes=[a,b]"], "no3"),
    (["datamodule.classes=[]"], "none are expected"),
    (["ckpt_path=''"], "`.` is not a run's folder"),
    (["weights=''"], "`.` is not a run's folder"),
    (["model.dropout=nan"], "`model.dropout` must be float, not nan"),
])
def test_mistakes_that_show_only_now(work, capsys, words, part):
    import torch

    if ("device" in part or "GPU" in part) and torch.cuda.is_available(): pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit) as exit: train(*words)
    message = capsys.readouterr().err
    assert exit.value.code == 2 and part in message and "Traceback" not in message
    assert all(run.status == "failed" for run in find_runs())


@pytest.mark.parametrize("words", [["optimizer.lr=-1"], ["optimizer=sgd", "optimizer.momentum=-0.5"], ["model.dropout=2"]])
def test_a_value_that_a_class_refuses_leaves_no_run(work, capsys, words):
    with pytest.raises(SystemExit): train(*words)
    assert "can't be built" in capsys.readouterr().err and not list(find_runs())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from dlops_mnist.config import load_config
    from dlops_mnist.train import train

    runs = tmp_path_factory.mktemp("trained")
    return train(load_config("001", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", f"paths.runs={runs}",
                             f"datamodule.path={ROOT / 'dataset'}", "callbacks=early_stopping"))


@pytest.mark.parametrize("words", [
    ["optimizer.lr=1e-6"], ["optimizer=adamw"], ["optimizer=sgd"], ["scheduler=onecycle"], ["model.hidden=[7]"], ["model=cnn"],
    ["seed=7"], ["callbacks.early_stopping.patience=7"], ["optimizer.weight_decay=0.1"], ["optimizer.betas=[0.5,0.9]"],
    ["optimizer.amsgrad=true"], ["optimizer={_target_: torch.optim.RMSprop, lr: 0.001}"]], ids=" ".join)
def test_settings_that_a_restored_state_overrules_are_refused(work, capsys, trained, words):
    with pytest.raises(SystemExit): train("callbacks=early_stopping", f"ckpt_path={trained.last_checkpoint}", *words)
    key = words[0].partition("=")[0]
    message = capsys.readouterr().err
    assert f"`{key}" in message and "weights=" in message and "Traceback" not in message and not list(find_runs())


@pytest.mark.parametrize("gone, told", [("hyper_parameters", "would have no effect"), ("loops", "its `loops` can't"),
                                        ("optimizer_states", "its `optimizer_states` can't"),
                                        ("pytorch-lightning_version", "can't be taken up")])
def test_a_state_that_is_not_whole_is_refused(work, capsys, trained, gone, told):
    import torch

    checkpoint = torch.load(trained.last_checkpoint, weights_only=True)
    del checkpoint[gone]
    torch.save(checkpoint, "part.ckpt")
    with pytest.raises(SystemExit): train("callbacks=early_stopping", "ckpt_path=part.ckpt", "trainer.max_epochs=3")
    said = capsys.readouterr().err
    assert told in said and "weights=" in said and "Traceback" not in said and not list(find_runs())


@pytest.mark.parametrize("place, value", [("random", "x"), ("random", {"torch": 1}), ("rows", [1]), ("running", "x"),
                                          ("running", [1]), ("data", "x"), ("data", {"epoch": "x", "images": []})])
def test_a_state_of_another_type_is_one_message(work, capsys, trained, place, value):
    import torch

    checkpoint = torch.load(trained.last_checkpoint, weights_only=True)
    if place in ("random", "rows"): next(state for name, state in checkpoint["callbacks"].items() if "Run" in name)[place] = value
    elif place == "data": checkpoint["MNISTDataModule"] = value
    else: checkpoint[place] = value
    torch.save(checkpoint, "odd.ckpt")
    with pytest.raises(SystemExit) as exit: train("callbacks=early_stopping", "ckpt_path=odd.ckpt", "trainer.max_epochs=3")
    said = capsys.readouterr().err
    assert exit.value.code == 2 and "is damaged" in said and "Traceback" not in said and not list(find_runs()), said


FIT = ("loops", "fit_loop")
DAMAGED = {("optimizer_states",): {}, ("optimizer_states", 0): "x", ("optimizer_states", 0, "state", 0, "exp_avg"): [],
           ("optimizer_states", 0, "param_groups", 0, "betas"): None, ("lr_schedulers",): [], ("lr_schedulers", 0): [1],
           ("lr_schedulers", 0, "best"): [], ("loops",): None, FIT: {}, (*FIT, "epoch_progress", "current", "ready"): [1],
           (*FIT, "epoch_loop.batch_progress", "total", "ready"): None, ("callbacks",): [1], ("MNISTDataModule", "images"): "x",
           ("callbacks", "EarlyStopping{'monitor': 'val_acc', 'mode': 'max'}", "wait_count"): "x",
           ("callbacks", "EarlyStopping{'monitor': 'val_acc', 'mode': 'max'}", "stopped_epoch"): [],
           ("state_dict",): "x", ("hyper_parameters", "seed"): "tensor"}


@pytest.fixture(scope="module")
def slowing(tmp_path_factory, trained):
    "A run with a schedule, which was stopped after its first epoch."
    from dlops_mnist.parts.runfolder import update_provenance
    from dlops_mnist.train import train

    run = train(trained.config | {"paths": {"runs": str(tmp_path_factory.mktemp("slowing"))}, "repeats": None, "scheduler": {
        "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "monitor": "val_loss"}})
    update_provenance(run, status="interrupted")
    return run


@pytest.mark.parametrize("path, how", [(path, how) for path in DAMAGED for how in ("ckpt_path", "resume")
                                       if how == "ckpt_path" or path[0] != "hyper_parameters"])
def test_a_damaged_state_is_one_sentence_that_names_its_part(work, capsys, slowing, path, how):
    import torch

    shutil.copytree(slowing.path, "runs/mine/theirs")
    file, value = Path("runs/mine/theirs/checkpoints/last.ckpt"), DAMAGED[path]
    checkpoint = inside = torch.load(file, weights_only=True)
    for key in path[:-1]: inside = inside[key]
    assert path[-1] == 0 or path[-1] in inside
    inside[path[-1]] = torch.zeros(3) if value == "tensor" else value
    torch.save(checkpoint, file)
    words = ["callbacks=early_stopping", "scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, monitor: val_loss}",
             f"ckpt_path={file}"] if how == "ckpt_path" else ["resume=runs/mine/theirs"]
    with pytest.raises(SystemExit) as exit: train(*words, "trainer.max_epochs=2")
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    part = {"loops": "loops", "optimizer_states": "optim|Adam", "lr_schedulers": "lr_sched|ReduceLR", "state_dict": "network|model",
            "callbacks": "callbacks|EarlyStopping|loops", "MNISTDataModule": "datamodule|loops", "hyper_parameters": "seed"}
    assert re.search(part[path[0]], said), said


@pytest.mark.parametrize("state", [None, [], "x", 7, {1: 2}, [0.5]])
def test_weights_of_another_type_fit_nothing(work, capsys, state):
    import torch

    torch.save({"state_dict": torch.tensor(state) if state == [0.5] else state}, "odd.ckpt")
    with pytest.raises(SystemExit): train("weights=odd.ckpt", "trainer.max_epochs=1")
    assert "none of its 0 tensors fits this network" in capsys.readouterr().err and not list(find_runs())


@pytest.mark.parametrize("words, told", [
    (["optimizer.lr=1e300"], "`Adam` can't go on: RuntimeError: value cannot be converted"),
    (["scheduler=cosine", "scheduler.T_max=0"], "`CosineAnnealingLR` can't go on: ZeroDivisionError"),
    (["augment={more: [{_target_: torch.nn.Linear, in_features: 3, out_features: 2}]}"], "`Linear` can't go on: RuntimeError"),
    (["metrics=auroc", "metrics.auroc.max_fpr=9223372036854775807"], "`BinaryAUROC` can't go on: "),
    (["scheduler=cosine", "scheduler.frequency=text"], "`scheduler.frequency` must be int, not 'text'"),
    (["scheduler=cosine", "scheduler.frequency=0"], "`scheduler.frequency: 0` must be at least 1"),
    (["scheduler=plateau", "scheduler.monitor=[1]"], "`scheduler.monitor` must be str"),
    (["scheduler=cosine", "scheduler.monitor=val_acc"], "`scheduler.monitor` is not a setting of CosineAnnealingLR"),
    (["datamodule.batch_size=9223372036854775808"], "batch_size must be 1 to 2**63-1"),
    (["scheduler=plateau", "scheduler.interval=often"], "`scheduler.interval` must be 'step' or 'epoch'"),
    (["loss.weights={no3: x}"], "`loss.weights` must be a list of float, dict[str, float], str or null"),
    (["loss.weights=[-1,1]"], "`loss.weights: [-1, 1]`: numbers from 0 on"),
    (["loss.weights=[inf,1]"], "`loss.weights: [inf, 1]`: numbers from 0 on"),
    (["callbacks={x: {_target_: pytorch_lightning.callbacks.ModelCheckpoint, train_time_interval: 7}}",
      "trainer.enable_checkpointing=true"], "`callbacks.x.train_time_interval` must be timedelta or null"),
])
def test_what_a_class_only_trips_over_later_is_one_sentence(work, capsys, words, told):
    with pytest.raises(SystemExit) as exit: train("trainer.max_epochs=1", *words)
    said = capsys.readouterr().err
    assert exit.value.code == 2 and told in said and said.count("\n") == 1, said


def test_of_odd_facts_in_a_checkpoint_none_is_needed(work, capsys, trained):
    import torch

    checkpoint = torch.load(trained.last_checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["callbacks"] = "x"
    checkpoint["dlops_mnist"]["packages"] = {"torch": torch.zeros(3), "numpy": [1]}
    torch.save(checkpoint, "odd.ckpt")
    assert [row["epoch"] for row in train("ckpt_path=odd.ckpt", "trainer.max_epochs=2").rows] == [1]
    for key, value in {"callbacks": {1: 2}, "trainer": {"max_epochs": 1}}.items():
        checkpoint["hyper_parameters"][key] = value
        torch.save(checkpoint, "odd.ckpt")
        assert [row["epoch"] for row in train("ckpt_path=odd.ckpt", "trainer.max_epochs=2").rows] == [1]
    checkpoint["hyper_parameters"].pop("callbacks"), torch.save(checkpoint, "odd.ckpt")
    train("odd.ckpt", "trainer.max_epochs=1")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("word, count", [("trainer.max_steps=1", 7), ("trainer.max_steps=7", 7), ("trainer.max_epochs=0", 1)])
def test_a_limit_that_is_reached_trains_nothing_and_says_so(work, capsys, trained, word, count):
    before = trained.config_file.read_bytes()
    with pytest.raises(SystemExit): train(f"resume={trained.path}", word)
    assert f"has come to {count} already, so nothing would be trained" in capsys.readouterr().err
    assert trained.config_file.read_bytes() == before


@pytest.mark.parametrize("key", ["weights", "ckpt_path"])
def test_a_run_that_goes_on_begins_with_nothing_else(work, capsys, trained, key):
    with pytest.raises(SystemExit): train(f"resume={trained.path}", "trainer.max_epochs=3", f"{key}={trained.last_checkpoint}")
    assert f"`{key}` was None when this run began, and can't change halfway" in capsys.readouterr().err
    with pytest.raises(SystemExit): train(f"ckpt_path={trained.path}")
    assert f"There is no checkpoint `{trained.path}`. Of a run, say {trained.last_checkpoint}." in capsys.readouterr().err


def test_what_a_class_does_anyway_may_be_typed_where_a_state_goes_on(work, trained):
    run = train("callbacks=early_stopping", f"ckpt_path={trained.last_checkpoint}", "optimizer.weight_decay=0",
                "optimizer.betas=[0.9,0.999]", "trainer.max_epochs=2")
    assert [row["epoch"] for row in run.rows] == [1]
    run = train(f"ckpt_path={trained.last_checkpoint}", "trainer.max_epochs=2")
    assert [row["epoch"] for row in run.rows] == [1], "a callback may go, and come"


@pytest.mark.parametrize("word", ["trainer.max_epochs=3", "datamodule.batch_size=50", "trainer.limit_train_batches=2"])
def test_a_schedule_for_the_whole_length_goes_on_with_that_length(work, capsys, word):
    words = ["001", "scheduler=cosine", "trainer.max_epochs=1"]
    first = train(*words)
    with pytest.raises(SystemExit): train(*words, f"ckpt_path={first.last_checkpoint}", word)
    assert f"leave {word.partition('=')[0]} as it was" in capsys.readouterr().err and len(list(find_runs())) == 1
    with pytest.raises(SystemExit): train("001", "trainer.max_epochs=1", f"ckpt_path={first.last_checkpoint}")
    assert re.search(r"`scheduler\.\w+: null` would have no effect.*which has 0", capsys.readouterr().err)


def test_a_new_run_begins_with_the_weights_of_another(work, capsys, trained):
    import torch

    train(f"weights={trained.path}", "optimizer=sgd", "seed=7", "trainer.max_epochs=1")
    assert "4 of 4 tensors" in capsys.readouterr().out
    images(work / "mine", ["a", "b", "c"], size=(28, 28))
    run = train(f"weights={trained.last_checkpoint}", "datamodule.path=mine", "trainer.max_epochs=1", "optimizer.lr=1e-12")
    assert "2 of 4 tensors" in (said := capsys.readouterr().out) and "begin afresh" in said and "[3, 100]" in said
    old, new = (next(iter(torch.load(r.last_checkpoint, weights_only=True)["state_dict"].values())) for r in (trained, run))
    assert torch.allclose(old, new, atol=1e-6) and run.config["weights"] == str(trained.last_checkpoint)
    known = "datamodule.path=mine", "callbacks=early_stopping"
    with pytest.raises(SystemExit): train(f"ckpt_path={trained.last_checkpoint}", *known)
    assert "another network" in capsys.readouterr().err
    with pytest.raises(SystemExit): train(f"weights={trained.last_checkpoint}", "model=cnn", "model.filters=[3]", *known)
    assert "none of its" in capsys.readouterr().err


def test_a_network_with_a_state_of_its_own_goes_on_and_begins_anew(work, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(work))
    (work / "counts.py").write_text("""from torch import nn

class Counts(nn.Sequential):
    def __init__(self, classes: int = 2):
        super().__init__(nn.Flatten(), nn.Linear(784, classes))
        self.images = 0
    def forward(self, x):
        if self.training: self.images += len(x)
        return super().forward(x)
    def get_extra_state(self): return {"images": self.images}
    def set_extra_state(self, state): self.images = state["images"]
""")
    words = "model._target_=counts.Counts", "trainer.max_epochs=1", "trust=true"
    first = train(*words)
    seen = lambda run: read_checkpoint(run.last_checkpoint)["state_dict"]["model._extra_state"]["images"]  # noqa: E731
    capsys.readouterr()
    anew = train(*words, f"weights={first.path}")
    assert "2 of 2 tensors" in (said := capsys.readouterr().out) and "begin afresh: model._extra_state" in said
    further = train(*words[:1], "trainer.max_epochs=2", "trust=true", f"ckpt_path={first.last_checkpoint}")
    assert seen(first) > 0 and [seen(anew), seen(further)] == [seen(first), 2 * seen(first)]


@pytest.mark.parametrize("cores, most", [(1, 4), (2, 4), (64, 64)])
def test_processes_for_cores(monkeypatch, cores, most):
    from dlops_mnist.parts import core as module

    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    for devices in (1, 2, most, str(most), "auto"): module.check_hardware({"accelerator": "cpu", "devices": devices})
    for devices in (most + 1, str(most + 1)):
        with pytest.raises(UserError, match=f"{cores} cores.* At most {most} "):
            module.check_hardware({"accelerator": "cpu", "devices": devices})


MOMENTS = """
import signal
import sys
import pytorch_lightning as pl
import torch
from dlops_mnist.dataset import MNISTDataModule

def stop(number):
    assert signal.getsignal(number) != signal.SIG_DFL, "it would end the tests"
    signal.raise_signal(number)

class Data(MNISTDataModule):
    def __init__(self, number: int, **settings):
        super().__init__(**settings)
        self.number = number
    def setup(self, stage=None): stop(self.number)

class Net(torch.nn.Linear):
    def __init__(self, number: int):
        stop(number)

class Listener(pl.Callback):
    def __init__(self, number: int): self.number = number
    def setup(self, trainer, module, stage): stop(self.number)

class Check(Listener):
    def setup(self, trainer, module, stage): pass
    def on_sanity_check_start(self, trainer, module): stop(self.number)
"""


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["datamodule._target_=moments.Data", "model._target_=moments.Net",
                                    "+callbacks.stop._target_=moments.Listener", "+callbacks.stop._target_=moments.Check"])
def test_stopped_before_training_begins(work, capfd, monkeypatch, moment, number, status):
    (work / "moments.py").write_text(MOMENTS)
    monkeypatch.syspath_prepend(work)
    section = moment.partition("._target_")[0].lstrip("+")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as exit:
        train(moment, f"+{section}.number={int(number)}", "trainer.num_sanity_val_steps=1", "trainer.enable_progress_bar=false")
    out, message = capfd.readouterr()
    assert exit.value.code == status and signal.getsignal(number) == before
    assert message.strip().startswith("interrupted") and message.count("\n") == 1 and "Traceback" not in out
    assert not list(find_runs()) and not Path("runs").exists()


def test_a_missing_folder_leaves_no_run(work):
    with pytest.raises(SystemExit): train("datamodule.path=nowhere")
    assert not Path("runs").exists()


def test_a_network_of_ones_own(work, monkeypatch):
    (work / "my_net.py").write_text("""
import torch
class Net(torch.nn.Module):
    def __init__(self, width: int, image_shape: tuple[int, ...], activation: torch.nn.Module):
        super().__init__()
        pixels = image_shape[0] * image_shape[1]
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, width), activation, torch.nn.Linear(width, 1))
    def forward(self, x): return self.layers(x)
""")
    (work / "experiments/mine.yml").write_text("""
model:
  _target_: my_net.Net
  width: 8
  activation: {_target_: torch.nn.GELU}
trainer.max_epochs: 1
""")
    monkeypatch.syspath_prepend(work)
    from dlops_mnist import MNISTModule

    run = train("mine")
    assert MNISTModule.load_from_checkpoint(run.best_checkpoint).model.layers[1].out_features == 8
    (work / "my_net.py").write_text((work / "my_net.py").read_text().replace("width", "units"))
    with pytest.raises(UserError, match="`model.width` is not a setting of Net"): load_config("mine")


def test_real_mnist(work):
    if not os.environ.get("MNIST_RAW_DIR"): pytest.skip("MNIST_RAW_DIR names no folder with MNIST's four files")
    run = train("mnist_cnn", "datamodule.per_class=[100,20]", "datamodule.batch_size=50", "trainer.max_epochs=2")
    assert len(run.config["datamodule"]["classes"]) == 10 and run.best["val_acc"] > 0.8


def train_program(*words, cwd, **environment):
    "A start as a person's own: the processes of several devices, and those of launchers, follow from it."
    return subprocess.run([sys.executable, "-m", "dlops_mnist.train", *words], cwd=cwd, text=True, capture_output=True,
                          stdin=subprocess.DEVNULL, env=os.environ | environment, timeout=280)


def test_a_multirun_leaves_four_folders_and_a_table(work, capsys):
    from dlops_mnist.train import show_multirun, train_and_report

    words = ["001", "-m", "optimizer.lr=1e-3,1e-4", "model=mlp,cnn", "trainer.max_epochs=1", "paths.runs=elsewhere"]
    launch(train_and_report, words, after=show_multirun)
    runs = list(find_runs("elsewhere"))
    assert len(runs) == 4 and {run.status for run in runs} == {"finished"}
    assert {(run.config["optimizer"]["lr"], run.config["model"]["_target_"][-3:]) for run in runs} == {
        (1e-3, "MLP"), (1e-3, "CNN"), (1e-4, "MLP"), (1e-4, "CNN")}
    assert capsys.readouterr().out.count("finished") == 4


def test_the_mistakes_of_some_jobs_are_told_and_do_not_stop_the_others(work, capsys):
    from dlops_mnist.train import show_multirun, train_and_report

    with pytest.raises(SystemExit) as exit:
        launch(train_and_report, ["-m", "datamodule.path=nowhere,dataset,neither", "trainer.max_epochs=1"], after=show_multirun)
    assert exit.value.code == 1 and [run.status for run in find_runs()] == ["finished"]
    printed = capsys.readouterr()
    assert printed.out.count("finished") == 1
    table = [line.split() for line in printed.out.splitlines()]
    assert ["-", "datamodule.path=nowhere", "nan", "failed"] in table and ["-", "datamodule.path=neither", "nan", "failed"] in table
    first, second = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    last = printed.err.splitlines()[-1]
    assert "nowhere" in first and "neither" in second
    assert last.startswith("Not all of these 3 runs ended well") and "nowhere" in last


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers(work, launcher):
    extra = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    result = train_program("001", "-m", f"hydra/launcher={launcher}", *extra, "seed=1,2,3", "trainer.max_epochs=1", cwd=work)
    assert result.returncode == 0, result.stderr
    assert sorted(run.config["seed"] for run in find_runs()) == [1, 2, 3] and result.stdout.count("finished") == 3


@pytest.mark.slow
def test_a_sweep_of_runs_of_two_processes_each(work):
    result = train_program("001", "-m", "trainer=ddp_sim", "seed=1,2", "trainer.max_epochs=2", cwd=work)
    assert result.returncode == 0, result.stderr
    ended = sorted((run.config["seed"], run.status, len(run.rows)) for run in find_runs())
    assert ended == [(1, "finished", 2), (2, "finished", 2)]
    folders = {p.name for p in work.iterdir()}
    assert folders == {"dataset", "experiments", "runs"}, "and no other folder"


def test_two_processes_make_one_run(work):  # and each decodes its images itself; tests/test_scale.py has two with a cache
    result = train_program("001", "trainer=ddp_sim", "trainer.max_epochs=2", "datamodule.cache=none", cwd=work)
    assert result.returncode == 0, result.stderr
    (run,) = find_runs()
    assert run.status == "finished" and len(run.rows) == 2 and run.rows[-1]["val_acc"] > 0.5
    assert not (work / "dataset/.cache").exists()
    assert json.loads(run.provenance_file.read_text())["training"]["processes"] == 2
    assert {p.name for p in work.iterdir()} == {"dataset", "experiments", "runs"}


@pytest.mark.parametrize("wrong", ["trainer.accelerator=cuda", "trainer.strategy=none_such", "model.hidden=[-1]"])
def test_a_start_that_fails_leaves_nothing(work, wrong):
    with pytest.raises(SystemExit) as exit: train("001", wrong, "paths.runs=deep/runs")
    assert exit.value.code == 2
    assert {p.name for p in work.iterdir()} == {"dataset", "experiments"}


def test_a_data_module_that_is_typed_out_says_what_it_found(work):
    run = train("001", "trainer.max_epochs=1", "datamodule._target_=dlops_mnist.dataset.MNISTDataModule")
    assert run.config["datamodule"]["classes"] == ["no3", "3"] and run.config["datamodule"]["image_shape"] == [28, 28]


def test_what_a_run_saved_is_text_and_no_question(work):
    "A stranger's checkpoint that says `${oc.env:HOME}` gets no answer."
    import torch

    run = train("001", "trainer.max_epochs=1")
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["paths"]["runs"] = "runs-${oc.env:HOME}"
    torch.save(checkpoint, "strange.ckpt")
    assert load_config("strange.ckpt").paths.runs == "runs", "left out, with a sentence"
    assert load_config("strange.ckpt", "trust=true").paths.runs == "runs-${oc.env:HOME}", "and with trust it is text all the same"
    assert train("strange.ckpt").path.parent.parent.name == "runs"
    assert not [path for path in work.iterdir() if path.name.startswith("runs-")]


def test_training_leaves_the_callers_process_as_it_was(work):
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    argv, repository = list(sys.argv), ConfigStore.instance().repo
    train("001", "trainer.max_epochs=1")
    with contextlib.suppress(UserError, SystemExit): train("001", "datamodule.path=nowhere")
    assert sys.argv == argv and ConfigStore.instance().repo is repository and not GlobalHydra.instance().is_initialized()


def test_the_promises_name_tests_that_exist():
    lesson = (ROOT / "nbs/07_train.ipynb").read_text(encoding="utf-8")
    promised = set(re.findall(r"`(test_\w+)`", lesson))
    there = {name for file in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)}
    assert len(promised) > 20 and promised <= there


@pytest.mark.parametrize("name", ["lr=0.1", "mine[red]", "a,b", "it's mine", "é(2)", "1e3"])
def test_a_run_of_any_name_is_told_as_it_is_and_goes_on(work, name, capsys):
    from dlops_mnist.parts.signals import children_repeat, how_to_go_on

    run = train("001", f'experiment="{name}"', "trainer.max_epochs=1")
    printed = capsys.readouterr().out
    assert f"run         {run.path}\n" in printed and run.path.parent.name == name
    command = next(line for line in printed.splitlines() if line.startswith("evaluate it"))
    assert shlex.split(command)[-1] == str(run.path)
    launch(train_and_report_nothing, [*shlex.split(how_to_go_on(run))[3:], "trainer.max_epochs=2"])
    with children_repeat(run): launch(train_and_report_nothing, sys.argv[1:])
    run.provenance_file.write_text(json.dumps(run.provenance | {"resumed": ["2026-11-25T04:00:00+00:00"]}))
    with children_repeat(run): launch(train_and_report_nothing, [*sys.argv[1:], "trainer.max_epochs=2"])


def train_and_report_nothing(config): assert config["resume"] or config["repeats"]


def test_images_that_are_added_between_two_trainings_are_seen(work, monkeypatch):
    import pytorch_lightning as pl

    from dlops_mnist import dataset
    from dlops_mnist.models import MNISTModule

    opened = []
    monkeypatch.setattr(dataset, "open_images", lambda *args, **settings: opened.append(args) or open_images(*args, **settings))
    quick = {"max_epochs": 1, "limit_train_batches": 1, "logger": False, "enable_checkpointing": False,
             "enable_progress_bar": False, "enable_model_summary": False}
    datamodule = dataset.MNISTDataModule(work / "dataset")
    numbers = []
    for _ in range(2):
        pl.Trainer(**quick).fit(MNISTModule({}), datamodule)
        numbers.append((len(datamodule.datasets["train"]) + len(datamodule.datasets["val"]), len(opened)))
        for file in (work / "dataset/test/3").glob("*.png"): shutil.copy(file, work / f"dataset/train/3/new-{file.name}")
    assert numbers == [(280, 1), (320, 2)]


def test_what_went_wrong_is_said_at_the_end(work, capsys):
    train("001", "trainer.max_epochs=1", "trainer.limit_train_batches=0")
    assert "there is no checkpoint that could be evaluated" in capsys.readouterr().out
    run = train("001", "trainer.max_epochs=1", "optimizer.lr=1e30")
    assert "CAREFUL: the last epoch's metrics are not numbers" in capsys.readouterr().out
    from dlops_mnist.evaluate import evaluate

    assert evaluate(run).warnings[0].startswith("The model's answers are not numbers (NaN)")
