"A search that is killed, shared, refused, and read while it runs."

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import forks
import numpy as np
import pytest

from dlops_mnist.parts import findings
from dlops_mnist.parts.core import UserError
from dlops_mnist.parts.findings import confirmed, interval, trial_rows
from dlops_mnist.parts.pruning import may_open, report
from dlops_mnist.parts.runfolder import Run
from dlops_mnist.parts.study import Study, begin, take
from dlops_mnist.tune import find_study, main, open_study, read_search, report_page, seconds, show, tune

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


def shortened(process, draw, seconds):
    "Kill a process at a random moment of so many seconds; whether it was still at it."
    process.join(draw.uniform(0.05, 0.95) * seconds)
    alive = process.is_alive()
    process.kill(), process.join()
    return alive


def finished(*words, cwd):
    "Run a command to its end; the seconds that it took."
    began, process = time.monotonic(), start(*words, cwd=cwd)
    process.join(600)
    assert process.exitcode == 0, (cwd / "out.log").read_text()
    return time.monotonic() - began


@pytest.mark.slow
def test_killed_searches_end_as_undisturbed_ones_do(work):
    words, draw = [*SEARCH, "trials=5"], random.Random(0)
    finished("--help", cwd=work)  # from now on, nothing has to import PyTorch
    seconds = finished(*words, "study=whole", cwd=work)
    while not shortened(start(*words, "study=killed", cwd=work), draw, seconds):
        shutil.rmtree(work / "runs/001/killed"), [shutil.rmtree(run) for run in work.glob("runs/001/killed-*")]
        seconds *= 0.9  # it was through before: strike earlier
    shortened(start(*words, "study=killed", cwd=work), draw, seconds / 2)
    finished(*words, "study=killed", cwd=work)
    whole, killed = table(work / "runs/001/whole"), table(work / "runs/001/killed")
    assert whole == killed and len(whole) == 5
    assert len(list(work.glob("runs/001/killed-*"))) == 5, "each trial has one run"


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_twenty_kills(work, storage):
    words, draw = ["optimizer.lr=tag(log,interval(1e-4,1e1))", *SEARCH[2:]], random.Random(os.environ["TEST_SEED"])

    def begun(name): return open_study("001", words, name, storage=storage).folder

    finished("--help", cwd=work)  # from now on, nothing has to import PyTorch
    seconds = finished("work", str(begun("whole")), "trials=5", cwd=work)
    whole, same, kills = table(work / "runs/001/whole"), 0, 0
    assert {row[1] for row in whole} == {"COMPLETE", "PRUNED"}
    while kills < 20:
        folder = begun(f"killed{kills}")
        if not shortened(start("work", str(folder), "trials=5", cwd=work), draw, seconds):
            shutil.rmtree(folder), [shutil.rmtree(run) for run in folder.parent.glob(f"{folder.name}-*")]
            seconds *= 0.9  # it was through before: strike earlier
            continue
        kills += 1
        finished("work", str(folder), "trials=5", cwd=work)
        same += table(folder) == whole and len(list(folder.parent.glob(f"{folder.name}-*"))) == 5
    assert same == 20


@pytest.mark.parametrize("direction, said", [("maximize", "none of it was luck"), ("minimize", "0.0600 were luck")])
def test_a_winner_that_does_better_again_was_not_lucky(monkeypatch, direction, said):
    won = SimpleNamespace(number=0, values=[0.9], intermediate_values={})
    monkeypatch.setattr(findings, "confirmed", lambda study: {0: {"seed1": 0.95, "seed2": 0.97}})
    monkeypatch.setattr(findings, "best_trials", lambda study: [won])
    study = SimpleNamespace(trials=[won], about={"monitor": ["val_acc"], "directions": [direction]})
    assert said in findings.luck_rows(study)[1]



