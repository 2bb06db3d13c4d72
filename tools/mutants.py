"""Break the package in small ways, one at a time, and see whether a test notices: `make mutants`.

python tools/mutants.py [COUNT [SEED [MODULE ...]]]        300 mutants, seed 0 and all modules unless given

A mutant is one change to one exported module: `<` becomes `<=`, `and` becomes `or`, `+` becomes `-`, a number grows by one, True
becomes False, "min" becomes "max", a `not` goes, a returned value becomes None. First all tests run once, and the statements that
each reaches are noted (see seen.py). Then each mutant has to pass the tests that reach its statement, the quickest first, and the
notebook that exports its module (where the cell is changed as well, since a notebook tests its own cells), until one fails; that
one has to pass without the mutant. Cells and tests that are marked slow, tools or races are left out. What nothing notices is
listed at the end; exit status 1 if that is more than a tenth.

Ctrl-C ends it at any time: what was tried stands in .mutants/, and the next call goes on. Mutants are drawn in an order that only
the seed and a mutant's own function decide, so the first sixty are a sample, too, and a change elsewhere leaves them the same.
When package or tests have changed, each is tried again, beginning with what caught it.
"""

import ast
import atexit
import hashlib
import importlib
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import seen
from notebooks import environment, find_notebooks, settings
from run_tests import cores

SECONDS = 40  # of tests for one mutant, as they took unbroken; three times as much, and it hangs, which is noticed as well
QUICK = 5  # seconds of tests, before the notebook has its turn
MAP_SECONDS = 1800  # for one file of tests, when the statements that they reach are noted
MEMORY = 16 * 2**30  # a broken program may ask for any
LEFT_OUT = (".git", ".venv", ".mutants", "runs", "build", "dist", "_docs", "__pycache__")
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
    key: str  # the same as long as its function is

    def __str__(self) -> str: return f"{self.module}:{self.line}: `{self.old}` -> `{self.new}`"


