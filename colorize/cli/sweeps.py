"""Sweeps (`-m`): what their jobs share, how a job runs, its result, and the table. Jobs meet only by files."""

import gc
import json
import math
import os
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from colorize.config import CommonConfig, composed
from colorize.runs import run_folder
from colorize.runtime.errors import UserError, one_line
from colorize.runtime.files import csv_text, locked, markdown_table, write_text
from colorize.runtime.log import log
from colorize.runtime.processes import is_first_process
from colorize.runtime.progress import print_table
from colorize.runtime.schema import BadOption, literal

SHARED_KEYS = ("run", "runs_dir", "sweep")  # keys that place all jobs of a sweep in one folder

RUNTIME_KEYS = (
    *SHARED_KEYS,
    *("job", "resume", "data.num_workers", "trainer.enable_progress_bar"),
    *(f"trainer.{key}" for key in ("accelerator", "threads", "devices", "num_nodes", "compile")),
)
"""Keys that say where and how a job runs, not what it is: they may change when a sweep is resumed."""


class Score(float):
    """A number by which the outcome of a command is judged, with its name; lower is better."""

    name: str

    def __new__(cls, value: float, name: str = "score") -> "Score":
        made = super().__new__(cls, value)
        made.name = name
        return made


class Refused(BadOption):
    """A fault that makes a whole sweep impossible, not one job of it."""


def _differs(line: str) -> Refused:
    return Refused(
        f"{line} differs from job to job: the jobs of a sweep have folders of their own, runs_dir/run/sweeps/LABEL/N; "
        "to start from several runs, sweep init_from.generator=…"
    )


@dataclass(frozen=True)
class Sweep:
    """Decisions for every job: `fixed` keys have one value for all (None: a single job); a plugin `keeps_files`."""

    command: str
    folder: Path
    fixed: frozenset[str] | None = None
    keeps_files: bool = False
    start: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def swept(self, values: dict[str, str]) -> dict[str, str]:
        """Return those of a job's `values` that are not the same in all jobs."""
        return {key: text for key, text in values.items() if self.fixed is not None and key not in self.fixed}


@dataclass
class Result:
    """The content of a job's result.json.

    Its status is running, complete, failed or interrupted; "lost" is one that says running though nothing runs. `swept`
    are the values in which it differs from the others, `figure` is its score, if that is finite, `seconds` are of all
    its starts, but those that were killed, and `start` tells of which start of the sweep it is.
    """

    job: int
    command: str
    phase: str | None
    swept: dict[str, str]
    overrides: list[str]
    start: str
    status: str = "running"
    figure_name: str | None = None
    figure: float | None = None
    seconds: float = 0.0
    error: str | None = None

    def write(self, folder: Path) -> None:
        write_text(folder / "result.json", json.dumps(asdict(self), indent=1) + "\n")


def read_result(folder: Path) -> Result | None:
    """Return what the job in `folder` left, or None where there is nothing yet."""
    path = folder / "result.json"
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no result of a job: remove it, or choose another sweep=LABEL") from error


def results_in(folder: Path) -> list[Result]:
    """Return what the jobs of the sweep in `folder` left, by their numbers."""
    results = []
    for job in (path.parent for path in folder.glob("*/result.json")):
        if (result := read_result(job)) is not None:
            if result.status == "running":
                with suppress(UserError), locked(job):  # by nobody
                    result = replace(result, status="lost", error="its process ended without a word")
            results.append(result)
    return sorted(results, key=lambda result: result.job)


def swept_keys(results: Sequence[Result]) -> list[str]:
    """Return the keys in which the jobs differ."""
    return list(dict.fromkeys(key for result in results for key in result.swept))


