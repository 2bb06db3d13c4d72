"""What happens to real folders: built, interrupted, broken, changed, shared by several processes."""

import gzip
import io
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dlops_mnist.inspection import contradictions, duplicates, leaks
from dlops_mnist.parts import pictures, sources
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.folder import fingerprint, scan
from dlops_mnist.parts.images import open_images
from dlops_mnist.parts.pictures import BadImage, Look, decode, encode_png
from dlops_mnist.parts.sources import build_digits, build_mnist, load_mnist, read_idx

SHIPPED = "429ebe0fe72c4881e592d40ab05a5a2c82c3ddf3ef247dbe39666baaa938aa5d"
RAW = os.environ.get("MNIST_RAW_DIR")
needs_mnist = pytest.mark.skipif(not RAW, reason="set MNIST_RAW_DIR to the folder of MNIST's four IDX files")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("MNIST_RAW_DIR", raising=False)
    return tmp_path / "user"


@pytest.fixture
def folder(tmp_path, root):
    "A copy of the shipped dataset, without a cache."
    return Path(shutil.copytree(root / "dataset", tmp_path / "data", ignore=shutil.ignore_patterns(".cache")))


def module(path, **settings):
    from dlops_mnist.dataset import MNISTDataModule

    dm = MNISTDataModule(path, **settings)
    dm.setup()
    return dm


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


# ---- the shipped dataset

def test_shipped_dataset_is_what_the_notebook_builds(root, tmp_path):
    assert fingerprint(build_digits(tmp_path / "again", binary=3, per_class=[140, 40])) == SHIPPED
    assert fingerprint(root / "dataset") == SHIPPED


def test_shipped_dataset_is_small_and_complete(root):
    files = list((root / "dataset").glob("*/*/*.png"))
    assert sum(file.stat().st_size for file in files) < 500_000
    counts = {f"{split}/{name}": len(list((root / "dataset" / split / name).iterdir()))
              for split in ("train", "test") for name in ("3", "no3")}
    assert counts == {"train/3": 140, "train/no3": 140, "test/3": 40, "test/no3": 40}
    assert {Image.open(file).size for file in files} == {(28, 28)}
    assert {Image.open(file).mode for file in files} == {"L"}


def test_shipped_dataset_has_no_copies(root):
    assert duplicates(open_images(root / "dataset")).empty


def test_copies_leaks_and_contradictions_are_found(folder):
    file = sorted((folder / "train/3").iterdir())[0]
    for copy in ("train/3/copy.png", "test/3/leak.png"): shutil.copy(file, folder / copy)
    seven = sorted((folder / "train/no3").iterdir())[0]
    (folder / "train/no3/compressed.png").write_bytes(png(decode(seven.read_bytes())))
    shutil.copy(folder / "train/no3/compressed.png", folder / "train/3/wrong.png")
    arrays = open_images(folder)
    assert len(duplicates(arrays)) == 6 and duplicates(arrays).group.nunique() == 2
    assert {Path(image).name for image in leaks(arrays).image} == {file.name, "copy.png", "leak.png"}
    assert "train/3/wrong.png" in set(contradictions(arrays).image) and len(contradictions(arrays)) == 3


