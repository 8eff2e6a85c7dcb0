"""The folder of a run: where each phase keeps what, made and locked by us.

runs/NAME/{pretrain_gen,pretrain_critic,gan}/checkpoints/{last,best}.ckpt, runs/NAME/generated/, runs/NAME/gallery.png.
A job of a sweep has a run folder of its own, runs/NAME/sweeps/LABEL/N.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from colorize.config import CommonConfig
from colorize.errors import UserError
from colorize.options import BadOption


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


class PhaseFolder:
    """Paths of one phase of a run."""

    def __init__(self, runs_dir: str | Path, run: str, phase: str) -> None:
        self.path = Path(runs_dir) / run / phase
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"


def is_first_process() -> bool:
    """Whether this process is the one that was typed, or rank 0 of those that a launcher started together."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


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
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder} is in use by another process: wait for it, or choose another run=NAME") from error
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{folder} cannot be written ({error}): choose another runs_dir=DIR") from error
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write `text` beside `path`, then rename, so that the file appears whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_config(path: Path, config: object) -> None:
    """Keep the resolved configuration (a schema instance) as YAML."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(config)))
