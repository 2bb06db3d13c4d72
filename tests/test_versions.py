"Versions of a dataset: killed while recording, two at once, damaged, and found by a run's fingerprint."

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlops_mnist.config import load_config
from dlops_mnist.evaluate import evaluate
from dlops_mnist.parts.command import run_command
from dlops_mnist.parts.core import UserError, one_at_a_time
from dlops_mnist.parts.folder import fingerprint
from dlops_mnist.parts.launch import launch
from dlops_mnist.parts.runfolder import Run, find_runs
from dlops_mnist.parts.store import known_versions
from dlops_mnist.runs import print_runs
from dlops_mnist.train import show_multirun, train, train_and_report
from dlops_mnist.versions import check, diff, gc, grow, record, restore

ROOT = Path(__file__).parents[1]


@pytest.fixture
def work(tmp_path, monkeypatch):
    "A working folder with a copy of the shipped dataset."
    shutil.copytree(ROOT / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "dlops_mnist.versions", *words], **quiet)


def test_killed_records_leave_a_store_that_is_whole(work):
    for number, share in enumerate((0.0, 0.3, 0.7)):
        process = start("record", "dataset", f"note=try {number}", f"store=store{number}")
        objects, wanted = work / f"store{number}" / "objects", share * len(list(work.glob("dataset/t*/*/*.png")))
        while process.poll() is None and len(list(objects.glob("*/*"))) <= wanted: time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        check(store=f"store{number}")
        name = record("dataset", store=f"store{number}")
        gc(store=f"store{number}")
        check(store=f"store{number}")
        assert not list(objects.glob("*/.*")) and name == fingerprint("dataset")


def test_what_waits_for_a_version_waits_for_no_library():
    "Ten thousand pictures are compared in a tenth of a second: what takes longer to import is left to what needs it."
    code = "import dlops_mnist.versions, sys; sys.exit(', '.join({'numpy', 'scipy', 'yaml', 'PIL'} & sys.modules.keys()) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_at_once(work):
    both = [start("record", "dataset") for _ in range(2)]
    assert [process.wait(100) for process in both] == [0, 0]
    check()
    assert [*known_versions()] == [fingerprint("dataset")]


def test_a_version_comes_back_as_it_was(work):
    before = record("dataset", note="first")
    first = sorted(Path("dataset/train").glob("*/*.png"))[0]
    first.write_bytes(first.read_bytes() + b"x")
    after = record("dataset")
    path = str(first.relative_to("dataset"))
    assert diff(before[:12], after[:12], json="d.json") == [("changed", path, path)]
    assert diff("first", "dataset") == diff(before, after)
    restored = restore("first", to="back")
    assert fingerprint(restored) == before
    content = next(restored.glob("train/*/*.png"))
    content.write_bytes(b"spoilt by an editor")
    check()


def test_mistakes_are_one_sentence(work):
    record("dataset", note="the first one")
    with pytest.raises(UserError, match="no version `the frist one` .* Did you mean `the first one`"): diff("the frist one", "x")
    with pytest.raises(UserError, match="exists already"): restore("the first one", to="dataset")
    manifest = next(Path(".versions/manifests").glob("*.sha256"))
    manifest.write_text(manifest.read_text().replace("train/", "test/", 1))
    with pytest.raises(UserError, match="was changed, or is damaged"): check()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written(work):
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="can't be written"): record("dataset", store="locked/store")


def test_a_record_mends_what_was_damaged_or_lost(work):
    record("dataset")
    lost, damaged = sorted(Path(".versions/objects").glob("*/*"))[:2]
    lost.unlink()
    damaged.write_bytes(b"x")
    with pytest.raises(UserError, match="2 of 360 contents"): check()
    with pytest.raises(UserError, match="missing or damaged"): restore(fingerprint("dataset"), to="back")
    assert not Path("back").exists() and not list(Path().glob(".back*"))
    record("dataset")
    check()


def test_names_that_a_list_of_lines_can_hold(work):
    first, second, *_ = sorted(Path("dataset/train").glob("*/*.png"))
    for odd in ("\r", "\x85", "\u2028", "\x0c", "  "): shutil.copy(first, first.with_name(f"a{odd}b.png"))
    restore(record("dataset"), to="back")
    assert Path("back", first.parent.relative_to("dataset"), "a\rb.png").is_file()
    check()
    shutil.copy(second, first.with_name("a\nb.png"))
    with pytest.raises(UserError, match=r"a file '.*a\\nb.png': .* no name may hold a line end"): record("dataset")
    check()


def test_two_that_write_wait_for_one_another(work):
    record("dataset")
    with one_at_a_time(Path(".versions")):
        waiting = start("gc")
        time.sleep(1.5)
        assert waiting.poll() is None
    assert waiting.wait(100) == 0


