"""What a training may be told beyond network and optimizer: loss, metrics, augmentation, temperature, a network of timm."""

import json
import math
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchmetrics
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score
from test_serve import ask, serving
from torch import nn

from dlops_mnist.config import load_config
from dlops_mnist.dataset import open_dataset
from dlops_mnist.evaluate import evaluate
from dlops_mnist.export import export
from dlops_mnist.models import MNISTModule, load, load_module
from dlops_mnist.parts.augment import Augment
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.recorder import note_result
from dlops_mnist.parts.runfolder import Run
from dlops_mnist.parts.scores import balanced_weights, build_loss, build_metrics, fit_temperature, read_metrics, update_metrics
from dlops_mnist.predict import predict
from dlops_mnist.train import train

SHORT = ("trainer.accelerator=cpu", "model.hidden=[8]", "augment=random", "metrics=[f1,balanced_acc]", "loss.weights=balanced",
         "label_smoothing=0.1")


@pytest.fixture
def go(program, root, tmp_path):
    (tmp_path / "dataset").symlink_to(root / "dataset")

    def go(*words, verb="train", status=0):
        done = program(verb, *words, cwd=tmp_path)
        assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())

    return go


def only_run(folder: Path, name: str) -> Run:
    return Run(next(Path(folder, name, "base").iterdir()))


