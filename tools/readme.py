"""Make README.md from nbs/index.ipynb, with the pictures that it shows in README_files/.

python tools/readme.py [FOLDER]        FOLDER: where to write; the repository's root unless given
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

NOTEBOOKS = "nbs"
# the first cell is for those who run this page, not for those who read it
HIDDEN = re.compile(r"^#\|\s*hide\b|^from importlib.util import find_spec; ", re.MULTILINE)
ALT = re.compile(r"^#\|\s*fig-alt:\s*(.+)", re.MULTILINE)
SILENT = re.compile(r"^#\|\s*echo:\s*false\b", re.MULTILINE)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)
LINK = re.compile(r"(\]\(|src=\")(?!https?:|#|mailto:)([^)\"]+)")


def write_readme(root: Path, folder: Path) -> None:
    "Write README.md and its pictures into `folder`; pictures of an earlier README are removed."
    notebook = nbformat.read(root / NOTEBOOKS / "index.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not HIDDEN.search(cell.source)]
    alts = iter([match[1] for cell in notebook.cells if (match := ALT.search(cell.source))])
    for cell in notebook.cells:
        if cell.cell_type == "markdown": cell.source = LINK.sub(_from_root, cell.source)
        elif SILENT.search(cell.source): cell.metadata["transient"] = {"remove_source": True}
        else: cell.source = DIRECTIVE.sub("", cell.source)
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": "README_files"})
    text = re.sub(r"!\[(?:png|svg)\]", lambda _: f"![{next(alts, 'picture')}]", text)
    # what nbconvert leaves around cells
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE))
    note = f"<!-- Made from {NOTEBOOKS}/index.ipynb by `make readme`: change that notebook. -->\n\n"
    folder.joinpath("README.md").write_text(note + text.strip() + "\n", encoding="utf-8")
    for old in folder.glob("README_files/*"): old.unlink()
    for name, content in resources["outputs"].items():
        folder.joinpath(name).parent.mkdir(exist_ok=True)
        folder.joinpath(name).write_bytes(content)


def _from_root(match: re.Match) -> str:
    # a link in the notebook starts from the notebook's own folder
    start, path = match.groups()
    return start + (path.removeprefix("../") if path.startswith("../") else f"{NOTEBOOKS}/{path}")


if __name__ == "__main__":
    root = Path.cwd()
    if (root / NOTEBOOKS / "index.ipynb").is_file(): write_readme(root, Path(sys.argv[1]) if sys.argv[1:] else root)
    # without a front page, README.md is written by hand