def test_a_full_disk_is_one_message_and_what_was_recorded_is_good(work, capfd):
    from test_disasters import small_disk

    with small_disk(work / "small", 400_000) as disk:
        few = work / "few"
        shutil.copytree(work / "dataset", few)
        for picture in sorted(few.glob("t*/*/*.png"))[8:]: picture.unlink()
        record("few", store=str(disk / "store"))
        process = subprocess.run([sys.executable, "-m", "dlops_mnist.versions", "record", "dataset", f"store={disk}/store"],
                                 capture_output=True, text=True)
        assert process.returncode == 2 and "No space left" in process.stderr and process.stderr.count("\n") == 1, process.stderr
        check(store=str(disk / "store"))
        assert [file.name for file in disk.rglob("*.part")] in ([], [".part"]), "one at most, for the next content to take over"


def test_what_a_model_has_seen_is_told_by_the_version_it_was_trained_on(work):
    run = train(load_config(None, *QUICK, "versions=true"))
    picture = sorted(Path("dataset/test/3").glob("*.png"))[0]
    picture.rename("dataset/train/3/moved.png")  # into train, but only after the training
    fair = evaluate(run, draws=20, version=run.provenance["fingerprint"])
    assert not [warning for warning in fair.warnings if "training" in warning], fair.warnings
    assert not [warning for warning in evaluate(run, draws=20).warnings if "model's training set" in warning]


def test_a_forged_manifest_writes_nowhere_else(work):
    from dlops_mnist.parts.store import Version

    record("dataset")
    [digest] = {file.parent.name + file.name for file in sorted(Path(".versions/objects").glob("*/*"))[:1]}
    for name in ("train/3/../../../../outside.png", f"{work}/outside.png"):
        forged = Version({name: digest})
        Path(f".versions/manifests/{forged.fingerprint}.sha256").write_text(forged.manifest)
        with pytest.raises(UserError, match="outside its folder"): restore(forged.fingerprint, to="back")
    assert not list(work.glob("out*")) and not Path("back").exists()


QUICK = ["trainer.max_epochs=1", "trainer.enable_progress_bar=false", "datamodule.batch_size=60"]


def weights(run: Run) -> list:
    import torch

    return [*torch.load(run.last_checkpoint, weights_only=True)["state_dict"].values()]


def test_a_run_is_repeated_on_what_it_was_trained_on(work, capsys):
    first = train(load_config(None, "versions=true", *QUICK))
    assert "360 images, 360 new contents" in capsys.readouterr().out
    gone = sorted(Path("dataset/train").glob("*/*.png"))[:30]
    for picture in gone: picture.unlink()
    again = train(load_config(first.path, "datamodule.version=as-trained"))
    same = load_config(again.path)
    assert same["datamodule"]["path"] == f"data/versions/{fingerprint(same['datamodule']['path'])[:12]}"
    assert all((a == b).all() for a, b in zip(weights(first), weights(again), strict=True))
    assert again.provenance["fingerprint"] == first.provenance["fingerprint"] != fingerprint("dataset")
    other = train(load_config(first.path))  # on what is there now: others
    assert not all((a == b).all() for a, b in zip(weights(first), weights(other), strict=True))
    record(str(same["datamodule"]["path"]), note="as it came")
    capsys.readouterr()
    print_runs("runs", "version=as it came")
    assert capsys.readouterr().out.count("(as it came)") == 2
    from dlops_mnist.evaluate import print_evaluation

    print_evaluation(str(first.path), **{"datamodule.version": "as it came"})
    out = " ".join(capsys.readouterr().out.split())
    assert "(version: as it came), with 95% intervals" in out and "CAREFUL: `data/versions" not in out
    print_evaluation(str(other.path), **{"datamodule.version": "as it came"})
    assert "(as it came), that of the training was" in " ".join(capsys.readouterr().out.split())


def test_a_sweep_on_a_version_is_not_trained_again(work, capsys):
    record("dataset", note="mine")
    words = ["-m", "seed=1,2", "datamodule.version=mine", *QUICK]
    launch(train_and_report, words, show_multirun)
    assert "failed" not in capsys.readouterr().out
    launch(train_and_report, [*words, "resume=sweep"], show_multirun)
    assert "2 of 2 runs are finished already" in capsys.readouterr().out and len([*find_runs()]) == 2
    record("dataset", note="other"), next(Path("dataset/train").glob("*/*.png")).unlink(), record("dataset", note="mine")
    launch(train_and_report, [*words, "resume=sweep"], show_multirun)
    assert "0 of 2" in capsys.readouterr().out and len([*find_runs()]) == 4


