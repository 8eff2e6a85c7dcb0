"""The folder of a run: where each phase keeps what, made and locked by us.

runs/NAME/{pretrain_gen,pretrain_critic,gan}/checkpoints/{last,best}.ckpt, runs/NAME/generated/, runs/NAME/gallery.png.
A job of a sweep has a run folder of its own, runs/NAME/sweeps/LABEL/N; so have the pipeline's later cycles,
runs/NAME/cycle_2 and so on.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from colorize.config import CommonConfig
from colorize.runtime.errors import UserError, writing
from colorize.runtime.files import written_whole
from colorize.runtime.processes import is_first_process
from colorize.runtime.schema import BadOption


def run_name(config: CommonConfig) -> str:
    """The run that `config` writes to, as `run=…` would name it: `run` itself, or the job of a sweep in it.

    Raises:
        BadOption: half a job is given, or the label is no name of a folder.
    """
    label, job = config.sweep, config.job
    if label is None and job is None:
        return config.run
    if label is None or job is None:
        given, lacking = (f"sweep={label}", "job=N") if job is None else (f"job={job}", "sweep=LABEL")
        raise BadOption(f"{given}: give {lacking} too, to go on with one job, or -m, which numbers the jobs itself")
    if label in ("", ".", "..") or Path(label).name != label:
        raise BadOption(f"sweep={label} is no name of a folder: a label has no /")
    return f"{config.run}/sweeps/{label}/{job}"


def run_folder(config: CommonConfig) -> Path:
    """Where `config` writes; what it reads of earlier steps is stated in conf/."""
    return Path(config.runs_dir) / run_name(config)


def cycle_name(run: str, cycle: int) -> str:
    """The run that a cycle of the pipeline writes to, as `run=…` would name it; the first one's is `run` itself."""
    return run if cycle == 1 else f"{run}/cycle_{cycle}"


def cycles_in(run: Path) -> list[Path]:
    """The folders of a run's cycles, in order; `run`, which may not be there, is the first."""
    return [run, *takewhile(Path.is_dir, (Path(cycle_name(str(run), cycle)) for cycle in count(2)))]


class PhaseFolder:
    """Paths of one phase of a run."""

    def __init__(self, runs_dir: str | Path, run: str, phase: str) -> None:
        self.path = Path(runs_dir) / run / phase
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"


def before(file: Path) -> Path:
    """The name of what `file` was until it was last written."""
    return file.with_name(f"{file.name}.before")


def kept_in(checkpoints: Path) -> dict[int, Path]:
    """The checkpoints that were kept inside epochs, images-COUNT.ckpt, by their count of images seen."""
    found = {path: re.fullmatch(r"images-(\d+)\.ckpt", path.name) for path in checkpoints.glob("images-*.ckpt")}
    return {int(match[1]): path for path, match in found.items() if match}


def link(file: Path, name: Path) -> None:
    """Let `name` stand for the same file as `file` does, in one go; for a copy where the disk knows no second names."""
    beside = name.with_name(f".{name.name}.part")
    beside.unlink(missing_ok=True)
    try:
        try:
            os.link(file, beside)
        except OSError:
            shutil.copyfile(file, beside)
        os.replace(beside, name)
    finally:
        beside.unlink(missing_ok=True)  # a rename leaves it where both names were of one file already


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it for this process and the other ranks of its fit; a crash frees it.

    Raises:
        UserError: it cannot be made or written, or another process holds it.
    """
    if not is_first_process():  # the first one holds it for all
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holding = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder} is in use by another process: wait for it, or choose another run=NAME") from error
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{folder} cannot be written ({error}): choose another runs_dir=DIR") from error
    with holding:
        yield


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with writing(path), written_whole(path, sync=False, alone=True) as file:
        file.write(text.encode())


def write_config(path: Path, config: object) -> None:
    """Keep the resolved configuration (a schema instance) as YAML."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(config)))
