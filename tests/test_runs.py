"The table of runs: fast, filtered, and never broken by what lies in the folder."

import json
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlops_mnist.config import load_config
from dlops_mnist.core import UserError
from dlops_mnist.runfolder import Run, mark_ended, new_run, write_rows
from dlops_mnist.runs import diff_runs, main, plot_runs, print_runs, runs_table, select_runs


def make_run(folder, accuracy=0.9, *overrides, status="finished"):
    run = new_run(load_config(None, f"paths.runs={folder}", *overrides))
    write_rows(run.metrics_file, [{"epoch": 0, "step": 7, "loss": 0.5, "val_acc": accuracy - 0.1},
                                  {"epoch": 1, "step": 14, "loss": 0.4, "val_acc": accuracy}])
    if status != "running": mark_ended(run, status)
    return run


@pytest.fixture
def folder(tmp_path):
    make_run(tmp_path / "runs", 0.9)
    make_run(tmp_path / "runs", 0.95, "model=cnn", "optimizer.lr=3e-4")
    make_run(tmp_path / "runs", 0.85, "experiment=other", status="failed")
    return tmp_path / "runs"


def test_a_row_for_each_run_with_its_best_epoch(folder):
    table = runs_table(folder, sort="val_acc")
    assert list(table["val_acc"]) == [0.95, 0.9, 0.85] and list(table["epochs"]) == [2, 2, 2]
    assert "CNN" in table["differs"].iloc[0] and not table["differs"].iloc[1], "the base differs in nothing"


@pytest.mark.parametrize("condition,count", [
    ("val_acc>0.87", 2), ("status=failed", 1), ("status!=failed", 2), ("model=CNN", 1), ("lr=3e-4", 1), ("optimizer.lr<=0.001", 3),
    ("experiment=other", 1), ("seed=0", 3)])
def test_conditions(folder, condition, count):
    assert len(select_runs(folder, where=condition)) == count


@pytest.mark.parametrize("words", [["nowhere"], ["val_accc>1"], ["a b=c"], ["sort=val_ac"], ["latest=x"], ["--xml"], ["a", "b"]])
def test_mistakes_are_one_message(folder, words, capsys):
    if not {"nowhere", "a"} & set(words): words = [str(folder), *words]
    with pytest.raises(SystemExit) as exit: main(words)
    assert exit.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_forms(folder, capsys):
    main([str(folder), "--json", "sort=val_acc"])
    assert [r["val_acc"] for r in json.loads(capsys.readouterr().out)] == [0.95, 0.9, 0.85]
    main([str(folder), "--csv", "latest=1"])
    assert len(capsys.readouterr().out.splitlines()) == 2
    print_runs(str(folder))
    assert "CNN" in capsys.readouterr().out


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


JUNK = st.binary(max_size=60) | st.sampled_from([b"[]", b"3", b"null", b'{"git": 3}', b"a: [", b"\xff\xfe", b"epoch,val_acc\n0,x\n1",
                                                 b'{"status": {}, "fingerprint": []}', b"model: 3\ntrainer: []", b"{" * 3000])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={n: JUNK for n in ("config.yaml", "metrics.csv", "provenance.json")}))
def test_junk_never_breaks_the_table(tmp_path, files):
    run = tmp_path / "exp" / f"run{random.getrandbits(40)}"
    run.mkdir(parents=True)
    for name, content in files.items(): (run / name).write_bytes(content)
    try: print_runs(str(tmp_path), sort="val_acc")
    except UserError as error: assert str(error)
    shutil.rmtree(run)
