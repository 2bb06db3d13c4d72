"""What functions say right at their limits, and of the smallest input: where `make mutants` found faults that went unnoticed."""

import gzip
import io
import json
import math
from collections import deque
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import chdtrc, kolmogorov
from scipy.stats import beta

from dlops_mnist import runs
from dlops_mnist.config import load_config
from dlops_mnist.evaluate import add_own, habits, honesty, overall
from dlops_mnist.inspection import chance_note, oddities, plot_histogram, reading_settings, save_pictures, summary
from dlops_mnist.models import check_memory
from dlops_mnist.parts import (
    augment,
    core,
    exported,
    figures,
    findings,
    images,
    ink,
    layouts,
    pictures,
    runfolder,
    service,
    signals,
    sources,
    store,
    strangers,
    targets,
)
from dlops_mnist.parts.backbone import Timm
from dlops_mnist.parts.batches import EpochSampler, ImageDataset, check_settings, make_loader, mean_and_deviation
from dlops_mnist.parts.callbacks import PlainProgress, class_names, mistakes_in, row_metrics
from dlops_mnist.parts.checkpoint import under_present_names
from dlops_mnist.parts.command import as_typed, as_word, fits, in_words, mistyped, parse_override, parse_value, quote
from dlops_mnist.parts.compare import Comparison, contested_images, luck_note, plot_disagreements, signed
from dlops_mnist.parts.copies import coarse_views, near_pairs, plot_copies
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.drift import chi_square_p, ks_p, shares_p
from dlops_mnist.parts.intervals import answered, choose_threshold, confidence_bins, share_interval
from dlops_mnist.parts.metrics import Answers, average_precision, class_means, confusion_counts, mcnemar, size_note, with_interval
from dlops_mnist.parts.provenance import origin
from dlops_mnist.parts.runfolder import Run, _seconds_until, find_checkpoint, is_gone, is_helper, process_identity, write_rows
from dlops_mnist.parts.scores import balanced_weights, build_metrics
from dlops_mnist.parts.settings import Config, Setting, read_experiment
from dlops_mnist.parts.shelf import Shelf, add_line, lines_of
from dlops_mnist.parts.study import read_parameter
from dlops_mnist.predict import Tally, answer_row, columns, draw_doubtful, threshold_of
from dlops_mnist.registry import rollback
from dlops_mnist.serve import announce, bytes_of, describe
from dlops_mnist.versions import corrections, ranked


def refused(call, *words, match=None, **settings):
    with pytest.raises(UserError, match=match): call(*words, **settings)


# --- settings: what is allowed, and the first value that is not ---

@pytest.mark.parametrize("key, good, bad", [
    ("batch_size", [1], [0, -1]), ("seed", [0], [-1]), ("num_workers", [0], [-1]), ("val", [0.01, 0.99, "test"], [0, 1, 1.5, "x"]),
    ("test", [0, 1, 0.5, None], [-0.01, 1.01]), ("std", [0.1, [0.1, 1.0], None], [0, [0.5, 0.0], -1.0]),
    ("broken", ["refuse", "skip"], ["x"]), ("sampler", [None, "balanced"], ["x"]), ("source", [None, "mnist"], ["x"])])
def test_the_data_modules_settings(key, good, bad):
    usual = {"batch_size": 64, "val": 0.2, "source": None, "seed": 0, "num_workers": 0}
    for value in good: check_settings(**usual | {key: value})
    for value in bad: refused(check_settings, **usual | {key: value}, match=key)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 0.5])
def test_a_threshold_between_0_and_1(threshold):
    assert threshold_of(None, threshold, None) == threshold
    for bad in (-0.01, 1.01): refused(threshold_of, None, bad, None, match="between 0 and 1")
    if threshold: refused(threshold_of, None, threshold, 0.9, match="exclude")


@pytest.mark.parametrize("text, size", [("7", 7), ("1.5kB", 1500), ("2 MB", 2e6), ("500M", 5e8), ("1GB", 1e9), ("3T", 3e12)])
def test_a_number_of_bytes(text, size):
    assert bytes_of(text) == size
    for bad in ("x", "", "1PB", "1.2.3", "GB"): refused(bytes_of, bad, match="a size")


@pytest.mark.parametrize("annotation, good, bad", [
    ("tuple[int, str]", [[1, "a"]], [[1], [1, "a", 2], ["a", 1]]), ("tuple[int, ...]", [[], [1, 2, 3]], [["a"]]),
    ("list[int]", [[], [1, 2]], [["a"], [1, "a"], 1]), ("int", [1], [True, 1.5, "1"]), ("float", [1, 1.5], [True, "1"]),
    ("int | None", [None, 1], ["a"]), ("bool", [True], [1, "true"]), ("Literal['max']", ["max"], ["min"])])
def test_what_fits_an_annotation(annotation, good, bad):
    for value in good: assert fits(value, annotation), value
    for value in bad: assert not fits(value, annotation), value


def test_a_config_inside_a_config():
    inner = Config(c=1)
    config = Config(a={"b": {"c": 2}}, d=inner)
    assert config.a.b.c == 2 and config.d is inner and type(config.a.b) is Config
    with pytest.raises(AttributeError, match="Did you mean `a`"): config.aa  # noqa: B018


def test_a_strangers_processes(capsys):
    few = strangers.FEW_PROCESSES
    def kept(**section): return strangers.sift({"datamodule": section}, "a.yaml")[0]["datamodule"]
    assert kept(num_workers=few) == {"num_workers": few} and kept(num_workers=few + 1) == {}
    assert kept(val=None) == {"val": None}
    assert strangers.sift({"trainer": {"num_nodes": 1}}, "a")[1] == [] != strangers.sift({"trainer": {"num_nodes": 2}}, "a")[1]
    everything = {"trainer": {"num_nodes": 2}}
    assert strangers.strangers_settings(everything, "a.yaml", trust=True) == everything and not capsys.readouterr().err
    assert strangers.strangers_settings(everything, "a.yaml") == {"trainer": {}}
    assert "trainer.num_nodes: 2" in capsys.readouterr().err


@pytest.mark.parametrize("text, elsewhere", [
    ("a/b", False), ("/a", True), ("../a", True), ("a/../b", True), ("~/a", True), ("C:\\a", True), ("http://a", True),
    ("C:a", False), ("sqlite:///a.db", False), ("sqlite:////a.db", True), ("sqlite:///../a.db", True), ("a..b", False),
    ("", False)])
def test_a_place_outside_the_working_folder(text, elsewhere):
    assert strangers.is_elsewhere(text) is elsewhere


def test_the_memory_that_there_is(monkeypatch):
    sizes = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(core.os, "sysconf", sizes.get)
    monkeypatch.setattr(core.Path, "read_text", lambda path: "max\n")
    assert core.memory() == 4096000
    monkeypatch.setattr(core.Path, "read_text", lambda path: "4095000\n")
    assert core.memory() == 4095000
    monkeypatch.delattr(core.os, "sched_getaffinity", raising=False), monkeypatch.setattr(core.os, "cpu_count", lambda: 3)
    assert core.usable_cores() == 3, "as on a Mac"


def test_a_step_that_needs_more_memory_than_there_is(monkeypatch):
    config = {"datamodule": {"batch_size": 8}, "trainer": {"accelerator": "cpu"}}
    asked = []
    monkeypatch.setattr("dlops_mnist.models.memory", lambda: 100)
    monkeypatch.setattr("dlops_mnist.models.least_memory", lambda config, images: asked.append(images) or 100)
    check_memory(config, SimpleNamespace(datasets={"train": range(3)}))
    check_memory(config, SimpleNamespace(datasets={"train": range(9)}))
    check_memory(config | {"datamodule": {"batch_size": None}}, SimpleNamespace(datasets={"train": range(9)}))
    check_memory(config, SimpleNamespace())
    assert asked == [3, 8, 1, 1]
    monkeypatch.setattr("dlops_mnist.models.memory", lambda: 99)
    refused(check_memory, config, SimpleNamespace(), match="memory or more")


# --- batches ---

