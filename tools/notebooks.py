"""Keep the notebooks, their outputs and the modules that they export in step.

python tools/notebooks.py check                  say what is out of step; exit status 1 if anything is
python tools/notebooks.py export                 write the modules, or say which cell can't be exported
python tools/notebooks.py prepare [NOTEBOOK ...] export all; execute what is out of step, or the notebooks named
python tools/notebooks.py pace                   tables of how the lessons are cut and of what the modules weigh

nbdev_clean removes the execution counts, so a committed notebook can't show that its outputs came from one run
from top to bottom. `prepare` makes such a run, and leaves a seal over code and outputs in the notebook's metadata.
A cell that is changed, or executed by hand, afterwards breaks the seal.
"""

import ast
import difflib
import hashlib
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import tokenize
import warnings
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

# after a merge, cells lack an id or share one
warnings.filterwarnings("ignore", category=FutureWarning, module="nbformat")
SEAL = "executed_in_order"  # also in `allowed_metadata_keys` of settings.ini, so that nbdev_clean keeps it


def settings(root: Path) -> dict[str, str]:
    "What settings.ini says."
    parser = ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def find_notebooks(root: Path) -> list[Path]:
    "The notebooks of the project, in order; those that nbdev passes over (`_name`, `.name`) are left out."
    folder = root / settings(root)["nbs_path"]
    paths = [p for p in folder.rglob("*.ipynb") if not any(part[0] in "_." for part in p.relative_to(folder).parts)]
    return sorted(paths, key=lambda path: (len(path.parts), path))  # the road, then its parts


def has_code(path: Path) -> bool:
    "Whether a notebook has anything to execute."
    return any(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)


def find_lessons(root: Path) -> list[Path]:
    "The notebooks of the project without its front page."
    return [path for path in find_notebooks(root) if path.stem != "index"]


