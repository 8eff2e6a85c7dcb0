"""Which checkpoints a phase keeps: last.ckpt, best.ckpt, and images-COUNT.ckpt from inside the epochs."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from colorize.phases import SCORE, monitored

_KEPT = re.compile(r"images-(\d+)\.ckpt")
_PART = ".part"


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint beside its place and renames it, so that a name never stands for half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """As Lightning's, which would go by a temporary folder: renaming between file systems is copying."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}{_PART}")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


class Checkpoints(Checkpoint):
    """Writes last.ckpt after each epoch, best.ckpt after those with the lowest figure, and kept ones inside epochs.

    The figure is `colorize.phases.monitored`. Where it is the score, kept checkpoints compete for best.ckpt too. One
    that falls on the last batch of an epoch is not kept: a fit cannot be resumed from there without losing the epoch's
    figures, and last.ckpt follows at once.

    Args:
        folder: for the checkpoints.
        every_n_images: distance of the kept ones; None for none.
        keep: how many of them, the newest; None for all.
    """

    def __init__(self, folder: Path, every_n_images: int | None, keep: int | None) -> None:
        self.folder, self.every_n_images, self.keep = folder, every_n_images, keep
        self.best: float | None = None
        """The figure of best.ckpt."""

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            for half_written in self.folder.glob(f".*{_PART}"):
                half_written.unlink()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.every_n_images or not pl_module.passed(self.every_n_images) or trainer.is_last_batch:
            return
        if monitored(pl_module.config).startswith(f"{SCORE}/"):
            self.save_if_best(trainer, pl_module)
        self.save(trainer, f"images-{pl_module.images_seen}")
        if trainer.is_global_zero and self.keep:
            # What an earlier start left from further on is neither counted nor removed: it will be written anew.
            reached = {n: path for n, path in kept_in(self.folder).items() if n <= pl_module.images_seen}
            for count in sorted(reached)[: -self.keep]:
                reached[count].unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.save_if_best(trainer, pl_module)
        self.save(trainer, "last")

    def save_if_best(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write best.ckpt where the figure is lower than any before; the first one always is."""
        group, _, name = monitored(pl_module.config).partition("/")
        figure = pl_module.curve[-1][name] if group == SCORE else figure_of(trainer.callback_metrics, f"{group}/{name}")
        if self.best is None or figure < self.best:
            self.best = figure
            self.save(trainer, "best")

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Write NAME.ckpt."""
        trainer.save_checkpoint(self.folder / f"{name}.ckpt", weights_only=False)


def figure_of(metrics: Mapping[str, Any], name: str) -> float:
    """A figure that is lower where it is better; infinite where it is not there or is no number."""
    figure = float(metrics.get(name, math.inf))
    return math.inf if math.isnan(figure) else figure


def kept_in(folder: Path) -> dict[int, Path]:
    """The kept checkpoints of a folder, by the images that they have seen."""
    found = {path: _KEPT.fullmatch(path.name) for path in folder.glob("images-*.ckpt")}
    return {int(match[1]): path for path, match in found.items() if match}


def best_score(checkpoint: Path) -> float:
    """The figure of best.ckpt, as `checkpoint` of the same folder knows it."""
    callbacks = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["callbacks"]
    return float(callbacks[Checkpoints.__qualname__]["best"])
