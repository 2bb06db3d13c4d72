"The config as a black box: random experiments compose as a plain deep update does, and mistakes leave nothing behind."

import copy
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlops_mnist.config import diff, load_config
from dlops_mnist.parts.command import parse_value
from dlops_mnist.parts.compose import compose, file_layer
from dlops_mnist.parts.core import UserError, plain
from dlops_mnist.parts.schema import schema
from dlops_mnist.parts.settings import GROUPS, deep_update
from dlops_mnist.parts.targets import build, check_section, open_lengths
from dlops_mnist.parts.yamlfile import StrictLoader, read_yaml, to_yaml

ROOT = Path(__file__).parent.parent

# Strings that YAML, shells, Hydra's grammar and OmegaConf each find interesting
AWKWARD = ["", " ", "'", '"', "it's", "a=b", "a,b", "[1", "{a: b", "}", "(x)", "x:y", "#c", "\\", "\\'", "a\\", "\\\\n", "007",
           "no", "yes", "on", "null", "~", "true", "1e-3", "1_000", "0x1f", "0.1.2", "1:30", "2026-11-20", "ü", "日本", "😀",
           "a\nb", "\ttab", "${seed}", "x${paths.runs}y", "$HOME", "$", "%", "@x", "&a", "*a", "!tag", "-", "--m", "+", "???x"]
TEXT = st.sampled_from(AWKWARD) | st.text(max_size=8).filter(lambda s: "${" not in s and s != "???")
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,6}", fullmatch=True).filter(lambda n: n not in GROUPS and n != "hydra")
NUMBER = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
VALUE = st.recursive(TEXT | NUMBER, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
                     max_leaves=6)
# names that the base has, so that overriding and extending both happen, and new ones
EXPERIMENT = st.dictionaries(st.sampled_from(["datamodule", "paths", "seed", "monitor", "new"]) | NAME,
                             st.dictionaries(st.sampled_from(["path", "batch_size", "runs"]) | NAME, VALUE, max_size=4) | VALUE,
                             max_size=4).filter(lambda e: not {"callbacks", "logger_params"} & set(e)
                                                and not any(isinstance(e.get(name), list) for name in ("datamodule", "paths")))
BASE = compose(resolve=False)


ANY_EXPERIMENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


@settings(max_examples=40, **ANY_EXPERIMENT)
@given(EXPERIMENT)
def test_a_composed_experiment_is_a_plain_deep_update(experiment):
    check_composition(experiment)


@pytest.mark.slow
@settings(max_examples=500, **ANY_EXPERIMENT)
@given(EXPERIMENT)
def test_five_hundred_composed_experiments_are_plain_deep_updates(experiment):
    check_composition(experiment)