@pytest.mark.slow
def test_two_workers_share_the_trials_and_confirm_the_best(work):
    finished(*SEARCH, "trainer.max_epochs=1", "trials=4", "workers=2", "confirm=2", "sampler=random", "pruner=none", cwd=work)
    found = Study("runs/001/search")
    assert [row[:2] for row in table(found.folder)] == [(i, "COMPLETE") for i in range(4)]
    runs = {path.name: Run(path) for path in found.folder.parent.glob("search-*")}
    assert sorted(name for name in runs if "seed" not in name) == [f"search-{i:04}" for i in range(4)]
    assert len({run.provenance["process"]["pid"] for run in runs.values()}) == 2, "two processes did it all"
    assert [len(seeds) for seeds in confirmed(found).values()] == [2, 2, 2] and len(runs) == 4 + 6


def test_a_trial_that_was_left_is_taken_by_one_worker_only(work):
    folder = open_study("001", SEARCH[1:], "shared").folder
    code = ("import sys, time; from pathlib import Path; from dlops_mnist.parts.study import Study, take\n"
            "study = Study(sys.argv[1]); study.trials; Path(sys.argv[2]).touch()\n"
            "while not Path('go').exists(): time.sleep(0.001)\n"
            "trial, lock = take(study, 3); print(trial.number, flush=True); time.sleep(60)")

    def worker(name): return subprocess.Popen([sys.executable, "-c", code, folder, name], stdout=subprocess.PIPE, text=True)

    left = worker("ready")
    (work / "go").touch()
    assert left.stdout.readline() == "0\n"
    left.kill(), left.wait()
    (work / "go").unlink()
    workers = [worker(f"ready{i}") for i in range(3)]
    try:
        while len(list(work.glob("ready?"))) < 3: time.sleep(0.01)
        (work / "go").touch()  # all at once
        assert sorted(worker.stdout.readline() for worker in workers) == ["0\n", "1\n", "2\n"]
    finally: [(worker.kill(), worker.wait()) for worker in workers]
    assert [row[1] for row in table(folder)] == ["RUNNING"] * 3 and take(Study(folder), 3)[0].number == 0


@pytest.mark.slow
def test_ctrl_c_stops_all_workers_and_the_same_command_goes_on(work):
    words = [*SEARCH, "trainer.max_epochs=60", "workers=2", "pruner=none"]
    process = start(*words, "trials=200", cwd=work)

    def runs(status): return [run for run in map(Run, work.glob("runs/001/search-*")) if run.status == status]

    while len([run for run in runs("running") if run.last_checkpoint.is_file()]) < 2: time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(100)
    said = (work / "out.log").read_text()
    assert process.exitcode == 130 and said.count("the same command goes on") == 1 and "tune show runs/001/search" in said, said
    stopped, trials = runs("interrupted"), len(table("runs/001/search"))
    assert len({run.provenance["process"]["pid"] for run in stopped}) == len(stopped) == 2
    finished(*words, f"trials={trials}", cwd=work)
    assert [row[1] for row in table("runs/001/search")] == ["COMPLETE"] * trials
    assert all(run.epochs == 60 for run in runs("finished")) and len(runs("finished")) == trials


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_hydras_launchers_start_the_workers(work, launcher):
    # a process of its own: joblib's workers would keep a fork of another one from ending
    words = [*SEARCH, "trainer.max_epochs=1", "trials=3", "workers=2", f"hydra/launcher={launcher}"]
    subprocess.run([sys.executable, "-m", "dlops_mnist.tune", *words], cwd=work, check=True, timeout=600)
    assert [row[1] for row in table("runs/001/search")] == ["COMPLETE"] * 3


@pytest.mark.slow
def test_two_processes_of_one_trial_are_pruned_together(work):
    found = open_study("001", ["optimizer.lr=1e-9,1e-8", *SEARCH[2:], "trainer=ddp_sim", "trainer.max_epochs=4"], sampler="random")
    for _ in range(4):  # that are better than such a learning rate lets one be
        trial, lock = take(found)
        for epoch in range(4): report(found, trial, epoch, {"val_acc": 0.99})
        found.record.tell(trial, 0.99), lock.release()
    finished("work", str(found.folder), "trials=5", cwd=work)
    _, state, *_, values, notes = table(found.folder)[4]
    assert state == "PRUNED" and sorted(values) == [0, 1] and notes == {"pruned": 1} and found.run(4).epochs == 2