def environment() -> dict[str, str]:
    "The environment that notebooks, tests and nbdev run in."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # where that is set nbdev exports nothing, silently
    env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), env.get("PATH", "")])  # for `!python` in a cell
    # two workers with two threads each stall one another on two cores
    return env | {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def nbdev(command: str, *args: str, cwd: Path) -> None:
    "Run one of nbdev's commands; raises `CalledProcessError` if it fails."
    subprocess.run([Path(sysconfig.get_path("scripts"), command), *args], cwd=cwd, env=environment(), check=True)


# what git leaves where two branches differ, and nbdev's merge in cells of their own
CONFLICT = re.compile(r"^`?(<<<<<<<|>>>>>>>)( |$)", re.MULTILINE)


def check_cells(root: Path) -> list[str]:
    "Problems: conflict markers of a merge, and exported cells that aren't Python. With these, nbdev would break the modules."
    return [f"{_name(path, root)}{problem}" for path in find_notebooks(root) for problem in _broken_cells(path)]


def _broken_cells(path: Path) -> Iterator[str]:
    try: notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat's own errors have no common ancestor
        merged = CONFLICT.search(path.read_text("utf-8", errors="replace").replace('"', ""))
        yield (" holds the conflict markers of a merge: `nbdev_fix` turns them into cells" if merged
               else f" is not a notebook: {error}")
        return
    for i, cell in enumerate(notebook.cells, 1):
        if CONFLICT.search(cell.source): yield f", cell {i}, holds a conflict marker of a merge: choose one of the two versions"
        elif cell.cell_type == "code" and re.match(r"#\|\s*exporti?\b", cell.source):
            try: ast.parse(cell.source)
            except SyntaxError as error:
                yield f", cell {i}, line {error.lineno}: {error.msg}: {(error.text or '').strip()[:60]}"


BY_HAND = ("__init__.py", "__main__.py")  # the modules that no notebook exports


def check_exports(root: Path) -> list[str]:
    "Problems: modules that aren't what the notebooks export, on a copy that leaves the working tree alone."
    library, notebooks = (settings(root)[key] for key in ("lib_path", "nbs_path"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(root / "settings.ini", copy)
        shutil.copytree(root / notebooks, copy / notebooks, ignore=shutil.ignore_patterns(".*"))
        by_hand = sorted(_modules(root / library)) if settings(root).get("by_hand") else BY_HAND
        for name in by_hand:
            (copy / library / name).parent.mkdir(parents=True, exist_ok=True)
            if (root / library / name).is_file(): shutil.copy(root / library / name, copy / library / name)
        nbdev("nbdev_export", cwd=copy)
        exported, present = _modules(copy / library), _modules(root / library)
    problems = []
    for name in sorted(exported.keys() | present.keys()):
        if exported.get(name) == present.get(name): continue
        if name not in present: fault = "is missing"
        elif name not in exported: fault = "is exported by no notebook"
        else: fault = "is not what the notebooks export"
        problems.append(f"{library}/{name} {fault}; change notebooks only, then run `make export`")
    return problems


def _modules(library: Path) -> dict[str, str]:
    return {path.relative_to(library).as_posix(): path.read_text("utf-8") for path in library.rglob("*.py")}


def check_clean(root: Path) -> list[str]:
    "Problems: notebooks that nbdev_clean would change, on a copy."
    paths = find_notebooks(root)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(root / "settings.ini", copy)
        (copy / "nbs").mkdir()
        for path in paths:
            (copy / path.relative_to(root)).parent.mkdir(exist_ok=True)
            shutil.copy(path, copy / path.relative_to(root))
        nbdev("nbdev_clean", "--fname", "nbs", cwd=copy)
        unclean = [path for path in paths if path.read_bytes() != (copy / path.relative_to(root)).read_bytes()]
    return [f"{_name(path, root)} is not clean; run `make clean`" for path in unclean]


def check_outputs(root: Path) -> list[str]:
    "Problems: outputs that are missing, are errors, or didn't come from one run from top to bottom."
    return [f"{_name(path, root)} {problem}" for path in find_notebooks(root) for problem in _outputs(path)]


def _outputs(path: Path) -> Iterator[str]:
    try: notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat's own errors have no common ancestor
        yield f"is not a notebook: {error}"
        return
    code = [(i, cell) for i, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code" and cell.source.strip()]
    for i, cell in code:
        where = f"(cell {i}: {cell.source.strip().splitlines()[-1][:60]})"
        if any(output.output_type == "error" for output in cell.outputs): yield f"holds an error output {where}"
        if not cell.outputs and shows_something(cell.source): yield f"lacks an output {where}"
    counts = [cell.execution_count for _, cell in code if cell.execution_count]
    if counts != sorted(counts): yield f"was executed out of order: {counts}"
    if notebook.metadata.get(SEAL) != seal(notebook):
        yield f"has changed since it was last executed from top to bottom; run `make prepare NB={path.stem}`"


def shows_something(source: str) -> bool:
    "True where a cell surely shows an output: it prints, or ends in an expression that isn't a call."
    if source.lstrip().startswith(("%", "!", "#| eval: false")) or source.rstrip().endswith(";"): return False
    try: body = ast.parse(source).body
    except SyntaxError: return False  # a magic further down
    if not body or not isinstance(body[-1], ast.Expr): return False
    value = body[-1].value
    if isinstance(value, ast.Call): return isinstance(value.func, ast.Name) and value.func.id in ("print", "display")
    return not isinstance(value, (ast.Await, ast.BoolOp, ast.Constant, ast.IfExp))  # these may well be None


def seal(notebook: nbformat.NotebookNode) -> str:
    "A hash over the code cells of a notebook and their outputs, in order."
    content = [(c.source, [dict(o, execution_count=None) for o in c.outputs])
               for c in notebook.cells if c.cell_type == "code"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def export(root: Path) -> None:
    "Export all notebooks; exits with status 2, the modules untouched, where a cell can't be exported."
    if problems := check_cells(root): mistake("\n".join(problems))
    nbdev("nbdev_export", cwd=root)


def mistake(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def prepare(root: Path, names: list[str]) -> None:
    "Export, execute from top to bottom, clean and seal; without names, the notebooks that are out of step."
    known, stems = {path.stem for path in find_notebooks(root)}, [Path(name).stem for name in names]
    for stem in set(stems) - known:
        near = difflib.get_close_matches(stem, known, 1)
        mistake(f"there is no notebook `{stem}`." + (f" Did you mean `{near[0]}`?" if near else ""))
    export(root)
    nbdev("nbdev_clean", cwd=root)
    paths = [path for path in find_notebooks(root) if (path.stem in stems if stems else any(_outputs(path)))]
    for path in paths:
        print(f"Executing {_name(path, root)}", flush=True)
        notebook = nbformat.read(path, as_version=4)
        try: execute(notebook, path.parent)
        except CellExecutionError as error:
            cell = next(i for i, cell in enumerate(notebook.cells, 1)
                        if any(output.output_type == "error" for output in cell.get("outputs", [])))
            mistake(f"{_name(path, root)}, cell {cell}: {error.ename}: {error.evalue}\nThe notebook is as it was.")
        nbformat.write(notebook, path)
        nbdev("nbdev_clean", "--fname", str(path), cwd=root)
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata[SEAL] = seal(notebook)
        nbformat.write(notebook, path)
        nbdev("nbdev_clean", "--fname", str(path), cwd=root)  # once more, for nbdev's own order of keys


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    "Execute a notebook from top to bottom in a new kernel; cells marked `#| eval: false` keep what they show."
    for cell in notebook.cells:
        if cell.cell_type == "code" and "#| eval: false" in cell.source: cell.metadata["tags"] = ["skip-execution"]
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": folder}},
                            extra_arguments=["--log-level=ERROR"])
    client.execute(env=environment())


def pace(path: Path) -> dict[str, object]:
    "How a lesson is cut; what is hidden from the reader doesn't count."
    cells = [c for c in nbformat.read(path, as_version=4).cells
             if c.source.strip() and not re.match(r"#\|\s*(hide|default_exp)|from importlib.util import find_spec; ", c.source)]
    prose = [c.source for c in cells if c.cell_type == "markdown"]
    code = [c for c in cells if c.cell_type == "code"]
    exported = [c for c in code if re.match(r"#\|\s*exporti?\b", c.source)]
    shown = [c for c in code if c not in exported]
    lines = {c.id: len(re.sub(r"^#\|.*\n?", "", c.source, flags=re.MULTILINE).strip().splitlines()) for c in code}
    return {"lesson": path.stem, "code": len(code), "lines": f"{statistics.median(lines.values()):.0f}",
            "export": len(exported), "longest": max((lines[c.id] for c in exported), default=0),
            "prose": _percent(len(prose), code), "outputs": _percent(sum(bool(c.outputs) for c in shown), shown),
            "asserts": _percent(sum(bool(re.search(r"\bassert\b", c.source)) for c in shown), shown),
            "pictures": sum("image/png" in o.get("data", {}) for c in code for o in c.outputs),
            "words": sum(len(text.split()) for text in prose)}


def _percent(count: int, whole: list) -> str:
    return f"{count / max(len(whole), 1):.0%}"


BUDGET, LARGEST, SCRIPT = 4700, 300, 150  # code lines by the design: of all modules, of one, of train.py
CEILING = 7184  # what they weigh: it may fall, and never rise


def weight(source: str) -> int:
    "How many lines of a module are code: neither blank, import, docstring, comment, nor a parameter in a signature."
    tree, lines = ast.parse(source), set()
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent: lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree): lines -= set(_weightless(node))
    return len(lines)


def _weightless(node: ast.AST) -> Iterator[int]:
    whole = [node] if isinstance(node, ast.Import | ast.ImportFrom) else []
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__": whole.append(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from range(node.lineno + 1, node.body[0].lineno)  # the signature's lines but its first
        whole += [a for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.lineno > node.lineno]  # beside the body
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        whole.append(node.body[0])
    for part in whole: yield from range(part.lineno, part.end_lineno + 1)


def weights(root: Path) -> dict[str, int]:
    "The weight of each module; what nbdev writes for itself and the hand-written front door are left out."
    library = root / settings(root)["lib_path"]
    paths = [path for path in sorted(library.rglob("*.py")) if path.name not in ("_modidx.py", "__init__.py")]
    return {path.relative_to(library).as_posix(): weight(path.read_text("utf-8")) for path in paths}


def print_pace(root: Path) -> None:
    "How the lessons are cut, what the modules weigh, and how long the last `make test` took."
    for i, row in enumerate(map(pace, find_lessons(root))):
        if not i: print(f"{'lesson':<16}" + "".join(f"{name:>9}" for name in list(row)[1:]))
        print(f"{row.pop('lesson'):<16}" + "".join(f"{value:>9}" for value in row.values()))
    found = weights(root)
    largest = max(found, key=found.get, default=None)
    print(f"\n{'module':<24}{'code lines':>11}")
    for name, lines in sorted(found.items(), key=lambda item: ("/" in item[0], -item[1])): print(f"{name:<24}{lines:>11,}")
    print(f"\n{sum(found.values()):,} code lines in {len(found)} modules (budget {BUDGET:,}, ceiling {CEILING:,})")
    if largest: print(f"the largest, {largest}: {found[largest]} (budget {LARGEST})")
    if "train.py" in found: print(f"train.py: {found['train.py']} (budget {SCRIPT})")
    print(last_tests(root))


def last_tests(root: Path) -> str:
    "What run_tests.py has noted about the last `make test`."
    try: note = json.loads((root / ".last_tests.json").read_text("utf-8"))
    except (OSError, ValueError): return "make test has not run here yet (budget 6 minutes)"
    return (f"make test took {note['seconds'] / 60:.1f} minutes on {note['when']}: {note['passed']} passed, "
            f"{note['failed']} failed (budget 6 minutes on two cores)")


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


CHECKS = {"cells whole": check_cells, "modules in step with the notebooks": check_exports, "notebooks clean": check_clean,
          "outputs of a run from top to bottom": check_outputs}


def check(root: Path) -> tuple[int, int]:
    "Make every check, print what is wrong, and return how many passed and how many failed."
    failed = 0
    for name, find_problems in CHECKS.items():
        problems = find_problems(root)
        failed += bool(problems)
        print(f"{'FAILED' if problems else 'passed'}: {name}", flush=True)
        for problem in problems: print(f"    {problem}", flush=True)
        if problems and find_problems is check_cells: return 0, 1  # nothing else can be told from these
    return len(CHECKS) - failed, failed


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check"]: sys.exit(check(Path.cwd())[1] > 0)
        case ["export"]: export(Path.cwd())
        case ["pace"]: print_pace(Path.cwd())
        case ["prepare", *names]: prepare(Path.cwd(), names)
        case _: sys.exit(__doc__)
