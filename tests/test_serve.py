"""The service as its users meet it: over HTTP, in a browser, with nonsense, under load, and at its end."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from browser import MISSING, browser
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES = ["dark", "light", "left"]
INK = {"background": 0, "ink": 255, "pen": 2.6, "box": 20, "by": "mass", "centre": [14.0, 14.0]}


def write_model(file: Path, side: int = 28, bias: float = 0.0, heavy: int = 0) -> Path:
    "A model whose answers can be told by hand: dark or light by the mean, left by the left half; `heavy`: wasted products."
    half = np.zeros((side, side))
    half[:, :side // 2] = 1
    weights = np.stack([-np.ones(side * side), np.ones(side * side), 1.5 * half.ravel()], 1) / side**2 / 255 * 10
    constants = [numpy_helper.from_array(weights.astype(np.float32), "w"),
                 numpy_helper.from_array(np.array([5 + bias, -5, -5], np.float32), "b")]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["f"], ["g0"])]
    if heavy:
        constants.append(numpy_helper.from_array(np.eye(side * side, dtype=np.float32), "m"))
        nodes += [helper.make_node("MatMul", [f"g{i}", "m"], [f"g{i + 1}"]) for i in range(heavy)]
    nodes += [helper.make_node("Gemm", [f"g{heavy}", "w", "b"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    graph = helper.make_graph(nodes, "tiny", [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", side, side])],
                              [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["B", 3])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"classes": CLASSES, "image_shape": [side, side], "ink": INK, "run": "runs/001/x", "datamodule": {"color": "grey"}}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.save(model, file)
    return file


@contextmanager
def serving(*words: object, cwd: Path = ROOT, **environment: str):
    "A running service: gives its process, whose `address` is its URL."
    command = [sys.executable, "-m", "dlops_mnist.serve", *map(str, words), "port=0"]
    process = subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)
    try:
        line = process.stdout.readline()
        assert "http://" in line, process.stderr.read()
        process.address = re.search(r"http://[^/]+/", line)[0]
        yield process
    finally:
        process.terminate()
        try: process.communicate(timeout=10)
        except subprocess.TimeoutExpired: process.kill(), process.communicate()


def ask(address: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
    "Status, headers and body of an answer."
    request = urllib.request.Request(address + path, body, {key.replace("_", "-"): value for key, value in headers.items()})
    try: answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error: answer = error
    with answer: return answer.status, dict(answer.headers), answer.read()


def png(image: np.ndarray, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **settings)
    return file.getvalue()


def form(*contents: bytes) -> tuple[bytes, str]:
    head = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return b"".join(head + content + b"\r\n" for content in contents) + b"--xx--\r\n", "multipart/form-data; boundary=xx"


LIGHT, DARK = np.full((28, 28), 255, np.uint8), np.zeros((28, 28), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def service(model):
    with serving(model) as process: yield process.address


def test_every_way_to_send_an_image_gives_the_same_answer(service):
    body, kind = form(png(LIGHT))
    several, _ = form(png(LIGHT), png(DARK))
    one = [ask(service, "predict", png(LIGHT)), ask(service, "predict", png(LIGHT), Content_Type="image/png"),
           ask(service, "predict", body, Content_Type=kind),
           ask(service, "predict", json.dumps(LIGHT.tolist()).encode(), Content_Type="application/json"),
           ask(service, "predict", json.dumps(LIGHT.tolist()).encode(), Content_Type="application/x-www-form-urlencoded")]
    answers = [json.loads(content) for status, _, content in one if status == 200]
    assert len(answers) == 5 and all(answer == answers[0] for answer in answers)
    assert answers[0]["label"] == "light" and list(answers[0]["probabilities"]) == CLASSES
    assert abs(sum(answers[0]["probabilities"].values()) - 1) < 1e-5
    for content, headers in ((several, {"Content_Type": kind}),
                             (json.dumps([LIGHT.tolist(), DARK.tolist()]).encode(), {"Content_Type": "application/json"})):
        both = json.loads(ask(service, "predict", content, **headers)[2])
        assert [answer["label"] for answer in both] == ["light", "dark"]


def test_a_picture_of_another_size_and_kind_is_read_as_in_training(service):
    large = io.BytesIO()
    Image.fromarray(np.full((90, 60, 3), 250, np.uint8)).save(large, "JPEG")
    status, _, content = ask(service, "predict?seen=1", large.getvalue())
    answer = json.loads(content)
    assert status == 200 and answer["label"] == "light" and np.shape(answer["seen"]) == (28, 28)
    assert abs(np.mean(answer["seen"]) - 250) < 2


BAD = {"text": (b"hello", "image/png"), "empty": (b"", "image/png"), "cut": (png(LIGHT)[:60], "image/png"),
       "a form of nothing": (b"--xx--\r\n", "multipart/form-data; boundary=xx"), "no boundary": (b"x", "multipart/form-data"),
       "no JSON": (b"[[1, 2", "application/json"), "another shape": (b"[[1, 2], [3, 4]]", "application/json"),
       "too large a number": (json.dumps((LIGHT + 1.0).tolist()).encode(), "application/json"),
       "fractions": (json.dumps((LIGHT / 510).tolist()).encode(), "application/json"),
       "deep": (b"[" * 100_000, "application/json"), "null": (b"null", "application/json")}


@pytest.mark.parametrize("name", BAD)
def test_nonsense_is_answered_by_what_was_expected(service, name):
    body, kind = BAD[name]
    status, _, content = ask(service, "predict", body, Content_Type=kind)
    assert status == 422 and json.loads(content)["error"].startswith("Expected"), content


def test_what_is_too_large_is_refused_before_it_is_read(service):
    assert ask(service, "predict", b"x" * (10 * 2**20 + 1))[0] == 413
    many = json.dumps([[[0] * 28] * 28] * 300).encode()
    assert ask(service, "predict", many, Content_Type="application/json")[0] == 413
    bomb = png(np.zeros((9000, 9000), np.uint8), compress_level=9)
    assert len(bomb) < 200_000
    start = time.monotonic()
    assert ask(service, "predict", bomb)[0] == 422 and time.monotonic() - start < 2


def test_the_other_paths(service, model):
    assert json.loads(ask(service, "health")[2]) == {"status": "ok"} and ask(service, "ready")[0] == 200
    about = json.loads(ask(service, "model")[2])
    assert about["classes"] == CLASSES and about["image_shape"] == [28, 28] and about["ink"] == INK
    assert ask(service, "elsewhere")[0] == 404 and ask(service, "predict")[0] == 405
    assert ask(service, "../../etc/passwd")[0] == 404
    api = json.loads(ask(service, "openapi.json")[2])
    paths = {"", "predict", "health", "ready", "model", "metrics", "docs", "review", "waiting", "label"}
    assert set(api["paths"]) == {f"/{path}" for path in paths}
    for path, methods in api["paths"].items(): assert methods.keys() <= {"get", "post"}, path


def test_pages_ask_no_other_host(service):
    for path in ("", "docs", "review"):
        status, headers, content = ask(service, path)
        assert status == 200 and headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in headers["content-security-policy"]
        assert not re.findall(rb"(?:src|href|url|fetch|import)\W{1,3}(?:https?:)?//", content)


def test_metrics_count_what_happened(service):
    def value(name): return float(re.search(rf"^{re.escape(name)} (\S+)$", ask(service, "metrics")[2].decode(), re.MULTILINE)[1])

    names = 'serve_requests_total{status="200"}', 'serve_requests_total{status="422"}', "serve_batch_images_sum"
    ask(service, "predict", png(LIGHT)), ask(service, "predict", b"no")
    before = list(map(value, names))
    for _ in range(3): ask(service, "predict", png(LIGHT))
    ask(service, "predict", b"no")
    after = list(map(value, names))
    assert after[1] - before[1] == 1 and after[2] - before[2] == 3 and after[0] - before[0] >= 3
    grey = np.full((28, 28), 128, np.uint8)
    doubtful = value("serve_doubtful_images_total")
    assert json.loads(ask(service, "predict", png(grey))[2])["doubtful"] and value("serve_doubtful_images_total") == doubtful + 1


def test_metrics_tell_when_images_are_others_than_the_validation_images(tmp_path):
    from tiny import onnx_model

    from dlops_mnist.parts.core import UserError
    from dlops_mnist.parts.drift import features, reference
    from dlops_mnist.parts.exported import ExportedModel

    images = np.random.default_rng(0).integers(0, 256, (900, 28, 28), np.uint8) // np.linspace(1, 3, 900)[:, None, None]
    images = np.random.default_rng(1).permutation(images.astype(np.uint8))
    file = onnx_model(tmp_path / "model.onnx")
    known = reference(features(images[:500], ExportedModel(file)(images[:500])), 2)
    onnx_model(file, reference=known)

    def told(process) -> tuple[float, list[float]]:
        text = ask(process.address, "metrics")[2].decode()
        alarm, p = re.search(r"\nserve_drift_alarm (\S+)", text)[1], re.findall(r"serve_drift_p{.*} (\S+)", text)
        return float(alarm), [*map(float, p)]

    def send(process, some, path="predict"):
        for part in np.split(some, 2):
            ask(process.address, path, json.dumps(part.tolist()).encode(), content_type="application/json")

    with serving(str(file)) as process:
        assert np.isnan(told(process)[1]).all() and told(process)[0] == 0
        send(process, images[500:700])
        alarm, p = told(process)
        assert not alarm and len(p) == 7 and min(p) > 0.01
        send(process, images[700:900] // 2, "predict?keep=0")
        assert told(process) == (alarm, p), "a drawing that is not finished is none to judge by"
        send(process, images[700:900] // 2)
        assert told(process)[0] == 1 and min(told(process)[1]) < 1e-6
    onnx_model(file, reference={"images": 3, "row": None})
    with pytest.raises(UserError, match="damaged"): ExportedModel(file)


def test_no_torch_is_loaded(model):
    code = ("import sys, dlops_mnist.serve as s; s.Service(sys.argv[1]); heavy = {'torch', 'pytorch_lightning', 'pandas', "
            "'matplotlib', 'sklearn', 'scipy'} & set(sys.modules); assert not heavy, heavy")
    subprocess.run([sys.executable, "-c", code, model], cwd=ROOT, check=True)


def test_mistakes_are_one_sentence(model, tmp_path, capsys, monkeypatch):
    from dlops_mnist.parts.command import run_command
    from dlops_mnist.serve import serve

    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.onnx").write_text("no model")
    (tmp_path / "best.ckpt").write_bytes(b"PK, as a checkpoint begins")
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/best.ckpt").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = {("missing.onnx",): "missing.onnx",
                 ("note.onnx",): "Did you mean `notes.onnx`?", ("notes.onx",): "Did you mean `notes.onnx`?",
                 ("run",): "python -m dlops_mnist.export run", ("best.ckpt",): "python -m dlops_mnist.export best.ckpt",
                 ("notes.onnx",): "notes.onnx", (str(model), f"port={port}"): f"port={port + 1}",
                 (str(model), "prot=1"): "`port`", (str(model), "workers=0"): "workers", (str(model), "share=2"): "between 0 and 1",
                 (str(model), "limit=lots"): "500MB", (str(model), "port=99999"): "99999"}
        for words, part in wrong.items():
            with pytest.raises(SystemExit) as end: run_command(serve, ["port=0", *words][-len(words) - ("port" not in words[-1]):])
            text = capsys.readouterr().err
            assert end.value.code == 2 and text.startswith("error: ") and part in text and text.count("\n") == 1, (words, text)


def test_an_answer_does_not_wait_for_the_other_side():
    from dlops_mnist.serve import listen

    with listen("127.0.0.1", 0) as listening:  # without it, an answer on a connection that stays open takes 40 ms
        with socket.create_connection(listening.getsockname()):
            with listening.accept()[0] as accepted: assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_container_installs_what_the_settings_name_and_starts_what_there_is():
    from configparser import ConfigParser

    from dlops_mnist.parts.command import bind
    from dlops_mnist.serve import serve

    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    known = {*settings["DEFAULT"]["requirements"].split(), *settings["DEFAULT"]["serve_requirements"].split()}
    wanted = {line for line in (ROOT / "requirements-serve.txt").read_text().splitlines() if line and line[0] != "#"}
    assert wanted <= known and set(settings["DEFAULT"]["serve_requirements"].split()) <= wanted
    container = (ROOT / "Containerfile").read_text()
    command = json.loads(re.search(r"^CMD (.+)$", container, re.MULTILINE)[1])
    assert command[:3] == ["python", "-m", "dlops_mnist.serve"]
    assert bind(serve, command[3:]) == (["/model/model.onnx"], {"host": "0.0.0.0", "port": 8000})
    for words in re.findall(r"^COPY (.+) \S+$", container, re.MULTILINE):
        assert all((ROOT / word).exists() for word in words.split()), words
    assert "USER 1000" in container and "read_only: true" in (ROOT / "compose.yaml").read_text()


def test_a_token_is_asked_for(model):
    with serving(model, "token=secret") as process:
        assert ask(process.address, "predict", png(LIGHT))[0] == 401
        assert ask(process.address, "model", Authorization="Bearer secre")[0] == 401
        assert ask(process.address, "predict", png(LIGHT), Authorization="Bearer secret")[0] == 200
        assert ask(process.address, "")[0] == 200 and ask(process.address, "health")[0] == 200


def test_an_open_door_is_warned_of(model):
    with serving(model, "host=0.0.0.0") as process:
        assert "localhost" in process.address and "token=" in process.stdout.readline()


def test_a_full_queue_says_when_to_come_back(tmp_path):
    heavy = write_model(tmp_path / "heavy.onnx", heavy=300)
    with serving(heavy, "batch=1", "waiting=2") as process, ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda _: ask(process.address, "predict", png(LIGHT)), range(48)))
        assert {status for status, *_ in found} == {200, 503}
        assert all(headers["retry-after"] == "1" for status, headers, _ in found if status == 503)
        assert all(json.loads(body)["label"] == "light" for status, _, body in found if status == 200)
        assert ask(process.address, "ready")[0] == 200


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_end_answers_what_was_taken(tmp_path, stop):
    slow = write_model(tmp_path / "slow.onnx", heavy=800)
    with serving(slow) as process, ThreadPoolExecutor(4) as pool:
        ask(process.address, "predict", png(LIGHT))
        taken = [pool.submit(ask, process.address, "predict", png(LIGHT)) for _ in range(4)]
        time.sleep(0.1)
        start = time.monotonic()
        process.send_signal(stop)
        assert process.wait(5) in (130, 143) and time.monotonic() - start < 2.5
        assert [answer.result()[0] for answer in taken] == [200] * 4
        assert "Traceback" not in process.stderr.read()


def children(pid: int) -> list[int]:
    return [int(p.name) for p in Path("/proc").glob("[0-9]*") if f"PPid:\t{pid}\n" in _told(p / "status")]


def _told(file: Path) -> str:  # a process may end meanwhile
    try: return file.read_text()
    except OSError: return ""


def wait_until(condition, seconds: float = 10):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end: time.sleep(0.05)
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_several_workers_share_and_end_with_their_parent(model):
    with serving(model, "workers=2") as process:
        def workers(): return [pid for pid in children(process.pid) if "spawn_main" in _told(Path(f"/proc/{pid}/cmdline"))]

        def count(): return int(float(re.search(rb"serve_images_total{.*} (\S+)", ask(process.address, "metrics")[2])[1]))

        [worker] = wait_until(workers)
        for _ in range(20): assert ask(process.address, "predict", png(LIGHT))[0] == 200
        assert count() == 20  # of both together
        os.kill(worker, signal.SIGKILL)
        [worker] = wait_until(lambda: [pid for pid in workers() if pid != worker])  # another one took its place
        process.kill()
        assert wait_until(lambda: not Path(f"/proc/{worker}").exists())


# --- the page, in a browser ---

@pytest.fixture(scope="module")
def page(service):
    if MISSING: pytest.skip(MISSING)
    with browser() as window:
        window.address_of_service = service
        yield window


@pytest.fixture
def blank(page):
    "The page, with nothing drawn."
    page.open(page.address_of_service)
    page.wait("return document.body.dataset.ready")
    return page


def shown(page) -> tuple[str, dict[str, str], np.ndarray]:
    "What the page says when it has asked for all: the class, the text of each bar, and the image that the network sees."
    page.wait("return !busy && answered === asked")
    bars = page.run("return [...document.querySelectorAll('#bars li')].map(row =>"
                    "[...row.querySelectorAll('.name, .value')].map(x => x.innerText))")
    seen = page.run("const c = $('seen'); return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    assert not page.run("return $('problem').innerText")
    return page.run("return $('best').innerText"), dict(bars), np.reshape(seen, (28, 28, 4))[:, :, 0].astype(np.uint8)


LINE = [(0.7, 0.3), (0.8, 0.5), (0.7, 0.7)]


@pytest.mark.parametrize("hand", ["mouse", "touch"])
def test_a_drawing_is_placed_as_the_training_images_were_and_answered(blank, service, hand):
    blank.draw(LINE, kind=hand)
    label, bars, seen = shown(blank)
    answer = json.loads(ask(service, "predict", png(seen))[2])
    assert label == answer["label"] and list(bars) == CLASSES
    for name, text in bars.items(): assert abs(float(text.strip("> %")) - 100 * answer["probabilities"][name]) < 0.11
    # drawn on the right, it lies in the middle: its centre of mass at 14, 14 (pixels), 20 pixels tall
    rows, columns = np.nonzero(seen > 127)
    assert abs((seen.sum(1) @ np.arange(28)) / seen.sum() - 14) < 0.2 and abs((seen.sum(0) @ np.arange(28)) / seen.sum() - 14) < 0.2
    assert 18 <= np.ptp(rows) + 1 <= 20
    blank.run("$('undo').click()")
    assert shown(blank)[0].strip() == ""


def test_keys_draw_and_the_answer_is_spoken(blank):
    blank.run("pad.focus()")
    right, down, space = "\ue014", "\ue015", " "
    blank.keys(right, right, space, *[down] * 8, space, right, right)
    label, _, seen = shown(blank)
    assert label in CLASSES and (seen > 127).sum() > 20
    assert blank.run("return strokes.length") == 1
    spoken = blank.wait("return / percent| %/.test($('spoken').textContent) && $('spoken').textContent")
    assert spoken.startswith(label)
    blank.keys("\ue017")
    assert shown(blank)[0].strip() == ""


def test_a_picture_is_dropped_chosen_and_pasted(blank, service):
    half = np.zeros((56, 56), np.uint8)
    half[:, :28] = 255
    answer = json.loads(ask(service, "predict?seen=1", png(half))[2])
    give = """const bytes = Uint8Array.from(arguments[0]), data = new DataTransfer()
              data.items.add(new File([bytes], 'half.png', {type: 'image/png'}))
              if (arguments[1] === 'drop') dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}))
              else if (arguments[1] === 'paste') dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))
              else { $('file').files = data.files; $('file').dispatchEvent(new Event('change')) }"""
    for way in ("drop", "paste", "choose"):
        blank.run("clear()")
        shown(blank)
        blank.run(give, list(png(half)), way)
        blank.wait("return picture")
        label, _, seen = shown(blank)
        assert label == answer["label"] == "left" and np.array_equal(seen, answer["seen"]), way
    blank.run(give, list(b"no picture"), "drop")
    assert "no picture" in blank.wait("return $('problem').innerText")


def test_the_page_asks_only_its_own_host_and_has_a_name_for_everything(blank, service):
    blank.draw(LINE)
    shown(blank)
    urls = blank.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert urls and all(url.startswith((service, "data:")) for url in urls)
    nameless = blank.run("""return [...document.querySelectorAll('button, input, canvas, a')].filter(node =>
        !node.innerText?.trim() && !node.ariaLabel && !node.getAttribute('aria-labelledby') && !node.labels?.length)
        .map(node => node.outerHTML)""")
    assert not nameless
    assert blank.run("return document.documentElement.scrollWidth <= innerWidth")


def test_the_page_fits_a_phone(service):
    if MISSING: pytest.skip(MISSING)
    with browser(390, 800) as page:
        page.open(service)
        page.wait("return document.body.dataset.ready")
        page.draw(LINE, kind="touch")
        assert shown(page)[0] in CLASSES and page.run("return document.documentElement.scrollWidth <= innerWidth")
        # the answer is in sight while a finger draws
        assert page.run("const b = $('best').getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight")


def test_a_service_that_is_gone_is_said(model):
    if MISSING: pytest.skip(MISSING)
    with browser() as page:
        with serving(model) as process:
            page.open(process.address)
            page.wait("return document.body.dataset.ready")
        page.draw(LINE)
        assert "does not answer" in page.wait("return $('problem').innerText")


# --- pictures that are kept ---


def test_doubtful_pictures_wait_for_a_label(model, tmp_path):
    sure, unsure = np.full((28, 28), 250, np.uint8), np.full((28, 28), 128, np.uint8)
    with serving(model, f"collect={tmp_path}/kept", "doubt=0.8", "share=0") as one:
        assert not json.loads(ask(one.address, "predict", png(sure))[2])["doubtful"]
        ask(one.address, "predict?keep=0", png(unsure + 1))
        assert json.loads(ask(one.address, "waiting")[2]) == []
        for _ in range(2): assert json.loads(ask(one.address, "predict", png(unsure))[2])["doubtful"]
        [waits] = json.loads(ask(one.address, "waiting")[2])
        assert waits["why"] == "doubt" and waits["picture"].startswith("data:image/png;base64,")
        json_type = {"Content_Type": "application/json"}

        def label(**said): return ask(one.address, "label", json.dumps(said).encode(), **json_type)

        name = waits["name"]
        wrongs = {"label": "dark"}, {"name": name, "label": "drak"}, {"name": "../../x", "label": "dark"}, {"name": 3, "label": 3}
        for wrong in wrongs:
            status, _, body = label(**wrong)
            assert status == 422 and json.loads(body)["error"], wrong
        elsewhere = json.dumps({"name": name, "label": "dark"}).encode()  # as a form of another host's page could send it
        assert ask(one.address, "label", elsewhere, Content_Type="text/plain")[0] == 422
        assert label(name=name, label="dark")[0] == 200 and json.loads(ask(one.address, "waiting")[2]) == []
        assert label(image=sure.tolist(), label="light", said="light")[0] == 200
        assert ask(one.address, "review")[0] == 200
    assert sorted(path.parent.name for path in (tmp_path / "kept/labelled").rglob("*.png")) == ["dark", "light"]


def test_a_share_of_all_is_kept_by_chance_and_never_more_than_the_limit(model, tmp_path):
    images = np.random.default_rng(0).integers(200, 256, (60, 28, 28), np.uint8)
    with serving(model, f"collect={tmp_path}/kept", "doubt=0", "share=0.5", "limit=10kB") as one:
        for image in images: assert ask(one.address, "predict", png(image))[0] == 200
        left = re.search(r"serve_left_out_images ([0-9.]+)", ask(one.address, "metrics")[2].decode())
    kept = [json.loads(file.read_text()) for file in (tmp_path / "kept/waiting").glob("*.json")]
    assert kept and {known["why"] for known in kept} == {"chance"} and float(left[1]) > 0
    assert sum(file.stat().st_size for file in (tmp_path / "kept").rglob("*") if file.is_file()) <= 10_000


def test_nothing_is_kept_unless_it_is_asked_for(service):
    assert ask(service, "waiting")[0] == 404 and not json.loads(ask(service, "model")[2])["collects"]
