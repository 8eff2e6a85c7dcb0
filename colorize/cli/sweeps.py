"""Sweeps (`-m`): what their jobs share, how a job runs, and the end of them all.

runs/NAME/sweeps/LABEL/N is the run folder of job N, with a result.json of its own; runs/NAME/sweeps/LABEL/jobs.csv is
the table. The jobs and the process that was typed know of each other by these files alone, so that it makes no
difference in which process, or on which machine, a launcher runs a job.
"""

import gc
import logging
import math
import os
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from colorize.cli.sweep_jobs import Figure, Result, as_csv, print_table, read_result, results_in
from colorize.config import CommonConfig, conf_dir
from colorize.runs import run_folder
from colorize.runtime.errors import UserError, one_line
from colorize.runtime.files import locked, write_text
from colorize.runtime.processes import is_first_process
from colorize.runtime.schema import BadOption, literal

log = logging.getLogger("colorize")

ONE_FOR_ALL = ("run", "runs_dir", "sweep")

HOW = (
    *ONE_FOR_ALL,
    "job",
    "resume",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.threads",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.compile",
    "trainer.enable_progress_bar",
)
"""Keys that say where and how a job runs, not what it is: they may change when a sweep is gone on with."""

LIE_TOGETHER = (
    "the jobs of a sweep have folders of their own, runs_dir/run/sweeps/LABEL/N; "
    "to start from several runs, sweep init_from.generator=…"
)


class Refused(BadOption):
    """What makes a whole sweep impossible, not one job of it."""


@dataclass(frozen=True)
class Sweep:
    """What the process that was typed decides, and every job is told.

    Attributes:
        command: train, generate or pipeline.
        run: the folder of the run.
        label: of the sweep.
        fixed: keys that the command line sets to one value for all jobs; None where only one job is gone on with.
        keeps_files: whether a launcher or sweeper was chosen that may have files to keep.
        start: tells this start of the sweep from others with the same label.
    """

    command: str
    run: Path
    label: str
    fixed: frozenset[str] | None = None
    keeps_files: bool = False
    start: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def folder(self) -> Path:
        """Where the folders of its jobs lie."""
        return self.run / "sweeps" / self.label

    def swept(self, values: dict[str, str]) -> dict[str, str]:
        """Those of a job's `values` that are not the same in all jobs."""
        return {key: text for key, text in values.items() if self.fixed is not None and key not in self.fixed}


# --- before the jobs --------------------------------------------------------------------------------------------------


