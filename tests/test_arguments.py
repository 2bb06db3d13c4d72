"""Every argument of Lightning's trainer does what it says, or is refused with the reason."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dlops_mnist.config import load_config
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.runfolder import new_run
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
    several = {"strategy": "ddp", "devices": 2} if name == "sync_batchnorm" else {}
    config = load_config({"trainer": {"accelerator": "cpu", name: value, **several}})
    try: assert has_come(make_trainer(config, new_run(config)))
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_without_effect_is_refused_with_the_reason(name):
    with pytest.raises(UserError, match=f"`trainer.{name}.*(would have no effect: .|is set by the program)"):
        load_config({"trainer": {name: REFUSED[name]}})


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
