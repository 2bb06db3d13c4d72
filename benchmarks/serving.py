"""What a request costs, side by side in one run: a bare onnxruntime call, the service, and LitServe where it is installed.

python benchmarks/serving.py [MODEL.onnx] [seconds=5]

Without a model, a small one is written: 784 x 128 x 10. The client is a few asyncio connections that speak HTTP by hand, so that
it costs as little as possible; it runs on the same cores as the service.
"""

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[0:0] = [str(ROOT), str(ROOT / "tests")]

LITSERVE = """
import io, sys
import litserve, numpy as np
from PIL import Image
from dlops_mnist.parts.exported import ExportedModel
class Api(litserve.LitAPI):
    def setup(self, device): self.model = ExportedModel(sys.argv[1])
    def decode_request(self, request): return np.asarray(request["image"], np.uint8)
    def predict(self, image): return self.model(image[None])[0]
    def encode_response(self, output): return {"probabilities": output.tolist()}
if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu")
    server.run(port=int(sys.argv[2]), log_level="error", generate_client_file=False)
"""


def request(path: str, body: bytes, kind: str) -> bytes:
    "A request as it goes over the line."
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def ask_for(port: int, data: bytes, seconds: float, taken: list[float]) -> None:
    "Ask again and again over one connection, and note how long each answer took."
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1]))
        assert head.startswith(b"HTTP/1.1 200"), head
        taken.append(time.perf_counter() - start)
    writer.close()


async def load(port: int, data: bytes, seconds: float, connections: int) -> np.ndarray:
    "The seconds that each answer took."
    taken = []
    await asyncio.gather(*(ask_for(port, data, seconds, taken) for _ in range(connections)))
    return np.array(taken)


@contextmanager
def running(command: list[str]):
    "A server; gives the port that it says it has."
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try: yield int(re.search(r":(\d+)/", process.stdout.readline())[1])
    finally:
        process.terminate()
        process.wait(10)


def line(name: str, taken: np.ndarray, seconds: float) -> None:
    "Print a row of the table."
    p50, p99 = 1000 * np.percentile(taken, [50, 99])
    print(f"{name:44} {p50:8.3f} {p99:8.3f} {len(taken) / seconds:10.0f}")


def main(model: str | None = None, seconds: float = 5) -> None:
    "Print the table."
    from dlops_mnist.parts.exported import ExportedModel

    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            from test_serve import write_model

            model = str(write_model(Path(folder, "tiny.onnx")))
        network = ExportedModel(model)
        image = np.random.default_rng(0).integers(0, 256, network.image_shape, dtype=np.uint8)
        from dlops_mnist.parts.pictures import encode_png

        raw = request("/predict", encode_png(image), "image/png")
        pixels = request("/predict", json.dumps(image.tolist()).encode(), "application/json")
        print(f"{'':44} {'p50 ms':>8} {'p99 ms':>8} {'answers/s':>10}")
        bare, end = [], time.perf_counter() + seconds / 2
        while (start := time.perf_counter()) < end:
            network(image[None])
            bare.append(time.perf_counter() - start)
        line("onnxruntime, no service", np.array(bare), seconds / 2)
        for batch in (1, 64):
            with running([sys.executable, "-m", "dlops_mnist.serve", model, "port=0", f"batch={batch}"]) as port:
                asyncio.run(load(port, raw, 0.5, 1))
                for connections in (1, 32):
                    taken = asyncio.run(load(port, raw, seconds, connections))
                    line(f"serve, batch={batch}, {connections} connections, PNG", taken, seconds)
                line(f"serve, batch={batch}, 32 connections, JSON", asyncio.run(load(port, pixels, seconds, 32)), seconds)
        if importlib.util.find_spec("litserve") is None: return print("LitServe isn't installed here: its row is left out.")
        script = Path(folder, "lit.py")
        script.write_text(LITSERVE)
        body = request("/predict", json.dumps({"image": image.tolist()}).encode(), "application/json")
        process = subprocess.Popen([sys.executable, script, model, "18765"], cwd=ROOT, env=None)
        try:
            time.sleep(15)
            line("LitServe, 32 connections, JSON", asyncio.run(load(18765, body, seconds, 32)), seconds)
        finally: process.terminate(), process.wait(15)


if __name__ == "__main__":
    words = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
    main(next((word for word in sys.argv[1:] if "=" not in word), None), float(words.get("seconds", 5)))
