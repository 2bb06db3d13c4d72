"""Input from strangers: experiments, words, pictures, checkpoints and runs that are damaged, or were made to do harm.

Whatever comes in, a function of ours returns or raises `UserError` with a message. Nothing of the input is executed, and
no file is written but where it should be; an audit hook of Python's sees to that in every single case.
"""

import io
import json
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import zipfile
import zlib
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dlops_mnist.config import diff, load_config
from dlops_mnist.parts import images as images_module
from dlops_mnist.parts.compose import compose_jobs
from dlops_mnist.parts.core import UserError, flatten, plain
from dlops_mnist.parts.images import open_images
from dlops_mnist.parts.launch import split_command
from dlops_mnist.parts.pictures import SIGNATURE, BadImage, Look, decode, encode_png
from dlops_mnist.parts.runfolder import Run, check_name, find_runs, new_run
from dlops_mnist.parts.settings import GROUPS
from dlops_mnist.parts.yamlfile import to_yaml
from dlops_mnist.runs import plot_runs, print_runs, runs_table

ROOT = Path(__file__).parents[1]
SEED = int(os.environ["TEST_SEED"])

# --- the harness ---

HARMLESS = {"find", "git", "uname"}  # programs that the package itself starts
WATCHED = {"allowed": None, "seen": []}


def _watch(event: str, args: tuple) -> None:
    allowed = WATCHED["allowed"]
    if allowed is None:
        return
    if event in ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "code.__new__"):
        WATCHED["seen"].append((event, args))
    if event == "subprocess.Popen" and os.path.basename(os.fspath(args[1][0])) not in HARMLESS:
        WATCHED["seen"].append((event, args))
    paths = ()
    if event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[2], int):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            paths = args[:1]
    elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"):
        paths = args[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = args[:2]
    for path in paths:
        if isinstance(path, int):
            continue
        path = os.path.join(
            os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path)))), os.path.basename(os.fsdecode(path))
        )
        # bytecode of modules that are imported late is Python's own business
        if (
            path != os.devnull
            and "__pycache__" not in path
            and not any(path.startswith(f"{folder}{os.sep}") or path == folder for folder in allowed)
        ):
            WATCHED["seen"].append((event, path))


sys.addaudithook(_watch)


class Endless(BaseException):
    "A case took too long. (No `Exception`: nothing may take it for a damaged file.)"


def too_long(number, frame):
    raise Endless


@contextmanager
def harmless(*folders: Path, seconds: int = 120):
    "Nothing may be executed here, nothing be written but in these folders, and it must end (in far less time)."
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    WATCHED.update(allowed=[os.path.realpath(folder) for folder in folders], seen=[])
    try:
        yield
    finally:
        signal.alarm(0)
        WATCHED["allowed"] = None
    assert not WATCHED["seen"], WATCHED["seen"]


def outcome(function, *args, **kwargs):
    "What a function returns, or the `UserError` that it raises; anything else that it raises is a crash."
    try:
        return function(*args, **kwargs)
    except UserError as error:
        assert str(error).strip(), "a mistake without a message"
        assert len(str(error)) < 20_000, f"a message of {len(str(error)):,} characters"
        return error


def fuzz(quick: int, slow: int, *strategies):
    "A test that calls `check(case..., tmp_path)` for so many cases."

    def decorate(check):
        @pytest.mark.parametrize("cases", [quick, pytest.param(slow, marks=pytest.mark.slow)])
        def test(cases, tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)

            def one(case):
                check(*case, tmp_path)

            one = given(st.tuples(*strategies))(one)
            for example_ in getattr(check, "examples", ()):
                one = example(example_)(one)
            settings(max_examples=cases, suppress_health_check=list(HealthCheck))(one)()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def cut_and_flip(data: bytes, numbers: random.Random) -> bytes:
    "Bytes that are nearly the same: bits flipped, a piece cut out, doubled or overwritten, or the end missing."
    data = bytearray(data)
    for _ in range(numbers.choice((1, 1, 1, 2, 5, 30))):
        if not data:
            break
        start = numbers.randrange(len(data))
        stop = min(len(data), start + numbers.choice((1, 2, 4, 30, 400)))
        match numbers.randrange(6):
            case 0 | 1:
                data[start] ^= 1 << numbers.randrange(8)
            case 2:
                del data[start:stop]
            case 3:
                data[start:start] = data[start:stop]
            case 4:
                data[start:stop] = numbers.randbytes(stop - start)
            case 5:
                del data[start:]
    return bytes(data)


randoms = st.integers(0, 2**32).map(random.Random)

# --- experiment files and the command line ---

