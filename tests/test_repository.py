"""The repository itself: one version everywhere, no machine's paths, and a `make test` that sees what is broken."""

import ast
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions
from pathlib import Path

import nbformat
import pytest

import dlops_mnist

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import notebooks  # noqa: E402
import readme  # noqa: E402

SETTINGS = notebooks.settings(ROOT)


def committed() -> list[Path]:
    "The files that git has or would have; without git, all but the hidden and the generated ones."
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0: paths = map(ROOT.joinpath, filter(None, listing.stdout.split("\0")))
    else: paths = (p for p in ROOT.rglob("*") if not {".venv", "runs", "build"} & set(p.relative_to(ROOT).parts))
    return [path for path in paths if path.is_file()]


def test_one_version():
    assert SETTINGS["version"] == dlops_mnist.__version__


def test_compromised_lightning_is_excluded():
    from packaging.requirements import Requirement

    lightning = next(r for r in map(Requirement, SETTINGS["requirements"].split()) if r.name == "pytorch-lightning")
    versions = ["2.6.1", "2.6.2", "2.6.3", "2.6.6", "3.0"]
    assert [v for v in versions if lightning.specifier.contains(v)] == ["2.6.1", "2.6.6"]


def test_what_is_pinned_takes_the_oldest_python():
    # not only the one that runs this: Debian's 3.11 is 3.11.2
    from packaging.specifiers import SpecifierSet

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    wanted = {}
    for name, version in pins.items():
        try: found = metadata(name)
        except PackageNotFoundError: continue  # an extra that is not here
        if found["Version"].partition("+")[0] == version.partition("+")[0]: wanted[name] = found.get("Requires-Python") or ""
    assert len(wanted) > 50
    assert not {name: r for name, r in wanted.items() if f"{SETTINGS['min_python']}.2" not in SpecifierSet(r)}


def test_constraints_satisfy_the_requirements():
    from packaging.requirements import Requirement

    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    versions = {pin.name.lower().replace("_", "-"): str(pin.specifier).removeprefix("==") for pin in pins}
    wanted = [r for key in SETTINGS if key.endswith("requirements") for r in map(Requirement, SETTINGS[key].split())]
    assert not [str(r) for r in wanted if not r.specifier.contains(versions[r.name.lower()], prereleases=True)]
    assert not [name for name, version in versions.items() if not version or "+" in version]


def test_requirements_take_what_colab_has():
    from packaging.requirements import Requirement

    colab = re.search(r"Colab's of \w+ \d+ \((.+?)\)", (ROOT / "README.md").read_text())[1]
    versions = dict(re.findall(r"(\w+) ([\d.]+)", colab.lower()))
    wanted = {r.name: r for r in map(Requirement, SETTINGS["requirements"].split())}
    assert len(versions) == 5
    assert not {name for name, version in versions.items() if name in wanted and not wanted[name].specifier.contains(version)}


def imports(path: Path, everywhere: bool) -> set[str]:
    "The packages that a module imports: all of them, or those without which it can't be imported."
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.walk(tree) if everywhere else tree.body)
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in names}


def test_what_the_package_imports_is_required():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name as canonical

    distributions = {name: set(map(canonical, names)) for name, names in packages_distributions().items()}
    extras = [key for key in SETTINGS if key.endswith("_requirements") and key != "dev_requirements"]
    for everywhere, keys in (False, ["requirements"]), (True, ["requirements", *extras]):
        required = {canonical(Requirement(text).name) for key in keys for text in SETTINGS[key].split()}
        # `serve` is a program of its own, which without its extra says so; parts/service is its machinery
        paths = [path for path in (ROOT / "dlops_mnist").rglob("*.py") if everywhere or path.name not in ("serve.py", "service.py")]
        used = set().union(*(imports(path, everywhere) for path in paths))
        used -= sys.stdlib_module_names | {"dlops_mnist"}
        assert not {name for name in used if not distributions.get(name, {name}) & required}


