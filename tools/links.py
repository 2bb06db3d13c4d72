"""Write what leads from notebook to notebook: `make links`.

python tools/links.py

The table of lessons stands in nbs/index.ipynb, a sentence for each. From it, from the notebooks' titles and imports, and
from the address in settings.ini come: each notebook's first cell, its badge, the line that says where it stands ("Lesson
4 of 14 · before · next · stands on"), links wherever prose names a notebook, the rows of the table itself, and
nbs/README.md, which explains a listing of `nbs`. Seals of notebooks stay good: the cells do what they did.

Links are relative: they work on GitHub, in JupyterLab and on the documentation's site (tools/docs.py). Colab turns only
some of them into links that work, so the row of the badge carries absolute ones to the next lesson and to all of them.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from os.path import relpath
from pathlib import Path, PurePosixPath

import nbformat
from notebooks import SEAL, find_lessons, find_notebooks, seal, settings

PLACEHOLDER = "OWNER"  # stands for `user` in settings.ini until the project has a public home
EXTRAS = {  # notebooks that need more than the requirements
    "loggers": "mlflow,tensorboard,wandb", "08_tracking": "tensorboard",
    **dict.fromkeys(("12_tune", "study", "pruning", "findings"), "tune"),
    **dict.fromkeys(("13_predict", "14_export", "exported"), "export"),
    **dict.fromkeys(("15_serve", "16_versions", "17_registry", "service", "shelf"), "export,serve"),
}
COLAB = "https://colab.research.google.com"
MADE = re.compile(r"\[!\[Open in Colab\]|(Lesson \d+ of \d+|A part of the house) ·|> \*\*Not published yet")
TABLE = re.compile(r"^\| (lesson|part) \|.*\n\|[-| ]+\|\n(?:\|.*(?:\n|\Z))*", re.MULTILINE)
ROW = re.compile(r"^\| \[[^\]]+\]\(([\w/]+)\.ipynb\) \|[^|]*\| ([^|]*) \|", re.MULTILINE)
NAME = re.compile(r"\[?`(parts/\w+|\d\d_[a-z]\w*)`(?:\]\([\w/.]+\.ipynb\))?")
VERBATIM = re.compile(r"(^```.*?^```$|^    [^\n]*$)", re.MULTILINE | re.DOTALL)
FIRST_CELL = "from importlib.util import find_spec; "


@dataclass
class Lesson:
    "A notebook, as the others see it; `name` is its path below nbs without the ending."

    name: str
    title: str
    docstring: str
    imports: set[str] = field(default_factory=set)  # names of the parts

    @property
    def module(self) -> str: return re.sub(r"^\d\d_", "", PurePosixPath(self.name).name)

    @property
    def is_part(self) -> bool: return self.name.startswith("parts/")


@dataclass
class House:
    "All notebooks of a project and the table that names them."

    root: Path

    @cached_property
    def settings(self) -> dict[str, str]: return settings(self.root)

    @cached_property
    def published(self) -> bool: return self.settings["user"] != PLACEHOLDER

    @cached_property
    def folder(self) -> Path: return self.root / self.settings["nbs_path"]

    @cached_property
    def lessons(self) -> dict[str, Lesson]:
        "Road first, by number; then the parts, in the order of the table."
        found = {lesson.name: lesson for lesson in map(self.read, find_lessons(self.root))}
        order = [*self.table, *found]
        return dict(sorted(found.items(), key=lambda item: (item[1].is_part, item[1].is_part and order.index(item[0]))))

    @cached_property
    def road(self) -> list[str]: return [name for name, lesson in self.lessons.items() if not lesson.is_part]

    @cached_property
    def table(self) -> dict[str, str]:
        "What the table of the front page says about each notebook."
        cells = nbformat.read(self.folder / "index.ipynb", as_version=4).cells
        return {row[1]: row[2].strip() for cell in cells for block in TABLE.finditer(cell.source)
                for row in ROW.finditer(block[0])}

    def name(self, path: Path) -> str: return path.relative_to(self.folder).with_suffix("").as_posix()

    def read(self, path: Path) -> Lesson:
        "A lesson with the parts that the cells in sight import."
        cells = nbformat.read(path, as_version=4).cells
        text = next((cell.source for cell in cells if cell.source.startswith("# ")), "# " + path.stem)
        docstring = re.search(r"^> (.+)$", text, re.MULTILINE)
        pattern = rf"^\s*from {self.settings['lib_name']}\.parts(?:\.(\w+))? import (.+)$"
        code = [c.source for c in cells if c.cell_type == "code" and not re.match(rf"{FIRST_CELL}|#\| hide", c.source)]
        lines = [line for source in code for line in re.finditer(pattern, source, re.MULTILINE)]
        imports = {f"parts/{name}" for line in lines for name in ([line[1]] if line[1] else re.findall(r"\w+", line[2]))}
        name = self.name(path)
        return Lesson(name, text.splitlines()[0].removeprefix("# "), docstring[1] if docstring else "", imports - {name})

    def about(self, name: str) -> str: return self.table.get(name) or self.lessons[name].docstring

    def link(self, name: str, start: str, text: str = "") -> str:
        "A link to a notebook in one that lies in the folder `start`, such as `parts`."
        return f"[{text or f'`{PurePosixPath(name).name}`'}]({relpath(f'{name}.ipynb', start or '.')})".replace("\\", "/")

    def colab(self, name: str) -> str:
        found = self.settings
        return f"{COLAB}/github/{found['user']}/{found['repo']}/blob/{found['branch']}/{found['nbs_path']}/{name}.ipynb"

    def badge(self, name: str) -> str: return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({self.colab(name)})"

    def next(self, name: str) -> str | None:
        after = self.road[self.road.index(name) + 1 :] if name in self.road else []
        return after[0] if after else None


def first_cell(house: House, name: str, url: str = "") -> str:
    "The two lines that every notebook with code begins with: install where needed, then go where the data is."
    library = house.settings["lib_name"]
    sentence = f"{library} has no public address yet: open this in a clone"
    find = f'{FIRST_CELL}assert find_spec("{library}"), "{sentence}"'
    if house.published or url:  # otherwise there is nothing to install from: one sentence instead of an error of pip's
        url, extra = url or f"git+{house.settings['git_url']}", EXTRAS.get(PurePosixPath(name).name)
        what = f"{library}[{extra}]@{url}" if extra else url
        find = f'{FIRST_CELL}find_spec("{library}") or get_ipython().run_line_magic("pip", "install --quiet {what}")'
    return f"{find}\nfrom {library}.parts.core import go_to_root; go_to_root();"


def badge_row(house: House, name: str) -> str:
    "The badge that opens a notebook on Colab, and the ways on from there."
    after = house.next(name)
    ways = [f"[the next lesson]({house.colab(after)})"] * bool(after) + [f"[all lessons]({house.colab('index')})"]
    return house.badge(name) if name == "index" else f"{house.badge(name)} On Colab, too: {', '.join(ways)}."


def place(house: House, name: str) -> str:
    "The line that says where a notebook stands, with links to its neighbours."
    start = str(PurePosixPath(name).parent).strip(".")
    if name == "index":
        return "" if house.published else (
            "> **Not published yet.** `user` in [settings.ini](../settings.ini) is a placeholder. Until you set it and run "
            "`make links`, the badges lead nowhere, and nothing can be installed by its address. In a clone, everything works.")
    if house.lessons[name].is_part:
        users = [other for other, lesson in house.lessons.items() if name in lesson.imports]
        return (f"A part of the house · used by: {', '.join(house.link(other, start) for other in users) or 'the programs'}"
                f" · {house.link('index', start, 'all lessons')}")
    i = house.road.index(name)
    stands_on = [part for part in house.lessons if part in house.lessons[name].imports]
    return " · ".join(filter(None, [
        f"Lesson {i + 1} of {len(house.road)}", i > 0 and f"before: {house.link(house.road[i - 1], start)}",
        house.next(name) and f"next: {house.link(house.next(name), start)}",
        stands_on and f"stands on: {', '.join(house.link(part, start) for part in stands_on)}",
        house.link("index", start, "all lessons")]))


def rows(house: House, kind: str, badges: bool = False) -> str:
    "The table of the lessons, or of the parts, as it stands in a page of the folder nbs."
    names = [name for name, lesson in house.lessons.items() if lesson.is_part == (kind == "part")]
    lines = [f"| {kind} | title | what it is about |", "| --- | --- | --- |"]
    lines += [f"| {house.link(name, '')} | {house.lessons[name].title} | {house.about(name)} |" for name in names]
    ends = [" |", " --- |", *(f" {house.badge(name)} |" for name in names)]
    return "\n".join(line + end * badges for line, end in zip(lines, ends))


def with_links(house: House, text: str, start: str) -> str:
    "Prose in which each name of a notebook, such as `03_dataset` or `parts/batches`, is a link to it."
    def link(match: re.Match) -> str:
        return house.link(match[1], start, f"`{match[1]}`") if match[1] in house.lessons else f"`{match[1]}`"

    pieces = VERBATIM.split(text)
    return "".join(piece if i % 2 else NAME.sub(link, piece) for i, piece in enumerate(pieces))


def bare(notebook: nbformat.NotebookNode, first: str = FIRST_CELL) -> nbformat.NotebookNode:
    "A notebook without what this tool writes; a seal that was good is good afterwards."
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    sealed = notebook.metadata.get(SEAL) == seal(notebook)
    if code and not code[0].source.startswith(FIRST_CELL):
        code.insert(0, nbformat.v4.new_code_cell(id="first-cell"))
        notebook.cells.insert(1, code[0])
        sealed = False
    if code: code[0].source = first
    if sealed: notebook.metadata[SEAL] = seal(notebook)
    notebook.cells[0].source = "\n\n".join(p for p in notebook.cells[0].source.split("\n\n") if not MADE.match(p))
    for cell in notebook.cells:
        if cell.cell_type == "markdown": cell.source = NAME.sub(r"`\1`", cell.source)
    return notebook


def linked(house: House, path: Path) -> nbformat.NotebookNode:
    "A notebook with its first cell, badge, place and links."
    name = house.name(path)
    notebook = bare(nbformat.read(path, as_version=4), first_cell(house, name))
    start = str(PurePosixPath(name).parent).strip(".")
    for cell in notebook.cells:
        if cell.cell_type != "markdown": continue
        text = with_links(house, cell.source, start)
        if name == "index": text = TABLE.sub(lambda table: rows(house, table[1], badges=True) + "\n", text).rstrip("\n")
        cell.source = text
    title, *rest = notebook.cells[0].source.split("\n\n")
    at = bool(rest and rest[0].startswith(">"))  # the quotation that nbdev takes for the module's docstring
    written = [badge_row(house, name)] if any(cell.cell_type == "code" for cell in notebook.cells) else []
    made = filter(None, [*written, place(house, name)])
    notebook.cells[0].source = "\n\n".join([title, *rest[:at], *made, *rest[at:]])
    return notebook


def listing(house: House) -> str:
    "What a listing of `nbs` shows below the names of the files."
    folder = house.settings["nbs_path"]
    return (f"<!-- Made from {folder}/index.ipynb by `make links`: change that notebook. -->\n\n# The lessons\n\n"
            f"The numbered notebooks are the road: read them in this order, beginning with {house.link(house.road[0], '')}. "
            f"`make lab` opens {house.link('index', '', 'the front page')} in JupyterLab, and from it each of them.\n\n"
            f"{rows(house, 'lesson')}\n\n## What the road stands on\n\nThe notebooks in `parts` show how one thing works "
            f"inside. Open one when you want to know.\n\n{rows(house, 'part')}\n")


def write_links(root: Path) -> None:
    "Write what leads from notebook to notebook, in all of them, and the page for a listing."
    house = House(root)
    for path in find_notebooks(root):
        notebook = linked(house, path)
        if notebook != nbformat.read(path, as_version=4): nbformat.write(notebook, path)
    (house.folder / "README.md").write_text(listing(house), "utf-8")


def check_links(root: Path) -> list[str]:
    "Problems: notebooks, or the page for a listing, that don't lead where they should."
    house = House(root)
    wrong = [path for path in find_notebooks(root) if linked(house, path) != nbformat.read(path, as_version=4)]
    page = house.folder / "README.md"
    wrong += [page] * (not page.is_file() or page.read_text("utf-8") != listing(house))
    return [f"{path.relative_to(root).as_posix()} doesn't lead where it should; run `make links`" for path in wrong]


if __name__ == "__main__":
    house = Path.cwd()
    if (house / settings(house)["nbs_path"] / "index.ipynb").is_file(): write_links(house)  # else: a project without a front page
