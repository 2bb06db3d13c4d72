"""The house rules, from the sources alone: what may import what, how large a module and a cell may be, whose private names we use.

The top level is what one uses and learns (the road, in the order of its numbers), `parts` is how it works.
"""

import ast
import json
import re
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import imports  # noqa: E402
import links  # noqa: E402
import notebooks  # noqa: E402

SETTINGS = notebooks.settings(ROOT)
LESSONS = ROOT / SETTINGS["nbs_path"]
BY_HAND = {"__init__", "__main__", "_modidx", "parts.__init__"}
LESSON = re.compile(r"(\d\d)_(\w+)")


@cache
def sources() -> dict[str, ast.Module]:
    "The syntax tree of each module, by its name within the package."
    return imports.modules(ROOT)


@cache
def cells() -> dict[str, list[str]]:
    "The text of each notebook's cells, by the name of its module: `config` for 06_config, `parts.core`."
    return {_module(path): ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]
            for path in notebooks.find_lessons(ROOT)}


def _module(notebook: Path) -> str:
    *folders, stem = notebook.relative_to(LESSONS).with_suffix("").parts
    lesson = LESSON.fullmatch(stem)
    return ".".join([*folders, lesson[2] if lesson and not folders else stem])


@cache
def numbers() -> dict[str, int]:
    "The number of each lesson of the road, by its module's name."
    return {_module(path): int(path.name[:2]) for path in notebooks.find_lessons(ROOT) if path.parent == LESSONS}


@cache
def graph() -> dict[str, set[str]]:
    "What each module imports; those that are written by hand left out."
    return {name: others for name, others in imports.graph(ROOT).items() if name not in BY_HAND}


# --- rooms ---

def test_a_notebooks_path_is_its_modules_path():
    exported = {name: [text for text in texts if text.startswith("#| default_exp")] for name, texts in cells().items()}
    assert exported.keys() >= graph().keys(), "a module without a notebook"
    for name, lines in exported.items():
        assert [line.split()[2].replace("/", ".") for line in lines] == ([name] if name in graph() else []), name


def test_the_roads_numbers_are_unique():
    road = [path for path in notebooks.find_lessons(ROOT) if path.parent == LESSONS]
    assert road and all(LESSON.fullmatch(path.stem) for path in road)
    assert len({path.name[:2] for path in road}) == len(road)
    assert not [path for path in notebooks.find_lessons(ROOT) if path.parent != LESSONS and path.parent != LESSONS / "parts"]


def test_the_road_stands_on_smaller_numbers_and_parts():
    climbs = {(name, other) for name, others in graph().items() for other in others
              if name in numbers() and not other.startswith("parts.") and numbers().get(other, 99) >= numbers()[name]}
    assert not climbs


def test_a_part_never_imports_the_road():
    assert not {(name, other) for name, others in graph().items() for other in others
                if name.startswith("parts.") and not other.startswith("parts.")}


def test_no_circles():
    try: TopologicalSorter(graph()).prepare()
    except CycleError as error: pytest.fail(" -> ".join(error.args[1]))


def test_every_part_is_used():
    used = set().union(*graph().values(), *map(imports.graph(ROOT).get, ("__init__", "__main__")))
    # settings name classes as texts
    texts = {node.value for tree in sources().values() for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {name for name in graph() if any(text.startswith(f"{SETTINGS['lib_name']}.{name}.") for text in texts)}
    unused = {name for name in graph() if name.startswith("parts.")} - used - named
    assert not unused


# --- weight ---

def test_no_module_weighs_more_than_its_share():
    weights = notebooks.weights(ROOT)
    assert not {name: weight for name, weight in weights.items() if weight > notebooks.LARGEST}
    assert weights["train.py"] <= notebooks.SCRIPT


def test_the_whole_house_grows_no_heavier():
    assert sum(notebooks.weights(ROOT).values()) <= notebooks.CEILING, "something has to go, or to be shorter"


def exported() -> dict[str, list[tuple[int, str]]]:
    "For each notebook, the lines of its exported cells, with the beginning of their text; cells of imports alone left out."
    found = {}
    for name, sources in cells().items():
        found[name] = []
        for source in sources:
            if not re.match(r"#\|\s*exporti?\b", source): continue
            text = re.sub(r"^#\|.*\n?", "", source, flags=re.MULTILINE).strip()
            if all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(text).body): continue
            parameters = re.findall(r"^    (?:    )?\w+: .*,  # ", text, re.MULTILINE)  # documentation, as for the weight
            found[name].append((len(text.splitlines()) - len(parameters), text[:60]))
    return found