def test_nothing_of_a_machine_is_committed():
    # written in pieces, or this file would be found itself
    folders = [r"/ho" r"me/\w", r"/Us" r"ers/\w", r"/ro" r"ot/", r"/wo" r"rk/", r"/op" r"t/\w", r"/tm" r"p/\w",
               r"C:\\+Us" r"ers"]
    others = [r"site-pack" r"ages/", r"(index|find)-(url|links)\b", r"pypi\.\w", r"PIP_\w"]
    pattern = re.compile("|".join(f"(?<![\\w.]){place}" for place in folders + others))
    found = []
    for path in committed():
        try: text = path.read_text("utf-8")
        except UnicodeDecodeError: continue  # a picture
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found


def test_readme_is_in_step(tmp_path):
    readme.write_readme(ROOT, tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    here = {path.relative_to(ROOT) for path in ROOT.glob("README_files/*")} | {Path("README.md")}
    assert made == here
    _, different, unreadable = filecmp.cmpfiles(tmp_path, ROOT, made, shallow=False)
    assert not different + unreadable, "run `make readme`"


def test_every_command_that_is_named_is_one():
    texts = [path.read_text("utf-8") for path in (*notebooks.find_notebooks(ROOT), ROOT / "README.md")]
    named = {name for text in texts for name in re.findall(r"python -m dlops_mnist\.([a-z]+)", text)}
    from dlops_mnist.__main__ import PROGRAMS

    programs = {path.stem for path in (ROOT / "dlops_mnist").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert {"train", "evaluate"} <= named <= programs
    assert set(PROGRAMS) == programs - {"__main__"}


def test_wheel_and_sdist_hold_what_git_has(tmp_path):
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no clone that git knows")
    # a copy with the working tree's files, and with what runs, builds and people leave in it
    known = [path.relative_to(ROOT).as_posix() for path in committed() if not path.is_relative_to(ROOT / "tests/data")]
    for name in known:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("own.py", "images/README.md"):  # an owner's
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
        known.append(name)
    for command in (["init", "--quiet"], ["add", "--all"]): subprocess.run(["git", *command], cwd=tmp_path, check=True)
    stale = f"build/lib/{dlops_mnist.__name__}/shipped/experiments/old.yml"
    strange = (stale, "dataset/.cache/images.npy", "experiments/secret.yml", "dataset/train/3/scratch.png", "nbs/scratch.ipynb",
               *(f"{dlops_mnist.__name__}/{name}" for name in ("scratch.py", "web/scratch.html")))
    for name in strange:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "--outdir", "out"]
    built = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    assert "left out, as git doesn't have them" in built.stdout + built.stderr
    [wheel], [sources] = (tmp_path / "out").glob("*.whl"), (tmp_path / "out").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    library = dlops_mnist.__name__
    data = {name for name in known if name.startswith(("dataset/", "experiments/"))}
    assert len(data) > 300
    assert names == {name for name in known if name.startswith(f"{library}/")} | {f"{library}/shipped/{name}" for name in data}
    with tarfile.open(sources) as archive: packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name for name in packed if ".egg-info/" not in name} == {*known, "PKG-INFO", "setup.cfg"}
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: torch>=" in metadata
    extras = set(re.findall(r"Provides-Extra: (\w+)", metadata))
    assert extras == {key.removesuffix("_requirements") for key in SETTINGS if key.endswith("_requirements")} | {"all"}
    assert extras >= {"dev", "wandb", "mlflow", "tensorboard"}


def test_promises_name_tests_that_exist():
    lesson = nbformat.read(ROOT / "nbs/07_train.ipynb", as_version=4)
    [table] = [cell.source for cell in lesson.cells if "What is promised" in cell.source]
    named = set(re.findall(r"`(test_\w+)`", table))
    written = set(re.findall(r"^def (test_\w+)", "".join(p.read_text("utf-8") for p in (ROOT / "tests").glob("*.py")), re.M))
    assert len(named) > 15 and not named - written


