"""The folder of a run: where each phase keeps what, made and locked by us.

runs/NAME/{pretrain_gen,pretrain_critic,gan}/checkpoints/{last,best}.ckpt, runs/NAME/generated/, runs/NAME/gallery.png.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from colorize.errors import UserError


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
