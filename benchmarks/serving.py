"""What a request costs, side by side in one run: a bare onnxruntime call, the service, and LitServe.

python benchmarks/serving.py [MODEL.onnx] [seconds=5] [litserve=PYTHON] [soak=60]

Without a model, a small one is written: one layer, 784 x 3. The client speaks HTTP by hand over plain sockets, so that it costs
as little as possible; it runs on the same cores as the service. `litserve` names the Python of an environment in which
LitServe is installed; its row is left out otherwise. Exit status 1 if a target is missed.
"""

import json
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, repeat
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[0:0] = [str(ROOT), str(ROOT / "tests")]

LITSERVE = """
import sys
sys.path.insert(0, sys.argv[3])
import litserve, numpy as np
from dlops_mnist.parts.exported import ExportedModel
class Api(litserve.LitAPI):
    def setup(self, device): self.model = ExportedModel(sys.argv[1])
    def decode_request(self, request): return np.asarray(request["image"], np.uint8)
    def batch(self, images): return np.stack(images)
    def unbatch(self, answers): return list(answers)
    def predict(self, images): return self.model(images) if images.ndim == 3 else self.model(images[None])[0]
    def encode_response(self, answer): return {"probabilities": answer.tolist()}
if __name__ == "__main__":
    more = dict(batch_timeout=0.001) if sys.argv[4] != "1" else {}
    server = litserve.LitServer(Api(max_batch_size=int(sys.argv[4]), **more), accelerator="cpu")
    server.run(port=int(sys.argv[2]), log_level="error", generate_client_file=False)
"""


def request(path: str, body: bytes, kind: str) -> bytes:
    "A request as it goes over the line."
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


HEAD = re.compile(rb"HTTP/1.1 (\d+).*?content-length: (\d+).*?\r\n\r\n", re.IGNORECASE | re.DOTALL)


class Connection:
    "One person who asks again and again: the next request goes out when the last answer has come."

    def __init__(self, port: int, requests: Iterator[bytes]):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests = requests
        self.ask()

    def ask(self) -> None:
        "Send the next request."
        self.received, self.sent = b"", time.perf_counter()
        self.socket.sendall(next(self.requests))

    def hear(self) -> tuple[int, bytes, float] | None:
        "Status, body and seconds of the answer, once all of it is there."
        part = self.socket.recv(2**16)
        if not part: raise ConnectionError("the service has hung up")
        self.received += part
        head = HEAD.match(self.received)
        if not head or len(self.received) < head.end() + int(head[2]): return None
        return int(head[1]), self.received[head.end():], time.perf_counter() - self.sent


def converse(port: int, people: list[Iterator[bytes]], seconds: float, heard: Callable) -> None:
    "All ask at once for so long; `heard` is told the number of who has asked, status, body and seconds of each answer."
    end = time.perf_counter() + seconds
    with selectors.DefaultSelector() as ready:
        for number, requests in enumerate(people):
            one = Connection(port, requests)
            ready.register(one.socket, selectors.EVENT_READ, (number, one))
        while ready.get_map():
            for key, _ in ready.select():
                number, one = key.data
                if not (answer := one.hear()): continue
                heard(number, *answer)
                if time.perf_counter() < end: one.ask()
                else: ready.unregister(one.socket), one.socket.close()


def load(port: int, data: bytes, seconds: float, connections: int) -> np.ndarray:
    "The seconds that each answer took."
    taken = []

    def heard(number: int, status: int, body: bytes, seconds: float) -> None:
        assert status == 200, body
        taken.append(seconds)

    converse(port, [repeat(data)] * connections, seconds, heard)
    return np.array(taken)