def test_make_lists_every_target():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    listing = subprocess.run(["make"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert set(re.findall(r"\.PHONY: (\S+)", makefile)) == set(re.findall(r"^make (\S+)", listing, re.MULTILINE))


# What `make test` must see, shown on a small project of the same make: one notebook, one module, one test.


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "settings.ini", project)
    shutil.copytree(ROOT / "tools", project / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("nbs", "dlops_mnist", "tests"): (project / folder).mkdir()
    (project / "tests/test_one.py").write_text("def test_one(): assert True\n")
    (project / "dlops_mnist/__init__.py").write_text('"By hand."\n')
    double = "#| export\ndef double(x): return 2 * x"
    code = ["#| default_exp double", double, "y = double(4)", "assert y == 8\ny", "print(y)"]
    cells = [nbformat.v4.new_code_cell(source) for source in code]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project / "nbs/00_double.ipynb")
    make(project, "notebooks.py", "prepare", check=True)
    return project


@pytest.fixture
def project(prepared, tmp_path) -> Path:
    return shutil.copytree(prepared, tmp_path / "project")


def make(project: Path, tool: str, *args: str, check: bool = False) -> subprocess.CompletedProcess:
    command = [sys.executable, f"tools/{tool}", *args]
    env = notebooks.environment()
    return subprocess.run(command, cwd=project, check=check, text=True, capture_output=True, env=env)


def edit(project: Path, change) -> None:
    path = project / "nbs/00_double.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def problems(project: Path) -> str:
    return "\n".join(problem for check in notebooks.CHECKS.values() for problem in check(project))


def test_what_is_whole_passes(project):
    result = make(project, "run_tests.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("\n6 passed, 0 failed\n")  # four checks, a notebook and a test
    assert "By hand" in (project / "dlops_mnist/__init__.py").read_text()
    assert f'__version__ = "{SETTINGS["version"]}"' in (project / "dlops_mnist/__init__.py").read_text()


def test_a_broken_cell_and_a_failing_test_fail(project):
    edit(project, lambda notebook: notebook.cells[3].update(source="assert y == 9\ny"))
    (project / "tests/test_two.py").write_text("def test_two(): assert False\n")
    result = make(project, "run_tests.py")
    assert result.returncode == 1
    assert result.stdout.endswith("\n4 passed, 3 failed\n")  # the cell has changed, so its output is stale as well
    assert "AssertionError in" in result.stdout


def test_a_stage_that_runs_nothing_fails(project):
    for path in ("nbs/00_double.ipynb", "dlops_mnist/double.py", "tests/test_one.py"): (project / path).unlink()
    result = make(project, "run_tests.py")
    assert result.returncode == 1
    assert "Notebooks: 0 passed, 1 failed" in result.stdout
    assert "Tests: 0 passed, 1 failed" in result.stdout


def test_mutants_that_nothing_notices_are_named(project):
    def look(in_test: int, in_notebook: int) -> tuple[int, str]:
        text = f"from dlops_mnist.double import double\ndef test_one(): assert double({in_test}) == {2 * in_test}\n"
        (project / "tests/test_one.py").write_text(text)
        edit(project, lambda notebook: notebook.cells[2].update(source=f"y = double({in_notebook})"))
        edit(project, lambda notebook: notebook.cells[3].update(source=f"assert y == {2 * in_notebook}"))
        files = (project / "dlops_mnist/double.py", project / "nbs/00_double.ipynb")
        before = [file.read_bytes() for file in files]
        result = make(project, "mutants.py", "9")
        assert [file.read_bytes() for file in files] == before
        return result.returncode, result.stdout

    for in_test, in_notebook in ((4, 0), (0, 4)):
        status, told = look(in_test, in_notebook)
        assert status == 0 and told.rstrip().endswith("3 of 3 mutants caught, 100% (44% to 100%)"), told
    status, told = look(0, 0)  # nothing times any number is nothing
    assert status == 1 and told.rstrip().endswith("2 of 3 mutants caught, 67% (21% to 94%)\ndouble.py:7: `2` -> `3`"), told
    again = make(project, "mutants.py", "9").stdout  # what was tried is known
    assert again.startswith("3 of these were tried before") and again.endswith(told[told.index("\n2 of 3"):]), again


@pytest.mark.parametrize("change, problem", [
    (lambda library: (library / "double.py").write_text("def double(x): return x + x\n"), "double.py is not what"),
    (lambda library: (library / "double.py").unlink(), "double.py is missing"),
    (lambda library: (library / "new.py").touch(), "new.py is exported by no notebook"),
    (lambda library: (library / "_modidx.py").write_text("d = {}\n"), "_modidx.py is not what"),
    (lambda library: (library / "__init__.py").write_text('__version__ = "0.0.0"\n'), "__init__.py is not what"),
])
def test_a_hand_edited_module_is_seen(project, change, problem):
    change(project / "dlops_mnist")
    before = sorted(path.read_bytes() for path in project.rglob("*.py"))
    assert problem in problems(project)
    assert before == sorted(path.read_bytes() for path in project.rglob("*.py"))  # looking changes nothing


def test_drift_is_seen_where_nbdev_exports_nothing(project, monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")  # as in a notebook under nbdev_test
    (project / "dlops_mnist/double.py").write_text("")
    assert "double.py is not what" in problems(project)


def count(notebook):
    for i, cell in enumerate(notebook.cells): cell.execution_count = 9 - i


def fail(notebook):
    notebook.cells[3].outputs = [nbformat.v4.new_output("error", ename="NameError", evalue="y", traceback=[])]


@pytest.mark.parametrize("change, problem", [
    (lambda notebook: notebook.metadata.update(author="me"), "is not clean"),
    (count, "was executed out of order: [9, 8, 7, 6, 5]"),
    (fail, "holds an error output (cell 4: y)"),
    (lambda notebook: notebook.cells[3].update(outputs=[]), "lacks an output (cell 4: y)"),
    (lambda notebook: notebook.cells[4].update(outputs=[]), "lacks an output (cell 5: print(y))"),
    (lambda notebook: notebook.cells[2].update(source="y = double(5)"), "has changed since"),
    (lambda notebook: notebook.cells[3].outputs[0].data.update({"text/plain": "9"}), "has changed since"),
    (lambda notebook: notebook.cells.insert(1, notebook.cells.pop(3)), "has changed since"),
    (lambda notebook: notebook.metadata.pop(notebooks.SEAL), "has changed since"),
])
def test_a_notebook_out_of_order_is_seen(project, change, problem):
    edit(project, change)
    assert problem in problems(project)


def test_what_nbdevs_merge_leaves_is_seen(project):
    def merged(notebook):
        marks = [nbformat.v4.new_markdown_cell(f"`{mark}`") for mark in ("<<<<<<< HEAD", "=======", ">>>>>>> other")]
        notebook.cells[3:4] = [marks[0], notebook.cells[3], marks[1], nbformat.v4.new_code_cell("y + 1"), marks[2]]

    edit(project, merged)
    refused = make(project, "notebooks.py", "prepare")
    assert refused.returncode == 2 and "nbs/00_double.ipynb, cell 4, holds a conflict marker of a merge" in refused.stderr


MERGED = "<<<<<<< HEAD\n#| export\ndef double(x): return 2 * x\n=======\n#| export\ndef double(x): return x + x\n>>>>>>> other"


@pytest.mark.parametrize("source, sentence", [
    (MERGED, "nbs/00_double.ipynb, cell 2, holds a conflict marker of a merge: choose one of the two versions"),
    ("#| export\ndef double(x) return 2 * x", "nbs/00_double.ipynb, cell 2, line 2: expected ':': def double(x) return 2 * x"),
])
@pytest.mark.parametrize("what", ["export", "prepare"])
def test_a_cell_that_would_break_the_module_is_refused(project, source, sentence, what):
    edit(project, lambda notebook: notebook.cells[1].update(source=source))
    before = {path: path.read_bytes() for folder in ("nbs", "dlops_mnist") for path in (project / folder).rglob("*.*")}
    refused = make(project, "notebooks.py", what)
    assert refused.returncode == 2 and refused.stderr == f"error: {sentence}\n"
    assert before == {path: path.read_bytes() for folder in ("nbs", "dlops_mnist") for path in (project / folder).rglob("*.*")}
    assert sentence in make(project, "notebooks.py", "check").stdout


def test_a_module_has_one_source(project):
    again, module = project / "nbs/01_again.ipynb", "dlops_mnist/double.py"
    shutil.copy(project / "nbs/00_double.ipynb", again)
    refused = make(project, "notebooks.py", "export")
    assert refused.returncode == 2 and refused.stderr.startswith(
        f"error: nbs/01_again.ipynb would write over `{module}`, which nbs/00_double.ipynb exports: another name")
    again.unlink()
    with (project / "settings.ini").open("a") as file: file.write("\nby_hand = True\n")
    assert not problems(project)
    (project / module).write_text("def double(x): return x + x\n")
    assert f"nbs/00_double.ipynb would write over `{module}`, which is written by hand" in problems(project)


def test_a_quick_check_says_what_a_merge_has_left(project):
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    (project / "dlops_mnist/double.py").write_text(MERGED)
    told = make(project, "check.py")
    assert told.returncode == 2 and "error: dlops_mnist/double.py, line 1: invalid syntax. Where a notebook" in told.stderr
    edit(project, lambda notebook: notebook.cells[1].update(source=MERGED))
    told = make(project, "check.py")
    assert told.returncode == 2 and told.stderr.startswith("error: nbs/00_double.ipynb, cell 2, holds a conflict marker")
    assert not told.stdout


def test_what_prepare_cannot_do_is_one_sentence(project):
    edit(project, lambda notebook: notebook.cells[3].update(source="y + z"))
    failed = make(project, "notebooks.py", "prepare")
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert "nbs/00_double.ipynb, cell 4: NameError: name 'z' is not defined" in failed.stderr
    unknown = make(project, "notebooks.py", "prepare", "00_duoble")
    assert unknown.returncode == 2 and unknown.stderr == "error: there is no notebook `00_duoble`. Did you mean `00_double`?\n"


def test_what_is_no_notebook_is_seen(project):
    (project / "nbs/01_cut.ipynb").write_text('{"cells": [')
    assert "01_cut.ipynb is not a notebook" in "\n".join(notebooks.check_outputs(project))


def test_prepare_mends_what_is_out_of_step(project):
    edit(project, lambda notebook: notebook.cells[3].update(source="y + 1"))
    make(project, "notebooks.py", "prepare", check=True)
    assert not problems(project)
    assert nbformat.read(project / "nbs/00_double.ipynb", as_version=4).cells[3].outputs[0].data["text/plain"] == "9"


def test_how_a_lesson_is_cut_is_counted(project):
    edit(project, lambda notebook: notebook.cells.insert(0, nbformat.v4.new_markdown_cell("Twice as much")))
    row = notebooks.pace(project / "nbs/00_double.ipynb")
    assert row == {"lesson": "00_double", "code": 4, "lines": "1", "export": 1, "longest": 1, "prose": "25%",
                   "outputs": "67%", "asserts": "33%", "pictures": 0, "words": 3}


@pytest.mark.parametrize("source, shows", [
    ("x", True), ("x + 1", True), ("print(x)", True), ("f'{x}'", True), ("x = 1\nx.shape", True),
    ("x = 1", False), ("fit(x)", False), ("x;", False), ("'''a text'''", False), ("%time x", False), ("!ls", False),
    ("await x", False), ("import os", False), ("#| eval: false\nx", False),
])
def test_what_surely_shows_something(source, shows):
    assert notebooks.shows_something(source) is shows


def test_continuous_integration_runs_the_documented_command(tmp_path):
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "\nmake test" in (ROOT / "README.md").read_text("utf-8")
    assert "\nmake test" in (ROOT / ".ci/run").read_text("utf-8")