TOUCH = "touch SENTINEL"
KEYS = [*flatten(load_config({}))] + [*GROUPS] + [f"{group}._target_" for group in GROUPS]
ODD_KEYS = [
    "hydra",
    "hydra.run.dir",
    "hydra.callbacks.x._target_",
    "_target_",
    "defaults",
    "",
    ".",
    "a..b",
    "a b",
    "é",
    "<<",
    "=",
    "~",
    "__class__",
    "callbacks.x._target_",
    "callbacks.x",
    "logger.x",
    "paths",
    "model._args_",
    "model._partial_",
    "experiment",
    "name",
    "optimizer.params",
    "trainer.callbacks",
    "trainer.strategy",
    "trainer.plugins",
    "datamodule",
    "_convert_",
    "@",
    "a@b",
    "a/b",
]
ODD_TEXT = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "torch.hub.load",
    "torch.load",
    "pickle.loads",
    "__main__.x",
    "${oc.env:HOME}",
    "${seed}",
    "${hydra:run.dir}",
    "${oc.create:{_target_:os.system}}",
    "???",
    "../../x",
    "/etc/passwd",
    "\x00",
    "\ud800",
    "é" * 50,
    "none",
    "null",
    "true",
    "1e400",
    "0x10",
    "[1,2",
    "{a:1",
    "'",
    '"',
    "\\",
    "a=b",
    "choice(1,2)",
    "range(1,3)",
    "dlops_mnist.networks.MLP",
    "torch.nn.Linear",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "torch.optim.SGD",
    "dlops_mnist",
    "pytorch_lightning.callbacks.LambdaCallback",
    "pytorch_lightning.Trainer",
    ".",
    "..",
    "a.",
    ".a",
    "torch..nn",
    "1.2",
    "-",
    "~",
]

keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.sampled_from(ODD_KEYS), st.text(max_size=8))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.sampled_from(ODD_TEXT),
    st.text(max_size=12),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(keys, st.sampled_from(["_target_", "name", "params", "lib", "path", "hidden"])), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
experiments = st.dictionaries(keys, values, min_size=1, max_size=4)


@st.composite
def experiment_files(draw) -> bytes:
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return yaml.safe_dump(draw(experiments), allow_unicode=draw(st.booleans())).encode(errors="surrogatepass")
    if kind == 9:
        return draw(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda t: t.encode(errors="replace"))))
    source = draw(st.sampled_from(sorted((ROOT / "experiments").glob("*.yml")))).read_bytes()
    return cut_and_flip(source, draw(randoms))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk")
)
NAMED_FILES = {
    "billion laughs": BOMB,
    "billion laughs in mappings": "a: &a {x: 1, y: 2}\n"
    + "".join(
        f"{b}: &{b} {{" + ", ".join(f"k{i}: *{a}" for i in range(9)) + "}\n" for a, b in zip("abcdefghij", "bcdefghijk")
    ),
    "contains itself": "model: &a {x: *a}",
    "list in itself": "model: &a [*a]",
    "merge in itself": "model: &a {<<: *a}",
    "python object": "model: !!python/object/apply:os.system ['touch SENTINEL']",
    "python name": "model: !!python/name:os.system",
    "hydra callback": f"hydra: {{callbacks: {{x: {{_target_: os.system, command: {TOUCH}}}}}}}",
    "hydra folder": "hydra.run.dir: evil",
    "hydra logging": "hydra.job_logging: {version: 1, handlers: {x: {class: logging.FileHandler, filename: SENTINEL}}, "
                     "root: {handlers: [x]}}",
    "hydra search path": "hydra.searchpath: [file://.]",
    "hydra launcher": f"hydra.launcher: {{_target_: os.system, command: {TOUCH}}}",
    "call": f"model: {{_target_: os.system, command: {TOUCH}}}",
    "call in a list": "callbacks.x: {_target_: pytorch_lightning.callbacks.Timer, "
                      f"duration: [{{_target_: os.system, _args_: ['{TOUCH}']}}]}}",
    "eval": 'optimizer: {_target_: builtins.eval, _args_: [\'open("SENTINEL", "w")\']}',
    "late target": "model: {_target_: '${name}', command: x}\nname: os.system",
    "resolver": "model: '${oc.create:{_target_:os.system}}'",
    "environment": "experiment: ${oc.env:HOME}",
    "deep list": "model: " + "[" * 20_000,
    "deep map": "model: " + "{a: " * 20_000,
    "deep whole": "model: " + "[" * 900 + "]" * 900,
    "deep indent": "".join(" " * i + "a:\n" for i in range(300)),
    "wide": "callbacks: {" + ", ".join(f"k{i}: {{_target_: x.y}}" for i in range(3000)) + "}",
    "wide list": "model.hidden: [" + "1, " * 1000 + "]",
    "huge number": "seed: " + "9" * 10_000,
    "huge octal": "seed: 0" + "7" * 100_000,
    "sexagesimal": "seed: " + "1" + ":59" * 2000,
    "long key": "k" * 100_000 + ": 1",
    "long line": "name: " + "x" * 200_000,
    "empty int": "seed: !!int ''",
    "empty float": "seed: !!float ''",
    "no bool": "seed: !!bool 'maybe'",
    "bad date": "seed: !!timestamp '99999-99-99'",
    "no date": "seed: !!timestamp 'x'",
    "binary": "seed: !!binary 'AA'",
    "set": "seed: !!set {a, b}",
    "omap": "seed: !!omap [a: 1]",
    "list key": "? [a, b]\n: 1",
    "map key": "? {a: b}\n: 1",
    "null key": "null: 1",
    "number key": "1: 1",
    "two documents": "seed: 1\n---\nseed: 2",
    "no document": "---\n...\n",
    "directive": "%YAML 9.9\n---\nseed: 1",
    "undefined alias": "seed: *x",
    "tab": "model:\n\thidden: [1]",
    "byte order mark": "\ufeffseed: 1",
    "utf-16": "seed: 1".encode("utf-16"),
    "latin-1": "name: é".encode("latin-1"),
    "zero bytes": b"\0" * 100,
    "text": "hello",
    "only a comment": "# nothing",
    "a section within a list": "model.hidden: {datamodule.path: null}",
    "experiment outside": "experiment: ../../x",
    "name outside": "name: ../../x\nseed: 1",
    "absolute name": "name: /nowhere/x",
}