def processor_seconds(group: int) -> float:
    "Seconds of processor time that a group of processes has taken so far."
    total = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()  # as `man proc` has them, without the first two
            if int(fields[2]) == group: total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(*words: str):
    "A service; gives its process, whose `port` it is."
    command = [sys.executable, "-m", "dlops_mnist.serve", *words, "port=0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        process.port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        yield process
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def litserve(python: str, folder: str, model: str, batch: str, port: int):
    "LitServe with the same model; gives its process, whose `port` it is, as soon as it answers."
    script = Path(folder, "lit.py")
    script.write_text(LITSERVE)
    command = [python, script, model, str(port), ROOT, batch]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(60):
            time.sleep(1)
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)): break
        time.sleep(2)
        process.port = port
        yield process
    finally: os.killpg(process.pid, signal.SIGKILL)  # with its workers, which outlive it otherwise


def line(name: str, taken: np.ndarray, seconds: float) -> tuple[float, float, float]:
    "Print a row of the table: 50th and 99th percentile in ms, answers a second."
    row = (*(1000 * np.percentile(taken, [50, 99])), len(taken) / seconds)
    print(f"{name:44} {row[0]:8.3f} {row[1]:8.3f} {row[2]:10.0f}", flush=True)
    return row


def crowd(name: str, process: subprocess.Popen, body: bytes, seconds: float) -> tuple[float, float]:
    "32 connections: print a row; answers a second, and milliseconds of processor time for each."
    load(process.port, body, 0.5, 32)
    before = processor_seconds(process.pid)
    taken = load(process.port, body, seconds, 32)
    return line(name, taken, seconds)[2], 1000 * (processor_seconds(process.pid) - before) / len(taken)


def told(name: str, value: float, bound: float, at_least: bool = False) -> bool:
    "Print whether a target is reached."
    reached = value >= bound if at_least else value <= bound
    wanted = f"{'at least' if at_least else 'at most'} {bound:g}"
    print(f"  {name}: {value:.3g}; wanted: {wanted}: {'reached' if reached else 'MISSED'}", flush=True)
    return reached


def bare(network, image: np.ndarray, seconds: float) -> np.ndarray:
    "The seconds of calls without a service."
    taken, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        network(image[None])
        taken.append(time.perf_counter() - start)
    return np.array(taken)


def one_connection(model: str, network, image: np.ndarray, raw: bytes, seconds: float, rounds: int = 5) -> list[bool]:
    "A bare call, the service without batches and with them, in turn: what the way costs, and what batching costs nobody."
    names = ("onnxruntime, no service", *(f"serve, batch={batch}, 1 connection, PNG" for batch in (1, 64)))
    found = {name: [] for name in names}
    with running(model, "batch=1") as without, running(model) as batching:
        for process in (without, batching): load(process.port, raw, 0.5, 1)
        for _ in range(rounds):
            for name, process in zip(names, (None, without, batching)):
                t = seconds / rounds
                found[name].append(load(process.port, raw, t, 1) if process else bare(network, image, t))
    rows = [line(name, np.concatenate(parts), seconds) for name, parts in found.items()]
    each = [[1000 * np.percentile(part, 50) for part in parts] for parts in found.values()]
    slower = statistics.median(b - a for a, b in zip(*each[1:]))
    return [told("p50 above a bare call, ms", rows[2][0] - rows[0][0], 0.5),
            told("p99 above a bare call, ms", rows[2][1] - rows[0][1], 1.0),
            told("batching at one connection slower by, ms (median of rounds)", slower, 0.1)]


def many_connections(model: str, image: np.ndarray, raw: bytes, seconds: float, folder: str, python: str | None) -> list[bool]:
    "32 connections, against LitServe with the same body: as it comes, which is without batches, and with them."
    numbers = image.tolist()
    pixels, wrapped = (request("/predict", json.dumps(body).encode(), "application/json") for body in (numbers, {"image": numbers}))
    for batch in ("1", "64"):
        with running(model, f"batch={batch}") as process:
            crowd(f"serve, batch={batch}, 32 connections, PNG", process, raw, seconds)
            ours = crowd(f"serve, batch={batch}, 32 connections, JSON", process, pixels, seconds)
    if not python: return print("LitServe's row is left out: litserve=PYTHON names an environment that has it.") or []
    theirs = {}
    for batch, port in (("1", 18765), ("64", 18766)):
        with litserve(python, folder, model, batch, port) as process:
            theirs[batch] = crowd(f"LitServe, batch={batch}, 32 connections, JSON", process, wrapped, seconds)
    one, many = theirs.values()
    print(f"  processor time for an answer: {ours[1]:.2f} ms; LitServe's {one[1]:.2f} ms, with batches {many[1]:.2f} ms")
    print(f"  times as many answers a second as LitServe with batches: {ours[0] / many[0]:.3g}")
    return [told("times as many answers a second as LitServe as it comes", ours[0] / one[0], 5, at_least=True)]


