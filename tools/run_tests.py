"""Run all tests from the repository's root and count them: the checks of notebooks.py, every notebook, and tests/.

python tools/run_tests.py [--slow | --guarantees]

--slow: also the cells and the tests that are marked slow, with other random cases each time
--guarantees: only the long half of what 07_train promises; no network, the same cases each time
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from notebooks import check, environment, find_notebooks


def run_notebooks(root: Path, slow: bool) -> tuple[int, int]:
    "How many notebooks passed and failed under nbdev_test."
    notebooks = {path.name for path in find_notebooks(root)}
    command = [Path(sysconfig.get_path("scripts"), "nbdev_test"), "--timing", *(["--flags", "slow"] if slow else [])]
    process = subprocess.Popen(command, cwd=root, env=environment(), text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    if process.wait():
        failed = len(notebooks & {line.strip() for line in lines}) or 1  # they are listed at the end
        return len(notebooks) - failed, failed
    timed = {line.partition(":")[0] for line in lines if re.fullmatch(r".+\.ipynb: \d+ secs", line)}
    passed = len(notebooks & timed)
    return passed, len(notebooks) - passed  # what wasn't timed didn't run


GUARANTEES = ("survival", "disasters", "hostile")


def run_pytest(root: Path, which: str) -> tuple[int, int]:
    "How many tests of tests/ passed and failed."
    wanted = {"": ["tests", "-m", "not slow"], "--slow": ["tests"],
              "--guarantees": [*(f"tests/test_{name}.py" for name in GUARANTEES), "-m", "slow and not races"]}[which]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", *wanted, "--durations=5", f"--junit-xml={report}"]
        explore = {"EXPLORE": "1"} if which == "--slow" else {}
        status = subprocess.run(command, cwd=root, env=environment() | explore, stdin=subprocess.DEVNULL).returncode
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
    print(f"\nAll of it took {time.monotonic() - start:.0f} seconds.\n{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--slow"], ["--guarantees"]): sys.exit(__doc__)
    sys.exit(main("".join(sys.argv[1:])))