def test_the_order_of_an_epoch():
    sampler = EpochSampler(70_000, seed=1)
    first, second = [*sampler], [*sampler]
    assert sorted(first) == sorted(second) == [*range(70_000)] and first != second
    assert [*EpochSampler(70_000, seed=1)] == first and [*EpochSampler(5, shuffle=False)] == [0, 1, 2, 3, 4]
    sampler = EpochSampler(6, seed=1)
    sampler.resumed = 0, 4
    assert len([*sampler]) == 2 and len([*sampler]) == 6, "the next epoch is whole"
    later = EpochSampler(6, seed=1)
    later.resumed = 3, 4
    assert len([*later]) == 6, "another epoch was begun"
    sampler = EpochSampler(5, labels=np.array([0, 0, 0, 0, 1]))
    assert sorted(np.array([0, 0, 0, 0, 1])[sampler.order()]) == [0, 0, 0, 1, 1]


def test_the_shares_of_two_processes(monkeypatch):
    for rank, order, lengths, share in ((0, [0, 2, 4], (3, 3), (1, 2.0)), (1, [1, 3, 0], (3, 2), (0, 0.0))):
        monkeypatch.setattr(EpochSampler, "process", staticmethod(lambda rank=rank: (rank, 2)))
        even, odd = EpochSampler(5, shuffle=False), EpochSampler(5, shuffle=False, even=False)
        assert even.order().tolist() == order and (len(even), len(odd)) == lengths and len(odd.order()) == lengths[1]
        assert even.share(1, 2) == share and even.share(0, 2) == (2, 1.0), "one image is left for the second batch"
        assert len(make_loader([0, 1], 1).sampler) == 1
        refused(make_loader, [0], 1, match="can't be shared among 2 processes")


# --- images ---

def test_a_tenth_of_other_sizes_are_mistakes_and_more_are_many_sizes(tmp_path):
    def said(odd, count, hint="can't be used"):
        files = [f"{i:02}.png" for i in range(count)]
        refused(images.complain, tmp_path, files, (4, 6), {file: (8, 8) for file in files[:odd]}, match=hint)

    said(1, 10), said(2, 19, "2 different sizes"), said(2, 10, r"2 different sizes, from 6x4 to 8x8.*resize=\[4,4\]")
    images.complain(tmp_path, ["a"], (4, 6), {})
    with pytest.raises(UserError) as error: images.complain(tmp_path, [*"abcd"], (4, 6), dict.fromkeys("abc", "is empty"))
    assert str(error.value).startswith("3 of 4 images can't be used:") and str(error.value).count("is empty") == 3
    assert str(error.value).endswith("datamodule.broken=skip")
    with pytest.raises(UserError) as error: images.complain(tmp_path, [*"abcd"], (4, 6), dict.fromkeys("abcd", "is empty"))
    assert "4 files, such as" in str(error.value) and "broken=skip" not in str(error.value), "none would be left"


def test_what_was_decoded_in_the_usual_way_has_a_plain_name():
    def name(skip=False, **look): return images.generation_name(SimpleNamespace(stamp="f"), pictures.Look(**look), skip)
    assert name(color="grey") == "grey-f" and name(color=True) == "color-f" and name(color=False) == "plain-f"
    assert len({name(color="grey"), name(True, color="grey"), name(color="grey", resize=(8, 8))}) == 3


def test_images_that_stay_in_their_files_are_sampled():
    class Files:
        def __getitem__(self, key): return key

    assert images.at_hand(Files()) == slice(None, 500) and images.at_hand(array := np.zeros(600)) is array


@pytest.mark.parametrize("shape", [(3, 5), (3, 3, 5), (300, 301)])
def test_a_png_file_is_what_other_programs_read(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    picture = Image.open(io.BytesIO(pictures.encode_png(pixels)))
    assert picture.mode == ("L" if len(shape) == 2 else "RGB")
    assert np.array_equal(np.asarray(picture), pixels if len(shape) == 2 else pixels.transpose(1, 2, 0))


def test_more_than_8_bits_need_a_range():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 1000], [500, 2000]], np.uint16)).save(file, format="png")
    with pytest.raises(pictures.BadImage, match="range="): pictures.unpack(file.getvalue(), pictures.Look())
    assert pictures.unpack(file.getvalue(), pictures.Look(range=(0, 1000))).tolist() == [[0, 255], [128, 255]]
    eight = io.BytesIO()
    Image.fromarray(np.array([[0, 100]], np.uint8)).save(eight, format="png")
    for limits in (None, (0, 1000)): assert pictures.unpack(eight.getvalue(), pictures.Look(range=limits)).tolist() == [[0, 100]]


def test_ink_is_what_differs_from_the_paper_by_a_quarter():
    drawing = np.zeros((1, 9, 9), np.uint8)
    drawing[0, 4, 4] = 63
    assert ink.ink_facts(drawing) == {}
    drawing[0, 4, 4] = 64
    assert ink.ink_facts(drawing)["box"] == 1 and ink.ink_facts(drawing)["centre"] == [4, 4]
    for values, dark, edges in (((255, 128, 127), 2, 6), ((254, 127, 127), 1, 4), ((0, 0, 0), 0, 1)):
        drawing[0, 4, 4:7] = values
        assert ink.pen_width(drawing.astype(float)) == round(8 / math.pi * dark / edges, 1), "more than half as dark as the darkest"


# --- what a person is told ---

def arrays(**splits):
    data = {name: {"images": np.asarray(some, np.uint8), "labels": np.arange(len(some)) % 2} for name, some in splits.items()}
    return SimpleNamespace(splits=data, classes=["a", "b"], image_shape=[2, 2])


def test_splits_of_another_brightness():
    rng = np.random.default_rng(0)
    dark, light = rng.integers(0, 9, (4, 2, 2)), rng.integers(0, 9, (4, 2, 2)) + 60
    assert oddities(arrays(train=dark, val=dark)) == oddities(arrays(val=light)) == []
    assert "val are brighter than those of train" in oddities(arrays(train=dark, val=light))[0]
    assert "val are darker than those of train" in oddities(arrays(train=light, val=dark))[0]
    assert "val look inverted beside those of train" in oddities(arrays(train=dark, val=255 - dark))[0]
    assert oddities(arrays(train=np.full((2, 2, 2), 7)))[0].startswith("all images of train are alike")
    assert oddities(arrays(train=np.full((1, 2, 2), 7))) == [], "one image is like itself"
    for level, count in ((24, 0), (25, 1)):
        assert len(oddities(arrays(train=[[[0, 0], [0, 2]]] * 1, val=[[[level, level], [level, level + 2]]] * 1))) == count


def test_the_table_of_values():
    table = summary(arrays(train=[[[0, 1], [2, 5]], [[3, 4], [7, 9]]], val=[[[8, 8], [8, 9]]]))
    assert table.loc[("train", "a")].tolist()[:2] == [1, "2x2"] and table.loc[("train", "b"), "min"] == 3
    assert table.loc[("train", "a"), ["min", "mean", "max"]].tolist() == [0, 2, 5] and pd.isna(table.loc[("val", "b"), "max"])
    assert table["min"].dtype == table["max"].dtype == "Int64", "whole numbers, also where some are missing"


def test_the_histogram_counts_shares_of_the_pixels():
    axes = plot_histogram(arrays(train=[[[0, 7], [8, 255]]])).axes[0]
    values, edges, _ = axes.patches[0].get_data()
    assert values[[0, 1, 31]].tolist() == [50, 25, 25] and edges[:2].tolist() == [0, 8] and len(values) == 32