def read_a_file(data: bytes, folder: Path):
    "An experiment file read as `train` reads it."
    file = folder / "experiment.yml"
    file.write_bytes(data)
    with harmless(folder):
        config = outcome(load_config, file)
        if not isinstance(config, UserError):
            outcome(compose_jobs, str(file), [], False)
        found = set(os.listdir(folder))
    assert found == {"experiment.yml"}, "reading a file must write nothing"
    return config


@fuzz(25, 2000, experiment_files())
def test_experiment_files(data, folder):
    config = read_a_file(data, folder)
    # what is accepted is whole: it can be written, and read back to the same
    if not isinstance(config, UserError):
        (folder / "experiment.yml").write_text(to_yaml(config))
        again = load_config(folder / "experiment.yml")
        assert repr(again) == repr(config)


@pytest.mark.parametrize("name", NAMED_FILES)
def test_experiment_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = NAMED_FILES[name]
    read_a_file(data if isinstance(data, bytes) else data.encode(), tmp_path)


WORDS = [
    "seed=",
    "model=",
    "~model",
    "~scheduler",
    "+x=",
    "++x=",
    "trainer.max_epochs=",
    "callbacks=",
    "logger=",
    "optimizer.lr=",
    "experiment=",
    "name=",
    "hydra.verbose=",
    "model@x=",
    "hydra/launcher=",
    "paths.runs=",
    "datamodule.path=",
    "model.hidden=",
    "--cfg",
    "-m",
    "debug=",
    "augment=",
    "scheduler.",
    "resume=",
    "ckpt_path=",
    "001",
    "--config-dir",
    "callbacks.early_stopping.patience=",
]
VALUES = [
    "1",
    "1,2",
    "a,b",
    "[1,2]",
    "{a:1}",
    "choice(1,2)",
    "range(1,4)",
    "glob(*)",
    "interval(0,1)",
    "shuffle(1,2)",
    "sort(3,1)",
    "int(x)",
    "str(1)",
    "json_str('{}')",
    "extend_list(1)",
    "${seed}",
    "${oc.env:HOME}",
    "'",
    '"x',
    "\\",
    "[",
    "{",
    "(",
    "mlp",
    "cnn",
    "[early_stopping]",
    "null",
    "???",
    "1e-3",
    "nan",
    "-inf",
    "0x1f",
    "10_0",
    "a b",
    "a=b",
    "../../x",
    "os.system",
    "{_target_:os.system}",
    "\x00",
    "é",
    "=",
    "==",
    ":",
    "tag(a,1)",
]
words = st.one_of(
    st.builds(str.__add__, st.sampled_from(WORDS), st.sampled_from(VALUES)),
    st.builds(str.__add__, st.sampled_from(WORDS), st.text(max_size=6)),
    st.builds("{}={}".format, keys, scalars),
    st.text(min_size=1, max_size=10),
)


@fuzz(25, 2000, st.lists(words, min_size=1, max_size=3), st.booleans())
def test_words_of_a_command_line(typed, multirun, folder):
    def command():
        experiment, overrides, _ = split_command(typed)
        return compose_jobs(experiment, overrides, multirun)

    with harmless(folder):
        outcome(command)
    assert not os.listdir(folder)


@pytest.mark.parametrize(
    "word",
    [
        "seed=range(1000000000)",
        "seed=glob(*)",
        "seed=interval(0,1)",
        "seed=range(0,1,1e-9)",
        "seed=" + ",".join(map(str, range(3000))),
        "model.hidden=" + "[" * 3000,
        "seed=" + "9" * 10_000,
        "x" * 100_000,
        "a=" * 10_000,
    ],
)
def test_words_that_ask_for_too_much(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with harmless(tmp_path):
        assert isinstance(outcome(compose_jobs, None, [word], False), UserError)


# --- pictures ---

PIXELS = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    "A picture as Pillow writes it."
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    "A part of a PNG file, its checksum right."
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width=28, height=28, depth=8, kind=0, interlaced=0, rows=None, between=b"", method=0, filters=0) -> bytes:
    "A PNG file that may claim whatever it likes, every checksum right."
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS) if rows is None else rows
    header = struct.pack(">IIBBBBB", width, height, depth, kind, method, filters, interlaced)
    return SIGNATURE + chunk(b"IHDR", header) + between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


