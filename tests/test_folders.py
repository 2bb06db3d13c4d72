"""Folders as people have them: what is read, what is said about it, and what a new picture looks like to the model."""

import gzip
import hashlib
import http.server
import io
import os
import re
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dlops_mnist.config import load_config
from dlops_mnist.dataset import MNISTDataModule, hold_out, open_dataset
from dlops_mnist.evaluate import measure_all
from dlops_mnist.inspection import inspect, oddities
from dlops_mnist.parts import sources
from dlops_mnist.parts.command import parse_value
from dlops_mnist.parts.convert import convert
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.images import different_sizes, open_images
from dlops_mnist.parts.pictures import BadImage, Look, decode, read_file, read_picture
from dlops_mnist.parts.sources import build_emnist, build_idx
from dlops_mnist.train import train


def draw(kind: str, seed: int, size: int = 24, mode: str = "L") -> Image.Image:
    "A disc or a bar somewhere in a picture of its own."
    rng = np.random.default_rng([seed, len(kind)])
    picture = Image.new("L", (size, size))
    x, y = rng.integers(2, size - 10, 2).tolist()
    pen = ImageDraw.Draw(picture)
    if kind == "disc": pen.ellipse((x, y, x + 7, y + 7), fill=255)
    else: pen.rectangle((x, y, x + 7, y + 2), fill=255)
    picture.putpixel((seed % size, seed // size % size), 255)
    grey = np.asarray(picture)
    if mode == "RGB": return Image.fromarray(np.stack([grey, grey // 2, 255 - grey], -1))
    if mode == "RGBA": return Image.fromarray(np.stack([0 * grey] * 3 + [grey], -1))  # black ink on transparent ground
    if mode == "I;16": return Image.fromarray(np.where(grey > 127, 3000, 200).astype(np.uint16))
    return picture.convert(mode)


def fill(root: Path, splits: dict[str, int], classes=("disc", "bar"), ending="png", start=0, **options) -> Path:
    for split, count in splits.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(start, start + count): draw(name, 100 * len(split) + i, **options).save(folder / f"{i:03}.{ending}")
    return root


def opened(path, **settings) -> MNISTDataModule:
    dm = MNISTDataModule(path, **settings)
    dm.setup()
    return dm


def counts(dm) -> dict[str, int]: return {split: len(data) for split, data in dm.datasets.items()}


# ---- formats

@pytest.mark.parametrize("ending", ["jpg", "webp", "bmp", "gif", "tif", "PNG"])
def test_every_format_is_read(tmp_path, ending):
    dm = opened(fill(tmp_path, {"train": 12, "test": 6}, ending=ending), color="grey")
    assert sum(counts(dm).values()) == 36 and dm.image_shape == [24, 24]


def test_formats_are_mixed_and_names_are_wrong(tmp_path):
    fill(tmp_path, {"train": 12, "test": 6})
    fill(tmp_path, {"train": 60}, ending="jpg", start=20)
    for file in list((tmp_path / "train/disc").glob("*.jpg"))[:5]: file.rename(file.with_suffix(".png"))
    for file in list((tmp_path / "train/bar").glob("*.jpg"))[:5]: file.rename(file.with_suffix(""))
    (tmp_path / "train/bar/notes").write_text("no picture")
    dm = opened(tmp_path)
    assert sum(counts(dm).values()) == 24 + 120 + 12
    assert any("1 file not used, such as `train/bar/notes`" in note for note in dm.notes)


def test_black_ink_on_transparent_ground_is_seen(tmp_path):
    dm = opened(fill(tmp_path, {"train": 12, "test": 6}, mode="RGBA"))
    images = dm.datasets["train"].images
    assert dm.facts["color"] == "grey" and images.min() == 0 and images.max() == 255
    assert len(np.unique(images, axis=0)) == len(images)
    assert open_images(tmp_path, background="black").splits["train"]["images"].max() == 0
    assert "alike" in " ".join(oddities(open_images(tmp_path, background="black")))


def test_sixteen_bits_need_a_range(tmp_path):
    fill(tmp_path, {"train": 12, "test": 6}, mode="I;16")
    with pytest.raises(UserError, match="range=auto") as error: opened(tmp_path)
    assert len(str(error.value).splitlines()) <= 3, "what all share is said once"
    dm = opened(tmp_path, range="auto")
    assert dm.facts["range"] == [200, 3000] and set(np.unique(dm.datasets["train"].images)) == {0, 255}
    again = open_dataset({"path": str(tmp_path), **dm.facts})
    assert (again.datasets["test"].images == dm.datasets["test"].images).all()
    assert opened(tmp_path, range=[0, 6000]).datasets["train"].images.max() == 128


def test_sixteen_bits_in_one_file_of_many_are_measured(tmp_path):
    fill(tmp_path, {"train": 40}, mode="RGB")

    def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + np.random.default_rng(i).integers(0, 9000, 72).astype(">u2").tobytes() for i in range(24))
    (tmp_path / "train/bar/deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 24, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    with pytest.raises(UserError, match="range=auto"): opened(tmp_path)
    low, high = opened(tmp_path, range="auto").facts["range"]
    assert 0 <= low < 300 and 8500 < high < 9000


def test_sixteen_bits_of_colour_in_a_tiff_are_not_cut_to_eight_in_silence():
    pixels = np.full((4, 6, 3), 3000, "<u2")  # a camera of 12 bits: Pillow's own 8 of these are nearly black
    tags = [(256, 6), (257, 4), (258, 0), (259, 1), (262, 2), (273, 0), (277, 3), (278, 4), (279, pixels.nbytes)]
    bits = 8 + 2 + 12 * len(tags) + 4
    fields = [struct.pack("<HHII", tag, 3, 3, bits) if tag == 258 else
              struct.pack("<HHII", tag, 4, 1, bits + 6 if tag == 273 else value) for tag, value in tags]
    data = struct.pack("<3H", 16, 16, 16) + pixels.tobytes()
    tiff = b"".join([b"II*\0", struct.pack("<IH", 8, len(tags)), *fields, bytes(4), data])
    with pytest.raises(BadImage, match="more than 8 bits"): decode(tiff)
    assert 170 < decode(tiff, Look(range=(0, 4095))).mean() < 190


def test_colour_is_kept_if_any_image_has_some(tmp_path):
    fill(tmp_path, {"train": 40, "test": 6})
    draw("disc", 999, mode="1").save(tmp_path / "train/disc/bit.png")
    assert opened(tmp_path).image_shape == [24, 24]
    draw("disc", 998, mode="RGB").save(tmp_path / "train/disc/zz.png")  # found only when everything is decoded
    draw("bar", 997, mode="RGB").convert("P").save(tmp_path / "train/bar/palette.png")
    draw("bar", 996, mode="RGB").convert("CMYK").save(tmp_path / "train/bar/ink.jpg", quality=95)
    dm = opened(tmp_path)
    assert dm.image_shape == [3, 24, 24] and dm.facts["color"] is True
    assert opened(tmp_path, color="grey").image_shape == [24, 24]
    with pytest.raises(UserError, match="colour image"): opened(tmp_path, color=False)


def test_a_photograph_is_turned_as_its_exif_data_say(tmp_path):
    tall, exif = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)), Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        file = io.BytesIO()
        tall.save(file, kind, exif=exif)
        assert decode(file.getvalue(), Look(color="grey")).shape == (20, 10), kind


def test_sizes_that_differ_are_one_sentence_and_one_setting(tmp_path):
    for i in range(20):
        for name in ("disc", "bar"):
            (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
            draw(name, i, size=24 + i % 10).save(tmp_path / f"train/{name}/{i}.png")
    with pytest.raises(UserError, match=r"from 24x24 to 33x33.*datamodule\.resize=\[\d+,\d+\]") as error: opened(tmp_path)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"from 12x600 to 600x12.*resize=\[84,84\]|from 600x12 to 12x600.*resize=\[84,84\]"):
        raise different_sizes(tmp_path, Counter({(600, 12): 2, (12, 600): 2}))
    for mode in ("stretch", "pad", "crop"): assert opened(tmp_path, resize=[16, 12], resize_mode=mode).image_shape == [16, 12]


def test_a_few_of_another_size_get_the_same_offer(tmp_path):
    fill(tmp_path, {"train": 20, "test": 6})
    draw("disc", 500, size=30).save(tmp_path / "train/disc/large.png")
    with pytest.raises(UserError, match=r"1 of 53 .*(?s:.*)large\.png is 30x30, most are 24x24\n.*datamodule\.resize=\[24,24\]$"):
        opened(tmp_path)
    assert sum(counts(opened(tmp_path, resize=[24, 24])).values()) == 53


def test_the_same_images_are_held_out_whatever_they_look_like(tmp_path):
    fill(tmp_path, {"": 60}, mode="RGB", ending="jpg")
    fill(tmp_path, {"": 60}, mode="RGB", start=70)
    first, *others = [opened(tmp_path, **settings)
                      for settings in ({}, {"color": "grey"}, {"resize": [8, 8]}, {"resize": [12, 12]})]
    for other in others:
        assert all(other.datasets[split].paths == data.paths for split, data in first.datasets.items())


def test_broken_files_are_all_named_or_left_out(tmp_path):
    fill(tmp_path, {"train": 30, "test": 6})
    (tmp_path / "train/disc/000.png").write_bytes(b"")
    (tmp_path / "train/bar/001.png").write_bytes((tmp_path / "train/bar/001.png").read_bytes()[:60])
    (tmp_path / "train/bar/photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    with pytest.raises(UserError, match="3 of 73") as error: opened(tmp_path)
    assert all(name in str(error.value) for name in ("disc/000.png is empty", "bar/001.png is truncated", "photo.jpg",
                                                     "broken=skip"))
    dm = opened(tmp_path, broken="skip")
    assert sum(counts(dm).values()) == 70 and dm.broken.keys() == {"train/disc/000.png", "train/bar/001.png", "train/bar/photo.jpg"}
    assert any("3 broken files were left out" in note for note in dm.notes)


def test_a_class_of_broken_files_alone_is_named(tmp_path, capsys):
    fill(tmp_path, {"train": 12, "test": 6}, classes=("disc", "bar", "torn"))
    for file in tmp_path.glob("train/torn/*"): file.write_bytes(file.read_bytes()[:50])
    said = "no image of `torn` is left in train: all are broken"
    assert said in opened(tmp_path, broken="skip").notes
    inspect(str(tmp_path), broken="skip")
    assert f"note: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2), (0, 5)])
def test_bombs_are_refused_before_memory_is_taken(size):
    def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (
        (b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")))
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, *[min(side, 2**31 - 1) for side in size], 1, 24, 0, 0, 0,
                              0, 0, 0)
    gif = b"GIF89a" + struct.pack("<HHBBB", *[side % 65536 for side in size], 0, 0, 0) + b";"
    for data in (png, bmp, gif):
        with pytest.raises(BadImage): decode(data)


# ---- layouts

def test_folders_in_folders(tmp_path):
    for split in ("train", "test"):
        for name in ("disc", "bar"): fill(tmp_path / split, {name: 10}, classes=("monday",), start=len(name + split) * 10)
    dm = opened(tmp_path)
    assert counts(dm)["test"] == 20 and dm.classes == ["bar", "disc"] and dm.test_df.image[0].count("/") == 3


@pytest.mark.parametrize("words", [("training", "testing", "validation"), ("Train", "TEST", "valid"), ("trn", "tst", "validate")])
def test_other_words_for_the_splits(tmp_path, words):
    fill(tmp_path, dict(zip(words, (12, 6, 4))))
    dm = opened(tmp_path)
    assert counts(dm) == {"train": 24, "val": 8, "test": 12} and any("was read as" in note for note in dm.notes)


def test_train_alone_can_be_trained_on_and_not_evaluated(tmp_path):
    dm = opened(fill(tmp_path, {"train": 18}))
    assert dm.datasets.keys() == {"train", "val"}
    with pytest.raises(UserError, match="no test images"): dm.test_dataloader()


def test_classes_alone_are_split_by_hash(tmp_path):
    dm = opened(fill(tmp_path, {"": 50}))
    assert 12 < counts(dm)["test"] < 28 and sum(counts(dm).values()) == 100 and dm.facts["test"] == 0.2
    assert not set(dm.datasets["test"].paths) & set(dm.datasets["train"].paths + dm.datasets["val"].paths)
    assert any("held out for the test" in note for note in dm.notes)
    more = opened(fill(tmp_path, {"": 20}, start=60))
    assert set(dm.datasets["test"].paths) <= set(more.datasets["test"].paths), "new images change nothing for the old ones"


@pytest.mark.parametrize("train, test", [
    ("training_set", "test_set"), ("trainset", "testset"), ("Train Images", "Test Images"), ("cats-train", "cats-test"),
    ("seg_train/seg_train", "seg_test/seg_test"), ("train/images", "test/images"), ("pets/train", "pets/test")])
def test_splits_of_well_known_archives(tmp_path, train, test):
    fill(tmp_path, {train: 12, test: 6})
    dm = opened(tmp_path)
    assert counts(dm)["test"] == 12 and sum(counts(dm).values()) == 36 and dm.classes == ["bar", "disc"]
    assert any(train.split("/")[0] in note for note in dm.notes), "what was guessed is said"


def test_pictures_without_a_class_are_no_classes(tmp_path):
    for split, count in (("train", 20), ("test", 8)):
        (tmp_path / split).mkdir()
        for i in range(count): draw(("disc", "bar")[i % 2], 50 * len(split) + i).save(tmp_path / split / f"{i}.png")
    with pytest.raises(UserError, match=r"no images of any class.*28 files not used.*no class's folder.*labels="): opened(tmp_path)
    (tmp_path / "train.csv").write_text("id,label\n" + "\n".join(f"{i},{('disc', 'bar')[i % 2]}" for i in range(20)))
    (tmp_path / "test.csv").write_text("id\n" + "\n".join(map(str, range(8))))
    dm = opened(tmp_path, labels="train.csv")
    assert sum(counts(dm).values()) == 20 and all(path.startswith("train/") for data in dm.datasets.values() for path in data.paths)
    assert "8 files not used, such as `test/0.png`: they are not in train.csv" in dm.notes
    (tmp_path / "train.csv").rename(tmp_path / "trainLabels.csv")
    assert opened(tmp_path, labels="trainLabels.csv").fingerprint == dm.fingerprint, "numbers in both folders, as in CIFAR-10"


def test_what_is_there_and_cant_be_read_is_said(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "phone" / name).mkdir(parents=True)
        for i in range(5): (tmp_path / "phone" / name / f"{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(UserError, match=r"10 files not used.*format that isn't read"): opened(tmp_path / "phone")
    (tmp_path / "phone/photos.ZIP").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"1 file not used, such as `photos.ZIP`: they are archives"): opened(tmp_path / "phone")
    fill(tmp_path / "pipes", {"train": 12, "test": 6})
    for name in ("pipe", "pipe.png"): os.mkfifo(tmp_path / "pipes/train/disc" / name)  # reading one would wait for ever
    dm = opened(tmp_path / "pipes")
    assert sum(counts(dm).values()) == 36 and sum("pipe" in note for note in dm.notes) == 2


def test_a_vehicle_is_not_a_split(tmp_path):
    fill(tmp_path, {"": 10}, classes=("train", "bus"))
    assert opened(tmp_path).classes == ["bus", "train"]


def test_an_archives_own_folder_and_splits_within_classes(tmp_path):
    fill(tmp_path / "photos-main", {"train": 10, "test": 4})
    assert counts(opened(tmp_path))["test"] == 8
    for name in ("disc", "bar"): fill(tmp_path / "inner" / name, {"": 10}, classes=("train", "test"))
    assert counts(opened(tmp_path / "inner"))["test"] == 20
    for name in ("disc", "bar"): (tmp_path / "inner" / name / "test").rename(tmp_path / "inner" / name / "TEST")
    assert "each `TEST/` was read as test" in opened(tmp_path / "inner").notes


def test_what_the_system_leaves_behind_is_neither_image_nor_class(tmp_path):
    fill(tmp_path, {"train": 12, "test": 6})
    fill(tmp_path, {"__MACOSX": 2, "train": 0})
    for name in ("train/.DS_Store", "train/disc/Thumbs.db", "train/disc/._000.png"): (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train/.hidden").mkdir()
    (tmp_path / "train/readme.txt").write_text("x")
    dm = opened(tmp_path)
    assert dm.classes == ["bar", "disc"] and sum(counts(dm).values()) == 36
    assert sum(int(note.split()[0]) for note in dm.notes if "not used" in note) == 6


def test_a_link_that_leads_back_ends(tmp_path):
    fill(tmp_path, {"train": 12, "test": 6})
    (tmp_path / "train/disc/again").symlink_to(tmp_path)
    assert opened(tmp_path).classes == ["bar", "disc"]


def test_links_and_names_of_all_kinds(tmp_path):
    real = fill(tmp_path / "real", {"train": 12, "test": 6}, classes=("großer Kreis", '🚗 car, "fast"', "一"))
    path = tmp_path / "with blanks"
    path.mkdir()
    (path / "train").symlink_to(real / "train")
    (path / "test").symlink_to(real / "test")
    assert opened(path).classes == sorted(["großer Kreis", '🚗 car, "fast"', "一"])


def test_two_ways_to_write_a_letter_are_one_class(tmp_path):
    whole, accent = "\u00c4pfel", "A\u0308pfel"
    fill(tmp_path, {"train": 12}, classes=(whole, "bar"))
    fill(tmp_path, {"test": 6}, classes=(accent, "bar"))
    fill(tmp_path, {"train": 5}, classes=(accent,), start=20)
    dm = opened(tmp_path)
    assert dm.classes == ["bar", whole] and sum(counts(dm).values()) == 41
    rows = ["image,label", f"{accent}/001.png,{accent}", f"{whole}/020.png,{whole}", "bar/000.png,bar", "bar/001.png,bar"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    named = open_images(tmp_path / "train", labels=tmp_path / "labels.csv")
    assert named.classes == ["bar", whole] and named.splits["train"]["labels"].tolist().count(1) == 2


def test_a_class_that_test_lacks_is_said(tmp_path):
    fill(tmp_path, {"train": 12}, classes=("disc", "bar", "ring"))
    fill(tmp_path, {"test": 6})
    dm = opened(tmp_path)
    assert "train has images of `ring`, test has none" in dm.notes and len(dm.classes) == 3


def test_inspect_shows_a_class_that_test_lacks(tmp_path, capsys):
    fill(tmp_path, {"train": 12}, classes=("disc", "bar", "ring"))
    fill(tmp_path, {"test": 6})
    inspect(str(tmp_path), figures=str(tmp_path / "pictures"))
    said = capsys.readouterr().out
    assert "note: train has images of `ring`, test has none" in said and not {"nan", "<NA>"} & set(said.split())
    assert re.search(r"test +ring +0 +24x24 *\n", said) and (tmp_path / "pictures/means.png").is_file()


# ---- tables

def table(tmp_path, rows, name="labels.csv", count=36) -> Path:
    (tmp_path / "images").mkdir(parents=True, exist_ok=True)
    for i in range(count): draw(("disc", "bar")[i % 2], i).save(tmp_path / f"images/{i:03}.png")
    (tmp_path / name).write_text("\n".join(rows) + "\n")
    return tmp_path


def test_one_folder_and_a_table(tmp_path):
    dm = opened(table(tmp_path, ["filename,label", *(f"{i:03}.png,{('disc', 'bar')[i % 2]}" for i in range(35))]))
    assert sum(counts(dm).values()) == 35 and any("not used, such as `images/035.png`" in note for note in dm.notes)
    assert all((label == "disc") == (int(Path(file).stem) % 2 == 0) for file, label in dm.train_df.values)


@pytest.mark.parametrize("rows, settings", [
    (["split\tid\tspecies", *(f"{('train', 'Test')[i > 29]}\t{i:03}\t{'ab'[i % 2]}" for i in range(36))], {}),
    (["a;b;c", *(f"images\\{i:03}.png;{'ab'[i % 2]};{('train', 'valid', 'test')[i % 3]}" for i in range(36))],
     {"columns": ["a", "b", "c"]}),
    (["sep=;", "image;label", *(f"{i:03}.png;{'ab'[i % 2]}" for i in range(36))], {}),  # Excel's own line
    (["image,a,b,c", *(f"{i:03},{1 - i % 2}.0,{i % 2}.0,0.0" for i in range(36))], {}),  # a column for each class
])
def test_tables_of_many_forms(tmp_path, rows, settings):
    table(tmp_path, rows, "which.tsv")
    dm = opened(tmp_path, labels="which.tsv", **settings)
    assert dm.classes == ["a", "b"] and sum(counts(dm).values()) == 36


def test_a_changed_label_is_another_dataset(tmp_path):
    rows = ["image,label", *(f"{i:03}.png,{'ab'[i % 2]}" for i in range(36))]
    before = opened(table(tmp_path, rows))
    (tmp_path / "labels.csv").write_text("\n".join(rows).replace("000.png,a", "000.png,b"))
    after = opened(tmp_path)
    assert after.fingerprint != before.fingerprint
    assert dict(after.train_df.values) | dict(after.val_df.values) | dict(after.test_df.values) != {}


@pytest.mark.parametrize("rows, match", [
    (["image,label", "000.png,a", "nowhere.png,b"], "1 of 2 rows .* not there, such as `nowhere.png`.*broken=skip"),
    (["image,label", "000.png,a", "000.png,b"], "row 3: .* before"),
    (["x,y,z", "000.png,a,b"], "Which columns"), (["image,label", "000.png"], "row 2: 1 values"),
    (["image,label,split", "000.png,a,blue"], "`blue` is no split"), (["image,label"], "no rows"),
    (["000.png,a", "001.png,b"], "begins with `000.png`: its first line"),
    (["label," + ",".join(f"pixel{i}" for i in range(784)), "1" + ",0" * 784], "`pixel7` and 777 more: datamodule.columns")])
def test_mistakes_in_a_table_are_one_sentence(tmp_path, rows, match):
    table(tmp_path, rows, count=4)
    with pytest.raises(UserError, match=match): opened(tmp_path, labels="labels.csv")


def test_a_group_stays_on_one_side(tmp_path):
    rows = ["image,label,patient", *(f"{i:03}.png,{'ab'[i % 2]},{i // 6}" for i in range(120))]
    dm = opened(table(tmp_path, rows, count=120))
    sides = [{int(Path(path).stem) // 6 for path in data.paths} for data in dm.datasets.values()]
    assert not sides[0] & sides[1] and not sides[1] & sides[2] and not sides[0] & sides[2] and sum(map(len, sides)) == 20


def test_of_a_few_groups_one_is_held_out(tmp_path):
    groups = np.array([2**63, 2**63 + 5, 2**64 - 9], np.uint64).repeat(4)
    part = {"hashes": np.arange(12, dtype=np.uint64), "labels": np.arange(12) % 2, "images": np.zeros(12), "groups": groups}
    kept, held = hold_out(part, 0.2, key="test")
    assert held["groups"].tolist() == [2**63] * 4 and len(kept["groups"]) == 8
    assert hold_out(kept, 0.2, 0.2)[1]["groups"].tolist() == [2**63 + 5] * 4


# ---- held out

def test_some_of_each_class_is_held_out_and_some_stays():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(1, 12, 5)
        hashes = np.sort(rng.integers(0, 2**64, sizes.sum(), dtype=np.uint64))
        part = {"hashes": hashes, "labels": rng.permutation(np.repeat(np.arange(5), sizes)), "images": np.zeros(sizes.sum())}
        try: train, val = hold_out(part, 0.2)
        except UserError: continue
        assert set(train["labels"]) == set(part["labels"]), "each class can be learnt"
        assert all((val["labels"] == label).any() for label in range(5)
                   if sizes[label] >= 3), "and those with three images validated"


def test_in_large_classes_each_image_decides_alone():
    rng = np.random.default_rng(0)
    hashes = np.sort(rng.integers(0, 2**64, 4000, dtype=np.uint64))
    part = {"hashes": hashes, "labels": rng.integers(0, 4, 4000), "images": np.zeros(4000)}
    assert (hold_out(part, 0.2)[1]["hashes"] == hashes[hashes < 0.2 * 2**64]).all()


# ---- another folder, a new picture

def test_another_folder_needs_only_what_is_evaluated(tmp_path):
    dm = opened(fill(tmp_path / "a", {"train": 20, "test": 6}))
    settings = {"path": str(tmp_path / "a"), **dm.facts}
    fill(tmp_path / "b", {"test": 5})
    fill(tmp_path / "c", {"": 5}, classes=("disc",))
    assert len(open_dataset(settings, {"path": str(tmp_path / "b")}).dataset("test")) == 10
    only = open_dataset(settings, {"path": str(tmp_path / "c")}).dataset("test")
    assert len(only) == 5 and set(only.labels) == {1} and only.classes == ["bar", "disc"]
    with pytest.raises(UserError, match="no train images"): open_dataset(settings, {"path": str(tmp_path / "b")}).dataset("train")


def test_a_new_picture_is_read_as_training_read_it(tmp_path):
    fill(tmp_path, {"train": 12, "test": 6}, mode="RGBA", size=40)
    dm = opened(tmp_path, resize=[20, 16], resize_mode="pad", background="#808080", color="grey")
    settings = dict(resize=[20, 16], resize_mode="pad", background="#808080") | dm.facts
    for file, pixels in zip(dm.datasets["test"].paths, dm.datasets["test"].images):
        assert (read_picture(tmp_path / file, settings) == pixels).all()
        assert (read_picture((tmp_path / file).read_bytes(), settings) == pixels).all()
    with pytest.raises(UserError, match="can't be read"): read_picture(tmp_path / "nowhere.png", settings)
    with pytest.raises(UserError, match="The picture is not"): read_picture(b"x", settings)
    assert read_picture(tmp_path / file, {"image_shape": [3, 9, 9]}).shape == (3, 9, 9), "settings of an older run"
    assert read_picture(tmp_path / file, {}).shape == (28, 28), "and of one that named no size"


# ---- programs

def test_inspect_says_what_is_odd(tmp_path, capsys):
    fill(tmp_path, {"train": 12, "test": 6}, mode="I;16")
    (tmp_path / "train/notes.txt").write_text("x")
    inspect(str(tmp_path), **{"datamodule.range": [200, 3000]})
    out = capsys.readouterr().out
    assert "1 file not used, such as `train/notes.txt`" in " ".join(out.split()) and "fingerprint" in out
    with pytest.raises(UserError, match="Did you mean `resize`"): inspect(str(tmp_path), resise=[3, 3])


def test_images_that_are_all_alike_are_refused_as_such(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(9): Image.new("L", (8, 8), 7).save(tmp_path / name / f"{i}.png")
    with pytest.raises(UserError, match="All 18 images are alike"): opened(tmp_path)


def write_idx(folder: Path, count: int = 40, classes: int = 2, prefix: str = "", first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test" if prefix else "t10k"):
        images = np.stack([np.asarray(draw(("disc", "bar")[i % 2], i, size=28)) for i in range(count)])
        for name, values in (("images-idx3", images), ("labels-idx1", first + np.arange(count) % classes)):
            head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{prefix}{split}-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))
    return folder


def test_idx_files_of_any_data(tmp_path):
    raw = write_idx(tmp_path / "raw")
    with pytest.raises(UserError, match=r"dataset idx NEW_FOLDER raw="): opened(raw)
    dm = MNISTDataModule(tmp_path / "made", source="idx", raw=str(raw))
    dm.setup()
    assert dm.classes == ["0", "1"] and len(dm.dataset("test")) == 40
    turned = open_images(build_idx(tmp_path / "turned", raw, turned=True))
    assert turned.image_shape == [28, 28] and turned.fingerprint != dm.fingerprint
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(struct.pack(">4BI", 0, 0, 13, 1, 1) + bytes(4))
    with pytest.raises(UserError, match="holds float32 values"): build_idx(tmp_path / "other", raw)
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"): build_idx(tmp_path / "other", raw)
    (raw / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="one file of images .* and 0"): build_idx(tmp_path / "other", raw)


def test_any_folder_becomes_a_standard_one(tmp_path, capsys):
    path = table(tmp_path / "a", ["image,label,split",
                                  *(f"{i:03}.png,{'ab'[i % 2]},{('train', 'test')[i % 3 == 0]}" for i in range(36))])
    before, made = opened(path), convert(str(path), str(tmp_path / "b"))
    after = opened(made)
    assert counts(after) == counts(before) and after.classes == before.classes
    assert {split: sorted(data.hashes) for split, data in after.datasets.items()} == {
        split: sorted(data.hashes) for split, data in before.datasets.items()}
    with pytest.raises(UserError, match="already"): convert(str(path), str(tmp_path / "b"))
    assert "column of groups" not in capsys.readouterr().out
    rows = ["image,label,patient", *(f"{i:03}.png,{'ab'[i % 2]},{i // 6}" for i in range(36))]
    convert(str(table(tmp_path / "c", rows)), str(tmp_path / "d"))
    assert "column of groups is left behind" in " ".join(capsys.readouterr().out.split())


def test_files_that_would_take_one_name_are_all_kept(tmp_path):
    fill(tmp_path / "a", {"train": 3}, ending="jpg")
    fill(tmp_path / "a", {"train": 3}, start=5)
    (tmp_path / "a/train/disc/x").mkdir()
    draw("disc", 70).save(tmp_path / "a/train/disc/x/1.png")
    draw("disc", 71).save(tmp_path / "a/train/disc/x_1.png")
    (tmp_path / "a/train/disc/005.jpg").write_bytes((tmp_path / "a/train/disc/000.jpg").read_bytes())
    before = opened(tmp_path / "a")
    for to, png in (("b", False), ("c", True)):
        made = convert(str(tmp_path / "a"), str(tmp_path / to), png=png)
        assert counts(opened(made)) == counts(before), to
    assert {file.suffix for file in made.rglob("*") if file.is_file() and ".cache" not in file.parts} == {".png"}
    (tmp_path / "a/train/bar/007.png").write_bytes(b"x")
    (tmp_path / "a/train/disc/007.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)2 of \d+ images can't be used.*bar/007.png.*disc/007.png is empty.* broken=skip"):
        convert(str(tmp_path / "a"), str(tmp_path / "d"), png=True)
    assert not (tmp_path / "d").exists()
    made = convert(str(tmp_path / "a"), str(tmp_path / "d"), png=True, broken="skip")
    assert sum(counts(opened(made)).values()) == sum(counts(before).values()) - 2


def test_sixteen_bits_are_converted_by_a_range(tmp_path, program):
    fill(tmp_path / "deep", {"train": 30, "test": 6}, mode="I;16")
    refused = program("dataset", "convert", "deep", "to=flat", "png=true", cwd=tmp_path)
    assert refused.returncode == 2 and "range=auto" in refused.stderr and len(refused.stderr.splitlines()) <= 2
    done = program("dataset", "convert", "deep", "to=flat", "png=true", "range=auto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flat, deep = opened(tmp_path / "flat"), opened(tmp_path / "deep", range="auto")
    assert sorted(flat.datasets["test"].hashes) == sorted(deep.datasets["test"].hashes)


# ---- datasets with a name

@pytest.mark.parametrize("name, number, called", [("fashion", 8, "bag"), ("kmnist", 2, "su")])
def test_datasets_with_a_name_have_classes_with_names(tmp_path, monkeypatch, name, number, called):
    raw = write_idx(tmp_path / "raw", classes=10)
    with pytest.raises(UserError, match=f"is not {name}'s.*source=idx"): sources.SOURCES[name](tmp_path / "no", raw)
    sums = [hashlib.md5((raw / f"{file}.gz").read_bytes()).hexdigest() for file in sources.MNIST_FILES]
    monkeypatch.setitem(sources.KNOWN, name, sources.KNOWN[name]._replace(sums=sums))
    dm = MNISTDataModule(tmp_path / "made", source=name, raw=str(raw), per_class=2)
    dm.setup()
    assert sorted(dm.classes) == sorted(sources.KNOWN[name].names) and counts(dm)["test"] == 10
    two = MNISTDataModule(tmp_path / "two", source=name, raw=str(raw), binary=number)
    two.setup()
    assert two.classes == [f"no{called}", called]
    with pytest.raises(UserError, match="datamodule.source=null") as error: MNISTDataModule(tmp_path / "raw", source=name).setup()
    assert "remove" not in str(error.value)


def test_unpacked_files_are_checked_as_well(tmp_path, monkeypatch):
    raw = write_idx(tmp_path / "raw", classes=10)
    for file in [*raw.iterdir()]:
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    with pytest.raises(UserError, match="is not fashion's: it has another checksum"): sources.build_fashion(tmp_path / "no", raw)
    with pytest.raises(UserError, match="kmnist's: checksums are known of .gz files"): sources.build_kmnist(tmp_path / "no", raw)
    sums = [f"- {hashlib.sha256((raw / file).read_bytes()).hexdigest()}" for file in sources.MNIST_FILES]
    monkeypatch.setitem(sources.KNOWN, "fashion", sources.KNOWN["fashion"]._replace(sums=sums))
    assert len([*sources.build_fashion(tmp_path / "made", raw).glob("*/bag/*.png")]) == 8


@pytest.mark.parametrize("name", ["fashion", "kmnist", "emnist"])
def test_where_one_mirror_fails_the_next_one_is_asked(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    raw = write_idx(tmp_path / "raw", 60, 47 if name == "emnist" else 10, prefix="emnist-balanced-" if name == "emnist" else "")
    good, bad = tmp_path / "www/good", tmp_path / "www/bad"
    for folder in (good, bad): folder.mkdir(parents=True)
    if name == "emnist":
        with zipfile.ZipFile(good / "gzip.zip", "w") as archive:
            for file in raw.iterdir(): archive.write(file, f"gzip/{file.name}")
    else:
        for file in raw.iterdir(): file.rename(good / file.name)
    for file in good.iterdir(): (bad / file.name).write_bytes(b"<html>moved</html>")  # with status 200

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=str(tmp_path / "www"))
        def log_message(self, *args): seen.append(self.path)

    seen, server = [], http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    mirrors = [f"http://127.0.0.1:{port}/{place}/" for port, place in ((9, "gone"), *((server.server_port, p) for p in
                                                                                    ("missing", "bad", "good")))]
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in good.iterdir()}
    if name == "emnist":
        monkeypatch.setattr(sources, "EMNIST", mirrors)
        monkeypatch.setattr(sources, "EMNIST_MD5", md5["gzip.zip"])
    else:
        sums = [md5[f"{file}.gz"] for file in sources.MNIST_FILES]
        monkeypatch.setitem(sources.KNOWN, name, sources.KNOWN[name]._replace(sums=sums, mirrors=mirrors))
    try:
        made = sources.SOURCES[name](tmp_path / "made")
        assert len(open_images(made).classes) == (47 if name == "emnist" else 10) and any("missing" in path for path in seen)
        asked = len(seen)
        assert len(open_images(sources.SOURCES[name](tmp_path / "again", seed=1)).classes) > 9 and len(seen) == asked, "once"
    finally: server.shutdown()


@pytest.mark.parametrize("part, count, some", [("balanced", 47, "small_a"), ("letters", 26, "z"), ("byclass", 62, "small_z"),
                                               ("digits", 10, "9")])
def test_the_parts_of_emnist(tmp_path, part, count, some):
    raw = write_idx(tmp_path / "raw", 2 * count, count, prefix=f"emnist-{part}-", first=int(part == "letters"))
    write_idx(raw, 10, 10, prefix="emnist-mnist-")
    arrays = open_images(build_emnist(tmp_path / "made", raw, part=part))
    assert len(arrays.classes) == count and some in arrays.classes
    drawn = np.asarray(draw("disc", 0, size=28))
    assert any((image == drawn.T).all() for image in arrays.splits["train"]["images"]), "it no longer lies on its side"
    with pytest.raises(UserError, match="part is"): build_emnist(tmp_path / "other", raw, part="leters")
    write_idx(raw, 2 * count, count + 1, prefix=f"emnist-{part}-", first=int(part == "letters"))
    with pytest.raises(UserError, match=r"\d+ is no label of emnist's.*source=idx"): build_emnist(tmp_path / "odd", raw, part=part)


# ---- kinds of folders that the tests above leave out

def test_links_to_classes_and_files(tmp_path):
    real, path = fill(tmp_path / "real", {"train": 12, "test": 6}), tmp_path / "data"
    (path / "test/bar").mkdir(parents=True)
    (path / "train").symlink_to(real / "train")
    (path / "test/disc").symlink_to("../../real/test/disc")
    for file in (real / "test/bar").iterdir(): (path / "test/bar" / file.name).symlink_to(file)
    assert opened(path).fingerprint == opened(real).fingerprint and counts(opened(path))["test"] == 12


def test_five_formats_in_one_folder(tmp_path):
    for i, ending in enumerate(("bmp", "gif", "tif", "webp", "png")):
        fill(tmp_path, {"train": 4, "test": 2}, ending=ending, start=10 * i)
    assert sum(counts(opened(tmp_path)).values()) == 60


def test_an_unbalanced_folder_is_said_to_be_so(tmp_path):
    fill(tmp_path, {"train": 100, "test": 30}, classes=("disc",))
    fill(tmp_path, {"train": 4, "test": 2}, classes=("bar",))
    said = " ".join(oddities(open_images(tmp_path)))
    assert "train is unbalanced, with" in said and "disc" in said and "bar" in said
    dm = opened(tmp_path)
    assert all((data.labels == 0).any() for data in dm.datasets.values()), "the rare class is in each part"


def test_three_commands_from_a_folder_of_photos_to_a_verdict(program, tmp_path):
    "JPEG files of many sizes, without a split, in classes of 60, 30 and 12."
    for name, count in {"beach": 60, "city": 30, "forest": 12}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([i, count])
            ground = Image.fromarray(rng.integers(0, 120, (3, 4, 3), np.uint8) + np.uint8([[[count, 60, 120 - count]]]))
            ground = ground.resize((64 + i % 9, 48 + i % 7), Image.Resampling.BICUBIC)
            ground.save(tmp_path / f"photos/{name}/IMG_{i:04}.JPG", quality=88)
    looked = program("dataset", "inspect", "photos", "datamodule.resize=[32,32]", cwd=tmp_path)
    assert looked.returncode == 0 and all(word in looked.stdout for word in ("beach", "3x32x32", "copies: none"))
    trained = program("train", "datamodule.path=photos", "datamodule.resize=[32,32]", "model=cnn", "model.filters=[4,8]",
                      "trainer.max_epochs=2", "trainer.accelerator=cpu", cwd=tmp_path)
    assert trained.returncode == 0 and "held out for the test (test=0.2)" in trained.stdout, trained.stderr
    [run] = (tmp_path / "runs/base").iterdir()
    measured = program("evaluate", str(run), cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert all(word in measured.stdout for word in ("forest", "Brier score", "balanced accuracy", "macro F1"))
    assert (run / "evaluation/report.html").is_file()


# ---- what forty more folders showed

def test_a_large_file_is_read_in_one_go(tmp_path):
    "Photos have ten million bytes, scans a hundred; joining small pieces takes the square of that."
    (tmp_path / "scan").write_bytes(os.urandom(2**20) * 8)

    def seconds(read) -> float:
        start = time.process_time()
        assert len(read(tmp_path / "scan")) == 2**23
        return time.process_time() - start

    assert min(seconds(read_file) for _ in range(3)) < 60 * min(seconds(Path.read_bytes) for _ in range(3)), "hundreds of times"
    os.truncate(tmp_path / "scan", 2**40)  # a file that has no such size on the disk
    with pytest.raises(UserError, match="scan` can't be read: it is larger than any picture"): read_picture(tmp_path / "scan", {})


def test_values_that_are_no_numbers_are_black(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(20):
            values = np.random.default_rng([i, ord(name)]).normal(300, 5, (8, 8)).astype(np.float32)
            values[0] = np.nan
            Image.fromarray(values).save(tmp_path / name / f"{i}.tif")
    dm = opened(tmp_path, range="auto")
    assert 280 < dm.facts["range"][0] < dm.facts["range"][1] < 320 and (dm.dataset("train").images[:, 0] == 0).all()
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 16, 0, 0, 0, 0)
    (tmp_path / "a/bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + head + struct.pack(">I", zlib.crc32(head)))
    with pytest.raises(UserError, match="bomb.png is truncated"): opened(tmp_path, range="auto")


def test_odd_metadata_are_not_the_persons_business(tmp_path, program):
    fill(tmp_path / "data", {"": 20}, ending="jpg")
    for i, exif in enumerate((b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\x01", b"garbage")):
        data = (tmp_path / "data/disc/000.jpg").read_bytes()
        part = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif
        (tmp_path / f"data/disc/odd{i}.jpg").write_bytes(data[:2] + part + data[2:])
    done = program("dataset", "inspect", "data", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr and re.search(r"train +disc +23 ", done.stdout), done.stderr
    own = ("from dlops_mnist.parts.pictures import decode; from PIL import Image; data = open('data/disc/odd1.jpg', 'rb'); "
           "decode(data.read()); [Image.open(f'data/disc/odd{i}.jpg').getexif() for i in (0, 1, 2)]")
    done = subprocess.run([sys.executable, "-c", own], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "UserWarning" in done.stderr, "what a person's own lines open is warned of as ever"


@pytest.mark.parametrize("splits", [("images/train", "images/val"), ("train/images", "valid/images"),
                                    ("cars_train/cars_train", "cars_test/cars_test")])
def test_what_detectors_learn_from_holds_no_classes(tmp_path, splits):
    for split in splits:
        (tmp_path / split).mkdir(parents=True)
        for i in range(10): draw("disc", len(split) * 50 + i).save(tmp_path / split / f"{i}.png")
    with pytest.raises(UserError, match="no images of any class. 20 files not used.*no class's folder"): opened(tmp_path)


def test_images_beside_classes_are_no_class_of_another_split(tmp_path):
    for name in ("n01", "n02"): fill(tmp_path / "train", {name: 20}, classes=("images",), start=len(name))
    fill(tmp_path, {"val": 6, "test": 6}, classes=("images",))
    dm = opened(tmp_path)
    assert dm.classes == ["n01", "n02"] and any("12 files not used, such as" in note and "no class" in note for note in dm.notes)


def test_a_picture_beside_the_archives_folder(tmp_path):
    fill(tmp_path / "archive", {"train": 12, "test": 6})
    draw("disc", 999).save(tmp_path / "preview.png")
    dm = opened(tmp_path)
    assert sum(counts(dm).values()) == 36 and any("`preview.png`" in note for note in dm.notes)
    fill(tmp_path / "parts", {"split=train": 12, "split=test": 6})
    assert counts(opened(tmp_path / "parts"))["test"] == 12


@pytest.mark.parametrize("before", ["D:\\My data\\", "/content/drive/data/", "../x/", "./"])
def test_a_table_from_another_machine(tmp_path, before):
    path, slash = fill(tmp_path / "data", {"": 12}), "\\" if "\\" in before else "/"
    rows = [f"{before}{name}{slash}{i:03}.png,{name.upper()}" for name in ("disc", "bar") for i in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    dm = opened(path, labels=str(tmp_path / "labels.csv"))
    assert sum(counts(dm).values()) == 24 and all(label == file.split("/")[0].upper() for file, label in dm.train_df.values)


def test_of_many_names_some_are_shown(tmp_path):
    fill(tmp_path, {"train": 3}, classes=[f"c{i}" for i in range(30)])
    fill(tmp_path, {"test": 3}, classes=["c0"])
    for i in range(9): (tmp_path / f"train/empty{i}").mkdir()
    notes = opened(tmp_path).notes
    assert "train has images of `c1`, `c10`, `c11`, `c12`, `c13` and 24 more, test has none" in notes
    assert any("`train/empty4/` and 4 more hold no image" in note for note in notes)


def test_another_folder_with_val_alone(tmp_path):
    dm = opened(fill(tmp_path / "a", {"train": 20, "test": 6}))
    settings = {"path": str(tmp_path / "a"), **dm.facts}
    assert len(open_dataset(settings, {"path": str(fill(tmp_path / "b", {"val": 5}))}).dataset("val")) == 10
    both = open_dataset(settings, {"path": str(fill(tmp_path / "c", {"train": 7, "val": 5}))})
    assert len(both.dataset("val")) == 10 and len(both.dataset("test")) == 14


def test_models_of_two_sizes_are_compared_on_the_images_of_a_third(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [train(load_config(None, f"datamodule.path={fill(tmp_path / str(size), {'train': 12, 'test': 6}, size=size)}",
                              "model.hidden=[3]", "trainer.max_epochs=1", "trainer.accelerator=cpu", f"experiment=of{size}"))
            for size in (20, 30)]
    for settings in ({}, {"path": str(fill(tmp_path / "third", {"test": 6}, size=40))}):
        a, b = measure_all(*(run.path for run in runs), draws=20, datamodule=settings)
        assert a.paths == b.paths and a.images.shape == (12, 20, 20) and b.images.shape == (12, 30, 30)


# ---- what is no class, though it lies in a folder of its own

def test_masks_are_no_second_class(tmp_path):
    "Lungs with their masks, pets with their trimaps, cells with a table."
    lungs = fill(tmp_path / "lungs", {"covid": 10, "normal": 10, "flu": 10}, classes=("images", "masks"))
    dm = opened(lungs)
    assert dm.classes == ["covid", "flu", "normal"] and sum(counts(dm).values()) == 30
    assert any("30 files not used, such as `covid/masks/000.png`: they lie beside images" in note for note in dm.notes)
    fill(tmp_path / "pets", {"": 9}, classes=("images", "annotations/trimaps"))
    with pytest.raises(UserError, match="one class, `images`"): opened(tmp_path / "pets")
    cells = table(tmp_path / "cells", ["image,label", *(f"{i:03}.png,{'ab'[i % 2]}" for i in range(36))])
    fill(cells, {"masks": 9}, classes=("",))
    assert sum(counts(opened(cells)).values()) == 36
    assert opened(fill(tmp_path / "faces", {"": 12}, classes=("mask", "no_mask"))).classes == ["no_mask", "mask"]


@pytest.mark.parametrize("folders", [
    ("trainA", "trainB", "testA", "testB"), ("cats_train", "cats_test", "dogs_train", "dogs_test"),
    ("horse-or-human/horse", "horse-or-human/human", "validation-horse-or-human/horse", "validation-horse-or-human/human"),
    ("amazon/images/mug", "amazon/images/pen", "dslr/images/mug", "dslr/images/pen"),
    ("fold1/train/cat", "fold1/train/dog", "fold1/test/cat", "fold1/test/dog",
     "fold2/train/cat", "fold2/train/dog", "fold2/test/cat", "fold2/test/dog")])
def test_parts_that_are_read_as_classes_are_said(tmp_path, folders):
    fill(tmp_path, {"": 10}, classes=folders)
    assert any("were read as classes" in note and folders[0].split("/")[0] in note for note in opened(tmp_path).notes)
    ours = opened(fill(tmp_path / "ours", {"": 10}, classes=("cat/monday", "cat/tuesday", "dog/monday", "dog")))
    assert not any("were read as classes" in note for note in ours.notes)


def test_parts_that_are_named_so_are_parts(tmp_path):
    fill(tmp_path / "three", {"train1": 12, "train2": 9, "test_2": 6})
    assert (found := counts(opened(tmp_path / "three")))["test"] == 12 and sum(found.values()) == 54
    fill(tmp_path / "same", {"raw": 12, "clean": 12})
    assert any("datamodule.path=DIR/clean" in note for note in opened(tmp_path / "same").notes)
    fill(tmp_path / "flat", {"train": 12})
    fill(tmp_path / "flat", {"test": 3}, classes=("",))
    assert any("`test/000.png`: they lie in no class's folder" in note for note in opened(tmp_path / "flat").notes)


def test_what_is_missing_is_said_with_what_lies_beside(tmp_path):
    fill(tmp_path, {"": 12, "val": 6})
    said = "no train images.* 24 files not used, such as `bar/000.png`: they lie beside `val/`"
    with pytest.raises(UserError, match=said): opened(tmp_path)
    assert counts(opened(tmp_path / "val")).keys() == {"train", "val", "test"}, "a folder of classes, as the message says"


def test_classes_that_differ_in_capitals_alone_are_said(tmp_path):
    fill(tmp_path, {"train": 12}, classes=("Cat", "dog"))
    assert not any("capitals" in note for note in opened(tmp_path).notes)
    fill(tmp_path, {"train": 12, "test": 6}, classes=("cat", "dog"))
    if len(opened(tmp_path).classes) == 3: assert any("`Cat`, `cat` are classes of their own" in n for n in opened(tmp_path).notes)


def test_a_table_is_found_where_it_lies_and_ids_that_fit_no_file_are_shown_beside_one(tmp_path):
    root = tmp_path / "archive"
    table(root, ["id,label", *(f"{i:03},{('disc', 'bar')[i % 2]}" for i in range(36))])
    assert sum(counts(opened(tmp_path)).values()) == 36
    table(root, ["id,label", *(f"x{i},{('disc', 'bar')[i % 2]}" for i in range(36))])
    with pytest.raises(UserError, match=r"such as `x0`. Images are named like `archive/images/000.png`"): opened(tmp_path)


def test_of_several_pages_the_first_is_said_to_be_used(tmp_path):
    fill(tmp_path, {"train": 12, "test": 6}, ending="tif")
    assert not any("pictures" in note for note in opened(tmp_path).notes)
    draw("disc", 5).save(tmp_path / "train/disc/000.tif", save_all=True, append_images=[draw("disc", 6), draw("disc", 7)])
    assert "`train/disc/000.tif` holds 3 pictures: of each file, the first is used" in opened(tmp_path).notes


def test_the_home_folder_by_its_short_name(tmp_path, monkeypatch):
    fill(tmp_path / "photos", {"train": 12, "test": 6})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_value("path=~/photos") == ("path", str(tmp_path / "photos")) and parse_value("x='~/y'") == ("x", "~/y")
    assert load_config(None, "datamodule.path=~/photos")["datamodule"]["path"] == str(tmp_path / "photos")
