"What predict says about pictures, files that are none, and models of other people."

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_evaluate import make_dataset, make_run

from dlops_mnist.models import load
from dlops_mnist.parts.command import run_command
from dlops_mnist.parts.core import UserError
from dlops_mnist.predict import answers, choose_threshold, deliver, find_pictures, open_model, predict, print_predictions, sureness

SURE = {"right": [0.9] * 300 + [0.6] * 20, "wrong": [0.6] * 10}


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A model that says how light an image is, and a few pictures."
    monkeypatch.chdir(tmp_path)
    tiny.onnx_model(tmp_path / "m.onnx", sure=SURE)
    (tmp_path / "in" / "deep" / ".hidden").mkdir(parents=True)
    for name, grey in (("in/a.png", 255), ("in/deep/b.jpg", 0), ("in/deep/.hidden/c.png", 0)):
        Image.new("L", (56, 56), grey).save(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path


def said(capsys, *words) -> tuple[str, str]:
    "What the command prints: stdout, stderr."
    try: run_command(print_predictions, list(map(str, words)))
    except SystemExit as end: assert end.code == 2
    return capsys.readouterr()


def test_a_folder_is_answered_and_what_is_no_picture_is_a_row_with_its_reason(place, capsys):
    out, _ = said(capsys, "m.onnx", "in", "out=p.csv")
    rows = list(csv.DictReader(open("p.csv")))
    assert [row["image"] for row in rows] == ["in/a.png", "in/notes.txt", "in/deep/b.jpg"]
    assert [row["class"] for row in rows] == ["light", "", "dark"] and "not a picture" in rows[1]["error"]
    assert float(rows[0]["probability"]) == 1 and rows[0]["class_2"] == "dark" and not rows[0]["error"]
    assert out == "p.csv: 3 answers, 1 that can't be read\n" and not list(place.glob(".*part"))


def test_few_are_a_table_and_many_are_csv(place, capsys):
    assert "light" in said(capsys, "m.onnx", "in/a.png")[0].splitlines()[1]
    lines = said(capsys, "m.onnx", *["in/a.png"] * 30, "top=1")[0].splitlines()
    assert lines[0] == "image,class,probability,error" and len(lines) == 31 and lines[1] == "in/a.png,light,1.0,"


def test_json_lines_and_doubt(place, capsys):
    Image.new("L", (28, 28), 100).save("in/grey.png")
    said(capsys, "m.onnx", "in", "out=p.jsonl", "threshold=0.9", "figures=pictures")
    rows = [json.loads(line) for line in open("p.jsonl")]
    assert {row["image"]: row["doubtful"] for row in rows if "class" in row} == {
        "in/a.png": False, "in/grey.png": True, "in/deep/b.jpg": False}
    assert Image.open("pictures/predictions.png").size[0] > 100


def test_a_table_and_standard_input_name_pictures(place, capsys, monkeypatch):
    (place / "in" / "list.csv").write_text("label,image\nx,a.png\ny,deep/b.jpg\nz,gone.png\n")
    assert list(find_pictures(["in/list.csv"])) == ["in/a.png", "in/deep/b.jpg", "in/gone.png"]
    monkeypatch.setattr("sys.stdin", iter(["in/a.png\n", "\n", "gone.png\n"]))
    said(capsys, "m.onnx", "out=p.csv")
    assert ["light", ""] == [row["class"] for row in csv.DictReader(open("p.csv"))]
    monkeypatch.setattr("sys.stdin", iter(["in/grey.png\n"]))
    said(capsys, "m.onnx", "in/a.png", "-", "out=p.csv")
    assert ["in/a.png", "in/grey.png"] == [row["image"] for row in csv.DictReader(open("p.csv"))]


def test_an_accuracy_chooses_the_threshold(place, capsys):
    out, err = said(capsys, "m.onnx", "in/a.png", "accuracy=0.99")
    assert err.startswith("threshold=0.9: 91% of the validation images are answered, 100.0% of those right (95% interval 98.8%")
    assert "not to be reached" in said(capsys, "m.onnx", "in/a.png", "accuracy=0.999")[1]


@pytest.mark.parametrize("words, sentence", [
    (["m.onnx"], "Which pictures?"), (["m.onnx", "gone"], "There is no picture or folder `gone`"),
    (["gone.onnx", "in"], "There is no exported model `gone.onnx`. Did you mean `m.onnx`?"),
    (["gone", "in"], "There is no checkpoint or run"),
    (["m.onnx", "in", "out=x.txt"], ".csv or .jsonl"),
    (["in/notes.txt", "in"], "damaged, cut short, or no checkpoint"), (["in", "in"], "is not a run's folder"),
    (["m.onnx", "in", "threshold=2"], "between 0 and 1"),
    (["m.onnx", "in", "threshold=0.5", "accuracy=0.9"], "exclude one another")])
def test_mistakes_are_told(place, capsys, monkeypatch, words, sentence):
    monkeypatch.setattr("sys.stdin", iter([]))
    before = sorted(place.rglob("*"))
    assert sentence in said(capsys, *words)[1] and sorted(place.rglob("*")) == before


def test_an_exported_model_answers_without_pytorch(place):
    code = "import sys; from dlops_mnist.predict import *; print_predictions('m.onnx', 'in')\n" \
           "assert not {'torch', 'pandas'} & sys.modules.keys()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment, capture_output=True)


def test_thresholds_hold():
    right, wrong = np.linspace(0.5, 1, 1000), np.linspace(0.5, 0.8, 100)
    threshold, answered, (share, low, high) = choose_threshold(right, wrong, 0.97)
    good, bad = (right >= threshold).sum(), (wrong >= threshold).sum()
    assert share == good / (good + bad) >= 0.97 and low < share < high and answered == (good + bad) / 1100
    lower = np.sort(np.concatenate([right, wrong]))
    for other in lower[lower < threshold]:
        assert ((wrong >= other).sum() + 1) / ((right >= other).sum() + (wrong >= other).sum() + 1) > 0.03, "a lower one would do"
    with pytest.raises(UserError, match="between 0 and 1"): choose_threshold(right, wrong, 1.0)


def test_a_checkpoint_answers_about_arrays_tensors_and_files(tmp_path):
    data = make_dataset(tmp_path / "data", ["no3", "3"])
    run = make_run(tmp_path / "run", data, val="test")
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), np.uint8)
    p = load(run).module.predict(torch.tensor(images)).cpu().numpy()
    for given in (images, torch.tensor(images)):
        table = predict(run, given, top=2)
        assert table["class"].tolist() == np.where(p > 0.5, "3", "no3").tolist()
        np.testing.assert_allclose(table["probability"], np.maximum(p, 1 - p), atol=2e-6)
    assert len(predict(run, images[0])) == 1 and len(predict(open_model(run), data / "test")) == 12
    with pytest.raises(UserError, match="takes uint8 images"): predict(run, images.astype(float))
    assert sum(map(len, sureness(open_model(run)).values())) == 12


def test_memory_does_not_grow_with_the_pictures(place):
    model, waiting = open_model("m.onnx"), [0, 0]

    def names():
        for _ in range(1000):
            waiting[0] += 1
            yield "in/a.png"

    for number, _ in enumerate(answers(model, names(), batch=10), 1): waiting[1] = max(waiting[1], waiting[0] - number)
    assert waiting[1] < 10


@pytest.mark.parametrize("terminal", [True, False])
def test_many_answers_write_no_control_codes_onto_a_terminal(monkeypatch, capsys, terminal):
    rows = [{"image": f"\x1b]0;owned\x07{number}.png", "class": "[bold]\x1b[31m", "probability": 0.5} for number in range(30)]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    deliver(iter(rows), None, ["image", "class", "probability"])
    said = capsys.readouterr().out
    assert said.count("\n") == 31 and ("\x1b" in said) is not terminal and "[bold]" in said