def test_near_copies_by_chance():
    def note(chance, pairs=1):
        table = pd.DataFrame({"group": np.arange(2 * pairs) // 2, "split": (["train", "val"] + ["train"] * 9)[:2 * pairs]})
        return chance_note(SimpleNamespace(table=table, chance=chance, limit=1.25))
    assert note(1.0)[0].endswith("about 1") and note(0.99)[0].endswith("fewer than one")
    assert note(0, 2) == ["2 pairs are nearer than 1.2 levels of brightness, 1 of them in two splits; by chance there would be "
                          "fewer than one"]
    assert note(0)[0].startswith("1 pair is") and note(0, 0) == []
    assert reading_settings({"datamodule.resize": [4, 4], "cache": "x"}) == {"resize": [4, 4], "cache": "x"}
    refused(reading_settings, {"resiz": 4}, match="Did you mean `resize`")


@pytest.mark.parametrize("error, low, said", [(0.01, 0.005, 0), (0.0101, 0.0001, 1), (0.5, 0.0, 0), (0.5, math.nan, 0)])
def test_a_model_that_is_surer_than_right(error, low, said):
    found = honesty(pd.DataFrame({"ece": [error, low, 1.0]}, index=["value", "low", "high"]).T)
    assert len(found) == said and all(f"by {100 * error:.1f} points" in text for text in found)


def test_a_models_habits():
    answers = Answers(np.array([0, 0, 1, 2]), np.eye(4)[[0, 0, 0, 2]], [*"abcd"])
    assert habits(answers) == ["The model never names `b`, though there are images of it."]
    assert habits(Answers(np.array([0, 0, 1, 1]), np.eye(2)[[0, 1, 0, 1]], [*"ab"])) == [
        "It is no better than always naming the commonest class, `a`: 50.0% right."]
    assert confusion_counts([0, 1, 1], [0, -1, 0], 2).tolist() == [[1, 0], [1, 0]]
    one = size_note(1, 1.0, 0, 1)
    assert one.startswith("1 image: each is worth 100 points") and "true error may still be 95%" in one
    assert "needed" not in size_note(20000, 0.5, 0.4, 0.6) and "about 9,600 images" in size_note(100, 0.5, 0.4, 0.6)
    assert size_note(9600, 0.5, 0.4, 0.6).endswith("20 points wide.")


@pytest.mark.parametrize("host, shown, warned", [
    ("127.0.0.1", "127.0.0.1", 0), ("0.0.0.0", "localhost", 1), ("::1", "[::1]", 0), ("localhost", "localhost", 0),
    ("me", "me", 1)])
def test_where_a_service_answers(host, shown, warned, capsys):
    announce("a.onnx", host, 80, None)
    said = capsys.readouterr().out
    assert f"http://{shown}:80/ (" in said and ("Anybody" in said) == warned
    announce("a.onnx", host, 80, "x")
    said = capsys.readouterr().out
    assert f"http://{shown}:80/#token=x (" in said and "Anybody" not in said


def test_the_answer_for_one_image():
    model = SimpleNamespace(classes=["a", "b"])
    assert describe(model, np.array([0.25, 0.75]), 0.75) == {
        "label": "b", "probability": 0.75, "doubtful": False, "probabilities": {"a": 0.25, "b": 0.75}}
    assert describe(model, np.array([0.25, 0.75]), 0.76)["doubtful"] and describe(model, np.array([math.nan] * 2), 0.0)["doubtful"]


def test_the_most_doubtful_pictures_are_kept(monkeypatch, tmp_path):
    def rows(tally):
        found = [({"class": "a", "probability": p, "doubtful": p < 0.5}, i) for i, p in enumerate((0.9, 0.3, 0.6))]
        return [*tally([*found, ({"image": "x", "error": "y"}, None)])]

    tally = Tally(keep=2)
    assert len(rows(tally)) == 4 and (tally.count, tally.unread, tally.doubtful) == (4, 1, 1)
    drawn = []
    monkeypatch.setattr(figures, "plot_grid", lambda kept, *_, **__: drawn.extend(kept) or figures.Picture(1, 1))
    assert draw_doubtful(tally, tmp_path).is_file() and drawn == [1, 2], "the most doubtful comes first"
    assert rows(tally := Tally()) and tally.images == []


# --- pictures ---

def test_the_size_of_a_picture_follows_what_it_shows():
    def size(picture): return [round(float(x), 2) for x in picture.get_size_inches()]
    image = np.zeros((4, 4), np.uint8)
    assert size(figures.plot_bars({"a": 1, "b": 2}, "x")) == [6, 1.2]
    assert size(figures.plot_grid([image] * 7, ["a"] * 7)) == [8.1, 3.02]
    assert size(figures.plot_grid([image], title="t")) == [4.05, 1.75]
    assert size(figures.plot_grid([image] * 2, ["a\nb", "c"])) == [4.05, 1.67]
    assert size(figures.plot_grid([image], columns=1)) == [1.35, 1.35]
    for count, wide in ((2, 3.6), (10, 7.1), (30, 12)):
        assert size(figures.plot_confusion_matrix([0], [1], [*map(str, range(count))])) == pytest.approx([wide + 0.6, wide])
    assert size(figures.plot_curves({"a": {"epoch": [0], "loss": [1.0]}}, ["loss", "acc", "x"])) == [12.6, 3.2]


def test_what_stands_in_a_picture():
    bars = figures.plot_bars({"a": 999.6, "b": 1000, "c": 0.12345}, "x").axes[0]
    assert [text.get_text() for text in bars.texts] == [" 1e+03", " 1,000", " 0.123"] and bars.get_xlim() == (0, 1150)
    assert [len({*patch.get_facecolor()[:3]}) == 1 for patch in bars.patches] == [True, True, False], "grey, and a colour"
    matrix = figures.plot_confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], ["a", "b"]).axes[0]
    assert [(text.get_text(), text.get_color()) for text in matrix.texts] == [
        ("1", "white"), ("1", "white"), ("0", "white"), ("2", "black")] and matrix.get_title() == "4 images, 75.0% right"
    table = {"epoch": [0, 1], "loss": [2.0, math.nan], "val_loss": [3.0, 1.0]}

    def lines(tables): return [(line.get_label(), line.get_linestyle(), [*line.get_xdata()])
                               for line in figures.plot_curves(tables, ["loss"]).axes[0].lines]

    assert lines({"one": table}) == [("loss", "--", [1]), ("val_loss", "-", [1, 2])]
    assert [name for name, *_ in lines({"one": table, "two": table}) if name[0] != "_"] == ["one", "two"]
    assert figures.plot_curves({"one": table}, ["loss", "val_loss"]).axes[1].get_ylabel() == "val_loss"
    page = figures.html_page({"a": pictures.encode_png(np.zeros((3, 40), np.uint8))}, {}, tables={})
    assert 'width="20"' in page and 'class="wide"' not in page
    assert figures.as_text(math.nan) == figures.as_text(None) == "–" and figures.as_text(0.123456) == "0.1235"


def test_the_worst_mistakes_first():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [math.nan, 0.1], [0.7, 0.3]])
    labels = np.array([1, 1, 1, 0, 0])
    assert figures.worst_mistakes(labels, p).tolist()[:2] == [0, 1] and len(figures.worst_mistakes(labels, p)) == 3
    assert figures.worst_mistakes(labels, p, 1).tolist() == [0]
    picture = figures.plot_mistakes(np.zeros((5, 4, 4)), labels, p, ["a", "b"], 1)
    assert picture.get_suptitle() == "3 mistakes in 5 images, the worst 1 (truth → guess)"
    assert picture.axes[0].get_title() == "b → a\n90% sure"
    assert "worst" not in figures.plot_mistakes(np.zeros((5, 4, 4)), labels, p, ["a", "b"], 3).get_suptitle()
    images_of = [(np.full((2, 2), i), label) for i, label in enumerate(labels)]
    assert [*mistakes_in(images_of, labels, p, 1)] == [0] and mistakes_in([(0, 0)] * 5, labels, p, 1) == {}
    assert mistakes_in(iter(()), labels, p, 1) == {}, "a stream of images"
    trainer, module = SimpleNamespace(datamodule=None), SimpleNamespace(classes=["x", "y"])
    assert class_names(None, trainer, module, 2) == ["x", "y"] and class_names(["a", "b"], trainer, module, 2) == ["a", "b"]
    assert class_names(None, trainer, SimpleNamespace(), 2) == ["0", "1"]
    refused(class_names, None, trainer, module, 3, match="names 2 classes")


# --- runs ---

@pytest.mark.parametrize("value, text, column, equal", [
    (None, "null", "x", True), (None, "", "x", True), (None, "a", "x", False), (True, "TRUE", "x", True), (True, "1", "x", False),
    (1, "1.0", "x", True), (1, "a", "x", False), ("abcd", "abc", "commit", True), ("abcd", "abc+", "commit", True),
    ("abcd", "", "commit", False), ("abcd", "bc", "fingerprint", False), ("abcd", "abc", "x", False), ("a.B", "B", "x", True),
    ("abcd", "a*", "x", True), ("abcd", "bcd", "x", False)])
