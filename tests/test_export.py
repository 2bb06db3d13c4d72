"What export writes, what it refuses, and what the file needs to be run."

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny
import torch
from browser import MISSING, answers, browser, handed_out
from test_evaluate import make_dataset, make_run

from dlops_mnist.export import PARTS, export, helpful_temperature, print_export, write_page
from dlops_mnist.models import load
from dlops_mnist.parts.command import run_command
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.exported import ExportedModel

NETWORKS = {"MLP": {"hidden": [8]}, "CNN": {"filters": [4, 8], "dropout": 0.5}, "FastCNN": {"filters": [4, 4, 8]}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A run of three classes, and its export."
    folder = tmp_path_factory.mktemp("export")
    data = make_dataset(folder / "data", ["a", "b", "ü c"])
    run = make_run(folder / "run", data, val="test")
    export(run, folder / "model.onnx")
    return folder


def test_an_exported_model_is_one_file_that_answers_as_the_checkpoint(place):
    model, module = ExportedModel(place / "model.onnx"), load(place / "run").module.cpu()
    assert not list(place.glob("*.data")) and not list(place.glob(".*.part"))
    images = np.random.default_rng(1).integers(0, 256, (300, 28, 28), np.uint8)
    for size in (1, 2, 3, 64, 300):
        answers = model(images[:size])
        assert answers.shape == (size, 3) and answers.dtype == np.float32
        np.testing.assert_allclose(answers, module.predict(torch.tensor(images[:size])), atol=1e-5)
        np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


def test_the_file_knows_what_it_is(place):
    known = ExportedModel(place / "model.onnx").metadata
    assert known["classes"] == ["a", "b", "ü c"] and known["image_shape"] == [28, 28]
    assert known["run"].endswith("run") and len(known["dataset"]["fingerprint"]) == 64
    assert known["parity"]["largest"] <= 1e-5 and known["parity"]["labels"] == 0 and known["parity"]["images"] == 18
    value, low, high = known["metrics"]["accuracy"]
    assert low <= value <= high
    assert len(known["sure"]["right"]) + len(known["sure"]["wrong"]) == 18
    assert known["reference"]["images"] == sum(known["reference"]["class"]) == 18
    saved = onnx.load(place / "model.onnx")
    assert saved.opset_import[0].version <= 21 and saved.ir_version <= 10, "onnxruntime 1.20 reads no more"


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "FastCNN")) for name in NETWORKS])
@pytest.mark.parametrize("classes", [["no3", "3"], pytest.param(["a", "b", "c"], marks=pytest.mark.slow)])
def test_every_network_passes_for_two_classes_and_more(tmp_path, name, classes):
    data = make_dataset(tmp_path / "data", classes, per_class=4)
    model = {"_target_": f"dlops_mnist.networks.{name}", **NETWORKS[name]}
    exported = export(make_run(tmp_path / "run", data, 1, model, val="test"))
    assert exported.path == tmp_path / "run" / "model.onnx" and exported.metadata["parity"]["largest"] <= 1e-5


def test_an_exported_file_is_evaluated_as_a_checkpoint_is(place, tmp_path):
    from dlops_mnist.evaluate import compare, evaluate

    file = place / "model.onnx"
    with_torch, without = evaluate(place / "run", draws=20, out=tmp_path / "a"), evaluate(file, draws=20, out=tmp_path / "b")
    assert with_torch.warnings == without.warnings and with_torch.dataset == without.dataset and with_torch.paths == without.paths
    np.testing.assert_allclose(with_torch.metrics, without.metrics, atol=1e-5)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in (tmp_path / "b").iterdir()}
    both = compare(place / "run", file, draws=20, out=tmp_path / "c")
    assert (both.only_a, both.only_b) == (0, 0) and not (place / "evaluation").exists()


def test_a_strangers_file_chooses_no_place_to_write_and_builds_nothing(tmp_path):
    model = onnx.load(tiny.onnx_model(tmp_path / "x.onnx"))
    known = {"classes": ["a", "b"], "image_shape": [28, 28], "datamodule": {"cache": "elsewhere", "source": "digits", "val": 0.3}}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in known.items()})
    onnx.save(model, tmp_path / "x.onnx")
    assert ExportedModel(tmp_path / "x.onnx").datamodule == {"val": 0.3, "image_shape": [28, 28], "classes": ["a", "b"]}


