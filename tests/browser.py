"""A headless Chromium, driven over the W3C protocol of chromedriver: plain HTTP, no client library."""

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "needs chromium and chromedriver"


class Browser:
    "One window."

    def __init__(self, address: str, session: str):
        self.address, self.session = address, session

    def call(self, command: str, content: dict[str, Any] | None = None, method: str = "POST") -> Any:
        "One command of the protocol; raises `RuntimeError` with the driver's message."
        body = None if method in ("GET", "DELETE") else json.dumps(content or {}).encode()
        request = urllib.request.Request(f"{self.address}/session/{self.session}/{command}", body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer: return json.load(answer)["value"]
        except urllib.error.HTTPError as error: raise RuntimeError(json.load(error)["value"]["message"]) from error

    def open(self, url: str) -> None:
        "Go to an address."
        self.call("url", {"url": url})

    def run(self, script: str, *values: Any) -> Any:
        "What a function's body returns in the page."
        return self.call("execute/sync", {"script": script, "args": list(values)})

    def wait(self, script: str, seconds: float = 15) -> Any:
        "The same, asked until it is true."
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}\n{self.run('return document.body.innerText')}"
            time.sleep(0.05)
        return found

    def act(self, *actions: dict[str, Any]) -> None:
        "Move, press and type as hands do."
        self.call("actions", {"actions": list(actions)})

    def draw(self, points: list[tuple[float, float]], selector: str = "#pad", kind: str = "mouse") -> None:
        "Draw a line through points (0 to 1 across an element) with the mouse or a finger."
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        box = self.run("const b = document.querySelector(arguments[0]).getBoundingClientRect();"
                       "return [b.x, b.y, b.width, b.height]", selector)
        places = [{"x": round(box[0] + x * box[2]), "y": round(box[1] + y * box[3])} for x, y in points]
        moves = [{"type": "pointerMove", "duration": 20, "origin": "viewport", **place} for place in places]
        down, up = ({"type": f"pointer{way}", "button": 0} for way in ("Down", "Up"))
        self.act({"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": [moves[0], down, *moves[1:], up]})

    def keys(self, *keys: str) -> None:
        "Type keys."
        steps = [{"type": way, "value": key} for key in keys for way in ("keyDown", "keyUp")]
        self.act({"type": "key", "id": "keyboard", "actions": steps})

    def screenshot(self, file: Path) -> None:
        "The window as a PNG file."
        file.write_bytes(base64.b64decode(self.call("screenshot", method="GET")))


@contextmanager
def handed_out(folder: Path) -> Iterator[str]:
    "The address at which a plain web server hands out a folder."
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def answers(page: Browser, images: np.ndarray) -> np.ndarray:
    "What the model of an open page, which runs in the browser, says of uint8 images: probabilities [B, K]."
    script = "return Promise.all(arguments[0].map(pixels => classify(new Uint8Array(pixels))))"
    return np.array(page.run(script, images.reshape(len(images), -1).tolist()))


@contextmanager
def browser(width: int = 1100, height: int = 800, dark: bool = False) -> Iterator[Browser]:
    "A browser with a profile of its own, gone at the end."
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    profile = tempfile.mkdtemp()
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, window = f"http://127.0.0.1:{port}", None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--window-size={width},{height}",
               f"--user-data-dir={profile}", *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else [])]
    # a window has at least 500 pixels; a narrower one is a phone
    phone = {"mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}}} if width < 500 else {}
    wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome",
                                               "goog:chromeOptions": {"binary": CHROMIUM, "args": options} | phone,
                                               "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}}}
    try:
        for _ in range(200):
            try:
                request = urllib.request.Request(f"{address}/session", json.dumps(wanted).encode())
                with urllib.request.urlopen(request, timeout=60) as answer: session = json.load(answer)["value"]["sessionId"]
                break
            except urllib.error.HTTPError as error: raise RuntimeError(json.load(error)["value"]["message"]) from error
            except OSError: time.sleep(0.1)
        window = Browser(address, session)
        yield window
    finally:
        try:
            end = urllib.request.Request(f"{address}/session/{session}", method="DELETE") if window else None
            if end: urllib.request.urlopen(end, timeout=20).close()
        except OSError: pass
        driver.terminate()
        driver.wait(10)
        shutil.rmtree(profile, ignore_errors=True)