def test_a_fingerprint_is_of_contents_and_paths_only(folder):
    (folder / ".cache").mkdir()
    (folder / ".cache/x.png").write_bytes(b"x")
    (folder / "train/3/.hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    os.utime(next((folder / "train/3").glob("0*.png")), (1, 1))
    assert fingerprint(folder) == SHIPPED
    file = next((folder / "train/3").glob("0*.png"))
    file.rename(file.with_name("renamed.png"))
    assert fingerprint(folder) != SHIPPED


# ---- building

def test_all_digits_are_built_and_split_in_proportion(tmp_path):
    path = build_digits(tmp_path / "d")
    counts = {split: [len(os.listdir(path / split / str(digit))) for digit in range(10)] for split in ("train", "test")}
    assert sum(counts["train"]) + sum(counts["test"]) == 1797
    for train, test in zip(*counts.values()): assert abs(test / (train + test) - 0.2) < 0.005
    train, test = ({file.name for file in path.glob(f"{split}/*/*.png")} for split in ("train", "test"))
    assert not train & test


def test_seed_and_per_class_choose(tmp_path):
    prints = [fingerprint(build_digits(tmp_path / f"{i}", binary=7, per_class=12, seed=seed))
              for i, seed in enumerate((0, 0, 1))]
    assert prints[0] == prints[1] != prints[2]
    assert {d.name for d in (tmp_path / "0/train").iterdir()} == {"7", "no7"}
    assert len(list((tmp_path / "0").glob("test/*/*.png"))) == 6


@pytest.mark.parametrize("choice", [{"binary": 11}, {"per_class": 150}, {"per_class": 0}, {"per_class": [1, 2, 3]}])
def test_impossible_choices_are_refused(tmp_path, choice):
    with pytest.raises(UserError): build_digits(tmp_path / "d", **choice)
    assert not (tmp_path / "d").exists()


def test_another_folder_is_never_overwritten(folder, tmp_path):
    with pytest.raises(UserError, match="another path"): build_digits(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(UserError, match="another path"): build_digits(tmp_path / "mine")
    assert fingerprint(folder) == SHIPPED


@pytest.mark.parametrize("content", ['{"source":', "", "[1]", "3", "{}", '{"source": 3}', "[" * 100_000])
def test_a_record_that_is_not_ours_is_said_to_be_something_else(tmp_path, content):
    (tmp_path / "source.json").write_text(content)
    with pytest.raises(UserError, match="another path"): build_digits(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["source.json"]


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_build_stopped_half_way_leaves_no_dataset_and_is_repeated(tmp_path, blow):
    slow = ("import signal, time; from dlops_mnist.parts import sources; real = sources.encode_png\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job begins without Ctrl-C
            "def encode(image): time.sleep(0.005); return real(image)\n"
            f"sources.encode_png = encode; sources.build_digits({str(tmp_path / 'd')!r})")
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.DEVNULL)
    deadline = time.time() + 20
    while not list(tmp_path.glob(".d.*.part/*/*/*.png")) and time.time() < deadline: time.sleep(0.02)
    process.send_signal(blow)
    assert process.wait(timeout=20) != 0
    assert not (tmp_path / "d").exists()
    build_digits(tmp_path / "d")
    assert len(list((tmp_path / "d").glob("*/*/*.png"))) == 1797
    assert [file.name for file in tmp_path.iterdir() if file.name != "user"] == ["d"]


# ---- MNIST's files

def test_mnist_files_are_checked(tmp_path):
    with pytest.raises(UserError, match="train-images-idx3-ubyte"): load_mnist(tmp_path)
    data = struct.pack(">4BI", 0, 0, 8, 1, 3) + b"abc"
    for name in sources.MNIST_FILES: (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    assert bytes(read_idx(tmp_path / "train-labels-idx1-ubyte.gz")) == b"abc"
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz.*checksum"): load_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data)[:-9])
    with pytest.raises(UserError, match="damaged"): load_mnist(tmp_path)


def test_without_network_the_message_names_raw(tmp_path):
    with pytest.raises(UserError, match="raw=") as error:
        sources.fetch("train-labels-idx1-ubyte", mirrors=("http://127.0.0.1:9/",))
    assert "127.0.0.1" in str(error.value)


def test_a_bad_mirror_is_passed_over_and_finished_files_are_kept(tmp_path, monkeypatch, own_cache):
    import http.server
    import threading

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=str(tmp_path / "www"))
        def log_message(self, *args): seen.append(self.path)

    seen, data = [], struct.pack(">4BI", 0, 0, 8, 1, 3) + b"abc"
    for name, content in (("good", gzip.compress(data)), ("bad", b"<html>moved</html>")):
        (tmp_path / "www" / name).mkdir(parents=True)
        (tmp_path / "www" / name / "labels.gz").write_bytes(content)
    monkeypatch.setitem(sources.MNIST_FILES, "labels", __import__("hashlib").sha256(data).hexdigest())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    mirrors = [f"http://127.0.0.1:{server.server_port}/{name}/" for name in ("missing", "bad", "good")]
    try:
        assert bytes(read_idx(sources.fetch("labels", mirrors))) == b"abc"
        asked = len(seen)
        sources.fetch("labels", mirrors)
        assert len(seen) == asked  # a second run does not download it again
    finally: server.shutdown()


@needs_mnist
def test_mnist_is_the_real_one(tmp_path):
    mnist = load_mnist(RAW)
    shapes = [part.shape for part in (*mnist["train"], *mnist["test"])]
    assert shapes == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    path = build_mnist(tmp_path / "m", raw=RAW, per_class=60)
    arrays = open_images(path)
    assert (len(arrays.splits["train"]["images"]), len(arrays.splits["test"]["images"])) == (600, 100)
    file = next((path / "train/5").iterdir())
    assert (decode(file.read_bytes()) == mnist["train"][0][int(file.stem)]).all()


# ---- reading what people bring

@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (300, 300), (65536, 1)])
def test_our_png_files_are_read_by_others(shape):
    image = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(encode_png(image)))) == image).all()
    assert (decode(encode_png(image)) == image).all()


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"compress_level": 9}, {"optimize": True}])
def test_we_read_the_png_files_of_others(options):
    image = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)
    assert (decode(png(image, **options)) == image).all()


