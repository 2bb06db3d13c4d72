"""What `python -m dlops_mnist` prints: the commands of this package, one line for each."""

import os
import shlex
import sys

from .parts.command import clean_exit, versions
from .parts.core import SHIPPED, UserError, nearest, unpack

PROGRAMS = {
    "dataset": "build a dataset, or look at one: counts, copies, leaks, pictures",
    "train": "train an experiment, or one for each combination of settings (-m)",
    "evaluate": "measure a checkpoint, or compare two, with intervals and pictures",
    "tune": "search an experiment's settings; killed, and started again, it goes on",
    "versions": "record a dataset's state, compare two, bring one back, or let it grow by labelled pictures",
    "registry": "which model is in use: register, promote if it is better, roll back",
    "runs": "a table of all runs: what was tried, and what came of it",
    "serve": "answer requests with an exported model, and show a page to draw on",
    "predict": "say what new pictures show, and which answers are doubtful",
    "export": "write a model as one file that needs no PyTorch",
}


def main(
    *words: str,  # what was typed after `python -m dlops_mnist`
) -> None:
    "Print the list of commands; raises `UserError` for any word but --help and --version."
    if "--version" in words: return print(versions())
    if not set(words) - {"-h", "--help"}:
        lines = ["  python -m dlops_mnist unpack     put the images and experiments that come with the package into this folder"]
        lines += [f"  python -m dlops_mnist.{name:10} {note}" for name, note in PROGRAMS.items()]
        return print("The commands, each with a --help of its own:", *lines, sep="\n")
    name, *rest = words
    if words == ("unpack",):
        for folder in SHIPPED:
            if os.path.exists(folder): print(f"{folder}/ is here already, and stays as it is.")
            else: unpack(folder)
    elif name not in PROGRAMS: raise UserError(f"Unknown command `{name}`.{nearest(name, PROGRAMS)}")
    # other tools take a blank where this one has a dot
    else: raise UserError(f"Write a dot before the command: {shlex.join(['python', '-m', f'dlops_mnist.{name}', *rest])}")


if __name__ == "__main__":
    with clean_exit(): main(*sys.argv[1:])
