"""Sweeps: where each job writes, what is kept of it, how a sweep is resumed, and the table that it ends with."""

import copy
import csv
import json
import math
import os
import pickle
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus

from colorize import pipeline, train
from colorize.cli.sweeps import Result, Score, as_csv, print_jobs, results_in
from colorize.runs import run_folder
from colorize.runtime.errors import UserError
from colorize.runtime.files import locked
from tests.test_cli import start

COMMON = ("-m", "data.root=x", "run=mine", "sweep=lab")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run `mine` in the working folder, as it will be."""
    monkeypatch.chdir(tmp_path)
    return Path("runs/mine")


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> list[JobReturn]:
    """What Hydra's sweeper gets, job by job."""
    made: list[JobReturn] = []

    class Recorded(JobReturn):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("hydra.core.utils.JobReturn", Recorded)
    return made


def some_fail(config: Any) -> float:
    if config.seed == 1:
        raise UserError("odd")
    if config.seed == 3:
        raise ZeroDivisionError("bug")
    return Score(math.nan if config.seed == 4 else 5 - config.seed, "val/content")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "jobs.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweep_of_which_some_fail_and_the_same_label_resumes_them(
    mine: Path, returned: list[JobReturn], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*COMMON, "hydra.sweeper.max_batch_size=2")
    status, seen = start(*words, "seed=0,1,2,3,4", task=some_fail)
    assert status == 1
    assert [(config.sweep, config.job, config.seed) for config in seen] == [("lab", n, n) for n in range(5)]
    assert [run_folder(config) for config in seen] == [mine / "sweeps/lab" / str(n) for n in range(5)]
    assert [result.return_value for result in returned] == [5.0, None, 3.0, None, None], "no NaN: Optuna dies of it"

    kept = json.loads((mine / "sweeps/lab/1/result.json").read_text())
    assert (kept["job"], kept["status"], kept["error"], kept["figure"]) == (1, "failed", "odd", None)
    assert (kept["command"], kept["phase"], kept["swept"]) == ("train", "pretrain_gen", {"seed": "1"})
    assert "seed=1" in kept["overrides"] and "data.root='x'" in kept["overrides"]
    kept = json.loads((mine / "sweeps/lab/2/result.json").read_text())
    assert (kept["status"], kept["figure_name"], kept["figure"]) == ("complete", "val/content", 3.0)

    out, err = capsys.readouterr()
    assert "colorize.train: job 1 (seed=1): odd\n" in err
    assert "ZeroDivisionError" in err
    assert err.splitlines()[-1].startswith("colorize.train: 2 of 5 jobs failed, see above; ")
    assert "sweep=lab resume=auto" in err.splitlines()[-1]
    assert [line.replace("|", " ").split() for line in out.splitlines() if line[2:3].isdigit()] == [
        ["0", "0", "5", "0.0", "complete"],
        ["1", "1", "–", "0.0", "failed"],
        ["2", "2", "3", "0.0", "complete"],
        ["3", "3", "–", "0.0", "failed"],
        ["4", "4", "–", "0.0", "complete"],
    ]
    assert "| job | seed | val/content | minutes | status |" in out
    assert f"Best: job 2, val/content 3 (lower is better), in {mine}/sweeps/lab/2\n" in out
    assert "Job 3 failed: ZeroDivisionError: bug\n" in out
    table = rows(mine / "sweeps/lab")
    assert [(row["job"], row["seed"], row["figure"], row["status"]) for row in table] == [
        ("0", "0", "5.0", "complete"),
        ("1", "1", "", "failed"),
        ("2", "2", "3.0", "complete"),
        ("3", "3", "", "failed"),
        ("4", "4", "", "complete"),
    ]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["runs"], "Hydra leaves nothing"

    returned.clear()
    status, seen = start(*words, "resume=auto", "seed=0,1,5", task=lambda config: Score(config.seed, "val/content"))
    assert status == 2, "job 2 had another seed"
    assert [config.seed for config in seen] == [1], "the others are complete"
    assert [result.return_value for result in returned] == [5.0, 1.0, None]
    assert rows(mine / "sweeps/lab") == table, "as it was: this was no sweep"


