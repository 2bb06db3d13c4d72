"""Break the package in small ways, one at a time, and see whether a test notices: `make mutants`.

python tools/mutants.py [COUNT [SEED [MODULE ...]]]        300 mutants, seed 0 and all modules unless given

A mutant is one change to one exported module: `<` becomes `<=`, `and` becomes `or`, `+` becomes `-`, a number grows by one, True
becomes False, "min" becomes "max", a `not` goes, a returned value becomes None. The tests that reach the module run, those that
are marked slow or races left out. What no test notices is listed at the end; exit status 1 if that is more than a tenth.
"""

import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from check import changed_modules, nearest_tests
from imports import graph, importers
from notebooks import environment, settings
from run_tests import cores

SECONDS = 600  # a mutant whose tests take longer hangs: that is noticed
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
        elif isinstance(node, ast.Return) and node.value is not None: yield mutant(node.value, *place(node.value), "None")


def choose(library: Path, count: int, seed: int, modules: list[str]) -> list[Mutant]:
    "So many mutants, the same ones for the same seed; each place in the package is as likely as any other."
    found = []
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library).as_posix()
        if path.name[0] == "_" or modules and path.stem not in modules: continue
        found += [mutant for mutant in mutants(path.read_text("utf-8"), module) if compiles(path.read_text("utf-8"), mutant)]
    return sorted(random.Random(seed).sample(found, min(count, len(found))), key=lambda mutant: (mutant.module, mutant.line))


def apply(text: str, mutant: Mutant) -> str:
    data = text.encode()
    return (data[: mutant.start] + mutant.new.encode() + data[mutant.end :]).decode()


def compiles(text: str, mutant: Mutant) -> bool:
    try: ast.parse(apply(text, mutant))
    except SyntaxError: return False
    return True


def survives(root: Path, library: str, mutant: Mutant) -> bool:
    "Whether all tests that reach a module pass although it is broken; `root` is a copy that is given back as it was."
    path = root / library / mutant.module
    text = path.read_text("utf-8")
    path.write_text(apply(text, mutant), "utf-8")
    reached = importers(graph(root), changed_modules(root, [path]))
    # tests that run a whole program import nothing of it
    whole = [file for file in sorted((root / "tests").glob("test_*.py"))
             if set(re.findall(r"program\(\s*\"(\w+)\"", file.read_text("utf-8"))) & reached]
    try:
        tests = list(dict.fromkeys([*nearest_tests(root, [path]), *whole]))
        if not tests: return True
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not tools and not races"]
        done = subprocess.run([sys.executable, "-m", "pytest", *options, *map(str, tests)], cwd=root, timeout=SECONDS,
                              env=environment() | {"PYTHONPATH": str(root)}, stdin=subprocess.DEVNULL, capture_output=True)
        return done.returncode in (0, 5)  # 5: none is chosen
    except subprocess.TimeoutExpired: return False
    finally: path.write_text(text, "utf-8")


def main(count: str = "300", seed: str = "0", *modules: str) -> int:
    root = Path.cwd()
    library = settings(root)["lib_path"]
    chosen, copies, survivors = choose(root / library, int(count), int(seed), list(modules)), Queue(), []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(cores()):
            left_out = shutil.ignore_patterns(".venv", "runs", "build", "dist", "__pycache__")
            shutil.copytree(root, Path(folder, str(i)), ignore=left_out)
            copies.put(Path(folder, str(i)))

        def judge(mutant: Mutant) -> tuple[Mutant, bool]:
            copy = copies.get()
            try: return mutant, survives(copy, library, mutant)
            finally: copies.put(copy)

        with ThreadPoolExecutor(cores()) as pool:
            for mutant, alive in pool.map(judge, chosen):
                print("SURVIVED" if alive else "caught  ", mutant, flush=True)
                if alive: survivors.append(mutant)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutants caught", *survivors, sep="\n")
    return len(survivors) > len(chosen) / 10


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main(*sys.argv[1:]))
