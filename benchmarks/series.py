"""The code of the blog series as it was written there: the baseline of the benchmarks.

One PNG is read by scikit-image for each item, a default DataLoader collates them, and the module logs every step with
torchmetrics. Only the paths and the sizes are arguments.
"""

import time
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
from skimage import io
from torch import nn
from torch.utils.data import DataLoader, Dataset


class ImageDataset(Dataset):
    "Images of a table with the columns `image` (a path) and `label` (a number)."

    def __init__(self, df: pd.DataFrame): self.df = df

    def __len__(self) -> int: return len(self.df)

    def __getitem__(self, i: int):
        row = self.df.iloc[i]
        return torch.from_numpy(io.imread(row["image"])), row["label"]


class SeriesDataModule(pl.LightningDataModule):
    def __init__(self, path: str, batch_size: int = 25):
        super().__init__()
        self.path, self.batch_size = Path(path), batch_size

    def table(self, split: str) -> pd.DataFrame:
        classes = sorted(folder.name for folder in (self.path / split).iterdir())
        if len(classes) == 2: classes = sorted(classes, reverse=True)  # no3 before 3
        rows = [(str(image), label) for label, name in enumerate(classes)
                for image in sorted((self.path / split / name).glob("*.png"))]
        return pd.DataFrame(rows, columns=["image", "label"])

    def setup(self, stage=None):
        self.train_ds, self.val_ds = ImageDataset(self.table("train")), ImageDataset(self.table("test"))

    def train_dataloader(self): return DataLoader(self.train_ds, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self): return DataLoader(self.val_ds, batch_size=self.batch_size)


def mlp(hidden: int = 100, classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 1 if classes == 2 else classes))


def cnn(filters=(64, 128), classes: int = 10) -> nn.Module:
    a, b = filters
    return nn.Sequential(nn.Conv2d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, b, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(b * 7 * 7, 1 if classes == 2 else classes))


class SeriesModule(pl.LightningModule):
    def __init__(self, model: nn.Module, classes: int = 2, lr: float = 1e-3):
        super().__init__()
        self.model, self.classes, self.lr = model, classes, lr
        kind = {"task": "binary"} if classes == 2 else {"task": "multiclass", "num_classes": classes}
        self.train_acc, self.val_acc = torchmetrics.Accuracy(**kind), torchmetrics.Accuracy(**kind)

    def forward(self, images): return self.model(images.float().unsqueeze(1) / 255)

    def step(self, batch):
        images, labels = batch
        logits = self(images)
        if self.classes > 2: return F.cross_entropy(logits, labels), logits.argmax(1), labels
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float()), logits[:, 0].sigmoid() > 0.5, labels

    def training_step(self, batch, batch_idx):
        loss, predicted, labels = self.step(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.train_acc(predicted, labels)
        self.log("acc", self.train_acc, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        loss, predicted, labels = self.step(batch)
        self.log("val_loss", loss, prog_bar=True)
        self.val_acc(predicted, labels)
        self.log("val_acc", self.val_acc, prog_bar=True)

    def configure_optimizers(self): return torch.optim.Adam(self.parameters(), lr=self.lr)


def predict(module: nn.Module, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    "Predictions and labels by the series' own loop: a batch at a time, gathered in lists."
    predicted, labels = [], []
    with torch.no_grad():
        for images, targets in loader:
            predicted.append(module(images).argmax(1))
            labels.append(targets)
    return torch.cat(predicted), torch.cat(labels)


class Stopwatch(pl.Callback):
    "Seconds from the beginning of the first epoch to the end of training."

    seconds = 0.0

    def on_train_start(self, trainer, module): Stopwatch.seconds = -time.perf_counter()

    def on_fit_end(self, trainer, module): Stopwatch.seconds += time.perf_counter()


def train(path: str, model: nn.Module, batch_size: int, epochs: int, classes: int = 2, **trainer) -> pl.Trainer:
    "Train as the series does, without a logger; returns the trainer."
    fitter = pl.Trainer(**{"max_epochs": epochs, "accelerator": "cpu", "logger": False, "enable_checkpointing": False} | trainer)
    fitter.fit(SeriesModule(model, classes), SeriesDataModule(path, batch_size))
    return fitter


if __name__ == "__main__": train("dataset", mlp(), batch_size=32, epochs=20)  # the series' first experiment