def test_what_a_condition_means(value, text, column, equal):
    assert runs.is_equal(value, text, column) is equal


def row(**values): return {"monitor": "val_acc", "monitor_mode": "max", "started": None, **values}


def test_conditions_and_the_order_of_runs():
    rows = [row(a=1.0, b="x", val_acc=0.5), row(a=2.0, b="y", val_acc=0.7), row(a=None, b=None, val_acc=math.nan)]
    def found(condition): return [r["a"] for r in runs.matches(condition, rows)]
    assert found("a<2") == [1.0] and found("a<=2") == [1.0, 2.0] and found("a>1") == [2.0] and found("a>=1") == [1.0, 2.0]
    assert found("a=1") == [1.0] and found("a!=1") == [2.0, None]
    assert found("b>x") == [2.0] and found("b=x") == found("where=b==x") == [1.0]
    for bad in ("a", "a=>1", "a=<1", "=1"): refused(runs.matches, bad, rows, match="is no condition")
    refused(runs.matches, "a>x", rows, match="is a number"), refused(runs.matches, "c=1", rows, match="no column")
    assert runs.matches("a>1", []) == [] and runs.sort_rows([], "a") == []
    assert [r["a"] for r in runs.sort_rows(rows, "val_acc")] == [2.0, 1.0, None] == [r["a"] for r in runs.sort_rows(rows, "-a")]
    assert [r["a"] for r in runs.sort_rows(rows, "-val_acc")] == [1.0, 2.0, None] == [r["a"] for r in runs.sort_rows(rows, "a")]
    low = [row(monitor="val_x", monitor_mode="min")]
    assert not runs.high_is_best("val_x", low) and runs.high_is_best("val_x") and runs.high_is_best("acc")
    assert not runs.high_is_best("val_loss") and not runs.high_is_best("lr") and not runs.high_is_best("loss")
    mixed = [row(lr=1), row(lr="a"), row(lr=0.5)]
    assert [r["lr"] for r in runs.sort_rows(mixed, "lr")] == [0.5, 1, "a"]


def test_the_luck_of_the_first_place():
    def share(p, n, m):
        from statistics import NormalDist
        return NormalDist().inv_cdf((m - 0.375) / (m + 0.25)) * math.sqrt(p * (1 - p) / n)
    assert runs.luck_of_best(0.9, 100, 10) == pytest.approx(share(0.9, 100, 10))
    assert runs.luck_of_best(1.0, 100, 10) == pytest.approx(share(0.995, 100, 10)) == pytest.approx(runs.luck_of_best(0.0, 100, 10))
    many = [{"val_acc": 0.9, "val_images": 100}] * 3
    assert runs.luck_note(many).startswith("Of 3 equally good models") and runs.luck_note(many).endswith("on 100 images.")
    assert runs.luck_note(many[:1]) == runs.luck_note([*many, {"val_acc": 0.9, "val_images": 9}]) == ""
    assert runs.luck_note([{"val_acc": 0.9, "val_images": None}] * 2) == "" != runs.luck_note(many[:2])


@pytest.mark.parametrize("value, name, count, text", [
    (0.98765, "val_acc", 60, "0.99"), (0.98765, "val_acc", 101, "0.988"), (0.98765, "val_acc", 100, "0.99"),
    (0.98765, "val_acc", 99999, "0.9877"), (0.98765, "acc", 60, "0.9877"), (0.0123456, "val_loss", 60, "0.012"),
    (0.0123456, "val_loss", 99999, "0.0123"), (1e-4, "loss", None, "0.0001"), (0.001, "loss", None, "0.0010"),
    (0, "loss", None, "0.0000"),
    (9999.0, "loss", None, "9999.0000"), (1e4, "loss", None, "1e+04"), (True, "loss", None, ""), (None, "loss", None, "")])
def test_a_metrics_digits(value, name, count, text):
    assert runs._metric(value, name, count) == text


@pytest.mark.parametrize("seconds, text", [
    (None, ""), (-1, ""), (0, "0.0s"), (59.9, "59.9s"), (60, "0:01:00"), (3661.9, "1:01:01"), (1e9, "")])
def test_a_duration(seconds, text):
    assert runs._duration(seconds) == text


def test_runs_by_their_names(tmp_path):
    a, b, c = tmp_path / "e" / "1", tmp_path / "e" / "2", tmp_path / "f" / "1"
    assert runs._named_paths({"x": a, "y": SimpleNamespace(path=b)}) == {"x": a, "y": b}
    assert runs._named_paths([a, c]) == {"e": a, "f": c} and runs._named_paths([a, b]) == {"e/1": a, "e/2": b}
    assert runs._named_paths(pd.DataFrame(index=[str(a)])) == {"e": a}
    assert runs.simple(10**15) == str(10**15) and runs.simple(10**15 - 1) == 10**15 - 1 and runs.simple("\ud800") == "?"


# --- files ---

def test_a_line_that_was_cut_off_spoils_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shelf = Shelf("m")
    shelf.path.mkdir(parents=True)
    add_line(shelf, {"a": "é"}), add_line(shelf, {"b": 2})
    assert shelf.log.read_bytes() == '{"a": "é"}\n{"b": 2}\n'.encode()
    with shelf.log.open("a") as log: log.write('{"c": ')
    add_line(shelf, {"d": 4})
    assert lines_of(shelf) == [{"a": "é"}, {"b": 2}, {"d": 4}] and shelf.log.read_text().count("\n") == 4


