"""What a label is worth: 500 labels and 200 more, of the pictures that the model doubts most, or of any.

python benchmarks/active.py [SEEDS]      (MNIST: MNIST_RAW_DIR names a folder with its four files, or they are downloaded)

For each of ten seeds a network learns 500 training images chosen by chance. Then 200 of the others get a label: those of
which that network is least sure, which is the order in which a service shows what it kept (/review); or 200 by chance. Two
new networks learn 700 each. What counts is how many errors on the 10,000 test images the 200 labels removed.
"""

import sys

import numpy as np
import torch

from dlops_mnist.networks import FastCNN, RandomShift
from dlops_mnist.parts.sources import load_mnist

FIRST, MORE, EPOCHS = 500, 200, 40


def probabilities(images: np.ndarray, labels: np.ndarray, seed: int):
    "What answers with probabilities, after it has learnt these images."
    torch.manual_seed(seed)
    model, shift = FastCNN(classes=10), RandomShift(pixels=1)
    def scaled(some): return (torch.tensor(some).float()[:, None] / 255 - .1307) / .3081
    x, y, steps = scaled(images), torch.tensor(labels.astype(np.int64)), EPOCHS * -(-len(images) // 50)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(shift(x[rows])), y[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()

    @torch.no_grad()
    def answer(some: np.ndarray) -> np.ndarray:
        return torch.cat([model(scaled(part)).softmax(1) for part in np.array_split(some, len(some) // 500)]).numpy()

    return answer


def errors(answer, images: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((answer(images).argmax(1) != labels).mean())


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    data, rows = load_mnist(), []
    images, labels = data["train"]
    print(f"{'seed':>4} {FIRST:>8} {'by doubt':>9} {'by chance':>9}   (% of the test images wrong)", flush=True)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(images))
        known, rest = order[:FIRST], order[FIRST:]
        first = probabilities(images[known], labels[known], seed)
        doubtful = rest[np.argsort(first(images[rest]).max(1), kind="stable")[:MORE]]
        wrong = [errors(first, *data["test"])]
        for more in (doubtful, rest[:MORE]):  # the others lie in a random order
            chosen = np.concatenate([known, more])
            wrong.append(errors(probabilities(images[chosen], labels[chosen], seed), *data["test"]))
        rows.append(wrong)
        print(f"{seed:4} {wrong[0]:8.2f} {wrong[1]:9.2f} {wrong[2]:9.2f}", flush=True)
    before, doubt, chance = np.array(rows).T
    ratio = (before - doubt).mean() / (before - chance).mean()
    print(f"mean {before.mean():8.2f} {doubt.mean():9.2f} {chance.mean():9.2f}\n"
          f"points of error removed by {MORE} labels: {(before - doubt).mean():.2f} by doubt, "
          f"{(before - chance).mean():.2f} by chance: {ratio:.1f} times as many; "
          f"wanted: at least 1.5: {'reached' if ratio >= 1.5 else 'MISSED'}")
    sys.exit(int(ratio < 1.5))


if __name__ == "__main__": main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
