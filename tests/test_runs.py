"The table of runs: fast, filtered, and never broken by what lies in the folder."

import json
import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlops_mnist.config import load_config
from dlops_mnist.parts.command import run_command
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.runfolder import Run, mark_ended, new_run, update_provenance, write_config, write_rows
from dlops_mnist.runs import diff_runs, luck_of_best, plot_runs, print_runs, runs_table, select_runs


def make_run(folder, accuracy=0.9, *overrides, status="finished", **facts):
    run = new_run(load_config(None, f"paths.runs={folder}", *overrides))
    update_provenance(run, **facts)
    write_rows(run.metrics_file, [{"epoch": 0, "step": 7, "loss": 0.5, "val_acc": accuracy - 0.1},
                                  {"epoch": 1, "step": 14, "loss": 0.4, "val_acc": accuracy}])
    if status != "running": mark_ended(run, status)
    return run


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory):
    "Three runs, composed once; the tests get copies."
    folder = tmp_path_factory.mktemp("three") / "runs"
    make_run(folder, 0.9)
    make_run(folder, 0.95, "model=cnn", "optimizer.lr=3e-4")
    make_run(folder, 0.85, "experiment=other", status="failed")
    return folder


@pytest.fixture
def folder(three_runs, tmp_path):
    return shutil.copytree(three_runs, tmp_path / "runs")


def test_a_row_for_each_run_with_its_best_epoch(folder):
    table = runs_table(folder, sort="val_acc")
    assert list(table["val_acc"]) == [0.95, 0.9, 0.85] and list(table["epochs"]) == [2, 2, 2]
    assert "CNN" in table["differs"].iloc[0] and not table["differs"].iloc[1], "the base differs in nothing"


def test_validations_within_an_epoch_are_no_epochs(tmp_path):
    run = make_run(tmp_path / "runs", 0.9)
    write_rows(run.metrics_file, [{"epoch": 0, "step": step, "val_acc": 0.1 * step} for step in (2, 4)] + run.rows)
    assert list(runs_table(tmp_path / "runs")["epochs"]) == [2] == [run.epochs]


@pytest.mark.parametrize("condition,count", [
    ("val_acc>0.87", 2), ("status=failed", 1), ("status!=failed", 2), ("model=CNN", 1), ("lr=3e-4", 1),
    ("optimizer.lr<=0.001", 3), ("experiment=other", 1), ("seed=0", 3), ("differs=*lr*", 1), ("dirty!=null", 3),
    ("error=null", 3), ("started>2020", 3)])
def test_conditions(folder, condition, count):
    assert len(select_runs(folder, where=condition)) == count


@pytest.mark.parametrize("words", [
    ["nowhere"], ["val_accc>1"], ["a b=c"], ["sort=val_ac"], ["latest=x"], ["--xml"], ["--sort=val_acc"],
    ["a", "b"]])
def test_mistakes_are_one_message(folder, words, capsys):
    if not {"nowhere", "a"} & set(words): words = [str(folder), *words]
    with pytest.raises(SystemExit) as exit: command(*words)
    assert exit.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1


def command(*words):
    run_command(print_runs, list(map(str, words)))


def test_forms(folder, capsys):
    command(folder, "--json", "sort=val_acc")
    assert [r["val_acc"] for r in json.loads(capsys.readouterr().out)] == [0.95, 0.9, 0.85]
    command(folder, "--csv", "latest=1")
    assert len(capsys.readouterr().out.splitlines()) == 2
    command(folder)
    assert "CNN" in capsys.readouterr().out


def test_a_metric_of_the_config_is_a_column(folder, capsys):
    run = Run(select_runs(folder)[0]["path"])
    metric = {"_target_": "torchmetrics.classification.MulticlassAccuracy", "top_k": 2}
    write_config(run, run.config | {"metrics": {"top2": metric}})
    write_rows(run.metrics_file, [{"epoch": 0, "step": 1, "val_acc": 0.5, "val_top2": 0.625}])
    command(folder)
    header, *lines = capsys.readouterr().out.splitlines()
    assert "val_top2" in header.split() and sum("0.6250" in line for line in lines) == 1


def test_what_a_table_is_sorted_by_is_a_column_of_it(folder, capsys):
    for run, value in zip(select_runs(folder), (0.25, 0.75, 0.5)):
        write_rows(Run(run["path"]).metrics_file, [{"epoch": 0, "step": 1, "val_acc": 0.5, "val_top2": value}])
    command(folder)
    assert "val_top2" not in capsys.readouterr().out
    for word, order in (("sort=val_top2", ["0.7500", "0.5000", "0.2500"]), ("sort=-val_top2", ["0.2500", "0.5000", "0.7500"])):
        command(folder, word)
        header, *lines = capsys.readouterr().out.splitlines()
        assert header.split().count("val_top2") == 1
        assert [next(v for v in order if v in line.replace("0.5000", "", 1)) for line in lines] == order
    assert runs_table(folder, sort="val_top2")["val_top2"].tolist() == [0.75, 0.5, 0.25]
    for word in ("sort=val_acc", "sort=optimizer.lr", "sort=seed", "sort=duration"):
        command(folder, word)
        header = capsys.readouterr().out.splitlines()[0].split()
        assert len(header) == len(set(header))


