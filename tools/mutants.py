"""Break the package in small ways, one at a time, and see whether a test notices: `make mutants`.

python tools/mutants.py [COUNT [SEED [MODULE ...]]]        300 mutants, seed 0 and all modules unless given

A mutant is one change to one exported module: `<` becomes `<=`, `and` becomes `or`, `+` becomes `-`, a number grows by one, True
becomes False, "min" becomes "max", a `not` goes, a returned value becomes None. First each test runs once, and its lines are
noted. Then each mutant has to pass the tests that reach its line, the quickest first, and the notebook that exports its module
(where the cell is changed as well, since a notebook tests its own cells), until one fails. In a program that a test starts by
itself no line is seen, so the tests in test_serve.py count as reaching all of `serve`. Cells and tests that are marked slow, tools
or races are left out. What nothing notices is listed at the end; exit status 1 if that is more than a tenth.
"""

import ast
import atexit
import importlib
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

from notebooks import environment, find_notebooks, settings

SECONDS = 40  # of tests for one mutant, as they took unbroken; three times as much, and it hangs, which is noticed as well
QUICK = 5  # seconds of tests, before the notebook has its turn
MAP_SECONDS = 600  # for one file of tests, when its lines are noted
MEMORY = 16 * 2**30  # a broken program may ask for any
LEFT_OUT = (".git", ".venv", "runs", "build", "dist", "_docs", "__pycache__")
NEVER = {"google", "IPython", "dask", "wandb", "mlflow"}  # what is slow to import, or leaves threads behind
SWAPS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.In: "not in", ast.NotIn: "in",
         ast.Is: "is not", ast.IsNot: "is", ast.And: "or", ast.Or: "and", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*",
         ast.FloorDiv: "*"}
WORDS = {"min": "max", "max": "min", "train": "val", "val": "test"}


@dataclass(frozen=True)
class Mutant:
    "One piece of a module's text and what stands in its place."

    module: str  # path within the package
    line: int
    start: int  # offset in the text
    end: int
    old: str
    new: str

    def __str__(self) -> str: return f"{self.module}:{self.line}: `{self.old}` -> `{self.new}`"