def begin(command: str, overrides: Sequence[str], config_dir: str | None = None) -> Sweep:
    """Decide what all jobs share, from what the command line gives them all.

    The overrides are as Hydra reads them; `config_dir` is a folder of YAML files beside conf/.

    Raises:
        BadOption: the jobs would not lie together, or would need several devices each, or the label is none.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = {override.key_or_group for override in parsed if override.is_sweep_override()}
    for override in parsed:
        key, line = override.key_or_group, str(override.input_line)
        if key == "job":
            raise Refused(f"{line} goes on with one job alone: leave out -m, or {line}")
        if key in ONE_FOR_ALL and (
            key in swept or any(re.search(rf"\$\{{{re.escape(other)}[.}}]", line) for other in swept)
        ):
            raise Refused(f"{line} differs from job to job: {LIE_TOGETHER}")
    fixed = [override for override in parsed if not override.is_sweep_override()]
    lines = [str(override.input_line) for override in fixed]
    if config_dir is not None and not any(line.startswith("hydra.searchpath=") for line in lines):
        lines.append(f"hydra.searchpath=[{literal(str(Path(config_dir).absolute()))}]")
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        composed = hydra.compose(command, lines, return_hydra_config=True)
        common = _common(composed, composed.sweep or time.strftime("%Y-%m-%d_%H-%M-%S"), 0)
        _check_devices(composed)
        plugins = [composed.hydra.launcher["_target_"], composed.hydra.sweeper["_target_"]]
    run_folder(common)  # refuses a label that cannot be one
    return Sweep(
        command=command,
        run=Path(common.runs_dir) / common.run,
        label=str(common.sweep),
        fixed=frozenset(override.get_key_element() for override in fixed),
        keeps_files=not all(plugin.startswith("hydra._internal.") for plugin in plugins),
    )


def _common(composed: DictConfig, label: str, job: int) -> CommonConfig:
    """What says where a composed configuration writes."""
    run, runs_dir = (os.path.expanduser(str(composed[key])) for key in ("run", "runs_dir"))
    return CommonConfig(run=run, runs_dir=runs_dir, recipe="", sweep=label, job=job)


def _check_devices(composed: DictConfig) -> None:
    devices, nodes = (OmegaConf.select(composed, f"trainer.{key}", default=1) for key in ("devices", "num_nodes"))
    if devices * nodes > 1:
        raise Refused(
            f"trainer.devices={devices} trainer.num_nodes={nodes}: a job of a sweep (-m) has one device, for each "
            "process of a larger fit would start the whole sweep again"
        )


# --- a job ------------------------------------------------------------------------------------------------------------


def run_job(
    sweep: Sweep, job: int, overrides: Sequence[str], composed: DictConfig, work: Callable[[], object]
) -> float | None:
    """Job `job` of a sweep. A failure of its work is its own: it is said on stderr, and the other jobs run.

    Args:
        overrides: of this job, as Hydra reads them.
        composed: the configuration of this job, which is told its folder.
        work: reads `composed`, does the job, returns its figure.

    Returns:
        The figure for a sweeper to minimise; None where there is none, which hydra-optuna-sweeper takes for a failed
        trial (of NaN it dies).

    Raises:
        Refused: the sweep cannot be.
        UserError: the job can leave no result, as another process does the same job, or its folder cannot be written.
    """
    values = _values(overrides)
    swept = " ".join(f"{key}={text}" for key, text in sweep.swept(values).items())
    label = f"job {job} ({swept})" if swept else f"job {job}"
    log.info(label)
    given = sweep.label if composed.sweep is None else str(composed.sweep)
    if run_folder(_common(composed, given, job)) != sweep.folder / str(job):
        raise Refused(f"run={composed.run} differs from job to job: {LIE_TOGETHER}")
    _check_devices(composed)
    composed.sweep, composed.job = sweep.label, job
    phase = str(composed.phase) if sweep.command == "train" else None
    result, error = _recorded(sweep, job, overrides, phase, work)
    if error is not None:
        _complain(sweep, label, error)
    del error  # its frames hold the networks of the failed fit,
    gc.collect()  # which go round in cycles
    return result.figure


def _complain(sweep: Sweep, label: str, error: Exception) -> None:
    known = isinstance(error, (UserError, OSError))
    text = one_line(error) if known else "".join(traceback.format_exception(error))
    print(f"colorize.{sweep.command}: {label}: {text}", file=sys.stderr)


def run_alone(command: str, config: object, overrides: Sequence[str], work: Callable[[], object]) -> object:
    """What `work` does, outside a sweep; sweep=LABEL job=N goes on with a job of one, and keeps its result.

    Raises:
        UserError: as `work` does, and as `run_job`.
    """
    if not isinstance(config, CommonConfig) or (config.sweep is None and config.job is None):
        return work()
    folder = run_folder(config)
    if not is_first_process():  # the first one keeps the result
        return work()
    sweep = Sweep(command, folder.parents[2], str(config.sweep))
    phase = getattr(config, "phase", None) if command == "train" else None
    result, error = _recorded(sweep, int(folder.name), overrides, phase, work)
    if error is not None:
        raise error
    return result.figure


def _recorded(
    sweep: Sweep, job: int, overrides: Sequence[str], phase: str | None, work: Callable[[], object]
) -> tuple[Result, Exception | None]:
    """Do `work` unless the job is complete, and keep what comes of it; returns that, and what `work` raised."""
    folder, values = sweep.folder / str(job), _values(overrides)
    with locked(folder):
        earlier = read_result(folder)
        result = Result(job, sweep.command, phase, sweep.swept(values), list(overrides), sweep.start)
        if earlier is not None:
            _refuse_other_overrides(folder, _values(earlier.overrides), values)
            result.swept, result.seconds = result.swept or earlier.swept, earlier.seconds
            if earlier.status == "complete":
                log.info(f"job {job} is complete: {folder}")
                result = replace(earlier, swept=result.swept, start=sweep.start)
                result.write(folder)
                return result, None
        result.write(folder)
        since, failure = time.monotonic(), None
        try:
            figure = work()
            result.status = "complete"
            if isinstance(figure, (int, float)):
                result.figure = float(figure) if math.isfinite(figure) else None
                result.figure_name = figure.name if isinstance(figure, Figure) else "figure"
        except Exception as error:
            failure = error
            known = isinstance(error, (UserError, OSError))
            text = one_line(error) if known else f"{type(error).__name__}: {error}"
            result.status, result.error = "failed", text.partition("\n")[0]
        except BaseException:
            result.status = "interrupted"
            raise
        finally:
            result.seconds = round(result.seconds + time.monotonic() - since, 3)
            result.write(folder)
    return result, failure


def _values(overrides: Iterable[str]) -> dict[str, str]:
    """The value of each key, without quotes."""
    values = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        text = value if isinstance(value, str) else override.get_value_element_as_str()
        values[override.get_key_element()] = text.lower() if isinstance(value, bool) else text
    return values


def _refuse_other_overrides(folder: Path, made_with: dict[str, str], given: dict[str, str]) -> None:
    differing = []
    for key in dict.fromkeys([*made_with, *given]):
        earlier, now = made_with.get(key), given.get(key)
        if key not in HOW and earlier != now:
            said = f"without {key}" if earlier is None else f"with {key}={earlier}"
            differing.append(f"{said} (not {now})" if earlier is not None and now is not None else said)
    if differing:
        raise Refused(f"{folder} was made {', '.join(differing)}: give the same options, or another sweep=LABEL")


# --- after the jobs ---------------------------------------------------------------------------------------------------


@contextmanager
def reported(sweep: Sweep, unrecorded: list[Exception]) -> Iterator[None]:
    """Around the jobs: whatever becomes of them, end with their table.

    `unrecorded` is filled meanwhile with what jobs raised that could leave no result.

    Raises:
        UserError: some jobs failed, said after the table.
    """
    trouble: Exception | None = None
    try:
        yield
    except Exception as error:
        trouble = error
    except BaseException:
        if _started(sweep):
            _report(sweep, [])
        raise
    for failure in unrecorded:
        if isinstance(failure, Refused):
            raise failure
        _complain(sweep, "a job", failure)
    if unrecorded or _started(sweep):
        bad = _report(sweep, unrecorded)
        if bad and trouble is not None:  # what a launcher, or a sweeper, makes of it
            raise UserError(f"{bad} ({one_line(trouble).splitlines()[0]})") from trouble
        if bad:
            raise UserError(bad)
    if trouble is not None:
        raise trouble


def _started(sweep: Sweep) -> list[Result]:
    return [result for result in results_in(sweep.folder) if result.start == sweep.start]


def _report(sweep: Sweep, unrecorded: list[Exception]) -> str:
    """Write and print the table; one line on the jobs of this start that are not complete, if there are any."""
    results, started = results_in(sweep.folder), _started(sweep)
    if results:
        write_text(sweep.folder / "jobs.csv", as_csv(results))
        print_table(results, sweep.folder)
    bad = len(unrecorded) + sum(result.status != "complete" for result in started)
    if not bad:
        return ""
    again = f"the same command with sweep={sweep.label}{' resume=auto' if sweep.command == 'train' else ''}"
    return f"{bad} of {len(unrecorded) + len(started)} jobs failed, see above; {again} goes on with them"