def test_resume_is_exact_with_augmentation_metrics_and_a_weighted_loss(go, tmp_path):
    said = go(*SHORT, "trainer.max_epochs=2", "paths.runs=whole", "monitor=val_f1")
    assert "val_balanced_acc" in said and "best val_f1" in said, "on the epoch's line"
    go(*SHORT, "trainer.max_epochs=1", "paths.runs=parts", "monitor=val_f1")
    go(f"resume={only_run(tmp_path, 'parts').path}", "trainer.max_epochs=2", "calibrate=auto")
    whole, parts = only_run(tmp_path, "whole"), only_run(tmp_path, "parts")
    assert whole.rows == parts.rows and {"val_f1", "val_balanced_acc"} <= set(whole.rows[0])
    weights = [torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert parts.config["loss"]["weights"] != "balanced", "the config has the numbers that were in force"
    calm, plain = load_module(parts.last_checkpoint), load_module(whole.last_checkpoint)
    images = torch.randint(0, 256, (9, 28, 28), dtype=torch.uint8)
    assert calm.temperature == parts.provenance["temperature"] != 1 == plain.temperature
    assert torch.allclose(calm.eval()(images) * calm.temperature, plain.eval()(images), atol=1e-5)


def test_a_calibrated_run_says_the_same_when_evaluated_asked_exported_and_served(go, tmp_path, monkeypatch):
    go("trainer.accelerator=cpu", "model.hidden=[8]", "trainer.max_epochs=3", "label_smoothing=0.2", "calibrate=auto")
    monkeypatch.chdir(tmp_path)
    run = only_run(tmp_path, "runs")
    evaluation, exported = evaluate(run, draws=40), export(run)
    picture = f"dataset/{evaluation.paths[0]}"
    with serving(exported.path, cwd=tmp_path) as service: served = ask(service.address, "predict", Path(picture).read_bytes())[2]
    asked = [predict(model, picture, top=2).iloc[0] for model in (run, exported.path)]
    said = [{row["class"]: row["probability"], row["class_2"]: row["probability_2"]} for row in asked]
    said += [json.loads(served)["probabilities"], {"3": evaluate(exported.path, draws=40).probabilities[0]}]
    for answer in said: assert answer["3"] == pytest.approx(evaluation.probabilities[0], abs=1e-5)
    odds = evaluation.scores[0] * run.provenance["temperature"]
    assert abs(1 / (1 + math.exp(-odds)) - evaluation.probabilities[0]) > 0.01, "as it was before"


def test_after_an_epoch_that_max_steps_cut_short_the_next_one_is_whole(go, tmp_path):
    go("trainer.accelerator=cpu", "model.hidden=[4]", "trainer.max_steps=13")
    run = only_run(tmp_path, "runs")
    assert "Epoch 2 ended after 100 images; training goes on with the next" in go(f"resume={run.path}", "trainer.max_steps=31")
    assert [row["step"] for row in Run(run.path).rows] == [9, 13, 22, 31], "220 images in batches of 25"


def test_one_run_of_several_goes_on_alone(go, tmp_path):
    go("trainer.accelerator=cpu", "model.hidden=[4]", "trainer.max_epochs=1", "paths.runs=several", "seed=1,2", "-m")
    run = Run(min(Path(tmp_path, "several/base").iterdir()))
    sweep = run.config["sweep"]
    go(f"resume={run.path}", "calibrate=auto")
    again = Run(run.path)
    assert sweep and again.config["sweep"] == sweep and again.provenance["temperature"] != 1


@pytest.mark.parametrize("word, message", [
    ("loss.weigts=1", "Did you mean `weights`"), ("loss.weights={cat: 2}", "there is no class `cat`"),
    ("loss._target_=torch.nn.BCELoss", "fails on logits"), ("metrics.x._target_=torch.nn.Linear", "not a metric"),
    ("metrics=[f2]", "`f1`"), ("augment=[shift,flip]", "not a setting of Augment"),
    ("calibrate=yes", "calibrate"), ("augment.flip=2.0", "`augment.flip: 2.0` is out of range: from 0 to 1."),
    ("augment=crop augment.crop=500", "`augment.crop: 500` is out of range: here from 0 to 27."),
    ("augment=random augment.random=9", "out of range: from 0 to 6."), ("augment.rotate=200", "out of range: from 0 to 180."),
    ("augment.blur=3", "not a setting of Augment"),
])
def test_mistakes_are_one_sentence(go, word, message):
    words = [word] if "{" in word else word.split()
    assert message in go("trainer.max_epochs=1", *words, status=2)


OWN = """import pytorch_lightning as pl, torch, torchmetrics
from torch import nn
class Good(nn.Module):
    def __init__(self, num_classes: int = 2): super().__init__(); self.last = nn.Linear(784, num_classes)
    def forward(self, x): return self.last(x.flatten(1))
class Shape(Good):
    def forward(self, x): return self.last(x)
class Nothing(Good):
    def forward(self, x): self.last(x.flatten(1))
class Two(Good):
    def forward(self, x, y): return self.last(x.flatten(1))
class Frozen(Good):
    def forward(self, x): return self.last(x.flatten(1)).detach()
class Later(Good):
    seen = 0
    def forward(self, x):
        Later.seen += len(x)
        return super().forward({}["late"] if Later.seen > 400 else x)
class Step(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 0.1): super().__init__(params, {"lr": lr})
    def step(self): pass
class Loss(nn.Module):
    def __init__(self, weight: float): super().__init__(); self.weight = weight
    def forward(self, logits, labels): return ((logits - labels[:, None].expand(-1, 3)) ** 2 * self.weight).mean()
class Metric(torchmetrics.Metric):
    def update(self, p, y): self.seen = self.unknown + len(y)
    def compute(self): return self.seen
class Hook(pl.Callback):
    def on_train_batch_end(self, trainer, module): pass
class Logs(pl.Callback):
    def on_train_epoch_end(self, trainer, module): module.log("x", torch.zeros(3))
class Lost(nn.Module):
    def forward(self, x): x.clamp(9)
class Built(Good):
    def __init__(self): super().__init__(); self.size = self.width
class Rate(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self): return [lr / (3 - self.last_epoch) for lr in self.base_lrs]
class Bare(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer): self.size = 1
class BareStep(torch.optim.Optimizer):
    def __init__(self, params): self.size = 1
class BareMetric(torchmetrics.Metric):
    def __init__(self): self.size = 1
    def update(self, p, y): pass
    def compute(self): pass
class Data(pl.LightningDataModule):
    classes, image_shape, labels = ["x", "y"], [28, 28], ()
    def __init__(self, path: str = "", **other): super().__init__()
    def setup(self, stage=None): self.images = torch.zeros(9, 28, 28)
    def train_dataloader(self):
        return torch.utils.data.DataLoader([(x, torch.zeros(1).long(), *self.labels) for x in self.images[:, None]], None)
    def val_dataloader(self): return self.train_dataloader()
class Triple(Data):
    labels = (torch.zeros(1),)
class NoData(Data):
    def setup(self, stage=None): self.images = self.files
class NoVal(Data):
    def val_dataloader(self): pass
class Loses(nn.Module):
    def forward(self, x): return x[:-1]
class InPlace(Good):
    def forward(self, x):
        x = self.last(x.flatten(1)).sigmoid()
        y = x * x
        x.zero_()
        return y
"""


@pytest.mark.parametrize("words, told", [
    ("model._target_=own.Shape", r"RuntimeError: mat1.* own.py, line 7, in forward\(x \[25, 1, 28, 28\]\): def forward"),
    ("model._target_=own.Nothing", "`forward` returned NoneType, not a tensor."),
    ("model._target_=own.Two", r"TypeError: Two.forward\(\) missing 1 .*'y'. It is called as .* with images."),
    ("model._target_=own.Frozen", "Nothing is learnt: the loss hangs on no weight"),
    ("model._target_=own.Later", r"KeyError: 'late' own.py, line 18, in forward\(x \[25, 1, 28, 28\]\): return super"),
    ("model._target_=own.Built", "can't be built: 'Built' object has no attribute 'width' own.py, line 35, in __init__"),
    ("optimizer._target_=own.Step", "Step.step.. got an unexpected keyword argument 'closure'. It is called as its base class"),
    ("loss._target_=own.Loss", "`loss` lacks `weight`, which own.Loss needs."),
    ("loss._target_=own.Loss loss.weight=2", r"`loss` fails on .* own.py, line 24, in forward\(logits \[2, 2\], labels \[2\]\): "),
    ("metrics.m._target_=own.Metric", "`metrics.m` can't take .* own.py, line 26, in update"),
    ("callbacks.c._target_=own.Hook", "Hook.on_train_batch_end.. takes 3 positional arguments but 6 were given. It is called as"),
    ("callbacks.c._target_=own.Logs", "ValueError: .* own.py, line 31, in on_train_epoch_end"),
    ("augment._target_=own.Lost", "`augment` or the data gave NoneType, not a tensor."),
    ("scheduler._target_=own.Rate", "ZeroDivisionError: .* own.py, line 37, in get_lr"),
    ("scheduler._target_=own.Bare", r"'Bare' object has no .*'. Does its `__init__` call `super\(\).__init__\(\)`\?"),
    ("optimizer._target_=own.BareStep", r"'BareStep' object has no .*'. Does its `__init__` call `super"),
    ("metrics.m._target_=own.BareMetric", r"'BareMetric' object has no .*'. Does its `__init__` call `super"),
    ("augment._target_=own.Loses", r"Target size .*\). The network and `augment` must keep all images of a batch\."),
    ("datamodule._target_=own.NoData", r"AttributeError: 'NoData' object has no attribute 'files' own.py, line \d+, in setup"),
    ("datamodule._target_=own.NoVal", r"An invalid dataloader was returned from `NoVal.val_dataloader\(\)`. Found None."),
    ("datamodule._target_=own.Triple", "too many values to unpack .*. A batch is a pair of tensors: images and labels."),
    ("model._target_=own.InPlace", "modified by an inplace operation: "),
])
def test_a_mistake_in_code_of_ones_own_is_told_with_its_line_and_shapes(go, tmp_path, words, told):
    (tmp_path / "own.py").write_text(OWN)
    said = go("trainer.accelerator=cpu", "trainer.max_epochs=4", "trainer.num_sanity_val_steps=0", *words.split(), status=2)
    assert re.search(f"error: .*{told}", said) and len(said.partition("error: ")[2]) < 600, said


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_are_those_of_scikit_learn(classes):
    torch.manual_seed(classes)
    logits, labels = torch.randn(90, *([classes] if classes > 2 else [])), torch.randint(classes, (90,))
    metrics = build_metrics({"f1": {"_target_": "torchmetrics.classification.MulticlassF1Score", "average": "macro"},
                             "recall": {"_target_": "torchmetrics.classification.MulticlassRecall", "average": "macro"}}, classes)
    for part in (slice(0, 40), slice(40, 90)): update_metrics(metrics, logits[part], labels[part])
    found, guesses = read_metrics(metrics), (logits > 0).long() if classes == 2 else logits.argmax(1)
    assert found["f1"].item() == pytest.approx(f1_score(labels, guesses, average="macro"), abs=1e-6)
    assert found["recall"].item() == pytest.approx(balanced_accuracy_score(labels, guesses), abs=1e-6)


def test_balanced_weights_make_classes_equal():
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = torch.tensor(balanced_weights(labels, 2))
    assert torch.allclose(weights[labels][:90].sum(), weights[labels][90:].sum()) and weights[labels].mean() == pytest.approx(1)
    loss, names = torch.randn(100), ["a", "b"]
    assert build_loss({"weights": {"a": 1, "b": 1}}, 0, names)(loss, labels) == pytest.approx(
        torch.nn.functional.binary_cross_entropy_with_logits(loss, labels.float()).item(), rel=1e-5)
    with pytest.raises(UserError, match="3 numbers for 2 classes"): build_loss({"weights": [1, 2, 3]}, 0, names)
    with pytest.raises(UserError, match="label_smoothing"): build_loss({"_target_": "torch.nn.CrossEntropyLoss"}, 0.1, names)


@pytest.mark.parametrize("scale", [0.3, 1, 4])
def test_temperature_undoes_a_scale(scale):
    torch.manual_seed(1)
    logits = 2 * torch.randn(5000, 4)
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.06)


