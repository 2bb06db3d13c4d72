"""Check what the uncommitted change touches, within 40 seconds: exports, style, the changed notebooks, the tests that reach it.

python tools/check.py

What time is left for, it takes in the order of nearness: changed tests, then those that import a changed module, then
those that import it through another one. `make test` takes everything.
"""

import ast
import os
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

from imports import graph, imported, importers
from notebooks import check_cells, check_exports, environment, mistake, settings
from run_tests import cores

SECONDS = 40


def uncommitted(root: Path) -> list[Path]:
    "Files that differ from the last commit and are still there, new ones included."
    listing = subprocess.run(["git", "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"], cwd=root,
                             capture_output=True, text=True, check=True)
    return [path for line in listing.stdout.split("\0") if line and (path := root / line[3:]).is_file()]


def changed_modules(root: Path, changed: list[Path]) -> set[str]:
    "The modules that belong to changed files of the package, or to changed notebooks."
    library, lessons = root / settings(root)["lib_path"], root / settings(root)["nbs_path"]
    known, found = graph(root), set()
    for path in changed:
        for folder, suffix in ((library, ".py"), (lessons, ".ipynb")):
            if path.suffix != suffix or not path.is_relative_to(folder): continue
            *folders, stem = path.relative_to(folder).with_suffix("").parts
            found |= {".".join([*folders, name]) for name in (stem, stem.partition("_")[2])} & set(known)
    return found


def nearest_tests(root: Path, changed: list[Path]) -> list[Path]:
    "Test files that the change reaches, the nearest first."
    package, imports, modules = settings(root)["lib_name"], graph(root), changed_modules(root, changed)
    reached, distance = importers(imports, modules), {}
    for file in sorted((root / "tests").glob("test_*.py")):
        used = set(imported(ast.parse(file.read_text("utf-8")), package, set(imports)))
        if file in changed: distance[file] = 0
        elif used & modules: distance[file] = 1
        elif used & reached: distance[file] = 2
    return sorted(distance, key=distance.get)


def run(command: list, root: Path, until: float) -> str:
    "How a command ended: passed, failed, or stopped because its time was up."
    process = subprocess.Popen(list(map(str, command)), cwd=root, env=environment(), stdin=subprocess.DEVNULL,
                               start_new_session=True)
    try: return "failed" if process.wait(max(1, until - time.monotonic())) else "passed"
    except subprocess.TimeoutExpired: return "stopped"
    finally:
        if process.poll() is None:  # pytest then says what it has seen so far
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired): process.wait(3)
        with suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)  # and what it has started


def main() -> int:
    root, start = Path.cwd(), time.monotonic()
    changed = uncommitted(root)
    if not changed: return print("Nothing has changed since the last commit.") or 0
    if problems := check_cells(root): mistake("\n".join(problems))  # nothing else can be told from these
    scripts, end = Path(sysconfig.get_path("scripts")), start + SECONDS - 3
    notebooks = [path for path in changed if path.suffix == ".ipynb"]
    answers = {}
    if notebooks or changed_modules(root, changed):
        problems = check_exports(root)
        for problem in problems: print(problem)
        answers["modules in step with the notebooks"] = "failed" if problems else "passed"
    if styled := [path for path in changed if path.suffix in (".py", ".ipynb")]:
        answers["style"] = run([scripts / "ruff", "check", "--quiet", *styled], root, end)
    if notebooks:
        names = f"^({'|'.join(path.stem for path in notebooks)})\\.ipynb$"
        half = time.monotonic() + (end - time.monotonic()) / 2
        answers[f"{len(notebooks)} notebooks"] = run([scripts / "nbdev_test", "--file_re", names], root, half)
    if tests := nearest_tests(root, changed):
        workers = ["-n", cores(), "--dist", "worksteal"] if cores() > 1 else []
        options = ["-q", "-x", "--no-header", "-m", "not slow and not tools", *workers]
        answers[f"tests of {len(tests)} files"] = run([sys.executable, "-m", "pytest", *options, *tests], root, end)
    print(*(f"{answer:8} {what}" for what, answer in answers.items()), sep="\n")
    if "stopped" in answers.values(): print(f"What takes longer than {SECONDS} seconds was stopped: `make test` runs all.")
    print(f"{time.monotonic() - start:.0f} seconds")
    return "failed" in answers.values()


if __name__ == "__main__":
    sys.exit(main() if not sys.argv[1:] else __doc__)
