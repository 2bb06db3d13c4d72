"Run folders and trackers against the real things: killed processes, TensorBoard's reader, MLflow's client."
import contextlib
import csv
import errno
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections import namedtuple
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlops_mnist.parts import runfolder
from dlops_mnist.parts.core import UserError, read_checkpoint
from dlops_mnist.parts.runfolder import Run, check_name, discard_run, find_runs, new_run

ROOT = Path(__file__).parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def python(code, *args, **kwargs):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests"]))}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, **kwargs)


# Run folders


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, "No space left on device")])
def test_a_run_that_is_stopped_while_it_is_made_leaves_nothing(tmp_path, monkeypatch, stopped):
    def stop(): raise stopped
    monkeypatch.setattr(runfolder, "git_state", stop)
    with pytest.raises(UserError if isinstance(stopped, OSError) else stopped):
        new_run({"experiment": "x", "paths": {"runs": str(tmp_path / "deep/runs")}})
    assert not list(tmp_path.iterdir())


def test_a_helper_takes_nothing_away(tmp_path, monkeypatch):
    run = new_run({"experiment": "x", "paths": {"runs": str(tmp_path / "runs")}})
    monkeypatch.setenv("LOCAL_RANK", "1")
    discard_run(run)
    assert run.status == "running"


def test_twenty_processes_of_one_name_never_share_a_folder(tmp_path):
    config = "{'experiment': 'e', 'paths': {'runs': sys.argv[1]}}"
    code = f"import sys; from dlops_mnist.parts.runfolder import new_run; new_run({config}, 'same')"
    jobs = [python(code, tmp_path) for _ in range(20)]
    assert [job.wait() for job in jobs] == [0] * 20
    runs = list(find_runs(tmp_path))
    assert len(runs) == 20 and {run.status for run in runs} == {"dead"}  # they said `running`, and are gone
    assert all(run.config["experiment"] == "e" for run in runs)


def test_folders_are_read_and_drawn_without_torch():
    code = "import sys, dlops_mnist.parts.runfolder, dlops_mnist.parts.figures; assert 'torch' not in sys.modules"
    assert python(code).wait() == 0


@settings(max_examples=200, deadline=None)
@given(name=st.one_of(st.text(), st.sampled_from(["../../x", "/etc/x", "..", "a/../b", "C:\\x", "", " ", "x\0"])))
def test_no_name_leaves_the_runs_folder(tmp_path_factory, name):
    runs = tmp_path_factory.getbasetemp() / "names" / "runs"
    try: check_name(name)
    except UserError:
        with pytest.raises(UserError): new_run({"experiment": name or " ", "paths": {"runs": runs}})
        return
    assert new_run({"experiment": name, "paths": {"runs": runs}}).path.parent.parent == runs


@settings(max_examples=100, deadline=None)
@given(config=st.binary(), metrics=st.binary(), provenance=st.binary())
def test_reading_a_broken_folder_never_fails(tmp_path_factory, config, metrics, provenance):
    run = Run(tmp_path_factory.getbasetemp() / "broken")
    run.path.mkdir(exist_ok=True)
    for file, data in ((run.config_file, config), (run.metrics_file, metrics), (run.provenance_file, provenance)):
        file.write_bytes(data)
    assert isinstance(run.config, dict) and isinstance(run.rows, list) and isinstance(run.best, dict)
    assert isinstance(run.status, str) and isinstance(run.provenance, dict) and len(run.metrics) == len(run.rows)


def test_a_runs_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="runs"): new_run({"paths": {"runs": tmp_path / "runs"}})


def test_helpers_of_a_run_join_it(tmp_path, monkeypatch):
    run = new_run({"paths": {"runs": tmp_path}})
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert new_run({"paths": {"runs": tmp_path}}).path == run.path and len(list(find_runs(tmp_path))) == 1


# Training

pl = torch = dm = None


def load():
    "What training needs, imported late: the tests above must not pay for it."
    global pl, torch, dm
    import pytorch_lightning as pl
    import torch

    from dlops_mnist.dataset import MNISTDataModule

    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    dm = MNISTDataModule(path=ROOT / "dataset")
    dm.setup()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "What a tracker writes goes into the test's own folder."
    if pl is None: load()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
         "num_sanity_val_steps": 0, "accelerator": "cpu", "log_every_n_steps": 1}
