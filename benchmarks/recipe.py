"""P3 and P4: MNIST through `dlops_mnist.train`, against the series' CNN recipe (64/128 filters, batch 2048, 5 epochs).

python benchmarks/recipe.py [FOLDER] [EPOCHS]      FOLDER: where MNIST's images are, or are built (a temporary folder)

The series' code runs once, and takes minutes: for five epochs, or for so many of them (EPOCHS), when the time of the others is
extrapolated, and its accuracy is not to be had. Ours is timed as a whole call of `train`: opening the images, training,
validation after each epoch, metrics, checkpoints and all. P3 is the same recipe, in float32 and in bfloat16. P4 is the time
to an accuracy on the test images: experiments/mnist_fast.yml and mnist_best.yml, with five seeds that chose nothing (their
settings come from seeds 0 to 5 and a validation part of the training images). The test images are looked at once, after the
training. In the first line of P4 the PNG files are decoded too.

How far P3 can go is up to the machine, so that is measured as well: the time that the multiplications of the recipe would
take if they were one matrix product after the other, and nothing else took any time.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import series
import torch
from measure import Times, again, main, verdict, wait_for_quiet

from dlops_mnist.config import load_config
from dlops_mnist.evaluate import evaluate
from dlops_mnist.parts.sources import build_mnist
from dlops_mnist.train import train

SEEDS = range(100, 105)


def seconds_of_series(path: Path, epochs: int) -> tuple[float, float]:
    "Seconds of the series' recipe for five epochs, and its accuracy; 0.9843 is the series' own figure."
    pl.seed_everything(0, verbose=False)
    wait_for_quiet()
    start = time.perf_counter()
    trainer = series.train(str(path), series.cnn(), 2048, epochs, classes=10, enable_progress_bar=False)
    seconds = (time.perf_counter() - start) * 5 / epochs
    return seconds, trainer.callback_metrics["val_acc"].item() if epochs == 5 else 0.9843


def ours(experiment: str, path: Path, runs: str, *overrides: str):
    "Seconds and run of one of our experiments."
    config = load_config(experiment, f"datamodule.path={path}", f"paths.runs={runs}", "trainer.accelerator=cpu", *overrides)
    start = time.perf_counter()
    run = train(config)
    return time.perf_counter() - start, run


def multiplications(precision: str) -> float:
    "Seconds that the recipe's convolutions would take as fast as the machine multiplies matrices."
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    a, b = torch.ones(2, 4096, 4096, dtype=dtype)
    seconds = min(again(lambda: a @ b) for _ in range(5))
    per_image = 2 * 9 * (28**2 * 64 + 14**2 * 64 * 128)  # forward; backward is about twice as much
    return 5 * per_image * (3 * 60_000 + 10_000) / (2 * 4096**3) * seconds


def same_recipe(path: Path, runs: str, baseline: tuple[float, float]) -> bool:
    reached = []
    for precision, target in (("32-true", 3), ("bf16-mixed", 5)):
        seconds, run = ours("mnist_cnn", path, runs, f"trainer.precision={precision}", "model.channels_last=true")
        accuracy, least = run.rows[-1]["val_acc"], multiplications(precision)
        print(f"P3 {precision}: the multiplications alone take {least:.0f} s here, so at most {baseline[0] / least:.2g} times as "
              f"fast; ours takes {seconds / least:.2f} times as long as they")
        print(f"P3 {precision}: val_acc {accuracy:.4f}, the series' {baseline[1]:.4f}; wanted: within 0.002 or above")
        reached += [verdict(f"P3 the series' recipe in {precision}", Times([seconds]), Times([baseline[0]]), target),
                    accuracy > baseline[1] - 0.002]
    return all(reached)


def time_to(experiment: str, wanted: float, target: float, path: Path, runs: str, baseline: float) -> bool:
    times, accuracies = [], []
    for seed in SEEDS:
        seconds, run = ours(experiment, path, runs, f"seed={seed}", "datamodule.val=test")
        times.append(seconds)
        accuracies.append(evaluate(run.last_checkpoint, out=f"{runs}/evaluation", draws=1).accuracy)
    median = statistics.median(accuracies)
    print(f"P4 {experiment}: test accuracy median {median:.4f} ({min(accuracies):.4f}-{max(accuracies):.4f}) over "
          f"{len(times)} seeds; wanted: {wanted}")
    return verdict(f"P4 {experiment}", Times(times), Times([baseline] * len(times)), target) and median >= wanted


def run(folder: Path, runs: str, epochs: int) -> None:
    path = build_mnist(folder / "all")
    train(load_config("mnist_fast", f"datamodule.path={path}", f"paths.runs={runs}", "trainer.max_steps=2"))  # warms up
    baseline = seconds_of_series(path, epochs)
    print(f"the series' recipe: {baseline[0]:.0f} s for five epochs, of which {epochs} were run", flush=True)
    shutil.rmtree(path / ".cache", ignore_errors=True)
    seconds, _ = ours("mnist_fast", path, runs, "seed=100", "datamodule.val=test")
    print(f"P4 mnist_fast with all PNG files decoded first: {seconds:.2f} s, {baseline[0] / seconds:.0f} times as fast")
    main([lambda: time_to("mnist_fast", 0.990, 150, path, runs, baseline[0]),
          lambda: time_to("mnist_best", 0.994, 70, path, runs, baseline[0]), lambda: same_recipe(path, runs, baseline)])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        run(Path(sys.argv[1] if len(sys.argv) > 1 else temporary), temporary, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
