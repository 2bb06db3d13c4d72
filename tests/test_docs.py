"""The documentation site: everything in it, every link inside it, and none of it written by hand."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import numpy as np
import pytest
from browser import MISSING, answers, browser, handed_out
from sklearn.datasets import load_digits

from dlops_mnist.parts.exported import ExportedModel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import docs  # noqa: E402
import links  # noqa: E402
import notebooks  # noqa: E402

SETTINGS = notebooks.settings(ROOT)


class Page(HTMLParser):
    "The links, pictures and anchors of a page."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        self.links += [found[key] for key in ("href", "src") if found.get(key)]


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "out"
    docs.main(ROOT, folder)
    return folder / "site"


@pytest.mark.slow
def test_no_link_inside_the_site_is_broken(site):
    names = {path: path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    pages = {name: Page(path) for path, name in names.items()}
    home, broken = SETTINGS["doc_host"] + SETTINGS["doc_baseurl"] + "/", []
    for name, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(urljoin(home + name, link))
            if not target.startswith(home): continue
            target = unquote(target.removeprefix(home))
            known = pages.get(target)
            found = not anchor or unquote(anchor) in known.anchors if known else (site / target).is_file()
            if not found: broken.append((name, link))
    assert len(pages) > 40 and not broken


@pytest.mark.slow
def test_a_picture_is_as_wide_as_in_the_notebook(site):
    text = (site / "lessons/09_evaluate.html").read_text("utf-8")
    notebook = notebooks.nbformat.read(ROOT / "nbs/09_evaluate.ipynb", as_version=4)
    widths = [o.metadata["image/png"]["width"] for cell in notebook.cells if cell.cell_type == "code"
              for o in cell.outputs if "image/png" in o.get("metadata", {})]
    assert widths and list(map(int, re.findall(r'<img [^>]*width="(\d+)"', text))) == widths


@pytest.mark.slow
def test_every_lesson_module_and_command_has_its_place(site):
    lessons = set(links.House(ROOT).lessons)
    assert {path.relative_to(site / "lessons").with_suffix("").as_posix() for path in site.glob("lessons/**/*.html")} == lessons
    library = ROOT / SETTINGS["lib_path"]
    modules = {path.relative_to(library).with_suffix("") for path in library.rglob("*.py") if path.stem[0] != "_"}
    assert {path.relative_to(site / "modules").with_suffix("") for path in site.glob("modules/**/*.html")} == modules
    commands = Page(site / "commands.html").anchors
    assert {"train", "evaluate", "runs", "dataset"} <= commands
    assert "trainer.max_epochs" in (site / "commands.html").read_text("utf-8")


THREE = [(0.34, 0.29), (0.4, 0.2), (0.5, 0.18), (0.6, 0.22), (0.65, 0.33), (0.6, 0.44), (0.5, 0.49), (0.6, 0.53), (0.67, 0.65),
         (0.63, 0.77), (0.5, 0.83), (0.38, 0.79), (0.33, 0.72)]


@pytest.mark.slow
def test_a_visitor_draws_a_digit_and_the_browser_answers_as_python_does(site):
    if MISSING or not shutil.which("npm"): pytest.skip("needs chromium, chromedriver and npm")
    digits = load_digits().images[:100] * 15.9
    images = np.repeat(np.repeat(digits.astype(np.uint8), 4, axis=1), 4, axis=2)[:, 2:30, 2:30]
    with handed_out(site) as address, browser() as page:
        page.open(f"{address}index.html")
        page.run("[...document.querySelectorAll('a')].find(link => link.innerText.trim() === 'Draw a digit').click()")
        page.wait("return document.body.dataset.ready")
        np.testing.assert_allclose(answers(page, images), ExportedModel(site / "draw/model.onnx")(images), atol=1e-5)
        page.draw(THREE)
        page.wait("return $('best').innerText === '3' && answered === asked")
        urls = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert urls and all(url.startswith((address, "data:", "blob:")) for url in urls)


def test_a_link_to_a_file_of_the_repository_leads_there(tmp_path):
    docs.write_home(ROOT, tmp_path)
    text = (tmp_path / "index.md").read_text("utf-8")
    assert f"({SETTINGS['git_url']}/blob/{SETTINGS['branch']}/LICENSE)" in text and "](lessons/parts/core.md)" in text
    assert not re.search(r"\]\((?!https?:|#|lessons/|README_files/|CHANGELOG.md|CONTRIBUTING.md)", text)


SHAPES = '''"Shapes."

class Round:
    "A circle."
    def __init__(
        self,
        radius: float,  # in metres
    ):
        self.radius = radius

    @property
    def area(self) -> float:
        "In square metres."
        return 3 * self.radius ** 2

    @property
    def flat(self) -> bool: return True

    def _secret(self): ...

def draw(shape: Round) -> None: print(shape)

def erase(shape: Round) -> None:
    # all of it
    print(shape)

def _hidden(): ...
'''


def test_a_module_shows_heads_with_their_comments_and_nothing_private():
    page = docs.module_page("parts/shapes", SHAPES, "parts/shapes")
    assert "# shapes\n\nShapes.\n\nExplained in [parts/shapes](../../lessons/parts/shapes.md).\n\n## Round\n\nA circle." in page
    assert "    radius: float,  # in metres\n" in page and "self.radius = radius" not in page
    assert "### Round.area\n\nIn square metres.\n\n```python\n@property\ndef area(self) -> float:\n```" in page
    assert "```python\ndef draw(shape: Round) -> None:\n```" in page and "```python\ndef erase(shape: Round) -> None:\n```" in page
    assert "@property\ndef flat(self) -> bool:\n```" in page
    assert "_secret" not in page and "_hidden" not in page


def test_outputs_become_text_tables_and_pictures(tmp_path):
    from nbformat.v4 import new_output

    assert docs.shown(new_output("stream", text="\x1b[1mbold\x1b[0m\n"), tmp_path) == "```text\nbold\n```"
    table = "<div><style>x</style>\n<table border='1'>\n\n<tr><td>1</td></tr></table></div>"
    shown = docs.shown(new_output("execute_result", {"text/html": table, "text/plain": "1"}), tmp_path)
    assert shown == '<div class="frame"><div><table>\n<tr><td>1</td></tr></table></div></div>'
    picture = new_output("display_data", {"image/png": "aGk=", "text/plain": "<Picture size 1x1>"})
    assert docs.shown(picture, tmp_path / "p.png") == "![Picture size 1x1](p.png)"
    assert (tmp_path / "p.png").read_bytes() == b"hi"
    picture.metadata["image/png"] = {"width": 480, "height": 240}
    assert docs.shown(picture, tmp_path / "p.png").endswith("](p.png){width=480}")


def test_what_was_printed_in_parts_is_one_output():
    from nbformat.v4 import new_output

    outputs = [new_output("stream", text="a\n"), new_output("stream", name="stderr", text="b\n"),
               new_output("execute_result", {"text/plain": "1"}), new_output("stream", text="c\n")]
    assert [output.get("text", "1") for output in docs.merged(outputs)] == ["a\nb\n", "1", "c\n"]


@pytest.mark.parametrize("link, folder, target", [
    ("03_dataset.ipynb", "nbs", "03_dataset.md"), ("parts/core.ipynb#how", "nbs", "parts/core.md#how"),
    ("../03_dataset.ipynb", "nbs/parts", "../03_dataset.md"), ("../index.ipynb", "nbs/parts", "../../index.md"),
    ("nbs/parts/core.ipynb", "", "lessons/parts/core.md"), ("CHANGELOG.md", "", "CHANGELOG.md"),
    ("../experiments/001.yml", "nbs", f"{SETTINGS['git_url']}/blob/{SETTINGS['branch']}/experiments/001.yml"),
    ("https://example.org/a.ipynb", "nbs", "https://example.org/a.ipynb"),
])
def test_a_link_in_a_notebook_leads_to_a_page_or_a_file(link, folder, target):
    assert docs.on_the_site(f"see [it]({link}).", folder, SETTINGS) == f"see [it]({target})."


def test_the_command_says_what_is_wrong_without_its_extra(tmp_path):
    # as where only the package is installed
    code = "import sys; sys.modules['zensical'] = None; import docs; docs.check_installed()"
    refused = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", text=True, capture_output=True)
    assert refused.returncode == 2 and "docs" in refused.stderr and "Traceback" not in refused.stderr
