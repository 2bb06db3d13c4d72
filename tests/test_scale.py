"""One config, from one process to several: the same weights and metrics, one folder. Real processes throughout."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dlops_mnist.parts.runfolder import Run, find_runs

SETTINGS = ["001", "trainer.max_epochs=3", "seed=3", "trainer.enable_progress_bar=false", "callbacks=report"]
ALONE = [*SETTINGS, "trainer=cpu", "datamodule.batch_size=32"]
SHARED = [*SETTINGS, "trainer=ddp_sim", "datamodule.batch_size=16"]  # two processes: the same 32 images in each step


@pytest.fixture(scope="module")
def work(root, tmp_path_factory) -> Path:
    """A folder with the experiments and a dataset whose images can't be shared out evenly.

    The last of nine batches has a single image, so one of two processes has none for it; validation has an odd number.
    """
    work = tmp_path_factory.mktemp("scale")
    shutil.copytree(root / "experiments", work / "experiments")
    shutil.copytree(root / "dataset", work / "dataset", ignore=shutil.ignore_patterns(".cache"))
    shutil.copytree(work / "dataset/test", work / "dataset/val")
    for file in sorted((work / "dataset/val/3").iterdir())[:3]: file.unlink()
    for file in sorted((work / "dataset/train/3").iterdir())[:23]: file.unlink()
    return work


def environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(root), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}


def run(root: Path, work: Path, folder: str, *commands: list[str]) -> Run:
    "Start commands at the same time, and return the only run that they make between them."
    started = [subprocess.Popen([*command, f"paths.runs={folder}"], cwd=work, env=environment(root), text=True,
                                start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
               for command in commands]
    try: outputs = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(outputs)
    assert sum(output.count("evaluate it") for output in outputs) == 1, "only the first process reports"
    (made,) = find_runs(work / folder)
    assert sorted(path.name for path in (work / folder).iterdir()) == ["001"] and made.status == "finished"
    folders = {"dataset", "experiments", "alone", "ddp", "torchrun", "nodes"}
    assert {path.name for path in work.iterdir()} <= folders
    return made


@pytest.fixture(scope="module")
def alone(root, work) -> Run:
    return run(root, work, "alone", [sys.executable, "-m", "dlops_mnist.train", *ALONE])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def same(run: Run, alone: Run) -> None:
    "Weights to float tolerance; every metric of every epoch; the confusion matrix to the last pixel; one of each file."
    import torch

    for name in ("last", "best"):
        one, other = (torch.load(r.checkpoints / f"{name}.ckpt", weights_only=True) for r in (alone, run))
        assert one["global_step"] == other["global_step"] and list(one["state_dict"]) == list(other["state_dict"])
        for key, value in one["state_dict"].items():
            assert torch.allclose(value, other["state_dict"][key], atol=1e-5), key
    assert [sorted(row) for row in run.rows] == [sorted(row) for row in alone.rows] and len(run.rows) == 3
    for row, expected in zip(run.rows, alone.rows):
        assert row == pytest.approx(expected, abs=1e-5)
        assert row["acc"] == expected["acc"] and row["val_acc"] == expected["val_acc"]  # fractions of counted images
    names = sorted(path.name for path in alone.figures.iterdir())
    assert names == sorted(path.name for path in run.figures.iterdir()) and "confusion_matrix.png" in names
    figures = [(r.figures / "confusion_matrix.png").read_bytes() for r in (alone, run)]
    assert figures[0] == figures[1]
    assert sorted(p.name for p in run.checkpoints.iterdir()) == sorted(p.name for p in alone.checkpoints.iterdir())
    assert run.provenance["fingerprint"] == alone.provenance["fingerprint"]
    assert run.provenance["training"]["processes"] == 2


@pytest.mark.slow
def test_two_processes_end_where_one_does(root, work, alone):
    same(run(root, work, "ddp", [sys.executable, "-m", "dlops_mnist.train", *SHARED]), alone)


@pytest.mark.slow
def test_torchrun(root, work, alone):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    same(run(root, work, "torchrun", [*torchrun, "-m", "dlops_mnist.train", *SHARED]), alone)


@pytest.mark.slow
def test_torchrun_on_two_nodes(root, work, alone):
    "Two nodes on one machine: each has its own launcher, and they meet at an address."
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
                "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    nodes = [[*torchrun, f"--node_rank={rank}", "-m", "dlops_mnist.train", *SHARED, "trainer.devices=1",
              "trainer.num_nodes=2"] for rank in (0, 1)]
    same(run(root, work, "nodes", *nodes), alone)


@pytest.mark.races  # as it starts processes for both cores itself
@pytest.mark.slow
def test_twenty_runs_two_at_a_time(root, work):
    "Hydra's launchers: twenty complete folders, one table, and the same numbers whoever started the runs."
    launchers = {"joblib": ["hydra.launcher.n_jobs=2"], "submitit_local": ["hydra.sweeper.max_batch_size=2"]}
    curves = {}
    for launcher, extra in launchers.items():
        place = work.parent / f"{work.name}-{launcher}"
        for name in ("experiments", "dataset"): shutil.copytree(work / name, place / name)
        command = [sys.executable, "-m", "dlops_mnist.train", "001", "-m", "seed=range(20)", "trainer.max_epochs=2",
                   f"hydra/launcher={launcher}", *extra]
        done = subprocess.run(command, cwd=place, env=environment(root), text=True, capture_output=True, timeout=900)
        assert done.returncode == 0, done.stderr
        runs = list(find_runs(place / "runs"))
        assert len(runs) == 20 and done.stdout.count("finished") == 20, "one table of them all"
        assert len({run.path for run in runs}) == 20 and len({run.config["sweep"] for run in runs}) == 1
        for run in runs:
            assert run.status == "finished" and len(run.rows) == 2
            assert {"config.yaml", "metrics.csv", "provenance.json", "train.log"} <= {p.name for p in run.path.iterdir()}
            assert sorted(p.name for p in run.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
        runs.sort(key=lambda run: run.config["seed"])
        curves[launcher] = {run.config["seed"]: run.rows for run in runs}
        facts = [run.provenance for run in runs]
        if launcher == "joblib": assert len({fact["process"]["pid"] for fact in facts}) == 2, "two processes did it all"
        else:  # pairs, one after the other
            ends = [max(fact["ended"] for fact in facts[i:i + 2]) for i in range(0, 20, 2)]
            starts = [min(fact["started"] for fact in facts[i:i + 2]) for i in range(0, 20, 2)]
            assert all(end <= start for end, start in zip(ends, starts[1:]))
    assert sorted(curves["joblib"]) == list(range(20))
    assert curves["joblib"] == curves["submitit_local"]
