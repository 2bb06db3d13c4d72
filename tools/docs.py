"""Build the documentation site: lessons, command line and modules, all read from what is in the repository.

python tools/docs.py [FOLDER]        FOLDER: where to; `_docs` unless given. The site is in FOLDER/site.

Nothing here is written twice: a lesson is its notebook, a command's page is what its --help prints, and a module's
page is the head of each definition with its comments, as it stands in the source.
"""

import ast
import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from textwrap import dedent

import nbformat
import yaml
from links import FIRST_CELL, House
from notebooks import environment, settings
from readme import write_readme

LEFT_OUT = re.compile(rf"^#\|\s*(hide|default_exp)\b|^{FIRST_CELL}", re.MULTILINE)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)
SILENT = re.compile(r"^#\|\s*echo:\s*false\b", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)")
ANSI = re.compile(r"\x1b\[[0-9;]*[a-zA-Z]")

# lines of code have up to 132 characters and need the room; what a cell has shown looks unlike a cell, and nobody copies
# it; tables are tight, numbers in them end below one another, and a command breaks between its words only; pictures keep
# their white ground where the page is dark; on a phone the table of lessons does without its badges
STYLE = """.md-grid { max-width: 86rem; }
@media screen and (min-width: 76.25em) { .md-sidebar { width: 10.5rem; } }
.md-typeset pre > code { font-size: .66rem; }
.md-typeset .language-text { border-left: .15rem solid var(--md-default-fg-color--lightest); }
.md-typeset .highlight + .language-text { margin-top: -.7em; }
.md-typeset .language-text pre > code { background: none; }
.md-typeset .language-text .md-code__nav { display: none; }
.md-typeset table:not([class]) :is(th, td) { padding: .4em .9em; min-width: 0; }
.md-typeset table:not([class]) code { word-break: normal; overflow-wrap: normal; }
.md-typeset .frame :is(td, th) { text-align: right !important; }
.md-typeset img[src$=".png"] { background: white; border-radius: .2rem; }
@media screen and (max-width: 44.98em) { .md-typeset td:has(> a > img[alt="Open in Colab"]) { display: none; } }
"""


def write_pages(root: Path, pages: Path) -> list:
    "Write all pages as Markdown; returns the table of contents."
    house = House(root)
    for name in house.lessons: write_page(pages / f"lessons/{name}.md", lesson_page(house, name, pages))
    modules = modules_of(house)
    for name, lesson in modules.items():
        source = (root / house.settings["lib_path"] / name).with_suffix(".py").read_text("utf-8")
        write_page(pages / f"modules/{name}.md", module_page(name, source, lesson))
    write_page(pages / "commands.md", commands_page(root))
    write_home(root, pages)

    drawing = [{"Draw a digit": "draw/index.html"}] if write_drawing(root, pages) else []

    def contents(folder: str, names: Iterable[str]) -> list:
        whole, parts = ([f"{folder}/{name}.md" for name in names if name.startswith("parts/") == part] for part in (False, True))
        return [*whole, {"Parts": parts}]

    return [{"Home": "index.md"}, *drawing, {"Lessons": contents("lessons", house.lessons)}, {"Command line": "commands.md"},
            {"Modules": contents("modules", modules)}, {"Changes": "CHANGELOG.md"}, {"Contribute": "CONTRIBUTING.md"}]