def test_a_lesson_exports_short_cells():
    road = {name: sorted(lines, reverse=True) for name, lines in exported().items() if name in numbers()}
    assert not {name: lines[0] for name, lines in road.items() if lines and lines[0][0] > 30}
    assert not {name: lines[:2] for name, lines in road.items() if len(lines) > 1 and lines[1][0] > 20}


def test_a_part_exports_cells_of_one_screen():
    assert not {name: max(lines) for name, lines in exported().items()
                if name.startswith("parts.") and lines and max(lines)[0] > 40}


# --- other people's private names ---

def private_names() -> dict[str, set[str]]:
    "Names with an underscore that we did not define, by module: attributes, imports, and texts such as getattr takes."
    trees = {name: tree for name, tree in sources().items() if name != "_modidx"}
    own, found = {"_exit", "_current_frames", "_replace", "_fields", "_asdict"}, {}  # Python's own, and no secrets
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef): own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): own.add(node.id)
            elif isinstance(node, ast.arg): own.add(node.arg)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
                own.add(node.attr)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=word) | ast.Constant(value=str(word)): words = [word]
                case ast.ImportFrom(module=str(module), level=0): words = [*module.split("."), *(a.name for a in node.names)]
                case _: continue
            for word in words:
                if not re.fullmatch(r"_[a-zA-Z]\w*(?<!_)", word) or word in own: continue
                found.setdefault(name, set()).add(ast.unparse(node))
    return found


def test_private_names_of_lightning_hydra_and_optuna_are_touched_in_one_file_each():
    found = private_names()
    optuna = {name for name, uses in found.items() if any(use.endswith("._trial_id") for use in uses)}
    hydra = {name for name, uses in found.items() if any("hydra" in use for use in uses)}
    others = {name for name, uses in found.items() if any("hydra" not in use and not use.endswith("._trial_id") for use in uses)}
    assert len(hydra) <= 1 and len(others) <= 1 and len(optuna) <= 1, found


# --- how a lesson speaks ---

def missing(name: str, house: links.House) -> list[str]:
    "What a lesson lacks, a sentence each."
    prose = [cell.source for cell in nbformat.read(ROOT / f"nbs/{name}.ipynb", as_version=4).cells if cell.cell_type == "markdown"]
    found, first = [], prose[0] if prose else ""
    if not house.lessons[name].docstring: found.append("its first cell has no line `> ...` that says what it is about")
    if not re.search(r"the end of (this|the) (notebook|lesson)|its end|the end of it", first, re.IGNORECASE):
        found.append("its first cell does not say what a reader can do at the end of this lesson")
    if re.search(r"^- .*:", first, re.MULTILINE): found.append("nbdev takes a point with a colon in its first cell for settings")
    _, _, closing = prose[-1].partition("## What we learnt") if prose else ("", "", "")
    leads = re.findall(r"^Next: .*$", closing, re.MULTILINE)
    # the road goes on along the road; what lies beside it leads to some other lesson
    named = set(re.findall(r"`(\d\d_\w+|parts/\w+)`", " ".join(leads))) & set(house.lessons) - {name}
    if not closing: found.append("its last cell has no section `## What we learnt`")
    elif len(leads) != 1: found.append(f"its last cell has {len(leads)} lines `Next: ...`, not one")
    elif house.next(name) not in named if house.next(name) else not named:
        found.append(f"its line `Next: ...` does not lead to {house.next(name) or 'another notebook'}")
    if not house.lessons[name].is_part:
        exercises = "\n\n".join(prose).partition("\n## Exercises")[2].partition("## What we learnt")[0]
        count = len(re.findall(r"<details>\s*<summary>Answer</summary>.+?</details>", exercises, re.DOTALL))
        if count < 3: found.append(f"its section `## Exercises` has {count} folded answers of three")
    return [f"nbs/{name}.ipynb: {sentence}" for sentence in found]


def test_a_lesson_says_what_it_is_for_has_exercises_and_leads_to_the_next():
    house = links.House(ROOT)
    found = [sentence for name in house.lessons for sentence in missing(name, house)]
    assert not found, "\n".join(found)