def test_back_to_the_champion_before(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for version in (1, 2, 3): Path("models/m", str(version)).mkdir(parents=True)
    shelf = Shelf("m")
    def promoted(version): add_line(shelf, {"what": "promoted", "version": version, "when": "", "why": ""})
    promoted(1)
    refused(rollback, "m", match="nothing to go back to")
    promoted(2), promoted(3), rollback("m", note="bad")
    assert shelf.champion == 2 and "m 2 is the champion again, in place of 3." in capsys.readouterr().out
    rollback("m")
    assert shelf.champion == 1
    refused(rollback, "m", match="nothing to go back to")
    refused(rollback, "n", match="no registered model `n`")


def test_the_file_of_a_registered_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(exported.model_file, "models:/m@champion", match="no folder `models`")
    Path("models/m/2").mkdir(parents=True)
    file = Path("models/m/2/model.onnx")
    assert exported.model_file("a/b.onnx") == Path("a/b.onnx") and exported.model_file("models:/m/2") == file
    for word, hint in (("models:/m@champion", "promote m VERSION"), ("models:/m/3", "no version 3"), ("models:/m@x", "is named"),
                       ("models:/x/1", "no registered model `x`")):
        refused(exported.model_file, word, match=hint)
    Path("models/m/champion.json").write_text('{"version": 2}')
    assert exported.model_file("models:/m@champion") == file and exported.champion_of(Path("models/m")) == 2
    Path("models/m/champion.json").write_text("[]")
    refused(exported.champion_of, Path("models/m"), match="damaged")
    assert exported.is_exported("A.ONNX") and exported.is_exported("models:/x") and not exported.is_exported("runs/a.ckpt")


def test_labels_that_were_corrected(tmp_path):
    for name in ("a/1", "a/2", "b/3"):
        (file := tmp_path / "data/train" / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pictures.encode_png(np.zeros((2, 2), np.uint8)))
    table = tmp_path / "t.csv"
    def found(*lines):
        table.write_text("\n".join(lines))
        return corrections(str(tmp_path / "data"), str(table))
    assert {new: old.name for new, old in found("image,label", "train/a/1.png,b", "train/b/3.png,b").items()} == {
        "train/b/1-was-a.png": "1.png"}
    for lines, hint in (((), "lacks"), (("image,label",), "lacks"), (("image,x", "a,b"), "lacks"), (("label,x", "a,b"), "lacks"),
                        (("image,label", "train/a/9.png,b"), "not in"), (("image,label", "train/a/1.png,c"), "no class `c`"),
                        (("image,label", "train/a/1.png,a"), "changes no label")):
        refused(found, *lines, match=hint)


@pytest.mark.parametrize("names, splits", [
    (["train", "test"], {"train": "train", "test": "test"}), (["training_set", "valid"], {"training_set": "train", "valid": "val"}),
    (["cats-train", "cats-test"], {"cats-train": "train", "cats-test": "test"}), (["cats-train", "cats-x"], {}),
    (["test"], {"test": "test"}),
    (["a-train"], {}), (["dev", "tst"], {"dev": "val", "tst": "test"}), ([], {})])
def test_folders_that_mean_a_split(names, splits):
    assert layouts.splits_among(names) == splits


def test_the_file_that_a_table_means():
    find = layouts.Finder(["train/7.png", "test/7.png", "a/b.c.png", "x/8.jpg"], "x", "train")
    assert find("7") == find("7.png") == find("other/7.png") == "train/7.png", "it goes by the table's name"
    assert find("test/7.png") == "test/7.png" and find(" test\\7.png ") == "test/7.png" and find("8.jpg") == find("8") == "x/8.jpg"
    assert find("b.c") == "a/b.c.png" and find("9") is None
    assert layouts.Finder(["a/7.png", "b/7.png"], "", "train")("7") is None, "two of them, and neither is meant"


def test_the_columns_of_a_table():
    def found(header, columns=None): return layouts.find_columns(Path("t.csv"), header, columns)
    assert found(["File Name", "Class"]) == {"image": 0, "label": 1} == found(["a", "b", "c"], ["a", "b"])
    assert found(["x", "label"]) == {"image": 0, "label": 1} and found(["image", "x"]) == {"image": 0, "label": 1}
    assert found(["label", "x"]) == {"image": 1, "label": 0} and found(["split", "patient", "label", "image"]) == {
        "image": 3, "label": 2, "split": 0, "group": 1}
    refused(found, ["label", "x", "y"], match="Which columns"), refused(found, ["a", "b"], ["a", "c"], match="no column `c`")
    refused(found, ["p", "q"], match="Which columns")


# --- settings and their files ---

def test_a_settings_range():
    setting = Setting("int | float", 1, "", lowest=1, below=4)
    for value in (1, 3.9): setting.check("x", value)
    refused(setting.check, "x", 0.99, match="at least 1 and below 4"), refused(setting.check, "x", 4, match="below 4")
    refused(Setting("int", 1, "", lowest=1).check, "x", 0, match="at least 1.$"), Setting("int", 1, "").check("x", -10**9)
    refused(Setting("dict", {}, "").check, "x", 3, match="must be a section, not 3")
    refused(setting.check, "x", "a", match="int or float")


def test_whose_settings_a_file_holds(tmp_path, capsys):
    def read(name, recorded, **trust):
        file = tmp_path / name
        file.write_text("datamodule: {num_workers: 99}\nx-mine: 1\nsweep: 3")
        (tmp_path / "provenance.json").write_text("{}") if recorded else (tmp_path / "provenance.json").unlink(missing_ok=True)
        return read_experiment(file, **trust)

    assert read("a.yml", False) == {"experiment": "a", "datamodule": {"num_workers": 99}} and not capsys.readouterr().err
    assert read("config.yaml", False) == {"experiment": "config", "datamodule": {}} and "Left out" in capsys.readouterr().err
    found = read("config.yaml", True, trust=True)
    assert found.pop("repeats") == str(tmp_path / "config.yaml")
    assert found == {"experiment": "config", "datamodule": {"mean": 0.1307, "std": 0.3081, "num_workers": 99}}


def test_a_single_callback_needs_no_name():
    section = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val_loss"}
    assert load_config({"callbacks": section}).callbacks == {"EarlyStopping": section}
    refused(load_config, None, "trainer.max_epochs=3", "seed=1,2", match="`seed=1,2` gives several values")


def test_what_a_class_declares():
    section = targets.with_defaults({"_target_": "torch.optim.SGD", "lr": 0.5})
    assert section["lr"] == 0.5 and section["momentum"] == 0 and "params" not in section
    assert targets.with_defaults({"a": 1}) == {"a": 1} and targets.with_defaults(3) == 3
    assert "no package of that name is installed" in targets._hint("nowhere_at_all.Net")
    assert targets._hint("torch.optim.Adm") in (" Did you mean `Adam`?", " Did you mean `AdamW`?")
    def lengths(**more): return targets.open_lengths({"_target_": "torch.optim.lr_scheduler.OneCycleLR", **more})
    assert lengths() == lengths(total_steps=None) == ["total_steps"] and lengths(total_steps=3) == lengths(epochs=1) == []


@pytest.mark.parametrize("word, corners, values", [
    ("a=1,2,4", [1, 2, 4], [1, 2, 4]), ("a=range(1,8,2)", [1, 7], [1, 3, 5, 7]), ("a=range(1,9,2)", [1, 7], [1, 3, 5, 7]),
    ("a=int(interval(1,3))", [1, 3], [1, 2, 3]), ("a=tag(log,interval(1e-3,1.0))", [1e-3, 1.0], None),
    ("a=x,null", ["x", None], ["x", None])])
def test_what_a_search_looks_through(word, corners, values):
    found = read_parameter(word)
    assert found.corners == corners and found.is_log == ("log" in word)
    if values is None: refused(lambda: found.all_values, match="can be counted")
    else: assert found.all_values == values
    assert parse_override(found.typed("a", corners[0])).value() == corners[0]
    refused(read_parameter, "a=interval(3,1)", match="nothing to look through")


# --- a run's files ---

def test_the_rows_of_a_run(tmp_path):
    run = Run(tmp_path)
    write_rows(run.metrics_file, [])
    assert run.metrics_file.read_text() == "epoch,step,loss,acc,val_loss,val_acc\n" and run.rows == [] and run.epochs == 0
    write_rows(run.metrics_file, [{"x": 1.5, "val_acc": 0.5, "epoch": 0}, {"epoch": 1, "loss": 2.0}])
    assert run.metrics_file.read_text() == "epoch,loss,val_acc,x\n0,,0.5,1.5\n1,2.0,,\n"
    assert run.rows == [{"epoch": 0, "val_acc": 0.5, "x": 1.5}, {"epoch": 1, "loss": 2.0}] and run.epochs == 2
    run.metrics_file.write_text("epoch,val_acc\n0,a\n4,0.5\n")
    assert run.rows == [{"epoch": 0}, {"epoch": 4, "val_acc": 0.5}] and run.epochs == 4, "the fifth is not complete"
    assert run.best == {"epoch": 4, "val_acc": 0.5} and run.best_checkpoint == run.last_checkpoint


def test_the_time_that_a_run_took():
    def seconds(**known): return _seconds_until(known, datetime.fromisoformat("2026-01-01T00:01:00+00:00"))
    assert seconds(started="2026-01-01T00:00:00+00:00") == 60 and seconds(started="2026-01-01T00:02:00+00:00", seconds=2) == 2
    assert seconds(started="x") is seconds() is None
    assert seconds(started="2025-01-01T00:00:00+00:00", resumed=["2026-01-01T00:00:58.500+00:00"], seconds=10) == 11.5


@pytest.mark.parametrize("settings, helper", [
    ({}, False), ({"RANK": "0"}, False), ({"LOCAL_RANK": "1"}, True), ({"NODE_RANK": ""}, False),
    ({"SLURM_PROCID": "0", "GROUP_RANK": "2"}, True)])
def test_a_process_that_another_has_started(settings, helper, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK"): monkeypatch.delenv(name, raising=False)
    for name, value in settings.items(): monkeypatch.setenv(name, value)
    assert is_helper() is helper


def test_which_process_is_gone():
    here = process_identity()
    assert not is_gone(here) and is_gone(here | {"boot": "x"}) and not is_gone(here | {"boot": "x", "host": "y"})
    assert is_gone(here | {"began": 1}) and is_gone(here | {"pid": 2**22 + 1}) and not is_gone(here | {"pid": None})


def test_what_a_checkpoint_is_of(tmp_path):
    run = Run(tmp_path / "e" / "1")
    run.checkpoints.mkdir(parents=True)
    refused(find_checkpoint, tmp_path / "e", match="is not a run's folder.$")
    run.provenance_file.write_text('{"status": "failed", "fingerprint": "f"}')
    refused(find_checkpoint, run, match="has no checkpoint; its status is: failed")
    run.last_checkpoint.touch()
    assert find_checkpoint(tmp_path / "e")[0] == find_checkpoint(run.path)[0] == run.last_checkpoint
    assert find_checkpoint(run.last_checkpoint)[1].path == run.path and find_checkpoint(run.provenance_file)[1] is None
    Run(other := tmp_path / "e" / "2").path.mkdir()
    Run(other).provenance_file.write_text("{}")
    refused(find_checkpoint, tmp_path / "e", match="holds 2 of them, the latest is .*2`")
    assert origin(run.path)["fingerprint"] == "f" and origin(tmp_path) == {}


# --- answers, batches, requests ---

def test_an_answers_row():
    assert answer_row("x", [0.25, 0.75, 0.0], [*"abc"], 2, 0.75) == {
        "image": "x", "class": "b", "probability": 0.75, "class_2": "a", "probability_2": 0.25, "doubtful": False}
    assert answer_row("x", [0.2512345678, 0.0], [*"ab"], 1, 0.0) == {"image": "x", "class": "a", "probability": 0.251235}
    assert columns(2, 0.0) == ["image", "class", "probability", "class_2", "probability_2", "error"]
    assert columns(1, 0.5) == ["image", "class", "probability", "doubtful", "error"]


def test_requests_share_a_batch_and_none_is_cut():
    def taken(*sizes): return [len(images) for images, _ in service.take(deque((range(size), None) for size in sizes), 4)]
    assert taken(9, 1) == [9] and taken(1, 3, 1) == [1, 3] and taken(2, 3) == [2] and taken() == []
    answers = [Future(), Future(), Future()]
    answers[1].set_result("gone")
    service.deliver([(range(2), answers[0]), (range(1), answers[1]), (range(3), answers[2])], np.arange(6))
    assert answers[0].result().tolist() == [0, 1] and answers[2].result().tolist() == [3, 4, 5] and answers[1].result() == "gone"
    assert service.SIZES == tuple(2**i for i in range(9)) and [*service.SECONDS] == sorted(service.SECONDS)


@pytest.mark.parametrize("body, many", [("[[0, 255]]", False), ("[[[0, 255]]]", True), ("[[[0, 1]], [[2, 3]]]", True)])
def test_pixels_as_json(body, many):
    pixels, several = service.read_pixels(body.encode(), (1, 2))
    assert several is many and pixels.dtype == np.uint8 and pixels.tolist() == (json.loads(body) if many else [json.loads(body)])
    for bad in ("[[0, 256]]", "[[-1, 0]]", "[[0.5, 1]]", "[]", "[[0]]", '[["a", "b"]]', "[[true, false]]", "{", "[[NaN, 1]]"):
        with pytest.raises(service.Unreadable, match="Expected 1 x 2 whole numbers"): service.read_pixels(bad.encode(), (1, 2))


def test_the_metrics_of_what_has_just_ended():
    found = {name: torch.tensor(1.0) for name in ("x", "val_x", "loss_step", "val_acc", "loss")}
    trainer = SimpleNamespace(callback_metrics=found)
    assert [*row_metrics(trainer)] == ["loss", "val_acc", "x", "val_x"]
    assert [*row_metrics(trainer, trained=False)] == ["val_acc", "val_x"]
    assert [*row_metrics(trainer, validated=False)] == ["loss", "x"]


def test_a_line_for_each_epoch_and_for_each_validation_within_one(capsys):
    found = {name: torch.tensor(0.5) for name in ("loss", "val_acc", "val_mine", "shown", "hidden")}
    trainer = SimpleNamespace(
        callback_metrics=found, progress_bar_metrics={"shown": 1}, callbacks=[SimpleNamespace(monitor="val_mine")],
        current_epoch=1, max_epochs=3, global_step=7, sanity_checking=False)
    bar = PlainProgress()

    def said(call, *words): return call(trainer, None, *words) or capsys.readouterr().out
    assert said(bar.on_train_epoch_end) == "epoch 2/3     loss 0.5  shown 0.5\n", "nothing was validated"
    said(bar.on_validation_end)
    assert said(bar.on_train_batch_start, None, 0) == "", "the epoch's end tells of it"
    assert said(bar.on_train_batch_start, None, 1) == "epoch 2/3 step 7  val_acc 0.5  val_mine 0.5\n"
    assert said(bar.on_train_batch_start, None, 2) == ""
    said(bar.on_validation_end)
    assert said(bar.on_train_epoch_end) == "epoch 2/3     loss 0.5  val_acc 0.5  val_mine 0.5  shown 0.5\n"
    bar.disable()
    assert said(bar.on_train_epoch_end) == ""


# --- numbers ---

def test_the_intervals_ends():
    low, high = share_interval([0, 1, 5, 10, 0], [10, 1, 10, 10, 0])
    assert (low[0], high[0]) == (0, pytest.approx(1 - 0.025 ** 0.1)) and (low[3], high[3]) == (pytest.approx(0.025 ** 0.1), 1)
    assert (low[1], high[1]) == (pytest.approx(0.025), 1) and np.isnan([low[4], high[4]]).all()
    assert low[2] == pytest.approx(1 - high[2]) == pytest.approx(beta.ppf(0.025, 5.4, 5.6))
    images, sure, share = confidence_bins([0.0, 0.1, 0.11, 1.0, math.nan], [1, 0, 1, 1, 0])
    assert images.tolist() == [3, 1, 1] and share.tolist() == [pytest.approx(1 / 3), 1, 1] and sure[1:].tolist() == [0.11, 1]
    sure, images, hits = answered([0.9, 0.5], [0.5, 0.2])
    assert (sure.tolist(), images.tolist(), hits.tolist()) == ([0.9, 0.5, 0.2], [1, 3, 4], [1, 2, 2])
    found = choose_threshold([0.9] * 99, [0.1], 0.99)
    assert found[:2] == (0.9, 0.99) and found[2][0] == 1
    refused(choose_threshold, [0.9] * 97, [0.1], 0.99, match="so few never could")
    refused(choose_threshold, [0.9], [0.1] * 200, 0.99, match="no threshold shows it.$")


def test_balanced_weights_and_classes():
    assert balanced_weights([0, 0, 0, 1], 3) == [round(4 / 9, 6), round(4 / 3, 6), round(4 / 3, 6)]
    means = class_means(np.array([0, 0, 1, 1, 2]), np.eye(5)[[0, 1, 1, 1, 0]])
    assert means["balanced_accuracy"][0] == pytest.approx(0.5) and means["macro_f1"][0] == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert "top_2" not in class_means(np.array([0, 1]), np.eye(4)[[0, 1]])
    assert class_means(np.array([0, 1, 2]), np.array([[5, 4, 3, 0, 0]] * 3) / 12)["top_2"][0] == pytest.approx(2 / 3)
    assert mcnemar([1, 1, 0, 1], [0, 0, 1, 1])[:2] == (2, 1) and mcnemar([1, 0], [0, 1])[2] == 1
    assert mcnemar([1] * 3, [0] * 3)[2] == pytest.approx(1 / 8)
    assert average_precision([1, 0, 1], [3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2) and average_precision([1, 0], [1, 1]) == 0.5


def test_how_often_two_weeks_differ_by_chance():
    here = np.arange(100)
    assert ks_p(here, here, 100) == 1 and ks_p(here, here + 1000, 100) < 1e-20
    size = math.sqrt(50)
    assert ks_p(here, here[::-1] + 20, 100) == pytest.approx(kolmogorov(0.2 * (size + 0.12 + 0.11 / size)))
    for freedom in (1, 2, 5, 8): assert chi_square_p(4.5, freedom) == pytest.approx(chdtrc(freedom, 4.5))
    assert chi_square_p(0, 3) == 1 and shares_p(np.array([5, 5]), np.array([50, 50])) == pytest.approx(1)
    assert shares_p(np.array([10, 0]), np.array([0, 10])) == pytest.approx(chdtrc(1, 20))


def test_a_metric_with_its_interval():
    rows = {"a": [1.0, 0.5, 1.0], "b": [0.5, math.nan, math.nan], "f1/a": [1.0, 0.25, 1.0]}
    table = pd.DataFrame(rows, index=["value", "low", "high"]).T
    assert with_interval(table, "a") == "1.000 (0.500–1.000)" and with_interval(table, "b") == "0.500 (too few images to tell)"
    assert with_interval(table, "f1/a") == "100% (25.0–100)"


def test_pairs_of_copies_side_by_side():
    data = {"images": np.zeros((4, 8, 8), np.uint8), "paths": np.array([b"a", b"b", b"c", b"d"])}
    rows = [{"split": "train", "label": "x", "image": image, "distance": 1.25} for image in "abcd"]
    picture = plot_copies(SimpleNamespace(splits={"train": data}), pd.DataFrame(rows), most=1)
    assert [axes.get_title() for axes in picture.axes] == ["train, x\n1.2 apart", "train, x\n", ""]


def test_near_copies_are_found_and_those_by_chance_estimated():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 12, 12)).astype(np.uint8)
    images = np.concatenate([images, np.roll(images[:5], 1, axis=2)])
    pairs, distances, limit, chance = near_pairs(coarse_views(images))
    assert pairs.tolist() == [[i, 200 + i] for i in pairs[:, 0]] and sorted(pairs[:, 0]) == [0, 1, 2, 3, 4]
    assert (distances < limit).all() and (np.diff(distances) >= 0).all() and chance >= 0


def test_the_pictures_of_a_search(monkeypatch):
    trials = [SimpleNamespace(number=i, params={"lr": 10.0**-i, "model": "ab"[i % 2]}, values=[1 - i / 10]) for i in range(3)]
    study = SimpleNamespace(about={"monitor": ["val_acc"]}, space={"lr": read_parameter("lr=tag(log,interval(0.01,1.0))"),
                                                                   "model": read_parameter("model=a,b")})
    monkeypatch.setattr(findings, "best_trials", lambda study: trials)
    monkeypatch.setattr(findings, "front_of", lambda study: {0})
    slices, lines = findings.plot_slices(study), findings.plot_parallel(study)
    assert slices.get_size_inches().tolist() == pytest.approx([5.2, 2.8])
    assert lines.get_size_inches().tolist() == pytest.approx([5.4, 3])
    assert [axes.get_xscale() for axes in slices.axes] == ["log", "linear"] and slices.axes[0].get_ylabel() == "val_acc"
    drawn = [line.get_ydata().tolist() for line in lines.axes[0].lines]
    assert drawn == [pytest.approx([0, 0, 0]), pytest.approx([0.5, 1, 0.5]), pytest.approx([1, 0, 1])], "the best one lies on top"
    assert [line.get_color() for line in lines.axes[0].lines] == ["0.8", figures.COLORS[0], figures.COLORS[0]]


# --- what the first count of mutants had found ---

@pytest.mark.parametrize("usual, odd, fine", [(7, 3, True), (6, 4, False), (1, 0, True)])
def test_the_shape_that_most_images_have(usual, odd, fine, tmp_path):
    files = [f"{i}.png" for i in range(usual + odd)]
    for i, file in enumerate(files):
        (tmp_path / file).write_bytes(pictures.encode_png(np.zeros((2, 3) if i < usual else (5, 5), np.uint8)))
    if fine: assert images.settle(tmp_path, files, pictures.Look())[1] == (2, 3)
    else: refused(images.settle, tmp_path, files, pictures.Look(), match="2 different sizes")
    assert images.settle(tmp_path, [*files, "gone.png"], pictures.Look(resize=(4, 4), color=True))[1] == (3, 4, 4)


@pytest.mark.parametrize("freeze, slow, groups", [(True, 0.1, [{}]), (False, 0.1, [{}, {"lr": 0.1}]), (False, None, [{}, {}])])
def test_the_speeds_of_a_backbone(freeze, slow, groups):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    net.get_classifier = lambda: net[2]
    timm = Timm.__new__(Timm)
    torch.nn.Module.__init__(timm)
    timm.net, timm.freeze, timm.backbone_lr = net, freeze, slow
    found = timm.groups()
    assert [{key: value for key, value in group.items() if key != "params"} for group in found] == groups
    assert [len(group["params"]) for group in found] == [2, 4][:len(groups)]
    timm.train()
    assert [module.training for module in net] == [not freeze, not freeze, True]
    timm.eval()
    assert not any(module.training for module in net) and torch.equal(timm(torch.ones(1, 2)), net(torch.ones(1, 2)))


def test_labels_that_a_network_doubts_come_first():
    train = ImageDataset(np.zeros((3, 2, 2)), np.array([0, 1, 2]), np.zeros(3), np.array([b"x", b"y", b"z"]), [*"abc"])
    table = ranked(train, np.array([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.1, 0.2, 0.7]]))
    assert table.values.tolist() == [["y", "b", "a", -0.5], ["x", "a", "b", 0.2], ["z", "c", "b", 0.5]]