LOGGERS, CALLBACKS = "pytorch_lightning.loggers", "pytorch_lightning.callbacks"


def make_config(**changes):
    config = {"experiment": "t", "seed": 0, "paths": {"runs": "runs"}, "monitor": "val_acc", "monitor_mode": "max",
              "datamodule": {"classes": dm.classes, "image_shape": list(dm.image_shape)}, "trainer": dict(QUIET),
              "model": {"_target_": "dlops_mnist.models.MLP", "hidden": [8], "dropout": 0.2}}
    return config | changes


def train(config, run=None, epochs=2, extra=(), ckpt_path=None, **trainer_settings):
    from dlops_mnist.models import MNISTModule
    from dlops_mnist.tracking import make_callbacks, make_loggers

    run = run or new_run(config)
    settings = config["trainer"] | {"logger": make_loggers(config, run)} | trainer_settings
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[*make_callbacks(config, run), *extra], **settings)
    torch.manual_seed(0)
    trainer.fit(MNISTModule(config), dm, ckpt_path=ckpt_path)
    return run


def accuracies(run):
    return [row["val_acc"] for row in run.rows]


def raise_at(epoch, error):
    class Raise(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.current_epoch == epoch: raise error

    return Raise()


def test_a_run_without_any_tracker_writes_its_whole_folder():
    run = train(make_config(), epochs=3)
    assert run.status == "finished" and run.config == make_config()
    with run.metrics_file.open() as file: rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert list(rows[0])[:6] == ["epoch", "step", "loss", "acc", "val_loss", "val_acc"]
    provenance = json.loads(run.provenance_file.read_text())
    assert provenance["fingerprint"] == dm.fingerprint and provenance["packages"]["torch"] and provenance["ended"]
    assert "epoch 3/3" in run.log_file.read_text()
    assert {f.name for f in run.checkpoints.iterdir()} == {"best.ckpt", "last.ckpt"}
    for checkpoint in (run.best_checkpoint, run.last_checkpoint):  # it knows its dataset, wherever it is taken
        assert torch.load(checkpoint, weights_only=True)["dlops_mnist"]["fingerprint"] == dm.fingerprint
    assert torch.load(run.best_checkpoint, weights_only=True)["epoch"] == run.best["epoch"] + 1


def test_how_a_run_ends_is_written_down():
    run = new_run(make_config())
    broken = raise_at(1, ZeroDivisionError("by design"))
    with pytest.raises(ZeroDivisionError): train(make_config(), run, extra=[broken])
    assert run.status == "failed" and run.provenance["error"] == "ZeroDivisionError: by design"
    assert "by design" in run.log_file.read_text() and len(run.rows) == 1
    run = new_run(make_config())
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit): train(make_config(), run, extra=[raise_at(0, KeyboardInterrupt())])
    signal.signal(signal.SIGINT, before)  # Lightning leaves Ctrl-C switched off
    assert run.status == "interrupted" and run.last_checkpoint.exists()


def test_warnings_go_to_the_log_and_to_the_screen():
    class Warn(pl.Callback):
        def on_train_epoch_start(self, *args): warnings.warn("look out", stacklevel=1)

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        run = train(make_config(), epochs=1, extra=[Warn()])
    assert run.log_file.read_text().count("look out") == 1


KILLED = """
import sys, time, warnings; warnings.filterwarnings("ignore")
import test_tracking as t
class Slow(__import__("pytorch_lightning").Callback):
    def on_train_batch_end(self, *args): time.sleep(0.02)
t.load()
t.train(t.make_config(), t.Run(sys.argv[1]), epochs=6, extra=[Slow()])
"""


