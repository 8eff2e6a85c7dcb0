"""The folder of a run: where each phase keeps what, made and locked by us.

runs/NAME/{pretrain_gen,pretrain_critic,gan}/checkpoints/{last,best}.ckpt, runs/NAME/generated/, runs/NAME/gallery.png.
Run folders of their own have jobs of a sweep, runs/NAME/sweeps/LABEL/N, and later cycles, runs/NAME/cycle_2….
"""

import re
from itertools import count, takewhile
from pathlib import Path

from colorize.config import CommonConfig
from colorize.runtime.schema import BadOption

SPLIT_KEYS = ("seed", "data.kind", "data.root", "data.val_fraction", "data.scenes")
"""Keys that decide which photos there are, and which of them no step trains on."""


def run_name(config: CommonConfig) -> str:
    """Return the run as `run=…` names it, or the job of a sweep in it. Raises BadOption for half a job, a bad label."""
    label, job = config.sweep, config.job
    if label is None and job is None:
        return config.run
    if label is None or job is None:
        given, lacking = (f"sweep={label}", "job=N") if job is None else (f"job={job}", "sweep=LABEL")
        raise BadOption(f"{given}: give {lacking} too, to resume one job, or -m, which numbers the jobs itself")
    if label in ("", ".", "..") or Path(label).name != label:
        raise BadOption(f"sweep={label} is no name of a folder: a label has no /")
    return f"{config.run}/sweeps/{label}/{job}"


def run_folder(config: CommonConfig) -> Path:
    """Return the folder that `config` writes to; what it reads of earlier steps is stated in conf/."""
    return Path(config.runs_dir) / run_name(config)


def cycle_name(run: str, cycle: int) -> str:
    """Return the run that a cycle of the pipeline writes to, as `run=…` would name it; the first one's is `run`."""
    return run if cycle == 1 else f"{run}/cycle_{cycle}"


def cycles_in(run: Path) -> list[Path]:
    """Return the folders of a run's cycles, in order; `run`, which may not be there, is the first."""
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
    """Return the name that the version of `file` before the present one is kept under."""
    return file.with_name(f"{file.name}.before")


def kept_in(checkpoints: Path) -> dict[int, Path]:
    """Return the checkpoints that were kept inside epochs, images-COUNT.ckpt, by their count of images seen."""
    found = {path: re.fullmatch(r"images-(\d+)\.ckpt", path.name) for path in checkpoints.glob("images-*.ckpt")}
    return {int(match[1]): path for path, match in found.items() if match}
