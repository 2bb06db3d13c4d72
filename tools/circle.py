"""The whole circle once, in a folder of its own, as its users would type it: `make circle`.

python tools/circle.py [DIR]

A model is trained on few digits, registered, promoted and served. A script draws 300 pictures; the service keeps those that
it doubts, and a share by chance; they are labelled at the service's own address, the dataset grows, a new model is trained.
The gate compares both on pictures of the week after, which nobody trained on; the service takes the better one up, and goes
back on request. At last the first run is repeated on what it was trained on, bit by bit. DIR/circle.html shows it all, and
circle.svg is its picture.
"""

import base64
import html
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dlops_mnist.dataset import MNISTDataModule
from dlops_mnist.parts.pictures import encode_png

# each digit as strokes on a sheet of 1 x 1, from the upper left corner
STROKES = {
    "0": [[(.5, .1), (.25, .25), (.2, .55), (.3, .85), (.5, .92), (.72, .82), (.8, .5), (.72, .2), (.5, .1)]],
    "1": [[(.35, .28), (.55, .1), (.55, .92)]],
    "2": [[(.22, .28), (.4, .1), (.68, .14), (.75, .35), (.5, .62), (.22, .9), (.8, .9)]],
    "3": [[(.25, .15), (.6, .1), (.75, .28), (.5, .47), (.78, .65), (.65, .88), (.25, .9)]],
    "4": [[(.55, .1), (.2, .6), (.82, .6)], [(.62, .35), (.6, .92)]],
    "5": [[(.75, .1), (.3, .1), (.27, .45), (.6, .42), (.78, .65), (.62, .9), (.24, .88)]],
    "6": [[(.65, .08), (.35, .35), (.24, .7), (.45, .92), (.72, .8), (.68, .56), (.42, .53), (.26, .7)]],
    "7": [[(.2, .12), (.8, .12), (.45, .92)]],
    "8": [[(.5, .48), (.28, .3), (.5, .1), (.72, .28), (.5, .48), (.25, .72), (.5, .92), (.76, .72), (.5, .48)]],
    "9": [[(.72, .32), (.45, .5), (.27, .3), (.48, .1), (.72, .22), (.72, .5), (.62, .92)]],
}


def draw(digit: str, chance: np.random.Generator) -> np.ndarray:
    "A digit as another hand would write it: uint8 [28, 28], light on black."
    angle, lean = chance.normal(0, .12), chance.normal(0, .15)
    turn = np.array([[np.cos(angle), lean - np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn *= chance.uniform(.75, 1.05, 2) * (.8, 1.1)
    sheet = Image.new("L", (224, 224))
    pen, width = ImageDraw.Draw(sheet), int(chance.uniform(28, 44))
    for stroke in STROKES[digit]:
        points = (np.array(stroke) - .5 + chance.normal(0, .025, (len(stroke), 2))) @ turn.T + .5
        points = [tuple(point) for point in ((points + chance.normal(0, .02, 2)) * 215 + 4).tolist()]
        pen.line(points, fill=255, width=width, joint="curve")
        for x, y in points: pen.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=255)
    return np.asarray(sheet.filter(ImageFilter.GaussianBlur(10)).resize((28, 28), Image.Resampling.BOX))


def week(seed: int, count: int) -> list[tuple[str, np.ndarray]]:
    "So many drawn digits, and what they show."
    chance = np.random.default_rng(seed)
    return [(digit, draw(digit, chance)) for digit in chance.choice(sorted(STROKES), count)]


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))


