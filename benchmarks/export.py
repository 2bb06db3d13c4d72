"""What an exported model brings: onnxruntime against eager PyTorch, and `predict` against the series' loop.

python benchmarks/export.py [COUNT]      COUNT: how many PNG files `predict` reads, 10,000 unless given

One image at a time, both with one thread, both with the same weights (untrained ones: that costs the same); the answers must be
the same. Then as many PNG files as were asked for, read and answered by `predict` with the exported MLP, and by the series' loop
over its DataLoader with the same network. The files are those that ship, under many names: what is measured is reading them.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import series
import torch
from measure import alternate, main, verdict
from torch.utils.data import DataLoader

from dlops_mnist.export import add_facts, reference_of, write_onnx
from dlops_mnist.models import MNISTModule
from dlops_mnist.parts.exported import ExportedModel
from dlops_mnist.predict import answers, find_pictures

CALLS, FASTER, PREDICT = 300, 2.5, 20
CLASSES, ROOT = [str(k) for k in range(10)], Path(__file__).parents[1]


def exported(name: str, folder: str) -> tuple[MNISTModule, ExportedModel]:
    "An untrained network, and the file that was made from it."
    facts = {"classes": CLASSES, "image_shape": [28, 28]}
    module = MNISTModule({"datamodule": facts, "model": {"_target_": f"dlops_mnist.networks.{name}"}}).eval()
    write_onnx(module, path := Path(folder, f"{name}.onnx"))
    add_facts(path, facts | {"datamodule": {"color": "grey"}})
    return module, ExportedModel(path)


def one_at_a_time(name: str, folder: str) -> bool:
    module, model = exported(name, folder)
    images = np.random.default_rng(0).integers(0, 256, (CALLS, 1, 28, 28), np.uint8)
    tensors = [torch.tensor(image) for image in images]
    eager = torch.inference_mode()(lambda image: module(image).softmax(1))
    assert abs(reference_of(module)(images[0]) - model(images[0])).max() < 1e-5
    times = alternate(lambda: [model(image) for image in images], lambda: [eager(image) for image in tensors])
    return verdict(f"{name}, {CALLS} images one by one", *times, FASTER)


def many_files(folder: str, count: int) -> bool:
    "The shipped files under as many names as were asked for."
    sources, place = sorted((ROOT / "dataset" / "test").rglob("*.png")), Path(folder, "pictures")
    place.mkdir()
    for i in range(count): shutil.copyfile(sources[i % len(sources)], place / f"{i:06}.png")
    module, model = exported("MLP", folder)

    def ours() -> list[str]: return [row["class"] for row, _ in answers(model, find_pictures([place]))]

    def theirs() -> list[str]:
        table = pd.DataFrame({"image": sorted(map(str, place.iterdir())), "label": 0})
        predicted, _ = series.predict(module, DataLoader(series.ImageDataset(table), batch_size=25))
        return [str(k) for k in predicted.tolist()]

    assert ours() == theirs()
    return verdict(f"predict, {count:,} PNG files", *alternate(ours, theirs, repeats=3), PREDICT)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
        networks = [lambda name=name: one_at_a_time(name, folder) for name in ("MLP", "CNN", "FastCNN")]
        main([*networks, lambda: many_files(folder, count)])