def test_it_is_run_without_pytorch(place):
    code = ("import sys, numpy as np; from dlops_mnist.parts.exported import ExportedModel\n"
            "model = ExportedModel(sys.argv[1]); model(np.zeros((2, 28, 28), np.uint8))\n"
            "assert not {'torch', 'onnx', 'pandas'} & sys.modules.keys()")
    subprocess.run([sys.executable, "-c", code, str(place / "model.onnx")], check=True, timeout=60)


def test_what_answers_otherwise_is_not_kept(place, tmp_path, monkeypatch):
    from dlops_mnist import export as module_under_test

    def bent(to):
        weights = onnx.load(to)
        for tensor in weights.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
                values = onnx.numpy_helper.to_array(tensor) * 1.01
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
        onnx.save(weights, to)

    write = module_under_test.write_onnx
    monkeypatch.setattr(module_under_test, "write_onnx", lambda module, path: (write(module, path), bent(path)))
    with pytest.raises(UserError, match="doesn't answer as the checkpoint does"): export(place / "run", tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words, sentence", [
    (["no/run"], "There is no checkpoint or run"), (["RUN", "to=x.pt"], "ends in .onnx"),
    (["RUN", "calibrate=yes"], "auto or null"), (["RUN", "tox=1"], "Unknown setting `tox`. Did you mean `to`?"),
    (["."], "is not a run's folder")])
def test_mistakes_are_told(place, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit): run_command(print_export, [str(place / "run") if word == "RUN" else word for word in words])
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("change, sentence", [
    ({"classes": ()}, "name its classes"), ({"classes": ["one"]}, "name its classes"), ({"classes": [1, 2]}, "name its classes"),
    ({"classes": ["a", "b", "c"]}, "each of its 3 classes"),
    ({"datamodule": [1]}, "settings for pictures"), ({"datamodule": {"range": 5}}, "settings for pictures"),
    ({"datamodule": {"color": "sepia"}}, "settings for pictures")])
def test_a_strangers_file_is_looked_at_before_it_is_used(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence): ExportedModel(tiny.onnx_model(tmp_path / "x.onnx", **change))


def test_texts_that_deny_the_graph_are_noticed(tmp_path):
    model = onnx.load(tiny.onnx_model(tmp_path / "x.onnx"))
    for text, sentence in (("[28, 27]", "uint8 pixels of the shape"), ("[true, 28]", "shape of its"), ("{", "shape of its")):
        onnx.helper.set_model_props(model, {"classes": '["a", "b"]', "image_shape": text})
        onnx.save(model, tmp_path / "y.onnx")
        with pytest.raises(UserError, match=sentence): ExportedModel(tmp_path / "y.onnx")


def test_a_damaged_file_is_one_sentence(place, tmp_path):
    whole = (place / "model.onnx").read_bytes()
    for number, content in enumerate([b"", b"no model", whole[:len(whole) // 2], json.dumps({}).encode()]):
        (tmp_path / f"{number}.onnx").write_bytes(content)
        with pytest.raises(UserError, match="damaged"): ExportedModel(tmp_path / f"{number}.onnx")


def test_other_formats_answer_alike(place, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28), np.uint8)
    wanted = ExportedModel(place / "model.onnx")(images)
    export(place / "run", tmp_path / "model.pt2", format="torch")
    answers = torch.export.load(tmp_path / "model.pt2").module()(torch.tensor(images))
    np.testing.assert_allclose(answers.detach(), wanted, atol=1e-5)


@pytest.mark.parametrize("sharper", [1, 8, 0.2])
def test_a_temperature_is_fitted_only_where_it_helps(sharper):
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, (300, 4))
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn by the very probabilities of these logits
        trained = SimpleNamespace(logits=lambda images, logits=logits: sharper * logits)
        found.append(helpful_temperature(trained, SimpleNamespace(images=None, labels=labels)))
    if sharper == 1: assert found.count(1.0) >= 7
    else: np.testing.assert_allclose(found, sharper, rtol=0.35)
    few = SimpleNamespace(images=None, labels=labels[:15])
    assert helpful_temperature(SimpleNamespace(logits=lambda images: 8 * logits[:15]), few) == 1, "so few tell nothing"


def test_probabilities_are_calibrated_and_answers_stay(place, tmp_path, monkeypatch, capsys):
    from dlops_mnist import export as module_under_test

    monkeypatch.setattr(module_under_test, "helpful_temperature", lambda trained, val: 2.0)
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28), np.uint8)
    module = load(place / "run").module.cpu()
    wanted = (module(torch.tensor(images)) / 2).softmax(1).detach()
    run_command(print_export, [str(place / "run"), f"to={tmp_path / 'x.onnx'}"])
    assert "divided by 2, which was fitted on val" in capsys.readouterr().out
    model = ExportedModel(tmp_path / "x.onnx")
    np.testing.assert_allclose(model(images), wanted, atol=1e-5)
    before, after = model.metadata["calibrated"]["loss"]
    assert before != after and model.metadata["metrics"]["loss"][0] == after
    export(place / "run", tmp_path / "x.pt2", format="torch")
    np.testing.assert_allclose(torch.export.load(tmp_path / "x.pt2").module()(torch.tensor(images)).detach(), wanted, atol=1e-5)
    export(place / "run", tmp_path / "y.onnx", calibrate=None)
    np.testing.assert_allclose(ExportedModel(tmp_path / "y.onnx")(images), module.predict(torch.tensor(images)), atol=1e-5)


