"What evaluate and compare do with runs, bare checkpoints, other datasets and bad files."

import json
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from browser import MISSING, browser, handed_out
from PIL import Image

from dlops_mnist import evaluate as module_under_test
from dlops_mnist.dataset import MNISTDataModule, open_dataset
from dlops_mnist.evaluate import compare, draw_pictures, evaluate, find_checkpoint, print_evaluation
from dlops_mnist.models import MNISTModule, load, predict
from dlops_mnist.parts.callbacks import Results, draw
from dlops_mnist.parts.command import run_command
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.metrics import class_columns

SHIPPED = Path(__file__).parent.parent / "dataset"
FILES = {"metrics.json", "confusion_matrix.png", "roc.png", "mistakes.png", "calibration.png", "answered.png", "report.html"}


def make_dataset(path: Path, classes, size=(28, 28), per_class=6, seed=0) -> Path:
    "A small dataset of noise; class k is a little brighter than class k - 1."
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for k, name in enumerate(classes):
            (path / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 100, size) + 150 * k // len(classes)
                Image.fromarray(pixels.astype(np.uint8)).save(path / split / name / f"{i}.png")
    return path


def make_run(folder: Path, data: Path, epochs=2, model=None, **settings) -> Path:
    "A run's folder as `train` leaves it."
    datamodule = MNISTDataModule(path=data, **settings)
    datamodule.setup()
    section = {"path": data, "classes": datamodule.classes, "image_shape": datamodule.image_shape, **settings}
    pl.seed_everything(0, verbose=False)
    module = MNISTModule({"datamodule": section, "model": model or {"_target_": "dlops_mnist.models.MLP"}})
    trainer = pl.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, log_every_n_steps=1)
    trainer.fit(module, datamodule)
    (folder / "checkpoints").mkdir(parents=True)
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    provenance = {"status": "finished", "fingerprint": datamodule.fingerprint, "command": "<script>alert(1)</script>"}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A dataset and a trained run, shared by the tests, which change neither."
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(SHIPPED, place / "dataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_run(place / "runs" / "001" / "long", place / "dataset", 6)
        make_run(place / "runs" / "001" / "short", place / "dataset", 1)
    return place


@pytest.fixture
def run(place, tmp_path):
    "A run of one's own."
    return Path(shutil.copytree(place / "runs" / "001" / "long", tmp_path / "runs" / "001" / "long"))


def series_accuracy(checkpoint, loader_name, **settings):
    "The series' own evaluation loop, as published."
    module = MNISTModule.load_from_checkpoint(checkpoint)
    dm = MNISTDataModule(**module.hparams["datamodule"] | settings)
    dm.setup()
    correct = total = 0
    for imgs, labels in getattr(dm, loader_name)():
        p = module.predict(imgs)
        predicted = p > 0.5 if p.ndim == 1 else p.argmax(1)
        correct += (predicted == labels).sum().item()
        total += len(labels)
    return correct / total


def test_run_gets_all_files_and_agrees_with_the_series(run):
    for split, loader in (("val", "val_dataloader"), ("test", "test_dataloader")):
        evaluation = evaluate(run, split)
        assert evaluation.accuracy == series_accuracy(run / "checkpoints" / "best.ckpt", loader)
    assert {path.name for path in (run / "evaluation").iterdir()} == FILES
    written = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert written["metrics"]["accuracy"]["value"] == evaluation.accuracy and written["warnings"] == []
    assert np.array(written["confusion_matrix"]).sum() == written["images"] == 80
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (run / "evaluation").glob("*.png"))


def test_roc_curves_are_drawn_from_probabilities(run):
    e = evaluate(run, draws=20)
    results = Results(e.labels, e.probabilities, e.classes, dict(enumerate(e.images)))
    for picture in (draw_pictures(e)["roc"], draw(results)["roc"]):
        assert max(len(line.get_xdata()) for line in picture.axes[0].lines) > 3, "decisions have a single corner"