GREY, COLOUR = Image.fromarray(PIXELS), Image.fromarray(np.stack([PIXELS] * 3, -1))
ZEROS = b"\0" * 50_000_000  # 50 kB when they are compressed
PICTURES = {
    "stored": encode_png(PIXELS),
    "filtered": saved(GREY),
    "colour": saved(COLOUR),
    "alpha": saved(COLOUR.convert("RGBA")),
    "grey with alpha": saved(GREY.convert("LA")),
    "palette": saved(COLOUR.quantize(16)),
    "one bit": saved(GREY.convert("1")),
    "16 bits": saved(Image.fromarray(PIXELS.astype(np.uint16) * 257)),
    "transparent": saved(GREY, transparency=3),
    "animated": saved(GREY, save_all=True, append_images=[GREY.rotate(90)]),
    "interlaced": png(interlaced=1),
    "JPEG": saved(GREY, "JPEG"),
    "GIF": saved(GREY, "GIF"),
    "BMP": saved(GREY, "BMP"),
    "TIFF": saved(GREY, "TIFF"),
    "WebP": saved(GREY, "WEBP"),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(SENTINEL) (w) file\n",
    "HTML": b"<html></html>",
    "empty": b"",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "signature": SIGNATURE,
    "no end": encode_png(PIXELS)[:-12],
    "bomb of rows": png(rows=ZEROS),
    "bomb of size": png(2**31 - 1, 2**31 - 1),
    "wide": png(2**31 - 1, 1),
    "large and empty": png(8192, 8192, rows=b""),
    "large and real": png(8192, 8192, rows=b"\0" * (8192 * 8193)),
    "too large": png(8193, 8192, rows=b"\0" * 100),
    "colour bomb": png(8192, 8192, kind=2, rows=ZEROS),
    "palette without colours": png(kind=3),
    "1x1": png(1, 1, rows=b"\0\7"),
    "0x0": png(0, 0),
    "unknown packing": png(method=1),
    "unknown filtering": png(filters=1),
    "text bomb": png(between=chunk(b"zTXt", b"x\0\0" + zlib.compress(ZEROS))),
    "profile bomb": png(between=chunk(b"iCCP", b"x\0\0" + zlib.compress(ZEROS))),
    "text bomb in colour": png(
        kind=2,
        rows=b"".join(b"\0" + bytes(84) for _ in range(28)),
        between=chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(ZEROS)),
    ),
    "two headers": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)) + encode_png(PIXELS)[8:],
    "filter 9": png(rows=b"".join(b"\x09" + row.tobytes() for row in PIXELS)),
    "many empty parts": png(between=chunk(b"tEXt", b"") * 20_000),
    "negative length": SIGNATURE + b"\xff\xff\xff\xff" + b"IHDR" + bytes(20),
    "garbage behind": encode_png(PIXELS) + ZEROS[:100],
}


@st.composite
def pictures(draw) -> bytes:
    if draw(st.integers(0, 3)) == 0:  # whatever a header can claim, with checksums that are right
        size = st.one_of(st.just(28), st.integers(0, 60), st.integers(0, 2**32 - 1))
        small = st.integers(0, 255)
        return png(
            draw(size),
            draw(size),
            draw(st.sampled_from([8, 8, 1, 2, 4, 16, 0, 255])),
            draw(st.sampled_from([0, 0, 2, 3, 4, 6, 7])),
            draw(st.sampled_from([0, 0, 1, 2])),
            cut_and_flip(b"".join(b"\0" + r.tobytes() for r in PIXELS), draw(randoms)),
            b"",
            draw(st.sampled_from([0, 0, 1])),
            draw(st.one_of(st.just(0), small)),
        )
    name = draw(st.sampled_from([name for name, data in PICTURES.items() if len(data) < 5000]))
    numbers = draw(randoms)
    data = cut_and_flip(PICTURES[name], numbers)
    if numbers.random() < 0.5 and data[:8] == SIGNATURE:  # damage that no checksum shows
        parts, position = [SIGNATURE], 8
        while position + 12 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            body = data[position + 8 : position + 8 + min(length, 10_000)]
            parts.append(chunk(kind, cut_and_flip(body, numbers) if numbers.random() < 0.3 else body))
            position += 12 + len(body)
        data = b"".join(parts)
    return data


def decoded(data: bytes, color):
    try:
        return decode(data, Look(color=color))
    except BadImage as error:
        assert 0 < len(str(error)) < 300
        return None


@fuzz(500, 20_000, pictures(), st.sampled_from([False, True, "grey"]))
def test_pictures(data, color, folder):
    with harmless():
        pixels = decoded(data, color)
    if pixels is None:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == (3 if color is True else 2)
    # whatever we read, Pillow, which the world trusts, reads as well, and to the same
    try: (picture := Image.open(io.BytesIO(data))).load()
    except (OSError, ValueError, SyntaxError): return  # it wants chunks that we don't look at to be whole, too
    transparent = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    if picture.format != "PNG" or transparent: return  # what is lossy or transparent is a matter of choice
    there = np.asarray(picture.convert("RGB" if color is True else "L"))
    assert np.array_equal(pixels, there.transpose(2, 0, 1) if color is True else there)


@pytest.mark.parametrize("name", PICTURES)
def test_picture(name):
    for color in (False, True, "grey"):
        with harmless():
            decoded(PICTURES[name], color)