def begin(command: str, overrides: Sequence[str], config_dir: str | None = None) -> Sweep:
    """Decide what all jobs share, by the command line as Hydra reads it; BadOption where they would lie apart."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = {override.key_or_group for override in parsed if override.is_sweep_override()}
    references = [rf"\$\{{{re.escape(key)}[.}}]" for key in swept]
    for override in parsed:
        key, line = override.key_or_group, str(override.input_line)
        if key == "job":
            raise Refused(f"{line} resumes one job alone: leave out -m, or {line}")
        if key in SHARED_KEYS and (key in swept or any(re.search(reference, line) for reference in references)):
            raise _differs(line)
    fixed = [override for override in parsed if not override.is_sweep_override()]
    lines = [str(override.input_line) for override in fixed]
    if config_dir is not None and not any(line.startswith("hydra.searchpath=") for line in lines):
        lines.append(f"hydra.searchpath=[{literal(str(Path(config_dir).absolute()))}]")
    shared = composed(command, lines, return_hydra_config=True)
    shared.sweep = shared.sweep or time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, keys = _job_folder(shared, 0).parent, {override.get_key_element() for override in fixed}
    plugins = [shared.hydra.launcher["_target_"], shared.hydra.sweeper["_target_"]]
    keeps_files = not all(plugin.startswith("hydra._internal.") for plugin in plugins)
    return Sweep(command, folder, frozenset({"sweep"} | keys), keeps_files)


def _job_folder(config: DictConfig, job: int) -> Path:
    """Return the folder of a job by its composed configuration, the rest of which may yet turn out to be wrong."""
    run, runs_dir = (os.path.expanduser(str(config[key])) for key in ("run", "runs_dir"))
    return run_folder(CommonConfig(run=run, runs_dir=runs_dir, recipe="", sweep=str(config.sweep), job=job))


def run_job(
    sweep: Sweep, job: int, overrides: Sequence[str], config: DictConfig, work: Callable[[], object]
) -> float | None:
    """Run job `job` of a sweep. A failure of its work is its own: it is said on stderr, and the other jobs run.

    `overrides` are this job's, as Hydra reads them, and compose to `config`, which `work` reads. Return its score for a
    sweeper to minimise; None where there is none, which hydra-optuna-sweeper takes for a failed trial (of NaN it dies).
    Raises Refused where the sweep cannot be; UserError where the job can leave no result.
    """
    swept = " ".join(f"{key}={text}" for key, text in sweep.swept(_values(overrides)).items())
    label = f"job {job} ({swept})" if swept else f"job {job}"
    log.info(label)
    config.job = job
    if _job_folder(config, job) != sweep.folder / str(job):
        raise _differs(f"run={config.run}")
    devices, nodes = (OmegaConf.select(config, f"trainer.{key}", default=1) for key in ("devices", "num_nodes"))
    if devices * nodes > 1:
        raise Refused(
            f"trainer.devices={devices} trainer.num_nodes={nodes}: a job of a sweep (-m) has one device, for each "
            "process of a larger job would start the whole sweep again"
        )
    result, error = _recorded(sweep, job, overrides, config, work)
    if error is not None:
        _complain(sweep, label, error)
    del error  # its frames hold the networks of the failed training,
    gc.collect()  # which go round in cycles
    return result.figure


def run_alone(command: str, config: object, overrides: Sequence[str], work: Callable[[], object]) -> object:
    """Return what `work` does, outside a sweep; with sweep=LABEL job=N, resume one job of it, and keep its result."""
    if not isinstance(config, CommonConfig) or (config.sweep is None and config.job is None):
        return work()
    folder = run_folder(config)
    if not is_first_process():  # the first one keeps the result
        return work()
    result, error = _recorded(Sweep(command, folder.parent), int(folder.name), overrides, config, work)
    if error is not None:
        raise error
    return result.figure


def _recorded(
    sweep: Sweep, job: int, overrides: Sequence[str], config: Any, work: Callable[[], object]
) -> tuple[Result, Exception | None]:
    """Do `work` unless the job is complete, and keep what comes of it; return that, and what `work` raised."""
    folder, values = sweep.folder / str(job), _values(overrides)
    phase = str(config.phase) if sweep.command == "train" else None
    result, failure = Result(job, sweep.command, phase, sweep.swept(values), list(overrides), sweep.start), None
    with locked(folder):
        earlier = read_result(folder)
        if earlier is not None:
            made_with, differing = _values(earlier.overrides), []
            for key in made_with | values:
                if key not in RUNTIME_KEYS and made_with.get(key) != values.get(key):
                    now = f" (not {values[key]})" if key in values else ""
                    differing.append(f"with {key}={made_with[key]}{now}" if key in made_with else f"without {key}")
            if differing:
                raise Refused(
                    f"{folder} was made {', '.join(differing)}: give the same options, or another sweep=LABEL"
                )
            result.swept, result.seconds = result.swept or earlier.swept, earlier.seconds
            if earlier.status == "complete":
                log.info(f"job {job} is complete: {folder}")
                result = replace(earlier, swept=result.swept, start=sweep.start)
                result.write(folder)
                return result, None
        result.write(folder)
        since = time.monotonic()
        try:
            score = work()
            result.status = "complete"
            if isinstance(score, Score):
                result.figure, result.figure_name = float(score) if math.isfinite(score) else None, score.name
        except Exception as error:
            failure, known = error, isinstance(error, (UserError, OSError))
            text = one_line(error) if known else f"{type(error).__name__}: {error}"
            result.status, result.error = "failed", text.partition("\n")[0]
        except BaseException:
            result.status = "interrupted"
            raise
        finally:
            result.seconds = round(result.seconds + time.monotonic() - since, 3)
            result.write(folder)
    return result, failure


def _complain(sweep: Sweep, label: str, error: Exception) -> None:
    known = isinstance(error, (UserError, OSError))
    text = one_line(error) if known else "".join(traceback.format_exception(error))
    print(f"colorize.{sweep.command}: {label}: {text}", file=sys.stderr)


def _values(overrides: Iterable[str]) -> dict[str, str]:
    values = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        text = value if isinstance(value, str) else override.get_value_element_as_str()
        values[override.get_key_element()] = text.lower() if isinstance(value, bool) else text
    return values


@contextmanager
def reported(sweep: Sweep, unrecorded: list[Exception]) -> Iterator[None]:
    """End the jobs with their table; raise UserError where some failed. `unrecorded`: errors of jobs without result."""
    trouble: Exception | None = None
    try:
        yield
    except Exception as error:  # what a launcher, or a sweeper, makes of a job's
        trouble = error
    except BaseException:
        _report(sweep, 0)
        raise
    for failure in unrecorded:
        if isinstance(failure, Refused):
            raise failure
        _complain(sweep, "a job", failure)
    if failed := _report(sweep, len(unrecorded)):
        raise UserError(failed + (f" ({one_line(trouble).splitlines()[0]})" if trouble else "")) from trouble
    if trouble is not None:
        raise trouble


def _report(sweep: Sweep, unrecorded: int) -> str:
    results = results_in(sweep.folder)
    started = [result for result in results if result.start == sweep.start]
    failed = unrecorded + sum(result.status != "complete" for result in started)
    if results and (started or unrecorded):
        write_text(sweep.folder / "jobs.csv", as_csv(results))
        print_jobs(results, sweep.folder)
    again = f"the same command with sweep={sweep.folder.name}{' resume=auto' if sweep.command == 'train' else ''}"
    return f"{failed} of {unrecorded + len(started)} jobs failed, see above; {again} resumes them" if failed else ""


def as_csv(results: Sequence[Result]) -> str:
    """Return a row for each job: number, swept values, score and its name, minutes, status, error."""
    keys = swept_keys(results)
    rows: list[list[object]] = [["job", *keys, "figure", "figure_name", "minutes", "status", "error"]]
    for result in results:
        values = [_plain(result.swept.get(key, "")) for key in keys]
        about = [result.figure, result.figure_name, round(result.seconds / 60, 3), result.status]
        rows.append([result.job, *values, *about, _plain(result.error or "")])
    return csv_text(rows)


def print_jobs(results: Sequence[Result], folder: Path) -> None:
    """Print the table of jobs, the best (the lowest score, where scores compare), and why others have none."""
    keys = swept_keys(results)
    scored = [result for result in results if result.figure is not None]
    names = {result.figure_name for result in results if result.figure_name}
    best = min(scored, key=lambda result: result.figure or 0.0) if scored and len(names) == 1 else None
    rows = []
    for result in results:
        score = "–" if result.figure is None else f"{result.figure:.5g}"
        cells = [str(result.job), *(result.swept.get(key, "") for key in keys), score, f"{result.seconds / 60:.1f}"]
        rows.append([_plain(cell).replace("|", "¦") for cell in (*cells, result.status)])
    print(_plain(f"sweep {folder.name}"))
    print_table(markdown_table(["job", *keys, str(*names) if len(names) == 1 else "score", "minutes", "status"], rows))
    said = [f"Job {result.job} {result.status}: {result.error}" for result in results if result.error is not None]
    if best is not None:
        number = f"{best.figure_name} {best.figure:.5g} (lower is better)"
        said.insert(0, f"Best: job {best.job}, {number}, in {folder / str(best.job)}")
    for line in (*said, f"Table: {folder / 'jobs.csv'}"):
        print(_plain(line))


def _plain(text: str) -> str:
    """Return `text` on one line, in characters that any stream can write."""
    return text.replace("\n", "⏎").replace("\t", " ").encode("utf-8", "backslashreplace").decode()
