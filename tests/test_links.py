"""What leads from notebook to notebook: no link is broken, no name is stale, and each lesson says where it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import links  # noqa: E402
import notebooks  # noqa: E402

HOUSE = links.House(ROOT)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
TEXTS = "nbs/README.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"
PAGES = [*notebooks.find_notebooks(ROOT), *map(ROOT.joinpath, TEXTS)]


def prose(path: Path) -> str:
    "What a page says, without what is verbatim in it."
    if path.suffix == ".md": text = path.read_text("utf-8")
    else:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return "".join(links.VERBATIM.split(text)[::2])


def anchors(path: Path) -> set[str]:
    "The headings of a page, as GitHub and JupyterLab name them: with dashes, the first of them also in small letters."
    heads = [re.sub(r"[`*]", "", head).strip() for head in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)]
    return {head.replace(" ", "-") for head in heads} | {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(path: Path) -> list[str]:
    "The links of a page that lead nowhere; an address in our own repository has to lead to a file that is there."
    found, wrong = HOUSE.settings, []
    homes = [f"{found['git_url']}/blob/{found['branch']}/",
             f"{links.COLAB}/github/{found['user']}/{found['repo']}/blob/{found['branch']}/"]
    for link in ("".join(match) for match in LINK.findall(prose(path))):
        target, _, anchor = unquote(link).partition("#")
        start = next((home for home in homes if target.startswith(home)), None)
        if not start and re.match(r"https?:|mailto:", link): continue
        place = ROOT / target.removeprefix(start) if start else path.parent / target if target else path
        page = place.suffix in (".ipynb", ".md")
        if not place.exists() or anchor and page and anchor not in anchors(place): wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_link_is_broken(path):
    assert not broken(path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_notebook_that_is_named_is_there(path):
    if path.name == "CHANGELOG.md": return  # names what once was
    named = set(re.findall(r"`(parts/[a-z]\w*|\d\d_[a-z]\w*)`", prose(path)))
    assert not named - set(HOUSE.lessons) - {name.removesuffix(".yml") for name in os.listdir(ROOT / "experiments")}


def test_links_are_as_the_tool_writes_them():
    assert not links.check_links(ROOT)


def test_a_lesson_says_where_it_stands():
    text = nbformat.read(ROOT / "nbs/03_dataset.ipynb", as_version=4).cells[0].source
    i = HOUSE.road.index("03_dataset")
    assert f"\n\nLesson {i + 1} of {len(HOUSE.road)} · before: [`02_inspection`](02_inspection.ipynb) · next: [`04_net" in text
    assert re.search(r"stands on: .*\[`batches`\]\(parts/batches\.ipynb\)", text)
    text = nbformat.read(ROOT / "nbs/parts/batches.ipynb", as_version=4).cells[0].source
    assert re.search(r"\n\nA part of the house · used by: \[`03_dataset`\]\(\.\./03_dataset\.ipynb\).* · \[all lessons\]", text)


def test_a_listing_tells_the_order():
    names = re.findall(r"^\| \[`(\w+)`\]\([\w/]+\.ipynb\)", (ROOT / "nbs/README.md").read_text("utf-8"), re.MULTILINE)
    assert names == [name.removeprefix("parts/") for name in HOUSE.lessons]
    assert HOUSE.road == sorted(path.stem for path in (ROOT / "nbs").glob("[0-9]*.ipynb"))


def test_the_first_cell_says_in_one_sentence_that_there_is_no_home_yet(tmp_path):
    code = links.first_cell(links.House(house(tmp_path)), "03_dataset").splitlines()[0].replace("dlops_mnist", "not_here")
    failed = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert failed.stderr.splitlines()[-1] == \
        "AssertionError: not_here has no public address yet: open this in a clone"


def house(folder: Path, user: str = links.PLACEHOLDER) -> Path:
    "A copy of what the tool reads, with another owner."
    shutil.copytree(ROOT / "nbs", folder / "nbs", dirs_exist_ok=True)
    text = (ROOT / "settings.ini").read_text("utf-8")
    (folder / "settings.ini").write_text(re.sub(r"^user = .*$", f"user = {user}", text, flags=re.MULTILINE), "utf-8")
    return folder


def test_an_owner_gives_every_notebook_its_address_and_leaves_the_seals_good(tmp_path):
    links.write_links(house(tmp_path))
    before = notebooks.check_outputs(tmp_path)
    assert len(links.check_links(house(tmp_path, "ada"))) == len(notebooks.find_notebooks(ROOT))
    links.write_links(tmp_path)
    assert not links.check_links(tmp_path) and notebooks.check_outputs(tmp_path) == before
    text = (tmp_path / "nbs/parts/core.ipynb").read_text("utf-8")
    assert "github.com/ada/dlops_mnist" in text and links.PLACEHOLDER not in text
    assert "Not published yet" not in (tmp_path / "nbs/index.ipynb").read_text("utf-8")


def test_what_is_new_gets_a_row_and_what_is_gone_loses_it(tmp_path):
    root = house(tmp_path)
    for path in root.glob("nbs/parts/*.ipynb"):
        if path.stem not in ("core", "batches"): path.unlink()
    text = "# A new one\n\n> What it says of itself.\n\nSee `05_models`, `parts/core`, `parts/gone`.\n\n```\n`05_models`\n```"
    cells = [nbformat.v4.new_markdown_cell(text),
             nbformat.v4.new_code_cell("from dlops_mnist.parts.batches import epochs")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "nbs/12_new.ipynb")
    links.write_links(root)
    assert not links.check_links(root)
    page = (root / "nbs/README.md").read_text("utf-8")
    assert "| [`12_new`](12_new.ipynb) | A new one | What it says of itself. |" in page and "parts/figures" not in page
    text = nbformat.read(root / "nbs/12_new.ipynb", as_version=4).cells[0].source
    assert "See [`05_models`](05_models.ipynb), [`parts/core`](parts/core.ipynb), `parts/gone`.\n\n```\n`05_models`\n```" in text
    assert "stands on: [`batches`](parts/batches.ipynb)" in text
    assert "12_new" in nbformat.read(root / "nbs/parts/batches.ipynb", as_version=4).cells[0].source
