"""Limits, signs and shares, exactly: where a small fault (`make mutants`) would change a result that no larger test looks at."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from dlops_mnist.config import load_config
from dlops_mnist.inspection import oddities
from dlops_mnist.models import MNISTModule
from dlops_mnist.networks import predicted_labels, to_input
from dlops_mnist.parts import augment, ink
from dlops_mnist.parts.callbacks import epoch_line, interleave
from dlops_mnist.parts.command import parse_override, show_table
from dlops_mnist.parts.compare import compare_recipes, difference_interval, is_luck
from dlops_mnist.parts.core import UserError, check_name, nearest, plain
from dlops_mnist.parts.folder import fingerprint
from dlops_mnist.parts.metrics import weighed_metrics
from dlops_mnist.parts.provenance import lines, made_by, what_differs
from dlops_mnist.parts.runfolder import Run, best_row, better, is_epoch_end, new_run, run_status
from dlops_mnist.parts.settings import base_config
from dlops_mnist.parts.store import state_of

# --- what is better, what is right ---

@pytest.mark.parametrize("mode, worse, same, more", [("min", 3.0, 2.0, 1.0), ("max", 1.0, 2.0, 3.0)])
def test_less_or_more_is_better(mode, worse, same, more):
    assert better(more, 2.0, mode) and better(same, 2.0, mode) and not better(worse, 2.0, mode)
    assert better(worse, None, mode) and not better(math.nan, None, mode) and not better(math.nan, 2.0, mode)
    rows = [{"epoch": i, "x": value} for i, value in enumerate((worse, more, more, worse))]
    assert best_row([*rows, {"epoch": 9}], "x", mode)["epoch"] == 2, "the last of equals"
    assert best_row(rows, "y", mode) == {}


def test_an_epochs_end_tells_of_more_than_the_validation_set():
    assert not is_epoch_end({"epoch": 0, "step": 3, "val_loss": 1.0, "val_acc": 0.5})
    assert is_epoch_end({"epoch": 0, "step": 3, "loss": 1.0}) and is_epoch_end({"epoch": 0, "step": 3, "lr": 1.0})
    assert is_epoch_end({"epoch": 0, "step": 3, "val_acc": 0.5, "acc": 0.5})


def test_the_label_of_logits():
    assert predicted_labels(torch.tensor([-1.0, 0.0, 0.1])).tolist() == [0, 0, 1]
    assert predicted_labels(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])).tolist() == [1, 0]


def test_a_temperature_divides_the_logits_outside_of_training():
    module = MNISTModule({"datamodule": {"classes": ["a", "b", "c"], "image_shape": [4, 4]}}).eval()
    images = torch.randint(0, 255, (3, 4, 4), dtype=torch.uint8)
    plain_logits, module.temperature = module(images), 2.0
    assert torch.allclose(module(images), plain_logits / 2)
    module.train()
    assert torch.allclose(module(images), plain_logits), "the loss is that of the raw logits"


def test_pixels_are_standardised_and_floats_pass():
    pixels = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    assert to_input(pixels, mean=0.5, std=0.25).flatten().tolist() == pytest.approx([-2, 2, -1.2, -0.4])
    assert to_input(pixels.float(), mean=0.5, std=0.25).flatten().tolist() == [0, 255, 51, 102]
    assert to_input(pixels).shape == to_input(pixels.unsqueeze(1)).shape == (1, 1, 2, 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_weighed_metrics_with_equal_weights_are_the_usual_ones(classes):
    rng = np.random.default_rng(1)
    p, labels = rng.dirichlet(np.ones(classes), 60), np.arange(60) % classes
    areas = np.array([roc_auc_score(labels == k, p[:, k]) for k in range(classes)][-1 if classes == 2 else 0 :])
    losses, weights = -np.log(p[np.arange(60), labels]), np.append(np.ones(60), np.zeros(classes))[:, None]
    imagined = np.append(labels, range(classes)), np.vstack([p, np.eye(classes)]), np.append(losses, [9] * classes)
    loss, auc, brier, mcc = weighed_metrics(weights, *imagined, imagined[1])[:, 0]
    squares = ((p - np.eye(classes)[labels]) ** 2).sum(1).mean()
    assert (loss, auc, brier) == pytest.approx((losses.mean(), areas.mean(), squares / (2 if classes == 2 else 1)))
    assert mcc == pytest.approx(matthews_corrcoef(labels, p.argmax(1)))


# --- comparisons ---

def test_the_interval_of_a_difference():
    low, high = difference_interval(10, 4, 98)  # Agresti and Min: 11 and 5 of 100
    half = 1.96 * math.sqrt((0.16 - 0.06**2) / 100)
    assert (low, high) == pytest.approx((0.06 - half, 0.06 + half))
    assert difference_interval(1, 0, 1)[1] == 1.0 and difference_interval(0, 1, 1)[0] == -1.0


def test_only_the_seed_differs():
    assert is_luck({"seed": 1, "a": {"b": 2}}, {"seed": 2, "a": {"b": 2}}) and is_luck({"x": {"seed": 1}}, {"x": {"seed": 2}})
    assert not is_luck({"seed": 1}, {"seed": 1}) and not is_luck({"seed": 1, "a": 1}, {"seed": 2, "a": 2})
    assert is_luck({"seed": 1, "paths": {"runs": "a"}}, {"seed": 2, "paths": {"runs": "b"}})


def test_two_recipes_by_the_smaller_groups_degrees_of_freedom():
    def runs(*accuracies):
        rights = [np.arange(1000) < 1000 * accuracy for accuracy in accuracies]
        return [SimpleNamespace(accuracy=right.mean(), right=right) for right in rights]

    few, many = runs(0.80, 0.82), runs(0.70, 0.71, 0.72, 0.73)
    text = compare_recipes(few, many)
    luck = math.sqrt(np.var([0.80, 0.82], ddof=1) / 2 + np.var([0.70, 0.71, 0.72, 0.73], ddof=1) / 4)
    assert f"by ±{100 * 12.7062 * luck:.1f}, the 1,000 images" in text, "t with one degree of freedom"
    assert text.endswith("So these runs can't tell.") and "A is +9.5 points from B" in text
    even = compare_recipes(runs(0.9, 0.9, 0.901), runs(0.5, 0.5, 0.501))
    assert even.endswith("So A is the better recipe.")


# --- images ---

def test_a_crop_moves_no_farther_than_the_image_allows():
    image = torch.arange(12.0).reshape(1, 1, 3, 4).repeat(64, 1, 1, 1)
    torch.manual_seed(0)
    out = augment.changed_by("crop", 9, image)  # by at most 2, for 3 rows
    assert out.shape == image.shape and len({tuple(x.flatten().tolist()) for x in out}) > 9
    one = augment.moved(image, 1)
    assert {x[0, 1, 1].item() for x in one} == {0, 1, 2, 4, 5, 6, 8, 9, 10}, "each place within one pixel"


@pytest.mark.parametrize("settings, wrong", [
    ({"flip": 1.0}, False), ({"flip": 1.1}, True), ({"erase": 1.0}, False), ({"erase": 1.01}, True), ({"zoom": 0.99}, False),
    ({"zoom": 1.0}, True), ({"colour": 1.0}, True), ({"crop": -1}, True), ({"rotate": 180}, False), ({"rotate": 200}, True),
    ({"random": -1}, True),
])
def test_strengths_that_are_out_of_range(settings, wrong):
    if wrong:
        with pytest.raises(UserError, match="out of range"): augment.Augment(**settings)
    else: assert augment.Augment(**settings).random == 0


def test_classes_are_unbalanced_from_ten_to_one_on():
    def notes(few, many):
        images = np.random.default_rng(0).integers(0, 255, (few + many, 3, 3), np.uint8)
        data = {"images": images, "labels": np.array([0] * few + [1] * many)}
        return oddities(SimpleNamespace(splits={"train": data}, classes=["cat", "dog"]))

    assert not notes(2, 19) and not notes(0, 19)
    assert "and 1 image of `cat`:" in notes(1, 20)[0]
    assert notes(2, 20) == ["train is unbalanced, with 20 images of `dog` and 2 images of `cat`: accuracy alone misleads"]


def test_what_a_page_must_know_of_a_drawing():
    images = np.zeros((3, 20, 20), np.uint8)
    for shift in (0, 1, 2): images[shift, 4:12, 6 + shift : 8 + shift] = 255  # a stroke of 2 by 8
    facts = ink.ink_facts(images)
    assert facts | {"pen": 0} == {"background": 0, "ink": 255, "box": 8, "by": "mass", "centre": [7.5, 7.5], "pen": 0}
    assert facts["pen"] == round(8 / math.pi * 16 / 20, 1)
    assert ink.ink_facts(255 - images)["ink"] == 0 and ink.ink_facts(255 - images)["background"] == 255
    assert ink.ink_facts(np.random.default_rng(0).integers(0, 255, (3, 20, 20)).astype(np.uint8)) == {}, "no paper"
    assert ink.ink_facts(np.zeros((3, 20, 20), np.uint8)) == {} and ink.ink_facts(images[:0]) == {}
    colour = np.stack([images] * 3, 1)
    assert ink.ink_facts(colour) == facts
    far = np.zeros((10, 20, 20), np.uint8)
    for i in range(10): far[i, 1 + i : 3 + i, 1 + i : 3 + i] = 255
    assert ink.ink_facts(far)["by"] is None, "they lie anywhere"


def test_paper_is_what_most_of_the_edge_shows():
    half = np.zeros((1, 10, 10), np.uint8)
    half[:, :, 5:] = 200
    assert ink.paper(half) is None or ink.paper(half) == 0
    assert ink.paper(np.full((2, 5, 5), 31, np.uint8)) == 31
    assert ink.centres(np.ones((1, 3, 5)))[0].tolist() == [1, 2]


# --- tables, lines and names ---

def test_numbers_stand_on_the_right(capsys):
    show_table(["name", "count", "text"], [["a", 1, "7"], ["bbb", 100, "12"]], right=["text"])
    assert capsys.readouterr().out.splitlines() == ["name  count  text", "a         1     7", "bbb     100    12"]
    show_table(["name", "n"], [], "title")
    assert capsys.readouterr().out.splitlines() == ["", "title", "name  n"]


def test_an_epochs_line():
    assert epoch_line(0, 3, {"loss": 0.123456}) == "epoch 1/3     loss 0.1235"
    assert epoch_line(1, -1, {"acc": 1.0}, step=8) == "epoch 2 step 8  acc 1"
    assert epoch_line(4, None, {}) == "epoch 5     "


def test_parts_of_several_processes_in_the_datasets_order():
    parts = [(np.array([0, 2, 4]), np.array([0.0, 0.2, 0.4])), (np.array([1, 3, 0]), np.array([0.1, 0.3, 0.0]))]
    labels, p = interleave(parts, 5)
    assert labels.tolist() == [0, 1, 2, 3, 4] and p.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert len(interleave(parts, None)[0]) == 6


@pytest.mark.parametrize("name", ["", " a", "a ", ".a", "a.", "a/b", "a\x7f", "-a", "~a", "a" * 201, 3])
def test_names_that_no_folder_can_have(name):
    assert check_name("a" * 200) == "a" * 200
    with pytest.raises(UserError, match="can't name a folder"): check_name(name)


def test_a_message_lists_forty_names_and_no_more():
    assert nearest("zzz", [f"a{i}" for i in range(40)]).count("`") == 80
    more = nearest("zzz", [f"a{i:02}" for i in range(41)])
    assert more.startswith(" Valid here, among 41: `a00`") and more.count("`") == 20 and more.endswith(" ...")
    assert nearest("zzz", []) == "" and nearest("a1", ["a12"]) == " Did you mean `a12`?"


def test_what_a_config_can_hold():
    deep = []
    for _ in range(48): deep = [deep]
    assert plain(deep) == deep
    with pytest.raises(UserError, match="at most 50 levels"): plain([[[deep]]])
    assert plain(2**64 - 1) == 2**64 - 1 and plain(np.float32(0.5)) == 0.5 and plain(Path("a")) == "a"
    assert plain((1, {2})) == [1, [2]]
    with pytest.raises(UserError, match="too large a number"): plain(2**64)
    assert plain([0] * 99_999) == [0] * 99_999
    with pytest.raises(UserError, match="at most 100,000 values"): plain([0] * 100_000)


def test_an_overrides_value_is_read_as_typed():
    assert parse_override("a.b=1e-3").value() == 0.001 and parse_override("~a").is_delete()


# --- records ---

def test_the_base_configs_quiet_trainer():
    trainer = base_config()["trainer"]
    assert trainer["enable_model_summary"] is False and trainer["log_every_n_steps"] == 1
    assert trainer["logger"] is False and trainer["accelerator"] == "auto"


def test_what_a_process_has_noted_goes_before_what_stands_in_the_file(tmp_path):
    run = new_run({"experiment": "x", "paths": {"runs": str(tmp_path)}, "seed": 1})
    facts = made_by(run)
    assert facts.keys() == {"packages", "python", "git", "hardware"} and facts["packages"]["torch"]
    assert made_by(Run(run.path)) == facts, "another process reads the file"
    run.provenance_file.write_text(json.dumps(run.provenance | {"python": "2.7"}))
    assert made_by(run) == facts and made_by(Run(run.path))["python"] == "2.7"
    assert run_status({"status": "running", "process": run.noted["process"]}) == "running"
    assert run_status({"status": "running", "process": run.noted["process"] | {"began": 1}}) == "dead"
    assert run_status({"status": "running", "process": run.noted["process"] | {"host": "elsewhere"}}) == "running"
    assert run_status({}) == run_status({"status": 3}) == "unknown"


def test_what_has_changed_since():
    then = {"packages": {"torch": "1", "numpy": "2"}, "python": "3", "git": {"commit": "a" * 40, "dirty": False},
            "hardware": {"cpu": "x", "threads": 2}, "fingerprint": "f" * 64}
    assert what_differs(then, then) == {}
    now = then | {"packages": {"torch": "2"}, "git": {"commit": "b" * 40, "dirty": True}, "fingerprint": None}
    assert what_differs(then, now) == {"torch": ("1", "2"), "numpy": ("2", "none"), "commit": ("a" * 12, "b" * 12),
                                       "uncommitted changes": ("no", "yes"), "images": ("f" * 12, "none")}
    dirty = then | {"git": {"commit": "a" * 40, "dirty": True}}
    assert what_differs(dirty, dirty) == {"uncommitted changes": ("yes", "yes")}, "which ones, nothing tells"
    assert lines({}) == {} and lines({"git": None, "packages": 7, "python": "3"}) == {"python": "3"}


def test_a_versions_name_is_the_folders_fingerprint(tmp_path, root):
    for split in ("train", "test"):
        for folder in sorted((root / "dataset" / split).iterdir())[:2]:
            (tmp_path / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.glob("*.png"))[:2]: shutil.copy(file, tmp_path / split / folder.name)
    assert state_of(tmp_path).fingerprint == fingerprint(tmp_path)


def test_what_a_debug_run_does():
    config = load_config(None, "debug=overfit")
    assert (config.trainer["overfit_batches"], config.trainer["max_epochs"]) == (1, 100)