def test_a_version_for_training_that_is_not_there(work):
    run = train(load_config(None, *QUICK))
    for words, said in (((run.path, "datamodule.version=as-trained"), "were not recorded"),
                        ((None, "datamodule.version=as-trained"), "train RUN"),
                        ((None, "datamodule.version=mine"), "There is no version `mine`"),
                        ((None, "versions=maybe"), "must be bool")):
        with pytest.raises(UserError, match=said): train(load_config(words[0], *QUICK, *words[1:]))
    record("dataset", note="mine")
    train(load_config(None, "datamodule.version=mine", *QUICK))
    changed = next(Path("data/versions").glob("*/train/*/*.png"))
    changed.unlink()
    with pytest.raises(UserError, match="was changed since"): train(load_config(None, "datamodule.version=mine", *QUICK))
    assert len(list(Path("runs/base").iterdir())) == 2, "a run that can't begin leaves no folder"


def test_a_dataset_whose_classes_stand_in_a_table(work, capsys):
    Path("flat/pictures").mkdir(parents=True)
    lines = ["file,label,split"]
    for number, picture in enumerate(sorted(Path("dataset").glob("t*/*/*.png"))):
        shutil.copy(picture, f"flat/pictures/{number}.png")
        lines.append(f"{number}.png,{picture.parent.name},{picture.parts[1]}")
    Path("flat/labels.csv").write_text("\n".join(lines))
    run = train(load_config(None, "datamodule.path=flat", "versions=true", *QUICK))
    before = Path("flat/labels.csv").read_text()
    Path("flat/labels.csv").write_text(before.replace("0.png,3,", "0.png,no3,"))
    capsys.readouterr()
    assert {what for what, *_ in diff(run.provenance["fingerprint"], "flat")} == {"relabelled"}
    again = train(load_config(run.path, "datamodule.version=as-trained"))
    assert again.provenance["fingerprint"] == run.provenance["fingerprint"]
    assert all((a == b).all() for a, b in zip(weights(run), weights(again), strict=True))
    assert Path(again.config["datamodule"]["path"], "labels.csv").read_text() == before
    with pytest.raises(UserError, match="dataset convert"): grow("flat", **{"from": "flat"})


def test_what_a_dataset_cannot_take_is_left_out_and_counted(work, capsys):
    import numpy as np

    from dlops_mnist.parts.collect import Kept, label

    kept = Kept("kept")
    for number, (size, name) in enumerate(((28, "3"), (14, "3"), (28, "no3"), (28, "cat"))):
        image = np.random.default_rng(number).integers(0, 256, (size, size), np.uint8)
        label(kept, kept.keep(image, {}), name, ["3", "no3", "cat"])
    grow("dataset", **{"from": "kept"})
    out = " ".join(capsys.readouterr().out.split())
    assert "added train/3 1" in out and "added train/no3 1" in out, out
    assert "of another size than the dataset's 1" in out and "labelled cat, which is no class 1" in out
    grow("dataset", note="all the same", **{"from": "kept"})
    assert [known.get("note") for known in known_versions().values()][1:] == ["2 pictures from kept"], "nothing came"
    with pytest.raises(UserError, match="Unknown setting `splt`"): grow("dataset", splt="val", **{"from": "kept"})


def test_doubts_are_a_command_about_a_dataset(work, capsys):
    run = train(load_config(None, *QUICK))
    from dlops_mnist.dataset import SOURCES

    run_command(SOURCES | {"doubts": "dlops_mnist.versions:doubts"}, ["doubts", str(run.path)])
    assert Path("doubts.csv").read_text().startswith("image,label,network,margin\n")
    assert Path("doubts.png").is_file() and "the most doubtful first" in capsys.readouterr().out


@pytest.mark.slow
def test_the_store_goes_through_dvc_to_another_machine(work):
    "As lesson 16 says: `dvc add .versions`, then push; and pull elsewhere."
    dvc = shutil.which(os.environ.get("DVC", "dvc"))
    if not dvc: pytest.skip("there is no dvc here: pip install dvc, in an environment of its own, and DVC=its program")

    def run(*command: str, cwd: Path) -> None:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    record("dataset", note="first")
    for command in (["git", "init", "-q"], [dvc, "init", "-q"], [dvc, "remote", "add", "-q", "-d", "team", str(work / "remote")],
                    [dvc, "add", "-q", ".versions"], ["git", "add", "-A", ".dvc", ".versions.dvc", ".gitignore"],
                    ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "first"], [dvc, "push", "-q"]):
        run(*command, cwd=work)
    next(Path("dataset/train").glob("*/*.png")).unlink()
    second = record("dataset", note="second")  # a store that DVC knows takes new versions
    commit = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qam", "second"]
    for command in ([dvc, "add", "-q", ".versions"], commit, [dvc, "push", "-q"], ["git", "clone", "-q", ".", "colleague"]):
        run(*command, cwd=work)
    os.chdir("colleague")
    run(dvc, "pull", "-q", cwd=work / "colleague")
    check()
    assert fingerprint(restore("second", to="back")) == second and fingerprint(restore("first", to="back1")) != second
