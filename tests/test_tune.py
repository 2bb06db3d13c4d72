"A search that is killed, shared, refused, and read while it runs."

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest

from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.study import Study
from dlops_mnist.tune import find_study, report_page, seconds, show, tune

ROOT = Path(__file__).parents[1]
SEARCH = ["001", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "model.hidden=[4],[8]", "trainer.max_epochs=2", "trainer=cpu"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    "A working folder with the shipped dataset and the experiments in it."
    shutil.copytree(ROOT / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns(".cache"))
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words, cwd):
    "A search in a process of its own, a fork of one that has imported PyTorch."
    forks._start_server()
    environment = dict(forks.os.environ, OMP_NUM_THREADS="1")
    out = str(cwd / "out.log")
    process = forks.SERVER.Process(target=forks._child, args=("dlops_mnist.tune", list(words), str(cwd), environment, out, out))
    process.start()
    return process


def table(folder):
    "All that a study knows about its trials."
    return [(t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs) for t in Study(folder).trials]


def survive(work, kills, storage, seed):
    "Run a search to its end, and the same one with so many kills; their studies' folders."
    words, draw = [*SEARCH, "trials=5", f"storage={storage}"], random.Random(seed)
    whole = start(*words, "study=whole", cwd=work)
    began = time.monotonic()
    whole.join(200)
    assert whole.exitcode == 0, (work / "out.log").read_text()
    pause, left = time.monotonic() - began, kills
    while left:
        process = start(*words, "study=killed", cwd=work)
        process.join(draw.uniform(0.1, 0.7) * pause)
        left = left - 1 if process.is_alive() else 0  # it was through before all kills had come
        process.kill(), process.join()
    last = start(*words, "study=killed", cwd=work)
    last.join(200)
    assert last.exitcode == 0, (work / "out.log").read_text()
    return work / "runs/001/whole", work / "runs/001/killed"


def test_killed_searches_end_as_undisturbed_ones_do(work):
    whole, killed = survive(work, 2, "journal", seed=0)
    assert table(whole) == table(killed) and len(table(whole)) == 5
    assert len(list(killed.parent.glob("killed-*"))) == 5, "each trial has one run"


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_twenty_kills(work, storage):
    same = 0
    for i in range(20):
        shutil.rmtree(work / "runs", ignore_errors=True)
        whole, killed = survive(work, 1, storage, seed=i)
        same += table(whole) == table(killed)
    assert same == 20


def test_two_workers_share_the_trials(work):
    from dlops_mnist.tune import open_study

    study = open_study("001", [*SEARCH[1:], "trainer.max_epochs=1"], "shared", sampler="random", pruner="none")
    workers = [start("work", str(study.folder), "trials=4", cwd=work) for _ in range(2)]
    for worker in workers: worker.join(200)
    assert [worker.exitcode for worker in workers] == [0, 0], (work / "out.log").read_text()
    assert [row[:2] for row in table(study.folder)] == [(i, "COMPLETE") for i in range(4)]
    assert sorted(path.name for path in study.folder.parent.glob("shared-*")) == [f"shared-{i:04}" for i in range(4)]


def test_three_failures_of_a_kind_end_it_and_the_same_command_goes_on(work):
    words = ["001", "optimizer.lr=-1.0,-2.0,-3.0,-4.0,-5.0", "trainer=cpu", "trainer.max_epochs=1"]
    for tried in (3, 5):  # the second time, there are two left
        if tried == 3:
            with pytest.raises(UserError, match="Three trials in a row .*learning rate"): tune(*words, sampler="grid", trials=5)
        else: tune(*words, sampler="grid", trials=5)
        assert [row[1] for row in table(work / "runs/001/search")] == ["FAIL"] * tried
    assert "Invalid learning rate" in report_page(Study(work / "runs/001/search"))


def test_other_searches_and_bad_words_are_refused(work, capsys):
    tune(*SEARCH, trials=1)
    with pytest.raises(UserError, match="begun with another `space`"): tune(SEARCH[0], *SEARCH[2:], trials=1)
    wrong = {"sampler": ("tpes", "Did you mean `tpe`"), "pruner": ("median2", "Did you mean `median`"), "timeout": ("soon", "30m")}
    for key, (value, said) in wrong.items():
        with pytest.raises(UserError, match=said): tune(*SEARCH, trials=1, study="other", **{key: value})
    with pytest.raises(UserError, match="nothing to search"): tune("001")
    with pytest.raises(UserError, match="Did you mean `001/search`"): find_study("001/serch")
    assert seconds("2h") == 7200 and seconds(90) == 90
    show("001/search")
    assert "best.yml" in capsys.readouterr().out
    page = (work / "runs/001/search/report.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "optimizer.lr" in page


def test_the_winner_can_be_trained_and_trials_are_runs_like_others(work):
    from dlops_mnist.config import load_config
    from dlops_mnist.runs import read_runs
    from dlops_mnist.train import train

    study = tune(*SEARCH, trials=2, pruner="none")
    best = max(study.trials, key=lambda trial: trial.value)
    assert [row["run"] for row in read_runs()] == ["search-0000", "search-0001"]
    again = train(load_config(study.folder / "best.yml"))
    assert again.best["val_acc"] == best.value
    repeated = train(load_config(study.run(best.number).config_file))
    assert repeated.best == study.run(best.number).best and len(study.trials) == 2


def test_mistakes_and_help_import_no_torch(work):
    code = "import sys\nfrom dlops_mnist.tune import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    for words, said in ((["--help"], "timeout"), (["001", "optimizer.rl=interval(0,1)"], "is not a setting of Adam"),
                        (["001", "optimizer.lr=interval(2,1)"], "nothing to look through"), (["001", "model=mlp,cnnn"], "cnn")):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=100)
        assert said in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (0 if "--help" in words else 2)