def test_a_temperature_out_of_a_file_is_a_number(tmp_path):
    module = MNISTModule({"model": {"hidden": [3]}})
    for wrong in ("0.5", 0.0, math.inf, -1.0, math.nan):
        torch.save({"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict(), "temperature": wrong},
                   tmp_path / "x.ckpt")
        with pytest.raises(UserError, match="temperature"): load_module(tmp_path / "x.ckpt")


def test_pixels_are_standardised_by_what_the_config_says():
    images = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8)
    data = {"image_shape": [3, 6, 5], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    module = MNISTModule({"datamodule": data, "model": {"hidden": []}}).eval()
    seen = (images / 255 - torch.tensor(data["mean"]).reshape(3, 1, 1)) / torch.tensor(data["std"]).reshape(3, 1, 1)
    assert torch.allclose(module(images), module(seen), atol=1e-5) and not {"mean", "std"} & set(module.state_dict())


def test_training_measures_mean_and_deviation_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split, name, low in (("train", "dark", 0), ("train", "light", 60), ("test", "dark", 0), ("test", "light", 60)):
        (folder := tmp_path / "data" / split / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers((low, 0, 100), (low + 90, 9, 250), (6, 7, 3), np.uint8)).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    run = train(load_config(None, "datamodule.path=data", "model.hidden=[3]", "trainer.max_epochs=1", "trainer.accelerator=cpu"))
    known, module = run.config["datamodule"], load(run).module
    dm = open_dataset(known)
    pixels = dm.dataset("train").images / 255
    assert np.allclose(known["mean"], pixels.mean((0, 2, 3)), atol=1e-4)
    assert np.allclose(known["std"], pixels.std((0, 2, 3)), atol=1e-4)
    assert module.mean.flatten().tolist() == pytest.approx(known["mean"])
    again = train(load_config(run.path / "config.yaml", "datamodule.val=0.5"))
    assert again.config["datamodule"]["mean"] == known["mean"], "what a run was made with stays, whatever is measured now"
    grey = train(load_config(None, "datamodule.path=data", "datamodule.color=grey", "datamodule.mean=0", "datamodule.std=1.0",
                             "model.hidden=[3]", "trainer.max_epochs=1", "trainer.accelerator=cpu"))
    module = load(grey).module
    assert torch.allclose(module(images := torch.randint(0, 256, (4, 6, 7), dtype=torch.uint8)), module(images / 255), atol=1e-6)
    with pytest.raises(UserError, match="std"): train(load_config(None, "datamodule.path=data", "datamodule.std=[0,1,1]"))


@pytest.mark.parametrize("shape", [(5, 9, 14), (5, 3, 16, 12), (5, 1, 7, 7)])
@pytest.mark.parametrize("settings", [{"flip": 0.5}, {"crop": 3}, {"rotate": 20.0}, {"zoom": 0.3}, {"colour": 0.3}, {"erase": 0.5},
                                      {"flip": 0.5, "rotate": 9.0, "erase": 1.0, "random": 2}])
def test_augmentation_keeps_kind_and_shape_and_repeats(shape, settings):
    images, change = torch.randint(0, 256, shape, dtype=torch.uint8), Augment(**settings)
    torch.manual_seed(3)
    first = change(images)
    torch.manual_seed(3)
    assert first.shape == images.shape and first.dtype == torch.uint8 and torch.equal(first, change(images))
    assert not torch.equal(change(images), change(images)), "another time, another change"


# ---- a network of timm's

def photos(folder: Path, classes=("dark", "light"), count=20) -> str:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for low, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(60 * low, 60 * low + 90, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return f"datamodule.path={folder}"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    if find_spec("timm") is None: pytest.skip("timm is not here: pip install timm safetensors")
    from safetensors.torch import save_file

    from dlops_mnist.parts.backbone import Timm

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    network = Timm([3, 32, 32], 10, "test_resnet")
    save_file(network.net.state_dict(), tmp_path / "tiny.safetensors")
    torch.save(network.net.state_dict(), tmp_path / "tiny.pth")
    settings = (photos(tmp_path / "photos"), "model=timm", "model.name=test_resnet", "datamodule.resize=[32,32]",
                "trainer.max_epochs=1",
                "trainer.accelerator=cpu")
    return network.net.state_dict(), settings


@pytest.mark.parametrize("file", ["tiny.safetensors", "tiny.pth"])
def test_a_frozen_backbone_keeps_the_weights_of_its_file(tiny, file, capsys):
    then, settings = tiny
    run = train(load_config(None, *settings, f"weights={file}", "model.freeze=true", "optimizer.lr=0.1"))
    now, data = load(run).module.model.net.state_dict(), run.config["datamodule"]
    assert {name for name in now if not torch.equal(now[name].cpu(), then[name])} == {"fc.weight", "fc.bias"}
    said = " ".join(capsys.readouterr().out.split())
    assert "these begin afresh: model.net.fc.weight [2, " in said and "these don't fit: fc." in said and "fc.weight [10, " in said
    assert data["mean"] == data["std"] == [0.5] * 3 and data["resize"] == [32, 32] and data["image_shape"] == [3, 32, 32]
    other = train(load_config(None, *settings[1:], photos(Path("more"), ("a", "b", "c")), f"weights={run.path}"))
    assert "these begin afresh: model.net.fc.weight [3, " in " ".join(capsys.readouterr().out.split())
    assert other.config["datamodule"]["mean"] != [0.5] * 3, "weights of our own bring no habits"


def test_a_backbone_may_learn_more_slowly(tiny):
    then, settings = tiny
    run = train(load_config(None, *settings, "weights=tiny.pth", "model.backbone_lr=0.0001", "optimizer=sgd",
                            "optimizer.momentum=0.0",
                             "optimizer.lr=0.1", "scheduler=onecycle"))
    state = torch.load(run.last_checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert state[0]["max_lr"] == pytest.approx(0.1) and state[1]["max_lr"] == pytest.approx(0.0001)
    assert len(state[1]["params"]) > 10 * len(state[0]["params"])
    now = load(run).module.model.net.state_dict()
    assert not torch.equal(now["conv1.0.weight"].cpu(), then["conv1.0.weight"])


def test_of_timm_only_its_own_names_are_taken(tiny):
    for name, hint in (("test_resnit", "Did you mean `test_resnet`"), ("hf-hub:some/body", "no network"),
                       ("local-dir:/tmp", "no network")):
        with pytest.raises(UserError, match=hint): train(load_config(None, *tiny[1], f"model.name='{name}'"))
    Path("bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="damaged"): train(load_config(None, *tiny[1], "weights=bad.safetensors"))


def test_timm_is_had_without_torchvision_and_nothing_stays(tiny):
    from dlops_mnist.parts.backbone import StandIns

    assert not any(isinstance(finder, StandIns) for finder in sys.meta_path)
    assert not any(type(module).__name__ == "_StandIn" for module in sys.modules.values())


def test_a_balanced_sampler_and_a_word_where_nothing_was_learnt(tmp_path, monkeypatch, capsys):
    photos(tmp_path / "photos", ("dark",), count=100)
    photos(tmp_path / "photos", ("light",), count=10)
    monkeypatch.chdir(tmp_path)
    short = ("datamodule.path=photos", "model.hidden=[3]", "trainer.max_epochs=1", "trainer.accelerator=cpu",
             "datamodule.batch_size=8")
    dm = open_dataset(train(load_config(None, *short, "datamodule.sampler=balanced")).config["datamodule"])
    drawn = torch.cat([labels for _, labels in dm.train_dataloader()])
    labels = dm.dataset("val").labels
    for right, word in (((labels == 0).mean(), True), ((labels == 0).mean() + 0.01, False)):
        capsys.readouterr()
        note_result(SimpleNamespace(best={"val_acc": float(right)}), dm)
        assert ("no better than always naming the commonest class, `dark`" in " ".join(capsys.readouterr().out.split())) == word
    for named, word in (((90, 0), True), ((89, 1), False), ((), False)):
        note_result(SimpleNamespace(best={"val_acc": 0.99}), dm, named)
        assert ("never named `light` in its last validation" in " ".join(capsys.readouterr().out.split())) == word
    assert len(drawn) == len(dm.dataset("train")) and abs(2 * int(drawn.sum()) - len(drawn)) <= 1
    assert sum(len(labels) for _, labels in dm.val_dataloader()) == len(dm.dataset("val")), "validation sees each image once"
    with pytest.raises(UserError, match="balanced or null"): train(load_config(None, *short, "datamodule.sampler=balance"))


class Without(nn.Module):
    "A loss without a gradient."
    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, logits, labels): return 1.0 if self.kind == "number" else logits.detach().mean()


class Count(torchmetrics.Metric):
    "How many images there were, as a number of Python's."
    def __init__(self):
        super().__init__()
        self.add_state("seen", torch.zeros(1), dist_reduce_fx="sum")

    def update(self, probabilities, labels): self.seen += len(labels)
    def compute(self): return float(self.seen)


def test_what_is_measured_anyway_is_no_name_for_a_metric_and_a_number_is_one():
    for name in ("acc", "loss"):
        with pytest.raises(UserError, match=f"`metrics.{name}`: {name} is measured anyway"):
            build_metrics({name: {"_target_": f"{__name__}.Count"}}, 2)
    metrics = build_metrics({"count": {"_target_": f"{__name__}.Count"}, "acc": None}, 2)
    update_metrics(metrics, torch.zeros(5), torch.zeros(5, dtype=torch.long))
    assert read_metrics(metrics) == {"count": 5}


@pytest.mark.filterwarnings("error")
def test_a_loss_of_ones_own_is_tried_in_silence():
    assert build_loss({"_target_": "torch.nn.MultiMarginLoss"}, 0.0, ["a", "b"])(torch.zeros(3), torch.ones(3).long()) == 0.5


@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_a_loss_without_a_gradient_is_refused(kind):
    with pytest.raises(UserError, match=r"`loss` fails on logits \[B, 2\] and labels \[B\]: "):
        build_loss({"_target_": f"{__name__}.Without", "kind": kind}, 0.0, ["a", "b"])
