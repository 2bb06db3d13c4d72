"""Run all tests from the repository's root and count them: the checks of notebooks.py, every notebook, and tests/.

python tools/run_tests.py [--slow | --guarantees]

--slow: also the cells and the tests that are marked slow, with other random cases each time
--guarantees: only the long half of what 07_train promises; no network, the same cases each time
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

from notebooks import check, environment, find_notebooks, settings

NOTEBOOK_SECONDS = 1800  # after so long, one of them hangs


def run_notebooks(root: Path, slow: bool) -> tuple[int, int]:
    "How many notebooks passed and failed under nbdev_test."
    notebooks = {path.name for path in find_notebooks(root)}
    command = [Path(sysconfig.get_path("scripts"), "nbdev_test"), "--timing", *(["--flags", "slow"] if slow else [])]
    process = subprocess.Popen(command, cwd=root, env=environment(), text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines, patience = [], threading.Timer(NOTEBOOK_SECONDS, process.kill)
    patience.start()
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    patience.cancel()
    if process.wait():
        failed = len(notebooks & {line.strip() for line in lines}) or 1  # they are listed at the end
        return len(notebooks) - failed, failed
    timed = {line.partition(":")[0] for line in lines if re.fullmatch(r".+\.ipynb: \d+ secs", line)}
    passed = len(notebooks & timed)
    return passed, len(notebooks) - passed  # what wasn't timed didn't run


GUARANTEES = ("survival", "disasters", "hostile", "config", "tune", "streaming", "scale", "tracking")
# where one of these has changed, the tools are tested, too
TOOLS = ("tools/", "settings.ini", "Makefile", "nbs/index.ipynb", "tests/test_new.py", "tests/test_repository.py")


def cores() -> int:
    "The cores that this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tools_changed(root: Path) -> bool:
    "Whether the tests of tools/ are due: always in CI, else where this branch or the uncommitted change touches them."
    if os.environ.get("CI"): return True

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return None if done.returncode else done.stdout.strip()

    branch = settings(root)["branch"]
    base = next(filter(None, (git("merge-base", "HEAD", name) for name in (f"origin/{branch}", branch))), None)
    if base is None: return True
    changed = [*git("diff", "--name-only", base).splitlines(), *git("ls-files", "--others", "--exclude-standard").splitlines()]
    return any(name.startswith(TOOLS) for name in changed)


def run_pytest(root: Path, which: str) -> tuple[int, int]:
    "How many tests of tests/ passed and failed."
    if which == "--slow":  # the races need a machine that does little else
        halves = [run_pytest_once(root, ["tests", "-m", "not races"], explore=True),
                  run_pytest_once(root, ["tests", "-m", "races"], explore=True, workers=1)]
        return tuple(map(sum, zip(*halves)))
    if which == "--guarantees":
        files = [f"tests/test_{name}.py" for name in GUARANTEES if (root / f"tests/test_{name}.py").is_file()]
        return run_pytest_once(root, [*files, "-m", "slow and not races"]) if files else (0, 0)
    tools = tools_changed(root)
    if not tools: print("The tests of tools/ are left out: nothing of theirs has changed (CI=1 runs them).", flush=True)
    return run_pytest_once(root, ["tests", "-m", "not slow" if tools else "not slow and not tools"])


def run_pytest_once(root: Path, wanted: list[str], explore: bool = False, workers: int | None = None) -> tuple[int, int]:
    "The same, of the tests that `wanted` chooses, in so many processes; None: one for each core."
    workers = workers or cores()
    spread = ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", *wanted, *spread, "--durations=10", f"--junit-xml={report}"]
        status = subprocess.run(command, cwd=root, env=environment() | ({"EXPLORE": "1"} if explore else {}),
                                stdin=subprocess.DEVNULL).returncode
        if status == 5 and explore: return 0, 0  # this half has no tests
        if not report.exists(): return 0, 1
        suite = ElementTree.parse(report).getroot().find("testsuite")
    tests, failures, errors, skipped = (int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped"))
    return tests - failures - errors - skipped, max(failures + errors, int(status != 0))


def main(which: str) -> int:
    root, start, passed, failed = Path.cwd(), time.monotonic(), 0, 0
    stages = {"Checks": lambda: check(root), "Notebooks": lambda: run_notebooks(root, which == "--slow"),
              "Tests": lambda: run_pytest(root, which)}
    if which == "--guarantees": stages = {"Guarantees": stages["Tests"]}
    for title, stage in stages.items():
        print(f"\n{title}\n{'-' * len(title)}", flush=True)
        begin = time.monotonic()
        good, bad = stage()
        if good + bad == 0: bad = 1  # a stage that ran nothing has not passed
        passed, failed = passed + good, failed + bad
        print(f"{title}: {good} passed, {bad} failed in {time.monotonic() - begin:.0f} seconds", flush=True)
    seconds = time.monotonic() - start
    if not which:  # for `make pace`
        note = {"when": time.strftime("%Y-%m-%d %H:%M"), "seconds": round(seconds, 1), "passed": passed, "failed": failed}
        (root / ".last_tests.json").write_text(json.dumps(note), "utf-8")
    print(f"\nAll of it took {seconds:.0f} seconds.\n{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--slow"], ["--guarantees"]): sys.exit(__doc__)
    sys.exit(main("".join(sys.argv[1:])))