def in_a_process(function, memory: int | None = None, seconds: int = 120):
    "What `function` returns in a process of its own, which may take so many bytes more than it has."
    import multiprocessing
    import resource

    def run(sender):
        if memory:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
        try:
            sender.send(function())
        except BaseException as error:
            sender.send(error)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(sender,), daemon=False)
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(seconds) else TimeoutError(f"not done in {seconds} s")
    except EOFError:
        answer = RuntimeError("the process died")
    process.kill()
    process.join()
    if isinstance(answer, BaseException):
        raise answer
    return answer


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_pictures_that_burst_stay_small():
    "None of the bombs takes more than a gigabyte: the largest picture that is allowed, in colour, and a few copies."
    assert in_a_process(
        lambda: [decoded(data, color) is None for data in PICTURES.values() for color in (False, True, "grey")],
        memory=10**9,
    )


@fuzz(10, 1000, st.lists(pictures(), min_size=1, max_size=4), st.sampled_from([False, "grey"]))
def test_datasets_with_bad_pictures(odd, color, folder):
    shutil.rmtree(folder / "images", ignore_errors=True)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(2):
                (folder / "images" / split / name / f"{i}.png").write_bytes(encode_png(np.roll(PIXELS, i)))
    for i, data in enumerate(odd):
        (folder / "images/train/a" / f"odd{i}.png").write_bytes(data)
    good = [decoded(data, color) for data in odd]
    with harmless(folder / "images"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_module.time, "sleep", lambda seconds: None)
        arrays = outcome(open_images, folder / "images", color)
    # all or nothing: a picture that can't be read is named, and never left out
    usable = all(pixels is not None and pixels.shape == (28, 28) for pixels in good)
    assert isinstance(arrays, UserError) != usable
    if usable:
        assert len(arrays.splits["train"]["images"]) == 4 + len(odd)
    else:
        assert any(f"odd{i}.png" in str(arrays) for i in range(len(odd)))


# --- checkpoints ---


class Call:
    "What a pickle needs to call a function when it is read."

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict:
    "What a checkpoint of ours holds, and its file."
    import torch

    from dlops_mnist.models import MNISTModule

    config = plain(
        load_config({"model.hidden": [4], "datamodule.classes": ["3", "no3"], "datamodule.image_shape": [28, 28]})
    )
    module = MNISTModule(config)
    content = {
        "hyper_parameters": config,
        "state_dict": module.state_dict(),
        "dlops_mnist": {"fingerprint": "abc"},
        "epoch": 1,
        "pytorch-lightning_version": "2.6.0",
    }
    file = tmp_path_factory.mktemp("good") / "good.ckpt"
    torch.save(content, file)
    return {"content": content, "bytes": file.read_bytes(), "weights": module.state_dict()}


def read_a_checkpoint(file: Path, settings: bool = True):
    "A checkpoint read by all that read checkpoints (or `settings`); returns its module, or the mistake."
    from dlops_mnist.models import load, load_module

    with harmless():
        module = outcome(load_module, file)
    with harmless():
        trained = outcome(load, file)
        assert isinstance(trained, UserError) == isinstance(module, UserError)
        if settings and not isinstance(outcome(load_config, file), UserError):
            outcome(compose_jobs, str(file), ["seed=1"], False)
    assert not Path("SENTINEL").exists()
    return module


