"""What all tests share."""

import os
import random
import signal
from pathlib import Path

import forks
import pytest
from hypothesis import settings

# no window for a figure, no account for a tracker, no threads that stall one another
os.environ.update(MPLBACKEND="Agg", WANDB_MODE="offline", OMP_NUM_THREADS="1")
# a shell that starts the tests in the background lets them ignore Ctrl-C, and what they start would, too
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)

# the same cases each time, so that nobody's change is blamed for what another case would have shown before; new ones in
# `make test-slow`, which goes looking (EXPLORE=1). TEST_SEED=N repeats those of an earlier time.
os.environ.setdefault("TEST_SEED", str(random.randrange(10**6) if os.environ.get("EXPLORE") else 0))
settings.register_profile("repeat", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("explore", database=None, deadline=None, print_blob=True)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "repeat")

ROOT = Path(__file__).parents[1]


def pytest_report_header() -> str:
    return f"TEST_SEED={os.environ['TEST_SEED']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Mark the tests of tools/: those that need a small project of their own, and all of test_new."
    for item in items:
        if "prepared" in item.fixturenames or item.path.name == "test_new.py": item.add_marker("tools")


@pytest.fixture(scope="session")
def root() -> Path:
    "The repository's root."
    return ROOT


@pytest.fixture(scope="session")
def program():
    """Run one of the package's programs as a person would: `program("train", "seed=1", cwd=folder)`.

    Returns the finished process, with its output as text.
    """
    return lambda verb, *words, cwd=ROOT, **settings: forks.run(f"dlops_mnist.{verb}", *words, cwd=cwd, **settings)