def write_page(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def write_home(root: Path, pages: Path) -> None:
    "README, changelog and the page for contributors; what they link to is a page here, or a file of the repository."
    write_readme(root, pages)
    (pages / "README.md").rename(pages / "index.md")
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"): shutil.copy(root / name, pages)
    for name in ("index.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        page = pages / name
        page.write_text(on_the_site(page.read_text("utf-8"), "", settings(root)), "utf-8")


def write_drawing(root: Path, pages: Path) -> bool:
    "Train a network on the digits of scikit-learn, and write the page on which a visitor draws for it; whether it was written."
    if not (root / "experiments/010_cnn.yml").is_file(): return False
    if not shutil.which("npm"):
        print("Without npm the site gets no page to draw on.", file=sys.stderr)
        return False

    def program(*words: str) -> None:
        command = [sys.executable, "-m", f"{settings(root)['lib_name']}.{words[0]}", *words[1:]]
        subprocess.run(command, cwd=pages.parent, env=environment() | {"PYTHONPATH": str(root)}, check=True)

    # paths stand in the page: those of a fresh clone
    program("train", str(root / "experiments/010_cnn.yml"), "trainer.enable_progress_bar=false")
    [run] = pages.parent.glob("runs/010_cnn/*/")
    program("export", str(run.relative_to(pages.parent)), "format=page", "to=pages/draw")
    return True


def on_the_site(text: str, folder: str, found: dict[str, str]) -> str:
    "Prose of a file in `folder` of the repository, with links to pages of the site, or to files in the repository."
    notebooks, page = found["nbs_path"], re.sub(rf"^{found['nbs_path']}", "lessons", folder)
    pages = {f"{notebooks}/index.ipynb": "index.md", f"{notebooks}/README.md": "index.md", "README.md": "index.md"}

    def target(match: re.Match) -> str:
        path, _, anchor = match[1].partition("#")
        path = os.path.normpath(os.path.join(folder, path)).replace("\\", "/")
        lesson = re.sub(rf"^{notebooks}/(.+)\.ipynb$", r"lessons/\1.md", path)
        place = pages.get(path) or (path if path.startswith(("CHANGELOG", "CONTRIBUTING", "README_files/")) else lesson)
        if place == path and not path.startswith(("CHANGELOG", "CONTRIBUTING", "README_files/")):
            return f"]({found['git_url']}/blob/{found['branch']}/{path})"
        return f"]({os.path.relpath(place, page or '.')}{'#' * bool(anchor)}{anchor})".replace("\\", "/")

    return LINK.sub(target, text)


def lesson_page(house: House, name: str, pages: Path) -> str:
    "A notebook as Markdown, with its pictures in files beside it."
    path, parts = house.folder / f"{name}.ipynb", []
    cells = nbformat.read(path, as_version=4).cells
    module = next((line.split()[-1] for cell in cells for line in cell.source.splitlines()
                   if line.startswith("#| default_exp")), "").replace(".", "/")
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            parts.append(on_the_site(cell.source, path.parent.relative_to(house.root).as_posix(), house.settings))
        elif cell.cell_type == "code" and not LEFT_OUT.search(cell.source):
            title = f' title="{module}.py"' if re.match(r"#\|\s*exporti?\b", cell.source) else ""
            if not SILENT.search(cell.source): parts.append(f"```python{title}\n{DIRECTIVE.sub('', cell.source).strip()}\n```")
            for i, output in enumerate(merged(cell.outputs)):
                parts.append(shown(output, pages / f"lessons/{name}-{number}-{i}.png"))
    return "\n\n".join(parts) + "\n"


def merged(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    "The outputs of a cell; what it has printed is one of them, even where it came in several parts."
    found = []
    for output in outputs:
        if found and {output.output_type, found[-1].output_type} == {"stream"}:
            found[-1] = nbformat.v4.new_output("stream", text=found[-1].text + output.text)
        else: found.append(output)
    return found


def shown(output: nbformat.NotebookNode, picture: Path) -> str:
    "What a cell has shown, as Markdown; a picture goes into a file."
    data = output.get("data", {})
    if "image/png" in data:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(base64.b64decode(data["image/png"]))
        width = output.get("metadata", {}).get("image/png", {}).get("width")  # of a picture for screens with finer dots
        return f"![{data.get('text/plain', 'picture').strip('<>')}]({picture.name})" + (f"{{width={width}}}" if width else "")
    if "text/html" in data and "<pre" not in data["text/html"][:40]:  # rich's own is the plain text, with colours
        html = re.sub(r"<style.*?</style>\s*", "", data["text/html"], flags=re.DOTALL)
        html = re.sub(r"\n\s*\n", "\n", re.sub(r"<table[^>]*>", "<table>", html)).strip()
        return f'<div class="frame">{html}</div>'
    text = ANSI.sub("", output.get("text") or data.get("text/plain", "")).rstrip()
    return f"```text\n{text}\n```" if text else ""


def modules_of(house: House) -> dict[str, str]:
    "The exported modules, such as `parts/core`, each with the lesson that exports it."
    library = house.root / house.settings["lib_path"]
    found = {("parts/" if lesson.is_part else "") + lesson.module: name for name, lesson in house.lessons.items()}
    return {module: name for module, name in found.items() if (library / f"{module}.py").is_file()}


def commands_page(root: Path) -> str:
    "What each program of the package prints for --help."
    library = settings(root)["lib_name"]
    # as wide as what the programs print: the list of pages beside it would be empty
    parts = ["---\nhide: [navigation]\n---\n\n# Command line\n\nWhat each program prints for `--help`."]
    for path in sorted((root / settings(root)["lib_path"]).glob("[!_]*.py")):
        if '__name__ == "__main__"' not in path.read_text("utf-8"): continue
        command = [sys.executable, "-m", f"{library}.{path.stem}", "--help"]
        env = environment() | {"COLUMNS": "100"}
        text = subprocess.run(command, cwd=root, env=env, text=True, capture_output=True, check=True).stdout
        parts.append(f"## {path.stem}\n\n```text\n{ANSI.sub('', text).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def module_page(name: str, source: str, lesson: str) -> str:
    "The public definitions of a module: the head of each, with the comments that explain its parameters."
    tree, up = ast.parse(source), "../" * (name.count("/") + 1)
    parts = [f"# {PurePosixPath(name).name}", ast.get_docstring(tree) or "", f"Explained in [{lesson}]({up}lessons/{lesson}.md)."]
    for node in tree.body:
        if getattr(node, "name", "_").startswith("_"): continue
        parts += definition(node, source, "##")
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
            for method in methods: parts += definition(method, source, "###", f"{node.name}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def definition(node: ast.AST, source: str, level: str, owner: str = "") -> Iterator[str]:
    "Heading, docstring and head of a class or function; of a class, with its fields and its `__init__`."
    yield f"{level} {owner}{node.name}"
    yield ast.get_docstring(node) or ""
    heads, lines = [head(node, source)], source.splitlines()
    if isinstance(node, ast.ClassDef):
        heads += [lines[n.lineno - 1] for n in node.body if isinstance(n, ast.AnnAssign)]
        heads += [head(n, source) for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    yield "```python\n" + dedent("\n".join(heads)) + "\n```"


def head(node: ast.AST, source: str) -> str:
    "The source of a definition up to where its body begins."
    lines = source.splitlines()[first_line(node) - 1 : first_line(node.body[0])]
    lines[-1] = lines[-1][: node.body[0].col_offset].rstrip()  # the body may begin in the line where the head ends
    while not lines[-1].strip() or lines[-1].lstrip().startswith("#"): lines.pop()  # a comment that opens the body
    return "\n".join(lines)


def first_line(node: ast.AST) -> int:
    "The line where a statement begins, with its decorators."
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def site_settings(root: Path, contents: list) -> dict:
    "The settings of the site's generator."
    found = settings(root)
    switch = [("light", "default", "dark", "lucide/sun"), ("dark", "slate", "light", "lucide/moon")]
    return {
        "site_name": found["title"], "site_description": found["description"], "copyright": found["copyright"],
        "site_url": found["doc_host"] + found["doc_baseurl"] + "/", "repo_url": found["git_url"],
        "docs_dir": "pages", "site_dir": "site", "nav": contents, "extra_css": ["wide.css"],
        "use_directory_urls": False,  # links work without a server, too
        "theme": {
            "name": "material", "font": False,  # no fonts are fetched from elsewhere
            "features": ["navigation.tabs", "navigation.footer", "navigation.top", "content.code.copy", "toc.follow"],
            "palette": [{"media": f"(prefers-color-scheme: {name})", "scheme": scheme,
                         "toggle": {"icon": icon, "name": f"Switch to {other}"}}
                        for name, scheme, other, icon in switch]},
        "markdown_extensions": ["tables", "md_in_html", "attr_list", {"toc": {"permalink": True, "toc_depth": 3}},
                                {"pymdownx.highlight": {"pygments_lang_class": True}}, "pymdownx.superfences"],
    }


def check_installed() -> None:
    "Exit with status 2 if the site's generator is missing."
    if find_spec("zensical") is None:
        print("error: the site is made by zensical, which isn't installed: pip install -e '.[docs]'", file=sys.stderr)
        sys.exit(2)


def main(root: Path, folder: Path) -> None:
    "Write the pages, and let Zensical make the site of them."
    check_installed()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pages").mkdir(parents=True)
    contents = write_pages(root, folder / "pages")
    (folder / "pages/wide.css").write_text(STYLE)
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(site_settings(root, contents), sort_keys=False), "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", "mkdocs.yml"]
    subprocess.run(command, cwd=folder, env=environment() | {"NO_COLOR": "1"}, check=True)
    site = os.path.relpath(folder / "site", root)
    print(f"The site is made: open {site}/index.html, or with its search: python -m http.server --directory {site}")


if __name__ == "__main__":
    main(Path.cwd(), Path(sys.argv[1] if sys.argv[1:] else "_docs").resolve())