@pytest.mark.parametrize("cases", [20, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_checkpoints(cases, good, tmp_path, monkeypatch):
    "A checkpoint with flipped bits, or a piece missing, is refused, or gives just the weights that were saved."
    import torch

    monkeypatch.chdir(tmp_path)
    numbers, refused = random.Random(cases + SEED), 0
    for _ in range(cases):
        (tmp_path / "x.ckpt").write_bytes(cut_and_flip(good["bytes"], numbers))
        module = read_a_checkpoint(tmp_path / "x.ckpt")
        if isinstance(module, UserError):
            refused += 1
        else:
            assert all(
                torch.equal(a, b) for a, b in zip(module.state_dict().values(), good["weights"].values(), strict=True)
            )
    assert refused > cases / 2


@fuzz(
    15,
    3000,
    st.dictionaries(keys, values, min_size=1, max_size=3),
    st.sampled_from(["hyper_parameters", "state_dict", "top", "dlops_mnist"]),
    st.booleans(),
)
def test_checkpoints_with_other_content(changes, place, deep, folder):
    import torch

    content = dict(test_checkpoints_with_other_content.good["content"])
    if place == "top":
        content |= changes
    elif not deep:
        content[place] = content[place] | changes
    else:
        content[place] = {
            key: changes if i % 3 == len(changes) % 3 else value
            for i, (key, value) in enumerate(content[place].items())
        }
    torch.save(content, folder / "x.ckpt")
    # composing takes longer than all else, and would say the same again where the settings are as they were
    read_a_checkpoint(folder / "x.ckpt", settings=place == "hyper_parameters")


@pytest.fixture(autouse=True)
def _good_for_fuzz(request):
    # what hypothesis calls has no fixtures
    if "other_content" in request.node.name:
        test_checkpoints_with_other_content.good = request.getfixturevalue("good")


def knot() -> dict:
    inside = {}
    inside["deeper"] = inside
    return inside


def bush() -> list:
    inside = ["x"]
    for _ in range(40):
        inside = [inside] * 9
    return inside


def strange_checkpoints(good: dict) -> dict[str, bytes]:
    "Checkpoints made to do harm, by name."
    import torch

    def saved(content, **kwargs) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, **kwargs)
        return file.getvalue()

    def zipped(entries: dict[str, bytes], method=zipfile.ZIP_STORED) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        return file.getvalue()

    def config(**changes):
        return saved(content | {"hyper_parameters": content["hyper_parameters"] | changes})

    content = good["content"]
    with zipfile.ZipFile(io.BytesIO(good["bytes"])) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    calls = {
        "system": Call(os.system, TOUCH),
        "open": Call(open, "SENTINEL", "w"),
        "eval": Call(eval, "open('SENTINEL', 'w')"),
        "exec": Call(exec, "open('SENTINEL', 'w')"),
        "unlink": Call(os.unlink, "x.ckpt"),
        "import": Call(__import__, "antigravity"),
    }
    huge = torch.zeros(1).expand(10**6, 10**6)
    model = content["hyper_parameters"]["model"]
    return {
        **{f"{name} as a pickle": pickle.dumps(call) for name, call in calls.items()},
        **{
            f"{name} in the settings": saved(content | {"hyper_parameters": {"x": call}})
            for name, call in calls.items()
        },
        **{f"{name} in the weights": saved(content | {"state_dict": {"x": call}}) for name, call in calls.items()},
        **{
            f"{name} as the archive's pickle": zipped(entries | {pickled: pickle.dumps(call, 2)})
            for name, call in calls.items()
        },
        **{
            f"{name} in the old format": saved({"state_dict": call}, _use_new_zipfile_serialization=False)
            for name, call in calls.items()
        },
        "packed": zipped(entries, zipfile.ZIP_DEFLATED),
        "packed zeros": zipped(entries | {"archive/data/0": ZEROS}, zipfile.ZIP_DEFLATED),
        "a whole network": saved(torch.nn.Linear(2, 2)),
        "a list": saved([1, 2]),
        "a tensor": saved(torch.zeros(2)),
        "nothing": saved(None),
        "old format": saved(content, _use_new_zipfile_serialization=False),
        "empty": b"",
        "empty archive": zipped({}),
        "text": b"hello",
        "PNG": PICTURES["stored"],
        "knot": config(model=knot()),
        "bush": config(model=bush()),
        "knot as settings": saved(content | {"hyper_parameters": knot()}),
        "no settings": saved({"state_dict": {}}),
        "settings that are a list": saved(content | {"hyper_parameters": [1]}),
        "settings that are a tensor": saved(content | {"hyper_parameters": torch.zeros(3)}),
        "tensor as a setting": config(seed=torch.zeros(3)),
        "tuple as a name": saved(content | {"hyper_parameters": content["hyper_parameters"] | {(1, 2): 3}}),
        "bytes": config(model=b"abc"),
        "huge tensor": saved(content | {"state_dict": {"x": huge}}),
        "huge weights": saved(content | {"state_dict": {name: huge for name in content["state_dict"]}}),
        "huge network": config(model=model | {"hidden": [10**9, 10**9]}),
        "large network": config(model=model | {"hidden": [60_000, 60_000]}),
        "deep network": config(model=model | {"hidden": [1] * 400}),
        "negative network": config(model=model | {"hidden": [-1]}),
        "text network": config(model=model | {"hidden": "many"}),
        "no network": config(model={}),
        "network of nothing": config(model=None),
        "program as a network": config(model={"_target_": "os.system", "command": TOUCH}),
        "other class": config(model={"_target_": "torch.nn.Transformer"}),
        "code from the network": config(model={"_target_": "torch.hub.load", "repo_or_dir": "x/y"}),
        "many classes": config(datamodule={"classes": ["x"] * 10**5}),
        "large images": config(datamodule=content["hyper_parameters"]["datamodule"] | {"image_shape": [10**6, 10**6]}),
        "no classes": config(datamodule={}),
        "wrong classes": config(datamodule={"classes": 3, "image_shape": "x"}),
        "weights that are text": saved(content | {"state_dict": {name: "x" for name in content["state_dict"]}}),
        "weights of another type": saved(
            content
            | {"state_dict": {name: weight.to(torch.complex64) for name, weight in content["state_dict"].items()}}
        ),
        "weights without storage": saved(
            content | {"state_dict": {name: weight.to("meta") for name, weight in content["state_dict"].items()}}
        ),
        "names that are numbers": saved(content | {"state_dict": dict(enumerate(content["state_dict"].values()))}),
        "record that is text": saved(content | {"dlops_mnist": "x"}),
        "record of a list": saved(content | {"dlops_mnist": {"fingerprint": [1]}}),
    }


def test_strange_checkpoints(good, tmp_path, monkeypatch):
    "Not one of them gets anything called, and none takes more memory than the machine has."
    monkeypatch.chdir(tmp_path)
    loaded = set()
    for name, data in strange_checkpoints(good).items():
        (tmp_path / "x.ckpt").write_bytes(data)
        try:
            module = read_a_checkpoint(tmp_path / "x.ckpt")
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {str(error)[:300]}") from error
        if not isinstance(module, UserError):
            loaded.add(name)
        assert set(os.listdir()) == {"x.ckpt"}, name
    # what is wrong with these harms no network
    assert loaded == {
        "record that is text",
        "record of a list",
        "no classes",
        "weights of another type",
    }


def test_a_checkpoint_to_continue_from_is_not_run(good, tmp_path, monkeypatch, program):
    "Lightning would fetch an address and run what it finds; here it is a mistake, before a run is made."
    for name, start in (("evil.ckpt", "evil.ckpt"), ("evil.ckpt", "http://127.0.0.1:9/evil.ckpt")):
        (tmp_path / name).write_bytes(strange_checkpoints(good)["system in the weights"])
        done = program("train", f"ckpt_path='{start}'", f"datamodule.path={ROOT / 'dataset'}", cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(tmp_path) == ["evil.ckpt"]


# --- the folders of runs ---

METRIC_WORDS = [
    "epoch",
    "step",
    "val_acc",
    "loss",
    "val_loss",
    ",",
    "\n",
    "\r",
    '"',
    "0",
    "1",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "x",
    "",
    "\0",
    "é",
    "9" * 5000,
    "=1+1",
    "0x1",
    "True",
    "1_0",
    "٣",
    "\x1b[31m",
]
PROVENANCE = [
    "status",
    "process",
    "seconds",
    "git",
    "started",
    "ended",
    "resumed",
    "fingerprint",
    "error",
    "packages",
    "python",
    "hardware",
    "experiment",
]
ODD_JSON = [
    "running",
    "finished",
    "dead",
    "2026-11-20T10:00:00+00:00",
    "x",
    "\ud800",
    "\x1b[31m",
    "${seed}",
    "a" * 2000,
]
jsons = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(ODD_JSON), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*PROVENANCE, "pid", "host", "boot", "began", "commit", "dirty", "cpu"]), inner, max_size=3
        ),
    ),
    max_leaves=5,
)