def check_composition(experiment):
    parsed = yaml.load(to_yaml(experiment), StrictLoader)
    assert parsed == experiment, "what is written is what is read"
    composed = compose(file_layer(parsed), resolve=False)
    assert composed == deep_update(copy.deepcopy(BASE), parsed)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_an_experiment_or_a_clear_refusal(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try: load_config(file)
    except UserError as error: assert str(error).strip()


WORDS = """no off On yes y true True FALSE null 010 00 0 -0 1_000 1:30 0x10 0o7 2026-11-20 1e-3 1. .5 -.5 +4 1.e3 1__0 inf -inf
nan +nan iNf 010.5 00.1 1__0.5 1_.5 1._5 1_0.5 1e1_0 1e-0_3 a.b mlp""".split()


@pytest.mark.parametrize("word", WORDS)
def test_a_word_means_the_same_in_a_file_as_on_the_command_line(word):
    in_a_file, typed = yaml.load(word, StrictLoader), parse_value(f"key={word}")[1]
    assert repr(in_a_file) == repr(typed)


def test_a_truth_value_in_other_words_is_told_the_right_ones(tmp_path):
    file = tmp_path / "words.yml"
    file.write_text("trainer: {enable_progress_bar: no}\n")
    with pytest.raises(UserError, match="must be bool or null, not 'no'. Truth values are written true and false."):
        load_config(file)
    file.write_text("datamodule: {classes: [no, yes]}\n")
    assert load_config(file).datamodule.classes == ["no", "yes"]


@pytest.mark.parametrize("override, told", [
    ("optimizer.lr=null", "`optimizer.lr` must be float or Tensor, not null."),
    ("optimizer=null", "`optimizer` must be a section, or one of adam, adamw, sgd, not null."),
    ("model.hidden=100", "`model.hidden` must be a list of int, not 100."),
    ("optimizer.betas=[0.9]", "`optimizer.betas` must be [float or Tensor, float or Tensor], not [0.9]."),
    ("trainer.max_epochs=true", "`trainer.max_epochs` must be int or null, not true."),
    ("ckpt_path=3", "`ckpt_path` must be str or null, not 3."),
    ("seed=-1", "`seed: -1` must be at least 0 and below 4294967296."),
    ("seed=4294967296", "`seed: 4294967296` must be at least 0 and below 4294967296."),
    ("matmul_precision=hi", "`matmul_precision` must be 'highest', 'high', 'medium' or null, not 'hi'."),
    ("model.hidden=[null]", "`model.hidden` must be a list of int, not [null]."),
    ("optimizer._partial_=true", "`optimizer._partial_`: leave it out; what isn't known yet is added."),
])
def test_what_fits_is_told_in_the_words_of_a_config(override, told):
    with pytest.raises(UserError) as error: load_config("001", override)
    assert str(error.value) == told


def test_what_is_nothing_by_default_may_be_nothing(tmp_path, monkeypatch):
    # as many a class of PyTorch says it: without an Optional
    (tmp_path / "lenient.py").write_text("from torch import nn\n\n\nclass Lenient(nn.Module):\n"
                                         "    def __init__(self, size: int = None, depth: int = 3): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    check_section({"_target_": "lenient.Lenient", "size": None}, "model", "model")
    with pytest.raises(UserError, match="`model.depth` must be int, not null"):
        check_section({"_target_": "lenient.Lenient", "depth": None}, "model", "model")


@pytest.mark.parametrize("words, told", [
    ("train 001 -x", "Unknown option `-x`"), ("train 001 --cfg nope", "`--cfg nope`: --cfg shows `job` or `sources`."),
    ("train 001 --cfg", "`--cfg `: --cfg shows"), ("train -m 001 seed=range(0,0)", "These settings make no job at all"),
    ("train dir", "There is no experiment dir."), ("train 001 seed=99999999999999999999", "too large a number"),
    ("runs latest=0", "`latest: 0` must be at least 1."), ("runs val_acc=>0.9", "`val_acc=>0.9` is no condition"),
    ("dataset inspect figures=README.md", "`README.md`: File exists."), ("dataset digits new per_class=0", "must be at least 1"),
    ("train 001 datamodule.num_workers=-1", "num_workers must not be negative"),
    ("evaluate dataset datamodule.path=README.md", "`dataset` is not a run's folder"),
])
def test_a_mistake_is_one_line(tmp_path, program, words, told):
    for name in ("dataset", "experiments"): os.symlink(ROOT / name, tmp_path / name)
    (tmp_path / "dir.yml").mkdir()
    (tmp_path / "README.md").write_text("text")
    verb, *rest = words.split()
    result = program(verb, *rest, cwd=tmp_path)
    assert result.returncode == 2 and told in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists() and not (tmp_path / "new").exists()


def test_from_another_folder_it_is_said_that_there_are_no_experiments_and_how_to_get_them(tmp_path, program):
    refused = program("train", "001", cwd=tmp_path)
    assert refused.returncode == 2 and not any(tmp_path.iterdir())
    assert "There is no experiment 001. There is no folder `experiments` here, either." in refused.stderr
    assert refused.stderr.endswith("To unpack what comes with the package: python -m dlops_mnist unpack\n")
    assert "python -m dlops_mnist unpack" in program("train", cwd=tmp_path).stderr, "nor is there a dataset"
    assert "Unpacked dataset/" in program("__main__", "unpack", cwd=tmp_path).stdout
    assert "dataset/ is here already" in program("__main__", "unpack", cwd=tmp_path).stdout
    assert program("train", "001", "--cfg", "job", cwd=tmp_path).returncode == 0 and (tmp_path / "dataset/train").is_dir()
    assert "unpack" not in program("train", "other/001.yml", cwd=tmp_path).stderr


def test_a_callback_of_the_program_itself_is_a_callback(tmp_path):
    (tmp_path / "own.py").write_text("""
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from dlops_mnist.config import load_config
from dlops_mnist.parts.core import UserError

class Mine(Callback): ...
class Saver(ModelCheckpoint): ...

load_config({"callbacks": {"mine": {"_target_": "__main__.Mine"}}})
try: load_config({"callbacks": {"saver": {"_target_": "__main__.Saver"}}, "trainer.enable_checkpointing": False})
except UserError as error: print(error)
""")
    result = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.startswith("`callbacks.saver` saves checkpoints") and not result.stderr


def test_numbers_are_numbers(tmp_path):
    file = tmp_path / "numbers.yml"
    file.write_text("optimizer: {lr: 1e-3}\ntrainer: {gradient_clip_val: 1.}\n")
    config = load_config(file)
    assert (config.optimizer.lr, config.trainer.gradient_clip_val) == (0.001, 1.0)
    assert read_yaml(file)["optimizer"]["lr"] == 0.001


@pytest.mark.parametrize("group,name", [(group, name) for group, options in GROUPS.items() for name in options])
def test_every_alternative_makes_a_valid_config(group, name):
    extra = ["trainer.enable_checkpointing=true"] if name == "model_checkpoint" else []
    config = load_config(None, f"{group}={name}", *extra)
    assert load_config(config) == config, "and what it makes is an experiment again"


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.yml")), ids=lambda f: f.stem)
def test_every_experiment_is_valid_and_repeats_from_its_saved_config(file, tmp_path):
    config = load_config(file)
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert load_config(saved, "trust=true") == config
    assert {**load_config(saved), "callbacks": 0} == {**config, "callbacks": 0}, "Lightning's checkpoints go to the run's folder"


def test_several_trackers_at_once_and_interpolation(monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "there")
    config = load_config(None, "logger=[CSVLogger,TensorBoardLogger]", "paths.runs=${oc.env:SOMEWHERE}/runs", "monitor=acc",
                         "callbacks=early_stopping")
    assert list(config.logger) == ["CSVLogger", "TensorBoardLogger"]
    assert config.paths.runs == "there/runs" and config.callbacks.early_stopping.monitor == "acc"


def test_the_series_spelling(tmp_path):
    file = tmp_path / "old.yml"
    file.write_text("optimizer: {name: SGD, lr: 3e-4}\nlogger: CSVLogger\nlogger_params: {save_dir: logs, name: '003'}\n"
                    "callbacks:\n- {name: EarlyStopping, params: {monitor: val_loss}}\n"
                    "- {name: EarlyStopping, params: {monitor: loss}}\n")
    config = load_config(file)
    assert config.optimizer == {"_target_": "torch.optim.SGD", "lr": 0.0003}
    assert config.logger.CSVLogger == {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "logs", "name": "003"}
    assert list(config.callbacks) == ["EarlyStopping", "EarlyStopping_2"]


def test_the_series_spelling_means_the_same_typed():
    said = {"optimizer": "{name: NAdam, lr: 0.01}", "scheduler": "{name: CosineAnnealingLR}", "logger": "CSVLogger",
            "logger_params": "{save_dir: logs}", "callbacks": "[{name: EarlyStopping, params: {monitor: val_loss}}]"}
    config = load_config(None, *(f"{key}={value}" for key, value in said.items()))
    written = load_config({key: yaml.safe_load(value) for key, value in said.items()})
    assert config.optimizer == {"_target_": "torch.optim.NAdam", "lr": 0.01} and config == {**written, "experiment": "base"}
    both = load_config({"callbacks": ["early_stopping", "lr_monitor"]}), load_config(None, "callbacks=[early_stopping,lr_monitor]")
    assert list(both[0].callbacks) == ["early_stopping", "lr_monitor"] and both[0].callbacks == both[1].callbacks
    with pytest.raises(UserError, match="names no class.*Did you mean `NAdam`"): load_config(None, "optimizer={name: NAdm}")
    # the base's own class goes, with its settings
    assert load_config(None, "model={_target_: dlops_mnist.networks.CNN}").model == {"_target_": "dlops_mnist.networks.CNN"}
    assert load_config(None, "optimizer={name: SGD}").optimizer == {"_target_": "torch.optim.SGD"}
    assert load_config(None, "scheduler.name=StepLR", "scheduler.step_size=2").scheduler == {
        "_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2}


def test_a_setting_of_older_runs_is_told_where_it_would_have_meant_something(capsys):
    for written, told in (({}, 0), ({"steps_per_call": 1}, 0), ({"steps_per_call": 4}, 1)):
        load_config(written)
        assert capsys.readouterr().err.count("`steps_per_call` is left out") == told


def test_what_another_class_has_no_use_for_is_named_where_it_stands(tmp_path):
    (tmp_path / "sgd.yml").write_text("optimizer: {name: SGD, lr: 0.1, momentum: 0.9}")
    (tmp_path / "nadam.yml").write_text("base: sgd\noptimizer: {name: NAdam, lr: 0.01}")
    for words in ([tmp_path / "nadam.yml"], [tmp_path / "sgd.yml", "optimizer={name: NAdam, lr: 0.01}"]):
        with pytest.raises(UserError, match=r"sgd\.yml: `optimizer\.momentum` is not a setting of NAdam"): load_config(*words)
    with pytest.raises(UserError, match="^`optimizer.lrr` is"): load_config(tmp_path / "sgd.yml", "optimizer={name: SGD, lrr: 1}")


def test_a_key_given_twice_is_told_with_both_its_lines(tmp_path):
    (tmp_path / "a.yml").write_text("seed: 1\nmodel:\n  hidden: [5]\n  hidden: [6]")
    with pytest.raises(UserError, match=r"a\.yml, line 4, .* is given twice \(first in line 3\)"): load_config(tmp_path / "a.yml")


def test_a_length_that_is_left_open_needs_no_value(tmp_path, monkeypatch):
    (tmp_path / "own_rates.py").write_text("from torch.optim.lr_scheduler import LambdaLR\nclass Rates(LambdaLR):\n"
                                           "    def __init__(self, optimizer, max_steps: int, T_max: int = 3): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for section in ({"name": "CosineAnnealingLR"}, {"name": "OneCycleLR", "max_lr": 0.1}, {"_target_": "own_rates.Rates"}):
        load_config({"scheduler": section})
    assert open_lengths({"_target_": "own_rates.Rates"}) == ["max_steps"], "3 is a value"
    assert open_lengths({"_target_": "own_rates.Rates", "max_steps": 9, "T_max": None}) == ["T_max"]
    with pytest.raises(UserError, match="lacks `step_size`"): load_config({"scheduler": {"name": "StepLR"}})
    with pytest.raises(UserError, match="not a setting"):
        load_config({"scheduler": {"name": "StepLR", "step_size": 1, "T_max": None}})


def test_another_alternative_drops_the_files_values_for_the_old_one(tmp_path):
    file = tmp_path / "e.yml"
    file.write_text("model: cnn\nmodel.filters: [8]\noptimizer.lr: 0.5\n")
    assert "filters" not in load_config(file, "model=mlp").model
    assert load_config(file, "model=cnn").model.filters == [8]
    assert load_config(file, "optimizer=sgd").optimizer == {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}


def test_the_default_alternative_typed_out_is_no_other(tmp_path):
    "A file that doesn't choose has the default's values, which stay when somebody types that name."
    file = tmp_path / "e.yml"
    file.write_text("model.hidden: [50]\noptimizer.lr: 0.5\ncallbacks.early_stopping.patience: 7\n")
    config = load_config(file, "model=mlp", "optimizer=adam")
    assert (config.model.hidden, config.optimizer.lr, config.callbacks.early_stopping.patience) == ([50], 0.5, 7)
    assert load_config(file, "callbacks=none").callbacks == {}


def test_several_values_in_one_config_are_refused_with_what_to_do():
    for word in ("optimizer.lr=1e-3,1e-4", "model=mlp,cnn", "experiment=a, b", "seed=range(3)"):
        with pytest.raises(UserError, match="--multirun") as refused: load_config("001", word)
        assert str(refused.value).startswith(f"`{word}`")
    assert load_config("001", "experiment='a, b'").experiment == "a, b"


def test_a_section_may_bring_its_own_class(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text("import torch\nclass Net(torch.nn.Module):\n"
                                         "    def __init__(self, width: int = 3): ...\n"
                                         "def function(): raise SystemExit('called')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_config({"model": {"_target_": "own_net.Net", "width": 4}}).model == {"_target_": "own_net.Net", "width": 4}
    assert load_config(None, "model._target_=own_net.Net").model == {"_target_": "own_net.Net"}
    with pytest.raises(UserError, match="Did you mean `width`"): load_config({"model": {"_target_": "own_net.Net", "widht": 4}})
    with pytest.raises(UserError, match="names no class"): load_config(None, "model._target_=own_net.function")


def test_what_is_no_alternative_is_refused():
    assert load_config({"scheduler": None, "logger": None}).scheduler == {} == load_config(None, "scheduler=null").scheduler
    for wrong in ({"model": 3}, {"model": None}, {"model": "a b"}, {"logger": [1]}, {"optimizer": ["x"]}):
        with pytest.raises(UserError): load_config(wrong)
    for word in ("model=3", "model=null", "logger=[]", "model='a, b'", "model=[mlp,cnn]"):
        with pytest.raises(UserError): load_config(None, word)


def test_attribute_access_and_diff():
    config = load_config("001") if Path("experiments").is_dir() else load_config(ROOT / "experiments/001.yml")
    assert config.trainer.max_epochs == config["trainer"]["max_epochs"] == 20
    with pytest.raises(AttributeError, match="Did you mean `trainer`"): _ = config.trainr
    assert diff(config, load_config(config, "seed=3")) == {"seed": (0, 3)}


def run(*words, **kwargs):
    return subprocess.run([sys.executable, "-m", "dlops_mnist.train", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, **kwargs)


MISTAKES = {
    "trainer.max_epoch=3": "max_epochs",
    "optimizer.learning_rate=0.1": "Did you mean `lr`?",
    "learning_rate=0.1": "Did you mean `optimizer.lr`?",
    "model=cmm": "cnn",
    "datamodule.batch_size=many": "int",
    "model._target_=os.system": "names no class",
    "nowhere.yml": "no experiment",
    "broken.yml": "line 2",
    "optimizer.lr=1,2": "--multirun",
    "experiment=../../x": "folder",
    "--epochs=3": "without dashes",
    "--multrun": "`--multirun`",
    "model._target_=my_network.Net": "no `my_network.py`",
    "trainer.precision=17": "'bf16' or null",
    "list.yml": "list.yml: `callbacks[0]`",
    "indented.yml": "indented differently",
}


@pytest.mark.parametrize("word,part", MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_message_and_leaves_nothing(tmp_path, program, word, part):
    files = {"broken.yml": "seed: 1\nseed: 2\n", "list.yml": "callbacks: [{nam: x}]", "indented.yml": "seed: 1\n model: cnn"}
    for name, text in files.items(): (tmp_path / name).write_text(text)
    result = program("train", word, cwd=tmp_path)
    assert result.returncode == 2 and part in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == "" and len(result.stderr.strip().splitlines()) == 1
    assert set(os.listdir(tmp_path)) == set(files)


def test_the_package_says_which_commands_there_are(tmp_path):
    def answer(*words):
        return subprocess.run([sys.executable, "-m", "dlops_mnist", *words], capture_output=True, text=True, cwd=tmp_path)

    listed = answer().stdout
    for name in ("train", "evaluate", "dataset", "runs"): assert f"python -m dlops_mnist.{name} " in listed
    assert answer("--help").stdout == listed
    for words, part in (["train", "001"], "python -m dlops_mnist.train 001"), (["trian"], "Did you mean `train`?"):
        refused = answer(*words)
        assert refused.returncode == 2 and part in refused.stderr and "Traceback" not in refused.stderr


def test_the_script_of_the_series_trains_what_its_file_says(tmp_path):
    "As the blog has it: the file is laid over the dictionary in place, and `config` is what is used afterwards."
    (tmp_path / "exp.yml").write_text("datamodule:\n  batch_size: 7\ntrainer:\n  max_epochs: 3\n")
    script = """
import yaml
from dlops_mnist import *

config = {
    'datamodule': {'path': Path('dataset'), 'batch_size': 25},
    'trainer': {'max_epochs': 10, 'accelerator': 'auto', 'logger': None}
}
with open(FILE) as file: loaded = yaml.load(file, Loader=yaml.FullLoader)
deep_update(config, loaded)
dm = MNISTDataModule(**config['datamodule'])
"""
    space = {"FILE": tmp_path / "exp.yml"}
    exec(script, space)
    assert space["dm"].batch_size == 7 and space["config"]["trainer"] == {"max_epochs": 3, "accelerator": "auto", "logger": None}
    assert deep_update(space["config"], {}) is space["config"], "`config = deep_update(config, loaded)` works as well"


def test_a_single_run_is_composed_and_checked_once(monkeypatch):
    from dlops_mnist import train
    from dlops_mnist.parts import compose, launch, settings

    calls = Counter()

    def counted(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.update([name]) or original(*args, **kwargs))

    def stop(config):
        calls["trained"] += 1
        raise UserError("far enough")

    counted(compose, "compose")
    counted(settings, "check_config")
    monkeypatch.setattr(train, "prepare", stop)
    with pytest.raises(SystemExit): launch.launch(train.train_and_report, ["001"])
    assert calls == {"compose": 1, "check_config": 1, "trained": 1}


def test_no_mistake_and_no_help_waits_for_torch(tmp_path):
    code = ("import sys\nfrom dlops_mnist.parts.launch import launch\nfor words in (['--help'], ['--cfg', 'job'], ['seed=x']):\n"
            "    try: launch(print, words)\n    except SystemExit: pass\n"
            "heavy = {'torch', 'pytorch_lightning', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


def test_other_hardware_leaves_the_training_alone():
    "The experiment's number of epochs is its own; only what hardware is about gives way to the typed choice."
    for choice, devices in (("ddp", "auto"), ("ddp_sim", 2), ("fsdp", "auto"), ("cpu", 1)):
        written = {"max_epochs": 20, "devices": 7, "precision": "bf16-mixed"}
        trainer = load_config({"trainer": written}, f"trainer={choice}")["trainer"]
        assert (trainer["max_epochs"], trainer["precision"], trainer["devices"]) == (20, "bf16-mixed", devices)


def test_the_schema_for_editors_is_that_of_the_program(root):
    known = json.loads((root / "experiments/schema.json").read_text())
    assert known == json.loads(json.dumps(schema())), "python -m dlops_mnist.train --schema > experiments/schema.json"
    check = jsonschema.Draft7Validator(known)
    for file in sorted((root / "experiments").glob("*.yml")):
        assert not [*check.iter_errors(yaml.safe_load(file.read_text()))], file
        assert file.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    base = plain(load_config(None)) | {"logger": "CSVLogger", "base": ["001"], "x-mine": 1, "trainer.max_epochs": 3}
    assert not [*check.iter_errors({key: value for key, value in base.items() if key not in ("resume", "sweep", "repeats")})]
    for text in ("epochs: 3", "datamodule: {batchsize: 3}", "trainer: {max_epochs: many}", "trainer.max_epoch: 3", "model: cmm",
                 "seed: -1", "seed: [1]", "monitor_mode: maximum", "optimizer: 3", "base: 3"):
        assert len([*check.iter_errors(yaml.safe_load(text))]) == 1, text
        with pytest.raises(UserError): load_config(yaml.safe_load(text))
    for key in ("augment.flip", "augment.erase", "loss.weights"): assert known["properties"][key]["description"]
    own = {"augment": {"_target_": "own.Noise", "noise": 3}, "loss._target_": "own.Loss", "loss.weight": 2}
    assert not [*check.iter_errors(own)], "a class of one's own has settings of its own"


def test_a_notebook_shows_a_mistake_as_a_sentence():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.io import capture_output

    cell = "from dlops_mnist.config import load_config; load_config('a', 'b=1')"
    with capture_output() as said: InteractiveShell.instance().run_cell(cell)
    InteractiveShell.clear_instance()
    assert said.stdout.strip().count("\n") == 0 and said.stdout.startswith("UserError: There is no experiment a.")


def test_versions_and_terminals_of_old(tmp_path, program):
    assert re.fullmatch(r"dlops_mnist [\d.]+, PyTorch \S+, Lightning [\d.]+\n", program("train", "--version", cwd=tmp_path).stdout)
    assert program("runs", "--version", cwd=tmp_path).stdout == program("train", "--version", cwd=tmp_path).stdout
    whole = subprocess.run([sys.executable, "-m", "dlops_mnist", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert whole.stdout == program("train", "--version", cwd=tmp_path).stdout
    code = "from dlops_mnist.parts.command import run_command, say\ndef f(): say('10–20 ± 1')\nrun_command(f, [])"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout) == (0, "10?20 ? 1\n"), result.stderr


@pytest.mark.parametrize("params", ["xy", ["a"], 3])
def test_the_blogs_callbacks_take_a_mapping(params):
    with pytest.raises(UserError, match="a mapping"): load_config({"callbacks": [{"name": "WandBCallback", "params": params}]})


def test_a_file_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs.py").write_text("from torch import nn\nimport not_there\nclass Net(nn.Module): ...\n")
    with pytest.raises(UserError, match="can't be built: .*No module named 'not_there'"):
        build({"_target_": "needs.Net"}, "model", "model")
    with pytest.raises(UserError, match="names no class that can be found"): load_config(None, "model._target_=needs.py.Net")
    (tmp_path / "typo.py").write_text("class Net\n")
    with pytest.raises(UserError, match=r"typo.py is not valid Python: .*\(typo.py, line 1\)"):
        load_config(None, "model._target_=typo.Net")


def test_the_worst_epoch_is_not_kept_by_mistake():
    for name in ("loss", "val_loss"):
        with pytest.raises(UserError, match="keep the worst epoch. Set monitor_mode=min"): load_config(None, f"monitor={name}")
        assert load_config(None, f"monitor={name}", "monitor_mode=min").monitor == name
