"""The whole way of an owner: a copy, parts of one's own, a training that is killed and goes on, a merge, a release."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import notebooks  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.tools]
NAME = "my" "_shapes"
PARTS = '''#| export
import math

import numpy as np
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn


class ResNet(nn.Module):
    "Two residual blocks: what they find is added to what they were given."

    def __init__(self, width: int = 8, in_channels: int = 1, num_classes: int = 2):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        def block(): return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.blocks = nn.ModuleList([block(), block()])
        self.last = nn.Linear(width, num_classes)

    def forward(self, images):
        x = self.first(images)
        for block in self.blocks: x = x + block(x)
        return self.last(x.mean((2, 3)))


class Lion(torch.optim.Optimizer):
    "Steps of one size, in the direction of a running mean."

    def __init__(self, params, lr: float = 1e-3, beta: float = 0.9): super().__init__(params, {'lr': lr, 'beta': beta})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure and torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group['params']:
                mean = self.state[p].setdefault('mean', torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group['beta'])
                p.sub_(mean.sign(), alpha=group['lr'])
        return loss


class WarmUp(torch.optim.lr_scheduler.LRScheduler):
    "Up in a line, then down along a cosine; its state is full of NumPy's numbers."

    def __init__(self, optimizer, max_steps: int, warm: int = 4):
        self.max_steps, self.warm, self.factor = max_steps, np.int64(warm), np.float32(0)
        super().__init__(optimizer)

    def get_lr(self):
        t = self.last_epoch
        self.factor = min((t + 1) / self.warm, np.cos(math.pi / 2 * t / self.max_steps) + 0.01)
        return [base * float(self.factor) for base in self.base_lrs]


class Speckle(nn.Module):
    "Noise on the training images."

    def forward(self, images): return (images + 4 * torch.randn(images.shape)).clamp(0, 255).to(images.dtype)


class Margin(torchmetrics.Metric):
    "How sure the answers are, on average."

    def __init__(self):
        super().__init__()
        self.add_state('sums', torch.zeros(2), dist_reduce_fx='sum')

    def update(self, probabilities, labels):
        self.sums += torch.stack([probabilities.max(1).values.sum(), torch.tensor(len(labels))])

    def compute(self): return self.sums[0] / self.sums[1]


class Remembers(pl.Callback):
    "Keeps the best loss, in NumPy's float."

    def __init__(self): self.best, self.losses = np.float32(9), []
    def state_dict(self): return {'best': self.best}
    def load_state_dict(self, state): self.best = state['best']

    def on_validation_epoch_start(self, trainer, module): self.losses = []
    def on_validation_batch_end(self, trainer, module, outputs, *args): self.losses.append(outputs['loss'].item())

    def on_validation_epoch_end(self, trainer, module):
        if trainer.sanity_checking: return
        self.best = np.minimum(self.best, np.float32(np.mean(self.losses)))
        module.log('val_lowest', float(self.best), prog_bar=True)'''
EXPERIMENT = f"""datamodule: {{path: images, batch_size: 8}}
model: {{_target_: {NAME}.parts_of_mine.ResNet}}
optimizer: {{_target_: {NAME}.parts_of_mine.Lion, lr: 0.01}}
scheduler: {{_target_: {NAME}.parts_of_mine.WarmUp, interval: step}}
augment: {{_target_: {NAME}.parts_of_mine.Speckle}}
callbacks: {{lowest: {{_target_: {NAME}.parts_of_mine.Remembers}}}}
metrics:
  margin: {{_target_: {NAME}.parts_of_mine.Margin}}
  top1: {{_target_: torchmetrics.classification.MulticlassAccuracy, top_k: 1}}