def mutants(text: str, module: str) -> Iterator[Mutant]:
    "All mutants of a module's text."
    starts = [0]
    for line in text.encode().splitlines(keepends=True): starts.append(starts[-1] + len(line))
    data = text.encode()

    def place(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def mutant(node: ast.AST, start: int, end: int, new: str) -> Mutant:
        return Mutant(module, node.lineno, start, end, data[start:end].decode(), new)

    def between(left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[Mutant]:
        start, end = place(left)[1], place(right)[0]
        middle = data[start:end].decode()
        if (sign := middle.strip(" ()\n\\")) and len(sign) < 7 and type(operator) in SWAPS:
            offset = start + middle.index(sign)
            yield mutant(left, offset, offset + len(sign), SWAPS[type(operator)])

    tree = ast.parse(text)
    hints = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    skipped = {id(part) for node in [*filter(None, hints), *texts] for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped: continue
        if isinstance(node, ast.Compare): yield from between(node.left, node.comparators[0], node.ops[0])
        elif isinstance(node, ast.BinOp): yield from between(node.left, node.right, node.op)
        elif isinstance(node, ast.BoolOp): yield from between(node.values[0], node.values[1], node.op)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield mutant(node, place(node)[0], place(node.operand)[0], "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool): yield mutant(node, *place(node), str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int): yield mutant(node, *place(node), str(node.value + 1))
        elif isinstance(node, ast.Constant) and node.value in WORDS: yield mutant(node, *place(node), repr(WORDS[node.value]))
        elif isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
            yield mutant(node.value, *place(node.value), "None")


def choose(library: Path, count: int, seed: int, modules: list[str]) -> list[Mutant]:
    "So many mutants, the same ones for the same seed; each place in the package is as likely as any other."
    texts = {path.relative_to(library).as_posix(): path.read_text("utf-8") for path in sorted(library.rglob("*.py"))
             if path.name[0] != "_" and (not modules or path.stem in modules)}
    found = [mutant for module, text in texts.items() for mutant in mutants(text, module)]
    random.Random(seed).shuffle(found)
    chosen = islice((mutant for mutant in found if compiles(texts[mutant.module], mutant)), count)
    return sorted(chosen, key=lambda mutant: (mutant.module, mutant.line))


def apply(text: str, mutant: Mutant) -> str:
    data = text.encode()
    return (data[: mutant.start] + mutant.new.encode() + data[mutant.end :]).decode()


def compiles(text: str, mutant: Mutant) -> bool:
    try: ast.parse(apply(text, mutant))
    except SyntaxError: return False
    return True


def lines_of(text: str, line: int) -> set[int]:
    "The lines on which a tracer may see what stands in a line of a module; what runs at import is seen where the module is used."
    nodes = list(ast.walk(ast.parse(text)))
    bodies = [node.body if isinstance(node.body, list) else [node.body] for node in nodes
              if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]
    inside = {number for body in bodies for number in range(body[0].lineno, body[-1].end_lineno + 1)}
    if line not in inside: return inside
    statement = max((node for node in nodes if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno),
                    key=lambda node: node.lineno)
    body = getattr(statement, "body", None)
    end = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno
    return set(range(statement.lineno, end + 1))


def mutate_cell(notebook: Path, text: str, mutant: Mutant) -> bool:
    "Change the cell that exports a mutant's line, too; whether it was found. `text`: of the module, unbroken."
    lines = text.splitlines()
    marks = [i for i, line in enumerate(lines[: mutant.line]) if line.startswith("# %% ") and ".ipynb #" in line]
    if not marks: return False
    wanted = lines[marks[-1]].rpartition("#")[2]
    number, column = mutant.line - marks[-1] - 2, mutant.start - len("\n".join(["", *lines[: mutant.line - 1]]).encode())
    content = json.loads(notebook.read_text("utf-8"))
    for cell in content["cells"]:
        if cell["id"] != wanted: continue
        source = "".join(cell["source"]).splitlines(keepends=True)
        places = [i for i, line in enumerate(source) if not line.startswith("#|")]
        before = sum(len(line.encode()) for line in source[: places[number]]) + column
        data = "".join(source).encode()
        if not data[before:].startswith(mutant.old.encode()): return False
        cell["source"] = (data[:before] + mutant.new.encode() + data[before + mutant.end - mutant.start :]).decode()
        notebook.write_text(json.dumps(content), "utf-8")
        return True
    return False


class Tests:
    "The tests of a copy of the repository, run in forks of this process, which has imported what they need but not the package."

    def __init__(self, root: Path, library: str):
        self.root, self.library, self.lines, self.seconds = root, library, {}, {}
        exported = ((path, re.search(r"#\| default_exp ([\w.]+)", path.read_text("utf-8"))) for path in find_notebooks(root))
        self.notebooks = {f"{name[1].replace('.', '/')}.py": path for path, name in exported if name}
        os.chdir(root)
        os.environ.update(environment() | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"})
        sys.path[:0] = [str(root), str(root / "tests")]
        for name in sorted(self.needed()):
            with suppress(Exception): importlib.import_module(name)

    def needed(self) -> set[str]:
        "The modules of other people that the package and its tests import."
        nodes = [node for path in (*self.root.glob("tests/*.py"), *(self.root / self.library).rglob("*.py"))
                 for node in ast.walk(ast.parse(path.read_text("utf-8")))]
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        own = {self.library, *(path.stem for folder in ("tests", "tools") for path in self.root.glob(f"{folder}/*.py"))}
        return {name for name in names if name.partition(".")[0] not in own | NEVER}

    def run(self, what: list[str], seconds: float, plugin: object = None) -> int | None:
        "The exit status of pytest, or of one notebook, in a fork; None if it took longer."
        sys.stdout.flush()
        if not (child := os.fork()):
            os.setsid()
            quiet = os.open(os.devnull, os.O_RDWR)
            for number in range(3): os.dup2(quiet, number)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os._exit(executed(what[0]) if what[0].endswith(".ipynb") else forked(what, plugin))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended: break
            time.sleep(0.05)
        with suppress(ProcessLookupError): os.killpg(child, signal.SIGKILL)  # and what it has started
        if ended: return os.waitstatus_to_exitcode(status)
        os.waitpid(child, 0)
        return None

    def learn(self) -> None:
        "Find out which lines each test reaches, and how long it takes; a test that fails as things are is left out."
        for file in sorted((self.root / "tests").glob("test_*.py")):
            with tempfile.TemporaryDirectory() as folder:
                watch, start = Watch(self.root / self.library, Path(folder)), time.monotonic()
                self.run([str(file.relative_to(self.root))], MAP_SECONDS, watch)
                told = [json.loads(part.read_text()) for part in sorted(Path(folder).glob("test-*.json"))]
            for test, seconds, lines in told:
                self.seconds[test] = seconds
                for place in lines: self.lines.setdefault(place, set()).add(test)
            print(f"{file.name}: {len(told)} tests in {time.monotonic() - start:.0f} seconds", file=sys.stderr, flush=True)

    def reaching(self, mutant: Mutant) -> list[str]:
        "The tests that reach a mutant's line, the quickest first, as many as there is time for."
        text = (self.root / self.library / mutant.module).read_text("utf-8")
        tests = set().union(*(self.lines.get(f"{mutant.module}:{line}", ()) for line in lines_of(text, mutant.line)))
        file = f"tests/test_{Path(mutant.module).stem}.py::"
        named = {test for test in self.seconds if test.startswith(file)}
        chosen, left = [], SECONDS
        for test in sorted(tests | named, key=lambda test: (test not in tests, self.seconds[test], test)):
            left -= self.seconds[test]
            if left > 0 or not chosen: chosen.append(test)
        return chosen

    def notebook_of(self, mutant: Mutant) -> str | None:
        "The notebook that exports a mutant's module, if it passes as things are; it runs once, to see how long it takes."
        if not (path := self.notebooks.get(mutant.module)): return None
        name = path.relative_to(self.root).as_posix()
        if name not in self.seconds:
            start = time.monotonic()
            passed = self.run([name], MAP_SECONDS) == 0
            self.seconds[name] = time.monotonic() - start if passed else math.inf
        return name if self.seconds[name] < MAP_SECONDS else None

    def survives(self, mutant: Mutant) -> bool:
        "Whether the notebook of a mutant's module and all tests that reach its line pass."
        notebook, tests = self.notebook_of(mutant), self.reaching(mutant)
        quick = sum(total <= QUICK for total in accumulate(map(self.seconds.get, tests)))
        files = [self.root / self.library / mutant.module, *([self.root / notebook] if notebook else [])]
        before = [(path, path.read_text("utf-8"), path.stat().st_mtime_ns) for path in files]
        path, text, known = before[0]
        path.write_text(apply(text, mutant), "utf-8")
        os.utime(path, ns=(known, known + (mutant.start + 1) * 1_000_000_000))  # or Python would take what it compiled before
        try:
            for what in filter(None, (tests[:quick], [notebook] * bool(notebook), tests[quick:])):
                if what == [notebook] and not mutate_cell(files[1], text, mutant): continue
                if self.run(what, SECONDS + 3 * self.takes(what)) != 0: return False
            return True
        finally:
            for path, text, known in before:
                path.write_text(text, "utf-8")
                os.utime(path, ns=(known, known))

    def takes(self, what: list[str]) -> float:
        "The seconds that a notebook or some tests take unbroken."
        return sum(map(self.seconds.get, what))


def executed(notebook: str) -> int:
    "Run a notebook here as nbdev_test does."
    from nbdev.test import test_nb

    root = Path.cwd()
    try: return int(not test_nb(root / notebook, skip_flags=settings(root)["tst_flags"].split(), basepath=root)[0])
    except BaseException: return 1


def forked(what: list[str], plugin: object) -> int:
    "Run pytest here, with programs in forks of this process."
    import pytest

    with suppress(ImportError):
        import forks

        forks.SERVER, forks._start_server = multiprocessing.get_context("fork"), lambda: None
        forks._child = partial(program, forks._child, plugin)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not tools and not races"]
    try: return int(pytest.main([*options, *([] if plugin else ["-x"]), *what], [plugin] if plugin else []))
    except BaseException: return 1


def program(run, watch: "Watch | None", *args) -> None:
    "A program that a test starts, in a fork: its output is no longer pytest's, and what it reached is left for its test to find."
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    atexit._clear()  # or it would remove our temporary folders when it ends
    if watch: watch.seen.clear()
    try: run(*args)
    finally:
        if watch: (watch.folder / f"{os.getpid()}.part").write_text(json.dumps(watch.places()))


class Watch:
    "A plugin of pytest that notes which lines of the package each test reaches, in programs that it starts as well."

    def __init__(self, library: Path, folder: Path):
        self.library, self.folder, self.seen, self.count = f"{library}/", folder, set(), 0

    def trace(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(self.library): return None
        self.note(frame, "line", None)
        return self.note

    def note(self, frame, event, _):
        if event == "line": self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self.note

    def places(self) -> list[str]:
        return sorted({f"{file.removeprefix(self.library)}:{line}" for file, line in self.seen})

    def pytest_runtest_protocol(self, item):
        self.seen.clear()
        self.passed, self.start = True, time.monotonic()
        sys.settrace(self.trace), threading.settrace(self.trace)

    def pytest_runtest_logreport(self, report):
        self.passed &= report.passed
        if report.when != "teardown": return
        sys.settrace(None), threading.settrace(None)
        parts = [*self.folder.glob("*.part")]
        places = sorted({*self.places(), *(place for part in parts for place in json.loads(part.read_text()))})
        for part in parts: part.unlink()
        if not self.passed: return
        self.count += 1
        told = report.nodeid, time.monotonic() - self.start, places
        (self.folder / f"test-{self.count}.json").write_text(json.dumps(told))


def main(count: str = "300", seed: str = "0", *modules: str) -> int:
    root, survivors = Path.cwd(), []
    library = settings(root)["lib_path"]
    chosen = choose(root / library, int(count), int(seed), list(modules))
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(root, Path(folder, "copy"), ignore=shutil.ignore_patterns(*LEFT_OUT))
        tests = Tests(copy, library)
        tests.learn()
        for number, mutant in enumerate(chosen, 1):
            alive = tests.survives(mutant)
            print("SURVIVED" if alive else "caught  ", f"{number:3}", mutant, flush=True)
            if alive: survivors.append(mutant)
        os.chdir(root)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutants caught", *survivors, sep="\n")
    return len(survivors) > len(chosen) / 10


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main(*sys.argv[1:]))