def test_a_file_of_another_data_set_is_refused(tmp_path):
    for name in sources.MNIST_FILES: (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"x"))
    refused(sources.build_fashion, tmp_path / "new", tmp_path, match="another checksum")


def test_the_version_that_is_meant(monkeypatch):
    known = {"abcd1": {"note": "first"}, "abcd2": {"note": "again"}, "abxx3": {"note": "again"}}
    monkeypatch.setattr(store, "known_versions", lambda folder: known)
    monkeypatch.setattr(store, "note_of", lambda name: known[name]["note"])
    monkeypatch.setattr(store, "read_version", lambda fingerprint, folder: fingerprint)
    assert store.find_version("abcd1") == store.find_version("first") == "abcd1"
    assert store.find_version("abxx") == store.find_version("again") == "abxx3", "the last of that note"
    refused(store.find_version, "abcd", match="may be abcd1 or abcd2"), refused(store.find_version, "abx", match="no version `abx`")
    refused(store.find_version, "", match="no version")


def test_near_pairs_by_chance_are_counted_from_those_a_little_farther_apart():
    points = np.random.default_rng(0).standard_normal((500, 2)).astype(np.float32)
    _, distances, limit, chance = near_pairs({(0, 0): points})
    apart = np.linalg.norm(points[:, None] - points, axis=2)[np.triu_indices(500, 1)]
    assert len(distances) == (apart < limit).sum() and distances.tolist() == pytest.approx(sorted(apart[apart < limit]), abs=1e-5)
    first, second = (((apart >= low) & (apart < low * 1.5**0.5)).sum() for low in (limit, 1.5**0.5 * limit))
    assert second > first and chance == pytest.approx(first**2 / (second - first))