def test_one_job_of_a_sweep_is_resumed_alone(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(*COMMON, "seed=choice(1)", task=some_fail)
    alone = ("data.root=x", "run=mine", "sweep=lab", "job=0")
    assert start(*alone, "resume=auto", task=some_fail) == (2, []), "without its seed it is another job"
    assert f"{mine}/sweeps/lab/0 was made with seed=1: give the same" in capsys.readouterr().err
    status, [config] = start(*alone, "seed=1", "resume=auto", task=lambda _: Score(7.0))
    assert (status, run_folder(config)) == (0, mine / "sweeps/lab/0")
    [result] = results_in(mine / "sweeps/lab")
    assert (result.status, result.figure, result.swept) == ("complete", 7.0, {"seed": "1"})


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("seed=3,4",), "sweeps/lab/0 was made with seed=0 (not 3): give the same options, or another sweep=LABEL"),
        (("seed=0", "grid_photos=3"), "was made without grid_photos"),
        (("run=a,b",), "run='a','b' differs from job to job"),
        (("seed=1,2", "run=x-${seed}"), "run='x-${seed}' differs from job to job"),
        (("model=small,paper", "run=x-${model.name}"), "run='x-${model.name}' differs from job to job"),
        (("model=choice(small)", "run=${oc.select:model.name}"), "run=small differs from job to job"),
        (("seed=1,2", "job=3"), "job=3 resumes one job alone"),
        (("seed=1,2", "trainer.devices=2"), "trainer.devices=2 trainer.num_nodes=1: a job of a sweep (-m) has one"),
        (("trainer.num_nodes=choice(2)",), "trainer.devices=1 trainer.num_nodes=2: a job of a sweep (-m) has one"),
        (("seed=1,2", "sweep=a/b"), "sweep=a/b is no name of a folder"),
    ],
)
def test_what_no_sweep_can_be_is_refused_once(
    words: tuple[str, ...], named: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = ["data.root='x'", "run='mine'", "sweep='lab'", "seed=0"]
    (mine / "sweeps/lab/0").mkdir(parents=True)
    Result(0, "train", None, {}, earlier, "", status="complete").write(mine / "sweeps/lab/0")
    kept = (mine / "sweeps/lab/0/result.json").read_bytes()
    given = [word for word in COMMON if word.split("=")[0] not in [w.split("=")[0] for w in words]]
    assert start(*given, *words) == (2, [])
    out, err = capsys.readouterr()
    refusals = [line for line in err.splitlines() if not line.startswith("job ")]
    assert (out, len(refusals)) == ("", 1)
    assert named in refusals[0]
    assert (mine / "sweeps/lab/0/result.json").read_bytes() == kept


@pytest.mark.parametrize("word", ["sweep=lab", "job=1"])
def test_half_a_job_is_refused(word: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("data.root=x", word, task=lambda config: run_folder(config)) == (2, [])
    assert f"colorize.train: {word}: give " in capsys.readouterr().err


def test_a_job_that_died_without_a_word_is_lost(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (2, 10):
        (mine / f"sweeps/lab/{number}").mkdir(parents=True)
        Result(number, "train", None, {}, [], "earlier").write(mine / f"sweeps/lab/{number}")
    with locked(mine / "sweeps/lab/10"):
        assert start(*COMMON, name="generate", task=lambda _: Score(1.0))[0] == 0, "they are not of this start"
    assert [(row["job"], row["status"]) for row in rows(mine / "sweeps/lab")] == [
        ("0", "complete"),
        ("2", "lost"),
        ("10", "running"),
    ]
    assert "Job 2 lost: its process ended without a word" in capsys.readouterr().out


def basic_launcher() -> ModuleType:
    """Hydra's launcher, once Hydra has loaded its plugins: it loads them anew."""
    Plugins.instance()
    return import_module("hydra._internal.core_plugins.basic_launcher")


def test_a_launcher_that_breaks_off_still_ends_with_the_table(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = basic_launcher().BasicLauncher.launch

    def killed(*args: Any, **keywords: Any) -> None:  # as joblib's, when a worker is killed
        launch(*args, **keywords)
        path = mine / "sweeps/lab/1/result.json"
        path.write_text(path.read_text().replace("complete", "running"))
        raise RuntimeError("a worker was terminated\nby a signal")

    monkeypatch.setattr(basic_launcher().BasicLauncher, "launch", killed)
    assert start(*COMMON, "seed=1,2", name="generate", task=lambda _: Score(1.0))[0] == 1
    out, err = capsys.readouterr()
    assert [row["status"] for row in rows(mine / "sweeps/lab")] == ["complete", "lost"]
    assert "Best: job 0" in out
    assert re.match(r"colorize.generate: 1 of 2 jobs failed.* \(a worker was terminated\)$", err.splitlines()[-1])


def test_jobs_in_other_processes_leave_the_same(
    mine: Path, returned: list[JobReturn], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job = basic_launcher().run_job

    def elsewhere(task_function: Any, **keywords: Any) -> JobReturn:  # what a cluster's launcher amounts to
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            return run_job(task_function=copy.deepcopy(task_function), **keywords)  # refuses what cannot be pickled

    monkeypatch.setattr(basic_launcher(), "run_job", elsewhere)
    assert start(*COMMON, "seed=1,2", name="generate", task=some_fail)[0] == 1
    assert [result.return_value for result in returned] == [None, 3.0]
    out, err = capsys.readouterr()
    assert "colorize.generate: job 0 (seed=1): odd\n" in err
    assert "[1] job 1 (seed=2)\n" in err, "lines of parallel jobs can be told apart"
    assert "Best: job 1, val/content 3" in out
    assert start(*COMMON, "seed=5", name="generate", task=some_fail)[0] == 2
    assert returned[-1].status == JobStatus.FAILED, "a refusal is handed to the process that was typed"
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"colorize.generate: \S+/0 was made with seed=1 \(not 5\)", err)


def test_ctrl_c_ends_with_the_table_of_what_there_is(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: Any) -> float:
        raise KeyboardInterrupt

    status, seen = start(*COMMON, "seed=1,2", name="generate", task=stop)
    assert (status, len(seen)) == (130, 1)
    assert [row["status"] for row in rows(mine / "sweeps/lab")] == ["interrupted"]
    assert "interrupted" in capsys.readouterr().out


def test_the_table_shows_values_as_they_are(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swept = {"optim.generator.lr": "0.001", "optim.critic.lr": "0.00031415926535", "resolution.size_px": "[32,64]"}
    names = ["[red]", "a|b", "two\nlines", "\udcff"]
    results = [
        Result(n, "train", "gan", swept | {"data.root": name}, [], "", "complete", "val/ciede2000", 9.87654321 - n, 754)
        for n, name in enumerate(names)
    ]
    print_jobs(results, mine / "sweeps/lab")
    out = capsys.readouterr().out
    _, head, _, first, second, *_ = ([cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines())
    assert head == ["job", *swept, "data.root", "val/ciede2000", "minutes", "status"]
    assert first == ["0", "0.001", "0.00031415926535", "[32,64]", "[red]", "9.8765", "12.6", "complete"]
    assert second[4] == "a¦b" and "two⏎lines" in out and "\\udcff" in out
    assert "Best: job 3, val/ciede2000 6.8765" in out
    _, *table = csv.reader(as_csv(results).splitlines())
    assert [row[2:5] for row in table][:2] == [["0.00031415926535", "[32,64]", name] for name in names[:2]]


def test_a_score_keeps_its_name_between_processes() -> None:
    score = pickle.loads(pickle.dumps(Score(0.5, "val/content")))
    assert (score, score.name) == (0.5, "val/content")


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_of_a_pipeline_are_runs_of_their_own(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def step(arguments: list[str]) -> int:
        commands.append(arguments[3:])
        return 0

    monkeypatch.setattr(pipeline, "check_root", lambda *_: None)
    monkeypatch.setattr("colorize.training.first_weights.require_pretrained", lambda *_: None)
    monkeypatch.setattr(pipeline.signals, "run", step)
    monkeypatch.setattr(pipeline, "summarize", lambda config: Score(10.0 - config.seed, "CIEDE2000"))
    mine.mkdir(parents=True)
    words = [*COMMON[:-1], "seed=1,2", "init_from.generator=${runs_dir}/${run}/a.ckpt", "--config-dir", str(mine)]
    assert start(*words, name="pipeline", task=pipeline.run)[0] == 0
    [sweep] = (mine / "sweeps").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", sweep.name), "the label where none is given"
    assert len(commands) == 8
    for number, command in enumerate(commands):
        assert f"run=mine/sweeps/{sweep.name}/{number // 4}" in command
        assert f"seed={1 + number // 4}" in command
        assert command[:2] == ["--config-dir", str(mine)]
        assert (f"init_from.generator={mine}/a.ckpt" in command) == (number % 4 == 0), "of the run, not of the job"
        assert sum(word.startswith(("run=", "sweep=", "job=")) for word in command) == 1
    assert [(row["figure"], row["figure_name"]) for row in rows(sweep)] == [("9.0", "CIEDE2000"), ("8.0", "CIEDE2000")]


def test_jobs_read_the_runs_earlier_steps_and_write_their_own(mine: Path) -> None:
    from colorize.generate import output_folder

    job = ("data.root=x", "run=mine", "sweep=lab", "job=7")
    _, [config] = start(*job, "phase=gan")
    assert config.init_from.generator == f"{mine}/pretrain_gen/checkpoints/best.ckpt"
    assert run_folder(config) == mine / "sweeps/lab/7"
    _, [config] = start(*job, "sweep=images", name="generate")
    assert config.checkpoint == f"{mine}/pretrain_gen/checkpoints/best.ckpt"
    assert output_folder(config) == mine / "sweeps/images/7/generated"


TINY_TRAINING = (
    *("data=scenes", "data.scenes=24", "data.max_val=2", "data.num_workers=0", "model=tiny", "trainer.accelerator=cpu"),
    *("resolution.size_px=[32]", "resolution.batch_size=[8]", "resolution.epochs=[2]", "trainer.limit_train_batches=1"),
    *("loss.feature_weights=[0,0,0]", "trainer.enable_progress_bar=false", "grid_photos=1"),
    *("model.width_factor=0.25", "save.score_photos=2"),
)


def test_a_real_sweep_of_two_trainings_one_of_which_fails(
    mine: Path, returned: list[JobReturn], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-m", "run=mine", "sweep=lab", *TINY_TRAINING, "model.encoder_weights=none,/no/such.pth")
    assert start(*words, task=train.run)[0] == 1
    job = mine / "sweeps/lab/0"
    with (job / "pretrain_gen/metrics.csv").open() as file:
        best = min(float(row["val/content"]) for row in csv.DictReader(file))
    [done, failed] = results_in(mine / "sweeps/lab")
    assert (done.figure_name, done.status, failed.status) == ("val/content", "complete", "failed")
    assert done.figure == returned[0].return_value == pytest.approx(best, rel=1e-6)
    assert "no file /no/such.pth" in str(failed.error)
    assert f"Best: job 0, val/content {best:.5g}" in capsys.readouterr().out

    (job / "result.json").unlink()  # so that training itself has to say how good it was
    written = (job / "pretrain_gen/checkpoints/last.ckpt").stat().st_mtime_ns
    returned.clear()
    assert start(*words, task=train.run)[0] == 1
    assert returned[0].return_value == done.figure
    assert (job / "pretrain_gen/checkpoints/last.ckpt").stat().st_mtime_ns == written