@pytest.mark.parametrize("words", [
    ["val_acc>0.87", "model=MLP"], ["where=val_acc>0.87", "model=MLP"], ["model=MLP", "status!=failed"],
    ["model=MLP", "val_acc>0.87", "sort=val_acc"]])
@pytest.mark.parametrize("place", ["first", "named", "here"])
def test_conditions_with_and_without_a_folder(folder, place, words, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)  # where the folder is called `runs`
    command(*{"first": [folder], "named": [f"dir={folder}"], "here": []}[place], *words)
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "experiment" and "0.9000" in line and "MLP" not in line


def test_the_folder_under_its_name_in_a_config_is_told(folder, capsys):
    with pytest.raises(SystemExit): command("sort=val_acc", f"paths.runs={folder}")
    assert f"`paths.runs={folder}`: name the folder alone, first" in capsys.readouterr().err


def test_what_is_not_a_number_stays_out_of_json(folder, capsys):
    write_rows(make_run(folder, 0.9, "experiment=odd").metrics_file,
               [{"epoch": 0, "val_acc": 0.5, "val_loss": float("nan")}])
    command(folder, "--json", "experiment=odd")
    row, = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert row["val_loss"] is None and row["differs"] == {}


def test_terminal_codes_and_half_characters_stay_out_of_the_terminal(folder, capsys):
    run = make_run(folder, 0.9, "experiment=odd")
    run.config_file.write_text(run.config_file.read_text().replace("lr: 0.001", 'lr: "\\e[2J\\nred"'))
    os.rename(os.fsencode(run.path), os.fsencode(folder / "odd") + b"/\xff\x1b[2J")
    for words in ([], ["--csv"], ["--json"]):
        command(folder, *words)
        out = capsys.readouterr().out
        out.encode()
        assert "\x1b" not in out or words == ["--csv"]
        assert "red" in out


def test_a_change_or_a_deletion_is_seen(folder):
    run = Run(runs_table(folder, sort="val_acc").index[0])
    write_rows(run.metrics_file, [{"epoch": 0, "step": 1, "val_acc": 0.1}])
    assert runs_table(folder, sort="val_acc")["val_acc"].iloc[-1] == 0.1
    shutil.rmtree(run.path)
    assert len(select_runs(folder)) == 2


def test_a_dead_run_is_seen_as_dead(tmp_path):
    run = make_run(tmp_path, status="running")
    assert select_runs(tmp_path)[0]["status"] == "running"
    provenance = json.loads(run.provenance_file.read_text())
    run.provenance_file.write_text(json.dumps(provenance | {"process": provenance["process"] | {"began": 1}}))
    assert select_runs(tmp_path)[0]["status"] == "dead"


def test_difference_and_picture(folder):
    best, second, _ = runs_table(folder, sort="val_acc").index
    assert diff_runs(second, best)["optimizer.lr"] == (0.001, 0.0003)
    assert plot_runs([best, second]).axes[0].get_xlabel() == "epoch"
    assert len(plot_runs(str(folder)).axes[0].lines) == 3, "all runs of a folder"


def test_a_commit_is_known_by_its_beginning(tmp_path, capsys):
    make_run(tmp_path / "runs", git={"commit": "0123456789", "dirty": True}, fingerprint="abcdef0123")
    assert [len(select_runs(tmp_path / "runs", where=f"commit={text}")) for text in ("0123", "0123456+", "0124")] == [1, 1, 0]
    print_runs(str(tmp_path / "runs"))
    assert " 0123456+  abcdef0 " in capsys.readouterr().out


def test_every_run_has_a_curve_whatever_the_names(tmp_path):
    runs = [make_run(tmp_path / place, 0.9, "experiment=same") for place in "abc"]
    for run in runs[1:]: run.path.rename(run.path.with_name(runs[0].path.name))
    values = 0.8, float("nan"), 0.9
    write_rows(runs[0].metrics_file, [{"epoch": i, "val_acc": value} for i, value in enumerate(values)])
    paths = [run.path.with_name(runs[0].path.name) for run in runs]
    lines = plot_runs(paths).axes[0].lines
    assert len(lines) == 3 and sorted(len(line.get_xdata()) for line in lines) == [2, 2, 2]
    assert len(plot_runs(paths * 2).axes[0].lines) == 3
    many = [make_run(tmp_path / "d", 0.9, f"experiment=e{i}") for i in range(9)]
    assert [line.get_color() for line in plot_runs(many).axes[0].lines].count("0.8") == 2