monitor: val_lowest
monitor_mode: min
trainer: {{max_epochs: 12}}
"""


def write(path: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_markdown_cell("# Mine\n\n> Parts of my own."), *map(nbformat.v4.new_code_cell, sources)]
    for i, cell in enumerate(cells): cell.id = f"cell{i}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def edit(path: Path, number: int, old: str, new: str) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert old in notebook.cells[number].source
    notebook.cells[number].source = notebook.cells[number].source.replace(old, new)
    nbformat.write(notebook, path)


def test_from_a_copy_to_a_release(tmp_path):
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    environment = notebooks.environment() | {"HOME": str(home), "PYTHONPATH": str(project), "GIT_CONFIG_NOSYSTEM": "1"} | {
        f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def run(*words, cwd=project, status=0, **settings):
        command = [sys.executable, *map(str, words)] if words[0] != "git" else list(words)
        done = subprocess.run(command, cwd=cwd, env=environment | settings, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == status and "Traceback" not in done.stdout, f"{words}\n{done.stdout[-5000:]}"
        return done.stdout

    def python(verb, *words, **settings): return run("-m", f"{NAME}.{verb}", *words, **settings)

    # a copy, and parts of one's own in one notebook and fifteen lines of settings
    run("tools/new.py", NAME, project, "lessons=no", cwd=ROOT)
    lesson = project / "nbs/02_parts_of_mine.ipynb"
    write(lesson, "#| default_exp parts_of_mine", PARTS, "y = ResNet()(torch.zeros(2, 1, 9, 9))\ny.shape", "z = 1\nz")
    (project / "experiments/first.yml").write_text(EXPERIMENT)
    run("tools/notebooks.py", "prepare", "02_parts_of_mine")
    run("-c", "import sys; from pathlib import Path; sys.path.insert(0, 'tests'); import test_mine; test_mine.draw(Path('images'))")
    run("git", "add", "--all"), run("git", "commit", "--quiet", "-m", "mine")

    # a training that is killed goes on exactly, with all of one's own parts
    whole = python("train", "first", "paths.runs=whole")
    assert "val_lowest" in whole and "val_margin" in whole and "val_top1" in whole
    process = subprocess.Popen([sys.executable, "-m", f"{NAME}.train", "first"], cwd=project, env=environment, text=True,
                               stdout=subprocess.PIPE, start_new_session=True)
    for line in process.stdout:
        if line.startswith("epoch 5/"): break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    [killed] = (project / "runs/first").iterdir()
    assert 4 <= len((killed / "metrics.csv").read_text().splitlines()) < 12
    python("train", f"resume={killed.relative_to(project)}", "trust=true")
    [other] = (project / "whole/first").iterdir()
    assert (killed / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    same = "import sys, torch; a, b = (torch.load(f, weights_only=True)['state_dict'] for f in sys.argv[1:]); "
    run("-c", same + "assert all(torch.equal(a[k], b[k]) for k in a)", *(r / "checkpoints/last.ckpt" for r in (killed, other)))
    assert "accuracy" in python("evaluate", killed.relative_to(project))
    assert "val_margin" in python("runs", "sort=val_margin")

    # two branches that change the same cell: it is named, one is chosen, and what the other changed elsewhere is there
    run(Path(sys.executable).parent / "nbdev_install_hooks")
    for branch, value in (("left", 2), ("right", 3)):
        run("git", "switch", "--quiet", "-c", branch, "main")
        edit(lesson, 4, "z = 1", f"z = {value}")
        if branch == "left": edit(lesson, 2, "width: int = 8", "width: int = 6")
        run("tools/notebooks.py", "prepare", "02_parts_of_mine")
        run("git", "commit", "--quiet", "--all", "-m", branch)
    run("git", "merge", "left", status=1)
    before = lesson.read_bytes()
    told = run("tools/notebooks.py", "prepare", status=2)
    assert "nbs/02_parts_of_mine.ipynb, cell 5, holds a conflict marker" in told and lesson.read_bytes() == before
    notebook = nbformat.read(lesson, as_version=4)
    [first, middle, last] = [i for i, cell in enumerate(notebook.cells) if cell.source[:8] in ("`<<<<<<<", "`=======", "`>>>>>>>")]
    notebook.cells = [*notebook.cells[:first], *notebook.cells[first + 1 : middle], *notebook.cells[last + 1 :]]
    nbformat.write(notebook, lesson)
    run("tools/notebooks.py", "prepare", "02_parts_of_mine")
    run("git", "commit", "--quiet", "--all", "-m", "merged")
    assert "z = 3" in lesson.read_text() and "width: int = 6" in (project / NAME / "parts_of_mine.py").read_text()

    # a release: the wheel, in an empty folder, is the same program
    (project / "experiments/scratch.yml").write_text("seed: 1")  # git doesn't have it
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "out")
    [wheel] = (tmp_path / "out").glob("*.whl")
    run("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", tmp_path / "installed", wheel)
    empty = tmp_path / "empty"
    empty.mkdir()
    away = {"cwd": empty, "PYTHONPATH": str(tmp_path / "installed")}
    told = python("train", "first", status=2, **away)
    assert told.endswith(f"To unpack what comes with the package: python -m {NAME} unpack\n")
    run("-m", NAME, "unpack", **away)
    assert sorted(path.name for path in (empty / "experiments").iterdir()) == ["first.yml", "schema.json"]
    short = python("train", "first", f"datamodule.path={project / 'images'}", "trainer.max_epochs=2", **away)
    assert "val_margin" in short and (empty / "runs/first").is_dir()