@st.composite
def run_files(draw) -> dict[str, bytes]:
    "What may lie in the folder of a run, by name."
    config = draw(
        st.one_of(
            experiment_files(),
            st.sampled_from(
                [
                    NAMED_FILES[n] if isinstance(NAMED_FILES[n], bytes) else NAMED_FILES[n].encode()
                    for n in NAMED_FILES
                    if len(NAMED_FILES[n]) < 5000
                ]
            ),
        )
    )
    metrics = draw(
        st.one_of(
            st.binary(max_size=100),
            st.lists(st.sampled_from(METRIC_WORDS), max_size=30).map(lambda w: ",".join(w).encode()),
        )
    )
    provenance = draw(
        st.one_of(
            st.binary(max_size=60),
            st.just(b"[" * 100_000),
            st.just(b"{}"),
            st.dictionaries(st.sampled_from(PROVENANCE), jsons, max_size=5).map(lambda data: json.dumps(data).encode()),
        )
    )
    return {"config.yaml": config, "metrics.csv": metrics, "provenance.json": provenance}


def read_runs_folder(runs: Path) -> None:
    "A folder of runs read by all that read runs."
    from dlops_mnist.parts.provenance import origin

    for run in (Run(path) for path in runs.glob("*/*")):
        assert isinstance(run.config, dict) and isinstance(run.provenance, dict) and isinstance(run.rows, list)
        repr(run), run.metrics, run.status
        (
            outcome(lambda run=run: run.best),
            outcome(diff, run.config, {}),
            outcome(load_config, run.path),
            outcome(origin, run.path),
        )
    assert len(list(find_runs(runs))) == sum((path / "provenance.json").exists() for path in runs.glob("*/*"))
    with redirect_stdout(io.StringIO()):
        for form in ({}, {"csv": True}, {"json": True}, {"sort": "val_acc"}, {"latest": 1}):
            outcome(print_runs, str(runs), **form)
        outcome(print_runs, str(runs), "val_acc>0"), outcome(print_runs, str(runs), "status=finished")
    repr(outcome(runs_table, runs)), outcome(plot_runs, runs)


@fuzz(12, 1000, run_files(), run_files())
def test_run_folders(a, b, folder):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    for name, files in {"x/1": a, "x/2": b}.items():
        (folder / "runs" / name).mkdir(parents=True)
        for file, data in files.items():
            (folder / "runs" / name / file).write_bytes(data)
    import matplotlib.pyplot  # noqa: F401 (makes folders of its own when it is imported)

    with harmless():
        read_runs_folder(folder / "runs")
    assert not (folder / "SENTINEL").exists()