def test_black_and_white_becomes_grey_and_colour_is_converted_when_asked_for():
    bits = np.eye(8, dtype=bool)
    assert (decode(png(bits)) == bits * 255).all()
    colour = np.random.RandomState(0).randint(0, 256, (5, 4, 3)).astype(np.uint8)
    assert (decode(png(colour), Look(color=True)) == colour.transpose(2, 0, 1)).all()
    assert decode(png(colour), Look(color="grey")).shape == (5, 4)
    assert decode(png(bits), Look(color=True)).shape == (3, 8, 8)


def forged(size, content):
    "A PNG file that promises size x size pixels, and holds what `content` unpacks to."
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)), (b"IDAT", content), (b"IEND", b"")]
    return pictures.SIGNATURE + b"".join(pictures._chunk(*chunk) for chunk in chunks)


def with_filters(image, kinds):
    "A PNG file whose rows have these filters, written by the specification's formulas and not by our decoder's."
    rows, wide = [], np.pad(image.astype(int), ((1, 0), (1, 0)))
    for y, kind in enumerate(kinds, start=1):
        row = []
        for x in range(1, wide.shape[1]):
            a, b, c = int(wide[y, x - 1]), int(wide[y - 1, x]), int(wide[y - 1, x - 1])
            nearest = min((abs(a + b - c - value), rank, value) for rank, value in enumerate((a, b, c)))[2]
            row.append(int(wide[y, x]) - (0, a, b, (a + b) // 2, nearest)[kind] & 255)
        rows.append(bytes([kind, *row]))
    height, width = image.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
              (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return pictures.SIGNATURE + b"".join(pictures._chunk(*chunk) for chunk in chunks)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_pixel_is_pillows_whatever_the_filters_and_the_shape(data, height, width, seed):
    generator = np.random.default_rng(seed)
    smooth = (generator.integers(0, 256, (height, width)) // data.draw(st.sampled_from([1, 16, 256]))).astype(np.uint8)
    kinds = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    for file in (with_filters(smooth, kinds), png(smooth)):
        assert (decode(file) == smooth).all() and (np.asarray(Image.open(io.BytesIO(file))) == smooth).all()


@pytest.mark.parametrize("library", ["pyspng", "Pillow"])
@pytest.mark.parametrize("shape", [(28, 28), (200, 3), (3, 200), (1, 1)])
def test_all_kinds_of_files(shape, library, monkeypatch):
    "Also where pyspng can't be installed."
    if library == "Pillow": monkeypatch.setitem(sys.modules, "pyspng", None)
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, shape).astype(np.uint8)
    bits = generator.integers(0, 2, shape).astype(bool)
    for file in (encode_png(grey), with_filters(grey, generator.integers(0, 5, shape[0])), png(grey)):
        assert (decode(file) == grey).all()
    assert (decode(png(bits)) == bits * 255).all()
    assert (decode(png(np.stack([grey] * 3, -1)), Look(color=True)) == grey).all()
    broken = forged_rows(shape, (bytes([5]) + bytes(shape[1])) * shape[0])  # a filter that does not exist
    truncated = with_filters(grey, [0] * shape[0]).replace(b"IEND", b"IEN")
    colour = png(np.stack([grey, grey // 2, grey ^ 1], -1))
    for file, why in {forged(28, zlib.compress(b"")): "corrupt", broken: "corrupt", truncated: "truncated",
                      colour: "colour"}.items():
        with pytest.raises(BadImage, match=why): decode(file, Look(color=False))


def forged_rows(shape, raw):
    "A PNG file with these bytes as its rows."
    header = struct.pack(">IIBBBBB", shape[1], shape[0], 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return pictures.SIGNATURE + b"".join(pictures._chunk(*chunk) for chunk in chunks)


GREY = np.arange(784, dtype=np.uint8).reshape(28, 28)
BAD = {
    "text.png": (b"not a picture", "not a picture of a known format"),
    "empty.png": (b"", "empty"),
    "cut.png": (encode_png(GREY)[:400], "truncated"),
    "flipped.png": (encode_png(GREY)[:300] + b"!!!" + encode_png(GREY)[303:], "corrupt"),
    "deep.png": (png(GREY.astype(np.uint16)), "more than 8 bits"),
    "gif.png": (b"GIF89a", "not a picture|corrupt"),
    "large.png": (encode_png(np.zeros((32, 30), np.uint8)), "30x32, most are 28x28"),
    "bomb.png": (forged(30_000, zlib.compress(b"")), "30000x30000"),
    "overlong.png": (forged(28, zlib.compress(bytes(100_000_000), 0)[:70_000]), "corrupt"),
}


def test_all_bad_files_are_listed_at_once(folder):
    for name, (content, _) in BAD.items(): (folder / "train/3" / name).write_bytes(content)
    (folder / "test/no3/dangling.png").symlink_to("nowhere")
    with pytest.raises(UserError) as error: open_images(folder)
    *listed, resize, hint = str(error.value).splitlines()[1:]
    assert resize == "To bring all to one size: datamodule.resize=[28,28]"
    lines = {Path(line.split()[0]).name: line for line in listed}
    for name, (_, why) in BAD.items(): assert re.search(why, lines.pop(name))
    assert "can't be read" in lines.pop("dangling.png") and "broken=skip" in hint
    assert not lines and str(error.value).startswith("10 of 370 images")
    for name in BAD: (folder / "train/3" / name).unlink()
    (folder / "test/no3/dangling.png").unlink()
    assert open_images(folder).fingerprint == SHIPPED  # nothing of the failure remains


def test_what_many_files_share_is_said_once(folder):
    for file in (folder / "train/no3").iterdir(): file.write_bytes(b"x")
    with pytest.raises(UserError, match="140 of 360 images can't be used") as error: open_images(folder)
    assert "140 files, such as" in str(error.value) and len(str(error.value).splitlines()) == 3


def test_a_long_list_is_cut_and_counted(folder):
    names = sorted((folder / "train/3").iterdir())[:30]
    for i, file in enumerate(names): file.write_bytes(encode_png(np.zeros((9, 9 + i), np.uint8)))
    with pytest.raises(UserError, match="30 of 360 images can't be used") as error: open_images(folder)
    assert str(error.value).splitlines()[21:] == ["  and 10 more", "To bring all to one size: datamodule.resize=[28,28]"]


def test_the_odd_size_is_the_rare_one_even_if_it_comes_first(folder):
    names = os.listdir(folder / "train/3")
    (folder / "train/3" / names[0]).write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
    with pytest.raises(UserError, match="is 9x9, most are 28x28") as error: open_images(folder)
    assert str(error.value).startswith("1 of 360")


def test_without_train_there_is_nothing_to_learn_from_and_without_test_nothing_to_evaluate(folder):
    shutil.rmtree(folder / "test/3")
    assert "train has images of `3`, test has none" in module(folder).notes
    shutil.rmtree(folder / "test")
    assert module(folder).datasets.keys() == {"train", "val"}
    with pytest.raises(UserError, match="no test images"): module(folder).dataset("test")
    (folder / "train").rename(folder / "test")
    with pytest.raises(UserError, match="no train images"): module(folder)


@pytest.mark.parametrize("name", ["test/3/\udce9.png", "test/no\udcff"])
def test_a_name_that_is_no_text_is_refused_as_it_is_on_the_disk(folder, name):
    place = folder / name
    if place.suffix: place.write_bytes(encode_png(np.zeros((28, 28), np.uint8)))
    else: (folder / "test/no3").rename(place)
    with pytest.raises(UserError, match="not text in UTF-8") as error: open_images(folder)
    assert r"\xe9.png" in str(error.value) or r"no\xff" in str(error.value)
    str(error.value).encode()


def test_one_class_or_no_folder(folder):
    for split in ("train", "test"): shutil.rmtree(folder / split / "no3")
    with pytest.raises(UserError, match="one class, `3`; two are needed"): module(folder)
    with pytest.raises(UserError, match="no folder"): open_images(folder / "nowhere")


# ---- the cache

def test_any_change_is_seen_by_the_next_setup(folder):
    dm = module(folder)
    def generations(): return [generation.name for generation in (folder / ".cache").glob("grey-*")]

    first, old = generations(), dm.fingerprint
    dm.setup()
    assert generations() == first
    file = sorted((folder / "train/3").iterdir())[0]
    content, times = file.read_bytes(), file.stat()
    file.write_bytes(encode_png(255 - decode(content)))  # as long as before ...
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # ... and its time set back
    dm.setup()
    assert dm.fingerprint != old and len(generations()) == 1
    file.write_bytes(content)
    dm.setup()
    assert dm.fingerprint == old
    (folder / "train/3/new.png").write_bytes(encode_png(GREY))
    dm.setup()
    assert len(dm.train_df) + len(dm.val_df) == 281
    (folder / "train/3/new.png").unlink()
    dm.setup()
    assert dm.fingerprint == old


def test_a_scan_sees_every_kind_of_change(folder):
    file = sorted((folder / "train/3").iterdir())[0]
    content = file.read_bytes()

    def restored_times():
        times = file.stat()
        file.write_bytes(content[:-1] + b"?")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    new, other = folder / "train/3/new.png", folder / "train/3/other.png"
    changes = [restored_times, lambda: new.write_bytes(content), new.unlink, lambda: file.rename(other),
               lambda: other.rename(file), lambda: os.replace(shutil.copy2(file, folder / "copy"), file),
               lambda: shutil.copytree(folder / "test", folder / "val"),
               lambda: shutil.rmtree(folder / "val"), lambda: os.truncate(file, 10), lambda: file.chmod(0o600)]
    for number, change in enumerate(changes):
        before = scan(folder).stamp
        assert scan(folder).stamp == before
        time.sleep(0.06)
        change()
        assert scan(folder).stamp != before, number
    before = scan(folder).stamp
    (folder / "train/3/notes.txt").write_text("no image")
    assert scan(folder).stamp == before
    new.symlink_to(folder / "elsewhere.png")
    before = scan(folder).stamp
    (folder / "elsewhere.png").write_bytes(content)  # what a link points to
    assert scan(folder).stamp != before


def test_a_damaged_cache_is_made_again(folder):
    open_images(folder)
    for name, content in (("meta.json", b"{"), ("train-images.npy", b"x")):
        time.sleep(0.06)
        next((folder / ".cache").glob(f"grey-*/{name}")).write_bytes(content)
        assert open_images(folder).fingerprint == SHIPPED
        assert len(list((folder / ".cache").glob("grey-*"))) == 1


def test_a_folder_that_cant_be_written_is_cached_elsewhere(folder, own_cache):
    (folder / ".cache").write_text("in the way: even root can't make a folder here")
    assert open_images(folder).fingerprint == SHIPPED
    assert list(own_cache.glob("dlops_mnist/*/grey-*/meta.json"))
    own = module(folder, cache=str(folder.parent / "mine"))
    assert own.fingerprint == SHIPPED and list((folder.parent / "mine").glob("grey-*"))


def test_several_processes_share_one_cold_cache(folder):
    code = ("import os, sys; from dlops_mnist.parts.images import *; open_images(sys.argv[1]); from pathlib import Path\n"
            "print(*[f.stat().st_ino for f in Path(sys.argv[1]).glob('.cache/grey-*/meta.json')])")
    command = [sys.executable, "-c", code, folder]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert {process.returncode for process in processes} == {0}
    assert len(set(answers)) == 1 and len(answers[0].split()) == 1  # built once


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system's list of processes is read")
def test_helpers_end_with_a_parent_that_is_killed():
    code = ("import os, sys, time; from dlops_mnist.parts.images import parallel\n"
            "def work(_): print(os.getpid(), flush=True); time.sleep(60)\n"
            "list(parallel(work, range(2)))")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    parent.stdout.readline()
    parent.kill()
    parent.communicate(timeout=20)  # the pipe ends when the last of them is gone


# ---- the data module

def test_adding_images_moves_no_other_image(folder):
    before = module(folder)
    for i in range(50): (folder / f"train/3/new{i}.png").write_bytes(encode_png(np.full((28, 28), i, np.uint8)))
    after = module(folder)
    assert set(before.val_df.image) <= set(after.val_df.image)
    assert set(before.train_df.image) <= set(after.train_df.image)


def test_where_validation_comes_from(folder):
    assert module(folder, val="test").val_df.equals(module(folder).test_df)
    shutil.copytree(folder / "test", folder / "val")
    for file in sorted((folder / "val/3").iterdir())[5:]: file.unlink()
    dm = module(folder)
    assert (len(dm.train_df), len(dm.val_df)) == (280, 45) and dm.val_df.image.str.startswith("val/").all()
    assert len(module(folder, val="test").val_df) == 80


@pytest.mark.parametrize("val", [0, 1, -0.1, "train", 1e-9])
def test_a_validation_set_that_cant_be(folder, val):
    with pytest.raises(UserError, match="val"): module(folder, val=val)


def test_classes_and_shapes_of_a_trained_model_are_enforced(folder):
    assert module(folder, classes=["3", "no3"]).classes == ["3", "no3"]
    assert module(folder).classes == ["no3", "3"]
    three = {file: label for file, label in module(folder).train_df.itertuples(index=False)}
    assert all(file.split("/")[1] == label for file, label in three.items())
    labels = [module(folder, classes=order).datasets["train"].labels for order in (["3", "no3"], ["no3", "3"])]
    assert (labels[0] == 1 - labels[1]).all()
    with pytest.raises(UserError, match="cat"): module(folder, classes=["cat", "dog"])
    with pytest.raises(UserError, match="but .32, 32. is expected"): module(folder, image_shape=[32, 32])


def test_any_classes_sizes_and_colours(tmp_path):
    generator = np.random.RandomState(0)
    for split in ("train", "test"):
        for name in ("äpfel", "b c", "10", "9"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for i in range(10):
                colour = generator.randint(0, 256, (6, 5, 3)).astype(np.uint8)
                (tmp_path / "d" / split / name / f"{i}.PNG").write_bytes(png(colour))
    dm = module(tmp_path / "d", color=True, val=0.3)
    images, labels = next(iter(dm.test_dataloader(8)))
    assert dm.image_shape == [3, 6, 5] and images.shape == (8, 3, 6, 5) and dm.classes == ["10", "9", "b c", "äpfel"]
    assert [image.split("/")[1] for image in dm.test_df.image] == list(dm.test_df.label)
    assert module(tmp_path / "d", color="grey", val=0.3).image_shape == [6, 5]
    with pytest.raises(UserError, match="colour"): module(tmp_path / "d", color=False)


def test_a_source_builds_what_is_missing_and_nothing_else(tmp_path, folder):
    dm = module(tmp_path / "new", source="digits", binary=3, per_class=[140, 40])
    assert dm.fingerprint == SHIPPED
    with pytest.raises(UserError, match="another path"): module(folder, source="digits")
    # a trained model's config, which names its classes, may be pointed at another folder
    assert module(folder, source="digits", classes=["no3", "3"]).fingerprint == SHIPPED


def test_processes_share_an_epoch(folder, monkeypatch):
    from dlops_mnist.parts.batches import EpochSampler

    one = list(EpochSampler(11, seed=3))
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(EpochSampler, "process", staticmethod(lambda rank=rank: (rank, 2)))
        sampler = EpochSampler(11, seed=3)
        shares.append(list(sampler))
        assert len(sampler) == 6 == len(shares[-1])
        assert list(EpochSampler(11, shuffle=False, even=False)) == list(range(rank, 11, 2))
    together = [i for pair in zip(*shares) for i in pair]
    assert together[:11] == one and together[11] == one[0]


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_processes_see_each_image_once_in_the_batch_of_one_process(images, processes, size, shuffle):
    from dlops_mnist.parts.batches import EpochSampler

    class Dealt(EpochSampler):
        def __init__(self, rank, processes):
            super().__init__(images, 5, shuffle)
            self.process = lambda: (rank, processes)

    samplers = [Dealt(rank, processes) for rank in range(processes)]
    one, orders = Dealt(0, 1).order(), [sampler.order() for sampler in samplers]
    steps = -(-images // (size * processes))
    assert {-(-len(order) // size) for order in orders} == {steps}  # as many as one process takes
    values = np.random.default_rng(0).normal(size=images)  # what each image alone would add to a gradient
    for step in range(steps):
        batch = one[step * size * processes:(step + 1) * size * processes]
        shares = [sampler.share(step, size) for sampler in samplers]
        owned = [order[step * size:(step + 1) * size][:own] for order, (own, _) in zip(orders, shares)]
        assert sorted(np.concatenate(owned)) == sorted(batch)
        weighted = [weight * values[own].mean() if len(own) else weight for own, (_, weight) in zip(owned, shares)]
        assert np.isclose(np.mean(weighted), values[batch].mean())
        if len(batch) == size * processes: assert shares == [(size, 1)] * processes


def test_fewer_images_than_processes(folder, monkeypatch):
    from dlops_mnist.parts.batches import EpochSampler

    dm = module(folder)
    monkeypatch.setattr(EpochSampler, "process", staticmethod(lambda: (0, 500)))
    with pytest.raises(UserError, match="60 val images can't be shared among 500 processes"): dm.val_dataloader()


def test_loaders_are_standard_and_work_in_other_processes(folder):
    from torch.utils.data import DataLoader, SequentialSampler

    dm = module(folder, num_workers=2)
    assert isinstance(dm.train_dataloader(), DataLoader) and type(dm.val_dataloader().sampler) is SequentialSampler
    # several processes train on equally many images, and measure each once
    assert [dm.loader(split, shuffle=True).sampler.even for split in ("train", "val")] == [True, False]
    batches = [[labels.tolist() for _, labels in module(folder, num_workers=n).train_dataloader()] for n in (0, 2)]
    assert batches[0] == batches[1] and sum(map(len, batches[0])) == 220
    dataset = dm.datasets["test"]
    image, label = dataset[3]
    images, labels = dataset.__getitems__([3])
    assert (image == images[0]).all() and label == labels[0] and images.is_contiguous()
    images[:] = 0  # a batch is the caller's own
    assert (dataset[3][0] == image).all()


def test_seeds_give_other_orders_and_set_epoch_continues(folder):
    def labels(loader): return [int(i) for i in loader.sampler]

    zero, one = (module(folder, seed=seed).train_dataloader() for seed in (0, 1))
    epochs = [labels(zero) for _ in range(3)]
    assert epochs[0] != labels(one) and epochs[0] != epochs[1]
    resumed = module(folder).train_dataloader()
    resumed.sampler.set_epoch(2)
    assert labels(resumed) == epochs[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_stopped(folder, workers):
    def epoch(loader, number):
        loader.sampler.set_epoch(number)  # as Lightning does
        return [labels.tolist() for _, labels in loader]

    dm = module(folder, num_workers=workers)
    wanted = [epoch(dm.train_dataloader(), number) for number in range(3)]
    resumed = dm.train_dataloader(50)  # more images in one batch: the same images are left
    resumed.sampler.resumed = 1, 100
    assert sum(epoch(resumed, 1), []) == sum(wanted[1], [])[100:]
    assert sum(epoch(resumed, 2), []) == sum(wanted[2], [])  # only that one epoch is shorter
    other = dm.train_dataloader()
    other.sampler.resumed = 1, 100
    assert epoch(other, 2) == wanted[2]


def test_settings_are_plain_data(folder):
    import inspect

    from dlops_mnist.dataset import MNISTDataModule

    defaults = [p.default for p in inspect.signature(MNISTDataModule).parameters.values()]
    assert {type(default) for default in defaults} <= {str, int, float, bool, type(None)}


# ---- as programs

def test_build_and_inspect_on_the_command_line(program, tmp_path):
    path = tmp_path / "d"
    done = program("dataset", "digits", f"path={path}", "binary=3", "per_class=[140,40]")
    assert done.returncode == 0 and str(path) in done.stdout and fingerprint(path) == SHIPPED
    done = program("dataset", "inspect", f"path={path}", f"figures={tmp_path / 'pictures'}")
    assert done.returncode == 0 and SHIPPED in done.stdout and len(list((tmp_path / "pictures").glob("*.png"))) == 3


def test_mistakes_on_the_command_line(program, tmp_path):
    done = program("dataset", "inspect", f"path={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
