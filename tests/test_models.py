"Networks and MNISTModule as black boxes: exact metrics, identical weights, and checkpoints that run nobody's code."

import logging
import os
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dlops_mnist.config import load_config
from dlops_mnist.models import MNISTModule, load_module
from dlops_mnist.networks import (
    CNN,
    MEAN,
    MLP,
    STD,
    EpochMetrics,
    classification_loss,
    fit,
    predicted_labels,
    to_input,
)
from dlops_mnist.parts.core import UserError, plain

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False}


def random_data(count: int, shape=(8, 8), classes: int = 2):
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, classes, (count,), generator=generator)


def loader(count=53, batch_size=10, **kwargs) -> DataLoader:
    # the loader's own generator: an iterator draws one number from the global one otherwise
    return DataLoader(TensorDataset(*random_data(count, **kwargs)), batch_size, generator=torch.Generator())


def small(**sections) -> dict:
    data = {"image_shape": [8, 8], **sections.pop("datamodule", {})}
    return {"datamodule": data, "model": {"hidden": [6]}} | sections


def trained(config: dict, epochs: int = 2, callbacks=(), data=None, **trainer):
    data, module = data or loader(), MNISTModule(config)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), **QUIET | trainer)
    trainer.fit(module, data, data)
    return module, trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    config = small(model={"_target_": "dlops_mnist.models.CNN", "filters": [3]}, seed=0,
                   optimizer={"name": "Adam", "lr": 3e-4},
                   datamodule={"path": Path("dataset"), "classes": ("a", "b", "c")})
    module, trainer = trained(config, epochs=1, data=loader(classes=3))
    trainer.save_checkpoint(path := tmp_path_factory.mktemp("checkpoints") / "final.ckpt")
    return path


def altered(checkpoint: Path, path: Path, **changes) -> Path:
    torch.save(torch.load(checkpoint, weights_only=True) | changes, path)
    return path


# --- networks ---------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(channels=st.sampled_from([None, 1, 3]), height=st.integers(4, 20), width=st.integers(4, 20),
       classes=st.integers(2, 11), depth=st.integers(0, 2), batch=st.integers(1, 3),
       network=st.sampled_from([MLP, CNN]), dropout=st.sampled_from([0, 0.3]))
def test_any_image_shape_and_number_of_classes(channels, height, width, classes, depth, batch, network, dropout):
    shape = [channels, height, width] if channels else [height, width]
    model = network([3] * depth, shape, classes, dropout)
    images = random_data(batch, shape)[0]
    assert model(images).shape == ((batch,) if classes == 2 else (batch, classes))
    assert torch.equal(model.eval()(images), model((images.float() / 255 - MEAN) / STD)), "pixels are scaled, floats are not"


@pytest.mark.parametrize("shape, most", [([28, 28], 4), ([8, 31], 3), ([3, 64, 1], 0)])
def test_too_many_blocks_is_one_clear_error(shape, most):
    assert CNN([2] * most, shape)(torch.zeros(1, *shape)).shape == (1,)
    with pytest.raises(UserError, match=f"Use at most {most}"): CNN([2] * (most + 1), shape)


@pytest.mark.parametrize("section, message", [
    ({"hidden": [0]}, "at least one unit"), ({"hiden": [3]}, "hidden"), ({"hidden": "many"}, "model.hidden"),
    ({"dropout": 2.0}, "model"), ({"classes": 7}, "set by the program"), ("MLP", "must be a section"),
    ({"_target_": "dlops_mnist.models.MLPP"}, "MLP"), ({"_target_": "os.system", "command": "true"}, "os.system"),
    ({"_target_": "torch.optim.Adam"}, "is not a model"),
])
def test_mistakes_in_the_model_section(section, message):
    with pytest.raises(UserError, match=message): MNISTModule(small(model=section))


def test_network_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "class Told(nn.Module):\n"
        "    def __init__(self, classes, width=2):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Conv2d(1, width, 8), nn.Flatten(), nn.Linear(width, classes))\n"
        "    def forward(self, x): return self.layers(x)\n"
        "class Untold(nn.Sequential):\n"
        "    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(64, 3))\n")
    monkeypatch.syspath_prepend(tmp_path)
    images = random_data(5)[0]
    three = small(model={"_target_": "own_networks.Told", "width": 4}, datamodule={"classes": ["x", "y", "z"]})
    assert MNISTModule(three)(images).shape == (5, 3)
    assert MNISTModule(three | {"model": {"_target_": "own_networks.Untold"}})(images).shape == (5, 3)
    with pytest.raises(UserError, match=r"Untold gives outputs of shape \[B, 3\]; 2 classes need"):
        MNISTModule(small(model={"_target_": "own_networks.Untold"}))(images)


