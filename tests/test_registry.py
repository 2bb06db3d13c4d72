"""The registry: numbers, one champion at every moment, a gate before it, and a service that takes it up without a lost request."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_serve import ROOT, ask, png, serving, write_model

from dlops_mnist.parts.command import run_command
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.exported import ExportedModel, model_file
from dlops_mnist.parts.shelf import Shelf, enthrone, history, lines_of, writing
from dlops_mnist.registry import COMMANDS, promote, register, rollback


@pytest.fixture
def work(tmp_path, monkeypatch):
    "A working folder with three registered models: the second calls dark what is light, the third is as good as the first."
    monkeypatch.chdir(tmp_path)
    for split, seed in (("train", 0), ("test", 1)):
        for light, name in enumerate(("dark", "light", "left")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(12):
                noise = np.random.default_rng([seed, light, i]).integers(0, 9, (28, 28), np.uint8)
                image = np.full((28, 28), 20 + 200 * (light == 1), np.uint8) + noise
                if name == "left": image[:, :14] += 200
                Image.fromarray(image).save(folder / f"{i}.png")
    for number, bias in enumerate((0.0, 30.0, 0.01), 1):
        assert register(str(write_model(tmp_path / f"{number}.onnx", bias=bias)), name="tiny") == number
    return tmp_path


def gate_open(*words: object) -> bool:
    try: promote("tiny", *words, **{"datamodule.path": "data"})
    except UserError as error:
        assert "was not promoted" in str(error), error
        return False
    return True


def test_the_gate_lets_only_the_better_one_through(work):
    assert gate_open(2), "the first one meets nobody"
    assert gate_open(1) and Shelf("tiny").champion == 1, "right on 24 images more"
    assert not gate_open(2), "worse"
    assert not gate_open(3), "can't tell"
    assert Shelf("tiny").champion == 1
    promote("tiny", 3, force="smaller", **{"datamodule.path": "data"})
    rollback("tiny", note="no")
    assert Shelf("tiny").champion == 1
    rollback("tiny")
    assert Shelf("tiny").champion == 2
    with pytest.raises(UserError, match="nothing to go back to"): rollback("tiny")
    told = [(line["what"], line["version"]) for line in history(Shelf("tiny"))]
    assert told == [("registered", 1), ("registered", 2), ("registered", 3), ("promoted", 2), ("promoted", 1), ("refused", 2),
                    ("refused", 3), ("promoted", 3), ("rolled back", 1), ("rolled back", 2)]
    forced = history(Shelf("tiny"))[7]
    assert "Forced: smaller" in forced["why"] and "McNemar" in forced["why"] and forced["before"] == 1


@pytest.mark.parametrize("command", [["list"], ["show", "tiny"]])
def test_a_damaged_record_is_said_and_not_taken_for_an_unknown_one(work, command, capsys):
    promote("tiny", 1)
    Path("models/tiny/1/about.json").write_text('{"classes')
    with pytest.raises(SystemExit) as end: run_command(COMMANDS, command)
    assert end.value.code == 2
    assert "about.json` is missing or damaged" in capsys.readouterr().err


def test_names_of_models(work, capsys):
    promote("tiny", 1)
    assert model_file("models:/tiny@champion") == model_file("models:/tiny/1") == Path("models/tiny/1/model.onnx")
    assert ExportedModel("models:/tiny/2").classes == ["dark", "light", "left"]
    for word, said in {"models:/tinny@champion": "Did you mean `tiny`", "models:/tiny/9": "no version 9",
                       "models:/tiny": "is named", "models:/../x/1": "is named"}.items():
        with pytest.raises(UserError, match=said): model_file(word)
    for words, said in {"promote tinny 1": "Did you mean `tiny`", "promote tiny 8": "no version 8",
                        "promote tiny x": "no version x",
                        "promote tiny 2 forse=x": "Did you mean `force`", "register nothing": "no checkpoint or run"}.items():
        with pytest.raises(SystemExit) as stop: run_command(COMMANDS, words.split())
        err = capsys.readouterr().err
        assert stop.value.code == 2 and said in err and "Traceback" not in err, err
    run_command(COMMANDS, ["list"])
    run_command(COMMANDS, ["show", "tiny"])
    out = capsys.readouterr().out
    assert "champion" in out and "registered" in out and "promoted" in out


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_while_promoting_there_is_always_one_champion(work, kills):
    shelf, chance = Shelf("tiny"), random.Random(kills)
    enthrone(shelf, "promoted", 1, "first")
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            for i in range(10_000):
                with writing(shelf): enthrone(shelf, "promoted", 1 + i % 3, "again")
            os._exit(0)
        time.sleep(chance.uniform(0.005, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert shelf.champion in (1, 2, 3) and ExportedModel("models:/tiny@champion")
        with writing(shelf): pass
        assert lines_of(shelf)[-1] == json.loads(shelf.alias.read_text()), "the history says what the alias says"


def test_a_line_that_was_cut_off_spoils_no_other(work):
    shelf = Shelf("tiny")
    enthrone(shelf, "promoted", 1, "first")
    whole = shelf.log.read_bytes()
    shelf.log.write_bytes(whole[:-30])
    enthrone(shelf, "promoted", 2, "next")
    assert [line["version"] for line in lines_of(shelf)] == [1, 2, 3, 2]


@pytest.mark.parametrize("requests", [1200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_new_champion_is_taken_up_without_a_lost_request(work, requests):
    enthrone(Shelf("tiny"), "promoted", 1, "first")
    body, found = png(np.full((28, 28), 160, np.uint8)), []
    with serving("models:/tiny@champion", cwd=work) as service:
        def client():
            for _ in range(requests // 4): found.append(ask(service.address, "predict", body))

        clients = [threading.Thread(target=client) for _ in range(4)]
        for one in clients: one.start()
        while len(found) < requests // 4: time.sleep(0.01)
        enthrone(Shelf("tiny"), "promoted", 2, "swap")
        for one in clients: one.join()
        assert len(found) == requests // 4 * 4 and {status for status, *_ in found} == {200}
        deadline = time.monotonic() + 20
        while json.loads(ask(service.address, "predict", body)[2])["label"] != "dark": assert time.monotonic() < deadline
        assert json.loads(found[0][2])["label"] == "light"
        assert json.loads(ask(service.address, "model")[2])["file"].endswith("2/model.onnx")
        Shelf("tiny").file(3).write_bytes(b"damaged")
        enthrone(Shelf("tiny"), "promoted", 3, "bad")
        time.sleep(2.5)
        assert json.loads(ask(service.address, "predict", body)[2])["label"] == "dark", "the old one answers on"


def test_what_a_service_kept_is_held_against_the_validation_images(work, capsys):
    from dlops_mnist.parts.collect import Kept
    from dlops_mnist.versions import show_drift

    known = [np.asarray(Image.open(file)) for file in sorted(work.glob("data/test/*/*.png"))]
    for name, images in {"same": known, "dark": [image // 2 for image in known]}.items():
        kept = Kept(work / name)
        facts = {"label": "dark", "probability": 0.9, "why": "chance", "model": "models/tiny/1/model.onnx"}
        for image in images: kept.keep(image, facts)
    setting = {"datamodule.path": "data", "datamodule.val": "test"}
    found = show_drift("same", **setting)
    assert found == show_drift("same", model="models:/tiny/1", **setting)
    with pytest.raises(UserError, match="no exported model `nix.onnx`"): show_drift("same", model="nix.onnx", **setting)
    assert min(p for *_, p in found) == 1 and "No change" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop: show_drift("dark", **setting)
    assert stop.value.code == 1 and "changed: brightness" in capsys.readouterr().out
    with pytest.raises(UserError, match="too few"): show_drift("empty", **setting)
    with pytest.raises(UserError, match="Unknown setting `pth`"): show_drift("same", pth="data", **setting)


@pytest.mark.slow
def test_the_circle_closes(tmp_path):
    "As `make circle` goes around: the gate, the way back, and the first run repeated bit by bit."
    command = [sys.executable, ROOT / "tools/circle.py", tmp_path / "circle"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "The circle is closed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert "digits 2 is the champion now" in done.stdout and "was not promoted" in done.stdout
    assert "<svg" in (tmp_path / "circle/circle.html").read_text() and "bit by bit" in (tmp_path / "circle/circle.svg").read_text()


@pytest.mark.slow
def test_what_mlflow_has_is_read_back_by_its_client(work, monkeypatch):
    "The registered model loads there, answers as ours does, and carries our number and fingerprint."
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{work}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{work}/mlflow.db")
    assert register("1.onnx", name="tiny", mirror="mlflow") == 4
    [found] = mlflow.MlflowClient().search_model_versions("name='tiny'")
    assert found.tags["dlops_mnist.version"] == "4"
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    loaded = mlflow.pyfunc.load_model(f"models:/tiny/{found.version}")
    [answers] = loaded.predict(images).values()
    assert np.allclose(answers, ExportedModel("models:/tiny/4")(images), atol=1e-6)
    with pytest.raises(UserError, match="the one there is is mlflow"): register("1.onnx", name="tiny", mirror="wandb")
