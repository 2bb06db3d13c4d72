"""How much is luck? Train one experiment with several seeds and print the spread of its accuracy on the test set.

python benchmarks/seeds.py [EXPERIMENT] [SEEDS]        001 and 20, if none is given
"""

import statistics
import sys
import tempfile

from dlops_mnist.config import load_config
from dlops_mnist.evaluate import evaluate
from dlops_mnist.train import train


def main(experiment: str = "001", seeds: str = "20") -> None:
    val, test = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(int(seeds)):
            run = train(load_config(experiment, f"seed={seed}", f"paths.runs={folder}", "trainer.enable_progress_bar=false"))
            val.append(run.best["val_acc"])
            test.append(evaluate(run, out=f"{folder}/evaluation", draws=1).accuracy)
            print(f"seed {seed:2}  val_acc {val[-1]:.4f}  test accuracy {test[-1]:.4f}", flush=True)
    for name, values in (("val_acc", val), ("test accuracy", test)):
        print(f"{name}: median {statistics.median(values):.4f}, from {min(values):.4f} to {max(values):.4f} "
              f"over {len(values)} seeds")


if __name__ == "__main__":
    main(*sys.argv[1:])
