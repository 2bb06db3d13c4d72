"""The package's programs as processes of their own, without the seconds that each would spend on importing PyTorch.

They are forks of one process (multiprocessing's fork server) that has imported it, and has computed nothing yet. What a test has
to say about imports, or about Python's own options, needs a real start: `subprocess.run([sys.executable, "-m", ...])`.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

TESTS = Path(__file__).parent
SERVER = multiprocessing.get_context("forkserver")


@cache
def _start_server() -> None:
    # before Python 3.13 the server passes over, in silence, what it can't find on its own path
    SERVER.set_forkserver_preload(["preloaded"])
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, [TESTS, TESTS.parent, path])))
    try: forkserver.ensure_running()
    finally:
        if path is None: del os.environ["PYTHONPATH"]
        else: os.environ["PYTHONPATH"] = path


def _child(module: str, words: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    # as `python -m MODULE WORDS ...` in that folder
    for file, number in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = open(0, closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0:0] = [module, *words], [os.getcwd()]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    package, _, name = module.rpartition(".")
    if sys.modules.pop(module, None): delattr(sys.modules[package], name)  # what is run is loaded anew
    try: runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit: raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        with contextlib.suppress(Exception): atexit._run_exitfuncs()  # multiprocessing leaves them out
        sys.stdout.flush(), sys.stderr.flush()


def run(module: str, *words: object, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
    "Run `python -m MODULE WORDS ...` in a folder, and wait for its end: its status, and its output as text."
    _start_server()
    words = list(map(str, words))
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = SERVER.Process(target=_child, args=(module, words, str(cwd), os.environ | environment, str(out), str(err)))
        process.start()
        process.join(timeout)
        if late := process.is_alive(): process.kill(), process.join()
        texts = [file.read_text("utf-8", errors="replace") if file.exists() else "" for file in (out, err)]
    command = [sys.executable, "-m", module, *words]
    if late: raise subprocess.TimeoutExpired(command, timeout, *texts)
    return subprocess.CompletedProcess(command, process.exitcode, *texts)
