"""Scalars of a fit: TensorBoard while it runs, metrics.csv with a row an epoch, both against images seen."""

import logging
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from colorize.data.resolution import ResolutionSchedule
from colorize.evaluation.stopping import OF_GREY, rank
from colorize.metrics import VALIDATED
from colorize.runtime import distributed
from colorize.runtime.files import csv_text, write_text
from colorize.training.phases import SCORE, VAL, VAL_EMA, monitored

log = logging.getLogger("colorize")

BEST = ("distance", *VALIDATED, "content", "critic_loss", "accuracy")
"""Scores that tell the best checkpoints of several runs apart: those that TensorBoard's HPARAMS tab opens with, being
the first in the alphabet."""


class Mean:
    """Running means of named scalar tensors, without waiting for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] += 1

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on: of several ranks, the means of their sums."""
        sums = {name: value.cpu() for name, value in self.sums.items()}
        if sums and distributed.world_size() > 1:
            totals = distributed.total([float(value) for value in sums.values()])
            sums = {name: torch.tensor(t / distributed.world_size()) for name, t in zip(sums, totals, strict=True)}
        return {"sums": sums, "counts": dict(self.counts)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.sums, self.counts = dict(state["sums"]), defaultdict(int, state["counts"])

    def take(self) -> dict[str, float]:
        """The means so far; starts anew."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, defaultdict(int)
        return means


class Monitor(L.Callback):
    """Writes every loss term, the rate of each group, sizes, speed and validation figures.

    `val/…` are the figures of each epoch (`val_ema/…` those of averaged weights), `score/…` those on the fixed photos,
    `best/…` those of best.ckpt so far: of the same kind as the figure that makes it, see `training.phases.monitored`.

    The x-axis is images seen, since neither Lightning's step (it counts each optimizer's) nor the batch (its size
    changes) means the same thing throughout a fit. Figures in TensorBoard are means since the last point, on rank 0.
    metrics.csv has one row an epoch; a resumed fit keeps the rows of the epochs that its checkpoint knows, and the
    means of an epoch that was resumed within cover all of it.
    """

    def __init__(self, schedule: ResolutionSchedule, table: Path, every_n_steps: int) -> None:
        self.schedule, self.table, self.every_n_steps = schedule, table, every_n_steps
        self.recent, self.epoch = Mean(), Mean()
        self.rows: list[dict[str, Any]] = []
        self.start_clock()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "recent": self.recent.state(), "epoch": self.epoch.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        for name, mean in (("recent", self.recent), ("epoch", self.epoch)):
            if name in state_dict:  # not yet in checkpoints of format 1's first days, all of an epoch's end
                mean.restore(state_dict[name])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start_clock()  # the start of an epoch that is resumed within is not announced
        if trainer.is_global_zero:
            self.write_table()  # without the rows that an earlier start had got to

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start_clock()

    def start_clock(self) -> None:
        """From here on `lap` counts."""
        self.waited_since, self.images_since = time.perf_counter(), 0
        self.seconds, self.images = 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.recent.add(outputs)
        self.epoch.add(outputs)
        self.images_since += len(batch.rgb) * trainer.world_size
        if (batch_idx + 1) % self.every_n_steps == 0 or trainer.is_last_batch:
            stage = self.schedule.at(trainer.current_epoch)
            scalars = self.recent.take() | pl_module.rates() | {"speed/images_per_s": self.lap()}
            scalars |= {f"data/{name}": value for name, value in stage._asdict().items()}
            scalars["data/epoch"] = trainer.current_epoch
            self.write(trainer, pl_module, scalars)
            total = {name.split("/")[0]: v for name, v in scalars.items() if name in ("generator/total", "critic/loss")}
            pl_module.log_dict(total, prog_bar=True, logger=False)

    def lap(self) -> float:
        """Images per second since the last lap, waiting for data included."""
        now = time.perf_counter()
        seconds, images = now - self.waited_since, self.images_since
        self.seconds, self.images = self.seconds + seconds, self.images + images
        self.waited_since, self.images_since = now, 0
        return images / max(seconds, 1e-9)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.write(trainer, pl_module, validation_figures(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        stage = self.schedule.at(trainer.current_epoch)
        terms = {
            name: float(trainer.strategy.reduce(torch.tensor(value, device=pl_module.device), reduce_op="mean"))
            for name, value in self.epoch.take().items()
        }
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "images_seen": pl_module.images_seen,
                "size_px": stage.size_px,
                "batch_size": stage.batch_size,
                **terms,
                **validation_figures(trainer),
                **(scored(pl_module.curve[-1]) if pl_module.curve else {}),
                **pl_module.rates(),
                "images_per_s": self.images / max(self.seconds, 1e-9),
            }
        )
        self.write(trainer, pl_module, self.best_figures(monitored(pl_module.config), pl_module.curve))
        if trainer.is_global_zero:
            self.say(trainer)
            self.write_table()

    def write_table(self) -> None:
        """Write metrics.csv; remove it where there is nothing to write yet."""
        if not self.rows:
            self.table.unlink(missing_ok=True)
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        write_text(self.table, csv_text([columns, *([row.get(name) for name in columns] for row in self.rows)]))

    def best_figures(self, figure: str, curve: list[dict[str, float]]) -> dict[str, float]:
        """{"best/…": …} where `figure` is lowest: in an epoch or, for a score, at the point after a step to take."""
        group, _, _ = figure.partition("/")
        rows = self.rows
        if group == SCORE:
            points = (point for point in curve if point["images_seen"])
            rows = [scored(point) for point in sorted(points, key=lambda point: rank(point, curve[0]))][:1]
        rows = [row for row in rows if math.isfinite(row.get(figure, math.nan))]
        best = min(rows, key=lambda row: row[figure], default={})
        return {f"best/{name}": best[f"{group}/{name}"] for name in BEST if f"{group}/{name}" in best}

    def say(self, trainer: L.Trainer) -> None:
        """One line an epoch, for logs without a progress bar."""
        row = self.rows[-1]
        validated = ("content", "ciede2000", "skill", "critic_loss", "accuracy", "region/mean")
        figures = [*(f"{VAL}/{name}" for name in validated), f"{SCORE}/distance", f"{SCORE}/skill"]
        shown = [f"{name} {row[name]:.4g}" for name in figures if name in row]
        log.info(
            f"epoch {row['epoch'] + 1} of {trainer.max_epochs}, {row['size_px']} px: {', '.join(shown)}; "
            f"{row['images_per_s']:.3g} images/s"
        )

    def write(self, trainer: L.Trainer, pl_module: Any, scalars: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=pl_module.images_seen)


def validation_figures(trainer: L.Trainer) -> dict[str, float]:
    """The latest `val/…` and `val_ema/…` figures, as plain numbers."""
    groups = (f"{VAL}/", f"{VAL_EMA}/")
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(groups)}


def scored(point: dict[str, float]) -> dict[str, float]:
    """A point of the module's curve, as `score/…`."""
    return {
        f"{SCORE}/{name}": value
        for name, value in point.items()
        if name != "images_seen" and not name.startswith(OF_GREY)
    }