@pytest.mark.slow
def test_other_samplers_pruners_and_storages(work):
    ways = ({"sampler": "cmaes"}, {"pruner": "hyperband"}, {"storage": "sqlite:///mine.db"})
    for i, how in enumerate(ways):
        found = tune(*SEARCH, trials=2, study=f"study{i}", **how)
        assert [row[1] for row in table(found.folder)] == ["COMPLETE"] * 2
    whole = tune("001", "model.hidden=[2],[3],[4]", *SEARCH[3:], sampler="grid", study="grid")
    assert [trial.params["model.hidden"] for trial in whole.trials] == ["[2]", "[3]", "[4]"]
    shutil.rmtree(found.folder)
    with pytest.raises(UserError, match="begun in another folder"): tune(*SEARCH, trials=2, study="study2", **how)
    with pytest.raises(UserError, match="can't be opened"): tune(*SEARCH, study="new", storage="mysqlx://there")
    assert not (work / "runs/001/new/study.json").exists(), "what can't begin leaves nothing that stands in the way"


def test_of_several_metrics_a_front_is_shown(work, capsys):
    found = tune(*SEARCH, "monitor=[val_acc,acc,params]", trials=3, study="front", sampler="random")
    assert found.about["directions"] == ["maximize", "maximize", "minimize"] and found.run(0).config["monitor"] == "val_acc"
    front = {trial.number for trial in found.record.best_trials}
    assert {row[0] for row in trial_rows(found)[1:]} == front
    assert found.trials[0].values[2] in (785 * 4 + 4 + 1, 785 * 8 + 8 + 1)
    for words, how, said in ((["monitor=[val_acc,val_f1]"], {}, "`directions` needs min or max"),
                             (["monitor=[val_acc,params]"], {"sampler": "cmaes"}, "knows one metric"),
                             (["monitor=[val_acc,params]"], {"directions": ["max"]}, "`directions` needs min or max")):
        with pytest.raises(UserError, match=said): tune(*SEARCH, *words, study="no", **how)


def test_a_file_says_what_to_search(work):
    Path("experiments/wide.yml").write_text(
        "base: 001\nsearch:\n  optimizer.lr: interval(0.001,0.01)\n  model: {hidden: [[4], [8]]}\n")
    Path("experiments/narrow.yml").write_text("base: wide\nsearch: {seed: [1, 2]}\n")
    space, fixed = read_search("narrow", ["optimizer.lr=0.005"])
    assert {key: [*parameter.values.values()] for key, parameter in space.items()} == {"model.hidden": [[4], [8]], "seed": [1, 2]}
    assert fixed == ["optimizer.lr=0.005"]
    Path("experiments/wrong.yml").write_text("base: 001\nsearch: [1, 2]\n")
    with pytest.raises(UserError, match="`search` is a section"): read_search("wrong", [])


@pytest.mark.slow
def test_no_trial_begins_after_the_timeout(work):
    words = [*SEARCH, "trainer.max_epochs=1", "sampler=random", "pruner=none", "trials=500", "timeout=3s"]
    finished(*words, "workers=2", cwd=work)
    first = len(table("runs/001/search"))
    assert first < 500 and {row[1] for row in table("runs/001/search")} <= {"COMPLETE"}
    finished(*words, cwd=work)
    assert first < len(table("runs/001/search")) < 500


def test_what_is_no_number_has_failed(work, capsys):
    found = tune("001", "optimizer.lr=1e30,1e-3", *SEARCH[3:], "optimizer=sgd", sampler="grid")
    assert [row[1] for row in table(found.folder)] == ["FAIL", "COMPLETE"]
    assert "failed: NaN" in capsys.readouterr().out


