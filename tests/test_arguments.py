"""Every argument of Lightning's trainer, of the trackers and of Hydra does what it says, or is refused with the reason."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from hydra.conf import HydraConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from dlops_mnist.config import load_config
from dlops_mnist.parts.core import FEW_PROCESSES, UserError, check_hardware, usable_cores
from dlops_mnist.parts.launch import check_hydras, launch
from dlops_mnist.parts.loggers import better_defaults, make_loggers
from dlops_mnist.parts.runfolder import Run, new_run
from dlops_mnist.parts.targets import read_class
from dlops_mnist.train import make_trainer, train


@pytest.fixture
def data(tmp_path) -> Path:
    "Eight images of two classes."
    for number in range(8):
        file = tmp_path / "data/train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 30 * number).save(file)
    return tmp_path / "data"


def name_of(value) -> str: return type(value).__name__


DOES = {  # a value that is not the usual one, and what has come of it in the trainer that is built
    "accelerator": ("cpu", lambda t: name_of(t.accelerator) == "CPUAccelerator"),
    "strategy": ("ddp", lambda t: name_of(t.strategy) == "DDPStrategy"),
    "devices": (2, lambda t: t.num_devices == 2),
    "num_nodes": (2, lambda t: t.num_nodes == 2),
    "precision": ("bf16-mixed", lambda t: t.precision == "bf16-mixed"),
    "logger": (True, lambda t: name_of(t.logger) == "TensorBoardLogger"),
    "fast_dev_run": (True, lambda t: t.fast_dev_run and t.max_steps == 1),
    "max_epochs": (7, lambda t: t.max_epochs == 7),
    "min_epochs": (3, lambda t: t.min_epochs == 3),
    "max_steps": (7, lambda t: t.max_steps == 7),
    "min_steps": (3, lambda t: t.min_steps == 3),
    "max_time": ("00:01:00:00", lambda t: any(name_of(c) == "Timer" for c in t.callbacks)),
    "limit_train_batches": (0.5, lambda t: t.limit_train_batches == 0.5),
    "limit_val_batches": (3, lambda t: t.limit_val_batches == 3),
    "overfit_batches": (2, lambda t: t.overfit_batches == 2),
    "val_check_interval": (0.5, lambda t: t.val_check_interval == 0.5),
    "check_val_every_n_epoch": (3, lambda t: t.check_val_every_n_epoch == 3),
    "num_sanity_val_steps": (1, lambda t: t.num_sanity_val_steps == 1),
    "log_every_n_steps": (3, lambda t: t.log_every_n_steps == 3),  # below: and what is logged
    "enable_checkpointing": (True, lambda t: any(name_of(c) == "ModelCheckpoint" for c in t.callbacks)),
    "enable_progress_bar": (False, lambda t: t.progress_bar_callback is None),
    "enable_model_summary": (True, lambda t: any("Summary" in name_of(c) for c in t.callbacks)),
    "accumulate_grad_batches": (2, lambda t: t.accumulate_grad_batches == 2),
    "gradient_clip_val": (0.5, lambda t: t.gradient_clip_val == 0.5),
    "gradient_clip_algorithm": ("value", lambda t: t.gradient_clip_algorithm == "value"),
    "deterministic": (True, lambda t: torch.are_deterministic_algorithms_enabled()),
    "benchmark": (True, lambda t: torch.backends.cudnn.benchmark),
    "inference_mode": (False, lambda t: not t.validate_loop.inference_mode),
    "profiler": ("simple", lambda t: name_of(t.profiler) == "SimpleProfiler"),
    "detect_anomaly": (True, lambda t: t._detect_anomaly),
    "plugins": ([{"_target_": "pytorch_lightning.plugins.precision.DoublePrecision"}], lambda t: t.precision == "64-true"),
    "sync_batchnorm": (True, lambda t: name_of(t.strategy._layer_sync) == "TorchSyncBatchNorm"),
    "reload_dataloaders_every_n_epochs": (2, lambda t: t.reload_dataloaders_every_n_epochs == 2)}
REFUSED = {"limit_test_batches": 0.5, "limit_predict_batches": 3, "use_distributed_sampler": False, "enable_autolog_hparams": False,
           "model_registry": "x", "barebones": True, "default_root_dir": "x", "callbacks": []}


def test_the_tables_name_every_argument_of_the_trainer():
    assert {*DOES, *REFUSED} == {*read_class("pytorch_lightning.Trainer").parameters} and not DOES.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", DOES)
def test_an_argument_of_the_trainer_reaches_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    value, has_come = DOES[name]
    beside = {"log_every_n_steps": {"logger": True}, "sync_batchnorm": {"strategy": "ddp", "devices": 2},
              "gradient_clip_algorithm": {"gradient_clip_val": 1.0}}
    config = load_config({"trainer": {"accelerator": "cpu", name: value, **beside.get(name, {})}})
    try: assert has_come(make_trainer(config, new_run(config)))
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_without_effect_is_refused_with_the_reason(name):
    with pytest.raises(UserError, match=f"`trainer.{name}.*(would have no effect: .|is set by the program)"):
        load_config({"trainer": {name: REFUSED[name]}})


@pytest.mark.parametrize("words", [{"gradient_clip_algorithm": "norm"}, {"sync_batchnorm": True, "devices": 1},
                                   {"log_every_n_steps": 5}, {"log_every_n_steps": 0, "logger": False},
                                   {"min_epochs": 9, "max_epochs": 8}, {"min_steps": 9, "max_steps": 8},
                                   *({f"limit_{x}_batches": 5, "overfit_batches": 2} for x in ("train", "val"))])
def test_an_argument_that_another_one_leaves_without_effect_is_refused(words):
    with pytest.raises(UserError, match=f"`trainer.{next(iter(words))}.*would have no effect: ."): load_config({"trainer": words})


@pytest.mark.parametrize("name", ["accumulate_grad_batches", "gradient_clip_val", "log_every_n_steps", "min_epochs", "min_steps"])
def test_an_argument_below_nothing_is_refused(name):
    given = {"trainer": {name: -1, "logger": True}}
    with pytest.raises(UserError, match=f"`trainer.{name}: -1` must be at least"): load_config(given)


def test_half_precision_that_a_processor_has_not_is_refused():
    with pytest.raises(UserError, match="trainer.precision=bf16-mixed"):
        check_hardware({"accelerator": "cpu", "devices": 1, "precision": "16-mixed"})


@pytest.mark.parametrize("word", ["val_check_interval=0", "val_check_interval=0.0", "check_val_every_n_epoch=0",
                                  "accumulate_grad_batches=0", "val_check_interval=70"])
def test_an_interval_that_cannot_be_is_one_sentence(data, tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    words = [f"trainer.{word}", "datamodule.path=data", "datamodule.val=0.25", "trainer.enable_progress_bar=false"]
    with pytest.raises(UserError, match=f"`(trainer.)?{word.partition('=')[0]}"): train(load_config(None, *words))
    assert not [*Path().glob("runs/*/*")]


def test_a_root_folder_is_taken_where_something_is_written_there():
    for more in ({"enable_checkpointing": True}, {"logger": True}):
        assert load_config({"trainer": {"default_root_dir": "x", **more}}).trainer.default_root_dir == "x"


def test_a_summary_counts_and_a_graph_is_drawn(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = train(load_config({"logger": "TensorBoardLogger", "logger.TensorBoardLogger.log_graph": True,
                             "datamodule.path": str(data), "datamodule.batch_size": 1, "datamodule.val": 0.25,
                             "trainer": {"max_epochs": 1, "enable_model_summary": True, "enable_progress_bar": False,
                                         "log_every_n_steps": 2}}))
    assert float(re.search(r"Total FLOPs: ([\d.]+) K", capsys.readouterr().out)[1]) > 10
    events = EventAccumulator(str(next(Path("lightning_logs").rglob("events*")).parent)).Reload()
    assert len(events.Graph().node) > 3
    steps = [event.step for event in events.Scalars("loss_step")]
    assert steps and all(step % 2 == 0 for step in steps) and run.status == "finished"


# --- trackers ---

LOGGERS = "pytorch_lightning.loggers"


def start(section: dict):
    "A tracker as a training starts it, with a number sent to it."
    config = load_config({"logger": {"x": section}})
    [tracker] = make_loggers(config, new_run(config))
    tracker.log_metrics({"loss": 0.5}, step=3)
    return tracker


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder in which trackers may write, and no tracker's settings in the environment."
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT", "WANDB_API_KEY"): monkeypatch.delenv(name, raising=False)
    for name, value in {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "MLFLOW_LOGGING_LEVEL": "ERROR"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    yield tmp_path
    for name in os.environ.keys() - before.keys(): del os.environ[name]  # what MLflow leaves
    # W&B's service would stay, and write the next test's relative paths below this folder
    if "wandb" in sys.modules: sys.modules["wandb"].teardown()


def mlflow_run(tracker): return tracker.experiment.get_run(tracker.run_id)


TOGETHER = {  # arguments that are not the usual ones, and for each what has come of it
    "CSVLogger": ({"save_dir": "kept", "name": "n", "version": "v", "prefix": "p", "flush_logs_every_n_steps": 1}, {
        "save_dir": lambda t: Path("kept").is_dir(),
        "name": lambda t: Path("kept/n").is_dir(),
        "version": lambda t: Path("kept/n/v").is_dir(),
        "prefix": lambda t: Path("kept/n/v/metrics.csv").read_text().startswith("p-loss"),
        "flush_logs_every_n_steps": lambda t: Path("kept/n/v/metrics.csv").is_file()}),
    "TensorBoardLogger": ({"save_dir": "kept", "name": "n", "version": "v", "sub_dir": "s", "prefix": "p", "log_graph": True,
                           "default_hp_metric": True, "max_queue": 1, "flush_secs": 7, "purge_step": 2,
                           "filename_suffix": ".mine"}, {
        "save_dir": lambda t: Path("kept").is_dir(),
        "name": lambda t: Path("kept/n").is_dir(),
        "version": lambda t: Path("kept/n/v").is_dir(),
        "sub_dir": lambda t: [*Path("kept/n/v/s").glob("events*")],
        "prefix": lambda t: "p-loss" in scalars(t),
        "default_hp_metric": lambda t: "hp_metric" in " ".join(scalars(t)),
        "log_graph": lambda t: t._log_graph,  # above: and the graph is there
        "max_queue": lambda t: t.experiment.max_queue == 1,
        "flush_secs": lambda t: t.experiment.flush_secs == 7,
        "purge_step": lambda t: any(e.step == 2 and e.HasField("session_log") for e in events(t)),
        "filename_suffix": lambda t: [*Path("kept").rglob("events*.mine")]}),
    "WandbLogger": ({"name": "n", "save_dir": "kept", "version": "v1", "id": "v1", "project": "mine", "log_model": True,
                     "prefix": "p", "entity": "us", "tags": ["a"], "group": "g", "notes": "x", "job_type": "j"}, {
        "name": lambda t: t.experiment.name == "n",
        "save_dir": lambda t: [*Path("kept/wandb").glob("offline-run-*-v1")],
        "version": lambda t: t.experiment.id == "v1",
        "id": lambda t: t.experiment.id == "v1",
        "project": lambda t: t.experiment.project == "mine",
        "log_model": lambda t: t.keeps_models,
        "prefix": lambda t: t.experiment.summary["p-loss"] == 0.5,
        "entity": lambda t: t.experiment.entity == "us",
        "tags": lambda t: t.experiment.tags == ("a",),
        "group": lambda t: t.experiment.group == "g",
        "notes": lambda t: t.experiment.notes == "x",
        "job_type": lambda t: t.experiment.job_type == "j"}),
    "MLFlowLogger": ({"experiment_name": "e", "run_name": "r", "tracking_uri": "sqlite:///mine.db", "tags": {"a": "b"},
                      "log_model": False, "prefix": "p", "artifact_location": "kept", "synchronous": True}, {
        "experiment_name": lambda t: t.experiment.get_experiment(t.experiment_id).name == "e",
        "run_name": lambda t: mlflow_run(t).info.run_name == "r",
        "tracking_uri": lambda t: Path("mine.db").is_file() and not Path("mlflow.db").exists(),
        "tags": lambda t: mlflow_run(t).data.tags["a"] == "b",
        "log_model": lambda t: not t.keeps_models,
        "prefix": lambda t: mlflow_run(t).data.metrics == {"p-loss": 0.5},
        "artifact_location": lambda t: "/kept" in mlflow_run(t).info.artifact_uri,
        "synchronous": lambda t: t._log_batch_kwargs == {"synchronous": True},
        "run_id": lambda t: start({"_target_": f"{LOGGERS}.MLFlowLogger", "tracking_uri": "sqlite:///mine.db",
                                   "run_id": t.run_id}).run_id == t.run_id,
        "save_dir": lambda t: where_mlflow_writes("sd") == "sqlite:///sd/mlflow.db"}),
}
NOTHING = {"TensorBoardLogger": {"comment": "c", "log_dir": "d"},
           "WandbLogger": {"dir": "d", "anonymous": True, "checkpoint_name": "c", "add_file_policy": "immutable",
                           "log_model": "all"},
           "MLFlowLogger": {"log_model": "all"}}
ALONE = {"WandbLogger": {"offline", "experiment"}}  # arguments with a test of their own


def where_mlflow_writes(folder: str) -> str:
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow has noted here where it wrote last
    return better_defaults({"_target_": "MLFlowLogger", "save_dir": folder}, "e", Run("x"))["tracking_uri"]


def events(tracker) -> list:
    return [event for file in Path(tracker.log_dir).glob("events*") for event in EventFileLoader(str(file)).Load()]


def scalars(tracker) -> list[str]:
    tracker.save()
    return EventAccumulator(tracker.log_dir).Reload().Tags()["scalars"]


@pytest.mark.parametrize("kind", TOGETHER)
def test_the_tables_name_every_argument_of_a_tracker(kind):
    named = {*TOGETHER[kind][1], *NOTHING.get(kind, ()), *ALONE.get(kind, ())}
    assert named >= {*read_class(f"{LOGGERS}.{kind}").parameters}


@pytest.mark.parametrize("kind", TOGETHER)
def test_the_arguments_of_a_tracker_do_what_they_say(place, kind):
    given, has_come = TOGETHER[kind]
    tracker = start({"_target_": f"{LOGGERS}.{kind}", **given})
    try: assert {name: bool(check(tracker)) for name, check in has_come.items()} == dict.fromkeys(has_come, True)
    finally: tracker.finalize("success")


def test_a_run_of_wandb_stays_offline_if_told_so(place, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    tracker = start({"_target_": f"{LOGGERS}.WandbLogger", "offline": True})
    tracker.finalize("success")
    assert [*Path("wandb").glob("offline-run-*")]


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, names in NOTHING.items() for name in names])
def test_an_argument_of_a_tracker_without_effect_is_refused_with_the_reason(kind, name):
    section = {"_target_": f"{LOGGERS}.{kind}", "save_dir": "x", name: NOTHING[kind][name]}
    with pytest.raises(UserError, match=f"`logger.x.{name}: .* would have no effect: ."): load_config({"logger": {"x": section}})
    if name in ("checkpoint_name", "log_model"):
        load_config({"logger": {"x": section}, "trainer.enable_checkpointing": True})


def test_what_no_tracker_takes_is_refused_before_it_starts():
    for kind, name, near in (("WandbLogger", "enttiy", "entity"), ("TensorBoardLogger", "flsh_secs", "flush_secs"),
                             ("WandbLogger", "experiment", "Run, RunDisabled or null")):
        section = {"_target_": f"{LOGGERS}.{kind}", "save_dir": "x", name: "y"}
        with pytest.raises(UserError, match=near): load_config({"logger": {"x": section}})
    assert load_config({"logger": {"x": {"_target_": f"{LOGGERS}.WandbLogger", "mode": "disabled"}}}).logger.x.mode == "disabled"


# --- Hydra ---

STARTS = {"hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.max_batch_size=2"}  # what says how jobs are started


@pytest.mark.parametrize("name", HydraConf.__dataclass_fields__)
def test_a_setting_of_hydra_starts_jobs_or_is_refused_with_the_reason(name):
    words = [f"hydra.{name}=x", f"hydra.{name}.dir=x", f"+hydra.{name}.x=y", f"hydra/{name}=x", f"~hydra.{name}",
             f"++hydra.{name}.dir=x"]
    for word in words:
        if word in ("hydra/launcher=x", "hydra.launcher.dir=x"): continue  # Hydra knows its launchers, and what each takes
        with pytest.raises(UserError, match="A run's folder is below paths.runs"): check_hydras([word], True)
        with pytest.raises(UserError): load_config({word.lstrip("+~").partition("=")[0]: "x"})


def test_what_starts_jobs_needs_several_and_a_machine_for_them():
    check_hydras([*STARTS], True)
    for word in STARTS:
        with pytest.raises(UserError, match="needs --multirun"): check_hydras([word], False)
    for many in ("1000000", "1_000_000", "+1000000", "'1000000'"):
        with pytest.raises(UserError, match="would train as many at once"): check_hydras([f"hydra.launcher.n_jobs={many}"], True)


def test_what_starts_all_jobs_at_once_starts_few(monkeypatch):
    most = max(FEW_PROCESSES, usable_cores())
    for word in ("hydra.launcher.tasks_per_node=1000000", "hydra.sweeper.max_batch_size=1000000", "hydra.launcher.n_jobs=1000000"):
        with pytest.raises(UserError, match="as many at once"): check_hydras(["hydra/launcher=submitit_local", word], True)
        check_hydras(["hydra/launcher=submitit_slurm", word], True)  # a cluster has limits of its own
    check_hydras(["hydra/launcher=joblib", "hydra.sweeper.max_batch_size=1000000"], True)  # n_jobs says how many at once
    started = []
    monkeypatch.setattr("hydra.main", lambda **more: lambda job: lambda: started.append(sys.argv))
    for kind in ("submitit_local", "submitit_slurm"): launch(print, ["-m", "seed=range(40)", f"hydra/launcher={kind}"])
    assert f"hydra.sweeper.max_batch_size={most}" in started[0] and "max_batch_size" not in str(started[1])


@pytest.mark.parametrize("word, told", [("hydra/launcher=nonsense", "joblib"), ("hydra.launcher.n_jobs=2", "n_jobs"),
                                        ("hydra.sweeper.max_batch_size=x", "max_batch_size")])
def test_a_launcher_that_is_not_there_is_one_sentence(data, tmp_path, monkeypatch, capsys, word, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit: launch(print, ["-m", "seed=1,2", "datamodule.path=data", word], after=print)
    said = capsys.readouterr()
    assert (exit.value.code, said.out, said.err.count("\n")) == (2, "", 1) and told in said.err and "Traceback" not in said.err