# --- metrics ----------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), classes=st.integers(2, 4), seed=st.integers(0, 99))
def test_metrics_are_means_over_images(sizes, classes, seed):
    generator, count = torch.Generator().manual_seed(seed), sum(sizes)
    logits = torch.randn(count, *([classes] if classes > 2 else []), generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    metrics = EpochMetrics()
    for z, y in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metrics.update(classification_loss(z, y), z, y)
    means = metrics.means(metrics.sums())
    assert means["loss"].item() == pytest.approx(classification_loss(logits, labels).item(), rel=1e-5)
    assert means["acc"].item() == pytest.approx((predicted_labels(logits) == labels).float().mean().item())


class Watch(pl.Callback):
    "Notes what any callback sees at the end of an epoch, and what validation hands on."

    def __init__(self): self.rows, self.outputs = [], []

    def on_validation_batch_end(self, trainer, module, outputs, *args): self.outputs.append(outputs)

    def on_train_epoch_end(self, trainer, module):
        self.rows.append({name: value.item() for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("model", [{"hidden": [6], "dropout": 0.5}, {"name": "CNN", "filters": [3], "dropout": 0.5}])
@pytest.mark.parametrize("classes", [2, 4])
def test_lightning_and_the_plain_loop_agree_bit_for_bit(model, classes):
    names = [str(c) for c in range(classes)]
    config = small(model=model, datamodule={"classes": names}, optimizer={"name": "Adam", "lr": 0.01})
    data = loader(classes=classes)
    torch.manual_seed(7)
    by_hand = MNISTModule(config)
    history = fit(by_hand, {"train": data, "val": data}, 3, by_hand.configure_optimizers(), progress=False)
    torch.manual_seed(7)
    by_lightning, _ = trained(config, 3, [watch := Watch()], data)
    assert all(torch.equal(a, b) for a, b in zip(by_hand.parameters(), by_lightning.parameters(), strict=True))
    # a callback's own on_train_epoch_end finds all metrics of this epoch, and they are the plain loop's
    assert watch.rows == [{name: value for name, value in row.items() if name != "epoch"} for row in history]
    assert set(watch.outputs[0]) == {"loss", "logits", "labels"} and len(watch.outputs[-1]["labels"]) == 53 % 10


def test_an_epoch_cut_short_is_measured_too():
    _, trainer = trained(small(), epochs=5, max_steps=8)
    assert {"loss", "acc"} <= set(trainer.callback_metrics)


def test_validate_and_test_measure_the_whole_set():
    module, data = MNISTModule(small()), loader()
    images, labels = data.dataset.tensors
    loss = classification_loss(module(images), labels).item()
    trainer = pl.Trainer(**QUIET)
    assert trainer.test(module, data, verbose=False)[0]["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.validate(module, data, verbose=False)[0]["val_loss"] == pytest.approx(loss, rel=1e-5)
    answers = (module(images) > 0).long()
    assert module.named.tolist() == torch.bincount(answers, minlength=2).tolist(), "how often each class was named"


# --- the module -------------------------------------------------------------------------------------------------------

def test_predict_leaves_every_mode_and_gradient_as_it_was():
    module, images = MNISTModule(small(model={"hidden": [6], "dropout": 0.5})), random_data(5)[0]
    module.model.layers[0].eval()  # a part that is frozen while the rest trains
    before = [part.training for part in module.modules()]
    first, second = module.predict(images), module.predict(to_input(images))
    assert torch.equal(first, second) and not first.requires_grad
    assert [part.training for part in module.modules()] == before and len(set(before)) == 2
    with pytest.raises(UserError, match="takes images of shape"): module.predict(random_data(5, (9, 9))[0])
    assert [part.training for part in module.modules()] == before, "also after a mistake"


class Own(nn.Module):
    "A network of somebody's own, with the names that most others have."

    def __init__(self, num_classes: int, in_channels: int = 1, image_shape: tuple = (28, 28)):
        super().__init__()
        self.last = nn.Linear(image_shape[-1] ** 2 * in_channels, num_classes)

    def forward(self, images): return self.last(images.flatten(1))


@pytest.mark.parametrize("section", [{}, {"num_classes": None, "in_channels": None, "image_shape": None}])
def test_a_network_is_told_what_it_has_parameters_for(section):
    section = {"_target_": f"{__name__}.Own", **section}
    assert load_config({"model": section})["model"] == section, "checked without a value"
    many = MNISTModule(small(model=section, datamodule={"image_shape": [3, 8, 8], "classes": list("abc")}))
    assert (many.model.last.in_features, many.model.last.out_features) == (192, 3)
    two = MNISTModule(small(model=section))
    images = random_data(20)[0]
    assert torch.allclose(two.predict(images), two.model(to_input(images)).softmax(dim=1)[:, 1], atol=1e-6)
    module, trainer = trained(small(model=section))
    assert module.model.last.out_features == 2 and trainer.callback_metrics["val_acc"] > 0.3


@pytest.mark.parametrize("network, change, said", [
    (nn.Softmax(1), None, ["the outputs of each image sum to 1"]),
    (nn.LogSoftmax(1), None, []),
    (nn.Sigmoid(), None, []),
    (nn.ReLU(), None, []),
    (nn.Identity(), lambda images: images / 255, ["`augment` turns whole pixels into floats"]),
    (nn.Identity(), lambda images: images.float(), ["`augment` turns whole pixels into floats"]),
    (nn.Identity(), lambda images: (images.double() / 255 - 0.13) / 0.3, []),
    (nn.Identity(), lambda images: images.flip(-1), []),
])
def test_what_would_train_on_in_silence_is_told_once(network, change, said, capsys):
    data = DataLoader(TensorDataset(torch.randint(256, (64, 8, 8), dtype=torch.uint8), torch.arange(64) % 4), batch_size=32)
    module = MNISTModule({"datamodule": {"classes": [*"abcd"], "image_shape": [8, 8]}})
    module.model = nn.Sequential(module.model, network)
    module.augment = change
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(max_epochs=2, accelerator="cpu", accumulate_grad_batches=2, **silent).fit(module, data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("CAREFUL")]
    assert len(lines) == len(said) and all(text in line for text, line in zip(said, lines)), lines


def test_a_number_of_outputs_that_is_given_stays():
    one = MNISTModule(small(model={"_target_": f"{__name__}.Own", "num_classes": 1}))
    assert one.predict(random_data(4)[0]).shape == (4,) and one.model.last.out_features == 1
    with pytest.raises(UserError, match=r"shape \[B, 4\]; 2 classes need \[B\], \[B, 1\] or \[B, 2\]"):
        MNISTModule(small(model={"_target_": f"{__name__}.Own", "num_classes": 4})).predict(random_data(4)[0])


def test_probabilities():
    binary, many = MNISTModule(small()), MNISTModule(small(datamodule={"classes": list("abc")}))
    assert binary.logits_to_probs(torch.tensor([0.0, 100.0])).tolist() == [0.5, 1.0]
    assert torch.allclose(many.predict(random_data(4)[0]).sum(dim=1), torch.ones(4))


class Falling(torch.optim.lr_scheduler.LambdaLR):
    "A schedule of somebody's own."

    def __init__(self, optimizer, max_steps: int | None = None):
        super().__init__(optimizer, lambda step: 1 - step / max_steps)


@pytest.mark.parametrize("scheduler, rates", [
    ({"name": "CosineAnnealingLR", "T_max": None}, [1, 0.75, 0.25]),  # null: three epochs
    ({"name": "StepLR", "step_size": 1, "gamma": 0.5, "strict": True}, [1, 0.5, 0.25]),
    ({"_target_": "torch.optim.lr_scheduler.LinearLR", "start_factor": 1.0, "end_factor": 0.1, "total_iters": None,
      "interval": "step"}, [1, 0.7, 0.4]),  # null: 18 steps, of which 6 an epoch
    ({"name": "ReduceLROnPlateau", "patience": 0, "mode": "max", "monitor": "loss"}, [1, 1, 0.1]),
    ({"name": "CosineAnnealingLR"}, [1, 0.75, 0.25]),  # a length without a value, too
    ({"_target_": f"{__name__}.Falling", "interval": "step"}, [1, 2 / 3, 1 / 3]),
    ({"_target_": f"{__name__}.Falling", "max_steps": 4}, [1, 0.75, 0.5]),
])
def test_schedulers(scheduler, rates):
    seen = []

    class Rates(pl.Callback):
        def on_train_epoch_start(self, trainer, module): seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    # so small a rate that the loss hardly moves: what is measured is the schedule
    trained(small(scheduler=scheduler, optimizer={"name": "SGD", "lr": 1e-3}), 3, [Rates()])
    assert seen == pytest.approx([1e-3 * rate for rate in rates])


def test_endless_training_needs_a_length():
    with pytest.raises(UserError, match="scheduler.total_steps"):
        trained(small(scheduler={"name": "OneCycleLR", "max_lr": 0.1}), epochs=-1, max_steps=3)


# --- checkpoints ------------------------------------------------------------------------------------------------------

class Color(Enum):
    RED = "red"


def test_plain():
    numbers = [np.float32(0.5), np.int64(3), True, None]
    given = {"p": Path("a/b"), "t": (1, {2}), "n": numbers, 1: {"deep": np.str_("s")}}
    made = plain(given)
    assert made == {"p": os.path.join("a", "b"), "t": [1, [2]], "n": [0.5, 3, True, None], 1: {"deep": "s"}}
    assert [type(value) for value in made["n"]] == [float, int, bool, type(None)] and type(made[1]["deep"]) is str
    for value in (nn.ReLU(), torch.zeros(2), Color.RED, print):
        with pytest.raises(UserError, match=r"config\.a\[0\]"): plain({"a": [value]})


def test_a_checkpoint_needs_no_other_argument(checkpoint):
    module, images = MNISTModule.load_from_checkpoint(checkpoint), random_data(4)[0]
    assert module.hparams["datamodule"] == {"image_shape": [8, 8], "path": "dataset", "classes": ["a", "b", "c"]}
    assert module.hparams["seed"] == 0 and module.classes == ["a", "b", "c"]
    assert set(torch.load(checkpoint, weights_only=True)["hyper_parameters"]) == set(module.hparams)
    loaded = load_module(checkpoint)
    assert torch.equal(loaded.predict(images), module.predict(images)) and not loaded.training


def test_a_subclass_loads_in_the_same_way(checkpoint, tmp_path):
    class Mine(MNISTModule):
        def __init__(self, config, extra=1):
            super().__init__(config)

    module = Mine(small(datamodule={"path": Path("x"), "classes": ("a", "b")}))
    trainer = pl.Trainer(**QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    assert Mine.load_from_checkpoint(tmp_path / "mine.ckpt").hparams == module.hparams


class Bomb:
    def __init__(self, path): self.path = str(path)

    def __reduce__(self): return os.mkdir, (self.path,)


def test_no_checkpoint_runs_code(checkpoint, tmp_path):
    boom = tmp_path / "boom"
    settings = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    command = {"_target_": "os.mkdir", "path": str(boom)}
    pickled = altered(checkpoint, tmp_path / "pickled.ckpt", callbacks=Bomb(boom))
    with pytest.raises(UserError, match="could run code"): load_module(pickled)
    with pytest.raises(UserError, match="could run code"): MNISTModule.load_from_checkpoint(pickled)
    for i, model in enumerate([command, {"hidden": command}, settings["model"] | {"dropout": [command]},
                               {"_target_": "torch.nn.Sequential", "_args_": [command]}]):
        evil = altered(checkpoint, tmp_path / f"evil{i}.ckpt", hyper_parameters=settings | {"model": model})
        for load in (load_module, MNISTModule.load_from_checkpoint):
            with pytest.raises(UserError, match="model"): load(evil)
    evil = altered(checkpoint, tmp_path / "evil.ckpt", hyper_parameters=settings | {"_instantiator": "os.mkdir"})
    assert load_module(evil).classes == ["a", "b", "c"], "a setting like any other, which nobody reads"
    assert not boom.exists()
    load_module(altered(checkpoint, tmp_path / "good.ckpt"))  # and the way of altering it is not what was refused


def test_files_that_are_no_checkpoint(checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    files = {"text": b"hello", "empty": b"", "short": whole[:-100], "half": whole[:3000]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name): load_module(tmp_path / name)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="There is no checkpoint"): load_module(path)
    weights = {"weights": torch.zeros(2)}
    torch.save(weights, tmp_path / "plain_weights")
    with pytest.raises(UserError, match="no checkpoint of MNISTModule"): load_module(tmp_path / "plain_weights")
    for i, changes in enumerate([{"state_dict": weights}, {"state_dict": [1]}, {"hyper_parameters": {"lr": 1}},
                                 {"hyper_parameters": [1]}, {"hyper_parameters": {"datamodule": {"image_shape": 3}}}]):
        other = altered(checkpoint, tmp_path / f"other{i}", **changes)
        with pytest.raises(UserError, match=f"other{i}"): load_module(other)


def test_a_layer_may_keep_a_state_of_its_own(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(MLP, "get_extra_state", lambda self: {"seen": np.float32(3)}, raising=False)
    monkeypatch.setattr(MLP, "set_extra_state", lambda self, state: seen.append(state), raising=False)
    _, trainer = trained(small(), epochs=1)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    load_module(tmp_path / "own.ckpt")
    assert seen == [{"seen": 3.0}]
