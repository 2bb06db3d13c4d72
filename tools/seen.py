"""Note which statements of a package's functions run, in this process and in the programs that it starts: for mutants.py.

Each statement gets a call before it, when its module is imported: cheap, where a tracer makes tests take five times as long.
A copy of this file is `sitecustomize.py` in the folder of PYTHONPATH, so that each Python which finds SEEN_OF takes part.
"""

import ast
import atexit
import builtins
import json
import os
from importlib.machinery import SourceFileLoader
from pathlib import Path

SEEN = set()  # "parts/core.py:12"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def noting(text: str, name: str) -> ast.Module:
    "The tree of a module in which each statement of a function says that it runs; no line has another number."
    tree = ast.parse(text)
    inside = {id(part): part for node in ast.walk(tree) if isinstance(node, FUNCTIONS) for part in ast.walk(node)}
    for node in inside.values():
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(statements := getattr(node, field, None), list): continue
            marked = []
            for i, statement in enumerate(statements):
                documented = field == "body" and not i and isinstance(node, FUNCTIONS | ast.ClassDef) and ast.get_docstring(node)
                if not documented:
                    call = ast.parse(f"__seen__({f'{name}:{statement.lineno}'!r})").body[0]
                    for part in ast.walk(call): ast.copy_location(part, statement)
                    marked.append(call)
                marked.append(statement)
            setattr(node, field, marked)
    return tree


def watch(library: str) -> None:
    "From now on, what is imported from this folder notes what runs."
    builtins.__seen__, usual = SEEN.add, SourceFileLoader.get_code

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        if not path.startswith(f"{library}/"): return usual(self, fullname)
        return compile(noting(Path(path).read_text("utf-8"), path[len(library) + 1 :]), path, "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code


def leave(folder: str) -> None:
    "Leave what has run in this process for the test that has started it."
    Path(folder, f"{os.getpid()}.part").write_text(json.dumps(sorted(SEEN)))


if __name__ == "sitecustomize" and "SEEN_OF" in os.environ:
    watch(os.environ["SEEN_OF"])
    atexit.register(leave, os.environ["SEEN_IN"])
