"""Runs trainings in processes of their own, and sends them signals at chosen moments. Started by test_survival.py.

Importing PyTorch and Lightning takes seconds, so that is done once; each training is then a fork that has computed
nothing yet. Reads one JSON object per line: {"argv": [...], "number": of a signal or null, "after": seconds, "operation": number or
null}, and answers each with the exit status, two durations, and how many operations changed a file of a run. `after` counts
from the first checkpoint: before it there is nothing to go on from. With `operation`, the process kills itself before that one.
"""

import json
import mmap
import os
import signal
import sys
import time
from pathlib import Path

import matplotlib  # noqa: F401
import pytorch_lightning  # noqa: F401
import torch  # noqa: F401

from dlops_mnist import dataset, models, tracking, train  # noqa: F401
from dlops_mnist.parts.launch import launch

DONE = mmap.mmap(-1, 8)  # what a child counts, and its parent reads when it is dead
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def die_before(operation: int | None) -> None:
    "Count what this process does to files of runs, and kill it before the given one of these operations."
    runs, count = os.path.abspath("runs"), 0

    def watch(event: str, args: tuple) -> None:
        nonlocal count
        if event not in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"): return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITES): return
        if not isinstance(args[0], (str, bytes, os.PathLike)) or not os.path.abspath(os.fsdecode(args[0])).startswith(runs): return
        count += 1
        if count == operation: os.kill(os.getpid(), signal.SIGKILL)
        DONE[:] = count.to_bytes(len(DONE), "little")

    sys.addaudithook(watch)


def child(argv: list[str], operation: int | None) -> None:
    die_before(operation)
    out = os.open("child.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(out, 2)
    status = 0
    try: launch(train.train_and_report, argv)
    except SystemExit as error: status = error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def checkpoints() -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in Path("runs").glob("*/*/checkpoints/last.ckpt")}


def job(argv: list[str], number: int | None, after: float, operation: int | None) -> dict:
    before, start, DONE[:] = checkpoints(), time.monotonic(), bytes(len(DONE))
    pid = os.fork()
    if pid == 0: child(argv, operation)
    ended, first, sent = 0, None, None
    while not ended:
        ended, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        if first is None and checkpoints() - before: first = now
        if number and not ended and sent is None and first is not None and now - first >= after:
            sent = now
            os.kill(pid, number)
        time.sleep(0.001)
    return {"status": os.waitstatus_to_exitcode(status), "sent": sent is not None,
            "seconds": now - (first or start), "to_stop": now - sent if sent else None,
            "operations": int.from_bytes(DONE[:], "little"), "log": Path("child.log").read_text(errors="replace")}


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as with `python -m`, so that a class in a file of the working folder is found
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(job(**request)), flush=True)