def mutants(text: str, module: str) -> Iterator[Mutant]:
    "All mutants of a module's text."
    starts = [0]
    for line in text.encode().splitlines(keepends=True): starts.append(starts[-1] + len(line))
    data = text.encode()

    def place(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def mutant(node: ast.AST, start: int, end: int, new: str) -> Mutant:
        first, last = max(((a, b) for a, b in functions if a <= start < b), default=(starts[node.lineno - 1], end))
        around = f"{module}:{data[first:last].decode()}:{start - first}:{new}"
        key = hashlib.sha256(around.encode()).hexdigest()[:16]
        return Mutant(module, node.lineno, start, end, data[start:end].decode(), new, key)

    def between(left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[Mutant]:
        start, end = place(left)[1], place(right)[0]
        middle = data[start:end].decode()
        if (sign := middle.strip(" ()\n\\")) and len(sign) < 7 and type(operator) in SWAPS:
            offset = start + middle.index(sign)
            yield mutant(left, offset, offset + len(sign), SWAPS[type(operator)])

    tree = ast.parse(text)
    functions = [place(node) for node in ast.walk(tree) if isinstance(node, seen.FUNCTIONS)]
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
    found.sort(key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())
    return list(islice((mutant for mutant in found if compiles(texts[mutant.module], mutant)), count))


def apply(text: str, mutant: Mutant) -> str:
    data = text.encode()
    return (data[: mutant.start] + mutant.new.encode() + data[mutant.end :]).decode()


def compiles(text: str, mutant: Mutant) -> bool:
    try: ast.parse(apply(text, mutant))
    except SyntaxError: return False
    return True


def lines_of(text: str, line: int) -> set[int]:
    "The lines at which the statement around a line is noted; what runs at import is seen where the module is used."
    nodes = list(ast.walk(ast.parse(text)))
    inside = {part.lineno for node in nodes if isinstance(node, seen.FUNCTIONS) for statement in node.body
              for part in ast.walk(statement) if isinstance(part, ast.stmt)}
    around = [node.lineno for node in nodes if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno]
    return inside & {max(around, default=0)} or inside


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

    def __init__(self, root: Path, library: str, known: dict | None = None):
        self.root, self.library = root, library
        self.lines, self.seconds = (known or {}).get("lines", {}), (known or {}).get("seconds", {})
        exported = ((path, re.search(r"#\| default_exp ([\w.]+)", path.read_text("utf-8"))) for path in find_notebooks(root))
        self.notebooks = {f"{name[1].replace('.', '/')}.py": str(path.relative_to(root)) for path, name in exported if name}
        os.chdir(root)
        os.environ["PYTHONPATH"] = str(root)
        sys.path[:0] = [str(root), str(root / "tests")]

    def run(self, what: list[str], seconds: float, seen_in: str = "") -> str | None:
        """Run tests, or one notebook, in a fork: the name of what failed, None if all passed.

        `seen_in`: a folder, for what each test reaches; then a failing one doesn't end it.
        """
        sys.stdout.flush()
        failed = self.root / ".failed"
        failed.write_text("?")  # stays where the fork dies
        if not (child := os.fork()):
            os.setsid()
            quiet = os.open(os.devnull, os.O_RDWR)
            for number in range(3): os.dup2(quiet, number)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            if what[0].endswith(".ipynb"): os._exit(executed(what[0]))
            os._exit(forked(what, Watch(self.root / self.library, seen_in) if seen_in else Failing(failed)))
        until, ended = time.monotonic() + seconds, 0
        try:
            while not ended and time.monotonic() < until:
                time.sleep(0.05)
                ended, status = os.waitpid(child, os.WNOHANG)
        finally:
            with suppress(ProcessLookupError): os.killpg(child, signal.SIGKILL)  # and what it has started
            if not ended: os.waitpid(child, 0)
        return None if ended and status == 0 else failed.read_text() if ended else "time"

    def learn(self, file: str) -> list[tuple[str, float, list[str]]]:
        "The tests of a file, how long each takes, and the statements that it reaches; one that fails as things are is left out."
        start = time.monotonic()
        if file.endswith(".ipynb"): return [] if self.run([file], MAP_SECONDS) else [(file, time.monotonic() - start, [])]
        with tempfile.TemporaryDirectory() as folder:
            self.run([file], MAP_SECONDS, folder)
            return [json.loads(part.read_text()) for part in sorted(Path(folder).glob("test-*.json"))]

    def reaching(self, mutant: Mutant) -> list[str]:
        "The tests that reach a mutant's statement, the quickest first, as many as there is time for."
        text = (self.root / self.library / mutant.module).read_text("utf-8")
        tests = set().union(*(self.lines.get(f"{mutant.module}:{line}", ()) for line in lines_of(text, mutant.line)))
        file = f"tests/test_{Path(mutant.module).stem}.py::"
        named = {test for test in self.seconds if test.startswith(file)}
        chosen, left = [], SECONDS
        for test in sorted((tests | named) & self.seconds.keys(), key=lambda test: (test not in tests, self.seconds[test], test)):
            left -= self.seconds[test]
            if left > 0 or not chosen: chosen.append(test)
        return chosen

    def catcher(self, mutant: Mutant, before: str | None) -> str | None:
        "The test that notices a mutant, or the notebook; `before`: what did so an earlier time."
        notebook, tests = self.notebooks.get(mutant.module), self.reaching(mutant)
        if notebook not in self.seconds: notebook = None
        quick = sum(total <= QUICK for total in accumulate(map(self.seconds.get, tests)))
        first = [before] if before in self.seconds and not before.endswith(".ipynb") else []
        for what in (first, tests[:quick], [notebook] * bool(notebook), tests[quick:]):
            while what:
                limit = SECONDS + 3 * sum(map(self.seconds.get, what))
                with self.broken(mutant, notebook if what == [notebook] else None) as there:
                    failed = self.run(what, limit) if there else None
                if not failed: break
                alone = [failed] if failed in what else what
                if what == [notebook]: return notebook
                if not self.run(alone, limit): return failed if failed in self.seconds else f"{failed} in {what[0]} ..."
                what = what[what.index(failed) + 1 :] if failed in what else []  # it fails without the mutant as well
        return None

    @contextmanager
    def broken(self, mutant: Mutant, notebook: str | None) -> Iterator[bool]:
        "With the mutant in its module, and in the notebook's cell; gives whether it is there."
        files = [self.root / self.library / mutant.module, *([self.root / notebook] if notebook else [])]
        before = [(path, path.read_text("utf-8"), path.stat().st_mtime_ns) for path in files]
        path, text, known = before[0]
        path.write_text(apply(text, mutant), "utf-8")
        os.utime(path, ns=(known, known + (mutant.start + 1) * 1_000_000_000))  # or Python would take what it compiled before
        try: yield mutate_cell(files[1], text, mutant) if notebook else True
        finally:
            for path, text, known in before:
                path.write_text(text, "utf-8")
                os.utime(path, ns=(known, known))


def needed(root: Path, library: str) -> set[str]:
    "The modules of other people that the package and its tests import."
    nodes = [node for path in (*root.glob("tests/*.py"), *(root / library).rglob("*.py"))
             for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    own = {library, *(path.stem for folder in ("tests", "tools") for path in root.glob(f"{folder}/*.py"))}
    return {name for name in names if name.partition(".")[0] not in own | NEVER}


def executed(notebook: str) -> int:
    "Run a notebook here as nbdev_test does."
    from nbdev.test import test_nb

    root = Path.cwd()
    try: passed = test_nb(root / notebook, skip_flags=settings(root)["tst_flags"].split(), basepath=root)[0]
    except BaseException: passed = False
    if not passed: (root / ".failed").write_text(notebook)
    return int(not passed)


def forked(what: list[str], plugin: "Failing | Watch") -> int:
    "Run pytest here, with programs in forks of this process."
    import pytest

    with suppress(ImportError):
        import forks

        forks.SERVER, forks._start_server = multiprocessing.get_context("fork"), lambda: None
        forks._child = partial(program, forks._child, getattr(plugin, "folder", None))
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not tools and not races", *plugin.options]
    try: return int(pytest.main([*options, *what], [plugin]))
    except BaseException: return 1


def program(run, folder: str | None, *args) -> None:
    "A program that a test starts, in a fork: its output is no longer pytest's, and what it reached is left for its test to find."
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    atexit._clear()  # or it would remove our temporary folders when it ends
    seen.SEEN.clear()
    try: run(*args)
    finally:
        if folder: seen.leave(folder)


class Failing:
    "A plugin of pytest that writes down which test has failed, the first and last one."

    options = ("-x",)

    def __init__(self, file: Path): self.file = file

    def pytest_runtest_logreport(self, report):
        if report.failed: self.file.write_text(report.nodeid)


class Watch:
    "A plugin of pytest that notes which statements of the package each test reaches, in programs that it starts as well."

    options = ()

    def __init__(self, library: Path, folder: str):
        self.folder, self.count = folder, 0
        seen.watch(str(library))
        os.environ.update(SEEN_OF=str(library), SEEN_IN=folder)

    def pytest_runtest_protocol(self, item):
        seen.SEEN.clear()
        self.passed, self.start = True, time.monotonic()

    def pytest_runtest_logreport(self, report):
        self.passed &= report.passed
        if report.when != "teardown": return
        parts = [*Path(self.folder).glob("*.part")]
        places = sorted(seen.SEEN.union(*(json.loads(part.read_text()) for part in parts)))
        for part in parts: part.unlink()
        if not self.passed: return
        self.count += 1
        told = report.nodeid, time.monotonic() - self.start, places
        Path(self.folder, f"test-{self.count}.json").write_text(json.dumps(told))


TESTS = None  # of the process that works


def begin(root: Path, library: str, folder: str, known: dict | None = None) -> None:
    "Give this process a copy of the repository."
    global TESTS
    copy = Path(folder, f"copy-{os.getpid()}")
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copy(Path(seen.__file__), copy / "sitecustomize.py")
    TESTS = Tests(copy, library, known)


def learn(file: str): return file, TESTS.learn(file)


def attempt(mutant: Mutant, before: str | None): return mutant, TESTS.catcher(mutant, before)


def each(function: Callable, jobs: Iterable[tuple], *setting: object) -> Iterator:
    "What comes of each job, as it comes; none is begun before there is a process for it, so that Ctrl-C ends all of them."
    jobs, running = iter(jobs), set()
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("fork"), begin, setting) as workers:
        while True:
            running |= {workers.submit(function, *job) for job in islice(jobs, cores() - len(running))}
            if not running: return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for work in done: yield work.result()


def state(root: Path, library: str) -> str:
    "A hash over package and tests."
    files = sorted([*(root / library).rglob("*.py"), *(root / "tests").glob("*.py"), *find_notebooks(root)])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def reached(root: Path, library: str, folder: str, now: str) -> dict:
    "Which tests reach which statement, and how long each takes; kept in .mutants/map.json, file by file."
    map_file, start, known = root / ".mutants/map.json", time.monotonic(), {}
    with suppress(OSError, ValueError): known = json.loads(map_file.read_text())
    if known.get("state") != now: known = {"state": now, "files": [], "lines": {}, "seconds": {}}
    files = [*(root / "tests").glob("test_*.py"), *find_notebooks(root)]
    files.sort(key=lambda path: (path.suffix, path.stat().st_size), reverse=True)  # what takes longest first
    left = [(name,) for path in files if (name := str(path.relative_to(root))) not in known["files"]]
    for name, told in each(learn, left, root, library, folder):
        print(f"{name}: {len(told)} passed, {time.monotonic() - start:.0f} seconds", file=sys.stderr, flush=True)
        for test, seconds, lines in told:
            known["seconds"][test] = seconds
            for place in lines: known["lines"].setdefault(place, []).append(test)
        known["files"].append(name)
        map_file.write_text(json.dumps(known))
    return known


def share(part: int, whole: int) -> str:
    "A share with its interval (Wilson's, 95%)."
    p, z2 = part / whole, 1.96**2
    half = 1.96 * math.sqrt(p * (1 - p) / whole + z2 / 4 / whole**2)
    low, high = ((p + z2 / 2 / whole + sign * half) / (1 + z2 / whole) for sign in (-1, 1))
    return f"{p:.0%} ({low:.0%} to {high:.0%})"


def main(count: str = "300", seed: str = "0", *modules: str) -> int:
    root, library = Path.cwd(), settings(Path.cwd())["lib_path"]
    chosen, now = choose(root / library, int(count), int(seed), list(modules)), state(root, library)
    file = root / ".mutants/tried.jsonl"
    file.parent.mkdir(exist_ok=True)
    tried = {row["key"]: row for row in map(json.loads, file.read_text().splitlines())} if file.is_file() else {}
    results = {mutant: tried[mutant.key]["by"] for mutant in chosen if tried.get(mutant.key, {}).get("state") == now}
    if results: print(f"{len(results)} of these were tried before, on the same package and tests", flush=True)
    left = [(mutant, tried.get(mutant.key, {}).get("by")) for mutant in chosen if mutant not in results]
    os.environ.update(environment() | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"})
    for name in sorted(needed(root, library)) if left else ():
        with suppress(Exception): importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt), file.open("a") as log:
        known = reached(root, library, folder, now) if left else {}
        for mutant, by in each(attempt, left, root, library, folder, known):
            results[mutant] = by
            print(f"caught   {len(results):3} {mutant} by {by}" if by else f"SURVIVED {len(results):3} {mutant}", flush=True)
            print(json.dumps({"key": mutant.key, "state": now, "by": by, "mutant": str(mutant)}), file=log, flush=True)
    survivors = sorted((m for m, by in results.items() if not by), key=lambda mutant: (mutant.module, mutant.line))
    caught = len(results) - len(survivors)
    print(f"\n{caught} of {len(results)} mutants caught, {share(caught, len(results))}" if results else "", *survivors, sep="\n")
    return len(survivors) > len(results) / 10


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main(*sys.argv[1:]))
