"""P7: what answers without training: --help, --cfg job, the table of runs, and every mistake; against `import torch`.

python benchmarks/start.py

Each is a whole process, from the command line to its end. The baseline is `python -c "import torch"`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import alternate, main, verdict

REPOSITORY = Path(__file__).parents[1]
COMMANDS = {  # what is typed after `python -m dlops_mnist.` -> the exit status
    "train --help": 0,
    "train 001 --cfg job": 0,
    "runs RUNS": 0,
    "runs RUNS val_acc>=0.5": 0,
    "runs --help": 0,
    "train nowhere": 2,
    "train 001 optimizer.rl=1": 2,
    "train 001 model=resnet": 2,
    "train 001 trainer.max_epoch=1": 2,
    "train 001 datamodule.batch_size=many": 2,
    "train 001 seed=1,2": 2,
    "train 001 002": 2,
    "runs nowhere": 2,
    "evaluate": 2,
    "evaluate nowhere": 2,
    "dataset inspect path=nowhere": 2,
}


def process(command: list[str], status: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == status, f"{command}: exit status {done.returncode}, wanted {status}\n{done.stderr}"


def make_runs(folder: str) -> None:
    "A hundred finished runs, for the table."
    sys.path.insert(0, str(Path(__file__).parent))
    from runs_table import make_runs as make

    make(Path(folder), 100)


def judge(words: str, status: int, runs: str) -> bool:
    command = ["-m", *f"dlops_mnist.{words}".replace("RUNS", runs).split()]
    ours, theirs = alternate(lambda: process(command, status), lambda: process(["-c", "import torch"], 0), repeats=5)
    return verdict(f"P7 {words}", ours, theirs, 0.35, at_most=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make_runs(folder)
        main([lambda words=words, status=status: judge(words, status, folder) for words, status in COMMANDS.items()])
