"""GitHub's workflows: they parse, and run what is run here."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import notebooks  # noqa: E402

# YAML 1.1 reads the key `on` as true
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github/workflows").glob("*.yml")}
STEPS = [(name, step) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"].values()
         for step in job["steps"]]


def commands(name: str) -> list[str]:
    return [step["run"] for workflow, step in STEPS if workflow == name and "run" in step]


def test_there_are_four():
    assert set(WORKFLOWS) == {"tests", "slow", "docs", "release"}
    assert all(workflow["name"] == name and workflow[True] for name, workflow in WORKFLOWS.items())


@pytest.mark.parametrize("workflow, step", [(name, step) for name, step in STEPS if "uses" in step],
                         ids=lambda x: x if isinstance(x, str) else x["uses"])
def test_actions_are_pinned_by_major_version(workflow, step):
    assert re.fullmatch(r"(actions|pypa)/[\w-]+@(v\d+|release/v1)", step["uses"])


def test_they_may_read_and_nothing_else_unless_they_say_so():
    assert all(workflow["permissions"] == {"contents": "read"} for workflow in WORKFLOWS.values())
    writing = {(name, job) for name, workflow in WORKFLOWS.items() for job, body in workflow["jobs"].items()
               if "write" in str(body.get("permissions"))}
    assert writing == {("docs", "publish"), ("release", "publish")}


def test_nothing_of_the_token_stays_behind_and_a_release_takes_nothing_from_a_cache():
    for workflow, step in STEPS:
        if "checkout" in step.get("uses", ""): assert step["with"]["persist-credentials"] is False
        if workflow == "release": assert "cache" not in step.get("with", {})


def test_tests_run_what_ci_runs_on_each_python():
    assert commands("tests")[0] == ".ci/run" and (ROOT / ".ci/run").is_file()
    pythons = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13"] and pythons[0] == notebooks.settings(ROOT)["min_python"]


def test_every_target_of_make_exists():
    targets = set(re.findall(r"\.PHONY: (\S+)", (ROOT / "Makefile").read_text("utf-8")))
    used = {target for name in WORKFLOWS for run in commands(name) for target in re.findall(r"make ([\w-]+)", run)}
    assert used == {"docs", "test-slow"} and used <= targets


def test_the_site_that_is_published_is_the_one_that_make_docs_builds():
    [upload] = [step for _, step in STEPS if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "_docs/site" and "_docs/site" in (ROOT / "Makefile").read_text("utf-8")


def test_a_release_is_tested_and_its_tag_is_the_version():
    # the line that the step greps for is the one that settings.ini has
    version = notebooks.settings(ROOT)["version"]
    assert f"\nversion = {version}\n" in (ROOT / "settings.ini").read_text("utf-8")
    assert [run.split()[0] for run in commands("release")] == ["grep", ".ci/run", ".venv/bin/python"]
    assert WORKFLOWS["release"]["jobs"]["publish"]["needs"] == "build"