def test_a_kilobyte_that_would_fill_the_memory_and_a_pipe_without_end(folder, capsys):
    bomb, pipe = make_run(folder, 0.9, "experiment=bomb"), make_run(folder, 0.9, "experiment=pipe")
    lines = [f"k{i}: &k{i} {{{', '.join(f'x{j}: *k{i - 1}' for j in range(9))}}}" for i in range(1, 40)]
    bomb.config_file.write_text("\n".join(["k0: &k0 {x: 1}", *lines]))
    for file in (pipe.config_file, pipe.metrics_file):
        file.unlink()
        os.mkfifo(file)
    assert len(select_runs(folder, where="status=finished")) == 4
    # all of it within one piece, which YAML alone could read
    bomb.config_file.write_text("k:\n" + "\n".join(f" {line}" for line in ["k0: &k0 {x: 1}", *lines]))
    assert len(select_runs(folder, where="status=finished")) == 4


JUNK = st.binary(max_size=60) | st.sampled_from([
    b"[]", b"3", b"null", b'{"git": 3}', b"a: [", b"\xff\xfe", b"epoch,val_acc\n0,x\n1",
    b'{"status": {}, "fingerprint": []}', b"model: 3\ntrainer: []", b"monitor: [a]\nmonitor_mode: 3", b"{" * 3000])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={n: JUNK for n in ("config.yaml", "metrics.csv", "provenance.json")}))
def test_junk_never_breaks_the_table(tmp_path, files):
    run = tmp_path / "exp" / f"run{random.getrandbits(40)}"
    run.mkdir(parents=True)
    for name, content in files.items(): (run / name).write_bytes(content)
    try: print_runs(str(tmp_path), sort="val_acc")
    except UserError as error: assert str(error)
    shutil.rmtree(run)


def test_what_all_share_is_said_once_and_seed_0_says_so(tmp_path, capsys, monkeypatch):
    for seed in (0, 1, 2):
        make_run(tmp_path / "runs", 0.9, "experiment=sweep", "model=cnn", f"seed={seed}", f"datamodule.path={'x' * 80}")
    print_runs(str(tmp_path / "runs"))
    said = capsys.readouterr()
    header, *rows = said.out.splitlines()
    assert said.err == f"all of them: path={'x' * 80} model=CNN\n", "never cut where there is no terminal"
    assert [row.split()[2] for row in rows] == ["seed=0", "seed=1", "seed=2"] and "CNN" not in "".join(rows)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    print_runs(str(tmp_path / "runs"))
    assert f"path={'x' * 30}... model=CNN" in capsys.readouterr().out
    print_runs(str(tmp_path / "runs"), csv=True)
    assert "x" * 80 in capsys.readouterr().out
    make_run(tmp_path / "runs", 0.9, "experiment=other")
    print_runs(str(tmp_path / "runs"), "experiment=other")
    assert "all of them" not in str(capsys.readouterr()), "a single run shares nothing"


def test_figures_have_the_digits_that_their_images_carry_and_the_best_is_said_to_be_lucky(tmp_path, capsys):
    for accuracy in (0.95, 0.9667, 0.9833): make_run(tmp_path / "runs", accuracy, val_images=60)
    print_runs(str(tmp_path / "runs"), sort="val_acc")
    said = capsys.readouterr()
    header, *rows = said.out.splitlines()
    place = header.index("images")
    assert [row[place:place + 6].strip() for row in rows] == ["60"] * 3
    assert all(any(word == value for word in row.split()) for row, value in zip(rows, ("0.98", "0.97", "0.95")))
    assert "Of 3 equally good models the best looks up to 2 points better than it is, on 60 images." in said.err
    assert [row["val_acc"] for row in select_runs(tmp_path / "runs", "val_acc", "val_images=60")] == [0.9833, 0.9667, 0.95]
    make_run(tmp_path / "runs", 0.98765, val_images=10_000)
    print_runs(str(tmp_path / "runs"))
    said = capsys.readouterr()
    assert "0.9877" in said.out and "equally good" not in said.err, "other images can't be compared"


def test_how_lucky_the_best_is_agrees_with_a_simulation():
    rng = np.random.default_rng(0)
    for images, share, models in ((80, 0.95, 10), (360, 0.98, 10), (10_000, 0.995, 10), (360, 0.9, 50)):
        best = rng.binomial(images, share, (5000, models)).max(axis=1).mean() / images - share
        assert 0.98 * best <= luck_of_best(share, images, models) <= 1.2 * best
    assert 0 < luck_of_best(1.0, 60, 2) < 0.02 and luck_of_best(0.9, 60, 1) == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_for_a_file_writes_no_control_codes_onto_a_terminal(tmp_path, monkeypatch, capsys, terminal):
    make_run(tmp_path / "runs", 0.9, "datamodule.path='\x1b]0;owned\x07'")
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    print_runs(str(tmp_path / "runs"), csv=True)
    assert ("\x1b" in capsys.readouterr().out) is not terminal
