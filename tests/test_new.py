"""`make new`: the repository under another name, whole and tested."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import new as tool  # noqa: E402
import notebooks  # noqa: E402
from links import check_links  # noqa: E402

LIBRARY = notebooks.settings(ROOT)["lib_name"]
# another one in a copy that has this name, where these tests run as well; in two pieces, so that no copy renames it
NAME = "other_letters" if LIBRARY == "quill" "_letters" else "quill" "_letters"
ENVIRONMENT = notebooks.environment() | {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER")
                                         for what in ("NAME", "EMAIL")}


def new(*args: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "tools/new.py", *map(str, args)], cwd=ROOT, env=ENVIRONMENT | environment,
                          text=True, capture_output=True, stdin=subprocess.DEVNULL)


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, text=True, capture_output=True).stdout


@pytest.fixture(scope="session")
def copied(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "my project"  # a blank in the path must not matter
    made = new(NAME, folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_nothing_keeps_the_old_name(copied):
    assert git(copied, "grep", "-il", LIBRARY.replace("_", ".")).split() == ["CHANGELOG.md"]  # says where it came from
    assert not git(copied, "ls-files", f"*{LIBRARY}*")
    assert (copied / NAME / "train.py").is_file()
    assert (copied / ".ci/run").stat().st_mode == (ROOT / ".ci/run").stat().st_mode


def test_a_name_without_an_underscore_can_be_replaced_too():
    assert tool.rename("letters, LETTERS", tool.renaming("letters", "own_pages")) == "own_pages, OWN_PAGES"
    assert tool.rename("a_b, a-b, A_B_RUN", tool.renaming("a_b", "c_d")) == "c_d, c-d, C_D_RUN"


def test_it_is_committed_and_clean(copied):
    assert len(git(copied, "log", "--oneline").splitlines()) == 1
    assert git(copied, "status", "--porcelain") == ""
    assert git(copied, "branch", "--show-current").strip() == "main"


def test_modules_outputs_and_links_are_in_step(copied):
    assert not notebooks.check_exports(copied) + notebooks.check_clean(copied) + notebooks.check_outputs(copied)
    assert not check_links(copied)
    assert notebooks.settings(copied)["git_url"].endswith(f"/{NAME}")


@pytest.mark.slow
def test_its_own_tests_pass(copied, tmp_path):
    environment = ENVIRONMENT | {"PYTHONPATH": str(copied)}  # a person would install it, which takes minutes
    tested = subprocess.run([sys.executable, "tools/run_tests.py"], cwd=copied, env=environment, text=True,
                            capture_output=True, stdin=subprocess.DEVNULL)
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr[-3000:]
    assert tested.stdout.rstrip().endswith(", 0 failed")


@pytest.mark.parametrize("name", ["", "Pages", "my-pages", "2pages", "a b", "class", "json", "numpy", "tests",
                                  LIBRARY, "../pages", "_pages", "pages_", "br\u00fccke"])
def test_a_bad_name_is_refused(name, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"): tool.main(ROOT, name, str(tmp_path / "project"))
    assert capsys.readouterr().err.startswith("error: ") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, nearest", [("my-pages", "my_pages"), ("My Pages", "my_pages"), ("2pages", "pages"),
                                           ("../pages", "pages"), ("class", "my_letters"), ("7", "my_letters")])
def test_the_nearest_good_name_is_offered(name, nearest, capsys):
    with pytest.raises(SystemExit, match="2"): tool.check_name(ROOT, name)
    assert capsys.readouterr().err.endswith(f"as in NAME={nearest}.\n")


def test_a_folder_that_exists_lies_inside_or_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for folder in (tmp_path, ROOT / "runs/inside", tmp_path / "mine.txt/inside"):
        refused = new(NAME, folder)
        assert refused.returncode == 2 and str(folder) in refused.stderr and "Traceback" not in refused.stderr
    assert os.listdir(tmp_path) == ["mine.txt"] and not (ROOT / "runs/inside").exists()


def test_without_an_author_git_commits_nothing_and_that_is_said(tmp_path):
    nobody = {name: "" for name in ENVIRONMENT if name.startswith("GIT_")} | {
        "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        "EMAIL": "", "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.useConfigOnly", "GIT_CONFIG_VALUE_0": "true"}
    made = new(NAME, tmp_path / "project", **nobody)
    assert made.returncode == 0 and "Nothing is committed yet" in made.stdout
    assert f"A  {NAME}/train.py" in git(tmp_path / "project", "status", "--porcelain")