@pytest.mark.parametrize("images", [np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 5), np.uint8), np.zeros((4, 4), np.uint8)])
def test_images_that_are_not_the_models(images):
    model = exported.ExportedModel.__new__(exported.ExportedModel)
    model.path, model.image_shape, model.input, sizes = "a.onnx", (4, 4), "x", []
    model.session = SimpleNamespace(run=lambda outputs, given: sizes.append(len(given["x"])) or [np.ones((len(given["x"]), 2))])
    refused(model, images, match=r"takes uint8 images of the shape \[4, 4\]")
    assert model(np.zeros((5, 4, 4), np.uint8), most=2).shape == (5, 2) and sizes == [2, 2, 1]
    assert model(np.zeros((0, 4, 4), np.uint8)).shape == (0, 2)


def test_what_git_says_of_the_working_folder(monkeypatch):
    def state(*lines):
        monkeypatch.setattr(runfolder.subprocess, "run", lambda *words, **settings: SimpleNamespace(stdout="\n".join(lines)))
        return runfolder.git_state()

    head = ["# branch.oid abc", "# branch.head a/b", "# branch.upstream o/a/b", "# branch.ab +1 -0", "# x"]
    assert state(*head) == {"commit": "abc", "branch": "a/b", "dirty": False}
    assert state(*head, "? new.py")["dirty"] and state() == {"commit": None, "branch": None, "dirty": False}