@pytest.mark.slow
def test_a_killed_run_is_dead_whole_and_continues_to_the_same_weights():
    whole, killed = train(make_config(), epochs=6), new_run(make_config())
    job = python(KILLED, killed.path.resolve(), cwd=killed.path, stderr=subprocess.PIPE)
    for _ in range(6000):
        if len(killed.rows) >= 2 or job.poll() is not None: break
        time.sleep(0.05)
    job.kill()
    assert job.wait() == -signal.SIGKILL, job.stderr.read().decode()
    assert killed.status == "dead" and 2 <= len(killed.rows) < 6
    torch.load(killed.last_checkpoint, weights_only=True)
    train(make_config(), killed, epochs=6, ckpt_path=killed.last_checkpoint)
    a, b = (torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (whole, killed))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert whole.metrics_file.read_text() == killed.metrics_file.read_text() and killed.status == "finished"


@pytest.mark.parametrize("schedule, step", [("ReduceLROnPlateau", 13), ("OneCycleLR", 40), ("CosineAnnealingLR", 80)])
def test_continuing_is_exact_with_schedules_and_early_stopping(schedule, step):
    class Cut(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == step: raise ZeroDivisionError

    details = {"ReduceLROnPlateau": {"patience": 0, "threshold": 0.2, "monitor": "val_loss"},
               "OneCycleLR": {"max_lr": 0.01, "total_steps": None, "interval": "step"},
               "CosineAnnealingLR": {"T_max": None}}
    stop = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val_loss", "min_delta": 0.05}
    config = make_config(scheduler={"_target_": f"torch.optim.lr_scheduler.{schedule}"} | details[schedule],
                         callbacks={"stop": stop | {"patience": 1}})
    whole, cut = train(config, epochs=8), new_run(config)
    with contextlib.suppress(ZeroDivisionError): train(config, cut, epochs=8, extra=[Cut()])
    train(config, cut, epochs=8, ckpt_path=cut.last_checkpoint)  # also if it had stopped early: it must not train on
    a, b = (torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (whole, cut))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert whole.metrics_file.read_text() == cut.metrics_file.read_text()


def test_a_full_disk_is_one_message_and_keeps_the_last_good_checkpoint(monkeypatch):
    run, save = new_run(make_config()), pl.Trainer.save_checkpoint

    def full(self, path, *args, **kwargs):
        if self.current_epoch < 2: return save(self, path, *args, **kwargs)
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    with pytest.raises(UserError, match="No space left on device"): train(make_config(), run, epochs=4)
    assert torch.load(run.last_checkpoint, weights_only=True)["epoch"] == 1
    assert run.status == "failed"


@pytest.mark.parametrize("stopped", [False, True])
def test_signals_mean_afterwards_what_they_meant_before(stopped):
    class Stop(pl.Callback):
        def on_train_batch_end(self, *_):
            if stopped: signal.raise_signal(signal.SIGTERM)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) if stopped else contextlib.nullcontext(): train(make_config(), extra=[Stop()])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_best_needs_a_number_and_a_metric_that_exists():
    class Nan(pl.Callback):
        def on_validation_end(self, trainer, *args): trainer.callback_metrics["val_acc"].fill_(float("nan"))

    run = train(make_config(), extra=[Nan()])
    assert run.best == {} and run.best_checkpoint == run.last_checkpoint
    names = "acc, loss, val_acc, val_loss"
    with pytest.raises(UserError, match=f"val_accuracy.*{names}"): train(make_config(monitor="val_accuracy"))
    with pytest.raises(UserError) as told: train(make_config(monitor="speed"))
    assert str(told.value).count("val_loss") == 1, "no name is near, and the list of them stands there once"
    stop = {"stop": {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val_los"}}
    with pytest.raises(RuntimeError, match="`val_los` which is not available.*val_loss"): train(make_config(callbacks=stop))
    run = train(make_config(), limit_val_batches=0)
    assert run.status == "finished" and run.best_checkpoint == run.last_checkpoint


def test_a_validation_within_an_epoch_is_a_row_and_the_best_checkpoint_is_what_was_measured():
    for interval, accumulated in ((2, 1), (3, 2)):
        run = train(make_config(), epochs=2, val_check_interval=interval, accumulate_grad_batches=accumulated)
        ends = [row for row in run.rows if "loss" in row]
        assert len(ends) == 2 == run.epochs and len(run.rows) == 2 * (9 // interval) + 2 * (9 % interval > 0)
        assert all("val_acc" in row for row in run.rows if row not in ends)
        assert measured(run.best_checkpoint) == pytest.approx(run.best["val_loss"], abs=1e-7)
    assert all(("val_acc" in row) == (interval == 3) for row in ends), "nine batches: the third validation ends the epoch"


def measured(checkpoint):
    from dlops_mnist.models import MNISTModule

    trainer = pl.Trainer(**QUIET | {"logger": False, "log_every_n_steps": None})
    return trainer.validate(MNISTModule.load_from_checkpoint(checkpoint, map_location="cpu"), dm, verbose=False)[0]["val_loss"]


class Kind(Enum):
    ONE = "one"


Pair = namedtuple("Pair", "x y")


def test_a_run_can_read_what_it_wrote():
    import numpy as np

    class Remembers(pl.Callback):
        def __init__(self, what): self.what = what
        def state_dict(self): return {"seen": self.what}
        def load_state_dict(self, state): self.loaded = state["seen"]

    seen = {"a": np.float32(0.5), "b": np.eye(2), "c": Path("x/y"), "d": Kind.ONE, "e": Pair(1, np.int64(2)), "f": [np.bool_(True)]}
    run = train(make_config(), extra=[Remembers(seen)])
    again = Remembers(None)
    train(make_config(), run, epochs=3, extra=[again], ckpt_path=run.last_checkpoint)
    assert again.loaded.pop("b").tolist() == [[1, 0], [0, 1]] and len(run.rows) == 3
    assert again.loaded == {"a": 0.5, "c": os.path.join("x", "y"), "d": "one", "e": (1, 2), "f": [True]}
    with pytest.raises(UserError, match="can't keep 'callbacks', '.*Remembers', 'seen', item 0: its type is function"):
        train(make_config(), run := new_run(make_config()), extra=[Remembers([measured])])
    assert run.rows == [], "before the first batch"


def test_what_a_callback_writes_into_the_checkpoint_itself_can_be_read_too():
    import numpy as np

    class Writes(pl.Callback):
        def __init__(self, *what): self.what = what
        def on_save_checkpoint(self, trainer, module, checkpoint):
            checkpoint["mine"], checkpoint["state_dict"]["layer._extra_state"] = self.what

    run = train(make_config(), extra=[Writes(np.float32(0.5), Path("x"))], epochs=1)
    found = read_checkpoint(run.last_checkpoint)
    assert found["mine"] == 0.5 and found["state_dict"]["layer._extra_state"] == "x"
    for what, named in {(measured, 1): "keep 'mine'", (1, measured): "keep the weights, 'layer._extra_state'"}.items():
        with pytest.raises(UserError, match=named): train(make_config(), extra=[Writes(*what)])


def test_a_folder_that_is_deleted_while_the_run_trains_is_told():
    class Deletes(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.current_epoch == 1: shutil.rmtree(run.path, ignore_errors=True)

    run = new_run(make_config())
    with pytest.raises(UserError, match="deleted or moved"): train(make_config(), run, extra=[Deletes()])
    assert not run.path.exists()


def test_early_stopping_that_had_ended_says_so():
    stop = {"stop": {"_target_": f"{CALLBACKS}.EarlyStopping", "monitor": "val_acc", "patience": 1, "min_delta": 1.0}}
    run = train(make_config(callbacks=stop), epochs=9)
    count = len(run.rows)
    with pytest.warns(UserWarning, match="Early stopping had ended"):
        train(make_config(callbacks=stop), run, epochs=20, ckpt_path=run.last_checkpoint)
    assert len(run.rows) == count < 9


def test_what_a_callback_shows_is_on_the_plain_line(capsys):
    class Shows(pl.Callback):
        def on_validation_epoch_end(self, trainer, module):
            module.log("val_top2", 0.25, prog_bar=True)
            module.log("val_other", 0.75)

    train(make_config(trainer=QUIET | {"enable_progress_bar": True}), extra=[Shows()], epochs=1)
    line = capsys.readouterr().out
    assert "val_top2 0.25" in line and "val_other" not in line


def test_what_a_callback_logs_can_be_monitored_and_is_named(capsys):
    class Logs(pl.Callback):
        def on_validation_epoch_end(self, trainer, module): module.log("val_top2", 0.5 - 0.1 * trainer.current_epoch)

    shown = make_config(monitor="val_top2", trainer=QUIET | {"enable_progress_bar": True})
    run = train(shown, extra=[Logs()], epochs=2)
    assert run.best["epoch"] == 0 and capsys.readouterr().out.count("val_top2 0.") == 2
    with pytest.raises(UserError, match="Did you mean `val_top2`.*acc, loss, val_acc, val_loss, val_top2"):
        train(make_config(monitor="val_topp"), extra=[Logs()])


def test_no_stale_validation_figures():
    run = train(make_config(), epochs=4, check_val_every_n_epoch=2)
    assert ["val_acc" in row for row in run.rows] == [False, True, False, True]


# Trackers

ALL = {"csv": {"_target_": f"{LOGGERS}.CSVLogger", "save_dir": "logs", "name": "003"},
       "tensorboard": {"_target_": f"{LOGGERS}.TensorBoardLogger", "save_dir": "tb", "name": "x"},
       "wandb": {"_target_": f"{LOGGERS}.WandbLogger", "project": "dlops-mnist"},
       "mlflow": {"_target_": f"{LOGGERS}.MLFlowLogger"}}
REPORT = {"report": {"_target_": "dlops_mnist.tracking.ImageClassificationReport", "every_n_epochs": 1},
          "wandb": {"_target_": "dlops_mnist.tracking.WandBCallback", "labels": ["no 3", "3"]},
          "rate": {"_target_": "pytorch_lightning.callbacks.LearningRateMonitor"}}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    "One run with all trackers at once."
    if pl is None: load()
    folder, here = tmp_path_factory.mktemp("tracked"), os.getcwd()
    os.chdir(folder)
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = train(make_config(logger=ALL, callbacks=REPORT), epochs=3)
        troubles = [str(w.message) for w in caught if "failed" in str(w.message)]
    finally: os.chdir(here)
    return folder, Run(folder / run.path), troubles


def test_all_trackers_at_once_without_trouble(tracked):
    folder, run, troubles = tracked
    assert run.status == "finished" and troubles == []
    assert {f.name for f in run.figures.iterdir()} == {"confusion_matrix.png", "roc.png", "mistakes.png"}
    assert "lr-Adam" in run.metrics


def test_tensorboard_reads_back_scalars_figures_and_hparams(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder, run, _ = tracked
    board = EventAccumulator(str(folder / "tb" / "x" / "version_0"), size_guidance={"tensors": 0}).Reload()
    assert [event.value for event in board.Scalars("val_acc")] == pytest.approx(accuracies(run))
    assert set(board.Tags()["images"]) == {"confusion_matrix", "roc", "mistakes"} and len(board.Images("roc")) == 3
    assert "hp_metric" not in board.Tags()["scalars"]
    data = {tag: HParamsPluginData.FromString(content) for tag, content in board.PluginTagToContent("hparams").items()}
    start = next(d.session_start_info for d in data.values() if d.HasField("session_start_info"))
    assert start.hparams["model.dropout"].number_value == 0.2 and start.hparams["monitor"].string_value == "val_acc"
    names = {m.name.tag for d in data.values() for m in d.experiment.metric_infos}
    assert {"val_acc", "val_loss", "loss", "acc"} <= names


def test_csv_has_the_layout_of_the_series(tracked):
    folder, run, _ = tracked
    with (folder / "logs/003/version_0/metrics.csv").open() as file: rows = list(csv.DictReader(file))
    assert [float(row["val_acc"]) for row in rows if row["val_acc"]] == pytest.approx(accuracies(run))
    assert "model.dropout: 0.2" in (folder / "logs/003/version_0/hparams.yaml").read_text()


def test_mlflow_reads_back_params_metrics_figures_and_the_best_checkpoint(tracked, tmp_path):
    from mlflow.tracking import MlflowClient

    folder, run, _ = tracked
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found, = client.search_runs([client.get_experiment_by_name("t").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == f"t/{run.path.name}"
    assert found.data.params["model.dropout"] == "0.2" and found.data.params["model.hidden"] == "[8]"
    history = client.get_metric_history(found.info.run_id, "val_acc")
    assert [metric.value for metric in history] == pytest.approx(accuracies(run))
    figures = {f.path for f in client.list_artifacts(found.info.run_id, "figures")}
    assert figures == {f"figures/{name}.png" for name in ("confusion_matrix", "roc", "mistakes")}
    copy = client.download_artifacts(found.info.run_id, "checkpoints/best.ckpt", str(tmp_path))
    assert Path(copy).read_bytes() == run.best_checkpoint.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
def test_mlflow_shows_the_run_on_its_page(tracked, tmp_path):
    from mlflow.tracking import MlflowClient

    folder, run, _ = tracked
    found, = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_runs(["1"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"127.0.0.1:{port}"
    command = ["mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--port", port, "--workers", "1"]
    # a session of its own, since the server starts helpers that outlive it
    server = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_open(f"http://{address}/health"), 60)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                   f"--user-data-dir={tmp_path}", "--virtual-time-budget=25000", "--dump-dom"]
        page = subprocess.run([BROWSER, *options, f"http://{address}/#/experiments/1/runs/{found.info.run_id}"],
                              capture_output=True, text=True, timeout=120).stdout
    finally: os.killpg(server.pid, signal.SIGKILL)
    assert f"t/{run.path.name}" in page and "Finished" in page and "model.dropout" in page
    assert f"{run.rows[-1]['val_acc']:.5f}"[:6] in page


def is_open(url):
    try: return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError: return False


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.5)


def wandb_records(file):
    "The records of a .wandb file: LevelDB's log format, blocks of 32 KB behind a header of 7 bytes."
    data, place, parts = file.read_bytes(), 7, []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7: place += 32768 - place % 32768  # too little room for a record's head
        length, kind = int.from_bytes(data[place + 4:place + 6], "little"), data[place + 6]
        parts.append(data[place + 7:place + 7 + length])
        place += 7 + length
        if kind in (1, 4): yield b"".join(parts)  # all of a record, or the last part of one
        if kind in (1, 4): parts = []


def wandb_offline_run(folder):
    "What a W&B offline folder holds: the config, and the rows of the history."
    from wandb.proto.wandb_internal_pb2 import Record

    config, history = {}, []
    for record in map(Record.FromString, wandb_records(next(folder.glob("run-*.wandb")))):
        for update in (*record.run.config.update, *record.config.update):
            config[update.key or update.nested_key[0]] = json.loads(update.value_json)
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if row: history.append(row)
    return config, history


def test_wandb_reads_back_config_metrics_and_charts(tracked):
    folder, run, _ = tracked
    path, = (folder / "wandb").glob("offline-run-*")
    config, history = wandb_offline_run(path)
    assert config["model.dropout"] == 0.2
    assert [row["val_acc"] for row in history if "val_acc" in row] == pytest.approx(accuracies(run))
    media = [file.name for file in path.rglob("media/**/*") if file.is_file()]
    assert sum(name.startswith("mistakes") for name in media) == 3
    table = json.loads(next(path.rglob("roc_curve_table*.table.json")).read_text())
    rates = {row[1] for row in table["data"] if row[0] == "3"}
    assert len(rates) > 3, "a curve from decisions has a single corner"


def test_a_second_wandb_run_of_a_process_does_not_join_the_first():
    config = make_config(logger={"wandb": ALL["wandb"]})
    train(config, epochs=1)
    with pytest.raises(ZeroDivisionError): train(config, epochs=2, extra=[raise_at(1, ZeroDivisionError())])
    train(config, epochs=1)
    import wandb

    assert wandb.run is None and len(list(Path("wandb").glob("offline-run-*"))) == 3


@pytest.mark.slow
def test_wandb_stays_offline_where_it_has_been_in_use_before():
    wandb = {"_target_": f"{LOGGERS}.WandbLogger", "offline": True}
    code = ("import os; [os.environ.pop(name, None) for name in ('WANDB_MODE', 'WANDB_API_KEY')]; import wandb; wandb.setup()\n"
            "from dlops_mnist.parts.loggers import make_loggers; from dlops_mnist.parts.runfolder import new_run\n"
            f"config = {{'logger': {{'wandb': {wandb}}}, 'paths': {{'runs': 'runs'}}}}\n"
            "for logger in make_loggers(config, new_run(config)): logger.finalize('success')")
    assert not python(code).wait() and len(list(Path("wandb").glob("offline-run-*"))) == 1


def test_a_resumed_run_keeps_the_history_of_its_csv_logger():
    config = make_config(logger={"csv": ALL["csv"]})
    run = new_run(config)
    with pytest.raises(ZeroDivisionError): train(config, run, epochs=4, extra=[raise_at(2, ZeroDivisionError())])
    train(config, run, epochs=4, ckpt_path=run.last_checkpoint)
    file, = Path("logs").rglob("metrics.csv")
    with file.open() as lines: rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows if row["val_acc"]] == ["0", "1", "2", "3"]
    assert [float(row["val_acc"]) for row in rows if row["val_acc"]] == pytest.approx(accuracies(run))


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_mlflow_although_settings_changed():
    # a process keeps a relative address open, where an earlier test has used it: in that test's folder
    store = f"sqlite:///{Path('mlflow.db').absolute()}"
    mlflow = {"_target_": "pytorch_lightning.loggers.MLFlowLogger", "tracking_uri": store}
    config = make_config(logger={"mlflow": mlflow}, resume=None)
    run = train(config, epochs=1)
    train(config | {"resume": str(run.path), "seed": 1}, run, epochs=3, ckpt_path=run.last_checkpoint)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    found, = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert found.info.status == "FINISHED" and found.data.params["seed"] == "0"
    assert len(client.get_metric_history(found.info.run_id, "val_acc")) == 3


def test_logger_true_is_tensorboard_where_lightning_puts_it():
    train(make_config(trainer=QUIET | {"logger": True}), epochs=1)
    assert list(Path("lightning_logs/version_0").glob("events.out.tfevents.*"))


MISSING = """
import importlib.metadata, sys
version, hidden = importlib.metadata.version, ("wandb", "mlflow", "tensorboard")
def installed_version(name):
    if name.startswith(hidden): raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(hidden): raise ModuleNotFoundError(f"No module named {name!r}", name=name)
importlib.metadata.version = installed_version
sys.meta_path.insert(0, Hidden())
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.loggers import make_loggers
from dlops_mnist.parts.runfolder import new_run
for kind in ("WandbLogger", "MLFlowLogger", "TensorBoardLogger"):
    csv = {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "logs"}
    loggers = {"csv": csv, "it": {"_target_": f"pytorch_lightning.loggers.{kind}"}}
    config = {"paths": {"runs": "runs"}, "logger": loggers}
    try: make_loggers(config, new_run(config))
    except UserError as error: print(str(error).replace("\\n", " "))
"""


@pytest.mark.slow
def test_a_missing_tracker_is_one_sentence_before_any_of_them_starts():
    job = python(MISSING, stdout=subprocess.PIPE, text=True)
    lines = job.communicate()[0].splitlines()
    assert len(lines) == 3 and all("`logger.it`" in line and "pip install" in line for line in lines)
    assert all(name in line for name, line in zip(("wandb", "mlflow", "tensorboard"), lines))
    assert not Path("logs").exists()


def test_a_tracker_that_fails_is_reported_once_and_costs_nothing(monkeypatch):
    from pytorch_lightning.loggers import CSVLogger

    def gone(self, metrics, step=None): raise ConnectionError("the server is gone")

    monkeypatch.setattr(CSVLogger, "log_metrics", gone)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = train(make_config(logger={"csv": ALL["csv"]}), epochs=3)
    assert sum("server is gone" in str(w.message) for w in caught) == 1
    assert run.status == "finished" and len(run.rows) == 3 and "server is gone" in run.log_file.read_text()
    monkeypatch.setattr(CSVLogger, "log_hyperparams", gone)
    with pytest.raises(UserError, match="logger.csv.*can't be started"): train(make_config(logger={"csv": ALL["csv"]}))


# Callbacks


def test_callbacks_by_config():
    config = make_config(callbacks={"off": None, "save": {
        "_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "dirpath": "checkpoints", "save_top_k": 1,
        "monitor": "val_loss", "mode": "min", "filename": "006-{val_loss:.5f}-{epoch}"}})
    with pytest.raises(UserError, match="enable_checkpointing"): train(config)
    train(config | {"trainer": QUIET | {"enable_checkpointing": True}})
    assert len(list(Path("checkpoints").glob("006-val_loss=*-epoch=*.ckpt"))) == 1


def test_the_progress_bar_fits_the_place(monkeypatch):
    from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar

    from dlops_mnist.parts import callbacks

    assert isinstance(callbacks.progress_bar(), callbacks.PlainProgress)  # pytest's stdout is no terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(callbacks.progress_bar(), RichProgressBar)
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    assert isinstance(callbacks.progress_bar(), TQDMProgressBar)


def test_plain_progress_is_a_line_for_each_epoch(capsys):
    train(make_config(trainer=QUIET | {"enable_progress_bar": True}))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1/2", "2/2"]


def test_an_epoch_without_validation_shows_no_figures_of_the_one_before(capsys):
    train(make_config(trainer=QUIET | {"enable_progress_bar": True}), epochs=4, check_val_every_n_epoch=2)
    assert ["val_acc" in line for line in capsys.readouterr().out.splitlines()] == [False, True, False, True]


def test_an_epoch_that_was_cut_short_shows_its_own_figures(capsys):
    steps = len(dm.train_dataloader()) + 2
    run = train(make_config(trainer=QUIET | {"enable_progress_bar": True}), epochs=4, max_steps=steps)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, row in zip(lines, run.rows, strict=True): assert f"loss {row['loss']:.4g}  acc {row['acc']:.4g}" in line


def test_a_report_shows_no_images_of_another_order():
    import numpy as np

    from dlops_mnist.parts.callbacks import Results, draw, mistakes_in

    images = [np.full((8, 8), i, "uint8") for i in range(4)]
    labels, probabilities = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.9])
    assert list(mistakes_in(list(zip(images, labels)), labels, probabilities, 18)) == [1]
    shuffled = mistakes_in(list(zip(images, labels[::-1])), labels, probabilities, 18)
    assert shuffled == {} and "mistakes" not in draw(Results(labels, probabilities, ["a", "b"], shuffled))


def test_wandb_callback_takes_a_loader_as_in_the_series():
    from dlops_mnist.tracking import WandBCallback

    callback, seen = WandBCallback(dm.val_dataloader(), ["no 3", "3"]), []
    callback.report = lambda trainer, results: seen.append(results)
    train(make_config(), epochs=1, extra=[callback])
    assert seen[0].classes == ["no 3", "3"] and (seen[0].labels == dm.datasets["val"].labels).all()


def test_two_processes_report_every_image_once():
    from dlops_mnist.tracking import ImageClassificationReport

    class Note(ImageClassificationReport):
        def report(self, trainer, results):
            super().report(trainer, results)
            Path("seen.json").write_text(json.dumps(results.labels.tolist()))

    run = train(make_config(), epochs=2, extra=[Note(every_n_epochs=2)], strategy="ddp_fork", devices=2)
    assert json.loads(Path("seen.json").read_text()) == dm.datasets["val"].labels.tolist()
    assert run.status == "finished" and len(run.rows) == 2 and (run.figures / "roc.png").exists()


def test_the_learning_rate_is_recorded_without_any_tracker(program, tmp_path):
    brief = ["trainer.max_epochs=2", "trainer.accelerator=cpu", f"datamodule.path={ROOT / 'dataset'}", "scheduler=cosine"]
    job = program("train", "callbacks=[early_stopping,lr_monitor]", *brief, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert job.returncode == 0, job.stderr
    run, = find_runs(tmp_path / "runs")
    rates = [row["lr-Adam"] for row in run.rows]
    assert rates[0] == pytest.approx(1e-3) and 0 < rates[1] < 9e-4
    needs = "+callbacks.device._target_=pytorch_lightning.callbacks.DeviceStatsMonitor"
    job = program("train", needs, *brief, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert job.returncode == 2 and "`callbacks.device` (DeviceStatsMonitor)" in job.stderr and "logger=CSVLogger" in job.stderr
    assert "Traceback" not in job.stderr and len(list(find_runs(tmp_path / "runs"))) == 1