def test_int8_is_kept_where_no_difference_can_be_told(place, tmp_path):
    model = export(place / "run", tmp_path / "small.onnx", quantize="int8")
    known = ExportedModel(tmp_path / "small.onnx").metadata["quantized"]
    assert model.path.stat().st_size < 0.5 * (place / "model.onnx").stat().st_size and known["p_value"] >= 0.05
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28), np.uint8)
    assert 0 < abs(ExportedModel(model.path)(images) - ExportedModel(place / "model.onnx")(images)).max() < 0.3


def test_int8_is_refused_where_it_answers_otherwise(tmp_path, capsys):
    data = make_dataset(tmp_path / "data", ["a", "b", "c"], per_class=12)
    run = make_run(tmp_path / "run", data, 1, {"_target_": "dlops_mnist.models.MLP", "hidden": [2]}, val="test")
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    # brightness beside a unit that is always at 500: a step of eight bits is larger than what lies between two classes
    values = (torch.tensor([[1.0], [0.0]]) / 784, [0.0, 500.0], [[-30.0, 0.0], [0.0, 0.0], [30.0, 0.0]], [16.0, 0.0, -35.0])
    for tensor, value in zip(checkpoint["state_dict"].values(), values): tensor.copy_(torch.as_tensor(value))
    torch.save(checkpoint, run / "checkpoints/best.ckpt")
    words = [str(run), f"to={tmp_path / 'model.onnx'}", "calibrate=null"]
    run_command(print_export, words)
    assert ExportedModel(tmp_path / "model.onnx").metadata["metrics"]["accuracy"][0] == 1
    before = (tmp_path / "model.onnx").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended: run_command(print_export, [*words, "quantize=int8"])
    assert ended.value.code == 2 and "int8 was not kept: of 36 test images it gets 2" in capsys.readouterr().err
    assert (tmp_path / "model.onnx").read_bytes() == before and not list(tmp_path.glob(".*"))


def test_a_page_holds_the_model_and_the_runtime(place, tmp_path):
    runtime = tmp_path / "dist"
    runtime.mkdir()
    model = ExportedModel(tiny.onnx_model(tmp_path / "x.onnx", classes=("</script>", "b")))
    with pytest.raises(UserError, match=r"holds no `ort.wasm.min.js`"): write_page(model, tmp_path / "page", runtime)
    for name in PARTS: (runtime / name).write_text(name)
    write_page(model, tmp_path / "page", runtime)
    assert {path.name for path in (tmp_path / "page").iterdir()} == {*PARTS, "model.onnx", "index.html"}
    page = (tmp_path / "page" / "index.html").read_text()
    assert "window.classify = async" in page and "<!-- classify -->" not in page and r"\u003c/script>" in page
    assert (tmp_path / "page" / "model.onnx").read_bytes() == model.path.read_bytes()


def test_a_network_in_the_browser_answers_as_in_python(tmp_path):
    if MISSING or not shutil.which("npm"): pytest.skip("needs chromium, chromedriver and npm")
    data = make_dataset(tmp_path / "data", ["a", "b", "c"], per_class=4)
    run = make_run(tmp_path / "run", data, 1, {"_target_": "dlops_mnist.networks.CNN", "filters": [8, 16]}, val="test")
    export(run, tmp_path / "page", format="page")
    images = np.random.default_rng(2).integers(0, 256, (40, 28, 28), np.uint8)
    with handed_out(tmp_path / "page") as address, browser() as page:
        page.open(address)
        page.wait("return document.body.dataset.ready")
        found = answers(page, images)
    np.testing.assert_allclose(found, ExportedModel(tmp_path / "page" / "model.onnx")(images), atol=1e-5)
    assert np.ptp(found, axis=0).min() > 1e-3, "it answers what it is asked"