def memory(process: subprocess.Popen) -> float:
    "MB in memory."
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1000


def flood(port: int, bodies: list[tuple[bytes, int, dict | None]], seconds: float, counts: dict) -> None:
    "Send bodies over many connections without a pause; count the answers by status, and those that are not as they should be."
    turns = [cycle(bodies[i % len(bodies):] + bodies[:i % len(bodies)]) for i in range(32)]
    asked = [None] * len(turns)

    def requests(number: int) -> Iterator[bytes]:
        for body in turns[number]:
            asked[number] = body
            yield body[0]

    def heard(number: int, status: int, body: bytes, seconds: float) -> None:
        _, wanted, answer = asked[number]
        counts[status] = counts.get(status, 0) + 1
        right = status == 503 or status == wanted and (not answer or json.loads(body) == answer)
        counts["wrong"] = counts.get("wrong", 0) + (not right)

    converse(port, [requests(number) for number in range(len(turns))], seconds, heard)


def soak(model: str, network, seconds: float) -> list[bool]:
    "Twice as many requests at once as the queue takes, bad bodies among them."
    from dlops_mnist.parts.pictures import encode_png
    from dlops_mnist.serve import describe

    images = np.random.default_rng(1).integers(0, 256, (16, *network.image_shape), dtype=np.uint8)
    good = [(request("/predict", encode_png(i), "image/png"), 200, describe(network, network(i[None])[0], 0.8)) for i in images]
    bad = [(request("/predict", body, kind), 422, None) for body, kind in (
        (b"no picture", "image/png"), (b"[1, 2]", "application/json"), (b"{", "application/json"),
        (encode_png(images[0])[:60], "image/png"))]
    counts, sizes = {}, []
    # a queue of 16 images and 32 people who never pause: twice what it can take
    with running(model, "waiting=16", "batch=8") as process:
        flood(process.port, good + bad, 2, {})
        for _ in range(4):
            sizes.append(memory(process))
            flood(process.port, good + bad, seconds / 4, counts)
        sizes.append(memory(process))
    wrong = counts.pop("wrong")
    errors = sum(count for status, count in counts.items() if status >= 500 and status != 503)
    print(f"soak, {seconds:.0f} s: answers by status {dict(sorted(counts.items()))}; MB {[round(size, 1) for size in sizes]}")
    return [told("5xx besides 503", errors, 0), told("answers that are not right", wrong, 0),
            told("refused with 503", counts.get(503, 0), 1, at_least=True), told("memory grows by, MB", sizes[-1] - sizes[0], 5)]


def main(model: str | None = None, seconds: str = "5", litserve: str | None = None, soak_seconds: str = "60") -> bool:
    "Print the table; whether all targets are reached."
    from dlops_mnist.parts.exported import ExportedModel
    from dlops_mnist.parts.pictures import encode_png

    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            from test_serve import write_model

            model = str(write_model(Path(folder, "tiny.onnx")))
        network = ExportedModel(model)
        image = np.random.default_rng(0).integers(0, 256, network.image_shape, dtype=np.uint8)
        raw = request("/predict", encode_png(image), "image/png")
        print(f"{'':44} {'p50 ms':>8} {'p99 ms':>8} {'answers/s':>10}")
        reached = one_connection(model, network, image, raw, float(seconds))
        reached += many_connections(model, image, raw, float(seconds), folder, litserve)
        reached += soak(model, network, float(soak_seconds))
    return all(reached)


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if "soak" in words: words["soak_seconds"] = words.pop("soak")
    sys.exit(not main(next((word for word in sys.argv[1:] if "=" not in word), None), **words))
