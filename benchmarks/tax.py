"""P5: what Lightning costs: bar, metrics, CSV and checkpoints on, against a hand-written loop over the same tensors.

python benchmarks/tax.py [FOLDER]      FOLDER: where MNIST's images are, or are built

Both train the same network from the same images for one epoch (60,000 of them for the MLP, 20,000 for the CNN, which is
slower), and validate it on 10,000 (2,000) others. The loop has
nothing but the arithmetic: forward, backward, step. Ours goes through `dlops_mnist.train`, timed from the moment when
training begins to its end, with the checkpoints and the metrics file written.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import Times, main, verdict, wait_for_quiet
from series import Stopwatch

from dlops_mnist.config import load_config
from dlops_mnist.dataset import MNISTDataModule
from dlops_mnist.models import MNISTModule
from dlops_mnist.parts.core import keep_freed_memory
from dlops_mnist.parts.sources import build_mnist
from dlops_mnist.train import train

JOBS = {  # images of each class, repeats, overrides of the base config, and the ratio to reach
    "MLP, batch 25": (None, 7, ["model=mlp", "datamodule.batch_size=25"], 2),
    "CNN 32/64, batch 64": ([2000, 200], 3, ["model=cnn", "model.filters=[32,64]", "datamodule.batch_size=64"], 1.1),
}


def tensors(dataset) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(dataset.images.copy()), torch.from_numpy(dataset.labels.copy())


def by_hand(config, datamodule) -> float:
    "One epoch and a validation, with nothing but the arithmetic."
    torch.manual_seed(0)
    module = MNISTModule(config)
    optimizer = module.configure_optimizers()
    images, labels = tensors(datamodule.datasets["train"])
    val_images, val_labels = tensors(datamodule.datasets["val"])
    size, start = config.datamodule.batch_size, time.perf_counter()
    for chosen in torch.randperm(len(images)).split(size):
        loss = F.cross_entropy(module(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        module.eval()
        correct = sum((module(a).argmax(1) == b).sum() for a, b in zip(val_images.split(size), val_labels.split(size)))
    assert correct > 0.85 * len(val_labels)
    return time.perf_counter() - start


def judge(name: str, folder: Path, runs: str) -> bool:
    per_class, repeats, overrides, target = JOBS[name]
    path = build_mnist(folder / (f"{per_class[0]}" if per_class else "all"), per_class=per_class)
    datamodule = MNISTDataModule(path, val="test")
    datamodule.setup()
    config = load_config(None, *overrides, f"datamodule.path={path}", "datamodule.val=test", f"paths.runs={runs}",
                         "trainer.max_epochs=1", "trainer.accelerator=cpu",
                         "logger=CSVLogger", f"logger.CSVLogger.save_dir={runs}/logs",
                         "callbacks.watch._target_=series.Stopwatch", f"datamodule.classes={datamodule.classes}".replace(" ", ""))
    keep_freed_memory()
    ours, theirs = [], []
    wait_for_quiet()
    for _ in range(repeats + 1):
        run = train(config)
        assert run.best["val_acc"] > 0.85 and run.best_checkpoint.is_file()
        ours.append(Stopwatch.seconds)
        theirs.append(by_hand(config, datamodule))
    return verdict(f"P5 {name}", Times(ours[1:]), Times(theirs[1:]), target, at_most=True)  # the first ones warm up


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        main([lambda name=name: judge(name, folder, temporary) for name in JOBS])