def test_folders_that_are_no_files_of_a_run(tmp_path, monkeypatch):
    "Folders, pipes and links in place of a run's files."
    import matplotlib.pyplot  # noqa: F401

    monkeypatch.chdir(tmp_path)
    for i, make in enumerate(
        (
            lambda path: path.mkdir(),
            os.mkfifo,
            lambda path: path.symlink_to(path),
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to("/nonexistent"),
            lambda path: path.symlink_to("/proc/self/mem"),
        )
    ):
        run = tmp_path / "runs" / "x" / str(i)
        (run / "checkpoints").mkdir(parents=True)
        for name in ("config.yaml", "metrics.csv", "provenance.json", "train.log", "checkpoints/best.ckpt"):
            make(run / name)
    with harmless():
        read_runs_folder(tmp_path / "runs")


ESCAPES = [
    "../../x",
    "..",
    ".",
    "/nowhere/x",
    "a/b",
    "a\\b",
    "\0",
    "a\0b",
    "\n",
    "x" * 201,
    "é" * 101,
    "",
    " ",
    "~",
    "~root",
    "-rf",
    ".hidden",
    "a.",
    "a ",
    "con:",
    "C:\\x",
    "a*",
    "a?",
    "<x>",
    "|",
    '"',
    "\x7f",
    "\x1b[31m",
]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("key", ["experiment", "name"])
def test_names_that_lead_elsewhere(name, key, tmp_path, monkeypatch):
    "Refused where they are checked, and where the folder is made."
    monkeypatch.chdir(tmp_path)
    config = {"experiment": name if key == "experiment" else "x", "paths": {"runs": str(tmp_path / "runs")}, "seed": 0}
    with harmless(tmp_path / "runs"):
        assert isinstance(outcome(check_name, name), UserError)
        if name or key == "name":
            made = outcome(new_run, config, name if key == "name" else None)
        if key == "experiment" and name:
            assert isinstance(made, UserError)
    assert all(
        path.name in ("runs", "x") or path.parent.parent.name == "x" or path.parent.name == "x"
        for path in tmp_path.rglob("*")
    )


@fuzz(
    300,
    10_000,
    st.one_of(
        st.text(max_size=20),
        st.text(alphabet="./\\~\0 -ab\u202e\ufeffé", max_size=12),
        st.text(min_size=60, max_size=300),
    ),
)
def test_names(name, folder):
    "A name is refused, or makes just one folder, here."
    if isinstance(outcome(check_name, name), UserError):
        return
    with harmless(folder):
        made = outcome(os.mkdir, folder / name)
    assert made is None and (folder / name).parent == folder and os.listdir(folder) == [name]
    (folder / name).rmdir()


def test_links_out_of_a_run(tmp_path, good, monkeypatch):
    "Somebody else's run is evaluated, compared or continued: nothing is written where its links lead."
    from dlops_mnist.evaluate import compare, evaluate
    from dlops_mnist.parts.runfolder import reopen_run

    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "home"
    outside.mkdir()
    (outside / "report.html").write_text("mine")
    data = shutil.copytree(ROOT / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    open_images(data)
    for link in ("evaluation", "checkpoints/.last.part", "train.log", ".lock", "figures", "evaluation/x/y"):
        run = tmp_path / "runs" / "x" / link.replace("/", "-")
        (run / "checkpoints").mkdir(parents=True)
        for name in ("best", "last"):
            (run / "checkpoints" / f"{name}.ckpt").write_bytes(good["bytes"])
        (run / "provenance.json").write_text('{"status": "failed"}')
        (run / link).parent.mkdir(parents=True, exist_ok=True)
        (run / link).symlink_to(outside if link in ("evaluation", "figures") else outside / "report.html")
        writers = [
            lambda run=run: reopen_run(run),
            lambda run=run: evaluate(run, draws=2, path=str(data)),
            lambda run=run: compare(run, run, draws=2, path=str(data)),
        ]
        with harmless(run, data / ".cache"):
            for function in writers if link == "evaluation" else writers[:1]:  # they look at all links
                answer = outcome(function)
                assert isinstance(answer, UserError) and "leads out of the run's folder" in str(answer)
    assert os.listdir(outside) == ["report.html"] and (outside / "report.html").read_text() == "mine"


def test_a_run_whose_settings_are_of_no_use(tmp_path):
    "Found by the fuzz above, in its thousand cases."
    for i, text in enumerate(("monitor: []\n", "monitor: {a: 1}\nmonitor_mode: [x]\n")):
        run = tmp_path / "runs" / "x" / str(i)
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(text)
        (run / "metrics.csv").write_text("epoch,val_acc\n0,0.5\n")
        (run / "provenance.json").write_text("{}")
        assert Run(run).best == {}


def test_half_of_a_character_in_a_run(tmp_path):
    "JSON and YAML can spell one, and a folder's name can hold one; no table and no terminal takes it."
    for i, (config, provenance) in enumerate(
        (("experiment: null\n", '{"status": "\\ud800"}'), ('"\\ud800": "\\ud800"\n', "{}"), ("seed: 1\n", "{}"))
    ):
        run = tmp_path / "runs" / "x" / (f"{i}" if i < 2 else os.fsdecode(b"\xff"))
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(config)
        (run / "provenance.json").write_text(provenance)
    with harmless():
        read_runs_folder(tmp_path / "runs")
    assert list(runs_table(tmp_path / "runs")["status"]) == ["?", "unknown", "unknown"]
