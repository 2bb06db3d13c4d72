"""P2: shuffled batches through the data module's own loaders, against the series' `DataLoader` over PNG files.

python benchmarks/batches.py [FOLDER]      FOLDER: where MNIST's 60,000 training images are, or are built

Ours goes through an epoch of all training images; the series' code, which would take ten seconds for that, through as
many batches as make 3,000 images or more. The ratio is of images per second.
"""

import sys
import tempfile
from itertools import islice
from pathlib import Path

from measure import Times, alternate, main, verdict
from series import SeriesDataModule

from dlops_mnist.dataset import MNISTDataModule
from dlops_mnist.parts.sources import build_mnist

SIZES = (25, 64, 2048)


def judge(path: Path, size: int) -> bool:
    ours = MNISTDataModule(path, batch_size=size, val="test")
    ours.setup()
    series = SeriesDataModule(path, size)
    series.setup()
    loader, theirs = ours.train_dataloader(), series.train_dataloader()
    batches = -(-3000 // size)

    def epoch(): assert sum(len(images) for images, labels in loader) == 60_000

    def part(): assert sum(len(images) for images, labels in islice(theirs, batches)) == batches * size

    one, other = alternate(epoch, part, repeats=7)
    per_image = Times([value / 60_000 for value in one.values]), Times([value / (batches * size) for value in other.values])
    print(f"  images per second: ours {1 / per_image[0].median:,.0f}, theirs {1 / per_image[1].median:,.0f}")
    return verdict(f"P2 an image of a shuffled batch of {size}", *per_image, 200)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        path = build_mnist(Path(sys.argv[1] if len(sys.argv) > 1 else temporary) / "all")
        main([lambda size=size: judge(path, size) for size in SIZES])