def test_report_is_one_safe_page(run):
    evaluate(run)
    page = (run / "evaluation" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and "&lt;script&gt;" in page and "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "http" not in page.replace("http-equiv", "")
    assert 'width="440"' in page, "pictures have two pixels for each that they take"
    assert "80 images" in page and "datamodule.batch_size" not in page.split("<details>")[0]


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("width", [1100, 400])
def test_report_breaks_no_figure(run, width):
    evaluate(run, draws=20)
    with handed_out(run / "evaluation") as address, browser(width) as page:
        page.open(f"{address}report.html")
        lines = page.run("return [...document.querySelectorAll('b')].map(b => Math.round(b.offsetHeight / 42))")
        assert len(lines) > 8 and {*lines} == {1}
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")


def test_older_evaluation_survives_a_failure_and_is_replaced_by_a_success(run, monkeypatch):
    evaluate(run, draws=20)
    (run / "evaluation" / "my-notes.txt").write_text("mine")
    before = (run / "evaluation" / "metrics.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module_under_test, "report_page", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError): evaluate(run, "val", draws=20)
    assert (run / "evaluation" / "metrics.json").read_bytes() == before
    evaluate(run, "val", draws=20)
    assert json.loads((run / "evaluation" / "metrics.json").read_text())["split"] == "val"
    assert {path.name for path in (run / "evaluation").iterdir()} == FILES | {"my-notes.txt"}


def test_bare_checkpoint_writes_only_where_told(run, tmp_path, capsys):
    bare = tmp_path / "final.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", bare)
    print_evaluation(str(bare), draws=20)
    assert "out=DIR" in capsys.readouterr().out and set(tmp_path.iterdir()) == {bare, tmp_path / "runs"}
    assert evaluate(bare, out=tmp_path / "a" / "b", draws=20).folder == tmp_path / "a" / "b"
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == FILES
    with pytest.raises(UserError, match="out=DIR"): evaluate(bare, out=bare, draws=20)


def test_fingerprint_travels_with_a_checkpoint(run, tmp_path):
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save(state | {"dlops_mnist": {"fingerprint": "f" * 64}}, tmp_path / "away.ckpt")
    [warning] = evaluate(tmp_path / "away.ckpt", draws=20).warnings
    assert "is not the dataset" in warning and "f" * 12 in warning


def test_seen_images_and_another_dataset_are_noticed(run, place, tmp_path):
    assert evaluate(run, draws=20).warnings == []
    [warning] = evaluate(run, "train", draws=20).warnings
    assert re.match(r"(\d+) of the \1 evaluated images were in the model's training set", warning)
    # five training images slip into the test set of a copy
    other = Path(shutil.copytree(place / "dataset", tmp_path / "other"))
    seen = load(run)
    dm = open_dataset(seen.config["datamodule"])
    for i, image in enumerate([path for path in dm.train_df.image if "/3/" in path][:5]):
        shutil.copy(place / "dataset" / image, other / "test" / "3" / f"slipped{i}.png")
    another, leaked = evaluate(run, draws=20, path=other).warnings
    assert "is not the dataset" in another and leaked.startswith("5 of the 85 evaluated images")


def test_images_that_chose_the_checkpoint_are_noticed(tmp_path):
    run = make_run(tmp_path / "run", make_dataset(tmp_path / "data", ["a", "b"]), 1, val="test")
    warning = evaluate(run, draws=20).warnings[-1]
    assert warning.startswith("12 of the 12") and "validation set" in warning
    chose = evaluate(run, "val", draws=20).warnings[-1]
    assert chose.startswith("These images chose the checkpoint")


def test_a_model_that_says_always_the_same_is_noticed(run):
    trained = load(run)
    trained.module.cpu().eval()
    with torch.no_grad():
        for parameter in trained.module.parameters(): parameter.zero_()
        [*trained.module.parameters()][-1].fill_(-5)  # the bias of the last layer
    said = module_under_test.measure(trained, open_dataset(trained.config["datamodule"]), draws=40).warnings
    assert said[:2] == ["The model never names `3`, though there are images of it.",
                        "It is no better than always naming the commonest class, `no3`: 50.0% right."]


def test_checkpoint_that_names_no_classes(run, tmp_path):
    "The series' own way: the config knows the dataset's path and nothing else."
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    state["hyper_parameters"]["datamodule"] = {"path": str(make_dataset(tmp_path / "three", ["a", "b", "c"]))}
    torch.save(state, tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match="2 classes apart, and .* has 3"): evaluate(tmp_path / "bare.ckpt", draws=20)
    two = make_dataset(tmp_path / "two", ["x", "y"])
    assert evaluate(tmp_path / "bare.ckpt", path=two, draws=20).classes == ["x", "y"]


def test_missing_or_changed_training_set_is_said(tmp_path):
    data = make_dataset(tmp_path / "data", ["a", "b"])
    run = make_run(tmp_path / "run", data)
    other = make_dataset(tmp_path / "other", ["a", "b"], seed=1)
    next((data / "train" / "a").iterdir()).unlink()
    assert any("has changed since the training" in text for text in evaluate(run, draws=20, path=other).warnings)
    shutil.rmtree(data)
    assert any("can't be checked" in text for text in evaluate(run, draws=20, path=other).warnings)
    with pytest.raises(UserError, match="data"): evaluate(run, draws=20)


@pytest.mark.parametrize("settings, words", [
    ({"split": "tset"}, "Did you mean `test`"),
    ({"batchsize": 5}, "Did you mean `batch_size`"),
    ({"batch_size": "many"}, "must be int"),
    ({"path": "no/such/folder"}, "There is no dataset"),
    ({"draws": 0}, "at least 1"),
])
def test_wrong_settings(run, settings, words):
    with pytest.raises(UserError, match=words): evaluate(run, **settings)


@pytest.mark.parametrize("classes, size, words", [
    (["cat", "dog"], (28, 28), "cat, dog.*no3, 3"), (["3", "no3"], (32, 32), "32, 32.*28, 28"),
    (["3", "no3", "x"], (28, 28), "classes"), (["3", "no3"], (28, 28, 3), "colou?r")])
def test_other_classes_or_image_size(run, tmp_path, capsys, classes, size, words):
    data = make_dataset(tmp_path / "data", classes, size)
    assert re.search(words, refusal(capsys, run, f"datamodule.path={data}"))


class Bomb:
    def __reduce__(self): return Path.touch, (Path("exploded"),)


def bad_files(good: Path, folder: Path) -> dict[str, Path]:
    state = torch.load(good, weights_only=True)
    contents = {
        "empty": b"", "text": b"hello", "picture": next(SHIPPED.rglob("*.png")).read_bytes(),
        "truncated": good.read_bytes()[:-2000], "middle": good.read_bytes()[: good.stat().st_size // 2],
        "pickle": pickle.dumps(Bomb()),
    }
    for name, content in contents.items(): (folder / f"{name}.ckpt").write_bytes(content)
    states = {
        "bomb": state | {"extra": Bomb()}, "weights": state["state_dict"], "list": [1, 2],
        "other_class": state | {"hyper_parameters": {"rate": 0.1}, "state_dict": {"layer.weight": torch.zeros(3)}},
        "evil_config": state | {"hyper_parameters": state["hyper_parameters"] | {"model": {
            "_target_": "os.system", "command": "touch exploded"}}},
    }
    for name, content in states.items(): torch.save(content, folder / f"{name}.ckpt")
    return {path.stem: path for path in folder.glob("*.ckpt")}


def refusal(capsys, *words):
    "What the command says of bad input: one message, and exit status 2."
    with pytest.raises(SystemExit) as exit: run_command(print_evaluation, [*map(str, words)])
    said = capsys.readouterr()
    assert exit.value.code == 2 and said.out == "" and said.err.startswith("error: ") and "Traceback" not in said.err
    return said.err


def test_bad_checkpoints_one_message_each_and_nothing_executed(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bad = bad_files(run / "checkpoints" / "best.ckpt", tmp_path)
    assert len(bad) == 11
    for name, path in bad.items():
        message = refusal(capsys, path)
        assert len(message) < 400 and message.count("\n") == 1 and (path.name in message or name == "evil_config"), name
    assert not (tmp_path / "exploded").exists()


def test_run_without_checkpoint_and_folder_of_runs(place, tmp_path):
    with pytest.raises(UserError, match="It holds 2 of them, the latest is"): find_checkpoint(place / "runs" / "001")
    once = tmp_path / "once"
    shutil.copytree(next((place / "runs" / "001").iterdir()), once / "run")
    assert find_checkpoint(once)[0] == once / "run/checkpoints/best.ckpt"  # the only one
    (tmp_path / "provenance.json").write_text('{"status": "failed"}')
    with pytest.raises(UserError, match="no checkpoint; its status is: failed"): find_checkpoint(tmp_path)
    for odd in ("", "a\0b", "x" * 5000, "/proc/self/nothing", tmp_path / "no" / "such" / "folder.ckpt"):
        with pytest.raises(UserError): find_checkpoint(odd)
    with pytest.raises(UserError, match="Did you mean `long`"): find_checkpoint(place / "runs" / "001" / "lnog")
    with pytest.raises(UserError, match="Did you mean `best.ckpt`"):
        find_checkpoint(place / "runs" / "001" / "long" / "checkpoints" / "bset.ckpt")


def test_many_classes_with_strange_names_and_colour(tmp_path, capsys):
    names = ["<b>bold", "[red]", "a=b", "ü", *(f"class {k}" for k in range(14))]
    data = make_dataset(tmp_path / "data", names, (8, 9, 3), per_class=8)
    cnn = {"_target_": "dlops_mnist.models.CNN", "filters": [4]}
    run = make_run(tmp_path / "run", data, 1, cnn, color=True)
    print_evaluation(str(run), draws=20)
    shown = capsys.readouterr().out
    assert "[red]" in shown and "<b>bold" in shown and "most frequent confusions" in shown
    page = (run / "evaluation" / "report.html").read_text()
    assert "&lt;b&gt;bold" in page and "<b>bold" not in page
    evaluation = evaluate(run, draws=20)
    assert evaluation.probabilities.shape == (8 * 18, 18)
    assert evaluation.accuracy == series_accuracy(run / "checkpoints" / "best.ckpt", "test_dataloader")


def test_prediction_does_not_depend_on_slices_and_leaves_the_mode(run):
    module = load(run).module
    images = np.random.default_rng(0).integers(0, 256, (37, 28, 28), dtype=np.uint8)
    module.train()
    torch.testing.assert_close(predict(module, images, 5), predict(module, images, 100))
    assert module.training and torch.is_grad_enabled()


def test_compare(place, run, capsys):
    short = place / "runs" / "001" / "short"
    comparison = compare(run, short, draws=20)
    a, b = comparison.a.right, comparison.b.right
    assert (comparison.only_a, comparison.only_b) == ((a & ~b).sum(), (b & ~a).sum())
    assert len(comparison.disagreements) == (comparison.a.predictions != comparison.b.predictions).sum()
    written = json.loads((run / "evaluation" / "comparison.json").read_text())
    assert written["verdict"] == comparison.verdict and (run / "evaluation" / "disagreements.png").is_file()
    assert not (short / "evaluation").exists()
    assert "train each with several seeds" in comparison.verdict  # what the test doesn't cover
    other_way = compare(short, run, out=run / "out", draws=20)
    assert (other_way.only_a, other_way.only_b) == (comparison.only_b, comparison.only_a)
    assert other_way.p_value == comparison.p_value
    print_evaluation(str(run), str(run), draws=20)
    assert "Neither is better" in capsys.readouterr().out


def test_several_are_compared_with_correction_and_recipes_over_seeds(place, run, capsys):
    short = place / "runs" / "001" / "short"
    print_evaluation(str(run), str(short), str(run), draws=40)
    shown = capsys.readouterr().out
    assert "p (Holm)" in shown and "A - C" in shown and "these images can't tell" in shown
    both = str(place / "runs" / "001" / "*")
    print_evaluation(both, both, draws=40)
    shown = " ".join(capsys.readouterr().out.split())
    assert "A: " in shown and "in the mean of 2 runs" in shown and "these runs can't tell" in shown
    print_evaluation(both, str(run), draws=40)  # a recipe needs several seeds: this is two checkpoints and one
    assert "p (Holm)" in capsys.readouterr().out
    print_evaluation(both, draws=40)  # two runs: a comparison
    assert "train each with several seeds" in " ".join(capsys.readouterr().out.split())


def test_what_is_asked_for_is_chosen_on_val_and_judged_on_test(run, tmp_path, capsys):
    asked = {"accuracy": 0.9, "coverage": 0.9, "costs": {"3": 5}}
    e = evaluate(run, out=tmp_path, asked=asked)
    assert [row[0] for row in e.choices] == ["accuracy=0.9", "coverage=0.9", "costs={3: 5}"]
    assert json.loads((tmp_path / "metrics.json").read_text())["choices"][1]["asked for"] == "coverage=0.9"
    assert "judged on these images" in (tmp_path / "report.html").read_text()
    threshold = float(re.search("at least ([0-9.]+)", e.choices[1][1])[1])
    p = class_columns(e.probabilities)
    held = (p[np.arange(len(p)), e.labels] >= threshold - 5e-4).mean()
    assert f"the truth is named: {held:.1%}" in e.choices[1][2]
    assert "say `3` from 0.167 on" in e.choices[2][1]
    run_command(print_evaluation, [str(run), "coverage=0.9", "costs={3: 5}", f"out={tmp_path}"])
    out = capsys.readouterr().out
    assert "chosen on val" in out and "costs={3: 5}" in out and "accuracy=" not in out


@pytest.mark.parametrize("settings, words", [
    ({"coverage": 0.999}, "can promise 0.984 at most"), ({"coverage": 1.5}, "between 0 and 1"),
    ({"accuracy": 0.999}, "not to be reached"), ({"costs": {"4": 2}}, "a class `4`"), ({"costs": {"3": -1}}, "above 0"),
    ({"coverage": 0.9, "split": "val"}, "leave out split=val")])
def test_what_cant_be_chosen_is_one_message(run, tmp_path, settings, words):
    with pytest.raises(UserError, match=words): print_evaluation(str(run), out=str(tmp_path), **settings)
    with pytest.raises(UserError, match="of one checkpoint"): print_evaluation(str(run), str(run), coverage=0.9)


def test_compare_refuses_other_classes(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = make_run(tmp_path / "other", make_dataset(tmp_path / "data", ["cat", "dog"]), 1)
    with pytest.raises(UserError, match="can't be compared"): compare(run, other)


@pytest.mark.parametrize("words, message", [
    (["runs/nothing"], "There is no checkpoint or run"),
    (["x" * 5000], "There is no checkpoint or run"),
    (["RUN", "split=tset"], "Did you mean `test`"),
    (["RUN", "datamodule.pth=x"], "Did you mean `path`"),
    (["RUN", "spilt=test"], "Did you mean `split`"),
    (["runs/*/none*"], "No run or checkpoint matches"),
    ([], "--help"),
])
def test_mistakes_on_the_command_line_are_quick(run, words, message):
    words = [str(run) if word == "RUN" else word for word in words]
    code = "import sys, runpy; sys.argv[0] = 'evaluate'\n" \
           "try: runpy.run_module('dlops_mnist.evaluate', run_name='__main__')\n" \
           "finally: assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_as_a_program(run, program):
    done = program("evaluate", run, "draws=50", "split=val")
    assert done.returncode == 0 and "accuracy" in done.stdout and "confusion matrix" in done.stdout, done.stderr
    assert str(run / "evaluation") in done.stdout and done.stderr == ""


@pytest.mark.parametrize("module, words", [
    ("evaluate", "CHECKPOINT [OTHERS"), ("runs", "[DIR]"), ("dataset", "digits PATH")])
def test_help_begins_with_what_to_type(module, words, program):
    done = program(module, "--help")
    assert done.stdout.startswith(f"python -m dlops_mnist.{module} {words}") and done.returncode == 0, done.stderr