def test_a_search_can_be_looked_at_while_it_runs(work, capsys):
    process = start(*SEARCH, "trials=9", "trainer.max_epochs=30", "pruner=none", cwd=work)
    try:
        while not (work / "runs/001/search-0001").exists(): time.sleep(0.05)
        show("001/search")
        assert process.is_alive() and "The best of 2 trials" in capsys.readouterr().out
        assert "1 running" in Path("runs/001/search/report.html").read_text()
    finally: process.kill(), process.join()


def test_intervals_of_few_seeds_cover_and_equal_figures_leave_doubt():
    draw = np.random.default_rng(0)
    assert interval([0.9] * 5, 0.01)[1] == pytest.approx(0.01 * (1 - 0.025 ** (1 / 5))) and interval([1.0, 1.0, 1.0], 0.0)[1] == 0
    for spread in (0.2, 0.5, 2.0):  # of what the seeds reach, in images of 100
        values = np.round(95 + spread * draw.standard_normal((2000, 5)))
        true = np.round(95 + spread * draw.standard_normal(10**6)).mean()
        means, halves = np.array([interval(row, 1.0) for row in values]).T
        assert (np.abs(means - true) <= halves).mean() >= 0.94


def test_a_strangers_run_opens_no_database(work, monkeypatch):
    study = begin(work / "runs/001/theirs", storage="journal", sampler="random", pruner="none", seed=0,
                  directions=["maximize"], space={})
    study.file.write_text(study.file.read_text().replace('"journal"', '"postgresql://there/x"'))
    assert not may_open(Study(study.folder)) and not may_open(Study("nowhere"))
    monkeypatch.setenv("DLOPS_MNIST_STUDY", str(study.folder))
    assert may_open(Study(study.folder))


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
    from dlops_mnist.parts.yamlfile import read_yaml
    from dlops_mnist.runs import read_runs
    from dlops_mnist.train import train

    study = tune(*SEARCH, trials=2, pruner="none")
    best = max(study.trials, key=lambda trial: trial.value)
    assert [row["run"] for row in read_runs()] == ["search-0000", "search-0001"]
    again = train(load_config(study.folder / "best.yml"))
    assert again.best["val_acc"] == best.value
    said = read_yaml(study.folder / "best.yml")
    assert said.keys() == {"base", "trainer.max_epochs", "trainer", *study.space} and said["base"] == "001", "only what differs"
    repeated = train(load_config(study.run(best.number).config_file))
    assert repeated.best == study.run(best.number).best and len(study.trials) == 2


def test_mistakes_and_help_import_no_torch(work):
    code = "import sys\nfrom dlops_mnist.tune import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    for words, said in ((["--help"], "timeout"), (["001", "optimizer.rl=interval(0,1)"], "is not a setting of Adam"),
                        (["001", "optimizer.lr=interval(2,1)"], "nothing to look through"), (["001", "model=mlp,cnnn"], "cnn")):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=100)
        assert said in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (0 if "--help" in words else 2)


@pytest.mark.parametrize("words, said", [
    (["study=../elsewhere"], "name a folder"), (["study=/elsewhere"], "name a folder"), (["study=."], "name a folder"),
    (["timeout=-1"], "no duration"), (["timeout=nan"], "not nan"), (["confirm=-1"], "confirm: -1"),
    (["monitor=test_acc"], "never at test"), (["monitor=[test_loss,val_acc]"], "never at test"),
    (["optimizer.lr=interval(0.1,nan)"], "finite"), (["optimizer.lr=interval(0.1,inf)"], "finite"),
    (["optimizer.lr=range(0.1,inf)"], "finite")])
def test_a_mistake_leaves_no_study(work, words, said, capsys):
    with pytest.raises(SystemExit) as ended: main(["001", "optimizer.lr=interval(0.1,0.2)", "trials=1", *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not list(work.rglob("study.json"))
