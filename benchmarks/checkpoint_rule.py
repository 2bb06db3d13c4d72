"""Which epoch's checkpoint should one keep? Rules that choose by the validation set, judged on the test set, over many seeds.

python benchmarks/checkpoint_rule.py [EXPERIMENT] [SEEDS] [KEY=VALUE ...]        001 and 20, if none is given

Each seed trains the experiment once and remembers, after each epoch, accuracy and loss on `val` and accuracy on `test`. Then
each rule chooses an epoch from what `val` says. Printed are mean and standard deviation of its test accuracy, and how often it
beats the last epoch and is beaten by it.
"""

import logging
import sys
import warnings

import numpy as np
import pytorch_lightning as pl

from dlops_mnist.config import load_config
from dlops_mnist.models import MNISTModule, predict
from dlops_mnist.parts.metrics import image_losses
from dlops_mnist.train import prepare, with_facts


class Watch(pl.Callback):
    "Accuracy and loss after each epoch, on val and on test."

    def __init__(self, datasets): self.datasets, self.rows = datasets, []

    def on_train_epoch_end(self, trainer, module):
        row = []
        for split in ("val", "test"):
            images, labels = self.datasets[split].images, self.datasets[split].labels
            logits = predict(module, images)
            guesses = logits.argmax(1) if logits.ndim == 2 else logits > 0
            row += [float((guesses.numpy() == labels).mean()), float(image_losses(logits, labels).mean())]
        self.rows.append([*row, len(self.datasets["val"].labels)])


def watch(experiment: str, seed: int, *changes: str) -> np.ndarray:
    "val_acc, val_loss, test accuracy, test loss and images of val, a row for each epoch."
    config = load_config(experiment, f"seed={seed}", *changes)
    datamodule = prepare(config)
    config = with_facts(config, datamodule)
    callback = Watch(datamodule.datasets)
    settings = config["trainer"] | {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                                    "enable_model_summary": False, "callbacks": [callback], "limit_val_batches": 0}
    pl.Trainer(**settings).fit(MNISTModule(config), datamodule)
    return np.array(callback.rows)


def first(values): return int(np.argmax(values))


def last(values): return len(values) - 1 - int(np.argmax(values[::-1]))


def smooth(values, width=3):
    "Mean of the last few epochs."
    return np.array([np.mean(values[max(0, i + 1 - width):i + 1]) for i in range(len(values))])


def near(acc, images, errors=1.0):
    "Epochs whose accuracy is within so many standard errors of the best."
    best = acc.max()
    share = (best * images + 1) / (images + 2)  # never quite 1, so that the error is never 0
    return acc >= best - errors * np.sqrt(share * (1 - share) / images)


RULES = {
    "last epoch": lambda acc, loss, n: len(acc) - 1,
    "val_acc, first of equals": lambda acc, loss, n: first(acc),
    "val_acc, last of equals (the rule)": lambda acc, loss, n: last(acc),
    "val_acc, least loss of equals": lambda acc, loss, n: int(np.lexsort((loss, -acc))[0]),
    "val_loss": lambda acc, loss, n: first(-loss),
    "val_acc over 3 epochs": lambda acc, loss, n: last(smooth(acc)),
    "val_acc over 5 epochs": lambda acc, loss, n: last(smooth(acc, 5)),
    "val_loss over 3 epochs": lambda acc, loss, n: first(-smooth(loss)),
    "last within 1 standard error": lambda acc, loss, n: int(np.flatnonzero(near(acc, n))[-1]),
    "last within 1/2 standard error": lambda acc, loss, n: int(np.flatnonzero(near(acc, n, 0.5))[-1]),
    "least loss within 1 standard error": lambda acc, loss, n: int(np.lexsort((loss, ~near(acc, n)))[0]),
}


def main(experiment: str = "001", seeds: str = "20", *changes: str) -> None:
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"): logging.getLogger(name).setLevel(logging.ERROR)
    seen = []
    for seed in range(int(seeds)):
        seen.append(watch(experiment, seed, *changes))
        print(f"seed {seed}: {seen[-1][-1, 2]:.4f} of test right after the last epoch", file=sys.stderr, flush=True)
    end = np.array([rows[-1, 2] for rows in seen])
    print(f"{experiment} {' '.join(changes)}: {len(seen)} seeds, {len(seen[0])} epochs, {seen[0][0, 4]:.0f} images in val")
    for name, rule in RULES.items():
        epochs = [rule(rows[:, 0], rows[:, 1], rows[0, 4]) for rows in seen]
        chosen = np.array([rows[epoch, 2] for rows, epoch in zip(seen, epochs)])
        print(f"  {name:36} {chosen.mean():.4f} +- {chosen.std(ddof=1):.4f}  better {np.sum(chosen > end):2}, worse "
              f"{np.sum(chosen < end):2}  epoch {np.mean(epochs) + 1:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
