"""P9: 10,000 images evaluated from a checkpoint, against the series' loop.

python benchmarks/evaluation.py [FOLDER]      FOLDER: where MNIST's images are, or are built

Both load the checkpoint, read MNIST's test images, predict, and count the confusions, which must be the same.
The series' loop reads PNG after PNG; ours opens the array that the training has left. The target is for the MLP of the
series' first experiments. A convolutional network costs arithmetic, which is the same for both: its ratio is printed beside
it, and so is the time of the whole `evaluate`: 1,000 resamples for the intervals, the pictures and the report.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import series
from measure import alternate, main, verdict

from dlops_mnist.config import load_config
from dlops_mnist.dataset import open_dataset
from dlops_mnist.evaluate import evaluate
from dlops_mnist.models import load, load_module, predict
from dlops_mnist.parts.metrics import confusion_counts
from dlops_mnist.parts.sources import build_mnist
from dlops_mnist.train import train

NETWORKS = {"MLP": ["model=mlp"], "FastCNN": ["model=fast_cnn"], "CNN 64/128": ["model=cnn", "model.filters=[64,128]"]}


def ours(checkpoint: Path) -> np.ndarray:
    trained = load(checkpoint)
    dataset = open_dataset(trained.config["datamodule"]).datasets["test"]
    predictions = predict(trained.module, dataset.images).argmax(1).numpy()
    return confusion_counts(dataset.labels, predictions, 10)


def theirs(checkpoint: Path, path: Path) -> np.ndarray:
    module = load_module(checkpoint).eval()
    data = series.SeriesDataModule(str(path), batch_size=2048)
    data.setup()
    predicted, labels = series.predict(module, data.val_dataloader())
    return confusion_counts(labels.numpy(), predicted.numpy(), 10)


def judge(name: str, path: Path, runs: str) -> bool:
    run = train(load_config("mnist_cnn", *NETWORKS[name], f"datamodule.path={path}", f"paths.runs={runs}",
                            "datamodule.batch_size=128", "trainer.max_steps=300", "trainer.accelerator=cpu"))
    checkpoint = run.last_checkpoint
    assert abs(ours(checkpoint) - theirs(checkpoint, path)).sum() <= 4  # a tie may fall to either side
    times = alternate(lambda: ours(checkpoint), lambda: theirs(checkpoint, path))
    reached = verdict(f"P9 10,000 images, {name}", *times, 20 if name == "MLP" else 1)
    whole, _ = alternate(lambda: evaluate(checkpoint), lambda: None, repeats=3)
    print(f"  the whole `evaluate`: {whole}", flush=True)
    return reached


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        path = build_mnist(Path(sys.argv[1] if len(sys.argv) > 1 else temporary) / "all")
        main([lambda name=name: judge(name, path, temporary) for name in NETWORKS])