def run(verb: str, *words: str, fails: bool = False) -> str:
    "What a command prints; it must fail where that is what is shown."
    print(f"\n$ python -m dlops_mnist.{verb} {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"dlops_mnist.{verb}", *words], capture_output=True, text=True, timeout=600)
    text = (done.stdout + done.stderr).strip()
    print("\n".join(text.splitlines()[-14:]), flush=True)
    if (done.returncode != 0) != fails: raise SystemExit(f"{verb} ended with status {done.returncode}")
    return text


@contextmanager
def served(*words: str):
    "The service's address."
    print(f"\n$ python -m dlops_mnist.serve {' '.join(words)} &", flush=True)
    command = [sys.executable, "-m", "dlops_mnist.serve", *words, "port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try: yield re.search(r"http://[^/]+/", process.stdout.readline())[0]
    finally:
        process.terminate()
        process.wait(10)


def ask(address: str, content: object = None, kind: str = "application/json") -> object:
    body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as answer: return json.load(answer)


def newest(experiment: str) -> Path: return max(Path("runs", experiment).iterdir())


def train(*words: str) -> Path:
    run("train", "010_cnn", "datamodule.path=digits", "datamodule.source=null", "trainer.max_epochs=20",
        "trainer.enable_progress_bar=false", *words)
    return newest("010_cnn")


def prepare() -> None:
    "Few digits to begin with (12 of each class), and a week that comes later."
    digits = MNISTDataModule(path="data/digits", source="digits")
    digits.prepare_data()
    for split, most in (("train", 12), ("test", 36)):
        for folder in sorted(Path("data/digits", split).iterdir()):
            for file in sorted(folder.glob("*.png"))[:most]:
                write(Path("digits", split, folder.name, file.name), np.asarray(Image.open(file)))
    for i, (digit, image) in enumerate(week(2, 400)): write(Path("next_week", "test", digit, f"{i}.png"), image)


def in_use(address: str) -> list[bool]:
    "300 pictures are drawn, sent, and those that were kept are labelled by who drew them."
    drawn = week(1, 300)
    right = [ask(address + "predict", encode_png(image), "image/png")["label"] == digit for digit, image in drawn]
    shows = {encode_png(image): digit for digit, image in drawn}
    while waits := ask(address + "waiting"):
        for one in waits:
            content = base64.b64decode(one["picture"].partition(",")[2])
            ask(address + "label", {"name": one["name"], "label": shows[content]})
    return right


def wait_for(address: str, version: int) -> float:
    "Seconds until the service answers with a version."
    begin = time.monotonic()
    while f"/{version}/" not in ask(address + "model")["file"]:
        if time.monotonic() - begin > 20: raise SystemExit("the service did not take up the champion")
        time.sleep(.05)
    return time.monotonic() - begin


def same_weights(a: Path, b: Path) -> bool:
    import torch

    one, other = (torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


STYLE = """:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 50rem; margin: 0 auto; padding: 1rem }
svg { width: 100%; height: auto }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .25rem .6rem;
  border-top: 1px solid color-mix(in srgb, CanvasText 20%, Canvas) }"""


def picture(facts: dict[str, str]) -> str:
    "The circle's history as an SVG picture, on light and on dark: its stations around a ring, in their order."
    x, y, wide, high = 360, 340, 268, 300
    boxes = []
    for i, (name, text) in enumerate(facts.items()):
        angle = 2 * np.pi * i / len(facts)
        place = f"translate({x + wide * np.sin(angle) - 92:.0f} {y - high * np.cos(angle) - 27:.0f})"
        boxes.append(f'<g transform="{place}"><rect width="184" height="54" rx="9" fill="#fff" stroke="#999"/>'
                     f'<text x="92" y="22" font-size="13" font-weight="700">{i + 1}. {html.escape(name)}</text>'
                     f'<text x="92" y="41" font-size="12">{html.escape(text)}</text></g>')
    named = html.escape(f"The stations of the circle: {', '.join(facts)}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 680" width="720" height="680" font-family="sans-serif" '
            f'text-anchor="middle" role="img" aria-label="{named}"><ellipse cx="{x}" cy="{y}" rx="{wide}" ry="{high}" '
            f'fill="none" stroke="#4a86d8" stroke-width="3"/>{"".join(boxes)}</svg>\n')


def page(facts: dict[str, str], log: list[dict], seconds: float) -> str:
    "The same on a page, and each line of the registry's history."
    rows = "".join(f"<tr><td>{line['when'][11:19]}<td>{line['what']}<td>{line['version']}<td>{html.escape(line.get('why') or '')}"
                   for line in log)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>The circle</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>
<h1>The circle, once around</h1><p>{seconds:.0f} seconds, from a few digits to a model that replaced another one.</p>
{picture(facts)}<h2>The registry's history</h2><table><tr><th>when<th>what<th>version<th>why</tr>{rows}</table></html>"""


WEEK = "datamodule.path=next_week"


def main(folder: str) -> None:
    began = time.monotonic()
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if any(Path().iterdir()): raise SystemExit(f"{Path.cwd()} is not empty: name another folder.")
    Path("experiments").mkdir()
    for file in root.glob("experiments/*.yml"): Path("experiments", file.name).write_text(file.read_text("utf-8"), "utf-8")
    prepare()
    first = train("versions=true")
    first_version = run("versions", "record", "digits", "note=as it came").split()[0]
    run("registry", "register", str(first), "name=digits")
    run("registry", "promote", "digits", "1")
    with served("models:/digits@champion", "collect=kept", "doubt=0.95", "share=0.05") as address:
        right = in_use(address)
        print(f"{sum(right)} of {len(right)} drawn pictures were answered right")
        grown = run("versions", "grow", "digits", "from=kept", "note=with what it doubted")
        added = len(list(Path("digits/train").rglob("kept-*.png")))
        second = train()
        run("registry", "register", str(second), "name=digits")
        run("registry", "promote", "digits", "1", WEEK)  # the champion already: nothing happens
        promoted = run("registry", "promote", "digits", "2", WEEK)
        took = wait_for(address, 2)
        run("registry", "rollback", "digits", "note=only to show it")
        back = wait_for(address, 1)
        run("registry", "register", str(first), "name=digits")
        run("registry", "promote", "digits", "3", WEEK, fails=True)  # the first one again: it is worse
        run("registry", "promote", "digits", "2", WEEK)
    run("registry", "show", "digits")
    run("runs")  # which version each was trained on, by its note
    run("train", str(first), "datamodule.version=as-trained", "trainer.enable_progress_bar=false")  # from before the growth
    again = newest("010_cnn")
    if not same_weights(first, again): raise SystemExit("the repeated run has other weights")
    gate = re.search(r"test images ([0-9.]+%) against ([0-9.]+%)", promoted)
    facts = {"A dataset": f"version {first_version}", "A run": first.name, "Registered": "digits 1, the champion",
             "Served": f"{sum(right)} of {len(right)} right", "Kept and labelled": f"{added} pictures are new",
             "A new version": grown.splitlines()[-1].split()[0], "Trained again": second.name,
             "The gate": f"{gate[1]} against {gate[2]}", "Taken up": f"within {max(took, back) + 1:.0f} s, and back",
             "Repeated": "the first run, bit by bit"}
    lines = Path("models/digits/history.jsonl").read_text("utf-8").splitlines()
    log = [json.loads(line) for line in lines]
    Path("circle.svg").write_text(picture(facts), "utf-8")
    Path("circle.html").write_text(page(facts, log, time.monotonic() - began), "utf-8")
    print(f"\nThe circle is closed, in {time.monotonic() - began:.0f} seconds. Its history: {Path('circle.html').resolve()}")


if __name__ == "__main__": main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="circle-"))