def test_what_a_comparison_of_two_checkpoints_leaves_open():
    assert luck_note({"seed": 1}, {"seed": 2}).startswith("The two differ in nothing but the seed")
    assert luck_note({"seed": 1, "a": 1}, {"seed": 2, "a": 2}).startswith("This is about these two checkpoints.")
    assert signed((-0.0123, 0.034)) == "-1.2 to +3.4"


# --- words ---

@pytest.mark.parametrize("value, text", [
    (None, "null"), (True, "true"), (1, "1"), (0.001, "0.001"), ("a'b", r"'a\'b'"), ([1, "a"], "[1,'a']"),
    ({"a": [None]}, "{a: [null]}")])
def test_a_value_as_hydra_writes_it(value, text):
    assert quote(value) == text and parse_value(f"x={text}") == ("x", value)
    refused(quote, object()), refused(quote, {"a b": 1}, match="can't be the name"), refused(parse_value, "~x", match="one plain")
    for word in ("x=1,2", "+x=1"): refused(parse_value, word, match="one plain key=value")


def test_words_for_a_person():
    assert as_word("a", "b/c") == "a=b/c" and as_word("a", "b, c") == "a='b, c'" and as_typed("a", "b, c") == "\"a='b, c'\""
    assert in_words("int | list[str] | None") == "int, a list of str or null" and in_words("tuple[int, str]") == "[int, str]"
    assert str(mistyped("a", "bool", "yes")).endswith("not 'yes'. Truth values are written true and false.")
    assert str(mistyped("a", "int", "yes")) == "`a` must be int, not 'yes'."
    assert str(mistyped("a", "int", "x" * 198)).count("x") == 198 and str(mistyped("a", "int", "x" * 199)).endswith("xxx....")
    refused(parse_override, "a=" + "b" * 9_999, match="can't be read"), parse_override("a=" + "b" * 9_998)


def test_what_each_change_to_an_image_is():
    x, seeds = torch.arange(50.0).reshape(2, 1, 5, 5), {}
    for name in ("rotate", "zoom", "flip", "erase", "colour", "crop"):
        torch.manual_seed(1)
        seeds[name] = augment.changed_by(name, 1 if name in ("flip", "erase", "crop") else 0.9, x)
    assert torch.equal(seeds["flip"], x.flip(-1)) and torch.allclose(seeds["rotate"], x, atol=0.5), "by less than a degree"
    assert not torch.allclose(seeds["zoom"], x, atol=1) and all(not torch.equal(found, x) for found in seeds.values())
    assert torch.allclose(seeds["zoom"][:, 0, 2, 2], x[:, 0, 2, 2], atol=1e-3), "the middle stays"


def test_metrics_of_ones_own_stand_at_the_end_of_the_table():
    usual = pd.DataFrame({"accuracy": [0.5, 0.4, 0.6], "f1/a": [0.5, 0.4, 0.6], "macro_f1": [0.5, 0.4, 0.6]},
                         index=["value", "low", "high"]).T
    logits, labels = np.array([[3.0, 2, 1], [3, 1, 2], [1, 3, 2], [1, 2, 3]]), np.array([0, 1, 1, 2])
    own = build_metrics({"top2": {"_target_": "torchmetrics.classification.MulticlassAccuracy", "top_k": 2, "average": "micro"},
                         "accuracy": {"_target_": "torchmetrics.classification.MulticlassAccuracy", "average": "micro"}}, 3)
    add_own(table := usual.copy(), SimpleNamespace(module=SimpleNamespace(metrics=own)), logits, labels)
    assert [*table.index] == ["accuracy", "f1/a", "macro_f1", "top2", "metrics.accuracy"]
    assert table.loc["top2", "value"] == table.loc["metrics.accuracy", "value"] == 0.75 and table.loc["top2", "low"] < 0.75
    add_own(usual, SimpleNamespace(module=SimpleNamespace(metrics={})), logits, labels)
    assert [*usual.index] == [*table.index][:3]
    names = overall(table)
    assert names["macro_f1"] == "macro F1" and "f1/a" not in names and [*names][-2:] == ["top2", "metrics.accuracy"]


def test_the_pictures_of_a_dataset(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures.Picture, "png", lambda picture: b"")
    data = arrays(train=np.arange(8).reshape(2, 2, 2))
    data.splits["train"]["paths"] = np.array([b"a", b"b"])
    near = pd.DataFrame([{"split": "train", "label": "x", "image": image, "distance": 1.0} for image in "ab"])
    for table, copies in ((None, False), (near[:0], False), (near, True)):
        save_pictures(data, tmp_path / str(copies), table)
        names = {file.name for file in (tmp_path / str(copies)).iterdir()}
        assert names == {"images.png", "means.png", "histogram.png", *["copies.png"] * copies}


def test_a_coloured_image_among_grey_ones_is_found(tmp_path):
    for name in "ab": (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(60):
        pixels = np.full((2, 2), i, np.uint8)
        if i == 1: pixels = np.stack([pixels, pixels + 99, pixels])
        (tmp_path / "data" / "ab"[i // 30] / f"{i:02}.png").write_bytes(pictures.encode_png(pixels))
    found = images.open_images(tmp_path / "data", cache=tmp_path / "cache")
    assert found.image_shape == [3, 2, 2] and len(found.splits["train"]["labels"]) == 60


def test_tensors_under_their_former_names():
    old, new = torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 3))
    for names in (old.state_dict(), new.state_dict()):
        state = {"x." + name: tensor for name, tensor in names.items()} | {"y": 1}
        under_present_names(new, state, "x.")
        assert state.keys() == {"x.1.weight", "x.1.bias", "y"} and state["x.1.bias"] is names[[*names][1]]
    state = {"x.other": torch.zeros(7)}
    under_present_names(new, state, "x.")
    assert state.keys() == {"x.other"}


def test_a_stranger_opens_no_connection():
    def kept(**section): return strangers.sift({"logger": section}, "a.yaml")[0]["logger"]
    assert kept(uri="example", host="h", x="y") == {"x": "y"} and kept(uri="sqlite:///a.db") == {}
    assert kept(uri="sqlite:///mlflow.db") == {"uri": "sqlite:///mlflow.db"}, "the usual one"
    assert kept(x="${oc.env:HOME}") == {} == kept(host="${oc.env:HOME}") and kept(host=None, port=3) == {"host": None, "port": 3}


def test_the_images_on_which_two_disagree():
    def answers(*rows): return SimpleNamespace(
        predictions=np.argmax(rows, 1), probabilities=np.array(rows), classes=["x", "y"], labels=np.array([0, 0, 1]),
        right=np.argmax(rows, 1) == [0, 0, 1], paths=[*"pqr"], images=np.zeros((3, 4, 4), np.uint8))
    two = Comparison.__new__(Comparison)
    two.a, two.b = answers([0.9, 0.1], [0.2, 0.8], [0.6, 0.4]), answers([0.4, 0.6], [0.7, 0.3], [0.7, 0.3])
    assert contested_images(two).tolist() == [1, 0]
    assert two.disagreements.values.tolist() == [["q", "x", "y (80%)", "x (70%)", "B"], ["p", "x", "x (90%)", "y (60%)", "A"]]
    picture = plot_disagreements(two, 1)
    assert picture.get_suptitle() == "2 images on which the two disagree"
    assert [axes.get_title() for axes in picture.axes][:2] == ["truth x\nA y (80%)\nB x (70%)", ""]


def test_what_is_left_of_a_picture_a_mean_and_a_run():
    with pytest.raises(pictures.BadImage, match="truncated"):  # within the checksum of its first chunk
        pictures.png_chunks(pictures.encode_png(np.zeros((2, 2), np.uint8))[:31])
    assert mean_and_deviation(np.array([[[85, 86]]], np.uint8)) == {"mean": [0.3353], "std": [0.002]}
    told = signals.in_our_words(RuntimeError("Connection closed by peer"), Run(Path("runs/a/b")))
    assert "has died" in str(told) and "resume=" in str(told)
    finished = SimpleNamespace(path="runs/a/b", status="finished")
    assert str(signals.what_is_left(finished, 2)) == "interrupted, when runs/a/b had finished"
