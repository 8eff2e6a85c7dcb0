"""The entry wrapper: what is typed is what the task gets, and what is wrong is one line and an exit status."""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from colorize import __version__
from colorize.cli.command import configured, is_given, quoted, run_command
from colorize.cli.help import FIRST_KEYS, groups
from colorize.config import SCHEMAS, CommonConfig, TrainConfig, conf_dir
from colorize.runtime.errors import UserError
from colorize.runtime.schema import leaves

CHECKOUT = Path(__file__).resolve().parents[1]
PATH_KEYS = [key.name for key in leaves(TrainConfig) if key.path]

# Hydra's own grammar rejects most of these, and would read others as numbers, lists, quotes or nothing.
NASTY = (
    *(
        "it's.jpg",
        "a=b",
        "photo (1)",
        "(1)",
        "[1]",
        "{a:b}",
        "&",
        "#1",
        "!",
        "~x",
        "Фото/日本 🎨",
        "a:b",
        "@x",
        "--help",
    ),
    *("true", "123", "1e-3", "null.jpg", " lead", "trail ", "two\nlines", "tab\tx", "$HOME", "a$b", "100%", "*?|<>`;"),
    *("back\\slash", "trail\\", "C:\\Users\\", "a\\'b", "'half", "'a'b'", '"a" and "b"', "x'y\\'z\\\\'", "\udcff.jpg"),
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in an empty folder and leaves it empty: run folders are the tasks' to make, not Hydra's."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


def start(*words: str, name: str = "train", task: Callable[[Any], object] = lambda _: None) -> tuple[int, list[Any]]:
    """The exit status of the command typed as `words`, and the configurations that its task was called with."""
    seen: list[Any] = []

    def collect(config: Any) -> object:
        seen.append(config)
        return task(config)

    try:
        run_command(name, collect, words)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code, seen
    return 0, seen


def get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_paths_reach_the_task_as_typed() -> None:
    for first in range(0, len(NASTY), len(PATH_KEYS)):
        typed = dict(zip(PATH_KEYS, NASTY[first:], strict=False))
        status, seen = start("data.root=x", *(f"{key}={name}" for key, name in typed.items()))
        assert status == 0
        assert [{key: get(config, key) for key in typed} for config in seen] == [typed]


def test_paths_reach_the_jobs_of_a_sweep_as_typed(tmp_path: Path) -> None:
    keys, runs = [key for key in PATH_KEYS if key != "runs_dir"], tmp_path / "a = [folder], Фото"
    names = [name for name in NASTY if set(name) & set("'\"\\\udcff")]
    for first in range(0, len(names), len(keys)):
        typed = dict(zip(keys, names[first:], strict=False))
        label = names[-1 - first]
        words = [f"runs_dir='{runs}'", f"sweep={label}", *(f"{key}={name}" for key, name in typed.items())]
        status, seen = start("-m", "data.root=x", *words)
        assert status == 0
        assert [{key: get(config, key) for key in typed} for config in seen] == [typed]
        assert (runs / typed["run"] / "sweeps" / label / "jobs.csv").is_file()


def test_quotes_interpolations_and_null_of_a_path_are_hydras() -> None:
    words = [
        "data.root=a,b",
        "run='it\\'s'",
        "generated=${runs_dir}/${run} (1)",
        "init_from.generator=null",
        "runs_dir=null",
    ]
    _, [config] = start(*words, "init_from.critic=\\${run}")
    assert (config.data.root, config.run, config.generated) == ("a,b", "it's", "null/it's (1)")
    assert config.init_from.generator is None  # may be null; a folder that may not is called null
    assert (config.runs_dir, config.init_from.critic) == ("null", "${run}")
    once = quoted(["data.root=it's", "only.gan=a=1 b=[2]"], SCHEMAS["pipeline"])
    assert quoted(once, SCHEMAS["pipeline"]) == once  # Lightning starts its processes with words quoted before


def test_a_tilde_is_the_home_folder_though_the_shell_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    _, seen = start("data.root=~/photos", "data=folder")
    assert seen[0].data.root == "/home/somebody/photos"


def test_commas_of_a_path_separate_jobs_only_in_a_sweep(tmp_path: Path) -> None:
    _, seen = start("-m", "data.root='a,b', it's (1)", "generated=choice(x,y)", f"runs_dir={tmp_path}/runs")
    roots = ["a,b", "it's (1)"]
    assert [(config.data.root, config.generated) for config in seen] == list(product(roots, ["x", "y"]))


def test_flags_may_stand_between_keys(tmp_path: Path) -> None:
    words = (
        f"runs_dir={tmp_path}/runs",
        "data.root=x",
        "--multirun",
        "seed=1,2",
        "only.gan=optim.critic.lr=1e-5 seed=3",
    )
    status, seen = start(*words, "optim.critic.freeze_low=[0,1]", name="pipeline")
    assert status == 0
    assert [config.seed for config in seen] == [1, 2]
    assert seen[0].only.gan == "optim.critic.lr=1e-5 seed=3"
    assert seen[0].optim.critic.freeze_low == [0, 1]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["optm.lr=1"], ["optm.lr=1", "optim.generator.lr"]),
        (["seed=abc"], ["seed=abc", "takes int"]),
        (["model=papr"], ["model=papr", "did you mean paper", "small"]),
        (["modle=small"], ["modle=small", "did you mean model"]),
        (["loss.content=a b("], ["loss.content=a b(", "quote"]),
        (["photos"], ["photos", "key=value"]),
        (["phase=gan,pretrain_gen"], ["phase=gan,pretrain_gen", "-m"]),
        ([], ["data.root"]),
        (["data.root=x", "loss.pixel=mae"], ["loss.pixel=mae", "mse"]),
        (["data.root=${nope}"], ["data.root", "nope"]),
        (["-m", "data.root=x", "phase=gan,gna"], ["phase=gna", "gan"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["-m", "--cfg", "job"], ["--multirun", "--cfg"]),
        (["-cd", "nowhere"], ["nowhere"]),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(
    words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(*words) == (2, [])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("colorize.train: ")
    assert err.endswith("; see --help\n")
    assert err.count("\n") == 1
    assert all(name in err for name in named), err


LACK = "not enough memory for colorize.train"
FREE_SOME = "free some, raise its limit, or have less done at once (batch_size, num_workers, sizes)"
MAKE_ROOM = "make room, and the same command resumes (training with resume=auto)"


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (UserError("photos.zip is not a folder"), 1, "photos.zip is not a folder"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), 1, "Permission denied: /runs/x"),
        (OSError(errno.ENOSPC, "Full", "a"), 1, f"Full: a; {MAKE_ROOM}"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT; resume with: python -m colorize.train data.root=x resume=auto"),
        (RuntimeError("could not create a primitive"), 1, f"{LACK} (could not create a primitive): {FREE_SOME}"),
        (MemoryError(), 1, f"{LACK} (MemoryError): {FREE_SOME}"),
    ],
)
def test_an_error_of_the_task_is_one_line(
    raised: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise raised

    assert start("data.root=x", task=fail)[0] == status
    assert capsys.readouterr().err == f"colorize.train: {line}\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    argv = sys.argv
    with pytest.raises(ZeroDivisionError) as caught:
        start("data.root=x", task=lambda _: 1 // 0)
    assert not any("hydra" in str(entry.path) for entry in caught.traceback[-3:])
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv is argv


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["single", "sweep"])
def test_the_packages_log_goes_to_stderr_and_other_loggers_live(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = logging.getLogger("colorize.training.module"), logging.getLogger("other.library")
    before = list(logging.getLogger().handlers)
    start("data.root=x", f"runs_dir={tmp_path}/runs", *flags, task=lambda _: ours.info("epoch 1"))
    out, err = capsys.readouterr()
    assert "epoch 1" not in out
    assert err.splitlines()[-1] == "epoch 1"
    assert not other.disabled
    assert logging.getLogger().handlers == before
    assert logging.getLogger("colorize").handlers == []


def test_what_the_command_line_sets_is_known_to_the_task() -> None:
    given: list[Any] = []

    def ask(_: Any) -> None:
        given.extend(is_given(key) for key in ("init_from", "init_from.critic", "init_from.generator", "init"))

    start("data.root=x", "init_from.critic=c", task=ask)
    assert given == [True, True, False, False]
    assert not is_given("init_from")


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert start("phase=gan", "nonsense", "-h")[0] == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: python -m colorize.train ")
    assert __doc__ is not None
    assert __doc__.strip() in out  # that of the task's module
    assert "data=imagenet" in out and "data.old_photo.gamma" not in out  # those needed first
    start("phase=gan", "nonsense", "--help=all")
    out = capsys.readouterr().out
    unwrapped = " ".join(out.split())
    for key in leaves(TrainConfig):
        assert f" {key.name}=" in unwrapped
        assert key.meaning in unwrapped
        assert all(choice in unwrapped for choice in key.choices)
    assert "model=small" in out
    assert "a distribution over chroma at 1/4 of the size" in unwrapped  # a sentence of two lines of its file
    assert "model=paper (default)" in out
    assert "data.root=(required)" in out
    assert "optim.generator.lr=0.001" in out  # as conf/ composes it: what was typed does not compose
    start("phase=gan", "--help=optim")
    out = capsys.readouterr().out
    assert "optim.generator.lr=2e-05" in out and "data.root" not in out
    assert start("--help=optm")[0] == 2
    assert "there is --help=all" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_keys_needed_first_exist(name: str) -> None:
    keys = FIRST_KEYS[name].split()
    assert len(keys) <= 10
    assert set(keys) - groups(name).keys() <= {key.name for key in leaves(SCHEMAS[name])}


def test_version_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--version") == (0, [])
    assert capsys.readouterr().out == f"colorize {__version__}\n"
    assert start("--cfg", "job", "data=folder", "data.root=it's", "phase=gan") == (0, [])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["phase"], shown["data"]["root"], shown["model"]["name"]) == ("gan", "it's", "pocket"), (
        "of recipe=finetune"
    )


def test_help_does_not_import_torch_and_a_closed_pipe_is_quiet() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "colorize.train", "--help"]
    helped = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in helped.stderr.decode().splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "torchvision"}
    with subprocess.Popen(
        [sys.executable, "-m", "colorize.train", "--help"],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as closed:
        assert closed.stdout is not None and closed.stderr is not None
        closed.stdout.close()
        assert closed.stderr.read() == b""
    assert closed.returncode == 1


def test_a_folder_of_ones_own_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("name: mine\nwidth_factor: 0.25\n")
    (tmp_path / "model/typo.yaml").write_text("name: typo\nencodr: resnet18\n")
    _, [config] = start("-cd", str(tmp_path), "model=mine", "data.root=x")
    assert (config.model.name, config.model.width_factor) == ("mine", 0.25)
    assert start("-cd", str(tmp_path), "model=typo", "data.root=x") == (2, [])
    err = capsys.readouterr().err
    assert "model/typo.yaml" in err
    assert "did you mean model.encoder" in err


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(name for name, kind in SCHEMAS.items() if issubclass(kind, CommonConfig)))
def test_every_yaml_composes(name: str) -> None:
    trains = name == "train"  # the pipeline's options are these too, less the phase, which it refuses
    phases, models = (options("phase"), options("model")) if trains else ([""], [""])
    steps, rest = list(product(phases, options("recipe"))), list(product(models, options("data")))
    for (phase, recipe), (model, data), _ in zip(cycle(steps), cycle(rest), range(max(len(steps), len(rest)))):
        words = [f"recipe={recipe}", f"data={data}", f"phase={phase}", f"model={model}"][: 2 if not phase else 4]
        config = configured(name, [*words, "data.root=x"])
        assert (config.recipe, config.data.kind) == (recipe, data)


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_every_key_has_a_meaning(schema: type) -> None:
    assert [key.name for key in leaves(schema) if len(key.meaning) < 10] == []
