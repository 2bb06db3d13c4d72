"""Run all tests from the repository's root and count them: the checks of notebooks.py, every notebook, and tests/.

python tools/run_tests.py [--slow]        --slow: also the cells and the tests that are marked slow
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


def run_pytest(root: Path, slow: bool) -> tuple[int, int]:
    "How many tests of tests/ passed and failed."
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "tests", "--durations=5", f"--junit-xml={report}"]
        command += [] if slow else ["-m", "not slow"]
        status = subprocess.run(command, cwd=root, env=environment(), stdin=subprocess.DEVNULL).returncode
        if not report.exists(): return 0, 1
        suite = ElementTree.parse(report).getroot().find("testsuite")
    tests, failures, errors, skipped = (int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped"))
    return tests - failures - errors - skipped, max(failures + errors, int(status != 0))


def main(slow: bool) -> int:
    root, start, passed, failed = Path.cwd(), time.monotonic(), 0, 0
    stages = {"Checks": lambda: check(root), "Notebooks": lambda: run_notebooks(root, slow),
              "Tests": lambda: run_pytest(root, slow)}
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
    if set(sys.argv[1:]) - {"--slow"}: sys.exit(__doc__)
    sys.exit(main("--slow" in sys.argv))
