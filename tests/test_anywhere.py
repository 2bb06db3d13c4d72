"""The notebooks where people are: as Colab runs them, far from the repository, with nothing but the wheel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import links  # noqa: E402
import notebooks  # noqa: E402

HOUSE = links.House(ROOT)
# those that install extras come last: what they need must not be there by accident for the others
LESSONS = sorted((path for path in notebooks.find_notebooks(ROOT) if notebooks.has_code(path)),
                 key=lambda path: (path.stem in links.EXTRAS, path.name))


def run(*command: object, cwd: Path, **environment: str) -> None:
    # as on another machine: of our environment, only what finds programs and packages comes along
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG") or k.upper().startswith("PIP_")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=inherited | environment, text=True, capture_output=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    "The wheel of a source distribution, as a release would hold it."
    folder = tmp_path_factory.mktemp("wheel")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file(): shutil.copy2(ROOT / name, folder / "source" / name)
    # without arguments, `build` makes the source distribution, and the wheel from that
    run(sys.executable, "-m", "build", "--no-isolation", cwd=folder / "source")
    [path] = (folder / "source/dist").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory, wheel) -> Path:
    "A Python with the requirements and a kernel, but without the package: Colab, before a notebook's first cell."
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    python, pins = folder / "bin/python", ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", pins, wheel, "ipykernel", "ipywidgets", "nbconvert",
        cwd=folder)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "dlops_mnist", cwd=folder)
    return python


def test_no_cell_assigns_what_a_shell_prints():
    # `files = !ls`: IPython 7 can't read it on Python 3.12, and Colab has both
    cells = [(path.stem, cell.source) for path in LESSONS for cell in nbformat.read(path, as_version=4).cells]
    assert not [(name, source) for name, source in cells if re.search(r"^\s*\w+ *= *[!%]", source, re.MULTILINE)]


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_runs_far_from_the_repository(path, wheel, elsewhere, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    # from the wheel, as the public home isn't known yet
    pinned = f"--quiet --constraint={ROOT / 'constraints.txt'}"
    assert first.source == links.first_cell(HOUSE, path.stem)
    first.source = links.first_cell(HOUSE, path.stem, wheel.as_uri()).replace("--quiet", pinned)
    nbformat.write(notebook, tmp_path / path.name)
    environment = {"PATH": f"{elsewhere.parent}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"),
                   "OMP_NUM_THREADS": "1"}
    nbconvert = elsewhere, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"
    run(*nbconvert, path.name, cwd=tmp_path, **environment)
    assert (tmp_path / "dataset").is_dir() and not (tmp_path / "nbs").exists()
    run(elsewhere, "-m", "pip", "uninstall", "--quiet", "--yes", "dlops_mnist", cwd=tmp_path)
